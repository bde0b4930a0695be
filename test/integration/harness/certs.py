"""Certificates for one run, made with openssl(1).

ca        signs everything but what its name excludes
good      DNS:localhost, DNS:mail.example.com, IP:127.0.0.1
new       DNS:new.example.com (another name for SNI)
guide     DNS:mail-old.example.com, DNS:mail-new.example.com (docs/)
wildcard  DNS:*.wild.example.com
expired   good's names, ended long ago
future    good's names, begins in many years
wrong     DNS:wrong.example.com
self      good's names, self-signed
unknown   good's names, signed by a CA that nobody trusts
client    a client's certificate
rsa       good's names, an RSA key
small     ..., of 1,024 bits
sha1      ..., signed with SHA-1
"""

import hashlib
import os
import ssl

from .proc import check_run, temp_dir

NAME = "mail.example.com"
GOOD_NAMES = "DNS:localhost,DNS:mail.example.com,IP:127.0.0.1"

CA_CONF = """\
[ca]
default_ca = here
[here]
dir = {dir}
database = {dir}/{ca}.index
new_certs_dir = {dir}
certificate = {dir}/{ca}.pem
private_key = {dir}/{ca}.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
"""


class Certs:
    """The directory; one attribute-like look-up per certificate."""

    def __init__(self):
        self.dir = temp_dir("mailferry-certs-")
        self._authority("ca")
        self._authority("otherca")
        self._issue("good", GOOD_NAMES)
        self._issue("good2", GOOD_NAMES)
        self._issue("new", "DNS:new.example.com")
        self._issue("guide",
                    "DNS:mail-old.example.com,DNS:mail-new.example.com")
        self._issue("wildcard", "DNS:*.wild.example.com")
        self._issue("expired", GOOD_NAMES, "20200101000000Z",
                    "20200201000000Z")
        self._issue("future", GOOD_NAMES, "20900101000000Z",
                    "20910101000000Z")
        self._issue("wrong", "DNS:wrong.example.com")
        self._issue("unknown", GOOD_NAMES, ca="otherca")
        self._issue("client", "DNS:client.example.com")
        self._issue("rsa", GOOD_NAMES, bits=2048)
        self._issue("small", GOOD_NAMES, bits=1024)
        self._issue("sha1", GOOD_NAMES, bits=2048, digest="sha1")
        self._self_signed("self", GOOD_NAMES)

    def cert(self, name):
        return os.path.join(self.dir, name + ".pem")

    def key(self, name):
        return os.path.join(self.dir, name + ".key")

    @property
    def ca(self):
        return self.cert("ca")

    def fingerprint(self, name):
        """The SHA-256 of the certificate, in hexadecimal."""
        return hashlib.sha256(self.der(name)).hexdigest()

    def der(self, name):
        with open(self.cert(name), encoding="ascii") as f:
            return ssl.PEM_cert_to_DER_cert(f.read())

    def _key(self, name, bits=0):
        """bits: of an RSA key; 0: ECDSA."""
        kind = ["RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}"] if bits else \
            ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        check_run(["openssl", "genpkey", "-algorithm"] + kind +
                  ["-out", self.key(name)])

    def _authority(self, name):
        self._key(name)
        check_run(["openssl", "req", "-x509", "-new", "-key", self.key(name),
                   "-subj", f"/CN=mailferry test {name}", "-days", "30",
                   "-addext", "basicConstraints=critical,CA:TRUE",
                   "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                   "-out", self.cert(name)])
        conf = CA_CONF.format(dir=self.dir, ca=name)
        with open(os.path.join(self.dir, name + ".cnf"), "w",
                  encoding="ascii") as f:
            f.write(conf)
        with open(os.path.join(self.dir, name + ".index"), "w",
                  encoding="ascii"):
            pass

    def _issue(self, name, subjects, start=None, end=None, ca="ca", bits=0,
               digest="sha256"):
        self._key(name, bits)
        csr = os.path.join(self.dir, name + ".csr")
        ext = os.path.join(self.dir, name + ".ext")
        check_run(["openssl", "req", "-new", "-key", self.key(name),
                   "-subj", f"/CN={name}", "-out", csr])
        with open(ext, "w", encoding="ascii") as f:
            f.write(f"basicConstraints=CA:FALSE\nsubjectAltName={subjects}\n")
        when = ["-startdate", start, "-enddate", end] if start else \
            ["-days", "30"]
        check_run(["openssl", "ca", "-batch", "-notext", "-config",
                   os.path.join(self.dir, ca + ".cnf"), "-in", csr,
                   "-extfile", ext, "-md", digest,
                   "-out", self.cert(name)] + when)

    def _self_signed(self, name, subjects):
        self._key(name)
        check_run(["openssl", "req", "-x509", "-new", "-key", self.key(name),
                   "-subj", f"/CN={name}", "-days", "30",
                   "-addext", f"subjectAltName={subjects}",
                   "-out", self.cert(name)])


_certs = None


def certs():
    """The certificates of this run, made at the first call."""
    global _certs
    if _certs is None:
        _certs = Certs()
    return _certs
