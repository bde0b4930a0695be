/* clock.h: time that never jumps. Only logs and certificates look at the wall
 * clock. */

#ifndef PLATFORM_CLOCK_H
#define PLATFORM_CLOCK_H

#include <stdint.h>
#include <sys/time.h>

/* Milliseconds of CLOCK_MONOTONIC; never 0. */
uint64_t clock_ms(void);

/* Milliseconds as libevent wants them. */
struct timeval clock_timeval(uint64_t ms);

#endif
