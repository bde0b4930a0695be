/* test_store_blocking.c: connections that have threads, with a kind that reads
 * its answers from a pipe and may hang there. */

#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#include "../../src/store/blocking.h"
#include "platform/clock.h"
#include "run.h"

#define CONNS 1
#define PATIENCE 20000 /* ms, on a busy machine */

struct fake {
	struct blocking b; /* first */
	int fd;
};

struct fake_settings {
	struct blocking_settings shared; /* first */
	int hangs[2]; /* what connects as a name that hangs reads from here */
	bool hang, refuse;
};

struct asker {
	int calls;
	enum store_result result;
	char text[64];
};

static struct event_base *base;
static struct store_pool *pool;
static struct fake_settings *settings;
static atomic_int servers[16], n_servers, n_freed, n_disconnected;

static void
fake_connect(struct blocking *b, struct blocking_answer *out)
{
	struct fake_settings *s = (struct fake_settings *)(void *)b->settings;
	struct fake *f = (struct fake *)(void *)b;
	int pair[2];
	char c;

	f->fd = -1;
	if (s->hang && read(s->hangs[0], &c, 1) <= 0) {
		blocking_lost(out, "nobody there");
		return;
	}
	if (s->refuse) {
		blocking_lost(out, "refused");
		return;
	}
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	f->fd = pair[0];
	servers[n_servers] = pair[1];
	n_servers++;
	blocking_uses_socket(b, f->fd);
	blocking_answer(out, STORE_FOUND, "");
}

/* Says the key, and answers with what comes. */
static void
fake_ask(struct blocking *b, const struct blocking_request *rq,
    struct blocking_answer *out)
{
	struct fake *f = (struct fake *)(void *)b;
	char text[64];
	ssize_t n = send(f->fd, rq->key, strlen(rq->key), MSG_NOSIGNAL);

	if (n > 0)
		n = read(f->fd, text, sizeof(text) - 1);
	if (n <= 0) {
		blocking_lost(out, "connection closed");
		return;
	}
	text[n] = '\0';
	blocking_answer(out, STORE_FOUND, text);
}

static void
fake_disconnect(struct blocking *b)
{
	struct fake *f = (struct fake *)(void *)b;

	if (f->fd != -1)
		close(f->fd);
	n_disconnected++;
}

static const struct blocking_kind fake_kind = {
    .size = sizeof(struct fake),
    .connect = fake_connect,
    .ask = fake_ask,
    .disconnect = fake_disconnect,
};

static bool
conn_open(struct store_conn *c, struct err *err)
{
	return blocking_open(c, &fake_kind, &settings->shared, err);
}

static const struct store_conn_kind conn_kind = {
    .name = "fake",
    .size = sizeof(struct blocking_conn),
    .open = conn_open,
    .ask = blocking_ask,
    .close = blocking_close,
};

static void
settings_free(struct blocking_settings *shared)
{
	struct fake_settings *s = (struct fake_settings *)(void *)shared;

	close(s->hangs[0]);
	free(s);
	n_freed++;
}

static void
setup(void)
{
	n_servers = n_freed = n_disconnected = 0;
	base = event_base_new();
	settings = calloc(1, sizeof(*settings));
	ck_assert_int_eq(pipe(settings->hangs), 0);
	blocking_settings_init(&settings->shared, CONNS, settings_free);
	pool = store_pool_new(&conn_kind, NULL, base, CONNS, PATIENCE);
}

static void
teardown(void)
{
	store_pool_free(&pool);
	event_base_free(base);
}

static void
done(void *arg, enum store_result result, const char *text)
{
	struct asker *a = arg;

	a->calls++;
	a->result = result;
	snprintf(a->text, sizeof(a->text), "%s", text != NULL ? text : "");
}

static struct store_call *
ask(struct asker *a, const char *key)
{
	const struct store_request rq = {
	    .verb = STORE_GET, .key = key, .done = done, .arg = a};

	memset(a, 0, sizeof(*a));
	return store_pool_call(pool, &rq);
}

static void
wait_for(const atomic_int *counter, int value)
{
	uint64_t end = clock_ms() + PATIENCE;

	while (*counter != value) {
		ck_assert(clock_ms() < end);
		event_base_loop(base, EVLOOP_NONBLOCK);
		sched_yield();
	}
}

static void
wait_for_answer(const struct asker *a)
{
	while (a->calls == 0)
		ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
}

/* Waits until connection i is asked for key. */
static void
wait_for_request(int i, const char *key)
{
	uint64_t end = clock_ms() + PATIENCE;
	char text[64] = "";

	while (recv(servers[i], text, sizeof(text) - 1, MSG_DONTWAIT) == -1) {
		ck_assert(clock_ms() < end);
		event_base_loop(base, EVLOOP_NONBLOCK);
		sched_yield();
	}
	ck_assert_str_eq(text, key);
}

static void
serve(int i, const char *key, const char *answer)
{
	wait_for_request(i, key);
	ck_assert_int_gt(write(servers[i], answer, strlen(answer)), 0);
}

START_TEST(a_connection_answers_one_after_another)
{
	struct asker a, b;

	ask(&a, "a");
	ask(&b, "b");
	wait_for(&n_servers, 1);
	serve(0, "a", "for a");
	wait_for_answer(&a);
	ck_assert_int_eq(a.result, STORE_FOUND);
	ck_assert_str_eq(a.text, "for a");
	serve(0, "b", "for b");
	wait_for_answer(&b);
	ck_assert_str_eq(b.text, "for b");
}
END_TEST

START_TEST(a_connect_that_fails_says_why)
{
	struct asker a;

	settings->refuse = true;
	ask(&a, "a");
	wait_for_answer(&a);
	ck_assert_int_eq(a.result, STORE_FAILED);
	ck_assert_str_eq(a.text, "refused");
	wait_for(&n_disconnected, 1);
}
END_TEST

START_TEST(a_server_that_goes_is_asked_once_more)
{
	struct asker a;

	ask(&a, "a");
	wait_for(&n_servers, 1);
	close(servers[0]);
	wait_for(&n_servers, 2);
	serve(1, "a", "for a");
	wait_for_answer(&a);
	ck_assert_str_eq(a.text, "for a");
}
END_TEST

START_TEST(a_cancelled_request_frees_its_thread)
{
	struct asker a;
	struct store_call *call = ask(&a, "a");

	wait_for(&n_servers, 1);
	wait_for_request(0, "a");
	store_pool_cancel(call);
	wait_for(&n_disconnected, 1);
	ck_assert_int_eq(a.calls, 0);
}
END_TEST

START_TEST(threads_outlive_the_store_and_free_the_settings)
{
	int hangs = settings->hangs[1];
	struct asker a;

	settings->hang = true;
	ask(&a, "a");
	blocking_settings_unref(&settings->shared);
	store_pool_free(&pool);
	ck_assert_int_eq(n_freed, 0);
	close(hangs);
	wait_for(&n_freed, 1);
	ck_assert_int_eq(n_disconnected, 1);
}
END_TEST

START_TEST(threads_that_hang_are_bounded)
{
	struct asker a;

	settings->hang = true;
	for (unsigned i = 0; i < settings->shared.max_threads; i++) {
		ask(&a, "a");
		ck_assert_int_eq(a.calls, 0);
		store_pool_free(&pool);
		pool = store_pool_new(&conn_kind, NULL, base, CONNS, PATIENCE);
	}
	ask(&a, "a");
	ck_assert_int_eq(a.calls, 1);
	ck_assert_str_eq(a.text, "earlier connections still hang");
	close(settings->hangs[1]);
	wait_for(&n_disconnected, (int)settings->shared.max_threads);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("store_blocking");
	TCase *tc = tcase_create("store_blocking");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, a_connection_answers_one_after_another);
	tcase_add_test(tc, a_connect_that_fails_says_why);
	tcase_add_test(tc, a_server_that_goes_is_asked_once_more);
	tcase_add_test(tc, a_cancelled_request_frees_its_thread);
	tcase_add_test(tc, threads_outlive_the_store_and_free_the_settings);
	tcase_add_test(tc, threads_that_hang_are_bounded);
	suite_add_tcase(suite, tc);
	return run(suite);
}
