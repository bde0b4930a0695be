/* destination.h: what the workers share about one backend: how many
 * connections it has, and what it has been seen to understand. */

#ifndef SERVICE_DESTINATION_H
#define SERVICE_DESTINATION_H

#include <stdbool.h>
#include <stdint.h>

#include "platform/config.h"

struct destination;

/* One reference, the caller's. NULL: no memory. cfg is only read here. */
struct destination *destination_new(const struct config_destination *cfg);
struct destination *destination_ref(struct destination *d);
void destination_unref(struct destination **d);

/* A connection that is not logged in yet takes a place among max_connecting
 * and max_sessions; false: there is none. It is given back by _gone(), and
 * logged_in moves it from the former to the latter. */
bool destination_enter(struct destination *d,
    const struct config_destination *cfg) MUST_CHECK;
void destination_logged_in(struct destination *d);
void destination_leave(struct destination *d, bool logged_in);

/* What a login found out about the backend, as bits of the login code's own.
 * Kept DESTINATION_LEARNT_MS; now: clock_ms(). */
#define DESTINATION_LEARNT_MS (10 * 60 * 1000)
bool destination_learnt(const struct destination *d, uint64_t now,
    uint32_t *bits_out);
void destination_learn(struct destination *d, uint64_t now, uint32_t bits);
void destination_unlearn(struct destination *d);

#endif
