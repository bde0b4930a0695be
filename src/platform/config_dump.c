/* config_dump.c: the configuration that is in force, back as YAML.
 *
 * It walks the rows of config_keys.c, as config.c does, so that no key can be
 * forgotten. Sections that may be left out are shown where the file has
 * them. */

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "config_keys.h"
#include "config_yaml.h"
#include "platform/config.h"

#define DUMP_STARS "********"
#define DUMP_PATH_MAX 1024

struct dump {
	const struct config *cfg;
	FILE *out;
	int depth;
	char path[DUMP_PATH_MAX]; /* of the section */
};

static void dump_section(struct dump *d, const struct config_key *section,
    const char *base);
static void dump_key(struct dump *d, const struct config_key *key,
    const char *base);
static bool dump_is_there(struct dump *d, const struct config_key *key);
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

void
config_dump(const struct config *cfg, FILE *out)
{
	struct dump d = {.cfg = cfg, .out = out};

	dump_section(&d, config_keys_root(), (const char *)cfg);
}

const char *
config_mask_url(const char *url, char *buf, size_t size)
{
	const char *start = strstr(url, "://");
	const char *end, *at, *colon;

	if (start == NULL) {
		snprintf(buf, size, DUMP_STARS);
		return buf;
	}
	start += 3;
	/* A password may hold what ends a host: the last @ is the one. */
	end = start + strcspn(start, "?#");
	for (at = end; at > start && *at != '@'; at--)
		;
	if (*at != '@')
		at = start;
	colon = memchr(start, ':', (size_t)(at - start));
	if (at == start)
		snprintf(buf, size, "%s", url);
	else if (colon != NULL)
		snprintf(buf, size, "%.*s:" DUMP_STARS "%s", (int)(colon - url),
		    url, at);
	else
		snprintf(buf, size, "%.*s" DUMP_STARS "%s", (int)(start - url),
		    url, at);
	/* libpq takes it as a parameter too. */
	at = strstr(buf, "password=");
	if (at != NULL) {
		size_t keep = (size_t)(at - buf) + strlen("password=");

		snprintf(buf + keep, size - keep, DUMP_STARS);
	}
	return buf;
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

/* What may be left out, and is, has no values to show. */
static bool
dump_is_there(struct dump *d, const struct config_key *key)
{
	char path[DUMP_PATH_MAX + 64];
	bool exact = false;

	if (!(key->flags & CONFIG_OPTIONAL))
		return true;
	snprintf(path, sizeof(path), "%s%s%s", d->path,
	    d->path[0] != '\0' ? "." : "", config_keys_name(key));
	config_yaml_find(d->cfg->tree, path, &exact);
	return exact;
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
	dump_name(d, config_keys_name(key));
	fputs(": [", d->out);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			fputs(", ", d->out);
		dump_value(d, key, array + i * key->type->size, NULL);
	}
	fputs("]\n", d->out);
}

/* before: the key to put in front. False: there is no value. */
static bool
dump_value(struct dump *d, const struct config_key *key, const void *value,
    const char *before)
{
	char buf[CONFIG_FORMAT_MAX], url[8192];
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
	/* Nothing, where nothing may not be said. */
	if (before != NULL && *text == '\0' && key->text == NULL)
		return false;
	if (key->type->is_url && *text != '\0')
		text = config_mask_url(text, url, sizeof(url));
	else if (key->flags & CONFIG_SECRET && *text != '\0')
		text = DUMP_STARS;
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
	fputc('"', d->out);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(d->out, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			fprintf(d->out, "\\x%02x", c);
		else if (c == '$' && text[1] == '{')
			fputs("$$", d->out);
		else
			fputc(c, d->out);
	}
	fputc('"', d->out);
}
