/* Prints what NAME_step passes to NAME_step_int8 for COUNT_ROWS embedded observations. The policy must be compiled so
   that its own NAME_step_int8 is weak: the one below takes its place. */
#include "board.h"
#include "entry.h"

extern const float count_inputs[]; /* COUNT_ROWS rows */

void POLICY(step_int8)(const int8_t *input, POLICY(action_int8) *action)
{
    int i;
    for (i = 0; i < POLICY_SIZE(INPUT); i++) {
        board_print_number(input[i]);
        board_print(" ");
    }
    for (i = 0; i < POLICY_SIZE(ACTION); i++) {
        action[i] = 0;
    }
}

int main(void)
{
    POLICY(action) action[POLICY_SIZE(ACTION)];
    int i;
    POLICY(init)();
    POLICY(reset)();
    for (i = 0; i < COUNT_ROWS; i++) {
        POLICY(step)(count_inputs + i * POLICY_SIZE(OBS), action);
        board_print("\n");
    }
    return 0;
}
