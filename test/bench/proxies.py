"""The proxies of the benchmark: how each is configured and started.

Like for like: a worker per CPU, the same certificate, the log at info, and a
backend whose certificate is verified. For the rest each is as it comes.
"""

import os
import subprocess

LOCALHOST = "127.0.0.1"
USERS = 1000


def first_line(argv):
    """Returns the first line that a command prints, or nothing if it
    fails."""
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=5,
                             check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = (run.stdout + run.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


class Proxy:
    """One kind of proxy. A configuration is written into a directory of its
    own and run in the foreground, with that directory's log file."""

    name = ""
    package = ""
    backends = ("plain", "TLS")

    def __init__(self, binary):
        self.binary = binary

    def missing(self):
        """Returns why it cannot run, or None."""
        if self.binary and os.access(self.binary, os.X_OK):
            return None
        return f"no {self.binary or self.name}" + (
            f" (package {self.package})" if self.package else "")

    def version(self):
        return first_line([self.binary, "--version"])

    def configure(self, site, directory, port, backend):
        """Writes the configuration, and returns the command line."""
        raise NotImplementedError


class Mailferry(Proxy):
    name = "mailferry"

    def version(self):
        return super().version() or "mailferry (version unknown)"

    def configure(self, site, directory, port, backend):
        with open(f"{directory}/mappings.tsv", "w", encoding="ascii") as f:
            for i in range(USERS):
                f.write(f"user{i}@example.com\tsink\n")
        if backend == "TLS":
            leg = (f"tls_server_name: localhost, "
                   f"tls_ca_file: {site.dir}/ca.pem")
            pop3 = f"port: {site.sink_tls}, tls: implicit"
        else:
            leg = "allow_plaintext_auth: true"
            pop3 = f"port: {site.sink_plain}, tls: plain"
        write(f"{directory}/mailferry.yaml", f"""\
server:
  threads: {site.workers}
  shutdown_grace: 1s
  log_target: {directory}/log
tls:
  certificate:
    bench: {{ cert: {site.dir}/cert.pem, key: {site.dir}/key.pem }}
listener:
  pop3s:
    protocol: pop3
    bind: ["{LOCALHOST}:{port}"]
    tls: implicit
    max_connections: {site.clients}
routing:
  default_destination: sink
mapping:
  source: file
  file: {{ path: {directory}/mappings.tsv }}
destination:
  sink:
    host: {LOCALHOST}
    {leg.replace(", ", chr(10) + "    ")}
    forwarding: none
    max_connecting: 1000
    protocol:
      pop3: {{ {pop3} }}
""")
        return [self.binary, "-c", f"{directory}/mailferry.yaml"]


class Nginx(Proxy):
    name = "nginx"
    package = "nginx"
    backends = ("plain",)
    modules = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules",
               "/usr/share/nginx/modules")

    def version(self):
        return first_line([self.binary, "-v"]).rpartition(": ")[2]

    def missing(self):
        reason = super().missing()
        if not reason and not self.load_module():
            reason = "no ngx_mail_module.so (package libnginx-mod-mail)"
        return reason

    def load_module(self):
        for path in self.modules:
            if os.path.exists(f"{path}/ngx_mail_module.so"):
                return f"load_module {path}/ngx_mail_module.so;"
        return ""

    def configure(self, site, directory, port, backend):
        user = "user www-data;" if os.geteuid() == 0 else ""
        write(f"{directory}/nginx.conf", f"""\
{self.load_module()}
{user}
daemon off;
worker_processes {site.workers};
worker_rlimit_nofile {site.files};
pid {directory}/pid;
error_log {directory}/log info;
events {{
    worker_connections {2 * site.clients};
}}
mail {{
    server_name localhost;
    auth_http {LOCALHOST}:{site.sink_http}/;
    pop3_auth plain;
    server {{
        listen {LOCALHOST}:{port} ssl backlog=4096;
        protocol pop3;
        ssl_certificate {site.dir}/cert.pem;
        ssl_certificate_key {site.dir}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
    }}
}}
""")
        return [self.binary, "-p", directory, "-e", f"{directory}/log", "-c",
                f"{directory}/nginx.conf"]


class Dovecot(Proxy):
    name = "Dovecot"
    package = "dovecot-pop3d"

    def version(self):
        return "Dovecot " + super().version().split(" ")[0]

    def configure(self, site, directory, port, backend):
        if backend == "TLS":
            leg = f"port={site.sink_tls} ssl=yes"
        else:
            leg = f"port={site.sink_plain}"
        write(f"{directory}/dovecot.conf", f"""\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = pop3
listen = {LOCALHOST}
ssl = required
ssl_cert = <{site.dir}/cert.pem
ssl_key = <{site.dir}/key.pem
ssl_min_protocol = TLSv1.2
ssl_ca = <{site.dir}/ca.pem
ssl_require_crl = no
auth_mechanisms = plain
default_client_limit = {site.clients}
passdb {{
  driver = static
  args = nopassword=y proxy=y host=localhost hostip={LOCALHOST} {leg}
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service pop3-login {{
  service_count = 0
  process_min_avail = {site.workers}
  process_limit = {site.workers}
  vsz_limit = 4G
  inet_listener pop3 {{
    port = 0
  }}
  inet_listener pop3s {{
    port = {port}
    ssl = yes
  }}
}}
{self.unprivileged()}""")
        return [self.binary, "-F", "-c", f"{directory}/dovecot.conf"]

    def unprivileged(self):
        if os.geteuid() == 0:
            return ""
        user = first_line(["id", "-un"])
        group = first_line(["id", "-gn"])
        chroots = "".join(f"service {s} {{\n  chroot =\n}}\n"
                          for s in ("anvil", "pop3-login"))
        return (f"default_internal_user = {user}\n"
                f"default_internal_group = {group}\n"
                f"default_login_user = {user}\n{chroots}")
