/* other.c: images that libvips reads, as 8-bit RGB by the rules of docs/data.md; and writing. libvips is loaded with
 * the first such image: linked to the program, its hundred libraries would add 30 ms to every start. */
#include "formats.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <vips/vips.h>

/* The functions of libvips that we use, under their own names. */
/* clang-format off */
#define FUNCTIONS(F) \
  F(vips_init) F(g_free) F(g_log_set_handler) F(g_object_unref) F(vips_cache_set_max)     \
  F(vips_colourspace) F(vips_colourspace_issupported) F(vips_concurrency_set) F(vips_copy)               \
  F(vips_error_buffer) F(vips_error_clear) F(vips_image_get_bands)                  \
  F(vips_image_get_format) F(vips_image_get_height) F(vips_image_get_width) F(vips_image_guess_interpretation)        \
  F(vips_image_new_from_memory) F(vips_image_write_to_buffer)    \
  F(vips_call) F(vips_class_find) F(vips_foreign_find_load_buffer) F(vips_foreign_find_load_source)                     \
  F(vips_blob_new) F(vips_area_unref) F(vips_source_new_from_memory) F(vips_region_new) F(vips_region_prepare) F(vips_thread_shutdown)
/* clang-format on */
static struct {
#define F(name) __typeof__(name) *name;
  FUNCTIONS(F)
#undef F
} lib;

/* Why libvips can't be used, once it has been tried. */
static char problem[256];

static bool load(void) {
  void *handle = dlopen(IJ_VIPS_FILE, RTLD_LAZY | RTLD_LOCAL);
  if (!handle) return false;
#define F(name)                                                                                                        \
  if (!(*(void **)(void *)&lib.name = dlsym(handle, #name))) return false;
  FUNCTIONS(F)
#undef F
  return true;
}

/* Settings of libvips for the process: one thread per image, no cache, no messages of its own on stderr. Its switch
 * against unsafe loaders is of the process too, so we don't use it: each image is checked instead (is_safe). */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_bool ready;
static void quiet(const char *domain, GLogLevelFlags level, const char *text, void *arg) {
  (void)domain, (void)level, (void)text, (void)arg;
}
static void start(void) {
  bool loaded = load();
  if (!loaded || lib.vips_init("ijepa") != 0) {
    const char *why = loaded ? lib.vips_error_buffer() : dlerror();
    snprintf(problem, sizeof problem, "%s", why ? why : "it lacks a function");
    return;
  }
  lib.g_log_set_handler("VIPS", G_LOG_LEVEL_WARNING | G_LOG_LEVEL_INFO | G_LOG_LEVEL_DEBUG, quiet, NULL);
  lib.vips_concurrency_set(1);
  lib.vips_cache_set_max(0);
  ready = true;
}
ij_status ij_vips_ready(void) {
  pthread_once(&once, start);
  return ready ? IJ_OK
               : ij_fail(IJ_EUNSUPPORTED, "libvips could not be used (install the package libvips42): %s", problem);
}

void ij_vips_thread_end(void) {
  if (ready) lib.vips_thread_shutdown();
}

/* The first line of libvips' error text, which it shares between threads, without control characters. */
static ij_status vips_failed(void) {
  char text[256];
  snprintf(text, sizeof text, "%s", lib.vips_error_buffer());
  lib.vips_error_clear();
  text[strcspn(text, "\n")] = 0;
  for (char *c = text; *c; c++)
    if ((unsigned char)*c < 32 || *c == 127) *c = '?';
  return ij_fail(IJ_EFORMAT, "%s", *text ? text : "not an image that libvips reads");
}

struct ij_other {
  VipsImage *image;
  ij_filetype format;
  uint8_t *own; /* bytes that were changed, or NULL */
  bool perhaps; /* its end is missing: what fails is called truncated */
};

void ij_other_close(ij_other *o) {
  if (!o) return;
  if (o->image) lib.g_object_unref(o->image);
  ij_free(o->own);
  ij_free(o);
}

/* Whether a loader may read files of strangers; loader: the name of its class. */
static bool is_safe(const char *loader) {
  const VipsObjectClass *class = lib.vips_class_find("VipsForeignLoad", loader);
  return class && !(((const VipsOperationClass *)class)->flags & VIPS_OPERATION_UNTRUSTED);
}

/* As vips_image_new_from_buffer, but the loader is chosen first and checked before it runs. */
static ij_status image_new(const uint8_t *bytes, size_t n, bool heif, bool untrusted, VipsImage **image) {
  VipsSource *source = lib.vips_source_new_from_memory(bytes, n);
  if (!source) return vips_failed();
  VipsBlob *blob = NULL; /* for the few loaders that read no sources */
  const char *loader = lib.vips_foreign_find_load_source(source);
  if (!loader && (loader = lib.vips_foreign_find_load_buffer(bytes, n))) blob = lib.vips_blob_new(NULL, bytes, n);
  void *from = blob ? (void *)blob : (void *)source;
  ij_status st = IJ_OK;
  if (!loader && heif && !lib.vips_class_find("VipsForeignLoad", "heifload_source"))
    st = ij_fail(IJ_EUNSUPPORTED, "HEIC and AVIF need libheif in libvips, which this one lacks (Debian's libvips42 and "
                                  "libheif1 have it); install them, or leave these images out");
  else if (!loader) st = vips_failed();
  else if (!untrusted && !is_safe(loader))
    st = ij_fail(IJ_EFORMAT, "format that libvips calls unsafe (%s); data.untrusted_loaders=true reads it", loader);
  else if (lib.vips_call(loader, from, image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_TRUNCATED,
                         NULL) != 0)
    st = vips_failed();
  lib.vips_error_clear(); /* what find_load_source left */
  if (blob) lib.vips_area_unref(VIPS_AREA(blob));
  lib.g_object_unref(source);
  return st;
}

static ij_status truncated(ij_filetype f) { return ij_fail(IJ_EFORMAT, "truncated %s", ij_filetype_name(f)); }

/* A transparent pixel of a GIF has a colour like any other, as in Pillow's convert("RGB"). libvips leaves it out, so
 * the first frame is read from a copy that has no such pixels. */
static ij_status gif_opaque(ij_other *o, const uint8_t **bytes, size_t n) {
  size_t flags = ij_gif_flags(*bytes, n);
  if (!flags || !((*bytes)[flags] & 1)) return IJ_OK;
  if (!(o->own = ij_alloc(n))) return IJ_ENOMEM;
  memcpy(o->own, *bytes, n);
  o->own[flags] &= 0xfe;
  *bytes = o->own;
  return IJ_OK;
}

ij_status ij_other_open(ij_filetype f, const uint8_t *bytes, size_t n, bool untrusted, ij_other **out, int *height,
                        int *width) {
  IJ_TRY(ij_vips_ready());
  ij_cut cut = ij_is_cut(f, bytes, n);
  if (cut == IJ_CUT_YES) return truncated(f);
  ij_other *o = ij_calloc(1, sizeof *o);
  if (!o) return IJ_ENOMEM;
  o->format = f;
  o->perhaps = cut == IJ_CUT_PERHAPS;
  ij_status st = f == IJ_FILE_GIF ? gif_opaque(o, &bytes, n) : IJ_OK;
  if (st == IJ_OK) st = image_new(bytes, n, f == IJ_FILE_HEIF, untrusted, &o->image);
  if (st != IJ_OK && st != IJ_ENOMEM && o->perhaps) st = truncated(f);
  const char *odd = f == IJ_FILE_TIFF ? ij_tiff_problem(bytes, n) : NULL;
  if (st == IJ_OK && odd) st = ij_fail(IJ_EFORMAT, "%s, which libvips reads wrongly", odd);
  if (st != IJ_OK) {
    ij_other_close(o);
    return st;
  }
  *height = lib.vips_image_get_height(o->image);
  *width = lib.vips_image_get_width(o->image);
  *out = o;
  return IJ_OK;
}

/* Puts what an operation made in the place of *image. */
static bool step(VipsImage **image, VipsImage **made, int failed) {
  if (failed) return false;
  lib.g_object_unref(*image);
  *image = *made;
  *made = NULL;
  return true;
}

/* Bands that are colours: 1 grey, 3 RGB, 4 CMYK; those after them (alpha) are dropped, as Pillow drops them. */
static ij_status colours_of(VipsImage **image, int *colours) {
  VipsImage *made = NULL;
  int bands = lib.vips_image_get_bands(*image);
  switch (lib.vips_image_guess_interpretation(*image)) {
  case VIPS_INTERPRETATION_B_W:
  case VIPS_INTERPRETATION_GREY16:
    *colours = bands <= 2 ? 1 : 0;
    break;
  case VIPS_INTERPRETATION_sRGB:
  case VIPS_INTERPRETATION_RGB:
  case VIPS_INTERPRETATION_RGB16:
  case VIPS_INTERPRETATION_scRGB:
    *colours = bands >= 3 ? 3 : 1;
    break;
  case VIPS_INTERPRETATION_CMYK:
    *colours = bands >= 4 ? 4 : 0;
    break;
  case VIPS_INTERPRETATION_MULTIBAND:
    *colours = bands == 1;
    break;
  default: /* LAB and its kin */
    if (!lib.vips_colourspace_issupported(*image)) *colours = bands == 1;
    else if (!step(image, &made, lib.vips_colourspace(*image, &made, VIPS_INTERPRETATION_sRGB, NULL)))
      return vips_failed();
    else *colours = 3;
  }
  if (*colours == 0) return ij_fail(IJ_EFORMAT, "%d bands of no known meaning; expected grey, RGB or CMYK", bands);
  return IJ_OK;
}

/* A value of a row of libvips' pixels. */
static double value(const void *row, size_t i, VipsBandFormat format) {
  switch (format) {
  case VIPS_FORMAT_CHAR:
    return ((const int8_t *)row)[i];
  case VIPS_FORMAT_USHORT:
    return ((const uint16_t *)row)[i];
  case VIPS_FORMAT_SHORT:
    return ((const int16_t *)row)[i];
  case VIPS_FORMAT_UINT:
    return ((const uint32_t *)row)[i];
  case VIPS_FORMAT_INT:
    return ((const int32_t *)row)[i];
  case VIPS_FORMAT_FLOAT:
    return (double)((const float *)row)[i];
  case VIPS_FORMAT_DOUBLE:
    return ((const double *)row)[i];
  default:
    return ((const uint8_t *)row)[i];
  }
}

/* The values that are 0 and 255 where data.range is not given, and their bytes. 0: not read. */
static size_t range_of(VipsBandFormat format, double *low, double *high) {
  *low = 0;
  switch (format) {
  case VIPS_FORMAT_UCHAR:
    return *high = UINT8_MAX, 1;
  case VIPS_FORMAT_CHAR:
    return *low = INT8_MIN, *high = INT8_MAX, 1;
  case VIPS_FORMAT_USHORT:
    return *high = UINT16_MAX, 2;
  case VIPS_FORMAT_SHORT:
    return *low = INT16_MIN, *high = INT16_MAX, 2;
  case VIPS_FORMAT_UINT:
    return *high = UINT32_MAX, 4;
  case VIPS_FORMAT_INT:
    return *low = INT32_MIN, *high = INT32_MAX, 4;
  case VIPS_FORMAT_FLOAT:
    return *high = 1, 4;
  case VIPS_FORMAT_DOUBLE:
    return *high = 1, 8;
  default:
    return 0;
  }
}

/* w pixels of libvips, `bands` values each, to RGB; colours: see colours_of. */
typedef struct conversion {
  VipsBandFormat format;
  size_t bands;
  int colours;
  bool high_byte; /* 16-bit colour without a range: as Pillow cuts it */
  ij_levels *levels;
} conversion;
static void convert(const conversion *v, const uint8_t *p, int w, uint8_t *to) {
  size_t n = (size_t)v->colours;
  if (v->format == VIPS_FORMAT_UCHAR && n == 3)
    for (int x = 0; x < w; x++, p += v->bands)
      for (int c = 0; c < 3; c++) to[4 * x + c] = p[c];
  else if (v->format == VIPS_FORMAT_UCHAR && n == 1)
    for (int x = 0; x < w; x++, p += v->bands) to[4 * x] = to[4 * x + 1] = to[4 * x + 2] = *p;
  else
    for (int x = 0; x < w; x++)
      for (size_t c = 0; c < n; c++) {
        double raw = value(p, (size_t)x * v->bands + c, v->format);
        uint8_t *level = &to[4 * (size_t)x + c];
        *level = v->format == VIPS_FORMAT_UCHAR ? (uint8_t)raw : ij_level(v->levels, raw);
        if (v->high_byte) *level = (uint8_t)((unsigned)raw >> 8);
        if (n == 1) level[1] = level[2] = level[0];
      }
  if (n == 4) ij_cmyk_to_rgb(to, w, false);
}

enum { STRIP = 32 };
ij_status ij_other_rows(ij_other *o, const ij_decode_options *options, ij_levels *levels, const ij_window *box,
                        ij_resizer *r) {
  double low, high;
  conversion v = {.levels = levels};
  IJ_TRY(colours_of(&o->image, &v.colours));
  v.format = lib.vips_image_get_format(o->image);
  v.bands = (size_t)lib.vips_image_get_bands(o->image);
  size_t size = range_of(v.format, &low, &high);
  if (size == 0) return ij_fail(IJ_EFORMAT, "complex values, which are not read");
  if (v.format != VIPS_FORMAT_UCHAR) ij_levels_begin(levels, options, low, high);
  v.high_byte = v.format == VIPS_FORMAT_USHORT && v.bands > 1 && options->low == options->high;
  VipsRegion *region = lib.vips_region_new(o->image);
  uint8_t *row = r->row.p; /* (w, 4), with room behind it */
  ij_status st = region ? IJ_OK : vips_failed();
  int bottom = box->top + box->h;
  for (int y = box->top; st == IJ_OK && y < bottom; y += STRIP) { /* of a huge image never more than a strip is held */
    VipsRect strip = {box->left, y, box->w, bottom - y < STRIP ? bottom - y : STRIP};
    if (lib.vips_region_prepare(region, &strip) != 0) {
      st = vips_failed();
      if (o->perhaps) st = truncated(o->format);
      break;
    }
    for (int k = 0; k < strip.height; k++) { /* VIPS_REGION_ADDR would need to be linked */
      const uint8_t *p = region->data + (y + k - region->valid.top) * region->bpl +
                         (size_t)(box->left - region->valid.left) * v.bands * size;
      convert(&v, p, box->w, row);
      ij_resizer_row(r, row);
    }
  }
  if (region) lib.g_object_unref(region);
  return st;
}

ij_status ij_image_save(const char *path, const uint8_t *pixels, int height, int width) {
  IJ_TRY(ij_vips_ready());
  if (height < 1 || width < 1) return ij_fail(IJ_EINVAL, "image '%s' has %d x %d pixels", path, width, height);
  const char *slash = strrchr(path, '/'), *ending = strrchr(slash ? slash : path, '.');
  if (!ending) return ij_fail(IJ_EINVAL, "image '%s' needs an ending such as .png or .jpg", path);
  VipsImage *image =
      lib.vips_image_new_from_memory(pixels, (size_t)height * (size_t)width * 3, width, height, 3, VIPS_FORMAT_UCHAR);
  void *bytes = NULL;
  size_t n = 0;
  ij_status st;
  if (!image) return vips_failed();
  VipsImage *made = NULL;
  if (!step(&image, &made, lib.vips_copy(image, &made, "interpretation", VIPS_INTERPRETATION_sRGB, NULL)) ||
      lib.vips_image_write_to_buffer(image, ending, &bytes, &n, NULL) != 0) {
    vips_failed();
    st = ij_fail_in(IJ_EUNSUPPORTED, "image '%s' could not be made", path);
  } else st = ij_file_replace(path, bytes, n);
  (lib.g_free)(bytes);
  lib.g_object_unref(image);
  return st;
}
