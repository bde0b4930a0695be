/* dead_peer.h: whether the other side of a connection is still there.
 *
 * Not TCP_USER_TIMEOUT: that also ends a connection whose peer has closed its
 * window and answers every probe, a client that pauses in a download. Silence
 * when nothing is on its way is the business of keep-alive. */

#ifndef SESSION_DEAD_PEER_H
#define SESSION_DEAD_PEER_H

#include <stdint.h>

/* What was seen at the last look; zeroed at first. */
struct dead_peer {
	uint64_t since; /* nothing was acknowledged since then; 0: no matter */
	uint64_t acked; /* octets, in all */
};

enum dead_peer_state {
	PEER_QUIET, /* it has acknowledged all that is on its way */
	PEER_OWES, /* some is on its way: look again */
	PEER_DEAD /* and nothing of it was acknowledged for limit_ms */
};

/* Looks at the socket fd; called every now and then. */
enum dead_peer_state dead_peer_look(struct dead_peer *d, int fd,
    uint64_t limit_ms);

#endif
