/* sasl_exchange.h: the server's side of one AUTH exchange, as a pure step: a
 * line goes in; a prompt, credentials or a refusal comes out. Every login, also
 * USER and PASS, ends as struct credentials. */

#ifndef PROTO_SASL_EXCHANGE_H
#define PROTO_SASL_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/secret.h"
#include "platform/util.h"
#include "proto/sasl.h"

/* The login that a client asks for. A zeroed struct is a valid empty one. */
struct credentials {
	const char *how; /* "USER", "PLAIN", "LOGIN", ...: for logs; static */
	enum sasl_mechanism mech; /* PLAIN for every password login */
	/* PLAIN: authzid NUL authcid NUL password. Bearer: the client's frame
	 * in its base64, as it came. */
	struct secret frame;
	struct secret bearer; /* the bearer frame decoded; else empty */
	/* The mailbox that the client named. Empty if a bearer frame names
	 * nobody. */
	struct secret name;
};

/* Wipes and frees the secrets; keeps how and mech. */
void credentials_clear(struct credentials *cred);
/* Moves *from to *to, which is cleared first; *from is empty afterwards. */
void credentials_move(struct credentials *to, struct credentials *from);
/* Makes a PLAIN frame from a name and a password. how: as above. Returns false
 * if memory is short; cred is then empty. */
bool credentials_set_password(struct credentials *cred, const char *how,
    const char *name, size_t name_len, const char *password,
    size_t password_len) MUST_CHECK;

/* Reads the account from a bearer login's token (jwt.h); out has size octets.
 * Returns false if the token names no account or it is not a bearer login. */
bool credentials_token_account(const struct credentials *cred,
    const char *first_claim, char *out, size_t size) MUST_CHECK;
/* Returns true if text repeats a secret of cred, in any encoding that it has had
 * on its way: the password or the token as it is or in base64, the frame. A
 * secret of up to three octets counts as a whole word only. True also if memory
 * is short. */
bool credentials_repeated(const struct credentials *cred, const char *text,
    size_t len) MUST_CHECK;
/* Returns the authcid of a PLAIN frame, on the heap, if it differs from its
 * authzid; NULL otherwise, or if memory is short. */
char *credentials_authcid(const struct credentials *cred);

enum sasl_step {
	SASL_STEP_PROMPT, /* send prompt_out behind "+ ", wait for a line */
	SASL_STEP_DONE, /* *cred_out is complete */
	SASL_STEP_CANCELLED, /* the client sent "*" */
	SASL_STEP_MALFORMED, /* *why_out says what; a failed attempt */
	SASL_STEP_NO_MEMORY
};

enum sasl_wait { SASL_WAIT_MESSAGE, SASL_WAIT_NAME, SASL_WAIT_PASSWORD };

/* A zeroed struct is a valid idle one. */
struct sasl_exchange {
	enum sasl_mechanism mech;
	enum sasl_wait wait; /* what the client has to send */
	struct secret name; /* LOGIN's, between its two messages */
};

/* prompt: base64, static; why: static. Which one is set follows from the step
 * that was returned. */
struct sasl_outcome {
	const char *prompt;
	const char *why;
	struct credentials cred; /* the caller's, DONE only */
};

/* Begins the exchange of "AUTH mech [ir]". ir NULL: none was sent; "=" is an
 * empty one (RFC 5034 §4). out is overwritten. */
enum sasl_step sasl_exchange_start(struct sasl_exchange *x,
    enum sasl_mechanism mech, const char *ir, size_t len,
    struct sasl_outcome *out) MUST_CHECK;
/* The client's next line, its end cut off. */
enum sasl_step sasl_exchange_line(struct sasl_exchange *x, const char *line,
    size_t len, struct sasl_outcome *out) MUST_CHECK;
/* Wipes what it holds; idle afterwards. */
void sasl_exchange_clear(struct sasl_exchange *x);

#endif
