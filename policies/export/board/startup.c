/* Start, output and exit for the MPS2 boards AN385 (Cortex-M3) and AN386 (Cortex-M4) of QEMU. */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define CPACR REGISTER(0xE000ED88u) /* access to the FPU */
#define TIMER_CONTROL REGISTER(0x40000000u)
#define TIMER_VALUE REGISTER(0x40000004u) /* counts down */
#define TIMER_RELOAD REGISTER(0x40000008u)
#define TIMER_PASSED_ZERO REGISTER(0x4000000Cu)

enum { SYS_WRITE0 = 0x04, SYS_EXIT = 0x18, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };

/* Of board.ld. */
extern uint32_t board_data_load[], board_data_begin[], board_data_end[];
extern uint32_t board_bss_begin[], board_bss_end[], board_stack_top[];

int main(void);
void board_reset(void) __attribute__((noreturn));

static int32_t semihost(int32_t operation, const void *argument)
{
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory", "cc");
    return r0;
}

void board_print(const char *text)
{
    semihost(SYS_WRITE0, text);
}

void board_print_number(int32_t number)
{
    char text[12], *at = text + sizeof text - 1;
    uint32_t rest = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    *at = '\0';
    do {
        *--at = (char)('0' + rest % 10u);
        rest /= 10u;
    } while (rest > 0u);
    if (number < 0) {
        *--at = '-';
    }
    board_print(at);
}

void board_exit(int code)
{
    const uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)code};
    semihost(SYS_EXIT_EXTENDED, block);
    for (;;) { /* only where the debugger knows no codes */
        semihost(SYS_EXIT, (const void *)APPLICATION_EXIT);
    }
}

uint32_t board_ticks(void)
{
    return 0xFFFFFFFFu - TIMER_VALUE;
}

int board_ticks_wrapped(void)
{
    return (TIMER_PASSED_ZERO & 1u) != 0u;
}

static void fault(void)
{
    board_print("fault\n");
    board_exit(255);
}

void board_reset(void)
{
    volatile uint32_t *to; /* volatile: not to become calls of a library */
    const uint32_t *from = board_data_load;
    for (to = board_data_begin; to < board_data_end; to++) {
        *to = *from++;
    }
    for (to = board_bss_begin; to < board_bss_end; to++) {
        *to = 0u;
    }
#ifdef __ARM_FP
    CPACR |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" : : : "memory");
#endif
    TIMER_RELOAD = 0xFFFFFFFFu;
    TIMER_VALUE = 0xFFFFFFFFu;
    TIMER_CONTROL = 1u | 8u; /* runs, and notes that it passed zero; its interrupt is off in the NVIC */
    board_exit(main());
}

typedef void (*handler)(void);

extern const struct vectors {
    uint32_t *stack;
    handler handlers[15];
} board_vectors;

const struct vectors board_vectors __attribute__((section(".vectors"), used)) = {
    board_stack_top,
    {board_reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault},
};
