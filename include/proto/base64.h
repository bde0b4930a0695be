/* base64.h: strict base64 (RFC 4648 §4): no white space, canonical padding, no
 * stray bits behind the last octet. OpenSSL does the arithmetic; the strictness
 * is ours. */

#ifndef PROTO_BASE64_H
#define PROTO_BASE64_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

/* Room for the decoded, resp. encoded form of n octets; the encoded one has a
 * terminating NUL. EVP_DecodeBlock() wants whole groups of three. */
#define BASE64_DECODED_MAX(n) (((n) / 4 + 1) * 3)
#define BASE64_ENCODED_MAX(n) (((n) + 2) / 3 * 4 + 1)

/* Decodes len octets of text into out. False: not base64, out is undefined.
 * "" is the empty string. */
bool base64_decode(const char *text, size_t len, char *out,
    size_t *len_out) MUST_CHECK;

/* The URL-safe alphabet, padding optional (RFC 4648 §5, RFC 7515). */
bool base64url_decode(const char *text, size_t len, char *out,
    size_t *len_out) MUST_CHECK;

/* Encodes and terminates; returns the length without the NUL. */
size_t base64_encode(const void *data, size_t len, char *out);

#endif
