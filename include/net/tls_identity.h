/* tls_identity.h: the certificates for clients, found by name. */

#ifndef NET_TLS_IDENTITY_H
#define NET_TLS_IDENTITY_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

/* Certificates and keys as read from disk. Immutable; shared by the workers. */
struct tls_identity_set;

/* One entry below tls.certificate. */
struct tls_identity;

/* Loads every tls.certificate entry. If there is none and a listener needs one,
 * makes a self-signed certificate with a loud warning. Reports faults as
 * problems at tls.certificate.NAME.cert or .key: unreadable, not PEM, encrypted
 * key, not a pair. Warns of a certificate that has expired or is not valid yet.
 * Returns NULL if memory is short or no certificate is usable (problems says
 * so). */
struct tls_identity_set *tls_identities_load(const struct config *cfg,
    struct config_problems *problems);
void tls_identities_free(struct tls_identity_set **ids);

/* Finds the identity for name (lower case, "" for none): the exact name, then a
 * wildcard for one label, then a parent domain, then the default. Each step
 * costs one hash lookup, for any number of names; looks_out (may be NULL) gets
 * the number of lookups. */
const struct tls_identity *tls_identities_find(const struct tls_identity_set
						   *ids,
    const char *name, unsigned *looks_out);
const struct tls_identity *tls_identities_default(const struct tls_identity_set
	*ids);

/* Makes it the only identity of a context or of one connection. Returns false
 * if memory is short or OpenSSL refuses it (see its error queue). */
bool tls_identity_use(const struct tls_identity *id, SSL_CTX *ctx) MUST_CHECK;
bool tls_identity_use_once(const struct tls_identity *id, SSL *ssl) MUST_CHECK;

/* Describes the i-th identity for people. names and issuer are borrowed from
 * ids. days is the time to its expiry, negative if it has expired. Returns
 * false if there is no i-th. */
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
