/*
 * Sums over the visible pairs, in float32. For each 16 rows and view, powers 1 to 4 of scores, products of the scores of two views, and
 * how many scores are above each of a few bounds; for each row, with a = sum over views of coefficient times weight, the sum of |a| and
 * |a| of key 0.
 *
 * One CTA: a block of rows of one (batch, head), as in count.c. A tile's sums are added to what came before it, so that the rounding of
 * long rows stays that of a few hundred additions.
 */
#include <math.h>
#include "kernels_parts.h"
#include "tile_parts.h"

enum { MOST_MOMENTS = (PLAN_POWERS + SPEC_MAX_VIEWS) * SPEC_MAX_VIEWS, MOST_TAILS = PLAN_TAILS * SPEC_MAX_VIEWS };

typedef struct Statistics {
	Kernel *k;
	Place place;
	Scope head;
	Axis row;
	ViewMath math[SPEC_MAX_VIEWS];
	Axis inv_q[SPEC_MAX_VIEWS], tau[SPEC_MAX_VIEWS], coefficient[SPEC_MAX_VIEWS];
	Shared q[SPEC_MAX_VIEWS];
	Stream keys[SPEC_MAX_VIEWS];
	/* Carried, of this lane: */
	Val moments[MOST_MOMENTS];         /* powers by view, then products of views (v, w < v) */
	Val tails[MOST_TAILS];             /* i32, by view */
	Val weight[2], sink[2];            /* by row */
} Statistics;

/* Of a tile. Hidden pairs have the score 0 and the weight 0, and so count for nothing. */
typedef struct Scored {
	Tile scores[SPEC_MAX_VIEWS], combined;
} Scored;

static Val element_visible(Builder *b, Val visible, int e)
{
	Val bit = val_and(b, visible, val_i32(b, (int32_t)(1u << e)));
	return val_compare(b, IR_NE, bit, val_i32(b, 0));
}

static void score_view(Statistics *s, int v, RingTile keys, Axis key, Val visible, Scored *tile)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Tile scores = tile->scores[v] = tile_zero(k, k->launch->cols);
	mma_rows(k, scores, s->q[v], keys.data);
	mma_wait(k);
	scores_normalise(k, scores, s->inv_q[v], column_terms(k, keys, 0));
	for (int e = 0; e < tile_count(scores); e++) {
		Pair pair;
		pair_evaluate(k, &s->head, &s->math[v], scores.e[e], axis_get(s->tau[v], e), axis_get(s->row, e), axis_get(key, e), &pair);
		Val seen = element_visible(b, visible, e);
		Val term = val_fmul(b, pair.weight, axis_get(s->coefficient[v], e));
		scores.e[e] = where(k, seen, pair.s);
		term = where(k, seen, term);
		tile->combined.e[e] = v == 0 ? term : val_fadd(b, tile->combined.e[e], term);
	}
}

/* sum over e of x_e y_e, added to *to; y null: of x_e. */
static void add_products(Kernel *k, const Val *x, const Val *y, int count, Val *to)
{
	Builder *b = k->b;
	Val sum = y ? val_fmul(b, x[0], y[0]) : x[0];
	for (int e = 1; e < count; e++)
		sum = y ? val_fma(b, x[e], y[e], sum) : val_fadd(b, sum, x[e]);
	*to = val_fadd(b, *to, sum);
}

static void add_powers(Statistics *s, int v, Tile scores)
{
	Kernel *k = s->k;
	int count = tile_count(scores);
	Val *to = s->moments + PLAN_POWERS * v;
	Tile squares = tile_new(k, scores.cols);
	for (int e = 0; e < count; e++)
		squares.e[e] = val_fmul(k->b, scores.e[e], scores.e[e]);
	add_products(k, scores.e, NULL, count, &to[0]);
	add_products(k, squares.e, NULL, count, &to[1]);
	add_products(k, squares.e, scores.e, count, &to[2]);
	add_products(k, squares.e, squares.e, count, &to[3]);
}

/* The score whose bound is 10^-(t + 1): runtime/explore.h. */
static double tail(const Spec *spec, int t)
{
	return sqrt(2 * (t + 1) * log(10) / spec->head_dim);
}

static void add_tails(Statistics *s, int v, Tile scores)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	for (int t = 0; t < PLAN_TAILS; t++) {
		Val bound = val_f32(b, tail(k->spec, t)), none = val_i32(b, 0), bits = none;
		for (int e = 0; e < tile_count(scores); e++) {
			Val above = val_fcompare(b, IR_GT, scores.e[e], bound);
			bits = val_or(b, bits, val_select(b, above, val_i32(b, (int32_t)(1u << e)), none));
		}
		Val *to = &s->tails[PLAN_TAILS * v + t];
		*to = val_add(b, *to, val_popc(b, bits));
	}
}

static void add_weights(Statistics *s, Tile combined, Axis key, Val is_first)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val sum[2] = { val_f32(b, 0), val_f32(b, 0) }, *changed[] = { &s->sink[0], &s->sink[1] };
	for (int e = 0; e < tile_count(combined); e++) {
		combined.e[e] = val_fabs(b, combined.e[e]);
		sum[e % 4 / 2] = val_fadd(b, sum[e % 4 / 2], combined.e[e]);
	}
	for (int r = 0; r < 2; r++)
		s->weight[r] = val_fadd(b, s->weight[r], sum[r]);
	for (If f = if_begin(b, is_first, changed, 2); if_next(&f);)
		for (int e = 0; e < tile_count(combined); e++) {
			Val sink = val_compare(b, IR_EQ, axis_get(key, e), val_i32(b, 0));
			s->sink[e % 4 / 2] = val_fadd(b, s->sink[e % 4 / 2], where(k, sink, combined.e[e]));
		}
}

static void add_tile(Statistics *s, Ring *ring)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	int views = k->spec->views, product = PLAN_POWERS * views;
	Val key0 = val_mul_i32(b, ring->read_tile, launch->cols);
	Axis key = axis_index(k, ALONG_COLS, launch->cols, key0);
	Range rows = block_range(k, s->place.row0, launch->rows), keys = block_range(k, key0, launch->cols);
	Val has_hidden = tile_has_hidden(k, rows, keys, true);
	Scored tile = { .combined = tile_new(k, launch->cols) };
	Val visible = visible_bits(k, tile.combined, s->row, key, has_hidden, true);
	for (int v = 0; v < views; v++)
		score_view(s, v, ring_next(ring), key, visible, &tile);
	for (int v = 0; v < views; v++) {
		add_powers(s, v, tile.scores[v]);
		add_tails(s, v, tile.scores[v]);
		for (int w = 0; w < v; w++)
			add_products(k, tile.scores[v].e, tile.scores[w].e, tile_count(tile.combined), &s->moments[product++]);
	}
	add_weights(s, tile.combined, key, val_compare(b, IR_EQ, ring->read_tile, val_i32(b, 0)));
}

static void store_rows(Statistics *s, const char *buffer, Val row[2])
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val rows = kernel_i64(k, "round_up(q_len,%d)", k->launch->rows), to = kernel_pointer(k, "buffer.%s", buffer);
	Val first = val_mul(b, val_to_i64(b, s->place.batch_head), rows);
	row_sum_lanes(k, row);
	for (If f = if_begin(b, row_first_lane(k), NULL, 0); if_next(&f);)
		for (int r = 0; r < 2; r++) {
			Val index = val_add(b, first, val_to_i64(b, axis_at(s->row, r)));
			val_store(b, val_offset(b, to, val_mul(b, index, val_i64(b, 4))), row[r]);
		}
}

/* Where the warp's `count` values lie. */
static Val warp_record(Statistics *s, const char *buffer, int count)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val records = kernel_i64(k, "round_up(q_len,%d)/%d", k->launch->rows, PLAN_WARP_ROWS);
	Val first = val_mul(b, val_to_i64(b, s->place.batch_head), records), to = kernel_pointer(k, "buffer.%s", buffer);
	Val own = val_div_i32(b, first_row(k, s->place), PLAN_WARP_ROWS);
	Val index = val_add(b, first, val_to_i64(b, own));
	return val_offset(b, to, val_mul(b, index, val_i64(b, 4 * count)));
}

static void write_sums(Statistics *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int moments = plan_moments(k->spec), tails = plan_tails(k->spec);
	for (int m = 0; m < moments; m++)
		s->moments[m] = lane_sum(k, s->moments[m], WARP);
	for (int t = 0; t < tails; t++)
		s->tails[t] = warp_sum(k, s->tails[t]);
	Val moments_at = warp_record(s, "moments", moments), tails_at = warp_record(s, "tails", tails);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, val_i32(b, 0)), NULL, 0); if_next(&f);) {
		for (int m = 0; m < moments; m++)
			val_store(b, val_offset_const(b, moments_at, 4 * m), s->moments[m]);
		for (int t = 0; t < tails; t++)
			val_store(b, val_offset_const(b, tails_at, 4 * t), s->tails[t]);
	}
	store_rows(s, "row_weight", s->weight);
	store_rows(s, "row_sink", s->sink);
}

static void prepare(Statistics *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val kv_head = key_head(k, s->place.head), zero = val_f32(b, 0);
	for (int v = 0; v < k->spec->views; v++) {
		s->q[v] = resident_rows(k, view_name(k, "q", v), s->place.batch, s->place.head, "q_len", k->spec->head_dim, s->place.row0);
		s->math[v] = view_math(k->spec, v);
		s->inv_q[v] = norm_terms(k, "inv_q", v, "q_len", s->place.batch_head, s->row);
		s->tau[v] = tau_terms(k, v, s->place.batch_head, s->row);
		s->coefficient[v] = query_map(k, &s->head, s->row, s->math[v].combine);
		s->keys[v] = key_stream(k, v, s->place.batch, kv_head);
	}
	for (int m = 0; m < plan_moments(k->spec); m++)
		s->moments[m] = zero;
	for (int t = 0; t < plan_tails(k->spec); t++)
		s->tails[t] = val_i32(b, 0);
	for (int r = 0; r < 2; r++)
		s->weight[r] = s->sink[r] = zero;
}

static int carry_all(Statistics *s, Val **carry)
{
	int count = carry_array(carry, 0, s->moments, plan_moments(s->k->spec));
	count = carry_array(carry, count, s->tails, plan_tails(s->k->spec));
	count = carry_array(carry, count, s->weight, 2);
	return carry_array(carry, count, s->sink, 2);
}

bool build_statistics(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	Statistics s = { .k = k, .place = kernel_place(k, "heads", "q_len", launch->rows) };
	s.head = head_scope(k, s.place.head);
	s.row = axis_index(k, ALONG_ROWS, launch->cols, first_row(k, s.place));
	prepare(&s);
	Ring ring = ring_new(k, s.keys, spec->views, launch->cols, launch->slots, 0);
	Span span = key_tiles(k, s.place.row0, launch->rows, launch->cols);
	Val *carry[MOST_MOMENTS + MOST_TAILS + 4];
	int carried = carry_all(&s, carry);
	for (ring_walk(&ring, span.first, span.end, (Val){ NULL }, carry, carried); ring_round(&ring);)
		add_tile(&s, &ring);
	write_sums(&s);
	return kernel_end(k);
}
