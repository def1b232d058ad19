#include "host.h"
#include "../ijepa.h"
#include <editline/readline.h>
#include <lauxlib.h>
#include <locale.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Line editor and signal both belong to the process. */
static lua_State *session;

/* What completes a word, asked from Lua: a list of whole words. Registered by complete_with. */
static char *next_match(const char *word, int state) {
  lua_State *L = session;
  static const char key = 0; /* its address names our list in the registry */
  char *copy = NULL;
  if (!L || !lua_checkstack(L, 8)) return NULL;
  int top = lua_gettop(L);
  if (state == 0) {
    lua_pushlightuserdata(L, (void *)&key);
    lua_getfield(L, LUA_REGISTRYINDEX, "ijepa.complete");
    lua_pushstring(L, word);
    if (lua_pcall(L, 1, 1, 0) == 0 && lua_istable(L, -1)) lua_rawset(L, LUA_REGISTRYINDEX);
    lua_settop(L, top);
  }
  lua_pushlightuserdata(L, (void *)&key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  if (lua_istable(L, -1)) {
    lua_rawgeti(L, -1, state + 1);
    if (lua_isstring(L, -1)) copy = strdup(lua_tostring(L, -1));
  }
  lua_settop(L, top);
  return copy;
}

/* Names in code; within quotes, files. */
static char **complete(const char *word, int start, int end) {
  (void)end;
  if (start > 0 && (rl_line_buffer[start - 1] == '"' || rl_line_buffer[start - 1] == '\'')) return NULL;
  rl_attempted_completion_over = 1;
  rl_completion_append_character = 0;
  return rl_completion_matches(word, next_match);
}

/* complete_with(f): f(word) -> list of whole words, called on Tab */
static int host_complete_with(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "ijepa.complete");
  rl_attempted_completion_function = complete;
  rl_basic_word_break_characters = " \t\n\"'`@$><=;|&{([,+-*/%^#~";
  return 0;
}

/* Ctrl-C at the prompt leaves readline: it has no other way out. Nothing of ours is held in between. */
static sigjmp_buf at_prompt;
static void leave_prompt(int sig) { siglongjmp(at_prompt, sig); }

/* readline(prompt) -> line; false after Ctrl-C, nil at the end of the input */
static int host_readline(lua_State *L) {
  const char *prompt = luaL_checkstring(L, 1);
  session = L;
  if (sigsetjmp(at_prompt, 1)) {
    signal(SIGINT, SIG_DFL);
    session = NULL;
    lua_pushboolean(L, 0);
    return 1;
  }
  signal(SIGINT, leave_prompt);
  char *line = readline(prompt);
  signal(SIGINT, SIG_DFL);
  session = NULL;
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
                                       {"complete_with", host_complete_with},
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
