# Entities, events, projections and calls are the same whatever the encoding of the database and the provider of its locale: a name in
# Japanese may be an identifier, data, and what a service is asked and answers. Positions and slices do not depend on either.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/..";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Stub;
use Test::More;

# psql speaks UTF-8 whatever the database does; so does this file, which perl takes for bytes.
$ENV{PGCLIENTENCODING} = 'UTF8';
my $name = '雄一郎';
my $escaped = '%E9%9B%84%E4%B8%80%E9%83%8E';
my $stub = Stub->new;
my %slice;

my $icu = cluster('icu', '--encoding=UTF8', '--locale=C', '--locale-provider=icu', '--icu-locale=ja');
in_database($icu, 'utf8', "ENCODING UTF8 LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C'");
in_database($icu, 'euc_jp', "ENCODING EUC_JP LOCALE_PROVIDER libc LOCALE 'C'");
$icu->stop;
my $c = cluster('c', '--encoding=EUC_JP', '--locale=C');
in_database($c, 'euc_jp', 'ENCODING EUC_JP');
in_database($c, 'utf8', "ENCODING UTF8 LOCALE 'C'");
in_database($c, 'bytes', "ENCODING SQL_ASCII LOCALE 'C'");
$c->stop;
is(scalar(keys %slice), 1, 'all have the entity in the same slice');
$stub->stop;
done_testing();

sub cluster
{
	my ($title, @options) = @_;
	my $node = PostgreSQL::Test::Cluster->new("locale_$title");

	$node->init(extra => \@options);
	$node->append_conf('postgresql.conf', "cqrs.outbox_retry_delay = '20 ms'");
	$node->start;
	return $node;
}

sub in_database
{
	my ($node, $database, $options) = @_;
	my $title = $node->name . ", $database";
	my $query = sub { return $node->safe_psql($database, $_[0]) };

	$node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0 $options");
	$query->(<<"SQL");
CREATE EXTENSION pg_cqrs;
CREATE TABLE people ("名前" text PRIMARY KEY, "姓" text, events int);
CREATE FUNCTION "登録"(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
	\$\$ SELECT cqrs.persist('登録済み', command.data, state) \$\$;
CREATE FUNCTION "投影"(event cqrs.event) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO people VALUES (event.entity_id, event.data ->> '姓', 1)
		ON CONFLICT ("名前") DO UPDATE SET events = people.events + 1 \$\$;
SELECT cqrs.create_entity('人', snapshot_every => 2), cqrs.on_command('人', '登録する', '登録'), cqrs.on_command('人', '*', '登録'),
	cqrs.on_event('人', '登録済み', 'cqrs.merge'), cqrs.create_projection('一覧', '投影', '{人}');
CREATE SERVER "隣" FOREIGN DATA WRAPPER cqrs_http OPTIONS (url '${\$stub->url}', allow_http 'true');
SQL
	# In one session, then in another that finds no cached state.
	is($query->("SELECT version FROM generate_series(1, 3) n, cqrs.send('人', '$name', '登録する', jsonb_build_object('姓', '稲葉', 'n', n))"),
		"1\n2\n3", "$title: commands are handled");
	is($query->("SELECT version, reply FROM cqrs.send('人', '$name', '登録する', '{\"n\": 4}')"), '4|{"n": 3, "姓": "稲葉"}', "$title: states are kept");
	is($query->("SELECT count(*) FROM cqrs.history('人', '$name') WHERE event_type = '登録済み' AND data ->> 'n' <> ''"), '4', "$title: events are found by id");
	is($query->("SELECT count(*), min(entity_id), max(position) FROM cqrs.read_events(entity_types => '{人}', event_types => '{登録済み}')"), "4|$name|4",
		"$title: and read in order");
	is($query->("SELECT cqrs.state('人', '$name', 1)"), '{"n": 1, "姓": "稲葉"}', "$title: an earlier state");
	$slice{ $query->("SELECT DISTINCT slice FROM cqrs.journal WHERE slice = cqrs.slice('人', '$name')") }++;
	$query->("SELECT cqrs.wait_for_projection('一覧', timeout => '60 s')");
	is($query->("SELECT * FROM people"), "$name|稲葉|4", "$title: a worker projects them");

	# What goes over the network is UTF-8.
	is($query->("SELECT body ->> 'target', body ->> 'body' FROM cqrs.call('隣', 'POST', '/echo?$escaped', query => '{\"名\": \"$name\"}', body_text => '$name')"),
		"/api/echo?$escaped&%E5%90%8D=$escaped|$name", "$title: calls");
	$query->("SELECT cqrs.enqueue('隣', 'POST', '/echo', body => '{\"姓\": \"$name\"}', reply_entity_type => '人', reply_entity_id => '$name', reply_command => '答え')");
	ok($node->poll_query_until($database, "SELECT count(*) = 1 FROM cqrs.history('人', '$name', 4)"), "$title: an answer comes");
	is($query->("SELECT (data #>> '{body,body}')::jsonb, data ->> 'service' FROM cqrs.history('人', '$name', 4)"), "{\"姓\": \"$name\"}|隣", "$title: as it was");
	$query->("SELECT cqrs.enqueue('隣', 'POST', '/text', body_text => '$name', reply_entity_type => '人', reply_entity_id => '$name', reply_command => '答え')");
	ok($node->poll_query_until($database, "SELECT count(*) = 1 FROM cqrs.history('人', '$name', 5)"), "$title: a text comes");
	is($query->("SELECT data ->> 'body' FROM cqrs.history('人', '$name', 5)"), $name, "$title: as it was");
	return;
}
