"""Routes in Redis: a real server, and what it does to logins when it is slow,
gone, restarted or talks rubbish."""

import os
import re
import socket
import threading
import time
import unittest

from harness.case import certs, need
from harness.mailferry import binary
from harness.ports import free_port
from harness.proc import run, wait_until
from harness.redis import Redis
from harness.stores import (StoreAnswers, StoreCase, StoreFaults,
                            StoreWaits)


@need("redis-server")
class RedisCase(StoreCase):
    SOURCE = "redis"

    @classmethod
    def make(cls, **keys):
        return Redis(**keys).start()

    def section(self, p):
        return {"url": f"redis://127.0.0.1:{p.port}/0"}

    def slow(self, p, seconds):
        p.ask("CLIENT", "PAUSE", int(seconds * 1000))
        return {}

    def redis(self, **keys):
        return self.server(**keys)


class Waits(StoreWaits, RedisCase):
    def slow(self, p, seconds):
        """Once the relayed session is there."""
        self.pause = seconds
        return {}

    def while_they_wait(self, d, client, act=lambda: None):
        if getattr(self, "pause", None):
            super().slow(self.p, self.pause)
        return super().while_they_wait(d, client, act)


class WaitsTls(Waits):
    TLS = "good"

    def section(self, p):
        return {"url": f"rediss://localhost:{p.tls_port}",
                "tls_ca_file": certs().ca}


class Answers(StoreAnswers, RedisCase):
    def test_key_is_every_octet(self):
        """Same bytes in, same key out: no pattern, no quoting, no prefix of
        another key"""
        r = self.redis()
        names = ["a*b", "a?b", "[ab]", "a'b", "a\\b", "a%u", "${HOME}",
                 "j\xfcrgen@example.com", "x" * 400]
        for name in names:
            r.ask("SET", b"route:" + name.encode("latin-1"), "new")
        d = self.serve(r, normalize="none")
        for name in names:
            self.assertRoute(d, name, "new")
        for name in ("aXb", "ab", "a", "a%", "x" * 399):
            self.assertRoute(d, name, "legacy")

    def test_prefix_database_password(self):
        """redis://:PASSWORD@HOST:PORT/DATABASE, key_prefix (CONFIG)"""
        r = self.redis(password="p@ss:w/rd")
        r.route("alice", "new", prefix="mail/", database=2)
        url = f"redis://:p%40ss%3Aw%2Frd@127.0.0.1:{r.port}/2"
        d = self.serve(r, {"url": url, "key_prefix": "mail/"})
        self.assertRoute(d, "alice", "new")
        self.assertRoute(d, "bob", "legacy")
        self.assertNotIn("p@ss", d.output())
        self.assertNotIn("p%40ss", d.output())

    def test_acl_user(self):
        """password, ACL user, database"""
        r = self.redis(lines=["user reader on >sesame ~route:* +get +select",
                              "user default on nopass ~* &* +@all"])
        r.route("alice", "new")
        url = f"redis://reader:sesame@localhost:{r.port}"
        self.assertRoute(self.serve(r, {"url": url}), "alice", "new")
        bad = self.serve(r, {"url": url.replace("sesame", "wrong")})
        self.assertNoRoute(bad, "alice")
        bad.wait_log("WRONGPASS")
        self.assertNotIn("sesame", bad.output())

    def test_acl_of_the_manual(self):
        """docs/fleet.md: a user for mailferry needs no more than ..."""
        path = os.path.join(os.path.dirname(__file__), "..", "..", "docs",
                            "fleet.md")
        with open(path, encoding="utf-8") as f:
            line = re.search(r"^ACL SETUSER (.*)$", f.read(), re.M).group(1)
        r = self.redis()
        r.ask("ACL", "SETUSER", *line.split())
        r.route("alice", "new")
        d = self.serve(r, {"channel": "mailferry", "url": (
            f"redis://mailferry:PASSWORD@127.0.0.1:{r.port}/1")})
        self.assertRoute(d, "alice", "legacy")
        r.route("alice", "new", database=1)
        wait_until(lambda: r.ask("PUBLISH", "mailferry", "alice") ==
                   b":1\r\n", "somebody hears")
        wait_until(lambda: self.reply(d, "alice") == "+OK new", "the news")
        time.sleep(1)
        self.assertNotIn("channel is lost", d.output())

    def test_unix_socket(self):
        """redis://, rediss://, unix sockets"""
        r = self.redis()
        r.route("alice", "new", database=1)
        d = self.serve(r, {"url": f"unix://{r.socket}?db=1"})
        self.assertRoute(d, "alice", "new")

    def test_tls(self):
        """rediss:// verifies the server's certificate and name"""
        for cert, host, ca, good in (
                ("good", "localhost", certs().ca, True),
                ("good", "127.0.0.1", certs().ca, True),
                ("wrong", "localhost", certs().ca, False),
                ("expired", "localhost", certs().ca, False),
                ("good", "localhost", None, False)):
            with self.subTest(cert=cert, host=host, ca=ca):
                r = self.redis(tls=cert)
                r.route("alice", "new")
                section = {"url": f"rediss://{host}:{r.tls_port}/0"}
                if ca:
                    section["tls_ca_file"] = ca
                d = self.serve(r, section)
                if good:
                    self.assertRoute(d, "alice", "new")
                else:
                    self.assertNoRoute(d, "alice")
                    d.wait_log("TLS handshake failed")

    def test_wrong_type(self):
        """garbage: the store could not say, and on_store_error rules"""
        r = self.redis()
        r.ask("LPUSH", "route:alice", "new")
        self.assertNoRoute(self.serve(r), "alice")
        self.assertRoute(self.serve(r, on_store_error="default"), "alice",
                         "legacy")


class Refusals(RedisCase):
    """A server that is well, and says no."""

    def test_loading(self):
        """A server that reads its data after a start: not asked again and
        again, and used once it has"""
        r = self.redis(lines=["appendonly no"])
        r.ask("EVAL", "for i = 0, 2999 do redis.call('SET', "
              "'route:user' .. i, 'new') end", 0)
        r.ask("SAVE")
        d = self.serve(r)
        self.assertRoute(d, "user0", "new")
        r.halt()
        with open(r.path, "a", encoding="utf-8") as f:
            f.write("key-load-delay 1000\nloading-process-events-interval-"
                    "bytes 1024\n")
        r.start(loading=True)
        names = (f"user{n}" for n in range(1, 100000))
        replies = []

        def has_loaded():
            replies.append(self.reply(d, next(names)))
            return replies[-1] == "+OK new"
        wait_until(has_loaded, "it has loaded", 60)
        d.wait_log("the server is still loading its data .LOADING")
        # It was asked after pauses only; all other logins failed at once.
        self.assertLess(len(self.records(d, "the store fails")),
                        len(replies))
        # Each worker finds out for itself.
        wait_until(lambda: self.reply(d, next(names)) and
                   "the store answers again" in d.output(), "a log line")

    def test_password_that_is_wanted(self):
        r = self.redis(password="sesame")
        d = self.serve(r)
        self.assertNoRoute(d, "alice")
        d.wait_log("it refuses us: NOAUTH")

    def test_user_who_may_not(self):
        r = self.redis(lines=["user reader on >x +select +ping",
                              "user default on nopass ~* &* +@all"])
        d = self.serve(r, {"url": f"redis://reader:x@127.0.0.1:{r.port}"})
        self.assertNoRoute(d, "alice")
        d.wait_log("the user may not do this .NOPERM")

    def test_replica(self):
        """It answers lookups; routes are written to its master."""
        r = self.redis()
        r.route("alice", "new")
        r.ask("REPLICAOF", "127.0.0.1", free_port())
        d = self.serve(r, {"channel": "c"})
        self.assertRoute(d, "alice", "new")
        done = run([binary(), "route", "-c", d.path, "--set", "new", "bob"])
        self.assertEqual(done.returncode, 73)
        self.assertIn(b"the server is a replica: use the master to write",
                      done.stderr)
        self.assertRoute(d, "bob", "legacy")

    def test_replica_without_its_master(self):
        r = self.redis(lines=["replica-serve-stale-data no"])
        r.route("alice", "new")
        d = self.serve(r, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        r.ask("REPLICAOF", "127.0.0.1", free_port())
        self.assertRoute(d, "alice", "new")  # the old answer
        self.assertNoRoute(d, "bob")
        d.wait_log("has lost its master .MASTERDOWN")
        r.ask("REPLICAOF", "NO", "ONE")
        wait_until(lambda: self.reply(d, "bob") == "+OK legacy", "it is back")

    def test_cluster(self):
        r = self.redis(lines=["cluster-enabled yes"])
        d = self.serve(r)
        self.assertNoRoute(d, "alice")
        d.wait_log("cluster does not work .CLUSTERDOWN")

    def test_other_node_of_a_cluster(self):
        """One key is elsewhere: the others' routes are right"""
        def talk(s):
            while True:
                said = s.recv(4096)
                if b"alice" in said:
                    s.sendall(b"-MOVED 3999 127.0.0.1:6381\r\n")
                elif b"GET" in said:
                    s.sendall(b"$3\r\nnew\r\n")
                elif said:
                    s.sendall(b"+OK\r\n")
                else:
                    return
        d = self.daemon("redis", {
            "url": f"redis://127.0.0.1:{self.talking(talk)}"})
        self.assertNoRoute(d, "alice")
        self.assertRoute(d, "bob", "new")
        d.wait_log("one node of a cluster: use a proxy for it .MOVED 3999")
        self.assertNotIn("the store fails", d.output())


class Faults(StoreFaults, RedisCase):
    test_slow = None  # it answers one after another

    def test_cached_answers_need_no_store(self):
        """a cache that survives outages: fresh, then stale, then [SYS/TEMP]
        or the default"""
        r = self.redis()
        r.route("alice", "new")
        d = self.serve(r, positive_ttl="300ms", negative_ttl="300ms")
        self.assertRoute(d, "alice", "new")
        self.assertRoute(d, "bob", "legacy")
        r.halt()
        wait_until(lambda: "the store" in d.output() or
                   self.reply(d, "alice") and False, "an expired answer")
        # Stale now. That bob had no route is no answer any more.
        self.assertRoute(d, "alice", "new")
        self.assertNoRoute(d, "bob")
        # Nothing is known of her.
        self.assertNoRoute(d, "carol")
        r.start()
        r.route("alice", "legacy")
        r.route("carol", "new")
        wait_until(lambda: self.reply(d, "carol") == "+OK new",
                   "the store is asked again")
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy",
                   "the fresh answer")
        self.answers_again(d)

    def test_stale_has_an_end(self):
        """stale_ttl: how long past its ttl a cached answer may still serve
        (CONFIG)"""
        r = self.redis()
        r.route("alice", "new")
        d = self.serve(r, positive_ttl="100ms", stale_ttl="1500ms")
        self.assertRoute(d, "alice", "new")
        r.halt()
        wait_until(lambda: "SYS/TEMP" in self.reply(d, "alice"),
                   "the end of the stale answer")

    def test_on_store_error_default(self):
        """on_store_error: tempfail | default (CONFIG)"""
        r = self.redis()
        r.halt()
        d = self.serve(r, on_store_error="default")
        self.assertRoute(d, "alice", "legacy")

    def test_hanging(self):
        """each store slow ...: inside lookup_timeout, and the other workers'
        logins go on"""
        r = self.redis()
        r.route("alice", "new")
        r.route("bob", "new")
        d = self.serve(r, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        time.sleep(0.1)  # her answer gets old
        r.freeze()
        start = time.monotonic()
        self.assertNoRoute(d, "carol")
        self.assertGreater(time.monotonic() - start, 0.7)
        # Whoever comes now does not wait for the timeout: it is known, to
        # each worker that has tried.
        workers = d.tree["server"]["threads"]
        names = (f"user{i}" for i in range(100000))

        def slow_ones():
            users = [next(names) for _ in range(3 * workers)]
            return sum(t > 0.5 for t in self.times(d, users))
        wait_until(lambda: slow_ones() <= workers,
                   "one login at most finds out for each worker")
        self.assertRoute(d, "alice", "new")
        r.thaw()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")

    def times(self, d, users):
        """How long each login took, of all at once."""
        took = []

        def one(user):
            start = time.monotonic()
            self.assertTempFail(self.reply(d, user))
            took.append(time.monotonic() - start)
        threads = [threading.Thread(target=one, args=(u,)) for u in users]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(took), len(users))
        return took

    def test_idle_connections_may_be_closed(self):
        r = self.redis(lines=["timeout 1"])
        r.route("alice", "new")
        d = self.serve(r, {"channel": "mailferry"}, positive_ttl="0s")
        self.assertRoute(d, "alice", "new")
        wait_until(lambda: b"age=" not in r.ask("CLIENT", "LIST", "TYPE",
                                                "normal").split(b"\n", 1)[-1],
                   "redis has closed the idle ones")
        self.assertRoute(d, "alice", "new")

    def test_garbage(self):
        """answering garbage"""
        def answers(*chunks):
            def talk(s):
                s.recv(4096)
                for chunk in chunks:
                    s.sendall(chunk)
                s.recv(4096)
                s.recv(4096)
            return talk

        def flood(s):
            s.sendall(b"$1000000000\r\n")
            while True:
                s.sendall(b"x" * 65536)
        for talk in (answers(b"220 smtp.example.com ESMTP\r\n"),
                     answers(b"+OK\r\n*1000000000\r\n"),
                     answers(b"+OK\r\n", b"*-7\r\n$-9\r\n"),
                     answers(b"+OK\r\n", b":1\r\n:2\r\n:3\r\n"),
                     answers(b"\0" * 1000), answers(b"-ERR no\r\n"),
                     answers(b"*1\r\n" * 64), flood, lambda s: None):
            port = self.talking(talk)
            d = self.daemon("redis", {"url": f"redis://127.0.0.1:{port}"})
            self.assertNoRoute(d, "alice")
            self.assertNoRoute(d, "bob")
            d.stop()

    def test_dying_in_mid_query(self):
        """dying mid-query: asked once more, on another connection"""
        r = self.redis(lines=["enable-debug-command yes"])
        for name in ("alice", "bob"):
            r.route(name, "new")
        d = self.serve(r, lookup_timeout="5s")
        self.assertRoute(d, "alice", "new")
        mark = d.mark()
        with socket.create_connection(("127.0.0.1", r.port)) as s:
            # It sleeps over the question, and then hangs up on who asked.
            s.sendall(b"DEBUG SLEEP 0.7\r\nCLIENT KILL TYPE normal "
                      b"SKIPME yes\r\n")
            self.assertRoute(d, "bob", "new")
            said = s.makefile("rb")
            self.assertEqual(said.readline(), b"+OK\r\n")
            self.assertNotEqual(said.readline(), b":0\r\n")
        self.assertNotIn("the store cannot answer", d.output(mark))

    def test_dying_in_mid_answer(self):
        def talk(s):
            s.recv(4096)
            s.sendall(b"+OK\r\n")
            s.recv(4096)
            s.sendall(b"$3\r\nne")
        port = self.talking(talk)
        d = self.daemon("redis", {"url": f"redis://127.0.0.1:{port}"})
        self.assertNoRoute(d, "alice")


class Channel(RedisCase):
    def test_publish_invalidates_everywhere(self):
        """a PUBLISH on a channel invalidates that identifier in every
        mailferry within a second"""
        r = self.redis()
        for name in ("alice", "bob", "@moved.example"):
            r.route(name, "new")
        channel = {"channel": "mailferry"}
        daemons = [self.serve(r, channel) for _ in range(2)]
        for d in daemons:
            wait_until(lambda: r.ask("PUBSUB", "NUMSUB", "mailferry") and
                       self.subscribers(r) == len(daemons), "subscriptions")
            for name in ("alice", "bob", "x@moved.example"):
                self.assertRoute(d, name, "new")
            self.assertRoute(d, "carol", "legacy")
        for name, where in (("alice", "legacy"), ("carol", "new"),
                            ("@moved.example", "legacy")):
            r.route(name, where)
            start = time.monotonic()
            r.ask("PUBLISH", "mailferry", name)
            login = name if name[0] != "@" else "x" + name
            for d in daemons:
                wait_until(lambda: self.reply(d, login) == f"+OK {where}",
                           "the new route", timeout=5)
            self.assertLess(time.monotonic() - start, 1)
        # Nobody spoke of bob.
        r.route("bob", "legacy")
        for d in daemons:
            self.assertRoute(d, "bob", "new")
        r.ask("PUBLISH", "mailferry", "")
        for d in daemons:
            wait_until(lambda: self.reply(d, "bob") == "+OK legacy",
                       "an empty payload clears the cache")

    @staticmethod
    def subscribers(r):
        with socket.create_connection(("127.0.0.1", r.port), 5) as s:
            s.sendall(b"PUBSUB NUMSUB mailferry\r\n")
            data = b""
            while data.count(b"\n") < 4:
                data += s.recv(4096)
        return int(data.rsplit(b":", 1)[1])

    def test_what_was_missed(self):
        """Messages may be lost with their connection: after a restart all is
        asked again, and still serves if that fails"""
        r = self.redis()
        r.route("alice", "new")
        d = self.serve(r, {"channel": "mailferry"})
        self.assertRoute(d, "alice", "new")
        wait_until(lambda: self.subscribers(r) == 1, "a subscription")
        r.halt()
        self.assertRoute(d, "alice", "new")
        r.start()
        r.route("alice", "legacy")
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy",
                   "a subscription again")

    def test_lower_case(self):
        """normalize: what is published is taken as a lookup would"""
        r = self.redis()
        r.route("alice", "new")
        d = self.serve(r, {"channel": "c"}, normalize="lowercase")
        self.assertRoute(d, "Alice", "new")
        r.route("alice", "legacy")
        wait_until(lambda: r.ask("PUBLISH", "c", "ALICE") == b":1\r\n",
                   "somebody hears")
        wait_until(lambda: self.reply(d, "alice") == "+OK legacy", "news")

    def test_reload(self):
        """The old runtime's subscription goes with it."""
        r = self.redis()
        r.route("alice", "new")
        d = self.serve(r, {"channel": "mailferry"})
        wait_until(lambda: self.subscribers(r) == 1, "a subscription")
        for _ in range(3):
            mark = d.mark()
            d.hang_up()
            d.wait_log("reloaded", mark)
        wait_until(lambda: self.subscribers(r) == 1, "only the new one")
        self.assertRoute(d, "alice", "new")


if __name__ == "__main__":
    unittest.main()
