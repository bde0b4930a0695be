/* turn.c: a place of the gate with a mailbox. */

#include "session/turn.h"

#include <stdlib.h>

#include "net/mailbox.h"
#include "service/destination.h"

struct turn {
	struct gate_place place; /* first: turn_wake() */
	struct turn_spec spec;
	struct mailbox_item item;
	struct destination *destination; /* where it has entered */
	bool freed; /* but for the message that is under way */
};

static void turn_wake(struct gate_place *p);
static void turn_message(void *arg);

struct turn *
turn_new(const struct turn_spec *spec)
{
	struct turn *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return NULL;
	t->spec = *spec;
	t->item.fn = turn_message;
	t->item.arg = t;
	t->place.wake = turn_wake;
	t->place.client = spec->client;
	t->place.give_up = spec->give_up;
	return t;
}

void
turn_free(struct turn **tp)
{
	struct turn *t = *tp;
	bool done = true;

	*tp = NULL;
	if (t == NULL)
		return;
	if (t->destination != NULL)
		done = destination_leave(t->destination, &t->place);
	destination_unref(&t->destination);
	t->freed = true;
	if (done)
		free(t);
}

enum gate_verdict
turn_enter(struct turn *t, struct destination *d,
    const struct config_destination *cfg, const char *key, uint64_t now)
{
	destination_unref(&t->destination);
	t->destination = destination_ref(d);
	return destination_enter(d, &t->place, cfg, key, now);
}

/* From any thread. */
static void
turn_wake(struct gate_place *p)
{
	struct turn *t = (struct turn *)(void *)p;

	mailbox_post(t->spec.mailbox, &t->item);
}

static void
turn_message(void *arg)
{
	struct turn *t = arg;

	if (t->freed)
		free(t);
	else
		t->spec.woken(t->spec.arg, gate_told(&t->place));
}

enum gate_verdict
turn_poll(struct turn *t, uint64_t now)
{
	return gate_poll(&t->place, now);
}

uint64_t
turn_due(const struct turn *t)
{
	return t->place.due;
}

bool
turn_is_held(const struct turn *t)
{
	return t->place.hold != NULL;
}

struct gate_place *
turn_place(struct turn *t)
{
	return &t->place;
}
