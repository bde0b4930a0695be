/* test_relay.c: the relay between real sockets, plain and TLS, and slow
 * closes. The far ends are driven by hand, so that each may stop reading,
 * close halfway or reset whenever a case wants it to. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include "platform/clock.h"
#include "platform/util.h"
#include "proto/pop3_count.h"
#include "session/admission.h"
#include "session/linger.h"
#include "session/relay.h"
#include "run.h"

#define MB (1024 * 1024)
#define HELD_MAX (64 * 1024 + 32 * 1024) /* what a deaf reader may cost */
#define PATIENCE_MS 20000 /* of ours, not of the relay */
#define IDLE_MS 600000 /* where it does not matter */

/* Another clock than clock.c's: it runs faster by a factor, so that half a
 * minute's patience is seen to end. */
static unsigned clock_speed = 1;

static uint64_t
real_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t
clock_ms(void)
{
	return real_ms() * clock_speed;
}

struct timeval
clock_timeval(uint64_t ms)
{
	uint64_t us = ms * 1000 / clock_speed;
	struct timeval tv = {
	    .tv_sec = (time_t)(us / 1000000),
	    .tv_usec = (suseconds_t)(us % 1000000),
	};

	return tv;
}

/* libevent's memory: how much it holds, and a request that is refused. */
static size_t mem_used;
static unsigned long mem_refuse; /* the how manyeth from now; 0: none */

#define MEM_HEAD 16

static void *
mem_realloc(void *p, size_t size)
{
	char *old = p == NULL ? NULL : (char *)p - MEM_HEAD, *new;
	size_t had = old == NULL ? 0 : *(size_t *)(void *)old;

	if (mem_refuse > 0 && --mem_refuse == 0)
		return NULL;
	new = realloc(old, size + MEM_HEAD);
	*(size_t *)(void *)new = size;
	mem_used += size - had;
	return new + MEM_HEAD;
}

static void *
mem_malloc(size_t size)
{
	return mem_realloc(NULL, size);
}

static void
mem_free(void *p)
{
	char *old = p == NULL ? NULL : (char *)p - MEM_HEAD;

	if (old != NULL)
		mem_used -= *(size_t *)(void *)old;
	free(old);
}

/* The far end of a leg. */
struct peer {
	int fd; /* -1: closed */
	SSL *ssl; /* NULL: plain */
	const char *out;
	size_t out_len, out_done;
	bool fin; /* close for writing behind it */
	bool fin_done;
	bool deaf; /* does not read */
	size_t sip; /* octets it reads at once; 0: all there is */
	char *in;
	size_t in_len, in_size;
	bool eof;
	bool failed; /* reset, or worse */
};

struct rig {
	struct event_base *base;
	struct linger_set *lingers;
	struct relay *relay;
	struct peer client, backend;
	struct bufferevent *client_bev, *backend_bev; /* the relay's */
	SSL *client_ssl, *backend_ssl;
	uint64_t idle_ms;
	bool free_in_done;
	int done;
	enum relay_end why;
	size_t held_max;
};

/* The legs of a case that is run four times. */
#define CLIENT_TLS(i) (((i)&1) != 0)
#define BACKEND_TLS(i) (((i)&2) != 0)

static SSL_CTX *server_ctx, *client_ctx;

/* What the side of TLS that connects asks for (RFC 6066), and the version that
 * both speak at most; 0: neither. */
static uint8_t tls_fragment;
static int tls_version;

static void
make_identity(SSL_CTX *ctx)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();

	X509_set_version(x, X509_VERSION_3);
	ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -86400);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
	    (const unsigned char *)"relay", -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(x));
	X509_set_pubkey(x, key);
	ck_assert_int_gt(X509_sign(x, key, EVP_sha256()), 0);
	ck_assert_int_eq(SSL_CTX_use_certificate(ctx, x), 1);
	ck_assert_int_eq(SSL_CTX_use_PrivateKey(ctx, key), 1);
	X509_free(x);
	EVP_PKEY_free(key);
}

static SSL_CTX *
make_ctx(const SSL_METHOD *method)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	ck_assert_ptr_nonnull(ctx);
	SSL_CTX_set_options(ctx,
	    SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF |
		SSL_OP_CLEANSE_PLAINTEXT);
	SSL_CTX_set_mode(ctx,
	    SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
		SSL_MODE_ENABLE_PARTIAL_WRITE);
	SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
	return ctx;
}

static void
setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	/* usleep() is to take what it says. */
	prctl(PR_SET_TIMERSLACK, 1);
	event_set_mem_functions(mem_malloc, mem_realloc, mem_free);
	server_ctx = make_ctx(TLS_server_method());
	client_ctx = make_ctx(TLS_client_method());
	make_identity(server_ctx);
}

static void
teardown(void)
{
	SSL_CTX_free(server_ctx);
	SSL_CTX_free(client_ctx);
}

/* Two ends of one TCP connection, neither blocking. socketpair(2) knows no
 * RST. */
static void
tcp_pair(int *a_out, int *b_out, int buffer)
{
	struct sockaddr_in sin = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int s = socket(AF_INET, SOCK_STREAM, 0), a, b, one = 1;

	ck_assert_int_eq(bind(s, (struct sockaddr *)&sin, sizeof(sin)), 0);
	ck_assert_int_eq(getsockname(s, (struct sockaddr *)&sin, &len), 0);
	if (buffer > 0)
		setsockopt(s, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	ck_assert_int_eq(listen(s, 1), 0);
	a = socket(AF_INET, SOCK_STREAM, 0);
	if (buffer > 0)
		setsockopt(a, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	ck_assert_int_eq(connect(a, (struct sockaddr *)&sin, sizeof(sin)), 0);
	b = accept(s, NULL, NULL);
	ck_assert_int_ge(b, 0);
	close(s);
	for (int i = 0; i < 2; i++) {
		int fd = i == 0 ? a : b;

		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (buffer > 0)
			setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer,
			    sizeof(buffer));
		ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	}
	*a_out = a;
	*b_out = b;
}

static void
shake(SSL *a, SSL *b)
{
	for (int i = 0; i < 20000; i++) {
		bool done = SSL_do_handshake(a) == 1;

		if (SSL_do_handshake(b) == 1 && done)
			return;
		if (i > 10)
			usleep(50);
	}
	ck_abort_msg("no handshake");
}

/* One leg: the far end, and a bufferevent on the near one. server: TLS's, at
 * the near end. */
static struct bufferevent *
leg_open(struct rig *rig, struct peer *p, bool tls, bool server, SSL **ssl_out,
    int buffer)
{
	struct bufferevent *bev;
	SSL *ssl = NULL;
	int fd;

	*ssl_out = NULL;
	memset(p, 0, sizeof(*p));
	tcp_pair(&p->fd, &fd, buffer);
	if (tls) {
		ssl = SSL_new(server ? server_ctx : client_ctx);
		p->ssl = SSL_new(server ? client_ctx : server_ctx);
		SSL_set_fd(ssl, fd);
		SSL_set_fd(p->ssl, p->fd);
		SSL_clear_options(p->ssl, SSL_OP_IGNORE_UNEXPECTED_EOF);
		SSL_set_accept_state(server ? ssl : p->ssl);
		SSL_set_connect_state(server ? p->ssl : ssl);
		SSL_set_tlsext_max_fragment_length(server ? p->ssl : ssl,
		    tls_fragment);
		SSL_set_max_proto_version(ssl, tls_version);
		shake(server ? p->ssl : ssl, server ? ssl : p->ssl);
		bev = bufferevent_openssl_socket_new(rig->base, fd, ssl,
		    BUFFEREVENT_SSL_OPEN, BEV_OPT_CLOSE_ON_FREE);
	} else {
		bev = bufferevent_socket_new(rig->base, fd,
		    BEV_OPT_CLOSE_ON_FREE);
	}
	ck_assert_ptr_nonnull(bev);
	*ssl_out = ssl;
	return bev;
}

static void
rig_open_buffer(struct rig *rig, int legs, int buffer)
{
	memset(rig, 0, sizeof(*rig));
	rig->idle_ms = IDLE_MS;
	rig->base = event_base_new();
	rig->lingers = linger_set_new(rig->base);
	rig->client_bev = leg_open(rig, &rig->client, CLIENT_TLS(legs), true,
	    &rig->client_ssl, buffer);
	rig->backend_bev = leg_open(rig, &rig->backend, BACKEND_TLS(legs),
	    false, &rig->backend_ssl, buffer);
}

static void
rig_open(struct rig *rig, int legs)
{
	rig_open_buffer(rig, legs, 0);
}

static void
rig_done(void *arg, enum relay_end why)
{
	struct rig *rig = arg;

	rig->done++;
	rig->why = why;
	if (rig->free_in_done)
		relay_free(&rig->relay);
}

static void
rig_try(struct rig *rig)
{
	struct relay_spec spec = {
	    .base = rig->base,
	    .client = rig->client_bev,
	    .backend = rig->backend_bev,
	    .client_ssl = rig->client_ssl,
	    .backend_ssl = rig->backend_ssl,
	    .idle_ms = rig->idle_ms,
	    .lingers = rig->lingers,
	    .done = rig_done,
	    .arg = rig,
	};

	rig->relay = relay_start(&spec);
	ck_assert_int_eq(rig->done, 0);
}

static void
rig_start(struct rig *rig)
{
	rig_try(rig);
	ck_assert_ptr_nonnull(rig->relay);
}

static void
peer_close(struct peer *p)
{
	if (p->ssl != NULL)
		SSL_free(p->ssl);
	if (p->fd != -1)
		close(p->fd);
	p->ssl = NULL;
	p->fd = -1;
}

static void
peer_reset(struct peer *p)
{
	struct linger l = {.l_onoff = 1};

	setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	peer_close(p);
}

static void
rig_close(struct rig *rig)
{
	relay_free(&rig->relay);
	/* libevent frees bufferevents from its loop. */
	event_base_loop(rig->base, EVLOOP_NONBLOCK);
	linger_set_free(&rig->lingers);
	peer_close(&rig->client);
	peer_close(&rig->backend);
	free(rig->client.in);
	free(rig->backend.in);
	event_base_free(rig->base);
}

static void
peer_send(struct peer *p, const char *data, size_t len)
{
	ck_assert_uint_eq(p->out_done, p->out_len);
	p->out = data;
	p->out_len = len;
	p->out_done = 0;
}

static void
peer_say(struct peer *p, const char *text)
{
	peer_send(p, text, strlen(text));
}

static bool
peer_write(struct peer *p)
{
	size_t left = p->out_len - p->out_done;
	ssize_t n;

	if (left == 0)
		return false;
	ERR_clear_error();
	if (p->ssl != NULL) {
		n = SSL_write(p->ssl, p->out + p->out_done, (int)left);
		if (n <= 0 &&
		    SSL_get_error(p->ssl, (int)n) != SSL_ERROR_WANT_WRITE)
			p->failed = true;
	} else {
		n = send(p->fd, p->out + p->out_done, left, 0);
		if (n == -1 && errno != EAGAIN)
			p->failed = true;
	}
	if (p->failed)
		p->out_done = p->out_len;
	else if (n > 0)
		p->out_done += (size_t)n;
	return n > 0;
}

static ssize_t
peer_read_ssl(struct peer *p, char *buf, size_t len)
{
	int n, why;

	ERR_clear_error();
	n = SSL_read(p->ssl, buf, (int)len);
	if (n > 0)
		return n;
	why = SSL_get_error(p->ssl, n);
	if (why == SSL_ERROR_WANT_READ)
		return -1;
	p->failed = why != SSL_ERROR_ZERO_RETURN;
	return 0;
}

static bool
peer_read(struct peer *p)
{
	size_t want = p->sip > 0 ? p->sip : 100000;
	ssize_t n;

	if (p->deaf || p->eof || p->failed)
		return false;
	if (p->in_size - p->in_len < want) {
		p->in_size = 2 * p->in_size + want;
		p->in = realloc(p->in, p->in_size);
	}
	if (p->ssl != NULL) {
		n = peer_read_ssl(p, p->in + p->in_len, want);
	} else {
		n = recv(p->fd, p->in + p->in_len, want, 0);
		if (n == -1 && errno != EAGAIN)
			p->failed = true;
	}
	if (n > 0)
		p->in_len += (size_t)n;
	p->eof = n == 0 && !p->failed;
	return n > 0;
}

/* Whether anything moved. */
static bool
peer_pump(struct peer *p)
{
	bool moved = false;

	if (p->fd == -1)
		return false;
	moved |= peer_write(p);
	if (p->fin && !p->fin_done && p->out_done == p->out_len) {
		if (p->ssl != NULL)
			SSL_shutdown(p->ssl);
		shutdown(p->fd, SHUT_WR);
		p->fin_done = true;
	}
	moved |= peer_read(p);
	ERR_clear_error();
	return moved;
}

static void
rig_watch(struct rig *rig)
{
	size_t n;

	if (rig->relay == NULL)
		return;
	n = evbuffer_get_length(bufferevent_get_output(rig->client_bev));
	if (n > rig->held_max)
		rig->held_max = n;
	n = evbuffer_get_length(bufferevent_get_output(rig->backend_bev));
	if (n > rig->held_max)
		rig->held_max = n;
}

static void
rig_step(struct rig *rig)
{
	bool moved;

	event_base_loop(rig->base, EVLOOP_NONBLOCK);
	rig_watch(rig);
	moved = peer_pump(&rig->client);
	moved |= peer_pump(&rig->backend);
	if (!moved)
		usleep(20);
}

/* Turns until cond, which is looked at anew each time. */
#define RUN_UNTIL(rig, cond)                                          \
	do {                                                          \
		uint64_t until_ = real_ms() + PATIENCE_MS;            \
                                                                      \
		while (!(cond)) {                                     \
			rig_step(rig);                                \
			ck_assert_msg(real_ms() < until_,             \
			    "never: %s (done %d, client %zu%s%s, "    \
			    "backend %zu%s%s)",                       \
			    #cond, (rig)->done, (rig)->client.in_len, \
			    (rig)->client.eof ? " eof" : "",          \
			    (rig)->client.failed ? " failed" : "",    \
			    (rig)->backend.in_len,                    \
			    (rig)->backend.eof ? " eof" : "",         \
			    (rig)->backend.failed ? " failed" : "");  \
		}                                                     \
	} while (0)

static void
rig_run_ms(struct rig *rig, uint64_t ms)
{
	uint64_t until = real_ms() + ms;

	while (real_ms() < until)
		rig_step(rig);
}

static void
tick_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	*(bool *)arg = true;
}

/* Turns of the loop in 100 ms in which nothing ought to happen. */
static int
rig_turns(struct rig *rig)
{
	struct timeval tv = {.tv_usec = 100000};
	bool over = false;
	struct event *tick = evtimer_new(rig->base, tick_cb, &over);
	int n = 0;

	evtimer_add(tick, &tv);
	while (!over) {
		event_base_loop(rig->base, EVLOOP_ONCE);
		n++;
	}
	event_free(tick);
	return n;
}

/* len octets that look like nothing and are the same for the same seed. */
static char *
noise(size_t len, uint64_t seed)
{
	char *data = malloc(len);
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (char)(x >> 24);
	}
	return data;
}

static void
ck_heard(const struct peer *p, const char *data, size_t len)
{
	ck_assert_uint_eq(p->in_len, len);
	ck_assert_int_eq(memcmp(p->in, data, len), 0);
}

/* The beginning of it, and nothing else. */
static void
ck_heard_some(const struct peer *p, const char *data, size_t len)
{
	ck_assert_uint_le(p->in_len, len);
	ck_assert(p->in_len == 0 || memcmp(p->in, data, p->in_len) == 0);
}

static void
ck_heard_text(const struct peer *p, const char *text)
{
	ck_heard(p, text, strlen(text));
}

/* The end came as an end: a FIN, over TLS not without close_notify. */
static void
ck_ended(const struct peer *p)
{
	ck_assert(p->eof);
	ck_assert(!p->failed);
}

/* What the dialogue would have left in the input buffer. */
static void
rig_preread(struct rig *rig, struct bufferevent *bev, size_t least)
{
	struct evbuffer *in = bufferevent_get_input(bev);

	bufferevent_enable(bev, EV_READ);
	RUN_UNTIL(rig, evbuffer_get_length(in) >= least);
	bufferevent_disable(bev, EV_READ);
}

START_TEST(both_ways_byte_for_byte)
{
	size_t len = 5 * MB, sips[] = {0, 1460, 70000, 16384};
	char *up = noise(len, 1), *down = noise(len, 2);
	uint64_t to_backend, to_client;
	struct rig rig;

	rig_open(&rig, _i);
	rig.client.sip = sips[_i];
	rig.backend.sip = sips[3 - _i];
	rig_start(&rig);
	peer_send(&rig.client, up, len);
	peer_send(&rig.backend, down, len);
	RUN_UNTIL(&rig, rig.client.in_len >= len && rig.backend.in_len >= len);
	ck_assert_int_eq(rig.done, 0);
	rig.client.fin = true;
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_ended(&rig.backend);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_ended(&rig.client);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_CLOSED);
	ck_heard(&rig.backend, up, len);
	ck_heard(&rig.client, down, len);
	ck_assert_uint_le(rig.held_max, HELD_MAX);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_eq(to_backend, len);
	ck_assert_uint_eq(to_client, len);
	rig_close(&rig);
	free(up);
	free(down);
}
END_TEST

START_TEST(what_was_read_before_goes_first_and_once)
{
	char *up = noise(200000, 3), *down = noise(200000, 4);
	struct rig rig;

	rig_open(&rig, _i);
	/* One record, of which the bufferevent takes a part: the rest is with
	 * OpenSSL, and the socket has nothing to say about it. */
	peer_send(&rig.client, up, 16000);
	peer_send(&rig.backend, down, 7);
	rig_preread(&rig, rig.client_bev, 10);
	rig_preread(&rig, rig.backend_bev, 7);
	rig_start(&rig);
	RUN_UNTIL(&rig, rig.backend.in_len >= 16000);
	RUN_UNTIL(&rig, rig.client.in_len >= 7);
	peer_send(&rig.client, up + 16000, 200000 - 16000);
	peer_send(&rig.backend, down + 7, 200000 - 7);
	RUN_UNTIL(&rig,
	    rig.client.in_len >= 200000 && rig.backend.in_len >= 200000);
	rig_run_ms(&rig, 20);
	ck_heard(&rig.backend, up, 200000);
	ck_heard(&rig.client, down, 200000);
	rig_close(&rig);
	free(up);
	free(down);
}
END_TEST

/* Behind the login, in the middle of a command, and while much is held. */
START_TEST(the_clients_commands_are_counted)
{
	char *junk = noise(300000, 36);
	const struct pop3_count *c;
	struct rig rig;

	for (size_t i = 0; i < 300000; i++)
		if (junk[i] == '\n')
			junk[i] = ' ';
	rig_open_buffer(&rig, _i, 16 * 1024);
	peer_say(&rig.client, "STAT\r\nRETR 1\r\nDE");
	rig_preread(&rig, rig.client_bev, 16);
	rig_start(&rig);
	RUN_UNTIL(&rig, rig.backend.in_len == 16);
	peer_say(&rig.client, "LE 1\r\n");
	/* Mail may look like anything. */
	peer_say(&rig.backend, "+OK\r\nDELE 1\r\nRSET\r\n");
	RUN_UNTIL(&rig, rig.backend.in_len == 22 && rig.client.in_len == 19);
	c = relay_counts(rig.relay);
	ck_assert_uint_eq(c->n[COUNTED_STAT], 1);
	ck_assert_uint_eq(c->n[COUNTED_RETR], 1);
	ck_assert_uint_eq(c->n[COUNTED_DELE], 1);
	ck_assert_uint_eq(c->n[COUNTED_RSET], 0);
	ck_assert_uint_eq(c->deletes_pending, 1);
	/* One long line; the backend takes its time. */
	rig.backend.deaf = true;
	peer_send(&rig.client, junk, 300000);
	rig_run_ms(&rig, 20);
	rig.backend.deaf = false;
	RUN_UNTIL(&rig, rig.backend.in_len == 22 + 300000);
	peer_say(&rig.client, "\r\nQUIT\r\n");
	RUN_UNTIL(&rig, rig.backend.in_len == 22 + 300000 + 8);
	ck_assert_uint_eq(c->n[COUNTED_OTHER], 1);
	ck_assert_uint_eq(c->n[COUNTED_QUIT], 1);
	rig_close(&rig);
	free(junk);
}
END_TEST

/* All that was pipelined, and the end behind it, was there before the relay:
 * nothing will ever become readable again. */
START_TEST(a_whole_session_may_have_been_pipelined)
{
	char *up = noise(16000, 5);
	struct rig rig;

	rig_open(&rig, _i);
	peer_send(&rig.client, up, 16000);
	rig.client.fin = true;
	rig_preread(&rig, rig.client_bev, 10);
	rig_start(&rig);
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_heard(&rig.backend, up, 16000);
	ck_ended(&rig.backend);
	peer_say(&rig.backend, "+OK bye\r\n");
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard_text(&rig.client, "+OK bye\r\n");
	rig_close(&rig);
	free(up);
}
END_TEST

START_TEST(a_client_that_has_closed_its_half_gets_its_answer)
{
	char *down = noise(3 * MB, 6);
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	peer_say(&rig.client, "RETR 1\r\nQUIT\r\n");
	rig.client.fin = true;
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_heard_text(&rig.backend, "RETR 1\r\nQUIT\r\n");
	ck_ended(&rig.backend);
	rig_run_ms(&rig, 20);
	ck_assert_int_eq(rig.done, 0);
	peer_send(&rig.backend, down, 3 * MB);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard(&rig.client, down, 3 * MB);
	ck_ended(&rig.client);
	RUN_UNTIL(&rig, rig.done);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_CLOSED);
	rig_close(&rig);
	free(down);
}
END_TEST

/* A FIN alone, as programs that do not care send it. */
START_TEST(an_end_without_close_notify_is_an_end)
{
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	peer_say(&rig.client, "QUIT\r\n");
	rig_step(&rig);
	shutdown(rig.client.fd, SHUT_WR);
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_heard_text(&rig.backend, "QUIT\r\n");
	ck_ended(&rig.backend);
	peer_say(&rig.backend, "+OK\r\n");
	rig_step(&rig);
	shutdown(rig.backend.fd, SHUT_WR);
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard_text(&rig.client, "+OK\r\n");
	ck_ended(&rig.client);
	RUN_UNTIL(&rig, rig.done);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_CLOSED);
	rig_close(&rig);
}
END_TEST

START_TEST(a_backend_that_closes_ends_the_session_when_all_is_delivered)
{
	char *down = noise(3 * MB, 7);
	struct rig rig;

	rig_open_buffer(&rig, _i, 64 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	peer_send(&rig.backend, down, 3 * MB);
	rig.backend.fin = true;
	rig_run_ms(&rig, 50);
	ck_assert_int_eq(rig.done, 0);
	rig.client.deaf = false;
	rig.client.sip = 5000;
	RUN_UNTIL(&rig, rig.done);
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard(&rig.client, down, 3 * MB);
	ck_ended(&rig.client);
	ck_assert_int_eq(rig.why, RELAY_BACKEND_CLOSED);
	rig_close(&rig);
	free(down);
}
END_TEST

/* The client talks on while its last answer is under way: closing over that
 * would reset the connection. */
START_TEST(a_late_command_does_not_destroy_the_last_answer)
{
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	rig.free_in_done = true;
	rig.client.deaf = true;
	peer_say(&rig.backend, "-ERR going down\r\n");
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	peer_say(&rig.client, "STAT\r\n");
	rig_run_ms(&rig, 20);
	peer_say(&rig.client, "QUIT\r\n");
	rig_run_ms(&rig, 20);
	rig.client.deaf = false;
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard_text(&rig.client, "-ERR going down\r\n");
	ck_ended(&rig.client);
	rig_close(&rig);
}
END_TEST

/* A backend may close its half and still take what is on its way to it. */
START_TEST(what_is_held_for_a_half_closed_backend_is_delivered)
{
	char *up = noise(MB, 8);
	size_t held;
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.backend.deaf = true;
	peer_send(&rig.client, up, MB);
	rig_run_ms(&rig, 50);
	held = evbuffer_get_length(bufferevent_get_output(rig.backend_bev));
	ck_assert_uint_gt(held, 0);
	rig.backend.fin = true;
	rig_run_ms(&rig, 50);
	ck_assert_int_eq(rig.done, 0);
	rig.backend.deaf = false;
	RUN_UNTIL(&rig, rig.done);
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_ended(&rig.backend);
	ck_assert_uint_ge(rig.backend.in_len, held);
	ck_assert_int_eq(memcmp(rig.backend.in, up, rig.backend.in_len), 0);
	rig_close(&rig);
	free(up);
}
END_TEST

START_TEST(a_backend_that_resets_in_mid_message_adds_nothing)
{
	char *down = noise(100000, 9);
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	rig.client.deaf = true;
	peer_send(&rig.backend, down, 100000);
	RUN_UNTIL(&rig, rig.backend.out_done == rig.backend.out_len);
	rig_run_ms(&rig, 20);
	peer_reset(&rig.backend);
	rig.client.deaf = false;
	RUN_UNTIL(&rig, rig.done);
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard(&rig.client, down, 100000);
	ck_ended(&rig.client);
	ck_assert_int_eq(rig.why, RELAY_BACKEND_ERROR);
	rig_close(&rig);
	free(down);
}
END_TEST

/* It says why and closes over a command that it has not read: we learn of the
 * RST by writing, its words are still in the socket. */
START_TEST(the_last_words_of_a_backend_that_resets_are_delivered)
{
	char *up = noise(MB, 10);
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.backend.deaf = true;
	peer_send(&rig.client, up, MB);
	rig_run_ms(&rig, 50);
	ck_assert_uint_gt(
	    evbuffer_get_length(bufferevent_get_output(rig.backend_bev)), 0);
	peer_say(&rig.backend, "-ERR out of memory\r\n");
	peer_pump(&rig.backend);
	peer_close(&rig.backend);
	usleep(20000);
	RUN_UNTIL(&rig, rig.done);
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard_text(&rig.client, "-ERR out of memory\r\n");
	ck_assert_int_eq(rig.why, RELAY_BACKEND_ERROR);
	rig_close(&rig);
	free(up);
}
END_TEST

START_TEST(a_client_that_resets_is_still_heard_and_answered)
{
	char *down = noise(2 * MB, 11);
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	peer_say(&rig.client, "DELE 1\r\nQUIT\r\n");
	peer_pump(&rig.client);
	usleep(20000);
	peer_reset(&rig.client);
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_heard_text(&rig.backend, "DELE 1\r\nQUIT\r\n");
	ck_ended(&rig.backend);
	/* It is let finish, as if somebody listened. */
	peer_send(&rig.backend, down, 2 * MB);
	RUN_UNTIL(&rig, rig.backend.out_done == rig.backend.out_len);
	rig_run_ms(&rig, 20);
	ck_assert(!rig.backend.failed);
	ck_assert_int_eq(rig.done, 0);
	ck_assert_int_lt(rig_turns(&rig), 10);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	ck_assert(!rig.backend.failed);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_ERROR);
	rig_close(&rig);
	free(down);
}
END_TEST

/* In the middle of a RETR that it does not read to the end, a client says QUIT
 * and closes: the RST meets our write, the QUIT is still in the socket. */
START_TEST(quit_is_heard_from_a_client_that_leaves_in_mid_message)
{
	char *down = noise(6 * MB, 12);
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	peer_send(&rig.backend, down, 6 * MB);
	rig_run_ms(&rig, 50);
	ck_assert_uint_gt(
	    evbuffer_get_length(bufferevent_get_output(rig.client_bev)), 0);
	peer_say(&rig.client, "QUIT\r\n");
	peer_pump(&rig.client);
	peer_close(&rig.client);
	usleep(20000);
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_heard_text(&rig.backend, "QUIT\r\n");
	ck_ended(&rig.backend);
	RUN_UNTIL(&rig, rig.backend.out_done == rig.backend.out_len);
	rig_run_ms(&rig, 20);
	ck_assert(!rig.backend.failed);
	ck_assert_int_eq(rig.done, 0);
	ck_assert_int_lt(rig_turns(&rig), 10);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_ERROR);
	rig_close(&rig);
	free(down);
}
END_TEST

/* The same, and the backend is busy: the QUIT waits behind other commands. */
START_TEST(a_slow_backend_hears_all_from_a_client_that_is_gone)
{
	char *up = noise(300000, 13), *down = noise(MB, 14);
	size_t sent;
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.client.deaf = rig.backend.deaf = true;
	peer_send(&rig.client, up, 300000);
	peer_send(&rig.backend, down, MB);
	rig_run_ms(&rig, 50);
	/* What the client's kernel has not sent dies with it. */
	sent = rig.client.out_done;
	ck_assert_uint_lt(sent, 300000);
	peer_reset(&rig.client);
	rig_run_ms(&rig, 20);
	rig.backend.deaf = false;
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_ended(&rig.backend);
	ck_assert_uint_ge(rig.backend.in_len, 16384);
	ck_assert_uint_le(rig.backend.in_len, sent);
	ck_assert_int_eq(memcmp(rig.backend.in, up, rig.backend.in_len), 0);
	RUN_UNTIL(&rig, rig.backend.out_done == rig.backend.out_len);
	ck_assert(!rig.backend.failed);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	rig_close(&rig);
	free(up);
	free(down);
}
END_TEST

START_TEST(nobody_waits_for_ever_for_an_answer_that_nobody_reads)
{
	char *down = noise(100000, 15);
	uint64_t from;
	struct rig rig;

	clock_speed = 100;
	rig_open(&rig, _i);
	rig_start(&rig);
	from = real_ms();
	peer_reset(&rig.client);
	while (!rig.done && real_ms() < from + PATIENCE_MS) {
		/* It never stops talking. */
		if (rig.backend.out_done == rig.backend.out_len)
			peer_send(&rig.backend, down, 100000);
		rig_step(&rig);
	}
	ck_assert_int_eq(rig.done, 1);
	ck_assert_uint_ge(real_ms() - from, 30000 / 100 - 1);
	ck_assert_uint_lt(real_ms() - from, IDLE_MS / 100);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_ERROR);
	rig_close(&rig);
	free(down);
}
END_TEST

START_TEST(a_half_closed_session_ends_when_the_other_half_is_silent)
{
	uint64_t from;
	struct rig rig;

	clock_speed = 100;
	rig_open(&rig, _i);
	rig_start(&rig);
	from = real_ms();
	rig.client.fin = true;
	RUN_UNTIL(&rig, rig.done);
	ck_assert_uint_ge(real_ms() - from, 30000 / 100 - 1);
	ck_assert_uint_lt(real_ms() - from, IDLE_MS / 100);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_CLOSED);
	rig_close(&rig);
}
END_TEST

/* Each sip is progress, if not enough of it to make the output run low. */
START_TEST(a_slow_reader_gets_all_of_a_last_message)
{
	char *down = noise(100000, 16);
	uint64_t from, until;
	struct rig rig;

	clock_speed = 100;
	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	peer_send(&rig.backend, down, 100000);
	rig.backend.fin = true;
	rig_run_ms(&rig, 50);
	from = real_ms();
	rig.client.sip = 4000;
	while (!rig.client.eof && !rig.client.failed) {
		ck_assert_uint_lt(real_ms() - from, PATIENCE_MS);
		rig.client.deaf = false;
		peer_read(&rig.client);
		rig.client.deaf = true;
		until = real_ms() + 24; /* 2.4 s of the relay's */
		while (real_ms() < until)
			rig_step(&rig);
	}
	ck_assert_uint_gt(real_ms() - from, 45000 / 100);
	ck_heard(&rig.client, down, 100000);
	ck_ended(&rig.client);
	RUN_UNTIL(&rig, rig.done);
	rig_close(&rig);
	free(down);
}
END_TEST

/* QUIT was pipelined, the backend has answered all and is gone; the client, a
 * phone that sleeps, goes on long after. */
START_TEST(a_reader_that_stalls_gets_all_of_a_last_message)
{
	char *down = noise(90000, 33);
	uint64_t to_backend, to_client;
	struct rig rig;

	clock_speed = 100;
	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	peer_say(&rig.client, "RETR 1\r\nQUIT\r\n");
	peer_send(&rig.backend, down, 90000);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.backend.fin_done);
	rig_run_ms(&rig, 45000 / 100);
	ck_assert_int_eq(rig.done, 0);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_lt(to_client, 90000);
	rig.client.deaf = false;
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	ck_heard(&rig.client, down, 90000);
	ck_ended(&rig.client);
	RUN_UNTIL(&rig, rig.done);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_eq(to_client, 90000);
	ck_assert_uint_eq(to_backend, strlen("RETR 1\r\nQUIT\r\n"));
	rig_close(&rig);
	free(down);
}
END_TEST

/* Neither what is held at the end, */
START_TEST(what_is_given_up_is_not_counted)
{
	char *down = noise(150000, 34);
	uint64_t to_backend, to_client;
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig.idle_ms = 200;
	rig_start(&rig);
	rig.client.deaf = true;
	peer_send(&rig.backend, down, 150000);
	RUN_UNTIL(&rig, rig.done);
	ck_assert_int_eq(rig.why, RELAY_IDLE);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_gt(to_client, 0);
	relay_free(&rig.relay);
	rig.client.deaf = false;
	RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
	/* OpenSSL may have finished the record that it had begun. */
	ck_assert_uint_ge(rig.client.in_len, to_client);
	ck_assert_uint_le(rig.client.in_len,
	    to_client + (CLIENT_TLS(_i) ? 16 * 1024 : 0));
	rig_close(&rig);
	free(down);
}
END_TEST

/* The login's answer is on its way before all else, and none of it. */
START_TEST(the_logins_answer_is_not_counted)
{
	uint64_t to_backend, to_client;
	struct rig rig;

	rig_open(&rig, _i);
	bufferevent_write(rig.client_bev, "+OK\r\n", 5);
	rig_start(&rig);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_eq(to_client, 0);
	peer_say(&rig.backend, "+OK 2\r\n");
	RUN_UNTIL(&rig, rig.client.in_len == 12);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_eq(to_client, 7);
	rig_close(&rig);

	rig_open(&rig, _i);
	peer_reset(&rig.client);
	usleep(10000);
	bufferevent_write(rig.client_bev, "+OK\r\n", 5);
	rig_start(&rig);
	peer_say(&rig.backend, "+OK 2\r\n");
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	relay_bytes(rig.relay, &to_backend, &to_client);
	ck_assert_uint_le(to_client, 7);
	rig_close(&rig);
}
END_TEST

/* nor what nobody is there to take. */
START_TEST(what_is_thrown_away_is_not_counted)
{
	char *down = noise(MB, 35);
	uint64_t to_backend, before, after;
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	peer_send(&rig.backend, down, MB);
	rig_run_ms(&rig, 50);
	relay_bytes(rig.relay, &to_backend, &before);
	ck_assert_uint_gt(before, 0);
	peer_reset(&rig.client);
	RUN_UNTIL(&rig, rig.backend.out_done == MB);
	rig_run_ms(&rig, 20);
	relay_bytes(rig.relay, &to_backend, &after);
	ck_assert_uint_ge(after, before);
	ck_assert_uint_le(after, before + 64 * 1024);
	rig_close(&rig);
	free(down);
}
END_TEST

START_TEST(a_reader_that_does_not_read_costs_little)
{
	size_t len = 8 * MB;
	char *data = noise(len, 17);
	struct rig rig;

	rig_open_buffer(&rig, _i, 64 * 1024);
	rig_start(&rig);
	rig.client.deaf = rig.backend.deaf = true;
	peer_send(&rig.client, data, len);
	peer_send(&rig.backend, data, len);
	rig_run_ms(&rig, 100);
	ck_assert_uint_lt(rig.client.out_done, MB);
	ck_assert_uint_lt(rig.backend.out_done, MB);
	ck_assert_uint_ge(rig.held_max, 64 * 1024);
	ck_assert_uint_le(rig.held_max, HELD_MAX);
	ck_assert_int_lt(rig_turns(&rig), 10);
	/* Not stuck. */
	rig.client.deaf = rig.backend.deaf = false;
	RUN_UNTIL(&rig, rig.client.in_len >= len && rig.backend.in_len >= len);
	ck_heard(&rig.client, data, len);
	ck_heard(&rig.backend, data, len);
	ck_assert_uint_le(rig.held_max, HELD_MAX);
	rig_close(&rig);
	free(data);
}
END_TEST

/* However small the pieces are in which it came. */
START_TEST(what_is_held_takes_little_more_memory_than_itself)
{
	char *down = noise(MB, 18);
	size_t before, sent = 0;
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	event_base_loop(rig.base, EVLOOP_NONBLOCK);
	before = mem_used;
	for (; rig.held_max < 64 * 1024; sent += 5000) {
		ck_assert_uint_lt(sent, MB);
		peer_send(&rig.backend, down + sent, 5000);
		RUN_UNTIL(&rig, rig.backend.out_done == 5000);
		rig_run_ms(&rig, 1);
	}
	ck_assert_uint_le(mem_used - before, rig.held_max + 96 * 1024);
	rig.client.deaf = false;
	RUN_UNTIL(&rig, rig.client.in_len >= sent);
	ck_heard(&rig.client, down, sent);
	rig_close(&rig);
	free(down);
}
END_TEST

/* A session in which everything is asked for; whether it got through. */
static bool
rig_live(struct rig *rig, const char *data, size_t len)
{
	uint64_t until = real_ms() + 500;

	rig->client.deaf = rig->backend.deaf = true;
	peer_send(&rig->client, data, len);
	peer_send(&rig->backend, data, len);
	for (int i = 0; i < 30; i++)
		rig_step(rig);
	rig->client.deaf = rig->backend.deaf = false;
	while (!rig->done && real_ms() < until) {
		rig_step(rig);
		if (rig->client.out_done == rig->client.out_len)
			rig->client.fin = true;
		if (rig->client.in_len == len && rig->backend.eof)
			rig->backend.fin = true;
	}
	return rig->done && rig->why == RELAY_CLIENT_CLOSED;
}

/* It may end early; what has come out is right as far as it goes. */
START_TEST(without_memory_a_session_ends)
{
	size_t len = 150000;
	char *data = noise(len, 27);
	unsigned long n = 0;
	bool all = false;
	int failed = 0;

	while (!all) {
		struct rig rig;

		rig_open_buffer(&rig, _i, 8 * 1024);
		mem_refuse = ++n;
		rig_try(&rig);
		if (rig.relay == NULL) {
			/* Both are ours still. */
			bufferevent_free(rig.client_bev);
			bufferevent_free(rig.backend_bev);
			failed++;
		} else if (!rig_live(&rig, data, len)) {
			ck_assert_uint_eq(mem_refuse, 0);
			failed++;
		}
		all = mem_refuse > 0;
		mem_refuse = 0;
		ck_heard_some(&rig.client, data, len);
		ck_heard_some(&rig.backend, data, len);
		rig_close(&rig);
	}
	ck_assert_int_gt(failed, 3);
	free(data);
}
END_TEST

START_TEST(a_silent_session_ends)
{
	uint64_t from;
	struct rig rig;

	rig_open(&rig, _i);
	rig.idle_ms = 150;
	rig.free_in_done = true;
	rig_start(&rig);
	/* Every byte begins it anew, in either direction. */
	for (int i = 0; i < 6; i++) {
		peer_say(i % 2 == 0 ? &rig.client : &rig.backend, "x");
		rig_run_ms(&rig, 50);
	}
	ck_assert_int_eq(rig.done, 0);
	from = real_ms();
	RUN_UNTIL(&rig, rig.done);
	ck_assert_uint_ge(real_ms() - from, 80);
	ck_assert_uint_lt(real_ms() - from, 5000);
	ck_assert_int_eq(rig.why, RELAY_IDLE);
	RUN_UNTIL(&rig, rig.client.eof && rig.backend.eof);
	ck_ended(&rig.client);
	ck_ended(&rig.backend);
	rig_close(&rig);
}
END_TEST

START_TEST(an_idle_session_holds_no_buffers)
{
	char *data = noise(MB, 18);
	struct evbuffer_iovec vec;
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	peer_send(&rig.backend, data, MB);
	RUN_UNTIL(&rig, rig.client.in_len >= MB);
	peer_say(&rig.client, "NOOP\r\n");
	RUN_UNTIL(&rig, rig.backend.in_len >= 6);
	rig_run_ms(&rig, 20);
	/* No chain, not even an empty one. */
	ck_assert_int_eq(evbuffer_peek(bufferevent_get_output(rig.client_bev),
			     1, NULL, &vec, 1),
	    0);
	ck_assert_int_eq(evbuffer_peek(bufferevent_get_output(rig.backend_bev),
			     1, NULL, &vec, 1),
	    0);
	ck_assert_int_lt(rig_turns(&rig), 10);
	rig_close(&rig);
	free(data);
}
END_TEST

/* done is the loop's, and once, whatever else happens; relay_free() is legal
 * at every stage. */
#define STAGES 12
#define STAGE_LEN 250000 /* more than all buffers hold */

static void
rig_stage(struct rig *rig, int stage, const char *data)
{
	if (stage == 0)
		return;
	peer_send(&rig->client, data, STAGE_LEN);
	peer_send(&rig->backend, data, STAGE_LEN);
	rig->client.deaf = rig->backend.deaf = stage >= 2;
	for (int i = 0; i < 20; i++)
		rig_step(rig);
	switch (stage) {
	case 3: /* a close waits behind what is held */
		rig->client.out_len = rig->client.out_done;
		rig->client.fin = true;
		break;
	case 4:
		rig->backend.out_len = rig->backend.out_done;
		rig->backend.fin = true;
		break;
	case 5:
		peer_reset(&rig->client);
		break;
	case 6:
		peer_reset(&rig->backend);
		break;
	case 7:
		peer_reset(&rig->client);
		peer_reset(&rig->backend);
		break;
	case 8: /* half closed, nothing held */
		rig->client.deaf = rig->backend.deaf = false;
		rig->client.fin = true;
		break;
	case 9:
		rig->client.deaf = rig->backend.deaf = false;
		rig->backend.fin = true;
		break;
	case 10:
		rig->client.fin = rig->backend.fin = true;
		rig->client.deaf = rig->backend.deaf = false;
		break;
	case 11: /* the peers go without a word */
		peer_close(&rig->client);
		peer_close(&rig->backend);
		break;
	}
}

START_TEST(free_is_legal_at_every_stage)
{
	char *data = noise(STAGE_LEN, 19);

	for (int stage = 0; stage < STAGES; stage++) {
		for (int steps = 0; steps < 40; steps += 1 + steps / 4) {
			struct rig rig;

			rig_open_buffer(&rig, _i, 16 * 1024);
			rig.free_in_done = steps % 2 == 0;
			rig_start(&rig);
			rig_stage(&rig, stage, data);
			for (int i = 0; i < steps; i++)
				rig_step(&rig);
			ck_assert_int_le(rig.done, 1);
			if (rig.done && !rig.free_in_done)
				ck_assert_ptr_nonnull(rig.relay);
			relay_free(&rig.relay);
			ck_assert_ptr_null(rig.relay);
			relay_free(&rig.relay);
			for (int i = 0; i < 3; i++)
				event_base_loop(rig.base, EVLOOP_NONBLOCK);
			ck_assert_int_le(rig.done, 1);
			rig_close(&rig);
		}
	}
	free(data);
}
END_TEST

/* A session that ends in one of five ways, with readers that pause whenever
 * they like. */
enum fate {
	CLIENT_CLOSES,
	BACKEND_CLOSES,
	CLIENT_RESETS,
	BACKEND_RESETS,
	OWNER_FREES,
	FATES
};

static unsigned
chance(unsigned *seed, unsigned n)
{
	return (unsigned)rand_r(seed) % n;
}

static void
rig_wander(struct rig *rig, unsigned *seed, int steps)
{
	while (steps-- > 0 && !rig->done) {
		if (chance(seed, 8) == 0)
			rig->client.deaf = !rig->client.deaf;
		if (chance(seed, 8) == 0)
			rig->backend.deaf = !rig->backend.deaf;
		rig->client.sip = 1 + chance(seed, 40000);
		rig->backend.sip = 1 + chance(seed, 40000);
		rig_step(rig);
	}
	rig->client.deaf = rig->backend.deaf = false;
}

static void
rig_meet(struct rig *rig, enum fate fate)
{
	switch (fate) {
	case CLIENT_CLOSES:
		rig->client.fin = true;
		break;
	case BACKEND_CLOSES:
		rig->backend.fin = true;
		break;
	case CLIENT_RESETS:
		peer_reset(&rig->client);
		break;
	case BACKEND_RESETS:
		peer_reset(&rig->backend);
		break;
	case OWNER_FREES:
	case FATES:
		relay_free(&rig->relay);
		break;
	}
}

static void
one_life(int legs, unsigned seed, const char *up, const char *down, size_t max)
{
	enum fate fate = (enum fate)chance(&seed, FATES);
	size_t up_len = chance(&seed, (unsigned)max);
	size_t down_len = chance(&seed, (unsigned)max);
	struct rig rig;

	rig_open_buffer(&rig, legs, chance(&seed, 2) ? 8 * 1024 : 0);
	rig.free_in_done = chance(&seed, 2);
	peer_send(&rig.client, up, up_len);
	peer_send(&rig.backend, down, down_len);
	rig_start(&rig);
	rig_wander(&rig, &seed, (int)chance(&seed, 100));
	rig_meet(&rig, fate);
	rig_wander(&rig, &seed, (int)chance(&seed, 100));
	if (fate == CLIENT_CLOSES) {
		RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
		ck_heard(&rig.backend, up, up_len);
		ck_ended(&rig.backend);
	}
	rig.backend.fin = true;
	if (fate != OWNER_FREES)
		RUN_UNTIL(&rig, rig.done);
	if (fate == CLIENT_CLOSES || fate == BACKEND_CLOSES) {
		RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
		ck_heard(&rig.client, down, down_len);
		ck_ended(&rig.client);
	}
	ck_heard_some(&rig.backend, up, up_len);
	ck_heard_some(&rig.client, down, down_len);
	ck_assert_uint_le(rig.held_max, HELD_MAX);
	ck_assert_int_le(rig.done, 1);
	rig_close(&rig);
}

/* Random lives are told by their seed: RELAY_SEED=N test_relay repeats one. */
static unsigned life_seed;
static bool life_failed;

static void
life_tell(void)
{
	if (life_failed)
		fprintf(stderr, "RELAY_SEED=%u\n", life_seed);
}

START_TEST(whatever_happens_nothing_is_lost_or_invented)
{
	size_t max = 600000;
	char *up = noise(max, 28), *down = noise(max, 29);
	const char *given = getenv("RELAY_SEED");
	unsigned first =
	    given != NULL ? (unsigned)atoi(given) : (unsigned)getpid() * 1000;

	atexit(life_tell);
	life_failed = true;
	for (unsigned i = 0; i < (given != NULL ? 1 : 100); i++) {
		life_seed = first + i;
		one_life(_i, life_seed, up, down, max);
	}
	life_failed = false;
	free(up);
	free(down);
}
END_TEST

START_TEST(done_is_called_once_and_not_by_start)
{
	struct rig rig;

	rig_open(&rig, _i);
	peer_reset(&rig.client);
	peer_reset(&rig.backend);
	usleep(10000);
	rig_start(&rig);
	RUN_UNTIL(&rig, rig.done);
	rig_run_ms(&rig, 50);
	ck_assert_int_eq(rig.done, 1);
	rig_close(&rig);
}
END_TEST

/* Records are as small as max_fragment_length says, what is held is not: each
 * chain of it takes many of them. The reader pauses, so that much is held. */
START_TEST(small_records_lose_nothing)
{
	size_t len = 400000;
	char *up = noise(len, 30), *down = noise(len, 31);

	for (int i = 0; i < 10; i++) {
		struct rig rig;

		tls_fragment = (uint8_t)(i / 2);
		tls_version = i % 2 == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
		rig_open_buffer(&rig, _i, 16 * 1024);
		rig_start(&rig);
		peer_send(&rig.client, up, len);
		peer_send(&rig.backend, down, len);
		for (unsigned turn = 0;
		     rig.client.in_len < len || rig.backend.in_len < len;
		     turn++) {
			rig.client.deaf = turn % 64 < 32;
			rig.backend.deaf = turn % 64 >= 32;
			rig.client.sip = rig.backend.sip = 3000;
			rig_step(&rig);
			ck_assert(!rig.client.failed && !rig.backend.failed);
			ck_assert_int_eq(rig.done, 0);
		}
		ck_heard(&rig.client, down, len);
		ck_heard(&rig.backend, up, len);
		ck_assert_uint_le(rig.held_max, HELD_MAX);
		rig_close(&rig);
	}
	free(up);
	free(down);
}
END_TEST

/* Requests for new keys while bulk is under way both ways. */
START_TEST(keys_may_change_at_any_time)
{
	size_t len = 2 * MB;
	char *up = noise(len, 20), *down = noise(len, 21);
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	for (size_t at = 0; at < len; at += len / 16) {
		if (rig.client.ssl != NULL)
			ck_assert_int_eq(SSL_key_update(rig.client.ssl,
					     SSL_KEY_UPDATE_REQUESTED),
			    1);
		if (rig.backend.ssl != NULL)
			ck_assert_int_eq(SSL_key_update(rig.backend.ssl,
					     SSL_KEY_UPDATE_REQUESTED),
			    1);
		peer_send(&rig.client, up + at, len / 16);
		peer_send(&rig.backend, down + at, len / 16);
		RUN_UNTIL(&rig,
		    rig.client.in_len >= at + len / 16 &&
			rig.backend.in_len >= at + len / 16);
	}
	ck_heard(&rig.client, down, len);
	ck_heard(&rig.backend, up, len);
	rig_close(&rig);
	free(up);
	free(down);
}
END_TEST

/* Each is as cheap to send as it is dear to receive. */
START_TEST(new_keys_and_nothing_else_end_the_session)
{
	struct peer *p;
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	p = _i == 1 ? &rig.client : &rig.backend;
	for (int n = 0; !rig.done && n < 1000; n++) {
		SSL_key_update(p->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
		SSL_do_handshake(p->ssl);
		rig_step(&rig);
		if (n == 200)
			ck_assert(!rig.client.eof && !rig.backend.eof);
		if (rig.client.eof || rig.backend.eof)
			rig.client.fin = rig.backend.fin = true;
	}
	RUN_UNTIL(&rig, rig.done);
	ck_assert_int_eq(rig.why, RELAY_FLOODED);
	rig_close(&rig);
}
END_TEST

/* Requests from one that does not read the answers: OpenSSL has to write before
 * it can read on, and there is no room. */
START_TEST(new_keys_for_a_deaf_client_cost_no_time)
{
	struct rig rig;
	int n = 0;

	rig_open_buffer(&rig, _i, 4 * 1024);
	rig_start(&rig);
	rig.client.deaf = true;
	for (; n < 20000 && rig.client.out_done == rig.client.out_len; n++) {
		ck_assert_int_eq(SSL_key_update(rig.client.ssl,
				     SSL_KEY_UPDATE_REQUESTED),
		    1);
		peer_say(&rig.client, "NOOP\r\n");
		rig_step(&rig);
		ck_assert(!rig.client.failed);
	}
	ck_assert_int_lt(n, 20000);
	ck_assert_int_lt(rig_turns(&rig), 10);
	rig.client.deaf = false;
	RUN_UNTIL(&rig, rig.backend.in_len == (size_t)n * 6);
	peer_say(&rig.backend, "+OK\r\n");
	RUN_UNTIL(&rig, rig.client.in_len == 5);
	rig_close(&rig);
}
END_TEST

/* The same while a record is half written: OpenSSL cannot answer before it has
 * finished that, and fails if it is given more to read. */
START_TEST(new_keys_while_output_waits_end_nothing)
{
	char *down = noise(300000, 32);
	struct peer *p, *other;
	struct rig rig;

	rig_open_buffer(&rig, _i, 16 * 1024);
	rig_start(&rig);
	p = _i == 1 ? &rig.client : &rig.backend;
	other = _i == 1 ? &rig.backend : &rig.client;
	p->deaf = true;
	peer_send(other, down, 300000);
	rig_run_ms(&rig, 50);
	ck_assert_uint_lt(other->out_done, 300000);
	for (int i = 0; i < 3; i++) {
		SSL_key_update(p->ssl, SSL_KEY_UPDATE_REQUESTED);
		peer_say(p, "NOOP\r\n");
		rig_run_ms(&rig, 5);
	}
	ck_assert_int_lt(rig_turns(&rig), 10);
	p->deaf = false;
	RUN_UNTIL(&rig, p->in_len == 300000 && other->in_len == 18);
	ck_heard(p, down, 300000);
	ck_heard_text(other, "NOOP\r\nNOOP\r\nNOOP\r\n");
	rig_close(&rig);
	free(down);
}
END_TEST

/* The kernel takes the last octet of the data and has no room for more. */
START_TEST(close_notify_waits_for_room)
{
	char *down = noise(400000, 23);
	struct rig rig;

	for (size_t len = 200000; len < 400000; len += 4999) {
		rig_open_buffer(&rig, _i, 16 * 1024);
		rig_start(&rig);
		rig.client.sip = 4096;
		peer_send(&rig.backend, down, len);
		rig.backend.fin = true;
		RUN_UNTIL(&rig, rig.client.eof || rig.client.failed);
		ck_heard(&rig.client, down, len);
		ck_ended(&rig.client);
		rig_close(&rig);
	}
	free(down);
}
END_TEST

START_TEST(rubbish_instead_of_tls_is_an_error)
{
	struct rig rig;

	rig_open(&rig, _i);
	rig_start(&rig);
	peer_say(&rig.client, "STAT\r\n");
	RUN_UNTIL(&rig, rig.backend.in_len == 6);
	ck_assert_int_eq(send(rig.client.fd, "QUIT\r\n", 6, 0), 6);
	RUN_UNTIL(&rig, rig.backend.eof || rig.backend.failed);
	ck_heard_text(&rig.backend, "STAT\r\n");
	ck_ended(&rig.backend);
	rig.backend.fin = true;
	RUN_UNTIL(&rig, rig.done);
	ck_assert_int_eq(rig.why, RELAY_CLIENT_ERROR);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	rig_close(&rig);
}
END_TEST

/* Slow closes. */

static void
linger_run(struct event_base *base, struct peer *p, uint64_t ms)
{
	uint64_t until = real_ms() + ms;

	while (real_ms() < until && !p->eof && !p->failed) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (!peer_pump(p))
			usleep(200);
	}
}

START_TEST(a_last_reply_outlives_unread_input)
{
	struct event_base *base = event_base_new();
	struct linger_set *set = linger_set_new(base);
	struct peer p = {.deaf = true};
	char *junk = noise(200000, 24);
	int fd;

	tcp_pair(&p.fd, &fd, 0);
	ck_assert_int_eq(send(p.fd, junk, 1000, 0), 1000);
	ck_assert_int_eq(send(fd, "-ERR\r\n", 6, 0), 6);
	linger_add(set, fd, NULL);
	peer_send(&p, junk, 200000);
	linger_run(base, &p, 50);
	ck_assert_uint_eq(p.out_done, 200000);
	p.deaf = false;
	linger_run(base, &p, 1000);
	ck_heard_text(&p, "-ERR\r\n");
	ck_assert(p.eof && !p.failed);
	/* It closes when we do. */
	close(p.fd);
	for (int i = 0; i < 100 && fcntl(fd, F_GETFD) != -1; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
	linger_set_free(&set);
	ck_assert_ptr_null(set);
	event_base_free(base);
	free(p.in);
	free(junk);
}
END_TEST

START_TEST(lingering_has_an_end)
{
	struct event_base *base = event_base_new();
	struct linger_set *set = linger_set_new(base);
	struct peer p = {.deaf = true};
	uint64_t from;
	char *junk = noise(4 * MB, 25);
	int fd;

	/* In time, trickling or not, */
	clock_speed = 10;
	tcp_pair(&p.fd, &fd, 0);
	linger_add(set, fd, NULL);
	from = real_ms();
	while (fcntl(fd, F_GETFD) != -1) {
		ck_assert_uint_lt(real_ms() - from, 2000);
		send(p.fd, "x", 1, 0);
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(5000);
	}
	ck_assert_uint_ge(real_ms() - from, 2000 / 10 - 1);
	close(p.fd);
	/* and in octets. */
	clock_speed = 1;
	tcp_pair(&p.fd, &fd, 0);
	linger_add(set, fd, NULL);
	peer_send(&p, junk, 4 * MB);
	from = real_ms();
	linger_run(base, &p, 1000);
	ck_assert(p.failed);
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
	ck_assert_uint_lt(real_ms() - from, 1000);
	close(p.fd);
	linger_set_free(&set);
	event_base_free(base);
	free(junk);
}
END_TEST

START_TEST(what_lingers_is_closed_with_its_set)
{
	struct event_base *base = event_base_new();
	struct linger_set *set = linger_set_new(base);
	int far[3], fd[3];

	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		tcp_pair(&far[i], &fd[i], 0);
		linger_add(set, fd[i], NULL);
	}
	event_base_loop(base, EVLOOP_NONBLOCK);
	linger_set_free(&set);
	linger_set_free(&set);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		ck_assert_int_eq(fcntl(fd[i], F_GETFD), -1);
		close(far[i]);
	}
	event_base_free(base);
}
END_TEST

static void
gone_cb(void *arg)
{
	++*(int *)arg;
}

/* It is a descriptor like any other, after the session as well. */
START_TEST(what_lingers_counts_until_it_is_closed)
{
	struct event_base *base = event_base_new();
	struct linger_set *set = linger_set_new(base);
	struct admission *a, *b;
	int far[2], fd[2], gone[2] = {0, 0};

	a = admission_new(gone_cb, &gone[0]);
	b = admission_new(gone_cb, &gone[1]);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		tcp_pair(&far[i], &fd[i], 0);
		linger_add(set, fd[i], i == 0 ? a : b);
	}
	admission_release(&a);
	admission_release(&b);
	ck_assert_ptr_null(a);
	event_base_loop(base, EVLOOP_NONBLOCK);
	ck_assert_int_eq(gone[0] + gone[1], 0);
	close(far[0]);
	for (int i = 0; i < 1000 && gone[0] == 0; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
	ck_assert_int_eq(gone[0], 1);
	ck_assert_int_eq(fcntl(fd[0], F_GETFD), -1);
	ck_assert_int_eq(gone[1], 0);
	linger_set_free(&set);
	ck_assert_int_eq(gone[1], 1);
	close(far[1]);
	event_base_free(base);
}
END_TEST

int
main(void)
{
	/* Four times: neither leg, the client's, the backend's, both TLS. */
	const TTest *const each[] = {
	    both_ways_byte_for_byte,
	    what_was_read_before_goes_first_and_once,
	    the_clients_commands_are_counted,
	    a_whole_session_may_have_been_pipelined,
	    a_client_that_has_closed_its_half_gets_its_answer,
	    an_end_without_close_notify_is_an_end,
	    a_backend_that_closes_ends_the_session_when_all_is_delivered,
	    a_late_command_does_not_destroy_the_last_answer,
	    what_is_held_for_a_half_closed_backend_is_delivered,
	    a_backend_that_resets_in_mid_message_adds_nothing,
	    the_last_words_of_a_backend_that_resets_are_delivered,
	    a_client_that_resets_is_still_heard_and_answered,
	    quit_is_heard_from_a_client_that_leaves_in_mid_message,
	    a_slow_backend_hears_all_from_a_client_that_is_gone,
	    nobody_waits_for_ever_for_an_answer_that_nobody_reads,
	    a_half_closed_session_ends_when_the_other_half_is_silent,
	    a_slow_reader_gets_all_of_a_last_message,
	    a_reader_that_stalls_gets_all_of_a_last_message,
	    what_is_given_up_is_not_counted,
	    the_logins_answer_is_not_counted,
	    what_is_thrown_away_is_not_counted,
	    a_reader_that_does_not_read_costs_little,
	    what_is_held_takes_little_more_memory_than_itself,
	    without_memory_a_session_ends,
	    a_silent_session_ends,
	    an_idle_session_holds_no_buffers,
	    free_is_legal_at_every_stage,
	    whatever_happens_nothing_is_lost_or_invented,
	    done_is_called_once_and_not_by_start,
	    keys_may_change_at_any_time,
	    small_records_lose_nothing,
	};
	/* One of the client's leg, one of either leg, and one of neither. */
	const TTest *const client[] = {
	    new_keys_for_a_deaf_client_cost_no_time,
	    close_notify_waits_for_room,
	    rubbish_instead_of_tls_is_an_error,
	};
	const TTest *const either[] = {
	    new_keys_and_nothing_else_end_the_session,
	    new_keys_while_output_waits_end_nothing,
	};
	const TTest *const lingers[] = {
	    a_last_reply_outlives_unread_input,
	    lingering_has_an_end,
	    what_lingers_is_closed_with_its_set,
	    what_lingers_counts_until_it_is_closed,
	};
	/* RELAY_LEGS=0 to 3: these legs alone, beside the others. */
	const char *only = getenv("RELAY_LEGS");
	int first = only != NULL ? atoi(only) : 0;
	int end = only != NULL ? first + 1 : 4;
	Suite *suite = suite_create("relay");
	TCase *legs = tcase_create("legs"), *tls = tcase_create("tls");
	TCase *slow = tcase_create("linger");

	tcase_add_checked_fixture(legs, setup, teardown);
	tcase_set_timeout(legs, 60);
	for (size_t i = 0; i < ARRAY_LEN(each); i++)
		tcase_add_loop_test(legs, each[i], first, end);
	suite_add_tcase(suite, legs);

	tcase_add_checked_fixture(tls, setup, teardown);
	tcase_set_timeout(tls, 60);
	for (int l = first; l < end; l++) {
		for (size_t i = 0; i < ARRAY_LEN(client) && CLIENT_TLS(l); i++)
			tcase_add_loop_test(tls, client[i], l, l + 1);
		for (size_t i = 0; i < ARRAY_LEN(either) && (l == 1 || l == 2);
		     i++)
			tcase_add_loop_test(tls, either[i], l, l + 1);
	}
	suite_add_tcase(suite, tls);

	tcase_add_checked_fixture(slow, setup, teardown);
	for (size_t i = 0; i < ARRAY_LEN(lingers) && first == 0; i++)
		tcase_add_test(slow, lingers[i]);
	suite_add_tcase(suite, slow);

	return run(suite);
}
