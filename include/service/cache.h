/* cache.h: answers of a store, kept for a while, shared by all workers.
 *
 * One entry per key; the whole key is compared. Sharded, each shard with its
 * own lock, held for a look-up and no longer. Least recently used entries go
 * first; negative ones and failures have their own tenth of the room each, so
 * that a stranger's invented names cannot push the real ones out. Of the
 * lookups of one key that are under way at once only the first is told to ask
 * the store; all get what it brings. Time is an argument (clock_ms()).
 *
 * The fence: whoever hears that something in the store has changed calls
 * cache_forget() or cache_fence(). A lookup that begins afterwards is never
 * answered by anything that was asked for before: neither by what is kept, nor
 * by a question that is still under way, nor by a stale answer. */

#ifndef SERVICE_CACHE_H
#define SERVICE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platform/util.h"
#include "store/store.h"

struct cache;

struct cache_limits {
	size_t max_entries; /* 0: no answer is kept; lookups still share one */
	uint64_t positive_ttl, negative_ttl, stale_ttl; /* ms */
};

/* A waiter's answer. destination: an index, valid if FOUND. */
struct cache_answer {
	enum store_result result;
	int destination;
	bool stale; /* the store failed; this is an old answer */
};

/* A question to the store, from CACHE_FETCH to cache_fill() or
 * cache_abandon(), one of which its asker must call. */
struct cache_fetch;

/* Lives inside the asker; linked from cache_lookup() until woken or cancelled.
 * wake() is called by whichever thread ends the fetch, without any lock, and
 * must hand over to the asker's thread itself. answer: NULL if whoever asked
 * the store has given up, and w has to look again. */
struct cache_waiter {
	void (*wake)(struct cache_waiter *w, const struct cache_answer *answer);
	struct cache_waiter *next, *prev;
	struct cache_fetch *fetch; /* cache's own; see cache_lookup() */
};

enum cache_state {
	CACHE_HIT, /* *answer_out is fresh */
	CACHE_FETCH, /* w waits, and the caller must ask the store */
	CACHE_WAIT, /* w waits for another caller's fetch */
	CACHE_NO_MEMORY
};

/* failed: fetches that failed. stale: old answers that served instead. */
struct cache_counters {
	uint64_t hits, misses, waits, stale, evicted, failed;
	size_t entries;
};

/* Returns a cache with one reference. */
struct cache *cache_new(const struct cache_limits *limits);
struct cache *cache_ref(struct cache *cache);
/* Drops a reference. The last one frees the cache; nobody may wait then. */
void cache_unref(struct cache **cache);

/* CACHE_FETCH: w->fetch is the caller's to end, but take it at once: w may be
 * woken or cancelled before. */
enum cache_state cache_lookup(struct cache *cache, const char *key,
    uint64_t now, struct cache_waiter *w,
    struct cache_answer *answer_out) MUST_CHECK;

/* The end of a fetch. FAILED: waiters get a stale answer when there is one
 * younger than its ttl + stale_ttl, and so does, for a second, whoever else
 * asks, so that a failing store does not cost each login its timeout. "Unknown"
 * is never stale: the account may have got a home since. Wakes all waiters
 * before it returns. */
void cache_fill(struct cache *cache, struct cache_fetch **fetch, uint64_t now,
    enum store_result result, int destination);
/* The store will not be asked after all: the waiters look again. */
void cache_abandon(struct cache_fetch **fetch);

/* key: the key of w's cache_lookup(). Returns true if w was unlinked and will
 * not be woken. Returns false if w has been or is being woken; the caller must
 * then keep it. */
bool cache_cancel(struct cache *cache, const char *key, struct cache_waiter *w);

/* Finds an answer, fresh or stale, for a caller that cannot wait for the store.
 * Returns false if there is none. */
bool cache_peek(struct cache *cache, const char *key, uint64_t now,
    struct cache_answer *answer_out) MUST_CHECK;

/* Fences one key. A fetch under way is not stopped, but its answer is given to
 * those only who wait for it already, and is not kept. */
void cache_forget(struct cache *cache, const char *key);
/* Fences all keys. */
void cache_fence(struct cache *cache);

void cache_count(struct cache *cache, struct cache_counters *out);

#endif
