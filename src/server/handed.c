/* handed.c: inherited descriptors. Only their local addresses identify them,
 * because names and numbers may be wrong. */

#include "handed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "systemd.h"

static const char *handed_inspect(int fd, struct addr *addr);
static bool handed_takes_both(int fd, const struct addr *addr);

/* Returns what is wrong with it, or NULL. */
static const char *
handed_inspect(int fd, struct addr *addr)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss), size = sizeof(int);
	int value = 0, flags;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &size) == -1)
		return strerror(errno);
	if (value != SOCK_STREAM)
		return "not a stream socket";
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == -1)
		return strerror(errno);
	if (value == 0)
		return "it does not listen (Accept=yes is not supported)";
	if (getsockname(fd, (struct sockaddr *)&ss, &len) == -1)
		return strerror(errno);
	addr_set(addr, (struct sockaddr *)&ss, len);
	if (addr->len == 0)
		return "neither IPv4 nor IPv6";
	if (handed_takes_both(fd, addr))
		return "[::] takes IPv4 as well (set BindIPv6Only=ipv6-only)";
	flags = fcntl(fd, F_GETFL);
	if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) == -1)
		return strerror(errno);
	return NULL;
}

/* "[::]" must be IPv6 only, like mailferry's own sockets. Otherwise the loop
 * check would not know that 127.0.0.1 at that port is mailferry itself. */
static bool
handed_takes_both(int fd, const struct addr *addr)
{
	int only = 0;
	socklen_t len = sizeof(only);

	return addr->u.sa.sa_family == AF_INET6 && addr_is_unspecified(addr) &&
	    (getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &len) == -1 ||
		only == 0);
}

int
handed_add(struct handed *h, int fd, struct err *err)
{
	struct handed_socket *grown, s = {.fd = fd};
	const char *wrong = handed_inspect(fd, &s.addr);

	if (wrong != NULL) {
		close(fd);
		return err_set(err, "descriptor %d, which was handed in: %s",
		    fd, wrong);
	}
	grown = realloc(h->socket, (h->n + 1) * sizeof(*grown));
	if (grown == NULL) {
		close(fd);
		return err_set(err, "out of memory");
	}
	h->socket = grown;
	h->socket[h->n++] = s;
	return 0;
}

int
handed_from_environment(struct handed *h, struct err *err)
{
	int first, n = systemd_listen_fds(&first);

	if (n < 0)
		return err_set(err, "LISTEN_FDS: %s", strerror(-n));
	for (int fd = first; fd < first + n; fd++)
		if (handed_add(h, fd, err) == -1)
			return -1;
	return 0;
}

int
handed_take(struct handed *h, const struct addr *addr)
{
	for (size_t i = 0; i < h->n; i++) {
		struct handed_socket *s = &h->socket[i];
		int fd = s->fd;

		if (fd == -1 || !addr_same_ip(&s->addr, addr) ||
		    addr_port(&s->addr) != addr_port(addr))
			continue;
		s->fd = -1;
		return fd;
	}
	return -1;
}

int
handed_check(const struct handed *h, struct err *err)
{
	char text[ADDR_TEXT_MAX];

	for (size_t i = 0; i < h->n; i++) {
		if (h->socket[i].fd == -1)
			continue;
		return err_set(err,
		    "a socket that listens on %s was handed in, but no "
		    "listener has %s in its bind (or more sockets of it came "
		    "than there are workers)",
		    addr_text(&h->socket[i].addr, text), text);
	}
	return 0;
}

void
handed_clear(struct handed *h)
{
	for (size_t i = 0; i < h->n; i++)
		if (h->socket[i].fd != -1)
			close(h->socket[i].fd);
	free(h->socket);
	h->socket = NULL;
	h->n = 0;
}
