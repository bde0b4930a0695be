/* relay.c: bytes both ways after the login.
 *
 * The bufferevents own their sockets and write; reading is our own event per
 * socket, straight into space reserved in the other side's output buffer, so
 * that bytes land where they leave from. A direction goes through
 *
 *	OPEN -> (source closed) -> FLUSH -> (all delivered) -> DONE
 *
 * and what ends it is passed on as a half-close. A QUIT commits deletions, so
 * a close waits until the other side has taken all that we hold, and after a
 * client is gone the backend's answer is still read, and thrown away: a close
 * over it would reset the connection before the commit. A dead backend in
 * mid-message means closing the client: a forged "." would make half a mail
 * look whole. */

#include "session/relay.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/err.h>

#include "platform/clock.h"
#include "platform/util.h"
#include "session/linger.h"

#define RELAY_CHUNK (32 * 1024) /* read at once */
#define RELAY_HIGH (64 * 1024) /* held for a slow reader: stop reading */
#define RELAY_LOW (16 * 1024) /* go on reading */
#define RELAY_TURN (256 * 1024) /* then the other sessions' turn */
#define RELAY_HALF_MS 30000 /* one side closed: silence of the other */

enum relay_flow {
	FLOW_OPEN, /* the source may send */
	FLOW_FLUSH, /* it has closed; what we hold is still going out */
	FLOW_DONE /* and the close has been passed on */
};

/* One side: reads from its own socket, writes through its bufferevent. */
struct relay_side {
	struct relay *relay;
	struct relay_side *other;
	struct bufferevent *bev;
	SSL *ssl; /* bev's; NULL: plain */
	struct event *read;
	enum relay_flow flow; /* from this side to the other */
	bool reading; /* the read event is added */
	bool gone; /* writing to it failed: its output is thrown away */
	uint64_t bytes; /* taken from it */
};

struct relay {
	struct relay_side client, backend;
	struct event *timer; /* idle; later the end */
	uint64_t active; /* when the last byte moved */
	uint64_t idle_ms;
	uint64_t half_until; /* bound of an answer nobody reads; 0: none */
	struct linger_set *lingers;
	bool over;
	enum relay_end why;
	bool why_known;
	void (*done)(void *arg, enum relay_end why);
	void *arg;
};

static bool relay_side_init(struct relay_side *side, struct relay *r,
    struct relay_side *other, struct bufferevent *bev, SSL *ssl,
    struct event_base *base);
static void relay_side_clear(struct relay_side *side);
static void relay_side_close(struct relay_side *side);
static void relay_read_cb(evutil_socket_t fd, short what, void *arg);
static ssize_t relay_move(struct relay_side *side, bool first);
static ssize_t relay_receive(struct relay_side *side, void *buf, size_t len);
static ssize_t relay_receive_ssl(struct relay_side *side, void *buf,
    size_t len);
static ssize_t relay_take(struct relay_side *side);
static void relay_write_cb(struct bufferevent *bev, void *arg);
static void relay_event_cb(struct bufferevent *bev, short what, void *arg);
static void relay_adjust(struct relay_side *side);
static size_t relay_held(struct relay_side *side);
static void relay_source_closed(struct relay_side *side, bool error);
static void relay_side_gone(struct relay_side *side);
static void relay_pass_close(struct relay_side *side);
static void relay_reason(struct relay *r, enum relay_end why);
static void relay_finish(struct relay *r);
static void relay_timer_cb(evutil_socket_t fd, short what, void *arg);
static void relay_timer(struct relay *r, uint64_t ms);

/* What a read may return besides octets. */
#define RELAY_AGAIN (-1)
#define RELAY_ERROR (-2)
#define RELAY_OOM (-3)

struct relay *
relay_start(const struct relay_spec *spec)
{
	struct relay *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->idle_ms = spec->idle_ms;
	r->active = clock_ms();
	r->lingers = spec->lingers;
	r->done = spec->done;
	r->arg = spec->arg;
	r->timer = evtimer_new(spec->base, relay_timer_cb, r);
	if (r->timer == NULL ||
	    !relay_side_init(&r->client, r, &r->backend, spec->client,
		spec->client_ssl, spec->base) ||
	    !relay_side_init(&r->backend, r, &r->client, spec->backend,
		spec->backend_ssl, spec->base)) {
		relay_side_clear(&r->client);
		relay_side_clear(&r->backend);
		if (r->timer != NULL)
			event_free(r->timer);
		free(r);
		return NULL;
	}
	relay_timer(r, r->idle_ms);
	relay_take(&r->client);
	relay_take(&r->backend);
	/* TLS may hold what its record brought beyond the buffer. */
	if (r->client.ssl != NULL)
		event_active(r->client.read, EV_READ, 0);
	if (r->backend.ssl != NULL)
		event_active(r->backend.read, EV_READ, 0);
	return r;
}

static bool
relay_side_init(struct relay_side *side, struct relay *r,
    struct relay_side *other, struct bufferevent *bev, SSL *ssl,
    struct event_base *base)
{
	side->relay = r;
	side->other = other;
	side->bev = bev;
	side->ssl = ssl;
	bufferevent_disable(bev, EV_READ);
	/* Credentials are through; wiping every octet of mail costs a tenth of
	 * the relay's CPU between two TLS legs. */
	if (ssl != NULL)
		SSL_clear_options(ssl, SSL_OP_CLEANSE_PLAINTEXT);
	side->read = event_new(base, bufferevent_getfd(bev),
	    EV_READ | EV_PERSIST, relay_read_cb, side);
	if (side->read == NULL || event_add(side->read, NULL) == -1)
		return false;
	side->reading = true;
	bufferevent_setwatermark(bev, EV_WRITE, RELAY_LOW, 0);
	bufferevent_setcb(bev, NULL, relay_write_cb, relay_event_cb, side);
	bufferevent_enable(bev, EV_WRITE);
	return true;
}

/* Everything but the bufferevent. */
static void
relay_side_clear(struct relay_side *side)
{
	if (side->read != NULL)
		event_free(side->read);
	side->read = NULL;
	if (side->bev != NULL)
		bufferevent_setcb(side->bev, NULL, NULL, NULL, NULL);
}

void
relay_free(struct relay **rp)
{
	struct relay *r = *rp;

	if (r == NULL)
		return;
	*rp = NULL;
	relay_side_clear(&r->client);
	relay_side_clear(&r->backend);
	relay_side_close(&r->client);
	relay_side_close(&r->backend);
	event_free(r->timer);
	free(r);
}

/* A side that may still have unread bytes from us gets a slow close. */
static void
relay_side_close(struct relay_side *side)
{
	bool slow = !side->gone && side->flow == FLOW_OPEN &&
	    side->relay->lingers != NULL;
	int fd = slow ? dup(bufferevent_getfd(side->bev)) : -1;

	/* OpenSSL spoils the ticket of a connection that ends without either:
	 * the next login's resumption. */
	if (side->ssl != NULL && side->gone)
		SSL_set_shutdown(side->ssl, SSL_SENT_SHUTDOWN);
	else if (side->ssl != NULL)
		SSL_shutdown(side->ssl);
	ERR_clear_error();
	bufferevent_free(side->bev);
	if (fd != -1)
		linger_add(side->relay->lingers, fd);
}

void
relay_bytes(const struct relay *r, uint64_t *to_backend_out,
    uint64_t *to_client_out)
{
	*to_backend_out = r->client.bytes;
	*to_client_out = r->backend.bytes;
}

static size_t
relay_held(struct relay_side *side)
{
	return evbuffer_get_length(bufferevent_get_output(side->bev));
}

/* What the dialogue had read already. */
static ssize_t
relay_take(struct relay_side *side)
{
	struct evbuffer *in = bufferevent_get_input(side->bev);
	size_t n = evbuffer_get_length(in);

	side->bytes += n;
	if (n > 0 &&
	    evbuffer_add_buffer(bufferevent_get_output(side->other->bev), in) ==
		-1)
		return RELAY_ERROR;
	relay_adjust(side);
	return (ssize_t)n;
}

static ssize_t
relay_receive(struct relay_side *side, void *buf, size_t len)
{
	ssize_t n;

	if (side->ssl != NULL)
		return relay_receive_ssl(side, buf, len);
	n = recv(bufferevent_getfd(side->bev), buf, len, 0);
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? RELAY_AGAIN : RELAY_ERROR;
}

static ssize_t
relay_receive_ssl(struct relay_side *side, void *buf, size_t len)
{
	size_t n;

	ERR_clear_error();
	if (SSL_read_ex(side->ssl, buf, len, &n) == 1)
		return (ssize_t)n;
	switch (SSL_get_error(side->ssl, 0)) {
	case SSL_ERROR_WANT_READ:
		return RELAY_AGAIN;
	case SSL_ERROR_WANT_WRITE:
		/* A KeyUpdate's answer does not fit into the socket now; it
		 * goes out with the next record of ours. */
		return RELAY_AGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		ERR_clear_error();
		return RELAY_ERROR;
	}
}

static void
relay_read_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct relay_side *side = arg;
	struct relay *r = side->relay;
	size_t turn = 0;
	ssize_t n = RELAY_AGAIN;

	if (r->over || side->flow != FLOW_OPEN || !side->reading)
		return;
	while (turn < RELAY_TURN && relay_held(side->other) < RELAY_HIGH) {
		n = relay_move(side, turn == 0);
		if (n <= 0)
			break;
		turn += (size_t)n;
	}
	side->bytes += turn;
	if (turn > 0)
		r->active = clock_ms();
	if (n == RELAY_OOM) {
		relay_reason(r, RELAY_NO_MEMORY);
		relay_finish(r);
	} else if (n == 0 || n == RELAY_ERROR) {
		relay_source_closed(side, n == RELAY_ERROR);
	} else {
		relay_adjust(side);
		/* Decrypted bytes make no socket readable. */
		if (side->reading && n != RELAY_AGAIN && side->ssl != NULL &&
		    SSL_has_pending(side->ssl))
			event_active(side->read, EV_READ, 0);
	}
}

/* One read. The first of a turn goes by the stack: a reservation that stays
 * unused in an empty buffer would be held for as long as the session idles.
 * What follows is bulk, and lands where it leaves from. */
static ssize_t
relay_move(struct relay_side *side, bool first)
{
	struct evbuffer *out = bufferevent_get_output(side->other->bev);
	char buf[RELAY_CHUNK / 2];
	struct evbuffer_iovec vec;
	ssize_t n;

	if (first || side->other->gone) {
		n = relay_receive(side, buf, sizeof(buf));
		if (n > 0 && !side->other->gone &&
		    evbuffer_add(out, buf, (size_t)n) == -1)
			return RELAY_OOM;
		return n;
	}
	if (evbuffer_reserve_space(out, RELAY_CHUNK, &vec, 1) < 1)
		return RELAY_OOM;
	n = relay_receive(side, vec.iov_base, vec.iov_len);
	vec.iov_len = n > 0 ? (size_t)n : 0;
	evbuffer_commit_space(out, &vec, 1);
	return n;
}

/* Back-pressure: read from side only while the other takes it. */
static void
relay_adjust(struct relay_side *side)
{
	size_t held = side->other->gone ? 0 : relay_held(side->other);
	bool want = side->reading ? held < RELAY_HIGH : held <= RELAY_LOW;

	if (side->flow != FLOW_OPEN)
		want = false;
	if (want == side->reading)
		return;
	side->reading = want;
	if (want) {
		event_add(side->read, NULL);
		if (side->ssl != NULL)
			event_active(side->read, EV_READ, 0);
	} else {
		event_del(side->read);
	}
}

/* side has taken what we held for it, or nearly. */
static void
relay_write_cb(struct bufferevent *bev UNUSED, void *arg)
{
	struct relay_side *side = arg;

	if (side->relay->over)
		return;
	side->relay->active = clock_ms();
	if (side->other->flow == FLOW_FLUSH && relay_held(side) == 0)
		relay_pass_close(side->other);
	else
		relay_adjust(side->other);
}

/* Reading is ours: whatever comes here is about writing. */
static void
relay_event_cb(struct bufferevent *bev UNUSED, short what, void *arg)
{
	struct relay_side *side = arg;

	ERR_clear_error();
	if (side->relay->over || !(what & (BEV_EVENT_ERROR | BEV_EVENT_EOF)))
		return;
	relay_side_gone(side);
}

/* side will send no more. */
static void
relay_source_closed(struct relay_side *side, bool error)
{
	struct relay *r = side->relay;
	bool client = side == &r->client;

	side->flow = FLOW_FLUSH;
	relay_adjust(side);
	if (error)
		relay_reason(r,
		    client ? RELAY_CLIENT_ERROR : RELAY_BACKEND_ERROR);
	else
		relay_reason(r,
		    client ? RELAY_CLIENT_CLOSED : RELAY_BACKEND_CLOSED);
	/* The callback for an empty buffer comes only after a write. */
	bufferevent_setwatermark(side->other->bev, EV_WRITE, 0, 0);
	if (error)
		relay_side_gone(side);
	if (!r->over && (side->other->gone || relay_held(side->other) == 0))
		relay_pass_close(side);
	if (!r->over)
		relay_timer(r, RELAY_HALF_MS);
}

/* Nothing can be written to side any more. A client that is gone: the backend
 * still gets what it had sent, and is read until it closes. */
static void
relay_side_gone(struct relay_side *side)
{
	struct relay *r = side->relay;
	struct evbuffer *out = bufferevent_get_output(side->bev);

	if (side->gone)
		return;
	side->gone = true;
	bufferevent_disable(side->bev, EV_WRITE);
	evbuffer_drain(out, evbuffer_get_length(out));
	r->half_until = clock_ms() + RELAY_HALF_MS;
	relay_timer(r, RELAY_HALF_MS);
	if (side == &r->client)
		relay_reason(r, RELAY_CLIENT_ERROR);
	else
		relay_reason(r, RELAY_BACKEND_ERROR);
	if (side->flow == FLOW_OPEN)
		relay_source_closed(side, true);
	if (r->over)
		return;
	if (side == &r->backend && side->other->flow != FLOW_DONE) {
		/* Nobody is left to hear the client. */
		side->other->flow = FLOW_DONE;
		relay_adjust(side->other);
		if (side->flow == FLOW_DONE)
			relay_finish(r);
	} else if (side->other->flow == FLOW_FLUSH) {
		relay_pass_close(side->other);
	} else {
		relay_adjust(side->other);
	}
}

/* All of side's bytes are delivered: the other hears that no more will come. */
static void
relay_pass_close(struct relay_side *side)
{
	struct relay *r = side->relay;
	struct relay_side *to = side->other;

	if (side->flow == FLOW_DONE)
		return;
	side->flow = FLOW_DONE;
	if (!to->gone) {
		if (to->ssl != NULL) {
			SSL_shutdown(to->ssl);
			ERR_clear_error();
		}
		shutdown(bufferevent_getfd(to->bev), SHUT_WR);
	}
	/* A backend that has closed has nobody to hear the client. */
	if (side == &r->backend || to->flow == FLOW_DONE)
		relay_finish(r);
}

/* The first reason is the one. */
static void
relay_reason(struct relay *r, enum relay_end why)
{
	if (!r->why_known)
		r->why = why;
	r->why_known = true;
}

/* done is for the loop: nobody stands on our frames then. */
static void
relay_finish(struct relay *r)
{
	if (r->over)
		return;
	r->over = true;
	event_del(r->client.read);
	event_del(r->backend.read);
	event_active(r->timer, EV_TIMEOUT, 0);
}

static void
relay_timer(struct relay *r, uint64_t ms)
{
	struct timeval tv = clock_timeval(ms);

	evtimer_add(r->timer, &tv);
}

/* One lazy timer: activity only notes the time. */
static void
relay_timer_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct relay *r = arg;
	bool half = r->client.flow != FLOW_OPEN || r->backend.flow != FLOW_OPEN;
	uint64_t now = clock_ms(), limit = r->idle_ms, until;

	if (r->over) {
		r->done(r->arg, r->why);
		return;
	}
	if (half && limit > RELAY_HALF_MS)
		limit = RELAY_HALF_MS;
	until = r->active + limit;
	if (r->half_until != 0 && r->half_until < until)
		until = r->half_until;
	if (now < until) {
		relay_timer(r, until - now);
		return;
	}
	relay_reason(r, RELAY_IDLE);
	relay_finish(r);
}
