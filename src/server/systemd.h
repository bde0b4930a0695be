/* systemd.h: what the service manager is told and asked. Without a manager that
 * listens ($NOTIFY_SOCKET), or built without MAILFERRY_SYSTEMD, all of it does
 * nothing. */

#ifndef SERVER_SYSTEMD_H
#define SERVER_SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>

/* Whether somebody wants to hear of us. */
bool systemd_is_there(void);

/* Microseconds between two pings at most, 0: none are wanted. */
uint64_t systemd_watchdog(void);

/* How many descriptors, from *first on, were handed in; -errno. */
int systemd_listen_fds(int *first);

/* None of these waits for a manager that does not read. False: it has not been
 * taken, and has to be said again. ms: how long stopping may take. */
bool systemd_ready(const char *status);
void systemd_reloading(const char *status);
void systemd_stopping(uint64_t ms, const char *status);
void systemd_status(const char *status);
void systemd_ping(void);

#endif
