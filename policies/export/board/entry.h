/* The function of an exported policy that is measured. From the command line: POLICY_HEADER, the file in quotes;
   POLICY(x), NAME_x; POLICY_SIZE(x), NAME_x_SIZE; POLICY_INT8 for NAME_step_int8, else it is NAME_step. */
#ifndef ENTRY_H
#define ENTRY_H

#include POLICY_HEADER

#ifdef POLICY_INT8
#define ENTRY POLICY(step_int8)
#define ENTRY_INPUTS POLICY_SIZE(INPUT)
typedef int8_t entry_input;
typedef POLICY(action_int8) entry_action;
#else
#define ENTRY POLICY(step)
#define ENTRY_INPUTS POLICY_SIZE(OBS)
typedef float entry_input;
typedef POLICY(action) entry_action;
#endif
#define ENTRY_ACTIONS POLICY_SIZE(ACTION)

#endif
