/* identifier.h: makes the routing key from the user name that a client sent. */

#ifndef PROTO_IDENTIFIER_H
#define PROTO_IDENTIFIER_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

#define IDENTIFIER_MAX 1024 /* octets, without the NUL */

/* Case: mail programs send what users typed. ASCII letters only, UTF-8 stays as
 * it is. NORMALIZE_DOMAIN: only behind the last @. */
enum normalize { NORMALIZE_NONE, NORMALIZE_LOWERCASE, NORMALIZE_DOMAIN };

struct identifier_rules {
	char *const *separators; /* master-user separators */
	size_t n_separators;
	const char *at_substitutes; /* each octet may stand for @; "" = none */
	const char *default_domain; /* "" = none */
	enum normalize normalize;
};

enum identifier_status {
	IDENTIFIER_OK,
	IDENTIFIER_EMPTY, /* no name; use the default destination */
	IDENTIFIER_BAD /* control character, space, double quote, too long */
};

/* Removes the master-user suffix from the first separator on. In a name without
 * "@" the last of at_substitutes becomes one; without any, "@default_domain" is
 * appended. The domain becomes its A-label ("xn--...") without a dot at its end.
 * Then converts the case. Checks the whole name, including the suffix. Returns
 * EMPTY if the name starts with a separator. Writes the terminated key to out,
 * which has IDENTIFIER_MAX + 1 octets. 8-bit octets are allowed; DEL counts as
 * a control character. */
enum identifier_status identifier_make(const struct identifier_rules *rules,
    const char *name, size_t len, char *out) MUST_CHECK;

/* Returns the length of what stands before the master-user suffix. */
size_t identifier_cut(const struct identifier_rules *rules, const char *name,
    size_t len);

/* For a key as people write it into a store: makes what a lookup asks for.
 * Returns NULL, or why no lookup can ever ask for it: a few words that fit
 * behind "no login can match: ". out: as identifier_make() wants it. */
const char *identifier_stored(const struct identifier_rules *rules,
    const char *key, size_t len, char *out) MUST_CHECK;

/* Returns the "@domain" part of key, from its last "@" on. Stores use the same
 * form, with the "@", for a whole domain. Returns NULL if there is no "@" or the
 * domain is empty. The result points into key. */
const char *identifier_domain(const char *key);

#endif
