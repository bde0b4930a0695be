/* fuzz_config.c: any bytes as a configuration file. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void fuzz_check_lines(char *const *lines, size_t n);
static void fuzz_check_good(const struct config *cfg);
static void fuzz_check_dump(const struct config *cfg);
static char *fuzz_dump(const struct config *cfg, size_t *len_out);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_problems problems = {0};
	struct config *cfg =
	    config_parse("fuzz", (const char *)data, size, &problems);

	fuzz_check_lines(problems.error, problems.n_error);
	fuzz_check_lines(problems.warning, problems.n_warning);
	if (cfg == NULL && problems.n_error != 1)
		abort();
	if (cfg != NULL && problems.n_error == 0) {
		fuzz_check_good(cfg);
		fuzz_check_dump(cfg);
	}
	config_problems_clear(&problems);
	config_free(&cfg);
	return 0;
}

/* One line each, with a place. */
static void
fuzz_check_lines(char *const *lines, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (strncmp(lines[i], "fuzz:", 5) != 0 ||
		    strpbrk(lines[i], "\r\n\x1b") != NULL)
			abort();
}

/* What the rest of the program relies on. */
static void
fuzz_check_good(const struct config *cfg)
{
	const char *name = cfg->routing.default_destination;
	size_t i;

	if (cfg->n_listener == 0 || *cfg->server.hostname == '\0' ||
	    config_destination_find(cfg, name, strlen(name)) == -1)
		abort();
	for (i = 0; i < cfg->n_listener; i++)
		if (cfg->listener[i].n_bind == 0 ||
		    (int)cfg->listener[i].min_version < 0)
			abort();
	for (i = 0; i < cfg->n_destination; i++) {
		const struct config_destination *d = &cfg->destination[i];

		if (!d->pop3.present || d->pop3.port == 0 || *d->host == '\0' ||
		    *d->tls_server_name == '\0' || (int)d->pop3.forwarding < 0)
			abort();
	}
}

/* What is dumped reads back the same; but stars may be too short for a token,
 * and may hide what stands for the identifier. */
static void
fuzz_check_dump(const struct config *cfg)
{
	struct config_problems problems = {0};
	struct config *again;
	size_t len, len_again;
	char *text, *text_again, url[CONFIG_URL_MAX + 1];

	if (*cfg->admin.bearer_token != '\0')
		return;
	config_show_url(cfg, "mapping.http.url", cfg->mapping.http_url, url);
	if (*cfg->mapping.http_url != '\0' && strstr(url, "%u") == NULL)
		return;
	text = fuzz_dump(cfg, &len);
	again = config_parse("fuzz", text, len, &problems);
	if (again == NULL || problems.n_error != 0)
		abort();
	text_again = fuzz_dump(again, &len_again);
	if (len != len_again || memcmp(text, text_again, len) != 0)
		abort();
	free(text);
	free(text_again);
	config_problems_clear(&problems);
	config_free(&again);
}

static char *
fuzz_dump(const struct config *cfg, size_t *len_out)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, len_out);

	config_dump(cfg, out);
	fclose(out);
	return text;
}
