/* xclient.h: the XCLIENT command of Dovecot's POP3 login service:
 * "XCLIENT NAME=value ...", with addresses without brackets. mailferry sends
 * only typed values, so that no text from a stranger can add a word or a
 * line. */

#ifndef PROTO_XCLIENT_H
#define PROTO_XCLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/addr.h"
#include "platform/util.h"

#define XCLIENT_LINE_MAX 900 /* Dovecot reads 1,024 */
#define XCLIENT_SESSION_MAX 64 /* of [A-Za-z0-9._+/=-] */
#define XCLIENT_NAME_MAX 253 /* a DNS name */

enum xclient_transport {
	XCLIENT_TRANSPORT_UNSET,
	XCLIENT_TRANSPORT_INSECURE,
	XCLIENT_TRANSPORT_TLS
};

struct xclient {
	struct addr addr; /* ADDR and PORT; len 0 = absent */
	bool has_port;
	struct addr dest; /* DESTADDR and DESTPORT */
	bool has_dest_port;
	char session[XCLIENT_SESSION_MAX + 1]; /* "" = absent */
	unsigned ttl; /* 1..255; 0 = absent */
	enum xclient_transport transport;
	char dest_name[XCLIENT_NAME_MAX + 1]; /* DESTNAME; "" = absent */
};

/* Formats the command without CRLF into out (size octets). Returns its length,
 * or 0 if a value is not valid (see the checks below) or the line would exceed
 * XCLIENT_LINE_MAX; the caller must then send nothing. Order: ADDR PORT DESTADDR
 * DESTPORT SESSION TTL CLIENT-TRANSPORT DESTNAME. Leaves out absent values and
 * port 0, which Dovecot refuses. */
size_t xclient_format(const struct xclient *x, char *out, size_t size);

/* Parses the text after "XCLIENT ". Names are case-insensitive; unknown names are
 * skipped. ADDR may be bare, in brackets or "IPV6:...". More than one space
 * between words is valid.
 *
 * Returns false, with *out undefined, for a PORT without ADDR, a duplicate name,
 * a malformed value (such as PORT=0 and TTL=0), a missing "=", and a SESSION
 * over 64 octets or with characters that are not printable ASCII.
 *
 * These count as absent: a SESSION with other printable characters than
 * xclient_session_valid() takes; and Postfix's "[UNAVAILABLE]" and
 * "[TEMPUNAVAIL]". */
bool xclient_parse(const char *arg, size_t len, struct xclient *out) MUST_CHECK;

/* Returns true for [A-Za-z0-9._+/=-]{1,64}: ours, and base64, which Dovecot's
 * proxy sends. */
bool xclient_session_valid(const char *s, size_t len);

/* Returns true for a DNS host name: LDH labels of 1..63 octets, 1..253 octets in
 * all, with at least one letter or hyphen (an IP literal is not a name), and
 * without a trailing dot. Allows an underscore wherever a label may have a
 * hyphen, because old hosts have such names. */
bool hostname_valid(const char *s, size_t len);

#endif
