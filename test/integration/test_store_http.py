"""Routes from a web service: a GET per lookup, its answers and its faults."""

import threading
import time
import unittest

from harness.case import certs
from harness.proc import wait_until
from harness.stores import (StoreAnswers, StoreCase, StoreFaults,
                            StoreWaits)
from harness.web import Web, WebProcess


class WebCase(StoreCase):
    SOURCE = "http"

    @classmethod
    def make(cls, tls=None):
        return WebProcess(tls=tls).start()

    def section(self, p):
        return {"url": f"http://127.0.0.1:{p.port}/route?user=%u"}

    def slow(self, p, seconds):
        """1.5 seconds, which its tests take for long."""
        return {}

    def web(self, *args, **keys):
        """A service in this process, which may say anything."""
        return self.keep(Web(*args, **keys)).start()


class Waits(StoreWaits, WebCase):
    pass


class WaitsTls(StoreWaits, WebCase):
    TLS = "good"

    def section(self, p):
        return {"url": p.url("https", "localhost"), "tls_ca_file": certs().ca}


class Answers(StoreAnswers, WebCase):
    def test_url_encoding(self):
        """%u, %{...}, ${...} in identifiers for the http source: whatever it
        is, it stays one parameter's value"""
        names = ["a&user=b", "a%u", "a%{user}", "${home}", "a+b", "a#b",
                 "../../etc/passwd", "a;b", "a?b=c", "j\xfcrgen", "a'b",
                 "a\\b", "\xff\xfe"]
        w = self.web({name: "new" for name in names})
        d = self.serve(w)
        for name in names:
            self.assertRoute(d, name, "new")
        self.assertRoute(d, "b", "legacy")
        for path in w.asked:
            self.assertRegex(path, r"^/route\?user=[A-Za-z0-9%._~-]+$")

    def test_json(self):
        """200 with the destination as text or JSON `{"destination": ...}`"""
        said = {"a": '{"destination": "new"}',
                "b": '  {"x": [1, {}], "destination": "new", "y": null}\n',
                "c": "new", "d": "\r\n new \r\n",
                "bad1": '{"destination": 7}', "bad2": '{"destination"',
                "bad3": "{}", "bad4": "", "bad5": "\n", "bad6": "[]{",
                "bad7": '{"destination": ""}',
                "bad8": "<html>Not today</html>", "bad9": "new\0junk",
                "bad10": "legacy is what I would say",
                "bad11": '{"destination": "new old"}'}
        w = self.web(answer=lambda h, user: (200, said[user]))
        d = self.serve(w)
        for name in "abcd":
            self.assertRoute(d, name, "new")
        for n in range(1, 12):
            self.assertNoRoute(d, f"bad{n}")

    def test_other_statuses_are_failures(self):
        """404 = unknown; all else is a failure; no redirection is followed"""
        elsewhere = self.web(answer=lambda h, user: (200, "new"))

        def answer(h, user):
            Web.say(h, int(user), "new", Location=(
                f"http://127.0.0.1:{elsewhere.port}/"))
        d = self.serve(self.web(answer=answer))
        for status in (201, 301, 302, 400, 401, 403, 410, 500, 503):
            self.assertNoRoute(d, str(status))
            d.wait_log(f"status {status}")
        self.assertRoute(d, "404", "legacy")
        self.assertEqual(elsewhere.asked, [])

    def test_keep_alive(self):
        """keep-alive; pool_size connections at most"""
        w = self.web({})
        d = self.serve(w, {"pool_size": 4})
        for i in range(30):
            self.assertRoute(d, f"user{i}", "legacy")
        self.assertEqual(len(w.asked), 30)
        self.assertLessEqual(w.connections, 4)

    def test_https(self):
        """https: the certificate is verified"""
        for cert, host, ca, good in (
                ("good", "localhost", certs().ca, True),
                ("wrong", "localhost", certs().ca, False),
                ("expired", "localhost", certs().ca, False),
                ("good", "localhost", None, False)):
            with self.subTest(cert=cert, ca=ca):
                w = self.web({"alice": "new"}, tls=cert)
                section = {"url": f"https://{host}:{w.port}/r?user=%u"}
                if ca:
                    section["tls_ca_file"] = ca
                d = self.serve(w, section)
                if good:
                    self.assertRoute(d, "alice", "new")
                else:
                    self.assertNoRoute(d, "alice")

    def test_password_in_the_url(self):
        """It is never shown in messages"""
        w = self.web({"alice": "new"})
        url = f"http://u:sesame@127.0.0.1:{w.port}/?user=%u"
        d = self.serve(w, {"url": url})
        self.assertRoute(d, "alice", "new")
        self.assertIn("Authorization", w.headers[0])
        w.stop()
        self.assertNoRoute(d, "bob")
        self.assertNotIn("sesame", d.output())

    def test_no_proxy_from_the_environment(self):
        w = self.web({"alice": "new"})
        d = self.serve(w)
        d.stop()
        d.start({"http_proxy": "http://127.0.0.1:1",
                 "ALL_PROXY": "http://127.0.0.1:1"})
        self.assertRoute(d, "alice", "new")

    def test_single_flight(self):
        """single flight per identifier"""
        go = threading.Event()

        def answer(_h, _user):
            go.wait(5)
            return 200, "new"
        w = self.web(answer=answer)
        d = self.serve(w, lookup_timeout="5s")
        replies = []
        threads = [threading.Thread(target=lambda: replies.append(
            self.reply(d, "alice"))) for _ in range(8)]
        for t in threads:
            t.start()
        d.wait_log("")
        wait_until(lambda: w.asked, "a lookup")
        go.set()
        for t in threads:
            t.join()
        self.assertEqual(replies, ["+OK new"] * 8)
        self.assertEqual(len(w.asked), 1)


class Faults(StoreFaults, WebCase):
    def test_reload_in_an_outage(self):
        """After a reload nothing counts that was read before."""
        w = self.web({"alice": "new"})
        d = self.serve(w, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        w.stop()
        time.sleep(0.1)  # her answer gets old
        self.assertRoute(d, "alice", "new")
        d.hang_up()
        d.wait_log("reloaded")
        self.assertNoRoute(d, "alice")

    def test_reload_asks_again(self):
        """A reload ... wins over cached answers at once; so does one that
        changes what the answers mean"""
        w = self.web({"alice": "new"})
        d = self.serve(w)
        self.assertRoute(d, "alice", "new")
        w.routes["alice"] = "legacy"
        self.assertRoute(d, "alice", "new")
        mark = d.mark()
        d.hang_up()
        d.wait_record(lambda r: r["message"] == "reloaded", "reloaded", mark)
        self.assertRoute(d, "alice", "legacy")
        w.stop()
        # Another default destination: nothing of before serves any more.
        mark = d.mark()
        d.change({"routing": {"default_destination": "new"}})
        d.hang_up()
        d.wait_record(lambda r: r["message"] == "reloaded", "reloaded", mark)
        self.assertNoRoute(d, "alice")

    def test_slow_for_both_keys(self):
        """inside lookup_timeout: the identifier's and the domain's lookup
        together"""
        def answer(_h, _user):
            time.sleep(.6)
            return 404, "no"
        d = self.serve(self.web(answer=answer), lookup_timeout="1s")
        self.assertNoRoute(d, "alice@example.com", within=3)
        # Each alone is in time.
        self.assertRoute(d, "bob", "legacy")

    def test_hangs_for_everybody(self):
        """slow: ... `[SYS/TEMP]` inside `lookup_timeout`, or the old answer;
        and the others are told at once then"""
        stop = threading.Event()
        self.addCleanup(stop.set)
        hangs = threading.Event()

        def answer(_h, _user):
            if hangs.is_set():
                stop.wait(10)
            return 200, "new"
        w = self.web(answer=answer)
        d = self.serve(w, positive_ttl="100ms")
        self.assertRoute(d, "alice", "new")
        hangs.set()
        time.sleep(.1)  # her answer gets old
        replies = self.together(d, ["alice"] + [f"user{i}" for i in range(8)])
        self.assertEqual(replies.count("+OK new"), 1)
        for reply in replies:
            if reply != "+OK new":
                self.assertTempFail(reply)
        hangs.clear()
        stop.set()
        wait_until(lambda: self.reply(d, "bob") == "+OK new", "it is back")

    def test_garbage(self):
        """answering garbage, dying in the middle of an answer"""
        def flood(s):
            s.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                s.sendall(b"x" * 65536)

        def head(s):
            while True:
                s.sendall(b"X: y\r\n" * 1000)

        def says(data):
            return lambda s: s.sendall(data)
        ok = b"HTTP/1.1 200 OK\r\n"
        for talk in (says(b"+OK POP3\r\n"), says(b"\0" * 500), flood, head,
                     says(ok + b"Content-Length: 100\r\n\r\nnew"),
                     says(ok + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
                     says(ok), says(b""),
                     says(ok + b"Content-Length: 99999999\r\n\r\nnew")):
            port = self.talking(
                lambda s, talk=talk: (s.recv(4096), talk(s)))
            d = self.daemon("http", {
                "url": f"http://127.0.0.1:{port}/?user=%u"})
            self.assertNoRoute(d, "alice")
            d.stop()


if __name__ == "__main__":
    unittest.main()
