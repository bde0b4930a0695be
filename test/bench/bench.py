#!/usr/bin/python3
"""Measures mailferry beside nginx's mail proxy and Dovecot's login proxy.

Everything runs on loopback in one run, cases taken in turn so that a slow
minute of the machine hits all of them: popload is the clients, popsink the
backend, the proxies have a worker per CPU each and log at their info level.
A peer that is not installed is left out. Prints Markdown.

  logins   client with TLS 1.3, full handshakes, USER, PASS, QUIT
  memory   logged-in sessions that do nothing
  retr     one big message through one session

CPU time is utime + stime of the proxy's whole process tree. nginx asks an
HTTP server where to go: popsink answers it, and its time is not counted.
"""

import argparse
import contextlib
import datetime
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from machine import (  # noqa: E402
    Bystanders, Ports, cpu_seconds, machine, memory_kib, process_tree)
from proxies import LOCALHOST, USERS, Dovecot, Mailferry, Nginx  # noqa: E402


class BenchError(Exception):
    """One case cannot be measured; the other cases can."""


def say(text):
    print(text, file=sys.stderr, flush=True)


# The site: the directory, the certificates, the backend and what runs.

class Site:
    def __init__(self, args, directory):
        self.args = args
        self.dir = directory
        self.ports = Ports()
        self.workers = args.workers
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # A session has two descriptors, and one worker may get them all.
        self.clients = min(max(args.sessions) + 500, (self.files - 500) // 2)
        self.sink_plain = self.ports.new()
        self.sink_tls = self.ports.new()
        self.sink_http = self.ports.new()
        self.sessions = [n for n in args.sessions if n < self.clients]
        self.serial = 0
        self.sink = None

    def new_directory(self):
        self.serial += 1
        directory = f"{self.dir}/{self.serial}"
        os.mkdir(directory, 0o755)
        return directory

    def certificates(self):
        """Makes a private CA and one P-256 certificate, for both legs."""
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        ca = ["-keyout", f"{self.dir}/ca.key", "-out", f"{self.dir}/ca.pem",
              "-subj", "/CN=bench CA"]
        leaf = ["-CA", f"{self.dir}/ca.pem", "-CAkey", f"{self.dir}/ca.key",
                "-keyout", f"{self.dir}/key.pem",
                "-out", f"{self.dir}/cert.pem", "-subj", "/CN=localhost",
                "-addext", "basicConstraints=critical,CA:FALSE",
                "-addext", f"subjectAltName=DNS:localhost,IP:{LOCALHOST}"]
        for argv in (new + ca, new + leaf):
            subprocess.run(argv, check=True, capture_output=True)

    def spawn_daemon(self, argv, log, upper_half):
        with open(log, "ab") as f:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=f,
                                    stderr=f,
                                    preexec_fn=self.pinning(upper_half))

    def spawn_load(self, argv):
        return subprocess.Popen(argv, stdin=subprocess.PIPE, text=True,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE,
                                preexec_fn=self.pinning(upper_half=False))

    def pinning(self, upper_half):
        """With --pin the proxy gets the upper half of the CPUs, and the
        load gets the lower half."""
        cpus = sorted(os.sched_getaffinity(0))
        half = len(cpus) // 2
        if not self.args.pin or half == 0:
            return None
        mine = cpus[half:] if upper_half else cpus[:half]
        return lambda: os.sched_setaffinity(0, mine)

    def sink_start(self):
        log = f"{self.dir}/popsink.log"
        self.sink = self.spawn_daemon(
            [self.args.popsink, "-p", str(self.sink_plain),
             "-s", str(self.sink_tls), "-a", str(self.sink_http),
             "-c", f"{self.dir}/cert.pem", "-k", f"{self.dir}/key.pem",
             "-m", str(self.args.megabytes * 10**6)], log, False)
        wait_until_ready(self.sink, self.sink_plain, False, log)

    def sink_handshakes(self):
        """Returns how many handshakes the backend has seen, and how many
        were resumed."""
        with socket.create_connection((LOCALHOST, self.sink_plain), 5) as s, \
                s.makefile("rb") as lines:
            lines.readline()
            s.sendall(b"X-TLS\r\n")
            _, handshakes, resumed = lines.readline().split()
            return int(handshakes), int(resumed)

    def sink_stop(self):
        if self.sink is not None:
            stop(self.sink)


def wait_until_ready(process, port, tls, log):
    """Waits until the port greets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), \
                socket.create_connection((LOCALHOST, port), 2) as s:
            stream = context.wrap_socket(s) if tls else s
            if stream.recv(512).startswith(b"+OK"):
                stream.sendall(b"QUIT\r\n")
                stream.recv(512)
                return
        time.sleep(0.05)
    raise BenchError("does not start: " + tail(log))


def tail(log):
    with contextlib.suppress(OSError), \
            open(log, encoding="utf-8", errors="replace") as f:
        return " / ".join(f.read().strip().splitlines()[-3:])[-400:]
    return "no log"


def stop(process):
    """Stops, by pid, only what this program has started."""
    tree = process_tree(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


class Target:
    """What the clients connect to: a proxy with a backend or, to show what
    the load programs can do and what OpenSSL alone costs, the backend."""

    def __init__(self, site, proxy, backend):
        self.site = site
        self.proxy = proxy
        self.backend = backend
        self.name = proxy.name if proxy else "(no proxy: popsink)"
        self.tls = proxy is not None or backend == "TLS"
        self.process = None
        self.port = None
        self.results = {}
        self.trouble = []

    def __str__(self):
        return f"{self.name} -> {self.backend}"

    def start(self):
        if self.proxy is None:
            self.port = (self.site.sink_tls if self.tls
                         else self.site.sink_plain)
            return
        directory = self.site.new_directory()
        self.port = self.site.ports.new()
        argv = self.proxy.configure(self.site, directory, self.port,
                                    self.backend)
        self.process = self.site.spawn_daemon(argv, f"{directory}/log", True)
        wait_until_ready(self.process, self.port, True, f"{directory}/log")

    def stop(self):
        if self.process is not None:
            stop(self.process)
            self.process = None

    @contextlib.contextmanager
    def running(self):
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def popload(self, *options):
        return self.site.spawn_load(
            [self.site.args.popload, *(["-s"] if self.tls else []),
             "-u", str(USERS), *(str(x) for x in options),
             f"{LOCALHOST}:{self.port}"])

    def load(self, *options, limit=20):
        """Runs popload once. Returns its result and the proxy's CPU
        seconds."""
        before = self.cpu_seconds()
        run = self.popload("-t", limit, *options)
        try:
            out, err = run.communicate(timeout=limit + 10)
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            raise BenchError("popload hangs") from None
        time.sleep(0.1)
        result = self.result(out, err)
        result["cpu"] = self.cpu_seconds() - before
        return result

    def result(self, out, err):
        try:
            result = json.loads(out)
        except ValueError:
            raise BenchError(f"popload: {err.strip()[-200:]}") from None
        if result["failed"]:
            self.complain(f"{result['failed']} clients failed, the first: "
                          f"{result['error']}")
        if result["done"] + result["held"] == 0:
            raise BenchError("no client got through")
        return result

    def cpu_seconds(self):
        return cpu_seconds((self.process or self.site.sink).pid)

    def complain(self, text):
        say(f"  {self}: {text}")
        self.trouble.append(text)

    def note(self, **values):
        for key, value in values.items():
            self.results.setdefault(key, []).append(value)

    def value(self, key):
        """Returns the median of the rounds."""
        values = self.results.get(key)
        return statistics.median(values) if values else None

    def spread(self, key):
        """Returns how far the rounds are apart, as a share of the median."""
        values = self.results.get(key, [])
        if len(values) < 2:
            return 0.0
        return (max(values) - min(values)) / (self.value(key) or 1)


# The cases. Each takes one running target once.

def case_alone(target, args):
    """Measures the latency of a login when nothing else runs."""
    result = target.load("-n", 30, "-c", 1)
    target.note(alone_ms=result["login_ms_p50"])


def case_logins(target, args):
    """Measures as many logins as possible. The short run first fills the
    proxy's caches."""
    target.load("-n", 2 * args.at_once, "-c", args.at_once)
    all_before, resumed_before = target.site.sink_handshakes()
    result = target.load("-n", 200000, "-c", args.at_once, "-d", args.seconds)
    target.note(per_second=result["per_second"],
                cpu_us=result["cpu"] / result["done"] * 1e6,
                p50_ms=result["login_ms_p50"], p99_ms=result["login_ms_p99"],
                cipher=result["cipher"])
    all_after, resumed_after = target.site.sink_handshakes()
    if target.proxy and all_after > all_before:
        target.note(resumed=(resumed_after - resumed_before)
                    / (all_after - all_before))


def case_retr(target, args):
    """Repeats until the time is over, but at least once."""
    result = target.load("-m", "retr", "-n", 1000, "-d", args.seconds,
                         limit=30)
    target.note(mb_per_second=result["mb_per_second"],
                cpu_ms_per_mb=result["cpu"] * 1e9 / result["octets"])


def case_memory(target, args, sessions):
    """Measures in a new process, because memory of freed sessions would
    hide the cost."""
    with target.running():
        target.load("-n", 2 * args.workers, "-c", 1)
        empty = memory_kib(target.process.pid)
        run = target.popload("-m", "hold", "-n", sessions, "-c", 32, "-t", 60)
        try:
            line = run.stdout.readline()
            time.sleep(1)
            full = memory_kib(target.process.pid)
        finally:
            _, err = run.communicate()
        held = target.result(line, err)["held"]
    target.note(**{"empty_mib": empty[0] / 1024,
                   f"mib_{sessions}": full[0] / 1024,
                   f"pss_{sessions}": (full[0] - empty[0]) / held,
                   f"rss_{sessions}": (full[1] - empty[1]) / held})


def attempt(what, target, case, *more):
    say(f"{what}: {target}")
    try:
        case(target, target.site.args, *more)
    except BenchError as e:
        target.complain(f"{what}: {e}")


def measure_speed(site, targets, args):
    with contextlib.ExitStack() as stack:
        up = []
        for target in targets:
            try:
                stack.enter_context(target.running())
                up.append(target)
            except BenchError as e:
                target.complain(str(e))
        if "login" in args.cases:
            for target in up:
                attempt("login alone", target, case_alone)
        for number in range(1, args.rounds + 1):
            for target in up if "login" in args.cases else []:
                attempt(f"logins, round {number}", target, case_logins)
            for target in up if "retr" in args.cases else []:
                attempt(f"retr, round {number}", target, case_retr)


def measure_memory(site, targets, args):
    for sessions in site.sessions:
        for target in targets:
            if target.proxy is not None:
                attempt(f"{sessions} sessions", target, case_memory, sessions)


# The tables.

def table(targets, columns):
    """columns: (title, key, format, whether to compare with mailferry)."""
    head = ["proxy", "backend"]
    for title, _, _, compared in columns:
        head += [title, "ratio"] if compared else [title]
    lines = ["| " + " | ".join(head) + " |",
             "| --- | --- |" + " ---: |" * (len(head) - 2)]
    for target in targets:
        cells = [target.name, target.backend]
        for _, key, form, compared in columns:
            value = target.value(key)
            cells.append("-" if value is None else format(value, form))
            if compared:
                cells.append(ratio(targets, target, key))
        if any(target.value(key) is not None for _, key, _, _ in columns):
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ratio(targets, target, key):
    """Compares round by round, because the machine is not equally fast in
    all of them."""
    for other in targets:
        if other.name == "mailferry" and other.backend == target.backend:
            pairs = zip(target.results.get(key, []),
                        other.results.get(key, []))
            ratios = [theirs / mine for theirs, mine in pairs if mine]
            return f"{statistics.median(ratios):.2f}" if ratios else "-"
    return "-"


def report(site, targets, versions, skipped, bystanders):
    args = site.args
    others, stolen = bystanders.shares()
    today = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    print(f"# mailferry beside its peers, {today}\n")
    print(f"- {machine()}")
    print(f"- {'; '.join(versions)}; {args.workers} workers each"
          + ("; proxies and load on CPUs of their own" if args.pin else ""))
    ciphers = {c for t in targets for c in t.results.get("cipher", []) if c}
    print(f"- clients: {', '.join(sorted(ciphers)) or 'TLS 1.3'}, full "
          f"handshakes, P-256 certificate; {rounds(args)}; ratio: to "
          "mailferry")
    print(f"- meanwhile other processes took {others:.1%} of the CPU time, "
          f"the hypervisor {stolen:.1%}"
          + (": not for publication" if others + stolen > 0.03 else ""))
    for line in skipped:
        print(f"- {line}")
    for target in targets:
        for text in dict.fromkeys(target.trouble):
            print(f"- **{target}: {text}**")
    if "login" in args.cases:
        print(f"\n## Logins, {args.at_once} at a time "
              "(alone: one at a time)\n")
        print(table(targets, [
            ("logins/s", "per_second", ".0f", True),
            ("CPU µs/login", "cpu_us", ".0f", True),
            ("p50 ms", "p50_ms", ".1f", False),
            ("p99 ms", "p99_ms", ".1f", False),
            ("alone p50 ms", "alone_ms", ".2f", True),
            ("backend TLS resumed", "resumed", ".0%", False)]))
        print(rounds_line(targets, "cpu_us"))
    if "memory" in args.cases:
        print("\n## Memory of idle relayed sessions\n")
        columns = [("empty MiB", "empty_mib", ".1f", False)]
        for n in site.sessions:
            columns += [(f"{n:,}: total MiB", f"mib_{n}", ".1f", True),
                        ("PSS KiB/session", f"pss_{n}", ".1f", True),
                        ("RSS KiB/session", f"rss_{n}", ".1f", False)]
        print(table(targets, columns))
    if "retr" in args.cases:
        print(f"\n## One message of {args.megabytes} MB\n")
        print(table(targets, [
            ("MB/s", "mb_per_second", ".0f", True),
            ("CPU ms/MB", "cpu_ms_per_mb", ".3f", True)]))
        print(rounds_line(targets, "cpu_ms_per_mb"))


def rounds(args):
    return (f"medians of {args.rounds} rounds" if args.rounds > 1
            else "one round only")


def rounds_line(targets, key):
    if not any(len(t.results.get(key, [])) > 1 for t in targets):
        return ""
    widest = max((t.spread(key) for t in targets if t.proxy), default=0)
    return f"CPU figures of the rounds lie within {widest:.0%} of each other."


# The run.

def words(*known):
    def parse(text):
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"not known: {unknown.pop()}")
        return text.split(",")
    return parse


def options():
    p = argparse.ArgumentParser(
        description="Measures mailferry beside nginx and Dovecot.")
    p.add_argument("--mailferry", metavar="PATH", help="left out: skipped")
    p.add_argument("--popload", metavar="PATH", required=True)
    p.add_argument("--popsink", metavar="PATH", required=True)
    p.add_argument("--quick", action="store_true",
                   help="under a minute, one round; for a first look")
    p.add_argument("--cases", type=words("login", "memory", "retr"),
                   default="login,memory,retr", metavar="LIST",
                   help="(default: %(default)s)")
    p.add_argument("--only", type=words("mailferry", "nginx", "dovecot"),
                   default="mailferry,nginx,dovecot", metavar="LIST",
                   help="(default: %(default)s)")
    p.add_argument("--workers", type=int, default=min(os.cpu_count(), 8))
    p.add_argument("--at-once", type=int, default=256, metavar="N",
                   help="logins under way (default: 256: a login through "
                   "nginx waits 90 ms for delayed acknowledgements)")
    p.add_argument("--pin", action="store_true",
                   help="half the CPUs for the proxy, half for the load")
    p.add_argument("--json", metavar="FILE", help="every round's figures")
    p.add_argument("--keep", action="store_true",
                   help="keep the directory with the configurations and logs")
    args = p.parse_args()
    for path in (args.popload, args.popsink):
        if not os.access(path, os.X_OK):
            p.error(f"{path} is not a program: build with MAILFERRY_BENCH")
    args.rounds = 1 if args.quick else 5
    args.seconds = 1 if args.quick else 1.5
    args.megabytes = 100 if args.quick else 400
    args.sessions = [1000] if args.quick else [1000, 5000]
    return args


def proxies(args):
    """Returns the proxies that can run, and a line for each that cannot."""
    found, skipped = [], []
    wanted = [(Mailferry, args.mailferry),
              (Nginx, which("nginx")), (Dovecot, which("dovecot"))]
    for kind, path in wanted:
        if kind.name.lower() not in args.only:
            continue
        proxy = kind(path)
        reason = proxy.missing()
        if reason:
            skipped.append(f"{kind.name} skipped: {reason}")
            say(skipped[-1])
        else:
            found.append(proxy)
    return found, skipped


def which(name):
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")


def run(args, directory):
    site = Site(args, directory)
    site.certificates()
    peers, skipped = proxies(args)
    targets = [Target(site, p, b) for b in ("plain", "TLS") for p in peers
               if b in p.backends]
    targets += [Target(site, None, b) for b in ("plain", "TLS")]
    bystanders = Bystanders()
    try:
        site.sink_start()
        measure_speed(site, targets, args)
        if "memory" in args.cases:
            measure_memory(site, targets, args)
    finally:
        site.sink_stop()
    report(site, targets, [p.version() for p in peers], skipped, bystanders)
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({str(t): t.results for t in targets}, f, indent=1)


def main():
    args = options()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = tempfile.mkdtemp(prefix="mfbench.")
    # The proxies give up root, and have to pass.
    os.chmod(directory, 0o755)
    try:
        run(args, directory)
    finally:
        if args.keep:
            say(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
