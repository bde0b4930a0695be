/* transport.c: connections as sockets. */

#include "session/transport.h"

#include <unistd.h>

#include <event2/bufferevent.h>

#include "net/stream.h"
#include "tls_leg.h"

static struct bufferevent *transport_tls(struct event_base *base, int fd,
    SSL *ssl, enum bufferevent_ssl_state state);
static struct bufferevent *transport_upgrade(struct bufferevent *plain,
    SSL *ssl, enum bufferevent_ssl_state state);

const struct transport transport_sockets = {
    .connect = connector_start,
    .cancel = connector_cancel,
    .plain = stream_plain,
    .tls = transport_tls,
    .upgrade = transport_upgrade,
};

static struct bufferevent *
transport_tls(struct event_base *base, int fd, SSL *ssl,
    enum bufferevent_ssl_state state)
{
	struct bufferevent *bev = stream_tls(base, fd, ssl, state);

	if (bev != NULL)
		tls_leg_watch(ssl);
	return bev;
}

/* Does not use a filter, which would copy all data once more for the whole
 * session. The socket moves to a new bufferevent instead. */
static struct bufferevent *
transport_upgrade(struct bufferevent *plain, SSL *ssl,
    enum bufferevent_ssl_state state)
{
	struct event_base *base = bufferevent_get_base(plain);
	int fd = bufferevent_getfd(plain);
	struct bufferevent *bev;

	bufferevent_setfd(plain, -1);
	bufferevent_free(plain);
	bev = transport_tls(base, fd, ssl, state);
	if (bev == NULL)
		close(fd);
	return bev;
}
