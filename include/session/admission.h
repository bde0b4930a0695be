/* admission.h: what one connection counts in: its listener's connections, and
 * those of its client's address.
 *
 * It is given back when the socket is closed, which may be after the session:
 * a socket that lingers is a descriptor like any other. */

#ifndef SESSION_ADMISSION_H
#define SESSION_ADMISSION_H

#include <stdbool.h>

struct addr;
struct admission;

/* gone(arg): the connection is no more. NULL: no memory, and gone is not
 * called. */
struct admission *admission_new(void (*gone)(void *arg), void *arg);

/* limits_enter() has counted it under this address; instead of another one. */
void admission_count(struct admission *a, const struct addr *addr);
/* The address was not the one. */
void admission_uncount(struct admission *a);

/* One more owner. Each one releases it, and the last one gives it back. */
struct admission *admission_hold(struct admission *a);
void admission_release(struct admission **a);

#endif
