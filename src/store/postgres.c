/* postgres.c: routes in PostgreSQL.
 *
 * The identifier is a parameter of an unnamed statement: behind a pooler the
 * next statement may run on another server connection, which knows no name that
 * was prepared before. A route is written and notified on the channel in one
 * transaction. The channel is heard on a connection of its own, which never
 * rests: what it may have missed while it was away makes all cached answers
 * old. */

#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pg_link.h"
#include "platform/log.h"
#include "channel.h"
#include "pool.h"

#define PG_KEY "mapping.sql.url"
#define PG_NAME_MAX 256 /* octets of a destination's name */
#define PG_PING_MS 10000 /* between two pings of the channel's server */

/* The purpose of the channel's timer. */
enum pg_watch_state {
	PG_WATCH_LOST, /* another attempt */
	PG_WATCH_STARTING, /* the deadline to listen by */
	PG_WATCH_LISTENING, /* the next ping */
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

struct pg_conn {
	struct store_conn c; /* first */
	struct store *st;
	struct pg_link *link;
	/* Of the request in flight. */
	enum store_result result;
	bool refused; /* text says why */
	bool fatal; /* the server is shutting down */
	char text[PG_NAME_MAX + 1]; /* destination or reason */
};

static void store_postgres_check(const struct config *cfg,
    struct config_problems *problems);
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
static int pg_conn_write(struct pg_conn *p, const char *query, int n_values);
static void pg_conn_ready(void *arg);
static void pg_conn_result(void *arg, PGresult *res);
static void pg_conn_take(struct pg_conn *p, const PGresult *res);
static void pg_conn_row(struct pg_conn *p, const PGresult *res);
static void pg_conn_refused(struct pg_conn *p, const PGresult *res);
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
    .source = SOURCE_SQL,
    .schemes = {"postgres://"},
    .key = PG_KEY,
    .value = offsetof(struct config_mapping, sql_url),
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

static void
store_postgres_check(const struct config *cfg, struct config_problems *problems)
{
	struct pg_server server;
	struct err err;

	store_sql_check(cfg, "$1", problems);
	if (pg_server_init(&server, cfg, &err) == -1) {
		config_problem(cfg, problems, PG_KEY, "%s", err.text);
		return;
	}
	if (!pg_server_is_safe(&server))
		store_warn_unverified(cfg, problems, PG_KEY,
		    "sslmode=verify-full");
	pg_server_clear(&server);
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
pg_conn_ready(void *arg)
{
	struct pg_conn *p = arg;

	store_conn_ready(&p->c);
}

static void
pg_conn_ask(struct store_conn *c, const struct store_call *call)
{
	struct pg_conn *p = (struct pg_conn *)(void *)c;
	const struct config_mapping *m = p->st->m;
	const char *value[] = {call->key};
	int sent = 0;

	p->result = STORE_FAILED;
	p->refused = p->fatal = false;
	snprintf(p->text, sizeof(p->text), "it has no result");
	switch (call->verb) {
	case STORE_GET:
		sent = PQsendQueryParams(pg_link_pg(p->link), m->sql_query, 1,
		    NULL, value, NULL, NULL, 0);
		break;
	case STORE_SET:
		sent = pg_conn_write(p, m->sql_upsert_query, 2);
		break;
	case STORE_DELETE:
		sent = pg_conn_write(p, m->sql_delete_query, 1);
		break;
	}
	if (!pg_link_flush(p->link, sent))
		store_conn_lost(&p->c, pg_link_reason(p->link));
}

/* The statements of a pipeline are one transaction, up to its sync. */
static int
pg_conn_write(struct pg_conn *p, const char *query, int n_values)
{
	PGconn *pg = pg_link_pg(p->link);
	const char *channel = p->st->m->sql_channel;
	const char *value[] = {p->c.call->key, p->c.call->destination};
	const char *tell[] = {channel, p->c.call->key};

	if (*channel == '\0')
		return PQsendQueryParams(pg, query, n_values, NULL, value, NULL,
		    NULL, 0);
	return PQenterPipelineMode(pg) == 1 &&
	    PQsendQueryParams(pg, query, n_values, NULL, value, NULL, NULL,
		0) == 1 &&
	    PQsendQueryParams(pg, "SELECT pg_notify($1, $2)", 2, NULL, tell,
		NULL, NULL, 0) == 1 &&
	    PQpipelineSync(pg) == 1;
}

static void
pg_conn_result(void *arg, PGresult *res)
{
	struct pg_conn *p = arg;

	if (res != NULL) {
		pg_conn_take(p, res);
		PQclear(res);
	} else if (p->fatal) {
		store_conn_lost(&p->c, p->text);
	} else {
		store_conn_answer(&p->c, p->result, p->text);
	}
}

/* Of several results the first refusal counts. */
static void
pg_conn_take(struct pg_conn *p, const PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	if (p->refused || status == PGRES_PIPELINE_ABORTED)
		return;
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		pg_conn_refused(p, res);
	else if (p->c.call->verb != STORE_GET)
		p->result = STORE_FOUND;
	else if (status == PGRES_TUPLES_OK)
		pg_conn_row(p, res);
}

static void
pg_conn_row(struct pg_conn *p, const PGresult *res)
{
	if (PQntuples(res) == 0 || PQnfields(res) == 0 ||
	    PQgetisnull(res, 0, 0)) {
		p->result = STORE_UNKNOWN;
	} else if (PQgetlength(res, 0, 0) > PG_NAME_MAX) {
		snprintf(p->text, sizeof(p->text),
		    "its answer is no destination's name");
	} else {
		p->result = STORE_FOUND;
		snprintf(p->text, sizeof(p->text), "%s", PQgetvalue(res, 0, 0));
	}
}

static void
pg_conn_refused(struct pg_conn *p, const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	if (state == NULL)
		state = "";
	p->refused = true;
	p->result = STORE_FAILED;
	snprintf(p->text, sizeof(p->text), "%s",
	    text != NULL ? text : "it fails without a reason");
	/* character_not_in_repertoire, untranslatable_character: the table
	 * cannot contain this name. */
	if (p->c.call->verb == STORE_GET &&
	    (strcmp(state, "22021") == 0 || strcmp(state, "22P05") == 0))
		p->result = STORE_UNKNOWN;
	/* operator_intervention (not a statement that was cancelled: 57014),
	 * connection_exception: another connection may do better. */
	p->fatal =
	    strncmp(state, "57P", 3) == 0 || strncmp(state, "08", 2) == 0;
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
		log_msg(LOG_ERR, "out of memory: mapping.sql.channel is off");
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

	store_channel_heard(&st->channel, payload, strlen(payload));
}

static void
pg_watch_lost(void *arg, const char *reason)
{
	struct store *st = arg;

	st->watch_state = PG_WATCH_LOST;
	store_channel_lost(&st->channel, reason);
}

/* A server that hangs does not report changes either. */
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
