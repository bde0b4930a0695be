/* fuzz_identifier.c: any octets as a name, under rules that the first octet
 * chooses.
 *
 * A key is clean, short, and a name that makes the same key again. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/identifier.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void try_name(const struct identifier_rules *rules, const char *name,
    size_t len);
static void key_check(const struct identifier_rules *rules, const char *key);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char percent[] = "%", pluses[] = "++", slash[] = "/";
	static char *const separators[] = {percent, pluses, slash};
	struct identifier_rules rules = {.separators = separators};
	char *name;

	if (size == 0)
		return 0;
	rules.n_separators = data[0] & 3;
	rules.at_substitutes = data[0] & 32 ? "%+" : "";
	rules.default_domain = data[0] & 4 ? "Example.test" : "";
	rules.normalize = (data[0] >> 3 & 3) % 3;
	name = malloc(size);
	if (name != NULL) {
		/* One too many, so that the copy ends with the name. */
		memcpy(name + 1, data + 1, size - 1);
		try_name(&rules, name + 1, size - 1);
	}
	free(name);
	return 0;
}

static void
try_name(const struct identifier_rules *rules, const char *name, size_t len)
{
	char *key = malloc(IDENTIFIER_MAX + 1);
	enum identifier_status status;

	if (key == NULL)
		return;
	status = identifier_make(rules, name, len, key);
	if (status == IDENTIFIER_OK)
		key_check(rules, key);
	else
		assert(key[0] == '\0');
	if (status == IDENTIFIER_EMPTY)
		assert(len == 0 || rules->n_separators > 0);
	free(key);
}

static void
key_check(const struct identifier_rules *rules, const char *key)
{
	size_t len = strlen(key);
	const char *domain = identifier_domain(key);
	char again[IDENTIFIER_MAX + 1];

	assert(len > 0 && len <= IDENTIFIER_MAX);
	for (size_t i = 0; i < len; i++) {
		assert((unsigned char)key[i] > ' ' && key[i] != '"');
		assert(key[i] != 0x7f);
		if (rules->normalize == NORMALIZE_LOWERCASE)
			assert(key[i] < 'A' || key[i] > 'Z');
	}
	for (size_t i = 0; i < rules->n_separators; i++)
		assert(strstr(key, rules->separators[i]) == NULL);
	if (rules->default_domain[0] != '\0')
		assert(strchr(key, '@') != NULL);
	if (domain != NULL)
		assert(domain[0] == '@' && domain[1] != '\0' &&
		    strchr(domain + 1, '@') == NULL);
	assert(identifier_make(rules, key, len, again) == IDENTIFIER_OK);
	assert(strcmp(key, again) == 0);
	if (identifier_stored(rules, key, len, again) == NULL)
		assert(strcmp(key, again) == 0);
}
