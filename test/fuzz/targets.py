"""What is fuzzed: each target makes a statement of random values, and says which errors may answer it."""
import json

SCHEMA = """
CREATE EXTENSION pg_cqrs;
CREATE FUNCTION decide(state jsonb, command cqrs.command) RETURNS cqrs.effect LANGUAGE sql AS
    $$ SELECT CASE WHEN command.data ? 'effect' THEN jsonb_populate_record(NULL::cqrs.effect, command.data -> 'effect')
        ELSE cqrs.persist('Done', command.data, state) END $$;
CREATE FUNCTION fold(state jsonb, event cqrs.event) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT CASE WHEN event.event_type = 'Odd' THEN event.data -> 'state' ELSE state || jsonb_build_object(event.event_type, event.version) END $$;
CREATE FUNCTION upcast(event cqrs.event) RETURNS cqrs.event LANGUAGE sql AS
    $$ SELECT CASE WHEN jsonb_typeof(event.data) = 'object' THEN jsonb_populate_record(event, event.data - '{position,slice,version,schema_version,created_at}'::text[])
        ELSE event END $$;
CREATE FUNCTION note(event cqrs.event) RETURNS void LANGUAGE sql AS $$ $$;
CREATE TABLE model (x int);
SELECT cqrs.create_entity('User', snapshot_every => 2), cqrs.on_command('User', '*', 'decide'), cqrs.on_event('User', '*', 'fold');
SELECT cqrs.create_entity('Order', snapshot_every => 0), cqrs.on_command('Order', '*', 'decide'), cqrs.on_event('Order', 'Done', 'cqrs.merge'),
    cqrs.on_upcast('Order', 'Done', 1, 'upcast');
SELECT cqrs.create_projection('notes', 'note', mode => 'sync');
"""
CREATE_SERVICE = """
CREATE SERVER service FOREIGN DATA WRAPPER cqrs_http OPTIONS (url 'http://127.0.0.1:{port}/api', allow_http 'true', breaker 'off',
    call_timeout '100ms', max_response_size '64kB');
CREATE USER MAPPING FOR PUBLIC SERVER service OPTIONS (bearer_token 't')
"""

DATA = {'22'}                               # data exceptions: a class
WRITE = DATA | {'QR001', 'QR002', 'QR003', 'QR004', 'QR005', 'QR006', '54000', '54001', '40001', '55006'}
CALL = DATA | {'QR010', 'QR011', 'QR012', '54000', '54001', '53400', '42704'}
OPTION = DATA | {'HV', '42', '54000'}
# Functions with any arguments may say much, but not that something is broken.
ANY = WRITE | CALL | OPTION | {'02', '0A', '2F003', '25', '3F', '55', '57014', 'QR', 'P0001', '53400', '2BP01', '39P01'}

# These take what other targets need, for longer than their transaction.
NOT_CALLED = ('cqrs.force_open', 'cqrs.disable_breaker', 'cqrs.drop_entity', 'cqrs.drop_projection', 'cqrs.guard_journal', 'cqrs.http_validator', 'cqrs.on_event', 'cqrs.on_command',
              'cqrs.on_upcast')


class Targets:
    def __init__(self, values, functions):
        self.values, self.functions = values, functions
        self.calls = 0
        self.all = {self.append: 4, self.send: 6, self.read: 2, self.options: 3, self.mapping: 1, self.call: 4, self.response: 4,
                    self.enqueue: 1, self.any_function: 6}

    def next(self):
        """A statement, its parameters, and the errors that may come: SQLSTATEs, or classes of them."""
        return self.values.random.choices(list(self.all), self.all.values())[0]()

    def append(self):
        values = self.values
        events = [(values.some(values.choice('Done', 'Odd', values.text()), 0.05), values.some(values.json(), 0.05), values.some(values.object(), 0.6))
                  for _ in range(values.random.choice([0, 1, 1, 2, 10]))]
        array = ', '.join(['cqrs.new_event(%s, %s, %s)'] * len(events))
        return ('SELECT * FROM cqrs.append(%s, %s, ' + values.choice(f'ARRAY[{array}]::cqrs.new_event[]', f'ARRAY[{array}]::cqrs.new_event[] || NULL::cqrs.new_event')
                + ', %s, %s)', (values.some(values.name(), 0.02), values.some(values.identifier(), 0.02), *[v for event in events for v in event],
                                values.some(values.number(), 0.7), values.some(values.uuid(), 0.7)), WRITE)

    def send(self):
        values = self.values
        data = values.json()
        if values.random.random() < 0.6:
            data = json.dumps({'effect': values.effect()})
        return ('SELECT * FROM cqrs.send(%s, %s, %s, %s, %s, %s, %s)',
                (values.name(), values.some(values.identifier()), values.some(values.text(), 0.02), values.some(data, 0.02),
                 values.some(values.number(), 0.8), values.some(values.uuid(), 0.8), values.some(values.object(), 0.5)), WRITE)

    def read(self):
        values = self.values
        return values.choice(
            ('SELECT cqrs.state(%s, %s, %s)', (values.name(), values.identifier(), values.some(values.number(), 0.5)), WRITE),
            ('SELECT count(*) FROM cqrs.history(%s, %s, %s)', (values.name(), values.identifier(), values.number()), WRITE),
            ('SELECT count(*) FROM cqrs.read_events(%s, %s, %s, %s, %s, int4range(0, %s))',
             (values.number(), values.integer(), values.some([values.name()], 0.5), values.some([values.text(), None], 0.5),
              values.some(values.number(), 0.7), values.some(values.random.randrange(1100), 0.5)), WRITE))

    def options(self):
        values = self.values
        names = ['url', 'allow_http', 'call_timeout', 'connect_timeout', 'max_concurrency', 'max_response_size', 'sslrootcert', 'breaker', 'max_failures',
                 'reset_timeout', 'max_reset_timeout', 'backoff_factor', 'jitter', 'failure_statuses', 'event_source', 'bearer_token']
        url = values.choice('https://b', 'http://b/api', 'https://b/' + values.text(), values.choice('http', 'https', '') + '://' + values.text())
        return self.with_options('CREATE SERVER tried FOREIGN DATA WRAPPER cqrs_http OPTIONS (url %s', (url,), names, 'DROP SERVER tried')

    def mapping(self):
        names = ['bearer_token', 'user', 'password', 'signing_secret', 'sslcert', 'sslkey', 'header_x', 'header_' + (self.values.text() or 'x')]
        return self.with_options('CREATE USER MAPPING FOR postgres SERVER service OPTIONS (header_y %s', (self.values.text(),), names,
                                 'DROP USER MAPPING FOR postgres SERVER service')

    def with_options(self, head, parameters, names, undo):
        """Created and dropped in one: what passes the validator must be readable, too."""
        values = self.values
        given = [values.choice(*names) for _ in range(values.random.randrange(4))]
        for name in given:
            head += ', "' + name.replace('"', '""').replace('%', '%%') + '" %s'
            parameters += (values.choice(values.text(), str(values.number()) + values.choice('', 's', 'ms', 'MB', 'h', ' '), '5xx', '429,5xx', 'on', 'off', '0.5',
                                         '1e400', 'whsec_' + values.text()),)
        return f'{head}); {undo}', parameters, OPTION

    def call(self):
        """A request of any kind."""
        values = self.values
        self.calls += 1
        bodies = [values.some(body, 0.8) for body in (values.json(), values.text(), values.bytes())]
        path = values.choice(f'/r/{self.calls}', f'/r/{self.calls}{values.text()}', values.text())
        return ("SELECT * FROM cqrs.call('service', %s, %s, %s, %s, %s, %s, %s, %s)",
                (values.choice('GET', 'POST', 'PUT', 'HEAD', 'DELETE', values.text()), path, *bodies, values.some(values.object(), 0.6),
                 values.some(values.object(), 0.4), values.some(values.text(), 0.7)), CALL)

    def response(self):
        """A plain request that is answered by anything."""
        self.calls += 1
        return ("SELECT * FROM cqrs.call('service', %s, %s)", (self.values.choice('GET', 'POST', 'HEAD'), f'/r/{self.calls}'), CALL)

    def enqueue(self):
        values = self.values
        self.calls += 1
        return ("SELECT cqrs.enqueue('service', %s, %s, body => %s, headers => %s, ordering_key => %s, reply_entity_type => 'User',"
                " reply_entity_id => %s, reply_command => %s, max_attempts => %s)",
                ('POST', f'/r/{self.calls}', values.some(values.json(), 0.5), values.some(values.object(), 0.6), values.some(values.text(), 0.5),
                 values.identifier(), values.some(values.text()), values.choice(1, 1, 2, 3, values.integer())), WRITE | CALL)

    def any_function(self):
        """Any function of the schema, with any arguments of its types, and nothing of it stays."""
        name, types = self.values.random.choice(self.functions)
        return (f'BEGIN; SELECT * FROM {name}({", ".join("%s::" + one for one in types)}); ROLLBACK',
                tuple(self.values.some(self.argument(one), 0.15) for one in types), ANY)

    def argument(self, of_type):
        values = self.values
        if of_type.endswith('[]'):
            return '{' + ','.join(self.values.choice('NULL', '1', 'User', '""') for _ in range(values.random.randrange(3))) + '}'
        return {
            'text': lambda: values.choice(values.text(), values.name(), values.identifier(), 'notes', 'service', 'note', 'async', 'sync', 'park', 'model'),
            'name': lambda: values.choice('postgres', 'nobody'), 'jsonb': values.json, 'uuid': values.uuid,
            'bytea': values.bytes, 'boolean': lambda: values.choice(True, False),
            'interval': lambda: values.choice('0', '1 ms', '-1 s', '10 ms', '1 month'),
            'timestamp with time zone': lambda: values.choice('now', 'infinity', '-infinity', '2000-01-01', 'epoch', '294276-12-31'),
            'int4range': lambda: values.choice('empty', '(,)', '[0,5)', '[5,)', '[-5,3000)'),
            'bigint': values.number, 'integer': values.integer,
        }.get(of_type, lambda: None)()
