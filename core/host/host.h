/* The program around the core: what the Lua side cannot do itself. */
#ifndef IJ_HOST_H
#define IJ_HOST_H
#include <lua.h>

/* The module "ijepa._host": line editing (line.c) and Ctrl-C (interrupt.c) for the REPL. Leaves its table on the stack.
 */
int ij_host_open(lua_State *L);

/* Its functions catch_interrupt and polled, which interrupt.c explains. */
int ij_host_catch_interrupt(lua_State *L);
int ij_host_polled(lua_State *L);
#endif
