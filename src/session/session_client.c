/* session_client.c: the client leg up to the login: PROXY header, TLS, greeting
 * and the dialogue before the login.
 *
 * Input is switched off whenever it is not the client's turn, so that TCP
 * pushes back. Octets that were already read wait in the evbuffer, in order,
 * and go to the backend with the relay. A complete command moves from the
 * buffer into the worker's scratch line, and both are wiped, because any line
 * may be a password. */

#include "session/client.h"

#include <netinet/tcp.h>
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

#include "net/tls_server.h"
#include "platform/clock.h"
#include "proto/pop3.h"
#include "service/pop3_texts.h"
#include "session/line.h"
#include "session/linger.h"
#include "session/proxy_reader.h"
#include "tls_leg.h"

#define CLIENT_INPUT_MAX POP3_AUTH_LINE_MAX /* held unread, at most */
#define CLIENT_OUTPUT_MAX (16 * 1024) /* then no further command is taken */
#define CLIENT_COMMANDS_MAX 10000 /* without a login */
#define CLIENT_CLOSING_MS 5000 /* for the last reply to leave */
#define CLIENT_WATCH_S 1 /* how often a waiting client is checked */

/* What the leg waits for. */
enum client_state {
	CLIENT_PROXY, /* the PROXY header */
	CLIENT_HANDSHAKE, /* TLS, at once or after STLS */
	CLIENT_COMMAND,
	CLIENT_STLS, /* "+OK" to be sent, then the handshake */
	CLIENT_RESPONSE, /* the next message of an AUTH exchange */
	CLIENT_LOGIN, /* the login's result from the owner */
	CLIENT_DELAY, /* the end of auth_failure_delay */
	CLIENT_CHALLENGE, /* the answer to the challenge, which is ignored */
	CLIENT_CLOSING, /* the last reply to be sent */
	CLIENT_CLOSED, /* nothing: closed() was called */
	CLIENT_STATES
};

struct client {
	struct client_spec spec;
	enum client_state state;
	struct addr from; /* the PROXY header's source, else the socket's */
	struct origin *before; /* what XCLIENT in clear has changed */
	int fd; /* before there is a bufferevent, else -1 */
	struct proxy_reader *proxy;
	struct event *delay; /* of an answer; NULL: never had to */
	struct event *watch; /* while a login is under way */
	struct bufferevent *bev;
	SSL *ssl; /* bev's; NULL: not encrypted */
	bool eof; /* the client has closed its side */
	bool linger; /* the socket deserves a slow close */
	bool utf8; /* the client asked for it */
	bool told_tls; /* by XCLIENT: the leg in front of the proxy is TLS */
	bool running; /* client_run() is on the stack */
	struct sasl_exchange sasl; /* under way in CLIENT_RESPONSE */
	struct secret name; /* USER's; data NULL: none held */
	unsigned bad_commands;
	unsigned commands; /* since the last login */
	/* The answer that waits in CLIENT_DELAY and CLIENT_CHALLENGE. */
	char *reply, *challenge; /* on the heap */
	size_t reply_len, challenge_len;
	const char *end; /* why the connection ends when output has left */
};

/* client_command()'s rows: what each verb does. */
typedef void client_verb(struct client *c, const struct pop3_command *cmd);

static bool client_wants_proxy(const struct client *c);
static bool client_trusts_proxy(const struct client *c);
static bool client_proxy_start(struct client *c);
static void client_proxy_refuse(struct client *c);
static void client_proxy_done(void *arg, enum proxy_read status,
    const struct proxy_header *h);
static void client_proxy_adopt(struct client *c, const struct proxy_header *h);
static bool client_connect(struct client *c);
static bool client_plain(struct client *c);
static bool client_tls(struct client *c);
static void client_listen(struct client *c);
static void client_handshaken(struct client *c);
static void client_greet(struct client *c);
static void client_refuse(struct client *c);
static void client_read_cb(struct bufferevent *bev, void *arg);
static void client_write_cb(struct bufferevent *bev, void *arg);
static void client_event_cb(struct bufferevent *bev, short what, void *arg);
static void client_tls_failed(struct client *c);
static size_t client_unsent(const struct client *c);
static bool client_listens(const struct client *c);
static void client_run(struct client *c);
static bool client_line(struct client *c, size_t *len_out);
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
static void client_close(struct client *c, const char *why);
static bool client_may_login(const struct client *c);
static bool client_trusts_xclient(const struct client *c);
static bool client_remember(struct client *c);
static void client_restore(struct client *c);
static void client_command(struct client *c, const char *line, size_t len);
static client_verb client_capa, client_noop, client_utf8, client_stls,
    client_user, client_pass, client_auth, client_apop, client_xclient,
    client_quit, client_transaction, client_http, client_unknown;
static void client_adopt(struct client *c, const struct xclient *x);
static bool client_offers(const struct client *c, enum sasl_mechanism mech);
static void client_step(struct client *c, enum sasl_step step,
    struct sasl_outcome *out);
static void client_login(struct client *c, struct credentials *cred);
static void client_delay_cb(evutil_socket_t fd, short what, void *arg);
static void client_say(struct client *c);
static void client_answered(struct client *c);

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

struct client *
client_start(const struct client_spec *spec, int fd)
{
	struct client *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		close(fd);
		return NULL;
	}
	c->spec = *spec;
	c->fd = fd;
	c->watch = evtimer_new(spec->base, client_watch_cb, c);
	if (c->watch == NULL ||
	    !(client_wants_proxy(c) ? client_proxy_start(c)
				    : client_connect(c)))
		client_free(&c);
	return c;
}

static bool
client_wants_proxy(const struct client *c)
{
	const struct config_listener *l = c->spec.listener;

	return l->proxy_protocol == PROXY_REQUIRED ||
	    (l->proxy_protocol == PROXY_OPTIONAL && client_trusts_proxy(c));
}

static bool
client_trusts_proxy(const struct client *c)
{
	const struct config_listener *l = c->spec.listener;

	return cidr_match_any(l->proxy_trusted, l->n_proxy_trusted,
	    &c->spec.peer);
}

static bool
client_proxy_start(struct client *c)
{
	const struct proxy_reader_spec spec = {
	    .base = c->spec.base,
	    .fd = c->fd,
	    .timeout_ms = c->spec.listener->proxy_header_timeout,
	    .done = client_proxy_done,
	    .arg = c,
	};

	c->state = CLIENT_PROXY;
	if (!client_trusts_proxy(c)) {
		client_proxy_refuse(c);
		return true;
	}
	c->proxy = proxy_reader_start(&spec);
	return c->proxy != NULL;
}

static void
client_proxy_done(void *arg, enum proxy_read status,
    const struct proxy_header *h)
{
	struct client *c = arg;

	c->proxy = NULL;
	if (status == PROXY_READ_CLOSED) {
		client_close(c, "client closed");
		return;
	}
	if (status == PROXY_READ_BAD ||
	    (status == PROXY_READ_NONE &&
		c->spec.listener->proxy_protocol == PROXY_REQUIRED)) {
		client_proxy_refuse(c);
		return;
	}
	if (status == PROXY_READ_OK)
		client_proxy_adopt(c, h);
	if (!client_connect(c))
		client_close(c, "out of memory");
}

static void
client_proxy_refuse(struct client *c)
{
	struct log_line l;
	unsigned held;

	if (log_brake_pass(c->spec.proxy_brake, clock_ms(), &held)) {
		origin_log(&l, LOG_WARNING, c->spec.origin,
		    client_trusts_proxy(c)
			? "no acceptable PROXY header"
			: "connection from outside proxy_trusted refused");
		log_cstr(&l, "listener", c->spec.listener->name);
		log_uint(&l, "more", held);
		log_end(&l);
	}
	client_close(c, "no PROXY header");
}

static void
client_proxy_adopt(struct client *c, const struct proxy_header *h)
{
	struct origin *o = c->spec.origin;

	if (h->local)
		return;
	o->client = h->src;
	o->local = h->dst;
	/* Balancers that pass TLS on say "no TLS" as well. */
	if (h->tls)
		o->transport = XCLIENT_TRANSPORT_TLS;
	o->ttl = h->ttl;
	if (h->session[0] != '\0')
		memcpy(o->id, h->session, sizeof(o->id));
	if (h->authority[0] != '\0')
		memcpy(o->server_name, h->authority, sizeof(o->server_name));
}

static bool
client_connect(struct client *c)
{
	const struct client_spec *spec = &c->spec;

	c->from = spec->origin->client;
	/* A proxy in front sends the client's address later, by XCLIENT. */
	if (!client_trusts_xclient(c) && spec->refusal == NULL)
		c->spec.refusal = spec->events->arrived(spec->arg);
	if (spec->listener->tls == TLS_IMPLICIT)
		return client_tls(c);
	if (!client_plain(c))
		return false;
	client_greet(c);
	return true;
}

static bool
client_plain(struct client *c)
{
	c->bev = c->spec.transport->plain(c->spec.base, c->fd);
	if (c->bev == NULL)
		return false;
	c->fd = -1;
	client_listen(c);
	return true;
}

/* Starts TLS on c->fd, or on the connection that was plain so far. */
static bool
client_tls(struct client *c)
{
	const struct transport *t = c->spec.transport;
	struct bufferevent *plain = c->bev;

	c->ssl = tls_server_ssl(c->spec.tls, c->spec.listener_index);
	if (c->ssl == NULL)
		return false;
	if (plain != NULL)
		c->bev = t->upgrade(plain, c->ssl, BUFFEREVENT_SSL_ACCEPTING);
	else
		c->bev = t->tls(c->spec.base, c->fd, c->ssl,
		    BUFFEREVENT_SSL_ACCEPTING);
	if (c->bev == NULL) {
		c->ssl = NULL;
		return false;
	}
	c->fd = -1;
	c->state = CLIENT_HANDSHAKE;
	client_listen(c);
	return true;
}

/* Sets up a new bufferevent. */
static void
client_listen(struct client *c)
{
	bufferevent_setcb(c->bev, client_read_cb, client_write_cb,
	    client_event_cb, c);
	bufferevent_setwatermark(c->bev, EV_READ, 0, CLIENT_INPUT_MAX);
}

static void
client_handshaken(struct client *c)
{
	struct origin *o = c->spec.origin;
	const char *name = tls_server_sni(c->ssl);

	tls_leg_secured(c->bev, c->ssl);
	o->tls_version = SSL_get_version(c->ssl);
	o->tls_cipher = SSL_get_cipher_name(c->ssl);
	if (name[0] != '\0')
		snprintf(o->server_name, sizeof(o->server_name), "%s", name);
	if (c->spec.listener->tls == TLS_IMPLICIT)
		client_greet(c);
	else
		client_resume(c, CLIENT_COMMAND);
}

static void
client_greet(struct client *c)
{
	if (c->spec.refusal != NULL) {
		client_refuse(c);
		return;
	}
	client_write(c, "+OK ", 4);
	if (client_trusts_xclient(c))
		client_write(c, "[XCLIENT] ", 10);
	client_reply(c, c->spec.pop3->banner);
	client_resume(c, CLIENT_COMMAND);
}

static void
client_refuse(struct client *c)
{
	char line[POP3_LINE_MAX];

	client_failure_line(line, true, c->spec.refusal);
	client_end(c, line, "refused with the greeting");
}

/* Input: lines out of the buffer */

static void
client_read_cb(struct bufferevent *bev UNUSED, void *arg)
{
	struct client *c = arg;

	tls_leg_data(c->ssl);
	client_run(c);
}

/* The buffer tells whether everything is sent: over TLS this callback also
 * comes between two records. */
static void
client_write_cb(struct bufferevent *bev, void *arg)
{
	struct client *c = arg;

	if (client_unsent(c) > 0)
		return;
	if (c->state == CLIENT_CLOSING) {
		client_close(c, c->end);
	} else if (c->state == CLIENT_STLS) {
		/* The client's cleartext input is freed with this buffer. */
		if (!client_tls(c))
			client_close(c, "out of memory");
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
		client_close(c,
		    tls_leg_flooded(c->ssl)
			? "too many TLS records without data"
			: "client lost");
	}
}

static void
client_tls_failed(struct client *c)
{
	unsigned long code = bufferevent_get_openssl_error(c->bev);
	struct err err = {""};
	struct log_line l;

	tls_server_failed(c->ssl, code, &err);
	ERR_clear_error();
	origin_log(&l,
	    ERR_reason_error_string(code) != NULL ? LOG_INFO : LOG_DEBUG,
	    c->spec.origin, "TLS handshake with the client failed");
	log_cstr(&l, "listener", c->spec.listener->name);
	log_cstr(&l, "reason", err.text);
	log_end(&l);
	/* The alert is being sent, so no RST may destroy it. */
	c->linger = true;
	client_close(c, "TLS handshake failed");
}

/* Returns the octets that are written but not sent yet. */
static size_t
client_unsent(const struct client *c)
{
	return evbuffer_get_length(bufferevent_get_output(c->bev));
}

/* Returns true if a line from the client is expected now. */
static bool
client_listens(const struct client *c)
{
	switch (c->state) {
	case CLIENT_COMMAND:
	case CLIENT_RESPONSE:
	case CLIENT_CHALLENGE:
		return true;
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
	case CLIENT_LOGIN:
	case CLIENT_DELAY:
	case CLIENT_CLOSING:
	case CLIENT_CLOSED:
	case CLIENT_STATES:
		return false;
	}
	return false;
}

/* Takes lines while it is the client's turn and it reads our replies. */
static void
client_run(struct client *c)
{
	size_t len;

	if (c->running)
		return;
	c->running = true;
	while (client_listens(c) && client_unsent(c) < CLIENT_OUTPUT_MAX) {
		if (!client_line(c, &len)) {
			if (c->eof && client_listens(c))
				client_closing(c, "client closed");
			break;
		}
		client_dispatch(c, c->spec.scratch, len);
		secret_wipe(c->spec.scratch, len);
	}
	c->running = false;
}

/* Moves the next line, its end cut off, to the scratch buffer. */
static bool
client_line(struct client *c, size_t *len_out)
{
	struct evbuffer *in = bufferevent_get_input(c->bev);
	size_t max = POP3_AUTH_LINE_MAX;
	char start[8];

	if (c->state == CLIENT_COMMAND) {
		ev_ssize_t got = evbuffer_copyout(in, start, sizeof(start));

		max = pop3_line_limit(start, got > 0 ? (size_t)got : 0);
		secret_wipe(start, sizeof(start));
	}
	switch (line_take(in, max, c->spec.scratch, len_out)) {
	case LINE_OK:
		return true;
	case LINE_MORE:
		return false;
	case LINE_LONG:
		break;
	}
	client_end(c, "-ERR The line is too long.", "line too long");
	return false;
}

static void
client_dispatch(struct client *c, const char *line, size_t len)
{
	struct sasl_outcome out;

	switch (c->state) {
	case CLIENT_COMMAND:
		client_command(c, line, len);
		return;
	case CLIENT_RESPONSE:
		client_step(c, sasl_exchange_line(&c->sasl, line, len, &out),
		    &out);
		return;
	case CLIENT_CHALLENGE:
		client_say(c);
		return;
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
	case CLIENT_LOGIN:
	case CLIENT_DELAY:
	case CLIENT_CLOSING:
	case CLIENT_CLOSED:
	case CLIENT_STATES:
		return;
	}
}

/* It is the client's turn. Buffered input is handled from the loop, never from
 * here. The socket is read only after the reply is sent: it may have the FIN of
 * a client that has closed only its own side, and a FIN ends the session. */
static void
client_resume(struct client *c, enum client_state state)
{
	if (c->state == CLIENT_CLOSED)
		return;
	c->state = state;
	evtimer_del(c->watch);
	if (!c->eof && client_unsent(c) == 0)
		bufferevent_enable(c->bev, EV_READ);
	bufferevent_trigger(c->bev, EV_READ,
	    BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

/* It is not the client's turn: its input stays in the kernel. */
static void
client_pause(struct client *c, enum client_state state)
{
	if (c->state == CLIENT_CLOSED)
		return;
	c->state = state;
	bufferevent_disable(c->bev, EV_READ);
}

/* A login is in flight. */
static void
client_wait(struct client *c)
{
	struct timeval tv = {CLIENT_WATCH_S, 0};

	client_pause(c, CLIENT_LOGIN);
	evtimer_add(c->watch, &tv);
}

/* Nobody reads the socket now, so this checks for a reset. A FIN only means
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
		client_close(c, "client lost");
	else
		evtimer_add(c->watch, &tv);
}

/* Output */

static void
client_write(struct client *c, const void *data, size_t len)
{
	if (bufferevent_write(c->bev, data, len) == -1)
		client_close(c, "out of memory");
}

static void
client_reply(struct client *c, const char *text)
{
	client_write(c, text, strlen(text));
	client_write(c, "\r\n", 2);
}

/* Refuses an unknown or misplaced command; their number is limited. */
static void
client_misplaced(struct client *c, const char *text)
{
	if (++c->bad_commands > c->spec.listener->max_bad_commands)
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

/* Closes as soon as everything is sent. */
static void
client_closing(struct client *c, const char *why)
{
	if (c->state == CLIENT_CLOSED)
		return;
	client_pause(c, CLIENT_CLOSING);
	c->end = why;
	c->linger = true;
	c->spec.events->deadline(c->spec.arg, CLIENT_CLOSING_MS);
	if (client_unsent(c) == 0)
		client_close(c, why);
}

static void
client_close(struct client *c, const char *why)
{
	if (c->state == CLIENT_CLOSED)
		return;
	c->state = CLIENT_CLOSED;
	evtimer_del(c->watch);
	c->spec.events->closed(c->spec.arg, why);
}

void
client_timeout(struct client *c)
{
	switch (c->state) {
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
	case CLIENT_CLOSING:
		client_close(c, "timeout");
		return;
	case CLIENT_COMMAND:
	case CLIENT_RESPONSE:
	case CLIENT_CHALLENGE:
	case CLIENT_LOGIN:
	case CLIENT_DELAY:
		client_end(c,
		    "-ERR [SYS/TEMP] Timeout, closing the connection.",
		    "timeout before login");
		return;
	case CLIENT_CLOSED:
	case CLIENT_STATES:
		return;
	}
}

void
client_shutdown(struct client *c, const char *text)
{
	char line[POP3_LINE_MAX];

	switch (c->state) {
	case CLIENT_PROXY:
	case CLIENT_HANDSHAKE:
	case CLIENT_STLS:
		client_close(c, "shutting down");
		return;
	case CLIENT_COMMAND:
	case CLIENT_RESPONSE:
		client_failure_line(line, true, text);
		client_end(c, line, "shutting down");
		return;
	case CLIENT_DELAY:
	case CLIENT_CHALLENGE:
		c->end = "shutting down";
		return;
	case CLIENT_LOGIN:
	case CLIENT_CLOSING:
	case CLIENT_CLOSED:
	case CLIENT_STATES:
		return;
	}
}

/* Commands */

/* A login carries a password or a token, so it must be encrypted or explicitly
 * allowed in clear. */
static bool
client_may_login(const struct client *c)
{
	return c->ssl != NULL || c->told_tls ||
	    c->spec.pop3->allow_plain_auth_without_tls;
}

static bool
client_trusts_xclient(const struct client *c)
{
	const struct config_listener *l = c->spec.listener;

	return cidr_match_any(l->xclient_trusted, l->n_xclient_trusted,
	    &c->from);
}

/* XCLIENT in clear is accepted, because proxies on one network use it. But if
 * TLS follows, another party may have sent it. Returns false if memory is
 * short. */
static bool
client_remember(struct client *c)
{
	if (c->before != NULL || c->ssl != NULL ||
	    c->spec.listener->tls != TLS_STARTTLS)
		return true;
	c->before = malloc(sizeof(*c->before));
	if (c->before == NULL)
		return false;
	*c->before = *c->spec.origin;
	return true;
}

static void
client_restore(struct client *c)
{
	if (c->before == NULL)
		return;
	*c->spec.origin = *c->before;
	free(c->before);
	c->before = NULL;
	c->told_tls = false;
	c->spec.events->departed(c->spec.arg);
}

static void
client_command(struct client *c, const char *line, size_t len)
{
	struct pop3_command cmd;

	/* NOOP, CAPA and AUTH that is cancelled are free of charge otherwise. */
	if (++c->commands > CLIENT_COMMANDS_MAX) {
		client_end(c, "-ERR Too many commands.", "too many commands");
		return;
	}
	if (!pop3_command_parse(line, len, &cmd)) {
		client_misplaced(c, "-ERR The line holds a control character.");
		return;
	}
	client_verbs[cmd.verb](c, &cmd);
}

static void
client_capa(struct client *c, const struct pop3_command *cmd UNUSED)
{
	bool stls = c->spec.listener->tls == TLS_STARTTLS && c->ssl == NULL;
	const char *text =
	    pop3_texts_capa(c->spec.texts, stls, client_may_login(c));

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
	c->utf8 = true;
	client_reply(c, "+OK");
}

static void
client_stls(struct client *c, const struct pop3_command *cmd UNUSED)
{
	if (c->spec.listener->tls != TLS_STARTTLS || c->ssl != NULL) {
		client_misplaced(c, "-ERR STLS is not possible here.");
		return;
	}
	/* Commands after STLS were sent before the handshake, so another party
	 * may have sent them (RFC 2595 §4). */
	if (evbuffer_get_length(bufferevent_get_input(c->bev)) > 0) {
		client_end(c, "-ERR Nothing may follow STLS before TLS.",
		    "data after STLS");
		return;
	}
	secret_clear(&c->name);
	c->utf8 = false;
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
		client_close(c, "out of memory");
	} else {
		client_reply(c, "+OK");
	}
}

static void
client_pass(struct client *c, const struct pop3_command *cmd)
{
	struct credentials cred = {.how = NULL};

	if (c->name.data == NULL)
		client_misplaced(c,
		    client_may_login(c) ? "-ERR USER comes first."
					: "-ERR Use TLS first.");
	else if (!cmd->has_arg)
		client_misplaced(c, "-ERR PASS needs an argument.");
	else if (!credentials_set_password(&cred, "USER", c->name.data,
		     c->name.len, cmd->arg, cmd->arg_len))
		client_close(c, "out of memory");
	else
		client_login(c, &cred);
}

static void
client_auth(struct client *c, const struct pop3_command *cmd)
{
	const char *mech_name, *ir;
	size_t mech_len, ir_len;
	enum sasl_mechanism mech;
	struct sasl_outcome out;

	if (cmd->arg_len == 0) {
		/* Outlook sends AUTH alone to learn the mechanisms. */
		const char *text =
		    pop3_texts_auth(c->spec.texts, client_may_login(c));

		client_write(c, text, strlen(text));
	} else if (!pop3_auth_arg_parse(cmd->arg, cmd->arg_len, &mech_name,
		       &mech_len, &ir, &ir_len)) {
		client_misplaced(c, "-ERR AUTH is malformed.");
	} else if (!sasl_mechanism_find(mech_name, mech_len, &mech) ||
	    !client_offers(c, mech)) {
		client_misplaced(c, "-ERR This mechanism is not offered.");
	} else if (!client_may_login(c)) {
		client_misplaced(c, "-ERR Use TLS first.");
	} else {
		secret_clear(&c->name);
		client_step(c,
		    sasl_exchange_start(&c->sasl, mech, ir, ir_len, &out),
		    &out);
	}
}

static bool
client_offers(const struct client *c, enum sasl_mechanism mech)
{
	unsigned offered = 0;

	for (size_t i = 0; i < c->spec.pop3->n_mechanism; i++)
		offered |= SASL_BIT(c->spec.pop3->mechanism[i]);
	return offered & SASL_BIT(mech);
}

static void
client_apop(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_misplaced(c, "-ERR APOP is not supported.");
}

static void
client_xclient(struct client *c, const struct pop3_command *cmd)
{
	const struct client_spec *spec = &c->spec;
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
		client_close(c, "out of memory");
		return;
	}
	client_adopt(c, &x);
	c->spec.refusal = spec->events->arrived(spec->arg);
	if (c->spec.refusal != NULL)
		client_refuse(c);
	else
		client_reply(c, "+OK Updated");
}

static void
client_adopt(struct client *c, const struct xclient *x)
{
	struct origin *o = c->spec.origin;
	struct log_line l;

	/* Log both ids in one line: earlier lines have the old one. */
	origin_log(&l, LOG_DEBUG, o, "XCLIENT is believed");
	log_cstr(&l, "told_session", x->session);
	log_end(&l);
	if (x->addr.len != 0)
		o->client = x->addr;
	if (x->dest.len != 0)
		o->local = x->dest;
	if (x->session[0] != '\0')
		memcpy(o->id, x->session, sizeof(o->id));
	if (x->ttl != 0)
		o->ttl = x->ttl;
	if (x->transport != XCLIENT_TRANSPORT_UNSET) {
		o->transport = x->transport;
		c->told_tls = x->transport == XCLIENT_TRANSPORT_TLS;
	}
	if (x->dest_name[0] != '\0')
		memcpy(o->server_name, x->dest_name, sizeof(o->server_name));
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

/* An attacker made a browser send this: a whole dialogue of the attacker's
 * choice could follow (ALPACA). Do not send one octet back. */
static void
client_http(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_close(c, "HTTP request");
}

static void
client_unknown(struct client *c, const struct pop3_command *cmd UNUSED)
{
	client_misplaced(c, "-ERR Unknown command.");
}

/* Logins */

/* Handles the next message of an AUTH exchange. */
static void
client_step(struct client *c, enum sasl_step step, struct sasl_outcome *out)
{
	switch (step) {
	case SASL_STEP_PROMPT:
		client_write(c, "+ ", 2);
		client_reply(c, out->prompt);
		c->state = CLIENT_RESPONSE;
		return;
	case SASL_STEP_DONE:
		client_login(c, &out->cred);
		return;
	case SASL_STEP_CANCELLED:
		c->state = CLIENT_COMMAND;
		client_reply(c, "-ERR Authentication cancelled.");
		return;
	case SASL_STEP_MALFORMED:
		client_wait(c);
		c->spec.events->malformed(c->spec.arg, c->sasl.mech, out->why);
		return;
	case SASL_STEP_NO_MEMORY:
		client_close(c, "out of memory");
		return;
	}
}

static void
client_login(struct client *c, struct credentials *cred)
{
	const struct client_login login = {.cred = cred, .utf8 = c->utf8};

	secret_clear(&c->name);
	c->commands = 0;
	client_wait(c);
	c->spec.events->login(c->spec.arg, &login);
	credentials_clear(cred);
}

size_t
client_failure_line(char *line, bool temporary, const char *text)
{
	int len = snprintf(line, POP3_LINE_MAX, "-ERR [%s] %s",
	    temporary ? "SYS/TEMP" : "AUTH", text);

	return (size_t)len < POP3_LINE_MAX ? (size_t)len : POP3_LINE_MAX - 1;
}

void
client_answer(struct client *c, const struct client_answer *a)
{
	struct timeval tv = clock_timeval(a->delay);

	if (c->state != CLIENT_LOGIN)
		return;
	c->end = a->end;
	c->reply_len = a->len;
	c->challenge_len = a->challenge_len;
	c->reply = malloc(a->len + 1);
	if (a->challenge != NULL)
		c->challenge = malloc(a->challenge_len + 1);
	if (a->delay > 0 && c->delay == NULL)
		c->delay = evtimer_new(c->spec.base, client_delay_cb, c);
	if (c->reply == NULL ||
	    (a->challenge != NULL && c->challenge == NULL) ||
	    (a->delay > 0 && c->delay == NULL)) {
		client_close(c, "out of memory");
		return;
	}
	memcpy(c->reply, a->line, a->len);
	if (a->challenge != NULL)
		memcpy(c->challenge, a->challenge, a->challenge_len);
	c->state = CLIENT_DELAY;
	if (a->delay > 0)
		evtimer_add(c->delay, &tv);
	else
		client_answered(c);
}

static void
client_delay_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct client *c = arg;

	if (c->state == CLIENT_DELAY)
		client_answered(c);
}

/* The delay is over. Shows the backend's challenge first. The backend already
 * has its answer, so the client's answer is ignored. */
static void
client_answered(struct client *c)
{
	if (c->challenge == NULL) {
		client_say(c);
		return;
	}
	client_write(c, "+ ", 2);
	client_write(c, c->challenge, c->challenge_len);
	client_write(c, "\r\n", 2);
	client_resume(c, CLIENT_CHALLENGE);
}

/* Sends the reply that had to wait. */
static void
client_say(struct client *c)
{
	client_write(c, c->reply, c->reply_len);
	client_write(c, "\r\n", 2);
	free(c->reply);
	free(c->challenge);
	c->reply = c->challenge = NULL;
	if (c->end != NULL)
		client_closing(c, c->end);
	else
		client_resume(c, CLIENT_COMMAND);
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

/* Closing with unread input causes an RST, which would destroy the last reply.
 * So the socket lingers while the bufferevent is freed. */
void
client_free(struct client **cp)
{
	struct client *c = *cp;
	int fd;

	if (c == NULL)
		return;
	*cp = NULL;
	proxy_reader_cancel(&c->proxy);
	if (c->delay != NULL)
		event_free(c->delay);
	if (c->watch != NULL)
		event_free(c->watch);
	if (c->bev != NULL) {
		if (c->ssl != NULL && SSL_is_init_finished(c->ssl)) {
			SSL_shutdown(c->ssl);
			ERR_clear_error();
		}
		fd = c->linger && !c->eof ? dup(bufferevent_getfd(c->bev)) : -1;
		bufferevent_free(c->bev);
		if (fd != -1)
			linger_add(c->spec.lingers, fd, c->spec.admission);
	}
	if (c->fd != -1)
		close(c->fd);
	sasl_exchange_clear(&c->sasl);
	secret_clear(&c->name);
	free(c->before);
	free(c->reply);
	free(c->challenge);
	free(c);
}
