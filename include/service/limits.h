/* limits.h: the limits of one client address: concurrent connections, and
 * refused logins within a window (config: limits). IPv6 addresses count per
 * /64. The process has one table, sharded and bounded, with a keyed hash. When
 * it is full, the least recently used address without a connection is
 * forgotten. */

#ifndef SERVICE_LIMITS_H
#define SERVICE_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#include "platform/addr.h"
#include "config/config.h"

enum limits_entry {
	LIMITS_COUNTED, /* the caller must call limits_leave() */
	LIMITS_FREE, /* no limit, an exempt address or none: not counted */
	LIMITS_FULL /* it has reached its limit */
};

/* Counts one more connection from a. */
enum limits_entry limits_enter(const struct config_limits *rules,
    const struct addr *a) MUST_CHECK;
/* Ends a connection that was COUNTED; the rules may have changed since. */
void limits_leave(const struct addr *a);

/* A login from a was refused. credentials: hash_keyed() of all of them. Those
 * that were refused before, among the last ten of that address, do not count
 * again: a phone with an old password must not throttle everybody behind its
 * address. now: clock_ms(). */
void limits_refused(const struct config_limits *rules, const struct addr *a,
    uint64_t credentials, uint64_t now);

/* Returns true if a had auth_failures_per_ip refused logins in a window. */
bool limits_throttled(const struct config_limits *rules, const struct addr *a,
    uint64_t now);

/* Forgets everything. For tests. */
void limits_clear(void);

#endif
