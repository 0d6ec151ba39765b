"""What happens to the servers and to what is registered, in an order drawn from the seed.

A fault is one of the methods whose name is in DECK, as often as it says; all
of them are dealt before the deck is shuffled again.
"""
import os
import re
import signal

from clients import EXPECTED, Actor
from cluster import Failed, Lost, Session

DECK = {
    'terminate': 4, 'terminate_worker': 2, 'cancel': 2, 'kill_backend': 1, 'kill_worker': 2, 'kill_server_process': 1,
    'restart_immediate': 1, 'restart_fast': 1, 'fail_over': 1,
    'vacuum': 3, 'vacuum_full': 1, 'reindex': 1, 'checkpoint': 2, 'old_snapshot': 1,
    'alter_entity': 2, 'replace_handler': 2, 'snapshots': 1, 'drop_entity': 2,
    'alter_projection': 2, 'drop_projection': 2, 'rebuild_projection': 2, 'pause_projection': 1, 'split_projection': 1,
    'service': 8, 'break_service': 1, 'flaw': 3, 'stop_workers': 1, 'number_of_workers': 1,
}
FIRST = ['fail_over', 'restart_immediate', 'kill_worker']     # also in the shortest of runs, from the last on
STUB_MODES = ['/status/200', '/status/200', '/status/500', '/status/503', '/status/429', '/reset', '/close', '/close_kept', '/cut',
              '/slow/30', '/hang', '/drip', '/malformed/0', '/malformed/4', '/json/broken', '/many_headers']
CLIENTS = "backend_type = 'client backend' AND application_name NOT IN ('faults', 'cluster')"
WORKERS = "backend_type LIKE 'pg_cqrs%'"
SERVER = "backend_type IN ('checkpointer', 'walwriter', 'background writer', 'autovacuum launcher', 'logical replication launcher')"
TABLES = ['cqrs.journal', 'cqrs.projection_offset', 'cqrs.outbox', 'cqrs.timer', 'cqrs.snapshot', 'cqrs.command_log',
          'cqrs.parked_entity', 'model_split', 'model_plain']


class Faults(Actor):
    def __init__(self, torture, deck_s):
        super().__init__(torture, 'faults')
        self.session = Session(torture.cluster, 'faults', settings=["lock_timeout = '5s'", "statement_timeout = '60s'"])
        self.cluster, self.stub = torture.cluster, torture.stub
        self.pause_s = deck_s / sum(DECK.values())
        self.deck = self.shuffled() + FIRST
        self.dealt = dict.fromkeys(DECK, 0)

    def step(self):
        if not self.deck:
            self.deck = self.shuffled()
        name = self.deck.pop()
        self.log.write(fault=name)
        try:
            getattr(self, name)()
            self.dealt[name] += 1
        except Lost:
            pass
        except Failed as failure:
            self.torture.count_error(f'{self.name}: {name}', failure, EXPECTED)
        self.stopping.wait(self.random.random() * 2 * self.pause_s)

    def shuffled(self):
        deck = [name for name, times in DECK.items() for _ in range(times)]
        self.random.shuffle(deck)
        return deck

    def recover(self):
        """Puts back what a fault has left, so that everything can come to its end."""
        self.stub.mode('/status/200')
        for sql in ('ALTER SYSTEM RESET cqrs.workers', 'ALTER SYSTEM SET cqrs.projection_workers = 3', 'SELECT pg_reload_conf()',
                    'UPDATE flaw SET rate = 0', "SELECT cqrs.reset_breaker('flaky')"):
            self.session.insist(sql)
        self.create_entity()
        self.create_projection()
        for name in ('plain', 'split'):
            self.session.insist(f"SELECT cqrs.resume_projection('{name}')")

    # ---- processes ----------------------------------------------------------

    def signal(self, which, function):
        self.session.query(f'SELECT {function}(pid) FROM pg_stat_activity WHERE {which} ORDER BY random() LIMIT 1')

    def kill(self, which):
        rows = self.session.query(f'SELECT pid FROM pg_stat_activity WHERE {which} ORDER BY random() LIMIT 1')
        if rows:
            os.kill(rows[0][0], signal.SIGKILL)

    def terminate(self):
        self.signal(CLIENTS, 'pg_terminate_backend')

    def terminate_worker(self):
        self.signal(WORKERS, 'pg_terminate_backend')

    def cancel(self):
        self.signal(CLIENTS, 'pg_cancel_backend')

    def kill_backend(self):
        self.kill(CLIENTS)

    def kill_worker(self):
        self.kill(WORKERS)

    def kill_server_process(self):
        self.kill(SERVER)

    def restart_immediate(self):
        self.cluster.restart_primary('immediate')

    def restart_fast(self):
        self.cluster.restart_primary('fast')

    def fail_over(self):
        """A standby that is waited for takes over; the one after it is made at once."""
        self.cluster.caught_up()
        self.cluster.fail_over(self.random.random() * 0.5)
        self.cluster.attach()

    # ---- maintenance --------------------------------------------------------

    def vacuum(self):
        self.session.query(self.random.choice(['VACUUM ', 'VACUUM (FREEZE) ', 'VACUUM (ANALYZE) ']) + self.random.choice(TABLES))

    def vacuum_full(self):
        self.session.query('VACUUM FULL ' + self.random.choice(TABLES[1:]))

    def reindex(self):
        table = self.random.choice(TABLES)
        self.session.query(f'REINDEX TABLE {self.random.choice(["", "CONCURRENTLY "])}{table}')

    def checkpoint(self):
        self.session.query('CHECKPOINT')

    def old_snapshot(self):
        """A transaction that sees, and keeps others from vacuuming, what is past."""
        self.session.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
        before = self.session.value('SELECT count(*) FROM cqrs.journal')
        self.stopping.wait(1)
        if self.session.value('SELECT count(*) FROM cqrs.journal') != before:
            self.torture.surprise('a snapshot has changed')
        self.session.query('COMMIT')

    # ---- entities -----------------------------------------------------------

    def alter_entity(self):
        self.session.query("SELECT cqrs.alter_entity('Account', snapshot_every => %s, keep_snapshots => %s)",
                           (self.random.choice([0, 2, 10, 100]), self.random.choice([1, 2, 5])))

    def replace_handler(self):
        """The same function, and the same again with another text, so that the generation of snapshots changes."""
        definition = self.session.value("SELECT pg_get_functiondef('fold'::regproc)")
        self.session.query(re.sub(r'\$function\$.*\n', f'$function$ -- {self.random.random()}\n', definition, count=1))

    def snapshots(self):
        self.session.query(self.random.choice([
            "SELECT cqrs.drop_snapshots('Account')", "SELECT cqrs.drop_snapshots('Account', 'a-0')",
            "SELECT cqrs.take_snapshot('Account', 'a-0')", "SELECT cqrs.on_event('Account', '*', 'fold')"]))

    def drop_entity(self):
        self.session.query("SELECT cqrs.drop_entity('Fleeting')")
        self.stopping.wait(self.random.random() * 0.1)
        self.create_entity()

    def create_entity(self):
        self.session.insist("SELECT create_type('Fleeting', 3) WHERE NOT EXISTS"
                            " (SELECT FROM cqrs.entity WHERE entity_type = 'Fleeting')")

    # ---- projections --------------------------------------------------------

    def alter_projection(self):
        self.session.query('SELECT cqrs.alter_projection(%s, batch_size => %s)',
                           (self.random.choice(['plain', 'split', 'picky', 'flawed', 'sync_row', 'manager']),
                            self.random.choice([1, 10, 100, 1000])))

    def split_projection(self):
        self.session.query("SELECT cqrs.alter_projection('split', partitions => %s)", (self.random.choice([1, 2, 3, 7]),))

    def drop_projection(self):
        self.session.query("SELECT cqrs.drop_projection('changing')")
        self.stopping.wait(self.random.random() * 0.1)
        self.create_projection()

    def create_projection(self):
        self.session.insist('SELECT create_changing(%s) WHERE NOT EXISTS'
                            " (SELECT FROM cqrs.projection WHERE name = 'changing')", (self.random.choice(['async', 'sync']),))

    def rebuild_projection(self):
        self.session.query('SELECT cqrs.rebuild_projection(%s)', (self.random.choice(['rebuilt', 'changing']),))

    def pause_projection(self):
        name = self.random.choice(['plain', 'split'])
        self.session.query('SELECT cqrs.pause_projection(%s)', (name,))
        self.stopping.wait(self.random.random() * 0.2)
        self.session.query('SELECT cqrs.resume_projection(%s)', (name,))

    def flaw(self):
        self.session.query('UPDATE flaw SET rate = %s', (self.random.choice([0, 0.01, 0.1]),))
        self.session.query("SELECT cqrs.retry_parked('flawed')")

    # ---- services and workers -----------------------------------------------

    def service(self):
        self.stub.mode(self.random.choice(STUB_MODES))

    def break_service(self):
        self.session.query("SELECT cqrs.force_open('flaky')")
        self.stopping.wait(self.random.random() * 0.2)
        self.session.query("SELECT cqrs.reset_breaker('flaky')")

    def stop_workers(self):
        self.session.query('ALTER SYSTEM SET cqrs.workers = off')
        self.session.query('SELECT pg_reload_conf()')
        self.stopping.wait(self.random.random() * 0.5)
        self.session.query('ALTER SYSTEM RESET cqrs.workers')
        self.session.query('SELECT pg_reload_conf()')

    def number_of_workers(self):
        self.session.query(f'ALTER SYSTEM SET cqrs.projection_workers = {self.random.choice([1, 2, 3])}')
        self.session.query('SELECT pg_reload_conf()')
