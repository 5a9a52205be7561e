/* A load for WebSocket servers, faster than any of them, which knows nothing of their insides.
 *
 *     load MODE PORT [name=value]...
 *
 *     echo        `window` messages of `size` bytes in flight on each of `connections`, or with
 *                 frames=FILE the frames of a file in turn (deflate=1: they are compressed);
 *                 raw=1 without WebSocket, tls=1 over TLS
 *     broadcast   the last connection sends messages, each of which the server must send to all
 *                 connections `batch` times; two such orders are under way at any time; with
 *                 stalled=N the first N connections read nothing
 *     handshakes  `connections` at a time connect, upgrade, close
 *     idle        open `connections`, exchange one message on each if frames=FILE is given, print
 *                 "ready", hold them until stdin ends
 *
 * All but the last run for a fifth of `seconds` and then `seconds`, of which JSON is printed.
 * Whatever goes wrong ends it with status 1 and a line on stderr, also when nothing comes for
 * `patience` seconds (5).
 */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 512
#define FINE 7 /* a bucket of the histogram is 2^-7 wide, below one percent */
#define ORDERS 2
#define REMEMBERED 4096 /* orders; nobody who reads is so far behind */

static size_t connections = 1, window = 1, size = 32, batch = 1, stalled;
static double seconds = 2, patience = 5;
static const char *frames;
static enum { ECHO, BROADCAST, HANDSHAKES, IDLE } mode;

static Conn *conns;
static uint64_t heard, counted, bytes;
static bool posting, holding;
static uint64_t ordered[REMEMBERED], orders; /* a ring: when each was handed over */
static uint64_t histogram[64 << FINE];
static char result[256]; /* printed once all has ended well */

/* --- what is measured -------------------------------------------------------------------- */

static void record(uint64_t took)
{
    int wide = 64 - FINE - 1 - __builtin_clzll(took | 1 << FINE);
    histogram[((size_t)wide << FINE) + (size_t)(took >> wide)]++;
}

/* Microseconds below which so large a part of the messages came back. */
static double quantile(double part)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++) {
        seen += histogram[i];
        if (histogram[i] > 0 && (double)seen >= part * (double)counted) {
            size_t wide = i < 2 << FINE ? 0 : (i >> FINE) - 1;
            return (double)(((uint64_t)(i - (wide << FINE)) << wide) + ((1ull << wide) >> 1)) / 1e3;
        }
    }
    return 0;
}

static double busy(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* Run turns of the load until the warm-up is over, and then until the end. */
static void measure(void (*turn)(void))
{
    uint64_t start = nanoseconds(), now;
    heard = start;
    while (nanoseconds() < start + (uint64_t)(seconds * 0.2 * SECOND))
        turn();
    memset(histogram, 0, sizeof histogram);
    counted = bytes = 0;
    double used = busy();
    start = nanoseconds();
    do {
        turn();
        now = nanoseconds();
    } while (now < start + (uint64_t)(seconds * SECOND) || counted == 0);
    double took = (double)(now - start) / 1e9;
    snprintf(result, sizeof result,
             "{\"rate\": %.1f, \"p50\": %.2f, \"p99\": %.2f, \"seconds\": %.3f, "
             "\"load\": %.3f, \"bytes\": %.1f}",
             (double)counted / took, quantile(0.5), quantile(0.99), took, (busy() - used) / took,
             (double)bytes / (double)counted);
}

/* --- echo, broadcast, idle --------------------------------------------------------------- */

static void order(Conn *conn, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ordered[orders++ % REMEMBERED] = nanoseconds();
    post(conn, count);
}

/* Messages have come on a connection. */
static void answer(Conn *conn, size_t messages, uint64_t now)
{
    counted += messages;
    if (mode == BROADCAST) {
        for (uint64_t at = conn->done - messages; at < conn->done; at++) {
            if (at / batch + REMEMBERED < orders)
                die("a receiver is too far behind");
            record(now - ordered[at / batch % REMEMBERED]);
            if (posting && conn == conns + connections - 1 && (at + 1) % batch == 0)
                order(conn, 1);
        }
        return;
    }
    if (messages > conn->flying)
        die("more echoes than messages");
    conn->flying -= messages;
    for (size_t i = 0; i < messages; i++) {
        record(now - conn->sent[conn->oldest]);
        conn->sent[conn->oldest] = now; /* the place of the one that goes out now */
        conn->oldest = conn->oldest + 1 == window ? 0 : conn->oldest + 1;
    }
    if (posting && messages > 0)
        post(conn, messages);
}

static void turn(void)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, 100);
    uint64_t now = nanoseconds();
    if (count > 0)
        heard = now;
    else if (!holding && now > heard + (uint64_t)(patience * SECOND))
        die("nothing came for %g seconds", patience);
    for (int i = 0; i < count; i++) {
        Conn *conn = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            push(conn);
        if (events[i].events & ~(uint32_t)EPOLLOUT) {
            size_t messages = pull(conn, &bytes);
            answer(conn, messages, nanoseconds());
        }
    }
}

/* Take what is still under way. */
static void drain(void)
{
    uint64_t give_up = nanoseconds() + 60 * SECOND;
    posting = false;
    for (size_t i = stalled; i < connections; i++)
        while (mode == BROADCAST ? conns[i].done < orders * batch : conns[i].flying > 0) {
            if (nanoseconds() > give_up)
                die("messages are missing at the end");
            turn();
        }
    for (size_t i = stalled; mode == BROADCAST && i < connections; i++)
        if (conns[i].done != orders * batch)
            die("a receiver got more than was sent");
}

static void open_all(void)
{
    conns = allocate(connections, sizeof *conns);
    for (size_t i = 0; i < connections; i++)
        open_conn(&conns[i], window);
    for (size_t i = 0; i < stalled; i++) {
        int least = 1; /* the kernel makes it what it allows */
        setsockopt(conns[i].file, SOL_SOCKET, SO_RCVBUF, &least, sizeof least);
        if (epoll_ctl(poller, EPOLL_CTL_DEL, conns[i].file, NULL) != 0)
            die("epoll: %s", strerror(errno));
    }
}

static void echo(void)
{
    open_all();
    posting = true;
    if (mode == BROADCAST)
        order(&conns[connections - 1], ORDERS);
    else
        for (size_t i = 0; i < connections; i++) {
            uint64_t now = nanoseconds();
            for (size_t j = 0; j < window; j++)
                conns[i].sent[j] = now;
            conns[i].next = script.same ? 0 : i * 17 % script.count;
            for (size_t j = 0; j < conns[i].next; j++)
                conns[i].place += script.length[j];
            post(&conns[i], window);
        }
    measure(turn);
    drain();
    finish(conns + stalled, connections - stalled);
}

static void idle(void)
{
    char byte;
    open_all();
    for (size_t i = 0; frames != NULL && i < connections; i++)
        post(&conns[i], 1);
    heard = nanoseconds();
    drain();
    printf("ready\n");
    fflush(stdout);
    holding = true;
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    while (read(STDIN_FILENO, &byte, 1) != 0)
        turn();
    finish(conns, connections);
}

/* --- handshakes -------------------------------------------------------------------------- */

typedef struct {
    int file;
    bool up;
    uint64_t since;
    size_t length;
    char head[4096];
} Visit;

static Visit *visits;

static void knock(Visit *visit)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = visit};
    const char *request = upgrade_request();
    size_t length = strlen(request);
    visit->up = false;
    visit->length = 0;
    visit->since = nanoseconds();
    visit->file = dial();
    if (send(visit->file, request, length, MSG_NOSIGNAL) != (ssize_t)length)
        die("the upgrade was not taken");
    fcntl(visit->file, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, visit->file, &event) != 0)
        die("epoll: %s", strerror(errno));
}

/* Something came for a visit: the answer to its request, a close frame, or the end. */
static void go_on(Visit *visit)
{
    size_t room = sizeof visit->head - visit->length;
    ssize_t count = recv(visit->file, visit->head + visit->length, room, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (visit->up) {
        if (count > 0) {
            visit->length += (size_t)count;
            return;
        }
        if (visit->length < 2 || visit->head[0] != (char)0x88)
            die("no close frame before the end of the connection");
        close(visit->file);
        if (posting)
            knock(visit);
        else
            visit->file = -1;
        return;
    }
    if (count <= 0)
        die("no answer to the upgrade: %s", count ? strerror(errno) : "the end");
    visit->length += (size_t)count;
    if (!upgraded(visit->head, visit->length))
        return;
    visit->up = true;
    visit->length = 0;
    counted++;
    record(nanoseconds() - visit->since);
    if (send(visit->file, close_frame, sizeof close_frame, MSG_NOSIGNAL) < 0)
        die("a connection broke: %s", strerror(errno));
}

static void visit_all(void)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, 100);
    uint64_t now = nanoseconds();
    if (count > 0)
        heard = now;
    else if (now > heard + (uint64_t)(patience * SECOND))
        die("nothing came for %g seconds", patience);
    for (int i = 0; i < count; i++)
        go_on(events[i].data.ptr);
}

static void handshakes(void)
{
    visits = allocate(connections, sizeof *visits);
    posting = true;
    for (size_t i = 0; i < connections; i++)
        knock(&visits[i]);
    measure(visit_all);
    posting = false;
    for (size_t i = 0; i < connections; i++)
        while (visits[i].file >= 0)
            visit_all();
}

/* --- options ----------------------------------------------------------------------------- */

static void set(const char *name, const char *value)
{
    struct {
        const char *name;
        size_t *number;
    } numbers[] = {
        {"connections", &connections}, {"window", &window}, {"size", &size}, {"batch", &batch},
        {"stalled", &stalled}};
    struct {
        const char *name;
        bool *flag;
    } flags[] = {{"raw", &script.raw}, {"deflate", &script.deflate}, {"tls", &script.tls}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(name, numbers[i].name) == 0 && (*numbers[i].number = strtoul(value, NULL, 10)))
            return;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(name, flags[i].name) == 0) {
            *flags[i].flag = *value == '1';
            return;
        }
    if (strcmp(name, "opcode") == 0 && (script.opcode = atoi(value)))
        return;
    if (strcmp(name, "seconds") == 0 && (seconds = atof(value)) > 0)
        return;
    if (strcmp(name, "patience") == 0 && (patience = atof(value)) > 0)
        return;
    if (strcmp(name, "frames") == 0) {
        frames = value;
        return;
    }
    die("no such option: %s=%s", name, value);
}

static void too_late(int number)
{
    static const char text[] = "it took far too long\n";
    (void)number;
    _exit(write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 2 : 1);
}

int main(int count, char **arguments)
{
    static const char *const modes[] = {"echo", "broadcast", "handshakes", "idle"};
    struct rlimit files;
    if (count < 3)
        die("usage: load echo|broadcast|handshakes|idle PORT [name=value]...");
    while (strcmp(arguments[1], modes[mode]) != 0)
        if (++mode > IDLE)
            die("no such mode: %s", arguments[1]);
    port = atoi(arguments[2]);
    script.opcode = 1;
    for (int i = 3; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (value == NULL)
            die("name=value, not %s", arguments[i]);
        *value = '\0';
        set(arguments[i], value + 1);
    }
    if (stalled >= connections)
        die("nobody is left to read");
    if (frames != NULL)
        read_script(frames);
    else
        make_script(size, window);
    if (script.tls)
        prepare_tls();
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    signal(SIGALRM, too_late);
    alarm((unsigned)(2 * seconds) + 120);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    (mode == HANDSHAKES ? handshakes : mode == IDLE ? idle : echo)();
    if (*result)
        puts(result);
    return 0;
}
