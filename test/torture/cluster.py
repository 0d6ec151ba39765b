"""A primary and its standby, which change places.

The servers live in one folder, with a socket each. A commit that the primary
acknowledges is on the standby, too, from attach() until the next failover.
"""
import os
import shutil
import signal
import subprocess
import threading
import time

import psycopg2

DEADLINE_S = 120

# What ends a connection, so that nobody knows what became of the statement.
LOST = {'57P01', '57P02', '57P03', '57P05', '08000', '08003', '08006', '25006'}


class Lost(Exception):
    """The connection is gone: the statement was done, or not."""


class Failed(Exception):
    """The statement was not done."""

    def __init__(self, error):
        super().__init__(str(error).strip())
        self.sqlstate = error.pgcode


class Session:
    """A connection to whoever is primary, or standby; made anew when it is lost."""

    def __init__(self, cluster, name, role='primary', settings=()):
        self.cluster, self.name, self.role, self.settings = cluster, name, role, settings
        self.connection = None
        self.lost = 0

    def query(self, sql, parameters=None):
        try:
            if self.connection is None:
                self.connect()
            with self.connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            if error.pgcode is None or error.pgcode in LOST or self.connection.closed:
                self.close()
                self.lost += 1
                raise Lost(str(error).strip()) from error
            raise Failed(error) from error

    def value(self, sql, parameters=None):
        return self.query(sql, parameters)[0][0]

    def connect(self):
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                connection = self.cluster.connect(self.role, self.name)
                break
            except psycopg2.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        connection.autocommit = True
        self.connection = connection
        with connection.cursor() as cursor:
            for setting in self.settings:
                cursor.execute('SET ' + setting)

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def insist(self, sql, parameters=None):
        """For what may be done twice."""
        while True:
            try:
                return self.query(sql, parameters)
            except Lost:
                pass


class Cluster:
    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        self.primary, self.standby = 5001, 5002
        self.attached = False
        self.moving = threading.Lock()      # held while a server is stopped or started
        self.running = threading.Lock()     # held while a command runs; none does any more after close()
        self.closed = False

    def data(self, port):
        return f'{self.folder}/data{port}'

    def connect(self, role='primary', name='torture'):
        port = self.primary if role == 'primary' else self.standby
        return psycopg2.connect(host=self.folder, port=port, user='postgres', dbname='postgres', application_name=name)

    def log_files(self):
        return [f'{self.folder}/log{port}' for port in (self.primary, self.standby)]

    def run(self, *command):
        with self.running:
            if self.closed:
                raise RuntimeError('the cluster is closed')
            self.run_alone(*command)

    def run_alone(self, *command):
        environment = {name: value for name, value in os.environ.items() if not name.startswith('PG')}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f'{" ".join(command)}: {done.stdout}')

    def create(self):
        self.run('initdb', '-D', self.data(self.primary), '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C',
                 '--no-sync')
        with open(f'{self.data(self.primary)}/postgresql.conf', 'a', encoding='utf-8') as file:
            file.write(self.settings)
        self.start(self.primary)

    def start(self, port):
        self.run('pg_ctl', '-D', self.data(port), '-w', '-t', str(DEADLINE_S), '-l', f'{self.folder}/log{port}',
                 '-o', f'-c port={port} -c unix_socket_directories={self.folder}', 'start')

    def stop(self, port, mode='fast'):
        self.run('pg_ctl', '-D', self.data(port), '-w', '-t', str(DEADLINE_S), '-m', mode, 'stop')

    def restart_primary(self, mode):
        with self.moving:
            self.stop(self.primary, mode)
            self.start(self.primary)

    def attach(self):
        """Makes a standby, and from then on waits for it at each commit."""
        shutil.rmtree(self.data(self.standby), ignore_errors=True)
        self.run('pg_basebackup', '-D', self.data(self.standby), '-h', self.folder, '-p', str(self.primary),
                 '-U', 'postgres', '-c', 'fast', '-R', '--no-sync')
        self.start(self.standby)
        self.wait_for("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
        self.synchronous("'*'")
        self.attached = True

    def synchronous(self, names):
        session = Session(self, 'cluster')
        session.insist(f'ALTER SYSTEM SET synchronous_standby_names = {names}')
        session.insist('SELECT pg_reload_conf()')
        session.close()

    def caught_up(self):
        """Waits until the standby has all that the primary has, and is waited for."""
        session = Session(self, 'cluster')
        end = session.insist('SELECT pg_current_wal_insert_lsn()')[0][0]
        session.close()
        self.wait_for("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
                      f" AND flush_lsn >= '{end}')")

    def fail_over(self, behind_s):
        """The primary crashes and the standby takes its place; what was the primary is thrown away.

        The standby gets nothing of the primary's last moments: what was acknowledged, or seen by anybody, in these is lost.
        """
        receiver = self.receiver()
        with self.moving:
            os.kill(receiver, signal.SIGSTOP)
            time.sleep(behind_s)
            self.stop(self.primary, 'immediate')
            self.attached = False
            os.kill(receiver, signal.SIGTERM)       # before it reads what has been sent meanwhile
            os.kill(receiver, signal.SIGCONT)
            self.run('pg_ctl', '-D', self.data(self.standby), '-w', '-t', str(DEADLINE_S), 'promote')
            self.primary, self.standby = self.standby, self.primary
        self.synchronous("''")

    def receiver(self):
        session = Session(self, 'cluster', 'standby')
        pid = session.insist("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'")[0][0]
        session.close()
        return pid

    def wait_for(self, condition, deadline_s=DEADLINE_S):
        session = Session(self, 'cluster')
        end = time.monotonic() + deadline_s
        while not session.insist(condition)[0][0]:
            if time.monotonic() > end:
                raise RuntimeError(f'after {deadline_s} s not so: {condition}')
            time.sleep(0.05)
        session.close()

    def close(self):
        """Ends both servers, whatever another thread is about to do with them."""
        self.closed = True
        with self.running:
            for port in (self.standby, self.primary):
                if os.path.exists(f'{self.data(port)}/postmaster.pid'):
                    try:
                        self.run_alone('pg_ctl', '-D', self.data(port), '-w', '-m', 'immediate', 'stop')
                    except RuntimeError:    # it has gone by itself
                        pass
