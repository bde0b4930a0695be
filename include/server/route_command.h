/* route_command.h: "mailferry route": asks, or changes, one route. */

#ifndef ROUTE_COMMAND_H
#define ROUTE_COMMAND_H

#include <stdbool.h>

struct route_command {
	const char *path; /* of the configuration */
	const char *identifier; /* as a client would give it */
	const char *set; /* a destination, or NULL */
	bool delete;
};

/* Asks the store as a login would, prints the way on stdout, and returns an
 * exit status of sysexits(3): EX_CONFIG, EX_DATAERR (no identifier),
 * EX_TEMPFAIL (the store could not say), EX_CANTCREAT (or be written to). */
int route_command(const struct route_command *cmd);

#endif
