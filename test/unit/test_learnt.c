/* test_learnt.c: proves learnt.c: what is known of a server is that server's,
 * and is forgotten in time. */

#include <stdlib.h>

#include <check.h>

#include "platform/hash.h"
#include "service/learnt.h"
#include "run.h"

static struct addr
server(const char *text)
{
	struct addr a;

	ck_assert(addr_parse(text, &a));
	return a;
}

START_TEST(bits_are_kept_for_their_time)
{
	static const uint64_t times[] = {0, 999, 123456789,
	    (UINT64_C(1) << 22) * 1000 - 1000, UINT64_C(1) << 45};
	struct addr a = server("192.0.2.1:110");
	uint64_t now = times[_i];
	struct learnt l = {.slot = {0}};
	uint32_t bits = 0;

	ck_assert(!learnt_get(&l, &a, now, &bits));
	learnt_set(&l, &a, now, 0xa5);
	ck_assert(learnt_get(&l, &a, now, &bits));
	ck_assert_uint_eq(bits, 0xa5);
	ck_assert(learnt_get(&l, &a, now + LEARNT_MS - 1000, &bits));
	ck_assert(!learnt_get(&l, &a, now + LEARNT_MS + 1000, &bits));
}
END_TEST

START_TEST(servers_do_not_share)
{
	struct addr a = server("192.0.2.1:110"), b = server("192.0.2.2:110");
	struct addr port = server("192.0.2.1:111");
	struct learnt l = {.slot = {0}};
	uint32_t bits = 0;

	learnt_set(&l, &a, 5000, 1);
	ck_assert(!learnt_get(&l, &b, 5000, &bits));
	ck_assert(!learnt_get(&l, &port, 5000, &bits));
	learnt_forget(&l, &b);
	ck_assert(learnt_get(&l, &a, 5000, &bits));
	learnt_forget(&l, &a);
	ck_assert(!learnt_get(&l, &a, 5000, &bits));
}
END_TEST

START_TEST(nothing_known_is_something_too)
{
	struct addr a = server("[2001:db8::1]:995");
	struct learnt l = {.slot = {0}};
	uint32_t bits = 7;

	learnt_set(&l, &a, 5000, 0);
	ck_assert(learnt_get(&l, &a, 5000, &bits));
	ck_assert_uint_eq(bits, 0);
	learnt_forget_all(&l);
	ck_assert(!learnt_get(&l, &a, 5000, &bits));
}
END_TEST

static Suite *
learnt_suite(void)
{
	Suite *suite = suite_create("learnt");
	TCase *tc = tcase_create("learnt");

	tcase_add_checked_fixture(tc, hash_init, NULL);
	tcase_add_loop_test(tc, bits_are_kept_for_their_time, 0, 5);
	tcase_add_test(tc, servers_do_not_share);
	tcase_add_test(tc, nothing_known_is_something_too);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(learnt_suite());
}
