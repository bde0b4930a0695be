/* jwt.h: whom a bearer token speaks of, for routing only. Nothing here is
 * validated: the backend does that. */

#ifndef PROTO_JWT_H
#define PROTO_JWT_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

/* Finds the account in a token that came in a frame without a user name.
 * "sw1." tokens: base64url of the address behind the last dot. Otherwise a JWT
 * (three dot-separated parts, the middle one base64url JSON, an object of depth
 * <= 8; of a name that comes twice the last one counts): the first of
 * first_claim, "email", "preferred_username", "upn", "unique_name", "sub" whose
 * value is a string that looks like an address (one "@" with something before
 * and behind it, no control characters, spaces or double quotes). Writes it,
 * terminated, to out (size octets). False: the token tells nothing, or the
 * address does not fit. Whatever was decoded is wiped; linking jwt.c makes
 * jansson wipe what it frees, in the whole program. first_claim may be "". */
bool jwt_account(const char *token, size_t len, const char *first_claim,
    char *out, size_t size) MUST_CHECK;

#endif
