/* pg_link.h: one libpq connection on a worker's loop: resolves, connects and
 * reads results. Its user sends the commands: PQsend...() on pg_link_pg(), then
 * pg_link_flush(). */

#ifndef STORE_PG_LINK_H
#define STORE_PG_LINK_H

#include <libpq-fe.h>

#include <stdbool.h>

#include "store/store.h"

/* A URL, taken apart. */
struct pg_server {
	PQconninfoOption *options;
	const char *host; /* the name to resolve; NULL: none */
};

/* Returns -1 if err says what is wrong with mapping.sql.url, without its
 * password. */
int pg_server_init(struct pg_server *s, const struct config *cfg,
    struct err *err) MUST_CHECK;
void pg_server_clear(struct pg_server *s);
/* Returns true if the server is on this host or must prove its identity. */
bool pg_server_is_safe(const struct pg_server *s);

struct pg_link;

/* All are called from the loop. ready(), lost() and the last result() may stop
 * or free the link. */
struct pg_link_events {
	void (*ready)(void *arg);
	/* The callee clears res. NULL: the command, or the pipeline, has
	 * ended. */
	void (*result)(void *arg, PGresult *res);
	void (*notify)(void *arg, const char *payload);
	/* The link is stopped. */
	void (*lost)(void *arg, const char *reason);
};

/* server, spec and events are borrowed. NULL: no memory. */
struct pg_link *pg_link_new(const struct pg_server *server,
    const struct store_spec *spec, const struct pg_link_events *events,
    void *arg);
void pg_link_free(struct pg_link **l);

/* Has no deadline. Returns false if memory is short. */
bool pg_link_start(struct pg_link *l) MUST_CHECK;
void pg_link_stop(struct pg_link *l);

PGconn *pg_link_pg(struct pg_link *l);
/* Flushes the commands just sent. sent: the result of PQsend...(). Returns
 * false if the connection is broken; lost() is then not called. */
bool pg_link_flush(struct pg_link *l, int sent) MUST_CHECK;
/* Returns libpq's last error of the connection, in one line. Valid until the
 * next call. */
const char *pg_link_reason(struct pg_link *l);

#endif
