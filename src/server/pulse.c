/* pulse.c: one item per worker, which goes there and comes back. */

#include "pulse.h"

#include <stdbool.h>
#include <stdlib.h>

#include "net/mailbox.h"

struct pulse_worker {
	struct pulse *pulse;
	struct mailbox *mailbox;
	struct mailbox_item item; /* in one mailbox at a time */
};

struct pulse {
	struct mailbox *own;
	void (*beat)(void *arg);
	void *arg;
	size_t n, missing; /* answers that are still to come */
	bool anew, stopped;
	struct pulse_worker worker[];
};

static void pulse_at_worker(void *arg);
static void pulse_back(void *arg);

struct pulse *
pulse_new(struct mailbox *own, struct mailbox *const *workers, size_t n,
    void (*beat)(void *arg), void *arg)
{
	struct pulse *p = calloc(1, sizeof(*p) + n * sizeof(p->worker[0]));

	if (p == NULL)
		return NULL;
	p->own = own;
	p->beat = beat;
	p->arg = arg;
	p->n = n;
	for (size_t i = 0; i < n; i++) {
		p->worker[i].pulse = p;
		p->worker[i].mailbox = workers[i];
	}
	return p;
}

void
pulse_ask(struct pulse *p)
{
	if (p->missing > 0 || p->stopped)
		return;
	p->missing = p->n;
	for (size_t i = 0; i < p->n; i++) {
		struct pulse_worker *w = &p->worker[i];

		w->item.fn = pulse_at_worker;
		w->item.arg = w;
		mailbox_post(w->mailbox, &w->item);
	}
}

void
pulse_ask_anew(struct pulse *p)
{
	if (p->missing > 0)
		p->anew = true;
	else
		pulse_ask(p);
}

/* On the worker's thread. */
static void
pulse_at_worker(void *arg)
{
	struct pulse_worker *w = arg;

	w->item.fn = pulse_back;
	mailbox_post(w->pulse->own, &w->item);
}

static void
pulse_back(void *arg)
{
	struct pulse *p = ((struct pulse_worker *)arg)->pulse;

	if (--p->missing > 0 || p->stopped)
		return;
	if (p->anew) {
		p->anew = false;
		pulse_ask(p);
		return;
	}
	p->beat(p->arg);
}

void
pulse_stop(struct pulse *p)
{
	if (p != NULL)
		p->stopped = true;
}

void
pulse_free(struct pulse **pp)
{
	free(*pp);
	*pp = NULL;
}
