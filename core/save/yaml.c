/* YAML as JSON that says on which line everything stands, for Lua to make settings of. The text may be a stranger's: it
 * is small, all in it is plain lists, keys and words, and aliases can't blow it up. */
#include "base/base.h"
#include <cjson/cJSON.h>
#include <string.h>
#include <yaml.h>

enum { MAX_TEXT = 1 << 18, MAX_NODES = 4096, MAX_BYTES = 1 << 20, MAX_DEPTH = 32 };

typedef struct reader {
  const char *name;
  yaml_document_t doc;
  int nodes;    /* so far, every alias counted as often as it is used */
  size_t bytes; /* of their text */
} reader;

static int line_of(const yaml_node_t *n) { return (int)n->start_mark.line + 1; }

static ij_status bad(const reader *r, int line, const char *what) {
  return ij_fail(IJ_EFORMAT, "%s:%d: %s", r->name, line, what);
}

/* Adds value to the object or array `to`; takes it over. */
static ij_status put(cJSON *to, const char *key, cJSON *value) {
  if (value && (key ? cJSON_AddItemToObject(to, key, value) : cJSON_AddItemToArray(to, value))) return IJ_OK;
  cJSON_Delete(value);
  return ij_fail(IJ_ENOMEM, "out of memory: reading YAML");
}

/* The text of a scalar; NULL and a message where it is none that is taken. */
static const char *text_of(reader *r, const yaml_node_t *n) {
  const char *text = (const char *)n->data.scalar.value;
  if (memchr(text, 0, n->data.scalar.length)) {
    bad(r, line_of(n), "a zero byte in a value");
    return NULL;
  }
  return text;
}

static ij_status convert(reader *r, int index, int depth, cJSON *to);

static ij_status convert_list(reader *r, const yaml_node_t *n, int depth, cJSON *to) {
  cJSON *list = cJSON_CreateArray();
  IJ_TRY(put(to, "list", list));
  for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
    cJSON *item = cJSON_CreateObject();
    IJ_TRY(put(list, NULL, item));
    IJ_TRY(convert(r, *i, depth + 1, item));
  }
  return IJ_OK;
}

static ij_status convert_map(reader *r, const yaml_node_t *n, int depth, cJSON *to) {
  cJSON *map = cJSON_CreateArray(), *other;
  IJ_TRY(put(to, "map", map));
  for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
    const yaml_node_t *k = yaml_document_get_node(&r->doc, p->key);
    if (!k || k->type != YAML_SCALAR_NODE) return bad(r, k ? line_of(k) : line_of(n), "a key that is not a word");
    const char *key = text_of(r, k);
    if (!key) return IJ_EFORMAT;
    if ((r->bytes += k->data.scalar.length) > MAX_BYTES) return bad(r, line_of(k), "too much for settings");
    cJSON_ArrayForEach(other, map) {
      const cJSON *line = cJSON_GetObjectItemCaseSensitive(other, "key_line");
      if (!strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(other, "key")), key))
        return ij_fail(IJ_EFORMAT, "%s:%d: the key '%.100s' stands there twice, first on line %d", r->name, line_of(k),
                       key, (int)cJSON_GetNumberValue(line));
    }
    cJSON *item = cJSON_CreateObject();
    IJ_TRY(put(map, NULL, item));
    IJ_TRY(put(item, "key", cJSON_CreateString(key)));
    IJ_TRY(put(item, "key_line", cJSON_CreateNumber(line_of(k))));
    IJ_TRY(convert(r, p->value, depth + 1, item));
  }
  return IJ_OK;
}

/* Node `index` of the document into the object `to`. */
static ij_status convert(reader *r, int index, int depth, cJSON *to) {
  const yaml_node_t *n = yaml_document_get_node(&r->doc, index);
  if (!n) return bad(r, 1, "a node is missing");
  int line = line_of(n);
  if (depth > MAX_DEPTH) return bad(r, line, "nested too deep, or an alias in itself");
  if (++r->nodes > MAX_NODES) return bad(r, line, "too much for settings (aliases count as often as they are used)");
  const char *tag = (const char *)n->tag;
  if (strcmp(tag, YAML_STR_TAG) && strcmp(tag, YAML_SEQ_TAG) && strcmp(tag, YAML_MAP_TAG))
    return ij_fail(IJ_EFORMAT, "%s:%d: the tag '%.100s' is refused: plain values, lists and keys alone are read",
                   r->name, line, tag);
  IJ_TRY(put(to, "line", cJSON_CreateNumber(line)));
  if (n->type == YAML_SEQUENCE_NODE) return convert_list(r, n, depth, to);
  if (n->type == YAML_MAPPING_NODE) return convert_map(r, n, depth, to);
  const char *text = text_of(r, n);
  if (!text) return IJ_EFORMAT;
  if ((r->bytes += n->data.scalar.length) > MAX_BYTES) return bad(r, line, "too much for settings");
  IJ_TRY(put(to, "text", cJSON_CreateString(text)));
  return put(to, "plain", cJSON_CreateBool(n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE));
}

static ij_status parse_error(const reader *r, const yaml_parser_t *p) {
  if (p->error == YAML_MEMORY_ERROR) return ij_fail(IJ_ENOMEM, "out of memory: reading YAML");
  return ij_fail(IJ_EFORMAT, "%s:%d: %s", r->name, (int)p->problem_mark.line + 1,
                 p->problem ? p->problem : "not YAML that can be read");
}

/* The only document of the text, as a tree. */
static ij_status read_tree(reader *r, yaml_parser_t *p, cJSON *root) {
  if (!yaml_parser_load(p, &r->doc)) return parse_error(r, p);
  ij_status st =
      yaml_document_get_root_node(&r->doc) ? convert(r, 1, 0, root) : ij_fail(IJ_EFORMAT, "%s: nothing in it", r->name);
  yaml_document_delete(&r->doc);
  if (st != IJ_OK) return st;
  if (!yaml_parser_load(p, &r->doc)) return parse_error(r, p);
  const yaml_node_t *second = yaml_document_get_root_node(&r->doc);
  if (second) st = bad(r, line_of(second), "a second document: one is read");
  yaml_document_delete(&r->doc);
  return st;
}

ij_status ij_yaml_read(const char *text, size_t n, const char *name, char **json) {
  *json = NULL;
  if (n > MAX_TEXT) return ij_fail(IJ_EFORMAT, "%s: %zu bytes are too many for settings", name, n);
  reader r = {.name = name};
  yaml_parser_t p;
  cJSON *root = cJSON_CreateObject();
  if (!root || !yaml_parser_initialize(&p)) {
    cJSON_Delete(root);
    return ij_fail(IJ_ENOMEM, "out of memory: reading YAML");
  }
  yaml_parser_set_input_string(&p, (const unsigned char *)text, n);
  ij_status st = read_tree(&r, &p, root);
  yaml_parser_delete(&p);
  char *printed = st == IJ_OK ? cJSON_PrintUnformatted(root) : NULL;
  cJSON_Delete(root);
  if (st != IJ_OK) return st;
  if (printed) *json = ij_strdup(printed);
  cJSON_free(printed);
  return *json ? IJ_OK : ij_fail(IJ_ENOMEM, "out of memory: reading YAML");
}
