/* runtime.c: builds and frees the snapshot. */

#include "service/runtime.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "service/cache.h"
#include "net/connector.h"
#include "service/destination.h"
#include "service/learnt.h"
#include "service/pop3_texts.h"
#include "service/route.h"
#include "store/store.h"
#include "store/file.h"
#include "net/tls_client.h"
#include "net/tls_identity.h"
#include "net/tls_server.h"

/* The references of the workers' slices and the main thread; see runtime.h. */
struct runtime_holds {
	atomic_size_t refs, logins;
	atomic_size_t begun; /* slices that their workers have taken */
};

static bool runtime_load(struct runtime *rt, const struct runtime *old,
    struct config_problems *problems);
static struct cache *runtime_cache(const struct config *cfg,
    const struct runtime *old);
static bool runtime_same_routes(const struct config *a, const struct config *b);
static bool runtime_destinations(struct runtime *rt, const struct runtime *old);
static struct destination *runtime_destination_make(const struct runtime *rt,
    size_t i, enum protocol p, const struct runtime *old);
static bool runtime_slices(struct runtime *rt,
    const struct runtime_worker *workers, struct err *err);
static struct runtime_slice *runtime_slice_new(struct runtime *rt,
    const struct runtime_worker *worker, struct err *err);
static void runtime_slice_retire(struct runtime_slice *slice);
static void runtime_slice_free(struct runtime_slice *slice);
static void runtime_leave(struct runtime *rt);
static void runtime_drop(struct runtime *rt);
static void runtime_retire(struct runtime *rt);
static void runtime_free(struct runtime *rt);

struct runtime *
runtime_new(struct config *cfg, const struct runtime *old,
    const struct runtime_worker *workers, size_t n_workers,
    struct config_problems *problems)
{
	struct runtime *rt = calloc(1, sizeof(*rt));
	struct runtime_holds *holds = malloc(sizeof(*holds));
	struct err err = {"out of memory"};

	if (rt == NULL || holds == NULL) {
		free(rt);
		free(holds);
		config_problem(cfg, problems, "", "out of memory");
		config_free(&cfg);
		return NULL;
	}
	atomic_init(&holds->refs, n_workers + 1);
	atomic_init(&holds->logins, n_workers + 1);
	atomic_init(&holds->begun, 0);
	rt->holds = holds;
	rt->cfg = cfg;
	rt->n_slices = n_workers;
	rt->slice = calloc(n_workers + 1, sizeof(*rt->slice));
	if (!runtime_load(rt, old, problems) || problems->n_error > 0) {
		runtime_discard(&rt);
		return NULL;
	}
	rt->pop3_texts = pop3_texts_new(cfg);
	if (rt->slice == NULL || rt->pop3_texts == NULL ||
	    !runtime_destinations(rt, old) ||
	    (workers != NULL && !runtime_slices(rt, workers, &err))) {
		config_problem(cfg, problems, "", "%s", err.text);
		runtime_discard(&rt);
	}
	return rt;
}

/* Reads all files, even after a failure, so that all problems are reported. */
static bool
runtime_load(struct runtime *rt, const struct runtime *old,
    struct config_problems *problems)
{
	const struct config *cfg = rt->cfg;

	rt->identities = tls_identities_load(cfg, problems);
	rt->trust = calloc(cfg->n_destination + 1, sizeof(*rt->trust));
	if (rt->trust == NULL)
		return false;
	for (size_t i = 0; i < cfg->n_destination; i++)
		rt->trust[i] = tls_trust_load(cfg, i, problems);
	store_check(cfg, problems);
	rt->table = store_table_load(cfg, problems);
	rt->cache = runtime_cache(cfg, old);
	return rt->cache != NULL && rt->table != NULL;
}

/* Keeps the old cache if its answers mean the same. A reload while the store
 * fails must not remove the answers that serve meanwhile. */
static struct cache *
runtime_cache(const struct config *cfg, const struct runtime *old)
{
	const struct config_mapping *m = &cfg->mapping;
	struct cache_limits limits = {m->cache_max_entries, m->positive_ttl,
	    m->negative_ttl, m->stale_ttl};

	if (old != NULL && runtime_same_routes(old->cfg, cfg))
		return cache_ref(old->cache);
	return cache_new(&limits);
}

/* Answers are indices of destinations. */
static bool
runtime_same_routes(const struct config *a, const struct config *b)
{
	if (a->n_destination != b->n_destination ||
	    strcmp(a->routing.default_destination,
		b->routing.default_destination) != 0)
		return false;
	for (size_t i = 0; i < a->n_destination; i++)
		if (strcmp(a->destination[i].name, b->destination[i].name) != 0)
			return false;
	return config_same(a, b, "mapping.");
}

void
runtime_publish(struct runtime *rt)
{
	cache_fence(rt->cache);
}

static bool
runtime_destinations(struct runtime *rt, const struct runtime *old)
{
	size_t n = rt->cfg->n_destination;

	rt->destination = calloc(n * PROTOCOLS + 1, sizeof(*rt->destination));
	if (rt->destination == NULL)
		return false;
	for (size_t i = 0; i < n * PROTOCOLS; i++) {
		rt->destination[i] = runtime_destination_make(rt, i / PROTOCOLS,
		    (enum protocol)(i % PROTOCOLS), old);
		if (rt->destination[i] == NULL)
			return false;
	}
	return true;
}

/* Keeps the old object if it is the same endpoint, but forgets what was learnt,
 * because that may depend on anything that was changed. */
static struct destination *
runtime_destination_make(const struct runtime *rt, size_t i, enum protocol p,
    const struct runtime *old)
{
	const struct config_destination *now = &rt->cfg->destination[i], *was;
	struct destination *d;
	int j = -1;

	if (old != NULL)
		j = config_destination_find(old->cfg, now->name,
		    strlen(now->name));
	if (j == -1)
		return destination_new(now);
	was = &old->cfg->destination[j];
	if (strcmp(was->host, now->host) != 0 ||
	    config_endpoint(was, p)->port != config_endpoint(now, p)->port)
		return destination_new(now);
	d = runtime_destination(old, (size_t)j, p);
	learnt_forget_all(destination_memory(d));
	return destination_ref(d);
}

struct destination *
runtime_destination(const struct runtime *rt, size_t destination,
    enum protocol p)
{
	return rt->destination[destination * PROTOCOLS + p];
}

static bool
runtime_slices(struct runtime *rt, const struct runtime_worker *workers,
    struct err *err)
{
	for (size_t i = 0; i < rt->n_slices; i++) {
		rt->slice[i] = runtime_slice_new(rt, &workers[i], err);
		if (rt->slice[i] == NULL)
			return false;
	}
	return true;
}

static struct runtime_slice *
runtime_slice_new(struct runtime *rt, const struct runtime_worker *worker,
    struct err *err)
{
	struct runtime_slice *s = calloc(1, sizeof(*s));
	size_t n = rt->cfg->n_destination;
	struct router_spec router = {
	    .cfg = rt->cfg,
	    .table = rt->table,
	    .cache = rt->cache,
	    .base = worker->base,
	    .mailbox = worker->mailbox,
	    .resolver = worker->resolver,
	    .n_workers = rt->n_slices,
	};

	if (s == NULL)
		return NULL;
	s->rt = rt;
	s->refs = s->logins = 1;
	s->source_turn = calloc(n + 1, sizeof(*s->source_turn));
	s->tls_client = calloc(n + 1, sizeof(struct tls_client *));
	if (s->source_turn == NULL || s->tls_client == NULL)
		goto fail;
	s->tls_server = tls_server_new(rt->cfg, rt->identities, err);
	s->router = router_new(&router, err);
	if (s->tls_server == NULL || s->router == NULL)
		goto fail;
	for (size_t i = 0; i < n; i++) {
		s->tls_client[i] =
		    tls_client_new(&rt->cfg->destination[i], rt->trust[i], err);
		if (s->tls_client[i] == NULL)
			goto fail;
	}
	return s;
fail:
	runtime_slice_free(s);
	return NULL;
}

/* What only logins use; twice does no harm. Leaves the runtime alone. */
static void
runtime_slice_retire(struct runtime_slice *s)
{
	router_free(&s->router);
	for (size_t i = 0;
	     s->tls_client != NULL && i < s->rt->cfg->n_destination; i++)
		tls_client_free(&s->tls_client[i]);
	free(s->tls_client);
	free(s->source_turn);
	s->tls_client = NULL;
	s->source_turn = NULL;
}

/* Leaves the runtime alone. */
static void
runtime_slice_free(struct runtime_slice *s)
{
	runtime_slice_retire(s);
	tls_server_free(&s->tls_server);
	free(s);
}

void
runtime_discard(struct runtime **rtp)
{
	struct runtime *rt = *rtp;

	*rtp = NULL;
	for (size_t i = 0; rt->slice != NULL && i < rt->n_slices; i++)
		if (rt->slice[i] != NULL)
			runtime_slice_free(rt->slice[i]);
	runtime_free(rt);
}

void
runtime_slice_begin(struct runtime_slice *slice)
{
	const struct runtime *rt = slice->rt;

	if (atomic_fetch_add(&rt->holds->begun, 1) + 1 == rt->n_slices)
		router_watch(slice->router);
}

struct runtime_slice *
runtime_slice_ref(struct runtime_slice *slice)
{
	slice->refs++;
	return slice;
}

void
runtime_slice_unref(struct runtime_slice **slicep)
{
	struct runtime_slice *slice = *slicep;
	struct runtime *rt;

	*slicep = NULL;
	if (slice == NULL || --slice->refs > 0)
		return;
	rt = slice->rt;
	runtime_slice_free(slice);
	runtime_drop(rt);
}

struct runtime_slice *
runtime_slice_enter(struct runtime_slice *slice)
{
	slice->logins++;
	return runtime_slice_ref(slice);
}

void
runtime_slice_leave(struct runtime_slice **slicep)
{
	struct runtime_slice *slice = *slicep;

	if (slice != NULL && --slice->logins == 0) {
		runtime_slice_retire(slice);
		runtime_leave(slice->rt);
	}
	runtime_slice_unref(slicep);
}

void
runtime_unref(struct runtime **rtp)
{
	struct runtime *rt = *rtp;

	*rtp = NULL;
	if (rt == NULL)
		return;
	runtime_leave(rt);
	runtime_drop(rt);
}

static void
runtime_leave(struct runtime *rt)
{
	if (atomic_fetch_sub(&rt->holds->logins, 1) == 1)
		runtime_retire(rt);
}

static void
runtime_drop(struct runtime *rt)
{
	if (atomic_fetch_sub(&rt->holds->refs, 1) == 1)
		runtime_free(rt);
}

/* What only logins use; twice does no harm. */
static void
runtime_retire(struct runtime *rt)
{
	size_t n = rt->cfg->n_destination;

	for (size_t i = 0; rt->destination != NULL && i < n * PROTOCOLS; i++)
		destination_unref(&rt->destination[i]);
	for (size_t i = 0; rt->trust != NULL && i < n; i++)
		tls_trust_free(&rt->trust[i]);
	free(rt->destination);
	free(rt->trust);
	rt->destination = NULL;
	rt->trust = NULL;
	store_table_free(&rt->table);
	cache_unref(&rt->cache);
}

static void
runtime_free(struct runtime *rt)
{
	runtime_retire(rt);
	tls_identities_free(&rt->identities);
	pop3_texts_free(&rt->pop3_texts);
	free(rt->slice);
	free(rt->holds);
	config_free(&rt->cfg);
	free(rt);
}
