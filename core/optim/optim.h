/* Inside of optimizers. Gradients that are whole gather in groups; a group that is large enough is used up at once
 * where there is one process, and is packed into a bucket and summed where there are several. */
#ifndef IJ_OPTIM_H
#define IJ_OPTIM_H
#include "../dist/dist.h"

typedef struct ij_entry {
  ij_sink sink; /* first, so that take() finds its entry */
  ij_optim *o;
  ij_tensor *p, *average; /* held */
  ij_tensor *m, *v;       /* f32, p's shape, or (count) of a part; NULL: another process has them */
  int64_t first, count;   /* elements of p */
  double lr_scale, wd_scale;
  double grad_norm;
  int owner;                /* the process that updates it; -1: each */
  bool part, watched, done; /* done: its gradient of this update has been taken */
  ij_tensor *grad;          /* held: of this update, and in no bucket */
  int64_t at;               /* in its bucket */
} ij_entry;

typedef struct ij_group { /* whole gradients of one owner, not yet used */
  ij_entry **e;
  int count, cap;
  int64_t total; /* elements, each gradient rounded up */
} ij_group;

typedef struct ij_bucket {
  ij_tensor *x; /* (room) kept: gradients of its entries, then, with shard, their parameters */
  ij_group in;
  int64_t room, ticket;
  int owner;
  bool here; /* the sum has been waited for */
} ij_bucket;

typedef struct ij_numbers { /* of one update */
  double lr, wd, momentum, grad_scale;
} ij_numbers;

struct ij_optim {
  ij_optim_config c;
  ij_entry **e;
  ij_adamw_item *item; /* (cap) room for one call */
  int count, cap;
  int64_t steps;
  uint64_t version; /* of what this update changes */
  bool eager;       /* between ij_optim_eager and ij_optim_step */
  ij_numbers now;
  ij_tensor *gate; /* held, or NULL */
  int64_t limit;   /* elements from which a group is used */
  ij_group *group; /* (groups): one, or with shard one an owner */
  int groups;
  /* several processes */
  ij_dist *d;    /* NULL: one */
  int64_t *load; /* (size) elements that each owns */
  ij_bucket **bucket;
  int buckets, bucket_cap, used; /* the first `used` are of this update */
  bool gathered;                 /* all gradients of this update are in buckets */
  ij_tensor *gates;              /* (1): the gates' sum */
  int64_t gates_ticket;
  ij_tensor *zeros; /* (2 * most): moments of an update that only averages */
};

/* adamw.c */
ij_status ij_group_add(ij_group *g, ij_entry *e);
void ij_group_clear(ij_group *g); /* drops held gradients */
/* One call for the entries of g whose gradients lie in x at their places, or, x NULL, are held. */
ij_status ij_optim_update(ij_optim *o, const ij_group *g, ij_tensor *x, const ij_numbers *k, const float *gate);

/* bucket.c */
ij_status ij_bucket_send(ij_optim *o, ij_group *g, int owner); /* packs the group and begins its sum */
ij_status ij_bucket_gather(ij_optim *o);                       /* all that is left */
ij_status ij_bucket_norm(ij_optim *o, double *norm, int *finite);
ij_status ij_bucket_step(ij_optim *o, const ij_numbers *k);
void ij_bucket_reset(ij_optim *o);
void ij_bucket_free(ij_optim *o);
#endif
