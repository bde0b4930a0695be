/* resolver.c: resolves host names.
 *
 * Names are kept for the life of the process. They come from the configuration,
 * so there are few.
 *
 * It takes seconds to give silent name servers up. So old addresses are waited
 * for a second only, and not at all once the name is known to fail: it is then
 * asked in the background, until there is an answer again.
 *
 * A name is two questions, for its IPv4 and its IPv6 addresses: so a name
 * without addresses can be told from a name server that fails, and the second
 * answer gets a short time only if the first one was of use. */

#include "net/resolver.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <event2/event.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/log.h"
#include "net/hosts.h"
#include "dns.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)hash_keyed((key), (len)))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define RESOLVER_FRESH_MS 30000
#define RESOLVER_STALE_MS (60 * 60 * 1000)
#define RESOLVER_PATIENCE_MS 1000 /* RFC 8767: client response timer */
#define RESOLVER_RECHECK_MS 5000 /* ... failure recheck timer */
#define RESOLVER_DELAY_MS 50 /* RFC 8305 §3: Resolution Delay */

struct resolver_version {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

/* The addresses of one family. */
struct resolver_half {
	struct resolver_name *name;
	struct dns_question *question; /* NULL: none under way */
	enum dns_result result; /* of the last question */
	char reason[80]; /* ... unless FOUND */
	int64_t ttl; /* ms */
	struct addr addr[RESOLVER_ADDRS_MAX];
	size_t n;
};

struct resolver_name {
	UT_hash_handle hh;
	struct resolver_name *next; /* of all */
	struct resolver *resolver;
	struct resolver_query *queries;
	struct event *patience;
	struct event *delay; /* one family has answered, the other is late */
	struct resolver_half four, six;
	unsigned told; /* how often queries got an answer */
	bool asking;
	bool failing; /* only the last addresses serve */
	struct addr addr[RESOLVER_ADDRS_MAX];
	size_t n;
	int64_t when; /* the answer came; clock_ms(), or before it began */
	int64_t fresh; /* for so many ms */
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
	const char *resolv_conf, *hosts; /* the caller's */
	struct resolver_version version;
	struct dns_turn turn;
	struct resolver_name *names; /* by name */
	struct resolver_name *all;
};

static void resolver_reread(struct resolver *r);
static struct resolver_version resolver_version(const char *path);
static bool resolver_same_version(const struct resolver_version *a,
    const struct resolver_version *b);
static struct resolver_name *resolver_find(struct resolver *r,
    const char *name);
static struct resolver_name *resolver_name_new(struct resolver *r,
    const char *name, size_t len);
static void resolver_name_free(struct resolver_name *n);
static bool resolver_knows(struct resolver_name *n);
static void resolver_ask(struct resolver_name *n);
static bool resolver_ask_hosts(struct resolver_name *n);
static void resolver_half_ask(struct resolver_half *h);
static void resolver_patience_cb(evutil_socket_t fd, short what, void *arg);
static void resolver_delay_cb(evutil_socket_t fd, short what, void *arg);
static void resolver_answer_done(void *arg, const struct dns_answer *answer);
static void resolver_half_take(struct resolver_half *h,
    const struct dns_answer *answer);
static void resolver_answered(struct resolver_name *n);
static void resolver_take(struct resolver_name *n);
static void resolver_take_half(struct resolver_name *n,
    const struct resolver_half *h);
static bool resolver_half_is_none(const struct resolver_half *h);
static void resolver_tell(struct resolver_name *n, const char *reason);

struct resolver *
resolver_new(struct event_base *base, const char *resolv_conf,
    const char *hosts)
{
	struct resolver *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->base = base;
	r->resolv_conf = resolv_conf;
	r->hosts = hosts;
	r->version = resolver_version(resolv_conf);
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
	HASH_CLEAR(hh, r->names);
	for (n = r->all; n != NULL; n = tmp) {
		tmp = n->next;
		resolver_name_free(n);
	}
	free(r);
}

/* Each question reads it; that it has changed is worth a line. */
static void
resolver_reread(struct resolver *r)
{
	struct resolver_version version = resolver_version(r->resolv_conf);

	if (resolver_same_version(&version, &r->version))
		return;
	r->version = version;
	memset(&r->turn, 0, sizeof(r->turn));
	log_msg(LOG_INFO, "%s has changed and was read again", r->resolv_conf);
}

/* All zero: there is none. */
static struct resolver_version
resolver_version(const char *path)
{
	struct resolver_version version = {0};
	struct stat st;

	if (stat(path, &st) == 0) {
		version.dev = st.st_dev;
		version.ino = st.st_ino;
		version.size = st.st_size;
		version.mtime = st.st_mtim;
	}
	return version;
}

static bool
resolver_same_version(const struct resolver_version *a,
    const struct resolver_version *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	    a->mtime.tv_sec == b->mtime.tv_sec &&
	    a->mtime.tv_nsec == b->mtime.tv_nsec;
}

/* The names */

static struct resolver_name *
resolver_find(struct resolver *r, const char *name)
{
	size_t len = strlen(name);
	struct resolver_name *n;

	HASH_FIND(hh, r->names, name, len, n);
	if (n != NULL)
		return n;
	n = resolver_name_new(r, name, len);
	if (n == NULL)
		return NULL;
	HASH_ADD_KEYPTR(hh, r->names, n->name, len, n);
	if (n->hh.tbl == NULL) {
		resolver_name_free(n);
		return NULL;
	}
	LL_PREPEND(r->all, n);
	return n;
}

static struct resolver_name *
resolver_name_new(struct resolver *r, const char *name, size_t len)
{
	struct resolver_name *n = calloc(1, sizeof(*n) + len + 1);

	if (n == NULL)
		return NULL;
	memcpy(n->name, name, len + 1);
	n->resolver = r;
	n->four.name = n->six.name = n;
	n->patience = evtimer_new(r->base, resolver_patience_cb, n);
	n->delay = evtimer_new(r->base, resolver_delay_cb, n);
	if (n->patience == NULL || n->delay == NULL) {
		resolver_name_free(n);
		return NULL;
	}
	return n;
}

static void
resolver_name_free(struct resolver_name *n)
{
	dns_cancel(&n->four.question);
	dns_cancel(&n->six.question);
	if (n->patience != NULL)
		event_free(n->patience);
	if (n->delay != NULL)
		event_free(n->delay);
	free(n);
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
	/* The hosts file had the answer, and q is freed. */
	return n->told == told ? q : NULL;
}

/* Returns true if its addresses serve at once. This includes the addresses of a
 * name that fails; it is still asked now and then. */
static bool
resolver_knows(struct resolver_name *n)
{
	int64_t now = (int64_t)clock_ms();

	if (n->n == 0)
		return false;
	if (now - n->when < n->fresh)
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
	struct timeval patience = clock_timeval(RESOLVER_PATIENCE_MS);

	if (resolver_ask_hosts(n))
		return;
	resolver_reread(n->resolver);
	n->asking = true;
	if (n->n > 0 && (int64_t)clock_ms() - n->when < RESOLVER_STALE_MS)
		evtimer_add(n->patience, &patience);
	resolver_half_ask(&n->four);
	resolver_half_ask(&n->six);
	if (n->four.question == NULL && n->six.question == NULL)
		resolver_answered(n);
}

static bool
resolver_ask_hosts(struct resolver_name *n)
{
	size_t got = hosts_find(n->resolver->hosts, n->name, n->addr,
	    RESOLVER_ADDRS_MAX);

	if (got == 0)
		return false;
	n->n = got;
	n->when = (int64_t)clock_ms();
	n->fresh = RESOLVER_FRESH_MS;
	n->failing = false;
	resolver_tell(n, NULL);
	return true;
}

/* Asks, unless a question is still in flight. */
static void
resolver_half_ask(struct resolver_half *h)
{
	struct resolver_name *n = h->name;

	if (h->question != NULL)
		return;
	h->n = 0;
	h->result = DNS_FAILED;
	snprintf(h->reason, sizeof(h->reason), "out of memory");
	h->question = dns_ask(n->resolver->base, n->resolver->resolv_conf,
	    &n->resolver->turn, n->name, h == &n->six, resolver_answer_done, h);
}

static void
resolver_patience_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct resolver_name *n = arg;

	n->failing = true;
	resolver_tell(n, NULL);
}

static void
resolver_delay_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	resolver_answered(arg);
}

static void
resolver_answer_done(void *arg, const struct dns_answer *answer)
{
	struct timeval delay = clock_timeval(RESOLVER_DELAY_MS);
	struct resolver_half *h = arg;
	struct resolver_name *n = h->name;
	const struct resolver_half *other = h == &n->four ? &n->six : &n->four;

	resolver_half_take(h, answer);
	if (!n->asking) {
		/* Queries got the other family without this one. */
		if (h->n > 0)
			resolver_take(n);
	} else if (other->question == NULL) {
		resolver_answered(n);
	} else if (h->n > 0) {
		evtimer_add(n->delay, &delay);
	}
}

static void
resolver_half_take(struct resolver_half *h, const struct dns_answer *answer)
{
	h->question = NULL;
	h->result = answer->result;
	h->reason[0] = '\0';
	if (answer->reason != NULL)
		snprintf(h->reason, sizeof(h->reason), "%s", answer->reason);
	h->ttl = (int64_t)answer->ttl * 1000;
	h->n = answer->n;
	if (h->n > 0)
		memcpy(h->addr, answer->addr, h->n * sizeof(h->addr[0]));
}

/* Both families have answered, or one must suffice. */
static void
resolver_answered(struct resolver_name *n)
{
	int64_t now = (int64_t)clock_ms();
	bool found = n->four.n + n->six.n > 0;
	const struct resolver_half *why =
	    resolver_half_is_none(&n->four) ? &n->six : &n->four;
	const char *reason = why->reason;
	struct log_line l;

	n->asking = false;
	evtimer_del(n->patience);
	evtimer_del(n->delay);
	if (found)
		resolver_take(n);
	else if (resolver_half_is_none(why))
		n->n = 0;
	else
		n->failed = now;
	if (n->n > 0 && now - n->when >= RESOLVER_STALE_MS)
		n->n = 0;
	n->failing = !found && n->n > 0;
	if (n->failing) {
		log_begin(&l, LOG_WARNING,
		    "a name does not resolve; using its last addresses");
		log_cstr(&l, "name", n->name);
		log_cstr(&l, "reason", reason);
		log_end(&l);
	}
	resolver_tell(n, reason);
}

/* It does not exist, or not with an address of the family. */
static bool
resolver_half_is_none(const struct resolver_half *h)
{
	return h->question == NULL && h->result == DNS_NONE;
}

static void
resolver_take(struct resolver_name *n)
{
	n->n = 0;
	n->fresh = RESOLVER_FRESH_MS;
	resolver_take_half(n, &n->four);
	resolver_take_half(n, &n->six);
	n->when = (int64_t)clock_ms();
}

/* A name server that wants to be asked more often is. */
static void
resolver_take_half(struct resolver_name *n, const struct resolver_half *h)
{
	for (size_t i = 0; i < h->n && n->n < RESOLVER_ADDRS_MAX; i++)
		n->addr[n->n++] = h->addr[i];
	if (h->n > 0 && h->ttl < n->fresh)
		n->fresh = h->ttl;
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
	r->turn.until -= (int64_t)ms;
}
