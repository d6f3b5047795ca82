/*
 * What the handlers share. A handler executes one instruction for the lanes in mask and returns false after a report;
 * the scheduler has checked that the sources hold values and marks the destinations as written afterwards.
 */
#ifndef TDA_SIM_EXEC_H
#define TDA_SIM_EXEC_H

#include <float.h>
#include <math.h>
#include <string.h>
#include "model.h"

/* Handlers whose loops profit from wide vectors and fused multiply-add are compiled twice and chosen at load time. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

/* A destination may be its own source, lane by lane; lanes never read each other's. */
#ifdef __clang__
#define INDEPENDENT_LANES
#else
#define INDEPENDENT_LANES _Pragma("GCC ivdep")
#endif

/* statement for every lane l in mask; whole warps, the common case, without a test per lane. */
#define FOR_LANES(mask, statement) do { \
	if ((mask) == UINT32_MAX) { \
		INDEPENDENT_LANES for (int l = 0; l < LANES; l++) { statement; } \
	} else { \
		for (int l = 0; l < LANES; l++) \
			if ((mask) >> l & 1) { statement; } \
	} \
} while (0)

static inline void *reg(Warp *w, Slot slot) { return w->file + (size_t)slot * SLOT_BYTES; }
static inline uint32_t *pred(Warp *w, Slot slot) { return reg(w, slot); }
static inline void set_pred(Warp *w, Slot slot, uint32_t mask, uint32_t value)
{
	uint32_t *p = pred(w, slot);
	*p = (*p & ~mask) | (value & mask);
}

/* Lane l of a register of 2, 4 or 8 bytes a lane. */
static inline uint64_t lane_get(Warp *w, Slot slot, uint32_t bytes, int l)
{
	switch (bytes) {
	case 2: return ((const uint16_t *)reg(w, slot))[l];
	case 4: return ((const uint32_t *)reg(w, slot))[l];
	default: return ((const uint64_t *)reg(w, slot))[l];
	}
}

static inline void lane_set(Warp *w, Slot slot, uint32_t bytes, int l, uint64_t value)
{
	switch (bytes) {
	case 2: ((uint16_t *)reg(w, slot))[l] = (uint16_t)value; break;
	case 4: ((uint32_t *)reg(w, slot))[l] = (uint32_t)value; break;
	default: ((uint64_t *)reg(w, slot))[l] = value; break;
	}
}

/* Lane l's address operand number a, whose register is slot. */
static inline uint64_t lane_address(Warp *w, const Inst *in, int a, Slot slot, int l)
{
	return lane_get(w, slot, in->address_bytes[a], l) + (uint64_t)in->displacement[a];
}

/* A generic address of shared memory is accepted where a .shared one is wanted, as the hardware does. */
static inline uint64_t shared_address(uint64_t address)
{
	return (address & ~(WINDOW_BYTES - 1)) == SHARED_WINDOW ? address - SHARED_WINDOW : address;
}

static inline float float_of(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
static inline uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }

#define NAN_BITS 0x7fffffffu            /* the one NaN that f32 arithmetic gives */

static inline float canonical(float x) { return x != x ? float_of(NAN_BITS) : x; }
static inline float flush(float x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; }
static inline float saturate(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }      /* NaN gives 0 */

/* Small float formats. half.c */
typedef enum Format { FORMAT_F16, FORMAT_BF16, FORMAT_TF32, FORMAT_F32, FORMAT_F64 } Format;
typedef enum Rounding { ROUND_NEAREST, ROUND_ZERO, ROUND_DOWN, ROUND_UP, ROUND_AWAY } Rounding;
/* The bits of x in format, rounded once; NaN becomes the format's canonical one. */
uint64_t format_encode(double x, Format format, Rounding rounding);
double format_decode(uint64_t bits, Format format);
/* a + b with a sticky last bit: rounding it again gives what one rounding would */
double add_to_odd(double a, double b);

static inline float half_to_float(uint32_t bits)
{
	uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023, sign = (bits & 0x8000) << 16;
	float subnormal = (float)mantissa * 0x1p-24f;
	uint32_t normal = (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
	return float_of(sign | (exponent ? normal : bits_of(subnormal)));
}

static inline float bf16_to_float(uint32_t bits) { return float_of(bits << 16); }

/* Round to nearest even without a branch a lane; the same as format_encode. */
static inline uint32_t float_to_bf16(float x)
{
	uint32_t bits = bits_of(x), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
	return x != x ? 0x7fff : rounded;
}

/* Likewise, and to nearest away from 0; x is no NaN. The low 13 bits of tf32 are 0. */
static inline uint32_t float_to_tf32(float x) { return (bits_of(x) + 0xfff + (bits_of(x) >> 13 & 1)) & 0xffffe000; }
static inline uint32_t float_to_tf32_away(float x) { return (bits_of(x) + 0x1000) & 0xffffe000; }

static inline uint32_t float_to_half(float x)
{
	uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
	/* Adding 2^-1 x 2^-13 .. lines a subnormal's last bit up with that of a float near 0.5. */
	uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
	uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
	uint32_t finite = magnitude < 113u << 23 ? subnormal : normal;
	uint32_t result = magnitude >= 0x477ff000 ? 0x7c00 : finite;
	return magnitude > 0x7f800000 ? 0x7fff : sign | result;
}

#define OP(pattern, operands, handler, traits) bool op_##handler(Warp *w, const Inst *in, uint32_t mask);
#include "sim_ops.def"
#undef OP

#endif
