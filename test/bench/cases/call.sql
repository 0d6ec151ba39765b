-- A GET from a session to a service on this machine, over a connection that is kept.
-- case: call
-- goal: 1.2
-- peer: pgsql_http
-- set: http.keepalive=on
SELECT status, content FROM http_get('http://127.0.0.1:' || :port || '/');
-- peer: cqrs
SELECT status, content FROM cqrs.call('echo', 'GET', '/');
