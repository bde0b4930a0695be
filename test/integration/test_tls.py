"""TLS as it is out there: backends and clients that are old, or picky."""

import os
import socket
import ssl
import struct
import warnings

from harness.case import Backend, Pop3, certs, need
from harness.ports import free_port
from harness.proc import check_run
from harness.server import Server
from test_backend import Leg, remember

TICKET, ALPN = 35, 16
TLS12 = ssl.TLSVersion.TLSv1_2
NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"


def hello_extensions(sock):
    """The extensions of the ClientHello that waits on sock, by type."""
    head = sock.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    size = 5 + struct.unpack("!H", head[3:])[0]
    hello = sock.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)[43:]
    hello = hello[1 + hello[0]:]  # behind the session id
    hello = hello[2 + struct.unpack("!H", hello[:2])[0]:]  # the suites
    hello = hello[1 + hello[0] + 2:]  # compression, length
    found = {}
    while hello:
        kind, size = struct.unpack("!HH", hello[:4])
        found[kind] = hello[4:4 + size]
        hello = hello[4 + size:]
    return found


class Picky(Backend):
    """Implicit TLS; answers some ClientHellos by other means: picky is a
    function(extensions) that returns these octets, or None."""

    def __init__(self, picky, **keys):
        self.picky = picky
        super().__init__(certs(), Pop3(check=remember), tls="implicit",
                         **keys)

    def _serve(self, c, script):
        answer = self.picky(hello_extensions(c.sock))
        if answer is None:
            super()._serve(c, script)
            return
        c.sock.sendall(answer)
        c.close()
        c.finished.set()


class PickyBackends(Leg):

    def picky(self, answer, **keys):
        b = self._keep(Picky(answer, **keys))
        self.serve_here({"x": b.destination()},
                        {"server": {"threads": 1,
                                    "backend_connect_retries": 0,
                                    "host_down_threshold": 1,
                                    "host_down_min_clients": 0}})
        return b

    def test_hangs_up_on_a_resumption(self):
        """farms behind one name with different ticket keys"""
        b = self.picky(lambda ext: b"" if ext.get(TICKET) else None,
                       maximum=TLS12)
        for connections in (1, 3, 5):
            self.assertLoggedIn("x").play("C: QUIT\nS: +OK\nCLOSED")
            self.assertEqual(len(b.connections), connections)
        self.daemon.wait_log("trying the backend again with a plainer TLS "
                             "handshake")

    def test_knows_another_protocol(self):
        """no_application_protocol: try once without ALPN, and remember"""
        b = self.picky(lambda ext: NO_APPLICATION_PROTOCOL
                       if ALPN in ext else None)
        for connections in (2, 3, 4):
            self.assertLoggedIn("x")
            self.assertEqual(len(b.connections), connections)
        self.daemon.wait_log("no application protocol")

    def test_refuses_whatever_is_offered(self):
        """once, not for ever"""
        b = self.picky(lambda ext: NO_APPLICATION_PROTOCOL)
        self.assertTempFail(self.log_in("x")[1])
        self.assertEqual(len(b.connections), 2)


def weak(suites="ALL", version=None, dh=None):
    """Prepares a server as they once were; version: the only one."""
    def prepare(ctx):
        ctx.set_ciphers(suites + ":@SECLEVEL=0")
        if dh:
            ctx.load_dh_params(dh)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            ctx.minimum_version = version or ssl.TLSVersion.TLSv1
            ctx.maximum_version = version or TLS12
    return prepare


class OldBackends(Leg):
    """The server that people migrate away from is old (DESIGN)."""

    def small_dh(self):
        path = os.path.join(certs().dir, "dh1024.pem")
        check_run(["openssl", "dhparam", "-dsaparam", "-out", path, "1024"])
        return path

    # Its kind: how it is made, which keys reach it, why not without them
    def kinds(self):
        one, two = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        return {
            "tls10": ({"prepare": weak(version=one)},
                      {"tls_min_version": "1.0"},
                      "the backend has no TLS version that tls_min_version"),
            "tls11": ({"prepare": weak(version=two)},
                      {"tls_min_version": "1.1"},
                      "the backend has no TLS version that tls_min_version"),
            "small": ({"prepare": weak(), "cert": "small"},
                      {"tls_legacy": True}, "tls_legacy: true accepts it"),
            "sha1": ({"prepare": weak(), "cert": "sha1"},
                     {"tls_legacy": True}, "tls_legacy: true accepts it"),
            "dh": ({"prepare": weak("DHE", dh=self.small_dh()),
                    "cert": "rsa"},
                   {"tls_legacy": True}, "tls_legacy: true accepts it"),
            "all": ({"prepare": weak("AES128-SHA", one), "cert": "small"},
                    {"tls_min_version": "1.0", "tls_legacy": True}, ""),
        }

    def test_reached_by_their_keys(self):
        """tls_min_version, tls_legacy (CONFIG)"""
        kinds, d = self.kinds(), {}
        for name, (how, keys, _) in kinds.items():
            b = self.backend(Pop3(check=remember), tls="implicit", **how)
            d[name] = b.destination(**keys)
            d["not-" + name] = b.destination()
        self.serve_here(d)
        for name, (_, _, why) in kinds.items():
            with self.subTest(name):
                self.assertLoggedIn(name).play("C: QUIT\nS: +OK\nCLOSED")
                self.assertTempFail(self.log_in("not-" + name)[1])
                self.daemon.wait_record(
                    lambda r, name=name, why=why:
                    r.get("destination") == "not-" + name
                    and why in r.get("reason", ""), why)

    def test_old_is_not_weak(self):
        """tls_min_version alone takes no small keys, no SHA-1"""
        d = {}
        for name in ("small", "sha1"):
            b = self.backend(Pop3(check=remember), tls="implicit",
                             prepare=weak(), cert=name)
            d[name] = b.destination(tls_min_version="1.0")
        b = self.backend(Pop3(check=remember), tls="implicit", cert="rsa",
                         prepare=weak("DHE", dh=self.small_dh()))
        d["dh"] = b.destination(tls_min_version="1.0")
        self.serve_here(d)
        for name in d:
            with self.subTest(name):
                self.assertTempFail(self.log_in(name)[1])
                self.assertEqual(b.commands(), [])

    def test_old_and_checked(self):
        """certificate checks stay as configured"""
        d = {}
        for name in ("unknown", "wrong", "expired"):
            b = self.backend(Pop3(check=remember), tls="implicit",
                             prepare=weak(), cert=name)
            d[name] = b.destination(tls_min_version="1.0", tls_legacy=True)
        self.serve_here(d)
        for name, why in (("unknown", "tls_ca_file"),
                          ("wrong", "it is for wrong.example.com"),
                          ("expired", "it ended on 2020-02-01")):
            with self.subTest(name):
                self.assertTempFail(self.log_in(name)[1])
                self.daemon.wait_log("the certificate is refused: .*" + why)


class Words(Leg):
    """Words that name the cure, in the log"""

    def reason(self, why):
        return self.daemon.wait_record(
            lambda r: why in r.get("reason", ""), why)

    def test_backends(self):
        clear = self.backend(Pop3(stls=False), tls="plain")
        tls = self.backend(Pop3(), tls="implicit")
        wrong = self.backend(Pop3(), tls="implicit", cert="wrong")
        unknown = self.backend(Pop3(), tls="implicit", cert="unknown")
        implicit = tls.destination()["protocol"]["pop3"]
        self.serve_here({
            "clear": {**tls.destination(), "protocol": {
                "pop3": {**implicit, "port": clear.port}}},
            "starttls": {**tls.destination(), "protocol": {
                "pop3": {**implicit, "tls": "starttls"}}},
            "wrong": wrong.destination(), "unknown": unknown.destination()},
            {"server": {"backend_timeout": "1s"}})
        for name, why in (
                ("clear", "wrong version number; the backend does not speak "
                          "TLS here"),
                ("starttls", "a port for implicit TLS or for a PROXY header "
                             "sends no greeting"),
                ("wrong", "hostname mismatch; it is for wrong.example.com"),
                ("unknown", "expected one that an authority in tls_ca_file "
                            "has issued")):
            with self.subTest(name):
                self.assertTempFail(self.log_in(name)[1])
                self.reason(why)

    def test_clients(self):
        b = self.backend(Pop3())
        self.serve_here({"x": b.destination()})
        for octets, why in ((b"USER alice\r\n", "the client does not speak "
                                                "TLS here"),
                            (b"GET / HTTP/1.0\r\n\r\n", "http request")):
            with socket.create_connection(("127.0.0.1",
                                           self.daemon.port)) as s:
                s.sendall(octets)
                self.reason(why)


class GnutlsServer(Server):
    """gnutls-serv that does not know RFC 5746."""

    def __init__(self):
        self.port = free_port()
        self.log_path = os.path.join(certs().dir, f"gnutls.{self.port}")
        self.launch(["gnutls-serv", "--echo", "--nocookie", "--port",
                     str(self.port), "--x509certfile", certs().cert("good"),
                     "--x509keyfile", certs().key("good"), "--priority",
                     "NORMAL:-VERS-TLS1.3:%DISABLE_SAFE_RENEGOTIATION"],
                    "gnutls-serv")

    def answers(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def destination(self, **keys):
        return {"host": "127.0.0.1", "forwarding": "none",
                "tls_server_name": "mail.example.com",
                "tls_ca_file": certs().ca,
                "protocol": {"pop3": {"port": self.port, "tls": "implicit"}},
                **keys}


@need("gnutls-serv")
class WithoutSafeRenegotiation(Leg):

    def test_reached_by_its_key(self):
        """no secure renegotiation (RFC 5746)"""
        b = self.keep(GnutlsServer())
        self.serve_here({"no": b.destination(),
                         "yes": b.destination(tls_legacy=True)},
                        {"server": {"backend_timeout": "1s"}})
        self.assertTempFail(self.log_in("no")[1])
        self.daemon.wait_log("unsafe legacy renegotiation disabled; "
                             "tls_legacy: true accepts it")
        self.assertTempFail(self.log_in("yes")[1])
        # The handshake is done; it is no POP3 server.
        self.daemon.wait_log("waiting for: greeting")
