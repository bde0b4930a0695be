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
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))

# pylint: disable=wrong-import-position
from harness.case import need, need_root
from harness.certs import certs
from harness.client import Client, context
from harness.dovecot import Dovecot
from harness.manager import Manager
from harness.ports import is_listening
from harness.proc import Process
from root import Root, call

SOURCE = os.environ.get("MAILFERRY_SOURCE",
                        os.path.dirname(os.path.dirname(HERE)))
WORK = os.environ.get("MAILFERRY_PACKAGE_DIR", "/var/tmp/mailferry-package")
CONFIG = "/etc/mailferry/mailferry.yaml"
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


class Unit:
    """What the service's unit says, done by hand."""

    def __init__(self, root):
        self.root = root
        self.keys = {}
        for line in root.read(
                "/lib/systemd/system/mailferry.service").splitlines():
            match = re.fullmatch(r"([A-Za-z]+)=(.*)", line)
            if match:
                self.keys.setdefault(match[1], []).append(match[2])
        self.process = None
        self.manager = None
        self.log = os.path.join(WORK, "daemon.log")

    def value(self, key):
        value, = self.keys[key]
        return value

    def as_service(self, command):
        """A command as the unit's user with the unit's capabilities."""
        caps = [c.lower()[4:]
                for c in self.value("CapabilityBoundingSet").split()]
        caps = ",".join(["-all"] + ["+" + c for c in caps])
        return self.root.argv([
            "setpriv", f"--reuid={self.value('User')}",
            f"--regid={self.value('Group')}", "--init-groups",
            f"--inh-caps={caps}", f"--ambient-caps={caps}",
            f"--bounding-set={caps}", "--no-new-privs",
            "sh", "-c", "exec " + command])

    def may_start(self):
        done = subprocess.run(
            self.as_service(self.value("ExecCondition")), check=False,
            env=self.root.environment(), capture_output=True)
        return done.returncode == 0

    def start(self):
        if not self.may_start():
            raise AssertionError("ExecCondition failed")
        self.manager = Manager(30, abstract=True)
        self.process = Process(
            self.as_service(self.value("ExecStart")), self.log,
            env=self.root.environment(**self.manager.env), cwd="/")
        self.manager.until("READY")

    def reload(self):
        """Each ExecReload=, in order."""
        for command in self.keys["ExecReload"]:
            command = command.replace("${MAINPID}", str(self.pid()))
            call(self.as_service(command), env=self.root.environment())
        self.manager.until("RELOADING")
        self.manager.until("READY")

    def pid(self):
        return self.process.pid

    def stop(self):
        process, self.process = self.process, None
        if not process:
            return None
        status = process.stop(45)
        self.manager.close()
        return status

    def status(self, key):
        with open(f"/proc/{self.pid()}/status", encoding="ascii") as f:
            return re.search(rf"^{key}:\s+(.*)$", f.read(), re.M)[1]


@need("dpkg-buildpackage", "lintian", "debootstrap", "curl", "dovecot", "ip",
      "setpriv")
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
        """Installed, configured by the README, served, reloaded, upgraded,
        removed, purged: nothing is left."""
        new = Build("two")
        new.edit("debian/changelog", lambda text: re.sub(
            r"\(([^)]+)\)", r"(\1+1)", text, count=1))
        new.edit("CMakeLists.txt", lambda text: re.sub(
            r"(project\(mailferry VERSION [0-9.]+)", r"\g<1>.1", text))
        # A default that changed: the administrator's file has to stay.
        new.edit("etc/mailferry.yaml", lambda text: text + "# Changed.\n")
        new.make()
        type(self).root = root = Root(WORK, self.first.depends())
        before = root.files()
        self.install(self.first)
        self.unconfigured()
        self.configure()
        unit = Unit(root)
        self.addCleanup(unit.stop)
        unit.start()
        self.served(unit)
        self.renewed(unit)
        self.upgraded(unit, new)
        self.assertEqual(unit.stop(), 0)
        self.gone(before)

    def install(self, build):
        shutil.copy(build.deb(), self.root.inside("/tmp/mailferry.deb"))
        self.root.run(["dpkg", "--force-confold", "-i", "/tmp/mailferry.deb"])

    def unconfigured(self):
        """As it comes, it is not started, and readable to those who need
        it."""
        root = self.root
        self.assertEqual(root.owner(CONFIG), ("root", "mailferry", 0o640))
        self.assertEqual(root.owner("/etc/mailferry/tls"),
                         ("root", "mailferry", 0o750))
        for name in ("run", "var/lib", "var/log"):
            self.assertEqual(root.owner(f"{name}/mailferry"),
                             ("mailferry", "mailferry", 0o750))
        self.assertTrue(os.path.islink(root.inside(
            "/etc/systemd/system/multi-user.target.wants/mailferry.service")))
        self.assertFalse(Unit(root).may_start())
        for page in ("man8/mailferry.8.gz", "man5/mailferry.yaml.5.gz"):
            self.assertGreater(os.path.getsize(root.inside(
                f"/usr/share/man/{page}")), 1000)

    def configure(self):
        """By the text of README.Debian: its commands, and the two edits that
        it asks for."""
        root = self.root
        self.dovecot = Dovecot(certs()).start()
        self.addCleanup(self.dovecot.stop)
        self.dovecot.deliver("alice@example.com",
                             b"Subject: hello\r\n\r\nFrom the old server.\r\n")
        # Files that an administrator has at hand.
        shutil.copy(certs().cert("good"), root.inside("/root/fullchain.pem"))
        shutil.copy(certs().key("good"), root.inside("/root/privkey.pem"))
        shutil.copy(certs().ca, root.inside("/etc/mailferry/tls/ca.pem"))
        text = root.read(CONFIG)
        text = text.replace(
            "#tls:\n", "tls:\n  certificate:\n    primary: { cert: "
            "tls/fullchain.pem, key: tls/privkey.pem }\n", 1)
        text = text.replace("host: mail-old.example.com",
                            "host: 127.0.0.1\n    tls_server_name: "
                            "mail.example.com\n    tls_ca_file: tls/ca.pem", 1)
        text = text.replace("port: 995", f"port: {self.dovecot.port_tls}", 1)
        root.write(CONFIG, text, 0o640)
        readme = root.read("/usr/share/doc/mailferry/README.Debian")
        part = readme.split("Setting it up\n")[1].split("Changes later\n")[0]
        commands = re.findall(r"^ {4}# (.+)$", part, re.M)
        self.assertGreaterEqual(len(commands), 5)
        self.assertEqual(commands.pop(), "systemctl start mailferry")
        for command in commands:
            said = root.run(["sh", "-ec", "cd /root; " + command])
        self.assertEqual(said.splitlines()[-1], "configuration ok")

    def login(self):
        """What curl fetches by way of the proxy."""
        return call(["curl", "-sS", "--max-time", "20", "--cacert",
                     certs().ca, "--resolve", "mail.example.com:995:127.0.0.1",
                     "-u", "alice@example.com:secret",
                     "pop3s://mail.example.com/1"])

    def served(self, unit):
        self.assertIn("From the old server.", self.login())
        self.assertNotEqual(unit.status("Uid").split()[0], "0")
        for caps in ("CapEff", "CapBnd", "CapAmb", "CapPrm"):
            self.assertEqual(int(unit.status(caps), 16), CAP_NET_BIND_SERVICE)
        self.assertEqual(unit.status("NoNewPrivs"), "1")

    @staticmethod
    def fingerprint():
        with socket.create_connection(("127.0.0.1", 995), 10) as s:
            ctx = ssl.create_default_context(cafile=certs().ca)
            with ctx.wrap_socket(s, server_hostname="mail.example.com") as t:
                return t.getpeercert()["serialNumber"]

    def renewed(self, unit):
        """The deploy-hook copies a new certificate; a reload serves it, and
        one with a mistake is refused. A port that is new may be below
        1024."""
        root = self.root
        session = Client(995, tls="implicit", ctx=context(certs().ca))
        self.addCleanup(session.close)
        hook = "/usr/share/doc/mailferry/examples/certbot/deploy-hook"
        root.run(["mkdir", "-p", "/tmp/bin", "/tmp/live"])
        root.write("/tmp/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/tmp/asked"
                   "\n", 0o755)
        shutil.copy(certs().cert("good2"), root.inside(
            "/tmp/live/fullchain.pem"))
        shutil.copy(certs().key("good2"), root.inside(
            "/tmp/live/privkey.pem"))
        root.run([hook], RENEWED_DOMAINS="mail.example.com",
                 RENEWED_LINEAGE="/tmp/live")
        self.assertEqual(root.read("/tmp/asked"),
                         "try-reload-or-restart mailferry.service\n")
        self.assertEqual(
            root.owner("/etc/mailferry/tls/mail.example.com.key"),
            ("root", "mailferry", 0o640))
        before = self.fingerprint()
        text = root.read(CONFIG)
        root.write(CONFIG, text.replace(
            "tls/fullchain.pem, key: tls/privkey.pem",
            "tls/mail.example.com.pem, key: tls/mail.example.com.key")
            .replace("bind: [", 'bind: ["127.0.0.1:110", ', 1), 0o640)
        unit.reload()
        self.assertNotEqual(self.fingerprint(), before)
        self.assertTrue(is_listening(110))
        good = root.read(CONFIG)
        root.write(CONFIG, good + "nonsense: 1\n", 0o640)
        with self.assertRaisesRegex(AssertionError, "nonsense"):
            unit.reload()
        root.write(CONFIG, good, 0o640)
        self.assertEqual(session.cmd("NOOP")[:3], "+OK")
        self.assertIn("From the old server.", self.login())

    def upgraded(self, unit, new):
        root = self.root
        version = root.run(["mailferry", "-V"])
        edited = root.read(CONFIG)
        self.install(new)
        self.assertEqual(root.read(CONFIG), edited)
        self.assertEqual(root.owner(CONFIG), ("root", "mailferry", 0o640))
        self.assertNotEqual(root.run(["mailferry", "-V"]), version)
        # The old one serves until it is restarted, as postinst does at last.
        self.assertIn("From the old server.", self.login())
        self.assertIn("deb-systemd-invoke $_dh_action", root.read(
            "/var/lib/dpkg/info/mailferry.postinst"))
        self.assertEqual(unit.stop(), 0)
        unit.start()
        self.assertIn("From the old server.", self.login())

    def gone(self, before):
        root = self.root
        edited = root.read(CONFIG)
        root.run(["dpkg", "-r", "mailferry"])
        self.assertFalse(os.path.exists(root.inside("/usr/sbin/mailferry")))
        self.assertEqual(root.read(CONFIG), edited)
        root.run(["dpkg", "-P", "mailferry"])
        after = root.files()
        self.assertEqual({p: after.get(p) for p in sorted(after)
                          if after.get(p) != before.get(p)}, {})
        self.assertEqual(sorted(set(before) - set(after)), [])


if __name__ == "__main__":
    unittest.main()
