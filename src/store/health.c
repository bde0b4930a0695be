/* health.c: see health.h. */

#include "health.h"

#include <string.h>

#include "platform/clock.h"
#include "platform/log.h"

#define STORE_BACKOFF_MIN 100 /* ms */
#define STORE_BACKOFF_MAX 5000

uint64_t
store_backoff(uint64_t last)
{
	if (last == 0)
		return STORE_BACKOFF_MIN;
	return last < STORE_BACKOFF_MAX / 2 ? last * 2 : STORE_BACKOFF_MAX;
}

bool
store_health_is_paused(const struct store_health *h)
{
	return h->backoff != 0 && clock_ms() < h->retry_at;
}

bool
store_health_may_ask(struct store_health *h, uint64_t timeout)
{
	uint64_t now = clock_ms();

	if (h->backoff == 0)
		return true;
	if (now < h->retry_at || now < h->probe_until)
		return false;
	h->probe_until = now + timeout;
	return true;
}

void
store_health_failed(struct store_health *h, const char *reason)
{
	struct log_line l;

	/* Connections that hang together are one failure. */
	if (store_health_is_paused(h))
		return;
	log_begin(&l, LOG_ERR, "the store fails");
	log_cstr(&l, "store", h->name);
	log_cstr(&l, "reason", reason);
	log_end(&l);
	h->backoff = store_backoff(h->backoff);
	h->retry_at = clock_ms() + h->backoff;
	h->probe_until = 0;
	log_escape(reason, strlen(reason), h->reason, sizeof(h->reason));
}

void
store_health_well(struct store_health *h)
{
	struct log_line l;

	if (h->backoff == 0)
		return;
	h->backoff = h->probe_until = 0;
	log_begin(&l, LOG_WARNING, "the store answers again");
	log_cstr(&l, "store", h->name);
	log_end(&l);
}
