/* binds.h: the list of sockets that the workers listen on.
 *
 * Opens the sockets that the current configuration does not have yet, uses
 * inherited sockets, and reports each bind that fails with its position in the
 * configuration. Only the main thread uses it. */

#ifndef SERVER_BINDS_H
#define SERVER_BINDS_H

#include <stddef.h>

#include "config/config.h"
#include "platform/util.h"

struct handed;
struct worker_bind;
struct worker_count;

struct binds_spec {
	const struct config *cfg;
	const struct config *old; /* what is in force, or NULL */
	struct handed *handed;
	struct worker_count **counts; /* gets a row per new listener's name */
	size_t n_workers;
};

struct binds {
	struct worker_bind *bind; /* n rows for each worker */
	size_t n, n_workers;
};

/* Returns 0, or -1 if a problem was added; then nothing is open. */
int binds_open(struct binds *b, const struct binds_spec *spec,
    struct config_problems *problems) MUST_CHECK;

/* The rows of one worker. */
const struct worker_bind *binds_of(const struct binds *b, size_t worker);

/* Frees the list. The workers own the descriptors by now. */
void binds_clear(struct binds *b);

#endif
