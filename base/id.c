/* Random identifiers. getrandom(2) blocks only before the kernel's pool is ready, which is long before we start. */
#include "base/id.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* n_bytes at most 256: such a read is whole once it succeeds. Without randomness nothing safe can be made, so abort. */
static void random_bytes(void *out, size_t n_bytes)
{
    ssize_t n;
    do
        n = getrandom(out, n_bytes, 0);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)n_bytes)
        abort();
}

uint64_t id_random_u64(void)
{
    uint64_t bits;
    random_bytes(&bits, sizeof bits);
    return bits;
}

char *id_uuid(char out[ID_UUID_BYTES])
{
    unsigned char b[16];
    random_bytes(b, sizeof b);
    b[6] = (unsigned char)(0x40 | (b[6] & 0x0f)); /* version 4 */
    b[8] = (unsigned char)(0x80 | (b[8] & 0x3f)); /* variant 10 */
    snprintf(out, ID_UUID_BYTES, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return out;
}

bool id_request_id_valid(const char *text)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/";
    if (!text)
        return false;
    size_t n = strspn(text, allowed);
    return n >= 1 && n <= 128 && text[n] == '\0';
}
