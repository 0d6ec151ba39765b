# cqrs.adopt() can run beside writers, also again and again: no append fails
# because of it, and positions are never set back.
use strict;
use warnings;
use IPC::Run qw(start);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('adopt');
$node->init;
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cqrs;
SELECT cqrs.create_journal();
-- A flag that is not transactional.
CREATE SEQUENCE over;
CREATE PROCEDURE adopt() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT (SELECT is_called FROM over) LOOP
		PERFORM cqrs.adopt();
		COMMIT;
	END LOOP;
END
$$;
CREATE PROCEDURE write_events(entity text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		PERFORM pg_sleep(random() * 0.001);
		PERFORM cqrs.append('Account', entity, ARRAY[cqrs.new_event('Changed', to_jsonb(i))]);
		COMMIT;
	END LOOP;
END
$$;
SQL

my $errors = '';
my $adopting = psql('CALL adopt()');
my @writing = map { psql("CALL write_events('w$_')") } 1 .. 6;
$_->finish for @writing;
$node->safe_psql('postgres', "SELECT nextval('over')");
$adopting->finish;

is($errors, '', 'nobody met an error');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT position) FROM cqrs.read_events(0, 100000)'),
	'6000|6000', 'every event is there and can be read');
my $last = $node->safe_psql('postgres', 'SELECT cqrs.last_position()');
is($node->safe_psql('postgres', "SELECT version, position FROM cqrs.append('Account', 'w1', ARRAY[cqrs.new_event('Changed', '1')])"),
	'1001|' . ($last + 1), 'versions and positions go on');

$node->stop;
done_testing();

sub psql
{
	my ($command) = @_;

	return start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', $command ],
		'2>', \$errors, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}
