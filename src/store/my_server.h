/* my_server.h: the parts of a mysql:// URL, and the queries for its server.
 * Immutable; a store and its threads share it. */

#ifndef STORE_MY_SERVER_H
#define STORE_MY_SERVER_H

#include "blocking.h"
#include "config/config.h"
#include "platform/err.h"

enum my_tls { MY_TLS_NONE, MY_TLS_ANY, MY_TLS_VERIFIED };

struct my_server {
	struct blocking_settings shared; /* first */
	char *host, *user, *password, *database; /* NULL: none */
	char *socket, *ca_file;
	unsigned port;
	enum my_tls tls;
	unsigned timeout_s;
	char *query[STORE_DELETE + 1]; /* by verb */
};

/* max_conns: of the store's pool. Returns NULL if err says what is wrong with
 * mapping.sql.url, without its password. */
struct my_server *my_server_new(const struct config *cfg, size_t max_conns,
    struct err *err);
void my_server_unref(struct my_server *s);

#endif
