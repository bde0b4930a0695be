"""Routes in an SQLite file."""

import os
import sqlite3
import threading
import time
import unittest

from harness.sqlite import Database
from harness.stores import (StoreAnswers, StoreCase, StoreFaults,
                            StoreWaits)

QUERY = "SELECT destination FROM routes WHERE identifier = ?"


# A lookup of slow... works until it is given up.
SLOW = ("SELECT destination FROM routes WHERE identifier = ?1 AND "
        "(?1 NOT LIKE 'slow%' OR (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL "
        "SELECT n + 1 FROM c LIMIT 2000000000) SELECT max(n) FROM c) > 0)")


class SqliteCase(StoreCase):
    SOURCE = "sql"
    NULLS = True
    PAUSES = False

    @classmethod
    def make(cls, tls=None, path=None):
        return Database(path).start()

    def section(self, p):
        return {"url": p.url(), "query": QUERY}

    def slow(self, p, seconds):
        return {"query": SLOW}


class Faults(StoreFaults, SqliteCase):
    pass


class Waits(StoreWaits, SqliteCase):
    def test_slow_server(self):
        d, client = self.one_worker(self.slow(self.p, 0), self.FROZEN)
        for reply in self.while_they_wait(d, client):
            self.assertTempFail(reply)
        self.assertRoute(d, "bob", "new")


class Answers(StoreAnswers, SqliteCase):
    def test_only_bound_parameters(self):
        """identifiers `' OR 1=1 --`, `%`, `_`"""
        d = self.serve(self.server({"alice": "new", "a_b%": "new",
                                    "o'hara": "new"}))
        for name in ("'OR(1=1)--", "a'b", "a%", "_lice", "%", "axb%",
                     "alice'--", "\xff"):
            self.assertRoute(d, name, "legacy")
        for name in ("a_b%", "o'hara", "alice"):
            self.assertRoute(d, name, "new")

    def test_relative_path(self):
        """Relative paths are relative to the configuration file's
        directory"""
        d = self.daemon("sql", {"url": "sqlite://routes.db", "query": QUERY},
                        start=False)
        self.make(path=os.path.join(d.dir, "routes.db")).routes(
            {"alice": "new"})
        d.start()
        self.assertRoute(d, "alice", "new")

    def test_what_is_wrong_is_said_at_the_start(self):
        p = self.server({"alice": "new"})
        for query, said in (
                ("SELECT ? FROM elsewhere", "no such table"),
                (QUERY + "; DROP TABLE routes", "not one statement"),
                ("ELECT ?", "syntax error")):
            d = self.serve(p, {"query": query}, start=False).launch()
            process, d.process = d.process, None
            self.assertEqual(process.wait(), 78)
            self.assertIn("mapping.sql.url", d.output())
            self.assertIn(said, d.output())

    def test_file_that_comes_late(self):
        """A warning, and [SYS/TEMP] until it is there."""
        p = Database()
        d = self.serve(p, positive_ttl="100ms")
        self.assertRegex(d.output(), "mapping.sql.url: .*unable to open")
        self.assertNoRoute(d, "alice")
        p.start().routes({"alice": "new", "bob": "new"})
        self.assertRoute(d, "bob", "new")

    def test_replaced_file(self):
        """opened again when another file has taken its place"""
        p = self.server({"alice": "new"})
        d = self.serve(p, positive_ttl="0s")
        self.assertRoute(d, "alice", "new")
        other = self.server({"alice": "legacy"})
        os.rename(other.path, p.path)
        self.assertRoute(d, "alice", "legacy")

    def test_waits_for_a_lock(self):
        """Somebody writes: a lookup waits for the end of it"""
        p = self.server({"alice": "new"})
        d = self.serve(p, lookup_timeout="30s")
        p.freeze()
        threads, replies = self.at_once(d, ["alice", "bob", "carol"])
        threads[0].join(.3)
        self.assertEqual(replies, [])
        p.thaw()
        for t in threads:
            t.join()
        self.assertEqual(sorted(replies),
                         ["+OK legacy", "+OK legacy", "+OK new"])

    def test_reasons(self):
        """A lock that is held on, a query that goes through everything: said
        in time"""
        p = self.server({"slow": "new"})
        d = self.serve(p, {"query": SLOW}, lookup_timeout="1s")
        self.assertNoRoute(d, "slow")
        d.wait_log("is there an index")
        p.freeze()
        self.assertNoRoute(d, "bob")
        d.wait_log("database is locked")

    def test_wal(self):
        """a file with write-ahead logging, written to meanwhile"""
        p = self.server({"alice": "new"})
        db = sqlite3.connect(p.path, isolation_level=None,
                             check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        d = self.serve(p, positive_ttl="0s", negative_ttl="0s")
        stop = threading.Event()

        def write():
            n = 0
            while not stop.is_set():
                db.execute("REPLACE INTO routes VALUES (?, 'new')",
                           (f"user{n}",))
                n += 1
        t = threading.Thread(target=write)
        t.start()
        try:
            for i in range(20):
                self.assertRoute(d, "alice", "new")
        finally:
            stop.set()
            t.join()
        self.assertRoute(d, "user0", "new")
        db.close()

    def test_file_that_vanishes(self):
        p = self.server({"alice": "new"})
        d = self.serve(p, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        os.rename(p.path, p.path + ".gone")
        time.sleep(0.1)  # her answer gets old
        self.assertRoute(d, "alice", "new")
        self.assertNoRoute(d, "bob")
        os.rename(p.path + ".gone", p.path)
        self.assertRoute(d, "dave", "legacy")


if __name__ == "__main__":
    unittest.main()
