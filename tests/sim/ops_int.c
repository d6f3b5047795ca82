/* Integer, bit, predicate and conversion instructions against C, over random and special operands. */
#include <stdio.h>
#include <string.h>
#include "testing.h"

enum { CASES = 512, MAX_IN = 4 };

typedef uint64_t (*Expected)(const uint64_t *x);
typedef struct Row { const char *opcode, *widths; int out_bytes; Expected expected; } Row;

#define E(name, expression) \
static uint64_t name(const uint64_t *x) { \
	uint64_t a = x[0], b = x[1], c = x[2], d = x[3]; \
	(void)a; (void)b; (void)c; (void)d; return (uint64_t)(expression); }
#define U16(v) ((uint16_t)(v))
#define S16(v) ((int16_t)(v))
#define U32(v) ((uint32_t)(v))
#define S32(v) ((int32_t)(v))
#define S64(v) ((int64_t)(v))

E(add, a + b) E(sub, a - b) E(mul, a * b) E(mad, a * b + c)
E(hi_u16, (U16(a) * (uint32_t)U16(b)) >> 16) E(hi_s16, (S16(a) * (int32_t)S16(b)) >> 16)
E(hi_u32, ((uint64_t)U32(a) * U32(b)) >> 32) E(hi_s32, ((int64_t)S32(a) * S32(b)) >> 32)
E(hi_u64, ((unsigned __int128)a * b) >> 64) E(hi_s64, ((__int128)S64(a) * S64(b)) >> 64)
E(wide_u16, (uint32_t)U16(a) * U16(b)) E(wide_s16, (int32_t)S16(a) * S16(b))
E(wide_u32, (uint64_t)U32(a) * U32(b)) E(wide_s32, (int64_t)S32(a) * S32(b))
E(mwide_u32, (uint64_t)U32(a) * U32(b) + c) E(mwide_s32, (uint64_t)((int64_t)S32(a) * S32(b)) + c)
E(div_u32, U32(a) / (U32(b) | !U32(b))) E(rem_u32, U32(a) % (U32(b) | !U32(b)))
E(div_s32, S32(b) == -1 ? -(int64_t)S32(a) : S32(a) / (S32(b) | !S32(b)))
E(rem_s32, S32(b) == -1 ? 0 : S32(a) % (S32(b) | !S32(b)))
E(div_u64, a / b) E(rem_u64, a % b) E(div_s64, b == UINT64_MAX ? 0 - a : (uint64_t)(S64(a) / S64(b)))
E(min_u16, U16(a) < U16(b) ? a : b) E(min_s16, S16(a) < S16(b) ? a : b) E(max_s16, S16(a) > S16(b) ? a : b)
E(min_u32, U32(a) < U32(b) ? a : b) E(min_s32, S32(a) < S32(b) ? a : b)
E(max_u32, U32(a) > U32(b) ? a : b) E(max_s32, S32(a) > S32(b) ? a : b)
E(min_relu, S32(a) < 0 || S32(b) < 0 ? 0 : S32(a) < S32(b) ? a : b)
E(max_relu, S32(a) < 0 && S32(b) < 0 ? 0 : S32(a) > S32(b) ? a : b)
E(min_u64, a < b ? a : b) E(min_s64, S64(a) < S64(b) ? a : b) E(max_u64, a > b ? a : b)
	E(max_s64, S64(a) > S64(b) ? a : b)
E(abs_s16, S16(a) < 0 ? -S16(a) : S16(a)) E(abs_s32, S32(a) < 0 ? 0 - a : a) E(abs_s64, S64(a) < 0 ? 0 - a : a)
E(neg, 0 - a) E(not, ~a) E(and, a & b) E(or, a | b) E(xor, a ^ b)
E(cnot_32, U32(a) == 0) E(cnot_64, a == 0)
E(shl_16, U32(b) < 16 ? a << U32(b) : 0) E(shl_32, U32(b) < 32 ? a << U32(b) : 0)
	E(shl_64, U32(b) < 64 ? a << U32(b) : 0)
E(shr_u16, U32(b) < 16 ? U16(a) >> U32(b) : 0) E(shr_s16, S16(a) >> (U32(b) < 16 ? U32(b) : 15))
E(shr_u32, U32(b) < 32 ? U32(a) >> U32(b) : 0) E(shr_s32, S32(a) >> (U32(b) < 32 ? U32(b) : 31))
E(shr_u64, U32(b) < 64 ? a >> U32(b) : 0) E(shr_s64, S64(a) >> (U32(b) < 64 ? U32(b) : 63))
E(popc_32, __builtin_popcount(U32(a))) E(popc_64, __builtin_popcountll(a))
E(clz_32, U32(a) ? __builtin_clz(U32(a)) : 32) E(clz_64, a ? __builtin_clzll(a) : 64)
E(selp3, c & 1 ? a : b)
E(slct_32, S32(c) >= 0 ? a : b)
E(and_pred, a & b & 1) E(or_pred, (a | b) & 1) E(xor_pred, (a ^ b) & 1) E(not_pred, ~a & 1)
E(eq_32, U32(a) == U32(b)) E(ne_32, U32(a) != U32(b)) E(lt_s32, S32(a) < S32(b)) E(le_s32, S32(a) <= S32(b))
E(gt_u32, U32(a) > U32(b)) E(ge_u32, U32(a) >= U32(b)) E(lt_s16, S16(a) < S16(b)) E(gt_s64, S64(a) > S64(b))
E(ls_u64, a <= b) E(lt_and, S32(a) < S32(b) && (c & 1)) E(lt_or, S32(a) < S32(b) || (c & 1))
E(lt_xor, (S32(a) < S32(b)) != (c & 1)) E(set_32, U32(a) > U32(b) ? UINT32_MAX : 0)
E(u64_s32, S32(a)) E(u64_u32, U32(a)) E(u32_s16, S16(a)) E(u32_u16, U16(a)) E(u8, a & 255) E(s8, (int8_t)a)
E(sat_u8_s32, S32(a) < 0 ? 0 : S32(a) > 255 ? 255 : S32(a))
E(sat_s16_s32, S32(a) < -32768 ? -32768 : S32(a) > 32767 ? 32767 : S32(a))
E(sat_s32_u64, a > INT32_MAX ? INT32_MAX : a)
E(szext_s, (U32(b) & 31) == 0 ? 0 : (S32(U32(a) << (32 - (U32(b) & 31))) >> (32 - (U32(b) & 31))))
E(shf_l_wrap, (b << 32 | U32(a)) << (c & 31) >> 32) E(shf_r_wrap, (U32(b) * (UINT64_C(1) << 32) + U32(a)) >> (c & 31))
E(shf_l_clamp, U32(c) >= 32 ? a : (b << 32 | U32(a)) << U32(c) >> 32)
E(shf_r_clamp, U32(c) >= 32 ? b : (U32(b) * (UINT64_C(1) << 32) + U32(a)) >> U32(c))
E(sad_s32, (S32(a) < S32(b) ? b - a : a - b) + c)

/* The definitions of the PTX manual, bit by bit. */
static uint64_t extract(uint64_t a, uint64_t b, uint64_t c, int msb, bool is_signed)
{
	int position = (int)(b & 255), length = (int)(c & 255), last = position + length - 1 < msb
		? position + length - 1 : msb;
	uint64_t sign = is_signed && length ? a >> last & 1 : 0, result = 0;
	for (int i = 0; i <= msb; i++)
		result |= (i < length && position + i <= msb ? a >> (position + i) & 1 : sign) << i;
	return result;
}
E(bfe_u32, extract(a, b, c, 31, false)) E(bfe_s32, extract(a, b, c, 31, true))
E(bfe_u64, extract(a, b, c, 63, false)) E(bfe_s64, extract(a, b, c, 63, true))

static uint64_t insert(uint64_t a, uint64_t b, uint64_t c, uint64_t d, int msb)
{
	int position = (int)(c & 255), length = (int)(d & 255);
	for (int i = 0; i < length && position + i <= msb; i++)
		b = (b & ~(UINT64_C(1) << (position + i))) | (a >> i & 1) << (position + i);
	return b;
}
E(bfi_32, insert(a, b, c, d, 31)) E(bfi_64, insert(a, b, c, d, 63))

static uint64_t reversed(uint64_t a, int bits)
{
	uint64_t r = 0;
	for (int i = 0; i < bits; i++)
		if (a >> i & 1)
			r |= UINT64_C(1) << (bits - 1 - i);
	return r;
}
E(brev_32, reversed(a, 32)) E(brev_64, reversed(a, 64))

static uint64_t found(uint64_t a, int bits, bool is_signed)
{
	uint64_t sign = is_signed ? a >> (bits - 1) & 1 : 0;
	for (int i = bits - 1; i >= 0; i--)
		if ((a >> i & 1) != sign)
			return (uint64_t)i;
	return UINT32_MAX;
}
E(bfind_u32, found(U32(a), 32, false)) E(bfind_s32, found(U32(a), 32, true)) E(bfind_u64, found(a, 64, false))

static uint64_t permuted(const uint64_t *x)
{
	uint8_t bytes[8], result[4];
	uint32_t packed[2] = { U32(x[0]), U32(x[1]) }, out;
	memcpy(bytes, packed, 8);
	for (int i = 0; i < 4; i++) {
		int selector = (int)(x[2] >> 4 * i & 15);
		result[i] = selector & 8 ? (bytes[selector & 7] & 128 ? 255 : 0) : bytes[selector & 7];
	}
	memcpy(&out, result, 4);
	return out;
}

static const Row rows[] = {
	{ "add.s16", "22", 2, add }, { "add.s32", "44", 4, add }, { "add.u64", "88", 8, add }, { "sub.u16", "22", 2, sub },
	{ "sub.s32", "44", 4, sub }, { "sub.s64", "88", 8, sub }, { "mul.lo.u16", "22", 2, mul },
		{ "mul.lo.s32", "44", 4, mul },
	{ "mul.lo.u64", "88", 8, mul }, { "mad.lo.s16", "222", 2, mad }, { "mad.lo.u32", "444", 4, mad },
	{ "mad.lo.s64", "888", 8, mad }, { "mul.hi.u16", "22", 2, hi_u16 }, { "mul.hi.s16", "22", 2, hi_s16 },
	{ "mul.hi.u32", "44", 4, hi_u32 }, { "mul.hi.s32", "44", 4, hi_s32 }, { "mul.hi.u64", "88", 8, hi_u64 },
	{ "mul.hi.s64", "88", 8, hi_s64 }, { "mul.wide.u16", "22", 4, wide_u16 }, { "mul.wide.s16", "22", 4, wide_s16 },
	{ "mul.wide.u32", "44", 8, wide_u32 }, { "mul.wide.s32", "44", 8, wide_s32 },
		{ "mad.wide.u32", "448", 8, mwide_u32 },
	{ "mad.wide.s32", "448", 8, mwide_s32 }, { "div.u32", "44", 4, div_u32 }, { "rem.u32", "44", 4, rem_u32 },
	{ "div.s32", "44", 4, div_s32 }, { "rem.s32", "44", 4, rem_s32 }, { "div.u64", "88", 8, div_u64 },
	{ "rem.u64", "88", 8, rem_u64 }, { "div.s64", "88", 8, div_s64 }, { "min.u16", "22", 2, min_u16 },
	{ "min.s16", "22", 2, min_s16 }, { "max.s16", "22", 2, max_s16 }, { "min.u32", "44", 4, min_u32 },
	{ "min.s32", "44", 4, min_s32 }, { "max.u32", "44", 4, max_u32 }, { "max.s32", "44", 4, max_s32 },
	{ "min.relu.s32", "44", 4, min_relu }, { "max.relu.s32", "44", 4, max_relu },
	{ "min.u64", "88", 8, min_u64 }, { "min.s64", "88", 8, min_s64 }, { "max.u64", "88", 8, max_u64 },
	{ "max.s64", "88", 8, max_s64 }, { "abs.s16", "2", 2, abs_s16 }, { "abs.s32", "4", 4, abs_s32 },
	{ "abs.s64", "8", 8, abs_s64 }, { "neg.s16", "2", 2, neg }, { "neg.s32", "4", 4, neg }, { "neg.s64", "8", 8, neg },
	{ "not.b16", "2", 2, not }, { "not.b32", "4", 4, not }, { "not.b64", "8", 8, not }, { "and.b16", "22", 2, and },
	{ "and.b32", "44", 4, and }, { "and.b64", "88", 8, and }, { "or.b32", "44", 4, or }, { "or.b64", "88", 8, or },
	{ "xor.b16", "22", 2, xor }, { "xor.b32", "44", 4, xor }, { "xor.b64", "88", 8, xor },
		{ "cnot.b32", "4", 4, cnot_32 },
	{ "cnot.b64", "8", 8, cnot_64 }, { "shl.b16", "24", 2, shl_16 }, { "shl.b32", "44", 4, shl_32 },
	{ "shl.b64", "84", 8, shl_64 }, { "shr.u16", "24", 2, shr_u16 }, { "shr.s16", "24", 2, shr_s16 },
	{ "shr.u32", "44", 4, shr_u32 }, { "shr.s32", "44", 4, shr_s32 }, { "shr.u64", "84", 8, shr_u64 },
	{ "shr.s64", "84", 8, shr_s64 }, { "popc.b32", "4", 4, popc_32 }, { "popc.b64", "8", 4, popc_64 },
	{ "clz.b32", "4", 4, clz_32 }, { "clz.b64", "8", 4, clz_64 }, { "bfe.u32", "444", 4, bfe_u32 },
	{ "bfe.s32", "444", 4, bfe_s32 }, { "bfe.u64", "844", 8, bfe_u64 }, { "bfe.s64", "844", 8, bfe_s64 },
	{ "bfi.b32", "4444", 4, bfi_32 }, { "bfi.b64", "8844", 8, bfi_64 }, { "brev.b32", "4", 4, brev_32 },
	{ "brev.b64", "8", 8, brev_64 }, { "bfind.u32", "4", 4, bfind_u32 }, { "bfind.s32", "4", 4, bfind_s32 },
	{ "bfind.u64", "8", 4, bfind_u64 }, { "prmt.b32", "444", 4, permuted }, { "shf.l.wrap.b32", "444", 4, shf_l_wrap },
	{ "shf.r.wrap.b32", "444", 4, shf_r_wrap }, { "shf.l.clamp.b32", "444", 4, shf_l_clamp },
	{ "shf.r.clamp.b32", "444", 4, shf_r_clamp }, { "szext.wrap.s32", "44", 4, szext_s },
		{ "sad.s32", "444", 4, sad_s32 },
	{ "selp.b16", "221", 2, selp3 }, { "selp.b32", "441", 4, selp3 }, { "selp.b64", "881", 8, selp3 },
	{ "slct.b32.s32", "444", 4, slct_32 }, { "and.pred", "11", 1, and_pred }, { "or.pred", "11", 1, or_pred },
	{ "xor.pred", "11", 1, xor_pred }, { "not.pred", "1", 1, not_pred }, { "setp.eq.b32", "44", 1, eq_32 },
	{ "setp.ne.u32", "44", 1, ne_32 }, { "setp.lt.s32", "44", 1, lt_s32 }, { "setp.le.s32", "44", 1, le_s32 },
	{ "setp.gt.u32", "44", 1, gt_u32 }, { "setp.hs.u32", "44", 1, ge_u32 }, { "setp.lt.s16", "22", 1, lt_s16 },
	{ "setp.gt.s64", "88", 1, gt_s64 }, { "setp.ls.u64", "88", 1, ls_u64 }, { "setp.lt.and.s32", "441", 1, lt_and },
	{ "setp.lt.or.s32", "441", 1, lt_or }, { "setp.lt.xor.s32", "441", 1, lt_xor },
		{ "set.gt.u32.u32", "44", 4, set_32 },
	{ "cvt.s64.s32", "4", 8, u64_s32 }, { "cvt.u64.u32", "4", 8, u64_u32 }, { "cvt.u32.u64", "8", 4, add },
	{ "cvt.s32.s16", "2", 4, u32_s16 }, { "cvt.u32.u16", "2", 4, u32_u16 }, { "cvt.u32.u8", "4", 4, u8 },
	{ "cvt.s32.s8", "4", 4, s8 }, { "cvt.sat.u8.s32", "4", 4, sat_u8_s32 }, { "cvt.sat.s16.s32", "4", 2, sat_s16_s32 },
	{ "cvt.sat.s32.u64", "8", 4, sat_s32_u64 },
};

/* Whole ranges, small numbers (shifts, selectors) and the corners. */
static uint64_t operand(int kind)
{
	static const uint64_t special[] = { 0, 1, UINT64_MAX, 0x7fff, 0x8000, 0x7fffffff, 0x80000000, UINT64_C(1) << 63,
		31, 32,
		33, 63, 64, 255, 256 };
	switch (kind) {
	case 0: return special[random_bits() % (sizeof special / sizeof *special)];
	case 1: return random_bits() % 70;
	default: return (uint64_t)random_bits() << 32 | random_bits();
	}
}

static void test_row(const Row *row)
{
	static uint64_t in[CASES * MAX_IN], out[CASES];
	size_t n = strlen(row->widths);
	uint64_t mask = row->out_bytes == 1 ? 1 : UINT64_MAX >> (64 - 8 * row->out_bytes);
	bool divides = strncmp(row->opcode, "div", 3) == 0 || strncmp(row->opcode, "rem", 3) == 0;
	for (size_t i = 0; i < CASES * n; i++) {
		in[i] = operand((int)(random_bits() % 3));
		if (divides && i % n == 1 && !(uint32_t)in[i])
			in[i] = 7;
	}
	if (!run_op(row->opcode, row->widths, row->out_bytes, in, out, CASES)) {
		check(false, "%s does not run", row->opcode);
		return;
	}
	size_t bad = 0;
	for (size_t i = 0; i < CASES; i++) {
		uint64_t x[MAX_IN] = { 0 };
		memcpy(x, &in[i * n], n * sizeof *x);
		uint64_t want = row->expected(x) & mask;
		if (out[i] != want && bad++ == 0)
			printf("%s(%llx, %llx, %llx): %llx, not %llx\n", row->opcode, (unsigned long long)x[0],
				(unsigned long long)x[1],
				(unsigned long long)x[2], (unsigned long long)out[i], (unsigned long long)want);
	}
	check(bad == 0, "%s: %zu of %d cases", row->opcode, bad, CASES);
}

/* The table is part of the opcode's text: all 256 of them. */
static void test_lop3(void)
{
	for (uint32_t table = 0; table < 256; table++) {
		uint64_t in[2] = { 0 }, out;
		char body[600];
		uint32_t want = 0;
		for (int i = 0; i < 32; i++) {
			uint32_t a = 0xf0f01234u >> i & 1, b = 0xcccc8765u >> i & 1, c = 0xaaaa55ffu >> i & 1;
			want |= (table >> (a * 4 + b * 2 + c) & 1) << i;
		}
		snprintf(body, sizeof body, "mov.b32 %%r1, 0xf0f01234; mov.b32 %%r2, 0xcccc8765; mov.b32 %%r3, 0xaaaa55ff;\n"
			"lop3.b32 %%r0, %%r1, %%r2, %%r3, %u; st.global.b32 [%%out], %%r0;", table);
		Sim *sim = sim_new();
		void *to = sim_alloc(sim, 4);
		char *text = kernel_text(".reg .b32 %r<4>;", body);
		out = 0;
		bool ok = run_text(sim, text, 1, 1, 0, in, to) && sim_copy_out(sim, &out, to, 4) == 0;
		check(ok && out == want, "lop3 with table %u: %s", table, sim_error(sim));
		__builtin_free(text);
		sim_free(sim);
	}
}

int main(void)
{
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		test_row(&rows[i]);
	test_lop3();
	return tests_done();
}
