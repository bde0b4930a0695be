/* mysql.c: routes in MySQL or MariaDB.
 *
 * Each connection of the pool has a thread (blocking.h), which talks to the
 * server (my_link.c). libmariadb resolves names with a getaddrinfo() that
 * blocks, and it always blocks over TLS. */

#include "store/store.h"

#include <pthread.h>
#include <stdlib.h>

#include <mysql.h>

#include "blocking.h"
#include "my_link.h"
#include "my_server.h"
#include "pool.h"

#define MY_KEY "mapping.sql.url"

struct store {
	const struct config_mapping *m;
	struct my_server *server;
	struct store_pool *pool;
};

static void store_mysql_check(const struct config *cfg,
    struct config_problems *problems);
static struct store *store_mysql_open(const struct store_spec *spec,
    struct err *err);
static void store_mysql_close(struct store *st);
static struct store_call *store_mysql_call(struct store *st,
    const struct store_request *rq);
static void my_global_init(void);
static bool my_conn_open(struct store_conn *c, struct err *err);

const struct store_kind store_mysql = {
    .name = "MySQL",
    .source = SOURCE_SQL,
    .schemes = {"mysql://"},
    .key = MY_KEY,
    .value = offsetof(struct config_mapping, sql_url),
    .check = store_mysql_check,
    .open = store_mysql_open,
    .close = store_mysql_close,
    .call = store_mysql_call,
    .cancel = store_pool_cancel,
};

static const struct store_conn_kind my_conn_kind = {
    .name = "MySQL",
    .size = sizeof(struct blocking_conn),
    .open = my_conn_open,
    .ask = blocking_ask,
    .close = blocking_close,
};

static pthread_once_t my_once = PTHREAD_ONCE_INIT;

static void
my_global_init(void)
{
	mysql_library_init(0, NULL, NULL);
}

static void
store_mysql_check(const struct config *cfg, struct config_problems *problems)
{
	struct my_server *s;
	struct err err;

	store_sql_check(cfg, "?", problems);
	if (*cfg->mapping.sql_channel != '\0')
		config_problem(cfg, problems, MY_KEY,
		    "MySQL has no channel; expected postgres://");
	s = my_server_new(cfg, 0, &err);
	if (s == NULL)
		config_problem(cfg, problems, MY_KEY, "%s", err.text);
	else if (s->tls != MY_TLS_VERIFIED && s->host != NULL &&
	    s->socket == NULL && !store_is_loopback(s->host))
		store_warn_unverified(cfg, problems, MY_KEY, "ssl-mode=verify");
	my_server_unref(s);
}

static struct store *
store_mysql_open(const struct store_spec *spec, struct err *err)
{
	size_t share =
	    store_share(spec->cfg->mapping.sql_pool_size, spec->n_workers);
	struct store *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	pthread_once(&my_once, my_global_init);
	st->m = &spec->cfg->mapping;
	st->server = my_server_new(spec->cfg, share, err);
	if (st->server == NULL) {
		free(st);
		return NULL;
	}
	st->pool = store_pool_new(&my_conn_kind, st, spec->base, share,
	    st->m->lookup_timeout);
	if (st->pool == NULL) {
		err_set(err, "out of memory");
		store_mysql_close(st);
		return NULL;
	}
	return st;
}

static void
store_mysql_close(struct store *st)
{
	store_pool_free(&st->pool);
	my_server_unref(st->server);
	free(st);
}

static struct store_call *
store_mysql_call(struct store *st, const struct store_request *rq)
{
	if (rq->verb != STORE_GET && *st->m->sql_upsert_query == '\0')
		return store_fail(rq,
		    "read-only: mapping.sql has no upsert_query");
	return store_pool_call(st->pool, rq);
}

static bool
my_conn_open(struct store_conn *c, struct err *err)
{
	return blocking_open(c, &my_link, &store_conn_store(c)->server->shared,
	    err);
}
