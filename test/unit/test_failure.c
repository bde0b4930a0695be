/* test_failure.c: proves failure.c: every failure has its answers, and they do
 * not contradict each other. */

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

#include <check.h>

#include "platform/util.h"
#include "session/failure.h"
#include "run.h"

START_TEST(every_failure_has_a_name_and_words)
{
	ck_assert_ptr_nonnull(failure_name((enum failure)_i));
	ck_assert_ptr_nonnull(failure_text((enum failure)_i));
	ck_assert_int_ge(failure_level((enum failure)_i), LOG_ERR);
	ck_assert_int_le(failure_level((enum failure)_i), LOG_DEBUG);
}
END_TEST

/* RFC 3206: a temporary failure says nothing about the credentials. */
START_TEST(temporary_failures_do_not_count)
{
	ck_assert_int_ne(failure_temporary((enum failure)_i),
	    failure_counts((enum failure)_i));
}
END_TEST

/* Mail programs ask for a new password when they read one of these. */
START_TEST(temporary_words_do_not_speak_of_credentials)
{
	static const char *const words[] = {
	    "password", "login", "log in", "authentication"};

	if (!failure_temporary((enum failure)_i))
		return;
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		ck_assert_ptr_null(strcasestr(failure_text((enum failure)_i),
		    words[i]));
}
END_TEST

/* A refusal is the backend at work; retrying it would count twice. */
START_TEST(refusals_are_final_and_blame_nobody)
{
	if (!failure_counts((enum failure)_i))
		return;
	ck_assert(!failure_retries((enum failure)_i));
	ck_assert_int_eq(failure_blame((enum failure)_i), BLAME_NOBODY);
}
END_TEST

START_TEST(throttled_looks_like_rejected)
{
	ck_assert_str_eq(failure_text(FAIL_THROTTLED),
	    failure_text(FAIL_REJECTED));
}
END_TEST

START_TEST(only_what_comes_before_a_connection_is_surely_the_hosts)
{
	enum failure why = (enum failure)_i;
	bool host = why == FAIL_RESOLVE || why == FAIL_CONNECT ||
	    why == FAIL_NO_CONNECT;

	ck_assert_int_eq(failure_blame(why) == BLAME_HOST, host);
}
END_TEST

START_TEST(each_deferred_login_waits_longer)
{
	static const uint64_t ms[FAILURE_DEFERRED_MAX] = {
	    0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000};

	for (unsigned i = 0; i < FAILURE_DEFERRED_MAX; i++)
		ck_assert_uint_eq(failure_brake(i + 1), ms[i]);
	ck_assert_uint_eq(failure_brake(1000000), 5000);
}
END_TEST

static Suite *
failure_suite(void)
{
	Suite *suite = suite_create("failure");
	TCase *tc = tcase_create("failure");

	tcase_add_loop_test(tc, every_failure_has_a_name_and_words, 0,
	    FAILURES);
	tcase_add_loop_test(tc, temporary_failures_do_not_count, 0, FAILURES);
	tcase_add_loop_test(tc, temporary_words_do_not_speak_of_credentials, 0,
	    FAILURES);
	tcase_add_loop_test(tc, refusals_are_final_and_blame_nobody, 0,
	    FAILURES);
	tcase_add_test(tc, throttled_looks_like_rejected);
	tcase_add_loop_test(tc,
	    only_what_comes_before_a_connection_is_surely_the_hosts, 0,
	    FAILURES);
	tcase_add_test(tc, each_deferred_login_waits_longer);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(failure_suite());
}
