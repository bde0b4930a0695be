/* sasl.h: the messages of four SASL mechanisms: PLAIN (RFC 4616), LOGIN (an
 * expired draft that everybody uses), OAUTHBEARER (RFC 7628 with the GS2 header
 * of RFC 5801) and XOAUTH2 (Google's and Microsoft's documents).
 *
 * Frames are already decoded (see base64.h); slices point into them. */

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

/* Finds a mechanism by its name, in any case. Returns false if it is not one of
 * the four. */
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

/* Parses authzid NUL authcid NUL password. Returns false unless there are
 * exactly two NULs and an authcid. */
bool sasl_plain_parse(const char *frame, size_t len,
    struct sasl_plain *out) MUST_CHECK;

struct sasl_bearer {
	/* The user name in the frame. For OAUTHBEARER it is the GS2 "a=", with
	 * =2C and =3D still encoded; for XOAUTH2 it is "user=". Empty if the
	 * frame names nobody. */
	const char *user;
	size_t user_len;
	/* The text after "auth=Bearer " (in any case); never empty. */
	const char *token;
	size_t token_len;
};

/* Parses an OAUTHBEARER or XOAUTH2 frame.
 *
 * OAUTHBEARER is gs2-header kvsep *(key "=" value kvsep) kvsep. The gs2-header
 * is "n," or "y," (channel binding, p=, is refused), optionally "a=saslname",
 * and ",". XOAUTH2 is *(key=value \x01) \x01 with auth, and user or not.
 * Keys are letters. An empty "a=" or "user=" names nobody. identifier.h checks the octets
 * of a name.
 *
 * Returns false for a duplicate key (in any case), for more than 16 keys, for a
 * missing auth, for a missing \x01, and for an "a=" with a wrong encoding ("="
 * without 2C or 3D after it). */
bool sasl_bearer_parse(enum sasl_mechanism mech, const char *frame, size_t len,
    struct sasl_bearer *out) MUST_CHECK;

/* Decodes a GS2 saslname (=2C, =3D) into out, which has len octets. */
bool sasl_gs2_name_decode(const char *name, size_t len, char *out,
    size_t *len_out) MUST_CHECK;

#endif
