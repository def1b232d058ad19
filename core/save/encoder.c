/* An encoder from a run's checkpoint, for programs without Lua: the settings that lie in the file say what it is. */
#include "base/base.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const cJSON *member(const cJSON *o, const char *key) { return cJSON_GetObjectItemCaseSensitive(o, key); }

/* The number in item, cut to a range in which every conversion is defined; `otherwise` where there is none. */
static double number(const cJSON *item, double otherwise) {
  return cJSON_IsNumber(item) ? fmax(-1, fmin(1 << 20, item->valuedouble)) : otherwise;
}
static int whole(const cJSON *item, int otherwise) { return (int)number(item, otherwise); }

static ij_status no_model(const char *path, const char *why) {
  return ij_fail(IJ_EFORMAT, "checkpoint '%s' does not say what model it holds: %s", path, why);
}

/* The settings as state.lua writes them: model = { arch, width, ... }, data = { crop = side or [height, width] }. */
static ij_status config_of(const char *path, const cJSON *settings, ij_vit_config *c) {
  const cJSON *model = member(settings, "model"), *crop = member(member(settings, "data"), "crop");
  const cJSON *arch = member(model, "arch");
  *c = (ij_vit_config){.mlp_ratio = 4, .channels = 3, .dtype = IJ_F32};
  if (!cJSON_IsObject(model) || !crop) return no_model(path, "no settings in it");
  if (cJSON_IsString(arch) && ij_vit_size(arch->valuestring, c) != IJ_OK)
    return ij_fail_in(IJ_EFORMAT, "checkpoint '%s'", path);
  c->width = whole(member(model, "width"), c->width);
  c->depth = whole(member(model, "depth"), c->depth);
  c->heads = whole(member(model, "heads"), c->heads);
  c->mlp_ratio = number(member(model, "mlp_ratio"), c->mlp_ratio);
  c->patch = whole(member(model, "patch"), 16);
  if (c->patch < 1) return no_model(path, "its patches have no size");
  c->grid_h = whole(cJSON_IsArray(crop) ? crop->child : crop, 0) / c->patch;
  c->grid_w = whole(cJSON_IsArray(crop) && crop->child ? crop->child->next : crop, 0) / c->patch;
  return IJ_OK;
}

static ij_status read_config(const char *path, const ij_tensors *f, ij_vit_config *c) {
  const char *text = ij_tensors_meta(f, "settings");
  cJSON *settings = text ? cJSON_Parse(text) : NULL;
  ij_status st = settings ? config_of(path, settings, c) : no_model(path, "no settings in it");
  cJSON_Delete(settings);
  return st;
}

static bool same_shape(const ij_tensors *f, int i, const ij_tensor *t) {
  bool same = ij_tensors_dtype(f, i) == IJ_F32 && ij_tensors_ndim(f, i) == ij_tensor_ndim(t);
  for (int d = 0; same && d < ij_tensor_ndim(t); d++) same = ij_tensors_size(f, i, d) == ij_tensor_size(t, d);
  return same;
}

/* Every tensor "which.NAME" of the file into the model's NAME; nothing missing, nothing left. */
static ij_status fill(const char *path, ij_tensors *f, const char *which, ij_params *ps) {
  char name[256];
  int found = 0, count = ij_params_count(ps);
  size_t prefix = strlen(which);
  for (int i = 0; i < count; i++) {
    ij_tensor *t = ij_params_tensor(ps, i);
    snprintf(name, sizeof name, "%.100s.%s", which, ij_params_name(ps, i));
    int at = ij_tensors_find(f, name);
    if (at < 0) return ij_fail(IJ_EFORMAT, "checkpoint '%s' lacks the tensor '%s'", path, name);
    if (!same_shape(f, at, t))
      return ij_fail(IJ_EFORMAT, "checkpoint '%s': the tensor '%s' has not the shape that its settings say", path,
                     name);
    IJ_TRY(ij_tensors_load(f, at, t));
    ij_tensor_require_grad(t, 0);
  }
  for (int i = 0; i < ij_tensors_count(f); i++) {
    const char *have = ij_tensors_name(f, i);
    found += !strncmp(have, which, prefix) && have[prefix] == '.';
  }
  if (found == count) return IJ_OK;
  return ij_fail(IJ_EFORMAT, "checkpoint '%s' has %d tensors of '%s', its model %d", path, found, which, count);
}

ij_status ij_encoder_load(ij_device *dev, const char *path, const char *which, ij_encoder **out) {
  ij_vit_config c;
  ij_tensors *f;
  ij_encoder *e = NULL;
  *out = NULL;
  if (!which) which = "target_encoder";
  IJ_TRY(ij_tensors_open(path, &f));
  ij_status st = read_config(path, f, &c);
  if (st == IJ_OK && (st = ij_encoder_new(dev, &c, &e)) != IJ_OK) st = ij_fail_in(st, "checkpoint '%s'", path);
  if (st == IJ_OK) st = fill(path, f, which, ij_encoder_params(e));
  ij_tensors_close(f);
  if (st == IJ_OK) *out = e;
  else ij_encoder_free(e);
  return st;
}
