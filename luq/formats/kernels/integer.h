/* Integers on a grid per row and group of columns. */
#include "codes.h"

/* Sixteen codes as floats. */
INLINE Lanes lanes_of_codes(const uint8_t *codes) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes)));
#else
    typedef uint8_t B16 __attribute__((vector_size(16)));
    B16 bytes;
    memcpy(&bytes, codes, sizeof bytes);
    return __builtin_convertvector(bytes, Lanes);
#endif
}

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

/* Sum of code * x over the columns [from, end). */
INLINE Lanes product_of_codes(const uint8_t *codes, const float *x, int64_t from, int64_t end) {
    Lanes sum[4] = {ALL(0.0f), ALL(0.0f), ALL(0.0f), ALL(0.0f)};
    int64_t c = from;
    for (; c + 64 <= end; c += 64)
        for (int i = 0; i < 4; i++) sum[i] = ADD_PRODUCT(sum[i], lanes_of_codes(codes + c + 16 * i), LOAD(x + c + 16 * i));
    for (; c < end; c += 16) sum[0] = ADD_IF(sum[0], lowest(end - c), PRODUCT(lanes_of_codes(codes + c), LOAD(x + c)));
    return PLUS(PLUS(sum[0], sum[1]), PLUS(sum[2], sum[3]));
}

/* y = x W^T of one token; sums: room for one float per group, of x over its columns. Returns 0, or 1 without memory. */
int luq_integer_matvec(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, const float *x, float *sums, float *y,
                       int64_t rows, int64_t columns, int64_t size, int64_t bits) {
    const Grid w = grid_of(codes, scales, zeros, rows, columns, size, bits);
    int failed = 0;
    for (int64_t g = 0; g < w.groups; g++) {
        const int64_t end = fewer((g + 1) * size, columns);
        Lanes part = ALL(0.0f);
        for (int64_t c = g * size; c < end; c += 16) part = ADD_IF(part, lowest(end - c), LOAD(x + c));
        sums[g] = SUM(part);
    }
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
            float offset = 0;
            read_row(&w, r, &room);
            for (int64_t g = 0; g < w.groups; g++) {
                const Lanes product = product_of_codes(room.codes, x, g * size, fewer((g + 1) * size, columns));
                total = ADD_TIMES(total, product, room.scale[g]);
                offset += room.scale[g] * room.zero[g] * sums[g];
            }
            y[r] = SUM(total) - offset;
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
                int64_t c = g * size;
                for (; c + 16 <= end; c += 16)
                    STORE(to + c, TIMES(MINUS(lanes_of_codes(room.codes + c), room.zero[g]), room.scale[g]));
                for (; c < end; c++) to[c] = ((float)room.codes[c] - room.zero[g]) * room.scale[g];
            }
        }
        free(room.codes);
    }
    return failed;
}
