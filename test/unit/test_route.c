/* test_route.c: the order in which a route is looked for, with the mapping file
 * behind it. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "platform/hash.h"
#include "service/cache.h"
#include "service/route.h"
#include "store/file.h"
#include "run.h"

static char map_path[64];
static struct config_problems problems;
static struct config *cfg;

/* A real configuration, so that positions and bisection are real too. */
static const char config_text[] =
    "listener: {a: {bind: [\"127.0.0.1:995\"]}}\n"
    "routing: {default_destination: legacy}\n"
    "mapping: {source: file, normalize: lowercase, file: {path: %s}}\n"
    "destination:\n"
    "  legacy: {host: a.example, forwarding: xclient, "
    "protocol: {pop3: {port: 110, tls: starttls}}}\n"
    "  new: {host: b.example, forwarding: xclient, "
    "protocol: {pop3: {port: 110, tls: starttls}}}\n"
    "  other: {host: c.example, forwarding: xclient, "
    "protocol: {pop3: {port: 110, tls: starttls}}}\n";

static void
setup(void)
{
	char text[2048];
	int fd, n;

	hash_init();
	strcpy(map_path, "/tmp/test_route.XXXXXX");
	fd = mkstemp(map_path);
	ck_assert_int_ne(fd, -1);
	close(fd);
	n = snprintf(text, sizeof(text), config_text, map_path);
	cfg = config_parse("/tmp/test.yaml", text, (size_t)n, &problems);
	ck_assert_ptr_nonnull(cfg);
	for (size_t i = 0; i < problems.n_error; i++)
		fprintf(stderr, "%s\n", problems.error[i]);
	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_uint_eq(cfg->n_destination, 3);
}

static void
teardown(void)
{
	config_problems_clear(&problems);
	config_free(&cfg);
	unlink(map_path);
}

static struct store_table *
load(const char *text)
{
	FILE *f = fopen(map_path, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	return store_table_load(cfg, &problems);
}

static void
route_done_cb(void *arg, const struct route_answer *answer)
{
	struct route_answer *out = arg;

	*out = *answer;
}

START_TEST(identifier_then_domain_then_default)
{
	static const struct {
		const char *key, *destination;
		enum route_reason reason;
	} rows[] = {
	    {"alice@example.com", "new", ROUTE_BY_IDENTIFIER},
	    {"bob@example.com", "other", ROUTE_BY_DOMAIN},
	    {"carol@example.org", "legacy", ROUTE_BY_DEFAULT},
	    {"bare", "new", ROUTE_BY_IDENTIFIER},
	    {"nobody", "legacy", ROUTE_BY_DEFAULT},
	    {"@example.com", "other", ROUTE_BY_IDENTIFIER},
	    {"@example.org", "legacy", ROUTE_BY_DEFAULT},
	    {"@", "legacy", ROUTE_BY_DEFAULT},
	    {"", "legacy", ROUTE_BY_DEFAULT},
	};
	struct store_table *table = load("# a comment\n\n"
					 "alice@example.com\tnew\n"
					 "@example.com   other  # all\n"
					 "bare new\r\n");
	const struct cache_limits limits = {100, 1000, 1000, 0};
	struct router_spec spec = {.cfg = cfg, .table = table};
	struct router *router;
	struct err err;

	ck_assert_ptr_nonnull(table);
	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_uint_eq(store_table_count(table), 3);
	spec.cache = cache_new(&limits);
	router = router_new(&spec, &err);
	ck_assert_ptr_nonnull(router);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct route_answer answer = {.reason = ROUTE_REASONS};

		ck_assert_ptr_null(route_lookup(router, rows[i].key,
		    route_done_cb, &answer));
		ck_assert_int_eq(answer.status,
		    rows[i].reason == ROUTE_BY_DEFAULT ? ROUTE_DEFAULT
						       : ROUTE_FOUND);
		ck_assert_str_eq(cfg->destination[answer.destination].name,
		    rows[i].destination);
		ck_assert_int_eq(answer.reason, rows[i].reason);
	}
	router_free(&router);
	cache_unref(&spec.cache);
	store_table_free(&table);
}
END_TEST

START_TEST(bad_lines_are_all_reported_with_their_number)
{
	static const char *const wanted[] = {
	    ":2: not two words",
	    ":3: no such destination is declared: nowhere",
	    (":5: duplicate identifier; "
	     "given before with another destination: a@b"),
	    ":6: not two words",
	};
	struct store_table *table = load("a@b new\n"
					 "lonely\n"
					 "x@y nowhere\n"
					 "a@b new\n"
					 "a@b legacy\n"
					 "one two three\n");

	ck_assert_ptr_nonnull(table);
	ck_assert_uint_eq(problems.n_error, ARRAY_LEN(wanted));
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
		ck_assert_msg(strstr(problems.error[i], wanted[i]) != NULL,
		    "%s", problems.error[i]);
		ck_assert_msg(strstr(problems.error[i],
				  ": mapping.file.path: ") != NULL,
		    "%s", problems.error[i]);
	}
	store_table_free(&table);
}
END_TEST

START_TEST(keys_that_no_login_can_match_are_problems)
{
	static const char *const wanted[] = {
	    (":1: no login can match \xef\xbb\xbf"
	     "a@b: it begins with a byte-"),
	    ":2: no login can match Alice@example.com: it has capital letters",
	    ":3: no login can match \"a@b\": it holds a double quote",
	    ":5: no login can match a@b\xc2\xa0: it holds a character that",
	    ":6: no login can match \\xff@b: it is not UTF-8",
	};
	struct store_table *table = load("\xef\xbb\xbf"
					 "a@b new\n"
					 "Alice@example.com new\n"
					 "\"a@b\" new\n"
					 "o'hara@b\xc3\xbc"
					 "cher.example. new\n"
					 "a@b\xc2\xa0 new\n"
					 "\xff@b new\n");

	ck_assert_ptr_nonnull(table);
	ck_assert_uint_eq(problems.n_error, ARRAY_LEN(wanted));
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
		ck_assert_msg(strstr(problems.error[i], wanted[i]) != NULL,
		    "%s", problems.error[i]);
	ck_assert_int_ne(store_table_find(table,
			     "o'hara@xn--bcher-kva.example"),
	    -1);
	store_table_free(&table);
}
END_TEST

START_TEST(a_missing_file_is_a_problem)
{
	unlink(map_path);
	ck_assert_ptr_null(store_table_load(cfg, &problems));
	ck_assert_uint_eq(problems.n_error, 1);
	ck_assert_ptr_nonnull(strstr(problems.error[0],
	    "No such file or directory"));
}
END_TEST

START_TEST(a_hundred_problems_and_a_count)
{
	FILE *f = fopen(map_path, "w");
	struct store_table *table;

	for (int i = 0; i < 250; i++)
		fprintf(f, "user%d nowhere\n", i);
	fclose(f);
	table = store_table_load(cfg, &problems);
	ck_assert_uint_eq(problems.n_error, 101);
	ck_assert_ptr_nonnull(strstr(problems.error[100],
	    "150 more bad lines"));
	store_table_free(&table);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("route");
	TCase *tc = tcase_create("route");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, identifier_then_domain_then_default);
	tcase_add_test(tc, bad_lines_are_all_reported_with_their_number);
	tcase_add_test(tc, keys_that_no_login_can_match_are_problems);
	tcase_add_test(tc, a_missing_file_is_a_problem);
	tcase_add_test(tc, a_hundred_problems_and_a_count);
	suite_add_tcase(suite, tc);
	return run(suite);
}
