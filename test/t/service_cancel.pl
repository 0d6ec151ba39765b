# A call ends at once when its statement is canceled or times out or its session is terminated, in whatever phase it is: resolving the
# name, connecting, agreeing on TLS, waiting for the answer, receiving it. It says nothing about the service then, and leaves nothing behind.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use IO::Socket::INET;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;
use Time::HiRes qw(time);

# A tenth of a second is promised; a test's machine may be busy.
my $at_once = 2;
my $stub = Stub->new(tls => 1);
my $node = PostgreSQL::Test::Cluster->new('cancel');
my $slow_resolver = slow_resolver();
$node->init;
$node->append_conf('postgresql.conf', 'max_connections = 100');
{
	local $ENV{LD_PRELOAD} = $slow_resolver // '';
	$node->start;
}

# One that accepts nothing: connections are made until its queue is full.
my $full = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) // die "cannot listen: $!";
my @queue = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0) } 1 .. 8;
# One that accepts connections by its queue alone, so that a TLS handshake gets no answer.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) // die "cannot listen: $!";

my %url = (
	resolving => 'http://slow.invalid',
	connecting => 'http://127.0.0.1:' . $full->sockport,
	agreeing => 'https://127.0.0.1:' . $silent->sockport,
	waiting => $stub->url . '/hang',
	receiving => $stub->url . '/drip');

$node->safe_psql('postgres', 'CREATE EXTENSION pg_cqrs');
$node->safe_psql('postgres', "CREATE SERVER $_ FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '$url{$_}', allow_http 'true',"
	  . " call_timeout '5min', connect_timeout '5min', max_failures '1')") foreach keys %url;
# The system may have no authorities at all, and then no TLS begins.
$node->safe_psql('postgres', "ALTER SERVER agreeing OPTIONS (ADD sslrootcert '${\$stub->file('ca.crt')}')");

my $ended = 0;
foreach my $phase (qw(resolving connecting agreeing waiting receiving))
{
  SKIP:
	{
		skip 'no compiler', 12 if $phase eq 'resolving' && !$slow_resolver;
		ends($phase, 'pg_cancel_backend(pid)', qr/canceling statement due to user request/);
		ends($phase, 'pg_terminate_backend(pid)', qr/terminating connection due to administrator command/);
		times_out($phase);
		is( $node->safe_psql('postgres', "SELECT state, calls, in_flight, successes, failures FROM cqrs.breaker('$phase')"),
			'closed|3|0|0|0', "$phase: none of it is a failure of the service");
	}
}

leaves_nothing();

$node->stop;
$stub->stop;
done_testing();

sub ends
{
	my ($phase, $how, $expected) = @_;
	my $error = '';
	my $caller = start(
		[ 'psql', '-X', '-q', '-d', $node->connstr('postgres') . ' application_name=caller', '-c', '\\set VERBOSITY verbose',
			'-c', "SELECT cqrs.call('$phase', 'GET')" ],
		'>', '/dev/null', '2>', \$error, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	$node->poll_query_until('postgres', "SELECT in_flight = 1 FROM cqrs.breaker('$phase')") or die "$phase: nobody calls";
	$node->poll_query_until('postgres', "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE application_name = 'caller'")
	  or die "$phase: nobody waits";
	my $start = time;
	$node->safe_psql('postgres', "SELECT $how FROM pg_stat_activity WHERE application_name = 'caller'");
	$caller->finish;
	my $taken = time - $start;
	cmp_ok($taken, '<', $at_once, "$phase: $how ends it at once");
	note(sprintf '%s: %.0f ms', $phase, $taken * 1000);
	like($error, $expected, "$phase: as any statement");
	return;
}

sub times_out
{
	my ($phase) = @_;
	my $start = time;
	my ($rc, $out, $error) = $node->psql('postgres', "SET statement_timeout = '100ms'; SELECT cqrs.call('$phase', 'GET')");

	cmp_ok(time - $start, '<', $at_once, "$phase: statement_timeout ends it at once");
	like($error, qr/canceling statement due to statement timeout/, "$phase: as any statement");
	return;
}

# Canceled again and again, a session has no more file descriptors than before.
sub leaves_nothing
{
	my $out = '';
	my $in = '';
	my $session = start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') . ' application_name=caller' ],
		'<', \$in, '>', \$out, '2>', '/dev/null', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $say = sub {
		my ($sql, $until) = @_;
		$out = '';
		$in .= $sql;
		$session->pump until $out =~ $until;
		return $out;
	};
	my ($pid) = $say->("SELECT 'pid ' || pg_backend_pid();\n", qr/pid \d+\n/) =~ /(\d+)/;
	my $calls = sub {
		my ($times) = @_;
		my $call = join '', map { "SELECT cqrs.call('$_', 'GET');\n" } qw(connecting agreeing waiting receiving);
		return $say->("SET statement_timeout = '3ms';\n" . $call x ($times / 4) . "RESET statement_timeout;\nSELECT 'done';\n", qr/done\n/);
	};

	SKIP:
	{
		skip 'no /proc', 1 unless -d "/proc/$pid/fd";
		$calls->(40);
		my @before = glob "/proc/$pid/fd/*";
		$calls->(1000);
		my @after = glob "/proc/$pid/fd/*";
		cmp_ok(scalar @after, '<=', scalar @before, '1000 canceled calls leave no file descriptor');
	}
	$in .= "\\q\n";
	$session->finish;
	is($node->safe_psql('postgres', 'SELECT sum(in_flight), sum(failures), max(last_error) FROM cqrs.breaker_status'), '0|0|', 'and no call under way');
	return;
}

# A library that answers after an hour what the address of slow.invalid is; undef where there is no compiler.
sub slow_resolver
{
	my $folder = PostgreSQL::Test::Utils::tempdir();

	append_to_file("$folder/slow.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	if (node && strcmp(node, "slow.invalid") == 0)
		sleep(3600);
	return real(node, service, hints, result);
}
C
	return system("cc -shared -fPIC -o $folder/slow.so $folder/slow.c -ldl 2>/dev/null") == 0 ? "$folder/slow.so" : undef;
}
