/* proxy_protocol.h: the PROXY protocol, versions 1 and 2 (HAProxy's
 * specification, section numbers as there). Version 2 is what goes out. */

#ifndef PROTO_PROXY_PROTOCOL_H
#define PROTO_PROXY_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platform/addr.h"
#include "platform/util.h"
#include "proto/xclient.h"

#define PROXY_HEADER_MAX 4096 /* longer headers are refused unread */

#define PROXY_TLV_SESSION 0xE0 /* our session id, ASCII */
#define PROXY_TLV_TTL 0xE1 /* hop budget, one octet */

enum proxy_status {
	PROXY_OK,
	PROXY_MORE, /* a header so far; more octets are needed */
	PROXY_NONE, /* does not begin like a header */
	PROXY_BAD /* begins like one and is malformed or too long */
};

struct proxy_header {
	bool local; /* LOCAL, UNKNOWN, UNSPEC, AF_UNIX: keep the socket's */
	struct addr src, dst; /* len 0 when local */
	bool has_tls; /* an SSL TLV was there (v2) */
	bool tls; /* ... and its PP2_CLIENT_SSL bit is set */
	/* Other proxies use 0xE0 and 0xE1 as well: what does not look like
	 * ours is none. */
	char session[XCLIENT_SESSION_MAX + 1]; /* TLV 0xE0; "" = none */
	unsigned ttl; /* TLV 0xE1; 0 = none */
	char authority[XCLIENT_NAME_MAX +
	    1]; /* TLV 0x02; "" = none or no name */
};

/* Looks at the first octets of a connection. OK: *used_out octets are the
 * header. MORE with *used_out = at least how many octets in all are needed to
 * tell more (> len). v1: at most 107 octets with CRLF. v2: length <=
 * PROXY_HEADER_MAX in all; a CRC-32C TLV (0x03) is verified; TLVs that are
 * unknown are skipped, those that overrun, or that we know and that come twice,
 * are BAD; NOOP fine. LOCAL and UNSPEC: nothing behind the length is looked at.
 * UDP and AF_UNIX: their addresses are skipped (local), their TLVs read. Unless
 * OK, *out is zeroed; unless OK or MORE, *used_out is 0. */
enum proxy_status proxy_header_parse(const uint8_t *data, size_t len,
    struct proxy_header *out, size_t *used_out) MUST_CHECK;

struct proxy_out {
	struct addr src, dst;
	bool tls; /* the client leg is encrypted: SSL TLV with the two below */
	const char *tls_version; /* "TLSv1.3"; NULL = unknown */
	const char *tls_cipher; /* "TLS_AES_256_GCM_SHA384"; NULL = unknown */
	const char
	    *authority; /* the client's valid SNI name; "", NULL = none */
	const char *session; /* "", NULL = none */
	unsigned ttl; /* 0 = none */
};

/* Formats a version 2 PROXY header into out (size octets); returns its length,
 * 0: an address is missing or a value breaks its rule. Families that differ:
 * the IPv4 side is written ::ffff:a.b.c.d under AF_INET6. */
size_t proxy_header_format(const struct proxy_out *p, uint8_t *out,
    size_t size);

#endif
