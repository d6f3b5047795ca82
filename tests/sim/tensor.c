/* Boxes of tensors, into shared memory and out of it, against the same copy in C; and a matrix product of a producer and a
 * warpgroup through a ring of such boxes, with its defects. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

enum { MAX_BYTES = 1 << 16, SHARED = 32 * 1024 };

typedef struct Case {
	int type;                       /* of CUtensorMapDataType */
	uint32_t element, rank;
	uint64_t sizes[SIM_TENSOR_RANK];
	uint32_t box[SIM_TENSOR_RANK];
	int32_t at[SIM_TENSOR_RANK];
	int swizzle;
} Case;

static const Case cases[] = {
	{ 9, 2, 2, { 128, 100 }, { 64, 64 }, { 64, 8 }, 3 },
	{ 9, 2, 2, { 128, 100 }, { 64, 64 }, { 0, 60 }, 3 },            /* past the last row */
	{ 9, 2, 2, { 80, 100 }, { 64, 32 }, { 64, -3 }, 3 },            /* past the row's end, before the first row */
	{ 6, 2, 2, { 40, 20 }, { 32, 16 }, { -8, 16 }, 2 },
	{ 0, 1, 2, { 48, 40 }, { 32, 24 }, { 16, 0 }, 1 },
	{ 7, 4, 2, { 40, 20 }, { 32, 16 }, { 4, 2 }, 3 },
	{ 8, 8, 2, { 8, 8 }, { 4, 8 }, { 3, 1 }, 0 },
	{ 9, 2, 1, { 300 }, { 256 }, { 100 }, 0 },
	{ 9, 2, 3, { 64, 30, 5 }, { 64, 8, 3 }, { 0, 25, 1 }, 3 },
	{ 9, 2, 4, { 64, 6, 7, 3 }, { 32, 4, 3, 2 }, { 32, 3, 5, 2 }, 2 },
	{ 0, 1, 5, { 64, 3, 4, 3, 2 }, { 16, 2, 3, 2, 2 }, { 40, 2, -1, 1, 0 }, 0 },
	{ 3, 4, 2, { 8, 8 }, { 4, 4 }, { 100, 100 }, 0 },               /* nothing of it */
};

/* Strides with a gap behind each row. */
static void find_strides(const Case *c, uint64_t strides[SIM_TENSOR_RANK])
{
	strides[0] = (c->sizes[0] * c->element + 15) / 16 * 16 + 16;
	for (uint32_t d = 1; d < c->rank; d++)
		strides[d] = strides[d - 1] * c->sizes[d];
}

static uint32_t box_bytes(const Case *c)
{
	uint32_t bytes = c->element;
	for (uint32_t d = 0; d < c->rank; d++)
		bytes *= c->box[d];
	return bytes;
}

/* Where byte number i of the box lies: in shared memory, and in the tensor (-1: outside of it). */
static uint32_t shared_place(const Case *c, uint32_t i)
{
	uint32_t chunks = (1u << c->swizzle) - 1;
	return i ^ (i / 128 & chunks) * 16;
}

static int64_t tensor_place(const Case *c, const uint64_t *strides, uint32_t i)
{
	uint32_t index = i / c->element;
	int64_t place = i % c->element;
	for (uint32_t d = 0; d < c->rank; d++) {
		int64_t x = c->at[d] + (int64_t)(index % c->box[d]);
		index /= c->box[d];
		if (x < 0 || x >= (int64_t)c->sizes[d])
			return -1;
		place += x * (d ? (int64_t)strides[d - 1] : (int64_t)c->element);
	}
	return place;
}

/* Loads the box, copies it from shared memory to out, stores it to the second tensor. The coordinates are in in. */
static char *copy_text(const Case *c)
{
	static char text[4096];
	size_t at = (size_t)snprintf(text, sizeof text, ".version 8.0\n.target sm_90a\n.address_size 64\n"
		".extern .shared .align 1024 .b8 dynamic[];\n.shared .align 8 .b64 bar;\n"
		".visible .entry k(.param .u64 p_in, .param .u64 p_out, .param .align 64 .b8 p_from[128], .param .align 64 .b8 "
			"p_to[128])\n{\n"
		".reg .pred %%p<3>; .reg .b32 %%c<5>, %%t, %%i, %%d, %%r; .reg .b64 %%x<3>, %%from, %%to;\n"
		"ld.param.u64 %%x0, [p_in]; ld.param.u64 %%x1, [p_out]; mov.b64 %%from, p_from; mov.b64 %%to, p_to;\n"
		"prefetch.param.tensormap [%%from]; cvta.param.u64 %%from, %%from; cvta.param.u64 %%to, %%to; mov.u32 %%t, "
			"%%tid.x;\n"
		"setp.eq.u32 %%p1, %%t, 0; @%%p1 mbarrier.init.shared::cta.b64 [bar], 1; @%%p1 fence.mbarrier_init.release.cluster; "
			"bar.sync 0;\n");
	char list[64] = "";
	for (uint32_t d = 0; d < c->rank; d++) {
		at += (size_t)snprintf(text + at, sizeof text - at, "ld.global.b32 %%c%u, [%%x0+%u];\n", d, 4 * d);
		snprintf(list + strlen(list), sizeof list - strlen(list), "%s%%c%u", d ? ", " : "", d);
	}
	snprintf(text + at, sizeof text - at, "@%%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], %u;\n"
		"@%%p1 cp.async.bulk.tensor.%ud.shared::cluster.global.mbarrier::complete_tx::bytes [dynamic], [%%from, {%s}], "
			"[bar];\n"
		"W: mbarrier.try_wait.parity.shared.b64 %%p2, [bar], 0; @!%%p2 bra W;\n"
		"@%%p1 cp.async.bulk.tensor.%ud.global.shared::cta.bulk_group [%%to, {%s}], [dynamic]; @%%p1 "
			"cp.async.bulk.commit_group;\n"
		"@%%p1 cp.async.bulk.wait_group 0; mov.u32 %%d, dynamic; shl.b32 %%i, %%t, 2;\n"
		"L: setp.ge.u32 %%p2, %%i, %u; @%%p2 bra END; add.u32 %%r, %%d, %%i; ld.shared.b32 %%r, [%%r]; cvt.u64.u32 %%x2, "
			"%%i;\n"
		"add.u64 %%x2, %%x2, %%x1; st.global.b32 [%%x2], %%r; add.u32 %%i, %%i, 256; bra L;\nEND: ret;\n}\n",
		box_bytes(c), c->rank, list, c->rank, list, box_bytes(c));
	return text;
}

static void test_copy(const Case *c)
{
	static uint8_t tensor[MAX_BYTES], stored[MAX_BYTES], out[SHARED];
	static const uint32_t ones[SIM_TENSOR_RANK] = { 1, 1, 1, 1, 1 };
	uint64_t strides[SIM_TENSOR_RANK];
	uint32_t bytes = box_bytes(c), bad = 0;
	find_strides(c, strides);
	size_t size = strides[c->rank - 1];
	for (size_t i = 0; i < size; i++)
		tensor[i] = (uint8_t)random_bits();
	Sim *sim = sim_new();
	void *in = sim_alloc(sim, sizeof c->at), *to = sim_alloc(sim, bytes), *from = sim_alloc(sim, size),
		*second = sim_alloc(sim, size);
	sim_copy_in(sim, in, c->at, sizeof c->at);
	sim_copy_in(sim, from, tensor, size);
	sim_fill(sim, second, 0xee, size);
	SimTensorMap map, second_map;
	const void *params[] = { &in, &to, &map, &second_map };
	const uint32_t grid[3] = { 1, 1, 1 }, block[3] = { 64, 1, 1 };
	const char *text = copy_text(c);
	bool ok = sim_tensor_map(sim, &map, c->type, c->rank, from, c->sizes, strides, c->box, ones, c->swizzle) == 0
		&& sim_tensor_map(sim, &second_map, c->type, c->rank, second, c->sizes, strides, c->box, ones, c->swizzle) == 0;
	SimModule *module = ok ? sim_load(sim, text, strlen(text)) : NULL;
	ok = module && sim_launch(sim, module, "k", grid, block, SHARED, params) == 0 && sim_copy_out(sim, out, to, bytes) == 0
		&& sim_copy_out(sim, stored, second, size) == 0;
	size_t in_box = 0, copied = 0;
	for (uint32_t i = 0; ok && i < bytes; i++) {
		int64_t place = tensor_place(c, strides, i);
		bad += out[shared_place(c, i)] != (place < 0 ? 0 : tensor[place]) || (place >= 0 && stored[place] != tensor[place]);
		in_box += place >= 0;
	}
	for (size_t i = 0; ok && i < size; i++)
		copied += stored[i] != 0xee || tensor[i] == 0xee;
	check(ok && bad == 0 && copied >= in_box && copied <= in_box + size / 64, "type %d, rank %u, swizzle %d: %u bytes "
		"wrong, %zu of %zu stored; %s", c->type, c->rank, c->swizzle, bad, copied, in_box, sim_error(sim));
	sim_free(sim);
}

typedef struct Refused { const char *why; int type; uint32_t rank; uint64_t base; uint64_t size, stride; uint32_t box,
	element_stride;
	int swizzle; } Refused;

static void test_refused(void)
{
	static const Refused refused[] = {
		{ "data type 11", 11, 2, 0, 64, 128, 64, 1, 3 }, { "rank 6", 9, 6, 0, 64, 128, 64, 1, 3 },
		{ "is no multiple of 16", 9, 2, 8, 64, 128, 64, 1, 3 }, { "has 0 elements", 9, 2, 0, 0, 128, 64, 1, 3 },
		{ "a stride of 100 bytes", 9, 2, 0, 64, 100, 64, 1, 3 }, { "all of the 128 bytes of a swizzle", 9, 2, 0, 64, 128,
			32, 1, 3 },
		{ "of the box has 512 elements", 0, 2, 0, 64, 128, 512, 1, 0 }, { "a multiple of 16", 9, 2, 0, 64, 128, 4, 1, 0 },
		{ "element strides", 9, 2, 0, 64, 128, 64, 2, 3 }, { "swizzle 4", 9, 2, 0, 64, 128, 64, 1, 4 },
	};
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		const Refused *r = &refused[i];
		const uint64_t sizes[SIM_TENSOR_RANK + 1] = { r->size, 8, 8, 8, 8, 8 }, strides[] = { r->stride, 1024, 1024, 1024,
			1024 };
		const uint32_t box[] = { r->box, 8, 1, 1, 1, 1 }, element_strides[] = { r->element_stride, 1, 1, 1, 1, 1 };
		SimTensorMap map;
		Sim *sim = sim_new();
		int status = sim_tensor_map(sim, &map, r->type, r->rank, (void *)(uintptr_t)r->base, sizes, strides, box,
			element_strides, r->swizzle);
		check(status == -1 && strstr(sim_error(sim), r->why), "\"%s\" is not in: %s", r->why, sim_error(sim));
		sim_free(sim);
	}
}

/* ---- a product ---- */

enum { M = 64, STEPS = 5, ROW = STEPS * 128 };

static int element_of(const uint8_t *row, int k, bool is_s8)
{
	uint32_t bits = 0;
	float x;
	if (is_s8)
		return (int8_t)row[k];
	memcpy((uint8_t *)&bits + 2, row + 2 * k, 2);
	memcpy(&x, &bits, 4);
	return (int)x;
}

/* Whole numbers from -8 to 7. */
static void fill_rows(uint8_t rows[M][ROW], bool is_s8)
{
	for (int i = 0; i < M * ROW / (is_s8 ? 1 : 2); i++) {
		int value = (int)(random_bits() % 16) - 8;
		float x = (float)value;
		if (is_s8)
			(&rows[0][0])[i] = (uint8_t)value;
		else
			memcpy(&rows[0][0] + 2 * i, (uint8_t *)&x + 2, 2);
	}
}

static int count_wrong(uint8_t a[M][ROW], uint8_t b[M][ROW], uint32_t c[M][M], bool is_s8)
{
	int bad = 0;
	for (int i = 0; i < M; i++)
		for (int j = 0; j < M; j++) {
			int sum = 0;
			float x;
			for (int k = 0; k < ROW / (is_s8 ? 1 : 2); k++)
				sum += element_of(a[i], k, is_s8) * element_of(b[j], k, is_s8);
			memcpy(&x, &c[i][j], 4);
			bad += is_s8 ? (int)c[i][j] != sum : x != (float)sum;
		}
	return bad;
}

/* report: a part of what must be said; NULL: the product must be right. */
static void test_product(const char *text, bool is_s8, const char *name, const char *report)
{
	static uint8_t a[M][ROW], b[M][ROW];
	static uint32_t c[M][M];
	uint32_t elements = is_s8 ? ROW : ROW / 2, steps = STEPS;
	const uint64_t sizes[] = { elements, M }, strides[] = { ROW };
	const uint32_t box[] = { elements / STEPS, M }, ones[] = { 1, 1 }, grid[3] = { 1, 1, 1 }, block[3] = { 256, 1, 1 };
	Sim *sim = sim_new();
	void *da = sim_alloc(sim, sizeof a), *db = sim_alloc(sim, sizeof b), *dc = sim_alloc(sim, sizeof c);
	SimTensorMap map_a, map_b;
	const void *params[] = { &map_a, &map_b, &dc, &steps };
	fill_rows(a, is_s8);
	fill_rows(b, is_s8);
	sim_copy_in(sim, da, a, sizeof a);
	sim_copy_in(sim, db, b, sizeof b);
	bool ok = sim_tensor_map(sim, &map_a, is_s8 ? 0 : 9, 2, da, sizes, strides, box, ones, 3) == 0
		&& sim_tensor_map(sim, &map_b, is_s8 ? 0 : 9, 2, db, sizes, strides, box, ones, 3) == 0;
	SimModule *module = ok ? sim_load(sim, text, strlen(text)) : NULL;
	ok = module && sim_launch(sim, module, is_s8 ? "product_s8" : "product_bf16", grid, block, SHARED, params) == 0
		&& sim_copy_out(sim, c, dc, sizeof c) == 0;
	if (report)
		check(!ok && says(sim_error(sim), report), "%s: \"%s\" is not in: %s", name, report, ok ? "no report"
			: sim_error(sim));
	else
		check(ok && count_wrong(a, b, c, is_s8) == 0, "%s: %d results are wrong; %s", name, ok ? count_wrong(a, b, c,
			is_s8) : -1,
			sim_error(sim));
	sim_free(sim);
}

static void test_defect(const char *text, const char *old, const char *with, int skip, const char *report)
{
	char *copy = strdup(text);
	check(patch_text(copy, old, with, skip), "'%s' is not in the kernel", old);
	test_product(copy, false, old, report);
	free(copy);
}

int main(void)
{
	size_t length;
	char *text = read_text(SOURCE_DIR "/pipeline.ptx", &length);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		test_copy(&cases[i]);
	test_refused();
	if (!text) {
		printf("pipeline.ptx can't be read\n");
		return 1;
	}
	test_product(text, false, "bf16", NULL);
	test_product(text, true, "s8", NULL);
	test_defect(text, "@!%p3 bra WAIT_FULL;", "", 0, "shared-memory race: warp 0 reads what was written by a bulk copy of "
		"the mbarrier");
	test_defect(text, "@!%p3 bra WAIT_EMPTY;", "", 0, "warp 4 writes");
	test_defect(text, "_, [%r8], 16384;", "_, [%r8], 8192;", 0, "reads what was written by a bulk copy of the mbarrier");
	test_defect(text, "_, [%r8], 16384;", "_, [%r8], 32768;", 0, "has 0 of 1 arrivals to come and 16384 bytes expected");
	test_defect(text, "[empty], 4;", "[empty], 5;", 0, "warp 4 waits for the mbarrier at offset 16 (PTX line 63; 1 arrivals "
		"and 0 bytes");
	test_defect(text, "wait_group.sync.aligned 1;", "wait_group.sync.aligned 2;", 0, "still being read by wgmma of warps 0 "
		"to 3");
	test_defect(text, "wgmma.wait_group.sync.aligned 0;", "", 0, "read of a register that an unfinished wgmma accumulates "
		"into");
	test_defect(text, "inc.sync.aligned.u32 232", "inc.sync.aligned.u32 240", 0, "warp 3 waits for registers (PTX line 75)");
	test_defect(text, "dec.sync.aligned.u32 24", "inc.sync.aligned.u32 24", 0, "setmaxnreg.inc to 24 registers: the warp "
		"has 128");
	test_defect(text, "bar.sync 0;", "", 0, "there is no mbarrier at|with no barrier since");
	test_defect(text, "add.u32 %r11, %r10, 8192;", "add.u32 %r11, %r10, 8200;", 0, "misaligned box: shared offset");
	test_defect(text, "%rd2, {%r12, 0}", "%rd2, {%r12}", 0, "the tensor map has 2 dimensions|a list of 2 registers");
	test_defect(text, "mov.b64 %rd2, p_b;", "mov.b64 %rd2, p_c;", 0, "tensor map");
	free(text);
	return tests_done();
}
