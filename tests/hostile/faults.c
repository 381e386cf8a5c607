/* Preloaded into a driver: counts the file system calls below one folder, and has one of them fail or be the last.
 *
 *     cc -shared -fPIC -O1 -o faults.so faults.c -ldl
 *     LD_PRELOAD=./faults.so python driver.py        the driver calls arm() through ctypes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096];
static long *steps; /* shared with forked children */
static long chosen;
static int code;  /* errno of the chosen call; -1: be killed before it */
static int every; /* whether all calls from the chosen one on fail */
static int halves; /* whether writes come up short */

/* Count what is below `where` from now on; call `number` (from 1; 0: none) fails with `error`. */
void arm(const char *where, long number, int error, int for_good, int short_writes) {
    if (!steps) steps = mmap(NULL, sizeof *steps, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(folder, sizeof folder, "%s", where);
    *steps = 0;
    chosen = number, code = error, every = for_good, halves = short_writes;
}

long counted(void) { return steps ? *steps : 0; }

static int below(const char *path) { return !strncmp(path, folder, strlen(folder)); }

static int mine_fd(int fd) {
    char name[64], path[4096];
    int before = errno;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = folder[0] ? readlink(name, path, sizeof path - 1) : -1;
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

static int mine(int fd, const char *path) {
    if (!folder[0] || !path) return 0;
    if (path[0] == '/') return below(path);
    char here[4096];
    if (fd == AT_FDCWD) return getcwd(here, sizeof here) && below(here);
    return mine_fd(fd);
}

/* Whether this call fails. */
static int step(int counts) {
    if (!counts || !folder[0]) return 0;
    long number = __atomic_add_fetch(steps, 1, __ATOMIC_SEQ_CST);
    if (!chosen || (every ? number < chosen : number != chosen)) return 0;
    if (code < 0) kill(getpid(), SIGKILL);
    errno = code;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OPEN(name)                                                                        \
    int name(const char *path, int flags, ...) {                                          \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        REAL(name);                                                                       \
        return step(mine(AT_FDCWD, path)) ? -1 : real(path, flags, mode);                 \
    }
#define OPENAT(name)                                                                      \
    int name(int fd, const char *path, int flags, ...) {                                  \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        REAL(name);                                                                       \
        return step(mine(fd, path)) ? -1 : real(fd, path, flags, mode);                   \
    }
#define CALL(name, parameters, arguments, where) \
    int name parameters { REAL(name); return step(where) ? -1 : real arguments; }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CALL(mkdir, (const char *p, mode_t m), (p, m), mine(AT_FDCWD, p))
CALL(mkdirat, (int d, const char *p, mode_t m), (d, p, m), mine(d, p))
CALL(rmdir, (const char *p), (p), mine(AT_FDCWD, p))
CALL(unlink, (const char *p), (p), mine(AT_FDCWD, p))
CALL(unlinkat, (int d, const char *p, int f), (d, p, f), mine(d, p))
CALL(rename, (const char *a, const char *b), (a, b), mine(AT_FDCWD, b))
CALL(renameat, (int c, const char *a, int d, const char *b), (c, a, d, b), mine(d, b))
CALL(link, (const char *a, const char *b), (a, b), mine(AT_FDCWD, b))
CALL(linkat, (int c, const char *a, int d, const char *b, int f), (c, a, d, b, f), mine(d, b))
CALL(fsync, (int f), (f), mine_fd(f))
CALL(fdatasync, (int f), (f), mine_fd(f))
CALL(fchmod, (int f, mode_t m), (f, m), mine_fd(f))
CALL(ftruncate64, (int f, off64_t n), (f, n), mine_fd(f))
CALL(utimensat, (int d, const char *p, const struct timespec t[2], int f), (d, p, t, f), mine(d, p))
CALL(futimens, (int f, const struct timespec t[2]), (f, t), mine_fd(f))

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    int counts = mine_fd(fd);
    if (step(counts)) return -1;
    return real(fd, data, counts && halves && size > 1 ? size / 2 : size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    ssize_t (*real)(int, int, off64_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
    int counts = mine_fd(out);
    if (step(counts)) return -1;
    return real(out, in, offset, counts && halves && size > 1 ? size / 2 : size);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    int counts = mine_fd(out);
    if (step(counts)) return -1;
    return real(in, from, out, to, counts && halves && size > 1 ? size / 2 : size, flags);
}

ssize_t read(int fd, void *data, size_t size) {
    REAL(read);
    return step(mine_fd(fd)) ? -1 : real(fd, data, size);
}
