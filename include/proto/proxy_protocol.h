/* proxy_protocol.h: the PROXY protocol, versions 1 and 2. Section numbers are
 * those of HAProxy's specification. mailferry sends version 2. */

#ifndef PROTO_PROXY_PROTOCOL_H
#define PROTO_PROXY_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platform/addr.h"
#include "platform/util.h"
#include "proto/xclient.h"

#define PROXY_HEADER_MAX 4096 /* a longer header is refused unread */

#define PROXY_TLV_SESSION 0xE0 /* our session id, ASCII */
#define PROXY_TLV_TTL 0xE1 /* hop budget, one octet */

enum proxy_status {
	PROXY_OK,
	PROXY_MORE, /* the begin of a header; more octets are needed */
	PROXY_NONE, /* does not begin like a header */
	PROXY_BAD /* begins like a header and is malformed or too long */
};

struct proxy_header {
	bool local; /* LOCAL, UNKNOWN, UNSPEC, AF_UNIX: keep the socket's */
	struct addr src, dst; /* len 0 when local */
	bool has_tls; /* the header has an SSL TLV (v2) */
	bool tls; /* ... and its PP2_CLIENT_SSL bit is set */
	/* Other proxies use 0xE0 and 0xE1 as well, so a value of another form
	 * counts as absent. */
	char session[XCLIENT_SESSION_MAX + 1]; /* TLV 0xE0; "" = none */
	unsigned ttl; /* TLV 0xE1; 0 = none */
	char authority[XCLIENT_NAME_MAX +
	    1]; /* TLV 0x02; "" = none or no name */
};

/* Parses the first octets of a connection.
 *
 * Returns OK if they begin with a header of *used_out octets. Returns MORE if at
 * least *used_out octets (> len) are needed. Zeroes *out unless the result is
 * OK; *used_out is 0 unless the result is OK or MORE.
 *
 * Version 1 has at most 107 octets with CRLF. Version 2 has at most
 * PROXY_HEADER_MAX octets. A CRC-32C TLV (0x03) is verified. Unknown TLVs and
 * NOOP are skipped. A TLV that overruns the header, and a known TLV that occurs
 * twice, are BAD. For LOCAL and UNSPEC nothing after the length is read. For UDP
 * and AF_UNIX the addresses are skipped (local) and the TLVs are read. */
enum proxy_status proxy_header_parse(const uint8_t *data, size_t len,
    struct proxy_header *out, size_t *used_out) MUST_CHECK;

struct proxy_out {
	struct addr src, dst;
	bool tls; /* the client leg is encrypted; adds an SSL TLV */
	const char *tls_version; /* "TLSv1.3"; NULL = unknown */
	const char *tls_cipher; /* "TLS_AES_256_GCM_SHA384"; NULL = unknown */
	const char
	    *authority; /* the client's valid SNI name; "", NULL = none */
	const char *session; /* "", NULL = none */
	unsigned ttl; /* 0 = none */
};

/* Formats a version 2 PROXY header into out (size octets). Returns its length,
 * or 0 if an address is missing or a value is not valid. If the families differ,
 * writes the IPv4 side as ::ffff:a.b.c.d under AF_INET6. */
size_t proxy_header_format(const struct proxy_out *p, uint8_t *out,
    size_t size);

#endif
