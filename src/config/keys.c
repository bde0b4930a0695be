/* keys.c: the keys.
 *
 * A row is a type, a range, a default and a place. FIELD() lets the compiler
 * compare a row's type with its field's. */

#include "keys.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "near.h"
#include "types.h"

static bool config_keys_below(const struct config_key *section,
    const struct config_key *key);
static void config_keys_accepts_words(const struct config_key *key, char *buf,
    size_t size);
static void config_keys_accepts_section(const struct config_key *section,
    char *buf, size_t size);

static const struct config_word config_words_log_level[] = {
    {"error", LOG_ERR},
    {"warn", LOG_WARNING},
    {"info", LOG_INFO},
    {"debug", LOG_DEBUG},
    {NULL, 0},
};
static const struct config_word config_words_log_format[] = {
    {"text", LOG_TEXT},
    {"json", LOG_JSON},
    {NULL, 0},
};
static const struct config_word config_words_tls_version[] = {
    {"1.2", TLS_V1_2},
    {"1.3", TLS_V1_3},
    {NULL, 0},
};
static const struct config_word config_words_listener_tls_version[] = {
    {"1.0", TLS_V1_0},
    {"1.1", TLS_V1_1},
    {"1.2", TLS_V1_2},
    {"1.3", TLS_V1_3},
    {"", CONFIG_UNSET},
    {NULL, 0},
};
static const struct config_word config_words_backend_tls_version[] = {
    {"1.0", TLS_V1_0},
    {"1.1", TLS_V1_1},
    {"1.2", TLS_V1_2},
    {"1.3", TLS_V1_3},
    {NULL, 0},
};
static const struct config_word config_words_profile[] = {
    {"modern", PROFILE_MODERN},
    {"intermediate", PROFILE_INTERMEDIATE},
    {NULL, 0},
};
static const struct config_word config_words_listener_profile[] = {
    {"modern", PROFILE_MODERN},
    {"intermediate", PROFILE_INTERMEDIATE},
    {"", CONFIG_UNSET},
    {NULL, 0},
};
static const struct config_word config_words_guard[] = {
    {"off", GUARD_OFF},
    {"warn", GUARD_WARN},
    {"refuse", GUARD_REFUSE},
    {NULL, 0},
};
static const struct config_word config_words_protocol[] = {
    {"pop3", PROTOCOL_POP3},
    {NULL, 0},
};
static const struct config_word config_words_tls[] = {
    {"implicit", TLS_IMPLICIT},
    {"starttls", TLS_STARTTLS},
    {"plain", TLS_PLAIN},
    {NULL, 0},
};
static const struct config_word config_words_admin_tls[] = {
    {"implicit", TLS_IMPLICIT},
    {NULL, 0},
};
static const struct config_word config_words_proxy[] = {
    {"off", PROXY_OFF},
    {"optional", PROXY_OPTIONAL},
    {"required", PROXY_REQUIRED},
    {NULL, 0},
};
static const struct config_word config_words_source[] = {
    {"file", SOURCE_FILE},
    {"redis", SOURCE_REDIS},
    {"sql", SOURCE_SQL},
    {"http", SOURCE_HTTP},
    {NULL, 0},
};
static const struct config_word config_words_normalize[] = {
    {"none", NORMALIZE_NONE},
    {"domain", NORMALIZE_DOMAIN},
    {"lowercase", NORMALIZE_LOWERCASE},
    {NULL, 0},
};
static const struct config_word config_words_store_error[] = {
    {"tempfail", STORE_ERROR_TEMPFAIL},
    {"default", STORE_ERROR_DEFAULT},
    {NULL, 0},
};
static const struct config_word config_words_forwarding[] = {
    {"xclient", FORWARD_XCLIENT},
    {"proxy", FORWARD_PROXY},
    {"none", FORWARD_NONE},
    {NULL, 0},
};
static const struct config_word config_words_endpoint_forwarding[] = {
    {"xclient", FORWARD_XCLIENT},
    {"proxy", FORWARD_PROXY},
    {"none", FORWARD_NONE},
    {"", CONFIG_UNSET},
    {NULL, 0},
};
static const struct config_word config_words_old_forwarding[] = {
    {"true", FORWARD_PROXY},
    {"false", FORWARD_NONE},
    {"", CONFIG_UNSET},
    {NULL, 0},
};
static const struct config_word config_words_auth[] = {
    {"auto", AUTH_AUTO},
    {"sasl", AUTH_SASL},
    {"user", AUTH_USER},
    {NULL, 0},
};
static const struct config_word config_words_redis_url[] = {
    {"redis://", 0},
    {"rediss://", 0},
    {"unix://", 0},
    {NULL, 0},
};
static const struct config_word config_words_sql_url[] = {
    {"sqlite://", 0},
    {"postgres://", 0},
    {"mysql://", 0},
    {NULL, 0},
};
static const struct config_word config_words_http_url[] = {
    {"http://", 0},
    {"https://", 0},
    {NULL, 0},
};

#define SECONDS(n) (1000ULL * (n))
#define MINUTES(n) SECONDS(60ULL * (n))
#define DAYS(n) MINUTES(1440ULL * (n))

/* What "+OK", " [XCLIENT]" and CRLF, or "IMPLEMENTATION " and CRLF, or CRLF
 * alone leave of 512 octets. */
#define BANNER_MAX 496
#define IMPLEMENTATION_MAX 495
#define CAPABILITY_MAX 510

/* Gives the offset of field f of struct s, which must be a c_type. */
#define FIELD(s, f, c_type)      \
	(offsetof(struct s, f) + \
	    0 * sizeof(_Generic(&((struct s *)0)->f, c_type * : 1)))
/* Enumerations: any, of an int's size. */
#define WORD_FIELD(s, f)                                                  \
	(offsetof(struct s, f) +                                          \
	    0 *                                                           \
		sizeof(char[sizeof(((struct s *)0)->f) == sizeof(int) ? 1 \
								      : -1]))

#define SECTION(p, flag, h)                                                  \
	{                                                                    \
		.path = p, .shape = CONFIG_SECTION, .flags = flag, .help = h \
	}
#define PRESENT(p, s, f, h)                                                   \
	{                                                                     \
		.path = p, .shape = CONFIG_SECTION, .flags = CONFIG_OPTIONAL, \
		.type = &config_type_boolean, .offset = FIELD(s, f, bool),    \
		.help = h                                                     \
	}
#define NAMED(p, flag, s, f, n, most, h)                                      \
	{                                                                     \
		.path = p, .shape = CONFIG_NAMED, .flags = flag, .max = most, \
		.offset = FIELD(config, f, struct s *),                       \
		.n_offset = FIELD(config, n, size_t),                         \
		.size = sizeof(struct s), .help = h                           \
	}
#define ROW(p, t, flag, place, lo, hi, dflt, h)                                \
	{                                                                      \
		.path = p, .type = &config_type_##t, .flags = flag,            \
		.offset = place, .min = lo, .max = hi, .text = dflt, .help = h \
	}
#define BOOLEAN(p, s, f, dflt, h) \
	ROW(p, boolean, 0, FIELD(s, f, bool), 0, 0, dflt, h)
#define NUMBER(p, s, f, lo, hi, dflt, h) \
	ROW(p, number, 0, FIELD(s, f, unsigned), lo, hi, dflt, h)
#define DURATION(p, s, f, lo, hi, dflt, h) \
	ROW(p, duration, 0, FIELD(s, f, uint64_t), lo, hi, dflt, h)
#define WORD(p, w, s, f, dflt, h)                                      \
	{                                                              \
		.path = p, .type = &config_type_word,                  \
		.words = config_words_##w, .offset = WORD_FIELD(s, f), \
		.text = dflt, .help = h                                \
	}
#define TEXT(p, t, flag, s, f, lo, hi, dflt, h) \
	ROW(p, t, flag, FIELD(s, f, char *), lo, hi, dflt, h)
#define URL(p, w, s, f, h)                                                \
	{                                                                 \
		.path = p, .type = &config_type_url,                      \
		.flags = CONFIG_REQUIRED | CONFIG_SECRET,                 \
		.words = config_words_##w, .offset = FIELD(s, f, char *), \
		.max = CONFIG_URL_MAX, .help = h                          \
	}
#define LIST(p, t, flag, s, f, n, c_type, lo, hi, dflt, h)                   \
	{                                                                    \
		.path = p, .shape = CONFIG_VALUES, .type = &config_type_##t, \
		.flags = flag, .offset = FIELD(s, f, c_type *),              \
		.n_offset = FIELD(s, n, size_t), .min = lo, .max = hi,       \
		.text = dflt, .help = h                                      \
	}
#define PATHS(p, s, f, n, hi, h)                                              \
	{                                                                     \
		.path = p, .shape = CONFIG_VALUES, .type = &config_type_path, \
		.flags = CONFIG_REQUIRED | CONFIG_ONE,                        \
		.offset = FIELD(s, f, char **),                               \
		.n_offset = FIELD(s, n, size_t), .min = 1, .max = hi,         \
		.longest = 4095, .help = h                                    \
	}

/* In the manual's order. */
const struct config_key config_keys[] = {
    SECTION("", 0, "The whole file."),

    SECTION("server", 0, "The process as a whole."),
    NUMBER("server.threads", config, server.threads, 0, 1024, "0",
	"Worker threads; 0 is one per CPU that the process may use."),
    TEXT("server.hostname", dns_name, 0, config, server.hostname, 0, 253, "",
	"This host's name as peers are told; default: the system's."),
    TEXT("server.user", string, 0, config, server.user, 0, 255, "",
	"User to become after binding, when started as root."),
    TEXT("server.group", string, 0, config, server.group, 0, 255, "",
	"Group to become after binding; default: the user's."),
    DURATION("server.shutdown_grace", config, server.shutdown_grace, 0, DAYS(7),
	"30s", "How long sessions may drain after SIGTERM or SIGINT."),
    DURATION("server.bridge_idle", config, server.bridge_idle, SECONDS(1),
	DAYS(7), "1800s",
	"A relayed session without a byte either way for this long is closed."),
    DURATION("server.backend_timeout", config, server.backend_timeout, 1,
	DAYS(1), "10s",
	"To connect and secure a backend connection, up to the login."),
    DURATION("server.backend_auth_timeout", config, server.backend_auth_timeout,
	1, DAYS(1), "60s", "For the backend's answer to the login."),
    NUMBER("server.backend_connect_retries", config,
	server.backend_connect_retries, 0, 100, "1",
	"Extra attempts after a retryable failure, inside backend_timeout."),
    NUMBER("server.host_down_threshold", config, server.host_down_threshold, 0,
	1000000, "5",
	"Consecutive failures that mark a destination down; 0 is never."),
    NUMBER("server.host_down_min_clients", config, server.host_down_min_clients,
	0, 1000000, "2",
	"Failures after connect count only over this many client addresses."),
    DURATION("server.host_down_cooldown", config, server.host_down_cooldown, 1,
	DAYS(1), "30s",
	"After this, one connection may probe a destination that is down."),
    NUMBER("server.proxy_ttl", config, server.proxy_ttl, 1, 255, "7",
	"Hop budget sent with XCLIENT, one less at each hop."),
    DURATION("server.queue_timeout", config, server.queue_timeout, 0,
	MINUTES(10), "10s",
	"How long a login may wait at a destination's gate; 0s is not at all."),
    DURATION("server.drain_delay", config, server.drain_delay, 0, MINUTES(60),
	"0s",
	"How long listeners stay open after SIGTERM, while /healthz says "
	"503."),
    DURATION("server.upgrade_grace", config, server.upgrade_grace, 0, DAYS(7),
	"1h", "How long the old process of an upgrade in place may drain."),
    DURATION("server.auth_failure_delay", config, server.auth_failure_delay, 0,
	MINUTES(5), "2s", "A refused login is answered no sooner than this."),
    WORD("server.log_level", log_level, config, server.log_level, "info",
	"The least important messages that are logged."),
    WORD("server.log_format", log_format, config, server.log_format, "text",
	"A log line as text, or as one JSON object."),
    TEXT("server.log_target", log_target, 0, config, server.log_target, 1, 4095,
	"stderr", "Where the log goes; a file is reopened on SIGHUP."),
    DURATION("server.tcp_user_timeout", config, server.tcp_user_timeout, 0,
	DAYS(1), "60s",
	"A peer that acknowledges nothing for this long is gone; 0s is the "
	"kernel's."),
    ROW("server.socket_buffer", size, 0,
	FIELD(config, server.socket_buffer, uint64_t), 0, 1 << 30, "0",
	"SO_SNDBUF towards clients, SO_RCVBUF towards backends; 0 is the "
	"kernel's."),
    DURATION("server.stats_interval", config, server.stats_interval, 0, DAYS(7),
	"1h", "How often counters are logged; 0s is at the end only."),

    SECTION("limits", 0, "Per client address (IPv6: per /64)."),
    NUMBER("limits.max_connections_per_ip", config,
	limits.max_connections_per_ip, 0, 1000000000, "0",
	"Connections at a time; 0 is no limit."),
    NUMBER("limits.auth_failures_per_ip", config, limits.auth_failures_per_ip,
	0, 1000000000, "0",
	"Refused logins within auth_failure_window; 0 is no limit."),
    DURATION("limits.auth_failure_window", config, limits.auth_failure_window,
	SECONDS(1), DAYS(7), "10m", "How long a refused login counts."),
    LIST("limits.exempt", cidr, 0, config, limits.exempt, limits.n_exempt,
	struct cidr, 0, 4096, "", "Addresses without these limits."),

    SECTION("tls", 0, "TLS towards clients."),
    NAMED("tls.certificate", 0, config_certificate, tls.certificate,
	tls.n_certificate, 10000,
	"Certificates by a name of your own, chosen by SNI."),
    SECTION("tls.certificate.*", 0, "One certificate and its key."),
    PATHS("tls.certificate.*.cert", config_certificate, cert, n_cert, 4,
	"PEM file, the leaf first, then intermediates."),
    PATHS("tls.certificate.*.key", config_certificate, key, n_key, 4,
	"PEM file with its private key."),
    LIST("tls.certificate.*.subjects", subject, 0, config_certificate, subjects,
	n_subjects, char *, 0, 1024, "",
	"Names it is chosen for; default: the certificate's own."),
    BOOLEAN("tls.certificate.*.default", config_certificate, is_default,
	"false", "Chosen when no other fits; default: the first one."),
    SECTION("tls.protocols", 0, "Versions and cipher suites."),
    WORD("tls.protocols.min_version", tls_version, config, tls.min_version,
	"1.2", "The oldest version spoken with clients."),
    WORD("tls.protocols.profile", profile, config, tls.profile, "intermediate",
	"Which cipher suites clients may use."),
    BOOLEAN("tls.protocols.ignore_client_order", config,
	tls.ignore_client_order, "false", "The server's cipher order wins."),
    LIST("tls.protocols.disable_cipher_suites", cipher, 0, config,
	tls.disable_cipher_suites, tls.n_disable_cipher_suites, char *, 0, 256,
	"", "Cipher suites never used, by their standard names."),

    NAMED("listener", CONFIG_REQUIRED, config_listener, listener, n_listener,
	64, "Where clients are served, by a name of your own; at least one."),
    SECTION("listener.*", 0, "One listener."),
    WORD("listener.*.protocol", protocol, config_listener, protocol, "pop3",
	"What is spoken; pop3 is the only protocol so far."),
    LIST("listener.*.bind", address, CONFIG_REQUIRED, config_listener, bind,
	n_bind, struct addr, 1, 64, NULL,
	"Where it listens; [::] is IPv6 only."),
    WORD("listener.*.tls", tls, config_listener, tls, "implicit",
	"TLS at once, by STLS, or not at all."),
    WORD("listener.*.proxy_protocol", proxy, config_listener, proxy_protocol,
	"off", "The PROXY protocol, v1 or v2, from proxy_trusted."),
    LIST("listener.*.proxy_trusted", cidr, 0, config_listener, proxy_trusted,
	n_proxy_trusted, struct cidr, 0, 4096, "",
	"Peers whose PROXY header is believed."),
    DURATION("listener.*.proxy_header_timeout", config_listener,
	proxy_header_timeout, 1, MINUTES(5), "3s",
	"How long the PROXY header is waited for."),
    WORD("listener.*.min_version", listener_tls_version, config_listener,
	min_version, "",
	"Oldest TLS version here; default: tls.protocols.min_version."),
    WORD("listener.*.profile", listener_profile, config_listener, profile, "",
	"Cipher suites here; default: tls.protocols.profile."),
    LIST("listener.*.xclient_trusted", cidr, 0, config_listener,
	xclient_trusted, n_xclient_trusted, struct cidr, 0, 4096, "",
	"Downstream proxies whose XCLIENT is believed."),
    NUMBER("listener.*.max_connections", config_listener, max_connections, 1,
	1000000000, "8192", "Beyond it a connection is answered and closed."),
    DURATION("listener.*.preauth_timeout", config_listener, preauth_timeout, 1,
	DAYS(1), "30s", "From accept to the login."),
    NUMBER("listener.*.max_auth_attempts", config_listener, max_auth_attempts,
	1, 100, "3", "Refused logins, then the connection is closed."),
    NUMBER("listener.*.max_bad_commands", config_listener, max_bad_commands, 0,
	1000000, "10",
	"Unknown or misplaced commands before login; the next one closes."),

    SECTION("capabilities", 0, "What is said to clients."),
    SECTION("capabilities.pop3", 0, "What is said to POP3 clients."),
    TEXT("capabilities.pop3.banner", banner, 0, config, pop3.banner, 0,
	BANNER_MAX, "mailferry ready", "Text of the +OK greeting."),
    {.path = "capabilities.pop3.sasl",
	.shape = CONFIG_VALUES,
	.type = &config_type_mechanism,
	.flags = CONFIG_INLINE | CONFIG_UNIQUE,
	.max = SASL_MECHANISMS,
	.offset = FIELD(config, pop3.mechanism[0], enum sasl_mechanism),
	.n_offset = FIELD(config, pop3.n_mechanism, size_t),
	.text = "PLAIN, LOGIN, OAUTHBEARER, XOAUTH2",
	.help = "SASL mechanisms, in the order offered."},
    BOOLEAN("capabilities.pop3.allow_plain_auth_without_tls", config,
	pop3.allow_plain_auth_without_tls, "false",
	"Take logins on unencrypted connections."),
    {.path = "capabilities.pop3.advertise",
	.shape = CONFIG_VALUES,
	.type = &config_type_capability,
	.max = 64,
	.longest = CAPABILITY_MAX,
	.offset = FIELD(config, pop3.advertise, char **),
	.n_offset = FIELD(config, pop3.n_advertise, size_t),
	.text = "TOP, UIDL, RESP-CODES, AUTH-RESP-CODE, PIPELINING",
	.help = "Further CAPA lines, verbatim."},
    TEXT("capabilities.pop3.implementation", capability, 0, config,
	pop3.implementation, 0, IMPLEMENTATION_MAX, "mailferry",
	"CAPA's IMPLEMENTATION; empty leaves it out."),

    SECTION("oauth", 0, "Bearer logins."),
    TEXT("oauth.jwt_username_claim", string, 0, config, jwt_username_claim, 1,
	255, "email", "First claim tried when a bearer frame names no user."),

    SECTION("routing", 0, "Which destination a login belongs to."),
    TEXT("routing.default_destination", destination, CONFIG_REQUIRED, config,
	routing.default_destination, 1, 64, NULL,
	"The destination of everybody whom the mapping does not know."),
    LIST("routing.master_user_separators", string, 0, config,
	routing.master_user_separators, routing.n_master_user_separators,
	char *, 0, 16, "",
	"What follows one of these in a user name is not looked up."),
    TEXT("routing.at_substitutes", at_substitutes, 0, config,
	routing.at_substitutes, 0, 16, "",
	"Each stands for an @, for the lookup, in names without one."),
    TEXT("routing.default_domain", dns_name, 0, config, routing.default_domain,
	0, 253, "", "Appended, for the lookup, to names without @."),
    WORD("routing.guard", guard, config, routing.guard, "warn",
	"What an account gets that once had a route and is suddenly unknown."),

    SECTION("mapping", CONFIG_OPTIONAL, "Where routes are looked up."),
    WORD("mapping.source", source, config, mapping.source, "file",
	"Which of the sections below is used."),
    WORD("mapping.normalize", normalize, config, mapping.normalize, "lowercase",
	"What happens to a user name before its lookup."),
    DURATION("mapping.positive_ttl", config, mapping.positive_ttl, 0, DAYS(30),
	"600s", "How long a route is cached."),
    DURATION("mapping.negative_ttl", config, mapping.negative_ttl, 0, DAYS(30),
	"30s", "How long it is cached that the store knows no route."),
    ROW("mapping.cache_max_entries", count, 0,
	FIELD(config, mapping.cache_max_entries, size_t), 1, 100000000,
	"1000000", "Cached answers at most."),
    DURATION("mapping.lookup_timeout", config, mapping.lookup_timeout, 1,
	MINUTES(5), "5s", "For one lookup."),
    WORD("mapping.on_store_error", store_error, config, mapping.on_store_error,
	"tempfail",
	"What a login gets when the store fails and nothing is cached."),
    DURATION("mapping.stale_ttl", config, mapping.stale_ttl, 0, DAYS(30), "1h",
	"How long past its ttl an answer serves while the store fails."),
    SECTION("mapping.file", CONFIG_OPTIONAL, "Routes in a file."),
    TEXT("mapping.file.path", path, CONFIG_REQUIRED, config, mapping.file_path,
	1, 4095, NULL, "The mapping file."),
    SECTION("mapping.redis", CONFIG_OPTIONAL, "Routes in Redis."),
    URL("mapping.redis.url", redis_url, config, mapping.redis_url,
	"redis://[[USER]:PASSWORD@]HOST[:PORT]/DATABASE, rediss:// for TLS, or "
	"unix://PATH"),
    TEXT("mapping.redis.key_prefix", string, 0, config,
	mapping.redis_key_prefix, 0, 255,
	"route:", "Put before the identifier."),
    TEXT("mapping.redis.channel", string, 0, config, mapping.redis_channel, 0,
	255, "", "Where changed identifiers are published."),
    TEXT("mapping.redis.tls_ca_file", path, 0, config, mapping.redis_ca_file, 0,
	4095, "", "Whom to trust for rediss://; default: the system."),
    NUMBER("mapping.redis.pool_size", config, mapping.redis_pool_size, 1, 1024,
	"16", "Connections."),
    SECTION("mapping.sql", CONFIG_OPTIONAL, "Routes in a database."),
    URL("mapping.sql.url", sql_url, config, mapping.sql_url,
	"sqlite:///PATH, or postgres:// or mysql:// with "
	"USER:PASSWORD@HOST/DATABASE"),
    TEXT("mapping.sql.query", statement, CONFIG_REQUIRED, config,
	mapping.sql_query, 1, 4096, NULL,
	"One destination for one identifier."),
    TEXT("mapping.sql.upsert_query", statement, 0, config,
	mapping.sql_upsert_query, 0, 4096, "",
	"Sets a route, for mailferry route."),
    TEXT("mapping.sql.delete_query", statement, 0, config,
	mapping.sql_delete_query, 0, 4096, "",
	"Deletes a route, for mailferry route."),
    TEXT("mapping.sql.list_query", statement, 0, config, mapping.sql_list_query,
	0, 4096, "", "Lists routes."),
    TEXT("mapping.sql.channel", string, 0, config, mapping.sql_channel, 0, 63,
	"", "PostgreSQL: where changed identifiers are notified."),
    NUMBER("mapping.sql.pool_size", config, mapping.sql_pool_size, 1, 1024,
	"16", "Connections."),
    SECTION("mapping.http", CONFIG_OPTIONAL, "Routes from a web service."),
    URL("mapping.http.url", http_url, config, mapping.http_url,
	"Asked for each identifier, which replaces %u."),
    TEXT("mapping.http.tls_ca_file", path, 0, config, mapping.http_ca_file, 0,
	4095, "", "Whom to trust for https://; default: the system."),
    NUMBER("mapping.http.pool_size", config, mapping.http_pool_size, 1, 1024,
	"16", "Connections."),

    NAMED("destination", CONFIG_REQUIRED, config_destination, destination,
	n_destination, 100000, "Backends by a name of your own; at least one."),
    SECTION("destination.*", 0, "One backend."),
    TEXT("destination.*.host", host, CONFIG_REQUIRED, config_destination, host,
	1, 253, NULL, "Resolved at each connection, or a literal address."),
    TEXT("destination.*.tls_server_name", host, 0, config_destination,
	tls_server_name, 0, 253, "",
	"The name its certificate must have; default: host."),
    TEXT("destination.*.tls_ca_file", path, 0, config_destination, tls_ca_file,
	0, 4095, "", "CAs that are trusted; default: the system's."),
    ROW("destination.*.tls_pinned_cert_sha256", fingerprint, 0,
	FIELD(config_destination, tls_pin[0], uint8_t), 0, 0, "",
	"Exactly this leaf certificate."),
    BOOLEAN("destination.*.tls_allow_invalid_certs", config_destination,
	tls_allow_invalid_certs, "false",
	"Take any certificate; a warning at every start."),
    WORD("destination.*.tls_min_version", backend_tls_version,
	config_destination, tls_min_version, "1.2",
	"The oldest TLS version spoken with this backend."),
    BOOLEAN("destination.*.tls_legacy", config_destination, tls_legacy, "false",
	"Take the weak keys, signatures and cipher suites of an old server."),
    TEXT("destination.*.tls_client_cert", path, 0, config_destination,
	tls_client_cert, 0, 4095, "",
	"Certificate shown to the backend, with tls_client_key."),
    TEXT("destination.*.tls_client_key", path, 0, config_destination,
	tls_client_key, 0, 4095, "", "Its private key."),
    WORD("destination.*.forwarding", forwarding, config_destination, forwarding,
	"xclient", "How the client's address is told."),
    WORD("destination.*.proxy_protocol", old_forwarding, config_destination,
	proxy_protocol, "", "Old spelling: true is forwarding: proxy."),
    LIST("destination.*.source_ips", ip, 0, config_destination, source_ips,
	n_source_ips, struct addr, 0, 256, "",
	"Local addresses to connect from, taken in turn."),
    BOOLEAN("destination.*.hide_auth_errors", config_destination,
	hide_auth_errors, "false", "Answer a refused login in our own words."),
    BOOLEAN("destination.*.allow_plaintext_auth", config_destination,
	allow_plaintext_auth, "false",
	"Permit tls: plain, passwords in clear."),
    NUMBER("destination.*.max_connecting", config_destination, max_connecting,
	0, 1000000000, "32", "Connections not yet logged in; 0 is no limit."),
    NUMBER("destination.*.max_waiting", config_destination, max_waiting, 0,
	1000000, "1024", "Logins that wait at its gate."),
    NUMBER("destination.*.max_sessions", config_destination, max_sessions, 0,
	1000000000, "0", "Sessions; 0 is no limit."),
    SECTION("destination.*.protocol", CONFIG_REQUIRED,
	"The protocols it is reached by."),
    PRESENT("destination.*.protocol.pop3", config_destination, pop3.present,
	"POP3."),
    ROW("destination.*.protocol.pop3.port", port, 0,
	FIELD(config_destination, pop3.port, uint16_t), 1, 65535, NULL,
	"Default: 995 when tls is implicit, else 110."),
    WORD("destination.*.protocol.pop3.tls", tls, config_destination, pop3.tls,
	"implicit", "TLS at once, by STLS, or not at all."),
    WORD("destination.*.protocol.pop3.forwarding", endpoint_forwarding,
	config_destination, pop3.forwarding, "",
	"Overrides the destination's."),
    WORD("destination.*.protocol.pop3.auth", auth, config_destination,
	pop3.auth, "auto", "How a password login is replayed."),

    PRESENT("state", config, state.present,
	"What is known about accounts beyond a restart."),
    TEXT("state.path", path, 0, config, state.path, 1, 4095,
	"/var/lib/mailferry/state.db", "SQLite file."),
    DURATION("state.keep", config, state.keep, DAYS(1), DAYS(3650), "400d",
	"Accounts without a login for so long are forgotten."),

    PRESENT("admin", config, admin.present, "The management listener."),
    ROW("admin.bind", address, 0, FIELD(config, admin.bind, struct addr), 0, 0,
	NULL, "Where it listens; default: on the socket only."),
    WORD("admin.tls", admin_tls, config, admin.tls, "implicit",
	"Anything else is an error."),
    TEXT("admin.bearer_token_file", path, 0, config, admin.bearer_token_file, 0,
	4095, "", "File with the token."),
    TEXT("admin.bearer_token", token, CONFIG_SECRET, config, admin.bearer_token,
	0, 4096, "", "The token; MAILFERRY_ADMIN_TOKEN wins."),
    NUMBER("admin.min_token_len", config, admin.min_token_len, 1, 4096, "32",
	"A shorter token is refused."),
    NUMBER("admin.lockout_threshold", config, admin.lockout_threshold, 0,
	1000000, "5", "Wrong tokens that lock an address out; 0 is never."),
    DURATION("admin.lockout_duration", config, admin.lockout_duration, 1,
	DAYS(30), "5m", "For how long."),
    TEXT("admin.socket", path, 0, config, admin.socket, 0, 107, "",
	"Unix socket, mode 0600, same API, no token."),
    TEXT("admin.certificate", string, 0, config, admin.certificate, 0, 64, "",
	"A name below tls.certificate; default: the default certificate."),
    TEXT("admin.read_token_file", path, 0, config, admin.read_token_file, 0,
	4095, "", "File with a second token, which may only read."),
    LIST("admin.allow", cidr, 0, config, admin.allow, admin.n_allow,
	struct cidr, 0, 4096, "", "Who may connect; empty: everybody."),
    LIST("admin.peers", peer, 0, config, admin.peers, admin.n_peers, char *, 0,
	256, "", "Every proxy of the fleet."),
    TEXT("admin.peers_ca_file", path, 0, config, admin.peers_ca_file, 0, 4095,
	"", "CAs that verify the peers; default: the system's."),
};
const size_t n_config_keys = ARRAY_LEN(config_keys);

const struct config_key *
config_keys_root(void)
{
	return &config_keys[0];
}

const struct config_key *
config_keys_element(const struct config_key *named)
{
	/* It is the next row of the table. */
	const struct config_key *element = named + 1;

	assert(named->shape == CONFIG_NAMED);
	assert(element->shape == CONFIG_SECTION);
	return element;
}

const struct config_key *
config_keys_find(const struct config_key *section, const char *name)
{
	const struct config_key *key = NULL;

	while ((key = config_keys_next(section, key)) != NULL)
		if (strcmp(config_keys_name(key), name) == 0)
			return key;
	return NULL;
}

const struct config_key *
config_keys_next(const struct config_key *section,
    const struct config_key *before)
{
	const struct config_key *key = before == NULL ? section : before;
	const struct config_key *end = config_keys + n_config_keys;

	while (++key < end)
		if (config_keys_below(section, key))
			return key;
	return NULL;
}

static bool
config_keys_below(const struct config_key *section,
    const struct config_key *key)
{
	size_t len = strlen(section->path);
	const char *rest = key->path + len;

	if (strncmp(key->path, section->path, len) != 0)
		return false;
	if (len > 0 && *rest++ != '.')
		return false;
	return *rest != '\0' && strchr(rest, '.') == NULL;
}

const char *
config_keys_word(const char *path, int value)
{
	const struct config_key *key = config_keys;
	const struct config_word *word;

	while (strcmp(key->path, path) != 0)
		key++;
	word = key->words;
	while (word->value != value)
		word++;
	return word->text;
}

const char *
config_keys_name(const struct config_key *key)
{
	const char *dot = strrchr(key->path, '.');

	return dot == NULL ? key->path : dot + 1;
}

const char *
config_keys_accepts(const struct config_key *key, bool element, char *buf,
    size_t size)
{
	char one[256];

	if (key->shape == CONFIG_SECTION)
		config_keys_accepts_section(key, buf, size);
	else if (key->shape == CONFIG_NAMED)
		snprintf(buf, size, "1 to %u names of your own",
		    (unsigned)key->max);
	else if (key->shape == CONFIG_VALUES && !element &&
	    (key->flags & CONFIG_ONE) != 0)
		snprintf(buf, size, "%s, or a list of at most %u",
		    config_keys_accepts(key, true, one, sizeof(one)),
		    (unsigned)key->max);
	else if (key->shape == CONFIG_VALUES && !element)
		snprintf(buf, size, "a list of %u to %u, each %s",
		    (unsigned)key->min, (unsigned)key->max,
		    config_keys_accepts(key, true, one, sizeof(one)));
	else if (key->type->accepts != NULL)
		snprintf(buf, size, "%s", key->type->accepts);
	else if (key->type->range != NULL)
		key->type->range(key, buf, size);
	else
		config_keys_accepts_words(key, buf, size);
	return buf;
}

/* "a, b or c" */
static void
config_keys_accepts_words(const struct config_key *key, char *buf, size_t size)
{
	const struct config_word *w;
	size_t len = 0;

	if (key->type == &config_type_url)
		len = (size_t)snprintf(buf, size, "a URL that begins with ");
	for (w = key->words; w->text != NULL && *w->text != '\0'; w++) {
		bool last = w[1].text == NULL || *w[1].text == '\0';
		const char *glue = w == key->words ? "" : last ? " or " : ", ";

		len += (size_t)snprintf(buf + len, size - len, "%s%s", glue,
		    w->text);
		assert(len < size);
	}
}

/* One example is enough, the first key that has to be there. */
static void
config_keys_accepts_section(const struct config_key *section, char *buf,
    size_t size)
{
	const struct config_key *key = NULL, *shown = NULL;

	while ((key = config_keys_next(section, key)) != NULL)
		if (shown == NULL ||
		    (!(shown->flags & CONFIG_REQUIRED) &&
			(key->flags & CONFIG_REQUIRED)))
			shown = key;
	snprintf(buf, size, "%s such as \"%s:\"",
	    *section->path == '\0' ? "sections" : "keys",
	    shown == NULL ? "" : config_keys_name(shown));
}

const char *
config_keys_names(const struct config_key *section, char *buf, size_t size)
{
	const struct config_key *key = config_keys_next(section, NULL), *next;
	size_t len = 0;

	buf[0] = '\0';
	for (; key != NULL; key = next) {
		next = config_keys_next(section, key);
		len += (size_t)snprintf(buf + len, size - len, "%s%s",
		    len == 0	       ? ""
			: next == NULL ? " or "
				       : ", ",
		    config_keys_name(key));
		assert(len < size);
	}
	return buf;
}

const struct config_key *
config_keys_nearest(const struct config_key *section, const char *name)
{
	const struct config_key *key = NULL, *nearest = NULL;
	size_t least = SIZE_MAX;

	while ((key = config_keys_next(section, key)) != NULL) {
		size_t d = near_distance(config_keys_name(key), name);

		if (d < least) {
			least = d;
			nearest = key;
		}
	}
	return nearest;
}
