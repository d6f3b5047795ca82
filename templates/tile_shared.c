/* Shared matrices: their rows in memory, and the asynchronous copies that fill them. */
#include "tile.h"

Shared shared_at(Kernel *k, Val base, int rows, int cols)
{
	return (Shared){ base, rows, cols, plan_row_bytes(k->spec, cols) };
}

int shared_bytes(Shared s)
{
	return s.rows * s.row_bytes;
}

Shared shared_new(Kernel *k, int rows, int cols)
{
	Shared s = shared_at(k, val_offset_const(k->b, k->shared, k->shared_bytes), rows, cols);
	k->shared_bytes += shared_bytes(s);
	return s;
}

/* 16 bytes, or 16 zero bytes where `valid` (i1; null: always) does not hold; then the source is not read. */
static void copy_chunk(Kernel *k, Val to, Val from, Val valid)
{
	Builder *b = k->b;
	static const char attrs[] = "modifier = #nvvm<load_cache_modifier cg>, size = 16 : i32";
	if (val_is_null(valid)) {
		ir_op(b, "nvvm.cp.async.shared.global", attrs, IR_TYPE_COUNT, 2, (Val[]){ to, from });
		return;
	}
	Val whole = val_i32(b, CHUNK);
	Val bytes = val_select(b, valid, whole, val_i32(b, 0));
	ir_op(b, "nvvm.cp.async.shared.global", attrs, IR_TYPE_COUNT, 3, (Val[]){ to, from, bytes });
}

static int power_of_two_above(int n)
{
	int p = 1;
	while (p < n)
		p *= 2;
	return p;
}

/*
 * Neighbouring threads take neighbouring chunks of a row: `across` threads a row, a power of two, so that a thread's
 * chunk and row come from a mask and a shift, and its later rows and chunks lie at constant distances.
 */
void shared_copy(Kernel *k, Shared to, Matrix from, Val first)
{
	Builder *b = k->b;
	int size = dtype_size(k->spec->dtype), threads = k->launch->warps * WARP;
	int stored = to.cols * size / CHUNK, depth = 2 * CHUNK;
	int chunks = (to.cols * size + depth - 1) / depth * 2;         /* padding to a matrix instruction's depth included */
	int across = power_of_two_above(chunks);
	if (across > threads)
		across = threads;
	int down = threads / across;
	Val chunk = val_rem_i32(b, k->thread, across);
	Val row = val_div_i32(b, k->thread, across);
	Val in_matrix = val_add(b, first, row);
	Val row64 = val_to_i64(b, in_matrix);
	Val row_bytes = val_mul(b, from.row_stride, val_i64(b, size));
	Val source = val_offset(b, from.base, val_mul(b, row64, row_bytes));
	source = val_offset(b, source, val_mul_i32(b, chunk, CHUNK));
	Val into_row = val_mul_i32(b, row, to.row_bytes);
	Val into = val_add(b, into_row, val_mul_i32(b, chunk, CHUNK));
	Val target = val_offset(b, to.base, into);
	Val pass_bytes = val_mul(b, row_bytes, val_i64(b, down));
	for (int y = 0; y < to.rows; y += down) {
		Val here = val_add_i32(b, in_matrix, y);
		Val valid = val_compare(b, IR_LT, here, from.rows);
		/* More rows a pass than the tile has: the threads beyond it copy nothing. */
		bool partial_rows = y + down > to.rows;
		for (int x = 0; x < chunks; x += across) {
			Val own = (Val){ NULL };
			if (partial_rows)
				own = val_compare(b, IR_LT, row, val_i32(b, to.rows - y));
			if (x + across > chunks) {
				Val inside = val_compare(b, IR_LT, chunk, val_i32(b, chunks - x));
				own = val_is_null(own) ? inside : val_and(b, own, inside);
			}
			Val read = valid;
			if (x + across > stored)
				read = val_and(b, valid, val_compare(b, IR_LT, chunk, val_i32(b, stored - x)));
			Val at = val_offset_const(b, target, (int64_t)y * to.row_bytes + x * CHUNK);
			Val origin = val_offset_const(b, source, x * CHUNK);
			if (val_is_null(own)) {
				copy_chunk(k, at, origin, read);
				continue;
			}
			for (If f = if_begin(b, own, NULL, 0); if_next(&f);)
				copy_chunk(k, at, origin, read);
		}
		source = val_offset(b, source, pass_bytes);
	}
}

void shared_copy_terms(Kernel *k, Val to, Val from, int count)
{
	Builder *b = k->b;
	Val none = { NULL };
	Val own = val_compare(b, IR_LT, k->thread, val_i32(b, count / 4));
	for (If f = if_begin(b, own, NULL, 0); if_next(&f);) {
		Val bytes = val_mul_i32(b, k->thread, CHUNK);
		Val target = val_offset(b, to, bytes);
		Val source = val_offset(b, from, bytes);
		copy_chunk(k, target, source, none);
	}
}

void copies_commit(Kernel *k)
{
	ir_op(k->b, "nvvm.cp.async.commit.group", NULL, IR_TYPE_COUNT, 0, NULL);
}

void copies_wait(Kernel *k, int pending)
{
	ir_op(k->b, "nvvm.cp.async.wait.group", arena_printf(k->b->arena, "n = %d : i32", pending), IR_TYPE_COUNT, 0, NULL);
}
