"""The harness itself, without mailferry: the client against the fake backend
and against Dovecot. When this fails, the other suites prove nothing."""

import ssl
import threading
import unittest

from harness.case import Case, Pop3, certs, context, need, need_root
from harness.client import BYTES, MODES, b64, oauthbearer, plain, xoauth2
from harness.dovecot import Dovecot, jwt
from harness.fake_backend import says
from harness.proc import wait_until
from harness.yaml import dump


class Fake(Case):
    def test_a_dialogue_however_it_is_cut(self):
        b = self.backend(Pop3(messages=[b"a\r\n.b\r\n"]), tls="plain")
        for mode in MODES:
            with self.subTest(mode=mode):
                c = self.client(b.port, mode=mode)
                got = c.play("""
                    C: CAPA
                    S: +OK
                    S*
                    C: USER alice
                    S: +OK
                    C: PASS  two words
                    S: +OK logged in
                    C: RETR 1
                    S= +OK
                    S*
                    C: QUIT
                    S: +OK bye
                    CLOSED""")
                self.assertIn("TOP", got[1])
                self.assertEqual(got[5], ["a", "..b"])
        self.assertEqual(b.connection(0).commands,
                         ["CAPA", "USER alice", "PASS  two words", "RETR 1",
                          "QUIT"])

    def test_tls_is_told_from_clear(self):
        b = self.backend(Pop3())
        c = self.client(b.port, tls="starttls", mode=BYTES)
        self.assertReply(c.cmd("AUTH PLAIN " + plain("a", "b")), "+OK")
        c.close()
        seen = b.connection()
        seen.wait_finished()
        self.assertEqual(bytes(seen.clear), b"STLS\r\n")
        self.assertTrue(seen.inside.startswith(b"AUTH PLAIN "))
        self.assertEqual(seen.sni, "mail.example.com")
        self.assertEqual(seen.tls_version, "TLSv1.3")
        self.assertFalse(seen.reused)

    def test_bad_certificates_are_bad(self):
        for name in ("expired", "future", "wrong", "self", "unknown"):
            with self.subTest(certificate=name):
                b = self.backend(tls="implicit", cert=name)
                with self.assertRaises(ssl.SSLCertVerificationError):
                    self.client(b.port, tls="implicit")
                # What the client does not read resets the connection.
                b.connection().wait_finished()

    def test_client_certificate(self):
        b = self.backend(tls="implicit", client_ca=certs().ca)
        ctx = context(certs().ca)
        ctx.load_cert_chain(certs().cert("client"), certs().key("client"))
        self.client(b.port, tls="implicit", ctx=ctx)
        self.assertEqual(b.connection().client_cert, certs().der("client"))

    def test_proxy_header_is_parsed(self):
        b = self.backend(proxy=True, tls="plain")
        header = (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10"
                  b"\x0a\0\0\1\x0a\0\0\2\x04\xd2\0\x6e\xe1\0\1\7")
        c = self.client(b.port, first=header)
        self.assertReply(c.greeting, "+OK")
        proxy = b.connection().proxy
        self.assertEqual(proxy.src, ("10.0.0.1", 1234))
        self.assertEqual(proxy.dst, ("10.0.0.2", 110))
        self.assertEqual(proxy.tlvs, {0xe1: b"\7"})

    def test_scripts_wait_reset_and_complain(self):
        go = threading.Event()

        def script(c):
            c.send("+OK")
            c.wait(go)
            c.reset()
        b = self.backend([script, says("+OK one", "+OK two")], tls="plain")
        c = self.client(b.port)
        self.assertTrue(c.is_quiet(0.05))
        go.set()
        self.assertEqual(c.closed(), "reset")
        c = self.client(b.port)
        self.assertEqual((c.greeting, c.line()), ("+OK one", "+OK two"))
        c.reset()
        b.connection(1).wait_finished()
        self.assertEqual(b.connection(1).end, "reset")

        b.script = lambda c: c.expect("QUIT")
        c = self.client(b.port, greeting=False)
        c.send("NOOP")
        c.closed()
        wait_until(lambda: b.errors, "the script complains")
        b.errors.clear()

    def test_an_unmet_expectation_fails(self):
        b = self.backend(tls="plain")
        c = self.client(b.port)
        with self.assertRaises(AssertionError):
            c.play("C: NOOP\nS: +OK")


class Yaml(unittest.TestCase):
    def test_lines_are_known(self):
        text, where = dump({"a": {"b": "off", "c": [1, "x"]}, "d": True})
        self.assertEqual(text, 'a:\n  b: "off"\n  c: [1, "x"]\nd: true\n')
        self.assertEqual(where["a.c"], 3)
        self.assertEqual(where["d"], 4)


@need("dovecot")
@need_root()
class Real(Case):
    def test_dovecot_as_a_backend(self):
        d = self.keep(Dovecot(certs()))
        d.start()
        mail = b"Subject: x\r\n\r\n.dot\r\n\xe4\r\n"
        d.deliver("alice@example.com", mail)
        c = self.client(d.port, tls="starttls", source="127.0.0.2")
        self.assertEqual(c.greeting, "+OK [XCLIENT] old ready.")
        self.assertReply(c.cmd("XCLIENT ADDR=192.0.2.9 PORT=1"), "+OK Updated")
        c.play("""
            C: USER alice@example.com
            S: +OK
            C: PASS secret
            S: +OK
            C: RETR 1
            S: +OK
            """)
        self.assertEqual("\r\n".join(c.lines()) + "\r\n",
                         mail.decode("latin-1").replace("\n.", "\n.."))
        c.play("C: DELE 1\nS: +OK\nC: QUIT\nS: +OK\nCLOSED")
        wait_until(lambda: not d.messages("alice@example.com"), "deletion")
        wait_until(lambda: "rip=192.0.2.9" in d.output(), "the log line")

    def test_dovecot_takes_our_tokens(self):
        d = self.keep(Dovecot(certs()))
        d.start()
        user = "alice@example.com"
        for mech, frame in (("XOAUTH2", xoauth2), ("OAUTHBEARER",
                                                   oauthbearer)):
            c = self.client(d.port_tls, tls="implicit")
            self.assertReply(
                c.cmd(f"AUTH {mech} " + frame(user, d.token(user))), "+OK")
        c = self.client(d.port_tls, tls="implicit")
        self.assertReply(c.cmd("AUTH XOAUTH2 " + xoauth2(user, jwt(
            user, b"wrong"))), "+")
        self.assertReply(c.cmd(""), "-ERR [AUTH]")
        self.assertReply(c.cmd("AUTH PLAIN " + b64("\0" + user + "\0no")),
                         "-ERR [AUTH]")


if __name__ == "__main__":
    unittest.main()
