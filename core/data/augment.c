/* augment.c: the random choices of one image: crop box, flip, colours, blur. Each choice is drawn whether it is used
 * or not where that keeps what follows the same. */
#include "data.h"
#include <math.h>
#include <string.h>

/* Box top, left, h, w: an area of share U(scale), an aspect w/h log-uniform in ratio; ten tries, then the middle. */
void ij_crop_draw(ij_rng *r, int height, int width, const double scale[2], const double ratio[2], int box[4]) {
  double area = (double)height * width, low = log(ratio[0]), high = log(ratio[1]);
  for (int i = 0; i < 10; i++) {
    double want = area * (scale[0] + (scale[1] - scale[0]) * ij_rng_uniform(r));
    double aspect = exp(low + (high - low) * ij_rng_uniform(r));
    double w = rint(sqrt(want * aspect)), h = rint(sqrt(want / aspect));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    box[2] = (int)h;
    box[3] = (int)w;
    box[0] = (int)ij_rng_below(r, (uint32_t)(height - box[2] + 1));
    box[1] = (int)ij_rng_below(r, (uint32_t)(width - box[3] + 1));
    return;
  }
  double is = (double)width / height;
  box[2] = height;
  box[3] = width;
  if (is < ratio[0]) box[2] = (int)rint(width / ratio[0]);
  else if (is > ratio[1]) box[3] = (int)rint(height * ratio[1]);
  if (box[2] < 1) box[2] = 1;
  if (box[3] < 1) box[3] = 1;
  box[0] = (height - box[2]) / 2;
  box[1] = (width - box[3]) / 2;
}

/* The short side becomes `resize` (more where the output would not fit), the output is cut from the middle. */
void ij_crop_centre(int height, int width, int resize, int out_h, int out_w, ij_window *win) {
  int64_t h = resize, w = resize;
  if (height < width) w = (int64_t)resize * width / height;
  else h = (int64_t)resize * height / width;
  if (h < out_h) {
    w = (w * out_h + h - 1) / h;
    h = out_h;
  }
  if (w < out_w) {
    h = (h * out_w + w - 1) / w;
    w = out_w;
  }
  *win = (ij_window){0,
                     0,
                     height,
                     width,
                     (int)h,
                     (int)w,
                     (int)rint((double)(h - out_h) / 2),
                     (int)rint((double)(w - out_w) / 2),
                     out_h,
                     out_w};
}

/* ---- colours, on 8 bits as PIL does them ---- */
static uint8_t blend(float from, float to, double share) {
  float v = from + (float)share * (to - from);
  return (uint8_t)(v <= 0 ? 0 : v >= 255 ? 255 : v);
}
static uint8_t luma(const uint8_t *p) {
  return (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
}

static void through_table(uint8_t *p, size_t n, float from, double share) {
  uint8_t table[256];
  for (int v = 0; v < 256; v++) table[v] = blend(from, (float)v, share);
  for (size_t i = 0; i < 3 * n; i++) p[i] = table[p[i]];
}
static void contrast(uint8_t *p, size_t n, double f) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += luma(p + 3 * i);
  through_table(p, n, (float)floor((double)sum / (double)n + 0.5), f);
}
static void saturation(uint8_t *p, size_t n, double f) {
  for (; n; n--, p += 3) {
    float grey = luma(p);
    for (int c = 0; c < 3; c++) p[c] = blend(grey, p[c], f);
  }
}

static void turn_hue(uint8_t *p, int by) {
  int r = p[0], g = p[1], b = p[2];
  int most = r > g ? r : g, least = r < g ? r : g;
  if (b > most) most = b;
  if (b < least) least = b;
  if (most == least) return;
  float range = (float)(most - least), hue;
  if (r == most) hue = (float)(g - b) / range;
  else if (g == most) hue = 2 + (float)(b - r) / range;
  else hue = 4 + (float)(r - g) / range;
  hue = fmodf(hue / 6 + 1, 1);
  int h = ((int)(hue * 255) + by) & 255, s = (int)(range / (float)most * 255); /* 8 bits each, as in PIL's HSV */
  if (s == 0) {
    p[0] = p[1] = p[2] = (uint8_t)most;
    return;
  }
  float sat = (float)s / 255, at = (float)h * 6 / 255, part = at - floorf(at), v = (float)most;
  uint8_t low = (uint8_t)rintf(v * (1 - sat)), down = (uint8_t)rintf(v * (1 - sat * part)),
          up = (uint8_t)rintf(v * (1 - sat * (1 - part))), top = (uint8_t)most;
  const uint8_t sector[6][3] = {{top, up, low},   {down, top, low}, {low, top, up},
                                {low, down, top}, {up, low, top},   {top, low, down}};
  memcpy(p, sector[(int)at % 6], 3);
}

static void grey(uint8_t *p, size_t n) {
  for (; n; n--, p += 3) memset(p, luma(p), 3);
}

static void mirror(uint8_t *pixels, int height, int width) {
  for (int y = 0; y < height; y++, pixels += 3 * (size_t)width)
    for (uint8_t *a = pixels, *b = pixels + 3 * ((size_t)width - 1); a < b; a += 3, b -= 3)
      for (int c = 0; c < 3; c++) {
        uint8_t t = a[c];
        a[c] = b[c];
        b[c] = t;
      }
}

/* ---- Gaussian blur: across, then down, edges repeated ---- */
enum { REACH = 6 }; /* three standard deviations of the widest */
static ij_status blur(uint8_t *pixels, int height, int width, double sigma, ij_buffer *buffer) {
  float weight[2 * REACH + 1], sum = 0;
  int reach = (int)ceil(3 * sigma);
  if (reach > REACH) reach = REACH;
  for (int k = -reach; k <= reach; k++) sum += weight[k + reach] = (float)exp(-k * k / (2 * sigma * sigma));
  for (int k = 0; k <= 2 * reach; k++) weight[k] /= sum;
  size_t row = 3 * (size_t)width, wide = row + 6 * (size_t)reach;
  IJ_TRY(ij_buffer_reserve(buffer, ((size_t)height * row + wide + row) * sizeof(float)));
  float *across = buffer->p, *line = across + (size_t)height * row, *acc = line + wide;
  for (int y = 0; y < height; y++) {
    const uint8_t *p = pixels + (size_t)y * row;
    float *to = across + (size_t)y * row;
    for (int x = -reach; x < width + reach; x++)
      for (int c = 0; c < 3; c++) line[3 * (x + reach) + c] = p[3 * (x < 0 ? 0 : x >= width ? width - 1 : x) + c];
    memset(to, 0, row * sizeof *to);
    for (int k = 0; k <= 2 * reach; k++)
      for (size_t i = 0; i < row; i++) to[i] += weight[k] * line[i + 3 * (size_t)k];
  }
  for (int y = 0; y < height; y++) {
    memset(acc, 0, row * sizeof *acc);
    for (int k = -reach; k <= reach; k++) {
      int from = y + k < 0 ? 0 : y + k >= height ? height - 1 : y + k;
      const float *p = across + (size_t)from * row;
      for (size_t i = 0; i < row; i++) acc[i] += weight[k + reach] * p[i];
    }
    uint8_t *to = pixels + (size_t)y * row;
    for (size_t i = 0; i < row; i++) to[i] = (uint8_t)(acc[i] + 0.5f);
  }
  return IJ_OK;
}

static double around_one(ij_rng *r, double spread) {
  double low = spread > 1 ? 0 : 1 - spread;
  return low + (1 + spread - low) * ij_rng_uniform(r);
}

ij_status ij_augment(ij_rng *r, const ij_colours *c, int height, int width, uint8_t *pixels, ij_buffer *buffer) {
  size_t n = (size_t)height * (size_t)width;
  if (ij_rng_uniform(r) < c->flip) mirror(pixels, height, width);
  bool jitter = ij_rng_uniform(r) < c->jitter_p && c->jitter > 0;
  double bright = around_one(r, .8 * c->jitter), contr = around_one(r, .8 * c->jitter),
         satur = around_one(r, .8 * c->jitter), hue = .2 * c->jitter * (2 * ij_rng_uniform(r) - 1);
  uint32_t order[4] = {0, 1, 2, 3};
  ij_rng_shuffle(r, order, 4);
  for (int i = 0; jitter && i < 4; i++) {
    if (order[i] == 0) through_table(pixels, n, 0, bright);
    else if (order[i] == 1) contrast(pixels, n, contr);
    else if (order[i] == 2) saturation(pixels, n, satur);
    else
      for (size_t k = 0; k < n; k++) turn_hue(pixels + 3 * k, (int)(hue * 255));
  }
  if (ij_rng_uniform(r) < c->grey_p) grey(pixels, n);
  bool blurred = ij_rng_uniform(r) < c->blur_p;
  double sigma = .1 + 1.9 * ij_rng_uniform(r);
  return blurred ? blur(pixels, height, width, sigma, buffer) : IJ_OK;
}
