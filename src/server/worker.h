/* worker.h: one thread, its event base, its listening sockets, its sessions. */

#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "platform/addr.h"
#include "platform/err.h"
#include "session/session.h"

struct event_base;
struct mailbox;
struct resolver;
struct runtime_slice;
struct worker;

/* The number of a listener's connections, over all workers and reloads. */
struct worker_count {
	struct worker_count *next;
	atomic_uint connections;
	struct session_brakes brakes;
	char name[];
};

/* The sockets that a worker listens on: always the whole list. */
struct worker_bind {
	struct addr addr;
	int fd; /* -1: the worker has it already */
	size_t listener; /* index in the new configuration */
	struct worker_count *count;
};

/* Call on the main thread, before any thread runs. */
struct worker *worker_new(unsigned index, struct err *err);
struct event_base *worker_base(struct worker *w);
struct mailbox *worker_mailbox(struct worker *w);
struct resolver *worker_resolver(struct worker *w);

/* Any thread may call this at any time. */
uint64_t worker_counted(const struct worker *w, enum session_count what);

/* The thread starts with nothing to do. */
int worker_start(struct worker *w, struct err *err) MUST_CHECK;

/* Makes new sessions use slice (takes ownership), and the worker listen on
 * binds (copies the list; takes ownership of the descriptors). Call on the main
 * thread. Returns false if memory is short; the worker is then unchanged. */
bool worker_publish(struct worker *w, struct runtime_slice *slice,
    const struct worker_bind *binds, size_t n) MUST_CHECK;

/* Stops listening. Calls empty(arg) on this worker's thread when its last
 * session has ended. */
void worker_drain(struct worker *w, void (*empty)(void *arg), void *arg);

/* Ends the thread and waits for it. The caller then owns the worker's data.
 * Other workers may still post to its mailbox. */
void worker_stop(struct worker *w);

/* When all workers' threads are stopped: ends its sessions and closes its
 * sockets. What was built on it (worker_base(), worker_resolver()) stays. */
void worker_end(struct worker *w);

/* Does worker_end(), and frees all. */
void worker_free(struct worker **w);

#endif
