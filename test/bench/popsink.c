/* popsink.c: the backend of the benchmark.
 *
 * A POP3 server that takes any user with any password and has one synthetic
 * message, as fast as one thread can: everything it ever says is made at the
 * start. It listens plain, with TLS or both, and can answer nginx's auth_http
 * too, so that this costs the same small thing at every login. */

#include "conn.h"
#include "platform/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define POPSINK_LINE 78 /* with its CRLF */

enum popsink_state {
	POPSINK_HANDSHAKE,
	POPSINK_COMMAND,
	POPSINK_INITIAL, /* the response that AUTH came without */
	POPSINK_HTTP, /* header lines, up to the empty one */
	POPSINK_BODY,
	POPSINK_CLOSING /* the last reply is on its way */
};

struct popsink_session {
	struct conn conn;
	enum popsink_state state;
	const char *out; /* lent: static text that is being sent */
	size_t out_len;
	uint64_t body; /* octets of the message still to come */
};

struct popsink_port {
	const char *number; /* NULL: not asked for */
	enum popsink_state start;
	const char *greeting;
	SSL_CTX *ctx;
};

struct popsink_command {
	const char *word;
	const char *reply;
	void (*run)(struct popsink_session *s, const char *args);
};

static struct event_base *popsink_base;
static const char *popsink_cert, *popsink_key;
static uint64_t popsink_octets = 1024;
static char popsink_block[POPSINK_LINE * 840];
static char popsink_stat[64], popsink_list[64], popsink_retr[64];
static char popsink_http[256], popsink_counts[64];
static unsigned long popsink_handshakes, popsink_resumed;

static int popsink_options(int argc, char **argv);
static int popsink_start(void);
static int popsink_listen(struct popsink_port *port);
static SSL_CTX *popsink_tls(const char *cert, const char *key);
static void popsink_texts(void);
static void popsink_accept_cb(struct evconnlistener *l, evutil_socket_t fd,
    struct sockaddr *addr, int len, void *arg);
static void popsink_event_cb(evutil_socket_t fd, short what, void *arg);
static enum conn_io popsink_step(struct popsink_session *s);
static enum conn_io popsink_handshake(struct popsink_session *s);
static enum conn_io popsink_send(struct popsink_session *s);
static void popsink_body_next(struct popsink_session *s);
static enum conn_io popsink_line(struct popsink_session *s);
static void popsink_dispatch(struct popsink_session *s, const char *line);
static void popsink_say(struct popsink_session *s, const char *text);
static void popsink_run_auth(struct popsink_session *s, const char *args);
static void popsink_run_retr(struct popsink_session *s, const char *args);
static void popsink_run_quit(struct popsink_session *s, const char *args);
static void popsink_run_counts(struct popsink_session *s, const char *args);
static void popsink_stop_cb(evutil_socket_t sig, short what, void *arg);

/* Matched in order, so the frequent ones come first. */
static const struct popsink_command popsink_commands[] = {
    {"USER", "+OK\r\n", NULL},
    {"PASS", "+OK Logged in.\r\n", NULL},
    {"AUTH", "+OK Logged in.\r\n", popsink_run_auth},
    {"QUIT", "+OK Logging out.\r\n", popsink_run_quit},
    {"STAT", popsink_stat, NULL},
    {"RETR", popsink_retr, popsink_run_retr},
    {"LIST", popsink_list, NULL},
    {"CAPA",
	"+OK\r\nUSER\r\nSASL PLAIN\r\nTOP\r\nUIDL\r\nRESP-CODES\r\n"
	"PIPELINING\r\n.\r\n",
	NULL},
    {"NOOP", "+OK\r\n", NULL},
    {"X-TLS", "", popsink_run_counts},
    {"", "-ERR Unknown command.\r\n", NULL},
};

static const char popsink_greeting[] = "+OK popsink ready.\r\n";

static struct popsink_port popsink_plain = {
    NULL, POPSINK_COMMAND, popsink_greeting, NULL};
static struct popsink_port popsink_secure = {
    NULL, POPSINK_HANDSHAKE, popsink_greeting, NULL};
static struct popsink_port popsink_auth = {NULL, POPSINK_HTTP, "", NULL};

static void
popsink_accept_cb(struct evconnlistener *l UNUSED, evutil_socket_t fd,
    struct sockaddr *addr UNUSED, int len UNUSED, void *arg)
{
	const struct popsink_port *port = arg;
	struct popsink_session *s = calloc(1, sizeof(*s));

	if (s == NULL ||
	    conn_init(&s->conn, popsink_base, fd, port->ctx, popsink_event_cb,
		s) == -1) {
		fprintf(stderr, "popsink: out of memory\n");
		exit(1);
	}
	s->state = port->start;
	popsink_say(s, port->greeting);
	popsink_event_cb(fd, EV_READ, s);
}

static void
popsink_event_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct popsink_session *s = arg;
	enum conn_io io;

	do
		io = popsink_step(s);
	while (io == CONN_OK);
	if (io == CONN_AGAIN && conn_arm(&s->conn) == 0)
		return;
	conn_close(&s->conn);
	free(s);
}

/* What has to be said goes before what may be heard. */
static enum conn_io
popsink_step(struct popsink_session *s)
{
	if (s->state == POPSINK_HANDSHAKE)
		return popsink_handshake(s);
	if (s->out_len > 0)
		return popsink_send(s);
	switch (s->state) {
	case POPSINK_BODY:
		popsink_body_next(s);
		return CONN_OK;
	case POPSINK_CLOSING:
		return CONN_EOF;
	case POPSINK_HANDSHAKE:
	case POPSINK_COMMAND:
	case POPSINK_INITIAL:
	case POPSINK_HTTP:
		return popsink_line(s);
	}
	return CONN_FAILED;
}

static enum conn_io
popsink_handshake(struct popsink_session *s)
{
	enum conn_io io = conn_handshake(&s->conn);

	if (io != CONN_OK)
		return io;
	popsink_handshakes++;
	popsink_resumed += (unsigned long)SSL_session_reused(s->conn.ssl);
	s->state = POPSINK_COMMAND;
	return CONN_OK;
}

static enum conn_io
popsink_send(struct popsink_session *s)
{
	enum conn_io io;
	size_t n = 0;

	io = conn_write(&s->conn, s->out, s->out_len, &n);
	s->out += n;
	s->out_len -= n;
	return io;
}

static void
popsink_body_next(struct popsink_session *s)
{
	if (s->body == 0) {
		s->state = POPSINK_COMMAND;
		popsink_say(s, ".\r\n");
		return;
	}
	s->out = popsink_block;
	s->out_len = sizeof(popsink_block);
	if (s->body < s->out_len)
		s->out_len = (size_t)s->body;
	s->body -= s->out_len;
}

static enum conn_io
popsink_line(struct popsink_session *s)
{
	enum conn_io io;
	char *line;

	io = conn_line(&s->conn, &line);
	if (io != CONN_OK)
		return io;
	if (s->state == POPSINK_COMMAND) {
		popsink_dispatch(s, line);
	} else if (s->state == POPSINK_INITIAL) {
		s->state = POPSINK_COMMAND;
		popsink_say(s, "+OK Logged in.\r\n");
	} else if (*line == '\0') {
		s->state = POPSINK_CLOSING;
		popsink_say(s, popsink_http);
	}
	return CONN_OK;
}

static void
popsink_dispatch(struct popsink_session *s, const char *line)
{
	const struct popsink_command *c = popsink_commands;
	size_t len = strcspn(line, " ");

	while (*c->word != '\0' &&
	    (strlen(c->word) != len || strncasecmp(c->word, line, len) != 0))
		c++;
	popsink_say(s, c->reply);
	if (c->run != NULL)
		c->run(s, line[len] == ' ' ? line + len + 1 : "");
}

static void
popsink_say(struct popsink_session *s, const char *text)
{
	s->out = text;
	s->out_len = strlen(text);
}

static void
popsink_run_auth(struct popsink_session *s, const char *args)
{
	if (strchr(args, ' ') != NULL)
		return;
	s->state = POPSINK_INITIAL;
	popsink_say(s, "+ \r\n");
}

static void
popsink_run_retr(struct popsink_session *s, const char *args UNUSED)
{
	s->state = POPSINK_BODY;
	s->body = popsink_octets;
}

static void
popsink_run_quit(struct popsink_session *s, const char *args UNUSED)
{
	s->state = POPSINK_CLOSING;
}

/* Not POP3: bench.py asks how many handshakes were resumed. */
static void
popsink_run_counts(struct popsink_session *s, const char *args UNUSED)
{
	snprintf(popsink_counts, sizeof(popsink_counts), "+OK %lu %lu\r\n",
	    popsink_handshakes, popsink_resumed);
	popsink_say(s, popsink_counts);
}

/* A port that was not asked for is not opened. */
static int
popsink_listen(struct popsink_port *port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct evconnlistener *l;

	if (port->number == NULL)
		return 0;
	sin.sin_port = htons((uint16_t)atoi(port->number));
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	l = evconnlistener_new_bind(popsink_base, popsink_accept_cb, port,
	    LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_CLOSE_ON_FREE,
	    4096, (struct sockaddr *)&sin, sizeof(sin));
	if (l == NULL)
		fprintf(stderr, "popsink: port %s: %s\n", port->number,
		    strerror(errno));
	return l == NULL ? -1 : 0;
}

static SSL_CTX *
popsink_tls(const char *cert, const char *key)
{
	SSL_CTX *ctx = conn_tls_new(TLS_server_method());

	if (ctx == NULL || cert == NULL || key == NULL ||
	    SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		return NULL;
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return ctx;
}

static void
popsink_texts(void)
{
	size_t i;

	memset(popsink_block, 'x', sizeof(popsink_block));
	for (i = 0; i < sizeof(popsink_block); i += POPSINK_LINE)
		memcpy(popsink_block + i + POPSINK_LINE - 2, "\r\n", 2);
	popsink_octets -= popsink_octets % POPSINK_LINE;
	snprintf(popsink_stat, sizeof(popsink_stat), "+OK 1 %" PRIu64 "\r\n",
	    popsink_octets);
	snprintf(popsink_list, sizeof(popsink_list),
	    "+OK\r\n1 %" PRIu64 "\r\n.\r\n", popsink_octets);
	snprintf(popsink_retr, sizeof(popsink_retr),
	    "+OK %" PRIu64 " octets\r\n", popsink_octets);
	snprintf(popsink_http, sizeof(popsink_http),
	    "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\n"
	    "Auth-Server: 127.0.0.1\r\nAuth-Port: %s\r\n\r\n",
	    popsink_plain.number == NULL ? "0" : popsink_plain.number);
}

static void
popsink_stop_cb(evutil_socket_t sig UNUSED, short what UNUSED, void *arg UNUSED)
{
	event_base_loopbreak(popsink_base);
}

static int
popsink_options(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "p:s:c:k:a:m:")) != -1) {
		if (opt == 'p')
			popsink_plain.number = optarg;
		else if (opt == 's')
			popsink_secure.number = optarg;
		else if (opt == 'c')
			popsink_cert = optarg;
		else if (opt == 'k')
			popsink_key = optarg;
		else if (opt == 'a')
			popsink_auth.number = optarg;
		else if (opt == 'm')
			popsink_octets = strtoull(optarg, NULL, 10);
		else
			return -1;
	}
	return popsink_plain.number == NULL && popsink_secure.number == NULL
	    ? -1
	    : 0;
}

static int
popsink_start(void)
{
	struct event *stop;

	popsink_base = event_base_new();
	if (popsink_base == NULL)
		return -1;
	if (popsink_secure.number != NULL) {
		popsink_secure.ctx = popsink_tls(popsink_cert, popsink_key);
		if (popsink_secure.ctx == NULL) {
			ERR_print_errors_fp(stderr);
			return -1;
		}
	}
	stop = evsignal_new(popsink_base, SIGTERM, popsink_stop_cb, NULL);
	if (stop == NULL || event_add(stop, NULL) == -1)
		return -1;
	if (popsink_listen(&popsink_plain) == -1 ||
	    popsink_listen(&popsink_secure) == -1)
		return -1;
	return popsink_listen(&popsink_auth);
}

int
main(int argc, char **argv)
{
	if (popsink_options(argc, argv) == -1) {
		fprintf(stderr,
		    "usage: popsink [-p PORT] [-s TLS-PORT -c CERT -k KEY]\n"
		    "               [-a AUTH-HTTP-PORT] [-m OCTETS]\n");
		return 64;
	}
	conn_process_init();
	popsink_texts();
	if (popsink_start() == -1) {
		fprintf(stderr, "popsink: cannot start\n");
		return 1;
	}
	event_base_dispatch(popsink_base);
	return 0;
}
