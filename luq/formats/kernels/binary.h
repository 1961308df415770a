/* Signs in groups (BiLLM), and signs with row and column scales (ARB-LLM). */
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

/* What a row's weights can be in a block: by sparse and sign; from 4 on by sign and residual sign of the salient columns. */
static inline void values_of(const Binary *w, int64_t row, int64_t block, float *value) {
    float s[8];
    numbers_at(w, row, block, s);
    for (int n = 0; n < 4; n++) {
        const float sign = n & 1 ? 1.0f : -1.0f, first_sign = n & 2 ? 1.0f : -1.0f;
        const float once = s[4] + s[5] * first_sign;
        value[n] = s[n & 2] + s[(n & 2) + 1] * sign;
        value[4 + n] = once + s[6] + s[7] * sign;
    }
}

/* Rows [first, last) into out [last - first, columns]; any block and any number of columns. */
void luq_binary_unpack(const uint8_t *signs, const uint8_t *salient, const uint8_t *flags, const uint8_t *residual,
                       const void *scales, const uint16_t *tops, float *out, int64_t first, int64_t last, int64_t rows,
                       int64_t columns, int64_t block, int64_t count) {
    const Binary w = {signs, salient, flags, residual, scales, tops, rows, columns, block, count};
#pragma omp parallel for schedule(static) if ((last - first) * columns > ALONE)
    for (int64_t r = first; r < last; r++) {
        int64_t flag = 0, rest = 0, known = -1;
        float value[8];
        for (int64_t c = 0; c < columns; c += 64) {
            const Word word = word_at(&w, r, c, columns, &flag, &rest);
            if (block % 64 == 0 && c + 64 <= columns) { /* all of them in one block */
                if (c % block == 0) values_of(&w, r, c / block, value);
                float *to = out + (r - first) * columns + c;
                for (int i = 0; i < 64; i += 16) {
                    const Lanes near = CHOOSE(word.sign >> i, ALL(value[1]), ALL(value[0]));
                    const Lanes far = CHOOSE(word.sign >> i, ALL(value[3]), ALL(value[2]));
                    const Lanes low = CHOOSE(word.residual >> i, ALL(value[5]), ALL(value[4]));
                    const Lanes high = CHOOSE(word.residual >> i, ALL(value[7]), ALL(value[6]));
                    const Lanes twice = CHOOSE(word.sign >> i, high, low), once = CHOOSE(word.sparse >> i, far, near);
                    STORE(to + i, CHOOSE(word.salient >> i, twice, once));
                }
                known = c / block;
                continue;
            }
            for (int64_t i = 0; i < 64 && c + i < columns; i++) {
                if ((c + i) / block != known) {
                    known = (c + i) / block;
                    values_of(&w, r, known, value);
                }
                const int sign = word.sign >> i & 1;
                const int at = word.salient >> i & 1 ? 4 + 2 * sign + (word.residual >> i & 1) : 2 * (word.sparse >> i & 1) + sign;
                out[(r - first) * columns + c + i] = value[at];
            }
        }
    }
}

/* Signs with row and column scales: rows [first, last) of y = x W^T if there is an x, else of the weight into out [last - first,
 * columns]. `places` [count]: the salient columns; work: columns + count + 2 * blocks + 16 floats. */
void luq_row_column(const uint8_t *signs, const uint8_t *residual, const uint16_t *by_row, const float *by_column, const float *beside,
                    const int32_t *places, const float *x, float *work, float *out, int64_t first, int64_t last, int64_t rows,
                    int64_t columns, int64_t block, int64_t count) {
    const int64_t blocks = (columns + block - 1) / block, bytes = (rows * columns + 7) / 8, more_bytes = (rows * count + 7) / 8;
    float *scaled = work, *again = work + columns, *sums = work + columns + count, *more = sums + blocks;
    for (int64_t k = 0; x && k < blocks; k++) sums[k] = more[k] = 0;
    for (int64_t c = 0; x && c < columns; c++) sums[c / block] += scaled[c] = x[c] * by_column[c];
    for (int64_t q = 0; x && q < count; q++) more[places[q] / block] += again[q] = x[places[q]] * beside[q];
#pragma omp parallel for schedule(static) if ((last - first) * columns > ALONE)
    for (int64_t r = first; r < last; r++) {
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
            int64_t c = k * block;
            for (; c + 64 <= end; c += 64) {
                const uint64_t word = bits_at(signs, bytes, r * columns + c);
                for (int i = 0; i < 64; i += 16) {
                    const Lanes value = TIMES(LOAD(by_column + c + i), once), minus = TIMES(value, -1.0f);
                    STORE(out + (r - first) * columns + c + i, CHOOSE(word >> i, value, minus));
                }
            }
            for (; c < end; c++) {
                const float value = once * by_column[c];
                out[(r - first) * columns + c] = signs[(r * columns + c) >> 3] >> ((r * columns + c) & 7) & 1 ? value : -value;
            }
            for (; q < count && places[q] < end; q++) {
                const float value = twice * beside[q];
                out[(r - first) * columns + places[q]] += residual[(r * count + q) >> 3] >> ((r * count + q) & 7) & 1 ? value : -value;
            }
        }
        if (x) out[r - first] = SUM(all) + total;
    }
}
