"""Logins wait for their turn between route and backend (PROTOCOL step 5)."""

import asyncio
import signal
import socket
import struct
import threading
import time
import unittest

from harness.case import Case, Pop3
from harness.client import xoauth2
from harness.proc import DEADLINE, wait_until

OK = "+OK"


class Host:
    """A backend in a thread of its own, for very many connections. check(user,
    password): the reply to a login, or a coroutine of it. turned_away: closes
    each connection where its greeting is due."""

    def __init__(self, check):
        self.check = check
        self.turned_away = False
        self.connecting = self.most = self.connections = 0
        self.asked = []  # the users, in the order of their PASS
        self.open = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever,
                                       daemon=True)
        self.thread.start()
        self.server = self.call(asyncio.start_server(
            self.serve, "127.0.0.1", 0, backlog=1024))
        self.port = self.server.sockets[0].getsockname()[1]

    def call(self, coroutine):
        """Runs it on the backend's thread."""
        return asyncio.run_coroutine_threadsafe(
            coroutine, self.loop).result(DEADLINE)

    def stop(self):
        async def end():
            self.server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE)
        self.loop.close()

    def output(self, _start=0):
        return f"{self.connections} connections, {self.most} at once"

    def hang_up(self):
        """On all, and on all that come."""
        async def close():
            self.turned_away = True
            for writer in self.open:
                writer.transport.abort()
        self.call(close())

    def destination(self, **keys):
        return {"host": "127.0.0.1", "forwarding": "none",
                "allow_plaintext_auth": True,
                "protocol": {"pop3": {"port": self.port, "tls": "plain",
                                      "auth": "user"}}, **keys}

    async def serve(self, reader, writer):
        self.connections += 1
        if self.turned_away:
            writer.close()
            return
        self.open.add(writer)
        self.connecting += 1
        self.most = max(self.most, self.connecting)
        try:
            await self.talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def talk(self, reader, writer):
        user, logged_in = "", False
        writer.write(b"+OK ready\r\n")
        try:
            while True:
                line = (await reader.readline()).decode("ascii").rstrip()
                if line.startswith("USER "):
                    user, reply = line[5:], OK
                elif line.startswith("PASS "):
                    self.asked.append(user)
                    reply = self.check(user, line[5:])
                    if asyncio.iscoroutine(reply):
                        reply = await reply
                    # Before the reply: it frees the place.
                    self.connecting -= 1
                    logged_in = True
                else:
                    reply = OK
                if not line:
                    return
                writer.write(reply.encode("ascii") + b"\r\n")
                if line == "QUIT":
                    await writer.drain()
                    return
        finally:
            if not logged_in:
                self.connecting -= 1


class Guest:
    """A client's connection that has sent its USER."""

    here = []  # all that have come and may be still there

    @classmethod
    async def come(cls, port, source, user):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(source, 0))
        self.user = user
        self.here.append(self)
        await self.line()
        await self.cmd(f"USER {user}")
        return self

    async def line(self):
        return (await asyncio.wait_for(self.reader.readline(), 8 * DEADLINE)
                ).decode("ascii").rstrip()

    def send(self, text):
        self.writer.write(text.encode("ascii") + b"\r\n")

    async def cmd(self, text):
        self.send(text)
        return await self.line()

    async def log_in(self, password="secret"):
        """The reply, and the seconds until it came."""
        start = time.monotonic()
        reply = await self.cmd(f"PASS {password}")
        return reply, time.monotonic() - start

    def leave(self):
        self.writer.close()

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def visit(guest):
    """Logs in, and is gone."""
    reply, took = await guest.log_in()
    if reply.startswith(OK):
        await guest.cmd("QUIT")
    guest.leave()
    return reply, took


async def crowd(port, sources, n, name="u"):
    """So many guests, in turn from these addresses."""
    return [await Guest.come(port, sources[i % len(sources)],
                             f"{name}{i}@example.com") for i in range(n)]


def quantile(waits, q):
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * q))]


class Turns:
    """Logins at the backend that wait until they are let through, in the
    order in which they came."""

    def __init__(self):
        self.free = 0
        self.waiting = []
        self.loop = None

    async def check(self, _user, _password):
        if self.free:
            return OK
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        await turn
        return OK

    def next(self, host):
        async def let():
            self.waiting.pop(0).set_result(None)
        host.call(let())

    def all(self, host):
        async def let():
            self.free = True
            while self.waiting:
                turn = self.waiting.pop()
                if not turn.done():
                    turn.set_result(None)
        host.call(let())


class Gate(Case):

    def host(self, check):
        return self.keep(Host(check))

    def serve(self, host, server=None, **keys):
        return self.mailferry(
            {"pop3": {"tls": "plain",
                      "preauth_timeout": "300s"}},
            {"x": host.destination(**keys)},
            over={"server": {"queue_timeout": "100s", "log_level": "info",
                             "backend_timeout": "60s",
                             "backend_auth_timeout": "60s",
                             "backend_connect_retries": 0,
                             "threads": 2, **(server or {})},
                  "capabilities": {"pop3": {
                      "allow_plain_auth_without_tls": True}}})

    def run_on_loop(self, coroutine):
        async def run():
            try:
                return await asyncio.wait_for(coroutine, 10 * DEADLINE)
            finally:
                while Guest.here:
                    Guest.here.pop().leave()
        return asyncio.run(run())

    def waiting(self, d, n):
        """Waits until so many logins are on their way to the gate: they are
        told at log_level debug."""
        wait_until(lambda: sum(r["message"] == "routed"
                               for r in d.records()) >= n,
                   f"{n} logins are routed", 2 * DEADLINE, .1)

    def test_a_thousand_at_once(self):
        """128, or 1,000, clients that log in at the same moment all get in,
        with max_connecting: 32: they only take turns (MANAGEMENT)"""
        async def check(_user, _password):
            await asyncio.sleep(.005)
            return OK
        host = self.host(check)
        d = self.serve(host, max_connecting=32)

        async def run():
            guests = await crowd(
                d.port, [f"127.0.1.{n}" for n in range(1, 41)], 1000)
            return await asyncio.gather(*map(visit, guests))
        found = self.run_on_loop(run())
        waits = [took for _, took in found]
        print(f"\n1,000 at once, 32 places: p50 {quantile(waits, .5):.2f} s,"
              f" p99 {quantile(waits, .99):.2f} s", end="", flush=True)
        self.assertEqual([r for r, _ in found if not r.startswith(OK)], [])
        self.assertEqual(host.connections, 1000)
        self.assertLessEqual(host.most, 32)
        self.assertTrue(any(
            r.get("waited_ms", 0) > 0 for r in d.records()
            if r["message"] == "session closed"), "nobody has waited")

    def test_one_address_does_not_keep_others_waiting(self):
        """Turns go by client address: the address with the fewest places
        goes first (PROTOCOL)"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {"log_level": "debug"}, max_connecting=4)

        async def run():
            greedy = await crowd(d.port, ["127.0.0.41"], 1000, "greedy")
            for g in greedy:
                g.send("PASS secret")
            honest = await crowd(d.port, ["127.0.0.42", "127.0.0.43"], 2,
                                 "honest")
            wait = asyncio.get_running_loop().run_in_executor
            await wait(None, self.waiting, d, 1000)
            await wait(None, wait_until,
                       lambda: len(host.asked) == 4, "four are asked")
            for g in honest:
                g.send("PASS secret")
            await wait(None, self.waiting, d, 1002)
            for n in (5, 6):
                await wait(None, turns.next, host)
                await wait(None, wait_until,
                           lambda n=n: len(host.asked) == n, "the next one")
            self.assertEqual(
                sorted(u.split("@")[0] for u in host.asked[4:6]),
                ["honest0", "honest1"])
            await wait(None, turns.all, host)
            for g in greedy + honest:
                self.assertReply(await g.line(), OK)
                g.leave()
        self.run_on_loop(run())
        self.assertLessEqual(host.most, 4)

    def test_wrong_passwords_shut_nobody_out(self):
        """A shared place must not be held at the pleasure of a stranger"""
        async def check(_user, password):
            await asyncio.sleep(.1 if password == "wrong" else 0)
            return "-ERR [AUTH] no" if password == "wrong" else OK
        host = self.host(check)
        d = self.serve(host, {"auth_failure_delay": "2s"}, max_connecting=8)
        over = []

        async def guess(n):
            tries = 0
            while not over:
                g = await Guest.come(d.port, "127.0.0.41", f"g{n}@example.com")
                reply, _ = await g.log_in("wrong")
                self.assertReply(reply, "-ERR")
                tries += 1
                g.leave()
            return tries

        async def run():
            guesses = [asyncio.ensure_future(guess(n)) for n in range(24)]
            while host.connections < 24:
                await asyncio.sleep(.01)
            found = []
            for n in range(60):
                g = await Guest.come(d.port, f"127.0.0.{51 + n % 4}",
                                     f"h{n}@example.com")
                found.append(await visit(g))
            over.append(True)
            await asyncio.gather(*guesses)
            return found
        found = self.run_on_loop(run())
        waits = [took for _, took in found]
        print(f"\nbeside 24 that guess, 8 places: p99 "
              f"{quantile(waits, .99) * 1000:.0f} ms", end="", flush=True)
        self.assertEqual([r for r, _ in found if not r.startswith(OK)], [])
        self.assertLessEqual(host.most, 8)

    def test_an_unanswered_challenge_holds_no_place(self):
        """mailferry answers the backend's exchange itself at once ..., gives
        the backend connection back (PROTOCOL step 7): who is shown a challenge
        and does not answer it keeps nobody out"""
        def check(_c, mech, _frame):
            return "-ERR [AUTH] no" if mech == "XOAUTH2" else "+OK in"
        b = self.backend(Pop3(check=check, challenge=b'{"status":"401"}'),
                         tls="implicit")
        d = self.mailferry(
            {"pop3s": {"tls": "implicit"}},
            {"x": b.destination(max_connecting=2)},
            over={"server": {"queue_timeout": "100s"}})
        for n in range(4):
            c = self.client(d, tls="implicit", source=f"127.0.0.{41 + n}")
            self.assertReply(
                c.cmd("AUTH XOAUTH2 " + xoauth2("x@example.com", "invented")),
                "+")
        self.login(d, tls="implicit", source="127.0.0.51")

    def test_max_waiting(self):
        """at most max_waiting wait per destination, beyond that
        -ERR [SYS/TEMP] at once (MANAGEMENT)"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {"log_level": "debug"}, max_connecting=1,
                       max_waiting=2)

        async def run():
            guests = await crowd(d.port, ["127.0.0.41"], 3)
            wait = asyncio.get_running_loop().run_in_executor
            for g in guests:
                g.send("PASS secret")
            await wait(None, self.waiting, d, 3)
            late = (await crowd(d.port, ["127.0.0.42"], 1, "late"))[0]
            reply, took = await late.log_in()
            self.assertTempFail(reply)
            self.assertLess(took, DEADLINE)
            # The connection stays; later there is room.
            await wait(None, turns.all, host)
            for g in guests:
                self.assertReply(await g.line(), OK)
            await late.cmd(f"USER {late.user}")
            self.assertReply((await late.log_in())[0], OK)
        self.run_on_loop(run())
        self.assertEqual([r["failure"] for r in d.records()
                          if "failure" in r], ["full"])

    def test_queue_timeout(self):
        """at most queue_timeout, then -ERR [SYS/TEMP] (PROTOCOL)"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {"queue_timeout": "400ms"}, max_connecting=1)

        async def run():
            wait = asyncio.get_running_loop().run_in_executor
            first, second = await crowd(d.port, ["127.0.0.41"], 2)
            first.send("PASS secret")
            await wait(None, wait_until, lambda: host.asked, "a login")
            reply, took = await second.log_in()
            self.assertTempFail(reply)
            self.assertGreaterEqual(took, .4)
            await wait(None, turns.all, host)
            self.assertReply(await first.line(), OK)
        self.run_on_loop(run())
        record = d.wait_record(lambda r: "failure" in r, "the failure")
        self.assertEqual(record["failure"], "full")
        self.assertEqual(record["reason"], "no turn within queue_timeout")
        self.assertGreaterEqual(record["waited_ms"], 400)

    def test_death_while_many_wait(self):
        """A destination that is down is answered at once: also those who
        wait already"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {
            "log_level": "debug", "host_down_threshold": 3,
            "host_down_min_clients": 2, "host_down_cooldown": "1h",
            "backend_timeout": "5s"}, max_connecting=4)

        async def run():
            guests = await crowd(
                d.port, [f"127.0.1.{n}" for n in range(1, 21)], 300)
            wait = asyncio.get_running_loop().run_in_executor
            for g in guests:
                g.send("PASS secret")
            await wait(None, self.waiting, d, 300)
            await wait(None, wait_until,
                       lambda: len(host.asked) == 4, "four are asked")
            await wait(None, host.hang_up)
            for g in guests:
                self.assertTempFail(await g.line())
                g.leave()
        start = time.monotonic()
        self.run_on_loop(run())
        # Far from queue_timeout, and few went there in vain.
        self.assertLess(time.monotonic() - start, 3 * DEADLINE)
        self.assertLess(host.connections, 30)
        failed = [r["failure"] for r in d.records() if "failure" in r
                  and "user" in r]
        self.assertGreater(failed.count("down"), 250)

    def test_slow_logins_after_a_recovery(self):
        """After a recovery logins whose PASS takes long (cold caches are the
        rule then) keep nobody out: the ramp bounds what is unproved"""
        turns = Turns()

        async def check(user, password):
            return await turns.check(user, password) \
                if user.startswith("slow") else OK
        host = self.host(check)
        d = self.serve(host, {
            "host_down_threshold": 1, "host_down_min_clients": 0,
            "host_down_cooldown": "200ms", "log_level": "debug"})

        async def run():
            wait = asyncio.get_running_loop().run_in_executor
            host.turned_away = True
            probe = await Guest.come(d.port, "127.0.0.41", "p@example.com")
            self.assertTempFail((await probe.log_in())[0])
            host.turned_away = False
            while not (await probe.log_in())[0].startswith(OK):
                await probe.cmd(f"USER {probe.user}")
            slow = await crowd(d.port, ["127.0.0.42", "127.0.0.43"], 2,
                               "slow")
            for g in slow:
                g.send("PASS secret")
            await wait(None, wait_until,
                       lambda: len(turns.waiting) == 2, "two slow logins")
            quick = await crowd(d.port, ["127.0.0.44"], 5, "quick")
            for reply, took in await asyncio.gather(
                    *(g.log_in() for g in quick)):
                self.assertReply(reply, OK)
                self.assertLess(took, 2 * DEADLINE)
            self.assertEqual(len(turns.waiting), 2)
            await wait(None, turns.all, host)
            for g in slow:
                self.assertReply(await g.line(), OK)
        self.run_on_loop(run())
        self.assertTrue([r for r in d.records()
                         if r["message"] == "session closed"
                         and r.get("waited_ms", 0) > 0], "nobody waited")

    def test_a_waiters_reset(self):
        """While it waits, the client's reset is noticed (MANAGEMENT)"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {"log_level": "debug"}, max_connecting=1)

        async def run():
            first, gone, last = await crowd(d.port, ["127.0.0.41"], 3)
            wait = asyncio.get_running_loop().run_in_executor
            for n, g in enumerate((first, gone, last)):
                g.send("PASS secret")
                await wait(None, self.waiting, d, n + 1)
            gone.reset()
            await wait(None, lambda: d.wait_record(
                lambda r: r.get("user") == gone.user
                and r["message"] == "session closed", "its end"))
            await wait(None, turns.all, host)
            for g in (first, last):
                self.assertReply(await g.line(), OK)
        self.run_on_loop(run())
        self.assertEqual(host.asked, ["u0@example.com", "u2@example.com"])

    def test_pipelined_commands_wait_too(self):
        """what has been read reaches the backend in order: what a client
        sends behind its login waits with it, and its FIN is none"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {"log_level": "debug"}, max_connecting=1)

        async def run():
            first, second = await crowd(d.port, ["127.0.0.41"], 2)
            wait = asyncio.get_running_loop().run_in_executor
            first.send("PASS secret")
            await wait(None, self.waiting, d, 1)
            second.send("PASS secret\r\nNOOP\r\nQUIT")
            second.writer.write_eof()
            await wait(None, self.waiting, d, 2)
            await wait(None, turns.all, host)
            for g in (first, second, second, second):
                self.assertReply(await g.line(), OK)
            self.assertEqual(await second.reader.read(), b"")
        self.run_on_loop(run())

    def test_the_end_of_the_process(self):
        """a drain of the process ends it with [SYS/TEMP] (MANAGEMENT)"""
        turns = Turns()
        host = self.host(turns.check)
        d = self.serve(host, {"log_level": "debug",
                              "shutdown_grace": f"{DEADLINE}s"},
                       max_connecting=2)

        async def run():
            guests = await crowd(d.port, ["127.0.0.41", "127.0.0.42"], 100)
            wait = asyncio.get_running_loop().run_in_executor
            for g in guests:
                g.send("PASS secret")
            await wait(None, self.waiting, d, 100)
            await wait(None, wait_until,
                       lambda: len(host.asked) == 2, "two are asked")
            d.process.signal(signal.SIGTERM)
            replies = {}
            for g in guests:
                if g.user not in host.asked:
                    replies[g.user] = await g.line()
                    self.assertEqual(await g.reader.read(), b"")
            for reply in replies.values():
                self.assertTempFail(reply)
            self.assertEqual(len(replies), 98)
            # Who is being logged in gets an answer.
            await wait(None, turns.all, host)
            for g in guests:
                if g.user in host.asked:
                    self.assertReply(await g.line(), OK)
                    self.assertReply(await g.cmd("QUIT"), OK)
        self.run_on_loop(run())
        wait_until(lambda: d.process.child.poll() is not None, "it ends")
        self.assertEqual(d.process.child.returncode, 0)


if __name__ == "__main__":
    unittest.main()
