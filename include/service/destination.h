/* destination.h: what the workers share about one endpoint of a destination,
 * that is, about one host, port and protocol: how many connections it has,
 * whether it is well, and what it has been seen to understand. One port that
 * is dead says nothing about the host's other ports. Time is an argument
 * (clock_ms()). */

#ifndef SERVICE_DESTINATION_H
#define SERVICE_DESTINATION_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

struct destination;

/* One reference, the caller's. NULL: no memory. cfg is only read here. */
struct destination *destination_new(const struct config_destination *cfg);
struct destination *destination_ref(struct destination *d);
void destination_unref(struct destination **d);
/* As configured; lives as long as d, which outlives its configuration. */
const char *destination_name(const struct destination *d);

enum destination_entry {
	DESTINATION_ENTERED,
	DESTINATION_PROBE, /* entered, as the one that finds out */
	DESTINATION_DOWN, /* it is down: a quick answer */
	DESTINATION_FULL /* max_connecting, max_sessions, or recovering */
};

/* A connection that is not logged in yet takes a place among max_connecting
 * and max_sessions. A destination that is down lets nobody in until its
 * cooldown is over, and then one connection at a time, the probe. One that has
 * just come back lets in few at a time, twice as many after each success, so
 * that those who waited do not stampede it. client: addr_client_hash(). */
enum destination_entry destination_enter(struct destination *d,
    const struct config_destination *cfg, uint64_t now,
    uint64_t client) MUST_CHECK;
/* Moves its place from the connecting ones to the sessions alone. */
void destination_logged_in(struct destination *d);
/* Gives the place back. probe: what destination_enter() said; a probe that
 * goes without a verdict leaves the next one to find out. */
void destination_leave(struct destination *d, bool logged_in, bool probe);

/* The circuit breaker's rules, from config.server. */
struct destination_health {
	unsigned threshold; /* consecutive failures; 0 = never down */
	unsigned min_clients; /* of failures after the connect; 0 = any */
	uint64_t cooldown; /* ms */
};

/* It has answered a login: it is well. True: it was down. */
bool destination_worked(struct destination *d);
/* It has been busy with a login for longer than failing takes. If it was down,
 * it is up, and others are let in; but what has failed so far still counts, for
 * there are backends that think about it and then hang up. True: it was. */
bool destination_at_work(struct destination *d);
/* It could not. host: the fault was before or in the connect, and so the
 * host's; otherwise it may be this client's doing (a backend that bans a
 * forwarded address hangs up), and counts only with others'. client, probe: as
 * in destination_enter(). True: that was the one that marks it down.
 *
 * While it is down only probes count. One of the host's own failures is another
 * cooldown for everybody, one that may be its client's doing for that client
 * only, until probes of min_clients have failed within a cooldown. */
bool destination_failed(struct destination *d,
    const struct destination_health *rules, uint64_t now, bool host,
    uint64_t client, bool probe);
/* Whether destination_worked() would change anything; takes no lock. */
bool destination_is_troubled(const struct destination *d);
bool destination_is_down(struct destination *d);

/* What a login found out about the backend, as bits of the login code's own.
 * Kept DESTINATION_LEARNT_MS; now: clock_ms(). */
#define DESTINATION_LEARNT_MS (10 * 60 * 1000)
bool destination_learnt(const struct destination *d, uint64_t now,
    uint32_t *bits_out);
void destination_learn(struct destination *d, uint64_t now, uint32_t bits);
void destination_unlearn(struct destination *d);

#endif
