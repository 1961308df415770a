/* Weights as `eight.h` reads them. */
#include "codes.h"
#include "eight.h"
#include "ternary.h"
#include "trellis.h"

static void decode_integers(const Source *w, const Cuts *cuts, int64_t row, uint8_t *codes, int64_t stride, float *scale, float *zero) {
    const Grid *grid = w->weight;
    (void)stride;
#define READ(n) codes_of_row(grid, row, codes, n)
    BY_BITS(grid->bits, READ)
#undef READ
    grid_of_row(grid, row, scale, zero);
    spread(cuts, scale);
    spread(cuts, zero);
}

#if defined(WHOLE_CODES) && defined(EIGHT_TILES)
/* A row straight from its planes. Segments are `pad` columns. */
INLINE float integer_product(const Grid *grid, const Cuts *cuts, int64_t row, const int8_t *q, const float *factor, const int bits,
                             const int64_t pad) {
    const uint8_t *codes = grid->codes + row * grid->columns / 8;
    __m512i sums = _mm512_setzero_si512();
    __m512 total = _mm512_setzero_ps();
    for (int64_t c = 0; c < cuts->segments * pad; c += BLOCK(bits)) {
        const uint8_t *at = codes + c / 8;
        uint8_t tail[32 * 8];
        const int whole = c + BLOCK(bits) <= grid->columns;
        if (!whole) copy_tail(at, grid->bytes, c < grid->columns ? (grid->columns - c) / 8 : 0, tail, bits);
        const __m512i slots = slots_at(whole ? at : tail, whole ? grid->bytes : 32, bits);
        for (int chunk = 0; chunk < BLOCK(bits) / 64; chunk++) {
            const int64_t column = c + 64 * chunk;
            sums = _mm512_dpbusd_epi32(sums, chunk_of(slots, chunk, bits), _mm512_loadu_si512(q + column));
            if ((column + 64) % pad) continue;
            total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(factor[column / pad]), total);
            sums = _mm512_setzero_si512();
        }
    }
    return _mm512_reduce_add_ps(total);
}

static void integer_strip(const Source *w, const Cuts *cuts, int64_t first, int64_t count, const int8_t *q, const float *d,
                          const float *dq, float *scale, float *zero, float *y) {
    const Grid *grid = w->weight;
#define PRODUCT_OF(n) \
    y[row] = (cuts->pad == 64 ? integer_product(grid, cuts, first + row, q, scale, n, 64) \
                              : integer_product(grid, cuts, first + row, q, scale, n, 128)) - offset
    for (int64_t row = 0; row < count; row++) {
        grid_of_row(grid, first + row, scale, zero);
        spread(cuts, scale);
        spread(cuts, zero);
        const float offset = factors_of(cuts, scale, zero, d, dq, scale);
        BY_BITS(grid->bits, PRODUCT_OF)
    }
#undef PRODUCT_OF
}
#endif

/* Integers on a grid; see luq_integer_matvec. Returns 0, or 1 without memory. */
int luq_integer_eight(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, const float *x, float *y, int64_t tokens,
                      int64_t rows, int64_t columns, int64_t size, int64_t bits) {
    const Grid grid = grid_of(codes, scales, zeros, rows, columns, size, bits);
    Source w = {.weight = &grid, .rows = rows, .columns = columns, .size = size, .planes = 1, .small = bits < 8, .decode = decode_integers};
#if defined(WHOLE_CODES) && defined(EIGHT_TILES)
    const Cuts cuts = cuts_of(columns, size);
    if (is_natural(&cuts) && columns % 8 == 0) w.strip = integer_strip;
#endif
    return eight_products(&w, x, y, tokens);
}

typedef struct { const uint8_t *codes, *digits; const uint16_t *scales; int64_t columns, groups, bytes; uint8_t four[256], fifth[256]; } Trits;

static void ternary_numbers(const Trits *trits, const Cuts *cuts, int64_t row, float *scale, float *zero) {
    halves_to_floats(trits->scales + row * trits->groups, trits->groups, scale);
    spread(cuts, scale);
    for (int64_t k = 0; k < cuts->segments; k++) zero[k] = 1.0f;
}

static void decode_trits(const Source *w, const Cuts *cuts, int64_t row, uint8_t *codes, int64_t stride, float *scale, float *zero) {
    const Trits *trits = w->weight;
    (void)stride;
    digits_of_row(trits->codes, trits->digits, row, trits->columns, codes);
    ternary_numbers(trits, cuts, row, scale, zero);
}

#if defined(__AVX512VBMI__) && defined(__AVX512VL__) && defined(EIGHT_TILES)
#define WHOLE_TRITS
enum { PHASES = 5, DIGITS = 5, HALF = 32 };

/* Inputs by phase (digits of a row's first byte that belong to the row before), pair of segments, digit and segment: 32 bytes that meet
 * 32 bytes of codes. A segment's 128 columns and the four before them lie in 27 bytes. */
static void arrange_trits(const Source *w, const Cuts *cuts, const int8_t *q, int8_t *to) {
    (void)w;
    const int64_t pairs = (cuts->segments + 1) / 2;
    for (int64_t phase = 0; phase < PHASES; phase++)
        for (int64_t k = 0; k < cuts->segments; k++) {
            const int64_t before = (phase + cuts->begin[k]) % 5;
            int8_t *near = to + ((phase * pairs + k / 2) * DIGITS * 2 + k % 2) * HALF;
            for (int64_t c = 0; c < cuts->end[k] - cuts->begin[k]; c++)
                near[(before + c) % 5 * 2 * HALF + (before + c) / 5] = q[k * cuts->pad + c];
        }
}

/* 32 bytes of codes, or those that there are. */
INLINE __m256i codes_near(const Trits *trits, int64_t byte) {
    if (byte + HALF <= trits->bytes) return _mm256_loadu_si256((const __m256i *)(trits->codes + byte));
    const __mmask32 there = byte < trits->bytes ? (1u << (trits->bytes - byte)) - 1 : 0;
    return _mm256_maskz_loadu_epi8(there, trits->codes + byte);
}

/* Entries of a table of 256 bytes. */
INLINE __m512i looked_up(const uint8_t *table, __m512i index) {
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), index, _mm512_loadu_si512(table + 64));
    const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), index, _mm512_loadu_si512(table + 192));
    return _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(index), high);
}

/* A row straight from its bytes, two segments at a time. */
static float ternary_product(const Trits *trits, const Cuts *cuts, int64_t row, const int8_t *q, const float *factor) {
    const int64_t pairs = (cuts->segments + 1) / 2, start = row * trits->columns, phase = start % 5;
    const int8_t *near = q + phase * pairs * DIGITS * 2 * HALF;
    const __m512i low = _mm512_set1_epi8(3);
    __m512 total = _mm512_setzero_ps();
    for (int64_t k = 0; k < cuts->segments; k += 2, near += DIGITS * 2 * HALF) {
        __m512i codes = _mm512_zextsi256_si512(codes_near(trits, start / 5 + (phase + cuts->begin[k]) / 5));
        if (k + 1 < cuts->segments) codes = _mm512_inserti64x4(codes, codes_near(trits, start / 5 + (phase + cuts->begin[k + 1]) / 5), 1);
        const __m512i four = looked_up(trits->four, codes);
        __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), looked_up(trits->fifth, codes), _mm512_loadu_si512(near + 4 * 2 * HALF));
        for (int digit = 0; digit < 4; digit++) {
            const __m512i digits = _mm512_and_si512(_mm512_srli_epi16(four, (unsigned)(2 * digit)), low);
            sums = _mm512_dpbusd_epi32(sums, digits, _mm512_loadu_si512(near + digit * 2 * HALF));
        }
        const __m512 factors = _mm512_mask_mov_ps(_mm512_set1_ps(factor[k]), 0xff00, _mm512_set1_ps(factor[k + 1]));
        total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factors, total);
    }
    return _mm512_reduce_add_ps(total);
}

static void ternary_strip(const Source *w, const Cuts *cuts, int64_t first, int64_t count, const int8_t *q, const float *d,
                          const float *dq, float *scale, float *zero, float *y) {
    const Trits *trits = w->weight;
    for (int64_t k = 0; k < cuts->segments; k++) zero[k] = 1.0f;
    for (int64_t row = 0; row < count; row++) {
        halves_to_floats(trits->scales + (first + row) * trits->groups, trits->groups, scale);
        spread(cuts, scale);
        const float offset = factors_of(cuts, scale, zero, d, dq, scale);
        y[row] = ternary_product(trits, cuts, first + row, q, scale) - offset;
    }
}
#endif

/* Ternary digits; see luq_ternary. digits [256, 8]: 0, 1 or 2 of a byte. Returns 0, or 1 without memory. */
int luq_ternary_eight(const uint8_t *codes, const uint16_t *scales, const uint8_t *digits, const float *x, float *y, int64_t tokens,
                      int64_t rows, int64_t columns, int64_t size) {
    Trits trits = {.codes = codes, .digits = digits, .scales = scales, .columns = columns, .groups = (columns + size - 1) / size,
                   .bytes = (rows * columns + 4) / 5};
    Source w = {.weight = &trits, .rows = rows, .columns = columns, .size = size, .planes = 1, .small = 1, .decode = decode_trits};
#ifdef WHOLE_TRITS
    for (int i = 0; i < 256; i++) {
        const uint8_t *digit = digits + 8 * i;
        trits.four[i] = (uint8_t)(digit[0] | digit[1] << 2 | digit[2] << 4 | digit[3] << 6);
        trits.fifth[i] = digit[4];
    }
    const Cuts cuts = cuts_of(columns, size);
    w.arranged = PHASES * ((cuts.segments + 1) / 2) * DIGITS * 2 * HALF;
    w.arrange = arrange_trits;
    w.strip = ternary_strip;
#endif
    return eight_products(&w, x, y, tokens);
}

typedef struct { Coded coded; const uint16_t *scales; } Strips;

#ifdef WHOLE_WINDOWS
static void strip_numbers(const Strips *strips, const Cuts *cuts, int64_t row, float *scale, float *zero) {
    const float of_strip = 0x1p-7f * half_to_float(strips->scales[row / 16]);
    for (int64_t k = 0; k < cuts->segments; k++) scale[k] = of_strip, zero[k] = (float)CENTRE;
}

/* Sixteen sums of four bytes, from 0 to 1020: their quarters and the rest. */
INLINE void store_sums(Windows sums, uint8_t *quarter, uint8_t *rest) {
#if defined(__AVX512BW__)
    _mm_storeu_si128((__m128i *)quarter, _mm512_cvtepi32_epi8(_mm512_srli_epi32(sums, 2)));
    _mm_storeu_si128((__m128i *)rest, _mm512_cvtepi32_epi8(_mm512_and_si512(sums, _mm512_set1_epi32(3))));
#else
    uint32_t whole[16];
    memcpy(whole, &sums, sizeof whole);
    for (int i = 0; i < 16; i++) quarter[i] = (uint8_t)(whole[i] >> 2), rest[i] = whole[i] & 3;
#endif
}

static void decode_strips(const Source *w, const Cuts *cuts, int64_t row, uint8_t *codes, int64_t stride, float *scale, float *zero) {
    const Strips *strips = w->weight;
    const int64_t quarters = strips->coded.quarters;
#define RUN(n)                                                                                                        \
    do {                                                                                                              \
        const Strand strand = strand_of(&strips->coded, row);                                                      \
        for (int64_t c = 0; c < cuts->columns; c += 16) {                                                             \
            const int64_t from = bytes_before(&strand, c, n);                                                         \
            const int is_end = c == 0 || c + 16 == cuts->columns;                                                     \
            const Windows mixed = is_end ? mixed_at_end(&strips->coded, &strand, strand.pattern, from)                                \
                                         : mixed_states(&strips->coded, strand.pattern, strand.stream + from);               \
            store_sums(byte_sums(mixed), codes + c, codes + stride + c);                                              \
        }                                                                                                             \
    } while (0)
    BY_QUARTERS(RUN)
#undef RUN
    strip_numbers(strips, cuts, row, scale, zero);
}

#ifdef EIGHT_TILES
/* Every input four times: a state's four bytes meet it. */
static void repeat_inputs(const Source *w, const Cuts *cuts, const int8_t *q, int8_t *to) {
    (void)w;
    for (int64_t c = 0; c < cuts->columns; c++) memset(to + 4 * c, q[c], 4);
}

/* Four rows of a strip, whose bytes stand `quarters` / 2 behind each other's, and sixteen columns: added to their sums. Rows of odd
 * `quarters` begin in the middle of a byte by turns. */
#define ADD_STATES(states)                                                                       \
    do {                                                                                         \
        const __m512i inputs = _mm512_loadu_si512(q + 4 * c);                                    \
        sum0 = _mm512_dpbusd_epi32(sum0, states(even, 0), inputs);                               \
        sum1 = _mm512_dpbusd_epi32(sum1, states(odd, quarters / 2), inputs);                     \
        sum2 = _mm512_dpbusd_epi32(sum2, states(even, quarters), inputs);                        \
        sum3 = _mm512_dpbusd_epi32(sum3, states(odd, 3 * quarters / 2), inputs);                 \
    } while (0)
#define INSIDE(pattern, behind) mixed_states(coded, &pattern, strand.stream + from + (behind))
#define AT_END(pattern, behind) mixed_at_end(coded, &strand, &pattern, from + (behind))

INLINE void four_strands(const Strips *strips, const Cuts *cuts, int64_t row, const int8_t *q, const float *d, float *y,
                         const int quarters) {
    const Coded *coded = &strips->coded;
    const int64_t last = cuts->columns - 16, step = 8 * quarters;
    const Strand strand = strand_of(coded, row);
    const Pattern even = strand.pattern[0], odd = strand.pattern[quarters % 2];
    int64_t from = bytes_before(&strand, 0, quarters);
    __m512 total0 = _mm512_setzero_ps(), total1 = total0, total2 = total0, total3 = total0;
    for (int64_t k = 0; k < cuts->segments; k++) {
        const int64_t end = fewer(cuts->end[k], last);
        int64_t c = cuts->begin[k];
        __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        if (c == 0 && c < last) {
            ADD_STATES(AT_END);
            c = 16, from += step;
        }
        for (; c < end; c += 16, from += step) ADD_STATES(INSIDE);
        if (c == last && c < cuts->end[k]) ADD_STATES(AT_END);
        const __m512 of_segment = _mm512_set1_ps(d[k]);
        total0 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum0), of_segment, total0);
        total1 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum1), of_segment, total1);
        total2 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum2), of_segment, total2);
        total3 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum3), of_segment, total3);
    }
    y[0] = _mm512_reduce_add_ps(total0);
    y[1] = _mm512_reduce_add_ps(total1);
    y[2] = _mm512_reduce_add_ps(total2);
    y[3] = _mm512_reduce_add_ps(total3);
}
#undef ADD_STATES
#undef INSIDE
#undef AT_END

static void strands_strip(const Source *w, const Cuts *cuts, int64_t first, int64_t count, const int8_t *q, const float *d,
                          const float *dq, float *scale, float *zero, float *y) {
    const Strips *strips = w->weight;
    const int64_t quarters = strips->coded.quarters;
    const float of_strip = 0x1p-7f * half_to_float(strips->scales[first / 16]);
    float sums[STRIP], offset = 0;
    (void)scale, (void)zero;
    for (int64_t k = 0; k < cuts->segments; k++) offset += dq[k];
#define RUN(n) \
    for (int64_t row = 0; row < STRIP; row += ROWS_AT_ONCE) four_strands(strips, cuts, first + row, q, d, sums + row, n)
    BY_QUARTERS(RUN)
#undef RUN
    for (int64_t row = 0; row < count; row++) y[row] = (sums[row] - (float)CENTRE * offset) * of_strip;
}
#endif
#endif

/* Computed trellis codes; x [tokens, width] and y are rotated. Returns 0, 1 without memory, or 2 where there is no such kernel. */
int luq_trellis_eight(const uint8_t *codes, const uint16_t *scales, const float *x, float *y, int64_t tokens, int64_t rows, int64_t width,
                      int64_t quarters, int64_t window) {
#ifdef WHOLE_WINDOWS
    const Strips strips = {coded_of(codes, NULL, width, quarters, window), scales};
    Source w = {.weight = &strips, .rows = rows, .columns = width, .size = width, .planes = 2, .small = 0, .decode = decode_strips};
#ifdef EIGHT_TILES
    w.arranged = 4 * width;
    w.arrange = repeat_inputs;
    w.strip = strands_strip;
#endif
    return eight_products(&w, x, y, tokens);
#else
    (void)codes, (void)scales, (void)x, (void)y, (void)tokens, (void)rows, (void)width, (void)quarters, (void)window;
    return 2;
#endif
}
