"""The ways to measure a case."""
import json
import os
import random
import re
import subprocess
import sys

from cases import header
from server import Processor, command, psql, say
from stores import database

WARM_UP_SECONDS = 1
WAL_TRANSACTIONS = 500
PROJECTION_SECONDS = 5		# for programs that would take minutes


class Bench:
    def __init__(self, stores, report, options):
        self.stores = stores
        self.report = report
        self.folder = stores.folder
        self.rounds = int(options['rounds'])
        self.seconds = int(options['seconds'])
        self.clients = int(options['clients'])
        self.settings = f'-c search_path=public,message_store -c synchronous_commit={options["sync"]}'
        self.processor = Processor()

    def run(self, case, all_cases):
        if case.kind == 'follow':
            self.follow(case, all_cases['append_new'])
        elif case.kind == 'latency':
            self.latency(case)
        else:
            self.rates(case)

    # ---- rates: so many rounds, and in each one slice for each store ---------

    def rates(self, case):
        scripts = self.stores.available(case)
        if not scripts:
            return
        take_slice = self.pgbench_slice if case.kind == 'pgbench' else self.script_slice
        slices = {label: [] for label in scripts}
        self.copy(scripts)
        wal = dict.fromkeys(scripts, 0)
        if case.kind == 'pgbench':
            wal = {label: self.wal_bytes(label, text) / case.events for label, text in scripts.items()}
            for label, text in scripts.items():
                self.pgbench(label, text, ['-T', str(WARM_UP_SECONDS)])
        for number in range(1, self.rounds + 1):
            say(f'{case.name}, round {number} of {self.rounds}')
            if case.kind == 'script' and number > 1 and not case.copies_once or max(wal.values()) >= 1:
                self.copy(scripts)
            for label in random.sample(list(scripts), len(scripts)):
                slices[label].append(take_slice(case, label, scripts[label]))
        self.report.add_rates(case, slices, wal)

    def copy(self, scripts):
        self.stores.copy(scripts)
        for label, text in scripts.items():
            setup = header(text, 'setup')
            if setup:
                psql(database(label), setup)

    def pgbench_slice(self, case, label, text, **more):
        """Transactions a second, and microseconds of backends' CPU for one."""
        before = self.processor.of_ended()
        output = self.pgbench(label, text, ['-T', str(self.seconds * case.longer)], **more)
        cpu = self.processor.of_ended() - before
        count = int(re.search(r'actually processed: (\d+)', output).group(1))
        if count == 0:
            sys.exit(f'{case.name}: no transaction of {label} ended within {self.seconds} s; give it more seconds')
        return float(re.search(r'tps = ([\d.]+)', output).group(1)), cpu * 1e6 / count

    def script_slice(self, case, label, text):
        """Events a second, and microseconds of the whole server's CPU for one. The script says how long they took."""
        program = header(text, 'program')
        before = self.processor.of_all()
        if program:
            events, seconds = command(['node', *program.split(), database(label), str(case.events), str(PROJECTION_SECONDS)],
                                      cwd=self.folder, env=self.environment(text)).split()
        else:
            seconds = psql(database(label), '-f', self.script(text), env=self.environment(text)).split()[-1]
            events = case.events
        cpu = self.processor.of_all() - before
        return int(events) / float(seconds), cpu * 1e6 / int(events)

    def wal_bytes(self, label, text):
        """Of one transaction; of a client alone, so that it is always the same."""
        position = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
        self.pgbench(label, text, ['-t', '20', '--random-seed=1'], clients=1)
        before = int(psql(database(label), position))
        self.pgbench(label, text, ['-t', str(WAL_TRANSACTIONS), '--random-seed=2'], clients=1)
        return (int(psql(database(label), position)) - before) / WAL_TRANSACTIONS

    # ---- what is no rate -----------------------------------------------------

    def follow(self, case, writers):
        """Events that a reader misses while writers append."""
        for label, text in self.stores.available(case).items():
            say(f'{case.name}, {label}')
            self.stores.copy([label])
            reader = subprocess.Popen(['psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', self.script(text), database(label)],
                                      env=self.environment(text), stderr=subprocess.PIPE, text=True)
            self.pgbench(label, writers.scripts[label], ['-T', str(2 * self.seconds)])
            psql(database(label), 'CREATE TABLE writers_finished ()')
            said = reader.communicate()[1]
            found = re.search(r'NOTICE: *(.*)', said)
            if reader.returncode or not found:
                sys.exit(f'the reader failed:\n{said}')
            self.report.add_remark(case.name, label, found.group(1))

    def latency(self, case):
        """From the commit of a command to the commit of its projection, by the times that the server keeps of both."""
        measured = []
        self.stores.copy(['cqrs'])
        psql(database('cqrs'), 'CALL follow_at_once()')
        for number in range(1, self.rounds + 1):
            say(f'{case.name}, round {number} of {self.rounds}')
            self.pgbench('cqrs', case.scripts['cqrs'], ['-T', str(4 * self.seconds), '-R', str(case.rate)])
            measured.append([float(ms) for ms in psql(database('cqrs'), 'CALL latencies(NULL, NULL)').split('|')])
        self.report.add_latency(case, 'cqrs', measured)

    # ---- running things ------------------------------------------------------

    def pgbench(self, label, text, arguments, clients=None, name=None):
        clients = clients or self.clients
        variables = [f'-D{name}={value}' for name, value in
                     {**VALUES, 'clients': clients, 'port': self.stores.port}.items()]
        return command(['pgbench', '-n', '-M', 'prepared', '-c', str(clients), '-j', str(min(clients, os.cpu_count())),
                        '-f', self.script(text), *variables, *arguments, name or database(label)],
                       env=self.environment(text))

    def environment(self, text):
        setting = header(text, 'set')
        return dict(os.environ, PGOPTIONS=self.settings + (f' -c {setting}' if setting else ''))

    def script(self, text):
        path = self.folder / f'{abs(hash(text))}.sql'
        path.write_text(text)
        return path


# ---- what the events say ----------------------------------------------------------

def array(values):
    return '{' + ','.join(json.dumps(value) for value in values) + '}'


DATA = json.dumps({'amount': 120, 'currency': 'EUR', 'reference': 'inv-0000123456', 'note': 'monthly subscription'})
METADATA = json.dumps({'correlation_id': '0123456789abcdef0123456789abcdef', 'user': 'u42'})
VALUES = {
    'data': DATA, 'metadata': METADATA,
    'data_100': array([DATA] * 100), 'metadata_100': array([METADATA] * 100),
    'partition': 'emt:default',
    'id_100': array(f'{i:08x}-1111-4111-8111-111111111111' for i in range(100)),
}
