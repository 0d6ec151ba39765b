-- A call that the open circuit breaker refuses, the error caught in PL/pgSQL.
-- case: fail_fast
-- goal_us: 20
-- peer: limit
SELECT 1;
-- peer: cqrs
SELECT call_down();
