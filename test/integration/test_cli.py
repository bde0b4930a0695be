"""The command line: what -t says, and the configuration in force."""

import os
import re
import subprocess
import unittest

from harness.case import Case, certs, need
from harness.mailferry import binary
from harness.proc import run, temp_dir

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BACKEND = {"pop3": {"port": 110, "tls": "starttls"}}


class Command(Case):
    def site(self, over=None, **keys):
        """A configuration, nothing running."""
        return self.mailferry(
            {"pop3s": {"tls": "implicit"}, "pop3": {
                "tls": "starttls", "proxy_protocol": "required",
                "proxy_trusted": ["127.0.0.1"],
                "xclient_trusted": ["10.0.0.0/8", "fd00::/8"]}},
            {"legacy": {"host": "old.example.com", "forwarding": "xclient",
                        "protocol": BACKEND},
             "new": {"host": "2001:db8::1", "forwarding": "proxy",
                     "tls_pinned_cert_sha256": "ab" * 32,
                     "protocol": {"pop3": {"tls": "implicit",
                                           "auth": "user"}}}},
            {"alice": "new", "bob": "legacy"}, over, start=False, **keys)

    def call(self, *words, status=0, env=None):
        done = run([binary(), *words], env=dict(os.environ, **(env or {})))
        out, err = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(done.returncode, status, out + err)
        return out, err


class Summary(Command):
    def test_what_would_run(self):
        """`mailferry -t` prints a summary of what would run (listeners,
        certificates with names and expiry, destinations, stores),
        human-readable, ending in the line `configuration ok`"""
        d = self.site()
        out, err = self.call("-t", "-c", d.path)
        self.assertEqual(err, "")
        self.assertEqual(out.splitlines()[-1], "configuration ok")
        for line in (
                f"  pop3s: 127.0.0.1:{d.port_of('pop3s')}, implicit TLS, "
                "8192 connections",
                f"  pop3: 127.0.0.1:{d.port_of('pop3')}, STARTTLS, PROXY "
                "protocol required, XCLIENT from 2 networks, 8192 "
                "connections",
                "  legacy: old.example.com:110, STARTTLS (verified as "
                "old.example.com by the system's CAs), forwarding: XCLIENT, "
                "default",
                "  new: [2001:db8::1]:995, implicit TLS (pinned "
                "certificate), forwarding: PROXY protocol, by USER and PASS",
                f"  file: {d.mapping_path}, 2 entries",
                f"  mail.example.com, {d.tree['server']['threads']} workers, "
                "log: stderr"):
            self.assertIn(line, out.splitlines())
        self.assertRegex(out, r"\n  primary: localhost mail\.example\.com, "
                              r"until \d{4}-\d\d-\d\d \(\d+ days?\), issued "
                              r"by /CN=.*, default\n")

    def test_certificates(self):
        """certificates with names and expiry"""
        d = self.site({"tls": {"certificate": {
            "old": {"cert": certs().cert("expired"),
                    "key": certs().key("expired")}}}})
        out, err = self.call("--check", "-c", d.path)
        self.assertIn("  old: localhost mail.example.com, expired on "
                      "2020-02-01, issued by", out)
        self.assertIn("expired", err)
        d.change({"tls": {"certificate": None}})
        out, _ = self.call("-t", "-c", d.path)
        self.assertIn("(self-signed, made at every start): "
                      "mail.example.com", out)

    def test_no_password(self):
        """secrets masked"""
        d = self.site({"mapping": {
            "source": "redis", "file": None, "redis": {
                "url": "redis://me:sesame@localhost:1/0"}}})
        out, err = self.call("-t", "-c", d.path)
        self.assertIn("  Redis: redis://me:********@localhost:1/0", out)
        self.assertNotIn("sesame", out + err)

    def test_parameters_and_environment(self):
        """No parameter that is named like a secret, and nothing that came
        from the environment, by either command."""
        urls = {
            "http://h/r?user=%u&key=sesame":
                "http://h/r?user=%u&key=********",
            "http://h/r?user=%u&x=${SECRET}":
                "http://h/r?user=%u&x=********",
            "http://h/${SECRET}/%u": "http://h/********/%u"}
        for url, shown in urls.items():
            d = self.site({"mapping": {"source": "http", "file": None,
                                       "http": {"url": url}}})
            for word in ("-t", "--dump-config"):
                out, err = self.call(word, "-c", d.path,
                                     env={"SECRET": "sesame"})
                self.assertIn(shown, out)
                self.assertNotIn("sesame", out + err)

    def test_limits(self):
        """Those that are not the defaults."""
        d = self.mailferry(
            {"pop3": {"tls": "starttls", "preauth_timeout": "7s",
                      "max_auth_attempts": 1, "max_bad_commands": 10,
                      "min_version": "1.3"}},
            {"legacy": {"host": "old.example.com", "protocol": BACKEND}},
            {"bob": "legacy"}, start=False)
        out, _ = self.call("-t", "-c", d.path)
        self.assertIn(
            f"  pop3: 127.0.0.1:{d.port_of('pop3')}, STARTTLS, TLS 1.3 or "
            "newer, 8192 connections, preauth_timeout 7s, "
            "max_auth_attempts 1", out.splitlines())

    def test_explain(self):
        """type, range, default and help of a key; unknown: 64"""
        out, _ = self.call("--explain", "listener.pop3s.max_auth_attempts")
        self.assertEqual(out.splitlines()[:4], [
            "listener.*.max_auth_attempts", "  type:     integer",
            "  expected: an integer from 1 to 100", "  default:  3"])
        out, err = self.call("--explain", "listener.a.max_auth_atempts",
                             status=64)
        self.assertEqual((out, err), (
            "", "mailferry: unknown key; did you mean "
            "\"listener.a.max_auth_attempts\"?\n"))

    def test_unreadable_file(self):
        d = self.site()
        for word in ("-t", "--dump-config"):
            out, err = self.call(word, "-c", d.path + ".none", status=78)
            self.assertEqual(out, "")
            self.assertIn("No such file or directory", err)

    def test_full_disk(self):
        d = self.site()
        for word in ("-t", "--dump-config"):
            with open("/dev/full", "wb") as full:
                child = subprocess.run(
                    [binary(), word, "-c", d.path], stdout=full,
                    stderr=subprocess.PIPE, check=False, timeout=30)
            self.assertEqual(child.returncode, 74)
            self.assertIn(b"No space left on device", child.stderr)

    def test_bad_configuration(self):
        d = self.site({"server": {"threads": "many"}})
        for word in ("-t", "--dump-config"):
            out, err = self.call(word, "-c", d.path, status=78)
            self.assertEqual(out, "")
            self.assertIn("server.threads", err)


@need("bash")
class Completion(Command):
    """bash completion, from what the program itself says"""

    # What the package bash-completion does for a completion, and bash.
    BASH = r'''
        _init_completion() {
            words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
            cur=${words[cword]} prev=${words[cword - 1]}
        }
        _filedir() { COMPREPLY=("a file: $1"); }
        source "$1" || exit
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        read -ra how < <(complete -p mailferry)
        [[ ${how[*]} == *"-F "* ]] || exit
        "${how[-2]}" "$1" "${@: -1}" "${@: -2:1}" || exit
        printf '%s\n' "${COMPREPLY[@]}"
    '''

    def complete(self, *words):
        """What a tabulator behind these words offers."""
        script = os.path.join(TOP, "etc/bash-completion/mailferry")
        done = run(["bash", "--norc", "-uc", self.BASH, "bash", script,
                    binary(), *words])
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return done.stdout.decode().split("\n")[:-1]

    def test_options(self):
        self.assertEqual(self.complete("--d"), ["--delete", "--dump-config"])
        self.assertEqual(
            self.complete("-"),
            ["--check", "--config", "--delete", "--dump-config",
             "--explain", "--help", "--set", "--version", "-V", "-c", "-h", "-t"])
        self.assertEqual(self.complete("route", "--s"), ["--set"])

    def test_keys(self):
        self.assertEqual(self.complete("--explain", "oauth"),
                         ["oauth", "oauth.jwt_username_claim"])

    def test_every_option_is_taken(self):
        """No word is offered that the program does not know."""
        for word in self.complete("-"):
            command = ["route"] if word in ("--set", "--delete") else []
            done = run([binary(), *command, word, "/nonexistent"])
            self.assertNotIn(b"unrecognized option", done.stderr)
            self.assertNotIn(b"invalid option", done.stderr)

    def test_commands(self):
        self.assertEqual(self.complete(""), ["route"])
        self.assertEqual(self.complete("ro"), ["route"])
        self.assertEqual(self.complete("x"), [""])
        # Only in front.
        self.assertEqual(self.complete("-t", "ro"), [""])

    def test_configuration(self):
        for option in ("-c", "--config"):
            self.assertEqual(self.complete(option, "/etc/"),
                             ["a file: y?(a)ml"])
            self.assertEqual(self.complete("route", option, ""),
                             ["a file: y?(a)ml"])


class Dump(Command):
    def dump(self, path, **keys):
        return self.call("--dump-config", "-c", path, **keys)[0]

    def write(self, text):
        path = os.path.join(temp_dir(), "dumped.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_reads_back_the_same(self):
        """`--dump-config` prints the effective configuration with
        defaults"""
        odd = {"capabilities": {"pop3": {
            "banner": "a \\ \"quoted\" 'text': #no $${HOME} \xe4",
            "advertise": ["TOP", "LOGIN-DELAY 900", "EXPIRE 0"],
            "sasl": ["LOGIN", "PLAIN"]}},
            "routing": {"master_user_separators": ["%", "**", "\\"]},
            "limits": {"exempt": ["192.0.2.0/24", "2001:db8::/32"]},
            "server": {"backend_timeout": "1500ms", "socket_buffer": "64k",
                       "threads": 3, "host_down_threshold": 0}}
        d = self.site(odd)
        first = self.dump(d.path)
        path = self.write(first)
        self.assertEqual(self.dump(path), first)
        self.call("-t", "-c", path)
        for line in ("  backend_timeout: 1500ms", "  socket_buffer: 64k",
                     "  shutdown_grace: 2s", "  bridge_idle: 30m",
                     "  auth_failure_window: 10m",
                     "    sasl: [\"LOGIN\", \"PLAIN\"]",
                     "  exempt: [\"192.0.2.0/24\", \"2001:db8::/32\"]"):
            self.assertIn(line, first.splitlines())

    def test_sample(self):
        """Every key is there, with what the sample says of it."""
        sample = os.path.join(TOP, "etc/mailferry.yaml")
        with open(sample, encoding="utf-8") as f:
            text = f.read()
        out = self.dump(sample)
        keys = set(re.findall(r"^ *#? ?([a-z_0-9]+):", text, re.M))
        dumped = set(re.findall(r"^ *([a-z_0-9]+):", out, re.M))
        # Sections that the sample only shows are not in force.
        missing = {k for k in keys - dumped
                   if re.search(rf"^ *{k}:", text, re.M)}
        self.assertEqual(missing, set())
        path = self.write(out)
        self.assertEqual(self.dump(path), out)

    def test_secrets_are_masked(self):
        """secrets masked, from the environment too"""
        urls = {
            "redis://:${SECRET}@h:1/0": "redis://:********@h:1/0",
            "redis://${SECRET}@h:1/0": "redis://********@h:1/0",
            "redis://me:a@b${SECRET}@h": "redis://me:********@h",
            "unix:///run/redis.sock?db=1": "unix:///run/redis.sock?db=1"}
        for url, shown in urls.items():
            d = self.site({"mapping": {"source": "redis", "file": None,
                                       "redis": {"url": url}}})
            out, err = self.call("--dump-config", "-c", d.path,
                                 env={"SECRET": "sesame"})
            self.assertIn(f'    url: "{shown}"', out.splitlines())
            self.assertNotIn("sesame", out + err)
            self.call("-t", "-c", self.write(out))
        d = self.site({"mapping": {"source": "sql", "file": None, "sql": {
            "url": "postgres://h/d?user=a&password=sesame",
            "query": "SELECT\n$1"}},
            "admin": {"bind": "127.0.0.1:9", "bearer_token": "sesame" * 8}})
        out = self.dump(d.path)
        self.assertNotIn("sesame", out)
        self.assertIn('    query: "SELECT\\x0a$1"', out.splitlines())
        self.assertIn('  bearer_token: "********"', out.splitlines())


if __name__ == "__main__":
    unittest.main()
