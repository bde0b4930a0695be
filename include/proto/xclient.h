/* xclient.h: the XCLIENT command as Dovecot's POP3 login service takes it:
 * "XCLIENT NAME=value ...", addresses bare. Only typed values go out, so that
 * nothing a stranger chose can add a word or a line. */

#ifndef PROTO_XCLIENT_H
#define PROTO_XCLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "platform/addr.h"
#include "platform/util.h"

#define XCLIENT_LINE_MAX 900 /* Dovecot reads 1,024 */
#define XCLIENT_SESSION_MAX 64 /* of [A-Za-z0-9._-] */
#define XCLIENT_NAME_MAX 253 /* a DNS name */

enum xclient_transport {
	XCLIENT_TRANSPORT_UNSET,
	XCLIENT_TRANSPORT_INSECURE,
	XCLIENT_TRANSPORT_TLS
};

struct xclient {
	struct addr addr; /* ADDR and PORT; len 0 = not said */
	bool has_port;
	struct addr dest; /* DESTADDR and DESTPORT */
	bool has_dest_port;
	char session[XCLIENT_SESSION_MAX + 1]; /* "" = not said */
	unsigned ttl; /* 1..255; 0 = not said */
	enum xclient_transport transport;
	char dest_name[XCLIENT_NAME_MAX + 1]; /* DESTNAME; "" = not said */
};

/* Formats the command without CRLF into out (size octets); returns its length,
 * or 0 when a value breaks its own rule (see the checks below) or the line
 * would pass XCLIENT_LINE_MAX; then nothing may be sent. Order: ADDR PORT
 * DESTADDR DESTPORT SESSION TTL CLIENT-TRANSPORT DESTNAME; unset ones are left
 * out, and so is a port 0, which Dovecot refuses. */
size_t xclient_format(const struct xclient *x, char *out, size_t size);

/* Parses what stands behind "XCLIENT ". Names in any case; unknown ones are
 * skipped; ADDR may be bare, in brackets or "IPV6:..."; a PORT without ADDR, a
 * name twice, a value that is malformed (PORT=0 and TTL=0 are), no "=": false.
 * SESSION over 64 octets, or not printable ASCII: false; one of other printable
 * characters than ours counts as not said, since the ids of Dovecot's proxy are
 * base64. So do "[UNAVAILABLE]" and "[TEMPUNAVAIL]" (Postfix). More than one
 * space between words is fine. *out is undefined when false. */
bool xclient_parse(const char *arg, size_t len, struct xclient *out) MUST_CHECK;

/* [A-Za-z0-9._-]{1,64} */
bool xclient_session_valid(const char *s, size_t len);

/* A DNS host name: LDH labels of 1..63, 1..253 octets, at least one letter or
 * hyphen in it (an IP literal is none), a trailing dot is not part of it.
 * Underscores are let through inside labels, as old hosts have them, where a
 * hyphen could stand. */
bool hostname_valid(const char *s, size_t len);

#endif
