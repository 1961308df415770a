/* Counts what a process changes below one folder, and kills it at the n-th change.

   Preloaded (LD_PRELOAD), it stands before the functions of the C library that change files. It
   does nothing until `switch_arm` is called. At the n-th change a write writes half of its bytes,
   any other change does not happen, and then the process kills itself as a power cut would: without
   a chance to tidy up. Writes into mapped memory, and those of programs that call the kernel
   directly, are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static long kill_at;
static atomic_long changes;

/* Begin to count changes below a folder; 0 kills never. */
void switch_arm(const char *folder, long at)
{
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    kill_at = at;
    atomic_store(&changes, 0);
}

/* End it. */
void switch_disarm(void) { root_length = 0; }

/* Changes since it was armed. */
long switch_count(void) { return atomic_load(&changes); }

static int is_below(const char *path) { return strncmp(path, root, root_length) == 0; }

static int path_of(int descriptor, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return 1;
}

/* Whether a name, relative to an open folder or to the working one, lies below ours. */
static int counts_at(int folder, const char *name)
{
    char path[PATH_MAX], whole[2 * PATH_MAX];
    if (!root_length || !name)
        return 0;
    if (name[0] == '/')
        return is_below(name);
    if (folder == AT_FDCWD) {
        if (!getcwd(path, sizeof path))
            return 0;
    } else if (!path_of(folder, path)) {
        return 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", path, name);
    return is_below(whole);
}

static int counts(int descriptor)
{
    char path[PATH_MAX];
    return root_length && path_of(descriptor, path) && is_below(path);
}

/* Count a change; whether it is the last one. */
static int is_last(void) { return atomic_fetch_add(&changes, 1) + 1 == kill_at; }

static void end(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static void count_other(int is_counted)
{
    if (is_counted && is_last())
        end();
}

#define REAL(result, name, ...)                                                                    \
    static result (*real)(__VA_ARGS__);                                                            \
    if (!real)                                                                                     \
        real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *bytes, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (counts(fd) && is_last()) {
        real(fd, bytes, size / 2);
        end();
    }
    return real(fd, bytes, size);
}

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *bytes, size_t size, off_t offset)                             \
    {                                                                                              \
        REAL(ssize_t, #name, int, const void *, size_t, off_t);                                    \
        if (counts(fd) && is_last()) {                                                             \
            real(fd, bytes, size / 2, offset);                                                     \
            end();                                                                                 \
        }                                                                                          \
        return real(fd, bytes, size, offset);                                                      \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

/* Half of the parts, and half of one that stands alone. */
static void half_of_parts(int fd, const struct iovec *parts, int number)
{
    struct iovec half = {parts[0].iov_base, parts[0].iov_len / 2};
    if (number == 1)
        write(fd, half.iov_base, half.iov_len);
    for (int index = 0; index < number / 2; index++)
        write(fd, parts[index].iov_base, parts[index].iov_len);
}

ssize_t writev(int fd, const struct iovec *parts, int number)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (counts(fd) && number > 0 && is_last()) {
        half_of_parts(fd, parts, number);
        end();
    }
    return real(fd, parts, number);
}

#define PWRITEV(name)                                                                              \
    ssize_t name(int fd, const struct iovec *parts, int number, off_t offset)                      \
    {                                                                                              \
        REAL(ssize_t, #name, int, const struct iovec *, int, off_t);                               \
        count_other(counts(fd));                                                                   \
        return real(fd, parts, number, offset);                                                    \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags)
{
    REAL(ssize_t, "copy_file_range", int, off_t *, int, off_t *, size_t, unsigned);
    if (counts(out) && is_last()) {
        real(in, from, out, to, size / 2, flags);
        end();
    }
    return real(in, from, out, to, size, flags);
}

/* Asked for far more than a file holds, as Python does: half of what is there is half of that. */
static size_t half_of_file(int in, size_t size)
{
    struct stat status;
    if (fstat(in, &status) == 0 && (size_t)status.st_size < size)
        size = (size_t)status.st_size;
    return size / 2;
}

#define SENDFILE(name)                                                                             \
    ssize_t name(int out, int in, off_t *offset, size_t size)                                      \
    {                                                                                              \
        REAL(ssize_t, #name, int, int, off_t *, size_t);                                           \
        if (counts(out) && is_last()) {                                                            \
            real(out, in, offset, half_of_file(in, size));                                         \
            end();                                                                                 \
        }                                                                                          \
        return real(out, in, offset, size);                                                        \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)

#define OF_DESCRIPTOR(name)                                                                        \
    int name(int fd)                                                                               \
    {                                                                                              \
        REAL(int, #name, int);                                                                     \
        count_other(counts(fd));                                                                   \
        return real(fd);                                                                           \
    }
OF_DESCRIPTOR(fsync)
OF_DESCRIPTOR(fdatasync)

#define FTRUNCATE(name)                                                                            \
    int name(int fd, off_t size)                                                                   \
    {                                                                                              \
        REAL(int, #name, int, off_t);                                                              \
        count_other(counts(fd));                                                                   \
        return real(fd, size);                                                                     \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define OF_PATH(name)                                                                              \
    int name(const char *path)                                                                     \
    {                                                                                              \
        REAL(int, #name, const char *);                                                            \
        count_other(counts_at(AT_FDCWD, path));                                                    \
        return real(path);                                                                         \
    }
OF_PATH(unlink)
OF_PATH(rmdir)

int unlinkat(int folder, const char *name, int flags)
{
    REAL(int, "unlinkat", int, const char *, int);
    count_other(counts_at(folder, name));
    return real(folder, name, flags);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, "mkdir", const char *, mode_t);
    count_other(counts_at(AT_FDCWD, path));
    return real(path, mode);
}

int mkdirat(int folder, const char *name, mode_t mode)
{
    REAL(int, "mkdirat", int, const char *, mode_t);
    count_other(counts_at(folder, name));
    return real(folder, name, mode);
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    count_other(counts_at(AT_FDCWD, to));
    return real(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    REAL(int, "renameat", int, const char *, int, const char *);
    count_other(counts_at(to_folder, to));
    return real(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    count_other(counts_at(to_folder, to));
    return real(from_folder, from, to_folder, to, flags);
}

/* Opening changes something where it makes or empties a file. */
static int changes_files(int flags) { return flags & (O_CREAT | O_TRUNC); }

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        REAL(int, #name, const char *, int, ...);                                                  \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = mode_of(flags, rest);                                                        \
        va_end(rest);                                                                              \
        count_other(changes_files(flags) && counts_at(AT_FDCWD, path));                            \
        return real(path, flags, mode);                                                            \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int folder, const char *path, int flags, ...)                                         \
    {                                                                                              \
        REAL(int, #name, int, const char *, int, ...);                                             \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = mode_of(flags, rest);                                                        \
        va_end(rest);                                                                              \
        count_other(changes_files(flags) && counts_at(folder, path));                              \
        return real(folder, path, flags, mode);                                                    \
    }
OPENAT(openat)
OPENAT(openat64)
