/* libFuzzer: any bytes as the YAML of a configuration. What is taken must be JSON. */
#include "ijepa.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  char *json;
  size_t before = ij_mem_live();
  if (ij_yaml_read((const char *)bytes, n, "x", &json) == IJ_OK) {
    cJSON *tree = cJSON_Parse(json);
    if (!cJSON_IsObject(tree)) abort();
    cJSON_Delete(tree);
  } else if (json || !strlen(ij_errmsg())) {
    abort();
  }
  ij_bytes_free(json);
  if (ij_mem_live() != before) abort();
  return 0;
}
