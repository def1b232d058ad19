/* Inside of optimizers. Complete gradients are collected in groups. A group that is large enough is used for an update
 * immediately where there is one process; where there are several it is packed into a bucket and summed over them.
 * The files, each uses those before it: update.c, bucket.c, optim.c. */
#ifndef IJ_OPTIM_H
#define IJ_OPTIM_H
#include "../dist/dist.h"

typedef struct ij_update_entry { /* one tensor, or part of one, to be updated */
  ij_sink sink;                  /* first, so that a sink's function finds its entry */
  ij_optim *optim;
  ij_tensor *p, *average; /* held */
  ij_tensor *m, *v;       /* f32, p's shape, or (count) of a part; NULL: another process has them */
  int64_t first, count;   /* elements of p */
  double lr_scale, wd_scale;
  bool adapted; /* by LARS */
  double grad_norm;
  int owner;                 /* the process that updates it; -1: each */
  bool part, watched, taken; /* taken: its gradient of this update is in a group, a bucket, or used */
  ij_tensor *grad;           /* held while it is in a group */
  int64_t offset;            /* elements, in its bucket */
} ij_update_entry;

typedef struct ij_group { /* complete gradients of one owner, not yet used */
  ij_update_entry **entry;
  int count, cap;
  int64_t total; /* elements, each gradient rounded up */
} ij_group;

typedef struct ij_bucket {
  ij_tensor *x; /* (space) kept: gradients of its entries, then, with shard, their parameters */
  ij_group group;
  int64_t space, ticket;
  int owner;
  bool summed; /* the sum, or with shard the parameters, have arrived */
} ij_bucket;

typedef struct ij_settings { /* of one update */
  double lr, wd, momentum, grad_scale;
} ij_settings;

struct ij_optim {
  ij_optim_config config;
  ij_update_entry **entry;
  ij_update_item *item; /* (cap) space for one call */
  int count, cap;
  int moments;                /* of each tensor */
  ij_update_entry **follower; /* parameters that are not updated, but averaged */
  int followers, follower_cap;
  ij_tensor *ratio; /* (cap) kept: LARS's factors of the entries in one call */
  int64_t steps;
  bool started;         /* its first update has begun: no more entries */
  uint64_t version;     /* of the tensors that this update changes */
  bool eager;           /* between ij_optim_eager and ij_optim_step */
  ij_settings settings; /* that ij_optim_eager got */
  ij_tensor *gate;      /* held, or NULL */
  int64_t limit;        /* elements from which on a group is used */
  ij_group *group;      /* (groups): one, or with shard one per owner */
  int groups;
  /* several processes */
  ij_dist *dist; /* NULL: one */
  int64_t *load; /* (processes) elements that each owns; NULL without shard */
  ij_bucket **bucket;
  int buckets, bucket_cap, used; /* the first `used` are of this update */
  bool gathered;                 /* all gradients of this update are in buckets */
  ij_tensor *gates;              /* (1): the sum of the gates */
  int64_t gates_ticket;
};

/* update.c */
ij_status ij_group_add(ij_group *g, ij_update_entry *e);
void ij_group_clear(ij_group *g); /* drops held gradients */
/* What is the same for all tensors of an update. */
ij_update ij_update_of(const ij_optim *o, const ij_settings *k, const float *gate);
/* The averages of entries whose parameters stay as they are: those without one are left out. */
ij_status ij_optim_average(ij_optim *o, ij_update_entry *const *entry, int count, const ij_settings *k,
                           const float *gate);
/* One call for the entries of g, whose gradients are in x at their offsets, or, where x is NULL, are held. */
ij_status ij_optim_update(ij_optim *o, const ij_group *g, ij_tensor *x, const ij_settings *k, const float *gate);

/* bucket.c */
ij_status ij_bucket_send(ij_optim *o, ij_group *g, int owner); /* packs the group and begins its sum */
ij_status ij_bucket_gather(ij_optim *o);                       /* sends all gradients that are left */
ij_status ij_bucket_norm(ij_optim *o, double *norm, int *finite);
ij_status ij_bucket_step(ij_optim *o, const ij_settings *k);
void ij_bucket_reset(ij_optim *o);
void ij_bucket_free(ij_optim *o);
#endif
