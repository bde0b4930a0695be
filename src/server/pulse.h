/* pulse.h: checks that every worker's loop runs.
 *
 * In a round one item goes through each worker's mailbox and back to the main
 * thread's. Mailboxes keep their order, so at the end of a round the workers
 * have also taken everything that was posted before the round. */

#ifndef SERVER_PULSE_H
#define SERVER_PULSE_H

#include <stddef.h>

#include "platform/util.h"

struct mailbox;
struct pulse;

/* Calls beat(arg) on own's thread at the end of each round. Returns NULL if
 * memory is short. The mailboxes are borrowed. */
struct pulse *pulse_new(struct mailbox *own, struct mailbox *const *workers,
    size_t n, void (*beat)(void *arg), void *arg) MUST_CHECK;

/* Begins a round. Does nothing during a round, so that a worker that does not
 * answer is noticed. */
void pulse_ask(struct pulse *p);

/* Does the same, but a round in flight does not count: it is not reported, and
 * another one follows it. */
void pulse_ask_anew(struct pulse *p);

/* Ends rounds and calls, because the workers are about to end. */
void pulse_stop(struct pulse *p);

/* Call after own and the workers' mailboxes are freed. */
void pulse_free(struct pulse **p);

#endif
