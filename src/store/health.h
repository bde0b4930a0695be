/* health.h: a store that fails is not asked for a while: 0.1 s, then
 * twice as long each time, up to 5 s; and then by one request, while the others
 * fail at once, until that has an answer. Logs when it begins and ends. */

#ifndef STORE_HEALTH_H
#define STORE_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct store_health {
	const char *name; /* "Redis": for logs */
	uint64_t backoff; /* the last pause; 0: all is well */
	uint64_t retry_at;
	uint64_t probe_until; /* one request is finding out; 0: none is */
	char reason[160]; /* why there is a pause; printable */
};

/* No connection should be made now. */
bool store_health_is_paused(const struct store_health *h);
/* Whether one more request may be made, which has an answer in timeout ms. */
bool store_health_may_ask(struct store_health *h, uint64_t timeout);
void store_health_failed(struct store_health *h, const char *reason);
/* It has answered. */
void store_health_well(struct store_health *h);

/* The pause after one of last ms. */
uint64_t store_backoff(uint64_t last);

#endif
