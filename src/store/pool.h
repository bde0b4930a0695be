/* pool.h: connections that carry one request at a time (SQL), and the requests
 * that wait for one.
 *
 * A kind's connection begins with a struct store_conn. The pool opens a
 * connection when a request finds none free, up to its share, and keeps it. If
 * a connection dies during a request (a restart, an idle timeout), the pool
 * repeats the request once. While nothing answers, it fails requests at once
 * instead of letting each of them wait (health.h). */

#ifndef STORE_POOL_H
#define STORE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/identifier.h"
#include "store/store.h"

struct event;
struct store_pool;

struct store_call {
	struct store_call *next, *prev; /* the pool's waiting ones */
	struct store_pool *pool;
	struct store_conn *conn; /* that carries it; NULL: waits */
	enum store_verb verb;
	bool again; /* its first connection died under it */
	uint64_t asked; /* when a connection took it */
	store_done *done;
	void *arg;
	const char *destination; /* SET; behind key */
	char key[]; /* terminated */
};

struct store_conn {
	struct store_conn *next, *prev; /* the pool's */
	struct store_pool *pool;
	struct store_call *call; /* that it carries */
	struct event *deadline; /* to get ready by */
	bool ready;
	bool proven; /* has answered something */
};

struct store_conn_kind {
	const char *name; /* for logs: "PostgreSQL" */
	size_t size; /* of its connection */
	/* Starts a connection, and later calls store_conn_ready() or
	 * store_conn_lost() from the loop. Returns false if err says why not;
	 * close() is then called. */
	bool (*open)(struct store_conn *c, struct err *err);
	/* Calls store_conn_answer() or store_conn_lost(), at once or later. */
	void (*ask)(struct store_conn *c, const struct store_call *call);
	/* Frees everything that open() and ask() made, but not c itself. */
	void (*close)(struct store_conn *c);
};

/* st: for the kind, from store_conn_store(). connect_ms: the time in which a
 * connection must be ready. */
struct store_pool *store_pool_new(const struct store_conn_kind *kind,
    struct store *st, struct event_base *base, size_t max, uint64_t connect_ms);
/* Requests in flight get no answer. */
void store_pool_free(struct store_pool **pool);

/* A store_kind's call() and cancel(). */
struct store_call *store_pool_call(struct store_pool *pool,
    const struct store_request *rq);
void store_pool_cancel(struct store_call *call);

struct store *store_conn_store(const struct store_conn *c);
struct event_base *store_conn_base(const struct store_conn *c);

/* For a kind's callbacks. After answer() the connection may already carry the
 * next request; after lost() it is freed. text and reason may lie in the
 * connection. */
void store_conn_ready(struct store_conn *c);
void store_conn_answer(struct store_conn *c, enum store_result result,
    const char *text);
void store_conn_lost(struct store_conn *c, const char *reason);

#endif
