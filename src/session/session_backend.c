/* session_backend.c: the backend leg up to the result of the login:
 *
 *	connect -> [PROXY header] -> [TLS] -> greeting -> [CAPA -> STLS -> TLS]
 *	-> [XCLIENT] -> [CAPA] -> [UTF8] -> login
 *
 * One command gets one reply: a byte more means that the two sides understand
 * the dialogue differently, and then no password is sent. No credential is sent
 * before backend_safe() has allowed it.
 *
 * The result is reported from the loop (backend_end(), backend_end_cb()), so
 * the leg is never freed while a function of it is on the stack. */

#include "session/backend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/err.h>

#include "net/connector.h"
#include "net/tls_client.h"
#include "platform/clock.h"
#include "proto/base64.h"
#include "proto/pop3.h"
#include "proto/proxy_protocol.h"
#include "service/destination.h"
#include "service/learnt.h"
#include "session/line.h"
#include "tls_leg.h"

#define BACKEND_INPUT_MAX (16 * 1024)
#define BACKEND_CHALLENGE_MAX (16 * 1024) /* octets of one challenge line */
#define BACKEND_RETRY_MS 100
#define BACKEND_ANEW_MAX 2
#define BACKEND_AT_WORK_MS 1000 /* a login held so long is being worked on */

/* What the leg waits for. */
enum backend_state {
	BACKEND_CONNECT, /* the connector, or the pause before a retry */
	BACKEND_HANDSHAKE, /* TLS */
	BACKEND_GREETING, /* the backend sends first */
	BACKEND_CAPA, /* must offer STLS; forgotten afterwards */
	BACKEND_CAPA_BODY,
	BACKEND_STLS, /* a byte after its "+OK" is an attack */
	BACKEND_XCLIENT,
	BACKEND_LEARN, /* CAPA again, on the secured leg */
	BACKEND_LEARN_BODY,
	BACKEND_UTF8,
	BACKEND_USER,
	BACKEND_PASS, /* credentials are out */
	BACKEND_AUTH, /* mechanism and initial response are out */
	BACKEND_AUTH_PROMPT, /* the mechanism alone is out */
	BACKEND_AUTH_RESULT, /* the response is out */
	BACKEND_CANCEL, /* "*" is out; "-ERR" is due */
	BACKEND_OVER, /* nothing: the result is known */
	BACKEND_STATES
};

/* What is remembered of a server (learnt.h). How AUTH is taken is known for each
 * mechanism by itself: Exchange Online takes PLAIN inline, XOAUTH2 not. */
enum backend_learnt {
	LEARNT_CAPA = 1 << 0, /* the next five are known */
	LEARNT_PLAIN = 1 << 1, /* it offers SASL PLAIN */
	LEARNT_USER = 1 << 2, /* it offers USER */
	LEARNT_UTF8 = 1 << 3,
	LEARNT_CODES =
	    1 << 4, /* AUTH-RESP-CODE: a wrong password says [AUTH] */
	LEARNT_IN_STEP = 1 << 5, /* it takes our PROXY header for one */
	LEARNT_INLINE = 1 << 6, /* has taken an inline response; << mechanism */
	LEARNT_TWO_STEP = 1 << 10 /* has refused one; << mechanism */
};
_Static_assert(1 << (10 + SASL_MECHANISMS) <= 1 << LEARNT_BITS, "too many");

struct backend {
	struct backend_spec spec;
	struct backend_facts facts;
	enum backend_state state;
	struct connector *connector;
	struct event *pause; /* before a retry; later for BACKEND_AT_WORK_MS */
	struct event *end; /* reports the result */
	uint64_t ready_by; /* clock_ms(); where backend_timeout ends */
	struct bufferevent *bev;
	SSL *ssl; /* bev's */
	unsigned retries; /* left */
	bool tls_again; /* a handshake failed for what it offered */
	struct addr after; /* the last connection was there and failed */
	bool xclient_offered;
	bool fallback; /* an inline response was refused just now */
	bool user_pass; /* AUTH PLAIN was refused as such */
	bool in_step; /* it is sure to have understood our PROXY header */
	bool fresh; /* learnt is of this connection, not remembered */
	bool doubtful; /* AUTH was refused from memory; CAPA is asked again */
	unsigned
	    anew; /* times that another form was tried on a new connection */
	uint32_t learnt;
	struct pop3_capabilities caps; /* being read */
	size_t capa_lines, capa_octets;
	char *challenge; /* the backend's, before it refuses a token */
	size_t challenge_len;
	struct backend_result result; /* its texts are in text */
	char text[POP3_LINE_MAX];
};

typedef void backend_reply(struct backend *b, const struct pop3_reply *reply);

static void backend_connect(struct backend *b);
static void backend_connected(void *arg, enum connector_status status, int fd,
    const struct addr *peer, const char *reason);
static void backend_take_fd(struct backend *b, int fd);
static bool backend_send_proxy(struct backend *b, int fd);
static void backend_listen(struct backend *b);
static void backend_plain(struct backend *b, int fd);
static void backend_tls(struct backend *b, int fd);
static void backend_handshaken(struct backend *b);
static void backend_handshake_failed(struct backend *b);
static void backend_tls_again(struct backend *b, const char *reason);
static void backend_reset(struct backend *b);
static void backend_pause_cb(evutil_socket_t fd, short what, void *arg);
static void backend_fail(struct backend *b, enum failure why,
    const char *reason);
static void backend_fail_reply(struct backend *b, enum failure why,
    const char *reason, const struct pop3_reply *reply);
static void backend_retry(struct backend *b, enum failure why,
    const char *reason);
static void backend_end(struct backend *b);
static void backend_end_cb(evutil_socket_t fd, short what, void *arg);
static enum destination_fault backend_fault(const struct backend *b,
    enum failure why);
static void backend_blame(struct backend *b, enum failure why);
static void backend_event_cb(struct bufferevent *bev, short what, void *arg);
static void backend_read_cb(struct bufferevent *bev, void *arg);
static bool backend_line(struct backend *b, char *line, size_t *len_out);
static void backend_line_done(struct backend *b, const char *line, size_t len);
static bool backend_alone(struct backend *b);
static bool backend_next_form(struct backend *b);
static void backend_lost(struct backend *b);
static bool backend_is_out(const struct backend *b);
static void backend_forget_plain(struct backend *b);
static void backend_capa_line(struct backend *b, const char *line, size_t len);
static void backend_send(struct backend *b, enum backend_state state,
    const char *line);
static void backend_enter(struct backend *b, enum backend_state state);
static backend_reply backend_greeting, backend_capa, backend_stls,
    backend_xclient, backend_learnt, backend_utf8_done, backend_user_done,
    backend_auth_inline, backend_auth_prompt, backend_auth_result,
    backend_result;
static void backend_capa_done(struct backend *b);
static void backend_secured(struct backend *b);
static size_t backend_xclient_line(struct backend *b, char *line, size_t size);
static void backend_learn(struct backend *b);
static uint32_t backend_offered(const struct pop3_capabilities *caps);
static void backend_learn_body_done(struct backend *b);
static void backend_learn_done(struct backend *b, uint32_t bits);
static void backend_remember(struct backend *b, uint32_t bits);
static void backend_utf8(struct backend *b);
static void backend_login(struct backend *b);
static bool backend_safe(struct backend *b, struct err *err);
static void backend_credentials_out(struct backend *b,
    enum backend_state state);
static void backend_well(struct backend *b);
static void backend_log_up(struct backend *b);
static void backend_login_password(struct backend *b);
static void backend_login_user(struct backend *b);
static void backend_pass(struct backend *b);
static void backend_auth(struct backend *b, const char *b64, size_t len);
static void backend_auth_two_step(struct backend *b);
static void backend_response(struct backend *b);
static void backend_write_secret(struct backend *b, const char *before,
    const char *secret, size_t len);
static uint32_t backend_bit(const struct backend *b, enum backend_learnt bits);
static bool backend_may_inline(const struct backend *b);
static void backend_auth_refused(struct backend *b,
    const struct pop3_reply *reply);
static void backend_doubt(struct backend *b, const struct pop3_reply *reply);
static void backend_sure(struct backend *b);
static void backend_keep(struct backend *b, const struct pop3_reply *reply);
static bool backend_is_form(const struct pop3_reply *reply);
static void backend_connect_anew(struct backend *b);
static void backend_warn_no_xclient(struct backend *b);
static const char *backend_garbage(const struct backend *b, const char *line,
    size_t len, char *text, size_t size);
static void backend_challenge(struct backend *b,
    const struct pop3_reply *reply);
static bool backend_is_busy(const struct pop3_reply *reply);
static void backend_accepted(struct backend *b, const struct pop3_reply *reply);
static void backend_refused(struct backend *b, const struct pop3_reply *reply);
static bool backend_is_password(const struct backend *b);

/* Reply kinds, for backend_rows. */
#define ROW_OK (1u << POP3_REPLY_OK)
#define ROW_ERR (1u << POP3_REPLY_ERR)
#define ROW_CONTINUE (1u << POP3_REPLY_CONTINUE)
#define ROW_OK_OR_ERR (ROW_OK | ROW_ERR)
#define ROW_ANY (ROW_OK | ROW_ERR | ROW_CONTINUE)

/* Everything about a state except the meaning of its reply. */
static const struct backend_row {
	const char *name; /* for the log */
	size_t line_max; /* of a reply, its end included; 0: none is due */
	unsigned in_place; /* reply kinds that may come */
	unsigned more; /* kinds that more may follow in the same read */
	/* The meaning of an EOF or a timeout. Anything but CLOSED means that
	 * credentials are out. */
	enum failure eof;
	backend_reply *reply; /* NULL: a body line, or none is due */
} backend_rows[] = {
    [BACKEND_CONNECT] = {"connect", 0, 0, 0, FAIL_CLOSED, NULL},
    [BACKEND_HANDSHAKE] = {"handshake", 0, 0, 0, FAIL_CLOSED, NULL},
    [BACKEND_GREETING] = {"greeting", POP3_LINE_MAX, ROW_OK_OR_ERR, 0,
	FAIL_CLOSED, backend_greeting},
    [BACKEND_CAPA] = {"capa", POP3_LINE_MAX, ROW_OK_OR_ERR, ROW_OK, FAIL_CLOSED,
	backend_capa},
    [BACKEND_CAPA_BODY] = {"capa body", POP3_LINE_MAX, 0, 0, FAIL_CLOSED, NULL},
    [BACKEND_STLS] = {"stls", POP3_LINE_MAX, ROW_OK_OR_ERR, 0, FAIL_CLOSED,
	backend_stls},
    [BACKEND_XCLIENT] = {"xclient", POP3_LINE_MAX, ROW_OK_OR_ERR, 0,
	FAIL_CLOSED, backend_xclient},
    [BACKEND_LEARN] = {"learn", POP3_LINE_MAX, ROW_OK_OR_ERR, ROW_OK,
	FAIL_CLOSED, backend_learnt},
    [BACKEND_LEARN_BODY] = {"learn body", POP3_LINE_MAX, 0, 0, FAIL_CLOSED,
	NULL},
    [BACKEND_UTF8] = {"utf8", POP3_LINE_MAX, ROW_OK_OR_ERR, 0, FAIL_CLOSED,
	backend_utf8_done},
    [BACKEND_USER] = {"user", POP3_LINE_MAX, ROW_OK_OR_ERR, 0, FAIL_CLOSED,
	backend_user_done},
    [BACKEND_PASS] = {"pass", POP3_LINE_MAX, ROW_OK_OR_ERR, ROW_OK,
	FAIL_DROPPED, backend_result},
    [BACKEND_AUTH] = {"auth", BACKEND_CHALLENGE_MAX, ROW_ANY, ROW_OK,
	FAIL_DROPPED, backend_auth_inline},
    [BACKEND_AUTH_PROMPT] = {"auth prompt", BACKEND_CHALLENGE_MAX,
	ROW_ERR | ROW_CONTINUE, 0, FAIL_CLOSED, backend_auth_prompt},
    [BACKEND_AUTH_RESULT] = {"auth result", BACKEND_CHALLENGE_MAX, ROW_ANY,
	ROW_OK, FAIL_DROPPED, backend_auth_result},
    [BACKEND_CANCEL] = {"cancel", POP3_LINE_MAX, ROW_ERR, 0, FAIL_REJECTED,
	backend_refused},
    [BACKEND_OVER] = {"over", 0, 0, 0, FAIL_CLOSED, NULL},
};
_Static_assert(ARRAY_LEN(backend_rows) == BACKEND_STATES, "unnamed state");

struct backend *
backend_start(const struct backend_spec *spec)
{
	struct backend *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return NULL;
	b->spec = *spec;
	/* A probe has one try: others wait for its verdict. */
	b->retries =
	    spec->place->probe ? 0 : spec->cfg->server.backend_connect_retries;
	b->ready_by = clock_ms() + spec->cfg->server.backend_timeout;
	b->pause = evtimer_new(spec->base, backend_pause_cb, b);
	b->end = event_new(spec->base, -1, 0, backend_end_cb, b);
	if (b->pause == NULL || b->end == NULL) {
		backend_free(&b);
		return NULL;
	}
	spec->events->deadline(spec->arg, spec->cfg->server.backend_timeout);
	backend_connect(b);
	return b;
}

const struct backend_facts *
backend_facts(const struct backend *b)
{
	return &b->facts;
}

const char *
backend_state_name(const struct backend *b)
{
	return backend_rows[b->state].name;
}

/* The socket */

static void
backend_connect(struct backend *b)
{
	const struct connector_spec spec = {
	    .base = b->spec.base,
	    .resolver = b->spec.resolver,
	    .cfg = b->spec.cfg,
	    .dest = b->spec.dest,
	    .port = b->spec.endpoint->port,
	    .after = b->after,
	    .turns = b->spec.turns,
	    .done = backend_connected,
	    .arg = b,
	};

	backend_enter(b, BACKEND_CONNECT);
	b->connector = b->spec.transport->connect(&spec);
	if (b->connector == NULL)
		backend_fail(b, FAIL_LOCAL, "out of memory");
}

static void
backend_connected(void *arg, enum connector_status status, int fd,
    const struct addr *peer, const char *reason)
{
	struct backend *b = arg;

	b->connector = NULL;
	switch (status) {
	case CONNECTOR_OK:
		b->facts.addr = *peer;
		backend_take_fd(b, fd);
		return;
	case CONNECTOR_RESOLVE:
		backend_fail(b, FAIL_RESOLVE, reason);
		return;
	case CONNECTOR_REFUSED:
		backend_fail(b, FAIL_CONNECT, reason);
		return;
	case CONNECTOR_LOOP:
		backend_fail(b, FAIL_LOOP, reason);
		return;
	case CONNECTOR_LOCAL:
		backend_fail(b, FAIL_LOCAL, reason);
		return;
	}
}

static void
backend_take_fd(struct backend *b, int fd)
{
	if (b->spec.endpoint->forwarding == FORWARD_PROXY &&
	    !backend_send_proxy(b, fd)) {
		close(fd);
		backend_fail(b, FAIL_CLOSED, "cannot send the PROXY header");
	} else if (b->spec.endpoint->tls == TLS_IMPLICIT) {
		backend_tls(b, fd);
	} else {
		backend_plain(b, fd);
	}
}

/* Sends it as one segment, alone and first: a new socket's buffer always has
 * room. */
static bool
backend_send_proxy(struct backend *b, int fd)
{
	const struct origin *o = b->spec.origin;
	bool ours = o->transport == XCLIENT_TRANSPORT_UNSET;
	const struct proxy_out p = {
	    .src = o->client,
	    .dst = o->local,
	    .tls = origin_encrypted(o),
	    /* Nothing else is known of a client leg that ends elsewhere. */
	    .tls_version = ours ? o->tls_version : NULL,
	    .tls_cipher = ours ? o->tls_cipher : NULL,
	    .authority = o->server_name,
	    .session = o->id,
	    .ttl = origin_ttl_out(o, b->spec.cfg->server.proxy_ttl),
	};
	uint8_t header[1024];
	size_t len = proxy_header_format(&p, header, sizeof(header));

	return len > 0 && send(fd, header, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* Sets up a new bufferevent. */
static void
backend_listen(struct backend *b)
{
	bufferevent_setcb(b->bev, backend_read_cb, NULL, backend_event_cb, b);
	bufferevent_setwatermark(b->bev, EV_READ, 0, BACKEND_INPUT_MAX);
	bufferevent_enable(b->bev, EV_READ);
}

/* Takes ownership of fd. */
static void
backend_plain(struct backend *b, int fd)
{
	b->bev = b->spec.transport->plain(b->spec.base, fd);
	if (b->bev == NULL) {
		close(fd);
		backend_fail(b, FAIL_LOCAL, "out of memory");
		return;
	}
	backend_enter(b, BACKEND_GREETING);
	backend_listen(b);
}

/* Takes ownership of fd. -1: the connection is b->bev's, in clear so far. */
static void
backend_tls(struct backend *b, int fd)
{
	const struct transport *t = b->spec.transport;
	struct bufferevent *plain = b->bev;

	backend_enter(b, BACKEND_HANDSHAKE);
	b->ssl = tls_client_ssl(b->spec.tls, !b->tls_again);
	if (b->ssl == NULL && fd != -1)
		close(fd);
	if (b->ssl == NULL) {
		backend_fail(b, FAIL_LOCAL, "out of memory");
		return;
	}
	if (plain != NULL)
		b->bev = t->upgrade(plain, b->ssl, BUFFEREVENT_SSL_CONNECTING);
	else
		b->bev = t->tls(b->spec.base, fd, b->ssl,
		    BUFFEREVENT_SSL_CONNECTING);
	if (b->bev == NULL) {
		b->ssl = NULL;
		if (plain == NULL)
			close(fd);
		backend_fail(b, FAIL_LOCAL, "out of memory");
		return;
	}
	backend_listen(b);
}

static void
backend_handshaken(struct backend *b)
{
	struct err err = {""};

	tls_leg_secured(b->bev, b->ssl);
	b->facts.tls = SSL_get_version(b->ssl);
	b->facts.cipher = SSL_get_cipher_name(b->ssl);
	if (!tls_client_verified(b->spec.tls, b->ssl, &err))
		backend_fail(b, FAIL_TLS, err.text);
	else if (b->spec.endpoint->tls == TLS_IMPLICIT)
		backend_enter(b, BACKEND_GREETING);
	else
		backend_secured(b);
}

static void
backend_handshake_failed(struct backend *b)
{
	unsigned long code = bufferevent_get_openssl_error(b->bev);
	/* A reset has a code as well, but OpenSSL no words for it. */
	bool tls = ERR_reason_error_string(code) != NULL ||
	    SSL_get_verify_result(b->ssl) != X509_V_OK;
	struct err err = {""};
	bool again = tls_client_failed(b->spec.tls, b->ssl, code, &err);

	ERR_clear_error();
	if (again && !b->tls_again)
		backend_tls_again(b, err.text);
	else
		backend_fail(b, tls ? FAIL_TLS : FAIL_CLOSED, err.text);
}

/* A handshake failed because of its offer: tries once more with less, at the
 * same address. Nobody is to blame. */
static void
backend_tls_again(struct backend *b, const char *reason)
{
	static const struct timeval at_once = {0, 0};
	struct log_line l;

	origin_log(&l, LOG_INFO, b->spec.origin,
	    "trying the backend again with a plainer TLS handshake");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_cstr(&l, "reason", reason);
	log_end(&l);
	b->tls_again = true;
	backend_reset(b);
	backend_enter(b, BACKEND_CONNECT);
	evtimer_add(b->pause, &at_once);
}

/* Goes back to the state before the connection, but keeps what was learnt. */
static void
backend_reset(struct backend *b)
{
	b->spec.transport->cancel(&b->connector);
	if (b->pause != NULL)
		evtimer_del(b->pause);
	if (b->bev != NULL) {
		if (b->ssl != NULL && SSL_is_init_finished(b->ssl)) {
			SSL_shutdown(b->ssl);
			ERR_clear_error();
		}
		bufferevent_free(b->bev);
	}
	b->bev = NULL;
	b->ssl = NULL;
	b->xclient_offered = b->in_step = b->fresh = false;
}

void
backend_free(struct backend **bp)
{
	struct backend *b = *bp;

	if (b == NULL)
		return;
	*bp = NULL;
	backend_reset(b);
	if (b->pause != NULL)
		event_free(b->pause);
	if (b->end != NULL)
		event_free(b->end);
	free(b->challenge);
	free(b);
}

static void
backend_pause_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct backend *b = arg;

	if (b->state == BACKEND_CONNECT) {
		backend_connect(b);
	} else if (destination_at_work(b->spec.shared, b->spec.place)) {
		backend_log_up(b);
	}
}

/* The leg cannot go on: makes another connection, or ends this login. */
static void
backend_fail(struct backend *b, enum failure why, const char *reason)
{
	if (b->state == BACKEND_OVER)
		return;
	b->result.line = NULL;
	backend_blame(b, why);
	if (failure_retries(why) && b->retries > 0 && !backend_is_out(b)) {
		backend_retry(b, why, reason);
		return;
	}
	snprintf(b->text, sizeof(b->text), "%s (waiting for: %s)", reason,
	    backend_rows[b->state].name);
	b->result.why = why;
	b->result.reason = b->text;
	backend_end(b);
}

/* With the backend's own words behind ours. */
static void
backend_fail_reply(struct backend *b, enum failure why, const char *reason,
    const struct pop3_reply *reply)
{
	char text[256];

	snprintf(text, sizeof(text), "%s: %.*s", reason,
	    (int)(reply->line_len < 128 ? reply->line_len : 128), reply->line);
	backend_fail(b, why, text);
}

static void
backend_retry(struct backend *b, enum failure why, const char *reason)
{
	struct timeval tv = {0, BACKEND_RETRY_MS * 1000};
	uint64_t now = clock_ms();
	struct log_line l;

	origin_log(&l, LOG_INFO, b->spec.origin, "trying the backend again");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_cstr(&l, "failure", failure_name(why));
	log_cstr(&l, "reason", reason);
	log_end(&l);
	b->retries--;
	if (b->state != BACKEND_CONNECT)
		b->after = b->facts.addr;
	backend_reset(b);
	backend_enter(b, BACKEND_CONNECT);
	evtimer_add(b->pause, &tv);
	/* The login may have had its own deadline already. */
	b->spec.events->deadline(b->spec.arg,
	    b->ready_by > now ? b->ready_by - now : 1);
}

/* b->result is complete: stops input, and reports it from the loop. */
static void
backend_end(struct backend *b)
{
	backend_enter(b, BACKEND_OVER);
	evtimer_del(b->pause);
	if (b->bev != NULL)
		bufferevent_disable(b->bev, EV_READ);
	event_active(b->end, 0, 0);
}

static void
backend_end_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct backend *b = arg;

	b->result.challenge = b->challenge;
	b->result.challenge_len = b->challenge_len;
	b->spec.events->done(b->spec.arg, &b->result);
}

void
backend_timeout(struct backend *b)
{
	if (b->state == BACKEND_CANCEL)
		backend_fail(b, FAIL_REJECTED,
		    "no reply after the backend's challenge");
	else if (backend_is_out(b))
		backend_fail(b, FAIL_UNANSWERED,
		    "no answer to the login in time");
	else
		backend_fail(b,
		    b->state == BACKEND_CONNECT ? FAIL_NO_CONNECT
						: FAIL_TIMEOUT,
		    b->state == BACKEND_GREETING && b->ssl == NULL
			? "not ready in time; a port for implicit TLS or for "
			  "a PROXY header sends no greeting"
			: "not ready in time");
}

/* Whose failure it is, by what the backend has heard by now. */
static enum destination_fault
backend_fault(const struct backend *b, enum failure why)
{
	if (failure_blame(why) == BLAME_HOST)
		return DESTINATION_HOST;
	switch (b->state) {
	case BACKEND_CONNECT:
	case BACKEND_HANDSHAKE:
	case BACKEND_GREETING:
		return why == FAIL_CLOSED ? DESTINATION_TURNED_AWAY
					  : DESTINATION_EARLY;
	case BACKEND_CAPA:
	case BACKEND_CAPA_BODY:
	case BACKEND_STLS:
	case BACKEND_XCLIENT:
	case BACKEND_LEARN:
	case BACKEND_LEARN_BODY:
	case BACKEND_UTF8:
		return DESTINATION_EARLY;
	case BACKEND_USER:
	case BACKEND_PASS:
	case BACKEND_AUTH:
	case BACKEND_AUTH_PROMPT:
	case BACKEND_AUTH_RESULT:
	case BACKEND_CANCEL:
	case BACKEND_OVER:
	case BACKEND_STATES:
		break;
	}
	return DESTINATION_LOGIN;
}

/* Tells the breaker. */
static void
backend_blame(struct backend *b, enum failure why)
{
	const struct config_server *cfg = &b->spec.cfg->server;
	const struct destination_health rules = {cfg->host_down_threshold,
	    cfg->host_down_min_clients, cfg->host_down_cooldown};
	struct log_line l;

	if (failure_blame(why) == BLAME_NOBODY)
		return;
	if (!destination_failed(b->spec.shared, b->spec.place, &rules,
		clock_ms(), backend_fault(b, why)))
		return;
	origin_log(&l, LOG_ERR, b->spec.origin, "destination is down");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_uint(&l, "cooldown_ms", cfg->host_down_cooldown);
	log_cstr(&l, "failure", failure_name(why));
	log_end(&l);
}

static void
backend_event_cb(struct bufferevent *bev, short what, void *arg)
{
	struct backend *b = arg;
	bool broken;

	if (what & BEV_EVENT_CONNECTED) {
		/* The TCP connection exists, so this failure is TLS's. */
		backend_handshaken(b);
		return;
	}
	if (b->state == BACKEND_HANDSHAKE) {
		backend_handshake_failed(b);
		return;
	}
	broken = b->ssl != NULL && bufferevent_get_openssl_error(bev) != 0;
	ERR_clear_error();
	/* Read its last bytes first: the callback is not called again. */
	if (what & BEV_EVENT_EOF)
		backend_read_cb(bev, b);
	if (b->bev != bev || b->state == BACKEND_OVER)
		return;
	/* Octets that are no TLS are no answer to a command. */
	if (broken || !backend_next_form(b))
		backend_lost(b);
}

/* There are servers that hang up on CAPA, on AUTH, or on an inline response:
 * tries the next form on a fresh connection, unless credentials are out.
 * Returns false if there is no next form. */
static bool
backend_next_form(struct backend *b)
{
	bool user =
	    backend_is_password(b) && b->spec.endpoint->auth == AUTH_AUTO;

	if (b->state == BACKEND_LEARN && b->doubtful) {
		backend_sure(b);
		return true;
	}
	/* For the next login: this one was sent, and is not repeated. */
	if (b->state == BACKEND_AUTH)
		backend_remember(b, backend_bit(b, LEARNT_TWO_STEP));
	if (b->anew == BACKEND_ANEW_MAX)
		return false;
	if (b->state == BACKEND_LEARN) {
		backend_remember(b, LEARNT_CAPA);
	} else if (b->state == BACKEND_AUTH_PROMPT && b->fallback) {
		b->fallback = false;
	} else if (b->state == BACKEND_AUTH_PROMPT && user) {
		/* There was no inline response to blame. */
		backend_forget_plain(b);
	} else {
		return false;
	}
	backend_connect_anew(b);
	return true;
}

/* The connection ended before the answer that was due. A login that was sent may
 * have locked the maildrop. */
static void
backend_lost(struct backend *b)
{
	backend_fail(b, backend_rows[b->state].eof,
	    backend_is_out(b) ? "closed without answering the login"
			      : "closed the connection");
}

static void
backend_connect_anew(struct backend *b)
{
	b->anew++;
	backend_reset(b);
	b->ready_by = clock_ms() + b->spec.cfg->server.backend_timeout;
	b->spec.events->deadline(b->spec.arg,
	    b->spec.cfg->server.backend_timeout);
	backend_connect(b);
}

/* Remembers that passwords go by USER and PASS there. */
static void
backend_forget_plain(struct backend *b)
{
	b->user_pass = true;
	b->learnt &= ~(uint32_t)LEARNT_PLAIN;
	learnt_set(destination_memory(b->spec.shared), &b->facts.addr,
	    clock_ms(), b->learnt | LEARNT_CAPA);
}

/* Whether credentials are out on this connection. */
static bool
backend_is_out(const struct backend *b)
{
	return backend_rows[b->state].eof != FAIL_CLOSED;
}

/* Replies */

static void
backend_read_cb(struct bufferevent *bev, void *arg)
{
	struct backend *b = arg;
	char line[BACKEND_CHALLENGE_MAX];
	size_t len;

	tls_leg_data(b->ssl);
	/* A retry, or TLS, has another bufferevent. */
	while (b->bev == bev && backend_line(b, line, &len))
		backend_line_done(b, line, len);
}

static bool
backend_line(struct backend *b, char *line, size_t *len_out)
{
	size_t max = backend_rows[b->state].line_max;

	if (max == 0)
		return false;
	switch (line_take(bufferevent_get_input(b->bev), max, line, len_out)) {
	case LINE_OK:
		return true;
	case LINE_MORE:
		return false;
	case LINE_LONG:
		break;
	}
	backend_fail(b, FAIL_PROTOCOL, "the backend's reply line is too long");
	return false;
}

static void
backend_line_done(struct backend *b, const char *line, size_t len)
{
	const struct backend_row *row = &backend_rows[b->state];
	struct pop3_reply reply;
	char text[160];

	if (row->reply == NULL) {
		backend_capa_line(b, line, len);
		return;
	}
	pop3_reply_parse(line, len, &reply);
	if (reply.kind == POP3_REPLY_BAD)
		backend_fail(b, FAIL_PROTOCOL,
		    backend_garbage(b, line, len, text, sizeof(text)));
	else if (reply.kind != POP3_REPLY_CONTINUE && len + 2 > POP3_LINE_MAX)
		backend_fail(b, FAIL_PROTOCOL,
		    "the backend's reply line is too long");
	else if ((row->more & 1u << reply.kind) == 0 && !backend_alone(b))
		return;
	else if ((row->in_place & 1u << reply.kind) == 0)
		backend_fail(b, FAIL_PROTOCOL,
		    reply.kind == POP3_REPLY_CONTINUE
			? "an unexpected challenge"
			: "an unexpected reply");
	else
		row->reply(b, &reply);
}

static const char *
backend_garbage(const struct backend *b, const char *line, size_t len,
    char *text, size_t size)
{
	const char *other = b->state == BACKEND_GREETING
	    ? pop3_other_protocol(line, len)
	    : NULL;

	if (other == NULL)
		return "the backend's reply is not POP3";
	snprintf(text, size, "port %u speaks %s, not POP3",
	    (unsigned)b->spec.endpoint->port, other);
	return text;
}

/* Whether the reply just taken was all that came. */
static bool
backend_alone(struct backend *b)
{
	if (evbuffer_get_length(bufferevent_get_input(b->bev)) == 0)
		return true;
	backend_fail(b, FAIL_PROTOCOL,
	    "the backend sent more than one reply (does its port expect a "
	    "PROXY header?)");
	return false;
}

static void
backend_capa_line(struct backend *b, const char *line, size_t len)
{
	b->capa_octets += len + 2;
	if (++b->capa_lines > POP3_CAPA_LINES_MAX ||
	    b->capa_octets > POP3_CAPA_OCTETS_MAX)
		backend_fail(b, FAIL_PROTOCOL,
		    "the backend's capabilities have no end");
	else if (len != 1 || line[0] != '.')
		pop3_capability_add(&b->caps, line, len);
	else if (!backend_alone(b))
		return;
	else if (b->state == BACKEND_CAPA_BODY)
		backend_capa_done(b);
	else
		backend_learn_body_done(b);
}

/* Sends a line and waits for its reply in the state given. */
static void
backend_send(struct backend *b, enum backend_state state, const char *line)
{
	struct evbuffer *out = bufferevent_get_output(b->bev);

	backend_enter(b, state);
	if (evbuffer_add(out, line, strlen(line)) == -1 ||
	    evbuffer_add(out, "\r\n", 2) == -1)
		backend_fail(b, FAIL_LOCAL, "out of memory");
}

static void
backend_enter(struct backend *b, enum backend_state state)
{
	struct log_line l;

	b->state = state;
	if (!log_wants(LOG_DEBUG))
		return;
	origin_log(&l, LOG_DEBUG, b->spec.origin, "backend leg");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_cstr(&l, "state", backend_rows[state].name);
	log_end(&l);
}

/* Greeting, STLS */

static void
backend_greeting(struct backend *b, const struct pop3_reply *reply)
{
	if (reply->kind != POP3_REPLY_OK) {
		backend_fail_reply(b,
		    backend_is_busy(reply) ? FAIL_BUSY : FAIL_CLOSED,
		    "the backend's greeting is -ERR", reply);
		return;
	}
	b->xclient_offered = pop3_greeting_offers_xclient(reply);
	if (b->spec.endpoint->tls == TLS_STARTTLS)
		backend_send(b, BACKEND_CAPA, "CAPA");
	else
		backend_secured(b);
}

static void
backend_capa(struct backend *b, const struct pop3_reply *reply)
{
	b->capa_lines = b->capa_octets = 0;
	memset(&b->caps, 0, sizeof(b->caps));
	if (reply->kind == POP3_REPLY_OK)
		backend_enter(b, BACKEND_CAPA_BODY);
	else if (b->spec.endpoint->forwarding == FORWARD_PROXY)
		backend_fail_reply(b, FAIL_TLS,
		    "the backend does not offer STLS (does its port expect a "
		    "PROXY "
		    "header?)",
		    reply);
	else
		backend_fail_reply(b, FAIL_TLS,
		    "the backend does not offer STLS", reply);
}

static void
backend_capa_done(struct backend *b)
{
	if (b->caps.stls)
		backend_send(b, BACKEND_STLS, "STLS");
	else
		backend_fail(b, FAIL_TLS, "the backend does not offer STLS");
}

/* Nothing follows the reply (backend_rows): from here on OpenSSL owns the
 * connection. */
static void
backend_stls(struct backend *b, const struct pop3_reply *reply)
{
	if (reply->kind == POP3_REPLY_OK)
		backend_tls(b, -1);
	else
		backend_fail(b, FAIL_TLS, "the backend refused STLS");
}

/* The client's address, the backend's capabilities */

static void
backend_secured(struct backend *b)
{
	char line[XCLIENT_LINE_MAX + 1];
	struct err err = {""};

	memset(&b->caps, 0, sizeof(b->caps));
	/* A handshake does not succeed behind octets that were taken for
	 * commands. */
	b->in_step =
	    b->ssl != NULL || b->spec.endpoint->forwarding != FORWARD_PROXY;
	if (b->spec.endpoint->forwarding == FORWARD_XCLIENT &&
	    !b->xclient_offered)
		backend_warn_no_xclient(b);
	if (!backend_safe(b, &err)) {
		backend_fail(b, FAIL_TLS, err.text);
	} else if (b->spec.endpoint->forwarding != FORWARD_XCLIENT ||
	    !b->xclient_offered) {
		backend_learn(b);
	} else if (backend_xclient_line(b, line, sizeof(line)) == 0) {
		backend_fail(b, FAIL_FORWARDING, "cannot format XCLIENT");
	} else {
		backend_send(b, BACKEND_XCLIENT, line);
	}
}

static size_t
backend_xclient_line(struct backend *b, char *line, size_t size)
{
	const struct origin *o = b->spec.origin;
	struct xclient x = {
	    .addr = o->client,
	    .has_port = true,
	    .dest = o->local,
	    .has_dest_port = true,
	    .ttl = origin_ttl_out(o, b->spec.cfg->server.proxy_ttl),
	    .transport = origin_encrypted(o) ? XCLIENT_TRANSPORT_TLS
					     : XCLIENT_TRANSPORT_INSECURE,
	};

	snprintf(x.session, sizeof(x.session), "%s", o->id);
	snprintf(x.dest_name, sizeof(x.dest_name), "%s", o->server_name);
	return xclient_format(&x, line, size);
}

static void
backend_xclient(struct backend *b, const struct pop3_reply *reply)
{
	struct log_line l;

	if (reply->kind != POP3_REPLY_OK) {
		backend_fail(b, FAIL_FORWARDING, "the backend refused XCLIENT");
		return;
	}
	origin_log(&l, LOG_DEBUG, b->spec.origin,
	    "client forwarded by XCLIENT");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_end(&l);
	backend_learn(b);
}

static void
backend_warn_no_xclient(struct backend *b)
{
	struct log_line l;

	if (!destination_first_warning(b->spec.shared))
		return;
	origin_log(&l, LOG_WARNING, b->spec.origin,
	    "the backend does not offer XCLIENT: it takes all clients for "
	    "this proxy");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_end(&l);
}

/* CAPA on the secured leg, where it is of use and not remembered. */
static void
backend_learn(struct backend *b)
{
	bool wanted = b->spec.utf8 || !b->in_step || !backend_is_password(b) ||
	    b->spec.endpoint->auth != AUTH_USER;

	if (!learnt_get(destination_memory(b->spec.shared), &b->facts.addr,
		clock_ms(), &b->learnt))
		b->learnt = 0;
	if (b->learnt & LEARNT_IN_STEP)
		b->in_step = true;
	if (wanted && !(b->learnt & LEARNT_CAPA))
		backend_send(b, BACKEND_LEARN, "CAPA");
	else
		backend_utf8(b);
}

static void
backend_learnt(struct backend *b, const struct pop3_reply *reply)
{
	b->capa_lines = b->capa_octets = 0;
	memset(&b->caps, 0, sizeof(b->caps));
	if (reply->kind == POP3_REPLY_OK)
		backend_enter(b, BACKEND_LEARN_BODY);
	else if (b->doubtful)
		backend_sure(b);
	else
		backend_learn_done(b, LEARNT_CAPA); /* it knows no CAPA */
}

static uint32_t
backend_offered(const struct pop3_capabilities *caps)
{
	uint32_t bits = LEARNT_CAPA;

	if (caps->sasl & SASL_BIT(SASL_PLAIN))
		bits |= LEARNT_PLAIN;
	if (caps->user)
		bits |= LEARNT_USER;
	if (caps->utf8)
		bits |= LEARNT_UTF8;
	if (caps->auth_resp_code)
		bits |= LEARNT_CODES;
	return bits;
}

/* The body of CAPA was in place: the backend has taken the PROXY header, if
 * there was one, for what it is. */
static void
backend_learn_body_done(struct backend *b)
{
	uint32_t bits = backend_offered(&b->caps);
	uint32_t offers = LEARNT_PLAIN | LEARNT_USER;

	b->in_step = true;
	if (b->spec.endpoint->forwarding == FORWARD_PROXY)
		bits |= LEARNT_IN_STEP;
	if (b->doubtful && ((b->learnt ^ bits) & offers) == 0)
		backend_sure(b);
	else
		backend_learn_done(b, bits);
}

static void
backend_learn_done(struct backend *b, uint32_t bits)
{
	bool again = b->doubtful;

	b->doubtful = false;
	b->fresh = true;
	b->learnt = 0;
	backend_remember(b, bits);
	if (again)
		backend_login(b);
	else
		backend_utf8(b);
}

static void
backend_remember(struct backend *b, uint32_t bits)
{
	if (bits != 0 && (b->learnt & bits) == bits)
		return;
	b->learnt |= bits;
	learnt_set(destination_memory(b->spec.shared), &b->facts.addr,
	    clock_ms(), b->learnt);
}

/* The backend has no UTF8: the session goes on, and the mail program gets 8-bit
 * mail as this backend sends it. */
static void
backend_utf8(struct backend *b)
{
	struct log_line l;

	if (b->spec.utf8 && b->learnt & LEARNT_UTF8) {
		backend_send(b, BACKEND_UTF8, "UTF8");
		return;
	}
	if (b->spec.utf8) {
		origin_log(&l, LOG_INFO, b->spec.origin,
		    "the client asked for UTF8, the backend does not offer it");
		log_cstr(&l, "destination", b->spec.dest->name);
		log_end(&l);
	}
	backend_login(b);
}

/* A refusal means the same as no offer. */
static void
backend_utf8_done(struct backend *b, const struct pop3_reply *reply UNUSED)
{
	backend_login(b);
}

/* The login */

static bool
backend_is_password(const struct backend *b)
{
	return b->spec.cred->mech == SASL_PLAIN;
}

/* Checks that a credential may be sent. Every credential passes here. */
static bool
backend_safe(struct backend *b, struct err *err)
{
	if (b->ssl != NULL)
		return tls_client_verified(b->spec.tls, b->ssl, err);
	if (b->spec.endpoint->tls == TLS_PLAIN &&
	    b->spec.dest->allow_plaintext_auth)
		return true;
	err_set(err, "the leg is not encrypted");
	return false;
}

static void
backend_login(struct backend *b)
{
	const struct secret *frame = &b->spec.cred->frame;
	struct err err = {""};

	if (!backend_safe(b, &err)) {
		backend_fail(b, FAIL_TLS, err.text);
		return;
	}
	b->spec.events->deadline(b->spec.arg,
	    b->spec.cfg->server.backend_auth_timeout);
	if (backend_is_password(b))
		backend_login_password(b);
	else
		backend_auth(b, frame->data, frame->len);
}

/* From now on the backend may be working while it is silent. */
static void
backend_credentials_out(struct backend *b, enum backend_state state)
{
	struct timeval tv = clock_timeval(BACKEND_AT_WORK_MS);

	backend_enter(b, state);
	if (destination_is_troubled(b->spec.shared))
		evtimer_add(b->pause, &tv);
}

/* The backend has replied to a login, with any reply. A greeting alone shows
 * little, because some backends greet and then hang up on every login. */
static void
backend_well(struct backend *b)
{
	if (destination_worked(b->spec.shared, b->spec.place))
		backend_log_up(b);
}

static void
backend_log_up(struct backend *b)
{
	struct log_line l;

	origin_log(&l, LOG_WARNING, b->spec.origin, "destination is up again");
	log_cstr(&l, "destination", b->spec.dest->name);
	log_end(&l);
}

static void
backend_login_password(struct backend *b)
{
	const struct secret *frame = &b->spec.cred->frame;
	struct secret b64 = {NULL, 0};
	bool sasl = b->spec.endpoint->auth == AUTH_SASL ||
	    (b->spec.endpoint->auth == AUTH_AUTO && b->learnt & LEARNT_PLAIN &&
		!b->user_pass);

	if (!sasl) {
		backend_login_user(b);
		return;
	}
	if (!secret_reserve(&b64, BASE64_ENCODED_MAX(frame->len))) {
		backend_fail(b, FAIL_LOCAL, "out of memory");
		return;
	}
	backend_auth(b, b64.data,
	    base64_encode(frame->data, frame->len, b64.data));
	secret_clear(&b64);
}

/* USER and PASS are lines, so they cannot carry text that could end a line
 * early, or another authorization name. */
static void
backend_login_user(struct backend *b)
{
	const struct secret *frame = &b->spec.cred->frame;
	struct sasl_plain p;

	if (!sasl_plain_parse(frame->data, frame->len, &p) ||
	    !pop3_user_pass_can_carry(&p)) {
		backend_fail(b, FAIL_UNREPLAYABLE,
		    "USER/PASS cannot carry these credentials");
		return;
	}
	backend_enter(b, BACKEND_USER);
	backend_write_secret(b, "USER ", p.authcid, p.authcid_len);
}

static void
backend_user_done(struct backend *b, const struct pop3_reply *reply)
{
	/* No credential is out: where USER is not offered, it is not to be
	 * had. */
	bool offered = b->learnt & LEARNT_USER || !(b->learnt & LEARNT_CAPA);

	if (reply->kind == POP3_REPLY_OK)
		backend_pass(b);
	else if (!offered && backend_is_form(reply))
		backend_fail_reply(b, FAIL_SETUP,
		    "it offers neither USER nor SASL PLAIN", reply);
	else
		backend_refused(b, reply);
}

static void
backend_pass(struct backend *b)
{
	const struct secret *frame = &b->spec.cred->frame;
	struct sasl_plain p;

	if (!sasl_plain_parse(frame->data, frame->len, &p)) {
		backend_fail(b, FAIL_LOCAL, "the credentials are gone");
		return;
	}
	backend_credentials_out(b, BACKEND_PASS);
	backend_write_secret(b, "PASS ", p.password, p.password_len);
}

static uint32_t
backend_bit(const struct backend *b, enum backend_learnt bits)
{
	return (uint32_t)bits << b->spec.cred->mech;
}

/* After an inline response a refused form and a refused password look alike,
 * unless the backend says [AUTH] of the latter (RFC 3206) or has taken an
 * inline response before. Two steps tell them apart. */
static bool
backend_may_inline(const struct backend *b)
{
	if (b->learnt & backend_bit(b, LEARNT_TWO_STEP))
		return false;
	return b->learnt & (LEARNT_CODES | backend_bit(b, LEARNT_INLINE));
}

/* "AUTH mech response", in one line where it fits and is taken. */
static void
backend_auth(struct backend *b, const char *b64, size_t len)
{
	char before[32];
	int n = snprintf(before, sizeof(before), "AUTH %s ",
	    sasl_name(b->spec.cred->mech));

	if (!backend_may_inline(b) ||
	    (size_t)n + len + 2 > POP3_AUTH_INLINE_MAX) {
		backend_auth_two_step(b);
		return;
	}
	backend_credentials_out(b, BACKEND_AUTH);
	backend_write_secret(b, before, b64, len);
}

static void
backend_auth_two_step(struct backend *b)
{
	char line[32];

	snprintf(line, sizeof(line), "AUTH %s", sasl_name(b->spec.cred->mech));
	backend_send(b, BACKEND_AUTH_PROMPT, line);
}

/* Sends the response alone, after the backend's prompt. */
static void
backend_response(struct backend *b)
{
	const struct secret *frame = &b->spec.cred->frame;
	struct secret b64 = {NULL, 0};

	backend_credentials_out(b, BACKEND_AUTH_RESULT);
	if (!backend_is_password(b)) {
		backend_write_secret(b, "", frame->data, frame->len);
	} else if (!secret_reserve(&b64, BASE64_ENCODED_MAX(frame->len))) {
		backend_fail(b, FAIL_LOCAL, "out of memory");
	} else {
		backend_write_secret(b, "", b64.data,
		    base64_encode(frame->data, frame->len, b64.data));
		secret_clear(&b64);
	}
}

static void
backend_write_secret(struct backend *b, const char *before, const char *secret,
    size_t len)
{
	struct evbuffer *out = bufferevent_get_output(b->bev);

	/* One piece, so that it leaves as one segment and one TLS record. */
	if (evbuffer_expand(out, strlen(before) + len + 2) == -1 ||
	    evbuffer_add(out, before, strlen(before)) == -1 ||
	    evbuffer_add(out, secret, len) == -1 ||
	    evbuffer_add(out, "\r\n", 2) == -1)
		backend_fail(b, FAIL_LOCAL, "out of memory");
}

static void
backend_auth_inline(struct backend *b, const struct pop3_reply *reply)
{
	switch (reply->kind) {
	case POP3_REPLY_OK:
		backend_remember(b, backend_bit(b, LEARNT_INLINE));
		backend_accepted(b, reply);
		return;
	case POP3_REPLY_CONTINUE:
		if (!backend_is_password(b) &&
		    pop3_reply_is_error_document(reply)) {
			backend_challenge(b, reply);
			return;
		}
		/* A prompt, whatever its words: the backend did not look at
		 * the inline response. */
		backend_remember(b, backend_bit(b, LEARNT_TWO_STEP));
		backend_response(b);
		return;
	case POP3_REPLY_ERR:
	case POP3_REPLY_BAD:
		backend_auth_refused(b, reply);
		return;
	}
}

/* "-ERR" to AUTH with its response. Without [AUTH] it may mean the form, or
 * what is remembered is another server's. */
static void
backend_auth_refused(struct backend *b, const struct pop3_reply *reply)
{
	if (!backend_is_form(reply)) {
		backend_refused(b, reply);
	} else if (b->learnt & backend_bit(b, LEARNT_INLINE)) {
		backend_doubt(b, reply);
	} else {
		backend_remember(b, backend_bit(b, LEARNT_TWO_STEP));
		b->fallback = true;
		backend_auth_two_step(b);
	}
}

/* The refusal may come from what was remembered: CAPA tells. If it says the
 * same as before, the password was judged, and is not sent again. */
static void
backend_doubt(struct backend *b, const struct pop3_reply *reply)
{
	if (b->fresh || b->doubtful) {
		backend_refused(b, reply);
		return;
	}
	backend_keep(b, reply);
	b->doubtful = true;
	backend_send(b, BACKEND_LEARN, "CAPA");
}

/* The kept reply is the verdict. */
static void
backend_sure(struct backend *b)
{
	struct pop3_reply reply;

	pop3_reply_parse(b->result.line, b->result.len, &reply);
	backend_refused(b, &reply);
}

static void
backend_keep(struct backend *b, const struct pop3_reply *reply)
{
	memmove(b->text, reply->line, reply->line_len);
	b->result.line = b->text;
	b->result.len = reply->line_len;
}

/* "-ERR" to the mechanism alone is about the form: no credential is out. */
static void
backend_auth_prompt(struct backend *b, const struct pop3_reply *reply)
{
	if (reply->kind == POP3_REPLY_CONTINUE) {
		backend_response(b);
	} else if (backend_is_busy(reply)) {
		backend_refused(b, reply);
	} else if (backend_is_password(b) &&
	    b->spec.endpoint->auth == AUTH_AUTO) {
		backend_forget_plain(b);
		backend_login_user(b);
	} else {
		backend_fail_reply(b, FAIL_SETUP,
		    "it refuses this mechanism before it has seen a response",
		    reply);
	}
}

static void
backend_auth_result(struct backend *b, const struct pop3_reply *reply)
{
	if (reply->kind == POP3_REPLY_CONTINUE)
		backend_challenge(b, reply);
	else
		backend_result(b, reply);
}

/* Returns true if an -ERR may refuse the form and not the credentials. */
static bool
backend_is_form(const struct pop3_reply *reply)
{
	return reply->code == POP3_CODE_NONE &&
	    !pop3_reply_about_password(reply);
}

/* The error document of RFC 7628 is the verdict. The exchange ends here at
 * once, so that no place at the backend waits for a client that may never
 * answer. The client can read the document afterwards. */
static void
backend_challenge(struct backend *b, const struct pop3_reply *reply)
{
	if (backend_is_password(b)) {
		backend_fail(b, FAIL_PROTOCOL, "an unexpected challenge");
		return;
	}
	backend_well(b);
	if (!b->spec.dest->hide_auth_errors) {
		b->challenge = strndup(reply->text, reply->text_len);
		b->challenge_len = reply->text_len;
	}
	/* The dummy answer that each mechanism expects before it ends. */
	backend_send(b, BACKEND_CANCEL,
	    b->spec.cred->mech == SASL_OAUTHBEARER ? "AQ==" : "");
}

/* The backend is busy: it judged no credentials, and the host has not
 * failed. */
static bool
backend_is_busy(const struct pop3_reply *reply)
{
	return reply->code == POP3_CODE_IN_USE ||
	    reply->code == POP3_CODE_LOGIN_DELAY ||
	    reply->code == POP3_CODE_SYS;
}

static void
backend_result(struct backend *b, const struct pop3_reply *reply)
{
	if (reply->kind == POP3_REPLY_OK)
		backend_accepted(b, reply);
	else
		backend_refused(b, reply);
}

static void
backend_accepted(struct backend *b, const struct pop3_reply *reply)
{
	backend_well(b);
	backend_keep(b, reply);
	b->result.accepted = true;
	backend_end(b);
}

static void
backend_refused(struct backend *b, const struct pop3_reply *reply)
{
	static const char hidden[] = "-ERR [AUTH] Authentication failed.";
	bool busy = backend_is_busy(reply);
	bool hide = !busy && b->spec.dest->hide_auth_errors;

	if (!b->in_step) {
		backend_fail_reply(b, FAIL_PROTOCOL,
		    "-ERR before it is sure that its port expects a PROXY "
		    "header",
		    reply);
		return;
	}
	backend_well(b);
	if (!busy && pop3_reply_about_setup(reply)) {
		backend_fail_reply(b, FAIL_SETUP,
		    "its configuration refuses this way to log in", reply);
		return;
	}
	b->result.why = busy ? FAIL_BUSY : FAIL_REJECTED;
	b->result.line = b->text;
	b->result.len = hide ? sizeof(hidden) - 1 : reply->line_len;
	memmove(b->text, hide ? hidden : reply->line, b->result.len);
	backend_end(b);
}

struct bufferevent *
backend_release(struct backend *b, SSL **ssl_out)
{
	struct bufferevent *bev = b->bev;

	assert(b->result.accepted);
	bufferevent_disable(bev, EV_READ);
	bufferevent_setcb(bev, NULL, NULL, NULL, NULL);
	bufferevent_setwatermark(bev, EV_READ, 0, 0);
	*ssl_out = b->ssl;
	b->bev = NULL;
	b->ssl = NULL;
	return bev;
}
