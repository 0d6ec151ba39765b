# Without shared_preload_libraries CREATE EXTENSION fails at once and names the
# line to add; with it, a schema cqrs made by somebody else is refused.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('no_preload');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;

my ($code, $out, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nCREATE EXTENSION pg_cqrs;", on_error_stop => 1);
isnt($code, 0, 'CREATE EXTENSION fails without the library');
like($error, qr/ERROR:  55000: /, 'it says that the state is wrong');
like($error, qr/shared_preload_libraries = 'pg_cqrs'/, 'it says what to set');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_namespace WHERE nspname = 'cqrs'"), '0', 'nothing is left behind');

($code, $out, $error) = $node->psql('postgres', "LOAD 'pg_cqrs'");
like($error, qr/shared_preload_libraries = 'pg_cqrs'/, 'nor can it be loaded later');

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cqrs'");
$node->restart;
$node->safe_psql('postgres', 'CREATE SCHEMA cqrs');
($code, $out, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nCREATE EXTENSION pg_cqrs;", on_error_stop => 1);
like($error, qr/42P06: .*schema "cqrs" already exists/, 'a schema of that name is refused');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_extension WHERE extname = 'pg_cqrs'"), '0', 'and there is no extension');
$node->safe_psql('postgres', 'DROP SCHEMA cqrs; CREATE EXTENSION pg_cqrs');
is($node->safe_psql('postgres', 'SELECT cqrs.is_held()'), 'f', 'without it the extension is made');

# A server that is started without the library again refuses, and loses nothing.
$node->safe_psql('postgres', "SELECT cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Opened', '1')])");
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
($code, $out, $error) = $node->psql('postgres', "SELECT cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Opened', '1')])");
like($error, qr/shared_preload_libraries = 'pg_cqrs'/, 'an append says what to set');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.journal'), '1', 'the journal is a table that can be read');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cqrs'");
$node->restart;
is($node->safe_psql('postgres', "SELECT version, position FROM cqrs.append('Account', 'a', ARRAY[cqrs.new_event('Opened', '1')])"),
	'2|2', 'with it everything goes on');

$node->stop;
done_testing();
