/* handed.h: listening sockets that whoever started us has opened already: the
 * service manager (socket activation), or a predecessor.
 *
 * Where they come from is handed_add()'s caller's business; what they are used
 * for is told by their local addresses alone. */

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

/* Takes fd over, whatever happens. -1: it is no listening TCP socket,
 * or one of IPv6 that takes IPv4 too. */
int handed_add(struct handed *h, int fd, struct err *err) MUST_CHECK;

/* Everything in $LISTEN_FDS, which is forgotten: children are not meant. */
int handed_from_environment(struct handed *h, struct err *err) MUST_CHECK;

/* A socket that listens on addr, or -1. The caller's from now on. */
int handed_take(struct handed *h, const struct addr *addr);

/* -1 when one has not been taken: a socket that nobody serves would let its
 * clients wait for nothing. */
int handed_check(const struct handed *h, struct err *err) MUST_CHECK;

/* Closes those that were not taken. */
void handed_clear(struct handed *h);

#endif
