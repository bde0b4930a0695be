/* keys.h: every key of mailferry.yaml(5) as a row of one const table.
 *
 * read.c walks the file along these rows, dump.c the structure; the tests hold
 * the manual and the sample against them. A new key is a row, a field in
 * config.h and its lines in the manual. */

#ifndef CONFIG_KEYS_H
#define CONFIG_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config_type; /* types.h */

enum config_shape {
	CONFIG_VALUE,
	CONFIG_VALUES, /* a list */
	CONFIG_SECTION, /* a mapping whose keys are rows */
	CONFIG_NAMED /* a mapping of the operator's names to sections */
};

enum config_flag {
	CONFIG_REQUIRED = 1 << 0, /* if the file has its section */
	CONFIG_OPTIONAL = 1 << 1, /* section: may be left out as a whole */
	CONFIG_SECRET = 1 << 2, /* never shown */
	CONFIG_INLINE = 1 << 3, /* list: an array of max in the struct */
	CONFIG_UNIQUE = 1 << 4, /* list: no duplicates */
	CONFIG_ONE = 1 << 5 /* list: one value needs no brackets */
};

/* One of the words that a key accepts. "" means not set. */
struct config_word {
	const char *text;
	int value;
};
#define CONFIG_UNSET (-1)

struct config_key {
	/* "listener.*.bind": a star is a name that the operator chose. */
	const char *path;
	enum config_shape shape;
	const struct config_type *type; /* of the value, or of each element */
	unsigned flags;
	/* The default as in the file, with ", " between list elements. NULL: no
	 * default, or help describes it. */
	const char *text;
	/* The range of a number, the octets of a text, or the number of
	 * elements of a list or names. */
	uint64_t min, max;
	uint64_t longest; /* of a list's texts, octets; 0: 255 */
	const struct config_word *words; /* the last one has no text */
	/* The offset of its field in struct config or in the innermost named
	 * section's struct. n_offset is that of an array's length. A section
	 * may have a bool there that tells that it is present. */
	size_t offset, n_offset;
	size_t size; /* CONFIG_NAMED: of its struct */
	const char *help;
};

extern const struct config_key config_keys[];
extern const size_t n_config_keys;

/* Returns the row whose path is "". */
const struct config_key *config_keys_root(void);

/* Returns the section below a CONFIG_NAMED: "listener.*" for "listener". */
const struct config_key *config_keys_element(const struct config_key *named);

/* Returns the row of name in section, or NULL. */
const struct config_key *config_keys_find(const struct config_key *section,
    const char *name);

/* Returns the row directly below section that follows before, or NULL; the
 * first one if before is NULL. */
const struct config_key *config_keys_next(const struct config_key *section,
    const struct config_key *before);

/* The word that has the value, among those of the key at path. */
const char *config_keys_word(const char *path, int value);

/* The key of section whose name is nearest to a mistyped one, or NULL. */
const struct config_key *config_keys_nearest(const struct config_key *section,
    const char *name);

/* "a, b or c": the keys of section. Returns buf. */
const char *config_keys_names(const struct config_key *section, char *buf,
    size_t size);

/* The last part of its path. */
const char *config_keys_name(const struct config_key *key);

/* Writes "an integer from 0 to 1024", for people. element: for one element of a
 * list. Returns buf. */
const char *config_keys_accepts(const struct config_key *key, bool element,
    char *buf, size_t size);

#endif
