/* test_gate.c: turns, places, holds, with a clock of their own. */

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"
#include "platform/util.h"
#include "service/gate.h"
#include "run.h"

#define PATIENCE 10000
#define KEY "alice@example.com"

struct asker {
	struct gate_place p;
	unsigned wakes;
};

static struct gate *g;
static struct gate_limits limits;
static uint64_t now;

static void
asker_wake(struct gate_place *p)
{
	((struct asker *)(void *)p)->wakes++;
}

static void
setup(void)
{
	hash_init();
	gate_holds_clear();
	g = gate_new();
	ck_assert_ptr_nonnull(g);
	limits = (struct gate_limits){4, 0, 1000};
	now = 1000;
}

static void
teardown(void)
{
	gate_holds_clear();
	gate_free(&g);
}

static void
begin(struct asker *a, uint64_t client)
{
	memset(a, 0, sizeof(*a));
	a->p.wake = asker_wake;
	a->p.client = client;
	a->p.give_up = now + PATIENCE;
}

static enum gate_verdict
enter(struct asker *a, uint64_t client)
{
	begin(a, client);
	return gate_enter(g, &a->p, &limits, now);
}

static enum gate_verdict
check_hold(struct asker *a, const char *key)
{
	begin(a, 1);
	return gate_check_hold(g, &a->p, &limits, key, now);
}

static void
leave(struct asker *a)
{
	ck_assert(gate_leave(&a->p));
}

/* It has been woken, once, and this is why. */
static void
told(struct asker *a, enum gate_verdict verdict)
{
	ck_assert_uint_eq(a->wakes, 1);
	a->wakes = 0;
	ck_assert_int_eq(gate_told(&a->p), verdict);
}

static void
counts(unsigned connecting, unsigned sessions, unsigned waiting)
{
	struct gate_counts c;

	gate_count(g, &c);
	ck_assert_uint_eq(c.connecting, connecting);
	ck_assert_uint_eq(c.sessions, sessions);
	ck_assert_uint_eq(c.waiting, waiting);
}

START_TEST(a_freed_place_goes_to_the_first_in_line)
{
	struct asker in[4], line[3];

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&in[i], 100 + i), GATE_ENTERED);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(enter(&line[i], 200 + i), GATE_WAIT);
	counts(4, 4, 3);
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(line[i].wakes, 0);
		leave(&in[i]);
		told(&line[i], GATE_ENTERED);
		/* It owns the place: nobody can come in between. */
		counts(4, 4, 2 - i);
	}
	leave(&in[3]);
	for (int i = 0; i < 3; i++)
		leave(&line[i]);
	counts(0, 0, 0);
}
END_TEST

START_TEST(an_address_with_fewer_places_comes_first)
{
	struct asker greedy[20], other, third;

	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(enter(&greedy[i], 7),
		    i < 4 ? GATE_ENTERED : GATE_WAIT);
	ck_assert_int_eq(enter(&other, 8), GATE_WAIT);
	leave(&greedy[0]);
	told(&other, GATE_ENTERED);
	leave(&greedy[1]);
	told(&greedy[4], GATE_ENTERED);
	ck_assert_int_eq(enter(&third, 8), GATE_WAIT);
	/* One place against three. */
	leave(&greedy[2]);
	told(&third, GATE_ENTERED);
	/* Two against two: in order of arrival. */
	leave(&greedy[3]);
	told(&greedy[5], GATE_ENTERED);
	leave(&other);
	told(&greedy[6], GATE_ENTERED);
	leave(&third);
	told(&greedy[7], GATE_ENTERED);
	for (int i = 4; i < 20; i++) {
		leave(&greedy[i]);
		if (i + 4 < 20)
			told(&greedy[i + 4], GATE_ENTERED);
	}
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_session_is_no_longer_connecting)
{
	struct asker in[4], next, last;

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&in[i], 1), GATE_ENTERED);
	ck_assert_int_eq(enter(&next, 1), GATE_WAIT);
	gate_settle(&in[0].p);
	told(&next, GATE_ENTERED);
	counts(4, 5, 0);
	limits.max_sessions = 5;
	ck_assert_int_eq(enter(&last, 1), GATE_FULL);
	leave(&in[0]);
	limits.max_connecting = 5;
	ck_assert_int_eq(enter(&last, 1), GATE_ENTERED);
	leave(&last);
	leave(&next);
	for (int i = 1; i < 4; i++)
		leave(&in[i]);
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_waiter_gets_the_place_of_a_session_that_ends)
{
	struct asker session, connecting, next, late;

	limits.max_connecting = 1;
	limits.max_sessions = 3;
	ck_assert_int_eq(enter(&session, 1), GATE_ENTERED);
	gate_settle(&session.p);
	ck_assert_int_eq(enter(&connecting, 1), GATE_ENTERED);
	ck_assert_int_eq(enter(&next, 2), GATE_WAIT);
	/* Another configuration: now it is full. */
	limits.max_sessions = 2;
	ck_assert_int_eq(enter(&late, 3), GATE_FULL);
	gate_settle(&connecting.p);
	ck_assert_uint_eq(next.wakes, 0);
	leave(&session);
	told(&next, GATE_ENTERED);
	leave(&next);
	leave(&connecting);
}
END_TEST

START_TEST(too_many_waiters_are_refused_at_once)
{
	struct asker in[4], line[2], more;

	limits.max_waiting = 2;
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&in[i], 1), GATE_ENTERED);
	ck_assert_int_eq(enter(&line[0], 1), GATE_WAIT);
	ck_assert_int_eq(enter(&line[1], 1), GATE_WAIT);
	ck_assert_int_eq(enter(&more, 2), GATE_FULL);
	ck_assert_ptr_null(more.p.gate);
	leave(&line[0]);
	ck_assert_int_eq(enter(&more, 2), GATE_WAIT);
	leave(&more);
	/* Who has no time to wait does not. */
	begin(&more, 2);
	more.p.give_up = 0;
	ck_assert_int_eq(gate_enter(g, &more.p, &limits, now), GATE_FULL);
	leave(&line[1]);
	for (int i = 0; i < 4; i++)
		leave(&in[i]);
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_wait_ends_at_its_time)
{
	struct asker in[4], line;

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&in[i], 1), GATE_ENTERED);
	ck_assert_int_eq(enter(&line, 1), GATE_WAIT);
	ck_assert_uint_eq(line.p.due, now + PATIENCE);
	now += PATIENCE - 1;
	ck_assert_int_eq(gate_poll(&line.p, now), GATE_WAIT);
	now++;
	ck_assert_int_eq(gate_poll(&line.p, now), GATE_TIMEOUT);
	ck_assert_ptr_null(line.p.gate);
	counts(4, 4, 0);
	/* One that has been woken just now has its place. */
	ck_assert_int_eq(enter(&line, 1), GATE_WAIT);
	now += PATIENCE;
	leave(&in[0]);
	ck_assert_int_eq(gate_poll(&line.p, now), GATE_WAIT);
	ck_assert_uint_gt(line.p.due, now);
	told(&line, GATE_ENTERED);
	leave(&line);
	for (int i = 1; i < 4; i++)
		leave(&in[i]);
}
END_TEST

START_TEST(leaving_before_the_wake_arrives_passes_the_place_on)
{
	struct asker in[4], first, second;

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&in[i], 1), GATE_ENTERED);
	ck_assert_int_eq(enter(&first, 1), GATE_WAIT);
	ck_assert_int_eq(enter(&second, 1), GATE_WAIT);
	leave(&in[0]);
	ck_assert_uint_eq(first.wakes, 1);
	/* Its message is under way: it has to stay for that. */
	ck_assert(!gate_leave(&first.p));
	told(&second, GATE_ENTERED);
	counts(4, 4, 0);
	leave(&second);
	for (int i = 1; i < 4; i++)
		leave(&in[i]);
	/* Once is enough. */
	leave(&in[0]);
	counts(0, 0, 0);
}
END_TEST

START_TEST(the_death_of_a_destination_wakes_all_who_wait)
{
	static struct asker in[4], line[1000];
	struct asker late, probe;

	limits.max_waiting = 1000;
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&in[i], 1), GATE_ENTERED);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(enter(&line[i], i % 37), GATE_WAIT);
	gate_shut(g);
	for (int i = 0; i < 1000; i++)
		told(&line[i], GATE_DOWN);
	counts(4, 4, 0);
	ck_assert_int_eq(enter(&late, 1), GATE_DOWN);
	leave(&in[0]);
	ck_assert_int_eq(enter(&late, 1), GATE_DOWN);
	begin(&probe, 1);
	probe.p.probe = true;
	ck_assert_int_eq(gate_enter(g, &probe.p, &limits, now), GATE_ENTERED);
	/* A probe does not wait either. */
	begin(&late, 1);
	late.p.probe = true;
	ck_assert_int_eq(gate_enter(g, &late.p, &limits, now), GATE_DOWN);
	leave(&probe);
	for (int i = 1; i < 4; i++)
		leave(&in[i]);
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_recovery_bounds_the_unproved)
{
	struct asker old[2], in[8];

	limits.max_connecting = 8;
	/* They hang since before it was down. */
	ck_assert_int_eq(enter(&old[0], 1), GATE_ENTERED);
	ck_assert_int_eq(enter(&old[1], 1), GATE_ENTERED);
	gate_shut(g);
	gate_recover(g, 2);
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(enter(&in[i], 10 + i),
		    i < 2 ? GATE_ENTERED : GATE_WAIT);
	/* Proved is enough, it need not be done. */
	gate_prove(&in[0].p);
	gate_prove(&in[0].p);
	told(&in[2], GATE_ENTERED);
	ck_assert_uint_eq(in[3].wakes, 0);
	leave(&old[0]);
	ck_assert_uint_eq(in[3].wakes, 0);
	gate_settle(&in[1].p);
	told(&in[3], GATE_ENTERED);
	gate_ramp(g, 4);
	told(&in[4], GATE_ENTERED);
	told(&in[5], GATE_ENTERED);
	ck_assert_uint_eq(in[6].wakes, 0);
	/* Without a ramp max_connecting is what counts. */
	gate_ramp(g, 0);
	told(&in[6], GATE_ENTERED);
	told(&in[7], GATE_ENTERED);
	counts(8, 9, 0);
	leave(&old[1]);
	for (int i = 0; i < 8; i++)
		leave(&in[i]);
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_drain_makes_logins_wait_and_look_again)
{
	struct asker in, line[2], after;
	struct gate_counts c;

	ck_assert_int_eq(enter(&in, 1), GATE_ENTERED);
	gate_drain(g, true);
	ck_assert_int_eq(enter(&line[0], 1), GATE_WAIT);
	ck_assert_int_eq(enter(&line[1], 2), GATE_WAIT);
	gate_count(g, &c);
	ck_assert(c.draining);
	leave(&in);
	ck_assert_uint_eq(line[0].wakes, 0);
	gate_drain(g, false);
	told(&line[0], GATE_AGAIN);
	told(&line[1], GATE_AGAIN);
	ck_assert_ptr_null(line[0].p.gate);
	ck_assert_int_eq(enter(&after, 1), GATE_ENTERED);
	leave(&after);
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_held_account_waits_until_it_is_released)
{
	struct asker a, b, c;

	ck_assert_int_eq(check_hold(&a, KEY), GATE_ENTERED);
	ck_assert(gate_hold(KEY, "moving", now + 500, now));
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	ck_assert_int_eq(check_hold(&b, KEY), GATE_WAIT);
	ck_assert_int_eq(check_hold(&c, "bob@example.com"), GATE_ENTERED);
	counts(0, 0, 2);
	ck_assert_uint_eq(a.p.due, now + 500);
	leave(&b);
	ck_assert(gate_release(KEY, now));
	told(&a, GATE_AGAIN);
	ck_assert_uint_eq(b.wakes, 0);
	ck_assert(!gate_release(KEY, now));
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_held_domain_holds_its_accounts)
{
	struct asker a, b;

	ck_assert(gate_hold("@example.com", "", now + 500, now));
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	ck_assert_int_eq(check_hold(&b, "a@example.org"), GATE_ENTERED);
	ck_assert_int_eq(check_hold(&b, "alice"), GATE_ENTERED);
	ck_assert_int_eq(check_hold(&b, ""), GATE_ENTERED);
	ck_assert(gate_is_held("@example.com", now, NULL));
	ck_assert(!gate_is_held(KEY, now, NULL));
	ck_assert(gate_release("@example.com", now));
	told(&a, GATE_AGAIN);
}
END_TEST

START_TEST(a_lease_ends_by_itself)
{
	struct asker a, b, c;
	uint64_t until;

	ck_assert(gate_hold(KEY, "", now + 500, now));
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	ck_assert_int_eq(check_hold(&b, KEY), GATE_WAIT);
	now += 400;
	/* Renewed in time. */
	ck_assert(gate_hold(KEY, "", now + 500, now));
	now += 100;
	ck_assert_int_eq(gate_poll(&a.p, now), GATE_WAIT);
	ck_assert_uint_eq(a.p.due, now + 400);
	ck_assert(gate_is_held(KEY, now, &until));
	ck_assert_uint_eq(until, now + 400);
	now += 400;
	ck_assert(!gate_is_held(KEY, now, NULL));
	/* The first to look ends it for all. */
	ck_assert_int_eq(gate_poll(&a.p, now), GATE_AGAIN);
	told(&b, GATE_AGAIN);
	ck_assert_int_eq(check_hold(&c, KEY), GATE_ENTERED);
	counts(0, 0, 0);
}
END_TEST

START_TEST(a_lease_may_be_cut_short)
{
	struct asker a;

	ck_assert(gate_hold(KEY, "", now + 50000, now));
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	ck_assert(gate_hold(KEY, "", now + 10, now));
	told(&a, GATE_AGAIN);
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	ck_assert_uint_eq(a.p.due, now + 10);
	leave(&a);
}
END_TEST

START_TEST(a_hold_does_not_outlast_the_login)
{
	struct asker a, b;

	ck_assert(gate_hold(KEY, "", now + 10 * PATIENCE, now));
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	now += PATIENCE;
	ck_assert_int_eq(gate_poll(&a.p, now), GATE_TIMEOUT);
	counts(0, 0, 0);
	limits.max_waiting = 1;
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	ck_assert_int_eq(check_hold(&b, KEY), GATE_FULL);
	/* Told, and gone before the message came. */
	ck_assert(gate_release(KEY, now));
	ck_assert_int_eq(gate_poll(&a.p, now), GATE_WAIT);
	ck_assert(!gate_leave(&a.p));
	counts(0, 0, 0);
}
END_TEST

static void
see(void *arg, const char *key, const char *note, uint64_t until,
    size_t waiting)
{
	unsigned *seen = arg;

	ck_assert_str_eq(key, KEY);
	ck_assert_str_eq(note, "a note");
	ck_assert_uint_eq(until, now + 500);
	ck_assert_uint_eq(waiting, 1);
	(*seen)++;
}

START_TEST(holds_are_listed_and_bounded)
{
	struct asker a;
	unsigned seen = 0;
	bool held = true;
	char key[32];

	ck_assert(gate_hold(KEY, "a note", now + 500, now));
	ck_assert(gate_hold("gone@example.com", "", now + 1, now - 1));
	ck_assert_int_eq(check_hold(&a, KEY), GATE_WAIT);
	now += 100;
	ck_assert(gate_hold(KEY, "", now + 500, now));
	gate_holds(now, see, &seen);
	ck_assert_uint_eq(seen, 1);
	leave(&a);
	ck_assert(!gate_release("gone@example.com", now));
	for (unsigned i = 1; i < GATE_HOLDS_MAX; i++) {
		snprintf(key, sizeof(key), "u%u", i);
		held = gate_hold(key, "", now + 1000, now) && held;
	}
	ck_assert(held);
	ck_assert(!gate_hold("one@too.many", "", now + 1000, now));
	ck_assert(!gate_is_held("one@too.many", now, NULL));
	/* What has ended makes room. */
	now += 1000;
	ck_assert(gate_hold("one@too.many", "", now + 1000, now));
}
END_TEST

/* Random histories, against a model that looks at everybody each time. */

#define MODEL_ASKERS 40
#define MODEL_CLIENTS 6
#define MODEL_STEPS 2000
#define MODEL_HISTORIES 40

struct model_asker {
	struct asker a;
	enum gate_standing standing;
	enum gate_verdict verdict; /* to be told, or WAIT */
	uint64_t client, arrival, give_up;
	unsigned era;
	bool proved;
};

static struct {
	struct model_asker asker[MODEL_ASKERS];
	struct gate_limits limits;
	uint64_t arrivals;
	unsigned era, ramp;
	bool down, draining;
	unsigned seed;
} model;

static unsigned
any(unsigned n)
{
	return (unsigned)rand_r(&model.seed) % n;
}

static unsigned
model_count(enum gate_standing standing)
{
	unsigned n = 0;

	for (int i = 0; i < MODEL_ASKERS; i++)
		if (model.asker[i].standing == standing)
			n++;
	return n;
}

static unsigned
model_places(uint64_t client)
{
	unsigned n = 0;

	for (int i = 0; i < MODEL_ASKERS; i++)
		if (model.asker[i].standing == GATE_CONNECTING &&
		    model.asker[i].client == client)
			n++;
	return n;
}

static bool
model_open(void)
{
	unsigned unproved = 0, connecting = model_count(GATE_CONNECTING);

	for (int i = 0; i < MODEL_ASKERS; i++)
		if (model.asker[i].standing == GATE_CONNECTING &&
		    model.asker[i].era == model.era && !model.asker[i].proved)
			unproved++;
	return !model.down && !model.draining &&
	    connecting < model.limits.max_connecting &&
	    connecting + model_count(GATE_SESSION) <
	    model.limits.max_sessions &&
	    (model.ramp == 0 || unproved < model.ramp);
}

static void
model_take(struct model_asker *m)
{
	m->standing = GATE_CONNECTING;
	m->era = model.era;
	m->proved = false;
}

static void
model_admit(void)
{
	struct model_asker *m, *best;

	while (model_open()) {
		best = NULL;
		for (int i = 0; i < MODEL_ASKERS; i++) {
			unsigned a, b;

			m = &model.asker[i];
			if (m->standing != GATE_QUEUED)
				continue;
			a = model_places(m->client);
			b = best != NULL ? model_places(best->client) : 0;
			if (best == NULL || a < b ||
			    (a == b && m->arrival < best->arrival))
				best = m;
		}
		if (best == NULL)
			return;
		model_take(best);
		best->verdict = GATE_ENTERED;
	}
}

static void
model_dismiss(enum gate_verdict verdict)
{
	for (int i = 0; i < MODEL_ASKERS; i++)
		if (model.asker[i].standing == GATE_QUEUED) {
			model.asker[i].standing = GATE_OUTSIDE;
			model.asker[i].verdict = verdict;
		}
}

static enum gate_verdict
model_enter(struct model_asker *m)
{
	unsigned waiting = model_count(GATE_QUEUED);

	if (model.down)
		return GATE_DOWN;
	if (waiting == 0 && model_open()) {
		model_take(m);
		return GATE_ENTERED;
	}
	if (model_count(GATE_CONNECTING) + model_count(GATE_SESSION) >=
		model.limits.max_sessions ||
	    waiting >= model.limits.max_waiting)
		return GATE_FULL;
	m->standing = GATE_QUEUED;
	m->arrival = model.arrivals++;
	return GATE_WAIT;
}

static void
model_leave(struct model_asker *m)
{
	bool told_later = m->verdict != GATE_WAIT;

	ck_assert(gate_leave(&m->a.p) == !told_later);
	m->standing = GATE_OUTSIDE;
	/* Its message comes, and is for nobody. */
	m->verdict = GATE_WAIT;
	if (told_later)
		ck_assert_uint_eq(m->a.wakes, 1);
	m->a.wakes = 0;
}

/* Something that may happen to one login. */
static void
model_step_one(struct model_asker *m)
{
	enum gate_verdict verdict;

	if (m->verdict != GATE_WAIT && any(3) > 0) {
		told(&m->a, m->verdict);
		m->verdict = GATE_WAIT;
	} else if (m->verdict != GATE_WAIT) {
		model_leave(m);
	} else if (m->standing == GATE_OUTSIDE) {
		m->client = any(MODEL_CLIENTS);
		begin(&m->a, m->client);
		m->give_up = now + PATIENCE;
		verdict = gate_enter(g, &m->a.p, &model.limits, now);
		ck_assert_int_eq(model_enter(m), verdict);
	} else if (m->standing == GATE_QUEUED && any(2) > 0) {
		verdict = gate_poll(&m->a.p, now);
		ck_assert_int_eq(verdict,
		    now < m->give_up ? GATE_WAIT : GATE_TIMEOUT);
		if (verdict == GATE_TIMEOUT)
			m->standing = GATE_OUTSIDE;
	} else if (m->standing == GATE_CONNECTING && any(3) > 0) {
		if (any(2) > 0) {
			gate_prove(&m->a.p);
			m->proved = true;
		} else {
			gate_settle(&m->a.p);
			m->standing = GATE_SESSION;
		}
	} else {
		model_leave(m);
	}
}

static void
model_step_all(void)
{
	switch (any(6)) {
	case 0:
		gate_shut(g);
		model.down = true;
		model_dismiss(GATE_DOWN);
		break;
	case 1:
		gate_recover(g, 2);
		model.down = false;
		model.era++;
		model.ramp = 2;
		break;
	case 2:
		model.ramp = any(9);
		gate_ramp(g, model.ramp);
		break;
	case 3:
		gate_drain(g, true);
		model.draining = true;
		break;
	case 4:
		if (model.draining)
			model_dismiss(GATE_AGAIN);
		gate_drain(g, false);
		model.draining = false;
		break;
	case 5:
		now += any(PATIENCE);
		break;
	}
}

/* Check's assertions write a file each: one in all. */
static void
model_compare(void)
{
	unsigned connecting = model_count(GATE_CONNECTING);
	struct gate_counts c;
	bool same;

	gate_count(g, &c);
	same = c.connecting == connecting &&
	    c.sessions == connecting + model_count(GATE_SESSION) &&
	    c.waiting == model_count(GATE_QUEUED);
	for (int i = 0; i < MODEL_ASKERS; i++)
		same = same &&
		    model.asker[i].a.wakes ==
			(model.asker[i].verdict != GATE_WAIT);
	ck_assert(same);
}

START_TEST(random_histories_are_the_models)
{
	for (unsigned history = 0; history < MODEL_HISTORIES; history++) {
		memset(&model, 0, sizeof(model));
		model.seed = history;
		model.limits =
		    (struct gate_limits){1 + any(8), 4 + any(30), any(30)};
		for (int i = 0; i < MODEL_ASKERS; i++)
			model.asker[i].verdict = GATE_WAIT;
		for (int step = 0; step < MODEL_STEPS; step++) {
			if (any(40) == 0)
				model_step_all();
			else
				model_step_one(&model.asker[any(MODEL_ASKERS)]);
			model_admit();
			model_compare();
		}
		for (int i = 0; i < MODEL_ASKERS; i++) {
			model_leave(&model.asker[i]);
			model_admit();
		}
		gate_free(&g);
		g = gate_new();
	}
}
END_TEST

/* Threads, each with a mailbox of its own */

#define THREADS 4
#define LOGINS 500 /* of each thread */
#define AT_ONCE 50

struct worker;

struct login {
	struct gate_place p;
	struct worker *worker;
	struct login *next_message;
	bool waits, gone;
};

struct worker {
	pthread_t thread;
	unsigned seed;
	pthread_mutex_t lock;
	struct login *messages;
	struct login login[AT_ONCE];
	unsigned entered, again;
};

static struct worker worker[THREADS];
static atomic_int inside;
static atomic_bool over;

static void
login_wake(struct gate_place *p)
{
	struct login *l = (struct login *)(void *)p;

	pthread_mutex_lock(&l->worker->lock);
	l->next_message = l->worker->messages;
	l->worker->messages = l;
	pthread_mutex_unlock(&l->worker->lock);
}

static void
login_judged(struct login *l, enum gate_verdict verdict)
{
	l->waits = verdict == GATE_WAIT;
	if (verdict == GATE_ENTERED) {
		l->worker->entered++;
		ck_assert_int_le(atomic_fetch_add(&inside, 1) + 1, 8);
	} else if (verdict == GATE_AGAIN) {
		l->worker->again++;
	}
}

static void
worker_read(struct worker *w)
{
	struct login *l, *next;

	pthread_mutex_lock(&w->lock);
	l = w->messages;
	w->messages = NULL;
	pthread_mutex_unlock(&w->lock);
	for (; l != NULL; l = next) {
		next = l->next_message;
		if (l->gone)
			l->gone = l->waits = false;
		else
			login_judged(l, gate_told(&l->p));
	}
}

static void
worker_step(struct worker *w)
{
	struct login *l = &w->login[(unsigned)rand_r(&w->seed) % AT_ONCE];
	bool stays = rand_r(&w->seed) % 4 != 0;
	enum gate_verdict verdict;

	if (l->gone || (l->waits && stays))
		return;
	if (l->p.gate == NULL) {
		memset(&l->p, 0, sizeof(l->p));
		l->p.wake = login_wake;
		l->p.client = (unsigned)rand_r(&w->seed) % 5;
		l->p.give_up = UINT64_MAX;
		verdict = gate_check_hold(g, &l->p, &limits, KEY, 1);
		if (verdict == GATE_ENTERED)
			verdict = gate_enter(g, &l->p, &limits, 1);
		login_judged(l, verdict);
		return;
	}
	if (!l->waits)
		atomic_fetch_sub(&inside, 1);
	l->gone = !gate_leave(&l->p);
	l->waits = l->gone;
}

static void *
worker_run(void *arg)
{
	struct worker *w = arg;

	while (w->entered < LOGINS) {
		worker_read(w);
		worker_step(w);
	}
	for (int i = 0; i < AT_ONCE; i++) {
		struct login *l = &w->login[i];

		worker_read(w);
		if (l->p.gate != NULL && !l->waits)
			atomic_fetch_sub(&inside, 1);
		if (!l->gone)
			l->gone = !gate_leave(&l->p);
		while (l->gone)
			worker_read(w);
	}
	return NULL;
}

static void *
operate(void *arg UNUSED)
{
	unsigned seed = 1;

	while (!over) {
		sched_yield();
		switch (rand_r(&seed) % 5) {
		case 0:
			gate_shut(g);
			gate_recover(g, 2);
			break;
		case 1:
			gate_ramp(g, 0);
			break;
		case 2:
			gate_drain(g, true);
			gate_drain(g, false);
			break;
		case 3:
			ck_assert(gate_hold(KEY, "", 2, 1));
			break;
		case 4:
			gate_release(KEY, 1);
			break;
		}
	}
	gate_release(KEY, 1);
	gate_drain(g, false);
	return NULL;
}

START_TEST(threads_share_a_gate)
{
	pthread_t operator;

	limits = (struct gate_limits){8, 0, 100};
	over = false;
	inside = 0;
	memset(worker, 0, sizeof(worker));
	ck_assert_int_eq(pthread_create(&operator, NULL, operate, NULL), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		struct worker *w = &worker[i];

		w->seed = i;
		pthread_mutex_init(&w->lock, NULL);
		for (int j = 0; j < AT_ONCE; j++)
			w->login[j].worker = w;
		ck_assert_int_eq(pthread_create(&w->thread, NULL, worker_run,
				     w),
		    0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(worker[i].thread, NULL);
	over = true;
	pthread_join(operator, NULL);
	counts(0, 0, 0);
	ck_assert_int_eq(inside, 0);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("gate");
	TCase *tc = tcase_create("gate");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, a_freed_place_goes_to_the_first_in_line);
	tcase_add_test(tc, an_address_with_fewer_places_comes_first);
	tcase_add_test(tc, a_session_is_no_longer_connecting);
	tcase_add_test(tc, a_waiter_gets_the_place_of_a_session_that_ends);
	tcase_add_test(tc, too_many_waiters_are_refused_at_once);
	tcase_add_test(tc, a_wait_ends_at_its_time);
	tcase_add_test(tc, leaving_before_the_wake_arrives_passes_the_place_on);
	tcase_add_test(tc, the_death_of_a_destination_wakes_all_who_wait);
	tcase_add_test(tc, a_recovery_bounds_the_unproved);
	tcase_add_test(tc, a_drain_makes_logins_wait_and_look_again);
	tcase_add_test(tc, a_held_account_waits_until_it_is_released);
	tcase_add_test(tc, a_held_domain_holds_its_accounts);
	tcase_add_test(tc, a_lease_ends_by_itself);
	tcase_add_test(tc, a_lease_may_be_cut_short);
	tcase_add_test(tc, a_hold_does_not_outlast_the_login);
	tcase_add_test(tc, holds_are_listed_and_bounded);
	tcase_add_test(tc, random_histories_are_the_models);
	tcase_add_test(tc, threads_share_a_gate);
	suite_add_tcase(suite, tc);
	return run(suite);
}
