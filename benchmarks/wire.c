#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#ifdef WITH_TLS
#include <openssl/ssl.h>
static SSL_CTX *tls_context;
#endif

#define KEY "AAAAAAAAAAAAAAAAAAAAAA=="
#define ACCEPT "ICX+Yqv66kxgM0FcWaLWlFLwTAI=" /* of that key (RFC 6455, 4.2.2) */
#define BLOCK (1 << 18)

static unsigned char block[BLOCK];

Script script;
int port, poller;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

/* --- connections ------------------------------------------------------------------------- */

int dial(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 10};
    int yes = 1, file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (file < 0)
        die("no socket: %s", strerror(errno));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(file, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(file, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(file, (struct sockaddr *)&address, sizeof address) != 0)
        die("cannot connect to port %d: %s", port, strerror(errno));
    return file;
}

const char *upgrade_request(void)
{
    static char request[512];
    snprintf(request, sizeof request,
             "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\n"
             "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY
             "\r\n%s\r\n",
             port,
             script.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                              "client_no_context_takeover; server_no_context_takeover\r\n"
                            : "");
    return request;
}

bool upgraded(const char *head, size_t length)
{
    char line[1024] = "";
    if (length < 4 || memcmp(head + length - 4, "\r\n\r\n", 4) != 0)
        return false;
    memcpy(line, head, length < sizeof line ? length : sizeof line - 1);
    if (strncmp(line, "HTTP/1.1 101", 12) != 0 || strstr(line, ACCEPT) == NULL)
        die("no upgrade: %.*s", (int)strcspn(line, "\r"), line);
    if (script.deflate != (strstr(line, "permessage-deflate") != NULL))
        die(script.deflate ? "would not compress" : "compresses without being asked");
    return true;
}

void prepare_tls(void)
{
#ifdef WITH_TLS
    tls_context = SSL_CTX_new(TLS_client_method()); /* who the server is does not matter here */
    if (tls_context == NULL)
        die("no TLS");
    SSL_CTX_set_mode(tls_context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#else
    die("built without TLS: it needs OpenSSL's headers (libssl-dev) and another build");
#endif
}

/* As recv and send, over TLS where there is some. */
static ssize_t get(Conn *conn, void *to, size_t size)
{
#ifdef WITH_TLS
    if (conn->tls != NULL) {
        int count = SSL_read(conn->tls, to, (int)size);
        if (count > 0)
            return count;
        int why = SSL_get_error(conn->tls, count);
        errno = why == SSL_ERROR_WANT_READ ? EAGAIN : ECONNRESET;
        return why == SSL_ERROR_ZERO_RETURN ? 0 : -1;
    }
#endif
    return recv(conn->file, to, size, 0);
}

static ssize_t put(Conn *conn, const void *from, size_t size)
{
#ifdef WITH_TLS
    if (conn->tls != NULL) {
        int count = SSL_write(conn->tls, from, size > 1 << 20 ? 1 << 20 : (int)size);
        if (count > 0)
            return count;
        errno = SSL_get_error(conn->tls, count) == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
        return -1;
    }
#endif
    return send(conn->file, from, size, MSG_NOSIGNAL);
}

static void upgrade(Conn *conn)
{
    const char *request = upgrade_request();
    char head[4096];
    size_t length = 0;
    if (put(conn, request, strlen(request)) != (ssize_t)strlen(request))
        die("the upgrade was not taken");
    while (!upgraded(head, length)) {
        ssize_t count = get(conn, head + length, sizeof head - length);
        if (count <= 0)
            die("no answer to the upgrade: %s", count ? strerror(errno) : "the end");
        length += (size_t)count;
    }
}

void open_conn(Conn *conn, size_t window)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    memset(conn, 0, sizeof *conn);
    conn->sent = allocate(window, sizeof *conn->sent);
    conn->file = dial();
#ifdef WITH_TLS
    if (script.tls) {
        conn->tls = SSL_new(tls_context);
        if (SSL_set_fd(conn->tls, conn->file) != 1 || SSL_connect(conn->tls) != 1)
            die("the TLS handshake failed");
    }
#endif
    if (!script.raw)
        upgrade(conn);
    fcntl(conn->file, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, conn->file, &event) != 0)
        die("epoll: %s", strerror(errno));
}

/* --- going out --------------------------------------------------------------------------- */

static void wait_for_room(Conn *conn, bool blocked)
{
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = conn};
    if (conn->blocked != blocked && epoll_ctl(poller, EPOLL_CTL_MOD, conn->file, &event) != 0)
        die("epoll: %s", strerror(errno));
    conn->blocked = blocked;
}

void push(Conn *conn)
{
    while (conn->owed > 0) {
        size_t rest = script.total - conn->place;
        ssize_t count =
            put(conn, script.bytes + conn->place, rest < conn->owed ? rest : conn->owed);
        if (count < 0 && errno != EAGAIN)
            die("a connection broke: %s", strerror(errno));
        if (count < 0) {
            wait_for_room(conn, true);
            return;
        }
        conn->owed -= (size_t)count;
        conn->place = (conn->place + (size_t)count) % script.total;
    }
    wait_for_room(conn, false);
    if (conn->pong) { /* only now: not into the middle of a frame */
        unsigned char pong[125 + 14];
        size_t size = make_frame(pong, 10, conn->control, conn->ping);
        conn->pong = false;
        if (put(conn, pong, size) != (ssize_t)size)
            die("no room for a pong");
    }
}

void post(Conn *conn, size_t messages)
{
    if (conn->owed == 0 && script.same)
        conn->place = conn->next = 0; /* so that it leaves in one write */
    for (; messages > 0; messages--) {
        conn->owed += script.length[conn->next];
        conn->next = conn->next + 1 == script.count ? 0 : conn->next + 1;
        conn->flying++;
    }
    if (!conn->blocked)
        push(conn);
}

/* --- coming in, and the end -------------------------------------------------------------- */

size_t pull(Conn *conn, uint64_t *bytes)
{
    size_t messages = 0;
    do {
        ssize_t count = get(conn, block, sizeof block);
        if (count < 0 && errno == EAGAIN)
            break;
        if (count <= 0)
            die("a connection ended: %s", count ? strerror(errno) : "by the server");
        *bytes += (uint64_t)count;
        messages += script.raw ? take_raw(conn, block, (size_t)count)
                               : take(conn, block, (size_t)count);
    } while (conn->tls != NULL);
    if (conn->pong && !conn->blocked)
        push(conn);
    return messages;
}

void finish(Conn *conns, size_t count)
{
    uint64_t give_up = nanoseconds() + 3 * SECOND;
    for (size_t i = 0; i < count; i++)
        if (script.raw)
            shutdown(conns[i].file, SHUT_WR);
        else
            put(&conns[i], close_frame, sizeof close_frame);
    for (size_t i = 0; i < count; i++) {
        struct timeval patience = {.tv_usec = 100000};
        setsockopt(conns[i].file, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        fcntl(conns[i].file, F_SETFL, 0);
        while (nanoseconds() < give_up && recv(conns[i].file, block, sizeof block, 0) > 0)
            continue;
        close(conns[i].file);
    }
}
