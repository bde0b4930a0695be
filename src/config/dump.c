/* dump.c: writes the configuration in force as YAML.
 *
 * It walks the rows of keys.c, as read.c does, so that no key can be forgotten.
 * It shows optional sections that the file has. */

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "keys.h"
#include "types.h"
#include "yaml.h"
#include "config/config.h"

#define DUMP_PATH_MAX 1024

struct dump {
	const struct config *cfg;
	FILE *out;
	int depth;
	char path[DUMP_PATH_MAX]; /* of the section */
};

struct mask {
	char *out; /* of CONFIG_URL_MAX + 1 */
	size_t len;
	bool full;
};

static void mask_rest(struct mask *m, const char *rest);
static const char *mask_user_end(const char *rest);
static const char *mask_parameter(struct mask *m, const char *text);
static bool mask_is_harmless(const char *name, size_t len);
static bool mask_is_malformed(const char *authority, size_t len);
static void mask_put(struct mask *m, const char *text, size_t len);
static void dump_section(struct dump *d, const struct config_key *section,
    const char *base);
static void dump_key(struct dump *d, const struct config_key *key,
    const char *base);
static bool dump_is_there(struct dump *d, const struct config_key *key);
static void dump_path(const struct dump *d, const struct config_key *key,
    char *buf, size_t size);
static void dump_named(struct dump *d, const struct config_key *key,
    const char *base);
static void dump_list(struct dump *d, const struct config_key *key,
    const char *base);
static bool dump_value(struct dump *d, const struct config_key *key,
    const void *value, const char *before);
static void dump_below(struct dump *d, const struct config_key *section,
    const char *name, const char *base);
static void dump_name(struct dump *d, const char *name);
static void dump_quoted(struct dump *d, const char *text);
static size_t dump_unprintable(const char *text, unsigned *code_out);

void
config_dump(const struct config *cfg, FILE *out)
{
	struct dump d = {.cfg = cfg, .out = out};

	dump_section(&d, config_keys_root(), (const char *)cfg);
}

void
config_show_url(const struct config *cfg, const char *path, const char *url,
    char out[CONFIG_URL_MAX + 1])
{
	const struct config_node *node;
	const char *scheme = strstr(url, "://"), *rest;
	struct mask m = {.out = out};
	bool exact = false;

	node = config_yaml_find(cfg->tree, path, &exact);
	if (!exact || node->shown == NULL || scheme == NULL) {
		config_mask_url(url, out);
		return;
	}
	/* The kind of store is not secret, even if the URL is. */
	rest = strstr(node->shown, "://");
	mask_put(&m, url, (size_t)(scheme + 3 - url));
	mask_rest(&m, rest != NULL ? rest + 3 : CONFIG_STARS);
}

void
config_mask_url(const char *url, char out[CONFIG_URL_MAX + 1])
{
	const char *scheme = strstr(url, "://");
	struct mask m = {.out = out};

	if (scheme == NULL) {
		mask_put(&m, CONFIG_STARS, strlen(CONFIG_STARS));
		return;
	}
	mask_put(&m, url, (size_t)(scheme + 3 - url));
	mask_rest(&m, scheme + 3);
}

/* Masks the part after "://". If the stars make it longer than a URL may be,
 * shows nothing of it. */
static void
mask_rest(struct mask *m, const char *rest)
{
	size_t scheme = m->len;
	const char *at = mask_user_end(rest), *query;

	if (at != NULL) {
		const char *colon = memchr(rest, ':', (size_t)(at - rest));

		if (colon != NULL)
			mask_put(m, rest, (size_t)(colon + 1 - rest));
		mask_put(m, CONFIG_STARS, strlen(CONFIG_STARS));
		rest = at;
	}
	query = rest + strcspn(rest, "?#");
	mask_put(m, rest, (size_t)(query - rest));
	while (*query != '\0')
		query = mask_parameter(m, query);
	rest += *rest == '@';
	if (!m->full && !mask_is_malformed(rest, strcspn(rest, "/?#")))
		return;
	m->len = scheme;
	m->full = false;
	mask_put(m, CONFIG_STARS, strlen(CONFIG_STARS));
}

/* Returns the @ after user and password, or NULL. A password may contain
 * anything, including an @. But if a path and a query precede the first @, the
 * @ belongs to the query. */
static const char *
mask_user_end(const char *rest)
{
	const char *at = strchr(rest, '@');
	const char *slash = strchr(rest, '/'), *end, *next;

	if (at == NULL)
		return NULL;
	if (slash != NULL && slash + strcspn(slash, "?#") < at)
		return NULL;
	end = at + strcspn(at, "/?#");
	while ((next = memchr(at + 1, '@', (size_t)(end - at - 1))) != NULL)
		at = next;
	return at;
}

/* Masks "?name=value" or "&name=value". Returns the text after it. */
static const char *
mask_parameter(struct mask *m, const char *text)
{
	size_t len = 1 + strcspn(text + 1, "&");
	const char *equals = memchr(text, '=', len);
	size_t name = equals == NULL ? 1 : (size_t)(equals + 1 - text);

	/* "%u" stands for what is looked up. */
	if (len == name ||
	    (equals != NULL &&
		((len == name + 2 && memcmp(equals, "=%u", 3) == 0) ||
		    mask_is_harmless(text + 1, name - 2)))) {
		mask_put(m, text, len);
	} else {
		mask_put(m, text, name);
		mask_put(m, CONFIG_STARS, strlen(CONFIG_STARS));
	}
	return text + len;
}

/* Exactly these: a secret may have any other name, and a name any encoding. */
static bool
mask_is_harmless(const char *name, size_t len)
{
	static const char *const harmless[] = {"application_name", "charset",
	    "client_encoding", "connect_timeout", "db", "dbname", "gssencmode",
	    "host", "hostaddr", "keepalives", "keepalives_count",
	    "keepalives_idle", "keepalives_interval", "passfile", "port",
	    "socket", "ssl-ca", "ssl-cert", "ssl-key", "ssl-mode",
	    "ssl_min_protocol_version", "sslcert", "sslcrl", "sslkey",
	    "sslmode", "sslrootcert", "target_session_attrs",
	    "tcp_user_timeout", "user"};

	for (size_t i = 0; i < ARRAY_LEN(harmless); i++)
		if (len == strlen(harmless[i]) &&
		    memcmp(name, harmless[i], len) == 0)
			return true;
	return false;
}

/* Whether "HOST:PORT" has a port that is none: "redis://:PASSWORD" without
 * its "@HOST" is easily written. */
static bool
mask_is_malformed(const char *authority, size_t len)
{
	const char *bracket = memchr(authority, ']', len);
	const char *from = bracket != NULL ? bracket : authority;
	const char *colon = memchr(from, ':', len - (size_t)(from - authority));

	if (colon == NULL)
		return false;
	for (const char *p = colon + 1; p < authority + len; p++)
		if (!isdigit((unsigned char)*p))
			return true;
	return false;
}

static void
mask_put(struct mask *m, const char *text, size_t len)
{
	if (len > CONFIG_URL_MAX - m->len) {
		m->full = true;
		return;
	}
	memcpy(m->out + m->len, text, len);
	m->len += len;
	m->out[m->len] = '\0';
}

void
config_listener_changes(const struct config_listener *l, FILE *out)
{
	const struct config_key *named =
	    config_keys_find(config_keys_root(), "listener");
	const struct config_key *section = config_keys_element(named);
	const struct config_key *key = NULL;
	char text[CONFIG_FORMAT_MAX];

	while ((key = config_keys_next(section, key)) != NULL) {
		const char *place = (const char *)l + key->offset;
		struct config_input in = {.key = key, .plain = true};
		uint64_t usual = 0;

		if (key->shape != CONFIG_VALUE || key->words != NULL ||
		    key->type->is_text || key->text == NULL)
			continue;
		if (key->offset ==
		    offsetof(struct config_listener, max_connections))
			continue;
		assert(key->type->size <= sizeof(usual));
		in.text = key->text;
		in.len = strlen(key->text);
		if (key->type->parse(&in, &usual) != NULL ||
		    memcmp(&usual, place, key->type->size) == 0)
			continue;
		key->type->format(key, place, text, sizeof(text));
		fprintf(out, ", %s %s", config_keys_name(key), text);
	}
}

static void
dump_section(struct dump *d, const struct config_key *section, const char *base)
{
	const struct config_key *key = NULL;

	while ((key = config_keys_next(section, key)) != NULL)
		dump_key(d, key, base);
}

static void
dump_key(struct dump *d, const struct config_key *key, const char *base)
{
	const char *name = config_keys_name(key);

	switch (key->shape) {
	case CONFIG_SECTION:
		if (dump_is_there(d, key))
			dump_below(d, key, name, base);
		return;
	case CONFIG_NAMED:
		dump_named(d, key, base);
		return;
	case CONFIG_VALUES:
		dump_list(d, key, base);
		return;
	case CONFIG_VALUE:
		if (dump_value(d, key, base + key->offset, name))
			fputc('\n', d->out);
		return;
	}
}

/* An optional section that is left out has no values to show. */
static bool
dump_is_there(struct dump *d, const struct config_key *key)
{
	char path[DUMP_PATH_MAX + 64];
	bool exact = false;

	if (!(key->flags & CONFIG_OPTIONAL))
		return true;
	dump_path(d, key, path, sizeof(path));
	config_yaml_find(d->cfg->tree, path, &exact);
	return exact;
}

/* Writes the path with the operator's names instead of stars. */
static void
dump_path(const struct dump *d, const struct config_key *key, char *buf,
    size_t size)
{
	snprintf(buf, size, "%s%s%s", d->path, d->path[0] != '\0' ? "." : "",
	    config_keys_name(key));
}

static void
dump_below(struct dump *d, const struct config_key *section, const char *name,
    const char *base)
{
	size_t len = strlen(d->path);

	dump_name(d, name);
	fputs(":\n", d->out);
	snprintf(d->path + len, sizeof(d->path) - len, "%s%s",
	    len > 0 ? "." : "", name);
	d->depth++;
	dump_section(d, section, base);
	d->depth--;
	d->path[len] = '\0';
}

/* Each one's structure begins with its name. */
static void
dump_named(struct dump *d, const struct config_key *key, const char *base)
{
	const struct config_key *element = config_keys_element(key);
	const char *array;
	size_t n, len = strlen(d->path);

	memcpy(&array, base + key->offset, sizeof(array));
	memcpy(&n, base + key->n_offset, sizeof(n));
	if (n == 0)
		return;
	dump_name(d, config_keys_name(key));
	fputs(":\n", d->out);
	snprintf(d->path + len, sizeof(d->path) - len, "%s%s",
	    len > 0 ? "." : "", config_keys_name(key));
	d->depth++;
	for (size_t i = 0; i < n; i++) {
		const char *one = array + i * key->size, *name;

		memcpy(&name, one, sizeof(name));
		dump_below(d, element, name, one);
	}
	d->depth--;
	d->path[len] = '\0';
}

static void
dump_list(struct dump *d, const struct config_key *key, const char *base)
{
	const char *array = base + key->offset;
	size_t n;

	if (!(key->flags & CONFIG_INLINE))
		memcpy(&array, base + key->offset, sizeof(array));
	memcpy(&n, base + key->n_offset, sizeof(n));
	if (n == 1 && (key->flags & CONFIG_ONE) != 0) {
		dump_value(d, key, array, config_keys_name(key));
		fputc('\n', d->out);
		return;
	}
	dump_name(d, config_keys_name(key));
	fputs(": [", d->out);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			fputs(", ", d->out);
		dump_value(d, key, array + i * key->type->size, NULL);
	}
	fputs("]\n", d->out);
}

/* before: the key to put in front. Returns false if there is no value. */
static bool
dump_value(struct dump *d, const struct config_key *key, const void *value,
    const char *before)
{
	char buf[CONFIG_FORMAT_MAX], url[CONFIG_URL_MAX + 1];
	char path[DUMP_PATH_MAX + 64];
	const char *text = buf;
	bool bare = false;

	if (key->type->is_text) {
		memcpy(&text, value, sizeof(text));
	} else {
		key->type->format(key, value, buf, sizeof(buf));
		bare = isdigit((unsigned char)buf[0]) &&
		    strpbrk(buf, ".:/") == NULL && key->words == NULL &&
		    strlen(buf) < 32;
		bare = bare || strcmp(buf, "true") == 0 ||
		    strcmp(buf, "false") == 0;
	}
	/* Writes nothing where an empty value is not allowed. */
	if (before != NULL && *text == '\0' && key->text == NULL)
		return false;
	if (key->type->is_url && *text != '\0') {
		dump_path(d, key, path, sizeof(path));
		config_show_url(d->cfg, path, text, url);
		text = url;
	} else if (key->flags & CONFIG_SECRET && *text != '\0')
		text = CONFIG_STARS;
	if (before != NULL) {
		dump_name(d, before);
		fputs(": ", d->out);
	}
	if (bare)
		fputs(text, d->out);
	else
		dump_quoted(d, text);
	return true;
}

static void
dump_name(struct dump *d, const char *name)
{
	fprintf(d->out, "%*s%s", d->depth * 2, "", name);
}

static void
dump_quoted(struct dump *d, const char *text)
{
	unsigned code;
	size_t len;

	fputc('"', d->out);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(d->out, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			fprintf(d->out, "\\x%02x", c);
		else if (c == '$' && text[1] == '{')
			fputs("$$", d->out);
		else if ((len = dump_unprintable(text, &code)) > 0) {
			fprintf(d->out, "\\u%04x", code);
			text += len - 1;
		} else
			fputc(c, d->out);
	}
	fputc('"', d->out);
}

/* Returns the octets of a character that YAML reads as an end of line or
 * accepts only escaped; otherwise 0. The text is UTF-8. */
static size_t
dump_unprintable(const char *text, unsigned *code_out)
{
	const unsigned char *u = (const unsigned char *)text;

	*code_out = 0;
	if (u[0] == 0xc2 && u[1] < 0xa0) {
		*code_out = u[1];
		return 2;
	}
	if ((u[0] & 0xf0) != 0xe0)
		return 0;
	*code_out = (u[0] & 0x0fU) << 12 | (u[1] & 0x3fU) << 6 | (u[2] & 0x3fU);
	if (*code_out == 0x2028 || *code_out == 0x2029 || *code_out == 0xfeff ||
	    *code_out >= 0xfffe)
		return 3;
	return 0;
}
