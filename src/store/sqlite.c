/* sqlite.c: routes in an SQLite file.
 *
 * Each connection of the pool has a thread (blocking.h) and a handle of its own
 * (lite_link.c), because a disk, a lock and a query without an index may take
 * long. */

#include "store/store.h"

#include <stdlib.h>

#include "blocking.h"
#include "lite_link.h"
#include "pool.h"

#define LITE_KEY "mapping.sql.url"

struct store {
	const struct config_mapping *m;
	struct lite_file *file;
	struct store_pool *pool;
};

static void store_sqlite_check(const struct config *cfg,
    struct config_problems *problems);
static struct store *store_sqlite_open(const struct store_spec *spec,
    struct err *err);
static void store_sqlite_close(struct store *st);
static struct store_call *store_sqlite_call(struct store *st,
    const struct store_request *rq);
static bool lite_conn_open(struct store_conn *c, struct err *err);

const struct store_kind store_sqlite = {
    .name = "SQLite",
    .source = SOURCE_SQL,
    .schemes = {"sqlite://"},
    .key = LITE_KEY,
    .value = offsetof(struct config_mapping, sql_url),
    .check = store_sqlite_check,
    .open = store_sqlite_open,
    .close = store_sqlite_close,
    .call = store_sqlite_call,
    .cancel = store_pool_cancel,
};

static const struct store_conn_kind lite_conn_kind = {
    .name = "SQLite",
    .size = sizeof(struct blocking_conn),
    .open = lite_conn_open,
    .ask = blocking_ask,
    .close = blocking_close,
};

/* SQLite looks at the queries only if they are as they must be. */
static void
store_sqlite_check(const struct config *cfg, struct config_problems *problems)
{
	bool fine = store_sql_check(cfg, "?", problems);
	struct lite_file *file = lite_file_new(cfg, 0);
	struct err err = {"out of memory"};
	int status = -1;

	if (*cfg->mapping.sql_channel != '\0')
		config_problem(cfg, problems, LITE_KEY,
		    "SQLite has no channel; expected postgres://");
	if (file != NULL)
		status = fine ? lite_file_check(file, &err) : 0;
	if (status < 0)
		config_problem(cfg, problems, LITE_KEY, "%s", err.text);
	else if (status > 0)
		config_warning(cfg, problems, LITE_KEY, "%s", err.text);
	lite_file_unref(file);
}

static struct store *
store_sqlite_open(const struct store_spec *spec, struct err *err)
{
	size_t share =
	    store_share(spec->cfg->mapping.sql_pool_size, spec->n_workers);
	struct store *st = calloc(1, sizeof(*st));

	if (st != NULL) {
		st->m = &spec->cfg->mapping;
		st->file = lite_file_new(spec->cfg, share);
	}
	if (st != NULL && st->file != NULL)
		st->pool = store_pool_new(&lite_conn_kind, st, spec->base,
		    share, st->m->lookup_timeout);
	if (st != NULL && st->pool != NULL)
		return st;
	err_set(err, "out of memory");
	if (st != NULL)
		store_sqlite_close(st);
	return NULL;
}

static void
store_sqlite_close(struct store *st)
{
	store_pool_free(&st->pool);
	lite_file_unref(st->file);
	free(st);
}

static struct store_call *
store_sqlite_call(struct store *st, const struct store_request *rq)
{
	if (rq->verb != STORE_GET && *st->m->sql_upsert_query == '\0')
		return store_fail(rq,
		    "read-only: mapping.sql has no upsert_query");
	return store_pool_call(st->pool, rq);
}

static bool
lite_conn_open(struct store_conn *c, struct err *err)
{
	return blocking_open(c, &lite_link, &store_conn_store(c)->file->shared,
	    err);
}
