/* relay.c: bytes both ways after the login.
 *
 * Reading is our own event per socket. What was read is written to the other
 * side at once; the bufferevents, owners of the sockets, hold and write what a
 * socket does not take. While one holds something, more is read straight into
 * space reserved in its buffer. A direction goes through
 *
 *	OPEN -> (source closed) -> FLUSH -> (all delivered) -> DONE
 *
 * and what ends it is passed on as a half-close. A QUIT commits deletions, so
 * a close waits until the other side has taken all that we hold; a side that
 * cannot be written to is still heard to its end, for a QUIT may wait in its
 * socket. After a client has closed, the backend's answer is still read and
 * discarded: closing without reading it would reset the connection before the
 * commit.
 * A dead backend in mid-message means closing the client: a forged "." would
 * make half a mail look whole. */

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
#include "proto/pop3_count.h"
#include "session/linger.h"
#include "dead_peer.h"
#include "tls_leg.h"

/* Read at once; with the head of libevent's chain no more than 64 KiB. */
#define RELAY_CHUNK (64 * 1024 - 128)
#define RELAY_MAX (96 * 1024) /* held for a slow reader, at most */
#define RELAY_HIGH (64 * 1024) /* held: stop reading */
#define RELAY_LOW (16 * 1024) /* go on reading */
#define RELAY_TURN (256 * 1024) /* then the other sessions' turn */
#define RELAY_LOOKS 16 /* in idle_ms, while octets are held */
#define RELAY_DEAD_LOOKS 4 /* in dead_ms, while octets are on their way */
#define RELAY_HALF_MS 30000 /* one side closed: silence of the other */

/* What a read or a write may return besides octets. */
#define RELAY_AGAIN (-1)
#define RELAY_ERROR (-2)
#define RELAY_OOM (-3)

enum relay_flow {
	FLOW_OPEN, /* the source may send */
	FLOW_FLUSH, /* no more is read; held octets are still written */
	FLOW_DONE /* and the close has been passed on */
};

/* One side: a socket that is read from and written to. */
struct relay_side {
	struct relay *relay;
	struct relay_side *other;
	struct bufferevent *bev;
	SSL *ssl; /* bev's; NULL: plain */
	struct event *read;
	struct event *write; /* OpenSSL waits for room; NULL: never had to */
	enum relay_flow flow; /* from this side to the other */
	bool reading; /* the read event is added */
	bool blocked; /* OpenSSL must write before it may read */
	bool ended; /* its end has been read */
	bool gone; /* writing to it failed: its output is thrown away */
	struct dead_peer dead;
	uint64_t bytes; /* taken from it, and not thrown away */
};

struct relay {
	struct relay_side client, backend;
	struct event *timer; /* idle; later the end */
	uint64_t active; /* when the last byte was seen to move */
	size_t held; /* for both, at the timer's last look */
	uint64_t idle_ms;
	uint64_t dead_ms; /* 0: the kernel's own limit */
	bool looking; /* octets may be on their way: are both sides alive? */
	uint64_t half_until; /* bound of an answer nobody reads; 0: none */
	struct linger_set *lingers;
	struct admission *admission; /* the client's; NULL: none */
	struct pop3_count count; /* of what the client sends */
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
static void relay_take(struct relay_side *side);
static void relay_count_held(struct relay_side *side, struct evbuffer *in);
static void relay_count(struct relay_side *side, const char *data, size_t len);
static void relay_read_cb(evutil_socket_t fd, short what, void *arg);
static void relay_moved(struct relay *r);
static bool relay_wanted(const struct relay_side *side);
static ssize_t relay_move(struct relay_side *side);
static ssize_t relay_move_held(struct relay_side *side);
static ssize_t relay_receive(struct relay_side *side, void *buf, size_t len);
static ssize_t relay_receive_ssl(struct relay_side *side, void *buf,
    size_t len);
static bool relay_owes_key(const struct relay_side *side);
static ssize_t relay_send(struct relay_side *to, const char *buf, size_t len);
static ssize_t relay_send_ssl(struct relay_side *to, const char *buf,
    size_t len);
static void relay_write_cb(struct bufferevent *bev, void *arg);
static void relay_event_cb(struct bufferevent *bev, short what, void *arg);
static bool relay_await(struct relay_side *side);
static void relay_writable_cb(evutil_socket_t fd, short what, void *arg);
static void relay_adjust(struct relay_side *side);
static size_t relay_held(const struct relay_side *side);
static uint64_t relay_left(const struct relay_side *side);
static void relay_source_ended(struct relay_side *side, bool error);
static void relay_source_stop(struct relay_side *side);
static void relay_side_gone(struct relay_side *side);
static void relay_settle(struct relay_side *side);
static bool relay_say_close(struct relay_side *to);
static void relay_reason(struct relay *r, enum relay_end why);
static void relay_finish(struct relay *r);
static void relay_timer_cb(evutil_socket_t fd, short what, void *arg);
static void relay_look(struct relay *r);
static uint64_t relay_deadline(const struct relay *r);
static void relay_timer(struct relay *r);

struct relay *
relay_start(const struct relay_spec *spec)
{
	struct relay *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->idle_ms = spec->idle_ms;
	r->dead_ms = spec->dead_ms;
	r->looking = spec->dead_ms > 0;
	r->active = clock_ms();
	r->lingers = spec->lingers;
	r->admission = spec->admission;
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
	relay_timer(r);
	relay_take(&r->client);
	relay_take(&r->backend);
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
	/* The credentials have passed; wiping every octet of mail would cost a
	 * tenth of the relay's CPU between two TLS legs. */
	if (ssl != NULL) {
		SSL_clear_options(ssl, SSL_OP_CLEANSE_PLAINTEXT);
		tls_leg_secured(bev, ssl);
	} else {
		bufferevent_set_max_single_write(bev, RELAY_TURN);
	}
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
	if (side->write != NULL)
		event_free(side->write);
	side->read = side->write = NULL;
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

/* Closes slowly if the side may not have read the last bytes yet and may still
 * send. */
static void
relay_side_close(struct relay_side *side)
{
	struct relay *r = side->relay;
	bool slow = !side->gone && !side->ended && r->lingers != NULL;
	int fd = slow ? dup(bufferevent_getfd(side->bev)) : -1;

	/* Otherwise OpenSSL spoils the connection's ticket, which the next
	 * login could resume. */
	if (side->ssl != NULL && side->gone)
		SSL_set_shutdown(side->ssl, SSL_SENT_SHUTDOWN);
	else if (side->ssl != NULL)
		SSL_shutdown(side->ssl);
	ERR_clear_error();
	bufferevent_free(side->bev);
	if (fd != -1)
		linger_add(r->lingers, fd,
		    side == &r->client ? r->admission : NULL);
}

void
relay_bytes(const struct relay *r, uint64_t *to_backend_out,
    uint64_t *to_client_out)
{
	*to_backend_out = relay_left(&r->client);
	*to_client_out = relay_left(&r->backend);
}

/* Octets taken from side that have left. The login's answer, which is not one
 * of them, may be held before them. */
static uint64_t
relay_left(const struct relay_side *side)
{
	size_t held = relay_held(side->other);

	return side->bytes > held ? side->bytes - held : 0;
}

const struct pop3_count *
relay_counts(const struct relay *r)
{
	return &r->count;
}

/* Returns the octets that wait to be written to side. */
static size_t
relay_held(const struct relay_side *side)
{
	return evbuffer_get_length(bufferevent_get_output(side->bev));
}

/* Relays what the dialogue has already read. TLS may hold more of a record, for
 * which the socket does not become readable. */
static void
relay_take(struct relay_side *side)
{
	struct evbuffer *in = bufferevent_get_input(side->bev);

	relay_count_held(side, in);
	side->bytes += evbuffer_get_length(in);
	if (evbuffer_add_buffer(bufferevent_get_output(side->other->bev), in) ==
	    -1) {
		relay_reason(side->relay, RELAY_NO_MEMORY);
		relay_finish(side->relay);
		return;
	}
	relay_adjust(side);
	if (side->reading && side->ssl != NULL)
		event_active(side->read, EV_READ, 0);
}

/* The commands that were pipelined behind the login. */
static void
relay_count_held(struct relay_side *side, struct evbuffer *in)
{
	size_t len = evbuffer_get_length(in), at = 0;
	struct evbuffer_iovec vec;
	struct evbuffer_ptr ptr;

	while (at < len) {
		evbuffer_ptr_set(in, &ptr, at, EVBUFFER_PTR_SET);
		evbuffer_peek(in, -1, &ptr, &vec, 1);
		relay_count(side, vec.iov_base, vec.iov_len);
		at += vec.iov_len;
	}
}

static void
relay_count(struct relay_side *side, const char *data, size_t len)
{
	if (side == &side->relay->client)
		pop3_count(&side->relay->count, data, len);
}

static void
relay_read_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct relay_side *side = arg;
	struct relay *r = side->relay;
	size_t turn = 0;
	ssize_t n = RELAY_AGAIN;

	while (turn < RELAY_TURN && relay_wanted(side)) {
		n = relay_move(side);
		if (n <= 0)
			break;
		turn += (size_t)n;
	}
	if (r->over)
		return;
	if (turn > 0)
		relay_moved(r);
	if (n == RELAY_OOM) {
		relay_reason(r, RELAY_NO_MEMORY);
		relay_finish(r);
	} else if (n == 0 || n == RELAY_ERROR) {
		relay_source_ended(side, n == RELAY_ERROR);
	} else {
		relay_adjust(side);
		/* Decrypted bytes make no socket readable. */
		if (side->reading && n != RELAY_AGAIN && side->ssl != NULL &&
		    SSL_has_pending(side->ssl))
			event_active(side->read, EV_READ, 0);
	}
}

/* Octets are on their way. */
static void
relay_moved(struct relay *r)
{
	r->active = clock_ms();
	if (!r->looking && r->dead_ms > 0) {
		r->looking = true;
		relay_timer(r);
	}
}

/* Whether side may be read from now. */
static bool
relay_wanted(const struct relay_side *side)
{
	return !side->relay->over && side->flow == FLOW_OPEN && side->reading &&
	    relay_held(side->other) < RELAY_HIGH;
}

/* One read, and one write if nothing waits before it. */
static ssize_t
relay_move(struct relay_side *side)
{
	struct relay_side *to = side->other;
	char buf[RELAY_CHUNK];
	ssize_t n, sent;

	if (relay_held(to) > 0)
		return relay_move_held(side);
	n = relay_receive(side, buf, sizeof(buf));
	if (n <= 0)
		return n;
	relay_count(side, buf, (size_t)n);
	if (to->gone)
		return n;
	sent = relay_send(to, buf, (size_t)n);
	if (sent == RELAY_ERROR) {
		relay_side_gone(to);
		return n;
	}
	if (sent < n &&
	    evbuffer_add(bufferevent_get_output(to->bev), buf + sent,
		(size_t)(n - sent)) == -1)
		return RELAY_OOM;
	side->bytes += (uint64_t)n;
	return n;
}

/* Reads straight into the output buffer: into the free space of a chain, so
 * that small reads need no chain each, or into a new one. */
static ssize_t
relay_move_held(struct relay_side *side)
{
	struct evbuffer *out = bufferevent_get_output(side->other->bev);
	size_t room = RELAY_MAX - evbuffer_get_length(out);
	struct evbuffer_iovec vec[2];
	ssize_t n;

	if (room > RELAY_CHUNK)
		room = RELAY_CHUNK;
	if (evbuffer_reserve_space(out, (ev_ssize_t)room, vec, 2) < 1)
		return RELAY_OOM;
	if (room > vec[0].iov_len)
		room = vec[0].iov_len;
	n = relay_receive(side, vec[0].iov_base, room);
	vec[0].iov_len = n > 0 ? (size_t)n : 0;
	relay_count(side, vec[0].iov_base, vec[0].iov_len);
	evbuffer_commit_space(out, vec, 1);
	side->bytes += vec[0].iov_len;
	return n;
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
	if (SSL_read_ex(side->ssl, buf, len, &n) == 1) {
		tls_leg_data(side->ssl);
		return (ssize_t)n;
	}
	switch (SSL_get_error(side->ssl, 0)) {
	case SSL_ERROR_WANT_READ:
		side->blocked = relay_owes_key(side);
		return RELAY_AGAIN;
	case SSL_ERROR_WANT_WRITE:
		/* A KeyUpdate's answer; and more may be readable already. */
		side->blocked = true;
		return relay_await(side) ? RELAY_AGAIN : RELAY_OOM;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		ERR_clear_error();
		if (tls_leg_flooded(side->ssl))
			relay_reason(side->relay, RELAY_FLOODED);
		return RELAY_ERROR;
	}
}

/* Returns true if side has asked for new keys while its output waits. OpenSSL
 * sends them behind the record it has begun to write. Until then it must not
 * read another message about keys: it would write out of turn, and fail. */
static bool
relay_owes_key(const struct relay_side *side)
{
	return relay_held(side) > 0 &&
	    SSL_get_key_update_type(side->ssl) != SSL_KEY_UPDATE_NONE;
}

/* Octets that were taken, if only 0. */
static ssize_t
relay_send(struct relay_side *to, const char *buf, size_t len)
{
	ssize_t n;

	if (to->ssl != NULL)
		return relay_send_ssl(to, buf, len);
	n = send(bufferevent_getfd(to->bev), buf, len, MSG_NOSIGNAL);
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? 0 : RELAY_ERROR;
}

/* OpenSSL may keep half a record and will want the same octets again: they
 * become the whole of the bufferevent's buffer, which begins with them. */
static ssize_t
relay_send_ssl(struct relay_side *to, const char *buf, size_t len)
{
	size_t done = 0, n;

	ERR_clear_error();
	while (done < len &&
	    SSL_write_ex(to->ssl, buf + done, len - done, &n) == 1)
		done += n;
	if (done < len) {
		switch (SSL_get_error(to->ssl, 0)) {
		case SSL_ERROR_WANT_READ:
		case SSL_ERROR_WANT_WRITE:
			break;
		default:
			ERR_clear_error();
			return RELAY_ERROR;
		}
	}
	return (ssize_t)done;
}

/* side has taken all or nearly all octets that were held for it. */
static void
relay_write_cb(struct bufferevent *bev UNUSED, void *arg)
{
	struct relay_side *side = arg;

	if (side->relay->over)
		return;
	side->relay->active = clock_ms();
	relay_settle(side->other);
	relay_adjust(side->other);
	if (side->blocked && !relay_owes_key(side)) {
		side->blocked = false;
		relay_adjust(side);
	}
}

/* The relay itself reads, so this event is always about writing. */
static void
relay_event_cb(struct bufferevent *bev UNUSED, short what, void *arg)
{
	struct relay_side *side = arg;

	ERR_clear_error();
	if (!side->relay->over && (what & (BEV_EVENT_ERROR | BEV_EVENT_EOF)))
		relay_side_gone(side);
}

/* OpenSSL has data of its own to write, and the socket has no room. */
static bool
relay_await(struct relay_side *side)
{
	if (side->write == NULL)
		side->write = event_new(bufferevent_get_base(side->bev),
		    bufferevent_getfd(side->bev), EV_WRITE, relay_writable_cb,
		    side);
	return side->write != NULL && event_add(side->write, NULL) == 0;
}

static void
relay_writable_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct relay_side *side = arg;

	side->blocked = false;
	relay_settle(side->other);
	relay_adjust(side);
}

/* Back-pressure: read from side only while the other takes it. */
static void
relay_adjust(struct relay_side *side)
{
	size_t held = relay_held(side->other);
	bool want = side->reading ? held < RELAY_HIGH : held <= RELAY_LOW;

	if (side->flow != FLOW_OPEN || side->blocked || side->relay->over)
		want = false;
	if (want == side->reading)
		return;
	side->reading = want;
	if (!want) {
		event_del(side->read);
	} else if (event_add(side->read, NULL) == -1) {
		relay_reason(side->relay, RELAY_NO_MEMORY);
		relay_finish(side->relay);
	} else if (side->ssl != NULL) {
		event_active(side->read, EV_READ, 0);
	}
}

/* side sends no more: it has closed or is lost. */
static void
relay_source_ended(struct relay_side *side, bool error)
{
	struct relay *r = side->relay;

	side->ended = true;
	if (error)
		relay_side_gone(side);
	else
		relay_reason(r,
		    side == &r->client ? RELAY_CLIENT_CLOSED
				       : RELAY_BACKEND_CLOSED);
	relay_source_stop(side);
}

/* Stops reading from side. */
static void
relay_source_stop(struct relay_side *side)
{
	if (side->flow != FLOW_OPEN)
		return;
	side->flow = FLOW_FLUSH;
	relay_adjust(side);
	bufferevent_setwatermark(side->other->bev, EV_WRITE, 0, 0);
	side->relay->active = clock_ms();
	relay_timer(side->relay);
	relay_settle(side);
}

/* Nothing can be written to side any more. Goes on reading it, because its
 * socket still has what it sent before, and then its end. */
static void
relay_side_gone(struct relay_side *side)
{
	struct relay *r = side->relay;
	struct evbuffer *out = bufferevent_get_output(side->bev);

	if (side->gone)
		return;
	side->gone = true;
	bufferevent_disable(side->bev, EV_WRITE);
	side->other->bytes = relay_left(side->other);
	/* Only the bufferevent itself may drain it otherwise. */
	evbuffer_unfreeze(out, 1);
	evbuffer_drain(out, evbuffer_get_length(out));
	relay_reason(r,
	    side == &r->client ? RELAY_CLIENT_ERROR : RELAY_BACKEND_ERROR);
	if (side == &r->client)
		r->half_until = clock_ms() + RELAY_HALF_MS;
	else
		relay_source_stop(&r->client); /* nobody can receive it */
	relay_timer(r);
	side->blocked = false;
	relay_settle(side->other);
	relay_adjust(side->other);
	relay_adjust(side);
}

/* Passes side's close on when all its bytes are delivered. A client whose
 * backend has closed is not read any more. */
static void
relay_settle(struct relay_side *side)
{
	struct relay *r = side->relay;
	struct relay_side *to = side->other;

	if (r->over || side->flow != FLOW_FLUSH ||
	    (!to->gone && (relay_held(to) > 0 || !relay_say_close(to))))
		return;
	side->flow = FLOW_DONE;
	if (side == &r->backend)
		relay_source_stop(&r->client);
	if (to->flow == FLOW_DONE)
		relay_finish(r);
}

/* Returns false if it must wait for room. */
static bool
relay_say_close(struct relay_side *to)
{
	int n;

	if (to->ssl != NULL) {
		ERR_clear_error();
		n = SSL_shutdown(to->ssl);
		if (n < 0 &&
		    SSL_get_error(to->ssl, n) == SSL_ERROR_WANT_WRITE &&
		    relay_await(to))
			return false;
		ERR_clear_error();
	}
	shutdown(bufferevent_getfd(to->bev), SHUT_WR);
	return true;
}

/* Only the first reason counts. */
static void
relay_reason(struct relay *r, enum relay_end why)
{
	if (!r->why_known)
		r->why = why;
	r->why_known = true;
}

/* done is called from the loop, when no function of the relay is on the
 * stack. */
static void
relay_finish(struct relay *r)
{
	if (r->over)
		return;
	r->over = true;
	relay_adjust(&r->client);
	relay_adjust(&r->backend);
	event_active(r->timer, EV_TIMEOUT, 0);
}

/* One lazy timer: activity only notes the time. What a slow reader takes is not
 * noted, because it shows in the octets that are held. */
static void
relay_timer_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct relay *r = arg;

	if (r->over) {
		r->done(r->arg, r->why);
		return;
	}
	if (r->looking)
		relay_look(r);
	if (r->over)
		return;
	if (relay_held(&r->client) + relay_held(&r->backend) < r->held)
		r->active = clock_ms();
	if (clock_ms() < relay_deadline(r)) {
		relay_timer(r);
		return;
	}
	relay_reason(r, RELAY_IDLE);
	relay_finish(r);
}

/* A dead peer is lost as one that resets. Only what is sent makes it worth
 * looking: see relay_moved(). */
static void
relay_look(struct relay *r)
{
	struct relay_side *sides[] = {&r->client, &r->backend};

	r->looking = relay_held(&r->client) + relay_held(&r->backend) > 0;
	for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
		struct relay_side *side = sides[i];

		if (side->gone)
			continue;
		switch (dead_peer_look(&side->dead,
		    bufferevent_getfd(side->bev), r->dead_ms)) {
		case PEER_QUIET:
			break;
		case PEER_OWES:
			r->looking = true;
			break;
		case PEER_DEAD:
			relay_source_ended(side, true);
			break;
		}
	}
}

static uint64_t
relay_deadline(const struct relay *r)
{
	bool half = r->client.flow != FLOW_OPEN || r->backend.flow != FLOW_OPEN;
	uint64_t limit = r->idle_ms, until;

	/* What is held for somebody who reads slowly is not given up so soon. */
	if (half && limit > RELAY_HALF_MS &&
	    relay_held(&r->client) + relay_held(&r->backend) == 0)
		limit = RELAY_HALF_MS;
	until = r->active + limit;
	if (r->half_until != 0 && r->half_until < until)
		until = r->half_until;
	return until;
}

static void
relay_timer(struct relay *r)
{
	uint64_t now = clock_ms(), until = relay_deadline(r);
	uint64_t ms = until > now ? until - now : 0;
	struct timeval tv;

	/* Adding a timer that is active would take done back. */
	if (r->over)
		return;
	r->held = relay_held(&r->client) + relay_held(&r->backend);
	/* When what is held will have gone is only seen by looking. */
	if (r->held > 0 && ms > r->idle_ms / RELAY_LOOKS)
		ms = r->idle_ms / RELAY_LOOKS;
	if (r->looking && ms > r->dead_ms / RELAY_DEAD_LOOKS)
		ms = r->dead_ms / RELAY_DEAD_LOOKS;
	tv = clock_timeval(ms);
	if (evtimer_add(r->timer, &tv) == -1) {
		relay_reason(r, RELAY_NO_MEMORY);
		relay_finish(r);
	}
}
