-- The high-water mark stays below every position whose transaction is still open, prepared ones too, never goes back,
-- and passes what was rolled back: a reader that follows it misses nothing and sees nothing twice.

-- Positions are shown as the distance from the last one before this test.
SELECT cqrs.create_journal();
SELECT cqrs.last_position() AS start \gset
SELECT position - :start AS at FROM cqrs.append('Position', 'a', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('B', '{}')]);
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;

-- While a transaction is open, the mark stays below what it drew first; it knows who holds it.
BEGIN;
SELECT count(*) FROM cqrs.open_positions();
SELECT position - :start AS at FROM cqrs.append('Position', 'b', ARRAY[cqrs.new_event('A', '{}')]);
SELECT first_position - :start AS first, pid = pg_backend_pid() AS mine, transaction FROM cqrs.open_positions();
SELECT position - :start AS at FROM cqrs.append('Position', 'c', ARRAY[cqrs.new_event('A', '{}')]);
SELECT first_position - :start AS first, pid = pg_backend_pid() AS mine, transaction FROM cqrs.open_positions();
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark;
COMMIT;
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;

-- A rollback leaves a gap, which the mark passes; so does a savepoint's, when the transaction ends.
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'b', ARRAY[cqrs.new_event('A', '{}'), cqrs.new_event('A', '{}')]);
ROLLBACK;
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
BEGIN;
SAVEPOINT s;
SELECT position - :start AS at FROM cqrs.append('Position', 'b', ARRAY[cqrs.new_event('A', '{}')]);
ROLLBACK TO s;
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
SELECT position - :start AS at FROM cqrs.append('Position', 'b', ARRAY[cqrs.new_event('A', '{}')]);
COMMIT;
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
SELECT position - :start AS at, entity_id, version FROM cqrs.read_events(:start);
-- An append that fails draws nothing, or at least holds nothing.
SELECT position FROM cqrs.append('Position', 'b', ARRAY[cqrs.new_event('A', '{}')], 77);
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
-- A transaction that only reads, or writes elsewhere, holds nothing.
BEGIN ISOLATION LEVEL SERIALIZABLE;
CREATE TEMPORARY TABLE other AS SELECT count(*) FROM cqrs.journal;
SELECT (SELECT count(*) FROM cqrs.history('Position', 'a')), (SELECT count(*) FROM cqrs.open_positions());
COMMIT;


-- Prepared transactions: two of them, and one that commits in between.
SELECT cqrs.last_position() AS start \gset
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'p1', ARRAY[cqrs.new_event('P1', '{}')]);
PREPARE TRANSACTION 'regress_position_1';
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark;
SELECT first_position - :start AS first, pid, o.transaction = p.transaction AS right_transaction
FROM cqrs.open_positions() o, pg_prepared_xacts p WHERE p.gid = 'regress_position_1';
SELECT position - :start AS at FROM cqrs.append('Position', 'between', ARRAY[cqrs.new_event('Between', '{}')]);
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'p2', ARRAY[cqrs.new_event('P2', '{}'), cqrs.new_event('P2', '{}')]);
PREPARE TRANSACTION 'regress_position_2';
SELECT position - :start AS at FROM cqrs.append('Position', 'after', ARRAY[cqrs.new_event('After', '{}')]);
-- Nothing is read past the first of them, though the journal holds later ones.
SELECT position - :start AS at, event_type FROM cqrs.journal WHERE position > :start ORDER BY position;
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark;
SELECT count(*) FROM cqrs.read_events(:start);
SELECT first_position - :start AS first, pid FROM cqrs.open_positions() ORDER BY 1;
-- Who waits is told who does not come.
DO $$
DECLARE
    mark bigint := cqrs.high_water_mark();
    detail text;
BEGIN
    PERFORM cqrs.wait_for_event(mark, '1 ms');
EXCEPTION WHEN SQLSTATE 'QR020' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '%', regexp_replace(replace(detail, format('mark is %s', mark), 'mark is N'), '\d+\.', format('N + %s.', cqrs.last_position() - mark));
END
$$;
-- Its entity waits for it: a writer of the same one does, and says for what.
SET lock_timeout = '10 ms';
SELECT version FROM cqrs.append('Position', 'p1', ARRAY[cqrs.new_event('A', '{}')]);
\echo :LAST_ERROR_SQLSTATE
RESET lock_timeout;
-- The second ends first; it is seen when the first has ended too.
COMMIT PREPARED 'regress_position_2';
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
SELECT count(*) FROM cqrs.read_events(:start);
COMMIT PREPARED 'regress_position_1';
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
SELECT position - :start AS at, event_type FROM cqrs.read_events(:start);
SELECT version FROM cqrs.append('Position', 'p1', ARRAY[cqrs.new_event('A', '{}')], 1);
-- A prepared one that is rolled back lets the mark pass; one that appended nothing never held it.
SELECT cqrs.last_position() AS start \gset
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'p1', ARRAY[cqrs.new_event('P3', '{}')], 2);
PREPARE TRANSACTION 'regress_position_3';
BEGIN;
CREATE TABLE position_test (a integer);
PREPARE TRANSACTION 'regress_position_4';
SELECT cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
ROLLBACK PREPARED 'regress_position_3';
SELECT cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
ROLLBACK PREPARED 'regress_position_4';
SELECT version FROM cqrs.append('Position', 'p1', ARRAY[cqrs.new_event('A', '{}')], 2);
-- A prepared one that drew positions in a savepoint it took back holds them until it ends.
SELECT cqrs.last_position() AS start \gset
BEGIN;
SAVEPOINT s;
SELECT position - :start AS at FROM cqrs.append('Position', 'p1', ARRAY[cqrs.new_event('P5', '{}')]);
ROLLBACK TO s;
PREPARE TRANSACTION 'regress_position_5';
SELECT cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
COMMIT PREPARED 'regress_position_5';
SELECT cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
-- Many at once, and a failing PREPARE.
SELECT cqrs.last_position() AS start \gset
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'p6', ARRAY[cqrs.new_event('P6', '{}')]);
PREPARE TRANSACTION 'regress_position_6';
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'p7', ARRAY[cqrs.new_event('P7', '{}')]);
PREPARE TRANSACTION 'regress_position_6';
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
BEGIN;
SELECT position - :start AS at FROM cqrs.append('Position', 'p7', ARRAY[cqrs.new_event('P7', '{}')]);
CREATE TEMPORARY TABLE hinders (a integer);
PREPARE TRANSACTION 'regress_position_7';
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
COMMIT PREPARED 'regress_position_6';
SELECT cqrs.last_position() - :start AS last, cqrs.high_water_mark() - :start AS mark, (SELECT count(*) FROM cqrs.open_positions()) AS open;
SELECT position - :start AS at, entity_id, event_type FROM cqrs.read_events(:start);

-- The mark is above every position a reader got, and another session has the same.
SELECT max(position) <= cqrs.high_water_mark() AS above FROM cqrs.read_events(0, 2147483647);
SELECT cqrs.high_water_mark() AS mark \gset
\c -
SELECT cqrs.high_water_mark() = :mark AS same, cqrs.last_position() = :mark AS last;
