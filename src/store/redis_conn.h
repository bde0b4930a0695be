/* redis_conn.h: one connection to a Redis server: resolves, connects, TLS,
 * AUTH, SELECT, and then commands. hiredis formats and parses; its own
 * connections would block in getaddrinfo() and have no TLS. */

#ifndef STORE_REDIS_CONN_H
#define STORE_REDIS_CONN_H

#include <hiredis/hiredis.h>
#include <openssl/ssl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

/* A URL, taken apart. */
struct redis_server {
	struct config_destination dest; /* host, host_addr: for the connector */
	uint16_t port;
	char *path; /* of a Unix socket; NULL: TCP */
	char *user, *password; /* NULL: none */
	unsigned database;
	SSL_CTX *tls; /* NULL: plain */
};

/* Returns -1 if err says what is wrong with the URL or the CA file. */
int redis_server_init(struct redis_server *s, const struct config *cfg,
    struct err *err) MUST_CHECK;
void redis_server_clear(struct redis_server *s);

struct redis_conn;

/* All are called from the loop. lost says why, and whether the server had ever
 * answered on this connection. The connection is then stopped and may be
 * started again. */
struct redis_conn_events {
	void (*ready)(void *arg);
	void (*reply)(void *arg, const redisReply *reply);
	void (*lost)(void *arg, const char *reason, bool proven);
};

/* Makes a stopped connection. Returns NULL if memory is short. server, spec and
 * events are borrowed. */
struct redis_conn *redis_conn_new(const struct redis_server *server,
    const struct store_spec *spec, const struct redis_conn_events *events,
    void *arg);
void redis_conn_free(struct redis_conn **c);

/* lookup_timeout limits the time until ready(). */
void redis_conn_start(struct redis_conn *c);
/* Stops without a call of lost(). */
void redis_conn_stop(struct redis_conn *c);
/* Stops with a call of lost(). */
void redis_conn_fail(struct redis_conn *c, const char *reason);

bool redis_conn_is_stopped(const struct redis_conn *c);
bool redis_conn_is_ready(const struct redis_conn *c);
/* Returns when the server last sent anything (clock_ms()). */
uint64_t redis_conn_heard(const struct redis_conn *c);

/* Sends a command of n words. Call after ready(). */
void redis_conn_send(struct redis_conn *c, size_t n, const char *const *word);

#endif
