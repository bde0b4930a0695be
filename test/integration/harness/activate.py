"""Opens sockets, hands them in as a service manager does (sd_listen_fds(3)),
and becomes a program:

    activate.py ADDRESS:PORT[,OPTION...]... -- PROGRAM ARGUMENT...

Options: reuseport; silent (not listening); both ([::] takes IPv4 as well, as
with BindIPv6Only=default)."""

import os
import socket
import sys

FIRST = 3


def opened(text):
    place, *options = text.split(",")
    host, port = place.rsplit(":", 1)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY,
                     "both" not in options)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "reuseport" in options:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((host.strip("[]"), int(port)))
    if "silent" not in options:
        s.listen(128)
    return s


def main():
    end = sys.argv.index("--")
    sockets = [opened(text) for text in sys.argv[1:end]]
    # Out of the way first: a source may be another one's target.
    high = [os.dup2(s.fileno(), 100 + i) for i, s in enumerate(sockets)]
    for i, fd in enumerate(high):
        os.dup2(fd, FIRST + i)
        os.close(fd)
    os.environ["LISTEN_FDS"] = str(len(sockets))
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execv(sys.argv[end + 1], sys.argv[end + 1:])


main()
