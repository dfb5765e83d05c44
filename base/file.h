/* Files that are read while a program runs: bounded reading, and noticing that one has changed. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Appends the file's bytes to `out`; an error names the path. More than out->max_bytes is an error. Any thread. */
enum error_code file_read(const char *path, struct buffer *out, struct error *err);

/* What a file looked like when it was last read. */
struct file_watch {
    const char *path; /* borrowed; NULL = nothing to watch */
    uint64_t device, inode, n_bytes;
    int64_t changed_ns; /* ctime: that of a copy which keeps the modification time is new all the same */
};

/* Remembers what the file looks like now: call it before reading, so that a change in between is seen. */
void file_watch_mark(struct file_watch *w);
/* True when it looks different; a file that is not there looks unchanged. */
bool file_watch_changed(const struct file_watch *w);

#endif
