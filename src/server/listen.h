/* listen.h: listening sockets, and the step from root to a plain user. */

#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include <stdbool.h>

#include "platform/addr.h"
#include "config/config.h"
#include "platform/err.h"

/* Whether nobody else has addr. Before the first listen_open() of it. */
int listen_check(const struct addr *addr, struct err *err) MUST_CHECK;

/* A non-blocking socket that listens on addr beside its siblings
 * (SO_REUSEPORT); [::] takes IPv6 only. -1: err says why. */
int listen_open(const struct addr *addr, struct err *err) MUST_CHECK;

/* As root with server.user: makes that user the owner of a listening socket, so
 * that after the change of user a reload can bind siblings beside it. */
void listen_give(const struct config *cfg, int fd);

/* Adds what is wrong with server.user and server.group, as errors or as
 * warnings. For who is root, or has begun as root: nobody else becomes that
 * user. */
void listen_check_user(const struct config *cfg,
    struct config_problems *problems, bool warn);

/* As root with server.user: becomes that user and its groups for good, without
 * any capability. In any case no new privileges and no core dumps. -1: not all
 * of that could be had. */
int listen_drop_privileges(const struct config *cfg,
    struct err *err) MUST_CHECK;

/* As many descriptors as the system lets us have; returns how many. */
unsigned long listen_raise_limits(void);

#endif
