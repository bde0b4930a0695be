/* file_write.c: one change in the mapping file.
 *
 * lock -> read -> change -> temporary file beside it -> fsync -> rename ->
 * fsync of the directory. The lock is on the file itself, so a writer that has
 * waited for it checks that the name still leads to this file. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/file.h"

struct write_file {
	const char *path; /* real */
	int fd; /* the old file, locked */
	struct stat st;
	char *text; /* its content, split into lines at each LF */
	char **line;
	size_t n_lines, n_head; /* head: comments and blank lines on top */
	char *temp; /* name of the new file; "" when there is none */
};

static int write_open(struct write_file *w, struct err *err);
static int write_read(struct write_file *w, struct err *err);
static int write_split(struct write_file *w, size_t len, struct err *err);
static bool write_is_entry(const char *line);
static bool write_is_of(const char *line, const char *key,
    enum normalize normalize);
static bool write_is_folded(const char *line, const char *key,
    enum normalize normalize);
static void write_change(struct write_file *w, const char *key,
    enum normalize normalize, char *entry);
static int write_order(const void *a, const void *b);
static int write_replace(struct write_file *w, struct err *err);
static int write_fill(const struct write_file *w, int fd, struct err *err);
static int write_sync_directory(const char *path, struct err *err);

int
store_file_write(const char *path, const char *key, const char *destination,
    enum normalize normalize, struct err *err)
{
	struct write_file w = {.fd = -1};
	char *real = realpath(path, NULL), *entry = NULL;
	int status = -1;

	if (real == NULL)
		return err_set(err, "cannot write %s: %s", path,
		    strerror(errno));
	w.path = real;
	if (destination != NULL &&
	    asprintf(&entry, "%s\t%s", key, destination) == -1) {
		entry = NULL;
		err_set(err, "out of memory");
	} else if (write_open(&w, err) == 0 && write_read(&w, err) == 0) {
		write_change(&w, key, normalize, entry);
		status = write_replace(&w, err);
	}
	if (w.fd != -1)
		close(w.fd); /* and the lock */
	free(w.temp);
	free(w.line);
	free(w.text);
	free(entry);
	free(real);
	return status;
}

static int
write_open(struct write_file *w, struct err *err)
{
	struct stat named;

	for (;;) {
		w->fd = open(w->path, O_RDONLY | O_CLOEXEC);
		if (w->fd == -1 || flock(w->fd, LOCK_EX) == -1 ||
		    fstat(w->fd, &w->st) == -1 || stat(w->path, &named) == -1)
			return err_set(err, "cannot write %s: %s", w->path,
			    strerror(errno));
		if (!S_ISREG(w->st.st_mode))
			return err_set(err, "cannot write %s: not a file",
			    w->path);
		if (named.st_ino == w->st.st_ino &&
		    named.st_dev == w->st.st_dev)
			return 0;
		close(w->fd);
	}
}

static int
write_read(struct write_file *w, struct err *err)
{
	size_t size = (size_t)w->st.st_size, len = 0;
	ssize_t n = 1;

	/* One octet more for a NUL. Text that another program appends without
	 * the lock is lost; that cannot be repaired here. */
	w->text = malloc(size + 1);
	if (w->text == NULL)
		return err_set(err, "out of memory");
	while (len < size && n > 0) {
		n = read(w->fd, w->text + len, size - len);
		if (n > 0)
			len += (size_t)n;
	}
	if (n == -1)
		return err_set(err, "cannot read %s: %s", w->path,
		    strerror(errno));
	w->text[len] = '\0';
	return write_split(w, len, err);
}

static int
write_split(struct write_file *w, size_t len, struct err *err)
{
	char *p, *end;
	size_t n = 2; /* a last line without LF, and the new entry */

	for (p = w->text;
	     (p = memchr(p, '\n', len - (size_t)(p - w->text))) != NULL; p++)
		n++;
	w->line = calloc(n, sizeof(*w->line));
	if (w->line == NULL)
		return err_set(err, "out of memory");
	for (p = w->text; p < w->text + len; p = end + 1) {
		end = memchr(p, '\n', len - (size_t)(p - w->text));
		if (end == NULL)
			end = w->text + len;
		*end = '\0';
		if (w->n_head == w->n_lines && !write_is_entry(p))
			w->n_head++;
		w->line[w->n_lines++] = p;
	}
	return 0;
}

static bool
write_is_entry(const char *line)
{
	line += strspn(line, " \t\r\v\f");
	return *line != '\0' && *line != '#';
}

/* Whether line is about key, in another case where the case does not count, or
 * with another spelling of the domain. */
static bool
write_is_of(const char *line, const char *key, enum normalize normalize)
{
	size_t len = strlen(key), exact = len;
	const char *domain = strrchr(key, '@');

	if (normalize == NORMALIZE_LOWERCASE)
		exact = 0;
	else if (normalize == NORMALIZE_DOMAIN && domain != NULL)
		exact = (size_t)(domain - key);
	line += strspn(line, " \t\r\v\f");
	return write_is_folded(line, key, normalize) ||
	    (strncmp(line, key, exact) == 0 &&
		strncasecmp(line + exact, key + exact, len - exact) == 0 &&
		strspn(line + len, " \t\r\v\f") > 0);
}

/* Only what is not ASCII, or ends with a dot, has another spelling. */
static bool
write_is_folded(const char *line, const char *key, enum normalize normalize)
{
	const struct identifier_rules rules = {
	    .at_substitutes = "", .default_domain = "", .normalize = normalize};
	size_t len = strcspn(line, " \t\r\v\f"), i = 0;
	char made[IDENTIFIER_MAX + 1];

	while (i < len && (unsigned char)line[i] < 0x80)
		i++;
	if (len == 0 || (i == len && line[len - 1] != '.'))
		return false;
	return identifier_make(&rules, line, len, made) == IDENTIFIER_OK &&
	    strcmp(made, key) == 0;
}

/* Removes key's lines, and blank lines below the head; adds entry; sorts.
 * Comments among the entries are sorted by their text. */
static void
write_change(struct write_file *w, const char *key, enum normalize normalize,
    char *entry)
{
	size_t kept = w->n_head;

	for (size_t i = w->n_head; i < w->n_lines; i++) {
		const char *line = w->line[i];

		if (line[strspn(line, " \t\r\v\f")] != '\0' &&
		    !write_is_of(line, key, normalize))
			w->line[kept++] = w->line[i];
	}
	if (entry != NULL)
		w->line[kept++] = entry;
	w->n_lines = kept;
	qsort(w->line + w->n_head, kept - w->n_head, sizeof(*w->line),
	    write_order);
}

static int
write_order(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int
write_replace(struct write_file *w, struct err *err)
{
	struct stat made;
	int fd, status = -1;

	if (asprintf(&w->temp, "%s.XXXXXX", w->path) == -1) {
		w->temp = NULL;
		return err_set(err, "out of memory");
	}
	fd = mkostemp(w->temp, O_CLOEXEC);
	if (fd == -1)
		return err_set(err, "cannot make %s: %s", w->temp,
		    strerror(errno));
	if (fstat(fd, &made) == -1 ||
	    ((made.st_uid != w->st.st_uid || made.st_gid != w->st.st_gid) &&
		fchown(fd, w->st.st_uid, w->st.st_gid) == -1) ||
	    fchmod(fd, w->st.st_mode & 07777) == -1)
		err_set(err, "cannot keep the owner of %s: %s", w->path,
		    strerror(errno));
	else
		status = write_fill(w, fd, err);
	close(fd);
	if (status == 0 && rename(w->temp, w->path) == -1)
		status = err_set(err, "cannot replace %s: %s", w->path,
		    strerror(errno));
	if (status == -1) {
		unlink(w->temp);
		return -1;
	}
	return write_sync_directory(w->path, err);
}

static int
write_fill(const struct write_file *w, int fd, struct err *err)
{
	int copy = dup(fd);
	FILE *f = copy != -1 ? fdopen(copy, "w") : NULL;
	bool ok = f != NULL;

	for (size_t i = 0; ok && i < w->n_lines; i++)
		ok = fputs(w->line[i], f) >= 0 && fputc('\n', f) != EOF;
	ok = ok && fflush(f) == 0 && fsync(fd) == 0;
	if (!ok)
		err_set(err, "cannot write %s: %s", w->temp, strerror(errno));
	if (f != NULL)
		fclose(f);
	else if (copy != -1)
		close(copy);
	return ok ? 0 : -1;
}

/* Makes the new name survive a power failure. */
static int
write_sync_directory(const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash != path ? (size_t)(slash - path) : 1;
	char *dir = strndup(path, len);
	int fd =
	    dir != NULL ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int status = 0;

	if (fd == -1 || fsync(fd) == -1)
		status =
		    err_set(err, "%s is replaced, but perhaps not on disk: %s",
			path, strerror(errno));
	if (fd != -1)
		close(fd);
	free(dir);
	return status;
}
