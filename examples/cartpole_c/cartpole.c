/* See cartpole.h.
 * A binary policy, layers 4-8-2, for CartPole-v1.
 */
#include "cartpole.h"

#include <string.h>

static const int8_t cartpole_bias0[8] = {
    32, -61, -4, 9, 15, -39, -17, 57
};

static const uint32_t cartpole_weight0[1] = {
    0x1fdfe0fdu
};

static const int8_t cartpole_bias1[2] = {
    3, 5
};

static const uint32_t cartpole_weight1[2] = {
    0x00000080u, 0x000000e3u
};

static const float cartpole_multiplier[4] = {
    26.458334f, 62.6000481f, 303.190155f, 41.593647f
};

static const int8_t cartpole_zero_point[4] = {
    0, -7, 0, 5
};

/* An observation as an integer within 127 of the zero point, less the zero point. One multiplication; the rounding,
   half to even, is done on the bits of the product, so that no other floating point is needed. NaN gives 0. */
static int32_t cartpole_quantise(float obs, float multiplier, int32_t zero_point)
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

/* A whole layer of one-bit weights, from int8 inputs to packed signs: bit n is 1 where bias + weight x >= 0. The 16
   signed sums of every 4 inputs are made first; then each unit looks its own up by 4 bits of weight. */
static void cartpole_signed_layer(const uint32_t *weight, const int8_t *bias, const int8_t *x, uint32_t *bits)
{
    int32_t sums[1][16];
    uint32_t negative = ~0u; /* the last word has no bits beyond its units */
    int n, c, g, k;
    for (g = 0; g < 1; g++) {
        const int i = 4 * g;
        const int32_t second = i + 1 < 4 ? x[i + 1] : 0, fourth = i + 3 < 4 ? x[i + 3] : 0;
        const int32_t third = i + 2 < 4 ? x[i + 2] : 0;
        const int32_t a = x[i] + second, b = x[i] - second, c = third + fourth, d = third - fourth;
        int32_t *to = sums[g];
        to[0] = -a - c; to[1] = b - c; to[2] = -b - c; to[3] = a - c;
        to[4] = d - a; to[5] = d + b; to[6] = d - b; to[7] = d + a;
        to[8] = -a - d; to[9] = b - d; to[10] = -b - d; to[11] = a - d;
        to[12] = c - a; to[13] = c + b; to[14] = c - b; to[15] = c + a;
    }
    bias += 8;
    weight += 1;
    for (n = (8 - 1) / 8 * 8; n >= 0; n -= 8) { /* backwards, so that unit 0 is shifted in last */
        weight -= 1 * 1;
        for (k = 4 * (8 - n < 8 ? 8 - n - 1 : 7); k >= 0; k -= 4) {
            const uint32_t *word = weight;
            int32_t sum = *--bias;
            for (c = 0; c < 1; c++) {
                for (g = 0; g < 1; g++) {
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

#ifndef CARTPOLE_POPCOUNT /* define it where your processor counts bits */
#if defined(__GNUC__) && !defined(__arm__)
#define CARTPOLE_POPCOUNT(word) ((uint32_t)__builtin_popcount(word))
#else
#define CARTPOLE_POPCOUNT(word) cartpole_popcount(word)
static uint32_t cartpole_popcount(uint32_t word)
{
    word = word - ((word >> 1) & 0x55555555u);
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0fu;
    return (word * 0x01010101u) >> 24;
}
#endif
#endif

/* acc = bias + weight x for one-bit weights and inputs: of n products, agreements (the ones of an XNOR) less
   disagreements are n - 2 popcount(weight ^ x); n is in the bias already. */
static void cartpole_xnor(const uint32_t *weight, const uint32_t *x, int32_t *acc, int outputs, int words, int copies)
{
    int i, j, c;
    for (j = 0; j < outputs; j++) {
        uint32_t differ = 0u;
        for (c = 0; c < copies; c++) {
            for (i = 0; i < words; i++) {
                differ += CARTPOLE_POPCOUNT(*weight++ ^ x[i]);
            }
        }
        acc[j] -= 2 * (int32_t)differ;
    }
}

/* Index of the largest, the first one of equals. */
static int32_t cartpole_largest(const int32_t *y, int count)
{
    int i, best = 0;
    for (i = 1; i < count; i++) {
        best = y[i] > y[best] ? i : best;
    }
    return (int32_t)best;
}

static void cartpole_network(const int8_t *x, int32_t *acc)
{
    int i;
    uint32_t h0[1];
    cartpole_signed_layer(cartpole_weight0, cartpole_bias0, x, h0);
    for (i = 0; i < 2; i++) {
        acc[i] = cartpole_bias1[i];
    }
    cartpole_xnor(cartpole_weight1, h0, acc, 2, 1, 1);
}

void cartpole_step_int8(const int8_t *input, cartpole_action_int8 *action)
{
    int32_t acc[2];
    cartpole_network(input, acc);
    action[0] = cartpole_largest(acc + 0, 2);
}

void cartpole_step(const float *obs, cartpole_action *action)
{
    int i;
    int8_t input[4];
    for (i = 0; i < 4; i++) {
        input[i] = (int8_t)cartpole_quantise(obs[i], cartpole_multiplier[i], cartpole_zero_point[i]);
    }
    cartpole_step_int8(input, action);
}


void cartpole_init(void)
{
}

void cartpole_reset(void)
{
}

#ifndef CARTPOLE_NO_SELFTEST
static const uint32_t cartpole_test_obs[128] = {
    0x3f0d66a0u, 0xbebc5928u, 0xbc8a79a2u, 0x3f07f99eu, 0x3ea60f52u, 0x3e14debbu, 0xbc1f6198u, 0x3cc47490u,
    0x411ff319u, 0xc09fac40u, 0xbf4dc740u, 0x41338c66u, 0x3f08a3a9u, 0xbe49836eu, 0x3c84cd9cu, 0x3e934598u,
    0x3f1aa71bu, 0xbd271ceeu, 0xbcc08be9u, 0x3da0fdc2u, 0x3f141670u, 0x3e1fa7a1u, 0x3c717f24u, 0xbe555dd1u,
    0x3d4e9d68u, 0x7f7fc99eu, 0x3a1af980u, 0x3dde63e9u, 0xc0b12f2bu, 0xbe83d575u, 0x3a8d851eu, 0x3d452f4bu,
    0x3ef9653bu, 0x3eaf3b34u, 0x3caa38b4u, 0xbeb24025u, 0x40df166bu, 0xc02ddca6u, 0xbddc287du, 0x3daaf12cu,
    0x3f09547bu, 0x3ed924eeu, 0x3dc7053du, 0xbe70a595u, 0x3f0df91eu, 0x3c9239f4u, 0x3bf43cc4u, 0x3d3a5e86u,
    0xc194d2d6u, 0xc0fcad0cu, 0xc00347e1u, 0xbe1af2d6u, 0xbc37d227u, 0xbdd5e5b5u, 0xba74e376u, 0x3e032f26u,
    0x3f0f267cu, 0xba8af663u, 0x3ca0cb42u, 0xbc9779c7u, 0xc2115775u, 0xc169012du, 0x3ba21db7u, 0x4199658eu,
    0xc115ea8eu, 0xc0419dadu, 0xbe2a8f43u, 0x41de04e7u, 0x3f077b47u, 0xbe1f95a9u, 0xbc929d23u, 0x3e777e84u,
    0xbf228b9au, 0x4077ec52u, 0x3e122779u, 0xbebc048bu, 0x3f151b96u, 0x3e41a9f0u, 0xbcd7b83au, 0xbe549058u,
    0x3e4260cdu, 0x3e4c7902u, 0x3c7178a1u, 0x3de5176bu, 0xbe955c42u, 0xbea60b83u, 0x3d519e14u, 0xbdb8293bu,
    0x3e83a312u, 0x3e0fffbfu, 0xbc02de56u, 0x3db463c2u, 0xc0ee01b9u, 0x3fcd2191u, 0xbe0c4bc7u, 0xc1103ebeu,
    0x3f1e6cf5u, 0x3d3a0c10u, 0x3ac38002u, 0xbe3f0a66u, 0x3e91c128u, 0x3e4acbfbu, 0xbc03a5f0u, 0x3da826b3u,
    0x3eb223d4u, 0x3eca6d23u, 0xbcbc8600u, 0xbe84ac41u, 0xc2d34b7cu, 0x419a123cu, 0xc1978d6cu, 0xc2b256e6u,
    0xbfd87335u, 0xbeb81003u, 0xbd024dceu, 0xc031b82eu, 0x3f2fbf7fu, 0x3e6e4303u, 0xbcec0e03u, 0xbe9c9784u,
    0x3da47144u, 0x3e10ee15u, 0x3c1539eau, 0x3d8b5260u, 0x3ea2bedcu, 0xbe1f7d06u, 0x3bde3df9u, 0x3cd49addu
};

static const int32_t cartpole_test_action[32] = {
    1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0
};

int cartpole_selftest(void)
{
    int i, j, mismatches = 0;
    float obs[4];
    cartpole_action action[1];
    for (i = 0; i < 32; i++) {
        const cartpole_action *want = cartpole_test_action + 1 * i;
        int wrong = 0;
        memcpy(obs, cartpole_test_obs + 4 * i, sizeof obs);
        cartpole_step(obs, action);
        for (j = 0; j < 1; j++) {
            wrong |= action[j] != want[j];
        }
        mismatches += wrong;
    }
    return mismatches;
}
#endif
