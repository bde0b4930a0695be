"""Dovecot 2.3 as a real backend, in the foreground, all of it in one
directory. Needs root: it separates its privileges.

It believes XCLIENT from 127.0.0.2 only, if it is told no other address, which
is to be mailferry's source_ips. A client that connects from the server's own address counts as
secured: tests of the cleartext gate come from another one.
"""

import base64
import hashlib
import hmac
import json
import os
import time

from .ports import free_port, is_listening
from .proc import Process, temp_dir, wait_until

SOURCE_IP = "127.0.0.2"  # trusted for XCLIENT
MAIL_UID = 1  # daemon, on every Debian

CONF = """\
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
log_timestamp = ""
auth_verbose = yes
protocols = pop3
listen = {address}
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
ssl_ca = <{ca}
ssl_require_crl = no
ssl_min_protocol = TLSv1.2
disable_plaintext_auth = yes
login_trusted_networks = {source}/32
haproxy_trusted_networks = 127.0.0.0/8
auth_mechanisms = plain login oauthbearer xoauth2
auth_master_user_separator = %
mail_location = maildir:{dir}/mail/%u
mail_uid = {uid}
mail_gid = {uid}
first_valid_uid = {uid}
first_valid_gid = {uid}
mail_max_userip_connections = 100
login_greeting = {greeting}
{passdb}userdb {{
  driver = static
  args = uid={uid} gid={uid} home={dir}/mail/%u
}}
service pop3-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {port_tls}
    ssl = yes
  }}
  inet_listener pop3_haproxy {{
    port = {port_haproxy}
    haproxy = yes
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""

PASSDB = """\
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {dir}/oauth2.conf
}}
passdb {{
  driver = passwd-file
  mechanisms = plain login
  args = scheme=PLAIN {dir}/users
}}
"""

# Whatever the password is: the next server decides.
PASSDB_PROXY = """\
passdb {{
  driver = static
  args = proxy=y nopassword=y {proxy}
}}
"""

OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={dir}/keys/
username_attribute = email
"""


def jwt(user, secret, claim="email", ttl=3600):
    """A token, signed with HS256."""
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")
    now = int(time.time())
    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps({"sub": user, claim: user, "iat": now - 60,
                            "nbf": now - 60, "exp": now + ttl}).encode())
    signed = head + b"." + body
    mac = hmac.new(secret, signed, hashlib.sha256).digest()
    return (signed + b"." + part(mac)).decode("ascii")


class Dovecot:
    """One running Dovecot. name: old or new, seen in its greeting.
    users: {address: password}. address, ports: where it listens (POP3, POP3S);
    trusted: from where XCLIENT is believed. proxy: the fields that say where
    logins are passed on to, instead of maildirs of its own."""

    def __init__(self, certs, name="old", users=None, cert="good",
                 address="127.0.0.1", ports=None, trusted=SOURCE_IP,
                 proxy=None):
        self.certs = certs
        self.name = name
        self.users = users or {"alice@example.com": "secret"}
        self.dir = temp_dir(f"mailferry-dovecot-{name}-")
        self.address, self.trusted = address, trusted
        self.port, self.port_tls = ports or (free_port(), free_port())
        self.port_haproxy = free_port()
        self.token_secret = os.urandom(32)
        self.proxy = proxy
        self._write(cert)
        self.process = None

    def _write(self, cert):
        passdb = PASSDB if self.proxy is None else PASSDB_PROXY
        text = CONF.format(
            passdb=passdb.format(dir=self.dir, proxy=self.proxy),
            dir=self.dir, cert=self.certs.cert(cert),
            key=self.certs.key(cert), ca=self.certs.ca, source=self.trusted,
            uid=MAIL_UID, address=self.address,
            greeting=f"{self.name} ready.", port=self.port,
            port_tls=self.port_tls, port_haproxy=self.port_haproxy)
        self._file("dovecot.conf", text)
        self._file("users", "".join(
            f"{user}:{{PLAIN}}{password}::::::\n"
            for user, password in self.users.items()))
        self._file("oauth2.conf", OAUTH2.format(dir=self.dir))
        keys = os.path.join(self.dir, "keys", "default", "HS256")
        os.makedirs(keys)
        with open(os.path.join(keys, "default"), "wb") as f:
            f.write(base64.b64encode(self.token_secret))
        self._mkdir("mail")
        for user in self.users:
            self._mkdir(os.path.join("mail", user))
            for sub in ("cur", "new", "tmp"):
                self._mkdir(os.path.join("mail", user, sub))

    def _file(self, name, text):
        with open(os.path.join(self.dir, name), "w", encoding="utf-8") as f:
            f.write(text)

    def _mkdir(self, name):
        path = os.path.join(self.dir, name)
        os.mkdir(path)
        os.chown(path, MAIL_UID, MAIL_UID)

    def start(self):
        self.process = Process(
            ["dovecot", "-F", "-c", os.path.join(self.dir, "dovecot.conf")],
            os.path.join(self.dir, "stderr"))

        def up():
            if self.process.status is not None:
                raise AssertionError("Dovecot ended at its start\n"
                                     + self.output())
            return all(map(is_listening, (self.port, self.port_tls,
                                          self.port_haproxy)))
        wait_until(up, "Dovecot listens")
        return self

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def output(self, start=0):
        text = ""
        for name in ("stderr", "log"):
            path = os.path.join(self.dir, name)
            if os.path.exists(path):
                with open(path, "rb") as f:
                    if name == "log":
                        f.seek(start)
                    text += f.read().decode("utf-8", "backslashreplace")
        return text

    def mark(self):
        """Returns the current end of the log."""
        path = os.path.join(self.dir, "log")
        return os.path.getsize(path) if os.path.exists(path) else 0

    def token(self, user, **how):
        return jwt(user, self.token_secret, **how)

    # Mail

    def deliver(self, user, message):
        """Puts a message (octets with CRLF) into the maildir, with LF as
        maildirs have it; returns its path."""
        base = os.path.join(self.dir, "mail", user)
        name = f"{time.time_ns()}.M{os.urandom(4).hex()}.test"
        path = os.path.join(base, "tmp", name)
        with open(path, "wb") as f:
            f.write(message.replace(b"\r\n", b"\n"))
        os.chown(path, MAIL_UID, MAIL_UID)
        final = os.path.join(base, "new", name)
        os.rename(path, final)
        return final

    def messages(self, user):
        """Returns the file names in the user's maildir."""
        base = os.path.join(self.dir, "mail", user)
        return sorted(os.listdir(os.path.join(base, "new"))
                      + os.listdir(os.path.join(base, "cur")))

    def empty(self, user):
        base = os.path.join(self.dir, "mail", user)
        for sub in ("new", "cur"):
            for name in os.listdir(os.path.join(base, sub)):
                os.unlink(os.path.join(base, sub, name))

    def destination(self, tls="starttls", forwarding="xclient", **keys):
        """Returns a destination's section that leads here."""
        port = self.port
        if tls == "implicit":
            port = self.port_tls
        elif forwarding == "proxy":
            port = self.port_haproxy
        section = {
            "host": self.address,
            "tls_server_name": "mail.example.com",
            "tls_ca_file": self.certs.ca,
            "forwarding": forwarding,
            "source_ips": [self.trusted],
            "protocol": {"pop3": {"port": port, "tls": tls}},
        }
        section.update(keys)
        return section
