/* two_states LUA_PATH: two Lua states in two threads, each with its own device, train at the same time; each must get
 * what it gets alone, bit for bit. */
#include <ijepa.h>
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 2, ROUNDS = 4 };

static const char script[] = "local path, seed = ...\n"
                             "package.path = path .. ';' .. package.path\n"
                             "local ijepa = require 'ijepa'\n"
                             "local encoder = ijepa.jepa.encoder { width = 32 + 16 * seed, depth = 2, heads = 2, patch "
                             "= 8, crop = 32, seed = seed }\n"
                             "local opt = ijepa.optim.adamw { models = { encoder } }\n"
                             "local x = ijepa.tensor.new((function()\n"
                             "  local t = {}\n"
                             "  for i = 1, 4 * 3 * 32 * 32 do t[i] = (i * (seed + 3)) % 17 / 17 - .5 end\n"
                             "  return t\n"
                             "end)()):reshape(4, 3, 32, 32):clone(true)\n"
                             "local losses = {}\n"
                             "for step = 1, 12 do\n"
                             "  losses[step] = ijepa.device.step(function()\n"
                             "    local y = encoder(x)\n"
                             "    local loss = ijepa.tensor.smooth_l1(y, ijepa.tensor.zeros(y:shape()))\n"
                             "    local value = loss:item()\n"
                             "    loss:backward()\n"
                             "    opt:step { lr = .01, wd = .04, momentum = 1, scale = 1 }\n"
                             "    return ('%.17g'):format(value)\n"
                             "  end)\n"
                             "end\n"
                             "return table.concat(losses, ' ')\n";

typedef struct job {
  const char *path;
  int seed, ok;
  char losses[1024];
} job;

static void *run(void *arg) {
  job *j = arg;
  lua_State *L = luaL_newstate();
  if (!L) return NULL;
  luaL_openlibs(L);
  j->ok = 0;
  if (luaL_loadbuffer(L, script, sizeof script - 1, "=script") == 0) {
    lua_pushstring(L, j->path);
    lua_pushinteger(L, j->seed);
    j->ok = lua_pcall(L, 2, 1, 0) == 0;
  }
  snprintf(j->losses, sizeof j->losses, "%s", lua_isstring(L, -1) ? lua_tostring(L, -1) : "no text");
  lua_close(L);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "usage: two_states LUA_PATH\n"), 2;
  job alone[THREADS], together[THREADS];
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    alone[i] = (job){.path = argv[1], .seed = i};
    run(&alone[i]);
    if (!alone[i].ok) return fprintf(stderr, "%s\n", alone[i].losses), 1;
  }
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < THREADS; i++) {
      together[i] = (job){.path = argv[1], .seed = i};
      if (pthread_create(&threads[i], NULL, run, &together[i]) != 0) return 1;
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
      if (!together[i].ok || strcmp(alone[i].losses, together[i].losses))
        return fprintf(stderr, "state %d: alone %s\ntogether %s\n", i, alone[i].losses, together[i].losses), 1;
  }
  printf("ijepa %s: %d states, %d rounds: the same as alone\n", ij_version(), THREADS, ROUNDS);
  return ij_mem_live() != 0;
}
