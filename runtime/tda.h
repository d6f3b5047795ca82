/*
 * libtda: runs the attention kernels that tdagen compiles to PTX.
 *
 *     tda_kernel *kernel;
 *     if (tda_open_file("tda.ptx", &kernel) != TDA_OK)
 *             fputs(tda_error_message(), stderr);
 *     ... tda_get_sizes, then tda_forward / tda_backward on a CUDA stream ...
 *     tda_close(kernel);
 *
 * The library needs the CUDA driver (libcuda.so.1, opened when first used) and nothing else. It launches on the
 * caller's stream into the caller's memory: it never synchronises, never allocates device memory and keeps no state
 * between a forward and its backward, so every call may be captured into a CUDA graph (see tda_preload).
 *
 * Every function may be called from any thread. One tda_kernel serves any number of threads, streams, CUDA contexts and
 * GPUs at once; only tda_close must not run beside another call on the same kernel.
 *
 * Every struct that crosses this interface begins with its size and version; fill them with the *_INIT macros.
 */
#ifndef TDA_H
#define TDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TDA_API __attribute__((visibility("default")))
#else
#define TDA_API
#endif

#define TDA_ABI_VERSION 1

enum { TDA_MAX_VIEWS = 4, TDA_MAX_PARAMS = 16 };

typedef enum tda_status {
	TDA_OK = 0,
	TDA_BAD_ARGUMENT,              /* an argument breaks a rule; the message names both. Nothing was launched */
	TDA_BAD_FILE,                  /* not a file of tdagen, damaged, edited, or of another major version */
	TDA_NO_DRIVER,                 /* libcuda.so.1 is missing or too old */
	TDA_NO_DEVICE,                 /* no GPU, or no CUDA context is current in this thread */
	TDA_WRONG_DEVICE,              /* the GPU is older than, or (sm_90a) other than, the file's target */
	TDA_OUT_OF_MEMORY,             /* of the host */
	TDA_CUDA_ERROR,                /* the driver refused; the message holds its words */
	TDA_UNSUPPORTED,               /* part of the interface, not yet of the library */
	TDA_INTERNAL                   /* a defect of tdagen or libtda: please report it */
} tda_status;

/* What went wrong in this thread's last call that did not return TDA_OK: one line or more, without a final newline.
 * Never NULL. Valid until this thread's next call. */
TDA_API const char *tda_error_message(void);
TDA_API const char *tda_status_name(tda_status status);

/* ---- kernels ---- */

typedef struct tda_kernel tda_kernel;

/* Reads a PTX file of tdagen. Needs no GPU and no driver: those are asked for by the first launch. On success
 * *kernel is freed by tda_close; otherwise it is NULL. */
TDA_API tda_status tda_open_file(const char *path, tda_kernel **kernel);
/* The same from memory; the text is copied, and needs no final NUL. */
TDA_API tda_status tda_open_memory(const void *ptx, size_t length, tda_kernel **kernel);
/* Unloads the kernel from every context that still exists. Work in flight must have finished. NULL is allowed. */
TDA_API void tda_close(tda_kernel *kernel);

typedef enum tda_dtype { TDA_F32, TDA_F16, TDA_BF16 } tda_dtype;

/* The shape of a learned parameter's float32 tensor; L is tda_shape.layers. */
typedef enum tda_param_shape {
	TDA_SCALAR,                    /* [1] */
	TDA_PER_HEAD,                  /* [heads] */
	TDA_PER_LAYER,                 /* [L] */
	TDA_PER_LAYER_HEAD,            /* [L, heads] */
	TDA_PER_CHANNEL                /* [value_dim] */
} tda_param_shape;

typedef struct tda_param_info {
	const char *name;
	tda_param_shape shape;
	double init;                   /* the value of every entry when no tensor is given */
	double min, max;               /* the kernels clamp to this range; -inf and inf when the spec names none */
} tda_param_info;

typedef struct tda_info {
	uint32_t size, version;        /* in: TDA_INFO_INIT */
	const char *name;              /* of the spec. All strings live as long as the kernel */
	const char *spec_hash;         /* SHA-256 of the spec's canonical text, hex */
	const char *compiler;          /* version of tdagen */
	const char *target;            /* "sm_80": this and later; "sm_90a": only that */
	const char *plan;              /* "dense"; "sparse"; "auto": both, the shape decides; "count": for tda_count alone */
	tda_dtype dtype;               /* of q, k, v, o and their gradients */
	int tf32;                      /* 1: f32 inputs are rounded to tf32 inside products */
	int head_dim;                  /* elements of a row of q and k */
	int value_dim;                 /* elements of a row of v and o */
	int views;                     /* pairs (q, k), 1..TDA_MAX_VIEWS */
	int l2_normalized;             /* 1: scores are of unit rows */
	int causal;                    /* 1: row i sees keys j <= i + k_len - q_len only */
	int64_t window;                /* keys |i - j| < window only; 0: all */
	int rms_norm;                  /* 1: o is normalised over value_dim */
	int zeros_proved;              /* 1: weights at or below the threshold are proved to be exactly 0 */
	double forward_tolerance;      /* bounds on the relative 2-norm of the error that `tdarun --check` holds it to */
	double backward_tolerance;
	int param_count;               /* 0..TDA_MAX_PARAMS */
	tda_param_info params[TDA_MAX_PARAMS];
} tda_info;
#define TDA_INFO_INIT { .size = sizeof(tda_info), .version = TDA_ABI_VERSION }

TDA_API tda_status tda_get_info(const tda_kernel *kernel, tda_info *info);

/* ---- shapes ---- */

/* Row r of q sees the keys as position i = r + k_len - q_len. Rows with i < 0 see no key under a causal mask: their
 * output and gradients are exactly 0. */
typedef struct tda_shape {
	uint32_t size, version;        /* TDA_SHAPE_INIT */
	int64_t batch;                 /* 0 is allowed: nothing to do */
	int64_t heads;                 /* of q and o, 1 or more */
	int64_t kv_heads;              /* of k and v; divides heads. Query head h reads head h / (heads / kv_heads) */
	int64_t q_len, k_len;          /* 0..2^30; 0 is allowed */
	int32_t layer;                 /* which entry of per-layer parameters this launch uses, from 0 */
	int32_t layers;                /* L, the length of per-layer parameters; 0 means layer + 1 */
	/* Lengths per batch entry, int32 [batch], and packed sequences, int32 [batch + 1], in device memory.
	 * Not supported yet: anything but NULL is refused with TDA_UNSUPPORTED. */
	const void *q_lens, *k_lens;
	const void *q_offsets, *k_offsets;
} tda_shape;
#define TDA_SHAPE_INIT { .size = sizeof(tda_shape), .version = TDA_ABI_VERSION }

/* Bytes of the three workspaces. Contents are undefined on entry; each begins at a multiple of 256 bytes. */
typedef struct tda_sizes {
	uint32_t size, version;        /* in: TDA_SIZES_INIT */
	size_t saved;                  /* written by the forward, read by the backward. Holds no address: it may be moved */
	size_t forward_scratch;        /* free for other use when the forward has run */
	size_t backward_scratch;
} tda_sizes;
#define TDA_SIZES_INIT { .size = sizeof(tda_sizes), .version = TDA_ABI_VERSION }

TDA_API tda_status tda_get_sizes(const tda_kernel *kernel, const tda_shape *shape, tda_sizes *sizes);

/*
 * A tensor [batch, heads, length, dim] of the kernel's dtype in device memory: element (b, h, r, d) is at
 * data[b * batch_stride + h * head_stride + r * row_stride + d]. Strides count elements, not bytes; the last
 * dimension is contiguous. Strides are not negative and, like data, multiples of 16 bytes; those of inputs may be 0
 * (broadcast). Those of outputs must keep the rows apart. data may be NULL where the tensor has no element.
 */
typedef struct tda_tensor {
	void *data;
	int64_t batch_stride, head_stride, row_stride;
} tda_tensor;

/* ---- launches ---- */

typedef struct tda_forward_args {
	uint32_t size, version;        /* TDA_FORWARD_ARGS_INIT */
	tda_shape shape;
	tda_tensor q[TDA_MAX_VIEWS];   /* in:  [batch, heads, q_len, head_dim]; the first `views` are used */
	tda_tensor k[TDA_MAX_VIEWS];   /* in:  [batch, kv_heads, k_len, head_dim] */
	tda_tensor v;                  /* in:  [batch, kv_heads, k_len, value_dim] */
	tda_tensor o;                  /* out: [batch, heads, q_len, value_dim] */
	/* in: float32 device tensors in the order of tda_info.params, contiguous; NULL: the initial value everywhere */
	const void *params[TDA_MAX_PARAMS];
	void *saved;                   /* out, device memory; sizes as tda_get_sizes says or more. NULL only with size 0 */
	size_t saved_bytes;
	void *scratch;
	size_t scratch_bytes;
} tda_forward_args;
#define TDA_FORWARD_ARGS_INIT \
	{ .size = sizeof(tda_forward_args), .version = TDA_ABI_VERSION, .shape = TDA_SHAPE_INIT }

typedef struct tda_backward_args {
	uint32_t size, version;        /* TDA_BACKWARD_ARGS_INIT */
	tda_shape shape;               /* q, k, v, params, saved: as the forward had them */
	tda_tensor q[TDA_MAX_VIEWS];
	tda_tensor k[TDA_MAX_VIEWS];
	tda_tensor v;
	tda_tensor grad_o;             /* in:  [batch, heads, q_len, value_dim] */
	tda_tensor dq[TDA_MAX_VIEWS];  /* out: as q */
	tda_tensor dk[TDA_MAX_VIEWS];  /* out: as k */
	tda_tensor dv;                 /* out: as v */
	const void *params[TDA_MAX_PARAMS];
	/* out: float32, the shapes of the parameters; NULL: not wanted. Entries of other layers are set to 0. */
	void *dparams[TDA_MAX_PARAMS];
	const void *saved;             /* in: what the forward of the same arguments wrote */
	size_t saved_bytes;
	void *scratch;
	size_t scratch_bytes;
} tda_backward_args;
#define TDA_BACKWARD_ARGS_INIT \
	{ .size = sizeof(tda_backward_args), .version = TDA_ABI_VERSION, .shape = TDA_SHAPE_INIT }

/*
 * Enqueue a forward or a backward on `stream`, a CUstream (or cudaStream_t) of the context that is current in this
 * thread; NULL is the default stream. All arguments are checked before anything is launched. The same arguments give
 * the same bits. The first call in a context loads the kernels there, which takes milliseconds to seconds.
 */
TDA_API tda_status tda_forward(tda_kernel *kernel, const tda_forward_args *args, void *stream);
TDA_API tda_status tda_backward(tda_kernel *kernel, const tda_backward_args *args, void *stream);

/* Loads the kernels into the current context now. Call it before a stream capture: loading inside one is refused. */
TDA_API tda_status tda_preload(tda_kernel *kernel);

/* ---- counting ---- */

/*
 * Which pairs of a row and a key count, of a file that tdagen --plan count has made: pairs with a weight that is not 0. There are no v
 * and o, and every parameter (but a per_channel one, which is not read) has an entry for each head, whatever its shape is in the spec,
 * so that heads can be told apart: tda_info has it as TDA_PER_HEAD.
 *
 * Arrays are parts of one piece of device memory, each contiguous, beginning so many bytes behind its start. R is q_len rounded up to
 * block_rows; rows from q_len on have counts of 0. All of it is written. It takes about
 *
 *     batch * heads * (k_len / 64 * q_len / block_rows * (8 * views + 4) + q_len * (19 * views + 12))  bytes
 */
typedef struct tda_count_sizes {
	uint32_t size, version;        /* in: TDA_COUNT_SIZES_INIT */
	size_t bytes;                  /* of all of it */
	int32_t block_rows;            /* rows of a block: 64; 32 or 16 where rows of all views are wide */
	int32_t moment_count, tail_count;      /* 0: the file has none of the last four arrays */
	/* float32 [batch, heads, q_len rounded up to 64]: thresholds. Views may share theirs, and have the same offset then */
	size_t tau[TDA_MAX_VIEWS];
	/* int32 [views, batch, heads, R]: pairs of the row that count; -1: its threshold is NaN, which means nothing where it sees no key;
	 * -2: a score that it sees is NaN or infinite */
	size_t survivors;
	size_t consensus;              /* int32 [batch, heads, R]: pairs of the row that count under two views or more */
	/* uint64 [views, batch, heads, ceil(q_len / block_rows), ceil(k_len / 64)]: bit b for key 64 t + b of tile t: does it count for a row? */
	size_t masks;
	size_t tiles;                  /* int32 [batch, heads, ceil(q_len / block_rows), ceil(k_len / 64)]: pairs that count, over all views */
	/* float32 [batch, heads, R]: with a = the sum over views of coefficient times weight, the sum of |a| over keys; |a| of key 0 */
	size_t row_weight, row_sink;
	/* float32 [batch, heads, R / 16, moment_count]: sums over the visible pairs of 16 rows: by view, of the powers 1 to 4 of scores; then
	 * by view v from 1 and view w < v, of the products of their scores */
	size_t moments;
	/* int32 [batch, heads, R / 16, tail_count]: by view, pairs of 16 rows with a score above sqrt(2 n ln 10 / head_dim), n = 1 to 6 */
	size_t tails;
} tda_count_sizes;
#define TDA_COUNT_SIZES_INIT { .size = sizeof(tda_count_sizes), .version = TDA_ABI_VERSION }

TDA_API tda_status tda_get_count_sizes(const tda_kernel *kernel, const tda_shape *shape, tda_count_sizes *sizes);

typedef struct tda_count_args {
	uint32_t size, version;        /* TDA_COUNT_ARGS_INIT */
	tda_shape shape;
	tda_tensor q[TDA_MAX_VIEWS];   /* in:  [batch, heads, q_len, head_dim]; the first `views` are used */
	tda_tensor k[TDA_MAX_VIEWS];   /* in:  [batch, kv_heads, k_len, head_dim] */
	const void *params[TDA_MAX_PARAMS];    /* in: float32 [heads]; NULL: the initial value everywhere */
	void *counts;                  /* out: at a multiple of 256 bytes */
	size_t counts_bytes;           /* tda_count_sizes.bytes or more */
} tda_count_args;
#define TDA_COUNT_ARGS_INIT { .size = sizeof(tda_count_args), .version = TDA_ABI_VERSION, .shape = TDA_SHAPE_INIT }

/* As tda_forward: checks everything, enqueues, does not wait. */
TDA_API tda_status tda_count(tda_kernel *kernel, const tda_count_args *args, void *stream);

/* ---- without a GPU ---- */

/*
 * The same by the float64 reference, on all of this CPU's cores: for tests and small examples, thousands of times slower.
 * Pointers are of host memory, with the rules of tda_tensor; results are rounded to the kernel's dtype once. saved and
 * scratch are neither read nor written and may be NULL: the backward computes anew what it needs. Returns when done.
 */
TDA_API tda_status tda_reference_forward(const tda_kernel *kernel, const tda_forward_args *args);
TDA_API tda_status tda_reference_backward(const tda_kernel *kernel, const tda_backward_args *args);

#ifdef __cplusplus
}
#endif

#endif
