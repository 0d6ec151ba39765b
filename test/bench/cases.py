"""The cases: files in the folder cases; README.md says how one is written."""
import re

from server import HERE

# Those of a run that names none. Growth takes gigabytes and is run by name.
ORDER = ['append_new', 'append_any', 'append_100', 'command_10', 'command_100',
         'read_1000', 'state_10', 'state_100', 'state_1000', 'missed',
         'project_each', 'project_set', 'rebuild_each', 'rebuild_set', 'latency_10', 'latency_100', 'latency_1000',
         'call', 'fail_fast', 'outbox', 'outbox_key']


class Case:
    def __init__(self, name, text):
        # What is before the first peer goes for all of them.
        head, *parts = re.split(r'^-- peer: (.*)\n', text, flags=re.M)
        self.name = name
        self.kind = header(head, 'kind') or 'pgbench'
        self.goal = header(head, 'goal')
        self.goal_us = header(head, 'goal_us')		# of CPU more than the base
        self.goal_cpu = header(head, 'goal_cpu')	# as a share of the base's
        self.events = int(header(head, 'events') or 1)
        self.longer = int(header(head, 'longer') or 1)	# slices, so many times
        self.rate = int(header(head, 'rate') or 0)
        self.copies_once = header(head, 'copy') == 'once'
        self.scripts = {label: head + part for label, part in zip(parts[::2], parts[1::2])}


def header(text, name):
    found = re.search(rf'^-- {name}: (.*)$', text, re.M)
    return found and found.group(1)


def load():
    """By name. A file may hold several, which differ in the values that go for <these>."""
    cases = {}
    for path in sorted((HERE / 'cases').glob('*.sql')):
        text = path.read_text()
        for name, values in re.findall(r'^-- case: (\w+)(.*)$', text, re.M):
            values = dict(value.split('=') for value in values.split())
            cases[name] = Case(name, re.sub(r'<(\w+)>', lambda found: values[found.group(1)], text))
    return cases


def store_of(label):
    """The store of a label, which may be one with a variant: "cqrs, no cache"."""
    return label.split(',')[0]
