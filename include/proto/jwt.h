/* jwt.h: reads the account from a bearer token, for routing only. It does not
 * validate the token; the backend does. */

#ifndef PROTO_JWT_H
#define PROTO_JWT_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

/* Finds the account in a token whose frame has no user name. Writes it,
 * terminated, to out (size octets). Returns false if the token names no account
 * or the account does not fit.
 *
 * In an "sw1." token the account is base64url text after the last dot. Any other
 * token must be a JWT: three parts with dots between them, the middle one
 * base64url JSON, an object of depth <= 8. If a name occurs twice, the last one
 * counts. The account is the first of first_claim, "email",
 * "preferred_username", "upn", "unique_name", "sub" whose value is a string that
 * looks like an address: one "@" with text on both sides, no control characters,
 * spaces or double quotes. first_claim may be "".
 *
 * Wipes everything that it decoded. Linking jwt.c makes jansson wipe memory that
 * it frees, in the whole program. */
bool jwt_account(const char *token, size_t len, const char *first_claim,
    char *out, size_t size) MUST_CHECK;

#endif
