"""Routes in PostgreSQL: a real cluster, and what it does to logins when it is
slow, gone, restarted or talks rubbish."""

import os
import re
import struct
import threading
import time
import unittest

from harness.case import certs, need
from harness.mailferry import binary
from harness.postgres import SCHEMA, PgBouncer, Postgres, binaries
from harness.proc import run, wait_until
from harness.stores import (StoreAnswers, StoreCase, StoreFaults,
                            StoreWaits)

QUERY = "SELECT destination FROM routes WHERE identifier = $1"
UPSERT = ("INSERT INTO routes VALUES ($1, $2) ON CONFLICT (identifier) "
          "DO UPDATE SET destination = excluded.destination")
DELETE = "DELETE FROM routes WHERE identifier = $1"


SLOW = ("SELECT destination FROM routes WHERE identifier = $1 AND "
        "pg_sleep(CASE WHEN $1 LIKE '%s' THEN %s ELSE 0 END) IS NOT NULL")


@need("setpriv", *([] if binaries() else ["postgres"]))
class PostgresCase(StoreCase):
    SOURCE = "sql"
    NULLS = True

    @classmethod
    def make(cls, tls=None):
        p = Postgres(tls=tls).start()
        p.sql(SCHEMA)
        return p

    def section(self, p):
        return {"url": p.url(), "query": QUERY}

    def slow(self, p, seconds):
        return {"query": SLOW % ("slow%", seconds)}


class Answers(StoreAnswers, PostgresCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.p = cls.shared_server(tls="good")

    def setUp(self):
        super().setUp()
        self.p.sql("TRUNCATE routes")

    def with_routes(self, routes):
        self.p.routes(routes)
        return self.p

    def test_only_bound_parameters(self):
        """SQL injection through the user name: only bound parameters"""
        self.p.routes({"alice": "new", "a_b%": "new", "o'hara": "new",
                       "back\\slash": "new", "$1": "new"})
        d = self.serve(self.p)
        for name in ("o'hara", "a_b%", "back\\slash", "$1"):
            self.assertRoute(d, name, "new")
        for name in ("'OR(1=1)--", "alice'--", "_lice", "%", "a';DROP",
                     "\\", "$2", "E'alice'"):
            self.assertRoute(d, name, "legacy")
        # What is no UTF-8 cannot be in the table.
        self.assertRoute(d, "j\xfcrgen", "legacy")
        self.assertRoute(d, "\xff", "legacy")

    def test_names_that_the_database_cannot_hold(self):
        """A database of another encoding: nobody in it is called so"""
        self.p.sql("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' "
                   "TEMPLATE template0")
        self.p.sql(SCHEMA + "; INSERT INTO routes VALUES ('alice', 'new')",
                   "narrow")
        d = self.serve(self.p, {
            "url": f"postgres://postgres@127.0.0.1:{self.p.port}/narrow"})
        self.assertRoute(d, "alice", "new")
        for name in ("\u65e5\u672c", "\u0416", "\U0001f600"):
            name = name.encode().decode("latin-1")
            self.assertRoute(d, name, "legacy")
        self.assertEqual(self.records(d, "the store cannot answer"), [])

    def test_tls(self):
        """TLS parameters in the URL"""
        self.p.routes({"alice": "new"})
        more = f"?sslmode=verify-full&sslrootcert={certs().ca}"
        d = self.serve(self.p, {"url": self.p.url("localhost", more=more)})
        self.assertRoute(d, "alice", "new")
        bad = self.keep(Postgres(tls="wrong")).start()
        d = self.serve(bad, {"url": bad.url("localhost", more=more)})
        self.assertNoRoute(d, "alice")
        d.wait_log("does not match host name")

    def test_unix_socket(self):
        self.p.routes({"alice": "new"})
        url = (f"postgres:///postgres?host={self.p.dir}&port={self.p.port}"
               "&user=postgres")
        d = self.serve(self.p, {"url": url})
        self.assertRoute(d, "alice", "new")

    def test_password(self):
        """never shown in messages"""
        self.p.sql("CREATE ROLE reader LOGIN PASSWORD 'p@ss:w/rd'")
        with open(f"{self.p.data}/pg_hba.conf", encoding="ascii") as f:
            hba = f.read()
        with open(f"{self.p.data}/pg_hba.conf", "w", encoding="ascii") as f:
            f.write("host all reader 127.0.0.1/32 scram-sha-256\n" + hba)
        self.p.sql("GRANT SELECT ON routes TO reader; "
                   "SELECT pg_reload_conf()")
        self.p.routes({"alice": "new"})
        url = self.p.url(user="reader:p%40ss%3Aw%2Frd")
        d = self.serve(self.p, {"url": url})
        wait_until(lambda: self.reply(d, "alice") == "+OK new", "a route")
        bad = self.serve(self.p, {"url": url.replace("ss", "xx")})
        self.assertNoRoute(bad, "alice")
        bad.wait_log("password authentication failed")
        for daemon in (d, bad):
            for secret in ("p@ss", "p%40", "p@xx"):
                self.assertNotIn(secret, daemon.output())

    def test_bad_urls(self):
        for url in ("postgres://a:sesame@h/d?nonsense=1",
                    "postgres://a:sesame@h:port/d",
                    "postgres://a:sesame@one,two/d"):
            d = self.serve(self.p, {"url": url}, start=False).launch()
            process, d.process = d.process, None
            self.assertEqual(process.wait(), 78)
            self.assertIn("mapping.sql.url", d.output())
            self.assertNotIn("sesame", d.output())

    def test_server_that_is_not_verified(self):
        """nothing sent to an unverified backend: a warning"""
        for url, warns in (
                ("postgres://a@db.example/d", True),
                ("postgres://a@192.0.2.1/d?sslmode=require", True),
                ("postgres://a@db.example/d?sslmode=verify-full", False),
                ("postgres://a@localhost/d", False),
                ("postgres://a@127.0.0.9/d", False),
                ("postgres:///d?host=/run/postgresql", False)):
            with self.subTest(url=url):
                d = self.serve(self.p, {"url": url}, start=False)
                done = run([binary(), "-t", "-c", d.path])
                self.assertEqual(done.returncode, 0)
                self.assertEqual(b"is not verified" in done.stderr, warns,
                                 done.stderr)

    def test_name_that_is_none(self):
        """A name that is refused before any name server is asked: said at
        once, twice, and nothing else breaks (a sanitizer looks on)"""
        url = f"postgres://postgres@{'x' * 300}/postgres"
        d = self.serve(self.p, {"url": url})
        for user in ("alice", "bob"):
            self.assertNoRoute(d, user)
        d.wait_log("the name does not exist")

    def test_bad_query(self):
        """What PostgreSQL says of it is in the log."""
        d = self.serve(self.p, {"query": "SELECT x FROM elsewhere "
                                         "WHERE y = $1"})
        self.assertNoRoute(d, "alice")
        d.wait_log("elsewhere")

    def test_error_in_one_row(self):
        """An error that concerns one identifier stops nobody else."""
        self.p.routes({"alice": "new", "bad": "x"})
        d = self.serve(self.p, {"query": (
            "SELECT CASE destination WHEN 'x' THEN (1 / (length(destination)"
            " - 1))::text ELSE destination END FROM routes "
            "WHERE identifier = $1")})
        self.assertNoRoute(d, "bad")
        d.wait_log("division by zero")
        self.assertRoute(d, "alice", "new")

    def test_writes(self):
        """SQL by the two queries; ... NOTIFY"""
        d = self.serve(self.p, {"upsert_query": UPSERT,
                                "delete_query": DELETE, "channel": "Routes"})
        self.assertRoute(d, "o'hara", "legacy")
        wait_until(lambda: "LISTEN" in self.p.sql(
            "SELECT query FROM pg_stat_activity"), "a listener")

        def route(*words):
            done = run([binary(), "route", "-c", d.path, *words])
            self.assertEqual(done.returncode, 0, done.stderr)
        route("--set", "new", "o'hara")
        self.assertEqual(self.p.sql("SELECT * FROM routes"), "o'hara|new\n")
        wait_until(lambda: self.reply(d, "o'hara") == "+OK new", "the news",
                   timeout=2)
        route("--delete", "o'hara")
        self.assertEqual(self.p.sql("SELECT * FROM routes"), "")
        wait_until(lambda: self.reply(d, "o'hara") == "+OK legacy",
                   "the news", timeout=2)

    def test_writes_and_notifies_together(self):
        """A route that cannot be notified is not written."""
        self.p.sql("CREATE ROLE writer LOGIN; GRANT ALL ON routes TO writer; "
                   "REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC")
        self.addCleanup(self.p.sql, "DROP OWNED BY writer; DROP ROLE writer; "
                        "GRANT EXECUTE ON FUNCTION pg_notify TO PUBLIC")
        d = self.serve(self.p, {
            "url": self.p.url(user="writer"), "upsert_query": UPSERT,
            "delete_query": DELETE, "channel": "Routes"}, start=False)
        done = run([binary(), "route", "-c", d.path, "--set", "new", "alice"])
        self.assertEqual(done.returncode, 73)
        self.assertIn(b"permission denied for function pg_notify",
                      done.stderr)
        self.assertEqual(self.p.sql("SELECT * FROM routes"), "")

    def test_long_answer(self):
        self.p.routes({"alice": "new", "bob": "x" * 257})
        d = self.serve(self.p)
        self.assertNoRoute(d, "bob")
        d.wait_log("no destination's name")
        self.assertRoute(d, "alice", "new")

    def test_read_only(self):
        d = self.serve(self.p, start=False)
        done = run([binary(), "route", "-c", d.path, "--set", "new", "x"])
        self.assertEqual(done.returncode, 73)
        self.assertIn(b"read-only", done.stderr)

    def test_pool_size(self):
        """pool_size connections, shared out among the workers"""
        d = self.serve(self.p, {"pool_size": 4, "query": (
            "SELECT destination FROM routes WHERE identifier = $1 "
            "AND pg_sleep(0.05) IS NOT NULL")}, lookup_timeout="5s")
        self.p.routes({f"user{i}": "new" for i in range(30)})
        self.assertEqual(self.together(d, [f"user{i}" for i in range(30)]),
                         ["+OK new"] * 30)
        n = int(self.p.sql("SELECT count(*) FROM pg_stat_activity WHERE "
                           "application_name = 'mailferry'"))
        self.assertLessEqual(n, 4)
        self.assertGreater(n, 0)


class Waits(StoreWaits, PostgresCase):
    pass


class WaitsTls(StoreWaits, PostgresCase):
    TLS = "good"

    def section(self, p):
        more = f"?sslmode=verify-full&sslrootcert={certs().ca}"
        return {"url": p.url("localhost", more=more), "query": QUERY}


class Faults(StoreFaults, PostgresCase):
    def test_altered_table(self):
        """A column changes its type under connections that are open"""
        p = self.server({f"user{i}": "new" for i in range(9)})
        d = self.serve(p, {"pool_size": 1})
        for i in range(4):
            self.assertRoute(d, f"user{i}", "new")
        p.sql("ALTER TABLE routes ALTER destination TYPE varchar(64)")
        for i in range(4, 8):
            self.assertRoute(d, f"user{i}", "new")

    def test_dying_in_mid_query(self):
        """dying mid-query: asked once more"""
        p = self.server({"alice": "new", "bob": "new"})
        d = self.serve(p, {"pool_size": 1, "query": SLOW % ("bob", 0.4)},
            lookup_timeout="5s")
        self.assertRoute(d, "alice", "new")
        replies = []
        t = threading.Thread(
            target=lambda: replies.append(self.reply(d, "bob")))
        t.start()
        wait_until(lambda: p.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
            "wait_event = 'PgSleep'") == "t\n", "the query is killed")
        t.join()
        self.assertEqual(replies, ["+OK new"])

    def test_garbage(self):
        """answering garbage"""
        def says(data):
            def talk(s):
                s.recv(4096)
                s.sendall(data)
                s.recv(4096)
            return talk

        def flood(s):
            s.recv(4096)
            while True:
                s.sendall(b"R\x7f\xff\xff\xff" + b"x" * 65536)
        for talk in (says(b"+OK POP3\r\n"), says(b"\0" * 500), says(b""),
                     says(b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I" + b"\1" * 99),
                     says(b"E\0\0\0\x0ano"), flood):
            port = self.talking(talk)
            d = self.daemon("sql", {
                "url": f"postgres://a@127.0.0.1:{port}/b", "query": QUERY})
            self.assertNoRoute(d, "alice")
            d.stop()


    def test_garbage_for_an_answer(self):
        """answering garbage: to the query itself, all else being well. The
        worker's others do not notice."""
        def message(kind, body=b""):
            return kind + struct.pack("!I", len(body) + 4) + body

        def says(data):
            def talk(s):
                s.recv(4096)
                if data[:1] == b"s":  # to libpq's question for TLS
                    return
                s.sendall(b"N")
                s.recv(4096)
                s.sendall(message(b"R", bytes(4)) + message(b"Z", b"I"))
                s.recv(4096)  # Parse, Bind, Describe, Execute, Sync
                s.sendall(message(b"1") + message(b"2") + data)
                while s.recv(4096):
                    pass
            return talk
        for data in (message(b"G", bytes(3)), message(b"H", bytes(3)),
                     message(b"W", bytes(3)), message(b"D", b"\xff" * 20),
                     message(b"T", b"\x7f\xff") + message(b"Z", b"I"),
                     message(b"Z", b"?"), b"\0" * 500,
                     b"D\x7f\xff\xff\xff" + b"x" * 100000):
            port = self.talking(says(data))
            d = self.daemon("sql", {
                "url": f"postgres://a@127.0.0.1:{port}/b", "query": QUERY},
                start=False)
            d.change({"server": {"threads": 1}})
            d.start()
            other = self.client(d, tls="implicit")
            self.assertNoRoute(d, "alice")
            self.assertReply(other.cmd("NOOP"), "+OK")
            other.close()
            d.stop()


@need("pgbouncer")
class Pooler(PostgresCase):
    """Behind pgbouncer, whose server connections change hands."""

    USERS = [f"user{i}" for i in range(120)]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.p = cls.shared_server(dict.fromkeys(cls.USERS, "new"))

    def logs_in_everybody(self, mode, pool_size):
        pooler = self.keep(PgBouncer(self.p, mode, pool_size)).start()
        d = self.serve(pooler, start=False, lookup_timeout="10s",
                       positive_ttl="0s")
        d.change({"destination": {"new": {"max_connecting": 0}}})
        d.start()
        for _ in range(2):
            self.assertEqual(self.together(d, self.USERS),
                             ["+OK new"] * len(self.USERS))
        self.assertEqual(self.records(d, "the store cannot answer"), [])
        return pooler, d

    def test_transactions(self):
        self.logs_in_everybody("transaction", 4)

    def test_statements(self):
        self.logs_in_everybody("statement", 4)

    def test_sessions(self):
        """Each of our connections needs one of its own then."""
        self.logs_in_everybody("session", 20)

    def test_restart(self):
        """A pooler that is started again: connections that died of it are
        not the logins' trouble"""
        pooler, d = self.logs_in_everybody("transaction", 4)
        pooler.halt()
        pooler.start()
        self.assertEqual(self.together(d, self.USERS),
                         ["+OK new"] * len(self.USERS))

    def test_writes(self):
        """A route and its NOTIFY are one transaction in every mode"""
        for mode in ("transaction", "statement"):
            pooler = self.keep(PgBouncer(self.p, mode)).start()
            d = self.serve(pooler, {"upsert_query": UPSERT, "channel": "c",
                                    "delete_query": DELETE}, start=False)
            for words in (["--set", "legacy", mode], ["--delete", mode]):
                done = run([binary(), "route", "-c", d.path, *words])
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(
                    self.p.sql("SELECT destination FROM routes WHERE "
                               f"identifier = '{mode}'"),
                    "legacy\n" if words[0] == "--set" else "")


class Channel(PostgresCase):
    def test_notify_invalidates_everywhere(self):
        """with PostgreSQL a NOTIFY invalidates that identifier in every
        mailferry within a second; an empty payload clears the cache; what
        was missed during a restart is asked again"""
        p = self.server({"alice": "new", "bob": "new",
                           "@moved.example": "new"})
        daemons = [self.serve(p, {"channel": "Route changes"})
                   for _ in range(2)]
        self.listening(p, 2)
        for d in daemons:
            for name in ("alice", "bob", "x@moved.example"):
                self.assertRoute(d, name, "new")
        for name, where in (("alice", "legacy"), ("carol", "new"),
                            ("@moved.example", "legacy")):
            p.routes({name: where})
            start = time.monotonic()
            p.sql(f"NOTIFY \"Route changes\", '{name}'")
            login = name if name[0] != "@" else "x" + name
            for d in daemons:
                wait_until(lambda: self.reply(d, login) == f"+OK {where}",
                           "the new route", timeout=5)
            self.assertLess(time.monotonic() - start, 1)
        p.routes({"bob": "legacy"})
        for d in daemons:
            self.assertRoute(d, "bob", "new")
        p.sql("NOTIFY \"Route changes\"")
        for d in daemons:
            wait_until(lambda: self.reply(d, "bob") == "+OK legacy",
                       "an empty payload clears the cache")
        p.halt()
        self.assertRoute(daemons[0], "bob", "legacy")
        p.start()
        p.routes({"bob": "new"})
        for d in daemons:
            wait_until(lambda: self.reply(d, "bob") == "+OK new",
                       "what was missed is asked again")

    def test_server_that_says_nothing(self):
        """a channel whose server takes the connection and is silent is given
        up, said, and tried again"""
        came = []

        def talk(s):
            came.append(s)
            while s.recv(4096):
                pass
        port = self.talking(talk)
        d = self.daemon("sql", {
            "url": f"postgres://a@127.0.0.1:{port}/b", "query": QUERY,
            "channel": "c"}, lookup_timeout="300ms")
        for n in (2, 3):
            wait_until(lambda n=n: len(came) >= n, "another attempt")
        self.assertIn("it does not answer", [
            r["reason"] for r in
            self.records(d, "the store's channel is lost")])

    def test_what_the_manual_says(self):
        """docs/fleet.md: its table, its trigger, its query"""
        path = os.path.join(os.path.dirname(__file__), "..", "..", "docs",
                            "fleet.md")
        with open(path, encoding="utf-8") as f:
            blocks = re.findall(r"```sql\n(.*?)```", f.read(), re.S)
        self.assertEqual(len(blocks), 2)
        p = self.keep(Postgres()).start()
        for block in blocks:
            p.sql(block)
        d = self.serve(p, {"channel": "mailferry", "query": (
            "SELECT destination FROM mailbox_routes WHERE identifier = $1")})
        self.listening(p, 1)
        self.assertRoute(d, "alice", "legacy")
        p.sql("INSERT INTO mailbox_routes VALUES ('alice', 'new')")
        wait_until(lambda: self.reply(d, "alice") == "+OK new", "inserted",
                   timeout=2)
        p.sql("UPDATE mailbox_routes SET destination = 'legacy'")
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy", "updated",
                   timeout=2)
        p.sql("UPDATE mailbox_routes SET destination = 'new'")
        wait_until(lambda: self.reply(d, "alice") == "+OK new", "updated",
                   timeout=2)
        p.sql("DELETE FROM mailbox_routes")
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy", "deleted",
                   timeout=2)

    def listening(self, p, n):
        wait_until(lambda: p.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE "
            "query LIKE 'LISTEN%'") == f"{n}\n", "listeners")


if __name__ == "__main__":
    unittest.main()
