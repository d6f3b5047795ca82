/* Shared matrices: their rows in memory, and the asynchronous copies that fill them. */
#include "tile.h"
#include "tile_parts.h"

Shared shared_at(Kernel *k, Val base, int rows, int cols)
{
	bool swizzled = kernel_uses_groups(k);
	int row_bytes = swizzled ? PLAN_PANEL_BYTES : plan_row_bytes(k->spec, cols);
	return (Shared){ base, rows, cols, row_bytes, panel_cols(k), rows * row_bytes, 0, swizzled };
}

int shared_bytes(Shared s)
{
	return s.rows * s.row_bytes * (s.swizzled ? shared_panels(s) : 1);
}

/* Swizzled matrices begin at multiples of 1024 bytes, which is where the pattern does. */
void shared_align(Kernel *k)
{
	if (kernel_uses_groups(k))
		k->shared_bytes = (k->shared_bytes + SWIZZLE_BYTES - 1) / SWIZZLE_BYTES * SWIZZLE_BYTES;
}

Shared shared_new(Kernel *k, int rows, int cols)
{
	shared_align(k);
	Shared s = shared_at(k, val_offset_const(k->b, k->shared, k->shared_bytes), rows, cols);
	k->shared_bytes += shared_bytes(s);
	return s;
}

/* The distance of panels stays that of the whole matrix. */
Shared shared_rows(Shared s, int first, int rows)
{
	s.offset += first % s.rows * s.row_bytes + first / s.rows * PLAN_PANEL_BYTES / 2;
	s.rows = rows;
	return s;
}

int panel_cols(const Kernel *k)
{
	return PLAN_PANEL_BYTES / dtype_size(k->spec->dtype);
}

int shared_panels(Shared s)
{
	return (s.cols + s.panel_cols - 1) / s.panel_cols;
}

int shared_panel_bytes(Shared s)
{
	return s.panel_bytes;
}

Val shared_address(Kernel *k, Shared s, Val row, int n)
{
	Builder *b = k->b;
	Val by_row = val_mul_i32(b, row, s.row_bytes);
	if (!s.swizzled) {
		Val own = val_offset(b, s.base, by_row);
		return val_offset_const(b, own, n * 8 * dtype_size(k->spec->dtype));
	}
	/* Chunk c of a panel's row lies at place c ^ (row % 8). */
	int chunks = PLAN_PANEL_BYTES / CHUNK;
	Val turn = val_rem_i32(b, row, 8);
	Val place = val_xor(b, turn, val_i32(b, n % chunks));
	Val in_row = val_mul_i32(b, place, CHUNK);
	Val own = val_offset(b, s.base, val_add(b, by_row, in_row));
	return val_offset_const(b, own, (int64_t)(n / chunks) * shared_panel_bytes(s));
}

/* `size` bytes, or as many zeros where `valid` (i1; null: always) does not hold; then the source is not read. */
static void copy_bytes(Kernel *k, Val to, Val from, Val valid, int size)
{
	Builder *b = k->b;
	const char *attrs = size == CHUNK ? "modifier = #nvvm<load_cache_modifier cg>, size = 16 : i32"
	                                  : "modifier = #nvvm<load_cache_modifier ca>, size = 4 : i32";
	if (val_is_null(valid)) {
		ir_op(b, "nvvm.cp.async.shared.global", attrs, IR_TYPE_COUNT, 2, (Val[]){ to, from });
		return;
	}
	Val whole = val_i32(b, size);
	Val bytes = val_select(b, valid, whole, val_i32(b, 0));
	ir_op(b, "nvvm.cp.async.shared.global", attrs, IR_TYPE_COUNT, 3, (Val[]){ to, from, bytes });
}

static void copy_chunk(Kernel *k, Val to, Val from, Val valid)
{
	copy_bytes(k, to, from, valid, CHUNK);
}

static int power_of_two_above(int n)
{
	int p = 1;
	while (p < n)
		p *= 2;
	return p;
}

/* How the threads of a CTA share out the 16-byte chunks of a tile. Neighbouring threads take neighbouring chunks of a row:
 * `across` threads a row, a power of two, so that a thread's chunk and row come from a mask and a shift. */
typedef struct CopyShape {
	int stored, chunks;                /* a row's chunks in global memory; with padding to a matrix instruction's depth */
	int across, down;                  /* threads a row; rows a pass */
	Val chunk, row;                    /* this thread's */
} CopyShape;

static CopyShape copy_shape(Kernel *k, Shared to)
{
	int size = dtype_size(k->spec->dtype), threads = k->launch->warps * WARP, depth = 2 * CHUNK;
	CopyShape shape = { .stored = to.cols * size / CHUNK, .chunks = (to.cols * size + depth - 1) / depth * 2 };
	shape.across = power_of_two_above(shape.chunks);
	if (shape.across > threads)
		shape.across = threads;
	shape.down = threads / shape.across;
	shape.chunk = val_rem_i32(k->b, k->thread, shape.across);
	shape.row = val_div_i32(k->b, k->thread, shape.across);
	return shape;
}

/* One pass: `down` rows. source and target are this thread's; here is its row in the matrix. */
static void copy_pass(Kernel *k, const CopyShape *shape, Shared to, Val target, Val source, Val here, Val rows)
{
	Builder *b = k->b;
	Val valid = val_compare(b, IR_LT, here, rows);
	for (int x = 0; x < shape->chunks; x += shape->across) {
		/* A thread may lie beyond the tile's last row, when a pass takes more, or beyond the row's last chunk. */
		Val own = (Val){ NULL };
		if (shape->down > to.rows)
			own = val_compare(b, IR_LT, shape->row, val_i32(b, to.rows));
		if (x + shape->across > shape->chunks) {
			Val inside = val_compare(b, IR_LT, shape->chunk, val_i32(b, shape->chunks - x));
			own = val_is_null(own) ? inside : val_and(b, own, inside);
		}
		Val read = valid;
		if (x + shape->across > shape->stored)
			read = val_and(b, valid, val_compare(b, IR_LT, shape->chunk, val_i32(b, shape->stored - x)));
		Val at = val_offset_const(b, target, x * CHUNK);
		Val origin = val_offset_const(b, source, x * CHUNK);
		if (val_is_null(own)) {
			copy_chunk(k, at, origin, read);
			continue;
		}
		for (If f = if_begin(b, own, NULL, 0); if_next(&f);)
			copy_chunk(k, at, origin, read);
	}
}

/* Passes are unrolled, by UNROLL where there are many: their addresses would take too many registers. */
void shared_copy(Kernel *k, Shared to, Matrix from, Val first)
{
	enum { UNROLL = 4 };
	Builder *b = k->b;
	if (kernel_uses_groups(k)) {
		k->residents[k->resident_count++] = (Box){ to, from, first };
		return;
	}
	CopyShape shape = copy_shape(k, to);
	int passes = (to.rows + shape.down - 1) / shape.down;
	int unrolled = passes > 2 * UNROLL ? UNROLL : passes;
	Val here = val_add(b, first, shape.row);
	Val row64 = val_to_i64(b, here);
	Val source = val_offset(b, from.base, val_mul(b, row64, matrix_stride(k, from, 1)));
	source = val_offset(b, source, val_mul_i32(b, shape.chunk, CHUNK));
	Val into_row = val_mul_i32(b, shape.row, to.row_bytes);
	Val into = val_add(b, into_row, val_mul_i32(b, shape.chunk, CHUNK));
	Val target = val_offset(b, to.base, into);
	Val pass_bytes = matrix_stride(k, from, shape.down);
	Val *carry[] = { &here, &source, &target };
	Val zero = val_i32(b, 0);
	for (Loop l = loop_begin(b, zero, val_i32(b, passes), unrolled, carry, 3); loop_next(&l);)
		for (int i = 0; i < unrolled; i++) {
			copy_pass(k, &shape, to, target, source, here, from.rows);
			here = val_add_i32(b, here, shape.down);
			source = val_offset(b, source, pass_bytes);
			target = val_offset_const(b, target, (int64_t)shape.down * to.row_bytes);
		}
}

/* The list's entry for a row of the tile; a thread beyond the last row reads that one's. */
static Val list_entry(Kernel *k, Val list, Val row, int rows)
{
	Builder *b = k->b;
	Val last = val_i32(b, rows - 1);
	Val bytes = val_mul_i32(b, val_min(b, row, last), 4);
	return val_load(b, val_offset(b, list, bytes), IR_I32);
}

void shared_gather(Kernel *k, Shared to, Matrix from, Val list)
{
	Builder *b = k->b;
	CopyShape shape = copy_shape(k, to);
	Val own_chunk = val_mul_i32(b, shape.chunk, CHUNK);
	Val into_row = val_mul_i32(b, shape.row, to.row_bytes);
	Val target = val_offset(b, to.base, val_add(b, into_row, own_chunk)), base = val_offset(b, from.base, own_chunk);
	for (int row = 0; row < to.rows; row += shape.down) {
		Val here = list_entry(k, list, val_add_i32(b, shape.row, row), to.rows);
		/* As an unsigned number, which takes fewer instructions: lists have no rows below 0. */
		Val row64 = val_widen_i32(b, here);
		Val source = val_offset(b, base, val_mul(b, row64, matrix_stride(k, from, 1)));
		copy_pass(k, &shape, to, val_offset_const(b, target, (int64_t)row * to.row_bytes), source, here, from.rows);
	}
}

void shared_gather_terms(Kernel *k, Val to, Val from, Val list, int count, Val rows)
{
	Builder *b = k->b;
	int threads = k->launch->warps * WARP;
	for (int first = 0; first < count; first += threads) {
		Val own = val_compare(b, IR_LT, k->thread, val_i32(b, count - first));
		for (If f = if_begin(b, own, NULL, 0); if_next(&f);) {
			Val offset = val_mul_i32(b, val_add_i32(b, k->thread, first), 4);
			Val here = val_load(b, val_offset(b, list, offset), IR_I32);
			Val bytes = val_mul(b, val_widen_i32(b, here), val_i64(b, 4));
			Val source = val_offset(b, from, bytes);
			Val inside = val_compare(b, IR_LT, here, rows);
			copy_bytes(k, val_offset(b, to, offset), source, inside, 4);
		}
	}
}

void shared_copy_terms(Kernel *k, Val to, Val from, int count)
{
	Builder *b = k->b;
	if (kernel_uses_groups(k)) {
		k->resident_terms[k->resident_term_count++] = (ResidentTerms){ to, from, count };
		return;
	}
	Val none = { NULL };
	Val own = val_compare(b, IR_LT, k->thread, val_i32(b, count / 4));
	for (If f = if_begin(b, own, NULL, 0); if_next(&f);) {
		Val bytes = val_mul_i32(b, k->thread, CHUNK);
		Val target = val_offset(b, to, bytes);
		Val source = val_offset(b, from, bytes);
		copy_chunk(k, target, source, none);
	}
}

void shared_arrived(Kernel *k)
{
	if (kernel_uses_groups(k))
		return;
	copies_commit(k);
	copies_wait(k, 0);
	kernel_barrier(k);
}

void copies_commit(Kernel *k)
{
	ir_op(k->b, "nvvm.cp.async.commit.group", NULL, IR_TYPE_COUNT, 0, NULL);
}

void copies_wait(Kernel *k, int pending)
{
	ir_op(k->b, "nvvm.cp.async.wait.group", arena_printf(k->b->arena, "n = %d : i32", pending), IR_TYPE_COUNT, 0, NULL);
}

/* With side effects, so that no compiler keeps what was read before. */
Val shared_read_anew(Kernel *k, Val at)
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I32, 1, &at), result;
	ir_asm(k->b, "ld.volatile.shared.u32 $0, [$1];", "=r,r", IR_I32, 1, &result, 1, &address);
	return result;
}

void shared_read_pair_anew(Kernel *k, Val at, Val pair[2])
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I32, 1, &at);
	ir_asm(k->b, "ld.volatile.shared.v2.u32 {$0, $1}, [$2];", "=r,=r,r", IR_I32, 2, pair, 1, &address);
}

void shared_write_through(Kernel *k, Val at, Val value)
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I32, 1, &at);
	ir_asm(k->b, "st.volatile.shared.u32 [$0], $1;", "r,r", IR_I32, 0, NULL, 2, (Val[]){ address, value });
}
