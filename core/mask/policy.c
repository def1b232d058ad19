/* A mask policy: its configuration, the sizes that it can draw, and the refusal of sizes that could never be valid. */
#include "mask.h"
#include <math.h>

enum { MAX_SIDE = 4096, MAX_MASKS = 256, MAX_GROUP = 1 << 16, PROBES = 1 << 12 };
static const double MAX_ASPECT = 1e6, MAX_BYTES = 0x1p31;

static bool has(const ij_mask_config *c, unsigned quirk) { return (c->quirks & quirk) != 0; }
static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

/* The number of patches in a fraction of the grid. Each step on its own line: no fused multiply-add may change it. */
static int area_of(const ij_mask_config *c, const double scale[2], double u) {
  double span = scale[1] - scale[0], step = u * span, s = scale[0] + step;
  double area = (double)c->grid_h * c->grid_w * s;
  return (int)area;
}

/* h = sqrt(area * aspect), w = sqrt(area / aspect), rounded (ties to even), within the grid. */
static block_size block_of(const ij_mask_config *c, int area, double aspect) {
  block_size b = {(int)rint(sqrt(area * aspect)), (int)rint(sqrt(area / aspect))};
  if (has(c, IJ_BLOCK_BELOW_GRID)) {
    b.h = min_int(b.h, c->grid_h - 1);
    b.w = min_int(b.w, c->grid_w - 1);
  } else if (b.h > c->grid_h) { /* too high: the width makes up for the rows that are not there */
    b.h = c->grid_h;
    b.w = min_int(c->grid_w, (int)rint((double)area / b.h));
  } else if (b.w > c->grid_w) {
    b.w = c->grid_w;
    b.h = min_int(c->grid_h, (int)rint((double)area / b.w));
  }
  return (block_size){max_int(b.h, 1), max_int(b.w, 1)};
}

/* The target block for two uniform numbers; with shared_draw they are one and the same. */
static block_size target_block(const ij_mask_config *c, double u, double v) {
  double lo = c->target_aspect[0], hi = c->target_aspect[1], aspect;
  if (has(c, IJ_SHARED_DRAW)) {
    double step = v * (hi - lo);
    aspect = lo + step;
  } else {
    aspect = lo * pow(hi / lo, v);
  }
  return block_of(c, area_of(c, c->target_scale, u), aspect);
}

static group_size size_of(const ij_mask_config *c, double u_target, double v_target, double u_context) {
  group_size s = {{0, 0}, {0, 0}, 0, 0};
  if (c->kind == IJ_MASK_RANDOM) {
    s.target_area = max_int(1, area_of(c, c->target_scale, u_target));
    s.context_area = max_int(1, area_of(c, c->context_scale, u_context));
    return s;
  }
  s.target = target_block(c, u_target, v_target);
  s.context = c->kind == IJ_MASK_BLOCK ? (block_size){c->grid_h, c->grid_w}
                                       : block_of(c, area_of(c, c->context_scale, u_context), 1.0);
  s.target_area = s.target.h * s.target.w;
  s.context_area = s.context.h * s.context.w;
  return s;
}

/* What makes a mask of these sizes invalid whatever its position, or NULL. */
static const char *never_valid(const ij_mask_config *c, const group_size *s, int *patches) {
  *patches = s->target_area;
  if (s->target_area <= c->min_keep) return "target";
  *patches = s->context_area;
  if (s->context_area <= c->min_keep) return "context";
  if (c->kind != IJ_MASK_BLOCK || c->allow_overlap) return NULL;
  *patches = s->context_area - s->target_area;
  return *patches <= c->min_keep ? "rest" : NULL;
}

static ij_status refuse(const ij_mask_config *c, const group_size *s, const char *why) {
  int target = s->target_area, context = s->context_area, rest = context - target;
  const char *scale = why[0] == 't' ? "target" : "context";
  block_size b = why[0] == 't' ? s->target : s->context;
  int patches = why[0] == 't' ? target : context;
  const char *plural = patches == 1 ? "" : "es";
  if (why[0] == 'r')
    return ij_fail(
        IJ_EINVAL,
        "mask: a target block of %dx%d = %d patch%s leaves %d of the %dx%d grid, never more than min_keep %d: "
        "lower mask.target.scale or mask.min_keep",
        s->target.h, s->target.w, target, target == 1 ? "" : "es", rest, c->grid_h, c->grid_w, c->min_keep);
  if (b.h == 0)
    return ij_fail(
        IJ_EINVAL,
        "mask: a random %s of %d patch%s never exceeds min_keep %d on a %dx%d grid: lower mask.min_keep below "
        "%d or raise mask.%s.scale",
        scale, patches, plural, c->min_keep, c->grid_h, c->grid_w, patches, scale);
  return ij_fail(
      IJ_EINVAL,
      "mask: a %s block of %dx%d = %d patch%s never exceeds min_keep %d on a %dx%d grid: lower mask.min_keep "
      "below %d or raise mask.%s.scale",
      scale, b.h, b.w, patches, plural, c->min_keep, c->grid_h, c->grid_w, patches, scale);
}

/* Tries sizes along each axis of the draw: the smallest area with all aspects, the largest with all aspects, and with
 * shared_draw the one curve that there is. A size between two probes is drawn again when it comes up. */
static ij_status guard(const ij_mask_config *c) {
  bool shared = has(c, IJ_SHARED_DRAW);
  bool found = false;
  group_size worst = {{0, 0}, {0, 0}, 0, 0};
  const char *worst_why = NULL;
  int worst_patches = 0;
  for (int i = 0; i <= PROBES; i++) {
    double v = i == PROBES ? 1 - 0x1p-24 : (double)i / PROBES; /* draws stay below 1 */
    for (int end = 0; end < 2; end++) {
      int patches;
      group_size s = size_of(c, shared ? v : end ? 1 - 0x1p-24 : 0, v, 0);
      const char *why = never_valid(c, &s, &patches);
      if (why && (!found || patches < worst_patches)) {
        found = true;
        worst = s;
        worst_why = why;
        worst_patches = patches;
      }
    }
  }
  return found ? refuse(c, &worst, worst_why) : IJ_OK;
}

ij_status ij_mask_sizes(const ij_mask_policy *p, uint64_t group, group_size *out) {
  const ij_mask_config *c = &p->c;
  bool shared = has(c, IJ_SHARED_DRAW);
  int patches;
  const char *why = NULL;
  ij_mt mt;
  ij_rng rng;
  if (has(c, IJ_SIZES_BY_COUNTER)) ij_mt_init(&mt, group);
  else ij_rng_init(&rng, c->seed, IJ_RNG_MASK_SIZE, (uint32_t)(group >> 32), (uint32_t)group);
  for (int i = 0; i < 1000; i++) {
    double u[3];
    for (int j = 0; j < 3; j++) {
      if (j == 1 && shared) u[j] = u[0];
      else u[j] = has(c, IJ_SIZES_BY_COUNTER) ? ij_mt_uniform(&mt) : ij_rng_uniform(&rng);
    }
    *out = size_of(c, u[0], u[1], u[2]);
    why = never_valid(c, out, &patches);
    if (!why) return IJ_OK;
    if (has(c, IJ_NO_HANG_GUARD)) break;
  }
  refuse(c, out, why);
  return ij_fail_in(IJ_EINVAL,
                    "no valid mask for group %llu however often one tries, and the published sampler would "
                    "try for ever",
                    (unsigned long long)group);
}

static ij_status check_range(const char *name, const double r[2], double most) {
  for (int i = 0; i < 2; i++)
    if (!(r[i] > 0 && r[i] <= most)) /* NaN too */
      return ij_fail(IJ_EINVAL, "mask: '%s' is %g, must be above 0 and at most %g", name, r[i], most);
  if (r[0] > r[1]) return ij_fail(IJ_EINVAL, "mask: '%s' runs from %g down to %g: swap them", name, r[0], r[1]);
  return IJ_OK;
}

static ij_status check_int(const char *name, long long v, long long least, long long most) {
  if (v >= least && v <= most) return IJ_OK;
  return ij_fail(IJ_EINVAL, "mask: '%s' is %lld, must be %lld to %lld", name, v, least, most);
}

static ij_status check_config(const ij_mask_config *c) {
  IJ_TRY(check_int("kind", (int)c->kind, IJ_MASK_MULTIBLOCK, IJ_MASK_BLOCK));
  IJ_TRY(check_int("grid height", c->grid_h, 1, MAX_SIDE));
  IJ_TRY(check_int("grid width", c->grid_w, 1, MAX_SIDE));
  IJ_TRY(check_int("context.n", c->contexts, 1, MAX_MASKS));
  IJ_TRY(check_int("target.n", c->targets, 1, MAX_MASKS));
  IJ_TRY(check_range("context.scale", c->context_scale, 1));
  IJ_TRY(check_range("target.scale", c->target_scale, 1));
  IJ_TRY(check_range("target.aspect", c->target_aspect, MAX_ASPECT));
  IJ_TRY(check_int("min_keep", c->min_keep, 0, (long long)c->grid_h * c->grid_w - 1));
  IJ_TRY(check_int("overlap", c->allow_overlap, 0, 1));
  IJ_TRY(check_int("quirks", c->quirks, 0, IJ_REFERENCE_QUIRKS));
  IJ_TRY(check_int("group", c->group, 0, MAX_GROUP));
  if (c->kind == IJ_MASK_BLOCK && c->targets != 1)
    return ij_fail(IJ_EINVAL, "mask: policy 'block' has one target, not %d: set target.n to 1", c->targets);
  return IJ_OK;
}

ij_status ij_mask_new(const ij_mask_config *config, ij_mask_policy **out) {
  ij_status st = IJ_OK;
  *out = NULL;
  IJ_TRY(check_config(config));
  if (!has(config, IJ_NO_HANG_GUARD)) IJ_TRY(guard(config));
  ij_mask_policy *p = ij_calloc(1, sizeof *p);
  if (!p) return IJ_ENOMEM;
  p->c = *config;
  if (p->c.group == 0) p->c.group = 128;
  p->patches = p->c.grid_h * p->c.grid_w;
  p->words = (p->patches + 63) / 64;
  size_t masks = (size_t)p->c.group * (size_t)(p->c.targets + p->c.contexts);
  double bytes = (double)masks * p->words * 8;
  if (bytes > MAX_BYTES) {
    st = ij_fail(IJ_EINVAL, "mask: %d x %d masks of %dx%d patches take %.1f GiB: lower mask.group", p->c.group,
                 p->c.targets + p->c.contexts, p->c.grid_h, p->c.grid_w, bytes / 0x1p30);
    goto fail;
  }
  st = IJ_ENOMEM;
  if (!(p->bits = ij_calloc(masks, (size_t)p->words * 8))) goto fail;
  if (!(p->length = ij_calloc((size_t)p->c.group * (size_t)p->c.contexts, sizeof *p->length))) goto fail;
  if (!(p->relaxed = ij_calloc((size_t)p->c.group, 1))) goto fail;
  if (!(p->scratch = ij_calloc((size_t)p->words, 8))) goto fail;
  if (!(p->row = ij_calloc((size_t)p->patches, sizeof *p->row))) goto fail;
  *out = p;
  return IJ_OK;
fail:
  ij_mask_free(p);
  return st;
}

void ij_mask_free(ij_mask_policy *p) {
  if (!p) return;
  ij_free(p->bits);
  ij_free(p->length);
  ij_free(p->relaxed);
  ij_free(p->scratch);
  ij_free(p->row);
  ij_free(p->out);
  ij_free(p);
}
