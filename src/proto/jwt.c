/* jwt.c: reads the account from a bearer token.
 *
 * The token is untrusted until a backend has validated it. So its size and depth
 * are checked before jansson, which recurses, parses it. A forged token can only
 * choose the backend of its own login attempt. */

#include "proto/jwt.h"

#include <string.h>

#include <jansson.h>

#include "platform/secret.h"
#include "proto/base64.h"

#define JWT_TOKEN_MAX 65536 /* the longest line that is read */
#define JWT_DEPTH_MAX 8

static void jwt_wipe_jansson(void) __attribute__((constructor));
static bool jwt_payload(const char *token, size_t len, const char **part_out,
    size_t *part_len_out);
static bool jwt_sw1_address(const char *token, size_t len,
    const char **part_out, size_t *part_len_out);
static bool jwt_claims_account(const char *json, size_t len,
    const char *first_claim, char *out, size_t size);
static bool jwt_depth_good(const char *json, size_t len);
static bool jwt_claim(const json_t *claims, const char *name, char *out,
    size_t size);
static bool jwt_take_address(const char *s, size_t len, char *out, size_t size);
static bool jwt_address_good(const char *s, size_t len);

/* By default jansson frees its copies of the claims without wiping them. This
 * can be changed only for the whole process and not while threads use jansson,
 * so it is changed before main(). secret_free() accepts memory from malloc(3),
 * and free(3) accepts memory from secret_malloc(). */
static void
jwt_wipe_jansson(void)
{
	json_set_alloc_funcs(secret_malloc, secret_free);
}

bool
jwt_account(const char *token, size_t len, const char *first_claim, char *out,
    size_t size)
{
	struct secret plain = {0};
	const char *part;
	size_t part_len;
	bool found, sw1;

	if (len > JWT_TOKEN_MAX)
		return false;
	sw1 = jwt_sw1_address(token, len, &part, &part_len);
	if (!sw1 && !jwt_payload(token, len, &part, &part_len))
		return false;
	if (!secret_reserve(&plain, BASE64_DECODED_MAX(part_len)))
		return false;
	if (!base64url_decode(part, part_len, plain.data, &len))
		found = false;
	else if (sw1)
		found = jwt_take_address(plain.data, len, out, size);
	else
		found =
		    jwt_claims_account(plain.data, len, first_claim, out, size);
	secret_clear(&plain);
	return found;
}

/* "sw1.ANYTHING.ADDRESS" */
static bool
jwt_sw1_address(const char *token, size_t len, const char **part_out,
    size_t *part_len_out)
{
	const char *dot;

	if (len < 4 || memcmp(token, "sw1.", 4) != 0)
		return false;
	dot = memrchr(token, '.', len);
	*part_out = dot + 1;
	*part_len_out = len - (size_t)(dot + 1 - token);
	return true;
}

/* "HEADER.PAYLOAD.SIGNATURE": two dots (an encrypted one has four). */
static bool
jwt_payload(const char *token, size_t len, const char **part_out,
    size_t *part_len_out)
{
	const char *end = token + len, *first, *second;

	first = len > 0 ? memchr(token, '.', len) : NULL;
	if (first == NULL)
		return false;
	first++;
	second = memchr(first, '.', (size_t)(end - first));
	if (second == NULL ||
	    memchr(second + 1, '.', (size_t)(end - second - 1)) != NULL)
		return false;
	*part_out = first;
	*part_len_out = (size_t)(second - first);
	return true;
}

static bool
jwt_claims_account(const char *json, size_t len, const char *first_claim,
    char *out, size_t size)
{
	static const char *const usual[] = {
	    "email", "preferred_username", "upn", "unique_name", "sub"};
	json_t *claims;
	bool found;

	if (!jwt_depth_good(json, len))
		return false;
	/* A duplicate name does not fail the login: the last one counts. */
	claims = json_loadb(json, len, 0, NULL);
	if (claims == NULL)
		return false;
	/* json_object_get() returns NULL for an array or a number. */
	found =
	    first_claim[0] != '\0' && jwt_claim(claims, first_claim, out, size);
	for (size_t i = 0; i < ARRAY_LEN(usual) && !found; i++)
		found = jwt_claim(claims, usual[i], out, size);
	json_decref(claims);
	return found;
}

/* Counts brackets outside strings. While the text is JSON this is its depth;
 * where it stops being JSON, the parser stops as well. */
static bool
jwt_depth_good(const char *json, size_t len)
{
	bool in_string = false;
	int depth = 0;

	for (size_t i = 0; i < len; i++) {
		if (in_string && json[i] == '\\')
			i++;
		else if (json[i] == '"')
			in_string = !in_string;
		else if (in_string)
			continue;
		else if (json[i] == '{' || json[i] == '[')
			depth++;
		else if (json[i] == '}' || json[i] == ']')
			depth--;
		if (depth > JWT_DEPTH_MAX)
			return false;
	}
	return true;
}

static bool
jwt_claim(const json_t *claims, const char *name, char *out, size_t size)
{
	const json_t *value = json_object_get(claims, name);

	return json_is_string(value) &&
	    jwt_take_address(json_string_value(value),
		json_string_length(value), out, size);
}

static bool
jwt_take_address(const char *s, size_t len, char *out, size_t size)
{
	if (len >= size || !jwt_address_good(s, len))
		return false;
	memcpy(out, s, len);
	out[len] = '\0';
	return true;
}

static bool
jwt_address_good(const char *s, size_t len)
{
	const char *at = len > 0 ? memchr(s, '@', len) : NULL;
	size_t ats = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c <= ' ' || c == 0x7f || c == '"')
			return false;
		ats += c == '@';
	}
	return ats == 1 && at > s && at < s + len - 1;
}
