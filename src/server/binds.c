/* binds.c: the sockets that the workers listen on.
 *
 * Each worker has a socket of its own for each address (SO_REUSEPORT). An
 * address that stays keeps its sockets. A wider or narrower one (0.0.0.0:110,
 * 127.0.0.1:110) is bound before the old one is closed, so that there is always
 * a socket; the kernel allows this among sockets of one user. */

#include "binds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "handed.h"
#include "listen.h"
#include "worker.h"

#define BINDS_KEY_MAX 128 /* "listener.NAME.bind[N]" */

static size_t binds_count(const struct config *cfg);
static bool binds_listener(struct binds *b, const struct binds_spec *spec,
    size_t listener, size_t row, struct config_problems *problems);
static struct worker_count *binds_counter(struct worker_count **counts,
    const char *name);
static bool binds_there(const struct config *old, const struct addr *addr);
static bool binds_overlap(const struct config *old, const struct addr *addr);
static int binds_address(struct binds *b, const struct binds_spec *spec,
    const struct addr *addr, size_t row, struct err *err);
static int binds_share(const struct addr *addr, int fd, struct err *err);
static void binds_give(const struct binds *b, const struct config *cfg);

int
binds_open(struct binds *b, const struct binds_spec *spec,
    struct config_problems *problems)
{
	const struct config *cfg = spec->cfg;
	size_t row = 0, all;
	struct err err;
	bool ok = true;

	b->n = binds_count(cfg);
	b->n_workers = spec->n_workers;
	all = b->n * b->n_workers;
	b->bind = calloc(all + 1, sizeof(*b->bind));
	if (b->bind == NULL) {
		config_problem(cfg, problems, "", "out of memory");
		return -1;
	}
	for (size_t i = 0; i < all; i++)
		b->bind[i].fd = -1;
	for (size_t i = 0; i < cfg->n_listener; i++) {
		ok = binds_listener(b, spec, i, row, problems) && ok;
		row += cfg->listener[i].n_bind;
	}
	if (ok && handed_check(spec->handed, &err) == -1) {
		config_problem(cfg, problems, "listener", "%s", err.text);
		ok = false;
	}
	if (ok) {
		binds_give(b, cfg);
		return 0;
	}
	for (size_t i = 0; i < all; i++)
		if (b->bind[i].fd != -1)
			close(b->bind[i].fd);
	binds_clear(b);
	return -1;
}

static size_t
binds_count(const struct config *cfg)
{
	size_t n = 0;

	for (size_t i = 0; i < cfg->n_listener; i++)
		n += cfg->listener[i].n_bind;
	return n;
}

/* Fills the rows of one listener, from row on. Tries all its binds, so that all
 * problems are reported. */
static bool
binds_listener(struct binds *b, const struct binds_spec *spec, size_t listener,
    size_t row, struct config_problems *problems)
{
	const struct config_listener *l = &spec->cfg->listener[listener];
	struct worker_count *count = binds_counter(spec->counts, l->name);
	char key[BINDS_KEY_MAX];
	struct err err = {"out of memory"};
	bool ok = true;

	for (size_t i = 0; i < l->n_bind; i++, row++) {
		for (size_t w = 0; w < b->n_workers; w++) {
			struct worker_bind *bind = &b->bind[w * b->n + row];

			bind->addr = l->bind[i];
			bind->listener = listener;
			bind->count = count;
		}
		if (count != NULL &&
		    (binds_there(spec->old, &l->bind[i]) ||
			binds_address(b, spec, &l->bind[i], row, &err) == 0))
			continue;
		snprintf(key, sizeof(key), "listener.%s.bind[%zu]", l->name, i);
		config_problem(spec->cfg, problems, key, "%s", err.text);
		ok = false;
	}
	return ok;
}

/* Counts outlive reloads, because connections do. */
static struct worker_count *
binds_counter(struct worker_count **counts, const char *name)
{
	struct worker_count *c;

	LL_FOREACH (*counts, c)
		if (strcmp(c->name, name) == 0)
			return c;
	c = calloc(1, sizeof(*c) + strlen(name) + 1);
	if (c == NULL)
		return NULL;
	strcpy(c->name, name);
	LL_PREPEND(*counts, c);
	return c;
}

/* Returns true if the workers listen on exactly this already. */
static bool
binds_there(const struct config *old, const struct addr *addr)
{
	for (size_t i = 0; old != NULL && i < old->n_listener; i++)
		for (size_t j = 0; j < old->listener[i].n_bind; j++)
			if (addr_same_ip(&old->listener[i].bind[j], addr) &&
			    addr_port(&old->listener[i].bind[j]) ==
				addr_port(addr))
				return true;
	return false;
}

/* Returns true if the workers listen on an address that includes this one, or
 * that this one includes. */
static bool
binds_overlap(const struct config *old, const struct addr *addr)
{
	for (size_t i = 0; old != NULL && i < old->n_listener; i++) {
		for (size_t j = 0; j < old->listener[i].n_bind; j++) {
			const struct addr *own = &old->listener[i].bind[j];

			if (own->u.sa.sa_family == addr->u.sa.sa_family &&
			    addr_port(own) == addr_port(addr) &&
			    (addr_is_unspecified(own) ||
				addr_is_unspecified(addr)))
				return true;
		}
	}
	return false;
}

/* Makes a socket for each worker; inherited ones are used first. While
 * mailferry itself has a part of the address, it cannot check whether another
 * process of the same user has it; the kernel always refuses to share another
 * user's. */
static int
binds_address(struct binds *b, const struct binds_spec *spec,
    const struct addr *addr, size_t row, struct err *err)
{
	int first = handed_take(spec->handed, addr);

	if (first == -1 && !binds_overlap(spec->old, addr) &&
	    listen_check(addr, err) == -1)
		return -1;
	for (size_t w = 0; w < b->n_workers; w++) {
		int *fd = &b->bind[w * b->n + row].fd;

		*fd = w == 0 ? first : handed_take(spec->handed, addr);
		if (*fd == -1 && first != -1)
			*fd = binds_share(addr, first, err);
		else if (*fd == -1)
			*fd = listen_open(addr, err);
		if (*fd == -1)
			return -1;
	}
	return 0;
}

/* Adds a socket beside an inherited one: a new one if that has SO_REUSEPORT and
 * the same user; otherwise it shares that one. */
static int
binds_share(const struct addr *addr, int fd, struct err *err)
{
	struct err refused;
	int own = listen_open(addr, &refused);

	if (own == -1)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own == -1)
		return err_set(err, "cannot share a socket: %s",
		    strerror(errno));
	return own;
}

/* Called after all siblings are bound, because they must have one user. */
static void
binds_give(const struct binds *b, const struct config *cfg)
{
	for (size_t i = 0; i < b->n * b->n_workers; i++)
		if (b->bind[i].fd != -1)
			listen_give(cfg, b->bind[i].fd);
}

const struct worker_bind *
binds_of(const struct binds *b, size_t worker)
{
	return &b->bind[worker * b->n];
}

void
binds_clear(struct binds *b)
{
	free(b->bind);
	memset(b, 0, sizeof(*b));
}
