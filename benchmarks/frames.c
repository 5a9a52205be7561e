/* Frames (RFC 6455, 5.2): those that are sent, made beforehand, and those that come. */
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE 4096 /* messages up to this size are compared whole, of longer ones the edges */
#define EDGE 64

static const unsigned char MASK[4] = {0x12, 0x34, 0x56, 0x78};
/* Code 1000 under that mask. */
const char close_frame[8] = {'\x88', '\x82', 0x12, 0x34, 0x56, 0x78, 0x03 ^ 0x12, '\xe8' ^ 0x34};

/* --- what is sent ------------------------------------------------------------------------ */

size_t make_frame(unsigned char *to, int opcode, const unsigned char *payload, size_t size)
{
    size_t at = 2;
    to[0] = (unsigned char)(0x80 | opcode);
    to[1] = (unsigned char)(0x80 | (size < 126 ? size : size < 65536 ? 126 : 127));
    if (size >= 126)
        for (int byte = size < 65536 ? 1 : 7; byte >= 0; byte--)
            to[at++] = (unsigned char)((uint64_t)size >> (8 * byte));
    memcpy(to + at, MASK, 4);
    at += 4;
    for (size_t i = 0; i < size; i++)
        to[at + i] = payload[i] ^ MASK[i & 3];
    return at + size;
}

void make_script(size_t size, size_t copies)
{
    unsigned char *payload = allocate(size, 1);
    for (size_t i = 0; i < size; i++) /* no period that a power of two could hide */
        payload[i] = (unsigned char)('!' + i % 89);
    if (script.opcode == 2)
        for (size_t i = 0; i < size; i++)
            payload[i] |= 0x80;
    script.payload = payload;
    script.size = size;
    script.same = true;
    script.count = copies;
    script.bytes = allocate(copies, size + 14);
    script.length = allocate(copies, sizeof *script.length);
    for (size_t i = 0; i < copies; i++) {
        script.length[i] = make_frame(script.bytes + script.total, script.opcode, payload, size);
        script.total += script.length[i];
    }
}

/* A file of whole masked frames, one behind the other, each a message. */
void read_script(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        die("cannot read %s", path);
    script.total = (size_t)ftell(file);
    script.bytes = allocate(script.total + 10, 1);
    script.length = allocate(script.total / 6 + 1, sizeof *script.length);
    rewind(file);
    if (fread(script.bytes, 1, script.total, file) != script.total)
        die("cannot read %s", path);
    fclose(file);
    for (size_t at = 0; at < script.total;) {
        const unsigned char *frame = script.bytes + at;
        size_t size = frame[1] & 0x7f, head = 6;
        if (size >= 126) {
            size_t wide = size == 126 ? 2 : 8;
            head += wide;
            size = 0;
            for (size_t i = 0; i < wide; i++)
                size = size << 8 | frame[2 + i];
        }
        if ((frame[1] & 0x80) == 0 || size > script.total || at + head + size > script.total)
            die("%s is not a file of masked frames", path);
        script.length[script.count++] = head + size;
        at += head + size;
    }
    if (script.count == 0)
        die("%s is empty", path);
}

/* --- what comes -------------------------------------------------------------------------- */

static void compare(size_t at, const unsigned char *data, size_t size)
{
    if (size > 0 && memcmp(script.payload + at, data, size) != 0)
        die("what came back is not the echo (near byte %zu)", at);
}

/* A piece of a message, which belongs at `conn->at`. */
static void check(Conn *conn, const unsigned char *data, size_t size)
{
    size_t at = (size_t)conn->at, tail = script.size > EDGE ? script.size - EDGE : 0;
    if (script.payload == NULL)
        return;
    if (script.size <= WHOLE || conn->done == 0) {
        compare(at, data, size);
        return;
    }
    if (at < EDGE)
        compare(at, data, size < EDGE - at ? size : EDGE - at);
    if (at + size > tail) {
        size_t skip = at < tail ? tail - at : 0;
        compare(at + skip, data + skip, size - skip);
    }
}

static size_t end_frame(Conn *conn)
{
    int opcode = conn->head[0] & 0x0f;
    bool last = conn->head[0] & 0x80;
    conn->headed = 0;
    conn->in_frame = false;
    if (opcode == 9)
        conn->pong = true;
    if (opcode >= 8 || !last)
        return 0;
    if (script.payload != NULL && conn->at != script.size)
        die("an echo of %llu bytes", (unsigned long long)conn->at);
    conn->at = 0;
    conn->in_message = false;
    conn->done++;
    return 1;
}

/* The header is whole: check it, and say what the frame's payload will be. */
static void begin_frame(Conn *conn)
{
    int opcode = conn->head[0] & 0x0f, reserved = conn->head[0] & 0x70;
    int allowed = script.deflate && opcode == script.opcode ? 0x40 : 0;
    conn->left = conn->head[1] & 0x7f;
    if (conn->left >= 126) {
        size_t wide = conn->left == 126 ? 2 : 8;
        conn->left = 0;
        for (size_t i = 0; i < wide; i++)
            conn->left = conn->left << 8 | conn->head[2 + i];
    }
    conn->in_frame = true;
    if ((reserved & ~allowed) || (conn->head[1] & 0x80))
        die("a frame with reserved bits or a mask");
    if (opcode >= 8) {
        if (opcode == 8)
            die("the server closed a connection");
        if (opcode > 10 || conn->left > 125 || !(conn->head[0] & 0x80))
            die("a control frame that is none");
        conn->ping = 0;
        return;
    }
    if (opcode != (conn->in_message ? 0 : script.opcode))
        die("opcode %d at the wrong place", opcode);
    if (script.payload != NULL && conn->left > script.size - conn->at)
        die("an echo that is too long");
    conn->in_message = true;
}

static size_t header_size(const Conn *conn)
{
    int length = conn->headed < 2 ? 0 : conn->head[1] & 0x7f;
    return length < 126 ? 2 : length == 126 ? 4 : 10;
}

size_t take(Conn *conn, const unsigned char *data, size_t size)
{
    size_t messages = 0;
    while (size > 0) {
        if (!conn->in_frame) {
            conn->head[conn->headed++] = *data++;
            size--;
            if (conn->headed < header_size(conn))
                continue;
            begin_frame(conn);
        }
        size_t count = size < conn->left ? size : (size_t)conn->left;
        if ((conn->head[0] & 0x0f) >= 8) {
            memcpy(conn->control + conn->ping, data, count);
            conn->ping += count;
        } else {
            check(conn, data, count);
            conn->at += count;
        }
        data += count;
        size -= count;
        conn->left -= count;
        if (conn->left == 0)
            messages += end_frame(conn);
    }
    return messages;
}

/* Bytes must come back as they went out: the frames of the script, which are all the same. */
size_t take_raw(Conn *conn, const unsigned char *data, size_t size)
{
    uint64_t before = conn->done;
    while (size > 0) {
        size_t rest = script.total - (size_t)(conn->at % script.total);
        size_t count = size < rest ? size : rest;
        if (memcmp(script.bytes + conn->at % script.total, data, count) != 0)
            die("what came back is not the echo");
        conn->at += count;
        data += count;
        size -= count;
    }
    conn->done = conn->at / script.length[0];
    return (size_t)(conn->done - before);
}
