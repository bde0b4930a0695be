/* limits.c: the limits of one client address.
 *
 * Refused logins are counted in two halves of a window that slides by halves:
 * never less than half a window, never more than a whole one.
 *
 * Of wrong credentials a keyed hash is kept, of the last few of an address, and
 * nothing else. */

#include "service/limits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)(hash_keyed((key), (len)) >> 32))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define LIMITS_SHARDS 16
#define LIMITS_SHARD_MAX 8192 /* addresses; about 1.5 MiB a shard */
#define LIMITS_CREDENTIALS 10 /* told apart, of an address */

struct limits_row {
	UT_hash_handle hh;
	struct limits_row *next, *prev; /* by last use, oldest first */
	struct addr_client key;
	unsigned connections;
	unsigned refused[2]; /* this half window, and the one before */
	uint64_t half; /* number of the current half window */
	uint64_t wrong[LIMITS_CREDENTIALS]; /* the latest first */
	unsigned n_wrong;
};

static struct limits_shard {
	pthread_mutex_t lock;
	struct limits_row *table, *used;
} limits_shard[LIMITS_SHARDS] = {
    [0 ... LIMITS_SHARDS - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER},
};

static bool limits_applies(const struct config_limits *rules,
    const struct addr *a, unsigned limit, struct addr_client *key);
static struct limits_shard *limits_lock(const struct addr_client *key);
static struct limits_row *limits_find(struct limits_shard *sh,
    const struct addr_client *key, bool add);
static void limits_make_room(struct limits_shard *sh);
static void limits_drop(struct limits_shard *sh, struct limits_row *e);
static bool limits_is_new(struct limits_row *e, uint64_t credentials);
static void limits_slide(struct limits_row *e,
    const struct config_limits *rules, uint64_t now);

static bool
limits_applies(const struct config_limits *rules, const struct addr *a,
    unsigned limit, struct addr_client *key)
{
	if (limit == 0 || a->len == 0 ||
	    cidr_match_any(rules->exempt, rules->n_exempt, a))
		return false;
	*key = addr_client(a);
	return true;
}

static struct limits_shard *
limits_lock(const struct addr_client *key)
{
	struct limits_shard *sh =
	    &limits_shard[hash_keyed(key, sizeof(*key)) % LIMITS_SHARDS];

	pthread_mutex_lock(&sh->lock);
	return sh;
}

/* Returns NULL if the row is missing and is not to be added, or memory is
 * short. */
static struct limits_row *
limits_find(struct limits_shard *sh, const struct addr_client *key, bool add)
{
	struct limits_row *e;

	HASH_FIND(hh, sh->table, key, sizeof(*key), e);
	if (e != NULL) {
		DL_DELETE(sh->used, e);
		DL_APPEND(sh->used, e);
	}
	if (e != NULL || !add)
		return e;
	limits_make_room(sh);
	e = calloc(1, sizeof(*e));
	if (e == NULL)
		return NULL;
	e->key = *key;
	HASH_ADD(hh, sh->table, key, sizeof(e->key), e);
	if (e->hh.tbl == NULL) {
		free(e);
		return NULL;
	}
	DL_APPEND(sh->used, e);
	return e;
}

/* Keeps addresses with a connection; their number is bounded elsewhere. */
static void
limits_make_room(struct limits_shard *sh)
{
	struct limits_row *e, *tmp;

	if (HASH_COUNT(sh->table) < LIMITS_SHARD_MAX)
		return;
	DL_FOREACH_SAFE (sh->used, e, tmp) {
		if (e->connections == 0) {
			limits_drop(sh, e);
			return;
		}
	}
}

static void
limits_drop(struct limits_shard *sh, struct limits_row *e)
{
	DL_DELETE(sh->used, e);
	HASH_DEL(sh->table, e);
	free(e);
}

enum limits_entry
limits_enter(const struct config_limits *rules, const struct addr *a)
{
	enum limits_entry entry = LIMITS_FREE;
	struct addr_client key;
	struct limits_shard *sh;
	struct limits_row *e;

	if (!limits_applies(rules, a, rules->max_connections_per_ip, &key))
		return LIMITS_FREE;
	sh = limits_lock(&key);
	e = limits_find(sh, &key, true);
	if (e != NULL && e->connections >= rules->max_connections_per_ip) {
		entry = LIMITS_FULL;
	} else if (e != NULL) {
		e->connections++;
		entry = LIMITS_COUNTED;
	}
	pthread_mutex_unlock(&sh->lock);
	return entry;
}

void
limits_leave(const struct addr *a)
{
	struct addr_client key = addr_client(a);
	struct limits_shard *sh = limits_lock(&key);
	struct limits_row *e;

	e = limits_find(sh, &key, false);
	if (e != NULL && e->connections > 0) {
		e->connections--;
		if (e->connections == 0 && e->n_wrong == 0)
			limits_drop(sh, e);
	}
	pthread_mutex_unlock(&sh->lock);
}

static void
limits_slide(struct limits_row *e, const struct config_limits *rules,
    uint64_t now)
{
	uint64_t length = rules->auth_failure_window / 2;
	uint64_t half = now / (length > 0 ? length : 1);

	if (half == e->half)
		return;
	e->refused[1] = half == e->half + 1 ? e->refused[0] : 0;
	e->refused[0] = 0;
	e->half = half;
}

/* Notes them as the latest. */
static bool
limits_is_new(struct limits_row *e, uint64_t credentials)
{
	unsigned i;
	bool is_new;

	for (i = 0; i < e->n_wrong && e->wrong[i] != credentials; i++)
		;
	is_new = i == e->n_wrong;
	if (is_new && e->n_wrong < LIMITS_CREDENTIALS)
		e->n_wrong++;
	else if (is_new)
		i--;
	memmove(&e->wrong[1], &e->wrong[0], i * sizeof(e->wrong[0]));
	e->wrong[0] = credentials;
	return is_new;
}

void
limits_refused(const struct config_limits *rules, const struct addr *a,
    uint64_t credentials, uint64_t now)
{
	struct addr_client key;
	struct limits_shard *sh;
	struct limits_row *e;

	if (!limits_applies(rules, a, rules->auth_failures_per_ip, &key))
		return;
	sh = limits_lock(&key);
	e = limits_find(sh, &key, true);
	if (e != NULL && limits_is_new(e, credentials)) {
		limits_slide(e, rules, now);
		e->refused[0]++;
	}
	pthread_mutex_unlock(&sh->lock);
}

bool
limits_throttled(const struct config_limits *rules, const struct addr *a,
    uint64_t now)
{
	struct addr_client key;
	struct limits_shard *sh;
	struct limits_row *e;
	bool over = false;

	if (!limits_applies(rules, a, rules->auth_failures_per_ip, &key))
		return false;
	sh = limits_lock(&key);
	e = limits_find(sh, &key, false);
	if (e != NULL) {
		limits_slide(e, rules, now);
		over = e->refused[0] + e->refused[1] >=
		    rules->auth_failures_per_ip;
	}
	pthread_mutex_unlock(&sh->lock);
	return over;
}

void
limits_clear(void)
{
	for (size_t i = 0; i < LIMITS_SHARDS; i++) {
		struct limits_shard *sh = &limits_shard[i];
		struct limits_row *e, *tmp;

		pthread_mutex_lock(&sh->lock);
		HASH_CLEAR(hh, sh->table);
		DL_FOREACH_SAFE (sh->used, e, tmp)
			free(e);
		sh->used = NULL;
		pthread_mutex_unlock(&sh->lock);
	}
}
