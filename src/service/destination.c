/* destination.c: a backend as all workers see it. Counters and one word of
 * knowledge are atomic: nobody waits. The breaker has a lock, which a healthy
 * destination never takes. */

#include "service/destination.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* As many distinct clients are told apart as host_down_min_clients may want. */
#define DESTINATION_CLIENTS 64
#define DESTINATION_RAMP 2 /* let in at first after a recovery */

struct destination {
	atomic_uint refs;
	atomic_bool troubled; /* anything below is set */
	pthread_mutex_t lock;
	unsigned failures; /* consecutive */
	unsigned host_failures; /* of those: the host's own */
	uint64_t client[DESTINATION_CLIENTS];
	unsigned n_clients;
	uint64_t down_until; /* 0: up */
	bool probing;
	unsigned ramp; /* connecting at once while it recovers; 0 = all */
	atomic_uint connecting, sessions; /* sessions: connecting included */
	/* Low half: the bits; high half: the second in which they expire. */
	_Atomic uint64_t learnt;
};

static bool destination_take(atomic_uint *count, unsigned max);
static enum destination_entry destination_gate(struct destination *d,
    uint64_t now, unsigned *max);
static void destination_probe_over(struct destination *d);
static void destination_note_client(struct destination *d, uint64_t client);

struct destination *
destination_new(const struct config_destination *cfg UNUSED)
{
	struct destination *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->refs = 1;
	pthread_mutex_init(&d->lock, NULL);
	return d;
}

struct destination *
destination_ref(struct destination *d)
{
	d->refs++;
	return d;
}

void
destination_unref(struct destination **dp)
{
	struct destination *d = *dp;

	*dp = NULL;
	if (d == NULL || --d->refs > 0)
		return;
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* One more, unless that were more than max (0: no limit). */
static bool
destination_take(atomic_uint *count, unsigned max)
{
	if (atomic_fetch_add(count, 1) < max || max == 0)
		return true;
	atomic_fetch_sub(count, 1);
	return false;
}

/* What the breaker says; *max gets smaller while the destination recovers. */
static enum destination_entry
destination_gate(struct destination *d, uint64_t now, unsigned *max)
{
	enum destination_entry entry = DESTINATION_ENTERED;

	if (!d->troubled)
		return DESTINATION_ENTERED;
	pthread_mutex_lock(&d->lock);
	if (d->down_until != 0 && (now < d->down_until || d->probing)) {
		entry = DESTINATION_DOWN;
	} else if (d->down_until != 0) {
		d->probing = true;
		entry = DESTINATION_PROBE;
	} else if (d->ramp != 0 && (*max == 0 || d->ramp < *max)) {
		*max = d->ramp;
	}
	pthread_mutex_unlock(&d->lock);
	return entry;
}

enum destination_entry
destination_enter(struct destination *d, const struct config_destination *cfg,
    uint64_t now)
{
	unsigned max = cfg->max_connecting;
	enum destination_entry entry = destination_gate(d, now, &max);

	if (entry == DESTINATION_DOWN)
		return entry;
	if (destination_take(&d->sessions, cfg->max_sessions)) {
		if (destination_take(&d->connecting, max))
			return entry;
		atomic_fetch_sub(&d->sessions, 1);
	}
	if (entry == DESTINATION_PROBE)
		destination_probe_over(d);
	return DESTINATION_FULL;
}

void
destination_logged_in(struct destination *d)
{
	atomic_fetch_sub(&d->connecting, 1);
}

void
destination_leave(struct destination *d, bool logged_in, bool probe)
{
	if (!logged_in)
		atomic_fetch_sub(&d->connecting, 1);
	atomic_fetch_sub(&d->sessions, 1);
	if (probe)
		destination_probe_over(d);
}

static void
destination_probe_over(struct destination *d)
{
	pthread_mutex_lock(&d->lock);
	d->probing = false;
	pthread_mutex_unlock(&d->lock);
}

bool
destination_worked(struct destination *d)
{
	bool was_down;

	if (!d->troubled)
		return false;
	pthread_mutex_lock(&d->lock);
	was_down = d->down_until != 0;
	d->failures = d->host_failures = d->n_clients = 0;
	d->down_until = 0;
	d->probing = false;
	if (was_down)
		d->ramp = DESTINATION_RAMP;
	else if (d->ramp != 0)
		d->ramp *= 2;
	if (d->ramp > 4096)
		d->ramp = 0;
	d->troubled = d->ramp != 0;
	pthread_mutex_unlock(&d->lock);
	return was_down;
}

static void
destination_note_client(struct destination *d, uint64_t client)
{
	for (unsigned i = 0; i < d->n_clients; i++)
		if (d->client[i] == client)
			return;
	if (d->n_clients < DESTINATION_CLIENTS)
		d->client[d->n_clients++] = client;
}

bool
destination_failed(struct destination *d,
    const struct destination_health *rules, uint64_t now, bool host,
    uint64_t client)
{
	unsigned wanted = rules->min_clients < DESTINATION_CLIENTS
	    ? rules->min_clients
	    : DESTINATION_CLIENTS;
	bool marks = false;

	if (rules->threshold == 0)
		return false;
	pthread_mutex_lock(&d->lock);
	d->troubled = true;
	d->failures++;
	if (host)
		d->host_failures++;
	else
		destination_note_client(d, client);
	/* Enough failures of the host's own, or of enough clients. */
	if (d->down_until != 0 || d->host_failures >= rules->threshold ||
	    (d->failures >= rules->threshold && d->n_clients >= wanted)) {
		marks = d->down_until == 0;
		d->down_until = now + rules->cooldown;
	}
	pthread_mutex_unlock(&d->lock);
	return marks;
}

bool
destination_is_troubled(const struct destination *d)
{
	return d->troubled;
}

bool
destination_is_down(struct destination *d)
{
	bool down;

	pthread_mutex_lock(&d->lock);
	down = d->down_until != 0;
	pthread_mutex_unlock(&d->lock);
	return down;
}

bool
destination_learnt(const struct destination *d, uint64_t now,
    uint32_t *bits_out)
{
	uint64_t learnt = d->learnt;

	if (learnt >> 32 <= now / 1000)
		return false;
	*bits_out = (uint32_t)learnt;
	return true;
}

void
destination_learn(struct destination *d, uint64_t now, uint32_t bits)
{
	d->learnt = (now + DESTINATION_LEARNT_MS) / 1000 << 32 | bits;
}

void
destination_unlearn(struct destination *d)
{
	d->learnt = 0;
}
