/* yaml.h: a YAML text as a tree of nodes that know line and column.
 *
 * Called by config.c only. The tree owns every byte it hands out; borrowed
 * pointers are good until config_yaml_free(). What the built configuration
 * keeps (strings, arrays) comes from config_yaml_alloc() too, so that all of
 * it goes, wiped, in one call. Running out of memory ends the process. */

#ifndef CONFIG_YAML_H
#define CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>

enum config_node_kind { CONFIG_SCALAR, CONFIG_LIST, CONFIG_MAP };

/* Both count from 1; the column counts characters, not octets. */
struct config_mark {
	size_t line, column;
};

struct config_node {
	enum config_node_kind kind;
	struct config_mark mark;

	/* CONFIG_SCALAR. Terminated, but may hold NUL: len counts. An empty
	 * or null value is "". */
	const char *text;
	size_t len;
	bool plain; /* not quoted */
	bool from_environment; /* holds a ${NAME}: not to be shown */
	const char *shown; /* then: text with stars for each; or NULL */
	const char *fault; /* why it has no usable value, or NULL */

	/* CONFIG_LIST, CONFIG_MAP, in file order. */
	struct config_entry *first;
	size_t n_entry; /* without repeated keys */
	struct config_entry **sorted; /* CONFIG_MAP: n_entry, by key */

	/* For the bounds below: values and levels, aliases expanded. */
	size_t weight, height;
};

struct config_entry {
	struct config_entry *next;
	const char *key; /* NULL in a list; otherwise without NUL */
	struct config_mark mark; /* of the key */
	size_t repeats_line; /* not 0: the key stood there already */
	const struct config_node *value;
};

struct config_tree {
	const struct config_node *root;
	struct config_block *block; /* all memory */
};

/* Why a text is no usable YAML. */
struct config_fault {
	struct config_mark mark;
	char text[256];
};

/* More than any sane file needs, and what an alias bomb runs into. */
#define CONFIG_FILE_MAX (1024 * 1024)
#define CONFIG_WEIGHT_MAX (256 * 1024)
#define CONFIG_DEPTH_MAX 32
#define CONFIG_ANCHOR_MAX 256
#define CONFIG_SCALAR_MAX (16 * 1024)

#define CONFIG_STARS "********"

/* One document whose root is a mapping, or NULL and the reason. */
struct config_tree *config_yaml_parse(const char *text, size_t len,
    struct config_fault *fault);
void config_yaml_free(struct config_tree **tree);

/* Zeroed memory that lives as long as the tree. */
void *config_yaml_alloc(struct config_tree *tree, size_t n, size_t size);
char *config_yaml_strndup(struct config_tree *tree, const char *text,
    size_t len);

/* The value of key in a mapping, or NULL: not there, or no mapping. */
const struct config_node *config_yaml_get(const struct config_node *map,
    const char *key);

/* Follows "listener.pop3s.bind[0]" as far as the tree goes; exact_out says
 * whether that was all the way. */
const struct config_node *config_yaml_find(const struct config_tree *tree,
    const char *path, bool *exact_out);

#endif
