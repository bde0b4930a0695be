/* test_destination.c: the breaker and the places, with a clock of their own. */

#include <check.h>
#include <stdlib.h>

#include "platform/util.h"
#include "service/destination.h"

#define COOLDOWN 1000

static const struct destination_health rules = {3, 2, COOLDOWN};
static const struct config_destination cfg = {
    .max_connecting = 8, .max_sessions = 10};
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
		destination_failed(d, &rules, now, host, client);
}

START_TEST(the_hosts_own_failures_mark_it_down)
{
	failures(2, true, 1, 10);
	ck_assert(!destination_is_down(d));
	ck_assert(destination_failed(d, &rules, 10, true, 1));
	ck_assert(destination_is_down(d));
	ck_assert_int_eq(destination_enter(d, &cfg, 11), DESTINATION_DOWN);
}
END_TEST

START_TEST(one_client_alone_marks_nothing_down)
{
	failures(1000, false, 1, 10);
	ck_assert(!destination_is_down(d));
	ck_assert(destination_failed(d, &rules, 10, false, 2));
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
	ck_assert_int_eq(destination_enter(d, &cfg, 10 + COOLDOWN - 1),
	    DESTINATION_DOWN);
	ck_assert_int_eq(destination_enter(d, &cfg, 10 + COOLDOWN),
	    DESTINATION_PROBE);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(destination_enter(d, &cfg, 10 + COOLDOWN + i),
		    DESTINATION_DOWN);
	/* It went away without a verdict: the next one finds out. */
	destination_leave(d, false, true);
	ck_assert_int_eq(destination_enter(d, &cfg, 20 + COOLDOWN),
	    DESTINATION_PROBE);
	/* It fails: another cooldown. */
	destination_failed(d, &rules, 20 + COOLDOWN, true, 1);
	destination_leave(d, false, true);
	ck_assert_int_eq(destination_enter(d, &cfg, 19 + 2 * COOLDOWN),
	    DESTINATION_DOWN);
	ck_assert_int_eq(destination_enter(d, &cfg, 20 + 2 * COOLDOWN),
	    DESTINATION_PROBE);
	ck_assert(destination_worked(d));
	ck_assert(!destination_is_down(d));
}
END_TEST

START_TEST(a_recovery_lets_in_few_at_first)
{
	failures(3, true, 1, 10);
	ck_assert_int_eq(destination_enter(d, &cfg, 10 + COOLDOWN),
	    DESTINATION_PROBE);
	ck_assert(destination_worked(d));
	ck_assert_int_eq(destination_enter(d, &cfg, 2000), DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 2000), DESTINATION_FULL);
	destination_worked(d);
	ck_assert_int_eq(destination_enter(d, &cfg, 2000), DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 2000), DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 2000), DESTINATION_FULL);
	for (int i = 0; i < 20; i++)
		destination_worked(d);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(destination_enter(d, &cfg, 2000),
		    DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 2000), DESTINATION_FULL);
}
END_TEST

START_TEST(places_are_limited_and_given_back)
{
	for (unsigned i = 0; i < cfg.max_connecting; i++)
		ck_assert_int_eq(destination_enter(d, &cfg, 1),
		    DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 1), DESTINATION_FULL);
	/* Logged in ones no longer count as connecting, but as sessions. */
	destination_logged_in(d);
	destination_logged_in(d);
	destination_logged_in(d);
	ck_assert_int_eq(destination_enter(d, &cfg, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 1), DESTINATION_ENTERED);
	ck_assert_int_eq(destination_enter(d, &cfg, 1), DESTINATION_FULL);
	destination_leave(d, true, false);
	ck_assert_int_eq(destination_enter(d, &cfg, 1), DESTINATION_ENTERED);
}
END_TEST

START_TEST(a_threshold_of_0_never_marks)
{
	const struct destination_health never = {0, 0, COOLDOWN};

	for (int i = 0; i < 1000; i++)
		ck_assert(!destination_failed(d, &never, 10, true, 1));
	ck_assert_int_eq(destination_enter(d, &cfg, 11), DESTINATION_ENTERED);
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

int
main(void)
{
	Suite *suite = suite_create("destination");
	TCase *tc = tcase_create("destination");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, the_hosts_own_failures_mark_it_down);
	tcase_add_test(tc, one_client_alone_marks_nothing_down);
	tcase_add_test(tc, one_success_forgives);
	tcase_add_test(tc, exactly_one_probes_after_the_cooldown);
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
