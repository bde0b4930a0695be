/* types.c: the types of values.
 *
 * A type is a function that parses text into memory, and one that formats it.
 * The same function reads the file's value and the row's default, so both
 * accept the same texts. */

#include "types.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <openssl/ssl.h>

#include "keys.h"
#include "platform/addr.h"
#include "proto/sasl.h"
#include "proto/xclient.h"
#include "yaml.h"

static uint64_t types_text_min(const struct config_key *key);
static uint64_t types_text_max(const struct config_key *key);
static const char *types_boolean(const struct config_input *in, void *out);
static const char *types_number(const struct config_input *in, void *out);
static const char *types_count(const struct config_input *in, void *out);
static const char *types_port(const struct config_input *in, void *out);
static const char *types_integer(const struct config_input *in, uint64_t *out);
static bool types_digits(const char *text, size_t len, uint64_t *out,
    size_t *used_out);
static const char *types_duration(const struct config_input *in, void *out);
static const char *types_size(const struct config_input *in, void *out);
static const char *types_scaled(const struct config_input *in,
    const struct config_word *units, const char *unfit, uint64_t *out);
static const char *types_word(const struct config_input *in, void *out);
static const char *types_store(const struct config_input *in, void *out);
static const char *types_line(const struct config_input *in, void *out,
    const char *unfit);
static bool types_control(const char *text, size_t len);
static const char *types_string(const struct config_input *in, void *out);
static const char *types_destination(const struct config_input *in, void *out);
static const char *types_statement(const struct config_input *in, void *out);
static const char *types_token(const struct config_input *in, void *out);
static const char *types_path(const struct config_input *in, void *out);
static const char *types_log_target(const struct config_input *in, void *out);
static const char *types_at_substitutes(const struct config_input *in,
    void *out);
static const char *types_peer(const struct config_input *in, void *out);
static bool types_is_port(const char *text);
static const char *types_dns_name(const struct config_input *in, void *out);
static const char *types_host(const struct config_input *in, void *out);
static const char *types_subject(const struct config_input *in, void *out);
static const char *types_banner(const struct config_input *in, void *out);
static const char *types_capability(const struct config_input *in, void *out);
static const char *types_cipher(const struct config_input *in, void *out);
static const char *types_url(const struct config_input *in, void *out);
static const char *types_address(const struct config_input *in, void *out);
static const char *types_ip(const struct config_input *in, void *out);
static const char *types_cidr(const struct config_input *in, void *out);
static const char *types_fingerprint(const struct config_input *in, void *out);
static void types_format_boolean(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_number(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_count(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_port(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_duration(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_size(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_word(const struct config_key *key, const void *value,
    char *buf, size_t size);
static void types_format_address(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_ip(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_cidr(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static void types_format_fingerprint(const struct config_key *key UNUSED,
    const void *value, char *buf, size_t size);
static const char *types_mechanism(const struct config_input *in, void *out);
static void types_format_mechanism(const struct config_key *key,
    const void *value, char *buf, size_t size);
static void types_range_integer(const struct config_key *key, char *buf,
    size_t size);
static void types_range_duration(const struct config_key *key, char *buf,
    size_t size);
static void types_range_size(const struct config_key *key, char *buf,
    size_t size);
static void types_range_line(const struct config_key *key, char *buf,
    size_t size);
static void types_range_text(const struct config_key *key, char *buf,
    size_t size);
static void types_range_octets(const char *what, const struct config_key *key,
    char *buf, size_t size);
static const char *types_scale(uint64_t value, const struct config_word *units,
    char *buf, size_t size);

#define TYPE(ident, type_name, c_type, accepts_text, range_fn) \
	const struct config_type config_type_##ident = {       \
	    .name = type_name,                                 \
	    .accepts = accepts_text,                           \
	    .range = range_fn,                                 \
	    .size = sizeof(c_type),                            \
	    .parse = types_##ident,                            \
	    .format = types_format_##ident,                    \
	}
#define TEXT_TYPE(ident, type_name, accepts_text, range_fn) \
	const struct config_type config_type_##ident = {    \
	    .name = type_name,                              \
	    .accepts = accepts_text,                        \
	    .range = range_fn,                              \
	    .size = sizeof(char *),                         \
	    .is_text = true,                                \
	    .parse = types_##ident,                         \
	}

TYPE(boolean, "boolean", bool, "true or false", NULL);
TYPE(number, "integer", unsigned, NULL, types_range_integer);
TYPE(count, "integer", size_t, NULL, types_range_integer);
TYPE(port, "integer", uint16_t, NULL, types_range_integer);
TYPE(duration, "duration", uint64_t, NULL, types_range_duration);
TYPE(size, "size", uint64_t, NULL, types_range_size);
TYPE(word, "word", int, NULL, NULL);
TYPE(mechanism, "word", enum sasl_mechanism,
    "PLAIN, LOGIN, OAUTHBEARER or XOAUTH2", NULL);
TYPE(address, "address", struct addr, "ADDRESS:PORT, IPv6 in brackets", NULL);
TYPE(ip, "address", struct addr, "an IPv4 or IPv6 address", NULL);
TYPE(cidr, "CIDR", struct cidr,
    "ADDRESS/BITS with no bit set behind them, or one address", NULL);
TYPE(fingerprint, "fingerprint", uint8_t[32],
    "the 64 hex digits of a SHA-256, colons ignored", NULL);
TEXT_TYPE(string, "string", NULL, types_range_line);
TEXT_TYPE(statement, "string", NULL, types_range_text);
TEXT_TYPE(token, "string", "printable ASCII without spaces", NULL);
TEXT_TYPE(destination, "name", "a name below destination", NULL);
TEXT_TYPE(path, "path", "a path", NULL);
TEXT_TYPE(log_target, "path", "stderr, syslog or a path", NULL);
TEXT_TYPE(at_substitutes, "string",
    "punctuation other than @ and \", each character once", NULL);
TEXT_TYPE(peer, "URL", "https://HOST:PORT", NULL);
TEXT_TYPE(dns_name, "name", "a DNS name", NULL);
TEXT_TYPE(host, "host", "a DNS name, or an address without brackets", NULL);
TEXT_TYPE(subject, "name", "a DNS name, also *.NAME", NULL);
TEXT_TYPE(banner, "string",
    "at most 496 octets without control characters, < and >", NULL);
TEXT_TYPE(capability, "string", NULL, types_range_line);
TEXT_TYPE(cipher, "name", "a standard name such as TLS_AES_128_GCM_SHA256",
    NULL);
const struct config_type config_type_url = {
    .name = "URL",
    .size = sizeof(char *),
    .is_text = true,
    .is_url = true,
    .parse = types_url,
};

/* Largest first. */
static const struct config_word types_units_duration[] = {
    {"d", 86400000},
    {"h", 3600000},
    {"m", 60000},
    {"s", 1000},
    {"ms", 1},
    {NULL, 0},
};
static const struct config_word types_units_size[] = {
    {"g", 1 << 30},
    {"m", 1 << 20},
    {"k", 1 << 10},
    {"", 1},
    {NULL, 0},
};

/* 90000 is "90s", 60000 is "1m". */
static const char *
types_scale(uint64_t value, const struct config_word *units, char *buf,
    size_t size)
{
	const struct config_word *u = units;

	while (value % (unsigned)u->value != 0 || value < (unsigned)u->value) {
		if (u[1].text == NULL)
			break;
		u++;
	}
	snprintf(buf, size, "%llu%s",
	    (unsigned long long)value / (unsigned)u->value, u->text);
	return buf;
}

/* An element of a list is never empty; its row's range is the list's. */
static uint64_t
types_text_min(const struct config_key *key)
{
	return key->shape == CONFIG_VALUES ? 1 : key->min;
}

static uint64_t
types_text_max(const struct config_key *key)
{
	if (key->shape != CONFIG_VALUES)
		return key->max;
	return key->longest != 0 ? key->longest : 255;
}

static const char *
types_boolean(const struct config_input *in, void *out)
{
	bool *value = out;

	if (!in->plain)
		return "quoted";
	*value = strcmp(in->text, "true") == 0;
	if (!*value && strcmp(in->text, "false") != 0)
		return "not a boolean";
	return NULL;
}

static const char *
types_number(const struct config_input *in, void *out)
{
	unsigned *value = out;
	uint64_t n = 0;
	const char *why = types_integer(in, &n);

	*value = (unsigned)n;
	return why;
}

static const char *
types_count(const struct config_input *in, void *out)
{
	size_t *value = out;
	uint64_t n = 0;
	const char *why = types_integer(in, &n);

	*value = (size_t)n;
	return why;
}

static const char *
types_port(const struct config_input *in, void *out)
{
	uint16_t *value = out;
	uint64_t n = 0;
	const char *why = types_integer(in, &n);

	*value = (uint16_t)n;
	return why;
}

static const char *
types_integer(const struct config_input *in, uint64_t *out)
{
	size_t used;

	if (!in->plain)
		return "quoted";
	if (!types_digits(in->text, in->len, out, &used) || used != in->len)
		return "not an integer";
	if (*out < in->key->min || *out > in->key->max)
		return "out of range";
	return NULL;
}

/* Parses decimal digits without a leading zero (octal in YAML 1.1). A number
 * that does not fit becomes UINT64_MAX, which no range allows. */
static bool
types_digits(const char *text, size_t len, uint64_t *out, size_t *used_out)
{
	uint64_t n = 0;
	size_t i;

	for (i = 0; i < len && isdigit((unsigned char)text[i]); i++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, text[i] - '0', &n))
			n = UINT64_MAX;
	*out = n;
	*used_out = i;
	return i == 1 || (i > 1 && text[0] != '0');
}

static const char *
types_duration(const struct config_input *in, void *out)
{
	return types_scaled(in, types_units_duration, "not a duration", out);
}

static const char *
types_size(const struct config_input *in, void *out)
{
	return types_scaled(in, types_units_size, "not a size", out);
}

static const char *
types_scaled(const struct config_input *in, const struct config_word *units,
    const char *unfit, uint64_t *out)
{
	const struct config_word *u;
	size_t used;

	if (!types_digits(in->text, in->len, out, &used))
		return unfit;
	for (u = units; u->text != NULL; u++)
		if (strcmp(in->text + used, u->text) == 0)
			break;
	if (u->text == NULL)
		return unfit;
	if (__builtin_mul_overflow(*out, (unsigned)u->value, out) ||
	    *out < in->key->min || *out > in->key->max)
		return "out of range";
	return NULL;
}

static const char *
types_word(const struct config_input *in, void *out)
{
	const struct config_word *w;

	for (w = in->key->words; w->text != NULL; w++) {
		if (strcmp(in->text, w->text) != 0)
			continue;
		/* Any enumeration: they all have an int's size. */
		memcpy(out, &w->value, sizeof(w->value));
		return NULL;
	}
	return "unknown";
}

/* Accepts exactly these names, in upper case. */
static const char *
types_mechanism(const struct config_input *in, void *out)
{
	enum sasl_mechanism mech;

	if (!sasl_mechanism_find(in->text, in->len, &mech) ||
	    strcmp(in->text, sasl_name(mech)) != 0)
		return "unknown";
	memcpy(out, &mech, sizeof(mech));
	return NULL;
}

/* Accepts any text within the row's length. */
static const char *
types_store(const struct config_input *in, void *out)
{
	char **value = out;

	if (in->len == 0 && types_text_min(in->key) > 0)
		return "empty";
	if (in->len > types_text_max(in->key))
		return "too long";
	*value = config_yaml_strndup(in->tree, in->text, in->len);
	return NULL;
}

/* Accepts a text that cannot end or garble a line. */
static const char *
types_line(const struct config_input *in, void *out, const char *unfit)
{
	if (types_control(in->text, in->len))
		return "broken by a control character";
	if (strpbrk(in->text, unfit) != NULL)
		return "not valid in its line";
	return types_store(in, out);
}

static bool
types_control(const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (iscntrl((unsigned char)text[i]))
			return true;
	return false;
}

static const char *
types_string(const struct config_input *in, void *out)
{
	return types_line(in, out, "");
}

/* rules.c checks later whether it is declared. */
static const char *
types_destination(const struct config_input *in, void *out)
{
	return types_line(in, out, "");
}

/* SQL may have several lines. */
static const char *
types_statement(const struct config_input *in, void *out)
{
	return types_store(in, out);
}

/* Goes into an HTTP header. */
static const char *
types_token(const struct config_input *in, void *out)
{
	size_t i;

	for (i = 0; i < in->len; i++)
		if (in->text[i] <= ' ' || in->text[i] > '~')
			return "not a token";
	return types_store(in, out);
}

static const char *
types_path(const struct config_input *in, void *out)
{
	struct config_input absolute = *in;
	char path[8192];
	int len;

	if (in->len == 0 || in->text[0] == '/')
		return types_line(in, out, "");
	len = snprintf(path, sizeof(path), "%s/%s", in->directory, in->text);
	if (len < 0 || (size_t)len >= sizeof(path))
		return "too long";
	absolute.text = path;
	absolute.len = (size_t)len;
	return types_line(&absolute, out, "");
}

static const char *
types_log_target(const struct config_input *in, void *out)
{
	if (strcmp(in->text, "stderr") == 0 || strcmp(in->text, "syslog") == 0)
		return types_store(in, out);
	return types_path(in, out);
}

/* Each octet is one substitute. Quotes, spaces and control characters are
 * refused in a name, so they cannot replace an @. */
static const char *
types_at_substitutes(const struct config_input *in, void *out)
{
	const char *p;

	for (p = in->text; *p != '\0'; p++) {
		if (!ispunct((unsigned char)*p) || *p == '@' || *p == '"')
			return "not a list of substitutes";
		if (strchr(p + 1, *p) != NULL)
			return "repeating a character";
	}
	return types_store(in, out);
}

static const char *
types_peer(const struct config_input *in, void *out)
{
	static const char scheme[] = "https://";
	size_t skip = strlen(scheme), len;
	char host[256], *colon;
	struct addr a;

	if (strncmp(in->text, scheme, skip) != 0)
		return "not a URL of this form";
	if (addr_parse(in->text + skip, &a))
		return types_store(in, out);
	len = (size_t)snprintf(host, sizeof(host), "%s", in->text + skip);
	colon = strchr(host, ':');
	if (len >= sizeof(host) || colon == NULL || !types_is_port(colon + 1))
		return "without a port";
	*colon = '\0';
	if (!hostname_valid(host, strlen(host)))
		return "not a URL of this form";
	return types_store(in, out);
}

static bool
types_is_port(const char *text)
{
	uint64_t port = 0;
	size_t used;

	return types_digits(text, strlen(text), &port, &used) &&
	    text[used] == '\0' && port >= 1 && port <= 65535;
}

static const char *
types_dns_name(const struct config_input *in, void *out)
{
	if (in->len > 0 && !hostname_valid(in->text, in->len))
		return "not a DNS name";
	return types_store(in, out);
}

static const char *
types_host(const struct config_input *in, void *out)
{
	struct addr a;

	if (in->len > 0 && !addr_parse_ip(in->text, &a) &&
	    !hostname_valid(in->text, in->len))
		return "neither a DNS name nor an address";
	return types_store(in, out);
}

/* Converts to lower case, because SNI is compared with it octet by octet. */
static const char *
types_subject(const struct config_input *in, void *out)
{
	size_t skip = strncmp(in->text, "*.", 2) == 0 ? 2 : 0;
	const char *why;
	char *p;

	if (!hostname_valid(in->text + skip, in->len - skip))
		return "not a DNS name";
	why = types_store(in, out);
	if (why == NULL)
		for (p = *(char **)out; *p != '\0'; p++)
			*p = (char)tolower((unsigned char)*p);
	return why;
}

/* "<" and ">" in a greeting make clients try APOP. */
static const char *
types_banner(const struct config_input *in, void *out)
{
	return types_line(in, out, "<>");
}

/* A line of CAPA. A line that begins with a dot could end the reply. */
static const char *
types_capability(const struct config_input *in, void *out)
{
	if (in->text[0] == '.')
		return "not valid in its line";
	return types_line(in, out, "");
}

static const char *
types_cipher(const struct config_input *in, void *out)
{
	if (strcmp(OPENSSL_cipher_name(in->text), "(NONE)") == 0)
		return "not a cipher suite that OpenSSL knows";
	return types_store(in, out);
}

static const char *
types_url(const struct config_input *in, void *out)
{
	const struct config_word *w;

	for (w = in->key->words; w->text != NULL; w++) {
		size_t len = strlen(w->text);

		if (strncmp(in->text, w->text, len) != 0 || in->len == len)
			continue;
		if (strchr(in->text, ' ') != NULL)
			return "broken by a space";
		return types_line(in, out, "");
	}
	return "not a URL of this form";
}

static const char *
types_address(const struct config_input *in, void *out)
{
	struct addr *a = out;

	if (!addr_parse(in->text, a))
		return "not an address with its port";
	if (addr_port(a) == 0)
		return "without a port";
	return NULL;
}

static const char *
types_ip(const struct config_input *in, void *out)
{
	return addr_parse_ip(in->text, out) ? NULL : "not an address";
}

static const char *
types_cidr(const struct config_input *in, void *out)
{
	return cidr_parse(in->text, out) ? NULL : "not a CIDR";
}

static const char *
types_fingerprint(const struct config_input *in, void *out)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t *pin = out, any = 0;
	size_t n = 0;
	const char *p;

	memset(pin, 0, 32);
	for (p = in->text; *p != '\0'; p++) {
		const char *digit = strchr(digits, tolower((unsigned char)*p));

		if (*p == ':')
			continue;
		if (digit == NULL || n == 64)
			return "not a fingerprint";
		pin[n / 2] = (uint8_t)(pin[n / 2] << 4 | (digit - digits));
		any |= pin[n / 2];
		n++;
	}
	/* All zeros means that none is set. */
	if (in->len > 0 && (n != 64 || any == 0))
		return "not a fingerprint";
	return NULL;
}

/* Formats values as in the file. */

static void
types_format_boolean(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const bool *b = value;

	snprintf(buf, size, "%s", *b ? "true" : "false");
}

static void
types_format_number(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const unsigned *n = value;

	snprintf(buf, size, "%u", *n);
}

static void
types_format_count(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const size_t *n = value;

	snprintf(buf, size, "%zu", *n);
}

static void
types_format_port(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const uint16_t *n = value;

	snprintf(buf, size, "%u", *n);
}

static void
types_format_duration(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const uint64_t *ms = value;

	if (*ms == 0)
		snprintf(buf, size, "0s");
	else
		types_scale(*ms, types_units_duration, buf, size);
}

static void
types_format_size(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const uint64_t *octets = value;

	if (*octets == 0)
		snprintf(buf, size, "0");
	else
		types_scale(*octets, types_units_size, buf, size);
}

static void
types_format_word(const struct config_key *key, const void *value, char *buf,
    size_t size)
{
	const struct config_word *w;
	int n;

	memcpy(&n, value, sizeof(n));
	for (w = key->words; w->text != NULL; w++)
		if (w->value == n)
			break;
	snprintf(buf, size, "%s", w->text != NULL ? w->text : "");
}

static void
types_format_mechanism(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	enum sasl_mechanism mech;

	memcpy(&mech, value, sizeof(mech));
	snprintf(buf, size, "%s", sasl_name(mech));
}

static void
types_format_address(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const struct addr *a = value;
	char text[ADDR_TEXT_MAX];

	snprintf(buf, size, "%s", a->len != 0 ? addr_text(a, text) : "");
}

static void
types_format_ip(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	char text[ADDR_TEXT_MAX];

	snprintf(buf, size, "%s", addr_ip(value, text));
}

static void
types_format_cidr(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	const struct cidr *c = value;
	char text[INET6_ADDRSTRLEN] = "";

	inet_ntop(c->v6 ? AF_INET6 : AF_INET, c->bytes, text, sizeof(text));
	snprintf(buf, size, "%s/%u", text, c->bits);
}

static void
types_format_fingerprint(const struct config_key *key UNUSED, const void *value,
    char *buf, size_t size)
{
	static const uint8_t none[32];
	const uint8_t *octet = value;

	buf[0] = '\0';
	for (size_t i = 0; memcmp(octet, none, sizeof(none)) != 0 &&
	     i < sizeof(none) && 2 * i + 3 <= size;
	     i++)
		snprintf(buf + 2 * i, 3, "%02x", octet[i]);
}

/* Ranges, for people. */

static void
types_range_integer(const struct config_key *key, char *buf, size_t size)
{
	snprintf(buf, size, "an integer from %u to %u", (unsigned)key->min,
	    (unsigned)key->max);
}

static void
types_range_duration(const struct config_key *key, char *buf, size_t size)
{
	char lo[32], hi[32];

	snprintf(buf, size, "an integer with ms, s, m, h or d, from %s to %s",
	    key->min == 0
		? "0s"
		: types_scale(key->min, types_units_duration, lo, sizeof(lo)),
	    types_scale(key->max, types_units_duration, hi, sizeof(hi)));
}

static void
types_range_size(const struct config_key *key, char *buf, size_t size)
{
	char lo[32], hi[32];

	snprintf(buf, size,
	    "an integer, optionally with k, m or g, from %s to %s",
	    types_scale(key->min, types_units_size, lo, sizeof(lo)),
	    types_scale(key->max, types_units_size, hi, sizeof(hi)));
}

static void
types_range_line(const struct config_key *key, char *buf, size_t size)
{
	types_range_octets("a line", key, buf, size);
}

static void
types_range_text(const struct config_key *key, char *buf, size_t size)
{
	types_range_octets("a text", key, buf, size);
}

static void
types_range_octets(const char *what, const struct config_key *key, char *buf,
    size_t size)
{
	snprintf(buf, size, "%s of %u to %u octets%s", what,
	    (unsigned)types_text_min(key), (unsigned)types_text_max(key),
	    key->type == &config_type_capability ? ", no dot first" : "");
}
