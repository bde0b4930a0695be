/* sasl_exchange.c: PLAIN, LOGIN, OAUTHBEARER and XOAUTH2 from the server's
 * side.
 *
 * LOGIN becomes a PLAIN frame here, so that the rest of the program knows only
 * one kind of password login. The account is read from a bearer frame, and the
 * frame is kept in the client's own base64, because the backend checks every
 * byte. */

#include "proto/sasl_exchange.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base64.h"
#include "proto/jwt.h"

/* The draft's prompts, "Username:" and "Password:", in base64. */
#define SASL_PROMPT_NAME "VXNlcm5hbWU6"
#define SASL_PROMPT_PASSWORD "UGFzc3dvcmQ6"

static bool credentials_hold(const char *text, size_t len, const char *secret,
    size_t n);
static bool credentials_hold_base64(const char *text, size_t len,
    const char *secret, size_t n);
static enum sasl_step sasl_exchange_prompt(struct sasl_exchange *x,
    enum sasl_wait wait, struct sasl_outcome *out);
static enum sasl_step sasl_exchange_malformed(struct sasl_exchange *x,
    const char *why, struct sasl_outcome *out);
static enum sasl_step sasl_exchange_message(struct sasl_exchange *x,
    const char *line, size_t len, struct secret *frame,
    struct sasl_outcome *out);
static enum sasl_step sasl_exchange_name(struct sasl_exchange *x,
    struct secret *frame, struct sasl_outcome *out);
static enum sasl_step sasl_exchange_password(struct sasl_exchange *x,
    const struct secret *frame, struct sasl_outcome *out);
static enum sasl_step sasl_exchange_plain(struct sasl_exchange *x,
    struct secret *frame, struct sasl_outcome *out);
static enum sasl_step sasl_exchange_bearer(struct sasl_exchange *x,
    const char *line, size_t len, struct secret *frame,
    struct sasl_outcome *out);
static bool sasl_bearer_name(enum sasl_mechanism mech,
    const struct sasl_bearer *bearer, struct secret *name_out);
static bool sasl_decode(const char *line, size_t len, struct secret *frame);

void
credentials_clear(struct credentials *cred)
{
	secret_clear(&cred->frame);
	secret_clear(&cred->bearer);
	secret_clear(&cred->name);
}

void
credentials_move(struct credentials *to, struct credentials *from)
{
	credentials_clear(to);
	*to = *from;
	memset(from, 0, sizeof(*from));
}

bool
credentials_set_password(struct credentials *cred, const char *how,
    const char *name, size_t name_len, const char *password,
    size_t password_len)
{
	char *p;

	cred->how = how;
	cred->mech = SASL_PLAIN;
	secret_clear(&cred->bearer);
	if (!secret_set(&cred->name, name, name_len) ||
	    !secret_reserve(&cred->frame, name_len + password_len + 2)) {
		credentials_clear(cred);
		return false;
	}
	p = cred->frame.data;
	*p++ = '\0';
	memcpy(p, name, name_len);
	p += name_len;
	*p++ = '\0';
	memcpy(p, password, password_len);
	return true;
}

bool
credentials_token_account(const struct credentials *cred,
    const char *first_claim, char *out, size_t size)
{
	struct sasl_bearer bearer;

	return cred->bearer.len > 0 &&
	    sasl_bearer_parse(cred->mech, cred->bearer.data, cred->bearer.len,
		&bearer) &&
	    jwt_account(bearer.token, bearer.token_len, first_claim, out, size);
}

bool
credentials_repeated(const struct credentials *cred, const char *text,
    size_t len)
{
	const struct secret *frame = &cred->frame;
	struct sasl_bearer bearer;
	struct sasl_plain p;

	if (frame->len == 0)
		return false;
	if (credentials_hold(text, len, frame->data, frame->len))
		return true;
	if (cred->mech == SASL_PLAIN)
		return sasl_plain_parse(frame->data, frame->len, &p) &&
		    (credentials_hold(text, len, p.password, p.password_len) ||
			credentials_hold_base64(text, len, p.password,
			    p.password_len) ||
			credentials_hold_base64(text, len, frame->data,
			    frame->len));
	return cred->bearer.len > 0 &&
	    sasl_bearer_parse(cred->mech, cred->bearer.data, cred->bearer.len,
		&bearer) &&
	    credentials_hold(text, len, bearer.token, bearer.token_len);
}

/* Whether text holds the secret: a short one only as a whole word, for "a" or
 * "in" stand in every sentence. */
static bool
credentials_hold(const char *text, size_t len, const char *secret, size_t n)
{
	for (size_t i = 0; n > 0 && i + n <= len; i++)
		if (memcmp(text + i, secret, n) == 0 &&
		    (n > 3 ||
			((i == 0 || text[i - 1] == ' ') &&
			    (i + n == len || text[i + n] == ' '))))
			return true;
	return false;
}

static bool
credentials_hold_base64(const char *text, size_t len, const char *secret,
    size_t n)
{
	struct secret b64 = {NULL, 0};
	bool held;

	if (n == 0)
		return false;
	if (!secret_reserve(&b64, BASE64_ENCODED_MAX(n)))
		return true;
	held = credentials_hold(text, len, b64.data,
	    base64_encode(secret, n, b64.data));
	secret_clear(&b64);
	return held;
}

char *
credentials_authcid(const struct credentials *cred)
{
	struct sasl_plain p;

	if (cred->mech != SASL_PLAIN || cred->frame.len == 0 ||
	    !sasl_plain_parse(cred->frame.data, cred->frame.len, &p) ||
	    p.authzid_len == 0 ||
	    (p.authzid_len == p.authcid_len &&
		memcmp(p.authzid, p.authcid, p.authzid_len) == 0))
		return NULL;
	return strndup(p.authcid, p.authcid_len);
}

enum sasl_step
sasl_exchange_start(struct sasl_exchange *x, enum sasl_mechanism mech,
    const char *ir, size_t len, struct sasl_outcome *out)
{
	sasl_exchange_clear(x);
	x->mech = mech;
	x->wait = mech == SASL_LOGIN ? SASL_WAIT_NAME : SASL_WAIT_MESSAGE;
	memset(out, 0, sizeof(*out));
	if (ir == NULL)
		return sasl_exchange_prompt(x, x->wait, out);
	if (len == 1 && ir[0] == '=')
		len = 0;
	return sasl_exchange_line(x, ir, len, out);
}

enum sasl_step
sasl_exchange_line(struct sasl_exchange *x, const char *line, size_t len,
    struct sasl_outcome *out)
{
	struct secret frame = {NULL, 0};
	enum sasl_step step;

	memset(out, 0, sizeof(*out));
	if (len == 1 && line[0] == '*') {
		sasl_exchange_clear(x);
		return SASL_STEP_CANCELLED;
	}
	if (!secret_reserve(&frame, BASE64_DECODED_MAX(len)))
		return SASL_STEP_NO_MEMORY;
	if (sasl_decode(line, len, &frame))
		step = sasl_exchange_message(x, line, len, &frame, out);
	else
		step = sasl_exchange_malformed(x, "bad base64", out);
	secret_clear(&frame);
	return step;
}

void
sasl_exchange_clear(struct sasl_exchange *x)
{
	secret_clear(&x->name);
	x->wait = SASL_WAIT_MESSAGE;
}

static enum sasl_step
sasl_exchange_prompt(struct sasl_exchange *x, enum sasl_wait wait,
    struct sasl_outcome *out)
{
	static const char *const prompts[] = {
	    [SASL_WAIT_MESSAGE] = "",
	    [SASL_WAIT_NAME] = SASL_PROMPT_NAME,
	    [SASL_WAIT_PASSWORD] = SASL_PROMPT_PASSWORD,
	};

	x->wait = wait;
	out->prompt = prompts[wait];
	return SASL_STEP_PROMPT;
}

static enum sasl_step
sasl_exchange_malformed(struct sasl_exchange *x, const char *why,
    struct sasl_outcome *out)
{
	sasl_exchange_clear(x);
	out->why = why;
	return SASL_STEP_MALFORMED;
}

/* line: the base64 of frame, unchanged. Moves frame away if it is used. */
static enum sasl_step
sasl_exchange_message(struct sasl_exchange *x, const char *line, size_t len,
    struct secret *frame, struct sasl_outcome *out)
{
	switch (x->wait) {
	case SASL_WAIT_NAME:
		return sasl_exchange_name(x, frame, out);
	case SASL_WAIT_PASSWORD:
		return sasl_exchange_password(x, frame, out);
	case SASL_WAIT_MESSAGE:
		break;
	}
	if (x->mech == SASL_PLAIN)
		return sasl_exchange_plain(x, frame, out);
	return sasl_exchange_bearer(x, line, len, frame, out);
}

static enum sasl_step
sasl_exchange_name(struct sasl_exchange *x, struct secret *frame,
    struct sasl_outcome *out)
{
	if (frame->len == 0 || memchr(frame->data, '\0', frame->len) != NULL)
		return sasl_exchange_malformed(x,
		    "LOGIN: no acceptable user name", out);
	secret_move(&x->name, frame);
	return sasl_exchange_prompt(x, SASL_WAIT_PASSWORD, out);
}

static enum sasl_step
sasl_exchange_password(struct sasl_exchange *x, const struct secret *frame,
    struct sasl_outcome *out)
{
	bool ok;

	if (frame->len > 0 && memchr(frame->data, '\0', frame->len) != NULL)
		return sasl_exchange_malformed(x, "LOGIN: NUL in the password",
		    out);
	ok = credentials_set_password(&out->cred, sasl_name(SASL_LOGIN),
	    x->name.data, x->name.len, frame->data, frame->len);
	sasl_exchange_clear(x);
	return ok ? SASL_STEP_DONE : SASL_STEP_NO_MEMORY;
}

static enum sasl_step
sasl_exchange_plain(struct sasl_exchange *x, struct secret *frame,
    struct sasl_outcome *out)
{
	struct sasl_plain p;
	bool other;

	if (!sasl_plain_parse(frame->data, frame->len, &p))
		return sasl_exchange_malformed(x, "PLAIN: malformed message",
		    out);
	other = p.authzid_len > 0;
	if (!secret_set(&out->cred.name, other ? p.authzid : p.authcid,
		other ? p.authzid_len : p.authcid_len))
		return SASL_STEP_NO_MEMORY;
	out->cred.how = sasl_name(SASL_PLAIN);
	out->cred.mech = SASL_PLAIN;
	secret_move(&out->cred.frame, frame);
	return SASL_STEP_DONE;
}

static enum sasl_step
sasl_exchange_bearer(struct sasl_exchange *x, const char *line, size_t len,
    struct secret *frame, struct sasl_outcome *out)
{
	struct sasl_bearer bearer;

	if (!sasl_bearer_parse(x->mech, frame->data, frame->len, &bearer))
		return sasl_exchange_malformed(x, "malformed bearer message",
		    out);
	if (!sasl_bearer_name(x->mech, &bearer, &out->cred.name) ||
	    !secret_set(&out->cred.frame, line, len)) {
		credentials_clear(&out->cred);
		return SASL_STEP_NO_MEMORY;
	}
	out->cred.how = sasl_name(x->mech);
	out->cred.mech = x->mech;
	secret_move(&out->cred.bearer, frame);
	return SASL_STEP_DONE;
}

/* Returns false if memory is short. Leaves *name_out empty if the frame names
 * nobody. */
static bool
sasl_bearer_name(enum sasl_mechanism mech, const struct sasl_bearer *bearer,
    struct secret *name_out)
{
	size_t len;

	if (bearer->user_len == 0)
		return true;
	if (!secret_set(name_out, bearer->user, bearer->user_len))
		return false;
	if (mech == SASL_OAUTHBEARER &&
	    sasl_gs2_name_decode(bearer->user, bearer->user_len, name_out->data,
		&len))
		name_out->len = len;
	return true;
}

/* frame has room for BASE64_DECODED_MAX(len). */
static bool
sasl_decode(const char *line, size_t len, struct secret *frame)
{
	size_t decoded;

	if (!base64_decode(line, len, frame->data, &decoded))
		return false;
	/* Wipe the octets that padding left after the end. */
	secret_wipe(frame->data + decoded, frame->len - decoded);
	frame->len = decoded;
	return true;
}
