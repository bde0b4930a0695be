/* store.h: the stores of routes: one small table of functions per kind.
 *
 * A store answers one key at a time: a whole identifier, or "@domain". route.c
 * decides which keys are asked in which order, and what is cached. A store
 * object belongs to one worker: calls and answers stay on its thread, and no
 * call blocks. */

#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "platform/err.h"
#include "platform/util.h"

struct event_base;
struct resolver;
struct store;
struct store_call;
struct store_table;

enum store_result {
	STORE_FOUND, /* or: written */
	STORE_UNKNOWN, /* the store works and does not have the key */
	STORE_FAILED /* the store could not answer or write */
};

/* text is valid during the call. If FOUND (of a read), it is the destination's
 * name. If FAILED, it says why in a few words, which may quote the store. */
typedef void store_done(void *arg, enum store_result result, const char *text);

enum store_verb { STORE_GET, STORE_SET, STORE_DELETE };

struct store_request {
	enum store_verb verb;
	const char *key; /* at most IDENTIFIER_MAX octets */
	const char *destination; /* of a SET */
	store_done *done;
	void *arg;
};

/* Somebody changed key in the store. NULL: anything may have changed, for all
 * that is known. */
typedef void store_changed(void *arg, const char *key);

struct store_spec {
	const struct config *cfg;
	const struct store_table *table; /* the mapping file's */
	struct event_base *base;
	struct resolver *resolver;
	size_t n_workers; /* that share the configured pool_size */
};

#define STORE_SCHEMES_MAX 4

struct store_kind {
	const char *name; /* for people: "PostgreSQL" */
	enum mapping_source source;
	/* How its URL may begin; the last one is NULL. None: it has no URL. */
	const char *schemes[STORE_SCHEMES_MAX];
	/* The key that says where the store is, and its text's place in struct
	 * config_mapping. */
	const char *key;
	size_t value;
	/* Answers from memory, at once and during call(): neither a cache in
	 * front of it nor a timeout could help. */
	bool local;
	/* Reports what can be known without asking the store: its URL, its
	 * queries, its file. NULL: nothing. */
	void (*check)(const struct config *cfg,
	    struct config_problems *problems);
	/* Writes in one line where the routes are. NULL: the URL tells. */
	void (*describe)(const struct config *cfg,
	    const struct store_table *table, char *buf, size_t size);
	/* Main thread; must not touch base before the first call. spec's parts
	 * are borrowed for the store's life. */
	struct store *(*open)(const struct store_spec *spec, struct err *err);
	void (*close)(struct store *st);
	/* Calls done exactly once, now or later, unless cancelled. The handle
	 * is valid until then. Returns NULL if done has been called already. A
	 * store that cannot be written answers FAILED. */
	struct store_call *(*call)(struct store *st,
	    const struct store_request *rq);
	/* Cancels a call, also one that took too long. */
	void (*cancel)(struct store_call *call);
	/* Reports changes from the loop, until close(). NULL: it cannot. */
	void (*watch)(struct store *st, store_changed *changed, void *arg);
};

extern const struct store_kind store_file;
extern const struct store_kind store_redis;
extern const struct store_kind store_postgres;
extern const struct store_kind store_mysql;
extern const struct store_kind store_sqlite;
extern const struct store_kind store_http;

/* Returns the kind that the configuration names, or NULL if it is not built
 * in. */
const struct store_kind *store_kind_find(const struct config_mapping *mapping);

/* Reports what is wrong with the store that cfg asks for. */
void store_check(const struct config *cfg, struct config_problems *problems);

/* Writes in one line where the routes are, without a password: a URL, or a
 * file and the number of its entries. The kind must be built in. */
#define STORE_DESCRIPTION_MAX 8192
void store_describe(const struct config *cfg, const struct store_table *table,
    char *buf, size_t size);

/* Calls done with FAILED and text. Always returns NULL, for "return
 * store_fail(...)" in a call(). */
struct store_call *store_fail(const struct store_request *rq, const char *text);

/* Returns true for a name or an address of this host. */
bool store_is_loopback(const char *host);

/* For a check(): warns that the server at the key's URL need not prove who it
 * is. cure: "rediss://". */
void store_warn_unverified(const struct config *cfg,
    struct config_problems *problems, const char *key, const char *cure);

/* For a check() of an SQL store: reports what is wrong with its queries. mark:
 * stands for the first parameter. Returns true if nothing is. */
bool store_sql_check(const struct config *cfg, const char *mark,
    struct config_problems *problems);

/* Questions of one worker that wait for an answer; a store so far behind is of
 * no use, and the next one fails at once. */
#define STORE_WAITING_MAX 4096
#define STORE_TOO_MANY "too many questions wait for an answer"

/* Connections that each worker may have: its part of pool_size. */
size_t store_share(unsigned pool_size, size_t n_workers);

#endif
