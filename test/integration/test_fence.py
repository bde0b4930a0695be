"""No login is routed by what was read before it was told otherwise: reloads,
channels, lookups under way; and a reload frees what it replaces."""

import os
import socket
import threading
import unittest

from harness.case import need
from harness.mailferry import sanitized
from harness.ports import free_port
from harness.postgres import SCHEMA, Postgres, binaries
from harness.proc import wait_until
from harness.redis import Redis
from harness.stores import StoreCase
from harness.web import Web

SQL = "SELECT destination FROM routes WHERE identifier = $1"


class FenceCase(StoreCase):
    def reload(self, d):
        mark = d.mark()
        d.hang_up()
        d.wait_record(lambda r: r["message"] == "reloaded", "reloaded", mark)

    def relayed(self, d, user="alice@example.com"):
        """A session that is relayed until the end of the test."""
        c = self.client(d, tls="implicit")
        self.assertReply(c.cmd(f"USER {user}"), "+OK")
        self.assertReply(c.cmd("PASS x"), "+OK")
        return c


class Runtime(FenceCase):
    """After a reload the old mapping table, store connections and
    notification channels are gone as soon as the last login that uses them
    has ended (DESIGN)"""

    RELOADS = 8

    @need("setpriv", *([] if binaries() else ["postgres"]))
    def test_store_connections(self):
        p = self.keep(Postgres()).start()
        p.sql(SCHEMA)
        d = self.daemon("sql", {"url": p.url(), "query": SQL,
                                "channel": "routes"})
        count = ("SELECT count(*) FROM pg_stat_activity WHERE "
                 "backend_type = 'client backend' AND "
                 "pid <> pg_backend_pid()")
        sessions = [self.relayed(d)]
        # One for the channel and one for each worker's logins.
        most = 1 + d.tree["server"]["threads"]
        for i in range(self.RELOADS):
            self.reload(d)
            sessions.append(self.relayed(d, f"user{i}@example.com"))
            wait_until(lambda: int(p.sql(count)) <= most,
                       "the old runtime's connections are closed")
        # One in the dialogue keeps its certificates, not its store.
        held = self.client(d, tls="implicit")
        self.reload(d)
        self.relayed(d, "last@example.com")
        wait_until(lambda: int(p.sql(count)) <= most,
                   "the old runtime's connections are closed")
        self.assertReply(held.cmd("NOOP"), "+OK")
        for c in sessions:
            self.assertReply(c.cmd("NOOP"), "+OK")

    def test_last_line(self):
        """One log line at the end of each session (PROTOCOL), also when its
        configuration is gone"""
        d = self.daemon("file", {"path": "mappings.tsv"})
        c = self.relayed(d)
        d.change({"listener": {"pop3": {"max_connections": 7}}})
        self.reload(d)
        mark = d.mark()
        c.cmd("QUIT")
        r = d.wait_record(lambda r: r["message"] == "session closed",
                          "the last line", mark)
        self.assertEqual((r["listener"], r["destination"], r["login"]),
                         ("pop3", "legacy", "ok"))

    @unittest.skipIf(sanitized(), "a sanitizer keeps what is freed")
    def test_mapping_table(self):
        lines = 100000
        d = self.daemon("file", {"path": "mappings.tsv"}, start=False)
        d.write_mapping_text("".join(
            f"user{i}@example.com\tnew\n" for i in range(lines)))
        d.start()
        self.relayed(d)
        self.reload(d)
        before = self.rss(d)
        for i in range(self.RELOADS):
            self.relayed(d, f"user{i}@example.com")
            self.reload(d)
        # A table of so many lines takes about 12 MB.
        self.assertLess(self.rss(d) - before, 30 << 20)

    @staticmethod
    def rss(d):
        with open(f"/proc/{d.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Reload(FenceCase):
    """A login is decided by the runtime that is current when its credentials
    are complete, not by the one its connection began with (DESIGN)"""

    def held(self, d, n=1):
        """Connections in the dialogue."""
        clients = [self.client(d, tls="implicit") for _ in range(n)]
        for c in clients:
            self.assertReply(c.cmd("CAPA"), "+OK")
            while c.line() != ".":
                pass
        return clients

    def test_connection_older_than_the_reload(self):
        d = self.daemon("file", {"path": "mappings.tsv"})
        d.write_mapping({"alice@example.com": "legacy"})
        self.reload(d)
        c, = self.held(d)
        d.write_mapping({"alice@example.com": "new"})
        self.reload(d)
        self.assertEqual(self.reply(d, "alice@example.com", c), "+OK new")

    def test_each_further_attempt(self):
        """which is routed afresh (PROTOCOL 8)"""
        d = self.daemon("file", {"path": "mappings.tsv"})
        d.write_mapping({"alice@example.com": "nobody"})
        d.change({"destination": {"nobody": dict(
            d.tree["destination"]["new"], protocol={"pop3": {
                "port": free_port(), "tls": "implicit"}})}})
        self.reload(d)
        c, = self.held(d)
        self.assertReply(c.cmd("USER alice@example.com"), "+OK")
        self.assertTempFail(c.cmd("PASS x"))
        d.write_mapping({"alice@example.com": "new"})
        self.reload(d)
        self.assertEqual(self.reply(d, "alice@example.com", c), "+OK new")

    @need("redis-server")
    def test_news_for_connections_of_every_worker(self):
        """Four workers, twelve connections accepted before a reload that adds
        a destination: a published change is heard by the runtime they use"""
        r = self.keep(Redis()).start()
        r.route("alice", "legacy")
        d = self.daemon("redis", {
            "url": f"redis://127.0.0.1:{r.port}/0", "channel": "c"},
            start=False)
        d.change({"server": {"threads": 4}})
        d.start()
        self.assertRoute(d, "alice", "legacy")
        clients = self.held(d, 12)
        d.change({"destination": {"more": d.tree["destination"]["new"]}})
        self.reload(d)
        self.assertRoute(d, "alice", "legacy")
        self.subscribed(r, "c", 1)
        r.route("alice", "new")
        mark = d.mark()
        r.ask("PUBLISH", "c", "alice")
        d.wait_record(lambda x: "route has changed" in x["message"] and
                      x["identifier"] == "alice", "the news", mark)
        self.assertEqual({self.reply(d, "alice", c) for c in clients},
                         {"+OK new"})

    def test_lookup_under_way(self):
        """A question that began before the reload is for those only who had
        asked by then"""
        said, go = [], threading.Event()

        def answer(_h, _user):
            said.append("legacy" if not said else "new")
            mine = said[-1]
            if mine == "legacy":
                go.wait(20)
            return 200, mine
        self.addCleanup(go.set)
        w = self.keep(Web(answer=answer)).start()
        d = self.daemon("http", {
            "url": f"http://127.0.0.1:{w.port}/?user=%u"},
            lookup_timeout="20s")
        before = []
        t = threading.Thread(
            target=lambda: before.append(self.reply(d, "alice")))
        t.start()
        wait_until(lambda: said, "a question")
        self.reload(d)
        self.assertRoute(d, "alice", "new")
        go.set()
        t.join()
        self.assertEqual(before, ["+OK legacy"])
        self.assertRoute(d, "alice", "new")

    def test_asker_that_goes_away(self):
        """a router that goes away hands its waiters over (DESIGN)"""
        for error in ("tempfail", "default"):
            with self.subTest(on_store_error=error):
                self.hand_over(error)

    def hand_over(self, error):
        asked, go = [], threading.Event()

        def answer(_h, _user):
            asked.append(1)
            if len(asked) == 1:
                go.wait(20)
            return 200, "new"
        self.addCleanup(go.set)
        w = self.keep(Web(answer=answer)).start()
        d = self.daemon("http", {
            "url": f"http://127.0.0.1:{w.port}/?user=%u"},
            lookup_timeout="20s", on_store_error=error)
        first = self.client(d, tls="implicit")
        first.cmd("USER alice")
        first.send("PASS x\r\n")
        wait_until(lambda: asked, "a question")
        self.reload(d)
        replies = []
        others = [threading.Thread(
            target=lambda: replies.append(self.reply(d, "alice")))
            for _ in range(4)]
        for t in others:
            t.start()
        first.reset()
        for t in others:
            t.join()
        self.assertEqual(replies, ["+OK new"] * 4)
        self.assertNotIn("the store cannot answer", d.output())

    @staticmethod
    def subscribed(r, channel, n):
        wait_until(lambda: subscribers(r, channel) == n, "subscriptions")


def subscribers(r, channel):
    with socket.create_connection(("127.0.0.1", r.port), 5) as s:
        s.sendall(f"PUBSUB NUMSUB {channel}\r\n".encode())
        data = b""
        while data.count(b"\n") < 4:
            data += s.recv(4096)
    return int(data.rsplit(b":", 1)[1])


class Channel(FenceCase):
    """Every "channel is up" means "something may have been missed", the first
    one included; what is not understood means "anything may have changed"."""

    @need("redis-server")
    def test_first_subscription(self):
        """SUBSCRIBE is refused for a while"""
        r = self.keep(Redis(lines=["user default on nopass ~* +@all"])).start()
        r.ask("ACL", "SETUSER", "default", "resetchannels")
        r.route("alice", "legacy")
        d = self.daemon("redis", {
            "url": f"redis://127.0.0.1:{r.port}/0", "channel": "c"})
        d.wait_log("channel is lost")
        self.assertRoute(d, "alice", "legacy")
        r.route("alice", "new")
        r.ask("PUBLISH", "c", "alice")
        self.assertRoute(d, "alice", "legacy")
        mark = d.mark()
        r.ask("ACL", "SETUSER", "default", "allchannels")
        d.wait_record(lambda x: "route has changed" in x["message"] and
                      x["identifier"] == "*", "the channel is up", mark)
        self.assertRoute(d, "alice", "new")

    def heard(self, d):
        return self.records(d, "the store says that a route has changed")

    @need("redis-server")
    def test_what_is_not_understood(self):
        """anything may have changed"""
        r = self.keep(Redis()).start()
        r.route("alice@example.com", "legacy")
        d = self.daemon("redis", {
            "url": f"redis://127.0.0.1:{r.port}/0", "channel": "c"})
        wait_until(lambda: self.heard(d), "the channel is up")
        where = "legacy"
        for text in ("alice@example.com\n", " alice@example.com",
                     "alice@example.com\0", '"alice@example.com"',
                     "alice @example.com", "\n", "x" * 2000, ""):
            with self.subTest(text=text):
                self.assertRoute(d, "alice@example.com", where)
                where = "new" if where == "legacy" else "legacy"
                r.route("alice@example.com", where)
                mark = d.mark()
                r.ask("PUBLISH", "c", text)
                d.wait_record(lambda x: "route has changed" in x["message"]
                              and x["identifier"] == "*", "the news", mark)
                self.assertRoute(d, "alice@example.com", where)

    @need("redis-server")
    def test_lookup_under_way(self):
        """A GET is under way (it will say "old"); the change is published and
        heard; a new login does not join that fetch"""
        # One that answers what it is told to; its channel is the second
        # connection.
        said, go = [], threading.Event()
        channels = []
        self.addCleanup(go.set)

        def talk(s):
            data = b""
            while True:
                data += s.recv(4096)
                if b"SUBSCRIBE" in data:
                    s.sendall(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
                    channels.append(s)
                    go.wait(30)
                    return
                if b"GET" in data:
                    data = b""
                    said.append("legacy" if not said else "new")
                    mine = said[-1]
                    if mine == "legacy":
                        go.wait(30)
                    s.sendall(f"${len(mine)}\r\n{mine}\r\n".encode())
                elif b"SELECT" in data:
                    data = b""
                    s.sendall(b"+OK\r\n")
        port = self.talking(talk)
        d = self.daemon("redis", {
            "url": f"redis://127.0.0.1:{port}/0", "channel": "c"},
            lookup_timeout="20s", start=False)
        d.change({"server": {"threads": 2}})
        d.start()
        wait_until(lambda: channels, "the channel")
        wait_until(lambda: self.heard(d), "the channel is up")
        before = []
        t = threading.Thread(
            target=lambda: before.append(self.reply(d, "alice")))
        t.start()
        wait_until(lambda: said, "a question")
        mark = d.mark()
        channels[0].sendall(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n"
                            b"$5\r\nalice\r\n")
        d.wait_record(lambda x: "route has changed" in x["message"],
                      "the news", mark)
        replies = []
        after = [threading.Thread(
            target=lambda: replies.append(self.reply(d, "alice")))
            for _ in range(8)]
        for a in after:
            a.start()
        # Those of the worker whose connection is busy wait behind it.
        wait_until(lambda: len(d.records()) and len(said) > 1 or
                   any(x.is_alive() for x in after), "they have asked")
        go.set()
        for a in after:
            a.join()
        t.join()
        self.assertEqual(before, ["+OK legacy"])
        self.assertEqual(replies, ["+OK new"] * 8)


class Failing(FenceCase):
    @need("redis-server")
    def test_says_why(self):
        """route=identifier|domain|default|stale|error"""
        r = self.keep(Redis()).start()
        r.route("alice@example.com", "new")
        r.route("@moved.example", "new")
        d = self.daemon("redis", {"url": f"redis://127.0.0.1:{r.port}/0"},
                        positive_ttl="1ms", negative_ttl="1ms")
        rows = [("alice@example.com", "identifier"),
                ("bob@moved.example", "domain"), ("carol", "default")]
        for user, why in rows:
            self.ends(d, user, why)
        r.halt()
        self.ends(d, "alice@example.com", "stale")
        d.change({"mapping": {"on_store_error": "default"}})
        self.reload(d)
        self.ends(d, "alice@example.com", "error")

    def ends(self, d, user, why):
        mark = d.mark()
        self.reply(d, user)
        r = d.wait_record(lambda x: x["message"] == "session closed" and
                          x["user"] == user, "the last line", mark)
        self.assertEqual(r["route"], why)

    @need("redis-server")
    def test_moved_while_the_store_fails(self):
        """an expired "unknown" is no answer: the account may have been moved
        since"""
        r = self.keep(Redis()).start()
        d = self.daemon("redis", {"url": f"redis://127.0.0.1:{r.port}/0"},
                        negative_ttl="1ms")
        self.assertRoute(d, "alice", "legacy")
        r.route("alice", "new")
        r.halt()
        self.assertNoRoute(d, "alice")

    @need("setpriv", *([] if binaries() else ["postgres"]))
    def test_padded_names(self):
        """PostgreSQL's char(16), a line feed, bytea"""
        p = self.keep(Postgres()).start()
        p.sql("CREATE TABLE routes (identifier text PRIMARY KEY, "
              "destination char(16), raw bytea)")
        p.sql("INSERT INTO routes VALUES ('alice', 'new', 'new'), "
              "('bob', E'new\\n', 'x'), ('carol', '', '')")
        d = self.daemon("sql", {"url": p.url(), "query": SQL})
        self.assertRoute(d, "alice", "new")
        self.assertRoute(d, "bob", "new")
        self.assertNoRoute(d, "carol")
        d.change({"mapping": {"sql": {
            "query": SQL.replace("destination", "raw")}}})
        self.reload(d)
        self.assertNoRoute(d, "alice")


if __name__ == "__main__":
    unittest.main()
