/* hash.c: a keyed hash for tables. */

#include "platform/hash.h"

#include <stdlib.h>
#include <string.h>

#include <sodium.h>

static unsigned char hash_key[crypto_shorthash_KEYBYTES];

void
hash_init(void)
{
	if (sodium_init() < 0)
		abort();
	crypto_shorthash_keygen(hash_key);
}

uint64_t
hash_keyed(const void *data, size_t len)
{
	unsigned char out[crypto_shorthash_BYTES];
	uint64_t value;

	crypto_shorthash(out, data, len, hash_key);
	memcpy(&value, out, sizeof(value));
	return value;
}
