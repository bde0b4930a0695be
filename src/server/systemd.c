/* systemd.c: sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3) in
 * mailferry's words. */

#include "systemd.h"

#ifdef MAILFERRY_SYSTEMD

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#define SYSTEMD_MESSAGE_MAX 1024

static bool systemd_send(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

bool
systemd_is_there(void)
{
	const char *path = getenv("NOTIFY_SOCKET");

	return path != NULL && path[0] != '\0';
}

uint64_t
systemd_watchdog(void)
{
	uint64_t us = 0;

	return sd_watchdog_enabled(0, &us) > 0 ? us : 0;
}

int
systemd_listen_fds(int *first)
{
	*first = SD_LISTEN_FDS_START;
	return sd_listen_fds(1);
}

/* Not sd_notify(3): it waits for a manager that does not read, and a frozen
 * manager must not block the handling of signals. */
static bool
systemd_send(const char *format, ...)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path != NULL ? strlen(path) : 0;
	char text[SYSTEMD_MESSAGE_MAX];
	va_list ap;
	int fd, n;
	bool ok;

	if (len == 0)
		return true;
	if (len >= sizeof(un.sun_path))
		return false;
	memcpy(un.sun_path, path, len);
	if (path[0] == '@')
		un.sun_path[0] = '\0'; /* an abstract name */
	va_start(ap, format);
	n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (n < 0 || (size_t)n >= sizeof(text) || fd == -1)
		return false;
	ok =
	    sendto(fd, text, (size_t)n, MSG_NOSIGNAL, (struct sockaddr *)&un,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) == n;
	close(fd);
	return ok;
}

bool
systemd_ready(const char *status)
{
	return systemd_send("READY=1\nSTATUS=%s", status);
}

/* The time lets Type=notify-reload tell this reload from the one before. */
void
systemd_reloading(const char *status)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	systemd_send("RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=%s",
	    (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000,
	    status);
}

/* Does not shorten the manager's own time (TimeoutStopSec=). */
void
systemd_stopping(uint64_t ms, const char *status)
{
	systemd_send("STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRIu64 "\nSTATUS=%s",
	    ms * 1000, status);
}

void
systemd_status(const char *status)
{
	systemd_send("STATUS=%s", status);
}

void
systemd_ping(void)
{
	systemd_send("WATCHDOG=1");
}

#else

#include "platform/util.h"

bool
systemd_is_there(void)
{
	return false;
}

uint64_t
systemd_watchdog(void)
{
	return 0;
}

int
systemd_listen_fds(int *first)
{
	*first = 0;
	return 0;
}

bool
systemd_ready(const char *status UNUSED)
{
	return true;
}

void
systemd_reloading(const char *status UNUSED)
{
}

void
systemd_stopping(uint64_t ms UNUSED, const char *status UNUSED)
{
}

void
systemd_status(const char *status UNUSED)
{
}

void
systemd_ping(void)
{
}

#endif
