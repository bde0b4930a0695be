/* my_link.c: see my_link.h.
 *
 * The query is prepared once and executed with the identifier as a parameter.
 * It uses the library's blocking calls, because its non-blocking calls block
 * over TLS: they yield when OpenSSL wants to read, but they leave the socket
 * blocking, so OpenSSL never says so. */

#include "my_link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <errmsg.h>
#include <mysql.h>
#include <mysqld_error.h>

#include "my_server.h"

/* MySQL 8 and MariaDB each have one that the other does not know. */
#ifndef ER_CANNOT_CONVERT_STRING
#define ER_CANNOT_CONVERT_STRING 3854
#endif
#ifndef ER_CANNOT_CONVERT_CHARACTER
#define ER_CANNOT_CONVERT_CHARACTER 1977
#endif

struct my_link {
	struct blocking b; /* first */
	MYSQL *mysql;
	MYSQL_STMT *stmt[STORE_DELETE + 1]; /* by verb; NULL: not yet */
};

/* The first row's first column. */
struct my_name {
	char text[BLOCKING_TEXT_MAX + 1];
	unsigned long len;
	my_bool is_null;
};

static void my_link_connect(struct blocking *b, struct blocking_answer *out);
static void my_link_options(MYSQL *m, const struct my_server *s);
static void my_link_keepalive(int fd);
static void my_link_disconnect(struct blocking *b);
static void my_link_ask(struct blocking *b, const struct blocking_request *rq,
    struct blocking_answer *out);
static bool my_link_prepare(struct my_link *l, enum store_verb verb,
    struct blocking_answer *out);
static bool my_link_execute(MYSQL_STMT *stmt,
    const struct blocking_request *rq);
static int my_link_fetch(MYSQL_STMT *stmt, struct my_name *name);
static void my_link_failed(struct my_link *l, MYSQL_STMT *stmt,
    enum store_verb verb, struct blocking_answer *out);
static bool my_link_is_lost(unsigned code);
static bool my_link_is_no_name(unsigned code);

const struct blocking_kind my_link = {
    .size = sizeof(struct my_link),
    .connect = my_link_connect,
    .ask = my_link_ask,
    .disconnect = my_link_disconnect,
};

/* Connects and prepares the query, so that a ready connection has answered
 * something. */
static void
my_link_connect(struct blocking *b, struct blocking_answer *out)
{
	struct my_link *l = (struct my_link *)(void *)b;
	const struct my_server *s = (struct my_server *)(void *)b->settings;

	mysql_thread_init();
	l->mysql = mysql_init(NULL);
	if (l->mysql == NULL) {
		blocking_lost(out, "out of memory");
		return;
	}
	my_link_options(l->mysql, s);
	if (mysql_real_connect(l->mysql,
		s->socket != NULL ? "localhost" : s->host, s->user, s->password,
		s->database, s->port, s->socket, 0) == NULL) {
		blocking_lost(out, mysql_error(l->mysql));
		return;
	}
	if (s->tls != MY_TLS_NONE && mysql_get_ssl_cipher(l->mysql) == NULL) {
		/* SSL_ENFORCE accepts a server without TLS. */
		blocking_lost(out, "the server does not offer TLS");
		return;
	}
	my_link_keepalive(mysql_get_socket(l->mysql));
	blocking_uses_socket(b, mysql_get_socket(l->mysql));
	if (!my_link_prepare(l, STORE_GET, out))
		out->lost = true;
}

static void
my_link_options(MYSQL *m, const struct my_server *s)
{
	unsigned tcp = MYSQL_PROTOCOL_TCP, no = 0;
	my_bool yes = 1, verify = s->tls == MY_TLS_VERIFIED;

	mysql_options(m, MYSQL_OPT_CONNECT_TIMEOUT, &s->timeout_s);
	mysql_options(m, MYSQL_OPT_READ_TIMEOUT, &s->timeout_s);
	mysql_options(m, MYSQL_OPT_WRITE_TIMEOUT, &s->timeout_s);
	mysql_options(m, MYSQL_OPT_LOCAL_INFILE, &no);
	mysql_options(m, MYSQL_SET_CHARSET_NAME, "utf8mb4");
	/* For libmariadb "localhost" means a UNIX socket. */
	if (s->socket == NULL)
		mysql_options(m, MYSQL_OPT_PROTOCOL, &tcp);
	if (s->tls != MY_TLS_NONE) {
		mysql_ssl_set(m, NULL, NULL, s->ca_file, NULL, NULL);
		mysql_options(m, MYSQL_OPT_SSL_ENFORCE, &yes);
		mysql_options(m, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
	}
}

/* Sets keep-alive, to detect an idle connection that a firewall has dropped. A
 * UNIX socket refuses it, which does no harm. */
static void
my_link_keepalive(int fd)
{
	int on = 1, idle = 20, interval = 10, count = 2;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static void
my_link_disconnect(struct blocking *b)
{
	struct my_link *l = (struct my_link *)(void *)b;

	for (size_t i = 0; i < ARRAY_LEN(l->stmt); i++)
		if (l->stmt[i] != NULL)
			mysql_stmt_close(l->stmt[i]);
	if (l->mysql != NULL)
		mysql_close(l->mysql);
	mysql_thread_end();
}

static void
my_link_ask(struct blocking *b, const struct blocking_request *rq,
    struct blocking_answer *out)
{
	struct my_link *l = (struct my_link *)(void *)b;
	struct my_name name = {.is_null = 1};
	MYSQL_STMT *stmt;
	int fetched = MYSQL_NO_DATA;

	if (l->stmt[rq->verb] == NULL && !my_link_prepare(l, rq->verb, out))
		return;
	stmt = l->stmt[rq->verb];
	if (mysql_stmt_param_count(stmt) != (rq->verb == STORE_SET ? 2 : 1)) {
		blocking_answer(out, STORE_FAILED,
		    "its query has not as many ? as it must");
		return;
	}
	if (!my_link_execute(stmt, rq)) {
		my_link_failed(l, stmt, rq->verb, out);
		return;
	}
	if (mysql_stmt_field_count(stmt) > 0)
		fetched = my_link_fetch(stmt, &name);
	if (fetched == 1)
		my_link_failed(l, stmt, rq->verb, out);
	else if (rq->verb != STORE_GET)
		blocking_answer(out, STORE_FOUND, "");
	else if (fetched == MYSQL_NO_DATA || name.is_null)
		blocking_answer(out, STORE_UNKNOWN, "");
	else if (name.len > BLOCKING_TEXT_MAX ||
	    memchr(name.text, '\0', name.len) != NULL)
		blocking_answer(out, STORE_FAILED,
		    "its answer is no destination's name");
	else
		blocking_answer(out, STORE_FOUND, name.text);
	/* Read and discard the remaining rows. */
	mysql_stmt_free_result(stmt);
}

static bool
my_link_prepare(struct my_link *l, enum store_verb verb,
    struct blocking_answer *out)
{
	const struct my_server *s = (struct my_server *)(void *)l->b.settings;
	const char *query = s->query[verb];
	MYSQL_STMT *stmt = mysql_stmt_init(l->mysql);

	if (stmt == NULL) {
		blocking_lost(out, "out of memory");
		return false;
	}
	if (mysql_stmt_prepare(stmt, query, strlen(query)) == 0) {
		l->stmt[verb] = stmt;
		return true;
	}
	/* This statement never works; the others may. */
	my_link_failed(l, stmt, verb, out);
	mysql_stmt_close(stmt);
	return false;
}

static bool
my_link_execute(MYSQL_STMT *stmt, const struct blocking_request *rq)
{
	const char *value[] = {rq->key, rq->destination};
	MYSQL_BIND bind[ARRAY_LEN(value)] = {{0}};
	unsigned long len[ARRAY_LEN(value)];

	for (size_t i = 0; i < ARRAY_LEN(value); i++) {
		/* libmariadb reads it only; its type is one const short. */
		memcpy(&bind[i].buffer, &value[i], sizeof(value[i]));
		len[i] = strlen(value[i]);
		bind[i].buffer_type = MYSQL_TYPE_STRING;
		bind[i].buffer_length = len[i];
		bind[i].length = &len[i];
	}
	return mysql_stmt_bind_param(stmt, bind) == 0 &&
	    mysql_stmt_execute(stmt) == 0;
}

/* Returns 1 if it failed. Does not store the rows, because a query without a
 * condition would return all of them. */
static int
my_link_fetch(MYSQL_STMT *stmt, struct my_name *name)
{
	unsigned n = mysql_stmt_field_count(stmt);
	MYSQL_BIND *bind = calloc(n, sizeof(*bind));
	int fetched = 1;

	if (bind == NULL)
		return 1;
	bind[0].buffer_type = MYSQL_TYPE_STRING;
	bind[0].buffer = name->text;
	bind[0].buffer_length = BLOCKING_TEXT_MAX;
	bind[0].length = &name->len;
	bind[0].is_null = &name->is_null;
	for (unsigned i = 1; i < n; i++)
		bind[i].buffer_type = MYSQL_TYPE_NULL;
	if (mysql_stmt_bind_result(stmt, bind) == 0)
		fetched = mysql_stmt_fetch(stmt);
	free(bind);
	if (name->len <= BLOCKING_TEXT_MAX)
		name->text[name->len] = '\0';
	return fetched;
}

/* Ends the connection, or only this request. */
static void
my_link_failed(struct my_link *l, MYSQL_STMT *stmt, enum store_verb verb,
    struct blocking_answer *out)
{
	unsigned code = mysql_stmt_errno(stmt);
	const char *text = mysql_stmt_error(stmt);

	if (*text == '\0')
		text = mysql_error(l->mysql);
	if (*text == '\0')
		text = "out of memory";
	if (my_link_is_lost(code))
		blocking_lost(out, text);
	else if (verb == STORE_GET && my_link_is_no_name(code))
		blocking_answer(out, STORE_UNKNOWN, "");
	else
		blocking_answer(out, STORE_FAILED, text);
}

static bool
my_link_is_lost(unsigned code)
{
	return code == CR_SERVER_GONE_ERROR || code == CR_SERVER_LOST ||
	    code == CR_COMMANDS_OUT_OF_SYNC || code == CR_MALFORMED_PACKET ||
	    code == CR_CONN_HOST_ERROR || code == ER_SERVER_SHUTDOWN ||
	    code == ER_CONNECTION_KILLED || code == ER_UNKNOWN_STMT_HANDLER;
}

/* The name has a character that the table's character set lacks, so the table
 * cannot contain it. */
static bool
my_link_is_no_name(unsigned code)
{
	return code == ER_CANNOT_CONVERT_STRING ||
	    code == ER_CANNOT_CONVERT_CHARACTER ||
	    code == ER_CANT_AGGREGATE_2COLLATIONS ||
	    code == ER_INVALID_CHARACTER_STRING ||
	    code == ER_TRUNCATED_WRONG_VALUE_FOR_FIELD;
}
