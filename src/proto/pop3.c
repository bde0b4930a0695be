/* pop3.c: parses and formats POP3.
 *
 * Nothing is trimmed, folded or repaired: a password keeps its spaces, and text
 * is passed on unchanged. The next server could read a NUL, or a CR or LF inside
 * a line, differently, so they are refused. */

#include "proto/pop3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define POP3_MECHANISM_MAX 20 /* RFC 4422 §3.1 */

static const struct {
	const char *name;
	enum pop3_verb verb;
} pop3_verbs[] = {
    {"CAPA", POP3_CAPA},
    {"NOOP", POP3_NOOP},
    {"UTF8", POP3_UTF8},
    {"STLS", POP3_STLS},
    {"USER", POP3_USER},
    {"PASS", POP3_PASS},
    {"AUTH", POP3_AUTH},
    {"APOP", POP3_APOP},
    {"XCLIENT", POP3_XCLIENT},
    {"QUIT", POP3_QUIT},
    {"STAT", POP3_TRANSACTION},
    {"LIST", POP3_TRANSACTION},
    {"RETR", POP3_TRANSACTION},
    {"DELE", POP3_TRANSACTION},
    {"RSET", POP3_TRANSACTION},
    {"TOP", POP3_TRANSACTION},
    {"UIDL", POP3_TRANSACTION},
    {"LAST", POP3_TRANSACTION},
    {"LANG", POP3_TRANSACTION},
};

/* An attacker can make a browser send these to any port, followed by a body of
 * the attacker's choice. */
static const char *const pop3_http_methods[] = {"GET ", "POST ", "HEAD ",
    "PUT ", "DELETE ", "OPTIONS ", "CONNECT ", "TRACE ", "PATCH ", "PRI "};

static const struct {
	const char *name;
	enum pop3_code code;
} pop3_codes[] = {
    {"AUTH", POP3_CODE_AUTH},
    {"IN-USE", POP3_CODE_IN_USE},
    {"LOGIN-DELAY", POP3_CODE_LOGIN_DELAY},
    {"SYS", POP3_CODE_SYS},
    {"REFERRAL", POP3_CODE_REFERRAL},
};

static const struct {
	const char *prefix;
	enum pop3_reply_kind kind;
} pop3_reply_kinds[] = {
    {"+OK", POP3_REPLY_OK},
    {"-ERR", POP3_REPLY_ERR},
    {"+", POP3_REPLY_CONTINUE},
};

static bool pop3_line_whole(const char *line, size_t len);
static bool pop3_is(const char *s, size_t len, const char *word);
static bool pop3_starts(const char *line, size_t len, const char *prefix);
static bool pop3_mentions(const struct pop3_reply *reply, const char *what,
    bool whole);
static bool pop3_is_letter(char c);
static bool pop3_is_http(const char *line, size_t len);
static size_t pop3_word(const char *s, size_t len);
static bool pop3_mechanism_good(const char *mech, size_t len);
static enum pop3_code pop3_code_parse(const char *text, size_t len);
static unsigned pop3_sasl_bits(const char *list, size_t len);
static bool pop3_printable(const char *line, size_t len);
static char *pop3_text_done(FILE *f, char **text);

bool
pop3_command_parse(const char *line, size_t len, struct pop3_command *out)
{
	size_t verb_len = pop3_word(line, len);

	memset(out, 0, sizeof(*out));
	out->verb = POP3_UNKNOWN;
	if (!pop3_line_whole(line, len))
		return false;
	out->has_arg = verb_len < len;
	out->arg = line + verb_len + (out->has_arg ? 1 : 0);
	out->arg_len = (size_t)(line + len - out->arg);
	for (size_t i = 0; i < ARRAY_LEN(pop3_verbs); i++)
		if (pop3_is(line, verb_len, pop3_verbs[i].name))
			out->verb = pop3_verbs[i].verb;
	if (pop3_is_http(line, len))
		out->verb = POP3_HTTP;
	return true;
}

/* Returns true if no octet could end the line or the string for another
 * reader. */
static bool
pop3_line_whole(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (line[i] == '\0' || line[i] == '\r' || line[i] == '\n')
			return false;
	return true;
}

static bool
pop3_is(const char *s, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(s, word, len) == 0;
}

static bool
pop3_starts(const char *line, size_t len, const char *prefix)
{
	size_t n = strlen(prefix);

	return len >= n && strncasecmp(line, prefix, n) == 0;
}

static bool
pop3_is_http(const char *line, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(pop3_http_methods); i++) {
		const char *method = pop3_http_methods[i];

		if (len >= strlen(method) &&
		    memcmp(line, method, strlen(method)) == 0)
			return true;
	}
	return false;
}

/* Returns the length of the part before the first space. */
static size_t
pop3_word(const char *s, size_t len)
{
	const char *space = len > 0 ? memchr(s, ' ', len) : NULL;

	return space != NULL ? (size_t)(space - s) : len;
}

bool
pop3_auth_arg_parse(const char *arg, size_t len, const char **mech_out,
    size_t *mech_len_out, const char **ir_out, size_t *ir_len_out)
{
	size_t n = pop3_word(arg, len);

	*mech_out = arg;
	*mech_len_out = n;
	*ir_out = NULL;
	*ir_len_out = 0;
	if (!pop3_mechanism_good(arg, n))
		return false;
	arg += n;
	len -= n;
	while (len > 0 && *arg == ' ') {
		arg++;
		len--;
	}
	while (len > 0 && arg[len - 1] == ' ')
		len--;
	if (len == 0)
		return true;
	*ir_out = arg;
	*ir_len_out = len;
	return pop3_word(arg, len) == len;
}

static bool
pop3_mechanism_good(const char *mech, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char c = mech[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
			(c >= '0' && c <= '9') || c == '-' || c == '_'))
			return false;
	}
	return len > 0 && len <= POP3_MECHANISM_MAX;
}

bool
pop3_user_pass_can_carry(const struct sasl_plain *p)
{
	/* "USER " or "PASS ", the word and CRLF. */
	const size_t max = POP3_LINE_MAX - 7;

	if (p->authzid_len > 0 &&
	    (p->authzid_len != p->authcid_len ||
		memcmp(p->authzid, p->authcid, p->authcid_len) != 0))
		return false;
	return p->authcid_len <= max && p->password_len <= max &&
	    pop3_printable(p->authcid, p->authcid_len) &&
	    pop3_printable(p->password, p->password_len);
}

size_t
pop3_line_limit(const char *start, size_t len)
{
	if (pop3_starts(start, len, "AUTH "))
		return POP3_AUTH_LINE_MAX;
	if (pop3_starts(start, len, "XCLIENT "))
		return POP3_XCLIENT_LINE_MAX;
	return POP3_LINE_MAX;
}

void
pop3_reply_parse(const char *line, size_t len, struct pop3_reply *out)
{
	size_t n = pop3_word(line, len);

	memset(out, 0, sizeof(*out));
	out->kind = POP3_REPLY_BAD;
	out->line = line;
	out->line_len = len;
	out->text = line + len;
	if (!pop3_line_whole(line, len))
		return;
	for (size_t i = 0; i < ARRAY_LEN(pop3_reply_kinds); i++)
		if (pop3_is(line, n, pop3_reply_kinds[i].prefix))
			out->kind = pop3_reply_kinds[i].kind;
	if (out->kind == POP3_REPLY_BAD || n == len)
		return;
	out->text = line + n + 1;
	out->text_len = len - n - 1;
	if (out->kind == POP3_REPLY_ERR)
		out->code = pop3_code_parse(out->text, out->text_len);
}

/* Parses "[LEVEL/LEVEL...]" at the start; the first level decides. */
static enum pop3_code
pop3_code_parse(const char *text, size_t len)
{
	const char *end = len > 0 ? memchr(text, ']', len) : NULL;
	size_t n = 1;

	if (end == NULL || text[0] != '[')
		return POP3_CODE_NONE;
	while (text + n < end && text[n] != '/' && text[n] != ' ')
		n++;
	for (size_t i = 0; i < ARRAY_LEN(pop3_codes); i++)
		if (pop3_is(text + 1, n - 1, pop3_codes[i].name))
			return pop3_codes[i].code;
	return POP3_CODE_NONE;
}

bool
pop3_reply_about_password(const struct pop3_reply *reply)
{
	if (reply->kind != POP3_REPLY_ERR)
		return false;
	if (reply->code == POP3_CODE_AUTH)
		return true;
	return pop3_mentions(reply, "password", false);
}

bool
pop3_reply_about_setup(const struct pop3_reply *reply)
{
	static const char *const words[] = {"TLS", "SSL", "STLS", "STARTTLS"};
	static const char *const phrases[] = {"plaintext authentication",
	    "plain text authentication", "cleartext", "under a layer",
	    "unsupported authentication", "unsupported sasl",
	    "authentication mechanism", "mechanism not"};

	if (reply->kind != POP3_REPLY_ERR)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (pop3_mentions(reply, words[i], true))
			return true;
	for (size_t i = 0; i < ARRAY_LEN(phrases); i++)
		if (pop3_mentions(reply, phrases[i], false))
			return true;
	return false;
}

/* In any case; whole: not as a part of a longer word. */
static bool
pop3_mentions(const struct pop3_reply *reply, const char *what, bool whole)
{
	const char *text = reply->text;
	size_t len = reply->text_len, n = strlen(what);

	for (size_t i = 0; i + n <= len; i++) {
		if (!pop3_starts(text + i, len - i, what))
			continue;
		if (!whole ||
		    ((i == 0 || !pop3_is_letter(text[i - 1])) &&
			(i + n == len || !pop3_is_letter(text[i + n]))))
			return true;
	}
	return false;
}

static bool
pop3_is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool
pop3_reply_is_error_document(const struct pop3_reply *reply)
{
	/* base64 of "{" and any white space or quote behind it. */
	return reply->kind == POP3_REPLY_CONTINUE && reply->text_len >= 4 &&
	    reply->text_len % 4 == 0 && reply->text[0] == 'e' &&
	    strchr("wxyz0123456789", reply->text[1]) != NULL &&
	    memchr(reply->text, ' ', reply->text_len) == NULL;
}

const char *
pop3_other_protocol(const char *line, size_t len)
{
	static const struct {
		const char *start, *name;
	} others[] = {{"220", "SMTP"}, {"421", "SMTP"}, {"554", "SMTP"},
	    {"* ", "IMAP"}, {"HTTP/", "HTTP"}};

	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		if (pop3_starts(line, len, others[i].start))
			return others[i].name;
	return NULL;
}

bool
pop3_greeting_offers_xclient(const struct pop3_reply *greeting)
{
	const char *p = greeting->text, *end = p + greeting->text_len;

	while (greeting->kind == POP3_REPLY_OK && p < end) {
		const char *word = p;
		size_t n = pop3_word(p, (size_t)(end - p));

		p += n < (size_t)(end - p) ? n + 1 : n;
		if (n > 2 && word[0] == '[' && word[n - 1] == ']') {
			word++;
			n -= 2;
		}
		/* Upper case only: a server's name may contain the word. */
		if (n == strlen("XCLIENT") && memcmp(word, "XCLIENT", n) == 0)
			return true;
	}
	return false;
}

void
pop3_capability_add(struct pop3_capabilities *caps, const char *line,
    size_t len)
{
	size_t n = pop3_word(line, len);

	if (!pop3_printable(line, len))
		return;
	if (pop3_is(line, n, "STLS"))
		caps->stls = true;
	else if (pop3_is(line, n, "USER"))
		caps->user = true;
	else if (pop3_is(line, n, "UTF8"))
		caps->utf8 = true;
	else if (pop3_is(line, n, "AUTH-RESP-CODE"))
		caps->auth_resp_code = true;
	else if (pop3_is(line, n, "SASL"))
		caps->sasl |= pop3_sasl_bits(line + n, len - n);
}

/* No control characters. */
static bool
pop3_printable(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			return false;
	return true;
}

static unsigned
pop3_sasl_bits(const char *list, size_t len)
{
	const char *end = list + len;
	enum sasl_mechanism mech;
	unsigned bits = 0;

	while (list < end) {
		size_t n = pop3_word(list, (size_t)(end - list));

		if (sasl_mechanism_find(list, n, &mech))
			bits |= SASL_BIT(mech);
		list += n < (size_t)(end - list) ? n + 1 : n;
	}
	return bits;
}

char *
pop3_capa_format(const struct pop3_capa_spec *spec)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		return NULL;
	fputs("+OK\r\n", f);
	if (spec->stls)
		fputs("STLS\r\n", f);
	if (spec->user)
		fputs("USER\r\n", f);
	if (spec->n_sasl > 0) {
		fputs("SASL", f);
		for (size_t i = 0; i < spec->n_sasl; i++)
			fprintf(f, " %s", sasl_name(spec->sasl[i]));
		fputs("\r\n", f);
	}
	for (size_t i = 0; i < spec->n_advertise; i++)
		fprintf(f, "%s\r\n", spec->advertise[i]);
	if (spec->implementation[0] != '\0')
		fprintf(f, "IMPLEMENTATION %s\r\n", spec->implementation);
	fputs(".\r\n", f);
	return pop3_text_done(f, &text);
}

char *
pop3_auth_list_format(const enum sasl_mechanism *sasl, size_t n)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		return NULL;
	fputs("+OK\r\n", f);
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%s\r\n", sasl_name(sasl[i]));
	fputs(".\r\n", f);
	return pop3_text_done(f, &text);
}

/* The stream sets *text when it is closed, possibly cut if memory is short. */
static char *
pop3_text_done(FILE *f, char **text)
{
	bool failed = ferror(f) != 0;

	if (fclose(f) != 0 || failed) {
		free(*text);
		return NULL;
	}
	return *text;
}
