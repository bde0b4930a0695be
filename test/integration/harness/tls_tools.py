"""TLS clients that negotiate what Python's ssl cannot."""

import os
import subprocess

from .proc import DEADLINE, _die_with_parent

FLOOD = os.path.join(os.path.dirname(os.environ["MAILFERRY_BIN"]),
                     "test", "integration", "tls_flood")


def flood(port, kind, seconds, login=()):
    """tools/tls_flood.c at work."""
    return TlsTool([FLOOD, str(port), kind, str(seconds), *login])


def openssl(port, *options):
    """openssl s_client, its messages kept out of the data."""
    return TlsTool(["openssl", "s_client", "-quiet", "-connect",
                    f"127.0.0.1:{port}", *options])


def gnutls(port, *options):
    """gnutls-cli, likewise."""
    return TlsTool(["gnutls-cli", "--insecure", "--logfile", "/dev/null",
                    "--port", str(port), *options, "127.0.0.1"])


class TlsTool:
    """One connection: the program's stdin and stdout."""

    def __init__(self, argv):
        self.child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=_die_with_parent)

    def send(self, data):
        self.child.stdin.write(data)
        self.child.stdin.flush()

    def exactly(self, size):
        """size octets, or fewer at the end."""
        return self.child.stdout.read(size)

    def line(self):
        return self.child.stdout.readline()

    def rest(self):
        """All up to the server's close."""
        return self.child.stdout.read()

    def close(self):
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.kill()
        self.child.wait(DEADLINE)
