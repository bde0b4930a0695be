/* read.c: makes struct config from the YAML tree.
 *
 * It reads the file along the rows of keys.c, each value by its type, and
 * derives keys that were left out from other keys. Then rules.c checks rules
 * over several keys. All problems are collected and reported in the file's
 * order. */

#include "config/config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keys.h"
#include "notes.h"
#include "rules.h"
#include "types.h"
#include "yaml.h"
#include "platform/secret.h"

#define CONFIG_NAME_MAX 64

struct config_reader {
	struct config *cfg;
	struct config_tree *tree;
	char *directory;
	struct notes notes;
};

static char *read_slurp(const char *path, size_t *len_out, struct err *err);
static int read_slurp_fd(int fd, char *text, size_t size, size_t *len_out);
static char *read_directory(const char *file);
static struct config *read_build(const char *name, struct config_tree *tree,
    struct config_problems *problems);
static void read_section(struct config_reader *r,
    const struct config_key *section, const struct config_node *node,
    void *base, bool wanted);
static void read_strangers(struct config_reader *r,
    const struct config_key *section, const struct config_node *node);
static void read_unknown(struct config_reader *r,
    const struct config_key *section, const char *name);
static void read_key(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base, bool wanted);
static void read_subsection(struct config_reader *r,
    const struct config_key *section, const struct config_node *node,
    void *base, bool wanted);
static void read_named(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base);
static void read_element(struct config_reader *r,
    const struct config_key *section, const struct config_entry *entry,
    char *base);
static bool read_name_is_good(const char *name);
static void read_list(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base);
static void read_only(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base);
static size_t read_elements(struct config_reader *r,
    const struct config_key *key, const struct config_node *list, char *values);
static bool read_is_repeated(const struct config_key *key, const char *values,
    size_t n, const char *one);
static void read_value(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *place);
static bool read_scalar(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *place);
static bool read_is_kind(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, enum config_node_kind kind);
static void read_default(struct config_reader *r, const struct config_key *key,
    void *place);
static void read_default_list(struct config_reader *r,
    const struct config_key *key, void *base);
static const char *read_convert(struct config_reader *r,
    const struct config_key *key, const char *text, size_t len, bool plain,
    void *place);
static char *read_place(void *base, size_t offset);
static void read_settle(struct config_reader *r);
static void read_settle_hostname(struct config_reader *r);
static void read_settle_certificate(struct config_certificate *c,
    bool *any_default);
static void read_settle_listener(const struct config *cfg,
    struct config_listener *l);
static void read_settle_admin(struct config_reader *r);
static void read_settle_destination(struct config_reader *r,
    struct config_destination *d);
static void read_settle_server_name(struct config_reader *r,
    struct config_destination *d);
static int read_destination_compare(const void *a, const void *b);
static void read_bad_value(struct config_reader *r,
    const struct config_key *key, const struct config_node *node,
    const char *why);
static bool read_is_shown(const struct config_key *key,
    const struct config_node *node);

struct config *
config_load(const char *path, struct config_problems *problems)
{
	struct config *cfg = NULL;
	struct err err;
	size_t len;
	char *text = read_slurp(path, &len, &err);

	if (text == NULL) {
		notes_line(problems, NOTES_ERROR, path,
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
		notes_line(problems, NOTES_ERROR, name, fault.mark, "",
		    "the file is too big; expected at most 1 MiB");
		return NULL;
	}
	tree = config_yaml_parse(text, len, &fault);
	if (tree == NULL) {
		notes_line(problems, NOTES_ERROR, name, fault.mark, "",
		    fault.text);
		return NULL;
	}
	return read_build(name, tree, problems);
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

struct identifier_rules
config_identifier_rules(const struct config *cfg)
{
	const struct identifier_rules rules = {
	    .separators = cfg->routing.master_user_separators,
	    .n_separators = cfg->routing.n_master_user_separators,
	    .at_substitutes = cfg->routing.at_substitutes,
	    .default_domain = cfg->routing.default_domain,
	    .normalize = cfg->mapping.normalize,
	};

	return rules;
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

/* Returns the file's text, or NULL. */
static char *
read_slurp(const char *path, size_t *len_out, struct err *err)
{
	/* One octet more, to notice a file that is too big. */
	size_t size = CONFIG_FILE_MAX + 1;
	char *text = notes_grow(NULL, size, 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd == -1 || read_slurp_fd(fd, text, size, len_out) == -1) {
		err_set(err, "cannot be read: %s", strerror(errno));
		free(text);
		text = NULL;
	}
	if (fd != -1)
		close(fd);
	return text;
}

static int
read_slurp_fd(int fd, char *text, size_t size, size_t *len_out)
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

/* Returns the absolute directory of file, because paths must survive a
 * chdir(2). */
static char *
read_directory(const char *file)
{
	const char *slash = strrchr(file, '/');
	int len = slash == NULL ? 0 : (int)(slash - file);
	char cwd[4096];

	if (file[0] == '/')
		return notes_format("%.*s", len, file);
	if (getcwd(cwd, sizeof(cwd)) == NULL)
		snprintf(cwd, sizeof(cwd), ".");
	if (len == 0)
		return notes_format("%s", cwd);
	return notes_format("%s/%.*s", cwd, len, file);
}

/* Takes ownership of tree. */
static struct config *
read_build(const char *name, struct config_tree *tree,
    struct config_problems *problems)
{
	struct config_reader r = {.tree = tree, .directory = NULL};
	struct config *cfg = notes_grow(NULL, 1, sizeof(*cfg));
	size_t k;

	memset(cfg, 0, sizeof(*cfg));
	cfg->path = notes_format("%s", name);
	cfg->tree = tree;
	r.cfg = cfg;
	r.directory = read_directory(name);
	r.notes.tree = tree;
	r.notes.file = cfg->path;
	r.notes.mark = tree->root->mark;
	read_section(&r, config_keys_root(), tree->root, cfg, true);
	read_settle(&r);
	rules_check(cfg, &r.notes);
	for (k = 0; k < cfg->n_destination; k++)
		read_settle_server_name(&r, &cfg->destination[k]);
	notes_tell(&r.notes, problems);
	free(r.directory);
	return cfg;
}

/* Reads every row of section from node (NULL: all defaults) into base. wanted:
 * a missing key is a problem. */
static void
read_section(struct config_reader *r, const struct config_key *section,
    const struct config_node *node, void *base, bool wanted)
{
	const struct config_key *key = NULL;

	if (node != NULL)
		read_strangers(r, section, node);
	while ((key = config_keys_next(section, key)) != NULL) {
		const char *name = config_keys_name(key);
		size_t len = notes_push(&r->notes, ".%s", name);

		read_key(r, key, config_yaml_get(node, name), base, wanted);
		r->notes.path[len] = '\0';
	}
}

/* Reports unknown and duplicate keys at the position of the key, because the
 * value may have many lines. */
static void
read_strangers(struct config_reader *r, const struct config_key *section,
    const struct config_node *node)
{
	struct config_mark mark = r->notes.mark;
	size_t len = strlen(r->notes.path);
	const struct config_entry *e;

	for (e = node->first; e != NULL; e = e->next) {
		bool known = section->shape == CONFIG_NAMED ||
		    config_keys_find(section, e->key) != NULL;

		if (known && e->repeats_line == 0)
			continue;
		r->notes.mark = e->mark;
		notes_push_name(&r->notes, e->key);
		if (known)
			notes_error(&r->notes,
			    "duplicate key; first given on line %zu",
			    e->repeats_line);
		else
			read_unknown(r, section, e->key);
		r->notes.path[len] = '\0';
	}
	r->notes.mark = mark;
}

/* The nearest key, or all there are. */
static void
read_unknown(struct config_reader *r, const struct config_key *section,
    const char *name)
{
	const struct config_key *near = config_keys_nearest(section, name);
	char names[1024];

	if (near != NULL)
		notes_error(&r->notes, "unknown key; did you mean \"%s\"?",
		    config_keys_name(near));
	else
		notes_error(&r->notes, "unknown key; expected %s",
		    config_keys_names(section, names, sizeof(names)));
}

static void
read_key(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base, bool wanted)
{
	struct config_mark mark = r->notes.mark;
	char accepts[1024];

	if (node == NULL && wanted && (key->flags & CONFIG_REQUIRED) != 0) {
		notes_error(&r->notes, "missing; expected %s",
		    config_keys_accepts(key, false, accepts, sizeof(accepts)));
		wanted = false;
	}
	if (node != NULL)
		r->notes.mark = node->mark;
	switch (key->shape) {
	case CONFIG_VALUE:
		read_value(r, key, node, read_place(base, key->offset));
		break;
	case CONFIG_VALUES:
		read_list(r, key, node, base);
		break;
	case CONFIG_SECTION:
		read_subsection(r, key, node, base, wanted);
		break;
	case CONFIG_NAMED:
		read_named(r, key, node, base);
		break;
	}
	r->notes.mark = mark;
}

static void
read_subsection(struct config_reader *r, const struct config_key *section,
    const struct config_node *node, void *base, bool wanted)
{
	bool present;

	if (node == NULL && (section->flags & CONFIG_OPTIONAL) != 0)
		wanted = false;
	if (node != NULL && !read_is_kind(r, section, node, CONFIG_MAP)) {
		node = NULL;
		wanted = false;
	}
	if (section->type != NULL) {
		present = node != NULL;
		memcpy(read_place(base, section->offset), &present,
		    sizeof(present));
	}
	read_section(r, section, node, base, wanted);
}

static void
read_named(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base)
{
	const struct config_entry *e;
	size_t n = 0;
	char *elements;

	if (node == NULL || !read_is_kind(r, key, node, CONFIG_MAP))
		return;
	read_strangers(r, key, node);
	if (node->n_entry == 0 && (key->flags & CONFIG_REQUIRED) != 0)
		read_bad_value(r, key, node, "empty");
	if (node->n_entry > key->max) {
		read_bad_value(r, key, node, "too long");
		return;
	}
	elements = config_yaml_alloc(r->tree, node->n_entry, key->size);
	for (e = node->first; e != NULL; e = e->next)
		if (e->repeats_line == 0)
			read_element(r, config_keys_element(key), e,
			    elements + key->size * n++);
	memcpy(read_place(base, key->offset), &elements, sizeof(elements));
	memcpy(read_place(base, key->n_offset), &n, sizeof(n));
}

/* Every struct of a named section begins with its name. */
static void
read_element(struct config_reader *r, const struct config_key *section,
    const struct config_entry *entry, char *base)
{
	struct config_mark mark = r->notes.mark;
	size_t len = strlen(r->notes.path);
	char shown[LOG_FIELD_MAX * 4 + 8];
	char *name;

	/* Escaped, as rules put it into a path again. */
	log_escape(entry->key, strlen(entry->key), shown, sizeof(shown));
	name = config_yaml_strndup(r->tree, shown, strlen(shown));
	memcpy(base, &name, sizeof(name));
	notes_push_name(&r->notes, entry->key);
	if (!read_name_is_good(entry->key)) {
		r->notes.mark = entry->mark;
		notes_error(&r->notes,
		    "not a name; expected 1 to %d letters, digits, \".\", "
		    "\"_\" and \"-\", a letter or digit first",
		    CONFIG_NAME_MAX);
	}
	r->notes.mark = entry->value->mark;
	read_subsection(r, section, entry->value, base, true);
	r->notes.path[len] = '\0';
	r->notes.mark = mark;
}

/* Names are used in mapping files, logs and URLs. */
static bool
read_name_is_good(const char *name)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyz"
				   "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				   "0123456789._-";
	size_t len = strlen(name);

	return len > 0 && len <= CONFIG_NAME_MAX && strspn(name, good) == len &&
	    strchr("._-", name[0]) == NULL;
}

static void
read_list(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base)
{
	bool is_inline = (key->flags & CONFIG_INLINE) != 0;
	char *values = read_place(base, key->offset);
	size_t n;

	if (node != NULL && node->kind == CONFIG_SCALAR &&
	    (key->flags & CONFIG_ONE) != 0) {
		read_only(r, key, node, base);
		return;
	}
	if (node == NULL || !read_is_kind(r, key, node, CONFIG_LIST)) {
		read_default_list(r, key, base);
		return;
	}
	if (node->n_entry < key->min)
		read_bad_value(r, key, node, "empty");
	if (node->n_entry > key->max && !is_inline)
		read_bad_value(r, key, node, "too long");
	if (!is_inline)
		values =
		    config_yaml_alloc(r->tree, node->n_entry, key->type->size);
	n = read_elements(r, key, node, values);
	if (!is_inline)
		memcpy(read_place(base, key->offset), &values, sizeof(values));
	memcpy(read_place(base, key->n_offset), &n, sizeof(n));
}

/* One value in the place of a list. */
static void
read_only(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *base)
{
	void *values = config_yaml_alloc(r->tree, 1, key->type->size);
	size_t n = read_scalar(r, key, node, values) ? 1 : 0;

	memcpy(read_place(base, key->offset), &values, sizeof(values));
	memcpy(read_place(base, key->n_offset), &n, sizeof(n));
}

/* Reads the valid elements of list into values. Returns their number. */
static size_t
read_elements(struct config_reader *r, const struct config_key *key,
    const struct config_node *list, char *values)
{
	_Alignas(max_align_t) char one[256];
	size_t size = key->type->size, n = 0, i = 0;
	const struct config_entry *e;

	assert(size <= sizeof(one));
	for (e = list->first; e != NULL; e = e->next) {
		size_t len = notes_push(&r->notes, "[%zu]", i++);

		r->notes.mark = e->value->mark;
		if (read_scalar(r, key, e->value, one)) {
			if (read_is_repeated(key, values, n, one))
				read_bad_value(r, key, e->value, "repeated");
			else if (n < key->max)
				memcpy(values + size * n++, one, size);
		}
		r->notes.path[len] = '\0';
	}
	return n;
}

static bool
read_is_repeated(const struct config_key *key, const char *values, size_t n,
    const char *one)
{
	size_t size = key->type->size, i;

	for (i = 0; i < n && (key->flags & CONFIG_UNIQUE) != 0; i++)
		if (memcmp(values + size * i, one, size) == 0)
			return true;
	return false;
}

static void
read_value(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *place)
{
	if (node == NULL || !read_scalar(r, key, node, place))
		read_default(r, key, place);
}

static bool
read_scalar(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, void *place)
{
	const char *why;

	if (!read_is_kind(r, key, node, CONFIG_SCALAR))
		return false;
	if (node->fault != NULL) {
		notes_error(&r->notes, "%s", node->fault);
		return false;
	}
	if (strlen(node->text) < node->len)
		why = "broken by a NUL";
	else
		why = read_convert(r, key, node->text, node->len, node->plain,
		    place);
	if (why != NULL)
		read_bad_value(r, key, node, node->len == 0 ? "empty" : why);
	return why == NULL;
}

static bool
read_is_kind(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, enum config_node_kind kind)
{
	static const char *const whys[] = {
	    "not a single value", "not a list", "not a mapping"};

	if (node->kind == kind)
		return true;
	if (node->kind == CONFIG_SCALAR && node->fault != NULL)
		notes_error(&r->notes, "%s", node->fault);
	else if (node->kind == CONFIG_SCALAR && node->len == 0)
		read_bad_value(r, key, node, "empty");
	else
		read_bad_value(r, key, node, whys[kind]);
	return false;
}

static void
read_default(struct config_reader *r, const struct config_key *key, void *place)
{
	const char *why = NULL;
	char *empty;

	memset(place, 0, key->type->size);
	if (key->text != NULL) {
		why = read_convert(r, key, key->text, strlen(key->text), true,
		    place);
		assert(why == NULL);
	} else if (key->type->is_text) {
		empty = config_yaml_strndup(r->tree, "", 0);
		memcpy(place, &empty, sizeof(empty));
	}
}

/* The row's text has ", " between the elements. */
static void
read_default_list(struct config_reader *r, const struct config_key *key,
    void *base)
{
	char *values = read_place(base, key->offset);
	const char *text = key->text, *end;
	size_t n = 0;

	if (text == NULL || *text == '\0')
		return;
	if ((key->flags & CONFIG_INLINE) == 0) {
		values = config_yaml_alloc(r->tree, (size_t)key->max,
		    key->type->size);
		memcpy(read_place(base, key->offset), &values, sizeof(values));
	}
	for (; *text != '\0'; text = end + strspn(end, ", ")) {
		const char *why;

		end = text + strcspn(text, ",");
		why = read_convert(r, key,
		    config_yaml_strndup(r->tree, text, (size_t)(end - text)),
		    (size_t)(end - text), true, values + key->type->size * n++);
		assert(why == NULL);
	}
	memcpy(read_place(base, key->n_offset), &n, sizeof(n));
}

static const char *
read_convert(struct config_reader *r, const struct config_key *key,
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

	/* cppcheck-suppress returnDanglingLifetime ; it is a static text */
	return key->type->parse(&in, place);
}

static char *
read_place(void *base, size_t offset)
{
	return (char *)base + offset;
}

/* Derives keys that were left out from other keys. */
static void
read_settle(struct config_reader *r)
{
	struct config *cfg = r->cfg;
	bool any_default = false;
	size_t i;

	if (*cfg->server.hostname == '\0')
		read_settle_hostname(r);
	for (i = 0; i < cfg->tls.n_certificate; i++)
		read_settle_certificate(&cfg->tls.certificate[i], &any_default);
	if (cfg->tls.n_certificate > 0 && !any_default)
		cfg->tls.certificate[0].is_default = true;
	for (i = 0; i < cfg->n_listener; i++)
		read_settle_listener(cfg, &cfg->listener[i]);
	for (i = 0; i < cfg->n_destination; i++)
		read_settle_destination(r, &cfg->destination[i]);
	if (cfg->n_destination > 0)
		qsort(cfg->destination, cfg->n_destination,
		    sizeof(*cfg->destination), read_destination_compare);
	if (cfg->admin.present)
		read_settle_admin(r);
}

static void
read_settle_hostname(struct config_reader *r)
{
	char name[256] = "";

	if (gethostname(name, sizeof(name) - 1) == -1 || name[0] == '\0')
		snprintf(name, sizeof(name), "localhost");
	r->cfg->server.hostname =
	    config_yaml_strndup(r->tree, name, strlen(name));
}

static void
read_settle_certificate(struct config_certificate *c, bool *any_default)
{
	c->n_pair = c->n_cert < c->n_key ? c->n_cert : c->n_key;
	*any_default |= c->is_default;
}

static void
read_settle_listener(const struct config *cfg, struct config_listener *l)
{
	if ((int)l->min_version == CONFIG_UNSET)
		l->min_version = cfg->tls.min_version;
	if ((int)l->profile == CONFIG_UNSET)
		l->profile = cfg->tls.profile;
}

/* The environment takes precedence, so that the secret need not be in a
 * file. */
static void
read_settle_admin(struct config_reader *r)
{
	struct config_admin *admin = &r->cfg->admin;
	const char *token = getenv("MAILFERRY_ADMIN_TOKEN"), *why;
	const struct config_key *key =
	    config_keys_find(config_keys_find(config_keys_root(), "admin"),
		"bearer_token");
	char accepts[256];

	if (token == NULL || *token == '\0')
		return;
	why = read_convert(r, key, token, strlen(token), true,
	    &admin->bearer_token);
	if (why != NULL && notes_at(&r->notes, "admin.bearer_token"))
		notes_error(&r->notes,
		    "the environment's MAILFERRY_ADMIN_TOKEN is %s; expected %s",
		    why,
		    config_keys_accepts(key, false, accepts, sizeof(accepts)));
	admin->bearer_token_file = config_yaml_strndup(r->tree, "", 0);
}

static void
read_settle_destination(struct config_reader *r, struct config_destination *d)
{
	struct config_endpoint *pop3 = &d->pop3;

	if (!addr_parse_ip(d->host, &d->host_addr))
		memset(&d->host_addr, 0, sizeof(d->host_addr));
	/* The type takes no fingerprint of zeros. */
	d->tls_pinned = d->tls_pin[0] != 0 ||
	    memcmp(d->tls_pin, d->tls_pin + 1, sizeof(d->tls_pin) - 1) != 0;
	if ((int)d->proxy_protocol != CONFIG_UNSET &&
	    !notes_has(&r->notes, "destination.%s.forwarding", d->name))
		d->forwarding = d->proxy_protocol;
	if ((int)pop3->forwarding == CONFIG_UNSET)
		pop3->forwarding = d->forwarding;
	if (pop3->port == 0)
		pop3->port = pop3->tls == TLS_IMPLICIT ? 995 : 110;
}

/* Called after the rules, because one of them checks whether it was given. */
static void
read_settle_server_name(struct config_reader *r, struct config_destination *d)
{
	if (*d->tls_server_name == '\0')
		d->tls_server_name =
		    config_yaml_strndup(r->tree, d->host, strlen(d->host));
}

static int
read_destination_compare(const void *a, const void *b)
{
	const struct config_destination *l = a, *r = b;

	return strcmp(l->name, r->name);
}

/* why follows the word "is". */
static void
read_bad_value(struct config_reader *r, const struct config_key *key,
    const struct config_node *node, const char *why)
{
	static const char *const kinds[] = {"value", "list", "mapping"};
	bool element = r->notes.path[0] != '\0' &&
	    r->notes.path[strlen(r->notes.path) - 1] == ']';
	char shown[LOG_FIELD_MAX * 4 + 8], accepts[1024];

	config_keys_accepts(key, element, accepts, sizeof(accepts));
	if (read_is_shown(key, node))
		notes_error(&r->notes, "\"%s\" is %s; expected %s",
		    log_escape(node->text, node->len, shown, sizeof(shown)),
		    why, accepts);
	else
		notes_error(&r->notes, "the %s is %s; expected %s",
		    kinds[node->kind], why, accepts);
}

/* Returns false for a secret, for text from the environment, and for a value
 * instead of a section: "redis: redis://:PASSWORD@HOST" is a likely mistake. */
static bool
read_is_shown(const struct config_key *key, const struct config_node *node)
{
	return node->kind == CONFIG_SCALAR && node->len > 0 &&
	    !node->from_environment && (key->flags & CONFIG_SECRET) == 0 &&
	    (key->shape == CONFIG_VALUE || key->shape == CONFIG_VALUES);
}
