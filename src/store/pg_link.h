/* pg_link.h: one libpq connection on a worker's loop: resolve, connect, and
 * what comes over it. The commands are its user's: PQsend...() on
 * pg_link_pg(), then pg_link_flush(). */

#ifndef STORE_PG_LINK_H
#define STORE_PG_LINK_H

#include <libpq-fe.h>

#include <stdbool.h>

#include "store/store.h"

/* A URL, taken apart. */
struct pg_server {
	PQconninfoOption *options;
	const char *host; /* to be resolved by us; NULL: nothing is */
};

/* -1: err says what is wrong with mapping.sql.url, without its password. */
int pg_server_init(struct pg_server *s, const struct config *cfg,
    struct err *err) MUST_CHECK;
void pg_server_clear(struct pg_server *s);
/* Whether it is on this host, or has to prove who it is. */
bool pg_server_is_safe(const struct pg_server *s);

struct pg_link;

/* All from the loop. ready(), lost() and the last result() may stop or free
 * the link. */
struct pg_link_events {
	void (*ready)(void *arg);
	/* res is the callee's to clear. NULL: the command is done with, or the
	 * pipeline. */
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

/* Without a deadline. False: no memory. */
bool pg_link_start(struct pg_link *l) MUST_CHECK;
void pg_link_stop(struct pg_link *l);

PGconn *pg_link_pg(struct pg_link *l);
/* What was just sent goes out. sent: what PQsend...() returned. False: the
 * connection is no good; lost() is not called. */
bool pg_link_flush(struct pg_link *l, int sent) MUST_CHECK;
/* libpq's last word on the connection, in one line. Until the next call. */
const char *pg_link_reason(struct pg_link *l);

#endif
