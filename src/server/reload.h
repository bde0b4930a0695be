/* reload.h: builds a new runtime aside.
 *
 * This happens on a thread of its own: a large mapping file takes seconds, a
 * disk that hangs takes for ever, and the main thread has signals to hear and a
 * watchdog to feed. */

#ifndef SERVER_RELOAD_H
#define SERVER_RELOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "platform/util.h"

struct log_sink;
struct mailbox;
struct runtime;
struct runtime_worker;

/* All of it is borrowed until done() has been called. */
struct reload_spec {
	const char *path;
	const char *user, *group; /* of a start as root, else NULL */
	const struct runtime *old;
	const struct runtime_worker *workers;
	size_t n_workers;
	struct mailbox *mailbox; /* of the thread that asks */
	void (*done)(void *arg); /* called there */
	void *arg;
};

/* What came out, for done(). */
struct reload {
	struct config_problems problems;
	struct runtime *rt; /* NULL: problems say why */
	struct log_sink *sink; /* the log of rt, open and not in use yet */
	struct reload_job *job; /* reload.c's */
};

/* Begins. There is no way to cancel it: a thread that hangs in a file cannot be
 * stopped. Returns NULL if memory is short. */
struct reload *reload_start(const struct reload_spec *spec) MUST_CHECK;

/* Frees r with all that was not taken out of it. After done() only. */
void reload_free(struct reload **r);

/* Returns true if a start as root has been told something else. */
bool reload_is_new(const char *started, const char *now);

#endif
