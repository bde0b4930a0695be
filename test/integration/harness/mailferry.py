"""The daemon under test: its configuration, its process, its log."""

import json
import os
import re
import signal
import time

from .ports import free_port, is_listening
from .proc import DEADLINE, Process, temp_dir, threads, wait_until
from .yaml import dump

SANITIZER = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error: ")


def binary():
    path = os.environ.get("MAILFERRY_BIN")
    if not path:
        raise RuntimeError("MAILFERRY_BIN names the daemon to be tested")
    return path


def sanitized():
    """Returns whether the daemon was built with a sanitizer. Sanitizers
    keep freed memory and need more memory."""
    with open(binary(), "rb") as f:
        data = f.read()
    return any(word in data for word in
               (b"__asan_init", b"__tsan_init", b"__msan_init"))


def merge(base, over):
    """Returns base with the keys of over. None removes a key."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out


def defaults(certs):
    return {
        "server": {
            "threads": int(os.environ.get("MAILFERRY_TEST_THREADS", "2")),
            "hostname": "mail.example.com",
            "shutdown_grace": "2s",
            "backend_timeout": "5s",
            "backend_auth_timeout": "10s",
            "auth_failure_delay": "0ms",
            "host_down_threshold": 0,
            "log_level": "debug",
            "log_format": "json",
        },
        "tls": {
            "certificate": {
                "primary": {
                    "cert": certs.cert("good"),
                    "key": certs.key("good"),
                    "default": True,
                },
            },
        },
        "mapping": {"source": "file", "file": {"path": "mappings.tsv"}},
    }


class Mailferry:
    """One daemon. listeners: {name: keys}, whose port is chosen here unless
    they have a bind; destinations: {name: keys}, the first is the default.
    mapping: {identifier: destination}. over: more sections, merged. via: a
    command that is to execute it."""

    via = ()

    def __init__(self, certs, listeners=None, destinations=None, mapping=None,
                 over=None):
        self.dir = temp_dir("mailferry-daemon-")
        self.path = os.path.join(self.dir, "mailferry.yaml")
        self.mapping_path = os.path.join(self.dir, "mappings.tsv")
        self.log_path = os.path.join(self.dir, "log")
        self.ports = {}
        self.process = None
        self.where = {}
        tree = defaults(certs)
        tree["listener"] = {}
        for name, keys in (listeners or
                           {"pop3": {"tls": "starttls"}}).items():
            tree["listener"][name] = self._listener(name, dict(keys))
        if destinations:
            tree["routing"] = {"default_destination": next(iter(destinations))}
            tree["destination"] = destinations
        self.tree = merge(tree, over or {})
        self.write_mapping(mapping or {})
        self.write()

    def _listener(self, name, keys):
        if "bind" not in keys:
            port = free_port()
            keys = {"bind": [f"127.0.0.1:{port}"], **keys}
            self.ports[name] = [port]
        else:
            self.ports[name] = [int(b.rsplit(":", 1)[1])
                                for b in keys["bind"]]
        return keys

    @property
    def port(self):
        """The first listener's port."""
        return next(iter(self.ports.values()))[0]

    def port_of(self, listener, number=0):
        return self.ports[listener][number]

    # Files

    def write(self):
        text, self.where = dump(self.tree)
        with open(self.path, "w", encoding="utf-8") as f:
            f.write(text)

    def change(self, over):
        """Merges into the configuration and writes it, without a reload."""
        self.tree = merge(self.tree, over)
        self.write()

    def write_mapping(self, mapping):
        text = "".join(f"{key}\t{value}\n" for key, value in mapping.items())
        self.write_mapping_text(text)

    def write_mapping_text(self, text):
        with open(self.mapping_path, "w", encoding="utf-8") as f:
            f.write(text)

    # The process

    def launch(self, env=None):
        """Starts it without waiting."""
        self.process = Process(
            [*self.via, binary(), "-c", self.path], self.log_path, cwd=self.dir,
            env=dict(os.environ, **(env or {})))
        return self

    def start(self, env=None):
        """Starts it and waits until all ports accept."""
        self.launch(env)
        ports = [p for ports in self.ports.values() for p in ports]

        def up():
            if self.process.status is not None:
                raise AssertionError(
                    f"mailferry ended with status {self.process.status} at "
                    f"its start\n{self.output()}\n{self.text()}")
            return all(is_listening(p, self.pid) for p in ports)
        try:
            wait_until(up, "mailferry listens")
        except AssertionError:
            self.kill()
            raise
        return self

    def text(self):
        with open(self.path, encoding="utf-8") as f:
            return f.read()

    @property
    def pid(self):
        return self.process.pid

    def terminate(self):
        self.process.signal(signal.SIGTERM)

    def hang_up(self):
        self.process.signal(signal.SIGHUP)

    def kill(self):
        if self.process:
            self.process.kill()

    def stop(self, timeout=DEADLINE):
        """Ends it in an orderly way, and complains if that fails."""
        if not self.process:
            return
        process, self.process = self.process, None
        status = process.stop(timeout)
        self.process = None
        found = SANITIZER.search(self.output())
        if found:
            raise AssertionError("a sanitizer complained\n" + self.output())
        if status != 0:
            raise AssertionError(f"mailferry ended with status {status}\n"
                                 + self.output())

    # The log

    def settle(self):
        """Waits until what has been logged so far is written: the thread of
        the log keeps lines for 5 ms, and then does not sleep before they are
        out."""
        def size():
            try:
                return os.path.getsize(self.log_path)
            except FileNotFoundError:
                return 0

        for _ in range(100):  # no end is in sight of one that is busy
            if not self.process or self.process.status is not None:
                return
            before = size()
            time.sleep(.01)
            if not self.writing() and size() == before:
                return

    def writing(self):
        """Returns whether the log's thread has something to write."""
        try:
            for tid in threads(self.pid, "log").values():
                with open(f"/proc/{self.pid}/task/{tid}/stat",
                          encoding="ascii") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] in "RD":
                        return True
        except (FileNotFoundError, ProcessLookupError):
            pass
        return False

    def output(self, start=0):
        """Standard error and the log, as text, from an offset."""
        self.settle()
        return self.written(start)

    def written(self, start=0):
        """Returns the part of output() that exists already."""
        try:
            with open(self.log_path, "rb") as f:
                f.seek(start)
                return f.read().decode("utf-8", "backslashreplace")
        except FileNotFoundError:
            return ""

    def mark(self):
        """Returns the current end of the log, for records()."""
        self.settle()
        try:
            return os.path.getsize(self.log_path)
        except FileNotFoundError:
            return 0

    def records(self, start=0):
        """Returns the JSON lines of the log, as dicts."""
        return self._parsed(self.output(start))

    @staticmethod
    def _parsed(text):
        found = []
        for line in text.splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    pass  # still being written; test_process reads strictly
        return found

    def wait_record(self, fits, what, start=0):
        """Waits for a log line that fits and returns it. fits: a function
        of the dict."""
        def look():
            for record in self._parsed(self.written(start)):
                if fits(record):
                    return record
            return None
        try:
            return wait_until(look, f"a log line: {what}")
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.output(start)}") from None

    def wait_log(self, pattern, start=0):
        """Waits for output that matches a regular expression."""
        return wait_until(
            lambda: re.search(pattern, self.written(start)),
            f"log output that matches {pattern}")
