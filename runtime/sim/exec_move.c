/* Moves, comparisons, predicates and selection. Moves and selections pass never-written registers on: LLVM copies
 * undefined values that nothing uses. */
#include "exec.h"

static void mark(Warp *w, Slot slot, uint32_t mask, uint32_t valid)
{
	w->written[slot] = (w->written[slot] & ~mask) | (valid & mask);
}

/* All destinations hold a value where all sources do. */
static bool pass_on(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t valid = UINT32_MAX;
	for (int k = 0; k < in->n_src; k++)
		valid &= w->written[in->op[in->n_dst + k]];
	for (int k = 0; k < in->n_dst; k++)
		mark(w, in->op[k], mask, valid);
	return true;
}

#define MOVE(name, T) \
bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	T *d = reg(w, in->op[0]); \
	const T *a = reg(w, in->op[1]); \
	FOR_LANES(mask, d[l] = a[l]); \
	return pass_on(w, in, mask); \
}

typedef struct Wide { uint64_t low, high; } Wide;

MOVE(mov_16, uint16_t)
MOVE(mov_32, uint32_t)
MOVE(mov_64, uint64_t)
MOVE(mov_128, Wide)

bool op_pack(Warp *w, const Inst *in, uint32_t mask)
{
	for (int l = 0; l < LANES; l++) {
		uint64_t value = 0;
		for (int k = in->n_src; k-- > 0;)
			value = value << 8 * in->src_bytes | lane_get(w, in->op[1 + k], in->src_bytes, l);
		if (mask >> l & 1)
			lane_set(w, in->op[0], in->dst_bytes, l, value);
	}
	return pass_on(w, in, mask);
}

bool op_unpack(Warp *w, const Inst *in, uint32_t mask)
{
	for (int l = 0; l < LANES; l++) {
		uint64_t value = lane_get(w, in->op[in->n_dst], in->src_bytes, l);
		for (int k = 0; k < in->n_dst && mask >> l & 1; k++, value >>= 8 * in->dst_bytes)
			lane_set(w, in->op[k], in->dst_bytes, l, value);
	}
	return pass_on(w, in, mask);
}

bool op_pack_128(Warp *w, const Inst *in, uint32_t mask)
{
	Wide *d = reg(w, in->op[0]);
	const uint64_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]);
	FOR_LANES(mask, d[l] = ((Wide){ a[l], b[l] }));
	return pass_on(w, in, mask);
}

bool op_unpack_128(Warp *w, const Inst *in, uint32_t mask)
{
	uint64_t *a = reg(w, in->op[0]), *b = reg(w, in->op[1]);
	const Wide *s = reg(w, in->op[2]);
	FOR_LANES(mask, Wide v = s[l]; a[l] = v.low; b[l] = v.high);
	return pass_on(w, in, mask);
}

/* ---- predicates ---- */

/* The last source, which may be written !p. */
static uint32_t last_pred(Warp *w, const Inst *in)
{
	uint32_t value = *pred(w, in->op[in->n_dst + in->n_src - 1]);
	return in->alt[MAX_ALTERNATIVES - 1] ? ~value : value;
}

bool op_mov_pred(Warp *w, const Inst *in, uint32_t mask)
{
	set_pred(w, in->op[0], mask, last_pred(w, in));
	return pass_on(w, in, mask);
}

#define PREDICATE(name, expression) \
bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	uint32_t a = *pred(w, in->op[1]), b = *pred(w, in->op[in->n_src]); \
	(void)b; \
	if (in->alt[MAX_ALTERNATIVES - 1]) \
		return report_at(w, in, -1, "'!' is not allowed on the operands of this instruction"); \
	set_pred(w, in->op[0], mask, expression); \
	return true; \
}

PREDICATE(and_pred, a & b)
PREDICATE(or_pred, a | b)
PREDICATE(xor_pred, a ^ b)
PREDICATE(not_pred, ~a)

#define SELECT(name, T) \
WIDE bool op_##name(Warp *w, const Inst *in, uint32_t mask) \
{ \
	T *d = reg(w, in->op[0]); \
	const T *a = reg(w, in->op[1]), *b = reg(w, in->op[2]); \
	uint32_t p = last_pred(w, in); \
	FOR_LANES(mask, d[l] = p >> l & 1 ? a[l] : b[l]); \
	mark(w, in->op[0], mask, w->written[in->op[3]] & ((p & w->written[in->op[1]]) | (~p & w->written[in->op[2]]))); \
	return true; \
}

SELECT(selp_16, uint16_t)
SELECT(selp_32, uint32_t)
SELECT(selp_64, uint64_t)

bool op_slct_32(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	const uint32_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]);
	const int32_t *c = reg(w, in->op[3]);
	FOR_LANES(mask, d[l] = c[l] >= 0 ? a[l] : b[l]);
	return true;
}

bool op_slct_64(Warp *w, const Inst *in, uint32_t mask)
{
	uint64_t *d = reg(w, in->op[0]);
	const uint64_t *a = reg(w, in->op[1]), *b = reg(w, in->op[2]);
	const int32_t *c = reg(w, in->op[3]);
	FOR_LANES(mask, d[l] = c[l] >= 0 ? a[l] : b[l]);
	return true;
}

/* ---- comparisons ---- */

#define COLLECT(condition) do { \
	uint32_t collected = 0; \
	for (int l = 0; l < LANES; l++) \
		collected |= (uint32_t)(condition) << l; \
	return collected; \
} while (0)

/* comparison: index into the pattern's {.eq,.ne,.lt,.le,.gt,.ge,.lo,.ls,.hi,.hs} */
#define COMPARE_INT(name, T) \
WIDE static uint32_t name(const T *a, const T *b, int comparison) \
{ \
	switch (comparison) { \
	case 0: COLLECT(a[l] == b[l]); \
	case 1: COLLECT(a[l] != b[l]); \
	case 2: case 6: COLLECT(a[l] < b[l]); \
	case 3: case 7: COLLECT(a[l] <= b[l]); \
	case 4: case 8: COLLECT(a[l] > b[l]); \
	default: COLLECT(a[l] >= b[l]); \
	} \
}

COMPARE_INT(compare_u16, uint16_t)
COMPARE_INT(compare_s16, int16_t)
COMPARE_INT(compare_u32, uint32_t)
COMPARE_INT(compare_s32, int32_t)
COMPARE_INT(compare_u64, uint64_t)
COMPARE_INT(compare_s64, int64_t)

/* comparison: index into {.eq,.ne,.lt,.le,.gt,.ge,.equ,.neu,.ltu,.leu,.gtu,.geu,.num,.nan}; the ..u are true on NaN */
#define COMPARE_FLOAT(name, T) \
WIDE static uint32_t name(const T *a, const T *b, int comparison) \
{ \
	switch (comparison) { \
	case 0: COLLECT(a[l] == b[l]); \
	case 1: COLLECT((a[l] < b[l]) | (a[l] > b[l])); \
	case 2: COLLECT(a[l] < b[l]); \
	case 3: COLLECT(a[l] <= b[l]); \
	case 4: COLLECT(a[l] > b[l]); \
	case 5: COLLECT(a[l] >= b[l]); \
	case 6: COLLECT(!((a[l] < b[l]) | (a[l] > b[l]))); \
	case 7: COLLECT(!(a[l] == b[l])); \
	case 8: COLLECT(!(a[l] >= b[l])); \
	case 9: COLLECT(!(a[l] > b[l])); \
	case 10: COLLECT(!(a[l] <= b[l])); \
	case 11: COLLECT(!(a[l] < b[l])); \
	case 12: COLLECT((a[l] == a[l]) & (b[l] == b[l])); \
	default: COLLECT((a[l] != a[l]) | (b[l] != b[l])); \
	} \
}

COMPARE_FLOAT(compare_f32, float)
COMPARE_FLOAT(compare_f64, double)

/* type: index into {.u,.b,.s}; .lo .. .hs and .b compare without sign. */
static uint32_t compare_int(Warp *w, const Inst *in, int type)
{
	const void *a = reg(w, in->op[in->n_dst]), *b = reg(w, in->op[in->n_dst + 1]);
	int comparison = in->alt[0];
	bool is_signed = type == 2 && comparison < 6;
	switch (in->src_bytes) {
	case 2: return is_signed ? compare_s16(a, b, comparison) : compare_u16(a, b, comparison);
	case 4: return is_signed ? compare_s32(a, b, comparison) : compare_u32(a, b, comparison);
	default: return is_signed ? compare_s64(a, b, comparison) : compare_u64(a, b, comparison);
	}
}

static uint32_t compare_float(Warp *w, const Inst *in)
{
	const float *a = reg(w, in->op[in->n_dst]), *b = reg(w, in->op[in->n_dst + 1]);
	float flushed[2][LANES];
	if (!(in->flags & MOD_FTZ))
		return compare_f32(a, b, in->alt[0]);
	for (int l = 0; l < LANES; l++) {
		flushed[0][l] = flush(a[l]);
		flushed[1][l] = flush(b[l]);
	}
	return compare_f32(flushed[0], flushed[1], in->alt[0]);
}

/* The first destination gets combine(result, c), the second combine(!result, c). boolean: {.and,.or,.xor}. */
static bool set_both(Warp *w, const Inst *in, uint32_t mask, uint32_t result, int boolean)
{
	uint32_t c = boolean < 0 ? 0 : last_pred(w, in);
	uint32_t inverse = ~result;
	switch (boolean) {
	case 0: result &= c, inverse &= c; break;
	case 1: result |= c, inverse |= c; break;
	case 2: result ^= c, inverse ^= c; break;
	}
	set_pred(w, in->op[0], mask, result);
	set_pred(w, in->op[1], mask, inverse);
	return true;
}

bool op_setp_int(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_int(w, in, in->alt[1]), -1);
}

bool op_setp_int_with(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_int(w, in, in->alt[2]), in->alt[1]);
}

bool op_setp_f32(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_float(w, in), -1);
}

bool op_setp_f32_with(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_float(w, in), in->alt[1]);
}

bool op_setp_f64(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_f64(reg(w, in->op[2]), reg(w, in->op[3]), in->alt[0]), -1);
}

bool op_setp_f64_with(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_f64(reg(w, in->op[2]), reg(w, in->op[3]), in->alt[0]), in->alt[1]);
}

/* Element e of two f16 or bf16 registers; alt[1]: f16, bf16 */
static uint32_t compare_half(Warp *w, const Inst *in, int e)
{
	float x[2][LANES];
	for (int k = 0; k < 2; k++)
		for (int l = 0; l < LANES; l++) {
			uint32_t bits = (uint32_t)(lane_get(w, in->op[2 + k], in->src_bytes, l) >> 16 * e) & 0xffff;
			uint32_t exponent = in->alt[1] ? 0x7f80 : 0x7c00;
			if (in->flags & MOD_FTZ && !(bits & exponent))
				bits &= 0x8000;
			x[k][l] = in->alt[1] ? bf16_to_float(bits) : half_to_float(bits);
		}
	return compare_f32(x[0], x[1], in->alt[0]);
}

bool op_setp_half(Warp *w, const Inst *in, uint32_t mask)
{
	return set_both(w, in, mask, compare_half(w, in, 0), -1);
}

/* p|q are the results of the low and the high element. */
bool op_setp_half2(Warp *w, const Inst *in, uint32_t mask)
{
	set_pred(w, in->op[0], mask, compare_half(w, in, 0));
	set_pred(w, in->op[1], mask, compare_half(w, in, 1));
	return true;
}

static bool set_word(Warp *w, const Inst *in, uint32_t mask, uint32_t result)
{
	uint32_t *d = reg(w, in->op[0]), yes = in->alt[1] == 2 ? bits_of(1.0f) : UINT32_MAX;
	FOR_LANES(mask, d[l] = result >> l & 1 ? yes : 0);
	return true;
}

bool op_set_int(Warp *w, const Inst *in, uint32_t mask)
{
	return set_word(w, in, mask, compare_int(w, in, in->alt[2]));
}

bool op_set_f32(Warp *w, const Inst *in, uint32_t mask) { return set_word(w, in, mask, compare_float(w, in)); }
