-- The journal is used past the executor as long as it is what cqrs.create_journal() made. Whatever people add to it keeps
-- its effect, and makes no difference to what is stored and read.
\set SHOW_CONTEXT never

SELECT cqrs.create_journal();
CREATE TABLE seen (step text, entity_id text, version bigint);
-- One event, then many, then the last one found again; a wrong version; and all of it read in four ways.
CREATE PROCEDURE append_and_read(step text) LANGUAGE plpgsql AS $$
DECLARE
    after bigint := cqrs.high_water_mark();
BEGIN
    PERFORM cqrs.append('Table', step, ARRAY[cqrs.new_event('First', '{"n": 1}')], 0);
    PERFORM cqrs.append('Table', step, ARRAY(SELECT cqrs.new_event('Next', jsonb_build_object('n', n)) FROM generate_series(2, 150) n), 1);
    COMMIT;
    PERFORM cqrs.append('Table', step, ARRAY[cqrs.new_event('Last', '{"n": 151}')], -4);
    COMMIT;
    BEGIN
        PERFORM cqrs.append('Table', step, ARRAY[cqrs.new_event('Wrong', '{}')], 150);
    EXCEPTION WHEN SQLSTATE 'QR001' THEN
        RAISE NOTICE '%: %', step, SQLERRM;
    END;
    RAISE NOTICE '%: table %, by index %, history %, read_events %', step,
        (SELECT (count(*), sum((data ->> 'n')::int), max(version)) FROM cqrs.journal WHERE entity_id || '' = step),
        (SELECT (count(*), sum((data ->> 'n')::int), max(version)) FROM cqrs.journal WHERE entity_type = 'Table' AND entity_id = step),
        (SELECT (count(*), sum((data ->> 'n')::int), max(version)) FROM cqrs.history('Table', step)),
        (SELECT (count(*), sum((data ->> 'n')::int), max(version)) FROM cqrs.read_events(after));
END $$;
CALL append_and_read('as it was made');

-- Another index has its entries.
CREATE INDEX by_type ON cqrs.journal (event_type, position);
CALL append_and_read('one index more');
SET enable_seqscan = off;
SELECT count(*) FROM cqrs.journal WHERE event_type = 'Last';
RESET enable_seqscan;
DROP INDEX cqrs.by_type;

-- An index on an expression, and one on some of the rows; both refuse what is there already.
CREATE UNIQUE INDEX by_expression ON cqrs.journal ((data ->> 'once'));
CALL append_and_read('an index on an expression');
SELECT version FROM cqrs.append('Table', 'once', ARRAY[cqrs.new_event('A', '{"once": "x"}')]);
SELECT version FROM cqrs.append('Table', 'again', ARRAY[cqrs.new_event('A', '{"once": "x"}')]);
DROP INDEX cqrs.by_expression;
CREATE UNIQUE INDEX by_part ON cqrs.journal (entity_type) WHERE event_type = 'Only';
SELECT version FROM cqrs.append('Table', 'only', ARRAY[cqrs.new_event('Only', '{}')]);
SELECT version FROM cqrs.append('Table', 'only again', ARRAY[cqrs.new_event('Only', '{}')]);
CALL append_and_read('an index on some rows');
DROP INDEX cqrs.by_part;

-- Constraints.
ALTER TABLE cqrs.journal ADD CONSTRAINT small CHECK (octet_length(data::text) < 100) NOT VALID;
CALL append_and_read('a check');
\set VERBOSITY sqlstate
SELECT version FROM cqrs.append('Table', 'large', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('A', to_jsonb(repeat('x', 100)))]);
\set VERBOSITY default
ALTER TABLE cqrs.journal DROP CONSTRAINT small;
SELECT version FROM cqrs.append('Table', 'large', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('A', to_jsonb(repeat('x', 100)))]);

-- Triggers of each kind fire; a rule rewrites.
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        INSERT INTO public.seen VALUES (TG_NAME, NEW.entity_id, NEW.version);
    ELSE
        INSERT INTO public.seen VALUES (TG_NAME);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER a_row_trigger AFTER INSERT ON cqrs.journal FOR EACH ROW EXECUTE FUNCTION see();
CALL append_and_read('a trigger for rows');
DROP TRIGGER a_row_trigger ON cqrs.journal;
CREATE TRIGGER a_statement_trigger BEFORE INSERT ON cqrs.journal FOR EACH STATEMENT EXECUTE FUNCTION see();
CALL append_and_read('a trigger for statements');
DROP TRIGGER a_statement_trigger ON cqrs.journal;
CREATE RULE a_rule AS ON INSERT TO cqrs.journal DO ALSO INSERT INTO seen VALUES ('a_rule', NEW.entity_id, NEW.version);
CALL append_and_read('a rule');
DROP RULE a_rule ON cqrs.journal;
SELECT step, count(*), count(DISTINCT version), max(version) FROM seen GROUP BY step ORDER BY step;
CALL append_and_read('as it was made, again');
SELECT count(*) FROM seen WHERE entity_id = 'as it was made, again';

-- Large events and many of them: rows are written some at a time.
SELECT version FROM cqrs.append('Table', 'heavy', ARRAY(SELECT cqrs.new_event('A', jsonb_build_object('n', n, 'x', repeat(md5(n::text), 2000)))
                                                        FROM generate_series(1, 200) n));
SELECT count(*), sum(length(data ->> 'x')), bool_and(left(data ->> 'x', 32) = md5(version::text)) FROM cqrs.history('Table', 'heavy');
SELECT count(*), sum(length(data ->> 'x')) FROM cqrs.read_events(0, 1000000) WHERE entity_id = 'heavy';

-- Without an index in its order the journal is read by a statement.
ALTER TABLE cqrs.journal DROP CONSTRAINT journal_position_key;
CALL append_and_read('no index by position');
ALTER TABLE cqrs.journal ADD CONSTRAINT journal_position_key UNIQUE (position);
CALL append_and_read('all indexes again');

-- What one statement writes the next one sees, and a rollback takes it back.
BEGIN;
SELECT version FROM cqrs.append('Table', 'undone', ARRAY[cqrs.new_event('A', '{}')]);
SAVEPOINT s;
SELECT version FROM cqrs.append('Table', 'undone', ARRAY[cqrs.new_event('A', '{}')], 1);
ROLLBACK TO s;
SELECT version FROM cqrs.append('Table', 'undone', ARRAY[cqrs.new_event('B', '{}')], 1);
SELECT version, event_type FROM cqrs.history('Table', 'undone');
ROLLBACK;
SELECT count(*) FROM cqrs.history('Table', 'undone');

-- Rows that are dead for everybody are passed over, and stay so while others are folded whose data is larger than a page.
SELECT cqrs.create_entity('Table', after_forget => 'follow', snapshot_every => 0), cqrs.on_event('Table', '*', 'cqrs.merge');
SELECT version FROM cqrs.append('Table', 'forgotten', ARRAY(SELECT cqrs.new_event('Old', '{}') FROM generate_series(1, 20)));
SELECT cqrs.forget('Table', 'forgotten');
SELECT version FROM cqrs.append('Table', 'forgotten', ARRAY(
    SELECT cqrs.new_event('New', jsonb_build_object(n, (SELECT string_agg(md5(n || ' ' || i), '') FROM generate_series(1, 400) i))) FROM generate_series(1, 5) n));
\c
SELECT length(cqrs.state('Table', 'forgotten')::text);
SELECT cqrs.drop_entity('Table');

DROP PROCEDURE append_and_read;
DROP FUNCTION see;
DROP TABLE seen;
