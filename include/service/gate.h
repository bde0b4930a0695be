/* gate.h: the gate, where a login waits between its route and its backend.
 *
 * One mechanism for every reason to wait: the account is held, the destination
 * drains or recovers, or max_connecting logins are under way there. Any thread
 * may call any function. Time is an argument (clock_ms()); nothing here has a
 * timer.
 *
 * The asker owns a struct gate_place. It waits, or it is a place at the
 * backend; gate_leave() ends both. Turns go to the client address that has the
 * fewest places among the connecting ones, then to the one that came first. A
 * freed place is given away at once: a waiter that is woken owns its place
 * already.
 *
 * n waiters of m addresses: entering, leaving and a turn cost O(log m); a gate
 * that nobody waits at costs O(1). Shutting it, and the end of a drain or of a
 * hold, wake all who wait for that, O(n) once. */

#ifndef SERVICE_GATE_H
#define SERVICE_GATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platform/util.h"

struct gate; /* an endpoint's */

struct gate_limits {
	unsigned max_connecting, max_sessions; /* 0: no limit */
	unsigned max_waiting; /* 0: nobody waits */
};

enum gate_verdict {
	GATE_ENTERED, /* it has a place */
	GATE_WAIT, /* wake() will be called */
	GATE_AGAIN, /* the reason to wait is over: look up the route again */
	GATE_DOWN, /* the destination is down */
	GATE_FULL, /* max_sessions, or max_waiting others wait already */
	GATE_TIMEOUT, /* its time is up */
	GATE_NO_MEMORY
};

enum gate_standing {
	GATE_OUTSIDE,
	GATE_QUEUED, /* at a gate */
	GATE_HELD, /* at a hold */
	GATE_CONNECTING, /* one of max_connecting and max_sessions */
	GATE_SESSION /* one of max_sessions only */
};

struct gate_client;
struct gate_hold;

/* Zeroed by the asker, which then fills in the first part. */
struct gate_place {
	/* The wait is over; gate_told() returns the result. The thread that
	 * ended it calls this, without a lock; it must send a message to the
	 * asker's thread. */
	void (*wake)(struct gate_place *p);
	uint64_t client; /* addr_client_hash() */
	uint64_t give_up; /* when to stop waiting; 0: at once */
	bool probe; /* probes whether the destination is up again */

	/* While it waits: call gate_poll() then. */
	uint64_t due;

	/* The gate's own. */
	struct gate *gate; /* NULL: never entered, or left */
	pthread_mutex_t *lock; /* of the list that it is in */
	struct gate_place *next, *prev;
	struct gate_client *turn;
	struct gate_hold *hold;
	uint64_t arrival;
	enum gate_standing standing;
	enum gate_verdict verdict; /* the result of the wait */
	bool woken; /* wake() has been or will be called */
	bool proved;
	unsigned era;
};

/* NULL: no memory. */
struct gate *gate_new(void);
/* Nobody may wait or have a place any more. */
void gate_free(struct gate **g);

/* Takes a place or waits for one. After ENTERED and WAIT the caller must call
 * gate_leave(), and g must live until then. Sets the gate's limits. */
enum gate_verdict gate_enter(struct gate *g, struct gate_place *p,
    const struct gate_limits *limits, uint64_t now) MUST_CHECK;

/* Waits if key ("alice@example.com") or its "@domain" is held, and counts among
 * g's waiters. Returns ENTERED if it is not held; p has no place yet. */
enum gate_verdict gate_check_hold(struct gate *g, struct gate_place *p,
    const struct gate_limits *limits, const char *key, uint64_t now) MUST_CHECK;

/* Call on the asker's thread, after wake(). If ENTERED, p has a place.
 * Otherwise p has left and may enter again. */
enum gate_verdict gate_told(struct gate_place *p);

/* Call at p->due. Returns WAIT (p->due has moved), AGAIN or TIMEOUT. After
 * AGAIN and TIMEOUT p has left. */
enum gate_verdict gate_poll(struct gate_place *p, uint64_t now) MUST_CHECK;

/* The backend has answered something that shows that it works, or has been
 * busy with the login for longer than failing takes. Without a place: nothing. */
void gate_prove(struct gate_place *p);

/* The login is done: the place is now a session's and no longer a connecting
 * one. */
void gate_settle(struct gate_place *p);

/* Stops waiting, or gives the place back. May be called at any time. Returns
 * true if p has left. Returns false if p has left but wake() has been or is
 * being called; the caller must keep p until that message has come. */
bool gate_leave(struct gate_place *p) MUST_CHECK;

/* The destination is down: wakes all waiters, and admits only probes. */
void gate_shut(struct gate *g);
/* The destination is up again: admits only so many unproved logins at a
 * time. */
void gate_recover(struct gate *g, unsigned unproved);
/* The same number, changed. 0: no such limit any more. */
void gate_ramp(struct gate *g, unsigned unproved);

/* While the destination drains, logins wait. At the end they get AGAIN. */
void gate_drain(struct gate *g, bool on);

struct gate_counts {
	unsigned connecting, sessions; /* the connecting ones included */
	unsigned waiting; /* those of holds included */
	bool draining;
};
void gate_count(struct gate *g, struct gate_counts *out);

/* Holds: leases on an identifier or an "@domain", the process's. */

#define GATE_HOLDS_MAX 100000

/* Holds key until then, or renews its hold. Returns false if memory is short or
 * too many keys are held. note: for people, or "". */
bool gate_hold(const char *key, const char *note, uint64_t until,
    uint64_t now) MUST_CHECK;
/* Returns false if key was not held. */
bool gate_release(const char *key, uint64_t now);
/* Returns true if exactly that key is held; until_out may be NULL. */
bool gate_is_held(const char *key, uint64_t now, uint64_t *until_out);

/* Calls each() for every hold, under a lock: it must not call back. */
void gate_holds(uint64_t now,
    void (*each)(void *arg, const char *key, const char *note, uint64_t until,
	size_t waiting),
    void *arg);

/* Forgets all holds; all waiters get AGAIN. For tests and the end. */
void gate_holds_clear(void);

#endif
