# The examples of README.md run as they stand there, one after the other in one session, and print what is shown; where they call a
# service, a stub answers. Errors come with the line of README.md. The table of settings says what the server does of them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use IPC::Run qw(run);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

# What the examples show to fail.
my @failures = ('ERROR:  the user is registered already');

my $stub = Stub->new;
my $node = PostgreSQL::Test::Cluster->new('readme');
my $folder = PostgreSQL::Test::Utils::tempdir();
my @lines = split /\n/, slurp_file("$FindBin::Bin/../../README.md");
my %blocks = (sql => [], c => [], '' => []);
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->start;

read_blocks();
my $has_library = build_library();
my $output = run_examples();
prints($_) foreach grep { /^\(\d+ rows?\)$/m } map { $_->{text} } @{ $blocks{''} };
calls_services();
lists_settings();

$node->stop;
$stub->stop;
done_testing();

# What stands between fences, by language, and the line of the first fence.
sub read_blocks
{
	my $block;

	foreach my $n (1 .. @lines)
	{
		if ($lines[ $n - 1 ] !~ /^```(\w*)$/)
		{
			$block->{text} .= "$lines[$n - 1]\n" if $block;
		}
		elsif ($block)
		{
			$block = undef;
		}
		else
		{
			$block = { line => $n, text => '' };
			push @{ $blocks{$1} }, $block;
		}
	}
	return;
}

# The handler in C, where there is a compiler.
sub build_library
{
	my ($include) = run_command([ 'pg_config', '--includedir-server' ]);
	my ($compiler) = run_command([ 'pg_config', '--cc' ]);
	my ($program) = split ' ', $compiler;
	return 0 unless defined $program && grep { -x "$_/$program" } split /:/, $ENV{PATH};

	append_to_file("$folder/account.c", $blocks{c}[0]{text});
	run([ split(' ', $compiler), '-shared', '-fPIC', "-I$include", '-o', "$folder/account.so", "$folder/account.c" ], '>&', \my $errors);
	is($errors, '', 'the handler in C compiles');
	my $path = $node->safe_psql('postgres', 'SHOW dynamic_library_path');
	$node->append_conf('postgresql.conf', "dynamic_library_path = '$folder:$path'");
	$node->reload;
	return 1;
}

# All in their own lines; what is no example is blank.
sub run_examples
{
	my @script = ('') x @lines;

	foreach my $block (@{ $blocks{sql} })
	{
		my @text = split /\n/, $block->{text};
		next if $block->{text} =~ /LANGUAGE c / && !$has_library;
		@script[ $block->{line} .. $block->{line} + $#text ] = @text;
		$script[ $block->{line} + @text ] = "ALTER SERVER billing OPTIONS (SET url '${\$stub->url}', ADD allow_http 'true');"
		  if $block->{text} =~ /^CREATE SERVER billing /m;
	}
	append_to_file("$folder/README.md", join("\n", @script) . "\n");
	run([ 'psql', '-X', '-d', $node->connstr('postgres'), '-f', "$folder/README.md" ], '>&', \my $printed);
	my @messages = map { /README\.md:(\d+: \w+:  .*)/ } split /\n/, $printed;
	is_deeply([ map { s/^\d+: //r } @messages ], \@failures, 'the examples run without other errors than those that are shown')
	  or diag(join "\n", @messages);
	return $printed;
}

# Identifiers differ each time.
sub same_each_time
{
	my ($text) = @_;
	$text =~ s/^psql:.*?README\.md:\d+: //mg;
	$text =~ s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/(an identifier)/g;
	$text =~ s/ +$//mg;
	return $text;
}

sub prints
{
	my ($shown) = @_;
	my ($got, $wanted) = map { same_each_time($_) } $output, $shown;

	ok(index($got, $wanted) >= 0, 'they print what is shown') or diag("wanted:\n$wanted\ngot:\n$got");
	return;
}

sub calls_services
{
	ok($node->poll_query_until('postgres', "SELECT count(*) >= 2 AND bool_and(state = 'delivered') FROM cqrs.outbox_status"), 'what was enqueued is delivered');
	my %got = map { $_->[2] => $_ } $stub->requests;
	ok($got{$_}, "the service got $_") foreach '/api/charges', '/api/charges/c-1/receipt?format=pdf', '/api/hooks';
	isnt($got{'/api/hooks'}[4], '-', 'the webhook was signed');
	is($node->safe_psql('postgres', q(SELECT cqrs.state('Order', 'o-1') ->> 'paid')), 'true', 'and the reply is a command');
	return;
}

sub lists_settings
{
	my @listed = map { s/^\| `(cqrs\.\w+)` \|[^|]*\| (.*) \|$/$1 | $2/r } grep { /^\| `cqrs\.\w+` \|/ } @lines;
	my $known = $node->safe_psql('postgres', q(SELECT concat_ws(' | ', name, CASE context WHEN 'superuser' THEN 'superusers'
		WHEN 'sighup' THEN 'configuration file' WHEN 'user' THEN 'everybody' WHEN 'postmaster' THEN 'server start' END,
		replace(short_desc || ' ' || extra_desc, '  ', ' ')) FROM pg_settings WHERE name LIKE 'cqrs.%' ORDER BY name COLLATE "C"));

	is(join("\n", @listed), $known, 'the settings are listed as they are');
	return;
}
