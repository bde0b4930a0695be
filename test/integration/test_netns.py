"""Backends on a network of their own: names with several addresses of both
families, addresses that are dead in every way, name servers and cables that
fail (PROTOCOL and CONFIG). Each docstring quotes the sentence that its test
proves. Needs root, for network namespaces.
"""

import os
import socket
import threading
import time
import unittest

from harness.case import Case, Pop3, need, need_that
from harness.fake_backend import silent
from harness.netns import Dns, Network, why_not
from harness.proc import check_run, temp_dir, wait_until

PORT = 1100  # of all backends; their addresses tell them apart
DNS, DNS2, DNS3 = "10.77.0.53", "10.77.0.54", "10.77.0.55"
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

    def serve(self, destinations, dns=None, hosts="", bind=None, etc=None,
              conf=None, **server):
        """A daemon whose users are called as its destinations. conf:
        resolv.conf."""
        listener = {"tls": "plain", **({"bind": bind} if bind else {})}
        d = self.mailferry(
            {"pop3": listener}, destinations,
            {name: name for name in destinations}, start=False,
            over={"server": {"backend_timeout": "10s", **server},
                  "capabilities": {"pop3": {
                      "allow_plain_auth_without_tls": True}}})
        d.via = self.net.via(conf or (dns or self.dns).resolv_conf, hosts, etc)
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


class Alone(Networked):
    """The harness itself."""

    def test_nothing_of_the_machine_is_touched(self):
        """Neither its interfaces nor its routes nor its names."""
        def machine():
            with open("/proc/net/route", encoding="ascii") as routes:
                return (socket.if_nameindex(), routes.read(),
                        os.readlink("/proc/thread-self/ns/net"),
                        check_run(["cat", "/etc/hosts",
                                   "/proc/self/mountinfo"]).stdout)
        before = machine()
        net = Network()
        self.addCleanup(net.close)
        with net.far:
            self.assertEqual({name for _, name in socket.if_nameindex()
                              if name in ("lo", "cable")}, {"lo", "cable"})
        check_run([*net.via(hosts="127.0.0.1 x\n"), "grep", "-qx",
                   "127.0.0.1 x", "/etc/hosts"])
        self.assertEqual(machine(), before)
        net.close()
        self.assertEqual(machine(), before)


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
            "three": [SWALLOWS_FOUR, "10.78.0.2", "10.78.0.3", FOUR]})
        for name, dead in (("swallows-four", 1), ("nobody-four", 1),
                           ("swallows-six", 1), ("nobody-six", 1),
                           ("three", 3)):
            for _ in range(2):
                with self.subTest(name):
                    took, end, tried = self.log_in_out(d, name)
                    # The dead one was asked first, and not waited for long.
                    self.assertEqual(tried, dead + 1)
                    if not name.startswith("nobody"):  # may be known by now
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

    def test_closing_first(self):
        """resolve, connect (each address in turn, ...), within
        `backend_timeout`, retried as configured; One after a connection that
        failed begins with the name's next address. (mailferry.yaml(5))"""
        def closes(c):
            c.close()
        for b in (self.at[FOUR], self.at[OTHER_FOUR]):
            self.addCleanup(setattr, b, "script", Pop3())
        self.at[FOUR].script = closes
        names = {"next": [FOUR, OTHER_FOUR],
                 "family": [FOUR, SIX],
                 "dead": [SWALLOWS_FOUR, FOUR, OTHER_FOUR],
                 "refusing": [REFUSES_FOUR, FOUR, OTHER_FOUR]}
        for retries in (0, 1):
            d = self.serve_names(names, backend_connect_retries=retries)
            for name in names:
                with self.subTest(name, retries=retries):
                    reply, took, c = self.log_in(d, name)
                    if retries:
                        self.assertReply(reply, "+OK")
                    else:
                        self.assertTempFail(reply)
                    self.assertLess(took, SOON)
                    c.close()
        # Two that close, and a third.
        self.at[OTHER_FOUR].script = closes
        d = self.serve_names({"two": [FOUR, OTHER_FOUR, "10.77.0.13"]},
                             backend_connect_retries=2)
        with self.net.far:
            self.backend(tls="plain", address="10.77.0.13", port=PORT)
        reply, took, _ = self.log_in(d, "two")
        self.assertReply(reply, "+OK")
        self.assertLess(took, SOON)

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


class Ourselves(Networked):
    """Which addresses are this host's, where a listener has all of them."""

    NONLOCAL = ("net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind")
    OURS = {"loopback": "127.0.0.1", "other-loopback": "127.0.0.77",
            "address": "10.77.0.1", "other-address": "10.77.0.7",
            "any": "0.0.0.0", "six-loopback": "::1", "six": "fd77::1",
            "other-six": "fd77::7", "six-any": "::"}

    def test_loops(self):
        """loop check: own listener addresses at config and after DNS
        (RELIABILITY); backends on the listener's port are none, also where
        any address can be bound (net.ipv4.ip_nonlocal_bind)"""
        self.dns.names.update({f"{name}.example": [address]
                               for name, address in self.OURS.items()})
        ours = {name: self.to(f"{name}.example") for name in self.OURS}
        d = self.serve({**ours, "four": self.to(FOUR), "backend": self.to(SIX)},
                       bind=[f"0.0.0.0:{PORT}", f"[::]:{PORT}"],
                       backend_connect_retries=0)
        for nonlocal_bind in "01":
            for name in self.NONLOCAL:
                self.net.near.sysctl(name, nonlocal_bind)
                self.addCleanup(self.net.near.sysctl, name, "0")
            for name in ours:
                with self.subTest(name, nonlocal_bind=nonlocal_bind):
                    mark = d.mark()
                    reply, took, c = self.log_in(d, name)
                    self.assertTempFail(reply)
                    self.assertLess(took, SOON)
                    self.assertEqual([r["failure"] for r in d.records(mark)
                                      if r.get("failure")], ["loop"])
                    c.close()
            for name, backend in (("four", FOUR), ("backend", SIX)):
                with self.subTest(name, nonlocal_bind=nonlocal_bind):
                    self.log_in_out(d, name)
                    self.assertEqual(len(self.at[backend].connections), 1)
                    self.at[backend].forget()


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

    def test_what_says_most(self):
        """Connection refused is the backend's failure: it is tried again, and
        marks it down; that this host lacks the other address's family, or is
        the other address itself, does not hide it."""
        def reasons(d, mark, user):
            return [r["failure"] for r in d.records(mark)
                    if r.get("user") == user and r.get("failure")
                    and r["message"] != "trying the backend again"]
        own = "10.77.0.1"
        names = {"refused-and-local": [REFUSES_FOUR, SIX],
                 "local-and-refused": [FOUR, REFUSES_SIX],
                 "refused-and-loop": [REFUSES_SIX, own]}
        keys = {"refused-and-local": ["10.77.0.2"],
                "local-and-refused": ["fd77::2"],
                "refused-and-loop": []}
        for name, addresses in names.items():
            self.dns.names[f"{name}.example"] = addresses
        self.dns.names["loop-and-local.example"] = [own, SIX]
        keys["loop-and-local"] = ["10.77.0.2"]
        self.dns.names["local.example"] = [SIX]
        keys["local"] = ["10.77.0.2"]
        d = self.serve({name: self.to(f"{name}.example",
                                      **({"source_ips": ips} if ips else {}))
                        for name, ips in keys.items()},
                       bind=[f"0.0.0.0:{PORT}"], host_down_threshold=2,
                       host_down_cooldown="1h", backend_connect_retries=1)
        for name, expected in (
                *((name, ["connect", "down"]) for name in names),
                ("loop-and-local", ["loop"] * 2), ("local", ["local"] * 2)):
            with self.subTest(name):
                mark = d.mark()
                for _ in range(2):
                    reply, _, c = self.log_in(d, name)
                    self.assertTempFail(reply)
                    c.close()
                self.assertEqual(reasons(d, mark, name), expected)

    def test_no_ipv6(self):
        """A host without IPv6 (EADDRNOTAVAIL), a name that has an address of
        both families: the same"""
        net = Network()
        self.addCleanup(net.close)
        with net.far:
            dns = self.keep(Dns(DNS, {"x.example": [REFUSES_FOUR, SIX]}))
        for conf in ("all", "cable"):
            net.near.sysctl(f"net/ipv6/conf/{conf}/disable_ipv6", "1")
        self.net, before = net, self.net
        self.addCleanup(setattr, self, "net", before)
        d = self.serve({"x": self.to("x.example")}, dns,
                       host_down_threshold=2, host_down_cooldown="1h")
        for failure in ("connect", "down"):
            mark = d.mark()
            self.assertTempFail(self.log_in(d, "x")[0])
            self.assertEqual([r["failure"] for r in d.records(mark)
                              if r.get("failure")][-1], failure)

    def test_no_such_name(self):
        """Backend unreachable, ...: `-ERR [SYS/TEMP] ...`"""
        d = self.serve({"gone": self.to("gone.example"),
                        "well": self.to(FOUR)})
        reply, took, c = self.log_in(d, "gone")
        self.assertTempFail(reply)
        self.assertLess(took, SOON)
        self.assertReply(self.log_in(d, "well", c)[0], "+OK")


class NameServer(Networked):
    FRESH = 30  # seconds that an answer serves without asking again
    PATIENCE = 1  # ... and that a new one is waited for when there is an old
    AGAIN = 30  # in which a name server that is back is noticed

    def test_name_server_dies(self):
        """An answer of the name servers is used for 30 seconds, and for an
        hour while they fail or are silent. (mailferry.yaml(5))"""
        with self.net.far:
            closes = self.keep(Dns(DNS2, {}))
        servers = {"mute": self.dns, "closed": closes}
        daemons = {}
        for what, dns in servers.items():
            dns.names["x.example"] = [FOUR]
            daemons[what] = self.serve({"x": self.to("x.example")}, dns,
                                       threads=1)
            self.log_in_out(daemons[what], "x")
        start = time.monotonic()
        self.dns.mute = True
        closes.stop()
        asked = len(self.dns.asked)

        def asked_again():
            """A login, and whether it made the daemon ask."""
            took, _, _ = self.log_in_out(daemons["mute"], "x")
            self.assertLess(took, self.PATIENCE + SOON)
            return len(self.dns.asked) > asked
        wait_until(asked_again, "the name server is asked again",
                   self.FRESH + 5, pause=.2)
        self.assertGreater(time.monotonic() - start, self.FRESH - 5)
        took, _, _ = self.log_in_out(daemons["closed"], "x")
        self.assertLess(took, self.PATIENCE + SOON)
        # From then on nobody waits.
        for d in daemons.values():
            for _ in range(5):
                took, end, _ = self.log_in_out(d, "x")
                self.assertLess(took, SOON)
                self.assertEqual(end["backend"], f"{FOUR}:{PORT}")
        for d in daemons.values():
            d.wait_record(lambda r: "last addresses" in r["message"],
                          "a warning")
        # They come back, and know the name by another address.
        with self.net.far:
            servers["closed"] = self.keep(Dns(DNS2, {}))
        for what, d in daemons.items():
            servers[what].names["x.example"] = [OTHER_FOUR]
            servers[what].mute = False

            def moved(d=d):
                took, end, _ = self.log_in_out(d, "x")
                self.assertLess(took, SOON)
                return end["backend"] == f"{OTHER_FOUR}:{PORT}"
            wait_until(moved, f"{what}: the new address", self.AGAIN,
                       pause=.2)

    def test_first_name_server_is_dead(self):
        """Where a name server refuses, the next one is asked at once; where
        it is silent, a moment later. (mailferry.yaml(5))"""
        self.dns.names["z.example"] = [FOUR]
        for first, limit in ((REFUSES_FOUR, SOON), (NOBODY_FOUR, 1 + SOON)):
            with self.subTest(first):
                d = self.serve({"z": self.to("z.example")}, conf=f"nameserver "
                               f"{first}\n{self.dns.resolv_conf}")
                took, _, _ = self.log_in_out(d, "z")
                self.assertLess(took, limit)

    def test_no_name_server(self):
        """Backend unreachable: with a reason, at once"""
        d = self.serve({"z": self.to("z.example")},
                       conf=f"nameserver {REFUSES_FOUR}\n",
                       backend_connect_retries=0)
        reply, took, _ = self.log_in(d, "z")
        self.assertTempFail(reply)
        self.assertLess(took, SOON)
        d.wait_record(lambda r: "every name server of resolv.conf refuses or "
                      "fails" in r.get("reason", ""), "a reason")

    def test_slow_name_server(self):
        """... which is waited for"""
        self.dns.names["z.example"] = [FOUR]
        self.addCleanup(setattr, self.dns, "slow", 0)
        d = self.serve({"z": self.to("z.example")})
        self.dns.slow = .7
        took, _, _ = self.log_in_out(d, "z")
        self.assertLess(took, 3 + SOON)

    def test_truncated_answer(self):
        """RFC 7766: an answer that is cut is asked for again by TCP"""
        many = [f"10.77.0.{n}" for n in range(100, 160)]
        self.dns.names["many.example"] = [FOUR] + many
        self.addCleanup(setattr, self.dns, "truncates", False)
        self.dns.truncates = True
        d = self.serve({"many": self.to("many.example")})
        took, end, _ = self.log_in_out(d, "many")
        self.assertLess(took, SOON)
        self.assertEqual(end["backend"], f"{FOUR}:{PORT}")
        self.assertIn("many.example 1", self.dns.by_tcp)

    def test_silent_about_a_family(self):
        """RFC 8305, section 3: Resolution Delay. Name servers that do not
        answer for one family cost a login next to nothing."""
        self.addCleanup(setattr, self.dns, "deaf_to", None)
        d = self.serve_names({"half-four": [FOUR], "half-six": [SIX]})
        for name, family in (("half-four", socket.AF_INET6),
                             ("half-six", socket.AF_INET)):
            with self.subTest(name):
                self.dns.deaf_to = family
                took, _, _ = self.log_in_out(d, name)
                self.assertLess(took, SOON)

    def test_files_change(self):
        """resolv.conf and hosts are read again when they have changed.
        (mailferry.yaml(5))"""
        with self.net.far:
            second = self.keep(Dns(DNS3, {"b.example": [OTHER_FOUR]}))
        self.dns.names["a.example"] = [FOUR]
        etc = temp_dir()
        d = self.serve({name: self.to(f"{name}.example") for name in "abc"},
                       etc=etc, backend_connect_retries=0)
        self.log_in_out(d, "a")
        c = self.connect(d)
        for name in "bc":
            self.assertTempFail(self.log_in(d, name, c)[0])
        with open(f"{etc}/hosts", "w", encoding="ascii") as f:
            f.write(f"{SIX} c.example\n")
        self.log_in_out(d, "c")
        with open(f"{etc}/resolv.conf", "w", encoding="ascii") as f:
            f.write(second.resolv_conf)
        wait_until(lambda: self.log_in(d, "b", c)[0].startswith("+OK"),
                   "the other name server is asked")
        self.assertIn("b.example 1", second.asked)
        d.wait_record(lambda r: "was read again" in r["message"], "a line")

    def test_ends_while_a_name_server_is_silent(self):
        """SIGTERM/SIGINT: how long sessions may drain (CONFIG). (A sanitizer
        complains of what a question without an answer leaves behind.)"""
        self.dns.names["y.example"] = [FOUR]
        self.dns.mute = True
        self.addCleanup(setattr, self.dns, "mute", False)
        d = self.serve({"y": self.to("y.example")}, backend_timeout="1s")
        c = self.connect(d)
        reply, took, _ = self.log_in(d, "y", c)
        self.assertTempFail(reply)
        self.assertLess(took, 1 + SOON)
        c.reset()
        # The question is still under way.
        d.stop()


class SlowNames(Networked):
    """Stores whose host's name nobody answers for."""

    STORES = {
        "http": {"source": "http",
                 "http": {"url": "http://store.example/?user=%u"}},
        "postgres": {"source": "sql", "sql": {
            "url": "postgres://u@store.example/d",
            "query": "SELECT d FROM r WHERE i = $1"}},
        "mysql": {"source": "sql", "sql": {
            "url": "mysql://u:p@store.example/d",
            "query": "SELECT d FROM r WHERE i = ?"}},
        "redis": {"source": "redis",
                  "redis": {"url": "redis://store.example"}},
    }

    def test_nobody_waits_but_who_asked(self):
        """lookup_timeout (CONFIG): `-ERR [SYS/TEMP]` then; a name server
        that is silent for longer stops nobody else on that worker"""
        self.dns.names["store.example"] = [NOBODY_FOUR]
        self.dns.mute = True
        self.addCleanup(setattr, self.dns, "mute", False)
        for store, mapping in self.STORES.items():
            with self.subTest(store=store):
                d = self.mailferry(
                    {"pop3": {"tls": "plain"}}, {"x": self.to(FOUR)},
                    start=False, over={
                        "server": {"threads": 1},
                        "capabilities": {"pop3": {
                            "allow_plain_auth_without_tls": True}},
                        "mapping": {"file": None, "lookup_timeout": "500ms",
                                    **mapping}})
                d.via = self.net.via(self.dns.resolv_conf)
                with self.net.near:
                    d.start()
                other = self.connect(d)
                reply, took, _ = self.log_in(d, "alice")
                self.assertTempFail(reply)
                start = time.monotonic()
                self.assertReply(other.cmd("NOOP"), "+OK")
                self.assertLess(took + time.monotonic() - start, .5 + SOON)
                d.stop()


class Cable(Networked):
    """The network goes away under sessions that are being relayed."""

    TIMEOUT = 2  # tcp_user_timeout
    SLACK = 3  # the kernel looks at retransmissions only

    def setUp(self):
        super().setUp()
        self.addCleanup(self.plug, True)

    def plug(self, well):
        self.net.far.ip(f"link set cable {'up' if well else 'down'}")
        if well:
            self.net.wait_up()

    def test_backend_behind_a_cut_cable(self):
        """tcp_user_timeout: a peer that acknowledges nothing for this long is
        gone (CONFIG); if the backend dies ... the client's connection is
        closed, without a `.` or an error line forged into the stream"""
        with self.net.near:
            local = self.backend(tls="plain", address="127.0.0.9", port=PORT)
        d = self.serve({"four": self.to(FOUR), "six": self.to(SIX),
                        "local": self.to("127.0.0.9")},
                       tcp_user_timeout=f"{self.TIMEOUT}s",
                       bridge_idle="1h")
        held = {user: self.log_in(d, user)[2]
                for user in ("four", "six", "local")}
        for c in held.values():
            self.assertReply(c.cmd("NOOP"), "+OK")
        mark = d.mark()
        self.plug(False)
        start = time.monotonic()
        for c in held.values():
            c.send("STAT")
        self.assertReply(held["local"].line(), "+OK")
        for user in ("four", "six"):
            with self.subTest(user):
                held[user].closed()
                took = time.monotonic() - start
                self.assertGreaterEqual(took, self.TIMEOUT * .9)
                self.assertLess(took, self.TIMEOUT + self.SLACK)
                end = d.wait_record(
                    lambda r, user=user: "bytes_to_client" in r
                    and r["user"] == user, "the end", mark)
                self.assertIn("backend", end["reason"])
        # Who has nothing to do with it goes on.
        held["local"].play("C: NOOP\nS: +OK\nC: QUIT\nS: +OK\nCLOSED")
        self.assertEqual(local.connection().commands[-1], "QUIT")

    def test_client_behind_a_cut_cable(self):
        """tcp_user_timeout: a peer that acknowledges nothing for this long is
        gone (CONFIG). A dead client without QUIT must reach the backend as a
        close, never as a QUIT."""
        release = threading.Event()
        self.addCleanup(release.set)

        def talks_on(c):
            c.wait(release)
            c.raw(b"x" * 100)
            c.drain()
        with self.net.near:
            b = self.backend(Pop3(relay=talks_on), tls="plain",
                             address="127.0.0.9", port=PORT)
        d = self.mailferry(
            {"pop3": {"tls": "plain", "bind": ["10.77.0.1:1110"]}},
            {"x": self.to("127.0.0.9")}, start=False, over={
                "server": {"tcp_user_timeout": f"{self.TIMEOUT}s"},
                "capabilities": {"pop3": {
                    "allow_plain_auth_without_tls": True}}})
        with self.net.near:
            d.start()
        with self.net.far:
            c = self.client(d, address="10.77.0.1")
        self.assertReply(self.log_in(d, "x", c)[0], "+OK")
        self.plug(False)
        start = time.monotonic()
        release.set()
        b.connection().wait_finished()
        self.assertLess(time.monotonic() - start, self.TIMEOUT + self.SLACK)
        self.assertNotIn("QUIT", " ".join(b.connection().commands))
        end = d.wait_record(lambda r: "bytes_to_client" in r, "the end")
        self.assertIn("client", end["reason"])

    def test_silence_behind_a_cut_cable(self):
        """tcp_user_timeout: a peer that acknowledges nothing for this long is
        gone (CONFIG). Nothing is on its way to this one: keep-alive asks."""
        d = self.serve({"x": self.to(FOUR)}, bridge_idle="1h",
                       tcp_user_timeout=f"{self.TIMEOUT}s")
        c = self.log_in(d, "x")[2]
        self.assertReply(c.cmd("NOOP"), "+OK")
        self.plug(False)
        start = time.monotonic()
        c.closed()
        # An idle second, and three probes a second apart.
        self.assertLess(time.monotonic() - start, 4 + self.SLACK)
        end = d.wait_record(lambda r: "bytes_to_client" in r, "the end")
        self.assertIn("backend", end["reason"])

    def test_backend_lost_before_the_login(self):
        """backend_timeout: to connect and secure one backend connection, up
        to where it could take a login (CONFIG); timed out: `-ERR [SYS/TEMP]`,
        and the client may try again"""
        self.at[FOUR].script = silent
        self.addCleanup(setattr, self.at[FOUR], "script", Pop3())
        d = self.serve({"x": self.to(FOUR)}, backend_timeout="2s")
        c = self.connect(d)
        c.cmd("USER x")
        c.send("PASS secret")
        start = time.monotonic()
        self.at[FOUR].connection(0)
        self.plug(False)
        self.assertTempFail(c.line())
        self.assertLess(time.monotonic() - start, 2 + SOON)
        self.at[FOUR].script = Pop3()
        self.plug(True)
        self.assertReply(self.log_in(d, "x", c)[0], "+OK")


if __name__ == "__main__":
    unittest.main()
