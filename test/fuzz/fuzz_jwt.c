/* fuzz_jwt.c: any octets as a token, as its claims, and behind "sw1.".
 *
 * Whatever comes out is a terminated address that fits. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base64.h"
#include "proto/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void try_token(const char *token, size_t len);
static void try_encoded(const char *prefix, const void *data, size_t size,
    const char *suffix);
static void address_check(const char *address, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *token = malloc(size > 0 ? size : 1);

	if (token != NULL) {
		if (size > 0)
			memcpy(token, data, size);
		try_token(token, size);
	}
	free(token);
	try_encoded("e30.", data, size, ".c2ln");
	try_encoded("sw1.", data, size, "");
	return 0;
}

static void
try_token(const char *token, size_t len)
{
	static const size_t sizes[] = {256, 8, 1};

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		char *out = malloc(sizes[i]);

		if (out != NULL &&
		    jwt_account(token, len, "mailbox", out, sizes[i]))
			address_check(out, sizes[i]);
		free(out);
	}
}

/* So that the fuzzer reaches the JSON without learning base64. */
static void
try_encoded(const char *prefix, const void *data, size_t size,
    const char *suffix)
{
	size_t start = strlen(prefix), end = strlen(suffix), len;
	char *text = malloc(start + BASE64_ENCODED_MAX(size) + end), *token;

	if (text == NULL)
		return;
	memcpy(text, prefix, start);
	len = start + base64_encode(data, size, text + start);
	for (size_t i = start; i < len; i++) {
		if (text[i] == '+')
			text[i] = '-';
		else if (text[i] == '/')
			text[i] = '_';
	}
	memcpy(text + len, suffix, end);
	len += end;
	token = malloc(len);
	if (token != NULL) {
		memcpy(token, text, len);
		try_token(token, len);
	}
	free(token);
	free(text);
}

static void
address_check(const char *address, size_t size)
{
	size_t len = strnlen(address, size);
	const char *at = strchr(address, '@');

	assert(len < size);
	assert(at != NULL && at > address && at[1] != '\0');
	assert(strchr(at + 1, '@') == NULL);
	for (size_t i = 0; i < len; i++)
		assert((unsigned char)address[i] > ' ' && address[i] != '"' &&
		    address[i] != 0x7f);
}
