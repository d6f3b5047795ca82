/*
 * The cases of sm_90a. Each thread's input words fill shared memory, again and again: any bytes are a matrix in any layout,
 * so what is tested is which of them an element is. Of D, some registers are compared.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hw.h"

enum { TILE = 24576, B_AT = 8192 };

#define F16 "k16.f32.f16.f16"
#define BF16 "k16.f32.bf16.bf16"
#define TF32 "k8.f32.tf32.tf32"
#define TWELVE(letter) letter letter letter letter letter letter letter letter letter letter letter letter
#define FLOATS(name, letter, type, columns, ...) { .base = { name, TWELVE(letter), 8, KIND_F32, 4, 1e-6, "" }, \
	.product = { .shape = type, .n = columns, __VA_ARGS__ } }
#define INTS(name, columns, ...) { .base = { name, TWELVE("w"), 8, KIND_BITS, 0, 0, "" }, \
	.product = { .shape = "k32.s32.s8.s8", .n = columns, __VA_ARGS__ } }
#define BOX(name, ...) { .base = { name, TWELVE("w"), 4, KIND_BITS, 0, 0, "" }, .box = { __VA_ARGS__ } }
#define BODY(name, inputs, n_out, text) { .base = { name, inputs, n_out, KIND_BITS, 0, 0, text } }

/* K-major operands: 8 rows one after the other, then 8 more. */
#define K_PLAIN(at, rows) { at, 16 * (rows), 128, 0, false }
#define K_32(at) { at, 16, 256, 3, false }
#define K_64(at) { at, 16, 512, 2, false }
#define K_128(at) { at, 16, 1024, 1, false }
/* MN-major: 8 k after the first 8, and the next elements of a row behind all k. */
#define MN_PLAIN(at, rows) { at, 16 * (rows), 128, 0, true }
#define MN_32(at) { at, 512, 256, 3, true }
#define MN_64(at) { at, 1024, 512, 2, true }
#define MN_128(at) { at, 2048, 1024, 1, true }

#define ARRIVE_ALL "mbarrier.arrive.shared.b64 %x0, [bar]; W: mbarrier.try_wait.shared.b64 %p1, [bar], %x0; @!%p1 bra W;\n"
#define WAIT "W: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra W;\n"
#define READ "shl.b32 %s2, %t0, 4; add.u32 %s2, %s2, %s1; ld.shared.v4.b32 {%o0,%o1,%o2,%o3}, [%s2];\n"

const HopperCase hopper_cases[] = {
	FLOATS("wgmma f16, no swizzle", "n", F16, 64, .a = K_PLAIN(0, 64), .b = K_PLAIN(B_AT, 64)),
	FLOATS("wgmma f16, swizzle 32", "n", F16, 64, .a = K_32(0), .b = K_32(B_AT)),
	FLOATS("wgmma bf16, swizzle 64", "b", BF16, 64, .a = K_64(32), .b = K_64(B_AT + 32)),
	FLOATS("wgmma bf16, swizzle 128", "b", BF16, 128, .a = K_128(0), .b = K_128(B_AT)),
	FLOATS("wgmma bf16, swizzle 128, the last K", "b", BF16, 64, .a = K_128(96), .b = K_128(B_AT + 96)),
	FLOATS("wgmma f16, A MN-major, no swizzle", "n", F16, 64, .a = MN_PLAIN(0, 64), .b = K_128(B_AT)),
	FLOATS("wgmma f16, A MN-major, swizzle 32", "n", F16, 64, .a = MN_32(0), .b = K_64(B_AT)),
	FLOATS("wgmma bf16, A MN-major, swizzle 64", "b", BF16, 64, .a = MN_64(0), .b = K_32(B_AT)),
	FLOATS("wgmma bf16, A MN-major, swizzle 128", "b", BF16, 64, .a = MN_128(0), .b = K_PLAIN(B_AT, 64)),
	FLOATS("wgmma f16, B MN-major, no swizzle", "n", F16, 128, .a = K_64(0), .b = MN_PLAIN(B_AT, 128)),
	FLOATS("wgmma f16, B MN-major, swizzle 32", "n", F16, 128, .a = K_32(0), .b = MN_32(B_AT)),
	FLOATS("wgmma bf16, B MN-major, swizzle 64", "b", BF16, 128, .a = K_128(0), .b = MN_64(B_AT)),
	FLOATS("wgmma bf16, B MN-major, swizzle 128", "b", BF16, 128, .a = K_128(0), .b = MN_128(B_AT)),
	FLOATS("wgmma bf16, both MN-major", "b", BF16, 128, .a = MN_128(0), .b = MN_128(B_AT)),
	FLOATS("wgmma f16, A in registers", "n", F16, 64, .b = K_128(B_AT), .a_in_registers = true),
	FLOATS("wgmma bf16, A in registers, B MN-major", "b", BF16, 128, .b = MN_128(B_AT), .a_in_registers = true,
		.adds = true),
	FLOATS("wgmma bf16, minus B", "b", BF16, 64, .a = K_128(0), .b = K_128(B_AT), .negates = true),
	FLOATS("wgmma tf32, no swizzle", "u", TF32, 64, .a = K_PLAIN(0, 64), .b = K_PLAIN(B_AT, 64)),
	FLOATS("wgmma tf32, swizzle 128", "u", TF32, 64, .a = K_128(64), .b = K_128(B_AT + 64)),
	FLOATS("wgmma tf32, A in registers, swizzle 64", "u", TF32, 64, .b = K_64(B_AT), .a_in_registers = true),
	INTS("wgmma s8, no swizzle", 64, .a = K_PLAIN(0, 64), .b = K_PLAIN(B_AT, 64)),
	INTS("wgmma s8, swizzle 32", 96, .a = K_32(0), .b = K_32(B_AT)),
	INTS("wgmma s8, swizzle 64", 128, .a = K_64(32), .b = K_64(B_AT + 32)),
	INTS("wgmma s8, swizzle 128", 128, .a = K_128(32), .b = K_128(B_AT + 64), .adds = true),
	INTS("wgmma s8, A in registers", 64, .b = K_128(B_AT), .a_in_registers = true),
	INTS("wgmma s8, n 24", 24, .a = K_128(0), .b = K_128(B_AT)),

	/* Boxes of 2048 bytes, which start at multiples of 16: one that did not stopped an H100 with an illegal instruction. */
	BOX("box, no swizzle", .type = 9, .rank = 2, .sizes = { 128, 24 }, .strides = { 256 }, .box = { 64, 16 }, .swizzle = 0,
		.at = { 32, 4 }),
	BOX("box, swizzle 32", .type = 9, .rank = 2, .sizes = { 128, 24 }, .strides = { 256 }, .box = { 16, 64 }, .swizzle = 1,
		.at = { 40, -3 }),
	BOX("box, swizzle 64", .type = 7, .rank = 2, .sizes = { 64, 24 }, .strides = { 256 }, .box = { 16, 32 }, .swizzle = 2,
		.at = { 56, 8 }),
	BOX("box, swizzle 128", .type = 9, .rank = 2, .sizes = { 128, 24 }, .strides = { 256 }, .box = { 64, 16 }, .swizzle = 3,
		.at = { 64, 2 }),
	BOX("box, swizzle 128, past all ends", .type = 9, .rank = 2, .sizes = { 120, 20 }, .strides = { 256 }, .box = { 64,
		16 }, .swizzle = 3,
		.at = { 88, 9 }),
	BOX("box, swizzle 128, before all ends", .type = 0, .rank = 2, .sizes = { 250, 24 }, .strides = { 256 }, .box = { 128,
		16 }, .swizzle = 3,
		.at = { -48, -6 }),
	BOX("box of 3 dimensions", .type = 9, .rank = 3, .sizes = { 64, 6, 8 }, .strides = { 128, 768 }, .box = { 64, 4, 4 },
		.swizzle = 3,
		.at = { 0, 4, 3 }),

	BODY("cp.async.bulk, both ways", "wwww", 4, "@%p0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 2048;\n"
		"@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%a], 2048, [bar];\n" ARRIVE_ALL
		"@%p0 cp.async.bulk.global.shared::cta.bulk_group [%b], [tile], 2048; @%p0 cp.async.bulk.commit_group;\n"
		"@%p0 cp.async.bulk.wait_group 0; bar.sync 0; ld.global.v4.b32 {%o0,%o1,%o2,%o3}, [%b];\n"),
	BODY("cp.async.mbarrier.arrive.noinc", "wwww", 4, "mul.lo.u32 %s2, %t0, 16; add.u32 %s2, %s2, %s1;\n"
		"cp.async.cg.shared.global [%s2], [%a], 16; cp.async.mbarrier.arrive.noinc.shared.b64 [bar];\n" WAIT
		"xor.b32 %s3, %t0, 96; mul.lo.u32 %s3, %s3, 16; add.u32 %s3, %s3, %s1; ld.shared.v4.b32 {%o0,%o1,%o2,%o3}, "
			"[%s3];\n"),
	BODY("elect.sync", "w", 2, "elect.sync %o0|%p1, -1; selp.u32 %o1, 1, 0, %p1;\n"),
	BODY("bar.red.or", "w", 2, "setp.eq.u32 %p1, %t0, 77; bar.red.or.pred %p2, 1, 128, %p1; selp.u32 %o0, 1, 0, %p2;\n"
		"setp.eq.u32 %p1, %t0, 200; bar.red.or.pred %p2, 1, 128, %p1; selp.u32 %o1, 1, 0, %p2;\n"),
	BODY("min.relu.s32, max.relu.s32", "ww", 2, "min.relu.s32 %o0, %i0, %i1; max.relu.s32 %o1, %i0, %i1;\n"),
};

const size_t hopper_n_cases = sizeof hopper_cases / sizeof *hopper_cases;

typedef struct Text { char *text; size_t at, size; } Text;

static void add(Text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(Text *t, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	t->at += (size_t)vsnprintf(t->text + t->at, t->size - t->at, format, args);
	va_end(args);
}

/* %x<number>: the operand's descriptor. */
static void add_descriptor(Text *t, int number, const HwOperand *o)
{
	unsigned long long fields = (unsigned long long)(o->leading / 16) << 16 | (unsigned long long)(o->stride / 16) << 32
		| (unsigned long long)o->swizzle << 62;
	add(t, "add.u32 %%s2, %%s1, %d; shr.u32 %%s2, %%s2, 4; cvt.u64.u32 %%x%d, %%s2; or.b64 %%x%d, %%x%d, 0x%llx;\n",
		o->start, number,
		number, number, fields);
}

static void add_product(Text *t, const HwProduct *p)
{
	int registers = p->n / 2;
	bool is_half = strncmp(p->shape, "k16", 3) == 0;
	add_descriptor(t, 0, &p->a);
	add_descriptor(t, 1, &p->b);
	for (int r = 0; r < registers; r++)
		add(t, "mov.b32 %%d%d, 0;\n", r);
	add(t, "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n%d%s {", p->n, p->shape);
	for (int r = 0; r < registers; r++)
		add(t, "%s%%d%d", r ? "," : "", r);
	add(t, "}, %s, %%x1, %d", p->a_in_registers ? "{%i0,%i1,%i2,%i3}" : "%x0", p->adds);
	if (p->shape[1] != '3')
		add(t, ", 1, %d", p->negates ? -1 : 1);
	if (is_half && !p->a_in_registers)
		add(t, ", %d", p->a.mn_major);
	if (is_half)
		add(t, ", %d", p->b.mn_major);
	add(t, ";\nwgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n");
	for (int r = 0; r < 8; r++)
		add(t, "mov.b32 %%o%d, %%d%d;\n", r, (r * (registers - 1) + 3) / 7);
}

static void add_box(Text *t, const HwBox *b)
{
	add(t, "mov.b64 %%x0, p_map; cvta.param.u64 %%x0, %%x0; @%%p0 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], "
		"2048;\n");
	add(t, "@%%p0 cp.async.bulk.tensor.%ud.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%%x0, {", b->rank);
	for (unsigned d = 0; d < b->rank; d++)
		add(t, "%s%d", d ? ", " : "", b->at[d]);
	add(t, "}], [bar];\n%s%s", ARRIVE_ALL, READ);
}

/* As in hw_text; also %p0: this is thread 0, %s1: the tile, bar: an mbarrier of all threads. */
char *hopper_text(const HopperCase *hopper)
{
	const HwCase *c = &hopper->base;
	int n_in = (int)strlen(c->inputs);
	Text t = { .size = 32768 };
	t.text = malloc(t.size);
	if (!t.text)
		return NULL;
	add(&t, ".version 8.0\n.target sm_90a\n.address_size 64\n"
		".visible .entry k(.param .u64 p_in, .param .u64 p_out, .param .align 64 .b8 p_map[128])\n.maxntid %d\n{\n"
		".reg .pred %%p<3>; .reg .b32 %%i<%d>, %%o<%d>, %%d<64>, %%s<4>, %%t<2>; .reg .b64 %%a, %%b, %%c, %%x<2>;\n"
		".shared .align 1024 .b8 tile[%d]; .shared .align 8 .b64 bar;\n"
		"mov.u32 %%t0, %%tid.x; mov.u32 %%t1, %%ctaid.x; mad.lo.u32 %%t1, %%t1, %d, %%t0; mov.u32 %%s1, tile;\n"
		"ld.param.u64 %%a, [p_in]; cvta.to.global.u64 %%a, %%a; mul.wide.u32 %%c, %%t1, %d; add.s64 %%a, %%a, %%c;\n"
		"ld.param.u64 %%b, [p_out]; cvta.to.global.u64 %%b, %%b; mul.wide.u32 %%c, %%t1, %d; add.s64 %%b, %%b, %%c;\n"
		"setp.eq.u32 %%p0, %%t0, 0; @%%p0 mbarrier.init.shared::cta.b64 [bar], %d;\n"
		"@%%p0 fence.mbarrier_init.release.cluster;\n",
		GROUP, MAX_IN, MAX_OUT, TILE, GROUP, 4 * n_in, 4 * c->n_out, GROUP);
	for (int i = 0; i < n_in; i++)
		add(&t, "ld.global.b32 %%i%d, [%%a+%d];\n", i, 4 * i);
	add(&t, "mad.lo.u32 %%s0, %%t0, 48, %%s1;\n");
	for (int i = 0; i < TILE / 4 / GROUP && n_in == MAX_IN; i++)
		add(&t, "st.shared.b32 [%%s0+%d], %%i%d;\n", i / MAX_IN * 48 * GROUP + i % MAX_IN * 4, i % MAX_IN);
	add(&t, "fence.proxy.async.shared::cta; bar.sync 0;\n");
	if (hopper->product.shape)
		add_product(&t, &hopper->product);
	else if (hopper->box.rank)
		add_box(&t, &hopper->box);
	else
		add(&t, "%s", c->body);
	for (int i = 0; i < c->n_out; i++)
		add(&t, "st.global.b32 [%%b+%d], %%o%d;\n", 4 * i, i);
	add(&t, "ret;\n}\n");
	return t.text;
}
