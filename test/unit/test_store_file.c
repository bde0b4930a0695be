/* test_store_file.c: one change in the mapping file, and a file of a million
 * lines. */

#include <check.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "platform/hash.h"
#include "store/file.h"
#include "run.h"

static char dir[64], path[96];

static void
setup(void)
{
	hash_init();
	strcpy(dir, "/tmp/test_store_file.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/map", dir);
}

static void
teardown(void)
{
	char command[160];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void
put(const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

static const char *
got(void)
{
	static char text[4096];
	FILE *f = fopen(path, "r");
	size_t n;

	ck_assert_ptr_nonnull(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	return text;
}

static void
change(const char *key, const char *destination, enum normalize normalize)
{
	struct err err = {""};

	ck_assert_msg(store_file_write(path, key, destination, normalize,
			  &err) == 0,
	    "%s", err.text);
}

/* Nothing but the map is left behind. */
static int
files(void)
{
	char command[160];
	FILE *f;
	int n = -1;

	snprintf(command, sizeof(command), "ls -A %s | wc -l", dir);
	f = popen(command, "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fscanf(f, "%d", &n), 1);
	pclose(f);
	return n;
}

START_TEST(set_and_delete)
{
	static const struct {
		const char *before, *key, *destination;
		enum normalize normalize;
		const char *after;
	} rows[] = {
	    {"", "a", "new", NORMALIZE_NONE, "a\tnew\n"},
	    {"a old\n", "a", "new", NORMALIZE_NONE, "a\tnew\n"},
	    {"a old", "a", NULL, NORMALIZE_NONE, ""},
	    {"c x\na x\n", "b", "y", NORMALIZE_NONE, "a x\nb\ty\nc x\n"},
	    {"# on top\n\n# too\nb x\n\n# b's\na x\n", "a", "y", NORMALIZE_NONE,
		"# on top\n\n# too\n# b's\na\ty\nb x\n"},
	    {"ab x\na.b x\n", "a", "y", NORMALIZE_NONE, "a\ty\na.b x\nab x\n"},
	    {"  a   x # why\nb x\n", "a", NULL, NORMALIZE_NONE, "b x\n"},
	    {"a x\na x\n", "a", "y", NORMALIZE_NONE, "a\ty\n"},
	    {"Alice x\n", "alice", "y", NORMALIZE_NONE, "Alice x\nalice\ty\n"},
	    {"Alice x\n", "alice", "y", NORMALIZE_LOWERCASE, "alice\ty\n"},
	    {"@example.com x\n", "@example.com", NULL, NORMALIZE_NONE, ""},
	    {"b x\n", "a", NULL, NORMALIZE_NONE, "b x\n"},
	    {"#only\n", "a", "x", NORMALIZE_NONE, "#only\na\tx\n"},
	    {"a@X x\nA@x x\n", "a@x", "y", NORMALIZE_DOMAIN, "A@x x\na@x\ty\n"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		put(rows[i].before);
		change(rows[i].key, rows[i].destination, rows[i].normalize);
		ck_assert_str_eq(got(), rows[i].after);
		ck_assert_int_eq(files(), 1);
	}
}
END_TEST

START_TEST(mode_and_owner_stay)
{
	struct stat st;

	put("a x\n");
	ck_assert_int_eq(chmod(path, 0640), 0);
	if (geteuid() == 0)
		ck_assert_int_eq(chown(path, 1234, 4321), 0);
	change("b", "y", NORMALIZE_NONE);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0640);
	if (geteuid() == 0) {
		ck_assert_uint_eq(st.st_uid, 1234);
		ck_assert_uint_eq(st.st_gid, 4321);
	}
}
END_TEST

START_TEST(a_symbolic_link_is_followed)
{
	char link_path[96];
	struct err err;
	struct stat st;

	put("a x\n");
	snprintf(link_path, sizeof(link_path), "%s/link", dir);
	ck_assert_int_eq(symlink("map", link_path), 0);
	ck_assert_int_eq(store_file_write(link_path, "a", "y", NORMALIZE_NONE,
			     &err),
	    0);
	ck_assert_int_eq(lstat(link_path, &st), 0);
	ck_assert(S_ISLNK(st.st_mode));
	ck_assert_str_eq(got(), "a\ty\n");
}
END_TEST

START_TEST(what_cannot_be_written_stays)
{
	struct err err;

	ck_assert_int_eq(store_file_write(path, "a", "x", NORMALIZE_NONE, &err),
	    -1);
	ck_assert_ptr_nonnull(strstr(err.text, "No such file"));
	ck_assert_int_eq(store_file_write(dir, "a", "x", NORMALIZE_NONE, &err),
	    -1);
	ck_assert_ptr_nonnull(strstr(err.text, "not a file"));
}
END_TEST

/* Every writer's change is there in the end. */
START_TEST(writers_wait_for_each_other)
{
	enum { WRITERS = 8, CHANGES = 25 };
	char key[32];
	int status, lines = 0;

	put("");
	for (int w = 0; w < WRITERS; w++) {
		if (fork() != 0)
			continue;
		for (int i = 0; i < CHANGES; i++) {
			snprintf(key, sizeof(key), "w%d-%d", w, i);
			if (store_file_write(path, key, "x", NORMALIZE_NONE,
				NULL) == -1)
				_exit(1);
		}
		_exit(0);
	}
	for (int w = 0; w < WRITERS; w++) {
		ck_assert_int_gt(wait(&status), 0);
		ck_assert_int_eq(status, 0);
	}
	for (const char *p = got(); (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	ck_assert_int_eq(lines, WRITERS * CHANGES);
}
END_TEST

/* "1,000,000 lines ... at under 100 bytes a line beyond the text" */
START_TEST(a_million_lines_cost_less_than_a_hundred_octets_each)
{
	static const char text[] =
	    "listener: {a: {bind: [\"127.0.0.1:995\"]}}\n"
	    "routing: {default_destination: legacy}\n"
	    "mapping: {source: file, file: {path: %s}}\n"
	    "destination:\n  legacy: {host: a.example, forwarding: xclient, "
	    "protocol: {pop3: {port: 110, tls: starttls}}}\n";
	struct config_problems problems = {0};
	char yaml[1024], key[64];
	struct store_table *table;
	struct config *cfg;
	size_t before, after, octets = 0;
	FILE *f = fopen(path, "w");
	int n = snprintf(yaml, sizeof(yaml), text, path);

	for (int i = 0; i < 1000000; i++)
		octets += (size_t)fprintf(f,
		    "user%d@customer%d.example.com\tlegacy\n", i, i % 5000);
	fclose(f);
	cfg = config_parse("/tmp/test.yaml", yaml, (size_t)n, &problems);
	ck_assert_ptr_nonnull(cfg);
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	table = store_table_load(cfg, &problems);
	after = mallinfo2().uordblks + mallinfo2().hblkhd;
	ck_assert_ptr_nonnull(table);
	ck_assert_uint_eq(store_table_count(table), 1000000);
	/* A sanitizer's allocator tells nothing. */
	if (after > before) {
		printf("%.1f octets a line beyond the text\n",
		    (double)(after - before - octets) / 1e6);
		ck_assert_uint_lt(after - before - octets, 100 * 1000000);
	}
	for (int i = 0; i < 1000000; i += 9973) {
		snprintf(key, sizeof(key), "user%d@customer%d.example.com", i,
		    i % 5000);
		ck_assert_int_eq(store_table_find(table, key), 0);
		snprintf(key, sizeof(key), "user%d@customer%d.example.com", i,
		    (i + 1) % 5000);
		ck_assert_int_eq(store_table_find(table, key), -1);
	}
	store_table_free(&table);
	config_free(&cfg);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("store_file");
	TCase *tc = tcase_create("store_file");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, set_and_delete);
	tcase_add_test(tc, mode_and_owner_stay);
	tcase_add_test(tc, a_symbolic_link_is_followed);
	tcase_add_test(tc, what_cannot_be_written_stays);
	tcase_add_test(tc, writers_wait_for_each_other);
	tcase_add_test(tc,
	    a_million_lines_cost_less_than_a_hundred_octets_each);
	suite_add_tcase(suite, tc);
	return run(suite);
}
