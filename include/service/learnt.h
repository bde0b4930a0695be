/* learnt.h: what logins have found out about the servers behind one
 * destination, as bits of the login code's own, per server address: two
 * servers behind one name may differ. Shared by all workers, without a lock.
 * Time is an argument (clock_ms()). */

#ifndef SERVICE_LEARNT_H
#define SERVICE_LEARNT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "platform/addr.h"

#define LEARNT_MS (10 * 60 * 1000) /* then it is forgotten */
#define LEARNT_BITS 16 /* usable bits */
#define LEARNT_SLOTS 8 /* servers remembered at once; more push others out */

/* A zeroed struct is a valid empty one. */
struct learnt {
	/* From the top: 26 bits of the address's hash, 22 bits of the second
	 * in which it is forgotten, the bits. */
	_Atomic uint64_t slot[LEARNT_SLOTS];
};

/* False: nothing is known of that server. */
bool learnt_get(const struct learnt *l, const struct addr *server, uint64_t now,
    uint32_t *bits_out);
void learnt_set(struct learnt *l, const struct addr *server, uint64_t now,
    uint32_t bits);
void learnt_forget(struct learnt *l, const struct addr *server);
void learnt_forget_all(struct learnt *l);

#endif
