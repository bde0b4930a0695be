/* test_log.c: what a line looks like, and what a stranger cannot do to it. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "platform/log.h"
#include "platform/log_sink.h"
#include "run.h"

#define DOTS "................................................"

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

/* Why something failed is longer than what a stranger may fill a line with. */
START_TEST(reasons_are_cut_later)
{
	struct log_line l;
	char value[400];

	memset(value, 'x', sizeof(value));
	log_begin(&l, LOG_WARNING, "m");
	log_str(&l, "reason", value, 250);
	log_str(&l, "user", value, 250);
	log_end(&l);
	ck_assert_ptr_null(strstr(l.buf, "... user="));
	ck_assert_ptr_nonnull(strstr(l.buf, "..."));
	log_begin(&l, LOG_WARNING, "m");
	log_str(&l, "reason", value, sizeof(value));
	ck_assert_ptr_nonnull(strstr(l.buf, "x..."));
	ck_assert_uint_lt(l.len, 300);
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
	log_sink_reopen();
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
	struct log_sink *sink;
	struct err err;
	char other[80];

	snprintf(other, sizeof(other), "%s.other", path);
	line(LOG_TEXT, "one", 3);
	ck_assert_int_eq(log_sink_check(other, &err), 0);
	ck_assert_int_eq(access(other, F_OK), -1);
	sink = log_sink_open(other, &err);
	ck_assert_ptr_nonnull(sink);
	log_msg(LOG_INFO, "still here");
	ck_assert_int_eq(access(other, F_OK), 0);
	log_sink_free(&sink);
	ck_assert_int_eq(access(other, F_OK), -1);
	ck_assert_ptr_nonnull(strstr(logged(), "info still here"));
	/* A file that was there before stays. */
	ck_assert_int_eq(log_open("stderr", LOG_TEXT, LOG_INFO, &err), 0);
	sink = log_sink_open(path, &err);
	ck_assert_ptr_nonnull(sink);
	log_sink_free(&sink);
	ck_assert_int_eq(access(path, F_OK), 0);
}
END_TEST

/* /dev/stdout of a daemon that has changed its user cannot be opened twice. */
START_TEST(a_target_in_use_is_not_opened_again)
{
	struct rlimit before, none;
	struct log_sink *sink;
	struct err err;

	line(LOG_TEXT, "one", 3);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	sink = log_sink_open(path, &err);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	ck_assert_ptr_nonnull(sink);
	log_use(&sink, LOG_TEXT, LOG_INFO);
	log_msg(LOG_INFO, "two");
	log_sink_reopen();
	log_msg(LOG_INFO, "three");
	ck_assert_ptr_nonnull(strstr(logged(), "one"));
	ck_assert_ptr_nonnull(strstr(logged(), "two"));
	ck_assert_ptr_nonnull(strstr(logged(), "three"));
}
END_TEST

static void
start(const char *target)
{
	struct err err;

	ck_assert_int_eq(log_open(target, LOG_TEXT, LOG_INFO, &err), 0);
	ck_assert_int_eq(log_sink_start(&err), 0);
}

/* Logs count lines with a number each. */
static void
flood(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct log_line l;

		log_begin(&l, LOG_INFO, "flood");
		log_uint(&l, "n", i);
		log_cstr(&l, "a", DOTS);
		log_end(&l);
	}
}

/* Reads fd until the line that contains last is there. */
static char *
read_until(int fd, const char *last)
{
	static char text[16 << 20];
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	size_t len = 0;

	text[0] = '\0';
	while (len < sizeof(text) - 1 && poll(&pfd, 1, 20000) > 0) {
		ssize_t n = read(fd, text + len, sizeof(text) - 1 - len);
		size_t from = len > 200 ? len - 200 : 0;

		if (n == 0 || (n == -1 && errno != EAGAIN))
			break;
		if (n > 0)
			len += (size_t)n;
		text[len] = '\0';
		if (strstr(text + from, last) != NULL)
			return text;
	}
	ck_abort_msg("no %s in %zu octets", last, len);
}

/* Lines are whole and in order, and those that are missing are counted.
 * Returns how many there are. */
static unsigned
in_order(const char *text)
{
	unsigned next = 0;

	/* Neither sscanf() nor strstr() on the rest: they measure it first. */
	for (const char *p = text, *end; *p != '\0'; p = end + 1) {
		const char *word;

		end = strchrnul(p, '\n');
		ck_assert_int_eq(*end, '\n');
		word = memmem(p, (size_t)(end - p), "flood n=", 8);
		if (word == NULL)
			continue;
		ck_assert_uint_eq(strtoul(word + 8, NULL, 10), next++);
		ck_assert_int_eq(strncmp(end - strlen(DOTS), DOTS,
				     strlen(DOTS)),
		    0);
	}
	return next;
}

START_TEST(a_pipe_that_nobody_reads_holds_nobody_up)
{
	const unsigned count = 100000;
	int fd[2];
	uint64_t lost;
	unsigned there;
	char told[80], *text;

	ck_assert_int_eq(pipe(fd), 0);
	ck_assert_int_eq(dup2(fd[1], STDERR_FILENO), STDERR_FILENO);
	start("stderr");
	flood(count);
	lost = log_sink_lost();
	ck_assert_uint_gt(lost, 0);
	ck_assert_uint_lt(lost, count);
	snprintf(told, sizeof(told), "warn %llu log lines were lost\n",
	    (unsigned long long)lost);
	text = read_until(fd[0], told);
	there = in_order(text);
	ck_assert_uint_eq(there + lost, count);
	/* Nobody else's pipe is changed. */
	ck_assert_int_eq(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
	log_msg(LOG_INFO, "goes on");
	read_until(fd[0], "goes on\n");
	ck_assert_uint_eq(log_sink_lost(), lost);
}
END_TEST

START_TEST(another_target_takes_over_from_one_that_hangs)
{
	struct err err;
	int fd[2];

	ck_assert_int_eq(pipe(fd), 0);
	ck_assert_int_eq(dup2(fd[1], STDERR_FILENO), STDERR_FILENO);
	start("stderr");
	flood(2000);
	ck_assert_int_eq(log_open(path, LOG_TEXT, LOG_INFO, &err), 0);
	log_msg(LOG_INFO, "elsewhere");
	log_sink_flush();
	ck_assert_ptr_nonnull(strstr(logged(), "info elsewhere\n"));
	/* And what the other one still had is not lost. */
	read_until(fd[0], "flood n=1999 ");
}
END_TEST

START_TEST(a_fifo_that_nobody_reads_yet_is_opened_at_once)
{
	struct err err;
	char fifo[80];
	int fd;

	snprintf(fifo, sizeof(fifo), "%s.fifo", path);
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	ck_assert_int_eq(log_sink_check(fifo, &err), 0);
	start(fifo);
	flood(10);
	fd = open(fifo, O_RDONLY | O_NONBLOCK);
	ck_assert_int_ne(fd, -1);
	ck_assert_uint_eq(in_order(read_until(fd, "n=9 ")), 10);
	unlink(fifo);
}
END_TEST

/* The disk is full at 1,000 octets: also in the middle of a line. */
START_TEST(a_full_disk_loses_whole_lines)
{
	struct rlimit before, full;
	unsigned there = 0;
	uint64_t lost;
	struct err err;
	char told[80], *p;

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(log_open(path, LOG_TEXT, LOG_INFO, &err), 0);
	if (_i == 1)
		ck_assert_int_eq(log_sink_start(&err), 0);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
	full = before;
	full.rlim_cur = 1000;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &full), 0);
	flood(40);
	log_sink_flush();
	ck_assert_uint_eq(strlen(logged()), 1000);
	ck_assert_int_ne(logged()[999], '\n');
	lost = log_sink_lost();
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
	log_msg(LOG_INFO, "goes on");
	log_sink_flush();
	for (p = logged(); (p = strstr(p, "=" DOTS "\n")) != NULL; p++)
		there++;
	snprintf(told, sizeof(told), "warn %llu log lines were lost\n",
	    (unsigned long long)lost);
	p = strstr(logged(), told);
	ck_assert_ptr_nonnull(p);
	/* The line that was cut has ended. */
	ck_assert_int_eq(logged()[1000], '\n');
	ck_assert_ptr_nonnull(strstr(p, "info goes on\n"));
	ck_assert_uint_eq(there + lost, 40);
}
END_TEST

START_TEST(a_thread_opens_a_moved_file_again)
{
	char moved[80];

	start(path);
	log_msg(LOG_INFO, "one");
	log_sink_flush();
	snprintf(moved, sizeof(moved), "%s.1", path);
	ck_assert_int_eq(rename(path, moved), 0);
	log_msg(LOG_INFO, "two");
	log_sink_reopen();
	for (int i = 0; access(path, F_OK) == -1 && i < 2000; i++)
		poll(NULL, 0, 10);
	log_msg(LOG_INFO, "three");
	log_sink_flush();
	ck_assert_ptr_nonnull(strstr(logged(), "info three\n"));
	ck_assert_ptr_null(strstr(logged(), "two"));
	unlink(moved);
}
END_TEST

/* A /dev/log of our own; only root can have one. */
static int
dev_log(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
	int fd;

	if (unshare(CLONE_NEWNS) == -1 ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1 ||
	    mount("none", "/dev", "tmpfs", 0, NULL) == -1)
		return -1;
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

START_TEST(a_syslog_that_is_not_read_holds_nobody_up)
{
	const unsigned count = 100000;
	char told[80], text[LOG_LINE_MAX];
	unsigned there = 0;
	uint64_t lost;
	int fd = dev_log();

	if (fd == -1)
		return;
	start("syslog");
	flood(count);
	lost = log_sink_lost();
	ck_assert_uint_gt(lost, 0);
	snprintf(told, sizeof(told), "%llu log lines were lost",
	    (unsigned long long)lost);
	do {
		ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

		ck_assert_int_gt(n, 0);
		text[n] = '\0';
		ck_assert_ptr_nonnull(strstr(text, "mailferry["));
		there += strstr(text, "flood n=") != NULL;
	} while (strstr(text, told) == NULL);
	ck_assert_int_eq(strncmp(text, "<20>", 4), 0); /* mail.warning */
	ck_assert_uint_eq(there + lost, count);
}
END_TEST

START_TEST(a_brake_lets_one_line_a_second_through)
{
	struct log_brake b = {0};
	unsigned held = 77;

	ck_assert(log_brake_pass(&b, 5000, &held));
	ck_assert_uint_eq(held, 0);
	for (unsigned i = 0; i < 999; i++)
		ck_assert(!log_brake_pass(&b, 5001 + i, &held));
	ck_assert(log_brake_pass(&b, 6000, &held));
	ck_assert_uint_eq(held, 999);
	ck_assert(!log_brake_pass(&b, 6000, &held));
	ck_assert(log_brake_pass(&b, 9000, &held));
	ck_assert_uint_eq(held, 1);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("log");
	TCase *tc = tcase_create("log");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, fields_read_as_key_value);
	tcase_add_test(tc, a_field_cannot_end_itself_or_the_line);
	tcase_add_test(tc, long_fields_are_cut);
	tcase_add_test(tc, reasons_are_cut_later);
	tcase_add_test(tc, a_level_that_is_not_wanted_costs_nothing);
	tcase_add_test(tc, json_always_parses);
	tcase_add_test(tc, escape_shows_utf8_and_hides_controls);
	tcase_add_test(tc, reopen_follows_a_moved_file);
	tcase_add_test(tc, a_path_that_cannot_be_opened_changes_nothing);
	tcase_add_test(tc, a_check_and_an_unused_sink_leave_nothing_behind);
	tcase_add_test(tc, a_brake_lets_one_line_a_second_through);
	tcase_add_test(tc, a_target_in_use_is_not_opened_again);
	tcase_add_test(tc, a_pipe_that_nobody_reads_holds_nobody_up);
	tcase_add_test(tc, another_target_takes_over_from_one_that_hangs);
	tcase_add_test(tc, a_fifo_that_nobody_reads_yet_is_opened_at_once);
	tcase_add_loop_test(tc, a_full_disk_loses_whole_lines, 0, 2);
	tcase_add_test(tc, a_thread_opens_a_moved_file_again);
	tcase_add_test(tc, a_syslog_that_is_not_read_holds_nobody_up);
	suite_add_tcase(suite, tc);
	return run(suite);
}
