/* tls_server.h: TLS towards clients: certificates by SNI, ALPN, tickets. */

#ifndef NET_TLS_SERVER_H
#define NET_TLS_SERVER_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "platform/err.h"

/* Certificates and keys as read from disk: immutable, shared by the workers. */
struct tls_identity_set;

/* Loads every tls.certificate entry; without any, and with a listener that
 * needs one, makes a self-signed one with a loud warning. Faults are problems
 * at tls.certificate.NAME.cert or .key: unreadable, no PEM, encrypted key, not
 * a pair; expired or not yet valid is a warning. NULL: out of memory, or none
 * is usable (problems says so). */
struct tls_identity_set *tls_identities_load(const struct config *cfg,
    struct config_problems *problems);
void tls_identities_free(struct tls_identity_set **ids);

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

/* One worker's contexts: one per listener, for the versions differ. */
struct tls_server;

struct tls_server *tls_server_new(const struct config *cfg,
    const struct tls_identity_set *ids, struct err *err);
/* Connections may outlive it and ids; one whose handshake has not begun then
 * gets the default certificate. On the thread of those connections. */
void tls_server_free(struct tls_server **ts);

/* A connection's SSL for that listener (index). The caller's; NULL: no memory.
 */
SSL *tls_server_ssl(struct tls_server *ts, size_t listener);

/* The server name that the client sent, if it is a host name; else "". Valid as
 * long as ssl. */
const char *tls_server_sni(SSL *ssl);

/* Session ticket keys: one set for the process, so that a client resumes on
 * every worker and across reloads. New keys once a day, the last ones kept for
 * reading. init: before any context; tick: now and then, with clock_ms(). */
void tls_tickets_init(void);
void tls_tickets_tick(uint64_t now);

#endif
