/* line.h: takes lines from an evbuffer, for both legs. Any line may contain a
 * password, so it is wiped in the buffer. */

#ifndef SESSION_LINE_H
#define SESSION_LINE_H

#include <stddef.h>

#include "platform/util.h"

struct evbuffer;

enum line_status {
	LINE_OK,
	LINE_MORE, /* no end of line yet */
	LINE_LONG /* more than max octets, the end of line included */
};

/* Moves the first line of buf to out, which has room for max octets, its end
 * (LF or CR LF) cut off. A partial line of max octets is too long. */
enum line_status line_take(struct evbuffer *buf, size_t max, char *out,
    size_t *len_out) MUST_CHECK;

/* Wipes the first n octets of buf where they are and drains them. Not
 * evbuffer_drain() alone: the octets must be gone, not forgotten. */
void line_drain(struct evbuffer *buf, size_t n);

#endif
