/* test_log.c: what a line looks like, and what a stranger cannot do to it. */

#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "platform/log.h"

static char path[64];

static void
setup(void)
{
	int fd;

	strcpy(path, "/tmp/test_log.XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ne(fd, -1);
	close(fd);
}

static void
teardown(void)
{
	struct err err;

	ck_assert_int_eq(log_open("stderr", LOG_TEXT, LOG_INFO, &err), 0);
	unlink(path);
}

static char *
logged(void)
{
	static char text[LOG_LINE_MAX * 2];
	FILE *f = fopen(path, "r");
	size_t n;

	ck_assert_ptr_nonnull(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static void
line(enum log_format format, const char *value, size_t len)
{
	struct err err;
	struct log_line l;

	ck_assert_int_eq(log_open(path, format, LOG_INFO, &err), 0);
	log_begin(&l, LOG_INFO, "login \"failed\"");
	log_str(&l, "user", value, len);
	log_uint(&l, "n", 42);
	log_end(&l);
}

START_TEST(fields_read_as_key_value)
{
	line(LOG_TEXT, "alice@example.com", 17);
	ck_assert_ptr_nonnull(strstr(logged(),
	    " info login \"failed\" user=alice@example.com n=42\n"));
}
END_TEST

START_TEST(a_field_cannot_end_itself_or_the_line)
{
	static const char evil[] =
	    "x\" reason=\"ok\"\r\n2026 fake \x1b[31m\x7f";

	line(LOG_TEXT, evil, sizeof(evil) - 1);
	ck_assert_ptr_nonnull(strstr(logged(),
	    "user=\"x\\x22 reason=\\x22ok\\x22\\x0d\\x0a2026 fake "
	    "\\x1b[31m\\x7f\" n=42\n"));
	ck_assert_ptr_eq(strchr(logged(), '\n'),
	    logged() + strlen(logged()) - 1);
}
END_TEST

START_TEST(long_fields_are_cut)
{
	char value[1000];

	memset(value, 'a', sizeof(value));
	line(LOG_TEXT, value, sizeof(value));
	ck_assert_ptr_nonnull(strstr(logged(), "aaa... n=42\n"));
	ck_assert_uint_lt(strlen(logged()), 300);
}
END_TEST

START_TEST(a_level_that_is_not_wanted_costs_nothing)
{
	struct err err;
	struct log_line l;

	ck_assert_int_eq(log_open(path, LOG_TEXT, LOG_ERR, &err), 0);
	log_begin(&l, LOG_INFO, "quiet");
	log_cstr(&l, "k", "v");
	log_end(&l);
	log_msg(LOG_WARNING, "quiet");
	ck_assert_str_eq(logged(), "");
}
END_TEST

/* Every byte, alone and behind a lead byte: always one JSON object, always
 * UTF-8. */
START_TEST(json_always_parses)
{
	char value[3];
	json_error_t error;

	for (int i = 0; i < 256; i++) {
		for (int lead = 0; lead < 256; lead += 5) {
			json_t *obj;
			FILE *f = fopen(path, "w");

			fclose(f);
			value[0] = (char)lead;
			value[1] = (char)i;
			value[2] = (char)0x80;
			line(LOG_JSON, value, sizeof(value));
			obj = json_loads(logged(), JSON_REJECT_DUPLICATES,
			    &error);
			ck_assert_msg(obj != NULL, "%s: %s", error.text,
			    logged());
			ck_assert_str_eq(json_string_value(json_object_get(obj,
					     "message")),
			    "login \"failed\"");
			json_decref(obj);
		}
	}
}
END_TEST

START_TEST(escape_shows_utf8_and_hides_controls)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
	    {"plain", "plain"},
	    {"gr\xc3\xbc\xc3\x9f"
	     "e",
		"gr\xc3\xbc\xc3\x9f"
		"e"},
	    {"\xc2\x85", "\\xc2\\x85"},
	    {"\xe2\x80\xae", "\\xe2\\x80\\xae"},
	    {"\xe2\x81\xa6", "\\xe2\\x81\\xa6"},
	    {"\xed\xa0\x80", "\\xed\\xa0\\x80"},
	    {"\xf0\x9f\x93\xac", "\xf0\x9f\x93\xac"},
	    {"\xc3", "\\xc3"},
	    {"a\\b", "a\\x5cb"},
	    {"%n%s", "%n%s"},
	};
	char out[600];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		ck_assert_str_eq(log_escape(rows[i].in, strlen(rows[i].in), out,
				     sizeof(out)),
		    rows[i].out);
}
END_TEST

START_TEST(reopen_follows_a_moved_file)
{
	char moved[80];

	line(LOG_TEXT, "one", 3);
	snprintf(moved, sizeof(moved), "%s.1", path);
	ck_assert_int_eq(rename(path, moved), 0);
	log_reopen();
	log_msg(LOG_INFO, "two");
	ck_assert_ptr_nonnull(strstr(logged(), "two"));
	ck_assert_ptr_null(strstr(logged(), "one"));
	unlink(moved);
}
END_TEST

START_TEST(a_path_that_cannot_be_opened_changes_nothing)
{
	struct err err;

	line(LOG_TEXT, "one", 3);
	ck_assert_int_eq(log_open("/nonexistent/dir/log", LOG_JSON, LOG_DEBUG,
			     &err),
	    -1);
	ck_assert_ptr_nonnull(strstr(err.text, "/nonexistent/dir/log"));
	log_msg(LOG_INFO, "still here");
	ck_assert_ptr_nonnull(strstr(logged(), "info still here"));
}
END_TEST

START_TEST(a_check_and_an_unused_sink_leave_nothing_behind)
{
	struct log_sink sink;
	struct err err;
	char other[80];

	snprintf(other, sizeof(other), "%s.other", path);
	line(LOG_TEXT, "one", 3);
	ck_assert_int_eq(log_check(other, &err), 0);
	ck_assert_int_eq(access(other, F_OK), -1);
	ck_assert_int_eq(log_sink_open(&sink, other, &err), 0);
	log_msg(LOG_INFO, "still here");
	ck_assert_int_eq(access(other, F_OK), 0);
	log_sink_clear(&sink);
	ck_assert_int_eq(access(other, F_OK), -1);
	ck_assert_ptr_nonnull(strstr(logged(), "info still here"));
	/* What was there before stays. */
	ck_assert_int_eq(log_sink_open(&sink, path, &err), 0);
	log_sink_clear(&sink);
	ck_assert_int_eq(access(path, F_OK), 0);
}
END_TEST

/* A worker that has read the number and is about to write must not find
 * another file there. */
START_TEST(another_log_takes_the_number_of_the_former)
{
	int before = dup(STDERR_FILENO), after;
	struct err err;

	close(before);
	line(LOG_TEXT, "one", 3);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(log_open(i == 1 ? "stderr" : path, LOG_TEXT,
				     LOG_INFO, &err),
		    0);
		after = dup(STDERR_FILENO);
		ck_assert_int_eq(after, before + 1);
		close(after);
	}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("log");
	TCase *tc = tcase_create("log");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, fields_read_as_key_value);
	tcase_add_test(tc, a_field_cannot_end_itself_or_the_line);
	tcase_add_test(tc, long_fields_are_cut);
	tcase_add_test(tc, a_level_that_is_not_wanted_costs_nothing);
	tcase_add_test(tc, json_always_parses);
	tcase_add_test(tc, escape_shows_utf8_and_hides_controls);
	tcase_add_test(tc, reopen_follows_a_moved_file);
	tcase_add_test(tc, a_path_that_cannot_be_opened_changes_nothing);
	tcase_add_test(tc, a_check_and_an_unused_sink_leave_nothing_behind);
	tcase_add_test(tc, another_log_takes_the_number_of_the_former);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
