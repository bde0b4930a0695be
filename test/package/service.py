"""The service of the package in a root that has no systemd running: what its
unit says is done by hand, and whoever calls systemctl or deb-systemd-invoke in
there (the package's scripts, the guides' commands) is served from here."""

import os
import re
import subprocess
import threading
import time

from harness.manager import Manager
from harness.proc import Process

NAME = "mailferry.service"
UNIT = "/lib/systemd/system/" + NAME
TOOLS = ("systemctl", "deb-systemd-invoke")

# Asks the test, and ends as that says; what is about files the real one does.
STUB = """\
#!/bin/sh
case "$*" in --root=*) exec /bin/systemctl "$@" ;; esac
printf '%s\\n' "${0##*/} $*" >/tmp/manager.ask
{ read -r status; cat >&2; } </tmp/manager.answer
exit "$status"
"""


def seconds(text):
    """A time as units have it: "45s", "1min 30s", "45"."""
    unit = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60}
    return sum(int(n) * unit[u]
               for n, u in re.findall(r"(\d+)\s*([a-z]*)", text))


class Service:
    """asked: every call, in order. starts: how often ExecStart= was run.
    skipped: how often ExecCondition= kept it from that. ended: exit
    statuses."""

    def __init__(self, root, log):
        self.root = root
        self.log = log
        self.asked, self.ended, self.faults = [], [], []
        self.starts = self.skipped = 0
        self.process = self.manager = None
        self._pipes = [root.inside(f"/tmp/manager.{p}")
                       for p in ("ask", "answer")]
        for pipe in self._pipes:
            os.mkfifo(pipe)
        os.makedirs(root.inside("/tmp/bin"))
        for tool in TOOLS:
            root.write(f"/tmp/bin/{tool}", STUB, 0o755)
        # How the scripts know that there is a systemd to talk to.
        os.makedirs(root.inside("/run/systemd/system"), exist_ok=True)
        # Processes die with the thread that made them: this one stays.
        threading.Thread(target=self._serve, daemon=True).start()

    # The service manager

    def _serve(self):
        while True:
            with open(self._pipes[0], encoding="utf-8") as f:
                line = f.read().strip()
            self.asked.append(line)
            try:
                self._do(line)
                answer = "0\n"
            except (AssertionError, OSError) as e:
                self.faults.append(f"{line}: {e}")
                answer = f"1\n{e}\n"
            with open(self._pipes[1], "w", encoding="utf-8") as f:
                f.write(answer)

    def _do(self, line):
        _, *words = [w for w in line.split() if not w.startswith("--")]
        verb, names = words[0], words[1:]
        if verb == "daemon-reload":
            return
        if names not in (["mailferry"], [NAME]):
            raise AssertionError("no such unit: " + " ".join(names))
        if verb in ("restart", "stop"):
            self._stop()
        if verb in ("restart", "start"):
            self._start()
        elif verb == "reload" or (verb == "try-reload-or-restart"
                                  and self.process):
            self._reload()
        elif verb not in ("stop", "try-reload-or-restart"):
            raise AssertionError("the test knows no " + verb)

    def since(self, mark):
        """What was asked for after so many calls."""
        return self.asked[mark:]

    # The unit

    def values(self, key):
        found = re.findall(rf"^{key}=(.*)$", self.root.read(UNIT), re.M)
        if not found:
            raise AssertionError(f"the unit has no {key}=")
        return found

    def value(self, key):
        value, = self.values(key)
        return value

    def command(self, line):
        """A command line of the unit, with its user and capabilities."""
        caps = [c.lower()[4:]
                for c in self.value("CapabilityBoundingSet").split()]
        caps = ",".join(["-all"] + ["+" + c for c in caps])
        line = line.replace("${MAINPID}", str(self.pid())).replace("$$", "$")
        private = ["unshare", "--ipc"] * (self.value("PrivateIPC") == "yes")
        return private + self.root.argv([
            "setpriv", f"--reuid={self.value('User')}",
            f"--regid={self.value('Group')}", "--init-groups",
            f"--inh-caps={caps}", f"--ambient-caps={caps}",
            f"--bounding-set={caps}", "--no-new-privs",
            "sh", "-c", "exec " + line])

    def may_start(self):
        done = subprocess.run(
            self.command(self.value("ExecCondition")), check=False,
            env=self.root.environment(), capture_output=True)
        return done.returncode == 0

    def _start(self):
        if self.process and self.process.status is None:
            return
        if not self.may_start():
            self.skipped += 1
            return
        self.starts += 1
        if self.manager:
            self.manager.close()
        self.manager = Manager(seconds(self.value("WatchdogSec")),
                               abstract=True)
        self.process = Process(
            self.command(self.value("ExecStart")), self.log,
            env=self.root.environment(**self.manager.env), cwd="/")
        while "READY" not in (self.manager.next(.1) or {}):
            if self.process.status is not None:
                raise AssertionError("it ended with status "
                                     f"{self.process.status}")

    def _reload(self):
        """Each ExecReload=, in order."""
        for line in self.values("ExecReload"):
            done = subprocess.run(
                self.command(line), check=False, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, env=self.root.environment())
            if done.returncode != 0:
                raise AssertionError(done.stdout.decode())
        self.manager.until("RELOADING")
        self.manager.until("READY")

    def _stop(self):
        """SIGTERM, and SIGKILL when the time is over that the unit grants
        and the daemon has asked for."""
        process, self.process = self.process, None
        if not process or process.status is not None:
            return
        process.signal(15)
        end = time.monotonic() + seconds(self.value("TimeoutStopSec"))
        while process.status is None and time.monotonic() < end:
            message = self.manager.next(.1) or {}
            more = int(message.get("EXTEND_TIMEOUT_USEC", 0)) / 1e6
            end = max(end, time.monotonic() + more if more else 0)
        late = process.status is None
        if late:
            process.kill()
        self.ended.append(process.status)
        self.manager.close()
        if late:
            raise AssertionError("not within TimeoutStopSec=: killed")

    def pid(self):
        alive = self.process and self.process.status is None
        return self.process.pid if alive else 0

    def close(self):
        """Whatever has happened, nothing is left."""
        if self.process:
            self.process.kill()
            self.process = None

    def status(self, key):
        with open(f"/proc/{self.pid()}/status", encoding="ascii") as f:
            return re.search(rf"^{key}:\s+(.*)$", f.read(), re.M)[1]
