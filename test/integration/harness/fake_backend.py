"""A POP3 backend that does what a test tells it to.

Each connection runs a script: a function that is given the Connection and
talks on it. Pop3() makes one that behaves, with knobs for the ways in which
servers differ; scripts of a few lines do the rest:

    def refuses(c):
        c.send("+OK ready")
        c.expect("CAPA")
        c.send("-ERR")

Everything that arrives is recorded with the leg it came on, in clear or
inside TLS, so that a test can look for credentials where none may be.
"""

import base64
import os
import socket
import ssl
import struct
import threading

from .proc import DEADLINE, wait_until

PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class Gone(Exception):
    """The peer closed."""


class Wrong(Exception):
    """The peer did not do what the script expects."""


class ProxyHeader:
    """A PROXY protocol version 2 header, taken apart."""

    def __init__(self, head, body):
        self.raw = head + body
        self.command = head[12] & 15
        self.family = head[13]
        self.src = self.dst = None
        self.tlvs = {}
        self.ssl = None
        if head[12] >> 4 != 2:
            raise Wrong(f"PROXY header of version {head[12] >> 4}")
        if self.family == 0x11:
            s, d, sp, dp = struct.unpack("!4s4sHH", body[:12])
            self.src = (socket.inet_ntop(socket.AF_INET, s), sp)
            self.dst = (socket.inet_ntop(socket.AF_INET, d), dp)
            body = body[12:]
        elif self.family == 0x21:
            s, d, sp, dp = struct.unpack("!16s16sHH", body[:36])
            self.src = (socket.inet_ntop(socket.AF_INET6, s), sp)
            self.dst = (socket.inet_ntop(socket.AF_INET6, d), dp)
            body = body[36:]
        self.tlvs = self._tlvs(body)
        if 0x20 in self.tlvs:
            value = self.tlvs[0x20]
            client, verify = struct.unpack("!BI", value[:5])
            self.ssl = {"client": client, "verify": verify,
                        "tlvs": self._tlvs(value[5:])}

    @staticmethod
    def _tlvs(data):
        found = {}
        while data:
            kind, size = struct.unpack("!BH", data[:3])
            if len(data) < 3 + size:
                raise Wrong("a TLV runs over the header's end")
            found[kind] = data[3:3 + size]
            data = data[3 + size:]
        return found


class Connection:
    """One accepted connection, for its script and for the test."""

    def __init__(self, backend, sock, peer, number):
        self.backend = backend
        self.sock = sock
        self.peer = peer
        self.number = number
        self.tls = False
        self.clear = bytearray()  # all that came outside TLS, PROXY apart
        self.inside = bytearray()  # all that came inside TLS
        self.commands = []  # complete lines, as text
        self.commands_tls = []  # ... whether inside TLS
        self.story = []
        self.proxy = None
        self.sni = None
        self.alpn = None
        self.reused = None
        self.tls_version = None
        self.client_cert = None
        self.logged_in = threading.Event()
        self.finished = threading.Event()
        self.end = None  # how the peer left: fin, reset
        self.buffer = b""

    # For scripts

    def send(self, line):
        """Sends a line, with CRLF added."""
        self.raw(line.encode("latin-1") + b"\r\n")

    def raw(self, data):
        self._note("B", data)
        try:
            self.sock.sendall(data)
        except (ssl.SSLError, ConnectionError) as e:
            self.end = self.end or "reset"
            raise Gone(str(e)) from None

    def line(self):
        """Returns the next line without its end."""
        while b"\n" not in self.buffer:
            self.buffer += self.octets()
        line, self.buffer = self.buffer.split(b"\n", 1)
        text = line.rstrip(b"\r").decode("latin-1")
        self.commands.append(text)
        self.commands_tls.append(self.tls)
        return text

    def expect(self, start):
        """Returns the next line, which must begin with this."""
        line = self.line()
        if not line.startswith(start):
            raise Wrong(f"expected {start!r}, got {line!r}")
        return line

    def octets(self, size=65536):
        """Returns some octets; raises Gone at the end. After line(), look
        into buffer first."""
        try:
            data = self.sock.recv(size)
        except ssl.SSLEOFError:
            data = b""
        except (ssl.SSLError, ConnectionError) as e:
            self.end = "reset"
            raise Gone(str(e)) from None
        except TimeoutError:
            raise Wrong("the proxy said nothing in time") from None
        if not data:
            self.end = self.end or "fin"
            raise Gone("closed")
        (self.inside if self.tls else self.clear).extend(data)
        self._note("P", data)
        return data

    def starttls(self):
        """The server's handshake."""
        if self.buffer:
            raise Wrong(f"pipelined behind STLS: {self.buffer!r}")
        self.tls = True
        self._note("B", b"(TLS)")
        self.backend._handshaking.connection = self
        try:
            self.sock = self.backend.context.wrap_socket(
                self.sock, server_side=True)
        except (ssl.SSLError, ConnectionError, TimeoutError) as e:
            self._note("P", f"(handshake failed: {e})".encode())
            self.end = "reset"
            raise Gone(str(e)) from None
        self.alpn = self.sock.selected_alpn_protocol()
        self.reused = self.sock.session_reused
        self.tls_version = self.sock.version()
        self.client_cert = self.sock.getpeercert(binary_form=True)

    def half_close(self):
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def reset(self):
        """Closes with RST."""
        self._note("B", b"(RST)")
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self._note("B", b"(close)")
        if self.tls and isinstance(self.sock, ssl.SSLSocket):
            # close_notify goes out; the peer's own is not waited for.
            self.sock.setblocking(False)
            try:
                self.sock.unwrap()
            except (ssl.SSLError, OSError):
                pass
        self.sock.close()

    def drain(self):
        """Records everything that still comes, until the peer has closed."""
        try:
            while True:
                self.octets()
        except Gone:
            pass

    def wait(self, event, timeout=DEADLINE):
        if not event.wait(timeout):
            raise Wrong("the test did not release the script in time")

    # For tests

    def wait_finished(self):
        """Waits until the peer has closed and the script is over."""
        if not self.finished.wait(DEADLINE):
            raise AssertionError("the backend's connection did not end\n"
                                 + "\n".join(self.story))

    def wait_logged_in(self):
        if not self.logged_in.wait(DEADLINE):
            raise AssertionError("no login reached the backend\n"
                                 + "\n".join(self.story))

    def _note(self, who, data):
        if len(self.story) > 200:
            return
        cap = 300 if len(data) <= 600 else 40  # bulk says nothing
        text = bytes(data[:cap]) + (
            b"... (%d octets)" % len(data) if len(data) > cap else b"")
        shown = text.decode("latin-1").encode("unicode_escape").decode("ascii")
        leg = "tls" if self.tls else "clear"
        self.story.append(f"[{self.number} {leg}] {who}: {shown}")


class Backend:
    """A listening backend.

    tls      plain, implicit or starttls: what the listener does by itself
             (starttls: what Pop3() offers) and what destination() says
    script   the function that talks, or a list: one per connection, the last
             for all others
    proxy    each connection begins with a PROXY v2 header
    port     0: one that is free; listener: a bound socket instead
    prepare  function(ssl.SSLContext): old versions, suites
    """

    def __init__(self, certs, script=None, tls="starttls", cert="good",
                 proxy=False, client_ca=None, address="127.0.0.1", port=0,
                 maximum=None, alpn=("pop3",), receive_buffer=None,
                 listener=None, prepare=None):
        self.certs = certs
        self.script = script or Pop3()
        self.tls = tls
        self.proxy = proxy
        self.address = address
        self.connections = []
        self.errors = []
        self._lock = threading.Lock()
        self._handshaking = threading.local()
        self.context = self._context(cert, client_ca, maximum, alpn,
                                     prepare)
        self.listener = listener or self._bound(port, receive_buffer)
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _bound(self, port, receive_buffer):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.bind((self.address, port))
        return s

    def _context(self, cert, client_ca, maximum, alpn, prepare):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if prepare:
            prepare(ctx)
        ctx.load_cert_chain(self.certs.cert(cert), self.certs.key(cert))
        if client_ca:
            ctx.load_verify_locations(client_ca)
            ctx.verify_mode = ssl.CERT_REQUIRED
        if maximum:
            ctx.maximum_version = maximum
        if alpn:
            ctx.set_alpn_protocols(list(alpn))
        ctx.sni_callback = self._sni
        return ctx

    def _sni(self, _sock, name, _ctx):
        self._handshaking.connection.sni = name

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            with self._lock:
                number = len(self.connections)
                c = Connection(self, sock, peer, number)
                script = self.script
                if isinstance(script, (list, tuple)):
                    script = script[min(number, len(script) - 1)]
                self.connections.append(c)
            threading.Thread(target=self._serve, args=(c, script),
                             daemon=True).start()

    def _serve(self, c, script):
        try:
            c.sock.settimeout(DEADLINE)
            c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.proxy:
                c.proxy = self._proxy_header(c)
            if self.tls == "implicit":
                c.starttls()
            script(c)
        except Gone:
            pass
        except Exception as e:  # whatever a script does wrong fails its test
            c._note("!", repr(e).encode())
            self.errors.append(f"connection {c.number}: {e!r}")
        finally:
            try:
                c.sock.close()
            except OSError:
                pass
            c.finished.set()

    @staticmethod
    def _proxy_header(c):
        def exactly(size):
            data = b""
            while len(data) < size:
                more = c.sock.recv(size - len(data))
                if not more:
                    raise Gone("closed inside the PROXY header")
                data += more
            return data
        head = exactly(16)
        if head[:12] != PROXY_SIGNATURE:
            raise Wrong(f"no PROXY header: {head!r}")
        return ProxyHeader(head, exactly(struct.unpack("!H", head[14:])[0]))

    # For tests

    def destination(self, **keys):
        """Returns a destination's section that leads here."""
        pop3 = {"port": self.port, "tls": self.tls}
        if "auth" in keys:
            pop3["auth"] = keys.pop("auth")
        section = {"host": self.address, "forwarding":
                   "proxy" if self.proxy else "none"}
        if self.tls != "plain":
            section["tls_server_name"] = "mail.example.com"
            section["tls_ca_file"] = self.certs.ca
        else:
            section["allow_plaintext_auth"] = True
        section.update(keys)
        section["protocol"] = {"pop3": pop3}
        return {k: v for k, v in section.items() if v is not None}

    def connection(self, number=-1):
        """Waits for the connection of that number and returns it; -1 is
        the latest."""
        want = number + 1 if number >= 0 else 1
        wait_until(lambda: len(self.connections) >= want,
                   f"connection {number} to the backend")
        return self.connections[number]

    def forget(self):
        """Starts counting connections again."""
        with self._lock:
            self.connections = []

    def commands(self):
        """Returns all command lines of all connections, in order."""
        return [line for c in list(self.connections) for line in c.commands]

    def story(self):
        return "\n".join(line for c in list(self.connections)
                         for line in c.story)

    def close(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for c in list(self.connections):
            try:
                socket.socket.shutdown(c.sock, socket.SHUT_RDWR)
            except OSError:
                pass


class Pop3:
    """The script of a server that behaves.

    greeting   its greeting
    capa       lines besides STLS, SASL, USER; None: CAPA is -ERR
    stls       whether STLS is offered (and taken) before TLS
    sasl       mechanisms; "" or None: no SASL line, AUTH is refused
    user       whether USER is offered
    inline     whether an initial response inside the AUTH line is taken
    prompt     what asks for the response
    check      function(connection, mechanism, frame) that returns the reply
               line to a login; mechanism "USER" has (user, password) as frame
    challenge  sent when a bearer login is refused, before the -ERR
    xclient    reply to XCLIENT; None: not offered
    messages   the maildrop, octets with their CRLFs
    relay      function(connection) for what follows the login
    """

    def __init__(self, greeting="+OK ready",
                 capa=("TOP", "UIDL", "AUTH-RESP-CODE"), stls=True,
                 sasl="PLAIN LOGIN OAUTHBEARER XOAUTH2", user=True,
                 inline=True, prompt="+ ", check=None, challenge=None,
                 xclient=None, utf8="+OK", messages=(), relay=None):
        self.greeting = greeting
        self.capa = capa
        self.stls = stls
        self.sasl = sasl
        self.user = user
        self.inline = inline
        self.prompt = prompt
        self.check = check or (lambda c, mech, frame: "+OK logged in")
        self.challenge = challenge
        self.xclient = xclient
        self.utf8 = utf8
        self.messages = list(messages)
        self.relay = relay

    def __call__(self, c):
        c.send(self.greeting)
        name = None
        while True:
            line = c.line()
            verb, _, arg = line.partition(" ")
            verb = verb.upper()
            if verb == "CAPA":
                self._capa(c)
            elif verb == "STLS" and self.stls and not c.tls:
                c.send("+OK begin TLS")
                c.starttls()
            elif verb == "XCLIENT" and self.xclient:
                c.send(self.xclient)
            elif verb == "UTF8":
                c.send(self.utf8)
            elif verb == "NOOP":
                c.send("-ERR Unknown command.")
            elif verb == "USER" and self.user:
                name = arg
                c.send("+OK")
            elif verb == "PASS" and name is not None:
                if self._answer(c, "USER", (name, arg)):
                    return
            elif verb == "AUTH" and self.sasl:
                if self._auth(c, arg):
                    return
            elif verb == "QUIT":
                c.send("+OK bye")
                c.close()
                return
            else:
                c.send("-ERR unknown command")

    def _capa(self, c):
        if self.capa is None:
            c.send("-ERR")
            return
        lines = ["+OK"] + list(self.capa)
        if self.stls and not c.tls and c.backend.tls == "starttls":
            lines.append("STLS")
        if self.sasl:
            lines.append("SASL " + self.sasl)
        if self.user:
            lines.append("USER")
        c.raw("".join(line + "\r\n" for line in lines + ["."])
              .encode("latin-1"))

    def _auth(self, c, arg):
        mech, _, response = arg.partition(" ")
        if mech.upper() not in self.sasl.split():
            c.send("-ERR unknown mechanism")
            return False
        if response and not self.inline:
            c.send("-ERR Protocol error. Connection is closed")
            c.close()
            raise Gone("refused an initial response")
        if not response:
            c.send(self.prompt)
            response = c.line()
            if response == "*":
                c.send("-ERR cancelled")
                return False
        frame = base64.b64decode(response) if response != "=" else b""
        return self._answer(c, mech.upper(), frame)

    def _answer(self, c, mech, frame):
        """Returns True if logged in; the session is then over."""
        reply = self.check(c, mech, frame)
        if not reply.startswith("+OK"):
            if self.challenge and mech in ("XOAUTH2", "OAUTHBEARER"):
                c.send("+ " + base64.b64encode(self.challenge).decode("ascii"))
                c.dummy = c.line()
            c.send(reply)
            return False
        c.send(reply)
        c.logged_in.set()
        (self.relay or self.transaction)(c)
        return True

    def transaction(self, c):
        """Serves RFC 1939's transaction state, as far as the tests need
        it."""
        deleted = set()
        while True:
            line = c.line()
            verb, _, arg = line.partition(" ")
            verb = verb.upper()
            left = [i for i in range(len(self.messages)) if i not in deleted]
            if verb == "STAT":
                c.send(f"+OK {len(left)} "
                       f"{sum(len(self.messages[i]) for i in left)}")
            elif verb == "LIST":
                c.raw(b"+OK\r\n" + b"".join(
                    b"%d %d\r\n" % (i + 1, len(self.messages[i]))
                    for i in left) + b".\r\n")
            elif verb == "RETR":
                c.raw(b"+OK\r\n" + stuff(self.messages[int(arg) - 1])
                      + b".\r\n")
            elif verb == "DELE":
                deleted.add(int(arg) - 1)
                c.send("+OK")
            elif verb == "NOOP":
                c.send("+OK noop")
            elif verb == "QUIT":
                c.send("+OK bye")
                c.close()
                return
            else:
                c.send("-ERR unknown command")


def stuff(message):
    """Doubles the dots at the begin of lines."""
    return b"\r\n".join(b"." + line if line.startswith(b".") else line
                        for line in message.split(b"\r\n"))


def says(*lines):
    """Returns a script that sends these lines, then reads until the peer
    closes."""
    def script(c):
        for line in lines:
            c.send(line)
        c.drain()
    return script


def silent(c):
    """A script that sends nothing."""
    c.drain()


def refused_port(certs):
    """Returns a backend's section whose port nobody listens on."""
    b = Backend(certs)
    section = b.destination()
    b.close()
    return section


def random_octets(size):
    return os.urandom(size)
