/* session.c: one client's life, from accept to the last log line.
 *
 *	accept -> dialogue -> login -> routed -> gate -> backend -> relay -> close
 *	             ^----------- refused or unreachable --'
 *
 * It knows both legs; the legs know neither it nor each other. It speaks no
 * protocol. The pre-authentication clock (preauth_timeout) runs while the
 * client is the one to act, and stands still while a route, the gate or a
 * backend is being waited for. */

#include "session/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <openssl/rand.h>
#include <utlist.h>

#include "net/connector.h"
#include "platform/clock.h"
#include "platform/hash.h"
#include "proto/identifier.h"
#include "proto/pop3.h"
#include "proto/pop3_count.h"
#include "service/destination.h"
#include "service/limits.h"
#include "service/route.h"
#include "service/runtime.h"
#include "session/admission.h"
#include "session/backend.h"
#include "session/client.h"
#include "session/linger.h"
#include "session/relay.h"
#include "session/turn.h"

#define SESSION_FULL_TEXT "Too many connections; please try again later."
#define SESSION_REFUSAL_MS 5000 /* to read that there is no room */

enum session_phase {
	SESSION_DIALOGUE, /* the client leg leads */
	SESSION_ROUTE, /* a route is being looked up */
	SESSION_WAITING, /* for its turn at the gate */
	SESSION_BACKEND, /* the backend leg leads */
	SESSION_RELAY,
	SESSION_CLOSED, /* waits for session_reap_cb() */
	SESSION_PHASES
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
	struct admission *admission; /* what its connection counts in */
	struct session_brakes *brakes; /* the worker's */

	enum session_phase phase;
	struct client *client; /* NULL while relaying */
	struct backend *backend; /* only during a login */
	struct relay *relay;
	struct route_lookup *route;
	struct event *deadline; /* NULL while relaying */
	unsigned attempts; /* refused logins */
	unsigned deferred; /* logins with a temporary failure */
	uint64_t told; /* hash of the last line about one; 0: none */

	struct origin origin;
	struct addr peer; /* the socket's other end */
	struct credentials cred; /* of the login under way */
	bool utf8; /* the client asked for it */
	char *user; /* as the client sent it, for logs; NULL: none yet */
	char *authcid; /* the name that authenticates, if it differs */

	uint64_t started, clock_left, clock_started; /* ms; see above */
	uint64_t login_started;
	int destination; /* index in cfg, during a login; or -1 */
	struct destination *routed; /* of the last login; NULL: none yet */
	const char *route_by; /* route_reason_name(), or NULL */
	struct turn *turn; /* at routed: its wait, then its place */
	char *key; /* that is routed, during a login; or NULL */
	uint64_t waiting_since; /* 0: it does not */
	uint64_t waited; /* ms, by this login */
	/* For the last line. */
	struct backend_facts facts;
	const char *end; /* why it ended */
	uint64_t to_backend, to_client; /* octets relayed */
};

static struct session *session_new(struct session_env *env,
    const struct session_arrival *a);
static void session_id_make(char id[XCLIENT_SESSION_MAX + 1]);
static bool session_start(struct session *s, const struct session_arrival *a);
static void session_hurry(struct session *s);
static void session_deadline_cb(evutil_socket_t fd, short what, void *arg);
static void session_deadline(void *arg, uint64_t ms);
static void session_clock_run(struct session *s);
static void session_clock_stop(struct session *s);
static const char *session_arrived(void *arg);
static void session_log_crowd(const struct session *s);
static void session_departed(void *arg);
static void session_login(void *arg, const struct client_login *login);
static void session_malformed(void *arg, enum sasl_mechanism mech,
    const char *what);
static void session_login_begin(struct session *s);
static bool session_identify(struct session *s);
static bool session_key(struct session *s, const char *name, size_t len);
static void session_route(struct session *s);
static void session_client_closed(void *arg, const char *why);
static void session_routed(void *arg, const struct route_answer *answer);
static void session_enter(struct session *s);
static void session_judged(void *arg, enum gate_verdict verdict);
static void session_wait(struct session *s);
static void session_poll(struct session *s);
static void session_waited(struct session *s);
static void session_again(struct session *s);
static void session_start_backend(struct session *s);
static bool session_backend_start(struct session *s);
static void session_backend_done(void *arg, const struct backend_result *r);
static void session_leave(struct session *s);
static void session_failed(struct session *s, enum failure why,
    const char *reason);
static void session_refused(struct session *s, const struct backend_result *r);
static const char *session_count_attempt(struct session *s, enum failure why,
    uint64_t *delay_out);
static uint64_t session_credentials(const struct session *s);
static void session_accepted(struct session *s, const struct backend_result *r);
static void session_current(struct session *s);
static void session_let_go(struct session *s);
static void session_relay_done(void *arg, enum relay_end why);
static void session_close(struct session *s, const char *why);
static bool session_closed(const struct session *s);
static void session_log_failed(struct session *s,
    const struct backend_result *r);
static bool session_told(struct session *s, const struct backend_result *r);
static void session_log_reason(struct log_line *l, const struct session *s,
    const struct backend_result *r);
static void session_log_who(struct log_line *l, const struct session *s);
static void session_log_counts(struct log_line *l, const struct pop3_count *c);
static void session_log_end(struct session *s);
static void session_reap_cb(evutil_socket_t fd, short what, void *arg);
static void session_free(struct session *s);

static const struct client_events session_client_events = {
    .arrived = session_arrived,
    .departed = session_departed,
    .login = session_login,
    .malformed = session_malformed,
    .deadline = session_deadline,
    .closed = session_client_closed,
};

static const struct backend_events session_backend_events = {
    .done = session_backend_done,
    .deadline = session_deadline,
};

int
session_env_init(struct session_env *env, struct err *err)
{
	env->lingers = linger_set_new(env->base);
	env->reap = event_new(env->base, -1, 0, session_reap_cb, env);
	env->scratch = malloc(CLIENT_SCRATCH);
	if (env->lingers == NULL || env->reap == NULL || env->scratch == NULL) {
		session_env_clear(env);
		return err_set(err, "out of memory");
	}
	return 0;
}

void
session_env_clear(struct session_env *env)
{
	session_close_all(env);
	if (env->reap != NULL) {
		session_reap_cb(-1, 0, env);
		event_free(env->reap);
		env->reap = NULL;
	}
	if (env->lingers != NULL)
		linger_set_free(&env->lingers);
	free(env->scratch);
	env->scratch = NULL;
}

void
session_env_count(struct session_env *env, enum session_count what)
{
	/* Nobody else writes it. */
	atomic_fetch_add_explicit(&env->count[what], 1, memory_order_relaxed);
}

static struct session *
session_new(struct session_env *env, const struct session_arrival *a)
{
	struct session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->env = env;
	s->deadline = evtimer_new(env->base, session_deadline_cb, s);
	if (s->deadline != NULL)
		s->admission = admission_new(a->gone, a->gone_arg);
	if (s->admission == NULL) {
		if (s->deadline != NULL)
			event_free(s->deadline);
		free(s);
		return NULL;
	}
	s->front = runtime_slice_ref(env->slice);
	s->cfg = s->front->rt->cfg;
	s->listener = &s->cfg->listener[a->listener];
	s->listener_name = a->listener_name;
	s->brakes = a->brakes;
	s->destination = -1;
	s->started = clock_ms();
	s->clock_left = s->listener->preauth_timeout;
	session_id_make(s->origin.id);
	return s;
}

/* 80 random bits in an alphabet that XCLIENT takes. */
static void
session_id_make(char id[XCLIENT_SESSION_MAX + 1])
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuv";
	unsigned char random[16];

	if (RAND_bytes(random, sizeof(random)) != 1)
		memset(random, 0, sizeof(random));
	for (size_t i = 0; i < sizeof(random); i++)
		id[i] = digits[random[i] % 32];
	id[sizeof(random)] = '\0';
}

void
session_accept(struct session_env *env, const struct session_arrival *a)
{
	struct session *s = session_new(env, a);
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);

	if (s == NULL) {
		close(a->fd);
		a->gone(a->gone_arg);
		log_msg(LOG_ERR, "out of memory: connection closed");
		return;
	}
	addr_set(&s->peer, a->peer, a->peer_len);
	s->origin.client = s->peer;
	if (getsockname(a->fd, (struct sockaddr *)&local, &len) == 0)
		addr_set(&s->origin.local, (struct sockaddr *)&local, len);
	DL_APPEND(env->live, s);
	env->n_live++;
	if (!session_start(s, a))
		session_close(s, "out of memory");
}

static bool
session_start(struct session *s, const struct session_arrival *a)
{
	const struct client_spec spec = {
	    .base = s->env->base,
	    .transport = &transport_sockets,
	    .pop3 = &s->cfg->pop3,
	    .listener = s->listener,
	    .tls = s->front->tls_server,
	    .listener_index = a->listener,
	    .texts = s->front->rt->pop3_texts,
	    .lingers = s->env->lingers,
	    .admission = s->admission,
	    .scratch = s->env->scratch,
	    .peer = s->peer,
	    .origin = &s->origin,
	    .proxy_brake = &a->brakes->proxy,
	    .refusal = a->full ? SESSION_FULL_TEXT : NULL,
	    .events = &session_client_events,
	    .arg = s,
	};
	int size = (int)s->cfg->server.socket_buffer;

	connector_tune(a->fd, s->cfg);
	if (size > 0)
		setsockopt(a->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	session_clock_run(s);
	if (a->full)
		session_hurry(s);
	s->client = client_start(&spec, a->fd);
	return s->client != NULL;
}

/* In clear the answer is one segment; behind TLS it would cost what there is
 * too little of. */
void
session_turn_away(const struct config_listener *l, int fd)
{
	char line[POP3_LINE_MAX];
	size_t len = client_failure_line(line, true, SESSION_FULL_TEXT);

	line[len++] = '\r';
	line[len++] = '\n';
	if (l->tls != TLS_IMPLICIT && l->proxy_protocol == PROXY_OFF)
		send(fd, line, len, MSG_NOSIGNAL);
	close(fd);
}

/* The client only gets a refusal. */
static void
session_hurry(struct session *s)
{
	session_clock_stop(s);
	if (s->clock_left > SESSION_REFUSAL_MS)
		s->clock_left = SESSION_REFUSAL_MS;
	session_clock_run(s);
}

/* Time */

static void
session_deadline(void *arg, uint64_t ms)
{
	struct session *s = arg;
	struct timeval tv = clock_timeval(ms);

	if (session_closed(s))
		return;
	if (ms == 0)
		evtimer_del(s->deadline);
	else
		evtimer_add(s->deadline, &tv);
}

static void
session_clock_run(struct session *s)
{
	s->clock_started = clock_ms();
	session_deadline(s, s->clock_left > 0 ? s->clock_left : 1);
}

static void
session_clock_stop(struct session *s)
{
	uint64_t ran = clock_ms() - s->clock_started;

	s->clock_left = ran < s->clock_left ? s->clock_left - ran : 0;
	session_deadline(s, 0);
}

static void
session_deadline_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct session *s = arg;

	switch (s->phase) {
	case SESSION_DIALOGUE:
		client_timeout(s->client);
		return;
	case SESSION_WAITING:
		session_poll(s);
		return;
	case SESSION_BACKEND:
		backend_timeout(s->backend);
		return;
	case SESSION_ROUTE:
	case SESSION_RELAY:
	case SESSION_CLOSED:
	case SESSION_PHASES:
		return;
	}
}

/* From the client leg */

/* Counts the session under its client's address. */
static const char *
session_arrived(void *arg)
{
	struct session *s = arg;
	enum limits_entry entry;

	admission_uncount(s->admission);
	entry = limits_enter(&s->cfg->limits, &s->origin.client);
	if (entry == LIMITS_COUNTED)
		admission_count(s->admission, &s->origin.client);
	if (entry != LIMITS_FULL)
		return NULL;
	session_log_crowd(s);
	session_env_count(s->env, COUNT_PER_IP);
	session_hurry(s);
	return "Too many connections from your address; please try again "
	       "later.";
}

static void
session_log_crowd(const struct session *s)
{
	struct log_line l;
	unsigned held;

	if (!log_brake_pass(&s->brakes->per_ip, clock_ms(), &held))
		return;
	origin_log(&l, LOG_WARNING, &s->origin, "connection refused");
	log_cstr(&l, "listener", s->listener_name);
	log_cstr(&l, "reason", "max_connections_per_ip");
	log_uint(&l, "more", held);
	log_end(&l);
}

static void
session_departed(void *arg)
{
	struct session *s = arg;

	admission_uncount(s->admission);
}

static void
session_client_closed(void *arg, const char *why)
{
	session_close(arg, why);
}

static void
session_login(void *arg, const struct client_login *login)
{
	struct session *s = arg;

	session_login_begin(s);
	credentials_move(&s->cred, login->cred);
	s->utf8 = login->utf8;
	session_current(s);
	if (!session_identify(s))
		return;
	if (limits_throttled(&s->cfg->limits, &s->origin.client, clock_ms())) {
		session_failed(s, FAIL_THROTTLED,
		    "too many refused logins from this address");
		return;
	}
	if (s->origin.ttl == 1) {
		session_failed(s, FAIL_LOOP, "the hop budget is used up");
		return;
	}
	session_route(s);
}

static void
session_malformed(void *arg, enum sasl_mechanism mech, const char *what)
{
	struct session *s = arg;

	session_login_begin(s);
	s->cred.how = sasl_name(mech);
	session_failed(s, FAIL_SYNTAX, what);
}

/* Forgets the last attempt. */
static void
session_login_begin(struct session *s)
{
	s->login_started = clock_ms();
	session_clock_stop(s);
	free(s->user);
	free(s->authcid);
	s->user = s->authcid = NULL;
	s->waited = 0;
	memset(&s->facts, 0, sizeof(s->facts));
	s->route_by = NULL;
	destination_unref(&s->routed);
}

/* Makes the key from the client's user name. If a bearer frame names nobody,
 * reads the name from its token. Returns false if the login has been
 * refused. */
static bool
session_identify(struct session *s)
{
	const struct credentials *cred = &s->cred;
	char account[IDENTIFIER_MAX + 1];
	const char *name = cred->name.data != NULL ? cred->name.data : "";
	size_t len = cred->name.len;

	if (len == 0 &&
	    credentials_token_account(cred, s->cfg->jwt_username_claim, account,
		sizeof(account))) {
		name = account;
		len = strlen(account);
	}
	/* "USER alice@example.com ": the space was typed into the account's
	 * settings by mistake. It is sent on unchanged. */
	if (cred->mech == SASL_PLAIN && strcmp(cred->how, "USER") == 0)
		while (len > 1 && name[len - 1] == ' ')
			len--;
	s->user = strndup(name, len);
	s->authcid = credentials_authcid(cred);
	if (s->user == NULL) {
		session_failed(s, FAIL_LOCAL, "out of memory");
		return false;
	}
	return session_key(s, name, len);
}

/* By the rules of the configuration that is in force. False: refused
 * already. */
static bool
session_key(struct session *s, const char *name, size_t len)
{
	char key[IDENTIFIER_MAX + 1];

	switch (route_key(s->cfg, name, len, key)) {
	case IDENTIFIER_OK:
		break;
	case IDENTIFIER_EMPTY:
		key[0] = '\0';
		break;
	case IDENTIFIER_BAD:
		session_failed(s, FAIL_IDENTIFIER,
		    "the user name is not acceptable");
		return false;
	}
	free(s->key);
	s->key = strdup(key);
	if (s->key == NULL)
		session_failed(s, FAIL_LOCAL, "out of memory");
	return s->key != NULL;
}

/* The route */

static void
session_route(struct session *s)
{
	s->phase = SESSION_ROUTE;
	s->route = route_lookup(s->slice->router, s->key, session_routed, s);
}

static void
session_routed(void *arg, const struct route_answer *answer)
{
	struct session *s = arg;
	struct log_line l;

	s->route = NULL;
	s->route_by = route_reason_name(answer->reason);
	if (session_closed(s))
		return;
	if (answer->status == ROUTE_FAILED) {
		session_failed(s, FAIL_STORE, "the mapping store failed");
		return;
	}
	s->destination = answer->destination;
	s->routed = destination_ref(runtime_destination(s->slice->rt,
	    (size_t)s->destination, s->listener->protocol));
	origin_log(&l, LOG_DEBUG, &s->origin, "routed");
	log_cstr(&l, "user", s->user);
	log_cstr(&l, "destination", destination_name(s->routed));
	log_cstr(&l, "route", s->route_by);
	log_end(&l);
	session_enter(s);
}

/* The gate */

static void
session_enter(struct session *s)
{
	const struct config_destination *dest =
	    &s->cfg->destination[s->destination];
	uint64_t now = clock_ms();
	const struct turn_spec spec = {
	    .mailbox = s->env->mailbox,
	    .client = addr_client_hash(&s->origin.client),
	    .give_up = now + s->cfg->server.queue_timeout,
	    .woken = session_judged,
	    .arg = s,
	};

	if (s->turn == NULL)
		s->turn = turn_new(&spec);
	session_judged(s,
	    s->turn != NULL ? turn_enter(s->turn, s->routed, dest, s->key, now)
			    : GATE_NO_MEMORY);
}

/* At once, or when it has waited. */
static void
session_judged(void *arg, enum gate_verdict verdict)
{
	struct session *s = arg;

	if (session_closed(s))
		return;
	if (verdict != GATE_WAIT)
		session_waited(s);
	switch (verdict) {
	case GATE_ENTERED:
		session_start_backend(s);
		return;
	case GATE_WAIT:
		session_wait(s);
		return;
	case GATE_AGAIN:
		session_again(s);
		return;
	case GATE_DOWN:
		session_failed(s, FAIL_DOWN, "the destination is down");
		return;
	case GATE_FULL:
		session_failed(s, FAIL_FULL, "no connection is free");
		return;
	case GATE_TIMEOUT:
		session_failed(s, FAIL_FULL, "no turn within queue_timeout");
		return;
	case GATE_NO_MEMORY:
		session_failed(s, FAIL_LOCAL, "out of memory");
		return;
	}
}

static void
session_wait(struct session *s)
{
	uint64_t now = clock_ms(), due = turn_due(s->turn);

	if (s->env->draining) {
		session_failed(s, FAIL_SHUTDOWN, "shutting down");
		return;
	}
	s->phase = SESSION_WAITING;
	if (s->waiting_since == 0)
		s->waiting_since = now;
	session_deadline(s, due > now ? due - now : 1);
}

static void
session_waited(struct session *s)
{
	if (s->waiting_since == 0)
		return;
	s->waited += clock_ms() - s->waiting_since;
	s->waiting_since = 0;
	session_deadline(s, 0);
}

/* It may have waited for long enough. */
static void
session_poll(struct session *s)
{
	bool held = turn_is_held(s->turn);
	enum gate_verdict verdict = turn_poll(s->turn, clock_ms());

	if (verdict == GATE_TIMEOUT && held) {
		session_waited(s);
		session_failed(s, FAIL_HELD, "the account is held");
		return;
	}
	session_judged(s, verdict);
}

/* A hold or a drain is over, so the account may have moved: it is routed by
 * what is in force now. */
static void
session_again(struct session *s)
{
	destination_unref(&s->routed);
	session_current(s);
	if (session_key(s, s->user, strlen(s->user)))
		session_route(s);
}

/* The backend */

static void
session_start_backend(struct session *s)
{
	if (!session_backend_start(s))
		session_failed(s, FAIL_LOCAL, "out of memory");
}

static bool
session_backend_start(struct session *s)
{
	const struct config_destination *dest =
	    &s->cfg->destination[s->destination];
	const struct backend_spec spec = {
	    .base = s->env->base,
	    .transport = &transport_sockets,
	    .resolver = s->env->resolver,
	    .cfg = s->cfg,
	    .dest = dest,
	    .endpoint = &dest->pop3,
	    .shared = s->routed,
	    .place = turn_place(s->turn),
	    .tls = s->slice->tls_client[s->destination],
	    .turns = &s->slice->source_turn[s->destination],
	    .origin = &s->origin,
	    .cred = &s->cred,
	    .utf8 = s->utf8,
	    .events = &session_backend_events,
	    .arg = s,
	};

	s->phase = SESSION_BACKEND;
	s->backend = backend_start(&spec);
	return s->backend != NULL;
}

static void
session_backend_done(void *arg, const struct backend_result *r)
{
	struct session *s = arg;

	if (session_closed(s))
		return;
	s->facts = *backend_facts(s->backend);
	if (r->accepted)
		session_accepted(s, r);
	else
		session_refused(s, r);
}

/* Gives the place and the backend leg back. */
static void
session_leave(struct session *s)
{
	backend_free(&s->backend);
	turn_free(&s->turn);
}

/* Results */

static void
session_failed(struct session *s, enum failure why, const char *reason)
{
	const struct backend_result r = {.why = why, .reason = reason};

	session_refused(s, &r);
}

/* Ends a failed login: logs it, frees the backend leg, replies, and goes back
 * to the dialogue. */
static void
session_refused(struct session *s, const struct backend_result *r)
{
	char line[POP3_LINE_MAX];
	struct client_answer a = {
	    .line = line,
	    .challenge = r->challenge,
	    .challenge_len = r->challenge_len,
	};

	session_log_failed(s, r);
	a.end = session_count_attempt(s, r->why, &a.delay);
	if (a.end == NULL && s->env->draining)
		a.end = "shutting down";
	a.len = r->line != NULL
	    ? r->len
	    : client_failure_line(line, failure_temporary(r->why),
		  failure_text(r->why));
	if (r->line != NULL)
		a.line = r->line;
	s->phase = SESSION_DIALOGUE;
	/* The client does not cause this wait. */
	s->clock_left += a.delay;
	session_clock_run(s);
	client_answer(s->client, &a);
	credentials_clear(&s->cred);
	session_leave(s);
	session_let_go(s);
}

/* Returns why the connection must end, or NULL. */
static const char *
session_count_attempt(struct session *s, enum failure why, uint64_t *delay_out)
{
	uint64_t spent = clock_ms() - s->login_started, least;

	session_env_count(s->env,
	    failure_counts(why) ? COUNT_FAILED : COUNT_DEFERRED);
	if (why == FAIL_THROTTLED)
		session_env_count(s->env, COUNT_THROTTLED);
	least = failure_counts(why) ? s->cfg->server.auth_failure_delay
				    : failure_brake(++s->deferred);
	if (spent < least)
		*delay_out = least - spent;
	if (!failure_counts(why))
		return s->deferred >= FAILURE_DEFERRED_MAX
		    ? "too many deferred logins"
		    : NULL;
	if (why != FAIL_THROTTLED)
		limits_refused(&s->cfg->limits, &s->origin.client,
		    session_credentials(s), clock_ms());
	return ++s->attempts >= s->listener->max_auth_attempts
	    ? "too many refused logins"
	    : NULL;
}

/* A hash of all that was wrong. A malformed message is like no other. */
static uint64_t
session_credentials(const struct session *s)
{
	const struct secret *frame = &s->cred.frame;

	if (frame->len == 0)
		return hash_keyed(s->origin.id, strlen(s->origin.id)) +
		    s->attempts;
	return hash_keyed(frame->data, frame->len);
}

static void
session_accepted(struct session *s, const struct backend_result *r)
{
	struct relay_spec spec = {
	    .base = s->env->base,
	    .idle_ms = s->cfg->server.bridge_idle,
	    .dead_ms = s->cfg->server.tcp_user_timeout,
	    .lingers = s->env->lingers,
	    .admission = s->admission,
	    .done = session_relay_done,
	    .arg = s,
	};

	credentials_clear(&s->cred);
	session_env_count(s->env, COUNT_LOGINS);
	s->phase = SESSION_RELAY;
	spec.backend = backend_release(s->backend, &spec.backend_ssl);
	spec.client =
	    client_release(s->client, r->line, r->len, &spec.client_ssl);
	s->relay = relay_start(&spec);
	if (s->relay == NULL) {
		bufferevent_free(spec.backend);
		bufferevent_free(spec.client);
	}
	event_free(s->deadline);
	s->deadline = NULL;
	client_free(&s->client);
	backend_free(&s->backend);
	destination_logged_in(s->routed, turn_place(s->turn));
	session_let_go(s);
	s->cfg = NULL;
	s->listener = NULL;
	runtime_slice_unref(&s->front);
	if (s->relay == NULL)
		session_close(s, "out of memory");
}

/* A login uses the runtime that is current when its credentials are complete,
 * even on an old connection. */
static void
session_current(struct session *s)
{
	session_let_go(s);
	s->slice = runtime_slice_enter(s->env->slice);
	s->cfg = s->slice->rt->cfg;
}

/* The login is over and no longer uses the runtime. */
static void
session_let_go(struct session *s)
{
	s->destination = -1;
	free(s->key);
	s->key = NULL;
	runtime_slice_leave(&s->slice);
	s->cfg = s->front->rt->cfg;
}

static void
session_relay_done(void *arg, enum relay_end why)
{
	static const char *const texts[] = {
	    [RELAY_CLIENT_CLOSED] = "client closed",
	    [RELAY_BACKEND_CLOSED] = "backend closed",
	    [RELAY_CLIENT_ERROR] = "client lost",
	    [RELAY_BACKEND_ERROR] = "backend lost",
	    [RELAY_FLOODED] = "too many TLS records without data",
	    [RELAY_IDLE] = "idle",
	    [RELAY_NO_MEMORY] = "out of memory",
	};

	session_close(arg, texts[why]);
}

/* The end */

/* The only way out, from any state and callback, any number of times. Frees
 * nothing before the callback has returned. why: a static text. */
static void
session_close(struct session *s, const char *why)
{
	if (session_closed(s))
		return;
	s->phase = SESSION_CLOSED;
	s->end = why;
	DL_DELETE(s->env->live, s);
	DL_APPEND(s->env->dead, s);
	event_active(s->env->reap, 0, 0);
}

static bool
session_closed(const struct session *s)
{
	return s->phase == SESSION_CLOSED;
}

/* Called from the worker's loop, when no function of a session is on the
 * stack. */
static void
session_reap_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct session_env *env = arg;
	struct session *s;

	while ((s = env->dead) != NULL) {
		DL_DELETE(env->dead, s);
		session_free(s);
		env->n_live--;
	}
	if (env->draining && env->n_live == 0 && env->empty != NULL)
		env->empty(env->arg);
}

static void
session_free(struct session *s)
{
	if (s->relay != NULL)
		relay_bytes(s->relay, &s->to_backend, &s->to_client);
	session_log_end(s);
	route_lookup_cancel(&s->route);
	relay_free(&s->relay);
	session_leave(s);
	client_free(&s->client);
	destination_unref(&s->routed);
	if (s->deadline != NULL)
		event_free(s->deadline);
	credentials_clear(&s->cred);
	free(s->user);
	free(s->authcid);
	free(s->key);
	admission_release(&s->admission);
	runtime_slice_leave(&s->slice);
	runtime_slice_unref(&s->front);
	free(s);
}

void
session_drain(struct session_env *env)
{
	struct session *s, *tmp;

	env->draining = true;
	DL_FOREACH_SAFE (env->live, s, tmp)
		if (s->phase == SESSION_DIALOGUE)
			client_shutdown(s->client, failure_text(FAIL_SHUTDOWN));
		else if (s->phase == SESSION_WAITING)
			session_failed(s, FAIL_SHUTDOWN, "shutting down");
	/* Tells the worker when there is nothing to wait for. NULL: it ends. */
	if (env->reap != NULL)
		event_active(env->reap, 0, 0);
}

void
session_close_all(struct session_env *env)
{
	struct session *s, *tmp;

	DL_FOREACH_SAFE (env->live, s, tmp)
		session_close(s, "shutting down");
}

/* The log */

/* fail2ban looks for "login failed". A failure of a backend is "login
 * deferred", which is not the client's fault. */
static void
session_log_failed(struct session *s, const struct backend_result *r)
{
	struct log_line l;
	char text[ADDR_TEXT_MAX];

	if (session_told(s, r))
		return;
	origin_log(&l, failure_level(r->why), &s->origin,
	    failure_counts(r->why) ? "login failed" : "login deferred");
	session_log_who(&l, s);
	log_cstr(&l, "listener", s->listener_name);
	if (s->routed != NULL) {
		log_cstr(&l, "destination", destination_name(s->routed));
		log_cstr(&l, "backend", addr_text(&s->facts.addr, text));
	}
	if (s->waited > 0)
		log_uint(&l, "waited_ms", s->waited);
	log_cstr(&l, "failure", failure_name(r->why));
	session_log_reason(&l, s, r);
	log_end(&l);
}

/* A reply may repeat what was sent to it. */
static void
session_log_reason(struct log_line *l, const struct session *s,
    const struct backend_result *r)
{
	const char *text = r->reason != NULL ? r->reason : r->line;
	size_t len = r->reason != NULL ? strlen(r->reason) : r->len;

	if (credentials_repeated(&s->cred, text, len))
		log_cstr(l, "reason", "(the reply repeats the credentials)");
	else
		log_str(l, "reason", text, len);
}

/* Equal lines of a session are one; its last line has their number. Each
 * refused login has its own, for fail2ban. */
static bool
session_told(struct session *s, const struct backend_result *r)
{
	uint64_t hash = 1, before = s->told;

	s->told = 0;
	if (failure_counts(r->why))
		return false;
	hash ^= hash_keyed(failure_name(r->why), strlen(failure_name(r->why)));
	if (s->user != NULL)
		hash = hash * 31 + hash_keyed(s->user, strlen(s->user));
	if (s->routed != NULL)
		hash = hash * 31 +
		    hash_keyed(destination_name(s->routed),
			strlen(destination_name(s->routed)));
	s->told = hash;
	return hash == before;
}

static void
session_log_who(struct log_line *l, const struct session *s)
{
	log_cstr(l, "user", s->user != NULL ? s->user : "");
	if (s->authcid != NULL)
		log_cstr(l, "authcid", s->authcid);
	log_cstr(l, "mechanism", s->cred.how != NULL ? s->cred.how : "-");
}

static void
session_log_counts(struct log_line *l, const struct pop3_count *c)
{
	static const enum pop3_counted shown[] = {
	    COUNTED_RETR,
	    COUNTED_TOP,
	    COUNTED_DELE,
	    COUNTED_QUIT,
	};

	for (size_t i = 0; i < ARRAY_LEN(shown); i++)
		log_uint(l, pop3_counted_name(shown[i]), c->n[shown[i]]);
}

/* Load balancers' probes come and go without a word: not worth a line. */
static void
session_log_end(struct session *s)
{
	const struct origin *o = &s->origin;
	bool relayed = s->relay != NULL;
	char text[ADDR_TEXT_MAX];
	struct log_line l;

	origin_log(&l,
	    relayed || s->attempts > 0 || s->deferred > 0 ? LOG_INFO
							  : LOG_DEBUG,
	    o, "session closed");
	log_cstr(&l, "listener", s->listener_name);
	session_log_who(&l, s);
	log_cstr(&l, "destination",
	    s->routed != NULL ? destination_name(s->routed) : "-");
	log_cstr(&l, "route", s->route_by != NULL ? s->route_by : "-");
	log_cstr(&l, "backend", addr_text(&s->facts.addr, text));
	log_cstr(&l, "client_tls",
	    o->tls_version != NULL ? o->tls_version : "none");
	if (o->tls_cipher != NULL)
		log_cstr(&l, "client_cipher", o->tls_cipher);
	if (!addr_same_ip(&s->peer, &o->client))
		log_cstr(&l, "via", addr_ip(&s->peer, text));
	log_cstr(&l, "backend_tls",
	    s->facts.tls != NULL ? s->facts.tls : "none");
	if (s->facts.cipher != NULL)
		log_cstr(&l, "backend_cipher", s->facts.cipher);
	log_uint(&l, "bytes_to_backend", s->to_backend);
	log_uint(&l, "bytes_to_client", s->to_client);
	if (relayed)
		session_log_counts(&l, relay_counts(s->relay));
	log_uint(&l, "waited_ms", s->waited);
	log_uint(&l, "duration_ms", clock_ms() - s->started);
	if (s->deferred > 0)
		log_uint(&l, "deferred", s->deferred);
	log_cstr(&l, "login", relayed ? "ok" : "none");
	log_cstr(&l, "reason", s->end);
	log_end(&l);
}
