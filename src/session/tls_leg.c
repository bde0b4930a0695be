/* tls_leg.c: TLS bufferevents against what strangers may do.
 *
 * Small records: with SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_write() takes one
 * record of a longer chain, and libevent goes on with the next chain, as if all
 * had been taken. libevent looks at chains until it has seen as many octets as
 * it may write at once. If these are one record at most, only the last chain
 * can be longer than a record, and no octet is passed over.
 *
 * Records without data: KeyUpdate, and TLS 1.2's requests for a renegotiation.
 * The contexts lack SSL_MODE_AUTO_RETRY, so that SSL_read() returns after each
 * of them and nobody waits; but they cost as much as data, and mean nothing in
 * such numbers. A callback of the socket's BIO counts reads that got all they
 * asked for: two a record, however the record was cut. The count lives in the
 * callback's argument: no memory, and no time worth measuring. */

#include "tls_leg.h"

#include <stdint.h>

#include <event2/bufferevent.h>
#include <openssl/bio.h>

#include "platform/util.h"

/* In reads, two a record. */
#define TLS_LEG_CREDIT 8 /* per piece of data */
#define TLS_LEG_MAX 512 /* without data; then it is a flood */

static long tls_leg_bio_cb(BIO *bio, int what, const char *data, size_t len,
    int argi, long argl, int ret, size_t *processed);
static size_t tls_leg_reads(const BIO *bio);
static void tls_leg_set_reads(BIO *bio, size_t reads);
static size_t tls_leg_record(const SSL *ssl);

void
tls_leg_watch(SSL *ssl)
{
	BIO *bio = SSL_get_rbio(ssl);

	if (BIO_get_callback_ex(bio) == tls_leg_bio_cb)
		return;
	tls_leg_set_reads(bio, 0);
	BIO_set_callback_ex(bio, tls_leg_bio_cb);
}

void
tls_leg_secured(struct bufferevent *bev, SSL *ssl)
{
	bufferevent_set_max_single_write(bev, tls_leg_record(ssl));
	tls_leg_watch(ssl);
	tls_leg_set_reads(SSL_get_rbio(ssl), 0);
}

/* Data that comes with every few records pays for them. It does not make up for
 * hundreds. */
void
tls_leg_data(SSL *ssl)
{
	BIO *bio = ssl != NULL ? SSL_get_rbio(ssl) : NULL;
	size_t reads = bio != NULL ? tls_leg_reads(bio) : 0;

	if (reads > 0)
		tls_leg_set_reads(bio,
		    reads > TLS_LEG_CREDIT ? reads - TLS_LEG_CREDIT : 0);
}

bool
tls_leg_flooded(const SSL *ssl)
{
	return ssl != NULL && tls_leg_reads(SSL_get_rbio(ssl)) >= TLS_LEG_MAX;
}

/* OpenSSL calls it before and after whatever it does with the socket; what it
 * returns before a read that is not positive is the read's result. */
static long
tls_leg_bio_cb(BIO *bio, int what, const char *data UNUSED, size_t len,
    int argi UNUSED, long argl UNUSED, int ret, size_t *processed)
{
	size_t reads = tls_leg_reads(bio);

	if (what == BIO_CB_READ && reads >= TLS_LEG_MAX) {
		BIO_clear_retry_flags(bio);
		return -1;
	}
	if (what == (BIO_CB_READ | BIO_CB_RETURN) && ret > 0 &&
	    *processed == len)
		tls_leg_set_reads(bio, reads + 1);
	return ret;
}

static size_t
tls_leg_reads(const BIO *bio)
{
	return (uintptr_t)BIO_get_callback_arg(bio);
}

static void
tls_leg_set_reads(BIO *bio, size_t reads)
{
	BIO_set_callback_arg(bio, (char *)(uintptr_t)reads);
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
