"""Real mail programs in front, two real Dovecots behind: "old", from which
the mailboxes move away, and "new".

The messages have what goes wrong in transit: lines that begin with dots,
8-bit text, no line end at the end, and 20 MB. They come from the maildir and
are compared byte for byte.
"""

import glob
import os
import poplib
import pwd
import re
import unittest

from harness.case import Case, Pop3, certs, context, need, need_root
from harness.client import oauthbearer, plain, xoauth2
from harness.dovecot import Dovecot, jwt
from harness.fake_backend import stuff
from harness.front import xclient_words
from harness.mailutils import Mailutils
from harness.proc import check_run, run, temp_dir, wait_until

OLD, NEW = "alice@example.com", "bob@example.net"
PROXIED = "carol@example.org"  # lives on "new", reached by PROXY
# Spaces, a percent sign: what programs and proxies like to mangle.
PASSWORD = "se cr%t"
CLIENT_IP = "127.0.0.3"

DOTS = (b"From: a@example.com\r\nTo: b@example.com\r\nSubject: dots\r\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Message-ID: <dots@example.com>\r\n\r\n"
        b".\r\n..\r\n.dot\r\n...dots\r\n.\r\nlast\r\n")
EIGHT_BITS = (b"From: a@example.com\r\nTo: b@example.com\r\n"
              b"Subject: =?iso-8859-1?Q?=E4?=\r\n"
              b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
              b"Message-ID: <eight@example.com>\r\n"
              b"MIME-Version: 1.0\r\n"
              b"Content-Type: text/plain; charset=iso-8859-1\r\n"
              b"Content-Transfer-Encoding: 8bit\r\n\r\n"
              + bytes(range(0x80, 0x100)) + b"\r\n"
              + "gr\u00fc\u00dfe \u20ac".encode() + b"\r\n")


def large():
    """20 MB, every line another."""
    head = (b"From: a@example.com\r\nTo: b@example.com\r\nSubject: large\r\n"
            b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
            b"Message-ID: <large@example.com>\r\n\r\n")
    pad = b"." + b"0123456789abcdef" * 4 + b" "
    lines = [pad + b"%08d\r\n" % i for i in range(20 * 1000 * 1000
                                                 // (len(pad) + 10))]
    return head + b"".join(lines)


MESSAGES = [DOTS, EIGHT_BITS]
LEGS = ("implicit", "starttls")


@need("dovecot", "doveadm")
@need_root()
class Interop(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        users = {OLD: PASSWORD, NEW: PASSWORD, PROXIED: PASSWORD}
        cls.dovecots = {}
        for name in ("old", "new"):
            d = Dovecot(certs(), name, users)
            cls._shared.append(d)
            cls.addClassCleanup(d.stop)
            cls.dovecots[name] = d.start()
        cls.old, cls.new = cls.dovecots["old"], cls.dovecots["new"]
        cls.daemon = cls.shared_mailferry(
            {"implicit": {"tls": "implicit"},
             "starttls": {"tls": "starttls"}},
            {"old": cls.old.destination("starttls"),
             "new": cls.new.destination("implicit"),
             "proxied": cls.new.destination("starttls", "proxy")},
            {"@example.net": "new", PROXIED: "proxied"})

    def setUp(self):
        super().setUp()
        for d in self.dovecots.values():
            for user in d.users:
                d.empty(user)
        self.dir = temp_dir()

    def port(self, tls):
        return self.daemon.port_of(tls)

    def everywhere(self, one):
        """A decorator: runs one(tls, user, dovecot) for both ways in, to both
        backends."""
        for tls in LEGS:
            for user, dovecot in ((OLD, self.old), (NEW, self.new)):
                with self.subTest(tls=tls, user=user):
                    for d in self.dovecots.values():
                        d.empty(user)
                    one(tls, user, dovecot)

    def write(self, name, text, mode=0o600):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def assertDeleted(self, dovecot, user):
        """DELE was committed by the QUIT."""
        wait_until(lambda: not dovecot.messages(user),
                   "the maildir is empty")


class ByHand(Interop):
    """Our own client: what others hide."""

    def test_whose_client_it_is(self):
        """Dovecot's log shows the client's own address"""
        for tls in LEGS:
            for user, dovecot in ((OLD, self.old), (NEW, self.new)):
                with self.subTest(tls=tls, user=user):
                    mark = dovecot.mark()
                    c = self.client(self.port(tls), tls=tls, source=CLIENT_IP)
                    c.play(f"""
                        C: USER {user}
                        S: +OK
                        C: PASS {PASSWORD}
                        S: +OK
                        C: QUIT
                        S: +OK
                        CLOSED""")
                    wait_until(lambda: re.search(
                        rf"Login: user=<{re.escape(user)}>.* "
                        rf"rip={re.escape(CLIENT_IP)},",
                        dovecot.output(mark)), "the client's address")

    def test_by_the_proxy_protocol(self):
        """PROXY v2 header first if `forwarding: proxy` (client and listener
        address as seen by the client, ...)"""
        mark = self.new.mark()
        c = self.client(self.port("implicit"), tls="implicit",
                        source=CLIENT_IP)
        c.play(f"C: USER {PROXIED}\nS: +OK\nC: PASS {PASSWORD}\n"
               "S: +OK\nC: QUIT\nS: +OK\nCLOSED")
        wait_until(lambda: f"rip={CLIENT_IP}," in self.new.output(mark),
                   "the client's address")

    def test_session_id_is_the_backends(self):
        """`XCLIENT ... SESSION=`"""
        mark, ours = self.old.mark(), self.daemon.mark()
        c = self.client(self.port("implicit"), tls="implicit",
                        source=CLIENT_IP)
        c.cmd(f"USER {OLD}")
        c.cmd(f"PASS {PASSWORD}")
        c.play("C: QUIT\nS: +OK\nCLOSED")
        record = self.daemon.wait_record(
            lambda r: r.get("user") == OLD and "bytes_to_client" in r,
            "the session's end", ours)
        wait_until(lambda: f"session=<{record['session']}>"
                   in self.old.output(mark), "our session id in its log")

    def test_messages_byte_for_byte(self):
        """Bytes both ways, unread"""
        big = large()
        @self.everywhere
        def one(tls, user, dovecot):
            for message in (DOTS, EIGHT_BITS, big):
                dovecot.deliver(user, message)
            c = self.client(self.port(tls), tls=tls)
            c.cmd("AUTH PLAIN " + plain(user, PASSWORD))
            sizes = [int(line.split()[1]) for line in c.ask("LIST")]
            # The order of deliveries within one second is Dovecot's own.
            left = {len(m): m for m in (DOTS, EIGHT_BITS, big)}
            for number, size in enumerate(sizes, 1):
                want = stuff(left.pop(size)) + b".\r\n"
                self.assertReply(c.cmd(f"RETR {number}"), "+OK")
                got = c.exactly(len(want))
                self.assertTrue(got == want, f"message {number} differs")
                self.assertReply(c.cmd(f"DELE {number}"), "+OK")
            self.assertEqual(left, {})
            self.assertEqual(len(dovecot.messages(user)), 3)
            c.play("C: QUIT\nS: +OK\nCLOSED")
            self.assertDeleted(dovecot, user)

    def test_deletions_of_a_hasty_client(self):
        """so that a `QUIT` (which commits deletions) is never lost"""
        @self.everywhere
        def one(tls, user, dovecot):
            dovecot.deliver(user, DOTS)
            c = self.client(self.port(tls), tls=tls)
            c.cmd("AUTH PLAIN " + plain(user, PASSWORD))
            c.raw(b"DELE 1\r\nQUIT\r\n")
            c.close()
            self.assertDeleted(dovecot, user)

    def test_deletions_of_a_client_that_vanishes(self):
        """A dead client without QUIT must reach the backend as a close, never
        as a QUIT. (GOTCHAS)"""
        @self.everywhere
        def one(tls, user, dovecot):
            dovecot.deliver(user, DOTS)
            mark = dovecot.mark()
            c = self.client(self.port(tls), tls=tls, source=CLIENT_IP)
            c.cmd("AUTH PLAIN " + plain(user, PASSWORD))
            self.assertReply(c.cmd("DELE 1"), "+OK")
            c.reset()
            wait_until(lambda: re.search(r"(?i)disconnected.*del=",
                                         dovecot.output(mark)),
                       "Dovecot's end of the session")
            self.assertEqual(len(dovecot.messages(user)), 1)

    def test_tokens(self):
        """Bearer logins: the client's mechanism and frame, byte for byte."""
        @self.everywhere
        def one(tls, user, dovecot):
            token = dovecot.token(user)
            for mech, frame in (("OAUTHBEARER", oauthbearer(user, token)),
                                ("XOAUTH2", xoauth2(user, token))):
                c = self.client(self.port(tls), tls=tls)
                self.assertReply(c.cmd(f"AUTH {mech} {frame}"), "+OK")
                self.assertReply(c.cmd("STAT"), "+OK 0 0")
                c = self.client(self.port(tls), tls=tls)
                self.assertEqual(c.cmd(f"AUTH {mech}"), "+ ")
                self.assertReply(c.cmd(frame), "+OK")

    def test_bad_tokens(self):
        """A challenge from the backend in a bearer exchange ... is relayed to
        the client and its answer back"""
        bad = jwt(OLD, b"not the secret")
        for mech, frame, dummy in (
                ("OAUTHBEARER", oauthbearer(OLD, bad), "AQ=="),
                ("XOAUTH2", xoauth2(OLD, bad), "")):
            with self.subTest(mech=mech):
                direct = self.client(self.old.port_tls, tls="implicit")
                challenge = direct.cmd(f"AUTH {mech} {frame}")
                self.assertRegex(challenge, r"\A\+ eyJ")
                c = self.client(self.port("implicit"), tls="implicit")
                self.assertEqual(c.cmd(f"AUTH {mech} {frame}"), challenge)
                self.assertReply(c.cmd(dummy), "-ERR [AUTH]")
                # And the session is good for another attempt.
                c.cmd(f"USER {NEW}")
                self.assertReply(c.cmd(f"PASS {PASSWORD}"), "+OK")

    def test_bad_password(self):
        """`-ERR`: the line goes to the client as it is"""
        c = self.client(self.port("implicit"), tls="implicit")
        c.cmd(f"USER {OLD}")
        self.assertEqual(c.cmd("PASS wrong"),
                         "-ERR [AUTH] Authentication failed.")
        c.cmd(f"USER {OLD}")
        self.assertReply(c.cmd(f"PASS {PASSWORD}"), "+OK")

    def test_locked_maildrop_and_dead_backend(self):
        """Backend unreachable, ...: `-ERR [SYS/TEMP] ...`"""
        d = Dovecot(certs(), "third", {OLD: PASSWORD})
        self.keep(d).start()
        daemon = self.mailferry({"implicit": {"tls": "implicit"}},
                                {"third": d.destination("starttls")})
        c = self.client(daemon, tls="implicit")
        c.cmd(f"USER {OLD}")
        self.assertReply(c.cmd(f"PASS {PASSWORD}"), "+OK")
        d.stop()
        self.assertEqual(c.rest().count(b"+OK"), 0)
        c = self.client(daemon, tls="implicit")
        c.cmd(f"USER {OLD}")
        self.assertTempFail(c.cmd(f"PASS {PASSWORD}"))
        d.start()
        c.cmd(f"USER {OLD}")
        self.assertReply(c.cmd(f"PASS {PASSWORD}"), "+OK")


class BehindDovecot(Interop):
    """A Dovecot that passes logins on, in front: it says by XCLIENT who the
    client is, and is believed."""

    def setUp(self):
        super().setUp()
        self.behind = self.backend(Pop3(
            greeting="+OK [XCLIENT] ready", xclient="+OK Updated"))
        self.ferry = self.mailferry(
            {tls: {"tls": tls, "xclient_trusted": ["127.0.0.1"]}
             for tls in ("plain", *LEGS)},
            {"old": self.old.destination("starttls"),
             "fake": self.behind.destination(forwarding="xclient")},
            {NEW: "fake"})

    def front(self, tls, how="", host="mail.example.com"):
        d = Dovecot(certs(), "front", {}, proxy=f"host={host} hostip=127.0.0.1"
                    f" port={self.ferry.port_of(tls)} {how}")
        return self.keep(d).start()

    def log_in(self, front, user):
        """The client and the reply."""
        c = self.client(front.port_tls, tls="implicit", source=CLIENT_IP)
        c.cmd(f"USER {user}")
        return c, c.cmd(f"PASS {PASSWORD}")

    def test_whose_client_it_is(self):
        """mailferry can stand behind mailferry or Dovecot"""
        for tls, how in (("starttls", "starttls=y"), ("implicit", "ssl=y")):
            with self.subTest(tls):
                front = self.front(tls, how)
                self.behind.forget()
                c, reply = self.log_in(front, NEW)
                self.assertReply(reply, "+OK")
                words = xclient_words(self.behind.connection())
                self.assertEqual((words["ADDR"], words["PORT"]),
                                 (CLIENT_IP, str(c.sock.getsockname()[1])))
                self.assertEqual(words["CLIENT-TRANSPORT"], "TLS")
                c.play("C: QUIT\nS: +OK\nCLOSED")
                # And all the way to another Dovecot.
                self.old.deliver(OLD, DOTS)
                mark = self.old.mark()
                c, reply = self.log_in(front, OLD)
                self.assertReply(reply, "+OK")
                self.assertReply(c.cmd("RETR 1"), "+OK")
                self.assertEqual(c.exactly(len(stuff(DOTS)) + 3),
                                 stuff(DOTS) + b".\r\n")
                c.play("C: DELE 1\nS: +OK\nC: QUIT\nS: +OK\nCLOSED")
                self.assertDeleted(self.old, OLD)
                wait_until(lambda m=mark: f"rip={CLIENT_IP},"
                           in self.old.output(m), "the client's address")

    def test_certificate(self):
        """What docs/behind-a-balancer.md says of it."""
        for how, ok in (("starttls=y", False), ("starttls=any-cert", True)):
            with self.subTest(how):
                front = self.front("starttls", how, "other.example.org")
                self.assertReply(self.log_in(front, NEW)[1],
                                 "+OK" if ok else "-ERR [SYS/TEMP]")

    def test_leg_in_clear(self):
        """Cleartext gate: Dovecot does not say CLIENT-TRANSPORT, so that a
        leg in clear counts as a client in clear, whatever the client has."""
        c, reply = self.log_in(self.front("plain"), NEW)
        self.assertReply(reply, "-ERR")
        c.close()
        self.assertEqual(self.behind.connections, [])


class Poplib(Interop):
    def test_poplib(self):
        @self.everywhere
        def one(tls, user, dovecot):
            for message in MESSAGES:
                dovecot.deliver(user, message)
            ctx = context(certs().ca)
            if tls == "implicit":
                pop = poplib.POP3_SSL("localhost", self.port(tls),
                                      context=ctx, timeout=30)
            else:
                pop = poplib.POP3("localhost", self.port(tls), timeout=30)
                self.assertIn("STLS", pop.capa())
                self.assertNotIn("USER", pop.capa())
                pop.stls(ctx)
            self.assertIn("SASL", pop.capa())
            self.assertEqual(pop.utf8()[:3], b"+OK")
            pop.user(user)
            pop.pass_(PASSWORD)
            got = set()
            for number in (1, 2):
                _, lines, _ = pop.retr(number)
                got.add(b"".join(line + b"\r\n" for line in lines))
                pop.dele(number)
            self.assertEqual(got, set(MESSAGES))
            pop.quit()
            self.assertDeleted(dovecot, user)


@need("pop3d", "unshare")
@need_root()
class OldServer(Case):
    """Mailutils behind us: USER and PASS only, with quirks of its age."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.old = Mailutils("olduser", PASSWORD)
        cls.addClassCleanup(cls.old.stop)
        cls.old.start()
        cls.daemon = cls.shared_mailferry(
            {"implicit": {"tls": "implicit"}},
            {"clear": cls.old.destination("plain"),
             "stls": cls.old.destination("starttls")},
            {"stls@example.com": "stls"},
            over={"routing": {"default_destination": "clear"}})

    def test_login_fetch_and_delete(self):
        """the backend's capabilities are learnt by a CAPA on the secured leg
        ... Capability lines may ... be malformed"""
        for _ in range(2):  # asked, then remembered
            self.old.deliver(DOTS)
            c = self.client(self.daemon, tls="implicit")
            c.play(f"""
                C: UTF8
                S: +OK
                C: USER olduser
                S: +OK
                C: PASS {PASSWORD}
                S: +OK
                C: STAT
                S: +OK 1
                C: RETR 1
                S: +OK""")
            self.assertIn("..dot", c.lines())
            c.play("""
                C: DELE 1
                S: +OK
                C: QUIT
                S: +OK
                CLOSED""")
            wait_until(lambda: os.path.getsize(self.old.mbox) == 0,
                       "the mbox is empty")


@need("curl")
class Curl(Interop):
    def curl(self, tls, user, *options, path="", password=PASSWORD, ok=True):
        scheme = "pop3s" if tls == "implicit" else "pop3"
        argv = ["curl", "--silent", "--show-error", "--cacert", certs().ca,
                "--interface", CLIENT_IP, "--max-time", "30"]
        if tls == "starttls":
            argv.append("--ssl-reqd")
        argv += list(options)
        argv += ["-u", f"{user}:{password}",
                 f"{scheme}://localhost:{self.port(tls)}/{path}"]
        done = run(argv)
        if ok:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_fetch_and_delete(self):
        big = large()
        @self.everywhere
        def one(tls, user, dovecot):
            for message in (DOTS, big):
                dovecot.deliver(user, message)
            mark = dovecot.mark()
            listing = self.curl(tls, user).stdout.split()
            self.assertEqual(len(listing), 4)
            got = {self.curl(tls, user, path=n).stdout for n in "12"}
            self.assertTrue(got == {DOTS, big}, "a message differs")
            for number in "21":
                self.curl(tls, user, "-X", f"DELE {number}", "--head",
                          path="")
            self.assertDeleted(dovecot, user)
            self.assertIn(f"rip={CLIENT_IP},", dovecot.output(mark))

    def test_mechanisms(self):
        @self.everywhere
        def one(tls, user, dovecot):
            dovecot.deliver(user, DOTS)
            for options in (["--login-options", "AUTH=PLAIN"],
                            ["--login-options", "AUTH=PLAIN", "--sasl-ir"],
                            ["--login-options", "AUTH=LOGIN"],
                            ["--login-options", "AUTH=LOGIN", "--sasl-ir"]):
                done = self.curl(tls, user, *options, path="1")
                self.assertEqual(done.stdout, DOTS, options)
            for mech in ("XOAUTH2", "OAUTHBEARER"):
                for ir in ([], ["--sasl-ir"]):
                    done = self.curl(
                        tls, user, "--oauth2-bearer", dovecot.token(user),
                        "--login-options", f"AUTH={mech}", *ir, path="1",
                        password="")
                    self.assertEqual(done.stdout, DOTS, (mech, ir))

    def test_refused(self):
        for tls in LEGS:
            self.assertEqual(self.curl(tls, OLD, password="wrong", ok=False)
                             .returncode, 67)
            # A token that is refused by way of a challenge.
            done = self.curl(tls, OLD, "--oauth2-bearer", jwt(OLD, b"x"),
                             "--login-options", "AUTH=XOAUTH2", password="",
                             ok=False)
            self.assertEqual(done.returncode, 67, done.stderr)

    def test_without_tls(self):
        """Cleartext gate"""
        done = run(["curl", "--silent", "--max-time", "30", "--interface",
                    CLIENT_IP, "-u", f"{OLD}:{PASSWORD}",
                    f"pop3://127.0.0.1:{self.port('starttls')}/"])
        self.assertNotEqual(done.returncode, 0)


@need("fetchmail")
class Fetchmail(Interop):
    def test_fetch_and_delete(self):
        @self.everywhere
        def one(tls, user, dovecot):
            for message in MESSAGES:
                dovecot.deliver(user, message)
            out = os.path.join(self.dir, f"mbox-{tls}-{user}")
            tls_words = "ssl" if tls == "implicit" else "sslproto tls1.2+"
            rc = self.write("fetchmailrc", f"""
                poll localhost protocol pop3 service {self.port(tls)}
                    user "{user}" password "{PASSWORD}"
                    {tls_words} sslcertck sslcertfile "{certs().ca}"
                    sslcommonname "localhost"
                    no rewrite fetchall no keep
                    mda "/usr/bin/tee -a {out}"
                """)
            check_run(["fetchmail", "--fetchmailrc", rc, "--nodetach",
                       "--nosyslog", "--pidfile", self.dir + "/pid",
                       "--idfile", self.dir + "/ids"],
                      env=dict(os.environ, HOME=self.dir))
            with open(out, "rb") as f:
                got = f.read()
            for message in MESSAGES:
                # It puts a Received: field first, and speaks LF to an MDA.
                _, body = message.replace(b"\r\n", b"\n").split(b"\n\n", 1)
                self.assertIn(b"\n\n" + body, got)
            self.assertDeleted(dovecot, user)


@need("mpop")
class Mpop(Interop):
    def mpop(self, tls, user, auth, secret, out, keep="off"):
        rc = self.write("mpoprc", f"""
account x
host localhost
port {self.port(tls)}
user {user}
password "{secret}"
auth {auth}
tls on
tls_starttls {"off" if tls == "implicit" else "on"}
tls_trust_file {certs().ca}
delivery mbox {out}
keep {keep}
received_header off
uidls_file {self.dir}/uidls
""")
        return run(["mpop", "-C", rc, "x"],
                   env=dict(os.environ, HOME=self.dir))

    def test_fetch_and_delete(self):
        @self.everywhere
        def one(tls, user, dovecot):
            for auth in ("plain", "user", "login"):
                for message in MESSAGES:
                    dovecot.deliver(user, message)
                out = os.path.join(self.dir, f"{tls}-{user}-{auth}")
                done = self.mpop(tls, user, auth, PASSWORD, out)
                self.assertEqual(done.returncode, 0, done.stderr)
                with open(out, "rb") as f:
                    got = f.read()
                for message in MESSAGES:
                    self.assertIn(message.replace(b"\r\n", b"\n"), got)
                self.assertDeleted(dovecot, user)

    def test_tokens(self):
        @self.everywhere
        def one(tls, user, dovecot):
            for auth in ("oauthbearer", "xoauth2"):
                dovecot.deliver(user, DOTS)
                out = os.path.join(self.dir, f"{tls}-{user}-{auth}")
                done = self.mpop(tls, user, auth, dovecot.token(user), out)
                if b"not supported" in done.stderr:
                    # GNU SASL's build decides what mpop can do.
                    self.skipTest(done.stderr.decode())
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertDeleted(dovecot, user)


@need("getmail")
class Getmail(Interop):
    """It has no STLS, and does not deliver as root."""

    def test_fetch_and_delete(self):
        who = pwd.getpwnam("nobody")
        for user, dovecot in ((OLD, self.old), (NEW, self.new)):
            with self.subTest(user=user):
                self.fetch(user, dovecot, who)

    def fetch(self, user, dovecot, who):
        for message in MESSAGES:
            dovecot.deliver(user, message)
        home = os.path.join(self.dir, user)
        box = os.path.join(home, "box")
        for path in [home, box] + [os.path.join(box, sub)
                                   for sub in ("cur", "new", "tmp")]:
            os.mkdir(path)
            os.chown(path, who.pw_uid, who.pw_gid)
        rc = os.path.join(home, "rc")
        with open(rc, "w", encoding="ascii") as f:
            f.write(f"""\
[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = {self.port("implicit")}
username = {user}
password = {PASSWORD}
ca_certs = {certs().ca}
[destination]
type = Maildir
path = {box}/
[options]
delete = true
received = false
delivered_to = false
read_all = true
""")
        os.chown(rc, who.pw_uid, who.pw_gid)
        os.chmod(rc, 0o600)
        done = run(["getmail", f"--getmaildir={home}", f"--rcfile={rc}"],
                   user=(who.pw_uid, who.pw_gid), cwd=home,
                   env={"PATH": "/usr/bin:/bin", "HOME": home,
                        "LC_ALL": "C.UTF-8"})
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, said)
        got = []
        for path in glob.glob(box + "/new/*"):
            with open(path, "rb") as f:
                first, rest = f.read().split(b"\n", 1)
                # Its own line.
                self.assertTrue(first.startswith(b"Return-Path:"), first)
                got.append(rest)
        self.assertEqual(sorted(got), sorted(
            m.replace(b"\r\n", b"\n") for m in MESSAGES), said)
        self.assertDeleted(dovecot, user)


@need("perl")
class PerlClient(Interop):
    """Net::POP3, which many scripts of hosters use."""
    SCRIPT = """
        use strict; use Net::POP3;
        my ($port, $ca, $tls, $user, $password) = @ARGV;
        my @tls = (SSL_ca_file => $ca, SSL_verifycn_name => 'localhost');
        my $implicit = $tls eq 'implicit';
        my $pop = Net::POP3->new('localhost', Port => $port, Timeout => 30,
                                 $implicit ? (SSL => 1, @tls) : ())
            or die "no connection";
        $implicit or $pop->starttls(@tls) or die "STLS: $@";
        my $n = $pop->login($user, $password);
        defined $n or die $pop->message;
        binmode STDOUT;
        for my $i (1 .. $n) {
            print @{$pop->get($i)};
            $pop->delete($i) or die;
        }
        $pop->quit;
    """

    def test_net_pop3(self):
        @self.everywhere
        def one(tls, user, dovecot):
            for message in MESSAGES:
                dovecot.deliver(user, message)
            script = self.write("pop.pl", self.SCRIPT)
            done = check_run(["/usr/bin/perl", script, str(self.port(tls)),
                              certs().ca, tls, user, PASSWORD])
            got = done.stdout.replace(b"\r\n", b"\n")
            for message in MESSAGES:
                self.assertIn(message.replace(b"\r\n", b"\n"), got)
            self.assertDeleted(dovecot, user)


@need("openssl")
class OpensslClient(Interop):
    def test_s_client(self):
        @self.everywhere
        def one(tls, user, dovecot):
            dovecot.deliver(user, DOTS)
            argv = ["openssl", "s_client", "-connect",
                    f"127.0.0.1:{self.port(tls)}", "-CAfile", certs().ca,
                    "-verify_return_error", "-verify_hostname", "localhost",
                    "-quiet", "-crlf", "-ign_eof"]
            if tls == "starttls":
                argv += ["-starttls", "pop3"]
            done = run(argv, timeout=30, stdin=(
                f"USER {user}\nPASS {PASSWORD}\nRETR 1\nDELE 1\nQUIT\n")
                .encode())
            self.assertIn(b"\r\n" + stuff(DOTS) + b".\r\n", done.stdout)
            self.assertDeleted(dovecot, user)


if __name__ == "__main__":
    unittest.main()
