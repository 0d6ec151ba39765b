"""What becomes of costs and of memory as the journal grows. Run by name only: the largest takes 5 GB and minutes.

Each operation goes to the same thousand entities, or the last 10,000 events, whatever the size of the journal, so
all that it needs is warm: what is compared is what the size itself costs.
"""
import random

from cases import Case
from server import HERE, createdb, prewarm, psql, say, seconds

SIZES = {'10k': 10_000, '1M': 1_000_000, '10M': 10_000_000}
HEAD = """-- goal_cpu: 1.3
\\set n random(0, 999) * (<events> / 10000)
\\set after <events> - random(1001, 9000)
"""
OPERATIONS = {
    'state': "-- set: cqrs.state_cache_size=0\nSELECT cqrs.state('account', 'e' || :n);",
    'read_events': 'SELECT * FROM cqrs.read_events(:after, 1000);',
    'append': "SELECT cqrs.append('account', 'e' || :n, ARRAY[cqrs.new_event('Deposited', :data, :metadata)]);",
    'append_new': "\\set id random(1, 1000000000000000000)\n"
                  "SELECT cqrs.append('account', 'n' || :id, ARRAY[cqrs.new_event('Deposited', :data, :metadata)], 0);",
    'send': "SELECT cqrs.send('account', 'e' || :n, 'Deposit', :data, metadata => :metadata);",
}
PROJECTED = 9000		# events of the projection at a time, in batches of 500
TIMES = 20
SENDS = 100_000


def run(bench):
    make_journals()
    measure_projection(bench)
    for name, operation in OPERATIONS.items():
        peers = ''.join(f'-- peer: {size}\n{(HEAD + operation).replace("<events>", str(events))}\n'
                        for size, events in SIZES.items())
        measure(bench, Case(f'growth_{name}', '-- goal_cpu: 1.3\n' + peers))
    measure_memory(bench)


def make_journals():
    createdb('growth_original', 'template0')
    psql('growth_original', 'CREATE EXTENSION pg_prewarm', 'CREATE TABLE seed (position bigint, entity_id text, version'
         ' bigint, event_type text, data jsonb, metadata jsonb)')
    psql('growth_original', '-v', 'port=1', '-f', HERE / 'peers' / 'cqrs.sql')
    for size, events in SIZES.items():
        say(f'a journal of {size} events')
        createdb(f'growth_{size}', 'growth_original')
        psql(f'growth_{size}', '-v', f'events={events}', '-f', HERE / 'growth.sql')
        prewarm(f'growth_{size}')


def measure(bench, case):
    slices = {size: [] for size in SIZES}
    for number in range(bench.rounds + 1):		# the first warms up
        say(f'{case.name}, round {number} of {bench.rounds}')
        for size in random.sample(list(SIZES), len(SIZES)):
            taken = bench.pgbench_slice(case, size, case.scripts[size], clients=1, name=f'growth_{size}')
            if number > 0:
                slices[size].append(taken)
    bench.report.add_rates(case, slices)


def measure_projection(bench):
    slices = {size: [] for size in SIZES}
    workers = {size: start_projection(f'growth_{size}') for size in SIZES}
    for number in range(bench.rounds + 1):
        say(f'growth_projection, round {number} of {bench.rounds}')
        for size, worker in workers.items():
            before = seconds(worker)
            taken = float(psql(f'growth_{size}', f'CALL project_again({PROJECTED}, {TIMES}, NULL)'))
            events = PROJECTED * TIMES
            if number > 0:
                slices[size].append((events / taken, (seconds(worker) - before) * 1e6 / events))
    bench.report.add_rates(Case('growth_projection', '-- goal_cpu: 1.3\n'), slices)
    for size in SIZES:
        psql(f'growth_{size}', "SELECT cqrs.drop_projection('count_events')")


def measure_memory(bench):
    say('growth_memory')
    size = list(SIZES)[1]
    used = psql(f'growth_{size}', '-v', f'events={SENDS}', '-f', HERE / 'memory.sql')
    bench.report.add_remark('growth_memory', 'backend', f'after {SENDS // 2:,} and {SENDS:,} commands: {used}')
    worker = start_projection(f'growth_{size}')
    used = []
    for events in SIZES[size] // 10, SIZES[size]:
        psql(f'growth_{size}', f'CALL project_again({events}, 1, NULL)')
        used.append(f'{anonymous_kb(worker)} kB')
    bench.report.add_remark('growth_memory', 'worker', f'after {SIZES[size] // 10:,} and {SIZES[size]:,} events: {" ".join(used)}')


def start_projection(database):
    """Returns the process that runs it."""
    psql(database, "CALL start_projection('count_events', 1, NULL)")
    return psql(database, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type ~ 'projection'")


def anonymous_kb(pid):
    with open(f'/proc/{pid}/status') as file:
        return next(line.split()[1] for line in file if line.startswith('RssAnon'))
