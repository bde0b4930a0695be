/* resolver.c: host names to addresses.
 *
 * A name is remembered for as long as the process lives: names come from the
 * configuration, so there are few.
 *
 * libevent takes 15 s to give a silent name server up, longer than a login may
 * wait for its backend. So old addresses are waited for a second only, and not
 * at all once the name is known to fail: it is then asked in the background,
 * until there is an answer again.
 *
 * A name is two questions, for its IPv4 and its IPv6 addresses. Not
 * evdns_getaddrinfo(): it cannot tell a name without addresses from a name
 * server that fails, and gives the second answer the same short time whether
 * the first one was of use or not. */

#include "net/resolver.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <event2/dns.h>
#include <event2/event.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/log.h"
#include "net/hosts.h"

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
#define RESOLVER_UNASKED (-1) /* libevent would not take the question */
#define RESOLVER_REREAD_MS 1000 /* resolv.conf is looked at so often */

/* The name servers of one version of resolv.conf. */
struct resolver_dns {
	struct resolver_dns *next; /* of the former ones */
	struct evdns_base *base;
	unsigned asked; /* questions under way */
};

struct resolver_version {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

/* The addresses of one family. */
struct resolver_half {
	struct resolver_name *name;
	struct resolver_dns *dns; /* who is asked */
	struct evdns_request *request; /* NULL: none under way */
	int result; /* DNS_ERR_... of the last question, or UNASKED */
	struct addr addr[RESOLVER_ADDRS_MAX];
	size_t n;
};

struct resolver_name {
	UT_hash_handle hh;
	struct resolver_name *next; /* of all */
	struct resolver *resolver;
	struct resolver_query *queries;
	struct event *patience;
	struct event *delay; /* one family is there, the other one late */
	struct resolver_half four, six;
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
	const char *resolv_conf, *hosts; /* the caller's */
	struct resolver_version version;
	int64_t read; /* the version was looked at */
	struct resolver_dns *dns;
	struct resolver_dns *former; /* until nobody is asked there */
	struct event *sweep; /* frees those */
	unsigned rounds; /* of it */
	struct resolver_name *names; /* by name */
	struct resolver_name *all;
};

static struct resolver_dns *resolver_dns_new(struct resolver *r);
static void resolver_dns_free(struct resolver_dns *d);
static void resolver_reread(struct resolver *r);
static struct resolver_version resolver_version(const char *path);
static bool resolver_same_version(const struct resolver_version *a,
    const struct resolver_version *b);
static void resolver_sweep(struct resolver *r);
static void resolver_sweep_cb(evutil_socket_t fd, short what, void *arg);
static struct resolver_name *resolver_find(struct resolver *r,
    const char *name);
static struct resolver_name *resolver_name_new(struct resolver *r,
    const char *name, size_t len);
static void resolver_name_free(struct resolver_name *n);
static bool resolver_knows(struct resolver_name *n);
static void resolver_ask(struct resolver_name *n);
static bool resolver_ask_hosts(struct resolver_name *n);
static void resolver_half_ask(struct resolver_half *h);
static void resolver_half_cancel(struct resolver_half *h);
static void resolver_patience_cb(evutil_socket_t fd, short what, void *arg);
static void resolver_delay_cb(evutil_socket_t fd, short what, void *arg);
static void resolver_answer_cb(int result, char type, int count, int ttl,
    void *addresses, void *arg);
static void resolver_half_take(struct resolver_half *h, char type, int count,
    const void *addresses);
static void resolver_answered(struct resolver_name *n);
static void resolver_take(struct resolver_name *n);
static void resolver_take_half(struct resolver_name *n,
    const struct resolver_half *h);
static const char *resolver_reason(int result);
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
	r->read = (int64_t)clock_ms();
	r->version = resolver_version(resolv_conf);
	r->sweep = evtimer_new(base, resolver_sweep_cb, r);
	r->dns = resolver_dns_new(r);
	if (r->sweep == NULL || r->dns == NULL)
		resolver_free(&r);
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
	for (n = r->all; n != NULL; n = n->next) {
		resolver_half_cancel(&n->four);
		resolver_half_cancel(&n->six);
	}
	event_base_loop(r->base, EVLOOP_NONBLOCK);
	if (r->dns != NULL)
		LL_PREPEND(r->former, r->dns);
	while (r->former != NULL) {
		struct resolver_dns *d = r->former;

		r->former = d->next;
		resolver_dns_free(d);
	}
	HASH_CLEAR(hh, r->names);
	for (n = r->all; n != NULL; n = tmp) {
		tmp = n->next;
		resolver_name_free(n);
	}
	if (r->sweep != NULL)
		event_free(r->sweep);
	free(r);
}

/* The name servers */

static struct resolver_dns *
resolver_dns_new(struct resolver *r)
{
	struct resolver_dns *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->base = evdns_base_new(r->base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	if (d->base == NULL) {
		free(d);
		return NULL;
	}
	/* Without the file 127.0.0.1 is what is left. */
	evdns_base_resolv_conf_parse(d->base,
	    DNS_OPTIONS_ALL & ~DNS_OPTION_HOSTSFILE, r->resolv_conf);
	return d;
}

static void
resolver_dns_free(struct resolver_dns *d)
{
	evdns_base_free(d->base, 0);
	free(d);
}

/* Questions that are under way stay where they are. */
static void
resolver_reread(struct resolver *r)
{
	int64_t now = (int64_t)clock_ms();
	struct resolver_version version;
	struct resolver_dns *d;

	if (now - r->read < RESOLVER_REREAD_MS)
		return;
	r->read = now;
	version = resolver_version(r->resolv_conf);
	if (resolver_same_version(&version, &r->version))
		return;
	d = resolver_dns_new(r);
	if (d == NULL)
		return;
	r->version = version;
	LL_PREPEND(r->former, r->dns);
	r->dns = d;
	resolver_sweep(r);
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

static void
resolver_sweep(struct resolver *r)
{
	r->rounds = 0;
	event_active(r->sweep, EV_TIMEOUT, 0);
}

/* Not from an answer's callback, on whose frames the name servers still are.
 * Nor before what was read in this turn of the loop has been called back, which
 * two more rounds through its queue make sure of: libevent does not take back
 * an answer to a probe of its own that waits there. */
static void
resolver_sweep_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct resolver *r = arg;
	struct resolver_dns **at = &r->former, *d;

	if (r->rounds++ < 2) {
		event_active(r->sweep, EV_TIMEOUT, 0);
		return;
	}
	while ((d = *at) != NULL) {
		if (d->asked > 0) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		resolver_dns_free(d);
	}
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
	struct timeval patience = clock_timeval(RESOLVER_PATIENCE_MS);

	if (resolver_ask_hosts(n))
		return;
	resolver_reread(n->resolver);
	n->asking = true;
	if (n->n > 0 && (int64_t)clock_ms() - n->when < RESOLVER_STALE_MS)
		evtimer_add(n->patience, &patience);
	resolver_half_ask(&n->four);
	resolver_half_ask(&n->six);
	if (n->four.request == NULL && n->six.request == NULL)
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
	n->failing = false;
	resolver_tell(n, NULL);
	return true;
}

/* One that is still under way from the last time will do. */
static void
resolver_half_ask(struct resolver_half *h)
{
	struct resolver_name *n = h->name;
	struct resolver_dns *d = n->resolver->dns;

	if (h->request != NULL)
		return;
	h->n = 0;
	h->result = RESOLVER_UNASKED;
	h->request = h == &n->four ? evdns_base_resolve_ipv4(d->base, n->name,
					 0, resolver_answer_cb, h)
				   : evdns_base_resolve_ipv6(d->base, n->name,
					 0, resolver_answer_cb, h);
	if (h->request != NULL) {
		h->dns = d;
		d->asked++;
	}
}

static void
resolver_half_cancel(struct resolver_half *h)
{
	if (h->request != NULL)
		evdns_cancel_request(h->dns->base, h->request);
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
resolver_answer_cb(int result, char type, int count, int ttl UNUSED,
    void *addresses, void *arg)
{
	struct timeval delay = clock_timeval(RESOLVER_DELAY_MS);
	struct resolver_half *h = arg;
	struct resolver_name *n = h->name;
	const struct resolver_half *other = h == &n->four ? &n->six : &n->four;

	h->request = NULL;
	if (--h->dns->asked == 0 && h->dns != n->resolver->dns)
		resolver_sweep(n->resolver);
	if (result == DNS_ERR_CANCEL)
		return;
	h->result = result;
	if (result == DNS_ERR_NONE)
		resolver_half_take(h, type, count, addresses);
	if (!n->asking) {
		/* The other family was told without it. */
		if (h->n > 0)
			resolver_take(n);
	} else if (other->request == NULL) {
		resolver_answered(n);
	} else if (h->n > 0) {
		evtimer_add(n->delay, &delay);
	}
}

static void
resolver_half_take(struct resolver_half *h, char type, int count,
    const void *addresses)
{
	for (int i = 0; i < count && h->n < RESOLVER_ADDRS_MAX; i++) {
		struct sockaddr_in in = {.sin_family = AF_INET};
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
		struct addr *a = &h->addr[h->n++];

		if (type == DNS_IPv4_A) {
			in.sin_addr = ((const struct in_addr *)addresses)[i];
			addr_set(a, (struct sockaddr *)&in, sizeof(in));
		} else {
			in6.sin6_addr = ((const struct in6_addr *)addresses)[i];
			addr_set(a, (struct sockaddr *)&in6, sizeof(in6));
		}
	}
}

/* Both families are there, or one has to do. */
static void
resolver_answered(struct resolver_name *n)
{
	int64_t now = (int64_t)clock_ms();
	bool found = n->four.n + n->six.n > 0;
	const struct resolver_half *why =
	    resolver_half_is_none(&n->four) ? &n->six : &n->four;
	const char *reason = resolver_reason(why->result);
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

static const char *
resolver_reason(int result)
{
	switch (result) {
	case RESOLVER_UNASKED:
		return "no name server can be asked for it";
	case DNS_ERR_NONE:
	case DNS_ERR_NODATA:
		return "it has no address";
	default:
		return evdns_err_to_string(result);
	}
}

/* It does not exist, or not with an address of the family. */
static bool
resolver_half_is_none(const struct resolver_half *h)
{
	return h->request == NULL && h->n == 0 &&
	    (h->result == DNS_ERR_NONE || h->result == DNS_ERR_NOTEXIST ||
		h->result == DNS_ERR_NODATA);
}

static void
resolver_take(struct resolver_name *n)
{
	n->n = 0;
	resolver_take_half(n, &n->four);
	resolver_take_half(n, &n->six);
	n->when = (int64_t)clock_ms();
}

static void
resolver_take_half(struct resolver_name *n, const struct resolver_half *h)
{
	for (size_t i = 0; i < h->n && n->n < RESOLVER_ADDRS_MAX; i++)
		n->addr[n->n++] = h->addr[i];
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
	r->read -= (int64_t)ms;
}
