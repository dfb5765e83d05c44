/* Reading and watching of small files. A volume of Kubernetes swaps a link, which shows as another inode. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum error_code file_read(const char *path, struct buffer *out, struct error *err)
{
    enum error_code code = ERROR_NONE;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold the loop up */
    if (fd < 0)
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: expected a file", path);
    }
    for (ssize_t n = 1; n > 0 && code == ERROR_NONE;) {
        char part[8192];
        n = read(fd, part, sizeof part);
        if (n < 0)
            code = error_set(err, ERROR_VALIDATION_FAILED, "%s: %s", path, strerror(errno));
        else if (!buffer_append(out, part, (size_t)n))
            code = error_set(err, ERROR_VALIDATION_FAILED, "%s: expected at most %zu bytes", path, out->max_bytes);
    }
    close(fd);
    return code;
}

static bool look(const char *path, struct file_watch *out)
{
    struct stat st;
    if (!path || stat(path, &st) != 0)
        return false;
    *out = (struct file_watch){path, (uint64_t)st.st_dev, (uint64_t)st.st_ino, (uint64_t)st.st_size,
                               (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec};
    return true;
}

void file_watch_mark(struct file_watch *w)
{
    look(w->path, w);
}

bool file_watch_changed(const struct file_watch *w)
{
    struct file_watch now;
    return look(w->path, &now) && (now.device != w->device || now.inode != w->inode || now.n_bytes != w->n_bytes ||
                                   now.changed_ns != w->changed_ns);
}
