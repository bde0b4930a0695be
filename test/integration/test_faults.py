"""Every fault at every stage: what a backend or a client may do wrong, or have
done to it, at each point of a session (PROTOCOL and CONFIG).

A table says for each cell what the client hears, within what time, what the
log calls it and whom the breaker blames, while a steady load on another
destination must notice nothing of it. What the clients waited is printed.
"""

import itertools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import unittest

from harness.case import Backend, Case, Pop3, certs
from harness.client import Client, b64, context, xoauth2
from harness.fake_backend import Gone, silent
from harness.mailferry import sanitized
from harness.ports import free_port, is_listening
from harness.proc import (DEADLINE, Process, cpu_seconds, descriptors,
                          temp_dir, wait_until)

# How much longer things may take with a slow build or machine.
FACTOR = float(os.environ.get("MAILFERRY_TEST_SLOWNESS",
                              "3" if sanitized() else "1"))
READY = 1.0 * min(FACTOR, 2)  # backend_timeout
ANSWER = 1.5 * min(FACTOR, 2)  # backend_auth_timeout
COOLDOWN = 1.0
THRESHOLD = 3
SLACK = 1.0 * FACTOR
QUICK = .9 * FACTOR  # for what needs no deadline to be noticed
GOOD_P99 = 1.0 * FACTOR

LONG_PASSWORD = "s" * 300  # too long for an inline response
CHALLENGE = b'{"status":"401"}'


class Way:
    """How a login reaches a backend: the leg's configuration and what the
    client does."""

    def __init__(self, tls="implicit", auth="auto", forwarding="none",
                 password="secret", bearer=False):
        self.tls, self.auth, self.forwarding = tls, auth, forwarding
        self.password, self.bearer = password, bearer


def talk(c, way, at):
    """A backend's side of a login. at(stage) is called when the proxy has
    done its part of it and the backend's is due."""
    if way.forwarding == "proxy":
        at("proxy")
        Backend._proxy_header(c)
    if way.tls == "implicit":
        at("handshake")
        c.starttls()
    at("greeting")
    c.send("+OK [XCLIENT] ready" if way.forwarding == "xclient"
           else "+OK ready")
    while True:
        verb, _, arg = c.line().partition(" ")
        if verb == "CAPA":
            first = way.tls == "starttls" and not c.tls
            at("capa" if first else "learn")
            c.raw(b"+OK\r\nUSER\r\nSASL PLAIN XOAUTH2\r\nAUTH-RESP-CODE\r\n"
                  + (b"STLS\r\n" if first else b"") + b".\r\n")
        elif verb == "STLS":
            at("stls")
            c.send("+OK")
            at("handshake")
            c.starttls()
        elif verb == "XCLIENT":
            at("xclient")
            c.send("+OK")
        elif verb == "USER":
            at("user")
            c.send("+OK")
        elif verb == "PASS":
            at("pass")
            break
        elif verb == "AUTH" and " " in arg and not way.bearer:
            at("auth")
            break
        elif verb == "AUTH" and way.bearer:
            if at("challenge offered"):
                c.send("+ " + b64(CHALLENGE))
                at("challenge")
                c.line()
                at("challenge answered")
            break
        elif verb == "AUTH":
            at("prompt")
            c.send("+ ")
            c.line()
            at("response")
            break
        else:
            c.send("-ERR unknown command")
    c.send("+OK logged in")
    while True:
        line = c.line()
        c.send("+OK")
        if line == "QUIT":
            c.close()
            return


# The faults. Each is given the connection; what follows it never happens.

def fin(c):
    c.close()


def cut(c):
    """FIN without close_notify."""
    c.sock.close()


def rst(c):
    c.reset()


def trickles(data):
    """One octet a second, and no end."""
    def fault(c):
        for i in range(len(data)):
            c.raw(data[i:i + 1])
            while select.select([c.sock], [], [], 1)[0]:
                c.octets()
    return fault


def says(data):
    def fault(c):
        c.raw(data)
        c.drain()
    return fault


def beneath(data):
    """Below TLS, where a record should be."""
    def fault(c):
        os.write(c.sock.fileno(), data)
        c.drain()
    return fault


def flood(c):
    while True:
        c.raw(b"A" * 16384)


trickle = trickles(b"+OK but slowly")
trickle_tls = trickles(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
garbage = says(b"\x80\xff\x01 \xc3\x28 what?\r\n")
control = says(b"+OK a\0b\rc\x1b[2J\r\n")
oversize = says(b"+OK " + b"x" * 600 + b"\r\n")
oversize_auth = says(b"+ " + b"x" * 20000 + b"\r\n")
twice = says(b"+OK\r\n+OK logged in\r\n")
endless = says(b"+OK\r\n" + b"X-CAPABILITY\r\n" * 200)
refusal = says(b"-ERR no\r\n")
busy = says(b"-ERR [SYS/TEMP] try later\r\n")
in_clear = beneath(b"+OK logged in\r\n")
alert = beneath(b"\x15\x03\x03\x00\x02\x02\x28")
huge_record = beneath(b"\x16\x03\x03\xff\xff" + b"x" * 100)

# Whose failure it is: counts at once, over distinct clients, or not at all.
HOST, CLIENT, NOBODY = "host", "client", "nobody"


class Fault:
    """A row of the table. failure: its name in the log; reply: what the
    client's reply begins with; wait: seconds until then (0: at once)."""

    def __init__(self, name, do, failure, blame, wait=0, reply=None):
        self.name, self.do = name, do
        self.failure, self.blame = failure, blame
        self.wait, self.reply = wait, reply


def closing(failure, blame, tls):
    """The ways to go away."""
    found = [Fault("FIN", fin, failure, blame),
             Fault("RST", rst, failure, blame)]
    if tls:
        found.append(Fault("FIN without close_notify", cut, failure, blame))
    return found


def quiet(failure, blame, wait, slowly=trickle):
    """The ways to say too little."""
    return [Fault("silence", silent, failure, blame, wait),
            Fault("trickle", slowly, failure, blame, wait)]


def nonsense(long, tls, lost, blame=CLIENT):
    """What is no reply, and what is no TLS."""
    found = [Fault("garbage", garbage, "protocol", blame),
             Fault("control bytes", control, "protocol", blame),
             Fault("over-long line", long, "protocol", blame),
             Fault("flood", flood, "protocol", blame)]
    if tls:
        found += [Fault("plaintext inside TLS", in_clear, lost, blame),
                  Fault("alert inside TLS", alert, lost, blame)]
    return found


def before_login(tls, *more):
    return (closing("closed", CLIENT, tls) + quiet("timeout", CLIENT, READY)
            + nonsense(oversize, tls, "closed") + list(more))


def login_sent(long, *more):
    # A stranger's login may be what made it do that.
    return (closing("dropped", NOBODY, True)
            + quiet("unanswered", NOBODY, ANSWER)
            + nonsense(long, True, "dropped", NOBODY)
            + [Fault("-ERR", refusal, "rejected", NOBODY, reply="-ERR no"),
               Fault("-ERR [SYS/TEMP]", busy, "busy", NOBODY,
                     reply="-ERR [SYS/TEMP] try later")] + list(more))


HANDSHAKE = closing("closed", CLIENT, False) + quiet(
    "timeout", CLIENT, READY, trickle_tls) + [
    Fault("garbage", garbage, "tls", CLIENT),
    Fault("plaintext", in_clear, "tls", CLIENT),
    Fault("alert", alert, "tls", CLIENT),
    Fault("over-long record", huge_record, "tls", CLIENT),
    Fault("flood", flood, "tls", CLIENT)]

TWICE = Fault("two replies", twice, "protocol", CLIENT)
TWICE_LATE = Fault("two replies", twice, "protocol", NOBODY)
REFUSED = Fault("-ERR", refusal, "rejected", NOBODY, reply="-ERR no")

IMPLICIT, STARTTLS = Way(), Way("starttls")
USER = Way(auth="user")
SASL = Way(auth="sasl")
TWO_STEPS = Way(auth="sasl", password=LONG_PASSWORD)
BEARER = Way(bearer=True)

VERDICT = "-ERR [AUTH] Authentication failed."


def after_challenge(f):
    """Without a reply the challenge counts. The client sees it only then, so
    it does not wait for the rest."""
    if f.failure in ("dropped", "unanswered"):
        return Fault(f.name, f.do, "rejected", NOBODY, reply=VERDICT)
    return Fault(f.name, f.do, f.failure, NOBODY, reply=f.reply)


# (title, stage in talk(), way, faults, whether credentials are out)
STAGES = [
    ("PROXY header", "proxy", Way(forwarding="proxy"), HANDSHAKE, False),
    ("TLS handshake", "handshake", IMPLICIT, HANDSHAKE, False),
    ("greeting in TLS", "greeting", IMPLICIT, before_login(
        True, TWICE, Fault("-ERR", refusal, "closed", CLIENT)), False),
    ("greeting in clear", "greeting", STARTTLS, before_login(
        False, TWICE, Fault("-ERR", refusal, "closed", CLIENT)), False),
    ("CAPA", "capa", STARTTLS, before_login(
        False, Fault("no end", endless, "protocol", CLIENT),
        Fault("-ERR", refusal, "tls", CLIENT)), False),
    ("STLS", "stls", STARTTLS, before_login(
        False, TWICE, Fault("-ERR", refusal, "tls", CLIENT)), False),
    ("handshake after STLS", "handshake", STARTTLS, HANDSHAKE, False),
    ("XCLIENT", "xclient", Way("starttls", forwarding="xclient"),
     before_login(True, TWICE,
                  Fault("-ERR", refusal, "forwarding", NOBODY)), False),
    # A server that hangs up on CAPA is asked by USER on a fresh connection:
    # test_session_backend has that.
    ("second CAPA", "learn", STARTTLS, [
        f for f in before_login(
            True, Fault("no end", endless, "protocol", CLIENT))
        if f.do not in (fin, rst, cut)], False),
    # From here on the client's own login is what the backend hears.
    ("USER", "user", USER, closing("closed", NOBODY, True)
     + quiet("timeout", NOBODY, ANSWER)
     + nonsense(oversize, True, "closed", NOBODY)
     + [TWICE_LATE, REFUSED], False),
    ("PASS", "pass", USER, login_sent(oversize), True),
    ("AUTH prompt", "prompt", TWO_STEPS, closing("closed", NOBODY, True)
     + quiet("timeout", NOBODY, ANSWER)
     + nonsense(oversize_auth, True, "closed", NOBODY)
     + [TWICE_LATE, Fault("-ERR", refusal, "setup", NOBODY)], False),
    # A bare "-ERR" there would mean: not in this form. One that hangs up
    # there is sent the response in two steps the next time.
    ("AUTH sent", "auth", SASL, [
        f for f in login_sent(oversize_auth)
        if f.do not in (refusal, fin, rst, cut)]
     + [Fault("-ERR [AUTH]", says(b"-ERR [AUTH] no\r\n"), "rejected", NOBODY,
              reply="-ERR [AUTH] no")], True),
    ("response sent", "response", TWO_STEPS, login_sent(oversize_auth), True),
    # The challenge is the verdict, and who offers one is well.
    ("challenge", "challenge", BEARER, [
        after_challenge(f) for f in closing("dropped", NOBODY, True)
        + [Fault(n.name, n.do, "protocol", NOBODY)
           for n in nonsense(oversize_auth, False, "")]
        + [Fault("plaintext inside TLS", in_clear, "dropped", NOBODY)]],
     True),
    ("challenge answered", "challenge answered", BEARER, [
        after_challenge(f) for f in login_sent(oversize_auth)], True),
]


# What the log says is waited for, where that is not the stage's name.
STATES = {"": "connect", "proxy": "handshake", "prompt": "auth prompt",
          "response": "auth result", "challenge": "cancel",
          "challenge answered": "cancel"}

REFUSES = Fault("refused", None, "connect", HOST)
UNANSWERED = Fault("SYN unanswered", None, "timeout", HOST, READY)


class Cell:
    """One fault at one stage: a backend that has it, and what is expected.
    steps: (client, how many at once, failure, whether it is down then)."""

    def __init__(self, number, title, stage, way, fault):
        self.name = f"c{number}"
        self.title, self.stage, self.way = title, stage, way
        self.fault = fault
        self.sick = True
        self.seen = 0  # logins that came to the stage
        self.back = None  # seconds until it was used again
        self.waits = []
        self.source = [f"127.1.{number}.{n}" for n in (1, 2)]
        self.backend = None

    def __str__(self):
        return f"{self.title}: {self.fault.name}"

    def listen(self):
        self.backend = Backend(certs(), self.script, tls="plain")
        self.port = self.backend.port

    def script(self, c):
        def at(stage):
            if not self.sick or stage != self.stage:
                return self.sick
            if stage in ("proxy", "handshake"):
                c.octets()  # unread, it would make each FIN a RST
            self.seen += 1
            self.fault.do(c)
            raise Gone("the fault is done")
        talk(c, self.way, at)

    def state(self):
        """What is waited for when the fault is noticed."""
        if self.fault.do is endless:
            return f"{self.stage} body"
        return STATES.get(self.stage, self.stage)

    def challenged(self, log, user):
        """Waits until it is a client's turn to answer a challenge."""
        if self.stage == "challenge":
            log.failure(user)

    def revive(self):
        self.sick = False

    def close(self):
        self.backend.close()

    def destination(self):
        return destination(self.way, self.port)

    def begin(self):
        pass

    def strike(self):
        pass

    def wait_of(self, failure):
        """How long that failure takes to be noticed."""
        return self.fault.wait if failure == self.fault.failure else 0

    def steps(self):
        f = self.fault.failure
        return {
            HOST: [(0, THRESHOLD, f, True), (1, 1, "down", True)],
            CLIENT: [(0, THRESHOLD, f, False), (1, 1, f, True),
                     (0, 1, "down", True)],
            NOBODY: [(0, THRESHOLD, f, False), (1, 1, f, False),
                     (0, 1, f, False)],
        }[self.fault.blame]


class Refusing(Cell):
    """Nobody listens."""

    def listen(self):
        self.port = free_port()

    def revive(self):
        self.sick = False
        self.backend = Backend(certs(), self.script, tls="plain",
                               port=self.port)

    def close(self):
        if self.backend:
            self.backend.close()


class Deaf(Cell):
    """The backlog is full: the kernel drops the SYN."""

    def listen(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.queued = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", self.port))
            self.queued.append(s)

    def revive(self):
        self.sick = False
        for s in self.queued:
            s.close()
        self.backend = Backend(certs(), self.script, tls="plain",
                               listener=self.listener)

    def close(self):
        if self.backend:
            self.backend.close()
        else:
            self.listener.close()


class Outside(Cell):
    """A backend in a process of its own, which holds each login at the stage
    until the process is killed or stopped."""

    def __init__(self, number, title, stage, way, fault):
        super().__init__(number, title, stage, way, fault)
        self.number = fault.do
        self.dir = temp_dir()
        self.process = None
        self.begun = False
        self.struck = threading.Event()

    def path(self, name):
        return os.path.join(self.dir, name)

    def listen(self):
        self.port = free_port()
        self.write("hold")

    def write(self, mode):
        """What connections do from now on."""
        with open(self.path("new"), "w", encoding="ascii") as f:
            f.write(mode)
        os.rename(self.path("new"), self.path("mode"))

    def launch(self):
        way = self.way
        self.process = Process(
            [sys.executable, "-B", __file__, "serve", self.port, self.stage,
             json.dumps(vars(way)), self.dir, certs().dir],
            self.path("log"), cwd=os.path.dirname(os.path.abspath(__file__)))
        wait_until(lambda: is_listening(self.port), "the backend listens")

    def held(self):
        try:
            return os.path.getsize(self.path("held"))
        except FileNotFoundError:
            return 0

    def begin(self):
        self.launch()

    def strike(self):
        """Called while the first logins are under way."""
        if self.begun:
            return
        self.begun = True
        wait_until(lambda: self.held() >= THRESHOLD,
                   f"{THRESHOLD} logins at the stage")
        self.process.signal(self.number)
        if self.number == signal.SIGKILL:
            self.process.wait()
        self.struck.set()

    def challenged(self, _log, _user):
        if self.stage == "challenge":
            self.struck.wait(DEADLINE)

    def revive(self):
        self.write("well")
        if self.number == signal.SIGKILL:
            self.launch()
        else:
            self.process.signal(signal.SIGCONT)

    def close(self):
        if self.process:
            self.process.kill()

    def wait_of(self, failure):
        return {"timeout": READY, "unanswered": ANSWER}.get(failure, 0)

    def steps(self):
        f = self.fault.failure
        if self.number == signal.SIGKILL:
            # Then nobody listens, which is the host's own failure.
            return [(0, THRESHOLD, f, False),
                    (0, THRESHOLD, "connect", True), (1, 1, "down", True)]
        if f in ("unanswered", "rejected") or \
                self.stage in ("user", "prompt"):
            # Those had sent their login, which blames nobody. The kernel
            # still accepts, nobody greets.
            return [(0, THRESHOLD, f, False),
                    (0, THRESHOLD, "timeout", False),
                    (1, 1, "timeout", True), (0, 1, "down", True)]
        return [(0, THRESHOLD, f, False), (1, 1, "timeout", True),
                (0, 1, "down", True)]


class Made:
    """The certificates that another process has made."""

    def __init__(self, directory):
        self.dir = directory

    def cert(self, name):
        return os.path.join(self.dir, f"{name}.pem")

    def key(self, name):
        return os.path.join(self.dir, f"{name}.key")


def serve(port, stage, way, directory, made):
    """The process of an Outside cell."""
    held = open(os.path.join(directory, "held"), "ab", buffering=0)

    def script(c):
        def at(reached):
            with open(os.path.join(directory, "mode"),
                      encoding="ascii") as f:
                sick = f.read() == "hold"
            if sick and reached == stage:
                if stage in ("proxy", "handshake"):
                    c.octets()
                held.write(b".")
                # Until the process dies; what comes then finds it well.
                c.drain()
                raise Gone("it was held")
            return sick
        talk(c, way, at)
    Backend(Made(made), script, tls="plain", port=port)
    threading.Event().wait()


def destination(way, port):
    """The section of a destination."""
    return {"host": "127.0.0.1", "forwarding": way.forwarding,
            "tls_server_name": "mail.example.com",
            "tls_ca_file": certs().ca,
            "protocol": {"pop3": {"port": port, "tls": way.tls,
                                  "auth": way.auth}}}


def ms(seconds):
    return f"{int(seconds * 1000)}ms"


COUNT = itertools.count()


def login(c, way, user, challenged=lambda: None):
    """Logs a client in: the reply, and the seconds it waited for it.
    challenged() is called before a challenge is answered."""
    if way.bearer:
        start = time.monotonic()
        reply = c.cmd("AUTH XOAUTH2 " + xoauth2(user, "token"))
        if reply.startswith("+ "):
            challenged()
            start = time.monotonic()
            reply = c.cmd("")
    else:
        c.cmd(f"USER {user}")
        start = time.monotonic()
        reply = c.cmd(f"PASS {way.password}")
    return reply, time.monotonic() - start


class Log:
    """A daemon's log, read as it grows."""

    def __init__(self, daemon):
        self.path = daemon.log_path
        self.lock = threading.Lock()
        self.offset = 0
        self.failed = {}  # user: record
        self.down = set()  # destinations that were ever marked down

    def read(self):
        with self.lock, open(self.path, "rb") as f:
            f.seek(self.offset)
            data = f.read()
            data = data[:data.rfind(b"\n") + 1]
            self.offset += len(data)
            for line in data.splitlines():
                if line.startswith(b"{"):
                    self._take(json.loads(line))

    def _take(self, record):
        if record.get("failure") and "user" in record:
            self.failed[record["user"]] = record
        elif "destination is down" in record.values():
            self.down.add(record["destination"])

    def failure(self, user):
        def look():
            self.read()
            return self.failed.get(user)
        return wait_until(look, f"a failed login of {user}")


class Steady:
    """Clients of the destination that is well, one after the other."""

    def __init__(self, port, sources, pause=.01):
        self.port = port
        self.pause = pause
        self.waits = []
        self.broken = []
        self.over = threading.Event()
        self.ctx = context(certs().ca)
        self.threads = [threading.Thread(target=self._run, args=(source,),
                                         daemon=True) for source in sources]
        for thread in self.threads:
            thread.start()

    def _run(self, source):
        while not self.over.is_set():
            try:
                with Client(self.port, tls="implicit", source=source,
                            ctx=self.ctx) as c:
                    c.cmd("USER good@example.com")
                    start = time.monotonic()
                    reply = c.cmd("PASS secret")
                    self.waits.append(time.monotonic() - start)
                    if not reply.startswith("+OK"):
                        self.broken.append(reply)
                    c.cmd("QUIT")
                    c.closed()
            except (AssertionError, OSError) as e:
                self.broken.append(repr(e))
            self.over.wait(self.pause)

    def take(self):
        """What was waited since the last call."""
        n = len(self.waits)
        waits, self.waits[:n] = sorted(self.waits[:n]), []
        return waits

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(DEADLINE)


def quantile(waits, q):
    return waits[min(len(waits) - 1, int(len(waits) * q))] if waits else 0


def shown(waits):
    return f"{len(waits):4} logins, p50 {quantile(waits, .5) * 1e3:7.1f} ms," \
        f" p99 {quantile(waits, .99) * 1e3:7.1f} ms"


class BackendLeg(Case):
    """What the backend does at each stage of the login."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cells = []
        cls.add(Refusing, "connecting", "", IMPLICIT, REFUSES)
        cls.add(Deaf, "connecting", "", IMPLICIT, UNANSWERED)
        for title, stage, way, faults, out in STAGES:
            for fault in faults:
                cls.add(Cell, title, stage, way, fault)
            for fault in (
                    Fault("kill -9", signal.SIGKILL,
                          "dropped" if out else "closed", CLIENT),
                    Fault("SIGSTOP", signal.SIGSTOP,
                          "unanswered" if out else "timeout", CLIENT,
                          ANSWER if out or stage in ("user", "prompt")
                          else READY)):
                if stage == "learn" and fault.do == signal.SIGKILL:
                    continue  # as above: USER is tried, and nobody listens
                cls.add(Outside, title, stage, way, after_challenge(fault)
                        if "challenge" in stage else fault)
        good = Backend(certs(), tls="implicit")
        cls.addClassCleanup(good.close)
        cls.daemon = cls.shared_mailferry(
            {"pop3": {"tls": "plain"}, "pop3s": {"tls": "implicit"}},
            {"good": good.destination(),
             **{c.name: c.destination() for c in cls.cells}},
            {f"@{c.name}": c.name for c in cls.cells},
            over={"server": {"log_level": "info",
                             "host_down_threshold": THRESHOLD,
                             "host_down_min_clients": 2,
                             "host_down_cooldown": ms(COOLDOWN),
                             "backend_connect_retries": 0,
                             "backend_timeout": ms(READY),
                             "backend_auth_timeout": ms(ANSWER)},
                  "capabilities": {"pop3": {
                      "allow_plain_auth_without_tls": True}}})
        cls.log = Log(cls.daemon)
        cls.steady = Steady(cls.daemon.port_of("pop3s"),
                            [f"127.0.0.{n}" for n in range(51, 55)])
        cls.addClassCleanup(cls.steady.stop)
        wait_until(lambda: len(cls.steady.waits) >= 20, "the steady load")

    @classmethod
    def add(cls, kind, *args):
        cell = kind(len(cls.cells), *args)
        cell.listen()
        cls.addClassCleanup(cell.close)
        cls.cells.append(cell)

    def once(self, cell, source, start=None):
        """One login: the user, the reply and the seconds until it came."""
        user = f"u{next(COUNT)}@{cell.name}"
        with Client(self.daemon.port, source=source) as c:
            if start:
                start.wait(DEADLINE)
            reply, took = login(c, cell.way, user,
                                lambda: cell.challenged(self.log, user))
            return user, reply, took

    def together(self, cell, source, count):
        """So many logins at once."""
        found, start = [], threading.Barrier(count)

        def run():
            try:
                found.append(self.once(cell, source, start))
            except (AssertionError, OSError, threading.BrokenBarrierError) \
                    as e:
                found.append((None, repr(e), 0))
        threads = [threading.Thread(target=run, daemon=True)
                   for _ in range(count)]
        for thread in threads:
            thread.start()
        cell.strike()
        for thread in threads:
            thread.join(2 * DEADLINE)
        self.assertEqual(len(found), count)
        return found

    def check(self, cell, failure, user, reply, took, first=False):
        self.assertIsNotNone(user, reply)
        cell.waits.append(took)
        if cell.fault.reply and failure == cell.fault.failure:
            self.assertEqual(reply, cell.fault.reply)
        else:
            self.assertTempFail(reply)
        record = self.log.failure(user)
        self.assertEqual(record["failure"], failure, record)
        if first and not cell.fault.reply:
            state = cell.state()
            self.assertTrue(record["reason"].endswith(
                f"(waiting for: {state})"), record["reason"])
        wait = cell.wait_of(failure)
        self.assertGreaterEqual(took, wait - .02)
        self.assertLess(took, (wait + SLACK) if wait else QUICK)

    def run_cell(self, cell):
        """All that is expected of a cell."""
        cell.begin()
        for step, (who, count, failure, down) in enumerate(cell.steps()):
            found = self.together(cell, cell.source[who], count)
            for one in found:
                self.check(cell, failure, *one, step == 0)
            self.log.read()
            self.assertEqual(cell.name in self.log.down, down,
                             f"down after {count} times {failure!r}")
        began = time.monotonic()
        cell.revive()
        limit = COOLDOWN + SLACK
        while True:
            asked = time.monotonic() - began
            user, reply, took = self.once(cell, cell.source[0])
            if reply.startswith("+OK"):
                break
            self.assertTempFail(reply)
            self.assertLess(asked, limit, "not revived: " + reply)
            time.sleep(.05)
        cell.back = time.monotonic() - began
        if cell.backend:
            self.assertEqual(cell.backend.errors, [], "the backend's script")

    def run_stage(self, title, cells):
        """All cells of a stage side by side; what went wrong."""
        wrong = {}

        def run(cell):
            try:
                self.run_cell(cell)
            except Exception as e:  # noqa: reported with the cell's name
                wrong[cell] = e
        self.steady.take()
        threads = [threading.Thread(target=run, args=(cell,), daemon=True)
                   for cell in cells]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(8 * DEADLINE)
        # A stage may be over sooner than there is something to say of it.
        wait_until(lambda: len(self.steady.waits) >= 100, "the steady load")
        good = self.steady.take()
        sick = sorted(w for cell in cells for w in cell.waits)
        back = max((cell.back for cell in cells if cell.back), default=0)
        print(f"\n{title}: {len(cells)} faults, back within {back:.2f} s\n"
              f"  sick: {shown(sick)}\n  good: {shown(good)}",
              end="", flush=True)
        for cell in cells:
            with self.subTest(str(cell)):
                if cell in wrong:
                    raise wrong[cell]
        with self.subTest(title + ": the other destination"):
            self.assertEqual(self.steady.broken, [])
            self.assertLess(quantile(good, .99), GOOD_P99)

    def test_every_stage(self):
        """Backend unreachable, down, full, timed out, or speaking nonsense:
        `-ERR [SYS/TEMP] ...`, without the words password, login or
        authentication"""
        for title in dict.fromkeys(c.title for c in self.cells):
            self.run_stage(title, [c for c in self.cells if c.title == title])


# The client's leg

PREAUTH = 1.5  # preauth_timeout
HEADER = 1.0  # proxy_header_timeout
IDLE = 2.0  # bridge_idle
LOOKUP = 1.5  # lookup_timeout
CLOSING = 5.0  # for a last reply that nobody reads
WATCH = 1.0  # how often a client that waits for its login is looked after
BULK = 4 << 20  # octets of a message, more than the buffers on its way hold


class Visitor:
    """A client at some stage, with an address of its own."""

    def __init__(self, leg, source):
        self.leg, self.source = leg, source
        self.client = None
        self.began = 0

    def connect(self, listener, **keys):
        keys.setdefault("tls", "plain")
        self.began = time.monotonic()
        self.client = Client(self.leg.daemon.port_of(listener),
                             source=self.source, ctx=self.leg.ctx,
                             timeout=4 * DEADLINE, **keys)
        return self.client

    @property
    def ip(self):
        return self.source


def at_accept(v):
    v.connect("pop3s", greeting=False)


def at_proxy_header(v):
    v.connect("proxied", greeting=False, first=b"PROXY TCP4 192.0.2.1 127.0")


def at_hello(v):
    v.connect("pop3s", greeting=False,
              first=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 9)


def at_greeting(v):
    v.connect("pop3")


def at_dialogue(v):
    v.connect("pop3s", tls="implicit").cmd("USER alice")


def at_stls(v):
    v.connect("pop3").cmd("STLS")


def at_prompt(v):
    v.connect("pop3s", tls="implicit").cmd("AUTH PLAIN")


def at_store(v):
    """The store does not answer."""
    c = v.connect("pop3s", tls="implicit")
    c.cmd(f"USER {v.ip}@good")
    c.send("PASS secret")
    wait_until(lambda: [asked for asked in list(v.leg.store.connections)
                        if v.ip.encode() in asked.clear], "the lookup")


def at_backend(v):
    """The backend does not answer the login before the test says so."""
    c = v.connect("pop3s", tls="implicit")
    c.cmd(f"USER {v.ip}@held")
    c.send("PASS secret")
    wait_until(lambda: v.ip in v.leg.held, "the login at the backend")


def at_relay(v):
    c = v.connect("pop3s", tls="implicit")
    c.cmd(f"USER {v.ip}@good")
    reply = c.cmd("PASS secret")
    if not reply.startswith("+OK"):
        raise AssertionError(reply)


def at_line_up(v):
    at_relay(v)
    v.client.raw(b"NOO")


def at_message_down(v):
    c = v.connect("pop3s", tls="implicit", receive_buffer=16384)
    c.cmd(f"USER {v.ip}@good")
    c.cmd("PASS secret")
    c.cmd("RETR 1")


def at_quit(v):
    at_relay(v)
    v.client.send("QUIT")


def leaves(v):
    v.client.half_close()


def resets(v):
    v.client.reset()


def nothing(_v):
    pass


def dribbles(data, pause=.25):
    """Octets one by one until the other side closes."""
    def fault(v):
        try:
            for i in range(len(data)):
                v.client.raw(data[i:i + 1], note=False)
                if select.select([v.client.sock], [], [], pause)[0]:
                    return
        except OSError:
            pass
    return fault


def sends(data):
    def fault(v):
        try:
            v.client.raw(data)
        except OSError:
            pass  # it closes on the first of it
    return fault


def never_reads(data):
    """Asks and asks, and takes no answer: with little room for them, so that
    the daemon soon comes to where none leaves any more. Not for longer than
    that: whoever else is tested runs in this process too."""
    def fault(v):
        sock = v.client.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(.2)
        try:
            while True:
                sock.sendall(data)
        except OSError:
            pass
        sock.settimeout(4 * DEADLINE)
    return fault


def then_answered(do):
    """While the backend thinks about the login, for long enough that the
    client has been looked after."""
    def fault(v):
        do(v)
        v.leg.over.wait(2 * WATCH)
        v.leg.release(v.ip)
        reply = v.client.line()
        if not reply.startswith("+OK"):
            raise AssertionError(reply)
    return fault


def then_refused(do):
    def fault(v):
        do(v)
        v.leg.assertTempFail(v.client.line())
    return fault


class Visit:
    """A row of the client's table. ends: the reasons that the session's end
    may have in the log; within: seconds (from, to) until then."""

    def __init__(self, title, stage, name, do, ends, within, calm=True):
        self.title, self.stage, self.name, self.do = title, stage, name, do
        self.ends = (ends,) if isinstance(ends, str) else ends
        self.within = within
        self.least, self.most = within
        self.calm = calm

    def __str__(self):
        return f"{self.title}: {self.name}"


SOON = (0, QUICK)
STALLED = (0, 3 * IDLE * FACTOR + SLACK)  # octets still move for a while
OCTETS = b"x" * 200
NO_TLS = "TLS handshake failed"


def after(seconds):
    """A deadline, counted from a stage that was reached a moment ago; at the
    earliest from the connection."""
    return seconds - .1, seconds + SLACK


def visits():
    rows = []

    def stage(title, reach, *cells):
        for name, do, ends, within, *noisy in cells:
            rows.append(Visit(title, reach, name, do, ends, within,
                              not noisy))
    stage("accept", at_accept,
          ("FIN", leaves, NO_TLS, SOON),
          ("RST", resets, NO_TLS, SOON),
          ("silence", nothing, "timeout", after(PREAUTH)),
          ("trickle", dribbles(b"\x16\x03\x01\x02\x00\x01\x00\x01" + OCTETS),
           "timeout", after(PREAUTH)),
          ("garbage", sends(b"\xff\xfe\x01 what?\r\n"), NO_TLS, SOON),
          ("flood", sends(b"A" * (1 << 20)), NO_TLS, SOON, 1))
    stage("PROXY header half sent", at_proxy_header,
          ("FIN", leaves, "client closed", SOON),
          ("RST", resets, "client closed", SOON),
          ("silence", nothing, "no PROXY header", after(HEADER)),
          ("trickle", dribbles(b"." + b"1" * 3), "no PROXY header",
           after(HEADER)),
          ("garbage", sends(b"\x80\xff\r\n"), "no PROXY header", SOON),
          ("flood", sends(b"1" * (1 << 20)), "no PROXY header", SOON, 1))
    stage("handshake half sent", at_hello,
          ("FIN", leaves, NO_TLS, SOON),
          ("RST", resets, NO_TLS, SOON),
          ("silence", nothing, "timeout", after(PREAUTH)),
          ("trickle", dribbles(OCTETS), "timeout", after(PREAUTH)),
          ("garbage", sends(b"\xff" * 600), NO_TLS, SOON),
          ("flood", sends(b"\xff" * (1 << 20)), NO_TLS, SOON, 1))
    dialogue = (
        ("RST", resets, "client lost", SOON),
        ("silence", nothing, "timeout before login", after(PREAUTH)),
        ("trickle", dribbles(OCTETS), "timeout before login",
         after(PREAUTH)),
        ("over-long line", sends(b"A" * 70000), "line too long", SOON),
        ("flood", sends(b"A" * (1 << 20)), "line too long", SOON, 1))
    commands = (
        ("FIN", leaves, "client closed", SOON),
        ("garbage", sends(b"\x80\xff\0\r\n" * 11), "too many bad commands",
         SOON),
        # Its last reply cannot leave either; or it just can.
        ("never reads", never_reads(b"CAPA\r\n" * 1000),
         ("timeout", "timeout before login", "too many commands"),
         (0, PREAUTH + CLOSING + SLACK)))
    stage("greeting", at_greeting, *dialogue, *commands)
    stage("dialogue", at_dialogue, *dialogue, *commands)
    stage("between STLS and ClientHello", at_stls,
          ("FIN", leaves, NO_TLS, SOON),
          ("RST", resets, NO_TLS, SOON),
          ("silence", nothing, "timeout", after(PREAUTH)),
          ("trickle", dribbles(b"\x16\x03\x01\x02\x00\x01\x00\x01" + OCTETS),
           "timeout", after(PREAUTH)),
          ("garbage", sends(b"CAPA\r\n"), NO_TLS, SOON),
          ("flood", sends(b"A" * (1 << 20)), NO_TLS, SOON, 1))
    stage("AUTH prompt", at_prompt, *dialogue,
          ("FIN", leaves, "client closed", SOON),
          ("garbage", sends(b"\x80\xff\0\r\n"), "timeout before login",
           after(PREAUTH)))
    stage("backend awaited", at_backend,
          ("RST", resets, "client lost", (0, WATCH + SLACK)),
          # It may still want to know.
          ("FIN", then_answered(leaves), ("client closed", "backend closed"),
           (2 * WATCH, 2 * WATCH + SLACK)),
          ("garbage", then_answered(sends(b"\x80\xff\0\r\n")), "idle",
           after(2 * WATCH + IDLE)))
    relay = (
        ("FIN", leaves, "client closed", SOON),
        ("RST", resets, "client lost", SOON),
        ("silence", nothing, "idle", after(IDLE)))
    stage("relay", at_relay, *relay,
          ("garbage", sends(b"\x80\xff\0\r\n"), "idle", after(IDLE)),
          ("never reads", never_reads(b"NOOP\r\n" * 1000), "idle",
           STALLED, 1))
    stage("mid-line up", at_line_up, *relay,
          ("flood", sends(b"A" * (1 << 20)), "idle", STALLED, 1))
    stage("mid-message down", at_message_down,
          ("RST", resets, "client lost", SOON),
          ("never reads", nothing, "idle", after(IDLE)))
    stage("QUIT sent", at_quit,
          ("FIN", leaves, ("client closed", "backend closed"), SOON),
          ("RST", resets, ("client lost", "client closed", "backend closed"),
           SOON),
          ("silence", nothing, "backend closed", SOON))
    return rows


class ClientLeg(Case):
    """What a client does at each stage of its session."""

    def setUp(self):
        super().setUp()
        self.held = {}  # who has come to the backend that waits
        self.over = threading.Event()
        self.ctx = context(certs().ca)
        self.lock = threading.Lock()
        self.offset, self.records, self.ends = 0, [], {}
        good = self.backend(Pop3(messages=[
            (b"m" * 70 + b"\r\n") * (BULK // 72)]), tls="implicit")
        self.addCleanup(good.forget)  # no evidence
        held = self.backend(Pop3(check=self.hold), tls="implicit")
        self.addCleanup(self.release)
        self.daemon = self.mailferry(
            {"pop3": {"tls": "starttls", "preauth_timeout": ms(PREAUTH)},
             "pop3s": {"tls": "implicit", "preauth_timeout": ms(PREAUTH)},
             "steady": {"tls": "implicit"},
             "proxied": {"tls": "starttls", "proxy_protocol": "required",
                         "proxy_trusted": ["127.0.0.0/8"],
                         "proxy_header_timeout": ms(HEADER)}},
            {"good": good.destination(), "held": held.destination()},
            {"@good": "good", "@held": "held"},
            over={"server": {"shutdown_grace": "60s",
                             "bridge_idle": ms(IDLE),
                             "backend_timeout": "5s",
                             "backend_auth_timeout": "20s",
                             # A single one blamed on a backend would show.
                             "host_down_threshold": 1,
                             "host_down_min_clients": 1}})

    def hold(self, _c, _mech, frame):
        """A backend's answer to a login, when the test wants it."""
        released = threading.Event()
        self.held[frame.split(b"\0")[1].decode().split("@")[0]] = released
        released.wait(2 * DEADLINE)
        return "+OK"

    def release(self, ip=None):
        """Answers one, or all."""
        for who, released in list(self.held.items()):
            if ip in (None, who):
                released.set()

    def ended(self, ip):
        def look():
            with self.lock:
                self.tail()
                return self.ends.get(ip)
        return look

    def tail(self):
        with open(self.daemon.log_path, "rb") as f:
            f.seek(self.offset)
            data = f.read()
        data = data[:data.rfind(b"\n") + 1]
        self.offset += len(data)
        for line in data.splitlines():
            if line.startswith(b"{"):
                record = json.loads(line)
                self.records.append(record)
                if "session closed" in record.values():
                    self.ends[record["client"]] = record

    def visit(self, row, ip):
        v = Visitor(self, ip)
        try:
            row.stage(v)
            start = time.monotonic()
            row.do(v)
            if row.within is STALLED:
                start = time.monotonic()
            record = wait_until(self.ended(ip), f"the end of {row}",
                                row.most + 2 * DEADLINE)
            took = time.monotonic() - start
            self.assertIn(record["reason"], row.ends)
            self.assertGreaterEqual(time.monotonic() - v.began, row.least)
            self.assertLess(took, row.most)
            return took
        finally:
            if v.client:
                v.client.close()

    def together(self, rows, first):
        """All rows side by side; what went wrong."""
        wrong = {}

        def run(row, ip):
            try:
                row.took = self.visit(row, ip)
            except Exception as e:  # noqa: reported with the row's name
                wrong[row] = e
        threads = [threading.Thread(
            target=run, args=(row, f"127.2.{first}.{n + 1}"), daemon=True)
            for n, row in enumerate(rows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(8 * DEADLINE)
        return wrong

    def test_every_stage(self):
        """preauth_timeout: PROXY header + TLS handshake + dialogue up to the
        login; bridge_idle: a relayed session without a byte either way for
        this long is closed (CONFIG)"""
        before = descriptors(self.daemon.pid)
        steady = Steady(self.daemon.port_of("steady"),
                        ["127.0.0.51", "127.0.0.52"], .05)
        self.addCleanup(steady.stop)
        wait_until(lambda: len(steady.waits) >= 20, "the steady load")
        rows = visits()
        wrong = {}
        for first, calm in enumerate((True, False), 1):
            start = time.monotonic()
            wrong.update(self.together(
                [r for r in rows if r.calm == calm], first))
            good = steady.take()
            print(f"\n{'calm' if calm else 'noisy'} clients: "
                  f"{time.monotonic() - start:.1f} s\n  good: {shown(good)}",
                  end="", flush=True)
            self.assertLess(quantile(good, .99), GOOD_P99)
        steady.stop()
        self.assertEqual(steady.broken, [])
        for row in rows:
            with self.subTest(str(row)):
                if row in wrong:
                    raise wrong[row]
        self.nothing_left(before)

    def test_store_awaited(self):
        """lookup_timeout; a client that has gone does not wait for it, one
        that has only closed its side is told (CONFIG)"""
        self.store = self.backend(silent, tls="plain")
        good = self.backend(tls="implicit")
        self.daemon = self.mailferry(
            {"pop3s": {"tls": "implicit", "preauth_timeout": ms(PREAUTH)}},
            {"good": good.destination()},
            over={"server": {"threads": 1, "host_down_threshold": 1,
                             "host_down_min_clients": 1},
                  "mapping": {"source": "http", "file": None,
                              "lookup_timeout": ms(LOOKUP), "http": {
                                  "url": f"http://127.0.0.1:{self.store.port}"
                                         "/route?user=%u"}}})
        rows = [Visit("store awaited", at_store, *row) for row in (
            ("RST", resets, "client lost", (0, WATCH + SLACK)),
            ("FIN", then_refused(leaves), "client closed", after(LOOKUP)),
            ("silence", then_refused(nothing), "timeout before login",
             after(LOOKUP + PREAUTH)))]
        # The HTTP library makes itself a pair of sockets at its first use.
        before = descriptors(self.daemon.pid) + 2
        wrong = self.together(rows, 4)
        for row in rows:
            with self.subTest(str(row)):
                if row in wrong:
                    raise wrong[row]
        wait_until(lambda: descriptors(self.daemon.pid) <= before,
                   f"no more than {before} descriptors")
        self.assertEqual(sorted(r["failure"] for r in self.records
                                if r.get("failure")), ["store"] * 2)

    def test_waiting_costs_nothing(self):
        """Whoever is silent or has closed its side is waited for, and not
        asked again and again."""
        stages = dict.fromkeys(r.stage for r in visits())
        stages = [s for s in stages if s != at_proxy_header] + \
            [at_proxy_header]  # has the shortest time
        visitors = []
        for n, stage in enumerate(stages):
            for m, do in enumerate((nothing, leaves)):
                v = Visitor(self, f"127.3.{m}.{n + 1}")
                stage(v)
                self.addCleanup(v.client.close)
                do(v)
                visitors.append(v)
        cpu = cpu_seconds(self.daemon.pid)
        self.over.wait(.6 * HEADER)
        self.assertLess(cpu_seconds(self.daemon.pid) - cpu,
                        .2 * HEADER)
        self.release()

    def nothing_left(self, before):
        """No blame on a backend, no session, no descriptor."""
        self.release()
        pid = self.daemon.pid
        wait_until(lambda: descriptors(pid) <= before,
                   f"no more than {before} descriptors")
        start = time.monotonic()
        self.daemon.stop()  # at once, for there is nobody left
        self.assertLess(time.monotonic() - start, SLACK)
        with self.lock:
            self.tail()
        texts = [str(r) for r in self.records]
        self.assertEqual([t for t in texts if "destination is down" in t], [])
        self.assertEqual([t for t in texts if "login deferred" in t], [])
        failed = [r for r in self.records if "login failed" in r.values()]
        self.assertEqual([r["failure"] for r in failed], ["malformed"])
        closed = {r["session"] for r in self.records
                  if "session closed" in r.values()}
        self.assertEqual({r["session"] for r in self.records
                          if "session" in r} - closed, set())


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), sys.argv[3], Way(**json.loads(sys.argv[4])),
              *sys.argv[5:])
    unittest.main()
