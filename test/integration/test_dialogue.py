"""The dialogue up to the login (PROTOCOL, sections 1 to 3), which mailferry
conducts alone. Each docstring quotes the sentence that its test proves.

Dialogues run three times: a command a write, an octet a write, and all
commands in one write; the replies have to be the same.
"""

import select
import socket
import ssl
import struct
import threading
import time
import unittest
import warnings

from harness.case import Case, Pop3, certs, context
from harness.client import (
    BYTES, LINES, MODES, Closed, OctetTls, b64, oauthbearer, plain, xoauth2)
from harness.mailferry import sanitized
from harness.ports import free_port, has_ipv6
from harness.proc import DEADLINE, rss, run, wait_until

ALICE = "alice@example.com"
ADVERTISED = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
MECHANISMS = ["PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"]
TRUSTED = "127.0.0.5"  # believed for XCLIENT and PROXY
STRANGER = "127.0.0.6"

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2(source, source_port=4321, command=b"\x21", tlvs=b""):
    body = (socket.inet_aton(source) + socket.inet_aton("203.0.113.1")
            + struct.pack("!HH", source_port, 110) + tlvs)
    return V2 + command + b"\x11" + struct.pack("!H", len(body)) + body


def right_password(c, mech, frame):
    """A backend that knows one password and one token."""
    if b"secret" in (frame[1].encode("latin-1") if mech == "USER" else frame):
        return "+OK logged in"
    return "-ERR [AUTH] Authentication failed."


class Dialogue(Case):
    """Plays scripts in all cuts."""

    def dialogue(self, port, script, modes=MODES, **keys):
        """Plays it in each mode and compares; returns the replies."""
        first = None
        for mode in modes:
            with self.subTest(mode=mode):
                c = self.client(port, mode=mode, **keys)
                replies = c.play(script)
                c.close()
                if first is None:
                    first = replies
                self.assertEqual(replies, first)
        return first


def remembering(c, mech, frame):
    c.login = (mech, frame)
    return right_password(c, mech, frame)


class Gated(Dialogue):
    """Listeners as they come: no credential on an unencrypted connection."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backend_ = cls.shared_backend(Pop3(check=remembering))
        cls.daemon = cls.shared_mailferry(
            {"starttls": {"tls": "starttls"},
             "implicit": {"tls": "implicit"},
             "plain": {"tls": "plain"},
             "between": {"tls": "plain", "xclient_trusted": [TRUSTED]}},
            {"main": cls.backend_.destination()})
        cls.starttls = cls.daemon.port_of("starttls")
        cls.implicit = cls.daemon.port_of("implicit")
        cls.plain = cls.daemon.port_of("plain")

    def setUp(self):
        super().setUp()
        self.backend_.forget()

    # The greeting

    def test_greeting(self):
        """Greeting. `+OK <banner>`"""
        for port, tls in ((self.starttls, "plain"), (self.plain, "plain"),
                          (self.implicit, "implicit")):
            c = self.client(port, tls=tls)
            self.assertEqual(c.greeting, "+OK mailferry ready")

    def test_greeting_waits_for_tls(self):
        """Neither sends anything to the client early."""
        c = self.client(self.implicit, greeting=False)
        self.assertTrue(c.is_quiet(0.3))
        c.handshake()
        self.assertReply(c.line(), "+OK")

    # CAPA

    def assertCapabilities(self, lines, permitted, stls):
        """`USER` and `SASL ...` as permitted now, `STLS` only on a `starttls`
        listener before the upgrade, then `advertise`, then
        `IMPLEMENTATION`."""
        head = len(lines) - len(ADVERTISED) - 1
        self.assertEqual(lines[head:],
                         ADVERTISED + ["IMPLEMENTATION mailferry"])
        want = {"USER", "SASL " + " ".join(MECHANISMS)} if permitted else set()
        if stls:
            want.add("STLS")
        self.assertEqual(set(lines[:head]), want)
        self.assertEqual(len(lines[:head]), len(want))

    def test_capa_before_stls(self):
        """`STLS` only on a `starttls` listener before the upgrade; [without
        TLS] not advertised in CAPA or AUTH either."""
        replies = self.dialogue(self.starttls, """
            C: CAPA
            S: +OK
            S*""")
        self.assertCapabilities(replies[1], permitted=False, stls=True)

    def test_capa_after_stls(self):
        """`USER` and `SASL ...` as permitted now"""
        replies = self.dialogue(self.starttls, """
            C: STLS
            S: +OK
            TLS
            C: CAPA
            S: +OK
            S*""", modes=(LINES, BYTES))
        self.assertCapabilities(replies[2], permitted=True, stls=False)

    def test_capa_implicit(self):
        """`STLS` only on a `starttls` listener"""
        replies = self.dialogue(self.implicit, "C: CAPA\nS: +OK\nS*",
                                tls="implicit")
        self.assertCapabilities(replies[1], permitted=True, stls=False)

    def test_capa_plain(self):
        """Cleartext gate: USER/PASS, PLAIN and LOGIN need TLS on the client
        leg ... OAUTHBEARER and XOAUTH2 ... are neither offered nor taken."""
        replies = self.dialogue(self.plain, "C: CAPA\nS: +OK\nS*")
        self.assertCapabilities(replies[1], permitted=False, stls=False)

    # The gate

    def test_cleartext_gate(self):
        """Refused: `-ERR` and nothing held"""
        frame = plain(ALICE, "secret")
        for port in (self.plain, self.starttls):
            self.dialogue(port, f"""
                C: USER {ALICE}
                S: -ERR
                C: PASS secret
                S: -ERR
                C: AUTH PLAIN {frame}
                S: -ERR
                C: AUTH PLAIN
                S: -ERR
                C: AUTH LOGIN
                S: -ERR
                C: AUTH XOAUTH2 {xoauth2(ALICE, "secret")}
                S: -ERR
                C: AUTH OAUTHBEARER {oauthbearer(ALICE, "secret")}
                S: -ERR
                C: NOOP
                S: +OK""", source="127.0.0.3")
        self.assertEqual(self.backend_.connections, [])

    def test_auth_alone_lists_what_is_permitted(self):
        """`AUTH`: `+OK`, the permitted mechanisms one a line, `.`"""
        replies = self.dialogue(self.plain, "C: AUTH\nS: +OK\nS*")
        self.assertEqual(replies[1], [])
        replies = self.dialogue(self.implicit, "C: AUTH\nS: +OK\nS*",
                                tls="implicit")
        self.assertEqual(replies[1], MECHANISMS)

    # STLS

    def test_stls_where_it_may_not_be(self):
        """`-ERR` if already encrypted or the listener is not `starttls`"""
        self.dialogue(self.plain, "C: STLS\nS: -ERR\nC: NOOP\nS: +OK")
        self.dialogue(self.implicit, "C: STLS\nS: -ERR\nC: NOOP\nS: +OK",
                      tls="implicit")
        self.dialogue(self.starttls, """
            C: STLS
            S: +OK
            TLS
            C: STLS
            S: -ERR
            C: NOOP
            S: +OK""", modes=(LINES, BYTES))

    def test_stls_with_input_behind_it(self):
        """A client that has bytes waiting behind `STLS` in the same read is
        refused and closed."""
        for behind in (b"CAPA\r\n", b"C", b"USER a\r\nPASS b\r\n",
                       b"STLS\r\n", b"\r\n", b"\n", b"\0",
                       b"NOOP\r\n" * 10000):
            with self.subTest(behind=behind[:20]):
                c = self.client(self.starttls)
                c.raw(b"STLS\r\n" + behind)
                self.assertReply(c.line(), "-ERR")
                c.closed()

    def test_stls_with_input_behind_it_and_a_handshake(self):
        """all that the client sent before the handshake is thrown away"""
        c = self.client(self.starttls)
        c.raw(b"STLS\r\nNOOP\r\n")
        c.line()
        with self.assertRaises((ssl.SSLError, OSError)):
            c.handshake()
            # Whatever the handshake became: no reply to the NOOP may come.
            self.fail(f"the handshake worked, and then {c.rest()!r}")

    def test_stls_with_late_clear_input(self):
        """all that the client sent before the handshake is thrown away"""
        for behind in (b"CAPA\r\n", b"USER a\r\nPASS b\r\nQUIT\r\n"):
            with self.subTest(behind=behind):
                c = self.client(self.starttls)
                self.assertReply(c.cmd("STLS"), "+OK")
                c.raw(behind)
                rest = c.rest()
                self.assertNotIn(b"+OK", rest)
                self.assertNotIn(b"-ERR", rest)
        c = self.client(self.starttls, mode=BYTES)
        try:
            c.raw(b"STLS\r\nCAPA\r\n")
        except OSError:
            pass
        self.assertNotIn(b"SASL", c.rest())

    # Logins

    def test_user_and_pass(self):
        """with a held USER: the login."""
        self.dialogue(self.implicit, f"""
            C: USER {ALICE}
            S: +OK
            C: PASS secret
            S= +OK logged in
            C: QUIT
            S: +OK
            CLOSED""", tls="implicit")

    def test_login_after_stls(self):
        """`+OK`, then the handshake."""
        self.dialogue(self.starttls, f"""
            C: STLS
            S: +OK
            TLS
            C: USER {ALICE}
            S: +OK
            C: PASS secret
            S= +OK logged in
            C: QUIT
            S: +OK
            CLOSED""")

    def test_between_proxies(self):
        """From `xclient_trusted` peers CLIENT-TRANSPORT is believed: `TLS`
        opens the cleartext gate on a plain leg between proxies"""
        port = self.daemon.port_of("between")
        self.dialogue(port, f"""
            C: USER {ALICE}
            S: -ERR
            C: XCLIENT ADDR=192.0.2.7 PORT=99 CLIENT-TRANSPORT=TLS
            S: +OK
            C: CAPA
            S: +OK
            S*
            C: USER {ALICE}
            S: +OK
            C: PASS secret
            S: +OK""", source=TRUSTED)
        self.dialogue(port, f"""
            C: XCLIENT ADDR=192.0.2.7 PORT=99 CLIENT-TRANSPORT=insecure
            S: +OK
            C: USER {ALICE}
            S: -ERR""", source=TRUSTED)

    # TLS

    def test_alpn(self):
        """ALPN `pop3` is selected; a client that offers ALPN without it is
        refused with the alert `no_application_protocol`; one that offers
        none is fine."""
        for tls, port in (("implicit", self.implicit),
                          ("starttls", self.starttls)):
            for offered, selected in ((["pop3"], "pop3"), (None, None),
                                      (["http/1.1", "pop3"], "pop3")):
                with self.subTest(tls=tls, offered=offered):
                    c = self.client(port, tls=tls,
                                    ctx=context(certs().ca, alpn=offered))
                    self.assertEqual(c.sock.selected_alpn_protocol(), selected)
                    self.assertReply(c.cmd("NOOP"), "+OK")
            for offered in (["http/1.1"], ["imap"], ["pop"], ["POP3"],
                            ["pop3x", "h2"]):
                with self.subTest(tls=tls, offered=offered):
                    # Python 3.11 has no name for this alert: openssl has.
                    args = ["openssl", "s_client", "-connect",
                            f"127.0.0.1:{port}", "-alpn", ",".join(offered)]
                    if tls == "starttls":
                        args += ["-starttls", "pop3"]
                    done = run(args, timeout=10)
                    self.assertNotEqual(done.returncode, 0)
                    self.assertIn(b"SSL alert number 120", done.stderr)

    def test_old_tls_gets_an_alert(self):
        """A failed handshake sends its alert before the close."""
        for tls, port in (("implicit", self.implicit),
                          ("starttls", self.starttls)):
            with self.subTest(tls=tls):
                with self.assertRaises(ssl.SSLError) as caught:
                    self.client(port, tls=tls, ctx=old_context())
                self.assertIn("ALERT_PROTOCOL_VERSION",
                              caught.exception.reason)

    def test_tls_one_octet_at_a_time(self):
        """Same input, same behaviour, however it is cut into packets: every
        dialogue works one byte at a time"""
        for tls, port in (("implicit", self.implicit),
                          ("starttls", self.starttls)):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                with self.subTest(tls=tls, version=version):
                    ctx = context(certs().ca, minimum=version,
                                  maximum=version)
                    c = self.client(port, greeting=tls == "starttls")
                    if tls == "starttls":
                        self.assertReply(c.cmd("STLS"), "+OK")
                    c.sock = OctetTls(c.sock, ctx, "mail.example.com")
                    if tls == "implicit":
                        self.assertReply(c.line(), "+OK")
                    c.play(f"""
                        C: USER {ALICE}
                        S: +OK
                        C: PASS secret
                        S: +OK logged in
                        C: NOOP
                        S: +OK noop
                        C: QUIT
                        S: +OK bye""")

    def test_tls_12_and_13(self):
        """TLS 1.2+"""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            c = self.client(self.implicit, tls="implicit", ctx=context(
                certs().ca, minimum=version, maximum=version))
            self.assertReply(c.cmd("NOOP"), "+OK")

    def test_odd_server_names(self):
        """SNI is length- and character-checked before it is used anywhere."""
        ctx = context()
        for sni in ("a" * 63 + ".example", "x_y.example.com", None,
                    ".".join(["a" * 60] * 4)):
            with self.subTest(sni=sni):
                c = self.client(self.implicit, tls="implicit", ctx=ctx,
                                sni=sni)
                self.assertReply(c.cmd("NOOP"), "+OK")


def old_context(version=ssl.TLSVersion.TLSv1_1):
    ctx = context()
    ctx.set_ciphers("ALL:@SECLEVEL=0")
    # Deprecated is the very point.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ctx.minimum_version = ssl.TLSVersion.TLSv1
        ctx.maximum_version = version
    return ctx


class RecordTls(OctetTls):
    """A TLS client that decides which octets share a record, and which
    records a segment."""

    def _flush(self):
        data = self.outgoing.read()
        if data:
            self.sock.sendall(data)

    def records(self, *parts):
        """Each part is a record, and all leave in one write."""
        for part in parts:
            self.tls.write(part)
        self._flush()

    def rest(self):
        """All that comes up to the end."""
        data = b""
        while True:
            try:
                more = self.recv(65536)
            except (ssl.SSLError, ConnectionError):
                return data  # no close_notify, or a reset behind it
            if not more:
                return data
            data += more


class Records(Dialogue):
    """Same input, same behaviour, however it is cut into TLS records."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backend_ = cls.shared_backend()
        cls.daemon = cls.shared_mailferry(
            {"implicit": {"tls": "implicit", "max_bad_commands": 1}},
            {"main": cls.backend_.destination()})

    def open(self, version):
        sock = socket.create_connection(
            ("127.0.0.1", self.daemon.port_of("implicit")), DEADLINE)
        self.addCleanup(sock.close)
        tls = RecordTls(sock, context(certs().ca, minimum=version,
                                      maximum=version), "localhost")
        self.assertTrue(tls.recv(4096).startswith(b"+OK"))
        return tls

    def test_last_reply_behind_another(self):
        """QUIT: `+OK`, close: also where the reply before it was written a
        moment ago"""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for parts, last in (
                    ((b"NOOP\r\n", b"QUIT\r\n"), b"+OK\r\n+OK\r\n"),
                    ((b"NOOP\r\n", b"BAD\r\n", b"BAD\r\n"),
                     b"-ERR Too many bad commands.\r\n"),
                    ((b"NOOP\r\n", b"x" * 600), b"too long.\r\n")):
                for _ in range(5):
                    with self.subTest(version=version.name, parts=parts):
                        tls = self.open(version)
                        tls.records(*parts)
                        self.assertTrue(tls.rest().endswith(last))

    def test_replies_behind_an_end(self):
        """what is buffered is delivered before a close"""
        tls = self.open(ssl.TLSVersion.TLSv1_3)
        tls.records(*[b"NOOP\r\n"] * 1000)
        tls.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(tls.rest(), b"+OK\r\n" * 1000)

    def test_commands_cut_anywhere(self):
        line = b"CAPA\r\nQUIT\r\n"
        whole = self.open(ssl.TLSVersion.TLSv1_3)
        whole.records(line)
        want = whole.rest()
        for at in range(1, len(line)):
            with self.subTest(at=at):
                tls = self.open(ssl.TLSVersion.TLSv1_3)
                tls.records(line[:at], line[at:])
                self.assertEqual(tls.rest(), want)


class Open(Dialogue):
    """allow_plain_auth_without_tls, so that what is not about TLS can be
    played in clear, in every cut."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backend_ = cls.shared_backend(Pop3(check=remembering), proxy=True)
        cls.daemon = cls.shared_mailferry(
            {"open": {"tls": "plain", "max_bad_commands": 100,
                      "max_auth_attempts": 50},
             "starttls": {"tls": "starttls"},
             "strict": {"tls": "plain", "max_bad_commands": 2,
                        "max_auth_attempts": 2},
             "short": {"tls": "plain", "preauth_timeout": "1s"},
             "patient": {"tls": "plain", "preauth_timeout": "1s",
                         "max_auth_attempts": 100},
             "short-tls": {"tls": "implicit", "preauth_timeout": "1s"},
             "one": {"tls": "plain", "max_connections": 1},
             "relayed": {"tls": "starttls", "xclient_trusted": [TRUSTED]},
             "xclient": {"tls": "plain", "xclient_trusted": [
                 TRUSTED + "/32", "192.0.2.0/24"],
                 "proxy_protocol": "off"},
             "required": {"tls": "plain", "proxy_protocol": "required",
                          "proxy_trusted": [TRUSTED],
                          "proxy_header_timeout": "500ms",
                          "xclient_trusted": ["192.0.2.0/24"]},
             "optional": {"tls": "plain", "proxy_protocol": "optional",
                          "proxy_trusted": [TRUSTED],
                          "proxy_header_timeout": "300ms"},
             "required-tls": {"tls": "implicit",
                              "proxy_protocol": "required",
                              "proxy_trusted": [TRUSTED]}},
            {"main": cls.backend_.destination()},
            over={"capabilities": {"pop3": {
                "allow_plain_auth_without_tls": True,
                "banner": "hello there"}}})
        cls.port = cls.daemon.port_of("open")

    def setUp(self):
        super().setUp()
        self.backend_.forget()

    def logins(self):
        return [c.login for c in self.backend_.connections
                if hasattr(c, "login")]

    # Commands without credentials

    def test_banner(self):
        """`+OK <banner>`"""
        self.assertEqual(self.client(self.port).greeting, "+OK hello there")

    def test_capa_with_the_override(self):
        """unless `allow_plain_auth_without_tls`"""
        lines = self.dialogue(self.port, "C: CAPA\nS: +OK\nS*")[1]
        self.assertIn("USER", lines)
        self.assertIn("SASL " + " ".join(MECHANISMS), lines)
        self.assertNotIn("STLS", lines)
        lines = self.dialogue(self.daemon.port_of("starttls"),
                              "C: CAPA\nS: +OK\nS*")[1]
        self.assertIn("USER", lines)
        self.assertIn("STLS", lines)

    def test_simple_commands(self):
        """answered by mailferry alone, case-insensitive, one reply per
        command, pipelining allowed"""
        self.dialogue(self.port, """
            C: NOOP
            S: +OK
            C: noop
            S: +OK
            C: UTF8
            S: +OK
            C: cApA
            S: +OK
            S*
            C: auth
            S: +OK
            S*
            C: APOP alice c4c9334bac560ecc979e58001b3e22fb
            S: -ERR
            C: quit
            S: +OK
            CLOSED""")
        self.assertEqual(self.backend_.connections, [])

    def test_commands_out_of_place(self):
        """transaction commands (`STAT`, `LIST`, ...), unknown, empty: `-ERR`,
        connection stays"""
        script = "".join(f"C: {command}\nS: -ERR\n" for command in (
            "STAT", "LIST", "LIST 1", "RETR 1", "DELE 1", "RSET", "TOP 1 0",
            "UIDL", "UIDL 1", "LAST", "LANG", "LANG de", "XYZZY", "",
            "+OK", "-ERR", ".", "USERX a", "XCLIENT ADDR=192.0.2.1",
            "PASS secret", "CAPABILITY", "\x7f\x80\xff"))
        self.dialogue(self.port, script + "C: NOOP\nS: +OK")

    def test_replies_echo_nothing(self):
        """no reply ever echoes what the client sent"""
        c = self.client(self.port)
        for command in ("MARKER", "MARKER x", "APOP MARKER x", "AUTH MARKER",
                        "AUTH MARKER MARKER", "USER MARKER", "STAT MARKER",
                        "XCLIENT MARKER", "AUTH PLAIN MARKER",
                        "USER \"MARKER", "PASS MARKER", "LANG MARKER"):
            self.assertNotIn("MARKER", c.cmd(command))

    def test_replies_to_one_who_has_closed_his_side(self):
        """answered by mailferry alone, ... one reply per command"""
        starttls = self.daemon.port_of("starttls")
        for port, tls in ((self.port, "plain"), (starttls, "starttls")):
            for _ in range(10):
                c = self.client(port, tls=tls)
                c.raw(b"NOOP\r\nCAPA\r\nXYZZY\r\nNOOP\r\n")
                c.half_close()
                lines = c.rest().split(b"\r\n")
                self.assertEqual(lines[0][:3], b"+OK")
                self.assertEqual(lines[-4], b".")
                self.assertEqual(lines[-3][:4], b"-ERR")
                self.assertEqual(lines[-2][:3], b"+OK")

    def test_http_closes(self):
        """A line that starts with an HTTP method (`GET `, `POST `, ...)
        closes at once"""
        for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"):
            for mode in (LINES, BYTES):
                with self.subTest(method=method, mode=mode):
                    c = self.client(self.port, mode=mode)
                    try:
                        c.raw(f"{method} /marker HTTP/1.1\r\n"
                              "Host: marker\r\n\r\nNOOP\r\n".encode())
                    except OSError:
                        pass  # closed already: one octet at a time
                    rest = c.rest()
                    self.assertNotIn(b"+OK", rest)
                    self.assertNotIn(b"marker", rest)
                    self.assertLessEqual(rest.count(b"\r\n"), 1)

    def test_max_bad_commands(self):
        """At most `max_bad_commands` unknown or misplaced commands; the next
        one closes."""
        port = self.daemon.port_of("strict")
        for mode in MODES:
            for bad in (("XYZZY", "STAT", "PASS x"), ("", "", "")):
                with self.subTest(mode=mode, bad=bad):
                    c = self.client(port, mode=mode)
                    c.play(f"""
                        C: {bad[0]}
                        S: -ERR
                        C: NOOP
                        S: +OK
                        C: {bad[1]}
                        S: -ERR
                        C: NOOP
                        S: +OK""")
                    c.send(bad[2])
                    self.assertRegex(c.rest(), rb"\A(-ERR[^\n]*\r\n)?\Z")

    # Lines

    def test_line_of_512_octets(self):
        """a command line over 512 octets (USER/PASS/others) ... is answered
        `-ERR` once and the connection closed ... Octet limits count the
        CRLF."""
        fits = "USER " + "a" * 505
        for mode in MODES:
            with self.subTest(mode=mode):
                c = self.client(self.port, mode=mode)
                self.assertReply(c.cmd(fits), "+OK")
                self.assertReply(c.cmd("NOOP"), "+OK")
                c.close()
        for data in (fits.encode() + b"a\r\n", b"A" * 4000,
                     b"NOOP\r\nPASS " + b"x" * 600 + b"\r\nNOOP\r\n"):
            for mode in (LINES, BYTES):
                with self.subTest(length=len(data), mode=mode):
                    c = self.client(self.port, mode=mode)
                    try:
                        c.raw(data)
                    except OSError:
                        pass
                    rest = c.rest()
                    if data.startswith(b"NOOP"):
                        ok, rest = rest.split(b"\r\n", 1)
                        self.assertTrue(ok.startswith(b"+OK"))
                    self.assertRegex(rest, rb"\A-ERR[^\n]*\r\n\Z")

    def test_512_octets_with_bare_lf(self):
        """Octet limits count the CRLF. ... Bare LF ends a line too."""
        c = self.client(self.port)
        c.raw(b"USER " + b"a" * 506 + b"\n")
        self.assertReply(c.line(), "+OK")

    def test_auth_line_of_64k(self):
        """64 KiB (AUTH and its responses)"""
        # Neither of the two that fit is base64; they are refused, no more.
        inline = b"AUTH PLAIN " + b"A" * (65536 - 13) + b"\r\n"
        response = b"A" * (65536 - 2) + b"\r\n"
        for prompt, data in ((False, inline), (True, response)):
            with self.subTest(prompt=prompt):
                c = self.client(self.port)
                if prompt:
                    self.assertEqual(c.cmd("AUTH PLAIN"), "+ ")
                c.raw(data)
                self.assertReply(c.line(), "-ERR")
                self.assertReply(c.cmd("NOOP"), "+OK")

                c = self.client(self.port)
                if prompt:
                    self.assertEqual(c.cmd("AUTH PLAIN"), "+ ")
                c.raw(b"A" + data if prompt else
                      data.replace(b" A", b" AA"))
                self.assertReply(c.line(), "-ERR")
                c.closed()

                c = self.client(self.port)
                if prompt:
                    self.assertEqual(c.cmd("AUTH PLAIN"), "+ ")
                try:
                    c.raw((b"" if prompt else b"AUTH PLAIN ")
                          + b"A" * 300000)
                except OSError:
                    pass
                self.assertReply(c.line(), "-ERR")
                c.closed()

    def test_nul(self):
        """NUL is never accepted."""
        for data in (b"NO\0OP\r\n", b"NOOP\0\r\n", b"\0NOOP\r\n",
                     b"USER ali\0ce\r\n", b"AUTH PLAIN \0AAA\r\n"):
            for mode in (LINES, BYTES):
                with self.subTest(data=data, mode=mode):
                    c = self.client(self.port, mode=mode)
                    try:
                        c.raw(data)
                    except OSError:
                        pass
                    self.assertReply(c.line(), "-ERR")
        c = self.client(self.port)
        c.raw(b"USER alice\r\n")
        c.line()
        c.raw(b"PASS sec\0ret\r\n")
        self.assertReply(c.line(), "-ERR")
        c = self.client(self.port)
        self.assertEqual(c.cmd("AUTH PLAIN"), "+ ")
        c.raw(b"\0\r\n")
        self.assertReply(c.line(), "-ERR")
        self.assertEqual(self.backend_.connections, [])

    def test_bare_lf(self):
        """Bare LF ends a line too."""
        for mode in (LINES, BYTES):
            c = self.client(self.port, mode=mode)
            c.raw(f"NOOP\nUSER {ALICE}\nPASS secret\nQUIT\n".encode())
            for _ in range(4):
                self.assertReply(c.line(), "+OK")
        self.assertEqual([name for name, _ in self.logins()],
                         ["PLAIN", "PLAIN"])
        c = self.client(self.port)
        c.raw(b"AUTH PLAIN\n" + plain(ALICE, "secret").encode() + b"\n")
        self.assertEqual(c.line(), "+ ")
        self.assertReply(c.line(), "+OK")

    # USER and PASS

    def test_user_without_an_argument(self):
        """`-ERR` if ... no argument."""
        self.dialogue(self.port, """
            C: USER
            S: -ERR
            C: PASS secret
            S: -ERR
            C: NOOP
            S: +OK""")
        c = self.client(self.port)
        self.assertReply(c.cmd("USER "), "-ERR")

    def test_second_user_replaces_the_first(self):
        """A second USER replaces the first"""
        self.dialogue(self.port, """
            C: USER bob
            S: +OK
            C: NOOP
            S: +OK
            C: user alice
            S: +OK
            C: pass secret
            S: +OK""")
        self.assertEqual(self.logins(),
                         [("PLAIN", b"\0alice\0secret")] * 3)

    def test_pass_takes_everything_behind_one_space(self):
        """Everything after the one space is the password, spaces included."""
        for word in (" secret", "secret ", "  a secret  b  ", "secr\xe9secret",
                     "\"secret\"", "%secret%n", "{b}secret", "secret\t"):
            self.backend_.forget()
            with self.subTest(word=word):
                for mode in MODES:
                    c = self.client(self.port, mode=mode)
                    c.raw(f"USER {ALICE}\r\nPASS {word}\r\n".encode("latin-1"))
                    self.assertReply(c.line(), "+OK")
                    self.assertReply(c.line(), "+OK")
                    c.close()
                want = f"\0{ALICE}\0{word}".encode("latin-1")
                self.assertEqual(self.logins(), [("PLAIN", want)] * 3)

    def test_pass_without_user(self):
        """Without: `-ERR`"""
        self.dialogue(self.port, "C: PASS secret\nS: -ERR\nC: NOOP\nS: +OK")
        self.assertEqual(self.backend_.connections, [])

    def test_stls_forgets_user(self):
        """buffered pipelined input and a held USER included"""
        self.dialogue(self.daemon.port_of("starttls"), """
            C: USER alice
            S: +OK
            C: STLS
            S: +OK
            TLS
            C: PASS secret
            S: -ERR
            C: NOOP
            S: +OK""", modes=(LINES, BYTES))
        self.assertEqual(self.backend_.connections, [])

    # AUTH

    def assertLoggedIn(self, script, mech, frame, modes=MODES):
        self.backend_.forget()
        self.dialogue(self.port, script, modes=modes)
        self.assertEqual(self.logins(), [(mech, frame)] * len(modes))

    def test_auth_inline(self):
        """`ir` inline, or `=` for empty, or after a `+ ` prompt"""
        frame = plain(ALICE, "secret")
        self.assertLoggedIn(f"C: AUTH PLAIN {frame}\nS: +OK",
                            "PLAIN", b"\0alice@example.com\0secret")
        self.assertLoggedIn(f"C: auth plain {frame}\nS: +OK",
                            "PLAIN", b"\0alice@example.com\0secret")
        x = f"user={ALICE}\1auth=Bearer secret-token\1\1".encode()
        self.assertLoggedIn(f"C: AUTH XOAUTH2 {b64(x)}\nS: +OK", "XOAUTH2", x)
        o = f"n,a={ALICE},\1auth=Bearer secret-token\1\1".encode()
        self.assertLoggedIn(f"C: AUTH OAUTHBEARER {b64(o)}\nS: +OK",
                            "OAUTHBEARER", o)

    def test_auth_prompted(self):
        """or after a `+ ` prompt"""
        for mech, frame in (
                ("PLAIN", b"\0alice@example.com\0secret"),
                ("XOAUTH2", b"user=alice\1auth=Bearer secret\1\1"),
                ("OAUTHBEARER", b"n,a=alice,\1auth=Bearer secret\1\1")):
            with self.subTest(mech=mech):
                # "+ " ends in a space: a regular expression keeps it.
                self.assertLoggedIn(f"C: AUTH {mech}\nS~ [+][ ]\n"
                                    f"C: {b64(frame)}\nS: +OK", mech, frame)

    def test_auth_login(self):
        """LOGIN is conducted by mailferry (prompts are base64 of `Username:`
        and `Password:`) and becomes a password login."""
        want = ("PLAIN", b"\0alice@example.com\0the secret")
        self.assertLoggedIn(f"""
            C: AUTH LOGIN
            S= + VXNlcm5hbWU6
            C: {b64(ALICE)}
            S= + UGFzc3dvcmQ6
            C: {b64("the secret")}
            S: +OK""", *want)
        self.assertLoggedIn(f"""
            C: AUTH LOGIN {b64(ALICE)}
            S= + UGFzc3dvcmQ6
            C: {b64("the secret")}
            S: +OK""", *want)

    def test_auth_cancelled(self):
        """`*` cancels (`-ERR`)"""
        for mech in MECHANISMS:
            with self.subTest(mech=mech):
                self.dialogue(self.port, f"""
                    C: AUTH {mech}
                    S: +
                    C: *
                    S: -ERR
                    C: NOOP
                    S: +OK""")
        self.dialogue(self.port, f"""
            C: AUTH LOGIN
            S: +
            C: {b64(ALICE)}
            S: +
            C: *
            S: -ERR
            C: NOOP
            S: +OK""")
        self.assertEqual(self.backend_.connections, [])

    def test_bad_frames(self):
        """bad base64 or a malformed frame is `-ERR` and counts as a failed
        attempt"""
        cases = [
            ("PLAIN", "@@@@"), ("PLAIN", "YQ="), ("PLAIN", "YR=="),
            ("PLAIN", "Y Q=="), ("PLAIN", "YQ==YQ=="), ("PLAIN", "="),
            ("PLAIN", b64("alice")), ("PLAIN", b64("\0alice")),
            ("PLAIN", b64("\0alice\0se\0cret")), ("PLAIN", b64("\0\0secret")),
            ("PLAIN", b64("alice\0\0secret")), ("PLAIN", "QUIT"),
            ("XOAUTH2", "="), ("XOAUTH2", b64("user=alice\1\1")),
            ("XOAUTH2", b64("user=alice\1auth=Bearer secret")),
            ("XOAUTH2", "@"), ("OAUTHBEARER", "="), ("OAUTHBEARER", "*x"),
            ("OAUTHBEARER", b64("n,a=alice,\1auth=Bearer secret\1")),
            ("OAUTHBEARER", b64("a=alice,\1auth=Bearer secret\1\1")),
            ("OAUTHBEARER", b64("n,a=al=2ice,\1auth=Bearer secret\1\1")),
        ]
        strict = self.daemon.port_of("strict")
        for mech, frame in cases:
            with self.subTest(mech=mech, frame=frame):
                # Inline, a second word is no frame at all.
                if " " not in frame:
                    self.dialogue(self.port, f"""
                        C: AUTH {mech} {frame}
                        S: -ERR
                        C: NOOP
                        S: +OK""")
                if frame != "=":
                    self.dialogue(self.port, f"""
                        C: AUTH {mech}
                        S: +
                        C: {frame}
                        S: -ERR
                        C: NOOP
                        S: +OK""")
                    self.dialogue(strict, f"""
                        C: AUTH {mech}
                        S: +
                        C: {frame}
                        S: -ERR
                        C: AUTH {mech}
                        S: +
                        C: {frame}
                        S: -ERR
                        CLOSED""")
        self.assertEqual(self.backend_.connections, [])

    def test_an_empty_response(self):
        """`=` for empty"""
        # Only a prompt may be answered by an empty line, only the AUTH line
        # has the "=".
        self.dialogue(self.port, """
            C: AUTH PLAIN
            S: +
            C:
            S: -ERR
            C: NOOP
            S: +OK""")

    def test_a_continuation_is_no_command(self):
        """`*` cancels (`-ERR`); bad base64 or a malformed frame is `-ERR`"""
        self.dialogue(self.port, """
            C: AUTH PLAIN
            S: +
            C: QUIT
            S: -ERR
            C: NOOP
            S: +OK
            C: QUIT
            S: +OK
            CLOSED""")

    def test_unknown_mechanisms(self):
        """Mechanisms: PLAIN, LOGIN, OAUTHBEARER, XOAUTH2."""
        self.dialogue(self.port, "".join(
            f"C: AUTH {mech}\nS: -ERR\n" for mech in (
                "CRAM-MD5", "PLAINX", "EXTERNAL", "NTLM AAAA", "=", "*"))
            + "C: NOOP\nS: +OK")

    def test_max_auth_attempts(self):
        """The reply to the `max_auth_attempts`-th refused login is sent, then
        the connection is closed."""
        port = self.daemon.port_of("strict")
        self.dialogue(port, """
            C: USER alice
            S: +OK
            C: PASS wrong
            S= -ERR [AUTH] Authentication failed.
            C: USER alice
            S: +OK
            C: PASS wrong
            S= -ERR [AUTH] Authentication failed.
            CLOSED""")
        self.dialogue(port, f"""
            C: AUTH PLAIN {plain("alice", "wrong")}
            S: -ERR [AUTH]
            C: AUTH LOGIN
            S: +
            C: {b64("alice")}
            S: +
            C: {b64("wrong")}
            S: -ERR [AUTH]
            CLOSED""")

    def test_another_attempt(self):
        """the client stays in the dialogue for another attempt"""
        self.dialogue(self.port, """
            C: USER alice
            S: +OK
            C: PASS wrong
            S: -ERR [AUTH]
            C: CAPA
            S: +OK
            S*
            C: USER alice
            S: +OK
            C: PASS secret
            S: +OK
            C: QUIT
            S: +OK
            CLOSED""")

    # Time

    def closed_within(self, c, start, low, high):
        """Reads to the end; the connection was closed between low and high
        seconds after start."""
        rest = c.rest()
        took = time.monotonic() - start
        self.assertGreaterEqual(took, low)
        self.assertLess(took, high)
        return rest

    def test_preauth_timeout(self):
        """`preauth_timeout` is absolute, from accept to login, ... on expiry
        `-ERR [SYS/TEMP]` text, close."""
        start = time.monotonic()
        c = self.client(self.daemon.port_of("short"))
        rest = self.closed_within(c, start, 0.9, 3)
        self.assertRegex(rest, rb"\A-ERR \[SYS/TEMP\] [^\n]*\r\n\Z")

    def test_preauth_timeout_while_trickling(self):
        """and not extended by trickling bytes"""
        for data in (b"NOOP\r\n", b"AUTH PLAIN\r\n*\r\n"):
            with self.subTest(data=data):
                start = time.monotonic()
                c = self.client(self.daemon.port_of("short"))
                stop = threading.Event()

                def trickle():
                    try:
                        while not stop.is_set():
                            for i in range(len(data)):
                                c.sock.sendall(data[i:i + 1])
                                stop.wait(0.05)
                    except OSError:
                        pass
                thread = threading.Thread(target=trickle)
                thread.start()
                try:
                    rest = self.closed_within(c, start, 0.9, 3)
                finally:
                    stop.set()
                    thread.join()
                self.assertIn(b"-ERR [SYS/TEMP] ", rest)

    def test_preauth_timeout_while_logins_fail(self):
        """`preauth_timeout` is absolute, from accept to login"""
        start = time.monotonic()
        c = self.client(self.daemon.port_of("patient"))
        last = None
        try:
            while time.monotonic() - start < 5:
                c.cmd("USER alice")
                last = c.cmd("PASS wrong")
                time.sleep(0.1)  # a stubborn client's pace
        except (Closed, OSError):
            pass
        took = time.monotonic() - start
        self.assertLess(took, 4)
        self.assertGreaterEqual(took, 0.9)
        self.assertIsNotNone(last)

    def test_preauth_timeout_in_the_handshake(self):
        """`preauth_timeout`: PROXY header + TLS handshake + dialogue up to
        the login (CONFIG)"""
        for first in (b"", b"\x16\x03\x01"):
            start = time.monotonic()
            c = self.client(self.daemon.port_of("short-tls"), greeting=False,
                            first=first)
            self.closed_within(c, start, 0.9, 3)

    def test_preauth_clock_stands_still(self):
        """The `preauth_timeout` clock stands still while a route or a backend
        is being waited for"""
        go = threading.Event()

        def slowly(c, mech, frame):
            c.wait(go)
            return "+OK logged in"
        before = self.backend_.script
        self.backend_.script = Pop3(check=slowly)
        try:
            c = self.client(self.daemon.port_of("short"))
            c.cmd("USER alice")
            c.send("PASS secret")
            self.assertTrue(c.is_quiet(1.6))
            go.set()
            self.assertReply(c.line(), "+OK")
        finally:
            go.set()
            self.backend_.script = before

    def test_replies_that_nobody_reads(self):
        """answered by mailferry alone, ... pipelining allowed"""
        # Its replies pile up somewhere: not in our memory without a bound.
        c = self.client(self.port, receive_buffer=16384)
        pid = self.daemon.pid
        before = rss(pid)
        c.sock.setblocking(False)
        sent, line = 0, b"CAPA\r\n" * 2000
        while sent < 64 << 20:
            try:
                sent += c.sock.send(line[sent % len(line):])
            except BlockingIOError:
                if not select.select([], [c.sock], [], 0.5)[1]:
                    break
            except (BrokenPipeError, ConnectionResetError):
                break  # too many
        self.assertLess(sent, 32 << 20)
        self.assertLess(rss(pid) - before, 64 << 20 if sanitized()
                        else 2 << 20)
        # And nobody else is kept waiting.
        other = self.client(self.port)
        self.assertReply(other.cmd("NOOP"), "+OK")

    def test_commands_without_a_login(self):
        """So many commands between two logins are taken, of any kind."""
        for kind in ("NOOP", "CAPA", "AUTH PLAIN\r\n*"):
            with self.subTest(kind=kind):
                mark = self.daemon.mark()
                c = self.client(self.port)
                c.send("\r\n".join([kind] * 10001))
                text = c.rest()
                last = text.rstrip(b"\r\n").split(b"\r\n")[-1]
                self.assertEqual(last, b"-ERR Too many commands.")
                if kind == "NOOP":
                    self.assertEqual(text.count(b"+OK"), 10000)
                self.daemon.wait_record(
                    lambda r: r.get("reason") == "too many commands",
                    "why it ended", mark)

    def test_commands_with_logins(self):
        """A login begins the count anew."""
        c = self.client(self.port)
        for _ in range(2):
            c.send("\r\n".join(["NOOP"] * 9900))
            for _ in range(9900):
                self.assertReply(c.line(), "+OK")
            self.assertReply(c.cmd("USER bad\tname"), "+OK")
            self.assertReply(c.cmd("PASS x"), "-ERR")

    def test_max_connections(self):
        """beyond it a connection is answered and closed, never left hanging
        (CONFIG)"""
        port = self.daemon.port_of("one")
        mark = self.daemon.mark()
        first = self.client(port)
        second = self.client(port, greeting=False)
        self.assertRegex(second.rest(),
                         rb"\A-ERR \[SYS/TEMP\] [^\n]*\r\n\Z")
        said = self.daemon.wait_record(
            lambda r: r["message"] == "connections are refused", "full", mark)
        self.assertEqual((said["listener"], said["reason"]),
                         ("one", "max_connections"))
        first.play("C: QUIT\nS: +OK\nCLOSED")
        first.close()

        def served():
            with self.client(port) as c:
                return c.greeting.startswith("+OK")
        wait_until(served, "the place is free again")

    def test_far_too_many_connections(self):
        """beyond it a connection is answered and closed, never left hanging
        (CONFIG)"""
        port = self.daemon.port_of("one")
        self.client(port)
        held = [socket.create_connection(("127.0.0.1", port))
                for _ in range(60)]
        for s in held:
            s.settimeout(15)
            self.assertRegex(s.makefile("rb").read(),
                             rb"\A-ERR \[SYS/TEMP\] [^\n]*\r\n\Z")
            s.close()

    # PROXY and XCLIENT from the client's side

    def adopted(self):
        """The client's address as the last backend connection was told."""
        return self.backend_.connection().proxy.src

    def test_xclient_is_offered_to_the_trusted(self):
        """` [XCLIENT]` is put before the banner text only for a peer inside
        `xclient_trusted`"""
        port = self.daemon.port_of("xclient")
        self.assertEqual(self.client(port, source=TRUSTED).greeting,
                         "+OK [XCLIENT] hello there")
        self.assertEqual(self.client(port, source=STRANGER).greeting,
                         "+OK hello there")

    def test_xclient_trust_follows_the_adopted_address(self):
        """compared with the adopted address: a believed PROXY header's
        source, else the socket's"""
        port = self.daemon.port_of("required")
        for source, greeting in (
                ("192.0.2.1", "+OK [XCLIENT] hello there"),
                ("198.51.100.1", "+OK hello there")):
            c = self.client(port, source=TRUSTED, first=v2(source))
            self.assertEqual(c.greeting, greeting)

    def test_xclient_adopts(self):
        """from a trusted peer: `+OK`, address/port/session/TTL adopted"""
        self.dialogue(self.daemon.port_of("xclient"), """
            C: XCLIENT ADDR=192.0.2.77 PORT=1234 SESSION=abc.DEF_1 TTL=5
            S: +OK
            C: USER alice
            S: +OK
            C: PASS secret
            S: +OK""", source=TRUSTED)
        for c in self.backend_.connections:
            self.assertEqual(c.proxy.src, ("192.0.2.77", 1234))
            self.assertEqual(c.proxy.tlvs[0xe0], b"abc.DEF_1")
            self.assertEqual(c.proxy.tlvs[0xe1], b"\4")

    def test_xclient_twice(self):
        """compared with the adopted address: a believed PROXY header's
        source, else the socket's (and not what XCLIENT said before)"""
        self.dialogue(self.daemon.port_of("xclient"), """
            C: XCLIENT ADDR=198.51.100.1 PORT=1234 SESSION=one TTL=6
            S: +OK
            C: XCLIENT SESSION=two TTL=5
            S: +OK
            C: USER alice
            S: +OK
            C: PASS secret
            S: +OK""", source=TRUSTED)
        for c in self.backend_.connections:
            self.assertEqual(c.proxy.src, ("198.51.100.1", 1234))
            self.assertEqual(c.proxy.tlvs[0xe0], b"two")
            self.assertEqual(c.proxy.tlvs[0xe1], b"\4")

    def test_xclient_ahead_of_stls(self):
        """STLS: all that the client sent before the handshake is thrown
        away"""
        port = self.daemon.port_of("relayed")
        lines = ("XCLIENT ADDR=192.0.2.77 PORT=1234 SESSION=injected TTL=2 "
                 "CLIENT-TRANSPORT=TLS DESTNAME=evil.example")
        for again in (False, True):
            with self.subTest(again=again):
                self.backend_.forget()
                c = self.client(port, source=TRUSTED)
                self.assertReply(c.cmd(lines), "+OK")
                c.stls()
                if again:
                    self.assertReply(
                        c.cmd("XCLIENT ADDR=192.0.2.9 PORT=99"), "+OK")
                c.play("C: USER alice\nS: +OK\nC: PASS secret\nS: +OK")
                proxy = self.backend_.connection().proxy
                self.assertEqual(proxy.src, ("192.0.2.9", 99) if again
                                 else c.local[:2])
                self.assertNotEqual(proxy.tlvs[0xe0], b"injected")
                self.assertEqual(proxy.tlvs[0xe1], b"\7")
                self.assertNotIn(b"evil", proxy.raw)

    def test_proxy_does_not_open_the_gate(self):
        """USER/PASS, PLAIN and LOGIN need TLS on the client leg (a PROXY
        header may speak of TLS, but only XCLIENT's word opens the gate)"""
        d = self.mailferry(
            {"plain": {"tls": "plain", "proxy_protocol": "required",
                       "proxy_trusted": [TRUSTED]}},
            {"main": self.backend_.destination()})
        c = self.client(d, source=TRUSTED, first=v2(
            "192.0.2.9", tlvs=b"\x20\0\5\1\0\0\0\0"))
        self.assertReply(c.cmd("USER alice"), "-ERR")
        self.assertReply(c.cmd(f"AUTH PLAIN {plain('a', 'b')}"), "-ERR")

    def test_xclient_that_is_malformed(self):
        """from a trusted peer: `+OK`, address/port/session/TTL adopted"""
        for bad in ("ADDR", "ADDR=nonsense", "PORT=99999 ADDR=192.0.2.1",
                    "ADDR=192.0.2.1 TTL=x", "ADDR=192.0.2.1 TTL=256",
                    "ADDR=192.0.2.1 ADDR=192.0.2.2"):
            with self.subTest(bad=bad):
                c = self.client(self.daemon.port_of("xclient"),
                                source=TRUSTED)
                self.assertReply(c.cmd(f"XCLIENT {bad}"), "-ERR")
                c.play("C: USER alice\nS: +OK\nC: PASS secret\nS: +OK")
                self.assertEqual(self.adopted(), c.local[:2])

    def test_proxy_header_with_our_own_words(self):
        """our session id and TTL in custom TLVs 0xE0 and 0xE1, believed from
        `proxy_trusted` peers, so that a ring of proxies is noticed in this
        mode too"""
        port = self.daemon.port_of("required")
        for ttl, passed_on in ((5, 4), (2, 1), (1, None)):
            with self.subTest(ttl=ttl):
                self.backend_.forget()
                tlvs = b"\xe0\0\7outer.1\xe1\0\1" + bytes([ttl])
                c = self.client(port, source=TRUSTED,
                                first=v2("192.0.2.9", tlvs=tlvs))
                self.assertReply(c.cmd("USER alice"), "+OK")
                reply = c.cmd("PASS secret")
                if passed_on is None:
                    self.assertTempFail(reply)
                    self.assertEqual(self.backend_.connections, [])
                    continue
                self.assertReply(reply, "+OK")
                proxy = self.backend_.connection().proxy
                self.assertEqual(proxy.tlvs[0xe0], b"outer.1")
                self.assertEqual(proxy.tlvs[0xe1], bytes([passed_on]))

    def test_xclient_from_a_stranger(self):
        """otherwise unknown command"""
        self.dialogue(self.daemon.port_of("xclient"), """
            C: XCLIENT ADDR=192.0.2.77 PORT=1234
            S: -ERR
            C: USER alice
            S: +OK
            C: PASS secret
            S: +OK""", source=STRANGER)
        for c in self.backend_.connections:
            self.assertEqual(c.proxy.src[0], STRANGER)

    def test_proxy_header(self):
        """Optional PROXY header (v1/v2) from a trusted peer"""
        headers = {
            "v1": b"PROXY TCP4 192.0.2.9 203.0.113.1 1111 110\r\n",
            "v1 ipv6": b"PROXY TCP6 2001:db8::9 2001:db8::1 1111 110\r\n",
            "v2": v2("192.0.2.9", 1111),
            "v1 unknown": b"PROXY UNKNOWN\r\n",
            "v2 local": v2("192.0.2.9", 1111, b"\x20"),
        }
        for listener in ("required", "optional"):
            port = self.daemon.port_of(listener)
            for name, header in headers.items():
                for mode in (LINES, BYTES):
                    with self.subTest(listener=listener, header=name,
                                      mode=mode):
                        c = self.client(port, source=TRUSTED, first=header,
                                        mode=mode)
                        c.play("C: USER alice\nS: +OK\n"
                               "C: PASS secret\nS: +OK")
                        want = ("192.0.2.9", 1111)
                        if "ipv6" in name:
                            want = ("2001:db8::9", 1111)
                        elif "unknown" in name or "local" in name:
                            want = c.local[:2]
                        self.assertEqual(self.adopted(), want)
                        c.close()

    def test_proxy_header_and_commands_in_one_write(self):
        """Same input, same behaviour, however it is cut into packets"""
        c = self.client(self.daemon.port_of("required"), source=TRUSTED,
                        first=v2("192.0.2.9") + b"NOOP\r\nUSER alice\r\n"
                        b"PASS secret\r\n")
        for _ in range(3):
            self.assertReply(c.line(), "+OK")
        self.assertEqual(self.adopted()[0], "192.0.2.9")

    def test_proxy_header_ahead_of_tls(self):
        """Optional PROXY header (v1/v2) from a trusted peer, then, on an
        `implicit` listener, the TLS handshake."""
        for mode in (LINES, BYTES):
            c = self.client(self.daemon.port_of("required-tls"), source=TRUSTED,
                            first=v2("192.0.2.9"), tls="implicit", mode=mode)
            self.assertReply(c.cmd("USER alice"), "+OK")
            self.assertReply(c.cmd("PASS secret"), "+OK")
            self.assertEqual(self.adopted()[0], "192.0.2.9")

    def test_proxy_required(self):
        """proxy_header_timeout: required: then closed (CONFIG)"""
        port = self.daemon.port_of("required")
        for first in (b"", b"PROXY TCP4 192.0", V2[:7]):
            with self.subTest(first=first):
                start = time.monotonic()
                c = self.client(port, source=TRUSTED, greeting=False,
                                first=first)
                rest = self.closed_within(c, start, 0.4, 3)
                self.assertNotIn(b"+OK", rest)
        for first in (b"NOOP\r\n", b"PROXY TCP4 nonsense\r\n",
                      b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
                      b"PROXY TCP4 " + b"1" * 200, V2 + b"\x31\x11\0\0"):
            with self.subTest(first=first):
                c = self.client(port, source=TRUSTED, greeting=False,
                                first=first)
                self.assertNotIn(b"+OK", c.rest())

    def test_proxy_optional(self):
        """optional: served as it is (CONFIG)"""
        port = self.daemon.port_of("optional")
        start = time.monotonic()
        c = self.client(port, source=TRUSTED)
        self.assertEqual(c.greeting, "+OK hello there")
        self.assertGreaterEqual(time.monotonic() - start, 0.25)
        c.play("C: USER alice\nS: +OK\nC: PASS secret\nS: +OK")
        self.assertEqual(self.adopted(), c.local[:2])

    def test_proxy_header_of_a_stranger(self):
        """off | optional | required (PROXY protocol v1 and v2, from
        proxy_trusted only) (CONFIG)"""
        c = self.client(self.daemon.port_of("optional"), source=STRANGER,
                        first=b"PROXY TCP4 192.0.2.9 203.0.113.1 1111 110\r\n")
        self.assertReply(c.greeting, "+OK")
        self.assertReply(c.line(), "-ERR")
        c.play("C: USER alice\nS: +OK\nC: PASS secret\nS: +OK")
        self.assertEqual(self.adopted(), c.local[:2])


class Delay(Dialogue):
    def test_auth_failure_delay(self):
        """Replies to failures wait for `auth_failure_delay` without blocking
        anyone else."""
        b = self.backend(Pop3(check=right_password))
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"main": b.destination()},
                           over={"server": {"auth_failure_delay": "1500ms",
                                            "threads": 1}})
        slow = self.client(d, tls="implicit")
        slow.cmd(f"USER {ALICE}")
        start = time.monotonic()
        slow.send("PASS wrong")
        b.connection(0)
        quick = self.login(d, tls="implicit")
        self.assertReply(quick.cmd("NOOP"), "+OK")
        self.assertLess(time.monotonic() - start, 1.4)
        self.assertReply(slow.line(), "-ERR [AUTH]")
        self.assertGreaterEqual(time.monotonic() - start, 1.45)

        # A frame that never reaches a backend is a failure as well.
        start = time.monotonic()
        self.assertReply(slow.cmd("AUTH PLAIN @@@@"), "-ERR")
        self.assertGreaterEqual(time.monotonic() - start, 1.45)
        # Success does not wait.
        start = time.monotonic()
        slow.cmd(f"USER {ALICE}")
        self.assertReply(slow.cmd("PASS secret"), "+OK")
        self.assertLess(time.monotonic() - start, 1.4)


class Limits(Dialogue):
    def test_max_connections_per_ip(self):
        """max_connections_per_ip: 0 = no limit; per client address (IPv6: per
        /64), over all workers and listeners; exempt: CIDRs (CONFIG)"""
        b = self.backend()
        d = self.mailferry(
            {"pop3": {"tls": "plain"}, "other": {"tls": "plain"}},
            {"main": b.destination()},
            over={"limits": {"max_connections_per_ip": 3,
                             "exempt": ["127.0.0.9/32"]},
                  "server": {"stats_interval": "50ms"}})
        held = [self.client(d.port_of(name), source="127.0.0.8")
                for name in ("pop3", "other", "pop3")]
        for name in ("pop3", "other"):
            c = self.client(d.port_of(name), source="127.0.0.8",
                            greeting=False)
            self.assertRegex(c.rest(),
                             rb"\A-ERR \[SYS/TEMP\] [^\n]*\r\n\Z")
        refused = [r for r in d.records()
                   if r["message"] == "connection refused"]
        self.assertEqual([(r["client"], r["reason"], r["listener"], r["more"])
                          for r in refused],
                         [("127.0.0.8", "max_connections_per_ip", name, 0)
                          for name in ("pop3", "other")])
        d.wait_record(lambda r: r.get("refused_per_ip") == 2, "the count")
        self.assertReply(self.client(d, source="127.0.0.7").greeting, "+OK")
        for _ in range(5):
            self.client(d, source="127.0.0.9")
        held[0].close()

        def served():
            with self.client(d, source="127.0.0.8", greeting=False) as c:
                return b"+OK" in c.octets()
        wait_until(served, "a place is free again")

    def test_auth_failures_per_ip(self):
        """auth_failures_per_ip: refused logins within auth_failure_window;
        further logins are refused unasked (CONFIG)"""
        b = self.backend(Pop3(check=right_password))
        d = self.mailferry(
            {"pop3": {"tls": "implicit"}}, {"main": b.destination()},
            over={"limits": {"auth_failures_per_ip": 2,
                             "auth_failure_window": "1h"},
                  "server": {"stats_interval": "50ms"}})
        for word in ("wrong one", "wrong two"):
            c = self.client(d, tls="implicit", source="127.0.0.8")
            c.cmd(f"USER {ALICE}")
            self.assertReply(c.cmd(f"PASS {word}"), "-ERR [AUTH]")
        b.forget()
        c = self.client(d, tls="implicit", source="127.0.0.8")
        c.cmd(f"USER {ALICE}")
        self.assertReply(c.cmd("PASS secret"), "-ERR [AUTH]")
        self.assertEqual(b.connections, [])
        d.wait_record(lambda r: r.get("failure") == "throttled", "throttled")
        failed = [(r["client"], r["user"], r["failure"])
                  for r in d.records() if r["message"] == "login failed"]
        self.assertEqual(failed, [("127.0.0.8", ALICE, why) for why in
                                  ("rejected", "rejected", "throttled")])
        d.wait_record(lambda r: (r.get("logins_failed"),
                                 r.get("logins_throttled")) == (3, 1),
                      "the counts")
        # Nobody else suffers.
        self.login(d, tls="implicit", source="127.0.0.7")

    def test_the_same_wrong_credentials_count_once(self):
        """The same wrong credentials again (of the last 10 per address, ...)
        count once: a phone with an old password must not throttle everybody
        behind its NAT (CONFIG)"""
        b = self.backend(Pop3(check=right_password))
        d = self.mailferry(
            {"pop3": {"tls": "implicit"}}, {"main": b.destination()},
            over={"limits": {"auth_failures_per_ip": 2,
                             "auth_failure_window": "1h"}})

        def wrong(word, mech="USER"):
            c = self.client(d, tls="implicit", source="127.0.0.8")
            if mech == "PLAIN":
                reply = c.cmd(f"AUTH PLAIN {plain(ALICE, word)}")
            else:
                c.cmd(f"USER {ALICE}")
                reply = c.cmd(f"PASS {word}")
            self.assertReply(reply, "-ERR [AUTH]")
        for _ in range(4):
            wrong("old password")
            wrong("old password", "PLAIN")
        self.login(d, tls="implicit", source="127.0.0.8")
        wrong("another one")
        b.forget()
        wrong("old password")
        self.assertEqual(b.connections, [])



    def test_one_line_for_a_crowd(self):
        """A listener's connections over a limit have one line a second."""
        d = self.mailferry(
            {"pop3": {"tls": "plain"}}, {"main": self.backend().destination()},
            over={"limits": {"max_connections_per_ip": 1}})
        self.client(d)
        mark, start = d.mark(), time.monotonic()

        def told():
            return [r for r in d.records(mark)
                    if r["message"] == "connection refused"]
        count = 0
        while len(told()) < 2:
            for _ in range(20):
                self.assertIn(b"-ERR [SYS/TEMP]", self.client(
                    d, greeting=False).rest())
                count += 1
        lines = told()
        self.assertLessEqual(len(lines), time.monotonic() - start + 1)
        # All of them but those after the last line are counted.
        counted = len(lines) + sum(r["more"] for r in lines)
        self.assertLessEqual(counted, count)
        self.assertGreater(counted, count - 20)

    def test_deferred_logins(self):
        """the answer to the n-th deferred login of one connection waits (0,
        0.1, 0.2, 0.4, ... up to 5 s), the 10th closes the connection, and
        equal log lines of one session are summed up (PROTOCOL)"""
        d = self.mailferry(
            {"pop3": {"tls": "plain"}}, {"main": self.refusing()},
            over={"server": {"auth_failure_delay": "0s"}, "capabilities": {
                "pop3": {"allow_plain_auth_without_tls": True}}})
        c = self.client(d, timeout=30)
        took = []
        for number in range(10):
            c.cmd("USER alice@example.com")
            start = time.monotonic()
            self.assertTempFail(c.cmd("PASS secret"))
            took.append(time.monotonic() - start)
        c.closed()
        least = (0, .1, .2, .4, .8, 1.6, 3.2, 5, 5, 5)
        for number, seconds in enumerate(least):
            self.assertGreaterEqual(took[number], seconds - .01, took)
        end = d.wait_record(lambda r: r["message"] == "session closed",
                            "the end")
        self.assertEqual((end["reason"], end["deferred"], end["level"]),
                         ("too many deferred logins", 10, "info"))
        lines = [r for r in d.records() if r["message"] == "login deferred"]
        self.assertEqual(len(lines), len({r["failure"] for r in lines}))

    def refusing(self):
        """A destination at whose port nobody listens."""
        destination = self.backend().destination()
        destination["protocol"]["pop3"]["port"] = free_port()
        return destination


class Offers(Dialogue):
    """What is offered is what the configuration says."""

    def test_sasl_and_implementation(self):
        """sasl: [PLAIN, LOGIN, OAUTHBEARER, XOAUTH2]; implementation: empty
        string leaves it out; advertise: further CAPA lines, verbatim
        (CONFIG)"""
        b = self.backend()
        d = self.mailferry(
            {"pop3": {"tls": "implicit"}}, {"main": b.destination()},
            over={"capabilities": {"pop3": {
                "sasl": ["XOAUTH2", "PLAIN"], "implementation": "",
                "advertise": ["TOP", "EXPIRE NEVER", "x-odd Thing"]}}})
        replies = self.dialogue(d.port, f"""
            C: CAPA
            S: +OK
            S*
            C: AUTH
            S: +OK
            S*
            C: AUTH LOGIN
            S: -ERR
            C: AUTH OAUTHBEARER {oauthbearer(ALICE, "x")}
            S: -ERR""", tls="implicit")
        self.assertIn("SASL XOAUTH2 PLAIN", replies[1])
        self.assertEqual(replies[1][-3:],
                         ["TOP", "EXPIRE NEVER", "x-odd Thing"])
        self.assertFalse([x for x in replies[1] if "IMPLEMENTATION" in x])
        self.assertEqual(replies[3], ["XOAUTH2", "PLAIN"])
        self.assertEqual(b.connections, [])


class ServerCertificates(Dialogue):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backend_ = cls.shared_backend()
        pairs = {name: {"cert": certs().cert(name), "key": certs().key(name)}
                 for name in ("new", "wildcard", "good2")}
        pairs["good2"]["subjects"] = ["special.test", "*.special.test"]
        cls.daemon = cls.shared_mailferry(
            {"implicit": {"tls": "implicit"},
             "starttls": {"tls": "starttls"},
             "tls13": {"tls": "implicit", "min_version": "1.3"},
             "old": {"tls": "implicit", "min_version": "1.0"}},
            {"main": cls.backend_.destination()},
            over={"tls": {"certificate": pairs}})

    def test_by_server_name(self):
        """named entries; chosen by SNI: exact name, then wildcard/parent
        domain, then default (CONFIG)"""
        for sni, name in (("mail.example.com", "good"),
                          ("new.example.com", "new"),
                          ("NEW.Example.COM", "new"),
                          ("a.wild.example.com", "wildcard"),
                          ("special.test", "good2"),
                          ("x.special.test", "good2"),
                          ("nobody.knows.it", "good"), (None, "good")):
            for tls in ("implicit", "starttls"):
                with self.subTest(sni=sni, tls=tls):
                    c = self.client(self.daemon.port_of(tls), tls=tls,
                                    ctx=context(), sni=sni)
                    self.assertEqual(c.sock.getpeercert(binary_form=True),
                                     certs().der(name))

    def test_min_version_of_a_listener(self):
        """min_version: TLS of this listener (CONFIG)"""
        v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        port = self.daemon.port_of("tls13")
        c = self.client(port, tls="implicit")
        self.assertEqual(c.sock.version(), "TLSv1.3")
        with self.assertRaises(ssl.SSLError) as caught:
            self.client(port, tls="implicit", ctx=context(maximum=v12))
        self.assertIn("ALERT_PROTOCOL_VERSION", caught.exception.reason)
        self.client(self.daemon.port_of("implicit"), tls="implicit",
                    ctx=context(maximum=v12))
        self.client(self.daemon.port_of("old"), tls="implicit",
                    ctx=context(minimum=v13))

    def test_old_devices(self):
        """"1.0"/"1.1" only here, for old devices (CONFIG)"""
        port = self.daemon.port_of("old")
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            c = self.client(port, tls="implicit", ctx=old_context(version))
            self.assertReply(c.cmd("NOOP"), "+OK")


class Suites(Dialogue):
    def test_cipher_suites(self):
        """disable_cipher_suites: standard (IANA) names; ignore_client_order:
        true: the server's cipher order wins; min_version (CONFIG)"""
        b = self.backend()
        v12 = ssl.TLSVersion.TLSv1_2

        def chosen(d, ciphers=None, maximum=None):
            ctx = context(certs().ca, maximum=maximum)
            if ciphers:
                ctx.set_ciphers(ciphers)
            return self.client(d, tls="implicit", ctx=ctx).sock.cipher()[0]

        def daemon(**protocols):
            return self.mailferry({"pop3": {"tls": "implicit"}},
                                  {"main": b.destination()},
                                  over={"tls": {"protocols": protocols}})
        order = ["ECDHE-ECDSA-CHACHA20-POLY1305",
                 "ECDHE-ECDSA-AES128-GCM-SHA256",
                 "ECDHE-ECDSA-AES256-GCM-SHA384"]
        d = daemon()
        for first in order:
            rest = [name for name in order if name != first]
            self.assertEqual(chosen(d, ":".join([first] + rest), v12), first)
        d = daemon(ignore_client_order=True)
        self.assertEqual(len({chosen(d, ":".join(order), v12),
                              chosen(d, ":".join(reversed(order)), v12)}), 1)
        d = daemon(disable_cipher_suites=[
            "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"])
        self.assertEqual(chosen(d), "TLS_AES_128_GCM_SHA256")
        self.assertEqual(chosen(d, ":".join(order), v12), order[1])
        with self.assertRaises(ssl.SSLError):
            chosen(d, order[0], v12)
        d = daemon(min_version="1.3")
        with self.assertRaises(ssl.SSLError):
            chosen(d, maximum=v12)


class Addresses(Dialogue):
    def test_several_addresses(self):
        """bind: at least one; [::] is v6-only, so both can be bound
        (CONFIG)"""
        b = self.backend()
        one, two = free_port(), free_port()
        bind = [f"0.0.0.0:{one}", f"127.0.0.1:{two}"]
        if has_ipv6():
            bind.append(f"[::]:{one}")
        self.mailferry({"pop3": {"tls": "plain", "bind": bind}},
                       {"main": b.destination()})
        for port in (one, two):
            self.assertReply(self.client(port).greeting, "+OK")
        if has_ipv6():
            self.assertReply(self.client(one, address="::1").greeting, "+OK")


class NoCertificate(Dialogue):
    def test_self_signed(self):
        """no certificate at all, but a listener that needs one: a self-signed
        one is generated in memory, with a loud warning (CONFIG)"""
        b = self.backend()
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"main": b.destination()}, over={"tls": None})
        c = self.client(d, tls="implicit", ctx=context())
        self.assertReply(c.cmd("NOOP"), "+OK")
        self.assertRegex(d.output(), "(?i)warn.*self-signed")


class Resumption(Dialogue):
    def test_clients_resume_on_any_worker(self):
        """STLS, TLS: ticket keys ... shared by the workers so that a client
        resumes on any of them (DESIGN)"""
        b = self.backend()
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"main": b.destination()},
                           over={"server": {"threads": 4}})
        ctx = context(certs().ca)

        def connect(session):
            sock = socket.create_connection(("127.0.0.1", d.port), 10)
            with ctx.wrap_socket(sock, server_hostname="mail.example.com",
                                 session=session) as s:
                # The ticket comes with the greeting's record or ahead of it.
                greeting = s.recv(512)
                self.assertTrue(greeting.startswith(b"+OK"))
                return s.session, s.session_reused
        session, reused = connect(None)
        self.assertFalse(reused)
        for _ in range(12):
            session, reused = connect(session)
            self.assertTrue(reused)


if __name__ == "__main__":
    unittest.main()
