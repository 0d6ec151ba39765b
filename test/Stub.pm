# Starts test/stub, a service that misbehaves as it is told, for a TAP test.
package Stub;
use strict;
use warnings;
use File::Basename qw(dirname);
use IPC::Run qw(start);
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, %option) = @_;
	my $self = bless { folder => PostgreSQL::Test::Utils::tempdir(), in => '', out => '' }, $class;

	$self->make_certificates if $option{tls};
	$self->{run} = start([ $^X, dirname(__FILE__) . '/stub', $self->{folder}, $option{port} // () ], '<', \$self->{in}, '>', \$self->{out});
	$self->{run}->pump until $self->{out} =~ /ready/;
	($self->{port}) = $self->{out} =~ /^http (\d+)/m;
	($self->{tls_port}) = $self->{out} =~ /^https (\d+)/m;
	return $self;
}

sub url      { return "http://127.0.0.1:$_[0]{port}/api" }
sub port     { return $_[0]{port} }
sub tls_port { return $_[0]{tls_port} }

# What /mode does from now on: another path.
sub mode
{
	my ($self, $path) = @_;

	return $self->write('mode', $path);
}

# By what /signed wants requests to be signed.
sub secret
{
	my ($self, $secret) = @_;

	return $self->write('secret', $secret);
}

sub write
{
	my ($self, $name, $line) = @_;
	my $file = "$self->{folder}/$name";

	open my $handle, '>', "$file.new" or die "cannot write $file.new: $!";
	print $handle "$line\n";
	close $handle;
	rename "$file.new", $file or die "cannot rename $file.new: $!";
	return;
}

# The requests it got since it was asked last: [connection, method, target, idempotency key,
# webhook-id, webhook-timestamp].
sub requests
{
	my ($self) = @_;
	my $file = "$self->{folder}/requests";
	my @all = -e $file ? map { [ split / / ] } split /\n/, slurp_file($file) : ();
	my @new = splice @all, $self->{seen} // 0;

	$self->{seen} += @new;
	return @new;
}

# An authority of its own, and by it certificates of the server, which is 127.0.0.1 or localhost, and of a client.
sub make_certificates
{
	my ($self) = @_;
	my $folder = $self->{folder};
	my @new_key = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes');

	append_to_file("$folder/extensions", "subjectAltName = IP:127.0.0.1, DNS:localhost\n");
	system_or_bail('openssl', 'req', '-x509', @new_key, '-days', '2', '-subj', '/CN=test authority',
		'-keyout', "$folder/ca.key", '-out', "$folder/ca.crt");
	foreach my $name ('server', 'client')
	{
		system_or_bail('openssl', 'req', '-new', @new_key, '-subj', "/CN=$name", '-keyout', "$folder/$name.key", '-out', "$folder/$name.csr");
		system_or_bail('openssl', 'x509', '-req', '-in', "$folder/$name.csr", '-CA', "$folder/ca.crt", '-CAkey', "$folder/ca.key",
			'-CAcreateserial', '-days', '2', '-extfile', "$folder/extensions", '-out', "$folder/$name.crt");
	}
	return;
}

# ca.crt, client.crt, client.key
sub file { return "$_[0]{folder}/$_[1]" }

sub stop
{
	my ($self) = @_;

	$self->{run}->finish;
	return;
}

1;
