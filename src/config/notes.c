/* notes.c: problems and warnings, with their positions.
 *
 * They are found in any order and reported in the order of the file. */

#include "notes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "platform/log.h"

/* With more than this of a kind, the file is not a configuration. */
#define NOTES_MAX 1000

/* One of them, until all are sorted. */
struct note {
	struct config_mark mark;
	size_t order; /* in which they were found, at one position */
	enum notes_severity severity;
	char *key; /* dotted path, may be "" */
	char *text;
};

static bool notes_is_below(const char *key, const char *parent);
static void notes_add(struct notes *n, enum notes_severity severity,
    const char *fmt, va_list ap) PRINTF_LIKE(3, 0);
static int notes_compare(const void *a, const void *b);
static void notes_add_later(const struct config *cfg,
    struct config_problems *problems, enum notes_severity severity,
    const char *key, const char *fmt, va_list ap) PRINTF_LIKE(5, 0);
static char *notes_vformat(const char *fmt, va_list ap) PRINTF_LIKE(1, 0);

void
config_problem(const struct config *cfg, struct config_problems *problems,
    const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	notes_add_later(cfg, problems, NOTES_ERROR, key, fmt, ap);
	va_end(ap);
}

void
config_warning(const struct config *cfg, struct config_problems *problems,
    const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	notes_add_later(cfg, problems, NOTES_WARNING, key, fmt, ap);
	va_end(ap);
}

void
config_problems_clear(struct config_problems *problems)
{
	size_t i;

	for (i = 0; i < problems->n_error; i++)
		free(problems->error[i]);
	for (i = 0; i < problems->n_warning; i++)
		free(problems->warning[i]);
	free(problems->error);
	free(problems->warning);
	memset(problems, 0, sizeof(*problems));
}

/* Appends to the path; its former length, to cut it back to. A dot at the
 * very beginning is left out. */
size_t
notes_push(struct notes *n, const char *fmt, ...)
{
	size_t len = strlen(n->path);
	va_list ap;

	if (len == 0 && *fmt == '.')
		fmt++;
	va_start(ap, fmt);
	vsnprintf(n->path + len, sizeof(n->path) - len, fmt, ap);
	va_end(ap);
	return len;
}

/* Appends a name from the file, which may contain anything. */
void
notes_push_name(struct notes *n, const char *name)
{
	char shown[LOG_FIELD_MAX * 4 + 8];

	log_escape(name, strlen(name), shown, sizeof(shown));
	notes_push(n, ".%s", shown);
}

/* Goes to a key, or to its nearest parent that the file has. False: there,
 * above or below is an error already, and what follows from it is not worth
 * telling. */
bool
notes_at(struct notes *n, const char *fmt, ...)
{
	bool exact;
	va_list ap;
	size_t i;

	va_start(ap, fmt);
	vsnprintf(n->path, sizeof(n->path), fmt, ap);
	va_end(ap);
	n->mark = config_yaml_find(n->tree, n->path, &exact)->mark;
	for (i = 0; i < n->n_note; i++)
		if (n->note[i].severity == NOTES_ERROR &&
		    (notes_is_below(n->note[i].key, n->path) ||
			notes_is_below(n->path, n->note[i].key)))
			return false;
	return true;
}

static bool
notes_is_below(const char *key, const char *parent)
{
	size_t len = strlen(parent);

	return strncmp(key, parent, len) == 0 && strchr(".[", key[len]) != NULL;
}

/* Returns true if the file has the key. */
bool
notes_has(const struct notes *n, const char *fmt, ...)
{
	char path[NOTES_PATH_MAX];
	bool exact;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	config_yaml_find(n->tree, path, &exact);
	return exact;
}

void
notes_error(struct notes *n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	notes_add(n, NOTES_ERROR, fmt, ap);
	va_end(ap);
}

void
notes_warn(struct notes *n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	notes_add(n, NOTES_WARNING, fmt, ap);
	va_end(ap);
}

static void
notes_add(struct notes *n, enum notes_severity severity, const char *fmt,
    va_list ap)
{
	struct note *note;

	if (n->n_of[severity]++ >= NOTES_MAX)
		return;
	n->note = notes_grow(n->note, n->n_note + 1, sizeof(*n->note));
	note = &n->note[n->n_note];
	note->mark = n->mark;
	note->order = n->n_note++;
	note->severity = severity;
	note->key = notes_format("%s", n->path);
	note->text = notes_vformat(fmt, ap);
}

static int
notes_compare(const void *a, const void *b)
{
	const struct note *l = a, *r = b;

	if (l->mark.line != r->mark.line)
		return l->mark.line < r->mark.line ? -1 : 1;
	if (l->mark.column != r->mark.column)
		return l->mark.column < r->mark.column ? -1 : 1;
	return l->order < r->order ? -1 : 1;
}

/* Turns all notes, sorted, into lines, and frees the notes. */
void
notes_tell(struct notes *n, struct config_problems *problems)
{
	size_t i;

	if (n->n_note > 0)
		qsort(n->note, n->n_note, sizeof(*n->note), notes_compare);
	for (i = 0; i < n->n_note; i++) {
		const struct note *note = &n->note[i];

		notes_line(problems, note->severity, n->file, note->mark,
		    note->key, note->text);
		free(note->key);
		free(note->text);
	}
	if (n->n_of[NOTES_ERROR] > NOTES_MAX)
		notes_line(problems, NOTES_ERROR, n->file, n->tree->root->mark,
		    "", "more problems than can be shown");
	free(n->note);
	n->note = NULL;
	n->n_note = 0;
}

void
notes_line(struct config_problems *problems, enum notes_severity severity,
    const char *file, struct config_mark mark, const char *key,
    const char *text)
{
	bool error = severity == NOTES_ERROR;
	char ***lines = error ? &problems->error : &problems->warning;
	size_t *n = error ? &problems->n_error : &problems->n_warning;

	*lines = notes_grow(*lines, *n + 1, sizeof(**lines));
	(*lines)[(*n)++] = notes_format("%s:%zu:%zu: %s%s%s", file, mark.line,
	    mark.column, key, *key == '\0' ? "" : ": ", text);
}

static void
notes_add_later(const struct config *cfg, struct config_problems *problems,
    enum notes_severity severity, const char *key, const char *fmt, va_list ap)
{
	char *text = notes_vformat(fmt, ap);
	bool exact;

	notes_line(problems, severity, cfg->path,
	    config_yaml_find(cfg->tree, key, &exact)->mark, key, text);
	free(text);
}

char *
notes_format(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	text = notes_vformat(fmt, ap);
	va_end(ap);
	return text;
}

static char *
notes_vformat(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) == -1) {
		log_msg(LOG_ERR, "configuration: out of memory");
		exit(EX_OSERR);
	}
	return text;
}

void *
notes_grow(void *array, size_t n, size_t size)
{
	array = reallocarray(array, n, size);
	if (array == NULL) {
		log_msg(LOG_ERR, "configuration: out of memory");
		exit(EX_OSERR);
	}
	return array;
}
