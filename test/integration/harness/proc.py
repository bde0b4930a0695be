"""Processes that die with the test, and waiting with a bound."""

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

PR_SET_PDEATHSIG = 1
DEADLINE = 15  # seconds that anything local may take on a busy machine

_libc = ctypes.CDLL(None)
_running = set()
_directories = []


def wait_until(condition, what, timeout=DEADLINE, pause=.005):
    """Polls until condition() is true, and returns its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(pause)


def temp_dir(prefix="mailferry-test-"):
    """Returns a directory that is removed when this process ends. Other
    users may pass through it, because backends drop their privileges."""
    path = tempfile.mkdtemp(prefix=prefix)
    os.chmod(path, 0o755)
    _directories.append(path)
    return path


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child in its own process group, its output in a file."""

    def __init__(self, argv, log, env=None, cwd=None):
        self.argv = [str(a) for a in argv]
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=env, cwd=cwd, start_new_session=True,
                preexec_fn=_die_with_parent)
        _running.add(self)

    @property
    def pid(self):
        return self.child.pid

    @property
    def status(self):
        """The exit status, or None while it runs."""
        status = self.child.poll()
        if status is not None:
            _running.discard(self)
        return status

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self, timeout=DEADLINE):
        """Waits for the end and returns the exit status."""
        try:
            status = self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.argv[0]} did not end within {timeout} s") from None
        _running.discard(self)
        return status

    def kill(self):
        """Kills the whole group. It may have ended already."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        _running.discard(self)

    def stop(self, timeout=DEADLINE):
        """Sends SIGTERM, and SIGKILL if that has no effect. Returns the
        exit status."""
        if self.status is None:
            self.signal(signal.SIGTERM)
            try:
                self.child.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        status = self.child.poll()
        self.kill()
        return status

    def output(self):
        with open(self.log, "rb") as f:
            return f.read().decode("utf-8", "backslashreplace")


def run(argv, timeout=60, stdin=b"", env=None, cwd=None, user=None):
    """Runs a command to its end and returns subprocess.CompletedProcess with
    its output as bytes. user: (uid, gid) to become."""
    uid, gid = user if user else (None, None)
    return subprocess.run(
        [str(a) for a in argv], input=stdin, capture_output=True,
        timeout=timeout, env=env, cwd=cwd, preexec_fn=_die_with_parent,
        user=uid, group=gid, extra_groups=[] if user else None, check=False)


def check_run(argv, **how):
    """Calls run(), and fails unless the command succeeds."""
    done = run(argv, **how)
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(map(str, argv))}: status {done.returncode}\n"
            + done.stdout.decode("utf-8", "replace")
            + done.stderr.decode("utf-8", "replace"))
    return done


def rss(pid):
    """Returns a process's resident memory in octets."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def cpu_seconds(pid):
    """Returns the CPU time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(pid, prefix):
    """The ids of a process's threads whose name begins so, by name."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            name = f.read().strip()
        if name.startswith(prefix):
            found[name] = int(tid)
    return found


def descriptors(pid):
    """Returns how many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@atexit.register
def _clean_up():
    for process in list(_running):
        try:
            process.kill()
        except OSError:
            pass
    for path in _directories:
        shutil.rmtree(path, ignore_errors=True)


def _terminated(number, _frame):
    # unittest would take SystemExit for a test's failure, and go on.
    _clean_up()
    os._exit(128 + number)


signal.signal(signal.SIGTERM, _terminated)
