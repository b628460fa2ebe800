/* A CartPole that an exported policy balances: the same file for a computer and, with -DBOARD, for a Cortex-M board.
 * Prints the length of ten episodes and their mean; the exit code is 0 when all last the full 500 steps. */
#include "cartpole.h"
#include <math.h>
#include <stdint.h>

#ifdef BOARD
#include "board.h"
#else
#include <stdio.h>

static void board_print(const char *text)
{
    fputs(text, stdout);
}

static void board_print_number(int32_t number)
{
    printf("%ld", (long)number);
}
#endif

#define EPISODES 10
#define STEPS 500

/* CartPole-v1 of Gymnasium, in SI units: Euler's method, here in floats. */
#define GRAVITY 9.8f
#define CART_MASS 1.0f
#define POLE_MASS 0.1f
#define TOTAL_MASS (CART_MASS + POLE_MASS)
#define HALF_LENGTH 0.5f
#define FORCE 10.0f
#define TAU 0.02f
#define X_LIMIT 2.4f
#define THETA_LIMIT (12.0f * 2.0f * 3.14159265f / 360.0f)

enum { X, X_DOT, THETA, THETA_DOT, STATE };

/* Xorshift, from -0.05 to 0.05. */
static float uniform(void)
{
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return ((float)(state >> 8) / 16777216.0f - 0.5f) * 0.1f;
}

static void move(float *state, cartpole_action action)
{
    const float force = action == 1 ? FORCE : -FORCE;
    const float sine = sinf(state[THETA]), cosine = cosf(state[THETA]);
    const float moment = POLE_MASS * HALF_LENGTH;
    const float push = (force + moment * state[THETA_DOT] * state[THETA_DOT] * sine) / TOTAL_MASS;
    const float inertia = HALF_LENGTH * (4.0f / 3.0f - POLE_MASS * cosine * cosine / TOTAL_MASS);
    const float theta_acceleration = (GRAVITY * sine - cosine * push) / inertia;
    const float x_acceleration = push - moment * theta_acceleration * cosine / TOTAL_MASS;
    state[X] += TAU * state[X_DOT];
    state[X_DOT] += TAU * x_acceleration;
    state[THETA] += TAU * state[THETA_DOT];
    state[THETA_DOT] += TAU * theta_acceleration;
}

static int upright(const float *state)
{
    return state[X] >= -X_LIMIT && state[X] <= X_LIMIT && state[THETA] >= -THETA_LIMIT && state[THETA] <= THETA_LIMIT;
}

/* The number of steps until the cart leaves the track or the pole falls, at most STEPS. */
static int32_t episode(void)
{
    float state[STATE];
    int32_t steps = 0;
    int i;
    for (i = 0; i < STATE; i++) {
        state[i] = uniform();
    }
    cartpole_reset();
    while (steps < STEPS && upright(state)) {
        cartpole_action action[CARTPOLE_ACTION_SIZE];
        cartpole_step(state, action);
        move(state, action[0]);
        steps++;
    }
    return steps;
}

int main(void)
{
    int32_t total = 0;
    int i;
    cartpole_init();
    for (i = 0; i < EPISODES; i++) {
        const int32_t steps = episode();
        total += steps;
        board_print("episode ");
        board_print_number(i + 1);
        board_print(": ");
        board_print_number(steps);
        board_print(" steps\n");
    }
    board_print("mean: ");
    board_print_number(total / EPISODES);
    board_print(".");
    board_print_number(total % EPISODES * 10 / EPISODES);
    board_print(" steps\n");
    return total == EPISODES * STEPS ? 0 : 1;
}
