/* connector.h: from a destination to a connected socket: resolve, then try its
 * addresses as RFC 8305 does: families in turn, the next one 250 ms after the
 * last or as soon as that failed, the first to connect wins. */

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
	CONNECTOR_REFUSED, /* no address answered well */
	CONNECTOR_LOOP, /* it is one of our own listeners */
	CONNECTOR_LOCAL /* our own fault: descriptors, memory, source address */
};

/* OK: fd is connected, non-blocking, and the callee's; peer is its address.
 * Otherwise fd is -1 and reason says why in a few words. */
typedef void connector_done(void *arg, enum connector_status status, int fd,
    const struct addr *peer, const char *reason);

/* Which of a destination's source_ips is next. Each family counts for itself:
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
	struct addr after; /* begin behind this one; none: at the first */
	struct connector_turns *turns; /* the caller's */
	connector_done *done;
	void *arg;
};

/* done is called exactly once, from the loop, unless cancelled; the handle is
 * gone then. There is no timeout here: the caller has one. NULL: no memory. */
struct connector *connector_start(const struct connector_spec *spec);
void connector_cancel(struct connector **c);

/* Options that both legs want: no Nagle, keep-alive, tcp_user_timeout. */
void connector_tune(int fd, const struct config *cfg);

#endif
