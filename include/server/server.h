/* server.h: the daemon: order of start, reload, drain. */

#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "config/config.h"
#include "platform/util.h"

/* Runs with the configuration in path until SIGTERM or SIGINT. Returns the exit
 * status; what was wrong has been said on stderr. */
int server_run(const char *path) MUST_CHECK;

/* Validates, loads what the file names, binds nothing; says what it found, and
 * what would run. */
int server_check(const char *path) MUST_CHECK;

/* Prints the configuration in force (config_dump()). */
int server_dump(const char *path) MUST_CHECK;

#endif
