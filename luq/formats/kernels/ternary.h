/* Ternary digits, five to a byte. */
#ifndef TERNARY_H
#define TERNARY_H
#include "codes.h"

/* A row's digits 0, 1 and 2 as bytes; `digits` [256, 8] says what a byte holds. `to` has eight bytes of room behind the row. */
static inline void digits_of_row(const uint8_t *codes, const uint8_t *digits, int64_t row, int64_t columns, uint8_t *to) {
    const int64_t first = row * columns / 5, last = (row * columns + columns + 4) / 5, before = row * columns % 5;
    uint8_t head[8];
    memcpy(head, digits + 8 * codes[first], 8);
    memcpy(to, head + before, (size_t)(8 - before)); /* what follows overwrites what is behind a byte's five */
    for (int64_t i = first + 1; i < last; i++) memcpy(to + 5 * (i - first) - before, digits + 8 * codes[i], 8);
}

/* Rows [first, last) of y = x W^T if there is an x, else of the weight into out [last - first, columns]. size: columns of a group; x has
 * room for sixteen floats behind its end. Returns 0, or 1 without memory. */
int luq_ternary(const uint8_t *codes, const uint16_t *scales, const uint8_t *digits, const float *x, float *out, int64_t first,
                int64_t last, int64_t columns, int64_t size) {
    const int64_t groups = (columns + size - 1) / size;
    int failed = 0;
#pragma omp parallel if ((last - first) * columns > ALONE)
    {
        uint8_t *room = zeros_of((size_t)columns + 64);
        if (!room) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t r = first; r < last; r++) {
            if (!room) continue;
            Lanes total = ALL(0.0f);
            digits_of_row(codes, digits, r, columns, room);
            for (int64_t g = 0; g < groups; g++) {
                const float scale = half_to_float(scales[r * groups + g]);
                const int64_t begin = g * size, end = fewer((g + 1) * size, columns);
                if (x) total = ADD_TIMES(total, product_of_codes(room, x, begin, end, 1.0f), scale);
                else store_codes(room, out + (r - first) * columns, begin, end, 1.0f, scale);
            }
            if (x) out[r - first] = SUM(total);
        }
        free(room);
    }
    return failed;
}

#endif
