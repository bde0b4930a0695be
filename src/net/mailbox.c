/* mailbox.c: a queue and an eventfd. */

#include "net/mailbox.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <event2/event.h>

#include "platform/util.h"

struct mailbox {
	pthread_mutex_t lock;
	struct mailbox_item *first, **last;
	int fd;
	struct event *ev;
};

static void mailbox_cb(evutil_socket_t fd, short what, void *arg);
static void mailbox_run(struct mailbox *mb);

struct mailbox *
mailbox_new(struct event_base *base)
{
	struct mailbox *mb = calloc(1, sizeof(*mb));

	if (mb == NULL)
		return NULL;
	pthread_mutex_init(&mb->lock, NULL);
	mb->last = &mb->first;
	mb->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (mb->fd != -1)
		mb->ev = event_new(base, mb->fd, EV_READ | EV_PERSIST,
		    mailbox_cb, mb);
	if (mb->ev == NULL || event_add(mb->ev, NULL) == -1)
		mailbox_free(&mb);
	return mb;
}

void
mailbox_free(struct mailbox **mbp)
{
	struct mailbox *mb = *mbp;

	if (mb == NULL)
		return;
	*mbp = NULL;
	mailbox_run(mb);
	if (mb->ev != NULL)
		event_free(mb->ev);
	if (mb->fd != -1)
		close(mb->fd);
	pthread_mutex_destroy(&mb->lock);
	free(mb);
}

void
mailbox_post(struct mailbox *mb, struct mailbox_item *item)
{
	uint64_t one = 1;

	item->next = NULL;
	pthread_mutex_lock(&mb->lock);
	*mb->last = item;
	mb->last = &item->next;
	pthread_mutex_unlock(&mb->lock);
	/* Fails only if the eventfd is full; it is then readable anyway. */
	if (write(mb->fd, &one, sizeof(one)) == -1)
		return;
}

static void
mailbox_cb(evutil_socket_t fd, short what UNUSED, void *arg)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) == -1)
		return;
	mailbox_run(arg);
}

static void
mailbox_run(struct mailbox *mb)
{
	struct mailbox_item *item, *next;

	pthread_mutex_lock(&mb->lock);
	item = mb->first;
	mb->first = NULL;
	mb->last = &mb->first;
	pthread_mutex_unlock(&mb->lock);
	for (; item != NULL; item = next) {
		next = item->next;
		item->fn(item->arg);
	}
}
