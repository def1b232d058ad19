/* main: a Lua state with our modules (bytecode in this program), then lua/ijepa/host/cli.lua does the rest. */
#include "host.h"
#include <lauxlib.h>
#include <errno.h>
#include <fcntl.h>
#include <lualib.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* IJEPA_LUA=DIR: while developing, our modules are read from DIR's files, which win over those in the program. */
static const char boot[] = "local dir = ...\n"
                           "table.insert(package.loaders, 1, function(name)\n"
                           "  if not name:find '^ijepa%f[%W]' then return end\n"
                           "  local path = dir .. '/' .. name:gsub('%.', '/')\n"
                           "  local found = package.searchpath('', path .. '.lua;' .. path .. '/init.lua', '')\n"
                           "  return found and assert(loadfile(found))\n"
                           "end)\n";

/* Arguments: argc, argv. Returns the exit code. */
static int start(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  const char *files = getenv("IJEPA_LUA");
  lua_gc(L, LUA_GCSTOP, 0);
  luaL_openlibs(L);
  lua_gc(L, LUA_GCRESTART, 0);
  luaL_findtable(L, LUA_REGISTRYINDEX, "_PRELOAD", 1);
  lua_pushcfunction(L, ij_host_open);
  lua_setfield(L, -2, "ijepa._host");
  if (files && *files) {
    if (luaL_loadbuffer(L, boot, sizeof boot - 1, "=boot")) return lua_error(L);
    lua_pushstring(L, files);
    lua_call(L, 1, 0);
  }
  lua_getglobal(L, "require");
  lua_pushliteral(L, "ijepa.host.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_createtable(L, argc, 0);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_call(L, 1, 1);
  return 1;
}

/* Threads that wait for others should sleep soon: with OpenMP's default spinning, two busy programs on two CPUs (or
 * our own loader beside the computation) slow each other down thirtyfold. The setting must stand in the environment
 * before the library is loaded, so a program that finds none starts itself once more. */
static void wait_politely(char **argv) {
  if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("GOMP_SPINCOUNT", "1000", 1) != 0) return;
  execv("/proc/self/exe", argv); /* where this fails the program continues */
}

/* Without this, the first files that are opened get the numbers of streams that were closed before the start, and what
 * is printed goes into them. On these substitutes reads of input and writes of output fail with EBADF. */
static void fill_closed_streams(void) {
  static const int mode[] = {O_WRONLY, O_RDONLY, O_RDONLY};
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", mode[fd]) != fd) _exit(1);
}

static bool reader_has_gone(void) { /* of a pipe or terminal at stdout */
  struct pollfd p = {STDOUT_FILENO, POLLOUT, 0};
  return poll(&p, 1, 0) == 1 && p.revents & (POLLERR | POLLHUP);
}

/* Results that could not be written are an error, which is reported once. A reader that has gone is none: it has read
 * what it wanted. */
static bool output_failed(void) {
  bool failed = ferror(stdout) != 0;
  errno = 0;
  if (fflush(stdout) == 0 && !failed) return false;
  int why = errno;
  clearerr(stdout);
  __fpurge(stdout);
  if (why == EPIPE || reader_has_gone()) return false;
  fprintf(stderr, "ijepa: standard output could not be written: %s\n",
          why == EBADF || fcntl(STDOUT_FILENO, F_GETFL) == O_RDONLY ? "it is closed" : strerror(why ? why : EIO));
  return true;
}
static void at_exit(void) { /* os.exit comes here without passing main */
  if (output_failed()) _exit(1);
}

/* Loaders keep tars open: where the limit is low and may be raised, it is. */
static void allow_open_files(void) {
  enum { ENOUGH = 1024 };
  struct rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= ENOUGH) return;
  r.rlim_cur = r.rlim_max < ENOUGH ? r.rlim_max : ENOUGH;
  setrlimit(RLIMIT_NOFILE, &r);
}

int main(int argc, char **argv) {
  fill_closed_streams();
  wait_politely(argv);
  allow_open_files();
  atexit(at_exit);
  lua_State *L = luaL_newstate();
  if (!L) {
    fputs("ijepa: out of memory\n", stderr);
    return 1;
  }
  int code = 1;
  lua_pushcfunction(L, start);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  if (lua_pcall(L, 2, 1, 0) == 0) code = (int)lua_tointeger(L, -1);
  else fprintf(stderr, "ijepa: %s\n", lua_isstring(L, -1) ? lua_tostring(L, -1) : "error without a message");
  lua_close(L);
  if (output_failed() && code == 0) code = 1;
  return code;
}
