"""mailferry route: how an identifier resolves, and changes in the store."""

import os
import random
import signal
import sqlite3
import subprocess
import time
import unittest

from harness.case import need, need_root
from harness.mailferry import binary
from harness.proc import check_run, run, temp_dir, wait_until
from harness.redis import Redis
from harness.stores import StoreCase
from harness.web import Web

OK, BAD_USAGE, BAD_NAME, CANNOT_WRITE, CANNOT_PRINT, FAILED, BAD_CONFIG = (
    0, 64, 65, 73, 74, 75, 78)


class RouteCase(StoreCase):
    def route(self, daemon, *words, status=OK):
        """The command's two outputs."""
        done = run([binary(), "route", "-c", daemon.path, *words])
        out, err = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(done.returncode, status, out + err)
        return out, err

    def says(self, out):
        """What is printed, by its first word."""
        return dict((line[:14].strip(), line[14:])
                    for line in out.splitlines())

    def files(self, mapping, **keys):
        """No daemon: its configuration and its mapping file."""
        d = self.mailferry({"pop3": {"tls": "implicit"}}, {
            "legacy": {"host": "old.example.com", "forwarding": "xclient",
                       "protocol": {"pop3": {"port": 110,
                                             "tls": "starttls"}}},
            "new": {"host": "2001:db8::1", "forwarding": "proxy",
                    "tls_server_name": "new.example.com",
                    "protocol": {"pop3": {"port": 995,
                                          "tls": "implicit"}}}},
            mapping, start=False, **keys)
        return d


class Asking(RouteCase):
    def test_each_step(self):
        """prints how an identifier resolves: normalised form, master suffix,
        store answer, destination, endpoint, exit status"""
        d = self.files({"alice@example.com": "new", "@moved.example": "new"},
                       over={"routing": {"default_domain": "example.com",
                                         "master_user_separators": ["%"]}})
        new = "[2001:db8::1]:995, implicit TLS, forwarding: PROXY protocol"
        old = "old.example.com:110, STARTTLS, forwarding: XCLIENT"
        rows = (
            ("Alice%admin@x", {
                "identifier": "Alice%admin@x", "master user": "%admin@x",
                "looked up as": "alice@example.com",
                "store": "file: has alice@example.com: new",
                "route": "identifier",
                "destination": "new", "endpoint": new}),
            ("x@moved.example", {
                "identifier": "x@moved.example",
                "looked up as": "x@moved.example",
                "store": "file: has @moved.example: new",
                "route": "domain",
                "destination": "new", "endpoint": new}),
            ("bob@example.org", {
                "identifier": "bob@example.org",
                "looked up as": "bob@example.org",
                "store": "file: does not know it, nor @example.org",
                "route": "default",
                "destination": "legacy (the default)", "endpoint": old}),
            ("@nowhere.example", {
                "identifier": "@nowhere.example",
                "looked up as": "@nowhere.example",
                "store": "file: does not know it",
                "route": "default",
                "destination": "legacy (the default)", "endpoint": old}),
            ("%admin", {
                "identifier": "%admin", "master user": "%admin",
                "looked up as": "nobody", "store": "file: not asked",
                "route": "default",
                "destination": "legacy (the default)", "endpoint": old}))
        for name, want in rows:
            out, err = self.route(d, name)
            self.assertEqual(self.says(out), want)
            self.assertEqual(err, "")

    def test_what_no_login_may_have(self):
        d = self.files({})
        for name in ("a b", "a\tb", 'a"b', "x" * 1025):
            out, _ = self.route(d, name, status=BAD_NAME)
            self.assertIn("refused", out)
        out, _ = self.route(d, "a\x1b[31mb", status=BAD_NAME)
        self.assertIn("a\\x1b[31mb", out)

    def test_output_that_cannot_be_written(self):
        """`mailferry route ... >/dev/full` does not end with 0"""
        d = self.files({"alice": "new"})
        for words in (("alice",), ("--set", "legacy", "bob")):
            with open("/dev/full", "wb") as full:
                done = subprocess.run(
                    [binary(), "route", "-c", d.path, *words], stdout=full,
                    stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, CANNOT_PRINT)
            self.assertIn(b"cannot write: No space left", done.stderr)

    def test_usage_and_configuration(self):
        d = self.files({})
        for words in ((), ("a", "b"), ("--set",), ("--nonsense", "a"),
                      ("--set", "new", "--delete", "a")):
            _, err = self.route(d, *words, status=BAD_USAGE)
            self.assertIn("usage:", err)
        d.change({"nonsense": 1})
        _, err = self.route(d, "a", status=BAD_CONFIG)
        self.assertIn("nonsense", err)

    def test_store_that_fails(self):
        """exit status"""
        web = self.keep(Web()).start()
        web.routes["alice"] = "new"
        url = f"http://127.0.0.1:{web.port}/?user=%u"
        d = self.daemon("http", {"url": url}, start=False)
        out, _ = self.route(d, "alice")
        self.assertEqual(self.says(out)["store"], "HTTP: has alice: new")
        web.routes["bob"] = "nowhere"
        out, err = self.route(d, "bob", status=FAILED)
        self.assertEqual(self.says(out)["store"],
                         "HTTP: has a destination that is not declared for "
                         "bob")
        self.assertEqual(self.says(out)["route"], "error")
        self.assertIn("none", self.says(out)["destination"])
        self.assertIn("nowhere", err)
        web.stop()
        out, err = self.route(d, "alice", status=FAILED)
        self.assertEqual(self.says(out)["store"], "HTTP: failed for alice")
        self.assertIn("none", self.says(out)["destination"])
        self.assertIn("the store cannot answer", err)
        d.change({"mapping": {"on_store_error": "default"}})
        out, _ = self.route(d, "alice")
        self.assertIn("failed", self.says(out)["store"])
        self.assertEqual(self.says(out)["destination"],
                         "legacy (the default)")


class File(RouteCase):
    def test_set_and_delete(self):
        """file rewritten atomically ..., sorted; a reload puts it in
        effect"""
        d = self.daemon("file", {"path": "mappings.tsv"})
        self.assertRoute(d, "alice", "legacy")
        self.route(d, "--set", "new", "bob")
        out, _ = self.route(d, "--set", "new", "alice")
        self.assertIn("reload", out)
        with open(d.mapping_path, encoding="ascii") as f:
            self.assertEqual(f.read(), "alice\tnew\nbob\tnew\n")
        d.hang_up()
        d.wait_log("reloaded")
        self.assertRoute(d, "alice", "new")
        self.route(d, "--delete", "alice")
        d.hang_up()
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy", "gone")

    def test_what_is_not_written(self):
        d = self.files({"a": "new"},
                       over={"mapping": {"normalize": "lowercase"}})
        for name, where, why in (
                ("a", "nowhere", "no such destination is declared"),
                ("a b", "new", "white space"), ("", "new", "empty"),
                ("#a@x", "new", "comments"), ('"a"@x', "new", "double quote"),
                ("\ufeffa@x", "new", "byte-order mark"),
                ("a\xa0@x", "new", "cannot be seen"),
                ("\udcff@x", "new", "UTF-8"), ("a\x1b@x", "new", "control"),
                ("Alice@x", "new", "capital letters")):
            _, err = self.route(d, "--set", where, name, status=CANNOT_WRITE)
            self.assertIn(why, err)
        with open(d.mapping_path, encoding="ascii") as f:
            self.assertEqual(f.read(), "a\tnew\n")

    def test_other_spellings_of_a_domain(self):
        """One line for one mailbox, whatever it was written as"""
        d = self.files({"anna@b\xfccher.example": "legacy",
                        "b@x.example.": "legacy"})
        self.route(d, "--set", "new", "anna@xn--bcher-kva.example")
        self.route(d, "--set", "new", "b@x.example")
        with open(d.mapping_path, encoding="ascii") as f:
            self.assertEqual(f.read(), "anna@xn--bcher-kva.example\tnew\n"
                             "b@x.example\tnew\n")
        out, _ = self.route(d, "anna@b\xfccher.example")
        self.assertEqual(self.says(out)["looked up as"],
                         "anna@xn--bcher-kva.example")

    def test_killed_at_any_time(self):
        """file always wholly old or new (SIGKILL at whatever moment)"""
        mapping = {f"user{i:05}": "new" for i in range(20000)}
        d = self.files(mapping)
        with open(d.mapping_path, "rb") as f:
            old = f.read()
        new = b"a-first\tlegacy\n" + old
        start = time.monotonic()
        self.route(d, "--set", "legacy", "a-first")
        usual = time.monotonic() - start
        rng = random.Random(42)
        seen = {old: 0, new: 0}
        for _ in range(60):
            with open(d.mapping_path, "wb") as f:
                f.write(old)
            child = subprocess.Popen(
                [binary(), "route", "-c", d.path, "--set", "legacy",
                 "a-first"], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)
            time.sleep(usual * rng.uniform(0.2, 1.1))
            child.send_signal(signal.SIGKILL)
            child.wait()
            with open(d.mapping_path, "rb") as f:
                seen[f.read()] += 1
        self.assertEqual(sum(seen.values()), 60)
        self.assertGreater(seen[old], 0, "killed too late to mean anything")

    @need_root()
    @need("mount", "umount")
    def test_full_disk(self):
        """ENOSPC on a 64 kB tmpfs: a clear error, and the file is as it
        was"""
        directory = temp_dir()
        check_run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs",
                   directory])
        self.addCleanup(check_run, ["umount", directory])
        path = os.path.join(directory, "map")
        text = "".join(f"user{i:04}\tnew\n" for i in range(3000))
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        d = self.files({}, over={"mapping": {"file": {"path": path}}})
        _, err = self.route(d, "--set", "new", "x", status=CANNOT_WRITE)
        self.assertIn("No space left on device", err)
        with open(path, encoding="ascii") as f:
            self.assertEqual(f.read(), text)
        self.assertEqual(os.listdir(directory), ["map"])


class Others(RouteCase):
    def test_sqlite(self):
        """SQL by the two queries; read-only otherwise"""
        path = os.path.join(temp_dir(), "routes.db")
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE routes "
                   "(identifier TEXT PRIMARY KEY, destination TEXT)")
        db.commit()
        section = {"url": f"sqlite://{path}", "query":
                   "SELECT destination FROM routes WHERE identifier = ?"}
        d = self.daemon("sql", section, start=False)
        _, err = self.route(d, "--set", "new", "alice", status=CANNOT_WRITE)
        self.assertIn("read-only", err)
        d.change({"mapping": {"sql": {
            "upsert_query": "REPLACE INTO routes VALUES (?, ?)",
            "delete_query": "DELETE FROM routes WHERE identifier = ?"}}})
        out, _ = self.route(d, "--set", "new", "o'hara@example.com")
        # No channel: nobody tells the daemons.
        self.assertEqual(out, "written; running daemons may keep the old "
                         "answer for 3600s (mapping.positive_ttl)\n")
        self.assertEqual(db.execute("SELECT * FROM routes").fetchall(),
                         [("o'hara@example.com", "new")])
        out, _ = self.route(d, "o'hara@example.com")
        self.assertEqual(self.says(out)["destination"], "new")
        self.route(d, "--delete", "o'hara@example.com")
        self.assertEqual(db.execute("SELECT * FROM routes").fetchall(), [])
        db.execute("BEGIN EXCLUSIVE")
        _, err = self.route(d, "--set", "new", "x", status=CANNOT_WRITE)
        self.assertIn("locked", err)
        db.close()

    @need("redis-server")
    def test_redis(self):
        """Redis SET/DEL; and a PUBLISH, so that every mailferry hears of
        it"""
        r = self.keep(Redis()).start()
        d = self.daemon("redis", {
            "url": f"redis://127.0.0.1:{r.port}/1", "channel": "mailferry"})
        self.assertRoute(d, "alice", "legacy")
        wait_until(lambda: b":1" in r.ask("PUBLISH", "mailferry", "nobody"),
                   "the daemon hears")
        out, _ = self.route(d, "--set", "new", "alice")
        self.assertEqual(out, "written\n")
        self.assertEqual(r.ask("GET", "route:alice", database=1), b"new")
        wait_until(lambda: self.reply(d, "alice") == "+OK new", "the news",
                   timeout=2)
        self.route(d, "--delete", "alice")
        self.assertEqual(r.ask("GET", "route:alice", database=1),
                         b"$-1\r\n")
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy",
                   "the news", timeout=2)
        r.halt()
        _, err = self.route(d, "--set", "new", "alice", status=CANNOT_WRITE)
        self.assertIn("refused", err.lower())

    @need("redis-server")
    def test_redis_that_may_not_publish(self):
        r = self.keep(Redis(lines=[
            "user writer on >x ~* +set +get +del +select +auth"])).start()
        d = self.daemon("redis", {
            "url": f"redis://writer:x@127.0.0.1:{r.port}",
            "channel": "mailferry"}, start=False)
        _, err = self.route(d, "--set", "new", "alice", status=CANNOT_WRITE)
        self.assertIn("written, but not published", err)
        self.assertEqual(r.ask("GET", "route:alice"), b"new")

    def test_web_service(self):
        web = self.keep(Web()).start()
        url = f"http://127.0.0.1:{web.port}/?user=%u"
        d = self.daemon("http", {"url": url}, start=False)
        _, err = self.route(d, "--delete", "alice", status=CANNOT_WRITE)
        self.assertIn("read-only", err)
        self.assertEqual(web.asked, [])


if __name__ == "__main__":
    unittest.main()
