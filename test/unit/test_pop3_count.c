/* test_pop3_count.c: what a client's octets count as, however they are cut. */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "platform/util.h"
#include "proto/pop3_count.h"

static const struct {
	const char *text;
	uint32_t n[POP3_COUNTED];
	uint32_t deletes_pending;
} cases[] = {
    {"", {0}, 0},
    {"RETR 1\r\n", {[COUNTED_RETR] = 1}, 0},
    /* Not before its end has come. */
    {"RETR 1\r", {0}, 0},
    {"RETR 1\r\nQUIT", {[COUNTED_RETR] = 1}, 0},
    {"retr 1\r\nReTr 2\nRETR\t3\r\nRETR\n", {[COUNTED_RETR] = 4}, 0},
    {"TOP 1 0\r\nTOP\r\n", {[COUNTED_TOP] = 2}, 0},
    {"DELE 1\r\nDELE 2\r\nQUIT\r\n", {[COUNTED_DELE] = 2, [COUNTED_QUIT] = 1},
	2},
    {"DELE 1\r\nDELE 2\r\nRSET\r\nDELE 3\r\n",
	{[COUNTED_DELE] = 3, [COUNTED_RSET] = 1}, 1},
    {"LIST\r\nUIDL\r\nSTAT\r\nNOOP\r\nCAPA\r\n",
	{[COUNTED_LIST] = 1,
	    [COUNTED_UIDL] = 1,
	    [COUNTED_STAT] = 1,
	    [COUNTED_NOOP] = 1,
	    [COUNTED_OTHER] = 1},
	0},
    /* Neither is a verb of ours. */
    {"DELETE 1\r\nDEL 1\r\n DELE 1\r\nTOPS\r\nTO\r\n", {[COUNTED_OTHER] = 5},
	0},
    {"\r\n\n   \r\n", {[COUNTED_OTHER] = 3}, 0},
    /* A verb further on in its line is an argument. */
    {"XTND DELE 1\r\nNOOP DELE 1\r\n",
	{[COUNTED_NOOP] = 1, [COUNTED_OTHER] = 1}, 0},
};

START_TEST(a_nul_is_no_padding)
{
	struct pop3_count c = {0};

	pop3_count(&c, "TOP\0 1\r\nTOP\0\r\n", 14);
	ck_assert_uint_eq(c.n[COUNTED_TOP], 0);
	ck_assert_uint_eq(c.n[COUNTED_OTHER], 2);
}
END_TEST

static void
ck_count(const struct pop3_count *c, size_t i)
{
	for (size_t what = 0; what < POP3_COUNTED; what++)
		ck_assert_msg(c->n[what] == cases[i].n[what],
		    "case %zu: %u of %s", i, c->n[what],
		    pop3_counted_name((enum pop3_counted)what));
	ck_assert_uint_eq(c->deletes_pending, cases[i].deletes_pending);
}

START_TEST(each_command_counts_once_however_it_is_cut)
{
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *text = cases[i].text;
		size_t len = strlen(text);

		for (size_t cut = 0; cut <= len; cut++) {
			struct pop3_count c = {0};

			pop3_count(&c, text, cut);
			pop3_count(&c, text + cut, len - cut);
			ck_count(&c, i);
		}
		for (size_t step = 1; step <= 3; step++) {
			struct pop3_count c = {0};

			for (size_t at = 0; at < len; at += step)
				pop3_count(&c, text + at,
				    at + step < len ? step : len - at);
			ck_count(&c, i);
		}
	}
}
END_TEST

START_TEST(a_line_without_an_end_costs_nothing)
{
	struct pop3_count c = {0};
	char junk[4096];

	memset(junk, 'D', sizeof(junk));
	junk[4000] = '\0';
	for (int i = 0; i < 100; i++)
		pop3_count(&c, junk, sizeof(junk));
	ck_assert_uint_eq(c.n[COUNTED_OTHER], 0);
	pop3_count(&c, "\r\nDELE 1\r\n", 10);
	ck_assert_uint_eq(c.n[COUNTED_OTHER], 1);
	ck_assert_uint_eq(c.n[COUNTED_DELE], 1);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("pop3_count");
	TCase *tc = tcase_create("pop3_count");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, each_command_counts_once_however_it_is_cut);
	tcase_add_test(tc, a_nul_is_no_padding);
	tcase_add_test(tc, a_line_without_an_end_costs_nothing);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
