/* session.h: a worker's interface to its sessions: it passes accepted sockets
 * in, and asks sessions to end. */

#ifndef SESSION_SESSION_H
#define SESSION_SESSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "platform/err.h"
#include "platform/log.h"

struct config_listener;
struct event;
struct event_base;
struct linger_set;
struct mailbox;
struct resolver;
struct runtime_slice;
struct session;

/* The counters of one worker since its start. */
enum session_count {
	COUNT_CONNECTIONS, /* accepted, including refused ones */
	COUNT_FULL, /* refused: max_connections */
	COUNT_PER_IP, /* refused: max_connections_per_ip */
	COUNT_LOGINS, /* that a backend has accepted */
	COUNT_FAILED, /* logins that were refused */
	COUNT_THROTTLED, /* of these, refused without asking a backend */
	COUNT_DEFERRED, /* logins with a temporary error */
	SESSION_COUNTS
};

/* What all sessions of one worker share. The worker fills in the first part,
 * session_env_init() the rest. */
struct session_env {
	struct event_base *base;
	struct mailbox *mailbox;
	struct resolver *resolver;
	struct runtime_slice *slice; /* the current one */
	void (*empty)(void *arg); /* draining, and the last session is gone */
	void *arg;
	/* Any thread may read them. */
	atomic_ullong count[SESSION_COUNTS];

	struct linger_set *lingers;
	struct session *live, *dead;
	struct event *reap;
	char *scratch; /* one line: only while it is being handled */
	size_t n_live;
	bool draining;
};

int session_env_init(struct session_env *env, struct err *err) MUST_CHECK;
void session_env_clear(struct session_env *env);

/* One line a second for all connections of a listener that are turned away. */
struct session_brakes {
	struct log_brake full, per_ip, proxy;
};

struct session_arrival {
	int fd; /* taken over */
	size_t listener; /* its index in the current configuration */
	const char *listener_name; /* outlives the session */
	struct session_brakes *brakes; /* likewise */
	const struct sockaddr *peer;
	socklen_t peer_len;
	bool full; /* the listener is: greet with that and close */
	/* Called when the session has ended, for the listener's count. */
	void (*gone)(void *arg);
	void *gone_arg;
};

void session_accept(struct session_env *env, const struct session_arrival *a);

/* Closes fd, with a word of why if that costs nothing: the listener has so many
 * connections that it cannot even greet this one. */
void session_turn_away(const struct config_listener *l, int fd);

/* Adds one to a counter. The worker calls it for connections that never become
 * a session. */
void session_env_count(struct session_env *env, enum session_count what);

/* Ends the sessions that are still in the dialogue, with a reply that says why.
 * Logins and relays go on until session_close_all(). */
void session_drain(struct session_env *env);
void session_close_all(struct session_env *env);

#endif
