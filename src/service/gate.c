/* gate.c: turns at an endpoint, and holds.
 *
 * Every function that makes room at a gate calls gate_admit() before it
 * unlocks, so that nobody waits while there is room. Admitted waiters are
 * marked woken under the lock and called after it, because a wake may post to
 * another thread.
 *
 * The addresses that have waiters are in a binary heap: fewest places first,
 * then the oldest waiter. An address is forgotten with its last place and
 * waiter, but for the latest one: a quiet gate then allocates nothing. */

#include "service/gate.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"
#include "proto/identifier.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)(hash_keyed((key), (len)) >> 32))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define GATE_HOLD_SHARDS 16
#define GATE_WOKEN_MS 1000 /* a wake is on its way: look again */

struct gate_client {
	UT_hash_handle hh;
	uint64_t key;
	unsigned places; /* connecting ones */
	struct gate_place *waiting; /* in order of arrival */
	size_t at; /* in the heap, while it has waiters */
};

struct gate {
	pthread_mutex_t lock;
	struct gate_limits limits;
	struct gate_client *clients; /* that wait or are connecting */
	struct gate_client *idle; /* the latest that does neither, or NULL */
	struct gate_client **heap; /* that wait */
	size_t n_heap, heap_room;
	uint64_t arrivals;
	unsigned connecting, sessions;
	unsigned ramp; /* so many unproved ones may connect; 0: all */
	unsigned unproved; /* of this era */
	unsigned era; /* recoveries: older logins prove nothing */
	bool down, draining;
	atomic_uint waiting; /* here and at holds */
};

struct gate_hold {
	UT_hash_handle hh;
	struct gate_shard *shard;
	uint64_t until;
	struct gate_place *waiting;
	size_t n_waiting;
	char *note; /* behind the key */
	char key[];
};

static struct gate_shard {
	pthread_mutex_t lock;
	struct gate_hold *table;
} gate_shard[GATE_HOLD_SHARDS] = {
    [0 ... GATE_HOLD_SHARDS - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER},
};
static atomic_size_t gate_n_holds; /* 0: no login looks for one */

/* The waiters to call after the lock is released, in this order. */
struct gate_woken {
	struct gate_place *first, **last;
};

static void gate_tell(struct gate_woken *woken, struct gate_place *p,
    enum gate_verdict verdict);
static void gate_wake(struct gate_woken *woken);
static void gate_lock(struct gate *g, struct gate_woken *woken);
static void gate_unlock(struct gate *g, struct gate_woken *woken);
static enum gate_verdict gate_judge(struct gate *g, const struct gate_place *p,
    uint64_t now);
static bool gate_has_room(const struct gate *g);
static bool gate_is_open(const struct gate *g);
static bool gate_join(struct gate *g, const struct gate_limits *limits);
static void gate_out(struct gate_place *p);
static bool gate_take(struct gate *g, struct gate_place *p);
static void gate_connected(struct gate *g, struct gate_place *p);
static void gate_admit(struct gate *g, struct gate_woken *woken);
static bool gate_queue(struct gate *g, struct gate_place *p);
static void gate_unqueue(struct gate *g, struct gate_place *p);
static void gate_dismiss(struct gate *g, enum gate_verdict verdict,
    struct gate_woken *woken);
static struct gate_client *gate_client(struct gate *g, uint64_t key);
static void gate_client_done(struct gate *g, struct gate_client *c);
static void gate_client_forget(struct gate *g, struct gate_client *c);
static bool gate_before(const struct gate_client *a,
    const struct gate_client *b);
static bool gate_heap_add(struct gate *g, struct gate_client *c);
static void gate_heap_remove(struct gate *g, struct gate_client *c);
static void gate_heap_fix(struct gate *g, struct gate_client *c);
static void gate_heap_put(struct gate *g, size_t i, struct gate_client *c);
static struct gate_shard *gate_shard_lock(const char *key);
static struct gate_hold *gate_hold_find(struct gate_shard *sh, const char *key,
    uint64_t now, struct gate_woken *woken);
static struct gate_hold *gate_hold_add(struct gate_shard *sh, const char *key,
    const char *note);
static void gate_hold_sweep(struct gate_shard *sh, uint64_t now,
    struct gate_woken *woken);
static void gate_hold_dismiss(struct gate_hold *h, struct gate_woken *woken);
static void gate_hold_end(struct gate_hold *h, struct gate_woken *woken);
static enum gate_verdict gate_hold_wait(struct gate *g, struct gate_place *p,
    const struct gate_limits *limits, const char *key, uint64_t now);
static void gate_hold_unlink(struct gate_place *p);
static enum gate_verdict gate_hold_poll(struct gate_place *p, uint64_t now);
static uint64_t gate_sooner(uint64_t a, uint64_t b);

struct gate *
gate_new(void)
{
	struct gate *g = calloc(1, sizeof(*g));

	if (g != NULL)
		pthread_mutex_init(&g->lock, NULL);
	return g;
}

void
gate_free(struct gate **gp)
{
	struct gate *g = *gp;

	*gp = NULL;
	if (g == NULL)
		return;
	assert(g->sessions == 0 && g->waiting == 0);
	if (g->idle != NULL)
		gate_client_forget(g, g->idle);
	pthread_mutex_destroy(&g->lock);
	free(g->heap);
	free(g);
}

/* Wakes */

static void
gate_tell(struct gate_woken *woken, struct gate_place *p,
    enum gate_verdict verdict)
{
	p->verdict = verdict;
	p->woken = true;
	p->next = NULL;
	*woken->last = p;
	woken->last = &p->next;
}

static void
gate_wake(struct gate_woken *woken)
{
	struct gate_place *p, *next;

	for (p = woken->first; p != NULL; p = next) {
		next = p->next;
		p->wake(p);
	}
}

static void
gate_lock(struct gate *g, struct gate_woken *woken)
{
	woken->first = NULL;
	woken->last = &woken->first;
	pthread_mutex_lock(&g->lock);
}

static void
gate_unlock(struct gate *g, struct gate_woken *woken)
{
	gate_admit(g, woken);
	pthread_mutex_unlock(&g->lock);
	gate_wake(woken);
}

/* Entering */

enum gate_verdict
gate_enter(struct gate *g, struct gate_place *p,
    const struct gate_limits *limits, uint64_t now)
{
	enum gate_verdict verdict;
	struct gate_woken woken;

	gate_lock(g, &woken);
	g->limits = *limits;
	p->gate = g;
	p->lock = &g->lock;
	p->hold = NULL;
	p->turn = NULL;
	p->woken = p->proved = false;
	p->due = p->give_up;
	verdict = gate_judge(g, p, now);
	if (verdict == GATE_ENTERED && !gate_take(g, p))
		verdict = GATE_NO_MEMORY;
	else if (verdict == GATE_WAIT && !gate_join(g, limits))
		verdict = GATE_FULL;
	else if (verdict == GATE_WAIT && !gate_queue(g, p))
		verdict = GATE_NO_MEMORY;
	if (verdict != GATE_ENTERED && verdict != GATE_WAIT)
		gate_out(p);
	gate_unlock(g, &woken);
	return verdict;
}

static enum gate_verdict
gate_judge(struct gate *g, const struct gate_place *p, uint64_t now)
{
	const struct gate_limits *l = &g->limits;

	if (g->down)
		return p->probe && !g->draining && gate_has_room(g)
		    ? GATE_ENTERED
		    : GATE_DOWN;
	if (g->n_heap == 0 && gate_is_open(g))
		return GATE_ENTERED;
	/* Sessions may last long, so nobody waits for their end. */
	if (l->max_sessions != 0 && g->sessions >= l->max_sessions)
		return GATE_FULL;
	return now < p->give_up ? GATE_WAIT : GATE_FULL;
}

static bool
gate_has_room(const struct gate *g)
{
	const struct gate_limits *l = &g->limits;

	return (l->max_connecting == 0 || g->connecting < l->max_connecting) &&
	    (l->max_sessions == 0 || g->sessions < l->max_sessions);
}

static bool
gate_is_open(const struct gate *g)
{
	return !g->down && !g->draining && gate_has_room(g) &&
	    (g->ramp == 0 || g->unproved < g->ramp);
}

/* Counts one more waiter unless there are too many. */
static bool
gate_join(struct gate *g, const struct gate_limits *limits)
{
	if (atomic_fetch_add(&g->waiting, 1) < limits->max_waiting)
		return true;
	atomic_fetch_sub(&g->waiting, 1);
	return false;
}

static void
gate_out(struct gate_place *p)
{
	p->standing = GATE_OUTSIDE;
	p->gate = NULL;
	p->lock = NULL;
	p->hold = NULL;
	p->turn = NULL;
}

enum gate_verdict
gate_told(struct gate_place *p)
{
	p->woken = false;
	if (p->verdict != GATE_ENTERED)
		gate_out(p);
	return p->verdict;
}

enum gate_verdict
gate_poll(struct gate_place *p, uint64_t now)
{
	enum gate_verdict verdict = GATE_WAIT;
	struct gate_woken woken;
	struct gate *g = p->gate;

	if (p->hold != NULL)
		return gate_hold_poll(p, now);
	gate_lock(g, &woken);
	if (p->woken) {
		p->due = now + GATE_WOKEN_MS;
	} else if (now >= p->give_up) {
		gate_unqueue(g, p);
		gate_out(p);
		verdict = GATE_TIMEOUT;
	}
	gate_unlock(g, &woken);
	return verdict;
}

/* Places */

static bool
gate_take(struct gate *g, struct gate_place *p)
{
	if (p->turn == NULL)
		p->turn = gate_client(g, p->client);
	if (p->turn == NULL)
		return false;
	p->turn->places++;
	g->connecting++;
	g->sessions++;
	g->unproved++;
	p->era = g->era;
	p->standing = GATE_CONNECTING;
	return true;
}

/* The place is no longer a connecting one. */
static void
gate_connected(struct gate *g, struct gate_place *p)
{
	struct gate_client *c = p->turn;

	g->connecting--;
	if (!p->proved && p->era == g->era)
		g->unproved--;
	p->turn = NULL;
	c->places--;
	if (c->waiting != NULL)
		gate_heap_fix(g, c);
	gate_client_done(g, c);
}

void
gate_prove(struct gate_place *p)
{
	struct gate_woken woken;
	struct gate *g = p->gate;

	if (g == NULL)
		return;
	gate_lock(g, &woken);
	if (p->standing == GATE_CONNECTING && !p->proved) {
		p->proved = true;
		if (p->era == g->era)
			g->unproved--;
	}
	gate_unlock(g, &woken);
}

void
gate_settle(struct gate_place *p)
{
	struct gate_woken woken;
	struct gate *g = p->gate;

	gate_lock(g, &woken);
	assert(p->standing == GATE_CONNECTING);
	gate_connected(g, p);
	p->standing = GATE_SESSION;
	gate_unlock(g, &woken);
}

bool
gate_leave(struct gate_place *p)
{
	pthread_mutex_t *lock = p->lock;
	struct gate_woken woken = {NULL, &woken.first};
	struct gate *g = p->gate;
	bool done;

	if (lock == NULL)
		return true;
	pthread_mutex_lock(lock);
	switch (p->standing) {
	case GATE_OUTSIDE:
		break;
	case GATE_QUEUED:
		gate_unqueue(g, p);
		break;
	case GATE_HELD:
		gate_hold_unlink(p);
		break;
	case GATE_CONNECTING:
		gate_connected(g, p);
		g->sessions--;
		break;
	case GATE_SESSION:
		g->sessions--;
		break;
	}
	done = !p->woken;
	if (lock == &g->lock)
		gate_admit(g, &woken);
	gate_out(p);
	pthread_mutex_unlock(lock);
	gate_wake(&woken);
	return done;
}

/* Turns */

/* Gives the free places away. */
static void
gate_admit(struct gate *g, struct gate_woken *woken)
{
	while (g->n_heap > 0 && gate_is_open(g)) {
		struct gate_place *p = g->heap[0]->waiting;

		/* Must precede its removal from the queue, which may forget
		 * its client. */
		gate_take(g, p);
		gate_unqueue(g, p);
		p->standing = GATE_CONNECTING;
		gate_tell(woken, p, GATE_ENTERED);
	}
}

/* False: no memory. */
static bool
gate_queue(struct gate *g, struct gate_place *p)
{
	struct gate_client *c = gate_client(g, p->client);
	bool first = c != NULL && c->waiting == NULL;

	if (c == NULL) {
		atomic_fetch_sub(&g->waiting, 1);
		return false;
	}
	p->turn = c;
	p->arrival = g->arrivals++;
	p->standing = GATE_QUEUED;
	DL_APPEND(c->waiting, p);
	if (!first || gate_heap_add(g, c))
		return true;
	c->waiting = NULL;
	gate_client_done(g, c);
	atomic_fetch_sub(&g->waiting, 1);
	return false;
}

static void
gate_unqueue(struct gate *g, struct gate_place *p)
{
	struct gate_client *c = p->turn;

	atomic_fetch_sub(&g->waiting, 1);
	if (c->waiting == p && p->next == NULL) {
		gate_heap_remove(g, c);
		c->waiting = NULL;
		gate_client_done(g, c);
	} else {
		DL_DELETE(c->waiting, p);
		gate_heap_fix(g, c);
	}
	p->standing = GATE_OUTSIDE;
}

/* Sends all of them away. */
static void
gate_dismiss(struct gate *g, enum gate_verdict verdict,
    struct gate_woken *woken)
{
	struct gate_place *p, *next;

	while (g->n_heap > 0) {
		struct gate_client *c = g->heap[--g->n_heap];

		for (p = c->waiting; p != NULL; p = next) {
			next = p->next;
			p->standing = GATE_OUTSIDE;
			atomic_fetch_sub(&g->waiting, 1);
			gate_tell(woken, p, verdict);
		}
		c->waiting = NULL;
		gate_client_done(g, c);
	}
}

/* Finds or makes it. Returns NULL if memory is short. */
static struct gate_client *
gate_client(struct gate *g, uint64_t key)
{
	unsigned hash = (unsigned)key; /* it is a keyed hash itself */
	struct gate_client *c;

	HASH_FIND_BYHASHVALUE(hh, g->clients, &key, sizeof(key), hash, c);
	if (c == g->idle)
		g->idle = NULL;
	if (c != NULL)
		return c;
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return NULL;
	c->key = key;
	HASH_ADD_BYHASHVALUE(hh, g->clients, key, sizeof(c->key), hash, c);
	if (c->hh.tbl == NULL) {
		free(c);
		return NULL;
	}
	return c;
}

/* Nothing may be left of it. */
static void
gate_client_done(struct gate *g, struct gate_client *c)
{
	if (c->places > 0 || c->waiting != NULL)
		return;
	if (g->idle != NULL)
		gate_client_forget(g, g->idle);
	g->idle = c;
}

static void
gate_client_forget(struct gate *g, struct gate_client *c)
{
	HASH_DEL(g->clients, c);
	free(c);
}

static bool
gate_before(const struct gate_client *a, const struct gate_client *b)
{
	if (a->places != b->places)
		return a->places < b->places;
	/* Only those who wait are in the heap. */
	assert(a->waiting != NULL && b->waiting != NULL);
	return a->waiting->arrival < b->waiting->arrival;
}

static bool
gate_heap_add(struct gate *g, struct gate_client *c)
{
	if (g->n_heap == g->heap_room) {
		size_t room = g->heap_room > 0 ? 2 * g->heap_room : 16;
		struct gate_client **heap =
		    realloc(g->heap, room * sizeof(struct gate_client *));

		if (heap == NULL)
			return false;
		g->heap = heap;
		g->heap_room = room;
	}
	gate_heap_put(g, g->n_heap++, c);
	gate_heap_fix(g, c);
	return true;
}

static void
gate_heap_remove(struct gate *g, struct gate_client *c)
{
	struct gate_client *last = g->heap[--g->n_heap];

	if (last == c)
		return;
	gate_heap_put(g, c->at, last);
	gate_heap_fix(g, last);
}

/* Moves it up or down to its right position. */
static void
gate_heap_fix(struct gate *g, struct gate_client *c)
{
	size_t i = c->at;

	for (; i > 0 && gate_before(c, g->heap[(i - 1) / 2]); i = (i - 1) / 2)
		gate_heap_put(g, i, g->heap[(i - 1) / 2]);
	for (;;) {
		size_t below = 2 * i + 1;

		if (below + 1 < g->n_heap &&
		    gate_before(g->heap[below + 1], g->heap[below]))
			below++;
		if (below >= g->n_heap || !gate_before(g->heap[below], c))
			break;
		gate_heap_put(g, i, g->heap[below]);
		i = below;
	}
	gate_heap_put(g, i, c);
}

static void
gate_heap_put(struct gate *g, size_t i, struct gate_client *c)
{
	g->heap[i] = c;
	c->at = i;
}

/* The destination's state */

void
gate_shut(struct gate *g)
{
	struct gate_woken woken;

	gate_lock(g, &woken);
	g->down = true;
	gate_dismiss(g, GATE_DOWN, &woken);
	gate_unlock(g, &woken);
}

void
gate_recover(struct gate *g, unsigned unproved)
{
	struct gate_woken woken;

	gate_lock(g, &woken);
	g->down = false;
	g->era++;
	g->unproved = 0;
	g->ramp = unproved;
	gate_unlock(g, &woken);
}

void
gate_ramp(struct gate *g, unsigned unproved)
{
	struct gate_woken woken;

	gate_lock(g, &woken);
	g->ramp = unproved;
	gate_unlock(g, &woken);
}

void
gate_drain(struct gate *g, bool on)
{
	struct gate_woken woken;

	gate_lock(g, &woken);
	if (g->draining && !on)
		gate_dismiss(g, GATE_AGAIN, &woken);
	g->draining = on;
	gate_unlock(g, &woken);
}

void
gate_count(struct gate *g, struct gate_counts *out)
{
	pthread_mutex_lock(&g->lock);
	out->connecting = g->connecting;
	out->sessions = g->sessions;
	out->waiting = g->waiting;
	out->draining = g->draining;
	pthread_mutex_unlock(&g->lock);
}

/* Holds */

static struct gate_shard *
gate_shard_lock(const char *key)
{
	struct gate_shard *sh =
	    &gate_shard[hash_keyed(key, strlen(key)) % GATE_HOLD_SHARDS];

	pthread_mutex_lock(&sh->lock);
	return sh;
}

/* An expired lease ends here at the latest. */
static struct gate_hold *
gate_hold_find(struct gate_shard *sh, const char *key, uint64_t now,
    struct gate_woken *woken)
{
	struct gate_hold *h;

	HASH_FIND(hh, sh->table, key, strlen(key), h);
	if (h == NULL || now < h->until)
		return h;
	gate_hold_end(h, woken);
	return NULL;
}

bool
gate_hold(const char *key, const char *note, uint64_t until, uint64_t now)
{
	struct gate_woken woken = {NULL, &woken.first};
	struct gate_shard *sh = gate_shard_lock(key);
	struct gate_hold *h = gate_hold_find(sh, key, now, &woken);
	bool ok = true;

	if (gate_n_holds >= GATE_HOLDS_MAX)
		gate_hold_sweep(sh, now, &woken);
	if (h == NULL) {
		h = gate_hold_add(sh, key, note);
		ok = h != NULL;
	} else if (until < h->until) {
		/* They would check again too late. */
		gate_hold_dismiss(h, &woken);
	}
	if (ok)
		h->until = until;
	pthread_mutex_unlock(&sh->lock);
	gate_wake(&woken);
	return ok;
}

static struct gate_hold *
gate_hold_add(struct gate_shard *sh, const char *key, const char *note)
{
	size_t key_size = strlen(key) + 1, note_size = strlen(note) + 1;
	struct gate_hold *h;

	if (atomic_fetch_add(&gate_n_holds, 1) >= GATE_HOLDS_MAX)
		goto fail;
	h = calloc(1, sizeof(*h) + key_size + note_size);
	if (h == NULL)
		goto fail;
	memcpy(h->key, key, key_size);
	h->note = h->key + key_size;
	memcpy(h->note, note, note_size);
	h->shard = sh;
	HASH_ADD_KEYPTR(hh, sh->table, h->key, key_size - 1, h);
	if (h->hh.tbl != NULL)
		return h;
	free(h);
fail:
	atomic_fetch_sub(&gate_n_holds, 1);
	return NULL;
}

/* Makes room in a shard, because a client that died leaves its leases. */
static void
gate_hold_sweep(struct gate_shard *sh, uint64_t now, struct gate_woken *woken)
{
	struct gate_hold *h, *tmp;

	HASH_ITER (hh, sh->table, h, tmp) {
		if (now >= h->until)
			gate_hold_end(h, woken);
	}
}

static void
gate_hold_dismiss(struct gate_hold *h, struct gate_woken *woken)
{
	struct gate_place *p, *next;

	for (p = h->waiting; p != NULL; p = next) {
		next = p->next;
		p->standing = GATE_OUTSIDE;
		atomic_fetch_sub(&p->gate->waiting, 1);
		gate_tell(woken, p, GATE_AGAIN);
	}
	h->waiting = NULL;
	h->n_waiting = 0;
}

static void
gate_hold_end(struct gate_hold *h, struct gate_woken *woken)
{
	gate_hold_dismiss(h, woken);
	HASH_DEL(h->shard->table, h);
	free(h);
	atomic_fetch_sub(&gate_n_holds, 1);
}

bool
gate_release(const char *key, uint64_t now)
{
	struct gate_woken woken = {NULL, &woken.first};
	struct gate_shard *sh = gate_shard_lock(key);
	struct gate_hold *h = gate_hold_find(sh, key, now, &woken);
	bool held = h != NULL;

	if (held)
		gate_hold_end(h, &woken);
	pthread_mutex_unlock(&sh->lock);
	gate_wake(&woken);
	return held;
}

bool
gate_is_held(const char *key, uint64_t now, uint64_t *until_out)
{
	struct gate_shard *sh = gate_shard_lock(key);
	struct gate_hold *h;
	bool held;

	HASH_FIND(hh, sh->table, key, strlen(key), h);
	held = h != NULL && now < h->until;
	if (held && until_out != NULL)
		*until_out = h->until;
	pthread_mutex_unlock(&sh->lock);
	return held;
}

enum gate_verdict
gate_check_hold(struct gate *g, struct gate_place *p,
    const struct gate_limits *limits, const char *key, uint64_t now)
{
	const char *domain = identifier_domain(key);
	enum gate_verdict verdict;

	if (gate_n_holds == 0)
		return GATE_ENTERED;
	verdict = gate_hold_wait(g, p, limits, key, now);
	if (verdict == GATE_ENTERED && domain != NULL && domain != key)
		verdict = gate_hold_wait(g, p, limits, domain, now);
	return verdict;
}

static enum gate_verdict
gate_hold_wait(struct gate *g, struct gate_place *p,
    const struct gate_limits *limits, const char *key, uint64_t now)
{
	struct gate_woken woken = {NULL, &woken.first};
	struct gate_shard *sh = gate_shard_lock(key);
	struct gate_hold *h = gate_hold_find(sh, key, now, &woken);
	enum gate_verdict verdict = GATE_ENTERED;

	if (h != NULL && (now >= p->give_up || !gate_join(g, limits))) {
		verdict = GATE_FULL;
	} else if (h != NULL) {
		verdict = GATE_WAIT;
		p->gate = g;
		p->lock = &sh->lock;
		p->hold = h;
		p->woken = false;
		p->standing = GATE_HELD;
		p->due = gate_sooner(p->give_up, h->until);
		DL_APPEND(h->waiting, p);
		h->n_waiting++;
	}
	pthread_mutex_unlock(&sh->lock);
	gate_wake(&woken);
	return verdict;
}

static void
gate_hold_unlink(struct gate_place *p)
{
	DL_DELETE(p->hold->waiting, p);
	p->hold->n_waiting--;
	atomic_fetch_sub(&p->gate->waiting, 1);
	p->standing = GATE_OUTSIDE;
}

static enum gate_verdict
gate_hold_poll(struct gate_place *p, uint64_t now)
{
	struct gate_woken woken = {NULL, &woken.first};
	pthread_mutex_t *lock = p->lock;
	enum gate_verdict verdict = GATE_WAIT;

	pthread_mutex_lock(lock);
	if (p->woken)
		p->due = now + GATE_WOKEN_MS;
	else if (now >= p->hold->until)
		verdict = GATE_AGAIN;
	else if (now >= p->give_up)
		verdict = GATE_TIMEOUT;
	else
		p->due = gate_sooner(p->give_up, p->hold->until);
	if (verdict != GATE_WAIT)
		gate_hold_unlink(p);
	if (verdict == GATE_AGAIN)
		gate_hold_end(p->hold, &woken);
	if (verdict != GATE_WAIT)
		gate_out(p);
	pthread_mutex_unlock(lock);
	gate_wake(&woken);
	return verdict;
}

static uint64_t
gate_sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void
gate_holds(uint64_t now,
    void (*each)(void *arg, const char *key, const char *note, uint64_t until,
	size_t waiting),
    void *arg)
{
	struct gate_hold *h, *tmp;

	for (size_t i = 0; i < GATE_HOLD_SHARDS; i++) {
		pthread_mutex_lock(&gate_shard[i].lock);
		HASH_ITER (hh, gate_shard[i].table, h, tmp) {
			if (now < h->until)
				each(arg, h->key, h->note, h->until,
				    h->n_waiting);
		}
		pthread_mutex_unlock(&gate_shard[i].lock);
	}
}

void
gate_holds_clear(void)
{
	for (size_t i = 0; i < GATE_HOLD_SHARDS; i++) {
		struct gate_woken woken = {NULL, &woken.first};

		pthread_mutex_lock(&gate_shard[i].lock);
		gate_hold_sweep(&gate_shard[i], UINT64_MAX, &woken);
		pthread_mutex_unlock(&gate_shard[i].lock);
		gate_wake(&woken);
	}
}
