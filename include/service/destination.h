/* destination.h: what the workers share about one endpoint of a destination,
 * that is, about one host, port and protocol: its places, whether it is well,
 * and what it has been seen to understand. One port that is dead says nothing
 * about the host's other ports. Time is an argument (clock_ms()). */

#ifndef SERVICE_DESTINATION_H
#define SERVICE_DESTINATION_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "service/gate.h"

struct destination;
struct learnt;

/* Returns an object with one reference, or NULL if memory is short. Reads cfg
 * only in this call. */
struct destination *destination_new(const struct config_destination *cfg);
struct destination *destination_ref(struct destination *d);
/* The last one frees it: no place may be left. */
void destination_unref(struct destination **d);
/* As configured; lives as long as d, which outlives its configuration. */
const char *destination_name(const struct destination *d);
/* Its gate, for drains and figures. d's. */
struct gate *destination_gate(struct destination *d);

/* Takes a place for a login of key (the identifier as it was routed, or "") or
 * waits for one, as gate_enter() does; gate_poll() and gate_told() go on with
 * it. A destination that is down lets nobody in until its cooldown is over, and
 * then one connection at a time, the probe (p->probe). One that has just come
 * back lets in few that are not proved yet, twice as many after each login that
 * is answered, so that those who waited do not stampede it. */
enum gate_verdict destination_enter(struct destination *d, struct gate_place *p,
    const struct config_destination *cfg, const char *key,
    uint64_t now) MUST_CHECK;
/* The backend has accepted the login: the place is a session's. */
void destination_logged_in(struct destination *d, struct gate_place *p);
/* As gate_leave(). A probe that goes without a verdict leaves the next one to
 * find out. */
bool destination_leave(struct destination *d, struct gate_place *p) MUST_CHECK;

/* The circuit breaker's rules, from config.server. */
struct destination_health {
	unsigned threshold; /* consecutive failures; 0 = never down */
	unsigned min_clients; /* of failures after the connect; 0 = any */
	uint64_t cooldown; /* ms */
};

/* What a failure may say of the destination. The rule: the host is to blame for
 * what it does before it has a word of the client's login, or for what it does
 * to every client. What one client can cause by its own login, however often
 * and from however many addresses, is not the host's. */
enum destination_fault {
	/* Before or in the connect. Counts. */
	DESTINATION_HOST,
	/* Afterwards, before any word of the login was sent. It may be this
	 * client's doing, for there are backends that ban a forwarded address
	 * by hanging up: counts over min_clients. */
	DESTINATION_EARLY,
	/* EARLY, and it closed where its greeting was due. While sessions of
	 * ours live there it is full, not down, and this counts nothing. */
	DESTINATION_TURNED_AWAY,
	/* After a word of the login was sent (a long password makes some hang
	 * up). Counts once per client, and for clients that it has let in
	 * before: if it hangs up on those, it does so on everybody. */
	DESTINATION_LOGIN
};

/* It has answered p's login: it is well. True: it was down. */
bool destination_worked(struct destination *d, struct gate_place *p);
/* It has been busy with p's login for longer than failing takes. If it was
 * down, it is up, and others are let in; but what has failed so far still
 * counts, for there are backends that think about it and then hang up. True: it
 * was down. */
bool destination_at_work(struct destination *d, struct gate_place *p);
/* It could not. True: that was the one that marks it down; whoever waits at its
 * gate is told.
 *
 * While it is down only probes count. A failure of the host's own starts
 * another cooldown for everybody. Any other failure starts one for that client
 * only, until probes of min_clients have failed within a cooldown. */
bool destination_failed(struct destination *d, const struct gate_place *p,
    const struct destination_health *rules, uint64_t now,
    enum destination_fault fault);
/* Closes the breaker and forgets failures and what was learnt: an operator
 * knows better. */
void destination_reset(struct destination *d);

enum destination_state {
	DESTINATION_UP,
	DESTINATION_DOWN,
	DESTINATION_RECOVERING, /* up, but not all at once */
	DESTINATION_DRAIN, /* whatever its health is */
	DESTINATION_STATES
};
struct destination_figures {
	enum destination_state state;
	unsigned failures, host_failures; /* consecutive */
	unsigned clients; /* that had them */
	uint64_t down_until; /* 0: not down */
	struct gate_counts gate;
};
void destination_figures(struct destination *d,
    struct destination_figures *out);
/* "up", "down", "recovering", "drain". Static. */
const char *destination_state_name(enum destination_state state);

/* Whether destination_worked() would change anything; takes no lock. */
bool destination_is_troubled(const struct destination *d);
bool destination_is_down(struct destination *d);

/* What logins have found out about its servers; lives as long as d. */
struct learnt *destination_memory(struct destination *d);
/* Returns true the first time: a warning that is told once per destination. */
bool destination_first_warning(struct destination *d);

#endif
