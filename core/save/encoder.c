/* An encoder from a checkpoint, for programs without Lua: of a run, or in the layout of the published code, timm or
 * Hugging Face (the names are those of lua/ijepa/save/weights.lua). Settings in the file say what it is, else the
 * tensors' shapes. */
#include "base/base.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MOST = 256 };

/* Where an encoder's tensors are in a file: what stands before their names, and whether these are Hugging Face's. */
typedef struct location {
  char prefix[NAME_MOST];
  bool hf;
} location;

static const cJSON *member(const cJSON *o, const char *key) { return cJSON_GetObjectItemCaseSensitive(o, key); }

/* The number in item, cut to a range in which every conversion is defined; `otherwise` where there is none. */
static double number(const cJSON *item, double otherwise) {
  return cJSON_IsNumber(item) ? fmax(-1, fmin(1 << 20, item->valuedouble)) : otherwise;
}
static int integer(const cJSON *item, int otherwise) { return (int)number(item, otherwise); }

static ij_status no_model(const char *path, const char *why) {
  return ij_fail(IJ_EFORMAT, "checkpoint '%s' does not describe its model: %s", path, why);
}

/* The settings as state.lua writes them: model = { arch, width, ... }, data = { crop = side or [height, width] }. */
static ij_status config_of(const char *path, const cJSON *settings, ij_vit_config *c) {
  const cJSON *model = member(settings, "model"), *crop = member(member(settings, "data"), "crop");
  const cJSON *arch = member(model, "arch");
  *c = (ij_vit_config){.mlp_ratio = 4, .channels = 3, .dtype = IJ_F32};
  if (!cJSON_IsObject(model) || !crop) return no_model(path, "no settings in it");
  if (cJSON_IsString(arch) && ij_vit_size(arch->valuestring, c) != IJ_OK)
    return ij_fail_in(IJ_EFORMAT, "checkpoint '%s'", path);
  c->width = integer(member(model, "width"), c->width);
  c->depth = integer(member(model, "depth"), c->depth);
  c->heads = integer(member(model, "heads"), c->heads);
  c->mlp_ratio = number(member(model, "mlp_ratio"), c->mlp_ratio);
  c->patch = integer(member(model, "patch"), 16);
  if (c->patch < 1) return no_model(path, "its patches have no size");
  c->grid_h = integer(cJSON_IsArray(crop) ? crop->child : crop, 0) / c->patch;
  c->grid_w = integer(cJSON_IsArray(crop) && crop->child ? crop->child->next : crop, 0) / c->patch;
  return IJ_OK;
}

/* ---- names */

static bool ends_with(const char *name, const char *end, size_t *before) {
  size_t n = strlen(name), m = strlen(end);
  if (n < m || strcmp(name + n - m, end) != 0) return false;
  *before = n - m;
  return *before == 0 || name[*before - 1] == '.';
}

/* The length of the part's name in a prefix: "target_encoder.module." and "target_encoder." name the same. */
static size_t label_of(const char *prefix, size_t n) {
  static const char module[] = ".module.";
  size_t m = sizeof module - 1;
  if (n > m && !memcmp(prefix + n - m, module, m)) return n - m;
  return n ? n - 1 : 0;
}

/* The part called `which`; without a name the target encoder, or the only one. */
static ij_status find_location(const char *path, const ij_tensor_file *f, const char *which, location *out) {
  const char *wanted = which ? which : "target_encoder";
  int found = 0;
  for (int i = 0; i < ij_tensor_file_count(f); i++) {
    const char *name = ij_tensor_file_name(f, i);
    size_t n;
    bool hf = ends_with(name, "embeddings.position_embeddings", &n);
    if ((!hf && !ends_with(name, "pos_embed", &n)) || n >= NAME_MOST || !strncmp(name, "opt.", 4)) continue;
    size_t label = label_of(name, n);
    bool named = label == strlen(wanted) && !memcmp(name, wanted, label);
    if (which && !named) continue;
    found++;
    *out = (location){.hf = hf};
    memcpy(out->prefix, name, n);
    if (named) return IJ_OK;
  }
  if (found == 1) return IJ_OK;
  if (found)
    return ij_fail(IJ_EFORMAT, "checkpoint '%s' holds %d encoder%s, none called '%s'", path, found, ij_s(found),
                   wanted);
  return ij_fail(IJ_EFORMAT, "checkpoint '%s' holds no encoder%s%s", path, which ? " called " : " that is known",
                 which ? which : ": no tensor is called pos_embed or embeddings.position_embeddings");
}

/* The file's names of one of our tensors: one, or three whose rows follow each other in ours. */
static int sources_of(const location *part, const char *name, char out[3][2 * NAME_MOST]) {
  static const char *const words[][4] = {
      {"norm1", "layernorm_before"},
      {"norm2", "layernorm_after"},
      {"attn.proj", "attention.output.dense"},
      {"mlp.fc1", "intermediate.dense"},
      {"mlp.fc2", "output.dense"},
      {"attn.qkv", "attention.attention.query", "attention.attention.key", "attention.attention.value"}};
  const char *last = strrchr(name, '.'), *ending = last ? last : "";
  int block, n = 0, word_offset = 0;
  if (part->hf && sscanf(name, "blocks.%d.%n", &block, &word_offset) == 1 && word_offset) {
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
      if (strncmp(name + word_offset, words[w][0], (size_t)(ending - name) - (size_t)word_offset) != 0) continue;
      for (; n < 3 && words[w][n + 1]; n++)
        snprintf(out[n], sizeof out[n], "%sencoder.layer.%d.%s%s", part->prefix, block, words[w][n + 1], ending);
    }
    return n;
  }
  const char *in_hf = !strcmp(name, "pos_embed")               ? "embeddings.position_embeddings"
                      : !strncmp(name, "patch_embed.proj", 16) ? "embeddings.patch_embeddings.projection"
                                                               : "layernorm";
  if (part->hf) snprintf(out[0], sizeof out[0], "%s%s%s", part->prefix, in_hf, ending);
  else snprintf(out[0], sizeof out[0], "%s%.255s", part->prefix, name);
  return 1;
}

/* ---- what model it is */

/* Sizes of the tensor of this name, (ndim); -1 where it is missing or has another count of dimensions. */
static int size_of(const location *part, const ij_tensor_file *f, const char *name, int ndim, int dim) {
  char sources[3][2 * NAME_MOST];
  int i = sources_of(part, name, sources) ? ij_tensor_file_find(f, sources[0]) : -1;
  if (i < 0 || ij_tensor_file_ndim(f, i) != ndim) return -1;
  int64_t size = ij_tensor_file_size(f, i, dim);
  return size < 1 << 20 ? (int)size : -1;
}

/* The count of heads does not follow from the tensors: it is in a config.json beside the file, or a published model has
 * this width. */
static int heads_of(const char *path, int width) {
  static const char *const archs[] = {"vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge", "vit_giant"};
  const char *slash = strrchr(path, '/');
  char text[1 << 14], *beside = ij_format("%.*sconfig.json", slash ? (int)(slash - path) + 1 : 0, path);
  FILE *file = beside && ij_path_kind(beside) == 1 ? fopen(beside, "rb") : NULL;
  int heads = 0;
  if (file) {
    cJSON *settings = cJSON_ParseWithLength(text, fread(text, 1, sizeof text, file));
    heads = integer(member(settings, "num_attention_heads"), 0);
    cJSON_Delete(settings);
    fclose(file);
  }
  for (size_t i = 0; !heads && i < sizeof archs / sizeof *archs; i++) {
    ij_vit_config c = {0};
    if (ij_vit_size(archs[i], &c) == IJ_OK && c.width == width) heads = c.heads;
  }
  ij_free(beside);
  return heads;
}

static ij_status config_of_tensors(const char *path, const ij_tensor_file *f, const location *part, ij_vit_config *c) {
  char name[NAME_MOST];
  int count = size_of(part, f, "pos_embed", 3, 1), hidden = size_of(part, f, "blocks.0.mlp.fc1.weight", 2, 0);
  int side = (int)lround(sqrt(fmax(count, 0)));
  *c = (ij_vit_config){.channels = 3, .dtype = IJ_F32, .grid_h = side, .grid_w = side};
  c->width = size_of(part, f, "pos_embed", 3, 2);
  c->patch = size_of(part, f, "patch_embed.proj.weight", 4, 3);
  if (c->width < 1 || c->patch < 1 || hidden < 1)
    return no_model(path, "a tensor that an encoder has is missing or has an odd shape");
  if (side * side != count) return no_model(path, "its positions are not a square grid, and it has no settings");
  c->mlp_ratio = (hidden + .5) / c->width;
  do snprintf(name, sizeof name, "blocks.%d.norm1.weight", c->depth);
  while (size_of(part, f, name, 1, 0) > 0 && ++c->depth <= 1000);
  c->heads = heads_of(path, c->width);
  return c->heads > 0 ? IJ_OK
                      : no_model(path, "the count of heads is unknown for a width that no published model has; "
                                       "ijepa export FILE --heads N --format hf --out FOLDER writes one that does");
}

static ij_status read_config(const char *path, const ij_tensor_file *f, const location *part, ij_vit_config *c) {
  const char *text = ij_tensor_file_meta(f, "settings");
  cJSON *settings = text ? cJSON_Parse(text) : NULL;
  ij_status st = settings ? config_of(path, settings, c) : config_of_tensors(path, f, part, c);
  c->blank = 1; /* all values come from the file */
  cJSON_Delete(settings);
  if (st != IJ_OK) return st;
  /* positions are computed for a new model, so a small file must not claim many */
  if (size_of(part, f, "pos_embed", 3, 2) == c->width &&
      size_of(part, f, "pos_embed", 3, 1) == (int64_t)c->grid_h * c->grid_w)
    return IJ_OK;
  return ij_fail(IJ_EFORMAT, "checkpoint '%s': its positions do not have the shape of its settings", path);
}

/* ---- values */

/* Rows [*row, ...) of t from tensor i of the file, of any type. */
static ij_status fill_rows(const char *path, ij_tensor_file *f, int i, ij_tensor *t, int64_t *row, bool all) {
  int64_t rows = ij_tensor_file_ndim(f, i) > 0 ? ij_tensor_file_size(f, i, 0) : 0;
  bool same = ij_tensor_file_ndim(f, i) == ij_tensor_ndim(t) && (all ? rows == ij_tensor_size(t, 0) : true) &&
              rows <= ij_tensor_size(t, 0) - *row;
  for (int d = 1; same && d < ij_tensor_ndim(t); d++) same = ij_tensor_file_size(f, i, d) == ij_tensor_size(t, d);
  if (!same)
    return ij_fail(IJ_EFORMAT, "checkpoint '%s': the tensor '%s' does not have the shape of its settings", path,
                   ij_tensor_file_name(f, i));
  if (all) return ij_tensor_file_load(f, i, t);
  ij_tensor *part;
  IJ_TRY(ij_tensor_narrow(t, 0, *row, rows, &part));
  ij_status st = ij_tensor_file_load(f, i, part);
  ij_tensor_free(part);
  *row += rows;
  return st;
}

/* Every tensor of the model; nothing missing, nothing left. */
static ij_status fill(const char *path, ij_tensor_file *f, const location *part, ij_params *ps) {
  char sources[3][2 * NAME_MOST];
  int used = 0, found = 0;
  size_t prefix = strlen(part->prefix);
  for (int i = 0; i < ij_params_count(ps); i++) {
    ij_tensor *t = ij_params_tensor(ps, i);
    int64_t row = 0;
    int n = sources_of(part, ij_params_name(ps, i), sources);
    for (int k = 0; k < n; k++, used++) {
      int have = ij_tensor_file_find(f, sources[k]);
      if (have < 0) return ij_fail(IJ_EFORMAT, "checkpoint '%s' lacks the tensor '%s'", path, sources[k]);
      IJ_TRY(fill_rows(path, f, have, t, &row, n == 1));
    }
    if (n == 0 || (n > 1 && row != ij_tensor_size(t, 0)))
      return ij_fail(IJ_EFORMAT, "checkpoint '%s': '%s' is not complete", path, ij_params_name(ps, i));
    ij_tensor_require_grad(t, 0);
  }
  for (int i = 0; i < ij_tensor_file_count(f); i++) found += !strncmp(ij_tensor_file_name(f, i), part->prefix, prefix);
  if (found == used) return IJ_OK;
  return ij_fail(IJ_EFORMAT, "checkpoint '%s' has %d tensor%s called '%s...', its model %d", path, found, ij_s(found),
                 part->prefix, used);
}

ij_status ij_encoder_load(ij_device *dev, const char *path, const char *which, ij_encoder **out) {
  ij_vit_config c;
  ij_tensor_file *f;
  location part;
  ij_encoder *e = NULL;
  *out = NULL;
  IJ_TRY(ij_tensor_file_open(path, &f));
  ij_status st = find_location(path, f, which, &part);
  if (st == IJ_OK) st = read_config(path, f, &part, &c);
  if (st == IJ_OK && (st = ij_encoder_new(dev, &c, &e)) != IJ_OK) st = ij_fail_in(st, "checkpoint '%s'", path);
  if (st == IJ_OK) st = fill(path, f, &part, ij_encoder_params(e));
  ij_tensor_file_close(f);
  if (st == IJ_OK) *out = e;
  else ij_encoder_free(e);
  return st;
}
