"""TLS as it is out there: backends and clients that are old, or picky."""

import socket
import ssl
import struct

from harness.case import Backend, Pop3, certs
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
