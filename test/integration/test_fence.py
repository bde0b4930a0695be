"""No login is routed by what was read before it was told otherwise: reloads,
channels, lookups under way; and a reload frees what it replaces."""

import os
import unittest

from harness.case import need
from harness.mailferry import sanitized
from harness.postgres import SCHEMA, Postgres, binaries
from harness.proc import wait_until
from harness.stores import StoreCase

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


if __name__ == "__main__":
    unittest.main()
