/* proxy_reader.c: waits for one PROXY header.
 *
 * Only peeks at the socket until the header is complete. SO_RCVLOWAT keeps the
 * event from firing again for the same octets. */

#include "session/proxy_reader.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <event2/event.h>

#include "platform/clock.h"
#include "platform/util.h"

struct proxy_reader {
	struct event *ev;
	uint64_t until; /* clock_ms() when the header is too late */
	ssize_t seen; /* octets of it at the last look */
	void (*done)(void *arg, enum proxy_read status,
	    const struct proxy_header *header);
	void *arg;
};

static bool proxy_reader_wait(struct proxy_reader *r);
static void proxy_reader_cb(evutil_socket_t fd, short what, void *arg);
static void proxy_reader_look(struct proxy_reader *r, int fd);
static void proxy_reader_more(struct proxy_reader *r, int fd, ssize_t n);
static void proxy_reader_end(struct proxy_reader *r, enum proxy_read status,
    const struct proxy_header *header);
static bool proxy_reader_may_send(int fd);

struct proxy_reader *
proxy_reader_start(const struct proxy_reader_spec *spec)
{
	struct proxy_reader *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->done = spec->done;
	r->arg = spec->arg;
	r->until = clock_ms() + spec->timeout_ms;
	r->ev = event_new(spec->base, spec->fd, EV_READ, proxy_reader_cb, r);
	if (r->ev == NULL || !proxy_reader_wait(r))
		proxy_reader_cancel(&r);
	return r;
}

void
proxy_reader_cancel(struct proxy_reader **rp)
{
	struct proxy_reader *r = *rp;

	if (r == NULL)
		return;
	*rp = NULL;
	if (r->ev != NULL)
		event_free(r->ev);
	free(r);
}

static bool
proxy_reader_wait(struct proxy_reader *r)
{
	uint64_t now = clock_ms();
	struct timeval tv = clock_timeval(r->until > now ? r->until - now : 0);

	return event_add(r->ev, &tv) == 0;
}

static void
proxy_reader_cb(evutil_socket_t fd, short what, void *arg)
{
	struct proxy_reader *r = arg;

	if (what & EV_READ)
		proxy_reader_look(r, fd);
	else
		proxy_reader_end(r, PROXY_READ_NONE, NULL);
}

static void
proxy_reader_look(struct proxy_reader *r, int fd)
{
	uint8_t data[PROXY_HEADER_MAX];
	struct proxy_header h;
	size_t used = 0;
	ssize_t n = recv(fd, data, sizeof(data), MSG_PEEK);

	if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
		if (!proxy_reader_wait(r))
			proxy_reader_end(r, PROXY_READ_CLOSED, NULL);
		return;
	}
	if (n <= 0) {
		proxy_reader_end(r, PROXY_READ_CLOSED, NULL);
		return;
	}
	switch (proxy_header_parse(data, (size_t)n, &h, &used)) {
	case PROXY_MORE:
		proxy_reader_more(r, fd, n);
		return;
	case PROXY_OK:
		if (recv(fd, data, used, 0) == (ssize_t)used)
			proxy_reader_end(r, PROXY_READ_OK, &h);
		else
			proxy_reader_end(r, PROXY_READ_CLOSED, NULL);
		return;
	case PROXY_NONE:
		proxy_reader_end(r, PROXY_READ_NONE, NULL);
		return;
	case PROXY_BAD:
		proxy_reader_end(r, PROXY_READ_BAD, NULL);
		return;
	}
}

static void
proxy_reader_more(struct proxy_reader *r, int fd, ssize_t n)
{
	int want = (int)n + 1;

	/* A close makes the socket readable for good. */
	if (n == r->seen && !proxy_reader_may_send(fd)) {
		proxy_reader_end(r, PROXY_READ_CLOSED, NULL);
		return;
	}
	r->seen = n;
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
	if (!proxy_reader_wait(r))
		proxy_reader_end(r, PROXY_READ_CLOSED, NULL);
}

static void
proxy_reader_end(struct proxy_reader *r, enum proxy_read status,
    const struct proxy_header *header)
{
	void (*done)(void *, enum proxy_read, const struct proxy_header *) =
	    r->done;
	void *arg = r->arg;
	int fd = event_get_fd(r->ev), want = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
	event_free(r->ev);
	free(r);
	done(arg, status, header);
}

/* Returns false if the peer's FIN or RST has arrived, and everything before
 * it. */
static bool
proxy_reader_may_send(int fd)
{
	struct tcp_info info = {.tcpi_state = TCP_ESTABLISHED};
	socklen_t len = sizeof(info);

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
	return info.tcpi_state == TCP_ESTABLISHED;
}
