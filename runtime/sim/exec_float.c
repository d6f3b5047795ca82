/*
 * f32 and f64 arithmetic. One IEEE rounding an operation; the file is compiled with contraction off. The .approx
 * functions give the correctly rounded result, which the hardware's is within its documented error of.
 */
#include "exec.h"

/* in(a, b, c) for each lane; with .ftz and .sat where the opcode has them. */
#define APPLY_F32(n, expression) \
	float *d_ = reg(w, in->op[0]); \
	const float *a_ = reg(w, in->op[1]), *b_ = reg(w, in->op[n > 1 ? 2 : 1]), *c_ = reg(w, in->op[n > 2 ? 3 : 1]); \
	if (in->flags & (MOD_FTZ | MOD_SAT)) { \
		bool ftz = in->flags & MOD_FTZ, sat = in->flags & MOD_SAT; \
		FOR_LANES(mask, float a = a_[l]; float b = b_[l]; float c = c_[l]; \
			a = ftz ? flush(a) : a; b = ftz ? flush(b) : b; c = ftz ? flush(c) : c; \
			(void)b; (void)c; \
			float x = canonical(expression); \
			x = ftz ? flush(x) : x; \
			d_[l] = sat ? saturate(x) : x); \
	} else { \
		FOR_LANES(mask, float a = a_[l]; float b = b_[l]; float c = c_[l]; (void)b; (void)c; \
			d_[l] = canonical(expression)); \
	} \
	return true;

#define F32_1(name, e) WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) { APPLY_F32(1, e) }
#define F32_2(name, e) WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) { APPLY_F32(2, e) }
#define F32_3(name, e) WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) { APPLY_F32(3, e) }

/* -0 is less than +0; a NaN loses unless both are, or .NaN is there. */
static inline float lesser(float a, float b)
{
	float least = a < b ? a : b < a ? b : float_of(bits_of(a) | bits_of(b));
	return a != a ? b : b != b ? a : least;
}

static inline float greater(float a, float b)
{
	float most = a > b ? a : b > a ? b : float_of(bits_of(a) & bits_of(b));
	return a != a ? b : b != b ? a : most;
}

F32_2(add_f32, a + b)
F32_2(sub_f32, a - b)
F32_2(mul_f32, a * b)
F32_3(fma_f32, __builtin_fmaf(a, b, c))
F32_2(div_f32, a / b)
F32_1(rcp_f32, 1.0f / a)
F32_1(sqrt_f32, __builtin_sqrtf(a))
F32_1(rsqrt_f32, (float)(1.0 / __builtin_sqrt((double)a)))
F32_1(ex2_f32, (float)exp2((double)a))
F32_1(lg2_f32, (float)log2((double)a))
F32_1(sin_f32, (float)sin((double)a))
F32_1(cos_f32, (float)cos((double)a))
F32_1(tanh_f32, (float)tanh((double)a))
F32_2(min_f32, lesser(a, b))
F32_2(max_f32, greater(a, b))
F32_2(min_nan_f32, a != a || b != b ? float_of(NAN_BITS) : lesser(a, b))
F32_2(max_nan_f32, a != a || b != b ? float_of(NAN_BITS) : greater(a, b))

/* Signs are bits: a NaN keeps its payload. */
WIDE bool op_abs_f32(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]);
	bool ftz = in->flags & MOD_FTZ;
	FOR_LANES(mask, uint32_t x = a[l] & 0x7fffffff; d[l] = ftz && x < 0x00800000 ? 0 : x);
	return true;
}

WIDE bool op_neg_f32(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]);
	bool ftz = in->flags & MOD_FTZ;
	FOR_LANES(mask, uint32_t x = a[l] ^ 0x80000000; d[l] = ftz && !(x & 0x7f800000) ? x & 0x80000000 : x);
	return true;
}

WIDE bool op_copysign_f32(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]);
	FOR_LANES(mask, d[l] = (a[l] & 0x80000000) | (b[l] & 0x7fffffff));
	return true;
}

/* alt[0]: finite, infinite, number, notanumber, normal, subnormal */
bool op_testp_f32(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *a = reg(w, in->op[1]);
	uint32_t result = 0;
	for (int l = 0; l < LANES; l++) {
		uint32_t x = a[l] & 0x7fffffff;
		bool is[6] = { x < 0x7f800000, x == 0x7f800000, x <= 0x7f800000, x > 0x7f800000,
			x >= 0x00800000 && x < 0x7f800000, x && x < 0x00800000 };
		result |= (uint32_t)is[in->alt[0]] << l;
	}
	set_pred(w, in->op[0], mask, result);
	return true;
}

#define F64(name, n, expression) \
WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	double *d_ = reg(w, in->op[0]); \
	const double *a_ = reg(w, in->op[1]), *b_ = reg(w, in->op[n > 1 ? 2 : 1]), *c_ = reg(w, in->op[n > 2 ? 3 : 1]); \
	FOR_LANES(mask, double a = a_[l]; double b = b_[l]; double c = c_[l]; (void)b; (void)c; d_[l] = (expression)); \
	return true; \
}

F64(add_f64, 2, a + b)
F64(sub_f64, 2, a - b)
F64(mul_f64, 2, a * b)
F64(fma_f64, 3, __builtin_fma(a, b, c))
F64(div_f64, 2, a / b)
F64(rcp_f64, 1, 1.0 / a)
F64(sqrt_f64, 1, __builtin_sqrt(a))
F64(min_f64, 2, fmin(a, b))
F64(max_f64, 2, fmax(a, b))
F64(abs_f64, 1, fabs(a))
F64(neg_f64, 1, -a)
F64(copysign_f64, 2, copysign(b, a))

/* ---- f16 and bf16, one or two a register ---- */

typedef struct HalfKind { Format format; uint32_t elements; } HalfKind;

/* The order of the patterns' {.f16,.f16x2,.bf16,.bf16x2}. */
static const HalfKind half_kinds[] = {
	{ FORMAT_F16, 1 }, { FORMAT_F16, 2 }, { FORMAT_BF16, 1 }, { FORMAT_BF16, 2 },
};

typedef double (*HalfFunction)(double a, double b, double c);

static double half_add(double a, double b, double c) { (void)c; return add_to_odd(a, b); }
static double half_sub(double a, double b, double c) { (void)c; return add_to_odd(a, -b); }
static double half_mul(double a, double b, double c) { (void)c; return a * b; }
static double half_fma(double a, double b, double c) { return add_to_odd(a * b, c); }
static double half_min(double a, double b, double c) { (void)c; return lesser((float)a, (float)b); }
static double half_max(double a, double b, double c) { (void)c; return greater((float)a, (float)b); }
static double half_ex2(double a, double b, double c) { (void)b; (void)c; return exp2(a); }
static double half_tanh(double a, double b, double c) { (void)b; (void)c; return tanh(a); }

/* alt[0] is the type in the order of half_kinds. */
static bool half_apply(Warp *w, const Inst *in, uint32_t mask, HalfFunction function)
{
	HalfKind kind = half_kinds[in->alt[0]];
	uint32_t bytes = 2 * kind.elements;
	double smallest = kind.format == FORMAT_F16 ? 0x1p-14 : 0x1p-126;
	for (int l = 0; l < LANES; l++) {
		uint64_t result = 0;
		if (!(mask >> l & 1))
			continue;
		for (uint32_t e = 0; e < kind.elements; e++) {
			double x[3] = { 0, 0, 0 };
			for (uint32_t k = 0; k < in->n_src; k++) {
				x[k] = format_decode(lane_get(w, in->op[1 + k], bytes, l) >> 16 * e, kind.format);
				if (in->flags & MOD_FTZ && fabs(x[k]) < smallest)
					x[k] = copysign(0, x[k]);
			}
			double y = function(x[0], x[1], x[2]);
			if (in->flags & MOD_NAN && (x[0] != x[0] || x[1] != x[1]))
				y = NAN;
			if (in->flags & MOD_FTZ && fabs(y) < smallest)
				y = copysign(0, y);
			if (in->flags & MOD_RELU && y <= 0)
				y = 0;
			if (in->flags & MOD_SAT)
				y = y > 0 ? y < 1 ? y : 1 : 0;
			result |= format_encode(y, kind.format, ROUND_NEAREST) << 16 * e;
		}
		lane_set(w, in->op[0], bytes, l, result);
	}
	return true;
}

bool op_add_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_add); }
bool op_sub_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_sub); }
bool op_mul_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_mul); }
bool op_fma_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_fma); }
bool op_min_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_min); }
bool op_max_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_max); }
bool op_ex2_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_ex2); }
bool op_tanh_half(Warp *w, const Inst *in, uint32_t mask) { return half_apply(w, in, mask, half_tanh); }

/* Signs are bits here too. */
bool op_sign_half(Warp *w, const Inst *in, uint32_t mask)
{
	HalfKind kind = half_kinds[in->alt[1]];
	uint32_t signs = kind.elements == 2 ? 0x80008000 : 0x8000;
	for (int l = 0; l < LANES; l++) {
		uint32_t a = (uint32_t)lane_get(w, in->op[1], 2 * kind.elements, l);
		if (mask >> l & 1)
			lane_set(w, in->op[0], 2 * kind.elements, l, in->alt[0] ? a ^ signs : a & ~signs);
	}
	return true;
}
