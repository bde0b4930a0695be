/* handed.h: listening sockets that are inherited from the service manager
 * (socket activation) or from a predecessor.
 *
 * The caller of handed_add() knows their origin. Their local addresses alone
 * decide their use. */

#ifndef SERVER_HANDED_H
#define SERVER_HANDED_H

#include <stddef.h>

#include "platform/addr.h"
#include "platform/err.h"

struct handed_socket {
	int fd; /* -1: taken */
	struct addr addr;
};

struct handed {
	size_t n;
	struct handed_socket *socket;
};

/* Takes ownership of fd in any case. Returns -1 if it is not a listening TCP
 * socket, or an IPv6 socket that accepts IPv4 too. */
int handed_add(struct handed *h, int fd, struct err *err) MUST_CHECK;

/* Adds everything in $LISTEN_FDS, and unsets it, because it is not for
 * children. */
int handed_from_environment(struct handed *h, struct err *err) MUST_CHECK;

/* Returns a socket that listens on addr, or -1. The caller owns it. */
int handed_take(struct handed *h, const struct addr *addr);

/* Returns -1 if a socket is left, because the clients of a socket that nobody
 * serves would wait forever. */
int handed_check(const struct handed *h, struct err *err) MUST_CHECK;

/* Closes those that were not taken. */
void handed_clear(struct handed *h);

#endif
