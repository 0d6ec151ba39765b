# What pg_dump takes comes back whole: events, positions, entity types with
# their handlers, snapshots, answers to command ids, and what users have added
# to the journal. The copy is held until cqrs.adopt(), after which positions,
# versions and states go on as they would have in the original, which is not
# disturbed. DROP EXTENSION cannot take the journal along.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dump = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('dump');
$node->init;
$node->append_conf('postgresql.conf', 'wal_level = logical');
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql('original', <<'SQL');
CREATE EXTENSION pg_cqrs;
CREATE ROLE accountant;
GRANT CREATE ON DATABASE original TO accountant;
GRANT EXECUTE ON FUNCTION cqrs.create_entity, cqrs.on_command, cqrs.on_event, cqrs.on_upcast TO accountant;
CREATE SCHEMA "Odd ""schema"", näme";
CREATE SCHEMA "a.b(c)" AUTHORIZATION accountant;
SET search_path = "Odd ""schema"", näme", public;

-- Handlers in a schema of such a name, which they find by the pinned search_path.
CREATE FUNCTION rate() RETURNS int LANGUAGE sql AS 'SELECT 3';
CREATE FUNCTION "Do it"(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE plpgsql AS $$
BEGIN
	RETURN cqrs.persist('Done', jsonb_build_object('n', (command.data->>'n')::int * rate()), reply => state);
END
$$;
CREATE FUNCTION "it's done"(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN jsonb_build_object('sum', coalesce((state->>'sum')::int, 0) + (event.data->>'n')::int * rate());
END
$$;
CREATE FUNCTION up(event cqrs.event) RETURNS cqrs.event LANGUAGE plpgsql AS $$
BEGIN
	event.event_type := 'Done';
	event.data := jsonb_build_object('n', event.data);
	RETURN event;
END
$$;
REVOKE EXECUTE ON FUNCTION "Do it" FROM PUBLIC;
SELECT cqrs.create_entity('Job', snapshot_every => 5, keep_snapshots => 3);
SELECT cqrs.on_command('Job', 'Do', '"Do it"');
SELECT cqrs.on_event('Job', 'Done', '"it''s done"');
SELECT cqrs.append('Job', 'old', ARRAY[cqrs.new_event('Did', '7')]);
SELECT cqrs.on_upcast('Job', 'Did', 1, 'up');

-- An entity of somebody else.
SET ROLE accountant;
SET search_path = "a.b(c)";
CREATE FUNCTION pay(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	$$SELECT cqrs.persist('Paid', command.data)$$;
REVOKE EXECUTE ON FUNCTION pay FROM PUBLIC;
SELECT cqrs.create_entity('Account', snapshot_every => 0);
SELECT cqrs.on_command('Account', '*', 'pay');
SELECT cqrs.on_event('Account', '*', 'cqrs.merge');
RESET ROLE;
RESET search_path;

SELECT cqrs.send('Job', 'j' || n % 3, 'Do', jsonb_build_object('n', n)) FROM generate_series(1, 40) AS n;
SELECT cqrs.send('Job', 'j1', 'Do', '{"n": 100}', command_id => '00000000-0000-0000-0000-000000000001');
SELECT cqrs.send('Account', 'a', 'Pay', '{"to": "me"}', metadata => '{"by": "hand"}');
DO $$
BEGIN
	PERFORM cqrs.append('Job', 'j0', ARRAY[cqrs.new_event('Done', '{"n": 1}')]);
	RAISE EXCEPTION SQLSTATE 'XX999';
EXCEPTION WHEN SQLSTATE 'XX999' THEN
END
$$;

-- What users do to the journal that is theirs.
CREATE TABLE public.audit (version bigint);
CREATE FUNCTION public.note_event() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (NEW.version); RETURN NULL; END';
CREATE TRIGGER note_event AFTER INSERT ON cqrs.journal FOR EACH ROW EXECUTE FUNCTION public.note_event();
CREATE INDEX journal_data ON cqrs.journal USING gin (data);
ALTER TABLE cqrs.journal ENABLE ROW LEVEL SECURITY;
CREATE POLICY jobs ON cqrs.journal FOR SELECT TO accountant USING (entity_type = 'Account');
GRANT SELECT ON cqrs.journal TO accountant;
GRANT EXECUTE ON FUNCTION cqrs.append TO accountant;
COMMENT ON TABLE cqrs.journal IS 'ours';
CREATE STATISTICS public.by_type ON entity_type, event_type FROM cqrs.journal;
CREATE PUBLICATION events FOR TABLE cqrs.journal;
SQL

# Everything that can be compared, each in one value.
my %contents = (
	'events' => 'SELECT count(*), md5(string_agg(j::text, chr(10) ORDER BY position)) FROM cqrs.journal AS j',
	'entity types' => 'SELECT md5(string_agg(e::text, chr(10) ORDER BY e::text)) FROM cqrs.entity AS e',
	'handlers' => 'SELECT count(*), md5(string_agg(h::text, chr(10) ORDER BY h::text)) FROM cqrs.entity_handler AS h',
	'snapshots' => 'SELECT count(*) > 5, md5(string_agg(s::text, chr(10) ORDER BY s::text)) FROM cqrs.snapshot AS s',
	'answers to commands' => 'SELECT count(*), md5(string_agg(c::text, chr(10) ORDER BY c::text)) FROM cqrs.command_log AS c',
	'states' => q{SELECT string_agg(entity_id || ' ' || cqrs.state(entity_type, entity_id), ' ' ORDER BY entity_id)
		FROM (SELECT DISTINCT entity_type, entity_id FROM cqrs.journal) AS e},
	'earlier states' => q{SELECT cqrs.state('Job', 'j1', 6), cqrs.state('Job', 'j1', at => created_at)
		FROM cqrs.history('Job', 'j1') WHERE version = 4},
	'the comment' => q{SELECT obj_description('cqrs.journal'::regclass)},
	'triggers' => q{SELECT string_agg(pg_get_triggerdef(oid) || tgenabled::text, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'cqrs.journal'::regclass},
	'indexes' => q{SELECT string_agg(indexdef, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename = 'journal'},
	'policies' => q{SELECT string_agg(p::text, ' ') FROM pg_policies AS p},
	'row security' => q{SELECT relrowsecurity FROM pg_class WHERE oid = 'cqrs.journal'::regclass},
	'grants on the journal' => q{SELECT relacl::text FROM pg_class WHERE oid = 'cqrs.journal'::regclass},
	'grants on functions' => q{SELECT string_agg(oid::regprocedure || proacl::text, ' ' ORDER BY oid::regprocedure::text) FROM pg_proc
		WHERE pronamespace = 'cqrs'::regnamespace},
	'owners' => q{SELECT string_agg(relname || relowner::regrole, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'cqrs'::regnamespace},
	'the type of the table' => q{SELECT reloftype::regtype FROM pg_class WHERE oid = 'cqrs.journal'::regclass},
	'the publication' => q{SELECT string_agg(t::text, ' ') FROM pg_publication_tables AS t},
	'the owner of the sequence' => q{SELECT pg_get_serial_sequence('cqrs.journal', 'position')},
	'audit' => 'SELECT count(*) FROM public.audit',
	'recorded identity' => 'SELECT system_identifier, database FROM cqrs.identity');
my %expected = map { $_ => $node->safe_psql('original', $contents{$_}) } keys %contents;
is(join(', ', grep { $expected{$_} eq '' } sort keys %expected), '', 'there is something of everything to compare');
my $last = $node->safe_psql('original', 'SELECT last_position FROM cqrs.journal_status');
my $greatest = $node->safe_psql('original', 'SELECT max(position) FROM cqrs.journal');
cmp_ok($last, '>', $greatest, 'the last position is that of an event that was rolled back');

# Held: a copy of this database says so; the original does not.
$node->safe_psql('postgres', 'CREATE DATABASE plain TEMPLATE template0');
$node->command_ok([ 'pg_dump', '-d', $node->connstr('original'), '-f', "$dump/plain.sql" ], 'pg_dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dump/plain.sql" ], 'restored by psql');
check_copy('plain', 'pg_dump');

$node->safe_psql('postgres', 'CREATE DATABASE parallel TEMPLATE template0');
$node->command_ok([ 'pg_dump', '-Fd', '-j2', '-d', $node->connstr('original'), '-f', "$dump/directory" ], 'pg_dump -Fd -j2');
$node->command_ok([ 'pg_restore', '-j2', '--exit-on-error', '-d', $node->connstr('parallel'), "$dump/directory" ], 'pg_restore -j2');
check_copy('parallel', 'pg_restore -j2');

# Schema first, then data, as some do.
$node->safe_psql('postgres', 'CREATE DATABASE sections TEMPLATE template0');
for my $section ('pre-data', 'data', 'post-data')
{
	$node->command_ok([ 'pg_restore', "--section=$section", '--exit-on-error', '-d', $node->connstr('sections'), "$dump/directory" ], "pg_restore of $section");
	is($node->safe_psql('sections', 'SELECT cqrs.is_held()'), 't', "held after $section");
}
check_copy('sections', 'pg_restore by section');

# A copy on the file level knows the database it was made of, too.
$node->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE original');
check_copy('copied', 'CREATE DATABASE ... TEMPLATE');

# The original goes on.
is($node->safe_psql('original', 'SELECT cqrs.is_held()'), 'f', 'the original is not held');
is($node->safe_psql('original', $contents{$_}), $expected{$_}, "$_ of the original are as they were") for sort keys %contents;
is($node->safe_psql('original', q{SELECT position FROM cqrs.append('Job', 'j0', ARRAY[cqrs.new_event('Done', '{"n": 1}')])}),
	$last + 1, 'and its positions are its own');

# A copy of an adopted copy is held again.
$node->safe_psql('postgres', 'CREATE DATABASE again TEMPLATE copied');
is($node->safe_psql('again', 'SELECT cqrs.is_held()'), 't', 'a copy of an adopted copy is held');

# A database without a journal has nothing to hold.
$node->safe_psql('postgres', 'CREATE DATABASE bare');
$node->safe_psql('bare', 'CREATE EXTENSION pg_cqrs');
$node->safe_psql('postgres', 'CREATE DATABASE bare_copy TEMPLATE bare');
is($node->safe_psql('bare_copy', 'SELECT cqrs.is_held()'), 'f', 'a copy without a journal is not held');
$node->safe_psql('bare_copy', q{SELECT cqrs.append('Job', 'a', ARRAY[cqrs.new_event('Done', '1')])});
is($node->safe_psql('bare_copy', 'SELECT cqrs.is_held(), count(*) FROM cqrs.read_events()'), 'f|1', 'nor is the journal that is made in it');

# The journal is the user's, so the extension cannot take it along.
my ($code, undef, $error) = $node->psql('original', 'DROP EXTENSION pg_cqrs');
isnt($code, 0, 'DROP EXTENSION is refused');
like($error, qr/table cqrs\.journal depends on/, 'because of the journal');
is($node->safe_psql('original', 'SELECT count(*) > 40 FROM cqrs.journal'), 't', 'which is still there');
$node->safe_psql('original', 'DROP TABLE cqrs.journal; DROP EXTENSION pg_cqrs CASCADE');
is($node->safe_psql('original', "SELECT count(*) FROM pg_namespace WHERE nspname = 'cqrs'"), '0', 'without it the extension goes and leaves nothing');

$node->stop;
done_testing();

sub check_copy
{
	my ($copy, $how) = @_;
	my ($out, $error);

	is($node->safe_psql($copy, $contents{$_}), $expected{$_}, "$how: $_") for sort keys %contents;

	is($node->safe_psql($copy, 'SELECT cqrs.is_held(), held, has_journal FROM cqrs.journal_status'), 't|t|t', "$how: the copy is held");
	for my $read ('SELECT * FROM cqrs.read_events()', "SELECT cqrs.wait_for_event(0, '1 s')")
	{
		(undef, undef, $error) = $node->psql($copy, "\\set VERBOSITY verbose\n$read;");
		like($error, qr/ERROR:  55000: .*held.*cqrs\.adopt\(\)/s, "$how: $read is refused");
	}
	$node->psql($copy, <<'SQL', stdout => \$out, stderr => \$error);
SELECT version, reply FROM cqrs.send('Job', 'j1', 'Do', '{"n": 5}', metadata => '{"while": "held"}');
SELECT version FROM cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Paid', '{"to": "you"}')]);
SQL
	my ($before) = $node->safe_psql('original', q{SELECT cqrs.state('Job', 'j1')});
	is($out, "16|$before\n2", "$how: commands and appends work");
	is(scalar(() = $error =~ /WARNING/g), 1, "$how: with one warning in a session");
	like($error, qr/WARNING:  the database is held.*cqrs\.adopt\(\)/s, "$how: that says what to do");

	# The answer to a command from before the dump; another under its id is refused.
	is( $node->safe_psql($copy, q{SELECT version, position FROM cqrs.send('Job', 'j1', 'Do', '{"n": 100}', command_id => '00000000-0000-0000-0000-000000000001')}),
		$node->safe_psql('original', q{SELECT version, position FROM cqrs.history('Job', 'j1') WHERE data = '{"n": 300}'}),
		"$how: a command from before the dump is answered as before");
	(undef, undef, $error) = $node->psql($copy, q{\set VERBOSITY verbose
		SELECT cqrs.send('Job', 'j1', 'Do', '{"n": 101}', command_id => '00000000-0000-0000-0000-000000000001');});
	like($error, qr/QR006/, "$how: another command under its id is refused");

	my $position = $node->safe_psql($copy, 'SELECT max(position) FROM cqrs.journal');
	cmp_ok($position, '>', $greatest, "$how: positions are above those of the original");
	is($node->safe_psql($copy, 'SELECT cqrs.adopt()'), $position, "$how: adopt() returns the last position");
	is($node->safe_psql($copy, 'SELECT cqrs.is_held()'), 'f', "$how: the copy is not held any more");
	is($node->safe_psql($copy, q{SELECT version, position FROM cqrs.send('Job', 'j2', 'Do', '{"n": 1}')}),
		$node->safe_psql('original', q{SELECT max(version) + 1 FROM cqrs.history('Job', 'j2')}) . '|' . ($position + 1),
		"$how: versions and positions go on");
	is( $node->safe_psql($copy, 'SELECT count(*), count(*) = (SELECT count(*) FROM cqrs.journal), max(position) FROM cqrs.read_events()'),
		$node->safe_psql('original', 'SELECT count(*) + 3 FROM cqrs.journal') . '|t|' . ($position + 1),
		"$how: everything can be read in order");
	is($node->safe_psql($copy, 'SELECT count(*) FROM public.audit'), '3', "$how: the user's trigger fires");

	for my $change ('UPDATE cqrs.journal SET version = 99', 'DELETE FROM cqrs.journal', 'TRUNCATE cqrs.journal')
	{
		(undef, undef, $error) = $node->psql($copy, "\\set VERBOSITY verbose\n$change;");
		like($error, qr/ERROR:  55000: .*append-only/, "$how: $change is refused");
	}
	is($node->safe_psql($copy, 'SET ROLE accountant; SELECT DISTINCT entity_type FROM cqrs.journal'), 'Account', "$how: the policy holds");
	return;
}
