#include "host.h"
#include "../ijepa.h"
#include <editline/readline.h>
#include <lauxlib.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Line editor and signal both belong to the process. */
static lua_State *session;

/* readline(prompt) -> line, or nil at the end of the input */
static int host_readline(lua_State *L) {
  char *line = readline(luaL_checkstring(L, 1));
  if (!line) return 0;
  lua_pushstring(L, line);
  free(line);
  return 1;
}

static int host_history_add(lua_State *L) {
  add_history(luaL_checkstring(L, 1));
  return 0;
}

/* history_load(path), history_save(path) -> true when it worked */
static int host_history_load(lua_State *L) {
  using_history();
  lua_pushboolean(L, read_history(luaL_checkstring(L, 1)) == 0);
  return 1;
}

static int host_history_save(lua_State *L) {
  stifle_history(2000);
  lua_pushboolean(L, write_history(luaL_checkstring(L, 1)) == 0);
  return 1;
}

static void stop(lua_State *L, lua_Debug *at) {
  (void)at;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted");
}

static void on_interrupt(int sig) {
  (void)sig;
  ij_interrupt_set(1);
  if (session) lua_sethook(session, stop, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

/* catch_interrupt(on): while on, the first Ctrl-C raises "interrupted" in the running Lua code and sets the flag that
 * loops over C functions poll; the second one ends the program. */
static int host_catch_interrupt(lua_State *L) {
  int on = lua_toboolean(L, 1);
  session = on ? L : NULL;
  ij_interrupt_set(0);
  lua_sethook(L, NULL, 0, 0);
  struct sigaction a = {.sa_handler = on ? on_interrupt : SIG_DFL, .sa_flags = on ? (int)SA_RESETHAND | SA_RESTART : 0};
  sigaction(SIGINT, &a, NULL);
  return 0;
}

int ij_host_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"readline", host_readline},
                                       {"history_add", host_history_add},
                                       {"history_load", host_history_load},
                                       {"history_save", host_history_save},
                                       {"catch_interrupt", host_catch_interrupt},
                                       {NULL, NULL}};
  setlocale(LC_CTYPE, ""); /* the line editor's idea of a character */
  lua_newtable(L);
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, -2, f->name);
  }
  return 1;
}
