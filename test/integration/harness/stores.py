"""Routes from a real store: two backends, and which of them a login
reaches."""

import socket
import threading
import time

from .case import Case, Pop3
from .ports import free_port
from .proc import wait_until


def name_itself(c, _mech, _frame):
    return f"+OK {c.backend.name}"


class StoreCase(Case):
    """legacy is the default destination, new is where mailboxes go.

    The suite of a store has a subclass with what is special about it: SOURCE,
    make(), section(), and slow() if it can be. Its classes of tests are that
    one together with StoreAnswers, StoreFaults and StoreWaits below."""

    # What a failing test would wait for; a busy machine needs some slack.
    TIMEOUT = "800ms"
    SOURCE = "file"
    NULLS = False  # a destination may be NULL
    PAUSES = True  # it is not asked for a while when it fails

    @classmethod
    def make(cls, tls=None):
        """A server without routes, started: start(), halt(), freeze(), thaw(),
        stop(), output(). tls: the name of its certificate."""
        raise NotImplementedError

    @staticmethod
    def fill(p, routes):
        """Puts {identifier: destination} in."""
        p.routes(routes)

    def section(self, p):
        """The section of SOURCE that leads to the server."""
        raise NotImplementedError

    def slow(self, p, seconds):
        """The same, but the lookups of names that begin with "slow" take so
        long, or all during that time."""
        raise NotImplementedError

    def server(self, routes=None, **keys):
        """A server of this test."""
        p = self.keep(self.make(**keys))
        if routes:
            self.fill(p, routes)
        return p

    @classmethod
    def shared_server(cls, routes=None, **keys):
        """A server of all the class's tests."""
        p = cls.make(**keys)
        cls.addClassCleanup(p.stop)
        if routes:
            cls.fill(p, routes)
        return p

    def with_routes(self, routes):
        """A server that has these and no others."""
        return self.server(routes)

    def serve(self, p, section=None, **mapping):
        """A daemon that asks the server."""
        return self.daemon(self.SOURCE,
                           dict(self.section(p), **(section or {})), **mapping)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backends = {}
        for name in ("legacy", "new"):
            b = cls.shared_backend(Pop3(check=name_itself), tls="implicit")
            b.name = name
            cls.backends[name] = b

    def daemon(self, source, section, start=True, **mapping):
        """Returns a mailferry whose routes are in a store."""
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
        """Checks for [SYS/TEMP] within that time."""
        start = time.monotonic()
        self.assertTempFail(self.reply(daemon, user))
        self.assertLess(time.monotonic() - start, within)

    def records(self, daemon, message):
        return [r for r in daemon.records() if r.get("message") == message]

    def talking(self, talk):
        """Returns a server that is not a store, and its port. talk(socket)
        is called once for each connection."""
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
        """Starts logins at the same time. Returns their threads, and the
        list for their replies."""
        replies = []
        threads = [threading.Thread(
            target=lambda user=user: replies.append(self.reply(daemon, user)))
            for user in users]
        for t in threads:
            t.start()
        return threads, replies

    def together(self, daemon, users):
        """Returns the replies to logins that are made at the same time."""
        threads, replies = self.at_once(daemon, users)
        for t in threads:
            t.join()
        return replies


class StoreAnswers:
    """What every store is asked."""

    def test_identifier_domain_default(self):
        """Lookups: the identifier, then "@domain", then default_destination
        (CONFIG)"""
        routes = {"alice@example.com": "new", "@moved.example": "new",
                  "stayed@moved.example": "legacy"}
        if self.NULLS:
            routes["nothing"] = None
        d = self.serve(self.with_routes(routes))
        self.assertRoute(d, "alice@example.com", "new")
        self.assertRoute(d, "anybody@moved.example", "new")
        self.assertRoute(d, "stayed@moved.example", "legacy")
        self.assertRoute(d, "bob@example.com", "legacy")
        self.assertRoute(d, "@nowhere.example", "legacy")
        self.assertRoute(d, "@moved.example", "new")
        self.assertRoute(d, "nothing", "legacy")

    def test_undeclared_destination(self):
        """A destination that is not declared is a failure of the store,
        logged as such: never the default (PROTOCOL)"""
        d = self.serve(self.with_routes({"alice": "nowhere"}))
        self.assertNoRoute(d, "alice")
        d.wait_record(lambda x: x.get("destination") == "nowhere" and
                      x.get("identifier") == "alice", "the name")


class StoreFaults:
    """What a store may do to logins."""

    def answers_again(self, d):
        """Each worker finds out for itself."""
        names = (f"user{n}" for n in range(100000))
        wait_until(lambda: self.reply(d, next(names)) and
                   "the store answers again" in d.output(), "a log line")

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
        self.fill(p, {"carol": "new"})
        wait_until(lambda: self.reply(d, "carol") == "+OK new", "it is back")
        if self.PAUSES:
            self.answers_again(d)

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
        d = self.serve(p, self.slow(p, 30))
        start = time.monotonic()
        threads, replies = self.at_once(d, ["slow"])
        for i in range(10):
            self.assertRoute(d, f"user{i}", "legacy")
        threads[0].join()
        self.assertTempFail(replies[0])
        self.assertLess(time.monotonic() - start, 3)
        # A store that did not answer in time is left alone for a moment.
        wait_until(lambda: self.reply(d, "alice") == "+OK new",
                   "the store is asked again")

    def test_hanging(self):
        """frozen: logins hear [SYS/TEMP] or the old answer in time"""
        p = self.server({"alice": "new", "bob": "new"})
        d = self.serve(p, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        p.freeze()
        time.sleep(0.1)  # her answer gets old
        self.assertNoRoute(d, "bob")
        self.assertRoute(d, "alice", "new")
        p.thaw()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")


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


class StoreWaits:
    """Nobody waits for a store but those who ask it: while a server is slow,
    frozen or dies, the sessions of the same worker go on."""

    TLS = None
    SLOW = 1.5  # seconds that a slow server takes
    FROZEN = "2s"  # lookup_timeout for a frozen one
    HELD = 0.9  # an echo that took longer was held up by one of the above
    USERS = [f"slow{n}" for n in range(6)]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.p = cls.shared_server(
            dict.fromkeys(["relayed", "bob", *cls.USERS], "new"), tls=cls.TLS)

    def one_worker(self, section, timeout):
        """A daemon, and a session of it in the relay."""
        d = self.serve(self.p, section, start=False, lookup_timeout=timeout)
        d.change({"server": {"threads": 1}})
        d.start()
        client = self.client(d, tls="implicit")
        self.assertReply(client.cmd("USER relayed"), "+OK")
        self.assertReply(client.cmd("PASS x"), "+OK")
        return d, client

    def while_they_wait(self, d, client, act=lambda: None):
        """The replies to logins of USERS during which act() is done."""
        with Echo(client) as echo:
            threads, replies = self.at_once(d, self.USERS)
            act()
            for t in threads:
                t.join()
        self.assertGreater(echo.count, 10)
        self.assertLess(echo.worst, self.HELD, "a worker was held")
        return replies

    def test_slow_server(self):
        d, client = self.one_worker(self.slow(self.p, self.SLOW), "20s")
        replies = self.while_they_wait(d, client)
        self.assertEqual(replies, ["+OK new"] * len(self.USERS))

    def test_frozen_server(self):
        d, client = self.one_worker(None, self.FROZEN)
        self.p.freeze()
        self.addCleanup(self.p.thaw)
        for reply in self.while_they_wait(d, client):
            self.assertTempFail(reply)
        self.p.thaw()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")

    def test_dying_server(self):
        d, client = self.one_worker(self.slow(self.p, self.SLOW), self.FROZEN)

        def die():
            time.sleep(self.SLOW / 3)  # in the middle of the queries
            self.p.halt()
        for reply in self.while_they_wait(d, client, die):
            self.assertTempFail(reply)
        self.p.start()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")
