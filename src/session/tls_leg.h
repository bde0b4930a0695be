/* tls_leg.h: what a TLS bufferevent needs beyond what libevent does for it.
 *
 * Called by both legs and by the relay. */

#ifndef SESSION_TLS_LEG_H
#define SESSION_TLS_LEG_H

#include <openssl/ssl.h>

struct bufferevent;

/* The handshake is done: bounds what bev gives to OpenSSL at once. */
void tls_leg_secured(struct bufferevent *bev, const SSL *ssl);

#endif
