#include "host.h"
#include "../ijepa.h"
#include <lauxlib.h>
#include <signal.h>
#include <unistd.h>

/* Signals belong to the process. */
static lua_State *running;
static volatile sig_atomic_t presses, is_polled;

static void stop(lua_State *L, lua_Debug *at) {
  (void)at;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted");
}

static void on_interrupt(int sig) {
  static const char warning[] = "\nstopping; Ctrl-C once more ends the program\n";
  presses = presses + 1;
  ij_interrupt_set(1);
  if (running && (!is_polled || presses > 1)) lua_sethook(running, stop, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
  if (presses == 2 && write(STDERR_FILENO, warning, sizeof warning - 1) < 0) presses = 2;
  if (presses > 2) {
    signal(SIGINT, SIG_DFL);
    raise(sig);
  }
}

/* catch_interrupt(on): while on, the first Ctrl-C sets the flag that long work polls and raises "interrupted" in the
 * running Lua code (where polled was called, only the second one does); the third one ends the program. */
int ij_host_catch_interrupt(lua_State *L) {
  int on = lua_toboolean(L, 1);
  struct sigaction a = {.sa_handler = on ? on_interrupt : SIG_DFL, .sa_flags = SA_RESTART | SA_ONSTACK};
  ij_signal_stack();
  running = on ? L : NULL;
  presses = is_polled = 0;
  ij_interrupt_set(0);
  sigaction(SIGINT, &a, NULL);
  lua_sethook(L, NULL, 0, 0);
  return 0;
}

/* polled() -> true once Ctrl-C came. Whoever asks promises to ask often and to stop by itself. */
int ij_host_polled(lua_State *L) {
  is_polled = 1;
  lua_pushboolean(L, ij_interrupted());
  return 1;
}
