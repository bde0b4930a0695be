/* transport.h: how the legs get their connections and bufferevents. The daemon
 * uses sockets; tests put bufferevent pairs in their place. */

#ifndef SESSION_TRANSPORT_H
#define SESSION_TRANSPORT_H

#include <event2/bufferevent_ssl.h>
#include <openssl/ssl.h>

#include "net/connector.h"

struct transport {
	/* As connector_start() and connector_cancel(). */
	struct connector *(*connect)(const struct connector_spec *spec);
	void (*cancel)(struct connector **c);
	/* Returns a bufferevent that owns fd, or NULL if memory is short; the
	 * caller then still owns fd. */
	struct bufferevent *(*plain)(struct event_base *base, int fd);
	/* Does the same with TLS. Takes ownership of ssl in any case. */
	struct bufferevent *(*tls)(struct event_base *base, int fd, SSL *ssl,
	    enum bufferevent_ssl_state state);
	/* Switches a connection from plain to TLS, and frees what the plain
	 * bufferevent has read. Takes ownership of both in any case. Returns
	 * NULL if memory is short; the connection is then closed. */
	struct bufferevent *(*upgrade)(struct bufferevent *plain, SSL *ssl,
	    enum bufferevent_ssl_state state);
};

extern const struct transport transport_sockets;

#endif
