/* listen.h: opens listening sockets, and drops root. */

#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include <stdbool.h>

#include "platform/addr.h"
#include "config/config.h"
#include "platform/err.h"

/* Returns 0 if no other process has addr. Call before the first listen_open()
 * of addr. */
int listen_check(const struct addr *addr, struct err *err) MUST_CHECK;

/* Returns a non-blocking socket that listens on addr beside its siblings
 * (SO_REUSEPORT); [::] accepts IPv6 only. Returns -1 if err says why not. */
int listen_open(const struct addr *addr, struct err *err) MUST_CHECK;

/* As root with server.user: gives a listening socket to that user, so that
 * after the change of user a reload can bind siblings beside it. */
void listen_give(const struct config *cfg, int fd);

/* Reports problems of server.user and server.group, as errors or as warnings.
 * Call only as root or when started as root; nobody else can change users. */
void listen_check_user(const struct config *cfg,
    struct config_problems *problems, bool warn);

/* As root with server.user: becomes that user and its groups for good, without
 * any capability. Always forbids new privileges and core dumps. Returns -1 if
 * any of that fails. */
int listen_drop_privileges(const struct config *cfg,
    struct err *err) MUST_CHECK;

/* Raises the limit of descriptors to the maximum, and returns it. */
unsigned long listen_raise_limits(void);

#endif
