/* failure.h: why a login did not succeed, and what follows from it.
 *
 * One table answers every question about a failure, so that the client's
 * reply, the log, the retry, the attempt count and the backend's health cannot
 * contradict each other. */

#ifndef SESSION_FAILURE_H
#define SESSION_FAILURE_H

#include <stdbool.h>
#include <stdint.h>

/* So many temporary failures of one connection end it. */
#define FAILURE_DEFERRED_MAX 10

enum failure {
	FAIL_SYNTAX, /* the client's SASL message is malformed */
	FAIL_IDENTIFIER, /* the name cannot be routed or forwarded */
	FAIL_UNREPLAYABLE, /* the backend's USER/PASS cannot carry it */
	FAIL_REJECTED, /* the backend refused the credentials */
	FAIL_BUSY, /* it is busy: [IN-USE], [LOGIN-DELAY], [SYS/..] */
	FAIL_STORE, /* the mapping store failed */
	FAIL_LOOP, /* routing loop */
	FAIL_DOWN, /* the destination is known to be down */
	FAIL_THROTTLED, /* too many refused logins from this address */
	FAIL_FULL, /* the destination has all the connections it may have */
	FAIL_HELD, /* the account is held, for longer than it may wait */
	FAIL_SHUTDOWN, /* the process ends while it waits for its turn */
	FAIL_LOCAL, /* our own shortage: descriptors, memory, addresses */
	FAIL_RESOLVE, /* the backend's name does not resolve */
	FAIL_CONNECT, /* it does not accept connections */
	FAIL_TLS, /* the leg could not be secured */
	FAIL_CLOSED, /* it closed before it had the credentials */
	FAIL_PROTOCOL, /* it does not speak as it must */
	FAIL_SETUP, /* its configuration, not the password, refuses us */
	FAIL_FORWARDING, /* it refused to hear who the client is */
	FAIL_TIMEOUT, /* backend_timeout is over, with a connection */
	FAIL_NO_CONNECT, /* ... without one */
	FAIL_DROPPED, /* it got the credentials and closed without a reply */
	FAIL_UNANSWERED, /* it got the credentials and did not reply */
	FAILURES
};

/* Whose fault a failure is, for the breaker. */
enum failure_blame {
	BLAME_NOBODY,
	BLAME_HOST, /* the host's, whoever the client is */
	BLAME_CLIENT /* it may be this client's doing */
};

/* The name in the log and in docs/troubleshooting.md. Static. */
const char *failure_name(enum failure why);
/* Of the log line: LOG_ERR .. LOG_DEBUG. */
int failure_level(enum failure why);
/* Returns true if it is one of max_auth_attempts and its reply is delayed. */
bool failure_counts(enum failure why);
/* Returns how many ms the reply to a connection's n-th temporary failure takes
 * at least, from 1 on: none at first, then twice as long each time. Otherwise
 * one client could have the store or the backend asked thousands of times a
 * second. */
uint64_t failure_brake(unsigned n);
/* Returns true if another connection may help. */
bool failure_retries(enum failure why);
/* Returns true if the reply is [SYS/TEMP]; [AUTH] otherwise (RFC 3206). */
bool failure_temporary(enum failure why);
enum failure_blame failure_blame(enum failure why);
/* The reply's words. A temporary failure's hold neither "password" nor
 * "login" nor "authentication": many mail programs ask for a new password
 * when they read one. Static. */
const char *failure_text(enum failure why);

#endif
