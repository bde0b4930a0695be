/* my_server.c: see my_server.h.
 *
 * mysql://user:password@host:port/database?parameter=value */

#include "my_server.h"

#include <stdlib.h>
#include <string.h>

#include <event2/http.h>
#include <event2/keyvalq_struct.h>

#include "platform/secret.h"

#define MY_PORT_DEFAULT 3306

static void my_server_free(struct blocking_settings *shared);
static bool my_server_queries(struct my_server *s,
    const struct config_mapping *m);
static int my_server_parse(struct my_server *s, const char *url,
    struct err *err);
static char *my_server_decode(const char *text, size_t len);
static int my_server_query(struct my_server *s, const char *query,
    struct err *err);

struct my_server *
my_server_new(const struct config *cfg, size_t max_conns, struct err *err)
{
	struct my_server *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	blocking_settings_init(&s->shared, max_conns, my_server_free);
	s->timeout_s = (unsigned)((cfg->mapping.lookup_timeout + 999) / 1000);
	if (!my_server_queries(s, &cfg->mapping))
		err_set(err, "out of memory");
	else if (my_server_parse(s, cfg->mapping.sql_url, err) == 0)
		return s;
	my_server_unref(s);
	return NULL;
}

void
my_server_unref(struct my_server *s)
{
	if (s != NULL)
		blocking_settings_unref(&s->shared);
}

/* evhttp_uridecode() takes libevent's memory, which is wiped when freed. */
static void
my_server_free(struct blocking_settings *shared)
{
	struct my_server *s = (struct my_server *)(void *)shared;

	secret_free(s->host);
	secret_free(s->user);
	secret_free(s->password);
	secret_free(s->database);
	secret_free(s->socket);
	secret_free(s->ca_file);
	for (size_t i = 0; i < ARRAY_LEN(s->query); i++)
		free(s->query[i]);
	free(s);
}

/* A thread may outlive the configuration. */
static bool
my_server_queries(struct my_server *s, const struct config_mapping *m)
{
	s->query[STORE_GET] = strdup(m->sql_query);
	s->query[STORE_SET] = strdup(m->sql_upsert_query);
	s->query[STORE_DELETE] = strdup(m->sql_delete_query);
	return s->query[STORE_GET] != NULL && s->query[STORE_SET] != NULL &&
	    s->query[STORE_DELETE] != NULL;
}

static int
my_server_parse(struct my_server *s, const char *url, struct err *err)
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
	s->port = port > 0 ? (unsigned)port : MY_PORT_DEFAULT;
	if (host != NULL && *host == '[')
		s->host = my_server_decode(host + 1, strcspn(host + 1, "]"));
	else if (host != NULL && *host != '\0')
		s->host = my_server_decode(host, strlen(host));
	if (path != NULL && path[0] == '/' && path[1] != '\0')
		s->database = my_server_decode(path + 1, strlen(path + 1));
	if (user != NULL) {
		colon = user + strcspn(user, ":");
		s->user = my_server_decode(user, (size_t)(colon - user));
		if (*colon == ':')
			s->password =
			    my_server_decode(colon + 1, strlen(colon + 1));
	}
	s->tls = s->host == NULL || store_is_loopback(s->host)
	    ? MY_TLS_NONE
	    : MY_TLS_VERIFIED;
	if (evhttp_uri_get_query(uri) != NULL)
		status = my_server_query(s, evhttp_uri_get_query(uri), err);
	evhttp_uri_free(uri);
	if (status == 0 && s->database == NULL)
		status = err_set(err, "no database (mysql://HOST/DATABASE)");
	if (status == 0 && s->host == NULL && s->socket == NULL)
		status = err_set(err, "neither host nor socket");
	return status;
}

static char *
my_server_decode(const char *text, size_t len)
{
	char *copy = strndup(text, len);
	char *made = copy != NULL ? evhttp_uridecode(copy, 0, NULL) : NULL;

	free(copy);
	return made;
}

static int
my_server_query(struct my_server *s, const char *query, struct err *err)
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
			s->socket =
			    my_server_decode(kv->value, strlen(kv->value));
			if (s->host == NULL)
				s->tls = MY_TLS_NONE;
		} else if (strcmp(kv->key, "ssl-ca") == 0) {
			secret_free(s->ca_file);
			s->ca_file =
			    my_server_decode(kv->value, strlen(kv->value));
		} else if (strcmp(kv->key, "ssl-mode") != 0) {
			status = err_set(err,
			    "unknown parameter (socket, ssl-mode, ssl-ca)");
		} else if (strcmp(kv->value, "disabled") == 0) {
			s->tls = MY_TLS_NONE;
		} else if (strcmp(kv->value, "required") == 0) {
			s->tls = MY_TLS_ANY;
		} else if (strcmp(kv->value, "verify") == 0) {
			s->tls = MY_TLS_VERIFIED;
		} else {
			status = err_set(err,
			    "unknown ssl-mode (disabled, required, verify)");
		}
	}
	evhttp_clear_headers(&list);
	return status;
}
