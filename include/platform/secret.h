/* secret.h: memory for passwords and tokens.
 *
 * A struct secret lies inside its owner. Its bytes are on the heap, and they
 * are wiped when they are replaced, grown or cleared. It is not a C string: it
 * may contain NUL, and it is not terminated. */

#ifndef PLATFORM_SECRET_H
#define PLATFORM_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

struct secret {
	char *data; /* NULL when empty */
	size_t len;
};

/* Replaces the content of s by a copy of data. Returns false if memory is
 * short; s is then empty. A zeroed struct is a valid empty secret. */
bool secret_set(struct secret *s, const void *data, size_t len) MUST_CHECK;

/* Wipes the content of s and allocates len uninitialised bytes. Returns false
 * if memory is short; s is then empty. */
bool secret_reserve(struct secret *s, size_t len) MUST_CHECK;

/* Clears to and moves the content of from to it; from is then empty. */
void secret_move(struct secret *to, struct secret *from);

/* Wipes and frees; safe on an empty or cleared secret. */
void secret_clear(struct secret *s);

/* Overwrites memory in a way that no compiler removes. */
void secret_wipe(void *data, size_t len);

/* malloc(3) and friends, which wipe memory before they free it. For
 * event_set_mem_functions(3) and CRYPTO_set_mem_functions(3): by themselves
 * both libraries free buffers with passwords without wiping them. */
void *secret_malloc(size_t size);
void *secret_realloc(void *p, size_t size);
void secret_free(void *p);

#endif
