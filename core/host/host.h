/* The program around the core: what the Lua side cannot do itself. */
#ifndef IJ_HOST_H
#define IJ_HOST_H
#include <lua.h>

/* The module "ijepa._host": line editing and Ctrl-C for the REPL. Leaves its table on the stack. */
int ij_host_open(lua_State *L);
#endif
