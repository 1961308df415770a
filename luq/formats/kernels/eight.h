/* Products with inputs that are rounded to 8 bits, summed in integers.
 *
 * Groups of columns are cut into segments of at most 128. In a segment an input x is about d q, with d = max |x| / 127 and q a whole
 * number. With codes c, a scale s and a zero point z
 *     sum x w = sum d q s (c - z) = s d (sum c q - z sum q),
 * of which sum c q is exact. A row's codes are bytes, or two of them, of which the first counts four times.
 */
#include "lanes.h"

enum { SEGMENT = 128, TOKENS = 16, STRIP = 16, ROWS_AT_ONCE = 4, TILE_BYTES = 1 << 18 };

typedef struct {
    int64_t columns, size, groups, per_group, segments;
    int64_t pad;     /* bytes of a segment's inputs, with zeros behind them */
    int64_t inputs;  /* bytes of a token's inputs, with room */
    int64_t room;    /* segments, with room */
    int64_t *begin, *end; /* columns of each segment; some of a shorter last group are empty */
} Cuts;

static Cuts cuts_of(int64_t columns, int64_t size) {
    Cuts cuts = {.columns = columns, .size = size, .groups = (columns + size - 1) / size};
    const int64_t longest = fewer(size, columns);
    cuts.per_group = (longest + SEGMENT - 1) / SEGMENT;
    cuts.segments = cuts.groups * cuts.per_group;
    cuts.pad = filled(fewer(longest, SEGMENT), 64);
    cuts.inputs = filled(cuts.segments * cuts.pad, 256);
    cuts.room = filled(cuts.segments, 64) + 64;
    return cuts;
}

/* Where segments begin and end: numbers to be freed, or NULL without memory. */
static int64_t *cut(Cuts *cuts) {
    cuts->begin = malloc((size_t)(2 * cuts->segments) * sizeof(int64_t));
    if (!cuts->begin) return NULL;
    cuts->end = cuts->begin + cuts->segments;
    for (int64_t k = 0; k < cuts->segments; k++) {
        const int64_t group = k / cuts->per_group, group_end = fewer((group + 1) * cuts->size, cuts->columns);
        cuts->begin[k] = fewer(group * cuts->size + k % cuts->per_group * SEGMENT, group_end);
        cuts->end[k] = fewer(cuts->begin[k] + SEGMENT, group_end);
    }
    return cuts->begin;
}

/* Whether a column's input stands where the column is. */
static inline int is_natural(const Cuts *cuts) { return cuts->size % 64 == 0 && (cuts->size <= SEGMENT || cuts->size % SEGMENT == 0); }

/* A row's codes, scales and zeros by segment, and how they are read. */
typedef struct Source Source;
struct Source {
    const void *weight;
    int64_t rows, columns, size;
    int planes;     /* bytes of a code */
    int small;      /* whether all codes are below 128 */
    int64_t arranged; /* bytes of a token's inputs in an order that `strip` wants, or 0 */
    void (*decode)(const Source *, const Cuts *, int64_t row, uint8_t *codes, int64_t stride, float *scale, float *zero);
    void (*arrange)(const Source *, const Cuts *, const int8_t *q, int8_t *to);
    /* Products of up to sixteen rows with one token, straight from the stored bits, or NULL. */
    void (*strip)(const Source *, const Cuts *, int64_t first, int64_t count, const int8_t *q, const float *d, const float *dq,
                  float *scale, float *zero, float *y);
};

/* Scales of groups as those of segments, in place. */
static inline void spread(const Cuts *cuts, float *by_group) {
    for (int64_t k = cuts->segments - 1; cuts->per_group > 1 && k >= 0; k--) by_group[k] = by_group[k / cuts->per_group];
}

/* One token: q [inputs], d and dq = d sum q [room], all of them zeros before. What is not finite makes d NaN. */
static void round_token(const Cuts *cuts, const float *x, int8_t *q, float *d, float *dq) {
    for (int64_t k = 0; k < cuts->segments; k++) {
        const float *from = x + cuts->begin[k];
        const int64_t n = cuts->end[k] - cuts->begin[k];
        int8_t *to = q + k * cuts->pad;
        int32_t most = 0, sum = 0; /* floats without a sign are in the order of their bits */
        for (int64_t i = 0; i < n; i++) {
            int32_t bits;
            memcpy(&bits, from + i, sizeof bits);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof largest);
        if (most >= 0x7f800000) {
            d[k] = dq[k] = __builtin_nanf("");
            continue;
        }
        const float step = largest / 127.0f;
        if (!(step > 0x1p-100f)) continue;
        const float inverse = 127.0f / largest, middle = 0x1.8p23f; /* adding it rounds to whole numbers */
        for (int64_t i = 0; i < n; i++) {
            const int32_t whole = (int32_t)((from[i] * inverse + middle) - middle);
            to[i] = (int8_t)whole;
            sum += whole;
        }
        d[k] = step;
        dq[k] = step * (float)sum;
    }
}

/* Sixteen sums of four products of bytes. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define EIGHT_TILES
typedef __m512i Sums;
#define NO_SUMS _mm512_setzero_si512()
#define FLOATS(sums) _mm512_cvtepi32_ps(sums)
#define ADD_BYTES(sums, codes, q, small) _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(codes), _mm512_loadu_si512(q))
#define FOUR_TIMES(sums) _mm512_slli_epi32(sums, 2)
#else
typedef int32_t W16 __attribute__((vector_size(64)));
typedef W16 Sums;
typedef float R16 __attribute__((vector_size(64)));
#define NO_SUMS ((W16){0})
#define FLOATS(sums) floats_of(sums)
#define FOUR_TIMES(sums) ((sums) << 2)
INLINE Lanes floats_of(Sums sums) {
    const R16 floats = __builtin_convertvector(sums, R16);
    Lanes lanes;
    memcpy(&lanes, &floats, sizeof lanes);
    return lanes;
}
INLINE Sums ADD_BYTES(Sums sums, const uint8_t *codes, const int8_t *q, const int small) {
#if defined(__AVX2__)
    for (int half = 0; half < 2; half++) {
        const __m256i c = _mm256_loadu_si256((const __m256i *)(codes + 32 * half));
        const __m256i x = _mm256_loadu_si256((const __m256i *)(q + 32 * half));
        __m256i four;
        if (small) four = _mm256_madd_epi16(_mm256_maddubs_epi16(c, x), _mm256_set1_epi16(1));
        else { /* two products of large codes do not fit into 16 bits */
            const __m256i even = _mm256_and_si256(c, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(c, 8);
            const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x_odd = _mm256_srai_epi16(x, 8);
            four = _mm256_add_epi32(_mm256_madd_epi16(even, x_even), _mm256_madd_epi16(odd, x_odd));
        }
        __m256i sum;
        memcpy(&sum, (char *)&sums + 32 * half, sizeof sum);
        sum = _mm256_add_epi32(sum, four);
        memcpy((char *)&sums + 32 * half, &sum, sizeof sum);
    }
#else
    (void)small;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) sums[i] += (int32_t)codes[4 * i + j] * q[4 * i + j];
#endif
    return sums;
}
#endif

/* Factors of the segments' sums, scale * d (which may take the place of the scales), and what the zero points take away: sum of scale * zero * dq. */
INLINE float factors_of(const Cuts *cuts, const float *scale, const float *zero, const float *d, const float *dq, float *factor) {
    Lanes offset = ALL(0.0f);
    for (int64_t k = 0; k < cuts->segments; k += 16) {
        const Lanes of_row = LOAD(scale + k);
        offset = ADD_PRODUCT(offset, PRODUCT(of_row, LOAD(zero + k)), LOAD(dq + k));
        STORE(factor + k, PRODUCT(of_row, LOAD(d + k)));
    }
    return SUM(offset);
}

/* The product of a decoded row and a token; factor: room for that of each segment. */
INLINE float product_of_bytes(const Source *w, const Cuts *cuts, const uint8_t *codes, int64_t stride, const float *scale,
                              const float *zero, const int8_t *q, const float *d, const float *dq, float *factor, const int small) {
    (void)small;
    const float offset = factors_of(cuts, scale, zero, d, dq, factor);
    Lanes total = ALL(0.0f);
    for (int64_t k = 0; k < cuts->segments; k++) {
        const uint8_t *at = codes + cuts->begin[k];
        Sums sums = NO_SUMS;
        for (int plane = 0; plane < w->planes; plane++) {
            if (plane) sums = FOUR_TIMES(sums);
            for (int64_t c = 0; c < cuts->pad; c += 64) sums = ADD_BYTES(sums, at + plane * stride + c, q + k * cuts->pad + c, small);
        }
        total = ADD_TIMES(total, FLOATS(sums), factor[k]);
    }
    return SUM(total) - offset;
}

/* Memory of a thread: codes of a tile, numbers of its rows, and outputs. */
typedef struct { uint8_t *codes; float *scale, *zero, *factor, *out; int64_t stride; } TileRoom;

static TileRoom tile_room(const Source *w, const Cuts *cuts, int64_t rows) {
    TileRoom room = {.stride = filled(cuts->columns, 256) + 2 * SEGMENT};
    const size_t codes = filled(rows * room.stride * w->planes, 64), numbers = (size_t)(rows * cuts->room);
    uint8_t *memory = zeros_of(codes + (3 * numbers + (size_t)(rows * 2 * TOKENS)) * sizeof(float));
    if (!memory) return room;
    room.codes = memory;
    room.scale = (float *)(memory + codes);
    room.zero = room.scale + numbers;
    room.factor = room.zero + numbers;
    room.out = room.factor + numbers;
    return room;
}

/* Rounded inputs of all tokens. */
typedef struct { int8_t *q, *arranged; float *d, *dq; } Inputs;

static int rounded(const Source *w, const Cuts *cuts, const float *x, int64_t tokens, Inputs *in) {
    const int64_t bytes = filled(tokens * (cuts->inputs + w->arranged), 64);
    int8_t *memory = zeros_of((size_t)bytes + (size_t)(2 * tokens * cuts->room) * sizeof(float));
    if (!memory) return 1;
    *in = (Inputs){memory, memory + tokens * cuts->inputs, (float *)(memory + bytes), (float *)(memory + bytes) + tokens * cuts->room};
#pragma omp parallel for schedule(static) if (tokens * cuts->columns > ALONE)
    for (int64_t t = 0; t < tokens; t++) {
        int8_t *q = in->q + t * cuts->inputs;
        round_token(cuts, x + t * cuts->columns, q, in->d + t * cuts->room, in->dq + t * cuts->room);
        if (w->arranged) w->arrange(w, cuts, q, in->arranged + t * w->arranged);
    }
    return 0;
}

#ifdef EIGHT_TILES
/* Inputs of sixteen tokens, four columns of each beside each other, and their numbers by segment. */
static int interleaved(const Cuts *cuts, const Inputs *in, int64_t tokens, Inputs *to) {
    const int64_t blocks = filled(tokens, 2 * TOKENS) / TOKENS;
    const size_t bytes = (size_t)(blocks * TOKENS * cuts->inputs), numbers = (size_t)(blocks * TOKENS * cuts->segments);
    int8_t *memory = zeros_of(bytes + 2 * numbers * sizeof(float));
    if (!memory) return 1;
    *to = (Inputs){memory, NULL, (float *)(memory + bytes), (float *)(memory + bytes) + numbers};
#pragma omp parallel for schedule(static) if (tokens * cuts->columns > ALONE)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t t = 0; t < TOKENS && block * TOKENS + t < tokens; t++) {
            const int8_t *q = in->q + (block * TOKENS + t) * cuts->inputs;
            int8_t *near = to->q + block * TOKENS * cuts->inputs + 4 * t;
            for (int64_t c = 0; c < cuts->inputs; c += 4) memcpy(near + TOKENS * c, q + c, 4);
            for (int64_t k = 0; k < cuts->segments; k++) {
                const int64_t at = (block * cuts->segments + k) * TOKENS + t, from = (block * TOKENS + t) * cuts->room + k;
                to->d[at] = in->d[from];
                to->dq[at] = in->dq[from];
            }
        }
    return 0;
}

/* Products of four rows with 32 tokens into out [4, 32]: sums of a segment stay in registers. */
INLINE void rows_and_tokens(const Source *w, const Cuts *cuts, const TileRoom *room, int64_t row, const Inputs *in, int64_t block,
                            float *out) {
    __m512 total[ROWS_AT_ONCE][2];
    const int8_t *x[2] = {in->q + block * TOKENS * cuts->inputs, in->q + (block + 1) * TOKENS * cuts->inputs};
    for (int r = 0; r < ROWS_AT_ONCE; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < cuts->segments; k++) {
        const int64_t begin = cuts->begin[k], width = cuts->end[k] - begin;
        __m512i sums[ROWS_AT_ONCE][2];
        for (int r = 0; r < ROWS_AT_ONCE; r++) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
        for (int plane = 0; plane < w->planes; plane++) {
            const uint8_t *codes = room->codes + (row * w->planes + plane) * room->stride + begin;
            for (int r = 0; plane && r < ROWS_AT_ONCE; r++)
                for (int i = 0; i < 2; i++) sums[r][i] = _mm512_slli_epi32(sums[r][i], 2);
            for (int64_t c = 0; c < width; c += 4) {
                __m512i q[2];
                for (int i = 0; i < 2; i++) q[i] = _mm512_loadu_si512(x[i] + TOKENS * (k * cuts->pad + c));
                for (int r = 0; r < ROWS_AT_ONCE; r++) {
                    int32_t four;
                    memcpy(&four, codes + r * w->planes * room->stride + c, 4);
                    const __m512i code = _mm512_set1_epi32(four);
                    for (int i = 0; i < 2; i++) sums[r][i] = _mm512_dpbusd_epi32(sums[r][i], code, q[i]);
                }
            }
        }
        for (int i = 0; i < 2; i++) {
            const int64_t at = ((block + i) * cuts->segments + k) * TOKENS;
            const __m512 d = _mm512_loadu_ps(in->d + at), dq = _mm512_loadu_ps(in->dq + at);
            for (int r = 0; r < ROWS_AT_ONCE; r++) {
                const int64_t number = (row + r) * cuts->room + k;
                const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][i]), d);
                const __m512 centred = _mm512_fnmadd_ps(_mm512_set1_ps(room->zero[number]), dq, sum);
                total[r][i] = _mm512_fmadd_ps(_mm512_set1_ps(room->scale[number]), centred, total[r][i]);
            }
        }
    }
    for (int r = 0; r < ROWS_AT_ONCE; r++)
        for (int i = 0; i < 2; i++) _mm512_storeu_ps(out + r * 2 * TOKENS + i * TOKENS, total[r][i]);
}

/* A tile of decoded rows [first, first + count) with all tokens. */
static void tile_product(const Source *w, const Cuts *cuts, const TileRoom *room, int64_t first, int64_t count, const Inputs *in,
                         int64_t tokens, float *y) {
    for (int64_t block = 0; block * TOKENS < tokens; block += 2) {
        for (int64_t row = 0; row < count; row += ROWS_AT_ONCE)
            rows_and_tokens(w, cuts, room, row, in, block, room->out + row * 2 * TOKENS);
        for (int64_t t = 0; t < fewer(2 * TOKENS, tokens - block * TOKENS); t++)
            for (int64_t row = 0; row < count; row++)
                y[(block * TOKENS + t) * w->rows + first + row] = room->out[row * 2 * TOKENS + t];
    }
}
#endif

/* Rows [first, first + count), a token at a time. */
static void few_tokens(const Source *w, const Cuts *cuts, const TileRoom *room, int64_t first, int64_t count, const Inputs *in,
                       int64_t tokens, float *y) {
    for (int64_t row = 0; !w->strip && row < count; row++)
        w->decode(w, cuts, first + row, room->codes + row * w->planes * room->stride, room->stride, room->scale + row * cuts->room,
                  room->zero + row * cuts->room);
    for (int64_t t = 0; t < tokens; t++) {
        const int8_t *q = in->q + t * cuts->inputs;
        const float *d = in->d + t * cuts->room, *dq = in->dq + t * cuts->room;
        const int8_t *arranged = w->arranged ? in->arranged + t * w->arranged : q;
        for (int64_t row = 0; w->strip && row < count; row += STRIP)
            w->strip(w, cuts, first + row, fewer(STRIP, count - row), arranged, d, dq, room->scale, room->zero, y + t * w->rows + first + row);
        for (int64_t row = 0; !w->strip && row < count; row++) {
            const float *scale = room->scale + row * cuts->room, *zero = room->zero + row * cuts->room;
            const uint8_t *codes = room->codes + row * w->planes * room->stride;
            float *to = y + t * w->rows + first + row;
            if (w->small) *to = product_of_bytes(w, cuts, codes, room->stride, scale, zero, q, d, dq, room->factor, 1);
            else *to = product_of_bytes(w, cuts, codes, room->stride, scale, zero, q, d, dq, room->factor, 0);
        }
    }
}

/* y [tokens, rows] = x W^T. Returns 0, or 1 without memory. */
static int eight_products(const Source *given, const float *x, float *y, int64_t tokens) {
    Source source = *given;
    Cuts cuts = cuts_of(source.columns, source.size);
    int is_tiled = 0, failed = 0;
#ifdef EIGHT_TILES
    is_tiled = tokens > (source.strip ? 6 : 3); /* from which on a decoded tile pays; measured */
#endif
    if (is_tiled || !source.strip) source.strip = NULL, source.arranged = 0;
    const Source *w = &source;
    Inputs in = {NULL, NULL, NULL, NULL}, near = {NULL, NULL, NULL, NULL};
    if (!cut(&cuts)) return 1;
    failed = rounded(w, &cuts, x, tokens, &in);
#ifdef EIGHT_TILES
    if (!failed && is_tiled) failed = interleaved(&cuts, &in, tokens, &near);
#endif
    if (failed) {
        free(in.q);
        free(cuts.begin);
        return 1;
    }
    const int64_t most = TILE_BYTES / ((filled(cuts.columns, 256) + 2 * SEGMENT) * w->planes) / 16 * 16;
    const int64_t tile = most > 64 ? 64 : most < 16 ? 16 : most, tiles = (w->rows + tile - 1) / tile;
#pragma omp parallel if (w->rows * cuts.columns > ALONE)
    {
        const TileRoom room = tile_room(w, &cuts, tile);
        if (!room.codes) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < tiles; i++) {
            if (!room.codes) continue;
            const int64_t first = i * tile, count = fewer(tile, w->rows - first);
            if (!is_tiled) {
                few_tokens(w, &cuts, &room, first, count, &in, tokens, y);
                continue;
            }
#ifdef EIGHT_TILES
            for (int64_t row = 0; row < count; row++)
                w->decode(w, &cuts, first + row, room.codes + row * w->planes * room.stride, room.stride, room.scale + row * cuts.room,
                          room.zero + row * cuts.room);
            tile_product(w, &cuts, &room, first, count, &near, tokens, y);
#endif
        }
        free(room.codes);
    }
    free(near.q);
    free(in.q);
    free(cuts.begin);
    return failed;
}
