/* route.h: which destination an identifier belongs to: cache, then store
 * (identifier, then "@domain"), then the default destination. */

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
	ROUTE_FOUND, /* the store knows the identifier or its domain */
	ROUTE_DEFAULT, /* it knows neither, or there is no identifier */
	ROUTE_FAILED /* the store could not say: no answer at all */
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
	/* What the store has: the identifier or its "@domain"; or what it
	 * failed for, also when the default serves then. NULL: it has neither.
	 * Valid during the call. */
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

/* Main thread; touches neither base nor mailbox before the first lookup.
 * NULL: err says why. */
struct router *router_new(const struct router_spec *spec, struct err *err);

/* On its thread, once for each cache: hears from the store what others change
 * there, and forgets that. */
void router_watch(struct router *router);

/* On the worker's thread, without lookups or changes under way. */
void router_free(struct router **router);

/* From the name that a client gave to its key, by the rules of routing and
 * mapping; out as identifier_make() wants it. */
enum identifier_status route_key(const struct config *cfg, const char *name,
    size_t len, char *out) MUST_CHECK;

/* key: made by route_key(), or "" for none. Calls done exactly once
 * unless cancelled; when the answer is at hand, before it returns, and then it
 * returns NULL. */
struct route_lookup *route_lookup(struct router *router, const char *key,
    route_done *done, void *arg);

/* "identifier", "domain", "default", "stale", "error". */
const char *route_reason_name(enum route_reason reason);

/* Clears *lookup; done will not be called. NULL is fine. */
void route_lookup_cancel(struct route_lookup **lookup);

/* reason: why not, or NULL. */
typedef void route_changed(void *arg, const char *reason);

/* Writes to the store: key ("alice@example.com", "@example.com") leads to
 * destination from now on; NULL: the store forgets it. The cache forgets it
 * too, and other mailferries are told if the store can do that. A mapping file
 * is written, but read at the next reload only; and writing it blocks, so not
 * on a worker's thread. Calls done exactly once; NULL: it has been called. */
struct route_change *route_change(struct router *router, const char *key,
    const char *destination, route_changed *done, void *arg);

#endif
