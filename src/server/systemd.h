/* systemd.h: the interface to the service manager. Without $NOTIFY_SOCKET, or
 * when built without MAILFERRY_SYSTEMD, all functions do nothing. */

#ifndef SERVER_SYSTEMD_H
#define SERVER_SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>

/* Returns true if a service manager wants notifications. */
bool systemd_is_there(void);

/* Returns the maximum of microseconds between two pings; 0 if there is no
 * watchdog. */
uint64_t systemd_watchdog(void);

/* Returns how many descriptors were inherited, from *first on, or -errno. */
int systemd_listen_fds(int *first);

/* These do not wait for a manager that does not read. They return false if the
 * message was not taken and must be sent again. ms: how long stopping may
 * take. */
bool systemd_ready(const char *status);
void systemd_reloading(const char *status);
void systemd_stopping(uint64_t ms, const char *status);
void systemd_status(const char *status);
void systemd_ping(void);

#endif
