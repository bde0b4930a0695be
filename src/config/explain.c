/* explain.c: a key's row, for people and for the manual's generator. */

#include "config/config.h"

#include <stdio.h>
#include <string.h>

#include "keys.h"
#include "near.h"
#include "types.h"

#define EXPLAIN_WIDTH 76
#define EXPLAIN_PATH_MAX 256

static bool explain_matches(const char *row, const char *path);
static void explain_row(const struct config_key *key, FILE *out);
static const char *explain_type(const struct config_key *key);
static void explain_default(const struct config_key *key, FILE *out);
static void explain_help(const char *text, FILE *out);
static void explain_unknown(const char *path, FILE *out);
static const struct config_key *explain_step(const struct config_key *section,
    const char *name, size_t len);

bool
config_explain(const char *path, FILE *out, FILE *err)
{
	const struct config_key *best = NULL;

	if (strcmp(path, "all") == 0) {
		for (size_t i = 1; i < n_config_keys; i++) {
			if (i > 1)
				fputc('\n', out);
			explain_row(&config_keys[i], out);
		}
		return true;
	}
	/* A name may have dots: the row that says most about the path. */
	for (size_t i = 1; i < n_config_keys; i++)
		if (explain_matches(config_keys[i].path, path) &&
		    (best == NULL ||
			strlen(config_keys[i].path) > strlen(best->path)))
			best = &config_keys[i];
	if (best == NULL)
		explain_unknown(path, err);
	else
		explain_row(best, out);
	return best != NULL;
}

/* A star of the row stands for any name, which may have dots if a key is behind
 * it; "[0]" of an element means its list. */
static bool
explain_matches(const char *row, const char *path)
{
	for (; *row != '\0' && *row != '*'; row++, path++)
		if (*row != *path)
			return false;
	if (*row == '\0')
		return *path == '\0' ||
		    (*path == '[' && path[strlen(path) - 1] == ']');
	if (row[1] == '\0')
		return *path != '\0' && strchr(path, '.') == NULL;
	while (*path != '\0')
		if (*++path == '\0' || *path == '.')
			if (explain_matches(row + 1, path))
				return true;
	return false;
}

static void
explain_row(const struct config_key *key, FILE *out)
{
	char text[1024];
	bool section = key->shape == CONFIG_SECTION;

	fprintf(out, "%s\n  type:     %s\n", key->path, explain_type(key));
	if (section)
		fprintf(out, "  keys:     %s\n",
		    config_keys_names(key, text, sizeof(text)));
	else
		fprintf(out, "  expected: %s\n",
		    config_keys_accepts(key, false, text, sizeof(text)));
	if (!section)
		explain_default(key, out);
	explain_help(key->help, out);
}

static const char *
explain_type(const struct config_key *key)
{
	static const char *const sections[] = {
	    [CONFIG_SECTION] = "section",
	    [CONFIG_NAMED] = "sections by names of your own",
	};
	static char list[64];

	if (key->shape == CONFIG_VALUE)
		return key->type->name;
	if (key->shape != CONFIG_VALUES)
		return sections[key->shape];
	snprintf(list, sizeof(list), "list of %s", key->type->name);
	return list;
}

static void
explain_default(const struct config_key *key, FILE *out)
{
	if (key->flags & CONFIG_REQUIRED)
		fprintf(out, "  required\n");
	else if (key->text != NULL && *key->text != '\0')
		fprintf(out, "  default:  %s\n", key->text);
}

/* Wrapped at spaces. */
static void
explain_help(const char *text, FILE *out)
{
	size_t column = 0;

	while (*text != '\0') {
		size_t len = strcspn(text, " ");

		if (column > 0 && column + 1 + len > EXPLAIN_WIDTH) {
			fputc('\n', out);
			column = 0;
		}
		column += (size_t)fprintf(out, "%s%.*s",
		    column == 0 ? "  " : " ", (int)len, text);
		text += len;
		text += *text == ' ';
	}
	fputc('\n', out);
}

/* Goes down as far as the path is right. */
static void
explain_unknown(const char *path, FILE *out)
{
	const struct config_key *section = config_keys_root(), *next;
	char below[EXPLAIN_PATH_MAX] = "", names[1024], name[NEAR_MAX + 2];
	const char *rest = path;
	size_t len;

	for (;;) {
		len = strcspn(rest, ".");
		next = explain_step(section, rest, len);
		if (next == NULL || rest[len] == '\0' ||
		    next->shape == CONFIG_VALUE || next->shape == CONFIG_VALUES)
			break;
		section = next;
		rest += len + 1;
	}
	snprintf(below, sizeof(below), "%.*s", (int)(rest - path), path);
	snprintf(name, sizeof(name), "%.*s", (int)len, rest);
	next = section->shape == CONFIG_SECTION
	    ? config_keys_nearest(section, name)
	    : NULL;
	if (next != NULL)
		fprintf(out, "mailferry: unknown key; did you mean \"%s%s\"?\n",
		    below, config_keys_name(next));
	else
		fprintf(out, "mailferry: unknown key; expected %.*s%s%s\n",
		    below[0] == '\0' ? 0 : (int)strlen(below) - 1, below,
		    below[0] == '\0' ? "" : " with ",
		    config_keys_names(section, names, sizeof(names)));
}

/* The row below section for one part of a path, or NULL. */
static const struct config_key *
explain_step(const struct config_key *section, const char *name, size_t len)
{
	char copy[NEAR_MAX + 1];

	if (len > NEAR_MAX)
		return NULL;
	if (section->shape == CONFIG_NAMED)
		return config_keys_element(section);
	if (section->shape != CONFIG_SECTION)
		return NULL;
	snprintf(copy, sizeof(copy), "%.*s", (int)len, name);
	return config_keys_find(section, copy);
}
