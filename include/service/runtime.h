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

/* Touched by its worker's thread only, once published. */
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

/* Returns what the workers share about the endpoint that serves protocol p at
 * the destination with that index; rt's. */
struct destination *runtime_destination(const struct runtime *rt,
    size_t destination, enum protocol p);

/* Takes cfg over, whatever happens, and adds what is wrong with files that it
 * names to problems. NULL when problems has errors. old (or NULL): endpoints of
 * destinations of the same name, host and port keep their counters, and the cache goes on
 * when mapping and names of destinations are the same. workers may be NULL to
 * check only. */
struct runtime *runtime_new(struct config *cfg, const struct runtime *old,
    const struct runtime_worker *workers, size_t n_workers,
    struct config_problems *problems);

/* Just before the workers are told: from here on no answer counts that was
 * given before. */
void runtime_publish(struct runtime *rt);

/* The main thread's own hold on what it published. */
void runtime_unref(struct runtime **rt);

/* For what was never published: frees every slice as well. */
void runtime_discard(struct runtime **rt);

/* On the slice's worker, when it takes the slice over. The last one of them to
 * do so hears from the store for all: when it begins to hear, nobody uses an
 * older runtime for a new login. */
void runtime_slice_begin(struct runtime_slice *slice);

/* On the slice's worker, and so is all that follows. The lesser hold: cfg, the
 * texts and tls_server. The last slice to go takes the runtime along. */
struct runtime_slice *runtime_slice_ref(struct runtime_slice *slice);
void runtime_slice_unref(struct runtime_slice **slice);

/* A login's hold. The last one frees the rest. */
struct runtime_slice *runtime_slice_enter(struct runtime_slice *slice);
void runtime_slice_leave(struct runtime_slice **slice);

#endif
