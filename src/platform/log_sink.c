/* log_sink.c: lines on their way out.
 *
 * A log can stop at any time: a pipe or a FIFO that nobody reads, a /dev/log
 * whose daemon hangs, a disk that does not answer. write(2) then blocks, and
 * O_NONBLOCK cannot prevent it: it does nothing for files, and on stderr it
 * belongs to everybody who shares the open file. So a thread of its own does
 * the writing, and only that thread waits.
 *
 * Lines are copied into the sink's queue; the writer swaps the queue for an
 * empty one and writes what was in it, whole lines of at most PIPE_BUF octets
 * at a time, which pipes do not mix with those of other processes. A sink that
 * is replaced while its writer hangs keeps its thread until it is let go; the
 * new one has its own. */

#include "platform/log_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "platform/log.h"

#define LOG_SINK_QUEUE (4 << 20) /* octets of lines that may wait */
#define LOG_SINK_FLUSH_MS 1000
#define LOG_SINK_NAP_MS 5 /* lines of so long leave together */
#define LOG_SINK_POLL_MS 100 /* how soon a stuck writer sees the end */

enum log_sink_kind { LOG_SINK_STDERR, LOG_SINK_FILE, LOG_SINK_SYSLOG };

struct log_sink {
	enum log_sink_kind kind;
	char *path; /* of LOG_SINK_FILE */
	int fd;
	dev_t dev; /* which file that is */
	ino_t ino;
	bool created; /* by log_sink_open() */
	bool same; /* stands for the sink in use */

	/* Under log_sink_lock. */
	bool threaded, waiting, busy, reopen, urgent;
	atomic_bool closing;
	pthread_cond_t wake;
	char *fill; /* the queue */
	size_t filled;
	uint64_t missed; /* lines that found it full */

	/* The writer's own. */
	char *drain; /* the other queue */
	uint64_t owed; /* lost lines that the log has not told yet */
	bool torn; /* the file ends in the middle of a line */
};

static struct log_sink log_sink_first = {.fd = STDERR_FILENO};

static pthread_mutex_t log_sink_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t log_sink_idle = PTHREAD_COND_INITIALIZER;
static struct log_sink *log_sink_now = &log_sink_first;
static atomic_bool log_sink_is_syslog;
static bool log_sink_threads; /* log_sink_start() was called */
static atomic_uint_least64_t log_sink_total_lost;

static enum log_sink_kind log_sink_kind(const char *target);
static bool log_sink_is_now(enum log_sink_kind kind, const char *target);
static struct log_sink *log_sink_new(enum log_sink_kind kind,
    const char *target);
static int log_sink_open_path(const char *path, int more);
static int log_sink_cannot_open(const char *path, struct err *err);
static bool log_sink_open_file(struct log_sink *s, struct err *err);
static bool log_sink_can_make(const char *path);
static void log_sink_identify(struct log_sink *s);
static void log_sink_greet(const struct log_sink *s);
static void log_sink_destroy(struct log_sink *s);
static void log_sink_close(struct log_sink *s);
static bool log_sink_thread(struct log_sink *s, struct err *err);
static void *log_sink_main(void *arg);
static bool log_sink_wait(struct log_sink *s);
static void log_sink_nap(struct log_sink *s);
static struct timespec log_sink_in(long ms);
static void log_sink_round(struct log_sink *s);
static void log_sink_hurry(struct log_sink *s);
static void log_sink_reopen_now(struct log_sink *s);
static void log_sink_write(struct log_sink *s, const char *lines, size_t len);
static size_t log_sink_chunk(const struct log_sink *s, const char *lines,
    size_t len);
static size_t log_sink_out(struct log_sink *s, const char *text, size_t len);
static bool log_sink_room(struct log_sink *s);
static bool log_sink_tell(struct log_sink *s);
static bool log_sink_line(struct log_sink *s, const struct log_line *l);
static void log_sink_lose(struct log_sink *s, uint64_t n);
static uint64_t log_sink_count(const char *lines, size_t len);

static enum log_sink_kind
log_sink_kind(const char *target)
{
	return strcmp(target, "stderr") == 0 ? LOG_SINK_STDERR
	    : strcmp(target, "syslog") == 0  ? LOG_SINK_SYSLOG
					     : LOG_SINK_FILE;
}

/* Never waits for the other side. A FIFO that nobody reads yet is opened for
 * reading as well, which Linux allows. */
static int
log_sink_open_path(const char *path, int more)
{
	const int flags = O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | more;
	int fd = open(path, O_WRONLY | flags, 0640);

	if (fd == -1 && errno == ENXIO)
		fd = open(path, O_RDWR | flags, 0640);
	return fd;
}

static int
log_sink_cannot_open(const char *path, struct err *err)
{
	return err_set(err, "cannot open the log file %s: %s", path,
	    strerror(errno));
}

static bool
log_sink_open_file(struct log_sink *s, struct err *err)
{
	int fd = log_sink_open_path(s->path, O_CREAT | O_EXCL);

	s->created = fd != -1;
	if (fd == -1 && errno == EEXIST)
		fd = log_sink_open_path(s->path, O_CREAT);
	if (fd == -1) {
		log_sink_cannot_open(s->path, err);
		return false;
	}
	s->fd = fd;
	log_sink_identify(s);
	return true;
}

static void
log_sink_identify(struct log_sink *s)
{
	struct stat st = {0};

	if (fstat(s->fd, &st) == 0) {
		s->dev = st.st_dev;
		s->ino = st.st_ino;
	}
}

int
log_sink_check(const char *target, struct err *err)
{
	int fd;

	if (log_sink_kind(target) != LOG_SINK_FILE)
		return 0;
	fd = log_sink_open_path(target, 0);
	if (fd == -1 && (errno != ENOENT || !log_sink_can_make(target)))
		return log_sink_cannot_open(target, err);
	if (fd != -1)
		close(fd);
	return 0;
}

/* Returns false if the file cannot be made; errno says why. */
static bool
log_sink_can_make(const char *path)
{
	size_t dir = (size_t)(strrchr(path, '/') - path) + 1;
	char *copy;
	bool ok;

	if (path[dir] == '\0') {
		errno = EISDIR;
		return false;
	}
	copy = strndup(path, dir);
	ok = copy != NULL &&
	    faccessat(AT_FDCWD, copy, W_OK | X_OK, AT_EACCESS) == 0;
	free(copy);
	return ok;
}

/* Standard output of a daemon that has changed its user can be opened only
 * once, and needs no second time. */
static bool
log_sink_is_now(enum log_sink_kind kind, const char *target)
{
	const struct log_sink *now;
	struct stat st;
	bool same;

	pthread_mutex_lock(&log_sink_lock);
	now = log_sink_now;
	same = now->kind == kind &&
	    (kind != LOG_SINK_FILE ||
		(strcmp(now->path, target) == 0 && stat(target, &st) == 0 &&
		    st.st_dev == now->dev && st.st_ino == now->ino));
	pthread_mutex_unlock(&log_sink_lock);
	return same;
}

static struct log_sink *
log_sink_new(enum log_sink_kind kind, const char *target)
{
	struct log_sink *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->kind = kind;
	s->fd = kind == LOG_SINK_STDERR ? STDERR_FILENO : -1;
	if (kind != LOG_SINK_FILE)
		return s;
	s->path = strdup(target);
	if (s->path != NULL)
		return s;
	free(s);
	return NULL;
}

struct log_sink *
log_sink_open(const char *target, struct err *err)
{
	enum log_sink_kind kind = log_sink_kind(target);
	struct log_sink *s = log_sink_new(kind, target);

	if (s == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	s->same = log_sink_is_now(kind, target);
	if (s->same)
		return s;
	if (kind == LOG_SINK_FILE && !log_sink_open_file(s, err)) {
		log_sink_destroy(s);
		return NULL;
	}
	if (log_sink_threads && !log_sink_thread(s, err))
		log_sink_free(&s);
	return s;
}

/* syslog(3) keeps a lock while it waits: with threads only they call it. */
static void
log_sink_greet(const struct log_sink *s)
{
	if (s->kind == LOG_SINK_SYSLOG)
		openlog("mailferry", LOG_PID, LOG_MAIL);
}

void
log_sink_use(struct log_sink **sp)
{
	struct log_sink *s = *sp, *old;

	*sp = NULL;
	if (s->same) {
		log_sink_destroy(s);
		return;
	}
	pthread_mutex_lock(&log_sink_lock);
	old = log_sink_now;
	log_sink_now = s;
	log_sink_is_syslog = s->kind == LOG_SINK_SYSLOG;
	if (!s->threaded)
		log_sink_greet(s);
	log_sink_close(old);
	pthread_mutex_unlock(&log_sink_lock);
}

void
log_sink_free(struct log_sink **sp)
{
	struct log_sink *s = *sp;

	*sp = NULL;
	if (s == NULL)
		return;
	if (s->created)
		unlink(s->path);
	pthread_mutex_lock(&log_sink_lock);
	log_sink_close(s);
	pthread_mutex_unlock(&log_sink_lock);
}

/* With the lock. Its thread frees it, if it has one. */
static void
log_sink_close(struct log_sink *s)
{
	s->closing = true;
	if (s->threaded)
		pthread_cond_signal(&s->wake);
	else
		log_sink_destroy(s);
}

static void
log_sink_destroy(struct log_sink *s)
{
	if (s->kind == LOG_SINK_FILE && s->fd != -1)
		close(s->fd);
	free(s->path);
	free(s->fill);
	free(s->drain);
	if (s != &log_sink_first)
		free(s);
}

void
log_sink_give(uid_t uid, gid_t gid)
{
	const struct log_sink *s = log_sink_now;

	if (s->created && fchown(s->fd, uid, gid) == -1)
		log_msg(LOG_WARNING, "cannot change the owner of the log: %s",
		    strerror(errno));
}

int
log_sink_start(struct err *err)
{
	log_sink_threads = true;
	return log_sink_thread(log_sink_now, err) ? 0 : -1;
}

static bool
log_sink_thread(struct log_sink *s, struct err *err)
{
	pthread_t thread;
	sigset_t all, old;
	int error = ENOMEM;

	s->fill = malloc(LOG_SINK_QUEUE);
	s->drain = malloc(LOG_SINK_QUEUE);
	pthread_cond_init(&s->wake, NULL);
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	s->threaded = true;
	if (s->fill != NULL && s->drain != NULL)
		error = pthread_create(&thread, NULL, log_sink_main, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (error != 0) {
		s->threaded = false;
		err_set(err, "cannot start the thread of the log: %s",
		    strerror(error));
		return false;
	}
	pthread_detach(thread);
	return true;
}

static void *
log_sink_main(void *arg)
{
	struct log_sink *s = arg;

	pthread_setname_np(pthread_self(), "log");
	log_sink_greet(s);
	pthread_mutex_lock(&log_sink_lock);
	while (log_sink_wait(s)) {
		log_sink_round(s);
		log_sink_nap(s);
	}
	pthread_mutex_unlock(&log_sink_lock);
	pthread_cond_destroy(&s->wake);
	log_sink_destroy(s);
	return NULL;
}

/* With the lock. Returns false if the sink is closed and all is written. */
static bool
log_sink_wait(struct log_sink *s)
{
	while (s->filled == 0 && !s->reopen && !s->closing) {
		s->waiting = true;
		pthread_cond_wait(&s->wake, &log_sink_lock);
		s->waiting = false;
	}
	return s->filled > 0 || s->reopen;
}

/* With the lock. To wake a thread for each line would cost more than to write
 * the line. Warnings are not kept: a crash may be next. */
static void
log_sink_nap(struct log_sink *s)
{
	struct timespec end = log_sink_in(LOG_SINK_NAP_MS);

	while (!s->urgent && !s->reopen && !s->closing)
		if (pthread_cond_clockwait(&s->wake, &log_sink_lock,
			CLOCK_MONOTONIC, &end) == ETIMEDOUT)
			break;
}

static struct timespec
log_sink_in(long ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += (ts.tv_nsec / 1000000 + ms) / 1000;
	ts.tv_nsec =
	    (ts.tv_nsec / 1000000 + ms) % 1000 * 1000000 + ts.tv_nsec % 1000000;
	return ts;
}

/* With the lock, which it gives up while it writes. */
static void
log_sink_round(struct log_sink *s)
{
	char *lines = s->fill;
	size_t len = s->filled;
	uint64_t missed = s->missed;
	bool reopen = s->reopen;

	s->fill = s->drain;
	s->drain = lines;
	s->filled = 0;
	s->missed = 0;
	s->reopen = s->urgent = false;
	s->busy = true;
	pthread_mutex_unlock(&log_sink_lock);
	log_sink_write(s, lines, len);
	s->owed += missed;
	log_sink_tell(s);
	if (reopen)
		log_sink_reopen_now(s);
	pthread_mutex_lock(&log_sink_lock);
	s->busy = false;
	pthread_cond_broadcast(&log_sink_idle);
}

void
log_sink_reopen(void)
{
	struct log_sink *s;
	bool direct;

	pthread_mutex_lock(&log_sink_lock);
	s = log_sink_now;
	direct = s->kind == LOG_SINK_FILE && !s->threaded;
	if (s->kind == LOG_SINK_FILE && s->threaded) {
		s->reopen = true;
		pthread_cond_signal(&s->wake);
	}
	pthread_mutex_unlock(&log_sink_lock);
	if (direct)
		log_sink_reopen_now(s);
}

/* On the writer's thread: also an open may hang. */
static void
log_sink_reopen_now(struct log_sink *s)
{
	struct log_sink fresh = {.kind = s->kind, .path = s->path, .fd = -1};
	struct stat st;
	struct err err;
	int old = s->fd;

	if (stat(s->path, &st) == 0 && st.st_dev == s->dev &&
	    st.st_ino == s->ino)
		return;
	if (!log_sink_open_file(&fresh, &err)) {
		log_msg(LOG_ERR, "%s", err.text);
		return;
	}
	pthread_mutex_lock(&log_sink_lock);
	s->fd = fresh.fd;
	s->dev = fresh.dev;
	s->ino = fresh.ino;
	s->torn = false;
	pthread_mutex_unlock(&log_sink_lock);
	close(old);
}

/* With the lock. */
static void
log_sink_hurry(struct log_sink *s)
{
	s->urgent = true;
	pthread_cond_signal(&s->wake);
}

void
log_sink_put(const struct log_line *l)
{
	struct log_sink *s;

	pthread_mutex_lock(&log_sink_lock);
	s = log_sink_now;
	if (!s->threaded) {
		if (!log_sink_tell(s) || !log_sink_line(s, l))
			log_sink_lose(s, 1);
	} else if (s->missed > 0 || s->filled + 1 + l->len > LOG_SINK_QUEUE) {
		s->missed++;
		atomic_fetch_add(&log_sink_total_lost, 1);
	} else {
		if (s->kind == LOG_SINK_SYSLOG)
			s->fill[s->filled++] = (char)('0' + l->level);
		memcpy(s->fill + s->filled, l->buf, l->len);
		s->filled += l->len;
		if (l->level <= LOG_WARNING || s->filled > LOG_SINK_QUEUE / 2)
			log_sink_hurry(s);
		else if (s->waiting)
			pthread_cond_signal(&s->wake);
	}
	pthread_mutex_unlock(&log_sink_lock);
}

/* Writes whole lines, or loses them and remembers how many. */
static void
log_sink_write(struct log_sink *s, const char *lines, size_t len)
{
	while (len > 0) {
		size_t n = log_sink_chunk(s, lines, len), taken = 0;

		if (log_sink_tell(s))
			taken = log_sink_out(s, lines, n);
		log_sink_lose(s, log_sink_count(lines + taken, n - taken));
		lines += n;
		len -= n;
	}
}

/* As many lines as one write(2) may take; one for syslog. */
static size_t
log_sink_chunk(const struct log_sink *s, const char *lines, size_t len)
{
	const char *first = memchr(lines, '\n', len), *last = NULL;

	if (s->kind != LOG_SINK_SYSLOG && len <= PIPE_BUF)
		return len;
	if (s->kind != LOG_SINK_SYSLOG)
		last = memrchr(lines, '\n', PIPE_BUF);
	return (size_t)((last != NULL ? last : first) - lines) + 1;
}

/* Returns how many octets were taken. */
static size_t
log_sink_out(struct log_sink *s, const char *text, size_t len)
{
	size_t done = 0;

	if (s->kind == LOG_SINK_SYSLOG) {
		/* The level, the line, its newline. */
		syslog(LOG_MAIL | (text[0] - '0'), "%.*s", (int)len - 2,
		    text + 1);
		return len;
	}
	while (done < len) {
		ssize_t n = write(s->fd, text + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n == -1 && errno == EINTR)
			continue;
		else if (n != -1 || errno != EAGAIN || !log_sink_room(s))
			break;
	}
	if (done > 0)
		s->torn = text[done - 1] != '\n';
	return done;
}

/* Waits until a sink that would block takes something again. Returns false if
 * it is closed first, or must not be waited for. */
static bool
log_sink_room(struct log_sink *s)
{
	struct pollfd fd = {.fd = s->fd, .events = POLLOUT};

	if (!s->threaded)
		return false;
	while (!s->closing && poll(&fd, 1, LOG_SINK_POLL_MS) == 0)
		continue;
	return !s->closing;
}

/* Ends a line that was cut, on a full disk, and says how many were lost.
 * Returns false if the sink still takes nothing. */
static bool
log_sink_tell(struct log_sink *s)
{
	struct log_line l;

	if (s->torn && log_sink_out(s, "\n", 1) == 0)
		return false;
	if (s->owed == 0)
		return true;
	log_begin(&l, LOG_WARNING, "%llu log lines were lost",
	    (unsigned long long)s->owed);
	log_finish(&l);
	if (l.level != -1 && !log_sink_line(s, &l))
		return false;
	s->owed = 0;
	return true;
}

static bool
log_sink_line(struct log_sink *s, const struct log_line *l)
{
	char text[LOG_LINE_MAX + 1];
	size_t level = s->kind == LOG_SINK_SYSLOG ? 1 : 0, len = level + l->len;

	text[0] = (char)('0' + l->level);
	memcpy(text + level, l->buf, l->len);
	return log_sink_out(s, text, len) == len;
}

static void
log_sink_lose(struct log_sink *s, uint64_t n)
{
	s->owed += n;
	atomic_fetch_add(&log_sink_total_lost, n);
}

static uint64_t
log_sink_count(const char *lines, size_t len)
{
	uint64_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += lines[i] == '\n';
	return n;
}

void
log_sink_flush(void)
{
	struct timespec end = log_sink_in(LOG_SINK_FLUSH_MS);

	pthread_mutex_lock(&log_sink_lock);
	if (log_sink_now->threaded)
		log_sink_hurry(log_sink_now);
	while (log_sink_now->filled > 0 || log_sink_now->busy)
		if (pthread_cond_clockwait(&log_sink_idle, &log_sink_lock,
			CLOCK_MONOTONIC, &end) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&log_sink_lock);
}

uint64_t
log_sink_lost(void)
{
	return atomic_load(&log_sink_total_lost);
}

bool
log_sink_stamps(void)
{
	return log_sink_is_syslog;
}
