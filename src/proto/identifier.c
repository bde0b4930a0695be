/* identifier.c: makes the routing key.
 *
 * The name goes into store queries, URLs, log lines and cache keys. So
 * characters that could break out of any of them are refused first, also in the
 * suffix that is removed, because the backend still gets it.
 *
 * A key in a store that no lookup ever asks for is worse than an error: its
 * user goes to the default destination, and nothing says so. */

#include "proto/identifier.h"

#include <stdint.h>
#include <string.h>

#include <idn2.h>

#define IDENTIFIER_HOST \
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

static bool identifier_octets_good(const char *name, size_t len);
static bool identifier_append(char *out, size_t *len, const char *s, size_t n);
static bool identifier_complete(const struct identifier_rules *rules, char *out,
    size_t *len);
static bool identifier_fold_domain(char *out, size_t *len);
static void identifier_cut_dots(char *out, const char *domain, size_t *len);
static bool identifier_is_ascii(const char *s);
static void identifier_fold_case(enum normalize normalize, char *key);
static bool identifier_is_plain(const struct identifier_rules *rules,
    const char *key, size_t len);
static const char *identifier_text_fault(const char *key, size_t len);
static size_t identifier_char(const unsigned char *s, size_t len,
    uint32_t *out);
static bool identifier_is_invisible(uint32_t c);
static const char *identifier_rule_fault(const struct identifier_rules *rules,
    const char *key, size_t len, char *out);

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
	    !identifier_complete(rules, out, &n) ||
	    !identifier_fold_domain(out, &n)) {
		out[0] = '\0';
		return IDENTIFIER_BAD;
	}
	identifier_fold_case(rules->normalize, out);
	return IDENTIFIER_OK;
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

/* What stands before the first separator, whichever it is. */
size_t
identifier_cut(const struct identifier_rules *rules, const char *name,
    size_t len)
{
	for (size_t i = 0; i < rules->n_separators; i++) {
		const char *sep = rules->separators[i];
		const char *at = memmem(name, len, sep, strlen(sep));

		/* An empty one would be found everywhere. */
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

/* Gives a bare name its domain. A substitute stands for the @ if there is
 * something on both of its sides; the last one does, for domains have none. */
static bool
identifier_complete(const struct identifier_rules *rules, char *out,
    size_t *len)
{
	const char *domain = rules->default_domain;

	if (memchr(out, '@', *len) != NULL)
		return true;
	for (size_t i = *len - 1; i > 1; i--) {
		if (strchr(rules->at_substitutes, out[i - 1]) != NULL) {
			out[i - 1] = '@';
			return true;
		}
	}
	return domain[0] == '\0' ||
	    (identifier_append(out, len, "@", 1) &&
		identifier_append(out, len, domain, strlen(domain)));
}

/* A domain has two spellings, and may end with a dot: one of each is looked up.
 * What is no domain stays as it is. Returns false if there is no memory or no
 * room. */
static bool
identifier_fold_domain(char *out, size_t *len)
{
	char *domain = strrchr(out, '@'), *ascii = NULL;
	bool ok = true;

	if (domain == NULL)
		return true;
	domain++;
	identifier_cut_dots(out, domain, len);
	if (identifier_is_ascii(domain))
		return true;
	if (idn2_to_ascii_8z(domain, &ascii,
		IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) == IDN2_MALLOC)
		return false;
	/* Wide forms of "@", quotes and spaces become those. */
	if (ascii != NULL && ascii[strspn(ascii, IDENTIFIER_HOST)] == '\0') {
		*len = (size_t)(domain - out);
		ok = identifier_append(out, len, ascii, strlen(ascii));
		identifier_cut_dots(out, domain, len);
	}
	idn2_free(ascii);
	return ok;
}

static void
identifier_cut_dots(char *out, const char *domain, size_t *len)
{
	while (out[*len - 1] == '.' && strlen(domain) > 1)
		out[--*len] = '\0';
}

static bool
identifier_is_ascii(const char *s)
{
	while (*s != '\0' && (unsigned char)*s < 0x80)
		s++;
	return *s == '\0';
}

/* Not tolower(3): a locale must not change who is looked up. */
static void
identifier_fold_case(enum normalize normalize, char *key)
{
	char *domain = strrchr(key, '@');
	char *from = key;

	if (normalize == NORMALIZE_NONE ||
	    (normalize == NORMALIZE_DOMAIN && domain == NULL))
		return;
	if (normalize == NORMALIZE_DOMAIN)
		from = domain;
	for (; *from != '\0'; from++)
		if (*from >= 'A' && *from <= 'Z')
			*from = (char)(*from - 'A' + 'a');
}

const char *
identifier_stored(const struct identifier_rules *rules, const char *key,
    size_t len, char *out)
{
	const char *fault;

	if (identifier_is_plain(rules, key, len)) {
		memcpy(out, key, len);
		out[len] = '\0';
		return NULL;
	}
	fault = identifier_text_fault(key, len);
	return fault != NULL ? fault
			     : identifier_rule_fault(rules, key, len, out);
}

/* Most lines of a mapping file, which may have a million. */
static bool
identifier_is_plain(const struct identifier_rules *rules, const char *key,
    size_t len)
{
	bool at = false;

	if (len == 0 || len > IDENTIFIER_MAX || rules->n_separators > 0 ||
	    key[0] == '#' || key[len - 1] == '.')
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)key[i];

		if (c <= ' ' || c >= 0x7f || c == '"' || (c >= 'A' && c <= 'Z'))
			return false;
		at |= c == '@';
	}
	return at;
}

/* What is wrong whatever the configuration says. A login may send some of this;
 * nobody who writes it into a store means it. */
static const char *
identifier_text_fault(const char *key, size_t len)
{
	const unsigned char *s = (const unsigned char *)key;
	uint32_t c = 0;

	if (len == 0)
		return "it is empty";
	if (len > IDENTIFIER_MAX)
		return "it is too long";
	if (len >= 3 && memcmp(key, "\xef\xbb\xbf", 3) == 0)
		return "it begins with a byte-order mark";
	if (key[0] == '#')
		return "it begins with a #, as comments do";
	for (size_t i = 0, n; i < len; i += n) {
		n = identifier_char(s + i, len - i, &c);
		if (n == 0)
			return "it is not UTF-8";
		if (c == ' ' || (c >= '\t' && c <= '\r'))
			return "it holds white space";
		if (c < ' ' || (c >= 0x7f && c < 0xa0))
			return "it holds a control character";
		if (c == '"')
			return "it holds a double quote";
		if (identifier_is_invisible(c))
			return "it holds a character that cannot be seen";
	}
	return NULL;
}

/* Returns the length of the UTF-8 character at s, or 0. */
static size_t
identifier_char(const unsigned char *s, size_t len, uint32_t *out)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80 ? 1
	    : s[0] >= 0xf0     ? 4
	    : s[0] >= 0xe0     ? 3
	    : s[0] >= 0xc2     ? 2
			       : 0;

	if (n == 0 || n > len || s[0] > 0xf4)
		return 0;
	*out = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*out = *out << 6 | (s[i] & 0x3f);
	}
	if (*out < least[n] || *out > 0x10ffff ||
	    (*out >= 0xd800 && *out <= 0xdfff))
		return 0;
	return n;
}

/* Spaces other than ASCII's, and what has no width: copied from a web page or
 * a spreadsheet. */
static bool
identifier_is_invisible(uint32_t c)
{
	return c == 0xa0 || c == 0xad || c == 0x1680 || c == 0x180e ||
	    (c >= 0x2000 && c <= 0x200f) || (c >= 0x2028 && c <= 0x202f) ||
	    (c >= 0x205f && c <= 0x206f) || c == 0x3000 || c == 0xfeff;
}

/* What this configuration makes something else of. */
static const char *
identifier_rule_fault(const struct identifier_rules *rules, const char *key,
    size_t len, char *out)
{
	const struct identifier_rules as_is = {.at_substitutes = "",
	    .default_domain = "",
	    .normalize = NORMALIZE_NONE};
	char folded[IDENTIFIER_MAX + 1];

	if (identifier_cut(rules, key, len) != len)
		return "it holds one of routing.master_user_separators";
	if (identifier_make(rules, key, len, out) != IDENTIFIER_OK ||
	    identifier_make(&as_is, key, len, folded) != IDENTIFIER_OK)
		return "it is too long";
	if (strcmp(out, folded) == 0)
		return NULL;
	if (memchr(key, '@', len) != NULL)
		return "it has capital letters (mapping.normalize)";
	if (strpbrk(folded, rules->at_substitutes) != NULL)
		return "it holds one of routing.at_substitutes and no @";
	if (rules->default_domain[0] != '\0')
		return "it has no @ (routing.default_domain)";
	return "it has capital letters (mapping.normalize)";
}
