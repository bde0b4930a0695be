/* runtime.h: the one immutable, counted snapshot of everything that the
 * configuration means: certificates, mapping table, destinations, ready-made
 * texts; and each worker's slice of it: its TLS contexts and its router.
 *
 * Built whole, aside, on any thread; published to the workers only when
 * every part is good. A slice holds the runtime.
 *
 * There are two holds on a slice. The lesser one is for a session's own leg: it
 * keeps the configuration, the certificates and the texts that the session
 * began with. The other one is a login's: it also keeps all that decides where
 * the login goes and how it gets there (table, cache, router, destinations, TLS
 * towards them). That part ends with the last login that uses it. A relayed
 * session has no hold. */

#ifndef SERVICE_RUNTIME_H
#define SERVICE_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

struct cache;
struct connector_turns;
struct destination;
struct event_base;
struct mailbox;
struct pop3_texts;
struct resolver;
struct router;
struct runtime_slice;
struct store_table;
struct tls_client;
struct tls_identity_set;
struct tls_server;
struct tls_trust;

struct runtime {
	struct config *cfg;
	struct tls_identity_set *identities;
	struct tls_trust **trust; /* per destination */
	/* Per destination and protocol: runtime_destination(). */
	struct destination **destination;
	struct store_table *table;
	struct cache *cache;
	struct pop3_texts *pop3_texts;
	struct runtime_slice **slice; /* per worker; theirs once published */
	size_t n_slices;
	struct runtime_holds *holds; /* runtime.c's */
};

/* Once published, only its worker's thread touches it. */
struct runtime_slice {
	struct runtime *rt;
	struct tls_server *tls_server;
	struct tls_client **tls_client; /* per destination */
	struct router *router;
	struct connector_turns *source_turn; /* per destination */
	/* The worker has one of each while the slice is the current one. */
	unsigned refs; /* of both kinds */
	unsigned logins;
};

struct runtime_worker {
	struct event_base *base;
	struct mailbox *mailbox;
	struct resolver *resolver;
};

/* Returns the workers' shared state of the endpoint for protocol p of the
 * destination with that index. rt owns it. */
struct destination *runtime_destination(const struct runtime *rt,
    size_t destination, enum protocol p);

/* Builds a runtime. Takes ownership of cfg in any case. Adds the faults of
 * files that cfg names to problems. Returns NULL if problems has errors. old
 * may be NULL: endpoints of destinations with the same name, host and port keep
 * old's counters, and the cache is kept if mapping and the destinations' names
 * are the same. workers may be NULL, for a check only. */
struct runtime *runtime_new(struct config *cfg, const struct runtime *old,
    const struct runtime_worker *workers, size_t n_workers,
    struct config_problems *problems);

/* Call just before the workers are told. From here on, no earlier answer is
 * used. */
void runtime_publish(struct runtime *rt);

/* Drops the main thread's reference to a published runtime. */
void runtime_unref(struct runtime **rt);

/* Frees a runtime that was never published, with every slice. */
void runtime_discard(struct runtime **rt);

/* On the slice's worker, when it takes the slice over. The last one of them to
 * do so hears from the store for all: when it begins to hear, nobody uses an
 * older runtime for a new login. */
void runtime_slice_begin(struct runtime_slice *slice);

/* Takes and drops a client leg's reference: cfg, the replies and tls_server.
 * Call these and the following functions on the slice's worker. The last slice
 * frees the runtime. */
struct runtime_slice *runtime_slice_ref(struct runtime_slice *slice);
void runtime_slice_unref(struct runtime_slice **slice);

/* Takes and drops a login's reference. The last one frees the rest. */
struct runtime_slice *runtime_slice_enter(struct runtime_slice *slice);
void runtime_slice_leave(struct runtime_slice **slice);

#endif
