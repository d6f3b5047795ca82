/* A libcuda.so.1 without a GPU: it records what libtda asks of the driver. See fake_cuda.c. */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stdatomic.h>

enum { FAKE_CONTEXTS = 3, FAKE_MODULES = 64 };

typedef struct FakeCuda {
	/* set by the test */
	int capability;                /* 80 */
	int multiprocessors;           /* 3 */
	int load_result;               /* of cuModuleLoadDataEx; 0 */
	int capturing;                 /* the stream is being captured */
	int map_result;                /* of cuTensorMapEncodeTiled; 0 */
	int map_argument;              /* of launches: see fake_cuda_launched; -1: none */
	unsigned long long context_id[FAKE_CONTEXTS];  /* a context that is made anew at the same address has a new id */
	/* recorded */
	atomic_int loads, unloads, launches, forbidden;        /* forbidden: calls that a launch must never make */
	int shared_bytes;              /* the last cuFuncSetAttribute */
	unsigned grid, block;          /* of the last launch */
	atomic_int early;              /* launches that may start before the one before them has ended */
	void *stream;                  /* of the last launch, or of the last cuStreamWaitEvent */
	atomic_int blocks, waits;      /* of memory that are allocated; calls of cuStreamWaitEvent */
	atomic_int maps, moved;        /* tensor maps that were made, and given another address */
	unsigned long long map_extent[4], map_stride[3];       /* of the last one */
	unsigned map_box[4];
	int map_swizzle;
} FakeCuda;

/* The library's one state. */
FakeCuda *fake_cuda(void);
/* The address and the entries of each dimension in the tensor map of this thread's last launch that had a map as argument
 * number map_argument. */
const unsigned long long *fake_cuda_launched(void);
/* Makes context n (or none: -1) current in this thread. */
void fake_cuda_set_current(int n);

#endif
