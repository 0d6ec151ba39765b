"""The stores: one database each, and its copies, which are measured."""
import re
import shutil
import subprocess
from pathlib import Path

from cases import store_of
from server import HERE, command, createdb, prewarm, psql, say

PACKAGES = ['@eventide/message-db@1.3.1', '@event-driven-io/emmett-postgresql@0.42.0', '@event-driven-io/emmett@0.42.0',
            'pg@8']
EMMETT_SCHEMA = """
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';
console.log(getPostgreSQLEventStore('postgresql://unused').schema.sql());
"""


class Stores:
    def __init__(self, folder, port):
        self.folder = Path(folder)
        self.port = port
        self.missing = []
        say('making the stores')
        createdb('seed', 'template0')
        psql('seed', '-f', HERE / 'seed.sql')
        self.names = ['limit', 'plain', 'cqrs'] + self.pgsql_http() + self.from_npm()
        for store in self.names:
            self.make(store)

    def pgsql_http(self):
        if psql('postgres', "SELECT 1 FROM pg_available_extensions WHERE name = 'http'"):
            return ['pgsql_http']
        self.missing.append('pgsql-http (there is no extension "http")')
        return []

    def from_npm(self):
        why = 'npm is not there'
        if shutil.which('npm') and shutil.which('node'):
            try:
                command(['npm', 'install', '--silent', '--no-save', '--ignore-scripts', *PACKAGES],
                        cwd=self.folder, timeout=300)
                shutil.copy(HERE / 'peers' / 'project.mjs', self.folder)
                return ['message_db', 'emmett']
            except (subprocess.SubprocessError, SystemExit):
                why = 'npm install failed'
        self.missing.append(f'message-db and Emmett ({why})')
        return []

    def make(self, store):
        original = f'{store}_original'
        createdb(original, 'seed')
        if store == 'message_db':
            install = self.folder / 'node_modules/@eventide/message-db/database/install.sh'
            command(['bash', install], DATABASE_NAME=original, CREATE_DATABASE='off')
        if store == 'emmett':
            script = self.folder / 'schema.mjs'
            script.write_text(EMMETT_SCHEMA)
            psql(original, '-c', command(['node', script]))
        psql(original, '-v', f'port={self.port}', '-f', HERE / 'peers' / f'{store}.sql')
        psql(original, 'DROP TABLE seed')

    def available(self, case):
        return {label: text for label, text in case.scripts.items() if store_of(label) in self.names}

    @staticmethod
    def copy(labels):
        """What was measured before leaves no trace: neither rows nor dead ones, nor workers."""
        # All go before one comes: CREATE DATABASE has what is dirty written out.
        for name in psql('postgres', "SELECT datname FROM pg_database WHERE datname ~ '_copy$'").split():
            psql('postgres', f'DROP DATABASE {name}')
        for label in labels:
            createdb(database(label), f'{store_of(label)}_original')
            if store_of(label) == 'cqrs':
                psql(database(label), 'SELECT cqrs.adopt()')
            prewarm(database(label))


def database(label):
    return re.sub(r'\W+', '_', label).lower() + '_copy'
