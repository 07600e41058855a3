/* What programs in a guest do all day, with a directory that holds "names/" and "data": one kind of work for so long.
 * Prints one line of JSON. Caches of the guest are gone around, for it is the device that is measured. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 4096, LARGE = 1 << 20, MOST = 1 << 20 };

static long names, size;
static int data;
static char *buffer;
static uint32_t times[MOST]; /* of each operation, in nanoseconds */

static void check(int right, const char *what) {
    if (right)
        return;
    fprintf(stderr, "work: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static const char *name(long turn) {
    static char path[64];
    snprintf(path, sizeof path, "names/%03ld", turn % names);
    return path;
}

static off_t place(long turn, long part) {
    return turn * 7919 % (size / part) * part;
}

static void look(long turn) {
    struct statx found;
    check(!statx(AT_FDCWD, name(turn), AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found), "statx");
}

static void open_close(long turn) {
    int file = open(name(turn), O_RDONLY);
    check(file >= 0 && !close(file), "open");
}

static void list(long turn) {
    long found = 0;
    DIR *directory = opendir("names");
    (void)turn;
    check(directory != NULL, "opendir");
    while (readdir(directory))
        found++;
    check(found == names + 2 && !closedir(directory), "a listing that lacks names");
}

static void create(long turn) {
    int file = open("made", O_CREAT | O_EXCL | O_WRONLY, 0600);
    (void)turn;
    check(file >= 0 && write(file, "x", 1) == 1 && !close(file) && !unlink("made"), "create");
}

static void read_small(long turn) {
    check(pread(data, buffer, SMALL, place(turn, SMALL)) == SMALL, "read");
}

static void write_small(long turn) {
    check(pwrite(data, buffer, SMALL, place(turn, SMALL)) == SMALL, "write");
}

static void read_large(long turn) {
    check(pread(data, buffer, LARGE, place(turn, LARGE)) == LARGE, "read");
}

static void write_large(long turn) {
    check(pwrite(data, buffer, LARGE, place(turn, LARGE)) == LARGE, "write");
}

static void commit(long turn) {
    write_small(turn);
    check(!fdatasync(data), "fdatasync");
}

static const struct {
    const char *name;
    void (*once)(long turn);
} WORKS[] = {
    {"stat", look},           {"openclose", open_close},  {"list", list},         {"create", create},
    {"read4k", read_small},   {"write4k", write_small},   {"read1m", read_large}, {"write1m", write_large},
    {"commit", commit},
};

static int compare(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static void run(void (*once)(long), double seconds) {
    long turns = 0;
    once(0); /* what the guest has to learn first */
    uint64_t began = now(), last = began, end = began + (uint64_t)(seconds * 1e9);
    while (turns < MOST && last < end) {
        once(++turns);
        uint64_t time = now();
        times[turns - 1] = time - last > UINT32_MAX ? UINT32_MAX : (uint32_t)(time - last);
        last = time;
    }
    qsort(times, (size_t)turns, sizeof *times, compare);
    printf("{\"operations\": %ld, \"seconds\": %.6f, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", turns,
           (double)(last - began) / 1e9, times[turns / 2] / 1e3, times[turns * 99 / 100] / 1e3);
}

int main(int count, char **words) {
    if (count != 5 || chdir(words[1])) {
        fprintf(stderr, "usage: work DIRECTORY NAMES WORK SECONDS\n");
        return 2;
    }
    names = atol(words[2]);
    data = open("data", O_RDWR | O_DIRECT);
    size = lseek(data, 0, SEEK_END);
    check(size >= LARGE && !posix_memalign((void **)&buffer, SMALL, LARGE), "the file that is read and written");
    memset(buffer, 'x', LARGE);
    for (size_t at = 0; at < sizeof WORKS / sizeof *WORKS; at++)
        if (!strcmp(WORKS[at].name, words[3])) {
            run(WORKS[at].once, atof(words[4]));
            return 0;
        }
    fprintf(stderr, "work: there is no work %s\n", words[3]);
    return 2;
}
