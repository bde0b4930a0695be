/* notes.h: problems and warnings, with the place they are about.
 *
 * read.c and rules.c say where they are and what is wrong there; notes_tell()
 * turns all of it into the lines of struct config_problems. Running out of
 * memory ends the process, as in yaml.h. */

#ifndef CONFIG_NOTES_H
#define CONFIG_NOTES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "platform/util.h"
#include "yaml.h"

#define NOTES_PATH_MAX 1024

enum notes_severity { NOTES_ERROR, NOTES_WARNING, NOTES_SEVERITIES };

struct note;

/* Zeroed but for tree and file. */
struct notes {
	const struct config_tree *tree;
	const char *file;
	struct note *note;
	size_t n_note;
	size_t n_of[NOTES_SEVERITIES];
	/* Where we are: the key, and its value's or nearest parent's place. */
	char path[NOTES_PATH_MAX];
	struct config_mark mark;
};

/* Appends to the path and returns its former length, to cut it back to. A dot
 * at the very beginning is left out. */
size_t notes_push(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Appends a name from the file, which may be anything. */
void notes_push_name(struct notes *n, const char *name);

/* Goes to a key, or to its nearest parent that the file has. Returns false if
 * there, above or below is an error already: what follows from an error is not
 * worth telling. */
bool notes_at(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Returns true if the file has the key. */
bool notes_has(const struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* About the key where we are. */
void notes_error(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);
void notes_warn(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Sorts all notes, adds them to problems and frees them. */
void notes_tell(struct notes *n, struct config_problems *problems);

/* Adds one line at once: for a file of which there is no tree. */
void notes_line(struct config_problems *problems, enum notes_severity severity,
    const char *file, struct config_mark mark, const char *key,
    const char *text);

/* Memory that is there, or the process is not. */
char *notes_format(const char *fmt, ...) PRINTF_LIKE(1, 2);
void *notes_grow(void *array, size_t n, size_t size);

#endif
