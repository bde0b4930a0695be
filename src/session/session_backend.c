/* session_backend.c: the backend leg up to the result of the login:
 *
 *	connect -> [PROXY header] -> [TLS] -> greeting -> [CAPA -> STLS -> TLS]
 *	-> [XCLIENT] -> [CAPA] -> [UTF8] -> login
 *
 * One command, one reply: a byte more than was asked for means that the two
 * sides do not understand each other the same way, and no password is sent
 * into that. No credential leaves before backend_safe() has said so. */

#include "session_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/err.h>

#include "platform/clock.h"
#include "proto/base64.h"
#include "proto/pop3.h"
#include "proto/proxy_protocol.h"
#include "net/connector.h"
#include "service/destination.h"
#include "service/runtime.h"
#include "net/tls_client.h"
#include "tls_leg.h"

#define BACKEND_INPUT_MAX (16 * 1024)
#define BACKEND_CHALLENGES_MAX 4
#define BACKEND_CHALLENGE_MAX (16 * 1024) /* octets of one challenge line */
#define BACKEND_RETRY_MS 100
#define BACKEND_AT_WORK_MS 1000 /* a login held so long is being worked on */

/* What the leg waits for. */
enum backend_state {
	BACKEND_CONNECT, /* the connector, or the pause before a retry */
	BACKEND_HANDSHAKE, /* TLS */
	BACKEND_GREETING, /* it speaks first */
	BACKEND_CAPA, /* has to offer STLS; forgotten afterwards */
	BACKEND_STLS, /* a byte behind its "+OK" is an attack */
	BACKEND_XCLIENT,
	BACKEND_LEARN, /* CAPA again, on the secured leg */
	BACKEND_UTF8,
	BACKEND_USER,
	BACKEND_PASS, /* credentials are out */
	BACKEND_AUTH, /* mechanism and initial response are out */
	BACKEND_AUTH_PROMPT, /* the mechanism alone is out */
	BACKEND_AUTH_RESULT, /* the response is out */
	BACKEND_CHALLENGE, /* nothing: the client has to answer */
	BACKEND_CANCEL, /* we have ended the exchange; its "-ERR" */
	BACKEND_STATES
};
static const char *const backend_state_names[] = {
    [BACKEND_CONNECT] = "connect",
    [BACKEND_HANDSHAKE] = "handshake",
    [BACKEND_GREETING] = "greeting",
    [BACKEND_CAPA] = "capa",
    [BACKEND_STLS] = "stls",
    [BACKEND_XCLIENT] = "xclient",
    [BACKEND_LEARN] = "learn",
    [BACKEND_UTF8] = "utf8",
    [BACKEND_USER] = "user",
    [BACKEND_PASS] = "pass",
    [BACKEND_AUTH] = "auth",
    [BACKEND_AUTH_PROMPT] = "auth prompt",
    [BACKEND_AUTH_RESULT] = "auth result",
    [BACKEND_CHALLENGE] = "challenge",
    [BACKEND_CANCEL] = "cancel",
};
_Static_assert(ARRAY_LEN(backend_state_names) == BACKEND_STATES,
    "unnamed state");

/* What is remembered of a destination (destination_learn()). */
enum backend_learnt {
	LEARNT_CAPA = 1 << 0, /* the next three are known */
	LEARNT_PLAIN = 1 << 1, /* it offers SASL PLAIN */
	LEARNT_UTF8 = 1 << 2,
	LEARNT_TWO_STEP = 1 << 3, /* it refused an inline response */
	LEARNT_INLINE = 1 << 4 /* it has taken an inline response */
};

struct backend {
	struct session *s;
	const struct config_destination *dest;
	const struct config_endpoint *endpoint;
	struct destination *shared;
	bool entered; /* counted in shared */
	bool probe; /* the one that finds out whether it is up again */
	enum backend_state state;
	struct connector *connector;
	struct event *pause; /* before a retry; later: is it at work? */
	uint64_t ready_by; /* clock_ms(); where backend_timeout ends */
	struct bufferevent *bev;
	SSL *ssl; /* bev's */
	unsigned retries; /* left */
	bool tls_again; /* a handshake failed for what it offered */
	struct addr after; /* the last connection was there and failed */
	bool xclient_offered;
	bool credentials_out; /* on this connection */
	bool fallback; /* an inline response was refused just now */
	bool user_pass; /* AUTH PLAIN was refused as such */
	uint32_t learnt;
	struct pop3_capabilities caps; /* being read */
	size_t capa_lines, capa_octets;
	bool capa_body; /* behind CAPA's "+OK" */
	unsigned challenges;
};

static void backend_connect(struct backend *b);
static void backend_connected(void *arg, enum connector_status status, int fd,
    const struct addr *peer, const char *reason);
static void backend_take_fd(struct backend *b, int fd);
static bool backend_send_proxy(struct backend *b, int fd);
static bool backend_plain(struct backend *b, int fd);
static void backend_tls(struct backend *b, int fd);
static void backend_handshaken(struct backend *b);
static void backend_handshake_failed(struct backend *b);
static void backend_tls_again(struct backend *b, const char *reason);
static void backend_reset(struct backend *b);
static void backend_pause_cb(evutil_socket_t fd, short what, void *arg);
static void backend_fail(struct backend *b, enum failure why,
    const char *reason);
static void backend_blame(struct backend *b, enum failure why);
static void backend_event_cb(struct bufferevent *bev, short what, void *arg);
static void backend_read_cb(struct bufferevent *bev, void *arg);
static size_t backend_line_max(const struct backend *b);
static bool backend_line(struct backend *b, char *line, size_t *len_out);
static bool backend_alone(struct backend *b);
static void backend_lost(struct backend *b);
static void backend_reply(struct backend *b, const struct pop3_reply *reply);
static void backend_capa_line(struct backend *b, const char *line, size_t len);
static void backend_send(struct backend *b, enum backend_state state,
    const char *line);
static void backend_enter(struct backend *b, enum backend_state state);
static void backend_greeting(struct backend *b, const struct pop3_reply *reply);
static void backend_capa(struct backend *b);
static void backend_stls(struct backend *b, const struct pop3_reply *reply);
static void backend_secured(struct backend *b);
static void backend_xclient(struct backend *b, const struct pop3_reply *reply);
static size_t backend_xclient_line(struct backend *b, char *line, size_t size);
static void backend_learn(struct backend *b);
static void backend_learn_done(struct backend *b, bool offered);
static void backend_utf8(struct backend *b);
static void backend_login(struct backend *b);
static bool backend_safe(struct backend *b, struct err *err);
static void backend_credentials_out(struct backend *b);
static void backend_well(struct backend *b);
static void backend_log_up(struct backend *b);
static void backend_login_password(struct backend *b);
static void backend_login_user(struct backend *b);
static void backend_pass(struct backend *b);
static void backend_auth(struct backend *b, const char *b64, size_t len);
static void backend_response(struct backend *b);
static void backend_write_secret(struct backend *b, const char *before,
    const char *secret, size_t len);
static void backend_auth_reply(struct backend *b,
    const struct pop3_reply *reply);
static void backend_auth_refused(struct backend *b,
    const struct pop3_reply *reply);
static void backend_challenge(struct backend *b,
    const struct pop3_reply *reply);
static void backend_cancel(struct backend *b);
static bool backend_is_busy(const struct pop3_reply *reply);
static void backend_result(struct backend *b, const struct pop3_reply *reply);
static bool backend_is_password(const struct backend *b);

bool
backend_start(struct session *s)
{
	struct backend *b = calloc(1, sizeof(*b));
	enum destination_entry entry;

	if (b == NULL)
		return false;
	s->backend = b;
	b->s = s;
	b->dest = &s->cfg->destination[s->destination];
	b->endpoint = &b->dest->pop3;
	b->shared = destination_ref(s->slice->rt->destination[s->destination]);
	b->retries = s->cfg->server.backend_connect_retries;
	b->ready_by = clock_ms() + s->cfg->server.backend_timeout;
	b->pause = evtimer_new(s->env->base, backend_pause_cb, b);
	if (b->pause == NULL)
		return false;
	entry = destination_enter(b->shared, b->dest, clock_ms(),
	    addr_client_hash(&s->client_addr));
	b->entered = entry == DESTINATION_ENTERED || entry == DESTINATION_PROBE;
	b->probe = entry == DESTINATION_PROBE;
	if (b->probe)
		b->retries = 0;
	if (b->entered)
		backend_connect(b);
	else if (entry == DESTINATION_DOWN)
		backend_fail(b, FAIL_DOWN, "the destination is down");
	else
		backend_fail(b, FAIL_FULL, "no connection is free");
	return true;
}

/* The socket */

static void
backend_connect(struct backend *b)
{
	struct session *s = b->s;
	const struct connector_spec spec = {
	    .base = s->env->base,
	    .resolver = s->env->resolver,
	    .cfg = s->cfg,
	    .dest = b->dest,
	    .port = b->endpoint->port,
	    .after = b->after,
	    .turns = &s->slice->source_turn[s->destination],
	    .done = backend_connected,
	    .arg = b,
	};

	backend_enter(b, BACKEND_CONNECT);
	b->connector = connector_start(&spec);
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
		b->s->backend_addr = *peer;
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
	if (b->endpoint->forwarding == FORWARD_PROXY &&
	    !backend_send_proxy(b, fd)) {
		close(fd);
		backend_fail(b, FAIL_CLOSED, "cannot send the PROXY header");
		return;
	}
	if (b->endpoint->tls == TLS_IMPLICIT) {
		backend_tls(b, fd);
	} else if (!backend_plain(b, fd)) {
		close(fd);
		backend_fail(b, FAIL_LOCAL, "out of memory");
	} else {
		backend_enter(b, BACKEND_GREETING);
	}
}

/* One segment, alone, first: a fresh socket's buffer always has room. */
static bool
backend_send_proxy(struct backend *b, int fd)
{
	const struct session *s = b->s;
	bool ours = s->transport == XCLIENT_TRANSPORT_UNSET;
	const struct proxy_out p = {
	    .src = s->client_addr,
	    .dst = s->local_addr,
	    .tls = session_client_encrypted(s),
	    /* Of a leg that ends elsewhere we know no more. */
	    .tls_version = ours ? s->client_tls : NULL,
	    .tls_cipher = ours ? s->client_cipher : NULL,
	    .authority = s->server_name,
	    .session = s->id,
	    .ttl = s->ttl != 0 ? s->ttl - 1 : s->cfg->server.proxy_ttl,
	};
	uint8_t header[1024];
	size_t len = proxy_header_format(&p, header, sizeof(header));

	return len > 0 && send(fd, header, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool
backend_plain(struct backend *b, int fd)
{
	b->bev =
	    bufferevent_socket_new(b->s->env->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (b->bev == NULL)
		return false;
	bufferevent_setcb(b->bev, backend_read_cb, NULL, backend_event_cb, b);
	bufferevent_setwatermark(b->bev, EV_READ, 0, BACKEND_INPUT_MAX);
	bufferevent_enable(b->bev, EV_READ);
	return true;
}

/* Takes fd over. */
static void
backend_tls(struct backend *b, int fd)
{
	struct session *s = b->s;

	backend_enter(b, BACKEND_HANDSHAKE);
	b->ssl =
	    tls_client_ssl(s->slice->tls_client[s->destination], !b->tls_again);
	if (b->ssl != NULL)
		b->bev = bufferevent_openssl_socket_new(s->env->base, fd,
		    b->ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
	if (b->bev == NULL) {
		/* With CLOSE_ON_FREE it is freed also by what fails. */
		b->ssl = NULL;
		close(fd);
		backend_fail(b, FAIL_LOCAL, "out of memory");
		return;
	}
	bufferevent_setcb(b->bev, backend_read_cb, NULL, backend_event_cb, b);
	bufferevent_setwatermark(b->bev, EV_READ, 0, BACKEND_INPUT_MAX);
	bufferevent_enable(b->bev, EV_READ);
}

static void
backend_handshaken(struct backend *b)
{
	struct err err = {""};

	tls_leg_secured(b->bev, b->ssl);
	b->s->backend_tls = SSL_get_version(b->ssl);
	b->s->backend_cipher = SSL_get_cipher_name(b->ssl);
	if (!tls_client_verified(b->s->slice->tls_client[b->s->destination],
		b->ssl, &err))
		backend_fail(b, FAIL_TLS, err.text);
	else if (b->endpoint->tls == TLS_IMPLICIT)
		backend_enter(b, BACKEND_GREETING);
	else
		backend_secured(b);
}

static void
backend_handshake_failed(struct backend *b)
{
	struct session *s = b->s;
	unsigned long code = bufferevent_get_openssl_error(b->bev);
	long verify = SSL_get_verify_result(b->ssl);
	struct err err = {""};
	bool again = tls_client_failed(s->slice->tls_client[s->destination],
	    b->ssl, code, &err);

	ERR_clear_error();
	if (again && !b->tls_again)
		backend_tls_again(b, err.text);
	else
		backend_fail(b,
		    code != 0 || verify != X509_V_OK ? FAIL_TLS : FAIL_CLOSED,
		    err.text);
}

/* A handshake failed for what it offered: once more with less, on the same
 * address. Nobody is to blame. */
static void
backend_tls_again(struct backend *b, const char *reason)
{
	static const struct timeval at_once = {0, 0};
	struct log_line l;

	session_log(&l, LOG_INFO, b->s,
	    "trying the backend again with a plainer TLS handshake");
	log_cstr(&l, "destination", b->dest->name);
	log_cstr(&l, "reason", reason);
	log_end(&l);
	b->tls_again = true;
	backend_reset(b);
	backend_enter(b, BACKEND_CONNECT);
	evtimer_add(b->pause, &at_once);
}

/* Back to before the connection; what this login knows so far stays. */
static void
backend_reset(struct backend *b)
{
	connector_cancel(&b->connector);
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
	b->xclient_offered = b->credentials_out = b->capa_body = false;
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
	if (b->entered)
		destination_leave(b->shared, false, b->probe);
	destination_unref(&b->shared);
	free(b);
}

static void
backend_pause_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct backend *b = arg;

	if (b->state == BACKEND_CONNECT) {
		backend_connect(b);
	} else if (destination_at_work(b->shared)) {
		b->probe = false;
		backend_log_up(b);
	}
}

/* The leg cannot go on: another connection, or the end of this login. b may be
 * gone afterwards. */
static void
backend_fail(struct backend *b, enum failure why, const char *reason)
{
	struct timeval tv = {0, BACKEND_RETRY_MS * 1000};
	struct session *s = b->s;
	uint64_t now = clock_ms();
	struct log_line l;
	char text[320];

	backend_blame(b, why);
	if (session_failure_retry(why) && b->retries > 0 &&
	    !b->credentials_out) {
		session_log(&l, LOG_INFO, s, "trying the backend again");
		log_cstr(&l, "destination", b->dest->name);
		log_cstr(&l, "failure", session_failure_name(why));
		log_cstr(&l, "reason", reason);
		log_end(&l);
		b->retries--;
		if (b->state != BACKEND_CONNECT)
			b->after = s->backend_addr;
		backend_reset(b);
		backend_enter(b, BACKEND_CONNECT);
		evtimer_add(b->pause, &tv);
		/* The login may have had its own deadline already. */
		session_deadline(s, b->ready_by > now ? b->ready_by - now : 1);
		return;
	}
	assert(b->state < BACKEND_STATES);
	snprintf(text, sizeof(text), "%s (waiting for: %s)", reason,
	    backend_state_names[b->state]);
	session_failed(s, why, text);
}

void
backend_timeout(struct backend *b)
{
	if (b->credentials_out)
		backend_fail(b, FAIL_UNANSWERED,
		    "no answer to the login in time");
	else
		backend_fail(b,
		    b->state == BACKEND_CONNECT ? FAIL_NO_CONNECT
						: FAIL_TIMEOUT,
		    "not ready in time");
}

/* Tells the breaker. */
static void
backend_blame(struct backend *b, enum failure why)
{
	const struct config_server *cfg = &b->s->cfg->server;
	const struct destination_health rules = {cfg->host_down_threshold,
	    cfg->host_down_min_clients, cfg->host_down_cooldown};
	enum session_blame blame = session_failure_blame(why);
	struct log_line l;

	if (blame == BLAME_NOBODY)
		return;
	if (!destination_failed(b->shared, &rules, clock_ms(),
		blame == BLAME_HOST, addr_client_hash(&b->s->client_addr),
		b->probe))
		return;
	session_log(&l, LOG_ERR, b->s, "destination is down");
	log_cstr(&l, "destination", b->dest->name);
	log_uint(&l, "cooldown_ms", cfg->host_down_cooldown);
	log_cstr(&l, "failure", session_failure_name(why));
	log_end(&l);
}

static void
backend_event_cb(struct bufferevent *bev UNUSED, short what, void *arg)
{
	struct backend *b = arg;
	struct session *s = b->s;

	if (what & BEV_EVENT_CONNECTED) {
		/* The TCP connection was there already: this is TLS. */
		backend_handshaken(b);
		return;
	}
	if (b->state == BACKEND_HANDSHAKE) {
		backend_handshake_failed(b);
		return;
	}
	ERR_clear_error();
	/* Its last words first: the callback does not come again. */
	if (what & BEV_EVENT_EOF)
		backend_read_cb(b->bev, b);
	if (s->backend == b && b->bev == bev)
		backend_lost(b);
}

/* Closed, without the answer that was due. */
static void
backend_lost(struct backend *b)
{
	if (b->state == BACKEND_AUTH_PROMPT && b->fallback) {
		/* It refused the inline response by closing as well: two steps
		 * on a fresh connection; no credential was sent since. */
		b->fallback = false;
		b->credentials_out = false;
		backend_reset(b);
		b->ready_by = clock_ms() + b->s->cfg->server.backend_timeout;
		session_deadline(b->s, b->s->cfg->server.backend_timeout);
		backend_connect(b);
	} else if (b->credentials_out) {
		backend_fail(b, FAIL_DROPPED,
		    "closed without answering the login");
	} else {
		backend_fail(b, FAIL_CLOSED, "closed the connection");
	}
}

/* Replies */

static void
backend_read_cb(struct bufferevent *bev, void *arg)
{
	struct backend *b = arg;
	struct session *s = b->s;
	char line[BACKEND_CHALLENGE_MAX];
	struct pop3_reply reply;
	size_t len;

	while (s->backend == b && b->bev == bev &&
	    backend_line(b, line, &len)) {
		if (b->capa_body) {
			backend_capa_line(b, line, len);
			continue;
		}
		pop3_reply_parse(line, len, &reply);
		if (reply.kind == POP3_REPLY_BAD)
			backend_fail(b, FAIL_PROTOCOL,
			    "what it says is no POP3 reply");
		else
			backend_reply(b, &reply);
	}
}

/* Challenges may be long; nothing else is. */
static size_t
backend_line_max(const struct backend *b)
{
	switch (b->state) {
	case BACKEND_AUTH:
	case BACKEND_AUTH_PROMPT:
	case BACKEND_AUTH_RESULT:
		return BACKEND_CHALLENGE_MAX;
	case BACKEND_CONNECT:
	case BACKEND_HANDSHAKE:
	case BACKEND_GREETING:
	case BACKEND_CAPA:
	case BACKEND_STLS:
	case BACKEND_XCLIENT:
	case BACKEND_LEARN:
	case BACKEND_UTF8:
	case BACKEND_USER:
	case BACKEND_PASS:
	case BACKEND_CHALLENGE:
	case BACKEND_CANCEL:
	case BACKEND_STATES:
		break;
	}
	return POP3_LINE_MAX;
}

static bool
backend_line(struct backend *b, char *line, size_t *len_out)
{
	struct evbuffer *in = bufferevent_get_input(b->bev);
	size_t held = evbuffer_get_length(in), max = backend_line_max(b), n;
	struct evbuffer_ptr eol;

	if (held == 0)
		return false;
	if (b->state == BACKEND_CHALLENGE) {
		backend_fail(b, FAIL_PROTOCOL,
		    "it speaks while the client is to answer");
		return false;
	}
	eol = evbuffer_search_eol(in, NULL, NULL, EVBUFFER_EOL_LF);
	n = eol.pos == -1 ? held : (size_t)eol.pos + 1;
	if (n > max || (eol.pos == -1 && n == max)) {
		backend_fail(b, FAIL_PROTOCOL, "its reply line is too long");
		return false;
	}
	if (eol.pos == -1)
		return false;
	evbuffer_remove(in, line, n);
	n--;
	if (n > 0 && line[n - 1] == '\r')
		n--;
	*len_out = n;
	return true;
}

/* Whether the reply just taken was all that came. */
static bool
backend_alone(struct backend *b)
{
	if (evbuffer_get_length(bufferevent_get_input(b->bev)) == 0)
		return true;
	backend_fail(b, FAIL_PROTOCOL,
	    "it sent more than one reply (does its port expect a PROXY "
	    "header?)");
	return false;
}

static void
backend_reply(struct backend *b, const struct pop3_reply *reply)
{
	/* Behind "+OK" to CAPA comes its body, behind that of a login the
	 * session: those may have more in the same read. */
	bool last = b->state >= BACKEND_PASS && reply->kind == POP3_REPLY_OK;
	bool body = (b->state == BACKEND_CAPA || b->state == BACKEND_LEARN) &&
	    reply->kind == POP3_REPLY_OK;
	/* One that hangs up may say why twice; it is lost either way. */
	bool refused =
	    b->state >= BACKEND_PASS && reply->kind == POP3_REPLY_ERR;

	if (!last && !body && !refused && !backend_alone(b))
		return;
	if (reply->kind == POP3_REPLY_CONTINUE && b->state < BACKEND_AUTH) {
		backend_fail(b, FAIL_PROTOCOL, "a challenge out of place");
		return;
	}
	switch (b->state) {
	case BACKEND_GREETING:
		backend_greeting(b, reply);
		return;
	case BACKEND_CAPA:
	case BACKEND_LEARN:
		b->capa_lines = b->capa_octets = 0;
		memset(&b->caps, 0, sizeof(b->caps));
		b->capa_body = body;
		if (!body && b->state == BACKEND_CAPA)
			backend_fail(b, FAIL_TLS, "it does not offer STLS");
		else if (!body)
			backend_learn_done(b, false);
		return;
	case BACKEND_STLS:
		backend_stls(b, reply);
		return;
	case BACKEND_XCLIENT:
		backend_xclient(b, reply);
		return;
	case BACKEND_UTF8:
		backend_utf8(b);
		return;
	case BACKEND_USER:
		if (reply->kind == POP3_REPLY_OK)
			backend_pass(b);
		else
			backend_result(b, reply);
		return;
	case BACKEND_PASS:
	case BACKEND_CANCEL:
		backend_result(b, reply);
		return;
	case BACKEND_AUTH:
	case BACKEND_AUTH_PROMPT:
	case BACKEND_AUTH_RESULT:
		backend_auth_reply(b, reply);
		return;
	case BACKEND_CONNECT:
	case BACKEND_HANDSHAKE:
	case BACKEND_CHALLENGE:
	case BACKEND_STATES:
		return;
	}
}

static void
backend_capa_line(struct backend *b, const char *line, size_t len)
{
	b->capa_octets += len + 2;
	if (++b->capa_lines > POP3_CAPA_LINES_MAX ||
	    b->capa_octets > POP3_CAPA_OCTETS_MAX) {
		backend_fail(b, FAIL_PROTOCOL, "its capabilities have no end");
		return;
	}
	if (len != 1 || line[0] != '.') {
		pop3_capability_add(&b->caps, line, len);
		return;
	}
	b->capa_body = false;
	if (!backend_alone(b))
		return;
	if (b->state == BACKEND_CAPA)
		backend_capa(b);
	else
		backend_learn_done(b, true);
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
	session_log(&l, LOG_DEBUG, b->s, "backend leg");
	log_cstr(&l, "destination", b->dest->name);
	log_cstr(&l, "state", backend_state_names[state]);
	log_end(&l);
}

/* Greeting, STLS */

static void
backend_greeting(struct backend *b, const struct pop3_reply *reply)
{
	if (reply->kind != POP3_REPLY_OK) {
		backend_fail(b,
		    backend_is_busy(reply) ? FAIL_BUSY : FAIL_CLOSED,
		    "its greeting refuses us");
		return;
	}
	b->xclient_offered = pop3_greeting_offers_xclient(reply);
	if (b->endpoint->tls == TLS_STARTTLS)
		backend_send(b, BACKEND_CAPA, "CAPA");
	else
		backend_secured(b);
}

static void
backend_capa(struct backend *b)
{
	if (b->caps.stls)
		backend_send(b, BACKEND_STLS, "STLS");
	else
		backend_fail(b, FAIL_TLS, "it does not offer STLS");
}

static void
backend_stls(struct backend *b, const struct pop3_reply *reply)
{
	int fd;

	if (reply->kind != POP3_REPLY_OK) {
		backend_fail(b, FAIL_TLS, "it refused STLS");
		return;
	}
	/* backend_reply() has made sure that nothing stands behind it; from
	 * here on the socket is OpenSSL's. */
	fd = bufferevent_getfd(b->bev);
	bufferevent_setfd(b->bev, -1);
	bufferevent_free(b->bev);
	b->bev = NULL;
	backend_tls(b, fd);
}

/* Who the client is, what the backend can do */

static void
backend_secured(struct backend *b)
{
	char line[XCLIENT_LINE_MAX + 1];
	struct err err = {""};

	memset(&b->caps, 0, sizeof(b->caps));
	if (!backend_safe(b, &err)) {
		backend_fail(b, FAIL_TLS, err.text);
	} else if (b->endpoint->forwarding != FORWARD_XCLIENT ||
	    !b->xclient_offered) {
		backend_learn(b);
	} else if (backend_xclient_line(b, line, sizeof(line)) == 0) {
		backend_fail(b, FAIL_FORWARDING, "XCLIENT cannot be formed");
	} else {
		backend_send(b, BACKEND_XCLIENT, line);
	}
}

static size_t
backend_xclient_line(struct backend *b, char *line, size_t size)
{
	const struct session *s = b->s;
	struct xclient x = {
	    .addr = s->client_addr,
	    .has_port = true,
	    .dest = s->local_addr,
	    .has_dest_port = true,
	    .ttl = s->ttl != 0 ? s->ttl - 1 : s->cfg->server.proxy_ttl,
	    .transport = session_client_encrypted(s)
		? XCLIENT_TRANSPORT_TLS
		: XCLIENT_TRANSPORT_INSECURE,
	};

	snprintf(x.session, sizeof(x.session), "%s", s->id);
	snprintf(x.dest_name, sizeof(x.dest_name), "%s", s->server_name);
	return xclient_format(&x, line, size);
}

static void
backend_xclient(struct backend *b, const struct pop3_reply *reply)
{
	struct log_line l;

	if (reply->kind != POP3_REPLY_OK) {
		backend_fail(b, FAIL_FORWARDING, "it refused XCLIENT");
		return;
	}
	session_log(&l, LOG_DEBUG, b->s, "client forwarded by XCLIENT");
	log_cstr(&l, "destination", b->dest->name);
	log_end(&l);
	backend_learn(b);
}

/* CAPA on the secured leg, where it is of use and not remembered. */
static void
backend_learn(struct backend *b)
{
	bool wanted = b->s->utf8 ||
	    (backend_is_password(b) && b->endpoint->auth == AUTH_AUTO);

	if (!destination_learnt(b->shared, clock_ms(), &b->learnt))
		b->learnt = 0;
	if (wanted && !(b->learnt & LEARNT_CAPA))
		backend_send(b, BACKEND_LEARN, "CAPA");
	else if (b->s->utf8)
		backend_utf8(b);
	else
		backend_login(b);
}

static void
backend_learn_done(struct backend *b, bool offered)
{
	b->learnt |= LEARNT_CAPA;
	if (offered && b->caps.sasl & SASL_BIT(SASL_PLAIN))
		b->learnt |= LEARNT_PLAIN;
	if (offered && b->caps.utf8)
		b->learnt |= LEARNT_UTF8;
	destination_learn(b->shared, clock_ms(), b->learnt);
	if (b->s->utf8)
		backend_utf8(b);
	else
		backend_login(b);
}

/* Before and after the UTF8 command. A backend without it: the session goes
 * on, its mail program will see 8-bit mail as that backend shows it. */
static void
backend_utf8(struct backend *b)
{
	struct log_line l;

	if (b->state != BACKEND_UTF8 && b->learnt & LEARNT_UTF8) {
		backend_send(b, BACKEND_UTF8, "UTF8");
		return;
	}
	if (b->state != BACKEND_UTF8) {
		session_log(&l, LOG_INFO, b->s,
		    "the client asked for UTF8, the backend does not offer it");
		log_cstr(&l, "destination", b->dest->name);
		log_end(&l);
	}
	backend_login(b);
}

/* The login */

static bool
backend_is_password(const struct backend *b)
{
	return b->s->cred.mech == SASL_PLAIN;
}

/* The one gate that every credential passes. */
static bool
backend_safe(struct backend *b, struct err *err)
{
	const struct session *s = b->s;

	if (b->ssl != NULL)
		return tls_client_verified(s->slice->tls_client[s->destination],
		    b->ssl, err);
	if (b->endpoint->tls == TLS_PLAIN && b->dest->allow_plaintext_auth)
		return true;
	err_set(err, "the leg is not encrypted");
	return false;
}

static void
backend_login(struct backend *b)
{
	struct session *s = b->s;
	struct err err = {""};

	if (!backend_safe(b, &err)) {
		backend_fail(b, FAIL_TLS, err.text);
		return;
	}
	session_deadline(s, s->cfg->server.backend_auth_timeout);
	if (backend_is_password(b))
		backend_login_password(b);
	else
		backend_auth(b, s->cred.frame.data, s->cred.frame.len);
}

/* What it is silent about from now on may be hard work. */
static void
backend_credentials_out(struct backend *b)
{
	struct timeval tv = clock_timeval(BACKEND_AT_WORK_MS);

	b->credentials_out = true;
	if (destination_is_troubled(b->shared))
		evtimer_add(b->pause, &tv);
}

/* It has answered a login, whatever it said. A greeting alone says little, for
 * there are backends that greet and then hang up on every login. */
static void
backend_well(struct backend *b)
{
	b->probe = false;
	if (destination_worked(b->shared))
		backend_log_up(b);
}

static void
backend_log_up(struct backend *b)
{
	struct log_line l;

	session_log(&l, LOG_WARNING, b->s, "destination is up again");
	log_cstr(&l, "destination", b->dest->name);
	log_end(&l);
}

static void
backend_login_password(struct backend *b)
{
	const struct secret *frame = &b->s->cred.frame;
	struct secret b64 = {NULL, 0};
	bool sasl = b->endpoint->auth == AUTH_SASL ||
	    (b->endpoint->auth == AUTH_AUTO && b->learnt & LEARNT_PLAIN &&
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

/* USER and PASS are lines: what could end one early or speak for somebody else
 * cannot go out that way. */
static void
backend_login_user(struct backend *b)
{
	const struct secret *frame = &b->s->cred.frame;
	struct sasl_plain p;
	bool ok = sasl_plain_parse(frame->data, frame->len, &p);

	if (ok && p.authzid_len > 0)
		ok = p.authzid_len == p.authcid_len &&
		    memcmp(p.authzid, p.authcid, p.authcid_len) == 0;
	for (size_t i = 0; ok && i < frame->len; i++)
		ok = (unsigned char)frame->data[i] >= 0x20 ||
		    frame->data[i] == '\0';
	ok = ok && memchr(frame->data, 0x7f, frame->len) == NULL;
	/* "PASS ", the password and CRLF are one line of at most 512. */
	ok = ok && p.authcid_len + 7 <= POP3_LINE_MAX &&
	    p.password_len + 7 <= POP3_LINE_MAX;
	if (!ok) {
		backend_fail(b, FAIL_UNREPLAYABLE,
		    "USER/PASS cannot carry these credentials");
		return;
	}
	backend_enter(b, BACKEND_USER);
	backend_write_secret(b, "USER ", p.authcid, p.authcid_len);
}

static void
backend_pass(struct backend *b)
{
	const struct secret *frame = &b->s->cred.frame;
	struct sasl_plain p;

	if (!sasl_plain_parse(frame->data, frame->len, &p)) {
		backend_fail(b, FAIL_LOCAL, "the credentials are gone");
		return;
	}
	backend_credentials_out(b);
	backend_enter(b, BACKEND_PASS);
	backend_write_secret(b, "PASS ", p.password, p.password_len);
}

/* "AUTH mech response", in one line where it fits and is taken. */
static void
backend_auth(struct backend *b, const char *b64, size_t len)
{
	const char *mech = sasl_name(b->s->cred.mech);
	char before[32];

	snprintf(before, sizeof(before), "AUTH %s", mech);
	if (b->learnt & LEARNT_TWO_STEP ||
	    strlen(before) + 1 + len + 2 > POP3_AUTH_INLINE_MAX) {
		backend_send(b, BACKEND_AUTH_PROMPT, before);
		return;
	}
	backend_credentials_out(b);
	backend_enter(b, BACKEND_AUTH);
	snprintf(before, sizeof(before), "AUTH %s ", mech);
	backend_write_secret(b, before, b64, len);
}

/* The response alone, behind the backend's prompt. */
static void
backend_response(struct backend *b)
{
	const struct secret *frame = &b->s->cred.frame;
	struct secret b64 = {NULL, 0};

	backend_credentials_out(b);
	backend_enter(b, BACKEND_AUTH_RESULT);
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
backend_auth_reply(struct backend *b, const struct pop3_reply *reply)
{
	bool prompt = reply->kind == POP3_REPLY_CONTINUE;

	if (reply->kind == POP3_REPLY_ERR && b->state != BACKEND_AUTH_RESULT) {
		backend_auth_refused(b, reply);
	} else if (prompt && b->state == BACKEND_AUTH_PROMPT) {
		backend_response(b);
	} else if (prompt && b->state == BACKEND_AUTH && reply->text_len == 0) {
		/* It did not look at the inline response. */
		b->learnt |= LEARNT_TWO_STEP;
		destination_learn(b->shared, clock_ms(), b->learnt);
		backend_response(b);
	} else if (prompt) {
		backend_challenge(b, reply);
	} else if (b->state == BACKEND_AUTH_PROMPT &&
	    reply->kind == POP3_REPLY_OK) {
		/* Logged in, with nothing to go by? */
		backend_fail(b, FAIL_PROTOCOL, "a reply out of place");
	} else {
		if (reply->kind == POP3_REPLY_OK && b->state == BACKEND_AUTH &&
		    !(b->learnt & LEARNT_INLINE)) {
			b->learnt |= LEARNT_INLINE;
			destination_learn(b->shared, clock_ms(), b->learnt);
		}
		backend_result(b, reply);
	}
}

/* "-ERR" to AUTH itself. It may mean the form: once two steps are tried, then
 * USER/PASS. Never after a word about the password, nor where the form is
 * known to be right: that would count twice against the user. */
static void
backend_auth_refused(struct backend *b, const struct pop3_reply *reply)
{
	bool form =
	    reply->code == POP3_CODE_NONE && !pop3_reply_about_password(reply);
	char line[32];

	if (!form) {
		backend_result(b, reply);
	} else if (b->state == BACKEND_AUTH && b->learnt & LEARNT_INLINE) {
		/* Unless what CAPA said is no longer true: ask next time. */
		destination_learn(b->shared, clock_ms(), LEARNT_INLINE);
		backend_result(b, reply);
	} else if (b->state == BACKEND_AUTH) {
		b->learnt |= LEARNT_TWO_STEP;
		destination_learn(b->shared, clock_ms(), b->learnt);
		b->fallback = true;
		b->credentials_out = false;
		snprintf(line, sizeof(line), "AUTH %s",
		    sasl_name(b->s->cred.mech));
		backend_send(b, BACKEND_AUTH_PROMPT, line);
	} else if (backend_is_password(b) && b->endpoint->auth == AUTH_AUTO) {
		destination_unlearn(b->shared);
		b->user_pass = true;
		backend_login_user(b);
	} else {
		backend_result(b, reply);
	}
}

/* The error document of RFC 7628, usually: the client may want to read it. */
static void
backend_challenge(struct backend *b, const struct pop3_reply *reply)
{
	if (backend_is_password(b) ||
	    ++b->challenges > BACKEND_CHALLENGES_MAX) {
		backend_fail(b, FAIL_PROTOCOL, "a challenge out of place");
		return;
	}
	backend_well(b);
	if (b->dest->hide_auth_errors || !client_can_answer(b->s->client)) {
		backend_cancel(b);
	} else {
		backend_enter(b, BACKEND_CHALLENGE);
		session_challenge(b->s, reply->text, reply->text_len);
	}
}

void
backend_answer(struct backend *b, const char *line, size_t len)
{
	backend_enter(b, BACKEND_AUTH_RESULT);
	backend_write_secret(b, "", line, len);
}

/* The dummy answer that each mechanism wants before it gives up. */
static void
backend_cancel(struct backend *b)
{
	backend_send(b, BACKEND_CANCEL,
	    b->s->cred.mech == SASL_OAUTHBEARER ? "AQ==" : "");
}

/* Not now: no word about the credentials, and no failure of the host. */
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
	static const char hidden[] = "-ERR [AUTH] Authentication failed.";
	struct session *s = b->s;
	bool busy = backend_is_busy(reply);

	if (reply->kind == POP3_REPLY_CONTINUE ||
	    (reply->kind == POP3_REPLY_OK && b->state == BACKEND_CANCEL)) {
		backend_fail(b, FAIL_PROTOCOL, "a reply out of place");
		return;
	}
	backend_well(b);
	if (reply->kind == POP3_REPLY_OK)
		session_accepted(s, reply->line, reply->line_len);
	else if (!busy && b->dest->hide_auth_errors)
		session_refused(s, FAIL_REJECTED, hidden, sizeof(hidden) - 1);
	else
		session_refused(s, busy ? FAIL_BUSY : FAIL_REJECTED,
		    reply->line, reply->line_len);
}

struct bufferevent *
backend_release(struct backend *b, SSL **ssl_out)
{
	struct bufferevent *bev = b->bev;

	bufferevent_disable(bev, EV_READ);
	bufferevent_setcb(bev, NULL, NULL, NULL, NULL);
	bufferevent_setwatermark(bev, EV_READ, 0, 0);
	/* The place among the sessions is the session's from now on. */
	destination_logged_in(b->shared);
	b->entered = false;
	b->s->placed = true;
	*ssl_out = b->ssl;
	b->bev = NULL;
	b->ssl = NULL;
	return bev;
}
