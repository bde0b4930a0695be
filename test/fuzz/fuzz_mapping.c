/* fuzz_mapping.c: any bytes as a mapping file, and a route set in it. */

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "platform/hash.h"
#include "store/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static struct config *fuzz_config(void);
static size_t fuzz_load(const struct config *cfg, const char *key, int *found);

static const char fuzz_path[] = "/tmp/mailferry-fuzz-mapping";

static const char fuzz_text[] =
    "listener: {a: {bind: [\"127.0.0.1:995\"]}}\n"
    "routing: {default_destination: a}\n"
    "mapping: {normalize: lowercase, file: {path: %s.%d}}\n"
    "destination:\n"
    "  a: &x {host: a.example, forwarding: xclient, "
    "protocol: {pop3: {tls: starttls}}}\n"
    "  new: *x\n";

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config *cfg;
	size_t before, after;
	int fd, found;
	struct err err;

	if (cfg == NULL)
		cfg = fuzz_config();
	fd = open(cfg->mapping.file_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd == -1 || write(fd, data, size) != (ssize_t)size)
		abort();
	close(fd);
	before = fuzz_load(cfg, "k@x", &found);
	if (before == SIZE_MAX)
		return 0;
	/* A good file stays one, with every other entry. */
	if (store_file_write(cfg->mapping.file_path, "k@x", "new",
		NORMALIZE_LOWERCASE, &err) == -1)
		abort();
	after = fuzz_load(cfg, "k@x", &found);
	if (after == SIZE_MAX || found != 1)
		abort();
	if (store_file_write(cfg->mapping.file_path, "k@x", NULL,
		NORMALIZE_LOWERCASE, &err) == -1)
		abort();
	if (fuzz_load(cfg, "k@x", &found) != after - 1 || found != -1 ||
	    (before != after && before != after - 1))
		abort();
	return 0;
}

static struct config *
fuzz_config(void)
{
	struct config_problems problems = {0};
	struct config *cfg;
	char text[1024];
	int n;

	hash_init();
	n = snprintf(text, sizeof(text), fuzz_text, fuzz_path, (int)getpid());
	cfg = config_parse("/fuzz", text, (size_t)n, &problems);
	if (cfg == NULL || problems.n_error != 0)
		abort();
	return cfg;
}

/* How many entries there are; SIZE_MAX: the file is bad. */
static size_t
fuzz_load(const struct config *cfg, const char *key, int *found)
{
	struct config_problems problems = {0};
	struct store_table *table = store_table_load(cfg, &problems);
	size_t n = SIZE_MAX;

	if (table == NULL)
		abort();
	for (size_t i = 0; i < problems.n_error; i++)
		if (strpbrk(problems.error[i], "\r\n\x1b") != NULL)
			abort();
	if (problems.n_error == 0) {
		n = store_table_count(table);
		*found = store_table_find(table, key);
	}
	config_problems_clear(&problems);
	store_table_free(&table);
	return n;
}
