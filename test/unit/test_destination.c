/* test_destination.c: the breaker and the places, with a clock of their own. */

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"
#include "platform/util.h"
#include "service/destination.h"
#include "service/learnt.h"
#include "run.h"

#define COOLDOWN 1000
#define THREADS 4
#define ROUNDS 20000

static const struct destination_health rules = {3, 2, COOLDOWN};
static const struct config_destination cfg = {
    .name = (char[]){"x"}, .max_connecting = 8, .max_sessions = 10};
static struct destination *d;
/* Logins, in the order in which they came. */
static struct gate_place place[64];
static unsigned n_places;

static void
setup(void)
{
	hash_init();
	n_places = 0;
	memset(place, 0, sizeof(place));
	d = destination_new(&cfg);
	ck_assert_ptr_nonnull(d);
}

static void
leave(unsigned i)
{
	ck_assert(destination_leave(d, &place[i]));
}

static void
teardown(void)
{
	for (unsigned i = 0; i < n_places; i++)
		leave(i);
	destination_unref(&d);
}

/* One that has entered before, without a place of its own here. */
static struct gate_place
straggler(uint64_t client)
{
	return (struct gate_place){.client = client};
}

static bool
fails(enum destination_fault fault, uint64_t client, uint64_t now)
{
	struct gate_place p = straggler(client);

	return destination_failed(d, &p, &rules, now, fault);
}

static void
failures(unsigned n, enum destination_fault fault, uint64_t client,
    uint64_t now)
{
	while (n-- > 0)
		fails(fault, client, now);
}

/* As place[n_places - 1] when it has entered. */
static enum gate_verdict
enter(uint64_t now, uint64_t client)
{
	struct gate_place *p = &place[n_places];
	enum gate_verdict verdict;

	memset(p, 0, sizeof(*p));
	p->client = client;
	verdict = destination_enter(d, p, &cfg, "", now);
	if (verdict == GATE_ENTERED)
		n_places++;
	return verdict;
}

static bool
enters_as_probe(uint64_t now, uint64_t client)
{
	return enter(now, client) == GATE_ENTERED && place[n_places - 1].probe;
}

static bool
probe_answers(void)
{
	return destination_worked(d, &place[n_places - 1]);
}

/* The client's probe, and how it ends. */
static void
probe_fails(enum destination_fault fault, uint64_t client, uint64_t now)
{
	ck_assert(enters_as_probe(now, client));
	ck_assert(!destination_failed(d, &place[n_places - 1], &rules, now,
	    fault));
	leave(--n_places);
}

/* The client has a session, and ends it. */
static void
has_logged_in(uint64_t client)
{
	ck_assert_int_eq(enter(1, client), GATE_ENTERED);
	destination_logged_in(d, &place[n_places - 1]);
	leave(--n_places);
}

START_TEST(the_hosts_own_failures_mark_it_down)
{
	failures(2, DESTINATION_HOST, 1, 10);
	ck_assert(!destination_is_down(d));
	ck_assert(fails(DESTINATION_HOST, 1, 10));
	ck_assert(destination_is_down(d));
	ck_assert_int_eq(enter(11, 1), GATE_DOWN);
}
END_TEST

START_TEST(one_client_alone_marks_nothing_down)
{
	failures(1000, DESTINATION_EARLY, 1, 10);
	ck_assert(!destination_is_down(d));
	ck_assert(fails(DESTINATION_EARLY, 2, 10));
	ck_assert(destination_is_down(d));
}
END_TEST

START_TEST(one_success_forgives)
{
	struct gate_place p = straggler(1);

	failures(2, DESTINATION_HOST, 1, 10);
	ck_assert(!destination_worked(d, &p));
	failures(2, DESTINATION_HOST, 1, 10);
	ck_assert(!destination_is_down(d));
}
END_TEST

START_TEST(exactly_one_probes_after_the_cooldown)
{
	failures(3, DESTINATION_HOST, 1, 10);
	ck_assert_int_eq(enter(10 + COOLDOWN - 1, 1), GATE_DOWN);
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(enter(10 + COOLDOWN + i, 1), GATE_DOWN);
	/* It went away without a verdict: the next one finds out. */
	leave(--n_places);
	/* It fails: another cooldown. */
	probe_fails(DESTINATION_HOST, 1, 20 + COOLDOWN);
	ck_assert_int_eq(enter(19 + 2 * COOLDOWN, 1), GATE_DOWN);
	ck_assert(enters_as_probe(20 + 2 * COOLDOWN, 1));
	ck_assert(probe_answers());
	ck_assert(!destination_is_down(d));
}
END_TEST

START_TEST(a_banned_clients_probe_is_its_own_affair)
{
	uint64_t over = 10 + COOLDOWN;

	failures(3, DESTINATION_HOST, 1, 10);
	/* However often it tries: once in a cooldown. */
	probe_fails(DESTINATION_EARLY, 7, over);
	ck_assert_int_eq(enter(over, 7), GATE_DOWN);
	ck_assert_int_eq(enter(over + COOLDOWN - 1, 7), GATE_DOWN);
	ck_assert(enters_as_probe(over + 1, 1));
	ck_assert(probe_answers());
	leave(--n_places);
	ck_assert_int_eq(enter(over + 2, 7), GATE_ENTERED);
}
END_TEST

START_TEST(the_only_client_there_is_may_probe_again)
{
	failures(3, DESTINATION_HOST, 7, 10);
	for (unsigned i = 1; i < 5; i++) {
		probe_fails(DESTINATION_EARLY, 7, 10 + i * COOLDOWN);
		ck_assert_int_eq(enter(9 + (i + 1) * COOLDOWN, 7), GATE_DOWN);
	}
}
END_TEST

START_TEST(probes_of_enough_clients_are_another_cooldown)
{
	uint64_t over = 10 + COOLDOWN;

	failures(3, DESTINATION_HOST, 1, 10);
	probe_fails(DESTINATION_EARLY, 7, over);
	probe_fails(DESTINATION_EARLY, 8, over + 5);
	ck_assert_int_eq(enter(over + 4 + COOLDOWN, 1), GATE_DOWN);
	/* And then the count begins anew. */
	probe_fails(DESTINATION_EARLY, 7, over + 5 + COOLDOWN);
	ck_assert(enters_as_probe(over + 6 + COOLDOWN, 1));
}
END_TEST

START_TEST(stragglers_do_not_extend_the_cooldown)
{
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(enter(10, 1), GATE_ENTERED);
	for (int i = 0; i < 3; i++) {
		fails(DESTINATION_HOST, 1, 10);
		leave(--n_places);
	}
	ck_assert(destination_is_down(d));
	/* Those that were under way then, until just before the end. */
	for (unsigned i = 0; i < 3; i++) {
		ck_assert(!fails(i == 0 ? DESTINATION_HOST : DESTINATION_EARLY,
		    i, 9 + COOLDOWN));
		leave(--n_places);
	}
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
	/* Nor may one speak for the probe. */
	ck_assert(!fails(DESTINATION_HOST, 2, 10 + COOLDOWN));
	leave(--n_places);
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
}
END_TEST

static atomic_uint round_now, ready, done, probes;

/* All at once, at the beginning of each round. */
static void *
knock(void *arg)
{
	struct gate_place *p = arg;

	for (unsigned round = 1; round <= ROUNDS; round++) {
		enum gate_verdict verdict;

		ready++;
		while (round_now != round)
			sched_yield();
		verdict =
		    destination_enter(d, p, &cfg, "", 10 + round * COOLDOWN);
		if (verdict == GATE_ENTERED && p->probe)
			probes++;
		else
			ck_assert_int_eq(verdict, GATE_DOWN);
		done++;
	}
	return NULL;
}

/* Whichever of them it was. */
static void
round_ends(uint64_t now)
{
	for (int i = 0; i < THREADS; i++) {
		if (!place[i].probe)
			continue;
		destination_failed(d, &place[i], &rules, now, DESTINATION_HOST);
		leave((unsigned)i);
	}
}

START_TEST(exactly_one_of_many_threads_probes)
{
	pthread_t thread[THREADS];

	failures(3, DESTINATION_HOST, 1, 10);
	for (int i = 0; i < THREADS; i++) {
		place[i] = straggler(1);
		ck_assert_int_eq(pthread_create(&thread[i], NULL, knock,
				     &place[i]),
		    0);
	}
	for (unsigned round = 1; round <= ROUNDS; round++) {
		while (ready != round * THREADS)
			sched_yield();
		probes = 0;
		round_now = round;
		while (done != round * THREADS)
			sched_yield();
		ck_assert_uint_eq(probes, 1);
		round_ends(10 + round * COOLDOWN);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
}
END_TEST

START_TEST(a_recovery_lets_in_few_at_first)
{
	failures(3, DESTINATION_HOST, 1, 10);
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
	ck_assert(probe_answers());
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(enter(2000, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(2000, 1), GATE_FULL);
	/* One is answered: four that are not. */
	destination_worked(d, &place[1]);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(enter(2000, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(2000, 1), GATE_FULL);
	for (int i = 0; i < 20; i++)
		destination_worked(d, &place[2]);
	/* max_connecting is 8, the probe among them. */
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(enter(2000, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(2000, 1), GATE_FULL);
}
END_TEST

/* Cold caches are the rule after an outage. */
START_TEST(slow_logins_after_a_recovery_keep_nobody_out)
{
	failures(3, DESTINATION_HOST, 1, 10);
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
	ck_assert(probe_answers());
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(enter(2000, 1), GATE_ENTERED);
		ck_assert_int_eq(enter(2000, 1), GATE_ENTERED);
		ck_assert_int_eq(enter(2000, 1), GATE_FULL);
		/* The backend thinks about both for long. */
		ck_assert(!destination_at_work(d, &place[n_places - 1]));
		ck_assert(!destination_at_work(d, &place[n_places - 2]));
	}
}
END_TEST

START_TEST(places_are_limited_and_given_back)
{
	for (unsigned i = 0; i < cfg.max_connecting; i++)
		ck_assert_int_eq(enter(1, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(1, 1), GATE_FULL);
	/* Logged in ones no longer count as connecting, but as sessions. */
	for (unsigned i = 0; i < 3; i++)
		destination_logged_in(d, &place[i]);
	ck_assert_int_eq(enter(1, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(1, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(1, 1), GATE_FULL);
	leave(0);
	ck_assert_int_eq(enter(1, 1), GATE_ENTERED);
}
END_TEST

START_TEST(a_threshold_of_0_never_marks)
{
	const struct destination_health never = {0, 0, COOLDOWN};
	struct gate_place p = straggler(1);

	for (int i = 0; i < 1000; i++)
		ck_assert(!destination_failed(d, &p, &never, 10,
		    DESTINATION_HOST));
	ck_assert_int_eq(enter(11, 1), GATE_ENTERED);
}
END_TEST

START_TEST(strangers_logins_never_blame_the_host)
{
	for (uint64_t client = 1; client < 100; client++)
		failures(10, DESTINATION_LOGIN, client, 10);
	ck_assert(!destination_is_down(d));
	ck_assert_int_eq(enter(11, 1), GATE_ENTERED);
	/* Nor does it add to what others see. */
	failures(2, DESTINATION_EARLY, 1, 12);
	ck_assert(!destination_is_down(d));
	ck_assert(!fails(DESTINATION_LOGIN, 2, 12));
	ck_assert(fails(DESTINATION_EARLY, 2, 12));
}
END_TEST

START_TEST(a_backend_that_drops_everybody_goes_down)
{
	for (uint64_t client = 1; client <= 3; client++)
		has_logged_in(client);
	/* One that had an account here is not everybody. */
	failures(100, DESTINATION_LOGIN, 1, 10);
	ck_assert(!fails(DESTINATION_LOGIN, 2, 10));
	ck_assert(!fails(DESTINATION_LOGIN, 4, 10));
	ck_assert(fails(DESTINATION_LOGIN, 3, 10));
	ck_assert(destination_is_down(d));
}
END_TEST

START_TEST(strangers_probes_do_not_keep_it_down)
{
	failures(3, DESTINATION_HOST, 1, 10);
	for (uint64_t client = 50; client < 60; client++)
		probe_fails(DESTINATION_LOGIN, client, 10 + COOLDOWN);
	/* Each of them has had its turn. */
	ck_assert_int_eq(enter(10 + COOLDOWN, 50), GATE_DOWN);
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
	ck_assert(probe_answers());
}
END_TEST

START_TEST(full_is_not_down_while_sessions_live_there)
{
	ck_assert_int_eq(enter(1, 1), GATE_ENTERED);
	destination_logged_in(d, &place[0]);
	for (uint64_t client = 1; client < 100; client++)
		ck_assert(!fails(DESTINATION_TURNED_AWAY, client, 10));
	leave(0);
	/* One that is under way is none that lives there. */
	ck_assert_int_eq(enter(20, 1), GATE_ENTERED);
	failures(2, DESTINATION_TURNED_AWAY, 1, 20);
	ck_assert(fails(DESTINATION_TURNED_AWAY, 2, 20));
}
END_TEST

static void
state_is(enum destination_state state, const char *name)
{
	struct destination_figures f;

	destination_figures(d, &f);
	ck_assert_int_eq(f.state, state);
	ck_assert_str_eq(destination_state_name(f.state), name);
}

START_TEST(its_state_is_told)
{
	struct destination_figures f;

	state_is(DESTINATION_UP, "up");
	failures(2, DESTINATION_HOST, 1, 10);
	fails(DESTINATION_EARLY, 2, 10);
	destination_figures(d, &f);
	ck_assert_uint_eq(f.failures, 3);
	ck_assert_uint_eq(f.host_failures, 2);
	ck_assert_uint_eq(f.clients, 1);
	ck_assert_uint_eq(f.down_until, 0);
	fails(DESTINATION_HOST, 1, 10);
	state_is(DESTINATION_DOWN, "down");
	ck_assert(enters_as_probe(10 + COOLDOWN, 1));
	ck_assert(probe_answers());
	state_is(DESTINATION_RECOVERING, "recovering");
	gate_drain(destination_gate(d), true);
	state_is(DESTINATION_DRAIN, "drain");
	destination_figures(d, &f);
	ck_assert_uint_eq(f.gate.connecting, 1);
	gate_drain(destination_gate(d), false);
	state_is(DESTINATION_RECOVERING, "recovering");
}
END_TEST

START_TEST(a_reset_closes_the_breaker)
{
	const struct addr server = {.len = 0};
	uint32_t bits;

	learnt_set(destination_memory(d), &server, 1000, 1);
	failures(3, DESTINATION_HOST, 1, 10);
	ck_assert_int_eq(enter(11, 1), GATE_DOWN);
	destination_reset(d);
	state_is(DESTINATION_UP, "up");
	ck_assert(!destination_is_troubled(d));
	ck_assert(!learnt_get(destination_memory(d), &server, 1000, &bits));
	for (unsigned i = 0; i < cfg.max_connecting; i++)
		ck_assert_int_eq(enter(11, 1), GATE_ENTERED);
	/* What has failed before does not count any more. */
	failures(2, DESTINATION_HOST, 1, 12);
	ck_assert(!destination_is_down(d));
}
END_TEST

static unsigned wakes;

static void
count_wake(struct gate_place *p UNUSED)
{
	wakes++;
}

START_TEST(its_death_ends_the_wait_for_it)
{
	const struct config_destination narrow = {
	    .max_connecting = 1, .max_waiting = 10};
	struct gate_place line[10];

	wakes = 0;
	memset(line, 0, sizeof(line));
	ck_assert_int_eq(enter(1, 1), GATE_ENTERED);
	for (int i = 0; i < 10; i++) {
		line[i].wake = count_wake;
		line[i].give_up = 1000;
		ck_assert_int_eq(destination_enter(d, &line[i], &narrow, "", 1),
		    GATE_WAIT);
	}
	failures(3, DESTINATION_HOST, 1, 10);
	ck_assert_uint_eq(wakes, 10);
	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(gate_told(&line[i]), GATE_DOWN);
}
END_TEST

/* A big maildrop is no reason to keep the others out, and one that thinks for
 * long before it hangs up is none to let them in again and again. */
START_TEST(at_work_lets_others_in_and_forgives_nothing)
{
	struct gate_place p = straggler(1);

	failures(2, DESTINATION_EARLY, 1, 10);
	ck_assert(!destination_at_work(d, &p));
	ck_assert(fails(DESTINATION_EARLY, 2, 10));
	ck_assert(enters_as_probe(10 + COOLDOWN, 3));
	ck_assert_int_eq(enter(10 + COOLDOWN, 4), GATE_DOWN);
	ck_assert(destination_at_work(d, &place[0]));
	ck_assert(!destination_at_work(d, &place[0]));
	/* Recovering: not all at once. */
	ck_assert_int_eq(enter(11 + COOLDOWN, 4), GATE_ENTERED);
	ck_assert_int_eq(enter(11 + COOLDOWN, 5), GATE_ENTERED);
	ck_assert_int_eq(enter(11 + COOLDOWN, 6), GATE_FULL);
	ck_assert(!fails(DESTINATION_EARLY, 3, 2010));
	ck_assert(fails(DESTINATION_EARLY, 4, 2010));
	ck_assert(destination_is_down(d));
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("destination");
	TCase *tc = tcase_create("destination");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, at_work_lets_others_in_and_forgives_nothing);
	tcase_add_test(tc, the_hosts_own_failures_mark_it_down);
	tcase_add_test(tc, one_client_alone_marks_nothing_down);
	tcase_add_test(tc, one_success_forgives);
	tcase_add_test(tc, exactly_one_probes_after_the_cooldown);
	tcase_add_test(tc, a_banned_clients_probe_is_its_own_affair);
	tcase_add_test(tc, the_only_client_there_is_may_probe_again);
	tcase_add_test(tc, probes_of_enough_clients_are_another_cooldown);
	tcase_add_test(tc, stragglers_do_not_extend_the_cooldown);
	tcase_add_test(tc, exactly_one_of_many_threads_probes);
	tcase_add_test(tc, a_recovery_lets_in_few_at_first);
	tcase_add_test(tc, slow_logins_after_a_recovery_keep_nobody_out);
	tcase_add_test(tc, strangers_logins_never_blame_the_host);
	tcase_add_test(tc, a_backend_that_drops_everybody_goes_down);
	tcase_add_test(tc, strangers_probes_do_not_keep_it_down);
	tcase_add_test(tc, full_is_not_down_while_sessions_live_there);
	tcase_add_test(tc, its_state_is_told);
	tcase_add_test(tc, a_reset_closes_the_breaker);
	tcase_add_test(tc, its_death_ends_the_wait_for_it);
	tcase_add_test(tc, places_are_limited_and_given_back);
	tcase_add_test(tc, a_threshold_of_0_never_marks);
	suite_add_tcase(suite, tc);
	return run(suite);
}
