/* sqlite.c: routes in an SQLite file.
 *
 * It answers during the call: a look into the page cache, or at worst a few
 * pages from disk. A handle for reading per worker, opened when it is first
 * needed and again when the file has been replaced by another; it never waits
 * for somebody's lock, but says that the store is busy. A query that goes
 * through the whole table for want of an index is given up: all the worker's
 * sessions wait for it. Writing has a handle of its own. */

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "platform/clock.h"
#include "store/store.h"

#define SQLITE_PATIENCE_MS 100 /* for one lookup */
#define SQLITE_OPCODES 4000 /* between two looks at the clock; 0.1 ms or so */
#define SQLITE_SCHEME "sqlite://"

/* One handle and its statement. */
struct sqlite_handle {
	sqlite3 *db;
	sqlite3_stmt *stmt;
};

struct store {
	const struct config_mapping *m;
	char *path;
	struct sqlite_handle read;
	uint64_t until; /* when a lookup is given up */
	dev_t dev; /* of the file that is open for reading */
	ino_t ino;
};

static int store_sqlite_check(const struct config *cfg, struct err *err);
static struct store *store_sqlite_open(const struct store_spec *spec,
    struct err *err);
static void store_sqlite_close(struct store *st);
static struct store_call *store_sqlite_call(struct store *st,
    const struct store_request *rq);
static void store_sqlite_cancel(struct store_call *call);
static char *sqlite_path(const struct config *cfg);
static void sqlite_get(struct store *st, const struct store_request *rq);
static void sqlite_write(struct store *st, const struct store_request *rq);
static int sqlite_late(void *arg);
static int sqlite_current(struct store *st, struct err *err);
static int sqlite_prepare(struct sqlite_handle *h, const char *path, int flags,
    const char *query, struct err *err);
static void sqlite_clear(struct sqlite_handle *h);

const struct store_kind store_sqlite = {
    .name = "SQLite",
    .check = store_sqlite_check,
    .open = store_sqlite_open,
    .close = store_sqlite_close,
    .call = store_sqlite_call,
    .cancel = store_sqlite_cancel,
};

/* sqlite:///an/absolute/path, or one relative to the configuration file. */
static char *
sqlite_path(const struct config *cfg)
{
	const char *path = cfg->mapping.sql_url + strlen(SQLITE_SCHEME);
	const char *slash = strrchr(cfg->path, '/');
	char *made;

	if (*path == '/' || slash == NULL)
		return strdup(path);
	if (asprintf(&made, "%.*s/%s", (int)(slash - cfg->path), cfg->path,
		path) == -1)
		return NULL;
	return made;
}

/* A query that SQLite refuses is wrong; a file that is not there, or is being
 * written to, may be right in a moment. */
static int
store_sqlite_check(const struct config *cfg, struct err *err)
{
	const char *query[] = {cfg->mapping.sql_query,
	    cfg->mapping.sql_upsert_query, cfg->mapping.sql_delete_query};
	char *path = sqlite_path(cfg);
	struct sqlite_handle h = {NULL, NULL};
	int rc = SQLITE_OK;

	if (path == NULL)
		return err_set(err, "out of memory");
	if (*cfg->mapping.sql_channel != '\0') {
		free(path);
		return err_set(err, "SQLite knows no channel");
	}
	for (size_t i = 0; i < ARRAY_LEN(query) && rc == SQLITE_OK; i++) {
		if (*query[i] == '\0')
			continue;
		rc = sqlite_prepare(&h, path, SQLITE_OPEN_READONLY, query[i],
		    err);
		sqlite_clear(&h);
	}
	free(path);
	if (rc == SQLITE_OK || rc == SQLITE_BUSY)
		return 0;
	return rc == SQLITE_CANTOPEN ? 1 : -1;
}

static struct store *
store_sqlite_open(const struct store_spec *spec, struct err *err)
{
	struct store *st = calloc(1, sizeof(*st));

	if (st != NULL)
		st->path = sqlite_path(spec->cfg);
	if (st == NULL || st->path == NULL) {
		err_set(err, "out of memory");
		free(st);
		return NULL;
	}
	st->m = &spec->cfg->mapping;
	return st;
}

static void
store_sqlite_close(struct store *st)
{
	sqlite_clear(&st->read);
	free(st->path);
	free(st);
}

static struct store_call *
store_sqlite_call(struct store *st, const struct store_request *rq)
{
	if (rq->verb == STORE_GET)
		sqlite_get(st, rq);
	else if (*st->m->sql_upsert_query == '\0')
		store_fail(rq, "read-only: mapping.sql has no upsert_query");
	else
		sqlite_write(st, rq);
	return NULL;
}

static void
store_sqlite_cancel(struct store_call *call)
{
	(void)call;
}

static void
sqlite_get(struct store *st, const struct store_request *rq)
{
	sqlite3_stmt *stmt;
	struct err err = {""};
	const char *text;
	int rc;

	if (sqlite_current(st, &err) == -1) {
		store_fail(rq, err.text);
		return;
	}
	stmt = st->read.stmt;
	sqlite3_bind_text(stmt, 1, rq->key, -1, SQLITE_STATIC);
	st->until = clock_ms() + SQLITE_PATIENCE_MS;
	rc = sqlite3_step(stmt);
	text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0)
				: NULL;
	if (text != NULL)
		rq->done(rq->arg, STORE_FOUND, text);
	else if (rc == SQLITE_ROW || rc == SQLITE_DONE)
		rq->done(rq->arg, STORE_UNKNOWN, NULL);
	else if (rc == SQLITE_INTERRUPT)
		store_fail(rq, "the query takes too long: is there an index?");
	else
		store_fail(rq, sqlite3_errmsg(st->read.db));
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE && rc != SQLITE_BUSY &&
	    rc != SQLITE_INTERRUPT)
		sqlite_clear(&st->read);
}

/* SQLite asks now and then whether it may go on: 0. */
static int
sqlite_late(void *arg)
{
	const struct store *st = arg;

	return clock_ms() >= st->until;
}

/* The handle for what the path leads to now. */
static int
sqlite_current(struct store *st, struct err *err)
{
	struct stat sb;

	if (stat(st->path, &sb) == -1) {
		sqlite_clear(&st->read);
		return err_set(err, "cannot open %s", st->path);
	}
	if (st->read.stmt != NULL && sb.st_dev == st->dev &&
	    sb.st_ino == st->ino)
		return 0;
	sqlite_clear(&st->read);
	st->dev = sb.st_dev;
	st->ino = sb.st_ino;
	if (sqlite_prepare(&st->read, st->path, SQLITE_OPEN_READONLY,
		st->m->sql_query, err) != SQLITE_OK)
		return -1;
	sqlite3_progress_handler(st->read.db, SQLITE_OPCODES, sqlite_late, st);
	return 0;
}

/* The operator's statement, with the identifier first and the destination
 * second. Rare: a handle for each. */
static void
sqlite_write(struct store *st, const struct store_request *rq)
{
	struct sqlite_handle h = {NULL, NULL};
	struct err err = {""};
	bool set = rq->verb == STORE_SET;
	int rc;

	if (sqlite_prepare(&h, st->path, SQLITE_OPEN_READWRITE,
		set ? st->m->sql_upsert_query : st->m->sql_delete_query,
		&err) != SQLITE_OK) {
		store_fail(rq, err.text);
		return;
	}
	sqlite3_bind_text(h.stmt, 1, rq->key, -1, SQLITE_STATIC);
	if (set)
		sqlite3_bind_text(h.stmt, 2, rq->destination, -1,
		    SQLITE_STATIC);
	do
		rc = sqlite3_step(h.stmt);
	while (rc == SQLITE_ROW);
	if (rc == SQLITE_DONE)
		rq->done(rq->arg, STORE_FOUND, "");
	else
		store_fail(rq, sqlite3_errmsg(h.db));
	sqlite_clear(&h);
}

/* An SQLite code; err says what is behind it. */
static int
sqlite_prepare(struct sqlite_handle *h, const char *path, int flags,
    const char *query, struct err *err)
{
	const char *rest = "";
	int rc =
	    sqlite3_open_v2(path, &h->db, flags | SQLITE_OPEN_NOMUTEX, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(h->db, query, -1, &h->stmt, &rest);
	if (rc != SQLITE_OK) {
		err_set(err, "%s: %s", path,
		    h->db != NULL ? sqlite3_errmsg(h->db) : "out of memory");
	} else if (h->stmt == NULL || rest[strspn(rest, " \t\r\n;")] != '\0') {
		err_set(err, "the query is not one statement");
		rc = SQLITE_MISUSE;
	}
	if (rc != SQLITE_OK)
		sqlite_clear(h);
	return rc;
}

static void
sqlite_clear(struct sqlite_handle *h)
{
	sqlite3_finalize(h->stmt);
	sqlite3_close(h->db);
	h->stmt = NULL;
	h->db = NULL;
}
