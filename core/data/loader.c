/* loader.c: worker threads fill a ring of batches, the consumer takes them in order. What a batch holds is a function
 * of (configuration, epoch, step) alone. */
#include "data.h"
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef struct bad { /* one image that could not be read */
  int item, attempt;
  uint32_t sample;
  char *text;
} bad;

typedef struct slot { /* one batch */
  int64_t number;     /* counted from the last seek; -1: none */
  int64_t epoch, step;
  int count, left;            /* images; those not yet done */
  uint8_t *pixels;            /* (B, H, W, 3) */
  int32_t *labels;            /* (B) */
  uint32_t *wanted, *samples; /* (B): by the order; what stands there in the end */
  uint32_t *turns;            /* (B): how many times it came before, see sources.c */
  bad *bads;
  int bad_count, bad_cap;
  ij_status status;
  char *error;
} slot;

typedef struct worker {
  ij_decoder *decoder;
  ij_room file, blur;
} worker;

struct ij_data {
  ij_data_config c;
  ij_sources *sources;
  ij_copy *copy;
  ij_colours colours;
  bool coloured;
  int64_t steps; /* batches of an epoch for this process */

  pthread_mutex_t lock;
  pthread_cond_t work, done;
  pthread_t *thread;
  int threads;
  worker *worker; /* (threads), one with no threads */
  slot *ring;
  int slots;
  /* under the lock */
  bool stop, hold;
  int busy;                      /* workers at an image */
  int64_t opened, taken;         /* batches: begun, delivered */
  int64_t open_epoch, open_step; /* of the next to begin */
  int64_t last_epoch;            /* without shuffle: no batch of a later epoch is begun */
  int claimed;                   /* images given out of the batch begun last */
  /* the consumer's alone */
  int64_t epoch, step; /* of the next batch */
  int at_end;          /* without shuffle: 1 IJ_EEND is due, 2 it was told */
  uint8_t *is_bad;     /* one bit an image */
  int64_t bad_total;
  char **told; /* texts not yet reported */
  size_t told_count, told_cap, told_next;
  char *text; /* the one last reported */
};

ij_sources *ij_data_lists(ij_data *d) { return d->sources; }
int64_t ij_data_count(const ij_data *d) { return ij_sources_count(d->sources); }
int64_t ij_data_steps(const ij_data *d) { return d->steps; }
int ij_data_classes(const ij_data *d) { return ij_sources_classes(d->sources); }
const char *ij_data_class(const ij_data *d, int i) {
  return i < 0 || i >= ij_data_classes(d) ? NULL : ij_sources_class(d->sources, i);
}
int ij_data_sources(const ij_data *d) { return ij_sources_number(d->sources); }
int ij_data_source(const ij_data *d, int64_t sample) {
  uint32_t within;
  return sample < 0 || sample >= ij_data_count(d) ? -1 : ij_sources_of(d->sources, (uint32_t)sample, &within);
}
static const ij_list *list_of(const ij_data *d, uint32_t sample, uint32_t *within) {
  return ij_sources_list(d->sources, ij_sources_of(d->sources, sample, within));
}
const char *ij_data_name(const ij_data *d, int64_t sample) {
  uint32_t within;
  if (sample < 0 || sample >= ij_data_count(d)) return NULL;
  const ij_list *l = list_of(d, (uint32_t)sample, &within);
  return ij_list_name(l, within);
}
uint64_t ij_data_stamp(const ij_data *d) { return ij_sources_stamp(d->sources); }
int64_t ij_data_bad(const ij_data *d) { return d->bad_total; }

/* ---- texts for the log ---- */
static void tell(ij_data *d, char *text) { /* takes the text */
  if (text && d->told_count == d->told_cap) {
    size_t cap = d->told_cap ? 2 * d->told_cap : 16;
    char **more = ij_realloc(d->told, cap * sizeof *more);
    if (more) {
      d->told = more;
      d->told_cap = cap;
    }
  }
  if (text && d->told_count < d->told_cap) d->told[d->told_count++] = text;
  else ij_free(text);
}
static void on_note(void *arg, const char *text) { tell(arg, ij_strdup(text)); }

const char *ij_data_bad_next(ij_data *d) {
  ij_free(d->text);
  d->text = NULL;
  if (d->told_next < d->told_count) d->text = d->told[d->told_next++];
  if (d->told_next == d->told_count) d->told_next = d->told_count = 0;
  return d->text;
}

/* ---- one image ---- */
static ij_status load(const ij_data *d, worker *w, uint32_t sample, uint32_t key, uint32_t turn, uint8_t *out) {
  const ij_data_config *c = &d->c;
  size_t n;
  uint32_t within;
  int height, width, box[4];
  ij_window win;
  ij_rng r;
  const ij_list *list = list_of(d, sample, &within);
  IJ_TRY(ij_list_read(list, within, (size_t)c->max_bytes, &w->file, &n));
  IJ_TRY(ij_decoder_open(w->decoder, w->file.p, n, &height, &width));
  if (c->train) {
    ij_rng_init(&r, c->seed, IJ_RNG_CROP, turn, key);
    ij_crop_draw(&r, height, width, c->scale, c->ratio, box);
    win = (ij_window){box[0], box[1], box[2], box[3], c->height, c->width, 0, 0, c->height, c->width};
  } else ij_crop_centre(height, width, c->resize, c->height, c->width, &win);
  IJ_TRY(ij_decoder_read(w->decoder, &win, out));
  if (!d->coloured) return IJ_OK;
  ij_rng_init(&r, c->seed, IJ_RNG_AUGMENT, turn, key);
  return ij_augment(&r, &d->colours, c->height, c->width, out, &w->blur);
}

int ij_data_label(const ij_data *d, int64_t sample) {
  return sample < 0 || sample >= ij_data_count(d) ? -1 : ij_sources_label(d->sources, (uint32_t)sample);
}

ij_status ij_data_image(const ij_data *d, int64_t sample, int64_t epoch, uint8_t *pixels) {
  int64_t n = ij_data_count(d);
  if (sample < 0 || sample >= n || epoch < 0 || epoch > UINT32_MAX)
    return ij_fail(IJ_EINVAL, "data: image %lld of %lld, epoch %lld", (long long)sample, (long long)n,
                   (long long)epoch);
  worker own = {0}; /* the threads' are in use */
  ij_status st = ij_decoder_new(d->c.max_pixels, &own.decoder);
  if (st == IJ_OK) st = load(d, &own, (uint32_t)sample, (uint32_t)sample, (uint32_t)epoch, pixels);
  ij_decoder_free(own.decoder);
  ij_room_free(&own.file);
  ij_room_free(&own.blur);
  return st;
}

static ij_status note_bad(ij_data *d, slot *s, int item, int attempt, uint32_t sample) {
  ij_status st = IJ_OK;
  uint32_t within;
  const ij_list *l = list_of(d, sample, &within);
  bool one = ij_sources_number(d->sources) == 1;
  char *text =
      ij_format("%s%s%s: %s", one ? "" : ij_list_root(l), one ? "" : ": ", ij_list_name(l, within), ij_errmsg());
  pthread_mutex_lock(&d->lock);
  if (text && s->bad_count == s->bad_cap) {
    int cap = s->bad_cap ? 2 * s->bad_cap : 8;
    bad *more = ij_realloc(s->bads, (size_t)cap * sizeof *more);
    if (more) {
      s->bads = more;
      s->bad_cap = cap;
    }
  }
  if (text && s->bad_count < s->bad_cap) s->bads[s->bad_count++] = (bad){item, attempt, sample, text};
  else {
    ij_free(text);
    st = IJ_ENOMEM;
  }
  pthread_mutex_unlock(&d->lock);
  return st;
}

enum { ATTEMPTS = 32 };
static ij_status fill_item(ij_data *d, worker *w, slot *s, int i) {
  const ij_data_config *c = &d->c;
  uint32_t wanted = s->wanted[i], sample = wanted, turn = s->turns[i], within;
  const ij_list *l = list_of(d, wanted, &within);
  uint32_t first = wanted - within;
  ij_rng instead; /* a corrupt image's place is taken by others of its source, drawn here */
  ij_rng_init(&instead, c->seed, IJ_RNG_ORDER, turn, wanted + 1);
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    size_t bytes = (size_t)c->height * (size_t)c->width * 3;
    ij_status st = load(d, w, sample, wanted, turn, s->pixels + (size_t)i * bytes);
    if (st == IJ_OK) {
      s->samples[i] = sample;
      s->labels[i] = ij_sources_label(d->sources, sample);
      return IJ_OK;
    }
    if (st == IJ_ENOMEM || st == IJ_EINTERRUPT) return st;
    IJ_TRY(note_bad(d, s, i, attempt, sample));
    sample = first + ij_rng_below(&instead, ij_list_count(l));
  }
  return ij_fail(IJ_EFORMAT, "data '%s': %d images one after the other could not be read, the last is %s: %s",
                 ij_sources_title(d->sources), ATTEMPTS, ij_data_name(d, sample), ij_errmsg());
}

/* ---- batches ---- */
static slot *slot_of(ij_data *d, int64_t number) { return &d->ring[number % d->slots]; }

/* Begins the next batch; under the lock. */
static slot *batch_open(ij_data *d) {
  const ij_data_config *c = &d->c;
  slot *s = slot_of(d, d->opened);
  s->number = d->opened++;
  s->epoch = d->open_epoch;
  s->step = d->open_step;
  s->status = IJ_OK;
  int64_t first = (s->step * c->world + c->rank) * c->batch, n = ij_data_count(d);
  bool whole = c->train && c->world > 1; /* past the end begins the front again: all make as many steps of one size */
  s->count = s->left = (int)(whole || n - first > c->batch ? c->batch : n - first);
  for (int i = 0; i < s->count; i++) {
    int64_t at = (first + i) % n;
    ij_sources_at(d->sources, c->seed, c->shuffle, (uint32_t)s->epoch, (uint32_t)at, &s->wanted[i], &s->turns[i]);
  }
  d->claimed = 0;
  if (++d->open_step == d->steps) {
    d->open_step = 0;
    d->open_epoch++;
  }
  return s;
}

/* Next images [*from, *to) to be made, or NULL where there is nothing to do now; under the lock. */
static slot *claim(ij_data *d, int *from, int *to) {
  if (d->hold) return NULL;
  slot *s = d->opened ? slot_of(d, d->opened - 1) : NULL;
  if (!s || d->claimed == s->count) {
    if (d->opened >= d->taken + d->slots - 1) return NULL; /* one slot is the consumer's */
    if (!d->c.shuffle && d->open_epoch > d->last_epoch) return NULL;
    s = batch_open(d);
  }
  int share = s->count / (4 * (d->threads ? d->threads : 1));
  share = share < 1 ? 1 : share > 16 ? 16 : share;
  *from = d->claimed;
  *to = d->claimed + share < s->count ? d->claimed + share : s->count;
  d->claimed = *to;
  return s;
}

static void fill(ij_data *d, worker *w, slot *s, int from, int to) {
  ij_status st = IJ_OK;
  for (int i = from; i < to && st == IJ_OK; i++) st = fill_item(d, w, s, i);
  char *error = st == IJ_OK ? NULL : ij_strdup(ij_errmsg());
  pthread_mutex_lock(&d->lock);
  if (st != IJ_OK && s->status == IJ_OK) {
    s->status = st;
    s->error = error;
    error = NULL;
  }
  s->left -= to - from;
  if (--d->busy == 0 || s->left == 0) pthread_cond_broadcast(&d->done);
  pthread_mutex_unlock(&d->lock);
  ij_free(error);
}

typedef struct start {
  ij_data *d;
  worker *w;
} start;

static void *work(void *arg) {
  start s = *(start *)arg;
  ij_free(arg);
  ij_data *d = s.d;
  pthread_mutex_lock(&d->lock);
  while (!d->stop) {
    int from, to;
    slot *b = claim(d, &from, &to);
    if (!b) {
      pthread_cond_wait(&d->work, &d->lock);
      continue;
    }
    d->busy++;
    pthread_mutex_unlock(&d->lock);
    fill(d, s.w, b, from, to);
    pthread_mutex_lock(&d->lock);
  }
  pthread_mutex_unlock(&d->lock);
  ij_vips_thread_end();
  return NULL;
}

/* ---- the consumer's side ---- */
static int by_item(const void *a, const void *b) {
  const bad *x = a, *y = b;
  return x->item != y->item ? x->item - y->item : x->attempt - y->attempt;
}

/* Counts and tells what was broken in the batch, in its order. */
static ij_status settle_bad(ij_data *d, slot *s) {
  if (s->bad_count) qsort(s->bads, (size_t)s->bad_count, sizeof *s->bads, by_item);
  for (int i = 0; i < s->bad_count; i++) {
    bad *b = &s->bads[i];
    uint8_t bit = (uint8_t)(1 << b->sample % 8), *byte = &d->is_bad[b->sample / 8];
    if (*byte & bit) ij_free(b->text);
    else {
      *byte |= bit;
      d->bad_total++;
      tell(d, b->text);
    }
  }
  s->bad_count = 0;
  double n = (double)ij_data_count(d), most = floor(d->c.max_bad * n);
  if (d->c.max_bad > 0 && most < 1) most = 1; /* in a small set one corrupt image is no verdict */
  if ((double)d->bad_total > most)
    return ij_fail(IJ_EFORMAT, "data '%s': %lld of %.0f images are broken, more than the share data.max_bad = %g",
                   ij_sources_title(d->sources), (long long)d->bad_total, n, d->c.max_bad);
  return IJ_OK;
}

ij_status ij_data_next(ij_data *d, ij_batch *out) {
  if (d->at_end == 1) {
    d->at_end = 2;
    return ij_fail(IJ_EEND, "data '%s': end of the epoch", ij_sources_title(d->sources));
  }
  pthread_mutex_lock(&d->lock);
  if (d->at_end == 2) {
    d->at_end = 0;
    d->last_epoch = d->epoch;
    pthread_cond_broadcast(&d->work);
  }
  slot *s = slot_of(d, d->taken);
  while (s->number != d->taken || s->left > 0) {
    int from, to;
    slot *mine = d->threads ? NULL : claim(d, &from, &to);
    if (mine) {
      d->busy++;
      pthread_mutex_unlock(&d->lock);
      fill(d, d->worker, mine, from, to);
      pthread_mutex_lock(&d->lock);
    } else pthread_cond_wait(&d->done, &d->lock);
  }
  pthread_mutex_unlock(&d->lock); /* a finished batch is the consumer's until taken grows */
  ij_status st = settle_bad(d, s);
  if (st == IJ_OK && s->status != IJ_OK) st = ij_fail(s->status, "%s", s->error ? s->error : "out of memory");
  if (st != IJ_OK) return st; /* and again at each call, until a seek */
  *out = (ij_batch){s->count, s->epoch, s->step, s->pixels, s->labels, s->samples};
  pthread_mutex_lock(&d->lock);
  d->taken++;
  pthread_cond_broadcast(&d->work);
  pthread_mutex_unlock(&d->lock);
  if (++d->step == d->steps) {
    d->step = 0;
    d->epoch++;
    d->at_end = !d->c.shuffle;
  }
  return IJ_OK;
}

static void slots_clear(ij_data *d) {
  for (int i = 0; i < d->slots; i++) {
    slot *s = &d->ring[i];
    for (int k = 0; k < s->bad_count; k++) ij_free(s->bads[k].text);
    s->bad_count = 0;
    s->number = -1;
    ij_free(s->error);
    s->error = NULL;
  }
}

ij_status ij_data_seek(ij_data *d, int64_t epoch, int64_t step) {
  if (epoch < 0 || epoch > UINT32_MAX || step < 0 || step >= d->steps)
    return ij_fail(IJ_EINVAL, "data: epoch %lld, step %lld: an epoch has %lld steps, counted from 0", (long long)epoch,
                   (long long)step, (long long)d->steps);
  pthread_mutex_lock(&d->lock);
  d->hold = true;
  while (d->busy) pthread_cond_wait(&d->done, &d->lock);
  slots_clear(d);
  d->opened = d->taken = 0;
  d->claimed = 0;
  d->open_epoch = d->last_epoch = d->epoch = epoch;
  d->open_step = d->step = step;
  d->at_end = 0;
  d->hold = false;
  pthread_cond_broadcast(&d->work);
  pthread_mutex_unlock(&d->lock);
  return IJ_OK;
}

ij_status ij_data_copy(ij_data *d, const char *folder, double seconds, ij_progress *p) {
  pthread_mutex_lock(&d->lock);
  d->hold = true; /* no one reads while the lists move */
  while (d->busy) pthread_cond_wait(&d->done, &d->lock);
  pthread_mutex_unlock(&d->lock);
  ij_status st = d->copy ? IJ_OK : ij_copy_start(d->sources, folder, &d->copy);
  if (st == IJ_OK) st = ij_copy_wait(d->copy, seconds, p);
  if (st != IJ_OK || p->over) {
    ij_copy_free(d->copy);
    d->copy = NULL;
  }
  pthread_mutex_lock(&d->lock);
  d->hold = false;
  pthread_cond_broadcast(&d->work);
  pthread_mutex_unlock(&d->lock);
  return st;
}

/* ---- opening and closing ---- */
static bool in_unit(double p) { return p >= 0 && p <= 1; }

static ij_status check(ij_data_config *c) {
  if (c->height < 1 || c->width < 1 || c->height > 1 << 14 || c->width > 1 << 14)
    return ij_fail(IJ_EINVAL, "data: the output of %d x %d pixels is not between 1 and 16384", c->width, c->height);
  if (c->resize <= 0) c->resize = (int)rint(c->height * 8.0 / 7);
  if (c->resize > 1 << 16) return ij_fail(IJ_EINVAL, "data.resize = %d is above 65536", c->resize);
  if (c->scale[0] == 0 && c->scale[1] == 0) c->scale[0] = .3, c->scale[1] = 1;
  if (c->ratio[0] == 0 && c->ratio[1] == 0) c->ratio[0] = 3. / 4, c->ratio[1] = 4. / 3;
  if (!(c->scale[0] > 0 && c->scale[0] <= c->scale[1] && c->scale[1] <= 1))
    return ij_fail(IJ_EINVAL, "data.scale = %g, %g: expected 0 < low <= high <= 1", c->scale[0], c->scale[1]);
  if (!(c->ratio[0] > 0 && c->ratio[0] <= c->ratio[1] && c->ratio[1] < 1e6))
    return ij_fail(IJ_EINVAL, "data.ratio = %g, %g: expected 0 < low <= high", c->ratio[0], c->ratio[1]);
  if (!in_unit(c->flip) || !in_unit(c->jitter_p) || !in_unit(c->grey_p) || !in_unit(c->blur_p))
    return ij_fail(IJ_EINVAL, "data: flip, jitter_p, grey_p and blur_p are probabilities, between 0 and 1");
  if (!(c->jitter >= 0 && c->jitter <= 2.5))
    return ij_fail(IJ_EINVAL, "data.jitter = %g is not between 0 and 2.5", c->jitter);
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
  if (c->max_pixels <= 0) c->max_pixels = (int64_t)1 << 28;
  if (c->max_bytes <= 0) c->max_bytes = (int64_t)1 << 28;
  return IJ_OK;
}

static ij_status size_up(ij_data *d) {
  ij_data_config *c = &d->c;
  int64_t n = ij_data_count(d), all = (int64_t)c->batch * c->world, before = (int64_t)c->batch * c->rank;
  if (c->train) d->steps = c->drop_last ? n / all : (n + all - 1) / all; /* as many in each process */
  else if (c->drop_last) d->steps = (n - before + all - c->batch) / all;
  else d->steps = n > before ? (n - before + all - 1) / all : 0;
  if (d->steps < 0) d->steps = 0;
  d->steps -= d->steps % c->multiple;
  if (d->steps < 1 && c->world * c->multiple == 1)
    return ij_fail(IJ_EINVAL, "data '%s': %lld images don't fill a batch of %d; lower data.batch",
                   ij_sources_title(d->sources), (long long)n, c->batch);
  if (d->steps < 1)
    return ij_fail(IJ_EINVAL, "data '%s': %lld images don't fill %d batches of %d in %d processes; lower data.batch",
                   ij_sources_title(d->sources), (long long)n, c->multiple, c->batch, c->world);
  return IJ_OK;
}

static ij_status room_make(ij_data *d) {
  const ij_data_config *c = &d->c;
  size_t n = ij_sources_count(d->sources), b = (size_t)c->batch;
  d->slots = (c->workers ? c->prefetch : 1) + 1;
  if (!(d->is_bad = ij_calloc(n / 8 + 1, 1))) return IJ_ENOMEM;
  if (!(d->ring = ij_calloc((size_t)d->slots, sizeof *d->ring))) return IJ_ENOMEM;
  for (int i = 0; i < d->slots; i++) {
    slot *s = &d->ring[i];
    s->number = -1;
    s->pixels = ij_alloc(b * (size_t)c->height * (size_t)c->width * 3);
    s->labels = ij_alloc(b * sizeof *s->labels);
    s->wanted = ij_alloc(b * sizeof *s->wanted);
    s->samples = ij_alloc(b * sizeof *s->samples);
    s->turns = ij_alloc(b * sizeof *s->turns);
    if (!s->pixels || !s->labels || !s->wanted || !s->samples || !s->turns) return IJ_ENOMEM;
  }
  int workers = c->workers ? c->workers : 1;
  if (!(d->worker = ij_calloc((size_t)workers, sizeof *d->worker))) return IJ_ENOMEM;
  for (int i = 0; i < workers; i++) IJ_TRY(ij_decoder_new(c->max_pixels, &d->worker[i].decoder));
  return IJ_OK;
}

static ij_status threads_start(ij_data *d) {
  sigset_t all, before;
  ij_status st = IJ_OK;
  if (!d->c.workers) return IJ_OK;
  if (!(d->thread = ij_alloc((size_t)d->c.workers * sizeof *d->thread))) return IJ_ENOMEM;
  sigfillset(&all); /* signals are for the thread that called us */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_mutex_lock(&d->lock);
  for (int i = 0; i < d->c.workers && st == IJ_OK; i++) {
    start *s = ij_alloc(sizeof *s);
    if (s) *s = (start){d, &d->worker[i]};
    if (s && pthread_create(&d->thread[i], NULL, work, s) == 0) d->threads++;
    else {
      st = s ? ij_fail(IJ_ENOMEM, "data: thread %d of %d could not be started", i + 1, d->c.workers) : IJ_ENOMEM;
      ij_free(s);
    }
  }
  pthread_mutex_unlock(&d->lock);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return st;
}

ij_status ij_data_open(const ij_data_config *c, ij_data **out) {
  ij_data *d = ij_calloc(1, sizeof *d);
  ij_status st;
  if (!d) return IJ_ENOMEM;
  pthread_mutex_init(&d->lock, NULL);
  pthread_cond_init(&d->work, NULL);
  pthread_cond_init(&d->done, NULL);
  d->c = *c;
  IJ_TRY_TO(failed, st, check(&d->c));
  IJ_TRY_TO(failed, st, ij_sources_open(c, on_note, d, &d->sources));
  d->c.root = d->c.subset = d->c.cache = NULL; /* the caller's */
  d->c.roots = NULL;
  d->c.weights = NULL;
  if (d->c.untrusted_loaders) ij_vips_untrusted(true);
  d->colours = (ij_colours){d->c.flip, d->c.jitter, d->c.jitter_p, d->c.grey_p, d->c.blur_p};
  d->coloured =
      d->c.train && (d->c.flip > 0 || (d->c.jitter > 0 && d->c.jitter_p > 0) || d->c.grey_p > 0 || d->c.blur_p > 0);
  IJ_TRY_TO(failed, st, size_up(d));
  IJ_TRY_TO(failed, st, room_make(d));
  IJ_TRY_TO(failed, st, threads_start(d));
  *out = d;
  return IJ_OK;
failed:
  ij_data_close(d);
  return st;
}

void ij_data_close(ij_data *d) {
  if (!d) return;
  pthread_mutex_lock(&d->lock);
  d->stop = true;
  pthread_cond_broadcast(&d->work);
  pthread_mutex_unlock(&d->lock);
  for (int i = 0; i < d->threads; i++) pthread_join(d->thread[i], NULL);
  if (d->ring) slots_clear(d);
  for (int i = 0; d->ring && i < d->slots; i++) {
    slot *s = &d->ring[i];
    ij_free(s->pixels);
    ij_free(s->labels);
    ij_free(s->wanted);
    ij_free(s->samples);
    ij_free(s->turns);
    ij_free(s->bads);
  }
  int workers = d->c.workers ? d->c.workers : 1;
  for (int i = 0; d->worker && i < workers; i++) {
    ij_decoder_free(d->worker[i].decoder);
    ij_room_free(&d->worker[i].file);
    ij_room_free(&d->worker[i].blur);
  }
  while (ij_data_bad_next(d)) {}
  pthread_mutex_destroy(&d->lock);
  pthread_cond_destroy(&d->work);
  pthread_cond_destroy(&d->done);
  ij_copy_free(d->copy);
  ij_sources_free(d->sources);
  ij_free(d->told);
  ij_free(d->worker);
  ij_free(d->thread);
  ij_free(d->ring);
  ij_free(d->is_bad);
  ij_free(d);
}
