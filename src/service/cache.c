/* cache.c: answers of a store, sharded, bounded, one fetch per key.
 *
 * An entry is in its shard's table; when it holds an answer it is also on the
 * LRU list of its kind (positive or negative). An entry that has waiters is
 * never evicted.
 *
 * Forgetting or expiring everything turns a number over instead of walking a
 * million entries: an answer counts while the numbers are those under which it
 * was asked for. */

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

/* How often everything had been forgotten, and had been made old. */
struct cache_era {
	unsigned forgets, expiries;
};

struct cache_entry {
	UT_hash_handle hh;
	struct cache_entry *next, *prev; /* LRU, oldest first */
	struct cache_waiter *waiters;
	struct cache_shard *shard;
	uint64_t expires; /* of the answer; 0 = none is held */
	uint64_t failed_until; /* the store has: the old answer serves */
	int destination; /* or CACHE_UNKNOWN, CACHE_FAILED */
	struct cache_era era; /* the answer's */
	struct cache_era fetched; /* that of the fetch under way */
	bool fetching;
	bool forgotten; /* while it was being fetched */
	char key[];
};

#define CACHE_UNKNOWN (-1) /* the store does not have it */
#define CACHE_FAILED (-2) /* the store could not say */

enum cache_kind { CACHE_POSITIVE, CACHE_NEGATIVE, CACHE_FAILING, CACHE_KINDS };

struct cache_shard {
	pthread_mutex_t lock;
	struct cache_entry *table;
	struct cache_entry *lru[CACHE_KINDS];
	size_t n_lru[CACHE_KINDS];
	struct cache_counters count;
};

struct cache {
	atomic_uint refs, forgets, expiries;
	struct cache_limits limits;
	size_t room[CACHE_KINDS]; /* per shard */
	struct cache_shard shard[CACHE_SHARDS];
};

static struct cache_shard *cache_shard(struct cache *c, const char *key);
static struct cache_entry *cache_find(struct cache_shard *sh, const char *key);
static struct cache_entry *cache_add(struct cache_shard *sh, const char *key);
static struct cache_era cache_era(struct cache *c);
static enum cache_kind cache_kind(const struct cache_entry *e);
static bool cache_fresh(struct cache *c, const struct cache_entry *e,
    uint64_t now, struct cache_answer *answer_out);
static bool cache_stale(struct cache *c, const struct cache_entry *e,
    uint64_t now, struct cache_answer *answer_out);
static void cache_held(const struct cache_entry *e, bool stale,
    struct cache_answer *answer_out);
static void cache_link(struct cache *c, struct cache_entry *e);
static void cache_unlink(struct cache_entry *e);
static void cache_drop(struct cache_entry *e);
static void cache_keep(struct cache *c, struct cache_entry *e, uint64_t now,
    enum store_result result, int destination);
static void cache_forget_entry(struct cache_entry *e);

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

static struct cache_era
cache_era(struct cache *c)
{
	struct cache_era era = {
	    atomic_load(&c->forgets), atomic_load(&c->expiries)};

	return era;
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
		cache_forget_entry(old);
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
	if (e == NULL)
		goto out;
	state = e->fetching ? CACHE_WAIT : CACHE_FETCH;
	if (e->fetching)
		sh->count.waits++;
	else
		sh->count.misses++;
	if (!e->fetching)
		e->fetched = cache_era(c);
	e->fetching = true;
	w->entry = e;
	DL_APPEND(e->waiters, w);
out:
	pthread_mutex_unlock(&sh->lock);
	return state;
}

/* What serves without asking the store: an answer that is young enough, or,
 * for a moment after the store failed, what it was worth then. */
static bool
cache_fresh(struct cache *c, const struct cache_entry *e, uint64_t now,
    struct cache_answer *answer_out)
{
	struct cache_era era = cache_era(c);

	if (e->expires > now && e->era.forgets == era.forgets &&
	    e->era.expiries == era.expiries) {
		cache_held(e, false, answer_out);
		return true;
	}
	return e->failed_until > now && cache_stale(c, e, now, answer_out);
}

static bool
cache_stale(struct cache *c, const struct cache_entry *e, uint64_t now,
    struct cache_answer *answer_out)
{
	if (e->expires == 0 || e->forgotten ||
	    e->era.forgets != cache_era(c).forgets ||
	    e->destination == CACHE_FAILED ||
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

/* Takes an answer over into the entry. */
static void
cache_keep(struct cache *c, struct cache_entry *e, uint64_t now,
    enum store_result result, int destination)
{
	uint64_t ttl = result == STORE_FOUND ? c->limits.positive_ttl
	    : result == STORE_UNKNOWN	     ? c->limits.negative_ttl
					     : CACHE_TRANSIENT_MS;

	cache_unlink(e);
	if (e->forgotten || e->fetched.forgets != cache_era(c).forgets ||
	    ttl == 0 || c->limits.max_entries == 0)
		return;
	e->destination = result == STORE_FOUND ? destination
	    : result == STORE_UNKNOWN	       ? CACHE_UNKNOWN
					       : CACHE_FAILED;
	e->era = e->fetched;
	e->expires = now + ttl;
	cache_link(c, e);
}

void
cache_fill(struct cache *c, const char *key, uint64_t now,
    enum store_result result, int destination)
{
	struct cache_shard *sh = cache_shard(c, key);
	struct cache_answer answer = {result, destination, false};
	struct cache_waiter *waiters = NULL, *w, *tmp;
	struct cache_entry *e;

	pthread_mutex_lock(&sh->lock);
	e = cache_find(sh, key);
	if (e != NULL && e->fetching) {
		if (result == STORE_FAILED)
			sh->count.failed++;
		if (result == STORE_FAILED && cache_stale(c, e, now, &answer)) {
			sh->count.stale++;
			e->failed_until = now + CACHE_TRANSIENT_MS;
		} else {
			e->failed_until = 0;
			cache_keep(c, e, now, result, destination);
		}
		waiters = e->waiters;
		e->waiters = NULL;
		DL_FOREACH (waiters, w)
			w->entry = NULL;
		e->fetching = e->forgotten = false;
		if (e->expires == 0)
			cache_drop(e);
	}
	pthread_mutex_unlock(&sh->lock);
	DL_FOREACH_SAFE (waiters, w, tmp)
		w->wake(w, &answer);
}

bool
cache_cancel(struct cache *c, const char *key, struct cache_waiter *w)
{
	struct cache_shard *sh = cache_shard(c, key);
	struct cache_entry *e;

	pthread_mutex_lock(&sh->lock);
	e = w->entry;
	if (e != NULL) {
		DL_DELETE(e->waiters, w);
		w->entry = NULL;
	}
	pthread_mutex_unlock(&sh->lock);
	return e != NULL;
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

static void
cache_forget_entry(struct cache_entry *e)
{
	if (e->fetching) {
		e->forgotten = true;
		cache_unlink(e);
	} else {
		cache_drop(e);
	}
}

void
cache_forget(struct cache *c, const char *key)
{
	struct cache_shard *sh;
	struct cache_entry *e;

	if (key == NULL) {
		atomic_fetch_add(&c->forgets, 1);
		return;
	}
	sh = cache_shard(c, key);
	pthread_mutex_lock(&sh->lock);
	e = cache_find(sh, key);
	if (e != NULL)
		cache_forget_entry(e);
	pthread_mutex_unlock(&sh->lock);
}

void
cache_expire(struct cache *c)
{
	atomic_fetch_add(&c->expiries, 1);
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
