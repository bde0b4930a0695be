/* line.c: lines out of an evbuffer. */

#include "session/line.h"

#include <event2/buffer.h>

#include "platform/secret.h"

enum line_status
line_take(struct evbuffer *buf, size_t max, char *out, size_t *len_out)
{
	struct evbuffer_ptr eol;
	size_t n = evbuffer_get_length(buf);

	eol = evbuffer_search_eol(buf, NULL, NULL, EVBUFFER_EOL_LF);
	if (eol.pos == -1)
		return n < max ? LINE_MORE : LINE_LONG;
	n = (size_t)eol.pos + 1;
	if (n > max)
		return LINE_LONG;
	evbuffer_copyout(buf, out, n);
	line_drain(buf, n);
	n--;
	if (n > 0 && out[n - 1] == '\r')
		n--;
	*len_out = n;
	return LINE_OK;
}

void
line_drain(struct evbuffer *buf, size_t n)
{
	struct evbuffer_iovec vec[16];
	size_t left = n;

	while (left > 0) {
		int used = evbuffer_peek(buf, (ev_ssize_t)left, NULL, vec,
		    (int)ARRAY_LEN(vec));
		size_t drained = 0;

		if (used > (int)ARRAY_LEN(vec))
			used = (int)ARRAY_LEN(vec);
		for (int i = 0; i < used && drained < left; i++) {
			size_t part = vec[i].iov_len;

			if (part > left - drained)
				part = left - drained;
			secret_wipe(vec[i].iov_base, part);
			drained += part;
		}
		if (drained == 0)
			return;
		evbuffer_drain(buf, drained);
		left -= drained;
	}
}
