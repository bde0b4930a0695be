/* session.c: one client's life, from accept to the last log line.
 *
 *	accept -> dialogue -> login -> routed -> backend -> relay -> close
 *	             ^------- refused or unreachable -'
 *
 * It knows both legs and speaks no protocol. The pre-authentication clock
 * (preauth_timeout) runs while the client is the one to act, and stands still
 * while a route or a backend is being waited for. */

#include "session_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/rand.h>
#include <utlist.h>

#include "platform/clock.h"
#include "proto/identifier.h"
#include "proto/jwt.h"
#include "net/connector.h"
#include "service/destination.h"
#include "service/limits.h"
#include "service/route.h"
#include "service/runtime.h"
#include "session/linger.h"
#include "session/relay.h"

/* What each failure means. Nobody else decides these. */
static const struct {
	const char *name;
	int level; /* of the log line */
	bool counts; /* as one of max_auth_attempts; delayed */
	bool retry; /* another connection may help */
	bool temporary; /* [SYS/TEMP], and no word of passwords */
	enum session_blame blame;
	const char *text; /* NULL: SESSION_TRY_AGAIN */
} session_failures[] = {
    [FAIL_SYNTAX] = {"malformed", LOG_INFO, true, false, false, BLAME_NOBODY,
	"The authentication exchange is malformed."},
    [FAIL_IDENTIFIER] = {"identifier", LOG_INFO, true, false, false,
	BLAME_NOBODY, "This user name cannot be used."},
    [FAIL_UNREPLAYABLE] = {"unreplayable", LOG_INFO, true, false, false,
	BLAME_NOBODY, "These credentials cannot be used here."},
    [FAIL_REJECTED] = {"rejected", LOG_INFO, true, false, false, BLAME_NOBODY,
	"Authentication failed."},
    /* Must look like the former. */
    [FAIL_THROTTLED] = {"throttled", LOG_INFO, true, false, false, BLAME_NOBODY,
	"Authentication failed."},
    [FAIL_BUSY] = {"busy", LOG_INFO, false, false, true, BLAME_NOBODY, NULL},
    [FAIL_STORE] = {"store", LOG_ERR, false, false, true, BLAME_NOBODY, NULL},
    [FAIL_LOOP] = {"loop", LOG_ERR, false, false, true, BLAME_NOBODY,
	"The mail server cannot be reached: the route leads in a circle."},
    [FAIL_DOWN] = {"down", LOG_WARNING, false, false, true, BLAME_NOBODY, NULL},
    [FAIL_FULL] = {"full", LOG_WARNING, false, false, true, BLAME_NOBODY,
	"The mail server is busy; please try again in a moment."},
    [FAIL_LOCAL] = {"local", LOG_ERR, false, false, true, BLAME_NOBODY, NULL},
    [FAIL_RESOLVE] = {"resolve", LOG_ERR, false, true, true, BLAME_HOST, NULL},
    [FAIL_CONNECT] = {"connect", LOG_ERR, false, true, true, BLAME_HOST, NULL},
    [FAIL_TLS] = {"tls", LOG_ERR, false, false, true, BLAME_CLIENT, NULL},
    [FAIL_CLOSED] = {"closed", LOG_ERR, false, true, true, BLAME_CLIENT, NULL},
    [FAIL_PROTOCOL] = {"protocol", LOG_ERR, false, false, true, BLAME_CLIENT,
	NULL},
    [FAIL_FORWARDING] = {"forwarding", LOG_ERR, false, false, true,
	BLAME_NOBODY, NULL},
    [FAIL_TIMEOUT] = {"timeout", LOG_ERR, false, false, true, BLAME_CLIENT,
	NULL},
    [FAIL_NO_CONNECT] = {"timeout", LOG_ERR, false, false, true, BLAME_HOST,
	NULL},
    [FAIL_DROPPED] = {"dropped", LOG_ERR, false, false, true, BLAME_CLIENT,
	NULL},
    [FAIL_UNANSWERED] = {"unanswered", LOG_ERR, false, false, true,
	BLAME_NOBODY, NULL},
};
_Static_assert(ARRAY_LEN(session_failures) == FAILURES, "unnamed failure");

#define SESSION_REFUSAL_MS 5000 /* to hear that there is no room */
#define SESSION_TRY_AGAIN                                                   \
	"The mail server is not available at the moment; please try again " \
	"later."

static struct session *session_new(struct session_env *env, size_t listener);
static void session_id_make(char id[XCLIENT_SESSION_MAX + 1]);
static void session_deadline_cb(evutil_socket_t fd, short what, void *arg);
static void session_clock_run(struct session *s);
static void session_clock_stop(struct session *s);
static void session_routed(void *arg, const struct route_answer *answer);
static void session_over(struct session *s, enum failure why,
    const char *reason, const char *line, size_t len);
static bool session_identify(struct session *s, const char *name, size_t len,
    char *key);
static void session_current(struct session *s);
static void session_let_go(struct session *s);
static void session_credentials_clear(struct session *s);
static void session_log_failed(struct session *s, enum failure why,
    const char *reason, size_t len);
static void session_log_end(struct session *s);
static void session_relay_done(void *arg, enum relay_end why);
static void session_reap_cb(evutil_socket_t fd, short what, void *arg);
static void session_free(struct session *s);

int
session_env_init(struct session_env *env, struct err *err)
{
	env->lingers = linger_set_new(env->base);
	env->reap = event_new(env->base, -1, 0, session_reap_cb, env);
	env->scratch = malloc(SESSION_SCRATCH);
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
session_new(struct session_env *env, size_t listener)
{
	struct session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->env = env;
	s->deadline = evtimer_new(env->base, session_deadline_cb, s);
	if (s->deadline == NULL) {
		free(s);
		return NULL;
	}
	s->front = runtime_slice_ref(env->slice);
	s->cfg = s->front->rt->cfg;
	s->listener = &s->cfg->listener[listener];
	s->listener_index = listener;
	s->destination = -1;
	s->started = clock_ms();
	s->clock_left = s->listener->preauth_timeout;
	session_id_make(s->id);
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
	struct session *s = session_new(env, a->listener);
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);
	int size = s != NULL ? (int)s->cfg->server.socket_buffer : 0;

	if (s == NULL) {
		close(a->fd);
		a->gone(a->gone_arg);
		log_msg(LOG_ERR, "out of memory: connection closed");
		return;
	}
	s->listener_name = a->listener_name;
	s->gone = a->gone;
	s->gone_arg = a->gone_arg;
	s->refusal = a->refusal;
	if (s->refusal != NULL && s->clock_left > SESSION_REFUSAL_MS)
		s->clock_left = SESSION_REFUSAL_MS;
	addr_set(&s->peer, a->peer, a->peer_len);
	s->client_addr = s->peer;
	if (getsockname(a->fd, (struct sockaddr *)&local, &len) == 0)
		addr_set(&s->local_addr, (struct sockaddr *)&local, len);
	DL_APPEND(env->live, s);
	env->n_live++;
	connector_tune(a->fd, s->cfg);
	if (size > 0)
		setsockopt(a->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	session_clock_run(s);
	if (!client_start(s, a->fd))
		session_close(s, "out of memory");
}

void
session_count(struct session *s)
{
	struct log_line l;

	enum limits_entry entry;

	session_uncount(s);
	entry = limits_enter(&s->cfg->limits, &s->client_addr);
	if (entry == LIMITS_COUNTED)
		s->counted = s->client_addr;
	if (entry != LIMITS_FULL)
		return;
	session_log(&l, LOG_WARNING, s, "connection refused");
	log_cstr(&l, "listener", s->listener_name);
	log_cstr(&l, "reason", "max_connections_per_ip");
	log_end(&l);
	session_env_count(s->env, COUNT_PER_IP);
	s->refusal = "Too many connections from your address; please try "
		     "again later.";
	if (s->clock_left > SESSION_REFUSAL_MS)
		s->clock_left = SESSION_REFUSAL_MS;
}

bool
session_client_encrypted(const struct session *s)
{
	if (s->transport != XCLIENT_TRANSPORT_UNSET)
		return s->transport == XCLIENT_TRANSPORT_TLS;
	return s->client_tls != NULL;
}

void
session_uncount(struct session *s)
{
	if (s->counted.len != 0)
		limits_leave(&s->counted);
	s->counted.len = 0;
}

void
session_deadline(struct session *s, uint64_t ms)
{
	struct timeval tv = clock_timeval(ms);

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
	case SESSION_CHALLENGE:
		client_timeout(s->client);
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

void
session_login(struct session *s, const char *name, size_t len)
{
	char key[IDENTIFIER_MAX + 1];

	s->login_started = clock_ms();
	session_clock_stop(s);
	free(s->user);
	s->user = NULL;
	s->destination = -1;
	s->backend_tls = s->backend_cipher = NULL;
	memset(&s->backend_addr, 0, sizeof(s->backend_addr));
	destination_unref(&s->routed);
	session_current(s);
	if (!session_identify(s, name, len, key))
		return;
	secret_clear(&s->cred.bearer);
	if (limits_throttled(&s->cfg->limits, &s->client_addr, clock_ms())) {
		session_failed(s, FAIL_THROTTLED,
		    "too many refused logins from this address");
		return;
	}
	if (s->ttl == 1) {
		session_failed(s, FAIL_LOOP, "the hop budget is used up");
		return;
	}
	s->phase = SESSION_ROUTE;
	s->route = route_lookup(s->slice->router, key, session_routed, s);
}

/* From the client's word to the key that is looked up. A bearer frame that
 * names nobody has its token asked. False: refused already. */
static bool
session_identify(struct session *s, const char *name, size_t len, char *key)
{
	char account[IDENTIFIER_MAX + 1];
	struct sasl_bearer bearer;

	if (len == 0 && s->cred.bearer.len > 0 &&
	    sasl_bearer_parse(s->cred.mech, s->cred.bearer.data,
		s->cred.bearer.len, &bearer) &&
	    jwt_account(bearer.token, bearer.token_len,
		s->cfg->jwt_username_claim, account, sizeof(account))) {
		name = account;
		len = strlen(account);
	}
	s->user = strndup(name, len);
	if (s->user == NULL) {
		session_failed(s, FAIL_LOCAL, "out of memory");
		return false;
	}
	switch (route_key(s->cfg, name, len, key)) {
	case IDENTIFIER_OK:
		return true;
	case IDENTIFIER_EMPTY:
		key[0] = '\0';
		return true;
	case IDENTIFIER_BAD:
		break;
	}
	session_failed(s, FAIL_IDENTIFIER, "the user name is not acceptable");
	return false;
}

void
session_login_malformed(struct session *s, const char *what)
{
	s->login_started = clock_ms();
	session_clock_stop(s);
	destination_unref(&s->routed);
	session_failed(s, FAIL_SYNTAX, what);
}

static void
session_routed(void *arg, const struct route_answer *answer)
{
	struct session *s = arg;
	struct log_line l;

	s->route = NULL;
	if (answer->status == ROUTE_FAILED) {
		session_failed(s, FAIL_STORE, "the mapping store failed");
		return;
	}
	s->destination = answer->destination;
	s->routed = destination_ref(s->slice->rt->destination[s->destination]);
	session_log(&l, LOG_DEBUG, s, "routed");
	log_cstr(&l, "user", s->user);
	log_cstr(&l, "destination", destination_name(s->routed));
	log_end(&l);
	s->phase = SESSION_BACKEND;
	session_deadline(s, s->cfg->server.backend_timeout);
	if (!backend_start(s))
		session_failed(s, FAIL_LOCAL, "out of memory");
}

void
session_challenge(struct session *s, const char *text, size_t len)
{
	s->phase = SESSION_CHALLENGE;
	session_clock_run(s);
	client_challenge(s->client, text, len);
}

void
session_challenge_answer(struct session *s, const char *line, size_t len)
{
	session_clock_stop(s);
	s->phase = SESSION_BACKEND;
	session_deadline(s, s->cfg->server.backend_auth_timeout);
	backend_answer(s->backend, line, len);
}

void
session_failed(struct session *s, enum failure why, const char *reason)
{
	session_over(s, why, reason, NULL, 0);
}

void
session_refused(struct session *s, enum failure why, const char *line,
    size_t len)
{
	session_over(s, why, NULL, line, len);
}

/* A login that came to nothing: log it, drop the backend leg, answer, and go
 * back to the dialogue. line: the backend's own words, if they are to be
 * shown; reason: ours. */
static void
session_over(struct session *s, enum failure why, const char *reason,
    const char *line, size_t len)
{
	uint64_t delay = 0, spent = clock_ms() - s->login_started;
	const char *end = NULL;

	if (session_closed(s))
		return;
	session_log_failed(s, why, reason != NULL ? reason : line,
	    reason != NULL ? strlen(reason) : len);
	session_credentials_clear(s);
	backend_free(&s->backend);
	session_env_count(s->env,
	    session_failures[why].counts ? COUNT_FAILED : COUNT_DEFERRED);
	if (why == FAIL_THROTTLED)
		session_env_count(s->env, COUNT_THROTTLED);
	if (session_failures[why].counts) {
		if (spent < s->cfg->server.auth_failure_delay)
			delay = s->cfg->server.auth_failure_delay - spent;
		if (why != FAIL_THROTTLED)
			limits_refused(&s->cfg->limits, &s->client_addr,
			    clock_ms());
		if (++s->attempts >= s->listener->max_auth_attempts)
			end = "too many refused logins";
	}
	if (end == NULL && s->env->draining)
		end = "shutting down";
	s->phase = SESSION_DIALOGUE;
	session_let_go(s);
	session_clock_run(s);
	if (delay > 0) {
		session_clock_stop(s);
		s->clock_left += delay;
		session_clock_run(s);
	}
	if (reason == NULL)
		client_answer(s->client, line, len, delay, end);
	else
		client_answer_failure(s->client,
		    session_failures[why].temporary,
		    session_failures[why].text != NULL
			? session_failures[why].text
			: SESSION_TRY_AGAIN,
		    delay, end);
}

void
session_accepted(struct session *s, const char *line, size_t len)
{
	struct relay_spec spec = {
	    .base = s->env->base,
	    .idle_ms = s->cfg->server.bridge_idle,
	    .lingers = s->env->lingers,
	    .done = session_relay_done,
	    .arg = s,
	};

	session_credentials_clear(s);
	session_env_count(s->env, COUNT_LOGINS);
	s->phase = SESSION_RELAY;
	spec.backend = backend_release(s->backend, &spec.backend_ssl);
	spec.client = client_release(s->client, line, len, &spec.client_ssl);
	s->relay = relay_start(&spec);
	if (s->relay == NULL) {
		bufferevent_free(spec.backend);
		bufferevent_free(spec.client);
	}
	event_free(s->deadline);
	s->deadline = NULL;
	client_free(&s->client);
	backend_free(&s->backend);
	session_let_go(s);
	s->cfg = NULL;
	s->listener = NULL;
	runtime_slice_unref(&s->front);
	if (s->relay == NULL)
		session_close(s, "out of memory");
}

static void
session_relay_done(void *arg, enum relay_end why)
{
	static const char *const texts[] = {
	    [RELAY_CLIENT_CLOSED] = "client closed",
	    [RELAY_BACKEND_CLOSED] = "backend closed",
	    [RELAY_CLIENT_ERROR] = "client lost",
	    [RELAY_BACKEND_ERROR] = "backend lost",
	    [RELAY_IDLE] = "idle",
	    [RELAY_NO_MEMORY] = "out of memory",
	};

	session_close(arg, texts[why]);
}

/* A login is decided by what is in force now, however old the connection is.
 * The listener's own properties stay those of the accept. */
static void
session_current(struct session *s)
{
	session_let_go(s);
	s->slice = runtime_slice_enter(s->env->slice);
	s->cfg = s->slice->rt->cfg;
}

/* The login is over, and so is its use of the runtime. */
static void
session_let_go(struct session *s)
{
	s->destination = -1;
	runtime_slice_leave(&s->slice);
	s->cfg = s->front->rt->cfg;
}

static void
session_credentials_clear(struct session *s)
{
	secret_clear(&s->cred.frame);
	secret_clear(&s->cred.bearer);
}

bool
session_failure_retry(enum failure why)
{
	return session_failures[why].retry;
}

enum session_blame
session_failure_blame(enum failure why)
{
	return session_failures[why].blame;
}

const char *
session_failure_name(enum failure why)
{
	return session_failures[why].name;
}

void
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

bool
session_closed(const struct session *s)
{
	return s->phase == SESSION_CLOSED;
}

/* From the worker's loop, when nobody stands on a session's frames. */
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
	backend_free(&s->backend);
	client_free(&s->client);
	if (s->placed)
		destination_leave(s->routed, true, false);
	destination_unref(&s->routed);
	if (s->deadline != NULL)
		event_free(s->deadline);
	session_credentials_clear(s);
	free(s->user);
	session_uncount(s);
	s->gone(s->gone_arg);
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
			client_shutdown(s->client,
			    "The server is being restarted; please try again.");
	/* Tells the worker when there is nothing to wait for. */
	event_active(env->reap, 0, 0);
}

void
session_close_all(struct session_env *env)
{
	struct session *s, *tmp;

	DL_FOREACH_SAFE (env->live, s, tmp)
		session_close(s, "shutting down");
}

void
session_log(struct log_line *l, int level, const struct session *s,
    const char *what)
{
	char ip[ADDR_TEXT_MAX];

	log_begin(l, level, "%s", what);
	log_cstr(l, "session", s->id);
	log_cstr(l, "client", addr_ip(&s->client_addr, ip));
}

/* "login failed" is what fail2ban looks for; a backend's trouble is "login
 * deferred", and nobody's fault in front of us. */
static void
session_log_failed(struct session *s, enum failure why, const char *reason,
    size_t len)
{
	struct log_line l;
	char text[ADDR_TEXT_MAX];

	session_log(&l, session_failures[why].level, s,
	    session_failures[why].counts ? "login failed" : "login deferred");
	log_cstr(&l, "user", s->user != NULL ? s->user : "");
	log_cstr(&l, "mechanism", s->cred.how != NULL ? s->cred.how : "-");
	log_cstr(&l, "listener", s->listener_name);
	if (s->routed != NULL) {
		log_cstr(&l, "destination", destination_name(s->routed));
		log_cstr(&l, "backend", addr_text(&s->backend_addr, text));
	}
	log_cstr(&l, "failure", session_failures[why].name);
	log_str(&l, "reason", reason, len);
	log_end(&l);
}

/* Load balancers' probes come and go without a word: not worth a line. */
static void
session_log_end(struct session *s)
{
	struct log_line l;
	char text[ADDR_TEXT_MAX];
	bool relayed = s->relay != NULL;

	session_log(&l, relayed || s->attempts > 0 ? LOG_INFO : LOG_DEBUG, s,
	    "session closed");
	log_cstr(&l, "listener", s->listener_name);
	log_cstr(&l, "user", s->user != NULL ? s->user : "");
	log_cstr(&l, "destination",
	    s->routed != NULL ? destination_name(s->routed) : "-");
	log_cstr(&l, "backend", addr_text(&s->backend_addr, text));
	log_cstr(&l, "client_tls",
	    s->client_tls != NULL ? s->client_tls : "none");
	if (s->client_cipher != NULL)
		log_cstr(&l, "client_cipher", s->client_cipher);
	if (!addr_same_ip(&s->peer, &s->client_addr))
		log_cstr(&l, "via", addr_ip(&s->peer, text));
	log_cstr(&l, "backend_tls",
	    s->backend_tls != NULL ? s->backend_tls : "none");
	if (s->backend_cipher != NULL)
		log_cstr(&l, "backend_cipher", s->backend_cipher);
	log_cstr(&l, "mechanism", s->cred.how != NULL ? s->cred.how : "-");
	log_uint(&l, "bytes_to_backend", s->to_backend);
	log_uint(&l, "bytes_to_client", s->to_client);
	log_uint(&l, "duration_ms", clock_ms() - s->started);
	log_cstr(&l, "login", relayed ? "ok" : "none");
	log_cstr(&l, "reason", s->end);
	log_end(&l);
}

void
session_drain_wiped(struct evbuffer *buf, size_t n)
{
	struct evbuffer_iovec vec[16];
	size_t left = n;

	while (left > 0) {
		int used = evbuffer_peek(buf, (ev_ssize_t)left, NULL, vec,
		    (int)ARRAY_LEN(vec));
		size_t drained = 0;

		if (used > (int)ARRAY_LEN(vec))
			used = (int)ARRAY_LEN(vec);
		for (int i = 0; i < used && drained < left; i++) {
			size_t part = vec[i].iov_len;

			if (part > left - drained)
				part = left - drained;
			secret_wipe(vec[i].iov_base, part);
			drained += part;
		}
		if (drained == 0)
			return;
		evbuffer_drain(buf, drained);
		left -= drained;
	}
}
