/* sasl.c: the messages of the four mechanisms.
 *
 * The frame goes to the backend unchanged; this file reads the account from it.
 * If two readers could read a frame differently (one NUL too many, a duplicate
 * key), it could be routed for one account and accepted for another, so it is
 * refused. */

#include "proto/sasl.h"

#include <string.h>
#include <strings.h>

/* RFC 7628 knows seven keys. No honest frame has more than this, and the limit
 * keeps the search for duplicates short. */
#define SASL_PAIRS_MAX 16

#define SASL_KVSEP '\x01'

static const char *const sasl_names[] = {
    "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"};
_Static_assert(ARRAY_LEN(sasl_names) == SASL_MECHANISMS, "unnamed mechanism");

struct sasl_slice {
	const char *data;
	size_t len;
};

struct sasl_pairs {
	struct sasl_slice key[SASL_PAIRS_MAX];
	struct sasl_slice value[SASL_PAIRS_MAX];
	size_t n;
};

static bool sasl_gs2_header_parse(const char **frame, const char *end,
    struct sasl_slice *authzid_out);
static bool sasl_gs2_decode(const char *name, size_t len, char *out,
    size_t *len_out);
static bool sasl_pairs_parse(const char *frame, const char *end,
    struct sasl_pairs *pairs);
static bool sasl_pair_add(struct sasl_pairs *pairs, const char *start,
    const char *end);
static bool sasl_key_good(const struct sasl_pairs *pairs, const char *key,
    size_t len);
static const struct sasl_slice *sasl_pair_find(const struct sasl_pairs *pairs,
    const char *key);
static bool sasl_token_parse(const struct sasl_slice *auth,
    struct sasl_bearer *out);

const char *
sasl_name(enum sasl_mechanism mech)
{
	return sasl_names[mech];
}

bool
sasl_mechanism_find(const char *name, size_t len, enum sasl_mechanism *mech_out)
{
	for (size_t i = 0; i < ARRAY_LEN(sasl_names); i++) {
		if (len == strlen(sasl_names[i]) &&
		    strncasecmp(name, sasl_names[i], len) == 0) {
			*mech_out = (enum sasl_mechanism)i;
			return true;
		}
	}
	return false;
}

bool
sasl_plain_parse(const char *frame, size_t len, struct sasl_plain *out)
{
	const char *end = frame + len, *first, *second;

	memset(out, 0, sizeof(*out));
	first = len > 0 ? memchr(frame, '\0', len) : NULL;
	if (first == NULL)
		return false;
	second = memchr(first + 1, '\0', (size_t)(end - first - 1));
	if (second == NULL || second == first + 1 ||
	    memchr(second + 1, '\0', (size_t)(end - second - 1)) != NULL)
		return false;
	out->authzid = frame;
	out->authzid_len = (size_t)(first - frame);
	out->authcid = first + 1;
	out->authcid_len = (size_t)(second - first - 1);
	out->password = second + 1;
	out->password_len = (size_t)(end - second - 1);
	return true;
}

bool
sasl_bearer_parse(enum sasl_mechanism mech, const char *frame, size_t len,
    struct sasl_bearer *out)
{
	const char *end = frame + len;
	const struct sasl_slice *auth, *user;
	struct sasl_slice authzid;
	struct sasl_pairs pairs;

	memset(out, 0, sizeof(*out));
	if (mech == SASL_OAUTHBEARER &&
	    !sasl_gs2_header_parse(&frame, end, &authzid))
		return false;
	if (!sasl_pairs_parse(frame, end, &pairs))
		return false;
	user = mech == SASL_OAUTHBEARER ? &authzid
					: sasl_pair_find(&pairs, "user");
	auth = sasl_pair_find(&pairs, "auth");
	if (auth == NULL || !sasl_token_parse(auth, out))
		return false;
	/* XOAUTH2 without "user=": the token says who. */
	out->user = user != NULL ? user->data : frame;
	out->user_len = user != NULL ? user->len : 0;
	return true;
}

bool
sasl_gs2_name_decode(const char *name, size_t len, char *out, size_t *len_out)
{
	return sasl_gs2_decode(name, len, out, len_out);
}

/* Parses "n,a=NAME," and the first separator; moves *frame after it. */
static bool
sasl_gs2_header_parse(const char **frame, const char *end,
    struct sasl_slice *authzid_out)
{
	const char *p = *frame, *comma;
	size_t decoded_len;

	/* "p=" would bind the login to a TLS channel that ends here. */
	if (end - p < 2 || (p[0] != 'n' && p[0] != 'y') || p[1] != ',')
		return false;
	p += 2;
	comma = memchr(p, ',', (size_t)(end - p));
	if (comma == NULL || end - comma < 2 || comma[1] != SASL_KVSEP ||
	    memchr(p, SASL_KVSEP, (size_t)(comma - p)) != NULL)
		return false;
	if (comma != p && (comma - p < 2 || memcmp(p, "a=", 2) != 0))
		return false;
	authzid_out->data = comma != p ? p + 2 : p;
	authzid_out->len = (size_t)(comma - authzid_out->data);
	*frame = comma + 2;
	return sasl_gs2_decode(authzid_out->data, authzid_out->len, NULL,
	    &decoded_len);
}

/* Only checks if out is NULL. */
static bool
sasl_gs2_decode(const char *name, size_t len, char *out, size_t *len_out)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (c == '=') {
			if (len - i < 3)
				return false;
			if (memcmp(name + i, "=2C", 3) == 0)
				c = ',';
			else if (memcmp(name + i, "=3D", 3) != 0)
				return false;
			i += 2;
		}
		if (out != NULL)
			out[n] = c;
		n++;
	}
	*len_out = n;
	return true;
}

/* Parses *(key "=" value kvsep) kvsep, and nothing after it. */
static bool
sasl_pairs_parse(const char *frame, const char *end, struct sasl_pairs *pairs)
{
	pairs->n = 0;
	while (frame < end) {
		const char *sep =
		    memchr(frame, SASL_KVSEP, (size_t)(end - frame));

		if (sep == NULL)
			return false;
		if (sep == frame)
			return sep + 1 == end;
		if (!sasl_pair_add(pairs, frame, sep))
			return false;
		frame = sep + 1;
	}
	return false;
}

static bool
sasl_pair_add(struct sasl_pairs *pairs, const char *start, const char *end)
{
	const char *equals = memchr(start, '=', (size_t)(end - start));

	if (pairs->n == SASL_PAIRS_MAX || equals == NULL ||
	    !sasl_key_good(pairs, start, (size_t)(equals - start)))
		return false;
	pairs->key[pairs->n].data = start;
	pairs->key[pairs->n].len = (size_t)(equals - start);
	pairs->value[pairs->n].data = equals + 1;
	pairs->value[pairs->n].len = (size_t)(end - equals - 1);
	pairs->n++;
	return true;
}

/* Returns true for letters that are not a key seen before, in any case, because
 * the backend may ignore the case. */
static bool
sasl_key_good(const struct sasl_pairs *pairs, const char *key, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!((key[i] >= 'a' && key[i] <= 'z') ||
			(key[i] >= 'A' && key[i] <= 'Z')))
			return false;
	for (size_t i = 0; i < pairs->n; i++)
		if (pairs->key[i].len == len &&
		    strncasecmp(pairs->key[i].data, key, len) == 0)
			return false;
	return len > 0;
}

static const struct sasl_slice *
sasl_pair_find(const struct sasl_pairs *pairs, const char *key)
{
	for (size_t i = 0; i < pairs->n; i++)
		if (pairs->key[i].len == strlen(key) &&
		    memcmp(pairs->key[i].data, key, strlen(key)) == 0)
			return &pairs->value[i];
	return NULL;
}

/* Parses "Bearer" 1*SP token (RFC 6750). */
static bool
sasl_token_parse(const struct sasl_slice *auth, struct sasl_bearer *out)
{
	static const char scheme[] = "Bearer ";
	const size_t n = sizeof(scheme) - 1;

	if (auth->len < n || strncasecmp(auth->data, scheme, n) != 0)
		return false;
	out->token = auth->data + n;
	out->token_len = auth->len - n;
	while (out->token_len > 0 && *out->token == ' ') {
		out->token++;
		out->token_len--;
	}
	return out->token_len > 0;
}
