/* store.c: the kinds of store there are. */

#include "store/store.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "platform/addr.h"

/* In the order in which they are looked for: source, then URL. */
static const struct {
	enum mapping_source source;
	const char *scheme; /* "": any */
	const struct store_kind *kind;
	const char *text; /* for people */
} store_kinds[] = {
    {SOURCE_FILE, "", &store_file, "file"},
#ifdef MAILFERRY_REDIS
    {SOURCE_REDIS, "", &store_redis, "redis"},
#endif
#ifdef MAILFERRY_POSTGRES
    {SOURCE_SQL, "postgres:", &store_postgres, "sql: postgres"},
#endif
#ifdef MAILFERRY_MYSQL
    {SOURCE_SQL, "mysql:", &store_mysql, "sql: mysql"},
#endif
#ifdef MAILFERRY_SQLITE
    {SOURCE_SQL, "sqlite:", &store_sqlite, "sql: sqlite"},
#endif
#ifdef MAILFERRY_HTTP
    {SOURCE_HTTP, "", &store_http, "http"},
#endif
};

const struct store_kind *
store_kind_find(const struct config_mapping *m)
{
	for (size_t i = 0; i < ARRAY_LEN(store_kinds); i++)
		if (store_kinds[i].source == m->source &&
		    (m->source != SOURCE_SQL ||
			strncmp(m->sql_url, store_kinds[i].scheme,
			    strlen(store_kinds[i].scheme)) == 0))
			return store_kinds[i].kind;
	return NULL;
}

const char *
store_kinds_built(char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(store_kinds) && len < size; i++)
		len += (size_t)snprintf(buf + len, size - len, "%s%s",
		    i > 0 ? ", " : "", store_kinds[i].text);
	return buf;
}

struct store_call *
store_fail(const struct store_request *rq, const char *text)
{
	rq->done(rq->arg, STORE_FAILED, text);
	return NULL;
}

size_t
store_share(unsigned pool_size, size_t n_workers)
{
	size_t share = n_workers > 0 ? pool_size / n_workers : pool_size;

	return share > 0 ? share : 1;
}

bool
store_is_loopback(const char *host)
{
	struct addr a;
	struct cidr v4, v6;

	if (!addr_parse_ip(host, &a))
		return strcasecmp(host, "localhost") == 0;
	return cidr_parse("127.0.0.0/8", &v4) && cidr_parse("::1", &v6) &&
	    (cidr_match(&v4, &a) || cidr_match(&v6, &a));
}
