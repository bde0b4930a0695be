"""A proxy in front of mailferry, with ports that a test names."""

import os

from .ports import free_port, is_listening
from .proc import temp_dir
from .server import Server


class Front(Server):
    """routes: {name: where to}; port_of(name) leads there."""

    def __init__(self, kind, routes):
        self.dir = temp_dir(f"mailferry-{kind}-")
        self.log_path = os.path.join(self.dir, "log")
        self.ports = {name: free_port() for name in routes}

    def answers(self):
        return all(is_listening(port) for port in self.ports.values())

    def port_of(self, name):
        return self.ports[name]

    def stop(self):
        if self.process:
            self.process.stop()


def xclient_words(connection):
    """Returns what the one XCLIENT command of this connection says."""
    line, = [x for x in connection.commands if x.startswith("XCLIENT ")]
    return dict(word.split("=", 1) for word in line.split()[1:])
