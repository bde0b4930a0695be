/* client.h: the client leg: PROXY header, TLS, greeting and the dialogue before
 * the login, all answered here.
 *
 * Takes a spec and answers by events; it knows no session. It fills in the
 * owner's struct origin, which describes the client. */

#ifndef SESSION_CLIENT_H
#define SESSION_CLIENT_H

#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "proto/sasl_exchange.h"
#include "session/origin.h"
#include "session/transport.h"

/* Octets of a scratch line: the longest command and some. */
#define CLIENT_SCRATCH (64 * 1024 + 16)

struct bufferevent;
struct client;
struct event_base;
struct admission;
struct linger_set;
struct log_brake;
struct pop3_texts;
struct tls_server;

/* A login that the client asks for. */
struct client_login {
	struct credentials *cred; /* move them out, or they are cleared */
	bool utf8; /* the client has sent UTF8 */
};

/* The answer to a login that did not succeed. */
struct client_answer {
	const char *line; /* POP3's, whole, without its end */
	size_t len;
	const char *challenge; /* shown first, and answered; NULL: none */
	size_t challenge_len;
	uint64_t delay; /* ms from now, before anything is sent */
	const char *end; /* why the connection ends; NULL: it goes on */
};

/* All called while the leg is at work: client_free() only from the loop. */
struct client_events {
	/* The client's address is known, and again when XCLIENT has changed
	 * it. NULL, or why it is not served: a static text. */
	const char *(*arrived)(void *arg);
	/* XCLIENT is void: it came in clear, and TLS begins now. */
	void (*departed)(void *arg);
	/* Credentials are complete; client_answer() or client_release() ends
	 * the login. */
	void (*login)(void *arg, const struct client_login *login);
	/* A login whose SASL message is malformed; answered likewise. */
	void (*malformed)(void *arg, enum sasl_mechanism mech,
	    const char *what);
	/* Call client_timeout() in ms from now, and not at the time that was
	 * asked for before. */
	void (*deadline)(void *arg, uint64_t ms);
	/* The connection is over; why is a static text. Called once; no event
	 * comes afterwards. */
	void (*closed)(void *arg, const char *why);
};

/* Everything is borrowed for the leg's life. */
struct client_spec {
	struct event_base *base;
	const struct transport *transport;
	const struct config_pop3 *pop3;
	const struct config_listener *listener;
	struct tls_server *tls;
	size_t listener_index; /* tls's */
	const struct pop3_texts *texts; /* ready-made replies */
	struct linger_set *lingers; /* for slow closes */
	struct admission *admission; /* what the socket counts in */
	char *scratch; /* CLIENT_SCRATCH octets, shared by a worker's legs */
	struct addr peer; /* the socket's other end */
	struct origin *origin; /* filled in so far; the leg changes it */
	struct log_brake *proxy_brake; /* of the listener */
	const char *refusal; /* greet with this and close; NULL: serve */
	const struct client_events *events;
	void *arg;
};

/* Starts on fd and takes ownership of it in any case. May call arrived() and
 * closed() before it returns. Returns NULL if memory is short. */
struct client *client_start(const struct client_spec *spec, int fd);
/* Closes the connection unless it was released; no event follows. *c may be
 * NULL. */
void client_free(struct client **c);

/* Goes back to the dialogue, or ends the connection. */
void client_answer(struct client *c, const struct client_answer *answer);
/* Fills line, of POP3_LINE_MAX octets, with "-ERR", a response code and text;
 * returns its length. */
size_t client_failure_line(char *line, bool temporary, const char *text);
/* The deadline is over. */
void client_timeout(struct client *c);
/* The process ends: tells the client, unless a login is in flight; its answer
 * then ends the connection. */
void client_shutdown(struct client *c, const char *text);

/* Writes the login's reply and hands the bufferevent over, with reading off and
 * without callbacks. Its input buffer has the bytes that follow the client's
 * login. */
struct bufferevent *client_release(struct client *c, const char *line,
    size_t len, SSL **ssl_out);

#endif
