/* channel.c: see channel.h. */

#include "channel.h"

#include <string.h>

#include "platform/clock.h"
#include "platform/log.h"
#include "health.h"

bool
store_channel_init(struct store_channel *ch, const char *store,
    struct event_base *base, event_callback_fn again, struct store *st,
    store_changed *changed, void *arg)
{
	ch->store = store;
	ch->changed = changed;
	ch->arg = arg;
	ch->timer = evtimer_new(base, again, st);
	return ch->timer != NULL;
}

void
store_channel_clear(struct store_channel *ch)
{
	if (ch->timer != NULL)
		event_free(ch->timer);
	ch->timer = NULL;
}

void
store_channel_up(struct store_channel *ch)
{
	ch->backoff = 0;
	ch->changed(ch->arg, NULL);
}

void
store_channel_heard(struct store_channel *ch, const char *text, size_t len)
{
	bool whole = text != NULL && len > 0 && strlen(text) == len;

	/* One with a NUL in it is no key. */
	ch->changed(ch->arg, whole ? text : NULL);
}

void
store_channel_lost(struct store_channel *ch, const char *reason)
{
	struct log_line l;

	log_begin(&l, LOG_WARNING, "the store's channel is lost");
	log_cstr(&l, "store", ch->store);
	log_cstr(&l, "reason", reason);
	log_end(&l);
	ch->backoff = store_backoff(ch->backoff);
	store_channel_after(ch, ch->backoff);
}

void
store_channel_after(struct store_channel *ch, uint64_t ms)
{
	struct timeval tv = clock_timeval(ms);

	evtimer_add(ch->timer, &tv);
}
