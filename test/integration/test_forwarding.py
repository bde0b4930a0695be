"""The client's address on its way through other proxies, circles of them, and
a destination that breaks in every way while another one must not notice
(PROTOCOL and CONFIG). Each docstring quotes the sentence that its test proves.
"""

import os
import socket
import threading
import time
import unittest

from harness.case import Backend, Case, Client, Pop3, certs, context, need
from harness.fake_backend import silent
from harness.front import Front, xclient_words
from harness.ports import free_port, has_ipv6
from harness.proc import DEADLINE, wait_until

CLIENT_IP = "127.0.0.31"
HOP = "127.0.0.5"  # where one mailferry connects to the next from
XCLIENT_GREETING = "+OK [XCLIENT] ready"

HAPROXY_CONF = """\
global
    log stderr format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""

HAPROXY_LISTEN = """\
listen {name}
{binds}    server mailferry 127.0.0.1:{to} {sends}
"""


class Haproxy(Front):
    """HAProxy in the foreground. routes: {name: (port of the server, what it
    is sent ahead)}."""

    def __init__(self, routes):
        super().__init__("haproxy", routes)
        conf = os.path.join(self.dir, "haproxy.cfg")
        addresses = ["127.0.0.1"] + (["::1"] if has_ipv6() else [])
        with open(conf, "w", encoding="ascii") as f:
            f.write(HAPROXY_CONF)
            for name, (to, sends) in routes.items():
                binds = "".join(f"    bind {a}:{self.ports[name]}\n"
                                for a in addresses)
                f.write(HAPROXY_LISTEN.format(name=name, binds=binds, to=to,
                                              sends=sends))
        self.launch(["haproxy", "-db", "-f", conf], "haproxy")


@need("haproxy")
class BehindHaproxy(Case):
    """HAProxy in front, each way it writes the PROXY protocol."""

    SENDS = ("send-proxy", "send-proxy-v2", "send-proxy-v2-ssl")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backend = cls.shared_backend(
            Pop3(greeting=XCLIENT_GREETING, xclient="+OK"), tls="implicit")
        believes = {"proxy_protocol": "required",
                    "proxy_trusted": ["127.0.0.0/8"]}
        cls.daemon = cls.shared_mailferry(
            {tls: {"tls": tls, **believes} for tls in
             ("implicit", "starttls")},
            {"x": cls.backend.destination(forwarding="xclient")})
        cls.haproxy = Haproxy({
            f"{tls}-{sends}": (cls.daemon.port_of(tls), sends)
            for tls in ("implicit", "starttls") for sends in cls.SENDS})
        cls._shared.append(cls.haproxy)
        cls.addClassCleanup(cls.haproxy.stop)

    def through(self, tls, sends, **keys):
        """Logs in through HAProxy; the client and what the backend is told."""
        self.backend.forget()
        c = self.login(self.haproxy.port_of(f"{tls}-{sends}"), tls=tls, **keys)
        seen = self.backend.connection()
        seen.wait_logged_in()
        words = xclient_words(seen)
        c.play("C: NOOP\nS: +OK\nC: QUIT\nS: +OK\nCLOSED")
        return c, words

    def see(self, sends):
        for tls in ("implicit", "starttls"):
            for source in (CLIENT_IP, "127.0.0.32"):
                with self.subTest(tls=tls, source=source):
                    c, words = self.through(tls, sends, source=source)
                    self.assertEqual(c.local[0], source)
                    self.assertEqual(
                        (words["ADDR"], words["PORT"], words["DESTADDR"],
                         words["DESTPORT"], words["CLIENT-TRANSPORT"]),
                        (source, str(c.local[1]), "127.0.0.1",
                         str(self.haproxy.port_of(f"{tls}-{sends}")), "TLS"))
                    # And the log speaks of the client, not of HAProxy.
                    record = self.daemon.wait_record(
                        lambda r: "bytes_to_client" in r and
                        r["session"] == words["SESSION"], "the end")
                    self.assertEqual(record["client"], source)

    def test_version_1(self):
        """Optional PROXY header (v1/v2) from a trusted peer, then, on an
        `implicit` listener, the TLS handshake."""
        self.see("send-proxy")

    def test_version_2(self):
        """proxy_protocol: off | optional | required (PROXY protocol v1 and
        v2, from proxy_trusted only) (CONFIG)"""
        self.see("send-proxy-v2")

    def test_version_2_ssl(self):
        """PROXY protocol v1 and v2, from proxy_trusted only (CONFIG); TLVs
        that HAProxy adds change nothing."""
        self.see("send-proxy-v2-ssl")

    @unittest.skipUnless(has_ipv6(), "no IPv6")
    def test_ipv6(self):
        """from a trusted peer ... (compared with the adopted address: a
        believed PROXY header's source, else the socket's); (IPv6 addresses
        bare)"""
        for tls in ("implicit", "starttls"):
            for sends in self.SENDS:
                with self.subTest(tls=tls, sends=sends):
                    c, words = self.through(tls, sends, address="::1")
                    self.assertEqual(
                        (words["ADDR"], words["PORT"], words["DESTADDR"]),
                        ("::1", str(c.local[1]), "::1"))


class Hops(Case):
    """Mailferries that lead to one another in clear, on loopback."""

    def hop(self, port, to, forwarding, ttl=7):
        """One that is led to at `port` and leads to the port `to`. Its own
        clients come to its listener "tls"."""
        listener = {"xclient": {"xclient_trusted": [HOP]},
                    "proxy": {"proxy_protocol": "required",
                              "proxy_trusted": [HOP]}}[forwarding]
        over = {"server": {"proxy_ttl": ttl}}
        if forwarding == "proxy":
            # XCLIENT says that the client's leg is encrypted; PROXY does not
            # open the cleartext gate.
            over["capabilities"] = {"pop3": {
                "allow_plain_auth_without_tls": True}}
        return self.mailferry(
            {"tls": {"tls": "implicit"},
             "between": {"tls": "plain", "bind": [f"127.0.0.1:{port}"],
                         **listener}},
            {"next": {"host": "127.0.0.1", "forwarding": forwarding,
                      "source_ips": [HOP], "allow_plaintext_auth": True,
                      "protocol": {"pop3": {"port": to, "tls": "plain"}}}},
            over=over)

    @staticmethod
    def routed(daemon):
        return [r for r in daemon.records() if r["message"] == "routed"]


class Chain(Hops):
    """client -> first -> second -> third -> backend"""

    def chain(self, forwarding, backend, first_ttl):
        second, third = free_port(), free_port()
        self.hop(third, backend.port, forwarding)
        self.hop(second, third, forwarding)
        first = self.hop(free_port(), second, forwarding, first_ttl)
        c = self.login(first.port_of("tls"), tls="implicit", source=CLIENT_IP)
        seen = backend.connection()
        self.assertEqual(len(backend.connections), 1)
        session = first.wait_record(
            lambda r: r["message"] == "routed", "routed")["session"]
        return first, c, seen, session

    def test_xclient(self):
        """TTL is one less than what came in, `proxy_ttl` at the first hop;
        from a trusted peer: `+OK`, address/port/session/TTL adopted; `TLS`
        opens the cleartext gate on a plain leg between proxies, and is what
        is passed on."""
        for ttl in (7, 5, 4):
            with self.subTest(proxy_ttl=ttl):
                b = self.backend(
                    Pop3(greeting=XCLIENT_GREETING, xclient="+OK"),
                    tls="plain")
                first, c, seen, session = self.chain("xclient", b, ttl)
                words = xclient_words(seen)
                self.assertEqual(
                    words,
                    {"ADDR": CLIENT_IP, "PORT": str(c.local[1]),
                     "DESTADDR": "127.0.0.1",
                     "DESTPORT": str(first.port_of("tls")),
                     "DESTNAME": "mail.example.com", "SESSION": session,
                     "TTL": str(ttl - 2), "CLIENT-TRANSPORT": "TLS"})
                c.play("C: QUIT\nS: +OK\nCLOSED")

    def test_proxy(self):
        """our session id and TTL in custom TLVs 0xE0 and 0xE1, believed from
        `proxy_trusted` peers; TLV 0xE0 is the session id in ASCII, 0xE1 the
        TTL in one octet."""
        for ttl in (7, 5, 4):
            with self.subTest(proxy_ttl=ttl):
                b = self.backend(tls="plain", proxy=True)
                first, c, seen, session = self.chain("proxy", b, ttl)
                self.assertEqual(seen.proxy.src, (CLIENT_IP, c.local[1]))
                self.assertEqual(seen.proxy.dst,
                                 ("127.0.0.1", first.port_of("tls")))
                self.assertEqual(seen.proxy.tlvs[0xe0].decode("ascii"),
                                 session)
                self.assertEqual(seen.proxy.tlvs[0xe1], bytes([ttl - 2]))
                c.play("C: QUIT\nS: +OK\nCLOSED")


class Ring(Hops):
    """client -> A -> B -> C -> A -> ..."""

    def ring(self, forwarding):
        ports = [free_port() for _ in range(3)]
        hops = [self.hop(ports[i], ports[(i + 1) % 3], forwarding, 4)
                for i in range(3)]
        for number, entry in enumerate(hops):
            with self.subTest(entry=number):
                before = sum(len(self.routed(d)) for d in hops)
                c = self.client(entry.port_of("tls"), tls="implicit",
                                source=CLIENT_IP)
                self.assertReply(c.cmd("USER alice@example.com"), "+OK")
                start = time.monotonic()
                reply = c.cmd("PASS secret")
                took = time.monotonic() - start
                self.assertTempFail(reply)
                self.assertLess(took, 5)
                self.assertReply(c.cmd("NOOP"), "+OK")
                c.play("C: QUIT\nS: +OK\nCLOSED")
                for d in hops:
                    wait_until(lambda d=d: self.ended(d), "all sessions end")
                count = sum(len(self.routed(d)) for d in hops) - before
                # Four budgets are given out: 4, 3, 2, 1.
                self.assertLessEqual(count, 5)
                self.assertGreaterEqual(count, 3, "not a ring")
        # Nothing goes round after the answer.
        total = sum(len(self.routed(d)) for d in hops)
        for d in hops:
            d.stop()
        self.assertEqual(sum(len(self.routed(d)) for d in hops), total)
        # Each of the three logins was refused at one place.
        loops = [r for d in hops for r in d.records()
                 if r.get("failure") == "loop"]
        self.assertEqual(len(loops), 3)

    @staticmethod
    def ended(daemon):
        """As many ends of sessions as there were connections in it."""
        records = daemon.records()
        ends = [r for r in records if "bytes_to_client" in r]
        return len(ends) >= len([r for r in records
                                 if r["message"] == "routed"]) > 0

    def test_xclient(self):
        """at 1 the login is refused as a loop"""
        self.ring("xclient")

    def test_proxy(self):
        """our session id and TTL in custom TLVs 0xE0 and 0xE1 ... so that a
        ring of proxies is noticed in this mode too"""
        self.ring("proxy")


class Ourselves(Case):
    """A destination that is one of the daemon's own listeners."""

    def circle(self, bind, tls, host="localhost"):
        port = free_port()
        d = self.mailferry(
            {"front": {"tls": "implicit"},
             "own": {"tls": tls, "bind": [f"{bind}:{port}"]}},
            {"x": {"host": host, "forwarding": "none",
                   "tls_server_name": "mail.example.com",
                   "tls_ca_file": certs().ca, "protocol": {"pop3": {
                       "port": port, "tls": tls}}}},
            over={"server": {"host_down_threshold": 1,
                             "host_down_min_clients": 0,
                             "host_down_cooldown": "1h"}})
        for client_port, client_tls in ((d.port_of("front"), "implicit"),
                                        (port, tls)):
            mark = d.mark()
            c = self.client(client_port, tls=client_tls)
            # Twice: it is no health failure either. One line tells both.
            for _ in range(2):
                self.assertReply(c.cmd("USER alice@example.com"), "+OK")
                self.assertTempFail(c.cmd("PASS secret"))
                self.assertReply(c.cmd("NOOP"), "+OK")
            c.play("C: QUIT\nS: +OK\nCLOSED")
            d.wait_record(lambda r: "bytes_to_client" in r, "the end", mark)
            records = d.records(mark)
            failed = [r for r in records if r.get("failure")]
            self.assertEqual([r["failure"] for r in failed], ["loop"])
            ends = [r for r in records if "bytes_to_client" in r]
            self.assertIn(2, [r.get("deferred") for r in ends])
            # Nobody was connected to but by our one client.
            self.assertEqual(
                len({r["session"] for r in records if "session" in r}), 1)
            self.assertEqual(
                len([r for r in records if "bytes_to_client" in r]), 1)

    def test_by_name(self):
        """Backend leg. Health gate; loop check; resolve, connect (each
        address in turn, `source_ips`)"""
        for tls in ("implicit", "starttls"):
            with self.subTest(tls=tls):
                self.circle("127.0.0.1", tls)

    def test_wildcard_bind(self):
        """Backend leg. Health gate; loop check; resolve, connect (each
        address in turn, `source_ips`)"""
        for tls in ("implicit", "starttls"):
            with self.subTest(tls=tls):
                self.circle("0.0.0.0", tls)


class Revivable(Backend):
    """A backend that listens, on a port chosen before, from its making on."""

    def __init__(self, port, script):
        super().__init__(certs(), script)
        first = self.listener
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, port))
        listener.listen(128)
        self.listener, self.port = listener, port
        threading.Thread(target=self._accept, daemon=True).start()
        first.shutdown(socket.SHUT_RDWR)
        first.close()


class Load:
    """Clients that log in again and again, each in a thread of its own."""

    def __init__(self, port, user, sources, pause):
        self.port, self.user, self.pause = port, user, pause
        self.done = []  # (phase, seconds from PASS to the reply, the reply)
        self.broken = []  # what should never happen to a client
        self.phase = ""
        self.over = threading.Event()
        self.ctx = context(certs().ca)
        self.threads = [threading.Thread(target=self._run, args=(source,),
                                         daemon=True) for source in sources]
        for thread in self.threads:
            thread.start()

    def _run(self, source):
        while not self.over.is_set():
            try:
                self._login(source)
            except (AssertionError, OSError) as e:
                self.broken.append(f"{self.phase}: {e!r}")
            self.over.wait(self.pause)

    def _login(self, source):
        phase = self.phase
        with Client(self.port, tls="implicit", source=source,
                    ctx=self.ctx) as c:
            c.cmd(f"USER {self.user}")
            start = time.monotonic()
            reply = c.cmd("PASS secret")
            self.done.append((phase, time.monotonic() - start, reply))
            c.cmd("QUIT")
            c.closed()

    def of(self, phase, start=""):
        return [(took, reply) for at, took, reply in list(self.done)
                if at == phase and reply.startswith(start)]

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(30)

    def waits(self, phase):
        waits = sorted(took for took, _ in self.of(phase))
        if not waits:
            return "none"
        p50, p99 = (waits[min(len(waits) - 1, int(len(waits) * p))]
                    for p in (.5, .99))
        return f"{len(waits)} logins, p50 {p50 * 1e3:.1f} ms, " \
            f"p99 {p99 * 1e3:.1f} ms, max {waits[-1] * 1e3:.1f} ms"


class Breaking(Case):
    """One destination breaks and comes back, the other one works on."""

    TIMEOUT = COOLDOWN = 1  # seconds
    SLACK = 2
    THRESHOLD = 3

    def setUp(self):
        super().setUp()
        self.mode = "well"
        self.bad_port = free_port()
        self.bad_backend = None
        good = self.backend(tls="implicit")
        self.addCleanup(good.forget)  # thousands of logins are no evidence
        self.daemon = self.mailferry(
            {"pop3": {"tls": "implicit"}},
            {"good": good.destination(),
             # STARTTLS: a reset behind the greeting comes ahead of the login.
             "bad": {**good.destination(), "protocol": {"pop3": {
                 "port": self.bad_port, "tls": "starttls"}}}},
            {"good@example.com": "good", "bad@example.com": "bad"},
            over={"server": {"log_level": "info",
                             "host_down_threshold": self.THRESHOLD,
                             "host_down_cooldown": f"{self.COOLDOWN}s",
                             "backend_timeout": f"{self.TIMEOUT}s"}})
        self.good = Load(self.daemon.port, "good@example.com",
                         [f"127.0.0.{n}" for n in range(51, 55)], .002)
        self.addCleanup(self.good.stop)
        self.bad = Load(self.daemon.port, "bad@example.com",
                        [f"127.0.0.{n}" for n in range(41, 44)], .02)
        self.addCleanup(self.bad.stop)

    def script(self, c):
        if self.mode == "stall":
            silent(c)
        elif self.mode == "reset":
            c.send("+OK ready")
            c.reset()
        else:
            Pop3()(c)

    def enter(self, phase):
        """What begins from now on counts for this phase."""
        self.mark = self.daemon.mark()
        self.began = time.monotonic()
        self.good.phase = self.bad.phase = phase

    def goes_down(self, phase):
        """The destination is marked down, then asked by a probe only now and
        then."""
        wait_until(lambda: [r for r in self.daemon.records(self.mark)
                            if r.get("failure") == "down"],
                   f"{phase}: nobody is refused unasked")
        start, mark = time.monotonic(), self.daemon.mark()
        refused = len(self.bad.of(phase))

        def asked():
            return [r for r in self.daemon.records(mark) if r.get("failure")
                    in ("connect", "timeout", "closed")]
        wait_until(asked, f"{phase}: no probe",
                   self.COOLDOWN + self.TIMEOUT + self.SLACK)
        wait_until(lambda: len(self.good.of(phase)) >= 100
                   and len(self.bad.of(phase)) >= refused + 40,
                   f"{phase}: the clients go on")
        # A probe may be tried again, and some were under way.
        probes = (time.monotonic() - start) / self.COOLDOWN + 1
        self.assertLessEqual(len(asked()), 2 * (probes + len(self.bad.threads)),
                             f"{phase}: down, and yet asked")
        for _, reply in self.bad.of(phase):
            self.assertTempFail(reply)
        for took, _ in self.bad.of(phase):
            self.assertLess(took, self.TIMEOUT + self.SLACK)

    def comes_back(self, phase):
        """Seconds until the first login."""
        wait_until(lambda: self.bad.of(phase, "+OK"), f"{phase}: no login",
                   self.COOLDOWN + self.SLACK)
        took = time.monotonic() - self.began
        # Enough of them that nothing is held back any more.
        wait_until(lambda: len(self.bad.of(phase, "+OK")) >= 40,
                   f"{phase}: the logins go on")
        return took

    def test_kill_stall_reset_revive(self):
        """Backend unreachable, down, full, timed out, or speaking nonsense:
        `-ERR [SYS/TEMP] ...`; host_down_threshold: consecutive failures that
        mark a destination down; host_down_cooldown: then one connection may
        probe it (CONFIG)"""
        phases, back = [], {}
        for mode in ("kill", "stall", "reset"):
            self.mode = mode
            self.enter(mode)
            phases.append(mode)
            self.goes_down(mode)
            revived = f"after {mode}"
            phases.append(revived)
            self.mode = "well"
            self.enter(revived)
            if not self.bad_backend:
                self.bad_backend = self._keep(
                    Revivable(self.bad_port, self.script))
            back[revived] = self.comes_back(revived)
        self.enter("end")
        self.good.stop()
        self.bad.stop()
        for phase in phases:
            note = f", back after {back[phase]:.2f} s" if phase in back else ""
            print(f"\n{phase}{note}\n  bad:  {self.bad.waits(phase)}"
                  f"\n  good: {self.good.waits(phase)}", end="", flush=True)
        print(flush=True)
        self.assertEqual(self.good.broken, [])
        self.assertEqual(self.bad.broken, [])
        for phase in phases:
            with self.subTest(phase=phase):
                refused = [reply for _, reply in self.good.of(phase)
                           if not reply.startswith("+OK")]
                self.assertEqual(refused, [])
                waits = sorted(took for took, _ in self.good.of(phase))
                # None of them waits for the bad one's timeout.
                self.assertLess(waits[len(waits) // 2], self.TIMEOUT / 2)


class Probes(Case):
    """Who finds out whether a destination is up again."""

    OPEN = {"capabilities": {"pop3": {"allow_plain_auth_without_tls": True}}}

    def serve(self, backend, forwarding="none", listener=None, **server):
        return self.mailferry(
            {"pop3": {"tls": "plain", **(listener or {})}},
            {"x": backend.destination(forwarding=forwarding)},
            over={"server": {"host_down_threshold": 2,
                             "host_down_min_clients": 2,
                             "backend_connect_retries": 0, **server},
                  **self.OPEN})

    @staticmethod
    def log_in(c):
        c.cmd("USER alice@example.com")
        return c.cmd("PASS secret")

    def from_(self, d, source):
        return self.client(d, source=source)

    @staticmethod
    def is_down(d):
        return [r for r in d.records()
                if r["message"] == "destination is down"]

    def test_banned_client_probes(self):
        """one client's failures (...backend banning the forwarded address by
        closing after XCLIENT/PROXY) never mark a destination down, nor keep
        it down: it is well again, and one client hangs on it all the time"""
        banned, well = "127.0.0.41", threading.Event()

        def script(c):
            if not well.is_set() or c.proxy.src[0] == banned:
                c.close()
            else:
                Pop3()(c)
        b = self.backend(script, tls="plain", proxy=True)
        d = self.serve(b, "proxy", host_down_cooldown="2s")
        for source in ("127.0.0.31", "127.0.0.32"):
            self.assertTempFail(self.log_in(self.from_(d, source)))
        self.assertEqual(len(self.is_down(d)), 1)
        well.set()
        b.forget()
        # The banned one has the first probe.
        wait_until(lambda: self.log_in(self.from_(d, banned)) and
                   b.connections, "the banned client's probe")
        for _ in range(10):
            self.assertTempFail(self.log_in(self.from_(d, banned)))
        self.assertEqual([x.proxy.src[0] for x in b.connections], [banned])
        # Nobody else waits for that.
        self.assertReply(self.log_in(self.from_(d, "127.0.0.31")), "+OK")
        self.assertReply(self.log_in(self.from_(d, "127.0.0.32")), "+OK")
        self.assertEqual(len(self.is_down(d)), 1)

    def test_stragglers(self):
        """host_down_cooldown: then one connection may probe it (CONFIG): who
        was under way when it was marked does not put that off"""
        cooldown = 3
        go = threading.Event()
        self.addCleanup(go.set)

        def held(c):
            c.wait(go)
            c.close()

        def closes(c):
            c.close()
        b = self.backend([held, closes, closes, Pop3()], tls="plain")
        d = self.serve(b, host_down_cooldown=f"{cooldown}s")
        straggler = self.from_(d, "127.0.0.41")
        straggler.cmd("USER alice@example.com")
        straggler.send("PASS secret")
        b.connection(0)
        for source in ("127.0.0.31", "127.0.0.32"):
            self.assertTempFail(self.log_in(self.from_(d, source)))
        marked = time.monotonic()
        self.assertEqual(len(self.is_down(d)), 1)
        c = self.from_(d, "127.0.0.33")
        threading.Timer(cooldown * .7, go.set).start()
        wait_until(lambda: self.log_in(c).startswith("+OK"), "a probe",
                   pause=.05)
        self.assertLess(time.monotonic() - marked, cooldown * 1.5)
        self.assertTempFail(straggler.line())

    def test_one_ipv6_network_is_one_client(self):
        """failures after TCP connect count over >= host_down_min_clients
        distinct addresses (IPv6: per /64, CONFIG)"""
        b = self.backend(lambda c: c.close(), tls="plain")
        d = self.serve(b, listener={"xclient_trusted": ["127.0.0.0/8"]},
                       host_down_cooldown="1h")

        def comes_from(address):
            c = self.client(d)
            c.cmd(f"XCLIENT ADDR={address}")
            self.assertTempFail(self.log_in(c))
        for n in range(1, 7):
            comes_from(f"2001:db8:1:1::{n}")
        self.assertEqual(self.is_down(d), [])
        self.assertEqual(len(b.connections), 6)
        comes_from("2001:db8:1:2::1")
        self.assertEqual(len(self.is_down(d)), 1)

    def test_no_stampede(self):
        """half-open breaker lets one probe in; after success ramp
        (RELIABILITY): with everybody waiting, a destination that comes back
        gets one login, then two at once, then four, then eight; the others
        wait at the gate"""
        many = 24
        lock = threading.Lock()
        waiting = []  # who is connected and not logged in
        most = 0
        well, over = threading.Event(), threading.Event()

        def script(c):
            nonlocal most
            if not well.is_set():
                c.close()
                return
            go = threading.Event()
            with lock:
                waiting.append(go)
                most = max(most, len(waiting))
                if over.is_set():
                    go.set()
            c.wait(go, 120)

            def check(*_):
                with lock:
                    waiting.remove(go)
                return "+OK logged in"
            Pop3(check=check)(c)
        b = self.backend(script, tls="plain")
        self.addCleanup(lambda: [go.set() for go in list(waiting)])
        d = self.serve(b, host_down_cooldown="500ms", backend_timeout="60s",
                       queue_timeout="60s", threads=2)
        for source in ("127.0.0.31", "127.0.0.32"):
            self.assertTempFail(self.log_in(self.from_(d, source)))
        self.addCleanup(over.set)
        refused, broken = [0] * many, []

        def insist(n):
            try:
                with Client(d.port, source=f"127.0.1.{n + 1}",
                            timeout=120) as c:
                    while not over.is_set():
                        if self.log_in(c).startswith("+OK"):
                            return
                        refused[n] += 1
            except (AssertionError, OSError) as e:
                broken.append(repr(e))
        threads = [threading.Thread(target=insist, args=(n,), daemon=True)
                   for n in range(many)]
        well.set()
        for thread in threads:
            thread.start()
        for allowed in (1, 2, 4, 8):
            wait_until(lambda a=allowed: len(waiting) == a,
                       f"{allowed} at once")
            if allowed == 1:
                # All the others knock on, twice at least, and in vain.
                before = list(refused)
                wait_until(lambda: sum(now >= was + 2 for now, was in
                                       zip(refused, before)) >= many // 3,
                           "the others knock")
            self.assertEqual(most, allowed)
            if allowed < 8:
                waiting[0].set()
        over.set()
        with lock:
            for go in waiting:
                go.set()
        for thread in threads:
            thread.join(DEADLINE)
        self.assertEqual(broken, [])
        self.assertEqual(len(self.is_down(d)), 1)


if __name__ == "__main__":
    unittest.main()
