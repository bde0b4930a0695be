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
	/* A bufferevent on fd, which it owns from now on. NULL: no memory, fd
	 * stays the caller's. */
	struct bufferevent *(*plain)(struct event_base *base, int fd);
	/* The same with TLS. Takes ssl in any case. */
	struct bufferevent *(*tls)(struct event_base *base, int fd, SSL *ssl,
	    enum bufferevent_ssl_state state);
	/* From plain to TLS on the same connection. Whatever the plain one has
	 * read dies with it. Takes both in any case. NULL: no memory, and the
	 * connection is closed. */
	struct bufferevent *(*upgrade)(struct bufferevent *plain, SSL *ssl,
	    enum bufferevent_ssl_state state);
};

extern const struct transport transport_sockets;

#endif
