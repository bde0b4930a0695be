/* lite_link.c: see lite_link.h.
 *
 * The first lookup opens the handle for reading; it is opened again when
 * another file has replaced the file. A request may wait for a lock, or search
 * the whole table, for three quarters of lookup_timeout, so that it can report
 * the reason before the lookup times out. Writing has a handle of its own. */

#include "lite_link.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "platform/clock.h"

#define LITE_SCHEME "sqlite://"
#define LITE_OPCODES 4000 /* between two looks at the clock; 0.1 ms or so */
#define LITE_LOCK_NS 5000000 /* between two looks at a lock */

/* A handle and its statement. */
struct lite_handle {
	sqlite3 *db;
	sqlite3_stmt *stmt;
};

struct lite_link {
	struct blocking b; /* first */
	struct lite_handle read;
	dev_t dev; /* of the file that is open for reading */
	ino_t ino;
	uint64_t until; /* when the request is given up */
};

static void lite_file_free(struct blocking_settings *shared);
static char *lite_file_path(const struct config *cfg);
static void lite_link_connect(struct blocking *b, struct blocking_answer *out);
static void lite_link_disconnect(struct blocking *b);
static void lite_link_ask(struct blocking *b, const struct blocking_request *rq,
    struct blocking_answer *out);
static void lite_link_get(struct lite_link *l, const char *key,
    struct blocking_answer *out);
static void lite_link_write(struct lite_link *l,
    const struct blocking_request *rq, struct blocking_answer *out);
static int lite_link_current(struct lite_link *l, struct err *err);
static int lite_link_open(struct lite_link *l, struct lite_handle *h, int flags,
    enum store_verb verb, struct err *err);
static int lite_link_late(void *arg);
static int lite_link_busy(void *arg, int times);
static int lite_handle_open(struct lite_handle *h, const char *path, int flags,
    struct err *err);
static int lite_handle_prepare(struct lite_handle *h, const char *path,
    const char *query, struct err *err);
static void lite_handle_clear(struct lite_handle *h);

const struct blocking_kind lite_link = {
    .size = sizeof(struct lite_link),
    .connect = lite_link_connect,
    .ask = lite_link_ask,
    .disconnect = lite_link_disconnect,
};

/* The file */

struct lite_file *
lite_file_new(const struct config *cfg, size_t max_conns)
{
	const struct config_mapping *m = &cfg->mapping;
	struct lite_file *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	blocking_settings_init(&f->shared, max_conns, lite_file_free);
	f->patience = m->lookup_timeout - m->lookup_timeout / 4;
	f->path = lite_file_path(cfg);
	/* A thread may outlive the configuration. */
	f->query[STORE_GET] = strdup(m->sql_query);
	f->query[STORE_SET] = strdup(m->sql_upsert_query);
	f->query[STORE_DELETE] = strdup(m->sql_delete_query);
	if (f->path != NULL && f->query[STORE_GET] != NULL &&
	    f->query[STORE_SET] != NULL && f->query[STORE_DELETE] != NULL)
		return f;
	lite_file_unref(f);
	return NULL;
}

/* Parses sqlite:///an/absolute/path, or a path relative to the configuration
 * file. */
static char *
lite_file_path(const struct config *cfg)
{
	const char *path = cfg->mapping.sql_url + strlen(LITE_SCHEME);
	const char *slash = strrchr(cfg->path, '/');
	char *made;

	if (*path == '/' || slash == NULL)
		return strdup(path);
	if (asprintf(&made, "%.*s/%s", (int)(slash - cfg->path), cfg->path,
		path) == -1)
		return NULL;
	return made;
}

void
lite_file_unref(struct lite_file *f)
{
	if (f != NULL)
		blocking_settings_unref(&f->shared);
}

static void
lite_file_free(struct blocking_settings *shared)
{
	struct lite_file *f = (struct lite_file *)(void *)shared;

	for (size_t i = 0; i < ARRAY_LEN(f->query); i++)
		free(f->query[i]);
	free(f->path);
	free(f);
}

/* A query that SQLite refuses is an error. A missing file, or one that is being
 * written, may be right a moment later. */
int
lite_file_check(const struct lite_file *f, struct err *err)
{
	struct lite_handle h = {NULL, NULL};
	int rc = SQLITE_OK;

	for (size_t i = 0; i < ARRAY_LEN(f->query) && rc == SQLITE_OK; i++) {
		if (*f->query[i] == '\0')
			continue;
		rc = lite_handle_open(&h, f->path, SQLITE_OPEN_READONLY, err);
		if (rc == SQLITE_OK)
			rc = lite_handle_prepare(&h, f->path, f->query[i], err);
		lite_handle_clear(&h);
	}
	if (rc == SQLITE_OK || rc == SQLITE_BUSY)
		return 0;
	return rc == SQLITE_CANTOPEN ? 1 : -1;
}

/* One connection */

/* The file is opened when it is needed, because it may be created later. */
static void
lite_link_connect(struct blocking *b UNUSED, struct blocking_answer *out)
{
	blocking_answer(out, STORE_FOUND, "");
}

static void
lite_link_disconnect(struct blocking *b)
{
	lite_handle_clear(&((struct lite_link *)(void *)b)->read);
}

static void
lite_link_ask(struct blocking *b, const struct blocking_request *rq,
    struct blocking_answer *out)
{
	struct lite_link *l = (struct lite_link *)(void *)b;
	const struct lite_file *f = (struct lite_file *)(void *)b->settings;

	l->until = clock_ms() + f->patience;
	if (rq->verb == STORE_GET)
		lite_link_get(l, rq->key, out);
	else
		lite_link_write(l, rq, out);
}

static void
lite_link_get(struct lite_link *l, const char *key, struct blocking_answer *out)
{
	sqlite3_stmt *stmt;
	struct err err = {""};
	const char *text;
	int rc;

	if (lite_link_current(l, &err) == -1) {
		blocking_answer(out, STORE_FAILED, err.text);
		return;
	}
	stmt = l->read.stmt;
	sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	rc = sqlite3_step(stmt);
	text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0)
				: NULL;
	if (text != NULL && strlen(text) > BLOCKING_TEXT_MAX)
		blocking_answer(out, STORE_FAILED,
		    "its answer is no destination's name");
	else if (text != NULL)
		blocking_answer(out, STORE_FOUND, text);
	else if (rc == SQLITE_ROW || rc == SQLITE_DONE)
		blocking_answer(out, STORE_UNKNOWN, "");
	else if (rc == SQLITE_INTERRUPT)
		blocking_answer(out, STORE_FAILED,
		    "the query takes too long: is there an index?");
	else
		blocking_answer(out, STORE_FAILED, sqlite3_errmsg(l->read.db));
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE && rc != SQLITE_BUSY &&
	    rc != SQLITE_INTERRUPT)
		lite_handle_clear(&l->read);
}

/* The operator's statement, with the identifier first and the destination
 * second. Rare: a handle for each. */
static void
lite_link_write(struct lite_link *l, const struct blocking_request *rq,
    struct blocking_answer *out)
{
	struct lite_handle h = {NULL, NULL};
	struct err err = {""};
	int rc;

	if (lite_link_open(l, &h, SQLITE_OPEN_READWRITE, rq->verb, &err) !=
	    SQLITE_OK) {
		blocking_answer(out, STORE_FAILED, err.text);
		return;
	}
	sqlite3_bind_text(h.stmt, 1, rq->key, -1, SQLITE_STATIC);
	if (rq->verb == STORE_SET)
		sqlite3_bind_text(h.stmt, 2, rq->destination, -1,
		    SQLITE_STATIC);
	do
		rc = sqlite3_step(h.stmt);
	while (rc == SQLITE_ROW);
	if (rc == SQLITE_DONE)
		blocking_answer(out, STORE_FOUND, "");
	else
		blocking_answer(out, STORE_FAILED, sqlite3_errmsg(h.db));
	lite_handle_clear(&h);
}

/* Returns the handle for the file that the path leads to now. */
static int
lite_link_current(struct lite_link *l, struct err *err)
{
	const struct lite_file *f = (struct lite_file *)(void *)l->b.settings;
	struct stat sb;

	if (stat(f->path, &sb) == -1) {
		lite_handle_clear(&l->read);
		return err_set(err, "cannot open %s", f->path);
	}
	if (l->read.stmt != NULL && sb.st_dev == l->dev && sb.st_ino == l->ino)
		return 0;
	lite_handle_clear(&l->read);
	l->dev = sb.st_dev;
	l->ino = sb.st_ino;
	return lite_link_open(l, &l->read, SQLITE_OPEN_READONLY, STORE_GET,
		   err) == SQLITE_OK
	    ? 0
	    : -1;
}

static int
lite_link_open(struct lite_link *l, struct lite_handle *h, int flags,
    enum store_verb verb, struct err *err)
{
	const struct lite_file *f = (struct lite_file *)(void *)l->b.settings;
	int rc = lite_handle_open(h, f->path, flags, err);

	if (rc != SQLITE_OK)
		return rc;
	sqlite3_busy_handler(h->db, lite_link_busy, l);
	sqlite3_progress_handler(h->db, LITE_OPCODES, lite_link_late, l);
	return lite_handle_prepare(h, f->path, f->query[verb], err);
}

/* SQLite calls this now and then; 0 means go on. */
static int
lite_link_late(void *arg)
{
	struct lite_link *l = arg;

	return blocking_is_over(&l->b) || clock_ms() >= l->until;
}

/* Another process has the lock. Any value but 0 means try again. */
static int
lite_link_busy(void *arg, int times UNUSED)
{
	const struct timespec pause = {.tv_nsec = LITE_LOCK_NS};

	if (lite_link_late(arg))
		return 0;
	nanosleep(&pause, NULL);
	return 1;
}

/* Returns an SQLite code; err describes it. */
static int
lite_handle_open(struct lite_handle *h, const char *path, int flags,
    struct err *err)
{
	int rc =
	    sqlite3_open_v2(path, &h->db, flags | SQLITE_OPEN_NOMUTEX, NULL);

	if (rc == SQLITE_OK)
		return rc;
	err_set(err, "%s: %s", path,
	    h->db != NULL ? sqlite3_errmsg(h->db) : "out of memory");
	lite_handle_clear(h);
	return rc;
}

static int
lite_handle_prepare(struct lite_handle *h, const char *path, const char *query,
    struct err *err)
{
	const char *rest = "";
	int rc = sqlite3_prepare_v2(h->db, query, -1, &h->stmt, &rest);

	if (rc != SQLITE_OK) {
		err_set(err, "%s: %s", path, sqlite3_errmsg(h->db));
	} else if (h->stmt == NULL || rest[strspn(rest, " \t\r\n;")] != '\0') {
		err_set(err, "the query is not one statement");
		rc = SQLITE_MISUSE;
	}
	if (rc != SQLITE_OK)
		lite_handle_clear(h);
	return rc;
}

static void
lite_handle_clear(struct lite_handle *h)
{
	sqlite3_finalize(h->stmt);
	sqlite3_close(h->db);
	h->stmt = NULL;
	h->db = NULL;
}
