/* A forward and a backward with their memory on the GPU, and the driver's functions that libtda has no use for. */
#ifndef GPU_API_CASE_H
#define GPU_API_CASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cuda.h"
#include "formula.h"
#include "tda.h"

typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
	STREAM_NON_BLOCKING = 1,               /* of CUstream_flags: does not wait for the default stream */
	CAPTURE_GLOBAL = 0,                    /* of CUstreamCaptureMode: the strictest */
	CUDA_NOT_READY = 600                   /* of CUresult: the stream still has work */
};

#define DRIVER_SYMS(SYM) \
	SYM(cuStreamCreate, "cuStreamCreate", (CUstream *stream, unsigned flags)) \
	SYM(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream stream)) \
	SYM(cuStreamSynchronize, "cuStreamSynchronize", (CUstream stream)) \
	SYM(cuStreamQuery, "cuStreamQuery", (CUstream stream)) \
	SYM(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream stream, int mode)) \
	SYM(cuStreamEndCapture, "cuStreamEndCapture", (CUstream stream, CUgraph *graph)) \
	SYM(cuGraphGetNodes, "cuGraphGetNodes", (CUgraph graph, void *nodes, size_t *count)) \
	SYM(cuGraphInstantiate, "cuGraphInstantiateWithFlags", (CUgraphExec *exec, CUgraph graph, \
	                                                        unsigned long long flags)) \
	SYM(cuGraphLaunch, "cuGraphLaunch", (CUgraphExec exec, CUstream stream)) \
	SYM(cuGraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec exec)) \
	SYM(cuGraphDestroy, "cuGraphDestroy", (CUgraph graph)) \
	SYM(cuCtxCreate, "cuCtxCreate_v2", (CUcontext *context, unsigned flags, CUdevice device)) \
	SYM(cuCtxDestroy, "cuCtxDestroy_v2", (CUcontext context)) \
	SYM(cuMemGetInfo, "cuMemGetInfo_v2", (size_t *free, size_t *total)) \
	SYM(cuMemcpyDtoD, "cuMemcpyDtoD_v2", (CUdeviceptr to, CUdeviceptr from, size_t bytes)) \
	SYM(cuMemsetD8Async, "cuMemsetD8Async", (CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream))

typedef struct Driver {
#define SYM(name, symbol, parameters) CUresult (*name) parameters;
	DRIVER_SYMS(SYM)
#undef SYM
} Driver;

extern const Cuda *cuda;                       /* both after driver_open */
extern Driver driver;

/* TDA_NO_DRIVER or TDA_NO_DEVICE where there is no GPU; otherwise the primary context of GPU 0 is current. */
tda_status driver_open(char *name, int name_size);
/* TDA_OK, or what cuda_check says. */
tda_status driver_check(CUresult result, const char *what);

enum { WORK_SAVED, WORK_FORWARD, WORK_BACKWARD, WORK_COUNT };
enum { POISON = 0xa5, MAX_BLOCKS = TENSOR_COUNT + TDA_MAX_PARAMS + WORK_COUNT };

typedef struct Case {
	tda_kernel *kernel;
	tda_info info;
	tda_shape shape;
	tda_tensor tensor[TENSOR_COUNT];       /* data is NULL for views that the spec does not have */
	size_t slice[TENSOR_COUNT];            /* bytes of a batch entry, which are contiguous */
	void *dparam[TDA_MAX_PARAMS];
	size_t dparam_bytes[TDA_MAX_PARAMS];
	void *work[WORK_COUNT];
	size_t work_bytes[WORK_COUNT];
	CUdeviceptr block[MAX_BLOCKS];         /* all memory that the case owns, in the context it was made in */
	int blocks;
} Case;

/* Sizes of everything, no memory yet. */
tda_status case_plan(Case *c, tda_kernel *kernel, int64_t batch, int64_t heads, int64_t kv_heads, int64_t length);
size_t case_bytes(const Case *c);              /* of GPU memory that case_place takes */
size_t case_tensor_bytes(const Case *c);       /* the tensors' part of it */
/* Allocates and fills the inputs at random: the same seed gives the same values. */
tda_status case_place(Case *c, uint32_t seed);
/* The same problem with the tensors interleaved in one block, batch entries `stride` elements apart; inputs are copied
 * from `from`, which must stay. stride is at least case_tensor_bytes of one batch entry. */
tda_status case_place_wide(Case *c, const Case *from, int64_t stride);
void case_free(Case *c);
int case_element(const Case *c);               /* bytes */
bool tensor_is_output(int tensor);

tda_forward_args case_forward_args(const Case *c);
tda_backward_args case_backward_args(const Case *c);
/* Enqueue both on the stream. */
tda_status case_launch(const Case *c, CUstream stream);
/* Every output and workspace becomes POISON, on the stream. */
tda_status case_poison(const Case *c, CUstream stream);

/* Waits for the stream, then copies the outputs, one after the other: case_output_bytes of them. */
tda_status case_fetch(const Case *c, CUstream stream, unsigned char *to);
size_t case_output_bytes(const Case *c);
size_t case_tensor_output_bytes(const Case *c);        /* without the gradients of parameters, which come last */
/* Fetches and compares with `want`; compares the first `bytes` of the outputs. */
tda_status case_same(const Case *c, CUstream stream, const unsigned char *want, size_t bytes, const char *what);
/* Poisons, launches, fetches into a new array; refuses outputs that were not written or are all zero. */
tda_status case_run(const Case *c, CUstream stream, unsigned char **bits);
/* Refuses where a byte of an output or a workspace is not POISON. */
tda_status case_untouched(const Case *c, CUstream stream, const char *what);

#endif
