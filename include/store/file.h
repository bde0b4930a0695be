/* file.h: the mapping file. Each line is "IDENTIFIER<white space>DESTINATION",
 * a "#" comment, or blank. The table is loaded whole and then immutable; it is
 * part of the runtime, and all workers share it. */

#ifndef STORE_FILE_H
#define STORE_FILE_H

#include <stddef.h>

#include "config/config.h"
#include "platform/err.h"
#include "platform/util.h"
#include "proto/identifier.h"

struct store_table;

/* Loads cfg->mapping.file_path. Every bad line is a problem of the key
 * mapping.file.path (the first 100; then one that says how many more): wrong
 * number of words, NUL, an undeclared destination, an
 * identifier given twice with different destinations. NULL: unreadable or no
 * memory (also reported). An identifier that no login can match is a problem
 * too (identifier_stored()). A file_path of "", and another mapping.source,
 * give an empty table. */
struct store_table *store_table_load(const struct config *cfg,
    struct config_problems *problems);
void store_table_free(struct store_table **table);
size_t store_table_count(const struct store_table *table);

/* Returns the destination's index in cfg, or -1. */
int store_table_find(const struct store_table *table, const char *key);

/* Makes key lead to destination in the file at path, or nowhere (NULL). The
 * file is replaced whole: readers, a crash and a full disk find the old or the
 * new one. Its mode and owner stay, and the comments on its top; what follows
 * is sorted. A symbolic link is followed. Writers of several processes wait
 * for each other. The lines of key are found in any case that normalize takes
 * for the same, and with any spelling of its domain. Blocks. -1: err says why, nothing has changed. */
int store_file_write(const char *path, const char *key, const char *destination,
    enum normalize normalize, struct err *err) MUST_CHECK;

#endif
