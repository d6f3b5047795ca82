/*
 * Which pairs count, exactly: those with a weight, or those above the threshold (PlanOptions.counted). Of each row, how many under each
 * view, and how many under two views or more; of each block of rows and 64 keys, a mask of the keys that a pair of it counts for, under
 * each view, and how many pairs count, over all views.
 *
 * One CTA: a block of rows of one (batch, head). Its queries stay in shared memory; keys of each view stream by. A tile of scores becomes
 * a bit for each pair at once, so that views can be compared, and everything else is made of those bits.
 *
 * In a row's count, -1 says that its threshold is NaN, -2 that a score that it sees is NaN or infinite.
 */
#include "kernels_parts.h"
#include "tile_parts.h"

enum { NO_THRESHOLD = -1, NOT_FINITE = -2, SLOT_BYTES = 8 };

typedef struct Count {
	Kernel *k;
	Place place;
	Scope head;
	Axis row;
	ViewMath math[SPEC_MAX_VIEWS];
	Axis inv_q[SPEC_MAX_VIEWS], tau[SPEC_MAX_VIEWS];
	Shared q[SPEC_MAX_VIEWS];
	Stream keys[SPEC_MAX_VIEWS];
	Span span;                         /* of the ring's tiles, of which PLAN_MARK keys are `parts` */
	int parts;
	Val slots;                         /* shared: masks and counts of each warp, [2][views + 1][warps] */
	/* Carried: of the lane's two rows, or of its columns in the PLAN_MARK keys at hand. */
	Val survivors[SPEC_MAX_VIEWS][2], consensus[2];
	Val not_finite[SPEC_MAX_VIEWS][2];
	Val low[SPEC_MAX_VIEWS], high[SPEC_MAX_VIEWS], pairs;
} Count;

enum { MOST_CARRIED = 6 * SPEC_MAX_VIEWS + 3 };

static Val is_finite(Builder *b, Val x)
{
	return val_fcompare(b, IR_LT, val_fabs(b, x), val_f32(b, __builtin_inf()));
}

/* ---- a tile of pairs ---- */

/* Bit e (i32): element e's score is NaN or infinite. Hardly ever asked. */
static Val not_finite_bits(Kernel *k, const Val *scores, int count)
{
	Builder *b = k->b;
	Val none = val_i32(b, 0), bits = none;
	for (int e = 0; e < count; e++)
		bits = val_or(b, bits, val_select(b, is_finite(b, scores[e]), none, val_i32(b, (int32_t)(1u << e))));
	return bits;
}

/* Rows that see a score which is no number: looked for where the tile has any, hidden ones among them. */
static void note_not_finite(Count *c, int v, const Val *scores, int count, Val largest, Val visible)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val finite = val_select(b, is_finite(b, largest), val_i32(b, 1), val_i32(b, 0));
	Val *changed[] = { &c->not_finite[v][0], &c->not_finite[v][1] };
	for (If f = if_begin(b, val_compare(b, IR_EQ, finite, val_i32(b, 0)), changed, 2); if_next(&f);) {
		Val bits = val_and(b, not_finite_bits(k, scores, count), visible);
		for (int r = 0; r < 2; r++)
			c->not_finite[v][r] = val_or(b, c->not_finite[v][r], row_bits(k, bits, r));
	}
}

/* Bit e (i32): element e is visible and counts. */
static Val view_bits(Count *c, int v, RingTile keys, Axis key, Val visible)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Tile scores = tile_zero(k, k->launch->cols);
	mma_rows(k, scores, c->q[v], keys.data);
	mma_wait(k);
	scores_normalise(k, scores, c->inv_q[v], column_terms(k, keys, 0));
	Val none = val_i32(b, 0), zero = val_f32(b, 0), bits = none, largest = zero;
	for (int e = 0; e < tile_count(scores); e++) {
		Val tau = axis_get(c->tau[v], e);
		Pair pair;
		pair_evaluate(k, &c->head, &c->math[v], scores.e[e], tau, axis_get(c->row, e), axis_get(key, e), &pair);
		Val counts = k->plan->options.counted == COUNT_WEIGHTS ? val_fcompare(b, IR_NE, pair.weight, zero)
		                                                       : pair_is_above(k, &pair, tau);
		bits = val_or(b, bits, val_select(b, counts, val_i32(b, (int32_t)(1u << e)), none));
		largest = val_fmax(b, largest, val_fabs(b, pair.s));
		scores.e[e] = pair.s;
	}
	note_not_finite(c, v, scores.e, tile_count(scores), largest, visible);
	return val_and(b, bits, visible);
}

static void add_to_rows(Count *c, const Val *bits)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val once = bits[0], twice = val_i32(b, 0);
	for (int v = 1; v < k->spec->views; v++) {
		twice = val_or(b, twice, val_and(b, once, bits[v]));
		once = val_or(b, once, bits[v]);
	}
	for (int r = 0; r < 2; r++) {
		for (int v = 0; v < k->spec->views; v++) {
			Val more = val_popc(b, row_bits(k, bits[v], r));
			c->survivors[v][r] = val_add(b, c->survivors[v][r], more);
		}
		Val more = val_popc(b, row_bits(k, twice, r));
		c->consensus[r] = val_add(b, c->consensus[r], more);
	}
}

/* Columns of part `part` (i32) of PLAN_MARK keys, where a tile of the ring has fewer than half of those. */
static void add_narrow(Count *c, int v, Val columns, Val part)
{
	Builder *b = c->k->b;
	Val place = val_mul_i32(b, part, c->k->launch->cols), none = val_i32(b, 0);
	Val moved = val_shl(b, columns, val_rem_i32(b, place, 32));
	Val upper = val_compare(b, IR_GE, place, val_i32(b, 32));
	c->low[v] = val_or(b, c->low[v], val_select(b, upper, none, moved));
	c->high[v] = val_or(b, c->high[v], val_select(b, upper, moved, none));
}

static void add_to_keys(Count *c, const Val *bits, Val part)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	for (int v = 0; v < k->spec->views; v++) {
		c->pairs = val_add(b, c->pairs, val_popc(b, bits[v]));
		if (c->parts > 1) {
			add_narrow(c, v, column_bits(k, bits[v]), part);
			continue;
		}
		c->low[v] = column_bits(k, bits[v]);
		c->high[v] = column_bits(k, val_shr(b, bits[v], val_i32(b, 16)));
	}
}

/* ---- what is written of PLAN_MARK keys ---- */

static Val tile_index(Count *c, Val plane, Val tile)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val tiles = kernel_i64(k, "ceil_div(k_len,%d)", PLAN_MARK), blocks = kernel_i64(k, "ceil_div(q_len,%d)", k->launch->rows);
	Val row = val_mul(b, val_to_i64(b, plane), blocks);
	row = val_mul(b, val_add(b, row, val_to_i64(b, c->place.block)), tiles);
	return val_add(b, row, val_to_i64(b, tile));
}

static Val mask_at(Count *c, Val view, Val tile)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val plane = val_add(b, val_mul(b, view, kernel_i32(k, "batch*heads")), c->place.batch_head);
	Val masks = kernel_pointer(k, "buffer.masks");
	return val_offset(b, masks, val_mul(b, tile_index(c, plane, tile), val_i64(b, SLOT_BYTES)));
}

static Val pairs_at(Count *c, Val tile)
{
	Builder *b = c->k->b;
	Val tiles = kernel_pointer(c->k, "buffer.tiles");
	return val_offset(b, tiles, val_mul(b, tile_index(c, c->place.batch_head, tile), val_i64(b, 4)));
}

/* A warp's place: its masks by view, then its pairs, each `warps` slots apart. */
static void leave_own(Count *c, Val slots)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	int views = k->spec->views, step = k->launch->warps * SLOT_BYTES;
	Val own = val_offset(b, slots, val_mul_i32(b, k->warp, SLOT_BYTES));
	Val masks[SPEC_MAX_VIEWS];
	for (int v = 0; v < views; v++) {
		Val low = warp_or(k, c->low[v]);
		masks[v] = val_join_i32(b, low, warp_or(k, c->high[v]));
	}
	Val pairs = warp_sum(k, c->pairs), pairs64 = val_to_i64(b, pairs);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, val_i32(b, 0)), NULL, 0); if_next(&f);) {
		for (int v = 0; v < views; v++)
			val_store(b, val_offset_const(b, own, v * step), masks[v]);
		val_store(b, val_offset_const(b, own, views * step), pairs64);
	}
}

/* Thread v joins what the warps left of view v; the one after the last view adds up their pairs. */
static void write_joined(Count *c, Val slots, Val tile)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	int views = k->spec->views, step = k->launch->warps * SLOT_BYTES;
	Val views_val = val_i32(b, views), from = val_offset(b, slots, val_mul_i32(b, k->thread, step));
	for (If f = if_begin(b, val_compare(b, IR_LT, k->thread, views_val), NULL, 0); if_next(&f);) {
		Val mask = val_load(b, from, IR_I64);
		for (int w = 1; w < k->launch->warps; w++)
			mask = val_or(b, mask, val_load(b, val_offset_const(b, from, w * SLOT_BYTES), IR_I64));
		val_store(b, mask_at(c, k->thread, tile), mask);
	}
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->thread, views_val), NULL, 0); if_next(&f);) {
		Val pairs = val_load(b, from, IR_I64);
		for (int w = 1; w < k->launch->warps; w++)
			pairs = val_add(b, pairs, val_load(b, val_offset_const(b, from, w * SLOT_BYTES), IR_I64));
		val_store(b, pairs_at(c, tile), val_low_i32(b, pairs));
	}
}

/* Slots are taken in turn: those of the tile before last have been read when the barrier of the last one was passed. */
static void write_tile(Count *c, Val tile)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	int turn = (k->spec->views + 1) * k->launch->warps * SLOT_BYTES;
	Val slots = val_offset(b, c->slots, val_mul_i32(b, val_rem_i32(b, tile, 2), turn));
	leave_own(c, slots);
	kernel_barrier(k);
	write_joined(c, slots, tile);
	Val zero = val_i32(b, 0);
	for (int v = 0; v < k->spec->views; v++)
		c->low[v] = c->high[v] = zero;
	c->pairs = zero;
}

/* Tiles that no row sees. */
static void clear_unseen(Count *c)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val first = val_div_i32(b, c->span.first, c->parts), zero = val_i32(b, 0);
	Val end = val_div_i32(b, val_add_i32(b, c->span.end, c->parts - 1), c->parts);
	Val some = val_compare(b, IR_GT, c->span.end, c->span.first);
	end = val_select(b, some, end, zero);
	for (Loop l = loop_begin(b, k->thread, kernel_i32(k, "ceil_div(k_len,%d)", PLAN_MARK), plan_threads(k->launch), NULL, 0);
	     loop_next(&l);) {
		Val unseen = val_compare(b, IR_LT, l.index, first);
		unseen = val_or(b, unseen, val_compare(b, IR_GE, l.index, end));
		for (If f = if_begin(b, unseen, NULL, 0); if_next(&f);) {
			for (int v = 0; v < k->spec->views; v++)
				val_store(b, mask_at(c, val_i32(b, v), l.index), val_i64(b, 0));
			val_store(b, pairs_at(c, l.index), zero);
		}
	}
}

/* ---- what is written of rows ---- */

static void store_rows(Count *c, const char *buffer, int view, Val row[2])
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val plane = val_add(b, c->place.batch_head, kernel_i32(k, "%d*batch*heads", view));
	Val rows = kernel_i64(k, "round_up(q_len,%d)", k->launch->rows), first = val_mul(b, val_to_i64(b, plane), rows);
	Val to = kernel_pointer(k, "buffer.%s", buffer);
	for (If f = if_begin(b, row_first_lane(k), NULL, 0); if_next(&f);)
		for (int r = 0; r < 2; r++) {
			Val index = val_add(b, first, val_to_i64(b, axis_at(c->row, r)));
			val_store(b, val_offset(b, to, val_mul(b, index, val_i64(b, 4))), row[r]);
		}
}

static void write_rows(Count *c)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	for (int v = 0; v < k->spec->views; v++) {
		Val *row = c->survivors[v], *bad = c->not_finite[v];
		for (int r = 0; r < 2; r++)
			bad[r] = val_popc(b, bad[r]);
		row_count_lanes(k, row);
		row_count_lanes(k, bad);
		for (int r = 0; r < 2; r++) {
			Val tau = axis_at(c->tau[v], r);
			Val seen = val_compare(b, IR_GT, bad[r], val_i32(b, 0));
			row[r] = val_select(b, seen, val_i32(b, NOT_FINITE), row[r]);
			row[r] = val_select(b, val_fcompare(b, IR_NE, tau, tau), val_i32(b, NO_THRESHOLD), row[r]);
		}
		store_rows(c, "survivors", v, row);
	}
	row_count_lanes(k, c->consensus);
	store_rows(c, "consensus", 0, c->consensus);
}

/* ---- the kernel ---- */

static void prepare(Count *c)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	Val kv_head = key_head(k, c->place.head), zero = val_i32(b, 0);
	for (int v = 0; v < k->spec->views; v++) {
		c->q[v] = resident_rows(k, view_name(k, "q", v), c->place.batch, c->place.head, "q_len", k->spec->head_dim, c->place.row0);
		c->math[v] = view_math(k->spec, v);
		c->inv_q[v] = norm_terms(k, "inv_q", v, "q_len", c->place.batch_head, c->row);
		c->tau[v] = tau_terms(k, v, c->place.batch_head, c->row);
		c->keys[v] = key_stream(k, v, c->place.batch, kv_head);
		for (int r = 0; r < 2; r++)
			c->survivors[v][r] = c->not_finite[v][r] = zero;
		c->low[v] = c->high[v] = zero;
	}
	c->consensus[0] = c->consensus[1] = c->pairs = zero;
}

static void new_slots(Count *c)
{
	Kernel *k = c->k;
	k->shared_bytes = (k->shared_bytes + CHUNK - 1) / CHUNK * CHUNK;
	c->slots = val_offset_const(k->b, k->shared, k->shared_bytes);
	k->shared_bytes += 2 * (k->spec->views + 1) * k->launch->warps * SLOT_BYTES;
}

static int carry_all(Count *c, Val **carry)
{
	int count = 0;
	for (int v = 0; v < c->k->spec->views; v++) {
		count = carry_array(carry, count, c->survivors[v], 2);
		count = carry_array(carry, count, c->not_finite[v], 2);
		carry[count++] = &c->low[v];
		carry[count++] = &c->high[v];
	}
	carry[count++] = &c->pairs;
	return carry_array(carry, count, c->consensus, 2);
}

static void count_round(Count *c, Ring *ring)
{
	Kernel *k = c->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	Val key0 = val_mul_i32(b, ring->read_tile, launch->cols);
	Axis key = axis_index(k, ALONG_COLS, launch->cols, key0);
	Range rows = block_range(k, c->place.row0, launch->rows), keys = block_range(k, key0, launch->cols);
	Val has_hidden = tile_has_hidden(k, rows, keys, true);
	Val visible = visible_bits(k, tile_new(k, launch->cols), c->row, key, has_hidden, true);
	Val bits[SPEC_MAX_VIEWS], part = val_rem_i32(b, ring->read_tile, c->parts);
	for (int v = 0; v < k->spec->views; v++)
		bits[v] = view_bits(c, v, ring_next(ring), key, visible);
	add_to_rows(c, bits);
	add_to_keys(c, bits, part);
	Val complete = val_compare(b, IR_EQ, part, val_i32(b, c->parts - 1));
	complete = val_or(b, complete, val_compare(b, IR_EQ, ring->read_tile, val_add_i32(b, c->span.end, -1)));
	Val *changed[MOST_CARRIED];
	int count = 0;
	for (int v = 0; v < k->spec->views; v++) {
		changed[count++] = &c->low[v];
		changed[count++] = &c->high[v];
	}
	changed[count++] = &c->pairs;
	for (If f = if_begin(b, complete, changed, count); if_next(&f);)
		write_tile(c, val_div_i32(b, ring->read_tile, c->parts));
}

bool build_count(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	Count c = { .k = k, .place = kernel_place(k, "heads", "q_len", launch->rows), .parts = PLAN_MARK / launch->cols };
	c.head = head_scope(k, c.place.head);
	c.row = axis_index(k, ALONG_ROWS, launch->cols, first_row(k, c.place));
	prepare(&c);
	c.span = key_tiles(k, c.place.row0, launch->rows, launch->cols);
	Ring ring = ring_new(k, c.keys, spec->views, launch->cols, launch->slots, 0);
	new_slots(&c);
	clear_unseen(&c);
	Val *carry[MOST_CARRIED];
	int carried = carry_all(&c, carry);
	for (ring_walk(&ring, c.span.first, c.span.end, (Val){ NULL }, carry, carried); ring_round(&ring);)
		count_round(&c, &ring);
	write_rows(&c);
	return kernel_end(k);
}
