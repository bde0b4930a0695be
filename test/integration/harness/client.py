"""A raw POP3 client that hides nothing.

Bytes go out whole or one at a time, lines come in as they are (decoded as
Latin-1, so that every octet survives), and all of it is kept as a transcript.
Cases read like the RFC's examples:

    C: USER alice
    S: +OK
    C: PASS secret
    S: +OK
    CLOSED
"""

import base64
import re
import socket
import ssl
import time

from .proc import DEADLINE

LINES = "lines"  # each command in one write, its replies read before the next
BYTES = "bytes"  # the same, one octet a write
TOGETHER = "together"  # all commands up to the next STLS in one write
MODES = (LINES, BYTES, TOGETHER)


def b64(data):
    if isinstance(data, str):
        data = data.encode("latin-1")
    return base64.b64encode(data).decode("ascii")


def plain(user, password, authzid=""):
    """Returns the base64 frame of AUTH PLAIN."""
    return b64(f"{authzid}\0{user}\0{password}")


def xoauth2(user, token):
    return b64(f"user={user}\1auth=Bearer {token}\1\1")


def oauthbearer(user, token):
    who = "a=" + user.replace("=", "=3D").replace(",", "=2C") if user else ""
    return b64(f"n,{who},\1auth=Bearer {token}\1\1")


def context(ca=None, alpn=None, minimum=None, maximum=None):
    """Returns a client's TLS context. It verifies against ca, or not at
    all."""
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        ctx.load_verify_locations(ca)
    else:
        ctx.check_hostname = False
        ctx.verify_mode = ssl.CERT_NONE
    if alpn is not None:
        ctx.set_alpn_protocols(alpn)
    if minimum:
        ctx.minimum_version = minimum
    if maximum:
        ctx.maximum_version = maximum
    return ctx


class OctetTls:
    """A TLS client's socket that sends each octet of each record, those of
    the handshake too, in a write of its own. As much of a socket as Client
    needs."""

    def __init__(self, sock, ctx, server_hostname):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = ctx.wrap_bio(self.incoming, self.outgoing,
                                server_hostname=server_hostname)
        self._do(self.tls.do_handshake)

    def _do(self, step, *args):
        while True:
            try:
                result = step(*args)
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                data = self.sock.recv(65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()

    def _flush(self):
        data = self.outgoing.read()
        for i in range(len(data)):
            self.sock.sendall(data[i:i + 1])

    def sendall(self, data):
        self._do(self.tls.write, data)

    def recv(self, size):
        return self._do(self.tls.read, size)

    def close(self):
        self.sock.close()


class Closed(AssertionError):
    """The server closed while the client waited for a line."""


class Client:
    """One connection. tls: plain, implicit or starttls (the client upgrades
    by itself right after the greeting). first: octets sent ahead of anything
    else, such as a PROXY header."""

    def __init__(self, port, tls="plain", address="127.0.0.1", source=None,
                 ctx=None, sni="mail.example.com", mode=LINES, first=b"",
                 greeting=True, timeout=DEADLINE, receive_buffer=None):
        self.transcript = []
        self.mode = mode
        self.ctx = ctx or context()
        self.sni = sni
        self.buffer = b""
        self.ended = None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        try:
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF,
                                     receive_buffer)
            if source:
                self.sock.bind((source, 0))
            self.sock.connect((address, port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local = self.sock.getsockname()
            if first:
                self.raw(first)
            if tls == "implicit":
                self.handshake()
            self.greeting = self.line() if greeting else None
            if tls == "starttls":
                self.stls()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # Out

    def raw(self, data, note=True):
        """Sends octets unchanged, cut as the mode says."""
        if note:
            self._note("C", data)
        if self.mode != BYTES:
            self.sock.sendall(data)
            return
        for i in range(len(data)):
            self.sock.sendall(data[i:i + 1])
            # Not for luck: a result must not depend on it. It only makes the
            # kernel less likely to glue the octets together again.
            time.sleep(0.0001)

    def send(self, line):
        self.raw(line.encode("latin-1") + b"\r\n")

    def cmd(self, line):
        """Sends a command, and returns the first line of its reply."""
        self.send(line)
        return self.line()

    def ask(self, line):
        """Sends a command, and returns the lines of its multi-line reply
        between "+OK" and the dot."""
        first = self.cmd(line)
        if not first.startswith("+OK"):
            raise AssertionError(f"{line!r} was answered {first!r}")
        return self.lines()

    # In

    def octets(self, size=65536):
        """Returns some octets, at least one; b"" at the end of the stream."""
        if self.buffer:
            data, self.buffer = self.buffer[:size], self.buffer[size:]
            return data
        return self._receive(size)

    def exactly(self, size):
        data = bytearray()
        while len(data) < size:
            more = self.octets(min(size - len(data), 1 << 20))
            if not more:
                raise Closed(f"closed after {len(data)} of {size} octets")
            data += more
        return bytes(data)

    def line(self):
        """Returns one line without its CRLF, which it must have."""
        while b"\n" not in self.buffer:
            more = self._receive(65536)
            if not more:
                raise Closed("closed while a line was awaited, with "
                             f"{self.buffer!r} pending")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        self._note("S", line + b"\n")
        if not line.endswith(b"\r"):
            raise AssertionError(f"bare LF behind {line!r}")
        return line[:-1].decode("latin-1")

    def lines(self):
        got = []
        while True:
            line = self.line()
            if line == ".":
                return got
            got.append(line)

    def rest(self):
        """Returns all octets up to the end of the stream."""
        data = self.buffer
        self.buffer = b""
        while True:
            more = self._receive(65536)
            if not more:
                return data
            data += more

    def closed(self):
        """Checks that the server closes and sends nothing more. Returns
        "fin" or "reset"."""
        rest = self.rest()
        if rest:
            raise AssertionError(f"expected a close, got {rest!r}")
        self._note("S", b"(closed)")
        return self.ended

    def is_quiet(self, seconds):
        """Checks that nothing comes for this long, not even a close."""
        if self.buffer:
            return False
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            more = self.sock.recv(65536)
            if more:
                self.buffer += more
            return False
        except (TimeoutError, ssl.SSLWantReadError):
            return True
        finally:
            self.sock.settimeout(before)

    def _receive(self, size):
        try:
            data = self.sock.recv(size)
        except ssl.SSLEOFError:
            self.ended = "fin"  # a FIN without close_notify
            return b""
        except (ConnectionResetError, BrokenPipeError):
            self.ended = "reset"
            return b""
        except TimeoutError:
            raise AssertionError("the server said nothing in time\n"
                                 + self.story()) from None
        if not data:
            self.ended = "fin"
        return data

    # TLS

    def stls(self):
        reply = self.cmd("STLS")
        if not reply.startswith("+OK"):
            raise AssertionError(f"STLS was answered {reply!r}")
        self.handshake()

    def handshake(self):
        if self.buffer:
            raise AssertionError(f"octets ahead of TLS: {self.buffer!r}")
        self._note("C", b"(TLS)")
        self.sock = self.ctx.wrap_socket(self.sock,
                                         server_hostname=self.sni)

    # The end

    def half_close(self):
        """Sends a FIN to the server and goes on reading. Like most TLS
        clients, it sends no close_notify."""
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def reset(self):
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self):
        self.sock.close()

    # Whole dialogues

    def play(self, script):
        """Plays a script of C: and S: lines; returns the replies.

        C: text   a command
        S: text   a reply that is this text, or begins with it and a space
        S= text   a reply that is exactly this
        S~ regex  a reply that matches
        S*        a multi-line reply, from the line after "+OK" to the dot
        TLS       the handshake
        CLOSED    the server closes"""
        steps = [line.strip("\r\n") for line in
                 (raw.lstrip() for raw in script.strip().split("\n")) if line]
        replies = []
        pending = []
        for i, step in enumerate(steps):
            kind, text = step[:2], step[3:]
            if kind == "C:" or step == "C:":
                if self.mode == TOGETHER:
                    if i in pending:
                        continue
                    pending = self._together(steps, i)
                else:
                    self.send(text)
            elif step == "TLS":
                self.handshake()
            elif step == "CLOSED":
                self.closed()
                replies.append("(closed)")
            elif step == "S*":
                replies.append(self.lines())
            else:
                replies.append(self._expect(kind, text))
        return replies

    def _together(self, steps, start):
        """Sends this command and all that follow, up to the next handshake;
        returns their indices."""
        end = steps.index("TLS", start) if "TLS" in steps[start:] else \
            len(steps)
        sent = [j for j in range(start, end) if steps[j].startswith("C:")]
        self.raw(b"".join(steps[j][3:].encode("latin-1") + b"\r\n"
                          for j in sent))
        return sent

    def _expect(self, kind, text):
        got = self.line()
        if kind == "S:":
            fits = got == text or got.startswith(text.rstrip(" ") + " ")
        elif kind == "S=":
            fits = got == text
        elif kind == "S~":
            fits = re.fullmatch(text, got) is not None
        else:
            raise ValueError(f"no step of a script: {kind} {text}")
        if not fits:
            raise AssertionError(f"expected {kind} {text}, got {got!r}\n"
                                 + self.story())
        return got

    def story(self):
        return "\n".join(self.transcript)

    def _note(self, who, data):
        if len(self.transcript) > 500:
            return
        text = data if len(data) <= 200 else data[:200] + b"..."
        shown = text.decode("latin-1").encode("unicode_escape").decode("ascii")
        self.transcript.append(f"{who}: {shown}")
