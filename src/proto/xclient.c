/* xclient.c: one line that describes the proxy's client.
 *
 * Every value is printed from a type, or checked against its alphabet both when
 * it is parsed and when it is formatted. nginx once passed on a name from the
 * DNS with the CR LF that its owner had put into it (CVE-2026-28753). */

#include "proto/xclient.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct xclient_value {
	const char *data;
	size_t len;
};

struct xclient_line {
	char *buf;
	size_t size, len;
	bool full;
};

/* The values of a parsed line; the ports wait for their addresses. */
struct xclient_parse {
	struct xclient *x;
	uint16_t port, dest_port;
};

static bool xclient_set_addr(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_port(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_dest_addr(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_dest_port(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_session(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_ttl(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_transport(struct xclient_parse *p,
    const struct xclient_value *v);
static bool xclient_set_dest_name(struct xclient_parse *p,
    const struct xclient_value *v);

static const struct {
	const char *name;
	bool (*set)(struct xclient_parse *p, const struct xclient_value *v);
} xclient_attributes[] = {
    {"ADDR", xclient_set_addr},
    {"PORT", xclient_set_port},
    {"DESTADDR", xclient_set_dest_addr},
    {"DESTPORT", xclient_set_dest_port},
    {"SESSION", xclient_set_session},
    {"TTL", xclient_set_ttl},
    {"CLIENT-TRANSPORT", xclient_set_transport},
    {"DESTNAME", xclient_set_dest_name},
};

static bool xclient_values_good(const struct xclient *x);
static void xclient_put(struct xclient_line *line, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static void xclient_put_addr(struct xclient_line *line, const char *prefix,
    const struct addr *a, bool has_port);
static bool xclient_word_parse(struct xclient_parse *p, const char *word,
    size_t len, unsigned *seen);
static bool xclient_is(const struct xclient_value *v, const char *text);
static bool xclient_addr_parse(const struct xclient_value *v, struct addr *out);
static bool xclient_number_parse(const struct xclient_value *v,
    unsigned long min, unsigned long max, unsigned long *out);
static bool xclient_session_foreign(const char *s, size_t len);
static bool ascii_letter(char c);
static bool ascii_digit(char c);

size_t
xclient_format(const struct xclient *x, char *out, size_t size)
{
	static const char *const transports[] = {"", "insecure", "TLS"};
	struct xclient_line line = {.buf = out, .size = size};

	if (!xclient_values_good(x))
		return 0;
	xclient_put(&line, "XCLIENT");
	xclient_put_addr(&line, "", &x->addr, x->has_port);
	xclient_put_addr(&line, "DEST", &x->dest, x->has_dest_port);
	if (x->session[0] != '\0')
		xclient_put(&line, " SESSION=%s", x->session);
	if (x->ttl != 0)
		xclient_put(&line, " TTL=%u", x->ttl);
	if (x->transport != XCLIENT_TRANSPORT_UNSET)
		xclient_put(&line, " CLIENT-TRANSPORT=%s",
		    transports[x->transport]);
	if (x->dest_name[0] != '\0')
		xclient_put(&line, " DESTNAME=%s", x->dest_name);
	return line.full || line.len > XCLIENT_LINE_MAX ? 0 : line.len;
}

static bool
xclient_values_good(const struct xclient *x)
{
	size_t session_len = strnlen(x->session, sizeof(x->session));
	size_t name_len = strnlen(x->dest_name, sizeof(x->dest_name));

	if ((x->has_port && x->addr.len == 0) ||
	    (x->has_dest_port && x->dest.len == 0))
		return false;
	if (session_len > 0 && !xclient_session_valid(x->session, session_len))
		return false;
	if (name_len > 0 && !hostname_valid(x->dest_name, name_len))
		return false;
	return x->ttl <= 255 && x->transport <= XCLIENT_TRANSPORT_TLS;
}

static void
xclient_put(struct xclient_line *line, const char *fmt, ...)
{
	size_t room = line->size - line->len;
	va_list ap;
	int n;

	if (line->full)
		return;
	va_start(ap, fmt);
	n = vsnprintf(line->buf + line->len, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room)
		line->full = true;
	else
		line->len += (size_t)n;
}

/* Dovecot refuses PORT=0, which is not a port anyway. */
static void
xclient_put_addr(struct xclient_line *line, const char *prefix,
    const struct addr *a, bool has_port)
{
	char ip[ADDR_TEXT_MAX];

	if (a->len != 0)
		xclient_put(line, " %sADDR=%s", prefix, addr_ip(a, ip));
	if (has_port && addr_port(a) != 0)
		xclient_put(line, " %sPORT=%u", prefix, addr_port(a));
}

bool
xclient_parse(const char *arg, size_t len, struct xclient *out)
{
	struct xclient_parse p = {.x = out};
	const char *end = arg + len, *word = arg;
	unsigned seen = 0;

	memset(out, 0, sizeof(*out));
	while (word < end) {
		const char *space = memchr(word, ' ', (size_t)(end - word));
		size_t n = (size_t)((space != NULL ? space : end) - word);

		if (n > 0 && !xclient_word_parse(&p, word, n, &seen))
			return false;
		word += space != NULL ? n + 1 : n;
	}
	if ((out->has_port && out->addr.len == 0) ||
	    (out->has_dest_port && out->dest.len == 0))
		return false;
	addr_set_port(&out->addr, p.port);
	addr_set_port(&out->dest, p.dest_port);
	return true;
}

static bool
xclient_word_parse(struct xclient_parse *p, const char *word, size_t len,
    unsigned *seen)
{
	const char *equals = memchr(word, '=', len);
	struct xclient_value name = {.data = word}, value;

	if (equals == NULL || equals == word)
		return false;
	name.len = (size_t)(equals - word);
	value.data = equals + 1;
	value.len = len - name.len - 1;
	for (size_t i = 0; i < ARRAY_LEN(xclient_attributes); i++) {
		if (!xclient_is(&name, xclient_attributes[i].name))
			continue;
		if (*seen & 1u << i)
			return false;
		*seen |= 1u << i;
		if (xclient_is(&value, "[UNAVAILABLE]") ||
		    xclient_is(&value, "[TEMPUNAVAIL]"))
			return true;
		return xclient_attributes[i].set(p, &value);
	}
	return true;
}

static bool
xclient_is(const struct xclient_value *v, const char *text)
{
	return v->len == strlen(text) &&
	    strncasecmp(v->data, text, v->len) == 0;
}

static bool
xclient_set_addr(struct xclient_parse *p, const struct xclient_value *v)
{
	return xclient_addr_parse(v, &p->x->addr);
}

static bool
xclient_set_port(struct xclient_parse *p, const struct xclient_value *v)
{
	unsigned long port;

	p->x->has_port = xclient_number_parse(v, 1, 65535, &port);
	if (p->x->has_port)
		p->port = (uint16_t)port;
	return p->x->has_port;
}

static bool
xclient_set_dest_addr(struct xclient_parse *p, const struct xclient_value *v)
{
	return xclient_addr_parse(v, &p->x->dest);
}

static bool
xclient_set_dest_port(struct xclient_parse *p, const struct xclient_value *v)
{
	unsigned long port;

	p->x->has_dest_port = xclient_number_parse(v, 1, 65535, &port);
	if (p->x->has_dest_port)
		p->dest_port = (uint16_t)port;
	return p->x->has_dest_port;
}

static bool
xclient_set_session(struct xclient_parse *p, const struct xclient_value *v)
{
	if (!xclient_session_valid(v->data, v->len))
		return xclient_session_foreign(v->data, v->len);
	memcpy(p->x->session, v->data, v->len);
	p->x->session[v->len] = '\0';
	return true;
}

static bool
xclient_set_ttl(struct xclient_parse *p, const struct xclient_value *v)
{
	unsigned long ttl;

	if (!xclient_number_parse(v, 1, 255, &ttl))
		return false;
	p->x->ttl = (unsigned)ttl;
	return true;
}

static bool
xclient_set_transport(struct xclient_parse *p, const struct xclient_value *v)
{
	if (xclient_is(v, "TLS"))
		p->x->transport = XCLIENT_TRANSPORT_TLS;
	else if (xclient_is(v, "insecure"))
		p->x->transport = XCLIENT_TRANSPORT_INSECURE;
	else
		return false;
	return true;
}

static bool
xclient_set_dest_name(struct xclient_parse *p, const struct xclient_value *v)
{
	if (!hostname_valid(v->data, v->len))
		return false;
	memcpy(p->x->dest_name, v->data, v->len);
	p->x->dest_name[v->len] = '\0';
	return true;
}

/* Parses "ADDRESS", "[ADDRESS]" or "IPV6:ADDRESS". */
static bool
xclient_addr_parse(const struct xclient_value *v, struct addr *out)
{
	static const char tag[] = "IPV6:";
	const size_t tag_len = sizeof(tag) - 1;
	const char *s = v->data;
	size_t len = v->len;
	bool tagged = len > tag_len && strncasecmp(s, tag, tag_len) == 0;
	char text[ADDR_TEXT_MAX];

	if (tagged) {
		s += tag_len;
		len -= tag_len;
	} else if (len > 2 && s[0] == '[' && s[len - 1] == ']') {
		s++;
		len -= 2;
	}
	/* A NUL would end the text early. */
	if (len == 0 || len >= sizeof(text) || memchr(s, '\0', len) != NULL)
		return false;
	memcpy(text, s, len);
	text[len] = '\0';
	if (tagged && strchr(text, ':') == NULL)
		return false;
	return addr_parse_ip(text, out);
}

/* Parses digits only, five at most. */
static bool
xclient_number_parse(const struct xclient_value *v, unsigned long min,
    unsigned long max, unsigned long *out)
{
	unsigned long n = 0;

	if (v->len == 0 || v->len > 5)
		return false;
	for (size_t i = 0; i < v->len; i++) {
		if (!ascii_digit(v->data[i]))
			return false;
		n = n * 10 + (unsigned long)(v->data[i] - '0');
	}
	*out = n;
	return n >= min && n <= max;
}

bool
xclient_session_valid(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!ascii_letter(s[i]) && !ascii_digit(s[i]) &&
		    (s[i] == '\0' || strchr("._-+/=", s[i]) == NULL))
			return false;
	return len > 0 && len <= XCLIENT_SESSION_MAX;
}

/* Returns true for another proxy's form of a session id, which is harmless but
 * not passed on. */
static bool
xclient_session_foreign(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)s[i] <= ' ' || (unsigned char)s[i] >= 0x7f)
			return false;
	return len > 0 && len <= XCLIENT_SESSION_MAX;
}

bool
hostname_valid(const char *s, size_t len)
{
	bool named = false; /* "192.0.2.1" is not */
	size_t label = 0; /* octets of the current one so far */

	if (len == 0 || len > XCLIENT_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		bool last = i + 1 == len || s[i + 1] == '.';
		bool joint = s[i] == '-' || s[i] == '_';

		if (s[i] == '.' && label > 0 && i + 1 < len) {
			label = 0;
			continue;
		}
		if (++label > 63)
			return false;
		if (!ascii_letter(s[i]) && !ascii_digit(s[i]) &&
		    (!joint || label == 1 || last))
			return false;
		named |= ascii_letter(s[i]) || s[i] == '-';
	}
	return named;
}

static bool
ascii_letter(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool
ascii_digit(char c)
{
	return c >= '0' && c <= '9';
}
