/* clock.h: time that never jumps. Only logs and certificates use the wall
 * clock. */

#ifndef PLATFORM_CLOCK_H
#define PLATFORM_CLOCK_H

#include <stdint.h>
#include <sys/time.h>

/* Returns the milliseconds of CLOCK_MONOTONIC; never 0. */
uint64_t clock_ms(void);

/* Converts milliseconds for libevent. */
struct timeval clock_timeval(uint64_t ms);

#endif
