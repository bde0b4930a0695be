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
	"Worker threads. 0 is one per CPU that the process may "
	"use."),
    TEXT("server.hostname", dns_name, 0, config, server.hostname, 0, 253, "",
	"This host's name as peers are told. Default: the system's host "
	"name."),
    TEXT("server.user", string, 0, config, server.user, 0, 255, "",
	"User to become once all sockets are bound, when started as root. "
	"Default: stay."),
    TEXT("server.group", string, 0, config, server.group, 0, 255, "",
	"Group to become, likewise. Default: the user's own."),
    DURATION("server.shutdown_grace", config, server.shutdown_grace, 0, DAYS(7),
	"30s",
	"How long sessions may go on after SIGTERM or SIGINT; what is left "
	"then is closed. `0s` closes them at once. A service manager is "
	"asked to wait for this and 10 seconds more, so that systemd's "
	"`TimeoutStopSec` may be shorter."),
    DURATION("server.bridge_idle", config, server.bridge_idle, SECONDS(1),
	DAYS(7), "1800s",
	"A relayed session without a byte either way for this long is "
	"closed. RFC 1939 grants a client 10 minutes, so less than that is "
	"warned of. It should be longer than the backends' own timer."),
    DURATION("server.backend_timeout", config, server.backend_timeout, 1,
	DAYS(1), "10s",
	"To connect and secure one backend connection, up to where it "
	"could take a login. All attempts of one login are inside it."),
    DURATION("server.backend_auth_timeout", config, server.backend_auth_timeout,
	1, DAYS(1), "60s",
	"For the backend's answer to the login. Big or locked maildrops "
	"are slow; running out of it is no mark against the destination."),
    NUMBER("server.backend_connect_retries", config,
	server.backend_connect_retries, 0, 100, "1",
	"Extra attempts after a failure that another try may cure, 0 to "
	"100. One after a connection that failed begins with the name's "
	"next address."),
    NUMBER("server.host_down_threshold", config, server.host_down_threshold, 0,
	1000000, "5",
	"So many failures in a row mark a destination down: logins for it "
	"are refused without asking it. 0 is never."),
    NUMBER("server.host_down_min_clients", config, server.host_down_min_clients,
	0, 1000000, "2",
	"Failures after the connection was made count only once so many "
	"client addresses (IPv6: networks of /64) had them, so that one "
	"banned client does not stop everybody. 0 is no such rule."),
    DURATION("server.host_down_cooldown", config, server.host_down_cooldown, 1,
	DAYS(1), "30s",
	"After this, one connection at a time may try a destination that "
	"is down. One that cannot connect is another cooldown for "
	"everybody. A later failure is one for its client's address only, "
	"and the next client may try at once, until "
	"`host_down_min_clients` addresses have failed. When the "
	"destination has answered a login, two logins that it has not "
	"answered yet may be on their way to it, and twice as many after "
	"each further answer, up to `destination.*.max_connecting`; the "
	"others wait for their turn (see `queue_timeout`). A failure after "
	"the login was sent may be the doing of the client, for example of "
	"a very long password. It counts only for client addresses that "
	"have logged in there before, and once for each. A destination "
	"that closes the connection before its greeting is full, not down, "
	"while it serves sessions of this mailferry."),
    NUMBER("server.proxy_ttl", config, server.proxy_ttl, 1, 255, "7",
	"Hop budget that a session starts with. It is passed on "
	"with XCLIENT, one less at each hop; a login that arrives with 1 "
	"goes in a circle and is refused."),
    DURATION("server.queue_timeout", config, server.queue_timeout, 0,
	MINUTES(10), "10s",
	"How long a login may wait for its turn: its destination lets in "
	"`max_connecting` logins at a time, and fewer after an outage. "
	"Turns go by client address (IPv6: network of /64): the address "
	"with the fewest logins under way comes first, then the one that "
	"has waited longest. A login that got no turn gets `-ERR "
	"[SYS/TEMP]`. `0s` is not at all."),
    DURATION("server.drain_delay", config, server.drain_delay, 0, MINUTES(60),
	"0s",
	"How long listeners stay open after SIGTERM while `/healthz` "
	"answers 503, so that balancers take the host out first."),
    DURATION("server.upgrade_grace", config, server.upgrade_grace, 0, DAYS(7),
	"1h",
	"How long the old process of an upgrade in place may drain. This "
	"version checks the key but does not use it."),
    DURATION("server.auth_failure_delay", config, server.auth_failure_delay, 0,
	MINUTES(5), "2s", "A refused login is answered no sooner than this."),
    WORD("server.log_level", log_level, config, server.log_level, "info",
	"The least important messages that are logged: `error`, `warn`, "
	"`info` or `debug`."),
    WORD("server.log_format", log_format, config, server.log_format, "text",
	"`text`: a message and key=value fields; `json`: one object a "
	"line."),
    TEXT("server.log_target", log_target, 0, config, server.log_target, 1, 4095,
	"stderr",
	"`stderr`, `syslog` or a path. A file is opened again on SIGHUP "
	"and SIGUSR1 if it was renamed or removed; its directory has to be "
	"there. A FIFO need not have a reader yet."),
    DURATION("server.tcp_user_timeout", config, server.tcp_user_timeout, 0,
	DAYS(1), "60s",
	"A peer that acknowledges nothing for this long is gone. "
	"Keep-alive asks silent peers. A client that acknowledges but "
	"does not read stays, up to `bridge_idle`. `0s` is the kernel's "
	"own limit."),
    ROW("server.socket_buffer", size, 0,
	FIELD(config, server.socket_buffer, uint64_t), 0, 1 << 30, "0",
	"Size of the socket buffers that hold mail: sent to clients, "
	"received from backends. 0 leaves it to the kernel."),
    DURATION("server.stats_interval", config, server.stats_interval, 0, DAYS(7),
	"1h",
	"How often the counters described in mailferry(8) are logged. `0s` "
	"logs them at the end only."),

    SECTION("limits", 0, "Per client address (IPv6: per /64)."),
    NUMBER("limits.max_connections_per_ip", config,
	limits.max_connections_per_ip, 0, 1000000000, "0",
	"Connections at a time. 0 is no limit."),
    NUMBER("limits.auth_failures_per_ip", config, limits.auth_failures_per_ip,
	0, 1000000000, "0",
	"Refused logins within `limits.auth_failure_window`. The same "
	"wrong credentials, of the last ten of an address, count once, so "
	"that a phone with an old password does not throttle everybody "
	"behind its address. Further logins are refused without asking a "
	"backend, in the same words as a wrong password. 0 is no limit."),
    DURATION("limits.auth_failure_window", config, limits.auth_failure_window,
	SECONDS(1), DAYS(7), "10m", "How long a refused login counts."),
    LIST("limits.exempt", cidr, 0, config, limits.exempt, limits.n_exempt,
	struct cidr, 0, 4096, "",
	"Addresses without these limits, such as webmail hosts."),

    SECTION("tls", 0, "TLS towards clients."),
    NAMED("tls.certificate", 0, config_certificate, tls.certificate,
	tls.n_certificate, 10000,
	"Certificates by a name of your own, chosen by SNI."),
    SECTION("tls.certificate.*", 0, "One certificate and its key."),
    PATHS("tls.certificate.*.cert", config_certificate, cert, n_cert, 4,
	"PEM file: the leaf first, then the intermediates."),
    PATHS("tls.certificate.*.key", config_certificate, key, n_key, 4,
	"PEM file with the private key of the leaf. Both may be lists of "
	"the same length, for certificates of the same names with keys of "
	"different types, as ECDSA and RSA."),
    LIST("tls.certificate.*.subjects", subject, 0, config_certificate, subjects,
	n_subjects, char *, 0, 1024, "",
	"Names that this certificate is chosen for; `*.example.com` stands "
	"for every host in that domain. Default: the subject alternative "
	"names in the certificate, else its common name."),
    BOOLEAN("tls.certificate.*.default", config_certificate, is_default,
	"false",
	"Chosen for clients that name no host, or one that no certificate "
	"is for. One at most; when there is none, the first certificate is "
	"it."),
    SECTION("tls.protocols", 0, "Versions and cipher suites."),
    WORD("tls.protocols.min_version", tls_version, config, tls.min_version,
	"1.2",
	"The oldest TLS version spoken with clients, `\\(dq1.2\\(dq` or "
	"`\\(dq1.3\\(dq`."),
    WORD("tls.protocols.profile", profile, config, tls.profile, "intermediate",
	"Which cipher suites clients may use: `modern`, forward-secret "
	"ones with AEAD only; `intermediate`, those first, and last ECDHE "
	"and DHE with AES-CBC for old clients."),
    BOOLEAN("tls.protocols.ignore_client_order", config,
	tls.ignore_client_order, "false",
	"Whether the server's order of cipher suites wins over the "
	"client's."),
    LIST("tls.protocols.disable_cipher_suites", cipher, 0, config,
	tls.disable_cipher_suites, tls.n_disable_cipher_suites, char *, 0, 256,
	"",
	"Suites that are never used with clients, by their standard (IANA) "
	"names. Removing the last one is an error."),

    NAMED("listener", CONFIG_REQUIRED, config_listener, listener, n_listener,
	64, "Where clients are served, by a name of your own; at least one."),
    SECTION("listener.*", 0, "One listener."),
    WORD("listener.*.protocol", protocol, config_listener, protocol, "pop3",
	"What is spoken. `pop3` is the only protocol so far."),
    LIST("listener.*.bind", address, CONFIG_REQUIRED, config_listener, bind,
	n_bind, struct addr, 1, 64, NULL,
	"Where it listens: at least one `address:port`, IPv6 addresses in "
	"brackets. `[::]` is IPv6 only and can stand beside `0.0.0.0`. No "
	"address may occur twice in the file."),
    WORD("listener.*.tls", tls, config_listener, tls, "implicit",
	"`implicit`: TLS from the first byte (port 995); `starttls`: after "
	"the STLS command (port 110); `plain`: never."),
    WORD("listener.*.proxy_protocol", proxy, config_listener, proxy_protocol,
	"off",
	"Whether connections begin with a PROXY protocol header, version 1 "
	"or 2, that tells the client's address: `off`, `optional` or "
	"`required`. With `optional` a connection without one is served as "
	"it is, after waiting for it, which delays greetings in clear."),
    LIST("listener.*.proxy_trusted", cidr, 0, config_listener, proxy_trusted,
	n_proxy_trusted, struct cidr, 0, 4096, "",
	"Peers whose header is believed. Needed when `proxy_protocol` is "
	"not `off`."),
    DURATION("listener.*.proxy_header_timeout", config_listener,
	proxy_header_timeout, 1, MINUTES(5), "3s",
	"How long the header is waited for."),
    WORD("listener.*.min_version", listener_tls_version, config_listener,
	min_version, "",
	"The oldest TLS version of this listener: `\\(dq1.0\\(dq`, "
	"`\\(dq1.1\\(dq`, `\\(dq1.2\\(dq` or `\\(dq1.3\\(dq`. The first two are "
	"for old devices only, and warned of. Default: "
	"`tls.protocols.min_version`."),
    WORD("listener.*.profile", listener_profile, config_listener, profile, "",
	"Cipher suites of this listener. Default: `tls.protocols.profile`."),
    LIST("listener.*.xclient_trusted", cidr, 0, config_listener,
	xclient_trusted, n_xclient_trusted, struct cidr, 0, 4096, "",
	"Proxies in front of this one whose XCLIENT command is believed. "
	"To others the command does not exist."),
    NUMBER("listener.*.max_connections", config_listener, max_connections, 1,
	1000000000, "8192",
	"Beyond so many a connection is answered and closed."),
    DURATION("listener.*.preauth_timeout", config_listener, preauth_timeout, 1,
	DAYS(1), "30s",
	"From accept to login: PROXY header, TLS handshake and dialogue. "
	"Trickling bytes do not extend it."),
    NUMBER("listener.*.max_auth_attempts", config_listener, max_auth_attempts,
	1, 100, "3", "So many refused logins, 1 to 100, close the connection."),
    NUMBER("listener.*.max_bad_commands", config_listener, max_bad_commands, 0,
	1000000, "10",
	"So many unknown or misplaced commands are put up with before the "
	"login; the next one closes the connection."),

    SECTION("capabilities", 0, "What is said to clients."),
    SECTION("capabilities.pop3", 0, "What is said to POP3 clients."),
    TEXT("capabilities.pop3.banner", banner, 0, config, pop3.banner, 0,
	BANNER_MAX, "mailferry ready",
	"Text of the greeting, at most 496 octets. `<` and `>` are errors, "
	"because clients would try APOP."),
    {.path = "capabilities.pop3.sasl",
	.shape = CONFIG_VALUES,
	.type = &config_type_mechanism,
	.flags = CONFIG_INLINE | CONFIG_UNIQUE,
	.max = SASL_MECHANISMS,
	.offset = FIELD(config, pop3.mechanism[0], enum sasl_mechanism),
	.n_offset = FIELD(config, pop3.n_mechanism, size_t),
	.text = "PLAIN, LOGIN, OAUTHBEARER, XOAUTH2",
	.help =
	    "Mechanisms in the order they are offered, out of `PLAIN`, "
	    "`LOGIN`, `OAUTHBEARER` and `XOAUTH2`. An empty list leaves USER "
	    "and PASS only."},
    BOOLEAN("capabilities.pop3.allow_plain_auth_without_tls", config,
	pop3.allow_plain_auth_without_tls, "false",
	"Take logins on unencrypted connections, by which passwords cross "
	"the network in clear."),
    {.path = "capabilities.pop3.advertise",
	.shape = CONFIG_VALUES,
	.type = &config_type_capability,
	.max = 64,
	.longest = CAPABILITY_MAX,
	.offset = FIELD(config, pop3.advertise, char **),
	.n_offset = FIELD(config, pop3.n_advertise, size_t),
	.text = "TOP, UIDL, RESP-CODES, AUTH-RESP-CODE, PIPELINING",
	.help =
	    "Further lines of CAPA, verbatim. `UTF8` only if every backend has "
	    "it; some clients send it after PASS, into the relayed session."},
    TEXT("capabilities.pop3.implementation", capability, 0, config,
	pop3.implementation, 0, IMPLEMENTATION_MAX, "mailferry",
	"Text of the IMPLEMENTATION line of CAPA. An empty string leaves "
	"the line out."),

    SECTION("oauth", 0, "Bearer logins."),
    TEXT("oauth.jwt_username_claim", string, 0, config, jwt_username_claim, 1,
	255, "email",
	"The claim that is tried first when a bearer login names no user. "
	"After it come email, preferred_username, upn, unique_name and "
	"sub. It is read for routing only: the backend validates the "
	"token."),

    SECTION("routing", 0, "Which destination a login belongs to."),
    TEXT("routing.default_destination", destination, CONFIG_REQUIRED, config,
	routing.default_destination, 1, 64, NULL,
	"The destination of everybody whom the mapping does not know. It "
	"must be declared, and have an endpoint for every protocol that a "
	"listener accepts."),
    LIST("routing.master_user_separators", string, 0, config,
	routing.master_user_separators, routing.n_master_user_separators,
	char *, 0, 16, "",
	"What follows one of these in a user name is not looked up: "
	"`alice%admin` is routed as `alice`, and sent on unchanged. The "
	"default is an empty list, because hosters have `user%domain` "
	"names."),
    TEXT("routing.at_substitutes", at_substitutes, 0, config,
	routing.at_substitutes, 0, 16, "",
	"Characters that stand for `@` in names without one, for the "
	"lookup: with `%+`, `alice%example.com` is looked up as "
	"`alice@example.com`. If there are several, the last one stands "
	"for it. The login is sent on unchanged."),
    TEXT("routing.default_domain", dns_name, 0, config, routing.default_domain,
	0, 253, "",
	"Appended for the lookup to names without `@`. The login is sent "
	"on unchanged."),
    WORD("routing.guard", guard, config, routing.guard, "warn",
	"What an account gets that once had a route and is suddenly "
	"unknown: `off`, `warn` or `refuse`. This version checks the key "
	"but does not use it."),

    SECTION("mapping", CONFIG_OPTIONAL, "Where routes are looked up."),
    WORD("mapping.source", source, config, mapping.source, "file",
	"Which of the stores below is asked: `file`, `redis`, `sql` or "
	"`http`. Its section must be there."),
    WORD("mapping.normalize", normalize, config, mapping.normalize, "lowercase",
	"What happens to a user name before its lookup: `lowercase`, "
	"`domain` (only the part behind the last `@` becomes lower case) "
	"or `none`. In any case an internationalized domain becomes its "
	"ASCII form (Ql xn--...), and a dot at its end is cut: for a "
	"mapping file, for `mailferry route` and for messages on a channel "
	"either form will do, in other stores the keys have the ASCII "
	"form."),
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
	"What a login gets when the store fails, or names a destination "
	"that is not declared, and no route is cached: `tempfail`, a "
	"temporary error, or `default`, the default destination. The "
	"latter shows users who have moved an old mailbox."),
    DURATION("mapping.stale_ttl", config, mapping.stale_ttl, 0, DAYS(30), "1h",
	"How long past its time a cached route may serve while the store "
	"fails. After a reload, or news of a change, no older route "
	"serves. That the store knew no route never serves past "
	"`mapping.negative_ttl`. A failure is remembered for a second, so "
	"that a store that does not answer does not cost each login "
	"`mapping.lookup_timeout`."),
    SECTION("mapping.file", CONFIG_OPTIONAL, "Routes in a file."),
    TEXT("mapping.file.path", path, CONFIG_REQUIRED, config, mapping.file_path,
	1, 4095, NULL,
	"A text file with lines of an identifier, or `@domain`, a tab and "
	"the name of a destination. An identifier that no login can be "
	"looked up as is an error: one with capital letters (see "
	"`mapping.normalize`), double quotes, control characters, white "
	"space that is not ASCII or a byte-order mark in it, one that is "
	"not UTF-8, one with a master-user separator, and a bare name if "
	"`routing.default_domain` or `routing.at_substitutes` make "
	"something else of it."),
    SECTION("mapping.redis", CONFIG_OPTIONAL, "Routes in Redis."),
    URL("mapping.redis.url", redis_url, config, mapping.redis_url,
	"`redis://HOST:PORT/DATABASE`, the same with `rediss://` for TLS, "
	"or `unix:///PATH?db=DATABASE` for a Unix socket; before the host "
	"`:PASSWORD@`, or `USER:PASSWORD@` for a user of Redis' access "
	"control list. Reserved characters in them are written as `%NN`. "
	"It is never shown in messages."),
    TEXT("mapping.redis.key_prefix", string, 0, config,
	mapping.redis_key_prefix, 0, 255, "route:",
	"Put before the identifier: the value of `route:alice@example.com` "
	"is the name of a destination."),
    TEXT("mapping.redis.channel", string, 0, config, mapping.redis_channel, 0,
	255, "",
	"What is published there is an identifier whose route has changed: "
	"every mailferry forgets what it has cached of it. An empty "
	"message, and one that is no identifier, stand for all of them. "
	"Routes that mailferry changes are published by itself. Without a "
	"channel a change is seen after `mapping.positive_ttl`."),
    TEXT("mapping.redis.tls_ca_file", path, 0, config, mapping.redis_ca_file, 0,
	4095, "",
	"Certificates that may have signed the server's; without it the "
	"system's."),
    NUMBER("mapping.redis.pool_size", config, mapping.redis_pool_size, 1, 1024,
	"16",
	"Connections, 1 to 1024. Requests are pipelined, so that each "
	"worker has one, and one of them another for the channel."),
    SECTION("mapping.sql", CONFIG_OPTIONAL, "Routes in a database."),
    URL("mapping.sql.url", sql_url, config, mapping.sql_url,
	"The database. `sqlite:///PATH` is a file that is opened for "
	"reading only, and again when another has taken its place. With "
	"write-ahead logging its directory must be writable too. A lookup "
	"waits while another program holds a lock, and for a query without "
	"an index, for three quarters of `mapping.lookup_timeout`; then it "
	"is a failure. `postgres://USER:PASSWORD@HOST/DATABASE` takes "
	"libpq's parameters behind a `?`, such as "
	"`sslmode=verify-full&sslrootcert=PATH`; "
	"`postgres:///DATABASE?host=DIRECTORY` is a Unix socket. On "
	"another host a server that is not verified is worth a warning. A "
	"pooler such as pgbouncer may stand in between, in any mode; in "
	"session mode it must have a server connection for each of ours. "
	"`mysql://USER:PASSWORD@HOST/DATABASE` is MySQL or MariaDB. Behind "
	"a `?` may stand `socket=PATH`, `ssl-mode=disabled`, `required` or "
	"`verify` (the default with a host), and `ssl-ca=PATH`. The URL is "
	"never shown in messages with its password."),
    TEXT("mapping.sql.query", statement, CONFIG_REQUIRED, config,
	mapping.sql_query, 1, 4096, NULL,
	"Selects one destination for one identifier. `$1` stands for the "
	"identifier with PostgreSQL, `?` with the others."),
    TEXT("mapping.sql.upsert_query", statement, 0, config,
	mapping.sql_upsert_query, 0, 4096, "",
	"Sets the destination of an identifier. With "
	"`mapping.sql.delete_query` it makes the store writable, by "
	"mailferry; only one of them is an error."),
    TEXT("mapping.sql.delete_query", statement, 0, config,
	mapping.sql_delete_query, 0, 4096, "",
	"Deletes the route of an identifier."),
    TEXT("mapping.sql.list_query", statement, 0, config, mapping.sql_list_query,
	0, 4096, "",
	"Lists routes: a prefix of identifiers, the identifier to begin "
	"after, and how many rows are its three parameters, rows of "
	"identifier and destination its result."),
    TEXT("mapping.sql.channel", string, 0, config, mapping.sql_channel, 0, 63,
	"",
	"PostgreSQL's: as `mapping.redis.channel`, by NOTIFY, in one "
	"transaction with the change. It is heard on a connection that "
	"LISTENs, which a pooler passes on in session mode only."),
    NUMBER("mapping.sql.pool_size", config, mapping.sql_pool_size, 1, 1024,
	"16",
	"Connections, 1 to 1024, shared out among the workers; each has "
	"one at least. The server must take those of all mailferries, and "
	"one more of each for the channel: what it refuses is done "
	"without, with a warning. While all are busy, up to 4096 lookups "
	"of each worker wait for one; those beyond fail at once, with "
	"every kind of store. With MySQL and SQLite each connection has a "
	"thread, so that no worker waits for the server, for a lock or for "
	"a disk."),
    SECTION("mapping.http", CONFIG_OPTIONAL, "Routes from a web service."),
    URL("mapping.http.url", http_url, config, mapping.http_url,
	"Fetched for each identifier, which replaces `%u`, encoded as URLs "
	"want it. Status 200 brings the destination's name and nothing "
	"else, as text or as JSON `{\\(dqdestination\\(dq: \\(dqname\\(dq}`; "
	"404 says that the identifier is unknown; all else is a failure. "
	"Redirections are not followed. It is never shown in messages."),
    TEXT("mapping.http.tls_ca_file", path, 0, config, mapping.http_ca_file, 0,
	4095, "",
	"Certificates that may have signed the server's; without it the "
	"system's."),
    NUMBER("mapping.http.pool_size", config, mapping.http_pool_size, 1, 1024,
	"16",
	"Connections, 1 to 1024, shared out among the workers; each has "
	"one at least."),

    NAMED("destination", CONFIG_REQUIRED, config_destination, destination,
	n_destination, 100000, "Backends by a name of your own; at least one."),
    SECTION("destination.*", 0, "One backend."),
    TEXT("destination.*.host", host, CONFIG_REQUIRED, config_destination, host,
	1, 253, NULL,
	"A name, which is resolved at each connection and whose addresses "
	"are tried in turn, or a literal address without brackets. "
	"`/etc/hosts` is looked at first, then the name servers in "
	"`/etc/resolv.conf` are asked; both are read again when they have "
	"changed. A name server that refuses or fails makes room for the "
	"next one at once, one that is silent after a second, or after "
	"`options timeout`; for five minutes the next one is then asked "
	"first. An answer that does not fit into a datagram is asked for "
	"by TCP. An answer is used for 30 seconds, or for its TTL if that "
	"is shorter, and for an hour while the name servers fail or are "
	"silent. That there is no such name, or no address of it, is an "
	"answer as well, and takes the old addresses away. When they "
	"answer for one address family and not for the other, that one is "
	"waited for 50 milliseconds more. A literal address and port that "
	"one of the listeners has is an error."),
    TEXT("destination.*.tls_server_name", host, 0, config_destination,
	tls_server_name, 0, 253, "",
	"The name that the backend's certificate must have, and that is "
	"asked for by SNI. Default: `host`. Required when that is an "
	"address and the connection uses TLS, unless the certificate is "
	"pinned or not checked."),
    TEXT("destination.*.tls_ca_file", path, 0, config_destination, tls_ca_file,
	0, 4095, "",
	"PEM file with the authorities that are trusted. Default: the "
	"system's."),
    ROW("destination.*.tls_pinned_cert_sha256", fingerprint, 0,
	FIELD(config_destination, tls_pin[0], uint8_t), 0, 0, "",
	"Exactly this leaf certificate is accepted, by the 64 hex digits "
	"of its SHA-256. Colons are ignored."),
    BOOLEAN("destination.*.tls_allow_invalid_certs", config_destination,
	tls_allow_invalid_certs, "false",
	"Accept any certificate. Warned of at every start, for whoever is "
	"in between can read the passwords."),
    WORD("destination.*.tls_min_version", backend_tls_version,
	config_destination, tls_min_version, "1.2",
	"The oldest TLS version spoken with this backend: `1.0`, `1.1`, "
	"`1.2` or `1.3`. Less than 1.2 is worth a warning at every start."),
    BOOLEAN("destination.*.tls_legacy", config_destination, tls_legacy, "false",
	"Take from this backend what an old server has: small RSA and "
	"Diffie-Hellman keys (from 1,024 bits on), SHA-1 signatures, no "
	"secure renegotiation (RFC 5746), AES-CBC and RSA key exchange, "
	"with a warning at every start. A server that has TLS 1.0 or 1.1 "
	"only needs `tls_min_version` too. Its certificate is checked as "
	"configured."),
    TEXT("destination.*.tls_client_cert", path, 0, config_destination,
	tls_client_cert, 0, 4095, "",
	"PEM file with a certificate to show to the backend. It and "
	"`tls_client_key` stand together or not at all."),
    TEXT("destination.*.tls_client_key", path, 0, config_destination,
	tls_client_key, 0, 4095, "", "PEM file with its private key."),
    WORD("destination.*.forwarding", forwarding, config_destination, forwarding,
	"xclient",
	"How the backend learns the client's address: `xclient`, an "
	"XCLIENT command, if its greeting offers that; `proxy`, a PROXY "
	"protocol header, which its port must expect: another server takes "
	"the header for commands, and its answers get out of step; `none`, "
	"by which its limits per address hit all users at once."),
    WORD("destination.*.proxy_protocol", old_forwarding, config_destination,
	proxy_protocol, "",
	"Old spelling: `true` is `forwarding: proxy`, `false` is "
	"`forwarding: none`. It is worth a warning, and nothing when "
	"`forwarding` is set."),
    LIST("destination.*.source_ips", ip, 0, config_destination, source_ips,
	n_source_ips, struct addr, 0, 256, "",
	"Local addresses to connect from, taken in turn within the address "
	"family."),
    BOOLEAN("destination.*.hide_auth_errors", config_destination,
	hide_auth_errors, "false",
	"Answer a refused login in mailferry's own words instead of the "
	"backend's."),
    BOOLEAN("destination.*.allow_plaintext_auth", config_destination,
	allow_plaintext_auth, "false",
	"Permit `tls: plain` on the endpoints below."),
    NUMBER("destination.*.max_connecting", config_destination, max_connecting,
	0, 1000000000, "32",
	"Connections that are not logged in yet, over all workers. Further "
	"logins wait for their turn (Ic server.queue_timeout). 0 is no "
	"limit."),
    NUMBER("destination.*.max_waiting", config_destination, max_waiting, 0,
	1000000, "1024",
	"Logins that may wait for `max_connecting`. Beyond it logins get a "
	"temporary error at once."),
    NUMBER("destination.*.max_sessions", config_destination, max_sessions, 0,
	1000000000, "0",
	"Sessions, those that are logging in included. Beyond it logins "
	"get a temporary error at once. 0 is no limit."),
    SECTION("destination.*.protocol", CONFIG_REQUIRED,
	"The protocols it is reached by."),
    PRESENT("destination.*.protocol.pop3", config_destination, pop3.present,
	"POP3."),
    ROW("destination.*.protocol.pop3.port", port, 0,
	FIELD(config_destination, pop3.port, uint16_t), 1, 65535, NULL,
	"1 to 65535. Default: 995 when `tls` is `implicit`, else 110."),
    WORD("destination.*.protocol.pop3.tls", tls, config_destination, pop3.tls,
	"implicit",
	"`implicit`, `starttls` or `plain`. The last one needs "
	"`allow_plaintext_auth`."),
    WORD("destination.*.protocol.pop3.forwarding", endpoint_forwarding,
	config_destination, pop3.forwarding, "",
	"Overrides the destination's."),
    WORD("destination.*.protocol.pop3.auth", auth, config_destination,
	pop3.auth, "auto",
	"How a password login is replayed: `sasl`, by AUTH PLAIN; `user`, "
	"by USER and PASS; `auto`, as the backend's capabilities say."),

    PRESENT("state", config, state.present,
	"What is known about accounts beyond a restart."),
    TEXT("state.path", path, 0, config, state.path, 1, 4095,
	"/var/lib/mailferry/state.db", "The SQLite file."),
    DURATION("state.keep", config, state.keep, DAYS(1), DAYS(3650), "400d",
	"Accounts without a login for so long are forgotten."),

    PRESENT("admin", config, admin.present, "The management listener."),
    ROW("admin.bind", address, 0, FIELD(config, admin.bind, struct addr), 0, 0,
	NULL,
	"Where the API is to listen, `address:port`. Default: on `socket` "
	"only. One of both is needed."),
    WORD("admin.tls", admin_tls, config, admin.tls, "implicit",
	"Anything but `implicit` is an error."),
    TEXT("admin.bearer_token_file", path, 0, config, admin.bearer_token_file, 0,
	4095, "", "File with the token that clients of `bind` must show."),
    TEXT("admin.bearer_token", token, CONFIG_SECRET, config, admin.bearer_token,
	0, 4096, "",
	"The token itself, in place of the file. It is never shown in "
	"messages. The environment variable `MAILFERRY_ADMIN_TOKEN` wins "
	"over both."),
    NUMBER("admin.min_token_len", config, admin.min_token_len, 1, 4096, "32",
	"A shorter token is refused."),
    NUMBER("admin.lockout_threshold", config, admin.lockout_threshold, 0,
	1000000, "5", "So many wrong tokens lock an address out. 0 is never."),
    DURATION("admin.lockout_duration", config, admin.lockout_duration, 1,
	DAYS(30), "5m", "For how long."),
    TEXT("admin.socket", path, 0, config, admin.socket, 0, 107, "",
	"Unix socket: the same API, mode 0600, without a token. Default: "
	"none."),
    TEXT("admin.certificate", string, 0, config, admin.certificate, 0, 64, "",
	"A name below `tls.certificate`. Default: the default certificate."),
    TEXT("admin.read_token_file", path, 0, config, admin.read_token_file, 0,
	4095, "", "File with a second token, which may only read."),
    LIST("admin.allow", cidr, 0, config, admin.allow, admin.n_allow,
	struct cidr, 0, 4096, "",
	"Who may connect to `bind`. An empty list is everybody."),
    LIST("admin.peers", peer, 0, config, admin.peers, admin.n_peers, char *, 0,
	256, "", "Every proxy of the fleet, this one included."),
    TEXT("admin.peers_ca_file", path, 0, config, admin.peers_ca_file, 0, 4095,
	"",
	"CAs that verify the certificates of the peers. Default: the "
	"system's trust store."),
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
