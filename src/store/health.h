/* health.h: pauses after failures of a store. A store that fails is not asked
 * for 0.1 s, then twice as long each time, up to 5 s. Then one request probes
 * it, and the others fail at once until the probe has an answer. Logs the begin
 * and the end. */

#ifndef STORE_HEALTH_H
#define STORE_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct store_health {
	const char *name; /* "Redis": for logs */
	uint64_t backoff; /* the last pause; 0: the store works */
	uint64_t retry_at;
	uint64_t probe_until; /* one request probes; 0: none does */
	char reason[160]; /* why there is a pause; printable */
};

/* Returns true if no connection should be made now. */
bool store_health_is_paused(const struct store_health *h);
/* Returns true if one more request may be made, with an answer within timeout
 * ms. */
bool store_health_may_ask(struct store_health *h, uint64_t timeout);
void store_health_failed(struct store_health *h, const char *reason);
/* The store has answered. */
void store_health_well(struct store_health *h);

/* Returns the pause that follows one of last ms. */
uint64_t store_backoff(uint64_t last);

#endif
