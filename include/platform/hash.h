/* hash.h: the keyed hash (libsodium's SipHash-2-4) for every table whose keys a
 * stranger can choose. Each process has a random key. */

#ifndef PLATFORM_HASH_H
#define PLATFORM_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Call once, before any other function and before any thread starts. Aborts if
 * the system has no randomness. */
void hash_init(void);

uint64_t hash_keyed(const void *data, size_t len);

#endif
