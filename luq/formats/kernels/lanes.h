/* What all kernels share: sixteen floats at a time, and bits of a stream. */
#ifndef LANES_H
#define LANES_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

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
#define ADD_PRODUCT(sum, x, y) _mm512_fmadd_ps(x, y, sum)
#define PRODUCT(x, y) _mm512_mul_ps(x, y)
#define PLUS(x, y) _mm512_add_ps(x, y)
#define TIMES(x, factor) _mm512_mul_ps(x, _mm512_set1_ps(factor))
#define MINUS(x, value) _mm512_sub_ps(x, _mm512_set1_ps(value))
#define SUM(x) _mm512_reduce_add_ps(x)
#define CHOOSE(mask, x, other) _mm512_mask_mov_ps(other, (__mmask16)(mask), x) /* x where a bit is set */
#else
typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef F16 Lanes;
static const I16 PLACE = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
static inline Lanes load_lanes(const float *p) { Lanes x; memcpy(&x, p, sizeof x); return x; }
static inline void store_lanes(float *p, Lanes x) { memcpy(p, &x, sizeof x); }
static inline float sum_lanes(Lanes x) { float s = 0; for (int i = 0; i < 16; i++) s += x[i]; return s; }
#define ALL(value) ((Lanes){0} + (value))
#define LOAD(p) load_lanes(p)
#define STORE(p, x) store_lanes(p, x)
#define ADD_IF(sum, mask, x) ((sum) + (F16)(((I16)(x)) & ((((I16){0} + (int32_t)(mask)) & PLACE) == PLACE)))
#define ADD_TIMES(sum, x, factor) ((sum) + (x) * (factor))
#define ADD_PRODUCT(sum, x, y) ((sum) + (x) * (y))
#define PRODUCT(x, y) ((x) * (y))
#define PLUS(x, y) ((x) + (y))
#define TIMES(x, factor) ((x) * (factor))
#define MINUS(x, value) ((x) - (value))
#define SUM(x) sum_lanes(x)
#define CHOOSE(mask, x, other) choose_lanes((int32_t)(mask), x, other)
static inline Lanes choose_lanes(int32_t mask, Lanes x, Lanes other) {
    const I16 set = (((I16){0} + mask) & PLACE) == PLACE;
    return (Lanes)(((I16)x & set) | ((I16)other & ~set));
}
#endif

static inline int64_t fewer(int64_t a, int64_t b) { return a < b ? a : b; }

/* The lowest bits of a mask of sixteen, for the `count` columns that are left. */
static inline uint64_t lowest(int64_t count) { return count < 16 ? ((uint64_t)1 << count) - 1 : 0xffff; }

/* Room for `n` numbers or bytes, filled up so that whole registers can be read and written. */
static inline int64_t filled(int64_t n, int64_t register_size) { return (n + register_size - 1) / register_size * register_size; }

/* Zeros that begin with a cache line; registers read from others cost twice. NULL without memory. */
static inline void *zeros_of(size_t bytes) {
    const size_t whole = (size_t)filled((int64_t)bytes, 64);
    void *memory = aligned_alloc(64, whole ? whole : 64);
    return memory ? memset(memory, 0, whole) : NULL;
}

static inline void halves_to_floats(const uint16_t *halves, int64_t n, float *to) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) STORE(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(halves + i))));
#endif
    for (; i < n; i++) to[i] = half_to_float(halves[i]);
}

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

#endif
