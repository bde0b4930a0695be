/* learnt.c: one word per server: a read is one load. A reader sees the whole
 * word or the former one; two servers that share a slot only forget each
 * other. */

#include "service/learnt.h"

#include <assert.h>

#include "platform/hash.h"

#define LEARNT_TIME_BITS 22
#define LEARNT_TIME_MASK ((UINT64_C(1) << LEARNT_TIME_BITS) - 1)
#define LEARNT_MASK ((UINT64_C(1) << LEARNT_BITS) - 1)
#define LEARNT_KEY_SHIFT (LEARNT_TIME_BITS + LEARNT_BITS)

static uint64_t learnt_key(const struct addr *server);

bool
learnt_get(const struct learnt *l, const struct addr *server, uint64_t now,
    uint32_t *bits_out)
{
	uint64_t key = learnt_key(server);
	uint64_t word = l->slot[key % LEARNT_SLOTS];
	uint64_t left = (word >> LEARNT_BITS) - now / 1000;

	/* The seconds wrap after 48 days: what is left is a difference. */
	left &= LEARNT_TIME_MASK;
	if (word == 0 || word >> LEARNT_KEY_SHIFT != key || left == 0 ||
	    left > LEARNT_MS / 1000)
		return false;
	*bits_out = (uint32_t)(word & LEARNT_MASK);
	return true;
}

void
learnt_set(struct learnt *l, const struct addr *server, uint64_t now,
    uint32_t bits)
{
	uint64_t key = learnt_key(server);
	uint64_t until = (now + LEARNT_MS) / 1000 & LEARNT_TIME_MASK;

	assert((bits & ~LEARNT_MASK) == 0);
	l->slot[key % LEARNT_SLOTS] =
	    key << LEARNT_KEY_SHIFT | until << LEARNT_BITS | bits;
}

void
learnt_forget(struct learnt *l, const struct addr *server)
{
	uint64_t key = learnt_key(server);

	if (l->slot[key % LEARNT_SLOTS] >> LEARNT_KEY_SHIFT == key)
		l->slot[key % LEARNT_SLOTS] = 0;
}

void
learnt_forget_all(struct learnt *l)
{
	for (int i = 0; i < LEARNT_SLOTS; i++)
		l->slot[i] = 0;
}

/* Of the address and the port: two ports are two servers. */
static uint64_t
learnt_key(const struct addr *server)
{
	return hash_keyed(&server->u, server->len) >> LEARNT_KEY_SHIFT;
}
