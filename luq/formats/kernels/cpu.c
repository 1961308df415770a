/* Packed linears on a CPU: y = x W^T straight from the stored bits, and W unpacked fast.
 *
 * A plane holds one bit of every weight, row after row, lowest bit of a byte first. Sixteen bits of a plane are the mask under
 * which sixteen inputs are added, so a row costs one masked addition per plane and sixteen columns, and no code is ever unpacked.
 * Groups and blocks have any number of columns, the last one of a row the fewest; inputs have room for sixteen floats behind their end.
 * Products and sums are not contracted (-ffp-contract=off): the unpacked weights are bit for bit those of torch.
 */
#include "lanes.h"
#include "integer.h"
#include "binary.h"
#include "ternary.h"
#include "trellis.h"
#include "eight_weights.h"

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

/* w [n] in rising order, and from which place each came, if `order` is given; equal values keep their order. Each value goes where the
 * number of smaller ones says, which for a row of a block is faster than sorting. */
static inline void put_in_order(const float *w, int64_t n, float *to, int64_t *order) {
    uint8_t taken[WIDEST + 1] = {0}; /* behind the last place nothing is */
    for (int64_t i = 0; i < n; i++) {
        int32_t rank = 0;
        for (int64_t j = 0; j < n; j++) rank += w[j] < w[i];
        while (taken[rank]) rank++; /* by an equal value */
        taken[rank] = 1;
        to[rank] = w[i];
        if (order) order[rank] = i;
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
        put_in_order(target + r * columns, columns, w, NULL);
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

/* sorted [rows, n]: each row of values in rising order; order [rows, n]: from which column each came. */
void luq_sort_rows(const float *values, float *sorted, int64_t *order, int64_t rows, int64_t n) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) put_in_order(values + r * n, n, sorted + r * n, order + r * n);
}

/* For each weight of a column the code of the nearest of its row's four values [4, rows], and that value; of equally near ones the first. */
void luq_nearest_of_four(const float *column, const float *values, float *restrict codes, float *restrict nearest, int64_t rows) {
    for (int64_t r = 0; r < rows; r++) {
        float value = values[r], least = __builtin_fabsf(column[r] - value), code = 0;
        for (int k = 1; k < 4; k++) {
            const float candidate = values[k * rows + r], distance = __builtin_fabsf(column[r] - candidate);
            const int nearer = distance < least;
            value = nearer ? candidate : value, code = nearer ? (float)k : code, least = nearer ? distance : least;
        }
        codes[r] = code, nearest[r] = value;
    }
}

/* Lloyd's algorithm on sorted rows, as luq/quantization/lloyd.py has it: four values for each row of rising w [rows, n], whose weight i is
 * column order[i] and counts importance[column]. A cluster is a run of neighbours, so that its mass and total are differences of running
 * sums of h and h w. `paired`: only values c - u, c - v, c + v, c + u. start [4]: where values begin, in standard deviations. */
static const double TINY = 1e-30; /* avoids 0 / 0 where nothing has any importance */

static inline double at_least(double x, double least) { return x > least ? x : least; }

/* Masses and totals [4] of the weights that are nearest to each of the rising levels [4]: clusters end midway between them. */
static inline void clusters(const float *w, int64_t n, const double *masses, const double *totals, const double *level, double *mass, double *total) {
    int64_t from = 0;
    for (int k = 0; k < 4; k++) {
        const int64_t to = k < 3 ? below(w, n, (float)((level[k + 1] + level[k]) / 2)) : n;
        mass[k] = masses[to] - masses[from], total[k] = totals[to] - totals[from];
        from = to;
    }
}

/* The best values of the clusters: their means; a value that is nearest to nothing stays. Then in rising order. */
static inline void means(const double *mass, const double *total, double *level) {
    for (int k = 0; k < 4; k++)
        if (mass[k] > 0) level[k] = total[k] / mass[k];
    for (int k = 1; k < 4; k++)
        for (int j = k; j > 0 && level[j] < level[j - 1]; j--) {
            const double swap = level[j];
            level[j] = level[j - 1], level[j - 1] = swap;
        }
}

/* The best c - u, c - v, c + v, c + u: u and v for the old c, and then c for them. */
static inline void pairs(const double *mass, const double *total, double *level) {
    double centre = (level[0] + level[3]) / 2, centred[4], sum = 0, all = 0;
    for (int k = 0; k < 4; k++) centred[k] = total[k] - mass[k] * centre;
    const double u = (centred[3] - centred[0]) / at_least(mass[0] + mass[3], TINY);
    const double v = (centred[2] - centred[1]) / at_least(mass[1] + mass[2], TINY);
    const double outer = at_least(u > v ? u : v, 0), inner = at_least(u > v ? v : u, 0);
    const double offset[4] = {-outer, -inner, inner, outer};
    for (int k = 0; k < 4; k++) sum += total[k] - mass[k] * offset[k], all += mass[k];
    centre = sum / at_least(all, TINY);
    for (int k = 0; k < 4; k++) level[k] = centre + offset[k];
}

/* levels [rows, 4], and errors [rows]: sum_j h_j (w_j - nearest value)^2. */
void luq_four_levels(const float *sorted, const int64_t *order, const float *importance, const double *start, double *levels, double *errors,
                     int64_t rows, int64_t n, int64_t paired, int64_t turns) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *w = sorted + r * n;
        double masses[WIDEST + 1] = {0}, totals[WIDEST + 1] = {0}, squares = 0, mass[4], total[4];
        for (int64_t i = 0; i < n; i++) {
            const double h = importance[order[r * n + i]], value = w[i];
            masses[i + 1] = masses[i] + h, totals[i + 1] = totals[i] + h * value, squares += h * (value * value);
        }
        double *level = levels + r * 4;
        const double all = at_least(masses[n], TINY), mean = totals[n] / all;
        const double deviation = __builtin_sqrt(at_least(squares / all - mean * mean, 0));
        for (int k = 0; k < 4; k++) level[k] = mean + deviation * start[k];
        for (int64_t turn = 0; turn < turns; turn++) {
            clusters(w, n, masses, totals, level, mass, total);
            if (paired)
                pairs(mass, total, level);
            else
                means(mass, total, level);
        }
        clusters(w, n, masses, totals, level, mass, total);
        double change = 0;
        for (int k = 0; k < 4; k++) change += mass[k] * (level[k] * level[k]) - 2 * total[k] * level[k];
        errors[r] = at_least(squares + change, 0);
    }
}
