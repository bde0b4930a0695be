/* tls_leg.c: TLS bufferevents against what strangers negotiate.
 *
 * With SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_write() takes one record of a longer
 * chain, and libevent goes on with the next chain, as if all had been taken.
 * libevent looks at chains until it has seen as many octets as it may write
 * at once. If these are one record at most, only the last chain can be longer
 * than a record, and no octet is passed over. */

#include "tls_leg.h"

#include <stdint.h>

#include <event2/bufferevent.h>

static size_t tls_leg_record(const SSL *ssl);

void
tls_leg_secured(struct bufferevent *bev, const SSL *ssl)
{
	bufferevent_set_max_single_write(bev, tls_leg_record(ssl));
}

/* Returns how many octets one record carries (RFC 6066, max_fragment_length).
 * OpenSSL ignores RFC 8449's record_size_limit. */
static size_t
tls_leg_record(const SSL *ssl)
{
	uint8_t code =
	    SSL_SESSION_get_max_fragment_length(SSL_get0_session(ssl));

	if (code == TLSEXT_max_fragment_length_DISABLED)
		return SSL3_RT_MAX_PLAIN_LENGTH;
	return (size_t)512 << (code - TLSEXT_max_fragment_length_512);
}
