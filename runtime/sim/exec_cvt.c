/* Conversions. The common ones by themselves; all others by way of int64 and double, which hold every source exactly
 * (integers to float are rounded once: the host's conversion rounds to nearest even). */
#include "exec.h"

#define CONVERT(name, D, A) \
WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	D *d = reg(w, in->op[0]); \
	const A *a = reg(w, in->op[1]); \
	if (mask == UINT32_MAX) \
		for (int l = 0; l < LANES; l++) d[l] = (D)a[l]; \
	else \
		FOR_LANES(mask, d[l] = (D)a[l]); \
	return true; \
}

CONVERT(cvt_u64_u32, uint64_t, uint32_t)
CONVERT(cvt_s64_s32, int64_t, int32_t)
CONVERT(cvt_u32_u64, uint32_t, uint64_t)

/* {.u8,.s8,.u16,.s16,.u32,.s32,.u64,.s64} */
static int int_bits(int type) { return 8 << type / 2; }
static bool int_signed(int type) { return type & 1; }

/* {.f16,.bf16,.f32,.f64} */
static const Format float_formats[] = { FORMAT_F16, FORMAT_BF16, FORMAT_F32, FORMAT_F64 };

static int64_t sign_extend(uint64_t value, int bits)
{
	return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

static uint64_t extend(uint64_t value, int type)
{
	int bits = int_bits(type);
	return int_signed(type) ? (uint64_t)sign_extend(value, bits) : value << (64 - bits) >> (64 - bits);
}

/* The nearest value of type; value is signed when from_signed. */
static uint64_t clamp_int(uint64_t value, bool from_signed, int type)
{
	uint64_t most = UINT64_MAX >> (64 - int_bits(type) + int_signed(type));
	bool negative = from_signed && (int64_t)value < 0;
	if (!negative)
		return value > most ? most : value;
	int64_t least = int_signed(type) ? -(int64_t)most - 1 : 0;
	return (int64_t)value < least ? (uint64_t)least : value;
}

/* alt[0]: to, alt[1]: from. Destinations wider than the type are extended by its sign. */
bool op_cvt_int_int(Warp *w, const Inst *in, uint32_t mask)
{
	int to = in->alt[0], from = in->alt[1];
	for (int l = 0; l < LANES; l++) {
		uint64_t x = extend(lane_get(w, in->op[1], in->src_bytes, l), from);
		if (in->flags & MOD_SAT)
			x = clamp_int(x, int_signed(from), to);
		if (mask >> l & 1)
			lane_set(w, in->op[0], in->dst_bytes, l, extend(x, to));
	}
	return true;
}

/* bf16 has no direct way on the host: a sticky double keeps the one rounding right. */
static uint64_t encode_int(uint64_t x, bool is_signed, Format format)
{
	if (format == FORMAT_F32)
		return bits_of(is_signed ? (float)(int64_t)x : (float)x);
	if (format == FORMAT_F64)
		return format_encode(is_signed ? (double)(int64_t)x : (double)x, FORMAT_F64, ROUND_NEAREST);
	bool negative = is_signed && (int64_t)x < 0;
	uint64_t magnitude = negative ? 0 - x : x;
	if (magnitude >> 53)
		magnitude = (magnitude >> 11 | ((magnitude & 0x7ff) != 0)) << 11;
	return format_encode(negative ? -(double)magnitude : (double)magnitude, format, ROUND_NEAREST);
}

bool op_cvt_float_int(Warp *w, const Inst *in, uint32_t mask)
{
	Format to = float_formats[in->alt[0]];
	int from = in->alt[1];
	for (int l = 0; l < LANES; l++) {
		uint64_t x = extend(lane_get(w, in->op[1], in->src_bytes, l), from);
		if (mask >> l & 1)
			lane_set(w, in->op[0], in->dst_bytes, l, encode_int(x, int_signed(from), to));
	}
	return true;
}

static double source_float(Warp *w, const Inst *in, Format format, int l)
{
	double x = format_decode(lane_get(w, in->op[1], in->src_bytes, l), format);
	return in->flags & MOD_FTZ && format == FORMAT_F32 && fabs(x) < FLT_MIN ? copysign(0, x) : x;
}

/* mode: {.rni,.rzi,.rmi,.rpi} */
static double to_integral(double x, int mode)
{
	switch (mode) {
	case 0: return nearbyint(x);    /* the host rounds to nearest even */
	case 1: return trunc(x);
	case 2: return floor(x);
	default: return ceil(x);
	}
}

/* alt: mode, to, from. Out of range: the nearest value. NaN: 0, or the top bit where a type has 64 bits. */
bool op_cvt_int_float(Warp *w, const Inst *in, uint32_t mask)
{
	int to = in->alt[1];
	Format from = float_formats[in->alt[2]];
	double most = ldexp(1, int_bits(to) - int_signed(to));
	for (int l = 0; l < LANES; l++) {
		double x = to_integral(source_float(w, in, from, l), in->alt[0]);
		uint64_t result;
		if (x != x)
			result = from == FORMAT_F64 || int_bits(to) == 64 ? UINT64_C(1) << (int_bits(to) - 1) : 0;
		else if (x >= most)
			result = UINT64_MAX >> (64 - int_bits(to) + int_signed(to));
		else if (int_signed(to))
			result = x < -most ? (uint64_t)1 << (int_bits(to) - 1) : (uint64_t)(int64_t)x;
		else
			result = x < 0 ? 0 : (uint64_t)x;
		if (mask >> l & 1)
			lane_set(w, in->op[0], in->dst_bytes, l, extend(result, to));
	}
	return true;
}

static uint64_t finish_float(const Inst *in, double x, Format to, Rounding rounding)
{
	if (in->flags & MOD_SAT)
		x = x > 0 ? x < 1 ? x : 1 : 0;
	if (in->flags & MOD_RELU && x <= 0)
		x = 0;
	uint64_t bits = format_encode(x, to, rounding);
	if (in->flags & MOD_FTZ && to == FORMAT_F32 && !(bits & 0x7f800000))
		bits &= 0x80000000;
	return bits;
}

/* alt: mode, to, from */
bool op_cvt_integral(Warp *w, const Inst *in, uint32_t mask)
{
	Format to = float_formats[in->alt[1]], from = float_formats[in->alt[2]];
	for (int l = 0; l < LANES; l++) {
		double x = to_integral(source_float(w, in, from, l), in->alt[0]);
		if (mask >> l & 1)
			lane_set(w, in->op[0], in->dst_bytes, l, finish_float(in, x, to, ROUND_NEAREST));
	}
	return true;
}

/* alt: {,.rn,.rz,.rm,.rp}, to, from */
bool op_cvt_float_float(Warp *w, const Inst *in, uint32_t mask)
{
	static const Rounding modes[] = { ROUND_NEAREST, ROUND_NEAREST, ROUND_ZERO, ROUND_DOWN, ROUND_UP };
	Format to = float_formats[in->alt[1]], from = float_formats[in->alt[2]];
	for (int l = 0; l < LANES; l++) {
		double x = source_float(w, in, from, l);
		if (mask >> l & 1)
			lane_set(w, in->op[0], in->dst_bytes, l, finish_float(in, x, to, modes[in->alt[0]]));
	}
	return true;
}

/* alt: {.rn,.rz}, {f16, bf16} */
static inline uint32_t narrow(const Inst *in, float x)
{
	if (in->flags & MOD_RELU)
		x = x <= 0 ? 0 : x;
	if (in->alt[0])
		return (uint32_t)format_encode(x, in->alt[1] ? FORMAT_BF16 : FORMAT_F16, ROUND_ZERO);
	return in->alt[1] ? float_to_bf16(x) : float_to_half(x);
}

/* The first source is the upper half. */
bool op_cvt_pair(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const float *high = reg(w, in->op[1]), *low = reg(w, in->op[2]);
	FOR_LANES(mask, d[l] = narrow(in, high[l]) << 16 | narrow(in, low[l]));
	return true;
}

bool op_cvt_half_f32(Warp *w, const Inst *in, uint32_t mask)
{
	uint16_t *d = reg(w, in->op[0]);
	const float *a = reg(w, in->op[1]);
	FOR_LANES(mask, d[l] = (uint16_t)narrow(in, a[l]));
	return true;
}

/* What .rna gives for an infinity or a NaN, as measured: its bits without the low ones, so that a NaN that has only those becomes
 * infinite. */
static uint32_t tf32_away(float x)
{
	return isfinite(x) ? float_to_tf32_away(x) : bits_of(x) & 0xffffe000;
}

/* alt: {.rna,.rn} */
bool op_cvt_tf32(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const float *a = reg(w, in->op[1]);
	FOR_LANES(mask, d[l] = in->alt[0] == 0 ? tf32_away(a[l]) : (uint32_t)format_encode(a[l], FORMAT_TF32, ROUND_NEAREST));
	return true;
}
