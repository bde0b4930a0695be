/* fuzz_sasl.c: any octets as base64 and as the frame of each mechanism.
 *
 * A text that decodes is the one text for its octets; a frame that is taken
 * can be put together again from its parts. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base64.h"
#include "proto/sasl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static char *octets_copy(const void *data, size_t size);
static bool slice_inside(const char *slice, size_t n, const char *frame,
    size_t len);
static void try_text(const char *text, size_t len);
static void try_octets(const char *octets, size_t len);
static void try_frame(const char *frame, size_t len);
static void try_plain(const char *frame, size_t len);
static void try_bearer(enum sasl_mechanism mech, const char *frame, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = octets_copy(data, size);

	if (text == NULL)
		return 0;
	try_text(text, size);
	try_octets(text, size);
	try_frame(text, size);
	free(text);
	return 0;
}

static char *
octets_copy(const void *data, size_t size)
{
	char *copy = malloc(size > 0 ? size : 1);

	if (copy != NULL && size > 0)
		memcpy(copy, data, size);
	return copy;
}

static bool
slice_inside(const char *slice, size_t n, const char *frame, size_t len)
{
	return slice >= frame && slice <= frame + len &&
	    n <= (size_t)(frame + len - slice);
}

static void
try_text(const char *text, size_t len)
{
	char *out = malloc(BASE64_DECODED_MAX(len));
	char *again = malloc(BASE64_ENCODED_MAX(BASE64_DECODED_MAX(len)));
	char *frame;
	size_t n;

	if (out != NULL && again != NULL) {
		if (base64_decode(text, len, out, &n)) {
			assert(base64_encode(out, n, again) == len);
			assert(memcmp(again, text, len) == 0);
			frame = octets_copy(out, n);
			if (frame != NULL)
				try_frame(frame, n);
			free(frame);
		}
		if (base64url_decode(text, len, out, &n))
			assert(n <= len / 4 * 3 + 2);
	}
	free(again);
	free(out);
}

static void
try_octets(const char *octets, size_t len)
{
	char *text = malloc(BASE64_ENCODED_MAX(len)), *out = NULL;
	size_t n, text_len;

	if (text != NULL) {
		text_len = base64_encode(octets, len, text);
		assert(text_len + 1 == BASE64_ENCODED_MAX(len));
		assert(text[text_len] == '\0');
		out = malloc(BASE64_DECODED_MAX(text_len));
		if (out != NULL) {
			assert(base64_decode(text, text_len, out, &n));
			assert(n == len && memcmp(out, octets, n) == 0);
		}
	}
	free(out);
	free(text);
}

static void
try_frame(const char *frame, size_t len)
{
	enum sasl_mechanism mech;

	if (sasl_mechanism_find(frame, len, &mech))
		assert(strlen(sasl_name(mech)) == len);
	try_plain(frame, len);
	try_bearer(SASL_OAUTHBEARER, frame, len);
	try_bearer(SASL_XOAUTH2, frame, len);
}

static void
try_plain(const char *frame, size_t len)
{
	struct sasl_plain p;

	if (!sasl_plain_parse(frame, len, &p))
		return;
	assert(p.authzid == frame);
	assert(p.authcid == frame + p.authzid_len + 1 && p.authcid[-1] == '\0');
	assert(p.password == p.authcid + p.authcid_len + 1);
	assert(p.password[-1] == '\0' && p.authcid_len > 0);
	assert(p.authzid_len + p.authcid_len + p.password_len + 2 == len);
	assert(memchr(p.password, '\0', p.password_len) == NULL);
}

static void
try_bearer(enum sasl_mechanism mech, const char *frame, size_t len)
{
	struct sasl_bearer b;
	char *name;
	size_t n;

	if (!sasl_bearer_parse(mech, frame, len, &b))
		return;
	assert(slice_inside(b.user, b.user_len, frame, len));
	assert(slice_inside(b.token, b.token_len, frame, len));
	assert(b.token_len > 0 && b.token[0] != ' ');
	assert(b.token[b.token_len] == '\x01');
	assert(memchr(b.token, '\x01', b.token_len) == NULL);
	assert(memchr(b.user, '\x01', b.user_len) == NULL);
	assert(frame[len - 1] == '\x01' && frame[len - 2] == '\x01');
	if (mech != SASL_OAUTHBEARER)
		return;
	name = malloc(b.user_len > 0 ? b.user_len : 1);
	if (name != NULL) {
		assert(sasl_gs2_name_decode(b.user, b.user_len, name, &n));
		assert(n <= b.user_len);
	}
	free(name);
}
