/* fuzz_pop3.c: any octets as a command, a reply and a capability list.
 *
 * Slices stay in the line, and what is refused leaves nothing behind that
 * could be sent on. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/pop3.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static bool slice_inside(const char *slice, size_t n, const char *line,
    size_t len);
static bool line_whole(const char *line, size_t len);
static void try_command(const char *line, size_t len);
static void try_auth(const char *arg, size_t len);
static bool spaces(const char *from, const char *to);
static void try_reply(const char *line, size_t len);
static void try_capabilities(const char *lines, size_t len);
static void capabilities_read(const char *text, size_t len,
    struct pop3_capabilities *caps);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line = malloc(size > 0 ? size : 1);
	size_t limit;

	if (line == NULL)
		return 0;
	if (size > 0)
		memcpy(line, data, size);
	limit = pop3_line_limit(line, size);
	assert(limit == POP3_LINE_MAX || limit == POP3_AUTH_LINE_MAX ||
	    limit == POP3_XCLIENT_LINE_MAX);
	try_command(line, size);
	try_auth(line, size);
	try_reply(line, size);
	try_capabilities(line, size);
	free(line);
	return 0;
}

static bool
slice_inside(const char *slice, size_t n, const char *line, size_t len)
{
	return slice >= line && slice <= line + len &&
	    n <= (size_t)(line + len - slice);
}

static bool
line_whole(const char *line, size_t len)
{
	return memchr(line, '\0', len) == NULL &&
	    memchr(line, '\r', len) == NULL && memchr(line, '\n', len) == NULL;
}

static void
try_command(const char *line, size_t len)
{
	struct pop3_command cmd;
	bool good = pop3_command_parse(line, len, &cmd);

	assert(good == line_whole(line, len));
	if (!good)
		return;
	assert(cmd.verb < POP3_VERBS);
	assert(slice_inside(cmd.arg, cmd.arg_len, line, len));
	assert(cmd.arg + cmd.arg_len == line + len);
	assert(cmd.has_arg ? cmd.arg[-1] == ' ' : cmd.arg_len == 0);
	/* No verb that is acted upon has room for more than itself. */
	if (cmd.verb < POP3_TRANSACTION)
		assert(len - cmd.arg_len - (cmd.has_arg ? 1 : 0) <= 7);
	if (cmd.verb == POP3_AUTH && cmd.has_arg)
		try_auth(cmd.arg, cmd.arg_len);
}

static bool
spaces(const char *from, const char *to)
{
	while (from < to && *from == ' ')
		from++;
	return from == to;
}

static void
try_auth(const char *arg, size_t len)
{
	const char *mech, *ir;
	size_t mech_len, ir_len;

	if (!pop3_auth_arg_parse(arg, len, &mech, &mech_len, &ir, &ir_len))
		return;
	assert(mech == arg && mech_len >= 1 && mech_len <= 20);
	assert(memchr(mech, ' ', mech_len) == NULL);
	if (ir == NULL) {
		assert(ir_len == 0 && spaces(arg + mech_len, arg + len));
		return;
	}
	assert(ir > arg + mech_len && spaces(arg + mech_len, ir));
	assert(ir_len > 0 && memchr(ir, ' ', ir_len) == NULL);
	assert(spaces(ir + ir_len, arg + len));
}

static void
try_reply(const char *line, size_t len)
{
	struct pop3_reply reply;

	pop3_reply_parse(line, len, &reply);
	assert(reply.line == line && reply.line_len == len);
	assert(slice_inside(reply.text, reply.text_len, line, len));
	assert(reply.text + reply.text_len == line + len);
	assert(reply.kind == POP3_REPLY_BAD || line_whole(line, len));
	assert(reply.kind != POP3_REPLY_BAD || reply.text_len == 0);
	assert(reply.code == POP3_CODE_NONE || reply.kind == POP3_REPLY_ERR);
	if (pop3_reply_about_password(&reply))
		assert(reply.kind == POP3_REPLY_ERR && reply.text_len > 0);
	if (pop3_greeting_offers_xclient(&reply))
		assert(reply.kind == POP3_REPLY_OK && reply.text_len >= 7);
	if (pop3_reply_about_setup(&reply))
		assert(reply.kind == POP3_REPLY_ERR && reply.text_len >= 3);
	if (pop3_reply_is_error_document(&reply))
		assert(reply.kind == POP3_REPLY_CONTINUE);
	if (pop3_other_protocol(line, len) != NULL)
		assert(reply.kind == POP3_REPLY_BAD);
}

/* What was learnt, said again, teaches the same. */
static void
try_capabilities(const char *lines, size_t len)
{
	struct pop3_capabilities caps = {0}, again = {0};
	enum sasl_mechanism sasl[SASL_MECHANISMS];
	struct pop3_capa_spec spec = {.implementation = "x", .sasl = sasl};
	char *text;

	capabilities_read(lines, len, &caps);
	assert(caps.sasl < SASL_BIT(SASL_MECHANISMS));
	spec.stls = caps.stls;
	spec.user = caps.user;
	for (unsigned i = 0; i < SASL_MECHANISMS; i++)
		if (caps.sasl & SASL_BIT(i))
			sasl[spec.n_sasl++] = (enum sasl_mechanism)i;
	text = pop3_capa_format(&spec);
	if (text == NULL)
		return;
	capabilities_read(text, strlen(text), &again);
	assert(again.stls == caps.stls && again.user == caps.user);
	assert(again.sasl == caps.sasl && !again.utf8);
	free(text);
}

static void
capabilities_read(const char *text, size_t len, struct pop3_capabilities *caps)
{
	while (len > 0) {
		const char *lf = memchr(text, '\n', len);
		size_t n = lf != NULL ? (size_t)(lf - text) : len;
		size_t whole = n > 0 && text[n - 1] == '\r' ? n - 1 : n;

		pop3_capability_add(caps, text, whole);
		n += lf != NULL ? 1 : 0;
		text += n;
		len -= n;
	}
}
