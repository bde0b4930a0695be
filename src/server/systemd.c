/* systemd.c: sd_notify(3) in mailferry's words. */

#include "systemd.h"

#ifdef MAILFERRY_SYSTEMD

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include <systemd/sd-daemon.h>

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

void
systemd_ready(const char *status)
{
	sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

/* The time lets Type=notify-reload tell this reload from the one before. */
void
systemd_reloading(const char *status)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=%s",
	    (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000,
	    status);
}

void
systemd_stopping(const char *status)
{
	sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

void
systemd_status(const char *status)
{
	sd_notifyf(0, "STATUS=%s", status);
}

void
systemd_ping(void)
{
	sd_notify(0, "WATCHDOG=1");
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

void
systemd_ready(const char *status UNUSED)
{
}

void
systemd_reloading(const char *status UNUSED)
{
}

void
systemd_stopping(const char *status UNUSED)
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
