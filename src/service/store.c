/* store.c: the kinds of store there are. */

#include "service/store.h"

static const struct store_kind *const store_kinds[] = {
    [SOURCE_FILE] = &store_file,
    [SOURCE_REDIS] = NULL,
    [SOURCE_SQL] = NULL,
    [SOURCE_HTTP] = NULL,
};

const struct store_kind *
store_kind_find(enum mapping_source source)
{
	return store_kinds[source];
}
