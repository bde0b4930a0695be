/* origin.h: the client that a session speaks for, as backends are told. It
 * comes from the socket and TLS until a trusted peer changes it by a PROXY
 * header or XCLIENT. It is plain data, so that a copy can restore it. */

#ifndef SESSION_ORIGIN_H
#define SESSION_ORIGIN_H

#include <stdbool.h>

#include "platform/addr.h"
#include "platform/log.h"
#include "proto/xclient.h"

struct origin {
	struct addr client, local;
	char id[XCLIENT_SESSION_MAX + 1]; /* session id, ours or adopted */
	unsigned ttl; /* hops that came in; 0 = first hop */
	/* What a trusted proxy says of its client's leg. */
	enum xclient_transport transport;
	char server_name[XCLIENT_NAME_MAX + 1]; /* valid SNI or "" */
	/* TLS of the leg that ends here; NULL: none. Static, OpenSSL's. */
	const char *tls_version, *tls_cipher;
};

/* Returns true if the client's own leg is encrypted, also if it ends at a
 * proxy. */
static inline bool
origin_encrypted(const struct origin *o)
{
	if (o->transport != XCLIENT_TRANSPORT_UNSET)
		return o->transport == XCLIENT_TRANSPORT_TLS;
	return o->tls_version != NULL;
}

/* Returns the hop budget for the next hop; proxy_ttl: the first hop's. */
static inline unsigned
origin_ttl_out(const struct origin *o, unsigned proxy_ttl)
{
	return o->ttl != 0 ? o->ttl - 1 : proxy_ttl;
}

/* log_begin() with the session's id and the client's address. */
static inline void
origin_log(struct log_line *l, int level, const struct origin *o,
    const char *what)
{
	char ip[ADDR_TEXT_MAX];

	log_begin(l, level, "%s", what);
	log_cstr(l, "session", o->id);
	log_cstr(l, "client", addr_ip(&o->client, ip));
}

#endif
