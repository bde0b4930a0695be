/* fuzz_xclient.c: any octets as attributes, and as the two values that are
 * text.
 *
 * What is taken can be said again, on one line, in words of ours only. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/xclient.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void try_values(const char *value, size_t len);
static void try_line(const char *arg, size_t len);
static size_t line_check(const struct xclient *x, char *out, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *arg = malloc(size > 0 ? size : 1);

	if (arg == NULL)
		return 0;
	if (size > 0)
		memcpy(arg, data, size);
	try_line(arg, size);
	try_values(arg, size);
	free(arg);
	return 0;
}

static void
try_line(const char *arg, size_t len)
{
	struct xclient x, again;
	char first[XCLIENT_LINE_MAX + 1], second[XCLIENT_LINE_MAX + 1];
	const size_t skip = strlen("XCLIENT");
	size_t n;

	if (!xclient_parse(arg, len, &x))
		return;
	n = line_check(&x, first, sizeof(first));
	assert(xclient_parse(first + skip, n - skip, &again));
	assert(line_check(&again, second, sizeof(second)) == n);
	assert(strcmp(first, second) == 0);
}

/* Exactly the words that were set, "NAME=value" each. */
static size_t
line_check(const struct xclient *x, char *out, size_t size)
{
	size_t len = xclient_format(x, out, size), words = 0, equals = 0;
	size_t want = (x->addr.len != 0) + (x->has_port) + (x->dest.len != 0) +
	    (x->has_dest_port) + (x->session[0] != '\0') + (x->ttl != 0) +
	    (x->dest_name[0] != '\0') +
	    (x->transport != XCLIENT_TRANSPORT_UNSET);
	size_t inside = 0; /* base64 ids end in "=" */

	for (const char *p = x->session; *p != '\0'; p++)
		inside += *p == '=';
	assert(len > 0 && len <= XCLIENT_LINE_MAX && len == strlen(out));
	assert(memcmp(out, "XCLIENT", 7) == 0);
	for (size_t i = 0; i < len; i++) {
		assert(out[i] >= ' ' && out[i] < 0x7f);
		words += out[i] == ' ';
		equals += out[i] == '=';
	}
	assert(words == want && equals == want + inside);
	return len;
}

static void
try_values(const char *value, size_t len)
{
	struct xclient x = {0};
	char out[XCLIENT_LINE_MAX + 1];

	if (xclient_session_valid(value, len)) {
		assert(len <= XCLIENT_SESSION_MAX);
		memcpy(x.session, value, len);
	}
	if (hostname_valid(value, len)) {
		assert(len <= XCLIENT_NAME_MAX && value[len - 1] != '.');
		memcpy(x.dest_name, value, len);
	}
	(void)line_check(&x, out, sizeof(out));
}
