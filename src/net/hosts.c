/* hosts.c: looks up names in hosts(5).
 *
 * Reads the file at each lookup, as getaddrinfo(3) does, so that a change takes
 * effect at once; the file is small. */

#include "net/hosts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool hosts_line_has(char *line, const char *name, struct addr *out);
static size_t hosts_localhost(struct addr *out, size_t max);

size_t
hosts_find(const char *path, const char *name, struct addr *out, size_t max)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t size = 0, n = 0;
	struct addr a;

	if (f != NULL) {
		while (n < max && getline(&line, &size, f) != -1)
			if (hosts_line_has(line, name, &a))
				out[n++] = a;
		free(line);
		fclose(f);
	}
	if (n == 0 && strcasecmp(name, "localhost") == 0)
		return hosts_localhost(out, max);
	return n;
}

/* Parses "ADDRESS NAME [ALIAS...] [# ...]". */
static bool
hosts_line_has(char *line, const char *name, struct addr *out)
{
	static const char space[] = " \t\r\n";
	char *rest, *word;

	line[strcspn(line, "#")] = '\0';
	word = strtok_r(line, space, &rest);
	if (word == NULL || !addr_parse_ip(word, out))
		return false;
	while ((word = strtok_r(NULL, space, &rest)) != NULL)
		if (strcasecmp(word, name) == 0)
			return true;
	return false;
}

/* RFC 6761 §6.3: no name server is asked for it. */
static size_t
hosts_localhost(struct addr *out, size_t max)
{
	static const char *const ip[] = {"127.0.0.1", "::1"};
	size_t n = 0;

	while (n < max && n < 2) {
		addr_parse_ip(ip[n], &out[n]);
		n++;
	}
	return n;
}
