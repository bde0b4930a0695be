/* my_link.h: one libmariadb connection, for the threads of blocking.h. */

#ifndef STORE_MY_LINK_H
#define STORE_MY_LINK_H

#include "blocking.h"

/* Its settings are a struct my_server. */
extern const struct blocking_kind my_link;

#endif
