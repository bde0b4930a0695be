/* base64.h: strict base64 (RFC 4648 §4): no white space, canonical padding, no
 * stray bits after the last octet. OpenSSL decodes and encodes; this file adds
 * the strict checks. */

#ifndef PROTO_BASE64_H
#define PROTO_BASE64_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"

/* Sizes of the decoded and the encoded form of n octets. The encoded form
 * includes a terminating NUL. EVP_DecodeBlock() needs whole groups of three. */
#define BASE64_DECODED_MAX(n) (((n) / 4 + 1) * 3)
#define BASE64_ENCODED_MAX(n) (((n) + 2) / 3 * 4 + 1)

/* Decodes len octets of text into out. Returns false if text is not base64; out
 * is then undefined. "" decodes to the empty string. */
bool base64_decode(const char *text, size_t len, char *out,
    size_t *len_out) MUST_CHECK;

/* Does the same for the URL-safe alphabet, with optional padding (RFC 4648 §5,
 * RFC 7515). */
bool base64url_decode(const char *text, size_t len, char *out,
    size_t *len_out) MUST_CHECK;

/* Encodes, adds a NUL, and returns the length without the NUL. */
size_t base64_encode(const void *data, size_t len, char *out);

#endif
