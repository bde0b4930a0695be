/* server.h: the daemon: start, reload, drain. */

#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "config/config.h"
#include "platform/util.h"

/* Runs with the configuration in path until SIGTERM or SIGINT. Returns the exit
 * status; problems have been reported on stderr. */
int server_run(const char *path) MUST_CHECK;

/* Validates the configuration and loads the files that it names. Prints the
 * problems, or what would run. Binds nothing. */
int server_check(const char *path) MUST_CHECK;

/* Prints the configuration with all defaults (config_dump()). */
int server_dump(const char *path) MUST_CHECK;

#endif
