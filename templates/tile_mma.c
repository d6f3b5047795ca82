/*
 * Matrix products of tiles, for sm_80 and later: ldmatrix and mma.sync.
 *
 * In every dtype one instruction is 16 rows x 8 columns, and its depth fills 32 bytes: 16 elements of f16 and bf16, 8 of
 * f32 (as tf32). A is 4 registers, B is 2; one ldmatrix brings A, or B for two neighbouring column blocks.
 *
 * "ieee" float32 splits each operand x into tf32 parts big = x rounded and small = x - big, and adds big*small + small*big +
 * big*big: what is lost is small*small, 2^-22 of the product. The tensor cores truncate when they add, so long sums are
 * added outside of them: at most SPLIT_STEPS steps of depth start from zero and are added to the accumulator in float32.
 *
 * f16 has too few exponents for weights such as (s - tau)^2, so a tile that enters as A is scaled, row by row, by a
 * power of two that brings its largest element to just under 2^15, and the product is scaled back.
 */
#include "tile.h"
#include "tile_parts.h"

enum { A_REGS = 4, B_REGS = 2, SPLIT_STEPS = 4 };

typedef struct Fragment {
	Val big[A_REGS];                   /* all of it, but for "ieee" */
	Val small[A_REGS];
} Fragment;

static bool is_f32(const Kernel *k)
{
	return k->spec->dtype == DTYPE_F32;
}

static bool is_split(const Kernel *k)
{
	return is_f32(k) && k->spec->precision == PRECISION_IEEE;
}

/* Elements of depth of one instruction. */
static int step_depth(const Kernel *k)
{
	return 2 * CHUNK / dtype_size(k->spec->dtype);
}

static Val to_tf32(Kernel *k, Val x)
{
	return ir_op(k->b, "nvvm.convert.float.to.tf32",
	             "relu = false, rnd = #nvvm.fp_rnd_mode<rna>, sat = #nvvm.sat_mode<none>", IR_I32, 1, &x);
}

/* Makes one register of an operand from a float32. Rounding for the split is done on the bits, which is cheaper than the
 * conversion: a NaN may come out as another value in big, but then small is NaN. */
static void split(Kernel *k, Val x, Val *big, Val *small)
{
	Builder *b = k->b;
	if (!is_split(k)) {
		*big = to_tf32(k, x);
		return;
	}
	Val bits = val_bitcast(b, x, IR_I32);
	Val up = val_add_i32(b, bits, 1 << 12);
	*big = val_and(b, up, val_i32(b, -(1 << 13)));
	Val rounded = val_bitcast(b, *big, IR_F32);
	Val rest = ir_op(b, "arith.subf", NULL, IR_F32, 2, (Val[]){ x, rounded });
	*small = val_bitcast(b, rest, IR_I32);
}

/* What came from memory as raw bits. */
static void split_loaded(Kernel *k, Val bits, Val *big, Val *small)
{
	if (is_f32(k)) {
		Val x = val_bitcast(k->b, bits, IR_F32);
		split(k, x, big, small);
	} else {
		*big = bits;
	}
}

static Val ldmatrix(Kernel *k, Val address, int count, bool transpose)
{
	static const char *const attrs[2][2] = {
		{ "num = 2 : i32, layout = #nvvm.mma_layout<row>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, "
		  "eltType = #nvvm.ld_st_matrix_elt_type<b16>",
		  "num = 2 : i32, layout = #nvvm.mma_layout<col>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, "
		  "eltType = #nvvm.ld_st_matrix_elt_type<b16>" },
		{ "num = 4 : i32, layout = #nvvm.mma_layout<row>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, "
		  "eltType = #nvvm.ld_st_matrix_elt_type<b16>",
		  "num = 4 : i32, layout = #nvvm.mma_layout<col>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, "
		  "eltType = #nvvm.ld_st_matrix_elt_type<b16>" },
	};
	return ir_op(k->b, "nvvm.ldmatrix", attrs[count == 4][transpose], count == 4 ? IR_S4I32 : IR_S2I32, 1, &address);
}

static Val mma_s8(Kernel *k, const Val *a, const Val *b, const Val *c)
{
	static const char attrs[] = "intOverflowBehavior = #nvvm.mma_int_overflow<wrapped>, layoutA = #nvvm.mma_layout<row>, "
		"layoutB = #nvvm.mma_layout<col>, multiplicandAPtxType = #nvvm.mma_type<s8>, "
		"multiplicandBPtxType = #nvvm.mma_type<s8>, operandSegmentSizes = array<i32: 4, 2, 4>, "
		"shape = #nvvm.shape<m = 16, n = 8, k = 32>";
	Val operands[A_REGS + B_REGS + 4];
	int n = 0;
	for (int i = 0; i < A_REGS; i++)
		operands[n++] = a[i];
	for (int i = 0; i < B_REGS; i++)
		operands[n++] = b[i];
	for (int i = 0; i < 4; i++)
		operands[n++] = c[i];
	return ir_op(k->b, "nvvm.mma.sync", attrs, IR_S4I32, n, operands);
}

static Val one_mma(Kernel *k, const Val *a, const Val *b, const Val *c)
{
	static const char *const attrs[] = {
		[DTYPE_F32] = "layoutA = #nvvm.mma_layout<row>, layoutB = #nvvm.mma_layout<col>, "
		              "multiplicandAPtxType = #nvvm.mma_type<tf32>, multiplicandBPtxType = #nvvm.mma_type<tf32>, "
		              "operandSegmentSizes = array<i32: 4, 2, 4>, shape = #nvvm.shape<m = 16, n = 8, k = 8>",
		[DTYPE_F16] = "layoutA = #nvvm.mma_layout<row>, layoutB = #nvvm.mma_layout<col>, "
		              "multiplicandAPtxType = #nvvm.mma_type<f16>, multiplicandBPtxType = #nvvm.mma_type<f16>, "
		              "operandSegmentSizes = array<i32: 4, 2, 4>, shape = #nvvm.shape<m = 16, n = 8, k = 16>",
		[DTYPE_BF16] = "layoutA = #nvvm.mma_layout<row>, layoutB = #nvvm.mma_layout<col>, "
		               "multiplicandAPtxType = #nvvm.mma_type<bf16>, multiplicandBPtxType = #nvvm.mma_type<bf16>, "
		               "operandSegmentSizes = array<i32: 4, 2, 4>, shape = #nvvm.shape<m = 16, n = 8, k = 16>",
	};
	Val operands[A_REGS + B_REGS + 4];
	bool f16 = k->spec->dtype == DTYPE_F16;
	for (int i = 0; i < A_REGS; i++)
		operands[i] = f16 ? val_bitcast(k->b, a[i], IR_V2F16) : a[i];
	for (int i = 0; i < B_REGS; i++)
		operands[A_REGS + i] = f16 ? val_bitcast(k->b, b[i], IR_V2F16) : b[i];
	for (int i = 0; i < 4; i++)
		operands[A_REGS + B_REGS + i] = c[i];
	return ir_op(k->b, "nvvm.mma.sync", attrs[k->spec->dtype], IR_S4F32, A_REGS + B_REGS + 4, operands);
}

static void mma_into(Kernel *k, Val *c, const Val *a, const Val *b)
{
	Val d = one_mma(k, a, b, c);
	for (int i = 0; i < 4; i++)
		c[i] = val_extract(k->b, d, i, IR_F32);
}

/* c[0..3] += a . b for one block of 8 columns and one step of depth; `at` selects B's registers in a fragment. */
static void step(Kernel *k, Val *c, const Fragment *a, const Fragment *b, int at)
{
	if (is_split(k)) {
		mma_into(k, c, a->small, b->big + at);
		mma_into(k, c, a->big, b->small + at);
	}
	mma_into(k, c, a->big, b->big + at);
}

static Fragment load_fragment(Kernel *k, Val address, int count, bool transpose)
{
	Fragment f = { 0 };
	Val loaded = ldmatrix(k, address, count, transpose);
	for (int i = 0; i < count; i++) {
		Val bits = val_extract(k->b, loaded, i, IR_I32);
		split_loaded(k, bits, &f.big[i], &f.small[i]);
	}
	return f;
}

/* base + (lane's row) * row_bytes + (lane's chunk) * 16. */
static Val lane_address(Kernel *k, Shared s, Val row, Val chunk)
{
	Builder *b = k->b;
	Val by_row = val_mul_i32(b, row, s.row_bytes);
	Val by_chunk = val_mul_i32(b, chunk, CHUNK);
	return val_offset(b, s.base, val_add(b, by_row, by_chunk));
}

/* ldmatrix for A: lanes 0-15 address rows 0-15 of the first chunk, lanes 16-31 those of the second. The same pattern
 * serves B stored [depth x columns] with transposition: depth by lane, column block by chunk. */
static Val address_a(Kernel *k, Shared s, Val first_row)
{
	Builder *b = k->b;
	Val in_warp = val_rem_i32(b, k->lane, 16);
	Val row = val_add(b, first_row, in_warp);
	return lane_address(k, s, row, val_div_i32(b, k->lane, 16));
}

/* ldmatrix for B stored [columns x depth]: lanes 0-7 columns 0-7 of the first chunk, 8-15 of the second; 16-31 the next
 * 8 columns. */
static Val address_b(Kernel *k, Shared s)
{
	Builder *b = k->b;
	Val low = val_rem_i32(b, k->lane, 8);
	Val next = val_mul_i32(b, val_div_i32(b, k->lane, 16), 8);
	Val row = val_add(b, low, next);
	return lane_address(k, s, row, val_rem_i32(b, val_div_i32(b, k->lane, 8), 2));
}

void mma_wait(Kernel *k)
{
	if (kernel_uses_groups(k))
		wgmma_wait(k);
}

void mma_rows(Kernel *k, Tile acc, Shared a, Shared b)
{
	if (kernel_uses_groups(k)) {
		wgmma_rows(k, acc, a, b);
		return;
	}
	Builder *builder = k->b;
	int depth = step_depth(k), steps = (a.cols + depth - 1) / depth, blocks = acc.cols / 8;
	Val first_row = val_mul_i32(builder, k->warp, PLAN_WARP_ROWS);
	Val from_a = address_a(k, a, first_row);
	Val from_b = address_b(k, b);
	Tile sum = acc;
	for (int s = 0; s < steps; s++) {
		if (is_split(k) && s % SPLIT_STEPS == 0)
			sum = tile_zero(k, acc.cols);
		Val at_a = val_offset_const(builder, from_a, s * 2 * CHUNK);
		Fragment fa = load_fragment(k, at_a, A_REGS, false);
		for (int n = 0; n < blocks; n += 2) {
			bool two = n + 1 < blocks;
			Val at_b = val_offset_const(builder, from_b, n * 8 * b.row_bytes + s * 2 * CHUNK);
			Fragment fb = load_fragment(k, at_b, two ? 4 : 2, false);
			step(k, sum.e + 4 * n, &fa, &fb, 0);
			if (two)
				step(k, sum.e + 4 * n + 4, &fa, &fb, B_REGS);
		}
		if (is_split(k) && (s % SPLIT_STEPS == SPLIT_STEPS - 1 || s == steps - 1))
			for (int e = 0; e < tile_count(acc); e++)
				acc.e[e] = val_fadd(builder, acc.e[e], sum.e[e]);
	}
}

void tile_operand(Kernel *k, Tile p, int s, Val a[A_REGS])
{
	for (int i = 0; i < A_REGS; i++) {
		const Val *pair = p.e + 8 * s + 2 * i;
		Val packed = pack_pair(k, pair[0], pair[1]);
		a[i] = val_bitcast(k->b, packed, IR_I32);
	}
}

/* Int8 matrices lie in shared memory as rows of bytes, so that a step of depth, 32 bytes, is one of any other type. */

static int int8_steps(const Kernel *k)
{
	return plan_int8_bytes(k->spec) / (2 * CHUNK);
}

Int8Rows int8_rows(Kernel *k, Shared a)
{
	if (kernel_uses_groups(k))
		return wgmma_int8_rows(k, a);
	Int8Rows rows = { .from = a };
	rows.registers = ARENA_ARRAY(k->b->arena, Val, int8_steps(k) * A_REGS);
	Val first_row = val_mul_i32(k->b, k->warp, PLAN_WARP_ROWS);
	Val from = address_a(k, a, first_row);
	for (int s = 0; s < int8_steps(k); s++) {
		Val loaded = ldmatrix(k, val_offset_const(k->b, from, s * 2 * CHUNK), A_REGS, false);
		for (int i = 0; i < A_REGS; i++)
			rows.registers[s * A_REGS + i] = val_extract(k->b, loaded, i, IR_I32);
	}
	return rows;
}

/* Two blocks of 8 columns. */
static void int8_columns(Kernel *k, Val *acc, const Val *rows, Val from_b)
{
	for (int s = 0; s < int8_steps(k); s++) {
		Val loaded = ldmatrix(k, val_offset_const(k->b, from_b, s * 2 * CHUNK), 2 * B_REGS, false);
		Val columns[2 * B_REGS];
		for (int i = 0; i < 2 * B_REGS; i++)
			columns[i] = val_extract(k->b, loaded, i, IR_I32);
		for (int half = 0; half < 2; half++) {
			Val *c = acc + 4 * half;
			Val d = mma_s8(k, rows + s * A_REGS, columns + half * B_REGS, c);
			for (int i = 0; i < 4; i++)
				c[i] = val_extract(k->b, d, i, IR_I32);
		}
	}
}

Tile mma_int8(Kernel *k, Int8Rows rows, Shared b)
{
	Tile acc = tile_new(k, b.rows);
	if (kernel_uses_groups(k)) {
		wgmma_int8(k, acc, rows, b);
		return acc;
	}
	Val zero = val_i32(k->b, 0);
	Val from = val_offset_const(k->b, address_b(k, b), b.offset);
	for (int e = 0; e < tile_count(acc); e++)
		acc.e[e] = zero;
	for (int n = 0; n < b.rows / 8; n += 2)
		int8_columns(k, acc.e + 4 * n, rows.registers, val_offset_const(k->b, from, n * 8 * b.row_bytes));
	return acc;
}

void mma_int8_wait(Kernel *k, Tile products)
{
	if (kernel_uses_groups(k))
		wgmma_int8_wait(k, products);
}

/* A's registers for one step of depth of a tile in registers. With f32 an instruction's depth index t means column 2t
 * of the tile's block and t + 4 means column 2t + 1, which is what a lane holds; B is read in the same order. */
static Fragment tile_fragment(Kernel *k, Tile p, int s)
{
	Fragment f = { 0 };
	if (is_f32(k)) {
		static const int order[A_REGS] = { 0, 2, 1, 3 };
		for (int i = 0; i < A_REGS; i++)
			split(k, p.e[4 * s + order[i]], &f.big[i], &f.small[i]);
		return f;
	}
	tile_operand(k, p, s, f.big);
	return f;
}

/* B's registers, stored [depth x columns], of column blocks n and (where `two`) n + 1. */
static Fragment fragment_by_depth(Kernel *k, Val from, Shared b, int s, int n, bool two)
{
	Builder *builder = k->b;
	if (!is_f32(k)) {
		Val at = val_offset_const(builder, from, s * 16 * b.row_bytes + n * CHUNK);
		return load_fragment(k, at, two ? 4 : 2, true);
	}
	Fragment f = { 0 };
	for (int i = 0; i < (two ? 4 : 2); i++) {
		Val at = val_offset_const(builder, from, (s * 8 + i % 2) * b.row_bytes + (n + i / 2) * 32);
		Val x = val_load(builder, at, IR_F32);
		split(k, x, &f.big[i], &f.small[i]);
	}
	return f;
}

static Val address_by_depth(Kernel *k, Shared b)
{
	Builder *builder = k->b;
	if (!is_f32(k))
		return address_a(k, b, val_i32(builder, 0));
	Val depth = val_mul_i32(builder, val_rem_i32(builder, k->lane, 4), 2);
	Val by_depth = val_mul_i32(builder, depth, b.row_bytes);
	Val column = val_mul_i32(builder, val_div_i32(builder, k->lane, 4), 4);
	return val_offset(builder, b.base, val_add(builder, by_depth, column));
}

/*
 * Scales each row of p in place by a power of two, so that its largest element lies in [2^14, 2^15), and returns what scales
 * back. A row of zeros, or one whose largest element is far below f16's range even so, gets the scale of 2^-100. With a NaN or an
 * infinity the exponent's arithmetic wraps, but the element stays NaN or infinite, as the product must be.
 */
void scale_rows(Kernel *k, Tile p, Val back[2])
{
	Builder *b = k->b;
	for (int r = 0; r < 2; r++) {
		Val largest = val_f32(b, 0x1p-100);
		for (int e = 0; e < tile_count(p); e++)
			if (e % 4 / 2 == r) {
				Val size = val_fabs(b, p.e[e]);
				largest = val_fmax(b, largest, size);
			}
		largest = lane_max(k, largest, 4);
		Val bits = val_bitcast(b, largest, IR_I32);
		Val exponent = val_and(b, bits, val_i32(b, 0x7f800000));
		/* 2^(14 - e) and 2^(e - 14), as bit patterns: biased exponents (127 + 14) - e and e - 14. */
		Val up = val_sub(b, val_i32(b, (int32_t)((254u + 14u) << 23)), exponent);
		Val down = val_add_i32(b, exponent, -(14 << 23));
		Val scale = val_bitcast(b, up, IR_F32);
		back[r] = val_bitcast(b, down, IR_F32);
		for (int e = 0; e < tile_count(p); e++)
			if (e % 4 / 2 == r)
				p.e[e] = val_fmul(b, p.e[e], scale);
	}
}

Tile tile_copy(Kernel *k, Tile t)
{
	Tile copy = tile_new(k, t.cols);
	for (int e = 0; e < tile_count(t); e++)
		copy.e[e] = t.e[e];
	return copy;
}

/* What rounding to the 16-bit dtype leaves of a tile. */
static Tile rounding_rest(Kernel *k, Tile p)
{
	Tile rest = tile_new(k, p.cols);
	for (int e = 0; e < tile_count(p); e += 2) {
		Val low, high, packed = pack_pair(k, p.e[e], p.e[e + 1]);
		unpack_pair(k, val_bitcast(k->b, packed, IR_I32), &low, &high);
		rest.e[e] = val_fsub(k->b, p.e[e], low);
		rest.e[e + 1] = val_fsub(k->b, p.e[e + 1], high);
	}
	return rest;
}

/* parts: 2 to multiply what rounding left as well. */
static void multiply_tile(Kernel *k, Tile acc, Tile p, Shared b, int parts)
{
	Builder *builder = k->b;
	int depth = step_depth(k), steps = p.cols / depth, blocks = acc.cols / 8;
	bool scaled = k->spec->dtype == DTYPE_F16, fresh = scaled || is_split(k);
	Val back[2];
	Tile a = p;
	if (scaled) {
		a = tile_copy(k, p);
		scale_rows(k, a, back);
	}
	Fragment *fa = ARENA_ARRAY(builder->arena, Fragment, 2 * steps);
	for (int part = 0; part < parts; part++) {
		for (int s = 0; s < steps; s++)
			fa[part * steps + s] = tile_fragment(k, a, s);
		if (part + 1 < parts)
			a = rounding_rest(k, a);
	}
	Val from = address_by_depth(k, b);
	Val zero = val_f32(builder, 0);
	for (int n = 0; n < blocks; n += 2) {
		bool two = n + 1 < blocks;
		Val product[8];
		Val *c = fresh ? product : acc.e + 4 * n;
		for (int i = 0; fresh && i < 8; i++)
			product[i] = zero;
		for (int s = 0; s < steps; s++) {
			Fragment fb = fragment_by_depth(k, from, b, s, n, two);
			for (int part = 0; part < parts; part++) {
				step(k, c, &fa[part * steps + s], &fb, 0);
				if (two)
					step(k, c + 4, &fa[part * steps + s], &fb, B_REGS);
			}
		}
		for (int i = 0; fresh && i < (two ? 8 : 4); i++) {
			Val *sum = &acc.e[4 * n + i];
			*sum = scaled ? val_fma(builder, product[i], back[i % 4 / 2], *sum)
			              : val_fadd(builder, *sum, product[i]);
		}
	}
}

Val tile_bits(Kernel *k, Tile t)
{
	Builder *b = k->b;
	Val bits = val_i32(b, 0);
	for (int e = 0; e < tile_count(t); e++)
		bits = val_or(b, bits, val_bitcast(b, t.e[e], IR_I32));
	return val_shl(b, bits, val_i32(b, 1));
}

/* Does any lane of the warp hold an element other than +0 and -0? */
static Val warp_has_nonzero(Kernel *k, Tile t)
{
	Builder *b = k->b;
	Val bits = tile_bits(k, t);
	Val own = val_compare(b, IR_NE, bits, val_i32(b, 0));
	return warp_any(k, own);
}

static void multiply_unless_zero(Kernel *k, Tile acc, Tile p, Shared b, int parts)
{
	if (kernel_uses_groups(k)) {
		if (parts > 1)
			ir_fail(k->b, "wgmma takes no tile in two parts");
		wgmma_tile(k, acc, p, b);
		return;
	}
	if (!k->plan->zeros_proved) {
		multiply_tile(k, acc, p, b, parts);
		return;
	}
	Val **changed = ARENA_ARRAY(k->b->arena, Val *, tile_count(acc));
	int count = carry_array(changed, 0, acc.e, tile_count(acc));
	Val nonzero = warp_has_nonzero(k, p);
	for (If f = if_begin(k->b, nonzero, changed, count); if_next(&f);)
		multiply_tile(k, acc, p, b, parts);
}

void mma_tile(Kernel *k, Tile acc, Tile p, Shared b)
{
	multiply_unless_zero(k, acc, p, b, 1);
}

void mma_tile_twice(Kernel *k, Tile acc, Tile p, Shared b)
{
	multiply_unless_zero(k, acc, p, b, is_f32(k) ? 1 : 2);
}
