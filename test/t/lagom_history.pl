# A real history of 14,885 changes to files, replayed as commands, must leave as
# many events, fold to exactly the files of the repository's newest commit, and
# fold to the same again without any snapshot.
#
# The two files of the history are not part of the source: CQRS_HISTORY_DIR
# names their folder.
use strict;
use warnings;
use IO::Uncompress::Gunzip qw(gunzip $GunzipError);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $recorded = $ENV{CQRS_HISTORY_DIR}
  or plan skip_all => 'CQRS_HISTORY_DIR names no folder with a recorded history';

my ($history, $tree) = map { unpacked($_) } qw(lagom-history.tsv lagom-tree.txt);
my $commands = () = slurp_file($history) =~ /\n/g;

my $node = PostgreSQL::Test::Cluster->new('history');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_cqrs');
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;

command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', 'test/demo/handlers.sql' ], 'handlers register');
ok(run_log(['test/demo/replay'], '<', $history), 'no command is rejected');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.journal'), $commands, "$commands commands made as many events");
ok(run_log(['test/demo/check'], '<', $tree), 'the live files are those of the tree');

# Every state, in one value that is easy to compare.
my $all_states = q{
	SELECT count(*), md5(string_agg(entity_id || ' ' || cqrs.state('File', entity_id), E'\n' ORDER BY entity_id))
	  FROM (SELECT DISTINCT entity_id FROM cqrs.journal) AS file};
my $with_snapshots = $node->safe_psql('postgres', $all_states);
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.snapshot'), '0', 'snapshots were taken');
$node->safe_psql('postgres', q{SELECT cqrs.drop_snapshots('File')});
is($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.snapshot'), '0', 'snapshots are dropped');
is($node->safe_psql('postgres', $all_states), $with_snapshots, 'states are the same without snapshots');

$node->stop;
done_testing();

sub unpacked
{
	my ($name) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . "/$name";
	gunzip("$recorded/$name.gz" => $file) or die "cannot unpack $recorded/$name.gz: $GunzipError\n";
	return $file;
}
