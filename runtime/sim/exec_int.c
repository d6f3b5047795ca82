/* Integers and bits: lane by lane, no flags. Signed overflow wraps: arithmetic is done unsigned. */
#include "exec.h"

#define UNARY(name, D, A, expression) \
WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	D *d_ = reg(w, in->op[0]); \
	const A *a_ = reg(w, in->op[1]); \
	FOR_LANES(mask, A a = a_[l]; d_[l] = (D)(expression)); \
	return true; \
}

#define BINARY(name, D, A, B, expression) \
WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	D *d_ = reg(w, in->op[0]); \
	const A *a_ = reg(w, in->op[1]); \
	const B *b_ = reg(w, in->op[2]); \
	FOR_LANES(mask, A a = a_[l]; B b = b_[l]; d_[l] = (D)(expression)); \
	return true; \
}

#define TERNARY(name, D, A, B, C, expression) \
WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	D *d_ = reg(w, in->op[0]); \
	const A *a_ = reg(w, in->op[1]); \
	const B *b_ = reg(w, in->op[2]); \
	const C *c_ = reg(w, in->op[3]); \
	FOR_LANES(mask, A a = a_[l]; B b = b_[l]; C c = c_[l]; d_[l] = (D)(expression)); \
	return true; \
}

/* What every width has. U, S: the types; W: one in which U x U does not overflow into undefined behaviour. */
#define EVERY_WIDTH(n, U, S, W) \
	BINARY(add_##n, U, U, U, (W)a + b) \
	BINARY(sub_##n, U, U, U, (W)a - b) \
	BINARY(mul_lo_##n, U, U, U, (W)a * b) \
	TERNARY(mad_lo_##n, U, U, U, U, (W)a * b + c) \
	BINARY(min_u##n, U, U, U, a < b ? a : b) \
	BINARY(max_u##n, U, U, U, a > b ? a : b) \
	BINARY(min_s##n, S, S, S, a < b ? a : b) \
	BINARY(min_relu_s##n, S, S, S, (a < b ? a : b) > 0 ? (a < b ? a : b) : 0) \
	BINARY(max_relu_s##n, S, S, S, (a > b ? a : b) > 0 ? (a > b ? a : b) : 0) \
	BINARY(max_s##n, S, S, S, a > b ? a : b) \
	UNARY(abs_s##n, U, S, a < 0 ? (W)0 - (W)a : (W)a) \
	UNARY(neg_s##n, U, U, (W)0 - a) \
	BINARY(and_##n, U, U, U, a & b) \
	BINARY(or_##n, U, U, U, a | b) \
	BINARY(xor_##n, U, U, U, a ^ b) \
	UNARY(not_##n, U, U, ~a) \
	UNARY(cnot_##n, U, U, a == 0) \
	BINARY(shl_##n, U, U, uint32_t, b < n ? (W)a << b : 0) \
	BINARY(shr_u##n, U, U, uint32_t, b < n ? (W)a >> b : 0) \
	BINARY(shr_s##n, U, S, uint32_t, a >> (b < n ? b : n - 1))

EVERY_WIDTH(16, uint16_t, int16_t, uint32_t)
EVERY_WIDTH(32, uint32_t, int32_t, uint32_t)
EVERY_WIDTH(64, uint64_t, int64_t, uint64_t)

BINARY(mul_hi_u16, uint16_t, uint16_t, uint16_t, (uint32_t)a * b >> 16)
BINARY(mul_hi_s16, uint16_t, int16_t, int16_t, (int32_t)a * b >> 16)
BINARY(mul_hi_u32, uint32_t, uint32_t, uint32_t, (uint64_t)a * b >> 32)
BINARY(mul_hi_s32, uint32_t, int32_t, int32_t, (int64_t)a * b >> 32)
BINARY(mul_hi_u64, uint64_t, uint64_t, uint64_t, (unsigned __int128)a * b >> 64)
BINARY(mul_hi_s64, uint64_t, int64_t, int64_t, (__int128)a * b >> 64)
TERNARY(mad_hi_u32, uint32_t, uint32_t, uint32_t, uint32_t, ((uint64_t)a * b >> 32) + c)
TERNARY(mad_hi_s32, uint32_t, int32_t, int32_t, uint32_t, (uint64_t)((int64_t)a * b >> 32) + c)
BINARY(mul_wide_u16, uint32_t, uint16_t, uint16_t, (uint32_t)a * b)
BINARY(mul_wide_s16, uint32_t, int16_t, int16_t, (int32_t)a * b)
BINARY(mul_wide_u32, uint64_t, uint32_t, uint32_t, (uint64_t)a * b)
BINARY(mul_wide_s32, uint64_t, int32_t, int32_t, (int64_t)a * b)
TERNARY(mad_wide_u16, uint32_t, uint16_t, uint16_t, uint32_t, (uint32_t)a * b + c)
TERNARY(mad_wide_s16, uint32_t, int16_t, int16_t, uint32_t, (uint32_t)((int32_t)a * b) + c)
TERNARY(mad_wide_u32, uint64_t, uint32_t, uint32_t, uint64_t, (uint64_t)a * b + c)
TERNARY(mad_wide_s32, uint64_t, int32_t, int32_t, uint64_t, (uint64_t)((int64_t)a * b) + c)
TERNARY(sad_u32, uint32_t, uint32_t, uint32_t, uint32_t, (a < b ? b - a : a - b) + c)
TERNARY(sad_s32, uint32_t, int32_t, int32_t, uint32_t,
	(a < b ? (uint32_t)b - (uint32_t)a : (uint32_t)a - (uint32_t)b) + c)

/* The hardware gives some number; a program that divides by zero is wrong. */
#define DIVISION(name, T, expression) \
bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	T *d_ = reg(w, in->op[0]); \
	const T *a_ = reg(w, in->op[1]), *b_ = reg(w, in->op[2]); \
	for (int l = 0; l < LANES; l++) { \
		T a = a_[l], b = b_[l]; \
		if (!(mask >> l & 1)) \
			continue; \
		if (b == 0) \
			return report_at(w, in, l, "integer division by zero"); \
		d_[l] = (T)(expression); \
	} \
	return true; \
}

DIVISION(div_u16, uint16_t, a / b)
DIVISION(div_u32, uint32_t, a / b)
DIVISION(div_u64, uint64_t, a / b)
DIVISION(rem_u16, uint16_t, a % b)
DIVISION(rem_u32, uint32_t, a % b)
DIVISION(rem_u64, uint64_t, a % b)
DIVISION(div_s16, int16_t, a / b)
DIVISION(div_s32, int32_t, b == -1 ? (int64_t)0 - a : a / b)
DIVISION(div_s64, int64_t, b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b)
DIVISION(rem_s16, int16_t, a % b)
DIVISION(rem_s32, int32_t, b == -1 ? 0 : a % b)
DIVISION(rem_s64, int64_t, b == -1 ? 0 : a % b)

/* ---- bits ---- */

static inline uint64_t low_bits(uint32_t n) { return n >= 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1; }

/* Bits past the value's end, and past the field's length, are the field's sign. */
static inline uint64_t bfe(uint64_t a, uint32_t b, uint32_t c, uint32_t bits, bool is_signed)
{
	uint32_t position = b & 255, length = c & 255;
	uint32_t there = position < bits ? bits - position : 0;
	uint64_t kept = low_bits(length < there ? length : there);
	uint32_t last = position + length - 1 < bits - 1 ? position + length - 1 : bits - 1;
	uint64_t fill = is_signed && length && a >> last & 1 ? ~kept : 0;
	return (there ? a >> position & kept : 0) | fill;
}

static inline uint64_t bfi(uint64_t a, uint64_t b, uint32_t c, uint32_t d, uint32_t bits)
{
	uint32_t position = c & 255, length = d & 255;
	if (position >= bits || !length)
		return b;
	if (length > bits - position)
		length = bits - position;
	uint64_t field = low_bits(length) << position;
	return (b & ~field) | (a << position & field);
}

static inline uint64_t reverse_bits(uint64_t a, int bits)
{
	uint64_t r = 0;
	for (int i = 0; i < bits; i++)
		r |= (a >> i & 1) << (bits - 1 - i);
	return r;
}

TERNARY(bfe_u32, uint32_t, uint32_t, uint32_t, uint32_t, bfe(a, b, c, 32, false))
TERNARY(bfe_s32, uint32_t, uint32_t, uint32_t, uint32_t, bfe(a, b, c, 32, true))
TERNARY(bfe_u64, uint64_t, uint64_t, uint32_t, uint32_t, bfe(a, b, c, 64, false))
TERNARY(bfe_s64, uint64_t, uint64_t, uint32_t, uint32_t, bfe(a, b, c, 64, true))
UNARY(brev_32, uint32_t, uint32_t, reverse_bits(a, 32))
UNARY(brev_64, uint64_t, uint64_t, reverse_bits(a, 64))
UNARY(clz_32, uint32_t, uint32_t, a ? __builtin_clz(a) : 32)
UNARY(clz_64, uint32_t, uint64_t, a ? __builtin_clzll(a) : 64)
UNARY(popc_32, uint32_t, uint32_t, __builtin_popcount(a))
UNARY(popc_64, uint32_t, uint64_t, __builtin_popcountll(a))
UNARY(bfind_u32, uint32_t, uint32_t, a ? 31 - __builtin_clz(a) : -1)
UNARY(bfind_u64, uint32_t, uint64_t, a ? 63 - __builtin_clzll(a) : -1)
UNARY(bfind_s32, uint32_t, int32_t, a != 0 && a != -1 ? 31 - __builtin_clz((uint32_t)(a < 0 ? ~a : a)) : -1)
UNARY(bfind_s64, uint32_t, int64_t, a != 0 && a != -1 ? 63 - __builtin_clzll((uint64_t)(a < 0 ? ~a : a)) : -1)
TERNARY(shf_l_clamp, uint32_t, uint32_t, uint32_t, uint32_t,
	c < 32 ? ((uint64_t)b << 32 | a) << c >> 32 : a)
TERNARY(shf_r_clamp, uint32_t, uint32_t, uint32_t, uint32_t,
	((uint64_t)b << 32 | a) >> (c < 32 ? c : 32))
TERNARY(shf_l_wrap, uint32_t, uint32_t, uint32_t, uint32_t, ((uint64_t)b << 32 | a) << (c & 31) >> 32)
TERNARY(shf_r_wrap, uint32_t, uint32_t, uint32_t, uint32_t, ((uint64_t)b << 32 | a) >> (c & 31))

bool op_bfi_32(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *r = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]), *c = reg(w, in->op[3]), *d = reg(w, in->op[4]);
	FOR_LANES(mask, r[l] = (uint32_t)bfi(a[l], b[l], c[l], d[l], 32));
	return true;
}

bool op_bfi_64(Warp *w, const Inst *in, uint32_t mask)
{
	uint64_t *r = reg(w, in->op[0]);
	const uint64_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]);
	const uint32_t *c = reg(w, in->op[3]), *d = reg(w, in->op[4]);
	FOR_LANES(mask, r[l] = bfi(a[l], b[l], c[l], d[l], 64));
	return true;
}

/* Bit k of the table is the result where (a, b, c) are the bits of k. */
WIDE bool op_lop3(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]), *c = reg(w, in->op[3]);
	uint32_t table = *(const uint32_t *)reg(w, in->op[4]), on[8];
	for (int k = 0; k < 8; k++)
		on[k] = table >> k & 1 ? UINT32_MAX : 0;
	FOR_LANES(mask, d[l] = (~a[l] & ((~b[l] & ((~c[l] & on[0]) | (c[l] & on[1]))) | (b[l] & ((~c[l] & on[2])
		| (c[l] & on[3]))))) | (a[l] & ((~b[l] & ((~c[l] & on[4]) | (c[l] & on[5]))) | (b[l] & ((~c[l] & on[6])
		| (c[l] & on[7]))))));
	return true;
}

static inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector)
{
	uint64_t bytes = (uint64_t)b << 32 | a;
	uint32_t result = 0;
	for (int i = 0; i < 4; i++) {
		uint32_t nibble = selector >> 4 * i & 15;
		uint32_t byte = (uint32_t)(bytes >> 8 * (nibble & 7)) & 255;
		if (nibble & 8)
			byte = byte & 128 ? 255 : 0;
		result |= byte << 8 * i;
	}
	return result;
}

TERNARY(prmt, uint32_t, uint32_t, uint32_t, uint32_t, permute(a, b, c))

/* szext.wrap/.clamp: the low b bits of a, extended. alt[0]: wrap, clamp; alt[1]: u32, s32. */
bool op_szext(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]);
	for (int l = 0; l < LANES; l++) {
		uint32_t n = in->alt[0] == 0 ? b[l] & 31 : b[l] < 32 ? b[l] : 32;
		if (mask >> l & 1)
			d[l] = n == 0 ? 0 : in->alt[1] ? (uint32_t)((int32_t)(a[l] << (32 - n)) >> (32 - n))
				: a[l] << (32 - n) >> (32 - n);
	}
	return true;
}
