/* connector.c: resolve and connect, several addresses at once if need be. */

#include "net/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "net/resolver.h"

#define CONNECTOR_ADDRS_MAX RESOLVER_ADDRS_MAX
#define CONNECTOR_STAGGER_MS 250 /* RFC 8305 §8: Connection Attempt Delay */

struct connector_attempt {
	struct connector *owner;
	struct addr addr;
	int fd; /* -1: not started, or ended */
	struct event *ev;
};

struct connector {
	struct connector_spec spec;
	struct resolver_query *lookup; /* NULL: none in flight */
	struct event *timer; /* next attempt, or the end */
	struct connector_attempt attempt[CONNECTOR_ADDRS_MAX];
	size_t n_attempts, n_started, n_open;
	enum connector_status status; /* of the most telling failure */
	char reason[160];
};

static void connector_free(struct connector *c);
static void connector_after(struct connector *c, int ms);
static void connector_resolved(void *arg, const struct addr *addrs, size_t n,
    const char *reason);
static void connector_sort(struct connector *c, const struct addr *addrs,
    size_t n);
static void connector_rotate(struct connector *c);
static void connector_timer_cb(evutil_socket_t fd, short what, void *arg);
static void connector_next(struct connector *c);
static bool connector_try(struct connector *c, struct connector_attempt *a);
static bool connector_bind(struct connector *c, struct connector_attempt *a);
static void connector_ready_cb(evutil_socket_t fd, short what, void *arg);
static void connector_attempt_over(struct connector_attempt *a);
static void connector_failed(struct connector *c, enum connector_status status,
    const struct addr *addr, const char *why);
static void connector_end(struct connector *c, int fd, const struct addr *peer);
static bool connector_is_ours(const struct config *cfg, const struct addr *a);
static bool connector_is_local(const struct addr *a);
static bool connector_is_own_source(int fd, const struct addr *a);

struct connector *
connector_start(const struct connector_spec *spec)
{
	struct connector *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->spec = *spec;
	c->status = CONNECTOR_LOCAL;
	snprintf(c->reason, sizeof(c->reason), "out of memory");
	for (size_t i = 0; i < CONNECTOR_ADDRS_MAX; i++) {
		c->attempt[i].fd = -1;
		c->attempt[i].owner = c;
	}
	c->timer = evtimer_new(spec->base, connector_timer_cb, c);
	if (c->timer == NULL) {
		free(c);
		return NULL;
	}
	if (spec->dest->host_addr.len != 0) {
		c->attempt[0].addr = spec->dest->host_addr;
		c->n_attempts = 1;
		connector_after(c, 0);
	} else {
		c->lookup = resolver_lookup(spec->resolver, spec->dest->host,
		    connector_resolved, c);
	}
	return c;
}

void
connector_cancel(struct connector **cp)
{
	struct connector *c = *cp;

	*cp = NULL;
	if (c != NULL)
		connector_free(c);
}

static void
connector_free(struct connector *c)
{
	for (size_t i = 0; i < c->n_started; i++)
		connector_attempt_over(&c->attempt[i]);
	event_free(c->timer);
	resolver_cancel(&c->lookup);
	free(c);
}

static void
connector_after(struct connector *c, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	evtimer_add(c->timer, &tv);
}

static void
connector_resolved(void *arg, const struct addr *addrs, size_t n,
    const char *reason)
{
	struct connector *c = arg;

	c->lookup = NULL;
	connector_sort(c, addrs, n);
	connector_rotate(c);
	if (n == 0)
		connector_failed(c, CONNECTOR_RESOLVE, NULL, reason);
	connector_after(c, 0);
}

/* Sorts addresses: families in turn, otherwise the resolver's order (RFC 8305
 * §4). */
static void
connector_sort(struct connector *c, const struct addr *addrs, size_t n)
{
	bool used[CONNECTOR_ADDRS_MAX] = {false};
	int family = n > 0 ? addrs[0].u.sa.sa_family : AF_INET;

	while (c->n_attempts < n) {
		size_t i, pick = n;

		for (i = 0; i < n; i++) {
			if (used[i])
				continue;
			if (addrs[i].u.sa.sa_family == family) {
				pick = i;
				break;
			}
			if (pick == n)
				pick = i;
		}
		used[pick] = true;
		c->attempt[c->n_attempts++].addr = addrs[pick];
		family =
		    addrs[pick].u.sa.sa_family == AF_INET ? AF_INET6 : AF_INET;
	}
}

/* A server that accepts and then fails would fail again, so its address comes
 * last and the addresses after it come first. */
static void
connector_rotate(struct connector *c)
{
	struct addr order[CONNECTOR_ADDRS_MAX];
	size_t first = 0, n = c->n_attempts;

	for (size_t i = 0; i < n; i++) {
		order[i] = c->attempt[i].addr;
		if (addr_same_ip(&order[i], &c->spec.after))
			first = i + 1;
	}
	for (size_t i = 0; i < n; i++)
		c->attempt[i].addr = order[(first + i) % n];
}

static void
connector_timer_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	connector_next(arg);
}

/* Starts the next address. Ends if none is left and none is open. */
static void
connector_next(struct connector *c)
{
	while (c->n_started < c->n_attempts) {
		if (connector_try(c, &c->attempt[c->n_started++])) {
			if (c->n_started < c->n_attempts)
				connector_after(c, CONNECTOR_STAGGER_MS);
			return;
		}
	}
	if (c->n_open == 0)
		connector_end(c, -1, NULL);
}

static bool
connector_try(struct connector *c, struct connector_attempt *a)
{
	addr_set_port(&a->addr, c->spec.port);
	if (connector_is_ours(c->spec.cfg, &a->addr)) {
		connector_failed(c, CONNECTOR_LOOP, &a->addr,
		    "is one of our own listeners");
		return false;
	}
	a->fd = socket(a->addr.u.sa.sa_family,
	    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (a->fd == -1) {
		connector_failed(c,
		    errno == EAFNOSUPPORT ? CONNECTOR_REFUSED : CONNECTOR_LOCAL,
		    &a->addr, strerror(errno));
		return false;
	}
	c->n_open++;
	connector_tune(a->fd, c->spec.cfg);
	if (c->spec.cfg->server.socket_buffer != 0) {
		int size = (int)c->spec.cfg->server.socket_buffer;

		setsockopt(a->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	}
	if (!connector_bind(c, a)) {
		connector_attempt_over(a);
		return false;
	}
	if (connect(a->fd, &a->addr.u.sa, a->addr.len) == -1 &&
	    errno != EINPROGRESS) {
		bool local = errno == EADDRNOTAVAIL || errno == ENOBUFS ||
		    errno == ENOMEM || errno == EAGAIN;

		connector_failed(c, local ? CONNECTOR_LOCAL : CONNECTOR_REFUSED,
		    &a->addr, strerror(errno));
		connector_attempt_over(a);
		return false;
	}
	a->ev = event_new(c->spec.base, a->fd, EV_WRITE, connector_ready_cb, a);
	if (a->ev == NULL || event_add(a->ev, NULL) == -1) {
		connector_failed(c, CONNECTOR_LOCAL, NULL, "out of memory");
		connector_attempt_over(a);
		return false;
	}
	return true;
}

/* Sets the next source address of the family. Without source_ips the kernel
 * chooses. */
static bool
connector_bind(struct connector *c, struct connector_attempt *a)
{
	const struct config_destination *d = c->spec.dest;
	int family = a->addr.u.sa.sa_family, on = 1;
	unsigned *next =
	    family == AF_INET ? &c->spec.turns->ipv4 : &c->spec.turns->ipv6;
	bool any = false;

	for (size_t i = 0; i < d->n_source_ips; i++) {
		const struct addr *src =
		    &d->source_ips[(*next)++ % d->n_source_ips];

		if (src->u.sa.sa_family != family)
			continue;
		any = true;
#ifdef IP_BIND_ADDRESS_NO_PORT
		setsockopt(a->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on,
		    sizeof(on));
#endif
		if (bind(a->fd, &src->u.sa, src->len) == 0)
			return true;
	}
	if (!any && d->n_source_ips > 0)
		connector_failed(c, CONNECTOR_LOCAL, &a->addr,
		    "no source_ips of this family");
	else if (any)
		connector_failed(c, CONNECTOR_LOCAL, &a->addr,
		    "cannot use any source_ips");
	return d->n_source_ips == 0;
}

static void
connector_ready_cb(evutil_socket_t fd, short what UNUSED, void *arg)
{
	struct connector_attempt *a = arg;
	struct connector *c = a->owner;
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		error = errno;
	/* A refusal is ECONNREFUSED. A reset comes from a server that has
	 * accepted, and may concern only this client; the leg then finds the
	 * connection closed. */
	if (error == 0 || error == ECONNRESET) {
		struct addr peer = a->addr;

		a->fd = -1; /* now owned by the callee */
		c->n_open--;
		connector_end(c, fd, &peer);
		return;
	}
	connector_failed(c, CONNECTOR_REFUSED, &a->addr, strerror(error));
	connector_attempt_over(a);
	if (c->n_started < c->n_attempts)
		connector_after(c, 0);
	else if (c->n_open == 0)
		connector_end(c, -1, NULL);
}

static void
connector_attempt_over(struct connector_attempt *a)
{
	if (a->ev != NULL)
		event_free(a->ev);
	a->ev = NULL;
	if (a->fd != -1) {
		close(a->fd);
		a->owner->n_open--;
	}
	a->fd = -1;
}

/* Of several failures the one that says most about the backend is reported. An
 * address of a family that this host lacks must not hide that the other address
 * refuses. */
static void
connector_failed(struct connector *c, enum connector_status status,
    const struct addr *addr, const char *why)
{
	static const int weight[] = {
	    [CONNECTOR_LOCAL] = 0,
	    [CONNECTOR_LOOP] = 1,
	    [CONNECTOR_REFUSED] = 2,
	    [CONNECTOR_RESOLVE] = 3, /* the only one then */
	};
	char text[ADDR_TEXT_MAX];

	if (weight[status] < weight[c->status])
		return;
	c->status = status;
	if (addr != NULL)
		snprintf(c->reason, sizeof(c->reason), "%s: %s",
		    addr_text(addr, text), why);
	else
		snprintf(c->reason, sizeof(c->reason), "%s", why);
}

static void
connector_end(struct connector *c, int fd, const struct addr *peer)
{
	connector_done *done = c->spec.done;
	void *arg = c->spec.arg;
	enum connector_status status = fd != -1 ? CONNECTOR_OK : c->status;
	char reason[sizeof(c->reason)];

	memcpy(reason, c->reason, sizeof(reason));
	connector_free(c);
	done(arg, status, fd, peer, reason);
}

/* Half of the time passes in silence, the other half in three probes. What is
 * on its way to a peer is the relay's to watch: TCP_USER_TIMEOUT would also end
 * a connection whose peer answers, but does not read. */
void
connector_tune(int fd, const struct config *cfg)
{
	int on = 1, s = (int)(cfg->server.tcp_user_timeout / 1000), probes = 3;
	int idle = s > 2 ? s / 2 : 1, every = s > 6 ? s / 6 : 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	if (cfg->server.tcp_user_timeout == 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static bool
connector_is_ours(const struct config *cfg, const struct addr *a)
{
	for (size_t i = 0; i < cfg->n_listener; i++) {
		for (size_t j = 0; j < cfg->listener[i].n_bind; j++) {
			const struct addr *b = &cfg->listener[i].bind[j];

			if (addr_port(b) != addr_port(a))
				continue;
			if (addr_same_ip(a, b) || addr_is_unspecified(a))
				return true;
			if (addr_is_unspecified(b) &&
			    a->u.sa.sa_family == b->u.sa.sa_family &&
			    connector_is_local(a))
				return true;
		}
	}
	return false;
}

/* Returns true if the address is this host's. bind() cannot tell: with
 * net.ipv4.ip_nonlocal_bind, which keepalived needs, any address can be bound.
 * The service's sandbox has no netlink. Nothing is sent. */
static bool
connector_is_local(const struct addr *a)
{
	int fd = socket(a->u.sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool local;

	if (fd == -1)
		return false;
	if (a->u.sa.sa_family == AF_INET)
		/* Takes the address of an interface of ours only; connect()
		 * comes from the first one of a network for all of them. */
		local = setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF,
			    &a->u.in.sin_addr, sizeof(a->u.in.sin_addr)) == 0;
	else
		local = connector_is_own_source(fd, a);
	close(fd);
	return local;
}

/* RFC 6724: a packet to an address of this host comes from that address. */
static bool
connector_is_own_source(int fd, const struct addr *a)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);
	struct addr source;

	if (connect(fd, &a->u.sa, a->len) == -1 ||
	    getsockname(fd, (struct sockaddr *)&ss, &len) == -1)
		return false;
	addr_set(&source, (struct sockaddr *)&ss, len);
	return addr_same_ip(a, &source);
}
