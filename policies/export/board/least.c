/* The smallest program around a policy: what the linker keeps for it is what the policy needs. */
#include "entry.h"

int main(void)
{
    static entry_input input[ENTRY_INPUTS];
    static entry_action action[ENTRY_ACTIONS];
    POLICY(init)();
    POLICY(reset)();
    for (;;) {
        ENTRY(input, action);
    }
}
