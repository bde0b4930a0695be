/* blocking.c: see blocking.h.
 *
 * Closing a connection sets ended and shuts its socket down, so that the
 * thread's read returns at once. A thread that resolves a name, connects or
 * waits for a disk has no such socket: it ends by the library's own timeout,
 * and counts against max_threads until then. */

#include "blocking.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#define BLOCKING_STACK (256 * 1024)
#define BLOCKING_LEFT_ALONE_MAX 4 /* threads beyond the pool's connections */

static struct blocking *blocking_new(const struct blocking_kind *kind,
    struct blocking_settings *settings);
static bool blocking_start(struct blocking *b);
static void blocking_free(struct blocking *b);
static void *blocking_main(void *arg);
static void blocking_post(struct blocking *b, const struct blocking_answer *a);
static bool blocking_wait(struct blocking *b, struct blocking_request *rq);
static void blocking_event_cb(evutil_socket_t fd, short what, void *arg);

void
blocking_settings_init(struct blocking_settings *s, size_t max_conns,
    void (*free)(struct blocking_settings *s))
{
	s->refs = 1;
	s->threads = 0;
	s->max_threads = (unsigned)max_conns + BLOCKING_LEFT_ALONE_MAX;
	s->free = free;
}

void
blocking_settings_unref(struct blocking_settings *s)
{
	if (s != NULL && atomic_fetch_sub(&s->refs, 1) == 1)
		s->free(s);
}

/* On the worker */

bool
blocking_open(struct store_conn *c, const struct blocking_kind *kind,
    struct blocking_settings *settings, struct err *err)
{
	struct blocking_conn *bc = (struct blocking_conn *)(void *)c;
	struct blocking *b;

	if (atomic_load(&settings->threads) >= settings->max_threads) {
		err_set(err, "earlier connections still hang");
		return false;
	}
	b = blocking_new(kind, settings);
	if (b != NULL)
		bc->ev = event_new(store_conn_base(c), b->fd,
		    EV_READ | EV_PERSIST, blocking_event_cb, bc);
	if (b == NULL || bc->ev == NULL || event_add(bc->ev, NULL) == -1 ||
	    !blocking_start(b)) {
		err_set(err,
		    "no thread for it: out of memory, threads or descriptors");
		if (bc->ev != NULL)
			event_free(bc->ev);
		bc->ev = NULL;
		if (b != NULL)
			blocking_free(b);
		return false;
	}
	bc->b = b;
	return true;
}

static struct blocking *
blocking_new(const struct blocking_kind *kind,
    struct blocking_settings *settings)
{
	struct blocking *b = calloc(1, kind->size);

	if (b == NULL)
		return NULL;
	b->kind = kind;
	b->settings = settings;
	atomic_fetch_add(&settings->refs, 1);
	atomic_fetch_add(&settings->threads, 1);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->wake, NULL);
	b->socket = -1;
	b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->fd != -1)
		return b;
	blocking_free(b);
	return NULL;
}

static bool
blocking_start(struct blocking *b)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int error;

	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, BLOCKING_STACK);
	error = pthread_create(&thread, &attr, blocking_main, b);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return error == 0;
}

static void
blocking_free(struct blocking *b)
{
	struct blocking_settings *settings = b->settings;

	if (b->socket != -1)
		close(b->socket);
	if (b->fd != -1)
		close(b->fd);
	pthread_cond_destroy(&b->wake);
	pthread_mutex_destroy(&b->lock);
	free(b);
	atomic_fetch_sub(&settings->threads, 1);
	blocking_settings_unref(settings);
}

void
blocking_ask(struct store_conn *c, const struct store_call *call)
{
	struct blocking *b = ((struct blocking_conn *)(void *)c)->b;
	struct blocking_request *rq = &b->request;

	pthread_mutex_lock(&b->lock);
	rq->verb = call->verb;
	snprintf(rq->key, sizeof(rq->key), "%s", call->key);
	snprintf(rq->destination, sizeof(rq->destination), "%s",
	    call->destination != NULL ? call->destination : "");
	b->asked = true;
	pthread_cond_signal(&b->wake);
	pthread_mutex_unlock(&b->lock);
}

static void
blocking_event_cb(evutil_socket_t fd, short what UNUSED, void *arg)
{
	struct blocking_conn *bc = arg;
	struct blocking_answer a;
	uint64_t n;

	if (read(fd, &n, sizeof(n)) == -1)
		return;
	pthread_mutex_lock(&bc->b->lock);
	a = bc->b->answer;
	pthread_mutex_unlock(&bc->b->lock);
	if (a.lost)
		store_conn_lost(&bc->c, a.text);
	else if (!bc->c.ready)
		store_conn_ready(&bc->c);
	else
		store_conn_answer(&bc->c, a.result, a.text);
}

/* From here on the thread owns it alone. */
void
blocking_close(struct store_conn *c)
{
	struct blocking_conn *bc = (struct blocking_conn *)(void *)c;
	struct blocking *b = bc->b;

	if (b == NULL)
		return;
	event_free(bc->ev);
	pthread_mutex_lock(&b->lock);
	b->ended = true;
	if (b->socket != -1)
		shutdown(b->socket, SHUT_RDWR);
	pthread_cond_signal(&b->wake);
	pthread_mutex_unlock(&b->lock);
}

/* On the thread */

static void *
blocking_main(void *arg)
{
	struct blocking *b = arg;
	struct blocking_request rq;
	struct blocking_answer a = {.lost = false};

	pthread_setname_np(pthread_self(), "store");
	b->kind->connect(b, &a);
	blocking_post(b, &a);
	while (blocking_wait(b, &rq)) {
		b->kind->ask(b, &rq, &a);
		blocking_post(b, &a);
	}
	b->kind->disconnect(b);
	blocking_free(b);
	return NULL;
}

static void
blocking_post(struct blocking *b, const struct blocking_answer *a)
{
	uint64_t one = 1;

	pthread_mutex_lock(&b->lock);
	b->answer = *a;
	pthread_mutex_unlock(&b->lock);
	/* Cannot fail: the eventfd is read before it is written again. */
	if (write(b->fd, &one, sizeof(one)) == -1)
		abort();
}

/* Returns false if no more requests come. */
static bool
blocking_wait(struct blocking *b, struct blocking_request *rq)
{
	bool asked;

	pthread_mutex_lock(&b->lock);
	while (!b->asked && !b->ended)
		pthread_cond_wait(&b->wake, &b->lock);
	asked = !b->ended;
	if (asked)
		*rq = b->request;
	b->asked = false;
	pthread_mutex_unlock(&b->lock);
	return asked;
}

bool
blocking_is_over(struct blocking *b)
{
	return atomic_load(&b->ended);
}

void
blocking_uses_socket(struct blocking *b, int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	pthread_mutex_lock(&b->lock);
	b->socket = copy;
	if (b->ended && copy != -1)
		shutdown(copy, SHUT_RDWR);
	pthread_mutex_unlock(&b->lock);
}

void
blocking_answer(struct blocking_answer *out, enum store_result result,
    const char *text)
{
	out->lost = false;
	out->result = result;
	snprintf(out->text, sizeof(out->text), "%s", text);
}

void
blocking_lost(struct blocking_answer *out, const char *reason)
{
	blocking_answer(out, STORE_FAILED, reason);
	out->lost = true;
}
