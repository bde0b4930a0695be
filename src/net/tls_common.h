/* tls_common.h: the common part of both sides of TLS. */

#ifndef NET_TLS_COMMON_H
#define NET_TLS_COMMON_H

#include <openssl/ssl.h>

#include <stdbool.h>

#include "config/config.h"
#include "platform/err.h"

/* "\x04pop3": RFC 7301's list of one. */
extern const unsigned char tls_alpn[5];

/* Sets the modes and options of every context. */
void tls_common_options(SSL_CTX *ctx);

/* Returns OpenSSL's number for a version. */
int tls_common_version(enum tls_version v);

/* Makes OpenSSL parse the certificate's extensions now. Otherwise the first
 * thread that needs them would write them while other threads read. */
void tls_common_settle(X509 *cert);

/* Reads a PEM file's leaf, chain (may be empty) and key. Returns 0, or -1 with
 * err. */
int tls_common_load_cert(const char *path, X509 **leaf_out,
    STACK_OF(X509) * *chain_out, struct err *err) MUST_CHECK;
int tls_common_load_key(const char *path, EVP_PKEY **key_out,
    struct err *err) MUST_CHECK;

/* Says why there is no such thing (what) in a file: another format, nothing of
 * the kind, or what is in OpenSSL's error queue. Always -1. */
int tls_common_not_pem(const char *path, const char *what, struct err *err);

#endif
