/* test_store_check.c: what each kind of store says of its part of the
 * configuration, and where it says that routes are. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "platform/hash.h"
#include "store/file.h"
#include "store/store.h"

#define BASE                                                          \
	"listener: {a: {bind: [\"127.0.0.1:1995\"]}}\n"               \
	"routing: {default_destination: d}\n"                         \
	"destination: {d: {host: mail.test, protocol: {pop3: {}}}}\n" \
	"mapping: "
#define UNVERIFIED                                                      \
	"the server is not verified: anybody on the way may say where " \
	"mailboxes are; expected "
#define BUILT "file, Redis, PostgreSQL, MySQL, SQLite, HTTP"

struct check_case {
	const char *mapping;
	/* All of it, a line each. */
	const char *told;
	/* Where the routes are; NULL: not asked. */
	const char *place;
};

static const struct check_case cases[] = {
    {"{source: file, file: {path: /dev/null}}", "", "/dev/null, 0 entries"},
    {"{source: redis, redis: {url: \"redis://:x@127.0.0.1/1\"}}", "",
	"redis://:********@127.0.0.1/1"},
    {"{source: redis, redis: {url: \"redis://localhost/db\"}}",
	"t:4:39: mapping.redis.url: the database is not a number\n", NULL},
    {"{source: redis, redis: {url: \"redis://db.test/\"}}",
	"warning: t:4:39: mapping.redis.url: " UNVERIFIED "rediss://\n", NULL},
    {"{source: redis, redis: {url: \"rediss://db.test/\"}}", "", NULL},
    {"{source: redis, redis: {url: \"unix:///run/redis\"}}", "", NULL},
    {"{source: http, http: {url: \"http://localhost/\"}}",
	"t:4:37: mapping.http.url: there is no placeholder for the identifier; "
	"expected a URL with %u\n",
	NULL},
    {"{source: http, http: {url: \"http://localhost/%u\"}}", "",
	"http://localhost/%u"},
    {"{source: http, http: {url: \"http://[::1]:80/%u\"}}", "", NULL},
    {"{source: http, http: {url: \"http://web.test/%u\"}}",
	"warning: t:4:37: mapping.http.url: " UNVERIFIED "https://\n", NULL},
    {"{source: http, http: {url: \"https://web.test/%u\"}}", "", NULL},
    {"{source: sql, sql: {url: \"sqlite:///none.db\", query: \"SELECT 1\"}}",
	"t:4:63: mapping.sql.query: there is no placeholder for the "
	"identifier; "
	"expected a query with ?\n",
	NULL},
    {"{source: sql, sql: {url: \"sqlite:///none.db\", query: \"SELECT ?\","
     " upsert_query: x}}",
	"t:4:89: mapping.sql.upsert_query: without delete_query; "
	"expected both or neither\n",
	NULL},
    {"{source: sql, sql: {url: \"sqlite:///none.db\", query: \"SELECT ?\","
     " delete_query: x}}",
	"t:4:89: mapping.sql.delete_query: without upsert_query; "
	"expected both or neither\n",
	NULL},
    {"{source: sql, sql: {url: \"sqlite:///none.db\", query: \"SELECT ?\"}}",
	"warning: t:4:35: mapping.sql.url: /none.db: unable to open database "
	"file\n",
	"sqlite:///none.db"},
    {"{source: sql, sql: {url: \"postgres://a@db.test/b\", query: \"?\"}}",
	"t:4:68: mapping.sql.query: there is no placeholder for the "
	"identifier; "
	"expected a query with $1\nwarning: t:4:35: mapping.sql.url: " UNVERIFIED
	"sslmode=verify-full\n",
	NULL},
    {"{source: sql, sql: {url: \"mysql://a@db.test/b\", query: \"?\"}}", "",
	"mysql://********@db.test/b"},
    {"{source: sql, sql: {url: \"mysql://a@db.test/b?ssl-mode=required\","
     " query: \"?\"}}",
	"warning: t:4:35: mapping.sql.url: " UNVERIFIED "ssl-mode=verify\n",
	NULL},
    {"{source: sql, sql: {url: \"mysql://a@localhost/b\", query: \"?\","
     " channel: c}}",
	"t:4:35: mapping.sql.url: MySQL has no channel; expected "
	"postgres://\n",
	NULL},
};

static struct config_problems problems;

static struct config *
parse(const char *mapping)
{
	char text[2048];
	struct config *cfg;

	hash_init();
	snprintf(text, sizeof(text), BASE "%s\n", mapping);
	cfg = config_parse("t", text, strlen(text), &problems);
	ck_assert_msg(cfg != NULL, "%s: %s", mapping,
	    problems.n_error > 0 ? problems.error[0] : "");
	config_problems_clear(&problems);
	return cfg;
}

static const char *
told(void)
{
	static char text[4096];
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < problems.n_error; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s\n",
		    problems.error[i]);
	for (size_t i = 0; i < problems.n_warning; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "warning: %s\n", problems.warning[i]);
	return text;
}

START_TEST(a_store_checks_its_part)
{
	const struct check_case *c = &cases[_i];
	struct config *cfg = parse(c->mapping);
	char place[STORE_DESCRIPTION_MAX];
	struct store_table *table;

	store_check(cfg, &problems);
	ck_assert_msg(strcmp(told(), c->told) == 0, "%s:\n%sinstead of:\n%s",
	    c->mapping, told(), c->told);
	if (c->place != NULL) {
		table = store_table_load(cfg, &problems);
		store_describe(cfg, table, place, sizeof(place));
		ck_assert_str_eq(place, c->place);
		store_table_free(&table);
	}
	config_problems_clear(&problems);
	config_free(&cfg);
}
END_TEST

START_TEST(every_kind_is_found_by_its_row)
{
	static const struct store_kind *const kinds[] = {&store_file,
	    &store_redis, &store_postgres, &store_mysql, &store_sqlite,
	    &store_http};

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		struct config_mapping m = {.source = kinds[i]->source};
		char url[64];

		snprintf(url, sizeof(url), "%shost",
		    kinds[i]->schemes[0] != NULL ? kinds[i]->schemes[0] : "");
		*(char **)(void *)((char *)&m + kinds[i]->value) = url;
		ck_assert_ptr_eq(store_kind_find(&m), kinds[i]);
	}
}
END_TEST

START_TEST(what_is_not_built_in_says_what_is)
{
	struct config *cfg = parse(
	    "{source: sql, sql: {url: \"mysql://a@b.test/c\", query: \"?\"}}");

	memcpy(cfg->mapping.sql_url, "oracl", 5);
	store_check(cfg, &problems);
	ck_assert_str_eq(told(),
	    "t:4:35: mapping.sql.url: this source is not built in; expected "
	    "one of " BUILT "\n");
	config_problems_clear(&problems);
	config_free(&cfg);
}
END_TEST

START_TEST(the_file_of_another_source_is_not_loaded)
{
	struct config *cfg = parse("{source: redis, redis: {url: "
				   "\"redis://localhost\"}, file: {path: "
				   "/nowhere/at/all}}");
	struct store_table *table = store_table_load(cfg, &problems);

	ck_assert_ptr_nonnull(table);
	ck_assert_str_eq(told(), "");
	ck_assert_uint_eq(store_table_count(table), 0);
	store_table_free(&table);
	config_free(&cfg);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("store_check");
	TCase *tc = tcase_create("store_check");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tc, a_store_checks_its_part, 0, ARRAY_LEN(cases));
	tcase_add_test(tc, every_kind_is_found_by_its_row);
	tcase_add_test(tc, what_is_not_built_in_says_what_is);
	tcase_add_test(tc, the_file_of_another_source_is_not_loaded);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
