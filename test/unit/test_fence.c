/* test_fence.c: the fence, against a model.
 *
 * A history is a random sequence of what can happen to routes: writes to the
 * store, news of them, channels that break and come up, reloads, workers that
 * take a new runtime late, questions that are read and answered late, logins
 * that begin and give up, and time that passes. Everything but the store and
 * the clock is the daemon's own: runtimes, routers, cache, channel.
 *
 * The rule: no login that begins after an invalidation was heard is answered
 * from anything that was read before it. Each write names a destination that
 * was never named before, so that an answer tells which write was read; the
 * answer is wrong if that write had been replaced before the last invalidation
 * that the login's runtime had heard when it began.
 *
 * FENCE_SEED=N runs one history and tells it. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <event2/thread.h>
#include <utlist.h>

#include "../../src/store/channel.h"
#include "net/mailbox.h"
#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/log.h"
#include "platform/util.h"
#include "service/cache.h"
#include "service/route.h"
#include "service/runtime.h"
#include "store/store.h"
#include "run.h"

#define HISTORIES 2000
#define STEPS 250
#define WORKERS 2
#define LOGINS 6 /* at a time */
#define DESTINATIONS 40 /* d00, d01, ...: one for each write */
#define NEWS_MAX 64
#define NONE (-1) /* the store does not know the key */

static const char *const keys[] = {"a@x", "b@x", "@x"};
#define KEYS ARRAY_LEN(keys)
#define DOMAIN (KEYS - 1)

/* One value of a key: from its write to the next. */
struct version {
	int destination;
	unsigned since;
};

struct store {
	struct store *next, *prev;
	struct store_call *calls;
	struct store_channel channel;
	bool watched, up;
	int news[NEWS_MAX]; /* keys; -1: what nobody understands */
	size_t n_news;
	const struct cache *cache;
};

struct store_call {
	struct store_call *next, *prev;
	struct store *st;
	store_done *done;
	void *arg;
	char key[16];
	bool read;
	int destination; /* as read */
};

/* Since when what was read counts, as a cache's users have been told. */
struct heard {
	const struct cache *cache;
	unsigned key[KEYS];
};

struct login {
	struct runtime_slice *slice;
	struct route_lookup *lookup;
	size_t worker, key;
	unsigned since[KEYS];
	bool busy;
};

struct worker {
	struct event_base *base;
	struct mailbox *mailbox;
	struct runtime_slice *slice;
	struct runtime_slice *news; /* not taken yet */
};

static struct {
	unsigned seed, random, step;
	bool tell;
	struct version version[KEYS][DESTINATIONS + 2];
	size_t n_versions[KEYS];
	int n_written;
	struct store *stores;
	struct heard heard[32];
	struct worker worker[WORKERS];
	struct login login[LOGINS];
	struct runtime *rt;
	unsigned published; /* when; 0: all workers have it */
} w;

static uint64_t now = 1;

/* In the place of clock.c */

uint64_t
clock_ms(void)
{
	return now;
}

struct timeval
clock_timeval(uint64_t ms)
{
	struct timeval tv = {
	    (time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

	return tv;
}

static unsigned
dice(unsigned n)
{
	return (unsigned)rand_r(&w.random) % n;
}

#define TELL(...)                               \
	do {                                    \
		if (w.tell) {                   \
			printf("%u: ", w.step); \
			printf(__VA_ARGS__);    \
			printf("\n");           \
		}                               \
	} while (0)

/* The store */

static size_t
key_index(const char *key)
{
	for (size_t i = 0; i < KEYS; i++)
		if (strcmp(keys[i], key) == 0)
			return i;
	ck_abort_msg("a key that nobody has: %s", key);
}

static const struct version *
current(size_t key)
{
	return &w.version[key][w.n_versions[key] - 1];
}

static void
write_key(size_t key, int destination)
{
	struct version *v = &w.version[key][w.n_versions[key]++];

	v->destination = destination;
	v->since = w.step;
	TELL("%s is written: d%02d", keys[key], destination);
}

static struct store *
fake_open(const struct store_spec *spec UNUSED, struct err *err UNUSED)
{
	struct store *st = calloc(1, sizeof(*st));

	ck_assert_ptr_nonnull(st);
	DL_APPEND(w.stores, st);
	return st;
}

static void
fake_close(struct store *st)
{
	struct store_call *call, *next;

	DL_DELETE(w.stores, st);
	DL_FOREACH_SAFE (st->calls, call, next)
		free(call);
	free(st);
}

static struct store_call *
fake_call(struct store *st, const struct store_request *rq)
{
	struct store_call *call = calloc(1, sizeof(*call));

	ck_assert_ptr_nonnull(call);
	call->st = st;
	call->done = rq->done;
	call->arg = rq->arg;
	snprintf(call->key, sizeof(call->key), "%s", rq->key);
	DL_APPEND(st->calls, call);
	return call;
}

static void
fake_cancel(struct store_call *call)
{
	DL_DELETE(call->st->calls, call);
	free(call);
}

static void
fake_watch(struct store *st, store_changed *changed, void *arg)
{
	st->watched = true;
	st->channel.changed = changed;
	st->channel.arg = arg;
}

static const struct store_kind fake_kind = {
    .name = "fake",
    .open = fake_open,
    .close = fake_close,
    .call = fake_call,
    .cancel = fake_cancel,
    .watch = fake_watch,
};

/* In the place of store.c */

const struct store_kind *
store_kind_find(const struct config_mapping *mapping UNUSED)
{
	return &fake_kind;
}

void
store_check(const struct config *cfg UNUSED,
    struct config_problems *problems UNUSED)
{
}

struct store_call *
store_fail(const struct store_request *rq, const char *text)
{
	rq->done(rq->arg, STORE_FAILED, text);
	return NULL;
}

/* What has been heard */

static struct heard *
heard_by(const struct cache *cache)
{
	for (size_t i = 0; i < ARRAY_LEN(w.heard); i++)
		if (w.heard[i].cache == cache)
			return &w.heard[i];
	for (size_t i = 0; i < ARRAY_LEN(w.heard); i++) {
		if (w.heard[i].cache == NULL) {
			w.heard[i].cache = cache;
			return &w.heard[i];
		}
	}
	ck_abort_msg("too many caches");
}

static void
hear(const struct cache *cache, int key, unsigned step)
{
	struct heard *h = heard_by(cache);

	for (size_t i = 0; i < KEYS; i++)
		if ((key == -1 || (size_t)key == i) && h->key[i] < step)
			h->key[i] = step;
}

/* Logins */

/* Whether key had that value at since or later. */
static bool
was_so(size_t key, unsigned since, int destination)
{
	for (size_t i = 0; i < w.n_versions[key]; i++)
		if (w.version[key][i].destination == destination &&
		    (i + 1 == w.n_versions[key] ||
			w.version[key][i + 1].since > since))
			return true;
	return false;
}

static void
login_done(void *arg, const struct route_answer *answer)
{
	struct login *l = arg;
	const struct config *cfg = l->slice->rt->cfg;
	int d = NONE;
	bool right;

	l->lookup = NULL;
	l->busy = false;
	if (answer->status == ROUTE_FOUND)
		d = atoi(cfg->destination[answer->destination].name + 1);
	TELL("login %td of %s: %s, d%02d", l - w.login, keys[l->key],
	    route_reason_name(answer->reason), d);
	if (answer->status == ROUTE_FOUND)
		right = was_so(l->key, l->since[l->key], d) ||
		    (l->key != DOMAIN && was_so(DOMAIN, l->since[DOMAIN], d) &&
			was_so(l->key, l->since[l->key], NONE));
	else if (answer->status == ROUTE_DEFAULT)
		right = was_so(l->key, l->since[l->key], NONE) &&
		    was_so(DOMAIN, l->since[DOMAIN], NONE);
	else
		right = true;
	ck_assert_msg(right,
	    "FENCE_SEED=%u, step %u: a login of %s that began when all before "
	    "step %u did not count was answered by d%02d (%s)",
	    w.seed, w.step, keys[l->key], l->since[l->key], d,
	    route_reason_name(answer->reason));
	runtime_slice_leave(&l->slice);
}

static void
login_begin(struct login *l)
{
	struct worker *wk;
	const struct heard *h;

	memset(l, 0, sizeof(*l));
	l->worker = dice(WORKERS);
	l->key = dice(DOMAIN);
	wk = &w.worker[l->worker];
	l->slice = runtime_slice_enter(wk->slice);
	l->busy = true;
	h = heard_by(l->slice->rt->cache);
	memcpy(l->since, h->key, sizeof(l->since));
	TELL("login %td of %s begins on worker %zu: what counts is of %u on",
	    l - w.login, keys[l->key], l->worker, l->since[l->key]);
	l->lookup = route_lookup(l->slice->router, keys[l->key], login_done, l);
}

static void
login_give_up(struct login *l)
{
	TELL("login %td gives up", l - w.login);
	route_lookup_cancel(&l->lookup);
	runtime_slice_leave(&l->slice);
	l->busy = false;
}

static void
step_login(void)
{
	struct login *l = &w.login[dice(LOGINS)];

	if (!l->busy)
		login_begin(l);
	else if (dice(6) == 0)
		login_give_up(l);
}

/* Reloads */

/* variant: another one has another cache. */
static struct config *
make_config(unsigned variant)
{
	static char text[16384];
	struct config_problems problems = {0};
	struct config *cfg;
	size_t n;

	n = (size_t)snprintf(text, sizeof(text),
	    "listener: {a: {bind: ['127.0.0.1:995'], tls: plain}}\n"
	    "routing: {default_destination: d00}\n"
	    "mapping: {source: http, lookup_timeout: 60s, positive_ttl: %us,\n"
	    "  negative_ttl: 20s, stale_ttl: 100s,\n"
	    "  http: {url: 'http://127.0.0.1/%%u'}}\n"
	    "destination:\n",
	    60 + variant);
	for (unsigned i = 0; i < DESTINATIONS; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
		    "  d%02u: {host: 192.0.2.1, forwarding: none, "
		    "allow_plaintext_auth: true, "
		    "protocol: {pop3: {tls: plain}}}\n",
		    i);
	cfg = config_parse("/tmp/x.yaml", text, n, &problems);
	ck_assert_ptr_nonnull(cfg);
	ck_assert_uint_eq(problems.n_error, 0);
	config_problems_clear(&problems);
	return cfg;
}

static void
reload(unsigned variant)
{
	struct config_problems problems = {0};
	struct runtime_worker rw[WORKERS];
	struct runtime *rt;
	struct store *st;

	for (size_t i = 0; i < WORKERS; i++)
		rw[i] = (struct runtime_worker){
		    w.worker[i].base, w.worker[i].mailbox, NULL};
	rt = runtime_new(make_config(variant), w.rt, rw, WORKERS, &problems);
	ck_assert_ptr_nonnull(rt);
	config_problems_clear(&problems);
	DL_FOREACH (w.stores, st)
		if (st->cache == NULL)
			st->cache = rt->cache;
	if (w.rt == NULL || rt->cache != w.rt->cache) {
		struct heard *h = heard_by(rt->cache);

		/* Where another one was, perhaps. */
		memset(h->key, 0, sizeof(h->key));
	}
	TELL("a reload is published%s",
	    w.rt == NULL || rt->cache != w.rt->cache ? ", with a cache" : "");
	runtime_publish(rt);
	w.published = w.step;
	for (size_t i = 0; i < WORKERS; i++)
		w.worker[i].news = rt->slice[i];
	runtime_unref(&w.rt);
	w.rt = rt;
}

static void
take(size_t i)
{
	struct worker *wk = &w.worker[i];

	if (wk->news == NULL)
		return;
	TELL("worker %zu takes it", i);
	runtime_slice_leave(&wk->slice);
	wk->slice = wk->news;
	wk->news = NULL;
	runtime_slice_begin(wk->slice);
	for (size_t j = 0; j < WORKERS; j++)
		if (w.worker[j].news != NULL)
			return;
	/* "reloaded" */
	hear(w.rt->cache, -1, w.published);
	TELL("reloaded");
}

/* Main thread: one after the other. */
static void
step_reload(void)
{
	for (size_t i = 0; i < WORKERS; i++) {
		if (w.worker[i].news != NULL) {
			take(dice(WORKERS));
			return;
		}
	}
	if (dice(4) == 0)
		reload(dice(4) == 0 ? dice(2) : 0);
}

/* Changes */

static void
news_add(int key)
{
	struct store *st;

	DL_FOREACH (w.stores, st)
		if (st->up && st->n_news < NEWS_MAX)
			st->news[st->n_news++] = key;
}

static void
step_write(void)
{
	size_t key = dice(KEYS);

	if (w.n_written == DESTINATIONS)
		return;
	write_key(key, dice(3) == 0 ? NONE : w.n_written++);
	if (dice(5) != 0)
		news_add(dice(5) == 0 ? -1 : (int)key);
}

static struct store *
any_store(void)
{
	struct store *st;
	unsigned n = 0;

	DL_FOREACH (w.stores, st)
		n++;
	n = n > 0 ? dice(n) : 0;
	DL_FOREACH (w.stores, st)
		if (n-- == 0)
			return st;
	return NULL;
}

static void
step_channel(void)
{
	static const char *const garbage[] = {"a@x\n", " a@x", "\"a@x\"", ""};
	struct store *st = any_store();
	const char *text;
	int key;

	if (st == NULL || !st->watched)
		return;
	if (!st->up) {
		TELL("the channel is up");
		st->up = true;
		hear(st->cache, -1, w.step);
		store_channel_up(&st->channel);
	} else if (dice(10) == 0) {
		TELL("the channel is lost");
		st->up = false;
		st->n_news = 0;
	} else if (st->n_news > 0) {
		key = st->news[0];
		memmove(st->news, st->news + 1,
		    --st->n_news * sizeof(st->news[0]));
		text =
		    key == -1 ? garbage[dice(ARRAY_LEN(garbage))] : keys[key];
		TELL("the channel says %s", key == -1 ? "garbage" : text);
		hear(st->cache, key, w.step);
		store_channel_heard(&st->channel, text, strlen(text));
	}
}

static void
step_store(void)
{
	struct store *st = any_store();
	struct store_call *call = st != NULL ? st->calls : NULL, copy;
	char name[8];

	/* Connections of a pool answer in any order. */
	for (unsigned n = dice(3); call != NULL && call->next != NULL && n > 0;
	     n--)
		call = call->next;
	if (call == NULL)
		return;
	if (!call->read) {
		call->read = true;
		call->destination = current(key_index(call->key))->destination;
		TELL("%s is read: d%02d", call->key, call->destination);
		return;
	}
	copy = *call;
	fake_cancel(call);
	TELL("%s is answered", copy.key);
	snprintf(name, sizeof(name), "d%02d%s", copy.destination,
	    dice(2) ? "" : " ");
	if (dice(8) == 0)
		copy.done(copy.arg, STORE_FAILED, "it fails");
	else if (copy.destination == NONE)
		copy.done(copy.arg, STORE_UNKNOWN, NULL);
	else
		copy.done(copy.arg, STORE_FOUND, name);
}

static void
step(void)
{
	unsigned n = dice(100);

	w.step++;
	if (n < 25)
		step_login();
	else if (n < 55)
		step_store();
	else if (n < 75)
		event_base_loop(w.worker[dice(WORKERS)].base, EVLOOP_NONBLOCK);
	else if (n < 82)
		step_write();
	else if (n < 92)
		step_channel();
	else if (n < 97)
		step_reload();
	else
		now += dice(40) * 1000;
}

static void
history(unsigned seed)
{
	memset(w.version, 0, sizeof(w.version));
	memset(w.heard, 0, sizeof(w.heard));
	w.seed = w.random = seed;
	w.step = 1;
	w.n_written = 1; /* d00 is the default */
	for (size_t i = 0; i < KEYS; i++) {
		w.n_versions[i] = 0;
		write_key(i, dice(2) ? NONE : w.n_written++);
	}
	reload(0);
	for (size_t i = 0; i < WORKERS; i++)
		take(i);
	while (w.step < STEPS)
		step();
	for (size_t i = 0; i < LOGINS; i++)
		if (w.login[i].busy)
			login_give_up(&w.login[i]);
	for (size_t i = 0; i < WORKERS; i++) {
		take(i);
		runtime_slice_leave(&w.worker[i].slice);
		/* Those who were woken when they gave up. */
		event_base_loop(w.worker[i].base, EVLOOP_NONBLOCK);
	}
	runtime_unref(&w.rt);
	ck_assert_ptr_null(w.stores);
}

static void
setup(void)
{
	struct err err;

	hash_init();
	ck_assert_int_eq(log_open("stderr", LOG_TEXT, -1, &err), 0);
	evthread_use_pthreads();
	for (size_t i = 0; i < WORKERS; i++) {
		w.worker[i].base = event_base_new();
		w.worker[i].mailbox = mailbox_new(w.worker[i].base);
	}
}

static void
teardown(void)
{
	for (size_t i = 0; i < WORKERS; i++) {
		mailbox_free(&w.worker[i].mailbox);
		event_base_free(w.worker[i].base);
	}
}

START_TEST(no_login_is_answered_by_what_was_read_before_it_was_told)
{
	const char *seed = getenv("FENCE_SEED");

	if (seed != NULL) {
		w.tell = true;
		history((unsigned)strtoul(seed, NULL, 10));
		return;
	}
	for (unsigned i = 1; i <= HISTORIES; i++)
		history(i);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("fence");
	TCase *tc = tcase_create("fence");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 100);
	tcase_add_test(tc,
	    no_login_is_answered_by_what_was_read_before_it_was_told);
	suite_add_tcase(suite, tc);
	return run(suite);
}
