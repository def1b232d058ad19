#include "host.h"
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <lauxlib.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#define CALLBACKS "ijepa.editor" /* in the registry: { complete = f, finished = f } */

/* The editor belongs to the process, as its terminal does. */
static struct {
  EditLine *el;
  History *history;
  lua_State *L;
  const char *prompt;
  FILE *out;
  sigset_t waiting; /* the signals blocked while we wait for a key: all others of ours come only then */
} ed;
static volatile sig_atomic_t pressed, resized, resumed;
static void on_press(int sig) { pressed = sig; }
static void on_resize(int sig) { resized = sig; }
static void on_resume(int sig) { resumed = sig; }

/* One character of the terminal; -1 after Ctrl-C, 0 at the end. */
static int get_char(EditLine *el, wchar_t *out) {
  mbstate_t state = {0};
  for (;;) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;
    if (!pressed && ppoll(&in, 1, NULL, &ed.waiting) < 0 && errno != EINTR) return -1;
    if (pressed) return -1;
    if (resumed) { /* the shell has changed the terminal's mode meanwhile */
      el_set(el, EL_PREP_TERM, 0);
      el_set(el, EL_PREP_TERM, 1);
    }
    if (resized) el_resize(el);
    if (resized || resumed) el_set(el, EL_REFRESH);
    resized = resumed = 0;
    if (!in.revents) continue;
    if (read(STDIN_FILENO, &byte, 1) != 1) return 0;
    size_t n = mbrtowc(out, &byte, 1, &state);
    if (n == (size_t)-2) continue; /* more bytes follow */
    if (n == (size_t)-1) *out = L'?';
    return 1;
  }
}

/* Calls a callback with the line up to `end`; false and nothing on the stack where it failed, else its results. */
static int ask(const char *name, const char *end, int results) {
  const LineInfo *line = el_line(ed.el);
  lua_State *L = ed.L;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 8)) return 0;
  lua_getfield(L, LUA_REGISTRYINDEX, CALLBACKS);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  lua_pushlstring(L, line->buffer, (size_t)(end - line->buffer));
  if (lua_pcall(L, 1, results, 0) == 0) return 1;
  lua_settop(L, top);
  return 0;
}

/* Tab: complete(text before the cursor) -> characters to erase, text to insert, what to show (or nil) */
static unsigned char on_tab(EditLine *el, int c) {
  (void)c;
  lua_State *L = ed.L;
  const LineInfo *line = el_line(el);
  int below = 0, top = lua_gettop(L);
  for (const char *p = line->cursor; p < line->lastchar; p++) below += *p == '\n';
  if (!ask("complete", line->cursor, 3)) return CC_ERROR;
  if (lua_tointeger(L, -3) > 0) el_deletestr(el, (int)lua_tointeger(L, -3));
  if (lua_isstring(L, -2) && lua_objlen(L, -2) > 0) el_insertstr(el, lua_tostring(L, -2));
  if (lua_isstring(L, -1)) {
    for (; below >= 0; below--) fputc('\n', ed.out);
    fprintf(ed.out, "%s\n", lua_tostring(L, -1));
    el_set(el, EL_REFRESH); /* draws the complete line anew */
  }
  lua_settop(L, top);
  return CC_REFRESH;
}

/* Functions of the editor's own, which ours can only call by their keys: these no keyboard sends. */
#define KEY_ACCEPT "\033[ijepa1~"
#define KEY_BEFORE "\033[ijepa2~"
#define KEY_AFTER "\033[ijepa3~"

/* Enter: finished(line) -> whether it can run; else it continues in the next line. */
static unsigned char on_enter(EditLine *el, int c) {
  (void)c;
  int done = 1;
  if (ask("finished", el_line(el)->lastchar, 1)) {
    done = lua_toboolean(ed.L, -1);
    lua_pop(ed.L, 1);
  }
  if (done) {
    el_push(el, KEY_ACCEPT);
    return CC_NORM;
  }
  return el_insertstr(el, "\n") == 0 ? CC_REFRESH : CC_ERROR;
}

static unsigned char on_newline(EditLine *el, int c) {
  (void)c;
  return el_insertstr(el, "\n") == 0 ? CC_REFRESH : CC_ERROR;
}

/* Up and down: within a text of several lines, else through the history. */
static unsigned char on_up(EditLine *el, int c) {
  (void)c;
  const LineInfoW *line = el_wline(el);
  const wchar_t *start = line->cursor, *before;
  while (start > line->buffer && start[-1] != L'\n') start--;
  if (start == line->buffer) {
    el_push(el, KEY_BEFORE);
    return CC_NORM;
  }
  for (before = start - 1; before > line->buffer && before[-1] != L'\n'; before--) {}
  const wchar_t *to = before + (line->cursor - start);
  el_cursor(el, (int)((to < start - 1 ? to : start - 1) - line->cursor));
  return CC_CURSOR;
}

static unsigned char on_down(EditLine *el, int c) {
  (void)c;
  const LineInfoW *line = el_wline(el);
  const wchar_t *start = line->cursor, *next = line->cursor, *end;
  while (start > line->buffer && start[-1] != L'\n') start--;
  while (next < line->lastchar && *next != L'\n') next++;
  if (next == line->lastchar) {
    el_push(el, KEY_AFTER);
    return CC_NORM;
  }
  for (end = ++next; end < line->lastchar && *end != L'\n'; end++) {}
  const wchar_t *to = next + (line->cursor - start);
  el_cursor(el, (int)((to < end ? to : end) - line->cursor));
  return CC_CURSOR;
}

/* What the terminal marks as pasted goes into the line as it is: no Tab, no Enter in it acts. */
static unsigned char on_paste(EditLine *el, int c) {
  static const wchar_t end[] = L"\033[201~";
  const size_t mark = sizeof end / sizeof *end - 1;
  size_t n = 0, capacity = 0;
  wchar_t *text = NULL, ch;
  (void)c;
  while (el_wgetc(el, &ch) == 1) {
    if (n + 1 >= capacity) {
      wchar_t *more = realloc(text, (capacity = 2 * capacity + 256) * sizeof *text);
      if (!more) break;
      text = more;
    }
    text[n++] = ch == L'\r' ? L'\n' : ch;
    if (n >= mark && wmemcmp(text + n - mark, end, mark) == 0) {
      n -= mark;
      break;
    }
  }
  while (n > 0 && text[n - 1] == L'\n') n--;
  if (n > 0) {
    text[n] = 0;
    el_winsertstr(el, text);
  }
  free(text);
  return CC_REFRESH;
}

static char *prompt(EditLine *el) {
  (void)el;
  return (char *)(uintptr_t)ed.prompt;
}

static void bind_keys(EditLine *el) {
  static const struct {
    const char *name;
    unsigned char (*f)(EditLine *, int);
    const char *keys[4];
  } own[] = {{"ijepa-tab", on_tab, {"\t"}},
             {"ijepa-enter", on_enter, {"\r", "\n"}},
             {"ijepa-newline", on_newline, {"\033\r", "\033\n"}},
             {"ijepa-up", on_up, {"\033[A", "\033OA", "\020"}},
             {"ijepa-down", on_down, {"\033[B", "\033OB", "\016"}},
             {"ijepa-paste", on_paste, {"\033[200~"}}};
  static const char *const known[][2] = {
      {KEY_ACCEPT, "ed-newline"},    {KEY_BEFORE, "ed-prev-history"},    {KEY_AFTER, "ed-next-history"},
      {"\033[H", "ed-move-to-beg"},  {"\033[1~", "ed-move-to-beg"},      {"\033[F", "ed-move-to-end"},
      {"\033[4~", "ed-move-to-end"}, {"\033[3~", "ed-delete-next-char"}, {"\033[1;5C", "em-next-word"},
      {"\033[1;5D", "ed-prev-word"}, {"\022", "em-inc-search-prev"}};
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
    el_set(el, EL_ADDFN, own[i].name, "of ijepa", own[i].f);
    for (int k = 0; k < 4 && own[i].keys[k]; k++) el_set(el, EL_BIND, own[i].keys[k], own[i].name, (char *)NULL);
  }
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) el_set(el, EL_BIND, known[i][0], known[i][1], (char *)NULL);
}

/* edit(complete, finished): makes the editor. complete(before) is called on Tab, finished(line) on Enter. */
static int host_edit(lua_State *L) {
  HistEvent event;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_createtable(L, 0, 2);
  lua_pushvalue(L, 1);
  lua_setfield(L, -2, "complete");
  lua_pushvalue(L, 2);
  lua_setfield(L, -2, "finished");
  lua_setfield(L, LUA_REGISTRYINDEX, CALLBACKS);
  if (ed.el) return 0;
  ed.out = isatty(STDOUT_FILENO) ? stdout : stderr;
  ed.el = el_init("ijepa", stdin, ed.out, stderr);
  ed.history = history_init();
  if (!ed.el || !ed.history) return luaL_error(L, "the line editor does not start");
  history(ed.history, &event, H_SETSIZE, 2000);
  history(ed.history, &event, H_SETUNIQUE, 1);
  el_set(ed.el, EL_PROMPT, prompt);
  el_set(ed.el, EL_HIST, history, ed.history);
  el_set(ed.el, EL_EDITOR, "emacs");
  el_set(ed.el, EL_GETCFN, get_char);
  bind_keys(ed.el);
  el_source(ed.el, NULL);
  return 0;
}

/* readline(prompt) -> text, of one or more lines; false after Ctrl-C, nil at the end of the input */
static int host_readline(lua_State *L) {
  static const struct {
    int signal;
    void (*handler)(int);
  } ours[] = {{SIGINT, on_press}, {SIGWINCH, on_resize}, {SIGCONT, on_resume}};
  struct sigaction before[3];
  sigset_t blocked, mask;
  int n = 0;
  ed.prompt = luaL_checkstring(L, 1);
  if (!ed.el) return luaL_error(L, "readline: call edit first");
  ed.L = L;
  sigemptyset(&blocked);
  for (int i = 0; i < 3; i++) sigaddset(&blocked, ours[i].signal);
  sigprocmask(SIG_BLOCK, &blocked, &mask);
  ed.waiting = mask;
  pressed = resized = resumed = 0;
  for (int i = 0; i < 3; i++) {
    struct sigaction a = {.sa_handler = ours[i].handler};
    sigdelset(&ed.waiting, ours[i].signal);
    sigaction(ours[i].signal, &a, &before[i]);
  }
  el_resize(ed.el);
  fputs("\033[?2004h", ed.out); /* the terminal shall mark what is pasted */
  const char *line = el_gets(ed.el, &n);
  fputs("\033[?2004l", ed.out);
  fflush(ed.out);
  for (int i = 0; i < 3; i++) sigaction(ours[i].signal, &before[i], NULL);
  sigprocmask(SIG_SETMASK, &mask, NULL);
  ed.L = NULL;
  if (pressed) {
    el_reset(ed.el);
    lua_pushboolean(L, 0);
    return 1;
  }
  if (!line || n <= 0) return 0;
  lua_pushlstring(L, line, (size_t)(line[n - 1] == '\n' ? n - 1 : n));
  return 1;
}

/* remember(text, path or nil): adds to the history and writes it to the file. */
static int host_remember(lua_State *L) {
  const char *path = luaL_optstring(L, 2, NULL);
  HistEvent event;
  history(ed.history, &event, H_ENTER, luaL_checkstring(L, 1));
  if (path) history(ed.history, &event, H_SAVE, path);
  return 0;
}

/* recall(path): reads the history of earlier sessions. */
static int host_recall(lua_State *L) {
  HistEvent event;
  history(ed.history, &event, H_LOAD, luaL_checkstring(L, 1));
  return 0;
}

/* columns() -> characters a line of the terminal holds, or nil */
static int host_columns(lua_State *L) {
  struct winsize size;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 0;
  lua_pushinteger(L, size.ws_col);
  return 1;
}

int ij_host_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"edit", host_edit},         {"readline", host_readline},
                                       {"remember", host_remember}, {"recall", host_recall},
                                       {"columns", host_columns},   {"catch_interrupt", ij_host_catch_interrupt},
                                       {"polled", ij_host_polled},  {NULL, NULL}};
  setlocale(LC_CTYPE, ""); /* the line editor's idea of a character */
  if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
  lua_newtable(L);
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, -2, f->name);
  }
  return 1;
}
