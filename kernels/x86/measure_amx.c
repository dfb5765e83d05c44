/* Limits, AMX: products of 16 x 64 and 64 x 16 bytes, four sums in turn as in tiles_amx.c. */
#include "kernels/cpu.h"

#include <immintrin.h>

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

uint64_t peak_i8_amx(uint64_t n_rounds)
{
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = 16;
        c.row_bytes[i] = 64;
    }
    _tile_loadconfig(&c); /* clears the tiles */
    for (uint64_t r = 0; r < n_rounds; r++) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_release();
    return n_rounds * 4 * 16 * 16 * 64;
}
