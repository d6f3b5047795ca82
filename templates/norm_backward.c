/*
 * Backward of the output norm y = o r gain, r = 1 / sqrt(mean(o^2) + eps):
 *
 *     do = r (gain dy) - o r^3 mean(o gain dy)
 *     dgain_c = sum_i dy_ic o_ic r_i
 *
 * One CTA: 64 rows of one (batch, head), a warp for every fourth row, lanes across pairs of columns. Partial sums of dgain lie as
 * [CTA][value_dim].
 */
#include "kernels_parts.h"
#include "tile_parts.h"

enum { NORM_WARPS = 4, MAX_PAIRS = SPEC_MAX_HEAD_DIM / 2 / WARP };

typedef struct Pairwise {
	Val at[2];
} Pairwise;

static Val row_start(Kernel *k, Matrix m, Val row, int size)
{
	Builder *b = k->b;
	Val row64 = val_to_i64(b, row);
	Val start = val_offset(b, m.base, val_mul(b, row64, matrix_stride(k, m, 1)));
	return val_offset(b, start, val_mul_i32(b, k->lane, 2 * size));
}

static Val pair_address(Kernel *k, Val start, int n, int size)
{
	return val_offset_const(k->b, start, n * 2 * WARP * size);
}

static Pairwise load_pair(Kernel *k, Val address, int size)
{
	Builder *b = k->b;
	Pairwise p;
	if (size == 2) {
		Val bits = val_load(b, address, IR_I32);
		unpack_pair(k, bits, &p.at[0], &p.at[1]);
	} else {
		Val pair = val_load(b, address, IR_V2F32);
		p.at[0] = val_vector_get(b, pair, 0, IR_F32);
		p.at[1] = val_vector_get(b, pair, 1, IR_F32);
	}
	return p;
}

/* Rounded, and (where the dtype is short) what rounding left. */
static void store_gradient(Kernel *k, Val address, Val rest_address, Pairwise p)
{
	Builder *b = k->b;
	if (!plan_splits_output_gradient(k->spec)) {
		val_store(b, address, val_vector_pair(b, p.at[0], p.at[1], IR_V2F32));
		return;
	}
	Val rounded = pack_pair(k, p.at[0], p.at[1]);
	val_store(b, address, rounded);
	Pairwise big;
	unpack_pair(k, val_bitcast(b, rounded, IR_I32), &big.at[0], &big.at[1]);
	for (int i = 0; i < 2; i++)
		p.at[i] = val_fsub(b, p.at[i], big.at[i]);
	val_store(b, rest_address, pack_pair(k, p.at[0], p.at[1]));
}

/* Does this lane have an n-th pair of columns? */
static Val has_pair(Kernel *k, int n)
{
	return val_compare(k->b, IR_LT, k->lane, val_i32(k->b, k->spec->value_dim / 2 - n * WARP));
}


/* One row; sums[2n], sums[2n + 1] collect dgain of the lane's n-th pair of columns. */
static void backward_row(Kernel *k, Place place, Val row, int pairs, const Pairwise *gain, Val *sums)
{
	Builder *b = k->b;
	Matrix dy_rows = matrix_of(k, "do", place.batch, place.head, "q_len", k->spec->value_dim);
	int size = dtype_size(k->spec->dtype);
	Val dy_start = row_start(k, dy_rows, row, size);
	Val o_start = row_start(k, packed_rows(k, "o_raw", place.batch_head, sizeof(float)), row, sizeof(float));
	Val to_start = row_start(k, packed_rows(k, "do_raw", place.batch_head, size), row, size);
	Val rest_start = to_start;
	if (plan_splits_output_gradient(k->spec))
		rest_start = row_start(k, packed_rows(k, "do_rest", place.batch_head, size), row, size);
	Val terms = terms_of(k, "inv_rms", place.batch_head, "q_len");
	Val bytes = val_mul_i32(b, row, 4);
	Val r = val_load(b, val_offset(b, terms, val_to_i64(b, bytes)), IR_F32);
	Val zero = val_f32(b, 0), dot = zero;
	Pairwise dy[MAX_PAIRS], o[MAX_PAIRS];
	for (int n = 0; n < pairs; n++) {
		dy[n] = o[n] = (Pairwise){ { zero, zero } };
		Val *changed[] = { &dy[n].at[0], &dy[n].at[1], &o[n].at[0], &o[n].at[1] };
		for (If f = if_begin(b, has_pair(k, n), changed, 4); if_next(&f);) {
			dy[n] = load_pair(k, pair_address(k, dy_start, n, size), size);
			o[n] = load_pair(k, pair_address(k, o_start, n, sizeof(float)), sizeof(float));
		}
		for (int i = 0; i < 2; i++) {
			Val unit = val_fmul(b, o[n].at[i], r);
			sums[2 * n + i] = val_fma(b, dy[n].at[i], unit, sums[2 * n + i]);
			dy[n].at[i] = val_fmul(b, dy[n].at[i], gain[n].at[i]);
			dot = val_fma(b, dy[n].at[i], unit, dot);
		}
	}
	dot = lane_sum(k, dot, WARP);
	Val mean = val_fmul(b, dot, val_f32(b, 1.0 / k->spec->value_dim));
	for (int n = 0; n < pairs; n++)
		for (If f = if_begin(b, has_pair(k, n), NULL, 0); if_next(&f);) {
			Pairwise result;
			for (int i = 0; i < 2; i++) {
				Val unit = val_fmul(b, o[n].at[i], r);
				Val along = val_fmul(b, unit, mean);
				result.at[i] = val_fmul(b, val_fsub(b, dy[n].at[i], along), r);
			}
			Val at = pair_address(k, to_start, n, size);
			store_gradient(k, at, pair_address(k, rest_start, n, size), result);
		}
}

/* Adds the warps' sums in order and writes the CTA's row of partial sums. */
static void store_gain_partials(Kernel *k, int pairs, const Val *sums)
{
	Builder *b = k->b;
	int row_bytes = MAX_PAIRS * 2 * WARP * 4;
	Val own = val_offset(b, k->shared, val_mul_i32(b, k->warp, row_bytes));
	own = val_offset(b, own, val_mul_i32(b, k->lane, 8));
	k->shared_bytes += NORM_WARPS * row_bytes;
	for (int n = 0; n < pairs; n++) {
		Val pair = val_vector_pair(b, sums[2 * n], sums[2 * n + 1], IR_V2F32);
		val_store(b, val_offset_const(b, own, n * 2 * WARP * 4), pair);
	}
	kernel_barrier(k);
	Val to = kernel_pointer(k, "buffer.partial_%s", k->spec->params[k->spec->gain].name);
	Val cta = val_to_i64(b, k->cta);
	to = val_offset(b, to, val_mul(b, cta, val_i64(b, k->spec->value_dim * 4)));
	for (int c = 0; c < k->spec->value_dim; c += NORM_WARPS * WARP) {
		Val inside = val_compare(b, IR_LT, k->thread, val_i32(b, k->spec->value_dim - c));
		for (If f = if_begin(b, inside, NULL, 0); if_next(&f);) {
			Val bytes = val_add_i32(b, val_mul_i32(b, k->thread, 4), c * 4);
			Val from = val_offset(b, k->shared, bytes);
			Val total = val_load(b, from, IR_F32);
			for (int w = 1; w < NORM_WARPS; w++) {
				Val at = val_offset_const(b, from, w * row_bytes);
				total = val_fadd(b, total, val_load(b, at, IR_F32));
			}
			val_store(b, val_offset(b, to, bytes), total);
		}
	}
}

bool build_norm_backward(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	Place place = kernel_place(k, "heads", "q_len", launch->rows);
	int pairs = (spec->value_dim / 2 + WARP - 1) / WARP;
	Val zero = val_f32(b, 0), one = val_f32(b, 1);
	Pairwise gain[MAX_PAIRS];
	Val sums[2 * MAX_PAIRS];
	Val *carry[2 * MAX_PAIRS];
	for (int n = 0; n < pairs; n++) {
		gain[n] = (Pairwise){ { one, one } };
		sums[2 * n] = sums[2 * n + 1] = zero;
		if (spec->gain < 0)
			continue;
		Val *changed[] = { &gain[n].at[0], &gain[n].at[1] };
		Val column = val_add_i32(b, val_mul_i32(b, k->lane, 2), n * 2 * WARP);
		for (If f = if_begin(b, has_pair(k, n), changed, 2); if_next(&f);) {
			gain[n].at[0] = load_gain(k, column);
			gain[n].at[1] = load_gain(k, val_add_i32(b, column, 1));
		}
	}
	int carried = carry_array(carry, 0, sums, 2 * pairs);
	Val from = k->warp;
	Val left = val_sub(b, kernel_i32(k, "q_len"), place.row0);
	Val to = val_min(b, left, val_i32(b, launch->rows));
	for (Loop loop = loop_begin(b, from, to, NORM_WARPS, carry, carried); loop_next(&loop);) {
		Val row = val_add(b, place.row0, loop.index);
		backward_row(k, place, row, pairs, gain, sums);
	}
	if (spec->gain >= 0)
		store_gain_partials(k, pairs, sums);
	return kernel_end(k);
}
