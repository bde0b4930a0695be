/* proxy_reader.h: reads one PROXY header from a new connection, and not one
 * octet more, because TLS may follow. */

#ifndef SESSION_PROXY_READER_H
#define SESSION_PROXY_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/proxy_protocol.h"

struct event_base;
struct proxy_reader;

enum proxy_read {
	PROXY_READ_OK, /* *header is valid during the call */
	PROXY_READ_NONE, /* something else, or nothing in time */
	PROXY_READ_BAD, /* it begins like a header but is not valid */
	PROXY_READ_CLOSED /* the peer has closed or reset the connection */
};

struct proxy_reader_spec {
	struct event_base *base;
	int fd; /* borrowed */
	uint64_t timeout_ms; /* absolute: trickling octets do not extend it */
	void (*done)(void *arg, enum proxy_read status,
	    const struct proxy_header *header);
	void *arg;
};

/* Calls done once, from the loop; the reader is then freed. Returns NULL if
 * memory is short. */
struct proxy_reader *proxy_reader_start(const struct proxy_reader_spec *spec);
/* Cancels: done will not be called. NULL is allowed. */
void proxy_reader_cancel(struct proxy_reader **r);

#endif
