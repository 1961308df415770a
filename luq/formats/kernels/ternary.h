/* Ternary digits, five to a byte. */
#ifndef TERNARY_H
#define TERNARY_H
#include "lanes.h"
/* A row of ternary digits, five to a byte, as -1, 0 and 1: `digits` [256, 8] says what a byte holds. Returns where the row begins in
 * `room`, which has columns + 16 floats. */
static inline const float *ternary_row(const uint8_t *codes, const float *digits, int64_t row, int64_t columns, float *room) {
    const int64_t first = row * columns / 5, last = (row * columns + columns + 4) / 5;
    for (int64_t i = first; i < last; i++) memcpy(room + 5 * (i - first), digits + 8 * codes[i], 8 * sizeof(float));
    return room + row * columns % 5;
}

/* Rows [first, last) of y = x W^T if there is an x, else of the weight into out [last - first, columns]. size: columns of a group.
 * Returns 0, or 1 without memory. */
int luq_ternary(const uint8_t *codes, const uint16_t *scales, const float *digits, const float *x, float *out, int64_t first,
                int64_t last, int64_t columns, int64_t size) {
    const int64_t groups = (columns + size - 1) / size;
    int failed = 0;
#pragma omp parallel if ((last - first) * columns > ALONE)
    {
        float *room = malloc((size_t)(columns + 16) * sizeof(float));
        if (!room) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t r = first; r < last; r++) {
            if (!room) continue;
            const float *w = ternary_row(codes, digits, r, columns, room);
            float total = 0;
            for (int64_t g = 0; g < groups; g++) {
                const float scale = half_to_float(scales[r * groups + g]);
                const int64_t end = fewer((g + 1) * size, columns);
                if (!x) {
                    for (int64_t c = g * size; c < end; c++) out[(r - first) * columns + c] = w[c] * scale;
                    continue;
                }
                float part[16] = {0}, sum = 0;
                int64_t c = g * size;
                for (; c + 16 <= end; c += 16)
                    for (int i = 0; i < 16; i++) part[i] += w[c + i] * x[c + i];
                for (; c < end; c++) sum += w[c] * x[c];
                for (int i = 0; i < 16; i++) sum += part[i];
                total += scale * sum;
            }
            if (x) out[r - first] = total;
        }
        free(room);
    }
    return failed;
}

#endif
