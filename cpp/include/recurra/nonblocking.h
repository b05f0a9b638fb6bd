/* Functions that neither allocate nor wait, as Clang 20 and newer know them: -Wfunction-effects checks their callers, and
 * RealtimeSanitizer (-fsanitize=realtime) ends a program in which one does. */
#ifndef RECURRA_NONBLOCKING
#ifdef __has_attribute
#if __has_attribute(nonblocking)
#define RECURRA_NONBLOCKING __attribute__((nonblocking))
#endif
#endif
#ifndef RECURRA_NONBLOCKING
#define RECURRA_NONBLOCKING
#endif
#endif
