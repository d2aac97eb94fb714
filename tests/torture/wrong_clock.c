/* A wall clock that is wrong by REGMIX_CLOCK_OFFSET seconds, for one process and its children (LD_PRELOAD). The clock that counts up
   is right. Waits until a moment of the wall clock are translated, as they would be on a machine whose clock is wrong. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    const char *text = getenv("REGMIX_CLOCK_OFFSET");
    return text ? atol(text) : 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec right;
    clock_gettime(CLOCK_REALTIME, &right);
    now->tv_sec = right.tv_sec;
    now->tv_usec = right.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

static struct timespec right(const struct timespec *wrong) {
    struct timespec moment = *wrong;
    moment.tv_sec -= offset();
    return moment;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec moment = right(until);
    return REAL(sem_timedwait)(semaphore, &moment);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec moment = right(until);
    return REAL(pthread_mutex_timedlock)(mutex, &moment);
}
