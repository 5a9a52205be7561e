/* Connections of a load generator: raw sockets, frames made beforehand, answers checked. */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECOND 1000000000ull

/* What every connection sends again and again, and what the echo of it must be. */
typedef struct {
    unsigned char *bytes; /* whole masked frames, one behind the other */
    size_t total;         /* bytes of all of them */
    size_t count;         /* how many frames */
    size_t *length;       /* of each frame, with its header */
    bool same;            /* all are the same message */
    bool raw;             /* the server echoes bytes: no upgrade, nothing is parsed */
    bool deflate;         /* offer permessage-deflate; frames came from a file */
    bool tls;
    int opcode;                   /* of every message, there and back */
    const unsigned char *payload; /* of every message; NULL: it is compressed, not compared */
    size_t size;                  /* of that payload */
} Script;

typedef struct {
    int file;
    void *tls;
    /* Going out: a place in the script, and bytes from there that the kernel has not taken. */
    size_t place, next, owed;
    bool blocked;  /* waits for EPOLLOUT */
    size_t flying; /* messages sent and not yet answered */
    uint64_t done; /* messages that came */
    uint64_t *sent; /* a ring: when each message in flight was handed over */
    size_t oldest;
    /* Coming in: the header so far, or else what is left of the frame behind it. */
    unsigned char head[10], control[125];
    size_t headed;
    bool in_frame, in_message;
    uint64_t left, at; /* of the frame to come; bytes of the message (raw: of all) that came */
    bool pong;   /* a ping waits for its answer */
    size_t ping; /* bytes of a control frame's payload that have come */
} Conn;

extern Script script;
extern int port, poller;
extern const char close_frame[8];

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t nanoseconds(void);
void *allocate(size_t count, size_t size);
size_t make_frame(unsigned char *to, int opcode, const unsigned char *payload, size_t size);
void make_script(size_t size, size_t copies);
void read_script(const char *path);
void prepare_tls(void);
int dial(void);
const char *upgrade_request(void);
/* Whether a whole head has come; dies if it is no right answer to the upgrade. */
bool upgraded(const char *head, size_t length);
void open_conn(Conn *conn, size_t window);
/* Queue so many messages more, and write what the kernel takes. */
void post(Conn *conn, size_t messages);
void push(Conn *conn);
/* Take what came; both return how many messages have ended. */
size_t take(Conn *conn, const unsigned char *data, size_t size);
size_t take_raw(Conn *conn, const unsigned char *data, size_t size);
/* Read once, or with TLS until there is nothing more; returns how many messages have ended. */
size_t pull(Conn *conn, uint64_t *bytes);
/* End every connection as the protocol wants it, within three seconds. */
void finish(Conn *conns, size_t count);

#endif
