"""A MariaDB server of the test's own."""

import os
import pwd
import shutil

from .certs import certs
from .ports import free_port
from .proc import check_run, run, temp_dir
from .server import Server

SCHEMA = ("CREATE DATABASE mail CHARACTER SET utf8mb4 COLLATE utf8mb4_bin; "
          "CREATE TABLE mail.routes (identifier VARCHAR(255) PRIMARY KEY, "
          "destination VARCHAR(64)); "
          "CREATE USER reader IDENTIFIED BY 'sesame'; "
          "GRANT ALL ON mail.* TO reader;")


class MariaDB(Server):
    """tls: the name of its certificate."""

    def __init__(self, tls=None):
        self.dir = temp_dir("mailferry-mariadb-")
        self.data = os.path.join(self.dir, "data")
        self.port = free_port()
        self.socket = os.path.join(self.dir, "sock")
        self.log_path = os.path.join(self.dir, "log")
        self.own(self.dir)
        # Each server cleans up its tmpdir at the start, whoever else is in
        # there.
        where = [f"--datadir={self.data}", f"--tmpdir={self.dir}"]
        self.user = ["--user=mysql"] if os.geteuid() == 0 else []
        check_run(["mariadb-install-db", "--no-defaults", *self.user,
                   *where, "--skip-test-db",
                   "--auth-root-authentication-method=normal",
                   "--skip-name-resolve"])
        self.options = [
            "--no-defaults", *self.user, *where,
            f"--socket={self.socket}", f"--port={self.port}",
            "--bind-address=127.0.0.1", "--skip-name-resolve",
            f"--pid-file={self.dir}/pid", "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=16M", "--performance-schema=OFF"]
        if tls:
            for kind in ("cert", "key"):
                path = os.path.join(self.dir, kind + ".pem")
                shutil.copy(getattr(certs(), kind)(tls), path)
                self.own(path)
                self.options.append(f"--ssl-{kind}={path}")
        self.first = True

    @staticmethod
    def own(path):
        if os.geteuid() == 0:
            user = pwd.getpwnam("mysql")
            os.chown(path, user.pw_uid, user.pw_gid)

    def start(self):
        self.launch(["mariadbd", *self.options], "mariadb")
        if self.first:
            self.sql(SCHEMA, "mysql")
            self.first = False
        return self

    def _client(self, database):
        return ["mariadb", "--no-defaults", f"--socket={self.socket}",
                "--user=root", "--batch", "--skip-column-names", database]

    def answers(self):
        return run(self._client("mysql") + ["-e", "SELECT 1"]).returncode == 0

    def sql(self, text, database="mail"):
        """Its output as text."""
        return check_run(self._client(database),
                         stdin=text.encode()).stdout.decode()

    @staticmethod
    def _quoted(word):
        if word is None:
            return "NULL"
        return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"

    def routes(self, routes):
        values = ", ".join(
            "(" + ", ".join(self._quoted(word) for word in pair) + ")"
            for pair in routes.items())
        self.sql(f"REPLACE INTO routes VALUES {values}")

    def url(self, host="127.0.0.1", user="reader:sesame", more=""):
        return f"mysql://{user}@{host}:{self.port}/mail{more}"
