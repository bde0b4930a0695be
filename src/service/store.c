/* store.c: the kinds of store there are. */

#include "service/store.h"

#include <string.h>

/* In the order in which they are looked for: source, then URL. */
static const struct {
	enum mapping_source source;
	const char *scheme; /* "": any */
	const struct store_kind *kind;
} store_kinds[] = {
    {SOURCE_FILE, "", &store_file},
#ifdef MAILFERRY_REDIS
    {SOURCE_REDIS, "", &store_redis},
#endif
#ifdef MAILFERRY_POSTGRES
    {SOURCE_SQL, "postgres:", &store_postgres},
#endif
#ifdef MAILFERRY_MYSQL
    {SOURCE_SQL, "mysql:", &store_mysql},
#endif
#ifdef MAILFERRY_SQLITE
    {SOURCE_SQL, "sqlite:", &store_sqlite},
#endif
#ifdef MAILFERRY_HTTP
    {SOURCE_HTTP, "", &store_http},
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
store_kinds_built(void)
{
	return "file"
#ifdef MAILFERRY_REDIS
	       ", redis"
#endif
#ifdef MAILFERRY_POSTGRES
	       ", sql: postgres"
#endif
#ifdef MAILFERRY_MYSQL
	       ", sql: mysql"
#endif
#ifdef MAILFERRY_SQLITE
	       ", sql: sqlite"
#endif
#ifdef MAILFERRY_HTTP
	       ", http"
#endif
	    ;
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
