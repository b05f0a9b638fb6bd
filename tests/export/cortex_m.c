/* A Cortex-M under qemu: the vector table, the floating-point unit switched on, and what a test says and ends with, by
 * semihosting. */
#include <stdint.h>

extern uint32_t stack_top[], data_from[], data_begin[], data_end[], bss_begin[], bss_end[];
int main(void);
void reset(void);
void say(const char* text);

static int semihosting(int operation, const void* argument) {
  register int r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void say(const char* text) {
  semihosting(0x04, text); /* SYS_WRITE0 */
  semihosting(0x04, "\n");
}

static void end(int status) {
  const uint32_t arguments[2] = {0x20026, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
  semihosting(0x20, arguments);                              /* SYS_EXIT_EXTENDED */
  for (;;) {
  }
}

static void fault(void) {
  say("fault");
  end(70);
}

void reset(void) {
  uint32_t* from = data_from;
  *(volatile uint32_t*)0xe000ed88 |= 0xfu << 20; /* CPACR: full access to coprocessors 10 and 11 */
  __asm__ volatile("dsb\nisb");
  for (uint32_t* to = data_begin; to < data_end; ++to) *to = *from++;
  for (uint32_t* to = bss_begin; to < bss_end; ++to) *to = 0;
  end(main());
}

struct vectors {
  const uint32_t* stack;
  void (*handlers[15])(void);
};

__attribute__((section(".vectors"), used)) static const struct vectors vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault},
};
