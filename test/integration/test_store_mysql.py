"""Routes in MariaDB: a real server, and what it does to logins when it is slow,
gone, restarted or talks rubbish."""

import threading
import unittest

from harness.case import certs, need
from harness.mailferry import binary
from harness.mariadb import MariaDB
from harness.proc import run, wait_until
from harness.stores import (StoreAnswers, StoreCase, StoreFaults,
                            StoreWaits)

QUERY = "SELECT destination FROM routes WHERE identifier = ?"
UPSERT = "REPLACE INTO routes VALUES (?, ?)"
DELETE = "DELETE FROM routes WHERE identifier = ?"
SLOW = ("SELECT destination FROM routes WHERE identifier = ? AND "
        "SLEEP(IF(identifier LIKE '%s', %s, 0)) = 0")


@need("mariadbd", "mariadb", "mariadb-install-db")
class MysqlCase(StoreCase):
    SOURCE = "sql"
    NULLS = True

    @classmethod
    def make(cls, tls=None):
        return MariaDB(tls=tls).start()

    def section(self, p):
        return {"url": p.url(), "query": QUERY}

    def slow(self, p, seconds):
        return {"query": SLOW % ("slow%", seconds)}


class Answers(StoreAnswers, MysqlCase):
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
                       "back\\slash": "new", "?": "new"})
        d = self.serve(self.p)
        for name in ("o'hara", "a_b%", "back\\slash", "?"):
            self.assertRoute(d, name, "new")
        for name in ("'OR(1=1)--", "alice'--", "_lice", "%", "a';DROP",
                     "\\", "alice'#", "x" * 400):
            self.assertRoute(d, name, "legacy")

    def test_what_is_no_utf8(self):
        """8-bit, invalid UTF-8 names hurt nobody else"""
        self.p.routes({"alice": "new"})
        d = self.serve(self.p)
        for name in ("j\xfcrgen", "\xff"):
            self.assertIn(self.reply(d, name)[:6], ("+OK le", "-ERR ["))
        self.assertRoute(d, "alice", "new")

    def test_names_that_the_table_cannot_hold(self):
        """A table of another character set, and a strict collation: nobody in
        it is called so"""
        self.p.sql("CREATE OR REPLACE TABLE narrow (identifier VARCHAR(255) "
                   "CHARACTER SET latin1 COLLATE latin1_bin PRIMARY KEY, "
                   "destination VARCHAR(64)); "
                   "INSERT INTO narrow VALUES ('alice', 'new')")
        for query in (
                QUERY.replace("routes", "narrow"),
                QUERY.replace("routes", "narrow").replace(
                    "?", "CONVERT(? USING utf8mb4) COLLATE utf8mb4_bin"),
                QUERY.replace("?", "CONVERT(? USING ascii)"),
                QUERY + " COLLATE utf8mb4_unicode_ci"):
            d = self.serve(self.p, {"query": query})
            for name in ("\u65e5\u672c", "\u0416", "\U0001f600"):
                name = name.encode().decode("latin-1")
                self.assertRoute(d, name, "legacy")
            self.assertEqual(self.records(d, "the store cannot answer"), [])
            d.stop()

    def test_tls(self):
        """ssl-mode=verify: chain and name, before the password is sent"""
        self.p.routes({"alice": "new"})
        more = f"?ssl-mode=verify&ssl-ca={certs().ca}"
        d = self.serve(self.p, {"url": self.p.url("localhost", more=more)})
        self.assertRoute(d, "alice", "new")
        d = self.serve(self.p, {"url": self.p.url(
            "localhost", more="?ssl-mode=verify")})
        self.assertNoRoute(d, "alice")
        for cert in ("wrong", "expired"):
            bad = self.server({"alice": "new"}, tls=cert)
            d = self.serve(bad, {"url": bad.url("localhost", more=more)})
            self.assertNoRoute(d, "alice")
            d.wait_log("(?i)certificate|ssl|tls")
            # But that is what required means: no questions asked.
            d = self.serve(bad, {"url": bad.url(
                "localhost", more="?ssl-mode=required")})
            self.assertRoute(d, "alice", "new")

    def test_ends_in_mid_handshake(self):
        """SIGTERM while a thread still connects: status 0 (a thread sanitizer
        looks on)"""
        url = self.p.url(
            "localhost", more=f"?ssl-mode=verify&ssl-ca={certs().ca}")
        for ms in range(5, 30, 4):
            d = self.serve(self.p, {"url": url}, lookup_timeout=f"{ms}ms")
            clients = [self.client(d, tls="implicit") for _ in range(4)]
            for n, c in enumerate(clients):
                c.cmd(f"USER user{n}")
                c.send("PASS x")
            d.stop()

    def test_tls_that_the_server_lacks(self):
        plain = self.server({"alice": "new"})
        for mode in ("required", "verify"):
            d = self.serve(plain, {"url": plain.url(
                more=f"?ssl-mode={mode}")})
            self.assertNoRoute(d, "alice")

    def test_unix_socket(self):
        self.p.routes({"alice": "new"})
        url = f"mysql://reader:sesame@/mail?socket={self.p.socket}"
        d = self.serve(self.p, {"url": url})
        self.assertRoute(d, "alice", "new")

    def test_password(self):
        """never shown in messages"""
        self.p.routes({"alice": "new"})
        self.p.sql("CREATE OR REPLACE USER u IDENTIFIED BY 'p@ss:w/rd'; "
                   "GRANT SELECT ON mail.* TO u")
        url = self.p.url(user="u:p%40ss%3Aw%2Frd")
        d = self.serve(self.p, {"url": url})
        self.assertRoute(d, "alice", "new")
        bad = self.serve(self.p, {"url": url.replace("ss", "xx")})
        self.assertNoRoute(bad, "alice")
        bad.wait_log("Access denied")
        for daemon in (d, bad):
            for secret in ("p@ss", "p%40", "p@xx"):
                self.assertNotIn(secret, daemon.output())

    def test_bad_urls(self):
        for url, more in (
                ("mysql://a:sesame@h/d?nonsense=1", {}),
                ("mysql://a:sesame@h/d?ssl-mode=perhaps", {}),
                ("mysql://a:sesame@h", {}), ("mysql://a:sesame@/d", {}),
                ("mysql://a:sesame@h/d", {"channel": "c"})):
            d = self.serve(self.p, dict({"url": url}, **more),
                           start=False).launch()
            process, d.process = d.process, None
            self.assertEqual(process.wait(), 78)
            self.assertIn("mapping.sql.url", d.output())
            self.assertNotIn("sesame", d.output())

    def test_bad_query(self):
        """What the server says of it is in the log."""
        for query, said in (
                ("SELECT x FROM elsewhere WHERE y = ?", "elsewhere"),
                ("SELECT ? FROM routes WHERE identifier = ?",
                 "not as many")):
            d = self.serve(self.p, {"query": query})
            self.assertNoRoute(d, "alice")
            d.wait_log(said)

    def test_long_answer(self):
        self.p.routes({"alice": "new", "bob": "x"})
        d = self.serve(self.p, {"query": (
            "SELECT IF(destination = 'x', REPEAT('y', 70000), destination), "
            "1, NULL FROM routes WHERE identifier = ?")})
        self.assertNoRoute(d, "bob")
        self.assertRoute(d, "alice", "new")

    def test_writes(self):
        """SQL by the two queries"""
        d = self.serve(self.p, {"upsert_query": UPSERT,
                                "delete_query": DELETE}, start=False)

        def route(*words, status=0):
            done = run([binary(), "route", "-c", d.path, *words])
            self.assertEqual(done.returncode, status, done.stderr)
            return done
        route("--set", "new", "o'hara")
        self.assertEqual(self.p.sql("SELECT * FROM routes"),
                         "o'hara\tnew\n")
        self.assertIn(b"has o'hara: new", route("o'hara").stdout)
        route("--delete", "o'hara")
        self.assertEqual(self.p.sql("SELECT * FROM routes"), "")
        d.change({"mapping": {"sql": {
            "upsert_query": "REPLACE INTO routes VALUES (?, 'new')"}}})
        self.assertIn(b"not as many", route("--set", "new", "x",
                                            status=73).stderr)
        d.change({"mapping": {"sql": {"upsert_query": None,
                                      "delete_query": None}}})
        self.assertIn(b"read-only", route("--set", "new", "x",
                                          status=73).stderr)

    def test_pool_size(self):
        """pool_size connections, shared out among the workers"""
        d = self.serve(self.p, {"pool_size": 4,
                                "query": SLOW.replace("%s", "x", 1)
                                .replace("0))", "0.05))") % 0},
                       lookup_timeout="5s")
        self.p.routes({f"user{i}": "new" for i in range(30)})
        self.assertEqual(self.together(d, [f"user{i}" for i in range(30)]),
                         ["+OK new"] * 30)
        n = int(self.p.sql("SELECT count(*) FROM information_schema."
                           "processlist WHERE user = 'reader'"))
        self.assertLessEqual(n, 4)
        self.assertGreater(n, 0)


class Waits(StoreWaits, MysqlCase):
    pass


class WaitsTls(StoreWaits, MysqlCase):
    TLS = "good"

    def section(self, p):
        more = f"?ssl-mode=verify&ssl-ca={certs().ca}"
        return {"url": p.url("localhost", more=more), "query": QUERY}


class Faults(StoreFaults, MysqlCase):
    def test_idle_connections_may_be_closed(self):
        """wait_timeout is over: not the login's trouble either"""
        p = self.server({"alice": "new"})
        p.sql("SET GLOBAL wait_timeout = 1")
        d = self.serve(p, positive_ttl="0s")
        self.assertRoute(d, "alice", "new")
        wait_until(lambda: p.sql(
            "SELECT count(*) FROM information_schema.processlist WHERE "
            "user = 'reader'") == "0\n", "the server has closed it")
        self.assertRoute(d, "alice", "new")

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
        number = wait_until(lambda: p.sql(
            "SELECT id FROM information_schema.processlist WHERE state = "
            "'User sleep'"), "the query sleeps")
        p.sql(f"KILL CONNECTION {number.split()[0]}")
        t.join()
        self.assertEqual(replies, ["+OK new"])

    def test_limit_of_connections(self):
        """pool_size: ... a server that lets in fewer of us is no failing
        store: logins wait for the connections that there are"""
        p = self.server({f"user{i}": "new" for i in range(40)})
        p.sql("CREATE USER few IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS "
              "1; GRANT SELECT ON mail.* TO few")
        slow = QUERY + " AND SLEEP(0.02) = 0"
        d = self.serve(p, {"url": p.url(user="few:x"), "query": slow},
                       start=False, lookup_timeout="5s")
        d.change({"server": {"threads": 1}})
        d.start()
        self.assertEqual(self.together(d, [f"user{i}" for i in range(20)]),
                         ["+OK new"] * 20)
        d.wait_log("takes no more connections")
        self.assertEqual(
            self.together(d, [f"user{i}" for i in range(20, 40)]),
            ["+OK new"] * 20)

    def test_garbage(self):
        """answering garbage"""
        def says(data):
            def talk(s):
                s.sendall(data)
                s.recv(4096)
                s.recv(4096)
            return talk

        def flood(s):
            while True:
                s.sendall(b"\xff\xff\xff\0" + b"x" * 65536)
        for talk in (says(b"+OK POP3\r\n"), says(b"\0" * 500), says(b""),
                     says(b"\x4a\0\0\0\x0a5.5.5\0" + b"\1" * 99),
                     says(b"\x07\0\0\0\xff\x10\x04no way"), flood):
            port = self.talking(talk)
            d = self.daemon("sql", {
                "url": f"mysql://a:b@127.0.0.1:{port}/b", "query": QUERY})
            self.assertNoRoute(d, "alice")
            d.stop()


if __name__ == "__main__":
    unittest.main()
