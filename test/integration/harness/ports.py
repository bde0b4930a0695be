"""Free loopback ports.

The port is picked below the range that the kernel hands out to clients, and
is claimed by an abstract unix socket for as long as this process lives, so
that suites which run side by side never pick the same one.
"""

import random
import socket

FIRST, LAST = 20000, 32000

_claims = []


def free_port():
    """Returns a TCP port that nobody listens on, reserved for this
    process."""
    start = random.randrange(FIRST, LAST)
    for offset in range(LAST - FIRST):
        port = FIRST + (start - FIRST + offset) % (LAST - FIRST)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0mailferry-test-port-{port}")
            _unused(port)
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError("no free port")


def _unused(port):
    """Raises OSError if the port is used on any local address."""
    families = [(socket.AF_INET, "0.0.0.0")]
    if has_ipv6():
        families.append((socket.AF_INET6, "::"))
    for family, address in families:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))


def has_ipv6():
    """Returns whether ::1 can be used on this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def is_listening(port, pid="self"):
    """Returns whether a TCP socket listens on the port, in the network of
    process pid. It does not connect."""
    for table in (f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                next(lines)
                for line in lines:
                    _, local, _, state = line.split()[:4]
                    if state == "0A" and int(local.split(":")[1], 16) == port:
                        return True
        except FileNotFoundError:
            pass
    return False
