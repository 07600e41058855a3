/* The command line, and the closed loop: as soon as an operation is over the next one begins. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workload.h"

static const struct workload *const workloads[] = {
    &stat_workload,    &lookup_workload, &negative_workload, &statfs_workload, &warm_workload,
    &cold_workload,    &readdir_workload, &open_workload,    &create_workload, &fsync_workload,
    &read_page,        &read_mib,        &write_page,        &write_mib,
};
enum { WORKLOADS = sizeof workloads / sizeof *workloads };
enum { WARM_UP = 10 }; /* before it counts, each workload runs for this part of its time */

static struct {
    const char *directory, *socket, *only;
    const struct transport *transport;
    enum kick kick;
    double seconds;
    unsigned entries, mib;
    bool plain, prepare, list;
} options = {.seconds = 1, .entries = 1000, .mib = 256};

static struct measure measure;

void count_units(uint64_t units)
{
    measure.units += units;
}

static uint64_t length(void)
{
    return (uint64_t)(options.seconds * 1e9);
}

/* Run operations until the time is over; the last ones that were begun are finished and count. */
static void lap(const struct workload *workload, unsigned depth, uint64_t until)
{
    unsigned busy = depth;
    measure_begin();
    for (unsigned lane = 0; lane < depth; lane++) {
        requests[lane].begun = now();
        workload->begin(&requests[lane]);
    }
    while (busy) {
        struct request *request = driver_take();
        if (!request) {
            driver_wait();
            continue;
        }
        if (workload->proceed(request))
            continue;
        const uint64_t time = now();
        measure_operation(&measure, time - request->begun);
        if (time < until) {
            request->begun = time;
            workload->begin(request);
        } else {
            busy--;
        }
    }
    measure_end(&measure);
}

static void run_for(const struct workload *workload, unsigned depth, uint64_t nanoseconds)
{
    memset(&measure, 0, sizeof measure);
    if (!workload->between)
        lap(workload, depth, now() + nanoseconds);
    else
        while (measure.wall < nanoseconds) {
            lap(workload, depth, 0);
            workload->between();
        }
}

static void run(const struct workload *workload, unsigned depth)
{
    workload->set_up(depth);
    run_for(workload, depth, length() / WARM_UP);
    run_for(workload, depth, length());
    const struct measure done = measure; /* taking down may count more */
    workload->tear_down();
    measure_print(&done, workload->name, depth, workload->unit);
}

static void run_plain_for(const struct plain *calls, uint64_t nanoseconds)
{
    memset(&measure, 0, sizeof measure);
    measure_begin();
    const uint64_t until = now() + nanoseconds;
    for (uint64_t time = now(); time < until;) {
        calls->operation();
        const uint64_t after = now();
        measure_operation(&measure, after - time);
        time = after;
    }
    measure_end(&measure);
}

static void run_plain(const struct plain *calls)
{
    calls->set_up();
    run_plain_for(calls, length() / WARM_UP);
    run_plain_for(calls, length());
    calls->tear_down();
    measure_print(&measure, calls->name, 1, calls->unit);
}

/* "name" stands for all its depths, "name:depth" for one. */
static bool is_wanted(const char *name, unsigned depth)
{
    char exact[64];
    if (!options.only)
        return true;
    snprintf(exact, sizeof exact, "%s:%u", name, depth);
    for (const char *word = options.only; *word; word += strspn(word, ",")) {
        const size_t size = strcspn(word, ",");
        if ((size == strlen(name) && !strncmp(word, name, size)) ||
            (size == strlen(exact) && !strncmp(word, exact, size)))
            return true;
        word += size;
    }
    return false;
}

static void run_all(void)
{
    for (unsigned index = 0; index < WORKLOADS; index++)
        for (const unsigned *depth = workloads[index]->depths; *depth; depth++)
            if (is_wanted(workloads[index]->name, *depth))
                run(workloads[index], *depth);
}

static void run_all_plain(void)
{
    measure_process(getpid());
    for (unsigned index = 0; index < plain_count; index++)
        if (is_wanted(plain_calls[index].name, 1))
            run_plain(&plain_calls[index]);
}

static void list_all(void)
{
    for (unsigned index = 0; index < WORKLOADS; index++)
        for (const unsigned *depth = workloads[index]->depths; *depth; depth++)
            printf("%s:%u\n", workloads[index]->name, *depth);
}

static noreturn void explain(int code)
{
    fputs("usage: load [OPTION...] DIRECTORY\n"
          "  --vfio-user SOCKET, --vhost-user SOCKET   the server that shares DIRECTORY\n"
          "  --plain              no server: system calls\n"
          "  --prepare            make the files of DIRECTORY, which is empty, and end\n"
          "  --kick HOW           ioeventfd, posted or reply\n"
          "  --seconds SECONDS    of each workload\n"
          "  --workloads A,B:8    only these\n"
          "  --entries N, --mib N what the directory was made with\n"
          "  --list               name the workloads and end\n",
          code ? stderr : stdout);
    exit(code);
}

static enum kick kick_called(const char *name)
{
    static const char *const names[] = {"ioeventfd", "posted", "reply"};
    for (unsigned kick = 0; kick < sizeof names / sizeof *names; kick++)
        if (!strcmp(name, names[kick]))
            return (enum kick)kick;
    fail("there are no kicks called %s", name);
}

static void read_options(int count, char **words)
{
    static const struct option known[] = {
        {"vfio-user", required_argument, NULL, 'f'}, {"vhost-user", required_argument, NULL, 'h'},
        {"plain", no_argument, NULL, 'p'},           {"prepare", no_argument, NULL, 'm'},
        {"kick", required_argument, NULL, 'k'},      {"seconds", required_argument, NULL, 's'},
        {"workloads", required_argument, NULL, 'w'}, {"entries", required_argument, NULL, 'e'},
        {"mib", required_argument, NULL, 'd'},       {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, '?'},            {NULL, 0, NULL, 0},
    };
    for (int letter; (letter = getopt_long(count, words, "", known, NULL)) != -1;)
        switch (letter) {
        case 'f':
        case 'h':
            options.transport = letter == 'f' ? &vfio_user : &vhost_user;
            options.socket = optarg;
            break;
        case 'p':
            options.plain = true;
            break;
        case 'm':
            options.prepare = true;
            break;
        case 'k':
            options.kick = kick_called(optarg);
            break;
        case 's':
            options.seconds = atof(optarg);
            break;
        case 'w':
            options.only = optarg;
            break;
        case 'e':
            options.entries = (unsigned)atoi(optarg);
            break;
        case 'd':
            options.mib = (unsigned)atoi(optarg);
            break;
        case 'l':
            options.list = true;
            break;
        default:
            explain(optopt ? 2 : 0);
        }
    options.directory = words[optind];
    if (!options.list && (!options.directory || options.entries < 1 || options.mib < 16 || options.seconds <= 0 ||
                          options.plain + options.prepare + !!options.transport != 1))
        explain(2);
}

static void measure_device(void)
{
    pid_t server;
    driver_start(options.transport, options.socket, options.kick, &server);
    measure_process(server);
    mount_file_system();
    run_all();
    unmount_file_system();
    driver_stop();
}

int main(int count, char **words)
{
    read_options(count, words);
    signal(SIGPIPE, SIG_IGN);
    if (options.list) {
        list_all();
        return 0;
    }
    if (options.prepare) {
        tree_make(options.directory, options.entries, options.mib);
        return 0;
    }
    tree_open(options.directory, options.entries, options.mib);
    if (options.plain)
        run_all_plain();
    else
        measure_device();
    if (wrong_answers())
        fprintf(stderr, "load: %lu wrong answers\n", wrong_answers());
    return wrong_answers() ? 1 : 0;
}
