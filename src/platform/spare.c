/* spare.c: blocks of malloc(3)'s, kept for as long as they may be needed. */

#include "platform/spare.h"

#include <stdlib.h>

static _Thread_local struct {
	void *block[SPARE_BLOCKS];
	size_t n;
} spare;

bool
spare_begin(void)
{
	while (spare.n < SPARE_BLOCKS) {
		spare.block[spare.n] = malloc(SPARE_SIZE);
		if (spare.block[spare.n] == NULL) {
			spare_end();
			return false;
		}
		spare.n++;
	}
	return true;
}

void
spare_end(void)
{
	while (spare.n > 0)
		free(spare.block[--spare.n]);
}

void *
spare_take(size_t size)
{
	if (spare.n == 0 || size > SPARE_SIZE)
		return NULL;
	return spare.block[--spare.n];
}
