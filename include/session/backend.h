/* backend.h: the backend leg, from a destination to the result of one login.
 *
 * Takes a spec and answers by events; it knows no session. Time is the
 * owner's: the leg says when it wants to be called back by backend_timeout(),
 * the owner has the timer. */

#ifndef SESSION_BACKEND_H
#define SESSION_BACKEND_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "proto/sasl_exchange.h"
#include "session/failure.h"
#include "session/origin.h"
#include "session/transport.h"

struct backend;
struct bufferevent;
struct connector_turns;
struct destination;
struct event_base;
struct gate_place;
struct resolver;
struct tls_client;

/* The result of the login. All texts are valid during the call. */
struct backend_result {
	bool accepted;
	enum failure why; /* when it was not accepted */
	const char *reason; /* ours, for the log; NULL: line says it */
	const char *line; /* the reply, its end cut off; NULL: none to show */
	size_t len;
	/* What the backend said before it refused a bearer token: the error
	 * document of RFC 7628 in base64. NULL: nothing to show. */
	const char *challenge;
	size_t challenge_len;
};

struct backend_events {
	/* Called once, from the loop. The leg does nothing afterwards until
	 * backend_release() or backend_free(). */
	void (*done)(void *arg, const struct backend_result *result);
	/* Call backend_timeout() in ms from now, and not at the time that was
	 * asked for before. */
	void (*deadline)(void *arg, uint64_t ms);
};

/* Everything is borrowed for the leg's life. */
struct backend_spec {
	struct event_base *base;
	const struct transport *transport;
	struct resolver *resolver;
	const struct config *cfg;
	const struct config_destination *dest;
	const struct config_endpoint *endpoint; /* dest's */
	struct destination *shared; /* dest's health, and what was learnt */
	struct gate_place *place; /* the login's, at shared */
	struct tls_client *tls;
	struct connector_turns *turns; /* dest's source_ips */
	const struct origin *origin;
	const struct credentials *cred;
	bool utf8; /* the client asked for it */
	const struct backend_events *events;
	void *arg;
};

/* For the log; complete as far as the leg has come. */
struct backend_facts {
	struct addr addr; /* len 0: never connected */
	const char *tls, *cipher; /* NULL: not encrypted; static, OpenSSL's */
};

/* Starts the login. Calls back only from the loop, never from this call.
 * Returns NULL if memory is short. */
struct backend *backend_start(const struct backend_spec *spec);
/* Frees the leg at any time; done will not be called. *b may be NULL. */
void backend_free(struct backend **b);
void backend_timeout(struct backend *b);

const struct backend_facts *backend_facts(const struct backend *b);
/* The state's name, for the log. Static. */
const char *backend_state_name(const struct backend *b);

/* Hands the bufferevent over, with reading off and without callbacks. Call
 * after done() with accepted. Its input buffer has the bytes that follow the
 * backend's reply. */
struct bufferevent *backend_release(struct backend *b, SSL **ssl_out);

#endif
