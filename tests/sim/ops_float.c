/* Floating point against C and against a table of every f16 and bf16 value, over random bits and all the corners. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "testing.h"

enum { CASES = 1024, MAX_IN = 3 };

typedef uint64_t (*Expected)(const uint64_t *x);
typedef struct Row { const char *opcode, *widths; int out_bytes; Expected expected; int ulps; } Row;

static float f32(uint64_t bits) { uint32_t b = (uint32_t)bits; float x; memcpy(&x, &b, 4); return x; }
static double f64(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static uint64_t bits64(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
static uint64_t bits32(float x) { uint32_t b; memcpy(&b, &x, 4); return x != x ? 0x7fffffff : b; }
static float ftz(float x) { return fpclassify(x) == FP_SUBNORMAL ? copysignf(0, x) : x; }

/* ---- f16 and bf16 by definition ---- */

static double small_value(uint32_t bits, int mantissa_bits, int bias)
{
	int exponent = (int)(bits & 0x7fff) >> mantissa_bits, mantissa = (int)bits & ((1 << mantissa_bits) - 1);
	int top = (1 << (15 - mantissa_bits)) - 1;
	double x = exponent == top ? (mantissa ? NAN : INFINITY)
		: exponent == 0 ? ldexp(mantissa, 1 - bias - mantissa_bits)
		: ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
	return bits & 0x8000 ? -x : x;
}

/* The nearest encoding by search; ties go to the even one. Past the middle above the largest it is infinity. */
static uint32_t small_bits(double x, int mantissa_bits, int bias)
{
	uint32_t sign = signbit(x) ? 0x8000 : 0, infinity = ((1u << (15 - mantissa_bits)) - 1) << mantissa_bits;
	if (x != x)
		return 0x7fff;
	x = fabs(x);
	uint32_t low = 0, high = infinity;
	while (high - low > 1) {
		uint32_t middle = (low + high) / 2;
		if (small_value(middle, mantissa_bits, bias) <= x)
			low = middle;
		else
			high = middle;
	}
	double below = small_value(low, mantissa_bits, bias), step = below - small_value(low ? low - 1 : 0,
		mantissa_bits, bias);
	double above = high == infinity ? below + step : small_value(high, mantissa_bits, bias);
	if (isinf(x) || x - below > above - x || (x - below == above - x && low & 1))
		low = high;
	return sign | low;
}

static double h(uint64_t bits) { return small_value((uint32_t)bits & 0xffff, 10, 15); }
static double bf(uint64_t bits) { return small_value((uint32_t)bits & 0xffff, 7, 127); }
static uint64_t to_h(double x) { return small_bits(x, 10, 15); }
static uint64_t to_bf(double x) { return small_bits(x, 7, 127); }

#define E(name, expression) \
static uint64_t name(const uint64_t *x) { float a = f32(x[0]), b = f32(x[1]), c = f32(x[2]); \
	(void)a; (void)b; (void)c; return expression; }
E(add, bits32(a + b)) E(sub, bits32(a - b)) E(mul, bits32(a * b)) E(fma3, bits32(fmaf(a, b, c)))
	E(divide, bits32(a / b))
E(add_ftz, bits32(ftz(ftz(a) + ftz(b)))) E(mul_ftz, bits32(ftz(ftz(a) * ftz(b))))
E(add_sat, a + b > 0 ? bits32(fminf(a + b, 1)) : 0)
E(root, bits32(sqrtf(a))) E(reciprocal, bits32(1 / a)) E(rroot, bits32((float)(1 / sqrt(a)))) E(ex2, bits32(exp2f(a)))
E(lg2, bits32(log2f(a))) E(hyp, bits32((float)tanh(a)))
E(minimum, a != a ? bits32(b) : b != b ? bits32(a) : a == b ? x[0] | x[1] : bits32(a < b ? a : b))
E(maximum, a != a ? bits32(b) : b != b ? bits32(a) : a == b ? x[0] & x[1] : bits32(a > b ? a : b))
E(minimum_nan, a != a || b != b ? 0x7fffffff : a == b ? x[0] | x[1] : bits32(a < b ? a : b))
E(maximum_nan, a != a || b != b ? 0x7fffffff : a == b ? x[0] & x[1] : bits32(a > b ? a : b))
E(absolute, x[0] & 0x7fffffff) E(negate, x[0] ^ 0x80000000) E(sign_of, (x[0] & 0x80000000) | (x[1] & 0x7fffffff))
E(lt, a < b) E(ne, a < b || a > b) E(neu, !(a == b)) E(geu, !(a < b)) E(ltu, !(a >= b)) E(num, a == a && b == b)
E(isnan2, a != a || b != b) E(normal, fpclassify(a) == FP_NORMAL) E(infinite, isinf(a) != 0)
E(floor_f, bits32(floorf(a))) E(ceil_f, bits32(ceilf(a))) E(round_f, bits32(nearbyintf(a)))
	E(trunc_f, bits32(truncf(a)))
E(to_s32, a != a ? 0 : (uint64_t)(int64_t)(a >= 0x1p31f ? INT32_MAX : a < -0x1p31f ? INT32_MIN : (int64_t)a))
E(to_u32, a != a || a < 0 ? 0 : a >= 0x1p32f ? UINT32_MAX : (uint64_t)a)
E(floor_s32, a != a ? 0 : (uint64_t)(int64_t)(a >= 0x1p31f ? INT32_MAX : a < -0x1p31f ? INT32_MIN : (int64_t)floorf(a)))
E(from_s32, bits32((float)(int32_t)x[0])) E(from_u32, bits32((float)(uint32_t)x[0]))
	E(from_s64, bits32((float)(int64_t)x[0]))
E(half_of_u32, to_h((uint32_t)x[0])) E(bf_of_f, to_bf(a)) E(half_of_f, to_h(a))
E(pair_bf, to_bf(a) << 16 | to_bf(b)) E(pair_h, to_h(a) << 16 | to_h(b))
E(pair_relu, to_bf(a <= 0 ? 0 : a) << 16 | to_bf(b <= 0 ? 0 : b))
E(wide_h, bits32((float)h(x[0]))) E(wide_bf, bits32((float)bf(x[0])))
/* a NaN as an H100 answers it */
E(tf32_of, a != a ? x[0] & 0xffffe000 : isinf(a) ? x[0] : (x[0] + 0x1000) & 0xffffe000)
E(d_of_f, bits64(a)) E(h_add, to_h(h(x[0]) + h(x[1]))) E(h_mul, to_h(h(x[0]) * h(x[1])))
E(h_fma, to_h(h(x[0]) * h(x[1]) + h(x[2]))) E(bf_mul, to_bf(bf(x[0]) * bf(x[1])))
E(h2_add, to_h(h(x[0]) + h(x[1])) | to_h(h(x[0] >> 16) + h(x[1] >> 16)) << 16)
E(bf2_mul, to_bf(bf(x[0]) * bf(x[1])) | to_bf(bf(x[0] >> 16) * bf(x[1] >> 16)) << 16)
E(h_max_nan, h(x[0]) != h(x[0]) || h(x[1]) != h(x[1]) ? 0x7fff : h(x[0]) == h(x[1]) ? x[0] & x[1] & 0xffff
	: h(x[0]) > h(x[1]) ? x[0] : x[1])
#define D(name, expression) \
static uint64_t name(const uint64_t *x) { double a = f64(x[0]), b = f64(x[1]), c = f64(x[2]); \
	(void)a; (void)b; (void)c; return bits64(expression); }
D(d_add, a + b) D(d_mul, a * b) D(d_fma, fma(a, b, c)) D(d_div, a / b) D(d_sqrt, sqrt(a))
static uint64_t f_of_d(const uint64_t *x) { return bits32((float)f64(x[0])); }

static const Row rows[] = {
	{ "add.rn.f32", "44", 4, add, 0 }, { "add.f32", "44", 4, add, 0 }, { "sub.rn.f32", "44", 4, sub, 0 },
	{ "mul.rn.f32", "44", 4, mul, 0 }, { "fma.rn.f32", "444", 4, fma3, 0 }, { "div.rn.f32", "44", 4, divide, 0 },
	{ "div.full.f32", "44", 4, divide, 0 }, { "add.rn.ftz.f32", "44", 4, add_ftz, 0 },
		{ "mul.ftz.f32", "44", 4, mul_ftz, 0 },
	{ "add.sat.f32", "44", 4, add_sat, 0 }, { "sqrt.rn.f32", "4", 4, root, 0 }, { "rcp.rn.f32", "4", 4, reciprocal, 0 },
	{ "rsqrt.approx.f32", "4", 4, rroot, 1 }, { "ex2.approx.f32", "4", 4, ex2, 1 },
		{ "lg2.approx.f32", "4", 4, lg2, 1 },
	{ "tanh.approx.f32", "4", 4, hyp, 1 }, { "min.f32", "44", 4, minimum, 0 }, { "max.f32", "44", 4, maximum, 0 },
	{ "min.NaN.f32", "44", 4, minimum_nan, 0 }, { "max.NaN.f32", "44", 4, maximum_nan, 0 },
	{ "abs.f32", "4", 4, absolute, 0 }, { "neg.f32", "4", 4, negate, 0 }, { "copysign.f32", "44", 4, sign_of, 0 },
	{ "setp.lt.f32", "44", 1, lt, 0 }, { "setp.ne.f32", "44", 1, ne, 0 }, { "setp.neu.f32", "44", 1, neu, 0 },
	{ "setp.geu.f32", "44", 1, geu, 0 }, { "setp.ltu.f32", "44", 1, ltu, 0 }, { "setp.num.f32", "44", 1, num, 0 },
	{ "setp.nan.f32", "44", 1, isnan2, 0 }, { "testp.normal.f32", "4", 1, normal, 0 },
	{ "testp.infinite.f32", "4", 1, infinite, 0 }, { "cvt.rmi.f32.f32", "4", 4, floor_f, 0 },
	{ "cvt.rpi.f32.f32", "4", 4, ceil_f, 0 }, { "cvt.rni.f32.f32", "4", 4, round_f, 0 },
	{ "cvt.rzi.f32.f32", "4", 4, trunc_f, 0 }, { "cvt.rzi.s32.f32", "4", 4, to_s32, 0 },
	{ "cvt.rzi.u32.f32", "4", 4, to_u32, 0 }, { "cvt.rmi.s32.f32", "4", 4, floor_s32, 0 },
	{ "cvt.rn.f32.s32", "4", 4, from_s32, 0 }, { "cvt.rn.f32.u32", "4", 4, from_u32, 0 },
	{ "cvt.rn.f32.s64", "8", 4, from_s64, 0 }, { "cvt.rn.f16.u32", "4", 2, half_of_u32, 0 },
	{ "cvt.rn.bf16.f32", "4", 2, bf_of_f, 0 }, { "cvt.rn.f16.f32", "4", 2, half_of_f, 0 },
	{ "cvt.rn.bf16x2.f32", "44", 4, pair_bf, 0 }, { "cvt.rn.f16x2.f32", "44", 4, pair_h, 0 },
	{ "cvt.rn.relu.bf16x2.f32", "44", 4, pair_relu, 0 }, { "cvt.f32.f16", "2", 4, wide_h, 0 },
	{ "cvt.f32.bf16", "2", 4, wide_bf, 0 }, { "cvt.rna.tf32.f32", "4", 4, tf32_of, 0 },
		{ "cvt.f64.f32", "4", 8, d_of_f, 0 },
	{ "cvt.rn.f32.f64", "8", 4, f_of_d, 0 }, { "add.rn.f16", "22", 2, h_add, 0 }, { "mul.f16", "22", 2, h_mul, 0 },
	{ "fma.rn.f16", "222", 2, h_fma, 0 }, { "mul.bf16", "22", 2, bf_mul, 0 }, { "add.f16x2", "44", 4, h2_add, 0 },
	{ "mul.rn.bf16x2", "44", 4, bf2_mul, 0 }, { "max.NaN.f16", "22", 2, h_max_nan, 0 },
		{ "add.f64", "88", 8, d_add, 0 },
	{ "mul.rn.f64", "88", 8, d_mul, 0 }, { "fma.rn.f64", "888", 8, d_fma, 0 }, { "div.rn.f64", "88", 8, d_div, 0 },
	{ "sqrt.rn.f64", "8", 8, d_sqrt, 0 },
};

static uint64_t operand(int bytes)
{
	static const uint32_t special[] = { 0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 1,
		0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x477fe000, 0x477fefff, 0x477ff000, 0x33000000, 0x33000001,
		0x38800000, 0x387fffff, 0x3f808000, 0x3f818000, 0x4f000000, 0xcf000000, 0x3f000000, 0x3fc00000 };
	uint32_t bits = random_bits();
	if (bits % 4 == 0)
		bits = special[random_bits() % (sizeof special / sizeof *special)];
	else if (bits % 4 == 1)
		bits = (bits & 0x81ffffff) | 0x3e000000;       /* near 1 */
	if (bytes == 8 && random_bits() % 2)
		return bits64(f32(bits));
	return bytes == 8 ? (uint64_t)bits << 32 | random_bits() : bits;
}

/* Same bits, or both NaN of 64 bits (whose payload is the host's own), or so many places apart. */
static bool matches(uint64_t got, uint64_t want, const Row *row)
{
	if (got == want)
		return true;
	if (row->out_bytes == 8)
		return f64(got) != f64(got) && f64(want) != f64(want);
	int64_t apart = (int64_t)got - (int64_t)want;
	return row->ulps && apart <= row->ulps && apart >= -row->ulps;
}

static void test_row(const Row *row)
{
	static uint64_t in[CASES * MAX_IN], out[CASES];
	size_t n = strlen(row->widths), bad = 0;
	for (size_t i = 0; i < CASES * n; i++)
		in[i] = operand(row->widths[i % n] - '0');
	if (!run_op(row->opcode, row->widths, row->out_bytes, in, out, CASES)) {
		check(false, "%s does not run", row->opcode);
		return;
	}
	for (size_t i = 0; i < CASES; i++) {
		uint64_t x[MAX_IN] = { 0 };
		memcpy(x, &in[i * n], n * sizeof *x);
		uint64_t want = row->expected(x) & (row->out_bytes == 1 ? 1 : UINT64_MAX >> (64 - 8 * row->out_bytes));
		if (!matches(out[i], want, row) && bad++ == 0)
			printf("%s(%llx, %llx, %llx): %llx, not %llx\n", row->opcode, (unsigned long long)x[0],
				(unsigned long long)x[1],
				(unsigned long long)x[2], (unsigned long long)out[i], (unsigned long long)want);
	}
	check(bad == 0, "%s: %zu of %d cases", row->opcode, bad, CASES);
}

/* Every value of both formats survives the way to f32 and back. */
static void test_round_trip(const char *type, const char *expand, const char *narrow)
{
	static uint64_t in[65536], wide[65536], back[65536];
	size_t bad = 0;
	for (uint32_t i = 0; i < 65536; i++)
		in[i] = i;
	bool ok = run_op(expand, "2", 4, in, wide, 65536) && run_op(narrow, "4", 2, wide, back, 65536);
	for (uint32_t i = 0; ok && i < 65536; i++)
		bad += back[i] != (f32(wide[i]) != f32(wide[i]) ? 0x7fff : i);
	check(ok && bad == 0, "%s to f32 and back: %zu values change", type, bad);
}

int main(void)
{
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		test_row(&rows[i]);
	test_round_trip("f16", "cvt.f32.f16", "cvt.rn.f16.f32");
	test_round_trip("bf16", "cvt.f32.bf16", "cvt.rn.bf16.f32");
	return tests_done();
}
