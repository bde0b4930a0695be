/* pool.c: see pool.h.
 *
 * It has two lists: connections, and waiting requests. Every change of a list
 * ends in pool_feed(), which matches them. */

#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <utlist.h>

#include "platform/clock.h"
#include "platform/log.h"
#include "health.h"

#define POOL_CROWDED_MS 5000 /* the server's limit may be raised, or reached */

struct store_pool {
	const struct store_conn_kind *kind;
	struct store *st;
	struct event_base *base;
	size_t max, n_conns;
	uint64_t connect_ms;
	struct store_conn *conns;
	struct store_call *waiting;
	size_t n_waiting;
	uint64_t answered; /* when anything was, last */
	struct store_health health; /* paused: no connection is opened */
	uint64_t crowded; /* until then no further one is opened */
	bool feeding;
	struct store_call *calling; /* being handed in; NULL once it is done */
};

static void pool_feed(struct store_pool *pool);
static struct store_conn *pool_idle(struct store_pool *pool);
static bool pool_opening(const struct store_pool *pool);
static void pool_open(struct store_pool *pool);
static void pool_no_more(struct store_pool *pool, const char *reason);
static void pool_unqueue(struct store_call *call);
static void pool_fail_waiting(struct store_pool *pool);
static void pool_close(struct store_conn *c);
static void pool_close_idle(struct store_pool *pool);
static void pool_done(struct store_call *call, enum store_result result,
    const char *text);
static void pool_deadline_cb(evutil_socket_t fd, short what, void *arg);

struct store_pool *
store_pool_new(const struct store_conn_kind *kind, struct store *st,
    struct event_base *base, size_t max, uint64_t connect_ms)
{
	struct store_pool *pool = calloc(1, sizeof(*pool));

	if (pool == NULL)
		return NULL;
	pool->kind = kind;
	pool->st = st;
	pool->base = base;
	pool->max = max;
	pool->connect_ms = connect_ms;
	pool->health.name = kind->name;
	return pool;
}

void
store_pool_free(struct store_pool **poolp)
{
	struct store_pool *pool = *poolp;
	struct store_call *call, *next;

	if (pool == NULL)
		return;
	*poolp = NULL;
	while (pool->conns != NULL) {
		free(pool->conns->call);
		pool_close(pool->conns);
	}
	DL_FOREACH_SAFE (pool->waiting, call, next)
		free(call);
	free(pool);
}

struct store *
store_conn_store(const struct store_conn *c)
{
	return c->pool->st;
}

struct event_base *
store_conn_base(const struct store_conn *c)
{
	return c->pool->base;
}

struct store_call *
store_pool_call(struct store_pool *pool, const struct store_request *rq)
{
	size_t key = strlen(rq->key) + 1;
	size_t name = rq->verb == STORE_SET ? strlen(rq->destination) + 1 : 0;
	struct store_call *call, *outer = pool->calling;

	if (!store_health_may_ask(&pool->health, pool->connect_ms))
		return store_fail(rq, pool->health.reason);
	if (pool->n_waiting >= STORE_WAITING_MAX)
		return store_fail(rq, STORE_TOO_MANY);
	call = calloc(1, sizeof(*call) + key + name);
	if (call == NULL)
		return store_fail(rq, "out of memory");
	call->pool = pool;
	call->verb = rq->verb;
	call->done = rq->done;
	call->arg = rq->arg;
	memcpy(call->key, rq->key, key);
	if (name > 0) {
		memcpy(call->key + key, rq->destination, name);
		call->destination = call->key + key;
	}
	DL_APPEND(pool->waiting, call);
	pool->n_waiting++;
	pool->calling = call;
	pool_feed(pool);
	call = pool->calling;
	pool->calling = outer;
	return call;
}

/* Closes the connection of a request that took too long: it hangs, or its work
 * is not needed. */
void
store_pool_cancel(struct store_call *call)
{
	struct store_pool *pool = call->pool;
	struct store_conn *c = call->conn;

	if (c == NULL) {
		pool_unqueue(call);
		free(call);
		return;
	}
	c->call = NULL;
	pool_close(c);
	/* If no other request got an answer meanwhile, the store hangs. */
	if (pool->answered < call->asked)
		store_health_failed(&pool->health, "it does not answer");
	free(call);
	pool_feed(pool);
}

/* Gives requests to free connections, and opens connections for the rest. */
static void
pool_feed(struct store_pool *pool)
{
	struct store_conn *c;
	struct store_call *call;

	if (pool->feeding)
		return;
	pool->feeding = true;
	while (pool->waiting != NULL) {
		c = pool_idle(pool);
		if (c == NULL && !pool_opening(pool))
			pool_open(pool);
		if (c == NULL)
			break;
		call = pool->waiting;
		pool_unqueue(call);
		call->conn = c;
		call->asked = clock_ms();
		c->call = call;
		pool->kind->ask(c, call);
	}
	if (pool->n_conns == 0)
		pool_fail_waiting(pool);
	pool->feeding = false;
}

static struct store_conn *
pool_idle(struct store_pool *pool)
{
	struct store_conn *c;

	DL_FOREACH (pool->conns, c)
		if (c->ready && c->call == NULL)
			return c;
	return NULL;
}

/* Opens one connection at a time, to spare a store that has just come back. */
static bool
pool_opening(const struct store_pool *pool)
{
	const struct store_conn *c;

	DL_FOREACH (pool->conns, c)
		if (!c->ready)
			return true;
	return false;
}

static void
pool_open(struct store_pool *pool)
{
	struct timeval tv = clock_timeval(pool->connect_ms);
	struct store_conn *c;
	struct err err = {"out of memory"};

	if (pool->n_conns >= pool->max ||
	    (pool->n_conns > 0 && clock_ms() < pool->crowded) ||
	    store_health_is_paused(&pool->health) || pool_opening(pool))
		return;
	c = calloc(1, pool->kind->size);
	if (c == NULL) {
		pool_no_more(pool, err.text);
		return;
	}
	c->pool = pool;
	DL_APPEND(pool->conns, c);
	pool->n_conns++;
	c->deadline = evtimer_new(pool->base, pool_deadline_cb, c);
	if (c->deadline == NULL || evtimer_add(c->deadline, &tv) == -1 ||
	    !pool->kind->open(c, &err)) {
		pool_close(c);
		pool_no_more(pool, err.text);
	}
}

/* A connection could not be opened. While others work this is the server's
 * limit and not a failure of the store: the requests wait for the others. */
static void
pool_no_more(struct store_pool *pool, const char *reason)
{
	const struct store_conn *c;
	struct log_line l;

	DL_FOREACH (pool->conns, c)
		if (c->ready)
			break;
	if (c == NULL) {
		store_health_failed(&pool->health, reason);
		return;
	}
	pool->crowded = clock_ms() + POOL_CROWDED_MS;
	log_begin(&l, LOG_WARNING, "the store takes no more connections");
	log_cstr(&l, "store", pool->kind->name);
	log_uint(&l, "connections", pool->n_conns);
	log_cstr(&l, "reason", reason);
	log_end(&l);
}

static void
pool_deadline_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	store_conn_lost(arg, "no connection in time");
}

void
store_conn_ready(struct store_conn *c)
{
	c->ready = true;
	evtimer_del(c->deadline);
	pool_feed(c->pool);
}

void
store_conn_answer(struct store_conn *c, enum store_result result,
    const char *text)
{
	struct store_pool *pool = c->pool;
	struct store_call *call = c->call;

	store_health_well(&pool->health);
	pool->answered = clock_ms();
	c->proven = true;
	c->call = NULL;
	if (call != NULL)
		pool_done(call, result, text);
	pool_feed(pool);
}

void
store_conn_lost(struct store_conn *c, const char *reason)
{
	struct store_pool *pool = c->pool;
	struct store_call *call = c->call;
	bool retry = call != NULL && !call->again;
	bool proven = c->proven, ready = c->ready;
	char why[256];

	/* The text may lie in the connection. */
	snprintf(why, sizeof(why), "%s", reason);
	c->call = NULL;
	pool_close(c);
	if (proven)
		pool_close_idle(pool);
	if (!ready)
		pool_no_more(pool, why);
	else if (!proven && call != NULL && !retry)
		store_health_failed(&pool->health, why);
	if (retry) {
		call->again = true;
		call->conn = NULL;
		DL_PREPEND(pool->waiting, call);
		pool->n_waiting++;
	} else if (call != NULL) {
		pool_done(call, STORE_FAILED, why);
	}
	pool_feed(pool);
}

static void
pool_unqueue(struct store_call *call)
{
	DL_DELETE(call->pool->waiting, call);
	call->pool->n_waiting--;
}

static void
pool_fail_waiting(struct store_pool *pool)
{
	struct store_call *call;

	while ((call = pool->waiting) != NULL) {
		pool_unqueue(call);
		pool_done(call, STORE_FAILED, pool->health.reason);
	}
}

static void
pool_close(struct store_conn *c)
{
	struct store_pool *pool = c->pool;

	pool->kind->close(c);
	if (c->deadline != NULL)
		event_free(c->deadline);
	DL_DELETE(pool->conns, c);
	pool->n_conns--;
	free(c);
}

/* Closes the other idle connections, which may be dead for the same reason, so
 * that the second attempt does not use another dead one. */
static void
pool_close_idle(struct store_pool *pool)
{
	struct store_conn *c, *next;

	DL_FOREACH_SAFE (pool->conns, c, next)
		if (c->ready && c->call == NULL)
			pool_close(c);
}

static void
pool_done(struct store_call *call, enum store_result result, const char *text)
{
	store_done *done = call->done;
	void *arg = call->arg;

	if (call->pool->calling == call)
		call->pool->calling = NULL;
	free(call);
	done(arg, result, text);
}
