/* core/mask: sizes by seed, statistics of the published sampler, slices, cuts, quirks, refusals. */
#include "base/base.h"
#include "suite.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The published defaults on a side x side grid. */
static ij_mask_config config(int side, unsigned quirks, int group) {
  return (ij_mask_config){.grid_h = side,
                          .grid_w = side,
                          .contexts = 1,
                          .targets = 4,
                          .context_scale = {.85, 1},
                          .target_scale = {.15, .2},
                          .target_aspect = {.75, 1.5},
                          .min_keep = 10,
                          .quirks = quirks,
                          .group = group};
}

static ij_mask_policy *policy(ij_mask_config c) {
  ij_mask_policy *p = NULL;
  ck_assert_msg(ij_mask_new(&c, &p) == IJ_OK, "%s", ij_errmsg());
  return p;
}

static ij_masks sample(ij_mask_policy *p, uint64_t first, int count) {
  ij_masks m;
  ck_assert_msg(ij_mask_sample(p, first, count, &m) == IJ_OK, "%s", ij_errmsg());
  return m;
}

static const int32_t *context_row(const ij_masks *m, int c, int b) {
  return m->context + ((size_t)c * (size_t)m->count + (size_t)b) * (size_t)m->k;
}
static const int32_t *target_row(const ij_masks *m, int t, int b) {
  return m->target + ((size_t)t * (size_t)m->count + (size_t)b) * (size_t)m->t;
}

/* Above this a chi-square variable of df degrees of freedom lies with probability .001 (Wilson-Hilferty). */
static double chi_limit(int df) {
  double a = 2.0 / (9.0 * df);
  return df * pow(1 - a + 3.0902 * sqrt(a), 3);
}

/* Rows ascending and within the grid; contexts free of targets, unless they may overlap or a rule was relaxed. One
 * assertion at the end: each one costs a system call. */
static void check_valid(const ij_mask_config *c, const ij_masks *m) {
  int n = c->grid_h * c->grid_w, bad = 0;
  char *taken = ij_calloc((size_t)n, 1);
  bool disjoint = !c->allow_overlap && m->fallbacks == 0;
  for (int b = 0; b < m->count; b++) {
    memset(taken, 0, (size_t)n);
    for (int i = 0; i < m->targets + m->contexts; i++) {
      bool is_target = i < m->targets;
      const int32_t *row = is_target ? target_row(m, i, b) : context_row(m, i - m->targets, b);
      for (int j = 0, last = -1; j < (is_target ? m->t : m->k); last = row[j++]) {
        if (row[j] <= last || row[j] >= n) bad++;
        else if (is_target) taken[row[j]] = 1;
        else if (disjoint) bad += taken[row[j]];
      }
    }
  }
  ij_free(taken);
  ck_assert_msg(bad == 0 && m->k > c->min_keep && m->t > c->min_keep, "%d bad patches, k %d, t %d", bad, m->k, m->t);
}

START_TEST(sizes_by_seed)
{ /* spec, section 2: targets on 16x16, 14x14, 28x28, context on 28x28 */
  static const struct {
    int seed, size[4][2];
  } want[] = {{0, {{7, 6}, {6, 6}, {12, 11}, {27, 27}}},
              {1, {{8, 6}, {7, 5}, {14, 11}, {26, 26}}},
              {3, {{5, 7}, {5, 6}, {9, 12}, {26, 26}}},
              {624, {{9, 6}, {7, 5}, {15, 10}, {27, 27}}}};
  static const int side[3] = {16, 14, 28};
  for (int g = 0; g < 3; g++) {
    ij_mask_policy *p = policy(config(side[g], IJ_REFERENCE_QUIRKS, 4));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
      ij_masks m = sample(p, (uint64_t)want[i].seed * 4, 4);
      ck_assert_int_eq(m.target_h, want[i].size[g][0]);
      ck_assert_int_eq(m.target_w, want[i].size[g][1]);
      ck_assert_int_eq(m.context_h, side[g] == 28 ? want[i].size[3][0] : side[g] - 1);
    }
    ij_mask_free(p);
  }
}
END_TEST

/* ---- the published sampler's statistics ---- */

static cJSON *read_json(const char *name) {
  char *path = ij_format("%s/conformance/%s", SHARED_FOLDER, name);
  FILE *f = fopen(path, "rb");
  ij_free(path);
  if (!f) return NULL;
  static char text[1 << 16];
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = 0;
  return cJSON_Parse(text);
}

static double number(const cJSON *o, const char *key) {
  const cJSON *v = cJSON_GetObjectItem(o, key);
  ck_assert_msg(cJSON_IsNumber(v), "%s is not a number", key);
  return v->valuedouble;
}

/* Two samples of counts by length, n times as many in b as in a; neighbours merged to 8 or more expected. */
static void check_lengths(const char *name, const double *a, const double *b, int bins, double n) {
  double sum_a = 0, sum_b = 0, chi = 0;
  int merged = 0;
  for (int i = 0; i <= bins; i++) {
    if (i < bins) {
      sum_a += a[i];
      sum_b += b[i];
    }
    if ((sum_a + sum_b) / (1 + n) < 8 && i < bins) continue;
    double d = sqrt(n) * sum_a - sum_b / sqrt(n);
    if (sum_a + sum_b > 0) chi += d * d / (sum_a + sum_b), merged++;
    sum_a = sum_b = 0;
  }
  double limit = chi_limit(merged > 1 ? merged - 1 : 1);
  printf("%s: chi-square %.1f, limit %.1f, %d bins\n", name, chi, limit, merged);
  ck_assert_msg(chi < limit, "%s: chi-square %g, limit %g", name, chi, limit);
}

/* Patches of an image and images of a batch go together, so the unit of sampling is the batch: mean[i] and the
 * variance var[i] of a batch's share give the bound (Bernstein's form, exact for rare patches too), at .001 for all
 * patches together. */
static void check_frequencies(const char *name, const cJSON *file, const double *mean, const double *var, int patches,
                              double batches, double repeats) {
  ck_assert_int_eq(cJSON_GetArraySize(file), patches);
  double z = 5, worst = 0, n = 1 / (1 / batches + 1 / (batches * repeats)); /* 5 sigma: 5.7e-7 a patch */
  int i = 0;
  const cJSON *f;
  cJSON_ArrayForEach(f, file) {
    double bound = 5e-6 + z * sqrt(var[i] / n) + (var[i] > 0 ? z * z / (6 * n) : 0);
    double ratio = fabs(f->valuedouble - mean[i]) / bound;
    if (ratio > worst) worst = ratio;
    i++;
  }
  printf("%s: worst patch at %.2f of its bound\n", name, worst);
  ck_assert_msg(worst < 1, "%s: a patch is at %g of its bound", name, worst);
}

static void add_row(double *share, const int32_t *row, int n, double weight) {
  for (int i = 0; i < n; i++) share[row[i]] += weight;
}

static void compare_with(const char *name) {
  cJSON *file = read_json(name);
  if (!file) {
    printf("skipped: %s is not there\n", name);
    return;
  }
  const cJSON *fc = cJSON_GetObjectItem(file, "config");
  int side = (int)(number(fc, "crop_size") / number(fc, "patch_size")), group = (int)number(fc, "batch_size");
  int batches = (int)number(file, "batches"), n = side * side, repeats = 4;
  ij_mask_config c = config(side, IJ_REFERENCE_QUIRKS, group);
  c.min_keep = (int)number(fc, "min_keep");
  cJSON *targets = cJSON_GetObjectItem(file, "pred_block_hxw_counts");
  cJSON *contexts = cJSON_GetObjectItem(file, "enc_block_hxw_counts");
  double *buffer = ij_calloc((size_t)(10 * n + 2), sizeof *buffer);
  double *share[2] = {buffer, buffer + n}, *sum[2] = {buffer + 2 * n, buffer + 3 * n};
  double *square[2] = {buffer + 4 * n, buffer + 5 * n}, *length[2] = {buffer + 6 * n, buffer + 7 * n + 1};
  double *published = buffer + 8 * n + 2;
  for (int r = 0; r < repeats; r++) {
    c.seed = (uint64_t)r;
    ij_mask_policy *p = policy(c);
    for (int b = 0; b < batches; b++) {
      ij_masks m = sample(p, (uint64_t)b * (uint64_t)group, group);
      length[0][m.k]++;
      length[1][m.t]++;
      if (r == 0) { /* sizes come from the batch number alone: count them down to 0 */
        char size[2][32];
        snprintf(size[0], sizeof size[0], "%dx%d", m.target_h, m.target_w);
        snprintf(size[1], sizeof size[1], "%dx%d", m.context_h, m.context_w);
        cJSON *t = cJSON_GetObjectItem(targets, size[0]), *e = cJSON_GetObjectItem(contexts, size[1]);
        ck_assert_msg(t && e, "%s: size %s or %s is not in the file", name, size[0], size[1]);
        t->valuedouble--;
        e->valuedouble--;
      }
      memset(buffer, 0, 2 * (size_t)n * sizeof *buffer);
      for (int i = 0; i < group; i++) {
        add_row(share[0], context_row(&m, 0, i), m.k, 1.0 / group);
        for (int t = 0; t < 4; t++) add_row(share[1], target_row(&m, t, i), m.t, 0.25 / group);
      }
      for (int w = 0; w < 2; w++)
        for (int i = 0; i < n; i++) {
          sum[w][i] += share[w][i];
          square[w][i] += share[w][i] * share[w][i];
        }
    }
    ij_mask_free(p);
  }
  const cJSON *left;
  cJSON_ArrayForEach(left, targets) ck_assert_msg(left->valuedouble == 0, "%s: targets %s differ", name, left->string);
  cJSON_ArrayForEach(left, contexts)
      ck_assert_msg(left->valuedouble == 0, "%s: contexts %s differ", name, left->string);
  for (int w = 0; w < 2; w++) {
    double all = (double)batches * repeats;
    for (int i = 0; i < n; i++) { /* to mean and variance */
      sum[w][i] /= all;
      square[w][i] = fmax(0, square[w][i] / all - sum[w][i] * sum[w][i]);
      if (square[w][i] < 1e-12) square[w][i] = 0;
    }
    char *label = ij_format("%s: %s", name, w ? "targets" : "context");
    memset(published, 0, (size_t)n * sizeof *published);
    const cJSON *v;
    cJSON_ArrayForEach(v, cJSON_GetObjectItem(file, w ? "pred_keep_counts" : "enc_keep_counts"))
        published[atoi(v->string)] = v->valuedouble;
    check_lengths(label, published, length[w], n, repeats);
    check_frequencies(label, cJSON_GetObjectItem(file, w ? "pred_patch_frequency" : "enc_patch_frequency"), sum[w],
                      square[w], n, batches, repeats);
    ij_free(label);
  }
  ij_free(buffer);
  cJSON_Delete(file);
}

START_TEST(published_statistics_64_8)
{ compare_with("masks_64_8.json"); }
END_TEST
START_TEST(published_statistics_vith14_224)
{ compare_with("masks_vith14_224.json"); }
END_TEST
START_TEST(published_statistics_vith16_448)
{ compare_with("masks_vith16_448.json"); }
END_TEST

START_TEST(context_length_falls_with_the_group)
{ /* spec, section 2: mean context patches on 16x16 for groups of 1, 8, 32, 128; the figure for 32 is rough */
  static const struct {
    int group;
    double mean;
  } want[] = {{1, 110}, {8, 86}, {32, 75}, {128, 69}};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    ij_mask_policy *p = policy(config(16, IJ_REFERENCE_QUIRKS, want[i].group));
    double sum = 0;
    for (int g = 0; g < 1000; g++) sum += sample(p, (uint64_t)g * (uint64_t)want[i].group, 1).k;
    ck_assert_double_eq_tol(sum / 1000, want[i].mean, 2);
    ij_mask_free(p);
  }
}
END_TEST

/* ---- slices ---- */

static void check_slices(ij_mask_config c) {
  int group = c.group;
  ij_mask_policy *whole = policy(c), *part = policy(c);
  ij_masks all = sample(whole, (uint64_t)group, group);
  check_valid(&c, &all);
  static const int counts[] = {1, 3, 8, 5, 1};
  for (int i = 4, first = 0; first < group; i = (i + 1) % 5) {
    int count = counts[i] < group - first ? counts[i] : group - first;
    sample(part, (uint64_t)(group * 5), 2); /* another group in between */
    ij_masks m = sample(part, (uint64_t)(group + first), count);
    ck_assert_int_eq(m.k, all.k);
    ck_assert_int_eq(m.t, all.t);
    for (int b = 0; b < count; b++) {
      for (int j = 0; j < m.contexts; j++)
        ck_assert_mem_eq(context_row(&m, j, b), context_row(&all, j, first + b), (size_t)m.k * 4);
      for (int j = 0; j < m.targets; j++)
        ck_assert_mem_eq(target_row(&m, j, b), target_row(&all, j, first + b), (size_t)m.t * 4);
    }
    first += count;
  }
  /* across groups: the shortest of them, whatever was asked for before */
  int k = c.grid_h * c.grid_w, t = k;
  for (int g = 0; g < 3; g++) {
    ij_masks m = sample(part, (uint64_t)(group * g), 1);
    if (m.k < k) k = m.k;
    if (m.t < t) t = m.t;
  }
  ij_masks a = sample(whole, 1, 3 * group - 1);
  ck_assert_int_eq(a.k, k);
  ck_assert_int_eq(a.t, t);
  check_valid(&c, &a);
  ij_masks b = sample(part, 1, 3 * group - 1);
  ck_assert_mem_eq(a.context, b.context, (size_t)a.contexts * (size_t)a.count * (size_t)a.k * 4);
  ck_assert_mem_eq(a.target, b.target, (size_t)a.targets * (size_t)a.count * (size_t)a.t * 4);
  ij_mask_free(whole);
  ij_mask_free(part);
}

START_TEST(slices_do_not_depend_on_the_request)
{
  ij_mask_config c = config(14, 0, 16);
  c.contexts = 2;
  check_slices(c);
  check_slices(config(14, IJ_REFERENCE_QUIRKS, 16));
  c.kind = IJ_MASK_RANDOM;
  check_slices(c);
  c.kind = IJ_MASK_BLOCK;
  c.targets = 1;
  check_slices(c);
}
END_TEST

START_TEST(far_images_and_seeds)
{
  ij_mask_config c = config(16, 0, 0);
  ij_mask_policy *p = policy(c);
  c.seed = 1ull << 40;
  ij_mask_policy *q = policy(c);
  uint64_t far = 1ull << 62;
  ij_masks a = sample(p, far, 4), b = sample(q, far, 4);
  check_valid(&c, &a);
  ck_assert(a.t != b.t || memcmp(a.target, b.target, (size_t)a.t * 16) != 0);
  ij_masks m = sample(p, 1ull << 32, 4); /* low words alone would repeat image 0 */
  int32_t row[256];
  int t = m.t;
  memcpy(row, m.target, (size_t)t * 4);
  m = sample(p, 0, 4);
  ck_assert(m.t != t || memcmp(row, m.target, (size_t)t * 4) != 0);
  ck_assert_int_eq(ij_mask_sample(p, UINT64_MAX - 3, 4, &m), IJ_EINVAL);
  ck_assert_int_eq(ij_mask_sample(p, 0, 0, &m), IJ_EINVAL);
  ck_assert_int_eq(ij_mask_sample(p, 0, -1, &m), IJ_EINVAL);
  ck_assert_int_eq(ij_mask_sample(p, 0, INT32_MAX, &m), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "ask for fewer"));
  ij_mask_free(p);
  ij_mask_free(q);
}
END_TEST

/* ---- the cut ---- */

/* Fixed sizes, so that the same images in groups of one give the masks before the cut. */
static ij_mask_config fixed_sizes(unsigned quirks, int group) {
  ij_mask_config c = config(16, quirks, group);
  c.context_scale[0] = c.context_scale[1] = .9;
  c.target_scale[0] = c.target_scale[1] = .18;
  c.target_aspect[0] = c.target_aspect[1] = 1;
  return c;
}

START_TEST(random_cut_keeps_every_patch_alike)
{
  ij_mask_policy *cut = policy(fixed_sizes(0, 32)), *uncut = policy(fixed_sizes(0, 1));
  static double kept[256], expected[256], var[256];
  for (int image = 0; image < 6400; image++) {
    ij_masks a = sample(cut, (uint64_t)image, 1), b = sample(uncut, (uint64_t)image, 1);
    ck_assert_mem_eq(a.target, b.target, (size_t)a.targets * (size_t)a.t * 4);
    double p = (double)a.k / b.k;
    for (int i = 0, j = 0; i < b.k; i++) {
      expected[b.context[i]] += p;
      var[b.context[i]] += p * (1 - p);
      if (j < a.k && a.context[j] == b.context[i]) kept[b.context[i]]++, j++;
      if (i == b.k - 1) ck_assert_int_eq(j, a.k); /* a subset of the mask before the cut */
    }
  }
  double chi = 0;
  for (int i = 0; i < 256; i++) chi += (kept[i] - expected[i]) * (kept[i] - expected[i]) / var[i];
  ck_assert_double_lt(chi, chi_limit(256));
  ij_mask_free(cut);
  ij_mask_free(uncut);
}
END_TEST

START_TEST(raster_cut_keeps_the_first)
{
  ij_mask_policy *cut = policy(fixed_sizes(IJ_RASTER_CUT, 32)), *uncut = policy(fixed_sizes(0, 1));
  for (int image = 0; image < 320; image++) {
    ij_masks a = sample(cut, (uint64_t)image, 1), b = sample(uncut, (uint64_t)image, 1);
    ck_assert_mem_eq(a.context, b.context, (size_t)a.k * 4);
  }
  ij_mask_free(cut);
  ij_mask_free(uncut);
}
END_TEST

/* ---- quirks, one by one ---- */

/* Fraction of images whose context (targets) hold a patch of the last row or column. */
static void edge_use(ij_mask_config c, double *context, double *target) {
  ij_mask_policy *p = policy(c);
  ij_masks m = sample(p, 0, 4000);
  *context = *target = 0;
  int h = c.grid_h, w = c.grid_w;
  for (int b = 0; b < m.count; b++) {
    for (int i = 0; i < m.k; i++) {
      int at = context_row(&m, 0, b)[i];
      *context += at / w == h - 1 || at % w == w - 1;
    }
    for (int i = 0; i < m.t; i++) {
      int at = target_row(&m, 0, b)[i];
      *target += at / w == h - 1 || at % w == w - 1;
    }
  }
  ij_mask_free(p);
}

START_TEST(exclusive_position)
{
  double context, target;
  edge_use(config(16, 0, 1), &context, &target);
  ck_assert_double_gt(context, 1000);
  ck_assert_double_gt(target, 1000);
  edge_use(config(16, IJ_EXCLUSIVE_POSITION | IJ_BLOCK_BELOW_GRID, 1), &context, &target);
  ck_assert_double_eq(context, 0);
  ck_assert_double_eq(target, 0);
  edge_use(config(16, IJ_EXCLUSIVE_POSITION, 1), &context, &target); /* a context as big as the grid has one place */
  ck_assert_double_gt(context, 0);
  ck_assert_double_eq(target, 0);
}
END_TEST

START_TEST(default_covers_the_grid_symmetrically)
{ /* a patch and its mirror images are as likely as each other: no corner is special */
  ij_mask_policy *p = policy(config(16, 0, 16));
  static double context[256], target[256];
  const int images = 16 * 1500;
  for (int g = 0; g < 1500; g++) {
    ij_masks m = sample(p, (uint64_t)g * 16, 16);
    for (int b = 0; b < 16; b++) {
      add_row(context, context_row(&m, 0, b), m.k, 1.0 / images);
      for (int t = 0; t < 4; t++) add_row(target, target_row(&m, t, b), m.t, .25 / images);
    }
  }
  for (int i = 0; i < 256; i++) {
    ck_assert_double_gt(context[i], .01);
    ck_assert_double_gt(target[i], .005);
    ck_assert_double_eq_tol(context[i], context[255 - i], .03);
    ck_assert_double_eq_tol(target[i], target[255 - i], .02);
  }
  ij_mask_free(p);
}
END_TEST

START_TEST(block_below_grid)
{
  for (int quirk = 0; quirk < 2; quirk++) {
    ij_mask_policy *p = policy(config(16, quirk ? IJ_BLOCK_BELOW_GRID : 0, 1));
    int most = 0, least = 16;
    for (int g = 0; g < 500; g++) {
      ij_masks m = sample(p, (uint64_t)g, 1);
      if (m.context_h > most) most = m.context_h;
      if (m.context_h < least) least = m.context_h;
    }
    ck_assert_int_eq(most, quirk ? 15 : 16);
    ck_assert_int_eq(least, 15);
    ij_mask_free(p);
  }
}
END_TEST

START_TEST(shared_draw)
{ /* spec, section 2: six sizes on a curve; without the switch, others too */
  static const struct {
    int h, w;
    double p;
  } want[] = {{5, 7, .047}, {6, 7, .279}, {6, 6, .016}, {7, 6, .289}, {8, 6, .296}, {9, 6, .073}};
  enum { N = 20000 };
  for (int shared = 0; shared < 2; shared++) {
    ij_mask_policy *p = policy(config(16, shared ? IJ_SHARED_DRAW : 0, 1));
    int count[6] = {0}, other = 0;
    double log_aspect = 0;
    for (int g = 0; g < N; g++) {
      ij_masks m = sample(p, (uint64_t)g, 1);
      int i = 0;
      while (i < 6 && (want[i].h != m.target_h || want[i].w != m.target_w)) i++;
      if (i < 6) count[i]++;
      else other++;
      log_aspect += log((double)m.target_h / m.target_w) / N;
    }
    if (shared) {
      ck_assert_int_eq(other, 0);
      for (int i = 0; i < 6; i++)
        ck_assert_double_eq_tol((double)count[i] / N, want[i].p, .0005 + 4 * sqrt(want[i].p / N));
    } else {
      ck_assert_int_gt(other, N / 10);
      ck_assert_double_eq_tol(log_aspect, (log(.75) + log(1.5)) / 2, .02);
    }
    ij_mask_free(p);
  }
}
END_TEST

START_TEST(sizes_by_counter)
{
  for (int quirk = 0; quirk < 2; quirk++) {
    ij_mask_config c = config(28, quirk ? IJ_SIZES_BY_COUNTER : 0, 1);
    ij_mask_policy *a = policy(c);
    c.seed = 7;
    ij_mask_policy *b = policy(c);
    int sizes = 0, places = 0;
    for (int g = 0; g < 50; g++) {
      ij_masks m = sample(a, (uint64_t)g, 1), n = sample(b, (uint64_t)g, 1);
      bool same = m.target_h == n.target_h && m.target_w == n.target_w && m.context_h == n.context_h;
      sizes += same;
      places += same && m.target[0] == n.target[0];
    }
    if (quirk) ck_assert_int_eq(sizes, 50); /* the seed has no say */
    else ck_assert_int_lt(sizes, 30);
    ck_assert_int_lt(places, 20); /* but over positions */
    ij_mask_free(a);
    ij_mask_free(b);
  }
}
END_TEST

START_TEST(hang_guard)
{
  ij_mask_policy *p;
  ij_mask_config c = config(8, IJ_SHARED_DRAW, 1);
  ck_assert_int_eq(ij_mask_new(&c, &p), IJ_EINVAL);
  ck_assert_ptr_null(p);
  ck_assert_str_eq(ij_errmsg(),
                   "mask: a target block of 3x3 = 9 patches never exceeds min_keep 10 on a 8x8 grid: lower "
                   "mask.min_keep below 9 or raise mask.target.scale");
  c.quirks = 0;
  ck_assert_int_eq(ij_mask_new(&c, &p), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "block of 4x2 = 8 patches"));
  c.min_keep = 7;
  ij_mask_free(policy(c));
  c.min_keep = 10;
  c.quirks = IJ_REFERENCE_QUIRKS; /* without the guard: an error in about half of the batches, and no hang */
  p = policy(c);
  int failed = 0;
  for (int g = 0; g < 1000; g++) {
    ij_masks m;
    if (ij_mask_sample(p, (uint64_t)g, 1, &m) == IJ_OK) continue;
    failed++;
    ck_assert_ptr_nonnull(strstr(ij_errmsg(), "3x3 = 9"));
    ck_assert_ptr_nonnull(strstr(ij_errmsg(), "for ever"));
  }
  ck_assert_int_gt(failed, 400);
  ck_assert_int_lt(failed, 600);
  ij_mask_free(p);
  c = config(16, 0, 1); /* a context too small */
  c.context_scale[0] = .05;
  ck_assert_int_eq(ij_mask_new(&c, &p), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "context block of 3x3 = 9 patches"));
}
END_TEST

/* ---- other shapes of grid, other policies ---- */

START_TEST(grids_that_are_not_square)
{
  static const int grid[][2] = {{8, 16}, {16, 8}, {3, 40}, {1, 64}, {64, 1}, {7, 5}, {24, 40}, {13, 11}};
  for (size_t i = 0; i < sizeof grid / sizeof *grid; i++)
    for (int q = 0; q < 2; q++) {
      ij_mask_config c = config(1, q ? IJ_REFERENCE_QUIRKS : 0, 4);
      c.grid_h = grid[i][0];
      c.grid_w = grid[i][1];
      c.min_keep = 0;
      ij_mask_policy *p = policy(c);
      for (int g = 0; g < 200; g++) {
        ij_masks m = sample(p, (uint64_t)g * 4, 4);
        check_valid(&c, &m);
        ck_assert(m.target_h <= c.grid_h && m.target_w <= c.grid_w);
        ck_assert_int_eq(m.t, m.target_h * m.target_w);
        if (!q) { /* the context has the fraction of the grid that was asked for, give or take a line */
          int line = c.grid_h > c.grid_w ? c.grid_h : c.grid_w, n = c.grid_h * c.grid_w;
          ck_assert_int_ge(m.context_h * m.context_w, (int)(.85 * n) - line);
        }
      }
      ij_mask_free(p);
    }
}
END_TEST

START_TEST(relaxed_rules_are_counted)
{ /* targets that all but cover the grid: the context gets them back one by one, from the last */
  ij_mask_config c = config(16, 0, 8);
  c.target_scale[0] = c.target_scale[1] = .9;
  c.target_aspect[0] = c.target_aspect[1] = 1;
  c.min_keep = 60;
  ij_mask_policy *p = policy(c);
  ij_masks m = sample(p, 0, 64);
  check_valid(&c, &m);
  ck_assert_int_eq(m.fallbacks, 64);
  c.min_keep = 10; /* some images need it, some don't */
  ij_mask_free(p);
  p = policy(c);
  m = sample(p, 0, 64);
  check_valid(&c, &m);
  ck_assert_int_gt(m.fallbacks, 0);
  int sum = 0, all = m.fallbacks;
  for (int i = 0; i < 64; i++) sum += sample(p, (uint64_t)i, 1).fallbacks;
  ck_assert_int_eq(sum, all);
  ij_mask_free(p);
  c.allow_overlap = 1;
  p = policy(c);
  m = sample(p, 0, 64);
  check_valid(&c, &m);
  ck_assert_int_eq(m.fallbacks, 0);
  ck_assert_int_ge(m.k, 15 * 15);
  ij_mask_free(p);
}
END_TEST

START_TEST(random_and_block)
{
  ij_mask_config c = config(16, 0, 1);
  c.kind = IJ_MASK_RANDOM;
  c.targets = 1;
  c.target_scale[0] = c.target_scale[1] = .6;
  c.context_scale[0] = c.context_scale[1] = 1;
  ij_mask_policy *p = policy(c);
  ij_masks m = sample(p, 0, 500);
  check_valid(&c, &m);
  ck_assert_int_eq(m.t, 153);
  ck_assert_int_eq(m.k, 256 - 153);
  static double seen[256];
  for (int b = 0; b < 500; b++) add_row(seen, target_row(&m, 0, b), m.t, 1);
  double chi = 0, e = 500 * 153 / 256.0;
  for (int i = 0; i < 256; i++) chi += (seen[i] - e) * (seen[i] - e) / (e * (1 - 153 / 256.0));
  ck_assert_double_lt(chi, chi_limit(255));
  ij_mask_free(p);

  c.kind = IJ_MASK_BLOCK;
  c.target_aspect[0] = c.target_aspect[1] = 1;
  p = policy(c);
  m = sample(p, 0, 500);
  check_valid(&c, &m);
  ck_assert_int_eq(m.target_h, 12);
  ck_assert_int_eq(m.t, 144);
  ck_assert_int_eq(m.k, 256 - 144);
  ij_mask_free(p);
  c.target_scale[1] = 1;
  ck_assert_int_eq(ij_mask_new(&c, &p), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "leaves 0 of the 16x16 grid"));
  c.targets = 2;
  ck_assert_int_eq(ij_mask_new(&c, &p), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "one target"));
}
END_TEST

/* ---- refusals ---- */

START_TEST(bad_settings)
{
#define BAD(change, text)                                                                                              \
  do {                                                                                                                 \
    ij_mask_config c = config(16, 0, 1);                                                                               \
    ij_mask_policy *p;                                                                                                 \
    c.change;                                                                                                          \
    ck_assert_int_eq(ij_mask_new(&c, &p), IJ_EINVAL);                                                                  \
    ck_assert_ptr_null(p);                                                                                             \
    ck_assert_msg(strstr(ij_errmsg(), text) != NULL, "%s", ij_errmsg());                                               \
    ck_assert_ptr_null(strchr(ij_errmsg(), '\n'));                                                                     \
  } while (0)
  BAD(kind = 3, "'kind' is 3");
  BAD(kind = -1, "'kind' is -1");
  BAD(grid_h = 0, "'grid height' is 0");
  BAD(grid_w = 5000, "'grid width' is 5000, must be 1 to 4096");
  BAD(contexts = 0, "'context.n' is 0");
  BAD(targets = -4, "'target.n' is -4");
  BAD(targets = 100000, "'target.n' is 100000");
  BAD(context_scale[0] = 0, "'context.scale' is 0");
  BAD(context_scale[1] = 1.1, "'context.scale' is 1.1");
  BAD(target_scale[0] = .3, "'target.scale' runs from 0.3 down to 0.2");
  BAD(target_scale[0] = -1, "'target.scale' is -1");
  BAD(target_aspect[0] = 0, "'target.aspect' is 0");
  BAD(target_aspect[1] = INFINITY, "'target.aspect' is inf");
  BAD(target_aspect[1] = NAN, "'target.aspect' is nan");
  BAD(min_keep = -1, "'min_keep' is -1");
  BAD(min_keep = 256, "'min_keep' is 256, must be 0 to 255");
  BAD(allow_overlap = 2, "'overlap' is 2");
  BAD(quirks = 64, "'quirks' is 64");
  BAD(group = -1, "'group' is -1");
  BAD(group = 1 << 20, "'group' is 1048576");
  ij_mask_config big = config(2048, 0, 1 << 14);
  ij_mask_policy *none;
  ck_assert_int_eq(ij_mask_new(&big, &none), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "lower mask.group"));
}
END_TEST

START_TEST(memory_runs_out)
{
  size_t before = ij_mem_live();
  ij_mask_config c = config(16, 0, 8);
  for (int n = 1; n <= 8; n++) {
    ij_mask_policy *p = NULL;
    ij_masks m;
    ij_mem_fail_at(n);
    ij_status st = ij_mask_new(&c, &p);
    if (st == IJ_OK) st = ij_mask_sample(p, 0, 8, &m);
    ij_mem_fail_at(0);
    ck_assert_int_eq(st, n < 8 ? IJ_ENOMEM : IJ_OK);
    ij_mask_free(p);
    ck_assert_uint_eq(ij_mem_live(), before);
  }
}
END_TEST

START_TEST(any_settings_end)
{ /* random settings, some absurd: refused, or valid masks in finite time */
  ij_rng r;
  ij_rng_init(&r, 5, IJ_RNG_USER, 0, 0);
  int accepted = 0;
  for (int i = 0; i < 1500; i++) {
    ij_mask_config c = {.kind = (ij_mask_kind)ij_rng_below(&r, 3), .quirks = ij_rng_below(&r, 64)};
    c.grid_h = 1 + (int)ij_rng_below(&r, 20);
    c.grid_w = 1 + (int)ij_rng_below(&r, 20);
    c.contexts = 1 + (int)ij_rng_below(&r, 2);
    c.targets = 1 + (int)ij_rng_below(&r, c.kind == IJ_MASK_BLOCK ? 1 : 5);
    c.group = 1 + (int)ij_rng_below(&r, 5);
    c.min_keep = (int)ij_rng_below(&r, 12);
    for (int e = 0; e < 2; e++) {
      c.context_scale[e] = 1 - ij_rng_uniform(&r) * (1 - (e ? c.context_scale[0] : 0));
      c.target_scale[e] = e ? c.target_scale[0] + (1 - c.target_scale[0]) * ij_rng_uniform(&r) : ij_rng_uniform(&r);
      c.target_aspect[e] = exp(4 * ij_rng_normal(&r)) + (e ? c.target_aspect[0] : 0);
    }
    ij_mask_policy *p;
    if (ij_mask_new(&c, &p) != IJ_OK) continue;
    accepted++;
    ij_masks m;
    if (ij_mask_sample(p, i, 7, &m) == IJ_OK) check_valid(&c, &m);
    else ck_assert_msg(c.quirks & IJ_NO_HANG_GUARD, "%s", ij_errmsg());
    ij_mask_free(p);
  }
  ck_assert_int_gt(accepted, 500);
}
END_TEST

int main(void) {
  Suite *s = suite_create("mask");
  TCase *t = tcase_create("mask");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, sizes_by_seed);
  tcase_add_test(t, published_statistics_64_8);
  tcase_add_test(t, published_statistics_vith14_224);
  tcase_add_test(t, published_statistics_vith16_448);
  tcase_add_test(t, context_length_falls_with_the_group);
  tcase_add_test(t, slices_do_not_depend_on_the_request);
  tcase_add_test(t, far_images_and_seeds);
  tcase_add_test(t, random_cut_keeps_every_patch_alike);
  tcase_add_test(t, raster_cut_keeps_the_first);
  tcase_add_test(t, exclusive_position);
  tcase_add_test(t, default_covers_the_grid_symmetrically);
  tcase_add_test(t, block_below_grid);
  tcase_add_test(t, shared_draw);
  tcase_add_test(t, sizes_by_counter);
  tcase_add_test(t, hang_guard);
  tcase_add_test(t, grids_that_are_not_square);
  tcase_add_test(t, relaxed_rules_are_counted);
  tcase_add_test(t, random_and_block);
  tcase_add_test(t, bad_settings);
  tcase_add_test(t, memory_runs_out);
  tcase_add_test(t, any_settings_end);
  suite_add_tcase(s, t);
  return run_suite(s);
}
