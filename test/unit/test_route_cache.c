/* test_route_cache.c: routes from a store that takes its time: the cache, two
 * workers that share it, deadlines, and who has gone meanwhile. The store is
 * one that does what the test says. */

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>
#include <event2/thread.h>
#include <utlist.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/util.h"
#include "service/cache.h"
#include "net/mailbox.h"
#include "service/route.h"
#include "store/store.h"
#include "run.h"

#define WORKERS 2
#define TIMEOUT_MS "200"

struct store {
	size_t worker;
	struct store_call *calls;
	unsigned asked;
	store_changed *changed;
	void *changed_arg;
};

struct store_call {
	struct store_call *next, *prev;
	struct store *st;
	store_done *done;
	void *arg;
	char key[64];
};

struct worker {
	struct event_base *base;
	struct mailbox *mailbox;
	struct router *router;
	struct store *st;
};

struct asker {
	unsigned answers;
	struct route_answer got;
};

static const char config_text[] =
    "listener: {a: {bind: [\"127.0.0.1:995\"]}}\n"
    "routing: {default_destination: legacy}\n"
    "mapping: {source: http, lookup_timeout: " TIMEOUT_MS "ms,\n"
    "  http: {url: \"http://127.0.0.1/%u\"}}\n"
    "destination:\n"
    "  legacy: {host: a.example, forwarding: xclient, "
    "protocol: {pop3: {port: 110, tls: starttls}}}\n"
    "  new: {host: b.example, forwarding: xclient, "
    "protocol: {pop3: {port: 110, tls: starttls}}}\n";

static struct config_problems problems;
static struct config *cfg;
static struct cache *cache;
static struct worker worker[WORKERS];
static struct store *opened; /* the last one */

/* The store */

static struct store *
fake_open(const struct store_spec *spec, struct err *err)
{
	(void)spec;
	(void)err;
	opened = calloc(1, sizeof(*opened));
	return opened;
}

static void
fake_close(struct store *st)
{
	struct store_call *call, *next;

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
	st->asked++;
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
	st->changed = changed;
	st->changed_arg = arg;
}

static void
fake_changed(struct store *st, const char *key)
{
	st->changed(st->changed_arg, key);
}

static const struct store_kind fake_kind = {
    .name = "fake",
    .open = fake_open,
    .close = fake_close,
    .call = fake_call,
    .cancel = fake_cancel,
    .watch = fake_watch,
};

/* In the place of store.c. */
const struct store_kind *
store_kind_find(const struct config_mapping *mapping)
{
	(void)mapping;
	return &fake_kind;
}

void
store_check(const struct config *c, struct config_problems *p)
{
	(void)c;
	(void)p;
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
	return pool_size / n_workers;
}

/* The oldest question of this store is answered. */
static void
answer(struct store *st, const char *key, enum store_result result,
    const char *text)
{
	struct store_call call, *first = st->calls;

	ck_assert_ptr_nonnull(first);
	ck_assert_str_eq(first->key, key);
	call = *first;
	fake_cancel(first);
	call.done(call.arg, result, text);
}

static void
told(void *arg, const struct route_answer *got)
{
	struct asker *a = arg;

	a->answers++;
	a->got = *got;
}

static struct route_lookup *
ask(size_t w, struct asker *a, const char *key)
{
	memset(a, 0, sizeof(*a));
	return route_lookup(worker[w].router, key, told, a);
}

/* The cache's clock is the machine's. */
static void
pass_ms(uint64_t ms)
{
	uint64_t until = clock_ms() + ms;

	while (clock_ms() < until)
		usleep(100);
}

static void
turn(size_t w)
{
	event_base_loop(worker[w].base, EVLOOP_NONBLOCK);
}

static void
worker_init(struct worker *w)
{
	struct router_spec spec = {.cfg = cfg, .cache = cache, .n_workers = 2};
	struct err err;

	w->base = event_base_new();
	w->mailbox = mailbox_new(w->base);
	spec.base = w->base;
	spec.mailbox = w->mailbox;
	w->router = router_new(&spec, &err);
	ck_assert_ptr_nonnull(w->router);
	router_watch(w->router);
	w->st = opened;
}

static void
open_workers(uint64_t positive_ttl)
{
	const struct cache_limits limits = {1000, positive_ttl, 60000, 60000};

	cache = cache_new(&limits);
	for (size_t i = 0; i < WORKERS; i++)
		worker_init(&worker[i]);
}

static void
close_workers(void)
{
	for (size_t i = 0; i < WORKERS; i++) {
		router_free(&worker[i].router);
		mailbox_free(&worker[i].mailbox);
		event_base_free(worker[i].base);
	}
	cache_unref(&cache);
}

static void
setup(void)
{
	hash_init();
	evthread_use_pthreads();
	cfg = config_parse("/tmp/test.yaml", config_text,
	    sizeof(config_text) - 1, &problems);
	ck_assert_uint_eq(problems.n_error, 0);
	open_workers(60000);
}

static void
teardown(void)
{
	close_workers();
	config_problems_clear(&problems);
	config_free(&cfg);
}

START_TEST(identifier_then_domain_then_default)
{
	struct asker a;

	ck_assert_ptr_nonnull(ask(0, &a, "alice@example.com"));
	answer(worker[0].st, "alice@example.com", STORE_UNKNOWN, NULL);
	turn(0);
	ck_assert_uint_eq(a.answers, 0);
	answer(worker[0].st, "@example.com", STORE_FOUND, "new");
	turn(0);
	ck_assert_uint_eq(a.answers, 1);
	ck_assert_int_eq(a.got.status, ROUTE_FOUND);
	ck_assert_int_eq(a.got.reason, ROUTE_BY_DOMAIN);
	ck_assert_str_eq(cfg->destination[a.got.destination].name, "new");
	/* Both are known from here on, to the other worker too. */
	ck_assert_ptr_null(ask(1, &a, "alice@example.com"));
	ck_assert_int_eq(a.got.status, ROUTE_FOUND);
	ck_assert_uint_eq(worker[0].st->asked + worker[1].st->asked, 2);
	/* A domain alone is asked for once. */
	ck_assert_ptr_nonnull(ask(0, &a, "@example.org"));
	answer(worker[0].st, "@example.org", STORE_UNKNOWN, NULL);
	turn(0);
	ck_assert_int_eq(a.got.status, ROUTE_DEFAULT);
	ck_assert_ptr_null(ask(0, &a, "@example.org"));
	ck_assert_int_eq(a.got.status, ROUTE_DEFAULT);
	ck_assert_uint_eq(worker[0].st->asked, 3);
}
END_TEST

START_TEST(one_question_serves_both_workers)
{
	struct asker a, b, c;

	ck_assert_ptr_nonnull(ask(0, &a, "alice"));
	ck_assert_ptr_nonnull(ask(0, &b, "alice"));
	ck_assert_ptr_nonnull(ask(1, &c, "alice"));
	ck_assert_uint_eq(worker[0].st->asked, 1);
	ck_assert_uint_eq(worker[1].st->asked, 0);
	answer(worker[0].st, "alice", STORE_FOUND, "new");
	ck_assert_uint_eq(a.answers + b.answers + c.answers, 0);
	turn(0);
	ck_assert_uint_eq(a.answers + b.answers, 2);
	ck_assert_uint_eq(c.answers, 0);
	turn(1);
	ck_assert_uint_eq(c.answers, 1);
	ck_assert_int_eq(c.got.status, ROUTE_FOUND);
}
END_TEST

START_TEST(who_has_gone_is_not_told)
{
	struct route_lookup *first, *late, *other;
	struct asker a, b, c;

	first = ask(0, &a, "alice");
	late = ask(0, &b, "alice");
	other = ask(1, &c, "alice");
	/* The question goes on for the others. */
	route_lookup_cancel(&first);
	ck_assert_ptr_null(first);
	answer(worker[0].st, "alice", STORE_FOUND, "new");
	/* Woken, but not yet told. */
	route_lookup_cancel(&late);
	turn(0);
	route_lookup_cancel(&other);
	turn(1);
	ck_assert_uint_eq(a.answers + b.answers + c.answers, 0);
	route_lookup_cancel(&late);
}
END_TEST

/* A reload: the old router goes with its last session. */
START_TEST(a_router_may_go_before_who_is_woken)
{
	struct route_lookup *lookup;
	struct asker a, b;

	ask(0, &a, "alice");
	lookup = ask(1, &b, "alice");
	answer(worker[0].st, "alice", STORE_FOUND, "new");
	route_lookup_cancel(&lookup);
	router_free(&worker[1].router);
	turn(1);
	turn(0);
	ck_assert_uint_eq(a.answers, 1);
	ck_assert_uint_eq(b.answers, 0);
}
END_TEST

START_TEST(a_router_that_goes_hands_its_questions_over)
{
	struct asker a, b, c;
	struct route_lookup *lookup = ask(0, &a, "alice");

	ask(1, &b, "alice");
	ask(1, &c, "alice");
	route_lookup_cancel(&lookup);
	ck_assert_uint_eq(worker[1].st->asked, 0);
	router_free(&worker[0].router);
	turn(1);
	ck_assert_uint_eq(a.answers + b.answers + c.answers, 0);
	ck_assert_uint_eq(worker[1].st->asked, 1);
	answer(worker[1].st, "alice", STORE_FOUND, "new");
	turn(1);
	ck_assert_uint_eq(b.answers + c.answers, 2);
	ck_assert_int_eq(b.got.status, ROUTE_FOUND);
	ck_assert_int_eq(c.got.reason, ROUTE_BY_IDENTIFIER);
}
END_TEST

/* A question that began before a change was heard is for those only who had
 * asked by then. */
START_TEST(who_comes_after_a_change_asks_anew)
{
	struct asker a, b;

	for (size_t i = 0; i < 3; i++) {
		char key[16];

		snprintf(key, sizeof(key), "user%zu", i);
		ask(0, &a, key);
		if (i == 0)
			cache_fence(cache); /* a reload */
		else
			fake_changed(worker[1].st, i == 1 ? key : "what?\n");
		ck_assert_ptr_nonnull(ask(0, &b, key));
		answer(worker[0].st, key, STORE_FOUND, "legacy");
		answer(worker[0].st, key, STORE_FOUND, "new");
		turn(0);
		ck_assert_str_eq(cfg->destination[a.got.destination].name,
		    "legacy");
		ck_assert_str_eq(cfg->destination[b.got.destination].name,
		    "new");
		ck_assert_ptr_null(ask(1, &a, key));
		ck_assert_str_eq(cfg->destination[a.got.destination].name,
		    "new");
	}
}
END_TEST

/* Blanks around a name are the column's, not the name's. All else that names
 * no destination is a failure, and what was known before is no answer. */
START_TEST(what_the_store_names_is_a_destination_or_a_failure)
{
	static const struct {
		const char *text;
		bool found;
	} rows[] = {
	    {"new", true},
	    {"new             ", true},
	    {"\t new\r\n", true},
	    {"", false},
	    {" ", false},
	    {"NEW", false},
	    {"ne w", false},
	    {"\\x6e6577", false},
	    {"new\302\240", false},
	    {"nwe", false},
	};
	struct asker a;

	close_workers();
	open_workers(1);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ask(0, &a, "alice");
		answer(worker[0].st, "alice", STORE_FOUND, "legacy");
		turn(0);
		pass_ms(2);
		ask(0, &a, "alice");
		answer(worker[0].st, "alice", STORE_FOUND, rows[i].text);
		turn(0);
		ck_assert_int_eq(a.got.status,
		    rows[i].found ? ROUTE_FOUND : ROUTE_FAILED);
		ck_assert_int_eq(a.got.reason,
		    rows[i].found ? ROUTE_BY_IDENTIFIER : ROUTE_BY_ERROR);
		ck_assert_int_eq(a.got.undeclared, !rows[i].found);
		pass_ms(2);
	}
}
END_TEST

START_TEST(both_questions_have_one_deadline)
{
	struct asker a, b;
	struct timeval most = {0, 150 * 1000};

	ask(0, &a, "alice@example.com");
	event_base_loopexit(worker[0].base, &most);
	event_base_dispatch(worker[0].base);
	answer(worker[0].st, "alice@example.com", STORE_UNKNOWN, NULL);
	/* Her time is over while the second one has most of its own. */
	while (a.answers == 0)
		event_base_loop(worker[0].base, EVLOOP_ONCE);
	ck_assert_int_eq(a.got.status, ROUTE_FAILED);
	ck_assert_ptr_nonnull(worker[0].st->calls);
	ck_assert_str_eq(worker[0].st->calls->key, "@example.com");
	/* Who comes later still gets its answer. */
	ck_assert_ptr_nonnull(ask(0, &b, "bob@example.com"));
	answer(worker[0].st, "@example.com", STORE_FOUND, "new");
	answer(worker[0].st, "bob@example.com", STORE_UNKNOWN, NULL);
	turn(0);
	ck_assert_int_eq(b.got.status, ROUTE_FOUND);
}
END_TEST

START_TEST(an_old_answer_serves_at_the_deadline)
{
	struct asker a;

	close_workers();
	open_workers(1);
	ask(0, &a, "alice");
	answer(worker[0].st, "alice", STORE_FOUND, "new");
	turn(0);
	pass_ms(2);
	ck_assert_ptr_nonnull(ask(1, &a, "alice"));
	while (a.answers == 0)
		event_base_loop(worker[1].base, EVLOOP_ONCE);
	ck_assert_int_eq(a.got.status, ROUTE_FOUND);
	ck_assert_int_eq(a.got.reason, ROUTE_BY_STALE);
}
END_TEST

/* Two threads ask for the same few names, answer and give up at random; a
 * thread sanitizer looks on. */

#define ROUNDS 3000
#define NAMES 5

struct runner {
	size_t w;
	unsigned seed, answers, given_up;
	struct route_lookup *lookup[NAMES];
};

static void
runner_told(void *arg, const struct route_answer *got)
{
	(void)got;
	*(struct route_lookup **)arg = NULL;
}

static void
runner_step(struct runner *r)
{
	struct worker *w = &worker[r->w];
	int i = rand_r(&r->seed) % NAMES;
	char key[64];

	snprintf(key, sizeof(key), "user%d", i);
	switch (rand_r(&r->seed) % 4) {
	case 0:
		if (r->lookup[i] == NULL)
			r->lookup[i] = route_lookup(w->router, key, runner_told,
			    &r->lookup[i]);
		return;
	case 1:
		if (r->lookup[i] != NULL)
			r->given_up++;
		route_lookup_cancel(&r->lookup[i]);
		return;
	case 2:
		if (w->st->calls == NULL)
			return;
		r->answers++;
		snprintf(key, sizeof(key), "%s", w->st->calls->key);
		answer(w->st, key, STORE_FOUND, "new");
		return;
	default:
		if (rand_r(&r->seed) % 8 == 0)
			cache_fence(cache);
		turn(r->w);
	}
}

static void *
runner_main(void *arg)
{
	struct runner *r = arg;

	for (int i = 0; i < ROUNDS; i++)
		runner_step(r);
	for (int i = 0; i < NAMES; i++)
		route_lookup_cancel(&r->lookup[i]);
	return NULL;
}

START_TEST(two_threads_ask_answer_and_give_up)
{
	struct runner runner[WORKERS];
	pthread_t thread[WORKERS];

	memset(runner, 0, sizeof(runner));
	for (size_t i = 0; i < WORKERS; i++) {
		runner[i].w = i;
		runner[i].seed = (unsigned)i + 1;
		pthread_create(&thread[i], NULL, runner_main, &runner[i]);
	}
	for (size_t i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	for (size_t i = 0; i < WORKERS; i++) {
		ck_assert_uint_gt(runner[i].answers, 0);
		ck_assert_uint_gt(runner[i].given_up, 0);
		turn(i);
	}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("route_cache");
	TCase *tc = tcase_create("route_cache");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, identifier_then_domain_then_default);
	tcase_add_test(tc, one_question_serves_both_workers);
	tcase_add_test(tc, who_has_gone_is_not_told);
	tcase_add_test(tc, a_router_may_go_before_who_is_woken);
	tcase_add_test(tc, a_router_that_goes_hands_its_questions_over);
	tcase_add_test(tc, who_comes_after_a_change_asks_anew);
	tcase_add_test(tc, what_the_store_names_is_a_destination_or_a_failure);
	tcase_add_test(tc, both_questions_have_one_deadline);
	tcase_add_test(tc, an_old_answer_serves_at_the_deadline);
	tcase_add_test(tc, two_threads_ask_answer_and_give_up);
	suite_add_tcase(suite, tc);
	return run(suite);
}
