/* destination.c: a backend as all workers see it. Counters and one word of
 * knowledge, all atomic: nobody waits. */

#include "service/destination.h"

#include <stdatomic.h>
#include <stdlib.h>

struct destination {
	atomic_uint refs;
	atomic_uint connecting, sessions; /* sessions: connecting included */
	/* Low half: the bits; high half: the second in which they expire. */
	_Atomic uint64_t learnt;
};

static bool destination_take(atomic_uint *count, unsigned max);

struct destination *
destination_new(const struct config_destination *cfg UNUSED)
{
	struct destination *d = calloc(1, sizeof(*d));

	if (d != NULL)
		d->refs = 1;
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
	if (d != NULL && --d->refs == 0)
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

bool
destination_enter(struct destination *d, const struct config_destination *cfg)
{
	if (!destination_take(&d->sessions, cfg->max_sessions))
		return false;
	if (destination_take(&d->connecting, cfg->max_connecting))
		return true;
	atomic_fetch_sub(&d->sessions, 1);
	return false;
}

void
destination_logged_in(struct destination *d)
{
	atomic_fetch_sub(&d->connecting, 1);
}

void
destination_leave(struct destination *d, bool logged_in)
{
	if (!logged_in)
		atomic_fetch_sub(&d->connecting, 1);
	atomic_fetch_sub(&d->sessions, 1);
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
