/* postgres.c: routes in PostgreSQL.
 *
 * The pool's connections prepare the query once and execute it with the
 * identifier as a parameter. A route that is written is notified on the
 * channel by the same connection. The channel is heard on a connection of its
 * own, which never rests: what it may have missed while it was away makes all
 * cached answers old. */

#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pg_link.h"
#include "platform/log.h"
#include "channel.h"
#include "pool.h"

#define PG_STATEMENT "route"
#define PG_PING_MS 10000 /* how often the channel's server is asked for life */

/* What the channel's timer is for. */
enum pg_watch_state {
	PG_WATCH_LOST, /* another attempt */
	PG_WATCH_STARTING, /* the deadline to listen by */
	PG_WATCH_LISTENING, /* asking whether it is still there */
	PG_WATCH_ASKED /* the deadline of its answer */
};

struct store {
	struct store_spec spec;
	const struct config_mapping *m;
	struct pg_server server;
	struct store_pool *pool;

	struct pg_link *watch; /* NULL: none */
	struct store_channel channel;
	enum pg_watch_state watch_state;
	bool watch_refused; /* LISTEN was */
};

enum pg_step {
	PG_PREPARE,
	PG_ASK, /* the request itself */
	PG_NOTIFY /* of what was written */
};

struct pg_conn {
	struct store_conn c; /* first */
	struct store *st;
	struct pg_link *link;
	enum pg_step step;
	/* Of the command under way. */
	enum store_result result;
	bool fatal; /* the server is going */
	char text[256]; /* destination or reason */
};

static int store_postgres_check(const struct config *cfg, struct err *err);
static struct store *store_postgres_open(const struct store_spec *spec,
    struct err *err);
static void store_postgres_close(struct store *st);
static struct store_call *store_postgres_call(struct store *st,
    const struct store_request *rq);
static void store_postgres_watch(struct store *st, store_changed *changed,
    void *arg);
static bool pg_conn_open(struct store_conn *c, struct err *err);
static void pg_conn_ask(struct store_conn *c, const struct store_call *call);
static void pg_conn_close(struct store_conn *c);
static void pg_conn_send(struct pg_conn *p, enum pg_step step, int sent);
static void pg_conn_ready(void *arg);
static void pg_conn_result(void *arg, PGresult *res);
static void pg_conn_take(struct pg_conn *p, PGresult *res);
static void pg_conn_refused(struct pg_conn *p, const PGresult *res);
static void pg_conn_over(struct pg_conn *p);
static void pg_conn_notify(struct pg_conn *p);
static void pg_conn_lost(void *arg, const char *reason);
static void pg_watch_start(struct store *st);
static void pg_watch_ready(void *arg);
static void pg_watch_result(void *arg, PGresult *res);
static void pg_watch_notify(void *arg, const char *payload);
static void pg_watch_lost(void *arg, const char *reason);
static void pg_watch_timer_cb(evutil_socket_t fd, short what, void *arg);
static void pg_ignore_notify(void *arg, const char *payload);

const struct store_kind store_postgres = {
    .name = "PostgreSQL",
    .check = store_postgres_check,
    .open = store_postgres_open,
    .close = store_postgres_close,
    .call = store_postgres_call,
    .cancel = store_pool_cancel,
    .watch = store_postgres_watch,
};

static const struct store_conn_kind pg_conn_kind = {
    .name = "PostgreSQL",
    .size = sizeof(struct pg_conn),
    .open = pg_conn_open,
    .ask = pg_conn_ask,
    .close = pg_conn_close,
};
static const struct pg_link_events pg_conn_events = {
    pg_conn_ready, pg_conn_result, pg_ignore_notify, pg_conn_lost};
static const struct pg_link_events pg_watch_events = {
    pg_watch_ready, pg_watch_result, pg_watch_notify, pg_watch_lost};

static int
store_postgres_check(const struct config *cfg, struct err *err)
{
	struct pg_server server;

	int status = 0;

	if (pg_server_init(&server, cfg, err) == -1)
		return -1;
	if (!pg_server_is_safe(&server)) {
		err_set(err,
		    "the server is not verified: anybody on the way may say "
		    "where mailboxes are (sslmode=verify-full)");
		status = 1;
	}
	pg_server_clear(&server);
	return status;
}

static struct store *
store_postgres_open(const struct store_spec *spec, struct err *err)
{
	struct store *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	st->spec = *spec;
	st->m = &spec->cfg->mapping;
	if (pg_server_init(&st->server, spec->cfg, err) == -1) {
		free(st);
		return NULL;
	}
	st->pool = store_pool_new(&pg_conn_kind, st, spec->base,
	    store_share(st->m->sql_pool_size, spec->n_workers),
	    st->m->lookup_timeout);
	if (st->pool == NULL) {
		err_set(err, "out of memory");
		store_postgres_close(st);
		return NULL;
	}
	return st;
}

static void
store_postgres_close(struct store *st)
{
	store_pool_free(&st->pool);
	pg_link_free(&st->watch);
	store_channel_clear(&st->channel);
	pg_server_clear(&st->server);
	free(st);
}

static struct store_call *
store_postgres_call(struct store *st, const struct store_request *rq)
{
	if (rq->verb != STORE_GET && *st->m->sql_upsert_query == '\0')
		return store_fail(rq,
		    "read-only: mapping.sql has no upsert_query");
	return store_pool_call(st->pool, rq);
}

/* One connection of the pool */

static bool
pg_conn_open(struct store_conn *c, struct err *err)
{
	struct pg_conn *p = (struct pg_conn *)(void *)c;

	p->st = store_conn_store(c);
	p->link = pg_link_new(&p->st->server, &p->st->spec, &pg_conn_events, p);
	if (p->link != NULL && pg_link_start(p->link))
		return true;
	err_set(err, "out of memory");
	return false;
}

static void
pg_conn_close(struct store_conn *c)
{
	struct pg_conn *p = (struct pg_conn *)(void *)c;

	pg_link_free(&p->link);
}

static void
pg_conn_send(struct pg_conn *p, enum pg_step step, int sent)
{
	p->step = step;
	p->result = STORE_FAILED;
	p->fatal = false;
	snprintf(p->text, sizeof(p->text), "it has no result");
	if (!pg_link_flush(p->link, sent))
		store_conn_lost(&p->c, pg_link_reason(p->link));
}

static void
pg_conn_ready(void *arg)
{
	struct pg_conn *p = arg;

	pg_conn_send(p, PG_PREPARE,
	    PQsendPrepare(pg_link_pg(p->link), PG_STATEMENT,
		p->st->m->sql_query, 0, NULL));
}

static void
pg_conn_ask(struct store_conn *c, const struct store_call *call)
{
	struct pg_conn *p = (struct pg_conn *)(void *)c;
	PGconn *pg = pg_link_pg(p->link);
	const char *value[2] = {call->key, call->destination};
	int sent = 0;

	switch (call->verb) {
	case STORE_GET:
		sent = PQsendQueryPrepared(pg, PG_STATEMENT, 1, value, NULL,
		    NULL, 0);
		break;
	case STORE_SET:
		sent = PQsendQueryParams(pg, p->st->m->sql_upsert_query, 2,
		    NULL, value, NULL, NULL, 0);
		break;
	case STORE_DELETE:
		sent = PQsendQueryParams(pg, p->st->m->sql_delete_query, 1,
		    NULL, value, NULL, NULL, 0);
		break;
	}
	pg_conn_send(p, PG_ASK, sent);
}

static void
pg_conn_result(void *arg, PGresult *res)
{
	struct pg_conn *p = arg;

	if (res == NULL) {
		pg_conn_over(p);
		return;
	}
	pg_conn_take(p, res);
	PQclear(res);
}

static void
pg_conn_take(struct pg_conn *p, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	if (status == PGRES_TUPLES_OK) {
		p->result = STORE_UNKNOWN;
		if (PQntuples(res) == 0 || PQnfields(res) == 0 ||
		    PQgetisnull(res, 0, 0))
			return;
		p->result = STORE_FOUND;
		snprintf(p->text, sizeof(p->text), "%s", PQgetvalue(res, 0, 0));
	} else if (status != PGRES_COMMAND_OK) {
		pg_conn_refused(p, res);
	} else if (p->step != PG_ASK || p->c.call->verb != STORE_GET) {
		p->result = STORE_FOUND;
	}
}

static void
pg_conn_refused(struct pg_conn *p, const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	if (state == NULL)
		state = "";
	/* character_not_in_repertoire: nothing in the table is called so. */
	if (p->c.call != NULL && p->c.call->verb == STORE_GET &&
	    strcmp(state, "22021") == 0) {
		p->result = STORE_UNKNOWN;
		return;
	}
	/* operator_intervention (not a statement that was cancelled: 57014),
	 * connection_exception; and a statement that is gone, or does not fit
	 * the table any more, will be right on another connection. */
	p->fatal = strncmp(state, "57P", 3) == 0 ||
	    strncmp(state, "08", 2) == 0 || strcmp(state, "26000") == 0 ||
	    strcmp(state, "0A000") == 0;
	p->result = STORE_FAILED;
	snprintf(p->text, sizeof(p->text), "%s",
	    text != NULL ? text : "it fails without a reason");
}

/* The command is done with. */
static void
pg_conn_over(struct pg_conn *p)
{
	const struct store_call *call = p->c.call;
	char text[sizeof(p->text) + 32];

	if (p->fatal || (p->step == PG_PREPARE && p->result == STORE_FAILED)) {
		store_conn_lost(&p->c, p->text);
	} else if (p->step == PG_PREPARE) {
		store_conn_ready(&p->c);
	} else if (p->step == PG_NOTIFY && p->result == STORE_FAILED) {
		snprintf(text, sizeof(text), "written, but not notified: %s",
		    p->text);
		store_conn_answer(&p->c, STORE_FAILED, text);
	} else if (p->step == PG_ASK &&
	    (call->verb == STORE_GET || p->result == STORE_FAILED)) {
		store_conn_answer(&p->c, p->result, p->text);
	} else if (p->step == PG_ASK && *p->st->m->sql_channel != '\0') {
		pg_conn_notify(p);
	} else {
		store_conn_answer(&p->c, STORE_FOUND, "");
	}
}

static void
pg_conn_notify(struct pg_conn *p)
{
	const char *value[] = {p->st->m->sql_channel, p->c.call->key};

	pg_conn_send(p, PG_NOTIFY,
	    PQsendQueryParams(pg_link_pg(p->link), "SELECT pg_notify($1, $2)",
		2, NULL, value, NULL, NULL, 0));
}

static void
pg_conn_lost(void *arg, const char *reason)
{
	struct pg_conn *p = arg;

	store_conn_lost(&p->c, reason);
}

static void
pg_ignore_notify(void *arg UNUSED, const char *payload UNUSED)
{
}

/* The channel */

static void
store_postgres_watch(struct store *st, store_changed *changed, void *arg)
{
	if (*st->m->sql_channel == '\0')
		return;
	if (store_channel_init(&st->channel, store_postgres.name, st->spec.base,
		pg_watch_timer_cb, st, changed, arg))
		st->watch =
		    pg_link_new(&st->server, &st->spec, &pg_watch_events, st);
	if (st->watch == NULL)
		log_msg(LOG_ERR,
		    "out of memory: mapping.sql.channel is not heard");
	else
		pg_watch_start(st);
}

static void
pg_watch_start(struct store *st)
{
	st->watch_state = PG_WATCH_STARTING;
	if (pg_link_start(st->watch))
		store_channel_after(&st->channel, st->m->lookup_timeout);
	else
		pg_watch_lost(st, "out of memory");
}

static void
pg_watch_ready(void *arg)
{
	struct store *st = arg;
	PGconn *pg = pg_link_pg(st->watch);
	char command[256];
	char *name = PQescapeIdentifier(pg, st->m->sql_channel,
	    strlen(st->m->sql_channel));
	int sent = 0;

	st->watch_refused = false;
	if (name != NULL) {
		snprintf(command, sizeof(command), "LISTEN %s", name);
		sent = PQsendQuery(pg, command);
		PQfreemem(name);
	}
	if (!pg_link_flush(st->watch, sent)) {
		pg_link_stop(st->watch);
		pg_watch_lost(st, "LISTEN cannot be sent");
	}
}

static void
pg_watch_result(void *arg, PGresult *res)
{
	struct store *st = arg;

	if (res != NULL) {
		if (PQresultStatus(res) != PGRES_COMMAND_OK &&
		    PQresultStatus(res) != PGRES_EMPTY_QUERY)
			st->watch_refused = true;
		PQclear(res);
		return;
	}
	if (st->watch_refused) {
		pg_link_stop(st->watch);
		pg_watch_lost(st, "LISTEN is refused");
		return;
	}
	if (st->watch_state == PG_WATCH_STARTING)
		store_channel_up(&st->channel);
	st->watch_state = PG_WATCH_LISTENING;
	store_channel_after(&st->channel, PG_PING_MS);
}

static void
pg_watch_notify(void *arg, const char *payload)
{
	struct store *st = arg;

	store_channel_heard(&st->channel, payload);
}

static void
pg_watch_lost(void *arg, const char *reason)
{
	struct store *st = arg;

	st->watch_state = PG_WATCH_LOST;
	store_channel_lost(&st->channel, reason);
}

/* A server that hangs says nothing of changes either. */
static void
pg_watch_timer_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct store *st = arg;

	switch (st->watch_state) {
	case PG_WATCH_LOST:
		pg_watch_start(st);
		return;
	case PG_WATCH_LISTENING:
		st->watch_state = PG_WATCH_ASKED;
		if (pg_link_flush(st->watch,
			PQsendQuery(pg_link_pg(st->watch), ""))) {
			store_channel_after(&st->channel, PG_PING_MS);
			return;
		}
		break;
	case PG_WATCH_STARTING:
	case PG_WATCH_ASKED:
		break;
	}
	pg_link_stop(st->watch);
	pg_watch_lost(st, "it does not answer");
}
