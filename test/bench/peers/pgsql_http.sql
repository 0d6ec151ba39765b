-- pgsql-http, which calls a service from a backend.
CREATE EXTENSION http;
