/* What a program on an emulated board has instead of an operating system. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Prints text by semihosting. */
void board_print(const char *text);

/* Prints a number in decimal. */
void board_print_number(int32_t number);

/* Ends the program, and the emulator with it, which returns the code. */
void board_exit(int code) __attribute__((noreturn));

/* Ticks of 40 ns since the start, modulo 2^32: timer 0 of the board, which runs at 25 MHz. Where every instruction takes
   the same virtual time (-icount of QEMU), a difference of ticks is a count of instructions. */
uint32_t board_ticks(void);

/* Whether the ticks have passed 2^32 since the start. */
int board_ticks_wrapped(void);

#endif
