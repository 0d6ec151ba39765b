"""Those who write and those who read, each with a log of its own.

A client's log says of each transaction what it wrote and what it was told:
acknowledged, or void (it was told that nothing was done, or has rolled back),
or unsure (the connection was lost, or the commit was asynchronous).
"""
import json
import threading
import time
import uuid

from cluster import Failed, Lost, Session

ACCOUNTS = 300

# What may happen to a statement while others write, alter, drop and restart.
EXPECTED = {
    '40001': 'serialization failure', '40P01': 'deadlock', '55P03': 'lock timeout', '57014': 'cancelled',
    'QR001': 'version conflict', 'QR002': 'rejected', 'QR003': 'no such entity type', 'QR004': 'no handler yet',
    'QR005': 'no event handler yet', '42704': 'no such object any more',
}


class Log:
    """Lines of JSON in a file: a client's memory."""

    def __init__(self, folder, name):
        self.path = f'{folder}/{name}.log'
        self.file = open(self.path, 'w', encoding='utf-8')

    def write(self, **line):
        self.file.write(json.dumps(line) + '\n')

    def read(self):
        self.file.flush()
        with open(self.path, encoding='utf-8') as file:
            yield from map(json.loads, file)


class Actor(threading.Thread):
    """Repeats its step until it is told to stop."""

    def __init__(self, torture, name):
        super().__init__(name=name, daemon=True)
        self.torture, self.random = torture, torture.random_of(name)
        self.log = Log(torture.folder, name)
        self.stopping = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.stopping.is_set():
                self.step()
        except Exception as error:          # whatever it is, the run has failed
            self.error = error
            self.torture.surprise(f'{self.name}: {type(error).__name__}: {error}')

    def stop(self):
        self.stopping.set()

    def step(self):
        raise NotImplementedError


class Writer(Actor):
    """Sends and appends. A lazy one commits asynchronously, so a failover may take back what it was told."""

    def __init__(self, torture, name, entity_type='Account', lazy=False):
        settings = ["statement_timeout = '20s'", "lock_timeout = '5s'"]
        super().__init__(torture, name)
        self.session = Session(torture.cluster, name, settings=settings + ['synchronous_commit = off'] * lazy)
        self.entity_type, self.lazy = entity_type, lazy
        self.operations = 0
        self.versions = {}
        self.timers = []
        self.choices = {
            self.add: 8, self.add_at_version: 3, self.refuse: 1, self.pay: 2, self.later: 2, self.cancel: 1,
            self.append: 3, self.append_without_id: 2, self.transaction: 3, self.prepare: 1,
        }
        if entity_type == 'Fleeting':
            self.choices = {self.add: 2, self.append: 1, self.pause: 6}

    def step(self):
        self.operate()
        if self.lazy:
            self.pause()

    def operate(self):
        self.operations += 1
        self.random.choices(list(self.choices), self.choices.values())[0]()

    def pause(self):
        self.stopping.wait(self.random.random() * 0.02)

    # ---- what is written ----------------------------------------------------

    def tag(self):
        return f'{self.name}-{self.operations}'

    def entity(self):
        if self.entity_type == 'Fleeting':
            return self.entity_type, f'f-{self.random.randrange(20)}'
        return self.entity_type, f'a-{int(ACCOUNTS * self.random.random() ** 3)}'

    def send(self, entity, command, data, tags, expected=None, command_id=None):
        """One command; the write that it was, as the log has it."""
        row = self.session.query(
            'SELECT version, position, reply FROM cqrs.send(%s, %s, %s, %s, %s, %s)',
            (*entity, command, json.dumps(data), expected, command_id))[0]
        self.versions[entity] = row[0]
        return {'entity': entity, 'tags': tags, 'version': row[0], 'position': row[1], 'met': row[2]}

    def send_add(self, entity, tag, **how):
        events = self.random.choice([1, 1, 1, 2, 5])
        data = {'tag': tag, 'events': events, 'amount': self.random.randrange(1000)}
        if self.random.random() < 0.1:
            data['echo'] = True
        return lambda: self.send(entity, 'Add', data, [f'{tag}.{n}' for n in range(events)], **how)

    def send_append(self, entity, tag, command_id=None):
        tags = [f'{tag}.{n}' for n in range(self.random.choice([1, 1, 3, 20]))]
        amount = self.random.randrange(1000)

        def write():
            row = self.session.query(
                'SELECT version, position FROM cqrs.append(%s, %s, (SELECT array_agg(cqrs.new_event('
                "'Appended', jsonb_build_object('tag', tag, 'amount', %s)) ORDER BY n)"
                ' FROM unnest(%s) WITH ORDINALITY AS t(tag, n)), command_id => %s)',
                (*entity, amount, tags, command_id))[0]
            return {'entity': entity, 'tags': tags, 'version': row[0], 'position': row[1], 'met': None}
        return write

    # ---- what the client is told --------------------------------------------

    def record(self, outcome, writes):
        if outcome == 'acknowledged' and self.lazy:
            outcome = 'unsure'
        self.log.write(outcome=outcome, writes=writes)

    def void(self, tags, failure=None):
        if failure is not None:
            self.torture.count_error(self.name, failure, EXPECTED)
        self.record('void', [{'tags': tags}])

    def until_known(self, write, tags):
        """A write that has a command_id, repeated until its outcome is known."""
        while True:
            try:
                self.record('acknowledged', [write()])
                return True
            except Lost:
                continue
            except Failed as failure:
                if failure.sqlstate in ('57014', '55P03', '40P01', '40001'):
                    self.torture.count_error(self.name, failure, EXPECTED)
                    continue
                self.void(tags, failure)
                return False

    def once(self, write, tags):
        try:
            self.record('acknowledged', [write()])
        except Lost:
            self.record('unsure', [{'tags': tags}])
        except Failed as failure:
            self.void(tags, failure)

    # ---- the operations -----------------------------------------------------

    def command_id(self):
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def add(self):
        self.until_known(self.send_add(self.entity(), self.tag(), command_id=self.command_id()),
                         [f'{self.tag()}.{n}' for n in range(5)])

    def add_at_version(self):
        entity = self.entity()
        self.until_known(self.send_add(entity, self.tag(), command_id=self.command_id(),
                                       expected=self.versions.get(entity, 0)), [f'{self.tag()}.{n}' for n in range(5)])
        self.versions.pop(entity, None)

    def refuse(self):
        self.once(lambda: self.send(self.entity(), 'Refuse', {'tag': self.tag()}, [self.tag()]), [self.tag()])

    def pay(self):
        path = self.random.choice(['/mode', '/mode', '/mode', '/status/404'])
        data = {'tag': self.tag(), 'amount': 1, 'path': f'{path}?{self.tag()}', 'key': self.name, 'to': self.entity()[1]}
        entity, command_id = self.entity(), self.command_id()
        self.until_known(lambda: self.send(entity, 'Pay', data, [self.tag()], command_id=command_id), [self.tag()])

    def later(self):
        data = {'tag': self.tag(), 'to': self.entity()[1], 'after': f'{self.random.choice([0, 0.1, 1, 3])} s'}
        entity, command_id = self.entity(), self.command_id()
        if self.until_known(lambda: self.send(entity, 'Later', data, [self.tag()], command_id=command_id), [self.tag()]):
            self.timers.append((entity, self.tag()))

    def cancel(self):
        """Cancels a timer; that it did, and what came of it, is an event of the same transaction."""
        if not self.timers:
            return
        entity, scheduled = self.timers.pop(self.random.randrange(len(self.timers)))
        tag = self.tag()

        def write():
            row = self.session.query(
                'WITH timer AS (SELECT data FROM cqrs.history(%s, %s)'
                " WHERE data ->> 'tag' = %s AND event_type = 'Scheduled'),"
                " cancelled AS MATERIALIZED (SELECT cqrs.cancel_scheduled((data ->> 'timer')::uuid) AS it FROM timer)"
                " SELECT version, position FROM cancelled, cqrs.append('Log', 'cancelled', ARRAY[cqrs.new_event('Cancelled',"
                " jsonb_build_object('tag', %s, 'amount', 0, 'scheduled', %s, 'cancelled', it))])",
                (*entity, scheduled, tag, scheduled))
            if not row:                     # an asynchronous commit that was lost
                return {'tags': []}
            return {'entity': ('Log', 'cancelled'), 'tags': [tag], 'version': row[0][0], 'position': row[0][1], 'met': None}
        self.once(write, [tag])

    def append(self):
        entity = self.entity() if self.entity_type == 'Fleeting' else ('Log', f'l-{self.random.randrange(30)}')
        self.until_known(self.send_append(entity, self.tag(), self.command_id()), [f'{self.tag()}.{n}' for n in range(20)])

    def append_without_id(self):
        self.once(self.send_append(self.entity(), self.tag()), [f'{self.tag()}.{n}' for n in range(20)])

    def write_some(self):
        """Some writes of a transaction, a part of which may be rolled back."""
        writes = []
        for n in range(self.random.randrange(1, 5)):
            tag = f'{self.tag()}/{n}'
            write = self.random.choice([self.send_add, self.send_append])(self.entity(), tag)
            if self.random.random() < 0.2:
                self.session.query('SAVEPOINT part')
                self.record('void', [write()])
                self.session.query('ROLLBACK TO part')
            else:
                writes.append(write())
        return writes

    def possible_tags(self):
        return [f'{self.tag()}/{n}.{m}' for n in range(5) for m in range(20)]

    def transaction(self):
        ending = self.random.choice(['COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK'])
        writes, committing = [], False
        try:
            self.session.query('BEGIN')
            writes = self.write_some()
            committing = ending == 'COMMIT'
            self.session.query(ending)
            self.record('acknowledged' if committing else 'void', writes)
        except Lost:
            self.record('unsure' if committing else 'void', writes)
        except Failed as failure:
            self.void(self.possible_tags(), failure)
            self.roll_back()

    def prepare(self):
        """A prepared transaction, which outlives its connection and is ended by another."""
        name, writes, step = self.tag(), [], 'nothing'
        ending = self.random.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])
        try:
            self.session.query('BEGIN')
            writes = self.write_some()
            step = 'preparing'
            self.session.query(f"PREPARE TRANSACTION '{name}'")
            step = 'prepared'
            self.session.query(f"{ending} PREPARED '{name}'")
            self.record('acknowledged' if ending == 'COMMIT' else 'void', writes)
        except Lost:
            self.resolve(name, ending, step, writes)
        except Failed as failure:
            self.void(self.possible_tags(), failure)
            self.roll_back()

    def resolve(self, name, ending, step, writes):
        if step == 'nothing':
            self.record('void', writes)
        elif self.session.insist('SELECT count(*) FROM pg_prepared_xacts WHERE gid = %s', (name,))[0][0]:
            try:
                self.session.query(f"{ending} PREPARED '{name}'")
                self.record('acknowledged' if ending == 'COMMIT' else 'void', writes)
            except Lost:
                self.resolve(name, ending, 'prepared', writes)
        elif ending == 'ROLLBACK':
            self.record('void', writes)
        else:
            # It was prepared, so it is committed by now; or it never was.
            self.record('acknowledged' if step == 'prepared' else 'unsure', writes)

    def roll_back(self):
        try:
            self.session.query('ROLLBACK')
        except Lost:
            pass


class Follower(Actor):
    """Reads the journal in order and keeps its offset, as a consumer outside the database does.

    One on the standby stays connected when that is promoted, and then comes back from the primary.
    """

    def __init__(self, torture, name, role='primary', slices=None):
        super().__init__(torture, name)
        self.session = Session(torture.cluster, name, role, ["statement_timeout = '20s'"])
        self.slices = slices
        self.position = 0

    def step(self):
        try:
            if not self.read():
                self.wait()
        except Lost:
            self.stopping.wait(0.05)
        except Failed as failure:
            nothing_yet = failure.sqlstate == 'QR020' or (failure.sqlstate == '0A000' and self.position == 0)
            if not nothing_yet:             # on a standby: no mark has arrived yet
                self.torture.count_error(self.name, failure, EXPECTED)
            self.stopping.wait(0.02)

    def read(self):
        rows = self.session.query(
            "SELECT position, data ->> 'tag' FROM cqrs.read_events(%s, 500, slices => %s::int4range)",
            (self.position, self.slices))
        for position, tag in rows:
            self.log.write(position=position, tag=tag)
            self.position = position
        return len(rows)

    def wait(self):
        """For events; there may be none up to the mark that it gives, now or ever, so that is read from next."""
        mark = self.session.value("SELECT cqrs.wait_for_event(%s, '200 ms')", (self.position,))
        if not self.read():
            self.position = max(self.position, mark)

    def catch_up(self, end, deadline_s):
        """To a mark, after all others have stopped. A standby comes to it a moment later."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            try:
                if self.session.value('SELECT cqrs.high_water_mark()') >= end and not self.read():
                    return
            except (Lost, Failed):
                pass
        self.torture.surprise(f'{self.name} does not come to {end}')
