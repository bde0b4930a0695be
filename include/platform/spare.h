/* spare.h: memory put aside for a library that cannot do without.
 *
 * libevent ends the process when some of its small allocations fail. Between
 * spare_begin() and spare_end() those of this thread do not fail, as long as
 * they come through secret_malloc(). */

#ifndef PLATFORM_SPARE_H
#define PLATFORM_SPARE_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

#define SPARE_BLOCKS 12
#define SPARE_SIZE 1024 /* octets of each */

/* False: no memory; spare_end() is not called then. */
bool spare_begin(void) MUST_CHECK;
void spare_end(void);

/* For secret_malloc(), when malloc(3) has failed. Returns a block for free(3),
 * or NULL. */
void *spare_take(size_t size);

#endif
