-- Tries a condition until it is met, for a minute, and says whether it was. For tests, by \i.
CREATE FUNCTION wait_until(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    met boolean;
BEGIN
    FOR i IN 1 .. 6000 LOOP
        PERFORM pg_stat_clear_snapshot();
        EXECUTE 'SELECT ' || condition INTO met;
        IF met THEN
            RETURN 'met';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still not met';
END
$$;
