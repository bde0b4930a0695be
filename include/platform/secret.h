/* secret.h: memory for passwords and tokens.
 *
 * A struct secret lives inside its owner; its bytes are on the heap, wiped
 * when they are replaced, grown or cleared. It is not a C string: it may hold
 * NUL, and is not terminated. */

#ifndef PLATFORM_SECRET_H
#define PLATFORM_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

struct secret {
	char *data; /* NULL when empty */
	size_t len;
};

/* Replaces what s holds by a copy of data. False: no memory, s is empty.
 * A zeroed struct is a valid empty secret. */
bool secret_set(struct secret *s, const void *data, size_t len) MUST_CHECK;

/* Makes room for len bytes, uninitialised, s->len = len; the former content
 * is wiped. False: no memory, s is empty. */
bool secret_reserve(struct secret *s, size_t len) MUST_CHECK;

/* Moves what from holds to to, which is cleared first; from is empty then. */
void secret_move(struct secret *to, struct secret *from);

/* Wipes and frees; safe on an empty or already cleared secret. */
void secret_clear(struct secret *s);

/* Overwrites memory in a way that no compiler leaves out. */
void secret_wipe(void *data, size_t len);

/* malloc(3) and friends, but whatever is given back is wiped first. For
 * event_set_mem_functions(3) and CRYPTO_set_mem_functions(3): both libraries
 * free buffers that held passwords as they are. */
void *secret_malloc(size_t size);
void *secret_realloc(void *p, size_t size);
void secret_free(void *p);

#endif
