/* route.h: finds the destination of an identifier. It tries the identifier,
 * then "@domain", each in the cache and then in the store, and falls back to
 * the default destination. */

#ifndef SERVICE_ROUTE_H
#define SERVICE_ROUTE_H

#include <stdbool.h>

#include "config/config.h"
#include "platform/err.h"
#include "proto/identifier.h"

struct cache;
struct event_base;
struct mailbox;
struct resolver;
struct router; /* one worker's */
struct route_change;
struct route_lookup;
struct store_table;

enum route_status {
	ROUTE_FOUND, /* the store has the identifier or its domain */
	ROUTE_DEFAULT, /* it has neither, or there is no identifier */
	ROUTE_FAILED /* the store failed, and there is no answer */
};

/* Why a login goes where it goes: for logs. */
enum route_reason {
	ROUTE_BY_IDENTIFIER,
	ROUTE_BY_DOMAIN,
	ROUTE_BY_DEFAULT, /* the store knows neither */
	ROUTE_BY_STALE, /* the store failed: by an old answer of either */
	ROUTE_BY_ERROR, /* the store failed: nowhere, or by on_store_error */
	ROUTE_REASONS
};

struct route_answer {
	enum route_status status;
	enum route_reason reason;
	int destination; /* an index into the configuration's; FAILED: -1 */
	/* The store failed: it names a destination that is not declared. */
	bool undeclared;
	/* The key that the store has, the identifier or its "@domain"; or the
	 * key that the store failed for, also if the default serves. NULL: the
	 * store has neither. Valid during the call. */
	const char *key;
};

typedef void route_done(void *arg, const struct route_answer *answer);

struct router_spec {
	const struct config *cfg;
	const struct store_table *table; /* the mapping file's */
	struct cache *cache; /* shared by all workers */
	struct event_base *base;
	struct mailbox *mailbox;
	struct resolver *resolver;
	size_t n_workers; /* that share mapping.*.pool_size */
};

/* Makes a router; call on the main thread. It touches neither base nor mailbox
 * before the first lookup. Returns NULL if err says why not. */
struct router *router_new(const struct router_spec *spec, struct err *err);

/* Makes the router listen for changes in the store and forget the changed keys.
 * Call on its thread, once for each cache. */
void router_watch(struct router *router);

/* Call on the worker's thread, without lookups or changes in flight. */
void router_free(struct router **router);

/* Makes the key from the name that a client sent, by the rules of routing and
 * mapping. out: as for identifier_make(). */
enum identifier_status route_key(const struct config *cfg, const char *name,
    size_t len, char *out) MUST_CHECK;

/* Looks up key, which route_key() has made, or "" for none. Calls done exactly
 * once unless cancelled. If the answer is at hand, calls done at once and
 * returns NULL. */
struct route_lookup *route_lookup(struct router *router, const char *key,
    route_done *done, void *arg);

/* "identifier", "domain", "default", "stale", "error". */
const char *route_reason_name(enum route_reason reason);

/* Clears *lookup; done will not be called. NULL is allowed. */
void route_lookup_cancel(struct route_lookup **lookup);

/* reason: why the change failed, or NULL. */
typedef void route_changed(void *arg, const char *reason);

/* Sets the route of key ("alice@example.com", "@example.com") in the store, or
 * deletes it (destination NULL). The cache forgets the key, and the store tells
 * other mailferries if it can. A mapping file takes effect only at the next
 * reload. Writing a file blocks, so do not call this on a worker's thread.
 * Calls done exactly once. Returns NULL if done has been called. */
struct route_change *route_change(struct router *router, const char *key,
    const char *destination, route_changed *done, void *arg);

#endif
