"""A Redis server of the test's own."""

import os
import socket

from .certs import certs
from .ports import free_port
from .proc import temp_dir
from .server import Server


class Redis(Server):
    """password: for everybody. tls: on a port of its own."""

    def __init__(self, password=None, tls=None, lines=()):
        self.dir = temp_dir("mailferry-redis-")
        self.port = free_port()
        self.tls_port = free_port() if tls else 0
        self.socket = os.path.join(self.dir, "redis.sock")
        self.log_path = os.path.join(self.dir, "log")
        self.password = password
        conf = [f"port {self.port}", "bind 127.0.0.1", "save \"\"",
                f"dir {self.dir}", f"unixsocket {self.socket}",
                "daemonize no", "databases 4", "appendonly yes",
                "appendfsync always", *lines]
        if password:
            conf.append(f"requirepass {password}")
        if tls:
            c = certs()
            conf += [f"tls-port {self.tls_port}",
                     f"tls-cert-file {c.cert(tls)}",
                     f"tls-key-file {c.key(tls)}",
                     f"tls-ca-cert-file {c.ca}", "tls-auth-clients no"]
        self.path = os.path.join(self.dir, "redis.conf")
        with open(self.path, "w", encoding="utf-8") as f:
            f.write("\n".join(conf) + "\n")

    def start(self, loading=False):
        """loading: while it still reads its data."""
        self.loading = loading
        self.launch(["redis-server", self.path], "redis")
        return self

    def answers(self):
        try:
            reply = self.ask("PING")
            return reply == b"+PONG\r\n" or (
                self.loading and reply.startswith(b"-LOADING"))
        except OSError:
            return False

    def ask(self, *words, database=0):
        """A command; the reply as it comes."""
        def command(*words):
            words = [w if isinstance(w, bytes) else str(w).encode()
                     for w in words]
            return b"*%d\r\n" % len(words) + b"".join(
                b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
        with socket.create_connection(("127.0.0.1", self.port), 5) as s:
            f = s.makefile("rb")
            if self.password:
                s.sendall(command("AUTH", self.password))
                assert f.readline() == b"+OK\r\n"
            if database:
                s.sendall(command("SELECT", database))
                assert f.readline() == b"+OK\r\n"
            s.sendall(command(*words))
            reply = f.readline()
            if reply.startswith(b"$") and int(reply[1:]) >= 0:
                return f.read(int(reply[1:]) + 2)[:-2]
            return reply

    def route(self, identifier, destination, prefix="route:", database=0):
        assert self.ask("SET", prefix + identifier, destination,
                        database=database) == b"+OK\r\n"

    def routes(self, routes):
        for identifier, destination in routes.items():
            self.route(identifier, destination)
