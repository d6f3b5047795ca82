/* Small float formats, exactly: by way of double, which holds every value of each. */
#include "exec.h"

typedef struct FormatInfo {
	int mantissa;           /* stored bits */
	int min_exponent;       /* of the least normal number */
	int max_exponent;
	int shift;              /* low bits of the encoding that stay 0 */
	uint64_t nan;
} FormatInfo;

static const FormatInfo formats[] = {
	[FORMAT_F16] = { 10, -14, 15, 0, 0x7fff },
	[FORMAT_BF16] = { 7, -126, 127, 0, 0x7fff },
	[FORMAT_TF32] = { 10, -126, 127, 13, 0x7fffffff },
	[FORMAT_F32] = { 23, -126, 127, 0, 0x7fffffff },
	[FORMAT_F64] = { 52, -1022, 1023, 0, UINT64_C(0x7fffffffffffffff) },
};

/* x >= 0 in units of its last place in the format, rounded; sign for the directed modes. */
static double round_units(double units, bool negative, Rounding rounding)
{
	double below = floor(units), rest = units - below;
	bool up = false;
	switch (rounding) {
	case ROUND_NEAREST: up = rest > 0.5 || (rest == 0.5 && fmod(below, 2) != 0); break;
	case ROUND_AWAY: up = rest >= 0.5; break;
	case ROUND_ZERO: break;
	case ROUND_DOWN: up = negative && rest > 0; break;
	case ROUND_UP: up = !negative && rest > 0; break;
	}
	return below + up;
}

uint64_t format_encode(double x, Format format, Rounding rounding)
{
	const FormatInfo *f = &formats[format];
	if (x != x)
		return f->nan;
	/* The common ones as the host rounds. */
	if (rounding == ROUND_NEAREST && format == FORMAT_F32)
		return bits_of((float)x);
	if (rounding == ROUND_NEAREST && format != FORMAT_F64 && (float)x == x)
		return format == FORMAT_F16 ? float_to_half((float)x) : format == FORMAT_BF16 ? float_to_bf16((float)x)
			: float_to_tf32((float)x);
	if (format == FORMAT_F64) {
		uint64_t bits;
		memcpy(&bits, &x, sizeof bits);
		return bits;
	}
	int exponent_bits = f->max_exponent - f->min_exponent + 2, exponent;
	exponent_bits = exponent_bits == 31 ? 5 : 8;
	uint64_t sign = signbit(x) ? UINT64_C(1) << (f->mantissa + exponent_bits) : 0;
	uint64_t infinity = ((UINT64_C(1) << exponent_bits) - 1) << f->mantissa;
	double magnitude = fabs(x);
	if (magnitude == 0 || isinf(magnitude))
		return (sign | (magnitude == 0 ? 0 : infinity)) << f->shift;
	frexp(magnitude, &exponent);
	exponent = exponent - 1 < f->min_exponent ? f->min_exponent : exponent - 1;
	/* In units of the last place the encoding counts on through the exponents: a carry is right by itself. */
	double units = round_units(ldexp(magnitude, f->mantissa - exponent), sign != 0, rounding);
	uint64_t bits = (uint64_t)units + ((uint64_t)(exponent - f->min_exponent) << f->mantissa);
	if (bits >= infinity) {
		bool to_largest = rounding == ROUND_ZERO || (rounding == ROUND_DOWN && !sign) || (rounding == ROUND_UP && sign);
		bits = to_largest ? infinity - 1 : infinity;
	}
	return (sign | bits) << f->shift;
}

double format_decode(uint64_t bits, Format format)
{
	double x;
	switch (format) {
	case FORMAT_F16: return half_to_float((uint32_t)bits & 0xffff);
	case FORMAT_BF16: return bf16_to_float((uint32_t)bits & 0xffff);
	case FORMAT_TF32: return float_of((uint32_t)bits & ~0x1fffu);
	case FORMAT_F32: return float_of((uint32_t)bits);
	case FORMAT_F64: break;
	}
	memcpy(&x, &bits, sizeof x);
	return x;
}

double add_to_odd(double a, double b)
{
	double sum = a + b, of_b = sum - a, error = (a - (sum - of_b)) + (b - of_b);
	uint64_t bits;
	if (error == 0 || !isfinite(sum))
		return sum;
	memcpy(&bits, &sum, sizeof bits);
	if (!(bits & 1))
		bits += (error > 0) == (sum > 0) ? 1 : UINT64_MAX;
	memcpy(&sum, &bits, sizeof sum);
	return sum;
}
