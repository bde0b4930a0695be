/* identifier.c: makes the routing key.
 *
 * The name goes into store queries, URLs, log lines and cache keys. So
 * characters that could break out of any of them are refused first, also in the
 * suffix that is removed, because the backend still gets it. */

#include "proto/identifier.h"

#include <string.h>

static bool identifier_octets_good(const char *name, size_t len);
static size_t identifier_cut(const struct identifier_rules *rules,
    const char *name, size_t len);
static bool identifier_append(char *out, size_t *len, const char *s, size_t n);
static bool identifier_append_domain(char *out, size_t *len,
    const char *domain);

enum identifier_status
identifier_make(const struct identifier_rules *rules, const char *name,
    size_t len, char *out)
{
	size_t n = 0;

	out[0] = '\0';
	if (len > IDENTIFIER_MAX || !identifier_octets_good(name, len))
		return IDENTIFIER_BAD;
	len = identifier_cut(rules, name, len);
	if (len == 0)
		return IDENTIFIER_EMPTY;
	if (!identifier_append(out, &n, name, len) ||
	    !identifier_append_domain(out, &n, rules->default_domain)) {
		out[0] = '\0';
		return IDENTIFIER_BAD;
	}
	identifier_fold(rules->normalize, out);
	return IDENTIFIER_OK;
}

/* Not tolower(3): a locale must not change who is looked up. */
void
identifier_fold(enum normalize normalize, char *key)
{
	const char *domain = strrchr(key, '@');
	char *from = key;

	if (normalize == NORMALIZE_NONE ||
	    (normalize == NORMALIZE_DOMAIN && domain == NULL))
		return;
	if (normalize == NORMALIZE_DOMAIN)
		from += domain - key;
	for (; *from != '\0'; from++)
		if (*from >= 'A' && *from <= 'Z')
			*from = (char)(*from - 'A' + 'a');
}

const char *
identifier_domain(const char *key)
{
	const char *at = strrchr(key, '@');

	return at == NULL || at[1] == '\0' ? NULL : at;
}

static bool
identifier_octets_good(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)name[i];

		if (c <= ' ' || c == 0x7f || c == '"')
			return false;
	}
	return true;
}

/* Returns the length of the part before the first separator. */
static size_t
identifier_cut(const struct identifier_rules *rules, const char *name,
    size_t len)
{
	for (size_t i = 0; i < rules->n_separators; i++) {
		const char *sep = rules->separators[i];
		const char *at = memmem(name, len, sep, strlen(sep));

		/* An empty separator would match everywhere. */
		if (at != NULL && sep[0] != '\0')
			len = (size_t)(at - name);
	}
	return len;
}

static bool
identifier_append(char *out, size_t *len, const char *s, size_t n)
{
	if (n > IDENTIFIER_MAX - *len)
		return false;
	memcpy(out + *len, s, n);
	*len += n;
	out[*len] = '\0';
	return true;
}

/* Appends only to a name without "@"; "" means no domain. */
static bool
identifier_append_domain(char *out, size_t *len, const char *domain)
{
	if (domain[0] == '\0' || memchr(out, '@', *len) != NULL)
		return true;
	return identifier_append(out, len, "@", 1) &&
	    identifier_append(out, len, domain, strlen(domain));
}
