CREATE FUNCTION cqrs.guard_journal() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'cqrs_guard_journal';
COMMENT ON FUNCTION cqrs.guard_journal() IS
    'Trigger function: refuses UPDATE, DELETE and TRUNCATE (SQLSTATE 55000) unless cqrs.allow_journal_changes is on; then it keeps all writers out until the transaction ends.';
