/* loader.c: worker threads fill a ring of batches, the consumer takes them in order. What a batch holds is a function
 * of (catalogue, configuration, epoch, step) alone. */
#include "data.h"
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct corrupt { /* one image that could not be read, or has next to no contrast */
  int item, attempt;     /* of the batch; how many were tried for this item before */
  uint32_t sample;
  bool flat;  /* of next to no contrast, but read */
  char *text; /* name and reason */
} corrupt;

typedef struct slot { /* one batch */
  int64_t index;      /* counted from the last seek; -1: none */
  int64_t epoch, step;
  int count, remaining;       /* images; those not yet done */
  uint8_t *pixels;            /* (B, H, W, 3) */
  int32_t *labels;            /* (B) */
  uint32_t *wanted, *samples; /* (B): by the order; after corrupt ones are replaced */
  uint32_t *rounds;           /* (B): see ij_order_at */
  corrupt *corrupt;
  int corrupt_count, corrupt_cap;
  ij_status status;
  char *error;
} slot;

struct ij_loader {
  ij_loader_config c;
  ij_catalogue *catalogue;
  ij_order *order;
  int64_t steps; /* batches of an epoch for this process */

  pthread_mutex_t lock;
  pthread_cond_t work, done;
  pthread_t *thread;
  int threads;
  ij_reader *readers; /* one per thread; a single one without threads */
  slot *ring;
  int slots;
  /* under the lock */
  bool stop, hold;
  int busy;                      /* workers at an image */
  int64_t opened, taken;         /* batches: begun, delivered */
  int64_t open_epoch, open_step; /* of the next to begin */
  int64_t last_epoch;            /* without shuffle: no batch of a later epoch is begun */
  int claimed;                   /* images of the batch begun last that a worker has taken */
  /* the consumer's alone */
  int64_t epoch, step; /* of the next batch */
  int at_end;          /* without shuffle: 1 IJ_EEND is due, 2 it was returned */
  uint8_t *is_corrupt; /* one bit per image */
  int64_t corrupt_total;
  ij_notes notes; /* on corrupt images */
  char *flat;     /* on the first image without contrast, until it is read */
  char *flat_last;
  atomic_bool flat_told; /* there was one; workers read it */
};

int64_t ij_loader_steps(const ij_loader *l) { return l->steps; }
int64_t ij_loader_corrupt_count(const ij_loader *l) { return l->corrupt_total; }
const char *ij_loader_corrupt(ij_loader *l) { return ij_notes_next(&l->notes); }
const char *ij_loader_flat(ij_loader *l) {
  ij_free(l->flat_last);
  l->flat_last = l->flat;
  l->flat = NULL;
  return l->flat_last;
}

/* ---- one image ---- */
static ij_status note_image(ij_loader *l, slot *s, int item, int attempt, uint32_t sample, bool flat,
                            const char *reason) {
  ij_status st = IJ_OK;
  uint32_t within;
  const ij_list *list = ij_catalogue_list(l->catalogue, ij_catalogue_of(l->catalogue, sample, &within));
  bool one = ij_catalogue_source_count(l->catalogue) == 1;
  char *text =
      ij_format("%s%s%s: %s", one ? "" : ij_list_root(list), one ? "" : ": ", ij_list_name(list, within), reason);
  pthread_mutex_lock(&l->lock);
  if (text && s->corrupt_count == s->corrupt_cap) {
    int cap = s->corrupt_cap ? 2 * s->corrupt_cap : 8;
    corrupt *more = ij_realloc(s->corrupt, (size_t)cap * sizeof *more);
    if (more) {
      s->corrupt = more;
      s->corrupt_cap = cap;
    }
  }
  if (text && s->corrupt_count < s->corrupt_cap)
    s->corrupt[s->corrupt_count++] = (corrupt){item, attempt, sample, flat, text};
  else {
    ij_free(text);
    st = IJ_ENOMEM;
  }
  pthread_mutex_unlock(&l->lock);
  return st;
}

enum { ATTEMPTS = 32 };
static ij_status fill_item(ij_loader *l, ij_reader *r, slot *s, int i) {
  const ij_view *v = &l->c.view;
  uint32_t wanted = s->wanted[i], sample = wanted, round = s->rounds[i], within;
  int source = ij_catalogue_of(l->catalogue, wanted, &within);
  uint32_t first = ij_catalogue_first(l->catalogue, source);
  uint32_t count = ij_list_count(ij_catalogue_list(l->catalogue, source));
  uint8_t *pixels = s->pixels + (size_t)i * (size_t)v->height * (size_t)v->width * 3;
  ij_rng spare; /* a corrupt image is replaced by others of its source, drawn here */
  ij_rng_init(&spare, v->seed, IJ_RNG_SPARE, round, wanted);
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    ij_status st = ij_reader_read(r, l->catalogue, v, sample, wanted, round, pixels);
    if (st == IJ_OK) {
      s->samples[i] = sample;
      s->labels[i] = ij_catalogue_label(l->catalogue, sample);
      if (!ij_decoder_is_flat(r->decoder) || l->flat_told) return IJ_OK;
      return note_image(l, s, i, attempt, sample, true,
                        "next to no contrast: data.range={low,high} sets the values that become black and white");
    }
    if (st == IJ_EINTERRUPT) return st;
    if (st == IJ_EUNSUPPORTED || st == IJ_ENOMEM) /* a fault of the machine: no libvips, too many open files */
      return ij_fail_in(st, "data '%s': image '%s'", ij_catalogue_title(l->catalogue),
                        ij_catalogue_name(l->catalogue, sample));
    IJ_TRY(note_image(l, s, i, attempt, sample, false, ij_errmsg()));
    if (attempt < ATTEMPTS - 1) sample = first + ij_rng_below(&spare, count);
  }
  return ij_fail(IJ_EFORMAT, "data '%s': %d images in a row could not be read, the last is %s: %s",
                 ij_catalogue_title(l->catalogue), ATTEMPTS, ij_catalogue_name(l->catalogue, sample), ij_errmsg());
}

/* ---- batches ---- */
static slot *slot_of(ij_loader *l, int64_t index) { return &l->ring[index % l->slots]; }

/* Begins the next batch; under the lock. */
static slot *batch_open(ij_loader *l) {
  const ij_loader_config *c = &l->c;
  slot *s = slot_of(l, l->opened);
  s->index = l->opened++;
  s->epoch = l->open_epoch;
  s->step = l->open_step;
  s->status = IJ_OK;
  int64_t first = (s->step * c->world + c->rank) * c->batch, n = ij_catalogue_count(l->catalogue);
  /* In training with several processes the last batch continues at the epoch's start: all processes make the same
   * number of steps of one size. */
  bool full = c->view.train && c->world > 1;
  s->count = s->remaining = (int)(full || n - first > c->batch ? c->batch : n - first);
  for (int i = 0; i < s->count; i++) {
    uint32_t position = (uint32_t)((first + i) % n);
    ij_order_at(l->order, c->view.seed, c->shuffle, (uint32_t)s->epoch, position, &s->wanted[i], &s->rounds[i]);
  }
  l->claimed = 0;
  if (++l->open_step == l->steps) {
    l->open_step = 0;
    l->open_epoch++;
  }
  return s;
}

/* Next images [*from, *to) to be made, or NULL where there is nothing to do now; under the lock. */
static slot *claim(ij_loader *l, int *from, int *to) {
  if (l->hold) return NULL;
  slot *s = l->opened ? slot_of(l, l->opened - 1) : NULL;
  if (!s || l->claimed == s->count) {
    if (l->opened >= l->taken + l->slots - 1) return NULL; /* one slot is the consumer's */
    if (!l->c.shuffle && l->open_epoch > l->last_epoch) return NULL;
    s = batch_open(l);
  }
  int chunk = s->count / (4 * (l->threads ? l->threads : 1));
  chunk = chunk < 1 ? 1 : chunk > 16 ? 16 : chunk;
  *from = l->claimed;
  *to = l->claimed + chunk < s->count ? l->claimed + chunk : s->count;
  l->claimed = *to;
  return s;
}

static void fill(ij_loader *l, ij_reader *r, slot *s, int from, int to) {
  ij_status st = IJ_OK;
  for (int i = from; i < to && st == IJ_OK; i++) st = fill_item(l, r, s, i);
  char *error = st == IJ_OK ? NULL : ij_strdup(ij_errmsg());
  pthread_mutex_lock(&l->lock);
  if (st != IJ_OK && s->status == IJ_OK) {
    s->status = st;
    s->error = error;
    error = NULL;
  }
  s->remaining -= to - from;
  if (--l->busy == 0 || s->remaining == 0) pthread_cond_broadcast(&l->done);
  pthread_mutex_unlock(&l->lock);
  ij_free(error);
}

typedef struct worker {
  ij_loader *l;
  ij_reader *reader;
} worker;

static void *work(void *arg) {
  worker w = *(worker *)arg;
  ij_free(arg);
  ij_loader *l = w.l;
  pthread_mutex_lock(&l->lock);
  while (!l->stop) {
    int from, to;
    slot *s = claim(l, &from, &to);
    if (!s) {
      pthread_cond_wait(&l->work, &l->lock);
      continue;
    }
    l->busy++;
    pthread_mutex_unlock(&l->lock);
    fill(l, w.reader, s, from, to);
    pthread_mutex_lock(&l->lock);
  }
  pthread_mutex_unlock(&l->lock);
  ij_vips_thread_end();
  return NULL;
}

/* ---- the consumer's side ---- */
static int by_item(const void *a, const void *b) {
  const corrupt *x = a, *y = b;
  return x->item != y->item ? x->item - y->item : x->attempt - y->attempt;
}

/* Counts and reports the corrupt images of the batch, in its order. */
static ij_status settle_corrupt(ij_loader *l, slot *s) {
  if (s->corrupt_count) qsort(s->corrupt, (size_t)s->corrupt_count, sizeof *s->corrupt, by_item);
  for (int i = 0; i < s->corrupt_count; i++) {
    corrupt *one = &s->corrupt[i];
    uint8_t bit = (uint8_t)(1 << one->sample % 8), *byte = &l->is_corrupt[one->sample / 8];
    if (one->flat) { /* one stands for all */
      if (l->flat_told) ij_free(one->text);
      else l->flat = one->text;
      l->flat_told = true;
    } else if (*byte & bit) ij_free(one->text);
    else {
      *byte |= bit;
      l->corrupt_total++;
      ij_notes_add(&l->notes, one->text);
    }
  }
  s->corrupt_count = 0;
  double n = (double)ij_catalogue_count(l->catalogue), most = floor(l->c.max_bad * n);
  if (l->c.max_bad > 0 && most < 1) most = 1; /* in a small data set one corrupt image proves nothing */
  if ((double)l->corrupt_total > most)
    return ij_fail(IJ_EFORMAT, "data '%s': %lld of %.0f image%s %s corrupt, a larger fraction than data.max_bad = %g",
                   ij_catalogue_title(l->catalogue), (long long)l->corrupt_total, n, ij_s(n),
                   l->corrupt_total == 1 ? "is" : "are", l->c.max_bad);
  return IJ_OK;
}

ij_status ij_loader_next(ij_loader *l, ij_batch *out) {
  if (l->at_end == 1) {
    l->at_end = 2;
    return ij_fail(IJ_EEND, "data '%s': end of the epoch", ij_catalogue_title(l->catalogue));
  }
  pthread_mutex_lock(&l->lock);
  if (l->at_end == 2) {
    l->at_end = 0;
    l->last_epoch = l->epoch;
    pthread_cond_broadcast(&l->work);
  }
  slot *s = slot_of(l, l->taken);
  while (s->index != l->taken || s->remaining > 0) {
    int from, to;
    slot *own = l->threads ? NULL : claim(l, &from, &to);
    if (own) {
      l->busy++;
      pthread_mutex_unlock(&l->lock);
      fill(l, l->readers, own, from, to);
      pthread_mutex_lock(&l->lock);
    } else pthread_cond_wait(&l->done, &l->lock);
  }
  pthread_mutex_unlock(&l->lock); /* a finished batch is the consumer's until taken grows */
  ij_status st = settle_corrupt(l, s);
  if (st == IJ_OK && s->status != IJ_OK) st = ij_fail(s->status, "%s", s->error ? s->error : "out of memory");
  if (st != IJ_OK) return st; /* the same at each further call, until a seek */
  *out = (ij_batch){s->count, s->epoch, s->step, s->pixels, s->labels, s->samples};
  pthread_mutex_lock(&l->lock);
  l->taken++;
  pthread_cond_broadcast(&l->work);
  pthread_mutex_unlock(&l->lock);
  if (++l->step == l->steps) {
    l->step = 0;
    l->epoch++;
    l->at_end = !l->c.shuffle;
  }
  return IJ_OK;
}

static void slots_clear(ij_loader *l) {
  for (int i = 0; i < l->slots; i++) {
    slot *s = &l->ring[i];
    for (int k = 0; k < s->corrupt_count; k++) ij_free(s->corrupt[k].text);
    s->corrupt_count = 0;
    s->index = -1;
    ij_free(s->error);
    s->error = NULL;
  }
}

ij_status ij_loader_seek(ij_loader *l, int64_t epoch, int64_t step) {
  if (epoch < 0 || epoch > UINT32_MAX || step < 0 || step >= l->steps)
    return ij_fail(IJ_EINVAL, "data: epoch %lld, step %lld: an epoch has %lld step%s, counted from 0", (long long)epoch,
                   (long long)step, (long long)l->steps, ij_s((double)l->steps));
  pthread_mutex_lock(&l->lock);
  l->hold = true;
  while (l->busy) pthread_cond_wait(&l->done, &l->lock);
  slots_clear(l);
  l->opened = l->taken = 0;
  l->claimed = 0;
  l->open_epoch = l->last_epoch = l->epoch = epoch;
  l->open_step = l->step = step;
  l->at_end = 0;
  l->hold = false;
  pthread_cond_broadcast(&l->work);
  pthread_mutex_unlock(&l->lock);
  return IJ_OK;
}

/* ---- opening and closing ---- */
static ij_status check(ij_loader_config *c) {
  IJ_TRY(ij_view_check(&c->view));
  if (c->batch < 1 || c->batch > 1 << 20)
    return ij_fail(IJ_EINVAL, "data.batch = %d is not between 1 and 2^20", c->batch);
  if (c->workers < 0 || c->workers > 1024)
    return ij_fail(IJ_EINVAL, "data.workers = %d is not between 0 and 1024", c->workers);
  if (c->prefetch <= 0) c->prefetch = 4;
  if (c->prefetch > 1024) return ij_fail(IJ_EINVAL, "data.prefetch = %d is above 1024", c->prefetch);
  if (c->world <= 0) c->world = 1;
  if (c->multiple <= 0) c->multiple = 1;
  if (c->rank < 0 || c->rank >= c->world)
    return ij_fail(IJ_EINVAL, "data: process %d of %d: processes count from 0", c->rank, c->world);
  if (!(c->max_bad >= 0)) c->max_bad = .01;
  return IJ_OK;
}

static ij_status steps_count(ij_loader *l) {
  ij_loader_config *c = &l->c;
  const char *title = ij_catalogue_title(l->catalogue);
  int64_t n = ij_catalogue_count(l->catalogue), all = (int64_t)c->batch * c->world,
          before = (int64_t)c->batch * c->rank;
  if (c->view.train) l->steps = c->drop_last ? n / all : (n + all - 1) / all; /* the same number in each process */
  else if (c->drop_last) l->steps = (n - before + all - c->batch) / all;
  else l->steps = n > before ? (n - before + all - 1) / all : 0;
  if (l->steps < 0) l->steps = 0;
  l->steps -= l->steps % c->multiple;
  if (l->steps < 1 && c->world * c->multiple == 1)
    return ij_fail(IJ_EINVAL, "data '%s': %lld image%s do%s not fill a batch of %d; lower data.batch", title,
                   (long long)n, ij_s((double)n), n == 1 ? "es" : "", c->batch);
  if (l->steps < 1)
    return ij_fail(IJ_EINVAL,
                   "data '%s': %lld image%s do%s not fill %d batch%s of %d in %d process%s; lower data.batch", title,
                   (long long)n, ij_s((double)n), n == 1 ? "es" : "", c->multiple, c->multiple == 1 ? "" : "es",
                   c->batch, c->world, c->world == 1 ? "" : "es");
  return IJ_OK;
}

/* Images that need libvips, where it can't be used: found before the first step. */
static ij_status check_libvips(ij_loader *l) {
  for (uint32_t i = 0, n = (uint32_t)ij_catalogue_count(l->catalogue); i < n; i++) {
    const char *name = ij_catalogue_name(l->catalogue, i), *dot = strrchr(name, '.');
    if (!dot || !strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg") || !strcasecmp(dot, ".jpe") ||
        !strcasecmp(dot, ".jfif"))
      continue;
    ij_status st = ij_vips_ready();
    return st == IJ_OK ? st : ij_fail_in(st, "data '%s': '%s' needs libvips", ij_catalogue_title(l->catalogue), name);
  }
  return IJ_OK;
}

static ij_status buffers_make(ij_loader *l) {
  const ij_loader_config *c = &l->c;
  size_t n = (size_t)ij_catalogue_count(l->catalogue), batch = (size_t)c->batch;
  l->slots = (c->workers ? c->prefetch : 1) + 1;
  if (!(l->is_corrupt = ij_calloc(n / 8 + 1, 1))) return IJ_ENOMEM;
  if (!(l->ring = ij_calloc((size_t)l->slots, sizeof *l->ring))) return IJ_ENOMEM;
  for (int i = 0; i < l->slots; i++) {
    slot *s = &l->ring[i];
    s->index = -1;
    s->pixels = ij_alloc(batch * (size_t)c->view.height * (size_t)c->view.width * 3);
    s->labels = ij_alloc(batch * sizeof *s->labels);
    s->wanted = ij_alloc(batch * sizeof *s->wanted);
    s->samples = ij_alloc(batch * sizeof *s->samples);
    s->rounds = ij_alloc(batch * sizeof *s->rounds);
    if (!s->pixels || !s->labels || !s->wanted || !s->samples || !s->rounds) return IJ_ENOMEM;
  }
  int readers = c->workers ? c->workers : 1;
  if (!(l->readers = ij_calloc((size_t)readers, sizeof *l->readers))) return IJ_ENOMEM;
  for (int i = 0; i < readers; i++) IJ_TRY(ij_reader_init(&l->readers[i], l->catalogue));
  return IJ_OK;
}

static ij_status threads_start(ij_loader *l) {
  sigset_t all, before;
  ij_status st = IJ_OK;
  if (!l->c.workers) return IJ_OK;
  if (!(l->thread = ij_alloc((size_t)l->c.workers * sizeof *l->thread))) return IJ_ENOMEM;
  sigfillset(&all); /* signals are for the thread that called us */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_mutex_lock(&l->lock);
  for (int i = 0; i < l->c.workers && st == IJ_OK; i++) {
    worker *w = ij_alloc(sizeof *w);
    if (w) *w = (worker){l, &l->readers[i]};
    if (w && pthread_create(&l->thread[i], NULL, work, w) == 0) l->threads++;
    else {
      st = w ? ij_fail(IJ_ENOMEM, "data: thread %d of %d could not be started", i + 1, l->c.workers) : IJ_ENOMEM;
      ij_free(w);
    }
  }
  pthread_mutex_unlock(&l->lock);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return st;
}

ij_status ij_loader_open(ij_catalogue *c, const ij_loader_config *config, ij_loader **out) {
  ij_loader *l = ij_calloc(1, sizeof *l);
  ij_status st;
  if (!l) return IJ_ENOMEM;
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->work, NULL);
  pthread_cond_init(&l->done, NULL);
  l->c = *config;
  l->catalogue = ij_catalogue_keep(c);
  IJ_TRY_TO(failed, st, check(&l->c));
  IJ_TRY_TO(failed, st, ij_order_new(c, l->c.weights, &l->order));
  l->c.weights = NULL; /* the caller's */
  IJ_TRY_TO(failed, st, steps_count(l));
  IJ_TRY_TO(failed, st, check_libvips(l));
  IJ_TRY_TO(failed, st, buffers_make(l));
  IJ_TRY_TO(failed, st, threads_start(l));
  *out = l;
  return IJ_OK;
failed:
  ij_loader_close(l);
  return st;
}

void ij_loader_close(ij_loader *l) {
  if (!l) return;
  pthread_mutex_lock(&l->lock);
  l->stop = true;
  pthread_cond_broadcast(&l->work);
  pthread_mutex_unlock(&l->lock);
  for (int i = 0; i < l->threads; i++) pthread_join(l->thread[i], NULL);
  if (l->ring) slots_clear(l);
  for (int i = 0; l->ring && i < l->slots; i++) {
    slot *s = &l->ring[i];
    ij_free(s->pixels);
    ij_free(s->labels);
    ij_free(s->wanted);
    ij_free(s->samples);
    ij_free(s->rounds);
    ij_free(s->corrupt);
  }
  int readers = l->c.workers ? l->c.workers : 1;
  for (int i = 0; l->readers && i < readers; i++) ij_reader_free(&l->readers[i]);
  pthread_mutex_destroy(&l->lock);
  pthread_cond_destroy(&l->work);
  pthread_cond_destroy(&l->done);
  ij_notes_free(&l->notes);
  ij_free(l->flat);
  ij_free(l->flat_last);
  ij_order_free(l->order);
  ij_catalogue_close(l->catalogue);
  ij_free(l->readers);
  ij_free(l->thread);
  ij_free(l->ring);
  ij_free(l->is_corrupt);
  ij_free(l);
}
