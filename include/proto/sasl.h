/* sasl.h: the four SASL mechanisms' messages: PLAIN (RFC 4616), LOGIN (the
 * expired draft that everybody speaks), OAUTHBEARER (RFC 7628 with the GS2
 * header of RFC 5801), XOAUTH2 (Google's and Microsoft's documents).
 *
 * Frames come here decoded (see base64.h); slices point into them. */

#ifndef PROTO_SASL_H
#define PROTO_SASL_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

enum sasl_mechanism {
	SASL_PLAIN,
	SASL_LOGIN,
	SASL_OAUTHBEARER,
	SASL_XOAUTH2,
	SASL_MECHANISMS
};
#define SASL_BIT(mech) (1u << (mech))

/* "PLAIN" etc. */
const char *sasl_name(enum sasl_mechanism mech);

/* Case-insensitive; false: none of the four. */
bool sasl_mechanism_find(const char *name, size_t len,
    enum sasl_mechanism *mech_out) MUST_CHECK;

struct sasl_plain {
	const char *authzid; /* may be empty */
	size_t authzid_len;
	const char *authcid; /* not empty */
	size_t authcid_len;
	const char *password; /* may be empty; never holds NUL */
	size_t password_len;
};

/* authzid NUL authcid NUL password: exactly two NULs, an authcid. */
bool sasl_plain_parse(const char *frame, size_t len,
    struct sasl_plain *out) MUST_CHECK;

struct sasl_bearer {
	/* Who, as the frame says it. OAUTHBEARER: the GS2 "a=" with =2C and
	 * =3D still encoded; XOAUTH2: "user=". Empty: the frame names nobody.*/
	const char *user;
	size_t user_len;
	/* Behind "auth=Bearer " (the scheme in any case); never empty. */
	const char *token;
	size_t token_len;
};

/* OAUTHBEARER: gs2-header kvsep *(key "=" value kvsep) kvsep. gs2: "n," or
 * "y," (p= channel binding is refused), optional "a=saslname", ",". Keys are
 * letters; a key twice (in any case), over 16 of them, no auth, a missing \x01:
 * false. An "a=" whose encoding is wrong ("=" not followed by 2C or 3D): false.
 * XOAUTH2: *(key=value \x01) \x01 with user and auth. An empty "a=" or "user="
 * names nobody. What octets a name may have is identifier.h's business. */
bool sasl_bearer_parse(enum sasl_mechanism mech, const char *frame, size_t len,
    struct sasl_bearer *out) MUST_CHECK;

/* Decodes a GS2 saslname (=2C, =3D) into out, which has room for len octets. */
bool sasl_gs2_name_decode(const char *name, size_t len, char *out,
    size_t *len_out) MUST_CHECK;

#endif
