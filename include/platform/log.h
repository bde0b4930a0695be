/* log.h: writes one whole line per event to stderr, a file or syslog, as text
 * ("message key=value ...") or as one JSON object.
 *
 * Pass text from the network as a field: fields escape control characters and
 * limit the length, so that no caller has to.
 * Levels are syslog's: LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG. Safe from
 * every thread, none of which waits for the log (log_sink.h). */

#ifndef PLATFORM_LOG_H
#define PLATFORM_LOG_H

#include <syslog.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "platform/err.h"
#include "platform/util.h"

#define LOG_LINE_MAX 4096 /* octets of one line; the rest is cut */
#define LOG_FIELD_MAX 128 /* octets of one field's value, before escaping */
#define LOG_REASON_MAX 256 /* of "reason": what is wrong, and what cures it */

enum log_format { LOG_TEXT, LOG_JSON };

struct log_sink;

/* Sends lines to *sink from now on, and takes ownership of it
 * (log_sink_use()). */
void log_use(struct log_sink **sink, enum log_format format, int level);

/* Opens a target and uses it. Returns -1 if it cannot be opened; the old target
 * then stays. */
int log_open(const char *target, enum log_format format, int level,
    struct err *err) MUST_CHECK;

bool log_wants(int level);

/* For lines that a stranger can cause by the thousand: one a second. Zeroed at
 * first; shared by threads. */
struct log_brake {
	atomic_uint_least64_t last; /* when a line was let through; 0: never */
	atomic_uint held; /* lines that were not, since then */
};

/* Returns true if a line may be logged now (clock_ms()). *held_out: how many
 * were not since the one before. b may be NULL: there is no brake. */
bool log_brake_pass(struct log_brake *b, uint64_t now, unsigned *held_out);

/* Writes a line without fields. */
void log_msg(int level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Builds a line with fields on the caller's stack:
 *	struct log_line l;
 *	log_begin(&l, LOG_INFO, "login failed");
 *	log_str(&l, "user", user, strlen(user));
 *	log_end(&l);
 * Formats nothing if the level is not logged. */
struct log_line {
	int level; /* -1: not logged */
	bool json;
	size_t len;
	char buf[LOG_LINE_MAX];
};

void log_begin(struct log_line *l, int level, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
void log_str(struct log_line *l, const char *key, const char *value,
    size_t len);
void log_cstr(struct log_line *l, const char *key, const char *value);
void log_uint(struct log_line *l, const char *key, uint64_t value);
void log_end(struct log_line *l);
/* For log_sink.c: only adds the newline. */
void log_finish(struct log_line *l);

/* Escapes value into out (always terminated, size >= 8) and returns out. C0,
 * DEL, C1, bidi controls, backslash and bytes that are not UTF-8 become \xNN.
 * Shows at most LOG_FIELD_MAX octets of value; "..." marks a cut. For texts
 * outside the log. */
const char *log_escape(const char *value, size_t len, char *out, size_t size);

/* Does the same for longer texts: shows as many octets as fit in out. */
const char *log_escape_all(const char *value, size_t len, char *out,
    size_t size);

#endif
