/* linger.h: closes sockets slowly after the last reply.
 *
 * A close with unread input makes the kernel send RST, which destroys a last
 * reply that the client has not read yet. So the socket is half-closed, and its
 * input is discarded until the other side closes too, for 2 s or 1 MiB at
 * most. */

#ifndef SESSION_LINGER_H
#define SESSION_LINGER_H

struct admission;
struct event_base;
struct linger_set;

struct linger_set *linger_set_new(struct event_base *base);
/* Closes the remaining sockets. */
void linger_set_free(struct linger_set **set);

/* Takes fd over, whatever happens, and holds what it counts in until it is
 * closed. admission: NULL if it counts nowhere. */
void linger_add(struct linger_set *set, int fd, struct admission *admission);

#endif
