/* Integers on a grid per row and group of columns. */
#include "codes.h"

/* Room of a thread for one row: codes, scales and zeros. Memory is one piece. */
typedef struct { uint8_t *codes; float *scale, *zero; } GridRoom;

static GridRoom grid_room(const Grid *w) {
    const size_t codes = (size_t)filled(w->columns, 256), groups = (size_t)filled(w->groups, 64) * sizeof(float);
    uint8_t *memory = zeros_of(codes + 2 * groups);
    if (!memory) return (GridRoom){NULL, NULL, NULL};
    return (GridRoom){memory, (float *)(memory + codes), (float *)(memory + codes + groups)};
}

INLINE void read_row(const Grid *w, int64_t row, const GridRoom *room) {
#define READ(n) codes_of_row(w, row, room->codes, n)
    BY_BITS(w->bits, READ)
#undef READ
    grid_of_row(w, row, room->scale, room->zero);
}

/* y = x W^T of one token. Returns 0, or 1 without memory. */
int luq_integer_matvec(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, const float *x, float *y, int64_t rows,
                       int64_t columns, int64_t size, int64_t bits) {
    const Grid w = grid_of(codes, scales, zeros, rows, columns, size, bits);
    int failed = 0;
#pragma omp parallel if (rows * columns > ALONE)
    {
        const GridRoom room = grid_room(&w);
        if (!room.codes) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            if (!room.codes) continue;
            Lanes total = ALL(0.0f);
            read_row(&w, r, &room);
            for (int64_t g = 0; g < w.groups; g++) {
                const int64_t end = fewer((g + 1) * size, columns);
                const Lanes product = product_of_codes(room.codes, x, g * size, end, room.zero[g]);
                total = ADD_TIMES(total, product, room.scale[g]);
            }
            y[r] = SUM(total);
        }
        free(room.codes);
    }
    return failed;
}

/* Rows [first, last) of (code - zero) * scale into out [last - first, columns]. Returns 0, or 1 without memory. */
int luq_integer_unpack(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, float *out, int64_t first, int64_t last,
                       int64_t rows, int64_t columns, int64_t size, int64_t bits) {
    const Grid w = grid_of(codes, scales, zeros, rows, columns, size, bits);
    int failed = 0;
#pragma omp parallel if ((last - first) * columns > ALONE)
    {
        const GridRoom room = grid_room(&w);
        if (!room.codes) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t r = first; r < last; r++) {
            if (!room.codes) continue;
            float *to = out + (r - first) * columns;
            read_row(&w, r, &room);
            for (int64_t g = 0; g < w.groups; g++) {
                const int64_t end = fewer((g + 1) * size, columns);
                store_codes(room.codes, to, g * size, end, room.zero[g], room.scale[g]);
            }
        }
        free(room.codes);
    }
    return failed;
}
