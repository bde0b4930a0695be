"""What the service manager hears, and the sockets that it hands in."""

import errno
import os
import re
import sys
import time

from harness.case import Case, need_root, need_that
from harness.manager import Manager, hung, threads
from harness.ports import free_port, has_ipv6
from harness.proc import descriptors, wait_until

ACTIVATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "harness",
                        "activate.py")
EX_OSERR = 71
WATCHDOG = 1


def listening(pid, port):
    """How many sockets a process has that listen on this port, and by how many
    descriptors."""
    inodes = set()
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as f:
        for line in f.readlines()[1:]:
            field = line.split()
            if field[3] == "0A" and int(field[1].split(":")[1], 16) == port:
                inodes.add(f"socket:[{field[9]}]")
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    links = [link for link in links if link in inodes]
    return len(set(links)), len(links)


class Systemd(Case):
    def manager(self, watchdog=None):
        manager = Manager(watchdog)
        self.addCleanup(manager.close)
        return manager

    def daemon(self, listeners=None, **over):
        b = self.backend()
        return self.mailferry(
            listeners, destinations={"x": b.destination()}, start=False,
            over={"server": {"threads": 3}, **over})

    def running(self, manager, **over):
        d = self.daemon(**over)
        d.launch(manager.env)
        manager.until("READY")
        return d


class Notify(Systemd):
    def test_ready(self):
        """READY=1 comes once every listener is bound and the workers run."""
        m = self.manager()
        d = self.daemon({"a": {"tls": "starttls"}, "b": {"tls": "implicit"}})
        d.launch(m.env)
        first = m.next()
        self.assertEqual(first, {
            "READY": "1",
            "STATUS": "serving generation 1: 2 listeners, 3 workers, "
                      "0 connections"})
        for port in (d.port_of("a"), d.port_of("b")):
            self.assertEqual(listening(d.pid, port), (3, 3))
        self.assertEqual(sorted(threads(d.pid, "worker-")),
                         ["worker-0", "worker-1", "worker-2"])
        self.login(d)

    def test_abstract_socket(self):
        """$NOTIFY_SOCKET may be an abstract name, "@..."."""
        m = Manager(abstract=True)
        self.addCleanup(m.close)
        self.running(m)

    def test_not_ready(self):
        """A daemon that cannot bind never says that it is ready."""
        m = self.manager()
        other = self.daemon()
        other.start()
        d = self.daemon({"a": {"tls": "starttls"}, "b": {
            "tls": "starttls", "bind": [f"127.0.0.1:{other.port}"]}})
        d.launch(m.env)
        self.assertEqual(d.process.wait(), EX_OSERR)
        self.assertEqual(m.listen(.1), [])
        d.kill()
        d.process = None

    def test_reload(self):
        """RELOADING=1 with the time, then READY=1, whether it worked or
        not."""
        m = self.manager()
        d = self.running(m)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        d.hang_up()
        reloading = m.until("RELOADING")
        self.assertEqual(reloading["RELOADING"], "1")
        self.assertGreaterEqual(int(reloading["MONOTONIC_USEC"]), before)
        self.assertEqual(m.next()["READY"], "1")
        port = free_port()
        d.change({"listener": {"more": {"bind": [f"127.0.0.1:{port}"],
                                        "tls": "starttls"}}})
        d.hang_up()
        m.until("RELOADING")
        ready = m.next()
        self.assertEqual(ready["READY"], "1")
        self.assertRegex(
            ready["STATUS"], r"\Aserving generation 3, reloaded 20\d\d-\d\d-"
            r"\d\dT\d\d:\d\d:\d\dZ: 2 listeners, 3 workers, ")
        self.assertEqual(listening(d.pid, port), (3, 3))
        mark = d.mark()
        d.change({"server": {"threads": "many"}})
        d.hang_up()
        m.until("RELOADING")
        ready = m.next()
        self.assertEqual(ready["READY"], "1")
        self.assertIn("reload failed", d.output(mark))
        # It is shown until a reload works.
        failed = (rf"\Areload failed: {re.escape(d.path)}:\d+:\d+: "
                  r"server\.threads: .*; serving generation 3, reloaded ")
        self.assertRegex(ready["STATUS"], failed)
        d.change({"server": {"threads": 3}})
        d.hang_up()
        m.until("RELOADING")
        self.assertRegex(m.next()["STATUS"], r"\Aserving generation 4, ")

    @need_root()
    def test_reload_ends_when_workers_have_it(self):
        """The reload is over when every worker has taken the new
        configuration."""
        m = self.manager()
        d = self.running(m)
        with hung(threads(d.pid, "worker-")["worker-1"]):
            d.hang_up()
            m.until("RELOADING")
            # Also a second one, which comes while the first is under way.
            d.hang_up()
            m.until("RELOADING")
            self.assertEqual(m.listen(.5), [])
        self.assertEqual(m.next()["READY"], "1")
        self.assertEqual(m.listen(.2), [])

    def test_stopping(self):
        """STOPPING=1 when the drain begins, which may be long before the
        end."""
        m = self.manager()
        d = self.running(m, server={"threads": 3, "shutdown_grace": "5m"})
        c = self.login(d)
        d.terminate()
        stopping = m.until("STOPPING")
        # Longer than the grace, or the manager would kill what still drains.
        self.assertEqual(stopping, {"STOPPING": "1",
                                    "EXTEND_TIMEOUT_USEC": "310000000",
                                    "STATUS": "draining: 1 connections"})
        self.assertIsNone(d.process.status)
        self.assertEqual(c.cmd("NOOP")[:3], "+OK")
        c.cmd("QUIT")
        self.assertEqual(d.process.wait(), 0)
        self.assertFalse([x for x in m.listen(.1) if "READY" in x])

    def test_leaving(self):
        """With drain_delay the time for both is asked for at once."""
        m = self.manager()
        d = self.running(m, server={"threads": 3, "shutdown_grace": "20s",
                                    "drain_delay": "60s"})
        d.terminate()
        self.assertEqual(m.until("STOPPING"), {
            "STOPPING": "1", "EXTEND_TIMEOUT_USEC": "90000000",
            "STATUS": "leaving: 0 connections"})
        d.terminate()
        self.assertEqual(m.until("STOPPING")["EXTEND_TIMEOUT_USEC"],
                         "30000000")
        self.assertEqual(d.process.wait(), 0)

    def test_status(self):
        """The status says how many connections there are."""
        m = self.manager(WATCHDOG)
        d = self.running(m)
        self.login(d)
        self.login(d)
        status = m.until("STATUS")["STATUS"]
        while not status.endswith(" 2 connections"):
            status = m.until("STATUS")["STATUS"]

    def test_deaf_manager(self):
        """A manager that does not read, for it is frozen, holds up
        nothing, and hears that the daemon is ready when it is back."""
        m = self.manager(WATCHDOG)
        d = self.running(m)
        m.fill()
        mark = d.mark()
        d.hang_up()
        d.wait_log("reloaded", mark)
        d.hang_up()
        wait_until(lambda: d.output(mark).count('"reloaded"') == 2,
                   "a second reload")
        self.login(d)
        m.until("FILL")
        m.until("READY")
        m.fill()
        d.terminate()
        self.assertEqual(d.process.wait(), 0)

    def test_nobody_listens(self):
        """Without a service manager, or with one that has gone, it serves."""
        d = self.daemon()
        d.start({"NOTIFY_SOCKET": "/nonexistent/notify",
                 "WATCHDOG_USEC": "1000000"})
        self.login(d)
        d.hang_up()
        d.wait_log("reloaded")
        self.login(d)


class SlowReload(Systemd):
    """A reload is built aside: a file that hangs holds up nothing."""

    def stuck(self, m, **over):
        """A daemon whose reload hangs: its configuration is a FIFO."""
        d = self.running(m, **over)
        os.rename(d.path, d.path + ".file")
        os.mkfifo(d.path)
        d.hang_up()
        m.until("RELOADING")
        # A writer gets in when somebody reads.
        self.fifo = wait_until(lambda: self.writer(d), "it reads")
        return d

    @staticmethod
    def writer(d):
        try:
            return os.open(d.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            return None

    def release(self, d):
        """Writes the configuration into the FIFO."""
        with open(self.fifo, "wb") as f:
            f.write(d.text().encode())

    def test_pings_and_logins(self):
        """The watchdog is fed and logins are served; READY comes when it is
        done."""
        m = self.manager(WATCHDOG)
        d = self.stuck(m)
        d.path, path = d.path + ".file", d.path
        for _ in range(4):
            self.assertNotIn("READY", m.until("WATCHDOG", WATCHDOG))
        self.login(d)
        status = m.until("STATUS")["STATUS"]
        self.assertRegex(status, r"\Areloading; serving generation 1: ")
        self.assertFalse([x for x in m.heard[-6:] if "READY" in x])
        d.change({"capabilities": {"pop3": {"banner": "two"}}})
        self.release(d)
        ready = m.until("READY")
        self.assertRegex(ready["STATUS"], r"\Aserving generation 2, ")
        self.assertEqual(self.client(d).greeting, "+OK two")
        d.path = path

    def test_another_signal(self):
        """A SIGHUP meanwhile is followed once more afterwards, however often
        it came."""
        m = self.manager()
        d = self.stuck(m)
        path = d.path
        for _ in range(3):
            d.hang_up()
        d.path += ".file"
        d.change({"capabilities": {"pop3": {"banner": "two"}}})
        self.release(d)
        m.until("RELOADING")
        d.change({"capabilities": {"pop3": {"banner": "three"}}})
        d.path = path
        self.fifo = wait_until(lambda: self.writer(d), "it reads again")
        d.path += ".file"
        self.release(d)
        self.assertRegex(m.until("READY")["STATUS"],
                         r"\Aserving generation 3, ")
        self.assertEqual(self.client(d).greeting, "+OK three")
        d.path = path
        self.assertEqual(m.listen(.3), [])
        self.assertIsNone(self.writer(d))

    def test_stop(self):
        """SIGTERM meanwhile drains sessions and ends at once."""
        m = self.manager()
        d = self.stuck(m, server={"threads": 3, "shutdown_grace": "30s"})
        c = self.login(d)
        start = time.monotonic()
        d.terminate()
        m.until("STOPPING")
        self.assertEqual(c.cmd("NOOP")[:3], "+OK")
        c.cmd("QUIT")
        self.assertEqual(d.process.wait(), 0)
        self.assertLess(time.monotonic() - start, 10)
        self.assertIn('"stopped"', d.output())
        os.close(self.fifo)
        d.process = None


class Watchdog(Systemd):
    def test_pings(self):
        """$WATCHDOG_USEC: a ping comes more often than that."""
        m = self.manager(WATCHDOG)
        self.running(m)
        for _ in range(6):
            m.until("WATCHDOG", WATCHDOG)

    def test_none_wanted(self):
        """Without $WATCHDOG_USEC, or with another's, there is no ping."""
        m = self.manager()
        self.running(m)
        self.assertEqual(m.listen(1), [])
        m = self.manager(.2)
        m.env["WATCHDOG_PID"] = "1"
        self.running(m)
        self.assertEqual(m.listen(1), [])

    @need_root()
    def test_hung_worker(self):
        """One worker that hangs is noticed, though all else turns."""
        for name in ("worker-0", "worker-2"):
            with self.subTest(worker=name):
                self.hang(name)

    def hang(self, name):
        m = self.manager(WATCHDOG)
        d = self.running(m)
        m.until("WATCHDOG", WATCHDOG)
        with hung(threads(d.pid, "worker-")[name]):
            # A round that it had answered already may still be reported.
            m.listen(WATCHDOG / 2)
            self.assertEqual(m.listen(WATCHDOG * 2), [])
            # The main thread is well.
            d.hang_up()
            m.until("RELOADING")
            self.assertEqual(m.listen(WATCHDOG), [])
        m.until("WATCHDOG")
        m.until("WATCHDOG", WATCHDOG)

    @need_root()
    def test_hung_main_thread(self):
        """A main thread that hangs is noticed as well."""
        m = self.manager(WATCHDOG)
        d = self.running(m)
        m.until("WATCHDOG", WATCHDOG)
        with hung(d.pid):
            m.listen(.1)
            self.assertEqual(m.listen(WATCHDOG * 2), [])
            self.login(d)
        m.until("WATCHDOG")

    def test_while_draining(self):
        """A drain takes its time, and is watched too."""
        m = self.manager(WATCHDOG)
        d = self.running(m, server={"threads": 3, "shutdown_grace": "30s"})
        c = self.login(d)
        d.terminate()
        m.until("STOPPING")
        for _ in range(4):
            m.until("WATCHDOG", WATCHDOG)
        c.cmd("QUIT")
        self.assertEqual(d.process.wait(), 0)


class Activation(Systemd):
    def activated(self, sockets, listeners=None, manager=None):
        d = self.daemon(listeners)
        sockets = [s.format(*[p for ports in d.ports.values() for p in ports])
                   for s in sockets]
        d.via = [sys.executable, ACTIVATE, *sockets, "--"]
        d.launch(manager.env if manager else None)
        return d

    def refused(self, d, pattern):
        self.assertEqual(d.process.wait(), EX_OSERR)
        d.process = None
        self.assertRegex(d.output(), pattern)

    def serves(self, d):
        """Each worker gets its share in the end, or all of them do: every
        login works."""
        clients = [self.login(d) for _ in range(12)]
        for c in clients:
            c.cmd("QUIT")

    def test_shared(self):
        """A socket without SO_REUSEPORT is shared by all workers."""
        m = self.manager()
        d = self.activated(["127.0.0.1:{0}"], manager=m)
        m.until("READY")
        self.assertEqual(listening(d.pid, d.port), (1, 3))
        self.serves(d)

    def test_siblings(self):
        """With SO_REUSEPORT the other workers bind their own."""
        m = self.manager()
        d = self.activated(["127.0.0.1:{0},reuseport"], manager=m)
        m.until("READY")
        self.assertEqual(listening(d.pid, d.port), (3, 3))
        self.serves(d)

    def test_several_of_one_address(self):
        """Two of one address serve two workers, the third gets its own."""
        m = self.manager()
        d = self.activated(["127.0.0.1:{0},reuseport"] * 2, manager=m)
        m.until("READY")
        self.assertEqual(listening(d.pid, d.port), (3, 3))
        self.serves(d)

    def test_mixed(self):
        """Binds without a socket handed in are bound; the order does not
        matter."""
        m = self.manager()
        listeners = {name: {"tls": "starttls"} for name in "abc"}
        d = self.activated(["127.0.0.1:{2}", "127.0.0.1:{0}"], listeners, m)
        self.assertRegex(m.until("READY")["STATUS"], "3 listeners")
        self.assertEqual([listening(d.pid, d.port_of(name))
                          for name in "abc"], [(1, 3), (3, 3), (1, 3)])
        for name in "abc":
            self.login(d.port_of(name))

    def test_reload(self):
        """A reload keeps them, and closes what the configuration no longer
        has."""
        m = self.manager()
        listeners = {name: {"tls": "starttls"} for name in "ab"}
        d = self.activated(["127.0.0.1:{0}", "127.0.0.1:{1}"], listeners, m)
        m.until("READY")
        before = descriptors(d.pid)
        d.change({"listener": {"b": None}})
        d.hang_up()
        m.until("READY")
        self.assertEqual(listening(d.pid, d.port_of("a")), (1, 3))
        self.assertEqual(listening(d.pid, d.port_of("b")), (0, 0))
        # What else was open for a moment at the start may have gone too.
        wait_until(lambda: descriptors(d.pid) <= before - 3,
                   "the sockets are closed")
        self.login(d)

    def test_unmatched(self):
        """A socket that no bind names is an error, said clearly."""
        port = free_port()
        d = self.activated(["127.0.0.1:{0}", f"127.0.0.1:{port}"])
        self.refused(d, f"listens on 127.0.0.1:{port} was handed in, but no "
                        "listener has")

    def test_too_many(self):
        """More of one address than workers: one would starve."""
        d = self.activated(["127.0.0.1:{0},reuseport"] * 4)
        self.refused(d, "more sockets of it came")

    @need_that(lambda: None if has_ipv6() else "no IPv6")
    def test_every_address(self):
        """"[::]" is IPv6 alone; a socket that would take IPv4 as well (the
        default of systemd.socket(5)) is an error, said clearly: logins to
        127.0.0.1 at that port would come back as a loop that nobody sees."""
        port = free_port()
        listeners = {"a": {"tls": "starttls", "bind": [f"[::]:{port}"]}}
        d = self.activated([f"[::]:{port},both"], listeners)
        self.refused(d, re.escape("descriptor 3, which was handed in: [::] "
                                  "takes IPv4 as well (set "
                                  "BindIPv6Only=ipv6-only)"))
        m = self.manager()
        d = self.activated([f"[::]:{port}"], listeners, m)
        m.until("READY")
        self.client(port, address="::1").close()
        with self.assertRaises(ConnectionRefusedError):
            self.client(port)

    def test_sample_socket(self):
        """What etc/systemd has for a wildcard is IPv6 alone."""
        unit = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                            "../../etc/systemd/mailferry.socket")
        with open(unit, encoding="ascii") as f:
            lines = f.read().splitlines()
        self.assertIn("ListenStream=[::]:995", lines)
        self.assertIn("BindIPv6Only=ipv6-only", lines)

    def test_no_listening_socket(self):
        """A socket that does not listen is an error."""
        d = self.activated(["127.0.0.1:{0},silent"])
        self.refused(d, re.escape("descriptor 3, which was handed in: it does "
                                  "not listen"))
