/* connector.h: connects to a destination. Resolves its name and tries its
 * addresses as RFC 8305 describes: families in turn, the next address 250 ms
 * after the last one or as soon as that has failed. The first connection
 * wins. */

#ifndef NET_CONNECTOR_H
#define NET_CONNECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "platform/addr.h"
#include "config/config.h"

struct connector;
struct event_base;
struct resolver;

enum connector_status {
	CONNECTOR_OK,
	CONNECTOR_RESOLVE, /* the name does not resolve */
	CONNECTOR_REFUSED, /* could not connect to any address */
	CONNECTOR_LOOP, /* the address is one of our own listeners */
	CONNECTOR_LOCAL /* lack of descriptors, memory or source addresses */
};

/* If OK, fd is connected and non-blocking and belongs to the callee, and peer
 * is its address. Otherwise fd is -1, and reason says why in a few words. */
typedef void connector_done(void *arg, enum connector_status status, int fd,
    const struct addr *peer, const char *reason);

/* The next of a destination's source_ips. Each family has its own turn, because
 * a connection may need an address of both. */
struct connector_turns {
	unsigned ipv4, ipv6;
};

struct connector_spec {
	struct event_base *base;
	struct resolver *resolver;
	const struct config *cfg; /* its listeners are "ourselves" */
	const struct config_destination *dest;
	uint16_t port;
	struct addr after; /* begin after this one; empty: at the first */
	struct connector_turns *turns; /* the caller's */
	connector_done *done;
	void *arg;
};

/* Starts to connect. Calls done exactly once, from the loop, unless cancelled;
 * the handle is then invalid. Has no timeout; the caller has one. Returns NULL
 * if memory is short. */
struct connector *connector_start(const struct connector_spec *spec);
void connector_cancel(struct connector **c);

/* Sets the options of both legs: no Nagle; keep-alive by tcp_user_timeout. */
void connector_tune(int fd, const struct config *cfg);

#endif
