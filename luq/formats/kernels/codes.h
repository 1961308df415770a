/* Integer codes of bit planes as bytes, and their grid. */
#ifndef CODES_H
#define CODES_H
#include "lanes.h"

typedef struct {
    const uint8_t *codes, *zeros; /* planes; no zeros where all of them are the middle of the codes */
    const uint16_t *scales;
    int64_t rows, columns, size, groups, bytes, zero_bytes; /* size: columns of a group; bytes of a plane */
    int bits;
} Grid;

static inline Grid grid_of(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, int64_t rows, int64_t columns,
                           int64_t size, int64_t bits) {
    const int64_t groups = (columns + size - 1) / size;
    return (Grid){codes, zeros, scales, rows, columns, size, groups, (rows * columns + 7) / 8, (rows * groups + 7) / 8, (int)bits};
}

#if defined(__AVX512VBMI__) && defined(__GFNI__)
#define WHOLE_CODES
/* Bits that a code takes in a byte of `slots_at`, and columns that these bytes hold. */
#define SLOT(bits) ((bits) <= 2 ? 2 : (bits) <= 4 ? 4 : 8)
#define BLOCK(bits) (512 / SLOT(bits))

/* Codes of a block of columns. A plane has 64 / slot bytes of it. They are sorted so that a byte of every plane, for each chunk of 64
 * columns, stands in each of eight words; turning these 8 x 8 bits over gives bytes that hold a code of each chunk, the first lowest. */
INLINE __m512i slots_at(const uint8_t *at, int64_t bytes, const int bits) {
    const __m512i word = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), ones = _mm512_set1_epi64(0x0101010101010101);
    const long long order = SLOT(bits) == 2 ? 0x0020082810301838 : SLOT(bits) == 4 ? 0x0010203008182838 : 0x0008101820283038;
    const __m512i sorted = _mm512_add_epi8(_mm512_set1_epi64(order), _mm512_mullo_epi64(word, ones));
    const __m512i one_bit_each = _mm512_set1_epi64((long long)0x8040201008040201);
    __m512i planes;
    if (SLOT(bits) == 2) {
        planes = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)at));
        if (bits > 1) planes = _mm512_inserti64x4(planes, _mm256_loadu_si256((const __m256i *)(at + bytes)), 1);
    } else if (SLOT(bits) == 4) {
        planes = _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)at));
        planes = _mm512_inserti32x4(planes, _mm_loadu_si128((const __m128i *)(at + bytes)), 1);
        planes = _mm512_inserti32x4(planes, _mm_loadu_si128((const __m128i *)(at + 2 * bytes)), 2);
        if (bits > 3) planes = _mm512_inserti32x4(planes, _mm_loadu_si128((const __m128i *)(at + 3 * bytes)), 3);
    } else {
        __m128i pair[4];
        for (int b = 0; b < 8; b += 2) {
            pair[b / 2] = b < bits ? _mm_loadl_epi64((const __m128i *)(at + b * bytes)) : _mm_setzero_si128();
            if (b + 1 < bits) pair[b / 2] = _mm_unpacklo_epi64(pair[b / 2], _mm_loadl_epi64((const __m128i *)(at + (b + 1) * bytes)));
        }
        const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(pair[0]), pair[1], 1);
        const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(pair[2]), pair[3], 1);
        planes = _mm512_inserti64x4(_mm512_zextsi256_si512(low), high, 1);
    }
    return _mm512_gf2p8affine_epi64_epi8(one_bit_each, _mm512_permutexvar_epi8(sorted, planes), 0);
}

/* The codes of 64 columns of a block. */
INLINE __m512i chunk_of(__m512i slots, int chunk, const int bits) {
    if (SLOT(bits) == 8) return slots;
    return _mm512_and_si512(_mm512_srli_epi16(slots, (unsigned)(SLOT(bits) * chunk)), _mm512_set1_epi8((1 << SLOT(bits)) - 1));
}

/* The last bytes of each plane of a row, with zeros behind them, as if planes had 32 bytes. */
INLINE void copy_tail(const uint8_t *at, int64_t bytes, int64_t count, uint8_t *tail, const int bits) {
    memset(tail, 0, 32 * 8);
    for (int b = 0; b < bits; b++) memcpy(tail + 32 * b, at + b * bytes, (size_t)count);
}
#endif

/* 64 codes of which word[b] has the bits b. */
INLINE void codes_of_words(const uint64_t *word, uint8_t *to, const int bits) {
#if defined(WHOLE_CODES)
    uint64_t words[8] = {0};
    for (int b = 0; b < bits; b++) words[b] = word[b];
    _mm512_storeu_si512(to, slots_at((const uint8_t *)words, 8, 8));
#elif defined(__AVX2__)
    const __m256i lane = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    for (int half = 0; half < 2; half++) {
        __m256i codes = _mm256_setzero_si256();
        for (int b = 0; b < bits; b++) {
            const __m256i near = _mm256_shuffle_epi8(_mm256_set1_epi32((int)(word[b] >> 32 * half)), lane);
            const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(near, bit), bit);
            codes = _mm256_or_si256(codes, _mm256_and_si256(set, _mm256_set1_epi8((char)(1 << b))));
        }
        _mm256_storeu_si256((__m256i *)(to + 32 * half), codes);
    }
#else
    for (int i = 0; i < 8; i++) { /* a byte of a plane becomes eight bytes of 0 or 1 */
        uint64_t codes = 0;
        for (int b = 0; b < bits; b++) {
            const uint64_t spread = (word[b] >> 8 * i & 0xff) * 0x0101010101010101 & 0x8040201008040201;
            codes |= ((spread + 0x7f7f7f7f7f7f7f7f) >> 7 & 0x0101010101010101) << b;
        }
        for (int j = 0; j < 8; j++) to[8 * i + j] = (uint8_t)(codes >> 8 * j);
    }
#endif
}

/* A row's codes; `to` has room for whole chunks of 256. */
INLINE void codes_of_row(const Grid *w, int64_t row, uint8_t *to, const int bits) {
    const int64_t from = row * w->columns;
    int64_t c = 0;
#if defined(WHOLE_CODES)
    if (w->columns % 8 == 0)
        for (; c < w->columns; c += BLOCK(bits)) {
            const uint8_t *at = w->codes + (from + c) / 8;
            uint8_t tail[32 * 8];
            const int whole = c + BLOCK(bits) <= w->columns;
            if (!whole) copy_tail(at, w->bytes, (w->columns - c) / 8, tail, bits);
            const __m512i slots = slots_at(whole ? at : tail, whole ? w->bytes : 32, bits);
            for (int chunk = 0; chunk < BLOCK(bits) / 64; chunk++) _mm512_storeu_si512(to + c + 64 * chunk, chunk_of(slots, chunk, bits));
        }
#endif
    for (; c < w->columns; c += 64) {
        uint64_t word[8];
        for (int b = 0; b < bits; b++) word[b] = bits_at(w->codes + b * w->bytes, w->bytes, from + c);
        codes_of_words(word, to + c, bits);
    }
}

/* Scales and zeros of a row's groups as floats; the arrays have room for whole chunks of 64. */
static inline void grid_of_row(const Grid *w, int64_t row, float *scale, float *zero) {
    halves_to_floats(w->scales + row * w->groups, w->groups, scale);
    for (int64_t g = 0; !w->zeros && g < w->groups; g++) zero[g] = (float)(1 << (w->bits - 1));
    for (int64_t g = 0; w->zeros && g < w->groups; g += 64) {
        for (int i = 0; i < 64; i += 16) STORE(zero + g + i, ALL(0.0f));
        for (int b = 0; b < w->bits; b++) {
            const uint64_t word = bits_at(w->zeros + b * w->zero_bytes, w->zero_bytes, row * w->groups + g);
            for (int i = 0; i < 64 && g + i < w->groups; i += 16)
                STORE(zero + g + i, ADD_IF(LOAD(zero + g + i), word >> i & 0xffff, ALL((float)(1 << b))));
        }
    }
}

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

/* Sum of (code - zero) * x over the columns [from, end). */
INLINE Lanes product_of_codes(const uint8_t *codes, const float *x, int64_t from, int64_t end, float zero) {
    Lanes sum0 = ALL(0.0f), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    int64_t c = from;
    for (; c + 64 <= end; c += 64) {
        sum0 = ADD_PRODUCT(sum0, MINUS(lanes_of_codes(codes + c), zero), LOAD(x + c));
        sum1 = ADD_PRODUCT(sum1, MINUS(lanes_of_codes(codes + c + 16), zero), LOAD(x + c + 16));
        sum2 = ADD_PRODUCT(sum2, MINUS(lanes_of_codes(codes + c + 32), zero), LOAD(x + c + 32));
        sum3 = ADD_PRODUCT(sum3, MINUS(lanes_of_codes(codes + c + 48), zero), LOAD(x + c + 48));
    }
    for (; c < end; c += 16) sum0 = ADD_IF(sum0, lowest(end - c), PRODUCT(MINUS(lanes_of_codes(codes + c), zero), LOAD(x + c)));
    return PLUS(PLUS(sum0, sum1), PLUS(sum2, sum3));
}

/* (code - zero) * scale of the columns [from, end). */
INLINE void store_codes(const uint8_t *codes, float *to, int64_t from, int64_t end, float zero, float scale) {
    int64_t c = from;
    for (; c + 16 <= end; c += 16) STORE(to + c, TIMES(MINUS(lanes_of_codes(codes + c), zero), scale));
    for (; c < end; c++) to[c] = ((float)codes[c] - zero) * scale;
}

#define BY_BITS(bits, run)     \
    switch (bits) {            \
    case 2: run(2); break;     \
    case 3: run(3); break;     \
    case 4: run(4); break;     \
    case 8: run(8); break;     \
    default: run(bits); break; \
    }

#endif
