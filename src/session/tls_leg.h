/* tls_leg.h: what a TLS bufferevent needs besides libevent.
 *
 * Called by both legs and by the relay. */

#ifndef SESSION_TLS_LEG_H
#define SESSION_TLS_LEG_H

#include <openssl/ssl.h>

#include <stdbool.h>

struct bufferevent;

/* Counts the records that come without data, from the handshake on. Called once
 * ssl has its socket; again does no harm. */
void tls_leg_watch(SSL *ssl);

/* The handshake is done: bounds what bev gives to OpenSSL at once. */
void tls_leg_secured(struct bufferevent *bev, SSL *ssl);

/* SSL_read() has returned data. ssl: NULL does nothing. */
void tls_leg_data(SSL *ssl);

/* Returns true if ssl fails because its peer has sent too many records without
 * data. */
bool tls_leg_flooded(const SSL *ssl);

#endif
