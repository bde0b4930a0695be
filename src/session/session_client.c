/* session_client.c: the client leg up to the login: PROXY header, TLS, greeting
 * and the pre-authentication dialogue, all answered here.
 *
 * Input is switched off whenever it is not the client's turn, so that TCP
 * pushes back; what has been read waits in its evbuffer, in order, and goes to
 * the backend with the relay. A command is taken whole out of the buffer into
 * the worker's scratch line, and both are wiped: any line may be a password. */

#include "session_priv.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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
#include "service/pop3_texts.h"
#include "service/runtime.h"
#include "net/tls_server.h"
#include "session/linger.h"
#include "tls_leg.h"

#define CLIENT_INPUT_MAX POP3_AUTH_LINE_MAX /* held unread, at most */
#define CLIENT_OUTPUT_MAX (16 * 1024) /* then no further command is taken */
#define CLIENT_CLOSING_MS 5000 /* for the last reply to leave */
#define CLIENT_WATCH_S 1 /* how often a waiting client is looked after */

/* What the leg waits for. */
enum client_state {
	CLIENT_PROXY, /* the PROXY header */
	CLIENT_HANDSHAKE, /* TLS, at once or behind STLS */
	CLIENT_COMMAND,
	CLIENT_STLS, /* our "+OK" to have left, then the handshake */
	CLIENT_RESPONSE, /* the initial response, behind a prompt */
	CLIENT_LOGIN_NAME, /* SASL LOGIN's first prompt */
	CLIENT_LOGIN_PASSWORD,
	CLIENT_CHALLENGE, /* the answer to the backend's challenge */
	CLIENT_LATE, /* the same, but the backend is gone: for nobody */
	CLIENT_LOGIN, /* the session, with the login's result */
	CLIENT_DELAY, /* auth_failure_delay to pass */
	CLIENT_CLOSING, /* the last reply to have left */
	CLIENT_STATES
};

/* Whom the session speaks for. */
struct client_origin {
	struct addr client, local;
	char id[XCLIENT_SESSION_MAX + 1];
	unsigned ttl;
	enum xclient_transport transport;
	char server_name[XCLIENT_NAME_MAX + 1];
};

struct client {
	struct session *s;
	enum client_state state;
	struct addr from; /* the PROXY header's source, else the socket's */
	struct client_origin *before; /* what XCLIENT in clear has changed */
	int fd; /* before there is a bufferevent, else -1 */
	struct event *ev; /* PROXY header; afterwards the delay's timer */
	uint64_t proxy_until; /* clock_ms() when the header is too late */
	ssize_t proxy_seen; /* octets of it at the last look */
	struct event *watch; /* while a login is under way; its callback */
	struct bufferevent *bev;
	SSL *ssl; /* bev's; NULL: not encrypted */
	bool eof; /* the client has closed its side */
	bool told_tls; /* by XCLIENT: the leg in front of the proxy is TLS */
	bool running; /* client_run() is on the stack */
	enum sasl_mechanism mech; /* of the exchange under way */
	struct secret name; /* USER's or LOGIN's; data NULL: none held */
	unsigned bad_commands;
	char *pending; /* the reply that waits in CLIENT_DELAY */
	size_t pending_len;
	const char *end; /* why the session ends when output has left */
};

/* client_command()'s rows: what each verb does. */
typedef void client_verb(struct client *c, const struct pop3_command *cmd);

static bool client_wants_proxy(const struct client *c);
static bool client_proxy_start(struct client *c);
static bool client_proxy_wait(struct client *c);
static void client_proxy_cb(evutil_socket_t fd, short what, void *arg);
static bool client_may_send(int fd);
static void client_proxy_adopt(struct client *c, const struct proxy_header *h);
static bool client_connect(struct client *c);
static bool client_plain(struct client *c);
static bool client_tls(struct client *c);
static void client_handshaken(struct client *c);
static void client_greet(struct client *c);
static void client_refuse(struct client *c);
static void client_read_cb(struct bufferevent *bev, void *arg);
static void client_write_cb(struct bufferevent *bev, void *arg);
static void client_event_cb(struct bufferevent *bev, short what, void *arg);
static void client_tls_failed(struct client *c);
static bool client_listens(const struct client *c);
static void client_run(struct client *c);
static bool client_line(struct client *c, size_t *len_out);
static void client_overlong(struct client *c);
static void client_dispatch(struct client *c, const char *line, size_t len);
static void client_resume(struct client *c, enum client_state state);
static void client_pause(struct client *c, enum client_state state);
static void client_wait(struct client *c);
static void client_watch_cb(evutil_socket_t fd, short what, void *arg);
static void client_reply(struct client *c, const char *text);
static void client_write(struct client *c, const void *data, size_t len);
static void client_misplaced(struct client *c, const char *text);
static void client_end(struct client *c, const char *text, const char *why);
static void client_closing(struct client *c, const char *why);
static bool client_may_login(const struct client *c);
static bool client_trusts_xclient(const struct client *c);
static bool client_remember(struct client *c);
static void client_restore(struct client *c);
static void client_command(struct client *c, const char *line, size_t len);
static client_verb client_capa, client_noop, client_utf8, client_stls,
    client_user, client_pass, client_auth, client_apop, client_xclient,
    client_quit, client_transaction, client_http, client_unknown;
static void client_adopt(struct client *c, const struct xclient *x);
static void client_auth_start(struct client *c, enum sasl_mechanism mech,
    const char *ir, size_t len);
static void client_prompt(struct client *c, enum client_state state,
    const char *text);
static void client_response(struct client *c, const char *line, size_t len);
static bool client_decode(struct client *c, const char *line, size_t len,
    struct secret *out);
static void client_malformed(struct client *c, const char *what);
static void client_plain_done(struct client *c, struct secret *frame);
static void client_bearer_done(struct client *c, const char *line, size_t len,
    struct secret *frame);
static void client_password(struct client *c, const char *how,
    const char *password, size_t len);
static void client_delay_cb(evutil_socket_t fd, short what, void *arg);
static void client_pending(struct client *c);
static void client_answered(struct client *c, const char *end);

static client_verb *const client_verbs[] = {
    [POP3_CAPA] = client_capa,
    [POP3_NOOP] = client_noop,
    [POP3_UTF8] = client_utf8,
    [POP3_STLS] = client_stls,
    [POP3_USER] = client_user,
    [POP3_PASS] = client_pass,
    [POP3_AUTH] = client_auth,
    [POP3_APOP] = client_apop,
    [POP3_XCLIENT] = client_xclient,
    [POP3_QUIT] = client_quit,
    [POP3_TRANSACTION] = client_transaction,
    [POP3_HTTP] = client_http,
    [POP3_UNKNOWN] = client_unknown,
};
_Static_assert(ARRAY_LEN(client_verbs) == POP3_VERBS, "a verb without a row");

/* Accept, PROXY header, TLS, greeting */

bool
client_start(struct session *s, int fd)
{
	struct client *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		close(fd);
		return false;
	}
	s->client = c;
	c->s = s;
	c->fd = fd;
	c->watch = evtimer_new(s->env->base, client_watch_cb, c);
	if (c->watch == NULL)
		return false;
	if (client_wants_proxy(c))
		return client_proxy_start(c);
	return client_connect(c);
}

static bool
client_wants_proxy(const struct client *c)
{
	const struct config_listener *l = c->s->listener;

	return l->proxy_protocol != PROXY_OFF &&
	    cidr_match_any(l->proxy_trusted, l->n_proxy_trusted, &c->s->peer);
}

static bool
client_proxy_start(struct client *c)
{
	c->state = CLIENT_PROXY;
	c->proxy_until = clock_ms() + c->s->listener->proxy_header_timeout;
	c->ev = event_new(c->s->env->base, c->fd, EV_READ, client_proxy_cb, c);
	return c->ev != NULL && client_proxy_wait(c);
}

/* The time is absolute: a header that trickles does not get more of it. */
static bool
client_proxy_wait(struct client *c)
{
	uint64_t now = clock_ms();
	uint64_t ms = c->proxy_until > now ? c->proxy_until - now : 0;
	struct timeval tv = clock_timeval(ms);

	return event_add(c->ev, &tv) == 0;
}

/* Only looks until the header is whole, then takes exactly its octets: what
 * follows may be TLS and is not ours to read. SO_RCVLOWAT keeps the event from
 * firing again for what has been seen already. */
static void
client_proxy_cb(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	struct session *s = c->s;
	bool required = s->listener->proxy_protocol == PROXY_REQUIRED;
	uint8_t data[PROXY_HEADER_MAX];
	struct proxy_header h;
	size_t used = 0;
	ssize_t n = 0;
	int want;
	enum proxy_status status = PROXY_NONE;

	if (what & EV_READ) {
		n = recv(fd, data, sizeof(data), MSG_PEEK);
		if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
			client_proxy_wait(c);
			return;
		}
		if (n <= 0) {
			session_close(s, "client closed");
			return;
		}
		status = proxy_header_parse(data, (size_t)n, &h, &used);
	}
	if (status == PROXY_MORE) {
		/* A close makes the socket readable for good. */
		if (n == c->proxy_seen && !client_may_send(fd)) {
			session_close(s, "client closed");
			return;
		}
		c->proxy_seen = n;
		want = n + 1;
		setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
		client_proxy_wait(c);
		return;
	}
	if (status == PROXY_OK) {
		if (recv(fd, data, used, 0) != (ssize_t)used) {
			session_close(s, "client closed");
			return;
		}
		client_proxy_adopt(c, &h);
	} else if (status == PROXY_BAD || required) {
		struct log_line l;

		session_log(&l, LOG_WARNING, s, "no acceptable PROXY header");
		log_cstr(&l, "listener", s->listener_name);
		log_end(&l);
		session_close(s, "no PROXY header");
		return;
	}
	event_free(c->ev);
	c->ev = NULL;
	want = 1;
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
	if (!client_connect(c))
		session_close(s, "out of memory");
}

/* False: the client's FIN or RST has arrived, and all that came before it. */
static bool
client_may_send(int fd)
{
	struct tcp_info info = {.tcpi_state = TCP_ESTABLISHED};
	socklen_t len = sizeof(info);

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
	return info.tcpi_state == TCP_ESTABLISHED;
}

static void
client_proxy_adopt(struct client *c, const struct proxy_header *h)
{
	struct session *s = c->s;

	if (h->local)
		return;
	s->client_addr = h->src;
	s->local_addr = h->dst;
	/* "No TLS" is said by balancers that pass TLS on as well. */
	if (h->tls)
		s->transport = XCLIENT_TRANSPORT_TLS;
	s->ttl = h->ttl;
	if (h->session[0] != '\0')
		memcpy(s->id, h->session, sizeof(s->id));
	if (h->authority[0] != '\0')
		memcpy(s->server_name, h->authority, sizeof(s->server_name));
}

static bool
client_connect(struct client *c)
{
	c->from = c->s->client_addr;
	/* A proxy in front says whose connection this is by XCLIENT later. */
	if (!client_trusts_xclient(c))
		session_count(c->s);
	if (c->s->listener->tls == TLS_IMPLICIT)
		return client_tls(c);
	if (!client_plain(c))
		return false;
	client_greet(c);
	return true;
}

static bool
client_plain(struct client *c)
{
	c->bev = bufferevent_socket_new(c->s->env->base, c->fd,
	    BEV_OPT_CLOSE_ON_FREE);
	if (c->bev == NULL)
		return false;
	c->fd = -1;
	bufferevent_setcb(c->bev, client_read_cb, client_write_cb,
	    client_event_cb, c);
	bufferevent_setwatermark(c->bev, EV_READ, 0, CLIENT_INPUT_MAX);
	return true;
}

/* A TLS bufferevent on c->fd. */
static bool
client_tls(struct client *c)
{
	struct session *s = c->s;

	c->ssl = tls_server_ssl(s->front->tls_server, s->listener_index);
	if (c->ssl == NULL)
		return false;
	c->bev = bufferevent_openssl_socket_new(s->env->base, c->fd, c->ssl,
	    BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
	if (c->bev == NULL) {
		/* With CLOSE_ON_FREE it is freed also by what fails. */
		c->ssl = NULL;
		return false;
	}
	c->fd = -1;
	c->state = CLIENT_HANDSHAKE;
	bufferevent_setcb(c->bev, client_read_cb, client_write_cb,
	    client_event_cb, c);
	bufferevent_setwatermark(c->bev, EV_READ, 0, CLIENT_INPUT_MAX);
	return true;
}

static void
client_handshaken(struct client *c)
{
	struct session *s = c->s;
	const char *name = tls_server_sni(c->ssl);

	tls_leg_secured(c->bev, c->ssl);
	s->client_tls = SSL_get_version(c->ssl);
	s->client_cipher = SSL_get_cipher_name(c->ssl);
	if (name[0] != '\0')
		snprintf(s->server_name, sizeof(s->server_name), "%s", name);
	if (s->listener->tls == TLS_IMPLICIT)
		client_greet(c);
	else
		client_resume(c, CLIENT_COMMAND);
}

static void
client_greet(struct client *c)
{
	if (c->s->refusal != NULL) {
		client_refuse(c);
		return;
	}
	client_write(c, "+OK ", 4);
	if (client_trusts_xclient(c))
		client_write(c, "[XCLIENT] ", 10);
	client_reply(c, c->s->cfg->pop3.banner);
	client_resume(c, CLIENT_COMMAND);
}

static void
client_refuse(struct client *c)
{
	char line[POP3_LINE_MAX];

	snprintf(line, sizeof(line), "-ERR [SYS/TEMP] %s", c->s->refusal);
	client_end(c, line, "refused at the door");
}

/* Input: lines out of the buffer */

static void
client_read_cb(struct bufferevent *bev UNUSED, void *arg)
{
	client_run(arg);
}

static void
client_write_cb(struct bufferevent *bev, void *arg)
{
	struct client *c = arg;
	int fd;

	if (c->state == CLIENT_CLOSING) {
		session_close(c->s, c->end);
	} else if (c->state == CLIENT_STLS) {
		/* The socket moves to a TLS bufferevent; whatever the client
		 * said in clear dies with the old one's buffer. */
		fd = bufferevent_getfd(bev);
		bufferevent_setfd(bev, -1);
		bufferevent_free(bev);
		c->bev = NULL;
		c->fd = fd;
		if (!client_tls(c))
			session_close(c->s, "out of memory");
	} else {
		if (!c->eof && client_listens(c))
			bufferevent_enable(bev, EV_READ);
		client_run(c);
	}
}

static void
client_event_cb(struct bufferevent *bev UNUSED, short what, void *arg)
{
	struct client *c = arg;

	if (what & BEV_EVENT_CONNECTED) {
		client_handshaken(c);
	} else if (c->state == CLIENT_HANDSHAKE) {
		client_tls_failed(c);
	} else if (what & BEV_EVENT_EOF) {
		/* Its last commands may still be in the buffer. */
		c->eof = true;
		client_run(c);
	} else {
		ERR_clear_error();
		session_close(c->s, "client lost");
	}
}

static void
client_tls_failed(struct client *c)
{
	unsigned long code = bufferevent_get_openssl_error(c->bev);
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
	struct log_line l;

	ERR_clear_error();
	session_log(&l, reason != NULL ? LOG_INFO : LOG_DEBUG, c->s,
	    "TLS handshake with the client failed");
	log_cstr(&l, "listener", c->s->listener_name);
	log_cstr(&l, "reason", reason != NULL ? reason : "connection closed");
	log_end(&l);
	/* The alert is on its way: no RST over it. */
	c->s->linger = true;
	session_close(c->s, "TLS handshake failed");
}

/* Whether a line from the client means something now. */
static bool
client_listens(const struct client *c)
{
	switch (c->state) {
	case CLIENT_COMMAND:
	case CLIENT_RESPONSE:
	case CLIENT_LOGIN_NAME:
	case CLIENT_LOGIN_PASSWORD:
	case CLIENT_CHALLENGE:
	case CLIENT_LATE:
		return true;
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
	case CLIENT_LOGIN:
	case CLIENT_DELAY:
	case CLIENT_CLOSING:
	case CLIENT_STATES:
		return false;
	}
	return false;
}

/* Takes lines while it is the client's turn and it reads our replies. */
static void
client_run(struct client *c)
{
	struct session *s = c->s;
	size_t len;

	if (c->running || session_closed(s))
		return;
	c->running = true;
	while (!session_closed(s) && client_listens(c) &&
	    evbuffer_get_length(bufferevent_get_output(c->bev)) <
		CLIENT_OUTPUT_MAX) {
		if (!client_line(c, &len)) {
			if (c->eof && client_listens(c))
				session_close(s, "client closed");
			break;
		}
		client_dispatch(c, s->env->scratch, len);
		secret_wipe(s->env->scratch, len);
		/* The login may be through, and this leg gone. */
		if (s->client != c)
			return;
	}
	c->running = false;
}

/* Moves the next line, its end cut off, to the scratch buffer. */
static bool
client_line(struct client *c, size_t *len_out)
{
	struct evbuffer *in = bufferevent_get_input(c->bev);
	char *line = c->s->env->scratch, start[8];
	struct evbuffer_ptr eol;
	size_t held = evbuffer_get_length(in), max = POP3_AUTH_LINE_MAX, n;

	if (c->state == CLIENT_COMMAND) {
		ev_ssize_t got = evbuffer_copyout(in, start, sizeof(start));

		max = pop3_line_limit(start, got > 0 ? (size_t)got : 0);
		secret_wipe(start, sizeof(start));
	}
	eol = evbuffer_search_eol(in, NULL, NULL, EVBUFFER_EOL_LF);
	n = eol.pos == -1 ? held : (size_t)eol.pos + 1;
	if (n > max || (eol.pos == -1 && n >= max)) {
		client_overlong(c);
		return false;
	}
	if (eol.pos == -1)
		return false;
	evbuffer_copyout(in, line, n);
	session_drain_wiped(in, n);
	n--;
	if (n > 0 && line[n - 1] == '\r')
		n--;
	*len_out = n;
	return true;
}

static void
client_overlong(struct client *c)
{
	client_end(c, "-ERR The line is too long.", "line too long");
}

static void
client_dispatch(struct client *c, const char *line, size_t len)
{
	switch (c->state) {
	case CLIENT_COMMAND:
		client_command(c, line, len);
		return;
	case CLIENT_RESPONSE:
	case CLIENT_LOGIN_NAME:
	case CLIENT_LOGIN_PASSWORD:
		client_response(c, line, len);
		return;
	case CLIENT_CHALLENGE:
		client_wait(c);
		session_challenge_answer(c->s, line, len);
		return;
	case CLIENT_LATE:
		client_pending(c);
		return;
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
	case CLIENT_LOGIN:
	case CLIENT_DELAY:
	case CLIENT_CLOSING:
	case CLIENT_STATES:
		return;
	}
}

/* It is the client's turn. Buffered input is looked at from the loop, never
 * from here: the caller may be a leg that is just being freed. The socket is
 * read when our reply has left: it may hold the end of a client that has only
 * closed its own side, and that ends the session. */
static void
client_resume(struct client *c, enum client_state state)
{
	c->state = state;
	evtimer_del(c->watch);
	if (!c->eof && evbuffer_get_length(bufferevent_get_output(c->bev)) == 0)
		bufferevent_enable(c->bev, EV_READ);
	bufferevent_trigger(c->bev, EV_READ,
	    BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

/* It is not the client's turn: what it sends stays in the kernel. */
static void
client_pause(struct client *c, enum client_state state)
{
	c->state = state;
	bufferevent_disable(c->bev, EV_READ);
}

/* A login is under way. */
static void
client_wait(struct client *c)
{
	struct timeval tv = {CLIENT_WATCH_S, 0};

	client_pause(c, CLIENT_LOGIN);
	evtimer_add(c->watch, &tv);
}

/* Nobody reads the socket now, so nobody would notice a reset; a FIN only says
 * that no more input comes, and does not end a login. Short logins never get
 * here. */
static void
client_watch_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct client *c = arg;
	struct tcp_info info = {.tcpi_state = TCP_ESTABLISHED};
	socklen_t len = sizeof(info);
	struct timeval tv = {CLIENT_WATCH_S, 0};

	getsockopt(bufferevent_getfd(c->bev), IPPROTO_TCP, TCP_INFO, &info,
	    &len);
	if (info.tcpi_state == TCP_CLOSE)
		session_close(c->s, "client lost");
	else
		evtimer_add(c->watch, &tv);
}

/* Output */

static void
client_write(struct client *c, const void *data, size_t len)
{
	if (bufferevent_write(c->bev, data, len) == -1)
		session_close(c->s, "out of memory");
}

static void
client_reply(struct client *c, const char *text)
{
	client_write(c, text, strlen(text));
	client_write(c, "\r\n", 2);
}

/* An unknown or misplaced command: there is a limit to these. */
static void
client_misplaced(struct client *c, const char *text)
{
	if (++c->bad_commands > c->s->listener->max_bad_commands)
		client_end(c, "-ERR Too many bad commands.",
		    "too many bad commands");
	else
		client_reply(c, text);
}

static void
client_end(struct client *c, const char *text, const char *why)
{
	client_reply(c, text);
	client_closing(c, why);
}

/* Closes as soon as everything written has left. */
static void
client_closing(struct client *c, const char *why)
{
	if (session_closed(c->s))
		return;
	client_pause(c, CLIENT_CLOSING);
	c->end = why;
	c->s->linger = true;
	session_deadline(c->s, CLIENT_CLOSING_MS);
	if (evbuffer_get_length(bufferevent_get_output(c->bev)) == 0)
		session_close(c->s, why);
}

void
client_timeout(struct client *c)
{
	switch (c->state) {
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
	case CLIENT_CLOSING:
		session_close(c->s, "timeout");
		return;
	case CLIENT_COMMAND:
	case CLIENT_RESPONSE:
	case CLIENT_LOGIN_NAME:
	case CLIENT_LOGIN_PASSWORD:
	case CLIENT_CHALLENGE:
	case CLIENT_LATE:
	case CLIENT_LOGIN:
	case CLIENT_DELAY:
	case CLIENT_STATES:
		break;
	}
	backend_free(&c->s->backend);
	c->s->phase = SESSION_DIALOGUE;
	client_end(c, "-ERR [SYS/TEMP] Timeout, closing the connection.",
	    "timeout before login");
}

void
client_shutdown(struct client *c, const char *text)
{
	char line[POP3_LINE_MAX];

	switch (c->state) {
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
		session_close(c->s, "shutting down");
		return;
	case CLIENT_COMMAND:
	case CLIENT_RESPONSE:
	case CLIENT_LOGIN_NAME:
	case CLIENT_LOGIN_PASSWORD:
		snprintf(line, sizeof(line), "-ERR [SYS/TEMP] %s", text);
		client_end(c, line, "shutting down");
		return;
	case CLIENT_DELAY:
	case CLIENT_LATE:
		c->end = "shutting down";
		return;
	case CLIENT_CHALLENGE:
	case CLIENT_LOGIN:
	case CLIENT_CLOSING:
	case CLIENT_STATES:
		return;
	}
}

/* Commands */

/* Logins carry passwords or bearer tokens: encrypted, or expressly allowed. */
static bool
client_may_login(const struct client *c)
{
	return c->ssl != NULL || c->told_tls ||
	    c->s->cfg->pop3.allow_plain_auth_without_tls;
}

static bool
client_trusts_xclient(const struct client *c)
{
	const struct config_listener *l = c->s->listener;

	return cidr_match_any(l->xclient_trusted, l->n_xclient_trusted,
	    &c->from);
}

/* XCLIENT in clear is taken, for that is how proxies on one network talk; but
 * if TLS follows it may have been somebody else's. False: no memory. */
static bool
client_remember(struct client *c)
{
	const struct session *s = c->s;

	if (c->before != NULL || c->ssl != NULL ||
	    s->listener->tls != TLS_STARTTLS)
		return true;
	c->before = calloc(1, sizeof(*c->before));
	if (c->before == NULL)
		return false;
	c->before->client = s->client_addr;
	c->before->local = s->local_addr;
	c->before->ttl = s->ttl;
	c->before->transport = s->transport;
	memcpy(c->before->id, s->id, sizeof(s->id));
	memcpy(c->before->server_name, s->server_name, sizeof(s->server_name));
	return true;
}

static void
client_restore(struct client *c)
{
	struct client_origin *o = c->before;
	struct session *s = c->s;

	if (o == NULL)
		return;
	s->client_addr = o->client;
	s->local_addr = o->local;
	s->ttl = o->ttl;
	s->transport = o->transport;
	memcpy(s->id, o->id, sizeof(s->id));
	memcpy(s->server_name, o->server_name, sizeof(s->server_name));
	c->told_tls = false;
	session_uncount(s);
	free(o);
	c->before = NULL;
}

static void
client_command(struct client *c, const char *line, size_t len)
{
	struct pop3_command cmd;

	if (!pop3_command_parse(line, len, &cmd)) {
		client_misplaced(c, "-ERR The line holds a control character.");
		return;
	}
	client_verbs[cmd.verb](c, &cmd);
}

static void
client_capa(struct client *c, const struct pop3_command *cmd UNUSED)
{
	const struct runtime *rt = c->s->front->rt;
	bool stls = c->s->listener->tls == TLS_STARTTLS && c->ssl == NULL;
	const char *text =
	    pop3_texts_capa(rt->pop3_texts, stls, client_may_login(c));

	client_write(c, text, strlen(text));
}

static void
client_noop(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_reply(c, "+OK");
}

static void
client_utf8(struct client *c, const struct pop3_command *cmd UNUSED)
{
	c->s->utf8 = true;
	client_reply(c, "+OK");
}

static void
client_stls(struct client *c, const struct pop3_command *cmd UNUSED)
{
	if (c->s->listener->tls != TLS_STARTTLS || c->ssl != NULL) {
		client_misplaced(c, "-ERR STLS is not possible here.");
		return;
	}
	/* Commands behind STLS were sent before anybody could know that the
	 * sender is who will be authenticated (RFC 2595 §4). */
	if (evbuffer_get_length(bufferevent_get_input(c->bev)) > 0) {
		client_end(c, "-ERR Nothing may follow STLS before TLS.",
		    "data behind STLS");
		return;
	}
	secret_clear(&c->name);
	c->s->utf8 = false;
	client_restore(c);
	client_reply(c, "+OK Begin TLS negotiation.");
	client_pause(c, CLIENT_STLS);
}

static void
client_user(struct client *c, const struct pop3_command *cmd)
{
	secret_clear(&c->name);
	if (!client_may_login(c)) {
		client_misplaced(c, "-ERR Use TLS first.");
	} else if (cmd->arg_len == 0) {
		client_misplaced(c, "-ERR USER needs a name.");
	} else if (!secret_set(&c->name, cmd->arg, cmd->arg_len)) {
		session_close(c->s, "out of memory");
	} else {
		client_reply(c, "+OK");
	}
}

static void
client_pass(struct client *c, const struct pop3_command *cmd)
{
	if (c->name.data == NULL)
		client_misplaced(c,
		    client_may_login(c) ? "-ERR USER comes first."
					: "-ERR Use TLS first.");
	else if (!cmd->has_arg)
		client_misplaced(c, "-ERR PASS needs an argument.");
	else
		client_password(c, "USER", cmd->arg, cmd->arg_len);
}

static void
client_auth(struct client *c, const struct pop3_command *cmd)
{
	const struct runtime *rt = c->s->front->rt;
	const struct config_pop3 *p = &c->s->cfg->pop3;
	const char *mech_name, *ir;
	size_t mech_len, ir_len;
	enum sasl_mechanism mech;
	unsigned offered = 0;

	if (cmd->arg_len == 0) {
		/* Outlook sends AUTH alone to learn the mechanisms. */
		const char *text =
		    pop3_texts_auth(rt->pop3_texts, client_may_login(c));

		client_write(c, text, strlen(text));
		return;
	}
	for (size_t i = 0; i < p->n_sasl; i++)
		offered |= (unsigned)p->sasl[i];
	if (!pop3_auth_arg_parse(cmd->arg, cmd->arg_len, &mech_name, &mech_len,
		&ir, &ir_len))
		client_misplaced(c, "-ERR AUTH is malformed.");
	else if (!sasl_mechanism_find(mech_name, mech_len, &mech) ||
	    (offered & SASL_BIT(mech)) == 0)
		client_misplaced(c, "-ERR This mechanism is not offered.");
	else if (!client_may_login(c))
		client_misplaced(c, "-ERR Use TLS first.");
	else
		client_auth_start(c, mech, ir, ir_len);
}

static void
client_apop(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_misplaced(c, "-ERR APOP is not supported.");
}

static void
client_xclient(struct client *c, const struct pop3_command *cmd)
{
	struct session *s = c->s;
	struct xclient x;

	if (!client_trusts_xclient(c)) {
		client_unknown(c, cmd);
		return;
	}
	if (cmd->arg_len == 0 || !xclient_parse(cmd->arg, cmd->arg_len, &x)) {
		client_misplaced(c, "-ERR Invalid parameters.");
		return;
	}
	if (!client_remember(c)) {
		session_close(s, "out of memory");
		return;
	}
	client_adopt(c, &x);
	session_count(s);
	if (s->refusal != NULL)
		client_refuse(c);
	else
		client_reply(c, "+OK Updated");
}

static void
client_adopt(struct client *c, const struct xclient *x)
{
	struct session *s = c->s;
	struct log_line l;

	/* Both ids in one line: what came before has the old one. */
	session_log(&l, LOG_DEBUG, s, "XCLIENT is believed");
	log_cstr(&l, "told_session", x->session);
	log_end(&l);
	if (x->addr.len != 0)
		s->client_addr = x->addr;
	if (x->dest.len != 0)
		s->local_addr = x->dest;
	if (x->session[0] != '\0')
		memcpy(s->id, x->session, sizeof(s->id));
	if (x->ttl != 0)
		s->ttl = x->ttl;
	if (x->transport != XCLIENT_TRANSPORT_UNSET) {
		s->transport = x->transport;
		c->told_tls = x->transport == XCLIENT_TRANSPORT_TLS;
	}
	if (x->dest_name[0] != '\0')
		memcpy(s->server_name, x->dest_name, sizeof(s->server_name));
}

static void
client_quit(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_end(c, "+OK", "quit before login");
}

static void
client_transaction(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_misplaced(c, "-ERR Log in first.");
}

/* A browser was made to talk to us: what follows could be a whole dialogue of
 * somebody else's choosing (ALPACA). Not one octet back. */
static void
client_http(struct client *c, const struct pop3_command *cmd UNUSED)
{
	session_close(c->s, "HTTP request");
}

static void
client_unknown(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_misplaced(c, "-ERR Unknown command.");
}

/* AUTH */

static void
client_auth_start(struct client *c, enum sasl_mechanism mech, const char *ir,
    size_t len)
{
	secret_clear(&c->name);
	c->mech = mech;
	if (mech == SASL_LOGIN) {
		if (ir == NULL) {
			client_prompt(c, CLIENT_LOGIN_NAME, "Username:");
			return;
		}
		c->state = CLIENT_LOGIN_NAME;
	} else if (ir == NULL) {
		client_prompt(c, CLIENT_RESPONSE, "");
		return;
	} else {
		c->state = CLIENT_RESPONSE;
	}
	/* "=" is an empty initial response, not base64 (RFC 5034 §4). */
	if (len == 1 && ir[0] == '=')
		len = 0;
	client_response(c, ir, len);
}

static void
client_prompt(struct client *c, enum client_state state, const char *text)
{
	char b64[BASE64_ENCODED_MAX(16)];

	base64_encode(text, strlen(text), b64);
	client_write(c, "+ ", 2);
	client_reply(c, b64);
	c->state = state;
}

/* One message of the exchange, however it came. */
static void
client_response(struct client *c, const char *line, size_t len)
{
	enum client_state state = c->state;
	struct secret frame = {NULL, 0};

	c->state = CLIENT_COMMAND;
	if (len == 1 && line[0] == '*') {
		secret_clear(&c->name);
		client_reply(c, "-ERR Authentication cancelled.");
		return;
	}
	if (!client_decode(c, line, len, &frame))
		return;
	if (state == CLIENT_LOGIN_NAME) {
		if (frame.len == 0 || memchr(frame.data, '\0', frame.len)) {
			client_malformed(c, "LOGIN: no acceptable user name");
		} else {
			secret_clear(&c->name);
			c->name = frame;
			frame.data = NULL;
			frame.len = 0;
			client_prompt(c, CLIENT_LOGIN_PASSWORD, "Password:");
		}
	} else if (state == CLIENT_LOGIN_PASSWORD) {
		if (memchr(frame.data, '\0', frame.len) != NULL)
			client_malformed(c, "LOGIN: NUL in the password");
		else
			client_password(c, "LOGIN", frame.data, frame.len);
	} else if (c->mech == SASL_PLAIN) {
		client_plain_done(c, &frame);
	} else {
		client_bearer_done(c, line, len, &frame);
	}
	secret_clear(&frame);
}

static bool
client_decode(struct client *c, const char *line, size_t len,
    struct secret *out)
{
	size_t decoded;

	if (!secret_reserve(out, BASE64_DECODED_MAX(len))) {
		session_close(c->s, "out of memory");
		return false;
	}
	if (!base64_decode(line, len, out->data, &decoded)) {
		secret_clear(out);
		client_malformed(c, "bad base64");
		return false;
	}
	/* Wipe what padding left behind the end before forgetting it. */
	secret_wipe(out->data + decoded, out->len - decoded);
	out->len = decoded;
	return true;
}

static void
client_malformed(struct client *c, const char *what)
{
	c->s->cred.how = sasl_name(c->mech);
	secret_clear(&c->name);
	free(c->s->user);
	c->s->user = NULL;
	client_wait(c);
	session_login_malformed(c->s, what);
}

static void
client_plain_done(struct client *c, struct secret *frame)
{
	struct session *s = c->s;
	struct sasl_plain plain;
	struct secret *kept = &s->cred.frame;

	if (!sasl_plain_parse(frame->data, frame->len, &plain)) {
		client_malformed(c, "PLAIN: malformed message");
		return;
	}
	s->cred.how = "PLAIN";
	s->cred.mech = SASL_PLAIN;
	secret_clear(kept);
	*kept = *frame;
	frame->data = NULL;
	frame->len = 0;
	client_wait(c);
	if (plain.authzid_len > 0)
		session_login(s, plain.authzid, plain.authzid_len);
	else
		session_login(s, plain.authcid, plain.authcid_len);
}

static void
client_bearer_done(struct client *c, const char *line, size_t len,
    struct secret *frame)
{
	struct session *s = c->s;
	struct sasl_bearer bearer;
	char *name;
	size_t name_len;

	if (!sasl_bearer_parse(c->mech, frame->data, frame->len, &bearer)) {
		client_malformed(c, "malformed bearer message");
		return;
	}
	name = malloc(bearer.user_len + 1);
	if (name == NULL || !secret_set(&s->cred.frame, line, len)) {
		free(name);
		session_close(s, "out of memory");
		return;
	}
	if (c->mech != SASL_OAUTHBEARER ||
	    !sasl_gs2_name_decode(bearer.user, bearer.user_len, name,
		&name_len)) {
		memcpy(name, bearer.user, bearer.user_len);
		name_len = bearer.user_len;
	}
	s->cred.how = sasl_name(c->mech);
	s->cred.mech = c->mech;
	secret_clear(&s->cred.bearer);
	s->cred.bearer = *frame;
	frame->data = NULL;
	frame->len = 0;
	client_wait(c);
	session_login(s, name, name_len);
	free(name);
}

/* A name and a password become one PLAIN message, whoever brought them. */
static void
client_password(struct client *c, const char *how, const char *password,
    size_t len)
{
	struct session *s = c->s;
	struct secret name = c->name, *frame = &s->cred.frame;

	c->name.data = NULL;
	c->name.len = 0;
	if (!secret_reserve(frame, name.len + len + 2)) {
		secret_clear(&name);
		session_close(s, "out of memory");
		return;
	}
	frame->data[0] = '\0';
	memcpy(frame->data + 1, name.data, name.len);
	frame->data[name.len + 1] = '\0';
	memcpy(frame->data + name.len + 2, password, len);
	s->cred.how = how;
	s->cred.mech = SASL_PLAIN;
	client_wait(c);
	session_login(s, name.data, name.len);
	secret_clear(&name);
}

/* From the session: results */

void
client_answer(struct client *c, const char *line, size_t len, uint64_t delay,
    const char *end)
{
	struct timeval tv = clock_timeval(delay);

	c->end = end;
	if (delay == 0 && c->state != CLIENT_CHALLENGE) {
		client_write(c, line, len);
		client_write(c, "\r\n", 2);
		client_answered(c, end);
		return;
	}
	c->pending = malloc(len + 1);
	if (c->pending == NULL) {
		session_close(c->s, "out of memory");
		return;
	}
	memcpy(c->pending, line, len);
	c->pending_len = len;
	/* Its answer to the challenge may be on the way: it must not be taken
	 * for a command. */
	if (c->state == CLIENT_CHALLENGE) {
		c->state = CLIENT_LATE;
		return;
	}
	c->state = CLIENT_DELAY;
	if (c->ev == NULL)
		c->ev = evtimer_new(c->s->env->base, client_delay_cb, c);
	if (c->ev == NULL || evtimer_add(c->ev, &tv) == -1)
		session_close(c->s, "out of memory");
}

void
client_answer_failure(struct client *c, bool temporary, const char *text,
    uint64_t delay, const char *end)
{
	char line[POP3_LINE_MAX];
	int len = snprintf(line, sizeof(line), "-ERR [%s] %s",
	    temporary ? "SYS/TEMP" : "AUTH", text);

	client_answer(c, line, (size_t)len, delay, end);
}

static void
client_delay_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	client_pending(arg);
}

/* The reply that had to wait. */
static void
client_pending(struct client *c)
{
	client_write(c, c->pending, c->pending_len);
	client_write(c, "\r\n", 2);
	free(c->pending);
	c->pending = NULL;
	client_answered(c, c->end);
}

static void
client_answered(struct client *c, const char *end)
{
	if (session_closed(c->s))
		return;
	if (end != NULL)
		client_closing(c, end);
	else
		client_resume(c, CLIENT_COMMAND);
}

bool
client_can_answer(const struct client *c)
{
	return !c->eof ||
	    evbuffer_get_length(bufferevent_get_input(c->bev)) > 0;
}

void
client_challenge(struct client *c, const char *text, size_t len)
{
	client_write(c, "+ ", 2);
	client_write(c, text, len);
	client_write(c, "\r\n", 2);
	client_resume(c, CLIENT_CHALLENGE);
}

struct bufferevent *
client_release(struct client *c, const char *line, size_t len, SSL **ssl_out)
{
	struct bufferevent *bev = c->bev;

	bufferevent_write(bev, line, len);
	bufferevent_write(bev, "\r\n", 2);
	bufferevent_disable(bev, EV_READ);
	bufferevent_setcb(bev, NULL, NULL, NULL, NULL);
	*ssl_out = c->ssl;
	c->bev = NULL;
	return bev;
}

/* A last reply must not be destroyed by the RST of a close over unread input:
 * the socket lingers on while the bufferevent goes. */
void
client_free(struct client **cp)
{
	struct client *c = *cp;
	int fd;

	if (c == NULL)
		return;
	*cp = NULL;
	if (c->ev != NULL)
		event_free(c->ev);
	if (c->watch != NULL)
		event_free(c->watch);
	free(c->before);
	if (c->bev != NULL) {
		if (c->ssl != NULL && SSL_is_init_finished(c->ssl)) {
			SSL_shutdown(c->ssl);
			ERR_clear_error();
		}
		fd = c->s->linger && !c->eof ? dup(bufferevent_getfd(c->bev))
					     : -1;
		bufferevent_free(c->bev);
		if (fd != -1)
			linger_add(c->s->env->lingers, fd);
	}
	if (c->fd != -1)
		close(c->fd);
	secret_clear(&c->name);
	free(c->pending);
	free(c);
}
