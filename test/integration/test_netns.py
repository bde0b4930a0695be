"""Backends on a network of their own: names with several addresses of both
families, addresses that are dead in every way, name servers and cables that
fail (PROTOCOL and CONFIG). Each docstring quotes the sentence that its test
proves. Needs root, for network namespaces.
"""

import threading
import time
import unittest

from harness.case import Case, need, need_that
from harness.netns import Dns, Network, why_not

PORT = 1100  # of all backends; their addresses tell them apart
DNS, DNS2 = "10.77.0.53", "10.77.0.54"
FOUR, OTHER_FOUR = "10.77.0.11", "10.77.0.12"
SIX, OTHER_SIX = "fd77::11", "fd77::12"
REFUSES_FOUR, REFUSES_SIX = "10.77.0.19", "fd77::19"
SWALLOWS_FOUR, SWALLOWS_SIX = "10.78.0.1", "fd78::1"
NOBODY_FOUR, NOBODY_SIX = "10.77.0.200", "fd77::200"

STAGGER = .25  # RFC 8305, section 8: Connection Attempt Delay
SOON = 1  # what a login may take whose first address is dead


@need("ip", "unshare")
@need_that(why_not)
class Networked(Case):
    """A network of the class, a name server in it, and backends at FOUR, SIX
    and OTHER_*."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.net = Network()
        cls.addClassCleanup(cls.net.close)
        with cls.net.far:
            cls.dns = Dns(DNS, {})
            cls.addClassCleanup(cls.dns.stop)
            cls.at = {address: cls.shared_backend(
                tls="plain", address=address, port=PORT)
                for address in (FOUR, SIX, OTHER_FOUR, OTHER_SIX)}
        cls._shared.append(cls.dns)

    def setUp(self):
        super().setUp()
        for b in self.at.values():
            b.forget()

    @staticmethod
    def to(host, **keys):
        """A destination of this host."""
        return {"host": host, "forwarding": "none",
                "allow_plaintext_auth": True, **keys,
                "protocol": {"pop3": {"port": PORT, "tls": "plain"}}}

    def serve(self, destinations, dns=None, hosts="", **server):
        """A daemon whose users are called as its destinations."""
        d = self.mailferry(
            {"pop3": {"tls": "plain"}}, destinations,
            {name: name for name in destinations}, start=False,
            over={"server": {"backend_timeout": "10s", **server},
                  "capabilities": {"pop3": {
                      "allow_plain_auth_without_tls": True}}})
        d.via = self.net.via((dns or self.dns).resolv_conf, hosts)
        with self.net.near:
            d.start()
        return d

    def serve_names(self, names, **server):
        """The same, where each destination is a name with these
        addresses."""
        self.dns.names.update({f"{name}.example": addresses
                               for name, addresses in names.items()})
        return self.serve({name: self.to(f"{name}.example")
                           for name in names}, **server)

    def connect(self, d):
        with self.net.near:
            return self.client(d)

    def log_in(self, d, user, c=None):
        """The reply, the seconds until then, and the client."""
        c = c or self.connect(d)
        self.assertReply(c.cmd(f"USER {user}"), "+OK")
        start = time.monotonic()
        reply = c.cmd("PASS secret")
        return reply, time.monotonic() - start, c

    def log_in_out(self, d, user):
        """Logs in, which has to work. The seconds, the end's log line, and
        how many connections the daemon tried."""
        opened = self.net.near.tcp("ActiveOpens")
        mark = d.mark()
        reply, took, c = self.log_in(d, user)
        self.assertReply(reply, "+OK")
        c.play("C: NOOP\nS: +OK\nC: QUIT\nS: +OK\nCLOSED")
        end = d.wait_record(lambda r: "bytes_to_client" in r, "the end", mark)
        # One of them is the client's.
        return took, end, self.net.near.tcp("ActiveOpens") - opened - 1


class Addresses(Networked):
    """Which address of a name serves, and when."""

    def test_both_families(self):
        """host: name (resolved at each connection, every address tried) or
        literal address (CONFIG)"""
        names = {}
        for kind, four, six in (
                ("swallows", SWALLOWS_FOUR, SWALLOWS_SIX),
                ("nobody", NOBODY_FOUR, NOBODY_SIX),
                ("refuses", REFUSES_FOUR, REFUSES_SIX)):
            names[f"{kind}-four"] = [four, SIX]
            names[f"{kind}-six"] = [FOUR, six]
        d = self.serve_names(names)
        for name in names:
            with self.subTest(name):
                took, end, _ = self.log_in_out(d, name)
                self.assertLess(took, SOON)
                self.assertEqual(
                    end["backend"],
                    f"{FOUR}:{PORT}" if name.endswith("six")
                    else f"[{SIX}]:{PORT}")
        # Whichever family is asked first, it was a dead one once.
        self.assertEqual(len(self.at[FOUR].connections), 3)
        self.assertEqual(len(self.at[SIX].connections), 3)

    def test_dead_first(self):
        """The connector resolves the name and tries its addresses as RFC 8305
        does: with a first address that answers nothing a login takes less
        than a second, not backend_timeout (10 s)."""
        d = self.serve_names({
            "swallows-four": [SWALLOWS_FOUR, FOUR],
            "nobody-four": [NOBODY_FOUR, FOUR],
            "swallows-six": [SWALLOWS_SIX, SIX],
            "nobody-six": [NOBODY_SIX, SIX],
            "three": [SWALLOWS_FOUR, NOBODY_FOUR, "10.78.0.2", FOUR]})
        for name, dead in (("swallows-four", 1), ("nobody-four", 1),
                           ("swallows-six", 1), ("nobody-six", 1),
                           ("three", 3)):
            for _ in range(2):
                with self.subTest(name):
                    took, end, tried = self.log_in_out(d, name)
                    # The dead one was asked first, and not waited for long.
                    self.assertEqual(tried, dead + 1)
                    self.assertGreaterEqual(took, dead * STAGGER * .9)
                    self.assertLess(took, dead * STAGGER + SOON - STAGGER)
                    self.assertEqual(
                        end["backend"], f"[{SIX}]:{PORT}"
                        if name.endswith("six") else f"{FOUR}:{PORT}")

    def test_refusing_first(self):
        """resolve, connect (each address in turn, ...), within
        `backend_timeout`: one that refuses costs nothing"""
        d = self.serve_names({
            "four": [REFUSES_FOUR, OTHER_FOUR],
            "six": [REFUSES_SIX, OTHER_SIX],
            "many": [f"10.77.0.{n}" for n in range(20, 26)] + [FOUR]})
        for name, refusing in (("four", 1), ("six", 1), ("many", 6)):
            with self.subTest(name):
                times = []
                for _ in range(5):
                    resets = self.net.far.tcp("OutRsts")
                    took, _, tried = self.log_in_out(d, name)
                    self.assertEqual(tried, refusing + 1)
                    self.assertEqual(self.net.far.tcp("OutRsts") - resets,
                                     refusing)
                    times.append(took)
                # Sooner than the next address's turn would have come.
                self.assertLess(min(times), STAGGER * .9)
                self.assertLess(max(times), SOON)

    def test_ipv6_only(self):
        """host: name (resolved at each connection, every address tried) or
        literal address (CONFIG)"""
        self.dns.names["six-only.example"] = [SIX]
        d = self.serve({"name": self.to("six-only.example"),
                        "literal": self.to(SIX),
                        "hosts": self.to("in-hosts.example")},
                       hosts=f"{SIX} in-hosts.example\n")
        for name in ("name", "literal", "hosts"):
            with self.subTest(name):
                took, end, tried = self.log_in_out(d, name)
                self.assertEqual((end["backend"], tried),
                                 (f"[{SIX}]:{PORT}", 1))
                self.assertLess(took, SOON)
        for c in self.at[SIX].connections:
            self.assertTrue(c.peer[0].startswith("fd77::"))

    def test_hosts_file(self):
        """host: name (resolved at each connection, every address tried)
        (CONFIG): a name that /etc/hosts has several addresses for"""
        d = self.serve({"x": self.to("in-hosts.example")}, hosts="".join(
            f"{a} in-hosts.example\n" for a in
            (SWALLOWS_FOUR, REFUSES_FOUR, SWALLOWS_SIX, SIX)))
        took, end, _ = self.log_in_out(d, "x")
        self.assertEqual(end["backend"], f"[{SIX}]:{PORT}")
        self.assertLess(took, 2 * STAGGER + SOON)
        self.assertEqual(
            [x for x in self.dns.asked if "in-hosts" in x], [])

    def test_source_ips(self):
        """source_ips: local addresses to connect from, taken in turn within
        the family (CONFIG)"""
        four = ["10.77.0.2", "10.77.0.3", "10.77.0.4"]
        six = ["fd77::5", "fd77::6"]
        self.dns.names.update({
            "four.example": [FOUR], "six.example": [SIX],
            "four-dead.example": [SWALLOWS_FOUR, SIX],
            "six-dead.example": [SWALLOWS_SIX, FOUR]})
        names = ("four", "six", "four-dead", "six-dead")
        d = self.serve({name: self.to(f"{name}.example", source_ips=four + six)
                        for name in names}, threads=1)
        for name in names:
            with self.subTest(name):
                b, own = (self.at[FOUR], four) if name in (
                    "four", "six-dead") else (self.at[SIX], six)
                b.forget()
                for _ in range(2 * len(own)):
                    self.log_in_out(d, name)
                self.assertEqual([c.peer[0] for c in b.connections], own * 2)


class Dead(Networked):
    """Destinations of which nothing is left."""

    TIMEOUT = 2
    SLACK = 1

    def test_all_addresses_dead(self):
        """Backend unreachable, down, full, timed out, or speaking nonsense:
        `-ERR [SYS/TEMP] ...`; backend_timeout: to connect and secure one
        backend connection (CONFIG). Another destination notices nothing."""
        d = self.serve_names({
            "well": [FOUR, SIX],
            "swallowed": [SWALLOWS_FOUR, SWALLOWS_SIX, "10.78.0.2"],
            "nobody": [NOBODY_FOUR, NOBODY_SIX],
            "mixed": [REFUSES_FOUR, SWALLOWS_SIX, NOBODY_FOUR]},
            backend_timeout=f"{self.TIMEOUT}s", threads=1)
        waiting = [self.connect(d) for _ in range(3)]
        over = threading.Event()
        answers = {}

        def wait(name, c):
            answers[name] = self.log_in(d, name, c)
        threads = [threading.Thread(target=wait, args=a) for a in
                   zip(("swallowed", "nobody", "mixed"), waiting)]
        for t in threads:
            t.start()
        slowest = served = 0
        while any(t.is_alive() for t in threads):
            took, _, _ = self.log_in_out(d, "well")
            slowest = max(slowest, took)
            served += 1
        for t in threads:
            t.join()
        over.set()
        for name, (reply, took, c) in answers.items():
            with self.subTest(name):
                self.assertTempFail(reply)
                self.assertLess(took, self.TIMEOUT + self.SLACK)
                # All of the time was used.
                self.assertGreaterEqual(took, self.TIMEOUT * .9)
                self.assertReply(c.cmd("NOOP"), "+OK")
                # And another login by the same connection works.
                reply, took, _ = self.log_in(d, "well", c)
                self.assertReply(reply, "+OK")
                self.assertLess(took, SOON)
        self.assertEqual(len(answers), 3)
        self.assertGreaterEqual(served, 10)
        self.assertLess(slowest, self.TIMEOUT / 2)

    def test_all_addresses_refuse(self):
        """Backend unreachable, ...: `-ERR [SYS/TEMP] ...`, no failed attempt
        counted, and the client may try again"""
        d = self.serve_names({"x": [REFUSES_FOUR, REFUSES_SIX]})
        c = self.connect(d)
        for _ in range(4):
            reply, took, _ = self.log_in(d, "x", c)
            self.assertTempFail(reply)
            self.assertLess(took, SOON)

    def test_no_such_name(self):
        """Backend unreachable, ...: `-ERR [SYS/TEMP] ...`"""
        d = self.serve({"gone": self.to("gone.example"),
                        "well": self.to(FOUR)})
        reply, took, c = self.log_in(d, "gone")
        self.assertTempFail(reply)
        self.assertLess(took, SOON)
        self.assertReply(self.log_in(d, "well", c)[0], "+OK")


if __name__ == "__main__":
    unittest.main()
