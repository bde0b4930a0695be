/* log.c: one line per event, whole.
 *
 * A line is built on the caller's stack, and copied whole into the queue of the
 * sink (log_sink.c). */

#include "platform/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "platform/log_sink.h"

#define LOG_BRAKE_MS 1000

static _Atomic int log_level = LOG_INFO;
static _Atomic int log_format = LOG_TEXT;

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
static const char *log_escape_into(const char *value, size_t cap, bool cut,
    char *out, size_t size);
static bool log_quoted(const char *value, size_t len);
static size_t log_field_max(const char *key);

void
log_use(struct log_sink **sink, enum log_format format, int level)
{
	log_format = format;
	log_level = level;
	log_sink_use(sink);
}

int
log_open(const char *target, enum log_format format, int level, struct err *err)
{
	struct log_sink *sink = log_sink_open(target, err);

	if (sink == NULL)
		return -1;
	log_use(&sink, format, level);
	return 0;
}

bool
log_wants(int level)
{
	return level <= log_level;
}

bool
log_brake_pass(struct log_brake *b, uint64_t now, unsigned *held_out)
{
	uint_least64_t last;

	*held_out = 0;
	if (b == NULL)
		return true;
	last = atomic_load(&b->last);
	if ((last != 0 && now - last < LOG_BRAKE_MS) ||
	    !atomic_compare_exchange_strong(&b->last, &last, now)) {
		atomic_fetch_add(&b->held, 1);
		return false;
	}
	*held_out = atomic_exchange(&b->held, 0);
	return true;
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
	} else if (!log_sink_stamps()) {
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

/* Returns the length of the UTF-8 sequence at s, or 0 if it is not valid. */
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

/* Returns true if this UTF-8 character needs no escape in a line. */
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
	bool cut = len > LOG_FIELD_MAX;

	return log_escape_into(value, cut ? LOG_FIELD_MAX : len, cut, out,
	    size);
}

const char *
log_escape_all(const char *value, size_t len, char *out, size_t size)
{
	return log_escape_into(value, len, false, out, size);
}

static const char *
log_escape_into(const char *value, size_t cap, bool cut, char *out, size_t size)
{
	const unsigned char *s = (const unsigned char *)value;
	size_t o = 0, i = 0;

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

/* Returns true if a reader (or fail2ban) could mistake the end of the value, so
 * that it needs quotes. */
static bool
log_quoted(const char *value, size_t len)
{
	return len == 0 || memchr(value, ' ', len) != NULL ||
	    memchr(value, '"', len) != NULL || memchr(value, '=', len) != NULL;
}

/* Writes escaped text to the line. JSON needs its backslashes doubled. In a
 * text line a quote must not end a field early. */
static void
log_value(struct log_line *l, const char *value, size_t len, bool field)
{
	char text[LOG_FIELD_MAX * 4 + 8];
	size_t max = len < LOG_FIELD_MAX ? len : LOG_FIELD_MAX;

	/* Messages come from the source and may be longer than a field. */
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

/* How much of a value is shown; SIZE_MAX: all. */
static size_t
log_field_max(const char *key)
{
	if (strcmp(key, "message") == 0)
		return SIZE_MAX;
	return strcmp(key, "reason") == 0 ? LOG_REASON_MAX : LOG_FIELD_MAX;
}

void
log_str(struct log_line *l, const char *key, const char *value, size_t len)
{
	size_t max = log_field_max(key);
	bool quoted;

	if (l->level == -1)
		return;
	/* A cut field would leave JSON open: better to leave it out whole. */
	if (max != SIZE_MAX &&
	    l->len + strlen(key) + max * 8 + 64 > sizeof(l->buf))
		return;
	quoted = l->json || log_quoted(value, len);
	log_key(l, key);
	if (quoted)
		log_append(l, "\"", 1);
	if (len > max) {
		log_value(l, value, max, true);
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
log_finish(struct log_line *l)
{
	if (l->level == -1)
		return;
	if (l->json)
		l->buf[l->len++] = '}';
	l->buf[l->len++] = '\n';
}

void
log_end(struct log_line *l)
{
	if (l->level == -1)
		return;
	log_finish(l);
	log_sink_put(l);
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
