# ALTER EXTENSION UPDATE makes of an installed release what a new installation of this one is, object by object, while workers are busy;
# what was stored goes on. test/releases has the install script of each release. That a difference would be noticed, and that
# an update works at all, is tried with a next release made up here.
use strict;
use warnings;
use File::Basename qw(basename);
use File::Copy qw(copy);
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($current) = slurp_file('pg_cqrs.control') =~ /^default_version = '(.*)'/m;
my $changes = <<'SQL';
CREATE FUNCTION cqrs.of_next_release() RETURNS int LANGUAGE sql AS 'SELECT 1';
COMMENT ON FUNCTION cqrs.of_next_release() IS 'New.';
REVOKE EXECUTE ON FUNCTION cqrs.of_next_release() FROM PUBLIC;
ALTER TABLE cqrs.projection ADD COLUMN of_next_release int;
SQL
my $node = PostgreSQL::Test::Cluster->new('update');
$node->init;
$node->append_conf('postgresql.conf', settings(private_installation()));
if (!$node->start(fail_ok => 1))
{
	plan skip_all => 'this PostgreSQL finds extensions in its own folders only';
}

# What an extension consists of, a line for each object and for each part of it.
my $description = <<'SQL';
WITH member AS (
    SELECT classid, objid FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE e.extname = 'pg_cqrs' AND d.deptype = 'e'
), relation AS (SELECT objid AS oid FROM member WHERE classid = 'pg_class'::regclass)
SELECT line FROM (
    SELECT pg_describe_object(classid, objid, 0) || ': ' || coalesce(obj_description(objid, classid::regclass::name), '') FROM member
    UNION ALL SELECT pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc
    WHERE oid IN (SELECT objid FROM member WHERE classid = 'pg_proc'::regclass)
    UNION ALL SELECT attrelid::regclass || '.' || concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation,
        pg_get_expr(adbin, adrelid), attacl::text, col_description(attrelid, attnum))
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid IN (TABLE relation) AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT concat_ws(' ', c.oid::regclass, relkind, reloptions, relacl, pg_get_viewdef(c.oid)) FROM pg_class c WHERE c.oid IN (TABLE relation)
    UNION ALL SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN (TABLE relation)
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN (TABLE relation)
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN (TABLE relation) AND NOT tgisinternal
    UNION ALL SELECT 'dumped: ' || relation::regclass FROM pg_extension, unnest(extconfig) relation WHERE extname = 'pg_cqrs'
) lines (line) ORDER BY line
SQL

my $new = fresh($current);
ok(length $new > 10000 && $new !~ /of_next_release/, 'there is something to compare');
foreach my $release (map { basename($_) =~ /--(.*)\.sql/ } sort glob 'test/releases/*.sql')
{
	in_use("from $release", $release);
	query("from $release", 'ALTER EXTENSION pg_cqrs UPDATE');
	is(query("from $release", $description), $new, "release $release updated is this one");
	goes_on("from $release");
}

in_use('next', $current);
query('next', "ALTER EXTENSION pg_cqrs UPDATE TO 'next'");
is(query('next', "SELECT extversion FROM pg_extension WHERE extname = 'pg_cqrs'"), 'next', 'this release is updated to a next one');
is(query('next', $description), fresh('next'), 'which is as if it were new');
goes_on('next');
isnt(query('next', $description), $new, 'a difference would be noticed');

$node->stop;
done_testing();

sub query
{
	my ($database, $sql) = @_;
	return $node->safe_psql($database, $sql);
}

# The extension with all its releases, below a folder of its own.
sub private_installation
{
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my $scripts = $folder . config('sharedir') . '/extension';
	my $library = $folder . config('pkglibdir');

	make_path($scripts, $library);
	foreach my $file ('pg_cqrs.control', "pg_cqrs--$current.sql", glob 'src/upgrade/*.sql test/releases/*.sql')
	{
		copy($file, $scripts) or die "cannot copy $file: $!";
	}
	copy('pg_cqrs.so', $library) or die "cannot copy the library: $!";
	append_to_file("$scripts/pg_cqrs--$current--next.sql", $changes);
	append_to_file("$scripts/pg_cqrs--next.sql", slurp_file("pg_cqrs--$current.sql") . $changes);
	return $folder;
}

sub config
{
	my ($what) = @_;
	my ($out) = run_command([ 'pg_config', "--$what" ]);

	return $out;
}

sub settings
{
	my ($folder) = @_;
	my $path =
	  $node->pg_version >= 18
	  ? "extension_control_path = '$folder" . config('sharedir') . ":\$system'"
	  : "extension_destdir = '$folder'";

	return "$path\ndynamic_library_path = '$folder" . config('pkglibdir') . ":\$libdir'";
}

sub fresh
{
	my ($version) = @_;

	query('postgres', "CREATE DATABASE \"fresh $version\"");
	query("fresh $version", "CREATE EXTENSION pg_cqrs VERSION '$version'");
	return query("fresh $version", $description);
}

# An installed release, with a worker that has something to do.
sub in_use
{
	my ($database, $version) = @_;

	query('postgres', "CREATE DATABASE \"$database\"");
	query($database, <<"SQL");
CREATE EXTENSION pg_cqrs VERSION '$version';
CREATE FUNCTION change(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist('Changed', command.data, state) \$\$;
CREATE TABLE seen (entity_id text, version bigint, PRIMARY KEY (entity_id, version));
CREATE FUNCTION see(event cqrs.event) RETURNS void LANGUAGE sql AS \$\$ INSERT INTO seen VALUES (event.entity_id, event.version) \$\$;
SELECT cqrs.create_entity('Thing', snapshot_every => 7), cqrs.on_command('Thing', 'Change', 'change'), cqrs.on_event('Thing', 'Changed', 'cqrs.merge');
SELECT cqrs.create_projection('seen', 'see', batch_size => 1);
SELECT cqrs.send('Thing', 'a', 'Change', jsonb_build_object('n', n)) FROM generate_series(1, 200) n;
SQL
	ok($node->poll_query_until($database, 'SELECT count(*) > 0 FROM seen'), "$database: a worker is at work");
	return;
}

sub goes_on
{
	my ($database) = @_;

	is(query($database, q{SELECT version, position, reply FROM cqrs.send('Thing', 'a', 'Change', '{"n": 0}')}), '201|201|{"n": 200}',
		"$database: versions, positions and states go on");
	query($database, "SELECT cqrs.wait_for_projection('seen', timeout => '60 s')");
	is(query($database, "SELECT count(*), state FROM seen, cqrs.projection_status WHERE name = 'seen' GROUP BY 2"), '201|running',
		"$database: so do projections, with each event once");
	return;
}
