/* redis_conn.c: see redis_conn.h. */

#include "redis_conn.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/http.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "platform/clock.h"
#include "platform/secret.h"
#include "net/connector.h"
#include "net/stream.h"

#define REDIS_PORT 6379
#define REDIS_REPLY_MAX (64 * 1024) /* octets; ours are a name or a number */
#define REDIS_ARRAY_MAX 8 /* elements: a message has three */
#define REDIS_DATABASES 1000000

enum redis_state {
	REDIS_STOPPED,
	REDIS_CONNECT,
	REDIS_HANDSHAKE, /* TLS */
	REDIS_HELLO, /* the answers to AUTH and SELECT */
	REDIS_READY
};

struct redis_conn {
	const struct redis_server *server;
	const struct store_spec *spec;
	const struct redis_conn_events *events;
	void *arg;
	enum redis_state state;
	struct connector *connector;
	struct bufferevent *bev;
	SSL *ssl; /* bev's */
	redisReader *reader;
	redisReplyObjectFunctions fn; /* the reader's */
	struct event *deadline;
	unsigned hello; /* answers to come before ready */
	struct connector_turns turns; /* unused: there are no source_ips */
	uint64_t heard;
	bool proven;
};

static int redis_url_host(struct redis_server *s, const struct evhttp_uri *uri,
    struct err *err);
static int redis_url_user(struct redis_server *s, const char *userinfo);
static int redis_url_database(struct redis_server *s, const char *text,
    struct err *err);
static int redis_server_tls(struct redis_server *s, const char *ca_file,
    struct err *err);
static void redis_connected(void *arg, enum connector_status status, int fd,
    const struct addr *peer, const char *reason);
static void redis_connect_unix(struct redis_conn *c);
static void redis_take_fd(struct redis_conn *c, int fd);
static SSL *redis_ssl(const struct redis_server *s);
static void redis_hello(struct redis_conn *c);
static void redis_event_cb(struct bufferevent *bev, short what, void *arg);
static void redis_read_cb(struct bufferevent *bev, void *arg);
static void redis_replies(struct redis_conn *c);
static void redis_reply(struct redis_conn *c, const redisReply *reply);
static void *redis_array(const redisReadTask *task, int elements);
static void redis_deadline_cb(evutil_socket_t fd, short what, void *arg);

/* The URL */

int
redis_server_init(struct redis_server *s, const struct config *cfg,
    struct err *err)
{
	const struct config_mapping *m = &cfg->mapping;
	struct evhttp_uri *uri = evhttp_uri_parse_with_flags(m->redis_url, 0);
	const char *scheme = uri != NULL ? evhttp_uri_get_scheme(uri) : NULL;
	int status = -1;

	memset(s, 0, sizeof(*s));
	if (scheme == NULL)
		err_set(err,
		    "malformed (reserved characters are written %%NN)");
	else if (redis_url_user(s, evhttp_uri_get_userinfo(uri)) == -1)
		err_set(err, "out of memory");
	else
		status = redis_url_host(s, uri, err);
	if (status == 0 && strcmp(scheme, "rediss") == 0)
		status = redis_server_tls(s, m->redis_ca_file, err);
	if (uri != NULL)
		evhttp_uri_free(uri);
	if (status == -1)
		redis_server_clear(s);
	return status;
}

/* redis://host:port/0, unix:///path?db=0 */
static int
redis_url_host(struct redis_server *s, const struct evhttp_uri *uri,
    struct err *err)
{
	const char *host = evhttp_uri_get_host(uri);
	const char *path = evhttp_uri_get_path(uri);
	const char *query = evhttp_uri_get_query(uri);
	int port = evhttp_uri_get_port(uri);

	if (strcmp(evhttp_uri_get_scheme(uri), "unix") == 0) {
		if (path == NULL || *path != '/' ||
		    (host != NULL && *host != '\0'))
			return err_set(err, "no path (unix:///PATH)");
		s->path = evhttp_uridecode(path, 0, NULL);
		if (s->path == NULL)
			return err_set(err, "out of memory");
		if (query == NULL)
			return 0;
		if (strncmp(query, "db=", 3) != 0)
			return err_set(err, "unknown parameter (db=NUMBER)");
		return redis_url_database(s, query + 3, err);
	}
	if (host == NULL || *host == '\0')
		return err_set(err, "no host");
	if (query != NULL)
		return err_set(err, "unknown parameter");
	/* Brackets around IPv6. */
	s->dest.host = *host == '[' ? strndup(host + 1, strcspn(host + 1, "]"))
				    : strdup(host);
	if (s->dest.host == NULL)
		return err_set(err, "out of memory");
	addr_parse_ip(s->dest.host, &s->dest.host_addr);
	s->port = port > 0 ? (uint16_t)port : REDIS_PORT;
	return redis_url_database(s,
	    path != NULL && *path == '/' ? path + 1 : "", err);
}

static int
redis_url_database(struct redis_server *s, const char *text, struct err *err)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end != '\0' || n >= REDIS_DATABASES || *text == '-')
		return err_set(err, "the database is not a number");
	s->database = (unsigned)n;
	return 0;
}

/* "password", ":password" or "user:password" */
static int
redis_url_user(struct redis_server *s, const char *userinfo)
{
	const char *colon = userinfo != NULL ? strchr(userinfo, ':') : NULL;
	char *user;

	if (userinfo == NULL)
		return 0;
	s->password =
	    evhttp_uridecode(colon != NULL ? colon + 1 : userinfo, 0, NULL);
	if (s->password == NULL)
		return -1;
	if (colon == NULL || colon == userinfo)
		return 0;
	user = strndup(userinfo, (size_t)(colon - userinfo));
	if (user != NULL)
		s->user = evhttp_uridecode(user, 0, NULL);
	free(user);
	return s->user != NULL ? 0 : -1;
}

static int
redis_server_tls(struct redis_server *s, const char *ca_file, struct err *err)
{
	int ok;

	s->tls = SSL_CTX_new(TLS_client_method());
	if (s->tls == NULL)
		return err_set_ssl(err, "cannot set up TLS");
	SSL_CTX_set_min_proto_version(s->tls, TLS1_2_VERSION);
	SSL_CTX_set_options(s->tls, SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_verify(s->tls, SSL_VERIFY_PEER, NULL);
	if (*ca_file != '\0')
		ok = SSL_CTX_load_verify_locations(s->tls, ca_file, NULL);
	else
		ok = SSL_CTX_set_default_verify_paths(s->tls);
	return ok == 1 ? 0
		       : err_set_ssl(err, "cannot load %s",
			     *ca_file != '\0' ? ca_file : "the system's CAs");
}

/* evhttp_uridecode() takes libevent's memory, which is wiped when freed. */
void
redis_server_clear(struct redis_server *s)
{
	SSL_CTX_free(s->tls);
	free(s->dest.host);
	secret_free(s->path);
	secret_free(s->user);
	secret_free(s->password);
	memset(s, 0, sizeof(*s));
}

/* The connection */

struct redis_conn *
redis_conn_new(const struct redis_server *server, const struct store_spec *spec,
    const struct redis_conn_events *events, void *arg)
{
	struct redis_conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->server = server;
	c->spec = spec;
	c->events = events;
	c->arg = arg;
	c->deadline = evtimer_new(spec->base, redis_deadline_cb, c);
	if (c->deadline == NULL) {
		free(c);
		return NULL;
	}
	return c;
}

void
redis_conn_free(struct redis_conn **cp)
{
	struct redis_conn *c = *cp;

	if (c == NULL)
		return;
	*cp = NULL;
	redis_conn_stop(c);
	event_free(c->deadline);
	free(c);
}

void
redis_conn_start(struct redis_conn *c)
{
	const struct connector_spec spec = {
	    .base = c->spec->base,
	    .resolver = c->spec->resolver,
	    .cfg = c->spec->cfg,
	    .dest = &c->server->dest,
	    .port = c->server->port,
	    .turns = &c->turns,
	    .done = redis_connected,
	    .arg = c,
	};
	struct timeval tv = clock_timeval(c->spec->cfg->mapping.lookup_timeout);

	assert(c->state == REDIS_STOPPED);
	c->state = REDIS_CONNECT;
	c->proven = false;
	evtimer_add(c->deadline, &tv);
	if (c->server->path == NULL)
		c->connector = connector_start(&spec);
	/* A start that fails is reported from the loop as well. */
	if (c->connector == NULL)
		event_active(c->deadline, EV_WRITE, 0);
}

static void
redis_deadline_cb(evutil_socket_t fd UNUSED, short what, void *arg)
{
	struct redis_conn *c = arg;

	if (what & EV_TIMEOUT)
		redis_conn_fail(c, "no connection in time");
	else if (c->server->path != NULL)
		redis_connect_unix(c);
	else
		redis_conn_fail(c, "out of memory");
}

static void
redis_connect_unix(struct redis_conn *c)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	char reason[64];
	int fd;

	if (strlen(c->server->path) >= sizeof(sun.sun_path)) {
		redis_conn_fail(c, "the socket's path is too long");
		return;
	}
	strcpy(sun.sun_path, c->server->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* At once or not at all: EAGAIN is a full backlog. */
	if (fd == -1 ||
	    connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == -1) {
		snprintf(reason, sizeof(reason), "%s", strerror(errno));
		if (fd != -1)
			close(fd);
		redis_conn_fail(c, reason);
		return;
	}
	redis_take_fd(c, fd);
}

static void
redis_connected(void *arg, enum connector_status status, int fd,
    const struct addr *peer UNUSED, const char *reason)
{
	struct redis_conn *c = arg;

	c->connector = NULL;
	if (status == CONNECTOR_OK)
		redis_take_fd(c, fd);
	else
		redis_conn_fail(c, reason);
}

static void
redis_take_fd(struct redis_conn *c, int fd)
{
	struct event_base *base = c->spec->base;

	c->reader = redisReaderCreate();
	if (c->reader != NULL) {
		c->fn = *c->reader->fn;
		c->fn.createArray = redis_array;
		c->reader->fn = &c->fn;
	}
	if (c->server->tls == NULL)
		c->bev = stream_plain(base, fd);
	else if ((c->ssl = redis_ssl(c->server)) != NULL)
		c->bev =
		    stream_tls(base, fd, c->ssl, BUFFEREVENT_SSL_CONNECTING);
	if (c->reader == NULL || c->bev == NULL) {
		if (c->bev == NULL) {
			/* stream_tls() frees it also on failure. */
			c->ssl = NULL;
			close(fd);
		}
		redis_conn_fail(c, "out of memory");
		return;
	}
	bufferevent_setcb(c->bev, redis_read_cb, NULL, redis_event_cb, c);
	bufferevent_setwatermark(c->bev, EV_READ, 0, REDIS_REPLY_MAX / 4);
	bufferevent_enable(c->bev, EV_READ);
	if (c->ssl != NULL)
		c->state = REDIS_HANDSHAKE;
	else
		redis_hello(c);
}

static SSL *
redis_ssl(const struct redis_server *s)
{
	SSL *ssl = SSL_new(s->tls);
	char ip[ADDR_TEXT_MAX];
	int ok = 0;

	if (ssl != NULL && s->dest.host_addr.len != 0)
		ok = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl),
		    addr_ip(&s->dest.host_addr, ip));
	else if (ssl != NULL)
		ok = SSL_set1_host(ssl, s->dest.host) == 1 &&
		    SSL_set_tlsext_host_name(ssl, s->dest.host) == 1;
	if (ok)
		return ssl;
	SSL_free(ssl);
	return NULL;
}

static void
redis_hello(struct redis_conn *c)
{
	const struct redis_server *s = c->server;
	const char *auth[3] = {"AUTH", s->user, s->password};
	const char *select[2] = {"SELECT", NULL};
	char number[16];

	c->state = REDIS_HELLO;
	snprintf(number, sizeof(number), "%u", s->database);
	select[1] = number;
	if (s->password != NULL && s->user == NULL)
		auth[1] = s->password;
	c->hello = 1;
	if (s->password != NULL) {
		redis_conn_send(c, s->user != NULL ? 3 : 2, auth);
		c->hello++;
	}
	/* Also for database 0: the answer shows that the server works. */
	redis_conn_send(c, 2, select);
}

void
redis_conn_stop(struct redis_conn *c)
{
	c->state = REDIS_STOPPED;
	evtimer_del(c->deadline);
	connector_cancel(&c->connector);
	if (c->bev != NULL)
		bufferevent_free(c->bev);
	if (c->reader != NULL)
		redisReaderFree(c->reader);
	c->bev = NULL;
	c->ssl = NULL;
	c->reader = NULL;
}

void
redis_conn_fail(struct redis_conn *c, const char *reason)
{
	bool proven = c->proven;

	redis_conn_stop(c);
	c->events->lost(c->arg, reason, proven);
}

bool
redis_conn_is_stopped(const struct redis_conn *c)
{
	return c->state == REDIS_STOPPED;
}

bool
redis_conn_is_ready(const struct redis_conn *c)
{
	return c->state == REDIS_READY;
}

uint64_t
redis_conn_heard(const struct redis_conn *c)
{
	return c->heard;
}

void
redis_conn_send(struct redis_conn *c, size_t n, const char *const *word)
{
	char *command = NULL;
	/* Its type is one const short. */
	int len = redisFormatCommandArgv(&command, (int)n,
	    (const char **)(uintptr_t)word, NULL);

	/* If memory is short, nothing is sent, and the request times out. */
	if (len > 0)
		bufferevent_write(c->bev, command, (size_t)len);
	if (len > 0)
		explicit_bzero(command, (size_t)len);
	redisFreeCommand(command);
}

static void
redis_event_cb(struct bufferevent *bev, short what, void *arg)
{
	struct redis_conn *c = arg;
	unsigned long code = bufferevent_get_openssl_error(bev);
	const char *text = code != 0 ? ERR_reason_error_string(code) : NULL;
	char reason[160] = "connection closed";
	long verify;

	if (what & BEV_EVENT_CONNECTED) {
		redis_hello(c);
		return;
	}
	if (what & BEV_EVENT_ERROR)
		snprintf(reason, sizeof(reason), "%s", strerror(errno));
	if (c->state == REDIS_HANDSHAKE) {
		verify = SSL_get_verify_result(c->ssl);
		snprintf(reason, sizeof(reason), "TLS handshake failed: %s",
		    verify != X509_V_OK ? X509_verify_cert_error_string(verify)
			: text != NULL	? text
					: "connection closed");
	}
	ERR_clear_error();
	redis_conn_fail(c, reason);
}

static void
redis_read_cb(struct bufferevent *bev, void *arg)
{
	struct redis_conn *c = arg;
	struct evbuffer *in = bufferevent_get_input(bev);
	char chunk[4096];
	int n;

	while (c->reader != NULL &&
	    (n = evbuffer_remove(in, chunk, sizeof(chunk))) > 0) {
		c->heard = clock_ms();
		if (redisReaderFeed(c->reader, chunk, (size_t)n) == REDIS_OK)
			redis_replies(c);
		else
			redis_conn_fail(c, "out of memory");
	}
}

/* Handles the complete replies. Any reply may end the connection. */
static void
redis_replies(struct redis_conn *c)
{
	void *reply;

	while (c->reader != NULL) {
		reply = NULL;
		if (redisReaderGetReply(c->reader, &reply) != REDIS_OK) {
			redis_conn_fail(c,
			    "what it says is not Redis' protocol");
		} else if (reply != NULL) {
			redis_reply(c, reply);
			freeReplyObject(reply);
		} else {
			if (c->reader->len - c->reader->pos > REDIS_REPLY_MAX)
				redis_conn_fail(c, "an endless reply");
			return;
		}
	}
}

/* hiredis would allocate as many elements as a reply announces. */
static void *
redis_array(const redisReadTask *task, int elements)
{
	redisReply *r;

	if (elements > REDIS_ARRAY_MAX)
		return NULL;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return NULL;
	r->type = REDIS_REPLY_ARRAY;
	r->elements = elements > 0 ? (size_t)elements : 0;
	r->element = calloc(REDIS_ARRAY_MAX, sizeof(*r->element));
	if (r->element == NULL) {
		free(r);
		return NULL;
	}
	if (task->parent != NULL) {
		redisReply *parent = task->parent->obj;

		parent->element[task->idx] = r;
	}
	return r;
}

static void
redis_reply(struct redis_conn *c, const redisReply *reply)
{
	char reason[160];

	if (c->state == REDIS_READY) {
		c->proven = true;
		c->events->reply(c->arg, reply);
		return;
	}
	if (reply->type != REDIS_REPLY_STATUS) {
		snprintf(reason, sizeof(reason), "it refuses us: %.100s",
		    reply->type == REDIS_REPLY_ERROR ? reply->str
						     : "unexpected reply");
		redis_conn_fail(c, reason);
		return;
	}
	if (--c->hello > 0)
		return;
	c->state = REDIS_READY;
	c->proven = true;
	evtimer_del(c->deadline);
	c->events->ready(c->arg);
}
