/* mailbox.h: messages from one thread to another.
 *
 * A mailbox belongs to the thread that runs its event base; that thread calls
 * the items that the others post, in order. */

#ifndef NET_MAILBOX_H
#define NET_MAILBOX_H

struct event_base;
struct mailbox;

struct mailbox_item {
	struct mailbox_item *next; /* the mailbox's */
	void (*fn)(void *arg);
	void *arg;
};

/* Returns NULL if memory or descriptors are short. */
struct mailbox *mailbox_new(struct event_base *base);

/* Calls the remaining items first. Nobody may post afterwards. */
void mailbox_free(struct mailbox **mb);

/* Makes the mailbox's thread call item->fn(item->arg). Any thread may call
 * this. The item lies in its sender's structure, so this cannot fail; fn may
 * free it. */
void mailbox_post(struct mailbox *mb, struct mailbox_item *item);

#endif
