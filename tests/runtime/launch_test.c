/*
 * Arguments to launches: what is launched for the manifest of the spec tda, recorded by a device that only writes it
 * down; and the refusal of every bad argument, word by word, with nothing launched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/module.h"
#include "fixture.h"

typedef struct Record {
	int count;
	struct { int kernel; uint32_t grid; uint64_t args[16]; TensorMap map; } launch[16];
} Record;

static tda_status record(void *user, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	Record *r = user;

	r->launch[r->count].kernel = kernel;
	r->launch[r->count].grid = grid;
	for (int a = 0; a < m->kernels[kernel].arg_count; a++) {
		int32_t narrow;

		memcpy(&narrow, args[a], sizeof(narrow));
		if (m->kernels[kernel].args[a].type == ARG_I32)
			r->launch[r->count].args[a] = (uint64_t)(int64_t)narrow;
		else if (m->kernels[kernel].args[a].type == ARG_MAP)
			memcpy(&r->launch[r->count].map, args[a], sizeof(TensorMap));
		else
			memcpy(&r->launch[r->count].args[a], args[a], sizeof(uint64_t));
	}
	r->count++;
	return TDA_OK;
}

static tda_kernel *kernel;

static void *at(uint64_t address)
{
	return (void *)(uintptr_t)address;
}

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, Q_LEN = 100, K_LEN = 130, DIM = 64 };

static tda_tensor packed(uint64_t address, int64_t heads, int64_t length)
{
	return (tda_tensor){ at(address), heads * length * DIM, length * DIM, DIM };
}

/* Valid arguments; every tensor has 16 MiB of made-up addresses for itself. */
static tda_forward_args good_forward(void)
{
	tda_forward_args args = TDA_FORWARD_ARGS_INIT;
	uint64_t next = 0x10000000;

	args.shape.batch = BATCH;
	args.shape.heads = HEADS;
	args.shape.kv_heads = KV_HEADS;
	args.shape.q_len = Q_LEN;
	args.shape.k_len = K_LEN;
	for (int v = 0; v < 2; v++) {
		args.q[v] = packed(next += 0x1000000, HEADS, Q_LEN);
		args.k[v] = packed(next += 0x1000000, KV_HEADS, K_LEN);
	}
	args.v = packed(next += 0x1000000, KV_HEADS, K_LEN);
	args.o = packed(next += 0x1000000, HEADS, Q_LEN);
	args.saved = at(next += 0x1000000);
	args.scratch = NULL;
	args.saved_bytes = 1 << 20;
	return args;
}

static tda_backward_args good_backward(void)
{
	tda_forward_args forward = good_forward();
	tda_backward_args args = TDA_BACKWARD_ARGS_INIT;
	uint64_t next = 0x40000000;

	args.shape = forward.shape;
	for (int v = 0; v < 2; v++) {
		args.q[v] = forward.q[v];
		args.k[v] = forward.k[v];
		args.dq[v] = packed(next += 0x1000000, HEADS, Q_LEN);
		args.dk[v] = packed(next += 0x1000000, KV_HEADS, K_LEN);
	}
	args.v = forward.v;
	args.dv = packed(next += 0x1000000, KV_HEADS, K_LEN);
	args.grad_o = packed(next += 0x1000000, HEADS, Q_LEN);
	args.saved = forward.saved;
	args.saved_bytes = forward.saved_bytes;
	args.scratch = at(next += 0x1000000);
	args.scratch_bytes = 1 << 20;
	return args;
}

static void test_map(const TensorMap *map, const tda_tensor *k)
{
	const uint64_t row = DIM * 2;

	CHECK(map->address == (uintptr_t)k->data && map->box[0] == 64 && map->box[1] == 128, "a map's address and box");
	CHECK(map->extent[0] == DIM && map->extent[1] == K_LEN && map->extent[2] == KV_HEADS && map->extent[3] == BATCH,
	      "a map's extents");
	CHECK(map->stride[0] == row && map->stride[1] == K_LEN * row && map->stride[2] == KV_HEADS * K_LEN * row,
	      "a map's strides");
}

/* Strides of 0: of a head or a batch entry they make its dimension one entry wide; of a row, the map has it too. */
static void test_broadcast_maps(void)
{
	tda_forward_args forward = good_forward();
	const TensorMap *map;
	Record r = {0};
	Binding b;

	forward.k[0].batch_stride = forward.k[0].row_stride = 0;
	CHECK(validate_forward(kernel, &forward, &b) == TDA_OK, "%s", tda_error_message());
	CHECK(launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, &r) == TDA_OK, "%s", tda_error_message());
	map = &r.launch[1].map;
	CHECK(map->extent[3] == 1 && map->extent[2] == KV_HEADS, "a batch stride of 0: %d entries", (int)map->extent[3]);
	CHECK(map->extent[1] == K_LEN && map->stride[0] == 0, "a row stride of 0");
	forward.k[0].batch_stride = (int64_t)1 << 39;
	r.count = 0;
	validate_forward(kernel, &forward, &b);
	CHECK(launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, &r) == TDA_BAD_ARGUMENT && r.count == 0, "2^40 bytes");
	CHECK_MESSAGE("argument 5 of kernel forward: the shape is too large: 2 entries, 1099511627776 bytes apart, are beyond "
	              "what a tensor map can say (2^32 and 2^40)");
	/* a kernel that is skipped needs no arguments: a file of two plans may hold one whose tensor maps can't say the strides */
	forward.shape.batch = 0;
	forward.k[0].batch_stride = 0;
	forward.k[0].head_stride = (int64_t)1 << 39;
	CHECK(validate_forward(kernel, &forward, &b) == TDA_OK, "%s", tda_error_message());
	CHECK(launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, &r) == TDA_OK && r.count == 0, "%s", tda_error_message());
}

static void test_launches(void)
{
	tda_forward_args forward = good_forward();
	tda_backward_args backward = good_backward();
	const uint64_t rows_at = 2 * 4 * 128 * 8;      /* buffer tau comes first: batch * heads * 128 rows * 8 bytes */
	Record r = {0};
	Binding b;

	forward.params[0] = at(0x70000000);
	CHECK(validate_forward(kernel, &forward, &b) == TDA_OK, "%s", tda_error_message());
	CHECK(launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, &r) == TDA_OK, "%s", tda_error_message());
	CHECK(r.count == 2 && r.launch[0].grid == 16 && r.launch[1].grid == 16, "%d launches", r.count);
	CHECK(r.launch[0].args[0] == (uintptr_t)forward.q[0].data && r.launch[0].args[2] == 0x70000000, "pointers");
	CHECK(r.launch[0].args[3] == (uintptr_t)forward.saved && r.launch[0].args[4] == (uintptr_t)forward.saved + rows_at,
	      "buffers");
	CHECK(r.launch[0].args[5] == HEADS && r.launch[0].args[6] == Q_LEN && r.launch[0].args[7] == HEADS * Q_LEN * DIM &&
	      r.launch[0].args[8] == DIM, "integers");
	CHECK(r.launch[1].args[4] == 2, "a formula");
	test_map(&r.launch[1].map, &forward.k[0]);

	r.count = 0;
	CHECK(validate_backward(kernel, &backward, &b) == TDA_OK, "%s", tda_error_message());
	CHECK(launch_phase(kernel->manifest, PHASE_BACKWARD, &b, record, &r) == TDA_OK, "%s", tda_error_message());
	CHECK(r.count == 2 && r.launch[1].grid == 12, "an unwanted gradient's kernel is skipped: %d launches", r.count);
	backward.dparams[0] = at(0x71000000);
	r.count = 0;
	validate_backward(kernel, &backward, &b);
	launch_phase(kernel->manifest, PHASE_BACKWARD, &b, record, &r);
	CHECK(r.count == 3 && r.launch[2].grid == HEADS && r.launch[2].args[1] == 0x71000000, "dbeta: %d launches", r.count);

	forward.shape.batch = 0;
	r.count = 0;
	CHECK(validate_forward(kernel, &forward, &b) == TDA_OK, "%s", tda_error_message());
	CHECK(launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, &r) == TDA_OK && r.count == 0, "an empty batch");
}

/* Each case spoils good arguments; `message` is what must be said. */
typedef void Spoil(tda_forward_args *forward, tda_backward_args *backward);
#define SPOIL(name, statement) \
	static void name(tda_forward_args *f, tda_backward_args *b) { (void)f, (void)b; statement; }

SPOIL(old_size, f->size = 8)
SPOIL(new_version, f->version = 9)
SPOIL(shape_version, f->shape.version = 0)
SPOIL(negative_batch, f->shape.batch = -1)
SPOIL(no_heads, f->shape.heads = 0)
SPOIL(odd_heads, f->shape.kv_heads = 3)
SPOIL(long_k, f->shape.k_len = 1 << 30 | 1)
SPOIL(layer_beyond, f->shape.layer = 3; f->shape.layers = 3)
SPOIL(negative_layer, f->shape.layer = -1)
SPOIL(ragged, f->shape.k_lens = f)
SPOIL(packed_rows, f->shape.q_offsets = f)
SPOIL(null_q, f->q[1].data = NULL)
SPOIL(odd_pointer, f->k[0].data = at(0x10000008))
SPOIL(odd_stride, f->v.row_stride = 63)
SPOIL(negative_stride, f->q[0].head_stride = -64)
SPOIL(huge_stride, f->q[0].batch_stride = (int64_t)1 << 62)
SPOIL(output_stride, f->o.row_stride = 0)
SPOIL(output_overlap, f->o.head_stride = 64 * 99)
SPOIL(alias_q, f->o = f->q[0])
SPOIL(alias_saved, f->saved = (char *)f->q[1].data + 256)
SPOIL(small_saved, f->saved_bytes = 1000)
SPOIL(null_saved, f->saved = NULL)
SPOIL(odd_saved, f->saved = at(0x20000080))
SPOIL(odd_param, f->params[0] = at(0x70000002))
SPOIL(extra_param, f->params[2] = at(0x70000000))
SPOIL(backward_version, b->version = 3)
SPOIL(null_do, b->grad_o.data = NULL)
SPOIL(alias_gradients, b->dq[1] = b->dq[0])
SPOIL(alias_dparam, b->params[1] = b->dparams[1] = at(0x72000000))
SPOIL(no_scratch, b->scratch_bytes = 0)
SPOIL(alias_saved_gradient, b->dv.data = (void *)b->saved)
SPOIL(huge_shape, f->shape.batch = f->shape.heads = f->shape.kv_heads = INT32_MAX; f->shape.q_len = 1 << 30)

#define INITIALISE ": initialise it with the _INIT macro of tda.h"
static const struct { Spoil *spoil; tda_status status; const char *message; } refusals[] = {
	{ old_size, TDA_BAD_ARGUMENT, "args: size is 8 bytes, version 1 has 576" INITIALISE },
	{ new_version, TDA_BAD_ARGUMENT, "args: version is 9, this libtda has 1" INITIALISE },
	{ shape_version, TDA_BAD_ARGUMENT, "shape: version is 0, this libtda has 1" INITIALISE },
	{ negative_batch, TDA_BAD_ARGUMENT, "shape.batch is -1: it must be in 0..2147483647" },
	{ no_heads, TDA_BAD_ARGUMENT, "shape.heads is 0: it must be in 1..2147483647" },
	{ odd_heads, TDA_BAD_ARGUMENT, "shape.kv_heads is 3: it must divide shape.heads, which is 4" },
	{ long_k, TDA_BAD_ARGUMENT, "shape.k_len is 1073741825: it must be in 0..1073741824" },
	{ layer_beyond, TDA_BAD_ARGUMENT, "shape.layer is 3: it must be in 0..2" },
	{ negative_layer, TDA_BAD_ARGUMENT, "shape.layer is -1: it must be in 0..-1" },
	{ ragged, TDA_UNSUPPORTED, "shape.q_lens and k_lens: lengths per batch entry are not supported yet: pass NULL" },
	{ packed_rows, TDA_UNSUPPORTED, "shape.q_offsets and k_offsets: packed sequences are not supported yet: pass NULL" },
	{ null_q, TDA_BAD_ARGUMENT, "q2: the pointer is null" },
	{ odd_pointer, TDA_BAD_ARGUMENT, "k1: the address 0x10000008 is not a multiple of 16 bytes" },
	{ odd_stride, TDA_BAD_ARGUMENT, "v.row_stride is 63 elements of 2 bytes: strides must be multiples of 16 bytes" },
	{ negative_stride, TDA_BAD_ARGUMENT, "q1.head_stride is -64: strides must not be negative" },
	{ huge_stride, TDA_BAD_ARGUMENT, "q1: its end is beyond the address space: the strides are too large" },
	{ output_stride, TDA_BAD_ARGUMENT,
	  "o: a stride of 0 bytes makes rows of 128 bytes overlap: strides of outputs must keep the rows apart" },
	{ output_overlap, TDA_BAD_ARGUMENT,
	  "o: a stride of 12672 bytes makes rows of 128 bytes overlap: strides of outputs must keep the rows apart" },
	{ alias_q, TDA_BAD_ARGUMENT,
	  "o overlaps q1: what a call writes must not share memory with anything else of the call" },
	{ alias_saved, TDA_BAD_ARGUMENT,
	  "saved overlaps q2: what a call writes must not share memory with anything else of the call" },
	{ small_saved, TDA_BAD_ARGUMENT, "saved_bytes is 1000: this shape needs 24576 (see tda_get_sizes)" },
	{ null_saved, TDA_BAD_ARGUMENT, "saved: the pointer is null" },
	{ odd_saved, TDA_BAD_ARGUMENT, "saved: the address 0x20000080 is not a multiple of 256 bytes" },
	{ odd_param, TDA_BAD_ARGUMENT, "beta: the address 0x70000002 is not a multiple of 4 bytes" },
	{ extra_param, TDA_BAD_ARGUMENT, "params[2] is given, but the kernel has 2 parameters" },
	{ backward_version, TDA_BAD_ARGUMENT,
	  "args: version is 3, this libtda has 1" INITIALISE },
	{ null_do, TDA_BAD_ARGUMENT, "grad_o: the pointer is null" },
	{ alias_gradients, TDA_BAD_ARGUMENT,
	  "dq2 overlaps dq1: what a call writes must not share memory with anything else of the call" },
	{ alias_dparam, TDA_BAD_ARGUMENT,
	  "dlambda overlaps lambda: what a call writes must not share memory with anything else of the call" },
	{ no_scratch, TDA_BAD_ARGUMENT, "scratch_bytes is 0: this shape needs 256 (see tda_get_sizes)" },
	{ alias_saved_gradient, TDA_BAD_ARGUMENT,
	  "dv overlaps saved: what a call writes must not share memory with anything else of the call" },
	{ huge_shape, TDA_BAD_ARGUMENT, "the size of buffer tau: the shape is too large: a size overflows 64 bits" },
};

static void test_refusals(void)
{
	for (size_t n = 0; n < sizeof(refusals) / sizeof(refusals[0]); n++) {
		tda_forward_args forward = good_forward();
		tda_backward_args backward = good_backward();
		tda_status status;
		Binding b;

		refusals[n].spoil(&forward, &backward);
		status = validate_forward(kernel, &forward, &b);
		if (!status)
			status = validate_backward(kernel, &backward, &b);
		CHECK(status == refusals[n].status, "expected: %s", refusals[n].message);
		CHECK_MESSAGE(refusals[n].message);
	}
}

/* q, k, v and their gradients interleaved in one tensor, as models that project them together have them. */
static void test_interleaved(void)
{
	tda_backward_args args = good_backward();
	const int64_t row = 5 * HEADS * DIM;           /* dq1 dk1 dq2 dk2 dv of every head, for each row */
	tda_tensor *parts[] = { &args.dq[0], &args.dk[0], &args.dq[1], &args.dk[1], &args.dv };
	Binding b;

	args.shape.kv_heads = HEADS;
	args.shape.k_len = Q_LEN;
	for (int n = 0; n < 5; n++)
		*parts[n] = (tda_tensor){ at(0x60000000 + (uint64_t)n * HEADS * DIM * 2), Q_LEN * row, DIM, row };
	CHECK(validate_backward(kernel, &args, &b) == TDA_OK, "%s", tda_error_message());
	parts[3]->data = (char *)parts[3]->data - 16;
	CHECK(validate_backward(kernel, &args, &b) == TDA_BAD_ARGUMENT, "16 shared bytes were accepted");
	CHECK_MESSAGE("dk2 overlaps dq2: what a call writes must not share memory with anything else of the call");
}

static void test_grid_limit(void)
{
	tda_forward_args args = good_forward();
	Record r = {0};
	Binding b;

	/* 2^28 heads of 1000 rows: 2^32 CTAs, in broadcast tensors */
	args.shape.batch = 1;
	args.shape.heads = args.shape.kv_heads = 1 << 28;
	args.shape.q_len = args.shape.k_len = 1000;
	for (int v = 0; v < 2; v++)
		args.q[v].head_stride = args.k[v].head_stride = 0;
	args.v.head_stride = 0;
	args.o = (tda_tensor){ at((uint64_t)1 << 56), 0, 1000 * DIM, DIM };
	args.saved = at((uint64_t)1 << 57);
	args.saved_bytes = SIZE_MAX / 4;
	CHECK(validate_forward(kernel, &args, &b) == TDA_OK, "%s", tda_error_message());
	CHECK(launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, &r) == TDA_BAD_ARGUMENT && r.count == 0, "launched");
	CHECK_MESSAGE("the shape is too large: kernel row_terms would need 4294967296 CTAs, and a grid has up to 2147483647: "
	              "split the batch");
}

/* This machine may have a GPU: only the refusals that need none are tested. */
static void test_api(void)
{
	tda_forward_args forward = good_forward();
	tda_sizes sizes = TDA_SIZES_INIT;
	tda_info info = TDA_INFO_INIT;
	tda_kernel *none;

	CHECK(tda_get_sizes(kernel, &forward.shape, &sizes) == TDA_OK, "%s", tda_error_message());
	CHECK(sizes.saved == 2 * 4 * 128 * 24 && sizes.forward_scratch == 0 && sizes.backward_scratch == 256, "sizes");
	CHECK(tda_get_info(kernel, &info) == TDA_OK && info.param_count == 2 && info.params[1].max == 1, "info");
	CHECK(strcmp(info.name, "tda") == 0 && strcmp(info.params[0].name, "beta") == 0, "names");
	CHECK(tda_get_info(NULL, &info) == TDA_BAD_ARGUMENT, "no kernel");
	CHECK_MESSAGE("kernel: the pointer is null");
	info.size = 3;
	CHECK(tda_get_info(kernel, &info) == TDA_BAD_ARGUMENT, "a small info");
	CHECK(tda_forward(kernel, NULL, NULL) == TDA_BAD_ARGUMENT, "no arguments");
	CHECK_MESSAGE("args: the pointer is null");
	CHECK(tda_open_file("/nonexistent/kernel.ptx", &none) == TDA_BAD_FILE && !none, "no file");
	CHECK_MESSAGE("/nonexistent/kernel.ptx: can't be opened: No such file or directory");
	CHECK(tda_open_memory("x", 1, &none) == TDA_BAD_FILE && !none, "no manifest");
	CHECK(tda_open_memory(NULL, 1, &none) == TDA_BAD_ARGUMENT, "no text");
}

static void test_no_driver(void)
{
	tda_forward_args forward = good_forward();
	const Cuda *cuda;

	if (cuda_open(&cuda) != TDA_NO_DRIVER)
		return;
	CHECK(tda_forward(kernel, &forward, NULL) == TDA_NO_DRIVER, "launched without a driver");
	CHECK_MESSAGE("there is no CUDA driver on this machine: libcuda.so.1 was not found; install the NVIDIA driver, "
	              "or use the simulator (--device sim)");
	CHECK(tda_preload(kernel) == TDA_NO_DRIVER, "loaded without a driver");
}

int main(void)
{
	char lines[4096], *text;

	snprintf(lines, sizeof(lines), "%s%s", fixture_tda_lines, fixture_tda_kernels);
	text = fixture_seal(lines, fixture_body);
	if (CHECK(tda_open_memory(text, strlen(text), &kernel) == TDA_OK, "%s", tda_error_message())) {
		test_launches();
		test_broadcast_maps();
		test_refusals();
		test_interleaved();
		test_grid_limit();
		test_api();
		test_no_driver();
		tda_close(kernel);
	}
	free(text);
	return fixture_result();
}
