/* cache.c: answers of a store, sharded, bounded, one fetch per key.
 *
 * An entry is in its shard's table; when it holds an answer it is also on the
 * LRU list of its kind (positive or negative). An entry that is being fetched
 * is never evicted.
 *
 * Fencing everything turns a number over instead of walking a million entries:
 * an answer counts while the generation is the one in which it was asked for. A
 * fetch that has been fenced has lost its entry, and lives on for its
 * waiters. */

#include "service/cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)(hash_keyed((key), (len)) >> 32))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define CACHE_SHARDS 32
#define CACHE_TRANSIENT_MS 1000 /* a failing store is not asked again */

struct cache_entry {
	UT_hash_handle hh;
	struct cache_entry *next, *prev; /* LRU, oldest first */
	struct cache_fetch *fetch; /* NULL: none is under way */
	struct cache_shard *shard;
	uint64_t expires; /* of the answer; 0 = none is held */
	uint64_t failed_until; /* the store failed; the old answer serves */
	int destination; /* or CACHE_UNKNOWN, CACHE_FAILED */
	uint64_t generation; /* the answer's */
	char key[];
};

struct cache_fetch {
	struct cache_shard *shard;
	struct cache_entry *entry; /* NULL: it has been fenced */
	struct cache_waiter *waiters;
	uint64_t generation; /* in which it began */
};

#define CACHE_UNKNOWN (-1) /* the store does not have it */
#define CACHE_FAILED (-2) /* the store failed */

enum cache_kind { CACHE_POSITIVE, CACHE_NEGATIVE, CACHE_FAILING, CACHE_KINDS };

struct cache_shard {
	pthread_mutex_t lock;
	struct cache_entry *table;
	struct cache_entry *lru[CACHE_KINDS];
	size_t n_lru[CACHE_KINDS];
	struct cache_counters count;
};

struct cache {
	atomic_uint refs;
	_Atomic uint64_t generation;
	struct cache_limits limits;
	size_t room[CACHE_KINDS]; /* per shard */
	struct cache_shard shard[CACHE_SHARDS];
};

static struct cache_shard *cache_shard(struct cache *c, const char *key);
static struct cache_entry *cache_find(struct cache_shard *sh, const char *key);
static struct cache_entry *cache_add(struct cache_shard *sh, const char *key);
static struct cache_fetch *cache_fetch_new(struct cache *c,
    struct cache_entry *e);
static void cache_detach(struct cache_entry *e);
static struct cache_waiter *cache_release(struct cache_fetch *f);
static enum cache_kind cache_kind(const struct cache_entry *e);
static enum cache_state cache_join(struct cache *c, struct cache_entry *e,
    struct cache_waiter *w);
static bool cache_fresh(struct cache *c, const struct cache_entry *e,
    uint64_t now, struct cache_answer *answer_out);
static bool cache_stale(struct cache *c, const struct cache_entry *e,
    uint64_t now, struct cache_answer *answer_out);
static void cache_held(const struct cache_entry *e, bool stale,
    struct cache_answer *answer_out);
static void cache_link(struct cache *c, struct cache_entry *e);
static void cache_unlink(struct cache_entry *e);
static void cache_drop(struct cache_entry *e);
static void cache_keep(struct cache *c, struct cache_entry *e,
    uint64_t generation, uint64_t now, const struct cache_answer *answer);
static void cache_settle(struct cache *c, struct cache_fetch *f, uint64_t now,
    struct cache_answer *answer);
static void cache_tell(struct cache_waiter *waiters,
    const struct cache_answer *answer);

struct cache *
cache_new(const struct cache_limits *limits)
{
	struct cache *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	atomic_init(&c->refs, 1);
	c->limits = *limits;
	c->room[CACHE_POSITIVE] =
	    (limits->max_entries + CACHE_SHARDS - 1) / CACHE_SHARDS;
	c->room[CACHE_NEGATIVE] = (c->room[CACHE_POSITIVE] + 9) / 10;
	c->room[CACHE_FAILING] = c->room[CACHE_NEGATIVE];
	for (size_t i = 0; i < CACHE_SHARDS; i++)
		pthread_mutex_init(&c->shard[i].lock, NULL);
	return c;
}

struct cache *
cache_ref(struct cache *c)
{
	atomic_fetch_add(&c->refs, 1);
	return c;
}

void
cache_unref(struct cache **cachep)
{
	struct cache *c = *cachep;
	struct cache_entry *e, *tmp;

	*cachep = NULL;
	if (c == NULL || atomic_fetch_sub(&c->refs, 1) > 1)
		return;
	for (size_t i = 0; i < CACHE_SHARDS; i++) {
		HASH_ITER (hh, c->shard[i].table, e, tmp)
			cache_drop(e);
		pthread_mutex_destroy(&c->shard[i].lock);
	}
	free(c);
}

static struct cache_shard *
cache_shard(struct cache *c, const char *key)
{
	return &c->shard[hash_keyed(key, strlen(key)) % CACHE_SHARDS];
}

static struct cache_entry *
cache_find(struct cache_shard *sh, const char *key)
{
	struct cache_entry *e;

	HASH_FIND(hh, sh->table, key, strlen(key), e);
	return e;
}

static struct cache_entry *
cache_add(struct cache_shard *sh, const char *key)
{
	size_t len = strlen(key);
	struct cache_entry *e = calloc(1, sizeof(*e) + len + 1);

	if (e == NULL)
		return NULL;
	memcpy(e->key, key, len + 1);
	e->shard = sh;
	HASH_ADD_KEYPTR(hh, sh->table, e->key, len, e);
	if (e->hh.tbl == NULL) {
		free(e);
		return NULL;
	}
	return e;
}

/* Takes the place of one of an older generation. NULL: no memory. */
static struct cache_fetch *
cache_fetch_new(struct cache *c, struct cache_entry *e)
{
	struct cache_fetch *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	cache_detach(e);
	f->shard = e->shard;
	f->entry = e;
	f->generation = atomic_load(&c->generation);
	e->fetch = f;
	return f;
}

/* The fetch under way, if any, goes on for those only who wait for it. */
static void
cache_detach(struct cache_entry *e)
{
	if (e->fetch != NULL)
		e->fetch->entry = NULL;
	e->fetch = NULL;
}

/* Returns those who waited; they wait no more. */
static struct cache_waiter *
cache_release(struct cache_fetch *f)
{
	struct cache_waiter *waiters = f->waiters, *w;

	DL_FOREACH (waiters, w)
		w->fetch = NULL;
	f->waiters = NULL;
	return waiters;
}

static enum cache_kind
cache_kind(const struct cache_entry *e)
{
	switch (e->destination) {
	case CACHE_UNKNOWN:
		return CACHE_NEGATIVE;
	case CACHE_FAILED:
		return CACHE_FAILING;
	default:
		return CACHE_POSITIVE;
	}
}

static void
cache_link(struct cache *c, struct cache_entry *e)
{
	struct cache_shard *sh = e->shard;
	enum cache_kind kind = cache_kind(e);
	struct cache_entry *old = sh->lru[kind];

	DL_APPEND(sh->lru[kind], e);
	sh->n_lru[kind]++;
	while (sh->n_lru[kind] > c->room[kind] && old != NULL && old != e) {
		struct cache_entry *next = old->next;

		sh->count.evicted++;
		if (old->fetch != NULL)
			cache_unlink(old);
		else
			cache_drop(old);
		old = next;
	}
}

static void
cache_unlink(struct cache_entry *e)
{
	enum cache_kind kind = cache_kind(e);

	if (e->expires == 0)
		return;
	DL_DELETE(e->shard->lru[kind], e);
	e->shard->n_lru[kind]--;
	e->expires = 0;
}

static void
cache_drop(struct cache_entry *e)
{
	struct cache_shard *sh = e->shard;

	cache_unlink(e);
	HASH_DEL(sh->table, e);
	free(e);
}

enum cache_state
cache_lookup(struct cache *c, const char *key, uint64_t now,
    struct cache_waiter *w, struct cache_answer *answer_out)
{
	struct cache_shard *sh = cache_shard(c, key);
	enum cache_state state = CACHE_NO_MEMORY;
	struct cache_entry *e;

	pthread_mutex_lock(&sh->lock);
	e = cache_find(sh, key);
	if (e != NULL && cache_fresh(c, e, now, answer_out)) {
		if (e->expires != 0) {
			DL_DELETE(sh->lru[cache_kind(e)], e);
			DL_APPEND(sh->lru[cache_kind(e)], e);
		}
		if (answer_out->stale)
			sh->count.stale++;
		sh->count.hits++;
		state = CACHE_HIT;
		goto out;
	}
	if (e == NULL)
		e = cache_add(sh, key);
	if (e != NULL)
		state = cache_join(c, e, w);
out:
	pthread_mutex_unlock(&sh->lock);
	return state;
}

/* w waits for the fetch under way, or for one that its caller has to make: also
 * when the one under way began before a fence. */
static enum cache_state
cache_join(struct cache *c, struct cache_entry *e, struct cache_waiter *w)
{
	struct cache_fetch *f = e->fetch;
	enum cache_state state = CACHE_WAIT;

	if (f == NULL || f->generation != atomic_load(&c->generation)) {
		state = CACHE_FETCH;
		f = cache_fetch_new(c, e);
	}
	if (f == NULL) {
		if (e->expires == 0 && e->fetch == NULL)
			cache_drop(e);
		return CACHE_NO_MEMORY;
	}
	if (state == CACHE_WAIT)
		e->shard->count.waits++;
	else
		e->shard->count.misses++;
	w->fetch = f;
	DL_APPEND(f->waiters, w);
	return state;
}

/* Returns true if the entry serves without asking the store: its answer is
 * fresh, or the store has just failed and the old answer serves. */
static bool
cache_fresh(struct cache *c, const struct cache_entry *e, uint64_t now,
    struct cache_answer *answer_out)
{
	if (e->expires > now && e->generation == atomic_load(&c->generation)) {
		cache_held(e, false, answer_out);
		return true;
	}
	return e->failed_until > now && cache_stale(c, e, now, answer_out);
}

/* Only where an account is: where one is not may have changed since. */
static bool
cache_stale(struct cache *c, const struct cache_entry *e, uint64_t now,
    struct cache_answer *answer_out)
{
	if (e->expires == 0 || cache_kind(e) != CACHE_POSITIVE ||
	    e->generation != atomic_load(&c->generation) ||
	    e->expires + c->limits.stale_ttl <= now)
		return false;
	cache_held(e, true, answer_out);
	return true;
}

static void
cache_held(const struct cache_entry *e, bool stale,
    struct cache_answer *answer_out)
{
	static const enum store_result results[] = {
	    [CACHE_POSITIVE] = STORE_FOUND,
	    [CACHE_NEGATIVE] = STORE_UNKNOWN,
	    [CACHE_FAILING] = STORE_FAILED,
	};

	answer_out->result = results[cache_kind(e)];
	answer_out->destination = e->destination;
	answer_out->stale = stale;
}

/* Takes an answer that was asked for in a generation over into the entry. */
static void
cache_keep(struct cache *c, struct cache_entry *e, uint64_t generation,
    uint64_t now, const struct cache_answer *answer)
{
	enum store_result result = answer->result;
	uint64_t ttl = result == STORE_FOUND ? c->limits.positive_ttl
	    : result == STORE_UNKNOWN	     ? c->limits.negative_ttl
					     : CACHE_TRANSIENT_MS;

	cache_unlink(e);
	if (generation != atomic_load(&c->generation) || ttl == 0 ||
	    c->limits.max_entries == 0)
		return;
	e->destination = result == STORE_FOUND ? answer->destination
	    : result == STORE_UNKNOWN	       ? CACHE_UNKNOWN
					       : CACHE_FAILED;
	e->generation = generation;
	e->expires = now + ttl;
	cache_link(c, e);
}

void
cache_fill(struct cache *c, struct cache_fetch **fp, uint64_t now,
    enum store_result result, int destination)
{
	struct cache_answer answer = {result, destination, false};
	struct cache_fetch *f = *fp;
	struct cache_shard *sh = f->shard;
	struct cache_waiter *waiters;

	*fp = NULL;
	pthread_mutex_lock(&sh->lock);
	if (result == STORE_FAILED)
		sh->count.failed++;
	if (f->entry != NULL)
		cache_settle(c, f, now, &answer);
	waiters = cache_release(f);
	pthread_mutex_unlock(&sh->lock);
	free(f);
	cache_tell(waiters, &answer);
}

/* A failure may become a stale answer. */
static void
cache_settle(struct cache *c, struct cache_fetch *f, uint64_t now,
    struct cache_answer *answer)
{
	struct cache_entry *e = f->entry;

	cache_detach(e);
	if (answer->result == STORE_FAILED && cache_stale(c, e, now, answer)) {
		e->shard->count.stale++;
		e->failed_until = now + CACHE_TRANSIENT_MS;
		return;
	}
	e->failed_until = 0;
	cache_keep(c, e, f->generation, now, answer);
	if (e->expires == 0)
		cache_drop(e);
}

void
cache_abandon(struct cache_fetch **fp)
{
	struct cache_fetch *f = *fp;
	struct cache_shard *sh = f->shard;
	struct cache_entry *e;
	struct cache_waiter *waiters;

	*fp = NULL;
	pthread_mutex_lock(&sh->lock);
	e = f->entry;
	if (e != NULL) {
		cache_detach(e);
		if (e->expires == 0)
			cache_drop(e);
	}
	waiters = cache_release(f);
	pthread_mutex_unlock(&sh->lock);
	free(f);
	cache_tell(waiters, NULL);
}

/* A waiter may be gone as soon as it has been told. */
static void
cache_tell(struct cache_waiter *waiters, const struct cache_answer *answer)
{
	struct cache_waiter *w, *tmp;

	DL_FOREACH_SAFE (waiters, w, tmp)
		w->wake(w, answer);
}

bool
cache_cancel(struct cache *c, const char *key, struct cache_waiter *w)
{
	struct cache_shard *sh = cache_shard(c, key);
	struct cache_fetch *f;

	pthread_mutex_lock(&sh->lock);
	f = w->fetch;
	if (f != NULL)
		DL_DELETE(f->waiters, w);
	w->fetch = NULL;
	pthread_mutex_unlock(&sh->lock);
	return f != NULL;
}

bool
cache_peek(struct cache *c, const char *key, uint64_t now,
    struct cache_answer *answer_out)
{
	struct cache_shard *sh = cache_shard(c, key);
	struct cache_entry *e;
	bool there;

	pthread_mutex_lock(&sh->lock);
	e = cache_find(sh, key);
	there = e != NULL &&
	    (cache_fresh(c, e, now, answer_out) ||
		cache_stale(c, e, now, answer_out));
	if (there && answer_out->stale)
		sh->count.stale++;
	pthread_mutex_unlock(&sh->lock);
	return there;
}

void
cache_forget(struct cache *c, const char *key)
{
	struct cache_shard *sh = cache_shard(c, key);
	struct cache_entry *e;

	pthread_mutex_lock(&sh->lock);
	e = cache_find(sh, key);
	if (e != NULL) {
		cache_detach(e);
		cache_drop(e);
	}
	pthread_mutex_unlock(&sh->lock);
}

void
cache_fence(struct cache *c)
{
	atomic_fetch_add(&c->generation, 1);
}

void
cache_count(struct cache *c, struct cache_counters *out)
{
	memset(out, 0, sizeof(*out));
	for (size_t i = 0; i < CACHE_SHARDS; i++) {
		struct cache_shard *sh = &c->shard[i];

		pthread_mutex_lock(&sh->lock);
		out->hits += sh->count.hits;
		out->misses += sh->count.misses;
		out->waits += sh->count.waits;
		out->stale += sh->count.stale;
		out->evicted += sh->count.evicted;
		out->failed += sh->count.failed;
		out->entries += HASH_COUNT(sh->table);
		pthread_mutex_unlock(&sh->lock);
	}
}
