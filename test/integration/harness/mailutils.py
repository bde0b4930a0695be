"""GNU Mailutils' pop3d: an old server as people migrate from one. It has an
mbox spool, system accounts, no SASL, NOOP and UTF8 not before the login, and a
capability that is malformed (EXPIRENEVER).

Its account exists in a mount namespace of its own only: there /etc/passwd and
/etc/shadow are covered by copies that have one user more."""

import os
import shutil

from .certs import certs
from .ports import free_port, is_listening
from .proc import check_run, temp_dir
from .server import Server

UID = 23456  # nobody's, on a fresh Debian


class Mailutils(Server):
    def __init__(self, user, password):
        self.dir = temp_dir("mailferry-mailutils-")
        self.port = free_port()
        self.user = user
        self.log_path = self.path("log")
        os.mkdir(self.path("spool"))
        self.mbox = self.path("spool/" + user)
        key = self.path("key.pem")
        shutil.copy(certs().key("good"), key)
        os.chmod(key, 0o600)
        self._accounts(password)
        with open(self.path("pop3d.conf"), "w", encoding="ascii") as f:
            f.write(f"""
                mode daemon;
                logging {{ syslog no; }};
                auth {{ authentication system; authorization system; }};
                mailbox {{ mail-spool {self.path("spool")}; }};
                server 127.0.0.1:{self.port} {{
                    tls-mode ondemand;
                    tls {{
                        ssl-certificate-file "{certs().cert("good")}";
                        ssl-key-file "{key}";
                    }};
                }};
            """)

    def path(self, name):
        return os.path.join(self.dir, name)

    def _accounts(self, password):
        sealed = check_run(["openssl", "passwd", "-6", "-stdin"],
                           stdin=password.encode()).stdout.decode().strip()
        for name, line in (
                ("passwd", f"{self.user}:x:{UID}:{UID}::/nowhere:/bin/false"),
                ("shadow", f"{self.user}:{sealed}:19000:0:99999:7:::")):
            shutil.copy("/etc/" + name, self.path(name))
            with open(self.path(name), "a", encoding="ascii") as f:
                f.write(line + "\n")

    def start(self):
        self.launch(
            ["unshare", "--mount", "sh", "-ec",
             f"mount --bind {self.path('passwd')} /etc/passwd\n"
             f"mount --bind {self.path('shadow')} /etc/shadow\n"
             f"exec pop3d --foreground --config-file "
             f"{self.path('pop3d.conf')}"], "pop3d")
        return self

    def answers(self):
        return is_listening(self.port)

    def deliver(self, *messages):
        """Octets with CRLF, no line of them "From "."""
        with open(self.mbox, "ab") as f:
            for message in messages:
                f.write(b"From a@example.com Mon Jan  1 00:00:00 2024\n"
                        + message.replace(b"\r\n", b"\n") + b"\n")
        os.chown(self.mbox, UID, UID)

    def destination(self, tls, **keys):
        d = {"host": "127.0.0.1", "tls_server_name": "localhost",
             "tls_ca_file": certs().ca,
             "protocol": {"pop3": {"port": self.port, "tls": tls}}}
        if tls == "plain":
            d["allow_plaintext_auth"] = True
        return dict(d, **keys)
