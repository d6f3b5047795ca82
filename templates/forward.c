/*
 * o_i = sum_j (sum_v c_v(i) w(s_v(i, j), tau_v(i))) v_j, then the output norm if the spec has one.
 *
 * One CTA: a block of rows of one (batch, head). Its queries stay in shared memory; keys of each view and values stream by.
 */
#include "kernels_parts.h"
#include "tile_parts.h"

/* Weights of one view at a tile of scores, times its coefficient, added to `sum`. Where `may` is not NULL, may[e] gets a bit for each
 * lane whose element e may survive. */
static void add_view(Kernel *k, const Scope *head, const ViewMath *math, Tile scores, Axis row, Axis key, Axis tau,
                     Axis coefficient, Tile sum, bool first, Val *may)
{
	for (int e = 0; e < tile_count(scores); e++) {
		Pair pair;
		pair_evaluate(k, head, math, scores.e[e], axis_get(tau, e), axis_get(row, e), axis_get(key, e), &pair);
		if (may)
			may[e] = warp_ballot(k, pair_may_survive(k, &pair, axis_get(tau, e)));
		bool one = math->combine->op == EXPR_CONST && math->combine->value == 1;
		Val term = one ? pair.weight : val_fmul(k->b, pair.weight, axis_get(coefficient, e));
		sum.e[e] = first ? term : val_fadd(k->b, sum.e[e], term);
	}
}

/* Hidden pairs get exactly 0, whatever their weight came out as. */
static void hide(Kernel *k, Tile weights, Axis row, Axis key, Val has_hidden)
{
	Builder *b = k->b;
	Val **changed = ARENA_ARRAY(b->arena, Val *, tile_count(weights));
	int count = carry_array(changed, 0, weights.e, tile_count(weights));
	for (If f = if_begin(b, has_hidden, changed, count); if_next(&f);) {
		Val zero = val_f32(b, 0);
		for (int e = 0; e < tile_count(weights); e++) {
			Val visible = pair_visible(k, axis_get(row, e), axis_get(key, e), false);
			weights.e[e] = val_select(b, visible, weights.e[e], zero);
		}
	}
}

/* o / rms(o) * gain; saves o and 1/rms(o) for the backward. */
static void output_norm(Kernel *k, Place place, Tile o)
{
	Builder *b = k->b;
	Axis row = axis_index(k, ALONG_ROWS, o.cols, first_row(k, place));
	const Spec *spec = k->spec;
	Matrix raw = packed_rows(k, "o_raw", place.batch_head, sizeof(float));
	tile_store_f32(k, raw, first_row(k, place), o);
	Val square[2] = { val_f32(b, 0), val_f32(b, 0) };
	for (int e = 0; e < tile_count(o); e++)
		square[e % 4 / 2] = val_fma(b, o.e[e], o.e[e], square[e % 4 / 2]);
	row_sum_lanes(k, square);
	Val terms = terms_of(k, "inv_rms", place.batch_head, "q_len");
	Val inv[2];
	for (int r = 0; r < 2; r++) {
		Val mean = val_fmul(b, square[r], val_f32(b, 1.0 / spec->value_dim));
		Val root = val_fsqrt(b, val_fadd(b, mean, val_f32(b, spec->rms_eps)));
		inv[r] = val_fdiv(b, val_f32(b, 1), root);
		Val bytes = val_mul_i32(b, row.at[r], 4);
		Val at = val_offset(b, terms, val_to_i64(b, bytes));
		Val inside = val_compare(b, IR_LT, row.at[r], kernel_i32(k, "round_up(q_len,%d)", PLAN_TERM_ROWS));
		for (If f = if_begin(b, inside, NULL, 0); if_next(&f);)
			val_store(b, at, inv[r]);
	}
	Axis column = axis_index(k, ALONG_COLS, o.cols, val_i32(b, 0));
	for (int e = 0; e < tile_count(o); e++) {
		o.e[e] = val_fmul(b, o.e[e], inv[e % 4 / 2]);
		if (spec->gain >= 0) {
			Val gain = load_gain(k, axis_get(column, e));
			o.e[e] = val_fmul(b, o.e[e], gain);
		}
	}
}

typedef struct Forward {
	Kernel *k;
	Rows at;
	ViewMath math[SPEC_MAX_VIEWS];
	Axis inv_q[SPEC_MAX_VIEWS], tau[SPEC_MAX_VIEWS], coefficient[SPEC_MAX_VIEWS];
	Tile o;
} Forward;

static void load_view(Forward *f, int v)
{
	Kernel *k = f->k;
	f->math[v] = view_math(k->spec, v);
	f->inv_q[v] = norm_terms(k, "inv_q", v, "q_len", f->at.place.batch_head, f->at.row);
	f->tau[v] = tau_terms(k, v, f->at.place.batch_head, f->at.row);
	f->coefficient[v] = query_map(k, &f->at.head, f->at.row, f->math[v].combine);
}

/* Weights of one view at a tile of keys, added to `weights`. */
static void weigh_view(Forward *f, int v, Shared q, RingTile keys, Axis key, Tile weights, bool first, Val *may)
{
	Kernel *k = f->k;
	Tile scores = tile_zero(k, weights.cols);
	mma_rows(k, scores, q, keys.data);
	mma_wait(k);
	scores_normalise(k, scores, f->inv_q[v], column_terms(k, keys, 0));
	add_view(k, &f->at.head, &f->math[v], scores, f->at.row, key, f->tau[v], f->coefficient[v], weights, first, may);
}

/* Every visible tile of keys, all views at once. */
static void visit_tiles(Forward *f)
{
	Kernel *k = f->k;
	Builder *b = k->b;
	const Spec *spec = k->spec;
	const Launch *launch = k->launch;
	Place place = f->at.place;
	Shared q[SPEC_MAX_VIEWS];
	Stream streams[RING_MAX_STREAMS];
	for (int v = 0; v < spec->views; v++) {
		q[v] = resident_rows(k, view_name(k, "q", v), place.batch, place.head, "q_len", spec->head_dim, place.row0);
		load_view(f, v);
		streams[v] = key_stream(k, v, place.batch, f->at.kv_head);
	}
	streams[spec->views] = value_stream(k, place.batch, f->at.kv_head);

	Ring ring = ring_new(k, streams, spec->views + 1, launch->cols, launch->slots, 0);
	Span span = key_tiles(k, place.row0, launch->rows, launch->cols);
	Val **carry = ARENA_ARRAY(b->arena, Val *, tile_count(f->o));
	int carried = carry_array(carry, 0, f->o.e, tile_count(f->o));
	for (ring_walk(&ring, span.first, span.end, (Val){ NULL }, carry, carried); ring_round(&ring);) {
		Val key0 = val_mul_i32(b, ring.read_tile, launch->cols);
		Axis key = axis_index(k, ALONG_COLS, launch->cols, key0);
		Tile weights = tile_new(k, launch->cols);
		for (int v = 0; v < spec->views; v++)
			weigh_view(f, v, q[v], ring_next(&ring), key, weights, v == 0, NULL);
		hide(k, weights, f->at.row, key, tile_has_hidden(k, block_range(k, place.row0, launch->rows),
		                                              block_range(k, key0, launch->cols), false));
		RingTile values = ring_next(&ring);
		mma_tile(k, f->o, weights, values.data);
	}
}

/* The keys that the screen marked, view by view: the sum over keys is a sum over views of sums over each view's own keys. */
static void visit_marked(Forward *f)
{
	Kernel *k = f->k;
	Builder *b = k->b;
	const Spec *spec = k->spec;
	const Launch *launch = k->launch;
	Place place = f->at.place;
	Shared q = shared_new(k, launch->rows, spec->head_dim);
	Val **carry = ARENA_ARRAY(b->arena, Val *, tile_count(f->o));
	int carried = carry_array(carry, 0, f->o.e, tile_count(f->o));
	Stream streams[2];
	streams[1] = value_stream(k, place.batch, f->at.kv_head);
	streams[0] = key_stream(k, 0, place.batch, f->at.kv_head);
	Gather gather = gather_new(k, launch->cols, streams, 2);
	GatherWalk walks[SPEC_MAX_VIEWS];
	for (int v = 0; v < spec->views; v++) {
		walks[v] = marked_keys(k, v, place);
		walks[v].list = v;
	}
	gather_ahead(&gather, walks, spec->views);
	for (int v = 0; v < spec->views; v++) {
		if (v > 0) {
			/* Found again, or what follows from it would be in registers all the while. */
			kernel_after_loop(k);
			f->at = cta_rows(k);
			place = f->at.place;
			walks[v] = marked_keys_again(k, v, place, &walks[v]);
			streams[1] = value_stream(k, place.batch, f->at.kv_head);
		}
		streams[0] = key_stream(k, v, place.batch, f->at.kv_head);
		Resident query = { q, matrix_of(k, view_name(k, "q", v), place.batch, place.head, "q_len", spec->head_dim),
			place.row0 };
		walks[v].streams = streams;
		walks[v].stream_count = 2;
		walks[v].residents = &query;
		walks[v].resident_count = 1;
		load_view(f, v);
		for (gather_walk(&gather, &walks[v], carry, carried); gather_round(&gather);) {
			Tile weights = tile_new(k, launch->cols);
			Val may[WARP / 2];
			weigh_view(f, v, q, gather_tile(&gather, 0), gather.index, weights, true, gather.refines ? may : NULL);
			Range keys = gather_range(&gather);
			Val has_hidden = tile_has_hidden(k, block_range(k, place.row0, launch->rows), keys, false);
			hide(k, weights, f->at.row, gather.index, has_hidden);
			if (gather.refines)
				gather_refine(&gather, may, first_row(k, place), has_hidden);
			RingTile values = gather_tile(&gather, 1);
			/* Where weights of two views cancel, an output norm shows what rounding each of them left. */
			if (spec->rms_norm && spec->views > 1)
				mma_tile_twice(k, f->o, weights, values.data);
			else
				mma_tile(k, f->o, weights, values.data);
		}
	}
}

static Matrix output(Kernel *k, Place place)
{
	return matrix_of(k, "o", place.batch, place.head, "q_len", k->spec->value_dim);
}

static void compute(Kernel *k)
{
	Forward f = { .k = k, .at = cta_rows(k) };
	f.o = tile_zero(k, k->spec->value_dim);
	if (k->launch->gathered)
		visit_marked(&f);
	else
		visit_tiles(&f);
	kernel_after_loop(k);
	Place place = kernel_place(k, "heads", "q_len", k->launch->rows);
	if (k->spec->rms_norm)
		output_norm(k, place, f.o);
	Matrix to = output(k, place);
	tile_store(k, to, first_row(k, place), f.o);
}

static void store_zeros(Kernel *k, Place place)
{
	zero_rows(k, output(k, place), place.row0);
}

bool build_forward(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	/* An output norm has more to write than zeros. */
	const BlockWork work = { "heads", "q_len", compute, spec->rms_norm ? NULL : store_zeros };
	Kernel kernel = kernel_begin(b, module, spec, plan, launch);
	block_work(&kernel, &work);
	return kernel_end(&kernel);
}
