#!/usr/bin/python3
"""Measures route lookups through each store, beside the store's own load
program on the same data, all in one run. Prints Markdown.

  cold   each identifier for the first time: the store is asked
  warm   again: the cache answers (the mapping file needs none)

One worker, so many lookups under way at once. The servers are the ones that
the integration tests start.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from harness.mariadb import MariaDB  # noqa: E402
from harness.ports import free_port, is_listening  # noqa: E402
from harness.postgres import SCHEMA, Postgres, binaries  # noqa: E402
from harness.proc import Process, wait_until  # noqa: E402
from harness.redis import Redis  # noqa: E402
from machine import Bystanders, machine  # noqa: E402

CONFIG = """\
listener: {{a: {{bind: ["127.0.0.1:1"], tls: plain}}}}
routing: {{default_destination: legacy}}
mapping:
  lookup_timeout: 30s
  {mapping}
destination:
  legacy: &d {{host: 127.0.0.1, forwarding: xclient,
    allow_plaintext_auth: true, protocol: {{pop3: {{port: 2, tls: plain}}}}}}
  new: *d
"""


def say(text):
    print(text, file=sys.stderr, flush=True)


def names(n):
    return (f"user{i:07}@example.com" for i in range(n))


def per_second(pattern, argv, **how):
    """Returns the rate that a store's own load program prints."""
    done = subprocess.run([str(a) for a in argv], capture_output=True,
                          text=True, timeout=300, check=True, **how)
    return float(re.search(pattern, done.stdout).group(1))


class Store:
    peer = None

    def __init__(self, args, directory):
        self.args = args
        self.dir = directory

    def stop(self):
        pass


class File(Store):
    name = "file"

    def start(self):
        path = os.path.join(self.dir, "map")
        with open(path, "w", encoding="ascii") as f:
            f.writelines(f"{name}\tnew\n" for name in names(self.args.n))
        return f"file: {{path: {path}}}"


class Sqlite(Store):
    name = "SQLite"

    def start(self):
        import sqlite3
        path = os.path.join(self.dir, "db")
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE routes (identifier TEXT PRIMARY KEY, "
                   "destination TEXT) WITHOUT ROWID")
        db.executemany("INSERT INTO routes VALUES (?, 'new')",
                       ((name,) for name in names(self.args.n)))
        db.commit()
        db.close()
        self.path = path
        return ("source: sql\n  sql: {url: \"sqlite://" + path + "\", query: "
                "\"SELECT destination FROM routes WHERE identifier = ?\"}")


class InRedis(Store):
    name = "Redis"
    server = None
    peer_name = "redis-benchmark, 1 connection, 64 pipelined"

    def start(self):
        self.server = Redis(lines=["appendonly no"]).start()
        feed = b"".join(b"SET route:%s new\r\n" % name.encode()
                        for name in names(self.args.n))
        subprocess.run(["redis-cli", "-p", str(self.server.port), "--pipe"],
                       input=feed, capture_output=True, check=True)
        return (f"source: redis\n  redis: {{url: \"redis://127.0.0.1:"
                f"{self.server.port}\"}}")

    def peer(self):
        return per_second(
            r'"[^"]*","([0-9.]+)"', [
                "redis-benchmark", "-p", self.server.port, "-n", self.args.n,
                "-r", self.args.n, "-c", 1, "-P", 64, "--csv", "GET",
                "route:user__rand_int__@example.com"])

    def stop(self):
        if self.server:
            self.server.stop()


class InPostgres(Store):
    name = "PostgreSQL"
    server = None
    peer_name = "pgbench, prepared, 16 connections"

    def start(self):
        self.server = Postgres().start()
        self.server.sql(SCHEMA)
        self.server.sql("INSERT INTO routes SELECT 'user' || lpad(i::text, 7,"
                        " '0') || '@example.com', 'new' FROM generate_series("
                        f"0, {self.args.n - 1}) i; ANALYZE routes")
        return ("source: sql\n  sql: {url: \"" + self.server.url() + "\", "
                "query: \"SELECT destination FROM routes WHERE identifier = "
                "$1\"}")

    def peer(self):
        script = os.path.join(self.dir, "pgbench.sql")
        with open(script, "w", encoding="ascii") as f:
            f.write(f"\\set i random(0, {self.args.n - 1})\n"
                    "SELECT destination FROM routes WHERE identifier = "
                    "'user' || lpad(:i::text, 7, '0') || '@example.com';\n")
        return per_second(r"tps = ([0-9.]+) \(without", [
            os.path.join(binaries(), "pgbench"), "-h", "127.0.0.1", "-p",
            self.server.port, "-U", "postgres", "-n", "-M", "prepared", "-f",
            script, "-c", 16, "-j", 1, "-t", self.args.n // 16, "postgres"])

    def stop(self):
        if self.server:
            self.server.stop()


class InMariaDB(Store):
    name = "MariaDB"
    server = None
    peer_name = "mariadb-slap, text protocol, 16 connections"

    def start(self):
        self.server = MariaDB().start()
        self.server.sql("INSERT INTO routes SELECT CONCAT('user', "
                        "LPAD(seq, 7, '0'), '@example.com'), 'new' FROM "
                        f"seq_0_to_{self.args.n - 1}; ANALYZE TABLE routes")
        return ("source: sql\n  sql: {url: \"" + self.server.url() + "\", "
                "query: \"SELECT destination FROM routes WHERE identifier = "
                "?\"}")

    def peer(self):
        start = time.monotonic()
        subprocess.run(
            ["mariadb-slap", "--no-defaults", "--host=127.0.0.1",
             f"--port={self.server.port}", "--user=reader",
             "--password=sesame", "--create-schema=mail", "--no-drop",
             "--concurrency=16", f"--number-of-queries={self.args.n}",
             "--query=SELECT destination FROM routes WHERE identifier = "
             "'user0000077@example.com'"],
            capture_output=True, check=True, timeout=300)
        return self.args.n / (time.monotonic() - start)

    def stop(self):
        if self.server:
            self.server.stop()


class Web(Store):
    name = "HTTP"
    process = None

    def start(self):
        port = free_port()
        conf = os.path.join(self.dir, "nginx.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write(f"""worker_processes 1; daemon off;
pid {self.dir}/nginx.pid; error_log {self.dir}/error.log;
events {{ worker_connections 256; }}
http {{ access_log off; keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "new\\n"; }} }}
}}
""")
        self.process = Process(["nginx", "-c", conf, "-p", self.dir],
                               os.path.join(self.dir, "nginx.log"))
        wait_until(lambda: is_listening(port), "nginx listens")
        return (f"source: http\n  http: {{url: \"http://127.0.0.1:{port}/"
                "route?user=%u\"}")

    def stop(self):
        if self.process:
            self.process.stop()


NEEDS = {InRedis: "redis-server", InPostgres: "psql", InMariaDB: "mariadbd",
         Web: "nginx"}


def measure(store, args):
    """Returns the median round, by its cold figure, and the peer beside
    it."""
    mapping = store.start()
    path = os.path.join(store.dir, "mailferry.yaml")
    with open(path, "w", encoding="ascii") as f:
        f.write(CONFIG.format(mapping=mapping))
    rounds = []
    for _ in range(args.rounds):
        done = subprocess.run(
            [args.routebench, "-n", str(args.n), "-a", str(args.at_once),
             path], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{store.name}: {done.stdout}{done.stderr}")
        result = json.loads(done.stdout)
        if result["found"] != args.n:
            raise RuntimeError(f"{store.name}: not all were found: {result}")
        if store.peer:
            result["peer"] = store.peer()
        rounds.append(result)
    rounds.sort(key=lambda r: r["cold_per_s"])
    return rounds[len(rounds) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--routebench", required=True)
    parser.add_argument("-n", type=int, default=100000, help="identifiers")
    parser.add_argument("-a", "--at-once", type=int, default=64)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    args = parser.parse_args()
    rows, skipped = [], []
    bystanders = Bystanders()
    for kind in (File, Sqlite, InRedis, InPostgres, InMariaDB, Web):
        if kind in NEEDS and shutil.which(NEEDS[kind]) is None:
            skipped.append(f"{kind.name}: {NEEDS[kind]} is not installed")
            continue
        say(kind.name)
        directory = tempfile.mkdtemp(prefix="mailferry-bench-")
        os.chmod(directory, 0o755)
        store = kind(args, directory)
        try:
            rows.append((store, measure(store, args)))
        finally:
            store.stop()
            shutil.rmtree(directory, ignore_errors=True)
    others, stolen = bystanders.shares()
    print("## Route lookups\n")
    print(f"- {machine()}")
    print(f"- {args.n:,} identifiers, {args.at_once} lookups at a time, one "
          f"worker; medians of {args.rounds} rounds")
    print(f"- meanwhile other processes took {others:.1%} of the CPU time, "
          f"the hypervisor {stolen:.1%}"
          + (": not for publication" if others + stolen > 0.03 else ""))
    for line in skipped:
        print(f"- {line}")
    print("\n| store | cold: lookups/s | CPU µs | warm: lookups/s | CPU µs | "
          "the store's own load program | lookups/s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |")
    for store, r in rows:
        peer = ("| - | - | - |" if "peer" not in r else
                f"| {store.peer_name} | {r['peer']:.0f} | "
                f"{r['cold_per_s'] / r['peer']:.2f} |")
        print(f"| {store.name} | {r['cold_per_s']} | {r['cold_cpu_us']:.1f} | "
              f"{r['warm_per_s']} | {r['warm_cpu_us']:.1f} {peer}")


if __name__ == "__main__":
    sys.exit(main())
