/* relay.h: moves bytes both ways between two bufferevents, after the login.
 *
 * Speaks no protocol and invents no byte; it only counts the client's commands
 * as they pass. What one side sends reaches the
 * other in order and exactly once, or the other side is closed. */

#ifndef SESSION_RELAY_H
#define SESSION_RELAY_H

#include <openssl/ssl.h>

#include <stdint.h>

struct admission;
struct bufferevent;
struct event_base;
struct linger_set;
struct pop3_count;
struct relay;

enum relay_end {
	RELAY_CLIENT_CLOSED, /* it closed first, without an error */
	RELAY_BACKEND_CLOSED,
	RELAY_CLIENT_ERROR, /* a reset, or an error of TLS */
	RELAY_BACKEND_ERROR,
	RELAY_FLOODED, /* too many TLS records without data from one of them */
	RELAY_IDLE,
	RELAY_NO_MEMORY
};

struct relay_spec {
	struct event_base *base;
	/* Socket bufferevents (plain or OpenSSL) with BEV_OPT_CLOSE_ON_FREE,
	 * reading disabled, no callbacks. TLS contexts have the modes
	 * ENABLE_PARTIAL_WRITE and ACCEPT_MOVING_WRITE_BUFFER, not AUTO_RETRY,
	 * and SSL_OP_IGNORE_UNEXPECTED_EOF: a FIN alone is an end. */
	struct bufferevent *client, *backend;
	SSL *client_ssl, *backend_ssl; /* theirs; NULL: plain */
	uint64_t idle_ms; /* without a byte either way */
	/* A side that acknowledges nothing of what is on its way to it for so
	 * long is lost; 0: the kernel decides. */
	uint64_t dead_ms;
	struct linger_set *lingers; /* for slow closes */
	struct admission *admission; /* the client's; NULL: none */
	void (*done)(void *arg, enum relay_end why);
	void *arg;
};

/* Takes ownership of both bufferevents. The content of their input buffers
 * (commands that the client pipelined after its login) goes to the other side
 * first. Calls done once, from the loop, when the relay is over; the owner
 * calls relay_free() in done or later. Returns NULL if memory is short; the
 * caller then still owns the bufferevents. */
struct relay *relay_start(const struct relay_spec *spec);

/* Frees the relay at any time, and closes both sockets. */
void relay_free(struct relay **relay);

/* Octets of the one side that have left for the other so far: not what is held,
 * nor what was thrown away because nobody is there to take it. */
void relay_bytes(const struct relay *relay, uint64_t *to_backend_out,
    uint64_t *to_client_out);

/* What the client has asked for since its login; the relay's, and valid as long
 * as that. */
const struct pop3_count *relay_counts(const struct relay *relay);

#endif
