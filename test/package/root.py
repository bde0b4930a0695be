"""A fresh Debian to install things in: a mount and a network namespace of its
own, and a root directory that debootstrap made. Without a mirror it is an
overlay over this machine's root, unless MAILFERRY_TEST_STRICT is set: what this
machine has installed would hide what the package forgets."""

import ctypes
import os
import re
import shutil
import stat
import subprocess
import time

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
CACHE_LIFE = 12 * 3600  # seconds that a base system may be used again

# Not the package's: logs, caches and what account tools and systemctl leave
# behind.
IGNORED = re.compile(
    r"/(dev|proc|sys|tmp|run/lock|run/systemd|var/cache|var/log(?!/mailferry)"
    r"|var/lib/(apt|dpkg)|root)(/|\Z)|/etc/(\.pwd\.lock|ld\.so\.cache"
    r"|(passwd|group|shadow|gshadow)-?)\Z")

_libc = ctypes.CDLL(None, use_errno=True)


def call(argv, timeout=600, **how):
    """Runs a command that has to succeed; returns its output as text."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False, **how)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: status "
                             f"{done.returncode}\n{text}")
    return text


def _unshare(what):
    if _libc.unshare(what) == -1:
        raise OSError(ctypes.get_errno(), "unshare")


def mirror():
    """The first archive that apt here knows."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)"],
        capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        site, _, codename = line.partition(" ")
        if codename == SUITE and site.startswith("http"):
            return site.rstrip("/")
    return MIRROR


class Root:
    def __init__(self, directory, packages):
        """packages: what has to be there beside the base system."""
        self.directory = directory
        self.path = os.path.join(directory, "root")
        _unshare(CLONE_NEWNS)
        call(["mount", "--make-rprivate", "/"])
        shutil.rmtree(self.path, ignore_errors=True)
        os.makedirs(self.path)
        try:
            self._bootstrap(packages)
        except AssertionError as e:
            if os.environ.get("MAILFERRY_TEST_STRICT"):
                raise
            print(f"no fresh Debian, taking this one: {e}")
            self._overlay()
        self._mounts()
        # From here on nothing is reached but what the test starts.
        _unshare(CLONE_NEWNET)
        call(["ip", "link", "set", "lo", "up"])

    def _bootstrap(self, packages):
        tar = os.path.join(self.directory, "base.tar")
        mark = os.path.join(self.directory, "base.packages")
        wanted = " ".join(packages)
        try:
            with open(mark, encoding="ascii") as f:
                same = f.read() == wanted
            if same and time.time() - os.path.getmtime(tar) < CACHE_LIFE:
                call(["tar", "-C", self.path, "-xpf", tar])
                return
        except FileNotFoundError:
            pass
        call(["debootstrap", "--variant=minbase", SUITE, self.path, mirror()],
             timeout=900)
        self._write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
        shutil.copy("/etc/resolv.conf", self.path + "/etc/resolv.conf")
        call(["mount", "-t", "proc", "proc", self.path + "/proc"])
        try:
            self.run(["apt-get", "-q", "-y", "--no-install-recommends",
                      "install", *packages])
            self.run(["apt-get", "clean"])
        finally:
            call(["umount", self.path + "/proc"])
        call(["tar", "-C", self.path, "-cpf", tar, "."])
        with open(mark, "w", encoding="ascii") as f:
            f.write(wanted)

    def _overlay(self):
        scratch = os.path.join(self.directory, "scratch")
        os.makedirs(scratch, exist_ok=True)
        call(["mount", "-t", "tmpfs", "tmpfs", scratch])
        for name in ("upper", "work"):
            os.mkdir(os.path.join(scratch, name))
        call(["mount", "-t", "overlay", "overlay", "-o",
              f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work",
              self.path])

    def _mounts(self):
        call(["mount", "-t", "proc", "proc", self.path + "/proc"])
        call(["mount", "-t", "tmpfs", "tmpfs", self.path + "/tmp"])
        for name in ("null", "zero", "urandom", "random"):
            path = f"{self.path}/dev/{name}"
            if not os.path.exists(path):
                open(path, "w", encoding="ascii").close()
            call(["mount", "--bind", f"/dev/{name}", path])

    def _write(self, name, text, mode=0o644):
        path = self.inside(name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)

    write = _write

    def inside(self, name):
        return os.path.join(self.path, name.lstrip("/"))

    def read(self, name):
        with open(self.inside(name), encoding="utf-8") as f:
            return f.read()

    def environment(self, **more):
        return {"PATH": "/tmp/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:"
                        "/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive", **more}

    def argv(self, argv):
        return ["chroot", self.path, *argv]

    def run(self, argv, **more):
        return call(self.argv(argv), env=self.environment(**more))

    def status(self, argv):
        """The exit status of a command in there."""
        return subprocess.run(
            self.argv(argv), env=self.environment(), check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=60).returncode

    def files(self):
        """Every path there is, with its type, mode and owner."""
        found = {}
        for directory, names, files in os.walk(self.path):
            place = directory[len(self.path):]
            names[:] = [n for n in names
                        if not IGNORED.match(f"{place}/{n}")]
            for name in names + files:
                path = f"{place}/{name}"
                if IGNORED.match(path):
                    continue
                st = os.lstat(self.path + path)
                found[path] = (stat.filemode(st.st_mode), st.st_uid,
                               st.st_gid)
        return found

    def owner(self, name):
        """("root", "mailferry", 0o640), by the names that are used there."""
        st = os.stat(self.inside(name))
        return (self._name("passwd", st.st_uid),
                self._name("group", st.st_gid), stat.S_IMODE(st.st_mode))

    def _name(self, table, number):
        for line in self.read(f"etc/{table}").splitlines():
            field = line.split(":")
            if int(field[2]) == number:
                return field[0]
        return str(number)
