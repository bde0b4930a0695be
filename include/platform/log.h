/* log.h: one line per event, whole, to stderr, a file or syslog, as text
 * ("message key=value ...") or as one JSON object.
 *
 * Whatever comes from the network is passed as a field: its control bytes are
 * escaped and its length capped here, so that no caller has to remember.
 * Levels are syslog's: LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG. Safe from
 * every thread, none of which waits for the log (log_sink.h). */

#ifndef PLATFORM_LOG_H
#define PLATFORM_LOG_H

#include <syslog.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "platform/err.h"
#include "platform/util.h"

#define LOG_LINE_MAX 4096 /* octets of one line; what is more is cut */
#define LOG_FIELD_MAX 128 /* octets of one field's value, before escaping */
#define LOG_REASON_MAX 256 /* of "reason": what is wrong, and what cures it */

enum log_format { LOG_TEXT, LOG_JSON };

struct log_sink;

/* From now on lines go to *sink, which is taken over (log_sink_use()). */
void log_use(struct log_sink **sink, enum log_format format, int level);

/* Opens and uses. -1: the former target stays. */
int log_open(const char *target, enum log_format format, int level,
    struct err *err) MUST_CHECK;

bool log_wants(int level);

/* A line of its own, without fields. */
void log_msg(int level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A line with fields, built on the caller's stack:
 *	struct log_line l;
 *	log_begin(&l, LOG_INFO, "login failed");
 *	log_str(&l, "user", user, strlen(user));
 *	log_end(&l);
 * Nothing is formatted when the level is not wanted. */
struct log_line {
	int level; /* -1: not wanted */
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
/* For log_sink.c: only ends the line with its newline. */
void log_finish(struct log_line *l);

/* Escapes value into out (always terminated, size >= 8): C0, DEL, C1, bidi
 * controls, bytes that are not UTF-8 and backslash become \xNN; at most
 * LOG_FIELD_MAX octets of value are shown, "..." marks a cut. For texts that
 * are no log line. Returns out. */
const char *log_escape(const char *value, size_t len, char *out, size_t size);

/* The same for longer texts: shows as many octets as out has room for. */
const char *log_escape_all(const char *value, size_t len, char *out,
    size_t size);

#endif
