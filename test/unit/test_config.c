/* test_config.c: the configuration file, every rule of it.
 *
 * The table holds a file and all that is said about it, word for word and
 * place by place: these lines are what an operator has to go by. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>

#include "../../src/config/keys.h"
#include "config/config.h"

/* The least that is accepted, a line each. */
#define LISTENER "listener: {a: {bind: [\"127.0.0.1:1995\"]}}\n"
#define ROUTING "routing: {default_destination: d}\n"
#define DESTINATION \
	"destination: {d: {host: mail.test, protocol: {pop3: {}}}}\n"
#define BASE LISTENER ROUTING DESTINATION

#define TEN(s) s s s s s s s s s s
#define HUNDRED(s) TEN(TEN(s))

struct problem_case {
	const char *proves;
	const char *text;
	const char *told; /* errors, then warnings, a line each */
};

static const struct problem_case problem_cases[] = {
    {"empty_file", "", "t:1:1: the file is empty (a mapping of sections)"},
    {"comment_only", "# nothing\n",
	"t:1:1: the file is empty (a mapping of sections)"},
    {"root_is_list", "- a\n",
	"t:1:1: the file is no mapping (a mapping of sections)"},
    {"root_is_scalar", "hello\n",
	"t:1:1: the file is no mapping (a mapping of sections)"},
    {"syntax_error",
	"server:\n"
	"  threads: [1\n"
	"limits: {}\n",
	"t:3:7: did not find expected ',' or ']', while parsing a flow "
	"sequence from line 2"},
    {"tab_indent",
	"server:\n"
	"\011threads: 1\n",
	"t:2:1: found character that cannot start any token, while scanning "
	"for the next token from line 2"},
    {"second_document",
	BASE "---\n"
	     "a: 1\n",
	"t:4:1: a second document (one is accepted)"},
    {"bad_utf8", "server: {hostname: \"a\377b\"}\n",
	"t:1:22: invalid leading UTF-8 octet (UTF-8 without control "
	"characters)"},
    {"truncated_utf8", "# \303",
	"t:1:3: incomplete UTF-8 octet sequence (UTF-8 without control "
	"characters)"},
    {"utf16", "\377\376a",
	"t:1:1: invalid leading UTF-8 octet (UTF-8 without control "
	"characters)"},
    {"control_character",
	"server: {}\n"
	"# \001\n",
	"t:2:3: control characters are not allowed (UTF-8 without control "
	"characters)"},
    {"unclosed_quote", "server: {hostname: \"abc}\n",
	"t:2:1: found unexpected end of stream, while scanning a quoted "
	"scalar from line 1"},
    {"list_as_key",
	"? [a]\n"
	": b\n",
	"t:1:3: the key is no plain name (a name)"},
    {"alias_as_key",
	"a: &x b\n"
	"*x : c\n",
	"t:2:1: the key is no plain name (a name)"},
    {"key_with_nul", "\"a\\0b\": 1\n",
	"t:1:1: the key holds a NUL or is too long (a name)"},
    {"tag", "server: {threads: !!int \"4\"}\n",
	"t:1:19: a YAML tag (plain and quoted values)"},
    {"alias_unknown", "server: {hostname: *nobody}\n",
	"t:1:20: an alias without its anchor (an anchor set before)"},
    {"alias_in_itself", "server: &s {hostname: *s}\n",
	"t:1:23: an alias without its anchor (an anchor set before)"},
    {"bomb",
	"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	"b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
	"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
	"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
	"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
	"f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
	"g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
	"h: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g,*g]\n",
	"t:6:14: too many values, aliases expanded (at most 262144)"},
    {"deep",
	"a: "
	"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
	"t:1:35: nested too deeply (at most 32 levels)"},
    {"deep_by_alias",
	"a: &a [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]\n"
	"b: [[[[[[[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]]]]]]\n",
	"t:2:24: nested too deeply by an alias (at most 32 levels)"},
    {"twice",
	BASE "server:\n"
	     "  threads: 1\n"
	     "  hostname: a\n"
	     "  threads: 2\n",
	"t:7:3: server.threads: given again (once, line 5 has it)"},
    {"twice_section", BASE "listener: {a: {bind: [\"127.0.0.1:1995\"]}}\n",
	"t:4:1: listener: given again (once, line 1 has it)"},
    {"twice_name",
	LISTENER ROUTING "destination:\n"
			 "  d: {host: a.test, protocol: {pop3: {}}}\n"
			 "  d: {host: b.test, protocol: {pop3: {}}}\n",
	"t:5:3: destination.d: given again (once, line 4 has it)"},
    {"thrice", BASE "server: {threads: 1, threads: 2, threads: 3}\n",
	"t:4:22: server.threads: given again (once, line 4 has it)\n"
	"t:4:34: server.threads: given again (once, line 4 has it)"},
    {"merge_key_is_no_key",
	BASE "server: &s {threads: 1}\n"
	     "limits: {<<: *s}\n",
	"t:5:10: limits.<<: unknown key (max_connections_per_ip, "
	"auth_failures_per_ip, auth_failure_window, exempt)"},
    {"env_unset", BASE "server: {hostname: \"${MAILFERRY_UNSET}\"}\n",
	"t:4:20: server.hostname: the environment has no MAILFERRY_UNSET (a "
	"variable that is set)"},
    {"env_unset_bare",
	BASE "server:\n"
	     "  threads: ${MAILFERRY_UNSET}\n",
	"t:5:12: server.threads: the environment has no MAILFERRY_UNSET (a "
	"variable that is set)"},
    {"env_unset_section", BASE "server: \"${MAILFERRY_UNSET}\"\n",
	"t:4:9: server: the environment has no MAILFERRY_UNSET (a variable "
	"that is set)"},
    {"env_broken", BASE "server: {hostname: \"${\"}\n",
	"t:4:20: server.hostname: a broken variable (${NAME}, or $${ for a "
	"literal ${)"},
    {"env_broken_name", BASE "server: {hostname: \"${A-B}\"}\n",
	"t:4:20: server.hostname: a broken variable (${NAME}, or $${ for a "
	"literal ${)"},
    {"env_no_name", BASE "server: {hostname: \"${}\"}\n",
	"t:4:20: server.hostname: a broken variable (${NAME}, or $${ for a "
	"literal ${)"},
    {"env_digit", BASE "server: {hostname: \"${1A}\"}\n",
	"t:4:20: server.hostname: a broken variable (${NAME}, or $${ for a "
	"literal ${)"},
    {"env_not_utf8", BASE "server: {hostname: \"${TEST_LATIN1}\"}\n",
	"t:4:20: server.hostname: the environment's TEST_LATIN1 is no UTF-8 "
	"(UTF-8)"},
    {"env_not_shown", BASE "server: {log_level: \"${TEST_SECRET}\"}\n",
	"t:4:21: server.log_level: the value is unknown (error, warn, info "
	"or debug)"},
    {"env_too_long",
	BASE "server: {user: \"${TEST_LONG}${TEST_LONG}${TEST_LONG}\"}\n",
	"t:4:16: server.user: longer than 16384 octets (less is accepted)"},
    {"env_in_list",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], xclient_trusted: "
	"[\"${TEST_SECRET}\"]}}\n",
	"t:3:60: listener.a.xclient_trusted[0]: the value is not a CIDR "
	"(ADDRESS/BITS with no bit set behind them, or one address)"},
    {"unknown_section", BASE "sever: {}\n",
	"t:4:1: sever: unknown key (server, limits, tls, listener, "
	"capabilities, oauth, routing, mapping, destination, admin)"},
    {"unknown_key", BASE "oauth: {jwt_claim: a}\n",
	"t:4:9: oauth.jwt_claim: unknown key (jwt_username_claim)"},
    {"keys_are_case_sensitive", BASE "Server: {}\n",
	"t:4:1: Server: unknown key (server, limits, tls, listener, "
	"capabilities, oauth, routing, mapping, destination, admin)"},
    {"unknown_key_escaped", BASE "oauth: {\"a\\nb\": 1}\n",
	"t:4:9: oauth.a\\x0ab: unknown key (jwt_username_claim)"},
    {"section_empty", BASE "admin:\n",
	"t:4:7: admin: the value is empty (bind, tls, bearer_token_file, "
	"bearer_token, min_token_len, lockout_threshold, lockout_duration, "
	"socket)"},
    {"section_null", BASE "limits: null\n",
	"t:4:9: limits: the value is empty (max_connections_per_ip, "
	"auth_failures_per_ip, auth_failure_window, exempt)"},
    {"section_is_scalar", BASE "limits: 5\n",
	"t:4:9: limits: the value is not a mapping (max_connections_per_ip, "
	"auth_failures_per_ip, auth_failure_window, exempt)"},
    {"section_is_list", BASE "tls: [a]\n",
	"t:4:6: tls: the list is not a mapping (certificate, protocols)"},
    {"names_are_list", LISTENER ROUTING "destination: [a]\n",
	"t:3:14: destination: the list is not a mapping (a mapping of 1 to "
	"100000 names)"},
    {"element_is_scalar", LISTENER ROUTING "destination: {d: mail.test}\n",
	"t:2:32: routing.default_destination: \"d\" has no endpoint for "
	"pop3, which listener.a accepts (a destination with protocol.pop3)\n"
	"t:3:18: destination.d: the value is not a mapping (host, "
	"tls_server_name, tls_ca_file, tls_pinned_cert_sha256, "
	"tls_allow_invalid_certs, tls_client_cert, tls_client_key, "
	"forwarding, proxy_protocol, source_ips, hide_auth_errors, "
	"allow_plaintext_auth, max_connecting, max_sessions, protocol)"},
    {"element_empty", ROUTING DESTINATION "listener: {a: }\n",
	"t:3:15: listener.a: the value is empty (protocol, bind, tls, "
	"proxy_protocol, proxy_trusted, proxy_header_timeout, min_version, "
	"xclient_trusted, max_connections, preauth_timeout, "
	"max_auth_attempts, max_bad_commands)"},
    {"scalar_is_list", BASE "server: {threads: [1]}\n",
	"t:4:19: server.threads: the list is not a single value (an integer "
	"from 0 to 1024)"},
    {"scalar_is_mapping", BASE "server: {hostname: {a: b}}\n",
	"t:4:20: server.hostname: the mapping is not a single value (a DNS "
	"name)"},
    {"list_is_scalar", BASE "limits: {exempt: 10.0.0.0/8}\n",
	"t:4:18: limits.exempt: \"10.0.0.0/8\" is not a list (a list of 0 to "
	"4096, each ADDRESS/BITS with no bit set behind them, or one address)"},
    {"list_is_empty_value", BASE "limits: {exempt: }\n",
	"t:4:18: limits.exempt: the value is empty (a list of 0 to 4096, "
	"each ADDRESS/BITS with no bit set behind them, or one address)"},
    {"list_in_list", BASE "limits: {exempt: [[10.0.0.0/8]]}\n",
	"t:4:19: limits.exempt[0]: the list is not a single value "
	"(ADDRESS/BITS with no bit set behind them, or one address)"},
    {"bad_name",
	LISTENER ROUTING
	"destination: {d: {host: a.test, protocol: {pop3: {}}}, \"e f\": "
	"{host: b.test, protocol: {pop3: {}}}, -g: {host: b.test, protocol: "
	"{pop3: {}}}}\n",
	"t:3:56: destination.e f: not a name (1 to 64 letters, digits, "
	"\".\", \"_\", \"-\", a letter or digit first)\n"
	"t:3:101: destination.-g: not a name (1 to 64 letters, digits, "
	"\".\", \"_\", \"-\", a letter or digit first)"},
    {"long_name",
	ROUTING DESTINATION "listener: {" TEN("n") TEN("n") TEN("n") TEN("n")
	    TEN("n") TEN("n") "nnnnn"
			      ": {bind: [\"127.0.0.1:1995\"]}}\n",
	"t:3:12: listener." TEN("n") TEN("n") TEN("n") TEN("n") TEN("n") TEN(
	    "n") "nnnnn"
		 ": not a name (1 to 64 letters, digits, \".\", \"_\", \"-\", a "
		 "letter or digit first)"},
    {"endpoint_is_scalar",
	LISTENER ROUTING
	"destination: {d: {host: a.test, protocol: {pop3: 995}}}\n",
	"t:2:32: routing.default_destination: \"d\" has no endpoint for "
	"pop3, which listener.a accepts (a destination with protocol.pop3)\n"
	"t:3:50: destination.d.protocol.pop3: the value is not a mapping "
	"(port, tls, forwarding, auth)"},
    {"integer_high", BASE "server: {threads: 1025}\n",
	"t:4:19: server.threads: \"1025\" is out of range (an integer from 0 "
	"to 1024)"},
    {"integer_low", BASE "server: {proxy_ttl: 0}\n",
	"t:4:21: server.proxy_ttl: \"0\" is out of range (an integer from 1 "
	"to 255)"},
    {"integer_huge", BASE "server: {threads: 99999999999999999999999999}\n",
	"t:4:19: server.threads: \"99999999999999999999999999\" is out of "
	"range (an integer from 0 to 1024)"},
    {"integer_wraps", BASE "server: {threads: 18446744073709551617}\n",
	"t:4:19: server.threads: \"18446744073709551617\" is out of range "
	"(an integer from 0 to 1024)"},
    {"integer_negative", BASE "server: {threads: -1}\n",
	"t:4:19: server.threads: \"-1\" is not an integer (an integer from 0 "
	"to 1024)"},
    {"integer_octal", BASE "server: {threads: 010}\n",
	"t:4:19: server.threads: \"010\" is not an integer (an integer from "
	"0 to 1024)"},
    {"integer_hex", BASE "server: {threads: 0x10}\n",
	"t:4:19: server.threads: \"0x10\" is not an integer (an integer from "
	"0 to 1024)"},
    {"integer_float", BASE "server: {threads: 1.5}\n",
	"t:4:19: server.threads: \"1.5\" is not an integer (an integer from "
	"0 to 1024)"},
    {"integer_quoted", BASE "server: {threads: \"4\"}\n",
	"t:4:19: server.threads: \"4\" is quoted (an integer from 0 to 1024)"},
    {"integer_empty", BASE "server: {threads: }\n",
	"t:4:19: server.threads: the value is empty (an integer from 0 to "
	"1024)"},
    {"integer_null", BASE "server: {threads: ~}\n",
	"t:4:19: server.threads: the value is empty (an integer from 0 to "
	"1024)"},
    {"integer_with_nul", BASE "server: {log_level: \"info\\0x\"}\n",
	"t:4:21: server.log_level: \"info\\x00x\" is broken by a NUL (error, "
	"warn, info or debug)"},
    {"boolean_word", BASE "tls: {protocols: {ignore_client_order: yes}}\n",
	"t:4:40: tls.protocols.ignore_client_order: \"yes\" is not a boolean "
	"(true or false)"},
    {"boolean_quoted",
	BASE "tls: {protocols: {ignore_client_order: \"true\"}}\n",
	"t:4:40: tls.protocols.ignore_client_order: \"true\" is quoted (true "
	"or false)"},
    {"boolean_case", BASE "tls: {protocols: {ignore_client_order: True}}\n",
	"t:4:40: tls.protocols.ignore_client_order: \"True\" is not a "
	"boolean (true or false)"},
    {"duration_no_unit", BASE "server: {backend_timeout: 10}\n",
	"t:4:27: server.backend_timeout: \"10\" is not a duration (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_unit", BASE "server: {backend_timeout: 10sec}\n",
	"t:4:27: server.backend_timeout: \"10sec\" is not a duration (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_space", BASE "server: {backend_timeout: 10 s}\n",
	"t:4:27: server.backend_timeout: \"10 s\" is not a duration (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_negative", BASE "server: {backend_timeout: -10s}\n",
	"t:4:27: server.backend_timeout: \"-10s\" is not a duration (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_overflow",
	BASE "server: {backend_timeout: 18446744073709551615d}\n",
	"t:4:27: server.backend_timeout: \"18446744073709551615d\" is out of "
	"range (an integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_overflow_digits",
	BASE "server: {backend_timeout: 99999999999999999999s}\n",
	"t:4:27: server.backend_timeout: \"99999999999999999999s\" is out of "
	"range (an integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_zero", BASE "server: {backend_timeout: 0s}\n",
	"t:4:27: server.backend_timeout: \"0s\" is out of range (an integer "
	"with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_zero_auth", BASE "server: {backend_auth_timeout: 0s}\n",
	"t:4:32: server.backend_auth_timeout: \"0s\" is out of range (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_zero_cooldown", BASE "server: {host_down_cooldown: 0ms}\n",
	"t:4:30: server.host_down_cooldown: \"0ms\" is out of range (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_zero_idle", BASE "server: {bridge_idle: 0s}\n",
	"t:4:23: server.bridge_idle: \"0s\" is out of range (an integer with "
	"ms, s, m, h or d, from 1s to 7d)"},
    {"duration_zero_preauth",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], preauth_timeout: 0s}}\n",
	"t:3:59: listener.a.preauth_timeout: \"0s\" is out of range (an "
	"integer with ms, s, m, h or d, from 1ms to 1d)"},
    {"duration_zero_proxy",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], proxy_header_timeout: "
	"0s}}\n",
	"t:3:64: listener.a.proxy_header_timeout: \"0s\" is out of range (an "
	"integer with ms, s, m, h or d, from 1ms to 5m)"},
    {"duration_zero_lookup",
	BASE "mapping: {file: {path: m}, lookup_timeout: 0s}\n",
	"t:4:44: mapping.lookup_timeout: \"0s\" is out of range (an integer "
	"with ms, s, m, h or d, from 1ms to 5m)"},
    {"duration_zero_window", BASE "limits: {auth_failure_window: 0s}\n",
	"t:4:31: limits.auth_failure_window: \"0s\" is out of range (an "
	"integer with ms, s, m, h or d, from 1s to 7d)"},
    {"duration_zero_lockout", BASE "admin: {socket: s, lockout_duration: 0s}\n",
	"t:4:38: admin.lockout_duration: \"0s\" is out of range (an integer "
	"with ms, s, m, h or d, from 1ms to 30d)"},
    {"size_unit", BASE "server: {socket_buffer: 64kb}\n",
	"t:4:25: server.socket_buffer: \"64kb\" is not a size (an integer, "
	"optionally with k, m or g, from 0 to 1g)"},
    {"size_high", BASE "server: {socket_buffer: 2g}\n",
	"t:4:25: server.socket_buffer: \"2g\" is out of range (an integer, "
	"optionally with k, m or g, from 0 to 1g)"},
    {"size_overflow", BASE "server: {socket_buffer: 17179869185g}\n",
	"t:4:25: server.socket_buffer: \"17179869185g\" is out of range (an "
	"integer, optionally with k, m or g, from 0 to 1g)"},
    {"word_unknown", BASE "server: {log_level: warning}\n",
	"t:4:21: server.log_level: \"warning\" is unknown (error, warn, info "
	"or debug)"},
    {"word_case", BASE "server: {log_format: JSON}\n",
	"t:4:22: server.log_format: \"JSON\" is unknown (text or json)"},
    {"retries", BASE "server: {backend_connect_retries: 101}\n",
	"t:4:35: server.backend_connect_retries: \"101\" is out of range (an "
	"integer from 0 to 100)"},
    {"hostname", BASE "server: {hostname: \"mail example\"}\n",
	"t:4:20: server.hostname: \"mail example\" is not a DNS name (a DNS "
	"name)"},
    {"hostname_label", BASE "server: {hostname: a..b}\n",
	"t:4:20: server.hostname: \"a..b\" is not a DNS name (a DNS name)"},
    {"user_control", BASE "server: {user: \"a\\nb\"}\n",
	"t:4:16: server.user: \"a\\x0ab\" is broken by a control character "
	"(a line of 0 to 255 octets)"},
    {"log_target_empty", BASE "server: {log_target: \"\"}\n",
	"t:4:22: server.log_target: the value is empty (stderr, syslog or a "
	"path)"},
    {"certificate_without_key", BASE "tls: {certificate: {a: {cert: c.pem}}}\n",
	"t:4:24: tls.certificate.a.key: missing (a path)"},
    {"certificate_without_cert", BASE "tls: {certificate: {a: {key: k.pem}}}\n",
	"t:4:24: tls.certificate.a.cert: missing (a path)"},
    {"certificate_empty_path",
	BASE "tls: {certificate: {a: {cert: \"\", key: k.pem}}}\n",
	"t:4:31: tls.certificate.a.cert: the value is empty (a path)"},
    {"certificate_two_defaults",
	BASE
	"tls: {certificate: {a: {cert: c, key: k, default: true}, b: {cert: "
	"c, key: k, default: true}}}\n",
	"t:4:88: tls.certificate.b.default: \"a\" is the default already "
	"(one default)"},
    {"certificate_subject",
	BASE "tls: {certificate: {a: {cert: c, key: k, subjects: [\"*\", "
	     "a.*.test, 10.0.0.1, \"\"]}}}\n",
	"t:4:53: tls.certificate.a.subjects[0]: \"*\" is not a DNS name (a "
	"DNS name, also *.NAME)\n"
	"t:4:58: tls.certificate.a.subjects[1]: \"a.*.test\" is not a DNS "
	"name (a DNS name, also *.NAME)\n"
	"t:4:68: tls.certificate.a.subjects[2]: \"10.0.0.1\" is not a DNS "
	"name (a DNS name, also *.NAME)\n"
	"t:4:78: tls.certificate.a.subjects[3]: the value is empty (a DNS "
	"name, also *.NAME)"},
    {"min_version", BASE "tls: {protocols: {min_version: 1.1}}\n",
	"t:4:32: tls.protocols.min_version: \"1.1\" is unknown (1.2 or 1.3)"},
    {"suite_unknown",
	BASE "tls: {protocols: {disable_cipher_suites: "
	     "[ECDHE-RSA-AES128-GCM-SHA256]}}\n",
	"t:4:43: tls.protocols.disable_cipher_suites[0]: "
	"\"ECDHE-RSA-AES128-GCM-SHA256\" is not a cipher suite that OpenSSL "
	"knows (a standard name such as TLS_AES_128_GCM_SHA256)"},
    {"suite_none_left",
	BASE
	"tls: {protocols: {disable_cipher_suites: [TLS_AES_256_GCM_SHA384, "
	"TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256, "
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "
	"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "
	"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]}}\n",
	"t:4:42: tls.protocols.disable_cipher_suites: no cipher suite is "
	"left for clients (at least one of TLS 1.2 or 1.3)"},
    {"suite_none_left_of_1_3",
	BASE "tls: {protocols: {min_version: 1.3, disable_cipher_suites: "
	     "[TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, "
	     "TLS_AES_128_GCM_SHA256]}}\n",
	"t:4:60: tls.protocols.disable_cipher_suites: no cipher suite is "
	"left for clients (at least one of TLS 1.3)"},
    {"suite_none_left_for_listener",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], min_version: \"1.3\"}}\n"
	"tls: {protocols: {disable_cipher_suites: [TLS_AES_256_GCM_SHA384, "
	"TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256]}}\n",
	"t:4:42: tls.protocols.disable_cipher_suites: no cipher suite is "
	"left for a (at least one of TLS 1.3)"},
    {"no_listener", ROUTING DESTINATION,
	"t:1:1: listener: missing (a mapping of 1 to 64 names)"},
    {"listener_empty", ROUTING DESTINATION "listener: {}\n",
	"t:3:11: listener: the mapping is empty (a mapping of 1 to 64 names)"},
    {"bind_missing", ROUTING DESTINATION "listener: {a: {tls: plain}}\n",
	"t:3:15: listener.a.bind: missing (a list of 1 to 64, each "
	"ADDRESS:PORT, IPv6 in brackets)"},
    {"bind_empty", ROUTING DESTINATION "listener: {a: {bind: []}}\n",
	"t:3:22: listener.a.bind: the list is empty (a list of 1 to 64, each "
	"ADDRESS:PORT, IPv6 in brackets)"},
    {"bind_port_zero",
	ROUTING DESTINATION "listener: {a: {bind: [\"0.0.0.0:0\"]}}\n",
	"t:3:23: listener.a.bind[0]: \"0.0.0.0:0\" is without a port "
	"(ADDRESS:PORT, IPv6 in brackets)"},
    {"bind_bad",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"0.0.0.0\", \":995\", \"localhost:995\", "
	"\"[::]\", \"::1:995\", \"1.2.3.4:65536\", \"1.2.3.256:995\"]}}\n",
	"t:3:23: listener.a.bind[0]: \"0.0.0.0\" is not an address with its "
	"port (ADDRESS:PORT, IPv6 in brackets)\n"
	"t:3:34: listener.a.bind[1]: \":995\" is not an address with its "
	"port (ADDRESS:PORT, IPv6 in brackets)\n"
	"t:3:42: listener.a.bind[2]: \"localhost:995\" is not an address "
	"with its port (ADDRESS:PORT, IPv6 in brackets)\n"
	"t:3:59: listener.a.bind[3]: \"[::]\" is not an address with its "
	"port (ADDRESS:PORT, IPv6 in brackets)\n"
	"t:3:67: listener.a.bind[4]: \"::1:995\" is not an address with its "
	"port (ADDRESS:PORT, IPv6 in brackets)\n"
	"t:3:78: listener.a.bind[5]: \"1.2.3.4:65536\" is not an address "
	"with its port (ADDRESS:PORT, IPv6 in brackets)\n"
	"t:3:95: listener.a.bind[6]: \"1.2.3.256:995\" is not an address "
	"with its port (ADDRESS:PORT, IPv6 in brackets)"},
    {"bind_twice",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"[::]:995\", \"0.0.0.0:995\", "
	"\"0.0.0.0:995\"]}}\n",
	"t:3:50: listener.a.bind[2]: 0.0.0.0:995 is listened on by "
	"listener.a already (an address of its own)"},
    {"bind_twice_elsewhere",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"[::1]:995\"]}, b: {bind: [\"1.2.3.4:110\", "
	"\"[0::1]:995\"]}}\n",
	"t:3:64: listener.b.bind[1]: [::1]:995 is listened on by listener.a "
	"already (an address of its own)"},
    {"bind_mapped_twice",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"1.2.3.4:995\", \"[::ffff:1.2.3.4]:995\"]}}\n",
	"t:3:38: listener.a.bind[1]: 1.2.3.4:995 is listened on by "
	"listener.a already (an address of its own)"},
    {"protocol_unknown",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], protocol: imap}}\n",
	"t:3:52: listener.a.protocol: \"imap\" is unknown (pop3)"},
    {"listener_tls",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], tls: none}}\n",
	"t:3:47: listener.a.tls: \"none\" is unknown (implicit, starttls or "
	"plain)"},
    {"proxy_mode",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], proxy_protocol: on}}\n",
	"t:3:58: listener.a.proxy_protocol: \"on\" is unknown (off, optional "
	"or required)"},
    {"proxy_untrusted",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], proxy_protocol: "
	"required}}\n",
	"t:3:15: listener.a.proxy_trusted: nobody may send the header that "
	"proxy_protocol asks for (at least one CIDR)"},
    {"proxy_untrusted_empty",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], proxy_protocol: "
	"required, proxy_trusted: []}}\n",
	"t:3:83: listener.a.proxy_trusted: nobody may send the header that "
	"proxy_protocol asks for (at least one CIDR)"},
    {"proxy_bad_cidr_only_once",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], proxy_protocol: "
	"required, proxy_trusted: [10.0.0.0/33]}}\n",
	"t:3:84: listener.a.proxy_trusted[0]: \"10.0.0.0/33\" is not a CIDR "
	"(ADDRESS/BITS with no bit set behind them, or one address)"},
    {"cidr_bits_behind",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], xclient_trusted: "
	"[10.0.0.1/8]}}\n",
	"t:3:60: listener.a.xclient_trusted[0]: \"10.0.0.1/8\" is not a CIDR "
	"(ADDRESS/BITS with no bit set behind them, or one address)"},
    {"cidr_bad",
	BASE "limits: {exempt: [10.0.0.0/a, example.com, \"::/129\", \"\"]}\n",
	"t:4:19: limits.exempt[0]: \"10.0.0.0/a\" is not a CIDR "
	"(ADDRESS/BITS with no bit set behind them, or one address)\n"
	"t:4:31: limits.exempt[1]: \"example.com\" is not a CIDR "
	"(ADDRESS/BITS with no bit set behind them, or one address)\n"
	"t:4:44: limits.exempt[2]: \"::/129\" is not a CIDR (ADDRESS/BITS "
	"with no bit set behind them, or one address)\n"
	"t:4:54: limits.exempt[3]: the value is empty (ADDRESS/BITS with no "
	"bit set behind them, or one address)"},
    {"proxy_optional_in_clear",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], tls: starttls, "
	"proxy_protocol: optional, proxy_trusted: [10.0.0.0/8]}}\n",
	"warning: t:3:73: listener.a.proxy_protocol: optional delays every "
	"greeting in clear by up to proxy_header_timeout (required)"},
    {"old_tls",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], min_version: \"1.0\"}}\n",
	"warning: t:3:55: listener.a.min_version: TLS before 1.2 is broken, "
	"for old devices only (1.2 or 1.3)"},
    {"old_tls_unknown",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], min_version: \"0.9\"}}\n",
	"t:3:55: listener.a.min_version: \"0.9\" is unknown (1.0, 1.1, 1.2 "
	"or 1.3)"},
    {"max_connections",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], max_connections: 0}}\n",
	"t:3:59: listener.a.max_connections: \"0\" is out of range (an "
	"integer from 1 to 1000000000)"},
    {"max_auth_attempts",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], max_auth_attempts: "
	"101}}\n",
	"t:3:61: listener.a.max_auth_attempts: \"101\" is out of range (an "
	"integer from 1 to 100)"},
    {"max_bad_commands",
	ROUTING DESTINATION
	"listener: {a: {bind: [\"127.0.0.1:1995\"], max_bad_commands: "
	"1000001}}\n",
	"t:3:60: listener.a.max_bad_commands: \"1000001\" is out of range "
	"(an integer from 0 to 1000000)"},
    {"banner_newline", BASE "capabilities: {pop3: {banner: \"a\\nb\"}}\n",
	"t:4:31: capabilities.pop3.banner: \"a\\x0ab\" is broken by a "
	"control character (at most 496 octets without control characters, < "
	"and >)"},
    {"banner_cr", BASE "capabilities: {pop3: {banner: \"a\\rb\"}}\n",
	"t:4:31: capabilities.pop3.banner: \"a\\x0db\" is broken by a "
	"control character (at most 496 octets without control characters, < "
	"and >)"},
    {"banner_nul", BASE "capabilities: {pop3: {banner: \"a\\0b\"}}\n",
	"t:4:31: capabilities.pop3.banner: \"a\\x00b\" is broken by a NUL "
	"(at most 496 octets without control characters, < and >)"},
    {"banner_less", BASE "capabilities: {pop3: {banner: \"hello <1@b\"}}\n",
	"t:4:31: capabilities.pop3.banner: \"hello <1@b\" is not fit for its "
	"line (at most 496 octets without control characters, < and >)"},
    {"banner_greater", BASE "capabilities: {pop3: {banner: \"hello >\"}}\n",
	"t:4:31: capabilities.pop3.banner: \"hello >\" is not fit for its "
	"line (at most 496 octets without control characters, < and >)"},
    {"banner_long",
	BASE "capabilities: {pop3: {banner: " HUNDRED("b") HUNDRED("b")
	    HUNDRED("b") HUNDRED("b") TEN("b") TEN("b") TEN("b") TEN("b")
		TEN("b") TEN("b") TEN("b") TEN("b") TEN("b") "bbbbbbb"
							     "}}\n",
	"t:4:31: capabilities.pop3.banner: \"" HUNDRED("b") TEN("b") TEN(
	    "b") "bbbbbbbb"
		 "...\" is too long (at most 496 octets without control characters, < "
		 "and >)"},
    {"sasl_unknown", BASE "capabilities: {pop3: {sasl: [PLAIN, CRAM-MD5]}}\n",
	"t:4:37: capabilities.pop3.sasl[1]: \"CRAM-MD5\" is unknown (PLAIN, "
	"LOGIN, OAUTHBEARER or XOAUTH2)"},
    {"sasl_case", BASE "capabilities: {pop3: {sasl: [plain]}}\n",
	"t:4:30: capabilities.pop3.sasl[0]: \"plain\" is unknown (PLAIN, "
	"LOGIN, OAUTHBEARER or XOAUTH2)"},
    {"sasl_repeated",
	BASE "capabilities: {pop3: {sasl: [PLAIN, LOGIN, PLAIN]}}\n",
	"t:4:44: capabilities.pop3.sasl[2]: \"PLAIN\" is repeated (PLAIN, "
	"LOGIN, OAUTHBEARER or XOAUTH2)"},
    {"sasl_repeated_beyond_four",
	BASE "capabilities: {pop3: {sasl: [PLAIN, LOGIN, OAUTHBEARER, XOAUTH2, "
	     "XOAUTH2]}}\n",
	"t:4:66: capabilities.pop3.sasl[4]: \"XOAUTH2\" is repeated (PLAIN, "
	"LOGIN, OAUTHBEARER or XOAUTH2)"},
    {"advertise_newline",
	BASE "capabilities: {pop3: {advertise: [\"TOP\\r\\nSTLS\"]}}\n",
	"t:4:35: capabilities.pop3.advertise[0]: \"TOP\\x0d\\x0aSTLS\" is "
	"broken by a control character (a line of 1 to 510 octets, no dot "
	"first)"},
    {"advertise_empty", BASE "capabilities: {pop3: {advertise: [\"\"]}}\n",
	"t:4:35: capabilities.pop3.advertise[0]: the value is empty (a line "
	"of 1 to 510 octets, no dot first)"},
    {"advertise_dot", BASE "capabilities: {pop3: {advertise: [\".\"]}}\n",
	"t:4:35: capabilities.pop3.advertise[0]: \".\" is not fit for its "
	"line (a line of 1 to 510 octets, no dot first)"},
    {"advertise_long",
	BASE "capabilities: {pop3: {advertise: [" HUNDRED("A") HUNDRED("A")
	    HUNDRED("A") HUNDRED("A") HUNDRED("A") TEN("A") "A"
							    "]}}\n",
	"t:4:35: capabilities.pop3.advertise[0]: \"" HUNDRED("A") TEN("A") TEN(
	    "A") "AAAAAAAA"
		 "...\" is too long (a line of 1 to 510 octets, no dot first)"},
    {"advertise_own",
	BASE
	"capabilities: {pop3: {advertise: [TOP, \"sasl PLAIN\", USERX]}}\n",
	"warning: t:4:34: capabilities.pop3.advertise: SASL is added as "
	"needed (further lines)"},
    {"implementation_newline",
	BASE "capabilities: {pop3: {implementation: \"a\\nb\"}}\n",
	"t:4:39: capabilities.pop3.implementation: \"a\\x0ab\" is broken by "
	"a control character (a line of 0 to 495 octets, no dot first)"},
    {"implementation_nul",
	BASE "capabilities: {pop3: {implementation: \"\\0\"}}\n",
	"t:4:39: capabilities.pop3.implementation: \"\\x00\" is broken by a "
	"NUL (a line of 0 to 495 octets, no dot first)"},
    {"implementation_long",
	BASE "capabilities: {pop3: {implementation: " HUNDRED("i") HUNDRED("i")
	    HUNDRED("i") HUNDRED("i") TEN("i") TEN("i") TEN("i") TEN("i")
		TEN("i") TEN("i") TEN("i") TEN("i") TEN("i") "iiiiii"
							     "}}\n",
	"t:4:39: capabilities.pop3.implementation: \"" HUNDRED("i") TEN("i") TEN(
	    "i") "iiiiiiii"
		 "...\" is too long (a line of 0 to 495 octets, no dot first)"},
    {"claim_empty", BASE "oauth: {jwt_username_claim: \"\"}\n",
	"t:4:29: oauth.jwt_username_claim: the value is empty (a line of 1 "
	"to 255 octets)"},
    {"no_routing", LISTENER DESTINATION,
	"t:1:1: routing.default_destination: missing (a name below "
	"destination)"},
    {"default_missing", LISTENER DESTINATION "routing: {}\n",
	"t:3:10: routing.default_destination: missing (a name below "
	"destination)"},
    {"default_empty",
	LISTENER DESTINATION "routing: {default_destination: \"\"}\n",
	"t:3:32: routing.default_destination: the value is empty (a name "
	"below destination)"},
    {"default_undeclared",
	LISTENER DESTINATION "routing: {default_destination: e}\n",
	"t:3:32: routing.default_destination: \"e\" is not declared (a name "
	"below destination)"},
    {"default_undeclared_escaped",
	LISTENER DESTINATION "routing: {default_destination: \"e\\\\f\"}\n",
	"t:3:32: routing.default_destination: \"e\\x5cf\" is not declared (a "
	"name below destination)"},
    {"default_without_endpoint",
	LISTENER ROUTING "destination: {d: {host: a.test, protocol: {}}}\n",
	"t:2:32: routing.default_destination: \"d\" has no endpoint for "
	"pop3, which listener.a accepts (a destination with protocol.pop3)\n"
	"t:3:43: destination.d.protocol: no endpoint (pop3)"},
    {"separator_empty",
	LISTENER DESTINATION
	"routing: {default_destination: d, master_user_separators: [\"\"]}\n",
	"t:3:60: routing.master_user_separators[0]: the value is empty (a "
	"line of 1 to 255 octets)"},
    {"default_domain",
	LISTENER DESTINATION
	"routing: {default_destination: d, default_domain: \"@a.test\"}\n",
	"t:3:51: routing.default_domain: \"@a.test\" is not a DNS name (a "
	"DNS name)"},
    {"mapping_without_file", BASE "mapping: {positive_ttl: 1s}\n",
	"t:4:10: mapping.source: \"file\" has no section (mapping.file)"},
    {"mapping_file_without_path", BASE "mapping: {file: {}}\n",
	"t:4:17: mapping.file.path: missing (a path)"},
    {"mapping_file_empty", BASE "mapping: {file: {path: \"\"}}\n",
	"t:4:24: mapping.file.path: the value is empty (a path)"},
    {"mapping_redis_section", BASE "mapping: {source: redis}\n",
	"t:4:19: mapping.source: \"redis\" has no section (mapping.redis)"},
    {"mapping_sql_section", BASE "mapping: {source: sql, file: {path: m}}\n",
	"t:4:19: mapping.source: \"sql\" has no section (mapping.sql)"},
    {"mapping_http_section", BASE "mapping: {source: http}\n",
	"t:4:19: mapping.source: \"http\" has no section (mapping.http)"},
    {"mapping_source", BASE "mapping: {source: ldap, file: {path: m}}\n",
	"t:4:19: mapping.source: \"ldap\" is unknown (file, redis, sql or "
	"http)"},
    {"mapping_entries",
	BASE "mapping: {file: {path: m}, cache_max_entries: 0}\n",
	"t:4:47: mapping.cache_max_entries: \"0\" is out of range (an "
	"integer from 1 to 100000000)"},
    {"redis_url_missing", BASE "mapping: {source: redis, redis: {}}\n",
	"t:4:33: mapping.redis.url: missing (a URL that begins with redis://, rediss:// or unix://)"},
    {"redis_url",
	BASE
	"mapping: {source: redis, redis: {url: \"http://:sesame@a.test\"}}\n",
	"t:4:39: mapping.redis.url: the value is not such a URL (a URL that "
	"begins with redis://, rediss:// or unix://)"},
    {"redis_url_empty", BASE "mapping: {source: redis, redis: {url: \"\"}}\n",
	"t:4:39: mapping.redis.url: the value is empty (a URL that begins "
	"with redis://, rediss:// or unix://)"},
    {"redis_pool",
	BASE "mapping: {source: redis, redis: {url: \"redis://a.test\", "
	     "pool_size: 0}}\n",
	"t:4:68: mapping.redis.pool_size: \"0\" is out of range (an integer "
	"from 1 to 1024)"},
    {"sql_url",
	BASE "mapping: {source: sql, sql: {url: "
	     "\"postgresql://u:sesame@a.test/b\", query: \"SELECT ?\"}}\n",
	"t:4:35: mapping.sql.url: the value is not such a URL (a URL that "
	"begins with sqlite://, postgres:// or mysql://)"},
    {"sql_query_missing",
	BASE "mapping: {source: sql, sql: {url: \"sqlite:///r.db\"}}\n",
	"t:4:29: mapping.sql.query: missing (a text of 1 to 4096 octets)"},
    {"sql_query_placeholder",
	BASE "mapping: {source: sql, sql: {url: \"sqlite:///r.db\", query: "
	     "\"SELECT 1\"}}\n",
	"t:4:60: mapping.sql.query: nothing stands for the identifier (a "
	"query with ?)"},
    {"sql_query_placeholder_postgres",
	BASE
	"mapping: {source: sql, sql: {url: \"postgres://a.test/b\", query: "
	"\"SELECT ?\"}}\n",
	"t:4:65: mapping.sql.query: nothing stands for the identifier (a "
	"query with $1)"},
    {"sql_only_upsert",
	BASE "mapping: {source: sql, sql: {url: \"sqlite:///r.db\", query: "
	     "\"SELECT ?\", upsert_query: x}}\n",
	"t:4:86: mapping.sql.upsert_query: without delete_query (both or "
	"neither)"},
    {"sql_only_delete",
	BASE "mapping: {source: sql, sql: {url: \"sqlite:///r.db\", query: "
	     "\"SELECT ?\", delete_query: x}}\n",
	"t:4:86: mapping.sql.delete_query: without upsert_query (both or "
	"neither)"},
    {"http_url",
	BASE "mapping: {source: http, http: {url: \"ftp://a.test/%u\"}}\n",
	"t:4:37: mapping.http.url: the value is not such a URL (a URL that "
	"begins with http:// or https://)"},
    {"http_placeholder",
	BASE "mapping: {source: http, http: {url: \"http://a.test/\"}}\n",
	"t:4:37: mapping.http.url: nothing stands for the identifier (a URL "
	"with %u)"},
    {"http_space",
	BASE "mapping: {source: http, http: {url: \"http://a.test/?q= %u\"}}\n",
	"t:4:37: mapping.http.url: the value is broken by a space (a URL "
	"that begins with http:// or https://)"},
    {"no_destination", LISTENER ROUTING,
	"t:1:1: destination: missing (a mapping of 1 to 100000 names)"},
    {"destination_empty", LISTENER ROUTING "destination: {}\n",
	"t:3:14: destination: the mapping is empty (a mapping of 1 to 100000 "
	"names)"},
    {"host_missing",
	LISTENER ROUTING "destination: {d: {protocol: {pop3: {}}}}\n",
	"t:3:18: destination.d.host: missing (a DNS name, or an address "
	"without brackets)"},
    {"host_empty",
	LISTENER ROUTING
	"destination: {d: {host: \"\", protocol: {pop3: {}}}}\n",
	"t:3:25: destination.d.host: the value is empty (a DNS name, or an "
	"address without brackets)"},
    {"host_bad",
	LISTENER ROUTING
	"destination: {d: {host: \"mail test\", protocol: {pop3: {}}}}\n",
	"t:3:25: destination.d.host: \"mail test\" is neither a DNS name nor "
	"an address (a DNS name, or an address without brackets)"},
    {"host_bad_address",
	LISTENER ROUTING
	"destination: {d: {host: 10.0.0.256, protocol: {pop3: {}}}}\n",
	"t:3:25: destination.d.host: \"10.0.0.256\" is neither a DNS name "
	"nor an address (a DNS name, or an address without brackets)"},
    {"host_brackets",
	LISTENER ROUTING
	"destination: {d: {host: \"[::1]\", protocol: {pop3: {}}}}\n",
	"t:3:25: destination.d.host: \"[::1]\" is neither a DNS name nor an "
	"address (a DNS name, or an address without brackets)"},
    {"protocol_missing", LISTENER ROUTING "destination: {d: {host: a.test}}\n",
	"t:2:32: routing.default_destination: \"d\" has no endpoint for "
	"pop3, which listener.a accepts (a destination with protocol.pop3)\n"
	"t:3:18: destination.d.protocol: missing (pop3)"},
    {"protocol_other",
	LISTENER ROUTING
	"destination: {d: {host: a.test, protocol: {imap: {}}}}\n",
	"t:2:32: routing.default_destination: \"d\" has no endpoint for "
	"pop3, which listener.a accepts (a destination with protocol.pop3)\n"
	"t:3:44: destination.d.protocol.imap: unknown key (pop3)"},
    {"port_zero",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, protocol: {pop3: {port: 0}}}}\n",
	"t:3:60: destination.d.protocol.pop3.port: \"0\" is out of range (an "
	"integer from 1 to 65535)"},
    {"port_high",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, protocol: {pop3: {port: "
	"65536}}}}\n",
	"t:3:60: destination.d.protocol.pop3.port: \"65536\" is out of range "
	"(an integer from 1 to 65535)"},
    {"leg_plain",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, protocol: {pop3: {tls: "
	"plain}}}}\n",
	"t:3:59: destination.d.protocol.pop3.tls: plain sends passwords in "
	"clear (implicit or starttls, or the destination's "
	"allow_plaintext_auth: true)"},
    {"leg_address",
	LISTENER ROUTING
	"destination: {d: {host: 192.0.2.1, protocol: {pop3: {}}}}\n",
	"t:3:18: destination.d.tls_server_name: missing, as host is an "
	"address (the name in its certificate, or tls_pinned_cert_sha256)"},
    {"leg_address_starttls",
	LISTENER ROUTING
	"destination: {d: {host: \"2001:db8::1\", tls_server_name: \"\", "
	"protocol: {pop3: {tls: starttls}}}}\n",
	"t:3:57: destination.d.tls_server_name: missing, as host is an "
	"address (the name in its certificate, or tls_pinned_cert_sha256)"},
    {"pin_short",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_pinned_cert_sha256: "
	"\"aa:bb\", protocol: {pop3: {}}}}\n",
	"t:3:60: destination.d.tls_pinned_cert_sha256: \"aa:bb\" is not a "
	"fingerprint (the 64 hex digits of a SHA-256, colons ignored)"},
    {"pin_long",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_pinned_cert_sha256: " TEN("a")
	    TEN("a") TEN("a") TEN("a") TEN("a")
		TEN("a") "aaaaa"
			 ", protocol: {pop3: {}}}}\n",
	"t:3:60: destination.d.tls_pinned_cert_sha256: \"" TEN("a") TEN("a")
	    TEN("a") TEN("a") TEN("a") TEN(
		"a") "aaaaa"
		     "\" is not a fingerprint (the 64 hex digits of a SHA-256, colons "
		     "ignored)"},
    {"pin_not_hex",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_pinned_cert_sha256: " TEN("g")
	    TEN("g") TEN("g") TEN("g") TEN("g")
		TEN("g") "gggg"
			 ", protocol: {pop3: {}}}}\n",
	"t:3:60: destination.d.tls_pinned_cert_sha256: \"" TEN("g") TEN("g")
	    TEN("g") TEN("g") TEN("g") TEN(
		"g") "gggg"
		     "\" is not a fingerprint (the 64 hex digits of a SHA-256, colons "
		     "ignored)"},
    {"pin_zero",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_pinned_cert_sha256: \"" TEN("0")
	    TEN("0") TEN("0") TEN("0") TEN("0")
		TEN("0") "0000"
			 "\", protocol: {pop3: {}}}}\n",
	"t:3:60: destination.d.tls_pinned_cert_sha256: \"" TEN("0") TEN("0")
	    TEN("0") TEN("0") TEN("0") TEN(
		"0") "0000"
		     "\" is not a fingerprint (the 64 hex digits of a SHA-256, colons "
		     "ignored)"},
    {"client_cert_alone",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_client_cert: c.pem, "
	"protocol: {pop3: {}}}}\n",
	"t:3:53: destination.d.tls_client_cert: without tls_client_key (both "
	"or neither)"},
    {"client_key_alone",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_client_key: k.pem, protocol: "
	"{pop3: {}}}}\n",
	"t:3:52: destination.d.tls_client_key: without tls_client_cert (both "
	"or neither)"},
    {"allow_invalid",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, tls_allow_invalid_certs: true, "
	"protocol: {pop3: {}}}}\n",
	"warning: t:3:61: destination.d.tls_allow_invalid_certs: anybody in "
	"between can read the passwords (tls_pinned_cert_sha256)"},
    {"forwarding_unknown",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, forwarding: off, protocol: "
	"{pop3: {}}}}\n",
	"t:3:48: destination.d.forwarding: \"off\" is unknown (proxy, "
	"xclient or none)"},
    {"forwarding_none",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, forwarding: none, protocol: "
	"{pop3: {}}}}\n",
	"warning: t:3:48: destination.d.forwarding: no forwarding: the "
	"backend's limits per address hit all users at once (proxy or "
	"xclient)"},
    {"forwarding_none_endpoint",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, protocol: {pop3: {forwarding: "
	"none}}}}\n",
	"warning: t:3:66: destination.d.protocol.pop3.forwarding: no "
	"forwarding: the backend's limits per address hit all users at once "
	"(proxy or xclient)"},
    {"forwarding_no_proxy",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, proxy_protocol: false, protocol: "
	"{pop3: {}}}}\n",
	"warning: t:3:52: destination.d.proxy_protocol: no forwarding: the "
	"backend's limits per address hit all users at once (proxy or "
	"xclient)"},
    {"proxy_protocol_word",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, proxy_protocol: off, protocol: "
	"{pop3: {}}}}\n",
	"t:3:52: destination.d.proxy_protocol: \"off\" is not a boolean "
	"(true or false)"},
    {"source_ip",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, source_ips: [10.0.0.0/8, "
	"\"10.0.0.1:0\"], protocol: {pop3: {}}}}\n",
	"t:3:49: destination.d.source_ips[0]: \"10.0.0.0/8\" is not an "
	"address (an IPv4 or IPv6 address)\n"
	"t:3:61: destination.d.source_ips[1]: \"10.0.0.1:0\" is not an "
	"address (an IPv4 or IPv6 address)"},
    {"auth_unknown",
	LISTENER ROUTING
	"destination: {d: {host: mail.test, protocol: {pop3: {auth: "
	"apop}}}}\n",
	"t:3:60: destination.d.protocol.pop3.auth: \"apop\" is unknown "
	"(auto, sasl or user)"},
    {"loop",
	ROUTING
	"listener: {a: {bind: [\"192.0.2.1:995\"]}}\n"
	"destination: {d: {host: \"192.0.2.1\", tls_server_name: n.test, "
	"protocol: {pop3: {port: 995}}}}\n",
	"t:3:25: destination.d.host: 192.0.2.1:995 is our own listener.a: a "
	"loop (another server)"},
    {"loop_v6",
	ROUTING
	"listener: {a: {bind: [\"[2001:db8::1]:995\"]}}\n"
	"destination: {d: {host: \"2001:db8:0::1\", tls_server_name: n.test, "
	"protocol: {pop3: {port: 995}}}}\n",
	"t:3:25: destination.d.host: [2001:db8::1]:995 is our own "
	"listener.a: a loop (another server)"},
    {"loop_wildcard",
	ROUTING
	"listener: {a: {bind: [\"0.0.0.0:995\"]}}\n"
	"destination: {d: {host: \"127.3.4.5\", tls_server_name: n.test, "
	"protocol: {pop3: {port: 995}}}}\n",
	"t:3:25: destination.d.host: 127.3.4.5:995 is our own listener.a: a "
	"loop (another server)"},
    {"loop_wildcard_v6",
	ROUTING
	"listener: {a: {bind: [\"[::]:995\"]}}\n"
	"destination: {d: {host: \"::1\", tls_server_name: n.test, protocol: "
	"{pop3: {port: 995}}}}\n",
	"t:3:25: destination.d.host: [::1]:995 is our own listener.a: a loop "
	"(another server)"},
    {"loop_to_any",
	ROUTING "listener: {a: {bind: [\"127.0.0.1:995\"]}}\n"
		"destination: {d: {host: \"0.0.0.0\", tls_server_name: n.test, "
		"protocol: {pop3: {port: 995}}}}\n",
	"t:3:25: destination.d.host: 0.0.0.0:995 is our own listener.a: a "
	"loop (another server)"},
    {"loop_to_any_v6",
	ROUTING
	"listener: {a: {bind: [\"[::1]:995\"]}}\n"
	"destination: {d: {host: \"::\", tls_server_name: n.test, protocol: "
	"{pop3: {port: 995}}}}\n",
	"t:3:25: destination.d.host: [::]:995 is our own listener.a: a loop "
	"(another server)"},
    {"admin_nothing",
	BASE "admin: {bearer_token: tttttttttttttttttttttttttttttttt}\n",
	"t:4:8: admin: neither bind nor socket (at least one of them)"},
    {"admin_bind",
	BASE "admin: {bind: localhost:9443, bearer_token: "
	     "tttttttttttttttttttttttttttttttt}\n",
	"t:4:15: admin.bind: \"localhost:9443\" is not an address with its "
	"port (ADDRESS:PORT, IPv6 in brackets)"},
    {"admin_tls", BASE "admin: {socket: s, tls: plain}\n",
	"t:4:25: admin.tls: \"plain\" is unknown (implicit)"},
    {"admin_no_token", BASE "admin: {bind: 127.0.0.1:9443}\n",
	"t:4:8: admin.bearer_token: missing (bearer_token_file, bearer_token "
	"or the environment's MAILFERRY_ADMIN_TOKEN)"},
    {"admin_two_tokens",
	BASE "admin: {socket: s, bearer_token_file: f, bearer_token: "
	     "tttttttttttttttttttttttttttttttt}\n",
	"t:4:56: admin.bearer_token: beside bearer_token_file (one of them)"},
    {"admin_short_token", BASE "admin: {socket: s, bearer_token: sesame}\n",
	"t:4:34: admin.bearer_token: too short, maybe from "
	"MAILFERRY_ADMIN_TOKEN (at least 32 octets, as min_token_len says)"},
    {"admin_bad_token",
	BASE "admin: {bind: 127.0.0.1:9443, bearer_token: \"sesame sesame\"}\n",
	"t:4:45: admin.bearer_token: the value is not a token (printable "
	"ASCII without spaces)"},
    {"admin_bind_taken",
	BASE "admin: {bind: 127.0.0.1:1995, bearer_token: "
	     "tttttttttttttttttttttttttttttttt}\n",
	"t:4:15: admin.bind: 127.0.0.1:1995 is listened on by listener.a "
	"already (an address of its own)"},
    {"admin_socket_long",
	BASE "admin: {socket: /" HUNDRED("s") "sssssss"
					      "}\n",
	"t:4:17: admin.socket: \"/" HUNDRED("s") "sssssss"
						 "\" is too long (a path)"},
    {"bridge_idle_short", BASE "server: {bridge_idle: 9m}\n",
	"warning: t:4:23: server.bridge_idle: under the 10 minutes that RFC "
	"1939 grants an idle client (10m or more)"},
    {"all_in_file_order",
	"destination: {d: {host: a.test, protocol: {pop3: {port: 0, tls: "
	"plain}}}}\n"
	"server: {threads: x}\n"
	"routing: {default_destination: e}\n"
	"listener: {a: {bind: [x]}}\n",
	"t:1:57: destination.d.protocol.pop3.port: \"0\" is out of range (an "
	"integer from 1 to 65535)\n"
	"t:1:65: destination.d.protocol.pop3.tls: plain sends passwords in "
	"clear (implicit or starttls, or the destination's "
	"allow_plaintext_auth: true)\n"
	"t:2:19: server.threads: \"x\" is not an integer (an integer from 0 "
	"to 1024)\n"
	"t:3:32: routing.default_destination: \"e\" is not declared (a name "
	"below destination)\n"
	"t:4:23: listener.a.bind[0]: \"x\" is not an address with its port "
	"(ADDRESS:PORT, IPv6 in brackets)"},
};

/* Good files, and the one field that shows how they were understood. */
struct value_case {
	const char *text;
	size_t offset; /* of a number in struct config */
	uint64_t value;
};
#define MS(f) offsetof(struct config, f)

static const struct value_case duration_cases[] = {
    {BASE "server: {backend_timeout: 1ms}\n", MS(server.backend_timeout), 1},
    {BASE "server: {backend_timeout: 90s}\n", MS(server.backend_timeout),
	90000},
    {BASE "server: {backend_timeout: \"2m\"}\n", MS(server.backend_timeout),
	120000},
    {BASE "server: {backend_timeout: 24h}\n", MS(server.backend_timeout),
	86400000},
    {BASE "server: {shutdown_grace: 7d}\n", MS(server.shutdown_grace),
	604800000},
    {BASE "server: {shutdown_grace: 0s}\n", MS(server.shutdown_grace), 0},
    {BASE "server: {auth_failure_delay: 0ms}\n", MS(server.auth_failure_delay),
	0},
    {BASE "server: {tcp_user_timeout: 0s}\n", MS(server.tcp_user_timeout), 0},
    {BASE "server: {socket_buffer: 4096}\n", MS(server.socket_buffer), 4096},
    {BASE "server: {socket_buffer: 64k}\n", MS(server.socket_buffer), 65536},
    {BASE "server: {socket_buffer: \"1m\"}\n", MS(server.socket_buffer),
	1048576},
    {BASE "server: {socket_buffer: 1g}\n", MS(server.socket_buffer),
	1073741824},
};

static struct config_problems problems;

static void
setup(void)
{
	static char text[6001];

	memset(text, 'l', sizeof(text) - 1);
	setenv("TEST_LONG", text, 1);
	setenv("TEST_SECRET", "sesame", 1);
	setenv("TEST_LATIN1", "\xe9", 1);
	setenv("TEST_EMPTY", "", 1);
	unsetenv("MAILFERRY_UNSET");
	unsetenv("MAILFERRY_ADMIN_TOKEN");
}

static void
teardown(void)
{
	config_problems_clear(&problems);
}

static struct config *
parse(const char *text)
{
	return config_parse("t", text, strlen(text), &problems);
}

/* All problems as one text. */
static const char *
told(void)
{
	static char text[65536];
	size_t len = 0, i;

	text[0] = '\0';
	for (i = 0; i < problems.n_error; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
		    len == 0 ? "" : "\n", problems.error[i]);
	for (i = 0; i < problems.n_warning; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "%swarning: %s", len == 0 ? "" : "\n", problems.warning[i]);
	ck_assert_uint_lt(len, sizeof(text));
	return text;
}

static struct config *
parse_good(const char *text)
{
	struct config *cfg = parse(text);

	ck_assert_str_eq(told(), "");
	ck_assert_ptr_nonnull(cfg);
	return cfg;
}

static char *
slurp(const char *name)
{
	char path[4096], *text = calloc(1, 1 << 20);
	FILE *f;

	ck_assert_ptr_nonnull(text);
	snprintf(path, sizeof(path), "%s/%s", SOURCE_DIR, name);
	f = fopen(path, "r");
	ck_assert_msg(f != NULL, "%s", path);
	ck_assert_uint_lt(fread(text, 1, (1 << 20) - 1, f), (1 << 20) - 1);
	fclose(f);
	return text;
}

static struct config *
load(const char *name)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", SOURCE_DIR, name);
	return config_load(path, &problems);
}

/* n times a piece of text between two others. */
static char *
many(const char *before, const char *piece, size_t n, const char *after)
{
	size_t size = strlen(before) + n * strlen(piece) + strlen(after) + 1;
	char *text = calloc(1, size);
	size_t len;

	ck_assert_ptr_nonnull(text);
	len = (size_t)snprintf(text, size, "%s", before);
	while (n-- > 0)
		len += (size_t)snprintf(text + len, size - len, "%s", piece);
	snprintf(text + len, size - len, "%s", after);
	return text;
}

START_TEST(problem_is_told)
{
	const struct problem_case *c = &problem_cases[_i];
	struct config *cfg = parse(c->text);

	ck_assert_msg(strcmp(told(), c->told) == 0,
	    "%s:\n%s\nbut expected:\n%s", c->proves, told(), c->told);
	ck_assert_ptr_null(strstr(told(), "sesame"));
	config_free(&cfg);
	ck_assert_ptr_null(cfg);
}
END_TEST

START_TEST(number_is_read)
{
	const struct value_case *c = &duration_cases[_i];
	struct config *cfg = parse_good(c->text);
	uint64_t value;

	memcpy(&value, (const char *)cfg + c->offset, sizeof(value));
	ck_assert_uint_eq(value, c->value);
	config_free(&cfg);
}
END_TEST

START_TEST(contract_is_read)
{
	struct config *cfg = load("test/fuzz/corpus/config/contract.yaml");
	const struct config_server *s;
	const struct config_destination *d;
	char text[ADDR_TEXT_MAX];

	ck_assert_str_eq(told(), "");
	s = &cfg->server;
	ck_assert_uint_eq(s->threads, 0);
	ck_assert_str_eq(s->hostname, "mail.example.com");
	ck_assert_str_eq(s->user, "mailferry");
	ck_assert_str_eq(s->group, "");
	ck_assert_uint_eq(s->bridge_idle, 1800000);
	ck_assert_int_eq(s->log_level, LOG_INFO);
	ck_assert_int_eq(s->log_format, LOG_TEXT);
	ck_assert_str_eq(s->log_target, "stderr");
	ck_assert_uint_eq(cfg->tls.n_certificate, 1);
	ck_assert_str_eq(cfg->tls.certificate[0].name, "primary");
	ck_assert_str_eq(cfg->tls.certificate[0].cert,
	    "/etc/mailferry/tls/fullchain.pem");
	ck_assert_uint_eq(cfg->tls.certificate[0].n_subjects, 2);
	ck_assert_str_eq(cfg->tls.certificate[0].subjects[1], "*.example.com");
	ck_assert(cfg->tls.certificate[0].is_default);
	ck_assert_uint_eq(cfg->n_listener, 1);
	ck_assert_uint_eq(cfg->listener[0].n_bind, 2);
	ck_assert_str_eq(addr_text(&cfg->listener[0].bind[1], text),
	    "[::]:995");
	ck_assert_uint_eq(cfg->pop3.n_sasl, 4);
	ck_assert_int_eq(cfg->pop3.sasl[2], CONFIG_SASL_OAUTHBEARER);
	ck_assert_str_eq(cfg->mapping.sql_query,
	    "SELECT destination FROM mailbox_routes WHERE identifier = ?");
	ck_assert_str_eq(cfg->mapping.http_url,
	    "http://127.0.0.1:8080/route?user=%u");
	ck_assert_uint_eq(cfg->n_destination, 1);
	d = &cfg->destination[0];
	ck_assert_str_eq(d->tls_server_name, "mail-old.example.com");
	ck_assert_int_eq(d->forwarding, FORWARD_XCLIENT);
	ck_assert_int_eq(d->pop3.forwarding, FORWARD_XCLIENT);
	ck_assert_int_eq(d->pop3.tls, TLS_STARTTLS);
	ck_assert_uint_eq(d->pop3.port, 110);
	ck_assert(!d->tls_pinned);
	ck_assert(cfg->admin.present);
	ck_assert_str_eq(addr_text(&cfg->admin.bind, text), "127.0.0.1:9443");
	ck_assert_str_eq(cfg->admin.socket, "/run/mailferry/control.sock");
	config_free(&cfg);
}
END_TEST

START_TEST(defaults_are_filled_in)
{
	struct config *cfg = parse_good(BASE);
	const struct config_listener *l = &cfg->listener[0];
	const struct config_destination *d = &cfg->destination[0];
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	ck_assert_str_eq(cfg->server.hostname, host);
	ck_assert_str_eq(cfg->server.user, "");
	ck_assert_uint_eq(cfg->server.backend_timeout, 10000);
	ck_assert_uint_eq(cfg->server.proxy_ttl, 7);
	ck_assert_uint_eq(cfg->limits.n_exempt, 0);
	ck_assert_uint_eq(cfg->limits.auth_failure_window, 600000);
	ck_assert_uint_eq(cfg->tls.n_certificate, 0);
	ck_assert_int_eq(cfg->tls.min_version, TLS_V1_2);
	ck_assert_int_eq(l->protocol, PROTOCOL_POP3);
	ck_assert_int_eq(l->tls, TLS_IMPLICIT);
	ck_assert_int_eq(l->proxy_protocol, PROXY_OFF);
	ck_assert_int_eq(l->min_version, TLS_V1_2);
	ck_assert_uint_eq(l->max_connections, 8192);
	ck_assert_str_eq(cfg->pop3.banner, "mailferry ready");
	ck_assert_str_eq(cfg->pop3.implementation, "mailferry");
	ck_assert_uint_eq(cfg->pop3.n_sasl, 4);
	ck_assert_int_eq(cfg->pop3.sasl[3], CONFIG_SASL_XOAUTH2);
	ck_assert_uint_eq(cfg->pop3.n_advertise, 5);
	ck_assert_str_eq(cfg->pop3.advertise[0], "TOP");
	ck_assert_str_eq(cfg->pop3.advertise[4], "PIPELINING");
	ck_assert_str_eq(cfg->jwt_username_claim, "email");
	ck_assert_uint_eq(cfg->routing.n_master_user_separators, 1);
	ck_assert_str_eq(cfg->routing.master_user_separators[0], "%");
	ck_assert_int_eq(cfg->mapping.source, SOURCE_FILE);
	ck_assert_str_eq(cfg->mapping.file_path, "");
	ck_assert_uint_eq(cfg->mapping.cache_max_entries, 1000000);
	ck_assert_str_eq(cfg->mapping.redis_url, "");
	ck_assert_str_eq(cfg->mapping.redis_key_prefix, "route:");
	ck_assert_str_eq(d->tls_server_name, "mail.test");
	ck_assert_int_eq(d->pop3.tls, TLS_IMPLICIT);
	ck_assert_uint_eq(d->pop3.port, 995);
	ck_assert_int_eq(d->pop3.forwarding, FORWARD_PROXY);
	ck_assert_int_eq(d->pop3.auth, AUTH_AUTO);
	ck_assert_uint_eq(d->max_connecting, 32);
	ck_assert(!cfg->admin.present);
	config_free(&cfg);
}
END_TEST

START_TEST(bad_values_leave_defaults)
{
	struct config *cfg = parse(BASE
	    "server: {threads: x, backend_timeout: 0s, log_level: loud}\n"
	    "capabilities: {pop3: {sasl: none, advertise: none}}\n"
	    "tls: nothing\n"
	    "admin: {bind: x, socket: [a]}\n");

	ck_assert_uint_eq(problems.n_error, 8);
	ck_assert_uint_eq(cfg->server.threads, 0);
	ck_assert_uint_eq(cfg->server.backend_timeout, 10000);
	ck_assert_int_eq(cfg->server.log_level, LOG_INFO);
	ck_assert_uint_eq(cfg->pop3.n_sasl, 4);
	ck_assert_uint_eq(cfg->pop3.n_advertise, 5);
	ck_assert_int_eq(cfg->tls.min_version, TLS_V1_2);
	ck_assert_uint_eq(cfg->admin.bind.len, 0);
	ck_assert_str_eq(cfg->admin.socket, "");
	config_free(&cfg);
}
END_TEST

START_TEST(leg_follows_its_destination)
{
	struct config *cfg = parse(LISTENER ROUTING
	    "destination:\n"
	    "  d: {host: d.test, protocol: {pop3: {tls: starttls}}}\n"
	    "  c: {host: c.test, forwarding: xclient,\n"
	    "      protocol: {pop3: {port: 1110}}}\n"
	    "  b: {host: b.test, proxy_protocol: false,\n"
	    "      protocol: {pop3: {forwarding: proxy}}}\n"
	    "  a: {host: 192.0.2.1, tls_allow_invalid_certs: true,\n"
	    "      proxy_protocol: false, protocol: {pop3: {}}}\n");
	const struct config_destination *d = cfg->destination;

	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_uint_eq(cfg->n_destination, 4);
	ck_assert_str_eq(d[0].name, "a");
	ck_assert_int_eq(d[0].pop3.forwarding, FORWARD_NONE);
	ck_assert_uint_eq(d[0].host_addr.len, sizeof(struct sockaddr_in));
	ck_assert_str_eq(d[0].tls_server_name, "192.0.2.1");
	ck_assert_int_eq(d[1].forwarding, FORWARD_NONE);
	ck_assert_int_eq(d[1].pop3.forwarding, FORWARD_PROXY);
	ck_assert_int_eq(d[2].pop3.forwarding, FORWARD_XCLIENT);
	ck_assert_uint_eq(d[2].pop3.port, 1110);
	ck_assert_uint_eq(d[2].host_addr.len, 0);
	ck_assert_uint_eq(d[3].pop3.port, 110);
	config_free(&cfg);
}
END_TEST

START_TEST(destination_is_found)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  new: {host: a.test, protocol: {pop3: {}}}\n"
	    "  d: {host: b.test, protocol: {pop3: {}}}\n"
	    "  new.2: {host: c.test, protocol: {pop3: {}}}\n");

	ck_assert_int_eq(config_destination_find(cfg, "d", 1), 0);
	ck_assert_int_eq(config_destination_find(cfg, "new", 3), 1);
	ck_assert_int_eq(config_destination_find(cfg, "new.2\tx", 5), 2);
	ck_assert_int_eq(config_destination_find(cfg, "ne", 2), -1);
	ck_assert_int_eq(config_destination_find(cfg, "new.", 4), -1);
	ck_assert_int_eq(config_destination_find(cfg, "New", 3), -1);
	ck_assert_int_eq(config_destination_find(cfg, "", 0), -1);
	ck_assert_int_eq(config_destination_find(cfg, "d\0dddddd", 8), -1);
	config_free(&cfg);
}
END_TEST

START_TEST(leg_without_name_check_needs_no_name)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  d:\n"
	    "    host: \"2001:db8::1\"\n"
	    "    tls_pinned_cert_sha256: \"AB:" TEN("cd") TEN(":Cd")
		TEN("ef") "00\"\n"
			  "    protocol: {pop3: {}}\n"
			  "  plain:\n"
			  "    host: 192.0.2.1\n"
			  "    allow_plaintext_auth: true\n"
			  "    protocol: {pop3: {tls: plain}}\n");

	ck_assert(cfg->destination[0].tls_pinned);
	ck_assert_uint_eq(cfg->destination[0].tls_pin[0], 0xab);
	ck_assert_uint_eq(cfg->destination[0].tls_pin[1], 0xcd);
	ck_assert_uint_eq(cfg->destination[0].tls_pin[31], 0x00);
	ck_assert(!cfg->destination[1].tls_pinned);
	config_free(&cfg);
}
END_TEST

START_TEST(no_loop_is_seen_where_none_is)
{
	struct config *cfg = parse_good(ROUTING
	    "listener:\n"
	    "  a: {bind: [\"127.0.0.1:995\", \"0.0.0.0:1995\", \"[::]:2995\"]}\n"
	    "destination:\n"
	    "  d: {host: 127.0.0.2, tls_server_name: n, "
	    "protocol: {pop3: {port: 995}}}\n"
	    "  e: {host: 127.0.0.1, tls_server_name: n, "
	    "protocol: {pop3: {port: 996}}}\n"
	    "  f: {host: 192.0.2.1, tls_server_name: n, "
	    "protocol: {pop3: {port: 1995}}}\n"
	    "  g: {host: \"::1\", tls_server_name: n, "
	    "protocol: {pop3: {port: 1995}}}\n"
	    "  h: {host: 127.0.0.1, tls_server_name: n, "
	    "protocol: {pop3: {port: 2995}}}\n"
	    "  i: {host: localhost, protocol: {pop3: {port: 995}}}\n");

	config_free(&cfg);
}
END_TEST

START_TEST(environment_is_put_in)
{
	struct config *cfg = parse_good(BASE
	    "server:\n"
	    "  user: \"a${TEST_SECRET}-$${TEST_SECRET}$1\"\n"
	    "  group: ${TEST_SECRET}\n"
	    "  hostname: '${TEST_EMPTY}'\n"
	    "capabilities: {pop3: {advertise: [\"$$\", $, $$$]}}\n");

	ck_assert_str_eq(cfg->server.user, "asesame-${TEST_SECRET}$1");
	ck_assert_str_eq(cfg->server.group, "sesame");
	ck_assert_str_ne(cfg->server.hostname, "");
	ck_assert_str_eq(cfg->pop3.advertise[0], "$$");
	ck_assert_str_eq(cfg->pop3.advertise[1], "$");
	ck_assert_str_eq(cfg->pop3.advertise[2], "$$$");
	config_free(&cfg);
}
END_TEST

START_TEST(aliases_are_followed)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  d: &leg {host: &h x.test, protocol: {pop3: {}}}\n"
	    "  g: &leg {host: &h a.test, protocol: {pop3: {}}}\n"
	    "  e: *leg\n"
	    "  f: {host: *h, protocol: {pop3: {}}}\n");

	ck_assert_uint_eq(cfg->n_destination, 4);
	ck_assert_str_eq(cfg->destination[1].name, "e");
	ck_assert_str_eq(cfg->destination[1].host, "a.test");
	ck_assert_str_eq(cfg->destination[2].host, "a.test");
	config_free(&cfg);
}
END_TEST

START_TEST(relative_paths_start_at_the_file)
{
	static const char text[] =
	    BASE "tls: {certificate: {a: {cert: c.pem, key: /k.pem}}}\n"
		 "server: {log_target: log/x}\n"
		 "mapping: {file: {path: ../m.tsv}}\n";
	struct config *cfg =
	    config_parse("/etc/ferry/t", text, strlen(text), &problems);
	char cwd[3000], path[4096];

	ck_assert_str_eq(told(), "");
	ck_assert_str_eq(cfg->tls.certificate[0].cert, "/etc/ferry/c.pem");
	ck_assert_str_eq(cfg->tls.certificate[0].key, "/k.pem");
	ck_assert_str_eq(cfg->server.log_target, "/etc/ferry/log/x");
	ck_assert_str_eq(cfg->mapping.file_path, "/etc/ferry/../m.tsv");
	config_free(&cfg);
	cfg = config_parse("conf/t", text, strlen(text), &problems);
	ck_assert_ptr_nonnull(getcwd(cwd, sizeof(cwd)));
	snprintf(path, sizeof(path), "%s/conf/c.pem", cwd);
	ck_assert_str_eq(cfg->tls.certificate[0].cert, path);
	config_free(&cfg);
	cfg = config_parse("t", text, strlen(text), &problems);
	snprintf(path, sizeof(path), "%s/c.pem", cwd);
	ck_assert_str_eq(cfg->tls.certificate[0].cert, path);
	config_free(&cfg);
	cfg = config_parse("/t", text, strlen(text), &problems);
	ck_assert_str_eq(cfg->tls.certificate[0].cert, "/c.pem");
	config_free(&cfg);
}
END_TEST

START_TEST(one_certificate_is_the_default)
{
	struct config *cfg = parse_good(BASE
	    "tls: {certificate: {b: {cert: /c, key: /k, "
	    "subjects: [A.Test, \"*.B.test\"]}, a: {cert: /c, key: /k}}}\n");

	ck_assert(cfg->tls.certificate[0].is_default);
	ck_assert(!cfg->tls.certificate[1].is_default);
	ck_assert_str_eq(cfg->tls.certificate[0].subjects[0], "a.test");
	ck_assert_str_eq(cfg->tls.certificate[0].subjects[1], "*.b.test");
	config_free(&cfg);
}
END_TEST

START_TEST(listener_follows_tls_section)
{
	struct config *cfg = parse(ROUTING DESTINATION
	    "tls: {protocols: {min_version: 1.3}}\n"
	    "listener:\n"
	    "  a: {bind: [\"127.0.0.1:1995\"]}\n"
	    "  b: {bind: [\"127.0.0.1:2995\"], min_version: \"1.0\"}\n");

	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_int_eq(cfg->listener[0].min_version, TLS_V1_3);
	ck_assert_int_eq(cfg->listener[1].min_version, TLS_V1_0);
	config_free(&cfg);
}
END_TEST

START_TEST(some_suites_may_go)
{
	struct config *cfg = parse_good(BASE
	    "tls: {protocols: {disable_cipher_suites: "
	    "[TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, "
	    "TLS_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_128_CBC_SHA]}}\n");

	ck_assert_uint_eq(cfg->tls.n_disable_cipher_suites, 4);
	config_free(&cfg);
}
END_TEST

START_TEST(lines_may_be_as_long_as_512)
{
	static const struct {
		const char *before, *after;
		size_t most;
	} lines[] = {
	    {"banner: ", "", 512 - strlen("+OK [XCLIENT] \r\n")},
	    {"implementation: ", "", 512 - strlen("IMPLEMENTATION \r\n")},
	    {"advertise: [", "]", 512 - strlen("\r\n")},
	};
	char before[512], after[16], *text;
	struct config *cfg;
	size_t i, over;

	for (i = 0; i < ARRAY_LEN(lines); i++)
		for (over = 0; over < 2; over++) {
			snprintf(before, sizeof(before),
			    BASE "capabilities: {pop3: {%s", lines[i].before);
			snprintf(after, sizeof(after), "%s}}\n",
			    lines[i].after);
			text = many(before, "b", lines[i].most + over, after);
			cfg = parse(text);
			ck_assert_uint_eq(problems.n_error, over);
			config_problems_clear(&problems);
			config_free(&cfg);
			free(text);
		}
}
END_TEST

START_TEST(token_of_the_environment_wins)
{
	static const char text[] =
	    BASE "admin: {bind: 127.0.0.1:9443, bearer_token_file: /f}\n";
	struct config *cfg = parse_good(text);

	ck_assert_str_eq(cfg->admin.bearer_token, "");
	ck_assert_str_eq(cfg->admin.bearer_token_file, "/f");
	config_free(&cfg);
	setenv("MAILFERRY_ADMIN_TOKEN", TEN("sesame"), 1);
	cfg = parse_good(text);
	ck_assert_str_eq(cfg->admin.bearer_token, TEN("sesame"));
	ck_assert_str_eq(cfg->admin.bearer_token_file, "");
	config_free(&cfg);
	setenv("MAILFERRY_ADMIN_TOKEN", "sesame", 1);
	cfg = parse(text);
	ck_assert_str_eq(told(),
	    "t:4:8: admin.bearer_token: too short, maybe from "
	    "MAILFERRY_ADMIN_TOKEN (at least 32 octets, as min_token_len "
	    "says)");
	config_free(&cfg);
	config_problems_clear(&problems);
	setenv("MAILFERRY_ADMIN_TOKEN", "sesame sesame", 1);
	cfg = parse(text);
	ck_assert_str_eq(told(),
	    "t:4:8: admin.bearer_token: the environment's "
	    "MAILFERRY_ADMIN_TOKEN is not a token (printable ASCII without "
	    "spaces)");
	config_free(&cfg);
}
END_TEST

START_TEST(later_problems_know_their_place)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  d:\n"
	    "    host: a.test\n"
	    "    source_ips: [192.0.2.1, 192.0.2.2]\n"
	    "    protocol: {pop3: {}}\n"
	    "  d.e:\n"
	    "    host: b.test\n"
	    "    protocol: {pop3: {}}\n");

	config_problem(cfg, &problems, "destination.d.host", "%s (%d)", "x", 1);
	config_problem(cfg, &problems, "destination.d.source_ips[1]", "second");
	config_problem(cfg, &problems, "destination.d.source_ips[2]", "third");
	config_problem(cfg, &problems, "destination.d.tls_ca_file", "parent");
	config_problem(cfg, &problems, "destination.d.e.host", "dotted");
	config_problem(cfg, &problems, "mapping.file.path", "root");
	config_problem(cfg, &problems, "", "nowhere");
	config_warning(cfg, &problems, "listener.a.bind[0]", "beware");
	ck_assert_str_eq(told(),
	    "t:5:11: destination.d.host: x (1)\n"
	    "t:6:29: destination.d.source_ips[1]: second\n"
	    "t:6:17: destination.d.source_ips[2]: third\n"
	    "t:5:5: destination.d.tls_ca_file: parent\n"
	    "t:9:11: destination.d.e.host: dotted\n"
	    "t:1:1: mapping.file.path: root\n"
	    "t:1:1: nowhere\n"
	    "warning: t:1:23: listener.a.bind[0]: beware");
	config_free(&cfg);
}
END_TEST

START_TEST(problems_have_an_end)
{
	size_t n = 3000, i, len = 0;
	char *text = calloc(n, 16);
	struct config *cfg;

	ck_assert_ptr_nonnull(text);
	for (i = 0; i < n; i++)
		len += (size_t)sprintf(text + len, "key%zu: 1\n", i);
	cfg = parse(text);
	ck_assert_uint_eq(problems.n_error, 1001);
	ck_assert_str_eq(problems.error[1000],
	    "t:1:1: more problems than can be shown");
	config_free(&cfg);
	free(text);
}
END_TEST

START_TEST(lists_have_an_end)
{
	static const struct {
		const char *before, *piece, *after;
		size_t most;
		const char *told;
	} lists[] = {
	    {BASE "limits: {exempt: [", "1.2.3.4, ", "]}\n", 4096,
		"t:4:18: limits.exempt: the list is too long (a list of 0 to "
		"4096, each ADDRESS/BITS with no bit set behind them, or one "
		"address)"},
	    {BASE "server: {user: '", "u", "'}\n", 255, NULL},
	    {BASE "server: {user: '", "u", "'}\n", 16384, NULL},
	    {BASE "server: {user: '", "$${", "'}\n", 8192, NULL},
	    {BASE "tls: {certificate: {a: {cert: /c, key: /", "k", "}}}\n",
		4094, NULL},
	    {BASE "tls: {certificate: {a: {cert: /c, key: ", "k", "}}}\n", 8192,
		NULL},
	};
	size_t i;

	for (i = 0; i < ARRAY_LEN(lists); i++) {
		char *text = many(lists[i].before, lists[i].piece,
		    lists[i].most + 1, lists[i].after);
		struct config *cfg = parse(text);

		ck_assert_uint_eq(problems.n_error, 1);
		if (lists[i].told != NULL)
			ck_assert_str_eq(told(), lists[i].told);
		config_problems_clear(&problems);
		config_free(&cfg);
		free(text);
	}
}
END_TEST

START_TEST(listeners_have_an_end)
{
	char text[8192] = ROUTING DESTINATION "listener:\n";
	size_t len = strlen(text), i;
	struct config *cfg;

	for (i = 0; i < 65; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "  l%zu: {bind: [\"127.0.0.1:%zu\"]}\n", i, 1000 + i);
	cfg = parse(text);
	ck_assert_str_eq(told(),
	    "t:4:3: listener: the mapping is too long (a mapping of 1 to 64 "
	    "names)");
	ck_assert_uint_eq(cfg->n_listener, 0);
	config_free(&cfg);
}
END_TEST

START_TEST(anchors_have_an_end)
{
	char text[8192] = "a: [";
	size_t len = strlen(text), i;

	for (i = 0; i < 257; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "&a%zu x,\n", i);
	snprintf(text + len, sizeof(text) - len, "]\n");
	ck_assert_ptr_null(parse(text));
	ck_assert_str_eq(told(), "t:257:1: too many anchors (at most 256)");
}
END_TEST

START_TEST(environment_is_utf8)
{
	static const struct {
		const char *value;
		bool good;
	} values[] = {
	    {"caf\xc3\xa9", true},
	    {"\xe2\x82\xac", true},
	    {"\xf0\x9f\x98\x80", true},
	    {"\xc3", false},
	    {"\xc3(", false},
	    {"\x80", false},
	    {"\xc0\xaf", false}, /* too long for its character */
	    {"\xe0\x80\xaf", false},
	    {"\xed\xa0\x80", false}, /* a surrogate */
	    {"\xf4\x90\x80\x80", false},
	    {"\xf8\x88\x80\x80\x80", false},
	};
	size_t i;

	for (i = 0; i < ARRAY_LEN(values); i++) {
		struct config *cfg;

		setenv("TEST_VALUE", values[i].value, 1);
		cfg = parse(BASE "server: {user: \"${TEST_VALUE}\"}\n");
		ck_assert_uint_eq(problems.n_error, !values[i].good);
		if (values[i].good)
			ck_assert_str_eq(cfg->server.user, values[i].value);
		config_problems_clear(&problems);
		config_free(&cfg);
	}
}
END_TEST

START_TEST(nothing_is_freed_safely)
{
	struct config *cfg = NULL;

	config_free(&cfg);
	ck_assert_ptr_null(cfg);
}
END_TEST

START_TEST(unreadable_file_is_told)
{
	ck_assert_ptr_null(config_load("/nonexistent/t", &problems));
	ck_assert_ptr_null(config_load("/", &problems));
	ck_assert_str_eq(told(),
	    "/nonexistent/t:1:1: cannot be read: No such file or directory\n"
	    "/:1:1: cannot be read: Is a directory");
}
END_TEST

START_TEST(endless_file_is_refused)
{
	ck_assert_ptr_null(config_load("/dev/zero", &problems));
	ck_assert_str_eq(told(),
	    "/dev/zero:1:1: the file is too big (at most 1 MiB)");
}
END_TEST

START_TEST(big_file_is_read)
{
	size_t n = 5000, i, len = 0;
	char *text = calloc(n + 8, 128), name[32];
	struct config *cfg;

	ck_assert_ptr_nonnull(text);
	len += (size_t)sprintf(text,
	    "\xef\xbb\xbf" LISTENER
	    "routing: {default_destination: d1}\ndestination:\n");
	for (i = 0; i < n; i++)
		len += (size_t)sprintf(text + len,
		    "  d%zu: {host: h%zu.test, forwarding: none, "
		    "protocol: {pop3: {}}}\n",
		    i, i);
	cfg = parse(text);
	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_uint_eq(problems.n_warning, 1000);
	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "d%zu", i);
		ck_assert_int_ne(config_destination_find(cfg, name,
				     strlen(name)),
		    -1);
	}
	config_free(&cfg);
	free(text);
}
END_TEST

/* A file that is cut off anywhere is an error or a smaller file. */
START_TEST(no_prefix_does_harm)
{
	char *text = slurp("test/fuzz/corpus/config/contract.yaml");
	size_t len = strlen(text), i;
	struct config *cfg;

	for (i = 0; i < len; i += 7) {
		cfg = config_parse("t", text, i, &problems);
		config_problems_clear(&problems);
		config_free(&cfg);
	}
	free(text);
}
END_TEST

/* "destination.*.host" as nested flow mappings around value. */
static void
nest(const char *path, const char *value, char *buf, size_t size)
{
	size_t depth = 0, len = 0;
	const char *p;

	for (p = path; *p != '\0'; p += strcspn(p, ".")) {
		p += *p == '.';
		len += (size_t)snprintf(buf + len, size - len,
		    "{%s%.*s: ", *p == '*' ? "star" : "",
		    *p == '*' ? 0 : (int)strcspn(p, "."), p);
		depth++;
	}
	len += (size_t)snprintf(buf + len, size - len, "%s", value);
	while (depth-- > 0)
		len += (size_t)snprintf(buf + len, size - len, "}");
	ck_assert_uint_lt(len, size);
}

/* Every key, with whatever does not belong there. */
START_TEST(no_shape_does_harm)
{
	static const char *const values[] = {"", "x", "\"\\0\"", "[]", "{}",
	    "[x]", "[[]]", "[{}]", "[~]", "{x: y}", "{x: {}}", "{\"\": {}}",
	    "-1", "99999999999999999999", "\"${MAILFERRY_UNSET}\"",
	    "[\"${MAILFERRY_UNSET}\"]"};
	char text[1024];
	size_t i, k;

	for (i = 1; i < n_config_keys; i++)
		for (k = 0; k < ARRAY_LEN(values); k++) {
			struct config *cfg;

			nest(config_keys[i].path, values[k], text,
			    sizeof(text));
			cfg = parse(text);
			ck_assert_msg(cfg != NULL && problems.n_error > 0,
			    "%s: %s", text, told());
			config_problems_clear(&problems);
			config_free(&cfg);
		}
}
END_TEST

START_TEST(every_row_is_complete)
{
	char text[1024];
	size_t i;

	for (i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];

		ck_assert_msg(*key->help != '\0', "%s", key->path);
		config_keys_accepts(key, false, text, sizeof(text));
		ck_assert_msg(*text != '\0', "%s", key->path);
		if (key->shape == CONFIG_NAMED)
			ck_assert_int_eq(config_keys_element(key)
					     ->path[strlen(key->path)],
			    '.');
	}
}
END_TEST

/* How the manual introduces a key. mdoc wants to be told that a colon at the
 * end is none of its own. */
static void
manual_line(const struct config_key *key, char *buf, size_t size)
{
	const char *list = key->shape == CONFIG_VALUES ? "list of " : "";
	const char *text = key->text == NULL ? "" : key->text;
	size_t len = strlen(text);

	if ((key->flags & CONFIG_REQUIRED) != 0)
		snprintf(buf, size, "\n.It Ic %s Pq %s%s , required\n",
		    key->path, list, key->type->name);
	else
		snprintf(buf, size, "\n.It Ic %s Pq %s%s%s%s%s\n", key->path,
		    list, key->type->name, len > 0 ? " , default " : "", text,
		    len > 0 && text[len - 1] == ':' ? "\\&" : "");
}

START_TEST(manual_has_every_key)
{
	char *manual = slurp("docs/mailferry.yaml.5"), line[512];
	size_t i;

	for (i = 0; i < n_config_keys; i++) {
		if (config_keys[i].shape == CONFIG_SECTION ||
		    config_keys[i].shape == CONFIG_NAMED)
			continue;
		manual_line(&config_keys[i], line, sizeof(line));
		ck_assert_msg(strstr(manual, line) != NULL, "no line %s", line);
	}
	free(manual);
}
END_TEST

/* One that is gone, or misspelt, or has nothing to say. */
START_TEST(manual_has_no_other_key)
{
	char *manual = slurp("docs/mailferry.yaml.5"), *line = manual;
	size_t found = 0, i;

	while ((line = strstr(line, "\n.It Ic ")) != NULL) {
		char path[128];
		const char *end;

		line += strlen("\n.It Ic ");
		snprintf(path, sizeof(path), "%.*s", (int)strcspn(line, " \n"),
		    line);
		for (i = 0; i < n_config_keys; i++)
			if (strcmp(config_keys[i].path, path) == 0)
				break;
		ck_assert_msg(i < n_config_keys, "unknown: %s", path);
		end = line + strcspn(line, "\n");
		ck_assert_msg(strncmp(end, "\n.It", 4) != 0 &&
			strncmp(end, "\n.El", 4) != 0,
		    "no meaning: %s", path);
		found++;
	}
	for (i = 0; i < n_config_keys; i++)
		if (config_keys[i].shape == CONFIG_VALUE ||
		    config_keys[i].shape == CONFIG_VALUES)
			found--;
	ck_assert_uint_eq(found, 0);
	free(manual);
}
END_TEST

START_TEST(sample_is_good)
{
	struct config *cfg = load("etc/mailferry.yaml");

	ck_assert_str_eq(told(), "");
	ck_assert_ptr_nonnull(cfg);
	config_free(&cfg);
}
END_TEST

/* Makes "  #key: value" a key; prose has a space behind the "#". */
static void
uncomment(char *text)
{
	char *p = text, *out = text;
	bool begin = true;

	for (; *p != '\0'; p++) {
		if (begin && *p == '#' && p[1] != ' ' && p[1] != '\n') {
			begin = false;
			continue;
		}
		*out++ = *p;
		begin = *p == '\n' || (begin && *p == ' ');
	}
	*out = '\0';
}

/* The value of a row, the first name standing for every star. */
static const struct config_node *
sample_value(const struct config_tree *tree, const char *path)
{
	const struct config_node *node = tree->root;
	char name[64];

	while (*path != '\0' && node != NULL) {
		size_t len = strcspn(path, ".");

		snprintf(name, sizeof(name), "%.*s", (int)len, path);
		if (strcmp(name, "*") != 0)
			node = config_yaml_get(node, name);
		else
			node = node->first == NULL ? NULL : node->first->value;
		path += len + (path[len] == '.');
	}
	return node;
}

START_TEST(sample_has_every_key)
{
	char *text = slurp("etc/mailferry.yaml");
	struct config_fault fault = {{0, 0}, ""};
	struct config_tree *tree;
	struct config *cfg;
	size_t i;

	uncomment(text);
	cfg = parse(text);
	ck_assert_str_eq(told(), "");
	config_free(&cfg);
	tree = config_yaml_parse(text, strlen(text), &fault);
	ck_assert_msg(tree != NULL, "%s", fault.text);
	for (i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const struct config_node *node = sample_value(tree, key->path);

		ck_assert_msg(node != NULL, "no %s", key->path);
	}
	config_yaml_free(&tree);
	free(text);
}
END_TEST

/* What the sample has commented out is what holds without it. */
START_TEST(sample_shows_defaults)
{
	char *text = slurp("etc/mailferry.yaml"), line[512];
	size_t i;

	for (i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const char *name = config_keys_name(key);

		if (key->shape != CONFIG_VALUE || key->text == NULL ||
		    *key->text == '\0')
			continue;
		snprintf(line, sizeof(line), "#%s: %s", name, key->text);
		if (strstr(text, line) != NULL)
			continue;
		snprintf(line, sizeof(line), "#%s: \"%s\"", name, key->text);
		ck_assert_msg(strstr(text, line) != NULL, "no %s", line);
	}
	free(text);
}
END_TEST

static const struct {
	const char *url, *shown;
} url_cases[] = {
    {"redis://h:1/0", "redis://h:1/0"},
    {"redis://me@h", "redis://********@h"},
    {"redis://:sesame@h:1/0", "redis://:********@h:1/0"},
    {"redis://me:a@b@h", "redis://me:********@h"},
    {"postgres://u:a?b@h/d", "postgres://u:********@h/d"},
    {"postgres://u:a#b@h/d", "postgres://u:********@h/d"},
    {"mysql://u:a/b@h/d", "mysql://u:********@h/d"},
    {"mysql://u:a/b@c@h/d?x=y", "mysql://u:********@h/d?x=y"},
    {"postgres://h/d?user=me@h", "postgres://h/d?user=me@h"},
    {"postgres://h/d?password=a&sslmode=require",
	"postgres://h/d?password=********&sslmode=require"},
    {"postgres://h/d?sslpassword=a&password=b&x",
	"postgres://h/d?sslpassword=********&password=********&x"},
    {"postgres://h/d?sslkey=/k&passfile=/p",
	"postgres://h/d?sslkey=/k&passfile=/p"},
    {"http://h/r?user=%u&key=a", "http://h/r?user=%u&key=********"},
    {"http://h/r?key=%u", "http://h/r?key=%u"},
    {"http://h/r?Access_Token=a&u=%u", "http://h/r?Access_Token=********&u=%u"},
    {"http://h/r?token=", "http://h/r?token="},
    {"http://h/r?monkey=a&=b", "http://h/r?monkey=a&=b"},
    {"sqlite:///var/lib/r.db", "sqlite:///var/lib/r.db"},
    {"sesame", "********"},
};

START_TEST(url_is_masked)
{
	char once[CONFIG_URL_MAX + 1], twice[CONFIG_URL_MAX + 1];

	config_mask_url(url_cases[_i].url, once);
	ck_assert_str_eq(once, url_cases[_i].shown);
	config_mask_url(once, twice);
	ck_assert_str_eq(twice, once);
}
END_TEST

/* Stars are longer than what they hide. */
START_TEST(long_url_stays_a_url)
{
	char url[CONFIG_URL_MAX + 1] = "http://h/?", shown[CONFIG_URL_MAX + 1];

	while (strlen(url) + 6 <= CONFIG_URL_MAX)
		strcat(url, "key=a&");
	config_mask_url(url, shown);
	ck_assert_str_eq(shown, "http://********");
}
END_TEST

START_TEST(environment_is_not_shown)
{
	static const char *const cases[][2] = {
	    {"http://h/${TEST_SECRET}/%u", "http://h/********/%u"},
	    {"http://h/r?u=%u&x=${TEST_SECRET}", "http://h/r?u=%u&x=********"},
	    {"http://me:${TEST_SECRET}@h/%u", "http://me:********@h/%u"},
	    {"http://h/%u$${x}", "http://h/%u${x}"},
	};
	char text[1024], shown[CONFIG_URL_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct config *cfg;

		snprintf(text, sizeof(text),
		    BASE "mapping: {source: http, http: {url: \"%s\"}}\n",
		    cases[i][0]);
		cfg = parse_good(text);
		config_show_url(cfg, "mapping.http.url", cfg->mapping.http_url,
		    shown);
		ck_assert_str_eq(shown, cases[i][1]);
		config_free(&cfg);
	}
	ck_assert_int_eq(setenv("TEST_URL", "http://h/r?u=%u", 1), 0);
	{
		struct config *cfg = parse_good(BASE
		    "mapping: {source: http, http: {url: \"${TEST_URL}\"}}\n");

		config_show_url(cfg, "mapping.http.url", cfg->mapping.http_url,
		    shown);
		ck_assert_str_eq(shown, "http://********");
		config_free(&cfg);
	}
	unsetenv("TEST_URL");
}
END_TEST

static char *
dumped(const struct config *cfg)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	ck_assert_ptr_nonnull(out);
	config_dump(cfg, out);
	ck_assert_int_eq(fclose(out), 0);
	return text;
}

/* What YAML takes for a line end, or only takes escaped. */
START_TEST(dump_reads_back)
{
	struct config *cfg = parse_good(BASE
	    "capabilities: {pop3: {banner: \"a\\Nb\\L c\\P d\\u009b\\u009f"
	    "\\_e\\uFEFFf\\uFFFEg\\u20ac \\U0001F600\"}}\n");
	struct config *again;
	char *first = dumped(cfg), *second;

	again = parse_good(first);
	ck_assert_str_eq(again->pop3.banner, cfg->pop3.banner);
	second = dumped(again);
	ck_assert_str_eq(second, first);
	free(first);
	free(second);
	config_free(&again);
	config_free(&cfg);
}
END_TEST

static Suite *
config_suite(void)
{
	Suite *suite = suite_create("config");
	TCase *tc = tcase_create("config");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, problem_is_told, 0,
	    (int)ARRAY_LEN(problem_cases));
	tcase_add_loop_test(tc, number_is_read, 0,
	    (int)ARRAY_LEN(duration_cases));
	tcase_add_test(tc, contract_is_read);
	tcase_add_test(tc, defaults_are_filled_in);
	tcase_add_test(tc, bad_values_leave_defaults);
	tcase_add_test(tc, leg_follows_its_destination);
	tcase_add_test(tc, destination_is_found);
	tcase_add_test(tc, leg_without_name_check_needs_no_name);
	tcase_add_test(tc, no_loop_is_seen_where_none_is);
	tcase_add_test(tc, environment_is_put_in);
	tcase_add_test(tc, aliases_are_followed);
	tcase_add_test(tc, relative_paths_start_at_the_file);
	tcase_add_test(tc, one_certificate_is_the_default);
	tcase_add_test(tc, listener_follows_tls_section);
	tcase_add_test(tc, some_suites_may_go);
	tcase_add_test(tc, lines_may_be_as_long_as_512);
	tcase_add_test(tc, token_of_the_environment_wins);
	tcase_add_test(tc, later_problems_know_their_place);
	tcase_add_test(tc, problems_have_an_end);
	tcase_add_test(tc, lists_have_an_end);
	tcase_add_test(tc, listeners_have_an_end);
	tcase_add_test(tc, anchors_have_an_end);
	tcase_add_test(tc, environment_is_utf8);
	tcase_add_test(tc, nothing_is_freed_safely);
	tcase_add_test(tc, unreadable_file_is_told);
	tcase_add_test(tc, endless_file_is_refused);
	tcase_add_test(tc, big_file_is_read);
	tcase_add_test(tc, no_prefix_does_harm);
	tcase_add_test(tc, no_shape_does_harm);
	tcase_add_test(tc, every_row_is_complete);
	tcase_add_test(tc, manual_has_every_key);
	tcase_add_test(tc, manual_has_no_other_key);
	tcase_add_loop_test(tc, url_is_masked, 0, (int)ARRAY_LEN(url_cases));
	tcase_add_test(tc, long_url_stays_a_url);
	tcase_add_test(tc, environment_is_not_shown);
	tcase_add_test(tc, dump_reads_back);
	tcase_add_test(tc, sample_is_good);
	tcase_add_test(tc, sample_has_every_key);
	tcase_add_test(tc, sample_shows_defaults);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	SRunner *runner = srunner_create(config_suite());
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
