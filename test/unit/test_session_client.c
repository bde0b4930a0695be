/* test_session_client.c: proves session_client.c: the leg on a bufferevent
 * pair, without a session, a socket or a clock that runs.
 *
 * One table has a row per state: how the leg gets there, and what each thing
 * that a client can do next leads to. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>

#include "net/tls_identity.h"
#include "net/tls_server.h"
#include "platform/hash.h"
#include "platform/util.h"
#include "proto/pop3.h"
#include "service/pop3_texts.h"
#include "session/client.h"
#include "session/linger.h"
#include "run.h"

static const char yaml[] =
    "listener:\n"
    "  pop3:\n"
    "    bind: [\"127.0.0.1:10110\"]\n"
    "    tls: starttls\n"
    "    max_bad_commands: 2\n"
    "    xclient_trusted: [192.0.2.9]\n"
    "capabilities:\n"
    "  pop3: { banner: hello }\n"
    "routing: { default_destination: x }\n"
    "destination:\n"
    "  x: { host: x.test, protocol: { pop3: { port: 110, "
    "tls: starttls } } }\n";

static struct event_base *base;
static struct bufferevent *peer; /* the client's end of the pair */
static struct bufferevent *ours;
static struct config *cfg;
static struct tls_identity_set *identities;
static struct tls_server *tls;
static struct pop3_texts *texts;
static struct linger_set *lingers;
static char scratch[CLIENT_SCRATCH];
static struct origin origin;

static const char *refuse; /* arrived()'s answer */
static int n_arrived, n_departed, n_login, n_malformed, n_closed;
static char account[64], closed_why[64];
static bool login_utf8;
static uint64_t deadline_ms;

static struct bufferevent *
fake_plain(struct event_base *b UNUSED, int fd UNUSED)
{
	return ours;
}

static struct bufferevent *
fake_upgrade(struct bufferevent *plain, SSL *ssl,
    enum bufferevent_ssl_state state)
{
	/* What was read in clear dies, as a socket's buffer does. */
	evbuffer_drain(bufferevent_get_input(plain),
	    evbuffer_get_length(bufferevent_get_input(plain)));
	return bufferevent_openssl_filter_new(base, plain, ssl, state,
	    BEV_OPT_CLOSE_ON_FREE);
}

static const struct transport pairs = {
    .plain = fake_plain,
    .upgrade = fake_upgrade,
};

static const char *
on_arrived(void *arg UNUSED)
{
	n_arrived++;
	return refuse;
}

static void
on_departed(void *arg UNUSED)
{
	n_departed++;
}

static void
on_login(void *arg UNUSED, const struct client_login *login)
{
	n_login++;
	login_utf8 = login->utf8;
	snprintf(account, sizeof(account), "%.*s", (int)login->cred->name.len,
	    login->cred->name.data);
}

static void
on_malformed(void *arg UNUSED, enum sasl_mechanism mech UNUSED,
    const char *what UNUSED)
{
	n_malformed++;
}

static void
on_deadline(void *arg UNUSED, uint64_t ms)
{
	deadline_ms = ms;
}

static void
on_closed(void *arg UNUSED, const char *why)
{
	n_closed++;
	snprintf(closed_why, sizeof(closed_why), "%s", why);
}

static const struct client_events events = {
    .arrived = on_arrived,
    .departed = on_departed,
    .login = on_login,
    .malformed = on_malformed,
    .deadline = on_deadline,
    .closed = on_closed,
};

static void
setup(void)
{
	struct config_problems problems = {NULL, 0, NULL, 0};
	struct bufferevent *pair[2];
	struct err err = {""};

	hash_init();
	tls_tickets_init();
	base = event_base_new();
	cfg = config_parse("test.yaml", yaml, strlen(yaml), &problems);
	ck_assert_ptr_nonnull(cfg);
	ck_assert_msg(problems.n_error == 0, "%s",
	    problems.n_error > 0 ? problems.error[0] : "");
	cfg->pop3.allow_plain_auth_without_tls = true;
	identities = tls_identities_load(cfg, &problems);
	ck_assert_ptr_nonnull(identities);
	config_problems_clear(&problems);
	tls = tls_server_new(cfg, identities, &err);
	ck_assert_msg(tls != NULL, "%s", err.text);
	texts = pop3_texts_new(cfg);
	lingers = linger_set_new(base);
	ck_assert_int_eq(bufferevent_pair_new(base, 0, pair), 0);
	ours = pair[0];
	peer = pair[1];
	bufferevent_enable(peer, EV_READ | EV_WRITE);
	memset(&origin, 0, sizeof(origin));
	strcpy(origin.id, "abc123");
	ck_assert(addr_parse("192.0.2.9:4000", &origin.client));
	ck_assert(addr_parse("192.0.2.1:110", &origin.local));
	refuse = NULL;
	n_arrived = n_departed = n_login = n_malformed = n_closed = 0;
	account[0] = closed_why[0] = '\0';
	deadline_ms = 0;
}

static void
teardown(void)
{
	if (peer != NULL)
		bufferevent_free(peer);
	linger_set_free(&lingers);
	pop3_texts_free(&texts);
	tls_server_free(&tls);
	tls_identities_free(&identities);
	config_free(&cfg);
	event_base_free(base);
}

static struct client *
start(const char *refusal)
{
	const struct client_spec spec = {
	    .base = base,
	    .transport = &pairs,
	    .pop3 = &cfg->pop3,
	    .listener = &cfg->listener[0],
	    .tls = tls,
	    .texts = texts,
	    .lingers = lingers,
	    .scratch = scratch,
	    .peer = origin.client,
	    .origin = &origin,
	    .refusal = refusal,
	    .events = &events,
	};
	struct client *c = client_start(&spec, -1);

	ck_assert_ptr_nonnull(c);
	return c;
}

/* Until nothing is left to do at once. */
static void
settle(void)
{
	for (int i = 0; i < 40; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

/* The next line that the client reads, or "". */
static const char *
heard(void)
{
	static char text[1024];
	char *l;

	settle();
	l = evbuffer_readln(bufferevent_get_input(peer), NULL,
	    EVBUFFER_EOL_CRLF_STRICT);
	snprintf(text, sizeof(text), "%s", l != NULL ? l : "");
	free(l);
	return text;
}

static void
say(const char *text)
{
	bufferevent_write(peer, text, strlen(text));
	settle();
}

static void
hear_out(void)
{
	settle();
	evbuffer_drain(bufferevent_get_input(peer), SIZE_MAX);
}

static void
answer(struct client *c, const char *line, const char *challenge,
    uint64_t delay, const char *end)
{
	const struct client_answer a = {
	    .line = line,
	    .len = strlen(line),
	    .challenge = challenge,
	    .challenge_len = challenge != NULL ? strlen(challenge) : 0,
	    .delay = delay,
	    .end = end,
	};

	client_answer(c, &a);
	settle();
}

/* Brings a leg that has greeted to a state. */
typedef void reach(struct client *c);

static void
reach_command(struct client *c UNUSED)
{
}

static void
reach_stls(struct client *c UNUSED)
{
	say("STLS\r\n");
}

static void
reach_response(struct client *c UNUSED)
{
	say("AUTH PLAIN\r\n");
}

static void
reach_login(struct client *c UNUSED)
{
	say("USER alice\r\nPASS secret\r\n");
}

static void
reach_delay(struct client *c)
{
	reach_login(c);
	answer(c, "-ERR [AUTH] no", NULL, 600000, NULL);
}

static void
reach_challenge(struct client *c)
{
	reach_login(c);
	answer(c, "-ERR [AUTH] no", "e30=", 0, NULL);
}

static const struct state_row {
	const char *name;
	reach *reach;
	/* What a line, its reply (or "" for none), leads to. */
	const char *line, *reply;
	/* Why it closes on an end, a reset, a timeout, a shutdown; "": not
	 * yet. */
	const char *end, *reset, *timeout, *shutdown;
} rows[] = {
    {"command", reach_command, "NOOP", "+OK", "client closed", "client lost",
	"timeout before login", "shutting down"},
    {"handshake", reach_stls, "NOOP", "", "TLS handshake failed",
	"TLS handshake failed", "timeout", "shutting down"},
    {"response", reach_response, "*", "-ERR Authentication cancelled.",
	"client closed", "client lost", "timeout before login",
	"shutting down"},
    {"login", reach_login, "NOOP", "", "", "client lost",
	"timeout before login", ""},
    {"delay", reach_delay, "NOOP", "", "", "client lost",
	"timeout before login", ""},
    {"challenge", reach_challenge, "what ever", "-ERR [AUTH] no",
	"client closed", "client lost", "timeout before login", ""},
};

static struct client *
reached(const struct state_row *row)
{
	struct client *c = start(NULL);

	ck_assert_str_eq(heard(), "+OK [XCLIENT] hello");
	row->reach(c);
	hear_out();
	ck_assert_int_eq(n_closed, 0);
	return c;
}

START_TEST(a_line_is_answered_or_waits)
{
	const struct state_row *row = &rows[_i];
	struct client *c = reached(row);
	char text[64];

	/* Junk is no handshake. */
	snprintf(text, sizeof(text), "%s\r\n", row->line);
	if (row->reach != reach_stls)
		say(text);
	ck_assert_str_eq(heard(), row->reply);
	client_free(&c);
}
END_TEST

/* Same input, same behaviour, one octet at a time. */
START_TEST(a_line_may_be_cut_anywhere)
{
	const struct state_row *row = &rows[_i];
	struct client *c;

	if (row->reach == reach_stls)
		return;
	c = reached(row);
	for (const char *p = row->line; *p != '\0'; p++) {
		bufferevent_write(peer, p, 1);
		settle();
	}
	ck_assert_str_eq(heard(), "");
	say("\r\n");
	ck_assert_str_eq(heard(), row->reply);
	client_free(&c);
}
END_TEST

START_TEST(an_end_closes_when_nothing_is_owed)
{
	const struct state_row *row = &rows[_i];
	struct client *c = reached(row);

	bufferevent_flush(peer, EV_WRITE, BEV_FINISHED);
	settle();
	ck_assert_str_eq(closed_why, row->end);
	client_free(&c);
}
END_TEST

START_TEST(a_reset_closes)
{
	const struct state_row *row = &rows[_i];
	struct client *c = reached(row);

	/* TLS sees the end of what is below it. */
	bufferevent_trigger_event(ours, BEV_EVENT_READING | BEV_EVENT_ERROR, 0);
	settle();
	ck_assert_str_eq(closed_why, row->reset);
	client_free(&c);
}
END_TEST

START_TEST(a_timeout_closes)
{
	const struct state_row *row = &rows[_i];
	struct client *c = reached(row);

	client_timeout(c);
	settle();
	ck_assert_str_eq(closed_why, row->timeout);
	ck_assert_int_eq(n_closed, 1);
	client_timeout(c);
	ck_assert_int_eq(n_closed, 1);
	client_free(&c);
}
END_TEST

START_TEST(a_shutdown_closes_unless_a_login_is_under_way)
{
	const struct state_row *row = &rows[_i];
	struct client *c = reached(row);

	client_shutdown(c, "bye");
	settle();
	ck_assert_str_eq(closed_why, row->shutdown);
	client_free(&c);
}
END_TEST

START_TEST(leg_can_be_dropped_at_any_time)
{
	struct client *c = reached(&rows[_i]);

	client_free(&c);
	settle();
	ck_assert_int_eq(n_closed, 0);
}
END_TEST

START_TEST(pipelined_commands_have_one_reply_each)
{
	struct client *c = reached(&rows[0]);

	say("NOOP\r\nSTAT\r\nNOOP\r\nUSER alice\r\nPASS secret\r\nSTAT\r\n");
	ck_assert_str_eq(heard(), "+OK");
	ck_assert_str_eq(heard(), "-ERR Log in first.");
	ck_assert_str_eq(heard(), "+OK");
	ck_assert_str_eq(heard(), "+OK");
	ck_assert_str_eq(heard(), "");
	ck_assert_int_eq(n_login, 1);
	ck_assert_str_eq(account, "alice");
	client_free(&c);
}
END_TEST

START_TEST(input_behind_the_login_is_handed_over)
{
	struct client *c = reached(&rows[0]);
	struct bufferevent *bev;
	SSL *ssl;
	char text[16];

	say("USER alice\r\nPASS secret\r\nSTAT\r\n");
	hear_out();
	bev = client_release(c, "+OK in", 6, &ssl);
	ck_assert_ptr_null(ssl);
	ck_assert_str_eq(heard(), "+OK in");
	ck_assert_int_eq(evbuffer_remove(bufferevent_get_input(bev), text,
			     sizeof(text)),
	    6);
	ck_assert_mem_eq(text, "STAT\r\n", 6);
	client_free(&c);
	bufferevent_free(bev);
}
END_TEST

START_TEST(refused_login_leads_back_to_the_dialogue)
{
	struct client *c = reached(&rows[3]);

	answer(c, "-ERR [AUTH] no", NULL, 0, NULL);
	ck_assert_str_eq(heard(), "-ERR [AUTH] no");
	say("NOOP\r\n");
	ck_assert_str_eq(heard(), "+OK");
	ck_assert_int_eq(n_closed, 0);
	client_free(&c);
}
END_TEST

START_TEST(last_refusal_closes_when_it_has_left)
{
	struct client *c = reached(&rows[3]);

	answer(c, "-ERR [AUTH] no", NULL, 0, "too many refused logins");
	ck_assert_str_eq(heard(), "-ERR [AUTH] no");
	ck_assert_str_eq(closed_why, "too many refused logins");
	client_free(&c);
}
END_TEST

START_TEST(bad_commands_have_a_limit)
{
	struct client *c = reached(&rows[0]);

	say("WHAT\r\n\r\nSTAT\r\nNOOP\r\n");
	ck_assert_str_eq(heard(), "-ERR Unknown command.");
	ck_assert_str_eq(heard(), "-ERR Unknown command.");
	ck_assert_str_eq(heard(), "-ERR Too many bad commands.");
	ck_assert_str_eq(closed_why, "too many bad commands");
	ck_assert_uint_eq(deadline_ms, 5000);
	client_free(&c);
}
END_TEST

START_TEST(overlong_lines_close)
{
	static const struct {
		const char *start;
		size_t len; /* that is too long, without an end */
	} t[] = {{"USER ", POP3_LINE_MAX}, {"XCLIENT ", POP3_XCLIENT_LINE_MAX},
	    {"AUTH ", POP3_AUTH_LINE_MAX}};
	struct client *c = reached(&rows[0]);
	char *text = malloc(t[_i].len);

	memset(text, 'x', t[_i].len);
	memcpy(text, t[_i].start, strlen(t[_i].start));
	bufferevent_write(peer, text, t[_i].len - 1);
	settle();
	ck_assert_int_eq(n_closed, 0);
	say("x");
	ck_assert_str_eq(heard(), "-ERR The line is too long.");
	ck_assert_str_eq(closed_why, "line too long");
	free(text);
	client_free(&c);
}
END_TEST

START_TEST(stls_discards_pipelined_user)
{
	struct client *c = reached(&rows[0]);

	say("USER alice\r\n");
	hear_out();
	say("STLS\r\nPASS secret\r\n");
	ck_assert_str_eq(heard(), "-ERR Nothing may follow STLS before TLS.");
	ck_assert_str_eq(closed_why, "data after STLS");
	ck_assert_int_eq(n_login, 0);
	client_free(&c);
}
END_TEST

START_TEST(xclient_in_clear_is_void_behind_stls)
{
	struct client *c = reached(&rows[0]);

	say("XCLIENT ADDR=198.51.100.7 SESSION=other TTL=5\r\n");
	ck_assert_str_eq(heard(), "+OK Updated");
	ck_assert_str_eq(origin.id, "other");
	ck_assert_uint_eq(origin.ttl, 5);
	say("STLS\r\n");
	ck_assert_str_eq(origin.id, "abc123");
	ck_assert_uint_eq(origin.ttl, 0);
	ck_assert_int_eq(n_departed, 1);
	client_free(&c);
}
END_TEST

START_TEST(tls_leads_back_to_the_dialogue)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	struct client *c = reached(&rows[0]);

	SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	say("STLS\r\n");
	ck_assert_str_eq(heard(), "+OK Begin TLS negotiation.");
	peer = bufferevent_openssl_filter_new(base, peer, SSL_new(ctx),
	    BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
	bufferevent_enable(peer, EV_READ | EV_WRITE);
	settle();
	ck_assert_str_eq(origin.tls_version, "TLSv1.2");
	say("STLS\r\n");
	ck_assert_str_eq(heard(), "-ERR STLS is not possible here.");
	client_free(&c);
	settle();
	SSL_CTX_free(ctx);
}
END_TEST

START_TEST(refused_at_the_door)
{
	struct client *c;

	refuse = NULL;
	c = start("No room.");
	ck_assert_str_eq(heard(), "-ERR [SYS/TEMP] No room.");
	ck_assert_str_eq(closed_why, "refused with the greeting");
	client_free(&c);
}
END_TEST

START_TEST(utf8_is_a_wish_of_the_login)
{
	struct client *c = reached(&rows[0]);

	say("UTF8\r\nUSER alice\r\nPASS x\r\n");
	ck_assert_int_eq(n_login, 1);
	ck_assert(login_utf8);
	client_free(&c);
}
END_TEST

START_TEST(http_closes_without_an_octet)
{
	struct client *c = reached(&rows[0]);

	say("GET / HTTP/1.1\r\n");
	ck_assert_str_eq(heard(), "");
	ck_assert_str_eq(closed_why, "HTTP request");
	client_free(&c);
}
END_TEST

START_TEST(malformed_message_is_told)
{
	struct client *c = reached(&rows[2]);

	say("not base64!\r\n");
	ck_assert_int_eq(n_malformed, 1);
	ck_assert_int_eq(n_login, 0);
	client_free(&c);
}
END_TEST

static Suite *
session_client_suite(void)
{
	Suite *suite = suite_create("session_client");
	TCase *tc = tcase_create("session_client");
	int n = (int)ARRAY_LEN(rows);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, a_line_is_answered_or_waits, 0, n);
	tcase_add_loop_test(tc, a_line_may_be_cut_anywhere, 0, n);
	tcase_add_loop_test(tc, an_end_closes_when_nothing_is_owed, 0, n);
	tcase_add_loop_test(tc, a_reset_closes, 0, n);
	tcase_add_loop_test(tc, a_timeout_closes, 0, n);
	tcase_add_loop_test(tc, a_shutdown_closes_unless_a_login_is_under_way,
	    0, n);
	tcase_add_loop_test(tc, leg_can_be_dropped_at_any_time, 0, n);
	tcase_add_test(tc, pipelined_commands_have_one_reply_each);
	tcase_add_test(tc, input_behind_the_login_is_handed_over);
	tcase_add_test(tc, refused_login_leads_back_to_the_dialogue);
	tcase_add_test(tc, last_refusal_closes_when_it_has_left);
	tcase_add_test(tc, bad_commands_have_a_limit);
	tcase_add_loop_test(tc, overlong_lines_close, 0, 3);
	tcase_add_test(tc, stls_discards_pipelined_user);
	tcase_add_test(tc, xclient_in_clear_is_void_behind_stls);
	tcase_add_test(tc, tls_leads_back_to_the_dialogue);
	tcase_add_test(tc, refused_at_the_door);
	tcase_add_test(tc, utf8_is_a_wish_of_the_login);
	tcase_add_test(tc, http_closes_without_an_octet);
	tcase_add_test(tc, malformed_message_is_told);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(session_client_suite());
}
