/* yaml.c: makes a tree with positions from libyaml's events.
 *
 * The file's author is trusted, but a file may be damaged, generated or meant
 * for another program, and a reload must survive this. So everything here is
 * bounded. An alias shares the node that it names, so an alias bomb needs no
 * memory; the cost of walking it is counted and limited.
 *
 * Faults of a single value (an unset variable, a duplicate key) stay in the
 * tree, and read.c reports them with the key's path among all other problems.
 * Only a fault that leaves no tree is a struct config_fault. */

#include "yaml.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <yaml.h>

#include "platform/log.h"
#include "platform/secret.h"
#include "platform/util.h"

/* One piece of the tree's memory. */
struct config_block {
	struct config_block *next;
	size_t size;
	max_align_t data[];
};

struct config_anchor {
	const char *name;
	const struct config_node *node;
};

/* The state while reading. */
struct config_yaml {
	yaml_parser_t parser;
	struct config_tree *tree;
	struct config_fault *fault;
	const char *text;
	size_t len;
	struct config_anchor anchor[CONFIG_ANCHOR_MAX];
	size_t n_anchor;
	/* A scalar with its variables replaced. */
	char scalar[CONFIG_SCALAR_MAX];
	size_t scalar_len;
	bool stars; /* instead of the variables' values */
};

static const struct config_node *config_yaml_document(struct config_yaml *y);
static const struct config_node *config_yaml_node(struct config_yaml *y,
    yaml_event_t *event, size_t depth);
static const struct config_node *config_yaml_value(struct config_yaml *y,
    const yaml_event_t *event, size_t depth);
static struct config_node *config_yaml_node_new(struct config_yaml *y,
    enum config_node_kind kind, yaml_mark_t at);
static const struct config_node *config_yaml_scalar(struct config_yaml *y,
    const yaml_event_t *event);
static const struct config_node *config_yaml_list(struct config_yaml *y,
    const yaml_event_t *event, size_t depth);
static const struct config_node *config_yaml_map(struct config_yaml *y,
    const yaml_event_t *event, size_t depth);
static struct config_entry *config_yaml_key(struct config_yaml *y,
    const yaml_event_t *event);
static bool config_yaml_adopt(struct config_yaml *y, struct config_node *parent,
    struct config_entry ***tail, struct config_entry *entry);
static void config_yaml_sort(struct config_yaml *y, struct config_node *map);
static int config_yaml_entry_compare(const void *a, const void *b);
static const struct config_node *config_yaml_alias(struct config_yaml *y,
    const yaml_event_t *event, size_t depth);
static bool config_yaml_anchor(struct config_yaml *y, const yaml_event_t *event,
    const struct config_node *node);
static bool config_yaml_tagged(const yaml_event_t *event);
static const char *config_yaml_stars(struct config_yaml *y, const char *raw,
    size_t len);
static const char *config_yaml_expand(struct config_yaml *y, const char *raw,
    size_t len, bool *expanded_out);
static const char *config_yaml_variable(struct config_yaml *y, const char *raw,
    size_t len, size_t *used_out);
static bool config_yaml_append(struct config_yaml *y, const char *text,
    size_t len);
static bool config_yaml_utf8(const char *text, size_t len);
static size_t config_yaml_utf8_len(const unsigned char *s, size_t len);
static bool config_yaml_next(struct config_yaml *y, yaml_event_t *event);
static void config_yaml_parser_fault(struct config_yaml *y);
static void config_yaml_reader_fault(struct config_yaml *y);
static bool config_yaml_fault(struct config_yaml *y, struct config_mark mark,
    const char *fmt, ...) PRINTF_LIKE(3, 4);
static struct config_mark config_yaml_mark(yaml_mark_t at);
static const struct config_node *config_yaml_lookup(const struct config_node
							*map,
    const char *key, size_t len);
static size_t config_yaml_step_list(const struct config_node *list,
    const char *path, const struct config_node **value_out);
static size_t config_yaml_step(const struct config_node *node, const char *path,
    const struct config_node **value_out);

static const char config_yaml_too_long[] =
    "longer than 16384 octets; expected less";

struct config_tree *
config_yaml_parse(const char *text, size_t len, struct config_fault *fault)
{
	struct config_tree *tree = calloc(1, sizeof(*tree));
	struct config_yaml *y = calloc(1, sizeof(*y));

	if (tree == NULL || y == NULL || !yaml_parser_initialize(&y->parser)) {
		log_msg(LOG_ERR, "configuration: out of memory");
		exit(EX_OSERR);
	}
	/* A byte order mark is accepted, but UTF-16 is not; libyaml must not
	 * guess. */
	if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
		text += 3;
		len -= 3;
	}
	y->tree = tree;
	y->fault = fault;
	y->text = text;
	y->len = len;
	yaml_parser_set_encoding(&y->parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&y->parser, (const unsigned char *)text,
	    len);
	tree->root = config_yaml_document(y);
	yaml_parser_delete(&y->parser);
	secret_wipe(y->scalar, sizeof(y->scalar));
	free(y);
	if (tree->root == NULL)
		config_yaml_free(&tree);
	return tree;
}

void
config_yaml_free(struct config_tree **tree)
{
	struct config_block *block, *next;

	if (*tree == NULL)
		return;
	for (block = (*tree)->block; block != NULL; block = next) {
		next = block->next;
		secret_wipe(block, sizeof(*block) + block->size);
		free(block);
	}
	free(*tree);
	*tree = NULL;
}

void *
config_yaml_alloc(struct config_tree *tree, size_t n, size_t size)
{
	struct config_block *block = NULL;
	size_t total;

	if (!__builtin_mul_overflow(n, size, &total) &&
	    total <= SIZE_MAX - sizeof(*block))
		block = calloc(1, sizeof(*block) + total);
	if (block == NULL) {
		log_msg(LOG_ERR, "configuration: out of memory");
		exit(EX_OSERR);
	}
	block->size = total;
	block->next = tree->block;
	tree->block = block;
	return block->data;
}

char *
config_yaml_strndup(struct config_tree *tree, const char *text, size_t len)
{
	char *copy = config_yaml_alloc(tree, len + 1, 1);

	if (len > 0)
		memcpy(copy, text, len);
	return copy;
}

const struct config_node *
config_yaml_get(const struct config_node *map, const char *key)
{
	return map == NULL ? NULL : config_yaml_lookup(map, key, strlen(key));
}

static const struct config_node *
config_yaml_lookup(const struct config_node *map, const char *key, size_t len)
{
	size_t lo = 0, hi = map->kind == CONFIG_MAP ? map->n_entry : 0;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct config_entry *e = map->sorted[mid];
		int order = strncmp(e->key, key, len);

		if (order == 0 && e->key[len] == '\0')
			return e->value;
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

const struct config_node *
config_yaml_find(const struct config_tree *tree, const char *path,
    bool *exact_out)
{
	const struct config_node *node = tree->root, *value = NULL;
	size_t used;

	while ((used = config_yaml_step(node, path, &value)) > 0) {
		node = value;
		path += used;
	}
	*exact_out = *path == '\0';
	return node;
}

/* Follows one ".key" or "[n]" of path. Returns its length, or 0 if node does
 * not have it. Names may contain dots, so the longest key that fits is used. */
static size_t
config_yaml_step(const struct config_node *node, const char *path,
    const struct config_node **value_out)
{
	const char *key = *path == '.' ? path + 1 : path;
	size_t len;

	if (node->kind == CONFIG_LIST)
		return config_yaml_step_list(node, path, value_out);
	for (len = strlen(key); len > 0; len--) {
		if (strchr(".[", key[len]) == NULL)
			continue;
		*value_out = config_yaml_lookup(node, key, len);
		if (*value_out != NULL)
			return len + (size_t)(key - path);
	}
	return 0;
}

static size_t
config_yaml_step_list(const struct config_node *list, const char *path,
    const struct config_node **value_out)
{
	const struct config_entry *e = list->first;
	char *end;
	unsigned long n;

	if (*path != '[')
		return 0;
	for (n = strtoul(path + 1, &end, 10); e != NULL && n > 0; n--)
		e = e->next;
	if (e == NULL || *end != ']')
		return 0;
	*value_out = e->value;
	return (size_t)(end + 1 - path);
}

/* Reads the whole stream: exactly one document, a mapping. */
static const struct config_node *
config_yaml_document(struct config_yaml *y)
{
	const struct config_node *root;
	yaml_event_t event;

	if (!config_yaml_next(y, &event)) /* the stream's start */
		return NULL;
	yaml_event_delete(&event);
	if (!config_yaml_next(y, &event))
		return NULL;
	if (event.type == YAML_STREAM_END_EVENT) {
		yaml_event_delete(&event);
		config_yaml_fault(y, (struct config_mark){1, 1},
		    "the file is empty; expected sections such as "
		    "\"listener:\"");
		return NULL;
	}
	yaml_event_delete(&event);
	if (!config_yaml_next(y, &event))
		return NULL;
	root = config_yaml_node(y, &event, 1);
	if (root == NULL)
		return NULL;
	if (root->kind != CONFIG_MAP) {
		config_yaml_fault(y, root->mark,
		    "the file is not a mapping; expected sections such as "
		    "\"listener:\"");
		return NULL;
	}
	if (!config_yaml_next(y, &event)) /* the document's end */
		return NULL;
	yaml_event_delete(&event);
	if (!config_yaml_next(y, &event))
		return NULL;
	if (event.type != YAML_STREAM_END_EVENT) {
		config_yaml_fault(y, config_yaml_mark(event.start_mark),
		    "a second document; expected one");
		root = NULL;
	}
	yaml_event_delete(&event);
	return root;
}

/* Takes ownership of event. */
static const struct config_node *
config_yaml_node(struct config_yaml *y, yaml_event_t *event, size_t depth)
{
	const struct config_node *node = NULL;

	if (depth > CONFIG_DEPTH_MAX)
		config_yaml_fault(y, config_yaml_mark(event->start_mark),
		    "nested too deeply; expected at most %d levels",
		    CONFIG_DEPTH_MAX);
	else if (config_yaml_tagged(event))
		config_yaml_fault(y, config_yaml_mark(event->start_mark),
		    "a YAML tag; expected plain and quoted values");
	else
		node = config_yaml_value(y, event, depth);
	if (node != NULL && !config_yaml_anchor(y, event, node))
		node = NULL;
	yaml_event_delete(event);
	return node;
}

static const struct config_node *
config_yaml_value(struct config_yaml *y, const yaml_event_t *event,
    size_t depth)
{
	if (event->type == YAML_SCALAR_EVENT)
		return config_yaml_scalar(y, event);
	if (event->type == YAML_SEQUENCE_START_EVENT)
		return config_yaml_list(y, event, depth);
	if (event->type == YAML_MAPPING_START_EVENT)
		return config_yaml_map(y, event, depth);
	assert(event->type == YAML_ALIAS_EVENT);
	return config_yaml_alias(y, event, depth);
}

static struct config_node *
config_yaml_node_new(struct config_yaml *y, enum config_node_kind kind,
    yaml_mark_t at)
{
	struct config_node *node = config_yaml_alloc(y->tree, 1, sizeof(*node));

	node->kind = kind;
	node->mark = config_yaml_mark(at);
	node->weight = 1;
	node->height = 1;
	return node;
}

static const struct config_node *
config_yaml_scalar(struct config_yaml *y, const yaml_event_t *event)
{
	struct config_node *node =
	    config_yaml_node_new(y, CONFIG_SCALAR, event->start_mark);
	const char *raw = (const char *)event->data.scalar.value;
	size_t len = event->data.scalar.length;

	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	if (node->plain && (strcmp(raw, "~") == 0 || strcmp(raw, "null") == 0))
		len = 0;
	y->scalar_len = 0;
	node->fault = config_yaml_expand(y, raw, len, &node->from_environment);
	if (node->fault != NULL)
		y->scalar_len = 0;
	node->text = config_yaml_strndup(y->tree, y->scalar, y->scalar_len);
	node->len = y->scalar_len;
	if (node->from_environment && node->fault == NULL)
		node->shown = config_yaml_stars(y, raw, len);
	/* Aliases may repeat a long text, so its length counts as well. */
	node->weight += node->len / 64;
	return node;
}

static const char *
config_yaml_stars(struct config_yaml *y, const char *raw, size_t len)
{
	const char *shown = CONFIG_STARS;
	bool expanded;

	y->stars = true;
	y->scalar_len = 0;
	if (config_yaml_expand(y, raw, len, &expanded) == NULL)
		shown = config_yaml_strndup(y->tree, y->scalar, y->scalar_len);
	y->stars = false;
	return shown;
}

static const struct config_node *
config_yaml_list(struct config_yaml *y, const yaml_event_t *event, size_t depth)
{
	struct config_node *list =
	    config_yaml_node_new(y, CONFIG_LIST, event->start_mark);
	struct config_entry **tail = &list->first, *entry;
	yaml_event_t next;

	for (;;) {
		if (!config_yaml_next(y, &next))
			return NULL;
		if (next.type == YAML_SEQUENCE_END_EVENT)
			break;
		entry = config_yaml_alloc(y->tree, 1, sizeof(*entry));
		entry->mark = config_yaml_mark(next.start_mark);
		entry->value = config_yaml_node(y, &next, depth + 1);
		if (!config_yaml_adopt(y, list, &tail, entry))
			return NULL;
	}
	yaml_event_delete(&next);
	return list;
}

static const struct config_node *
config_yaml_map(struct config_yaml *y, const yaml_event_t *event, size_t depth)
{
	struct config_node *map =
	    config_yaml_node_new(y, CONFIG_MAP, event->start_mark);
	struct config_entry **tail = &map->first, *entry;
	yaml_event_t next;

	for (;;) {
		if (!config_yaml_next(y, &next))
			return NULL;
		if (next.type == YAML_MAPPING_END_EVENT)
			break;
		entry = config_yaml_key(y, &next);
		yaml_event_delete(&next);
		if (entry == NULL || !config_yaml_next(y, &next))
			return NULL;
		entry->value = config_yaml_node(y, &next, depth + 1);
		if (!config_yaml_adopt(y, map, &tail, entry))
			return NULL;
	}
	yaml_event_delete(&next);
	config_yaml_sort(y, map);
	return map;
}

static struct config_entry *
config_yaml_key(struct config_yaml *y, const yaml_event_t *event)
{
	struct config_mark mark = config_yaml_mark(event->start_mark);
	struct config_entry *entry;
	const char *key;
	size_t len;

	if (event->type != YAML_SCALAR_EVENT || config_yaml_tagged(event) ||
	    event->data.scalar.anchor != NULL) {
		config_yaml_fault(y, mark,
		    "the key is not a plain name; expected a name");
		return NULL;
	}
	key = (const char *)event->data.scalar.value;
	len = event->data.scalar.length;
	if (memchr(key, '\0', len) != NULL || len > CONFIG_SCALAR_MAX) {
		config_yaml_fault(y, mark,
		    "the key contains a NUL or is too long; expected a name");
		return NULL;
	}
	entry = config_yaml_alloc(y->tree, 1, sizeof(*entry));
	entry->key = config_yaml_strndup(y->tree, key, len);
	entry->mark = mark;
	return entry;
}

/* Adds entry to parent if its value could be read and is within the bounds. */
static bool
config_yaml_adopt(struct config_yaml *y, struct config_node *parent,
    struct config_entry ***tail, struct config_entry *entry)
{
	if (entry->value == NULL)
		return false;
	**tail = entry;
	*tail = &entry->next;
	parent->n_entry++;
	parent->weight += entry->value->weight;
	if (parent->height <= entry->value->height)
		parent->height = entry->value->height + 1;
	if (parent->weight > CONFIG_WEIGHT_MAX)
		return config_yaml_fault(y, entry->mark,
		    "too many values with aliases expanded; expected at most "
		    "%d",
		    CONFIG_WEIGHT_MAX);
	return true;
}

/* Sorts the keys, because a broken file may have 100,000 of them, and marks the
 * duplicates. */
static void
config_yaml_sort(struct config_yaml *y, struct config_node *map)
{
	struct config_entry **sorted =
	    config_yaml_alloc(y->tree, map->n_entry, sizeof(*sorted));
	struct config_entry *e;
	size_t n = 0, i;

	for (e = map->first; e != NULL; e = e->next)
		sorted[n++] = e;
	if (n > 0)
		qsort(sorted, n, sizeof(*sorted), config_yaml_entry_compare);
	map->sorted = sorted;
	map->n_entry = 0;
	for (i = 0; i < n; i++) {
		const struct config_entry *first =
		    map->n_entry > 0 ? sorted[map->n_entry - 1] : NULL;

		e = sorted[i];
		if (first != NULL && strcmp(first->key, e->key) == 0)
			e->repeats_line = first->mark.line;
		else
			sorted[map->n_entry++] = e;
	}
}

/* By key, then by position. */
static int
config_yaml_entry_compare(const void *a, const void *b)
{
	const struct config_entry *l = *(const struct config_entry *const *)a;
	const struct config_entry *r = *(const struct config_entry *const *)b;
	int order = strcmp(l->key, r->key);

	if (order == 0)
		order = (l->mark.line > r->mark.line) -
		    (l->mark.line < r->mark.line);
	if (order == 0)
		order = (l->mark.column > r->mark.column) -
		    (l->mark.column < r->mark.column);
	return order;
}

/* An anchor is known only when its value is complete, so it cannot contain
 * itself. */
static const struct config_node *
config_yaml_alias(struct config_yaml *y, const yaml_event_t *event,
    size_t depth)
{
	const char *name = (const char *)event->data.alias.anchor;
	struct config_mark mark = config_yaml_mark(event->start_mark);
	size_t i;

	for (i = 0; i < y->n_anchor; i++) {
		const struct config_node *node = y->anchor[i].node;

		if (strcmp(y->anchor[i].name, name) != 0)
			continue;
		if (depth + node->height - 1 <= CONFIG_DEPTH_MAX)
			return node;
		config_yaml_fault(y, mark,
		    "nested too deeply by an alias; expected at most %d levels",
		    CONFIG_DEPTH_MAX);
		return NULL;
	}
	config_yaml_fault(y, mark,
	    "an alias without its anchor; expected an anchor before it");
	return NULL;
}

static bool
config_yaml_anchor(struct config_yaml *y, const yaml_event_t *event,
    const struct config_node *node)
{
	const yaml_char_t *name = NULL;
	size_t i;

	if (event->type == YAML_SCALAR_EVENT)
		name = event->data.scalar.anchor;
	else if (event->type == YAML_SEQUENCE_START_EVENT)
		name = event->data.sequence_start.anchor;
	else if (event->type == YAML_MAPPING_START_EVENT)
		name = event->data.mapping_start.anchor;
	if (name == NULL)
		return true;
	for (i = 0; i < y->n_anchor; i++)
		if (strcmp(y->anchor[i].name, (const char *)name) == 0)
			break;
	if (i == CONFIG_ANCHOR_MAX)
		return config_yaml_fault(y, node->mark,
		    "too many anchors; expected at most %d", CONFIG_ANCHOR_MAX);
	if (i == y->n_anchor)
		y->anchor[y->n_anchor++].name = config_yaml_strndup(y->tree,
		    (const char *)name, strlen((const char *)name));
	y->anchor[i].node = node;
	return true;
}

/* "!!binary" and the like would change what a value means. */
static bool
config_yaml_tagged(const yaml_event_t *event)
{
	if (event->type == YAML_SCALAR_EVENT)
		return event->data.scalar.tag != NULL;
	if (event->type == YAML_SEQUENCE_START_EVENT)
		return event->data.sequence_start.tag != NULL;
	if (event->type == YAML_MAPPING_START_EVENT)
		return event->data.mapping_start.tag != NULL;
	return false;
}

/* Writes raw to y->scalar with each ${NAME} replaced. Returns NULL, or what is
 * wrong. */
static const char *
config_yaml_expand(struct config_yaml *y, const char *raw, size_t len,
    bool *expanded_out)
{
	size_t i = 0, used;

	*expanded_out = false;
	while (i < len) {
		const char *fault = NULL, *at = raw + i;
		size_t left = len - i;

		used = 1;
		if (left >= 3 && memcmp(at, "$${", 3) == 0) {
			used = 3;
			if (!config_yaml_append(y, "${", 2))
				return config_yaml_too_long;
		} else if (left >= 2 && memcmp(at, "${", 2) == 0) {
			*expanded_out = true;
			fault = config_yaml_variable(y, at, left, &used);
		} else if (!config_yaml_append(y, at, 1)) {
			return config_yaml_too_long;
		}
		if (fault != NULL)
			return fault;
		i += used;
	}
	return NULL;
}

/* raw begins with "${". */
static const char *
config_yaml_variable(struct config_yaml *y, const char *raw, size_t len,
    size_t *used_out)
{
	const char *value;
	char name[65], text[128];
	size_t n = 0, i = 2;

	while (i < len && n < sizeof(name) - 1 &&
	    (isalpha((unsigned char)raw[i]) || raw[i] == '_' ||
		(n > 0 && isdigit((unsigned char)raw[i]))))
		name[n++] = raw[i++];
	name[n] = '\0';
	if (n == 0 || i == len || raw[i] != '}')
		return "a broken variable; expected ${NAME}, or $${ for a "
		       "literal ${";
	*used_out = i + 1;
	value = getenv(name);
	if (value == NULL) {
		snprintf(text, sizeof(text),
		    "the environment has no %s; expected a variable that is "
		    "set",
		    name);
		return config_yaml_strndup(y->tree, text, strlen(text));
	}
	if (!config_yaml_utf8(value, strlen(value))) {
		snprintf(text, sizeof(text),
		    "the environment's %s is not UTF-8; expected UTF-8", name);
		return config_yaml_strndup(y->tree, text, strlen(text));
	}
	if (y->stars)
		value = CONFIG_STARS;
	return config_yaml_append(y, value, strlen(value))
	    ? NULL
	    : config_yaml_too_long;
}

static bool
config_yaml_append(struct config_yaml *y, const char *text, size_t len)
{
	if (len > sizeof(y->scalar) - y->scalar_len)
		return false;
	memcpy(y->scalar + y->scalar_len, text, len);
	y->scalar_len += len;
	return true;
}

static bool
config_yaml_utf8(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t i = 0, n;

	for (i = 0; i < len; i += n) {
		n = config_yaml_utf8_len(s + i, len - i);
		if (n == 0)
			return false;
	}
	return true;
}

/* Returns the octets of the character at s, or 0 if it is not UTF-8 (RFC
 * 3629). */
static size_t
config_yaml_utf8_len(const unsigned char *s, size_t len)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t c = s[0];
	size_t n, i;

	if (c < 0x80)
		return 1;
	n = c >= 0xf8 ? 0 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 0;
	if (n == 0 || n > len)
		return 0;
	c &= 0x7fU >> n;
	for (i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	return n;
}

static bool
config_yaml_next(struct config_yaml *y, yaml_event_t *event)
{
	if (yaml_parser_parse(&y->parser, event))
		return true;
	if (y->parser.error == YAML_READER_ERROR)
		config_yaml_reader_fault(y);
	else
		config_yaml_parser_fault(y);
	return false;
}

static void
config_yaml_parser_fault(struct config_yaml *y)
{
	const yaml_parser_t *p = &y->parser;
	struct config_mark mark = config_yaml_mark(p->problem_mark);

	if (p->problem == NULL)
		config_yaml_fault(y, mark, "not YAML");
	else if (p->context == NULL)
		config_yaml_fault(y, mark, "%s", p->problem);
	else
		config_yaml_fault(y, mark, "%s, %s from line %zu", p->problem,
		    p->context, p->context_mark.line + 1);
}

/* The reader is ahead of the scanner and knows octets only. */
static void
config_yaml_reader_fault(struct config_yaml *y)
{
	const yaml_parser_t *p = &y->parser;
	struct config_mark mark = {1, 1};
	size_t i;

	for (i = 0; i < p->problem_offset && i < y->len; i++) {
		if (y->text[i] == '\n') {
			mark.line++;
			mark.column = 1;
		} else if (((unsigned char)y->text[i] & 0xc0) != 0x80) {
			mark.column++;
		}
	}
	config_yaml_fault(y, mark,
	    "%s; expected UTF-8 without control characters",
	    p->problem == NULL ? "not readable" : p->problem);
}

/* Always returns false. The first fault counts. */
static bool
config_yaml_fault(struct config_yaml *y, struct config_mark mark,
    const char *fmt, ...)
{
	va_list ap;

	y->fault->mark = mark;
	va_start(ap, fmt);
	vsnprintf(y->fault->text, sizeof(y->fault->text), fmt, ap);
	va_end(ap);
	return false;
}

static struct config_mark
config_yaml_mark(yaml_mark_t at)
{
	return (struct config_mark){at.line + 1, at.column + 1};
}
