/* test_limits.c: what one client address may have. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "platform/hash.h"
#include "platform/util.h"
#include "service/limits.h"
#include "run.h"

#define WINDOW 1000
#define NEXT (next++) /* other credentials each time */

static struct cidr exempt[1];
static struct config_limits rules;
static uint64_t next;

static struct addr
ip(const char *text)
{
	struct addr a;

	ck_assert(addr_parse_ip(text, &a));
	return a;
}

static void
setup(void)
{
	hash_init();
	limits_clear();
	ck_assert(cidr_parse("198.51.100.0/24", &exempt[0]));
	rules = (struct config_limits){
	    .max_connections_per_ip = 2,
	    .auth_failures_per_ip = 3,
	    .auth_failure_window = WINDOW,
	    .exempt = exempt,
	    .n_exempt = 1,
	};
}

START_TEST(connections_are_counted_and_given_back)
{
	struct addr a = ip("192.0.2.1"), b = ip("192.0.2.2");

	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_FULL);
	ck_assert_int_eq(limits_enter(&rules, &b), LIMITS_COUNTED);
	limits_leave(&a);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_FULL);
}
END_TEST

START_TEST(an_ipv6_client_is_its_64)
{
	struct addr a = ip("2001:db8:0:1::1"), b = ip("2001:db8:0:1:ffff::2"),
		    c = ip("2001:db8:0:2::1");

	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &b), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_FULL);
	ck_assert_int_eq(limits_enter(&rules, &c), LIMITS_COUNTED);
}
END_TEST

START_TEST(the_exempt_and_the_unlimited_are_not_counted)
{
	struct addr a = ip("198.51.100.7"), b = ip("192.0.2.1");

	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_FREE);
	for (int i = 0; i < 100; i++)
		limits_refused(&rules, &a, (uint64_t)i, 5);
	ck_assert(!limits_throttled(&rules, &a, 5));
	rules.max_connections_per_ip = rules.auth_failures_per_ip = 0;
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(limits_enter(&rules, &b), LIMITS_FREE);
		limits_refused(&rules, &b, (uint64_t)i, 5);
	}
	ck_assert(!limits_throttled(&rules, &b, 5));
}
END_TEST

START_TEST(what_was_counted_is_given_back_under_other_rules)
{
	struct addr a = ip("192.0.2.1"), b = ip("198.51.100.7");

	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	rules.max_connections_per_ip = 0;
	ck_assert_int_eq(limits_enter(&rules, &b), LIMITS_FREE);
	limits_leave(&a);
	rules.max_connections_per_ip = 2;
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &a), LIMITS_FULL);
}
END_TEST

START_TEST(refusals_throttle_for_a_window)
{
	struct addr a = ip("192.0.2.1"), b = ip("192.0.2.2");

	limits_refused(&rules, &a, NEXT, 10000);
	limits_refused(&rules, &a, NEXT, 10001);
	ck_assert(!limits_throttled(&rules, &a, 10002));
	limits_refused(&rules, &a, NEXT, 10002);
	ck_assert(limits_throttled(&rules, &a, 10003));
	ck_assert(limits_throttled(&rules, &a, 10000 + WINDOW / 2));
	ck_assert(!limits_throttled(&rules, &a, 10000 + WINDOW));
	ck_assert(!limits_throttled(&rules, &b, 10003));
}
END_TEST

START_TEST(the_same_wrong_credentials_count_once)
{
	struct addr a = ip("192.0.2.1"), b = ip("192.0.2.2");
	uint64_t now = 10000;

	/* A phone with an old password, for days, and one wrong word by
	 * somebody else behind its address. */
	for (int i = 0; i < 1000; i++, now += WINDOW / 10)
		limits_refused(&rules, &a, 7, now);
	limits_refused(&rules, &a, 8, now);
	ck_assert(!limits_throttled(&rules, &a, now));
	/* Different ones count, and none of ten is forgotten. */
	for (uint64_t i = 0; i < 3; i++)
		limits_refused(&rules, &b, i, now);
	ck_assert(limits_throttled(&rules, &b, now));
	now += 2 * WINDOW;
	for (uint64_t i = 0; i < 10; i++)
		limits_refused(&rules, &b, i, now);
	ck_assert(limits_throttled(&rules, &b, now));
	now += 2 * WINDOW;
	for (uint64_t i = 0; i < 10; i++)
		limits_refused(&rules, &b, i, now);
	ck_assert(!limits_throttled(&rules, &b, now));
}
END_TEST

START_TEST(the_last_ten_credentials_are_told_apart)
{
	struct addr a = ip("192.0.2.1");
	uint64_t now = 10000;

	for (uint64_t i = 0; i < 11; i++)
		limits_refused(&rules, &a, i, now);
	now += 2 * WINDOW;
	/* The oldest is forgotten, so it is new; then the next oldest is. */
	limits_refused(&rules, &a, 0, now);
	limits_refused(&rules, &a, 1, now);
	ck_assert(!limits_throttled(&rules, &a, now));
	limits_refused(&rules, &a, 10, now);
	ck_assert(!limits_throttled(&rules, &a, now));
	limits_refused(&rules, &a, 2, now);
	ck_assert(limits_throttled(&rules, &a, now));
}
END_TEST

START_TEST(a_million_addresses_fit_a_bounded_table)
{
	char text[ADDR_TEXT_MAX];
	struct addr held = ip("203.0.113.1"), a;

	ck_assert_int_eq(limits_enter(&rules, &held), LIMITS_COUNTED);
	ck_assert_int_eq(limits_enter(&rules, &held), LIMITS_COUNTED);
	for (int i = 0; i < 1000000; i++) {
		snprintf(text, sizeof(text), "10.%d.%d.%d", i >> 16,
		    i >> 8 & 255, i & 255);
		a = ip(text);
		limits_refused(&rules, &a, NEXT, 5);
	}
	/* One that holds connections is not forgotten for them. */
	ck_assert_int_eq(limits_enter(&rules, &held), LIMITS_FULL);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("limits");
	TCase *tc = tcase_create("limits");

	tcase_add_checked_fixture(tc, setup, limits_clear);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, connections_are_counted_and_given_back);
	tcase_add_test(tc, an_ipv6_client_is_its_64);
	tcase_add_test(tc, the_exempt_and_the_unlimited_are_not_counted);
	tcase_add_test(tc, what_was_counted_is_given_back_under_other_rules);
	tcase_add_test(tc, refusals_throttle_for_a_window);
	tcase_add_test(tc, the_same_wrong_credentials_count_once);
	tcase_add_test(tc, the_last_ten_credentials_are_told_apart);
	tcase_add_test(tc, a_million_addresses_fit_a_bounded_table);
	suite_add_tcase(suite, tc);
	return run(suite);
}
