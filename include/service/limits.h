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

/* One more connection from a. False: it has as many as it may. A limit of 0,
 * an exempt address, no address: true, and nothing is counted; the same rules
 * must then come with limits_leave(). */
bool limits_enter(const struct config_limits *rules,
    const struct addr *a) MUST_CHECK;
void limits_leave(const struct config_limits *rules, const struct addr *a);

/* A login from a was refused; now: clock_ms(). */
void limits_refused(const struct config_limits *rules, const struct addr *a,
    uint64_t now);

/* Whether that has happened auth_failures_per_ip times in a window. */
bool limits_throttled(const struct config_limits *rules, const struct addr *a,
    uint64_t now);

/* Forgets everything. For tests. */
void limits_clear(void);

#endif
