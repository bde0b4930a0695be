/* stream.h: bufferevents on sockets, made so that a want of memory is an error
 * and not the end of the process. */

#ifndef NET_STREAM_H
#define NET_STREAM_H

#include <event2/bufferevent_ssl.h>
#include <openssl/ssl.h>

struct bufferevent;
struct event_base;

/* A bufferevent on fd, which it owns from now on. NULL: no memory, fd stays the
 * caller's. A read watermark set on it needs no memory. */
struct bufferevent *stream_plain(struct event_base *base, int fd);

/* The same with TLS. Takes ssl in any case. */
struct bufferevent *stream_tls(struct event_base *base, int fd, SSL *ssl,
    enum bufferevent_ssl_state state);

#endif
