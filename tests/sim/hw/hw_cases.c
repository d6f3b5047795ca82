/* The cases, and their inputs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hw.h"

#define MMA(opcode, a, b) "mma.sync.aligned." opcode " {%o0,%o1,%o2,%o3}, {" a "}, {" b "}, {%i8,%i9,%i10,%i11};"
#define A4 "%i0,%i1,%i2,%i3"
#define B2 "%i4,%i5"
#define UNARY(opcode) opcode " %o0, %i0;"
#define BINARY(opcode) opcode " %o0, %i0, %i1;"
#define TERNARY(opcode) opcode " %o0, %i0, %i1, %i2;"
#define SHFL(mode) "shfl.sync." mode ".b32 %o0|%p0, %i0, %i1, %i2, -1; selp.b32 %o1, 1, 0, %p0;"
/* Each lane's four words become a row of its warp's 512 bytes. */
#define ROWS "st.shared.v4.b32 [%s0], {%i0,%i1,%i2,%i3}; bar.sync 0;\n"

const HwCase hw_cases[] = {
	/* Sums of one sign: their rounding is all that can differ. Then both signs, measured by the largest result. */
	{ "mma m16n8k16 f16, positive", "gggggg00pppp", 4, KIND_F32, 4, 0,
		MMA("m16n8k16.row.col.f32.f16.f16.f32", A4, B2) },
	{ "mma m16n8k16 f16, both signs", "nnnnnn00ffff", 4, KIND_F32, 4, 1e-6,
		MMA("m16n8k16.row.col.f32.f16.f16.f32", A4, B2) },
	{ "mma m16n8k16 bf16, positive", "kkkkkk00pppp", 4, KIND_F32, 4, 0,
		MMA("m16n8k16.row.col.f32.bf16.bf16.f32", A4, B2) },
	{ "mma m16n8k16 bf16, both signs", "bbbbbb00uuuu", 4, KIND_F32, 4, 1e-6,
		MMA("m16n8k16.row.col.f32.bf16.bf16.f32", A4, B2) },
	{ "mma m16n8k8 f16", "gg00g000pppp", 4, KIND_F32, 4, 0, MMA("m16n8k8.row.col.f32.f16.f16.f32", "%i0,%i1", "%i4") },
	{ "mma m16n8k8 bf16", "kk00k000pppp", 4, KIND_F32, 4, 0,
		MMA("m16n8k8.row.col.f32.bf16.bf16.f32", "%i0,%i1", "%i4") },
	{ "mma m16n8k8 tf32, positive", "pppppp00pppp", 4, KIND_F32, 4, 0,
		MMA("m16n8k8.row.col.f32.tf32.tf32.f32", A4, B2) },
	{ "mma m16n8k8 tf32, both signs", "uuuuuu00uuuu", 4, KIND_F32, 4, 1e-6,
		MMA("m16n8k8.row.col.f32.tf32.tf32.f32", A4, B2) },
	{ "mma m16n8k4 tf32", "pp00p000pppp", 4, KIND_F32, 4, 0,
		MMA("m16n8k4.row.col.f32.tf32.tf32.f32", "%i0,%i1", "%i4") },
	{ "mma bf16, specials", "ssssss00ffff", 4, KIND_F32, 4, 1e-6, MMA("m16n8k16.row.col.f32.bf16.bf16.f32", A4, B2) },
	{ "mma f16, whole numbers", "iiiiii00zzzz", 4, KIND_F32, 0, 0, MMA("m16n8k16.row.col.f32.f16.f16.f32", A4, B2) },
	{ "mma m16n8k16 f16 to f16", "gggggg00gg00", 2, KIND_F16X2, 1, 0,
		"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%o0,%o1}, {" A4 "}, {" B2 "}, {%i8,%i9};" },
	{ "mma m16n8k32 s8", "wwwwww00wwww", 4, KIND_BITS, 0, 0, MMA("m16n8k32.row.col.s32.s8.s8.s32", A4, B2) },
	{ "mma m16n8k32 u8", "wwwwww00wwww", 4, KIND_BITS, 0, 0, MMA("m16n8k32.row.col.s32.u8.u8.s32", A4, B2) },
	{ "mma m16n8k32 s8 satfinite", "wwwwww00mmmm", 4, KIND_BITS, 0, 0,
		MMA("m16n8k32.row.col.satfinite.s32.s8.s8.s32", A4, B2) },
	{ "mma m16n8k16 s8", "ww00w000wwww", 4, KIND_BITS, 0, 0, MMA("m16n8k16.row.col.s32.s8.s8.s32", "%i0,%i1", "%i4") },

	{ "ldmatrix.x4", "wwwwr", 4, KIND_BITS, 0, 0,
		ROWS "mad.lo.u32 %s2, %i4, 16, %s1; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%o0,%o1,%o2,%o3}, [%s2];" },
	{ "ldmatrix.x4.trans", "wwwwr", 4, KIND_BITS, 0, 0,
		ROWS "mad.lo.u32 %s2, %i4, 16, %s1; ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%o0,%o1,%o2,%o3}, [%s2];" },
	{ "ldmatrix.x2.trans", "wwwwr", 2, KIND_BITS, 0, 0,
		ROWS "mad.lo.u32 %s2, %i4, 16, %s1; ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%o0,%o1}, [%s2];" },
	{ "ldmatrix.x1", "wwwwr", 1, KIND_BITS, 0, 0,
		ROWS "mad.lo.u32 %s2, %i4, 16, %s1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%o0}, [%s2];" },
	{ "cp.async 16 with a source size", "wwwwc000", 4, KIND_BITS, 0, 0,
		"cp.async.cg.shared.global [%s0], [%a], 16, %i4;\n"
		"cp.async.commit_group; cp.async.wait_group 0; ld.shared.v4.b32 {%o0,%o1,%o2,%o3}, [%s0];" },
	{ "cp.async 4 and 8", "wwww", 4, KIND_BITS, 0, 0, "cp.async.ca.shared.global [%s0], [%a+4], 4;\n"
		"cp.async.ca.shared.global [%s0+4], [%a], 4; cp.async.ca.shared.global [%s0+8], [%a+8], 8; cp.async.wait_all;\n"
		"ld.shared.v4.b32 {%o0,%o1,%o2,%o3}, [%s0];" },

	{ "cvt.rn.bf16x2.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("cvt.rn.bf16x2.f32") },
	{ "cvt.rz.bf16x2.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("cvt.rz.bf16x2.f32") },
	{ "cvt.rn.relu.bf16x2.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("cvt.rn.relu.bf16x2.f32") },
	{ "cvt.rn.f16x2.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("cvt.rn.f16x2.f32") },
	{ "cvt.rna.tf32.f32", "f", 1, KIND_BITS, 0, 0, UNARY("cvt.rna.tf32.f32") },
	{ "cvt.f32.f16", "h", 1, KIND_BITS, 0, 0, "mov.b32 {%h0, %h1}, %i0; cvt.f32.f16 %o0, %h0;" },
	{ "cvt.rni.s32.f32", "f", 1, KIND_BITS, 0, 0, UNARY("cvt.rni.s32.f32") },
	{ "cvt.rzi.u32.f32", "f", 1, KIND_BITS, 0, 0, UNARY("cvt.rzi.u32.f32") },
	{ "cvt.rmi.ftz.f32.f32", "f", 1, KIND_BITS, 0, 0, UNARY("cvt.rmi.ftz.f32.f32") },
	{ "cvt.rn.f32.s32", "w", 1, KIND_BITS, 0, 0, UNARY("cvt.rn.f32.s32") },
	{ "cvt.sat.f32.f32", "f", 1, KIND_BITS, 0, 0, UNARY("cvt.sat.f32.f32") },

	{ "add.rn.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("add.rn.f32") },
	{ "add.rn.ftz.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("add.rn.ftz.f32") },
	{ "mul.rn.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("mul.rn.f32") },
	{ "fma.rn.f32", "fff", 1, KIND_BITS, 0, 0, TERNARY("fma.rn.f32") },
	{ "fma.rn.ftz.sat.f32", "fff", 1, KIND_BITS, 0, 0, TERNARY("fma.rn.ftz.sat.f32") },
	{ "min.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("min.f32") },
	{ "max.NaN.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("max.NaN.f32") },
	{ "div.rn.f32", "ff", 1, KIND_BITS, 0, 0, BINARY("div.rn.f32") },
	{ "div.full.f32", "uu", 1, KIND_F32, 2, 0, BINARY("div.full.f32") },
	{ "sqrt.rn.f32", "f", 1, KIND_BITS, 0, 0, UNARY("sqrt.rn.f32") },
	{ "rcp.rn.f32", "f", 1, KIND_BITS, 0, 0, UNARY("rcp.rn.f32") },
	{ "sqrt.approx.ftz.f32", "p", 1, KIND_F32, 2, 0, UNARY("sqrt.approx.ftz.f32") },
	{ "rcp.approx.ftz.f32", "u", 1, KIND_F32, 2, 0, UNARY("rcp.approx.ftz.f32") },
	{ "rsqrt.approx.ftz.f32", "p", 1, KIND_F32, 3, 0, UNARY("rsqrt.approx.ftz.f32") },
	{ "ex2.approx.ftz.f32", "x", 1, KIND_F32, 3, 0, UNARY("ex2.approx.ftz.f32") },
	{ "ex2.approx.f32, specials", "f", 1, KIND_F32, 3, 0, UNARY("ex2.approx.f32") },
	{ "lg2.approx.ftz.f32", "p", 1, KIND_F32, 3, 2e-7, UNARY("lg2.approx.ftz.f32") },
	{ "lg2.approx.f32, specials", "f", 1, KIND_F32, 3, 2e-7, UNARY("lg2.approx.f32") },
	{ "sin.approx.f32", "u", 1, KIND_F32, 3, 1e-6, UNARY("sin.approx.f32") },
	{ "tanh.approx.f32", "u", 1, KIND_F32, 8192, 0, UNARY("tanh.approx.f32") },
	{ "add.f16x2", "hh", 1, KIND_BITS, 0, 0, BINARY("add.rn.f16x2") },
	{ "fma.rn.f16x2", "hhh", 1, KIND_BITS, 0, 0, TERNARY("fma.rn.f16x2") },
	{ "fma.rn.relu.bf16x2", "hhh", 1, KIND_BITS, 0, 0, TERNARY("fma.rn.relu.bf16x2") },
	{ "max.NaN.bf16x2", "hh", 1, KIND_BITS, 0, 0, BINARY("max.NaN.bf16x2") },
	{ "ex2.approx.f16x2", "n", 1, KIND_F16X2, 1, 0, UNARY("ex2.approx.f16x2") },

	{ "shfl.up", "wla", 2, KIND_BITS, 0, 0, SHFL("up") },
	{ "shfl.down", "wla", 2, KIND_BITS, 0, 0, SHFL("down") },
	{ "shfl.bfly", "wla", 2, KIND_BITS, 0, 0, SHFL("bfly") },
	{ "shfl.idx", "wla", 2, KIND_BITS, 0, 0, SHFL("idx") },
	{ "vote.ballot", "w", 1, KIND_BITS, 0, 0,
		"setp.lt.s32 %p0, %i0, 0; vote.sync.ballot.b32 %o0, %p0, -1;" },
	{ "redux.sync.min.s32", "w", 1, KIND_BITS, 0, 0, "redux.sync.min.s32 %o0, %i0, -1;" },
	{ "prmt.b32", "www", 1, KIND_BITS, 0, 0, TERNARY("prmt.b32") },
	{ "bfe.s32", "wll", 1, KIND_BITS, 0, 0, TERNARY("bfe.s32") },
	{ "shf.l.clamp.b32", "wwl", 1, KIND_BITS, 0, 0, TERNARY("shf.l.clamp.b32") },
};

const size_t hw_n_cases = sizeof hw_cases / sizeof *hw_cases;

static uint32_t random_bits(void)
{
	static uint64_t state = 88172645463325252u;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16);
}

static uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static float unit(void) { return (float)(random_bits() >> 8) * 0x1p-24f; }

static uint32_t any_f32(void)
{
	static const uint32_t special[] = { 0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
		0x7f800001,
		1, 0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x477fefff, 0x477ff000, 0x33000000, 0x33000001, 0x38800000,
		0x3f808000, 0x3f818000, 0x4f000000, 0xcf000000, 0x3f000000, 0x3fc00000, 0xc2fc0000, 0x43000000 };
	uint32_t bits = random_bits();
	if (bits % 4 == 0)
		return special[random_bits() % (sizeof special / sizeof *special)];
	return bits % 4 == 1 ? (bits & 0x81ffffff) | 0x3e000000 : bits;
}

static uint32_t pair(uint32_t high, uint32_t low) { return high << 16 | low; }

uint32_t hw_input(char letter, uint32_t thread)
{
	uint32_t x = random_bits(), y = random_bits();
	switch (letter) {
	case 'w': return x;                                             /* any bits */
	case 'm': return x % 2 ? 0x7ffffff0 + y % 16 : 0x80000000 + y % 16;     /* near the ends of s32 */
	case 'f': return any_f32();
	case 'p': return bits_of(unit() + 0.25f);                       /* positive, about 1 */
	case 'u': return bits_of(4 * unit() - 2);                       /* -2 .. 2 */
	case 'x': return bits_of(280 * unit() - 140);                   /* exponents */
	case 'z': return bits_of((float)((int)(x % 200) - 100));        /* whole */
	case 'i': return pair(x % 2 ? 0x3c00 : 0xc200, y % 2 ? 0x4000 : 0xbc00);   /* f16: 1, -3, 2, -1 */
	case 'g': return pair(0x3400 + x % 0x0c00, 0x3400 + y % 0x0c00);        /* two f16 in 0.25 .. 2 */
	case 'n': return pair((x & 0x8000) | (0x3000 + x % 0x1000), (y & 0x8000) | (0x3000 + y % 0x1000));
	case 'k': return pair(0x3e80 + x % 0x0180, 0x3e80 + y % 0x0180);        /* two bf16 in 0.25 .. 2 */
	case 'b': return pair((x & 0x8000) | (0x3e00 + x % 0x0200), (y & 0x8000) | (0x3e00 + y % 0x0200));
	case 'h': return x % 8 ? y : pair(y % 2 ? 0x7c00 : 0x7fff, y % 3 ? 0x8000 : 0x0001);    /* any halves */
	case 's':                                                       /* two bf16, now and then no number */
		return x % 64 ? pair(0x3e80 + x % 0x0180, 0x3e80 + y % 0x0180) : pair(y % 2 ? 0x7f80 : 0x7fc0, 0x0001);
	case 'r': return (thread * 7 + 3) % 32;                         /* a row, each once a warp */
	case 'c': return x % 17;                                        /* bytes of a copy */
	case 'l': return x % 40;                                        /* a lane or a shift, now and then too large */
	case 'a': return (x % 2 ? 0x1f : 0x18 + x % 8) | (y % 4 == 0 ? 0x1800u : y % 4 == 1 ? 0x1000u : 0);
	default: return 0;
	}
}

char *hw_text(const HwCase *c)
{
	size_t size = strlen(c->body) + 4096, at, n_in = strlen(c->inputs);
	char *text = malloc(size);
	if (!text)
		return NULL;
	/* %a: this thread's inputs; %s0: its 16 bytes of shared memory, %s1: its warp's 512. */
	at = (size_t)snprintf(text, size, ".version 7.8\n.target sm_80\n.address_size 64\n"
		".visible .entry k(.param .u64 p_in, .param .u64 p_out)\n{\n"
		".reg .pred %%p<2>; .reg .b16 %%h<4>; .reg .b32 %%i<%d>, %%o<%d>, %%s<4>, %%t<4>; .reg .b64 %%a, %%b, %%c;\n"
		".shared .align 16 .b8 rows[%d];\n"
		"mov.u32 %%t0, %%tid.x; mov.u32 %%t1, %%ctaid.x; mad.lo.u32 %%t1, %%t1, %d, %%t0;\n"
		"mov.u32 %%s1, rows; mad.lo.u32 %%s0, %%t0, 16, %%s1; and.b32 %%t2, %%t0, 992; mad.lo.u32 %%s1, %%t2, 16, "
			"%%s1;\n"
		"ld.param.u64 %%a, [p_in]; cvta.to.global.u64 %%a, %%a; mul.wide.u32 %%c, %%t1, %zu; add.s64 %%a, %%a, %%c;\n"
		"ld.param.u64 %%b, [p_out]; cvta.to.global.u64 %%b, %%b; mul.wide.u32 %%c, %%t1, %d; add.s64 %%b, %%b, %%c;\n",
		MAX_IN, MAX_OUT, BLOCK * 16, BLOCK, 4 * n_in, 4 * c->n_out);
	for (size_t i = 0; i < n_in; i++)
		at += (size_t)snprintf(text + at, size - at, "ld.global.b32 %%i%zu, [%%a+%zu];\n", i, 4 * i);
	at += (size_t)snprintf(text + at, size - at, "%s\n", c->body);
	for (int i = 0; i < c->n_out; i++)
		at += (size_t)snprintf(text + at, size - at, "st.global.b32 [%%b+%d], %%o%d;\n", 4 * i, i);
	snprintf(text + at, size - at, "ret;\n}\n");
	return text;
}
