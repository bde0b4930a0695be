/* stream.c: bufferevents on sockets.
 *
 * libevent 2.1 frees a TLS bufferevent that is half made as if it were whole,
 * which ends the process, and bufferevent_setwatermark() uses a callback that
 * it could not allocate. All that they allocate is asked for here, with memory
 * put aside for it. */

#include "net/stream.h"

#include <stdint.h>

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <openssl/err.h>

#include "platform/spare.h"

static struct bufferevent *stream_watched(struct bufferevent *bev);

struct bufferevent *
stream_plain(struct event_base *base, int fd)
{
	struct bufferevent *bev;

	if (!spare_begin())
		return NULL;
	bev = stream_watched(bufferevent_socket_new(base, fd,
	    BEV_OPT_CLOSE_ON_FREE));
	spare_end();
	return bev;
}

struct bufferevent *
stream_tls(struct event_base *base, int fd, SSL *ssl,
    enum bufferevent_ssl_state state)
{
	struct bufferevent *bev = NULL;

	/* libevent would go on with a BIO that it could not allocate. */
	if (SSL_set_fd(ssl, fd) != 1 || !spare_begin()) {
		ERR_clear_error();
		SSL_free(ssl);
		return NULL;
	}
	bev = stream_watched(bufferevent_openssl_socket_new(base, fd, ssl,
	    state, BEV_OPT_CLOSE_ON_FREE));
	spare_end();
	return bev;
}

/* Has the callback of the read watermark allocated; the limit itself is the
 * caller's to set. */
static struct bufferevent *
stream_watched(struct bufferevent *bev)
{
	if (bev != NULL) {
		bufferevent_setwatermark(bev, EV_READ, 0, SIZE_MAX);
		bufferevent_setwatermark(bev, EV_READ, 0, 0);
	}
	return bev;
}
