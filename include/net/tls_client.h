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

/* A destination's trusted CAs and our certificate for it: read from disk once,
 * immutable, shared by the workers. */
struct tls_trust;

/* Faults are problems at destination.NAME.tls_ca_file etc.; NULL then. */
struct tls_trust *tls_trust_load(const struct config *cfg, size_t destination,
    struct config_problems *problems);
void tls_trust_free(struct tls_trust **trust);

/* One destination as one worker sees it: a context and its cached sessions.
 * dest and trust are borrowed for its life. */
struct tls_client;

struct tls_client *tls_client_new(const struct config_destination *dest,
    const struct tls_trust *trust, struct err *err);
/* Connections may outlive it, whatever still arrives for them: a late ticket is
 * dropped. On the thread of those connections. */
void tls_client_free(struct tls_client **tc);

/* A connection's SSL with SNI, ALPN, verification, and a session to resume when
 * there is one (TLS 1.3 tickets serve once). The caller's; NULL: no memory. */
SSL *tls_client_ssl(struct tls_client *tc);

/* Whether ssl may carry a credential: handshake done, identity as configured,
 * no ALPN but pop3. For after the handshake, and again before the login. */
bool tls_client_verified(const struct tls_client *tc, SSL *ssl,
    struct err *err) MUST_CHECK;

#endif
