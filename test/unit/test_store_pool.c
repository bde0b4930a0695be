/* test_store_pool.c: connections that carry one request at a time, with a kind
 * that does what the test says, and a clock of its own. */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "../../src/store/pool.h"
#include "platform/clock.h"
#include "run.h"

static uint64_t now;

uint64_t
clock_ms(void)
{
	return now;
}

struct timeval
clock_timeval(uint64_t ms)
{
	struct timeval tv = {
	    (time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

	return tv;
}

#define CONNS 8

struct fake_conn {
	struct store_conn conn;
	char key[64]; /* being asked */
	char reason[64]; /* of its end, and gone with it */
};

/* The open ones, in the order in which they were opened. */
static struct fake_conn *conns[CONNS];
static size_t n_conns, n_opened, n_asked;
static bool open_fails, answers_at_once;

struct asker {
	int calls;
	enum store_result result;
	char text[64];
};

static struct event_base *base;
static struct store_pool *pool;

static bool
fake_open(struct store_conn *c, struct err *err)
{
	n_opened++;
	if (open_fails) {
		err_set(err, "cannot open");
		return false;
	}
	ck_assert_uint_lt(n_conns, CONNS);
	conns[n_conns++] = (struct fake_conn *)(void *)c;
	return true;
}

static void
fake_ask(struct store_conn *c, const struct store_call *call)
{
	struct fake_conn *f = (struct fake_conn *)(void *)c;

	n_asked++;
	ck_assert_str_eq(f->key, "");
	strcpy(f->key, call->key);
	if (answers_at_once) {
		f->key[0] = '\0';
		store_conn_answer(c, STORE_FOUND, "at once");
	}
}

static void
fake_close(struct store_conn *c)
{
	size_t i;

	for (i = 0; i < n_conns && &conns[i]->conn != c; i++)
		;
	memset(((struct fake_conn *)(void *)c)->reason, '?', 64 - 1);
	if (i == n_conns)
		return;
	memmove(&conns[i], &conns[i + 1], (n_conns - i - 1) * sizeof(conns[0]));
	n_conns--;
}

static const struct store_conn_kind fake_kind = {
    "fake", sizeof(struct fake_conn), fake_open, fake_ask, fake_close};

static void
asker_done(void *arg, enum store_result result, const char *text)
{
	struct asker *a = arg;

	a->calls++;
	a->result = result;
	strcpy(a->text, text != NULL ? text : "");
}

static struct store_call *
ask(struct asker *a, const char *key)
{
	const struct store_request rq = {
	    .verb = STORE_GET,
	    .key = key,
	    .done = asker_done,
	    .arg = a,
	};

	memset(a, 0, sizeof(*a));
	return store_pool_call(pool, &rq);
}

/* The i-th connection answers what it was asked. */
static void
answer(size_t i, const char *text)
{
	ck_assert_uint_lt(i, n_conns);
	ck_assert_str_ne(conns[i]->key, "");
	conns[i]->key[0] = '\0';
	store_conn_answer(&conns[i]->conn, STORE_FOUND, text);
}

static void
setup(void)
{
	now = 1000000;
	n_conns = n_opened = n_asked = 0;
	open_fails = answers_at_once = false;
	base = event_base_new();
	pool = store_pool_new(&fake_kind, NULL, base, 2, 800);
	ck_assert_ptr_nonnull(pool);
}

static void
teardown(void)
{
	store_pool_free(&pool);
	ck_assert_uint_eq(n_conns, 0);
	event_base_free(base);
}

START_TEST(one_request_at_a_time)
{
	struct asker a, b, c;

	ck_assert_ptr_nonnull(ask(&a, "a"));
	ck_assert_ptr_nonnull(ask(&b, "b"));
	ck_assert_ptr_nonnull(ask(&c, "c"));
	/* One is opened at a time, and no more than two. */
	ck_assert_uint_eq(n_opened, 1);
	store_conn_ready(&conns[0]->conn);
	ck_assert_str_eq(conns[0]->key, "a");
	ck_assert_uint_eq(n_opened, 2);
	store_conn_ready(&conns[1]->conn);
	ck_assert_str_eq(conns[1]->key, "b");
	ck_assert_uint_eq(n_opened, 2);
	answer(1, "for b");
	ck_assert_int_eq(b.calls, 1);
	ck_assert_str_eq(b.text, "for b");
	ck_assert_str_eq(conns[1]->key, "c");
	answer(0, "for a");
	answer(1, "for c");
	ck_assert_str_eq(a.text, "for a");
	ck_assert_str_eq(c.text, "for c");
	/* Kept. */
	ck_assert_ptr_nonnull(ask(&a, "d"));
	ck_assert_uint_eq(n_opened, 2);
	answer(0, "for d");
	ck_assert_int_eq(a.calls, 1);
}
END_TEST

START_TEST(an_answer_at_once_leaves_no_handle)
{
	struct asker a, b;

	ck_assert_ptr_nonnull(ask(&a, "a"));
	answers_at_once = true;
	store_conn_ready(&conns[0]->conn);
	ck_assert_int_eq(a.calls, 1);
	ck_assert_ptr_null(ask(&b, "b"));
	ck_assert_int_eq(b.calls, 1);
	ck_assert_str_eq(b.text, "at once");
}
END_TEST

START_TEST(a_connection_that_died_of_age_is_not_the_askers_trouble)
{
	struct asker a;

	ask(&a, "a");
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	ask(&a, "b");
	store_conn_lost(&conns[0]->conn, "gone");
	ck_assert_int_eq(a.calls, 0);
	ck_assert_uint_eq(n_opened, 2);
	store_conn_ready(&conns[0]->conn);
	ck_assert_str_eq(conns[0]->key, "b");
	/* But once only. */
	store_conn_lost(&conns[0]->conn, "gone again");
	ck_assert_int_eq(a.calls, 1);
	ck_assert_int_eq(a.result, STORE_FAILED);
	ck_assert_str_eq(a.text, "gone again");
}
END_TEST

START_TEST(a_second_attempt_has_a_new_connection)
{
	struct asker a, b;

	ask(&a, "a");
	ask(&b, "b");
	store_conn_ready(&conns[0]->conn);
	store_conn_ready(&conns[1]->conn);
	answer(0, "x");
	answer(1, "y");
	ask(&a, "c");
	ck_assert_str_eq(conns[0]->key, "c");
	/* The other one has died of the same. */
	store_conn_lost(&conns[0]->conn, "restarted");
	ck_assert_int_eq(a.calls, 0);
	ck_assert_uint_eq(n_opened, 3);
	ck_assert_uint_eq(n_conns, 1);
	store_conn_ready(&conns[0]->conn);
	answer(0, "z");
	ck_assert_str_eq(a.text, "z");
}
END_TEST

START_TEST(an_idle_connection_may_go)
{
	struct asker a;

	ask(&a, "a");
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	store_conn_lost(&conns[0]->conn, "timeout");
	ck_assert_uint_eq(n_opened, 1);
	ask(&a, "b");
	ck_assert_uint_eq(n_opened, 2);
	store_conn_ready(&conns[0]->conn);
	answer(0, "y");
	ck_assert_str_eq(a.text, "y");
}
END_TEST

START_TEST(one_that_was_never_used_may_go_too)
{
	struct asker a, b;

	ask(&a, "a");
	ask(&b, "b");
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	answer(0, "y");
	store_conn_ready(&conns[1]->conn);
	/* Ready, and nobody needed it. */
	store_conn_lost(&conns[1]->conn, "restarted");
	store_conn_lost(&conns[0]->conn, "restarted");
	ck_assert_ptr_nonnull(ask(&a, "c"));
	store_conn_ready(&conns[0]->conn);
	answer(0, "z");
	ck_assert_str_eq(a.text, "z");
}
END_TEST

START_TEST(the_reason_may_be_the_connections_own)
{
	struct asker a;

	ask(&a, "a");
	strcpy(conns[0]->reason, "refused");
	store_conn_lost(&conns[0]->conn, conns[0]->reason);
	ck_assert_str_eq(a.text, "refused");
	ask(&a, "a");
	ck_assert_str_eq(a.text, "refused");
	now += 100;
	ask(&a, "a");
	store_conn_ready(&conns[0]->conn);
	strcpy(conns[0]->reason, "reset");
	store_conn_lost(&conns[0]->conn, conns[0]->reason);
	ck_assert_int_eq(a.calls, 0);
	store_conn_ready(&conns[0]->conn);
	strcpy(conns[0]->reason, "again");
	store_conn_lost(&conns[0]->conn, conns[0]->reason);
	ck_assert_str_eq(a.text, "again");
}
END_TEST

START_TEST(a_store_that_refuses_fails_fast_and_is_tried_again)
{
	struct asker a, b;

	ask(&a, "a");
	ask(&b, "b");
	store_conn_lost(&conns[0]->conn, "refused");
	ck_assert_int_eq(a.calls, 1);
	ck_assert_int_eq(b.calls, 1);
	ck_assert_int_eq(b.result, STORE_FAILED);
	ck_assert_ptr_null(ask(&a, "a"));
	ck_assert_str_eq(a.text, "refused");
	ck_assert_uint_eq(n_opened, 1);
	now += 100;
	ck_assert_ptr_nonnull(ask(&a, "a"));
	ck_assert_uint_eq(n_opened, 2);
	store_conn_lost(&conns[0]->conn, "refused");
	now += 199;
	ck_assert_ptr_null(ask(&a, "a"));
	now++;
	ck_assert_ptr_nonnull(ask(&a, "a"));
	store_conn_ready(&conns[0]->conn);
	answer(0, "well");
	ck_assert_str_eq(a.text, "well");
	/* All is forgiven. */
	store_conn_lost(&conns[0]->conn, "gone");
	ck_assert_ptr_nonnull(ask(&a, "a"));
}
END_TEST

START_TEST(what_cannot_be_opened_fails_at_once)
{
	struct asker a;

	open_fails = true;
	ck_assert_ptr_null(ask(&a, "a"));
	ck_assert_int_eq(a.calls, 1);
	ck_assert_str_eq(a.text, "cannot open");
}
END_TEST

/* The server has a limit of its own: those who ask wait for the connections
 * that there are, and it is asked for more only now and then. */
START_TEST(one_that_is_refused_beside_others_is_no_failure)
{
	struct asker a, b, c;

	ask(&a, "a");
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	ask(&a, "a");
	ask(&b, "b");
	ck_assert_uint_eq(n_opened, 2);
	store_conn_lost(&conns[1]->conn, "too many connections");
	ck_assert_int_eq(b.calls, 0);
	ck_assert_ptr_nonnull(ask(&c, "c"));
	ck_assert_uint_eq(n_opened, 2);
	answer(0, "for a");
	answer(0, "for b");
	answer(0, "for c");
	ck_assert_str_eq(b.text, "for b");
	ck_assert_str_eq(c.text, "for c");
	now += 5000;
	ask(&a, "a");
	ask(&b, "b");
	ck_assert_uint_eq(n_opened, 3);
	/* The last one that works goes: now it is a failure. */
	store_conn_lost(&conns[1]->conn, "too many connections");
	store_conn_lost(&conns[0]->conn, "gone");
	ck_assert_int_eq(a.calls, 0);
	ck_assert_uint_eq(n_opened, 4);
	store_conn_lost(&conns[0]->conn, "refused");
	ck_assert_int_eq(a.calls + b.calls, 2);
	ck_assert_str_eq(a.text, "refused");
	ck_assert_ptr_null(ask(&c, "c"));
}
END_TEST

START_TEST(pauses_have_a_limit)
{
	struct asker a;

	open_fails = true;
	for (int i = 0; i < 20; i++) {
		ask(&a, "a");
		now += 5000;
	}
	ck_assert_uint_eq(n_opened, 20);
}
END_TEST

START_TEST(a_request_that_takes_too_long_takes_its_connection_along)
{
	struct asker a, b, c;
	struct store_call *slow, *waiting;

	ask(&a, "a");
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	now += 10;
	slow = ask(&a, "slow");
	waiting = ask(&b, "b");
	ck_assert_uint_eq(n_conns, 2);
	ck_assert_ptr_nonnull(waiting);
	/* Others get answers meanwhile: it is not the store that hangs. */
	store_conn_ready(&conns[1]->conn);
	answer(1, "y");
	store_pool_cancel(slow);
	ck_assert_int_eq(a.calls, 0);
	ck_assert_uint_eq(n_conns, 1);
	ck_assert_ptr_nonnull(ask(&c, "c"));
	answer(0, "z");
	ck_assert_str_eq(c.text, "z");
	/* Now nobody does. */
	now += 10;
	slow = ask(&a, "slow");
	now += 10;
	store_pool_cancel(slow);
	ck_assert_uint_eq(n_conns, 0);
	ck_assert_ptr_null(ask(&c, "c"));
	ck_assert_str_eq(c.text, "it does not answer");
}
END_TEST

START_TEST(who_waits_may_go)
{
	struct asker a, b;
	struct store_call *waiting;

	ask(&a, "a");
	waiting = ask(&b, "b");
	store_pool_cancel(waiting);
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	ck_assert_int_eq(a.calls, 1);
	ck_assert_int_eq(b.calls, 0);
	ck_assert_uint_eq(n_asked, 1);
}
END_TEST

START_TEST(a_flood_fails_beyond_the_bound)
{
	static struct asker many[STORE_WAITING_MAX];
	static struct store_call *calls[STORE_WAITING_MAX];
	struct asker late;

	for (size_t i = 0; i < STORE_WAITING_MAX; i++)
		calls[i] = ask(&many[i], "a");
	ck_assert_ptr_null(ask(&late, "late"));
	ck_assert_int_eq(late.calls, 1);
	ck_assert_int_eq(late.result, STORE_FAILED);
	ck_assert_str_eq(late.text, "too many questions wait for an answer");
	/* Each that goes makes room for one. */
	store_pool_cancel(calls[7]);
	ck_assert_ptr_nonnull(ask(&late, "late"));
	ck_assert_ptr_null(ask(&many[7], "a"));
	store_conn_ready(&conns[0]->conn);
	answer(0, "x");
	ck_assert_int_eq(many[0].calls, 1);
	ck_assert_ptr_nonnull(ask(&many[0], "a"));
}
END_TEST

START_TEST(a_connection_has_to_get_ready_in_time)
{
	struct asker a;

	ask(&a, "a");
	while (a.calls == 0)
		event_base_loop(base, EVLOOP_ONCE);
	ck_assert_int_eq(a.result, STORE_FAILED);
	ck_assert_str_eq(a.text, "no connection in time");
	ck_assert_uint_eq(n_conns, 0);
}
END_TEST

START_TEST(requests_under_way_go_with_the_pool)
{
	struct asker a, b, c;

	ask(&a, "a");
	ask(&b, "b");
	store_conn_ready(&conns[0]->conn);
	ask(&c, "c");
	store_pool_free(&pool);
	ck_assert_int_eq(a.calls + b.calls + c.calls, 0);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("store_pool");
	TCase *tc = tcase_create("store_pool");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, one_request_at_a_time);
	tcase_add_test(tc, an_answer_at_once_leaves_no_handle);
	tcase_add_test(tc,
	    a_connection_that_died_of_age_is_not_the_askers_trouble);
	tcase_add_test(tc, a_second_attempt_has_a_new_connection);
	tcase_add_test(tc, an_idle_connection_may_go);
	tcase_add_test(tc, one_that_was_never_used_may_go_too);
	tcase_add_test(tc, the_reason_may_be_the_connections_own);
	tcase_add_test(tc, a_store_that_refuses_fails_fast_and_is_tried_again);
	tcase_add_test(tc, what_cannot_be_opened_fails_at_once);
	tcase_add_test(tc, one_that_is_refused_beside_others_is_no_failure);
	tcase_add_test(tc, pauses_have_a_limit);
	tcase_add_test(tc,
	    a_request_that_takes_too_long_takes_its_connection_along);
	tcase_add_test(tc, who_waits_may_go);
	tcase_add_test(tc, a_flood_fails_beyond_the_bound);
	tcase_add_test(tc, a_connection_has_to_get_ready_in_time);
	tcase_add_test(tc, requests_under_way_go_with_the_pool);
	suite_add_tcase(suite, tc);
	return run(suite);
}
