-- All clients append as in append_new while a reader follows the journal: how
-- many events does it miss, or read twice? What is below is the reader.
-- case: missed
-- kind: follow
CREATE TEMP TABLE seen (position bigint);

CREATE PROCEDURE pg_temp.follow(journal regclass, query text) LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
    last bigint;
    batch bigint[];
    finished boolean;
    appended bigint;
    missed bigint;
    twice bigint;
BEGIN
    EXECUTE format('SELECT max(position) FROM %s', journal) INTO first;
    last := first;
    LOOP
        COMMIT;
        finished := to_regclass('writers_finished') IS NOT NULL;
        EXECUTE format('SELECT array_agg(position) FROM (%s) e', query) INTO batch USING last;
        EXIT WHEN finished AND batch IS NULL;
        INSERT INTO seen SELECT unnest(batch);
        last := coalesce(batch[cardinality(batch)], last);
    END LOOP;
    SELECT count(*) - count(DISTINCT position) INTO twice FROM seen;
    EXECUTE format('SELECT count(*), count(*) FILTER (WHERE s.position IS NULL)
                    FROM %s j LEFT JOIN (SELECT DISTINCT position FROM seen) s USING (position)
                    WHERE position > $1', journal) INTO appended, missed USING first;
    RAISE NOTICE '% of % missed, % read twice', missed, appended, twice;
END $$;
-- peer: plain
CALL pg_temp.follow('journal', 'SELECT position FROM journal WHERE position > $1 ORDER BY position LIMIT 1000');
-- peer: cqrs
CALL pg_temp.follow('cqrs.journal', 'SELECT position FROM cqrs.read_events($1, 1000)');
-- peer: message_db
CREATE TEMP VIEW journal AS SELECT global_position AS position FROM message_store.messages;
CALL pg_temp.follow('pg_temp.journal', 'SELECT global_position AS position FROM get_category_messages(''account'', $1 + 1, 1000)');
-- peer: emmett
-- The query of its consumer, which goes on after the last position that it got.
CREATE TEMP VIEW journal AS SELECT global_position AS position FROM emt_messages;
CALL pg_temp.follow('pg_temp.journal', 'SELECT global_position AS position FROM emt_messages
    WHERE partition = ''emt:default'' AND is_archived = FALSE AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    AND global_position >= $1 + 1 ORDER BY transaction_id, global_position LIMIT 1000');
