/* tls_client.h: TLS towards backends: whom to trust, and sessions to resume.
 *
 * The certificate is judged inside the handshake, so that a backend that fails
 * gets its alert: the chain and the name, or with tls_pinned_cert_sha256
 * exactly that leaf instead of both, or nothing with tls_allow_invalid_certs
 * (a pin, if there is one, must match all the same). */

#ifndef NET_TLS_CLIENT_H
#define NET_TLS_CLIENT_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "platform/err.h"

/* A destination's trusted CAs and our certificate for it, read from disk once;
 * whether the backend takes ALPN. Shared by the workers. */
struct tls_trust;

/* Faults are problems at destination.NAME.tls_ca_file etc.; NULL then. */
struct tls_trust *tls_trust_load(const struct config *cfg, size_t destination,
    struct config_problems *problems);
void tls_trust_free(struct tls_trust **trust);

/* For tests: whether both trust the very same CAs, read once. */
bool tls_trust_same(const struct tls_trust *a, const struct tls_trust *b);

/* One destination as one worker sees it: a context and its cached sessions.
 * dest and trust are borrowed for its life. */
struct tls_client;

struct tls_client *tls_client_new(const struct config_destination *dest,
    struct tls_trust *trust, struct err *err);
/* Connections may outlive it, whatever still arrives for them: a late ticket is
 * dropped. On the thread of those connections. */
void tls_client_free(struct tls_client **tc);

/* A connection's SSL with SNI, ALPN and verification; with resume also a
 * session, if there is one whose certificates have not expired. The session is
 * taken out: it comes back once it has served (tls_client_verified()), unless
 * it is a TLS 1.3 ticket, which serves once. The caller's; NULL: no memory. */
SSL *tls_client_ssl(struct tls_client *tc, bool resume);

/* Whether ssl may carry a credential: handshake done, identity as configured,
 * no ALPN but pop3. For after the handshake, and again before the login. */
bool tls_client_verified(struct tls_client *tc, SSL *ssl,
    struct err *err) MUST_CHECK;

/* Says why ssl's handshake failed; code: OpenSSL's, 0: the connection was
 * closed. Returns true if a fresh connection, without resume, is worth a try:
 * the backend may have disliked the session, and all of them are forgotten
 * now; or "pop3" in ALPN, which this destination is not offered again. */
bool tls_client_failed(struct tls_client *tc, SSL *ssl, unsigned long code,
    struct err *err);

/* For tests: sessions and their certificates seem s seconds older. */
void tls_client_age(struct tls_client *tc, long s);

#endif
