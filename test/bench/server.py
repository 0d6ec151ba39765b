"""The server that is measured, and other programs."""
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICKS_PER_SECOND = os.sysconf('SC_CLK_TCK')


def say(text):
    print(text, file=sys.stderr, flush=True)


def command(arguments, cwd=None, timeout=None, env=None, **more):
    """Runs a program; more are variables of its environment. Returns what it says."""
    done = subprocess.run([str(argument) for argument in arguments], cwd=cwd, timeout=timeout,
                          env={**(env or os.environ), **more}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{arguments[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}')
    return done.stdout


def psql(database, *statements, env=None):
    """Runs statements, or what options like -f say; returns what came out."""
    if not str(statements[0]).startswith('-'):
        statements = [part for statement in statements for part in ('-c', statement)]
    return command(['psql', '-qXAt', '-v', 'ON_ERROR_STOP=1', database, *statements], env=env).strip()


def createdb(name, template):
    # Through the log it would have to be written twice.
    psql('postgres', f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')


def prewarm(name):
    psql(name, "SELECT sum(pg_prewarm(oid)) FROM pg_class WHERE relkind IN ('r', 'i') AND relpersistence = 'p'")


class Processor:
    """The CPU time of the server's processes, from /proc."""

    def __init__(self):
        folder, backend = psql('postgres', "SELECT current_setting('data_directory'), pg_backend_pid()").split('|')
        self.postmaster = Path(folder, 'postmaster.pid').read_text().split()[0]
        while backend in self.children():
            time.sleep(0.01)
        self.idle = len(self.children())

    def children(self):
        return Path(f'/proc/{self.postmaster}/task/{self.postmaster}/children').read_text().split()

    def of_ended(self):
        """Seconds of all backends that have ended, once the postmaster knows of each."""
        while len(self.children()) > self.idle:
            time.sleep(0.01)
        return seconds(self.postmaster, 'of children')

    def of_all(self):
        """Seconds of all processes that there are, or were."""
        return sum(seconds(pid) for pid in self.children()) + seconds(self.postmaster, 'of children')


def seconds(pid, whose=None):
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0		# it has ended since, and is among the ended ones the next time
    first = 13 if whose else 11
    return (int(fields[first]) + int(fields[first + 1])) / TICKS_PER_SECOND
