/* route_command.h: "mailferry route": shows or changes one route. */

#ifndef ROUTE_COMMAND_H
#define ROUTE_COMMAND_H

#include <stdbool.h>

struct route_command {
	const char *path; /* of the configuration */
	const char *identifier; /* as a client would send it */
	const char *set; /* a destination, or NULL */
	bool delete;
};

/* Asks the store as a login would, and prints the steps on stdout. Returns an
 * exit status of sysexits(3): EX_CONFIG, EX_DATAERR (no identifier),
 * EX_TEMPFAIL (the store failed), EX_CANTCREAT (the store could not be
 * written). */
int route_command(const struct route_command *cmd);

#endif
