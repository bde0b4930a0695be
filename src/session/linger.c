/* linger.c: slow closes. */

#include "session/linger.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>
#include <utlist.h>

#include "platform/clock.h"
#include "platform/util.h"
#include "session/admission.h"

#define LINGER_MS 2000
#define LINGER_OCTETS (1024 * 1024)

struct linger_item {
	struct linger_item *next, *prev;
	struct linger_set *set;
	struct event *ev;
	struct admission *admission;
	int fd;
	uint64_t until;
	size_t left; /* octets that may still come */
};

struct linger_set {
	struct event_base *base;
	struct linger_item *all;
};

static void linger_cb(evutil_socket_t fd, short what, void *arg);
static bool linger_wait(struct linger_item *l);
static void linger_free(struct linger_item *l);

struct linger_set *
linger_set_new(struct event_base *base)
{
	struct linger_set *set = calloc(1, sizeof(*set));

	if (set != NULL)
		set->base = base;
	return set;
}

void
linger_set_free(struct linger_set **setp)
{
	struct linger_set *set = *setp;
	struct linger_item *l, *tmp;

	if (set == NULL)
		return;
	*setp = NULL;
	DL_FOREACH_SAFE (set->all, l, tmp)
		linger_free(l);
	free(set);
}

void
linger_add(struct linger_set *set, int fd, struct admission *admission)
{
	struct linger_item *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		close(fd);
		return;
	}
	shutdown(fd, SHUT_WR);
	l->set = set;
	l->fd = fd;
	if (admission != NULL)
		l->admission = admission_hold(admission);
	l->until = clock_ms() + LINGER_MS;
	l->left = LINGER_OCTETS;
	DL_APPEND(set->all, l);
	l->ev = event_new(set->base, fd, EV_READ, linger_cb, l);
	if (l->ev == NULL || !linger_wait(l))
		linger_free(l);
}

/* The time is absolute: trickling octets do not extend it. */
static bool
linger_wait(struct linger_item *l)
{
	uint64_t now = clock_ms(), ms = l->until > now ? l->until - now : 0;
	struct timeval tv = clock_timeval(ms);

	return ms > 0 && event_add(l->ev, &tv) == 0;
}

static void
linger_cb(evutil_socket_t fd, short what, void *arg)
{
	struct linger_item *l = arg;
	char buf[16 * 1024];
	ssize_t n = 0;

	if (what & EV_READ)
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0 && (size_t)n < l->left) {
		l->left -= (size_t)n;
		if (linger_wait(l))
			return;
	} else if (n == -1 && errno == EAGAIN && linger_wait(l)) {
		return;
	}
	linger_free(l);
}

static void
linger_free(struct linger_item *l)
{
	DL_DELETE(l->set->all, l);
	if (l->ev != NULL)
		event_free(l->ev);
	close(l->fd);
	admission_release(&l->admission);
	free(l);
}
