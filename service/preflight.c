/* What --check-config looks at beyond the options' own values: everything that can be without listening or loading. */
#include "service/options.h"

#include "rpc/tls_check.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REPORT_MAX_BYTES (1 << 20)

/* "HOST:PORT", "[IPv6]:PORT" or "unix:/PATH". */
static bool address_valid(const char *text)
{
    if (strncmp(text, "unix:", 5) == 0)
        return text[5] != '\0' && strlen(text + 5) < sizeof((struct sockaddr_un *)0)->sun_path;
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || (memchr(text, ':', (size_t)(colon - text)) && (text[0] != '[' || colon[-1] != ']')))
        return false;
    size_t n = strspn(colon + 1, "0123456789");
    return n > 0 && n <= 5 && colon[1 + n] == '\0' && atoi(colon + 1) <= 65535;
}

static enum error_code check_addresses(const char *name, const char *list, struct error *err)
{
    char *copy = strdup(list ? list : ""), *rest = copy, *one;
    enum error_code code = copy ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");
    while (code == ERROR_NONE && (one = strsep(&rest, ",")) != NULL) {
        one += strspn(one, " ");
        if (one[0] != '\0' && !address_valid(one))
            code = error_set_param(err, ERROR_VALIDATION_FAILED, name,
                                   "--%s: expected HOST:PORT, [IPv6]:PORT or unix:/PATH, found \"%.100s\"", name, one);
    }
    free(copy);
    return code;
}

static enum error_code check_device(const char *device, struct error *err)
{
    static const char *const names[] = {"auto", "cpu", "gpu"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(device, names[i]) == 0)
            return ERROR_NONE;
    if (strncmp(device, "cuda:", 5) == 0 && device[5] && strspn(device + 5, "0123456789") == strlen(device + 5))
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, "device",
                           "--device: expected auto, cpu, gpu or cuda:N, found \"%.64s\"", device);
}

/* The file's headers, as compat-check reads them; its weights are looked at when it is loaded. */
static enum error_code check_model(const char *path, struct error *err)
{
    struct stat found;
    struct buffer report;
    if (!path || !path[0])
        return ERROR_NONE;
    if (stat(path, &found) != 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model", "--model %.200s: %s", path, strerror(errno));
    if (!S_ISREG(found.st_mode))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model",
                               "--model %.200s: expected a file, found something else", path);
    buffer_init(&report, REPORT_MAX_BYTES);
    enum error_code code = model_compat_check(path, false, false, false, &report, err);
    buffer_fini(&report);
    return code ? error_prefix(err, "--model") : ERROR_NONE;
}

static enum error_code check_folder(const char *name, const char *path, int mode, struct error *err)
{
    struct stat found;
    if (stat(path, &found) == 0 && !S_ISDIR(found.st_mode))
        errno = ENOTDIR;
    else if (access(path, mode) == 0)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, name, "--%s: folder %.200s: %s", name, path, strerror(errno));
}

/* Folders that models may come from are there; that of the state file can be written to. */
static enum error_code check_folders(const struct service_config *c, struct error *err)
{
    char *copy = strdup(c->model_dirs ? c->model_dirs : ""), *rest = copy, *one;
    char *state = strdup(c->state_file ? c->state_file : "");
    enum error_code code = copy && state ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");
    while (!code && (one = strsep(&rest, ":")) != NULL)
        if (one[0] != '\0')
            code = check_folder("model-dirs", one, R_OK | X_OK, err);
    if (!code && state[0])
        code = check_folder("state-file", dirname(state), W_OK | X_OK, err);
    free(copy);
    free(state);
    return code;
}

enum error_code options_preflight(const struct service_config *c, struct error *err)
{
    const struct tls_check tls = {"tls-cert", c->tls_cert, "tls-key", c->tls_key, "tls-client-ca", c->tls_client_ca};
    enum error_code code = check_addresses("listen", c->listen, err);
    if (!code)
        code = check_addresses("admin-listen", c->admin_listen, err);
    if (!code)
        code = check_device(c->device, err);
    if (!code)
        code = tls_check(&tls, err);
    if (!code)
        code = check_folders(c, err);
    return code ? code : check_model(c->model, err);
}
