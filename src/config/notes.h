/* notes.h: problems and warnings, with their positions.
 *
 * read.c and rules.c set the position and report what is wrong there.
 * notes_tell() turns all notes into the lines of struct config_problems.
 * Running out of memory ends the process, as in yaml.h. */

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
	/* The current key, and the position of its value or nearest parent. */
	char path[NOTES_PATH_MAX];
	struct config_mark mark;
};

/* Appends to the path and returns its former length, to cut it back to. A dot
 * at the very beginning is left out. */
size_t notes_push(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Appends a name from the file, which may contain anything. */
void notes_push_name(struct notes *n, const char *name);

/* Goes to a key, or to its nearest parent that the file has. Returns false if
 * there is already an error at, above or below it, because a consequence of an
 * error need not be reported. */
bool notes_at(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Returns true if the file has the key. */
bool notes_has(const struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Adds a note about the current key. */
void notes_error(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);
void notes_warn(struct notes *n, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Sorts all notes, adds them to problems and frees them. */
void notes_tell(struct notes *n, struct config_problems *problems);

/* Adds one line at once, for a file without a tree. */
void notes_line(struct config_problems *problems, enum notes_severity severity,
    const char *file, struct config_mark mark, const char *key,
    const char *text);

/* Allocates memory, or ends the process. */
char *notes_format(const char *fmt, ...) PRINTF_LIKE(1, 2);
void *notes_grow(void *array, size_t n, size_t size);

#endif
