/* route.c: the order in which a route is looked for.
 *
 * Each key (the identifier, then its "@domain") has its own entry in the cache,
 * so that a change of a domain's route needs one entry forgotten, not all its
 * users'. A fetch belongs to the router, not to the session that happened to
 * ask first: that one may go away while others wait. When the router goes away
 * (its runtime has been replaced), those who wait for its fetches look again,
 * with their own routers. */

#include "service/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <utlist.h>

#include "platform/clock.h"
#include "platform/log.h"
#include "proto/identifier.h"
#include "service/cache.h"
#include "net/mailbox.h"
#include "store/store.h"

struct router {
	struct router_spec spec;
	const struct store_kind *kind;
	struct store *store;
	struct route_fetch *fetches;
	int default_destination;
};

/* One question to the store, or a change in it (then changed is set). */
struct route_fetch {
	struct route_fetch *next, *prev;
	struct router *router;
	struct store_call *call;
	struct cache_fetch *fetch; /* NULL: a change */
	struct event *timeout;
	route_changed *changed;
	void *arg;
	char key[];
};

struct route_lookup {
	struct router *router; /* may be freed once this is cancelled */
	struct mailbox *mailbox;
	route_done *done;
	void *arg;
	const char *step; /* the key being asked: key, or its domain */
	struct event *timeout; /* NULL: did not have to wait */
	struct cache_waiter waiter;
	struct cache_answer answer;
	struct mailbox_item woken;
	bool again; /* woken without an answer: has to look again */
	bool late; /* its time is over; it waits for nothing more */
	bool cancelled; /* waits only until it is woken and freed */
	char key[];
};

static struct route_fetch *route_fetch_new(struct router *r, const char *key);
static void route_fetch_start(struct router *r, const char *key,
    struct cache_fetch *fetch);
static void route_fetch_done(void *arg, enum store_result result,
    const char *text);
static void route_fetch_timeout_cb(evutil_socket_t fd, short what, void *arg);
static void route_fetch_free(struct route_fetch *f);
static bool route_writable(const struct router *r, const char *key,
    const char *destination, char *out, struct err *err);
static void route_change_done(void *arg, enum store_result result,
    const char *text);
static void route_changed_cb(void *arg, const char *key);
static void route_local_done(void *arg, enum store_result result,
    const char *destination);
static int route_destination(const struct config *cfg, const char *text);
static void route_log_failed(const char *key, const char *reason);
static void route_log_undeclared(const char *key, const char *text);
static void route_fail(struct route_lookup *l);
static enum route_reason route_reason(const struct route_lookup *l,
    enum route_status status);
static bool route_step(struct route_lookup *l);
static bool route_wait(struct route_lookup *l);
static void route_timeout_cb(evutil_socket_t fd, short what, void *arg);
static bool route_late(struct route_lookup *l);
static void route_lookup_free(struct route_lookup *l);
static bool route_answered(struct route_lookup *l);
static void route_finish(struct route_lookup *l, enum route_status status);
static void route_wake(struct cache_waiter *w,
    const struct cache_answer *answer);
static void route_woken(void *arg);

struct router *
router_new(const struct router_spec *spec, struct err *err)
{
	struct router *r = calloc(1, sizeof(*r));
	const char *def = spec->cfg->routing.default_destination;
	const struct store_spec store = {
	    .cfg = spec->cfg,
	    .table = spec->table,
	    .base = spec->base,
	    .resolver = spec->resolver,
	    .n_workers = spec->n_workers,
	};

	if (r == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	r->spec = *spec;
	r->kind = store_kind_find(&spec->cfg->mapping);
	r->default_destination =
	    config_destination_find(spec->cfg, def, strlen(def));
	if (r->kind == NULL)
		err_set(err, "this mapping source is not built in");
	else
		r->store = r->kind->open(&store, err);
	if (r->store == NULL)
		router_free(&r);
	return r;
}

void
router_free(struct router **rp)
{
	struct router *r = *rp;
	struct route_fetch *f, *tmp;

	if (r == NULL)
		return;
	*rp = NULL;
	if (r->kind != NULL && r->store != NULL)
		r->kind->close(r->store);
	DL_FOREACH_SAFE (r->fetches, f, tmp) {
		if (f->fetch != NULL)
			cache_abandon(&f->fetch);
		route_fetch_free(f);
	}
	free(r);
}

void
router_watch(struct router *r)
{
	if (r->kind->watch != NULL)
		r->kind->watch(r->store, route_changed_cb, r);
}

/* What cannot be understood may be about anybody. */
static void
route_changed_cb(void *arg, const char *key)
{
	struct router *r = arg;
	struct log_line line;
	const struct identifier_rules rules =
	    config_identifier_rules(r->spec.cfg);
	char made[IDENTIFIER_MAX + 1];
	bool known = key != NULL &&
	    identifier_stored(&rules, key, strlen(key), made) == NULL;

	log_begin(&line, LOG_DEBUG, "the store says that a route has changed");
	log_cstr(&line, "identifier", known ? made : "*");
	if (key != NULL && !known)
		log_cstr(&line, "said", key);
	log_end(&line);
	if (known)
		cache_forget(r->spec.cache, made);
	else
		cache_fence(r->spec.cache);
}

enum identifier_status
route_key(const struct config *cfg, const char *name, size_t len, char *out)
{
	const struct identifier_rules rules = config_identifier_rules(cfg);

	return identifier_make(&rules, name, len, out);
}

struct route_lookup *
route_lookup(struct router *r, const char *key, route_done *done, void *arg)
{
	struct route_answer failed = {.status = ROUTE_FAILED,
	    .reason = ROUTE_BY_ERROR,
	    .destination = -1};
	struct route_lookup *l = calloc(1, sizeof(*l) + strlen(key) + 1);

	if (l == NULL) {
		done(arg, &failed);
		return NULL;
	}
	strcpy(l->key, key);
	l->router = r;
	l->mailbox = r->spec.mailbox;
	l->done = done;
	l->arg = arg;
	l->step = l->key;
	l->waiter.wake = route_wake;
	l->woken.fn = route_woken;
	l->woken.arg = l;
	if (key[0] == '\0') {
		route_finish(l, ROUTE_DEFAULT);
		return NULL;
	}
	return route_step(l) ? NULL : l;
}

void
route_lookup_cancel(struct route_lookup **lp)
{
	struct route_lookup *l = *lp;

	if (l == NULL)
		return;
	*lp = NULL;
	if (cache_cancel(l->router->spec.cache, l->step, &l->waiter)) {
		route_lookup_free(l);
		return;
	}
	/* It is being woken: from here on it uses only its mailbox. */
	l->cancelled = true;
	if (l->timeout != NULL)
		evtimer_del(l->timeout);
}

static void
route_lookup_free(struct route_lookup *l)
{
	if (l->timeout != NULL)
		event_free(l->timeout);
	free(l);
}

/* Asks for l->step. Returns true if the lookup is over and l is freed. */
static bool
route_step(struct route_lookup *l)
{
	struct router *r = l->router;
	const struct store_request rq = {
	    .verb = STORE_GET,
	    .key = l->step,
	    .done = route_local_done,
	    .arg = l,
	};

	if (r->kind->local) {
		r->kind->call(r->store, &rq);
		return route_answered(l);
	}
	if (l->late)
		return route_late(l);
	switch (cache_lookup(r->spec.cache, l->step, clock_ms(), &l->waiter,
	    &l->answer)) {
	case CACHE_HIT:
		return route_answered(l);
	case CACHE_FETCH:
		route_fetch_start(r, l->step, l->waiter.fetch);
		if (route_wait(l))
			return false;
		break;
	case CACHE_WAIT:
		if (route_wait(l))
			return false;
		break;
	case CACHE_NO_MEMORY:
		break;
	}
	route_fail(l);
	route_finish(l, ROUTE_FAILED);
	return true;
}

static void
route_fail(struct route_lookup *l)
{
	l->answer = (struct cache_answer){STORE_FAILED, -1, false};
}

/* Starts the lookup's timeout, one for all its keys, no matter which lookup
 * asks the store for them. Returns false if memory is short; it then does not
 * wait. */
static bool
route_wait(struct route_lookup *l)
{
	const struct router *r = l->router;
	struct timeval tv = clock_timeval(r->spec.cfg->mapping.lookup_timeout);

	if (l->timeout != NULL)
		return true;
	l->timeout = evtimer_new(r->spec.base, route_timeout_cb, l);
	if (l->timeout != NULL && evtimer_add(l->timeout, &tv) == 0)
		return true;
	/* It may be woken already; the mailbox then has it. */
	return !cache_cancel(r->spec.cache, l->step, &l->waiter);
}

static void
route_timeout_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct route_lookup *l = arg;

	l->late = true;
	if (cache_cancel(l->router->spec.cache, l->step, &l->waiter))
		route_late(l);
}

/* Answers with what the cache has. Returns as route_answered(). */
static bool
route_late(struct route_lookup *l)
{
	if (!cache_peek(l->router->spec.cache, l->step, clock_ms(), &l->answer))
		route_fail(l);
	return route_answered(l);
}

static void
route_local_done(void *arg, enum store_result result, const char *text)
{
	struct route_lookup *l = arg;

	l->answer = (struct cache_answer){result, -1, false};
	if (result == STORE_FOUND)
		l->answer.destination =
		    route_destination(l->router->spec.cfg, text);
}

/* Handles l->answer: ends the lookup, or goes on with the domain. Returns true
 * if the lookup is over and l is freed. */
static bool
route_answered(struct route_lookup *l)
{
	const char *domain = identifier_domain(l->key);
	bool fallback =
	    l->router->spec.cfg->mapping.on_store_error == STORE_ERROR_DEFAULT;

	switch (l->answer.result) {
	case STORE_FOUND:
		route_finish(l, ROUTE_FOUND);
		return true;
	case STORE_FAILED:
		route_finish(l, fallback ? ROUTE_DEFAULT : ROUTE_FAILED);
		return true;
	case STORE_UNKNOWN:
		break;
	}
	/* The key may be an "@domain" itself. */
	if (domain == NULL || l->step == domain) {
		route_finish(l, ROUTE_DEFAULT);
		return true;
	}
	l->step = domain;
	return route_step(l);
}

static void
route_finish(struct route_lookup *l, enum route_status status)
{
	const struct router *r = l->router;
	struct route_answer answer = {.status = status,
	    .reason = route_reason(l, status),
	    .destination = -1};

	if (l->answer.result != STORE_UNKNOWN && l->key[0] != '\0')
		answer.key = l->step;
	if (status == ROUTE_FOUND)
		answer.destination = l->answer.destination;
	if (status == ROUTE_DEFAULT)
		answer.destination = r->default_destination;
	answer.undeclared = l->answer.result == STORE_FAILED &&
	    l->answer.destination == (int)r->spec.cfg->n_destination;
	l->done(l->arg, &answer);
	route_lookup_free(l);
}

static enum route_reason
route_reason(const struct route_lookup *l, enum route_status status)
{
	if (l->key[0] != '\0' && l->answer.result == STORE_FAILED)
		return ROUTE_BY_ERROR;
	if (status == ROUTE_DEFAULT)
		return ROUTE_BY_DEFAULT;
	if (l->answer.stale)
		return ROUTE_BY_STALE;
	return l->step == l->key ? ROUTE_BY_IDENTIFIER : ROUTE_BY_DOMAIN;
}

const char *
route_reason_name(enum route_reason reason)
{
	static const char *const names[] = {
	    [ROUTE_BY_IDENTIFIER] = "identifier",
	    [ROUTE_BY_DOMAIN] = "domain",
	    [ROUTE_BY_DEFAULT] = "default",
	    [ROUTE_BY_STALE] = "stale",
	    [ROUTE_BY_ERROR] = "error",
	};

	_Static_assert(ARRAY_LEN(names) == ROUTE_REASONS, "unnamed reason");
	return names[reason];
}

/* Called on the thread that fetched; sends a message to the lookup's thread. */
static void
route_wake(struct cache_waiter *w, const struct cache_answer *answer)
{
	struct route_lookup *l = (struct route_lookup *)(void *)((char *)w -
	    offsetof(struct route_lookup, waiter));

	l->again = answer == NULL;
	if (answer != NULL)
		l->answer = *answer;
	mailbox_post(l->mailbox, &l->woken);
}

static void
route_woken(void *arg)
{
	struct route_lookup *l = arg;

	if (l->cancelled)
		route_lookup_free(l);
	else if (l->again)
		route_step(l);
	else
		route_answered(l);
}

/* The declared destination that a store's text names, or -1. White space around
 * a name can mean nothing else than the name (CHAR(16), a line feed). */
static int
route_destination(const struct config *cfg, const char *text)
{
	static const char blank[] = " \t\r\n\v\f";
	const char *name = text + strspn(text, blank);
	size_t len = strlen(name);

	while (len > 0 && strchr(blank, name[len - 1]) != NULL)
		len--;
	return config_destination_find(cfg, name, len);
}

static void
route_log_undeclared(const char *key, const char *text)
{
	struct log_line line;

	log_begin(&line, LOG_ERR,
	    "the store names a destination that is not declared");
	log_cstr(&line, "identifier", key);
	log_cstr(&line, "destination", text);
	log_end(&line);
}

/* Returns a linked question with its timeout running, or NULL if memory is
 * short. */
static struct route_fetch *
route_fetch_new(struct router *r, const char *key)
{
	struct route_fetch *f = calloc(1, sizeof(*f) + strlen(key) + 1);
	struct timeval tv = clock_timeval(r->spec.cfg->mapping.lookup_timeout);

	if (f == NULL)
		return NULL;
	strcpy(f->key, key);
	f->router = r;
	DL_APPEND(r->fetches, f);
	f->timeout = evtimer_new(r->spec.base, route_fetch_timeout_cb, f);
	if (f->timeout != NULL && evtimer_add(f->timeout, &tv) == 0)
		return f;
	route_fetch_free(f);
	return NULL;
}

static void
route_fetch_start(struct router *r, const char *key, struct cache_fetch *fetch)
{
	struct route_fetch *f = route_fetch_new(r, key);
	const struct store_request rq = {
	    .verb = STORE_GET,
	    .key = key,
	    .done = route_fetch_done,
	    .arg = f,
	};
	struct store_call *call;

	if (f == NULL) {
		cache_fill(r->spec.cache, &fetch, clock_ms(), STORE_FAILED, -1);
		return;
	}
	f->fetch = fetch;
	call = r->kind->call(r->store, &rq);
	if (call != NULL)
		f->call = call;
}

static void
route_fetch_timeout_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct route_fetch *f = arg;

	if (f->call != NULL)
		f->router->kind->cancel(f->call);
	if (f->changed != NULL)
		route_change_done(f, STORE_FAILED, "no answer in time");
	else
		route_fetch_done(f, STORE_FAILED, "no answer in time");
}

static void
route_fetch_done(void *arg, enum store_result result, const char *text)
{
	struct route_fetch *f = arg;
	const struct router_spec *spec = &f->router->spec;
	int i = -1;

	if (result == STORE_FOUND)
		i = route_destination(spec->cfg, text);
	if (result == STORE_FAILED) {
		route_log_failed(f->key, text);
	} else if (result == STORE_FOUND && i == -1) {
		route_log_undeclared(f->key, text);
		/* The account has a home, but not where it was before. */
		cache_forget(spec->cache, f->key);
		result = STORE_FAILED;
		i = (int)spec->cfg->n_destination;
	}
	cache_fill(spec->cache, &f->fetch, clock_ms(), result, i);
	route_fetch_free(f);
}

static void
route_log_failed(const char *key, const char *reason)
{
	struct log_line line;

	log_begin(&line, LOG_ERR, "the store cannot answer");
	log_cstr(&line, "identifier", key);
	log_cstr(&line, "reason", reason);
	log_end(&line);
}

static void
route_fetch_free(struct route_fetch *f)
{
	DL_DELETE(f->router->fetches, f);
	if (f->timeout != NULL)
		event_free(f->timeout);
	free(f);
}

/* Makes what is written of key: what a lookup asks for. What no lookup asks for
 * can be deleted, as it is. Returns false, and err says why, if it may not be
 * written. */
static bool
route_writable(const struct router *r, const char *key, const char *destination,
    char *out, struct err *err)
{
	struct identifier_rules rules = config_identifier_rules(r->spec.cfg);
	const char *fault = identifier_stored(&rules, key, strlen(key), out);

	rules = (struct identifier_rules){
	    .at_substitutes = "", .default_domain = ""};
	if (fault != NULL &&
	    (destination != NULL ||
		identifier_make(&rules, key, strlen(key), out) !=
		    IDENTIFIER_OK))
		err_set(err, "no login can match this identifier: %s", fault);
	else if (destination != NULL &&
	    config_destination_find(r->spec.cfg, destination,
		strlen(destination)) == -1)
		err_set(err, "no such destination is declared");
	else
		return true;
	return false;
}

struct route_change *
route_change(struct router *r, const char *key, const char *destination,
    route_changed *done, void *arg)
{
	char made[IDENTIFIER_MAX + 1];
	struct err err = {"out of memory"};
	struct route_fetch *f = NULL;
	struct store_request rq = {
	    .verb = destination != NULL ? STORE_SET : STORE_DELETE,
	    .key = made,
	    .destination = destination,
	    .done = route_change_done,
	};
	struct store_call *call;

	if (route_writable(r, key, destination, made, &err))
		f = route_fetch_new(r, made);
	if (f == NULL) {
		done(arg, err.text);
		return NULL;
	}
	f->changed = done;
	f->arg = arg;
	rq.arg = f;
	call = r->kind->call(r->store, &rq);
	if (call != NULL)
		f->call = call;
	return call != NULL ? (struct route_change *)(void *)f : NULL;
}

static void
route_change_done(void *arg, enum store_result result, const char *text)
{
	struct route_fetch *f = arg;
	route_changed *changed = f->changed;
	void *changed_arg = f->arg;
	char reason[256] = "";

	/* Also after a failure, because the change may have been made. */
	cache_forget(f->router->spec.cache, f->key);
	if (result == STORE_FAILED)
		snprintf(reason, sizeof(reason), "%s", text);
	route_fetch_free(f);
	changed(changed_arg, result == STORE_FAILED ? reason : NULL);
}
