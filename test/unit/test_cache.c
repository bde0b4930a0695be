/* test_cache.c: the route cache, with a clock of its own. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"
#include "service/cache.h"
#include "run.h"

#define TTL 1000
#define NEGATIVE_TTL 100
#define STALE_TTL 5000

struct asker {
	struct cache_waiter w;
	struct cache_answer got;
	struct cache_fetch *fetch; /* that it has to end */
	int woken, again;
};

static struct cache *cache;

static void
asker_wake(struct cache_waiter *w, const struct cache_answer *answer)
{
	struct asker *a = (struct asker *)(void *)w;

	if (answer != NULL)
		a->got = *answer;
	else
		a->again++;
	a->woken++;
}

static void
setup(void)
{
	const struct cache_limits limits = {3200, TTL, NEGATIVE_TTL, STALE_TTL};

	hash_init();
	cache = cache_new(&limits);
	ck_assert_ptr_nonnull(cache);
}

static void
teardown(void)
{
	cache_unref(&cache);
}

static enum cache_state
ask(struct asker *a, const char *key, uint64_t now)
{
	enum cache_state state;

	memset(a, 0, sizeof(*a));
	a->w.wake = asker_wake;
	state = cache_lookup(cache, key, now, &a->w, &a->got);
	if (state == CACHE_FETCH)
		a->fetch = a->w.fetch;
	return state;
}

static void
fill(struct asker *a, uint64_t now, enum store_result result, int destination)
{
	ck_assert_ptr_nonnull(a->fetch);
	cache_fill(cache, &a->fetch, now, result, destination);
	ck_assert_ptr_null(a->fetch);
}

static void
learn(const char *key, uint64_t now, enum store_result result, int destination)
{
	struct asker a;

	ck_assert_int_eq(ask(&a, key, now), CACHE_FETCH);
	fill(&a, now, result, destination);
	ck_assert_int_eq(a.woken, 1);
	ck_assert_int_eq(a.got.result, result);
}

START_TEST(an_answer_serves_until_its_ttl)
{
	struct asker a;

	learn("alice", 10, STORE_FOUND, 3);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL - 1), CACHE_HIT);
	ck_assert_int_eq(a.got.result, STORE_FOUND);
	ck_assert_int_eq(a.got.destination, 3);
	ck_assert(!a.got.stale);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL), CACHE_FETCH);
	fill(&a, 10 + TTL, STORE_FOUND, 4);
	ck_assert_int_eq(a.got.destination, 4);
}
END_TEST

START_TEST(unknown_has_its_own_ttl)
{
	struct asker a;

	learn("nobody", 10, STORE_UNKNOWN, -1);
	ck_assert_int_eq(ask(&a, "nobody", 10 + NEGATIVE_TTL - 1), CACHE_HIT);
	ck_assert_int_eq(a.got.result, STORE_UNKNOWN);
	ck_assert_int_eq(ask(&a, "nobody", 10 + NEGATIVE_TTL), CACHE_FETCH);
	fill(&a, 10 + NEGATIVE_TTL, STORE_UNKNOWN, -1);
}
END_TEST

START_TEST(one_fetch_serves_all_who_wait)
{
	struct asker a, b, c;

	ck_assert_int_eq(ask(&a, "alice", 10), CACHE_FETCH);
	ck_assert_int_eq(ask(&b, "alice", 11), CACHE_WAIT);
	ck_assert_int_eq(ask(&c, "alice", 12), CACHE_WAIT);
	ck_assert(cache_cancel(cache, "alice", &b.w));
	fill(&a, 13, STORE_FOUND, 7);
	ck_assert_int_eq(a.woken + c.woken, 2);
	ck_assert_int_eq(b.woken, 0);
	ck_assert_int_eq(c.got.destination, 7);
	ck_assert(!cache_cancel(cache, "alice", &c.w));
}
END_TEST

START_TEST(a_failing_store_gets_a_stale_answer_and_not_forever)
{
	struct asker a;

	learn("alice", 10, STORE_FOUND, 3);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL), CACHE_FETCH);
	fill(&a, 10 + TTL, STORE_FAILED, -1);
	ck_assert_int_eq(a.got.result, STORE_FOUND);
	ck_assert_int_eq(a.got.destination, 3);
	ck_assert(a.got.stale);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL + STALE_TTL), CACHE_FETCH);
	fill(&a, 10 + TTL + STALE_TTL, STORE_FAILED, -1);
	ck_assert_int_eq(a.got.result, STORE_FAILED);
}
END_TEST

START_TEST(a_failure_is_remembered_for_a_second)
{
	struct asker a;

	learn("alice", 10, STORE_FAILED, -1);
	ck_assert_int_eq(ask(&a, "alice", 1009), CACHE_HIT);
	ck_assert_int_eq(a.got.result, STORE_FAILED);
	ck_assert_int_eq(ask(&a, "alice", 1010), CACHE_FETCH);
	fill(&a, 1010, STORE_FOUND, 1);
	ck_assert_int_eq(a.got.destination, 1);
	/* It cannot be stale: there was no answer. */
	learn("bob", 10, STORE_FAILED, -1);
	ck_assert_int_eq(ask(&a, "bob", 2000), CACHE_FETCH);
	fill(&a, 2000, STORE_FAILED, -1);
	ck_assert_int_eq(a.got.result, STORE_FAILED);
}
END_TEST

START_TEST(a_stale_answer_serves_for_a_second_unasked)
{
	struct asker a;

	learn("alice", 10, STORE_FOUND, 3);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL), CACHE_FETCH);
	fill(&a, 10 + TTL, STORE_FAILED, -1);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL + 999), CACHE_HIT);
	ck_assert_int_eq(a.got.result, STORE_FOUND);
	ck_assert_int_eq(a.got.destination, 3);
	ck_assert(a.got.stale);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL + 1000), CACHE_FETCH);
	fill(&a, 10 + TTL + 1000, STORE_FOUND, 4);
	ck_assert_int_eq(ask(&a, "alice", 10 + TTL + 1001), CACHE_HIT);
	ck_assert(!a.got.stale);
}
END_TEST

START_TEST(who_cannot_wait_gets_what_there_is)
{
	struct cache_answer got = {0};
	struct asker a;

	ck_assert(!cache_peek(cache, "alice", 0, &got));
	learn("alice", 0, STORE_FOUND, 3);
	ck_assert(cache_peek(cache, "alice", TTL - 1, &got));
	ck_assert(!got.stale);
	ck_assert_int_eq(got.destination, 3);
	/* Also while somebody else waits for a better one. */
	ck_assert_int_eq(ask(&a, "alice", TTL), CACHE_FETCH);
	ck_assert(cache_peek(cache, "alice", TTL, &got));
	ck_assert(got.stale);
	ck_assert_int_eq(got.destination, 3);
	ck_assert(!cache_peek(cache, "alice", TTL + STALE_TTL, &got));
	fill(&a, TTL, STORE_FOUND, 4);
	ck_assert_int_eq(a.woken, 1);
	ck_assert(cache_peek(cache, "alice", TTL, &got));
	ck_assert_int_eq(got.destination, 4);
}
END_TEST

START_TEST(the_unknown_is_never_stale)
{
	struct asker a;

	learn("nobody", 10, STORE_UNKNOWN, -1);
	ck_assert_int_eq(ask(&a, "nobody", 10 + NEGATIVE_TTL), CACHE_FETCH);
	ck_assert(!cache_peek(cache, "nobody", 10 + NEGATIVE_TTL, &a.got));
	fill(&a, 10 + NEGATIVE_TTL, STORE_FAILED, -1);
	ck_assert_int_eq(a.got.result, STORE_FAILED);
}
END_TEST

START_TEST(a_fence_ends_all_that_was_read_before)
{
	struct asker a, b, late;

	learn("alice", 10, STORE_FOUND, 3);
	ck_assert_int_eq(ask(&b, "bob", 10), CACHE_FETCH);
	cache_fence(cache);
	ck_assert(!cache_peek(cache, "alice", 11, &a.got));
	ck_assert_int_eq(ask(&a, "alice", 11), CACHE_FETCH);
	fill(&a, 11, STORE_FAILED, -1);
	ck_assert_int_eq(a.got.result, STORE_FAILED);
	/* A question of before is nobody's to wait for who comes after. */
	ck_assert_int_eq(ask(&late, "bob", 11), CACHE_FETCH);
	fill(&b, 12, STORE_FOUND, 5);
	ck_assert_int_eq(b.got.destination, 5);
	ck_assert_int_eq(late.woken, 0);
	ck_assert(!cache_peek(cache, "bob", 12, &a.got));
	fill(&late, 13, STORE_FOUND, 6);
	ck_assert_int_eq(late.got.destination, 6);
	ck_assert_int_eq(ask(&b, "bob", 14), CACHE_HIT);
	ck_assert_int_eq(b.got.destination, 6);
}
END_TEST

/* Whatever the order in which the two answers come. */
START_TEST(a_late_answer_of_before_is_not_kept)
{
	struct asker before, after, a;

	for (int all = 0; all < 2; all++) {
		cache_forget(cache, "alice");
		ck_assert_int_eq(ask(&before, "alice", 10), CACHE_FETCH);
		if (all)
			cache_fence(cache);
		else
			cache_forget(cache, "alice");
		ck_assert_int_eq(ask(&after, "alice", 11), CACHE_FETCH);
		ck_assert_int_eq(ask(&a, "alice", 11), CACHE_WAIT);
		fill(&after, 12, STORE_FOUND, 2);
		ck_assert_int_eq(a.got.destination, 2);
		fill(&before, 13, STORE_FOUND, 1);
		ck_assert_int_eq(before.got.destination, 1);
		ck_assert_int_eq(ask(&a, "alice", 14), CACHE_HIT);
		ck_assert_int_eq(a.got.destination, 2);
	}
}
END_TEST

START_TEST(an_answer_of_before_is_not_kept_either_if_nobody_came_since)
{
	struct asker a, b;

	ck_assert_int_eq(ask(&b, "bob", 10), CACHE_FETCH);
	cache_fence(cache);
	fill(&b, 12, STORE_FOUND, 5);
	ck_assert_int_eq(b.got.destination, 5);
	ck_assert_int_eq(ask(&a, "bob", 13), CACHE_FETCH);
	fill(&a, 13, STORE_FOUND, 6);
	ck_assert_int_eq(ask(&b, "bob", 14), CACHE_HIT);
}
END_TEST

START_TEST(who_waits_for_an_abandoned_fetch_looks_again)
{
	struct asker a, b, c;

	ck_assert_int_eq(ask(&a, "alice", 10), CACHE_FETCH);
	ck_assert_int_eq(ask(&b, "alice", 10), CACHE_WAIT);
	ck_assert_int_eq(ask(&c, "alice", 10), CACHE_WAIT);
	ck_assert(cache_cancel(cache, "alice", &a.w));
	cache_abandon(&a.fetch);
	ck_assert_int_eq(a.woken, 0);
	ck_assert_int_eq(b.again + c.again, 2);
	ck_assert_int_eq(ask(&b, "alice", 11), CACHE_FETCH);
	ck_assert_int_eq(ask(&c, "alice", 11), CACHE_WAIT);
	fill(&b, 12, STORE_FOUND, 4);
	ck_assert_int_eq(c.got.destination, 4);
	/* Also one that has been fenced. */
	cache_fence(cache);
	ck_assert_int_eq(ask(&a, "alice", 13), CACHE_FETCH);
	cache_fence(cache);
	ck_assert_int_eq(ask(&b, "alice", 13), CACHE_FETCH);
	cache_abandon(&a.fetch);
	ck_assert_int_eq(a.again, 1);
	fill(&b, 13, STORE_FOUND, 5);
	ck_assert_int_eq(b.got.destination, 5);
}
END_TEST

START_TEST(failures_do_not_fill_the_table)
{
	struct cache_counters count;
	char key[32];

	for (int i = 0; i < 100000; i++) {
		snprintf(key, sizeof(key), "invented-%d", i);
		learn(key, 10, STORE_FAILED, -1);
	}
	cache_count(cache, &count);
	ck_assert_uint_le(count.entries, 330);
	ck_assert_uint_eq(count.failed, 100000);
}
END_TEST

START_TEST(the_whole_key_counts)
{
	struct asker a;

	learn("alice@example.com", 10, STORE_FOUND, 1);
	learn("alice@example.co", 10, STORE_FOUND, 2);
	learn("Alice@example.com", 10, STORE_FOUND, 3);
	ck_assert_int_eq(ask(&a, "alice@example.com", 11), CACHE_HIT);
	ck_assert_int_eq(a.got.destination, 1);
}
END_TEST

START_TEST(invented_names_do_not_push_real_ones_out)
{
	struct cache_counters count;
	struct asker a;
	char key[32];

	for (int i = 0; i < 500; i++) {
		snprintf(key, sizeof(key), "real-%d", i);
		learn(key, 10, STORE_FOUND, 1);
	}
	for (int i = 0; i < 100000; i++) {
		snprintf(key, sizeof(key), "invented-%d", i);
		learn(key, 10, STORE_UNKNOWN, -1);
	}
	for (int i = 0; i < 500; i++) {
		snprintf(key, sizeof(key), "real-%d", i);
		ck_assert_int_eq(ask(&a, key, 11), CACHE_HIT);
	}
	cache_count(cache, &count);
	ck_assert_uint_le(count.entries, 500 + 320 + 32);
	ck_assert_uint_gt(count.evicted, 90000);
}
END_TEST

START_TEST(the_least_recently_used_goes_first)
{
	struct asker a;
	struct cache_counters count;
	char key[32];

	learn("kept", 10, STORE_FOUND, 1);
	for (int i = 0; i < 20000; i++) {
		snprintf(key, sizeof(key), "other-%d", i);
		learn(key, 10, STORE_FOUND, 1);
		ck_assert_int_eq(ask(&a, "kept", 11), CACHE_HIT);
	}
	cache_count(cache, &count);
	ck_assert_uint_le(count.entries, 3200);
}
END_TEST

START_TEST(a_forgotten_key_is_asked_again)
{
	struct asker a;

	learn("alice", 10, STORE_FOUND, 1);
	learn("bob", 10, STORE_FOUND, 1);
	cache_forget(cache, "alice");
	ck_assert_int_eq(ask(&a, "bob", 11), CACHE_HIT);
	ck_assert_int_eq(ask(&a, "alice", 11), CACHE_FETCH);
	fill(&a, 13, STORE_FOUND, 5);
}
END_TEST

/* Random operations against the simplest model there is. */
START_TEST(agrees_with_a_model)
{
	struct {
		int destination;
		uint64_t expires;
	} model[50] = {{0, 0}};
	uint64_t now = 1;
	unsigned seed = 42;
	struct asker a;
	char key[16];

	for (int i = 0; i < 200000; i++) {
		size_t k = (size_t)rand_r(&seed) % ARRAY_LEN(model);
		int d = rand_r(&seed) % 5 - 1;
		enum cache_state state;

		now += (uint64_t)rand_r(&seed) % 10;
		snprintf(key, sizeof(key), "k%zu", k);
		if (rand_r(&seed) % 50 == 0) {
			cache_forget(cache, key);
			model[k].expires = 0;
			continue;
		}
		state = ask(&a, key, now);
		if (model[k].expires > now) {
			ck_assert_int_eq(state, CACHE_HIT);
			ck_assert_int_eq(a.got.result,
			    model[k].destination == -1 ? STORE_UNKNOWN
						       : STORE_FOUND);
			if (model[k].destination != -1)
				ck_assert_int_eq(a.got.destination,
				    model[k].destination);
			continue;
		}
		ck_assert_int_eq(state, CACHE_FETCH);
		fill(&a, now, d == -1 ? STORE_UNKNOWN : STORE_FOUND, d);
		model[k].destination = d;
		model[k].expires = now + (d == -1 ? NEGATIVE_TTL : TTL);
	}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("cache");
	TCase *tc = tcase_create("cache");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, an_answer_serves_until_its_ttl);
	tcase_add_test(tc, unknown_has_its_own_ttl);
	tcase_add_test(tc, one_fetch_serves_all_who_wait);
	tcase_add_test(tc, a_failing_store_gets_a_stale_answer_and_not_forever);
	tcase_add_test(tc, a_failure_is_remembered_for_a_second);
	tcase_add_test(tc, a_stale_answer_serves_for_a_second_unasked);
	tcase_add_test(tc, who_cannot_wait_gets_what_there_is);
	tcase_add_test(tc, the_unknown_is_never_stale);
	tcase_add_test(tc, a_fence_ends_all_that_was_read_before);
	tcase_add_test(tc, a_late_answer_of_before_is_not_kept);
	tcase_add_test(tc,
	    an_answer_of_before_is_not_kept_either_if_nobody_came_since);
	tcase_add_test(tc, who_waits_for_an_abandoned_fetch_looks_again);
	tcase_add_test(tc, failures_do_not_fill_the_table);
	tcase_add_test(tc, the_whole_key_counts);
	tcase_add_test(tc, invented_names_do_not_push_real_ones_out);
	tcase_add_test(tc, the_least_recently_used_goes_first);
	tcase_add_test(tc, a_forgotten_key_is_asked_again);
	tcase_add_test(tc, agrees_with_a_model);
	suite_add_tcase(suite, tc);
	return run(suite);
}
