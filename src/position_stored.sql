-- Not dumped: it is about this server's journal.
CREATE TABLE cqrs.stored_mark (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL
);
COMMENT ON TABLE cqrs.stored_mark IS
    'The high-water mark as standbys see it; written by a worker of the primary at most every 100 ms, with cqrs.store_mark.';
