/* listen.c: listening sockets, which need privileges, and dropping
 * privileges. */

#include "listen.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "platform/log.h"
#include "platform/log_sink.h"

#define LISTEN_BACKLOG 4096

static bool listen_is_free(const struct addr *addr);
static int listen_user(const struct config *cfg, uid_t *uid, gid_t *gid,
    struct err *err);
static int listen_group(const struct config *cfg, gid_t *gid, struct err *err);
static int listen_become(const struct config *cfg, struct err *err);
static int listen_drop_bounds(struct err *err);
static int listen_drop_capabilities(struct err *err);
static int listen_seal(struct err *err);

/* Sockets of one address share its connections. This check prevents sharing
 * them with another daemon of the same user by accident. */
static bool
listen_is_free(const struct addr *addr)
{
	int on = 1, saved, fd;
	bool ok;

	fd = socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return false;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (addr->u.sa.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	ok = bind(fd, &addr->u.sa, addr->len) == 0 && listen(fd, 1) == 0;
	saved = errno;
	close(fd);
	errno = saved;
	return ok;
}

int
listen_check(const struct addr *addr, struct err *err)
{
	char text[ADDR_TEXT_MAX];

	if (listen_is_free(addr))
		return 0;
	return err_set(err, "cannot listen on %s: %s", addr_text(addr, text),
	    strerror(errno));
}

int
listen_open(const struct addr *addr, struct err *err)
{
	char text[ADDR_TEXT_MAX];
	int on = 1, fd;

	addr_text(addr, text);
	fd = socket(addr->u.sa.sa_family,
	    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return err_set(err, "cannot listen on %s: %s", text,
		    strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (addr->u.sa.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == -1 ||
	    bind(fd, &addr->u.sa, addr->len) == -1 ||
	    listen(fd, LISTEN_BACKLOG) == -1) {
		err_set(err, "cannot listen on %s: %s", text, strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

void
listen_give(const struct config *cfg, int fd)
{
	struct err err;
	uid_t uid = 0;
	gid_t gid;

	if (geteuid() != 0 || cfg->server.user[0] == '\0' ||
	    listen_user(cfg, &uid, &gid, &err) == -1)
		return;
	if (fchown(fd, uid, (gid_t)-1) == -1)
		log_msg(LOG_WARNING, "cannot give a listening socket away: %s",
		    strerror(errno));
}

/* And his own group. */
static int
listen_user(const struct config *cfg, uid_t *uid, gid_t *gid, struct err *err)
{
	const struct passwd *pw = getpwnam(cfg->server.user);

	if (pw == NULL)
		return err_set(err, "no such user: %s", cfg->server.user);
	*uid = pw->pw_uid;
	*gid = pw->pw_gid;
	return 0;
}

/* As it is, if none is named. */
static int
listen_group(const struct config *cfg, gid_t *gid, struct err *err)
{
	const struct group *gr;

	if (cfg->server.group[0] == '\0')
		return 0;
	gr = getgrnam(cfg->server.group);
	if (gr == NULL)
		return err_set(err, "no such group: %s", cfg->server.group);
	*gid = gr->gr_gid;
	return 0;
}

void
listen_check_user(const struct config *cfg, struct config_problems *problems,
    bool warn)
{
	struct err err;
	uid_t uid;
	gid_t gid;

	if (cfg->server.user[0] == '\0')
		return;
	if (listen_user(cfg, &uid, &gid, &err) == -1)
		(warn ? config_warning : config_problem)(cfg, problems,
		    "server.user", "%s", err.text);
	if (listen_group(cfg, &gid, &err) == -1)
		(warn ? config_warning : config_problem)(cfg, problems,
		    "server.group", "%s", err.text);
}

int
listen_drop_privileges(const struct config *cfg, struct err *err)
{
	if (geteuid() == 0 && cfg->server.user[0] != '\0' &&
	    listen_become(cfg, err) == -1)
		return -1;
	return listen_seal(err);
}

/* A process that was not started as root keeps its capability, because a reload
 * may have to bind a port below 1024. */
static int
listen_become(const struct config *cfg, struct err *err)
{
	struct err why;
	uid_t uid = 0;
	gid_t gid = 0;

	if (listen_user(cfg, &uid, &gid, &why) == -1)
		return err_set(err, "server.user: %s", why.text);
	if (listen_group(cfg, &gid, &why) == -1)
		return err_set(err, "server.group: %s", why.text);
	log_sink_give(uid, gid);
	if (uid != 0 && listen_drop_bounds(err) == -1)
		return -1;
	if (initgroups(cfg->server.user, gid) == -1 || setgid(gid) == -1 ||
	    setuid(uid) == -1)
		return err_set(err, "cannot become user %s: %s",
		    cfg->server.user, strerror(errno));
	if (uid == 0)
		return 0; /* as asked for; the log warns of it */
	if (listen_drop_capabilities(err) == -1)
		return -1;
	if (setuid(0) == 0)
		return err_set(err, "could become root again");
	return 0;
}

/* Empties the bounding set, so that no program executed by an attacker can
 * regain a capability. Root without CAP_SETPCAP, as in a container, may not do
 * this. */
static int
listen_drop_bounds(struct err *err)
{
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != -1;
	     cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == -1 &&
		    errno != EPERM)
			return err_set(err, "cannot limit the capabilities: %s",
			    strerror(errno));
	return 0;
}

/* Also drops the capabilities that survive the change of user: inherited ones,
 * and all of them if the parent asked the kernel to keep them. Without
 * inheritable capabilities there are no ambient ones. */
static int
listen_drop_capabilities(struct err *err)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

	if (syscall(SYS_capset, &head, none) == -1)
		return err_set(err, "cannot give up the capabilities: %s",
		    strerror(errno));
	return 0;
}

/* Forbids core dumps and tracing, because memory contains passwords. Call after
 * the change of user, which would reset this. */
static int
listen_seal(struct err *err)
{
	struct rlimit none = {0, 0};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
		return err_set(err, "cannot rule out new privileges: %s",
		    strerror(errno));
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == -1)
		return err_set(err, "cannot rule out core dumps: %s",
		    strerror(errno));
	/* Only a second safeguard: a sandbox may refuse it. */
	if (setrlimit(RLIMIT_CORE, &none) == -1)
		log_msg(LOG_WARNING, "cannot limit core dumps: %s",
		    strerror(errno));
	return 0;
}

unsigned long
listen_raise_limits(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == -1)
		return 0;
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	return rl.rlim_cur;
}
