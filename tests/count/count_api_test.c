/*
 * count_api_test TDAGEN SPECS HERE: tda_count as tda.h has it: sizes and arrays, the refusal of every bad argument, and of files that are
 * not for it. What it counts is tested in count_test.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/device.h"
#include "../runtime/fixture.h"
#include "../screen/compiled.h"

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, Q_LEN = 70, K_LEN = 130, DIM = 64 };

static tda_kernel *counter, *dense;

static tda_shape good_shape(void)
{
	tda_shape shape = TDA_SHAPE_INIT;

	shape.batch = BATCH;
	shape.heads = HEADS;
	shape.kv_heads = KV_HEADS;
	shape.q_len = Q_LEN;
	shape.k_len = K_LEN;
	return shape;
}

/* Every tensor has 16 MiB of made-up addresses for itself. */
static tda_count_args good_args(void)
{
	tda_count_args args = TDA_COUNT_ARGS_INIT;
	uint64_t next = 0x10000000;

	args.shape = good_shape();
	for (int v = 0; v < 2; v++) {
		args.q[v] = (tda_tensor){ (void *)(uintptr_t)(next += 0x1000000), HEADS * Q_LEN * DIM, Q_LEN * DIM, DIM };
		args.k[v] = (tda_tensor){ (void *)(uintptr_t)(next += 0x1000000), KV_HEADS * K_LEN * DIM, K_LEN * DIM, DIM };
	}
	args.counts = (void *)(uintptr_t)(next += 0x1000000);
	args.counts_bytes = 1 << 20;
	return args;
}

/* ---- sizes ---- */

static void test_sizes(void)
{
	tda_count_sizes sizes = TDA_COUNT_SIZES_INIT;
	tda_shape shape = good_shape();
	const size_t planes = BATCH * HEADS, rows = 128, blocks = 2, tiles = 3;

	CHECK(tda_get_count_sizes(counter, &shape, &sizes) == TDA_OK, "%s", tda_error_message());
	CHECK(sizes.block_rows == 64 && sizes.moment_count == 2 * 4 + 1 && sizes.tail_count == 2 * 6, "what it has");
	CHECK(sizes.tau[0] == sizes.tau[1], "the threshold of tda is the same in both views");
	CHECK(sizes.consensus >= sizes.survivors + 4 * 2 * planes * rows && sizes.masks >= sizes.consensus + 4 * planes * rows &&
	      sizes.tiles >= sizes.masks + 8 * 2 * planes * blocks * tiles && sizes.row_weight >= sizes.tiles + 4 * planes * blocks * tiles &&
	      sizes.row_sink >= sizes.row_weight + 4 * planes * rows && sizes.moments >= sizes.row_sink + 4 * planes * rows &&
	      sizes.tails >= sizes.moments + 4 * 9 * planes * rows / 16 && sizes.bytes >= sizes.tails + 4 * 12 * planes * rows / 16,
	      "arrays overlap, or their order is another one");
	shape.q_len = 0;
	CHECK(tda_get_count_sizes(counter, &shape, &sizes) == TDA_BAD_ARGUMENT || sizes.survivors == sizes.consensus, "no rows");
	sizes = (tda_count_sizes)TDA_COUNT_SIZES_INIT;
	CHECK(tda_get_count_sizes(dense, &shape, &sizes) == TDA_UNSUPPORTED, "a file that computes attention");
	CHECK_MESSAGE("tda was compiled to compute attention: tda_count needs a file of tdagen --plan count");
	CHECK(tda_get_count_sizes(NULL, &shape, &sizes) == TDA_BAD_ARGUMENT, "no kernel");
	CHECK_MESSAGE("kernel: the pointer is null");
	CHECK(tda_get_count_sizes(counter, NULL, &sizes) == TDA_BAD_ARGUMENT, "no shape");
	CHECK_MESSAGE("shape: the pointer is null");
	CHECK(tda_get_count_sizes(counter, &shape, NULL) == TDA_BAD_ARGUMENT, "no sizes");
	CHECK_MESSAGE("sizes: the pointer is null");
	sizes.size--;
	CHECK(tda_get_count_sizes(counter, &shape, &sizes) == TDA_BAD_ARGUMENT, "another struct");
	CHECK_MESSAGE("sizes: size or version is not this libtda's: initialise it with TDA_COUNT_SIZES_INIT");
}

/* Parameters are by head, whatever the spec says: lambda is a scalar there. */
static void test_info(void)
{
	tda_info info = TDA_INFO_INIT;

	CHECK(tda_get_info(counter, &info) == TDA_OK, "%s", tda_error_message());
	CHECK(strcmp(info.plan, "count") == 0 && info.param_count == 2 && info.params[0].shape == TDA_PER_HEAD &&
	      info.params[1].shape == TDA_PER_HEAD, "plan %s", info.plan);
}

/* ---- arguments ---- */

static void expect_refusal(const tda_count_args *args, tda_status status, const char *message)
{
	Binding binding;
	tda_status got = validate_count(counter, args, &binding);

	CHECK(got == status && strstr(tda_error_message(), message), "%s, not: %s", got ? tda_error_message() : "accepted", message);
}

static void test_refusals(void)
{
	tda_count_args args = good_args();
	tda_forward_args forward = TDA_FORWARD_ARGS_INIT;
	Binding b;

	CHECK(validate_count(counter, &args, &b) == TDA_OK, "%s", tda_error_message());
	args.size = 8;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "args: size is 8 bytes");
	args = good_args();
	args.shape.kv_heads = 3;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "shape.kv_heads is 3: it must divide shape.heads");
	args = good_args();
	args.q[1].data = NULL;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "q2: the pointer is null");
	args = good_args();
	args.k[0].row_stride = DIM + 4;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "k1.row_stride is 68 elements of 2 bytes: strides must be multiples of 16 bytes");
	args = good_args();
	args.params[2] = args.counts;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "params[2] is given, but the kernel has 2 parameters");
	args = good_args();
	args.counts_bytes = 1000;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "counts_bytes is 1000: this shape needs ");
	args = good_args();
	args.counts = NULL;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "counts: the pointer is null");
	args.counts = (char *)good_args().counts + 16;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "counts: the address 0x");
	args.counts = args.q[0].data;
	expect_refusal(&args, TDA_BAD_ARGUMENT, "counts overlaps q1: what a call writes must not share memory with anything else of the call");
	CHECK(validate_count(dense, &args, &b) == TDA_UNSUPPORTED, "a file that computes attention");
	CHECK(validate_forward(counter, &forward, &b) == TDA_UNSUPPORTED, "a file that counts");
	CHECK_MESSAGE("tda was compiled with --plan count, which counts pairs and computes no attention: compile the spec with another plan");
	CHECK(tda_count(NULL, &args, NULL) == TDA_BAD_ARGUMENT && tda_count(counter, NULL, NULL) == TDA_BAD_ARGUMENT, "null pointers");
	CHECK_MESSAGE("args: the pointer is null");
}

/* Nothing to do is done: no heads of a batch, no rows, no keys. */
static void test_empty(Device *device)
{
	tda_count_sizes sizes = TDA_COUNT_SIZES_INIT;
	tda_count_args args = TDA_COUNT_ARGS_INIT;
	int32_t survivors[4];

	args.shape = good_shape();
	args.shape.batch = 0;
	CHECK(tda_get_count_sizes(counter, &args.shape, &sizes) == TDA_OK && sizes.bytes == 0 && device_count(device, counter, &args) == TDA_OK,
	      "no batch: %s", tda_error_message());
	args.shape.batch = args.shape.heads = args.shape.kv_heads = 1;
	args.shape.q_len = 1;
	args.shape.k_len = 0;
	CHECK(tda_get_count_sizes(counter, &args.shape, &sizes) == TDA_OK, "%s", tda_error_message());
	args.counts_bytes = sizes.bytes;
	for (int v = 0; v < 2; v++)
		CHECK(device->ops->alloc(device, 2 * DIM, &args.q[v].data) == TDA_OK, "%s", tda_error_message());
	for (int v = 0; v < 2; v++)
		CHECK(device->ops->fill(device, args.q[v].data, 0, 2 * DIM) == TDA_OK, "%s", tda_error_message());
	CHECK(device->ops->alloc(device, sizes.bytes, &args.counts) == TDA_OK, "%s", tda_error_message());
	CHECK(device_count(device, counter, &args) == TDA_OK, "no key: %s", tda_error_message());
	CHECK(device->ops->copy_out(device, survivors, (char *)args.counts + sizes.survivors, sizeof(survivors)) == TDA_OK && survivors[0] <= 0,
	      "no key: %s", tda_error_message());
	for (int v = 0; v < 2; v++)
		device->ops->release(device, args.q[v].data);
	device->ops->release(device, args.counts);
}

/* ---- files that were edited ---- */

static void test_damaged(void)
{
	static const struct { const char *from, *to, *message; } edits[] = {
		{ "buffer survivors counts 8*", "buffer survivors counts 4*", "the buffer 'survivors' has " },
		{ "buffer masks counts ", "buffer musks counts ", "the manifest lacks the buffer 'masks'" },
		{ "buffer tau1 counts ", "buffer tau1 saved ", "the manifest lacks the buffer 'tau1'" },
	};
	tda_shape shape = good_shape();

	for (size_t n = 0; n < sizeof(edits) / sizeof(edits[0]); n++) {
		char lines[8192], *kernels = strstr(counter->text, "//! kernel "), *first = strchr(counter->text, '\n') + 1, *at, *text;
		tda_count_sizes sizes = TDA_COUNT_SIZES_INIT;
		tda_kernel *damaged = NULL;

		snprintf(lines, sizeof(lines), "%.*s", (int)(kernels - first), first);
		if (!CHECK((at = strstr(lines, edits[n].from)) != NULL, "no %s", edits[n].from))
			continue;
		memmove(at + strlen(edits[n].to), at + strlen(edits[n].from), strlen(at + strlen(edits[n].from)) + 1);
		memcpy(at, edits[n].to, strlen(edits[n].to));
		text = fixture_seal(lines, fixture_body);
		CHECK(tda_open_memory(text, strlen(text), &damaged) == TDA_OK, "%s", tda_error_message());
		CHECK(damaged && tda_get_count_sizes(damaged, &shape, &sizes) == TDA_BAD_FILE && strstr(tda_error_message(), edits[n].message),
		      "%s: %s", edits[n].to, tda_error_message());
		tda_close(damaged);
		free(text);
	}
}

int main(int argc, char **argv)
{
	char path[1024];
	Device *device = NULL;

	if (argc != 4)
		return 2;
	snprintf(path, sizeof(path), "%s/tda.lua", argv[2]);
	counter = compiled_kernel(argv[1], path, "--plan count");
	dense = compiled_kernel(argv[1], path, "--plan dense");
	if (counter && dense && CHECK(device_open(DEVICE_SIM, &device) == TDA_OK, "%s", tda_error_message())) {
		test_sizes();
		test_info();
		test_refusals();
		test_empty(device);
		test_damaged();
	}
	tda_close(counter);
	tda_close(dense);
	if (device)
		device->ops->close(device);
	return fixture_result();
}
