/* test_destination.c: the breaker and the places, with a clock of their own. */

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "platform/util.h"
#include "service/destination.h"

#define COOLDOWN 1000
#define THREADS 4
#define ROUNDS 20000

static const struct destination_health rules = {3, 2, COOLDOWN};
static char name[] = "here";
static const struct config_destination cfg = {
    .name = name, .max_connecting = 8, .max_sessions = 10};
static struct destination *d;

static void
setup(void)
{
	d = destination_new(&cfg);
	ck_assert_ptr_nonnull(d);
}

static void
teardown(void)
{
	destination_unref(&d);
}

static void
failures(unsigned n, bool host, uint64_t client, uint64_t now)
{
	while (n-- > 0)
		destination_failed(d, &rules, now, host, client, false);
}

static enum destination_entry
enter(uint64_t now, uint64_t client)
{
	return destination_enter(d, &cfg, now, client);
}

/* The client's probe, and how it ends. */
static void
probe_fails(bool host, uint64_t client, uint64_t now)
{
	ck_assert_int_eq(enter(now, client), DESTINATION_PROBE);
	ck_assert(!destination_failed(d, &rules, now, host, client, true));
	destination_leave(d, false, true);
}

START_TEST(the_hosts_own_failures_mark_it_down)
{
	failures(2, true, 1, 10);
	ck_assert(!destination_is_down(d));
	ck_assert(destination_failed(d, &rules, 10, true, 1, false));
	ck_assert(destination_is_down(d));
	ck_assert_int_eq(enter(11, 1), DESTINATION_DOWN);
}
END_TEST

START_TEST(one_client_alone_marks_nothing_down)
{
	failures(1000, false, 1, 10);
	ck_assert(!destination_is_down(d));
	ck_assert(destination_failed(d, &rules, 10, false, 2, false));
	ck_assert(destination_is_down(d));
}
END_TEST

START_TEST(one_success_forgives)
{
	failures(2, true, 1, 10);
	ck_assert(!destination_worked(d));
	failures(2, true, 1, 10);
	ck_assert(!destination_is_down(d));
}
END_TEST

START_TEST(exactly_one_probes_after_the_cooldown)
{
	failures(3, true, 1, 10);
	ck_assert_int_eq(enter(10 + COOLDOWN - 1, 1), DESTINATION_DOWN);
	ck_assert_int_eq(enter(10 + COOLDOWN, 1), DESTINATION_PROBE);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(enter(10 + COOLDOWN + i, 1), DESTINATION_DOWN);
	/* It went away without a verdict: the next one finds out. */
	destination_leave(d, false, true);
	ck_assert_int_eq(enter(20 + COOLDOWN, 1), DESTINATION_PROBE);
	/* It fails: another cooldown. */
	destination_failed(d, &rules, 20 + COOLDOWN, true, 1, true);
	destination_leave(d, false, true);
	ck_assert_int_eq(enter(19 + 2 * COOLDOWN, 1), DESTINATION_DOWN);
	ck_assert_int_eq(enter(20 + 2 * COOLDOWN, 1), DESTINATION_PROBE);
	ck_assert(destination_worked(d));
	ck_assert(!destination_is_down(d));
}
END_TEST

START_TEST(a_banned_clients_probe_is_its_own_affair)
{
	uint64_t over = 10 + COOLDOWN;

	failures(3, true, 1, 10);
	/* However often it tries: once in a cooldown. */
	probe_fails(false, 7, over);
	ck_assert_int_eq(enter(over, 7), DESTINATION_DOWN);
	ck_assert_int_eq(enter(over + COOLDOWN - 1, 7), DESTINATION_DOWN);
	ck_assert_int_eq(enter(over + 1, 1), DESTINATION_PROBE);
	ck_assert(destination_worked(d));
	destination_leave(d, false, false);
	ck_assert_int_eq(enter(over + 2, 7), DESTINATION_ENTERED);
}
END_TEST

START_TEST(the_only_client_there_is_may_probe_again)
{
	failures(3, true, 7, 10);
	for (unsigned i = 1; i < 5; i++) {
		probe_fails(false, 7, 10 + i * COOLDOWN);
		ck_assert_int_eq(enter(9 + (i + 1) * COOLDOWN, 7),
		    DESTINATION_DOWN);
	}
}
END_TEST

START_TEST(probes_of_enough_clients_are_another_cooldown)
{
	uint64_t over = 10 + COOLDOWN;

	failures(3, true, 1, 10);
	probe_fails(false, 7, over);
	probe_fails(false, 8, over + 5);
	ck_assert_int_eq(enter(over + 4 + COOLDOWN, 1), DESTINATION_DOWN);
	/* And then the count begins anew. */
	probe_fails(false, 7, over + 5 + COOLDOWN);
	ck_assert_int_eq(enter(over + 6 + COOLDOWN, 1), DESTINATION_PROBE);
}
END_TEST

START_TEST(stragglers_do_not_extend_the_cooldown)
{
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(enter(10, 1), DESTINATION_ENTERED);
	for (int i = 0; i < 3; i++) {
		destination_failed(d, &rules, 10, true, 1, false);
		destination_leave(d, false, false);
	}
	ck_assert(destination_is_down(d));
	/* Those that were under way then, until just before the end. */
	for (unsigned i = 0; i < 3; i++) {
		ck_assert(!destination_failed(d, &rules, 9 + COOLDOWN, i == 0,
		    i, false));
		destination_leave(d, false, false);
	}
	ck_assert_int_eq(enter(10 + COOLDOWN, 1), DESTINATION_PROBE);
	/* Nor may one speak for the probe. */
	ck_assert(!destination_failed(d, &rules, 10 + COOLDOWN, true, 2,
	    false));
	destination_leave(d, false, true);
	ck_assert_int_eq(enter(10 + COOLDOWN, 1), DESTINATION_PROBE);
}
END_TEST

static atomic_uint round_now, ready, done, probes;

/* All at once, at the beginning of each round. */
static void *
knock(void *arg UNUSED)
{
	for (unsigned round = 1; round <= ROUNDS; round++) {
		enum destination_entry entry;

		ready++;
		while (round_now != round)
			sched_yield();
		entry = enter(10 + round * COOLDOWN, 1);
		if (entry == DESTINATION_PROBE)
			probes++;
		else
			ck_assert_int_eq(entry, DESTINATION_DOWN);
		done++;
	}
	return NULL;
}

START_TEST(exactly_one_of_many_threads_probes)
{
	pthread_t thread[THREADS];

	failures(3, true, 1, 10);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, knock, NULL),
		    0);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		while (ready != round * THREADS)
			sched_yield();
		probes = 0;
		round_now = round;
		while (done != round * THREADS)
			sched_yield();
		ck_assert_uint_eq(probes, 1);
		destination_failed(d, &rules, 10 + round * COOLDOWN, true, 1,
		    true);
		destination_leave(d, false, true);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
}
END_TEST

START_TEST(a_recovery_lets_in_few_at_first)
{
	failures(3, true, 1, 10);
	ck_assert_int_eq(enter(10 + COOLDOWN, 1), DESTINATION_PROBE);
	ck_assert(destination_worked(d));
	ck_assert_int_eq(enter(2000, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(2000, 1), DESTINATION_FULL);
	destination_worked(d);
	ck_assert_int_eq(enter(2000, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(2000, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(2000, 1), DESTINATION_FULL);
	for (int i = 0; i < 20; i++)
		destination_worked(d);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(2000, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(2000, 1), DESTINATION_FULL);
}
END_TEST

START_TEST(places_are_limited_and_given_back)
{
	for (unsigned i = 0; i < cfg.max_connecting; i++)
		ck_assert_int_eq(enter(1, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(1, 1), DESTINATION_FULL);
	/* Logged in ones no longer count as connecting, but as sessions. */
	destination_logged_in(d);
	destination_logged_in(d);
	destination_logged_in(d);
	ck_assert_int_eq(enter(1, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(1, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(enter(1, 1), DESTINATION_FULL);
	destination_leave(d, true, false);
	ck_assert_int_eq(enter(1, 1), DESTINATION_ENTERED);
}
END_TEST

START_TEST(a_threshold_of_0_never_marks)
{
	const struct destination_health never = {0, 0, COOLDOWN};

	for (int i = 0; i < 1000; i++)
		ck_assert(!destination_failed(d, &never, 10, true, 1, false));
	ck_assert_int_eq(enter(11, 1), DESTINATION_ENTERED);
}
END_TEST

START_TEST(what_is_learnt_expires)
{
	uint32_t bits;

	ck_assert(!destination_learnt(d, 5000, &bits));
	destination_learn(d, 5000, 0x15);
	ck_assert(destination_learnt(d, 5000, &bits));
	ck_assert_uint_eq(bits, 0x15);
	ck_assert(!destination_learnt(d, 5000 + DESTINATION_LEARNT_MS, &bits));
	destination_unlearn(d);
	ck_assert(!destination_learnt(d, 5000, &bits));
}
END_TEST

/* A big maildrop is no reason to keep the others out, and one that thinks for
 * long before it hangs up is none to let them in again and again. */
START_TEST(at_work_lets_others_in_and_forgives_nothing)
{
	failures(2, false, 1, 10);
	ck_assert(!destination_at_work(d));
	ck_assert(destination_failed(d, &rules, 10, false, 2, false));
	ck_assert_int_eq(enter(10 + COOLDOWN, 3), DESTINATION_PROBE);
	ck_assert_int_eq(enter(10 + COOLDOWN, 4), DESTINATION_DOWN);
	ck_assert(destination_at_work(d));
	ck_assert(!destination_at_work(d));
	ck_assert_int_eq(enter(11 + COOLDOWN, 4), DESTINATION_ENTERED);
	/* Recovering: not all at once. */
	ck_assert_int_eq(enter(11 + COOLDOWN, 5), DESTINATION_FULL);
	ck_assert(!destination_failed(d, &rules, 2010, false, 3, false));
	ck_assert(destination_failed(d, &rules, 2010, false, 4, false));
	ck_assert(destination_is_down(d));
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("destination");
	TCase *tc = tcase_create("destination");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, at_work_lets_others_in_and_forgives_nothing);
	tcase_add_test(tc, the_hosts_own_failures_mark_it_down);
	tcase_add_test(tc, one_client_alone_marks_nothing_down);
	tcase_add_test(tc, one_success_forgives);
	tcase_add_test(tc, exactly_one_probes_after_the_cooldown);
	tcase_add_test(tc, a_banned_clients_probe_is_its_own_affair);
	tcase_add_test(tc, the_only_client_there_is_may_probe_again);
	tcase_add_test(tc, probes_of_enough_clients_are_another_cooldown);
	tcase_add_test(tc, stragglers_do_not_extend_the_cooldown);
	tcase_add_test(tc, exactly_one_of_many_threads_probes);
	tcase_add_test(tc, a_recovery_lets_in_few_at_first);
	tcase_add_test(tc, places_are_limited_and_given_back);
	tcase_add_test(tc, a_threshold_of_0_never_marks);
	tcase_add_test(tc, what_is_learnt_expires);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
