/* tls_trust.h: a destination's trust, for tls_client.c. Its life is in
 * net/tls_client.h. */

#ifndef NET_TLS_TRUST_H
#define NET_TLS_TRUST_H

#include <openssl/ssl.h>

#include <stdatomic.h>

struct tls_store;

struct tls_trust {
	struct tls_store *shared;
	X509_STORE *store; /* shared's; NULL: a leg in clear */
	X509 *cert; /* ours, or NULL */
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
	atomic_bool no_alpn; /* the backend refuses "pop3" */
};

#endif
