-- Services are foreign servers of cqrs_http: their options are checked when they are set, a wrong one is told what would be
-- right, secrets are no options of servers, and what names files takes a superuser.
\set SHOW_CONTEXT never
CREATE ROLE regress_services_owner;
CREATE ROLE regress_services_user;

-- The least is a URL; all options have units of PostgreSQL.
CREATE SERVER least FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://billing.internal');
CREATE SERVER most FOREIGN DATA WRAPPER cqrs_http OPTIONS (
    url 'http://user-service:8080/api/v1/', allow_http 'true', call_timeout '250ms', connect_timeout '1s', max_concurrency '20',
    max_response_size '2MB', sslrootcert '/etc/ssl/ca.crt', breaker 'off', max_failures '3', reset_timeout '1min',
    max_reset_timeout '1h', backoff_factor '2', jitter '0.2', failure_statuses '5xx, 429');
CREATE USER MAPPING FOR PUBLIC SERVER most OPTIONS (
    bearer_token 't', signing_secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', header_x_api_key 'k', "header_x-other" 'o', sslcert '/etc/ssl/c.crt', sslkey '/etc/ssl/c.key');
CREATE USER MAPPING FOR regress_services_user SERVER most OPTIONS (user 'u', password 'p:p');

-- What a command raises; it leaves nothing behind. What is wrong with a URL is said. Neither a URL nor what is in a mapping is quoted.
CREATE FUNCTION try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'accepted' USING ERRCODE = '00001';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    -- What begins with a capital is said by libcurl, each release of which has other words.
    hint := regexp_replace(hint, 'What is wrong: [A-Z].*', 'What is wrong: (libcurl''s words).');
    RETURN concat_ws(E'\n    ', SQLSTATE || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''));
END
$$;
CREATE FUNCTION try_server(options text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN try(format('CREATE SERVER tried FOREIGN DATA WRAPPER cqrs_http %s', 'OPTIONS (' || nullif(options, '') || ')'));
END
$$;
CREATE FUNCTION try_mapping(options text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN try(format('CREATE USER MAPPING FOR PUBLIC SERVER least OPTIONS (%s)', options));
END
$$;
\pset format unaligned
\pset tuples_only on
SELECT url || E'\n  ' || try_server(format('url %L', url)) FROM (VALUES
    (''), ('billing'), ('billing.internal/api'), ('//billing'), ('https://'), ('ftp://billing'), ('file:///etc/passwd'), ('gopher://billing'),
    ('http://billing'), ('https://me@billing'), ('https://me:secret@billing'), ('https://billing?x=1'), ('https://billing/#top'),
    ('https://billing/../api'), ('https://billing/a/%2e%2E/b'), ('https://billing/..;x/api'), ('https://billing/a/%2E%3b/b'), ('https://billing/a;../b'), ('https://billing/a b'), (E'https://billing/a\nb'), ('https://billing:99999'), ('https://bil ling')) v (url);
SELECT options || E'\n  ' || try_server(options) FROM (VALUES
    (''), ('call_timeout ''1s'''), ('url ''https://b'', call_timout ''1s'''), ('url ''https://b'', zzz ''1'''), ('url ''https://b'', "URL" ''https://b'''),
    ('url ''https://b'', bearer_token ''t'''), ('url ''https://b'', header_x ''t'''),
    ('url ''https://b'', call_timeout ''0'''), ('url ''https://b'', call_timeout ''-1s'''), ('url ''https://b'', call_timeout ''1 week'''),
    ('url ''https://b'', call_timeout ''1MB'''), ('url ''https://b'', call_timeout ''soon'''), ('url ''https://b'', call_timeout ''100d'''),
    ('url ''https://b'', max_failures ''0'''), ('url ''https://b'', max_failures ''1.5x'''), ('url ''https://b'', max_response_size ''1GB'''), ('url ''https://b'', max_response_size ''0'''),
    ('url ''https://b'', backoff_factor ''0.5'''), ('url ''https://b'', backoff_factor ''NaN'''), ('url ''https://b'', jitter ''1.1'''), ('url ''https://b'', jitter ''x'''),
    ('url ''https://b'', breaker ''maybe'''), ('url ''https://b'', allow_http ''maybe'''), ('url ''https://b'', max_concurrency ''-1'''),
    ('url ''https://b'', failure_statuses '''''), ('url ''https://b'', failure_statuses ''6xx'''), ('url ''https://b'', failure_statuses ''5xx,,4xx'''),
    ('url ''https://b'', event_source '''''), ('url ''https://b'', event_source ''/a b'''), ('url ''https://b'', event_source ''/ä'''), ('url ''https://b'', event_source ''urn:x:a%20b'''),
    ('url ''https://b'', failure_statuses ''teapot'''), ('url ''https://b'', sslrootcert ''''')) v (options);
SELECT options || E'\n  ' || try_mapping(options) FROM (VALUES
    ('url ''https://b'''), ('bearer ''t'''), ('passwort ''t'''), ('bearer_token ''t'', user ''u'''), ('bearer_token '''''), ('bearer_token E''secret\r\nX-Evil: 1'''),
    ('user ''a:secret'''), ('header_host ''secret'''), ('"header_" ''secret'''), ('"header_a b" ''secret'''), ('header_x E''secret\nX-Evil: 1'''),
    ('header_content_length ''1'''), ('signing_secret ''s'''), ('signing_secret '''''), ('signing_secret ''MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'''),
    ('signing_secret ''whsec_'''), ('signing_secret ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS='''), ('signing_secret ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!!'''),
    ('signing_secret ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw  whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'''),
    ('signing_secret ''whsec_' || repeat('A', 88) || ''''), ('signing_secret ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'', header_webhook_id ''1'''),
    ('signing_secret ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_' || repeat('A', 84) || 'AA==''')) v (options);
SELECT try('ALTER SERVER least OPTIONS (DROP url)');
SELECT try('ALTER SERVER least OPTIONS (SET url ''http://billing.internal'')');
SELECT try('ALTER SERVER least OPTIONS (ADD allow_http ''on'', SET url ''http://billing.internal'')');
SELECT try('ALTER FOREIGN DATA WRAPPER cqrs_http OPTIONS (url ''https://b'')');
\pset tuples_only off
\pset format aligned

-- Who makes servers needs USAGE on the wrapper, which nobody has; who may use a server may make a mapping for himself, without files.
SET ROLE regress_services_owner;
CREATE SERVER other FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://other');
RESET ROLE;
GRANT USAGE ON FOREIGN DATA WRAPPER cqrs_http TO regress_services_owner;
SET ROLE regress_services_owner;
CREATE SERVER other FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://other', sslrootcert '/etc/passwd');
CREATE SERVER other FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'https://other');
GRANT USAGE ON FOREIGN SERVER other TO regress_services_user;
SET ROLE regress_services_user;
CREATE USER MAPPING FOR regress_services_user SERVER other OPTIONS (sslkey '/etc/ssl/private/key');
CREATE USER MAPPING FOR regress_services_user SERVER other OPTIONS (bearer_token 'secret');
RESET ROLE;

SET client_min_messages = warning;
DROP SERVER least, most, other CASCADE;
DROP FUNCTION try_server, try_mapping, try;
DROP OWNED BY regress_services_owner, regress_services_user;
DROP ROLE regress_services_owner, regress_services_user;
