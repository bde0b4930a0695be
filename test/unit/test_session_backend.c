/* test_session_backend.c: proves session_backend.c: the leg on a bufferevent
 * pair, without a session, a socket or a clock that runs.
 *
 * One table has a row per state: how the leg gets there, and what each of
 * eight things that a backend can do next leads to. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <openssl/x509.h>

#include "net/tls_client.h"
#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/util.h"
#include "service/destination.h"
#include "service/gate.h"
#include "service/learnt.h"
#include "session/backend.h"
#include "run.h"

#define LINES_MAX 12

static struct event_base *base;
static struct bufferevent *peer; /* the backend's end of the pair */
static struct bufferevent *ours; /* the leg's end, until it has it */
static struct connector_spec dialled;
static enum connector_status dial_status;
static int n_dialled;
static SSL_CTX *server_ctx;

static struct config cfg;
static struct config_destination dest;
static struct credentials cred;
static struct origin origin;
static struct destination *shared;
static struct gate_place place;
static struct tls_client *tls;
static struct tls_trust *trust;

static bool done;
static bool accepted;
static enum failure why;
static char line[600], challenge[600], reason[300];
static uint64_t deadline_ms;

static struct connector *fake_connect(const struct connector_spec *spec);
static void fake_cancel(struct connector **c);
static struct bufferevent *fake_plain(struct event_base *b, int fd);
static struct bufferevent *fake_tls(struct event_base *b, int fd, SSL *ssl,
    enum bufferevent_ssl_state state);
static struct bufferevent *fake_upgrade(struct bufferevent *plain, SSL *ssl,
    enum bufferevent_ssl_state state);

static const struct transport pairs = {
    .connect = fake_connect,
    .cancel = fake_cancel,
    .plain = fake_plain,
    .tls = fake_tls,
    .upgrade = fake_upgrade,
};

static void
dialled_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg UNUSED)
{
	struct bufferevent *pair[2];
	struct addr addr = {.len = 0};

	if (dial_status == CONNECTOR_OK) {
		ck_assert_int_eq(bufferevent_pair_new(base, 0, pair), 0);
		if (peer != NULL)
			bufferevent_free(peer);
		ours = pair[0];
		peer = pair[1];
		bufferevent_enable(peer, EV_READ | EV_WRITE);
	}
	dialled.done(dialled.arg, dial_status, -1, &addr, "refused");
}

static struct connector *
fake_connect(const struct connector_spec *spec)
{
	dialled = *spec;
	n_dialled++;
	event_base_once(base, -1, EV_TIMEOUT, dialled_cb, NULL, NULL);
	return (struct connector *)&dialled;
}

static void
fake_cancel(struct connector **c)
{
	*c = NULL;
}

static struct bufferevent *
fake_plain(struct event_base *b UNUSED, int fd UNUSED)
{
	return ours;
}

static struct bufferevent *
fake_tls(struct event_base *b, int fd UNUSED, SSL *ssl,
    enum bufferevent_ssl_state state)
{
	return bufferevent_openssl_filter_new(b, ours, ssl, state,
	    BEV_OPT_CLOSE_ON_FREE);
}

static struct bufferevent *
fake_upgrade(struct bufferevent *plain, SSL *ssl,
    enum bufferevent_ssl_state state)
{
	return bufferevent_openssl_filter_new(base, plain, ssl, state,
	    BEV_OPT_CLOSE_ON_FREE);
}

static void
copy(char *out, size_t size, const char *text, size_t len)
{
	ck_assert_uint_lt(len, size);
	if (len > 0)
		memcpy(out, text, len);
	out[len] = '\0';
}

static void
leg_done(void *arg UNUSED, const struct backend_result *r)
{
	ck_assert(!done);
	done = true;
	accepted = r->accepted;
	why = r->why;
	copy(line, sizeof(line), r->line, r->line != NULL ? r->len : 0);
	copy(challenge, sizeof(challenge), r->challenge, r->challenge_len);
	snprintf(reason, sizeof(reason), "%s",
	    r->reason != NULL ? r->reason : "");
}

static void
leg_deadline(void *arg UNUSED, uint64_t ms)
{
	deadline_ms = ms;
}

static const struct backend_events events = {leg_done, leg_deadline};

/* A self-signed certificate in memory. */
static SSL_CTX *
server_new(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();

	ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -86400);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_set_pubkey(x, key);
	ck_assert_int_gt(X509_sign(x, key, EVP_sha256()), 0);
	ck_assert_int_eq(SSL_CTX_use_certificate(ctx, x), 1);
	ck_assert_int_eq(SSL_CTX_use_PrivateKey(ctx, key), 1);
	/* A filter would wait for more behind a record without data. */
	SSL_CTX_set_num_tickets(ctx, 0);
	X509_free(x);
	EVP_PKEY_free(key);
	return ctx;
}

static void
setup(void)
{
	hash_init();
	base = event_base_new();
	memset(&cfg, 0, sizeof(cfg));
	memset(&dest, 0, sizeof(dest));
	memset(&origin, 0, sizeof(origin));
	memset(&cred, 0, sizeof(cred));
	cfg.server.backend_timeout = 1000;
	cfg.server.backend_auth_timeout = 7000;
	cfg.server.proxy_ttl = 7;
	dest.name = strdup("old");
	dest.host = strdup("mail-old.internal");
	dest.tls_server_name = strdup("mail-old.internal");
	dest.tls_ca_file = strdup("");
	dest.tls_client_cert = strdup("");
	dest.tls_client_key = strdup("");
	dest.tls_allow_invalid_certs = true;
	dest.tls_min_version = TLS_V1_2;
	dest.allow_plaintext_auth = true;
	dest.pop3.present = true;
	dest.pop3.tls = TLS_PLAIN;
	dest.pop3.forwarding = FORWARD_XCLIENT;
	dest.pop3.auth = AUTH_AUTO;
	cfg.destination = &dest;
	cfg.n_destination = 1;
	ck_assert(addr_parse_ip("192.0.2.7", &origin.client));
	ck_assert(addr_parse_ip("192.0.2.1", &origin.local));
	strcpy(origin.id, "abc123");
	ck_assert(credentials_set_password(&cred, "USER", "alice", 5, "secret",
	    6));
	shared = destination_new(&dest);
	memset(&place, 0, sizeof(place));
	place.client = addr_client_hash(&origin.client);
	ck_assert_int_eq(destination_enter(shared, &place, &dest, "",
			     clock_ms()),
	    GATE_ENTERED);
	server_ctx = server_new();
	dial_status = CONNECTOR_OK;
	n_dialled = 0;
	done = accepted = false;
	peer = ours = NULL;
	deadline_ms = 0;
}

static void
teardown(void)
{
	credentials_clear(&cred);
	if (peer != NULL)
		bufferevent_free(peer);
	tls_client_free(&tls);
	tls_trust_free(&trust);
	ck_assert(destination_leave(shared, &place));
	destination_unref(&shared);
	SSL_CTX_free(server_ctx);
	free(dest.name);
	free(dest.host);
	free(dest.tls_server_name);
	free(dest.tls_ca_file);
	free(dest.tls_client_cert);
	free(dest.tls_client_key);
	event_base_free(base);
}

/* With the destination as it is configured by now. */
static void
tls_start(void)
{
	struct config_problems problems = {NULL, 0, NULL, 0};
	struct err err = {""};

	trust = tls_trust_load(&cfg, 0, &problems);
	ck_assert_ptr_nonnull(trust);
	tls = tls_client_new(&dest, trust, &err);
	ck_assert_ptr_nonnull(tls);
}

static struct backend *
start(bool utf8)
{
	struct backend_spec spec = {
	    .base = base,
	    .transport = &pairs,
	    .cfg = &cfg,
	    .dest = &dest,
	    .endpoint = &dest.pop3,
	    .shared = shared,
	    .place = &place,
	    .origin = &origin,
	    .cred = &cred,
	    .utf8 = utf8,
	    .events = &events,
	};
	struct backend *b;

	tls_start();
	spec.tls = tls;
	b = backend_start(&spec);
	ck_assert_ptr_nonnull(b);
	return b;
}

/* Until nothing is left to do at once. */
static void
settle(void)
{
	for (int i = 0; i < 40; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

/* The next line that the leg has sent, or "". */
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

/* What leads to a state: "S:" lines are said with CRLF, "C:" ones heard. */
static void
play(const char *const *steps)
{
	for (int i = 0; i < LINES_MAX && steps[i] != NULL; i++) {
		const char *text = steps[i] + 2;
		char whole[600];

		if (steps[i][0] == 'C') {
			ck_assert_str_eq(heard(), text);
		} else {
			snprintf(whole, sizeof(whole), "%s\r\n", text);
			say(whole);
		}
	}
}

enum stimulus {
	RIGHT,
	ERR,
	CONTINUE,
	GARBAGE,
	TWO, /* the right reply, and one more in the same read */
	END,
	RESET,
	TIMEOUT,
	STIMULI
};

#define STLS_LEG 1
#define XOAUTH2 2
#define UTF8 4
#define SASL_ONLY 8
#define USER_ONLY 16

/* after: what each stimulus leads to: a state's name, or "=" and a failure's,
 * or "=accepted". */
static const struct state_row {
	const char *state;
	int setup;
	const char *steps[LINES_MAX];
	const char *right;
	const char *after[STIMULI];
} rows[] = {
    {"greeting", 0, {NULL}, "+OK ready",
	{"learn", "=closed", "=protocol", "=protocol", "=protocol", "=closed",
	    "=closed", "=timeout"}},
    {"capa", STLS_LEG, {"S:+OK ready", "C:CAPA"}, "+OK",
	{"capa body", "=tls", "=protocol", "=protocol", "capa body", "=closed",
	    "=closed", "=timeout"}},
    {"capa body", STLS_LEG, {"S:+OK ready", "C:CAPA", "S:+OK", "S:STLS"}, ".",
	{"stls", "capa body", "capa body", "capa body", "=protocol", "=closed",
	    "=closed", "=timeout"}},
    {"stls", STLS_LEG,
	{"S:+OK ready", "C:CAPA", "S:+OK", "S:STLS", "S:.", "C:STLS"}, "+OK",
	{"handshake", "=tls", "=protocol", "=protocol", "=protocol", "=closed",
	    "=closed", "=timeout"}},
    {"xclient", 0,
	{"S:+OK [XCLIENT] ready",
	    "C:XCLIENT ADDR=192.0.2.7 DESTADDR=192.0.2.1 SESSION=abc123 TTL=7 "
	    "CLIENT-TRANSPORT=insecure"},
	"+OK Updated",
	{"learn", "=forwarding", "=protocol", "=protocol", "=protocol",
	    "=closed", "=closed", "=timeout"}},
    {"learn", 0, {"S:+OK ready", "C:CAPA"}, "+OK",
	{"learn body", "user", "=protocol", "=protocol", "learn body",
	    "greeting", "greeting", "=timeout"}},
    {"learn body", 0, {"S:+OK ready", "C:CAPA", "S:+OK", "S:USER"}, ".",
	{"user", "learn body", "learn body", "learn body", "=protocol",
	    "=closed", "=closed", "=timeout"}},
    {"utf8", UTF8 | USER_ONLY,
	{"S:+OK ready", "C:CAPA", "S:+OK", "S:UTF8 USER", "S:.", "C:UTF8"},
	"+OK",
	{"user", "user", "=protocol", "=protocol", "=protocol", "=closed",
	    "=closed", "=timeout"}},
    {"user", USER_ONLY, {"S:+OK ready", "C:USER alice"}, "+OK",
	{"pass", "=rejected", "=protocol", "=protocol", "=protocol", "=closed",
	    "=closed", "=timeout"}},
    {"pass", USER_ONLY,
	{"S:+OK ready", "C:USER alice", "S:+OK", "C:PASS secret"},
	"+OK Logged in.",
	{"=accepted", "=rejected", "=protocol", "=protocol", "=accepted",
	    "=dropped", "=dropped", "=unanswered"}},
    {"auth", 0,
	{"S:+OK ready", "C:CAPA", "S:+OK", "S:SASL PLAIN", "S:AUTH-RESP-CODE",
	    "S:.", "C:AUTH PLAIN AGFsaWNlAHNlY3JldA=="},
	"+OK Logged in.",
	{"=accepted", "=rejected", "auth result", "=protocol", "=accepted",
	    "=dropped", "=dropped", "=unanswered"}},
    {"auth prompt", XOAUTH2,
	{"S:+OK ready", "C:CAPA", "S:-ERR", "C:AUTH XOAUTH2"}, "+ ",
	{"auth result", "=setup", "auth result", "=protocol", "=protocol",
	    "=closed", "=closed", "=timeout"}},
    {"auth result", XOAUTH2,
	{"S:+OK ready", "C:CAPA", "S:-ERR", "C:AUTH XOAUTH2", "S:+",
	    "C:RlJBTUU="},
	"+OK Logged in.",
	{"=accepted", "=rejected", "cancel", "=protocol", "=accepted",
	    "=dropped", "=dropped", "=unanswered"}},
    {"cancel", XOAUTH2,
	{"S:+OK ready", "C:CAPA", "S:-ERR", "C:AUTH XOAUTH2", "S:+",
	    "C:RlJBTUU=", "S:+ e30=", "C:"},
	"-ERR [AUTH] no",
	{"=rejected", "=rejected", "=protocol", "=protocol", "=protocol",
	    "=rejected", "=rejected", "=rejected"}},
};

static void
configure(int setup_flags)
{
	if (setup_flags & STLS_LEG)
		dest.pop3.tls = TLS_STARTTLS;
	if (setup_flags & USER_ONLY)
		dest.pop3.auth = AUTH_USER;
	if (setup_flags & SASL_ONLY)
		dest.pop3.auth = AUTH_SASL;
	if (setup_flags & XOAUTH2) {
		credentials_clear(&cred);
		cred.how = "XOAUTH2";
		cred.mech = SASL_XOAUTH2;
		ck_assert(secret_set(&cred.frame, "RlJBTUU=", 8));
	}
}

static void
stimulate(struct backend *b, const struct state_row *row, enum stimulus what)
{
	char text[600];

	switch (what) {
	case RIGHT:
		snprintf(text, sizeof(text), "%s\r\n", row->right);
		say(text);
		return;
	case ERR:
		say("-ERR [AUTH] no\r\n");
		return;
	case CONTINUE:
		say("+ e30=\r\n");
		return;
	case GARBAGE:
		say("220 mail ESMTP\r\n");
		return;
	case TWO:
		snprintf(text, sizeof(text), "%s\r\n+OK\r\n", row->right);
		say(text);
		return;
	case END:
		bufferevent_flush(peer, EV_WRITE, BEV_FINISHED);
		break;
	case RESET:
		bufferevent_trigger_event(ours,
		    BEV_EVENT_READING | BEV_EVENT_ERROR, 0);
		break;
	case TIMEOUT:
		backend_timeout(b);
		break;
	case STIMULI:
		return;
	}
	settle();
}

static void
outcome(const struct backend *b, char *text, size_t size)
{
	if (!done)
		snprintf(text, size, "%s", backend_state_name(b));
	else
		snprintf(text, size, "=%s",
		    accepted ? "accepted" : failure_name(why));
}

START_TEST(every_state_knows_what_comes)
{
	const struct state_row *row = &rows[_i / STIMULI];
	enum stimulus what = (enum stimulus)(_i % STIMULI);
	struct backend *b;
	char text[64];

	configure(row->setup);
	b = start(row->setup & UTF8);
	settle();
	play(row->steps);
	ck_assert_str_eq(backend_state_name(b), row->state);
	ck_assert(!done);
	stimulate(b, row, what);
	outcome(b, text, sizeof(text));
	ck_assert_msg(strcmp(text, row->after[what]) == 0,
	    "%s, stimulus %d: %s, not %s (%s)", row->state, what, text,
	    row->after[what], reason);
	backend_free(&b);
	settle();
}
END_TEST

/* The same dialogue whole, and one octet at a time. */
START_TEST(replies_may_be_cut_anywhere)
{
	static const char said[] = "+OK ready\r\n";
	struct backend *b;

	dest.pop3.auth = AUTH_USER;
	b = start(false);
	settle();
	for (const char *p = said; *p != '\0'; p++) {
		ck_assert_str_eq(backend_state_name(b), "greeting");
		bufferevent_write(peer, p, 1);
		settle();
	}
	ck_assert_str_eq(heard(), "USER alice");
	backend_free(&b);
}
END_TEST

START_TEST(reply_without_an_end_is_cut_off)
{
	struct backend *b = start(false);
	char text[513];

	settle();
	memset(text, 'x', sizeof(text) - 1);
	memcpy(text, "+OK ", 4);
	text[512] = '\0';
	say(text);
	ck_assert(done && why == FAIL_PROTOCOL);
	backend_free(&b);
}
END_TEST

START_TEST(capabilities_without_an_end_are_cut_off)
{
	struct backend *b = start(false);

	settle();
	say("+OK ready\r\n");
	say("+OK\r\n");
	for (int i = 0; i < 100 && !done; i++)
		say("X-LINE\r\n");
	ck_assert(!done);
	say("X-LINE\r\n");
	ck_assert(done && why == FAIL_PROTOCOL);
	backend_free(&b);
}
END_TEST

START_TEST(no_credential_on_a_clear_leg_without_leave)
{
	struct backend *b;

	dest.allow_plaintext_auth = false;
	b = start(false);
	settle();
	say("+OK ready\r\n");
	ck_assert(done && why == FAIL_TLS);
	ck_assert_str_eq(heard(), "");
	backend_free(&b);
}
END_TEST

static struct bufferevent *
tls_peer(void)
{
	struct bufferevent *bev =
	    bufferevent_openssl_filter_new(base, peer, SSL_new(server_ctx),
		BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);

	bufferevent_enable(bev, EV_READ | EV_WRITE);
	settle();
	return bev;
}

START_TEST(stls_leads_to_a_login_over_tls)
{
	struct backend *b;
	SSL *ssl;
	struct bufferevent *bev;

	dest.pop3.tls = TLS_STARTTLS;
	dest.pop3.auth = AUTH_USER;
	dest.allow_plaintext_auth = false;
	b = start(false);
	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", "S:+OK", "S:STLS",
	    "S:.", "C:STLS", "S:+OK", NULL});
	peer = tls_peer();
	play((const char *const[]){
	    "C:USER alice", "S:+OK", "C:PASS secret", "S:+OK in", NULL});
	ck_assert(done && accepted);
	ck_assert_str_eq(line, "+OK in");
	ck_assert_ptr_nonnull(backend_facts(b)->tls);
	bev = backend_release(b, &ssl);
	ck_assert_ptr_nonnull(ssl);
	backend_free(&b);
	bufferevent_free(bev);
	settle();
}
END_TEST

/* A greeting in clear where TLS has to begin is no reply (CVE-2026-1642). */
START_TEST(plaintext_before_the_handshake_is_no_greeting)
{
	struct backend *b;

	dest.pop3.tls = TLS_IMPLICIT;
	b = start(false);
	settle();
	say("+OK ready\r\n");
	ck_assert(done && why == FAIL_TLS);
	backend_free(&b);
	settle();
}
END_TEST

START_TEST(failed_connection_is_tried_again)
{
	struct backend *b;

	cfg.server.backend_connect_retries = 1;
	dial_status = CONNECTOR_REFUSED;
	b = start(false);
	settle();
	ck_assert(!done);
	ck_assert_int_eq(n_dialled, 1);
	while (n_dialled < 2)
		event_base_loop(base, EVLOOP_ONCE);
	settle();
	ck_assert(done && why == FAIL_CONNECT);
	backend_free(&b);
}
END_TEST

START_TEST(deadline_moves_with_the_login)
{
	struct backend *b;

	dest.pop3.auth = AUTH_USER;
	b = start(false);
	ck_assert_uint_eq(deadline_ms, 1000);
	settle();
	say("+OK ready\r\n");
	ck_assert_uint_eq(deadline_ms, 7000);
	backend_free(&b);
}
END_TEST

START_TEST(challenge_is_answered_at_once_and_kept)
{
	struct backend *b;

	configure(XOAUTH2);
	b = start(false);
	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", "S:-ERR",
	    "C:AUTH XOAUTH2", "S:+",
	    "C:RlJBTUU=", "S:+ e30=", "C:", "S:-ERR [AUTH] expired", NULL});
	ck_assert(done && why == FAIL_REJECTED);
	ck_assert_str_eq(challenge, "e30=");
	ck_assert_str_eq(line, "-ERR [AUTH] expired");
	backend_free(&b);
}
END_TEST

/* Servers that hang up on CAPA, or on AUTH: the next form, on a fresh
 * connection, and remembered. */
START_TEST(hanging_up_is_an_answer)
{
	struct backend *b = start(false);

	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", NULL});
	bufferevent_flush(peer, EV_WRITE, BEV_FINISHED);
	settle();
	ck_assert_int_eq(n_dialled, 2);
	play((const char *const[]){"S:+OK ready", "C:USER alice", NULL});
	backend_free(&b);
}
END_TEST

START_TEST(auth_that_hangs_up_leads_to_user)
{
	struct backend *b = start(false);

	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", "S:+OK",
	    "S:SASL PLAIN", "S:.", "C:AUTH PLAIN", NULL});
	bufferevent_flush(peer, EV_WRITE, BEV_FINISHED);
	settle();
	ck_assert_int_eq(n_dialled, 2);
	play((const char *const[]){"S:+OK ready", "C:USER alice", "S:+OK",
	    "C:PASS secret", "S:+OK", NULL});
	ck_assert(accepted);
	backend_free(&b);
}
END_TEST

/* Without AUTH-RESP-CODE a refusal after an inline response may be the form or
 * the password: two steps, so that no password is ever sent twice. */
START_TEST(wrong_password_without_a_code_is_sent_once)
{
	static const char *const refusals[] = {"S:-ERR", "S:-ERR Login failed.",
	    "S:-ERR access denied", "S:-ERR Unable to log on"};
	struct backend *b = start(false);

	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", "S:+OK",
	    "S:SASL PLAIN", "S:.", "C:AUTH PLAIN", "S:+",
	    "C:AGFsaWNlAHNlY3JldA==", refusals[_i], NULL});
	ck_assert(done && why == FAIL_REJECTED);
	ck_assert_str_eq(line, refusals[_i] + 2);
	backend_free(&b);
}
END_TEST

START_TEST(prompt_of_any_words_is_a_prompt)
{
	static const char *const prompts[] = {
	    "S:+", "S:+ go ahead", "S:+ =", "S:+ VXNlcm5hbWU6"};
	struct backend *b = start(false);

	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", "S:+OK",
	    "S:SASL PLAIN", "S:AUTH-RESP-CODE", "S:.",
	    "C:AUTH PLAIN AGFsaWNlAHNlY3JldA==", prompts[_i],
	    "C:AGFsaWNlAHNlY3JldA==", "S:+OK", NULL});
	ck_assert(accepted);
	backend_free(&b);
}
END_TEST

/* What is remembered may be another server's: CAPA is asked again, and if it
 * says the same as before, the refusal stands. */
START_TEST(doubtful_refusal_is_looked_into)
{
	struct addr none = {.len = 0};
	struct backend *b;

	/* CAPA, PLAIN and an inline PLAIN are known. */
	learnt_set(destination_memory(shared), &none, clock_ms(),
	    1 << 0 | 1 << 1 | 1 << 6);
	b = start(false);
	settle();
	play((const char *const[]){"S:+OK ready",
	    "C:AUTH PLAIN AGFsaWNlAHNlY3JldA==", "S:-ERR no", "C:CAPA", "S:+OK",
	    NULL});
	if (_i == 0) {
		play((const char *const[]){"S:SASL PLAIN", "S:.", NULL});
		ck_assert(done && why == FAIL_REJECTED);
		ck_assert_str_eq(line, "-ERR no");
	} else {
		play((const char *const[]){
		    "S:USER", "S:.", "C:USER alice", NULL});
		ck_assert(!done);
	}
	backend_free(&b);
}
END_TEST

START_TEST(configuration_that_refuses_is_no_wrong_password)
{
	struct backend *b;

	dest.pop3.auth = AUTH_USER;
	b = start(false);
	settle();
	play((const char *const[]){"S:+OK ready", "C:USER alice",
	    "S:-ERR [AUTH] Plaintext authentication disallowed on non-secure "
	    "(SSL/TLS) connections.",
	    NULL});
	ck_assert(done && why == FAIL_SETUP);
	ck_assert_str_eq(line, "");
	backend_free(&b);
}
END_TEST

START_TEST(other_protocols_are_named_in_the_reason)
{
	struct backend *b = start(false);

	settle();
	say("* OK IMAP4rev1 ready\r\n");
	ck_assert(done && why == FAIL_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(reason, "speaks IMAP"));
	backend_free(&b);
}
END_TEST

START_TEST(hidden_errors_show_nothing)
{
	struct backend *b;

	dest.hide_auth_errors = true;
	configure(XOAUTH2);
	b = start(false);
	settle();
	play((const char *const[]){"S:+OK ready", "C:CAPA", "S:-ERR",
	    "C:AUTH XOAUTH2", "S:+",
	    "C:RlJBTUU=", "S:+ e30=", "C:", "S:-ERR [AUTH] expired", NULL});
	ck_assert(done && why == FAIL_REJECTED);
	ck_assert_str_eq(challenge, "");
	ck_assert_str_eq(line, "-ERR [AUTH] Authentication failed.");
	backend_free(&b);
}
END_TEST

/* In every state, and with a result that has not been told yet. */
START_TEST(leg_can_be_dropped_at_any_time)
{
	const struct state_row *row = &rows[_i];
	struct backend *b;

	configure(row->setup);
	b = start(row->setup & UTF8);
	settle();
	play(row->steps);
	backend_timeout(b);
	backend_free(&b);
	settle();
	ck_assert(!done);
}
END_TEST

static Suite *
session_backend_suite(void)
{
	Suite *suite = suite_create("session_backend");
	TCase *tc = tcase_create("session_backend");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, every_state_knows_what_comes, 0,
	    (int)(ARRAY_LEN(rows) * STIMULI));
	tcase_add_test(tc, replies_may_be_cut_anywhere);
	tcase_add_test(tc, reply_without_an_end_is_cut_off);
	tcase_add_test(tc, capabilities_without_an_end_are_cut_off);
	tcase_add_test(tc, no_credential_on_a_clear_leg_without_leave);
	tcase_add_test(tc, stls_leads_to_a_login_over_tls);
	tcase_add_test(tc, plaintext_before_the_handshake_is_no_greeting);
	tcase_add_test(tc, failed_connection_is_tried_again);
	tcase_add_test(tc, deadline_moves_with_the_login);
	tcase_add_test(tc, challenge_is_answered_at_once_and_kept);
	tcase_add_test(tc, hanging_up_is_an_answer);
	tcase_add_test(tc, auth_that_hangs_up_leads_to_user);
	tcase_add_loop_test(tc, wrong_password_without_a_code_is_sent_once, 0,
	    4);
	tcase_add_loop_test(tc, prompt_of_any_words_is_a_prompt, 0, 4);
	tcase_add_loop_test(tc, doubtful_refusal_is_looked_into, 0, 2);
	tcase_add_test(tc, configuration_that_refuses_is_no_wrong_password);
	tcase_add_test(tc, other_protocols_are_named_in_the_reason);
	tcase_add_test(tc, hidden_errors_show_nothing);
	tcase_add_loop_test(tc, leg_can_be_dropped_at_any_time, 0,
	    (int)ARRAY_LEN(rows));
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(session_backend_suite());
}
