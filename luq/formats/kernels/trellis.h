/* Trellis codes: products and weights. */
#ifndef TRELLIS_H
#define TRELLIS_H
#include "lanes.h"

/* 64 bits of a stream that end at bit `end`, the last one lowest; what lies before the stream is zero. */
static inline uint64_t bits_until(const uint8_t *stream, int64_t end) {
    const int64_t last = (end + 7) / 8;
    uint64_t word = 0;
    if (last >= 8) {
        memcpy(&word, stream + last - 8, 8);
        word = __builtin_bswap64(word);
    } else
        for (int64_t i = 0; i < last; i++) word = word << 8 | stream[i];
    return word >> (8 * last - end);
}

#define BY_QUARTERS(run)                                                                                              \
    switch (quarters) {                                                                                               \
    case 4: run(4); break;                                                                                            \
    case 5: run(5); break;                                                                                            \
    case 6: run(6); break;                                                                                            \
    case 7: run(7); break;                                                                                            \
    case 8: run(8); break;                                                                                            \
    case 12: run(12); break;                                                                                          \
    case 16: run(16); break;                                                                                          \
    default: run(quarters); break;                                                                                    \
    }

/* Blocks of a dimension whose neighbours stand `step` floats apart, for `lanes` columns beside each other: the same sums in the same
 * order as torch's, then the factor 1 / sqrt(block), as given. */
static inline __attribute__((always_inline)) void hadamard(float *x, int64_t size, int64_t block, int64_t step, int64_t lanes,
                                                           float factor) {
    for (int64_t half = 1; half < block; half *= 2)
        for (int64_t i = 0; i < size; i += 2 * half)
            for (int64_t j = i; j < i + half; j++)
                for (int64_t c = 0; c < lanes; c++) {
                    const float low = x[j * step + c], high = x[(j + half) * step + c];
                    x[j * step + c] = low + high;
                    x[(j + half) * step + c] = low - high;
                }
    for (int64_t j = 0; j < size; j++)
        for (int64_t c = 0; c < lanes; c++) x[j * step + c] *= factor;
}

/* A dimension is rotated by signs and a transform of `length` numbers at a time. Where `length` does not divide `size`, it is more than
 * half of it: of the first `length`, then, after the signs in `between`, of the last. */
static void rotate(float *x, int64_t size, int64_t length, const float *signs, const float *between, float factor) {
    const int64_t first = size / length * length;
    for (int64_t i = 0; i < size; i++) x[i] *= signs[i];
    hadamard(x, first, length, 1, 1, factor);
    if (first == size) return;
    for (int64_t i = 0; i < size; i++) x[i] *= between[i];
    hadamard(x + size - length, length, length, 1, 1, factor);
}

/* What undoes it, for `lanes` columns beside each other. */
static inline __attribute__((always_inline)) void unrotate(float *x, int64_t size, int64_t length, int64_t step, int64_t lanes,
                                                           const float *signs, const float *between, float factor) {
    const int64_t first = size / length * length;
    if (first < size) {
        hadamard(x + (size - length) * step, length, length, step, lanes, factor);
        for (int64_t i = 0; i < size; i++)
            for (int64_t c = 0; c < lanes; c++) x[i * step + c] *= between[i];
    }
    hadamard(x, first, length, step, lanes, factor);
    for (int64_t i = 0; i < size; i++)
        for (int64_t c = 0; c < lanes; c++) x[i * step + c] *= signs[i];
}

enum { FACTOR = 0x3A43AB75, OFFSET = 0x3A897E77, CENTRE = 510 }; /* of the computed code: luq/formats/trellis.py */

#if defined(__AVX512BW__)
#define WHOLE_WINDOWS
typedef __m512i Windows; /* sixteen numbers of 32 bits */
#elif defined(__AVX2__)
#define WHOLE_WINDOWS
typedef struct { __m256i half[2]; } Windows;
#endif
typedef uint64_t L8 __attribute__((vector_size(64)));
typedef uint32_t U8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef float F8 __attribute__((vector_size(32)));

/* How sixteen weights of one of a strip's rows are read. */
typedef struct {
    int64_t first; /* bits before the row's first weight */
#ifdef WHOLE_WINDOWS
    /* Sixteen weights and their windows lie in sixteen bytes. Each lane takes the three that its window ends in, highest first. */
    Windows taken, behind;
#endif
} Pattern;

typedef struct {
    const uint8_t *codes;
    const float *table; /* of format version 1, or NULL */
    int64_t width, window, quarters, bytes; /* bytes of a strip's stream */
    Pattern pattern[16];
} Coded;

typedef struct { const uint8_t *stream; int64_t bytes; const Pattern *pattern; } Strand;

static Coded coded_of(const uint8_t *codes, const float *table, int64_t width, int64_t quarters, int64_t window) {
    Coded coded = {.codes = codes, .table = table, .width = width, .window = window, .quarters = quarters, .bytes = width * quarters / 2};
    for (int row = 0; row < 16; row++) {
        Pattern *pattern = coded.pattern + row;
        pattern->first = 4 * quarters * row;
#ifdef WHOLE_WINDOWS
        uint8_t taken[64];
        uint32_t behind[16];
        for (int i = 0; i < 16; i++) {
            const int64_t last = pattern->first % 8 + (i + 1) * quarters / 4 - 1; /* bit of the window, from the third byte on */
            for (int k = 0; k < 4; k++) taken[4 * i + k] = (uint8_t)(k < 3 ? last / 8 + 2 - k : 0x80); /* 0x80: zero */
            behind[i] = (uint32_t)(7 - last % 8);
        }
        memcpy(&pattern->taken, taken, sizeof taken);
        memcpy(&pattern->behind, behind, sizeof behind);
#endif
    }
    return coded;
}

INLINE Strand strand_of(const Coded *w, int64_t r) { return (Strand){w->codes + r / 16 * w->bytes, w->bytes, w->pattern + r % 16}; }

#ifdef WHOLE_WINDOWS
/* Where the sixteen bytes begin that hold the windows of sixteen columns from c on. */
INLINE int64_t bytes_before(const Strand *strand, int64_t c, const int quarters) {
    return strand->pattern->first / 8 - 2 + c / 16 * (8 * quarters);
}

/* FACTOR * state + OFFSET of sixteen weights, whose windows lie in these bytes: their bytes' sums are what the states stand for. */
INLINE Windows mixed_states(const Coded *w, const Pattern *pattern, const uint8_t *at) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)at);
#if defined(__AVX512BW__)
    const __m512i near = _mm512_broadcast_i32x4(bytes);
    const __m512i windows = _mm512_srlv_epi32(_mm512_shuffle_epi8(near, pattern->taken), pattern->behind);
    const __m512i states = _mm512_and_si512(windows, _mm512_set1_epi32((1 << w->window) - 1));
    return _mm512_add_epi32(_mm512_mullo_epi32(states, _mm512_set1_epi32(FACTOR)), _mm512_set1_epi32(OFFSET));
#else
    const __m256i near = _mm256_broadcastsi128_si256(bytes);
    Windows mixed;
    for (int i = 0; i < 2; i++) {
        const __m256i windows = _mm256_srlv_epi32(_mm256_shuffle_epi8(near, pattern->taken.half[i]), pattern->behind.half[i]);
        const __m256i states = _mm256_and_si256(windows, _mm256_set1_epi32((1 << w->window) - 1));
        const __m256i product = _mm256_mullo_epi32(states, _mm256_set1_epi32(FACTOR));
        mixed.half[i] = _mm256_add_epi32(product, _mm256_set1_epi32(OFFSET));
    }
    return mixed;
#endif
}

/* The same of the first or the last sixteen columns: some of the bytes may be before or behind the stream, which are zeros. */
INLINE Windows mixed_at_end(const Coded *w, const Strand *strand, const Pattern *pattern, int64_t from) {
    uint8_t room[16] = {0};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const int64_t before = from < 0 ? -from : 0, behind = from + 16 - strand->bytes;
    const uint32_t there = 0xffffu << before & 0xffffu >> (behind > 0 ? behind : 0);
    _mm_storeu_si128((__m128i *)room, _mm_maskz_loadu_epi8((__mmask16)there, strand->stream + from));
    return mixed_states(w, pattern, room);
#endif
    for (int64_t i = from < 0 ? -from : 0; i < fewer(16, strand->bytes - from); i++) room[i] = strand->stream[from + i];
    return mixed_states(w, pattern, room);
}

/* Sums of four bytes. */
INLINE Windows byte_sums(Windows mixed) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), mixed, _mm512_set1_epi8(1));
#elif defined(__AVX512BW__)
    return _mm512_madd_epi16(_mm512_maddubs_epi16(mixed, _mm512_set1_epi8(1)), _mm512_set1_epi16(1));
#else
    for (int i = 0; i < 2; i++)
        mixed.half[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(mixed.half[i], _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
    return mixed;
#endif
}

INLINE Lanes lanes_of_windows(Windows numbers) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(numbers);
#else
    I16 whole;
    memcpy(&whole, &numbers, sizeof whole);
    return __builtin_convertvector(whole, Lanes);
#endif
}
#endif

/* 128 times sixteen weights from column c on, unscaled. Without a table a state stands for (sum of the bytes of FACTOR * state + OFFSET
 * - 510) / 128. */
INLINE Lanes sixteen(const Coded *w, const Strand *strand, int64_t c, const int quarters) {
#ifdef WHOLE_WINDOWS
    if (!w->table) {
        const int64_t from = bytes_before(strand, c, quarters);
        const int is_end = c == 0 || c + 16 == w->width;
        const Windows mixed = is_end ? mixed_at_end(w, strand, strand->pattern, from) : mixed_states(w, strand->pattern, strand->stream + from);
        return MINUS(lanes_of_windows(byte_sums(mixed)), (float)CENTRE);
    }
#endif
    float numbers[16];
    const uint64_t mask = ((uint64_t)1 << w->window) - 1;
    for (int half = 0; half < 2; half++) { /* eight weights and a window are less than 64 bits */
        const int64_t end = strand->pattern->first + 4 * quarters * c + 2 * quarters * (half + 1);
        const uint64_t word = bits_until(strand->stream, end);
        L8 behind;
        for (int i = 0; i < 8; i++) behind[i] = (uint64_t)(2 * quarters - (i + 1) * quarters / 4);
        if (w->table) {
            for (int i = 0; i < 8; i++)
                numbers[8 * half + i] = 128 * w->table[word >> (2 * quarters - (i + 1) * quarters / 4) & mask];
            continue;
        }
        const U8 states = __builtin_convertvector(((L8){0} + word) >> behind & mask, U8);
        const U8 mixed = states * (uint32_t)FACTOR + (uint32_t)OFFSET;
        const U8 pairs = (mixed & 0x00ff00ffu) + (mixed >> 8 & 0x00ff00ffu);
        const I8 sums = (I8)((pairs + (pairs >> 16)) & 0xffffu) - CENTRE;
        const F8 eight = __builtin_convertvector(sums, F8);
        memcpy(numbers + 8 * half, &eight, sizeof eight);
    }
    return LOAD(numbers);
}

/* 128 times the unscaled sum of a row's weights and x. */
INLINE Lanes strand_sum(const Coded *w, int64_t r, const float *x, const int quarters) {
    const Strand strand = strand_of(w, r);
    Lanes even = ALL(0.0f), odd = ALL(0.0f); /* two sums: an addition waits for the one before */
    int64_t c = 0;
#ifdef WHOLE_WINDOWS
    if (!w->table) {
        even = PRODUCT(sixteen(w, &strand, 0, quarters), LOAD(x));
        const uint8_t *at = strand.stream + bytes_before(&strand, 16, quarters);
        for (c = 16; c + 48 <= w->width; c += 32, at += 16 * quarters) {
            const Lanes first = lanes_of_windows(byte_sums(mixed_states(w, strand.pattern, at)));
            const Lanes second = lanes_of_windows(byte_sums(mixed_states(w, strand.pattern, at + 8 * quarters)));
            even = ADD_PRODUCT(even, MINUS(first, (float)CENTRE), LOAD(x + c));
            odd = ADD_PRODUCT(odd, MINUS(second, (float)CENTRE), LOAD(x + c + 16));
        }
    }
#endif
    for (; c < w->width; c += 16) even = ADD_PRODUCT(even, sixteen(w, &strand, c, quarters), LOAD(x + c));
    return PLUS(even, odd);
}

/* y = W x of one token, both rotated; x [width]. table: of format version 1, or NULL. */
void luq_trellis_matvec(const uint8_t *codes, const uint16_t *scales, const float *table, const float *x, float *y, int64_t rows,
                        int64_t width, int64_t quarters, int64_t window) {
    const Coded w = coded_of(codes, table, width, quarters, window);
#define RUN(n) total = strand_sum(&w, r, x, n)
#pragma omp parallel for schedule(static) if (rows * width > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        Lanes total;
        BY_QUARTERS(RUN)
        y[r] = SUM(total) * (0x1p-7f * half_to_float(scales[r / 16]));
    }
#undef RUN
}

/* Rows [first, last) of the rotated weight into out [last - first, width]. */
void luq_trellis_unpack(const uint8_t *codes, const uint16_t *scales, const float *table, float *out, int64_t first, int64_t last,
                        int64_t width, int64_t quarters, int64_t window) {
    const Coded w = coded_of(codes, table, width, quarters, window);
#define RUN(n)                                                                                                        \
    do {                                                                                                              \
        const Strand strand = strand_of(&w, r);                                                                    \
        for (int64_t c = 0; c < width; c += 16) STORE(to + c, TIMES(sixteen(&w, &strand, c, n), scale));              \
    } while (0)
#pragma omp parallel for schedule(static) if ((last - first) * width > ALONE)
    for (int64_t r = first; r < last; r++) {
        const float scale = 0x1p-7f * half_to_float(scales[r / 16]); /* powers of two are exact */
        float *to = out + (r - first) * width;
        BY_QUARTERS(RUN)
    }
#undef RUN
}

/* signs: of the columns and of the rows, then those between transforms that overlap, likewise (not read where none do). Lengths of
 * transforms and factors: of columns and rows. width: columns, filled up to a multiple of 16. */

/* Rotated inputs [tokens, width] of x [tokens, columns]. */
void luq_trellis_turn(const float *x, float *out, const float *signs, const float *factors, int64_t rows, int64_t columns, int64_t width,
                      int64_t length_in, int64_t length_out, int64_t tokens) {
    const float *between = signs + columns + rows;
    (void)length_out;
#pragma omp parallel for schedule(static) if (tokens * width > ALONE)
    for (int64_t t = 0; t < tokens; t++) {
        float *to = out + t * width;
        memcpy(to, x + t * columns, (size_t)columns * sizeof(float));
        for (int64_t c = columns; c < width; c++) to[c] = 0.0f;
        rotate(to, columns, length_in, signs, between, factors[0]);
    }
}

/* Outputs [tokens, rows] turned back, in place. */
void luq_trellis_turn_back(float *y, const float *signs, const float *factors, int64_t rows, int64_t columns, int64_t width,
                           int64_t length_in, int64_t length_out, int64_t tokens) {
    const float *row_signs = signs + columns, *row_between = row_signs + rows + columns;
    (void)width, (void)length_in;
#pragma omp parallel for schedule(static) if (tokens * rows > ALONE)
    for (int64_t t = 0; t < tokens; t++) unrotate(y + t * rows, rows, length_out, 1, 1, row_signs, row_between, factors[1]);
}

/* The weight [rows, columns] with both rotations undone, in place. */
void luq_trellis_straighten(float *out, const float *signs, const float *factors, int64_t rows, int64_t columns, int64_t width,
                            int64_t length_in, int64_t length_out) {
    const float *row_signs = signs + columns, *between = row_signs + rows, *row_between = between + columns;
    (void)width;
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = 0; r < rows; r++) unrotate(out + r * columns, columns, length_in, 1, 1, signs, between, factors[0]);
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t c = 0; c < columns; c += 64) {
        const int64_t lanes = columns - c < 64 ? columns - c : 64;
        unrotate(out + c, rows, length_out, columns, lanes, row_signs, row_between, factors[1]);
    }
}

#endif
