/* read.c: from the YAML tree to struct config, and what must hold in it.
 *
 * Three steps: the file is read along the table of config_keys.c, each value
 * by its type; what was left out is filled in from what was given; then the
 * rules that concern more than one key are asked, one function each. All
 * problems are collected with their position and told in the file's order.
 *
 * A rule keeps quiet where its keys are bad already: config_at() knows. */

#include "config/config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>
#include <unistd.h>

#include "keys.h"
#include "yaml.h"
#include "platform/secret.h"

/* Beyond this many of a kind the file is something else altogether. */
#define CONFIG_NOTES_MAX 1000
#define CONFIG_PATH_MAX 1024
#define CONFIG_NAME_MAX 64

enum config_severity { CONFIG_ERROR, CONFIG_WARNING, CONFIG_SEVERITIES };

/* A problem, until all of them are sorted. */
struct config_note {
	struct config_mark mark;
	size_t order; /* of finding, for what stands at one place */
	enum config_severity severity;
	char *key; /* dotted path, may be "" */
	char *text;
};

struct config_reader {
	struct config *cfg;
	struct config_tree *tree;
	char *directory;
	struct config_note *note;
	size_t n_note;
	size_t n_of[CONFIG_SEVERITIES];
	/* Where we are: the key, and its value's or nearest parent's place. */
	char path[CONFIG_PATH_MAX];
	struct config_mark mark;
};

/* A cipher suite that we would use towards clients. */
struct config_suite {
	const char *name;
	enum tls_version version;
};

static char *config_slurp(const char *path, size_t *len_out, struct err *err);
static int config_slurp_fd(int fd, char *text, size_t size, size_t *len_out);
static char *config_directory(const char *file);
static struct config *config_build(const char *name, struct config_tree *tree,
    struct config_problems *problems);

static void config_read_section(struct config_reader *r,
    const struct config_key *section, const struct config_node *node,
    void *base, bool wanted);
static void config_read_strangers(struct config_reader *r,
    const struct config_key *section, const struct config_node *node);
static void config_read_key(struct config_reader *r,
    const struct config_key *key, const struct config_node *node, void *base,
    bool wanted);
static void config_read_subsection(struct config_reader *r,
    const struct config_key *section, const struct config_node *node,
    void *base, bool wanted);
static void config_read_named(struct config_reader *r,
    const struct config_key *key, const struct config_node *node, void *base);
static void config_read_element(struct config_reader *r,
    const struct config_key *section, const struct config_entry *entry,
    char *base);
static bool config_name_is_good(const char *name);
static void config_read_list(struct config_reader *r,
    const struct config_key *key, const struct config_node *node, void *base);
static void config_read_only(struct config_reader *r,
    const struct config_key *key, const struct config_node *node, void *base);
static size_t config_read_elements(struct config_reader *r,
    const struct config_key *key, const struct config_node *list, char *values);
static bool config_is_repeated(const struct config_key *key, const char *values,
    size_t n, const char *one);
static void config_read_value(struct config_reader *r,
    const struct config_key *key, const struct config_node *node, void *place);
static bool config_read_scalar(struct config_reader *r,
    const struct config_key *key, const struct config_node *node, void *place);
static bool config_is_kind(struct config_reader *r,
    const struct config_key *key, const struct config_node *node,
    enum config_node_kind kind);
static void config_default(struct config_reader *r,
    const struct config_key *key, void *place);
static void config_default_list(struct config_reader *r,
    const struct config_key *key, void *base);
static const char *config_convert(struct config_reader *r,
    const struct config_key *key, const char *text, size_t len, bool plain,
    void *place);
static char *config_place(void *base, size_t offset);

static void config_settle(struct config_reader *r);
static void config_settle_hostname(struct config_reader *r);
static void config_settle_certificate(struct config_certificate *c,
    bool *any_default);
static void config_settle_listener(const struct config *cfg,
    struct config_listener *l);
static void config_settle_admin(struct config_reader *r);
static void config_settle_destination(struct config_destination *d);
static void config_settle_server_name(struct config_reader *r,
    struct config_destination *d);
static int config_destination_compare(const void *a, const void *b);

static void config_rule_server(struct config_reader *r);
static void config_rule_certificates(struct config_reader *r);
static void config_rule_suites(struct config_reader *r);
static void config_rule_binds(struct config_reader *r);
static void config_rule_advertise(struct config_reader *r);
static void config_rule_default_destination(struct config_reader *r);
static void config_rule_mapping(struct config_reader *r);
static void config_rule_sql(struct config_reader *r);
static void config_rule_http(struct config_reader *r);
static void config_rule_unused(struct config_reader *r);
static void config_rule_admin(struct config_reader *r);
static void config_rule_admin_token(struct config_reader *r);
static void config_rule_proxy(struct config_reader *r,
    const struct config_listener *l);
static void config_rule_old_tls(struct config_reader *r,
    const struct config_listener *l);
static void config_rule_endpoint(struct config_reader *r,
    const struct config_destination *d);
static void config_rule_plaintext(struct config_reader *r,
    const struct config_destination *d);
static void config_rule_server_name(struct config_reader *r,
    const struct config_destination *d);
static void config_rule_client_cert(struct config_reader *r,
    const struct config_destination *d);
static void config_rule_invalid_certs(struct config_reader *r,
    const struct config_destination *d);
static void config_rule_forwarding(struct config_reader *r,
    const struct config_destination *d);
static void config_rule_loop(struct config_reader *r,
    const struct config_destination *d);
static bool config_suites_left(const struct config_tls *tls,
    enum tls_version min_version);
static void config_bind_check(struct config_reader *r, size_t listener,
    size_t bind);
static bool config_is_same(const struct addr *a, const struct addr *b);
static bool config_reaches(const struct addr *to, const struct addr *bound);
static bool config_is_loopback(const struct addr *a);

static size_t config_push(struct config_reader *r, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static void config_push_name(struct config_reader *r, const char *name);
static bool config_at(struct config_reader *r, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static bool config_has(const struct config_reader *r, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static bool config_is_below(const char *key, const char *parent);
static void config_error(struct config_reader *r, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static void config_warn(struct config_reader *r, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static void config_note(struct config_reader *r, enum config_severity severity,
    const char *fmt, va_list ap) PRINTF_LIKE(3, 0);
static void config_bad_value(struct config_reader *r,
    const struct config_key *key, const struct config_node *node,
    const char *why);
static bool config_is_shown(const struct config_key *key,
    const struct config_node *node);
static int config_note_compare(const void *a, const void *b);
static void config_tell(struct config_reader *r,
    struct config_problems *problems);
static void config_line(struct config_problems *problems,
    enum config_severity severity, const char *file, struct config_mark mark,
    const char *key, const char *text);
static void config_problem_add(const struct config *cfg,
    struct config_problems *problems, enum config_severity severity,
    const char *key, const char *fmt, va_list ap) PRINTF_LIKE(5, 0);
static char *config_format(const char *fmt, ...) PRINTF_LIKE(1, 2);
static char *config_vformat(const char *fmt, va_list ap) PRINTF_LIKE(1, 0);
static void *config_grow(void *array, size_t n, size_t size);

/* Rules about the whole; those below are asked of each listener and of each
 * destination. */
static void (*const config_rules[])(struct config_reader *) = {
    config_rule_server,
    config_rule_certificates,
    config_rule_suites,
    config_rule_binds,
    config_rule_advertise,
    config_rule_default_destination,
    config_rule_mapping,
    config_rule_sql,
    config_rule_http,
    config_rule_unused,
    config_rule_admin,
    config_rule_admin_token,
};

static void (*const config_listener_rules[])(struct config_reader *,
    const struct config_listener *) = {
    config_rule_proxy,
    config_rule_old_tls,
};

static void (*const config_destination_rules[])(struct config_reader *,
    const struct config_destination *) = {
    config_rule_endpoint,
    config_rule_plaintext,
    config_rule_server_name,
    config_rule_client_cert,
    config_rule_invalid_certs,
    config_rule_forwarding,
    config_rule_loop,
};

/* Forward secret and authenticated, all of them. */
static const struct config_suite config_suites[] = {
    {"TLS_AES_256_GCM_SHA384", TLS_V1_3},
    {"TLS_CHACHA20_POLY1305_SHA256", TLS_V1_3},
    {"TLS_AES_128_GCM_SHA256", TLS_V1_3},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", TLS_V1_2},
    {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", TLS_V1_2},
    {"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", TLS_V1_2},
    {"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", TLS_V1_2},
    {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", TLS_V1_2},
    {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", TLS_V1_2},
};

static const char *const config_source_names[] = {
    "file", "redis", "sql", "http"};

/* Lines of CAPA that mailferry sets itself. */
static const char *const config_own_capabilities[] = {
    "USER", "SASL", "STLS", "IMPLEMENTATION"};

struct config *
config_load(const char *path, struct config_problems *problems)
{
	struct config *cfg = NULL;
	struct err err;
	size_t len;
	char *text = config_slurp(path, &len, &err);

	if (text == NULL) {
		config_line(problems, CONFIG_ERROR, path,
		    (struct config_mark){1, 1}, "", err.text);
		return NULL;
	}
	cfg = config_parse(path, text, len, problems);
	secret_wipe(text, len);
	free(text);
	return cfg;
}

struct config *
config_parse(const char *name, const char *text, size_t len,
    struct config_problems *problems)
{
	struct config_fault fault = {{1, 1}, ""};
	struct config_tree *tree;

	if (len > CONFIG_FILE_MAX) {
		config_line(problems, CONFIG_ERROR, name, fault.mark, "",
		    "the file is too big (at most 1 MiB)");
		return NULL;
	}
	tree = config_yaml_parse(text, len, &fault);
	if (tree == NULL) {
		config_line(problems, CONFIG_ERROR, name, fault.mark, "",
		    fault.text);
		return NULL;
	}
	return config_build(name, tree, problems);
}

void
config_free(struct config **cfg)
{
	if (*cfg == NULL)
		return;
	config_yaml_free(&(*cfg)->tree);
	free((*cfg)->path);
	free(*cfg);
	*cfg = NULL;
}

void
config_problem(const struct config *cfg, struct config_problems *problems,
    const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	config_problem_add(cfg, problems, CONFIG_ERROR, key, fmt, ap);
	va_end(ap);
}

void
config_warning(const struct config *cfg, struct config_problems *problems,
    const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	config_problem_add(cfg, problems, CONFIG_WARNING, key, fmt, ap);
	va_end(ap);
}

void
config_problems_clear(struct config_problems *problems)
{
	size_t i;

	for (i = 0; i < problems->n_error; i++)
		free(problems->error[i]);
	for (i = 0; i < problems->n_warning; i++)
		free(problems->warning[i]);
	free(problems->error);
	free(problems->warning);
	memset(problems, 0, sizeof(*problems));
}

bool
config_same(const struct config *a, const struct config *b, const char *prefix)
{
	for (size_t i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const char *x = (const char *)a + key->offset;
		const char *y = (const char *)b + key->offset;

		if (key->shape != CONFIG_VALUE ||
		    strncmp(key->path, prefix, strlen(prefix)) != 0 ||
		    strchr(key->path, '*') != NULL)
			continue;
		if (key->type->is_text
			? strcmp(*(char *const *)(const void *)x,
			      *(char *const *)(const void *)y) != 0
			: memcmp(x, y, key->type->size) != 0)
			return false;
	}
	return true;
}

/* Asked for every line of a mapping file. */
int
config_destination_find(const struct config *cfg, const char *name, size_t len)
{
	size_t lo = 0, hi = cfg->n_destination;

	if (memchr(name, '\0', len) != NULL)
		return -1;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const char *at = cfg->destination[mid].name;
		int order = strncmp(at, name, len);

		if (order == 0 && at[len] == '\0')
			return (int)mid;
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -1;
}

/* The file's text, or NULL. */
static char *
config_slurp(const char *path, size_t *len_out, struct err *err)
{
	/* One more, to notice what is too big. */
	size_t size = CONFIG_FILE_MAX + 1;
	char *text = config_grow(NULL, size, 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd == -1 || config_slurp_fd(fd, text, size, len_out) == -1) {
		err_set(err, "cannot be read: %s", strerror(errno));
		free(text);
		text = NULL;
	}
	if (fd != -1)
		close(fd);
	return text;
}

static int
config_slurp_fd(int fd, char *text, size_t size, size_t *len_out)
{
	ssize_t n;

	*len_out = 0;
	while (*len_out < size) {
		n = read(fd, text + *len_out, size - *len_out);
		if (n == 0)
			break;
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return -1;
		*len_out += (size_t)n;
	}
	return 0;
}

/* The absolute directory of file: paths must survive a chdir(2). */
static char *
config_directory(const char *file)
{
	const char *slash = strrchr(file, '/');
	int len = slash == NULL ? 0 : (int)(slash - file);
	char cwd[4096];

	if (file[0] == '/')
		return config_format("%.*s", len, file);
	if (getcwd(cwd, sizeof(cwd)) == NULL)
		snprintf(cwd, sizeof(cwd), ".");
	if (len == 0)
		return config_format("%s", cwd);
	return config_format("%s/%.*s", cwd, len, file);
}

/* Takes tree over. */
static struct config *
config_build(const char *name, struct config_tree *tree,
    struct config_problems *problems)
{
	struct config_reader r = {.tree = tree, .directory = NULL};
	struct config *cfg = config_grow(NULL, 1, sizeof(*cfg));
	size_t i, k;

	memset(cfg, 0, sizeof(*cfg));
	cfg->path = config_format("%s", name);
	cfg->tree = tree;
	r.cfg = cfg;
	r.directory = config_directory(name);
	r.mark = tree->root->mark;
	config_read_section(&r, config_keys_root(), tree->root, cfg, true);
	config_settle(&r);
	for (i = 0; i < ARRAY_LEN(config_rules); i++)
		config_rules[i](&r);
	for (k = 0; k < cfg->n_listener; k++)
		for (i = 0; i < ARRAY_LEN(config_listener_rules); i++)
			config_listener_rules[i](&r, &cfg->listener[k]);
	for (k = 0; k < cfg->n_destination; k++)
		for (i = 0; i < ARRAY_LEN(config_destination_rules); i++)
			config_destination_rules[i](&r, &cfg->destination[k]);
	for (k = 0; k < cfg->n_destination; k++)
		config_settle_server_name(&r, &cfg->destination[k]);
	config_tell(&r, problems);
	free(r.directory);
	return cfg;
}

/* Reads every row of section from node (NULL: all defaults) into base.
 * wanted: missing keys are worth a problem. */
static void
config_read_section(struct config_reader *r, const struct config_key *section,
    const struct config_node *node, void *base, bool wanted)
{
	const struct config_key *key = NULL;

	if (node != NULL)
		config_read_strangers(r, section, node);
	while ((key = config_keys_next(section, key)) != NULL) {
		const char *name = config_keys_name(key);
		size_t len = config_push(r, ".%s", name);

		config_read_key(r, key, config_yaml_get(node, name), base,
		    wanted);
		r->path[len] = '\0';
	}
}

/* Keys that do not exist, or exist twice. Their own place is told: the value
 * may be many lines long. */
static void
config_read_strangers(struct config_reader *r, const struct config_key *section,
    const struct config_node *node)
{
	struct config_mark mark = r->mark;
	size_t len = strlen(r->path);
	const struct config_entry *e;
	char accepts[1024];

	for (e = node->first; e != NULL; e = e->next) {
		bool known = section->shape == CONFIG_NAMED ||
		    config_keys_find(section, e->key) != NULL;

		if (known && e->repeats_line == 0)
			continue;
		r->mark = e->mark;
		config_push_name(r, e->key);
		if (known)
			config_error(r, "given again (once, line %zu has it)",
			    e->repeats_line);
		else
			config_error(r, "unknown key (%s)",
			    config_keys_accepts(section, false, accepts,
				sizeof(accepts)));
		r->path[len] = '\0';
	}
	r->mark = mark;
}

static void
config_read_key(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base, bool wanted)
{
	struct config_mark mark = r->mark;
	char accepts[1024];

	if (node == NULL && wanted && (key->flags & CONFIG_REQUIRED) != 0) {
		config_error(r, "missing (%s)",
		    config_keys_accepts(key, false, accepts, sizeof(accepts)));
		wanted = false;
	}
	if (node != NULL)
		r->mark = node->mark;
	switch (key->shape) {
	case CONFIG_VALUE:
		config_read_value(r, key, node,
		    config_place(base, key->offset));
		break;
	case CONFIG_VALUES:
		config_read_list(r, key, node, base);
		break;
	case CONFIG_SECTION:
		config_read_subsection(r, key, node, base, wanted);
		break;
	case CONFIG_NAMED:
		config_read_named(r, key, node, base);
		break;
	}
	r->mark = mark;
}

static void
config_read_subsection(struct config_reader *r,
    const struct config_key *section, const struct config_node *node,
    void *base, bool wanted)
{
	bool present;

	if (node == NULL && (section->flags & CONFIG_OPTIONAL) != 0)
		wanted = false;
	if (node != NULL && !config_is_kind(r, section, node, CONFIG_MAP)) {
		node = NULL;
		wanted = false;
	}
	if (section->type != NULL) {
		present = node != NULL;
		memcpy(config_place(base, section->offset), &present,
		    sizeof(present));
	}
	config_read_section(r, section, node, base, wanted);
}

static void
config_read_named(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base)
{
	const struct config_entry *e;
	size_t n = 0;
	char *elements;

	if (node == NULL || !config_is_kind(r, key, node, CONFIG_MAP))
		return;
	config_read_strangers(r, key, node);
	if (node->n_entry == 0 && (key->flags & CONFIG_REQUIRED) != 0)
		config_bad_value(r, key, node, "empty");
	if (node->n_entry > key->max) {
		config_bad_value(r, key, node, "too long");
		return;
	}
	elements = config_yaml_alloc(r->tree, node->n_entry, key->size);
	for (e = node->first; e != NULL; e = e->next)
		if (e->repeats_line == 0)
			config_read_element(r, config_keys_element(key), e,
			    elements + key->size * n++);
	memcpy(config_place(base, key->offset), &elements, sizeof(elements));
	memcpy(config_place(base, key->n_offset), &n, sizeof(n));
}

/* Every struct of a named section begins with its name. */
static void
config_read_element(struct config_reader *r, const struct config_key *section,
    const struct config_entry *entry, char *base)
{
	struct config_mark mark = r->mark;
	size_t len = strlen(r->path);
	char shown[LOG_FIELD_MAX * 4 + 8];
	char *name;

	/* Escaped, as rules put it into a path again. */
	log_escape(entry->key, strlen(entry->key), shown, sizeof(shown));
	name = config_yaml_strndup(r->tree, shown, strlen(shown));
	memcpy(base, &name, sizeof(name));
	config_push_name(r, entry->key);
	if (!config_name_is_good(entry->key)) {
		r->mark = entry->mark;
		config_error(r,
		    "not a name (1 to %d letters, digits, \".\", \"_\", \"-\", "
		    "a letter or digit first)",
		    CONFIG_NAME_MAX);
	}
	r->mark = entry->value->mark;
	config_read_subsection(r, section, entry->value, base, true);
	r->path[len] = '\0';
	r->mark = mark;
}

/* Names stand in mapping files, logs and URLs. */
static bool
config_name_is_good(const char *name)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyz"
				   "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				   "0123456789._-";
	size_t len = strlen(name);

	return len > 0 && len <= CONFIG_NAME_MAX && strspn(name, good) == len &&
	    strchr("._-", name[0]) == NULL;
}

static void
config_read_list(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base)
{
	bool is_inline = (key->flags & CONFIG_INLINE) != 0;
	char *values = config_place(base, key->offset);
	size_t n;

	if (node != NULL && node->kind == CONFIG_SCALAR &&
	    (key->flags & CONFIG_ONE) != 0) {
		config_read_only(r, key, node, base);
		return;
	}
	if (node == NULL || !config_is_kind(r, key, node, CONFIG_LIST)) {
		config_default_list(r, key, base);
		return;
	}
	if (node->n_entry < key->min)
		config_bad_value(r, key, node, "empty");
	if (node->n_entry > key->max && !is_inline)
		config_bad_value(r, key, node, "too long");
	if (!is_inline)
		values =
		    config_yaml_alloc(r->tree, node->n_entry, key->type->size);
	n = config_read_elements(r, key, node, values);
	if (!is_inline)
		memcpy(config_place(base, key->offset), &values,
		    sizeof(values));
	memcpy(config_place(base, key->n_offset), &n, sizeof(n));
}

/* One value in the place of a list. */
static void
config_read_only(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base)
{
	void *values = config_yaml_alloc(r->tree, 1, key->type->size);
	size_t n = config_read_scalar(r, key, node, values) ? 1 : 0;

	memcpy(config_place(base, key->offset), &values, sizeof(values));
	memcpy(config_place(base, key->n_offset), &n, sizeof(n));
}

/* The good ones of list into values; how many they are. */
static size_t
config_read_elements(struct config_reader *r, const struct config_key *key,
    const struct config_node *list, char *values)
{
	_Alignas(max_align_t) char one[256];
	size_t size = key->type->size, n = 0, i = 0;
	const struct config_entry *e;

	assert(size <= sizeof(one));
	for (e = list->first; e != NULL; e = e->next) {
		size_t len = config_push(r, "[%zu]", i++);

		r->mark = e->value->mark;
		if (config_read_scalar(r, key, e->value, one)) {
			if (config_is_repeated(key, values, n, one))
				config_bad_value(r, key, e->value, "repeated");
			else if (n < key->max)
				memcpy(values + size * n++, one, size);
		}
		r->path[len] = '\0';
	}
	return n;
}

static bool
config_is_repeated(const struct config_key *key, const char *values, size_t n,
    const char *one)
{
	size_t size = key->type->size, i;

	for (i = 0; i < n && (key->flags & CONFIG_UNIQUE) != 0; i++)
		if (memcmp(values + size * i, one, size) == 0)
			return true;
	return false;
}

static void
config_read_value(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *place)
{
	if (node == NULL || !config_read_scalar(r, key, node, place))
		config_default(r, key, place);
}

static bool
config_read_scalar(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *place)
{
	const char *why;

	if (!config_is_kind(r, key, node, CONFIG_SCALAR))
		return false;
	if (node->fault != NULL) {
		config_error(r, "%s", node->fault);
		return false;
	}
	if (strlen(node->text) < node->len)
		why = "broken by a NUL";
	else
		why = config_convert(r, key, node->text, node->len, node->plain,
		    place);
	if (why != NULL)
		config_bad_value(r, key, node, node->len == 0 ? "empty" : why);
	return why == NULL;
}

static bool
config_is_kind(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, enum config_node_kind kind)
{
	static const char *const whys[] = {
	    "not a single value", "not a list", "not a mapping"};

	if (node->kind == kind)
		return true;
	if (node->kind == CONFIG_SCALAR && node->fault != NULL)
		config_error(r, "%s", node->fault);
	else if (node->kind == CONFIG_SCALAR && node->len == 0)
		config_bad_value(r, key, node, "empty");
	else
		config_bad_value(r, key, node, whys[kind]);
	return false;
}

static void
config_default(struct config_reader *r, const struct config_key *key,
    void *place)
{
	const char *why = NULL;
	char *empty;

	memset(place, 0, key->type->size);
	if (key->text != NULL) {
		why = config_convert(r, key, key->text, strlen(key->text), true,
		    place);
		assert(why == NULL);
	} else if (key->type->is_text) {
		empty = config_yaml_strndup(r->tree, "", 0);
		memcpy(place, &empty, sizeof(empty));
	}
}

/* The row's text has ", " between the elements. */
static void
config_default_list(struct config_reader *r, const struct config_key *key,
    void *base)
{
	char *values = config_place(base, key->offset);
	const char *text = key->text, *end;
	size_t n = 0;

	if (text == NULL || *text == '\0')
		return;
	if ((key->flags & CONFIG_INLINE) == 0) {
		values = config_yaml_alloc(r->tree, (size_t)key->max,
		    key->type->size);
		memcpy(config_place(base, key->offset), &values,
		    sizeof(values));
	}
	for (; *text != '\0'; text = end + strspn(end, ", ")) {
		const char *why;

		end = text + strcspn(text, ",");
		why = config_convert(r, key,
		    config_yaml_strndup(r->tree, text, (size_t)(end - text)),
		    (size_t)(end - text), true, values + key->type->size * n++);
		assert(why == NULL);
	}
	memcpy(config_place(base, key->n_offset), &n, sizeof(n));
}

static const char *
config_convert(struct config_reader *r, const struct config_key *key,
    const char *text, size_t len, bool plain, void *place)
{
	struct config_input in = {
	    .key = key,
	    .tree = r->tree,
	    .directory = r->directory,
	    .text = text,
	    .len = len,
	    .plain = plain,
	};

	return key->type->parse(&in, place);
}

static char *
config_place(void *base, size_t offset)
{
	return (char *)base + offset;
}

/* What follows from other keys when it was left out. */
static void
config_settle(struct config_reader *r)
{
	struct config *cfg = r->cfg;
	bool any_default = false;
	size_t i;

	if (*cfg->server.hostname == '\0')
		config_settle_hostname(r);
	for (i = 0; i < cfg->tls.n_certificate; i++)
		config_settle_certificate(&cfg->tls.certificate[i],
		    &any_default);
	if (cfg->tls.n_certificate > 0 && !any_default)
		cfg->tls.certificate[0].is_default = true;
	for (i = 0; i < cfg->n_listener; i++)
		config_settle_listener(cfg, &cfg->listener[i]);
	for (i = 0; i < cfg->n_destination; i++)
		config_settle_destination(&cfg->destination[i]);
	if (cfg->n_destination > 0)
		qsort(cfg->destination, cfg->n_destination,
		    sizeof(*cfg->destination), config_destination_compare);
	if (cfg->admin.present)
		config_settle_admin(r);
}

static void
config_settle_hostname(struct config_reader *r)
{
	char name[256] = "";

	if (gethostname(name, sizeof(name) - 1) == -1 || name[0] == '\0')
		snprintf(name, sizeof(name), "localhost");
	r->cfg->server.hostname =
	    config_yaml_strndup(r->tree, name, strlen(name));
}

static void
config_settle_certificate(struct config_certificate *c, bool *any_default)
{
	c->n_pair = c->n_cert < c->n_key ? c->n_cert : c->n_key;
	*any_default |= c->is_default;
}

static void
config_settle_listener(const struct config *cfg, struct config_listener *l)
{
	if ((int)l->min_version == CONFIG_UNSET)
		l->min_version = cfg->tls.min_version;
	if ((int)l->profile == CONFIG_UNSET)
		l->profile = cfg->tls.profile;
}

/* The environment wins, so that the secret need not be in any file. */
static void
config_settle_admin(struct config_reader *r)
{
	struct config_admin *admin = &r->cfg->admin;
	const char *token = getenv("MAILFERRY_ADMIN_TOKEN"), *why;
	const struct config_key *key =
	    config_keys_find(config_keys_find(config_keys_root(), "admin"),
		"bearer_token");
	char accepts[256];

	if (token == NULL || *token == '\0')
		return;
	why = config_convert(r, key, token, strlen(token), true,
	    &admin->bearer_token);
	if (why != NULL && config_at(r, "admin.bearer_token"))
		config_error(r,
		    "the environment's MAILFERRY_ADMIN_TOKEN is %s (%s)", why,
		    config_keys_accepts(key, false, accepts, sizeof(accepts)));
	admin->bearer_token_file = config_yaml_strndup(r->tree, "", 0);
}

static void
config_settle_destination(struct config_destination *d)
{
	struct config_endpoint *pop3 = &d->pop3;

	if (!addr_parse_ip(d->host, &d->host_addr))
		memset(&d->host_addr, 0, sizeof(d->host_addr));
	/* The type takes no fingerprint of zeros. */
	d->tls_pinned = d->tls_pin[0] != 0 ||
	    memcmp(d->tls_pin, d->tls_pin + 1, sizeof(d->tls_pin) - 1) != 0;
	if ((int)d->forwarding == CONFIG_UNSET)
		d->forwarding =
		    d->proxy_protocol ? FORWARD_PROXY : FORWARD_NONE;
	if ((int)pop3->forwarding == CONFIG_UNSET)
		pop3->forwarding = d->forwarding;
	if (pop3->port == 0)
		pop3->port = pop3->tls == TLS_IMPLICIT ? 995 : 110;
}

/* After the rules: one of them asks whether it was given. */
static void
config_settle_server_name(struct config_reader *r, struct config_destination *d)
{
	if (*d->tls_server_name == '\0')
		d->tls_server_name =
		    config_yaml_strndup(r->tree, d->host, strlen(d->host));
}

static int
config_destination_compare(const void *a, const void *b)
{
	const struct config_destination *l = a, *r = b;

	return strcmp(l->name, r->name);
}

static void
config_rule_server(struct config_reader *r)
{
	if (r->cfg->server.bridge_idle < 600 * 1000 &&
	    config_at(r, "server.bridge_idle"))
		config_warn(r,
		    "under the 10 minutes that RFC 1939 grants an idle client "
		    "(10m or more)");
}

static void
config_rule_certificates(struct config_reader *r)
{
	const struct config_tls *tls = &r->cfg->tls;
	const struct config_certificate *first = NULL, *c;
	size_t i;

	for (i = 0; i < tls->n_certificate; i++) {
		c = &tls->certificate[i];
		if (c->n_cert != c->n_key &&
		    config_at(r, "tls.certificate.%s.cert", c->name) &&
		    config_at(r, "tls.certificate.%s.key", c->name))
			config_error(r, "%zu beside %zu of cert (one for each)",
			    c->n_key, c->n_cert);
		if (!c->is_default)
			continue;
		if (first != NULL &&
		    config_at(r, "tls.certificate.%s.default", c->name))
			config_error(r,
			    "\"%s\" is the default already (one default)",
			    first->name);
		if (first == NULL)
			first = c;
	}
}

/* Listeners may ask for TLS 1.3 each by itself. */
static void
config_rule_suites(struct config_reader *r)
{
	const struct config *cfg = r->cfg;
	const char *whom = "clients";
	enum tls_version version = cfg->tls.min_version;
	size_t i;

	for (i = 0; i < cfg->n_listener; i++)
		if (cfg->listener[i].min_version > version &&
		    cfg->listener[i].tls != TLS_PLAIN) {
			version = cfg->listener[i].min_version;
			whom = cfg->listener[i].name;
		}
	if (!config_suites_left(&cfg->tls, version) &&
	    config_at(r, "tls.protocols.disable_cipher_suites"))
		config_error(r,
		    "no cipher suite is left for %s (at least one of TLS "
		    "%s)",
		    whom, version == TLS_V1_3 ? "1.3" : "1.2 or 1.3");
}

static bool
config_suites_left(const struct config_tls *tls, enum tls_version min_version)
{
	size_t i, k;

	for (i = 0; i < ARRAY_LEN(config_suites); i++) {
		if (config_suites[i].version < min_version &&
		    min_version == TLS_V1_3)
			continue;
		for (k = 0; k < tls->n_disable_cipher_suites; k++)
			if (strcmp(tls->disable_cipher_suites[k],
				config_suites[i].name) == 0)
				break;
		if (k == tls->n_disable_cipher_suites)
			return true;
	}
	return false;
}

static void
config_rule_binds(struct config_reader *r)
{
	const struct config *cfg = r->cfg;
	size_t i, k;

	for (i = 0; i < cfg->n_listener; i++) {
		/* Bad elements are left out: the numbers would be wrong. */
		if (!config_at(r, "listener.%s.bind", cfg->listener[i].name))
			continue;
		for (k = 0; k < cfg->listener[i].n_bind; k++)
			config_bind_check(r, i, k);
	}
}

/* Is a bind address one of an earlier line, or the management's? */
static void
config_bind_check(struct config_reader *r, size_t listener, size_t bind)
{
	const struct config *cfg = r->cfg;
	const struct addr *own = &cfg->listener[listener].bind[bind];
	const char *taken = NULL;
	char text[ADDR_TEXT_MAX];
	size_t i, k;

	for (i = 0; i <= listener; i++)
		for (k = 0; k < cfg->listener[i].n_bind; k++) {
			if (i == listener && k >= bind)
				break;
			if (config_is_same(own, &cfg->listener[i].bind[k]))
				taken = cfg->listener[i].name;
		}
	if (taken != NULL &&
	    config_at(r, "listener.%s.bind[%zu]", cfg->listener[listener].name,
		bind))
		config_error(r,
		    "%s is listened on by listener.%s already (an address of "
		    "its own)",
		    addr_text(own, text), taken);
	if (config_is_same(own, &cfg->admin.bind) && config_at(r, "admin.bind"))
		config_error(r,
		    "%s is listened on by listener.%s already (an address of "
		    "its own)",
		    addr_text(own, text), cfg->listener[listener].name);
}

static bool
config_is_same(const struct addr *a, const struct addr *b)
{
	return addr_port(a) == addr_port(b) && addr_same_ip(a, b);
}

/* CAPA would say it twice. */
static void
config_rule_advertise(struct config_reader *r)
{
	const struct config_pop3 *pop3 = &r->cfg->pop3;
	size_t i, k;

	for (i = 0; i < pop3->n_advertise; i++)
		for (k = 0; k < ARRAY_LEN(config_own_capabilities); k++) {
			const char *own = config_own_capabilities[k];
			size_t len = strlen(own);
			const char *line = pop3->advertise[i];

			if (strncasecmp(line, own, len) == 0 &&
			    strchr(" ", line[len]) != NULL &&
			    config_at(r, "capabilities.pop3.advertise"))
				config_warn(r,
				    "%s is added as needed (further lines)",
				    own);
		}
}

static void
config_rule_default_destination(struct config_reader *r)
{
	const struct config *cfg = r->cfg;
	const char *name = cfg->routing.default_destination;
	char shown[LOG_FIELD_MAX * 4 + 8];
	int i = config_destination_find(cfg, name, strlen(name));

	if (cfg->n_destination == 0 && !config_at(r, "destination"))
		return;
	if (!config_at(r, "routing.default_destination"))
		return;
	log_escape(name, strlen(name), shown, sizeof(shown));
	if (i == -1)
		config_error(r,
		    "\"%s\" is not declared (a name below destination)", shown);
	else if (!cfg->destination[i].pop3.present && cfg->n_listener > 0)
		config_error(r,
		    "\"%s\" has no endpoint for pop3, which listener.%s "
		    "accepts (a destination with protocol.pop3)",
		    shown, cfg->listener[0].name);
}

/* No mapping at all is fine: everybody goes to the default destination. */
static void
config_rule_mapping(struct config_reader *r)
{
	const char *source = config_source_names[r->cfg->mapping.source];

	if (!config_has(r, "mapping") || config_has(r, "mapping.%s", source))
		return;
	if (config_at(r, "mapping.source"))
		config_error(r, "\"%s\" has no section (mapping.%s)", source,
		    source);
}

static void
config_rule_sql(struct config_reader *r)
{
	const struct config_mapping *m = &r->cfg->mapping;
	bool postgres = strncmp(m->sql_url, "postgres:", 9) == 0;
	const char *mark = postgres ? "$1" : "?";
	bool upsert = *m->sql_upsert_query != '\0';
	bool removes = *m->sql_delete_query != '\0';

	if (*m->sql_query != '\0' && strstr(m->sql_query, mark) == NULL &&
	    config_at(r, "mapping.sql.query"))
		config_error(r,
		    "nothing stands for the identifier (a query with %s)",
		    mark);
	if (upsert && !removes && config_at(r, "mapping.sql.upsert_query"))
		config_error(r, "without delete_query (both or neither)");
	if (removes && !upsert && config_at(r, "mapping.sql.delete_query"))
		config_error(r, "without upsert_query (both or neither)");
}

static void
config_rule_http(struct config_reader *r)
{
	const char *url = r->cfg->mapping.http_url;

	if (*url != '\0' && strstr(url, "%u") == NULL &&
	    config_at(r, "mapping.http.url"))
		config_error(r,
		    "nothing stands for the identifier (a URL with %%u)");
}

/* What is read and checked, so that a file can be shared with a later version,
 * and nothing else. Defaults of single keys do no harm. */
static void
config_rule_unused(struct config_reader *r)
{
	const struct config *cfg = r->cfg;
	const struct {
		const char *key;
		bool is_set;
		const char *why;
	} unused[] = {
	    {"server.upgrade_grace", cfg->server.upgrade_grace != 3600 * 1000,
		"this version cannot upgrade in place: ignored"},
	    {"routing.guard", cfg->routing.guard != GUARD_WARN,
		"this version has no guard: ignored"},
	    {"state", cfg->state.present,
		"this version keeps no state: ignored"},
	    {"admin", cfg->admin.present,
		"this version has no management listener: ignored"},
	};

	for (size_t i = 0; i < ARRAY_LEN(unused); i++)
		if (unused[i].is_set && config_at(r, "%s", unused[i].key))
			config_warn(r, "%s", unused[i].why);
}

static void
config_rule_admin(struct config_reader *r)
{
	const struct config_admin *admin = &r->cfg->admin;

	if (admin->present && admin->bind.len == 0 && *admin->socket == '\0' &&
	    config_at(r, "admin"))
		config_error(r,
		    "neither bind nor socket (at least one of them)");
}

/* A token in a file is read, and measured, by who serves it. */
static void
config_rule_admin_token(struct config_reader *r)
{
	const struct config_admin *admin = &r->cfg->admin;
	bool token = *admin->bearer_token != '\0';
	bool file = *admin->bearer_token_file != '\0';

	if (!admin->present || !config_at(r, "admin.bearer_token_file") ||
	    !config_at(r, "admin.bearer_token"))
		return;
	if (admin->bind.len > 0 && !token && !file)
		config_error(r,
		    "missing (bearer_token_file, bearer_token or the "
		    "environment's MAILFERRY_ADMIN_TOKEN)");
	if (token && file)
		config_error(r, "beside bearer_token_file (one of them)");
	if (token && strlen(admin->bearer_token) < admin->min_token_len)
		config_error(r,
		    "too short, maybe from MAILFERRY_ADMIN_TOKEN (at least %u "
		    "octets, as min_token_len says)",
		    admin->min_token_len);
}

static void
config_rule_proxy(struct config_reader *r, const struct config_listener *l)
{
	if (l->proxy_protocol == PROXY_OFF)
		return;
	if (l->n_proxy_trusted == 0 &&
	    config_at(r, "listener.%s.proxy_trusted", l->name))
		config_error(r,
		    "nobody may send the header that proxy_protocol asks for "
		    "(at least one CIDR)");
	if (l->proxy_protocol == PROXY_OPTIONAL && l->tls != TLS_IMPLICIT &&
	    config_at(r, "listener.%s.proxy_protocol", l->name))
		config_warn(r,
		    "optional delays every greeting in clear by up to "
		    "proxy_header_timeout (required)");
}

static void
config_rule_old_tls(struct config_reader *r, const struct config_listener *l)
{
	if (l->min_version < TLS_V1_2 &&
	    config_at(r, "listener.%s.min_version", l->name))
		config_warn(r,
		    "TLS before 1.2 is broken, for old devices only (1.2 or "
		    "1.3)");
}

static void
config_rule_endpoint(struct config_reader *r,
    const struct config_destination *d)
{
	if (!d->pop3.present &&
	    config_at(r, "destination.%s.protocol", d->name))
		config_error(r, "no endpoint (pop3)");
}

static void
config_rule_plaintext(struct config_reader *r,
    const struct config_destination *d)
{
	if (d->pop3.present && d->pop3.tls == TLS_PLAIN &&
	    !d->allow_plaintext_auth &&
	    config_at(r, "destination.%s.protocol.pop3.tls", d->name))
		config_error(r,
		    "plain sends passwords in clear (implicit or starttls, or "
		    "the destination's allow_plaintext_auth: true)");
}

static void
config_rule_server_name(struct config_reader *r,
    const struct config_destination *d)
{
	if (d->pop3.present && d->pop3.tls != TLS_PLAIN &&
	    d->host_addr.len > 0 && *d->tls_server_name == '\0' &&
	    !d->tls_pinned && !d->tls_allow_invalid_certs &&
	    config_at(r, "destination.%s.tls_server_name", d->name))
		config_error(r,
		    "missing, as host is an address (the name in its "
		    "certificate, or tls_pinned_cert_sha256)");
}

static void
config_rule_client_cert(struct config_reader *r,
    const struct config_destination *d)
{
	bool cert = *d->tls_client_cert != '\0';
	bool key = *d->tls_client_key != '\0';

	if (cert && !key &&
	    config_at(r, "destination.%s.tls_client_cert", d->name))
		config_error(r, "without tls_client_key (both or neither)");
	if (key && !cert &&
	    config_at(r, "destination.%s.tls_client_key", d->name))
		config_error(r, "without tls_client_cert (both or neither)");
}

static void
config_rule_invalid_certs(struct config_reader *r,
    const struct config_destination *d)
{
	if (d->tls_allow_invalid_certs &&
	    config_at(r, "destination.%s.tls_allow_invalid_certs", d->name))
		config_warn(r,
		    "anybody in between can read the passwords "
		    "(tls_pinned_cert_sha256)");
}

/* Told at the key that decided it. */
static void
config_rule_forwarding(struct config_reader *r,
    const struct config_destination *d)
{
	static const char *const keys[] = {
	    "protocol.pop3.forwarding", "forwarding", "proxy_protocol"};
	size_t i = 0;

	if (!d->pop3.present || d->pop3.forwarding != FORWARD_NONE)
		return;
	while (i < ARRAY_LEN(keys) - 1 &&
	    !config_has(r, "destination.%s.%s", d->name, keys[i]))
		i++;
	if (config_at(r, "destination.%s.%s", d->name, keys[i]))
		config_warn(r,
		    "no forwarding: the backend's limits per address hit all "
		    "users at once (proxy or xclient)");
}

static void
config_rule_loop(struct config_reader *r, const struct config_destination *d)
{
	const struct config *cfg = r->cfg;
	char text[ADDR_TEXT_MAX];
	struct addr to = d->host_addr;
	size_t i, k;

	if (to.len == 0 || !d->pop3.present)
		return;
	addr_set_port(&to, d->pop3.port);
	for (i = 0; i < cfg->n_listener; i++) {
		const struct config_listener *l = &cfg->listener[i];

		for (k = 0; k < l->n_bind; k++)
			if (config_reaches(&to, &l->bind[k]) &&
			    config_at(r, "destination.%s.host", d->name))
				config_error(r,
				    "%s is our own listener.%s: a loop "
				    "(another server)",
				    addr_text(&to, text), l->name);
	}
}

/* Would a connection to arrive at the socket bound? Only what addresses tell
 * by themselves; the session knows more once names are resolved. */
static bool
config_reaches(const struct addr *to, const struct addr *bound)
{
	bool local = config_is_loopback(to) || addr_is_unspecified(to);

	if (addr_port(to) != addr_port(bound))
		return false;
	if (addr_same_ip(to, bound))
		return true;
	if (to->u.sa.sa_family != bound->u.sa.sa_family)
		return false;
	if (addr_is_unspecified(bound))
		return local;
	/* Linux takes a connection to 0.0.0.0 to 127.0.0.1. */
	return addr_is_unspecified(to) && config_is_loopback(bound);
}

static bool
config_is_loopback(const struct addr *a)
{
	if (a->u.sa.sa_family == AF_INET)
		return ntohl(a->u.in.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&a->u.in6.sin6_addr);
}

/* Appends to the path; its former length, to cut it back to. A dot at the
 * very beginning is left out. */
static size_t
config_push(struct config_reader *r, const char *fmt, ...)
{
	size_t len = strlen(r->path);
	va_list ap;

	if (len == 0 && *fmt == '.')
		fmt++;
	va_start(ap, fmt);
	vsnprintf(r->path + len, sizeof(r->path) - len, fmt, ap);
	va_end(ap);
	return len;
}

/* A name from the file, which may be anything. */
static void
config_push_name(struct config_reader *r, const char *name)
{
	char shown[LOG_FIELD_MAX * 4 + 8];

	log_escape(name, strlen(name), shown, sizeof(shown));
	config_push(r, ".%s", shown);
}

/* Goes to a key, or to its nearest parent that the file has. False: there,
 * above or below is an error already, and what follows from it is not worth
 * telling. */
static bool
config_at(struct config_reader *r, const char *fmt, ...)
{
	bool exact;
	va_list ap;
	size_t i;

	va_start(ap, fmt);
	vsnprintf(r->path, sizeof(r->path), fmt, ap);
	va_end(ap);
	r->mark = config_yaml_find(r->tree, r->path, &exact)->mark;
	for (i = 0; i < r->n_note; i++)
		if (r->note[i].severity == CONFIG_ERROR &&
		    (config_is_below(r->note[i].key, r->path) ||
			config_is_below(r->path, r->note[i].key)))
			return false;
	return true;
}

static bool
config_is_below(const char *key, const char *parent)
{
	size_t len = strlen(parent);

	return strncmp(key, parent, len) == 0 && strchr(".[", key[len]) != NULL;
}

/* Is the key in the file? */
static bool
config_has(const struct config_reader *r, const char *fmt, ...)
{
	char path[CONFIG_PATH_MAX];
	bool exact;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	config_yaml_find(r->tree, path, &exact);
	return exact;
}

static void
config_error(struct config_reader *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	config_note(r, CONFIG_ERROR, fmt, ap);
	va_end(ap);
}

static void
config_warn(struct config_reader *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	config_note(r, CONFIG_WARNING, fmt, ap);
	va_end(ap);
}

static void
config_note(struct config_reader *r, enum config_severity severity,
    const char *fmt, va_list ap)
{
	struct config_note *note;

	if (r->n_of[severity]++ >= CONFIG_NOTES_MAX)
		return;
	r->note = config_grow(r->note, r->n_note + 1, sizeof(*r->note));
	note = &r->note[r->n_note];
	note->mark = r->mark;
	note->order = r->n_note++;
	note->severity = severity;
	note->key = config_format("%s", r->path);
	note->text = config_vformat(fmt, ap);
}

/* why is read behind "is". */
static void
config_bad_value(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, const char *why)
{
	static const char *const kinds[] = {"value", "list", "mapping"};
	bool element =
	    r->path[0] != '\0' && r->path[strlen(r->path) - 1] == ']';
	char shown[LOG_FIELD_MAX * 4 + 8], accepts[1024];

	config_keys_accepts(key, element, accepts, sizeof(accepts));
	if (config_is_shown(key, node))
		config_error(r, "\"%s\" is %s (%s)",
		    log_escape(node->text, node->len, shown, sizeof(shown)),
		    why, accepts);
	else
		config_error(r, "the %s is %s (%s)", kinds[node->kind], why,
		    accepts);
}

/* Not what is secret, came from the environment, or stands where a section
 * belongs: "redis: redis://:PASSWORD@HOST" is easily written. */
static bool
config_is_shown(const struct config_key *key, const struct config_node *node)
{
	return node->kind == CONFIG_SCALAR && node->len > 0 &&
	    !node->from_environment && (key->flags & CONFIG_SECRET) == 0 &&
	    (key->shape == CONFIG_VALUE || key->shape == CONFIG_VALUES);
}

static int
config_note_compare(const void *a, const void *b)
{
	const struct config_note *l = a, *r = b;

	if (l->mark.line != r->mark.line)
		return l->mark.line < r->mark.line ? -1 : 1;
	if (l->mark.column != r->mark.column)
		return l->mark.column < r->mark.column ? -1 : 1;
	return l->order < r->order ? -1 : 1;
}

/* All notes, sorted, become lines; they are gone afterwards. */
static void
config_tell(struct config_reader *r, struct config_problems *problems)
{
	size_t i;

	if (r->n_note > 0)
		qsort(r->note, r->n_note, sizeof(*r->note),
		    config_note_compare);
	for (i = 0; i < r->n_note; i++) {
		const struct config_note *note = &r->note[i];

		config_line(problems, note->severity, r->cfg->path, note->mark,
		    note->key, note->text);
		free(note->key);
		free(note->text);
	}
	if (r->n_of[CONFIG_ERROR] > CONFIG_NOTES_MAX)
		config_line(problems, CONFIG_ERROR, r->cfg->path,
		    r->tree->root->mark, "", "more problems than can be shown");
	free(r->note);
	r->note = NULL;
	r->n_note = 0;
}

static void
config_line(struct config_problems *problems, enum config_severity severity,
    const char *file, struct config_mark mark, const char *key,
    const char *text)
{
	bool error = severity == CONFIG_ERROR;
	char ***lines = error ? &problems->error : &problems->warning;
	size_t *n = error ? &problems->n_error : &problems->n_warning;

	*lines = config_grow(*lines, *n + 1, sizeof(**lines));
	(*lines)[(*n)++] = config_format("%s:%zu:%zu: %s%s%s", file, mark.line,
	    mark.column, key, *key == '\0' ? "" : ": ", text);
}

static void
config_problem_add(const struct config *cfg, struct config_problems *problems,
    enum config_severity severity, const char *key, const char *fmt, va_list ap)
{
	char *text = config_vformat(fmt, ap);
	bool exact;

	config_line(problems, severity, cfg->path,
	    config_yaml_find(cfg->tree, key, &exact)->mark, key, text);
	free(text);
}

static char *
config_format(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	text = config_vformat(fmt, ap);
	va_end(ap);
	return text;
}

static char *
config_vformat(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) == -1) {
		log_msg(LOG_ERR, "configuration: out of memory");
		exit(EX_OSERR);
	}
	return text;
}

static void *
config_grow(void *array, size_t n, size_t size)
{
	array = reallocarray(array, n, size);
	if (array == NULL) {
		log_msg(LOG_ERR, "configuration: out of memory");
		exit(EX_OSERR);
	}
	return array;
}
