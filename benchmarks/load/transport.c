/* What both transports need: sockets with descriptors in their messages, eventfds, and a look at the features. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "transport.h"

#define PATIENCE 100000000000u /* for a server that starts */

void require_features(uint64_t offered)
{
    if (FEATURES & ~offered)
        fail("the device lacks features %#llx, which this driver needs", (unsigned long long)(FEATURES & ~offered));
}

void kick_eventfd(struct ring *ring)
{
    const uint64_t one = 1;
    if (write(ring->kick, &one, sizeof one) != sizeof one)
        fail("queue %u cannot be kicked: %s", ring->index, strerror(errno));
}

int socket_connect(const char *path, pid_t *server)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        fail("%s is too long for a socket", path);
    strcpy(address.sun_path, path);
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const uint64_t until = now() + PATIENCE;
    while (connect(made, (struct sockaddr *)&address, sizeof address)) {
        if ((errno != ENOENT && errno != ECONNREFUSED) || now() > until)
            fail("cannot connect to %s: %s", path, strerror(errno));
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(made, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        fail("who serves %s is unknown: %s", path, strerror(errno));
    *server = peer.pid;
    return made;
}

void socket_send(int socket, const void *head, size_t head_size, const void *body, size_t body_size, const int *fds,
                 size_t fd_count)
{
    struct iovec pieces[2] = {{(void *)(uintptr_t)head, head_size}, {(void *)(uintptr_t)body, body_size}};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = body_size ? 2 : 1};
    if (fd_count) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
    }
    /* Messages are small: a stream socket takes them whole or not at all. */
    if (sendmsg(socket, &message, MSG_NOSIGNAL) != (ssize_t)(head_size + body_size))
        fail("the server does not take a message: %s", strerror(errno));
}

static size_t keep_fds(struct msghdr *message, int *fds, size_t kept)
{
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one)) {
        if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS)
            continue;
        size_t came = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (!fds || kept + came > MOST_FDS)
            fail("the server sent descriptors that nobody asked for");
        memcpy(fds + kept, CMSG_DATA(one), came * sizeof(int));
        kept += came;
    }
    return kept;
}

size_t socket_receive(int socket, void *place, size_t size, int *fds)
{
    size_t kept = 0;
    for (size_t done = 0; done < size;) {
        struct iovec rest = {(char *)place + done, size - done};
        union {
            struct cmsghdr header;
            char space[CMSG_SPACE(MOST_FDS * sizeof(int))];
        } control;
        struct msghdr message = {
            .msg_iov = &rest, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t came = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        if (came < 0 && errno == EINTR)
            continue;
        if (came <= 0)
            fail("the server hung up%s%s", came ? ": " : "", came ? strerror(errno) : "");
        kept = keep_fds(&message, fds, kept);
        done += (size_t)came;
    }
    return kept;
}
