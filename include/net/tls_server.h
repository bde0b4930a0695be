/* tls_server.h: TLS towards clients: versions, suites, SNI, ALPN, tickets. */

#ifndef NET_TLS_SERVER_H
#define NET_TLS_SERVER_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "platform/err.h"

struct tls_identity_set;

/* One worker's contexts, one per listener, because the versions differ. */
struct tls_server;

struct tls_server *tls_server_new(const struct config *cfg,
    const struct tls_identity_set *ids, struct err *err);
/* Frees it; call on the thread of its connections. Connections may outlive it
 * and ids; one whose handshake has not begun then gets the default
 * certificate. */
void tls_server_free(struct tls_server **ts);

/* Returns a connection's SSL for that listener (index). The caller frees it.
 * Returns NULL if memory is short. */
SSL *tls_server_ssl(struct tls_server *ts, size_t listener);

/* Returns the server name that the client sent if it is a host name, otherwise
 * "". Valid as long as ssl. */
const char *tls_server_sni(SSL *ssl);

/* Says why ssl's handshake failed; code: OpenSSL's, 0: the connection was
 * closed. Where no version or suite is in common, says what the client offers.
 */
void tls_server_failed(const SSL *ssl, unsigned long code, struct err *err);

/* Session ticket keys. The process has one set, so that a client can resume on
 * every worker and across reloads. The keys change once a day; the last ones
 * are kept for reading. Call init before any context is made, and tick now and
 * then with clock_ms(). */
void tls_tickets_init(void);
void tls_tickets_tick(uint64_t now);

#endif
