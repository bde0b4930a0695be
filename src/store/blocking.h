/* blocking.h: connections of a pool whose library blocks (libmariadb, SQLite).
 *
 * Each connection has a thread. The worker gives it one request at a time and
 * gets the answer by an eventfd; it never waits for the thread. The thread
 * frees a closed connection when the library has returned. The number of a
 * store's threads is bounded, including those of closed connections. */

#ifndef STORE_BLOCKING_H
#define STORE_BLOCKING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "pool.h"
#include "store/store.h"

#define BLOCKING_TEXT_MAX 256 /* octets of a destination's name or a reason */

/* The settings that a store's threads read; the first member of the kind's own
 * struct. The store and each thread have a reference; the last one calls
 * free(). */
struct blocking_settings {
	atomic_uint refs;
	atomic_uint threads;
	unsigned max_threads;
	void (*free)(struct blocking_settings *s);
};

struct blocking_request {
	enum store_verb verb;
	char key[IDENTIFIER_MAX + 1];
	char destination[BLOCKING_TEXT_MAX + 1]; /* of a SET */
};

/* The result of connect() is lost, or ready (everything else). */
struct blocking_answer {
	bool lost; /* the connection is lost; text says why */
	enum store_result result;
	char text[BLOCKING_TEXT_MAX + 1];
};

/* One connection; the first member of the kind's own struct. */
struct blocking {
	const struct blocking_kind *kind;
	struct blocking_settings *settings;
	pthread_mutex_t lock; /* over all that follows */
	pthread_cond_t wake;
	int fd; /* the eventfd: an answer is there */
	int socket; /* the thread's, duplicated; -1: none */
	atomic_bool ended; /* nobody waits for an answer */
	bool asked;
	struct blocking_request request;
	struct blocking_answer answer;
};

/* All of it runs on the connection's thread and may block. */
struct blocking_kind {
	size_t size; /* of its connection */
	void (*connect)(struct blocking *b, struct blocking_answer *out);
	void (*ask)(struct blocking *b, const struct blocking_request *rq,
	    struct blocking_answer *out);
	/* Also after a connect() that has failed. */
	void (*disconnect)(struct blocking *b);
};

/* A struct store_conn of the pool. */
struct blocking_conn {
	struct store_conn c; /* first */
	struct blocking *b;
	struct event *ev;
};

/* For one store: max_conns is its pool's. */
void blocking_settings_init(struct blocking_settings *s, size_t max_conns,
    void (*free)(struct blocking_settings *s));
void blocking_settings_unref(struct blocking_settings *s);

/* For a struct store_conn_kind; its open() calls blocking_open(). */
bool blocking_open(struct store_conn *c, const struct blocking_kind *kind,
    struct blocking_settings *settings, struct err *err);
void blocking_ask(struct store_conn *c, const struct store_call *call);
void blocking_close(struct store_conn *c);

/* On the thread: returns true if the connection has been closed. */
bool blocking_is_over(struct blocking *b);
/* On the thread: makes reads from fd end when the connection is closed. */
void blocking_uses_socket(struct blocking *b, int fd);
/* Both write text to out, cut to its size. */
void blocking_answer(struct blocking_answer *out, enum store_result result,
    const char *text);
void blocking_lost(struct blocking_answer *out, const char *reason);

#endif
