/* main.c: reads the options, and sets the allocators before anything else. */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <event2/event.h>
#include <event2/thread.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <sodium.h>
#include <yaml.h>

#include "config/config.h"
#include "platform/hash.h"
#include "platform/log.h"
#include "platform/secret.h"
#include "server/route_command.h"
#include "server/server.h"
#include "net/tls_server.h"

#define MAIN_CONFIG "/etc/mailferry/mailferry.yaml"

static void main_memory(void);
static void main_event_log(int severity, const char *text);
static void main_usage(FILE *out);
static void main_version(void);
static int main_serve(const char *path, int argc, char **argv);
static int main_route(const char *path, int argc, char **argv);
static int main_misused(void);
static int main_explain(const char *key);

/* By themselves both libraries free buffers with passwords without wiping them.
 * Call before either of them has allocated memory. */
static void
main_memory(void)
{
	event_set_mem_functions(secret_malloc, secret_realloc, secret_free);
}

/* OpenSSL's allocator hooks also get the caller's file and line. */
static void *main_ssl_malloc(size_t n, const char *file, int line);
static void *main_ssl_realloc(void *p, size_t n, const char *file, int line);
static void main_ssl_free(void *p, const char *file, int line);

static void *
main_ssl_malloc(size_t n, const char *file UNUSED, int line UNUSED)
{
	return secret_malloc(n);
}

static void *
main_ssl_realloc(void *p, size_t n, const char *file UNUSED, int line UNUSED)
{
	return secret_realloc(p, n);
}

static void
main_ssl_free(void *p, const char *file UNUSED, int line UNUSED)
{
	secret_free(p);
}

/* Puts libevent's messages (about failing name servers) into the log. */
static void
main_event_log(int severity, const char *text)
{
	static const int levels[] = {
	    [EVENT_LOG_DEBUG] = LOG_DEBUG,
	    [EVENT_LOG_MSG] = LOG_INFO,
	    [EVENT_LOG_WARN] = LOG_WARNING,
	    [EVENT_LOG_ERR] = LOG_ERR,
	};

	log_msg(levels[severity], "libevent: %s", text);
}

static void
main_usage(FILE *out)
{
	fprintf(out,
	    "usage: mailferry [-t | --dump-config] [-c FILE]\n"
	    "       mailferry route [-c FILE] [--set DESTINATION | --delete]"
	    " IDENTIFIER\n"
	    "       mailferry --explain KEY | -V | --help\n"
	    "\n"
	    "  -c, --config FILE  configuration (default: $MAILFERRY_CONFIG,\n"
	    "                     or " MAIN_CONFIG ")\n"
	    "  -t, --check        check the configuration and exit\n"
	    "      --dump-config  print it with every default, passwords as "
	    "stars\n"
	    "      --explain KEY  type, range, default and meaning of a key, or "
	    "of all\n"
	    "  -V, --version      versions of mailferry and its libraries\n"
	    "  -h, --help         this text\n"
	    "\n"
	    "mailferry(8) and mailferry.yaml(5) say the rest.\n");
}

static int
main_misused(void)
{
	main_usage(stderr);
	return EX_USAGE;
}

static void
main_version(void)
{
	printf("mailferry %s\n", MAILFERRY_VERSION);
	printf("libevent %s\n", event_get_version());
	printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
	printf("libyaml %s\n", yaml_get_version_string());
	printf("jansson %s\n", jansson_version_str());
	printf("libsodium %s\n", sodium_version_string());
}

static int
main_explain(const char *key)
{
	if (!config_explain(key, stdout, stderr))
		return EX_USAGE;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_SUCCESS;
	perror("mailferry: cannot write");
	return EX_IOERR;
}

/* mailferry [-t] */
static int
main_serve(const char *path, int argc, char **argv)
{
	static const struct option options[] = {
	    {"config", required_argument, NULL, 'c'},
	    {"check", no_argument, NULL, 't'},
	    {"dump-config", no_argument, NULL, 'd'},
	    {"explain", required_argument, NULL, 'e'},
	    {"version", no_argument, NULL, 'V'},
	    {"help", no_argument, NULL, 'h'},
	    {NULL, 0, NULL, 0},
	};
	int (*run)(const char *) = server_run;
	int opt;

	while ((opt = getopt_long(argc, argv, "c:tVh", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			path = optarg;
			break;
		case 't':
			run = server_check;
			break;
		case 'd':
			run = server_dump;
			break;
		case 'e':
			return main_explain(optarg);
		case 'V':
			main_version();
			return EXIT_SUCCESS;
		case 'h':
			main_usage(stdout);
			return EXIT_SUCCESS;
		default:
			return main_misused();
		}
	}
	if (optind < argc)
		return main_misused();
	return run(path);
}

/* mailferry route */
static int
main_route(const char *path, int argc, char **argv)
{
	static const struct option options[] = {
	    {"config", required_argument, NULL, 'c'},
	    {"set", required_argument, NULL, 's'},
	    {"delete", no_argument, NULL, 'd'},
	    {NULL, 0, NULL, 0},
	};
	struct route_command cmd = {.path = path};
	int opt;

	while ((opt = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			cmd.path = optarg;
			break;
		case 's':
			cmd.set = optarg;
			break;
		case 'd':
			cmd.delete = true;
			break;
		default:
			return main_misused();
		}
	}
	if (optind != argc - 1 || (cmd.set != NULL && cmd.delete))
		return main_misused();
	cmd.identifier = argv[optind];
	return route_command(&cmd);
}

int
main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(const char *path, int argc, char **argv);
	} commands[] = {
	    {"route", main_route},
	};
	const char *path = getenv("MAILFERRY_CONFIG");

	if (CRYPTO_set_mem_functions(main_ssl_malloc, main_ssl_realloc,
		main_ssl_free) != 1) {
		fprintf(stderr, "mailferry: OpenSSL was started too early\n");
		return EX_SOFTWARE;
	}
	/* When the process ends, a thread may still be in the handshake with a
	 * store. */
	OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
	main_memory();
	if (path == NULL || path[0] == '\0')
		path = MAIN_CONFIG;
	hash_init();
	event_set_log_callback(main_event_log);
	evthread_use_pthreads();
	tls_tickets_init();
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (argc > 1 && strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(path, argc - 1, argv + 1);
	return main_serve(path, argc, argv);
}
