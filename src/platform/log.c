/* log.c: one line per event, whole.
 *
 * A line is built on the caller's stack and leaves by one write(2), so that
 * workers never wait for each other and lines never mix. The mutex guards only
 * the change of target. */

#include "platform/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum log_kind { LOG_TO_STDERR, LOG_TO_FILE, LOG_TO_SYSLOG };

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int log_level = LOG_INFO;
static _Atomic int log_fd = STDERR_FILENO;
static _Atomic int log_kind = LOG_TO_STDERR;
static _Atomic int log_format = LOG_TEXT;
static char *log_path;
static bool log_created; /* the file was not there before */

static const char *const log_level_names[] = {
    "error", "error", "error", "error", "warn", "info", "info", "debug"};

static void log_append(struct log_line *l, const char *s, size_t len);
static void log_puts(struct log_line *l, const char *s);
static void log_stamp(struct log_line *l);
static size_t log_utf8(const unsigned char *s, size_t len);
static bool log_shown(const unsigned char *s, size_t len);
static void log_key(struct log_line *l, const char *key);
static void log_value(struct log_line *l, const char *value, size_t len,
    bool field);
static bool log_quoted(const char *value, size_t len);
static bool log_is_path(const char *target);
static int log_open_path(const char *path, bool *created, struct err *err);
static void log_onto(int fd);
static int log_cannot_open(const char *path, struct err *err);
static bool log_can_make(const char *path);

static bool
log_is_path(const char *target)
{
	return strcmp(target, "stderr") != 0 && strcmp(target, "syslog") != 0;
}

static int
log_open_path(const char *path, bool *created, struct err *err)
{
	const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY;
	int fd = open(path, flags | O_EXCL, 0640);

	*created = fd != -1;
	if (fd == -1 && errno == EEXIST)
		fd = open(path, flags, 0640);
	return fd != -1 ? fd : log_cannot_open(path, err);
}

static int
log_cannot_open(const char *path, struct err *err)
{
	return err_set(err, "cannot open the log file %s: %s", path,
	    strerror(errno));
}

int
log_check(const char *target, struct err *err)
{
	/* A pipe that nobody reads would hold us up. */
	const int flags =
	    O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd;

	if (!log_is_path(target))
		return 0;
	fd = open(target, flags);
	if (fd == -1 && (errno != ENOENT || !log_can_make(target)))
		return log_cannot_open(target, err);
	if (fd != -1)
		close(fd);
	return 0;
}

/* Else errno says why not. */
static bool
log_can_make(const char *path)
{
	size_t dir = (size_t)(strrchr(path, '/') - path) + 1;
	char *copy;
	bool ok;

	if (path[dir] == '\0') {
		errno = EISDIR;
		return false;
	}
	copy = strndup(path, dir);
	ok = copy != NULL &&
	    faccessat(AT_FDCWD, copy, W_OK | X_OK, AT_EACCESS) == 0;
	free(copy);
	return ok;
}

int
log_sink_open(struct log_sink *sink, const char *target, struct err *err)
{
	memset(sink, 0, sizeof(*sink));
	sink->fd = STDERR_FILENO;
	sink->syslog = strcmp(target, "syslog") == 0;
	if (!log_is_path(target))
		return 0;
	sink->path = strdup(target);
	if (sink->path == NULL)
		return err_set(err, "out of memory");
	sink->fd = log_open_path(target, &sink->created, err);
	if (sink->fd != -1)
		return 0;
	free(sink->path);
	sink->path = NULL;
	return -1;
}

void
log_sink_use(struct log_sink *sink, enum log_format format, int level)
{
	if (sink->syslog)
		openlog("mailferry", LOG_PID | LOG_NDELAY, LOG_MAIL);
	pthread_mutex_lock(&log_lock);
	log_format = format;
	log_level = level;
	if (log_fd == STDERR_FILENO)
		log_fd = sink->fd;
	else
		log_onto(sink->fd);
	log_kind = sink->syslog	 ? LOG_TO_SYSLOG
	    : sink->path != NULL ? LOG_TO_FILE
				 : LOG_TO_STDERR;
	log_created = sink->created;
	free(log_path);
	log_path = sink->path;
	pthread_mutex_unlock(&log_lock);
	memset(sink, 0, sizeof(*sink));
}

/* Onto the number that is in use: a worker may be about to write, and that
 * number must not become a connection meanwhile. */
static void
log_onto(int fd)
{
	while (dup3(fd, log_fd, O_CLOEXEC) == -1 && errno == EINTR)
		continue;
	if (fd != STDERR_FILENO)
		close(fd);
}

void
log_sink_clear(struct log_sink *sink)
{
	if (sink->path == NULL)
		return;
	close(sink->fd);
	if (sink->created)
		unlink(sink->path);
	free(sink->path);
	memset(sink, 0, sizeof(*sink));
}

int
log_open(const char *target, enum log_format format, int level, struct err *err)
{
	struct log_sink sink;

	if (log_sink_open(&sink, target, err) == -1)
		return -1;
	log_sink_use(&sink, format, level);
	return 0;
}

void
log_reopen(void)
{
	struct err err = {""};
	bool created;
	int fd;

	pthread_mutex_lock(&log_lock);
	if (log_path != NULL) {
		fd = log_open_path(log_path, &created, &err);
		if (fd != -1)
			log_onto(fd);
	}
	pthread_mutex_unlock(&log_lock);
	if (err.text[0] != '\0')
		log_msg(LOG_ERR, "%s", err.text);
}

void
log_give(uid_t uid, gid_t gid)
{
	if (log_created && fchown(log_fd, uid, gid) == -1)
		log_msg(LOG_WARNING, "cannot give the log away: %s",
		    strerror(errno));
}

bool
log_wants(int level)
{
	return level <= log_level;
}

static void
log_append(struct log_line *l, const char *s, size_t len)
{
	/* Two octets are kept for the closing brace and the newline. */
	size_t room = sizeof(l->buf) - 2 - l->len;

	if (len > room)
		len = room;
	memcpy(l->buf + l->len, s, len);
	l->len += len;
}

static void
log_puts(struct log_line *l, const char *s)
{
	log_append(l, s, strlen(s));
}

/* 2026-01-31T23:59:59.123Z; syslog stamps its lines itself. */
static void
log_stamp(struct log_line *l)
{
	struct timespec ts;
	struct tm tm;
	char day[32], stamp[48];

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(stamp, sizeof(stamp), "%s.%03ldZ", day, ts.tv_nsec / 1000000);
	if (l->json) {
		log_puts(l, "{\"time\":\"");
		log_puts(l, stamp);
		log_puts(l, "\",\"level\":\"");
		log_puts(l, log_level_names[l->level]);
		log_puts(l, "\"");
	} else if (log_kind != LOG_TO_SYSLOG) {
		log_puts(l, stamp);
		log_puts(l, " ");
		log_puts(l, log_level_names[l->level]);
		log_puts(l, " ");
	}
}

void
log_begin(struct log_line *l, int level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	l->level = -1;
	if (!log_wants(level))
		return;
	l->level = level;
	l->json = log_format == LOG_JSON;
	l->len = 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_stamp(l);
	if (l->json)
		log_cstr(l, "message", text);
	else
		log_value(l, text, strlen(text), false);
}

/* The length of the UTF-8 sequence at s, or 0 when there is none. */
static size_t
log_utf8(const unsigned char *s, size_t len)
{
	size_t n = s[0] < 0x80		  ? 1
	    : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
	    : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
	    : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
					  : 0;

	if (n == 0 || n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* Whether this whole UTF-8 character can stand in a line as it is. */
static bool
log_shown(const unsigned char *s, size_t len)
{
	if (len == 1)
		return s[0] >= 0x20 && s[0] != 0x7f && s[0] != '\\';
	if (len == 2)
		return s[0] != 0xc2 || s[1] >= 0xa0; /* C1 */
	if (len == 3 && s[0] == 0xe2) /* U+200E.., U+2028..2E, U+2066..69 */
		return !(s[1] == 0x80 &&
			   (s[2] == 0x8e || s[2] == 0x8f ||
			       (s[2] >= 0xa8 && s[2] <= 0xae))) &&
		    !(s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9);
	return true;
}

const char *
log_escape(const char *value, size_t len, char *out, size_t size)
{
	const unsigned char *s = (const unsigned char *)value;
	size_t cap = len < LOG_FIELD_MAX ? len : LOG_FIELD_MAX, o = 0, i = 0;
	bool cut = len > cap;

	while (i < cap) {
		size_t n = log_utf8(s + i, cap - i);

		if (o + 4 + 4 > size) {
			cut = true;
			break;
		}
		if (n > 0 && log_shown(s + i, n)) {
			memcpy(out + o, s + i, n);
			o += n;
			i += n;
		} else {
			snprintf(out + o, 5, "\\x%02x", s[i]);
			o += 4;
			i++;
		}
	}
	snprintf(out + o, size - o, "%s", cut ? "..." : "");
	return out;
}

/* Text values are quoted when a reader (or fail2ban) could mistake their
 * end. */
static bool
log_quoted(const char *value, size_t len)
{
	return len == 0 || memchr(value, ' ', len) != NULL ||
	    memchr(value, '"', len) != NULL || memchr(value, '=', len) != NULL;
}

/* Escaped text into the line. JSON wants its backslashes doubled; in a text
 * line no field may end itself early with a quote. */
static void
log_value(struct log_line *l, const char *value, size_t len, bool field)
{
	char text[LOG_FIELD_MAX * 4 + 8];
	size_t max = len < LOG_FIELD_MAX ? len : LOG_FIELD_MAX;

	/* Messages are ours and may be longer than a field. */
	do {
		const char *p = log_escape(value, max, text, sizeof(text));

		for (; *p != '\0'; p++) {
			if (!l->json && field && *p == '"') {
				log_puts(l, "\\x22");
				continue;
			}
			if (l->json && (*p == '\\' || *p == '"'))
				log_append(l, "\\", 1);
			log_append(l, p, 1);
		}
		value += max;
		len -= max;
		max = len < LOG_FIELD_MAX ? len : LOG_FIELD_MAX;
	} while (len > 0);
}

static void
log_key(struct log_line *l, const char *key)
{
	if (l->json) {
		log_puts(l, ",\"");
		log_puts(l, key);
		log_puts(l, "\":");
	} else {
		log_puts(l, " ");
		log_puts(l, key);
		log_puts(l, "=");
	}
}

void
log_str(struct log_line *l, const char *key, const char *value, size_t len)
{
	bool quoted;

	if (l->level == -1)
		return;
	/* A cut field would leave JSON open: better to leave it out whole. */
	if (l->len + strlen(key) + LOG_FIELD_MAX * 8 + 64 > sizeof(l->buf) &&
	    strcmp(key, "message") != 0)
		return;
	quoted = l->json || log_quoted(value, len);
	log_key(l, key);
	if (quoted)
		log_append(l, "\"", 1);
	if (len > LOG_FIELD_MAX && strcmp(key, "message") != 0) {
		log_value(l, value, LOG_FIELD_MAX, true);
		log_puts(l, "...");
	} else {
		log_value(l, value, len, true);
	}
	if (quoted)
		log_append(l, "\"", 1);
}

void
log_cstr(struct log_line *l, const char *key, const char *value)
{
	log_str(l, key, value, strlen(value));
}

void
log_uint(struct log_line *l, const char *key, uint64_t value)
{
	char text[24];

	if (l->level == -1)
		return;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	log_key(l, key);
	log_puts(l, text);
}

void
log_end(struct log_line *l)
{
	if (l->level == -1)
		return;
	if (l->json)
		l->buf[l->len++] = '}';
	if (log_kind == LOG_TO_SYSLOG) {
		syslog(LOG_MAIL | l->level, "%.*s", (int)l->len, l->buf);
		return;
	}
	l->buf[l->len++] = '\n';
	/* A full disk must not stop the mail: the line is lost, no more. */
	if (write(log_fd, l->buf, l->len) == -1)
		return;
}

void
log_msg(int level, const char *fmt, ...)
{
	struct log_line l;
	char text[1024];
	va_list ap;

	if (!log_wants(level))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_begin(&l, level, "%s", text);
	log_end(&l);
}
