/* conn.h: one non-blocking connection, plain or TLS.
 *
 * What popload and popsink share. Nothing here waits: a call that cannot go
 * on returns CONN_AGAIN, and conn_arm() sets the event that it waits for. The
 * owner of a struct conn embeds it and clears it with conn_close(). */

#ifndef BENCH_CONN_H
#define BENCH_CONN_H

#include <event2/event.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

enum conn_io {
	CONN_OK,
	CONN_AGAIN, /* conn_arm(), and come back */
	CONN_EOF, /* the peer closed, with or without close_notify */
	CONN_FAILED /* conn_error() says why */
};

struct conn {
	struct event *event;
	SSL *ssl; /* NULL: plain */
	int fd;
	short want; /* EV_READ or EV_WRITE: what the last call lacked */
	short armed; /* what the event waits for now */
	size_t used; /* of in: the line that was handed out last */
	size_t len;
	char in[1024];
};

/* Takes the descriptor over; ctx == NULL is a plain connection. */
int conn_init(struct conn *c, struct event_base *base, int fd, SSL_CTX *ctx,
    event_callback_fn cb, void *arg);
void conn_close(struct conn *c);
/* Waits, once a call said CONN_AGAIN, for what that call lacked. */
int conn_arm(struct conn *c);

enum conn_io conn_handshake(struct conn *c);
enum conn_io conn_read(struct conn *c, void *buf, size_t size, size_t *len_out);
enum conn_io conn_write(struct conn *c, const void *buf, size_t len,
    size_t *len_out);
/* The next line without its end, good until the next call. */
enum conn_io conn_line(struct conn *c, char **line_out);

/* Why the last call of this program returned CONN_FAILED. */
const char *conn_error(void);

/* Both programs hold thousands of descriptors and write to closed peers. */
void conn_process_init(void);
SSL_CTX *conn_tls_new(const SSL_METHOD *method);

#endif
