/* destination.c: a backend as all workers see it. Counters and one word of
 * knowledge are atomic: nobody waits. The breaker has a lock, which a healthy
 * destination never takes. */

#include "service/destination.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* As many distinct clients are told apart as host_down_min_clients may want. */
#define DESTINATION_CLIENTS 64
#define DESTINATION_RAMP 2 /* let in at first after a recovery */

struct destination {
	atomic_uint refs;
	char *name;
	atomic_bool troubled; /* anything below is set */
	pthread_mutex_t lock;
	unsigned failures; /* consecutive */
	unsigned host_failures; /* of those: the host's own */
	/* Up: who had failures; down: whose probes had, since probes_since. */
	uint64_t client[DESTINATION_CLIENTS];
	unsigned n_clients;
	uint64_t probes_since;
	uint64_t down_until; /* 0: up */
	uint64_t cooldown; /* that it was marked down for */
	bool probing;
	unsigned ramp; /* connecting at once while it recovers; 0 = all */
	atomic_uint connecting, sessions; /* sessions: connecting included */
	/* Low half: the bits; high half: the second in which they expire. */
	_Atomic uint64_t learnt;
};

static bool destination_take(atomic_uint *count, unsigned max);
static enum destination_entry destination_gate(struct destination *d,
    uint64_t now, uint64_t client, unsigned *max);
static bool destination_may_probe(const struct destination *d, uint64_t now,
    uint64_t client);
static void destination_probe_over(struct destination *d);
static void destination_mark(struct destination *d,
    const struct destination_health *rules, uint64_t now);
static void destination_probe_failed(struct destination *d,
    const struct destination_health *rules, uint64_t now, bool host,
    uint64_t client);
static bool destination_has_client(const struct destination *d,
    uint64_t client);
static void destination_note_client(struct destination *d, uint64_t client);
static unsigned destination_wanted(const struct destination_health *rules);

struct destination *
destination_new(const struct config_destination *cfg)
{
	struct destination *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->name = strdup(cfg->name);
	if (d->name == NULL) {
		free(d);
		return NULL;
	}
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
	free(d->name);
	free(d);
}

const char *
destination_name(const struct destination *d)
{
	return d->name;
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
destination_gate(struct destination *d, uint64_t now, uint64_t client,
    unsigned *max)
{
	enum destination_entry entry = DESTINATION_ENTERED;

	if (!d->troubled)
		return DESTINATION_ENTERED;
	pthread_mutex_lock(&d->lock);
	if (d->down_until != 0 && !destination_may_probe(d, now, client)) {
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

/* One at a time, and nobody whose last probe may have failed by its own doing:
 * a banned client that tries all day would be every probe, and everybody would
 * wait for it. */
static bool
destination_may_probe(const struct destination *d, uint64_t now,
    uint64_t client)
{
	if (d->probing || now < d->down_until)
		return false;
	return now >= d->probes_since + d->cooldown ||
	    !destination_has_client(d, client);
}

enum destination_entry
destination_enter(struct destination *d, const struct config_destination *cfg,
    uint64_t now, uint64_t client)
{
	unsigned max = cfg->max_connecting;
	enum destination_entry entry = destination_gate(d, now, client, &max);

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

bool
destination_at_work(struct destination *d)
{
	bool was_down;

	pthread_mutex_lock(&d->lock);
	was_down = d->down_until != 0;
	if (was_down) {
		d->down_until = 0;
		d->probing = false;
		d->ramp = DESTINATION_RAMP;
	}
	pthread_mutex_unlock(&d->lock);
	return was_down;
}

static bool
destination_has_client(const struct destination *d, uint64_t client)
{
	for (unsigned i = 0; i < d->n_clients; i++)
		if (d->client[i] == client)
			return true;
	return false;
}

static void
destination_note_client(struct destination *d, uint64_t client)
{
	if (!destination_has_client(d, client) &&
	    d->n_clients < DESTINATION_CLIENTS)
		d->client[d->n_clients++] = client;
}

static unsigned
destination_wanted(const struct destination_health *rules)
{
	return rules->min_clients < DESTINATION_CLIENTS ? rules->min_clients
							: DESTINATION_CLIENTS;
}

bool
destination_failed(struct destination *d,
    const struct destination_health *rules, uint64_t now, bool host,
    uint64_t client, bool probe)
{
	bool marks = false;

	if (rules->threshold == 0)
		return false;
	pthread_mutex_lock(&d->lock);
	if (d->down_until != 0) {
		/* Who entered before it was down says nothing new. */
		if (probe)
			destination_probe_failed(d, rules, now, host, client);
		pthread_mutex_unlock(&d->lock);
		return false;
	}
	d->troubled = true;
	d->failures++;
	if (host)
		d->host_failures++;
	else
		destination_note_client(d, client);
	/* Enough failures of the host's own, or of enough clients. */
	if (d->host_failures >= rules->threshold ||
	    (d->failures >= rules->threshold &&
		d->n_clients >= destination_wanted(rules))) {
		destination_mark(d, rules, now);
		marks = true;
	}
	pthread_mutex_unlock(&d->lock);
	return marks;
}

/* Down, for a cooldown from now on. */
static void
destination_mark(struct destination *d, const struct destination_health *rules,
    uint64_t now)
{
	d->cooldown = rules->cooldown;
	d->down_until = now + d->cooldown;
	d->n_clients = 0;
}

/* What one client may be to blame for leaves the next probe to another one,
 * until so many have failed that it cannot be them. */
static void
destination_probe_failed(struct destination *d,
    const struct destination_health *rules, uint64_t now, bool host,
    uint64_t client)
{
	if (d->n_clients == 0 || now >= d->probes_since + d->cooldown) {
		d->n_clients = 0;
		d->probes_since = now;
	}
	destination_note_client(d, client);
	if (host || d->n_clients >= destination_wanted(rules))
		destination_mark(d, rules, now);
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
