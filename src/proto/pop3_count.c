/* pop3_count.c: the first word of each line. */

#include "proto/pop3_count.h"

#include <string.h>

#include "platform/util.h"

static const struct {
	const char *name;
	char verb[POP3_COUNT_WORD]; /* not a string: padded with NUL */
} pop3_count_rows[] = {
    [COUNTED_RETR] = {"retr", {'R', 'E', 'T', 'R'}},
    [COUNTED_TOP] = {"top", {'T', 'O', 'P'}},
    [COUNTED_DELE] = {"dele", {'D', 'E', 'L', 'E'}},
    [COUNTED_QUIT] = {"quit", {'Q', 'U', 'I', 'T'}},
    [COUNTED_RSET] = {"rset", {'R', 'S', 'E', 'T'}},
    [COUNTED_LIST] = {"list", {'L', 'I', 'S', 'T'}},
    [COUNTED_UIDL] = {"uidl", {'U', 'I', 'D', 'L'}},
    [COUNTED_STAT] = {"stat", {'S', 'T', 'A', 'T'}},
    [COUNTED_NOOP] = {"noop", {'N', 'O', 'O', 'P'}},
    [COUNTED_OTHER] = {"other", {0}},
};
_Static_assert(ARRAY_LEN(pop3_count_rows) == POP3_COUNTED, "unnamed verb");

static void pop3_count_word(struct pop3_count *c, char ch);
static void pop3_count_line(struct pop3_count *c);

void
pop3_count(struct pop3_count *c, const char *data, size_t len)
{
	const char *end = data + len, *lf;

	while (data < end) {
		if (!c->past && *data != '\n') {
			pop3_count_word(c, *data++);
			continue;
		}
		lf = memchr(data, '\n', (size_t)(end - data));
		if (lf == NULL)
			return;
		pop3_count_line(c);
		data = lf + 1;
	}
}

static void
pop3_count_word(struct pop3_count *c, char ch)
{
	if (ch == ' ' || ch == '\t' || ch == '\r') {
		c->past = true;
	} else if (c->len < POP3_COUNT_WORD && ch != '\0') {
		c->word[c->len++] =
		    ch >= 'a' && ch <= 'z' ? (char)(ch - 'a' + 'A') : ch;
	} else {
		c->len = POP3_COUNT_WORD + 1;
		c->past = true;
	}
}

static void
pop3_count_line(struct pop3_count *c)
{
	int what = 0;

	while (what < COUNTED_OTHER &&
	    (c->len > POP3_COUNT_WORD ||
		memcmp(c->word, pop3_count_rows[what].verb, sizeof(c->word)) !=
		    0))
		what++;
	c->n[what]++;
	if (what == COUNTED_DELE)
		c->deletes_pending++;
	else if (what == COUNTED_RSET)
		c->deletes_pending = 0;
	memset(c->word, 0, sizeof(c->word));
	c->len = 0;
	c->past = false;
}

const char *
pop3_counted_name(enum pop3_counted what)
{
	return pop3_count_rows[what].name;
}
