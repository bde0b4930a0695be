"""Who a login is for, and where that leads (PROTOCOL, sections 4 and 5).

Two backends: the mapping leads to "new", all else to "legacy". Which of them
a login reaches says what it was looked up as, and what it is given there says
that it was sent on unchanged.
"""

import base64
import json
import unittest

from harness.case import Case, Pop3
from harness.client import LINES, b64, oauthbearer, plain, xoauth2


def jwt(claims, head=None):
    """An unsigned token: mailferry reads it for routing only."""
    def part(value):
        return base64.urlsafe_b64encode(
            json.dumps(value).encode()).rstrip(b"=").decode()
    return ".".join((part(head or {"alg": "HS256"}), part(claims), "c2ln"))


def sw1(address):
    tail = base64.urlsafe_b64encode(address.encode()).rstrip(b"=").decode()
    return "sw1.aW52YWxpZA.c2ln." + tail


def nobody(mech, token):
    """A bearer frame that names nobody."""
    if mech == "OAUTHBEARER":
        return b64(f"n,,\1auth=Bearer {token}\1\1")
    return b64(f"user=\1auth=Bearer {token}\1\1")


def remember(c, mech, frame):
    c.login = (mech, frame)
    word = frame[1] if mech == "USER" else frame.decode("latin-1")
    if "wrong" in word:
        return "-ERR [AUTH] no"
    return f"+OK {c.backend.name}"


class Routing(Case):
    listeners = {"pop3": {"tls": "implicit", "max_auth_attempts": 100}}

    @classmethod
    def start(cls, mapping, over=None):
        """Both backends and a daemon in front of them."""
        cls.legacy = cls.shared_backend(Pop3(check=remember), tls="implicit")
        cls.legacy.name = "legacy"
        cls.new = cls.shared_backend(Pop3(check=remember), tls="implicit")
        cls.new.name = "new"
        cls.daemon = cls.shared_mailferry(
            cls.listeners, {"legacy": cls.legacy.destination(),
                            "new": cls.new.destination()},
            mapping, over)

    def setUp(self):
        super().setUp()
        self.legacy.forget()
        self.new.forget()

    def tls_client(self, mode=LINES):
        return self.client(self.daemon, tls="implicit", mode=mode)

    def by_pass(self, user, password="x"):
        c = self.tls_client()
        self.assertReply(c.cmd(f"USER {user}"), "+OK")
        return c.cmd(f"PASS {password}")

    def by_login(self, user, password="x"):
        c = self.tls_client()
        c.cmd("AUTH LOGIN")
        c.cmd(b64(user))
        return c.cmd(b64(password))

    def by_auth(self, mech, frame):
        return self.tls_client().cmd(f"AUTH {mech} {frame}")

    def seen(self):
        """The login that reached a backend, the only one."""
        got = [c.login for b in (self.legacy, self.new)
               for c in b.connections if hasattr(c, "login")]
        self.assertEqual(len(got), 1)
        return got[0]

    def every_way(self, user):
        """The reply to a login of this user, by each mechanism."""
        return {"PASS": self.by_pass(user), "LOGIN": self.by_login(user),
                "PLAIN": self.by_auth("PLAIN", plain(user, "x")),
                "authzid": self.by_auth("PLAIN", plain("admin", "x", user)),
                "XOAUTH2": self.by_auth("XOAUTH2", xoauth2(user, "t")),
                "OAUTHBEARER": self.by_auth("OAUTHBEARER",
                                            oauthbearer(user, "t"))}


class Identifiers(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({
            "moved@example.com": "new",
            "al,i=ce@example.com": "new",
            "j\xfcrgen@example.com": "new",
            "back\\slash": "new",
            "@moved.example": "new",
            "stayed@moved.example": "legacy",
        })

    def test_of_each_mechanism(self):
        """USER name; PLAIN: authzid if given, else authcid; LOGIN: the user
        name; OAUTHBEARER: `a=` of the GS2 header; XOAUTH2: `user=`."""
        for user, want in (("moved@example.com", "+OK new"),
                           ("other@example.com", "+OK legacy"),
                           ("Moved@example.com", "+OK new"),
                           ("moved@example.com.x", "+OK legacy"),
                           ("moved", "+OK legacy")):
            for way, reply in self.every_way(user).items():
                with self.subTest(user=user, way=way):
                    self.assertEqual(reply, want)

    def test_plain_without_authzid(self):
        """PLAIN: authzid if given, else authcid"""
        self.assertEqual(self.by_auth("PLAIN", plain(
            "moved@example.com", "x", "other@example.com")), "+OK legacy")
        self.assertEqual(self.seen(), (
            "PLAIN", b"other@example.com\0moved@example.com\0x"))

    def test_gs2_name_is_decoded(self):
        """(`=2C`, `=3D` decoded)"""
        self.assertEqual(self.by_auth("OAUTHBEARER", b64(
            "n,a=al=2Ci=3Dce@example.com,\1auth=Bearer t\1\1")), "+OK new")
        # ... and the frame is sent on byte for byte.
        self.assertEqual(self.seen(), (
            "OAUTHBEARER",
            b"n,a=al=2Ci=3Dce@example.com,\1auth=Bearer t\1\1"))

    def test_gs2_flags_and_keys(self):
        """OAUTHBEARER: `a=` of the GS2 header"""
        frame = ("y,a=moved@example.com,\1host=h.example\1port=110\1"
                 "auth=Bearer t\1\1")
        self.assertEqual(self.by_auth("OAUTHBEARER", b64(frame)), "+OK new")
        self.assertEqual(self.seen(), ("OAUTHBEARER", frame.encode()))

    def test_eight_bits(self):
        """USER name"""
        user = "j\xfcrgen@example.com".encode().decode("latin-1")
        for way, reply in self.every_way(user).items():
            with self.subTest(way=way):
                self.assertEqual(reply, "+OK new")

    def test_odd_but_harmless(self):
        """Control characters, spaces or double quotes [and nothing else]"""
        self.assertEqual(self.by_pass("back\\slash"), "+OK new")
        for user in ("a+b@example.com", "a!b", "''--", "${HOME}", "*", "@",
                     "a@b@c", "=", "a,b", "<a>", "\xff\xfe"):
            with self.subTest(user=user):
                self.assertEqual(self.by_pass(user), "+OK legacy")

    def test_domain_entries(self):
        """store (identifier, then `@domain`), then `default_destination`"""
        for user, want in (("anybody@moved.example", "+OK new"),
                           ("a@b@moved.example", "+OK new"),
                           ("stayed@moved.example", "+OK legacy"),
                           ("a@sub.moved.example", "+OK legacy"),
                           ("@moved.example", "+OK new"),
                           ("@example.org", "+OK legacy"),
                           ("moved.example", "+OK legacy")):
            for way, reply in self.every_way(user).items():
                with self.subTest(user=user, way=way):
                    self.assertEqual(reply, want)

    def test_space_behind_a_user_name(self):
        """Old mail programs send what users typed into their settings"""
        for user in ("moved@example.com ", "moved@example.com   "):
            self.assertEqual(self.by_pass(user), "+OK new")

    def test_bad_identifiers(self):
        """Control characters, spaces or double quotes in it: `-ERR [AUTH]`,
        no backend is contacted."""
        bad = ["a b", "a\"b", "a\1b", "a\x1fb", "a\x7fb", "a\tb", "a\x1b[2Jb",
               "\"", " ", " moved@example.com"]
        for user in bad:
            with self.subTest(user=user, way="PASS"):
                self.assertReply(self.by_pass(user), "-ERR [AUTH]")
        for user in bad + ["a\rb", "a\nb", "a\r\nQUIT", "\r\n",
                           "moved@example.com "]:
            with self.subTest(user=user):
                self.assertReply(self.by_login(user), "-ERR [AUTH]")
                self.assertReply(self.by_auth("PLAIN", plain(user, "x")),
                                 "-ERR [AUTH]")
                self.assertReply(self.by_auth(
                    "PLAIN", plain("admin", "x", user)), "-ERR [AUTH]")
                if "\1" not in user:  # there it ends the field
                    self.assertReply(self.by_auth(
                        "XOAUTH2", xoauth2(user, "t")), "-ERR [AUTH]")
                    self.assertReply(self.by_auth(
                        "OAUTHBEARER", oauthbearer(user, "t")), "-ERR [AUTH]")
        self.assertEqual(self.legacy.connections + self.new.connections, [])

    def test_second_attempt_is_routed_afresh(self):
        """the client stays in the dialogue for another attempt, which is
        routed afresh"""
        c = self.tls_client()
        for user, password, want in (
                ("other@example.com", "wrong", "-ERR [AUTH] no"),
                ("moved@example.com", "wrong", "-ERR [AUTH] no"),
                ("other@example.com", "wrong", "-ERR [AUTH] no"),
                ("moved@example.com", "right", "+OK new")):
            c.cmd(f"USER {user}")
            self.assertEqual(c.cmd(f"PASS {password}"), want)
        self.assertEqual([len(self.legacy.connections),
                          len(self.new.connections)], [2, 2])
        for refused in self.legacy.connections + self.new.connections[:1]:
            refused.wait_finished()


class Tokens(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"moved@example.com": "new"},
                  {"oauth": {"jwt_username_claim": "login"}})

    def route(self, token):
        """Where a token leads, the same by both mechanisms; the frame has to
        arrive byte for byte."""
        replies = []
        for mech in ("OAUTHBEARER", "XOAUTH2"):
            self.legacy.forget()
            self.new.forget()
            frame = nobody(mech, token)
            replies.append(self.by_auth(mech, frame))
            self.assertEqual(self.seen(), (mech, base64.b64decode(frame)))
        self.assertEqual(replies[0], replies[1])
        return replies[0]

    def test_sw1(self):
        """`sw1.` tokens carry the address base64url-encoded after the last
        dot"""
        self.assertEqual(self.route(sw1("moved@example.com")), "+OK new")
        self.assertEqual(self.route(sw1("other@example.com")), "+OK legacy")
        self.assertEqual(self.route("sw1.x.@@@"), "+OK legacy")
        self.assertEqual(self.route("sw1."), "+OK legacy")

    def test_claims(self):
        """otherwise the JWT's payload claims, `jwt_username_claim` first,
        then `email`, `preferred_username`, `upn`, `unique_name`, `sub`"""
        names = ["login", "email", "preferred_username", "upn", "unique_name",
                 "sub"]
        for i, name in enumerate(names):
            with self.subTest(claim=name):
                claims = {later: "other@example.com" for later in names[i:]}
                claims[name] = "moved@example.com"
                # The order in the payload is not the order of preference.
                claims = dict(reversed(list(claims.items())))
                self.assertEqual(self.route(jwt(claims)), "+OK new")
        for name in ("login", "email", "sub"):
            claims = {name: "other@example.com"}
            self.assertEqual(self.route(jwt(claims)), "+OK legacy")

    def test_first_that_looks_like_an_address(self):
        """the first that looks like an address"""
        self.assertEqual(self.route(jwt({
            "login": "7d3e-uuid", "email": 12, "preferred_username": None,
            "upn": ["x"], "unique_name": "", "sub": "moved@example.com"})),
            "+OK new")

    def test_tokens_that_say_nothing(self):
        """None at all: default destination."""
        deep = "[" * 5000
        for token in ("opaque", "a.b.c", "..", "eyJ.@@.x",
                      jwt({"sub": "7d3e-uuid"}), jwt({}), jwt([1]),
                      "e30." + base64.urlsafe_b64encode(
                          deep.encode()).decode().rstrip("=") + ".x",
                      "x" * 8000):
            with self.subTest(token=token[:30]):
                self.assertEqual(self.route(token), "+OK legacy")

    def test_the_frame_comes_before_the_token(self):
        """A bearer frame that names nobody: the token itself"""
        token = jwt({"email": "moved@example.com"})
        self.assertEqual(self.by_auth("XOAUTH2", xoauth2(
            "other@example.com", token)), "+OK legacy")
        self.assertEqual(self.by_auth("OAUTHBEARER", oauthbearer(
            "other@example.com", token)), "+OK legacy")


class MasterAndDomain(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"alice@example.com": "new", "@other.example": "new"},
                  {"routing": {"default_domain": "example.com",
                               "master_user_separators": ["%", "*"]}})

    def test_default_domain(self):
        """normalised (`default_domain` for bare names)"""
        for user, want in (("alice", "+OK new"), ("bob", "+OK legacy"),
                           ("alice@example.com", "+OK new"),
                           ("alice@example.org", "+OK legacy")):
            for way, reply in self.every_way(user).items():
                with self.subTest(user=user, way=way):
                    self.assertEqual(reply, want)

    def test_sent_on_unchanged(self):
        """looked up as name@default_domain when the name has no @; sent on
        unchanged (CONFIG)"""
        self.assertEqual(self.by_pass("alice", "pw"), "+OK new")
        self.assertEqual(self.seen(), ("PLAIN", b"\0alice\0pw"))

    def test_master_user(self):
        """A master-user suffix is cut at the first separator, up to the end:
        `alice%admin@example.com` is routed as `alice` (with
        `default_domain`, if set)."""
        for user, want in (("alice%admin@example.com", "+OK new"),
                           ("alice%admin", "+OK new"),
                           ("alice*admin", "+OK new"),
                           ("alice%a*b", "+OK new"),
                           ("alice@example.com%bob@other.example", "+OK new"),
                           ("bob%alice", "+OK legacy"),
                           ("x@other.example%admin", "+OK new")):
            for way, reply in self.every_way(user).items():
                with self.subTest(user=user, way=way):
                    self.assertEqual(reply, want)

    def test_master_user_is_sent_on_unchanged(self):
        """"alice%admin" is routed as "alice", and sent on unchanged
        (CONFIG)"""
        self.assertEqual(self.by_pass("alice%admin", "pw"), "+OK new")
        self.assertEqual(self.seen(), ("PLAIN", b"\0alice%admin\0pw"))

    def test_nothing_left(self):
        """None at all: default destination."""
        self.assertEqual(self.by_pass("%admin"), "+OK legacy")


class DomainOfTheDefault(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"@example.com": "new", "bob@example.com": "legacy"},
                  {"routing": {"default_domain": "example.com"}})

    def test_bare_name_and_domain_entry(self):
        """lookups: the identifier, then "@domain", then default_destination
        (CONFIG)"""
        self.assertEqual(self.by_pass("alice"), "+OK new")
        self.assertEqual(self.by_pass("bob"), "+OK legacy")


class Lowercase(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"alice@example.com": "new", "@moved.example": "new"},
                  {"mapping": {"normalize": None}})

    def test_lowercase(self):
        """normalize: lowercase, the default (CONFIG)"""
        for user in ("alice@example.com", "ALICE@EXAMPLE.COM",
                     "x@MOVED.example"):
            for way, reply in self.every_way(user).items():
                with self.subTest(user=user, way=way):
                    self.assertEqual(reply, "+OK new")

    def test_sent_on_unchanged(self):
        """the client's mechanism and frame, byte for byte"""
        self.by_pass("ALICE@example.com", "PW")
        self.assertEqual(self.seen(), ("PLAIN", b"\0ALICE@example.com\0PW"))


class AsTyped(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"alice@example.com": "new"},
                  {"mapping": {"normalize": "none"}})

    def test_case_counts(self):
        """normalize: none (CONFIG)"""
        self.assertEqual(self.by_pass("alice@example.com"), "+OK new")
        self.assertEqual(self.by_pass("Alice@example.com"), "+OK legacy")


class AtSubstitutes(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"alice@example.com": "new", "alice+tag@example.com": "new",
                   "@moved.example": "new"},
                  {"routing": {"at_substitutes": "%+"}})

    def test_substitute_is_an_at(self):
        """with "%+", "alice%example.com" is looked up as alice@example.com
        when it has no @; sent on unchanged (CONFIG)"""
        for user, want in (("alice%example.com", "+OK new"),
                           ("Alice%Example.COM", "+OK new"),
                           ("alice+tag%example.com", "+OK new"),
                           ("bob+moved.example", "+OK new"),
                           ("alice%x@example.com", "+OK legacy"),
                           ("alice%", "+OK legacy")):
            for way, reply in self.every_way(user).items():
                with self.subTest(user=user, way=way):
                    self.assertEqual(reply, want)

    def test_sent_on_unchanged(self):
        """sent on unchanged (CONFIG)"""
        self.by_pass("alice%example.com", "pw")
        self.assertEqual(self.seen(),
                         ("PLAIN", b"\0alice%example.com\0pw"))


class Domains(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"anna@b\xfccher.example": "new",
                   "bert@xn--bcher-kva.example": "new",
                   "@stra\xdfe.example": "new", "carl@example.com.": "new"})

    def test_both_spellings(self):
        """The domain is folded to its A-label on both sides; a dot at its
        end is cut"""
        for user in ("anna@b\xfccher.example", "anna@xn--bcher-kva.example",
                     "anna@B\xdcCHER.example", "bert@b\xfccher.example",
                     "bert@XN--BCHER-KVA.example.", "x@stra\xdfe.example",
                     "x@xn--strae-oqa.example", "carl@example.com",
                     "carl@example.com."):
            with self.subTest(user=user):
                # The client sends octets.
                octets = user.encode().decode("latin-1")
                self.assertEqual(self.by_pass(octets), "+OK new")


class NoSeparators(Routing):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start({"a%b": "new"})

    def test_percent_is_a_letter(self):
        """master_user_separators: [] (CONFIG)"""
        self.assertEqual(self.by_pass("a%b"), "+OK new")


if __name__ == "__main__":
    unittest.main()
