/* mailbox.h: how one thread asks another to do something.
 *
 * A mailbox belongs to the thread that runs its event base; that thread calls
 * whatever the others post, in order. */

#ifndef NET_MAILBOX_H
#define NET_MAILBOX_H

struct event_base;
struct mailbox;

struct mailbox_item {
	struct mailbox_item *next; /* the mailbox's */
	void (*fn)(void *arg);
	void *arg;
};

/* NULL: no memory or no descriptor. */
struct mailbox *mailbox_new(struct event_base *base);

/* What is still in it is called first. Nobody may post any more. */
void mailbox_free(struct mailbox **mb);

/* From any thread: item->fn(item->arg) will be called on the mailbox's thread.
 * The item lives in its poster's structure, so that this cannot fail; fn may
 * free it. */
void mailbox_post(struct mailbox *mb, struct mailbox_item *item);

#endif
