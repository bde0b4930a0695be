/* lite_link.h: one SQLite handle, for the threads of blocking.h. */

#ifndef STORE_LITE_LINK_H
#define STORE_LITE_LINK_H

#include <stdint.h>

#include "blocking.h"
#include "config/config.h"
#include "platform/err.h"

/* The settings of lite_link. Immutable; a store and its threads share them. */
struct lite_file {
	struct blocking_settings shared; /* first */
	char *path;
	uint64_t patience; /* ms that a request may wait for a lock or work */
	char *query[STORE_DELETE + 1]; /* by verb */
};

extern const struct blocking_kind lite_link;

/* max_conns: of the store's pool. NULL: no memory. */
struct lite_file *lite_file_new(const struct config *cfg, size_t max_conns);
void lite_file_unref(struct lite_file *f);

/* Looks at the file and the queries, without waiting for a lock. -1: err says
 * what is wrong. 1: err is a warning, for it may be right by the time of the
 * first lookup. */
int lite_file_check(const struct lite_file *f, struct err *err) MUST_CHECK;

#endif
