#include <math.h>
#include <string.h>
#include "half.h"

static uint32_t float_bits(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static float bits_float(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

float f16_to_float(uint16_t bits)
{
	uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;

	if (exponent == 31)
		return bits_float(sign | 0x7f800000 | fraction << 13);
	if (exponent == 0)             /* subnormal: fraction * 2^-24 */
		return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
	return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t f16_from_float(float value)
{
	uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffff;
	uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);

	if (magnitude > 0x7f800000)
		return sign | 0x7e00;
	if (magnitude >= 0x477ff000)   /* 65520 and above round to infinity */
		return sign | 0x7c00;
	if (magnitude < 0x38800000)    /* below 2^-14: adding 0.5 leaves the subnormal, rounded, in the low bits */
		return sign | (uint16_t)(float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000);
	magnitude += 0xfff + (magnitude >> 13 & 1);
	return sign | (uint16_t)((magnitude >> 13) - (112 << 10));
}

float bf16_to_float(uint16_t bits)
{
	return bits_float((uint32_t)bits << 16);
}

uint16_t bf16_from_float(float value)
{
	uint32_t bits = float_bits(value);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* A double as a float that rounds to 16 bits as the double would: truncated, with the lost bits or-ed into the last
 * (round to odd), because rounding twice to nearest could land on the wrong side of a tie. */
static float float_to_odd(double value)
{
	float near = (float)value;
	uint32_t bits = float_bits(near);

	if (isnan(value) || (double)near == value)
		return near;
	if (fabs((double)near) > fabs(value))
		bits--;
	return bits_float(bits | 1);
}

double dtype_load(tda_dtype dtype, const void *array, size_t n)
{
	switch (dtype) {
	case TDA_F16: return f16_to_float(((const uint16_t *)array)[n]);
	case TDA_BF16: return bf16_to_float(((const uint16_t *)array)[n]);
	case TDA_F32: break;
	}
	return ((const float *)array)[n];
}

void dtype_store(tda_dtype dtype, void *array, size_t n, double value)
{
	switch (dtype) {
	case TDA_F16: ((uint16_t *)array)[n] = f16_from_float(float_to_odd(value)); break;
	case TDA_BF16: ((uint16_t *)array)[n] = bf16_from_float(float_to_odd(value)); break;
	case TDA_F32: ((float *)array)[n] = (float)value; break;
	}
}

double dtype_round(tda_dtype dtype, double value)
{
	switch (dtype) {
	case TDA_F16: return f16_to_float(f16_from_float(float_to_odd(value)));
	case TDA_BF16: return bf16_to_float(bf16_from_float(float_to_odd(value)));
	case TDA_F32: break;
	}
	return (float)value;
}
