"""The common part of the servers that tests start."""

import os
import signal

from .proc import Process, wait_until


class Server:
    """Has a log_path. A subclass tells by answers() whether it is up."""

    process = None

    def launch(self, argv, what):
        """Starts it and waits until it answers."""
        self.process = Process(argv, self.log_path)

        def up():
            if self.process.status is not None:
                raise AssertionError(f"{what} ended with status "
                                     f"{self.process.status}")
            return self.answers()
        try:
            wait_until(up, f"{what} answers", 60)
        except AssertionError as e:
            self.stop()
            raise AssertionError(f"{e}\n{self.output()}") from None

    def freeze(self):
        self.process.signal(signal.SIGSTOP)

    def thaw(self):
        self.process.signal(signal.SIGCONT)

    def halt(self):
        """Kills it at once."""
        self.process.kill()

    def stop(self):
        if self.process:
            self.process.kill()

    def mark(self):
        return os.path.getsize(self.log_path)

    def output(self, start=0):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, "rb") as f:
            f.seek(start)
            return f.read().decode("utf-8", "backslashreplace")
