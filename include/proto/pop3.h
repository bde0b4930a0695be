/* pop3.h: POP3 lines, commands, replies and capabilities (RFC 1939, 2449, 2595,
 * 3206, 5034, 6856), as bytes in and structs out. No I/O, no clock.
 *
 * Slices point into the caller's buffer and live as long as it does. */

#ifndef PROTO_POP3_H
#define PROTO_POP3_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"
#include "proto/sasl.h"

#define POP3_LINE_MAX 512 /* a command or reply line with its CRLF */
#define POP3_AUTH_LINE_MAX 65536 /* AUTH and its responses, with CRLF */
#define POP3_AUTH_INLINE_MAX 255 /* RFC 5034 §4, with CRLF */
#define POP3_CAPA_LINES_MAX 100
#define POP3_CAPA_OCTETS_MAX 8192

enum pop3_verb {
	POP3_CAPA,
	POP3_NOOP,
	POP3_UTF8,
	POP3_STLS,
	POP3_USER,
	POP3_PASS,
	POP3_AUTH,
	POP3_APOP,
	POP3_XCLIENT,
	POP3_QUIT,
	POP3_TRANSACTION, /* STAT, LIST, RETR, DELE, RSET, TOP, UIDL, LAST, LANG */
	POP3_HTTP, /* an HTTP request line: a cross-protocol attack */
	POP3_UNKNOWN, /* anything else, the empty line included */
	POP3_VERBS
};

struct pop3_command {
	enum pop3_verb verb;
	bool has_arg; /* a space stood behind the verb */
	const char *arg; /* all behind that one space, untouched */
	size_t arg_len;
};

/* Parses a command line whose end of line is already off (a bare LF and a CR
 * LF both end one). Case-insensitive. False: the line holds NUL, CR or LF
 * inside and is no command at all. UTF8, CAPA etc. followed by an argument are
 * still that verb; the caller judges has_arg. HTTP: GET, POST, HEAD, PUT, DELETE,
 * OPTIONS, CONNECT, TRACE, PATCH, followed by a space (case-sensitive, as HTTP
 * methods are), and "PRI ". */
bool pop3_command_parse(const char *line, size_t len,
    struct pop3_command *out) MUST_CHECK;

/* Splits "mech [ir]" as it stands behind "AUTH ". ir is NULL when absent, also
 * when only its space is there. More than one space, a third word, a mechanism
 * that is not 1..20 of [A-Za-z0-9_-]: false. */
bool pop3_auth_arg_parse(const char *arg, size_t len, const char **mech_out,
    size_t *mech_len_out, const char **ir_out, size_t *ir_len_out) MUST_CHECK;

/* Whether USER and PASS can carry a PLAIN message: no control characters, an
 * authzid that is absent or the authcid, and lines of at most POP3_LINE_MAX. */
bool pop3_user_pass_can_carry(const struct sasl_plain *p);

/* A partial line (no LF yet) of this many octets is too long: AUTH lines may
 * have POP3_AUTH_LINE_MAX, all others POP3_LINE_MAX. start: its first octets. */
size_t pop3_line_limit(const char *start, size_t len);

enum pop3_reply_kind {
	POP3_REPLY_OK, /* "+OK", "+OK text" */
	POP3_REPLY_ERR, /* "-ERR", "-ERR text" */
	POP3_REPLY_CONTINUE, /* "+", "+ base64" */
	POP3_REPLY_BAD /* none of these, no POP3; text is empty */
};

/* The response codes that decide anything (RFC 2449 §8, RFC 3206). */
enum pop3_code {
	POP3_CODE_NONE, /* none, or one that decides nothing */
	POP3_CODE_AUTH,
	POP3_CODE_IN_USE,
	POP3_CODE_LOGIN_DELAY,
	POP3_CODE_SYS, /* SYS/TEMP, SYS/PERM, SYS/... */
	POP3_CODE_REFERRAL
};

struct pop3_reply {
	enum pop3_reply_kind kind;
	enum pop3_code code; /* of -ERR (any case; RFC 2449 response code) */
	const char *line; /* the whole line without its end */
	size_t line_len;
	const char *text; /* behind "+OK ", "-ERR ", "+ " */
	size_t text_len;
};

/* Parses one reply line, its end of line off. NUL, CR, LF inside: BAD. Upper
 * and lower case are taken ("+ok"); "+OKfoo" is BAD, "+OK" alone is fine. */
void pop3_reply_parse(const char *line, size_t len, struct pop3_reply *out);

/* Whether this -ERR says that the password, not the form, was judged: [AUTH],
 * or the word "password" in its text. */
bool pop3_reply_about_password(const struct pop3_reply *reply);

/* Whether the greeting's text offers XCLIENT: the token "[XCLIENT]" or a word
 * XCLIENT (upper case only), as Dovecot writes it right behind "+OK". */
bool pop3_greeting_offers_xclient(const struct pop3_reply *greeting);

/* What a server said in answer to CAPA. */
struct pop3_capabilities {
	bool stls, user, utf8;
	unsigned sasl; /* SASL_* bits; unknown mechanisms are skipped */
};

/* One capability line (not the "."), without its end. Names are
 * case-insensitive and may carry arguments ("UTF8 USER"); malformed ones (with
 * control characters in them, say) are skipped. */
void pop3_capability_add(struct pop3_capabilities *caps, const char *line,
    size_t len);

/* The complete answer to CAPA ("+OK ...", lines, "."), CRLF each, on the heap
 * (the caller's); NULL: no memory. sasl: mechanisms in the order to show, empty
 * = no SASL line. Order: STLS?, USER?, SASL?, advertise..., IMPLEMENTATION? */
struct pop3_capa_spec {
	bool stls, user;
	const enum sasl_mechanism *sasl;
	size_t n_sasl;
	char *const *advertise;
	size_t n_advertise;
	const char *implementation; /* "" = none */
};
char *pop3_capa_format(const struct pop3_capa_spec *spec);

/* The answer to AUTH alone: "+OK", a mechanism a line, ".". Heap, as above. */
char *pop3_auth_list_format(const enum sasl_mechanism *sasl, size_t n);

#endif
