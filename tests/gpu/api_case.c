#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include "api_case.h"
#include "error.h"

const Cuda *cuda;
Driver driver;

static const struct {
	const char *symbol;
	size_t offset;
} symbols[] = {
#define SYM(name, symbol, parameters) { symbol, offsetof(Driver, name) },
	DRIVER_SYMS(SYM)
#undef SYM
};

tda_status driver_check(CUresult result, const char *what)
{
	return cuda_check(cuda, result, what);
}

tda_status driver_open(char *name, int name_size)
{
	tda_status status = cuda_open(&cuda);
	void *library = status ? NULL : dlopen("libcuda.so.1", RTLD_NOW);
	CUcontext context;
	CUdevice device;

	if (status)
		return status;
	for (size_t s = 0; s < sizeof(symbols) / sizeof(symbols[0]); s++) {
		void *address = library ? dlsym(library, symbols[s].symbol) : NULL;

		if (!address)
			return tda_fail(TDA_CUDA_ERROR, "the CUDA driver has no %s", symbols[s].symbol);
		memcpy((char *)&driver + symbols[s].offset, &address, sizeof(address));
	}
	if ((status = driver_check(cuda->cuDeviceGet(&device, 0), "cuDeviceGet")) ||
	    (status = driver_check(cuda->cuDeviceGetName(name, name_size, device), "cuDeviceGetName")) ||
	    (status = driver_check(cuda->cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain")))
		return status;
	return driver_check(cuda->cuCtxPushCurrent(context), "cuCtxPushCurrent");
}

/* ---- memory ---- */

bool tensor_is_output(int tensor)
{
	return tensor == TENSOR_O || tensor >= TENSOR_DQ;
}

int case_element(const Case *c)
{
	return c->info.dtype == TDA_F32 ? 4 : 2;
}

static void plan_tensor(Case *c, int tensor, int64_t heads, int64_t length, int dim)
{
	c->tensor[tensor] = (tda_tensor){
		.batch_stride = heads * length * dim, .head_stride = length * dim, .row_stride = dim,
	};
	c->slice[tensor] = (size_t)(heads * length * dim * case_element(c));
}

static size_t param_length(const Case *c, int param)
{
	size_t heads = (size_t)c->shape.heads, layers = (size_t)c->shape.layers;

	switch (c->info.params[param].shape) {
	case TDA_PER_HEAD: return heads;
	case TDA_PER_LAYER: return layers;
	case TDA_PER_LAYER_HEAD: return layers * heads;
	case TDA_PER_CHANNEL: return (size_t)c->info.value_dim;
	case TDA_SCALAR: break;
	}
	return 1;
}

tda_status case_plan(Case *c, tda_kernel *kernel, int64_t batch, int64_t heads, int64_t kv_heads, int64_t length)
{
	tda_sizes sizes = TDA_SIZES_INIT;
	tda_status status;

	*c = (Case){ .kernel = kernel, .info = TDA_INFO_INIT, .shape = TDA_SHAPE_INIT };
	c->shape.batch = batch;
	c->shape.heads = heads;
	c->shape.kv_heads = kv_heads;
	c->shape.q_len = c->shape.k_len = length;
	c->shape.layers = 1;
	if ((status = tda_get_info(kernel, &c->info)) || (status = tda_get_sizes(kernel, &c->shape, &sizes)))
		return status;
	for (int view = 0; view < c->info.views; view++) {
		plan_tensor(c, TENSOR_Q + view, heads, length, c->info.head_dim);
		plan_tensor(c, TENSOR_DQ + view, heads, length, c->info.head_dim);
		plan_tensor(c, TENSOR_K + view, kv_heads, length, c->info.head_dim);
		plan_tensor(c, TENSOR_DK + view, kv_heads, length, c->info.head_dim);
	}
	plan_tensor(c, TENSOR_V, kv_heads, length, c->info.value_dim);
	plan_tensor(c, TENSOR_DV, kv_heads, length, c->info.value_dim);
	plan_tensor(c, TENSOR_O, heads, length, c->info.value_dim);
	plan_tensor(c, TENSOR_DO, heads, length, c->info.value_dim);
	for (int p = 0; p < c->info.param_count; p++)
		c->dparam_bytes[p] = param_length(c, p) * sizeof(float);
	c->work_bytes[WORK_SAVED] = sizes.saved;
	c->work_bytes[WORK_FORWARD] = sizes.forward_scratch;
	c->work_bytes[WORK_BACKWARD] = sizes.backward_scratch;
	return TDA_OK;
}

size_t case_tensor_bytes(const Case *c)
{
	size_t bytes = 0;

	for (int t = 0; t < TENSOR_COUNT; t++)
		bytes += c->slice[t] * (size_t)c->shape.batch;
	return bytes;
}

size_t case_bytes(const Case *c)
{
	size_t bytes = case_tensor_bytes(c);

	for (int p = 0; p < TDA_MAX_PARAMS; p++)
		bytes += c->dparam_bytes[p];
	for (int w = 0; w < WORK_COUNT; w++)
		bytes += c->work_bytes[w];
	return bytes;
}

static tda_status allocate(Case *c, size_t bytes, void **memory)
{
	CUdeviceptr address;
	tda_status status;

	*memory = NULL;
	if (bytes == 0)
		return TDA_OK;
	if ((status = driver_check(cuda->cuMemAlloc(&address, bytes), "cuMemAlloc")))
		return tda_fail_within(status, "%zu bytes: ", bytes);
	c->block[c->blocks++] = address;
	*memory = (void *)(uintptr_t)address;
	return TDA_OK;
}

static CUdeviceptr address_of(const void *memory)
{
	return (CUdeviceptr)(uintptr_t)memory;
}

/* Values of 0.5 to 2 with random signs: the bits of 0.5, and the bits above it that may be set. */
static tda_status fill(const Case *c, int tensor, uint32_t seed)
{
	static const struct { uint32_t half, random; } bits[] = {
		[TDA_F32] = { 0x3f000000, 0x00ffffff }, [TDA_F16] = { 0x3800, 0x07ff }, [TDA_BF16] = { 0x3f00, 0x00ff },
	};
	size_t element = (size_t)case_element(c), bytes = c->slice[tensor] * (size_t)c->shape.batch;
	unsigned char *host = malloc(bytes);
	uint32_t state = 2463534242u ^ (seed << 8) ^ (uint32_t)tensor;
	tda_status status;

	if (!host)
		return tda_fail_memory();
	for (size_t at = 0; at < bytes; at += element) {
		state ^= state << 13;
		state ^= state >> 17;
		state ^= state << 5;
		uint32_t sign = (state >> 31) << (8 * element - 1);
		uint32_t value = sign | (bits[c->info.dtype].half + (state >> 4 & bits[c->info.dtype].random));
		memcpy(host + at, &value, element);    /* little-endian */
	}
	status = driver_check(cuda->cuMemcpyHtoD(address_of(c->tensor[tensor].data), host, bytes), "cuMemcpyHtoD");
	free(host);
	return status;
}

static tda_status place_rest(Case *c)
{
	tda_status status = TDA_OK;

	for (int p = 0; p < c->info.param_count && !status; p++)
		status = allocate(c, c->dparam_bytes[p], &c->dparam[p]);
	for (int w = 0; w < WORK_COUNT && !status; w++)
		status = allocate(c, c->work_bytes[w], &c->work[w]);
	/* Copies are done on the default stream, for which a non-blocking one does not wait. */
	return status ? status : driver_check(cuda->cuCtxSynchronize(), "cuCtxSynchronize");
}

tda_status case_place(Case *c, uint32_t seed)
{
	tda_status status = TDA_OK;

	for (int t = 0; t < TENSOR_COUNT && !status; t++) {
		status = allocate(c, c->slice[t] * (size_t)c->shape.batch, &c->tensor[t].data);
		if (!status && c->slice[t] && !tensor_is_output(t))
			status = fill(c, t, seed);
	}
	return status ? status : place_rest(c);
}

static CUdeviceptr slice_address(const Case *c, int tensor, int64_t batch)
{
	return address_of(c->tensor[tensor].data) + (CUdeviceptr)(batch * c->tensor[tensor].batch_stride * case_element(c));
}

tda_status case_place_wide(Case *c, const Case *from, int64_t stride)
{
	size_t bytes = (size_t)(stride * (c->shape.batch - 1) * case_element(c));
	unsigned char *at;
	tda_status status;

	for (int t = 0; t < TENSOR_COUNT; t++)
		bytes += c->slice[t];
	if ((status = allocate(c, bytes, (void **)&at)))
		return status;
	for (int t = 0; t < TENSOR_COUNT && !status; t++) {
		c->tensor[t].data = c->slice[t] ? at : NULL;
		c->tensor[t].batch_stride = stride;
		at += c->slice[t];
		for (int64_t b = 0; b < c->shape.batch && c->slice[t] && !tensor_is_output(t) && !status; b++)
			status = driver_check(driver.cuMemcpyDtoD(slice_address(c, t, b), slice_address(from, t, b), c->slice[t]),
			                      "cuMemcpyDtoD");
	}
	return status ? status : place_rest(c);
}

void case_free(Case *c)
{
	while (c->blocks)
		cuda->cuMemFree(c->block[--c->blocks]);
}

/* ---- calls ---- */

tda_forward_args case_forward_args(const Case *c)
{
	tda_forward_args args = TDA_FORWARD_ARGS_INIT;

	args.shape = c->shape;
	memcpy(args.q, c->tensor + TENSOR_Q, sizeof(args.q));
	memcpy(args.k, c->tensor + TENSOR_K, sizeof(args.k));
	args.v = c->tensor[TENSOR_V];
	args.o = c->tensor[TENSOR_O];
	args.saved = c->work[WORK_SAVED];
	args.saved_bytes = c->work_bytes[WORK_SAVED];
	args.scratch = c->work[WORK_FORWARD];
	args.scratch_bytes = c->work_bytes[WORK_FORWARD];
	return args;
}

tda_backward_args case_backward_args(const Case *c)
{
	tda_backward_args args = TDA_BACKWARD_ARGS_INIT;

	args.shape = c->shape;
	memcpy(args.q, c->tensor + TENSOR_Q, sizeof(args.q));
	memcpy(args.k, c->tensor + TENSOR_K, sizeof(args.k));
	args.v = c->tensor[TENSOR_V];
	args.grad_o = c->tensor[TENSOR_DO];
	memcpy(args.dq, c->tensor + TENSOR_DQ, sizeof(args.dq));
	memcpy(args.dk, c->tensor + TENSOR_DK, sizeof(args.dk));
	args.dv = c->tensor[TENSOR_DV];
	memcpy(args.dparams, c->dparam, sizeof(args.dparams));
	args.saved = c->work[WORK_SAVED];
	args.saved_bytes = c->work_bytes[WORK_SAVED];
	args.scratch = c->work[WORK_BACKWARD];
	args.scratch_bytes = c->work_bytes[WORK_BACKWARD];
	return args;
}

tda_status case_launch(const Case *c, CUstream stream)
{
	tda_forward_args forward = case_forward_args(c);
	tda_backward_args backward = case_backward_args(c);
	tda_status status = tda_forward(c->kernel, &forward, stream);

	return status ? status : tda_backward(c->kernel, &backward, stream);
}

/* ---- what was written ---- */

enum { MAX_PIECES = TENSOR_COUNT + TDA_MAX_PARAMS + WORK_COUNT };

/* `count` runs of `bytes`, `stride` bytes apart. */
typedef struct Piece {
	char name[40];
	CUdeviceptr at;
	size_t bytes, stride, count;
} Piece;

static int add_piece(Piece *piece, const char *prefix, const char *name, const void *memory, size_t bytes)
{
	*piece = (Piece){ .at = address_of(memory), .bytes = bytes, .count = 1 };
	strncat(strcpy(piece->name, prefix), name, sizeof(piece->name) - 2);
	return bytes > 0;
}

/* Output tensors, gradients of parameters and, if asked, the workspaces. */
static int list_pieces(const Case *c, Piece pieces[MAX_PIECES], bool workspaces)
{
	static const char *const work_names[] = { "saved", "forward scratch", "backward scratch" };
	int count = 0;

	for (int t = 0; t < TENSOR_COUNT; t++) {
		size_t stride = (size_t)(c->tensor[t].batch_stride * case_element(c)), batch = (size_t)c->shape.batch;
		bool packed = stride == c->slice[t];

		if (!tensor_is_output(t) || !c->slice[t])
			continue;
		count += add_piece(&pieces[count], "", tensor_name(t), c->tensor[t].data, c->slice[t] * (packed ? batch : 1));
		if (!packed) {
			pieces[count - 1].count = batch;
			pieces[count - 1].stride = stride;
		}
	}
	for (int p = 0; p < c->info.param_count; p++)
		count += add_piece(&pieces[count], "d", c->info.params[p].name, c->dparam[p], c->dparam[p] ? c->dparam_bytes[p] : 0);
	for (int w = 0; w < WORK_COUNT && workspaces; w++)
		count += add_piece(&pieces[count], "", work_names[w], c->work[w], c->work_bytes[w]);
	return count;
}

tda_status case_poison(const Case *c, CUstream stream)
{
	Piece pieces[MAX_PIECES];
	int count = list_pieces(c, pieces, true);
	tda_status status = TDA_OK;

	for (const Piece *p = pieces; p < pieces + count; p++)
		for (size_t run = 0; run < p->count && !status; run++)
			status = driver_check(driver.cuMemsetD8Async(p->at + run * p->stride, POISON, p->bytes, stream),
			                      "cuMemsetD8Async");
	return status;
}

static tda_status fetch_piece(const Piece *p, unsigned char *to)
{
	tda_status status = TDA_OK;

	for (size_t run = 0; run < p->count && !status; run++)
		status = driver_check(cuda->cuMemcpyDtoH(to + run * p->bytes, p->at + run * p->stride, p->bytes), "cuMemcpyDtoH");
	return status;
}

tda_status case_fetch(const Case *c, CUstream stream, unsigned char *to)
{
	Piece pieces[MAX_PIECES];
	int count = list_pieces(c, pieces, false);
	tda_status status = driver_check(driver.cuStreamSynchronize(stream), "cuStreamSynchronize");

	for (const Piece *p = pieces; p < pieces + count && !status; p++) {
		status = fetch_piece(p, to);
		to += p->bytes * p->count;
	}
	return status;
}

size_t case_tensor_output_bytes(const Case *c)
{
	size_t bytes = 0;

	for (int t = 0; t < TENSOR_COUNT; t++)
		bytes += tensor_is_output(t) ? c->slice[t] * (size_t)c->shape.batch : 0;
	return bytes;
}

size_t case_output_bytes(const Case *c)
{
	Piece pieces[MAX_PIECES];
	int count = list_pieces(c, pieces, false);
	size_t bytes = 0;

	for (int p = 0; p < count; p++)
		bytes += pieces[p].bytes * pieces[p].count;
	return bytes;
}

tda_status case_same(const Case *c, CUstream stream, const unsigned char *want, size_t bytes, const char *what)
{
	Piece pieces[MAX_PIECES];
	int count = list_pieces(c, pieces, false);
	unsigned char *got = malloc(case_output_bytes(c));
	tda_status status = got ? case_fetch(c, stream, got) : tda_fail_memory();

	for (size_t p = 0, at = 0; p < (size_t)count && at < bytes && !status; at += pieces[p].bytes * pieces[p].count, p++)
		for (size_t n = 0; n < pieces[p].bytes * pieces[p].count && !status; n++)
			if (got[at + n] != want[at + n])
				status = tda_fail(TDA_INTERNAL, "%s: byte %zu of %s is 0x%02x instead of 0x%02x", what, n, pieces[p].name,
				                  got[at + n], want[at + n]);
	free(got);
	return status;
}

/* An output is written where no 16 bytes of it, nor all of a shorter one, are the poison. */
static tda_status check_written(const Piece *p, const unsigned char *bits)
{
	size_t total = p->bytes * p->count, part = total < 16 ? total : 16;
	size_t zeros = 0;

	for (size_t at = 0; at + part <= total; at += part) {
		size_t poisoned = 0;

		for (size_t n = 0; n < part; n++) {
			poisoned += bits[at + n] == POISON;
			zeros += bits[at + n] == 0;
		}
		if (poisoned == part)
			return tda_fail(TDA_INTERNAL, "%s is not written at byte %zu", p->name, at);
	}
	return zeros < total ? TDA_OK : tda_fail(TDA_INTERNAL, "%s is zero everywhere: the case shows nothing", p->name);
}

tda_status case_run(const Case *c, CUstream stream, unsigned char **bits)
{
	Piece pieces[MAX_PIECES];
	int count = list_pieces(c, pieces, false);
	tda_status status;

	*bits = malloc(case_output_bytes(c));
	if (!*bits)
		return tda_fail_memory();
	if ((status = case_poison(c, stream)) || (status = case_launch(c, stream)) ||
	    (status = case_fetch(c, stream, *bits)))
		return status;
	for (size_t p = 0, at = 0; p < (size_t)count && !status; at += pieces[p].bytes * pieces[p].count, p++)
		status = check_written(&pieces[p], *bits + at);
	return status;
}

static tda_status piece_untouched(const Piece *p, const char *what)
{
	unsigned char *host = malloc(p->bytes * p->count);
	tda_status status = host ? fetch_piece(p, host) : tda_fail_memory();

	for (size_t n = 0; n < p->bytes * p->count && !status; n++)
		if (host[n] != POISON)
			status = tda_fail(TDA_INTERNAL, "%s: byte %zu of %s was written", what, n, p->name);
	free(host);
	return status;
}

tda_status case_untouched(const Case *c, CUstream stream, const char *what)
{
	Piece pieces[MAX_PIECES];
	int count = list_pieces(c, pieces, true);
	tda_status status = driver_check(driver.cuStreamSynchronize(stream), "cuStreamSynchronize");

	for (int p = 0; p < count && !status; p++)
		status = piece_untouched(&pieces[p], what);
	return status;
}
