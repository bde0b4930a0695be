"""The base class of the tests. It stops what they start, and prints all
output and logs when one fails."""

import os
import shutil
import sys
import unittest

from .certs import certs
from .client import Client, context
from .fake_backend import Backend, Pop3
from .mailferry import Mailferry


def need(*tools):
    """Skips a test if a tool, or a file given by its full path, is
    missing. Fails instead if MAILFERRY_TEST_STRICT is set, as in CI."""
    missing = [tool for tool in tools if not
               (os.path.exists(tool) if "/" in tool else shutil.which(tool))]
    return _need(missing, "not installed: " + ", ".join(missing))


def need_root():
    return _need(os.geteuid() != 0, "has to run as root")


def need_that(why_not):
    """why_not(): returns why the test cannot run, or None."""
    why = why_not()
    return _need(why is not None, why)


def _need(missing, why):
    if missing and os.environ.get("MAILFERRY_TEST_STRICT"):
        def fail(_item):
            raise RuntimeError(why)
        return fail
    return unittest.skipIf(missing, why)


class Case(unittest.TestCase):
    """One test. Daemons and backends of setUpClass are started with
    cls.start_*(), those of a test with the same calls on self."""

    maxDiff = None
    _shared = ()

    @classmethod
    def setUpClass(cls):
        cls._shared = []

    def setUp(self):
        self._own = []
        self._clients = []
        self._marks = [(d, d.mark() if hasattr(d, "mark") else 0)
                       for d in self._shared]
        for d in self._shared:
            if isinstance(d, Backend):
                d.errors.clear()

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            self._print_evidence()

    def _print_evidence(self):
        out = [f"\n======== evidence of {self.id()}"]
        for i, client in enumerate(getattr(self, "_clients", [])):
            out.append(f"---- client {i}\n{client.story()}")
        things = list(getattr(self, "_marks", []))
        things += [(d, 0) for d in getattr(self, "_own", [])]
        for thing, start in things:
            if isinstance(thing, Backend):
                out.append(f"---- backend at port {thing.port}\n"
                           + thing.story())
            elif isinstance(thing, Mailferry):
                out.append(f"---- {thing.path}\n{thing.text()}")
                out.append("---- mailferry's log\n"
                           + self._capped(thing.output(start)))
            else:
                out.append(f"---- log of {type(thing).__name__}\n"
                           + self._capped(thing.output(start)))
        print("\n".join(out) + "\n======== end", file=sys.stderr, flush=True)

    @staticmethod
    def _capped(text, limit=40000):
        if len(text) <= limit:
            return text
        return text[:limit // 2] + "\n[...]\n" + text[-limit // 2:]

    # What is started

    def backend(self, *args, **keys):
        """A backend of this test."""
        return self._keep(Backend(certs(), *args, **keys))

    @classmethod
    def shared_backend(cls, *args, **keys):
        """A backend of all the class's tests."""
        b = Backend(certs(), *args, **keys)
        cls._shared.append(b)
        cls.addClassCleanup(b.close)
        return b

    def mailferry(self, *args, start=True, env=None, **keys):
        """A daemon of this test, started."""
        d = Mailferry(certs(), *args, **keys)
        self._own.append(d)
        self.addCleanup(d.stop)
        return d.start(env) if start else d

    @classmethod
    def shared_mailferry(cls, *args, **keys):
        d = Mailferry(certs(), *args, **keys)
        cls._shared.append(d)
        cls.addClassCleanup(d.stop)
        return d.start()

    def keep(self, thing):
        """Adds another object whose stop() and output() are called."""
        self._own.append(thing)
        self.addCleanup(thing.stop)
        return thing

    def _keep(self, backend):
        self._own.append(backend)
        self.addCleanup(self._end_backend, backend)
        return backend

    def _end_backend(self, backend):
        backend.close()
        self.assertEqual(backend.errors, [], "the backend's script")

    def client(self, port, **keys):
        """A client connection, verifying against our CA."""
        keys.setdefault("ctx", context(certs().ca))
        if isinstance(port, Mailferry):
            port = port.port
        c = Client(port, **keys)
        self._clients.append(c)
        self.addCleanup(c.close)
        return c

    def leave(self):
        """Closes all clients of this test."""
        for c in self._clients:
            c.close()

    # Assertions

    def assertReply(self, reply, start):
        """Checks that the reply is this text, or begins with it and a
        space."""
        if reply != start and not reply.startswith(start.rstrip() + " "):
            self.fail(f"expected {start!r}, got {reply!r}")

    def assertTempFail(self, reply):
        """Checks for "-ERR [SYS/TEMP]" with words that do not make a mail
        program ask for a new password."""
        self.assertReply(reply, "-ERR [SYS/TEMP]")
        for word in ("password", "login", "authentication"):
            self.assertNotIn(word, reply.lower())

    def login(self, port, user="alice@example.com", password="secret",
              **keys):
        """Returns a client that has logged in by USER and PASS."""
        keys.setdefault("tls", "starttls")
        c = self.client(port, **keys)
        self.assertReply(c.cmd(f"USER {user}"), "+OK")
        self.assertReply(c.cmd(f"PASS {password}"), "+OK")
        return c


__all__ = ["Backend", "Case", "Client", "Mailferry", "Pop3", "certs",
           "context", "need", "need_root", "need_that"]
