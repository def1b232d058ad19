/* other.c: images that libvips reads, as 8-bit RGB; and writing. libvips is loaded with the first such image: linked to
 * the program, its hundred libraries would add 30 ms to every start. */
#include "decode.h"
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
  F(vips_cast) F(vips_colourspace) F(vips_colourspace_issupported) F(vips_concurrency_set) F(vips_copy)               \
  F(vips_error_buffer) F(vips_error_clear) F(vips_extract_band) F(vips_image_get_bands)                  \
  F(vips_image_get_format) F(vips_image_get_height) F(vips_image_get_width) F(vips_image_guess_interpretation)        \
  F(vips_image_hasalpha) F(vips_image_new_from_memory) F(vips_image_write_to_buffer)    \
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

/* The first line of libvips' error text, which it shares between threads. */
static ij_status vips_failed(void) {
  const char *text = lib.vips_error_buffer();
  int n = (int)strcspn(text, "\n");
  ij_status st = ij_fail(IJ_EFORMAT, "%.*s", n ? n : 32, n ? text : "not an image that libvips reads");
  lib.vips_error_clear();
  return st;
}

struct ij_other {
  VipsImage *image;
};

void ij_other_close(ij_other *o) {
  if (!o) return;
  if (o->image) lib.g_object_unref(o->image);
  ij_free(o);
}

/* Whether a loader may read files of strangers; loader: the name of its class. */
static bool is_safe(const char *loader) {
  const VipsObjectClass *class = lib.vips_class_find("VipsForeignLoad", loader);
  return class && !(((const VipsOperationClass *)class)->flags & VIPS_OPERATION_UNTRUSTED);
}

/* As vips_image_new_from_buffer, but the loader is chosen first and checked before it runs. */
static ij_status image_new(const uint8_t *bytes, size_t n, bool untrusted, VipsImage **image) {
  VipsSource *source = lib.vips_source_new_from_memory(bytes, n);
  if (!source) return vips_failed();
  VipsBlob *blob = NULL; /* for the few loaders that read no sources */
  const char *loader = lib.vips_foreign_find_load_source(source);
  if (!loader && (loader = lib.vips_foreign_find_load_buffer(bytes, n))) blob = lib.vips_blob_new(NULL, bytes, n);
  void *from = blob ? (void *)blob : (void *)source;
  ij_status st = IJ_OK;
  if (!loader) st = vips_failed();
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

ij_status ij_other_open(const uint8_t *bytes, size_t n, bool untrusted, ij_other **out, int *height, int *width) {
  IJ_TRY(ij_vips_ready());
  ij_other *o = ij_calloc(1, sizeof *o);
  if (!o) return IJ_ENOMEM;
  ij_status st = image_new(bytes, n, untrusted, &o->image);
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

/* 8 bits, one band or three: alpha is dropped as PIL does it, other colour spaces become sRGB. */
static bool make_plain(VipsImage **image) {
  VipsImage *made = NULL;
  if (lib.vips_image_hasalpha(*image) &&
      !step(image, &made, lib.vips_extract_band(*image, &made, 0, "n", lib.vips_image_get_bands(*image) - 1, NULL)))
    return false;
  VipsInterpretation space = lib.vips_image_guess_interpretation(*image);
  bool grey = space == VIPS_INTERPRETATION_B_W || space == VIPS_INTERPRETATION_GREY16;
  if (space != VIPS_INTERPRETATION_sRGB && space != VIPS_INTERPRETATION_B_W &&
      lib.vips_colourspace_issupported(*image) &&
      !step(image, &made,
            lib.vips_colourspace(*image, &made, grey ? VIPS_INTERPRETATION_B_W : VIPS_INTERPRETATION_sRGB, NULL)))
    return false;
  if (lib.vips_image_get_format(*image) != VIPS_FORMAT_UCHAR &&
      !step(image, &made,
            lib.vips_cast(*image, &made, VIPS_FORMAT_UCHAR, "shift",
                          lib.vips_image_get_format(*image) == VIPS_FORMAT_USHORT, NULL)))
    return false;
  int bands = lib.vips_image_get_bands(*image);
  return bands == 1 || bands == 3 ||
         step(image, &made, lib.vips_extract_band(*image, &made, 0, "n", bands > 3 ? 3 : 1, NULL));
}

enum { STRIP = 32 };
ij_status ij_other_rows(ij_other *o, int top, int bottom, int left, int right, ij_resizer *r) {
  int w = right - left;
  if (!make_plain(&o->image)) return vips_failed();
  size_t bands = (size_t)lib.vips_image_get_bands(o->image);
  VipsRegion *region = lib.vips_region_new(o->image);
  uint8_t *row = r->row.p; /* (w, 4), with room behind it */
  ij_status st = region ? IJ_OK : vips_failed();
  for (int y = top; st == IJ_OK && y < bottom; y += STRIP) { /* of a huge image never more than a strip is held */
    VipsRect strip = {left, y, w, bottom - y < STRIP ? bottom - y : STRIP};
    if (lib.vips_region_prepare(region, &strip) != 0) {
      st = vips_failed();
      break;
    }
    for (int k = 0; k < strip.height; k++) {
      const uint8_t *p = region->data + (y + k - region->valid.top) * region->bpl +
                         (left - region->valid.left) * (int)bands; /* VIPS_REGION_ADDR would need to be linked */
      for (int x = 0; x < w; x++, p += bands)
        for (size_t c = 0; c < 3; c++) row[4 * x + (int)c] = p[bands == 3 ? c : 0];
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
