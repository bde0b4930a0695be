/* tls_identity.h: the certificates that clients are shown, found by name. */

#ifndef NET_TLS_IDENTITY_H
#define NET_TLS_IDENTITY_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

/* Certificates and keys as read from disk: immutable, shared by the workers. */
struct tls_identity_set;

/* One entry below tls.certificate. */
struct tls_identity;

/* Loads every tls.certificate entry; without any, and with a listener that
 * needs one, makes a self-signed one with a loud warning. Faults are problems
 * at tls.certificate.NAME.cert or .key: unreadable, no PEM, encrypted key, not
 * a pair; expired or not yet valid is a warning. NULL: out of memory, or none
 * is usable (problems says so). */
struct tls_identity_set *tls_identities_load(const struct config *cfg,
    struct config_problems *problems);
void tls_identities_free(struct tls_identity_set **ids);

/* Finds name (lower case, "" for none) exactly, then as one label's wildcard,
 * then a parent domain, else the default. Costs one look into a hash for each
 * of these, whatever the number of names; looks_out (may be NULL) tells how
 * many it took. */
const struct tls_identity *tls_identities_find(const struct tls_identity_set
						   *ids,
    const char *name, unsigned *looks_out);
const struct tls_identity *tls_identities_default(const struct tls_identity_set
	*ids);

/* Makes it the only one of a context, or of one connection. False: no memory,
 * or OpenSSL refuses it (its error queue tells). */
bool tls_identity_use(const struct tls_identity *id, SSL_CTX *ctx) MUST_CHECK;
bool tls_identity_use_once(const struct tls_identity *id, SSL *ssl) MUST_CHECK;

/* For people. names, issuer: borrowed from ids; days: until it ends, negative:
 * ended. False: there is no i-th. */
struct tls_identity_info {
	char *const *name;
	size_t n_names;
	char issuer[256];
	char ends[32]; /* "2027-01-31" */
	int days;
	bool is_default, self_made;
};
bool tls_identities_info(const struct tls_identity_set *ids, size_t i,
    struct tls_identity_info *out);

#endif
