/* config.h: the configuration file as typed, immutable values.
 *
 * config_load() reads the whole YAML file, fills in every default and reports
 * every problem with its position. The structure is never written afterwards;
 * the runtime made from it owns it. All strings are terminated and never NULL
 * unless a comment says so; "" means not set. Times are in milliseconds. The
 * length of the array NAME is n_NAME. */

#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "platform/addr.h"
#include "platform/log.h"
#include "platform/util.h"
#include "proto/identifier.h"
#include "proto/sasl.h"

enum protocol { PROTOCOL_POP3, PROTOCOLS };
enum tls_mode { TLS_IMPLICIT, TLS_STARTTLS, TLS_PLAIN };
enum proxy_mode { PROXY_OFF, PROXY_OPTIONAL, PROXY_REQUIRED };
enum forwarding { FORWARD_PROXY, FORWARD_XCLIENT, FORWARD_NONE };
enum auth_replay { AUTH_AUTO, AUTH_SASL, AUTH_USER };
enum mapping_source {
	SOURCE_FILE,
	SOURCE_REDIS,
	SOURCE_SQL,
	SOURCE_HTTP,
	MAPPING_SOURCES
};
enum store_error { STORE_ERROR_TEMPFAIL, STORE_ERROR_DEFAULT };
/* In wire order, so that < compares. */
enum tls_version { TLS_V1_0, TLS_V1_1, TLS_V1_2, TLS_V1_3 };
/* Cipher suites towards clients. MODERN has only AEAD. INTERMEDIATE has AEAD
 * first, and ECDHE and DHE with AES-CBC last, for old clients with RSA
 * certificates. */
enum tls_profile { PROFILE_INTERMEDIATE, PROFILE_MODERN };
/* An account that had a route and is suddenly unknown. */
enum guard { GUARD_OFF, GUARD_WARN, GUARD_REFUSE };

struct config_server {
	unsigned threads; /* as written: 0 = one per usable CPU */
	char *hostname;
	char *user, *group;
	uint64_t shutdown_grace, bridge_idle;
	uint64_t backend_timeout, backend_auth_timeout;
	unsigned backend_connect_retries;
	unsigned host_down_threshold, host_down_min_clients;
	uint64_t host_down_cooldown;
	unsigned proxy_ttl;
	uint64_t queue_timeout; /* of a login at the gate; 0 = no waiting */
	uint64_t drain_delay, upgrade_grace;
	uint64_t auth_failure_delay;
	int log_level; /* LOG_ERR .. LOG_DEBUG */
	enum log_format log_format;
	char *log_target; /* "stderr", "syslog" or an absolute path */
	uint64_t tcp_user_timeout;
	uint64_t socket_buffer; /* octets, 0 = the kernel's */
	uint64_t stats_interval; /* 0 = never */
};

struct config_limits {
	unsigned max_connections_per_ip, auth_failures_per_ip;
	uint64_t auth_failure_window;
	struct cidr *exempt;
	size_t n_exempt;
};

struct config_certificate {
	char *name; /* its key below tls.certificate */
	/* Absolute paths: key[i] belongs to cert[i]. Several pairs have keys
	 * of different types and serve the same names. */
	char **cert, **key;
	size_t n_pair; /* of both */
	size_t n_cert, n_key; /* as written; not n_pair: a problem */
	char **subjects; /* lower case; n 0: take the certificate's own */
	size_t n_subjects;
	bool is_default;
};

struct config_tls {
	struct config_certificate *certificate;
	size_t n_certificate;
	enum tls_version min_version; /* 1.2 or 1.3 */
	enum tls_profile profile;
	bool ignore_client_order;
	char **disable_cipher_suites; /* IANA names, known to exist */
	size_t n_disable_cipher_suites;
};

struct config_listener {
	char *name;
	enum protocol protocol;
	struct addr *bind;
	size_t n_bind;
	enum tls_mode tls;
	enum proxy_mode proxy_protocol;
	struct cidr *proxy_trusted;
	size_t n_proxy_trusted;
	uint64_t proxy_header_timeout;
	enum tls_version min_version; /* resolved */
	enum tls_profile profile; /* resolved */
	struct cidr *xclient_trusted;
	size_t n_xclient_trusted;
	unsigned max_connections;
	uint64_t preauth_timeout;
	unsigned max_auth_attempts, max_bad_commands;
};

struct config_pop3 { /* capabilities.pop3 */
	char *banner;
	enum sasl_mechanism mechanism[SASL_MECHANISMS]; /* as offered */
	size_t n_mechanism;
	bool allow_plain_auth_without_tls;
	char **advertise;
	size_t n_advertise;
	char *implementation; /* "" leaves the line out */
};

struct config_routing {
	char *default_destination;
	char **master_user_separators; /* each at least one octet */
	size_t n_master_user_separators;
	/* Octets that stand for an @ in names without one; "" = none. Never
	 * an @, a letter, a digit, or one octet twice. */
	char *at_substitutes;
	char *default_domain;
	enum guard guard;
};

struct config_mapping {
	enum mapping_source source;
	enum normalize normalize;
	uint64_t positive_ttl, negative_ttl;
	size_t cache_max_entries;
	uint64_t lookup_timeout;
	enum store_error on_store_error;
	uint64_t stale_ttl;
	char *file_path;
	char *redis_url, *redis_key_prefix, *redis_channel, *redis_ca_file;
	unsigned redis_pool_size;
	char *sql_url, *sql_query, *sql_upsert_query, *sql_delete_query;
	char *sql_list_query;
	char *sql_channel;
	unsigned sql_pool_size;
	char *http_url, *http_ca_file;
	unsigned http_pool_size;
};

/* Where and how one protocol of a destination is reached. */
struct config_endpoint {
	bool present;
	uint16_t port;
	enum tls_mode tls;
	enum forwarding
	    forwarding; /* resolved: endpoint's, destination's, rule */
	enum auth_replay auth;
};

struct config_destination {
	char *name;
	char *host;
	struct addr host_addr; /* host as a literal address; else len 0 */
	/* Resolved: host if not given. It may be a literal address only with
	 * tls_pinned or tls_allow_invalid_certs. */
	char *tls_server_name;
	char *tls_ca_file; /* "" = the system's */
	uint8_t tls_pin[32];
	bool tls_pinned;
	bool tls_allow_invalid_certs;
	enum tls_version tls_min_version;
	bool tls_legacy; /* take old servers' weak keys, digests, suites */
	char *tls_client_cert, *tls_client_key; /* both or neither */
	enum forwarding proxy_protocol; /* an old spelling, or -1 */
	enum forwarding forwarding; /* resolved; its endpoints may differ */
	struct addr *source_ips; /* port 0 */
	size_t n_source_ips;
	bool hide_auth_errors;
	bool allow_plaintext_auth;
	unsigned max_connecting, max_sessions; /* 0 = no limit */
	unsigned max_waiting; /* at the gate; 0 = nobody waits */
	struct config_endpoint pop3;
};

/* Returns d's endpoint for sessions of protocol p; it may not be present. */
static inline const struct config_endpoint *
config_endpoint(const struct config_destination *d, enum protocol p)
{
	return p == PROTOCOL_POP3 ? &d->pop3 : NULL;
}

struct config_admin {
	bool present;
	struct addr bind; /* len 0: the socket only */
	enum tls_mode tls; /* TLS_IMPLICIT */
	/* If bind is set, one of these is. MAILFERRY_ADMIN_TOKEN has already
	 * replaced bearer_token and cleared the other. */
	char *bearer_token_file, *bearer_token;
	unsigned min_token_len;
	unsigned lockout_threshold;
	uint64_t lockout_duration;
	char *socket; /* "": none */
	char *certificate; /* below tls.certificate; "": the default one */
	char *read_token_file; /* "": none */
	struct cidr *allow;
	size_t n_allow; /* 0: everybody */
	char **peers; /* "https://HOST:PORT" */
	size_t n_peers;
	char *peers_ca_file; /* "": the system's */
};

struct config_state {
	bool present; /* false: no section */
	char *path;
	uint64_t keep;
};

struct config_tree; /* the YAML nodes, kept for their positions */

struct config {
	char *path; /* as given to config_load() */
	struct config_server server;
	struct config_limits limits;
	struct config_tls tls;
	struct config_listener *listener;
	size_t n_listener;
	struct config_pop3 pop3;
	char *jwt_username_claim;
	struct config_routing routing;
	struct config_mapping mapping;
	struct config_destination *destination; /* sorted by name */
	size_t n_destination;
	struct config_state state;
	struct config_admin admin;
	struct config_tree *tree;
};

/* One line each, in file order: "FILE:LINE:COLUMN: KEY: what; expected ...".
 * Warnings have the same form and do not make a configuration bad. */
struct config_problems {
	char **error;
	size_t n_error;
	char **warning;
	size_t n_warning;
};

/* Reads and checks path. Returns NULL if the file is unreadable or not YAML
 * (one problem says why). Otherwise returns a complete structure in which
 * defaults replace bad values, so that later checks (certificates, mapping
 * file) can add problems. It may be used only if problems->n_error is 0. The
 * caller zeroes problems before and clears it afterwards. */
struct config *config_load(const char *path, struct config_problems *problems);

/* Does the same from memory. name replaces FILE, and relative paths start at
 * the directory of name. For tests and fuzzing. */
struct config *config_parse(const char *name, const char *text, size_t len,
    struct config_problems *problems);

void config_free(struct config **cfg);

/* Writes the configuration with every default filled in, as YAML that reads
 * back the same. Passwords in URLs and other secrets are stars. */
void config_dump(const struct config *cfg, FILE *out);

/* Prints type, range, default and help of the key at the dotted path, in which
 * a name of the operator may stand for itself or be "*"; of every key for
 * "all". Returns false if there is no such key: err says which is near. */
bool config_explain(const char *path, FILE *out, FILE *err);

#define CONFIG_URL_MAX 2048

/* Writes a URL with stars for its password and for parameters that are named
 * like a password. */
void config_mask_url(const char *url, char out[CONFIG_URL_MAX + 1]);

/* Does the same for the URL at the dotted key path, with stars also for text
 * from the environment. url: its value. */
void config_show_url(const struct config *cfg, const char *path,
    const char *url, char out[CONFIG_URL_MAX + 1]);

/* Writes the numbers and durations of a listener that are not the defaults,
 * except max_connections: ", preauth_timeout 7s, max_auth_attempts 1"; may be
 * "". */
void config_listener_changes(const struct config_listener *l, FILE *out);

/* Adds a problem at the value of the dotted key path ("tls.certificate.
 * primary.cert", "listener.pop3s.bind[0]"), or at its nearest parent that the
 * file has. */
void config_problem(const struct config *cfg, struct config_problems *problems,
    const char *key, const char *fmt, ...) PRINTF_LIKE(4, 5);
void config_warning(const struct config *cfg, struct config_problems *problems,
    const char *key, const char *fmt, ...) PRINTF_LIKE(4, 5);
void config_problems_clear(struct config_problems *problems);

/* Returns true if both have the same values for all keys that begin with prefix
 * ("mapping."). Ignores keys in lists and in named sections. */
bool config_same(const struct config *a, const struct config *b,
    const char *prefix);

/* How a name becomes what is looked up. */
struct identifier_rules config_identifier_rules(const struct config *cfg);

/* The declared destination's index, or -1. */
int config_destination_find(const struct config *cfg, const char *name,
    size_t len);

#endif
