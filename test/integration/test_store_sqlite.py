"""Routes in an SQLite file."""

import os
import sqlite3
import threading
import time
import unittest

from harness.proc import temp_dir, wait_until
from harness.stores import StoreCase

QUERY = "SELECT destination FROM routes WHERE identifier = ?"


class Sqlite(StoreCase):
    def database(self, routes, name="routes.db"):
        path = os.path.join(temp_dir(), name)
        self.fill(path, routes)
        return path

    @staticmethod
    def fill(path, routes):
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE IF NOT EXISTS routes "
                   "(identifier TEXT PRIMARY KEY, destination TEXT)")
        db.executemany("REPLACE INTO routes VALUES (?, ?)", routes.items())
        db.commit()
        db.close()

    def serve(self, path, query=QUERY, section=None, **mapping):
        return self.daemon("sql", dict(
            {"url": f"sqlite://{path}", "query": query}, **(section or {})),
            **mapping)

    def test_identifier_domain_default(self):
        """Lookups: the identifier, then "@domain", then default_destination
        (CONFIG)"""
        d = self.serve(self.database({
            "alice@example.com": "new", "@moved.example": "new",
            "stayed@moved.example": "legacy", "nothing": None}))
        self.assertRoute(d, "alice@example.com", "new")
        self.assertRoute(d, "anybody@moved.example", "new")
        self.assertRoute(d, "stayed@moved.example", "legacy")
        self.assertRoute(d, "bob@example.com", "legacy")
        self.assertRoute(d, "@nowhere.example", "legacy")
        self.assertRoute(d, "@moved.example", "new")
        self.assertRoute(d, "nothing", "legacy")

    def test_only_bound_parameters(self):
        """identifiers `' OR 1=1 --`, `%`, `_`"""
        d = self.serve(self.database({"alice": "new", "a_b%": "new",
                                      "o'hara": "new"}))
        for name in ("'OR(1=1)--", "a'b", "a%", "_lice", "%", "axb%",
                     "alice'--", "\xff"):
            self.assertRoute(d, name, "legacy")
        for name in ("a_b%", "o'hara", "alice"):
            self.assertRoute(d, name, "new")

    def test_relative_path(self):
        """Relative paths are relative to the configuration file's
        directory"""
        d = self.serve("routes.db", start=False)
        self.fill(os.path.join(d.dir, "routes.db"), {"alice": "new"})
        d.start()
        self.assertRoute(d, "alice", "new")

    def test_what_is_wrong_is_said_at_the_start(self):
        path = self.database({"alice": "new"})
        for url, query, said in (
                (path, "SELECT ? FROM elsewhere", "no such table"),
                (path, QUERY + "; DROP TABLE routes", "not one statement"),
                (path, "ELECT ?", "syntax error")):
            d = self.serve(url, query, start=False).launch()
            process, d.process = d.process, None
            self.assertEqual(process.wait(), 78)
            self.assertIn("mapping.sql.url", d.output())
            self.assertIn(said, d.output())

    def test_file_that_comes_late(self):
        """A warning, and [SYS/TEMP] until it is there."""
        path = os.path.join(temp_dir(), "late.db")
        d = self.serve(path, positive_ttl="100ms")
        self.assertRegex(d.output(), "mapping.sql.url: .*unable to open")
        self.assertNoRoute(d, "alice")
        self.fill(path, {"alice": "new", "bob": "new"})
        self.assertRoute(d, "bob", "new")

    def test_replaced_file(self):
        """opened again when another file has taken its place"""
        path = self.database({"alice": "new"})
        d = self.serve(path, positive_ttl="0s")
        self.assertRoute(d, "alice", "new")
        self.fill(path + ".next", {"alice": "legacy"})
        os.rename(path + ".next", path)
        self.assertRoute(d, "alice", "legacy")

    def test_waits_for_a_lock(self):
        """Somebody writes: a lookup waits for the end of it"""
        path = self.database({"alice": "new"})
        d = self.serve(path, lookup_timeout="30s")
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        threads, replies = self.at_once(d, ["alice", "bob", "carol"])
        threads[0].join(.3)
        self.assertEqual(replies, [])
        db.execute("COMMIT")
        db.close()
        for t in threads:
            t.join()
        self.assertEqual(sorted(replies),
                         ["+OK legacy", "+OK legacy", "+OK new"])

    def test_lock_that_stays(self):
        """A lock that is held on: the old answer, or [SYS/TEMP] and the reason
        in time"""
        path = self.database({"alice": "new"})
        d = self.serve(path, positive_ttl="100ms", lookup_timeout="1s")
        self.assertRoute(d, "alice", "new")
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        time.sleep(0.1)  # her answer gets old
        self.assertRoute(d, "alice", "new")
        self.assertNoRoute(d, "bob")
        d.wait_log("database is locked")
        db.execute("COMMIT")
        db.close()
        wait_until(lambda: self.reply(d, "bob") == "+OK legacy", "it is free")

    def test_slow(self):
        """a query that has to go through everything is given up, and says
        why"""
        slow = (QUERY + " AND (?1 <> 'slow' OR (WITH RECURSIVE c(n) AS (SELECT "
                "1 UNION ALL SELECT n + 1 FROM c LIMIT 2000000000) "
                "SELECT max(n) FROM c) > 0)").replace("?", "?1", 1)
        d = self.serve(self.database({"alice": "new", "slow": "new"}), slow,
                       lookup_timeout="1s")
        self.assertNoRoute(d, "slow")
        d.wait_log("is there an index")
        self.assertRoute(d, "alice", "new")

    def test_wal(self):
        """a file with write-ahead logging, written to meanwhile"""
        path = self.database({"alice": "new"})
        db = sqlite3.connect(path, isolation_level=None,
                             check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        d = self.serve(path, positive_ttl="0s", negative_ttl="0s")
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
        path = self.database({"alice": "new"})
        d = self.serve(path, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        os.rename(path, path + ".away")
        time.sleep(0.1)  # her answer gets old
        self.assertRoute(d, "alice", "new")
        self.assertNoRoute(d, "bob")
        with open(path, "wb") as f:
            f.write(os.urandom(8192))
        self.assertNoRoute(d, "carol")
        os.rename(path + ".away", path)
        self.assertRoute(d, "dave", "legacy")

    def test_undeclared_destination(self):
        d = self.serve(self.database({"alice": "nowhere"}))
        self.assertNoRoute(d, "alice")
        d.wait_log("nowhere")


if __name__ == "__main__":
    unittest.main()
