/* pulse.h: whether every worker's loop turns.
 *
 * A round is an item through each worker's mailbox and back into the main
 * thread's. Mailboxes keep their order, so the end of a round says as well that
 * the workers have taken whatever was posted to them before it began. */

#ifndef SERVER_PULSE_H
#define SERVER_PULSE_H

#include <stddef.h>

#include "platform/util.h"

struct mailbox;
struct pulse;

/* beat(arg) is called on own's thread at the end of each round. NULL: no
 * memory. The mailboxes are borrowed. */
struct pulse *pulse_new(struct mailbox *own, struct mailbox *const *workers,
    size_t n, void (*beat)(void *arg), void *arg) MUST_CHECK;

/* Begins a round. While one is under way this does nothing: a worker that does
 * not answer is to be noticed. */
void pulse_ask(struct pulse *p);

/* As pulse_ask(), but a round that is under way does not count: it is not
 * reported, and another follows it. */
void pulse_ask_anew(struct pulse *p);

/* No more rounds and no more calls: the workers are about to go. */
void pulse_stop(struct pulse *p);

/* When own and the workers' mailboxes are gone. */
void pulse_free(struct pulse **p);

#endif
