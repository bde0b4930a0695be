/* store_health.h: a store that fails is not asked for a while: 0.1 s, then
 * twice as long each time, up to 5 s. Logs when that begins and ends. */

#ifndef STORE_HEALTH_H
#define STORE_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct store_health {
	const char *name; /* "Redis": for logs */
	uint64_t backoff; /* the last pause; 0: all is well */
	uint64_t retry_at;
	char reason[160]; /* why there is a pause; printable */
};

bool store_health_is_paused(const struct store_health *h);
void store_health_failed(struct store_health *h, const char *reason);
/* It has answered. */
void store_health_well(struct store_health *h);

/* The pause after one of last ms. */
uint64_t store_backoff(uint64_t last);

#endif
