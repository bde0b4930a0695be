/* hosts.h: looks up names in hosts(5). */

#ifndef NET_HOSTS_H
#define NET_HOSTS_H

#include <stddef.h>

#include "platform/addr.h"

/* Reads the file and returns the number of name's addresses (port 0, in the
 * file's order, at most max). Leaves the rest of out unchanged. "localhost"
 * always has addresses. */
size_t hosts_find(const char *path, const char *name, struct addr *out,
    size_t max);

#endif
