/* ijepa.h: the public interface of libijepa: everything that a C program, or the Lua front end, may call.
 *
 * Conventions
 *   Functions that can fail return ij_status; IJ_OK is 0. The message of this thread's last failure is ij_errmsg().
 *   Who makes it frees it: every *_new / *_open has a *_free / *_close that accepts NULL.
 *   Shapes: B images, C channels, H x W pixels or grid, N patches, K context patches, M target blocks, T patches of a
 *   target, D encoder width, E predictor width, A heads, S head width, F mlp width, R rows. Patches count from 0.
 *   Errors: a function that returns ij_status changes nothing but its out parameter (NULL then) where it fails, unless its
 *   comment says otherwise. IJ_EINVAL and IJ_ESHAPE are the caller's mistakes, IJ_EIO and IJ_EFORMAT the outside world's;
 *   every function that makes something may answer IJ_ENOMEM. Pointers must not be NULL where no comment allows it.
 *   Ownership: what comes through an out parameter is the caller's to free; a returned pointer is borrowed and lives as
 *   long as what it was asked of. Tensors are counted: each out parameter is one reference.
 *   Threads: everything that is made on a device (tensors, models, optimizers) belongs with it to one thread at a time;
 *   different devices, policies, loaders and files may be used in different threads at once. Functions of the process
 *   (memory, interrupts) may be called from any thread.
 *   Units: bytes, seconds, pixels; shares and probabilities from 0 to 1. Indices count from 0.
 *   The text between the two marker comments is what LuaJIT's ffi.cdef gets: no preprocessor lines in there. */
#ifndef IJEPA_H
#define IJEPA_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
/* cdef begin */

/* ---- status, memory, threads (core/base) ---------------------------------------------------------------------- */
typedef enum ij_status {
  IJ_OK = 0,
  IJ_EINVAL,     /* an argument or setting is wrong */
  IJ_ESHAPE,     /* shapes or types don't fit */
  IJ_ENOMEM,     /* out of memory */
  IJ_EIO,        /* a file or folder could not be read or written */
  IJ_EFORMAT,    /* a file's content is not what it should be */
  IJ_EEND,       /* no more data */
  IJ_EUNSUPPORTED, /* this build, device or file form can't do it */
  IJ_EINTERRUPT  /* stopped on request */
} ij_status;

const char *ij_version(void);            /* the project's version in CMakeLists.txt: "0.2.0" */
const char *ij_errmsg(void);            /* one line, of this thread's last failure; valid until its next one */
size_t ij_mem_live(void);               /* bytes of C memory now held through the library */
size_t ij_mem_peak(void);               /* highest value of ij_mem_live since the last reset */
void ij_mem_peak_reset(void);
void ij_mem_fail_at(int64_t n);         /* tests: the n-th allocation from now fails (1 is the next; 0 turns it off) */
size_t ij_rss_peak(void);               /* bytes: the process's peak resident set */
double ij_time(void);                   /* seconds on a steady clock */
int ij_cpu_count(void);                 /* CPUs this process may run on */
void ij_threads_set(int n);             /* threads of the compute kernels; n < 1: all CPUs */
int ij_threads_get(void);               /* of the calling thread, as ij_threads_set: OpenMP's count */
const char *ij_cpu_isa(void);           /* "avx512", "avx2", "base": the variant of our own loops in use */
const char *ij_cpu_matmul(void);        /* "bf16-amx", "bf16-avx512", "f32": what matrix products run in */
void ij_interrupt_install(void);        /* from now on the first SIGINT, SIGTERM or SIGHUP only sets the flag; the
                                           second SIGINT or SIGHUP kills. SIGUSR1 asks to save. Main thread */
void ij_signal_stack(void);             /* gives this thread a stack for signal handlers, if it has none. Any handler that may
                                           run while a model does must be installed with SA_ONSTACK */
int ij_interrupted(void);               /* the number of such a signal (SIGINT after ij_interrupt_set) or 0; polled */
void ij_interrupt_set(int on);
void ij_pipe_ignore(void);              /* a reader of stdout or stderr that goes away no longer ends this process */
int ij_save_asked(void);                /* 1 once after each SIGUSR1 */
int ij_isatty(int fd);                  /* 1 where it is a terminal */
int ij_terminal_width(void);            /* columns of the terminal at stderr; 80 where there is none */
/* Of the terminal at fd: columns, rows, and its width and height in pixels (0 where it does not say). 0: no terminal. */
int ij_terminal_size(int fd, int size[4]);
/* Writes a question to the terminal and collects what it answers until a byte `last` comes or `seconds` are over, with
 * echo off. answer gets at most n - 1 bytes and a 0; returns their number, 0 where there is no terminal or no answer. */
int ij_terminal_ask(const char *question, char last, double seconds, char *answer, int n);

/* Files: what Lua's io lacks. Paths are bytes. */
ij_status ij_mkdirs(const char *path);                       /* like mkdir -p; IJ_EIO */
ij_status ij_file_replace(const char *path, const void *bytes, size_t n); /* temporary, sync, rename: whole or not at all; IJ_EIO */
int ij_path_kind(const char *path);                          /* 0 nothing there, 1 file, 2 folder, 3 other */
/* Where a symbolic link leads, as it says: at most n bytes into to; returns their number, 0 where path is no link. */
int ij_path_link(const char *path, char *to, int n);
double ij_path_time(const char *path);                       /* of its last change, seconds since 1970; 0: nothing there */
double ij_clock(void);                                       /* seconds since 1970, to the microsecond */
ij_status ij_dir_list(const char *path, char **names);       /* sorted names, each ended by '\n'; ij_bytes_free it */
/* What the file system of a folder can do, by trying: a set of these. IJ_EIO where nothing can be written. */
typedef enum ij_folder { IJ_FOLDER_LOCKS = 1, IJ_FOLDER_LINKS = 2, IJ_FOLDER_SYNC = 4, IJ_FOLDER_RENAME = 8 } ij_folder;
ij_status ij_folder_can(const char *folder, int *can);       /* can: of ij_folder */
void ij_bytes_free(void *p);                                 /* what this library gave; NULL is fine */
/* A lock that no other process has, on a file that is made for it and stays; a dead process leaves none behind. Where
 * the file system has no locks, a file PATH.held names the host and the process; of a dead process of this host it is
 * taken over. IJ_EINVAL and who has it, where someone has; IJ_EIO where it can't be made. */
typedef struct ij_lock ij_lock;
ij_status ij_lock_take(const char *path, ij_lock **out);
const char *ij_lock_note(const ij_lock *lock);               /* a warning where the file system has no locks, else "" */
ij_status ij_lock_check(const ij_lock *lock);                /* IJ_EINVAL where another process has taken its path since */
void ij_lock_drop(ij_lock *lock);
/* Another name for a file, which replaces what had it; both last alone. A copy where there are no hard links. */
ij_status ij_file_link(const char *path, const char *name);
uint64_t ij_hash(uint64_t seed, const void *bytes, size_t n); /* to tell contents apart; chain by seed */

/* Counter-based random numbers (Philox 4x32-10): a function of (seed, purpose, epoch, sample, draw), so results do not
 * depend on threads or order. */
typedef struct ij_rng { uint32_t key[2], ctr[4], out[4]; int have; } ij_rng;
typedef enum ij_purpose { IJ_RNG_INIT = 1, IJ_RNG_ORDER, IJ_RNG_CROP, IJ_RNG_MASK_SIZE, IJ_RNG_MASK_POS, IJ_RNG_MASK_CUT,
  IJ_RNG_AUGMENT, IJ_RNG_PROBE, IJ_RNG_SCENE, IJ_RNG_DROP, IJ_RNG_SPARE, IJ_RNG_USER = 1000 } ij_purpose;
/* The generator is the caller's; purpose: ij_purpose or above IJ_RNG_USER. */
void ij_rng_init(ij_rng *r, uint64_t seed, uint32_t purpose, uint32_t epoch, uint32_t sample);
uint32_t ij_rng_u32(ij_rng *r);                              /* [0, 2^32) */
double ij_rng_uniform(ij_rng *r);                            /* [0, 1), 53 bits */
uint32_t ij_rng_below(ij_rng *r, uint32_t n);                /* [0, n), without bias; n >= 1 */
double ij_rng_normal(ij_rng *r);                             /* mean 0, standard deviation 1 */
void ij_rng_shuffle(ij_rng *r, uint32_t *v, size_t n);       /* v[n] in place, every order as likely; n < 2^32 */

/* PyTorch's CPU generator (MT19937), for the reference mode. */
typedef struct ij_mt { uint32_t s[624]; int next; } ij_mt;
void ij_mt_init(ij_mt *g, uint64_t seed);                    /* seed mod 2^32 counts, as in PyTorch */
uint32_t ij_mt_u32(ij_mt *g);                                /* [0, 2^32) */
float ij_mt_uniform(ij_mt *g);                               /* 24 bits of one draw */
int64_t ij_mt_randint(ij_mt *g, int64_t lo, int64_t hi);     /* [lo, hi) */

/* ---- devices and tensors (core/tensor) ------------------------------------------------------------------------- */
typedef enum ij_dtype { IJ_F32 = 0, IJ_BF16, IJ_I32, IJ_I64, IJ_U8 } ij_dtype;
typedef struct ij_device ij_device;
typedef struct ij_tensor ij_tensor;

/* name: "cpu"; "cuda" (the GPU of this process: that of its local rank) or "cuda:1", through the plug-in
 * libijepa_cuda.so; for tests "ref" (plain loops), "guard" (cpu ops on memory that is unreadable outside ops) and "dry"
 * (computes nothing and accesses no memory, but counts it as the others would). Each call opens another device, also under
 * the same name. IJ_EINVAL: an unknown name; IJ_EUNSUPPORTED: this machine lacks what the message names. */
ij_status ij_device_open(const char *name, ij_device **out);
void ij_device_close(ij_device *dev);                        /* memory stays until the last tensor is freed */
const char *ij_device_name(const ij_device *dev);            /* as it was opened; borrowed */
int ij_device_bf16(const ij_device *dev);                    /* 1 where matmuls are faster in bf16 than in f32 */
typedef struct ij_device_info {
  char name[80];                    /* of the GPU or CPU */
  char arch[16];                    /* "sm_90", "avx512" */
  uint64_t memory, memory_free;     /* bytes of the device; 0: not known */
  uint64_t memory_used, memory_top; /* bytes in tensors and scratch: now, and the peak; 0: see ij_mem_live */
  uint64_t memory_weights, memory_scratch; /* of memory_used: copies of weights in bf16; workspace and scratch of kernels */
  uint64_t memory_staging;          /* besides memory_used: buffers for copies to the device */
  uint64_t memory_held, memory_held_top; /* what the memory pool has taken from the driver: now, and the peak; 0: no pool */
  uint64_t memory_pool_top;         /* the peak of what was in use in it, by the driver's count; 0: not known */
  int bf16;                         /* 1: matmuls are faster in bf16 than in f32 */
  int ahead;                        /* 1: the device works asynchronously, and reading waits for it */
} ij_device_info;
void ij_device_look(ij_device *dev, ij_device_info *out);
/* What the device says of itself besides, in lines of fields between tabs; ij_bytes_free it. "" for a CPU. A GPU's:
 *   library NAME VERSION PATH          a library that was loaded; VERSION empty: PATH says why not
 *   allocator NAME                     where its memory comes from
 *   matmul P M N K TYPES FORM CALLS REFUSED   matmuls (P, M, K) x (P, K, N) that cuBLASLt refused, with their counts of
 *                                      calls and of refusals; FORM: t for a transposed factor, + for a sum
 *   matmuls SHAPES CALLS REFUSED       all of them together
 * Loads libraries that were not needed so far. */
ij_status ij_device_report(ij_device *dev, char **out);
ij_status ij_device_wait(ij_device *dev);                    /* until queued work is done; IJ_EIO: a device fault */
/* A profile of a device: from begin to end its ops are timed, by the op and by the phase (0 to IJ_PHASES - 1; 0 at first)
 * that the caller sets. phase: also adds the host's time since the last call to the phase that ends, which it returns;
 * with a name, that is an event too. events: at most so many are kept, in the order of their ends. settle: waits for ops of
 * a device that runs behind; call it at the end of each step. Reading gives nothing where no profile runs. */
enum { IJ_PHASES = 16 };
typedef struct ij_profile_entry {
  const char *name;                 /* of the op; static */
  int phase;
  int64_t calls;
  double seconds, flops;            /* flops: of matmuls and attention, useful ones */
} ij_profile_entry;
typedef struct ij_profile_event {
  const char *name;                 /* static, or as it was given to phase: it must last */
  int phase;                        /* -1 - phase: the phase itself, on the host */
  double start, seconds;            /* start: from begin; on a device that runs behind, to a few microseconds */
} ij_profile_event;
ij_status ij_profile_begin(ij_device *dev, int64_t events);
int ij_profile_phase(ij_device *dev, int phase, const char *name);
ij_status ij_profile_settle(ij_device *dev);
double ij_profile_seconds(ij_device *dev, int phase); /* of the host */
int64_t ij_profile_entries(ij_device *dev, ij_profile_entry *out, int64_t max); /* returns how many there are */
int64_t ij_profile_events(ij_device *dev, const ij_profile_event **out);        /* borrowed until end */
void ij_profile_end(ij_device *dev);
/* A step: tensors made inside it lose their memory at its end, even where they are still referenced. To keep one, clone it
 * before ij_step_end with kept = 1. */
void ij_step_begin(ij_device *dev);
void ij_step_end(ij_device *dev);

ij_status ij_tensor_new(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, ij_tensor **out); /* not filled */
/* Like ij_tensor_new, but outlives the step that it is made in. */
ij_status ij_tensor_new_kept(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, ij_tensor **out);
void ij_tensor_free(ij_tensor *t);                           /* drops one reference */
void ij_tensor_ref(ij_tensor *t);                            /* one more reference */
ij_dtype ij_tensor_dtype(const ij_tensor *t);                /* this and the next ones only read t */
int ij_tensor_ndim(const ij_tensor *t);
int64_t ij_tensor_size(const ij_tensor *t, int dim);         /* dim from 0 */
int64_t ij_tensor_stride(const ij_tensor *t, int dim);       /* in elements */
int64_t ij_tensor_count(const ij_tensor *t);                 /* of elements */
int ij_tensor_contiguous(const ij_tensor *t);                /* 1: row-major without gaps */
ij_device *ij_tensor_device(const ij_tensor *t);             /* borrowed */
/* Bytes in and out, for contiguous tensors; n must be the tensor's size in bytes. */
ij_status ij_tensor_write(ij_tensor *t, const void *host, size_t n);
ij_status ij_tensor_read(const ij_tensor *t, void *host, size_t n);
/* Every NaN among v (n) becomes the plain one. LuaJIT takes some other NaNs for values of other types: what Lua reads
 * passes through here first. */
void ij_plain_nans(float *v, size_t n);
/* An asynchronous read of the tensor's bytes (at most 256) as they are now. end waits for them, copies them to host where
 * that is not NULL, and frees r. */
typedef struct ij_reading ij_reading;
ij_status ij_reading_begin(const ij_tensor *t, ij_reading **out);
ij_status ij_reading_end(ij_reading *r, void *host, size_t n);
/* Views share memory with t and keep it alive. dim from 0. IJ_ESHAPE where they reach outside of t, or where t is not f32
 * and requires a gradient. */
ij_status ij_tensor_narrow(ij_tensor *t, int dim, int64_t start, int64_t len, ij_tensor **out);
ij_status ij_tensor_select(ij_tensor *t, int dim, int64_t index, ij_tensor **out);      /* drops the dimension */
ij_status ij_tensor_reshape(ij_tensor *t, int ndim, const int64_t *shape, ij_tensor **out); /* t contiguous; one -1 */
ij_status ij_tensor_transpose(ij_tensor *t, int a, int b, ij_tensor **out);
ij_status ij_tensor_copy(ij_tensor *dst, const ij_tensor *src);   /* same shape and device; converts types; any strides */
ij_status ij_tensor_clone(const ij_tensor *t, ij_dtype as, int kept, ij_tensor **out); /* contiguous copy */
/* More views. dims: which dimension of t each of the n has, every one once. expand: dimensions of size 1, and new ones in
 * front, repeat to `shape` (n); -1 keeps a size. Elements of an expanded tensor are shared: don't write to it. detach: all
 * of t, without its gradient. */
ij_status ij_permute(ij_tensor *t, int n, const int *dims, ij_tensor **out);
ij_status ij_expand(ij_tensor *t, int n, const int64_t *shape, ij_tensor **out);
ij_status ij_detach(ij_tensor *t, ij_tensor **out);

/* Autograd: ops on tensors that require a gradient are recorded on the tape of their device. Gradients add up over
 * backwards. Only leaves, tensors that no recorded op made, keep theirs. */
void ij_tensor_require_grad(ij_tensor *t, int on);
int ij_tensor_requires_grad(const ij_tensor *t);             /* 1: ops on it are recorded */
ij_tensor *ij_tensor_grad(ij_tensor *t);                     /* borrowed; NULL before a backward */
/* Whether ops on t are recorded now: it requires a gradient, and gradients are on. made: and a recorded op made it. */
int ij_tensor_recording(const ij_tensor *t, int made);
/* loss has one element; frees the records that it depends on, or, with retain, leaves them for another backward (a model's
 * forward can be run back once). It fails where a value that an op's backward needs was changed in place after the op.
 * Then the gradients of leaves hold the terms that were complete: free or zero them before the next backward. */
ij_status ij_backward(ij_tensor *loss, int retain);
/* An op of the caller's own: out (f32, contiguous, made without a record) is recorded as made from in (1 to 8) under id,
 * not 0, where one of them requires a gradient and gradients are on; else nothing happens. Only the backward below knows
 * what to do with it. */
ij_status ij_record_custom(ij_tensor **in, int n, ij_tensor *out, int64_t id);
/* ij_backward in pieces: begin checks; run works until *id is not 0: then the caller computes the gradients of that op's
 * inputs from *grad, out's gradient (borrowed until the next run), gives each of them to give (i from 0; f32, the input's
 * shape; NULL: none) and calls run again. *id 0: all is done. A failure ends it, and so does stop, which is for a caller
 * that fails between two runs. No op is recorded before the end. */
ij_status ij_backward_begin(ij_tensor *loss, int retain);
ij_status ij_backward_run(ij_device *dev, int64_t *id, ij_tensor **grad);
ij_status ij_backward_give(ij_device *dev, int i, ij_tensor *g);
void ij_backward_stop(ij_device *dev);
int ij_custom_recorded(ij_device *dev, int64_t id);          /* 1: still on the tape, a backward may ask for it */
int ij_grad_enable(ij_device *dev, int on);                  /* returns what it was */

/* ---- ops on tensors, recorded for autograd (core/tensor) -------------------------------------------------------- */
/* All of them: IJ_ESHAPE for shapes and types other than those given here (IJ_F32 where none is), IJ_EINVAL for values out
 * of range and for tensors of more than one device. out: a new tensor, of the open step if there is one. */
/* x (..., K), w (N, K), b (N) or NULL -> (..., N) */
ij_status ij_linear(ij_tensor *x, ij_tensor *w, ij_tensor *b, ij_tensor **out);
ij_status ij_gelu(ij_tensor *x, ij_tensor **out);            /* x * Phi(x), the exact form */
ij_status ij_relu(ij_tensor *x, ij_tensor **out);            /* max(x, 0) */
/* over the last dimension; w, b (D) or both NULL */
ij_status ij_layer_norm(ij_tensor *x, ij_tensor *w, ij_tensor *b, double eps, ij_tensor **out);
/* over rows of x (R, D). training: with the mean and variance of the batch, which also update mean and var (D) with weight
 * momentum; else with mean and var */
ij_status ij_batch_norm(ij_tensor *x, ij_tensor *mean, ij_tensor *var, double momentum, double eps, int training,
                        ij_tensor **out);
/* qkv (B, N, 3 * A * S) packed [3][A][S] -> (B, N, A * S) */
ij_status ij_attention(ij_tensor *qkv, int heads, ij_tensor **out);
ij_status ij_softmax(ij_tensor *x, ij_tensor **out);         /* over the last dimension */
/* a (..., M, K) times b (..., K, N) -> (..., M, N); dimensions in front repeat where they are 1 or missing. ta, tb: a or
 * b is stored transposed, (K, M) or (N, K) */
ij_status ij_matmul(ij_tensor *a, ij_tensor *b, int ta, int tb, ij_tensor **out);
/* x (B, N, D), index i32 (M, B, T), 0 <= patch < N -> (M * B, T, D) */
ij_status ij_gather(ij_tensor *x, ij_tensor *index, ij_tensor **out);
ij_status ij_mean(ij_tensor *x, int dim, ij_tensor **out);   /* drops dim; dim -1: mean of all, (1) */
/* Mean over all -> (1). y may repeat: x (outer, repeat, inner), y (outer, inner); outer 1 when they are the same size. */
ij_status ij_smooth_l1(ij_tensor *x, ij_tensor *y, double beta, int64_t outer, ij_tensor **out);
/* logits (R, n), label i32 (R) -> (1): mean over rows with label >= 0; smoothing in [0, 1) */
ij_status ij_cross_entropy(ij_tensor *logits, ij_tensor *label, double smoothing, ij_tensor **out);
/* the k largest along the last dimension, in descending order, the first of equal ones first: values (..., k) f32 and
 * their positions i32; no gradient */
ij_status ij_topk(ij_tensor *x, int64_t k, ij_tensor **values, ij_tensor **index);
/* Ops by name. Inputs may be views with gaps. An unknown name is IJ_EINVAL, and the message lists those that there are.
 * unary: exp log sqrt rsqrt abs sign floor ceil round (to even) sin cos tanh sigmoid silu erf relu gelu neg reciprocal
 * log1p expm1 square pow (x^a) clamp (to a..b, either may be infinite); abs sign neg square clamp also of i32, i64, u8 */
ij_status ij_unary(const char *f, ij_tensor *x, double a, double b, ij_tensor **out);
/* add sub mul div pow min max; eq ne lt le gt ge -> u8. x, y of one type, f32, i32, i64 or u8, and of shapes that broadcast:
 * sizes, compared from the last dimension on, are equal or 1. Integers wrap; their division rounds down, and by 0 is 0. */
ij_status ij_binary(const char *f, ij_tensor *x, ij_tensor *y, ij_tensor **out);
ij_status ij_scalar(const char *f, ij_tensor *x, double s, int reversed, ij_tensor **out); /* f(x, s); reversed: f(s, x) */
/* cond u8, x and y of one type other than bf16; all broadcast -> x where cond is not 0, else y */
ij_status ij_where(ij_tensor *cond, ij_tensor *x, ij_tensor *y, ij_tensor **out);
/* sum mean prod max min argmax argmin (i32) over dims (n; from 0), or over all with n = 0; arg*: over one or all. keepdim:
 * they stay, as 1. Without it all -> (1), named ones are dropped. mean: f32. The gradient of max and min goes to all equal
 * ones in equal parts. IJ_ESHAPE for max, min, mean and arg* of nothing. */
ij_status ij_reduce(const char *f, ij_tensor *x, int n, const int *dims, int keepdim, ij_tensor **out);
ij_status ij_cumsum(ij_tensor *x, int dim, ij_tensor **out); /* f32, i32, i64 */
/* Stable, NaN last; f32, i32, i64, u8. index: i32 positions in x, from 0 */
ij_status ij_sort(ij_tensor *x, int dim, int descending, ij_tensor **values, ij_tensor **index);
/* torch.gather: out[.., t, ..] = x[.., index[.., t, ..], ..]; index i32, of as many dimensions, no larger in the others */
ij_status ij_take(ij_tensor *x, int dim, ij_tensor *index, ij_tensor **out);
ij_status ij_index_select(ij_tensor *x, int dim, ij_tensor *index, ij_tensor **out); /* index i32 (T) */
/* A new tensor: x plus src at index along dim; src and index of one shape, which is x's but for dim; not bf16 */
ij_status ij_scatter_add(ij_tensor *x, int dim, ij_tensor *index, ij_tensor *src, ij_tensor **out);
ij_status ij_cat(ij_tensor **x, int n, int dim, ij_tensor **out); /* 1 to 8 of one type, along dim */
/* x (B, C, H, W) -> (B, oh * ow, C * kh * kw): the windows of a convolution, features in the order (c, row, column) */
ij_status ij_im2col(ij_tensor *x, int kh, int kw, int stride, int pad, ij_tensor **out);
/* Fills t (f32, contiguous): element i depends on (seed, offset + i) alone. kind: uniform, in [0, 1), or normal, which is
 * the same on all devices but for rounding */
ij_status ij_random(ij_tensor *t, const char *kind, uint64_t seed, uint64_t offset);
ij_status ij_fill(ij_tensor *t, double value);
ij_status ij_add_scaled(ij_tensor *y, ij_tensor *x, double scale); /* y += scale * x, in place, no gradient */
/* pixels u8 (B, H, W, 3) -> f32 (B, 3, H, W): (p / 255 - mean[c]) / std[c] */
ij_status ij_normalise(ij_tensor *pixels, const double *mean, const double *std, ij_tensor **out);
/* sum of squares over all of t, in double, and whether all values are finite */
ij_status ij_sum_squares(ij_tensor **t, int count, double *sum, int *finite);

/* ---- models (core/model) ---------------------------------------------------------------------------------------- */
typedef struct ij_vit_config {
  int width, depth, heads;        /* D, blocks, A; D divides by A */
  double mlp_ratio;               /* F = (int)(D * ratio) */
  int patch, channels;            /* side in pixels; 3 */
  int grid_h, grid_w;             /* patches */
  ij_dtype dtype;                 /* of activations: IJ_F32, or IJ_BF16 (the residual stream stays f32) */
  int recompute;                  /* 1: activation checkpointing: blocks keep their input alone */
  uint64_t seed;                  /* of the initial values: truncated normal, std .02, unless a gain is given: */
  double init_gain, patch_gain;   /* std = gain / sqrt(fan in) of the linear layers, of the patch embedding; 0: .02 */
  int blank;                      /* 1: trained values are not filled in: a checkpoint does it, and touches their memory first */
  int depth_scaled_init;          /* 1: each block's proj and fc2 divided by sqrt(2 * layer) */
  int qk_norm;                    /* 1: a layer norm of each head's queries and keys: attn.q_norm, attn.k_norm */
  int swiglu;                     /* 1: the MLP is fc2(silu(a) * b), a and b the halves of fc1's 2 F outputs */
  double layer_scale;             /* above 0: each branch times a trained factor (D), ls1.gamma, ls2.gamma, that starts as this */
  double rope;                    /* above 1: queries and keys turn with the row and the column of their patch: of S values i and
                                     i + S / 2 are a pair, the first S / 4 pairs turn by row * rope^(-i / (S / 4)), the others by
                                     the column; S divides by 4; 0: they do not. Not for predictors */
} ij_vit_config;
/* Sets width, depth, heads and mlp_ratio to a published size: vit_tiny, small, base, large, huge, giant. IJ_EINVAL for
 * another name; the rest of c stays as it is. */
ij_status ij_vit_size(const char *arch, ij_vit_config *c);
typedef struct ij_encoder ij_encoder;
typedef struct ij_predictor ij_predictor;
typedef struct ij_params ij_params;                          /* a model's tensors by name */
int ij_params_count(const ij_params *p);                     /* i below counts from 0; NULL, 0 for one that is not there */
const char *ij_params_name(const ij_params *p, int i);       /* as in the published checkpoints, without "module." */
ij_tensor *ij_params_tensor(ij_params *p, int i);            /* borrowed */
int ij_params_trained(const ij_params *p, int i);            /* 0: positions */
int ij_params_decayed(const ij_params *p, int i);            /* 0: biases and 1-D tensors */

/* With fresh initial values; IJ_EINVAL for sizes that fit no model. Free it before its device is closed. */
ij_status ij_encoder_new(ij_device *dev, const ij_vit_config *c, ij_encoder **out);
void ij_encoder_free(ij_encoder *e);
ij_params *ij_encoder_params(ij_encoder *e);                 /* borrowed */
const ij_vit_config *ij_encoder_config(const ij_encoder *e); /* borrowed */
/* images: f32 (B, 3, H, W) normalised, or u8 (B, H, W, 3) as the loader gives them (normalised here with ImageNet's
 * mean and std). context: i32 (C, B, K), or NULL for all patches -> (C * B, K, D) or (B, N, D), f32. H and W may be
 * any multiples of the patch: positions of another grid are computed. */
ij_status ij_encoder_forward(ij_encoder *e, ij_tensor *images, ij_tensor *context, ij_tensor **out);
/* The outputs of the last `last` blocks, before the final norm -> out[last], each (B, N, D), f32; no gradient. */
ij_status ij_encoder_blocks(ij_encoder *e, ij_tensor *images, int last, ij_tensor **out);
/* Attention probabilities of a block, 0 the first: (B, A, N, N) f32, a row a query, which sums to 1; no gradient. */
ij_status ij_encoder_attention(ij_encoder *e, ij_tensor *images, int block, ij_tensor **out);
/* Stochastic depth in forwards that are recorded for gradients (no others): block i of depth loses each of its two
 * branches, for each sequence alone, with probability rate * i / (depth - 1), and what stays is divided by the chance to
 * stay. A function of (seed, step, block, branch, sequence). rate 0 turns it off, which is how an encoder starts. */
ij_status ij_encoder_drop_path(ij_encoder *e, double rate, uint64_t seed, uint32_t step);
ij_status ij_encoder_copy(ij_encoder *dst, ij_encoder *src); /* all values, same configuration */

typedef struct ij_predictor_config { ij_vit_config vit; int encoder_width; } ij_predictor_config; /* vit.width is E */
/* IJ_EINVAL for sizes that fit no model. */
ij_status ij_predictor_new(ij_device *dev, const ij_predictor_config *c, ij_predictor **out);
void ij_predictor_free(ij_predictor *p);
ij_params *ij_predictor_params(ij_predictor *p);             /* borrowed */
/* x (C * B, K, D) from the encoder; context i32 (C, B, K), target i32 (M, B, T) -> (M * C * B, T, D), order
 * [target][context][image]. grid 0, 0: the configured one. */
ij_status ij_predictor_forward(ij_predictor *p, ij_tensor *x, ij_tensor *context, ij_tensor *target, int grid_h,
                               int grid_w, ij_tensor **out);

/* For encoders that are put together in Lua: the first part of an encoder, and its blocks, each as one recorded op.
 * images, context as of ij_encoder_forward; w (D, 3, P, P), b (D), pos (1, N, D), scale6 (6): the factor and the shift that
 * normalise bytes, for each channel. -> (C * B, K, D) f32. dt: of the matmul. Gradients of w and b. */
ij_status ij_patch_embed(ij_tensor *images, ij_tensor *context, ij_tensor *w, ij_tensor *b, ij_tensor *pos, ij_tensor *scale6,
                         ij_dtype dt, ij_tensor **out);
typedef struct ij_vit_blocks ij_vit_blocks;                          /* transformer blocks and the norm after the last one */
/* Of c: all but patch, channels and patch_gain; the grid counts with rope. */
ij_status ij_vit_blocks_new(ij_device *dev, const ij_vit_config *c, ij_vit_blocks **out);
void ij_vit_blocks_free(ij_vit_blocks *b);
ij_params *ij_vit_blocks_params(ij_vit_blocks *b);                   /* borrowed: "blocks.0.norm1.weight" ... "norm.bias" */
/* Which patches the tokens are, for blocks with rope: the last ones of each sequence are those of context i32 (C, Q / C, K),
 * NULL: all patches in order; tokens before them have no place. grid 0, 0: the configured one. For the next calls. */
ij_status ij_vit_blocks_places(ij_vit_blocks *b, ij_tensor *context, int grid_h, int grid_w);
/* x (Q, N, D) f32 -> (Q, N - first, D) f32 after the norm. Rows before `first` are only attended to in the last block.
 * Gradients of x and of the parameters. */
ij_status ij_vit_blocks_forward(ij_vit_blocks *b, ij_tensor *x, int64_t first, ij_tensor **out);
/* The outputs of the last `last` blocks, before the norm -> out[last], each (Q, N, D); no gradient. */
ij_status ij_vit_blocks_outputs(ij_vit_blocks *b, ij_tensor *x, int last, ij_tensor **out);
ij_status ij_vit_blocks_attention(ij_vit_blocks *b, ij_tensor *x, int block, ij_tensor **out); /* as ij_encoder_attention */
ij_status ij_vit_blocks_drop_path(ij_vit_blocks *b, double rate, uint64_t seed, uint32_t step); /* as ij_encoder_drop_path */

/* ---- processes (core/dist) --------------------------------------------------------------------------------------- */
/* Those that mpirun or srun has started together; one alone where neither has. A call marked with (all) must be made by all
 * processes, in the same order: it fails with IJ_EIO, and a message that names the missing process, where one is gone, has
 * failed, or does not make the call within the time-out. */
typedef struct ij_dist ij_dist;
typedef struct ij_dist_info {
  int rank, size;               /* this process's number, from 0, and the count of processes */
  int local_rank, local_size;   /* the same among those of this machine */
  int threads;                  /* the CPUs for this process's threads */
  char transport[8];            /* "none", "mpi" (libijepa_mpi.so), "tcp" */
} ij_dist_info;
/* (all) transport: NULL: by the environment (IJEPA_DIST too), or one of those above. timeout: seconds, 0: 600. */
ij_status ij_dist_open(const char *transport, double timeout, ij_dist **out);
/* Process `rank` of `size` whose others do not exist: sums and broadcasts exchange nothing and leave values as they are.
 * For counting the memory of a run of several processes. */
ij_status ij_dist_imagine(int rank, int size, ij_dist **out);
void ij_dist_close(ij_dist *d);                              /* (all) waits for the others, but where one has failed */
void ij_dist_look(const ij_dist *d, ij_dist_info *out);
ij_status ij_dist_mpi(void);                                 /* whether libijepa_mpi.so is there and works: IJ_EUNSUPPORTED */
ij_status ij_dist_sum(ij_dist *d, double *x, int n);         /* (all) x (n): sums over the processes, the same bits in each */
ij_status ij_dist_broadcast(ij_dist *d, void *bytes, size_t n); /* (all) process 0's n bytes */
ij_status ij_dist_tensor(ij_dist *d, ij_tensor *t, int root);   /* (all) t, f32 and contiguous: as it is in process root */
/* (all) seconds: 0 for the time-out, less than 0: as long as it takes. */
ij_status ij_dist_barrier(ij_dist *d, double seconds);
void ij_dist_fail(ij_dist *d, const char *why);              /* this process has failed: the others' next call fails with this reason */
int ij_dist_lost(ij_dist *d);                                /* 1: a process is gone or has failed */

/* ---- optimizer (core/optim) ------------------------------------------------------------------------------------- */
typedef struct ij_optim ij_optim;
/* G: the gradient; p, m, v: a parameter and its moments; lr, wd: the step's learning rate and weight decay.
 * ADAMW: weight decay decoupled, as PyTorch's AdamW.
 * SGD: d = G + wd p; m = momentum m + d; p -= lr m, or with nesterov lr (d + momentum m), as PyTorch's SGD.
 * LARS: the same, but of decayed tensors d is first multiplied by trust |p| / |d|.
 * LION: p -= lr (sign(beta1 m + (1 - beta1) G) + wd p); m = beta2 m + (1 - beta2) G. */
typedef enum ij_optim_kind { IJ_ADAMW = 0, IJ_SGD, IJ_LARS, IJ_LION } ij_optim_kind;
typedef struct ij_optim_config {
  double beta1, beta2, eps;  /* ADAMW: 0 means .9, .999, 1e-8; LION: .9, .99; SGD, LARS: beta1 is the momentum, 0: none, no m */
  ij_dist *dist;             /* NULL, or processes that each have the same tensors: gradients are summed over them */
  int shard;                 /* 1: each process has the moments of some of the tensors only, and updates these */
  size_t bucket;             /* bytes of gradients per sum over the processes; 0: 25 MiB */
  ij_optim_kind kind;
  int nesterov;              /* SGD, LARS: 1 or 0; needs a momentum */
  double trust;              /* LARS: 0 means .001 */
} ij_optim_config;
ij_status ij_optim_new(const ij_optim_config *c, ij_optim **out); /* c NULL: AdamW with the defaults */
ij_status ij_adamw_new(const ij_optim_config *c, ij_optim **out); /* the same; IJ_EINVAL for another kind */
void ij_optim_free(ij_optim *o);                             /* drops its references to the tensors */
/* Adds a tensor to update. decayed: 1 where weight decay applies. average: NULL, or the EMA of p: a = m * a + (1 - m) * p
 * with the step's momentum m, in the same pass over memory as the update. IJ_EINVAL after the first update. */
ij_status ij_optim_add(ij_optim *o, ij_tensor *p, int decayed, ij_tensor *average);
/* The same with the step's learning rate times lr_scale. Its weight decay is multiplied by wd_scale, also where decayed is
 * 0: that is then for LARS alone, which does not adapt such tensors. */
ij_status ij_optim_add_scaled(ij_optim *o, ij_tensor *p, int decayed, ij_tensor *average, double lr_scale,
                              double wd_scale);
/* p is not updated, has no gradient and no moments, but its EMA follows it in each update as with ij_optim_add. It is not
 * among ij_optim_count. */
ij_status ij_optim_follow(ij_optim *o, ij_tensor *p, ij_tensor *average);
/* Only elements [first, first + count) of p (row-major), with the step's learning rate and weight decay times these scales:
 * for sweeps side by side and layer-wise learning rates. */
ij_status ij_optim_add_part(ij_optim *o, ij_tensor *p, int64_t first, int64_t count, double lr_scale, double wd_scale);
/* One update of all tensors with their gradients times grad_scale; it sets the gradients to 0. lr: learning rate; wd:
 * weight decay; momentum: of the EMA. Where it fails, some tensors may have been updated. */
ij_status ij_optim_step(ij_optim *o, double lr, double wd, double momentum, double grad_scale);
/* Before the only backward of an update: from now to ij_optim_step, which must get the same arguments, each tensor is
 * updated as soon as the models have its complete gradient, whose memory is then freed. The result has the same bits.
 * For tensors that only models use; not with clipping or anything else that needs all gradients first. */
ij_status ij_optim_eager(ij_optim *o, double lr, double wd, double momentum, double grad_scale);
/* SGD, LARS: the momentum of the next updates, in [0, 1); before ij_optim_eager. IJ_EINVAL where it began without one. */
ij_status ij_optim_momentum(ij_optim *o, double momentum);
/* gate: f32 (1) of the caller, or NULL. An update reads it on the device: where it is not finite in any process, the update
 * changes nothing but the gradients. For devices that work asynchronously. */
ij_status ij_optim_gate(ij_optim *o, ij_tensor *gate);
/* (all) The norm of all gradients as ij_optim_step will use them, before grad_scale: sums them over the processes. */
ij_status ij_optim_norm(ij_optim *o, double *norm, int *finite);
void ij_optim_watch(ij_optim *o, int i, int on);             /* 1: updates keep the norm of gradient i */
double ij_optim_grad_norm(const ij_optim *o, int i);         /* of the last watched update, before grad_scale */
int ij_optim_count(const ij_optim *o);                       /* of ij_optim_add and ij_optim_add_part */
int ij_optim_owner(const ij_optim *o, int i);                /* the process that has the moments of tensor i; -1: each */
/* Borrowed. which: 0 first moment, 1 second. Of the shape of tensor i (or length of part i); NULL: another process has it,
 * or none: see ij_optim_moments. */
ij_tensor *ij_optim_state(ij_optim *o, int i, int which);
int ij_optim_moments(const ij_optim *o);                     /* of each tensor: 0, 1 (the first) or 2 */
int64_t ij_optim_steps(const ij_optim *o);                   /* updates so far: AdamW's bias correction counts them */
void ij_optim_set_steps(ij_optim *o, int64_t n);             /* of a resumed run */

/* ---- masks (core/mask) ------------------------------------------------------------------------------------------ */
enum { IJ_SHARED_DRAW = 1, IJ_EXCLUSIVE_POSITION = 2, IJ_BLOCK_BELOW_GRID = 4, IJ_RASTER_CUT = 8,
  IJ_SIZES_BY_COUNTER = 16, IJ_NO_HANG_GUARD = 32, IJ_REFERENCE_QUIRKS = 63 };
/* MULTIBLOCK: targets are blocks, a context is a block without the patches of the image's targets.
 * RANDOM: the same, but each block is a random subset with the scale's number of patches (aspects are not used).
 * BLOCK: one target block (targets must be 1); a context is all of the grid around it (context_scale is not used).
 * A block's area and aspect are drawn once per group, its position per image. One that is higher or wider than the
 * grid keeps its area: the other side grows (with IJ_BLOCK_BELOW_GRID it loses it). */
typedef enum ij_mask_kind { IJ_MASK_MULTIBLOCK = 0, IJ_MASK_RANDOM, IJ_MASK_BLOCK } ij_mask_kind;
typedef struct ij_mask_config {
  ij_mask_kind kind;
  int grid_h, grid_w;
  int contexts, targets;                     /* C (1), M (4) */
  double context_scale[2];                   /* fraction of the grid; .85, 1 */
  double target_scale[2], target_aspect[2];  /* .15, .2; h/w .75, 1.5 */
  int min_keep, allow_overlap;               /* a mask holds more than min_keep patches */
  unsigned quirks;                           /* bits above */
  int group;                                 /* number of images whose masks are cut to one length; 0: 128 */
  uint64_t seed;
} ij_mask_config;
typedef struct ij_masks {                    /* memory of the policy, valid until its next call */
  int count, contexts, targets, k, t;
  const int32_t *context;                    /* (C, B, K), each row ascending */
  const int32_t *target;                     /* (M, B, T) */
  int fallbacks;                             /* images whose context keeps patches of a target: min_keep */
  int target_h, target_w, context_h, context_w; /* block sizes of the (first) group; 0: no block (IJ_MASK_RANDOM) */
} ij_masks;
typedef struct ij_mask_policy ij_mask_policy;
ij_status ij_mask_new(const ij_mask_config *c, ij_mask_policy **out); /* refuses what could never be valid, with the arithmetic */
void ij_mask_free(ij_mask_policy *p);
/* Masks of images [first, first + count) of the run's endless sequence: a function of (config, first, count) alone.
 * Images are drawn by groups, [0, group), [group, 2 group), ..., and a group is cut to its shortest context, however few
 * of its images are asked for; a request that spans groups is cut to the shortest of them. */
ij_status ij_mask_sample(ij_mask_policy *p, uint64_t first, int count, ij_masks *out);

/* ---- images (core/data) --------------------------------------------------------------------------------------- */
/* A catalogue knows which images there are and where they lie; a loader reads batches of them in the order of training or
 * evaluation. Who has opened one closes it, in any order: a catalogue lives until its loaders and manifests are closed
 * too. Any thread may use a catalogue, but copy, note and close belong to one; a loader belongs to one thread. */
typedef struct ij_catalogue ij_catalogue;
/* Which images are turned by their EXIF orientation: those that Pillow's Image.open(f).convert("RGB") turns, which are
 * TIFFs; all; none. HEIF and AVIF are always as their decoder gives them, turned. */
typedef enum ij_orient { IJ_ORIENT_TORCHVISION, IJ_ORIENT_EXIF, IJ_ORIENT_STORED } ij_orient;
typedef struct ij_catalogue_config {
  const char *root;               /* a folder, a .tar, or a text file that lists tar shards, one per line */
  const char *subset;             /* file of image names, one per line, or NULL; with one source only */
  int source_count;               /* 0: root alone; otherwise `roots` are mixed, and root is not used */
  const char *const *roots;       /* (source_count), each like root */
  const char *cache;              /* folder for the indexes of large tars, or NULL: none are kept */
  int64_t max_pixels;             /* of one source image; 0: 2^28 */
  int64_t max_bytes;              /* of its file; 0: 2^28 */
  int untrusted_loaders;          /* 1: this catalogue also reads formats that libvips calls unsafe (SVG, PDF, ...) */
  int orient;                     /* an ij_orient */
  int skip_damaged;               /* 1: a JPEG that libjpeg decodes with a warning counts as corrupt */
  double range[2];                /* values that become 0 and 255 in images that aren't of 8 bits; equal: those of their
                                     type, and 0 and 1 for floats */
} ij_catalogue_config;
/* Lists the images. IJ_EIO: root can't be read; IJ_EFORMAT: no images in it; IJ_EINVAL. c and its strings are copied. */
ij_status ij_catalogue_open(const ij_catalogue_config *c, ij_catalogue **out);
void ij_catalogue_close(ij_catalogue *c);
int64_t ij_catalogue_count(const ij_catalogue *c);              /* images of all sources; sample: 0 to count - 1 */
int ij_catalogue_class_count(const ij_catalogue *c);            /* 0 for a plain folder */
const char *ij_catalogue_class(const ij_catalogue *c, int i);   /* name of class folder i; NULL: no such class */
int ij_catalogue_source_count(const ij_catalogue *c);
int ij_catalogue_source(const ij_catalogue *c, int64_t sample);       /* number of its source; -1: no such image */
const char *ij_catalogue_name(const ij_catalogue *c, int64_t sample); /* in its source; NULL: no such image */
int ij_catalogue_label(const ij_catalogue *c, int64_t sample);        /* number of its class folder; -1 without one */
/* Changes as soon as an image is added, removed or written again: a hash of names, sizes and modification times of the
 * files, or of the tars and what lies where in them. The location of the data set does not count. */
uint64_t ij_catalogue_stamp(const ij_catalogue *c);
const char *ij_catalogue_note(ij_catalogue *c);                 /* next message on what was left out and why, or NULL */

/* How an image becomes pixels (H, W, 3). */
typedef struct ij_view {
  int height, width;              /* of the output */
  int train;                      /* 1: random crop and what follows; 0: the short side to `resize`, centre crop */
  int resize;                     /* 0: height * 8 / 7, rounded (256 for 224) */
  double scale[2], ratio[2];      /* of the random crop: fraction of the area, aspect; 0s: .3, 1 and 3/4, 4/3 */
  double flip, jitter, jitter_p, grey_p, blur_p; /* probabilities, except jitter: the strength s, 0 off */
  uint64_t seed;                  /* of everything random; also of a loader's order */
} ij_view;
/* n views of an image that are drawn alike, each with random numbers of its own. */
typedef struct ij_view_group { ij_view view; int n; } ij_view_group;
/* Image `sample` as a loader with this view gives it in an epoch -> pixels (H, W, 3) of the caller. */
ij_status ij_catalogue_image(const ij_catalogue *c, const ij_view *view, int64_t sample, int64_t epoch, uint8_t *pixels);

/* Long work by threads of its own: each wait returns after `seconds`, or earlier when it is over. */
typedef struct ij_progress { int64_t files, files_done, bytes, bytes_done; int over; } ij_progress;
/* Copies the files of all sources to their real paths under folder, except those that are there with the same size and
 * modification time; then reads them from there, loaders too. Call it until p->over. bytes: of the missing files. */
ij_status ij_catalogue_copy(ij_catalogue *c, const char *folder, double seconds, ij_progress *p);
/* SHA-256 of the files of a source (images of a folder, or tars), and what differs from the manifest in the file
 * `expected` (NULL: none), in the form that sha256sum writes and reads. */
typedef struct ij_manifest ij_manifest;
ij_status ij_manifest_open(ij_catalogue *c, int source, const char *expected, ij_manifest **out);
void ij_manifest_close(ij_manifest *m);
ij_status ij_manifest_wait(ij_manifest *m, double seconds, ij_progress *p);
const char *ij_manifest_line(ij_manifest *m, int64_t i);     /* "DIGEST  NAME", or NULL; valid until the next call */
int64_t ij_manifest_problems(const ij_manifest *m);          /* files that differ, are unknown or missing; once over */
const char *ij_manifest_problem(const ij_manifest *m, int64_t i); /* of the first 1000: "NAME: ...", or NULL */

typedef struct ij_loader ij_loader;
typedef struct ij_loader_config {
  ij_view view;
  /* Several views of each image, which is decoded once: at most 16 groups of at most 64 views, 256 in all. train and seed
   * are those of `view`, whose other values are not used then. View 0 of group 0 is drawn as a single view is.
   * 0 and NULL: one view, `view`. */
  int view_groups;
  const ij_view_group *views;     /* (view_groups) */
  const double *weights;          /* (source_count): fractions of an epoch, at any scale; NULL: each image once */
  int shuffle;                    /* by (view.seed, epoch) */
  int batch, drop_last, workers, prefetch;       /* prefetch: batches ready ahead, 0: 4 */
  /* This process's n-th batch is the (n * world + rank)-th of an epoch's order; in training all processes make the same
   * number of steps, a multiple of `multiple` (0: 1). */
  int rank, world, multiple;
  double max_bad;                 /* fraction of corrupt images above which next fails; negative: .01. A single one ends a
                                     run only if this is 0. Others of its source, drawn by (seed, epoch, sample), replace
                                     corrupt images */
} ij_loader_config;
typedef struct ij_batch_views {   /* of one group, order [view][image] */
  const uint8_t *pixels;          /* (n * B, H, W, 3) RGB */
  int n, height, width;
} ij_batch_views;
typedef struct ij_batch {         /* memory of the loader, valid until its next call */
  int count;
  int64_t epoch, step;            /* from 0; step within the epoch */
  const uint8_t *pixels;          /* (B, H, W, 3) RGB: view 0 of group 0 */
  const int32_t *labels;          /* (B): number of the class folder, -1 without one */
  const uint32_t *samples;        /* (B): number of the image in the catalogue */
  int view_groups;                /* 1 where no views were asked for */
  const ij_batch_views *views;    /* (view_groups) */
} ij_batch;
/* Starts the workers. IJ_EINVAL: a setting is out of range, or the images don't fill a batch. config is copied. */
ij_status ij_loader_open(ij_catalogue *c, const ij_loader_config *config, ij_loader **out);
void ij_loader_close(ij_loader *l);                  /* waits for the workers */
int64_t ij_loader_steps(const ij_loader *l);         /* batches of an epoch for this process */
/* Next batch. After an epoch the next one follows when shuffle is on; otherwise IJ_EEND once, then it starts again. */
ij_status ij_loader_next(ij_loader *l, ij_batch *out);
/* The next batch will be `step` of `epoch`, both from 0: the same as if all before it had been read. IJ_EINVAL. */
ij_status ij_loader_seek(ij_loader *l, int64_t epoch, int64_t step);
int64_t ij_loader_corrupt_count(const ij_loader *l); /* different corrupt images so far */
const char *ij_loader_corrupt(ij_loader *l);         /* "name: reason" of one not yet reported, or NULL */
/* "name: what to do" of the first image of more than 8 bits with next to no contrast: less than 32 of 255 between the
 * darkest and the brightest value in what was decoded; NULL: there is none, or it was reported. */
const char *ij_loader_flat(ij_loader *l);

/* One image as RGB bytes (H, W, 3); ij_bytes_free it. IJ_EIO: no such file; IJ_EFORMAT: not an image, or a corrupt one. */
ij_status ij_image_load(const char *path, uint8_t **pixels, int *height, int *width);
ij_status ij_image_save(const char *path, const uint8_t *pixels, int height, int width); /* by the name's ending */
/* The box (top, left, h, w) of pixels resized to (out_h, out_w), bilinear with antialias, exactly as PIL does it. */
ij_status ij_image_crop(const uint8_t *pixels, int height, int width, int top, int left, int h, int w, int out_h,
                        int out_w, uint8_t *out);
/* As the loader prepares an image when it does not train: the short side resized, (out_h, out_w) cut from the middle. */
ij_status ij_image_centre(const uint8_t *pixels, int height, int width, int short_side, int out_h, int out_w,
                            uint8_t *out);

/* ---- files of tensors (core/save) ------------------------------------------------------------------------------- */
/* A file of tensors, memory-mapped: safetensors, or a PyTorch checkpoint (.pth.tar, .pt, .bin: zip and pickle), told
 * apart by content. Of the latter, names are the keys of nested dicts joined by dots ("encoder.module.norm.weight",
 * "opt.state.3.exp_avg"), and its numbers and texts are metadata ("epoch"). Nothing in a file is run. */
typedef struct ij_tensor_file ij_tensor_file;
/* IJ_EIO, or IJ_EFORMAT where the file is incomplete or malformed in any part. */
ij_status ij_tensor_file_open(const char *path, ij_tensor_file **out);
void ij_tensor_file_close(ij_tensor_file *f);
int ij_tensor_file_count(const ij_tensor_file *f);
const char *ij_tensor_file_name(const ij_tensor_file *f, int i);     /* i from 0, in the order of the file; NULL: not there */
int ij_tensor_file_find(const ij_tensor_file *f, const char *name);  /* -1: not there */
ij_dtype ij_tensor_file_dtype(const ij_tensor_file *f, int i);       /* (ij_dtype)-1: one that ij_dtype has not, as F16 */
const char *ij_tensor_file_type(const ij_tensor_file *f, int i);     /* safetensors' name: "F32", "F16" */
int ij_tensor_file_ndim(const ij_tensor_file *f, int i);             /* -1: not there, as below */
int64_t ij_tensor_file_size(const ij_tensor_file *f, int i, int dim);
/* Row-major, valid until close; perhaps not aligned. NULL and a message for a type that ij_dtype has not. */
const void *ij_tensor_file_data(ij_tensor_file *f, int i, size_t *bytes);
/* All elements as f32, row-major -> out, of n elements: F64, F32, F16, BF16, all integers, BOOL. */
ij_status ij_tensor_file_read(ij_tensor_file *f, int i, float *out, size_t n);
/* The same into t, f32, contiguous and of the same count of elements. What was read leaves the process's memory. */
ij_status ij_tensor_file_load(ij_tensor_file *f, int i, ij_tensor *t);
const char *ij_tensor_file_meta(const ij_tensor_file *f, const char *key);      /* NULL: not there */
int ij_tensor_file_meta_count(const ij_tensor_file *f);
const char *ij_tensor_file_meta_key(const ij_tensor_file *f, int i); /* sorted; NULL: not there */
/* An encoder from a checkpoint, ready for ij_encoder_forward and not trained: of a run, a published .pth.tar, or a file in
 * Hugging Face's or timm's layout, told apart by names. which: the part ("target_encoder", "encoder"); NULL: the target
 * encoder, or the only one. Heads: of the settings in the file, of a config.json beside it, or as published for this
 * width. IJ_EIO, IJ_EFORMAT: the file can't be read, holds no such encoder, or does not have exactly this model's tensors. */
ij_status ij_encoder_load(ij_device *dev, const char *path, const char *which, ij_encoder **out);
typedef struct ij_tensor_writer ij_tensor_writer;
ij_status ij_tensor_writer_new(const char *path, ij_tensor_writer **out);  /* nothing is written before commit */
/* Both texts are copied; a key given again gets the new value. */
ij_status ij_tensor_writer_meta(ij_tensor_writer *w, const char *key, const char *value);
/* data is borrowed until commit or discard */
ij_status ij_tensor_writer_add(ij_tensor_writer *w, const char *name, ij_dtype t, int ndim, const int64_t *shape,
                         const void *data);
/* Keeps a reference and reads t (contiguous) at commit, tensor after tensor: no second copy of a model in memory. */
ij_status ij_tensor_writer_add_tensor(ij_tensor_writer *w, const char *name, ij_tensor *t);
ij_status ij_tensor_writer_commit(ij_tensor_writer *w);  /* temporary file, fsync, rename, fsync of the folder; frees w */
void ij_tensor_writer_discard(ij_tensor_writer *w);      /* frees w, leaves no file */
/* Copies the tensors and writes them in a thread; data that is borrowed must live until the end. Where there is no memory
 * for the copies, writes immediately: then *job is NULL. Frees w. */
typedef struct ij_tensor_writer_job ij_tensor_writer_job;
ij_status ij_tensor_writer_commit_later(ij_tensor_writer *w, ij_tensor_writer_job **job);
int ij_tensor_writer_job_done(const ij_tensor_writer_job *job);          /* 1: ij_tensor_writer_job_end will not wait */
ij_status ij_tensor_writer_job_end(ij_tensor_writer_job *job);           /* waits; what the commit gave; frees job (NULL is fine) */
/* The same as a PyTorch checkpoint: a zip of the tensors, data/0, data/1, ... in the order of adding, and of the caller's
 * pickle, which names these storages. Metadata is not written. */
ij_status ij_tensor_writer_commit_pth(ij_tensor_writer *w, const void *pickle, size_t n);

/* Settings in YAML (n bytes) as JSON text: a tree of {"line": n} with "text" and "plain" (not quoted), "list": [...], or
 * "map": [{"key", "key_line", ...the value...}]; ij_bytes_free it. name: of the file, for messages "name:line: what".
 * IJ_EFORMAT for what is no YAML and for what settings don't need: tags, keys twice, several documents, more than
 * 256 KiB, 4096 values (an alias counts as often as it is used) or 32 levels. Nothing in it is executed. */
ij_status ij_yaml_read(const char *text, size_t n, const char *name, char **json);

/* cdef end */
#ifdef __cplusplus
}
#endif
#endif
