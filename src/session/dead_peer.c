/* dead_peer.c: looks at what TCP knows. */

#include "dead_peer.h"

#include <netinet/in.h>
#include <sys/socket.h>

/* The C library's tcp_info ends before tcpi_bytes_acked. */
#include <linux/tcp.h>

#include "platform/clock.h"

enum dead_peer_state
dead_peer_look(struct dead_peer *d, int fd, uint64_t limit_ms)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	uint64_t now = clock_ms();

	/* With a closed window, or without a route, the kernel only probes; a
	 * peer that answers takes this count back to 0. */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == -1 ||
	    (info.tcpi_unacked == 0 && info.tcpi_probes == 0)) {
		d->since = 0;
		return PEER_QUIET;
	}
	if (d->since == 0 || info.tcpi_bytes_acked != d->acked) {
		d->since = now;
		d->acked = info.tcpi_bytes_acked;
	}
	return now - d->since >= limit_ms && info.tcpi_last_ack_recv >= limit_ms
	    ? PEER_DEAD
	    : PEER_OWES;
}
