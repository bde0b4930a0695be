/* tls_client.h: TLS towards backends: verification, and sessions to resume.
 *
 * The certificate is verified inside the handshake, so that a backend that
 * fails gets an alert. Chain and name must be valid. With
 * tls_pinned_cert_sha256 the leaf must be the pinned one instead. With
 * tls_allow_invalid_certs any certificate is accepted, but a pin must still
 * match. */

#ifndef NET_TLS_CLIENT_H
#define NET_TLS_CLIENT_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "platform/err.h"

/* A destination's trusted CAs and our certificate for it, read from disk once,
 * and whether the backend accepts ALPN. Shared by the workers. */
struct tls_trust;

/* Reports faults as problems at destination.NAME.tls_ca_file etc. and then
 * returns NULL. */
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
/* Frees it; call on the thread of its connections. Connections may outlive it;
 * a ticket that they still get is dropped. */
void tls_client_free(struct tls_client **tc);

/* Returns a connection's SSL with SNI, ALPN and verification. The caller frees
 * it. Returns NULL if memory is short. With resume it offers a session whose
 * certificates have not expired, if there is one. The session is then removed;
 * it comes back when it has served (tls_client_verified()), unless it is a TLS
 * 1.3 ticket, which serves once. */
SSL *tls_client_ssl(struct tls_client *tc, bool resume);

/* Returns true if ssl may carry a credential: the handshake is done, the
 * identity is as configured, and ALPN is pop3 or absent. Called after the
 * handshake and again before the login. */
bool tls_client_verified(struct tls_client *tc, SSL *ssl,
    struct err *err) MUST_CHECK;

/* Says why ssl's handshake failed. code is OpenSSL's, or 0 if the connection
 * was closed. Returns true if a new connection without resume may work. The
 * backend may have refused the session; then all sessions are forgotten. Or it
 * may have refused "pop3" in ALPN; then this destination does not get it
 * again. */
bool tls_client_failed(struct tls_client *tc, SSL *ssl, unsigned long code,
    struct err *err);

/* For tests: makes sessions and their certificates s seconds older. */
void tls_client_age(struct tls_client *tc, long s);

#endif
