/* pop3.h: parses and formats POP3 commands, replies and capabilities (RFC 1939,
 * 2449, 2595, 3206, 5034, 6856). No I/O, no clock.
 *
 * Slices point into the caller's buffer and are valid as long as the buffer. */

#ifndef PROTO_POP3_H
#define PROTO_POP3_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/util.h"
#include "proto/sasl.h"

#define POP3_LINE_MAX 512 /* a command or reply line with its CRLF */
#define POP3_AUTH_LINE_MAX 65536 /* AUTH and its responses, with CRLF */
#define POP3_XCLIENT_LINE_MAX 1026 /* Dovecot sends up to 1,024 and CRLF */
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
	POP3_UNKNOWN, /* anything else, including the empty line */
	POP3_VERBS
};

struct pop3_command {
	enum pop3_verb verb;
	bool has_arg; /* a space follows the verb */
	const char *arg; /* everything after that one space, unchanged */
	size_t arg_len;
};

/* Parses a command line without its end of line (LF or CR LF). Verbs are
 * case-insensitive. Returns false if the line contains NUL, CR or LF; it is then
 * no command. UTF8, CAPA and the like with an argument keep their verb; the
 * caller checks has_arg. HTTP is GET, POST, HEAD, PUT, DELETE, OPTIONS, CONNECT,
 * TRACE or PATCH with a space after it (case-sensitive, like HTTP methods), and
 * "PRI ". */
bool pop3_command_parse(const char *line, size_t len,
    struct pop3_command *out) MUST_CHECK;

/* Splits the "mech [ir]" that follows "AUTH ". Sets ir to NULL if it is absent.
 * Skips several spaces, and spaces after the response: Windows Mail sends two.
 * Returns false for a third word, and for a mechanism that is not 1..20 of
 * [A-Za-z0-9_-]. */
bool pop3_auth_arg_parse(const char *arg, size_t len, const char **mech_out,
    size_t *mech_len_out, const char **ir_out, size_t *ir_len_out) MUST_CHECK;

/* Whether USER and PASS can carry a PLAIN message: no control characters, an
 * authzid that is absent or the authcid, and lines of at most POP3_LINE_MAX. */
bool pop3_user_pass_can_carry(const struct sasl_plain *p);

/* Returns the number of octets at which a line without LF is too long:
 * POP3_AUTH_LINE_MAX for AUTH, POP3_XCLIENT_LINE_MAX for XCLIENT, otherwise
 * POP3_LINE_MAX. start has the first octets of the line. */
size_t pop3_line_limit(const char *start, size_t len);

enum pop3_reply_kind {
	POP3_REPLY_OK, /* "+OK", "+OK text" */
	POP3_REPLY_ERR, /* "-ERR", "-ERR text" */
	POP3_REPLY_CONTINUE, /* "+", "+ base64" */
	POP3_REPLY_BAD /* not a POP3 reply; text is empty */
};

/* The response codes that mailferry acts on (RFC 2449 §8, RFC 3206). */
enum pop3_code {
	POP3_CODE_NONE, /* none, or one that mailferry ignores */
	POP3_CODE_AUTH,
	POP3_CODE_IN_USE,
	POP3_CODE_LOGIN_DELAY,
	POP3_CODE_SYS, /* SYS/TEMP, SYS/PERM, SYS/... */
	POP3_CODE_REFERRAL
};

struct pop3_reply {
	enum pop3_reply_kind kind;
	enum pop3_code code; /* the response code of -ERR, in any case */
	const char *line; /* the whole line without its end */
	size_t line_len;
	const char *text; /* after "+OK ", "-ERR ", "+ " */
	size_t text_len;
};

/* Parses one reply line without its end of line. A line with NUL, CR or LF is
 * BAD. The case does not matter ("+ok"). "+OKfoo" is BAD, and "+OK" alone is
 * valid. */
void pop3_reply_parse(const char *line, size_t len, struct pop3_reply *out);

/* Returns true if this -ERR refuses the password and not the form of the
 * command: it has [AUTH] or the word "password". */
bool pop3_reply_about_password(const struct pop3_reply *reply);

/* Returns true if this -ERR names the server's configuration as the reason, not
 * the credentials: it wants TLS, or this way to log in is switched off. Judged by
 * English words; a text in doubt counts as about the password. */
bool pop3_reply_about_setup(const struct pop3_reply *reply);

/* Returns true if a "+" reply may be the error document of RFC 7628: base64 of a
 * JSON object. Anything else is a prompt, whatever its words. */
bool pop3_reply_is_error_document(const struct pop3_reply *reply);

/* Returns the protocol that a line which is no POP3 reply belongs to: "SMTP",
 * "IMAP" or "HTTP". NULL if that cannot be told. Static. */
const char *pop3_other_protocol(const char *line, size_t len);

/* Returns true if the greeting's text offers XCLIENT, by the token "[XCLIENT]"
 * or the word XCLIENT (upper case only). Dovecot writes it right after "+OK". */
bool pop3_greeting_offers_xclient(const struct pop3_reply *greeting);

/* A server's answer to CAPA. */
struct pop3_capabilities {
	bool stls, user, utf8;
	bool auth_resp_code; /* RFC 3206: a wrong password says [AUTH] */
	unsigned sasl; /* SASL_* bits; unknown mechanisms are skipped */
};

/* Adds one capability line (not the "."), without its end of line. Names are
 * case-insensitive and may have arguments ("UTF8 USER"). Skips malformed lines,
 * for example lines with control characters. */
void pop3_capability_add(struct pop3_capabilities *caps, const char *line,
    size_t len);

/* Returns the complete answer to CAPA ("+OK ...", lines, "."), each line with
 * CRLF. The caller frees it. Returns NULL if memory is short. sasl has the
 * mechanisms in the order to show; without any there is no SASL line. Order:
 * STLS?, USER?, SASL?, advertise..., IMPLEMENTATION? */
struct pop3_capa_spec {
	bool stls, user;
	const enum sasl_mechanism *sasl;
	size_t n_sasl;
	char *const *advertise;
	size_t n_advertise;
	const char *implementation; /* "" = none */
};
char *pop3_capa_format(const struct pop3_capa_spec *spec);

/* Returns the answer to AUTH without arguments: "+OK", one mechanism on each
 * line, ".". The caller frees it, as above. */
char *pop3_auth_list_format(const enum sasl_mechanism *sasl, size_t n);

#endif
