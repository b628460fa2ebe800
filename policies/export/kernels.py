"""The C99 functions that exported policies are made of, emitted only where one needs it. ``$`` is its name."""

from __future__ import annotations

QUANTISE = """
/* An observation as an integer within 127 of the zero point, less the zero point. One multiplication; the rounding,
   half to even, is done on the bits of the product, so that no other floating point is needed. NaN gives 0. */
static int32_t $_quantise(float obs, float multiplier, int32_t zero_point)
{
    const float product = obs * multiplier;
    uint32_t bits, shift;
    int32_t value;
    memcpy(&bits, &product, sizeof bits);
    shift = 150u - ((bits >> 23) & 255u); /* |product| is mantissa / 2^shift */
    if (shift < 32u) {
        const uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
        const uint32_t whole = mantissa >> shift;
        const uint32_t rest = (mantissa << 1) << (31u - shift); /* of 2^32 */
        value = (int32_t)(whole + (rest + (whole & 1u) > 0x80000000u));
    } else if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0;
    } else {
        value = (int32_t)shift > 0 ? 0 : 1 << 24; /* beyond every zero point */
    }
    value = (int32_t)bits < 0 ? -value : value;
    value -= zero_point;
    return (uint32_t)(value + 127) <= 254u ? value : value < 0 ? -127 : 127;
}
"""

SHIFT = """
/* value >> shift that rounds down, whatever the compiler does with negative numbers. */
static int32_t $_shift(int32_t value, int32_t shift)
{
    return value >= 0 ? value >> shift : ~(~value >> shift);
}
"""

REQUANTISE = """
/* The accumulator times mult / 2^shift, rounded half up, within [low, 127]. Below 2^24 throughout. */
static int32_t $_requantise(int32_t acc, int32_t mult, int32_t shift, int32_t low)
{
    const int32_t value = $_shift(acc * mult + ((1 << shift) >> 1), shift);
    return value > 127 ? 127 : value < low ? low : value;
}
"""

DENSE = """
/* acc = bias + weight x: weight (outputs, inputs) of int8. */
static void $_dense(const int8_t *weight, const int8_t *x, int32_t *acc, int outputs, int inputs)
{
    int i, j;
    for (j = 0; j < outputs; j++) {
        int32_t sum = acc[j];
        for (i = 0; i < inputs; i++) {
            sum += (int32_t)weight[i] * (int32_t)x[i];
        }
        weight += inputs;
        acc[j] = sum;
    }
}
"""

SIGNED_SUMS = """
/* acc += weight x for one-bit weights and int8 inputs: 1 bits add an input, 0 bits subtract it. For every 4 inputs
   the 16 signed sums are made once, and each output looks its own up by 4 bits of weight. */
static void $_signed_sums(const uint32_t *weight, const int8_t *x, int32_t *acc, int outputs, int inputs, int copies)
{
    int i, j, c, b, n;
    for (i = 0; i < inputs; i += 4) {
        int32_t sums[16];
        sums[0] = 0;
        for (b = 0, n = 1; b < 4; b++, n += n) {
            const int32_t value = i + b < inputs ? (int32_t)x[i + b] : 0;
            for (j = 0; j < n; j++) {
                sums[j] -= value;
                sums[n + j] = sums[j] + 2 * value;
            }
        }
        for (c = 0; c < copies; c++) {
            for (j = 0; j < outputs; j += 8) {
                uint32_t word = *weight++;
                const int end = j + 8 < outputs ? j + 8 : outputs;
                for (n = j; n < end; n++) {
                    acc[n] += sums[word & 15u];
                    word >>= 4;
                }
            }
        }
    }
}
"""

SIGNED_LAYER = """
/* A whole layer of one-bit weights, from int8 inputs to packed signs: bit n is 1 where bias + weight x >= 0. The 16
   signed sums of every 4 inputs are made first; then each unit looks its own up by 4 bits of weight. */
static void $_signed_layer(const uint32_t *weight, const {type} *bias, const int8_t *x, uint32_t *bits)
{
    int32_t sums[{tables}][16];
    uint32_t negative = ~0u; /* the last word has no bits beyond its units */
    int n, c, g, k;
    for (g = 0; g < {tables}; g++) {
        const int i = 4 * g;
        const int32_t second = i + 1 < {inputs} ? x[i + 1] : 0, fourth = i + 3 < {inputs} ? x[i + 3] : 0;
        const int32_t third = i + 2 < {inputs} ? x[i + 2] : 0;
        const int32_t a = x[i] + second, b = x[i] - second, c = third + fourth, d = third - fourth;
        int32_t *to = sums[g];
        to[0] = -a - c; to[1] = b - c; to[2] = -b - c; to[3] = a - c;
        to[4] = d - a; to[5] = d + b; to[6] = d - b; to[7] = d + a;
        to[8] = -a - d; to[9] = b - d; to[10] = -b - d; to[11] = a - d;
        to[12] = c - a; to[13] = c + b; to[14] = c - b; to[15] = c + a;
    }
    bias += {outputs};
    weight += {words};
    for (n = ({outputs} - 1) / 8 * 8; n >= 0; n -= 8) { /* backwards, so that unit 0 is shifted in last */
        weight -= {tables} * {copies};
        for (k = 4 * ({outputs} - n < 8 ? {outputs} - n - 1 : 7); k >= 0; k -= 4) {
            const uint32_t *word = weight;
            int32_t sum = *--bias;
            for (c = 0; c < {copies}; c++) {
                for (g = 0; g < {tables}; g++) {
                    sum += sums[g][(*word++ >> k) & 15u];
                }
            }
            negative = (negative << 1) | ((uint32_t)sum >> 31);
        }
        if ((n & 31) == 0) {
            bits[n >> 5] = ~negative;
        }
    }
}
"""

SIGNED_SUM = """
/* acc += weight x for one-bit weights and int8 inputs: 1 bits add an input, 0 bits subtract it. */
static void $_signed_sum(const uint32_t *weight, const int8_t *x, int32_t *acc, int outputs, int inputs, int copies)
{
    int i, j, c;
    for (j = 0; j < outputs; j++) {
        int32_t sum = 0, all = 0;
        for (c = 0; c < copies; c++) {
            uint32_t word = 0u;
            for (i = 0; i < inputs; i++) {
                word = (i & 31) == 0 ? *weight++ : word >> 1;
                all += (int32_t)x[i];
                sum += (int32_t)x[i] & -(int32_t)(word & 1u);
            }
        }
        acc[j] += 2 * sum - all;
    }
}
"""

POPCOUNT = """
#ifndef $$_POPCOUNT /* define it where your processor counts bits */
#if defined(__GNUC__) && !defined(__arm__)
#define $$_POPCOUNT(word) ((uint32_t)__builtin_popcount(word))
#else
#define $$_POPCOUNT(word) $_popcount(word)
static uint32_t $_popcount(uint32_t word)
{
    word = word - ((word >> 1) & 0x55555555u);
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0fu;
    return (word * 0x01010101u) >> 24;
}
#endif
#endif
"""

XNOR = """
/* acc = bias + weight x for one-bit weights and inputs: of n products, agreements (the ones of an XNOR) less
   disagreements are n - 2 popcount(weight ^ x); n is in the bias already. */
static void $_xnor(const uint32_t *weight, const uint32_t *x, int32_t *acc, int outputs, int words, int copies)
{
    int i, j, c;
    for (j = 0; j < outputs; j++) {
        uint32_t differ = 0u;
        for (c = 0; c < copies; c++) {
            for (i = 0; i < words; i++) {
                differ += $$_POPCOUNT(*weight++ ^ x[i]);
            }
        }
        acc[j] -= 2 * (int32_t)differ;
    }
}
"""

SIGNS = """
/* Packed signs: bit i is 1 where acc[i] >= 0. */
static void $_signs(const int32_t *acc, uint32_t *bits, int count)
{
    int i;
    uint32_t word = 0u;
    for (i = 0; i < count; i++) {
        word |= (uint32_t)(acc[i] >= 0) << (i & 31);
        if ((i & 31) == 31 || i + 1 == count) {
            bits[i >> 5] = word;
            word = 0u;
        }
    }
}
"""

LARGEST = """
/* Index of the largest, the first one of equals. */
static int32_t $_largest(const {type} *y, int count)
{
    int i, best = 0;
    for (i = 1; i < count; i++) {
        best = y[i] > y[best] ? i : best;
    }
    return (int32_t)best;
}
"""

FLOAT_DENSE = """
/* y = bias + weight x, summed in that order. */
static void $_dense(const float *weight, const float *bias, const float *x, float *y, int outputs, int inputs)
{
    int i, j;
    for (j = 0; j < outputs; j++) {
        float sum = bias[j];
        for (i = 0; i < inputs; i++) {
            sum += weight[i] * x[i];
        }
        weight += inputs;
        y[j] = sum;
    }
}
"""

NORMALISE = """
/* (obs - offset) * scale, cut at a million; NaN gives 0. */
static float $_normalise(float obs, float offset, float scale)
{
    const float x = (obs - offset) * scale;
    return obs != obs ? 0.0f : x > 1e6f ? 1e6f : x < -1e6f ? -1e6f : x;
}
"""

CLAMP = """
static float $_clamp(float value, float low, float high)
{
    return value > high ? high : value < low ? low : value;
}
"""


def fill(text: str, name: str) -> str:
    """A kernel under a policy's name: ``$$`` is it in capitals, ``$`` as it is."""
    return text.replace("$$", name.upper()).replace("$", name)
