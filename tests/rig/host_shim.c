/* What a host can do to a process, switched on and off from outside while it runs.

   Preloaded into the service. Each switch is a 64-bit word of a mapped file, so that a test's
   change is seen at once by every process that has it, and each has a counter beside it that tells
   how often it struck. Without a file nothing changes. Order of words: see host_shim.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { CLOCK_OFFSET_NS, NO_NAMES, NO_PROCESSES, NO_THREADS, NO_SPACE, SWITCHES };
#define NS_PER_S 1000000000LL

static volatile int64_t *words;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("HOST_SHIM_FILE");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *found = mmap(NULL, 2 * SWITCHES * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED,
                       descriptor, 0);
    close(descriptor);
    if (found != MAP_FAILED)
        words = found;
}

static int64_t struck(int which)
{
    int64_t value = words ? words[which] : 0;
    if (value)
        __atomic_add_fetch((int64_t *)&words[SWITCHES + which], 1, __ATOMIC_RELAXED);
    return value;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *moment)
{
    static __typeof__(&clock_gettime) real;
    if (!real)
        real = REAL(clock_gettime);
    int failed = real(clock, moment);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    int64_t shifted = moment->tv_sec * NS_PER_S + moment->tv_nsec + struck(CLOCK_OFFSET_NS);
    moment->tv_sec = shifted / NS_PER_S;
    moment->tv_nsec = shifted % NS_PER_S;
    return 0;
}

int gettimeofday(struct timeval *moment, void *zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    moment->tv_sec = now.tv_sec;
    moment->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    /* Numeric addresses need no name server. */
    if (node && !strspn(node, "0123456789") && struck(NO_NAMES))
        return EAI_AGAIN;
    /* The name that tests use is everybody's name for this machine, once names work. */
    if (node && !strcmp(node, "store.test"))
        node = "127.0.0.1";
    return REAL(getaddrinfo)(node, service, hints, found);
}

pid_t fork(void)
{
    if (struck(NO_PROCESSES)) {
        errno = EAGAIN;
        return -1;
    }
    return REAL(fork)();
}

pid_t vfork(void)
{
    /* A wrapper around vfork would return twice through one frame; fork does the same, slower. */
    return fork();
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *argument)
{
    if (struck(NO_THREADS))
        return EAGAIN;
    return REAL(pthread_create)(thread, attributes, run, argument);
}

int posix_fallocate(int descriptor, off_t offset, off_t length)
{
    if (struck(NO_SPACE))
        return ENOSPC;
    return REAL(posix_fallocate)(descriptor, offset, length);
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t length)
{
    if (struck(NO_SPACE))
        return ENOSPC;
    return REAL(posix_fallocate64)(descriptor, offset, length);
}

int mkdir(const char *path, mode_t mode)
{
    if (!strncmp(path, "/dev/shm/", 9) && struck(NO_SPACE)) {
        errno = ENOSPC;
        return -1;
    }
    return REAL(mkdir)(path, mode);
}
