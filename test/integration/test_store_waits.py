"""Nobody waits for a store but those who ask it: while a server is slow,
frozen or dies, in clear and with TLS, the sessions of the same worker go on."""

import os
import sqlite3
import threading
import time
import unittest

from harness.case import certs, need
from harness.mariadb import MariaDB
from harness.postgres import SCHEMA, Postgres, binaries
from harness.proc import temp_dir, wait_until
from harness.redis import Redis
from harness.stores import StoreCase
from harness.web import WebProcess

SLOW = 1.5  # seconds that a slow server takes
TIMEOUT = 2  # lookup_timeout for a frozen one
HELD = 0.9  # an echo that took longer was held up by one of the above
USERS = [f"slow{n}" for n in range(6)]


class Echo(threading.Thread):
    """A session in the relay, whose server is asked all the time. worst: its
    longest answer, in seconds."""

    def __init__(self, client):
        super().__init__()
        self.client = client
        self.over = threading.Event()
        self.worst = 0
        self.count = 0

    def run(self):
        while not self.over.is_set():
            start = time.monotonic()
            self.client.cmd("NOOP")
            self.worst = max(self.worst, time.monotonic() - start)
            self.count += 1
            time.sleep(.005)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


class Waits:
    """A subclass has server(), section() and slow(): what makes the lookups
    of USERS take SLOW seconds."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.p = cls.server()
        cls.addClassCleanup(cls.p.stop)

    def one_worker(self, timeout):
        """A daemon, and a session of it in the relay."""
        d = self.daemon(self.SOURCE, self.section(), start=False,
                        lookup_timeout=timeout)
        d.change({"server": {"threads": 1}})
        d.start()
        client = self.client(d, tls="implicit")
        self.assertReply(client.cmd("USER relayed"), "+OK")
        self.assertReply(client.cmd("PASS x"), "+OK")
        return d, client

    def while_they_wait(self, d, client, act):
        """The replies to logins of USERS during which act() is done."""
        with Echo(client) as echo:
            threads, replies = self.at_once(d, USERS)
            act()
            for t in threads:
                t.join()
        self.assertGreater(echo.count, 10)
        self.assertLess(echo.worst, HELD, "a worker was held")
        return replies

    def test_slow(self):
        d, client = self.one_worker("20s")
        self.slow()
        replies = self.while_they_wait(d, client, lambda: None)
        self.assertEqual(replies, ["+OK new"] * len(USERS))

    def test_frozen(self):
        d, client = self.one_worker(f"{TIMEOUT}s")
        self.p.freeze()
        self.addCleanup(self.p.thaw)
        for reply in self.while_they_wait(d, client, lambda: None):
            self.assertTempFail(reply)
        self.p.thaw()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")

    def test_dying(self):
        d, client = self.one_worker(f"{TIMEOUT}s")

        def die():
            time.sleep(SLOW / 3)  # in the middle of the queries
            self.p.halt()
        self.slow()
        for reply in self.while_they_wait(d, client, die):
            self.assertTempFail(reply)
        self.p.start()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")


class MysqlWaits(Waits):
    SOURCE = "sql"
    TLS = None

    @classmethod
    def server(cls):
        p = MariaDB(tls=cls.TLS).start()
        p.routes(dict.fromkeys(["relayed", "bob", *USERS], "new"))
        return p

    def section(self):
        url = self.p.url(more="?ssl-mode=disabled") if not self.TLS else \
            self.p.url("localhost",
                       more=f"?ssl-mode=verify&ssl-ca={certs().ca}")
        return {"url": url, "query": (
            "SELECT destination FROM routes WHERE identifier = ? AND "
            f"SLEEP(IF(identifier LIKE 'slow%', {SLOW}, 0)) = 0")}

    def slow(self):
        pass


@need("mariadbd", "mariadb", "mariadb-install-db")
class Mysql(MysqlWaits, StoreCase):
    pass


@need("mariadbd", "mariadb", "mariadb-install-db")
class MysqlTls(MysqlWaits, StoreCase):
    TLS = "good"


class PostgresWaits(Waits):
    SOURCE = "sql"
    TLS = None

    @classmethod
    def server(cls):
        p = Postgres(tls=cls.TLS).start()
        p.sql(SCHEMA)
        p.routes(dict.fromkeys(["relayed", "bob", *USERS], "new"))
        return p

    def section(self):
        url = self.p.url() if not self.TLS else self.p.url(
            "localhost",
            more=f"?sslmode=verify-full&sslrootcert={certs().ca}")
        return {"url": url, "query": (
            "SELECT destination FROM routes WHERE identifier = $1 AND "
            "pg_sleep(CASE WHEN identifier LIKE 'slow%' THEN "
            f"{SLOW} ELSE 0 END) IS NOT NULL")}

    def slow(self):
        pass


@need("setpriv", *([] if binaries() else ["postgres"]))
class PostgreSQL(PostgresWaits, StoreCase):
    pass


@need("setpriv", *([] if binaries() else ["postgres"]))
class PostgreSQLTls(PostgresWaits, StoreCase):
    TLS = "good"


class RedisWaits(Waits):
    SOURCE = "redis"
    TLS = None

    @classmethod
    def server(cls):
        r = Redis(tls=cls.TLS).start()
        for user in ["relayed", "bob", *USERS]:
            r.route(user, "new")
        return r

    def section(self):
        if not self.TLS:
            return {"url": f"redis://127.0.0.1:{self.p.port}"}
        return {"url": f"rediss://localhost:{self.p.tls_port}",
                "tls_ca_file": certs().ca}

    def slow(self):
        self.p.ask("CLIENT", "PAUSE", int(SLOW * 1000))


@need("redis-server")
class RedisPlain(RedisWaits, StoreCase):
    pass


@need("redis-server")
class RedisTls(RedisWaits, StoreCase):
    TLS = "good"


class HttpWaits(Waits):
    SOURCE = "http"
    TLS = None

    @classmethod
    def server(cls):
        return WebProcess(tls=cls.TLS, seconds=SLOW).start()

    def section(self):
        if not self.TLS:
            return {"url": f"http://127.0.0.1:{self.p.port}/?user=%u"}
        return {"url": f"https://localhost:{self.p.port}/?user=%u",
                "tls_ca_file": certs().ca}

    def slow(self):
        pass


class Http(HttpWaits, StoreCase):
    pass


class Https(HttpWaits, StoreCase):
    TLS = "good"


class Database:
    """An SQLite file: another program's lock freezes it, and it dies by
    turning into something else."""

    def __init__(self):
        self.path = os.path.join(temp_dir(), "routes.db")
        self.lock = None

    def start(self):
        if os.path.exists(self.path + ".away"):
            os.rename(self.path + ".away", self.path)
            return self
        db = sqlite3.connect(self.path)
        db.execute("CREATE TABLE routes (identifier TEXT PRIMARY KEY, "
                   "destination TEXT)")
        db.executemany("INSERT INTO routes VALUES (?, 'new')",
                       [(user,) for user in ["relayed", "bob", *USERS]])
        db.commit()
        db.close()
        return self

    def freeze(self):
        self.lock = sqlite3.connect(self.path, isolation_level=None)
        self.lock.execute("BEGIN EXCLUSIVE")

    def thaw(self):
        if self.lock:
            self.lock.close()
            self.lock = None

    def halt(self):
        os.rename(self.path, self.path + ".away")
        with open(self.path, "wb") as f:
            f.write(os.urandom(8192))

    def stop(self):
        self.thaw()

    def output(self, _start=0):
        return ""


class Sqlite(Waits, StoreCase):
    SOURCE = "sql"

    @classmethod
    def server(cls):
        return Database().start()

    def section(self):
        # As many steps as it may take.
        return {"url": f"sqlite://{self.p.path}", "query": (
            "SELECT destination FROM routes WHERE identifier = ?1 AND "
            "(?1 NOT LIKE 'slow%' OR (WITH RECURSIVE c(n) AS (SELECT 1 UNION "
            "ALL SELECT n + 1 FROM c LIMIT 1000000000) SELECT max(n) FROM c) "
            "> 0)")}

    def slow(self):
        pass

    def test_slow(self):
        """Its query works until it is given up."""
        d, client = self.one_worker(f"{TIMEOUT}s")
        for reply in self.while_they_wait(d, client, lambda: None):
            self.assertTempFail(reply)
        self.assertRoute(d, "bob", "new")


if __name__ == "__main__":
    unittest.main()
