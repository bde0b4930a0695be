/* channel.h: the common part of the channels that report changes in a store:
 * subscribes again after pauses, and reports that changes may have been
 * missed. */

#ifndef STORE_CHANNEL_H
#define STORE_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include <event2/event.h>

#include "store/store.h"

struct store_channel {
	const char *store; /* "Redis": for logs */
	struct event *timer; /* the user's callback; NULL: not used */
	uint64_t backoff; /* the last pause; 0: all is well */
	store_changed *changed;
	void *arg;
};

/* again(fd, what, st) is called when it is time for another attempt. Returns
 * false if memory is short. */
bool store_channel_init(struct store_channel *ch, const char *store,
    struct event_base *base, event_callback_fn again, struct store *st,
    store_changed *changed, void *arg);
void store_channel_clear(struct store_channel *ch);

/* It listens from now on, and the server has said so: what was changed before
 * has not been heard of, also if this is the first time. */
void store_channel_up(struct store_channel *ch);
/* Somebody has said this; "" is about everything. NULL: nobody knows what. */
void store_channel_heard(struct store_channel *ch, const char *text,
    size_t len);
/* The channel is lost and will try again. */
void store_channel_lost(struct store_channel *ch, const char *reason);
/* again() is called after so many ms. */
void store_channel_after(struct store_channel *ch, uint64_t ms);

#endif
