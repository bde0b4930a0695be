/* test_pop3.c: lines, commands, replies and capabilities. */

#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "proto/pop3.h"
#include "run.h"

#define OCTETS(s) (s), sizeof(s) - 1

/* At its exact size, so that a sanitizer sees a step too far. */
static char *
line_copy(const char *line, size_t len)
{
	char *copy = malloc(len > 0 ? len : 1);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, line, len);
	return copy;
}

static bool
slice_is(const char *data, size_t len, const char *want)
{
	return len == strlen(want) &&
	    (len == 0 || memcmp(data, want, len) == 0);
}

struct command_case {
	const char *line;
	enum pop3_verb verb;
	const char *arg; /* NULL: no space behind the verb */
};

static const struct command_case command_cases[] = {
    {"CAPA", POP3_CAPA, NULL},
    {"capa", POP3_CAPA, NULL},
    {"cApA", POP3_CAPA, NULL},
    {"CAPA x", POP3_CAPA, "x"},
    {"NOOP", POP3_NOOP, NULL},
    {"UTF8", POP3_UTF8, NULL},
    {"STLS", POP3_STLS, NULL},
    {"stls ", POP3_STLS, ""},
    {"USER", POP3_USER, NULL},
    {"USER ", POP3_USER, ""},
    {"USER alice", POP3_USER, "alice"},
    {"USER  alice ", POP3_USER, " alice "},
    {"PASS", POP3_PASS, NULL},
    {"PASS  a  b ", POP3_PASS, " a  b "},
    {"PASS \xc3\xa4\xff", POP3_PASS, "\xc3\xa4\xff"},
    {"PASS \ta\t", POP3_PASS, "\ta\t"},
    {"PASS GET /", POP3_PASS, "GET /"},
    {"AUTH", POP3_AUTH, NULL},
    {"AUTH PLAIN", POP3_AUTH, "PLAIN"},
    {"auth PLAIN =", POP3_AUTH, "PLAIN ="},
    {"APOP mrose c4c9334bac560ecc979e58001b3e22fb", POP3_APOP,
	"mrose c4c9334bac560ecc979e58001b3e22fb"},
    {"XCLIENT ADDR=192.0.2.1", POP3_XCLIENT, "ADDR=192.0.2.1"},
    {"QUIT", POP3_QUIT, NULL},
    {"quit", POP3_QUIT, NULL},
    {"STAT", POP3_TRANSACTION, NULL},
    {"LIST 1", POP3_TRANSACTION, "1"},
    {"RETR 1", POP3_TRANSACTION, "1"},
    {"DELE 1", POP3_TRANSACTION, "1"},
    {"RSET", POP3_TRANSACTION, NULL},
    {"TOP 1 10", POP3_TRANSACTION, "1 10"},
    {"UIDL", POP3_TRANSACTION, NULL},
    {"LAST", POP3_TRANSACTION, NULL},
    {"LANG en", POP3_TRANSACTION, "en"},
    {"", POP3_UNKNOWN, NULL},
    {" ", POP3_UNKNOWN, ""},
    {" USER alice", POP3_UNKNOWN, "USER alice"},
    {"USERalice", POP3_UNKNOWN, NULL},
    {"USE", POP3_UNKNOWN, NULL},
    {"USERS a", POP3_UNKNOWN, "a"},
    {"USER\talice", POP3_UNKNOWN, NULL},
    {"EHLO a.test", POP3_UNKNOWN, "a.test"},
    {"\x16\x03\x01", POP3_UNKNOWN, NULL},
    {"GET / HTTP/1.1", POP3_HTTP, "/ HTTP/1.1"},
    {"POST /x HTTP/1.1", POP3_HTTP, "/x HTTP/1.1"},
    {"HEAD / HTTP/1.0", POP3_HTTP, "/ HTTP/1.0"},
    {"PUT /", POP3_HTTP, "/"},
    {"DELETE /", POP3_HTTP, "/"},
    {"OPTIONS *", POP3_HTTP, "*"},
    {"CONNECT a.test:110", POP3_HTTP, "a.test:110"},
    {"TRACE /", POP3_HTTP, "/"},
    {"PATCH /", POP3_HTTP, "/"},
    {"PRI * HTTP/2.0", POP3_HTTP, "* HTTP/2.0"},
    {"GET", POP3_UNKNOWN, NULL},
    {"get / HTTP/1.1", POP3_UNKNOWN, "/ HTTP/1.1"},
    {"GETS /", POP3_UNKNOWN, "/"},
};

START_TEST(command_is_parsed)
{
	const struct command_case *c = &command_cases[_i];
	size_t len = strlen(c->line);
	char *line = line_copy(c->line, len);
	struct pop3_command cmd;

	ck_assert(pop3_command_parse(line, len, &cmd));
	ck_assert_msg(cmd.verb == c->verb, "%s: %d", c->line, (int)cmd.verb);
	ck_assert_msg(cmd.has_arg == (c->arg != NULL), "%s", c->line);
	ck_assert_msg(slice_is(cmd.arg, cmd.arg_len,
			  c->arg != NULL ? c->arg : ""),
	    "%s", c->line);
	free(line);
}
END_TEST

/* All 256 octets in every place of a command line. */
START_TEST(only_nul_and_line_ends_are_refused)
{
	for (int c = 0; c < 256; c++) {
		bool bad = c == '\0' || c == '\r' || c == '\n';

		for (size_t at = 0; at < 10; at++) {
			char line[] = "PASS abcde";
			struct pop3_command cmd;
			struct pop3_reply reply;

			line[at] = (char)c;
			ck_assert_int_eq(pop3_command_parse(line, 10, &cmd),
			    !bad);
			ck_assert(at < 5 || bad || cmd.arg == line + 5);
			memcpy(line, "-ERR ", 5);
			line[at] = (char)c;
			pop3_reply_parse(line, 10, &reply);
			ck_assert_msg(!bad || reply.kind == POP3_REPLY_BAD,
			    "%d at %zu", c, at);
			ck_assert_msg(bad || at < 5 ||
				(reply.kind == POP3_REPLY_ERR &&
				    reply.text_len == 5),
			    "%d at %zu", c, at);
		}
	}
}
END_TEST

struct auth_case {
	const char *arg;
	bool good;
	const char *mech, *ir; /* ir NULL: none */
};

static const struct auth_case auth_cases[] = {
    {"PLAIN", true, "PLAIN", NULL},
    {"plain", true, "plain", NULL},
    {"PLAIN ", true, "PLAIN", NULL},
    {"PLAIN =", true, "PLAIN", "="},
    {"PLAIN dGVzdAB0ZXN0AHRlc3Q=", true, "PLAIN", "dGVzdAB0ZXN0AHRlc3Q="},
    {"PLAIN *", true, "PLAIN", "*"},
    {"SCRAM-SHA-256-PLUS", true, "SCRAM-SHA-256-PLUS", NULL},
    {"A2345678901234567_-9", true, "A2345678901234567_-9", NULL},
    {"A23456789012345678901", false, NULL, NULL},
    {"", false, NULL, NULL},
    {" ", false, NULL, NULL},
    {" PLAIN", false, NULL, NULL},
    /* Windows Mail; a space behind it, as node-pop3 and curl send one. */
    {"PLAIN  =", true, "PLAIN", "="},
    {"PLAIN  ", true, "PLAIN", NULL},
    {"PLAIN = ", true, "PLAIN", "="},
    {"PLAIN a b", false, NULL, NULL},
    {"PLA/IN", false, NULL, NULL},
    {"PLAIN\t=", false, NULL, NULL},
    {"PL\xc3\x84IN", false, NULL, NULL},
};

START_TEST(auth_argument_is_split)
{
	const struct auth_case *c = &auth_cases[_i];
	size_t len = strlen(c->arg), mech_len, ir_len;
	char *arg = line_copy(c->arg, len);
	const char *mech, *ir;

	ck_assert_msg(pop3_auth_arg_parse(arg, len, &mech, &mech_len, &ir,
			  &ir_len) == c->good,
	    "%s", c->arg);
	if (c->good) {
		ck_assert_msg(slice_is(mech, mech_len, c->mech), "%s", c->arg);
		ck_assert_msg((ir != NULL) == (c->ir != NULL), "%s", c->arg);
		ck_assert_msg(slice_is(ir, ir_len, c->ir != NULL ? c->ir : ""),
		    "%s", c->arg);
	}
	free(arg);
}
END_TEST

START_TEST(lines_have_limits)
{
	static const struct {
		const char *start;
		size_t limit;
	} lines[] = {
	    {"AUTH PLAIN dGVz", POP3_AUTH_LINE_MAX},
	    {"auth xoauth2 dGVz", POP3_AUTH_LINE_MAX},
	    {"AUTH ", POP3_AUTH_LINE_MAX},
	    {"AUTH", POP3_LINE_MAX},
	    {"AUTHX", POP3_LINE_MAX},
	    {" AUTH ", POP3_LINE_MAX},
	    {"USER a", POP3_LINE_MAX},
	    {"PASS a", POP3_LINE_MAX},
	    {"", POP3_LINE_MAX},
	};

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		size_t len = strlen(lines[i].start);
		char *start = line_copy(lines[i].start, len);

		ck_assert_uint_eq(pop3_line_limit(start, len), lines[i].limit);
		free(start);
	}
}
END_TEST

struct reply_case {
	const char *line;
	enum pop3_reply_kind kind;
	enum pop3_code code;
	const char *text;
};

static const struct reply_case reply_cases[] = {
    {"+OK", POP3_REPLY_OK, POP3_CODE_NONE, ""},
    {"+OK ", POP3_REPLY_OK, POP3_CODE_NONE, ""},
    {"+OK Dovecot (Debian) ready.", POP3_REPLY_OK, POP3_CODE_NONE,
	"Dovecot (Debian) ready."},
    {"+ok small", POP3_REPLY_OK, POP3_CODE_NONE, "small"},
    {"+OK  two", POP3_REPLY_OK, POP3_CODE_NONE, " two"},
    {"+OK [AUTH] is no error", POP3_REPLY_OK, POP3_CODE_NONE,
	"[AUTH] is no error"},
    {"-ERR", POP3_REPLY_ERR, POP3_CODE_NONE, ""},
    {"-ERR no", POP3_REPLY_ERR, POP3_CODE_NONE, "no"},
    {"-err no", POP3_REPLY_ERR, POP3_CODE_NONE, "no"},
    {"-ERR [AUTH] Authentication failed.", POP3_REPLY_ERR, POP3_CODE_AUTH,
	"[AUTH] Authentication failed."},
    {"-ERR [auth] no", POP3_REPLY_ERR, POP3_CODE_AUTH, "[auth] no"},
    {"-ERR [AUTH]", POP3_REPLY_ERR, POP3_CODE_AUTH, "[AUTH]"},
    {"-ERR [IN-USE] Do you have another session?", POP3_REPLY_ERR,
	POP3_CODE_IN_USE, "[IN-USE] Do you have another session?"},
    {"-ERR [LOGIN-DELAY] wait", POP3_REPLY_ERR, POP3_CODE_LOGIN_DELAY,
	"[LOGIN-DELAY] wait"},
    {"-ERR [SYS/TEMP] later", POP3_REPLY_ERR, POP3_CODE_SYS,
	"[SYS/TEMP] later"},
    {"-ERR [SYS/PERM] never", POP3_REPLY_ERR, POP3_CODE_SYS,
	"[SYS/PERM] never"},
    {"-ERR [SYS] what", POP3_REPLY_ERR, POP3_CODE_SYS, "[SYS] what"},
    {"-ERR [REFERRAL/pop://a@b.test/] go", POP3_REPLY_ERR, POP3_CODE_REFERRAL,
	"[REFERRAL/pop://a@b.test/] go"},
    {"-ERR [REFERRAL pop://a] go", POP3_REPLY_ERR, POP3_CODE_REFERRAL,
	"[REFERRAL pop://a] go"},
    {"-ERR [EXPIRED] x", POP3_REPLY_ERR, POP3_CODE_NONE, "[EXPIRED] x"},
    {"-ERR [AUTHX] x", POP3_REPLY_ERR, POP3_CODE_NONE, "[AUTHX] x"},
    {"-ERR [AUTH x", POP3_REPLY_ERR, POP3_CODE_NONE, "[AUTH x"},
    {"-ERR [] x", POP3_REPLY_ERR, POP3_CODE_NONE, "[] x"},
    {"-ERR [", POP3_REPLY_ERR, POP3_CODE_NONE, "["},
    {"-ERR ]", POP3_REPLY_ERR, POP3_CODE_NONE, "]"},
    {"-ERR x [AUTH]", POP3_REPLY_ERR, POP3_CODE_NONE, "x [AUTH]"},
    {"+", POP3_REPLY_CONTINUE, POP3_CODE_NONE, ""},
    {"+ ", POP3_REPLY_CONTINUE, POP3_CODE_NONE, ""},
    {"+ eyJzdGF0dXMiOiI0MDAifQ==", POP3_REPLY_CONTINUE, POP3_CODE_NONE,
	"eyJzdGF0dXMiOiI0MDAifQ=="},
    {"+ OK", POP3_REPLY_CONTINUE, POP3_CODE_NONE, "OK"},
    {"+OKfoo", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"+OK\tfoo", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"+O", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"-ERRor", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"-", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"+dGVzdA==", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {" +OK", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"OK", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"220 a.test ESMTP", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"* OK IMAP4rev1 ready", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"HTTP/1.1 400 Bad Request", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
    {"SSH-2.0-OpenSSH_9.2", POP3_REPLY_BAD, POP3_CODE_NONE, ""},
};

START_TEST(reply_is_parsed)
{
	const struct reply_case *c = &reply_cases[_i];
	size_t len = strlen(c->line);
	char *line = line_copy(c->line, len);
	struct pop3_reply reply;

	pop3_reply_parse(line, len, &reply);
	ck_assert_msg(reply.kind == c->kind, "%s: %d", c->line,
	    (int)reply.kind);
	ck_assert_msg(reply.code == c->code, "%s: %d", c->line,
	    (int)reply.code);
	ck_assert_msg(slice_is(reply.text, reply.text_len, c->text), "%s",
	    c->line);
	ck_assert(reply.line == line && reply.line_len == len);
	free(line);
}
END_TEST

START_TEST(reply_about_password_is_known)
{
	static const struct {
		const char *line;
		bool about;
	} replies[] = {
	    {"-ERR [AUTH] no", true},
	    {"-ERR Password incorrect", true},
	    {"-ERR bad password", true},
	    {"-ERR PASSWORD supplied for \"x\" is incorrect.", true},
	    {"-ERR passwords", true},
	    {"-ERR passwor", false},
	    {"-ERR", false},
	    {"-ERR Protocol error. Connection is closed. 10", false},
	    {"-ERR [SYS/TEMP] later", false},
	    {"+OK password please", false},
	    {"+ password", false},
	    {"password", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(replies); i++) {
		struct pop3_reply reply;
		size_t len = strlen(replies[i].line);
		char *line = line_copy(replies[i].line, len);

		pop3_reply_parse(line, len, &reply);
		ck_assert_msg(pop3_reply_about_password(&reply) ==
			replies[i].about,
		    "%s", replies[i].line);
		free(line);
	}
}
END_TEST

START_TEST(xclient_is_seen_in_the_greeting)
{
	static const struct {
		const char *line;
		bool offered;
	} greetings[] = {
	    {"+OK [XCLIENT] Dovecot (Debian) ready.", true},
	    {"+OK [XCLIENT]", true},
	    {"+OK XCLIENT", true},
	    {"+OK XCLIENT ready", true},
	    {"+OK ready XCLIENT", true},
	    {"+OK a [XCLIENT] b", true},
	    {"+OK", false},
	    {"+OK ", false},
	    {"+OK ready", false},
	    {"+OK [XCLIENTS] x", false},
	    {"+OK XCLIENT-less", false},
	    {"+OK noXCLIENT", false},
	    {"+OK [xclient] x", false},
	    {"+OK [XCLIENT x", false},
	    {"+OK []", false},
	    {"+OK [", false},
	    {"-ERR [XCLIENT] no", false},
	    {"+ XCLIENT", false},
	    {"XCLIENT", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(greetings); i++) {
		struct pop3_reply reply;
		size_t len = strlen(greetings[i].line);
		char *line = line_copy(greetings[i].line, len);

		pop3_reply_parse(line, len, &reply);
		ck_assert_msg(pop3_greeting_offers_xclient(&reply) ==
			greetings[i].offered,
		    "%s", greetings[i].line);
		free(line);
	}
}
END_TEST

struct capability_case {
	const char *line;
	size_t len;
	struct pop3_capabilities caps;
};

#define PLAIN_LOGIN (SASL_BIT(SASL_PLAIN) | SASL_BIT(SASL_LOGIN))
#define BEARERS (SASL_BIT(SASL_OAUTHBEARER) | SASL_BIT(SASL_XOAUTH2))

static const struct capability_case capability_cases[] = {
    {OCTETS("STLS"), {.stls = true}},
    {OCTETS("stls"), {.stls = true}},
    {OCTETS("USER"), {.user = true}},
    {OCTETS("UTF8"), {.utf8 = true}},
    {OCTETS("UTF8 USER"), {.utf8 = true}}, /* Courier */
    {OCTETS("STLS x"), {.stls = true}},
    {OCTETS("SASL PLAIN LOGIN"), {.sasl = PLAIN_LOGIN}},
    {OCTETS("sasl plain login"), {.sasl = PLAIN_LOGIN}},
    {OCTETS("SASL XOAUTH2 CRAM-MD5 OAUTHBEARER"), {.sasl = BEARERS}},
    {OCTETS("SASL  PLAIN   LOGIN "), {.sasl = PLAIN_LOGIN}},
    {OCTETS("SASL PLAIN PLAIN"), {.sasl = SASL_BIT(SASL_PLAIN)}},
    {OCTETS("SASL"), {0}},
    {OCTETS("SASL "), {0}},
    {OCTETS("SASLPLAIN"), {0}},
    {OCTETS("SASL,PLAIN"), {0}},
    {OCTETS("SASL CRAM-MD5 NTLM"), {0}},
    {OCTETS("EXPIRENEVER"), {0}}, /* Mailutils */
    {OCTETS("EXPIRE NEVER"), {0}},
    {OCTETS("USERS"), {0}},
    {OCTETS(" USER"), {0}},
    {OCTETS("XUSER USER"), {0}},
    {OCTETS("TOP"), {0}},
    {OCTETS(""), {0}},
    {OCTETS(" "), {0}},
    {OCTETS("."), {0}},
    {OCTETS("USER\r"), {0}},
    {OCTETS("USER \0"), {0}},
    {OCTETS("SASL PLAIN\tLOGIN"), {0}},
};

START_TEST(capability_is_learnt)
{
	const struct capability_case *c = &capability_cases[_i];
	char *line = line_copy(c->line, c->len);
	struct pop3_capabilities caps = {0};

	pop3_capability_add(&caps, line, c->len);
	ck_assert_msg(caps.stls == c->caps.stls && caps.user == c->caps.user &&
		caps.utf8 == c->caps.utf8 && caps.sasl == c->caps.sasl,
	    "%s", c->line);
	free(line);
}
END_TEST

START_TEST(capabilities_add_up)
{
	struct pop3_capabilities caps = {0};

	pop3_capability_add(&caps, OCTETS("SASL PLAIN"));
	pop3_capability_add(&caps, OCTETS("STLS"));
	pop3_capability_add(&caps, OCTETS("SASL LOGIN"));
	pop3_capability_add(&caps, OCTETS("TOP"));
	ck_assert_uint_eq(caps.sasl, PLAIN_LOGIN);
	ck_assert(caps.stls && !caps.user && !caps.utf8);
}
END_TEST

START_TEST(capabilities_are_listed_in_order)
{
	static const enum sasl_mechanism sasl[] = {
	    SASL_XOAUTH2, SASL_PLAIN, SASL_OAUTHBEARER};
	char top[] = "TOP", expire[] = "EXPIRE NEVER";
	char *const advertise[] = {top, expire};
	struct pop3_capa_spec spec = {.stls = true,
	    .user = true,
	    .sasl = sasl,
	    .n_sasl = 3,
	    .advertise = advertise,
	    .n_advertise = 2,
	    .implementation = "mailferry"};
	char *text = pop3_capa_format(&spec);

	ck_assert_str_eq(text,
	    "+OK\r\n"
	    "STLS\r\n"
	    "USER\r\n"
	    "SASL XOAUTH2 PLAIN OAUTHBEARER\r\n"
	    "TOP\r\n"
	    "EXPIRE NEVER\r\n"
	    "IMPLEMENTATION mailferry\r\n"
	    ".\r\n");
	free(text);
}
END_TEST

START_TEST(absent_capabilities_leave_no_line)
{
	struct pop3_capa_spec spec = {.implementation = ""};
	char *text = pop3_capa_format(&spec);

	ck_assert_str_eq(text, "+OK\r\n.\r\n");
	free(text);
}
END_TEST

START_TEST(mechanisms_are_listed)
{
	static const enum sasl_mechanism sasl[] = {SASL_LOGIN, SASL_XOAUTH2};
	char *text = pop3_auth_list_format(sasl, 2);

	ck_assert_str_eq(text, "+OK\r\nLOGIN\r\nXOAUTH2\r\n.\r\n");
	free(text);
	text = pop3_auth_list_format(NULL, 0);
	ck_assert_str_eq(text, "+OK\r\n.\r\n");
	free(text);
}
END_TEST

static struct pop3_reply
reply_of(const char *text)
{
	struct pop3_reply r;

	pop3_reply_parse(text, strlen(text), &r);
	return r;
}

START_TEST(setup_refusals_are_told_from_wrong_passwords)
{
	static const struct {
		const char *line;
		bool setup;
	} t[] = {
	    {"-ERR [AUTH] Plaintext authentication disallowed on non-secure "
	     "(SSL/TLS) connections.",
		true},
	    {"-ERR TLS required to log in.", true},
	    {"-ERR [AUTH] USER command only available under a layer", true},
	    {"-ERR Unsupported authentication mechanism.", true},
	    {"-ERR use stls first", true},
	    {"-ERR [AUTH] Authentication failed.", false},
	    {"-ERR Login failed.", false},
	    {"-ERR wrong password for battles", false},
	    {"-ERR", false},
	    {"+OK TLS", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct pop3_reply r = reply_of(t[i].line);

		ck_assert_msg(pop3_reply_about_setup(&r) == t[i].setup, "%s",
		    t[i].line);
	}
}
END_TEST

START_TEST(prompts_are_told_from_error_documents)
{
	static const struct {
		const char *line;
		bool document;
	} t[] = {
	    {"+ eyJzdGF0dXMiOiI0MDAifQ==", true},
	    {"+ e30=", true},
	    {"+ ", false},
	    {"+", false},
	    {"+ go ahead", false},
	    {"+ =", false},
	    {"+ VXNlcm5hbWU6", false},
	    {"+ eyJ", false},
	    {"+ enter your token", false},
	    {"+OK eyJzdGF0dXMiOiI0MDAifQ==", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct pop3_reply r = reply_of(t[i].line);

		ck_assert_msg(pop3_reply_is_error_document(&r) == t[i].document,
		    "%s", t[i].line);
	}
}
END_TEST

START_TEST(other_protocols_are_named)
{
	static const struct {
		const char *line, *name;
	} t[] = {{"220 mail ESMTP", "SMTP"}, {"* OK IMAP4rev1", "IMAP"},
	    {"HTTP/1.1 400 Bad Request", "HTTP"}, {"hello", NULL}, {"", NULL}};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		const char *name =
		    pop3_other_protocol(t[i].line, strlen(t[i].line));

		if (t[i].name == NULL)
			ck_assert_ptr_null(name);
		else
			ck_assert_str_eq(name, t[i].name);
	}
}
END_TEST

static Suite *
pop3_suite(void)
{
	Suite *suite = suite_create("pop3");
	TCase *tc = tcase_create("pop3");

	tcase_add_loop_test(tc, command_is_parsed, 0,
	    (int)ARRAY_LEN(command_cases));
	tcase_add_test(tc, only_nul_and_line_ends_are_refused);
	tcase_add_loop_test(tc, auth_argument_is_split, 0,
	    (int)ARRAY_LEN(auth_cases));
	tcase_add_test(tc, lines_have_limits);
	tcase_add_loop_test(tc, reply_is_parsed, 0,
	    (int)ARRAY_LEN(reply_cases));
	tcase_add_test(tc, reply_about_password_is_known);
	tcase_add_test(tc, xclient_is_seen_in_the_greeting);
	tcase_add_loop_test(tc, capability_is_learnt, 0,
	    (int)ARRAY_LEN(capability_cases));
	tcase_add_test(tc, capabilities_add_up);
	tcase_add_test(tc, capabilities_are_listed_in_order);
	tcase_add_test(tc, absent_capabilities_leave_no_line);
	tcase_add_test(tc, mechanisms_are_listed);
	tcase_add_test(tc, setup_refusals_are_told_from_wrong_passwords);
	tcase_add_test(tc, prompts_are_told_from_error_documents);
	tcase_add_test(tc, other_protocols_are_named);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(pop3_suite());
}
