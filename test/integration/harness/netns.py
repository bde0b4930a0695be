"""A network of its own, on the kernel's own TCP.

Two network namespaces with a cable between them: one for the daemon and its
clients, one for backends and DNS. They have no names and hang on file
descriptors, so that they are gone with this process, however it ends, and the
machine's own network is never touched.

A namespace is entered by a thread:

    with net.far:
        backend = Backend(...)

What is opened inside stays in that network; threads and processes started
inside belong to it.
"""

import ctypes
import os
import socket
import struct
import threading
import time

from .proc import DEADLINE, check_run, temp_dir

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name, *args):
    if getattr(_libc, name)(*args) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class Namespace:
    """One network, with its loopback up."""

    def __init__(self):
        self.fd = -1
        self._before = []
        failed = []

        def make():
            try:
                _call("unshare", CLONE_NEWNET)
                self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            except OSError as e:
                failed.append(e)
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        self.sysctl("net/ipv6/conf/all/keep_addr_on_down", "1")
        self.ip("link set lo up")

    def __enter__(self):
        self._before.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        _call("setns", self.fd, CLONE_NEWNET)
        return self

    def __exit__(self, *exc):
        before = self._before.pop()
        _call("setns", before, CLONE_NEWNET)
        os.close(before)

    @property
    def path(self):
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def ip(self, words):
        """Runs ip(8) in this network."""
        with self:
            check_run(["ip", *words.split()])

    def sysctl(self, name, value):
        """Sets it in this network only."""
        with self, open("/proc/sys/" + name, "w", encoding="ascii") as f:
            f.write(value)

    def tcp(self, counter):
        """Returns a counter of this network's TCP, such as ActiveOpens."""
        with self:
            with open("/proc/thread-self/net/snmp", encoding="ascii") as f:
                names, values = [line.split() for line in f
                                 if line.startswith("Tcp:")]
        return int(dict(zip(names, values))[counter])

    def close(self):
        if self.fd != -1:
            os.close(self.fd)
            self.fd = -1


class Network:
    """near and far, and the cable.

    10.77.0.1-9, fd77::1-9     near's
    10.77.0.10-99, fd77::10-99 far's; who does not listen there refuses
    10.77.0.200, fd77::200     nobody's
    10.78.0.0/24, fd78::/64    far throws away what goes there
    """

    def __init__(self):
        self.near = self.far = None
        try:
            self.near, self.far = Namespace(), Namespace()
            self.near.ip("link add cable type veth peer name cable netns "
                         + self.far.path)
            # No duplicate address detection: the addresses work at once.
            for ns, hosts in ((self.near, range(1, 10)),
                              (self.far, range(10, 100))):
                with ns:
                    check_run(["ip", "-batch", "-"], stdin="".join(
                        f"addr add 10.77.0.{n}/24 dev cable\n"
                        f"addr add fd77::{n}/64 dev cable nodad\n"
                        for n in hosts).encode("ascii"))
                ns.ip("link set cable up")
            self.near.ip("route add 10.78.0.0/24 via 10.77.0.10")
            self.near.ip("route add fd78::/64 via fd77::10")
            self.far.ip("route add blackhole 10.78.0.0/24")
            self.far.ip("route add blackhole fd78::/64")
            self.wait_up()
        except BaseException:
            self.close()
            raise

    def wait_up(self):
        """IPv6 comes up a moment after its cable. Nobody listens on port
        9."""
        for address in ("10.77.0.10", "fd77::10"):
            try:
                with self.near:
                    socket.create_connection((address, 9), DEADLINE).close()
            except ConnectionRefusedError:
                pass

    def close(self):
        for ns in (self.near, self.far):
            if ns:
                ns.close()

    @staticmethod
    def via(resolv_conf="", hosts="", where=None):
        """What a command is put behind to see these in /etc, alone. They are
        files in where, which may be changed, but not replaced."""
        where = where or temp_dir("mailferry-etc-")
        script = []
        for name, text in (("resolv.conf", resolv_conf), ("hosts", hosts)):
            path = os.path.join(where, name)
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
            script.append(f"mount --bind {path} /etc/{name}")
        return ["unshare", "-m", "sh", "-c",
                " && ".join(script) + ' && exec "$@"', "sh"]


def why_not():
    """Returns what prevents such a network for this process, or None."""
    try:
        net = Network()
        try:
            with net.near:
                check_run([*Network.via(), "true"])
        finally:
            net.close()
    except (OSError, AssertionError) as e:
        return f"no network namespaces: {e}"
    return None


class Dns:
    """A name server. names: {name: [addresses]}, which may change at any
    time. It is made inside the network where it is to be."""

    def __init__(self, address, names):
        self.address = address
        self.names = names
        self.asked = []
        self.mute = False
        self.deaf_to = None  # a family whose questions it does not answer
        self.slow = 0  # seconds until it answers
        self.truncates = False  # UDP: "ask again by TCP"
        self.by_tcp = []  # what was asked so
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.listener = socket.create_server((address, 53))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()

    @property
    def resolv_conf(self):
        return f"nameserver {self.address}\n"

    def stop(self):
        """From now on the port answers by ICMP, and may be another's: the
        kernel keeps it for as long as somebody waits on it."""
        for s in (self.socket, self.listener):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.thread.join(DEADLINE)
        self.socket.close()
        self.listener.close()

    def output(self, _start=0):
        return "\n".join(self.asked)

    def _serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(4096)
                if not query:
                    return
                reply = self._reply(query)
                if self.truncates and reply:
                    # TC, and no answers
                    reply = (reply[:2] + bytes([reply[2] | 2]) + reply[3:6]
                             + b"\0\0" + reply[8:self._question_end(query)])
                if not self.mute and reply:
                    time.sleep(self.slow)
                    self.socket.sendto(reply, peer)
            except OSError:
                return

    def _serve_tcp(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            with s:
                try:
                    size, = struct.unpack("!H", s.recv(2, socket.MSG_WAITALL))
                    query = s.recv(size, socket.MSG_WAITALL)
                    reply = self._reply(query)
                    self.by_tcp.append(self.asked[-1])
                    if not self.mute and reply:
                        s.sendall(struct.pack("!H", len(reply)) + reply)
                        s.recv(1)
                except (OSError, struct.error):
                    pass

    @staticmethod
    def _question_end(query):
        at = 12
        while query[at]:
            at += 1 + query[at]
        return at + 5

    def _reply(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1"))
            at += 1 + query[at]
        kind, = struct.unpack("!H", query[at + 1:at + 3])
        name = ".".join(labels).lower()
        self.asked.append(f"{name} {kind}")
        if kind == {socket.AF_INET: 1, socket.AF_INET6: 28}.get(self.deaf_to):
            return None
        addresses = self.names.get(name)
        answers = [self._record(a) for a in addresses or ()
                   if kind == (28 if ":" in a else 1)]
        head = query[:2] + struct.pack(
            "!HHHHH", 0x8180 if addresses is not None else 0x8183, 1,
            len(answers), 0, 0)
        return head + query[12:at + 5] + b"".join(answers)

    @staticmethod
    def _record(address):
        v6 = ":" in address
        data = socket.inet_pton(
            socket.AF_INET6 if v6 else socket.AF_INET, address)
        return struct.pack("!HHHIH", 0xc00c, 28 if v6 else 1, 1, 60,
                           len(data)) + data
