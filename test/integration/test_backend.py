"""The backend leg, the replay of the login and its result (PROTOCOL, sections
6 to 8). Each docstring quotes the sentence that its test proves.

One daemon serves many destinations: the user's name says which.
"""

import ssl
import threading
import time
import unittest

from harness.case import Backend, Case, Pop3, certs, context
from harness.client import (
    BYTES, LINES, TOGETHER, b64, oauthbearer, plain, xoauth2)
from harness.fake_backend import says, silent
from harness.ports import free_port, has_ipv6
from harness.proc import DEADLINE, wait_until

SECRET = "s3cr3t-canary"
TRUSTED = "127.0.0.5"
AUTH_ERR = "-ERR [AUTH] Authentication failed."

MECHANISMS = ("USER", "PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER")


def remember(c, mech, frame):
    c.login = (mech, frame)
    return "+OK logged in"


def refuse(line):
    """A check that answers every login with this line."""
    def check(c, mech, frame):
        c.login = (mech, frame)
        return line
    return check


# The capabilities of a server that can be sent an initial response.
INLINE_CAPA = (b"+OK\r\nSASL PLAIN XOAUTH2\r\nAUTH-RESP-CODE\r\n.\r\n")


class Leg(Case):
    """Destinations by name, each with a user NAME@example.com."""

    over = {}
    daemon = None
    listeners = {"pop3": {"tls": "implicit", "max_auth_attempts": 100},
                 "between": {"tls": "plain", "xclient_trusted": [TRUSTED]},
                 "secure": {"tls": "implicit", "xclient_trusted": [TRUSTED]}}

    @classmethod
    def serve(cls, destinations, over=None):
        mapping = {f"{name}@example.com": name for name in destinations}
        cls.daemon = cls.shared_mailferry(cls.listeners, destinations, mapping,
                                          over or cls.over)

    def serve_here(self, destinations, over=None, **keys):
        """A daemon of this test, in the place of the one before."""
        if self.daemon in self._own:
            self.leave()
            self.daemon.stop()
        mapping = {f"{name}@example.com": name for name in destinations}
        self.daemon = self.mailferry(self.listeners, destinations, mapping,
                                     over, **keys)
        return self.daemon

    def connect(self, **keys):
        keys.setdefault("tls", "implicit")
        return self.client(self.daemon, **keys)

    def log_in(self, name, mech="USER", c=None, password=SECRET, **keys):
        """The client and the line that ends the attempt."""
        c = c or self.connect(**keys)
        user = f"{name}@example.com"
        if mech == "USER":
            self.assertReply(c.cmd(f"USER {user}"), "+OK")
            return c, c.cmd(f"PASS {password}")
        if mech == "LOGIN":
            c.cmd(f"AUTH LOGIN {b64(user)}")
            return c, c.cmd(b64(password))
        frame = {"PLAIN": plain, "XOAUTH2": xoauth2,
                 "OAUTHBEARER": oauthbearer}[mech](user, password)
        return c, c.cmd(f"AUTH {mech} {frame}")

    def assertLoggedIn(self, name, mech="USER", **keys):
        c, reply = self.log_in(name, mech, **keys)
        self.assertEqual(reply, "+OK logged in")
        return c

    def assertNoCredentials(self, octets, user="example.com"):
        """No part of a login is in these octets, in any encoding of ours."""
        data = bytes(octets)
        self.assertNotIn(SECRET.encode(), data)
        for word in (b"USER ", b"PASS ", b"AUTH ", b"XCLIENT "):
            self.assertNotIn(word, data)
        for shift in range(3):
            # Base64 of the secret at each of its three alignments.
            inner = b64("\0" * shift + SECRET)[4:-4]
            self.assertNotIn(inner.encode(), data)

    def assertTempFailAndOpen(self, c, reply):
        """Backend unreachable, ...: `-ERR [SYS/TEMP] ...` ... and the client
        may try again."""
        self.assertTempFail(reply)
        self.assertReply(c.cmd("NOOP"), "+OK")


class Kinds(Leg):
    """Every kind of leg, every way of forwarding, every mechanism."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backends = {}
        destinations = {}
        for tls in ("implicit", "starttls", "plain"):
            for forwarding in ("none", "xclient", "proxy"):
                name = f"{tls}-{forwarding}"
                xclient = forwarding == "xclient"
                cls.backends[name] = b = cls.shared_backend(
                    Pop3(check=remember,
                         greeting="+OK [XCLIENT] ready" if xclient
                         else "+OK ready",
                         xclient="+OK Updated" if xclient else None),
                    tls=tls, proxy=forwarding == "proxy")
                destinations[name] = b.destination(forwarding=forwarding)
        cls.serve(destinations)

    def setUp(self):
        super().setUp()
        for b in self.backends.values():
            b.forget()

    def test_logins(self):
        """Password logins: `AUTH PLAIN` when the backend offers it ... Bearer
        logins: the client's mechanism and frame, byte for byte."""
        for name, b in self.backends.items():
            user = f"{name}@example.com"
            for mech in MECHANISMS:
                with self.subTest(destination=name, mech=mech):
                    self.assertLoggedIn(name, mech).close()
                    want = ("PLAIN", f"\0{user}\0{SECRET}".encode())
                    if mech == "XOAUTH2":
                        want = (mech, f"user={user}\1auth=Bearer {SECRET}\1\1"
                                .encode())
                    elif mech == "OAUTHBEARER":
                        want = (mech, f"n,a={user},\1auth=Bearer {SECRET}\1\1"
                                .encode())
                    self.assertEqual(b.connection().login, want)
                    if b.tls != "plain":
                        self.assertNoCredentials(b.connection().clear)
                    if b.tls == "implicit":
                        self.assertEqual(bytes(b.connection().clear), b"")
                    if b.tls == "starttls":
                        self.assertEqual(bytes(b.connection().clear),
                                         b"CAPA\r\nSTLS\r\n")

    def test_alpn_and_server_name(self):
        """the certificate is verified as configured (chain, name, ...)"""
        for name in ("implicit-none", "starttls-none"):
            self.assertLoggedIn(name)
            c = self.backends[name].connection()
            self.assertEqual(c.sni, "mail.example.com")
            self.assertEqual(c.tls_version, "TLSv1.3")
            self.assertIn(c.alpn, ("pop3", None))

    # XCLIENT

    def words(self, name, **keys):
        """The XCLIENT line that a login brings, as a dict."""
        c, reply = self.log_in(name, **keys)
        self.assertEqual(reply, "+OK logged in")
        seen = self.backends[name].connection()
        lines = [(line, tls) for line, tls in
                 zip(seen.commands, seen.commands_tls)
                 if line.startswith("XCLIENT")]
        self.assertEqual(len(lines), 1)
        line, inside = lines[0]
        self.assertEqual(inside, self.backends[name].tls != "plain")
        pairs = [word.split("=", 1) for word in line.split(" ")[1:]]
        self.assertEqual(len(pairs), len(dict(pairs)), "a word twice")
        return c, dict(pairs)

    def test_xclient(self):
        """`XCLIENT ADDR= PORT= DESTADDR= DESTPORT= SESSION= TTL=
        CLIENT-TRANSPORT=TLS|insecure` ... plus `DESTNAME=` when the client
        sent a valid SNI name"""
        for name in ("implicit-xclient", "starttls-xclient", "plain-xclient"):
            with self.subTest(destination=name):
                c, words = self.words(name, source="127.0.0.3")
                session = words.pop("SESSION")
                self.assertRegex(session, r"\A[A-Za-z0-9._-]{1,64}\Z")
                self.assertEqual(words, {
                    "ADDR": "127.0.0.3", "PORT": str(c.local[1]),
                    "DESTADDR": "127.0.0.1",
                    "DESTPORT": str(self.daemon.port), "TTL": "7",
                    "CLIENT-TRANSPORT": "TLS",
                    "DESTNAME": "mail.example.com"})
        self.assertNotEqual(self.words(name)[1]["SESSION"], session)

    def test_xclient_comes_before_capa(self):
        """the backend's capabilities are learnt by a CAPA on the secured leg,
        after XCLIENT"""
        d = {}
        for tls in ("implicit", "starttls"):
            b = self.backend(Pop3(check=remember, greeting="+OK [XCLIENT] x",
                                  xclient="+OK"), tls=tls)
            d[tls] = b.destination(forwarding="xclient")
            d[tls]["_"] = b
        backends = {name: section.pop("_") for name, section in d.items()}
        self.serve_here(d)
        for tls, b in backends.items():
            self.assertLoggedIn(tls)
            verbs = [line.split()[0] for line in b.connection().commands]
            want = ["XCLIENT", "CAPA", "AUTH"]
            self.assertEqual(
                verbs, want if tls == "implicit" else ["CAPA", "STLS"] + want)

    def test_xclient_without_tls_and_sni(self):
        """CLIENT-TRANSPORT=TLS|insecure ... plus `DESTNAME=` when the client
        sent a valid SNI name"""
        _, words = self.words("implicit-xclient", ctx=context(), sni=None)
        self.assertNotIn("DESTNAME", words)

    def test_xclient_and_odd_server_names(self):
        """SNI is length- and character-checked before it is used anywhere."""
        for sni in ("bad name.example", "a=b", "a TTL=9", "x\ty", "-",
                    "a[b]", "127.0.0.1x\rQUIT", "a\"b"):
            with self.subTest(sni=sni):
                _, words = self.words("implicit-xclient", ctx=context(),
                                      sni=sni)
                self.assertNotIn("DESTNAME", words)
                self.assertEqual(words["TTL"], "7")

    def test_xclient_from_a_proxy_in_front(self):
        """TTL is one less than what came in ... `TLS` ... is what is passed
        on"""
        for transport in ("TLS", "insecure"):
            c = self.client(self.daemon.port_of("between"), source=TRUSTED)
            self.assertReply(c.cmd(
                "XCLIENT ADDR=2001:db8::7 PORT=77 SESSION=outer.1 TTL=4 "
                f"CLIENT-TRANSPORT={transport}"), "+OK")
            reply = c.cmd("USER plain-xclient@example.com")
            if transport == "insecure":
                self.assertReply(reply, "-ERR")  # the gate
                continue
            c.cmd(f"PASS {SECRET}")
            line = [x for x in self.backends["plain-xclient"].connection()
                    .commands if x.startswith("XCLIENT")][0]
            words = dict(w.split("=", 1) for w in line.split(" ")[1:])
            self.assertEqual(words["ADDR"], "2001:db8::7")
            self.assertEqual(words["PORT"], "77")
            self.assertEqual(words["SESSION"], "outer.1")
            self.assertEqual(words["TTL"], "3")
            self.assertEqual(words["CLIENT-TRANSPORT"], "TLS")

    def test_insecure_in_front_of_a_secure_leg(self):
        """From `xclient_trusted` peers CLIENT-TRANSPORT is believed: ... and
        is what is passed on"""
        c = self.client(self.daemon.port_of("secure"), tls="implicit",
                        source=TRUSTED)
        self.assertReply(c.cmd("XCLIENT ADDR=192.0.2.7 PORT=77 "
                               "CLIENT-TRANSPORT=insecure"), "+OK")
        _, reply = self.log_in("plain-xclient", c=c)
        self.assertReply(reply, "+OK")
        line, = [x for x in self.backends["plain-xclient"].connection()
                 .commands if x.startswith("XCLIENT")]
        self.assertIn("CLIENT-TRANSPORT=insecure", line.split())
        c = self.client(self.daemon.port_of("secure"), tls="implicit",
                        source=TRUSTED)
        c.cmd("XCLIENT ADDR=192.0.2.7 PORT=77 CLIENT-TRANSPORT=insecure")
        self.log_in("plain-proxy", c=c)
        seen = self.backends["plain-proxy"].connection()
        self.assertIsNone(seen.proxy.ssl)

    def test_loop(self):
        """at 1 the login is refused as a loop"""
        for name in ("plain-xclient", "implicit-proxy"):
            c = self.client(self.daemon.port_of("between"), source=TRUSTED)
            c.cmd("XCLIENT ADDR=192.0.2.7 PORT=77 TTL=1 CLIENT-TRANSPORT=TLS")
            c.cmd(f"USER {name}@example.com")
            reply = c.cmd(f"PASS {SECRET}")
            self.assertReply(reply, "-ERR")
            self.assertNotIn("+OK", reply)
            for seen in self.backends[name].connections:
                self.assertNoCredentials(seen.clear + seen.inside)

    # PROXY

    def test_proxy_header(self):
        """PROXY v2 header first ... (client and listener address as seen by
        the client, TLS details in its SSL TLV ...; our session id and TTL in
        custom TLVs 0xE0 and 0xE1)"""
        for name in ("implicit-proxy", "starttls-proxy", "plain-proxy"):
            with self.subTest(destination=name):
                c = self.assertLoggedIn(name, source="127.0.0.3")
                proxy = self.backends[name].connection().proxy
                self.assertEqual(proxy.command, 1)
                self.assertEqual(proxy.family, 0x11)
                self.assertEqual(proxy.src, ("127.0.0.3", c.local[1]))
                self.assertEqual(proxy.dst, ("127.0.0.1", self.daemon.port))
                self.assertRegex(proxy.tlvs[0xe0].decode(),
                                 r"\A[A-Za-z0-9._-]{1,64}\Z")
                self.assertEqual(proxy.tlvs[0xe1], b"\7")
                self.assertEqual(proxy.ssl["client"] & 1, 1)
                self.assertEqual(proxy.ssl["tlvs"][0x21], b"TLSv1.3")

    def test_proxy_header_without_tls(self):
        """TLS details in its SSL TLV"""
        d = self.serve_here(
            {"x": self.backends["implicit-proxy"].destination()},
            over={"capabilities": {"pop3": {
                "allow_plain_auth_without_tls": True}}})
        c = self.client(d.port_of("between"))
        self.log_in("x", c=c)
        proxy = self.backends["implicit-proxy"].connection().proxy
        self.assertEqual(proxy.ssl["client"] & 1 if proxy.ssl else 0, 0)

    def test_proxy_header_of_two_families(self):
        """families that differ: the IPv4 side is written `::ffff:a.b.c.d` and
        the header is AF_INET6"""
        c = self.client(self.daemon.port_of("between"), source=TRUSTED)
        c.cmd("XCLIENT ADDR=2001:db8::7 PORT=77 CLIENT-TRANSPORT=TLS")
        self.log_in("implicit-proxy", c=c)
        proxy = self.backends["implicit-proxy"].connection().proxy
        self.assertEqual(proxy.family, 0x21)
        self.assertEqual(proxy.src, ("2001:db8::7", 77))
        self.assertEqual(proxy.dst, ("::ffff:127.0.0.1",
                                     self.daemon.port_of("between")))

    @unittest.skipUnless(has_ipv6(), "no ::1")
    def test_ipv6(self):
        """(IPv6 addresses bare; ...)"""
        b = self.backend(Pop3(check=remember, greeting="+OK [XCLIENT] x",
                              xclient="+OK"), tls="implicit", address="::1")
        listener = {"tls": "implicit", "bind": None}
        port = free_port()
        listener["bind"] = [f"[::1]:{port}"]
        self.mailferry({"pop3": listener}, {
            "x": b.destination(forwarding="xclient")})
        c = self.client(port, address="::1", tls="implicit")
        c.cmd("USER x")
        self.assertReply(c.cmd("PASS y"), "+OK")
        line = [x for x in b.connection().commands if "XCLIENT" in x][0]
        self.assertIn(" ADDR=::1 ", line)
        self.assertIn(" DESTADDR=::1 ", line)


class Certificates(Leg):
    """The certificate matrix: what must not be believed gets nothing."""

    NAMES = ("good", "expired", "future", "wrong", "unknown", "self")
    POLICIES = ("verify", "any", "pin", "wrongpin", "anywrongpin")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backends = {}
        destinations = {}
        for tls in ("implicit", "starttls"):
            for cert in cls.NAMES:
                b = cls.shared_backend(Pop3(check=remember), tls=tls,
                                       cert=cert)
                for policy in cls.POLICIES:
                    keys = {}
                    if "any" in policy:
                        keys["tls_allow_invalid_certs"] = True
                    if "wrongpin" in policy:
                        keys["tls_pinned_cert_sha256"] = \
                            certs().fingerprint("good2")
                    elif policy == "pin":
                        pin = certs().fingerprint(cert)
                        keys["tls_pinned_cert_sha256"] = ":".join(
                            pin[i:i + 2] for i in range(0, 64, 2)).upper()
                    name = f"{tls}-{cert}-{policy}"
                    cls.backends[name] = b
                    destinations[name] = b.destination(**keys)
        cls.serve(destinations)

    def believed(self, cert, policy):
        if policy in ("verify", "wrongpin", "anywrongpin"):
            return policy == "verify" and cert == "good"
        # "exactly this leaf certificate": nothing else is asked of it.
        return True

    def test_matrix(self):
        """the certificate is verified as configured (chain, name, pin, client
        certificate). Then mailferry asserts that the leg is encrypted ...
        before any credential leaves."""
        for name, b in self.backends.items():
            _, cert, policy = name.split("-")
            want = self.believed(cert, policy)
            with self.subTest(destination=name):
                b.forget()
                c, reply = self.log_in(name)
                if want:
                    self.assertEqual(reply, "+OK logged in")
                else:
                    self.assertTempFailAndOpen(c, reply)
                    for seen in b.connections:
                        seen.wait_finished()
                        self.assertNoCredentials(seen.clear + seen.inside)
                c.close()

    def test_plain_names(self):
        """tls_server_name: default: host (CONFIG)"""
        b = self.backend(Pop3(check=remember), tls="implicit")
        wild = self.backend(Pop3(check=remember), tls="implicit",
                            cert="wildcard")
        d = {"host": b.destination(host="localhost", tls_server_name=None),
             "wild": wild.destination(tls_server_name="a.wild.example.com"),
             "deep": wild.destination(tls_server_name="a.b.wild.example.com"),
             "bare": wild.destination(tls_server_name="wild.example.com"),
             "noca": b.destination(tls_ca_file=None)}
        self.serve_here(d)
        self.assertLoggedIn("host")
        self.assertEqual(b.connection().sni, "localhost")
        self.assertLoggedIn("wild")
        for name in ("deep", "bare", "noca"):
            with self.subTest(destination=name):
                self.assertTempFail(self.log_in(name)[1])

    def test_client_certificate(self):
        """tls_client_cert: both or neither (CONFIG)"""
        for tls in ("implicit", "starttls"):
            for maximum in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                with self.subTest(tls=tls, maximum=maximum):
                    b = self.backend(Pop3(check=remember), tls=tls,
                                     client_ca=certs().ca, maximum=maximum)
                    self.serve_here({
                        "with": b.destination(
                            tls_client_cert=certs().cert("client"),
                            tls_client_key=certs().key("client")),
                        "without": b.destination()})
                    self.assertLoggedIn("with")
                    self.assertEqual(b.connection().client_cert,
                                     certs().der("client"))
                    b.forget()
                    self.assertTempFail(self.log_in("without")[1])
                    for seen in b.connections:
                        self.assertNoCredentials(seen.clear)


class NoDowngrade(Leg):
    """Servers that would have us speak in clear."""

    @staticmethod
    def injects(extra):
        def script(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(b"+OK\r\nSTLS\r\nUSER\r\nSASL PLAIN\r\n.\r\n")
            c.expect("STLS")
            c.raw(b"+OK begin\r\n" + extra)
            c.starttls()
            c.inside_lines = []
            c.drain()
        return script

    @staticmethod
    def answers(stls, capa=b"+OK\r\nSTLS\r\nUSER\r\nSASL PLAIN LOGIN\r\n.\r\n"):
        """Goes on in clear, whatever it is asked."""
        def script(c):
            c.send("+OK ready")
            while True:
                line = c.line()
                if line == "CAPA":
                    c.raw(capa)
                elif line == "STLS":
                    c.send(stls)
                else:
                    c.send("+OK")
        return script

    def attempt(self, script, tls="starttls", mech="USER", forwarding="none"):
        b = self.backend(script, tls="plain")
        b.tls = tls  # for destination() only: the script does it all
        section = b.destination(forwarding=forwarding)
        b.tls = "plain"
        self.serve_here({"x": section}, over={"server": {
            "backend_timeout": "2s", "backend_connect_retries": 0}})
        c, reply = self.log_in("x", mech)
        self.assertTempFailAndOpen(c, reply)
        for seen in b.connections:
            seen.wait_finished()
            self.assertNoCredentials(seen.clear + seen.inside)
        b.errors.clear()
        return b

    def test_no_stls(self):
        """Missing or refused STLS: the login fails, never continues in
        clear."""
        for capa in (b"+OK\r\nUSER\r\nSASL PLAIN\r\n.\r\n", b"-ERR\r\n",
                     b"-ERR unknown command\r\n", b"+OK\r\n.\r\n",
                     b"+OK\r\nXSTLS\r\nSTLSX\r\nUSER STLS\r\n.\r\n"):
            with self.subTest(capa=capa):
                b = self.attempt(self.answers("+OK", capa))
                self.assertNotIn(b"STLS", b.connection().clear)

    def test_stls_refused(self):
        """Missing or refused STLS: the login fails, never continues in
        clear."""
        for reply in ("-ERR", "-ERR TLS not available", "-ERR [AUTH] no"):
            for mech in ("USER", "XOAUTH2"):
                with self.subTest(reply=reply, mech=mech):
                    self.attempt(self.answers(reply), mech=mech)

    def test_bytes_behind_stls(self):
        """any byte the backend sent after that line and before the handshake
        is an attack: abort"""
        for extra in (b"+OK\r\n.\r\n", b"+", b"\r\n", b"\x16\x03\x03\x00\x02",
                      b"\0\xff\1", b"+OK\r\nUSER\r\n.\r\n" * 500):
            with self.subTest(extra=extra[:10]):
                self.attempt(self.injects(extra))

    def test_clear_text_in_place_of_tls(self):
        """Missing or refused STLS: the login fails, never continues in
        clear."""
        def goes_on(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(b"+OK\r\nSTLS\r\n.\r\n")
            c.expect("STLS")
            c.send("+OK begin")
            c.octets()  # the ClientHello
            c.send("+OK ready")
            c.drain()
        self.attempt(goes_on)

    def test_clear_greeting_on_an_implicit_leg(self):
        """TLS at once if `implicit`."""
        for greeting in ("+OK ready", "+OK [XCLIENT] ready", "-ERR no"):
            with self.subTest(greeting=greeting):
                b = self.attempt(says(greeting), tls="implicit",
                                 forwarding="xclient")
                self.assertTrue(bytes(b.connection().clear)
                                .startswith(b"\x16\x03"))

    def test_clear_knowledge_is_forgotten(self):
        """What CAPA said before TLS is forgotten."""
        def script(c):
            c.send("+OK ready")
            c.expect("CAPA")
            # Before TLS it claims what it does not have afterwards.
            c.raw(b"+OK\r\nSTLS\r\nSASL PLAIN XOAUTH2\r\nUTF8\r\n.\r\n")
            c.expect("STLS")
            c.send("+OK")
            c.starttls()
            c.expect("CAPA")
            c.raw(b"+OK\r\nUSER\r\n.\r\n")
            c.expect("USER ")
            c.send("+OK")
            c.expect("PASS ")
            c.send("+OK logged in")
            c.drain()
        b = self.backend(script)
        self.serve_here({"x": b.destination()})
        c = self.connect()
        self.assertReply(c.cmd("UTF8"), "+OK")
        self.assertLoggedIn("x", c=c)

    def test_no_proxy_header_where_none_is_expected(self):
        """any byte that the backend sends beyond the expected reply ...
        aborts the leg (desynchronised, or a PROXY header that its port did
        not expect: the log says so)"""
        def refuses(c):
            c.send("+OK ready")
            # What a server says to a PROXY header: it is two or three lines
            # of nonsense to it.
            c.octets()
            c.raw(b"-ERR Unknown command.\r\n" * 2)
            c.drain()
        b = self.backend(refuses, tls="plain")
        self.serve_here({"x": b.destination(forwarding="proxy")})
        c, reply = self.log_in("x")
        self.assertTempFailAndOpen(c, reply)
        self.daemon.wait_log("(?i)proxy")


class Desynchronised(Leg):
    """Servers that say more, or less, than one reply per command."""

    def fails(self, script, tls="implicit", timeout="2s", **keys):
        b = self.backend(script, tls=tls)
        self.serve_here({"x": b.destination(**keys)}, over={"server": {
            "backend_timeout": timeout, "backend_auth_timeout": timeout,
            "backend_connect_retries": 0}})
        c, reply = self.log_in("x")
        self.assertTempFailAndOpen(c, reply)
        for seen in b.connections:
            seen.wait_finished()
        b.errors.clear()
        return b

    def test_greetings(self):
        """greeting must be `+OK`"""
        for raw in (b"-ERR down\r\n", b"* OK IMAP ready\r\n", b"+OKAY\r\n",
                    b"220 smtp\r\n", b"+ \r\n", b"\r\n", b"+OK a\0b\r\n",
                    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xfe\r\n",
                    b"-ERR [SYS/PERM] gone\r\n"):
            with self.subTest(raw=raw):
                def script(c, raw=raw):
                    c.raw(raw)
                    c.drain()
                b = self.fails(script)
                self.assertNoCredentials(b.connection().inside)

    def test_greeting_that_says_not_now(self):
        """`[IN-USE]`, `[LOGIN-DELAY]`, `[SYS/...]` from the backend: ...
        neither a failed attempt nor a health failure"""
        b = self.backend(says("-ERR [SYS/TEMP] Too many connections"),
                         tls="implicit")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 1, "host_down_min_clients": 0,
            "host_down_cooldown": "1h"}})
        for _ in range(3):
            self.assertTempFail(self.log_in("x")[1])
        self.assertEqual(len(b.connections), 3)
        self.assertEqual({r["failure"] for r in self.daemon.records()
                          if "failure" in r}, {"busy"})

    def test_thinks_and_hangs_up(self):
        """host_down_threshold: consecutive failures that mark a destination
        down (CONFIG): also those of a backend that takes its time"""
        def thinks(c, _mech, _frame):
            if not sick.is_set():
                return "+OK logged in"
            over.wait(1.3)
            c.reset()
            return None
        over, sick = threading.Event(), threading.Event()
        self.addCleanup(over.set)
        b = self.backend(Pop3(check=thinks), tls="implicit")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 3, "host_down_min_clients": 2,
            "host_down_cooldown": "1h", "backend_connect_retries": 0}})
        for n in (61, 62, 63, 64):
            self.assertLoggedIn("x", source=f"127.0.0.{n}").close()
        sick.set()
        replies = []

        def one(n):
            replies.append(self.log_in("x", source=f"127.0.0.{n}")[1])
        for group in ((61, 62), (63, 64)):
            threads = [threading.Thread(target=one, args=(n,))
                       for n in group]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        self.assertTempFail(self.log_in("x")[1])
        for reply in replies:
            self.assertTempFail(reply)
        self.assertEqual(
            [r["failure"] for r in self.daemon.records() if "user" in r
             and "failure" in r], ["dropped"] * 4 + ["down"])
        b.errors.clear()

    def test_retry_is_inside_backend_timeout(self):
        """backend_connect_retries: extra attempts after a retryable failure,
        inside backend_timeout (CONFIG): also after one that came when the
        login was being answered"""
        def closes_at_user(c):
            if len(b.connections) > 1:
                silent(c)
                return
            c.send("+OK ready")
            for line in iter(c.line, None):
                if line.startswith("USER"):
                    return
                c.send("-ERR what?")
        b = self.backend(closes_at_user, tls="implicit")
        self.serve_here({"x": b.destination(auth="user")}, over={"server": {
            "backend_timeout": "1s", "backend_auth_timeout": "8s",
            "backend_connect_retries": 1}})
        start = time.monotonic()
        _, reply = self.log_in("x")
        self.assertTempFail(reply)
        self.assertEqual(len(b.connections), 2)
        self.assertLess(time.monotonic() - start, 6)

    def test_too_much(self):
        """any byte that the backend sends beyond the expected reply, before
        the relay, aborts the leg"""
        def behind_greeting(c):
            c.raw(b"+OK ready\r\n+OK more\r\n")
            c.drain()

        def behind_capa(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(b"+OK\r\nUSER\r\n.\r\n+OK\r\n")
            c.drain()

        def behind_user(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(b"+OK\r\nUSER\r\n.\r\n")
            c.expect("USER")
            c.raw(b"+OK\r\n+OK logged in\r\n")
            c.drain()

        def behind_xclient(c):
            c.send("+OK [XCLIENT] ready")
            c.expect("XCLIENT")
            c.raw(b"+OK\r\n+OK\r\n")
            c.drain()
        for script in (behind_greeting, behind_capa, behind_xclient):
            with self.subTest(script=script.__name__):
                b = self.fails(script, forwarding="xclient")
                self.assertNoCredentials(
                    b.connection().inside.replace(b"XCLIENT ", b""))
        b = self.fails(behind_user)
        self.assertNotIn(b"PASS", b.connection().inside)

    def test_endless(self):
        """or speaking nonsense"""
        def greeting(c):
            while True:
                c.raw(b"+OK " + b"x" * 65536)

        def capa(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.send("+OK")
            while True:
                c.raw(b"X-LINE\r\n" * 4096)

        def capa_line(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.send("+OK")
            while True:
                c.raw(b"x" * 65536)

        def login(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.expect("AUTH PLAIN")
            while True:
                c.raw(b"+OK " + b"x" * 65536)
        for script in (greeting, capa, capa_line, login):
            with self.subTest(script=script.__name__):
                self.fails(script, timeout="5s")

    def test_nonsense_to_the_login(self):
        """mailferry never answers `+OK` to a login that no backend
        accepted."""
        for raw in (b"hello\r\n", b"+OKAY\r\n", b"OK\r\n", b"\r\n",
                    b"+ again\r\n", b"+OK\0\r\n", b"2 OK\r\n"):
            with self.subTest(raw=raw):
                def check(c):
                    c.send("+OK ready")
                    c.expect("CAPA")
                    c.raw(INLINE_CAPA)
                    c.expect("AUTH PLAIN")
                    c.raw(raw)
                    c.drain()
                self.fails(check)

    def test_silence(self):
        """Backend unreachable, down, full, timed out, or speaking
        nonsense: `-ERR [SYS/TEMP] ...`"""
        def no_capa(c):
            c.send("+OK ready")
            c.drain()

        def no_answer(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.drain()
        for script in (silent, no_capa, no_answer, says("+OK [XCLIENT] r")):
            for tls in ("implicit", "plain"):
                with self.subTest(script=script.__name__, tls=tls):
                    start = time.monotonic()
                    self.fails(script, tls, "500ms", forwarding="xclient")
                    self.assertGreaterEqual(time.monotonic() - start, 0.4)
                    self.assertLess(time.monotonic() - start, 4)

    def test_closes(self):
        """Backend unreachable, down, full, timed out, or speaking
        nonsense"""
        def at_once(c):
            c.close()

        def resets(c):
            c.reset()

        def half_a_greeting(c):
            c.raw(b"+OK rea")
            c.close()

        def after_capa(c):
            c.send("+OK ready")
            c.line()
            c.close()

        def after_login(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.expect("AUTH PLAIN")
            c.reset()

        def half_a_reply(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.expect("AUTH PLAIN")
            c.raw(b"+OK logged i")
            c.close()
        for script in (at_once, resets, half_a_greeting, after_capa,
                       after_login, half_a_reply):
            for tls in ("implicit", "plain"):
                with self.subTest(script=script.__name__, tls=tls):
                    self.fails(script, tls)

    def test_nobody_listens(self):
        """Backend unreachable ... no failed attempt counted, and the client
        may try again"""
        dead = Backend(certs(), tls="implicit")
        dead.close()
        good = self.backend(Pop3(check=remember), tls="implicit")
        d = self.mailferry(
            {"pop3": {"tls": "implicit", "max_auth_attempts": 1}},
            {"dead": dead.destination(), "good": good.destination(),
             "name": good.destination(host="does-not-exist.invalid")},
            {"good@example.com": "good", "name@example.com": "name"})
        self.daemon = d
        c = self.connect()
        for name in ("dead", "name", "dead"):
            self.assertTempFailAndOpen(c, self.log_in(name, c=c)[1])
        self.assertLoggedIn("good", c=c)

    def test_xclient_refused(self):
        """needs `+OK`"""
        def script(c):
            c.send("+OK [XCLIENT] ready")
            c.expect("XCLIENT")
            c.send("-ERR Invalid parameters")
            c.drain()
        b = self.fails(script, forwarding="xclient")
        self.assertEqual(len(b.connections), 1)
        self.assertEqual(len(b.connection().commands), 1)

    def test_xclient_not_offered(self):
        """Not advertised in the greeting: skipped, and the log does not claim
        it"""
        b = self.backend(Pop3(check=remember, xclient="+OK not trusted"),
                         tls="implicit")
        self.serve_here({"x": b.destination(forwarding="xclient")})
        self.assertLoggedIn("x")
        self.assertNotIn("XCLIENT", " ".join(b.commands()))

    def test_xclient_as_a_word(self):
        """` [XCLIENT]` or a word `XCLIENT` in it is remembered"""
        for greeting, offered in (("+OK XCLIENT ready", True),
                                  ("+OK ready [XCLIENT]", True),
                                  ("+OK ready XCLIENT", True),
                                  ("+OK XCLIENTELE", False),
                                  ("+OK NOXCLIENT here", False)):
            with self.subTest(greeting=greeting):
                b = self.backend(Pop3(check=remember, greeting=greeting,
                                      xclient="+OK"), tls="implicit")
                self.serve_here({"x": b.destination(forwarding="xclient")})
                self.assertLoggedIn("x")
                self.assertEqual(
                    any(x.startswith("XCLIENT") for x in b.commands()),
                    offered)


class Replay(Leg):
    def serve_script(self, script, tls="implicit", server=None, **keys):
        b = self.backend(script, tls=tls)
        self.serve_here({"x": b.destination(**keys)},
                        over={"server": server or {}})
        return b

    def verbs(self, connection):
        return [line.split(" ")[0] for line in connection.commands]

    def test_capa_is_learnt_once(self):
        """the backend's capabilities are learnt by a CAPA on the secured leg,
        ... once per destination and remembered for a while"""
        for tls, first in (("implicit", ["CAPA", "AUTH"]),
                           ("starttls", ["CAPA", "STLS", "CAPA", "AUTH"])):
            b = self.serve_script(Pop3(check=remember), tls)
            for _ in range(6):
                self.assertLoggedIn("x").close()
            self.assertEqual(self.verbs(b.connection(0)), first)
            later = ["AUTH"] if tls == "implicit" else ["CAPA", "STLS", "AUTH"]
            for seen in b.connections[1:]:
                self.assertEqual(self.verbs(seen), later)

    def test_capa_without_sasl_is_learnt_once(self):
        """once per destination and remembered for a while"""
        for capa in (("TOP",), None):
            b = self.serve_script(Pop3(check=remember, sasl=None, capa=capa))
            for _ in range(3):
                self.assertLoggedIn("x").close()
            self.assertEqual([self.verbs(c) for c in b.connections], [
                ["CAPA", "USER", "PASS"], ["USER", "PASS"],
                ["USER", "PASS"]])

    def test_plain_or_user(self):
        """Password logins: `AUTH PLAIN` when the backend offers it, else
        `USER`/`PASS` (`auth: auto`; ...). Capability lines may carry
        arguments (`UTF8 USER`), be malformed, or CAPA may be `-ERR`
        altogether: then USER/PASS."""
        cases = [
            (Pop3(check=remember), "auto", "PLAIN"),
            (Pop3(check=remember, sasl="LOGIN XOAUTH2"), "auto", "USER"),
            (Pop3(check=remember, sasl=None), "auto", "USER"),
            (Pop3(check=remember, capa=None), "auto", "USER"),
            (Pop3(check=remember, sasl=None, user=True, capa=[
                "UTF8 USER", "EXPIRENEVER", "=", "LOGIN-DELAY 10", "sasl "
            ]), "auto", "USER"),
            (Pop3(check=remember, capa=["sasl plain"], sasl=None), "user",
             "USER"),
            (Pop3(check=remember), "user", "USER"),
            (Pop3(check=remember), "sasl", "PLAIN"),
            (Pop3(check=remember, sasl="PLAIN", user=False), "auto", "PLAIN"),
            (Pop3(check=remember, sasl="XPLAIN PLAINX"), "auto", "USER"),
        ]
        for script, auth, want in cases:
            for mech in ("USER", "LOGIN", "PLAIN"):
                with self.subTest(sasl=script.sasl, capa=script.capa,
                                  auth=auth, mech=mech):
                    b = self.serve_script(script, auth=auth)
                    self.assertLoggedIn("x", mech)
                    user = "x@example.com"
                    self.assertEqual(
                        b.connection().login,
                        ("USER", (user, SECRET)) if want == "USER" else
                        ("PLAIN", f"\0{user}\0{SECRET}".encode()))

    def test_capabilities_in_lower_case(self):
        """`AUTH PLAIN` when the backend offers it"""
        b = self.serve_script(
            Pop3(check=remember, capa=["sasl login plain"], sasl="PLAIN"))
        self.assertLoggedIn("x")
        self.assertEqual(b.connection().login[0], "PLAIN")

    def test_bare_replies(self):
        """greeting must be `+OK`"""
        def script(c):
            c.raw(b"+OK\r\n")
            while True:
                verb = c.line().split(" ")[0]
                if verb in ("USER", "PASS"):
                    c.raw(b"+OK\r\n")
                else:
                    c.raw(b"-ERR\r\n")
        self.serve_script(script)
        _, reply = self.log_in("x")
        self.assertEqual(reply, "+OK")

    def test_prompt_of_one_octet(self):
        """is sent after the backend's `+` prompt instead"""
        b = self.serve_script(Pop3(check=remember, prompt="+"))
        self.assertLoggedIn("x", "PLAIN", password="p" * 300)
        self.assertIn("AUTH PLAIN", b.connection().commands)

    def test_long_initial_response(self):
        """An initial response that would make the command line longer than
        255 octets is sent after the backend's `+` prompt instead"""
        b = self.serve_script(Pop3(check=remember))
        empty = len("\0x@example.com\0")
        for size, inline in ((180 - empty, True), (181 - empty, False),
                             (1000, False)):
            with self.subTest(size=size):
                password = "p" * size
                frame = plain("x@example.com", password)
                self.assertLoggedIn("x", "PLAIN", password=password)
                line = [x for x in b.connection().commands
                        if x.startswith("AUTH")][0]
                self.assertLessEqual(len(line) + 2, 255)
                self.assertEqual(line, f"AUTH PLAIN {frame}" if inline
                                 else "AUTH PLAIN")
        for mech in ("XOAUTH2", "OAUTHBEARER"):
            token = "t" * 20000
            self.assertLoggedIn("x", mech, password=token)
            self.assertIn(f"AUTH {mech}", b.connection().commands)
            self.assertIn(token.encode(), b.connection().login[1])

    def test_refused_inline_closing(self):
        """a backend that refuses an inline one is asked again in two steps,
        on a fresh connection if it closed, and remembered so"""
        for mech in ("USER", "XOAUTH2", "OAUTHBEARER"):
            with self.subTest(mech=mech):
                # The other connection is no retry of a failure.
                b = self.serve_script(Pop3(check=remember, inline=False),
                                      server={"backend_connect_retries": 0})
                self.assertLoggedIn("x", mech)
                name = "PLAIN" if mech == "USER" else mech
                lines = [x for x in b.commands() if x.startswith("AUTH")]
                self.assertEqual(len(lines), 2)
                self.assertTrue(lines[0].startswith(f"AUTH {name} "))
                self.assertEqual(lines[1], f"AUTH {name}")
                self.assertEqual(len(b.connections), 2)
                self.assertLoggedIn("x", mech)
                lines = [x for x in b.commands() if x.startswith("AUTH")]
                self.assertEqual(lines[2:], [f"AUTH {name}"])

    def test_refused_inline_staying(self):
        """is asked again in two steps"""
        class Stays(Pop3):
            def _auth(self, c, arg):
                if " " in arg:
                    c.send("-ERR bad parameters")
                    return False
                return super()._auth(c, arg)
        for mech in ("USER", "XOAUTH2"):
            b = self.serve_script(Stays(check=remember))
            self.assertLoggedIn("x", mech)
            self.assertEqual(len(b.connections), 1)

    def test_refused_inline_and_listening(self):
        """After a refused step a server may still wait for a response
        (send `*`) (GOTCHAS)"""
        class Prompts(Pop3):
            """Ignores the initial response and asks for it."""

            def _auth(self, c, arg):
                return super()._auth(c, arg.split(" ")[0])
        b = self.serve_script(Prompts(check=remember))
        self.assertLoggedIn("x", "PLAIN")
        self.assertLoggedIn("x", "XOAUTH2")
        self.assertEqual([c.login[0] for c in b.connections],
                         ["PLAIN", "XOAUTH2"])

    def test_offered_and_refused(self):
        """Learn what a destination takes ... and correct it by one fallback
        ... M365 `PLAIN XOAUTH2` (PLAIN refused) (GOTCHAS)"""
        class Refuses(Pop3):
            def _auth(self, c, arg):
                c.send("-ERR unknown command")
                return False
        b = self.serve_script(Refuses(check=remember))
        for _ in range(2):
            self.assertLoggedIn("x")
            self.assertEqual(b.connection().login[0], "USER")

    def test_a_judged_password_is_not_repeated(self):
        """never after an answer that speaks of the password (`[AUTH]`): that
        would count twice against the user"""
        for mech in MECHANISMS:
            with self.subTest(mech=mech):
                b = self.serve_script(Pop3(check=refuse(AUTH_ERR)))
                _, reply = self.log_in("x", mech)
                self.assertEqual(reply, AUTH_ERR)
                tried = [x for x in b.commands()
                         if x.startswith(("AUTH", "PASS"))]
                self.assertEqual(len(tried), 1)

    def test_a_lost_answer_is_not_repeated(self):
        """A login whose answer never came is not repeated: the maildrop may
        be locked by it."""
        def dies(c):
            c.send("+OK ready")
            line = c.line()
            if line == "CAPA":
                c.raw(INLINE_CAPA)
                line = c.line()
            if line.startswith("AUTH"):
                c.close()
        for mech in ("USER", "XOAUTH2"):
            with self.subTest(mech=mech):
                b = self.serve_script(dies)
                c, reply = self.log_in("x", mech)
                self.assertTempFailAndOpen(c, reply)
                tried = [x for x in b.commands() if x.startswith("AUTH")]
                self.assertEqual(len(tried), 1)

    def test_user_and_pass_refuse_control_characters(self):
        """USER/PASS replay refuses control characters in either, and an
        authzid that differs from the authcid (`-ERR [AUTH]`)"""
        b = self.serve_script(Pop3(check=remember), auth="user")
        user = "x@example.com"
        for password in ("a\rb", "a\nb", "a\r\nDELE 1", "a\1", "\x7f", "\t"):
            with self.subTest(password=password):
                c = self.connect()
                self.assertReply(c.cmd("AUTH PLAIN " + plain(user, password)),
                                 "-ERR [AUTH]")
        self.assertReply(self.connect().cmd("AUTH PLAIN " + plain(
            "admin", SECRET, user)), "-ERR [AUTH]")
        for line in b.commands():
            self.assertNotRegex(line, "USER|PASS|DELE")
        c = self.connect()
        self.assertReply(c.cmd("AUTH PLAIN " + plain(user, SECRET, user)),
                         "+OK")

    def test_authzid_by_sasl(self):
        """sent on: PLAIN: authzid if given"""
        b = self.serve_script(Pop3(check=remember))
        c = self.connect()
        self.assertReply(c.cmd("AUTH PLAIN " + plain(
            "admin", SECRET, "x@example.com")), "+OK")
        self.assertEqual(b.connection().login, (
            "PLAIN", b"x@example.com\0admin\0" + SECRET.encode()))

    def test_eight_bit_and_spaces_by_user(self):
        """USER/PASS replay refuses control characters [and nothing else]"""
        b = self.serve_script(Pop3(check=remember), auth="user")
        for password in ("  two  words ", "p\xe4ss\xff", "%s%n", "\"", "+OK"):
            self.assertLoggedIn("x", password=password)
            self.assertEqual(b.connection().login,
                             ("USER", ("x@example.com", password)))

    def test_utf8(self):
        """`UTF8` if the client asked and the backend offers it."""
        for capa, asked, want in ((["UTF8"], True, True),
                                  (["UTF8 USER"], True, True),
                                  (["UTF8"], False, False),
                                  (["TOP"], True, False)):
            with self.subTest(capa=capa, asked=asked):
                b = self.serve_script(Pop3(check=remember, capa=capa))
                for _ in range(2):  # learning, and remembering
                    c = self.connect()
                    if asked:
                        self.assertReply(c.cmd("UTF8"), "+OK")
                    self.assertLoggedIn("x", c=c)
                    lines = b.connection().commands
                    self.assertEqual("UTF8" in lines, want)
                    if want:
                        self.assertLess(
                            lines.index("UTF8"),
                            next(i for i, x in enumerate(lines)
                                 if x.startswith("AUTH")))

    def test_utf8_before_stls_is_forgotten(self):
        """all that the client sent before the handshake is thrown away"""
        b = self.backend(Pop3(check=remember, capa=["UTF8"]), tls="implicit")
        d = self.mailferry({"pop3": {"tls": "starttls"}},
                           {"x": b.destination()})
        c = self.client(d)
        self.assertReply(c.cmd("UTF8"), "+OK")
        c.stls()
        self.assertLoggedIn("x", c=c)
        self.assertNotIn("UTF8", b.commands())


    def test_what_was_learnt_can_be_wrong(self):
        """remembered for a while, dropped when a login shows them wrong"""
        b = self.serve_script(Pop3(check=remember))
        self.assertLoggedIn("x")
        # It was replaced by one that has no AUTH at all.
        b.script = Pop3(check=remember, sasl=None)
        b.forget()
        c, reply = self.log_in("x")
        if not reply.startswith("+OK"):
            _, reply = self.log_in("x", c=c)
        self.assertReply(reply, "+OK")
        self.assertEqual(b.connection().login[0], "USER")


class Challenges(Leg):
    CHALLENGE = b'{"status":"invalid_token"}'

    def serve_refusing(self, **keys):
        b = self.backend(Pop3(check=refuse(AUTH_ERR[:-1] + " here."),
                              challenge=self.CHALLENGE), tls="implicit")
        self.serve_here({"x": b.destination(**keys)})
        return b

    def test_relayed(self):
        """A challenge from the backend in a bearer exchange (the RFC 7628
        error document) is relayed to the client and its answer back"""
        for mech, dummy in (("OAUTHBEARER", "AQ=="), ("XOAUTH2", "")):
            for mode in (LINES, BYTES):
                with self.subTest(mech=mech, mode=mode):
                    b = self.serve_refusing()
                    c = self.connect(mode=mode)
                    _, reply = self.log_in("x", mech, c=c)
                    self.assertEqual(
                        reply, "+ " + b64(self.CHALLENGE))
                    self.assertEqual(c.cmd(dummy), AUTH_ERR[:-1] + " here.")
                    self.assertEqual(b.connection().dummy, dummy)
                    self.assertReply(c.cmd("NOOP"), "+OK")

    def test_cancelled(self):
        """its answer back"""
        b = self.serve_refusing()
        c, reply = self.log_in("x", "XOAUTH2")
        self.assertReply(reply, "+")
        self.assertReply(c.cmd("*"), "-ERR")
        self.assertReply(c.cmd("NOOP"), "+OK")
        b.connection().wait_finished()
        self.assertIn(getattr(b.connection(), "dummy", "*"), ("*", ""))
        b.errors.clear()

    def test_pipelined_answer(self):
        """Same input, same behaviour, however it is cut into packets"""
        b = self.serve_refusing()
        c = self.connect(mode=TOGETHER)
        c.play(f"""
            C: AUTH OAUTHBEARER {oauthbearer("x@example.com", SECRET)}
            S= + {b64(self.CHALLENGE)}
            C: AQ==
            S: -ERR [AUTH]
            C: NOOP
            S: +OK""")
        self.assertEqual(b.connection().dummy, "AQ==")

    def test_backend_that_leaves_behind_its_challenge(self):
        """A challenge from the backend in a bearer exchange ... is the
        verdict"""
        challenge = "+ " + b64(self.CHALLENGE)

        def leaves(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.expect("AUTH XOAUTH2 ")
            c.send(challenge)
            c.close()
        b = self.backend(leaves, tls="implicit")
        self.serve_here({"x": b.destination()})
        c, reply = self.log_in("x", "XOAUTH2")
        self.assertEqual(reply, challenge)
        self.assertReply(c.cmd(""), "-ERR [AUTH]")
        self.assertReply(c.cmd("NOOP"), "+OK")

    def test_speaks_behind_its_challenge(self):
        """any byte that the backend sends beyond the expected reply, before
        the relay, aborts the leg"""
        def speaks(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.expect("AUTH XOAUTH2 ")
            c.raw(b"+ e30=\r\n-ERR [AUTH] no\r\n")
            c.drain()
        b = self.backend(speaks, tls="implicit")
        self.serve_here({"x": b.destination()})
        c, reply = self.log_in("x", "XOAUTH2")
        self.assertTempFailAndOpen(c, reply)

    def test_place_is_given_back_at_once(self):
        """mailferry answers the backend's exchange itself at once, keeps its
        `-ERR`, gives the backend connection back, counts and delays the failed
        attempt, relays the challenge to the client"""
        b = self.serve_refusing(max_connecting=1)
        waiting = []
        for _ in range(4):
            start = self.daemon.mark()
            c, reply = self.log_in("x", "OAUTHBEARER")
            self.assertEqual(reply, "+ " + b64(self.CHALLENGE))
            waiting.append(c)
            b.connection().wait_finished()
            self.daemon.wait_record(
                lambda r: r.get("failure") == "rejected", "rejected", start)
        for c in waiting:
            self.assertEqual(c.cmd("not base64"), AUTH_ERR[:-1] + " here.")
            self.assertReply(c.cmd("NOOP"), "+OK")

    def test_hidden(self):
        """with `hide_auth_errors`, or where the client cannot answer,
        mailferry closes the exchange itself"""
        b = self.serve_refusing(hide_auth_errors=True)
        for mech in ("OAUTHBEARER", "XOAUTH2"):
            c, reply = self.log_in("x", mech)
            self.assertEqual(reply, AUTH_ERR)
            self.assertReply(c.cmd("NOOP"), "+OK")
            b.connection().wait_finished()


class Results(Leg):
    def serve_answer(self, line, attempts=1, **keys):
        b = self.backend(Pop3(check=refuse(line)), tls="implicit")
        good = self.backend(Pop3(check=remember), tls="implicit")
        self.daemon = self.mailferry(
            {"pop3": {"tls": "implicit", "max_auth_attempts": attempts}},
            {"x": b.destination(**keys), "good": good.destination()},
            {"good@example.com": "good"})
        return b

    def test_ok_as_it_is(self):
        """`+OK`: the line goes to the client as it is"""
        for line in ("+OK", "+OK Logged in.", "+OK  two  spaces ", "+OK \xe9"):
            b = self.backend(Pop3(check=refuse(line)), tls="implicit")
            self.serve_here({"x": b.destination()})
            self.assertEqual(self.log_in("x")[1], line)

    def test_refusal_as_it_is(self):
        """`-ERR`: the line goes to the client as it is ..., the backend
        connection is closed, the client stays in the dialogue"""
        for line in ("-ERR [AUTH] no such user \xe9", "-ERR", "-ERR  no ",
                     "-ERR [SYS/PERM] gone", "-ERR [X-ODD] what"):
            with self.subTest(line=line):
                b = self.serve_answer(line, attempts=5)
                c, reply = self.log_in("x")
                self.assertEqual(reply, line)
                b.connection().wait_finished()
                self.assertReply(c.cmd("CAPA"), "+OK")

    def test_hide_auth_errors(self):
        """(`hide_auth_errors`: `-ERR [AUTH] Authentication failed.`)"""
        for line in ("-ERR [AUTH] no such user", "-ERR unknown user bob",
                     "-ERR"):
            for mech in MECHANISMS:
                with self.subTest(line=line, mech=mech):
                    self.serve_answer(line, 5, hide_auth_errors=True)
                    self.assertEqual(self.log_in("x", mech)[1], AUTH_ERR)

    def test_states_of_the_maildrop(self):
        """`[IN-USE]`, `[LOGIN-DELAY]`, `[SYS/...]` from the backend: relayed,
        neither a failed attempt nor a health failure"""
        for hide in (False, True):
            for line in ("-ERR [IN-USE] maildrop locked",
                         "-ERR [LOGIN-DELAY] wait", "-ERR [SYS/TEMP] later",
                         "-ERR [SYS/PERM] never", "-ERR [in-use] locked"):
                with self.subTest(line=line, hide=hide):
                    self.serve_answer(line, 1, hide_auth_errors=hide)
                    c = self.connect()
                    for _ in range(3):
                        self.assertEqual(self.log_in("x", c=c)[1], line)
                    self.assertLoggedIn("good", c=c)

    def test_a_refusal_counts(self):
        """The reply to the `max_auth_attempts`-th refused login is sent, then
        the connection is closed."""
        self.serve_answer("-ERR [AUTH] no", 1)
        c, reply = self.log_in("x")
        self.assertEqual(reply, "-ERR [AUTH] no")
        c.closed()

    def test_referral(self):
        """`[REFERRAL/...]` is never followed"""
        other = self.backend(Pop3(check=remember), tls="plain")
        self.serve_answer("-ERR [REFERRAL/pop://x@127.0.0.1:"
                          f"{other.port}] go there", 5)
        c, reply = self.log_in("x")
        self.assertReply(reply, "-ERR")
        self.assertReply(c.cmd("NOOP"), "+OK")
        self.assertEqual(other.connections, [])


class Connecting(Leg):
    def test_source_ips_in_turn(self):
        """source_ips: local addresses to connect from, taken in turn within
        the family (CONFIG)"""
        b = self.backend(Pop3(check=remember), tls="implicit")
        self.serve_here({"x": b.destination(
            source_ips=["127.0.0.21", "127.0.0.22", "::1"])},
            over={"server": {"threads": 1}})
        for _ in range(4):
            self.assertLoggedIn("x")
        self.assertEqual(sorted(c.peer[0] for c in b.connections),
                         ["127.0.0.21"] * 2 + ["127.0.0.22"] * 2)

    def test_each_address_in_turn(self):
        """resolve, connect (each address in turn, ...)"""
        b = self.backend(Pop3(check=remember), tls="implicit")
        # ::1 first or last, nobody listens there.
        self.serve_here({"x": b.destination(host="localhost")})
        self.assertLoggedIn("x")

    def test_retries(self):
        """retried as configured"""
        def closes(c):
            c.close()
        for retries, ok in ((0, False), (1, True)):
            with self.subTest(retries=retries):
                b = self.backend([closes, Pop3(check=remember)],
                                 tls="implicit")
                self.serve_here({"x": b.destination()}, over={"server": {
                    "backend_connect_retries": retries}})
                _, reply = self.log_in("x")
                if ok:
                    self.assertEqual(reply, "+OK logged in")
                else:
                    self.assertTempFail(reply)

    def test_max_connecting(self):
        """max_connecting: backend connections not yet logged in ...; further
        logins wait their turn at the gate, for queue_timeout (CONFIG)"""
        go = threading.Event()

        def waits(c):
            c.wait(go)
            Pop3(check=remember)(c)
        b = self.backend(waits, tls="implicit")
        self.serve_here({"x": b.destination(max_connecting=1)}, over={
            "server": {"queue_timeout": "300ms", "backend_timeout": "60s"}})
        first = self.connect()
        first.cmd("USER x@example.com")
        first.send("PASS y")
        b.connection(0)
        second, reply = self.log_in("x")
        self.assertTempFailAndOpen(second, reply)
        go.set()
        self.assertReply(first.line(), "+OK")
        # A session that has logged in does not count any more.
        self.assertLoggedIn("x", c=second)

    def test_max_sessions(self):
        """max_sessions: 0 = no limit (CONFIG); full: `-ERR [SYS/TEMP] ...`"""
        b = self.backend(Pop3(check=remember), tls="implicit")
        self.serve_here({"x": b.destination(max_sessions=2)})
        held = [self.assertLoggedIn("x") for _ in range(2)]
        third, reply = self.log_in("x")
        self.assertTempFailAndOpen(third, reply)
        held[0].play("C: QUIT\nS: +OK\nCLOSED")
        wait_until(lambda: self.log_in("x", c=third)[1].startswith("+OK"),
                   "a place is free")

    def test_host_down(self):
        """host_down_threshold: consecutive failures that mark a destination
        down; host_down_cooldown: then one connection may probe it (CONFIG)"""
        broken = threading.Event()
        broken.set()

        def script(c):
            if broken.is_set():
                c.close()
            else:
                Pop3(check=remember)(c)
        b = self.backend(script, tls="plain")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 3, "host_down_min_clients": 2,
            "host_down_cooldown": "1s", "backend_connect_retries": 0}})
        clients = [self.connect(source=f"127.0.0.{n}") for n in (31, 32)]
        for i in range(3):
            self.assertTempFail(self.log_in("x", c=clients[i % 2])[1])
        self.assertEqual(len(b.connections), 3)
        self.assertTempFail(self.log_in("x", c=clients[0])[1])
        self.assertEqual(len(b.connections), 3, "down, and yet asked")
        broken.clear()
        wait_until(lambda: self.log_in("x", c=clients[0])[1]
                   .startswith("+OK"), "the probe finds it up")

    def test_one_client_marks_nothing_down(self):
        """host_down_min_clients: failures after connect count only over this
        many client addresses (CONFIG)"""
        broken = threading.Event()
        broken.set()

        def script(c):
            if broken.is_set():
                c.close()
            else:
                Pop3(check=remember)(c)
        b = self.backend(script, tls="plain")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 2, "host_down_min_clients": 2,
            "host_down_cooldown": "1h", "backend_connect_retries": 0}})
        for _ in range(6):
            self.assertTempFail(self.log_in("x", source="127.0.0.31")[1])
        broken.clear()
        self.assertLoggedIn("x", source="127.0.0.31")
        self.assertLoggedIn("x", source="127.0.0.32")

    def test_a_backend_that_drops_logins_goes_down(self):
        """failures after it (TLS, greeting, early close) are attributed to
        the client address, and mark the destination down only when they span
        host_down_min_clients addresses: a greeting is no sign of health"""
        def hangs_up(end):
            def script(c):
                c.send("+OK ready")
                c.expect("USER")
                c.send("+OK")
                c.expect("PASS")
                end(c)
            return script
        server = {"host_down_threshold": 3, "host_down_min_clients": 3,
                  "host_down_cooldown": "1s", "backend_connect_retries": 0}
        sources = [f"127.0.0.{n}" for n in (31, 32, 33)]
        for end in (lambda c: c.close(), lambda c: c.reset()):
            for tls in ("plain", "implicit"):
                with self.subTest(tls=tls):
                    script = 3 * [Pop3(check=remember)] + 3 * [
                        hangs_up(end)] + [hangs_up(end), Pop3(check=remember)]
                    b = self.backend(script, tls=tls)
                    dest = b.destination()
                    dest["protocol"]["pop3"]["auth"] = "user"
                    self.serve_here({"x": dest}, over={"server": server})
                    # They are no strangers: what they cause counts.
                    for source in sources:
                        self.assertLoggedIn("x", source=source).close()

                    def login(number):
                        # Afresh: a connection's deferred logins take longer
                        # each time.
                        return self.log_in("x", c=self.connect(
                            source=sources[number]))[1]
                    for number in range(3):
                        self.assertTempFail(login(number))
                    self.assertEqual(len(b.connections), 6)
                    # Down now: nobody is sent there.
                    self.assertTempFail(login(0))
                    self.assertEqual(len(b.connections), 6)
                    # The first probe is dropped as well: still down, and
                    # not asked again for this client.
                    wait_until(lambda: login(1) and
                               len(b.connections) == 7, "a probe")
                    self.assertTempFail(login(1))
                    self.assertEqual(len(b.connections), 7)
                    wait_until(lambda: login(0)
                               .startswith("+OK"), "a probe that succeeds")

    def test_strangers_logins_mark_nothing_down(self):
        """Only what a backend does before it has credentials, or to every
        client, blames its host: a long password that makes it hang up does
        not, from however many addresses"""
        def chokes(c, _mech, frame):
            if len(str(frame)) > 150:
                c.reset()
            return "+OK logged in"
        for auth in ("user", "sasl"):
            with self.subTest(auth=auth):
                b = self.backend(Pop3(check=chokes), tls="implicit")
                dest = b.destination()
                dest["protocol"]["pop3"]["auth"] = auth
                self.serve_here({"x": dest}, over={"server": {
                    "host_down_threshold": 2, "host_down_min_clients": 2,
                    "host_down_cooldown": "1h"}})
                for n in range(11):
                    _, reply = self.log_in("x", password="p" * 190,
                                           source=f"127.0.0.{31 + n % 4}")
                    self.assertTempFail(reply)
                self.assertLoggedIn("x")
                b.errors.clear()

    def test_full_is_not_down(self):
        """"full" is not "down" while sessions of ours live there: a server
        with a limit per address hangs up on us and on nobody else"""
        alive = []

        def limited(c):
            if len(alive) >= 2:
                c.close()
                return
            alive.append(c)
            try:
                Pop3(check=remember)(c)
            finally:
                alive.remove(c)
        b = self.backend(limited, tls="plain")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 2, "host_down_min_clients": 2,
            "host_down_cooldown": "1h", "backend_connect_retries": 0}})
        held = [self.assertLoggedIn("x") for _ in range(2)]
        for n in range(6):
            self.assertTempFail(
                self.log_in("x", source=f"127.0.0.{31 + n}")[1])
        held[0].play("C: QUIT\nS: +OK\nCLOSED")
        wait_until(lambda: len(alive) < 2, "a place at the server")
        self.assertLoggedIn("x", source="127.0.0.31")

    def test_a_probe_that_is_worked_on_opens_the_gate(self):
        """after the cooldown exactly one connection probes ...; success
        closes it: a maildrop that takes its time does not hold the others"""
        go = threading.Event()

        def slow(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.expect("AUTH PLAIN")
            c.wait(go)
            c.send("+OK at last")
            c.drain()
        b = self.backend([lambda c: c.close(), slow, Pop3(check=remember)],
                         tls="plain")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 1, "host_down_min_clients": 0,
            "host_down_cooldown": "100ms", "backend_connect_retries": 0}})
        self.assertTempFail(self.log_in("x")[1])
        probe = self.connect()
        answers = []

        def insist():
            while not answers or not answers[-1].startswith("+OK"):
                answers.append(self.log_in("x", c=probe)[1])
        thread = threading.Thread(target=insist, daemon=True)
        thread.start()
        wait_until(lambda: len(b.connections) == 2, "a probe")
        other = self.connect()
        wait_until(lambda: self.log_in("x", c=other)[1].startswith("+OK"),
                   "the others are let in")
        self.assertTrue(thread.is_alive(), "the probe has its answer")
        go.set()
        thread.join(DEADLINE)
        self.assertEqual(answers[-1], "+OK at last")

    def test_slow_logins_mark_nothing_down(self):
        """backend_auth_timeout: for its answer to the login (big or locked
        maildrops are slow); no health failure (CONFIG)"""
        def silent_login(c):
            c.send("+OK ready")
            c.expect("CAPA")
            c.raw(INLINE_CAPA)
            c.drain()
        server = {"backend_timeout": "400ms", "backend_auth_timeout": "400ms",
                  "backend_connect_retries": 0, "host_down_threshold": 1,
                  "host_down_min_clients": 0, "host_down_cooldown": "1h"}
        b = self.backend([silent_login, Pop3(check=remember)],
                         tls="implicit")
        self.serve_here({"x": b.destination()}, over={"server": server})
        self.assertTempFail(self.log_in("x")[1])
        self.assertLoggedIn("x")
        # While one that does not get as far as that is down.
        b = self.backend([silent, Pop3(check=remember)], tls="implicit")
        self.serve_here({"x": b.destination()}, over={"server": server})
        self.assertTempFail(self.log_in("x")[1])
        self.assertTempFail(self.log_in("x")[1])
        self.assertEqual(len(b.connections), 1)

    def test_refused_logins_mark_nothing_down(self):
        """neither a failed attempt nor a health failure"""
        b = self.backend(Pop3(check=refuse("-ERR [IN-USE] locked")),
                         tls="implicit")
        self.serve_here({"x": b.destination()}, over={"server": {
            "host_down_threshold": 1, "host_down_min_clients": 0,
            "host_down_cooldown": "1h"}})
        for source in ("127.0.0.31", "127.0.0.32", "127.0.0.33"):
            self.assertReply(self.log_in("x", source=source)[1],
                             "-ERR [IN-USE]")

    def test_sessions_are_resumed(self):
        """Backend leg: ... sessions are resumed (DESIGN)"""
        for tls in ("implicit", "starttls"):
            for maximum in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
                with self.subTest(tls=tls, maximum=maximum):
                    b = self.backend(Pop3(check=remember), tls=tls,
                                     maximum=maximum)
                    self.serve_here({"x": b.destination()},
                                    over={"server": {"threads": 1}})
                    for _ in range(5):
                        c = self.assertLoggedIn("x")
                        c.play("C: QUIT\nS: +OK\nCLOSED")
                    self.assertEqual([c.reused for c in b.connections],
                                     [False] + [True] * 4)

    def test_resumption_is_not_shared(self):
        """the verified identity is part of what is cached (DESIGN)"""
        b = self.backend(Pop3(check=remember), tls="implicit")
        other = b.destination(tls_server_name="wrong.example.com")
        anyone = b.destination(tls_allow_invalid_certs=True)
        self.serve_here({"x": b.destination(), "other": other,
                         "any": anyone}, over={"server": {"threads": 1}})
        for name in ("x", "any"):
            self.assertLoggedIn(name).play("C: QUIT\nS: +OK\nCLOSED")
        self.assertTempFail(self.log_in("other")[1])
        self.assertFalse(b.connections[1].reused)

    def test_own_listener_behind_a_name(self):
        """loop check; resolve, connect"""
        port = free_port()
        self.daemon = self.mailferry(
            {"pop3": {"tls": "implicit", "bind": [f"127.0.0.1:{port}"]}},
            {"x": {"host": "localhost", "forwarding": "none",
                   "tls_ca_file": certs().ca, "protocol": {"pop3": {
                       "port": port, "tls": "implicit"}}}})
        mark = self.daemon.mark()
        c, reply = self.log_in("x")
        self.assertTempFailAndOpen(c, reply)
        # Nobody was connected to but by our one client.
        self.leave()
        self.daemon.wait_record(lambda r: "bytes_to_client" in r,
                                "the session's end", mark)
        self.assertEqual(len({r["session"] for r in self.daemon.records(mark)
                              if "session" in r}), 1)

    def test_client_leaves_while_connecting(self):
        """RST means gone."""
        b = self.backend(silent, tls="plain")
        self.serve_here({"x": b.destination()}, over={"server": {
            "backend_timeout": "60s"}})
        c = self.connect()
        c.cmd("USER x@example.com")
        c.send(f"PASS {SECRET}")
        b.connection(0)
        c.reset()
        b.connection(0).wait_finished()
        self.assertNoCredentials(b.connection(0).clear)


class Chain(Leg):
    """One mailferry behind another, and rings of them."""

    def hop(self, port, to, forwarding, **listener):
        """One that listens at port and leads to the port `to`, in clear."""
        return self.mailferry(
            {"front": {"tls": "plain", "bind": [f"127.0.0.1:{port}"],
                       **listener},
             "tls": {"tls": "implicit"}},
            {"next": {"host": "127.0.0.1", "forwarding": forwarding,
                      "source_ips": [TRUSTED], "allow_plaintext_auth": True,
                      "protocol": {"pop3": {"port": to, "tls": "plain"}}}},
            over={"capabilities": {"pop3": {
                "allow_plain_auth_without_tls": True}}})

    def trusting(self, forwarding):
        if forwarding == "xclient":
            return {"xclient_trusted": [TRUSTED]}
        return {"proxy_protocol": "optional", "proxy_trusted": [TRUSTED],
                "proxy_header_timeout": "100ms"}

    def test_two_in_a_row(self):
        """TTL is one less than what came in, `proxy_ttl` at the first hop"""
        for forwarding in ("xclient", "proxy"):
            with self.subTest(forwarding=forwarding):
                xclient = forwarding == "xclient"
                b = self.backend(Pop3(
                    check=remember, xclient="+OK", greeting="+OK [XCLIENT] x"
                    if xclient else "+OK"), tls="plain", proxy=not xclient)
                middle, front = free_port(), free_port()
                self.hop(middle, b.port, forwarding,
                         **self.trusting(forwarding))
                self.daemon = self.hop(front, middle, forwarding)
                c = self.client(self.daemon.port_of("tls"), tls="implicit",
                                source="127.0.0.3")
                self.assertLoggedIn("x", c=c)
                seen = b.connection()
                if xclient:
                    line = [x for x in seen.commands if "XCLIENT" in x][0]
                    words = dict(w.split("=", 1) for w in line.split()[1:])
                    told = (words["ADDR"], int(words["PORT"]),
                            int(words["TTL"]), words["SESSION"])
                    self.assertEqual(words["CLIENT-TRANSPORT"], "TLS")
                else:
                    told = seen.proxy.src + (
                        seen.proxy.tlvs[0xe1][0],
                        seen.proxy.tlvs[0xe0].decode())
                session = self.daemon.wait_record(
                    lambda r: r["message"] == "routed", "routed")["session"]
                self.assertEqual(told, c.local[:2] + (6, session))
                c.play("C: QUIT\nS: +OK\nCLOSED")

    def test_ring(self):
        """at 1 the login is refused as a loop ... so that a ring of proxies
        is noticed in this mode too"""
        for forwarding in ("xclient", "proxy"):
            with self.subTest(forwarding=forwarding):
                one, two = free_port(), free_port()
                a = self.hop(one, two, forwarding,
                             **self.trusting(forwarding))
                b = self.hop(two, one, forwarding,
                             **self.trusting(forwarding))
                self.daemon = a
                c = self.client(a.port_of("tls"), tls="implicit")
                _, reply = self.log_in("x", c=c)
                self.assertTempFail(reply)
                self.assertReply(c.cmd("NOOP"), "+OK")
                c.close()
                # proxy_ttl, 7, is how many logins it cost.
                for d in (a, b):
                    d.wait_record(lambda r: "bytes_to_client" in r, "the end")
                routed = [r for d in (a, b) for r in d.records()
                          if r["message"] == "routed"]
                self.assertLessEqual(len(routed), 8)


if __name__ == "__main__":
    unittest.main()
