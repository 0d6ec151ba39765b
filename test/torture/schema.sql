-- What is tortured. Every event has a tag of its own and an amount; a state, and a read model's row, is a count, a sum and a
-- chain: a hash of all tags in their order, which no lost, doubled or misplaced event leaves as it was.
CREATE EXTENSION pg_cqrs;

-- How often the projection "flawed" fails.
CREATE TABLE flaw (rate float8 NOT NULL);
INSERT INTO flaw VALUES (0);

CREATE FUNCTION fold(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_build_object(
		'count', (state ->> 'count')::bigint + 1,
		'sum', (state ->> 'sum')::bigint + coalesce((event.data ->> 'amount')::bigint, 0),
		'chain', md5((state ->> 'chain') || (event.data ->> 'tag')))
$$;

-- Each answer has the state that the command met.
CREATE FUNCTION decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
DECLARE
	data jsonb := command.data;
	met jsonb := jsonb_build_object('version', command.version, 'count', state -> 'count', 'chain', state -> 'chain');
BEGIN
	CASE command.command_type
		WHEN 'Add' THEN
			RETURN cqrs.persist_all(
				(SELECT array_agg(cqrs.new_event('Added', jsonb_set(data, '{tag}', to_jsonb((data ->> 'tag') || '.' || n))) ORDER BY n)
				 FROM generate_series(0, (data ->> 'events')::int - 1) n), met);
		WHEN 'Refuse' THEN
			RETURN cqrs.reject('refused');
		WHEN 'Pay' THEN
			RETURN cqrs.persist('Paid', data || jsonb_build_object('delivery', cqrs.enqueue('flaky', 'POST', data ->> 'path', data,
				ordering_key => data ->> 'key', reply_entity_type => 'Account', reply_entity_id => data ->> 'to',
				reply_command => 'Confirm', failure_command => 'Fail')), met);
		WHEN 'Later' THEN
			RETURN cqrs.persist('Scheduled', data || jsonb_build_object('timer', cqrs.schedule(
				clock_timestamp() + (data ->> 'after')::interval, 'Account', data ->> 'to', 'Fire',
				jsonb_build_object('tag', 'fire-' || (data ->> 'tag')))), met);
		WHEN 'Fire' THEN
			RETURN cqrs.persist('Fired', data);
		WHEN 'Echo' THEN
			RETURN cqrs.persist('Echoed', data);
		WHEN 'Confirm', 'Fail' THEN
			RETURN cqrs.persist(command.command_type || 'ed', jsonb_build_object('tag', 'reply-' || (data ->> 'delivery')));
	END CASE;
END
$$;

CREATE FUNCTION create_type(name text, snapshot_every int) RETURNS void LANGUAGE sql AS $$
	SELECT cqrs.create_entity(name, '{"count": 0, "sum": 0, "chain": ""}', snapshot_every);
	SELECT cqrs.on_command(name, '*', 'decide');
	SELECT cqrs.on_event(name, '*', 'fold');
$$;
SELECT create_type('Account', 10), create_type('Echo', 0), create_type('Fleeting', 3);

-- A table and two handlers, of one event and of a batch, for each projection.
CREATE FUNCTION create_model(name text) RETURNS void LANGUAGE plpgsql AS $create$
BEGIN
	EXECUTE format($$
		CREATE TABLE %1$I (entity_type text, entity_id text, count bigint, sum bigint, chain text, version bigint,
			PRIMARY KEY (entity_type, entity_id));
		CREATE FUNCTION %2$I(event cqrs.event) RETURNS void LANGUAGE sql AS
			'INSERT INTO %1$I AS m VALUES (event.entity_type, event.entity_id, 1, coalesce((event.data ->> ''amount'')::bigint, 0),
				md5(event.data ->> ''tag''), event.version)
			 ON CONFLICT (entity_type, entity_id) DO UPDATE SET count = m.count + 1, sum = m.sum + excluded.sum,
				chain = md5(m.chain || (event.data ->> ''tag'')), version = excluded.version';
		CREATE FUNCTION %2$I(events cqrs.event[]) RETURNS void LANGUAGE plpgsql AS
			'DECLARE event cqrs.event; BEGIN FOREACH event IN ARRAY events LOOP PERFORM %2$I(event); END LOOP; END'
	$$, 'model_' || name, 'project_' || name);
END
$create$;
SELECT create_model(name) FROM unnest('{sync_row,sync_set,plain,split,flawed,picky,rebuilt,changing}'::text[]) name;

CREATE FUNCTION project_with_flaws(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM project_flawed(event);
	IF random() < (SELECT rate FROM flaw) THEN
		RAISE 'a flaw';
	END IF;
END
$$;

CREATE FUNCTION echo(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF event.data ? 'echo' THEN
		PERFORM cqrs.send('Echo', 'echo-' || event.slice % 5, 'Echo', jsonb_build_object('tag', 'echo-' || (event.data ->> 'tag')));
	END IF;
END
$$;

CREATE FUNCTION create_changing(mode text) RETURNS void LANGUAGE sql AS $$
	DELETE FROM model_changing;
	SELECT cqrs.create_projection('changing', 'project_changing(cqrs.event)', entity_types => '{Fleeting}', mode => mode,
		tables => '{model_changing}');
$$;
SELECT cqrs.create_projection('sync_row', 'project_sync_row(cqrs.event)', mode => 'sync'),
	cqrs.create_projection('sync_set', 'project_sync_set(cqrs.event[])', mode => 'sync'),
	cqrs.create_projection('plain', 'project_plain(cqrs.event)', batch_size => 50),
	cqrs.create_projection('split', 'project_split(cqrs.event[])', partitions => 4),
	cqrs.create_projection('flawed', 'project_with_flaws', max_retries => 1, max_parked => 1000000),
	cqrs.create_projection('picky', 'project_picky(cqrs.event)', entity_types => '{Account}', event_types => '{Added}'),
	cqrs.create_projection('rebuilt', 'project_rebuilt(cqrs.event[])', entity_types => '{Fleeting}', tables => '{model_rebuilt}'),
	cqrs.create_projection('manager', 'echo', entity_types => '{Account}', event_types => '{Added}'),
	create_changing('async');
