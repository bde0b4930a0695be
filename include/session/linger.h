/* linger.h: sockets on which all has been said.
 *
 * Closing over unread input makes the kernel send RST, which destroys a last
 * reply that the client has not read yet. Here a socket is half-closed and its
 * input thrown away until the other side closes too: 2 s or 1 MiB at most. */

#ifndef SESSION_LINGER_H
#define SESSION_LINGER_H

struct admission;
struct event_base;
struct linger_set;

struct linger_set *linger_set_new(struct event_base *base);
/* Closes those that are left. */
void linger_set_free(struct linger_set **set);

/* Takes fd over, whatever happens, and holds what it counts in until it is
 * closed. admission: NULL if it counts nowhere. */
void linger_add(struct linger_set *set, int fd, struct admission *admission);

#endif
