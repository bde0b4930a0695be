/* hash.h: the keyed hash (SipHash-2-4, by libsodium) under every table whose
 * keys a stranger may choose. The key is random per process. */

#ifndef PLATFORM_HASH_H
#define PLATFORM_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Once, before any other call and before any thread; aborts when the system
 * has no randomness. */
void hash_init(void);

uint64_t hash_keyed(const void *data, size_t len);

#endif
