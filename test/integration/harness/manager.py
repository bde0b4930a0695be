"""The receiving side of a service manager (sd_notify(3)), and a way to
stop one thread."""

import contextlib
import ctypes
import os
import socket
import time

from .proc import DEADLINE, temp_dir, threads

PTRACE_ATTACH = 16
PTRACE_DETACH = 17
WALL = 0x40000000

__all__ = ["Manager", "hung", "threads"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p,
                         ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class Manager:
    """Receives the messages of a daemon that is started with env. A
    message is a dict. abstract: on a socket without a file, for a
    daemon with a root of its own."""

    def __init__(self, watchdog=None, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if abstract:
            self.path = f"\0mailferry-manager-{os.getpid()}-{id(self)}"
            self.socket.bind(self.path)
        else:
            self.path = os.path.join(temp_dir("mailferry-manager-"), "notify")
            self.socket.bind(self.path)
            os.chmod(self.path, 0o777)
        self.env = {"NOTIFY_SOCKET": self.path.replace("\0", "@")}
        if watchdog:
            self.env["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        self.heard = []

    def close(self):
        self.socket.close()

    def fill(self):
        """Leaves no room for another message until next() is called."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.setblocking(False)
            try:
                while True:
                    s.sendto(b"FILL=1", self.path)
            except BlockingIOError:
                pass

    def next(self, timeout=DEADLINE):
        """Returns the next message, or None if none comes in that time."""
        self.socket.settimeout(max(timeout, .001))
        try:
            data = self.socket.recv(65536).decode()
        except (TimeoutError, BlockingIOError):
            return None
        message = dict(line.split("=", 1) for line in data.splitlines())
        self.heard.append(message)
        return message

    def until(self, key, timeout=DEADLINE):
        """Returns the next message that has this key."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            message = self.next(left) if left > 0 else None
            if message is None:
                raise AssertionError(f"no {key} within {timeout} s; heard: "
                                     f"{self.heard[-10:]}")
            if key in message:
                return message

    def listen(self, seconds):
        """Returns everything that comes in that many seconds."""
        end = time.monotonic() + seconds
        found = []
        while True:
            left = end - time.monotonic()
            message = self.next(left) if left > 0 else None
            if message is None:
                return found
            found.append(message)


def _ptrace(request, tid):
    if _libc.ptrace(request, tid, None, None) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


@contextlib.contextmanager
def hung(tid):
    """Stops this one thread while its siblings go on. Signals cannot do
    that, but a tracer can."""
    _ptrace(PTRACE_ATTACH, tid)
    try:
        os.waitpid(tid, WALL)
        yield
    finally:
        _ptrace(PTRACE_DETACH, tid)
