/* hosts.h: what hosts(5) knows of a name. */

#ifndef NET_HOSTS_H
#define NET_HOSTS_H

#include <stddef.h>

#include "platform/addr.h"

/* How many addresses (port 0, in the file's order, at most max) it has; the
 * others in out are left alone. Reads the file. "localhost" is there always. */
size_t hosts_find(const char *path, const char *name, struct addr *out,
    size_t max);

#endif
