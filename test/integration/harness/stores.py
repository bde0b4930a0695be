"""Routes from a real store: two backends, and which of them a login reaches."""

import time

from .case import Case, Pop3


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
