/* destination.c: an endpoint as all workers see it.
 *
 * Its gate has the places; here is the breaker, which tells the gate when it is
 * down, up again, and how fast it may open. The breaker has a lock of its own,
 * which a healthy destination never takes; the gate's is taken inside it. What
 * was learnt is one atomic word. */

#include "service/destination.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "platform/util.h"
#include "service/learnt.h"

/* As many distinct clients are told apart as host_down_min_clients may want. */
#define DESTINATION_CLIENTS 64
#define DESTINATION_RAMP 2 /* let in at first after a recovery */
#define DESTINATION_RAMP_MAX 4096 /* beyond: recovered */
#define DESTINATION_KNOWN 64 /* clients it has let in, the latest few */

struct destination {
	atomic_uint refs;
	char *name;
	struct gate *gate;
	atomic_bool troubled; /* anything below is set */
	pthread_mutex_t lock;
	unsigned failures; /* consecutive */
	unsigned host_failures; /* of those: the host's own */
	/* Up: who had failures; down: whose probes had, since probes_since. */
	uint64_t client[DESTINATION_CLIENTS];
	unsigned n_clients;
	unsigned n_counted; /* of those: not by their own login alone */
	uint64_t probes_since;
	uint64_t down_until; /* 0: up */
	uint64_t cooldown; /* that it was marked down for */
	bool probing;
	unsigned ramp; /* unproved logins while it recovers; 0 = all */
	/* By their hashes; a newer one takes an older one's slot. */
	_Atomic uint64_t known[DESTINATION_KNOWN];
	struct learnt learnt;
	atomic_flag warned;
};

static bool destination_may_enter(struct destination *d, struct gate_place *p,
    uint64_t now);
static bool destination_may_probe(const struct destination *d, uint64_t now,
    uint64_t client);
static void destination_probe_over(struct destination *d, struct gate_place *p);
static bool destination_recover(struct destination *d);
static bool destination_counts(struct destination *d,
    const struct gate_place *p, enum destination_fault *fault);
static bool destination_knows(const struct destination *d, uint64_t client);
static void destination_count(struct destination *d, const struct gate_place *p,
    enum destination_fault fault);
static bool destination_is_enough(const struct destination *d,
    const struct destination_health *rules);
static void destination_mark(struct destination *d,
    const struct destination_health *rules, uint64_t now);
static void destination_probe_failed(struct destination *d,
    const struct gate_place *p, const struct destination_health *rules,
    uint64_t now, enum destination_fault fault, bool counts);
static bool destination_has_client(const struct destination *d,
    uint64_t client);
static bool destination_note_client(struct destination *d, uint64_t client);
static unsigned destination_wanted(const struct destination_health *rules);

struct destination *
destination_new(const struct config_destination *cfg)
{
	struct destination *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->refs = 1;
	pthread_mutex_init(&d->lock, NULL);
	d->name = strdup(cfg->name);
	d->gate = gate_new();
	if (d->name == NULL || d->gate == NULL)
		destination_unref(&d);
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
	gate_free(&d->gate);
	pthread_mutex_destroy(&d->lock);
	free(d->name);
	free(d);
}

const char *
destination_name(const struct destination *d)
{
	return d->name;
}

struct gate *
destination_gate(struct destination *d)
{
	return d->gate;
}

/* Places */

enum gate_verdict
destination_enter(struct destination *d, struct gate_place *p,
    const struct config_destination *cfg, const char *key, uint64_t now)
{
	const struct gate_limits limits = {
	    cfg->max_connecting, cfg->max_sessions, cfg->max_waiting};
	enum gate_verdict verdict;

	p->probe = false;
	verdict = gate_check_hold(d->gate, p, &limits, key, now);
	if (verdict != GATE_ENTERED)
		return verdict;
	if (d->troubled && !destination_may_enter(d, p, now))
		return GATE_DOWN;
	verdict = gate_enter(d->gate, p, &limits, now);
	if (verdict != GATE_ENTERED)
		destination_probe_over(d, p);
	return verdict;
}

/* False: it is down. p may have become the probe. */
static bool
destination_may_enter(struct destination *d, struct gate_place *p, uint64_t now)
{
	bool down;

	pthread_mutex_lock(&d->lock);
	down = d->down_until != 0;
	p->probe = down && destination_may_probe(d, now, p->client);
	if (p->probe)
		d->probing = true;
	pthread_mutex_unlock(&d->lock);
	return !down || p->probe;
}

/* Admits one probe at a time, and no client whose last probe may have failed
 * through its own fault. Otherwise a banned client that tries all day would be
 * every probe, and everybody would wait for it. */
static bool
destination_may_probe(const struct destination *d, uint64_t now,
    uint64_t client)
{
	if (d->probing || now < d->down_until)
		return false;
	return now >= d->probes_since + d->cooldown ||
	    !destination_has_client(d, client);
}

void
destination_logged_in(struct destination *d, struct gate_place *p)
{
	d->known[p->client % DESTINATION_KNOWN] = p->client;
	gate_settle(p);
}

bool
destination_leave(struct destination *d, struct gate_place *p)
{
	destination_probe_over(d, p);
	return gate_leave(p);
}

static void
destination_probe_over(struct destination *d, struct gate_place *p)
{
	if (!p->probe)
		return;
	pthread_mutex_lock(&d->lock);
	d->probing = false;
	pthread_mutex_unlock(&d->lock);
	p->probe = false;
}

/* Health */

bool
destination_worked(struct destination *d, struct gate_place *p)
{
	bool was_down;

	if (!d->troubled)
		return false;
	pthread_mutex_lock(&d->lock);
	d->failures = d->host_failures = d->n_clients = d->n_counted = 0;
	was_down = destination_recover(d);
	if (!was_down && d->ramp != 0) {
		d->ramp *= 2;
		if (d->ramp > DESTINATION_RAMP_MAX)
			d->ramp = 0;
		gate_ramp(d->gate, d->ramp);
	}
	d->troubled = d->ramp != 0;
	pthread_mutex_unlock(&d->lock);
	p->probe = false;
	gate_prove(p);
	return was_down;
}

bool
destination_at_work(struct destination *d, struct gate_place *p)
{
	bool was_down;

	pthread_mutex_lock(&d->lock);
	was_down = destination_recover(d);
	pthread_mutex_unlock(&d->lock);
	if (was_down)
		p->probe = false;
	gate_prove(p);
	return was_down;
}

/* From down to up. False: it was up. */
static bool
destination_recover(struct destination *d)
{
	if (d->down_until == 0)
		return false;
	d->down_until = 0;
	d->probing = false;
	d->ramp = DESTINATION_RAMP;
	gate_recover(d->gate, d->ramp);
	return true;
}

bool
destination_failed(struct destination *d, const struct gate_place *p,
    const struct destination_health *rules, uint64_t now,
    enum destination_fault fault)
{
	bool counts, marks = false;

	if (rules->threshold == 0)
		return false;
	pthread_mutex_lock(&d->lock);
	counts = destination_counts(d, p, &fault);
	if (d->down_until != 0 && p->probe) {
		destination_probe_failed(d, p, rules, now, fault, counts);
	} else if (d->down_until == 0 && counts) {
		/* Who entered before it was down says nothing new. */
		d->troubled = true;
		destination_count(d, p, fault);
		marks = destination_is_enough(d, rules);
		if (marks)
			destination_mark(d, rules, now);
	}
	pthread_mutex_unlock(&d->lock);
	return marks;
}

/* The rule of destination.h. *fault may become another one. */
static bool
destination_counts(struct destination *d, const struct gate_place *p,
    enum destination_fault *fault)
{
	struct gate_counts n;

	switch (*fault) {
	case DESTINATION_HOST:
	case DESTINATION_EARLY:
		return true;
	case DESTINATION_TURNED_AWAY:
		gate_count(d->gate, &n);
		*fault = DESTINATION_EARLY;
		return n.sessions == n.connecting;
	case DESTINATION_LOGIN:
		return destination_knows(d, p->client);
	}
	return false;
}

static bool
destination_knows(const struct destination *d, uint64_t client)
{
	return d->known[client % DESTINATION_KNOWN] == client;
}

static void
destination_count(struct destination *d, const struct gate_place *p,
    enum destination_fault fault)
{
	bool is_new =
	    fault != DESTINATION_HOST && destination_note_client(d, p->client);

	if (is_new)
		d->n_counted++;
	if (fault == DESTINATION_HOST)
		d->host_failures++;
	if (fault != DESTINATION_LOGIN || is_new)
		d->failures++;
}

/* Enough failures of the host's own, or of enough clients. */
static bool
destination_is_enough(const struct destination *d,
    const struct destination_health *rules)
{
	return d->host_failures >= rules->threshold ||
	    (d->failures >= rules->threshold &&
		d->n_counted >= destination_wanted(rules));
}

/* Down, for a cooldown from now on. */
static void
destination_mark(struct destination *d, const struct destination_health *rules,
    uint64_t now)
{
	d->cooldown = rules->cooldown;
	d->down_until = now + d->cooldown;
	d->n_clients = d->n_counted = 0;
	gate_shut(d->gate);
}

/* What one client may be to blame for leaves the next probe to another one,
 * until so many have failed that it cannot be them. */
static void
destination_probe_failed(struct destination *d, const struct gate_place *p,
    const struct destination_health *rules, uint64_t now,
    enum destination_fault fault, bool counts)
{
	if (d->n_clients == 0 || now >= d->probes_since + d->cooldown) {
		d->n_clients = d->n_counted = 0;
		d->probes_since = now;
	}
	if (destination_note_client(d, p->client) && counts)
		d->n_counted++;
	if (fault == DESTINATION_HOST ||
	    (counts && d->n_counted >= destination_wanted(rules)))
		destination_mark(d, rules, now);
}

static bool
destination_has_client(const struct destination *d, uint64_t client)
{
	for (unsigned i = 0; i < d->n_clients; i++)
		if (d->client[i] == client)
			return true;
	return false;
}

/* True: it was not there. */
static bool
destination_note_client(struct destination *d, uint64_t client)
{
	if (destination_has_client(d, client) ||
	    d->n_clients == DESTINATION_CLIENTS)
		return false;
	d->client[d->n_clients++] = client;
	return true;
}

static unsigned
destination_wanted(const struct destination_health *rules)
{
	return rules->min_clients < DESTINATION_CLIENTS ? rules->min_clients
							: DESTINATION_CLIENTS;
}

void
destination_reset(struct destination *d)
{
	pthread_mutex_lock(&d->lock);
	d->failures = d->host_failures = d->n_clients = d->n_counted = 0;
	d->down_until = 0;
	d->probing = false;
	d->ramp = 0;
	gate_recover(d->gate, 0);
	d->troubled = false;
	pthread_mutex_unlock(&d->lock);
	learnt_forget_all(&d->learnt);
}

void
destination_figures(struct destination *d, struct destination_figures *out)
{
	pthread_mutex_lock(&d->lock);
	out->failures = d->failures;
	out->host_failures = d->host_failures;
	out->clients = d->n_clients;
	out->down_until = d->down_until;
	out->state = d->down_until != 0 ? DESTINATION_DOWN
	    : d->ramp != 0		? DESTINATION_RECOVERING
					: DESTINATION_UP;
	gate_count(d->gate, &out->gate);
	pthread_mutex_unlock(&d->lock);
	if (out->gate.draining)
		out->state = DESTINATION_DRAIN;
}

const char *
destination_state_name(enum destination_state state)
{
	static const char *const names[] = {
	    [DESTINATION_UP] = "up",
	    [DESTINATION_DOWN] = "down",
	    [DESTINATION_RECOVERING] = "recovering",
	    [DESTINATION_DRAIN] = "drain",
	};
	_Static_assert(ARRAY_LEN(names) == DESTINATION_STATES, "unnamed state");

	return names[state];
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

struct learnt *
destination_memory(struct destination *d)
{
	return &d->learnt;
}

bool
destination_first_warning(struct destination *d)
{
	return !atomic_flag_test_and_set(&d->warned);
}
