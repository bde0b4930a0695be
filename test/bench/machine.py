"""What the kernel reports about processes and about the machine."""

import contextlib
import os
import platform
import random
import socket
import time

from proxies import LOCALHOST, first_line

TICK = os.sysconf("SC_CLK_TCK")


def process_tree(root):
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(stat_fields(name)[1], []).append(int(name))
    tree, rest = [], [root]
    while rest:
        pid = rest.pop()
        tree.append(pid)
        rest += children.get(pid, [])
    return tree


def stat_fields(pid):
    """The fields of /proc/PID/stat from the third (state) on, as numbers."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rpartition(")")[2].split()
    return [0] + [int(x) for x in fields[1:]]


def cpu_seconds(root):
    """Of the tree; children that have ended count with their parent."""
    ticks = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            ticks += sum(stat_fields(pid)[11:15])
    return ticks / TICK


def memory_kib(root):
    """Returns PSS and RSS of the process tree."""
    pss = rss = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError), \
                open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
            for line in f:
                if line.startswith("Pss:"):
                    pss += int(line.split()[1])
                elif line.startswith("Rss:"):
                    rss += int(line.split()[1])
    return pss, rss


def machine_seconds():
    """Returns the seconds of all CPUs since the start: busy, and requested
    but not given by the hypervisor."""
    with open("/proc/stat", encoding="ascii") as f:
        ticks = [int(x) for x in f.readline().split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / TICK, ticks[7] / TICK


def own_seconds():
    """Returns the seconds of this process and of all children that it has
    waited for."""
    return sum(os.times()[:4])


class Bystanders:
    """How much of the machine other processes used during the measurement."""

    def __init__(self):
        self.busy, self.stolen = machine_seconds()
        self.own = own_seconds()
        self.began = time.monotonic()

    def shares(self):
        all_of_it = (time.monotonic() - self.began) * os.cpu_count()
        busy, stolen = machine_seconds()
        others = (busy - self.busy) - (own_seconds() - self.own)
        return max(others / all_of_it, 0), (stolen - self.stolen) / all_of_it


def file_value(path, key, separator):
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as f:
        for line in f:
            name, _, value = line.partition(separator)
            if name.strip() == key:
                return value.strip().strip('"')
    return "unknown"


def machine():
    memory = int(file_value("/proc/meminfo", "MemTotal", ":").split()[0])
    return (f"{file_value('/proc/cpuinfo', 'model name', ':')}, "
            f"{os.cpu_count()} CPUs, {memory / 2**20:.0f} GiB, "
            f"Linux {platform.release()}, "
            f"{file_value('/etc/os-release', 'PRETTY_NAME', '=')}, "
            f"{' '.join(first_line(['openssl', 'version']).split()[:2])}")


class Ports:
    """Free ports outside the range of outgoing connections, which the load
    itself would otherwise take."""

    def __init__(self):
        self.given = set()
        with open("/proc/sys/net/ipv4/ip_local_port_range",
                  encoding="ascii") as f:
            self.low, self.high = (int(x) for x in f.read().split())

    def new(self):
        for _ in range(10000):
            port = random.randint(1024, 65535)
            if self.low <= port <= self.high or port in self.given:
                continue
            with socket.socket() as s:
                try:
                    s.bind((LOCALHOST, port))
                except OSError:
                    continue
            self.given.add(port)
            return port
        raise SystemExit("bench: no free port")
