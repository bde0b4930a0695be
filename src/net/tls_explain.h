/* tls_explain.h: why a handshake failed, in words that name the cure. */

#ifndef NET_TLS_EXPLAIN_H
#define NET_TLS_EXPLAIN_H

#include <openssl/ssl.h>

#include <stdbool.h>

#include "platform/err.h"

/* Before any context. False: no memory. */
bool tls_explain_init(void) MUST_CHECK;

/* For SSL_CTX_set_verify(): remembers what tls_explain_backend() says of a
 * certificate that is refused, which is gone by then. */
int tls_explain_verify_cb(int ok, X509_STORE_CTX *store);

/* Towards a backend; code: OpenSSL's, 0: the connection was closed. */
void tls_explain_backend(const SSL *ssl, unsigned long code, struct err *err);

/* Towards a client: with what it offers, where nothing is in common. */
void tls_explain_client(const SSL *ssl, unsigned long code, struct err *err);

#endif
