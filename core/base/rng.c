#include "base.h"
#include <math.h>

/* Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
static void philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4]) {
  uint32_t k0 = key[0], k1 = key[1], a = ctr[0], b = ctr[1], c = ctr[2], d = ctr[3];
  for (int round = 0; round < 10; round++) {
    uint64_t p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;
    uint32_t na = (uint32_t)(q >> 32) ^ b ^ k0, nc = (uint32_t)(p >> 32) ^ d ^ k1;
    b = (uint32_t)q;
    d = (uint32_t)p;
    a = na;
    c = nc;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = a;
  out[1] = b;
  out[2] = c;
  out[3] = d;
}

void ij_rng_init(ij_rng *r, uint64_t seed, uint32_t purpose, uint32_t epoch, uint32_t sample) {
  *r = (ij_rng){.key = {(uint32_t)seed, (uint32_t)(seed >> 32)}, .ctr = {0, sample, epoch, purpose}};
}

uint32_t ij_rng_u32(ij_rng *r) {
  if (r->have == 0) {
    philox(r->key, r->ctr, r->out);
    r->ctr[0]++;
    r->have = 4;
  }
  return r->out[4 - r->have--];
}

double ij_rng_uniform(ij_rng *r) {
  uint32_t hi = ij_rng_u32(r) >> 5, lo = ij_rng_u32(r) >> 6;
  return (hi * 67108864.0 + lo) * 0x1p-53;
}

/* Lemire, "Fast random integer generation in an interval", 2019. */
uint32_t ij_rng_below(ij_rng *r, uint32_t n) {
  if (n < 2) return 0;
  uint64_t m = (uint64_t)ij_rng_u32(r) * n;
  if ((uint32_t)m < n)
    for (uint32_t limit = -n % n; (uint32_t)m < limit;) m = (uint64_t)ij_rng_u32(r) * n;
  return (uint32_t)(m >> 32);
}

double ij_rng_normal(ij_rng *r) { /* Box-Muller; one of the pair is dropped: the stream stays a plain function */
  double u = 1.0 - ij_rng_uniform(r), v = ij_rng_uniform(r);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void ij_rng_shuffle(ij_rng *r, uint32_t *v, size_t n) {
  for (size_t i = n; i > 1; i--) {
    size_t j = ij_rng_below(r, (uint32_t)i);
    uint32_t t = v[i - 1];
    v[i - 1] = v[j];
    v[j] = t;
  }
}

/* MT19937: Matsumoto and Nishimura, 1998. */
void ij_mt_init(ij_mt *g, uint64_t seed) {
  g->s[0] = (uint32_t)seed;
  for (uint32_t i = 1; i < 624; i++) g->s[i] = 1812433253u * (g->s[i - 1] ^ (g->s[i - 1] >> 30)) + i;
  g->next = 624;
}

uint32_t ij_mt_u32(ij_mt *g) {
  if (g->next == 624) {
    for (int i = 0; i < 624; i++) {
      uint32_t y = (g->s[i] & 0x80000000u) | (g->s[(i + 1) % 624] & 0x7fffffffu);
      g->s[i] = g->s[(i + 397) % 624] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0);
    }
    g->next = 0;
  }
  uint32_t y = g->s[g->next++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

float ij_mt_uniform(ij_mt *g) { return (float)(ij_mt_u32(g) & 0xFFFFFFu) * 0x1p-24f; }
int64_t ij_mt_randint(ij_mt *g, int64_t lo, int64_t hi) { return (int64_t)(ij_mt_u32(g) % (uint64_t)(hi - lo)) + lo; }
