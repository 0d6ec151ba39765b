CREATE FUNCTION cqrs.http_validator(options text[], catalog oid) RETURNS void
    LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'cqrs_http_validator';
COMMENT ON FUNCTION cqrs.http_validator(text[], oid) IS
    'Internal: checks the options of servers and user mappings of the foreign-data wrapper cqrs_http.';

CREATE FOREIGN DATA WRAPPER cqrs_http VALIDATOR cqrs.http_validator;
COMMENT ON FOREIGN DATA WRAPPER cqrs_http IS
    'HTTP services that cqrs.call reaches: a server is a service, a user mapping has the credentials of a role there.';
