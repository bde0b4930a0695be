/* identifier.h: from the name that a client gave to the key that is looked up
 * (PROTOCOL "Routing identifier"). */

#ifndef PROTO_IDENTIFIER_H
#define PROTO_IDENTIFIER_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

#define IDENTIFIER_MAX 1024 /* octets, without the NUL */

struct identifier_rules {
	char *const *separators; /* master-user separators */
	size_t n_separators;
	const char *default_domain; /* "" = none */
	bool lowercase; /* ASCII letters only: UTF-8 stays as it is */
};

enum identifier_status {
	IDENTIFIER_OK,
	IDENTIFIER_EMPTY, /* names nobody: the default destination */
	IDENTIFIER_BAD /* control character, space, double quote, too long */
};

/* Cuts the master-user suffix at the first separator (up to the end), checks,
 * appends "@default_domain" to a bare name, lowers case. The check covers the
 * whole name, the cut suffix included. A name that starts with a separator
 * is cut to nothing: EMPTY. Writes the terminated key to out, which has
 * IDENTIFIER_MAX + 1 octets. 8-bit octets are allowed, DEL is a control. */
enum identifier_status identifier_make(const struct identifier_rules *rules,
    const char *name, size_t len, char *out) MUST_CHECK;

/* The "@domain" part of a key, from its last "@" on (that included, as stores
 * write the rows that stand for a whole domain): NULL when there is none or the
 * domain is empty. Points into key. */
const char *identifier_domain(const char *key);

#endif
