"""The program: options, configuration problems, reload, drain, log, and what
stays of a password. Each docstring quotes the sentence that its test proves.
"""

import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import unittest

from harness.case import Case, Pop3, certs, context, need, need_root
from harness.client import b64, oauthbearer, plain, xoauth2
from harness.fake_backend import silent
from harness.mailferry import binary, merge, sanitized
from harness.ports import free_port, has_ipv6, is_listening
from harness.proc import descriptors, run, temp_dir, wait_until
from harness.yaml import Raw

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
REFUSE = os.path.join(TOP, "test/integration/harness/refuse.py")
EX_OSERR, EX_NOPERM, EX_CONFIG = 71, 77, 78
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
CAP_NET_BIND_SERVICE = 10
PROBLEM = re.compile(r"(?P<file>[^:\n]+):(?P<line>\d+):(?P<column>\d+): "
                     r"(?P<rest>.+)")


def refusing(c, mech, frame):
    word = frame[1].encode() if mech == "USER" else frame
    return "+OK logged in" if b"right" in word else \
        "-ERR [AUTH] Authentication failed."


class Options(Case):
    def good(self, **over):
        b = self.backend()
        return self.mailferry(destinations={"x": b.destination()}, start=False,
                              over=over)

    def test_check(self):
        """`mailferry -t -c FILE` (`--check`) validates, loads certificates
        and the mapping file, prints `configuration ok`, exits 0 and binds
        nothing."""
        d = self.good()
        for option in ("-t", "--check"):
            done = run([binary(), option, "-c", d.path])
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout.splitlines()[-1],
                             b"configuration ok")
        # The port may even be taken.
        d.start()
        done = run([binary(), "-t", "-c", d.path])
        self.assertEqual(done.returncode, 0)
        self.assertTrue(done.stdout.endswith(b"\nconfiguration ok\n"))

    def test_version_and_help(self):
        """`-V`, `--help`"""
        for option in ("-V", "--version"):
            done = run([binary(), option])
            self.assertEqual(done.returncode, 0)
            self.assertRegex(done.stdout, rb"\Amailferry \d+\.\d+")
        for option in ("-h", "--help"):
            done = run([binary(), option])
            self.assertEqual(done.returncode, 0)
            self.assertRegex(done.stdout, rb"(?s)\Ausage: mailferry .*-t")
        for options in (["--nonsense"], ["-c"], ["stray"]):
            done = run([binary()] + options)
            self.assertEqual(done.returncode, 64)
            self.assertEqual(done.stdout, b"")
            self.assertIn(b"usage: ", done.stderr)

    def test_configuration_from_the_environment(self):
        """(... `mailferry -c FILE`, or `MAILFERRY_CONFIG`)"""
        d = self.good()
        env = dict(os.environ, MAILFERRY_CONFIG=d.path)
        done = run([binary(), "-t"], env=env)
        self.assertTrue(done.stdout.endswith(b"\nconfiguration ok\n"))
        done = run([binary(), "-t", "-c", "/nonexistent"], env=env)
        self.assertEqual(done.returncode, EX_CONFIG)

    def test_relative_paths(self):
        """Relative paths are relative to the configuration file's
        directory."""
        d = self.good()
        shutil.copy(certs().cert("good"), os.path.join(d.dir, "c.pem"))
        shutil.copy(certs().key("good"), os.path.join(d.dir, "k.pem"))
        shutil.copy(certs().ca, os.path.join(d.dir, "ca.pem"))
        d.change({"tls": {"certificate": {"primary": {
            "cert": "c.pem", "key": "k.pem"}}},
            "destination": {"x": {"tls_ca_file": "ca.pem"}}})
        done = run([binary(), "-t", "-c", d.path], cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_environment_in_scalars(self):
        """`${NAME}` in a scalar is replaced from the environment ... (`$${`
        is a literal `${`); an unset variable is an error."""
        d = self.good(capabilities={"pop3": {
            "banner": "a ${MF_TEST_WORD} b $${MF_TEST_WORD}"}})
        d.start({"MF_TEST_WORD": "word"})
        self.assertEqual(self.client(d).greeting,
                         "+OK a word b ${MF_TEST_WORD}")
        done = run([binary(), "-t", "-c", d.path])
        self.assertEqual(done.returncode, EX_CONFIG)
        self.assertIn(b"MF_TEST_WORD", done.stderr)


class Problems(Case):
    """exit status 78 (`EX_CONFIG`)"""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.b = cls.shared_backend()
        cls.free = free_port()
        tree = {"certificate": {"primary": {"cert": certs().cert("good"),
                                            "key": certs().key("good")}}}
        cls.base = {
            "tls": tree,
            "listener": {"pop3": {"bind": [f"127.0.0.1:{cls.free}"],
                                  "tls": "starttls"}},
            "routing": {"default_destination": "x"},
            "mapping": {"source": "file", "file": {"path": "map.tsv"}},
            "destination": {"x": cls.b.destination(forwarding="xclient")},
        }

    def lines_of(self, over=None, text=None, mapping="", start=False,
                 status=EX_CONFIG):
        """What is said about a configuration: the problem lines, taken
        apart."""
        directory = temp_dir()
        self.path = path = os.path.join(directory, "m.yaml")
        from harness.yaml import dump
        written, where = dump(merge(self.base, over or {}))
        data = text if text is not None else written
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        with open(os.path.join(directory, "map.tsv"), "w",
                  encoding="utf-8") as f:
            f.write(mapping)
        self.where = where
        options = ["-c", path] + ([] if start else ["-t"])
        done = run([binary()] + options, timeout=20)
        self.assertEqual(done.returncode, status, done.stderr)
        if status == EX_CONFIG:
            self.assertNotIn(b"configuration ok", done.stdout)
        found = []
        for line in done.stderr.decode().splitlines():
            match = PROBLEM.fullmatch(line)
            self.assertIsNotNone(match, f"no problem line: {line!r}")
            self.assertEqual(match["file"], path)
            found.append((int(match["line"]), match["rest"]))
        return found

    def bad(self, key, value, words, over=None, place=None):
        """This key with this value is a problem that is told at its line, by
        its dotted path, in words that match."""
        tree = {}
        node = tree
        *sections, last = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
        with self.subTest(key=key, value=value):
            lines = self.lines_of(merge(tree, over or {}))
            place = place or key
            fits = [line for line, rest in lines
                    if re.match(re.escape(place) + r"(\[\d+\])?: ", rest)
                    and re.search(words, rest)]
            self.assertTrue(fits, lines)
            if key in self.where and place == key:
                self.assertIn(self.where[key], fits)

    def test_exit_status_and_form(self):
        """one line each, as `FILE:LINE:COLUMN: PATH.TO.KEY: what is wrong
        (what is accepted)` on stderr, exit status 78"""
        for start in (False, True):
            lines = self.lines_of({"server": {"threads": "many"}}, start=start)
            self.assertEqual(len(lines), 1)
            self.assertEqual(lines[0][0], self.where["server.threads"])
            self.assertRegex(lines[0][1], r"\Aserver\.threads: .+; expected .+\Z")
            self.assertFalse(is_listening(self.free))

    def test_every_problem(self):
        """Every problem found is reported (not only the first)"""
        lines = self.lines_of({
            "server": {"threads": -1, "backend_timeout": "soon",
                       "nonsense": 1},
            "listener": {"pop3": {"bind": ["nowhere"], "tls": "maybe"}},
            "capabilities": {"pop3": {"sasl": ["PLAIN", "CRAM-MD5"]}},
            "routing": {"default_destination": "y"}})
        for path in ("server.threads", "server.backend_timeout",
                     "server.nonsense", "listener.pop3.bind[0]",
                     "listener.pop3.tls", "capabilities.pop3.sasl[1]",
                     "routing.default_destination"):
            self.assertTrue([rest for _, rest in lines
                             if rest.startswith(path + ": ")], (path, lines))
        self.assertEqual(lines, sorted(lines, key=lambda x: x[0]))

    def test_values(self):
        """An unknown key, a duplicate key, a wrong type, a value out of range,
        ...: an error, never a warning."""
        self.bad("server.backend_timeout", "10", "ms")
        self.bad("server.backend_timeout", "-1s", "")
        self.bad("server.backend_timeout", "1 s", "")
        self.bad("server.backend_timeout", "99999999999999999999s", "")
        self.bad("server.socket_buffer", "64kb", "")
        self.bad("server.log_level", "loud", "error.*warn.*info.*debug")
        self.bad("server.proxy_ttl", 256, "")
        self.bad("server.host_down_threshold", "x", "")
        self.bad("server", "text", "")
        self.bad("listener.pop3.bind", [], "")
        self.bad("listener.pop3.bind", ["127.0.0.1:99999"], "")
        self.bad("listener.pop3.bind", ["127.0.0.1"], "")
        self.bad("listener.pop3.bind", ["[::1:110"], "")
        self.bad("listener.pop3.bind", ["localhost:110"], "")
        self.bad("listener.pop3.protocol", "imap", "pop3")
        self.bad("listener.pop3.proxy_protocol", True, "off.*optional")
        self.bad("listener.pop3.xclient_trusted", ["10.0.0.0/33"], "")
        self.bad("listener.pop3.xclient_trusted", ["10.0.0.1/8"], "")
        self.bad("limits.exempt", ["x"], "")
        self.bad("capabilities.pop3.allow_plain_auth_without_tls",
                 Raw("yes"), "true.*false")
        self.bad("capabilities.pop3.advertise", "TOP", "list")
        self.bad("mapping.normalize", "upper", "none.*lowercase")
        self.bad("mapping.source", "ldap", "file.*redis")
        self.bad("destination.x.forwarding", "yes", "xclient.*proxy.*none")
        self.bad("destination.x.protocol.pop3.auth", "apop", "auto")
        self.bad("destination.x.protocol.pop3.port", 0, "")
        self.bad("destination.x.tls_pinned_cert_sha256", "abc", "64")
        self.bad("tls.protocols.min_version", "1.1", "1.2.*1.3")
        self.bad("tls.protocols.disable_cipher_suites", ["NO_SUCH"], "")
        self.bad("tlss", 1, "unknown")
        self.bad("listener.pop3.Tls", "plain", "unknown")

    def test_the_rules(self):
        """Validation that must fail the start (each with its own message)"""
        x = "destination.x"
        self.bad("routing.default_destination", "y", "")
        self.bad(x + ".protocol.pop3.tls", "plain", "allow_plaintext_auth",
                 place=x + ".protocol.pop3.tls")
        self.bad("capabilities.pop3.sasl", ["PLAIN", "plain2"], "")
        self.bad("capabilities.pop3.sasl", ["PLAIN", "PLAIN"], "")
        for banner in ("a\r\nb", "a\nb", "a\0b", "<a@b>", "x" * 513):
            self.bad("capabilities.pop3.banner", banner, "")
        self.bad("capabilities.pop3.implementation", "a\nb", "")
        self.bad("capabilities.pop3.implementation", "x" * 600, "")
        self.bad("capabilities.pop3.advertise", ["TOP", "a\rb"], "")
        self.bad("destination.x.tls_client_cert", certs().cert("client"),
                 "tls_client_key")
        self.bad("admin.tls", "plain", "implicit")

    def somewhere(self, over, words, **how):
        """There is a problem that matches, wherever it is told."""
        with self.subTest(over=over):
            lines = self.lines_of(over, **how)
            self.assertTrue([rest for _, rest in lines
                             if re.search(words, rest)], lines)

    def test_rules_between_keys(self):
        """Validation that must fail the start"""
        self.somewhere({"destination": {"x": {"tls_server_name": None}}},
                       r"^destination\.x.*tls_server_name")
        self.somewhere({"listener": {"pop3": {"proxy_protocol": "required"}}},
                       r"^listener\.pop3.*proxy_trusted")
        self.somewhere({"listener": {"pop3": {"proxy_protocol": "optional",
                                              "proxy_trusted": []}}},
                       r"^listener\.pop3\.proxy_trusted")
        self.somewhere({"mapping": {"source": "redis"}},
                       r"^mapping.*redis")
        self.somewhere({"mapping": {"source": "sql", "sql": {
            "url": "sqlite:///x", "query": "q", "upsert_query": "u"}}},
            r"^mapping\.sql.*delete_query")
        self.somewhere({"destination": None}, r"^destination: ")
        self.somewhere({"listener": None}, r"^listener: ")
        self.somewhere({"routing": None}, r"default_destination")
        self.somewhere({"tls": {"protocols": {"disable_cipher_suites": [
            "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]}}},
            r"^tls\.protocols")

    def test_loop(self):
        """A destination whose literal address and port are one of the
        listeners' own (a loop)."""
        for bind in ("127.0.0.1", "0.0.0.0"):
            self.somewhere({
                "listener": {"pop3": {"bind": [f"{bind}:{self.free}"]}},
                "destination": {"x": {"protocol": {"pop3": {
                    "port": self.free}}}}}, r"^destination\.x.*")

    @need_root()
    def test_user(self):
        """A user or group that is not there is warned of before the start
        finds out, and of no interest to who could not become it."""
        lines = self.lines_of({"server": {"user": "no-such-user",
                                          "group": "no-such-group"}},
                              status=0)
        self.assertEqual(lines, [
            (self.where["server.user"],
             "server.user: no such user: no-such-user (warning)"),
            (self.where["server.group"],
             "server.group: no such group: no-such-group (warning)")])
        self.assertEqual(self.lines_of({"server": {"user": "nobody"}},
                                       status=0), [])
        self.lines_of({"tls": None, "server": {"user": "no-such-user"}},
                      status=0)
        done = run([binary(), "-t", "-c", self.path], user=(65534, 65534))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_log_target(self):
        """A log that could not be opened is a problem; one that could be is
        not made by a check."""
        directory = temp_dir()
        new = os.path.join(directory, "new.log")
        for target, words in ((directory + "/none/x.log",
                               "No such file or directory"),
                              (directory, "Is a directory"),
                              (new + "/", "Is a directory")):
            self.bad("server.log_target", target, words)
        self.assertEqual(self.lines_of({"server": {"log_target": new}},
                                       status=0), [])
        self.assertEqual(os.listdir(directory), [])
        with open(new, "w", encoding="ascii") as f:
            f.write("as it was\n")
        self.assertEqual(self.lines_of({"server": {"log_target": new}},
                                       status=0), [])
        with open(new, encoding="ascii") as f:
            self.assertEqual(f.read(), "as it was\n")

    @need_root()
    def test_log_target_of_others(self):
        """... nor one that only others may open."""
        directory = temp_dir()
        path = os.path.join(directory, "mail.log")
        over = {"tls": None, "server": {"log_target": path}}
        for there in (False, True):
            if there:
                with open(path, "w", encoding="ascii"):
                    pass
            self.lines_of(over, status=0)
            done = run([binary(), "-t", "-c", self.path],
                       user=(65534, 65534))
            self.assertEqual(done.returncode, EX_CONFIG, done.stderr)
            self.assertRegex(done.stderr, rb":\d+:\d+: server\.log_target: "
                             rb"cannot open the log file .*: "
                             rb"Permission denied\n")

    def test_certificates(self):
        """a certificate that does not match its key, is unreadable"""
        cert = "tls.certificate.primary"
        self.bad(cert + ".cert", "/nonexistent.pem", "")
        self.bad(cert + ".key", "/nonexistent.pem", "")
        self.bad(cert + ".key", certs().key("new"), "")
        self.bad(cert + ".cert", certs().key("good"), "")
        self.bad("destination.x.tls_ca_file", "/nonexistent.pem", "")

    def test_mapping_file(self):
        """a mapping file line that names an undeclared destination (with its
        line number)"""
        lines = self.lines_of(mapping="# comment\n\na@b\tx\nc@d\tnowhere\n")
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0][1], r"^mapping\.file\.path: ")
        self.assertIn("nowhere", lines[0][1])
        self.assertRegex(lines[0][1], r"\b4\b")
        lines = self.lines_of({"mapping": {"file": {"path": "none.tsv"}}})
        self.assertRegex(lines[0][1], r"^mapping\.file\.path: ")

    def test_yaml(self):
        """A YAML syntax error has the same form without a path."""
        for text in ("server: [\n", "a: b: c\n", "server:\n\tthreads: 1\n",
                     "\"open\n", "- a\n- b\n", "", "just words\n",
                     "server: &a {threads: 1}\nserver: 2\n",
                     b"server: {hostname: \"\xff\xfe\"}\n"):
            with self.subTest(text=text):
                self.assertTrue(self.lines_of(text=text))
        lines = self.lines_of(text="server:\n  threads: 1\n  threads: 2\n")
        self.assertTrue([rest for line, rest in lines
                         if line == 3 and "server.threads" in rest], lines)
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
            for i in range(1, 12))
        start = time.monotonic()
        self.assertTrue(self.lines_of(text=bomb))
        self.assertLess(time.monotonic() - start, 5)

    def test_unreadable_file(self):
        """exit status 78 (`EX_CONFIG`)"""
        for path in ("/nonexistent.yaml", "/", temp_dir()):
            done = run([binary(), "-c", path])
            self.assertEqual(done.returncode, EX_CONFIG)
            self.assertIn(path.encode(), done.stderr)

    def test_warnings(self):
        """Warnings, not errors: `bridge_idle` under 10 minutes ...,
        `forwarding: none` ..., `proxy_protocol: optional` on a listener that
        greets in clear. ... expired: a warning"""
        cases = {
            "bridge_idle": {"server": {"bridge_idle": "60s"}},
            "forwarding": {"destination": {"x": {"forwarding": "none"}}},
            "proxy_protocol": {"listener": {"pop3": {
                "proxy_protocol": "optional",
                "proxy_trusted": ["127.0.0.0/8"]}}},
            "tls_allow_invalid_certs": {"destination": {"x": {
                "tls_allow_invalid_certs": True}}},
            "min_version": {"listener": {"pop3": {"min_version": "1.0"}}},
            "expired": {"tls": {"certificate": {"primary": {
                "cert": certs().cert("expired"),
                "key": certs().key("expired")}}}},
        }
        self.assertEqual(self.lines_of(status=0), [])
        for word, over in cases.items():
            with self.subTest(warning=word):
                lines = self.lines_of(over, status=0)
                self.assertTrue([rest for _, rest in lines if word in rest],
                                lines)


class Reload(Case):
    def start(self, over=None, **keys):
        self.old = self.backend(Pop3(check=lambda *_: "+OK old"),
                                tls="implicit")
        self.new = self.backend(Pop3(check=lambda *_: "+OK new"),
                                tls="implicit")
        self.d = self.mailferry(
            {"pop3": {"tls": "implicit"}},
            {"old": self.old.destination(), "new": self.new.destination()},
            over=over, **keys)
        return self.d

    def where(self, user="alice@example.com"):
        """Which backend answers a login now."""
        with self.client(self.d, tls="implicit", ctx=context()) as c:
            c.cmd(f"USER {user}")
            return c.cmd("PASS x")

    def reload(self, what):
        """SIGHUP, and the line that the log then has."""
        mark = self.d.mark()
        self.d.hang_up()
        return self.d.wait_record(
            lambda r: re.search(what, r["message"]), what, mark)

    def test_good(self):
        """A reload builds a complete new one aside ... A session holds a
        reference to the runtime it started with (DESIGN)"""
        d = self.start({"capabilities": {"pop3": {"banner": "one"}}})
        held = self.client(d, tls="implicit")
        relayed = self.login(d, tls="implicit")
        self.assertEqual(held.greeting, "+OK one")
        d.change({"capabilities": {"pop3": {"banner": "two"}}})
        self.reload("^reloaded")
        self.assertEqual(self.client(d, tls="implicit").greeting, "+OK two")
        # Nothing changes under those who are there.
        self.assertReply(held.cmd("NOOP"), "+OK")
        self.assertReply(relayed.cmd("NOOP"), "+OK")
        held.cmd("USER a")
        self.assertReply(held.cmd("PASS b"), "+OK")

    def test_mapping(self):
        """A reload ... wins over cached answers at once."""
        d = self.start()
        self.assertEqual(self.where(), "+OK old")
        self.assertEqual(self.where("bob@example.com"), "+OK old")
        d.write_mapping({"alice@example.com": "new"})
        self.reload("^reloaded")
        self.assertEqual(self.where(), "+OK new")
        d.write_mapping({"@example.com": "new"})
        self.reload("^reloaded")
        self.assertEqual(self.where("bob@example.com"), "+OK new")
        d.write_mapping({})
        self.reload("^reloaded")
        self.assertEqual(self.where(), "+OK old")

    def test_destination(self):
        """Configuration + TLS contexts + mapping table + ready-made CAPA
        texts = `struct runtime` (DESIGN)"""
        d = self.start()
        d.change({"routing": {"default_destination": "new"}})
        self.reload("^reloaded")
        self.assertEqual(self.where(), "+OK new")
        d.change({"destination": {"new": {"protocol": {"pop3": {
            "port": self.old.port}}}}})
        self.reload("^reloaded")
        self.assertEqual(self.where(), "+OK old")

    def test_certificate(self):
        """certificates renewed without a restart (GOTCHAS)"""
        d = self.start()
        paths = [os.path.join(d.dir, name) for name in ("c.pem", "k.pem")]

        def put(name):
            shutil.copy(certs().cert(name), paths[0])
            shutil.copy(certs().key(name), paths[1])

        def shown():
            c = self.client(d, tls="implicit", ctx=context())
            return c.sock.getpeercert(binary_form=True)
        put("good")
        d.change({"tls": {"certificate": {"primary": {
            "cert": "c.pem", "key": "k.pem"}}}})
        self.reload("^reloaded")
        put("good2")
        self.assertEqual(shown(), certs().der("good"))
        self.reload("^reloaded")
        self.assertEqual(shown(), certs().der("good2"))
        # A half-replaced pair changes nothing.
        shutil.copy(certs().cert("new"), paths[0])
        self.reload("^reload failed")
        self.assertEqual(shown(), certs().der("good2"))
        put("new")
        self.reload("^reloaded")
        self.assertEqual(shown(), certs().der("new"))

    def test_listeners(self):
        """publishes it to the workers only if every part of it is good
        (DESIGN)"""
        d = self.start()
        port = free_port()
        first = self.client(d, tls="implicit")
        d.change({"listener": {"more": {"bind": [f"127.0.0.1:{port}"],
                                        "tls": "plain"}}})
        self.reload("^reloaded")
        wait_until(lambda: is_listening(port), "the new listener")
        self.assertReply(self.client(port).greeting, "+OK")
        d.change({"listener": {"more": None}})
        self.reload("^reloaded")
        wait_until(lambda: not is_listening(port), "it is closed again")
        self.assertReply(first.cmd("NOOP"), "+OK")

    def test_wider_and_narrower(self):
        """A bind that takes in the former one, or that it took in, is bound
        before that is closed: each login works meanwhile."""
        for user in (None, "nobody") if os.geteuid() == 0 else (None,):
            with self.subTest(user=user):
                self.wider_and_narrower(user)

    def wider_and_narrower(self, user):
        pairs = [("127.0.0.1", "0.0.0.0")]
        if has_ipv6():
            pairs.append(("[::1]", "[::]"))
        for narrow, wide in pairs:
            d = self.start({"tls": None, "server": {"user": user}})
            port = d.port
            stop, failures = threading.Event(), []

            def connect():
                address = narrow.strip("[]")
                while not stop.is_set():
                    try:
                        with socket.create_connection((address, port),
                                                      10) as s:
                            s.settimeout(10)
                            assert s.recv(100)[:3] == b"+OK"
                    except (OSError, AssertionError) as e:
                        failures.append(e)
            d.change({"listener": {"pop3": {"tls": "plain"}}})
            for number, bind in enumerate((narrow, wide, narrow, wide)):
                d.change({"listener": {"pop3": {"bind":
                                                [f"{bind}:{port}"]}}})
                self.reload("^reloaded")
                if number == 0:
                    thread = threading.Thread(target=connect)
                    thread.start()
                    self.addCleanup(thread.join)
                    self.addCleanup(stop.set)
                    self.assertNotEqual(self.listens(port), set())
            wait_until(lambda: self.listens(port) == {wide.strip("[]")},
                       "the other one is closed")
            stop.set()
            thread.join()
            self.assertEqual(failures, [])

    def listens(self, port):
        """The addresses that have a listening socket of this port."""
        found = set()
        for family, name in ((socket.AF_INET, "tcp"),
                             (socket.AF_INET6, "tcp6")):
            with open(f"/proc/net/{name}", encoding="ascii") as f:
                for field in map(str.split, f.readlines()[1:]):
                    address, number = field[1].split(":")
                    if field[3] == "0A" and int(number, 16) == port:
                        words = [bytes.fromhex(address[i:i + 8])[::-1]
                                 for i in range(0, len(address), 8)]
                        found.add(socket.inet_ntop(family, b"".join(words)))
        return found

    def test_bind_that_fails(self):
        """A bind that cannot be had is told with its place, at the start and
        at a reload; the former ones stay."""
        taken = free_port()
        with socket.create_server(("127.0.0.1", taken)):
            d = self.start()
            d.change({"listener": {"more": {"tls": "plain", "bind": [
                f"127.0.0.1:{free_port()}", f"127.0.0.1:{taken}",
                f"192.0.2.99:{taken}"]}}})
            mark = d.mark()
            self.reload("^reload failed")
            self.told(d.output(mark), d, taken)
            self.assertEqual(self.where(), "+OK old")
            bad = self.mailferry(start=False)
            bad.tree = d.tree
            bad.write()
            done = run([binary(), "-c", bad.path])
            self.assertEqual(done.returncode, EX_OSERR)
            self.told(done.stderr.decode(), bad, taken)

    def told(self, text, d, port):
        for number, address, why in (
                (1, "127.0.0.1", "Address already in use"),
                (2, "192.0.2.99", "Cannot assign requested address")):
            self.assertRegex(
                text, rf"{re.escape(d.path)}:\d+:\d+: "
                rf"listener\.more\.bind\[{number}\]: "
                rf"cannot listen on {address}:{port}: {why}")
        self.assertNotIn("more.bind[0]", text)

    def test_bad(self):
        """failed reload changes nothing (RELIABILITY)"""
        d = self.start({"capabilities": {"pop3": {"banner": "one"}}})
        good = d.tree
        relayed = self.login(d, tls="implicit")
        bad = [
            {"capabilities": {"pop3": {"banner": "<two>"}}},
            {"capabilities": {"pop3": {"banner": "two"}},
             "nonsense": {"x": 1}},
            {"capabilities": {"pop3": {"banner": "two"}},
             "tls": {"certificate": {"primary": {"cert": "/nonexistent"}}}},
            {"capabilities": {"pop3": {"banner": "two"}},
             "mapping": {"file": {"path": "/nonexistent"}}},
        ]
        for over in bad:
            with self.subTest(over=over):
                d.change(over)
                self.reload("^reload failed")
                self.assertEqual(self.client(d, tls="implicit").greeting,
                                 "+OK one")
                d.tree = good
        with open(d.path, "w", encoding="ascii") as f:
            f.write("server: [\n")
        self.reload("^reload failed")
        d.change({"capabilities": {"pop3": {"banner": "two"}}})
        d.write_mapping_text("alice@example.com nowhere\n")
        self.reload("^reload failed")
        self.assertEqual(self.client(d, tls="implicit").greeting, "+OK one")
        self.assertEqual(self.where(), "+OK old")
        d.write_mapping({"alice@example.com": "new"})
        self.reload("^reloaded")
        self.assertEqual(self.client(d, tls="implicit").greeting, "+OK two")
        self.assertReply(relayed.cmd("NOOP"), "+OK")

    def test_problem_lines_in_the_log(self):
        """Every problem found is reported"""
        d = self.start()
        d.change({"server": {"threads": "many"}})
        mark = d.mark()
        self.reload("^reload failed")
        place = f"{d.path}:{d.where['server.threads']}:"
        self.assertTrue([r for r in d.records(mark) if place in r["message"]])

    def test_reloads_under_load(self):
        """0 failed new connections, 0 cut relays (RELIABILITY, M4)"""
        d = self.start()
        stop = threading.Event()
        failures, done = [], []

        def work():
            while not stop.is_set():
                try:
                    with self.client(d, tls="implicit", ctx=context()) as c:
                        c.cmd("USER alice@example.com")
                        if not c.cmd("PASS x").startswith("+OK"):
                            failures.append("refused")
                        if not c.cmd("NOOP").startswith("+OK"):
                            failures.append("relay")
                        if not c.cmd("QUIT").startswith("+OK"):
                            failures.append("quit")
                        done.append(1)
                except (AssertionError, OSError) as e:
                    failures.append(repr(e))
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for i in range(8):
                d.write_mapping({"alice@example.com":
                                 "new" if i % 2 else "old"})
                self.reload("^reloaded")
                so_far = len(done)
                wait_until(lambda: len(done) > so_far or failures,
                           "logins go on after the reload")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self._clients.clear()
        self.assertEqual(failures, [])

    def test_bad_log(self):
        """SIGHUP = reload everything as one runtime, or keep the old and say
        exactly why"""
        d = self.start({"capabilities": {"pop3": {"banner": "one"}}})
        good, directory = d.tree, temp_dir()
        bad = {"server": {"log_target": directory + "/none/mail.log"},
               "capabilities": {"pop3": {"banner": "two"}}}
        mark = d.mark()
        d.change(bad)
        self.reload("^reload failed")
        place = f"{d.path}:{d.where['server.log_target']}:"
        self.assertTrue([
            r for r in d.records(mark) if r["message"].startswith(place)
            and "server.log_target: cannot open the log file" in r["message"]])
        self.assertNotIn('"reloaded"', d.output(mark))
        self.assertEqual(self.client(d, tls="implicit").greeting, "+OK one")
        # The new log is neither used nor there when something else is bad.
        taken = free_port()
        with socket.create_server(("127.0.0.1", taken)):
            for what in ({"nonsense": {"x": 1}}, {"listener": {"more": {
                    "bind": [f"127.0.0.1:{taken}"], "tls": "plain"}}}):
                d.tree = good
                d.change({"server": {"log_target": directory + "/mail.log"},
                          **what})
                self.reload("^reload failed")
                self.assertEqual(os.listdir(directory), [])
        d.tree = good
        d.change({"capabilities": {"pop3": {"banner": "two"}}})
        self.reload("^reloaded")
        self.assertEqual(self.client(d, tls="implicit").greeting, "+OK two")

    @need_root()
    def test_other_log(self):
        """A reload may send the log elsewhere, and back; no line and no
        descriptor is lost."""
        d = self.start()
        path = os.path.join(temp_dir(), "mail.log")

        def says(what, count):
            with open(path, encoding="utf-8") as f:
                return f.read().count(what) == count
        d.change({"server": {"log_target": path}})
        d.hang_up()
        wait_until(lambda: os.path.exists(path) and says("reloaded", 1),
                   "the new log")
        before = descriptors(d.pid)
        d.hang_up()
        wait_until(lambda: says("reloaded", 2), "the same log again")
        self.where()
        wait_until(lambda: says("session closed", 1), "the session")
        self.assertEqual(descriptors(d.pid), before)
        d.change({"server": {"log_target": None}})
        self.reload("^reloaded")
        self.assertTrue(says("reloaded", 2))
        wait_until(lambda: descriptors(d.pid) == before - 1,
                   "the former log is closed")

    def test_log_file_alone_is_reopened(self):
        """SIGUSR1: Open the log file again, for logrotate(8), and do nothing
        else. (mailferry(8))"""
        path = os.path.join(temp_dir(), "mail.log")
        d = self.start({"server": {"log_target": path}})

        def ready():
            if not os.path.exists(path):
                return False
            with open(path, encoding="utf-8") as f:
                return '"ready"' in f.read()
        wait_until(ready, "the last line of the start")
        os.rename(path, path + ".1")
        d.change({"routing": {"default_destination": "new"}})
        with open(path + ".1", "rb") as f:
            before = len(f.read())
        d.process.signal(signal.SIGUSR1)
        wait_until(lambda: os.path.exists(path), "a new log file")
        self.assertEqual(self.where(), "+OK old")

        def written():
            with open(path, encoding="utf-8") as f:
                return f.read()
        wait_until(lambda: "session closed" in written(), "it is written to")
        self.assertNotIn("reload", written())
        self.assertEqual(os.path.getsize(path + ".1"), before)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)

    def test_log_file_is_reopened(self):
        """/path/to/file (reopened on SIGHUP) (CONFIG)"""
        directory = temp_dir()
        path = os.path.join(directory, "mail.log")
        d = self.start({"server": {"log_target": path,
                                   "log_format": "text"}})
        wait_until(lambda: os.path.exists(path) and os.path.getsize(path),
                   "the log file")
        os.rename(path, path + ".1")
        self.where()
        d.hang_up()
        wait_until(lambda: os.path.exists(path), "a new log file")
        self.where()

        def written():
            with open(path, encoding="utf-8") as f:
                return "alice@example.com" in f.read()
        wait_until(written, "it is written to")
        self.assertEqual(os.stat(path).st_mode & 0o007, 0)


class Drain(Case):
    def start(self, **server):
        self.b = self.backend(Pop3(messages=[b"x\r\n"]), tls="implicit")
        self.d = self.mailferry(
            {"pop3": {"tls": "implicit"}}, {"x": self.b.destination()},
            over={"server": server})
        return self.d

    def test_idle(self):
        """SIGTERM/SIGINT: how long sessions may drain (CONFIG)"""
        for number in (signal.SIGTERM, signal.SIGINT):
            d = self.start(shutdown_grace="30s")
            start = time.monotonic()
            d.process.signal(number)
            self.assertEqual(d.process.wait(), 0)
            self.assertLess(time.monotonic() - start, 5)
            self.assertFalse(is_listening(d.port))

    def test_sessions_finish(self):
        """shutdown_grace: how long sessions may drain (CONFIG)"""
        d = self.start(shutdown_grace="30s")
        c = self.login(d, tls="implicit")
        d.terminate()
        wait_until(lambda: not is_listening(d.port), "nobody new is let in")
        self.assertReply(c.cmd("DELE 1"), "+OK")
        self.assertIsNone(d.process.status)
        start = time.monotonic()
        c.play("C: QUIT\nS: +OK bye\nCLOSED")
        c.close()
        self.assertEqual(d.process.wait(), 0)
        self.assertLess(time.monotonic() - start, 5)
        self.assertIn("QUIT", self.b.connection().commands)

    def test_grace_ends(self):
        """exit at grace +-1 s; exit code 0 (RELIABILITY, M5)"""
        d = self.start(shutdown_grace="1s")
        c = self.login(d, tls="implicit")
        start = time.monotonic()
        d.terminate()
        c.closed()
        self.assertGreaterEqual(time.monotonic() - start, 0.9)
        self.assertEqual(d.process.wait(), 0)
        self.assertLess(time.monotonic() - start, 3)
        self.b.connection().wait_finished()
        self.assertNotIn("QUIT", self.b.connection().commands)

    def test_second_signal(self):
        """SIGTERM/SIGINT"""
        d = self.start(shutdown_grace="60s")
        self.login(d, tls="implicit")
        d.terminate()
        wait_until(lambda: not is_listening(d.port), "it drains")
        d.terminate()
        self.assertEqual(d.process.wait(), 0)

    def test_delay(self):
        """drain_delay: after SIGTERM: how long listeners stay open
        (CONFIG)"""
        d = self.start(shutdown_grace="30s", drain_delay="1500ms")
        relayed = self.login(d, tls="implicit")
        start = time.monotonic()
        d.terminate()
        d.wait_log("listeners stay open for 1500 ms")
        # Clients are served as before, and a reload is no way back.
        d.hang_up()
        self.login(d, tls="implicit").cmd("QUIT")
        d.wait_log("drain_delay is over: draining for at most 30000 ms")
        self.assertGreaterEqual(time.monotonic() - start, 1.4)
        wait_until(lambda: not is_listening(d.port), "nobody new is let in")
        self.assertNotIn('"reloaded"', d.output())
        self.assertReply(relayed.cmd("NOOP"), "+OK")
        relayed.cmd("QUIT")
        self.assertEqual(d.process.wait(), 0)

    def test_delay_is_skipped(self):
        """A second SIGTERM ends the delay, a third one the drain."""
        d = self.start(shutdown_grace="60s", drain_delay="60s")
        c = self.login(d, tls="implicit")
        d.terminate()
        d.wait_log("listeners stay open for 60000 ms")
        self.assertTrue(is_listening(d.port))
        d.terminate()
        d.wait_log("signal 15: draining for at most 60000 ms")
        wait_until(lambda: not is_listening(d.port), "it drains")
        self.assertReply(c.cmd("NOOP"), "+OK")
        d.terminate()
        self.assertEqual(d.process.wait(), 0)

    def test_login_in_progress(self):
        """a login that has begun is finished"""
        d = self.start(shutdown_grace="30s")
        go = threading.Event()

        def check(c, mech, frame):
            c.wait(go)
            return "+OK"
        self.b.script = Pop3(check=check)
        c = self.client(d, tls="implicit")
        c.cmd("USER a")
        c.send("PASS b")
        wait_until(lambda: self.b.commands()[-1:] and
                   self.b.commands()[-1].startswith("AUTH"), "the login")
        d.terminate()
        wait_until(lambda: not is_listening(d.port), "it drains")
        go.set()
        self.assertReply(c.line(), "+OK")
        c.play("C: QUIT\nS: +OK\nCLOSED")
        c.close()
        self.assertEqual(d.process.wait(), 0)


class Log(Case):
    LISTENERS = {"front": {"tls": "starttls", "max_auth_attempts": 100}}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.b = cls.shared_backend(Pop3(check=refusing))
        cls.d = cls.shared_mailferry(cls.LISTENERS,
                                     {"site": cls.b.destination()})

    def session(self, **keys):
        return self.client(self.d, tls="starttls", source="127.0.0.3", **keys)

    def ended(self, c, mark, reason=None):
        """The end-of-session line of this client."""
        return self.d.wait_record(
            lambda r: "bytes_to_client" in r and r["client"] == c.local[0]
            and (reason is None or re.search(reason, r["reason"])),
            "the end of the session", mark)

    def test_every_line_is_json(self):
        """log_format: text|json (CONFIG)"""
        c = self.session()
        for user in ("al\x1b[2Jice", "a\"b", "back\\slash", "\xff\xfe",
                     "{\"a\":1}", "x" * 400, "a\x7fb", "\u202e".encode()
                     .decode("latin-1")):
            c.cmd(f"USER {user}")
            c.cmd("PASS wrong")
        c.play("C: QUIT\nS: +OK\nCLOSED")
        wait_until(lambda: "xxxx" in self.d.output(), "the last of them")
        self.d.hang_up()
        self.d.wait_log("reloaded")
        text = self.d.output()
        started = False
        for line in text.splitlines():
            started = started or line.startswith("{")
            if started:
                record = json.loads(line)
                for key in ("time", "level", "message"):
                    self.assertIn(key, record)
                self.assertLess(len(line), 4096)
        self.assertTrue(started)
        self.assertNotIn("\x1b", text)
        self.assertNotIn("\u202e", text)

    def test_lines_are_not_forged(self):
        """Whatever comes from the network is shown in logs with control bytes
        escaped and its length capped."""
        mark = self.d.mark()
        c = self.session()
        c.cmd("AUTH PLAIN " + plain("a\n{\"message\":\"forged\"}\nb", "w"))
        c.cmd("AUTH PLAIN " + plain("x" * 5000, "w"))
        c.cmd("AUTH PLAIN " + plain("last@example.com", "w"))
        self.d.wait_record(lambda r: r.get("user") == "last@example.com",
                           "the last", mark)
        for record in self.d.records(mark):
            self.assertNotEqual(record["message"], "forged")
            for value in record.values():
                self.assertLess(len(str(value)), 1200)

    def test_end_of_session(self):
        """One log line at the end of each session says: session id, listener,
        client address, user, destination and its address, TLS of both legs,
        mechanism, bytes each way, duration, why it ended."""
        mark = self.d.mark()
        c = self.session()
        c.cmd("USER alice@example.com")
        self.assertReply(c.cmd("PASS right"), "+OK")
        c.play("C: NOOP\nS: +OK noop\nC: QUIT\nS: +OK\nCLOSED")
        record = self.ended(c, mark)
        self.assertRegex(record["session"], r"\A[A-Za-z0-9._-]+\Z")
        self.assertEqual(record["listener"], "front")
        self.assertEqual(record["client"], "127.0.0.3")
        self.assertEqual(record["user"], "alice@example.com")
        self.assertEqual(record["destination"], "site")
        self.assertEqual(record["backend"], f"127.0.0.1:{self.b.port}")
        self.assertIn("TLSv1.3", record["client_tls"])
        self.assertIn("TLSv1.3", record["backend_tls"])
        self.assertEqual(record["bytes_to_backend"], len("NOOP\r\nQUIT\r\n"))
        self.assertEqual(record["bytes_to_client"],
                         len("+OK noop\r\n+OK bye\r\n"))
        self.assertEqual([record[verb] for verb in
                          ("retr", "top", "dele", "quit")], [0, 0, 0, 1])
        self.assertLess(record["duration_ms"], 60000)
        self.assertTrue(record["reason"])
        self.assertTrue(record["mechanism"])
        ends = [r for r in self.d.records(mark)
                if "bytes_to_client" in r
                and r["session"] == record["session"]]
        self.assertEqual(len(ends), 1)

    def test_failed_login(self):
        """A failed login has one line with client address, user and reason,
        fit for fail2ban."""
        for send in (lambda c: (c.cmd("USER bob@example.com"),
                                c.cmd("PASS no")),
                     lambda c: c.cmd("AUTH PLAIN "
                                     + plain("bob@example.com", "no")),
                     lambda c: c.cmd("AUTH XOAUTH2 "
                                     + xoauth2("bob@example.com", "no"))):
            mark = self.d.mark()
            c = self.session()
            send(c)
            record = self.d.wait_record(
                lambda r: r["message"] == "login failed", "login failed",
                mark)
            self.assertEqual(record["client"], "127.0.0.3")
            self.assertEqual(record["user"], "bob@example.com")
            self.assertTrue(record["reason"])
            c.cmd("QUIT")
            self.ended(c, mark)
            self.assertEqual(len([r for r in self.d.records(mark)
                                  if r["message"] == "login failed"]), 1)

    def test_trouble_of_a_backend_is_no_failed_login(self):
        """fit for fail2ban"""
        dead = self.backend(tls="implicit")
        dead.close()
        d = self.mailferry(self.LISTENERS, {"x": dead.destination()})
        c = self.client(d, tls="starttls")
        c.cmd("USER bob@example.com")
        self.assertTempFail(c.cmd("PASS x"))
        d.wait_record(lambda r: r.get("user") == "bob@example.com", "the user")
        self.assertFalse([r for r in d.records()
                          if r["message"] == "login failed"])

    def test_text_format(self):
        """log_format: text (CONFIG)"""
        d = self.mailferry(self.LISTENERS, {"site": self.b.destination()},
                           over={"server": {"log_format": "text",
                                            "log_level": "info"}})
        c = self.client(d, tls="starttls", source="127.0.0.3")
        c.cmd("USER \"bob client=9.9.9.9")
        c.cmd("PASS wrong")
        c.cmd("USER bob=client=9.9.9.9")
        c.cmd("PASS wrong")
        c.cmd("QUIT")
        d.wait_log("session closed")
        lines = [line for line in d.output().splitlines()
                 if "login failed" in line]
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
                                   r"\w+ login failed .*client=127\.0\.0\.3 ")
            # No field can be forged: what a user chose stands in quotes.
            self.assertRegex(line, r'user="[^"]*"')


class StuckLog(Case):
    """Logging never blocks (PROTOCOL)"""

    def setUp(self):
        super().setUp()
        self.b = self.backend(Pop3(messages=[b"x\r\n"]))
        self.fifo = os.path.join(temp_dir(), "fifo")
        os.mkfifo(self.fifo)

    def daemon(self, **server):
        return self.mailferry(
            {"pop3": {"tls": "starttls"}}, {"x": self.b.destination()},
            over={"server": {"log_level": "debug", **server}}, start=False)

    def fill(self, d):
        """Far more than a pipe holds, and it serves all the while."""
        relayed = self.login(d)
        for _ in range(150):  # at least two lines of 300 octets each
            self.login(d).cmd("QUIT")
        self.assertReply(relayed.cmd("STAT"), "+OK")
        relayed.cmd("QUIT")

    def reader(self):
        """Opens the FIFO, so that others can, and does not read."""
        fd = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, fd)
        return fd

    @staticmethod
    def until(fd, words):
        text = b""

        def read():
            nonlocal text
            try:
                text += os.read(fd, 65536)
            except BlockingIOError:
                pass
            return words.encode() in text
        wait_until(read, words)
        return text.decode()

    @staticmethod
    def readable(key, d):
        """A copy of the key that the daemon can read after its start too."""
        copy = os.path.join(d.dir, "key.pem")
        shutil.copy(key, copy)
        os.chown(copy, 0, 65534)
        os.chmod(copy, 0o640)
        return copy

    def ends(self, d):
        d.terminate()
        self.assertEqual(d.process.wait(), 0)
        d.process = None

    def test_stderr(self):
        """Standard error is a pipe that nobody reads."""
        self.reader()
        d = self.daemon()
        d.via = ["sh", "-c", 'exec "$@" 2>' + self.fifo, "sh"]
        d.start()
        self.fill(d)
        self.ends(d)

    def test_fifo(self):
        """The log is a FIFO that nobody reads."""
        d = self.daemon(log_target=self.fifo)
        self.assertEqual(run([binary(), "-t", "-c", d.path]).returncode, 0)
        d.start()
        self.fill(d)
        self.ends(d)

    def test_reload(self):
        """A reload that opens such a FIFO holds up nothing either, and what
        is written there can be read later."""
        d = self.daemon().start()
        d.change({"server": {"log_target": self.fifo}})
        d.hang_up()
        self.fill(d)
        self.until(self.reader(), "session closed")
        self.ends(d)

    @need_root()
    def test_stdout_of_another_user(self):
        """/dev/stdout cannot be opened any more after the change of user: a
        reload goes on with it."""
        reader = self.reader()
        d = self.daemon(log_target="/dev/stdout", user="nobody")
        d.change({"tls": {"certificate": {"primary": {
            "key": self.readable(certs().key("good"), d)}}}})
        d.via = ["sh", "-c", 'exec "$@" >' + self.fifo, "sh"]
        d.launch()
        self.until(reader, '"ready"')
        d.hang_up()
        said = self.until(reader, '"reload')
        d.process.signal(signal.SIGUSR1)
        self.login(d).cmd("QUIT")
        said += self.until(reader, "session closed")
        self.assertNotIn("cannot open the log file", said)
        self.assertIn('"reloaded"', said)
        self.ends(d)


class Statistics(Case):
    def start(self, interval):
        self.d = self.mailferry(
            {"pop3": {"tls": "implicit"}},
            {"x": self.backend(Pop3(check=refusing)).destination()},
            over={"server": {"stats_interval": interval}})
        return self.d

    def lines(self, mark=0):
        return [r for r in self.d.records(mark)
                if r["message"] == "statistics"]

    def reload(self, **server):
        mark = self.d.mark()
        self.d.change({"server": server})
        self.d.hang_up()
        self.d.wait_log("reloaded", mark)
        return mark

    def test_counters(self):
        """Once each server.stats_interval, and at the end. (mailferry(8))"""
        d = self.start("0s")
        for word in ("right", "right", "wrong"):
            with self.client(d, tls="implicit") as c:
                c.cmd("USER alice@example.com")
                c.cmd(f"PASS {word}")
        held = self.client(d, tls="implicit")
        time.sleep(.2)
        self.assertEqual(self.lines(), [])
        held.cmd("NOOP")
        d.terminate()
        self.assertEqual(d.process.wait(), 0)
        line, = self.lines()
        wanted = {"connections": 4, "refused_full": 0, "refused_per_ip": 0,
                  "logins": 2, "logins_failed": 1, "logins_throttled": 0,
                  "logins_deferred": 0}
        self.assertEqual({key: line[key] for key in wanted}, wanted)

    def test_reload_changes_the_interval(self):
        d = self.start("1h")
        mark = self.reload(stats_interval="50ms")
        wait_until(lambda: len(self.lines(mark)) > 2, "lines in between")
        mark = self.reload(stats_interval="0s")
        d.wait_log("reloaded", mark)
        mark = d.mark()
        time.sleep(.3)
        self.assertEqual(self.lines(mark), [])
        # Connections are counted over reloads.
        self.client(d, tls="implicit").cmd("QUIT")
        mark = self.reload(stats_interval="50ms")
        d.wait_record(lambda r: r.get("connections") == 1, "the count", mark)

    def test_reloads_do_not_delay_it(self):
        """A reload more often than the interval ends takes no line away."""
        self.start("500ms")
        mark = self.reload()

        def reloaded():
            self.reload()
            return self.lines(mark)
        wait_until(reloaded, "a line in spite of reloads", timeout=8)


class Fail2ban(Case):
    """This matches each login that was refused, and no other line, whatever
    the client calls itself (mailferry(8))"""

    # What fail2ban puts in for <ADDR>, but for its named groups.
    ADDRESS = r"(?P<addr>(?:\d{1,3}\.){3}\d{1,3}|" \
              r"(?:[0-9a-fA-F]{1,4}::?|::){1,7}" \
              r"(?:[0-9a-fA-F]{1,4}|(?<=:):))"
    FORGED = "x login failed session=abc client=9.9.9.9 "

    @staticmethod
    def expressions():
        """The one that is installed, and the one that the manual shows."""
        with open(os.path.join(TOP, "etc/fail2ban/filter.d/mailferry.conf"),
                  encoding="utf-8") as f:
            yield re.search(r"^failregex = (.+)$", f.read(), re.M)[1]
        with open(os.path.join(TOP, "docs/mailferry.8"),
                  encoding="utf-8") as f:
            shown = re.search(r"^\.Dl failregex = (.+)$", f.read(), re.M)[1]
            yield shown.replace(r"\e", "\\")

    @staticmethod
    def as_read(line):
        """A line of a file, whose time fail2ban takes out; of the journal;
        and of syslog, which stamps it."""
        yield line.split(" ", 1)[1]
        yield f"mail mailferry[7]: {line}"
        yield "mail mailferry[7]: " + line.split(" ", 2)[2]

    def offenders(self, lines):
        """The addresses that each expression finds, which have to agree."""
        found = []
        for line in lines:
            hits = set()
            for expression in self.expressions():
                self.assertIn("<ADDR>", expression)
                form = re.compile(expression.replace("<ADDR>", self.ADDRESS))
                for text in self.as_read(line):
                    hit = form.search(text)
                    hits.add(hit and hit["addr"])
            self.assertEqual(len(hits), 1, line)
            found += [address for address in hits if address]
        return found

    def daemon(self):
        dead = self.backend(tls="implicit")
        dead.close()
        port = free_port()
        return self.mailferry(
            {"front": {"tls": "plain", "bind": [f"127.0.0.1:{port}",
                                                f"[::1]:{port}"],
                       "max_auth_attempts": 100,
                       "xclient_trusted": ["127.0.0.9/32"]}},
            {"site": self.backend(Pop3(check=refusing)).destination(),
             "dead": dead.destination()},
            {"@dead.example.com": "dead"},
            {"server": {"log_format": "text", "stats_interval": "50ms"},
             "capabilities": {"pop3": {
                 "allow_plain_auth_without_tls": True}}})

    def finish(self, d):
        """The log's lines, when all that was done is in it."""
        for c in self._clients:
            c.cmd("QUIT")
        wait_until(lambda: d.output().count("session closed") ==
                   len(self._clients), "the ends of all sessions")
        return [line for line in d.output().splitlines()
                if re.match(r"\d{4}-", line)]

    def test_refused(self):
        """each login that was refused"""
        d = self.daemon()
        four = self.client(d, source="127.0.0.3")
        six = self.client(d, address="::1")
        told = self.client(d, source="127.0.0.9")
        told.play("C: XCLIENT ADDR=2001:db8::7 PORT=77 SESSION=mx-1.a_B\n"
                  "S: +OK")
        for c in (four, six, told):
            c.cmd("USER bob@example.com")
            self.assertReply(c.cmd("PASS wrong"), "-ERR [AUTH]")
            c.cmd("AUTH PLAIN " + plain(self.FORGED, "wrong"))
            c.cmd("AUTH PLAIN " + b64("malformed"))
        found = self.offenders(self.finish(d))
        self.assertEqual(found, ["127.0.0.3"] * 3 + ["::1"] * 3 +
                         ["2001:db8::7"] * 3)

    def test_others(self):
        """and no other line, whatever the client calls itself"""
        d = self.daemon()
        c = self.client(d, source="127.0.0.3")
        for user in ("bob@dead.example.com",
                     "login=failed:session=abc,client=9.9.9.9@dead.example.com",
                     "failed\tsession=abc\tclient=9.9.9.9@dead.example.com"
                     .replace("\t", "\xa0")):
            self.assertTempFail(c.cmd("AUTH PLAIN " + plain(user, "x")))
        c.cmd(self.FORGED)
        c.cmd(f"CAPA {self.FORGED}")
        c = self.client(d, address="::1")
        c.cmd("USER client=9.9.9.9")
        self.assertReply(c.cmd("PASS right"), "+OK")
        d.hang_up()
        d.wait_log("reloaded")
        d.change({"nonsense": {"x": 1}})
        d.hang_up()
        d.wait_log("reload failed")
        d.wait_log("statistics")
        lines = self.finish(d)
        self.assertEqual(self.offenders(lines), [])
        for what in ("login deferred", "session closed", "routed", "9.9.9.9"):
            self.assertTrue([line for line in lines if what in line], what)


class Secrets(Case):
    """Credentials live only as long as the replay needs them ... and appear in
    no log, core dump, error text, metric or management answer."""

    def logins(self, c, secret, backend_answers_ok=True):
        """Each mechanism's way to bring a secret, on a client of its own."""
        yield "USER", lambda c: (c.cmd("USER u@x"), c.cmd(f"PASS {secret}"))
        yield "PLAIN", lambda c: c.cmd("AUTH PLAIN " + plain("u@x", secret))
        yield "LOGIN", lambda c: (c.cmd("AUTH LOGIN"), c.cmd(b64("u@x")),
                                  c.cmd(b64(secret)))
        yield "XOAUTH2", lambda c: c.cmd("AUTH XOAUTH2 "
                                         + xoauth2("u@x", secret))
        yield "OAUTHBEARER", lambda c: c.cmd("AUTH OAUTHBEARER "
                                             + oauthbearer("u@x", secret))

    @staticmethod
    def traces(secret):
        """The secret in clear and in base64 at each alignment."""
        found = [secret.encode()]
        for shift in range(3):
            found.append(b64("\0" * shift + secret)[4:-4].encode())
        return found

    @staticmethod
    def memory(pid):
        """All writable memory of a process."""
        with open(f"/proc/{pid}/maps", encoding="ascii") as maps, \
                open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                area, rights = line.split()[:2]
                low, high = (int(x, 16) for x in area.split("-"))
                if "w" not in rights or high - low > 1 << 30:
                    continue
                try:
                    mem.seek(low)
                    yield line, mem.read(high - low)
                except OSError:
                    continue  # [vvar] and the like

    def search(self, pid, secret):
        hits = []
        for where, data in self.memory(pid):
            for trace in self.traces(secret):
                at = data.find(trace)
                if at >= 0:
                    hits.append((where.strip(), hex(at),
                                 data[max(0, at - 24):at + 48]))
        return hits

    def assertWiped(self, pid, secret):
        """0 hits within 100 ms of the relay's start (RELIABILITY, M7)"""
        end = time.monotonic() + 1
        while True:
            hits = self.search(pid, secret)
            if not hits:
                return
            if time.monotonic() > end:
                self.fail(f"still in memory: {hits[:3]}")

    def start(self, check, **keys):
        b = self.backend(Pop3(check=check), tls="implicit")
        d = self.mailferry({"pop3": {"tls": "implicit",
                                     "max_auth_attempts": 100}},
                           {"x": b.destination(**keys)},
                           over={"server": {"threads": 1}})
        return b, d

    def test_not_in_logs(self):
        """appear in no log ... Tokens likewise."""
        for answer in ("+OK", "-ERR [AUTH] no", "-ERR [IN-USE] busy"):
            _, d = self.start(lambda *_: answer)
            for name, send in self.logins(None, "c4narydebug0123456789"):
                c = self.client(d, tls="implicit")
                send(c)
                c.cmd("QUIT")
                c.close()
            c = self.client(d, tls="implicit")
            # Misplaced and malformed ones are not shown either.
            c.cmd("PASS c4narydebug0123456789")
            c.cmd("c4narydebug0123456789")
            c.cmd("AUTH PLAIN " + b64("c4narydebug0123456789"))
            c.cmd("AUTH PLAIN =c4narydebug0123456789")
            c.close()
            d.stop()
            text = d.output()
            for trace in self.traces("c4narydebug0123456789"):
                self.assertNotIn(trace.decode(), text)

    @need_root()
    def test_wiped_after_the_login(self):
        """are wiped from every buffer afterwards (libevent's and OpenSSL's
        included)"""
        if sanitized():
            self.skipTest("a sanitizer keeps what is freed")
        for auth in ("auto", "user"):
            b, d = self.start(lambda *_: "+OK", auth=auth)
            for i, (name, send) in enumerate(self.logins(None, "")):
                secret = f"c4nary{auth}{i}x{os.urandom(8).hex()}"
                send = dict(self.logins(None, secret))[name]
                with self.subTest(auth=auth, mech=name):
                    c = self.client(d, tls="implicit")
                    send(c)
                    self.assertReply(c.cmd("NOOP"), "+OK")
                    self.assertWiped(d.pid, secret)

    @need_root()
    def test_wiped_after_a_failure(self):
        """also for failed and aborted ones (RELIABILITY, M7)"""
        if sanitized():
            self.skipTest("a sanitizer keeps what is freed")
        b, d = self.start(lambda *_: "-ERR [AUTH] no")
        for i, (name, _) in enumerate(self.logins(None, "")):
            secret = f"c4naryfail{i}x{os.urandom(8).hex()}"
            with self.subTest(mech=name):
                c = self.client(d, tls="implicit")
                dict(self.logins(None, secret))[name](c)
                self.assertReply(c.cmd("NOOP"), "+OK")
                self.assertWiped(d.pid, secret)
        # One whose backend never answers, and whose client goes away.
        b.script = silent
        for i, (name, _) in enumerate(self.logins(None, "")):
            if name == "LOGIN":
                continue
            secret = f"c4naryabort{i}x{os.urandom(8).hex()}"
            with self.subTest(aborted=name):
                b.forget()
                c = self.client(d, tls="implicit")
                if name == "USER":
                    c.cmd("USER u@x")
                    c.send(f"PASS {secret}")
                elif name == "PLAIN":
                    c.send("AUTH PLAIN " + plain("u@x", secret))
                elif name == "XOAUTH2":
                    c.send("AUTH XOAUTH2 " + xoauth2("u@x", secret))
                else:
                    c.send("AUTH OAUTHBEARER " + oauthbearer("u@x", secret))
                b.connection(0)
                c.reset()
                b.connection(0).wait_finished()
                self.assertWiped(d.pid, secret)
        # One that a refusal of ours ended.
        secret = f"c4naryours{os.urandom(8).hex()}"
        c = self.client(d, tls="implicit")
        c.cmd("AUTH PLAIN " + plain("bad name", secret))
        c.cmd("AUTH PLAIN " + b64("\0a\0b\0" + secret))
        c.cmd(f"PASS {secret}")
        c.cmd(f"{secret} {secret}")
        self.assertReply(c.cmd("NOOP"), "+OK")
        self.assertWiped(d.pid, secret)

    @need_root()
    def test_no_core(self):
        """appear in no log, core dump, ..."""
        _, d = self.start(lambda *_: "+OK")
        with open(f"/proc/{d.pid}/limits", encoding="ascii") as f:
            core = [line for line in f if line.startswith("Max core")][0]
        dumpable = os.stat(f"/proc/{d.pid}/maps").st_uid
        # Either says that no core is written; prctl() gives /proc to root,
        # which says nothing when the daemon runs as root itself.
        self.assertTrue(core.split()[4] == "0" or dumpable != os.getuid(),
                        core)


@need_root()
class Privileges(Case):
    def test_user(self):
        """dropped to after binding, when started as root (group: likewise)
        (CONFIG)"""
        b = self.backend(tls="implicit")
        d = self.mailferry({"pop3": {"tls": "implicit"}},
                           {"x": b.destination()},
                           over={"server": {"user": "nobody"}}, start=False)
        # Its key is read before, and only root may read it.
        key = os.path.join(d.dir, "key.pem")
        shutil.copy(certs().key("good"), key)
        os.chmod(key, 0o600)
        d.change({"tls": {"certificate": {"primary": {"key": key}}}})
        d.start()
        # The ports are bound before, but served only afterwards.
        self.login(d, tls="implicit")
        status = self.status(d.pid)
        uid, gid = 65534, 65534
        self.assertRegex(status, rf"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        self.assertRegex(status, rf"Gid:\t{gid}\t{gid}\t{gid}\t{gid}\n")
        groups = re.search(r"Groups:\t(.*)\n", status)[1].split()
        self.assertIn(groups, ([], [str(gid)]))
        self.keeps_nothing(d)
        # A reload reads the files as the user that it is now.
        mark = d.mark()
        d.hang_up()
        d.wait_log("Permission denied", mark)
        d.wait_log("reload failed", mark)
        shutil.copy(certs().key("good2"), key)
        shutil.copy(certs().cert("good2"), os.path.join(d.dir, "cert.pem"))
        os.chown(key, 0, gid)
        os.chmod(key, 0o640)
        d.change({"tls": {"certificate": {"primary": {"cert": "cert.pem"}}}})
        mark = d.mark()
        d.hang_up()
        d.wait_log("reloaded", mark)
        self.login(d, tls="implicit")

    def test_user_of_the_next_start(self):
        """A reload says what it cannot change, and what the next start could
        not."""
        b = self.backend(tls="implicit")
        d = self.mailferry(
            {"pop3": {"tls": "implicit"}}, {"x": b.destination()},
            over={"tls": {"certificate": None}, "server": {"user": "nobody"}})

        def reload(what, **server):
            mark = d.mark()
            d.change({"server": server})
            d.hang_up()
            d.wait_log(f'"{what}', mark)
            return [r["message"] for r in d.records(mark)
                    if "server." in r["message"]]
        later = " takes effect at the next start"
        self.assertEqual(reload("reloaded"), [])
        for _ in range(2):
            self.assertEqual(reload("reloaded", user="daemon"),
                             ["server.user" + later])
        self.assertEqual(reload("reloaded", user="nobody", group="daemon"),
                         ["server.group" + later])
        said = reload("reload failed", user="no-such-user", group=None)
        self.assertRegex(said[0], r":\d+:\d+: server\.user: no such user")
        said = reload("reload failed", user="nobody", group="no-such-group")
        self.assertRegex(said[0], r":\d+:\d+: server\.group: no such group")
        self.assertEqual(reload("reloaded", user="nobody", group=None), [])

    def dropping(self, *via, start=True, **server):
        """A daemon that becomes nobody, executed by way of a command."""
        d = self.mailferry(
            {"pop3": {"tls": "implicit"}},
            {"x": self.backend(tls="implicit").destination()},
            over={"server": {"user": "nobody", **server},
                  "tls": {"certificate": None}}, start=False)
        d.via = via
        if start:
            d.start()
            # Bound before, served only afterwards.
            self.login(d, tls="implicit", ctx=context())
        return d

    @staticmethod
    def status(pid):
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return f.read()

    @classmethod
    def capabilities(cls, pid):
        return {name: int(value, 16) for name, value in
                re.findall(r"Cap(\w+):\t(\w+)\n", cls.status(pid))}

    NONE = {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": 0, "Amb": 0}

    def keeps_nothing(self, d, caps=None):
        """keeps no capability, sets no-new-privs, turns core dumps off"""
        for thread in os.listdir(f"/proc/{d.pid}/task"):
            self.assertEqual(self.capabilities(thread), caps or self.NONE)
            self.assertRegex(self.status(thread), r"NoNewPrivs:\t1\n")
        # /proc belongs to root where PR_SET_DUMPABLE is off.
        self.assertEqual(os.stat(f"/proc/{d.pid}/maps").st_uid, 0)
        with open(f"/proc/{d.pid}/limits", encoding="ascii") as f:
            self.assertRegex(f.read(), r"Max core file size +0 ")

    @need("setpriv")
    def test_inherited_capabilities(self):
        """keeps no capability: not what it was given to pass on, nor where
        the kernel is told to take none away"""
        for how in ("--inh-caps=+net_bind_service",
                    "--ambient-caps=+net_bind_service",
                    "--securebits=+no_setuid_fixup"):
            inherits = ["--inh-caps=+net_bind_service"] \
                if "ambient" in how else []
            with self.subTest(how=how):
                d = self.dropping("setpriv", *inherits, how, "--")
                self.keeps_nothing(d)
                d.stop()

    @need("setpriv")
    def test_started_as_a_user(self):
        """a port that is new has to be one that server.user may bind: who
        has been given the capability keeps it, as under systemd"""
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start",
                  encoding="ascii") as f:
            if int(f.read()) < 1024:
                self.skipTest("all ports are anybody's")
        d = self.dropping(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "--inh-caps=-all,+net_bind_service",
            "--ambient-caps=-all,+net_bind_service",
            "--bounding-set=-all,+net_bind_service", "--", user="daemon")
        bind = 1 << CAP_NET_BIND_SERVICE
        self.keeps_nothing(d, dict.fromkeys(self.NONE, bind))
        for port in range(1023, 600, -1):
            if not is_listening(port):
                break
        d.change({"listener": {"low": {"bind": [f"127.0.0.1:{port}"],
                                       "tls": "plain"}}})
        mark = d.mark()
        d.hang_up()
        d.wait_log("reloaded", mark)
        self.assertReply(self.client(port).greeting, "+OK")
        # Who it was started as is not its matter.
        self.assertNotIn("server.user", d.output())

    def test_refused(self):
        """What cannot be given up stops the start."""
        for user in ("nobody", ""):
            for option, words in ((PR_SET_NO_NEW_PRIVS, "new privileges"),
                                  (PR_SET_DUMPABLE, "core dumps")):
                with self.subTest(user=user, words=words):
                    d = self.dropping(sys.executable, REFUSE, str(option),
                                      "--", start=False, user=user)
                    # Looking for leaks wants to trace.
                    d.launch({"ASAN_OPTIONS": "detect_leaks=0"})
                    self.assertEqual(d.process.wait(), EX_NOPERM, d.output())
                    self.assertRegex(
                        d.output(), rf"(?m)^mailferry: cannot rule out {words}"
                        r": Operation not permitted$")
                    d.kill()
                    d.process = None

    def test_bounds_that_stay(self):
        """Root in a container may not be let limit what programs can get;
        nobody executes one."""
        d = self.dropping(sys.executable, REFUSE, str(PR_CAPBSET_DROP), "--")
        self.keeps_nothing(d, {**self.NONE,
                               "Bnd": self.capabilities("self")["Bnd"]})

    def test_log_file(self):
        """The user who has to open the log again owns what was made for
        him, and nothing that was there before."""
        b = self.backend(tls="implicit")
        for there in (False, True):
            directory = temp_dir()
            os.chmod(directory, 0o755)
            path = os.path.join(directory, "mail.log")
            if there:
                with open(path, "w", encoding="utf-8"):
                    pass
            d = self.mailferry(
                {"pop3": {"tls": "implicit"}}, {"x": b.destination()},
                over={"server": {"user": "nobody", "log_target": path,
                                 "log_format": "text"}})
            self.login(d, tls="implicit")
            self.assertEqual(os.stat(path).st_uid, 0 if there else 65534)

    @need("prlimit")
    def test_no_threads(self):
        """A thread that cannot be started ends the start, and the log says
        so."""
        if sanitized():
            self.skipTest("a sanitizer has threads of its own")
        path = os.path.join(temp_dir(), "mail.log")
        d = self.mailferry(
            destinations={"x": self.backend().destination()}, start=False,
            over={"server": {"user": "nobody", "log_target": path}})
        d.via = ["prlimit", "--nproc=1"]
        d.launch()
        self.assertEqual(d.process.wait(), EX_OSERR)
        d.process = None
        with open(path, encoding="utf-8") as f:
            self.assertIn("cannot start the thread of the log: ", f.read())


if __name__ == "__main__":
    unittest.main()
