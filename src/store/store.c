/* store.c: the kinds of store there are. */

#include "store/store.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "platform/addr.h"

#define STORE_BUILT_MAX 128

static const struct store_kind *const store_kinds[] = {
    &store_file,
#ifdef MAILFERRY_REDIS
    &store_redis,
#endif
#ifdef MAILFERRY_POSTGRES
    &store_postgres,
#endif
#ifdef MAILFERRY_MYSQL
    &store_mysql,
#endif
#ifdef MAILFERRY_SQLITE
    &store_sqlite,
#endif
#ifdef MAILFERRY_HTTP
    &store_http,
#endif
};

static const char *store_kind_value(const struct store_kind *kind,
    const struct config_mapping *m);
static bool store_kind_fits(const struct store_kind *kind, const char *url);
static void store_not_built(const struct config *cfg,
    struct config_problems *problems);

const struct store_kind *
store_kind_find(const struct config_mapping *m)
{
	for (size_t i = 0; i < ARRAY_LEN(store_kinds); i++)
		if (store_kinds[i]->source == m->source &&
		    store_kind_fits(store_kinds[i],
			store_kind_value(store_kinds[i], m)))
			return store_kinds[i];
	return NULL;
}

static const char *
store_kind_value(const struct store_kind *kind, const struct config_mapping *m)
{
	const void *at = (const char *)m + kind->value;

	return *(char *const *)at;
}

static bool
store_kind_fits(const struct store_kind *kind, const char *url)
{
	const char *const *scheme = kind->schemes;

	if (*scheme == NULL)
		return true;
	while (*scheme != NULL && strncmp(url, *scheme, strlen(*scheme)) != 0)
		scheme++;
	return *scheme != NULL;
}

void
store_check(const struct config *cfg, struct config_problems *problems)
{
	const struct store_kind *kind = store_kind_find(&cfg->mapping);

	if (kind == NULL)
		store_not_built(cfg, problems);
	else if (kind->check != NULL)
		kind->check(cfg, problems);
}

/* Another kind of the same source may be: then it is the URL that asks for what
 * is not there. */
static void
store_not_built(const struct config *cfg, struct config_problems *problems)
{
	const char *key = "mapping.source";
	char built[STORE_BUILT_MAX] = "";
	size_t len = 0;

	for (size_t i = 0; i < ARRAY_LEN(store_kinds); i++) {
		if (store_kinds[i]->source == cfg->mapping.source)
			key = store_kinds[i]->key;
		len += (size_t)snprintf(built + len, sizeof(built) - len,
		    "%s%s", i > 0 ? ", " : "", store_kinds[i]->name);
	}
	config_problem(cfg, problems, key,
	    "this source is not built in; expected one of %s", built);
}

void
store_describe(const struct config *cfg, const struct store_table *table,
    char *buf, size_t size)
{
	const struct store_kind *kind = store_kind_find(&cfg->mapping);
	char masked[CONFIG_URL_MAX + 1];

	if (kind->describe != NULL) {
		kind->describe(cfg, table, buf, size);
		return;
	}
	config_show_url(cfg, kind->key, store_kind_value(kind, &cfg->mapping),
	    masked);
	snprintf(buf, size, "%s", masked);
}

void
store_warn_unverified(const struct config *cfg,
    struct config_problems *problems, const char *key, const char *cure)
{
	config_warning(cfg, problems, key,
	    "the server is not verified: anybody on the way may say where "
	    "mailboxes are; expected %s",
	    cure);
}

/* Distinct $1, $2, ... up to 9, or every "?". */
static unsigned
store_sql_parameters(const char *query, const char *mark)
{
	unsigned n = 0, seen = 0;

	for (const char *p = strchr(query, *mark); p != NULL;
	     p = strchr(p + 1, *mark)) {
		if (*mark == '$' && p[1] >= '1' && p[1] <= '9' &&
		    (seen & 1u << (p[1] - '0')) == 0) {
			seen |= 1u << (p[1] - '0');
			n++;
		}
		n += *mark == '?';
	}
	return n;
}

bool
store_sql_check(const struct config *cfg, const char *mark,
    struct config_problems *problems)
{
	const struct config_mapping *m = &cfg->mapping;
	bool upsert = *m->sql_upsert_query != '\0';
	bool removes = *m->sql_delete_query != '\0';
	bool asks = strstr(m->sql_query, mark) != NULL;
	bool lists = *m->sql_list_query == '\0' ||
	    store_sql_parameters(m->sql_list_query, mark) == 3;

	if (!asks)
		config_problem(cfg, problems, "mapping.sql.query",
		    "there is no placeholder for the identifier; expected a "
		    "query with %s",
		    mark);
	if (upsert && !removes)
		config_problem(cfg, problems, "mapping.sql.upsert_query",
		    "without delete_query; expected both or neither");
	if (removes && !upsert)
		config_problem(cfg, problems, "mapping.sql.delete_query",
		    "without upsert_query; expected both or neither");
	if (!lists)
		config_problem(cfg, problems, "mapping.sql.list_query",
		    "not three parameters; expected a prefix, the identifier "
		    "to begin after, and how many rows");
	return asks && upsert == removes && lists;
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
