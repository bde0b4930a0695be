"""Routes from a real store: two backends, and which of them a login reaches."""

import socket
import threading
import time

from .case import Case, Pop3
from .ports import free_port
from .proc import wait_until


def name_itself(c, _mech, _frame):
    return f"+OK {c.backend.name}"


class StoreCase(Case):
    """legacy is the default destination, new is where mailboxes go."""

    # What a failing test would wait for; a busy machine needs some slack.
    TIMEOUT = "800ms"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backends = {}
        for name in ("legacy", "new"):
            b = cls.shared_backend(Pop3(check=name_itself), tls="implicit")
            b.name = name
            cls.backends[name] = b

    def daemon(self, source, section, start=True, **mapping):
        """A mailferry whose routes are in a store."""
        over = {"mapping": dict(
            {"source": source, "file": None, source: section,
             "lookup_timeout": self.TIMEOUT, "positive_ttl": "1h",
             "negative_ttl": "1h"}, **mapping),
            "routing": {"master_user_separators": []}}
        return self.mailferry(
            {"pop3": {"tls": "implicit", "max_auth_attempts": 100}},
            {name: b.destination() for name, b in self.backends.items()},
            None, over, start=start)

    def reply(self, daemon, user, client=None):
        """The reply to a login."""
        c = client or self.client(daemon, tls="implicit")
        self.assertReply(c.cmd(f"USER {user}"), "+OK")
        reply = c.cmd("PASS x")
        c.close()
        return reply

    def assertRoute(self, daemon, user, destination):
        self.assertEqual(self.reply(daemon, user), f"+OK {destination}")

    def assertNoRoute(self, daemon, user, within=3.0):
        """[SYS/TEMP], and not later than that."""
        start = time.monotonic()
        self.assertTempFail(self.reply(daemon, user))
        self.assertLess(time.monotonic() - start, within)

    def records(self, daemon, message):
        return [r for r in daemon.records() if r.get("message") == message]

    def talking(self, talk):
        """A server that is none, and its port. talk(socket): once for each
        connection."""
        listener = socket.create_server(("127.0.0.1", free_port()))
        self.addCleanup(listener.close)

        def one(s):
            try:
                talk(s)
            except OSError:
                pass
            s.close()

        def serve():
            while True:
                try:
                    s, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(s,), daemon=True).start()
        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]

    def at_once(self, daemon, users):
        """Logins that come all at once: their threads, and the list that
        their replies come to."""
        replies = []
        threads = [threading.Thread(
            target=lambda user=user: replies.append(self.reply(daemon, user)))
            for user in users]
        for t in threads:
            t.start()
        return threads, replies

    def together(self, daemon, users):
        """The replies to logins that come all at once."""
        threads, replies = self.at_once(daemon, users)
        for t in threads:
            t.join()
        return replies


class SqlAnswers:
    """What every SQL server is asked. A subclass has p, a server of all its
    tests with an empty table, and serve()."""

    def test_identifier_domain_default(self):
        """Lookups: the identifier, then "@domain", then default_destination
        (CONFIG)"""
        self.p.routes({"alice@example.com": "new", "@moved.example": "new",
                       "stayed@moved.example": "legacy"})
        self.p.sql("INSERT INTO routes VALUES ('nothing', NULL)")
        d = self.serve(self.p)
        self.assertRoute(d, "alice@example.com", "new")
        self.assertRoute(d, "anybody@moved.example", "new")
        self.assertRoute(d, "stayed@moved.example", "legacy")
        self.assertRoute(d, "bob@example.com", "legacy")
        self.assertRoute(d, "@nowhere.example", "legacy")
        self.assertRoute(d, "@moved.example", "new")
        self.assertRoute(d, "nothing", "legacy")

    def test_undeclared_destination(self):
        """A destination that is not declared is a failure of the store"""
        self.p.routes({"alice": "nowhere"})
        d = self.serve(self.p)
        self.assertNoRoute(d, "alice")
        d.wait_log("nowhere")



class SqlFaults:
    """What a server of SQL may do to logins. A subclass has server(routes)
    and serve(server, section, **mapping), and slow(user, seconds): a query
    that takes its time for one user."""

    def test_outage(self):
        """a cache that survives outages: refusing"""
        p = self.server({"alice": "new"})
        d = self.serve(p, positive_ttl="100ms")
        other = self.serve(p, on_store_error="default")
        self.assertRoute(d, "alice", "new")
        self.assertRoute(other, "alice", "new")
        p.halt()
        time.sleep(0.1)  # her answer gets old
        self.assertRoute(d, "alice", "new")
        self.assertNoRoute(d, "bob", within=1)
        self.assertRoute(other, "bob", "legacy")
        p.start()
        p.routes({"carol": "new"})
        wait_until(lambda: self.reply(d, "carol") == "+OK new", "it is back")
        # Each worker finds out for itself.
        names = (f"user{n}" for n in range(100000))
        wait_until(lambda: self.reply(d, next(names)) and
                   "the store answers again" in d.output(), "a log line")

    def test_restart_between_lookups(self):
        """restarting: the connection that died of it is not the login's
        trouble"""
        p = self.server({f"user{i}": "new" for i in range(20)})
        d = self.serve(p)
        # Several connections, all of which will be dead.
        self.assertEqual(self.together(d, [f"user{i}" for i in range(10)]),
                         ["+OK new"] * 10)
        p.halt()
        p.start()
        for i in range(10, 20):
            self.assertRoute(d, f"user{i}", "new")

    def test_slow(self):
        """slow: inside lookup_timeout; others' logins go on"""
        p = self.server({"alice": "new", "slow": "new"})
        d = self.serve(p, {"query": self.slow("slow", 30)})
        start = time.monotonic()
        replies = []
        t = threading.Thread(
            target=lambda: replies.append(self.reply(d, "slow")))
        t.start()
        for i in range(10):
            self.assertRoute(d, f"user{i}", "legacy")
        t.join()
        self.assertTempFail(replies[0])
        self.assertLess(time.monotonic() - start, 3)
        self.assertRoute(d, "alice", "new")

    def test_hanging(self):
        """SIGSTOP: logins hear [SYS/TEMP] or the old answer in time"""
        p = self.server({"alice": "new", "bob": "new"})
        d = self.serve(p, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        p.freeze()
        time.sleep(0.1)  # her answer gets old
        self.assertNoRoute(d, "bob")
        self.assertRoute(d, "alice", "new")
        p.thaw()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")
