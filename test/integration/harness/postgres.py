"""A PostgreSQL cluster of the test's own."""

import glob
import os
import pwd
import shutil
import signal

from .certs import certs
from .ports import free_port
from .proc import check_run, run, temp_dir
from .server import Server

SCHEMA = ("CREATE TABLE routes (identifier text PRIMARY KEY, "
          "destination text)")


def binaries():
    """The directory of initdb and postgres, or None."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    return os.path.dirname(found[-1]) if found else None


def as_user(argv):
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return argv
    return ["setpriv", "--reuid=postgres", "--regid=postgres",
            "--init-groups", *argv]


class Postgres(Server):
    """tls: the name of its certificate."""

    def __init__(self, tls=None):
        self.dir = temp_dir("mailferry-postgres-")
        self.data = os.path.join(self.dir, "data")
        self.port = free_port()
        self.log_path = os.path.join(self.dir, "log")
        bin_dir = binaries()
        self.postgres = os.path.join(bin_dir, "postgres")
        self.psql = os.path.join(bin_dir, "psql")
        if os.geteuid() == 0:
            self.own(self.dir)
        check_run(as_user([os.path.join(bin_dir, "initdb"), "-D", self.data,
                           "-U", "postgres", "-A", "trust", "-E", "UTF8",
                           "--locale=C", "--no-sync"]))
        conf = [f"port = {self.port}", "listen_addresses = '127.0.0.1'",
                f"unix_socket_directories = '{self.dir}'", "fsync = off",
                "shared_buffers = 8MB", "max_connections = 40",
                "max_wal_senders = 0", "wal_level = minimal"]
        if tls:
            for kind in ("cert", "key"):
                path = os.path.join(self.dir, kind + ".pem")
                shutil.copy(getattr(certs(), kind)(tls), path)
                os.chmod(path, 0o600)
                self.own(path)
            conf += ["ssl = on", f"ssl_cert_file = '{self.dir}/cert.pem'",
                     f"ssl_key_file = '{self.dir}/key.pem'"]
        with open(os.path.join(self.data, "postgresql.conf"), "a",
                  encoding="ascii") as f:
            f.write("\n".join(conf) + "\n")

    @staticmethod
    def own(path):
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(path, user.pw_uid, user.pw_gid)

    def start(self):
        self.launch(as_user([self.postgres, "-D", self.data]), "postgres")
        return self

    def answers(self):
        return run([self.psql, "-h", self.dir, "-p", self.port, "-U",
                    "postgres", "-Atc", "SELECT 1"]).returncode == 0

    def sql(self, text, database="postgres"):
        """Its output as text."""
        return check_run(
            [self.psql, "-h", self.dir, "-p", self.port, "-U", "postgres",
             "-At", "-v", "ON_ERROR_STOP=1", "-d", database],
            stdin=text.encode()).stdout.decode()

    @staticmethod
    def _quoted(word):
        return "NULL" if word is None else "'" + word.replace("'", "''") + "'"

    def routes(self, routes):
        values = ", ".join(
            "(" + ", ".join(self._quoted(word) for word in pair) + ")"
            for pair in routes.items())
        self.sql(f"INSERT INTO routes VALUES {values} ON CONFLICT "
                 "(identifier) DO UPDATE SET destination = "
                 "excluded.destination")

    def url(self, host="127.0.0.1", user="postgres", more=""):
        return f"postgres://{user}@{host}:{self.port}/postgres{more}"

    def freeze(self):
        os.killpg(self.process.pid, signal.SIGSTOP)
        self._children(signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.process.pid, signal.SIGCONT)
        self._children(signal.SIGCONT)

    def _children(self, number):
        """Each backend is in a process group of its own."""
        done = run(["ps", "-o", "pid=", "--ppid", self.process.pid])
        for pid in done.stdout.split():
            try:
                os.kill(int(pid), number)
            except ProcessLookupError:
                pass

    def halt(self):
        """Kills it at once, with its clients' connections."""
        self.process.signal(signal.SIGQUIT)
        self.process.wait()

    def stop(self):
        if self.process and self.process.status is None:
            self.thaw()
            self.process.signal(signal.SIGQUIT)
            self.process.wait()


class PgBouncer(Server):
    """A pooler in front of a Postgres. mode: session, transaction,
    statement."""

    def __init__(self, postgres, mode, pool_size=4):
        self.postgres = postgres
        self.dir = temp_dir("mailferry-pgbouncer-")
        self.port = free_port()
        self.log_path = os.path.join(self.dir, "log")
        self.path = os.path.join(self.dir, "pgbouncer.ini")
        with open(self.path, "w", encoding="ascii") as f:
            f.write(f"""[databases]
postgres = host=127.0.0.1 port={postgres.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 200
""")
        Postgres.own(self.dir)

    def start(self):
        self.launch(as_user(["pgbouncer", self.path]), "pgbouncer")
        return self

    def answers(self):
        return run([self.postgres.psql, "-h", "127.0.0.1", "-p", self.port,
                    "-U", "postgres", "-Atc", "SELECT 1"]).returncode == 0

    def url(self):
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"
