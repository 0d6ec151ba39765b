CREATE FUNCTION cqrs.project() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'cqrs_project';
COMMENT ON FUNCTION cqrs.project() IS
    'Trigger function of sync projections, on cqrs.journal; its argument is the projection. Projects what cqrs.append and cqrs.send write, and not what a restore loads.';
