/* fuzz_sasl_exchange.c: AUTH exchanges of any lines.
 *
 * The first octet picks the mechanism and whether there is an initial
 * response; the rest is lines. Whatever they are: an exchange prompts at most
 * three times, ends empty-handed or with credentials that name a mechanism,
 * and holds no secret afterwards. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/sasl_exchange.h"

#define PROMPTS_MAX 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void ended(const struct sasl_exchange *x, enum sasl_step step,
    struct sasl_outcome *out);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sasl_exchange x = {.wait = SASL_WAIT_MESSAGE};
	const char *p = (const char *)data + 1;
	size_t left = size - 1, len;
	struct sasl_outcome out;
	enum sasl_step step;
	int prompts = 0;

	if (size == 0)
		return 0;
	step = sasl_exchange_start(&x,
	    (enum sasl_mechanism)(data[0] % SASL_MECHANISMS), NULL, 0, &out);
	while (step == SASL_STEP_PROMPT) {
		const char *lf = left > 0 ? memchr(p, '\n', left) : NULL;

		assert(++prompts <= PROMPTS_MAX);
		len = lf != NULL ? (size_t)(lf - p) : left;
		if (lf == NULL && left == 0)
			break;
		if (data[0] & 4 && prompts == 1)
			step = sasl_exchange_start(&x, x.mech, p, len, &out);
		else
			step = sasl_exchange_line(&x, p, len, &out);
		p += len + (lf != NULL);
		left -= len + (lf != NULL);
	}
	ended(&x, step, &out);
	sasl_exchange_clear(&x);
	return 0;
}

static void
ended(const struct sasl_exchange *x, enum sasl_step step,
    struct sasl_outcome *out)
{
	if (step == SASL_STEP_DONE) {
		assert(out->cred.how != NULL && out->cred.frame.data != NULL);
		assert(out->cred.mech != SASL_LOGIN);
	} else {
		assert(out->cred.frame.data == NULL);
		assert(out->cred.bearer.data == NULL);
	}
	if (step != SASL_STEP_PROMPT)
		assert(x->name.data == NULL);
	if (step == SASL_STEP_MALFORMED)
		assert(out->why != NULL);
	credentials_clear(&out->cred);
}
