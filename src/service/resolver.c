/* resolver.c: host names to addresses.
 *
 * A name is remembered for as long as the process lives: names come from the
 * configuration, so there are few.
 *
 * libevent takes 15 s to give a silent name server up, longer than a login may
 * wait for its backend. So old addresses are waited for a second only, and not
 * at all once the name is known to fail: it is then asked in the background,
 * until there is an answer again. */

#include "service/resolver.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <event2/dns.h>
#include <event2/event.h>
#include <event2/util.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/log.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)hash_keyed((key), (len)))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define RESOLVER_FRESH_MS 30000
#define RESOLVER_STALE_MS (60 * 60 * 1000)
#define RESOLVER_PATIENCE_MS 1000 /* RFC 8767: client response timer */
#define RESOLVER_RECHECK_MS 5000 /* ... failure recheck timer */

struct resolver_name {
	UT_hash_handle hh;
	struct resolver_name *next; /* of all */
	struct resolver *resolver;
	struct resolver_query *queries;
	struct event *patience;
	struct evdns_getaddrinfo_request *request; /* NULL: none under way */
	unsigned told; /* how often queries were told */
	bool asking;
	bool failing; /* the last addresses have to do */
	struct addr addr[RESOLVER_ADDRS_MAX];
	size_t n;
	int64_t when; /* the answer came; clock_ms(), or before it began */
	int64_t failed; /* there was none */
	char name[];
};

struct resolver_query {
	struct resolver_query *next, *prev;
	struct resolver_name *name;
	unsigned told; /* the name's, when this was asked */
	resolver_done *done;
	void *arg;
};

struct resolver {
	struct event_base *base;
	struct evdns_base *dns;
	struct resolver_name *names; /* by name */
	struct resolver_name *all;
};

static struct resolver_name *resolver_find(struct resolver *r,
    const char *name);
static bool resolver_knows(struct resolver_name *n);
static void resolver_ask(struct resolver_name *n);
static void resolver_patience_cb(evutil_socket_t fd, short what, void *arg);
static void resolver_answer_cb(int result, struct evutil_addrinfo *res,
    void *arg);
static void resolver_take(struct resolver_name *n,
    const struct evutil_addrinfo *res);
static void resolver_tell(struct resolver_name *n, const char *reason);

struct resolver *
resolver_new(struct event_base *base, struct evdns_base *dns)
{
	struct resolver *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->base = base;
	r->dns = dns;
	return r;
}

void
resolver_free(struct resolver **rp)
{
	struct resolver *r = *rp;
	struct resolver_name *n, *tmp;

	if (r == NULL)
		return;
	*rp = NULL;
	/* libevent frees what it was asked only after it has called back. */
	for (n = r->all; n != NULL; n = n->next)
		if (n->request != NULL)
			evdns_getaddrinfo_cancel(n->request);
	event_base_loop(r->base, EVLOOP_NONBLOCK);
	evdns_base_free(r->dns, 0);
	HASH_CLEAR(hh, r->names);
	for (n = r->all; n != NULL; n = tmp) {
		tmp = n->next;
		event_free(n->patience);
		free(n);
	}
	free(r);
}

static struct resolver_name *
resolver_find(struct resolver *r, const char *name)
{
	size_t len = strlen(name);
	struct resolver_name *n;

	HASH_FIND(hh, r->names, name, len, n);
	if (n != NULL)
		return n;
	n = calloc(1, sizeof(*n) + len + 1);
	if (n == NULL)
		return NULL;
	memcpy(n->name, name, len + 1);
	n->resolver = r;
	n->patience = evtimer_new(r->base, resolver_patience_cb, n);
	if (n->patience == NULL) {
		free(n);
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, r->names, n->name, len, n);
	if (n->hh.tbl == NULL) {
		event_free(n->patience);
		free(n);
		return NULL;
	}
	LL_PREPEND(r->all, n);
	return n;
}

struct resolver_query *
resolver_lookup(struct resolver *r, const char *name, resolver_done *done,
    void *arg)
{
	struct resolver_name *n = resolver_find(r, name);
	struct resolver_query *q;
	unsigned told;

	if (n != NULL && resolver_knows(n)) {
		done(arg, n->addr, n->n, NULL);
		return NULL;
	}
	q = n != NULL ? calloc(1, sizeof(*q)) : NULL;
	if (q == NULL) {
		done(arg, NULL, 0, "out of memory");
		return NULL;
	}
	q->name = n;
	q->told = told = n->told;
	q->done = done;
	q->arg = arg;
	DL_APPEND(n->queries, q);
	if (!n->asking)
		resolver_ask(n);
	/* Told from the hosts file already: q is gone. */
	return n->told == told ? q : NULL;
}

/* Whether its addresses serve at once. Those of a name that fails do; it is
 * asked now and then nonetheless. */
static bool
resolver_knows(struct resolver_name *n)
{
	int64_t now = (int64_t)clock_ms();

	if (n->n == 0)
		return false;
	if (now - n->when < RESOLVER_FRESH_MS)
		return true;
	if (!n->failing || now - n->when >= RESOLVER_STALE_MS)
		return false;
	if (!n->asking && now - n->failed >= RESOLVER_RECHECK_MS)
		resolver_ask(n);
	return n->n > 0;
}

void
resolver_cancel(struct resolver_query **qp)
{
	struct resolver_query *q = *qp;

	*qp = NULL;
	if (q == NULL)
		return;
	DL_DELETE(q->name->queries, q);
	free(q);
}

static void
resolver_ask(struct resolver_name *n)
{
	struct evutil_addrinfo hints = {
	    .ai_family = AF_UNSPEC,
	    .ai_socktype = SOCK_STREAM,
	    .ai_protocol = IPPROTO_TCP,
	};
	struct timeval patience = clock_timeval(RESOLVER_PATIENCE_MS);
	struct evdns_getaddrinfo_request *request;

	n->asking = true;
	if (n->n > 0 && (int64_t)clock_ms() - n->when < RESOLVER_STALE_MS)
		evtimer_add(n->patience, &patience);
	request = evdns_getaddrinfo(n->resolver->dns, n->name, NULL, &hints,
	    resolver_answer_cb, n);
	if (request != NULL) /* no answer yet */
		n->request = request;
}

static void
resolver_patience_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct resolver_name *n = arg;

	n->failing = true;
	resolver_tell(n, NULL);
}

static void
resolver_answer_cb(int result, struct evutil_addrinfo *res, void *arg)
{
	struct resolver_name *n = arg;
	int64_t now = (int64_t)clock_ms();
	struct log_line l;

	n->asking = false;
	n->request = NULL;
	evtimer_del(n->patience);
	if (result == EVUTIL_EAI_CANCEL)
		return;
	if (res != NULL)
		resolver_take(n, res);
	else
		n->failed = now;
	if (n->n > 0 && now - n->when >= RESOLVER_STALE_MS)
		n->n = 0;
	n->failing = res == NULL && n->n > 0;
	if (res != NULL)
		evutil_freeaddrinfo(res);
	else if (n->n > 0) {
		log_begin(&l, LOG_WARNING,
		    "a name does not resolve; using its last addresses");
		log_cstr(&l, "name", n->name);
		log_cstr(&l, "reason", evutil_gai_strerror(result));
		log_end(&l);
	}
	resolver_tell(n,
	    result != 0 ? evutil_gai_strerror(result) : "no address");
}

static void
resolver_take(struct resolver_name *n, const struct evutil_addrinfo *res)
{
	size_t got = 0;

	for (; res != NULL && got < RESOLVER_ADDRS_MAX; res = res->ai_next) {
		addr_set(&n->addr[got], res->ai_addr,
		    (socklen_t)res->ai_addrlen);
		if (n->addr[got].len != 0)
			got++;
	}
	n->n = got;
	n->when = (int64_t)clock_ms();
}

/* A callback may ask for the same name again, or cancel another query. */
static void
resolver_tell(struct resolver_name *n, const char *reason)
{
	unsigned told = ++n->told;
	struct resolver_query *q;
	struct resolver_query done;

	while ((q = n->queries) != NULL && q->told != told) {
		done = *q;
		DL_DELETE(n->queries, q);
		free(q);
		done.done(done.arg, n->addr, n->n, reason);
	}
}

void
resolver_age(struct resolver *r, uint64_t ms)
{
	for (struct resolver_name *n = r->all; n != NULL; n = n->next) {
		n->when -= (int64_t)ms;
		n->failed -= (int64_t)ms;
	}
}
