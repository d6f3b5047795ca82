/* The layout of tiles: the only place that knows which lane holds which element (see tile.h). */
#include "tile.h"
#include "tile_parts.h"

Tile tile_new(Kernel *k, int cols)
{
	return (Tile){ cols, ARENA_ARRAY(k->b->arena, Val, cols / 2) };
}

Tile tile_zero(Kernel *k, int cols)
{
	Tile t = tile_new(k, cols);
	Val zero = val_f32(k->b, 0);
	for (int e = 0; e < tile_count(t); e++)
		t.e[e] = zero;
	return t;
}

bool tile_is_zero(Tile t)
{
	for (int e = 1; e < tile_count(t); e++)
		if (!val_same(t.e[0], t.e[e]))
			return false;
	return val_is_zero_f32(t.e[0]);
}

Axis axis_new(Kernel *k, Along along, int cols)
{
	int count = along == ALONG_ROWS ? 2 : cols / 4;
	return (Axis){ .along = along, .count = count, .at = ARENA_ARRAY(k->b->arena, Val, count) };
}

/* Offset of entry `n` of an axis from the lane's first. */
static int axis_step(Along along, int n)
{
	return along == ALONG_ROWS ? n * 8 : n / 2 * 8 + n % 2;
}

Val axis_at(Axis axis, int n)
{
	return axis.at ? axis.at[n] : val_add_i32(axis.k->b, axis.first, axis_step(axis.along, n));
}

Val axis_get(Axis axis, int element)
{
	return axis_at(axis, axis.along == ALONG_ROWS ? element % 4 / 2 : element / 4 * 2 + element % 2);
}

/* The lane's first row, or column. */
static Val axis_lane(Kernel *k, Along along)
{
	Builder *b = k->b;
	if (along == ALONG_ROWS)
		return val_div_i32(b, k->lane, 4);
	return val_mul_i32(b, val_rem_i32(b, k->lane, 4), 2);
}

Axis axis_index(Kernel *k, Along along, int cols, Val first)
{
	Axis axis = axis_new(k, along, cols);
	Val lane = axis_lane(k, along);
	Val own = val_add(k->b, first, lane);
	if (along == ALONG_COLS && kernel_uses_groups(k))
		return (Axis){ .along = along, .count = axis.count, .k = k, .first = own };
	for (int n = 0; n < axis.count; n++)
		axis.at[n] = val_add_i32(k->b, own, axis_step(along, n));
	return axis;
}

void tile_scale(Kernel *k, Tile t, Axis by)
{
	for (int e = 0; by.count > 0 && e < tile_count(t); e++)
		t.e[e] = val_fmul(k->b, t.e[e], axis_get(by, e));
}

Axis axis_load_global(Kernel *k, Axis index, Val terms)
{
	Builder *b = k->b;
	Axis axis = index;
	axis.at = ARENA_ARRAY(b->arena, Val, index.count);
	Val bytes = val_mul_i32(b, index.at[0], 4);
	Val own = val_offset(b, terms, val_to_i64(b, bytes));
	for (int n = 0; n < axis.count; n++) {
		Val at = val_offset_const(b, own, 4 * axis_step(index.along, n));
		axis.at[n] = val_load(b, at, IR_F32);
	}
	return axis;
}

Axis axis_load_shared(Kernel *k, int cols, Val terms, IrType pair_type)
{
	Builder *b = k->b;
	IrType type = pair_type == IR_V2I32 ? IR_I32 : IR_F32;
	Axis axis = axis_new(k, ALONG_COLS, cols);
	Val lane = axis_lane(k, ALONG_COLS);
	Val own = val_offset(b, terms, val_mul_i32(b, lane, 4));
	for (int n = 0; n < axis.count; n += 2) {
		Val at = val_offset_const(b, own, 4 * axis_step(ALONG_COLS, n));
		Val pair = val_load(b, at, pair_type);
		axis.at[n] = val_vector_get(b, pair, 0, type);
		axis.at[n + 1] = val_vector_get(b, pair, 1, type);
	}
	return axis;
}

Val column_bits(Kernel *k, Val bits)
{
	static const struct { int shift; int32_t mask; } spread[] = { { 8, 0x00ff00ff }, { 4, 0x03030303 } };
	Builder *b = k->b;
	bits = val_or(b, bits, val_shr(b, bits, val_i32(b, 2)));
	bits = val_and(b, bits, val_i32(b, 0x3333));
	for (int i = 0; i < 2; i++) {
		bits = val_or(b, bits, val_shl(b, bits, val_i32(b, spread[i].shift)));
		bits = val_and(b, bits, val_i32(b, spread[i].mask));
	}
	Val first = val_mul_i32(b, val_rem_i32(b, k->lane, 4), 2);
	return val_shl(b, bits, first);
}

/* Entry n of `count`, which lie so far apart from x on: n is the number that the lane's bits from `bit` downwards spell. */
static Val by_lane(Kernel *k, const Val *x, int count, int apart, int bit)
{
	if (count == 1)
		return x[0];
	Builder *b = k->b;
	Val low = by_lane(k, x, count / 2, apart, bit / 2);
	Val high = by_lane(k, x + count / 2 * apart, count / 2, apart, bit / 2);
	Val upper = val_compare(b, IR_NE, val_and(b, k->lane, val_i32(b, bit)), val_i32(b, 0));
	return val_select(b, upper, high, low);
}

/* Every fourth bit, of eight. */
static Val every_fourth(Kernel *k, Val x)
{
	static const struct { int shift; int32_t mask; } steps[] = { { 3, 0x03030303 }, { 6, 0x000f000f }, { 12, 0xff } };
	Builder *b = k->b;
	x = val_and(b, x, val_i32(b, 0x11111111));
	for (size_t n = 0; n < sizeof steps / sizeof *steps; n++)
		x = val_and(b, val_or(b, x, val_shr(b, x, val_i32(b, steps[n].shift))), val_i32(b, steps[n].mask));
	return x;
}

Val rows_of_column(Kernel *k, int cols, const Val *lanes)
{
	Builder *b = k->b;
	Val half[2], quad_lane = val_rem_i32(b, val_div_i32(b, k->lane, 2), QUAD);
	for (int h = 0; h < 2; h++) {
		Val pair[WARP / 8];
		for (int n = 0; n < cols / 8; n++)
			pair[n] = by_lane(k, lanes + 4 * n + 2 * h, 2, 1, 1);
		Val all = by_lane(k, pair, cols / 8, 1, cols / 2);
		half[h] = every_fourth(k, val_shr(b, all, quad_lane));
	}
	return val_or(b, half[0], val_shl(b, half[1], val_i32(b, 8)));
}

Val row_bits(Kernel *k, Val bits, int row)
{
	return val_and(k->b, bits, val_i32(k->b, (int32_t)(row ? 0xcccccccc : 0x33333333)));
}

static Val exchange(Kernel *k, Val x, int distance, IrType type)
{
	Builder *b = k->b;
	Val all = val_i32(b, -1);
	Val offset = val_i32(b, distance);
	Val clamp = val_i32(b, 31);
	return ir_op(b, "nvvm.shfl.sync", "kind = #nvvm<shfl_kind bfly>", type, 4, (Val[]){ all, x, offset, clamp });
}

static Val lane_exchange(Kernel *k, Val x, int distance)
{
	return exchange(k, x, distance, IR_F32);
}

static Val vote(Kernel *k, const char *attrs, IrType type, Val condition)
{
	Val all = val_i32(k->b, -1);
	return ir_op(k->b, "nvvm.vote.sync", attrs, type, 2, (Val[]){ all, condition });
}

Val warp_any(Kernel *k, Val condition)
{
	return vote(k, "kind = #nvvm<vote_sync_kind any>", IR_I1, condition);
}

Val warp_ballot(Kernel *k, Val condition)
{
	return vote(k, "kind = #nvvm<vote_sync_kind ballot>", IR_I32, condition);
}

Val warp_or(Kernel *k, Val x)
{
	Val all = val_i32(k->b, -1);
	return ir_op(k->b, "nvvm.redux.sync", "kind = #nvvm<redux_kind or>", IR_I32, 2, (Val[]){ x, all });
}

Val warp_min(Kernel *k, Val x)
{
	Val all = val_i32(k->b, -1);
	return ir_op(k->b, "nvvm.redux.sync", "kind = #nvvm<redux_kind min>", IR_I32, 2, (Val[]){ x, all });
}

Val warp_max(Kernel *k, Val x)
{
	Val all = val_i32(k->b, -1);
	return ir_op(k->b, "nvvm.redux.sync", "kind = #nvvm<redux_kind umax>", IR_I32, 2, (Val[]){ x, all });
}

Val warp_sum(Kernel *k, Val x)
{
	Val all = val_i32(k->b, -1);
	return ir_op(k->b, "nvvm.redux.sync", "kind = #nvvm<redux_kind add>", IR_I32, 2, (Val[]){ x, all });
}

Val warp_running_sum(Kernel *k, Val x)
{
	Builder *b = k->b;
	Val all = val_i32(b, -1), clamp = val_i32(b, 0), zero = val_i32(b, 0);
	for (int distance = 1; distance < WARP; distance *= 2) {
		Val offset = val_i32(b, distance);
		Val below = ir_op(b, "nvvm.shfl.sync", "kind = #nvvm<shfl_kind up>", IR_I32, 4, (Val[]){ all, x, offset, clamp });
		Val has = val_compare(b, IR_GE, k->lane, offset);
		x = val_add(b, x, val_select(b, has, below, zero));
	}
	return x;
}

Val lane_value(Kernel *k, Val x, Val lane)
{
	Val all = val_i32(k->b, -1), clamp = val_i32(k->b, WARP - 1);
	return ir_op(k->b, "nvvm.shfl.sync", "kind = #nvvm<shfl_kind idx>", IR_I32, 4, (Val[]){ all, x, lane, clamp });
}

void warp_sync(Kernel *k)
{
	Val all = val_i32(k->b, -1);
	ir_op(k->b, "nvvm.bar.warp.sync", NULL, IR_TYPE_COUNT, 1, &all);
}

Val lane_sum(Kernel *k, Val x, int lanes)
{
	for (int distance = lanes / 2; distance > 0; distance /= 2) {
		Val other = lane_exchange(k, x, distance);
		x = val_fadd(k->b, x, other);
	}
	return x;
}

Val lane_max(Kernel *k, Val x, int lanes)
{
	for (int distance = lanes / 2; distance > 0; distance /= 2) {
		Val other = lane_exchange(k, x, distance);
		x = val_fmax(k->b, x, other);
	}
	return x;
}

void row_sum_lanes(Kernel *k, Val row[2])
{
	for (int r = 0; r < 2; r++)
		row[r] = lane_sum(k, row[r], 4);
}

void row_count_lanes(Kernel *k, Val row[2])
{
	for (int r = 0; r < 2; r++)
		for (int distance = 2; distance > 0; distance /= 2) {
			Val other = exchange(k, row[r], distance, IR_I32);
			row[r] = val_add(k->b, row[r], other);
		}
}

Val row_first_lane(Kernel *k)
{
	Val in_row = val_rem_i32(k->b, k->lane, 4);
	return val_compare(k->b, IR_EQ, in_row, val_i32(k->b, 0));
}

Val pack_pair(Kernel *k, Val low, Val high)
{
	Builder *b = k->b;
	static const char attrs[] = "relu = false, rnd = #nvvm.fp_rnd_mode<rn>, sat = #nvvm.sat_mode<none>";
	bool bf16 = k->spec->dtype == DTYPE_BF16;
	/* The instruction's first operand becomes the upper half. */
	return ir_op(b, bf16 ? "nvvm.convert.f32x2.to.bf16x2" : "nvvm.convert.f32x2.to.f16x2", attrs,
	             bf16 ? IR_V2BF16 : IR_V2F16, 2, (Val[]){ high, low });
}

void unpack_pair(Kernel *k, Val pair, Val *low, Val *high)
{
	Builder *b = k->b;
	if (k->spec->dtype == DTYPE_BF16) {
		/* The upper half of a float32; as a conversion, LLVM takes an instruction more for the second. */
		*low = val_bitcast(b, val_shl(b, pair, val_i32(b, 16)), IR_F32);
		*high = val_bitcast(b, val_and(b, pair, val_i32(b, (int32_t)0xffff0000)), IR_F32);
		return;
	}
	Val vector = val_bitcast(b, pair, IR_V2F16);
	Val first = val_vector_get(b, vector, 0, IR_F16);
	Val second = val_vector_get(b, vector, 1, IR_F16);
	*low = ir_op(b, "llvm.fpext", NULL, IR_F32, 1, &first);
	*high = ir_op(b, "llvm.fpext", NULL, IR_F32, 1, &second);
}

/*
 * Results leave the L2 cache first: few kernels here read any, and where they are mostly zeros they would drive out what is read. One
 * H100, one head at 100 % beside 63 without marks, T = 4096: a backward takes 87 us, and 95 without this.
 */
static void store_pair(Kernel *k, Val address, int offset, Val low, Val high, int size)
{
	const char *text = arena_printf(k->b->arena, size == 2 ? "st.global.cs.b32 [$0+%d], $1;" : "st.global.cs.v2.f32 [$0+%d], {$1, $2};",
	                                offset);
	if (size == 2) {
		Val pair = val_bitcast(k->b, pack_pair(k, low, high), IR_I32);
		ir_asm(k->b, text, "l,r", IR_I32, 0, NULL, 2, (Val[]){ address, pair });
	} else {
		ir_asm(k->b, text, "l,f,f", IR_I32, 0, NULL, 3, (Val[]){ address, low, high });
	}
}

static void store_zero_chunk(Kernel *k, Val at)
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I64, 1, &at), zero = val_i32(k->b, 0);
	ir_asm(k->b, "st.global.cs.v4.b32 [$0], {$1, $1, $1, $1};", "l,r", IR_I32, 0, NULL, 2, (Val[]){ address, zero });
}

/* Each lane writes two neighbouring elements of two rows for every 8 columns. */
static void store_elements(Kernel *k, Matrix m, Val row0, Tile t, int size)
{
	Builder *b = k->b;
	Axis row = axis_index(k, ALONG_ROWS, t.cols, row0);
	Val column = axis_lane(k, ALONG_COLS);
	Val column_bytes = val_mul_i32(b, column, size);
	for (int r = 0; r < 2; r++) {
		Val inside = val_compare(b, IR_LT, row.at[r], m.rows);
		for (If f = if_begin(b, inside, NULL, 0); if_next(&f);) {
			Val row64 = val_to_i64(b, row.at[r]);
			Val at = val_offset(b, m.base, val_mul(b, row64, matrix_stride(k, m, 1)));
			at = val_offset(b, at, column_bytes);
			Val address = ir_op(b, "llvm.ptrtoint", NULL, IR_I64, 1, &at);
			for (int n = 0; n < t.cols / 8; n++)
				store_pair(k, address, n * 8 * size, t.e[4 * n + 2 * r], t.e[4 * n + 2 * r + 1], size);
		}
	}
}

void tile_store(Kernel *k, Matrix m, Val row0, Tile t)
{
	store_elements(k, m, row0, t, dtype_size(k->spec->dtype));
}

void tile_store_f32(Kernel *k, Matrix m, Val row0, Tile t)
{
	store_elements(k, m, row0, t, sizeof(float));
}

void zero_rows(Kernel *k, Matrix m, Val row0)
{
	Builder *b = k->b;
	int chunks = m.cols * dtype_size(k->spec->dtype) / CHUNK, all = chunks * k->launch->rows, threads = k->launch->warps * WARP;
	for (int first = 0; first < all; first += threads) {
		Val n = val_add_i32(b, k->thread, first), row = val_add(b, row0, val_div_i32(b, n, chunks));
		Val exists = val_compare(b, IR_LT, row, m.rows);
		if (all - first < threads)
			exists = val_and(b, exists, val_compare(b, IR_LT, n, val_i32(b, all)));
		Val stride = matrix_stride(k, m, 1);
		Val at = val_offset(b, m.base, val_mul(b, val_to_i64(b, row), stride));
		at = val_offset(b, at, val_mul_i32(b, val_rem_i32(b, n, chunks), CHUNK));
		for (If f = if_begin(b, exists, NULL, 0); if_next(&f);)
			store_zero_chunk(k, at);
	}
}
