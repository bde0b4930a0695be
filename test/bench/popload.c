/* popload.c: the clients of the benchmark.
 *
 * Logs in -n times by USER and PASS, -c at a time, from one thread, and prints
 * what it saw as one line of JSON. Begins nothing new after -d seconds, and
 * cuts what still runs after -t. Three kinds of client:
 *   login  QUIT, and wait for the server to close
 *   hold   one STAT, so that both ways are open, then idle until stdin ends;
 *          the line is printed when the last of them has logged in
 *   retr   one RETR, read to its end and measured from its command
 * Handshakes are full ones, and certificates are not verified: neither is what
 * is measured. */

#include "conn.h"
#include "platform/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum popload_mode { POPLOAD_LOGIN, POPLOAD_HOLD, POPLOAD_FETCH };

/* What a client waits for. */
enum popload_state {
	POPLOAD_HANDSHAKE,
	POPLOAD_GREETING,
	POPLOAD_USER,
	POPLOAD_PASS,
	POPLOAD_STAT,
	POPLOAD_HELD,
	POPLOAD_RETR,
	POPLOAD_BODY,
	POPLOAD_QUIT,
	POPLOAD_CLOSE,
	POPLOAD_STATES
};

static const char *const popload_state_names[] = {"handshake", "greeting",
    "user", "pass", "stat", "held", "retr", "body", "quit", "close"};
_Static_assert(ARRAY_LEN(popload_state_names) == POPLOAD_STATES,
    "unnamed state");

struct popload_client {
	struct conn conn;
	enum popload_state state;
	unsigned int number;
	double began;
	uint64_t announced; /* by the answer to RETR */
	uint64_t body;
	char tail[5]; /* the last octets of the body so far */
	const char *why; /* what the server said instead of +OK */
};

static struct {
	struct event_base *base;
	SSL_CTX *ctx;
	struct sockaddr_in to;
	enum popload_mode mode;
	unsigned int total;
	unsigned int at_once;
	unsigned int users;
	double begin; /* seconds after which nothing new is begun */
	int limit; /* seconds after which all that runs is cut */
} popload = {
    .total = 1, .at_once = 1, .users = 1000, .begin = 3600, .limit = 60};

static struct {
	unsigned int begun;
	unsigned int busy; /* begun, not held and not ended */
	unsigned int done;
	unsigned int held;
	unsigned int failed;
	double start;
	double end;
	double body_start;
	double body_end;
	uint64_t body;
	double *login; /* seconds from connect to the answer to PASS */
	unsigned int logins;
	char protocol[32];
	char cipher[64];
	char error[256];
} tally;

static int popload_options(int argc, char **argv);
static int popload_mode_parse(const char *word);
static int popload_address_parse(const char *text);
static int popload_start(void);
static void popload_more(void);
static void popload_begin(void);
static void popload_event_cb(evutil_socket_t fd, short what, void *arg);
static enum conn_io popload_step(struct popload_client *c);
static enum conn_io popload_handshake(struct popload_client *c);
static enum conn_io popload_line(struct popload_client *c);
static enum conn_io popload_reply(struct popload_client *c, const char *line);
static enum conn_io popload_logged_in(struct popload_client *c);
static enum conn_io popload_hold(struct popload_client *c);
static enum conn_io popload_retr(struct popload_client *c, const char *line);
static enum conn_io popload_body(struct popload_client *c);
static void popload_tail(struct popload_client *c, const char *buf, size_t len);
static enum conn_io popload_whole(struct popload_client *c);
static enum conn_io popload_say(struct popload_client *c,
    enum popload_state next, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void popload_end(struct popload_client *c, enum conn_io io);
static void popload_fail(struct popload_client *c, const char *why);
static void popload_limit_cb(evutil_socket_t fd, short what, void *arg);
static void popload_stdin_cb(evutil_socket_t fd, short what, void *arg);
static void popload_report(void);
static double popload_percentile(double share);
static int popload_compare(const void *a, const void *b);
static double popload_now(void);

static double
popload_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Keeps -c clients under way until -n have begun, and notices the end. */
static void
popload_more(void)
{
	while (tally.busy < popload.at_once && tally.begun < popload.total &&
	    popload_now() - tally.start < popload.begin)
		popload_begin();
	if (tally.busy > 0 || tally.end > 0)
		return;
	popload_report();
	if (tally.held == 0)
		event_base_loopbreak(popload.base);
}

static void
popload_begin(void)
{
	struct popload_client *c = calloc(1, sizeof(*c));
	int fd, rc;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c == NULL || fd == -1) {
		perror("popload");
		exit(1);
	}
	c->number = tally.begun++;
	c->began = popload_now();
	tally.busy++;
	rc = connect(fd, (struct sockaddr *)&popload.to, sizeof(popload.to));
	if (rc == -1 && errno != EINPROGRESS) {
		perror("popload: connect");
		exit(1);
	}
	if (conn_init(&c->conn, popload.base, fd, popload.ctx, popload_event_cb,
		c) == -1) {
		fprintf(stderr, "popload: out of memory\n");
		exit(1);
	}
	/* The event's first call starts the handshake. */
	event_active(c->conn.event, EV_WRITE, 0);
}

static void
popload_event_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct popload_client *c = arg;
	enum conn_io io;

	do
		io = popload_step(c);
	while (io == CONN_OK);
	if (io == CONN_AGAIN && conn_arm(&c->conn) == 0)
		return;
	popload_end(c, io);
	popload_more();
}

static enum conn_io
popload_step(struct popload_client *c)
{
	char byte;
	size_t n;

	switch (c->state) {
	case POPLOAD_HANDSHAKE:
		return popload_handshake(c);
	case POPLOAD_BODY:
		return popload_body(c);
	case POPLOAD_HELD:
	case POPLOAD_CLOSE:
		return conn_read(&c->conn, &byte, 1, &n);
	case POPLOAD_GREETING:
	case POPLOAD_USER:
	case POPLOAD_PASS:
	case POPLOAD_STAT:
	case POPLOAD_RETR:
	case POPLOAD_QUIT:
	case POPLOAD_STATES:
		return popload_line(c);
	}
	return CONN_FAILED;
}

static enum conn_io
popload_handshake(struct popload_client *c)
{
	enum conn_io io = conn_handshake(&c->conn);

	if (io != CONN_OK)
		return io;
	c->state = POPLOAD_GREETING;
	if (c->conn.ssl != NULL && tally.cipher[0] == '\0') {
		snprintf(tally.protocol, sizeof(tally.protocol), "%s",
		    SSL_get_version(c->conn.ssl));
		snprintf(tally.cipher, sizeof(tally.cipher), "%s",
		    SSL_get_cipher_name(c->conn.ssl));
	}
	return CONN_OK;
}

static enum conn_io
popload_line(struct popload_client *c)
{
	enum conn_io io;
	char *line;

	io = conn_line(&c->conn, &line);
	if (io != CONN_OK)
		return io;
	if (strncmp(line, "+OK", 3) == 0)
		return popload_reply(c, line);
	c->why = line;
	return CONN_FAILED;
}

static enum conn_io
popload_reply(struct popload_client *c, const char *line)
{
	switch (c->state) {
	case POPLOAD_GREETING:
		return popload_say(c, POPLOAD_USER,
		    "USER user%u@example.com\r\n", c->number % popload.users);
	case POPLOAD_USER:
		return popload_say(c, POPLOAD_PASS, "PASS secret\r\n");
	case POPLOAD_PASS:
		return popload_logged_in(c);
	case POPLOAD_STAT:
		return popload_hold(c);
	case POPLOAD_RETR:
		return popload_retr(c, line);
	case POPLOAD_QUIT:
		c->state = POPLOAD_CLOSE;
		return CONN_OK;
	case POPLOAD_HANDSHAKE:
	case POPLOAD_HELD:
	case POPLOAD_BODY:
	case POPLOAD_CLOSE:
	case POPLOAD_STATES:
		break;
	}
	return CONN_FAILED;
}

static enum conn_io
popload_logged_in(struct popload_client *c)
{
	tally.login[tally.logins++] = popload_now() - c->began;
	if (popload.mode == POPLOAD_HOLD)
		return popload_say(c, POPLOAD_STAT, "STAT\r\n");
	if (popload.mode == POPLOAD_LOGIN)
		return popload_say(c, POPLOAD_QUIT, "QUIT\r\n");
	if (tally.body_start <= 0)
		tally.body_start = popload_now();
	return popload_say(c, POPLOAD_RETR, "RETR 1\r\n");
}

static enum conn_io
popload_hold(struct popload_client *c)
{
	c->state = POPLOAD_HELD;
	tally.held++;
	tally.busy--;
	popload_more();
	return CONN_OK;
}

static enum conn_io
popload_retr(struct popload_client *c, const char *line)
{
	c->announced = strtoull(line + 3, NULL, 10);
	c->state = POPLOAD_BODY;
	return CONN_OK;
}

static enum conn_io
popload_body(struct popload_client *c)
{
	static char buf[65536];
	enum conn_io io;
	size_t n;

	io = conn_read(&c->conn, buf, sizeof(buf), &n);
	if (io != CONN_OK)
		return io;
	c->body += n;
	popload_tail(c, buf, n);
	if (memcmp(c->tail, "\r\n.\r\n", sizeof(c->tail)) != 0)
		return CONN_OK;
	return popload_whole(c);
}

static void
popload_tail(struct popload_client *c, const char *buf, size_t len)
{
	size_t keep, size = sizeof(c->tail);

	if (len >= size) {
		memcpy(c->tail, buf + len - size, size);
		return;
	}
	keep = size - len;
	memmove(c->tail, c->tail + len, keep);
	memcpy(c->tail + keep, buf, len);
}

static enum conn_io
popload_whole(struct popload_client *c)
{
	tally.body += c->body;
	tally.body_end = popload_now();
	if (c->body == c->announced + 3)
		return popload_say(c, POPLOAD_QUIT, "QUIT\r\n");
	c->why = "not as many octets as announced";
	return CONN_FAILED;
}

static enum conn_io
popload_say(struct popload_client *c, enum popload_state next, const char *fmt,
    ...)
{
	enum conn_io io;
	char line[128];
	va_list ap;
	size_t n;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	/* One short line into an empty socket buffer: there is room. */
	io = conn_write(&c->conn, line, (size_t)len, &n);
	if (io != CONN_OK)
		return CONN_FAILED;
	c->state = next;
	return CONN_OK;
}

/* After QUIT any close is a good one, a reset too. */
static void
popload_end(struct popload_client *c, enum conn_io io)
{
	if (c->state == POPLOAD_CLOSE)
		tally.done++;
	else if (io == CONN_EOF)
		popload_fail(c, "closed");
	else
		popload_fail(c, c->why != NULL ? c->why : conn_error());
	if (c->state == POPLOAD_HELD)
		tally.held--;
	else
		tally.busy--;
	conn_close(&c->conn);
	free(c);
}

static void
popload_fail(struct popload_client *c, const char *why)
{
	if (tally.failed++ == 0)
		snprintf(tally.error, sizeof(tally.error), "%s: %.200s",
		    popload_state_names[c->state], why);
}

static void
popload_limit_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg UNUSED)
{
	if (tally.end <= 0) {
		tally.failed += tally.busy;
		if (tally.error[0] == '\0')
			snprintf(tally.error, sizeof(tally.error), "cut by -t");
		popload_report();
	}
	event_base_loopbreak(popload.base);
}

static void
popload_stdin_cb(evutil_socket_t fd, short what UNUSED, void *arg UNUSED)
{
	char buf[64];

	if (read(fd, buf, sizeof(buf)) <= 0)
		event_base_loopbreak(popload.base);
}

static void
popload_report(void)
{
	double seconds, fetch;

	tally.end = popload_now();
	seconds = tally.end - tally.start;
	fetch = tally.body_end - tally.body_start;
	printf("{\"done\": %u, \"held\": %u, \"failed\": %u, "
	       "\"seconds\": %.4f, \"per_second\": %.1f, "
	       "\"login_ms_p50\": %.3f, \"login_ms_p99\": %.3f, ",
	    tally.done, tally.held, tally.failed, seconds,
	    (tally.done + tally.held) / seconds, popload_percentile(0.50) * 1e3,
	    popload_percentile(0.99) * 1e3);
	printf("\"octets\": %" PRIu64 ", \"mb_per_second\": %.1f, "
	       "\"protocol\": \"%s\", \"cipher\": \"%s\", ",
	    tally.body, fetch > 0 ? (double)tally.body / fetch / 1e6 : 0.0,
	    tally.protocol, tally.cipher);
	/* The error may be the server's words. */
	for (char *p = tally.error; *p != '\0'; p++)
		if (*p == '"' || *p == '\\' || *p < ' ' || *p > '~')
			*p = '?';
	printf("\"error\": \"%s\"}\n", tally.error);
	fflush(stdout);
}

static double
popload_percentile(double share)
{
	if (tally.logins == 0)
		return 0;
	qsort(tally.login, tally.logins, sizeof(*tally.login), popload_compare);
	return tally.login[(size_t)(share * (tally.logins - 1))];
}

static int
popload_compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int
popload_mode_parse(const char *word)
{
	static const char *const modes[] = {"login", "hold", "retr"};
	size_t i;

	for (i = 0; i < ARRAY_LEN(modes); i++) {
		if (strcmp(word, modes[i]) == 0) {
			popload.mode = (enum popload_mode)i;
			return 0;
		}
	}
	return -1;
}

static int
popload_address_parse(const char *text)
{
	int len = sizeof(popload.to);

	return evutil_parse_sockaddr_port(text, (struct sockaddr *)&popload.to,
	    &len);
}

static int
popload_options(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "m:n:c:d:t:u:s")) != -1) {
		if (opt == 'm' && popload_mode_parse(optarg) == -1)
			return -1;
		else if (opt == 'n')
			popload.total = (unsigned int)atoi(optarg);
		else if (opt == 'c')
			popload.at_once = (unsigned int)atoi(optarg);
		else if (opt == 't')
			popload.limit = atoi(optarg);
		else if (opt == 'd')
			popload.begin = strtod(optarg, NULL);
		else if (opt == 'u')
			popload.users = (unsigned int)atoi(optarg);
		else if (opt == 's')
			popload.ctx = conn_tls_new(TLS_client_method());
		else if (opt == '?')
			return -1;
	}
	if (optind + 1 != argc || popload.total == 0 || popload.users == 0)
		return -1;
	return popload_address_parse(argv[optind]);
}

static int
popload_start(void)
{
	struct timeval limit = {.tv_sec = popload.limit};
	struct event *input;

	popload.base = event_base_new();
	tally.login = calloc(popload.total, sizeof(*tally.login));
	if (popload.base == NULL || tally.login == NULL)
		return -1;
	if (popload.ctx != NULL)
		SSL_CTX_set_min_proto_version(popload.ctx, TLS1_3_VERSION);
	if (popload.mode == POPLOAD_HOLD) {
		input = event_new(popload.base, STDIN_FILENO,
		    EV_READ | EV_PERSIST, popload_stdin_cb, NULL);
		if (input == NULL || event_add(input, NULL) == -1)
			return -1;
	}
	return event_base_once(popload.base, -1, EV_TIMEOUT, popload_limit_cb,
	    NULL, &limit);
}

int
main(int argc, char **argv)
{
	if (popload_options(argc, argv) == -1) {
		fprintf(stderr,
		    "usage: popload [-s] [-m login|hold|retr] [-n TOTAL]\n"
		    "               [-c AT-ONCE] [-d SECONDS] [-t SECONDS] "
		    "[-u USERS] ADDRESS:PORT\n");
		return 64;
	}
	conn_process_init();
	if (popload_start() == -1) {
		fprintf(stderr, "popload: cannot start\n");
		return 1;
	}
	tally.start = popload_now();
	popload_more();
	event_base_dispatch(popload.base);
	return tally.failed == 0 ? 0 : 1;
}
