/* file.c: the mapping file in memory.
 *
 * One allocation holds the file's text; the entries point into it. The table is
 * uthash with a keyed hash, because strangers choose the identifiers. */

#include "store/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "platform/hash.h"
#include "platform/log.h"
#include "proto/identifier.h"
#include "store/store.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)hash_keyed((key), (len)))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define STORE_FILE_PROBLEMS_MAX 100
#define STORE_FILE_SIZE_MAX ((off_t)4 << 30)

struct store_entry {
	UT_hash_handle hh;
	const char *key;
	int destination;
};

struct store_table {
	char *text;
	struct store_entry *entries; /* one array */
	struct store_entry *head; /* uthash's */
	size_t n_entries;
	struct store_made
	    *made; /* keys that do not stand in text as they are */
};

struct store_made {
	struct store_made *next;
	char key[];
};

struct store {
	const struct config *cfg;
	const struct store_table *table;
};

struct store_load {
	const struct config *cfg;
	struct config_problems *problems;
	struct store_table *table;
	struct identifier_rules rules;
	size_t line, n_problems;
	bool out_of_memory;
};

static void store_file_describe(const struct config *cfg,
    const struct store_table *table, char *buf, size_t size);
static struct store *store_file_open(const struct store_spec *spec,
    struct err *err);
static void store_file_close(struct store *st);
static struct store_call *store_file_call(struct store *st,
    const struct store_request *rq);
static void store_file_cancel(struct store_call *call);
static char *store_file_read(const char *path, size_t *len_out,
    struct err *err);
static size_t store_file_lines(const char *text, size_t len);
static void store_file_line(struct store_load *load, char *line, size_t len);
static void store_file_entry(struct store_load *load, const char *word,
    const char *name);
static const char *store_file_key(struct store_load *load, const char *word);
static void store_file_problem(struct store_load *load, const char *what,
    const char *word, const char *why);

const struct store_kind store_file = {
    .name = "file",
    .source = SOURCE_FILE,
    .key = "mapping.file.path",
    .value = offsetof(struct config_mapping, file_path),
    .local = true,
    .describe = store_file_describe,
    .open = store_file_open,
    .close = store_file_close,
    .call = store_file_call,
    .cancel = store_file_cancel,
};

static void
store_file_describe(const struct config *cfg, const struct store_table *table,
    char *buf, size_t size)
{
	const char *path = cfg->mapping.file_path;

	if (*path == '\0')
		snprintf(buf, size,
		    "none, everybody is at the default destination");
	else
		snprintf(buf, size, "%s, %zu entries", path,
		    store_table_count(table));
}

static struct store *
store_file_open(const struct store_spec *spec, struct err *err)
{
	struct store *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	st->cfg = spec->cfg;
	st->table = spec->table;
	return st;
}

static void
store_file_close(struct store *st)
{
	free(st);
}

static struct store_call *
store_file_call(struct store *st, const struct store_request *rq)
{
	struct err err;
	int i;

	if (rq->verb != STORE_GET) {
		if (store_file_write(st->cfg->mapping.file_path, rq->key,
			rq->verb == STORE_SET ? rq->destination : NULL,
			st->cfg->mapping.normalize, &err) == -1)
			return store_fail(rq, err.text);
		rq->done(rq->arg, STORE_FOUND, "");
		return NULL;
	}
	i = store_table_find(st->table, rq->key);
	if (i == -1)
		rq->done(rq->arg, STORE_UNKNOWN, NULL);
	else
		rq->done(rq->arg, STORE_FOUND, st->cfg->destination[i].name);
	return NULL;
}

static void
store_file_cancel(struct store_call *call UNUSED)
{
}

int
store_table_find(const struct store_table *table, const char *key)
{
	struct store_entry *e;

	HASH_FIND(hh, table->head, key, strlen(key), e);
	return e != NULL ? e->destination : -1;
}

size_t
store_table_count(const struct store_table *table)
{
	return HASH_COUNT(table->head);
}

struct store_table *
store_table_load(const struct config *cfg, struct config_problems *problems)
{
	struct store_load load = {.cfg = cfg,
	    .problems = problems,
	    .rules = config_identifier_rules(cfg)};
	struct store_table *table = calloc(1, sizeof(*table));
	struct err err;
	size_t len = 0;
	char *line, *end;

	load.table = table;
	if (table == NULL)
		err_set(&err, "out of memory");
	else if (cfg->mapping.source != SOURCE_FILE ||
	    cfg->mapping.file_path[0] == '\0')
		return table;
	else
		table->text =
		    store_file_read(cfg->mapping.file_path, &len, &err);
	if (table == NULL || table->text == NULL)
		goto fail;
	table->entries = calloc(store_file_lines(table->text, len) + 1,
	    sizeof(*table->entries));
	if (table->entries == NULL) {
		err_set(&err, "out of memory");
		goto fail;
	}
	for (line = table->text; line < table->text + len; line = end + 1) {
		end = memchr(line, '\n', len - (size_t)(line - table->text));
		if (end == NULL)
			end = table->text + len;
		load.line++;
		*end = '\0';
		store_file_line(&load, line, (size_t)(end - line));
		if (load.out_of_memory) {
			err_set(&err, "out of memory");
			goto fail;
		}
	}
	if (load.n_problems > STORE_FILE_PROBLEMS_MAX)
		config_problem(cfg, problems, "mapping.file.path",
		    "%s: %zu more bad lines", cfg->mapping.file_path,
		    load.n_problems - STORE_FILE_PROBLEMS_MAX);
	return table;
fail:
	config_problem(cfg, problems, "mapping.file.path", "%s", err.text);
	store_table_free(&table);
	return NULL;
}

void
store_table_free(struct store_table **tablep)
{
	struct store_table *table = *tablep;
	struct store_made *made;

	if (table == NULL)
		return;
	*tablep = NULL;
	HASH_CLEAR(hh, table->head);
	while ((made = table->made) != NULL) {
		table->made = made->next;
		free(made);
	}
	free(table->entries);
	free(table->text);
	free(table);
}

/* Reads the whole file and adds a NUL. The buffer grows while it reads, because
 * the file may be a pipe or may be written meanwhile. */
static char *
store_file_read(const char *path, size_t *len_out, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = NULL, *grown;
	size_t len = 0, room = 0;
	struct stat st;
	ssize_t n = -1;

	if (fd == -1 || fstat(fd, &st) == -1) {
		err_set(err, "cannot read %s: %s", path, strerror(errno));
		goto out;
	}
	if (S_ISDIR(st.st_mode) || st.st_size > STORE_FILE_SIZE_MAX) {
		err_set(err, "cannot read %s: %s", path,
		    S_ISDIR(st.st_mode) ? "it is a directory" : "too large");
		goto out;
	}
	do {
		if (room - len < 2) {
			room = room == 0 ? (size_t)st.st_size + 4096 : room * 2;
			grown = realloc(text, room);
			if (grown == NULL) {
				err_set(err, "cannot read %s: out of memory",
				    path);
				n = -1;
				break;
			}
			text = grown;
		}
		n = read(fd, text + len, room - len - 1);
		if (n > 0)
			len += (size_t)n;
		else if (n == -1)
			err_set(err, "cannot read %s: %s", path,
			    strerror(errno));
	} while (n > 0);
out:
	if (fd != -1)
		close(fd);
	if (n == -1) {
		free(text);
		return NULL;
	}
	text[len] = '\0';
	*len_out = len;
	return text;
}

static size_t
store_file_lines(const char *text, size_t len)
{
	const char *p = text, *end = text + len;
	size_t n = 1;

	while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
		n++;
		p++;
	}
	return n;
}

/* word: what it is about; why: more of it. Either may be NULL. */
static void
store_file_problem(struct store_load *load, const char *what, const char *word,
    const char *why)
{
	char shown[LOG_FIELD_MAX * 4 + 8];

	if (++load->n_problems > STORE_FILE_PROBLEMS_MAX)
		return;
	config_problem(load->cfg, load->problems, "mapping.file.path",
	    "%s:%zu: %s%s%s%s%s", load->cfg->mapping.file_path, load->line,
	    what, word != NULL ? " " : "",
	    word != NULL ? log_escape(word, strlen(word), shown, sizeof(shown))
			 : "",
	    why != NULL ? ": " : "", why != NULL ? why : "");
}

/* Splits one line into its two words in place. */
static void
store_file_line(struct store_load *load, char *line, size_t len)
{
	static const char blank[] = " \t\r\v\f";
	char *key = line + strspn(line, blank), *name, *rest;

	if (strlen(line) != len) {
		store_file_problem(load, "holds a NUL", NULL, NULL);
		return;
	}
	if (*key == '\0' || *key == '#')
		return;
	name = key + strcspn(key, blank);
	if (*name != '\0')
		*name++ = '\0';
	name += strspn(name, blank);
	rest = name + strcspn(name, blank);
	if (*rest != '\0')
		*rest++ = '\0';
	rest += strspn(rest, blank);
	if (*name == '\0' || (*rest != '\0' && *rest != '#'))
		store_file_problem(load,
		    "not two words; expected identifier and destination", NULL,
		    NULL);
	else
		store_file_entry(load, key, name);
}

/* Returns what a lookup asks for, or NULL. It lives as long as the table. */
static const char *
store_file_key(struct store_load *load, const char *word)
{
	char key[IDENTIFIER_MAX + 1];
	size_t len = strlen(word);
	struct store_made *made;
	const char *fault = identifier_stored(&load->rules, word, len, key);

	if (fault != NULL) {
		store_file_problem(load, "no login can match", word, fault);
		return NULL;
	}
	if (strcmp(key, word) == 0)
		return word;
	made = malloc(sizeof(*made) + strlen(key) + 1);
	if (made == NULL) {
		load->out_of_memory = true;
		return NULL;
	}
	strcpy(made->key, key);
	LL_PREPEND(load->table->made, made);
	return made->key;
}

static void
store_file_entry(struct store_load *load, const char *word, const char *name)
{
	struct store_table *t = load->table;
	struct store_entry *e, *old;
	int i = config_destination_find(load->cfg, name, strlen(name));
	const char *key;

	if (i == -1) {
		store_file_problem(load,
		    "no such destination is declared:", name, NULL);
		return;
	}
	key = store_file_key(load, word);
	if (key == NULL)
		return;
	HASH_FIND(hh, t->head, key, strlen(key), old);
	if (old != NULL) {
		if (old->destination != i)
			store_file_problem(load,
			    "duplicate identifier; "
			    "given before with another destination:",
			    key, NULL);
		return;
	}
	e = &t->entries[t->n_entries++];
	e->key = key;
	e->destination = i;
	HASH_ADD_KEYPTR(hh, t->head, e->key, strlen(e->key), e);
	if (e->hh.tbl == NULL)
		load->out_of_memory = true;
}
