/* A quick 64-bit hash to tell contents apart; no protection against someone who searches for two with the same hash. */
#include "base.h"
#include <string.h>

static uint64_t mix(uint64_t h) { /* spreads each bit over all */
  h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
  h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
  return h ^ h >> 32;
}

uint64_t ij_hash(uint64_t seed, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint64_t h = mix(seed ^ (uint64_t)n * 0x9e3779b97f4a7c15u), word;
  for (; n >= 8; n -= 8, p += 8) {
    memcpy(&word, p, 8);
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
  }
  word = 0;
  if (n) memcpy(&word, p, n);
  return mix((h ^ word) * 0x9e3779b97f4a7c15u);
}
