"""What must be true afterwards, by what clients, followers and the service have noted.

A check takes the evidence and yields complaints. Nothing here trusts the
database: states and read models are folded anew from the journal, and the
journal is compared with what its clients were told. Each check has plants:
changes of the evidence that it must complain of.
"""
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import NamedTuple

DERIVED = ('fire-', 'reply-', 'echo-')     # tags of events that no client has written


class Event(NamedTuple):
    position: int
    entity: tuple
    version: int
    event_type: str
    data: dict
    created_at: object

    @property
    def tag(self):
        return self.data['tag']


@dataclass
class Evidence:
    journal: list = field(default_factory=list)         # by position
    operations: list = field(default_factory=list)      # of all clients, each with its outcome and writes
    seen: dict = field(default_factory=dict)            # follower: its (position, tag), in order
    slices: dict = field(default_factory=dict)          # follower: the positions that it was to see, or None for all
    models: dict = field(default_factory=dict)          # projection: {entity: (count, sum, chain, version)}
    states: list = field(default_factory=list)          # (entity, version, state)
    requests: list = field(default_factory=list)        # (tag, Idempotency-Key), in order
    left: list = field(default_factory=list)            # what should have been done by then
    surprises: list = field(default_factory=list)       # errors, and lines of the servers' logs

    def by_tag(self):
        return {event.tag: event for event in self.journal}

    def of_type(self, *event_types):
        return [event for event in self.journal if event.event_type in event_types]


def fold(events):
    """{entity: (count, sum, chain, version)}, and each step of it as a generator of (entity, version, count, chain)."""
    states = {}
    for event in events:
        count, total, chain, _ = states.get(event.entity, (0, 0, '', 0))
        chain = hashlib.md5((chain + event.tag).encode()).hexdigest()
        states[event.entity] = (count + 1, total + event.data.get('amount', 0), chain, event.version)
    return states


# ---- the journal ------------------------------------------------------------

def acknowledged(evidence):
    """no acknowledged event is lost, or other than its client was told"""
    by_tag = evidence.by_tag()
    for operation in evidence.operations:
        if operation['outcome'] != 'acknowledged':
            continue
        for write in operation['writes']:
            for n, tag in enumerate(write['tags'], 1 - len(write['tags'])):
                event = by_tag.get(tag)
                if event is None:
                    yield f'{tag} was acknowledged and is not there'
                elif event.entity != tuple(write['entity']) or event.version != write['version'] + n:
                    yield f'{tag} is {event.entity} {event.version}, not {write["entity"]} {write["version"] + n}'
                elif n == 0 and event.position != write['position']:
                    yield f'{tag} is at {event.position}, not {write["position"]}'


def void(evidence):
    """nothing is there that was rolled back or refused, nor a part of a transaction"""
    there = {event.tag for event in evidence.journal}
    for operation in evidence.operations:
        tags = [tag for write in operation['writes'] for tag in write['tags']]
        found = [tag for tag in tags if tag in there]
        if operation['outcome'] == 'void' and found:
            yield f'{found[0]} is there, but its client was told that it is not'
        if operation['outcome'] == 'unsure' and found and operation['writes'][0].get('version') and len(found) < len(tags):
            yield f'{found[0]} is there without the rest of its transaction'


def once(evidence):
    """no event is there twice, and none that nobody has written"""
    known = {tag for operation in evidence.operations if operation['outcome'] != 'void'
             for write in operation['writes'] for tag in write['tags']}
    for tag, times in Counter(event.tag for event in evidence.journal).items():
        if times > 1:
            yield f'{tag} is there {times} times'
        if tag not in known and not tag.startswith(DERIVED):
            yield f'nobody has written {tag}'


def order(evidence):
    """positions are unique; versions have no holes, and rise with positions and time"""
    last = {}
    position = 0
    for event in evidence.journal:
        if event.position <= position:
            yield f'the position {event.position} is there twice'
        position = event.position
        version, created_at = last.get(event.entity, (0, event.created_at))
        if event.version != version + 1:
            yield f'{event.entity} has version {event.version} after {version}'
        if event.created_at < created_at:
            yield f'{event.entity} goes back in time at version {event.version}'
        last[event.entity] = (event.version, event.created_at)


def followed(evidence):
    """followers have seen each event once and in order"""
    for follower, seen in evidence.seen.items():
        wanted = evidence.slices[follower]
        there = [(event.position, event.tag) for event in evidence.journal if wanted is None or event.position in wanted]
        if len(seen) != len(there):
            yield f'{follower} has seen {len(seen)} events of {len(there)}'
        for mine, theirs in zip(seen, there):
            if mine != theirs:
                yield f'{follower} has seen {mine} where {theirs} is'
                break


# ---- states and read models -------------------------------------------------

def states(evidence):
    """states, of now and of the past, are the fold of their events"""
    wanted = defaultdict(list)
    for entity, version, state in evidence.states:
        wanted[entity, version].append((state['count'], state['chain']))
    for operation in evidence.operations:
        for write in operation['writes'] if operation['outcome'] == 'acknowledged' else []:
            met = write['met']
            if met:
                wanted[tuple(write['entity']), met['version']].append((met['count'], met['chain']))
    events = defaultdict(list)
    for event in evidence.journal:
        events[event.entity].append(event)
    for entity, its_events in events.items():
        count, chain = 0, ''
        for event in [None, *its_events]:
            if event is not None:
                count, chain = count + 1, hashlib.md5((chain + event.tag).encode()).hexdigest()
            for state in wanted.pop((entity, count), []):
                if state != (count, chain):
                    yield f'{entity} had {state} at version {count}, not {(count, chain)}'
    for (entity, version), _ in wanted.items():
        yield f'{entity} had a state at version {version}, which it never had'


FILTERS = {
    'picky': lambda event: event.entity[0] == 'Account' and event.event_type == 'Added',
    'rebuilt': lambda event: event.entity[0] == 'Fleeting',
    'changing': lambda event: event.entity[0] == 'Fleeting',
}


def models(evidence):
    """read models are the fold of their events"""
    whole = fold(evidence.journal)
    for name, model in evidence.models.items():
        there = fold(filter(FILTERS[name], evidence.journal)) if name in FILTERS else whole
        for entity in there.keys() | model.keys():
            if there.get(entity) != model.get(entity):
                yield f'{name} has {model.get(entity)} of {entity}, not {there.get(entity)}'


# ---- what follows from events -----------------------------------------------

def deliveries(evidence):
    """each delivery was made, all with one key, and none that was rolled back"""
    keys = defaultdict(set)
    for tag, key in evidence.requests:
        keys[tag].add(key)
    paid = {event.tag: event.data['delivery'] for event in evidence.of_type('Paid')}
    for tag, delivery in paid.items():
        if keys[tag] != {delivery}:
            yield f'{tag} was delivered with {keys[tag] or "nothing"}, not {delivery}'
    for tag in keys.keys() - paid.keys():
        yield f'{tag} was delivered, but never enqueued'


def delivered_in_order(evidence):
    """deliveries of an ordering key were made in its order"""
    paid = {event.tag for event in evidence.of_type('Paid')}
    last, met = {}, set()
    for tag, _ in evidence.requests:
        if tag in paid and tag not in met:
            met.add(tag)
            client, number = tag.split('-')
            if int(number) < last.get(client, 0):
                yield f'{tag} was delivered after {client}-{last[client]}'
            last[client] = int(number)


def exactly_once(evidence, wanted, event_types, what):
    """Each of the wanted tags is there once, and no other of these types."""
    there = Counter(event.tag for event in evidence.of_type(*event_types))
    for tag in wanted:
        if there[tag] != 1:
            yield f'{what} {tag} came {there[tag]} times'
    for tag in there.keys() - set(wanted):
        yield f'{what} {tag} came for nothing'


def replies(evidence):
    """each delivery has had its reply command exactly once"""
    wanted = ['reply-' + event.data['delivery'] for event in evidence.of_type('Paid')]
    yield from exactly_once(evidence, wanted, ['Confirmed', 'Failed'], 'reply')
    failed = {event.tag for event in evidence.of_type('Failed')}
    for event in evidence.of_type('Paid'):
        if event.data['path'].startswith('/status/404') != ('reply-' + event.data['delivery'] in failed):
            yield f'{event.tag} was answered with the wrong command'


def timers(evidence):
    """each timer has fired exactly once, or never if it was cancelled"""
    cancelled = {event.data['scheduled'] for event in evidence.of_type('Cancelled') if event.data['cancelled']}
    wanted = ['fire-' + event.tag for event in evidence.of_type('Scheduled') if event.tag not in cancelled]
    yield from exactly_once(evidence, wanted, ['Fired'], 'timer')


def echoes(evidence):
    """each command of a projection was sent exactly once"""
    wanted = ['echo-' + event.tag for event in evidence.of_type('Added')
              if event.entity[0] == 'Account' and 'echo' in event.data]
    yield from exactly_once(evidence, wanted, ['Echoed'], 'echo')


def finished(evidence):
    """nothing is left to be done, parked or prepared"""
    yield from evidence.left


def expected(evidence):
    """nothing happened that was not expected"""
    yield from evidence.surprises


CHECKS = [acknowledged, void, once, order, followed, states, models, deliveries, delivered_in_order, replies, timers, echoes,
          finished, expected]


# ---- plants -----------------------------------------------------------------

def without(items, n):
    return items[:n] + items[n + 1:]


def last_of(evidence, *event_types):
    """Where the last event of a type is in the journal."""
    return max(n for n, event in enumerate(evidence.journal) if event.event_type in event_types)


def without_last(*event_types):
    return lambda evidence: replace(evidence, journal=without(evidence.journal, last_of(evidence, *event_types)))


def lose_acknowledged(evidence):
    tag = [tag for operation in evidence.operations if operation['outcome'] == 'acknowledged'
           for write in operation['writes'] for tag in write['tags']][-1]
    return replace(evidence, journal=[event for event in evidence.journal if event.tag != tag])


def repeat_last(*event_types):
    """An event twice, the second time at the end as its entity's next."""
    def plant(evidence):
        event = evidence.journal[last_of(evidence, *event_types)]
        version = max(other.version for other in evidence.journal if other.entity == event.entity)
        again = event._replace(position=evidence.journal[-1].position + 1, version=version + 1)
        return replace(evidence, journal=evidence.journal + [again])
    return plant


def first_two(evidence):
    """Where the first two events of an entity are in the journal."""
    entity = next(event.entity for event in evidence.journal if event.version == 2)
    return [n for n, event in enumerate(evidence.journal) if event.entity == entity][:2]


def leave_hole(evidence):
    return replace(evidence, journal=without(evidence.journal, first_two(evidence)[0]))


def swap_positions(evidence):
    journal = list(evidence.journal)
    one, two = first_two(evidence)
    journal[one], journal[two] = (journal[two]._replace(position=journal[one].position),
                                  journal[one]._replace(position=journal[two].position))
    return replace(evidence, journal=journal)


def keep_void(evidence):
    tags = next(write['tags'] for operation in evidence.operations if operation['outcome'] == 'void'
                for write in operation['writes'] if write['tags'])
    event = evidence.journal[-1]
    return replace(evidence, journal=evidence.journal[:-1] + [event._replace(data={**event.data, 'tag': tags[0]})])


def change_seen(change):
    def plant(evidence):
        name = next(iter(evidence.seen))
        return replace(evidence, seen={**evidence.seen, name: change(evidence.seen[name])})
    return plant


def change_model(change):
    def plant(evidence):
        name = 'split'
        model = dict(evidence.models[name])
        entity = next(iter(model))
        model[entity] = change(*model[entity])
        return replace(evidence, models={**evidence.models, name: model})
    return plant


def lose_folded(evidence):
    """The last event of an entity whose state was asked for; not all have one."""
    entity = evidence.states[-1][0]
    last = max(n for n, event in enumerate(evidence.journal) if event.entity == entity)
    return replace(evidence, journal=without(evidence.journal, last))


def change_state(evidence):
    entity, version, state = evidence.states[0]
    return replace(evidence, states=[(entity, version, {**state, 'chain': 'other'})] + evidence.states[1:])


def forget_requests(evidence):
    tag = evidence.of_type('Paid')[-1].tag
    return replace(evidence, requests=[request for request in evidence.requests if request[0] != tag])


def change_key(evidence):
    return replace(evidence, requests=evidence.requests + [(evidence.of_type('Paid')[-1].tag, 'another')])


def reverse_requests(evidence):
    return replace(evidence, requests=evidence.requests[::-1])


PLANTS = [
    (acknowledged, 'an acknowledged event is taken away', lose_acknowledged),
    (void, 'an event that was rolled back is there', keep_void),
    (once, 'an event is there twice', repeat_last('Added')),
    (order, 'a version is missing', leave_hole),
    (order, 'two events of an entity change places', swap_positions),
    (followed, 'a follower misses an event', change_seen(lambda seen: without(seen, len(seen) // 2))),
    (followed, 'a follower sees an event twice', change_seen(lambda seen: seen + seen[-1:])),
    (states, 'a state is another', change_state),
    (states, 'an event is missing from states', lose_folded),
    (models, 'a projection repeats an event', change_model(lambda count, total, chain, version: (count + 1, total, chain, version))),
    (models, 'a projection takes events in another order', change_model(lambda count, total, chain, version: (count, total, 'x', version))),
    (deliveries, 'a delivery is not made', forget_requests),
    (deliveries, 'a delivery is repeated with another key', change_key),
    (deliveries, 'a delivery was rolled back', without_last('Paid')),
    (delivered_in_order, 'deliveries are in another order', reverse_requests),
    (replies, 'a reply command is missing', without_last('Confirmed')),
    (replies, 'a reply command comes twice', repeat_last('Confirmed', 'Failed')),
    (timers, 'a timer does not fire', without_last('Fired')),
    (timers, 'a timer fires twice', repeat_last('Fired')),
    (echoes, 'a command of a projection is missing', without_last('Echoed')),
    (echoes, 'a command of a projection comes twice', repeat_last('Echoed')),
]


def unnoticed_plants(evidence):
    """What the checks would not have noticed."""
    for check, what, plant in PLANTS:
        if next(check(plant(evidence)), None) is None:
            yield what
