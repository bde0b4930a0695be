/* types.h: the types of values, which the rows of keys.c refer to. */

#ifndef CONFIG_TYPES_H
#define CONFIG_TYPES_H

#include <stdbool.h>
#include <stddef.h>

struct config_key;
struct config_tree;

/* What a value's text becomes. */
struct config_input {
	const struct config_key *key;
	struct config_tree *tree; /* owns what is made */
	const char *directory; /* of the file, absolute */
	const char *text; /* without NUL */
	size_t len;
	bool plain;
};

struct config_type {
	const char *name;
	const char *accepts; /* NULL: from range or words */
	size_t size; /* of one in memory */
	bool is_text; /* a char *, never NULL */
	bool is_url; /* may hold a password */
	/* Writes what the row accepts, for people, if accepts is NULL. If this
	 * is NULL too, its words are used. */
	void (*range)(const struct config_key *key, char *buf, size_t size);
	/* Returns NULL, or what is wrong with in: "not a number". */
	const char *(*parse)(const struct config_input *in, void *out);
	/* Writes the text that parse() reads as value; "" for none. Texts have
	 * no such function. */
	void (*format)(const struct config_key *key, const void *value,
	    char *buf, size_t size);
};
#define CONFIG_FORMAT_MAX 128

extern const struct config_type config_type_boolean;
extern const struct config_type config_type_number;
extern const struct config_type config_type_count;
extern const struct config_type config_type_port;
extern const struct config_type config_type_duration;
extern const struct config_type config_type_size;
extern const struct config_type config_type_word;
extern const struct config_type config_type_mechanism;
extern const struct config_type config_type_address;
extern const struct config_type config_type_ip;
extern const struct config_type config_type_cidr;
extern const struct config_type config_type_fingerprint;
extern const struct config_type config_type_string;
extern const struct config_type config_type_statement;
extern const struct config_type config_type_token;
extern const struct config_type config_type_destination;
extern const struct config_type config_type_path;
extern const struct config_type config_type_log_target;
extern const struct config_type config_type_at_substitutes;
extern const struct config_type config_type_peer;
extern const struct config_type config_type_dns_name;
extern const struct config_type config_type_host;
extern const struct config_type config_type_subject;
extern const struct config_type config_type_banner;
extern const struct config_type config_type_capability;
extern const struct config_type config_type_cipher;
extern const struct config_type config_type_url;

#endif
