/* base64.c: strict base64.
 *
 * EVP_DecodeBlock() accepts white space around the text and stray bits after the
 * last octet, and counts the padding as data. With two spellings of one frame an
 * attacker could bypass a check, so this file checks the text before OpenSSL
 * decodes it. */

#include "proto/base64.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

#include <openssl/evp.h>

#include "platform/secret.h"

/* The size of one call to OpenSSL: whole groups, on the stack. */
#define BASE64_CHUNK 256

static bool base64_decode_digits(const char *text, size_t n, const char *extra,
    char *out, size_t *len_out);
static bool base64_digits_valid(const char *text, size_t n, const char *extra);
static int base64_digit(char c, const char *extra);
static void base64_to_standard(const char *text, size_t n, const char *extra,
    char *out);
static size_t base64_padding(const char *text, size_t len);

bool
base64_decode(const char *text, size_t len, char *out, size_t *len_out)
{
	if (len % 4 != 0)
		return false;
	return base64_decode_digits(text, len - base64_padding(text, len), "+/",
	    out, len_out);
}

bool
base64url_decode(const char *text, size_t len, char *out, size_t *len_out)
{
	size_t n = len;

	/* Padding is optional, but wrong padding is an error. */
	if (len % 4 == 0)
		n -= base64_padding(text, len);
	return base64_decode_digits(text, n, "-_", out, len_out);
}

size_t
base64_encode(const void *data, size_t len, char *out)
{
	assert(len <= INT_MAX / 2);
	return (size_t)EVP_EncodeBlock((unsigned char *)out,
	    (const unsigned char *)data, (int)len);
}

/* Returns the number of "=" at the end of the last group of four. */
static size_t
base64_padding(const char *text, size_t len)
{
	if (len == 0 || text[len - 1] != '=')
		return 0;
	return text[len - 2] == '=' ? 2 : 1;
}

/* Decodes n digits without padding. extra: the digits 62 and 63. */
static bool
base64_decode_digits(const char *text, size_t n, const char *extra, char *out,
    size_t *len_out)
{
	char chunk[BASE64_CHUNK];
	size_t done, part;
	bool good = true;

	if (!base64_digits_valid(text, n, extra))
		return false;
	for (done = 0; done < n && good; done += part) {
		part = n - done < sizeof(chunk) ? n - done : sizeof(chunk);
		base64_to_standard(text + done, part, extra, chunk);
		good = EVP_DecodeBlock((unsigned char *)out + done / 4 * 3,
			   (unsigned char *)chunk,
			   (int)((part + 3) / 4 * 4)) != -1;
	}
	secret_wipe(chunk, sizeof(chunk));
	*len_out = n / 4 * 3 + (n % 4 * 6) / 8;
	return good;
}

static bool
base64_digits_valid(const char *text, size_t n, const char *extra)
{
	/* The last digit may have bits that belong to no octet. */
	static const int stray[4] = {0, 0, 0x0f, 0x03};

	if (n % 4 == 1)
		return false;
	for (size_t i = 0; i < n; i++)
		if (base64_digit(text[i], extra) == -1)
			return false;
	return n == 0 || (base64_digit(text[n - 1], extra) & stray[n % 4]) == 0;
}

static int
base64_digit(char c, const char *extra)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == extra[0])
		return 62;
	return c == extra[1] ? 63 : -1;
}

/* Copies digits in the standard alphabet. Fills a short last group with zeros;
 * their octets come after the result. */
static void
base64_to_standard(const char *text, size_t n, const char *extra, char *out)
{
	for (size_t i = 0; i < n; i++) {
		if (text[i] == extra[0])
			out[i] = '+';
		else
			out[i] = text[i] == extra[1] ? '/' : text[i];
	}
	while (n % 4 != 0)
		out[n++] = 'A';
}
