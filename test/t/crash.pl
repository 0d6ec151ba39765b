# After a crash no acknowledged event is lost, versions have no holes and
# positions go on; an offset that a reader took before is still valid, and what
# was read up to it is still there, all of it, and was everything: also where
# writers do not wait for their commits to be durable.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $scripts = 0;
my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
restart_after_crash = on
wal_writer_delay = 10s			# so that asynchronous commits are lost indeed
wal_writer_flush_after = 1GB
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_cqrs; SELECT cqrs.create_journal()');

# What has left the server: events that were read, in order, and the offset.
my @seen;
my $offset = 0;

for my $synchronous ('on', 'off')
{
	for my $crash ('backend', 'server', 'backend', 'server')
	{
		crashes($synchronous, $crash);
	}
}

# A mark that covers nothing but what was rolled back is an offset, too. One
# record in the log serves 32 positions, so some of these write one.
for my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'SET synchronous_commit = off; '
		  . "BEGIN; SELECT cqrs.append('Account', 'undone', ARRAY[cqrs.new_event('Changed', '1')]); ROLLBACK; " x 40);
	my $mark = $node->safe_psql('postgres', 'SELECT cqrs.high_water_mark()');
	cmp_ok($mark, '>', $offset, 'the mark passes what was rolled back');
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', "SELECT count(*) FROM cqrs.read_events($mark)"), '0', 'it is a valid offset after a crash');
	cmp_ok(
		$node->safe_psql('postgres', "SELECT position FROM cqrs.append('Account', 'last', ARRAY[cqrs.new_event('Changed', '1')])"),
		'>', $mark, 'and is below what comes next');
	read_on();
}

$node->stop;
done_testing();

# Four writers, a reader, and a crash right after it has read.
sub crashes
{
	my ($synchronous, $crash) = @_;
	my $what = "synchronous_commit=$synchronous, $crash dies";
	my $before = @seen;
	my @writers = map { writer($_, $synchronous) } 1 .. 4;

	while (@seen < $before + 300)
	{
		$_->{run}->pump_nb for grep { $_->{run}->pumpable } @writers;
		read_on();
	}
	if ($crash eq 'backend')
	{
		my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'writer' LIMIT 1");

		read_on();
		kill KILL => $pid;
		$_->{run}->finish for @writers;		# the server ends all sessions
		$node->poll_query_until('postgres', 'SELECT true') or BAIL_OUT('the server does not come back');
	}
	else
	{
		read_on();
		$node->stop('immediate');
		$_->{run}->finish for @writers;
		$node->start;
	}

	my %stored = map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
		"SELECT entity_id || ' ' || version || ' ' || position FROM cqrs.journal");
	my @acknowledged = map { split /\n/, $_->{out} } @writers;
	my $lost = grep { !$stored{$_} } @acknowledged;

	note("$what: " . @acknowledged . " acknowledged, $lost lost, offset $offset");
	cmp_ok(scalar @acknowledged, '>', 100, "$what: events were written");
	is($lost, 0, "$what: no acknowledged event is lost") if $synchronous eq 'on';

	is( $node->safe_psql('postgres', "SELECT entity_id || ' ' || version || ' ' || position"
			  . " FROM cqrs.journal WHERE position <= $offset ORDER BY position"),
		join("\n", @seen), "$what: what was read is there, and was all");
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT entity_id FROM cqrs.journal GROUP BY entity_id'
			  . ' HAVING count(*) <> max(version) OR min(version) <> 1) AS e'),
		'0', "$what: versions have no holes");
	is( $node->safe_psql('postgres', 'SELECT last_position >= (SELECT max(position) FROM cqrs.journal),'
			  . ' high_water_mark = last_position, open_transactions, held FROM cqrs.journal_status'),
		't|t|0|f', "$what: nothing is open");

	my ($version, $position) = split /\|/, $node->safe_psql('postgres',
		"SELECT version, position FROM cqrs.append('Account', 'shared', ARRAY[cqrs.new_event('Changed', '1')])");
	is( $node->safe_psql('postgres', "SELECT max(version) FROM cqrs.history('Account', 'shared') WHERE position < $position"),
		$version - 1, "$what: versions go on");
	cmp_ok($position, '>', $offset, "$what: positions go on");
	is($node->safe_psql('postgres', 'SELECT max(position) FROM cqrs.journal'), $position, "$what: behind all others");
	read_on();
	is($offset, $position, "$what: and the reader goes on");
	return;
}

# A client that appends until its connection breaks, and says what was acknowledged.
sub writer
{
	my ($number, $synchronous) = @_;
	my %psql = (out => '');
	my $file = PostgreSQL::Test::Utils::tempdir() . '/' . ++$scripts . '.sql';
	my $lines = "SET application_name = 'writer';\nSET synchronous_commit = $synchronous;\n";

	for my $entity ("w$number", 'shared', "w$number")
	{
		$lines .= "SELECT entity_id || ' ' || version || ' ' || position FROM"
		  . " cqrs.append('Account', '$entity', ARRAY[cqrs.new_event('Changed', '1')]);\n";
	}
	append_to_file($file, $lines x 5000);
	$psql{run} = start(
		[ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
		'>', \$psql{out}, '2>', '/dev/null', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%psql;
}

sub read_on
{
	push @seen, split /\n/, $node->safe_psql('postgres',
		"SELECT entity_id || ' ' || version || ' ' || position FROM cqrs.read_events($offset, 1000000)");
	($offset) = $seen[-1] =~ /(\d+)$/ if @seen;
	return;
}
