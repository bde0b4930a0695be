/* turn.h: one login's wait at the gate, and its place behind it, as the thread
 * of its session sees them.
 *
 * The gate may end a wait from any thread. A turn brings that to its own
 * thread by its mailbox, and lives on until the message has come when it was
 * freed in between. */

#ifndef SESSION_TURN_H
#define SESSION_TURN_H

#include "service/gate.h"

struct config_destination;
struct destination;
struct mailbox;
struct turn;

struct turn_spec {
	struct mailbox *mailbox; /* the thread's */
	uint64_t client; /* addr_client_hash() */
	uint64_t give_up; /* clock_ms(): no longer wait than until then */
	/* The wait is over: ENTERED, AGAIN or DOWN. */
	void (*woken)(void *arg, enum gate_verdict verdict);
	void *arg;
};

/* NULL: no memory. */
struct turn *turn_new(const struct turn_spec *spec);
/* Gives up the wait or gives the place back; woken() is not called any more.
 * NULL inside is fine. */
void turn_free(struct turn **t);

/* As destination_enter(); again after AGAIN. Takes a reference to d. */
enum gate_verdict turn_enter(struct turn *t, struct destination *d,
    const struct config_destination *cfg, const char *key,
    uint64_t now) MUST_CHECK;
/* While it waits: at turn_due(), as gate_poll(). */
enum gate_verdict turn_poll(struct turn *t, uint64_t now) MUST_CHECK;
uint64_t turn_due(const struct turn *t);
/* Whether it waits because the account is held. */
bool turn_is_held(const struct turn *t);

/* For the backend leg. t's. */
struct gate_place *turn_place(struct turn *t);

#endif
