/* pop3_count.h: counts a client's commands as their octets pass.
 *
 * For the relay, which looks at what the client sends and nowhere else: a few
 * short lines, however they are cut. */

#ifndef PROTO_POP3_COUNT_H
#define PROTO_POP3_COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pop3_counted {
	COUNTED_RETR,
	COUNTED_TOP,
	COUNTED_DELE,
	COUNTED_QUIT,
	COUNTED_RSET,
	COUNTED_LIST,
	COUNTED_UIDL,
	COUNTED_STAT,
	COUNTED_NOOP,
	COUNTED_OTHER,
	POP3_COUNTED
};

#define POP3_COUNT_WORD 4 /* letters of the longest verb */

/* Zeroed at first. */
struct pop3_count {
	uint32_t n[POP3_COUNTED];
	uint32_t deletes_pending; /* DELEs that no RSET has taken back */
	/* Where the line under way stands. */
	char word[POP3_COUNT_WORD];
	uint8_t len; /* of word; above POP3_COUNT_WORD: no verb of ours */
	bool past; /* the verb is complete */
};

/* A command counts when its LF has come. */
void pop3_count(struct pop3_count *c, const char *data, size_t len);

/* "retr", "top", ...: as it is logged. */
const char *pop3_counted_name(enum pop3_counted what);

#endif
