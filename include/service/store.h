/* store.h: where routes come from: one small table of functions per kind.
 *
 * A store answers one key at a time: a whole identifier, or "@domain"; which
 * keys are asked, in which order, and what is remembered is route.c's. A store
 * object belongs to one worker; calls and answers stay on its thread. */

#ifndef SERVICE_STORE_H
#define SERVICE_STORE_H

#include <stdbool.h>

#include "platform/config.h"
#include "platform/err.h"
#include "platform/util.h"

struct event_base;
struct store;
struct store_lookup;
struct store_table;

enum store_result {
	STORE_FOUND,
	STORE_UNKNOWN, /* the store is well and does not have the key */
	STORE_FAILED /* it could not say */
};

/* destination: the name that was found, terminated, valid during the call. */
typedef void store_done(void *arg, enum store_result result,
    const char *destination);

struct store_kind {
	const char *name;
	/* Answers from memory, at once and during lookup(): neither a cache
	 * in front of it nor a timeout could help. */
	bool local;
	/* Main thread; must not touch base before the first lookup. */
	struct store *(*open)(const struct config *cfg,
	    const struct store_table *table, struct event_base *base,
	    struct err *err);
	void (*close)(struct store *st);
	/* Calls done exactly once, now or later, unless cancelled. The handle
	 * is valid until then; NULL: done has been called already. */
	struct store_lookup *(*lookup)(struct store *st, const char *key,
	    store_done *done, void *arg);
	void (*cancel)(struct store_lookup *lookup);
};

extern const struct store_kind store_file;

/* The kind for a mapping source; NULL: not built in. */
const struct store_kind *store_kind_find(enum mapping_source source);

#endif
