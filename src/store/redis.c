/* redis.c: routes in Redis: GET key_prefix + identifier.
 *
 * Requests are pipelined over one connection per worker and answered in order.
 * If a connection that has served before breaks (a restart), its requests in
 * flight are repeated once on the next connection. While nothing answers,
 * requests fail at once, and the connection is tried again after a pause. A
 * cancelled request keeps its place in the pipeline.
 *
 * Some errors are about the whole server (LOADING): then it is not asked for a
 * while, as if it did not answer.
 *
 * The channel has a connection of its own, which never rests: what it may have
 * missed while it was away makes all cached answers old. */

#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <utlist.h>

#include "platform/clock.h"
#include "platform/log.h"
#include "proto/identifier.h"
#include "redis_conn.h"
#include "channel.h"
#include "health.h"

#define REDIS_KEY "mapping.redis.url"
#define REDIS_REASON_MAX 256
#define REDIS_PING_MS 10000 /* is the channel's connection alive? */

/* A struct store_call of ours. */
struct redis_call {
	struct redis_call *next, *prev;
	struct store *st;
	enum store_verb verb;
	bool sent;
	bool again; /* its first connection died under it */
	unsigned replies; /* to come */
	char reason[REDIS_REASON_MAX]; /* of the first error; or "" */
	uint64_t asked;
	store_done *done; /* NULL: nobody waits */
	void *arg;
	const char *destination; /* SET; behind key */
	char key[]; /* with the prefix */
};

struct store {
	struct store_spec spec;
	const struct config_mapping *m;
	struct redis_server server;
	struct redis_conn *conn;
	struct redis_call *calls; /* in order, sent ones first */
	size_t n_calls;
	struct store_health health;

	struct redis_conn *watch; /* NULL: none */
	struct store_channel channel; /* its timer: pause, or ping */
};

/* What an error's first word means beyond its text. */
static const struct redis_refusal {
	const char *code; /* and a space */
	const char *text;
	bool all; /* every request would hear it */
} redis_refusals[] = {
    {"LOADING ", "the server is still loading its data", true},
    {"BUSY ", "a script keeps the server busy", true},
    {"MASTERDOWN ", "the server is a replica that has lost its master", true},
    {"NOAUTH ", "the server wants a password (mapping.redis.url)", true},
    {"CLUSTERDOWN ", "the server's cluster does not work", true},
    {"MOVED ", "the server is one node of a cluster: use a proxy for it",
	false},
    {"ASK ", "the server is one node of a cluster: use a proxy for it", false},
    {"NOPERM ", "the user may not do this", false},
    {"READONLY ", "the server is a replica: use the master to write", false},
};

static void store_redis_check(const struct config *cfg,
    struct config_problems *problems);
static struct store *store_redis_open(const struct store_spec *spec,
    struct err *err);
static void store_redis_close(struct store *st);
static struct store_call *store_redis_call(struct store *st,
    const struct store_request *rq);
static void store_redis_cancel(struct store_call *call);
static void store_redis_watch(struct store *st, store_changed *changed,
    void *arg);
static struct redis_call *redis_call_new(struct store *st,
    const struct store_request *rq);
static void redis_call_end(struct redis_call *call, enum store_result result,
    const char *text);
static void redis_call_send(struct redis_call *call);
static void redis_call_reply(struct redis_call *call, const redisReply *reply);
static void redis_call_get(struct redis_call *call, const redisReply *reply);
static const struct redis_refusal *redis_refusal(const redisReply *reply);
static void redis_reason(const redisReply *reply, char *buf, size_t size);
static void redis_store_ready(void *arg);
static void redis_store_reply(void *arg, const redisReply *reply);
static void redis_store_lost(void *arg, const char *reason, bool proven);
static void redis_watch_ready(void *arg);
static void redis_watch_reply(void *arg, const redisReply *reply);
static void redis_watch_lost(void *arg, const char *reason, bool proven);
static void redis_watch_timer_cb(evutil_socket_t fd, short what, void *arg);

const struct store_kind store_redis = {
    .name = "Redis",
    .source = SOURCE_REDIS,
    .schemes = {"redis://", "rediss://", "unix://"},
    .key = REDIS_KEY,
    .value = offsetof(struct config_mapping, redis_url),
    .check = store_redis_check,
    .open = store_redis_open,
    .close = store_redis_close,
    .call = store_redis_call,
    .cancel = store_redis_cancel,
    .watch = store_redis_watch,
};

static const struct redis_conn_events redis_store_events = {
    redis_store_ready, redis_store_reply, redis_store_lost};
static const struct redis_conn_events redis_watch_events = {
    redis_watch_ready, redis_watch_reply, redis_watch_lost};

static void
store_redis_check(const struct config *cfg, struct config_problems *problems)
{
	struct redis_server server;
	struct err err;

	if (redis_server_init(&server, cfg, &err) == -1) {
		config_problem(cfg, problems, REDIS_KEY, "%s", err.text);
		return;
	}
	if (server.tls == NULL && server.path == NULL &&
	    !store_is_loopback(server.dest.host))
		store_warn_unverified(cfg, problems, REDIS_KEY, "rediss://");
	redis_server_clear(&server);
}

static struct store *
store_redis_open(const struct store_spec *spec, struct err *err)
{
	struct store *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	st->spec = *spec;
	st->m = &spec->cfg->mapping;
	st->health.name = store_redis.name;
	if (redis_server_init(&st->server, spec->cfg, err) == -1) {
		free(st);
		return NULL;
	}
	st->conn =
	    redis_conn_new(&st->server, &st->spec, &redis_store_events, st);
	if (st->conn == NULL) {
		err_set(err, "out of memory");
		store_redis_close(st);
		return NULL;
	}
	return st;
}

static void
store_redis_close(struct store *st)
{
	struct redis_call *call, *next;

	redis_conn_free(&st->conn);
	redis_conn_free(&st->watch);
	store_channel_clear(&st->channel);
	DL_FOREACH_SAFE (st->calls, call, next)
		free(call);
	redis_server_clear(&st->server);
	free(st);
}

/* Requests */

static struct store_call *
store_redis_call(struct store *st, const struct store_request *rq)
{
	struct redis_call *call;

	if (!store_health_may_ask(&st->health, st->m->lookup_timeout))
		return store_fail(rq, st->health.reason);
	/* Those that were given up stay until they are answered. */
	if (st->n_calls >= STORE_WAITING_MAX)
		return store_fail(rq, STORE_TOO_MANY);
	call = redis_call_new(st, rq);
	if (call == NULL)
		return store_fail(rq, "out of memory");
	/* Neither calls back from here. */
	if (redis_conn_is_stopped(st->conn))
		redis_conn_start(st->conn);
	else if (redis_conn_is_ready(st->conn))
		redis_call_send(call);
	return (struct store_call *)(void *)call;
}

static struct redis_call *
redis_call_new(struct store *st, const struct store_request *rq)
{
	size_t prefix = strlen(st->m->redis_key_prefix);
	size_t key = strlen(rq->key) + 1;
	size_t name = rq->verb == STORE_SET ? strlen(rq->destination) + 1 : 0;
	struct redis_call *call =
	    calloc(1, sizeof(*call) + prefix + key + name);

	if (call == NULL)
		return NULL;
	call->st = st;
	call->verb = rq->verb;
	call->done = rq->done;
	call->arg = rq->arg;
	memcpy(call->key, st->m->redis_key_prefix, prefix);
	memcpy(call->key + prefix, rq->key, key);
	if (name > 0) {
		call->destination = call->key + prefix + key;
		memcpy(call->key + prefix + key, rq->destination, name);
	}
	DL_APPEND(st->calls, call);
	st->n_calls++;
	return call;
}

/* It is on no list any more. */
static void
redis_call_end(struct redis_call *call, enum store_result result,
    const char *text)
{
	call->st->n_calls--;
	if (call->done != NULL)
		call->done(call->arg, result, text);
	free(call);
}

static void
redis_call_send(struct redis_call *call)
{
	static const char *const verbs[] = {
	    [STORE_GET] = "GET",
	    [STORE_SET] = "SET",
	    [STORE_DELETE] = "DEL",
	};
	struct store *st = call->st;
	const char *word[] = {verbs[call->verb], call->key, call->destination};
	const char *tell[] = {"PUBLISH", st->m->redis_channel,
	    call->key + strlen(st->m->redis_key_prefix)};

	call->sent = true;
	call->asked = clock_ms();
	call->replies = 1;
	redis_conn_send(st->conn, call->destination != NULL ? 3 : 2, word);
	if (call->verb == STORE_GET || *st->m->redis_channel == '\0')
		return;
	redis_conn_send(st->conn, ARRAY_LEN(tell), tell);
	call->replies = 2;
}

/* The request took too long. If the server has sent nothing since, it hangs. */
static void
store_redis_cancel(struct store_call *handle)
{
	struct redis_call *call = (struct redis_call *)(void *)handle;
	struct store *st = call->st;

	if (!call->sent) {
		DL_DELETE(st->calls, call);
		call->done = NULL;
		redis_call_end(call, STORE_FAILED, NULL);
		return;
	}
	call->done = NULL;
	if (redis_conn_heard(st->conn) >= call->asked)
		return;
	redis_conn_stop(st->conn);
	redis_store_lost(st, "it does not answer", false);
}

static void
redis_store_ready(void *arg)
{
	struct store *st = arg;
	struct redis_call *call;

	DL_FOREACH (st->calls, call)
		redis_call_send(call);
}

/* Answers come in the order of the questions. */
static void
redis_store_reply(void *arg, const redisReply *reply)
{
	struct store *st = arg;
	struct redis_call *call = st->calls;
	const struct redis_refusal *refusal = redis_refusal(reply);
	char reason[REDIS_REASON_MAX];

	if (refusal == NULL || !refusal->all) {
		store_health_well(&st->health);
	} else {
		redis_reason(reply, reason, sizeof(reason));
		store_health_failed(&st->health, reason);
	}
	if (call == NULL || !call->sent)
		redis_conn_fail(st->conn, "an answer that nobody asked for");
	else
		redis_call_reply(call, reply);
}

static void
redis_call_reply(struct redis_call *call, const redisReply *reply)
{
	char reason[REDIS_REASON_MAX];

	if (call->verb == STORE_GET) {
		DL_DELETE(call->st->calls, call);
		redis_call_get(call, reply);
		return;
	}
	if (reply->type == REDIS_REPLY_ERROR && call->reason[0] == '\0') {
		redis_reason(reply, reason, sizeof(reason));
		snprintf(call->reason, sizeof(call->reason), "%s%.200s",
		    call->replies == 1 && *call->st->m->redis_channel != '\0'
			? "written, but not published: "
			: "",
		    reason);
	}
	if (--call->replies > 0)
		return;
	DL_DELETE(call->st->calls, call);
	if (call->reason[0] == '\0')
		redis_call_end(call, STORE_FOUND, "");
	else
		redis_call_end(call, STORE_FAILED, call->reason);
}

static void
redis_call_get(struct redis_call *call, const redisReply *reply)
{
	char reason[REDIS_REASON_MAX];

	switch (reply->type) {
	case REDIS_REPLY_STRING:
		if (strlen(reply->str) == reply->len)
			redis_call_end(call, STORE_FOUND, reply->str);
		else
			redis_call_end(call, STORE_FAILED,
			    "its answer is no destination's name");
		return;
	case REDIS_REPLY_NIL:
		redis_call_end(call, STORE_UNKNOWN, NULL);
		return;
	case REDIS_REPLY_ERROR:
		redis_reason(reply, reason, sizeof(reason));
		redis_call_end(call, STORE_FAILED, reason);
		return;
	default:
		redis_call_end(call, STORE_FAILED, "an unexpected reply");
		return;
	}
}

static const struct redis_refusal *
redis_refusal(const redisReply *reply)
{
	const struct redis_refusal *r = redis_refusals;

	if (reply->type != REDIS_REPLY_ERROR)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(redis_refusals); i++)
		if (strncmp(reply->str, r[i].code, strlen(r[i].code)) == 0)
			return &r[i];
	return NULL;
}

/* Of an error. */
static void
redis_reason(const redisReply *reply, char *buf, size_t size)
{
	const struct redis_refusal *refusal = redis_refusal(reply);

	if (refusal != NULL)
		snprintf(buf, size, "%s (%.100s)", refusal->text, reply->str);
	else
		snprintf(buf, size, "%.100s", reply->str);
}

static void
redis_store_lost(void *arg, const char *reason, bool proven)
{
	struct store *st = arg;
	struct redis_call *call, *calls = st->calls;

	if (!proven)
		store_health_failed(&st->health, reason);
	/* A done() may add new ones; they are not on this list. */
	st->calls = NULL;
	while ((call = calls) != NULL) {
		DL_DELETE(calls, call);
		if (call->done == NULL || !proven || call->again) {
			redis_call_end(call, STORE_FAILED, reason);
			continue;
		}
		call->again = call->sent;
		call->sent = false;
		call->reason[0] = '\0';
		DL_APPEND(st->calls, call);
	}
	if (st->calls != NULL && redis_conn_is_stopped(st->conn))
		redis_conn_start(st->conn);
}

/* The channel */

static void
store_redis_watch(struct store *st, store_changed *changed, void *arg)
{
	if (*st->m->redis_channel == '\0')
		return;
	if (store_channel_init(&st->channel, store_redis.name, st->spec.base,
		redis_watch_timer_cb, st, changed, arg))
		st->watch = redis_conn_new(&st->server, &st->spec,
		    &redis_watch_events, st);
	if (st->watch == NULL)
		log_msg(LOG_ERR, "out of memory: mapping.redis.channel is off");
	else
		redis_conn_start(st->watch);
}

static void
redis_watch_ready(void *arg)
{
	struct store *st = arg;
	const char *word[] = {"SUBSCRIBE", st->m->redis_channel};

	redis_conn_send(st->watch, ARRAY_LEN(word), word);
	store_channel_after(&st->channel, REDIS_PING_MS);
}

/* [subscribe CHANNEL 1], [message CHANNEL TEXT], [pong ""] */
static void
redis_watch_reply(void *arg, const redisReply *reply)
{
	struct store *st = arg;
	const redisReply *kind, *text;

	if (reply->type == REDIS_REPLY_ERROR) {
		redis_conn_fail(st->watch, reply->str);
		return;
	}
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 2 ||
	    reply->element[0]->type != REDIS_REPLY_STRING) {
		redis_conn_fail(st->watch, "an unexpected reply");
		return;
	}
	kind = reply->element[0];
	text = reply->element[reply->elements - 1];
	if (strcmp(kind->str, "subscribe") == 0) {
		store_channel_up(&st->channel);
	} else if (strcmp(kind->str, "message") == 0) {
		store_channel_heard(&st->channel,
		    text->type == REDIS_REPLY_STRING ? text->str : NULL,
		    text->len);
	}
}

static void
redis_watch_lost(void *arg, const char *reason, bool proven UNUSED)
{
	struct store *st = arg;

	store_channel_lost(&st->channel, reason);
}

static void
redis_watch_timer_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct store *st = arg;
	static const char *const ping[] = {"PING"};

	if (redis_conn_is_stopped(st->watch)) {
		redis_conn_start(st->watch);
	} else if (!redis_conn_is_ready(st->watch)) {
		return; /* it has a deadline of its own */
	} else if (clock_ms() - redis_conn_heard(st->watch) >
	    2 * REDIS_PING_MS) {
		redis_conn_fail(st->watch, "it does not answer");
	} else {
		redis_conn_send(st->watch, ARRAY_LEN(ping), ping);
		store_channel_after(&st->channel, REDIS_PING_MS);
	}
}
