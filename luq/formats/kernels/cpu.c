/* Packed linears on a CPU: y = x W^T straight from the stored bits, and W unpacked fast.
 *
 * A plane holds one bit of every weight, row after row, lowest bit of a byte first. Sixteen bits of a plane are the mask under
 * which sixteen inputs are added, so a row costs one masked addition per plane and sixteen columns, and no code is ever unpacked.
 * Groups and blocks have any number of columns, the last one of a row the fewest; inputs have room for sixteen floats behind their end.
 * Products and sums are not contracted (-ffp-contract=off): the unpacked weights are bit for bit those of torch.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ALONE = 1 << 18 }; /* weights up to which one thread is done before another one would wake */

static inline float half_to_float(uint16_t h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
    if (exponent == 31) bits = sign | 0x7f800000 | mantissa << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | mantissa << 13;
    else {
        float value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float value;
    memcpy(&value, &bits, 4);
    return value;
#endif
}

/* Sixteen floats that are added to under a mask of sixteen bits. */
#if defined(__AVX512F__)
typedef __m512 Lanes;
#define ALL(value) _mm512_set1_ps(value)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD_IF(sum, mask, x) _mm512_mask_add_ps(sum, (__mmask16)(mask), sum, x)
#define ADD_TIMES(sum, x, factor) _mm512_fmadd_ps(x, _mm512_set1_ps(factor), sum)
#define TIMES(x, factor) _mm512_mul_ps(x, _mm512_set1_ps(factor))
#define MINUS(x, value) _mm512_sub_ps(x, _mm512_set1_ps(value))
#define SUM(x) _mm512_reduce_add_ps(x)
#else
typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef F16 Lanes;
static const I16 PLACE = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
static inline Lanes load_lanes(const float *p) { Lanes x; memcpy(&x, p, sizeof x); return x; }
static inline float sum_lanes(Lanes x) { float s = 0; for (int i = 0; i < 16; i++) s += x[i]; return s; }
#define ALL(value) ((Lanes){0} + (value))
#define LOAD(p) load_lanes(p)
#define STORE(p, x) memcpy(p, &(x), sizeof(Lanes))
#define ADD_IF(sum, mask, x) ((sum) + (F16)(((I16)(x)) & ((((I16){0} + (int32_t)(mask)) & PLACE) == PLACE)))
#define ADD_TIMES(sum, x, factor) ((sum) + (x) * (factor))
#define TIMES(x, factor) ((x) * (factor))
#define MINUS(x, value) ((x) - (value))
#define SUM(x) sum_lanes(x)
#endif

/* 64 bits from any place of a stream that is `bytes` long; what lies behind its end is zero. */
static inline uint64_t bits_at(const uint8_t *stream, int64_t bytes, int64_t at) {
    const int64_t from = at >> 3;
    const int shift = (int)(at & 7);
    uint64_t low = 0;
    if (bytes - from > 8) {
        memcpy(&low, stream + from, 8);
        return shift ? low >> shift | (uint64_t)stream[from + 8] << (64 - shift) : low;
    }
    for (int64_t i = 0; i < bytes - from; i++) low |= (uint64_t)stream[from + i] << (8 * i);
    return low >> shift;
}

/* Scales and zeros of a row's groups as floats, sixteen groups at a time; the arrays have room for that. */
static inline void row_grid(const uint16_t *scales, const uint8_t *zeros, int64_t zero_bytes, int64_t row, int64_t groups, int bits,
                            int64_t first, float *scale, float *zero) {
    for (int64_t g = 0; g < 16; g++) scale[g] = first + g < groups ? half_to_float(scales[row * groups + first + g]) : 0.0f;
    Lanes found = ALL(zeros ? 0.0f : (float)(1 << (bits - 1)));
    for (int b = 0; zeros && b < bits; b++)
        found = ADD_IF(found, bits_at(zeros + b * zero_bytes, zero_bytes, row * groups + first) & 0xffff, ALL((float)(1 << b)));
    STORE(zero, found);
}

#if defined(__AVX512VBMI__) && defined(__GFNI__)
#define WHOLE_CODES
/* Sum of code * x over 64 columns, added to two sums: faster than adding under each plane's masks. Eight bytes of each plane are
 * sorted so that a byte of every plane stands in each of eight words; turning these 8 x 8 bits over gives 64 codes. */
static inline __attribute__((always_inline)) void add_codes(const uint8_t *at, int64_t bytes, const float *x, Lanes *sum,
                                                            const int bits) {
    const __m512i word = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), ones = _mm512_set1_epi64(0x0101010101010101);
    const __m512i sorted = _mm512_add_epi8(_mm512_set1_epi64(0x0008101820283038), _mm512_mullo_epi64(word, ones));
    const __m512i one_bit_each = _mm512_set1_epi64((long long)0x8040201008040201);
    __m512i first = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m128i pairs[4];
    for (int b = 0; b < 4; b++) pairs[b] = _mm_setzero_si128();
    for (int b = 0; b < bits; b += 2) {
        const __m128i one = _mm_loadl_epi64((const __m128i *)(at + b * bytes));
        pairs[b / 2] = b + 1 < bits ? _mm_unpacklo_epi64(one, _mm_loadl_epi64((const __m128i *)(at + (b + 1) * bytes))) : one;
    }
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(pairs[0]), pairs[1], 1);
    __m512i planes = _mm512_zextsi256_si512(low);
    if (bits > 4) planes = _mm512_inserti64x4(planes, _mm256_inserti128_si256(_mm256_castsi128_si256(pairs[2]), pairs[3], 1), 1);
    const __m512i codes = _mm512_gf2p8affine_epi64_epi8(one_bit_each, _mm512_permutexvar_epi8(sorted, planes), 0);
    for (int q = 0; q < 4; q++) {
        const __m512i code = _mm512_maskz_permutexvar_epi8(0x1111111111111111, first, codes);
        sum[q & 1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), LOAD(x + 16 * q), sum[q & 1]);
        first = _mm512_add_epi32(first, _mm512_set1_epi32(16));
    }
}
#endif

static inline int64_t fewer(int64_t a, int64_t b) { return a < b ? a : b; }

/* The lowest bits of a mask of sixteen, for the `count` columns that are left. */
static inline uint64_t lowest(int64_t count) { return count < 16 ? ((uint64_t)1 << count) - 1 : 0xffff; }

/* Whether every group of every row begins with a byte and is whole registers. */
static inline int is_aligned(int64_t columns, int64_t size) { return columns % 16 == 0 && size % 16 == 0; }

/* y[row] of one row of an aligned integer grid; `bits` is a constant where this is inlined. sums[g] = sum of x over group g. */
static inline __attribute__((always_inline)) float integer_row(
    const uint8_t *codes, int64_t bytes, const uint16_t *scales, const uint8_t *zeros, int64_t zero_bytes, const float *x,
    const float *sums, int64_t row, int64_t columns, int64_t size, const int bits) {
    const int64_t groups = (columns + size - 1) / size;
    Lanes total = ALL(0.0f);
    float offset = 0, scale[16], zero[16];
    for (int64_t g = 0; g < groups; g++) {
        if (g % 16 == 0) row_grid(scales, zeros, zero_bytes, row, groups, bits, g, scale, zero);
        const uint8_t *at = codes + (row * columns + g * size) / 8;
        const int64_t registers = fewer(size, columns - g * size) / 16;
        Lanes part[8];
        for (int b = 0; b < bits; b++) part[b] = ALL(0.0f);
        int64_t c = 0;
#ifdef WHOLE_CODES
        Lanes sum[2] = {ALL(0.0f), ALL(0.0f)};
        for (; c + 4 <= registers; c += 4) add_codes(at + 2 * c, bytes, x + g * size + 16 * c, sum, bits);
        for (int i = 0; i < 2; i++) total = ADD_TIMES(total, sum[i], scale[g % 16]);
#endif
        for (; c < registers; c++) {
            Lanes in = LOAD(x + g * size + 16 * c);
            for (int b = 0; b < bits; b++) {
                uint16_t mask;
                memcpy(&mask, at + b * bytes + 2 * c, 2);
                part[b] = ADD_IF(part[b], mask, in);
            }
        }
        for (int b = 0; b < bits; b++) total = ADD_TIMES(total, part[b], scale[g % 16] * (float)(1 << b));
        offset += scale[g % 16] * zero[g % 16] * sums[g];
    }
    return SUM(total) - offset;
}

/* The same where groups begin between bytes or have another number of columns: the planes are read bit by bit. */
static inline __attribute__((always_inline)) float integer_row_anywhere(
    const uint8_t *codes, int64_t bytes, const uint16_t *scales, const uint8_t *zeros, int64_t zero_bytes, const float *x,
    const float *sums, int64_t row, int64_t columns, int64_t size, const int bits) {
    const int64_t groups = (columns + size - 1) / size;
    Lanes total = ALL(0.0f);
    float offset = 0, scale[16], zero[16];
    for (int64_t g = 0; g < groups; g++) {
        if (g % 16 == 0) row_grid(scales, zeros, zero_bytes, row, groups, bits, g, scale, zero);
        const int64_t end = fewer((g + 1) * size, columns);
        Lanes part[8];
        for (int b = 0; b < bits; b++) part[b] = ALL(0.0f);
        for (int64_t c = g * size; c < end; c += 64) {
            uint64_t word[8];
            for (int b = 0; b < bits; b++) word[b] = bits_at(codes + b * bytes, bytes, row * columns + c);
            for (int64_t i = 0; i < 64 && c + i < end; i += 16) {
                Lanes in = LOAD(x + c + i);
                for (int b = 0; b < bits; b++) part[b] = ADD_IF(part[b], word[b] >> i & lowest(end - c - i), in);
            }
        }
        for (int b = 0; b < bits; b++) total = ADD_TIMES(total, part[b], scale[g % 16] * (float)(1 << b));
        offset += scale[g % 16] * zero[g % 16] * sums[g];
    }
    return SUM(total) - offset;
}

/* size: columns of a group; sums: room for one float per group. */
void luq_integer_matvec(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, const float *x, float *sums, float *y,
                        int64_t rows, int64_t columns, int64_t size, int64_t bits) {
    const int64_t groups = (columns + size - 1) / size;
    const int64_t bytes = (rows * columns + 7) / 8, zero_bytes = (rows * groups + 7) / 8;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t end = fewer((g + 1) * size, columns);
        Lanes part = ALL(0.0f);
        for (int64_t c = g * size; c < end; c += 16) part = ADD_IF(part, lowest(end - c), LOAD(x + c));
        sums[g] = SUM(part);
    }
#define ROWS(row_of, n)                                                                                                  \
    _Pragma("omp parallel for schedule(static) if (rows * columns > ALONE)") for (int64_t r = 0; r < rows; r++) \
        y[r] = row_of(codes, bytes, scales, zeros, zero_bytes, x, sums, r, columns, size, n)
    if (is_aligned(columns, size)) switch (bits) {
        case 2: ROWS(integer_row, 2); break;
        case 3: ROWS(integer_row, 3); break;
        case 4: ROWS(integer_row, 4); break;
        case 8: ROWS(integer_row, 8); break;
        }
    else switch (bits) {
        case 2: ROWS(integer_row_anywhere, 2); break;
        case 3: ROWS(integer_row_anywhere, 3); break;
        case 4: ROWS(integer_row_anywhere, 4); break;
        case 8: ROWS(integer_row_anywhere, 8); break;
        }
}

/* Rows [first, last) of (code - zero) * scale into out [last - first, columns]. */
void luq_integer_unpack(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, float *out, int64_t first, int64_t last,
                        int64_t rows, int64_t columns, int64_t size, int64_t bits) {
    const int64_t groups = (columns + size - 1) / size;
    const int64_t bytes = (rows * columns + 7) / 8, zero_bytes = (rows * groups + 7) / 8;
    const int aligned = is_aligned(columns, size);
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = first; r < last; r++) {
        float scale[16], zero[16];
        for (int64_t g = 0; g < groups; g++) {
            if (g % 16 == 0) row_grid(scales, zeros, zero_bytes, r, groups, (int)bits, g, scale, zero);
            const int64_t end = fewer((g + 1) * size, columns);
            for (int64_t c = g * size; c < end; c += 16) {
                const int64_t from = r * columns + c;
                Lanes code = ALL(0.0f);
                for (int b = 0; b < (int)bits; b++) {
                    const uint8_t *plane = codes + b * bytes;
                    uint16_t mask;
                    if (aligned) memcpy(&mask, plane + from / 8, 2);
                    else mask = (uint16_t)bits_at(plane, bytes, from);
                    code = ADD_IF(code, mask, ALL((float)(1 << b)));
                }
                code = TIMES(MINUS(code, zero[g % 16]), scale[g % 16]);
                float *to = out + (r - first) * columns + c;
                if (end - c >= 16) {
                    STORE(to, code);
                    continue;
                }
                float rest[16];
                STORE(rest, code);
                memcpy(to, rest, (size_t)(end - c) * sizeof(float));
            }
        }
    }
}

/* Spread the lowest bits over the places that are set in `where`. */
static inline uint64_t deposit(uint64_t bits, uint64_t where) {
#if defined(__BMI2__)
    return _pdep_u64(bits, where);
#else
    uint64_t found = 0;
    for (; where; where &= where - 1, bits >>= 1)
        if (bits & 1) found |= where & -where;
    return found;
#endif
}

/* What a row of a binary weight says of 64 columns: sign, salient, sparse group, residual sign. */
typedef struct { uint64_t sign, salient, sparse, residual; } Word;
typedef struct {
    const uint8_t *signs, *salient, *flags, *residual;
    const void *scales;
    const uint16_t *tops;
    int64_t rows, columns, block, count;
} Binary;

/* Mean and scale of the four parts of a row's block: eight halves, or seven bytes that a top for 32 rows gives their size. */
static inline void numbers_at(const Binary *w, int64_t row, int64_t block, float *s) {
    static const float zero[] = {128, 0, 128, 0, 128, 0, 0}, limit[] = {127, 255, 127, 255, 127, 255, 255};
    const int64_t blocks = (w->columns + w->block - 1) / w->block, at = row * blocks + block, top = row / 32 * blocks + block;
    if (!w->tops) {
        for (int i = 0; i < 8; i++) s[i] = half_to_float(((const uint16_t *)w->scales)[at * 8 + i]);
        return;
    }
    s[6] = 0;
    for (int i = 0; i < 7; i++) {
        const float step = half_to_float(w->tops[top * 7 + i]) / limit[i];
        s[i == 6 ? 7 : i] = ((float)((const uint8_t *)w->scales)[at * 7 + i] - zero[i]) * step;
    }
}

/* Up to 64 columns of a row, those before `end`. `flag`, `rest`: how many flags and residual signs of this row were read before; both
 * are moved on. */
static inline Word word_at(const Binary *w, int64_t row, int64_t column, int64_t end, int64_t *flag, int64_t *rest) {
    const int64_t width = fewer(end - column, 64);
    const uint64_t all = width == 64 ? ~0ull : (1ull << width) - 1;
    const int64_t others = w->columns - w->count;
    Word word;
    word.salient = bits_at(w->salient, (w->columns + 7) / 8, column) & all;
    word.sign = bits_at(w->signs, (w->rows * w->columns + 7) / 8, row * w->columns + column) & all;
    const uint64_t plain = ~word.salient & all;
    word.sparse = deposit(bits_at(w->flags, (w->rows * others + 7) / 8, row * others + *flag), plain);
    word.residual = deposit(bits_at(w->residual, (w->rows * w->count + 7) / 8, row * w->count + *rest), word.salient);
    *flag += __builtin_popcountll(plain);
    *rest += __builtin_popcountll(word.salient);
    return word;
}

/* y = x W^T; sums: room for two floats per block, of all and of the salient columns' inputs. */
void luq_binary_matvec(const uint8_t *signs, const uint8_t *salient, const uint8_t *flags, const uint8_t *residual,
                       const void *scales, const uint16_t *tops, const float *x, float *sums, float *y, int64_t rows,
                       int64_t columns, int64_t block, int64_t count) {
    const Binary w = {signs, salient, flags, residual, scales, tops, rows, columns, block, count};
    const int64_t blocks = (columns + block - 1) / block;
    for (int64_t k = 0; k < blocks; k++) {
        const int64_t end = (k + 1) * block < columns ? (k + 1) * block : columns;
        sums[2 * k] = sums[2 * k + 1] = 0;
        for (int64_t c = k * block; c < end; c++) {
            sums[2 * k] += x[c];
            sums[2 * k + 1] += salient[c >> 3] >> (c & 7) & 1 ? x[c] : 0.0f;
        }
    }
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        float total = 0;
        int64_t flag = 0, rest = 0;
        for (int64_t k = 0; k < blocks; k++) {
            const int64_t end = (k + 1) * block < columns ? (k + 1) * block : columns;
            Lanes near = ALL(0.0f), far = ALL(0.0f), far_all = ALL(0.0f), double_ = ALL(0.0f), again = ALL(0.0f);
            for (int64_t c = k * block; c < end; c += 64) {
                const Word word = word_at(&w, r, c, end, &flag, &rest);
                const uint64_t on = word.sign, sparse = word.sparse, both = word.salient;
                for (int64_t q = 0; q < 64 && c + q < end; q += 16) {
                    Lanes in = LOAD(x + c + q);
                    near = ADD_IF(near, on >> q & ~(sparse >> q) & ~(both >> q) & 0xffff, in);
                    far = ADD_IF(far, on >> q & sparse >> q & 0xffff, in);
                    far_all = ADD_IF(far_all, sparse >> q & 0xffff, in);
                    double_ = ADD_IF(double_, on >> q & both >> q & 0xffff, in);
                    again = ADD_IF(again, word.residual >> q & 0xffff, in);
                }
            }
            float s[8];
            numbers_at(&w, r, k, s);
            const float all = sums[2 * k], twice = sums[2 * k + 1], sparse = SUM(far_all), dense = all - twice - sparse;
            total += s[0] * dense + s[1] * (2 * SUM(near) - dense) + s[2] * sparse + s[3] * (2 * SUM(far) - sparse);
            total += (s[4] + s[6]) * twice + s[5] * (2 * SUM(double_) - twice) + s[7] * (2 * SUM(again) - twice);
        }
        y[r] = total;
    }
}

/* Rows [first, last) into out [last - first, columns]; any block and any number of columns. */
void luq_binary_unpack(const uint8_t *signs, const uint8_t *salient, const uint8_t *flags, const uint8_t *residual,
                       const void *scales, const uint16_t *tops, float *out, int64_t first, int64_t last, int64_t rows,
                       int64_t columns, int64_t block, int64_t count) {
    const Binary w = {signs, salient, flags, residual, scales, tops, rows, columns, block, count};
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = first; r < last; r++) {
        int64_t flag = 0, rest = 0, known = -1;
        float value[8]; /* by sparse and sign; from 4 on by sign and residual sign of the salient columns */
        for (int64_t c = 0; c < columns; c += 64) {
            const Word word = word_at(&w, r, c, columns, &flag, &rest);
            for (int64_t i = 0; i < 64 && c + i < columns; i++) {
                if ((c + i) / block != known) {
                    float s[8];
                    known = (c + i) / block;
                    numbers_at(&w, r, known, s);
                    for (int n = 0; n < 4; n++) {
                        const float sign = n & 1 ? 1.0f : -1.0f, first_sign = n & 2 ? 1.0f : -1.0f;
                        const float once = s[4] + s[5] * first_sign;
                        value[n] = s[n & 2] + s[(n & 2) + 1] * sign;
                        value[4 + n] = once + s[6] + s[7] * sign;
                    }
                }
                const int sign = word.sign >> i & 1;
                const int at = word.salient >> i & 1 ? 4 + 2 * sign + (word.residual >> i & 1) : 2 * (word.sparse >> i & 1) + sign;
                out[(r - first) * columns + c + i] = value[at];
            }
        }
    }
}

/* One step of the trellis: `next` and, per stem (the window - bits last bits of a state), the best of its predecessors. Stems come in
 * sixteens. A stem's successors stand together, so that its least cost is spread over them. */
static inline __attribute__((always_inline)) void trellis_step(float value, const float *table, const float *cost, float *next,
                                                               uint8_t *choice, int64_t stems, const int bits) {
    const int fan = 1 << bits;
    for (int64_t j = 0; j < stems; j += 16) {
#if defined(__AVX512F__)
        __m512 least = _mm512_loadu_ps(cost + j);
        __m512i best = _mm512_setzero_si512();
        for (int a = 1; a < fan; a++) {
            const __m512 other = _mm512_loadu_ps(cost + j + a * stems);
            const __mmask16 less = _mm512_cmp_ps_mask(other, least, _CMP_LT_OQ);
            least = _mm512_mask_mov_ps(least, less, other);
            best = _mm512_mask_mov_epi32(best, less, _mm512_set1_epi32(a));
        }
        _mm_storeu_si128((__m128i *)(choice + j), _mm512_cvtepi32_epi8(best));
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int v = 0; v < fan; v++) {
            const __m512i from = _mm512_srli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16 * v)), (unsigned)bits);
            const __m512 away = _mm512_sub_ps(_mm512_set1_ps(value), _mm512_loadu_ps(table + (j << bits) + 16 * v));
            const __m512 sum = _mm512_add_ps(_mm512_permutexvar_ps(from, least), _mm512_mul_ps(away, away));
            _mm512_storeu_ps(next + (j << bits) + 16 * v, sum);
        }
#else
        for (int i = 0; i < 16; i++) {
            float least = cost[j + i];
            int best = 0;
            for (int a = 1; a < fan; a++) {
                const float other = cost[j + i + a * stems];
                if (other < least) least = other, best = a;
            }
            choice[j + i] = (uint8_t)best;
            for (int u = 0; u < fan; u++) {
                const float away = value - table[((j + i) << bits) + u];
                next[((j + i) << bits) + u] = least + away * away;
            }
        }
#endif
    }
}

/* Bits of a stream before its weight t, at `quarters` / 4 bits a weight. */
static inline int64_t bits_before(int64_t t, int64_t quarters) { return t * quarters / 4; }

/* Viterbi search of bit-shift trellises: each sequence of `length` values goes on from its own state, the last `window` bits of its
 * stream, and a step shifts its code's bits in from below. The least sum of (value - numbers[state])^2 wins; of equal ones the lowest.
 * path [sequences, length]: the states. window >= quarters / 4 + 4. Returns 0, or 1 without memory. */
int luq_trellis_encode(const float *values, const float *numbers, const int32_t *states, int32_t *path, int64_t sequences,
                       int64_t length, int64_t quarters, int64_t window) {
    const int64_t count = (int64_t)1 << window, most = count >> (quarters / 4); /* stems of the narrowest codes */
    int failed = 0;
#pragma omp parallel
    {
        float *memory = malloc(2 * (size_t)count * sizeof(float) + (size_t)(length * most));
        uint8_t *from = memory ? (uint8_t *)(memory + 2 * count) : NULL;
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t s = 0; s < sequences; s++) {
            if (!memory) continue;
            float *cost = memory, *next = memory + count;
            for (int64_t i = 0; i < count; i++) cost[i] = 1e30f;
            cost[states[s]] = 0;
            for (int64_t t = 0; t < length; t++) {
                const float value = values[s * length + t];
                const int64_t bits = bits_before(t + 1, quarters) - bits_before(t, quarters), stems = count >> bits;
                switch (bits) {
                case 1: trellis_step(value, numbers, cost, next, from + t * most, stems, 1); break;
                case 2: trellis_step(value, numbers, cost, next, from + t * most, stems, 2); break;
                case 3: trellis_step(value, numbers, cost, next, from + t * most, stems, 3); break;
                case 4: trellis_step(value, numbers, cost, next, from + t * most, stems, 4); break;
                }
                float *swap = cost;
                cost = next, next = swap;
            }
            int64_t at = 0;
            for (int64_t i = 1; i < count; i++)
                if (cost[i] < cost[at]) at = i;
            for (int64_t t = length - 1; t >= 0; t--) {
                const int64_t bits = bits_before(t + 1, quarters) - bits_before(t, quarters);
                path[s * length + t] = (int32_t)at;
                at = at >> bits | (int64_t)from[t * most + (at >> bits)] << (window - bits);
            }
        }
        free(memory);
    }
    return failed;
}

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

typedef struct { const uint8_t *codes; const float *table; int64_t width, window; } Coded;

#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define WHOLE_WINDOWS
#endif
typedef uint64_t L8 __attribute__((vector_size(64)));
typedef uint32_t U8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef float F8 __attribute__((vector_size(32)));

/* A row of trellis codes, of which sixteen weights are read at a time. */
typedef struct {
    const uint8_t *stream; /* of the strip */
    int64_t bytes;         /* of the stream */
    int64_t first;         /* bits before the row's first weight */
    int64_t row;           /* in the strip */
#ifdef WHOLE_WINDOWS
    /* Sixteen weights and their windows lie in sixteen bytes. Each lane takes the three that its window ends in, highest first. */
    __m512i taken, behind;
#endif
} Strand;

static inline __attribute__((always_inline)) Strand strand_of(const Coded *w, int64_t r, const int quarters) {
    Strand strand;
    strand.bytes = w->width * quarters / 2;
    strand.stream = w->codes + r / 16 * strand.bytes;
    strand.row = r % 16;
    strand.first = 4 * quarters * strand.row;
#ifdef WHOLE_WINDOWS
    uint8_t taken[64];
    uint32_t behind[16];
    for (int i = 0; i < 16; i++) {
        const int64_t last = strand.first % 8 + (i + 1) * quarters / 4 - 1; /* bit of the window, from the third byte on */
        for (int k = 0; k < 4; k++) taken[4 * i + k] = (uint8_t)(k < 3 ? last / 8 + 2 - k : 0x80); /* 0x80: zero */
        behind[i] = (uint32_t)(7 - last % 8);
    }
    strand.taken = _mm512_loadu_si512(taken);
    strand.behind = _mm512_loadu_si512(behind);
#endif
    return strand;
}

/* Sixteen weights from column c on, unscaled. Without a table a state stands for (sum of the bytes of FACTOR * state + OFFSET - 510)
 * / 128. */
static inline __attribute__((always_inline)) Lanes sixteen(const Coded *w, const Strand *strand, int64_t c, const int quarters) {
#ifdef WHOLE_WINDOWS
    if (!w->table) {
        const int64_t from = (strand->first + 4 * quarters * c) / 8 - 2;
        const uint8_t *at = strand->stream + from;
        uint8_t room[16] = {0};
        if (from < 0 || strand->bytes - from < 16) { /* before and behind the stream are zeros */
            for (int64_t i = from < 0 ? -from : 0; i < fewer(16, strand->bytes - from); i++) room[i] = at[i];
            at = room;
        }
        const __m512i near = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)at));
        const __m512i windows = _mm512_srlv_epi32(_mm512_shuffle_epi8(near, strand->taken), strand->behind);
        const __m512i states = _mm512_and_si512(windows, _mm512_set1_epi32((1 << w->window) - 1));
        const __m512i product = _mm512_mullo_epi32(states, _mm512_set1_epi32(0x3A43AB75));
        const __m512i mixed = _mm512_add_epi32(product, _mm512_set1_epi32(0x3A897E77));
        const __m512i sum = _mm512_dpbusd_epi32(_mm512_set1_epi32(-510), mixed, _mm512_set1_epi8(1));
        return TIMES(_mm512_cvtepi32_ps(sum), 0x1p-7f);
    }
#endif
    float numbers[16];
    const uint64_t mask = ((uint64_t)1 << w->window) - 1;
    for (int half = 0; half < 2; half++) { /* eight weights and a window are less than 64 bits */
        const int64_t end = strand->first + 4 * quarters * c + 2 * quarters * (half + 1);
        const uint64_t word = bits_until(strand->stream, end);
        L8 behind;
        for (int i = 0; i < 8; i++) behind[i] = (uint64_t)(2 * quarters - (i + 1) * quarters / 4);
        if (w->table) {
            for (int i = 0; i < 8; i++) numbers[8 * half + i] = w->table[word >> (2 * quarters - (i + 1) * quarters / 4) & mask];
            continue;
        }
        const U8 states = __builtin_convertvector(((L8){0} + word) >> behind & mask, U8);
        const U8 mixed = states * 0x3A43AB75u + 0x3A897E77u;
        const U8 pairs = (mixed & 0x00ff00ffu) + (mixed >> 8 & 0x00ff00ffu);
        const I8 sums = (I8)((pairs + (pairs >> 16)) & 0xffffu) - 510;
        const F8 eight = __builtin_convertvector(sums, F8) * 0x1p-7f;
        memcpy(numbers + 8 * half, &eight, sizeof eight);
    }
    return LOAD(numbers);
}

/* y = x W^T: x is rotated, multiplied and the result turned back. work: `width` floats, the columns filled up to a multiple of 16.
 * signs: of the columns and of the rows, then those between transforms that overlap, likewise (not read where none do). Lengths of
 * transforms and factors: of columns and rows. table: of format version 1, or NULL. */
void luq_trellis_matvec(const uint8_t *codes, const uint16_t *scales, const float *table, const float *signs, const float *x, float *work,
                        float *y, int64_t rows, int64_t columns, int64_t width, int64_t quarters, int64_t window, int64_t length_in,
                        int64_t length_out, const float *factors) {
    const Coded w = {codes, table, width, window};
    const float *row_signs = signs + columns, *between = row_signs + rows, *row_between = between + columns;
    for (int64_t c = 0; c < width; c++) work[c] = c < columns ? x[c] : 0.0f;
    rotate(work, columns, length_in, signs, between, factors[0]);
#define RUN(n)                                                                                                        \
    do {                                                                                                              \
        const Strand strand = strand_of(&w, r, n);                                                                    \
        for (int64_t c = 0; c < width; c += 16) total += sixteen(&w, &strand, c, n) * LOAD(work + c);                 \
    } while (0)
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        Lanes total = ALL(0.0f);
        BY_QUARTERS(RUN)
        y[r] = SUM(total) * half_to_float(scales[r / 16]);
    }
#undef RUN
    unrotate(y, rows, length_out, 1, 1, row_signs, row_between, factors[1]);
}

/* The weight [rows, columns], both rotations undone. */
void luq_trellis_unpack(const uint8_t *codes, const uint16_t *scales, const float *table, const float *signs, float *out, int64_t rows,
                        int64_t columns, int64_t width, int64_t quarters, int64_t window, int64_t length_in, int64_t length_out,
                        const float *factors) {
    const Coded w = {codes, table, width, window};
    const float *row_signs = signs + columns, *between = row_signs + rows, *row_between = between + columns;
#define RUN(n)                                                                                                        \
    do {                                                                                                              \
        const Strand strand = strand_of(&w, r, n);                                                                    \
        for (int64_t c = 0; c < width; c += 16) {                                                                     \
            const Lanes scaled = TIMES(sixteen(&w, &strand, c, n), scale);                                            \
            float value[16];                                                                                          \
            STORE(value, scaled);                                                                                     \
            memcpy(to + c, value, (size_t)fewer(16, columns - c) * sizeof(float));                                    \
        }                                                                                                             \
    } while (0)
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        const float scale = half_to_float(scales[r / 16]);
        float *to = out + r * columns;
        BY_QUARTERS(RUN)
        unrotate(to, columns, length_in, 1, 1, signs, between, factors[0]);
    }
#undef RUN
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t c = 0; c < columns; c += 64) {
        const int64_t lanes = columns - c < 64 ? columns - c : 64;
        unrotate(out + c, rows, length_out, columns, lanes, row_signs, row_between, factors[1]);
    }
}

/* BiLLM's searches: the squared error of every candidate, per row, so that the caller adds them up in a fixed order. */
enum { WIDEST = 1024 }; /* columns of a block */

/* Squared error of `n` values binarized twice; `sum` and `squares` are theirs. The remainder of the first order has the mean
 * -scale * mean(sign), and a binarization takes n * (mean^2 + scale^2) from the squares. */
static double binarized_twice(const float *w, int64_t n, double sum, double squares) {
    if (!n) return 0;
    const float mean = (float)(sum / (double)n);
    float part[16] = {0}, over[16] = {0};
    double away = 0, above = 0, second = 0;
    const int64_t whole = n / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16)
        for (int j = 0; j < 16; j++) part[j] += __builtin_fabsf(w[i + j] - mean), over[j] += w[i + j] >= mean ? 1.0f : 0.0f;
    for (int j = 0; j < 16; j++) away += part[j], above += over[j], part[j] = 0;
    for (int64_t i = whole; i < n; i++) away += __builtin_fabsf(w[i] - mean), above += w[i] >= mean;
    const float scale = (float)(away / (double)n), rest = -scale * (float)(2 * above / (double)n - 1), up = mean + scale, down = mean - scale;
    for (int64_t i = 0; i < whole; i += 16)
        for (int j = 0; j < 16; j++) part[j] += __builtin_fabsf(w[i + j] - (w[i + j] >= mean ? up : down) - rest);
    for (int j = 0; j < 16; j++) second += part[j];
    for (int64_t i = whole; i < n; i++) second += __builtin_fabsf(w[i] - (w[i] >= mean ? up : down) - rest);
    second /= (double)n;
    const double taken = (double)mean * mean + (double)scale * scale + (double)rest * rest + second * second;
    return squares - (double)n * taken;
}

/* errors [rows, most]: the first 1 .. most columns (they come in the order of their saliency) twice binarized, the rest too. */
void luq_billm_salient(const float *target, double *errors, int64_t rows, int64_t columns, int64_t most) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *w = target + r * columns;
        double all = 0, all_squares = 0, sum = 0, squares = 0;
        for (int64_t i = 0; i < columns; i++) all += w[i], all_squares += (double)w[i] * w[i];
        for (int64_t k = 1; k <= most; k++) {
            sum += w[k - 1], squares += (double)w[k - 1] * w[k - 1];
            const double first = binarized_twice(w, k, sum, squares);
            errors[r * most + k - 1] = first + binarized_twice(w + k, columns - k, all - sum, all_squares - squares);
        }
    }
}

/* How many of the rising w [n] are below `limit`. No branch depends on the values, which cannot be foretold. */
static inline int64_t below(const float *w, int64_t n, double limit) {
    int64_t low = 0;
    while (n > 1) {
        const int64_t half = n / 2;
        low += w[low + half - 1] < limit ? half : 0;
        n -= half;
    }
    return low + (n == 1 && w[low] < limit);
}

/* w [n] in rising order: each value goes where the number of smaller ones says, which for a row of a block is faster than sorting. */
static void put_in_order(const float *w, int64_t n, float *to) {
    for (int64_t i = 0; i < n; i++) {
        int32_t rank = 0;
        for (int64_t j = 0; j < i; j++) rank += w[j] <= w[i];
        for (int64_t j = i + 1; j < n; j++) rank += w[j] < w[i];
        to[rank] = w[i];
    }
}

/* Squared error of rising w [n] binarized, without those in [from, to); sums and squares [n + 1] are running sums. */
static double binarized_but(const float *w, const double *sums, const double *squares, int64_t n, int64_t from, int64_t to) {
    const double gap = sums[to] - sums[from], sum = sums[n] - sums[0] - gap, count = (double)(n - (to - from));
    if (count <= 0) return 0;
    const double mean = sum / count;
    const int64_t at = below(w, n, mean), less = at <= from ? at : at >= to ? at - (to - from) : from;
    const double low = at <= from ? sums[at] - sums[0] : at >= to ? sums[at] - sums[0] - gap : sums[from] - sums[0];
    const double scale = (sum - 2 * low - (count - 2 * (double)less) * mean) / count;
    return squares[n] - squares[0] - (squares[to] - squares[from]) - count * (mean * mean + scale * scale);
}

/* errors [rows, tried]: values with a magnitude over a threshold, and the others, each binarized. In order the others are a run. */
void luq_billm_split(const float *target, const float *thresholds, double *errors, int64_t rows, int64_t columns, int64_t tried) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float w[WIDEST];
        put_in_order(target + r * columns, columns, w);
        double sums[WIDEST + 1] = {0}, squares[WIDEST + 1] = {0};
        for (int64_t i = 0; i < columns; i++) sums[i + 1] = sums[i] + w[i], squares[i + 1] = squares[i] + (double)w[i] * w[i];
        int64_t from = below(w, columns, 0.0), to = from;
        for (int64_t t = 0; t < tried; t++) { /* thresholds rise */
            while (from > 0 && -w[from - 1] <= thresholds[t]) from--;
            while (to < columns && w[to] <= thresholds[t]) to++;
            const double inner = binarized_but(w + from, sums + from, squares + from, to - from, 0, 0);
            errors[r * tried + t] = inner + binarized_but(w, sums, squares, columns, from, to);
        }
    }
}

/* A row of ternary digits, five to a byte, as -1, 0 and 1: `digits` [256, 8] says what a byte holds. Returns where the row begins in
 * `room`, which has columns + 16 floats. */
static inline const float *ternary_row(const uint8_t *codes, const float *digits, int64_t row, int64_t columns, float *room) {
    const int64_t first = row * columns / 5, last = (row * columns + columns + 4) / 5;
    for (int64_t i = first; i < last; i++) memcpy(room + 5 * (i - first), digits + 8 * codes[i], 8 * sizeof(float));
    return room + row * columns % 5;
}

/* y = x W^T if there is an x, else the weight into out [rows, columns]. size: columns of a group. Returns 0, or 1 without memory. */
int luq_ternary(const uint8_t *codes, const uint16_t *scales, const float *digits, const float *x, float *out, int64_t rows,
                int64_t columns, int64_t size) {
    const int64_t groups = (columns + size - 1) / size;
    int failed = 0;
#pragma omp parallel if (rows * columns > ALONE)
    {
        float *room = malloc((size_t)(columns + 16) * sizeof(float));
        if (!room) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            if (!room) continue;
            const float *w = ternary_row(codes, digits, r, columns, room);
            float total = 0;
            for (int64_t g = 0; g < groups; g++) {
                const float scale = half_to_float(scales[r * groups + g]);
                const int64_t end = fewer((g + 1) * size, columns);
                if (!x) {
                    for (int64_t c = g * size; c < end; c++) out[r * columns + c] = w[c] * scale;
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
            if (x) out[r] = total;
        }
        free(room);
    }
    return failed;
}

/* Signs with row and column scales: y = x W^T if there is an x, else the weight into out [rows, columns]. `places` [count]: the
 * salient columns; work: columns + count + 2 * blocks + 16 floats. */
void luq_row_column(const uint8_t *signs, const uint8_t *residual, const uint16_t *by_row, const float *by_column, const float *beside,
                    const int32_t *places, const float *x, float *work, float *out, int64_t rows, int64_t columns, int64_t block,
                    int64_t count) {
    const int64_t blocks = (columns + block - 1) / block, bytes = (rows * columns + 7) / 8, more_bytes = (rows * count + 7) / 8;
    float *scaled = work, *again = work + columns, *sums = work + columns + count, *more = sums + blocks;
    for (int64_t k = 0; x && k < blocks; k++) sums[k] = more[k] = 0;
    for (int64_t c = 0; x && c < columns; c++) sums[c / block] += scaled[c] = x[c] * by_column[c];
    for (int64_t q = 0; x && q < count; q++) more[places[q] / block] += again[q] = x[places[q]] * beside[q];
#pragma omp parallel for schedule(static) if (rows * columns > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        Lanes all = ALL(0.0f);
        float total = 0;
        int64_t q = 0;
        for (int64_t k = 0; k < blocks; k++) {
            const int64_t end = (k + 1) * block < columns ? (k + 1) * block : columns;
            const float once = half_to_float(by_row[2 * (r * blocks + k)]), twice = half_to_float(by_row[2 * (r * blocks + k) + 1]);
            if (x) {
                Lanes part[2] = {ALL(0.0f), ALL(0.0f)}, other = ALL(0.0f);
                for (int64_t c = k * block; c < end; c += 64) {
                    const uint64_t word = bits_at(signs, bytes, r * columns + c);
                    for (int64_t i = 0; i < 64 && c + i < end; i += 16) {
                        const int64_t n = end - c - i < 16 ? end - c - i : 16;
                        part[i / 16 & 1] = ADD_IF(part[i / 16 & 1], word >> i & ((1u << n) - 1), LOAD(scaled + c + i));
                    }
                }
                while (q < count && places[q] < end) {
                    int64_t n = 0;
                    while (n < 16 && q + n < count && places[q + n] < end) n++;
                    other = ADD_IF(other, bits_at(residual, more_bytes, r * count + q) & ((1u << n) - 1), LOAD(again + q));
                    q += n;
                }
                for (int i = 0; i < 2; i++) all = ADD_TIMES(all, part[i], 2 * once);
                all = ADD_TIMES(all, other, 2 * twice);
                total -= once * sums[k] + twice * more[k];
                continue;
            }
            for (int64_t c = k * block; c < end; c++) {
                const float value = once * by_column[c];
                out[r * columns + c] = signs[(r * columns + c) >> 3] >> ((r * columns + c) & 7) & 1 ? value : -value;
            }
            for (; q < count && places[q] < end; q++) {
                const float value = twice * beside[q];
                out[r * columns + places[q]] += residual[(r * count + q) >> 3] >> ((r * count + q) & 7) & 1 ? value : -value;
            }
        }
        if (x) out[r] = SUM(all) + total;
    }
}
