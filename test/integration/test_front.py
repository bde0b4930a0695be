"""nginx's stream proxy in front, and the PROXY header that goes out to
backends, octet for octet (PROTOCOL and CONFIG). Each docstring quotes the
sentence that its test proves.
"""

import os
import socket
import ssl
import struct
import unittest

from harness.case import Case, Pop3, certs, context, need
from harness.fake_backend import PROXY_SIGNATURE
from harness.front import Front, xclient_words
from harness.ports import free_port, has_ipv6
from harness.proc import wait_until

STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
CLIENTS = ("127.0.0.31", "127.0.0.32")
TRUSTED = "127.0.0.5"
XCLIENT_GREETING = "+OK [XCLIENT] ready"

NGINX_CONF = """\
load_module {module};
daemon off;
worker_processes 1;
pid {dir}/pid;
error_log stderr info;
events {{
    worker_connections 512;
}}
stream {{
    proxy_connect_timeout 5s;
{servers}}}
"""

NGINX_SERVER = """\
    server {{
{listens}        proxy_pass 127.0.0.1:{to};
        proxy_protocol on;
    }}
"""


class Nginx(Front):
    """nginx in the foreground, a stream proxy that writes the PROXY header.
    routes: {name: port of the server}; by IPv4 and by IPv6."""

    def __init__(self, routes):
        super().__init__("nginx", routes)
        conf = os.path.join(self.dir, "nginx.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write(NGINX_CONF.format(
                module=STREAM_MODULE, dir=self.dir, servers="".join(
                    self._server(self.ports[name], to)
                    for name, to in routes.items())))
        self.launch(["nginx", "-e", "stderr", "-p", self.dir, "-c", conf],
                    "nginx")

    @staticmethod
    def _server(port, to):
        addresses = ["127.0.0.1"] + (["[::1]"] if has_ipv6() else [])
        listens = "".join(f"        listen {a}:{port};\n" for a in addresses)
        return NGINX_SERVER.format(listens=listens, to=to)


def right_password(c, mech, frame):
    return "+OK logged in" if b"secret" in frame else \
        "-ERR [AUTH] Authentication failed."


@need("nginx", STREAM_MODULE)
class BehindNginx(Case):
    """nginx in front; user "x" goes to a backend that takes XCLIENT, user
    "p" to one that takes the PROXY header."""

    LISTENERS = ("plain", "starttls", "implicit")
    over = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backends = {
            "x": cls.shared_backend(
                Pop3(greeting=XCLIENT_GREETING, xclient="+OK",
                     check=right_password), tls="implicit"),
            "p": cls.shared_backend(Pop3(check=right_password),
                                    tls="implicit", proxy=True)}
        cls.daemon = cls.shared_mailferry(
            {tls: {"tls": tls, "proxy_protocol": "required",
                   "proxy_trusted": ["127.0.0.1"]}
             for tls in cls.LISTENERS},
            {"x": cls.backends["x"].destination(forwarding="xclient"),
             "p": cls.backends["p"].destination()},
            {"p": "p", "x": "x"}, over={
                "capabilities": {"pop3": {
                    "allow_plain_auth_without_tls": True}},
                **(cls.over or {})})
        cls.nginx = Nginx({tls: cls.daemon.port_of(tls)
                           for tls in cls.LISTENERS})
        cls._shared.append(cls.nginx)
        cls.addClassCleanup(cls.nginx.stop)

    def setUp(self):
        super().setUp()
        for b in self.backends.values():
            b.forget()

    def through(self, tls, **keys):
        """A client that has come in by nginx."""
        return self.client(self.nginx.port_of(tls), tls=tls, **keys)


class Addresses(BehindNginx):
    def visit(self, tls, user, **keys):
        """Logs in and out. The client, what the backend saw, and the two
        lines of the log: routed, and the end."""
        mark = self.daemon.mark()
        self.backends[user].forget()
        c = self.through(tls, **keys)
        self.assertReply(c.cmd(f"USER {user}"), "+OK")
        self.assertReply(c.cmd("PASS secret"), "+OK")
        seen = self.backends[user].connection()
        seen.wait_logged_in()
        c.play("C: NOOP\nS: +OK\nC: QUIT\nS: +OK\nCLOSED")
        end = self.daemon.wait_record(
            lambda r: "bytes_to_client" in r, "the end", mark)
        return c, seen, end

    def check(self, tls, ours, want, **keys):
        """ours: the client's own address; want: the one that nginx was
        connected at."""
        port = self.nginx.port_of(tls)
        c, seen, end = self.visit(tls, "x", **keys)
        self.assertEqual((c.local[0], end["client"]), (ours, ours))
        words = xclient_words(seen)
        self.assertEqual(
            words, {**words, "ADDR": ours, "PORT": str(c.local[1]),
                    "DESTADDR": want, "DESTPORT": str(port),
                    "SESSION": end["session"], "TTL": "7",
                    "CLIENT-TRANSPORT": "insecure" if tls == "plain"
                    else "TLS"})
        c, seen, end = self.visit(tls, "p", **keys)
        self.assertEqual(end["client"], ours)
        self.assertEqual(seen.proxy.family, 0x21 if ":" in ours else 0x11)
        self.assertEqual(seen.proxy.src, (ours, c.local[1]))
        self.assertEqual(seen.proxy.dst, (want, port))
        self.assertEqual(seen.proxy.tlvs[0xe0].decode("ascii"),
                         end["session"])
        self.assertEqual(seen.proxy.ssl is None, tls == "plain")

    def test_ipv4(self):
        """Optional PROXY header (v1/v2) from a trusted peer, then, on an
        `implicit` listener, the TLS handshake; One log line at the end of
        each session says: ..., client address"""
        for tls in self.LISTENERS:
            for source in CLIENTS:
                with self.subTest(tls=tls, source=source):
                    self.check(tls, source, "127.0.0.1", source=source)

    @unittest.skipUnless(has_ipv6(), "no IPv6")
    def test_ipv6_over_ipv4(self):
        """client and listener address as seen by the client; (IPv6 addresses
        bare). nginx itself comes to us by IPv4."""
        for tls in self.LISTENERS:
            with self.subTest(tls=tls):
                self.check(tls, "::1", "::1", address="::1")

    def test_not_trusted(self):
        """PROXY protocol v1 and v2, from proxy_trusted only (CONFIG)"""
        d = self.mailferry(
            {"implicit": {"tls": "implicit", "proxy_protocol": "required",
                          "proxy_trusted": ["127.0.0.77"]}},
            {"p": self.backends["p"].destination()})
        nginx = self.keep(Nginx({"implicit": d.port_of("implicit")}))
        # The header is read as the TLS that it is not.
        with self.assertRaises(OSError):
            self.client(nginx.port_of("implicit"), tls="implicit",
                        source=CLIENTS[0])
        end = d.wait_record(lambda r: r["message"] == "session closed",
                            "the end")
        self.assertEqual(end["client"], "127.0.0.1")
        self.assertNotIn(CLIENTS[0], d.output())
        self.assertEqual(self.backends["p"].connections, [])


class PerAddress(BehindNginx):
    """Limits that go by the client's address, though all come by nginx."""

    over = {"limits": {"max_connections_per_ip": 2,
                       "auth_failures_per_ip": 2,
                       "auth_failure_window": "1h"}}

    def test_max_connections_per_ip(self):
        """limits: per client address (IPv6: per /64), over all workers and
        listeners (CONFIG)"""
        held = [self.through(tls, source="127.0.0.41")
                for tls in ("plain", "implicit")]
        for tls in ("plain", "starttls"):
            c = self.client(self.nginx.port_of(tls), source="127.0.0.41",
                            greeting=False)
            self.assertNotIn(b"+OK", c.rest())
        for source in ("127.0.0.42", "127.0.0.43"):
            for tls in ("plain", "implicit"):
                held.append(self.through(tls, source=source))
        for c in held:
            self.assertReply(c.cmd("NOOP"), "+OK")
        held[0].close()

        def served():
            with self.client(self.nginx.port_of("plain"), greeting=False,
                             source="127.0.0.41") as c:
                return b"+OK" in c.octets()
        wait_until(served, "a place is free again")

    def test_auth_failures_per_ip(self):
        """auth_failures_per_ip: refused logins within auth_failure_window;
        further logins are refused unasked (CONFIG); A failed login has one
        line with client address, user and reason"""
        mark = self.daemon.mark()
        for tls, word in (("plain", "wrong"), ("implicit", "bad")):
            c = self.through(tls, source="127.0.0.44")
            c.cmd("USER p")
            self.assertReply(c.cmd(f"PASS {word}"), "-ERR [AUTH]")
            c.play("C: QUIT\nS: +OK\nCLOSED")
        failed = [r for r in self.daemon.records(mark) if r.get("failure")]
        self.assertEqual([(r["client"], r["user"], r["failure"])
                          for r in failed],
                         [("127.0.0.44", "p", "rejected")] * 2)
        self.backends["p"].forget()
        c = self.through("starttls", source="127.0.0.44")
        c.cmd("USER p")
        self.assertReply(c.cmd("PASS secret"), "-ERR [AUTH]")
        self.assertEqual(self.backends["p"].connections, [])
        # Nobody else suffers.
        c = self.through("starttls", source="127.0.0.45")
        c.cmd("USER p")
        self.assertReply(c.cmd("PASS secret"), "+OK")


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def header(src, dst, *tlvs):
    """A PROXY v2 header; src and dst as (address, port), both of one
    family."""
    v6 = ":" in src[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    body = socket.inet_pton(family, src[0]) \
        + socket.inet_pton(family, dst[0]) \
        + struct.pack("!HH", src[1], dst[1]) + b"".join(tlvs)
    return PROXY_SIGNATURE + bytes([0x21, 0x21 if v6 else 0x11]) \
        + struct.pack("!H", len(body)) + body


def ssl_tlv(version=None, cipher=None):
    """PP2_CLIENT_SSL alone, and a verify that is not 0: no certificate of the
    client was asked for."""
    value = b"\1\0\0\0\1"
    if version:
        value += tlv(0x21, version) + tlv(0x23, cipher)
    return tlv(0x20, value)


class Octets(Case):
    """The PROXY header that a backend is sent."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backend_ = cls.shared_backend(tls="plain", proxy=True)
        believed = {"proxy_protocol": "required", "proxy_trusted": [TRUSTED]}
        cls.daemon = cls.shared_mailferry(
            {"implicit": {"tls": "implicit"},
             "starttls": {"tls": "starttls"},
             "plain": {"tls": "plain"},
             "between": {"tls": "plain", **believed},
             "between-tls": {"tls": "implicit", **believed},
             "xclient": {"tls": "plain", "xclient_trusted": [TRUSTED]}},
            {"x": cls.backend_.destination()},
            over={"capabilities": {"pop3": {
                "allow_plain_auth_without_tls": True}},
                "server": {"proxy_ttl": 9}})

    def sent(self, c, daemon=None, backend=None):
        """Logs in with this client. The header, and the session id that the
        log has."""
        daemon = daemon or self.daemon
        backend = backend or self.backend_
        backend.forget()
        mark = daemon.mark()
        self.assertReply(c.cmd("USER alice@example.com"), "+OK")
        self.assertReply(c.cmd("PASS secret"), "+OK")
        seen = backend.connection()
        c.play("C: QUIT\nS: +OK\nCLOSED")
        end = daemon.wait_record(
            lambda r: "bytes_to_client" in r, "the end", mark)
        # All that is not the header is POP3.
        seen.wait_finished()
        self.assertNotIn(PROXY_SIGNATURE, bytes(seen.clear))
        return seen.proxy.raw, end["session"].encode("ascii")

    def here(self, listener):
        return ("127.0.0.1", self.daemon.port_of(listener))

    def test_tls(self):
        """TLS details in its SSL TLV; our session id and TTL in custom TLVs
        0xE0 and 0xE1; TLV 0xE0 is the session id in ASCII, 0xE1 the TTL in
        one octet."""
        for tls in ("implicit", "starttls"):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                with self.subTest(tls=tls, version=version.name):
                    c = self.client(
                        self.daemon.port_of(tls), tls=tls, source=CLIENTS[0],
                        ctx=context(certs().ca, minimum=version,
                                    maximum=version))
                    used = c.sock.cipher()[0].encode("ascii")
                    name = {"TLSv1_2": b"TLSv1.2",
                            "TLSv1_3": b"TLSv1.3"}[version.name]
                    raw, session = self.sent(c)
                    self.assertEqual(raw, header(
                        c.local, self.here(tls), tlv(2, b"mail.example.com"),
                        ssl_tlv(name, used), tlv(0xe0, session),
                        tlv(0xe1, b"\t")))

    def test_no_tls(self):
        """TLS details in its SSL TLV: none when the client's leg has none"""
        for listener in ("plain", "starttls"):
            with self.subTest(listener=listener):
                c = self.client(self.daemon.port_of(listener),
                                source=CLIENTS[0])
                raw, session = self.sent(c)
                self.assertEqual(raw, header(
                    c.local, self.here(listener), tlv(0xe0, session),
                    tlv(0xe1, b"\t")))

    def authority(self, sni, want):
        c = self.client(self.daemon.port_of("implicit"), tls="implicit",
                        ctx=context(), sni=sni)
        used = c.sock.cipher()[0].encode("ascii")
        raw, session = self.sent(c)
        self.assertEqual(raw, header(
            c.local, self.here("implicit"),
            tlv(2, want) if want else b"", ssl_tlv(b"TLSv1.3", used),
            tlv(0xe0, session), tlv(0xe1, b"\t")))

    def test_authority(self):
        """SNI is length- and character-checked before it is used anywhere.
        (AUTHORITY is the name that the client sent.)"""
        long = "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + ".example"
        for sni in ("mail.example.com", "no-certificate.example",
                    "MAIL.Example.COM", "xn--bcher-kva.example", long):
            with self.subTest(sni=sni):
                self.authority(sni, sni.encode("ascii"))

    def test_no_authority(self):
        """SNI is length- and character-checked before it is used anywhere.
        (Dovecot disconnects on ... an AUTHORITY that is no DNS name.)"""
        for sni in (None, "bad name.example", "a=b", "x\ty", "-", "a[b]",
                    "a.example\rQUIT", "a\"b", "a/b", "-a.example",
                    "a-.example", "a:b"):
            with self.subTest(sni=sni):
                self.authority(sni, None)

    def test_mixed_families(self):
        """families that differ: the IPv4 side is written `::ffff:a.b.c.d` and
        the header is AF_INET6, for Dovecot refuses UNSPEC"""
        for source, dest, want in (
                ("2001:db8::7", "192.0.2.1",
                 ("2001:db8::7", "::ffff:192.0.2.1")),
                ("192.0.2.7", "2001:db8::1",
                 ("::ffff:192.0.2.7", "2001:db8::1")),
                ("2001:db8::7", "2001:db8::1",
                 ("2001:db8::7", "2001:db8::1")),
                ("192.0.2.7", "192.0.2.1", ("192.0.2.7", "192.0.2.1"))):
            with self.subTest(source=source, dest=dest):
                c = self.client(self.daemon.port_of("xclient"),
                                source=TRUSTED)
                self.assertReply(c.cmd(
                    f"XCLIENT ADDR={source} PORT=1234 DESTADDR={dest} "
                    "DESTPORT=995 TTL=5 SESSION=outer-1 "
                    "CLIENT-TRANSPORT=TLS"), "+OK")
                raw, session = self.sent(c)
                self.assertEqual(session, b"outer-1")
                self.assertEqual(raw, header(
                    (want[0], 1234), (want[1], 995), ssl_tlv(),
                    tlv(0xe0, session), tlv(0xe1, b"\4")))

    @unittest.skipUnless(has_ipv6(), "no IPv6")
    def test_the_leg_has_a_family_of_its_own(self):
        """client and listener address as seen by the client; ... the header
        is AF_INET6"""
        six = self.backend(tls="plain", proxy=True, address="::1")
        ports = [free_port(), free_port()]
        d = self.mailferry(
            {"four": {"tls": "plain", "bind": [f"127.0.0.1:{ports[0]}"]},
             "six": {"tls": "plain", "bind": [f"[::1]:{ports[1]}"]}},
            {"four": self.backend_.destination(), "six": six.destination()},
            {"four": "four", "six": "six"},
            over={"capabilities": {"pop3": {
                "allow_plain_auth_without_tls": True}}})
        for user, backend, port, address in (
                ("six", six, ports[0], "127.0.0.1"),
                ("four", self.backend_, ports[1], "::1"),
                ("six", six, ports[1], "::1")):
            with self.subTest(client=address, backend=user):
                backend.forget()
                mark = d.mark()
                c = self.client(port, address=address)
                c.cmd(f"USER {user}")
                self.assertReply(c.cmd("PASS secret"), "+OK")
                c.play("C: QUIT\nS: +OK\nCLOSED")
                end = d.wait_record(
                    lambda r: "bytes_to_client" in r, "the end", mark)
                self.assertEqual(
                    backend.connection().proxy.raw, header(
                        c.local, (address, port),
                        tlv(0xe0, end["session"].encode("ascii")),
                        tlv(0xe1, b"\7")))

    def test_what_a_proxy_in_front_says(self):
        """our session id and TTL in custom TLVs 0xE0 and 0xE1, believed from
        `proxy_trusted` peers; TTL is one less than what came in"""
        src, dst = ("192.0.2.7", 1234), ("198.51.100.1", 110)
        name, session = tlv(2, b"pop.example.org"), tlv(0xe0, b"outer-2")
        cases = {
            "all": ([name, ssl_tlv(), session, tlv(0xe1, b"\4")],
                    [name, ssl_tlv(), session, tlv(0xe1, b"\3")]),
            # An ALPN TLV, a CRC-less NOOP and the details of another's TLS
            # are not handed on.
            "foreign": ([tlv(1, b"imap"), tlv(4, b"\0" * 9),
                         ssl_tlv(b"TLSv1.2", b"X-Y"), session,
                         tlv(0xe1, b"\2"), tlv(0xea, b"aws")],
                        [ssl_tlv(), session, tlv(0xe1, b"\1")]),
            "no TLS": ([tlv(0x20, b"\0\0\0\0\1"), session],
                       [session, tlv(0xe1, b"\t")]),
            "a bad name": ([tlv(2, b"a b"), session],
                           [session, tlv(0xe1, b"\t")]),
        }
        for what, (came, goes) in cases.items():
            with self.subTest(what):
                c = self.client(self.daemon.port_of("between"),
                                source=TRUSTED,
                                first=header(src, dst, *came))
                raw, got = self.sent(c)
                self.assertEqual(got, b"outer-2")
                self.assertEqual(raw, header(src, dst, *goes))

    def test_tls_behind_a_proxy_in_front(self):
        """Optional PROXY header (v1/v2) from a trusted peer, then, on an
        `implicit` listener, the TLS handshake."""
        src, dst = ("192.0.2.7", 1234), ("198.51.100.1", 995)
        c = self.client(self.daemon.port_of("between-tls"), tls="implicit",
                        source=TRUSTED, first=header(src, dst))
        used = c.sock.cipher()[0].encode("ascii")
        raw, session = self.sent(c)
        self.assertEqual(raw, header(
            src, dst, tlv(2, b"mail.example.com"),
            ssl_tlv(b"TLSv1.3", used), tlv(0xe0, session),
            tlv(0xe1, b"\t")))


class Choice(Case):
    """What is forwarded how: the destination says, its endpoint overrides."""

    # the destination's keys, the endpoint's forwarding, what happens
    CASES = {
        "default": ({}, None, "xclient"),
        "proxy_protocol": ({"proxy_protocol": True}, None, "proxy"),
        "no-proxy_protocol": ({"proxy_protocol": False}, None, "none"),
        "proxy": ({"proxy_protocol": False, "forwarding": "proxy"}, None,
                  "proxy"),
        "none": ({"proxy_protocol": True, "forwarding": "none"}, None,
                 "none"),
        "xclient": ({"proxy_protocol": True, "forwarding": "xclient"}, None,
                    "xclient"),
        "endpoint-none": ({"forwarding": "proxy"}, "none", "none"),
        "endpoint-xclient": ({"forwarding": "proxy"}, "xclient", "xclient"),
        "endpoint-proxy": ({"forwarding": "xclient"}, "proxy", "proxy"),
        "endpoint-over-none": ({"forwarding": "none"}, "xclient", "xclient"),
        "endpoint-over-default": ({}, "none", "none"),
        "endpoint-over-flag": ({"proxy_protocol": False}, "proxy", "proxy"),
    }

    def test_overrides(self):
        """forwarding: xclient (default) | proxy | none; the endpoint's
        overrides the destination's (CONFIG)"""
        for tls in ("plain", "implicit", "starttls"):
            backends, destinations = {}, {}
            for name, (keys, endpoint, want) in self.CASES.items():
                b = backends[name] = self.backend(
                    Pop3(greeting=XCLIENT_GREETING, xclient="+OK"), tls=tls,
                    proxy=want == "proxy")
                d = destinations[name] = {
                    **b.destination(forwarding=None), **keys}
                if endpoint:
                    d["protocol"]["pop3"]["forwarding"] = endpoint
            daemon = self.mailferry(
                {"pop3": {"tls": "implicit"}}, destinations,
                {name: name for name in destinations})
            for name, (_, _, want) in self.CASES.items():
                with self.subTest(tls=tls, case=name):
                    c = self.login(daemon, name, tls="implicit",
                                   source=CLIENTS[0])
                    seen = backends[name].connection()
                    c.play("C: QUIT\nS: +OK\nCLOSED")
                    seen.wait_finished()
                    told = [x for x in seen.commands
                            if x.startswith("XCLIENT")]
                    self.assertEqual(len(told), want == "xclient")
                    self.assertEqual(seen.proxy is not None, want == "proxy")
                    if want == "proxy":
                        self.assertEqual(seen.proxy.src, c.local)
                    if want == "xclient":
                        self.assertEqual(xclient_words(seen)["ADDR"],
                                         CLIENTS[0])
                    if want == "none":
                        octets = bytes(seen.clear + seen.inside)
                        self.assertNotIn(CLIENTS[0].encode(), octets)
                        self.assertNotIn(PROXY_SIGNATURE, octets)
            daemon.stop()


if __name__ == "__main__":
    unittest.main()
