/* session_priv.h: one session, as its own files know it.
 *
 * session.c owns everything here and decides; session_client.c leads the
 * dialogue and brings credentials; session_backend.c brings them to a backend.
 * The legs know the session, never each other. */

#ifndef SESSION_PRIV_H
#define SESSION_PRIV_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "platform/addr.h"
#include "config/config.h"
#include "platform/log.h"
#include "platform/secret.h"
#include "proto/sasl.h"
#include "proto/xclient.h"
#include "session/session.h"

struct bufferevent;
struct evbuffer;
struct client;
struct backend;
struct destination;
struct relay;
struct route_lookup;

#define SESSION_SCRATCH (64 * 1024 + 16)

enum session_phase {
	SESSION_DIALOGUE, /* the client leg leads */
	SESSION_ROUTE, /* a route is being looked up */
	SESSION_BACKEND, /* the backend leg leads */
	SESSION_CHALLENGE, /* the backend asked, the client has to answer */
	SESSION_RELAY,
	SESSION_CLOSED, /* waits for session_reap_cb() */
	SESSION_PHASES
};

/* Why a login did not succeed. What each one means for the client, the log, a
 * retry and the attempt count is in session.c's one table. */
enum failure {
	FAIL_SYNTAX, /* the client's SASL message is malformed */
	FAIL_IDENTIFIER, /* the name cannot be routed or forwarded */
	FAIL_UNREPLAYABLE, /* the backend's USER/PASS cannot carry it */
	FAIL_REJECTED, /* the backend refused the credentials */
	FAIL_BUSY, /* it says not now: [IN-USE], [LOGIN-DELAY], [SYS/..] */
	FAIL_STORE, /* the mapping store could not say */
	FAIL_LOOP, /* we would be talking to ourselves */
	FAIL_DOWN, /* the destination is known to be down */
	FAIL_THROTTLED, /* too many refused logins from this address */
	FAIL_FULL, /* the destination has all the connections it may have */
	FAIL_LOCAL, /* our own shortage: descriptors, memory, addresses */
	FAIL_RESOLVE, /* the backend's name does not resolve */
	FAIL_CONNECT, /* it does not take connections */
	FAIL_TLS, /* the leg could not be secured */
	FAIL_CLOSED, /* it closed before it had the credentials */
	FAIL_PROTOCOL, /* it does not speak as it must */
	FAIL_FORWARDING, /* it refused to hear who the client is */
	FAIL_TIMEOUT, /* backend_timeout is over, with a connection */
	FAIL_NO_CONNECT, /* ... without one */
	FAIL_DROPPED, /* it had the credentials and closed instead */
	FAIL_UNANSWERED, /* it had the credentials and never answered */
	FAILURES
};

/* The login that the client asks for, from the dialogue to its result. */
struct credentials {
	const char *how; /* "USER", "PLAIN", "LOGIN", ...: for logs */
	enum sasl_mechanism mech; /* PLAIN for every password login */
	/* PLAIN: authzid NUL authcid NUL password. Bearer: the client's frame
	 * in its base64, as it came. */
	struct secret frame;
	struct secret bearer; /* bearer: the frame decoded, until routed */
};

struct session {
	struct session *next, *prev;
	struct session_env *env;
	/* As of the accept: the listener and the client's leg. NULL while
	 * relaying, like cfg and listener. */
	struct runtime_slice *front;
	/* The login's own; NULL while there is none. */
	struct runtime_slice *slice;
	const struct config *cfg; /* the slice's, else the front's */
	const struct config_listener *listener; /* the front's */
	const char *listener_name; /* the worker's */
	size_t listener_index;
	void (*gone)(void *);
	void *gone_arg;

	enum session_phase phase;
	struct client *client; /* NULL while relaying */
	struct backend *backend; /* only during a login */
	struct relay *relay;
	struct route_lookup *route;
	struct event *deadline; /* NULL while relaying */
	const char *refusal; /* the greeting, when there is no room; or NULL */
	bool linger; /* the client's socket deserves a slow close */
	bool utf8; /* the client asked for it */
	unsigned attempts; /* refused logins */

	struct credentials cred;
	char *user; /* as routed, for logs; NULL: none yet */
	struct addr counted; /* the address whose connection this is, if any */
	struct addr peer; /* the socket's other end */
	struct addr client_addr, local_addr; /* adopted, or the socket's */
	char id[XCLIENT_SESSION_MAX + 1];
	unsigned ttl; /* hops that came in; 0 = first hop */
	/* What a trusted proxy says of its client's leg. */
	enum xclient_transport transport;

	uint64_t started, clock_left, clock_started; /* ms; see session.c */
	uint64_t login_started;
	/* For the last line; static strings of OpenSSL's. */
	const char *client_tls, *client_cipher, *backend_tls, *backend_cipher;
	char server_name[XCLIENT_NAME_MAX + 1]; /* valid SNI or "" */
	int destination; /* index in cfg, during a login; or -1 */
	struct destination *routed; /* of the last login; NULL: none yet */
	bool placed; /* has a place there: is relayed */
	struct addr backend_addr;
	const char *end; /* why it ended */
	uint64_t to_backend, to_client; /* octets relayed */
};

/* session.c, for the legs */

/* The one way out, from any state and callback, any number of times; frees
 * nothing before the callback has returned. why: a static text. */
void session_close(struct session *s, const char *why);
bool session_closed(const struct session *s);

/* Credentials are complete in s->cred; name is the client's word for who. */
void session_login(struct session *s, const char *name, size_t len);
/* The client's message was not even a login. */
void session_login_malformed(struct session *s, const char *what);

/* From the backend leg; line: the backend's reply without its end. */
void session_accepted(struct session *s, const char *line, size_t len);
void session_refused(struct session *s, enum failure why, const char *line,
    size_t len);
void session_failed(struct session *s, enum failure why, const char *reason);
void session_challenge(struct session *s, const char *text, size_t len);
/* From the client leg: its answer to that. */
void session_challenge_answer(struct session *s, const char *line, size_t len);

bool session_failure_retry(enum failure why);
/* What a failure says of the backend's health. */
enum session_blame {
	BLAME_NOBODY,
	BLAME_HOST, /* it is the host's, whoever the client is */
	BLAME_CLIENT /* it may be this client's doing */
};
enum session_blame session_failure_blame(enum failure why);
const char *session_failure_name(enum failure why);

/* Counts the session under its client's address, now that this is known; too
 * many: s->refusal is set. session_uncount(): the address was not the one. */
void session_count(struct session *s);
void session_uncount(struct session *s);

/* Whether the client's own leg is encrypted, wherever that ends. */
bool session_client_encrypted(const struct session *s);

/* Milliseconds from now; 0 takes the deadline away. */
void session_deadline(struct session *s, uint64_t ms);

/* log_begin() with the session's id and the client's address. */
void session_log(struct log_line *l, int level, const struct session *s,
    const char *what);

/* Wipes the first n octets of buf where they are and drains them. Not
 * evbuffer_drain() alone: the bytes must be gone, not forgotten. */
void session_drain_wiped(struct evbuffer *buf, size_t n);

/* session_client.c */

/* Takes fd over in any case. False: no memory. */
bool client_start(struct session *s, int fd);
void client_free(struct client **c);
/* The answer to a login that did not succeed, no sooner than delay ms from
 * now; afterwards back to the dialogue, or the end. line: POP3's, whole. */
void client_answer(struct client *c, const char *line, size_t len,
    uint64_t delay, const char *end);
/* The same in our own words: temporary, or [AUTH]. */
void client_answer_failure(struct client *c, bool temporary, const char *text,
    uint64_t delay, const char *end);
void client_challenge(struct client *c, const char *text, size_t len);
bool client_can_answer(const struct client *c);
void client_timeout(struct client *c);
void client_shutdown(struct client *c, const char *text);
/* Hands the bufferevent over for the relay, the login's answer written. */
struct bufferevent *client_release(struct client *c, const char *line,
    size_t len, SSL **ssl_out);

/* session_backend.c */

/* Starts the login at s->destination; everything comes back through the
 * session. False: no memory. */
bool backend_start(struct session *s);
void backend_free(struct backend **b);
void backend_timeout(struct backend *b);
void backend_answer(struct backend *b, const char *line, size_t len);
struct bufferevent *backend_release(struct backend *b, SSL **ssl_out);

#endif
