/* conn.c: one non-blocking connection, plain or TLS.
 *
 * SSL_read() and SSL_write() on the socket itself, without bufferevents: what
 * these programs spend is not the proxy's, and has to be small beside it. */

#include "conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static char conn_error_text[256];

static int conn_tls_start(struct conn *c, SSL_CTX *ctx);
static enum conn_io conn_tls_result(struct conn *c, int rc);
static enum conn_io conn_errno(struct conn *c, short want);
static bool conn_held_line(struct conn *c, char **line_out);
static enum conn_io conn_recv(struct conn *c, void *buf, size_t size,
    size_t *len_out);

int
conn_init(struct conn *c, struct event_base *base, int fd, SSL_CTX *ctx,
    event_callback_fn cb, void *arg)
{
	int on = 1;

	memset(c, 0, sizeof(*c));
	c->fd = fd;
	c->want = EV_READ;
	c->armed = EV_READ;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (ctx != NULL && conn_tls_start(c, ctx) == -1)
		goto fail;
	c->event = event_new(base, fd, EV_READ | EV_PERSIST, cb, arg);
	if (c->event == NULL || event_add(c->event, NULL) == -1)
		goto fail;
	return 0;
fail:
	conn_close(c);
	return -1;
}

static int
conn_tls_start(struct conn *c, SSL_CTX *ctx)
{
	static char sni[] = "localhost";

	c->ssl = SSL_new(ctx);
	if (c->ssl == NULL || SSL_set_fd(c->ssl, c->fd) != 1)
		return -1;
	if (SSL_is_server(c->ssl)) {
		SSL_set_accept_state(c->ssl);
		return 0;
	}
	SSL_set_connect_state(c->ssl);
	return SSL_set_tlsext_host_name(c->ssl, sni) == 1 ? 0 : -1;
}

void
conn_close(struct conn *c)
{
	if (c->event != NULL)
		event_free(c->event);
	if (c->ssl != NULL) {
		if (SSL_is_init_finished(c->ssl))
			(void)SSL_shutdown(c->ssl);
		SSL_free(c->ssl);
		ERR_clear_error();
	}
	if (c->fd != -1)
		close(c->fd);
	c->event = NULL;
	c->ssl = NULL;
	c->fd = -1;
}

int
conn_arm(struct conn *c)
{
	struct event_base *base = event_get_base(c->event);
	event_callback_fn cb = event_get_callback(c->event);
	void *arg = event_get_callback_arg(c->event);

	if (c->armed == c->want)
		return 0;
	c->armed = c->want;
	event_del(c->event);
	event_assign(c->event, base, c->fd, (short)(c->want | EV_PERSIST), cb,
	    arg);
	return event_add(c->event, NULL);
}

enum conn_io
conn_handshake(struct conn *c)
{
	int rc;

	if (c->ssl == NULL)
		return CONN_OK;
	rc = SSL_do_handshake(c->ssl);
	return rc == 1 ? CONN_OK : conn_tls_result(c, rc);
}

static enum conn_io
conn_tls_result(struct conn *c, int rc)
{
	int saved = errno, why = SSL_get_error(c->ssl, rc);

	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
		c->want = why == SSL_ERROR_WANT_READ ? EV_READ : EV_WRITE;
		return CONN_AGAIN;
	}
	if (why == SSL_ERROR_ZERO_RETURN)
		return CONN_EOF;
	if (why == SSL_ERROR_SYSCALL)
		snprintf(conn_error_text, sizeof(conn_error_text), "%s",
		    saved == 0 ? "closed in the handshake" : strerror(saved));
	else
		ERR_error_string_n(ERR_get_error(), conn_error_text,
		    sizeof(conn_error_text));
	ERR_clear_error();
	return CONN_FAILED;
}

static enum conn_io
conn_errno(struct conn *c, short want)
{
	if (errno == EAGAIN || errno == EINTR) {
		c->want = want;
		return CONN_AGAIN;
	}
	snprintf(conn_error_text, sizeof(conn_error_text), "%s",
	    strerror(errno));
	return CONN_FAILED;
}

enum conn_io
conn_read(struct conn *c, void *buf, size_t size, size_t *len_out)
{
	size_t held = c->len - c->used;

	if (held == 0)
		return conn_recv(c, buf, size, len_out);
	*len_out = held < size ? held : size;
	memcpy(buf, c->in + c->used, *len_out);
	c->used += *len_out;
	return CONN_OK;
}

static enum conn_io
conn_recv(struct conn *c, void *buf, size_t size, size_t *len_out)
{
	ssize_t n;
	int rc;

	if (c->ssl != NULL) {
		errno = 0;
		rc = SSL_read_ex(c->ssl, buf, size, len_out);
		return rc == 1 ? CONN_OK : conn_tls_result(c, rc);
	}
	n = recv(c->fd, buf, size, 0);
	if (n == -1)
		return conn_errno(c, EV_READ);
	*len_out = (size_t)n;
	return n == 0 ? CONN_EOF : CONN_OK;
}

enum conn_io
conn_write(struct conn *c, const void *buf, size_t len, size_t *len_out)
{
	ssize_t n;
	int rc;

	if (c->ssl != NULL) {
		errno = 0;
		rc = SSL_write_ex(c->ssl, buf, len, len_out);
		return rc == 1 ? CONN_OK : conn_tls_result(c, rc);
	}
	n = send(c->fd, buf, len, MSG_NOSIGNAL);
	if (n == -1)
		return conn_errno(c, EV_WRITE);
	*len_out = (size_t)n;
	return CONN_OK;
}

enum conn_io
conn_line(struct conn *c, char **line_out)
{
	enum conn_io io;
	size_t n;

	for (;;) {
		if (conn_held_line(c, line_out))
			return CONN_OK;
		if (c->len == sizeof(c->in)) {
			snprintf(conn_error_text, sizeof(conn_error_text),
			    "line too long");
			return CONN_FAILED;
		}
		io = conn_recv(c, c->in + c->len, sizeof(c->in) - c->len, &n);
		if (io != CONN_OK)
			return io;
		c->len += n;
	}
}

static bool
conn_held_line(struct conn *c, char **line_out)
{
	char *end;

	memmove(c->in, c->in + c->used, c->len - c->used);
	c->len -= c->used;
	c->used = 0;
	end = memchr(c->in, '\n', c->len);
	if (end == NULL)
		return false;
	c->used = (size_t)(end - c->in) + 1;
	if (end > c->in && end[-1] == '\r')
		end--;
	*end = '\0';
	*line_out = c->in;
	return true;
}

const char *
conn_error(void)
{
	return conn_error_text;
}

void
conn_process_init(void)
{
	struct rlimit limit;

	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

SSL_CTX *
conn_tls_new(const SSL_METHOD *method)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (ctx == NULL)
		return NULL;
	SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(ctx,
	    SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
		SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return ctx;
}
