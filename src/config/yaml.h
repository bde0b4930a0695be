/* yaml.h: a YAML text as a tree of nodes that know line and column.
 *
 * Only this folder calls it. The tree owns every byte that it hands out;
 * borrowed pointers are valid until config_yaml_free(). The strings and arrays
 * of the configuration also come from config_yaml_alloc(), so that one call
 * wipes and frees all of it. Running out of memory ends the process. */

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

	/* CONFIG_SCALAR. Terminated, but may contain NUL; len counts. An empty
	 * or null value is "". */
	const char *text;
	size_t len;
	bool plain; /* not quoted */
	bool from_environment; /* has a ${NAME}, so it is not shown */
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
	size_t repeats_line; /* the line of the same key before; or 0 */
	const struct config_node *value;
};

struct config_tree {
	const struct config_node *root;
	struct config_block *block; /* all memory */
};

/* Why a text is not usable YAML. */
struct config_fault {
	struct config_mark mark;
	char text[256];
};

/* The bounds: more than any sane file needs; they stop an alias bomb. */
#define CONFIG_FILE_MAX (1024 * 1024)
#define CONFIG_WEIGHT_MAX (256 * 1024)
#define CONFIG_DEPTH_MAX 32
#define CONFIG_ANCHOR_MAX 256
#define CONFIG_SCALAR_MAX (16 * 1024)

#define CONFIG_STARS "********"

/* Parses one document whose root is a mapping. Returns NULL with the reason. */
struct config_tree *config_yaml_parse(const char *text, size_t len,
    struct config_fault *fault);
void config_yaml_free(struct config_tree **tree);

/* Returns zeroed memory that lives as long as the tree. */
void *config_yaml_alloc(struct config_tree *tree, size_t n, size_t size);
char *config_yaml_strndup(struct config_tree *tree, const char *text,
    size_t len);

/* Returns the value of key in a mapping, or NULL if it is missing or node is
 * not a mapping. */
const struct config_node *config_yaml_get(const struct config_node *map,
    const char *key);

/* Follows "listener.pop3s.bind[0]" as far as the tree goes; exact_out says
 * whether that was all the way. */
const struct config_node *config_yaml_find(const struct config_tree *tree,
    const char *path, bool *exact_out);

#endif
