/* Files that people take for weights, recognised by their first bytes: the message names what they are, and what to
 * do. */
#include "save.h"
#include <string.h>

typedef struct known {
  const char *begin; /* n bytes at `offset` */
  size_t offset, n;
  const char *what, *advice;
} known;

static const char *const FORMATS = "ijepa reads safetensors and PyTorch's .pth: save the model in one of them";
static const char *const UNPACK = "unpack it and give the file of weights inside";

static bool begins(const ij_tensor_file *f, const known *k) {
  return f->size >= k->offset + k->n && !memcmp(f->map + k->offset, k->begin, k->n);
}

/* A length of less than 4 GB and the brace of a JSON header: whatever its first bytes spell. */
static bool is_safetensors(const ij_tensor_file *f) {
  static const known header = {"\0\0\0\0{", 4, 5, NULL, NULL};
  return begins(f, &header);
}

/* ONNX is a protobuf message without a magic number: field 1, the version of its format, then a text or the graph. */
static bool is_onnx(const ij_tensor_file *f) {
  if (f->size < 16 || f->map[0] != 0x08 || !f->map[1] || f->map[1] > 0x20) return false;
  return f->map[2] == 0x12 || f->map[2] == 0x1a || f->map[2] == 0x3a || f->map[2] == 0x42;
}

ij_status ij_foreign_check(const ij_tensor_file *f) {
  const known all[] = {
      {"version https://git-lfs", 0, 23, "a Git LFS pointer, not the weights themselves",
       "fetch them with 'git lfs pull' in its repository, or download the file again"},
      {"GGUF", 0, 4, "a GGUF file of llama.cpp", FORMATS},
      {"PAR1", 0, 4, "a Parquet file, which holds a table, not weights", FORMATS},
      {"ARROW1", 0, 6, "an Arrow file, which holds a table, not weights", FORMATS},
      {"\x89HDF\r\n\x1a\n", 0, 8, "an HDF5 file, as Keras writes it", FORMATS},
      {"\x93NUMPY", 0, 6, "a NumPy array", FORMATS},
      {"\x1f\x8b", 0, 2, "compressed with gzip", UNPACK},
      {"ustar", 257, 5, "a tar archive", UNPACK},
      {"<!DOCTYPE", 0, 9, "a web page, not the weights", "download the file itself: the address led to a page"},
      {"<!doctype", 0, 9, "a web page, not the weights", "download the file itself: the address led to a page"},
      {"<html", 0, 5, "a web page, not the weights", "download the file itself: the address led to a page"},
  };
  if (is_safetensors(f)) return IJ_OK;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (begins(f, &all[i])) return ij_fail(IJ_EFORMAT, "file '%s' is %s: %s", f->path, all[i].what, all[i].advice);
  if (is_onnx(f)) return ij_fail(IJ_EFORMAT, "file '%s' is an ONNX model: %s", f->path, FORMATS);
  return IJ_OK;
}
