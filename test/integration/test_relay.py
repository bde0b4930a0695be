"""The relay (PROTOCOL, section 9): bytes both ways, unread. Each docstring
quotes the sentence that its test proves."""

import hashlib
import os
import random
import select
import socket
import ssl
import threading
import time
import unittest

from harness.case import Case, Pop3, certs, context, need_that
from harness.client import BYTES, LINES, b64, plain
from harness.fake_backend import Gone
from harness.mailferry import sanitized
from harness.proc import cpu_seconds, descriptors, rss, wait_until
from harness.tls_tools import FLOOD, flood, gnutls, openssl

MB = 1 << 20
GROWTH = (64 if sanitized() else 2) * MB  # of memory, for one session


def noise(size, seed=1):
    """Octets of every value, the same for the same seed."""
    return random.Random(seed).randbytes(size)


class Bucket:
    """A relay script's hands: reads exactly what is wanted, across what
    line() has left in the buffer."""

    def __init__(self, c):
        self.c = c

    def exactly(self, size):
        c = self.c
        data = bytearray(c.buffer[:size])
        c.buffer = c.buffer[size:]
        while len(data) < size:
            data += c.octets(min(size - len(data), MB))
        return bytes(data)

    def rest(self):
        """All up to the client's end."""
        c = self.c
        data = bytearray(c.buffer)
        c.buffer = b""
        try:
            while True:
                data += c.octets()
        except Gone:
            return bytes(data)


class Relay(Case):
    """Both legs in TLS and both in clear."""

    LEGS = (("implicit", "implicit"), ("plain", "plain"),
            ("implicit", "plain"), ("starttls", "starttls"))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.backends = {}
        destinations = {}
        for tls in ("implicit", "starttls", "plain"):
            cls.backends[tls] = b = cls.shared_backend(tls=tls)
            destinations[tls] = b.destination()
        cls.daemon = cls.shared_mailferry(
            {tls: {"tls": tls} for tls in ("implicit", "starttls", "plain")},
            destinations, {f"{tls}@x": tls for tls in destinations},
            over={"server": {"threads": 1, "backend_auth_timeout": "60s"},
                  "capabilities": {"pop3": {
                      "allow_plain_auth_without_tls": True}}})

    def setUp(self):
        super().setUp()
        for b in self.backends.values():
            b.forget()

    def enter(self, legs, relay, check=None, before=b"", **keys):
        """A session that has logged in, the backend running relay(c).
        before: pipelined behind the login."""
        front, back = legs
        b = self.backends[back]
        b.script = Pop3(relay=relay, check=check)
        b.forget()
        c = self.client(self.daemon.port_of(front), tls=front, **keys)
        c.raw(b"AUTH PLAIN " + plain(f"{back}@x", "y").encode() + b"\r\n"
              + before)
        if not check:
            self.assertReply(c.line(), "+OK")
        return c, b

    def finish(self, b):
        """The backend's script has ended without complaint."""
        b.connection().wait_finished()
        self.assertEqual(b.errors, [])

    # Bytes

    def test_every_byte_both_ways(self):
        """Bytes both ways, unread"""
        up, down = noise(300000, 1), noise(300000, 2)

        def relay(c):
            c.got = Bucket(c).exactly(len(up))
            c.raw(down)
            c.drain()
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                c, b = self.enter(legs, relay)
                c.raw(up, note=False)
                self.assertEqual(c.exactly(len(down)), down)
                self.assertEqual(b.connection().got, up)
                c.close()
                self.finish(b)

    def test_odd_bytes_one_at_a_time(self):
        """Bytes both ways, unread ... however it is cut into packets"""
        odd = bytes(range(256)) + b"\r\n.\r\n+OK\r\n-ERR\r\nQUIT\r\n\0\0\xff"

        def relay(c):
            c.got = Bucket(c).exactly(len(odd))
            for i in range(len(odd)):
                c.raw(odd[i:i + 1])
            c.drain()
        for legs in (("implicit", "implicit"), ("plain", "plain")):
            with self.subTest(legs=legs):
                c, b = self.enter(legs, relay, mode=BYTES)
                c.raw(odd)
                self.assertEqual(c.exactly(len(odd)), odd)
                self.assertEqual(b.connection().got, odd)

    def test_large_transfer(self):
        """Bytes both ways, unread, with back-pressure"""
        size = 24 * MB
        block = noise(MB)

        def relay(c):
            bucket, digest = Bucket(c), hashlib.sha256()
            for _ in range(size // MB):
                c.sock.sendall(block)
            for _ in range(size // MB):
                digest.update(bucket.exactly(MB))
            c.got = digest.hexdigest()
            c.drain()
        want = hashlib.sha256(block * (size // MB)).hexdigest()
        for legs in self.LEGS[:2]:
            with self.subTest(legs=legs):
                c, b = self.enter(legs, relay)
                digest = hashlib.sha256()
                for _ in range(size // MB):
                    digest.update(c.exactly(MB))
                self.assertEqual(digest.hexdigest(), want)
                for _ in range(size // MB):
                    c.sock.sendall(block)
                c.half_close()
                self.finish(b)
                self.assertEqual(b.connection().got, want)

    def test_both_ways_at_once(self):
        """Bytes both ways"""
        data = noise(8 * MB)

        def relay(c):
            def send():
                for at in range(0, len(data), 65536):
                    c.sock.sendall(data[at:at + 65536])
            sender = threading.Thread(target=send)
            sender.start()
            c.got = Bucket(c).exactly(len(data))
            sender.join()
            c.drain()
        # In clear only: one Python TLS object is not for two threads.
        c, b = self.enter(("plain", "plain"), relay)
        sender = threading.Thread(
            target=lambda: c.sock.sendall(data))
        sender.start()
        self.assertEqual(c.exactly(len(data)), data)
        sender.join()
        wait_until(lambda: hasattr(b.connection(), "got"), "all has arrived")
        self.assertEqual(b.connection().got, data)

    # Back-pressure

    @staticmethod
    def pour(sock, block, wanted, quiet=0.5):
        """Sends block again and again until the peer takes no more for a
        while (or wanted octets are out); returns how much that was. A piece
        that TLS has taken half of is still owed: pour_rest() sends it."""
        sock.setblocking(False)
        sent = 0
        try:
            while sent < wanted:
                at = sent % len(block)
                try:
                    sent += sock.send(block[at:at + 16384])
                except (BlockingIOError, ssl.SSLWantWriteError):
                    if not select.select([], [sock], [], quiet)[1]:
                        return sent
            return sent
        finally:
            sock.settimeout(15)

    @staticmethod
    def pour_rest(sock, block, sent):
        """Sends the next piece whole; returns how much that makes in all."""
        at = sent % len(block)
        piece = block[at:at + 16384]
        sock.sendall(piece)
        return sent + len(piece)

    def test_client_that_does_not_read(self):
        """a peer that does not read holds at most a bounded amount of
        memory"""
        wanted = 200 * MB
        block = noise(MB)
        poured = threading.Event()

        def relay(c):
            c.sent = self.pour(c.sock, block, wanted)
            poured.set()
            c.total = self.pour_rest(c.sock, block, c.sent)
            c.drain()
        for legs in self.LEGS[:2]:
            with self.subTest(legs=legs):
                poured.clear()
                # Warm: what a session costs is not what is looked for.
                c, b = self.enter(legs, relay, receive_buffer=65536)
                before = rss(self.daemon.pid)
                self.assertTrue(poured.wait(30))
                sent = b.connection().sent
                self.assertLess(sent, 32 * MB)
                self.assertLess(rss(self.daemon.pid) - before, GROWTH)
                # And nothing of it is lost.
                sent += min(16384, MB - sent % MB)
                digest, want = hashlib.sha256(), hashlib.sha256()
                for at in range(0, sent, MB):
                    size = min(MB, sent - at)
                    digest.update(c.exactly(size))
                    want.update(block[:size])
                self.assertEqual(digest.hexdigest(), want.hexdigest())
                c.close()
                self.finish(b)

    def test_backend_that_does_not_read(self):
        """a peer that does not read holds at most a bounded amount of
        memory"""
        go = threading.Event()
        block = noise(MB)

        def relay(c):
            c.wait(go, 60)
            c.sock.settimeout(15)
            digest = hashlib.sha256()
            data = Bucket(c).rest()
            digest.update(data)
            c.got = (len(data), digest.hexdigest())
        for legs in self.LEGS[:2]:
            with self.subTest(legs=legs):
                go.clear()
                c, b = self.enter(legs, relay)
                before = rss(self.daemon.pid)
                sent = self.pour(c.sock, block, 200 * MB)
                self.assertLess(sent, 32 * MB)
                self.assertLess(rss(self.daemon.pid) - before, GROWTH)
                go.set()
                sent = self.pour_rest(c.sock, block, sent)
                c.half_close()
                self.finish(b)
                want = hashlib.sha256(
                    (block * (sent // MB + 1))[:sent]).hexdigest()
                self.assertEqual(b.connection().got, (sent, want))

    def test_a_stalled_session_harms_nobody(self):
        """with back-pressure"""
        poured = threading.Event()

        def relay(c):
            self.pour(c.sock, noise(MB), 200 * MB)
            poured.set()
            c.drain()
        stalled, _ = self.enter(("implicit", "implicit"), relay)
        self.assertTrue(poured.wait(30))
        c, b = self.enter(("plain", "plain"), None)
        start = time.monotonic()
        for _ in range(20):
            self.assertReply(c.cmd("NOOP"), "+OK")
        self.assertLess(time.monotonic() - start, 1)
        stalled.close()

    def assertIdle(self, what, seconds=0.5):
        """Nothing moves: the daemon has nothing to do. (A loop that spins
        uses all of this time.)"""
        before = cpu_seconds(self.daemon.pid)
        time.sleep(seconds)  # the very time in which nothing happens
        used = cpu_seconds(self.daemon.pid) - before
        self.assertLess(used, seconds / 2, f"busy while {what}")

    def test_stalled_sessions_cost_no_time(self):
        """nginx once spun at 100 % CPU when a client pipelined commands
        behind its login (GOTCHAS)"""
        go = threading.Event()
        self.addCleanup(go.set)

        def pours(c):
            self.pour(c.sock, noise(MB), 200 * MB)
            c.wait(go)

        def sits(c):
            c.wait(go)

        def hears_the_end(c):
            Bucket(c).rest()
            c.wait(go)

        def logs_nobody_in(c, mech, frame):
            c.wait(go)
            raise Gone
        for legs in self.LEGS[:2]:
            with self.subTest(legs=legs):
                c, b = self.enter(legs, pours)
                self.assertIdle("the client does not read", 1)
                c, b = self.enter(legs, sits)
                self.pour(c.sock, noise(MB), 200 * MB)
                self.assertIdle("the backend does not read")
                c, b = self.enter(legs, hears_the_end)
                c.half_close()
                self.assertIdle("the client has closed its side")
                c, b = self.enter(legs, None, logs_nobody_in,
                                  before=noise(500000))
                b.connection(0)
                self.assertIdle("input waits behind a login")
                c, b = self.enter(legs, None, logs_nobody_in)
                b.connection(0)
                c.half_close()
                self.assertIdle("the client is half gone during its login")

    # Pipelining

    def test_input_behind_the_login(self):
        """Input that the client pipelined behind the login reaches the
        backend in order, exactly once."""
        behind = b"".join(b"LINE %d\r\n" % i for i in range(2000))
        behind += noise(100000) + b"the end"

        def relay(c):
            c.got = Bucket(c).exactly(len(behind))
            c.send("+OK all of it")
            c.drain()
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                go = threading.Event()

                def check(c, mech, frame):
                    c.wait(go)
                    return "+OK logged in"
                c, b = self.enter(legs, relay, check, before=behind[:5000])
                # The rest comes while the login is still being answered.
                b.connection(0)
                c.sock.sendall(behind[5000:])
                go.set()
                self.assertEqual(c.line(), "+OK logged in")
                self.assertEqual(c.line(), "+OK all of it")
                self.assertEqual(b.connection().got, behind)
                # Exactly once: nothing comes after it.
                c.half_close()
                self.finish(b)
                self.assertTrue(bytes(b.connection().inside
                                      or b.connection().clear)
                                .endswith(b"the end"))

    def test_input_behind_each_kind_of_login(self):
        """Input that the client pipelined behind the login reaches the
        backend in order, exactly once."""
        b = self.backends["plain"]
        logins = (b"USER plain@x\r\nPASS y\r\n",
                  b"AUTH PLAIN\r\n" + plain("plain@x", "y").encode() + b"\r\n",
                  b"AUTH LOGIN\r\n" + b64("plain@x").encode() + b"\r\n"
                  + b64("y").encode() + b"\r\n")
        for login in logins:
            for mode in (LINES, BYTES):
                with self.subTest(login=login[:12], mode=mode):
                    b.script = Pop3(messages=[b"x\r\n"])
                    c = self.client(self.daemon.port_of("implicit"),
                                    tls="implicit", mode=mode)
                    c.raw(b"NOOP\r\n" + login
                          + b"STAT\r\nDELE 1\r\nSTAT\r\nQUIT\r\n")
                    rest = c.rest().split(b"\r\n")
                    self.assertEqual(rest[-6:], [
                        b"+OK logged in", b"+OK 1 3", b"+OK", b"+OK 0 0",
                        b"+OK bye", b""])
                    lines = b.connection().commands
                    self.assertEqual(lines[-4:], ["STAT", "DELE 1", "STAT",
                                                  "QUIT"])

    def test_input_behind_a_refused_login(self):
        """the client stays in the dialogue for another attempt ... pipelining
        allowed"""
        b = self.backends["plain"]
        b.script = Pop3(check=lambda c, mech, frame:
                        "-ERR [AUTH] no" if b"wrong" in frame else "+OK yes")
        c = self.client(self.daemon.port_of("implicit"), tls="implicit")
        c.raw(b"USER plain@x\r\nPASS wrong\r\nNOOP\r\nUSER plain@x\r\n"
              b"PASS right\r\nSTAT\r\nQUIT\r\n")
        self.assertEqual([line.split(b" ")[0] for line in
                          c.rest().split(b"\r\n")],
                         [b"+OK", b"-ERR", b"+OK", b"+OK", b"+OK", b"+OK",
                          b"+OK", b""])

    # Ends

    def test_quit_and_close(self):
        """what is buffered is delivered before a close, so that a `QUIT`
        (which commits deletions) is never lost"""
        def relay(c):
            c.got = Bucket(c).rest()
        for legs in self.LEGS:
            for end in ("close", "half_close"):
                with self.subTest(legs=legs, end=end):
                    c, b = self.enter(legs, relay)
                    c.raw(b"DELE 1\r\nDELE 2\r\nQUIT\r\n")
                    getattr(c, end)()
                    self.finish(b)
                    self.assertEqual(b.connection().got,
                                     b"DELE 1\r\nDELE 2\r\nQUIT\r\n")
                    self.assertEqual(b.connection().end, "fin")

    def test_login_quit_and_close_in_one_write(self):
        """a `QUIT` ... is never lost"""
        for front in ("implicit", "plain"):
            with self.subTest(front=front):
                b = self.backends["starttls"]
                b.forget()
                b.script = Pop3(relay=lambda c: setattr(
                    c, "got", Bucket(c).rest()))
                c = self.client(self.daemon.port_of(front), tls=front)
                c.raw(b"USER starttls@x\r\nPASS y\r\nDELE 1\r\nQUIT\r\n")
                c.half_close()
                self.finish(b)
                self.assertEqual(b.connection().got, b"DELE 1\r\nQUIT\r\n")

    def test_answer_to_the_last_quit_is_read(self):
        """after a client that sent QUIT and left, the backend's answer is
        still read until it closes, bounded: closing over unread data would
        reset it before it commits"""
        gone = threading.Event()

        def relay(c):
            Bucket(c).exactly(6)
            c.wait(gone)
            # More than one segment, and not all at once.
            for _ in range(3):
                c.raw(b"+OK signing off" + b"!" * 5000 + b"\r\n")
                wait_until(lambda: not select.select([], [], [c.sock], 0)[2],
                           "no error")
            c.committed = True
            c.half_close()
            c.drain()
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                gone.clear()
                c, b = self.enter(legs, relay)
                c.raw(b"QUIT\r\n")
                c.close()
                before = self.daemon.mark()
                gone.set()
                self.finish(b)
                self.assertTrue(getattr(b.connection(), "committed", False))
                self.assertEqual(b.connection().end, "fin",
                                 self.daemon.output(before))

    def test_half_close_of_the_client(self):
        """Half-close is passed on"""
        def relay(c):
            c.got = Bucket(c).rest()
            c.raw(noise(200000, 3))
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                c, b = self.enter(legs, relay)
                c.raw(b"RETR 1\r\n")
                c.half_close()
                self.assertEqual(c.rest(), noise(200000, 3))
                self.finish(b)
                self.assertEqual(b.connection().got, b"RETR 1\r\n")

    def test_half_close_of_the_backend(self):
        """Half-close is passed on; ... what is buffered is delivered before a
        close"""
        def relay(c):
            c.raw(b"+OK bye\r\n")
            c.half_close()
            c.drain()
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                c, b = self.enter(legs, relay)
                self.assertEqual(c.rest(), b"+OK bye\r\n")
                c.close()
                self.finish(b)

    def test_all_is_delivered_before_the_close(self):
        """what is buffered is delivered before a close"""
        data = noise(3 * MB)

        def relay(c):
            c.sock.sendall(data)
            c.close()
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                c, b = self.enter(legs, relay, receive_buffer=16384)
                # The backend has closed before the client reads a byte, if
                # the buffers between them are large enough for it.
                self.assertEqual(c.rest(), data)
                self.assertEqual(c.ended, "fin")

    def test_all_is_delivered_to_one_who_still_sends(self):
        """what is buffered is delivered before a close"""
        data = noise(400000)

        def relay(c):
            c.raw(data)
            c.half_close()
            c.drain()
        for legs in self.LEGS:
            with self.subTest(legs=legs):
                mark = self.daemon.mark()
                c, b = self.enter(legs, relay, receive_buffer=16384)
                self.daemon.wait_record(lambda r: "bytes_to_client" in r,
                                        "the session's end", mark)
                # Most of it is still in the kernel. A socket that is simply
                # closed would answer this with RST and throw that away.
                c.raw(b"QUIT\r\n")
                self.assertTrue(c.rest() == data, "it was cut short")

    def test_fin_while_the_login_is_in_progress(self):
        """A client's FIN while its login is in progress means "no more
        input", not "gone": its pipelined commands are still carried out."""
        go = threading.Event()

        def check(c, mech, frame):
            c.wait(go)
            return "+OK logged in"
        for front, back in self.LEGS:
            with self.subTest(front=front, back=back):
                go.clear()
                b = self.backends[back]
                b.forget()
                b.script = Pop3(check=check, messages=[b"x\r\n"])
                c = self.client(self.daemon.port_of(front), tls=front)
                c.raw(f"USER {back}@x\r\nPASS y\r\nSTAT\r\nDELE 1\r\n"
                      "QUIT\r\n".encode())
                c.half_close()
                b.connection(0)
                go.set()
                self.assertEqual(c.rest().split(b"\r\n")[1:], [
                    b"+OK logged in", b"+OK 1 3", b"+OK", b"+OK bye", b""])
                self.finish(b)

    def test_rst_while_the_login_is_in_progress(self):
        """RST means gone."""
        go = threading.Event()
        self.addCleanup(go.set)

        def check(c, mech, frame):
            c.drain()  # until mailferry gives up
            raise Gone
        for legs in (("plain", "plain"), ("implicit", "implicit")):
            with self.subTest(legs=legs):
                c, b = self.enter(legs, None, check)
                wait_until(lambda: b.connection().commands[-1:]
                           and "AUTH" in b.connection().commands[-1],
                           "the login has arrived")
                c.reset()
                self.finish(b)

    def test_client_that_vanishes(self):
        """A dead client without QUIT must reach the backend as a close, never
        as a QUIT. (GOTCHAS)"""
        def relay(c):
            c.got = Bucket(c).rest()
        for legs in self.LEGS:
            for end in ("close", "reset"):
                with self.subTest(legs=legs, end=end):
                    c, b = self.enter(legs, relay)
                    c.raw(b"DELE 1\r\nDEL")
                    wait_until(lambda: (b.connection().inside
                                        or b.connection().clear)
                               .endswith(b"DEL"), "it has arrived")
                    getattr(c, end)()
                    self.finish(b)
                    self.assertEqual(b.connection().got, b"DELE 1\r\nDEL")

    def test_backend_that_dies_in_a_message(self):
        """no byte is ever invented: if the backend dies in the middle of a
        message the client's connection is closed, without a `.` or an error
        line forged into the stream"""
        part = b"+OK 9999 octets\r\nSubject: x\r\n\r\nhalf a li"
        for end in ("close", "reset"):
            def relay(c, end=end):
                Bucket(c).exactly(8)
                c.raw(part)
                c.wait(seen)
                getattr(c, end)()
            for legs in self.LEGS:
                with self.subTest(legs=legs, end=end):
                    seen = threading.Event()
                    c, _ = self.enter(legs, relay)
                    c.raw(b"RETR 1\r\n")
                    self.assertEqual(c.exactly(len(part)), part)
                    seen.set()
                    self.assertEqual(c.rest(), b"")

    def test_nothing_stays_behind(self):
        """Each row ends: ... fds and sessions back to baseline
        (RELIABILITY)"""
        def relay(c):
            c.drain()

        def one(legs):
            c, b = self.enter(legs, relay)
            c.close()
            self.finish(b)
        for legs in self.LEGS:
            one(legs)
        counts = []

        def settled():
            counts.append(descriptors(self.daemon.pid))
            return len(counts) > 20 and len(set(counts[-20:])) == 1
        wait_until(settled, "a constant number of descriptors")
        before = descriptors(self.daemon.pid)
        for _ in range(20):
            for legs in self.LEGS:
                one(legs)
        wait_until(lambda: descriptors(self.daemon.pid) <= before,
                   f"no more than {before} descriptors")


class SmallRecords(Case):
    """Clients whose TLS takes small records only (RFC 6066's
    max_fragment_length, RFC 8449's record_size_limit), and which pause."""

    SIZES = (512, 1024, 2048, 4096)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.b = cls.shared_backend(tls="implicit")
        cls.daemon = cls.shared_mailferry(
            {"pop3": {"tls": "implicit"}}, {"x": cls.b.destination()},
            over={"server": {"socket_buffer": "64k"}})

    def fetch(self, tool, *options):
        """What arrives of a download whose reader pauses until no octet
        moves any more, and what was sent."""
        data = noise(3 * MB)
        full = threading.Event()

        def relay(c):
            Bucket(c).exactly(8)
            at = Relay.pour(c.sock, data, len(data) - 16384, 0.1)
            full.set()
            c.sock.sendall(data[at:])
            Bucket(c).exactly(6)
            c.close()
        self.b.forget()
        self.b.script = Pop3(relay=relay)
        c = tool(self.daemon.port, *options)
        self.addCleanup(c.close)
        c.send(b"AUTH PLAIN " + plain("x@x", "y").encode() + b"\r\n")
        self.assertEqual(c.line()[:3], b"+OK")
        self.assertEqual(c.line()[:3], b"+OK")
        c.send(b"RETR 1\r\n")
        self.assertTrue(full.wait(30))
        got = c.exactly(len(data))
        c.send(b"QUIT\r\n")
        self.assertEqual(c.rest(), b"")
        self.b.connection().wait_finished()
        self.assertEqual(self.b.errors, [])
        self.assertEqual(len(got), len(data))
        self.assertEqual(hashlib.sha256(got).hexdigest(),
                         hashlib.sha256(data).hexdigest())

    def test_max_fragment_length(self):
        """Bytes both ways, unread"""
        for version in ("-tls1_2", "-tls1_3"):
            for size in self.SIZES:
                with self.subTest(version=version, size=size):
                    self.fetch(openssl, version, "-maxfraglen", str(size))

    def test_record_size_limit(self):
        """Bytes both ways, unread"""
        for version in ("1.2", "1.3"):
            for size in self.SIZES:
                with self.subTest(version=version, size=size):
                    self.fetch(gnutls, "--recordsize", str(size),
                               "--priority", "NORMAL:-VERS-ALL:+VERS-TLS"
                               + version)

    def test_replies_of_the_dialogue(self):
        """one reply per command, pipelining allowed"""
        c = openssl(self.daemon.port, "-maxfraglen", "512")
        self.addCleanup(c.close)
        self.assertEqual(c.line()[:3], b"+OK")
        c.send(b"CAPA\r\n")
        one = b""
        while not one.endswith(b"\r\n.\r\n"):
            one += c.line()
        c.send(b"CAPA\r\n" * 300)
        self.assertEqual(c.exactly(300 * len(one)), 300 * one)


@need_that(lambda: None if os.path.exists(FLOOD)
           else "no tls_flood beside the daemon")
class Floods(Case):
    """Records without data, as fast as one client can send them: KeyUpdate
    in TLS 1.3, requests for a renegotiation in TLS 1.2."""

    LOGIN = "AUTH PLAIN " + plain("x@x", "y")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.b = cls.shared_backend(tls="plain")
        cls.daemon = cls.shared_mailferry(
            {"pop3": {"tls": "implicit"}}, {"x": cls.b.destination()},
            over={"server": {"threads": 1}})

    def waits(self, c, seconds):
        """How long the answers to another client take: the 99th
        percentile."""
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            self.assertReply(c.cmd("NOOP"), "+OK")
            times.append(time.monotonic() - start)
        return sorted(times)[len(times) * 99 // 100]

    def test_nobody_waits(self):
        """A session that floods is closed, and no other one waits for it."""
        c = self.login(self.daemon, tls="implicit")
        idle = self.waits(c, 0.5)
        for kind in ("update", "request", "renegotiate"):
            for login in ((), (self.LOGIN,)):
                with self.subTest(kind=kind, relayed=bool(login)):
                    mark = self.daemon.mark()
                    tool = flood(self.daemon.port, kind, 2, login)
                    self.addCleanup(tool.close)
                    self.daemon.wait_log("records without data", mark)
                    busy = self.waits(c, 1)
                    self.assertLess(busy, 0.1 + 20 * idle)
                    records, closed = map(int, tool.rest().split())
                    self.assertGreater(records, 1000)
                    self.assertGreater(closed, 0)


class Idle(Case):
    def start(self, **server):
        self.b = self.backend(tls="implicit")
        return self.mailferry({"pop3": {"tls": "implicit"}},
                              {"x": self.b.destination()},
                              over={"server": server})

    def test_bridge_idle(self):
        """`bridge_idle` closes a silent session."""
        d = self.start(bridge_idle="1s")
        c = self.login(d, tls="implicit")
        start = time.monotonic()
        c.closed()
        self.assertGreaterEqual(time.monotonic() - start, 0.9)
        self.assertLess(time.monotonic() - start, 4)
        self.b.connection().wait_finished()
        # The session ends without a QUIT that nobody sent.
        self.assertNotIn("QUIT", self.b.connection().commands)

    def test_bytes_either_way_keep_it(self):
        """a relayed session without a byte either way for this long is closed
        (CONFIG)"""
        d = self.start(bridge_idle="1s")
        stop = threading.Event()

        def speaks(c):
            while not stop.wait(0.3):
                c.send("* still here")
            c.drain()
        self.b.script = Pop3(relay=speaks)
        down = self.login(d, tls="implicit")
        for _ in range(8):
            self.assertEqual(down.line(), "* still here")
        stop.set()

        self.b.script = Pop3()
        up = self.login(d, tls="implicit")
        end = time.monotonic() + 2.2
        while time.monotonic() < end:
            self.assertReply(up.cmd("NOOP"), "+OK")
            time.sleep(0.3)  # the very silence that is allowed


class Pauses(Case):
    """A client that does not read for longer than tcp_user_timeout, while
    its TCP answers: a phone that sleeps, a slow disk."""

    TIMEOUT = 1

    def pause(self, size):
        data = noise(size)

        def relay(c):
            c.sock.sendall(data)
            c.drain()
        b = self.backend(Pop3(relay=relay), tls="implicit")
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"x": b.destination()}, over={"server": {
                               "tcp_user_timeout": f"{self.TIMEOUT}s"}})
        c = self.login(d, tls="implicit", receive_buffer=16384)
        time.sleep(5 * self.TIMEOUT)  # the very pause
        self.assertTrue(c.exactly(size) == data, "octets are wrong")
        c.close()

    def test_mail_that_the_kernel_holds(self):
        """tcp_user_timeout: a peer that acknowledges nothing for this long is
        gone (CONFIG); this one acknowledges each probe"""
        self.pause(300000)

    def test_mail_that_the_relay_holds(self):
        """a peer that does not read holds at most a bounded amount of memory
        ... `bridge_idle` closes a silent session"""
        self.pause(12 * MB)


class Lingers(Case):
    def test_they_are_inside_the_limits(self):
        """max_connections: further ones are refused (CONFIG). A socket that
        waits for its client's close is a connection still."""
        limit, extra = 20, 20 // 8 + 16  # those are told, and closed
        b = self.backend(tls="plain")
        d = self.mailferry({"pop3": {"tls": "plain",
                                     "max_connections": limit}},
                           {"x": b.destination()})
        before, most, held = descriptors(d.pid), 0, []
        for _ in range(150):
            sock = socket.create_connection(("127.0.0.1", d.port))
            self.addCleanup(sock.close)
            held.append(sock)
            try:
                sock.sendall(b"BAD\r\n" * 40)
                while sock.recv(4096):
                    pass
            except ConnectionError:
                pass
            most = max(most, descriptors(d.pid) - before)
        self.assertLessEqual(most, limit + extra + 2)
        for sock in held:
            sock.close()
        # And nothing is counted for ever.
        wait_until(lambda: self.client(d).greeting.startswith("+OK"),
                   "a place is free")


class OtherConditions(Case):
    def test_small_socket_buffers(self):
        """socket_buffer: SO_SNDBUF towards clients and SO_RCVBUF towards
        backends (CONFIG)"""
        data = noise(4 * MB)

        def relay(c):
            sent = Relay.pour(c.sock, data, len(data), 0.3)
            c.sent = sent
            c.sock.sendall(data[sent:])
            c.close()
        b = self.backend(Pop3(relay=relay), tls="plain")
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"x": b.destination()},
                           over={"server": {"socket_buffer": "64k"}})
        # The sender's own buffer is the kernel's, up to 4 MiB by itself:
        # keep that out of the count.
        b.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        c = self.login(d, tls="implicit", receive_buffer=16384)
        wait_until(lambda: hasattr(b.connection(), "sent"), "blocked")
        self.assertLess(b.connection().sent, MB)
        self.assertEqual(c.rest(), data)

    def test_tls_12_both_ways(self):
        """Bytes both ways, unread"""
        data = noise(MB)

        def relay(c):
            c.raw(data)
            c.got = Bucket(c).exactly(len(data))
            c.drain()
        b = self.backend(Pop3(relay=relay), tls="implicit",
                         maximum=ssl.TLSVersion.TLSv1_2)
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"x": b.destination()})
        c = self.login(d, tls="implicit", ctx=context(
            certs().ca, maximum=ssl.TLSVersion.TLSv1_2))
        self.assertEqual(c.exactly(len(data)), data)
        c.raw(data, note=False)
        wait_until(lambda: hasattr(b.connection(), "got"), "all has arrived")
        self.assertEqual(b.connection().got, data)


if __name__ == "__main__":
    unittest.main()
