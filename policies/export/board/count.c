/* Prints the ticks of COUNT_ROUNDS passes over COUNT_ROWS embedded inputs: with the policy, then with a function that
   does nothing but return. */
#include "board.h"
#include "entry.h"

extern const entry_input count_inputs[]; /* COUNT_ROWS rows */

typedef void (*entry_function)(const entry_input *input, entry_action *action);

static void nothing(const entry_input *input, entry_action *action)
{
    (void)input;
    (void)action;
}

static uint32_t ticks(volatile entry_function *entry)
{
    const entry_function function = *entry; /* which the compiler cannot know, and so not inline */
    entry_action action[ENTRY_ACTIONS];
    uint32_t begin;
    int i, round;
    POLICY(init)();
    POLICY(reset)();
    begin = board_ticks();
    for (round = 0; round < COUNT_ROUNDS; round++) {
        for (i = 0; i < COUNT_ROWS; i++) {
            function(count_inputs + i * ENTRY_INPUTS, action);
        }
    }
    return board_ticks() - begin;
}

int main(void)
{
    volatile entry_function entries[2] = {ENTRY, nothing};
    int i;
    for (i = 0; i < 2; i++) {
        board_print_number((int32_t)ticks(&entries[i]));
        board_print("\n");
    }
    if (board_ticks_wrapped()) {
        board_print("more instructions than the timer can count");
        return 1;
    }
    return 0;
}
