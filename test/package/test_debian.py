"""The Debian package: built twice, looked at by lintian, and lived with in a
fresh Debian from the first installation to the purge."""

import filecmp
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))

# pylint: disable=wrong-import-position
from harness.case import need, need_root
from harness.certs import certs
from harness.client import Client, context
from harness.dovecot import Dovecot
from harness.netns import Namespace
from harness.ports import is_listening
from harness.proc import Process, wait_until
from root import Root, call
from service import NAME, UNIT, Service, seconds

SOURCE = os.environ.get("MAILFERRY_SOURCE",
                        os.path.dirname(os.path.dirname(HERE)))
WORK = os.environ.get("MAILFERRY_PACKAGE_DIR", "/var/tmp/mailferry-package")
CONFIG = "/etc/mailferry/mailferry.yaml"
LOG = "/var/log/mailferry/mailferry.log"
CAP_NET_BIND_SERVICE = 1 << 10


def sources():
    """The files that belong to the source."""
    listed = subprocess.run(["git", "-C", SOURCE, "ls-files", "-co",
                             "--exclude-standard", "-z"],
                            capture_output=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return [n for n in names if n and
                os.path.exists(os.path.join(SOURCE, n))]
    found = []
    for directory, names, files in os.walk(SOURCE):
        place = os.path.relpath(directory, SOURCE)
        names[:] = [n for n in names if not n.startswith((".git", "build"))
                    and n != "__pycache__"]
        found += [os.path.normpath(os.path.join(place, n)) for n in files]
    return found


class Build:
    """One build of the package, in its own directory."""

    def __init__(self, name, place="mailferry", **env):
        self.dir = os.path.join(WORK, name)
        self.source = os.path.join(self.dir, place)
        self.env = env
        shutil.rmtree(self.dir, ignore_errors=True)
        for path in sources():
            target = os.path.join(self.source, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(os.path.join(SOURCE, path), target)

    def edit(self, path, edit):
        path = os.path.join(self.source, path)
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(edit(text))

    def make(self, umask=0o022):
        call(["dpkg-buildpackage", "-us", "-uc", "-b"], timeout=900,
             cwd=self.source, umask=umask,
             env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.dir,
                  "LC_ALL": "C.UTF-8", **self.env,
                  "DEB_BUILD_OPTIONS": "nocheck parallel=2"})
        return self

    def results(self, suffix=".deb"):
        return sorted(n for n in os.listdir(self.dir) if n.endswith(suffix))

    def deb(self):
        name, = [n for n in self.results() if "dbgsym" not in n]
        return os.path.join(self.dir, name)

    def field(self, name):
        return call(["dpkg-deb", "-f", self.deb(), name]).strip()

    def depends(self):
        """Of each dependency the first alternative."""
        return [re.match(r"[^\s(|]+", d.strip())[0]
                for d in self.field("Depends").split(",")]


class Mailservers:
    """Two Dovecots as the guide has them, by a cable that leads nowhere
    else."""

    OLD, NEW, FERRY = "198.51.100.10", "198.51.100.11", "192.0.2.10"
    HOSTS = (f"127.0.0.1 localhost\n{OLD} mail-old.example.com\n"
             f"{NEW} mail-new.example.com\n")
    USERS = [f"{who}@example.com" for who in ("alice", "bob", "carol", "dave")
             ] + ["erin@example.org"]

    def __init__(self):
        self.far = Namespace()
        call(["ip", "link", "add", "cable", "type", "veth", "peer", "name",
              "cable", "netns", self.far.path], pass_fds=[self.far.fd])
        call(["ip", "addr", "add", self.FERRY + "/24", "dev", "cable"])
        call(["ip", "link", "set", "cable", "up"])
        call(["ip", "route", "add", "198.51.100.0/24", "dev", "cable"])
        for address in (self.OLD, self.NEW):
            self.far.ip(f"addr add {address}/24 dev cable")
        self.far.ip("link set cable up")
        self.far.ip("route add 192.0.2.0/24 dev cable")
        self.servers = {}
        with self.far:
            for name, address in (("old", self.OLD), ("new", self.NEW)):
                server = Dovecot(certs(), name, dict.fromkeys(
                    self.USERS, "secret"), cert="guide", address=address,
                    ports=(110, 995), trusted=self.FERRY).start()
                self.servers[name] = server
                for user in self.USERS:
                    server.deliver(user, b"Subject: hello\r\n\r\n"
                                   b"From the %s server.\r\n" % name.encode())

    def close(self):
        for server in self.servers.values():
            server.stop()
        self.far.close()


def told(text, fragment):
    """A configuration that is edited as an example tells, whose parts are
    divided by "...": a section that is commented out in text is put in its
    place; of one that is there the part's last line is set."""
    for part in fragment.split("...\n"):
        head, *_, last = part.splitlines()
        if f"\n#{head}\n" in text:
            text = text.replace(f"#{head}\n", part, 1)
            continue
        before, head, after = text.partition(f"\n{head}\n")
        key = re.escape(last[:last.index(":") + 1])
        after, n = re.subn(rf"^{key}.*$", last, after, count=1, flags=re.M)
        assert head and n, f"the sample has no place for: {part}"
        text = before + head + after
    return text


def fenced(text, kind):
    """The blocks of a document between ```kind and ```."""
    found, block = [], None
    for line in text.splitlines(keepends=True):
        if not line.startswith("```"):
            if block is not None:
                block.append(line)
        elif block is None:
            block, this = [], line[3:].strip()
        else:
            if this == kind:
                found.append("".join(block))
            block = None
    return found


def typed(text, prompt):
    """[(command, what is printed)] of a document's transcripts."""
    found = []
    for block in fenced(text, ""):
        mine = False
        for line in block.splitlines():
            host, mark, rest = line.partition("# ")
            if mark and host == prompt:
                found.append((rest, []))
                mine = True
            elif re.match(r"\w+[#$] ", line):
                mine = False
            elif mine:
                found[-1][1].append(line)
    return found


@need_root()
class Fresh(unittest.TestCase):
    def test_strict(self):
        """In CI a Debian that cannot be made is a failure, and no copy of
        this machine takes its place."""
        with tempfile.TemporaryDirectory() as directory:
            stub = os.path.join(directory, "debootstrap")
            with open(stub, "w", encoding="ascii") as f:
                f.write("#!/bin/sh\nexit 1\n")
            os.chmod(stub, 0o755)
            done = subprocess.run(
                [sys.executable, "-B", "-c", "import sys, root; "
                 "root.Root(sys.argv[1], [])", directory], check=False,
                cwd=HERE, capture_output=True, timeout=120, env={
                    **os.environ, "MAILFERRY_TEST_STRICT": "1",
                    "PATH": directory + ":" + os.environ["PATH"]})
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"debootstrap", done.stderr)


@need("dpkg-buildpackage", "lintian", "debootstrap", "curl", "dovecot", "ip",
      "setpriv", "unshare")
@need_root()
class Debian(unittest.TestCase):
    """In this order: a life."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        os.makedirs(WORK, exist_ok=True)
        cls.first = Build("one").make()
        cls.root = None

    @classmethod
    def tearDownClass(cls):
        if cls.root:
            for mounted in ("proc", "tmp"):
                subprocess.run(["umount", "-l", cls.root.inside(mounted)],
                               check=False, capture_output=True)

    def test_1_same_bytes(self):
        """Two builds, in different places, zones and languages, give the same
        bytes."""
        again = Build("another-place", "elsewhere", TZ="Asia/Tokyo",
                      LANG="de_DE.UTF-8").make(0o077)
        names = self.first.results()
        self.assertEqual(len(names), 2, "mailferry and mailferry-dbgsym")
        self.assertEqual(names, again.results())
        for name in names:
            self.assertTrue(filecmp.cmp(os.path.join(self.first.dir, name),
                                        os.path.join(again.dir, name),
                                        shallow=False), name)

    def test_2_lintian(self):
        """`lintian -EviIL +pedantic` has neither errors nor warnings."""
        changes, = self.first.results(".changes")
        done = subprocess.run(
            ["lintian", "-EviIL", "+pedantic", "--fail-on", "error,warning",
             changes], cwd=self.first.dir, check=False, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = done.stdout.decode()
        self.assertEqual(done.returncode, 0, text)
        self.assertFalse(re.findall(r"^[EW]: .*", text, re.M), text)

    def test_3_life(self):
        """Installed, configured by the README, served, reloaded, moved
        mailboxes by the guide, upgraded, drained, removed, installed again,
        purged: nothing is left. Then once more by hand."""
        new = Build("two")
        new.edit("debian/changelog", lambda text: re.sub(
            r"\(([^)]+)\)", r"(\1+1)", text, count=1))
        new.edit("CMakeLists.txt", lambda text: re.sub(
            r"(project\(mailferry VERSION [0-9.]+)", r"\g<1>.1", text))
        # A default that changed: the administrator's file has to stay.
        new.edit("etc/mailferry.yaml", lambda text: text + "# Changed.\n")
        new.make()
        type(self).root = root = Root(WORK, self.first.depends())
        self.world()
        service = self.service = Service(root, os.path.join(WORK,
                                                            "daemon.log"))
        self.addCleanup(service.close)
        before = root.files()
        self.install(self.first)
        self.unconfigured()
        self.sandbox()
        self.papers()
        self.configure()
        self.served()
        self.renewed()
        self.migrated()
        self.upgraded(new)
        self.drained()
        self.reinstalled(new)
        self.gone(before)
        self.by_hand()
        self.assertFalse(any(service.ended), service.ended)

    def world(self):
        """What is there before mailferry: mail servers with names, an
        authority that is trusted, and files that an administrator has at
        hand."""
        root = self.root
        self.mail = Mailservers()
        self.addCleanup(self.mail.close)
        root.write("/etc/hosts", self.mail.HOSTS)
        os.makedirs(root.inside("/usr/lib/ssl"), exist_ok=True)
        shutil.copy(certs().ca, root.inside("/usr/lib/ssl/cert.pem"))
        shutil.copy(certs().cert("good"), root.inside("/root/fullchain.pem"))
        shutil.copy(certs().key("good"), root.inside("/root/privkey.pem"))

    def shell(self, command):
        """A command that was typed; what it says, whether it works or
        not."""
        done = subprocess.run(
            self.root.argv(["sh", "-c", "cd /root; " + command]), check=False,
            env=self.root.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        return done.returncode, done.stdout.decode()

    def install(self, build):
        shutil.copy(build.deb(), self.root.inside("/tmp/mailferry.deb"))
        self.root.run(["dpkg", "--force-confold", "-i", "/tmp/mailferry.deb"])

    def assert_owners(self):
        root = self.root
        self.assertEqual(root.owner(CONFIG), ("root", "mailferry", 0o640))
        self.assertEqual(root.owner("/etc/mailferry/tls"),
                         ("root", "mailferry", 0o750))

    def unconfigured(self):
        """As it comes, it is not started, though its scripts ask for it, and
        readable to those who need it."""
        root, service = self.root, self.service
        self.assertEqual(service.asked, [
            "systemctl --system daemon-reload",
            f"deb-systemd-invoke start {NAME}"])
        self.assertEqual((service.skipped, service.starts, service.faults),
                         (1, 0, []))
        self.assert_owners()
        for name in ("run", "var/lib", "var/log"):
            self.assertEqual(root.owner(f"{name}/mailferry"),
                             ("mailferry", "mailferry", 0o750))
        self.assertTrue(os.path.islink(root.inside(
            "/etc/systemd/system/multi-user.target.wants/mailferry.service")))
        for page in ("man8/mailferry.8.gz", "man5/mailferry.yaml.5.gz"):
            self.assertGreater(os.path.getsize(root.inside(
                f"/usr/share/man/{page}")), 1000)
        # One that is missing or cannot be read is a failure, not a skip.
        text = root.read(CONFIG)
        root.write(CONFIG, "server: {}\n", 0o640)
        self.assertTrue(service.may_start())
        os.chmod(root.inside(CONFIG), 0o600)
        self.fails()
        os.rename(root.inside(CONFIG), root.inside(CONFIG + ".away"))
        self.fails()
        os.rename(root.inside(CONFIG + ".away"), root.inside(CONFIG))
        root.write(CONFIG, text, 0o640)
        service.starts = 0

    def fails(self):
        """A start ends with status 78, after which systemd does not try
        again."""
        self.assertTrue(self.service.may_start())
        self.assertIn("78", self.service.value("RestartPreventExitStatus"))
        with self.assertRaisesRegex(AssertionError,
                                    "it ended with status 78"):
            self.root.run(["systemctl", "start", "mailferry"])
        self.service.faults.clear()

    def sandbox(self):
        """systemd has no objection to the unit and the socket."""
        root = self.root
        shutil.copy(root.inside("/usr/share/doc/mailferry/examples/systemd/"
                                "mailferry.socket"), root.inside("/tmp"))
        root.run(["systemd-analyze", "verify", "--man=no", UNIT,
                  "/tmp/mailferry.socket"])
        root.run(["systemd-analyze", "security", "--offline=true",
                  "--threshold=15", "--no-pager", UNIT])

    def papers(self):
        """Every paper is there, and every link in them leads somewhere."""
        place = self.root.inside("/usr/share/doc/mailferry")
        papers = ["README.md"] + [os.path.join("docs", n) for n in
                                  os.listdir(os.path.join(SOURCE, "docs"))
                                  if n.endswith(".md")]
        links = []
        for paper in papers:
            with open(os.path.join(place, paper), encoding="utf-8") as f:
                links += [(paper, link) for link in
                          re.findall(r"\]\(([^)#:]+)\)", f.read())]
        self.assertGreater(len(links), 10)
        self.assertEqual([(p, l) for p, l in links if not os.path.exists(
            os.path.join(place, os.path.dirname(p), l))], [])

    def configure(self):
        """By the text of README.Debian: its commands, and the edits that it
        asks for."""
        root = self.root
        readme = root.read("/usr/share/doc/mailferry/README.Debian")
        part = readme.split("Setting it up\n")[1].split("Changes later\n")[0]
        example = "".join(line[4:] for line in
                          re.findall(r"^ {4}(?!#|$).*\n", part, re.M))
        self.assertIn("YOUR OLD MAIL SERVER", example)
        root.write(CONFIG, told(root.read(CONFIG), example.replace(
            "YOUR OLD MAIL SERVER", "mail-old.example.com")), 0o640)
        commands = re.findall(r"^ {4}# (.+)$", part, re.M)
        self.assertGreaterEqual(len(commands), 5)
        for command in commands:
            if "systemctl" in command:
                self.assertEqual(said.splitlines()[-1], "configuration ok")
                self.assertEqual(self.service.starts, 0)
            status, said = self.shell(command)
            self.assertEqual(status, 0, command + "\n" + said)
        self.assertEqual(self.service.starts, 1)

    def fetch(self, user="alice@example.com"):
        """What curl fetches by way of the proxy; None: no login."""
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "20", "--cacert", certs().ca,
             "--resolve", "mail.example.com:995:127.0.0.1", "-u",
             user + ":secret", "pop3s://mail.example.com/1"], check=False,
            capture_output=True)
        if done.returncode == 67:
            return None
        self.assertEqual(done.returncode, 0, done.stderr)
        return re.search(r"From the (\w+) server", done.stdout.decode())[1]

    def served(self):
        service = self.service
        self.assertEqual(self.fetch(), "old")
        self.assertNotEqual(service.status("Uid").split()[0], "0")
        for caps in ("CapEff", "CapBnd", "CapAmb", "CapPrm"):
            self.assertEqual(int(service.status(caps), 16),
                             CAP_NET_BIND_SERVICE)
        self.assertEqual(service.status("NoNewPrivs"), "1")

    @staticmethod
    def fingerprint():
        with socket.create_connection(("127.0.0.1", 995), 10) as s:
            ctx = ssl.create_default_context(cafile=certs().ca)
            with ctx.wrap_socket(s, server_hostname="mail.example.com") as t:
                return t.getpeercert()["serialNumber"]

    def session(self):
        """A client that is logged in."""
        client = Client(995, tls="implicit", ctx=context(certs().ca))
        self.addCleanup(client.close)
        client.cmd("USER alice@example.com")
        self.assertEqual(client.cmd("PASS secret")[:3], "+OK")
        return client

    def renewed(self):
        """The deploy-hook copies a new certificate; a reload serves it, and
        one with a mistake is refused. A port that is new may be below
        1024."""
        root, service = self.root, self.service
        session = self.session()
        hook = "/usr/share/doc/mailferry/examples/certbot/deploy-hook"
        root.run(["mkdir", "-p", "/tmp/live"])
        shutil.copy(certs().cert("good2"), root.inside(
            "/tmp/live/fullchain.pem"))
        shutil.copy(certs().key("good2"), root.inside(
            "/tmp/live/privkey.pem"))
        root.run([hook], RENEWED_DOMAINS="mail.example.com",
                 RENEWED_LINEAGE="/tmp/live")
        self.assertEqual(service.asked[-1],
                         f"systemctl try-reload-or-restart {NAME}")
        self.assertEqual(
            root.owner("/etc/mailferry/tls/mail.example.com.key"),
            ("root", "mailferry", 0o640))
        before = self.fingerprint()
        line, = re.findall(r"^#\t(primary: .*)$", root.read(hook), re.M)
        text = re.sub(r"primary: .*", line, root.read(CONFIG), count=1)
        root.write(CONFIG, text.replace(
            "bind: [", 'bind: ["127.0.0.1:110", ', 1), 0o640)
        root.run(["systemctl", "reload", "mailferry"])
        self.assertNotEqual(self.fingerprint(), before)
        self.assertTrue(is_listening(110))
        good = root.read(CONFIG)
        root.write(CONFIG, good + "nonsense: 1\n", 0o640)
        with self.assertRaisesRegex(AssertionError, "nonsense"):
            root.run(["systemctl", "reload", "mailferry"])
        service.faults.clear()
        root.write(CONFIG, good, 0o640)
        self.assertEqual(session.cmd("NOOP")[:3], "+OK")
        session.cmd("QUIT")
        self.assertEqual(self.fetch(), "old")

    def guide(self):
        """docs/migration.md as it is installed, and its configuration."""
        text = self.root.read("/usr/share/doc/mailferry/docs/migration.md")
        yaml, = fenced(text, "yaml")
        return text, yaml

    def migrated(self):
        """docs/migration.md's configuration and what it types on mailferry's
        host, with what it shows as the answer."""
        root = self.root
        root.run(["systemctl", "stop", "mailferry"])
        text, yaml = self.guide()
        root.write(CONFIG, yaml, 0o640)
        routes = 0
        for command, said in typed(text, "ferry1"):
            if command.startswith("mailferry route"):
                routes += 1
                status, out = self.shell(command)
                self.assertEqual(out.splitlines(), said, command)
                self.routed(command, status)
            elif command.startswith(("install", "mailferry -t", "systemctl",
                                     "grep ^@")):
                status, out = self.shell(command)
                self.assertEqual(status, 0, command + "\n" + out)
                self.assertEqual(out.splitlines()[-1:], said[-1:], command)
        self.assertGreater(routes, 7)
        self.assertIn("info ready", root.read(LOG))
        # A wave, and the route of a domain.
        script, = [b for b in fenced(text, "sh") if "route --set" in b]
        root.write("/root/wave1", "carol@example.com\ndave@example.com\n")
        status, out = self.shell(script)
        self.assertEqual(status, 0, out)
        self.assertEqual([self.fetch(u) for u in self.mail.USERS],
                         ["old", "old", "new", "new", "new"])

    def routed(self, command, status):
        """A login goes where the command says, if that has worked."""
        match = re.match(r"mailferry route (?:--set (\w+)|--delete) (\S+)",
                         command)
        where, user = match[1] or "old", match[2].lower()
        if user.startswith("@"):
            user = "erin" + user
        if status != 0:
            where = "old"  # as before
        self.assertEqual(self.fetch(user), where if where != "hold" else None,
                         command)

    def upgraded(self, new):
        """The package's own scripts bring the new one up, and nothing of the
        administrator's is touched."""
        root, service = self.root, self.service
        version = root.run(["mailferry", "-V"])
        edited, starts, mark = root.read(CONFIG), service.starts, len(
            service.asked)
        pid = service.pid()
        chosen = "mailferry", "root", 0o700
        for path in (CONFIG, "/etc/mailferry/tls"):
            root.run(["chown", ":".join(chosen[:2]), path])
            root.run(["chmod", f"{chosen[2]:o}", path])
        self.install(new)
        for path in (CONFIG, "/etc/mailferry/tls"):
            self.assertEqual(root.owner(path), chosen)
        root.run(["chown", "root:mailferry", CONFIG, "/etc/mailferry/tls"])
        root.run(["chmod", "640", CONFIG])
        root.run(["chmod", "750", "/etc/mailferry/tls"])
        self.assertEqual(service.since(mark), [
            "systemctl --system daemon-reload",
            f"deb-systemd-invoke restart {NAME}"])
        self.assertEqual((service.starts, service.faults), (starts + 1, []))
        self.assertNotEqual(service.pid(), pid)
        self.assertEqual(root.read(CONFIG), edited)
        self.assert_owners()
        self.assertNotEqual(root.run(["mailferry", "-V"]), version)
        self.assertEqual(self.fetch(), "old")

    def drained(self):
        """A stop leaves sessions their grace, and is over in the time that
        the unit grants."""
        root, service = self.root, self.service
        polite, silent = self.session(), self.session()
        begin = time.monotonic()
        with subprocess.Popen(root.argv(["systemctl", "stop", "mailferry"]),
                              env=root.environment()) as stop:
            wait_until(lambda: not is_listening(995), "it drains")
            self.assertEqual(polite.cmd("NOOP")[:3], "+OK")
            self.assertEqual(polite.cmd("QUIT")[:3], "+OK")
            self.assertIsNone(stop.poll())
            self.assertEqual(stop.wait(seconds(service.value(
                "TimeoutStopSec"))), 0)
        # server.shutdown_grace, as it is by default.
        self.assertGreater(time.monotonic() - begin, 29)
        self.assertEqual(service.ended[-1], 0)
        silent.close()
        root.run(["systemctl", "start", "mailferry"])

    def reinstalled(self, build):
        """Removed, and installed again: it serves as before."""
        root, service = self.root, self.service
        edited, mark = root.read(CONFIG), len(service.asked)
        root.run(["dpkg", "-r", "mailferry"])
        self.assertIn(f"deb-systemd-invoke stop {NAME}", service.since(mark))
        self.assertFalse(service.pid())
        self.assertFalse(os.path.exists(root.inside("/usr/sbin/mailferry")))
        self.assertEqual(root.read(CONFIG), edited)
        self.install(build)
        self.assert_owners()
        self.assertEqual((self.fetch(), service.faults), ("old", []))
        # The directory was away, or the administrator wants it otherwise: not
        # what the service can run with.
        root.run(["dpkg", "-r", "mailferry"])
        tls = root.inside("/etc/mailferry/tls")
        os.rename(tls, tls + ".away")
        self.install(build)
        self.assert_owners()
        root.run(["dpkg", "-r", "mailferry"])
        os.rmdir(tls)
        root.run(["dpkg-statoverride", "--add", "root", "root", "0700",
                  "/etc/mailferry/tls"])
        self.install(build)
        self.assertEqual(root.owner("/etc/mailferry/tls"),
                         ("root", "root", 0o700))
        root.run(["dpkg-statoverride", "--remove", "/etc/mailferry/tls"])
        os.rmdir(tls)
        os.rename(tls + ".away", tls)
        self.assertEqual(service.faults, [
            f"deb-systemd-invoke restart {NAME}: it ended with status 78"] * 2)
        service.faults.clear()
        root.run(["systemctl", "start", "mailferry"])
        self.assertEqual(self.fetch(), "old")

    def gone(self, before):
        """Also what the guide and the sample have the administrator put
        there."""
        root = self.root
        self.assertTrue(os.path.exists(root.inside(
            "/etc/mailferry/mappings.tsv")))
        root.write("/etc/mailferry/admin.token", "x" * 32 + "\n", 0o640)
        root.run(["dpkg", "-P", "mailferry"])
        self.assertFalse(self.service.pid())
        after = root.files()
        self.assertEqual({p: after.get(p) for p in sorted(after)
                          if after.get(p) != before.get(p)}, {})
        self.assertEqual(sorted(set(before) - set(after)), [])

    def by_hand(self):
        """Without the package: the README's commands behind its build, then
        the guide's configuration, and the daemon is started as root."""
        root = self.root
        readme, = [b for b in fenced(self.paper("README.md"), "")
                   if "useradd" in b]
        guide = self.paper("docs/migration.md")
        call(["dpkg-deb", "-x", self.first.deb(), root.inside("/tmp/deb")])
        shutil.copy(root.inside("/tmp/deb/usr/sbin/mailferry"),
                    root.inside("/usr/local/sbin/mailferry"))
        os.makedirs(root.inside("/root/etc"))
        shutil.copy(os.path.join(SOURCE, "etc", "mailferry.yaml"),
                    root.inside("/root/etc/mailferry.yaml"))
        root.run(["userdel", "mailferry"])
        root.run(["sh", "-ec", "cd /root\n" + readme[readme.index(
            "useradd"):]])
        yaml, = fenced(guide, "yaml")
        root.write(CONFIG, yaml, 0o640)
        for command, _ in typed(guide, "ferry1"):
            if command.startswith("install"):
                root.run(["sh", "-ec", "cd /root; " + command])
        daemon = Process(root.argv(["mailferry"]), os.path.join(
            WORK, "by-hand.log"), env=root.environment(), cwd="/")
        self.addCleanup(daemon.kill)
        wait_until(lambda: is_listening(995) or daemon.status is not None,
                   "it listens")
        self.assertIsNone(daemon.status, daemon.output())
        self.assertEqual(self.fetch(), "old")
        self.assertEqual(root.owner(LOG)[:2], ("mailferry", "mailferry"))
        # Not by its name: there may be others on this machine.
        reload, = re.findall(r"`(mailferry -t && kill -HUP .*?)`", guide)
        root.run(["mailferry", "route", "--set", "new", "alice@example.com"])
        root.run(["sh", "-ec", reload.replace("$(pidof mailferry)",
                                              str(daemon.pid))])
        wait_until(lambda: "info reloaded" in root.read(LOG), "a reload")
        self.assertEqual(self.fetch(), "new")
        self.assertEqual(daemon.stop(), 0)

    @staticmethod
    def paper(name):
        with open(os.path.join(SOURCE, name), encoding="utf-8") as f:
            return f.read()


if __name__ == "__main__":
    unittest.main()
