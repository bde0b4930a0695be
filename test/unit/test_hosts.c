/* test_hosts.c: what hosts(5) knows of a name. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "platform/util.h"
#include "net/hosts.h"
#include "run.h"

static char path[] = "/tmp/test_hosts.XXXXXX";

static void
setup(void)
{
	static const char text[] = "# 192.0.2.1 comment\n"
				   "\n"
				   "   \t\n"
				   "192.0.2.1 one.test One  # 192.0.2.2 two\n"
				   "192.0.2.2\ttwo.test\r\n"
				   "2001:db8::2 TWO.test\n"
				   "::ffff:192.0.2.3 two.test\n"
				   "two.test two.test\n"
				   "192.0.2.4#two.test\n"
				   "192.0.2.5\n"
				   "192.0.2.6 last.test";
	int fd = mkstemp(path);

	ck_assert_int_ne(fd, -1);
	ck_assert_int_eq(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
}

static void
teardown(void)
{
	unlink(path);
	memset(path + sizeof(path) - 7, 'X', 6);
}

START_TEST(names_have_their_addresses)
{
	static const struct {
		const char *name, *found;
	} rows[] = {
	    {"one.test", "192.0.2.1"},
	    {"one", "192.0.2.1"},
	    {"ONE", "192.0.2.1"},
	    {"two.test", "192.0.2.2 2001:db8::2 192.0.2.3"},
	    {"last.test", "192.0.2.6"},
	    {"two", ""},
	    {"comment", ""},
	    {"test", ""},
	    {"one.test.", ""},
	    {"localhost", "127.0.0.1 ::1"},
	};
	struct addr a[8];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char found[256] = "", text[ADDR_TEXT_MAX];
		size_t n = hosts_find(path, rows[i].name, a, ARRAY_LEN(a));

		for (size_t j = 0; j < n; j++) {
			if (j > 0)
				strcat(found, " ");
			strcat(found, addr_ip(&a[j], text));
			ck_assert_uint_eq(addr_port(&a[j]), 0);
		}
		ck_assert_str_eq(found, rows[i].found);
	}
}
END_TEST

START_TEST(no_more_than_there_is_room_for)
{
	struct addr a[2];

	ck_assert_uint_eq(hosts_find(path, "two.test", a, 2), 2);
	ck_assert_uint_eq(hosts_find(path, "two.test", a, 0), 0);
	ck_assert_uint_eq(hosts_find(path, "localhost", a, 1), 1);
}
END_TEST

START_TEST(without_the_file_there_is_localhost)
{
	struct addr a[2];

	ck_assert_uint_eq(hosts_find("/nonexistent", "one.test", a, 2), 0);
	ck_assert_uint_eq(hosts_find("/nonexistent", "LocalHost", a, 2), 2);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("hosts");
	TCase *tc = tcase_create("hosts");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, names_have_their_addresses);
	tcase_add_test(tc, no_more_than_there_is_room_for);
	tcase_add_test(tc, without_the_file_there_is_localhost);
	suite_add_tcase(suite, tc);
	return run(suite);
}
