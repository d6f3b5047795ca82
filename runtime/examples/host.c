/*
 * A complete host program: opens a PTX file of tdagen, runs its forward and its backward on a GPU, prints a summary.
 *
 *     cc host.c -Iruntime -ltda -lm -ldl -lpthread -o host && ./host tda.ptx
 *
 * It needs tda.h and the CUDA driver, which it opens at run time; a program that links the CUDA toolkit would call
 * cudaMalloc and the like instead, and pass its cudaStream_t to tda_forward.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tda.h"

/* ---- the little of the CUDA driver that a host needs ---- */

static int (*cuInit)(unsigned flags);
static int (*cuDevicePrimaryCtxRetain)(void **context, int device);
static int (*cuCtxSetCurrent)(void *context);
static int (*cuMemAlloc)(void **memory, size_t bytes);
static int (*cuMemcpyHtoD)(void *to, const void *from, size_t bytes);
static int (*cuMemcpyDtoH)(void *to, const void *from, size_t bytes);      /* waits for the default stream */

static int open_gpu(void)
{
	static const struct { void *pointer; const char *symbol; } symbols[] = {
		{ &cuInit, "cuInit" }, { &cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain" },
		{ &cuCtxSetCurrent, "cuCtxSetCurrent" }, { &cuMemAlloc, "cuMemAlloc_v2" },
		{ &cuMemcpyHtoD, "cuMemcpyHtoD_v2" }, { &cuMemcpyDtoH, "cuMemcpyDtoH_v2" },
	};
	void *library = dlopen("libcuda.so.1", RTLD_NOW), *context;

	for (size_t s = 0; s < sizeof(symbols) / sizeof(symbols[0]); s++) {
		void *address = library ? dlsym(library, symbols[s].symbol) : NULL;
		if (!address)
			return 0;
		memcpy(symbols[s].pointer, &address, sizeof(address));
	}
	return cuInit(0) == 0 && cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0;
}

static void *device_memory(size_t bytes)
{
	void *memory = NULL;

	if (bytes && cuMemAlloc(&memory, bytes) != 0) {
		fprintf(stderr, "out of GPU memory\n");
		exit(1);
	}
	return memory;
}

/* ---- tensors ---- */

static size_t element_bytes(tda_dtype dtype)
{
	return dtype == TDA_F32 ? 4 : 2;
}

/* [batch, heads, length, dim], packed. */
static tda_tensor new_tensor(tda_dtype dtype, int64_t batch, int64_t heads, int64_t length, int64_t dim)
{
	return (tda_tensor){
		.data = device_memory((size_t)(batch * heads * length * dim) * element_bytes(dtype)),
		.batch_stride = heads * length * dim, .head_stride = length * dim, .row_stride = dim,
	};
}

/* Every element is 1 or -1, at random. */
static void fill_with_signs(tda_tensor tensor, tda_dtype dtype, int64_t count)
{
	static const uint32_t one[] = { [TDA_F32] = 0x3f800000, [TDA_F16] = 0x3c00, [TDA_BF16] = 0x3f80 };
	size_t size = element_bytes(dtype);
	unsigned char *host = malloc((size_t)count * size);

	for (int64_t n = 0; n < count; n++) {
		uint32_t bits = one[dtype] | (uint32_t)(rand() / 7 % 2) << (8 * size - 1);
		memcpy(host + (size_t)n * size, &bits, size);  /* little-endian */
	}
	cuMemcpyHtoD(tensor.data, host, (size_t)count * size);
	free(host);
}

static void print_share_of_zeros(const char *name, tda_tensor tensor, tda_dtype dtype, int64_t count)
{
	size_t size = element_bytes(dtype), zeros = 0;
	unsigned char *host = malloc((size_t)count * size);

	cuMemcpyDtoH(host, tensor.data, (size_t)count * size);
	for (int64_t n = 0; n < count; n++) {
		uint32_t bits = 0;
		memcpy(&bits, host + (size_t)n * size, size);
		zeros += (bits & ~((uint32_t)1 << (8 * size - 1))) == 0;
	}
	printf("%-4s %5.1f %% zeros\n", name, 100.0 * (double)zeros / (double)count);
	free(host);
}

static void must(tda_status status)
{
	if (status == TDA_OK)
		return;
	fprintf(stderr, "%s: %s\n", tda_status_name(status), tda_error_message());
	exit(1);
}

int main(int argc, char **argv)
{
	enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, LENGTH = 512 };
	tda_forward_args forward = TDA_FORWARD_ARGS_INIT;
	tda_backward_args backward = TDA_BACKWARD_ARGS_INIT;
	tda_info info = TDA_INFO_INIT;
	tda_sizes sizes = TDA_SIZES_INIT;
	tda_kernel *kernel;

	if (argc != 2) {
		fprintf(stderr, "usage: host kernel.ptx\n");
		return 2;
	}
	must(tda_open_file(argv[1], &kernel));
	must(tda_get_info(kernel, &info));
	printf("%s: %d view(s), head_dim %d, %d learned parameter(s), %s\n", info.name, info.views, info.head_dim,
	       info.param_count, info.target);

	forward.shape.batch = BATCH;
	forward.shape.heads = HEADS;
	forward.shape.kv_heads = KV_HEADS;
	forward.shape.q_len = forward.shape.k_len = LENGTH;
	must(tda_get_sizes(kernel, &forward.shape, &sizes));
	printf("workspaces: %zu bytes saved, %zu and %zu scratch\n", sizes.saved, sizes.forward_scratch,
	       sizes.backward_scratch);
	if (!open_gpu()) {
		printf("no GPU here: nothing was run\n");
		tda_close(kernel);
		return 0;
	}

	for (int v = 0; v < info.views; v++) {
		forward.q[v] = new_tensor(info.dtype, BATCH, HEADS, LENGTH, info.head_dim);
		forward.k[v] = new_tensor(info.dtype, BATCH, KV_HEADS, LENGTH, info.head_dim);
		fill_with_signs(forward.q[v], info.dtype, (int64_t)BATCH * HEADS * LENGTH * info.head_dim);
		fill_with_signs(forward.k[v], info.dtype, (int64_t)BATCH * KV_HEADS * LENGTH * info.head_dim);
		backward.q[v] = forward.q[v];
		backward.k[v] = forward.k[v];
		backward.dq[v] = new_tensor(info.dtype, BATCH, HEADS, LENGTH, info.head_dim);
		backward.dk[v] = new_tensor(info.dtype, BATCH, KV_HEADS, LENGTH, info.head_dim);
	}
	forward.v = new_tensor(info.dtype, BATCH, KV_HEADS, LENGTH, info.value_dim);
	fill_with_signs(forward.v, info.dtype, (int64_t)BATCH * KV_HEADS * LENGTH * info.value_dim);
	forward.o = new_tensor(info.dtype, BATCH, HEADS, LENGTH, info.value_dim);
	forward.saved = device_memory(sizes.saved);
	forward.saved_bytes = sizes.saved;
	forward.scratch = device_memory(sizes.forward_scratch);
	forward.scratch_bytes = sizes.forward_scratch;
	must(tda_forward(kernel, &forward, NULL));     /* parameters left NULL have their initial values */

	backward.shape = forward.shape;
	backward.v = forward.v;
	backward.grad_o = new_tensor(info.dtype, BATCH, HEADS, LENGTH, info.value_dim);
	fill_with_signs(backward.grad_o, info.dtype, (int64_t)BATCH * HEADS * LENGTH * info.value_dim);
	backward.dv = new_tensor(info.dtype, BATCH, KV_HEADS, LENGTH, info.value_dim);
	backward.saved = forward.saved;
	backward.saved_bytes = forward.saved_bytes;
	backward.scratch = device_memory(sizes.backward_scratch);
	backward.scratch_bytes = sizes.backward_scratch;
	must(tda_backward(kernel, &backward, NULL));

	print_share_of_zeros("o", forward.o, info.dtype, (int64_t)BATCH * HEADS * LENGTH * info.value_dim);
	print_share_of_zeros("dq1", backward.dq[0], info.dtype, (int64_t)BATCH * HEADS * LENGTH * info.head_dim);
	print_share_of_zeros("dv", backward.dv, info.dtype, (int64_t)BATCH * KV_HEADS * LENGTH * info.value_dim);
	tda_close(kernel);
	return 0;
}
