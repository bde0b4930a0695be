/* limits.h: how much one client address may have: connections at once, and
 * refused logins within a window (config: limits). IPv6 addresses count per
 * /64. One table for the process, sharded, keyed hash, bounded: when it is
 * full, the longest unused address without a connection is forgotten. */

#ifndef SERVICE_LIMITS_H
#define SERVICE_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#include "platform/addr.h"
#include "config/config.h"

enum limits_entry {
	LIMITS_COUNTED, /* limits_leave() is owed */
	LIMITS_FREE, /* no limit, an exempt address or none: not counted */
	LIMITS_FULL /* it has as many as it may */
};

/* One more connection from a. */
enum limits_entry limits_enter(const struct config_limits *rules,
    const struct addr *a) MUST_CHECK;
/* For what was COUNTED; the rules may have changed since. */
void limits_leave(const struct addr *a);

/* A login from a was refused. credentials: hash_keyed() of all of them. Those
 * that were refused before, among the last ten of that address, do not count
 * again: a phone with an old password must not throttle everybody behind its
 * address. now: clock_ms(). */
void limits_refused(const struct config_limits *rules, const struct addr *a,
    uint64_t credentials, uint64_t now);

/* Whether that has happened auth_failures_per_ip times in a window. */
bool limits_throttled(const struct config_limits *rules, const struct addr *a,
    uint64_t now);

/* Forgets everything. For tests. */
void limits_clear(void);

#endif
