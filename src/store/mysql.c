/* mysql.c: routes in MySQL or MariaDB.
 *
 * The pool's connections prepare a statement once and execute it with the
 * identifier as a parameter, by libmariadb's non-blocking calls. Only the
 * connect is made by a short-lived thread of its own: libmariadb resolves the
 * host with a getaddrinfo() that blocks, and verifies the certificate against
 * the very string that it resolved, so that it cannot be given an address and
 * a name. The thread hands over by an eventfd; one that nobody waits for any
 * more closes what it gets. */

#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <errmsg.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <mysql.h>
#include <mysqld_error.h>

#include "platform/addr.h"
#include "platform/clock.h"
#include "platform/secret.h"
#include "pool.h"

#define MYSQL_PORT_DEFAULT 3306
#define MYSQL_NAME_MAX 256 /* octets of a destination's name */
#define MYSQL_STACK (256 * 1024)

enum mysql_tls { MYSQL_TLS_NONE, MYSQL_TLS_ANY, MYSQL_TLS_VERIFIED };

/* A URL, taken apart; shared by the store and its threads. */
struct mysql_server {
	atomic_uint refs;
	char *host, *user, *password, *database; /* NULL: none */
	char *socket, *ca_file;
	unsigned port;
	enum mysql_tls tls;
	unsigned timeout_s;
};

/* A connect. The thread and the connection each have it, the last one frees
 * it; what is left in mysql then is closed. */
struct mysql_job {
	atomic_uint refs;
	struct mysql_server *server;
	MYSQL *mysql;
	int fd; /* the eventfd, written when over is */
	atomic_bool over; /* and the thread's hands are off mysql */
	bool connected;
	char reason[256];
};

struct store {
	const struct config_mapping *m;
	struct mysql_server *server;
	struct store_pool *pool;
};

enum mysql_state {
	MYSQL_CONNECT, /* the thread */
	MYSQL_IDLE,
	MYSQL_PREPARE,
	MYSQL_EXECUTE,
	MYSQL_STORE /* the rows are coming */
};

struct mysql_conn {
	struct store_conn c; /* first */
	struct store *st;
	struct mysql_job *job;
	struct event *ev; /* remade for each wait */
	MYSQL *mysql;
	MYSQL_STMT *stmt[STORE_DELETE + 1]; /* by verb; NULL: not yet */
	enum mysql_state state;
	enum store_verb verb;
	char name[MYSQL_NAME_MAX + 1];
	unsigned long name_len;
	my_bool name_null;
};

static int store_mysql_check(const struct config *cfg, struct err *err);
static struct store *store_mysql_open(const struct store_spec *spec,
    struct err *err);
static void store_mysql_close(struct store *st);
static struct store_call *store_mysql_call(struct store *st,
    const struct store_request *rq);
static struct mysql_server *mysql_server_new(const struct config *cfg,
    struct err *err);
static int mysql_server_parse(struct mysql_server *s, const char *url,
    struct err *err);
static char *mysql_decode(const char *text, size_t len);
static int mysql_server_query(struct mysql_server *s, const char *query,
    struct err *err);
static void mysql_server_unref(struct mysql_server *s);
static struct mysql_job *mysql_job_start(struct mysql_server *s);
static void *mysql_job_main(void *arg);
static void mysql_job_connect(struct mysql_job *job);
static void mysql_job_unref(struct mysql_job *job);
static bool mysql_conn_open(struct store_conn *c, struct err *err);
static void mysql_conn_ask(struct store_conn *c, const struct store_call *call);
static void mysql_conn_close(struct store_conn *c);
static void mysql_event_cb(evutil_socket_t fd, short what, void *arg);
static void mysql_connected(struct mysql_conn *m);
static bool mysql_await(struct mysql_conn *m, int status);
static void mysql_prepare(struct mysql_conn *m, enum store_verb verb);
static void mysql_execute(struct mysql_conn *m);
static void mysql_step(struct mysql_conn *m, int status, int ret);
static void mysql_rest(struct mysql_conn *m);
static void mysql_failed(struct mysql_conn *m);
static void mysql_rows(struct mysql_conn *m);

const struct store_kind store_mysql = {
    .name = "MySQL",
    .check = store_mysql_check,
    .open = store_mysql_open,
    .close = store_mysql_close,
    .call = store_mysql_call,
    .cancel = store_pool_cancel,
};

static const struct store_conn_kind mysql_conn_kind = {
    .name = "MySQL",
    .size = sizeof(struct mysql_conn),
    .open = mysql_conn_open,
    .ask = mysql_conn_ask,
    .close = mysql_conn_close,
};

static pthread_once_t mysql_once = PTHREAD_ONCE_INIT;

static void mysql_global_init(void);

static void
mysql_global_init(void)
{
	mysql_library_init(0, NULL, NULL);
}

static int
store_mysql_check(const struct config *cfg, struct err *err)
{
	struct mysql_server *s;

	if (*cfg->mapping.sql_channel != '\0')
		return err_set(err, "MySQL knows no channel (postgres://)");
	s = mysql_server_new(cfg, err);
	if (s == NULL)
		return -1;
	mysql_server_unref(s);
	return 0;
}

static struct store *
store_mysql_open(const struct store_spec *spec, struct err *err)
{
	struct store *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	pthread_once(&mysql_once, mysql_global_init);
	st->m = &spec->cfg->mapping;
	st->server = mysql_server_new(spec->cfg, err);
	if (st->server == NULL) {
		free(st);
		return NULL;
	}
	st->pool = store_pool_new(&mysql_conn_kind, st, spec->base,
	    store_share(st->m->sql_pool_size, spec->n_workers),
	    st->m->lookup_timeout);
	if (st->pool == NULL) {
		err_set(err, "out of memory");
		store_mysql_close(st);
		return NULL;
	}
	return st;
}

static void
store_mysql_close(struct store *st)
{
	store_pool_free(&st->pool);
	mysql_server_unref(st->server);
	free(st);
}

static struct store_call *
store_mysql_call(struct store *st, const struct store_request *rq)
{
	if (rq->verb != STORE_GET && *st->m->sql_upsert_query == '\0')
		return store_fail(rq,
		    "read-only: mapping.sql has no upsert_query");
	return store_pool_call(st->pool, rq);
}

/* The URL: mysql://user:password@host:port/database?parameter=value */

static struct mysql_server *
mysql_server_new(const struct config *cfg, struct err *err)
{
	struct mysql_server *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	s->refs = 1;
	s->timeout_s = (unsigned)((cfg->mapping.lookup_timeout + 999) / 1000);
	if (mysql_server_parse(s, cfg->mapping.sql_url, err) == 0)
		return s;
	mysql_server_unref(s);
	return NULL;
}

static int
mysql_server_parse(struct mysql_server *s, const char *url, struct err *err)
{
	struct evhttp_uri *uri = evhttp_uri_parse_with_flags(url, 0);
	const char *host, *path, *user, *colon;
	int status = 0, port;

	if (uri == NULL)
		return err_set(err,
		    "malformed (reserved characters are written %%NN)");
	host = evhttp_uri_get_host(uri);
	path = evhttp_uri_get_path(uri);
	user = evhttp_uri_get_userinfo(uri);
	port = evhttp_uri_get_port(uri);
	s->port = port > 0 ? (unsigned)port : MYSQL_PORT_DEFAULT;
	if (host != NULL && *host == '[')
		s->host = mysql_decode(host + 1, strcspn(host + 1, "]"));
	else if (host != NULL && *host != '\0')
		s->host = mysql_decode(host, strlen(host));
	if (path != NULL && path[0] == '/' && path[1] != '\0')
		s->database = mysql_decode(path + 1, strlen(path + 1));
	if (user != NULL) {
		colon = user + strcspn(user, ":");
		s->user = mysql_decode(user, (size_t)(colon - user));
		if (*colon == ':')
			s->password =
			    mysql_decode(colon + 1, strlen(colon + 1));
	}
	s->tls = s->host == NULL || store_is_loopback(s->host)
	    ? MYSQL_TLS_NONE
	    : MYSQL_TLS_VERIFIED;
	if (evhttp_uri_get_query(uri) != NULL)
		status = mysql_server_query(s, evhttp_uri_get_query(uri), err);
	evhttp_uri_free(uri);
	if (status == 0 && s->database == NULL)
		status = err_set(err, "no database (mysql://HOST/DATABASE)");
	if (status == 0 && s->host == NULL && s->socket == NULL)
		status = err_set(err, "neither host nor socket");
	return status;
}

static char *
mysql_decode(const char *text, size_t len)
{
	char *copy = strndup(text, len);
	char *made = copy != NULL ? evhttp_uridecode(copy, 0, NULL) : NULL;

	free(copy);
	return made;
}

static int
mysql_server_query(struct mysql_server *s, const char *query, struct err *err)
{
	struct evkeyvalq list;
	struct evkeyval *kv;
	int status = 0;

	if (evhttp_parse_query_str(query, &list) == -1)
		return err_set(err, "malformed parameters");
	for (kv = list.tqh_first; kv != NULL && status == 0;
	     kv = kv->next.tqe_next) {
		if (strcmp(kv->key, "socket") == 0) {
			secret_free(s->socket);
			s->socket = mysql_decode(kv->value, strlen(kv->value));
			if (s->host == NULL)
				s->tls = MYSQL_TLS_NONE;
		} else if (strcmp(kv->key, "ssl-ca") == 0) {
			secret_free(s->ca_file);
			s->ca_file = mysql_decode(kv->value, strlen(kv->value));
		} else if (strcmp(kv->key, "ssl-mode") != 0) {
			status = err_set(err,
			    "unknown parameter (socket, ssl-mode, ssl-ca)");
		} else if (strcmp(kv->value, "disabled") == 0) {
			s->tls = MYSQL_TLS_NONE;
		} else if (strcmp(kv->value, "required") == 0) {
			s->tls = MYSQL_TLS_ANY;
		} else if (strcmp(kv->value, "verify") == 0) {
			s->tls = MYSQL_TLS_VERIFIED;
		} else {
			status = err_set(err,
			    "unknown ssl-mode (disabled, required, verify)");
		}
	}
	evhttp_clear_headers(&list);
	return status;
}

/* evhttp_uridecode() takes libevent's memory, which is wiped when freed. */
static void
mysql_server_unref(struct mysql_server *s)
{
	if (s == NULL || atomic_fetch_sub(&s->refs, 1) > 1)
		return;
	secret_free(s->host);
	secret_free(s->user);
	secret_free(s->password);
	secret_free(s->database);
	secret_free(s->socket);
	secret_free(s->ca_file);
	free(s);
}

/* The connect */

static struct mysql_job *
mysql_job_start(struct mysql_server *s)
{
	struct mysql_job *job = calloc(1, sizeof(*job));
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int error;

	if (job == NULL)
		return NULL;
	job->refs = 2;
	job->server = s;
	atomic_fetch_add(&s->refs, 1);
	job->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	job->mysql = mysql_init(NULL);
	error = job->fd == -1 || job->mysql == NULL;
	if (!error) {
		/* Signals are the main thread's. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attr, MYSQL_STACK);
		error = pthread_create(&thread, &attr, mysql_job_main, job);
		pthread_attr_destroy(&attr);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (!error)
		return job;
	job->refs = 1;
	mysql_job_unref(job);
	return NULL;
}

static void *
mysql_job_main(void *arg)
{
	struct mysql_job *job = arg;
	uint64_t one = 1;

	mysql_thread_init();
	mysql_job_connect(job);
	job->over = true;
	/* Cannot fail: it is written once. */
	if (write(job->fd, &one, sizeof(one)) == -1)
		abort();
	mysql_job_unref(job);
	mysql_thread_end();
	return NULL;
}

static void
mysql_job_connect(struct mysql_job *job)
{
	const struct mysql_server *s = job->server;
	MYSQL *m = job->mysql;
	unsigned tcp = MYSQL_PROTOCOL_TCP, no = 0;
	my_bool yes = 1, verify = s->tls == MYSQL_TLS_VERIFIED;

	mysql_options(m, MYSQL_OPT_NONBLOCK, NULL);
	mysql_options(m, MYSQL_OPT_CONNECT_TIMEOUT, &s->timeout_s);
	mysql_options(m, MYSQL_OPT_READ_TIMEOUT, &s->timeout_s);
	mysql_options(m, MYSQL_OPT_WRITE_TIMEOUT, &s->timeout_s);
	mysql_options(m, MYSQL_OPT_LOCAL_INFILE, &no);
	mysql_options(m, MYSQL_SET_CHARSET_NAME, "utf8mb4");
	/* To libmariadb "localhost" is a socket's name. */
	if (s->socket == NULL)
		mysql_options(m, MYSQL_OPT_PROTOCOL, &tcp);
	if (s->tls != MYSQL_TLS_NONE) {
		mysql_ssl_set(m, NULL, NULL, s->ca_file, NULL, NULL);
		mysql_options(m, MYSQL_OPT_SSL_ENFORCE, &yes);
		mysql_options(m, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
	}
	if (mysql_real_connect(m, s->socket != NULL ? "localhost" : s->host,
		s->user, s->password, s->database, s->port, s->socket,
		0) == NULL)
		snprintf(job->reason, sizeof(job->reason), "%s",
		    mysql_error(m));
	else if (s->tls != MYSQL_TLS_NONE && mysql_get_ssl_cipher(m) == NULL)
		/* To SSL_ENFORCE a server without TLS is good enough. */
		snprintf(job->reason, sizeof(job->reason),
		    "the server does not offer TLS");
	else
		job->connected = true;
}

static void
mysql_job_unref(struct mysql_job *job)
{
	if (atomic_fetch_sub(&job->refs, 1) > 1)
		return;
	if (job->mysql != NULL)
		mysql_close(job->mysql);
	if (job->fd != -1)
		close(job->fd);
	mysql_server_unref(job->server);
	free(job);
}

/* One connection of the pool */

static bool
mysql_conn_open(struct store_conn *c, struct err *err)
{
	struct mysql_conn *m = (struct mysql_conn *)(void *)c;

	m->st = store_conn_store(c);
	m->job = mysql_job_start(m->st->server);
	if (m->job != NULL)
		m->ev = event_new(store_conn_base(c), m->job->fd, EV_READ,
		    mysql_event_cb, m);
	if (m->ev != NULL && event_add(m->ev, NULL) == 0)
		return true;
	err_set(err, "no thread to connect: out of memory or descriptors");
	return false;
}

/* mysql_close() ends what is suspended; its statements know it is gone. */
static void
mysql_conn_close(struct store_conn *c)
{
	struct mysql_conn *m = (struct mysql_conn *)(void *)c;

	if (m->ev != NULL)
		event_free(m->ev);
	if (m->job != NULL)
		mysql_job_unref(m->job);
	if (m->mysql != NULL)
		mysql_close(m->mysql);
	for (size_t i = 0; i < ARRAY_LEN(m->stmt); i++)
		if (m->stmt[i] != NULL)
			mysql_stmt_close(m->stmt[i]);
}

static void
mysql_event_cb(evutil_socket_t fd UNUSED, short what, void *arg)
{
	struct mysql_conn *m = arg;
	int ready = (what & EV_READ ? MYSQL_WAIT_READ : 0) |
	    (what & EV_WRITE ? MYSQL_WAIT_WRITE : 0) |
	    (what & EV_TIMEOUT ? MYSQL_WAIT_TIMEOUT : 0);
	MYSQL_STMT *stmt = m->stmt[m->verb];
	int ret = 0, status;

	switch (m->state) {
	case MYSQL_CONNECT:
		mysql_connected(m);
		return;
	case MYSQL_IDLE:
		/* Nobody asked: that can only be its end. */
		store_conn_lost(&m->c, "the server has closed the connection");
		return;
	case MYSQL_PREPARE:
		status = mysql_stmt_prepare_cont(&ret, stmt, ready);
		break;
	case MYSQL_EXECUTE:
		status = mysql_stmt_execute_cont(&ret, stmt, ready);
		break;
	case MYSQL_STORE:
		status = mysql_stmt_store_result_cont(&ret, stmt, ready);
		break;
	default:
		return;
	}
	mysql_step(m, status, ret);
}

static void
mysql_connected(struct mysql_conn *m)
{
	assert(m->job->over);
	if (!m->job->connected) {
		store_conn_lost(&m->c, m->job->reason);
		return;
	}
	m->mysql = m->job->mysql;
	m->job->mysql = NULL;
	mysql_job_unref(m->job);
	m->job = NULL;
	mysql_prepare(m, STORE_GET);
}

/* For what the last non-blocking call wants. */
static bool
mysql_await(struct mysql_conn *m, int status)
{
	short what = (short)((status & MYSQL_WAIT_READ ? EV_READ : 0) |
	    (status & MYSQL_WAIT_WRITE ? EV_WRITE : 0));
	struct timeval tv = clock_timeval(mysql_get_timeout_value_ms(m->mysql));

	if (m->ev != NULL)
		event_free(m->ev);
	m->ev = event_new(store_conn_base(&m->c), mysql_get_socket(m->mysql),
	    what, mysql_event_cb, m);
	return m->ev != NULL &&
	    event_add(m->ev, status & MYSQL_WAIT_TIMEOUT ? &tv : NULL) == 0;
}

static void
mysql_prepare(struct mysql_conn *m, enum store_verb verb)
{
	const struct config_mapping *cfg = m->st->m;
	const char *const query[] = {
	    [STORE_GET] = cfg->sql_query,
	    [STORE_SET] = cfg->sql_upsert_query,
	    [STORE_DELETE] = cfg->sql_delete_query,
	};
	int ret = 0, status;

	m->verb = verb;
	m->state = MYSQL_PREPARE;
	m->stmt[verb] = mysql_stmt_init(m->mysql);
	if (m->stmt[verb] == NULL) {
		store_conn_lost(&m->c, "out of memory");
		return;
	}
	status = mysql_stmt_prepare_start(&ret, m->stmt[verb], query[verb],
	    strlen(query[verb]));
	mysql_step(m, status, ret);
}

static void
mysql_conn_ask(struct store_conn *c, const struct store_call *call)
{
	struct mysql_conn *m = (struct mysql_conn *)(void *)c;

	m->verb = call->verb;
	if (m->stmt[call->verb] == NULL)
		mysql_prepare(m, call->verb);
	else
		mysql_execute(m);
}

static void
mysql_execute(struct mysql_conn *m)
{
	const struct store_call *call = m->c.call;
	const char *value[] = {call->key, call->destination};
	MYSQL_STMT *stmt = m->stmt[m->verb];
	MYSQL_BIND bind[2] = {{0}};
	unsigned long n = mysql_stmt_param_count(stmt), len[2] = {0, 0};
	unsigned long want = m->verb == STORE_SET ? 2 : 1;
	int ret = 0, status;

	if (n != want) {
		mysql_rest(m);
		store_conn_answer(&m->c, STORE_FAILED,
		    "its query has not as many ? as it must");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		/* libmariadb reads it only; its type is one const short. */
		memcpy(&bind[i].buffer, &value[i], sizeof(value[i]));
		len[i] = strlen(value[i]);
		bind[i].buffer_type = MYSQL_TYPE_STRING;
		bind[i].buffer_length = len[i];
		bind[i].length = &len[i];
	}
	m->state = MYSQL_EXECUTE;
	if (mysql_stmt_bind_param(stmt, bind) != 0) {
		mysql_failed(m);
		return;
	}
	/* The parameters are copied into the request right here. */
	status = mysql_stmt_execute_start(&ret, stmt);
	mysql_step(m, status, ret);
}

/* A non-blocking call waits (status), or is done and has returned ret. */
static void
mysql_step(struct mysql_conn *m, int status, int ret)
{
	MYSQL_STMT *stmt = m->stmt[m->verb];

	if (status != 0) {
		if (!mysql_await(m, status))
			store_conn_lost(&m->c, "out of memory");
	} else if (ret != 0) {
		mysql_failed(m);
	} else if (m->state == MYSQL_PREPARE) {
		if (m->c.call != NULL) {
			mysql_execute(m);
			return;
		}
		mysql_rest(m);
		store_conn_ready(&m->c);
	} else if (m->state == MYSQL_EXECUTE &&
	    mysql_stmt_field_count(stmt) > 0) {
		m->state = MYSQL_STORE;
		status = mysql_stmt_store_result_start(&ret, stmt);
		mysql_step(m, status, ret);
	} else if (m->state == MYSQL_EXECUTE) {
		mysql_rest(m);
		store_conn_answer(&m->c,
		    m->verb == STORE_GET ? STORE_UNKNOWN : STORE_FOUND, "");
	} else {
		mysql_rows(m);
	}
}

/* With nothing to do; listening for the server's end. */
static void
mysql_rest(struct mysql_conn *m)
{
	m->state = MYSQL_IDLE;
	if (!mysql_await(m, MYSQL_WAIT_READ) && m->ev != NULL) {
		/* Then it is found out by the next request. */
		event_free(m->ev);
		m->ev = NULL;
	}
}

/* They are all in memory. */
static void
mysql_rows(struct mysql_conn *m)
{
	MYSQL_STMT *stmt = m->stmt[m->verb];
	MYSQL_BIND *bind = calloc(mysql_stmt_field_count(stmt), sizeof(*bind));
	int fetched = 1;

	if (bind != NULL) {
		bind[0].buffer_type = MYSQL_TYPE_STRING;
		bind[0].buffer = m->name;
		bind[0].buffer_length = MYSQL_NAME_MAX;
		bind[0].length = &m->name_len;
		bind[0].is_null = &m->name_null;
		for (size_t i = 1; i < mysql_stmt_field_count(stmt); i++)
			bind[i].buffer_type = MYSQL_TYPE_NULL;
		if (mysql_stmt_bind_result(stmt, bind) == 0)
			fetched = mysql_stmt_fetch(stmt);
	}
	free(bind);
	mysql_stmt_free_result(stmt);
	mysql_rest(m);
	if (fetched == MYSQL_NO_DATA || (fetched != 1 && m->name_null)) {
		store_conn_answer(&m->c,
		    m->verb == STORE_GET ? STORE_UNKNOWN : STORE_FOUND, "");
	} else if (fetched == 1 || m->name_len > MYSQL_NAME_MAX ||
	    memchr(m->name, '\0', m->name_len) != NULL) {
		store_conn_answer(&m->c, STORE_FAILED,
		    "its answer is no destination's name");
	} else {
		m->name[m->name_len] = '\0';
		store_conn_answer(&m->c, STORE_FOUND, m->name);
	}
}

/* The connection's end, or one request's. */
static void
mysql_failed(struct mysql_conn *m)
{
	MYSQL_STMT *stmt = m->stmt[m->verb];
	unsigned code = mysql_stmt_errno(stmt);
	char reason[256];

	snprintf(reason, sizeof(reason), "%s", mysql_stmt_error(stmt));
	if (reason[0] == '\0')
		snprintf(reason, sizeof(reason), "%s", mysql_error(m->mysql));
	switch (code) {
	case CR_SERVER_GONE_ERROR:
	case CR_SERVER_LOST:
	case CR_COMMANDS_OUT_OF_SYNC:
	case CR_MALFORMED_PACKET:
	case CR_CONN_HOST_ERROR:
	case ER_SERVER_SHUTDOWN:
	case ER_CONNECTION_KILLED:
	case ER_UNKNOWN_STMT_HANDLER:
		store_conn_lost(&m->c, reason);
		return;
	default:
		break;
	}
	if (m->state == MYSQL_PREPARE) {
		/* This statement will never do; the others may. */
		mysql_stmt_close(stmt);
		m->stmt[m->verb] = NULL;
		if (m->c.call == NULL) {
			store_conn_lost(&m->c, reason);
			return;
		}
	}
	mysql_rest(m);
	store_conn_answer(&m->c, STORE_FAILED, reason);
}
