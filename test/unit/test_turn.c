/* test_turn.c: how the end of a wait comes to the session's thread. */

#include <check.h>

#include <event2/event.h>

#include "config/config.h"
#include "net/mailbox.h"
#include "platform/hash.h"
#include "service/destination.h"
#include "session/turn.h"
#include "run.h"

#define GIVE_UP 10000
#define KEY "alice@example.com"

static const struct config_destination cfg = {
    .name = (char[]){"x"}, .max_connecting = 1, .max_waiting = 10};
static struct event_base *base;
static struct mailbox *mailbox;
static struct destination *d;
static int told; /* the last verdict; -1: none */

static void
woken(void *arg, enum gate_verdict verdict)
{
	ck_assert_ptr_eq(arg, &told);
	told = (int)verdict;
}

static void
setup(void)
{
	hash_init();
	gate_holds_clear();
	base = event_base_new();
	mailbox = mailbox_new(base);
	d = destination_new(&cfg);
	told = -1;
}

static void
teardown(void)
{
	mailbox_free(&mailbox);
	event_base_free(base);
	destination_unref(&d);
}

static struct turn *
make(void)
{
	const struct turn_spec spec = {
	    .mailbox = mailbox,
	    .client = 7,
	    .give_up = GIVE_UP,
	    .woken = woken,
	    .arg = &told,
	};
	struct turn *t = turn_new(&spec);

	ck_assert_ptr_nonnull(t);
	return t;
}

static void
run_loop(void)
{
	event_base_loop(base, EVLOOP_NONBLOCK);
}

START_TEST(a_woken_turn_hears_of_it_from_the_loop)
{
	struct turn *a = make(), *b = make();

	ck_assert_int_eq(turn_enter(a, d, &cfg, KEY, 1), GATE_ENTERED);
	ck_assert_int_eq(turn_enter(b, d, &cfg, KEY, 1), GATE_WAIT);
	ck_assert_uint_eq(turn_due(b), GIVE_UP);
	turn_free(&a);
	ck_assert_ptr_null(a);
	ck_assert_int_eq(told, -1);
	run_loop();
	ck_assert_int_eq(told, GATE_ENTERED);
	turn_free(&b);
}
END_TEST

START_TEST(a_freed_turn_is_not_called)
{
	struct turn *a = make(), *b = make(), *c = make();

	ck_assert_int_eq(turn_enter(a, d, &cfg, KEY, 1), GATE_ENTERED);
	ck_assert_int_eq(turn_enter(b, d, &cfg, KEY, 1), GATE_WAIT);
	turn_free(&a);
	/* Its message is under way. */
	turn_free(&b);
	run_loop();
	ck_assert_int_eq(told, -1);
	/* Its place is free. */
	ck_assert_int_eq(turn_enter(c, d, &cfg, KEY, 1), GATE_ENTERED);
	turn_free(&c);
}
END_TEST

START_TEST(the_mailboxs_end_frees_what_is_under_way)
{
	struct turn *a = make(), *b = make();

	ck_assert_int_eq(turn_enter(a, d, &cfg, KEY, 1), GATE_ENTERED);
	ck_assert_int_eq(turn_enter(b, d, &cfg, KEY, 1), GATE_WAIT);
	turn_free(&a);
	turn_free(&b);
	/* The leak checker sees whether it does. */
	mailbox_free(&mailbox);
	ck_assert_int_eq(told, -1);
}
END_TEST

START_TEST(a_released_account_enters_again)
{
	struct destination *moved = destination_new(&cfg);
	struct turn *t = make();

	ck_assert(gate_hold(KEY, "", 5000, 1));
	ck_assert_int_eq(turn_enter(t, d, &cfg, KEY, 1), GATE_WAIT);
	ck_assert(turn_is_held(t));
	ck_assert_uint_eq(turn_due(t), 5000);
	ck_assert_int_eq(turn_poll(t, 4999), GATE_WAIT);
	ck_assert(gate_release(KEY, 2));
	run_loop();
	ck_assert_int_eq(told, GATE_AGAIN);
	ck_assert(!turn_is_held(t));
	/* It has moved meanwhile. */
	ck_assert_int_eq(turn_enter(t, moved, &cfg, KEY, 3), GATE_ENTERED);
	turn_free(&t);
	destination_unref(&moved);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("turn");
	TCase *tc = tcase_create("turn");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_woken_turn_hears_of_it_from_the_loop);
	tcase_add_test(tc, a_freed_turn_is_not_called);
	tcase_add_test(tc, the_mailboxs_end_frees_what_is_under_way);
	tcase_add_test(tc, a_released_account_enters_again);
	suite_add_tcase(suite, tc);
	return run(suite);
}
