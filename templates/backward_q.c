/*
 * dq and the parameters' gradients. With dA_ij = do_i . v_j, and g_ij = c_v dA_ij dw/ds ds/dx for x = q^.k^:
 *
 *     dq^_v,i = sum_j g_ij k^_j          then through the L2 norm
 *     dtau_v,i = sum_j c_v dA_ij dw/dtau
 *     dc_v,i = sum_j w_ij dA_ij
 *     dp = sum_i (sum_v dtau_v,i dtau/dp + dc_v,i dc/dp + sum_j c_v dA_ij (dw/dp + dw/ds ds/dp))
 *
 * One CTA: a block of rows of one (batch, head), and the views of its launch; values and keys stream by. The sum over its
 * rows of each parameter's terms is written as one partial sum; `reduce` adds those in a fixed order.
 */
#include "kernels_parts.h"
#include "tile_parts.h"

/* Sums along a lane's share of its two rows. Entries that are not wanted stay null. */
typedef struct RowSums {
	Val tau[SPEC_MAX_VIEWS][2];
	Val combine[SPEC_MAX_VIEWS][2];
	Val param[SPEC_MAX_PARAMS];        /* from the pairs themselves, both rows together */
} RowSums;

typedef struct BackwardQ {
	Kernel *k;
	Rows at;
	ViewMath math[SPEC_MAX_VIEWS];
	Axis inv_q[SPEC_MAX_VIEWS], tau[SPEC_MAX_VIEWS], coefficient[SPEC_MAX_VIEWS];
	Shared q[SPEC_MAX_VIEWS];          /* gathered: all the same place */
	Shared d_out, d_rest;              /* the gradient of o; its rest where plan_splits_output_gradient */
	Tile dq[SPEC_MAX_VIEWS];
	RowSums sums;
} BackwardQ;

static bool any_nonzero(const Spec *spec, const Expr *const *derivatives)
{
	for (int p = 0; p < spec->param_count; p++)
		if (!expr_is_zero(derivatives[p]))
			return true;
	return false;
}

static void start_sums(BackwardQ *q)
{
	const Spec *spec = q->k->spec;
	const Launch *launch = q->k->launch;
	Val zero = val_f32(q->k->b, 0);
	for (int v = launch->first_view; v < launch->first_view + launch->view_count; v++) {
		const ViewMath *m = &q->math[v];
		if (any_nonzero(spec, m->threshold_p))
			q->sums.tau[v][0] = q->sums.tau[v][1] = zero;
		if (any_nonzero(spec, m->combine_p))
			q->sums.combine[v][0] = q->sums.combine[v][1] = zero;
		for (int p = 0; p < spec->param_count; p++)
			if (!expr_is_zero(m->weight_p[p]) || !expr_is_zero(m->score_p[p]))
				q->sums.param[p] = zero;
	}
}

static int carry_sums(RowSums *sums, Val **carry, int at)
{
	Val *all = (Val *)sums;
	for (size_t i = 0; i < sizeof *sums / sizeof(Val); i++)
		if (!val_is_null(all[i]))
			carry[at++] = &all[i];
	return at;
}

/* "counts" is visible and, where zeros are exact, surviving. */
static void add_to(Kernel *k, Val *sum, Val counts, Val x)
{
	*sum = val_fadd(k->b, *sum, where(k, counts, x));
}

/* The gradient by one pair's parameters themselves. */
static void add_pair_params(BackwardQ *q, const ViewMath *m, const Pair *pair, Val counts, Val upstream, Val by_s)
{
	Kernel *k = q->k;
	for (int p = 0; p < k->spec->param_count; p++) {
		if (!expr_is_zero(m->weight_p[p]))
			add_to(k, &q->sums.param[p], counts, times(k, upstream, m->weight_p[p], &pair->after));
		if (!expr_is_zero(m->score_p[p]))
			add_to(k, &q->sums.param[p], counts, times(k, scaled(k, by_s, m->scale), m->score_p[p], &pair->before));
	}
}

/* dtau of one pair, which costs an addition where it is what s gets, negated, and then lacks the same constant. */
static void add_pair_tau(BackwardQ *q, const ViewMath *m, const Pair *pair, Val *sum, Val counts, Val upstream, Val by_s)
{
	Kernel *k = q->k;
	if (m->mirrored)
		*sum = val_fsub(k->b, *sum, where(k, counts, by_s));
	else
		add_to(k, sum, counts, times(k, upstream, m->weight_tau, &pair->after));
}

/* g of one view, but for the constant in dw/ds, from the product q . k, in place. */
static void local_gradients(BackwardQ *q, int v, Tile scores, Tile d_weights, Axis key, Axis inv_k, const Visible *visible)
{
	Kernel *k = q->k;
	Builder *b = k->b;
	const ViewMath *m = &q->math[v];
	Axis inv_q = visible_axis(visible, q->inv_q[v]), coefficient = visible_axis(visible, q->coefficient[v]);
	scores_normalise(k, scores, inv_q, inv_k);
	for (int e = 0; e < tile_count(scores); e++) {
		Pair pair;
		Val tau = axis_get(q->tau[v], e);
		pair_evaluate(k, &q->at.head, m, scores.e[e], tau, axis_get(q->at.row, e), axis_get(key, e), &pair);
		Val seen = visible_at(visible, e);
		Val counts = both(k, seen, pair_survives(k, &pair, tau));
		Val upstream = val_fmul(b, d_weights.e[e], axis_get(coefficient, e));
		Val by_s = times(k, upstream, m->weight_s, &pair.after);
		if (!val_is_null(q->sums.combine[v][e % 4 / 2]))
			add_to(k, &q->sums.combine[v][e % 4 / 2], counts, val_fmul(b, pair.weight, d_weights.e[e]));
		if (!val_is_null(q->sums.tau[v][e % 4 / 2]))
			add_pair_tau(q, m, &pair, &q->sums.tau[v][e % 4 / 2], counts, upstream, by_s);
		add_pair_params(q, m, &pair, counts, upstream, by_s);
		scores.e[e] = where(k, counts, times(k, by_s, m->score_s, &pair.before));
	}
}

/* A row whose sum is exactly 0 has no survivor that matters: its local derivative, perhaps not finite, counts as 0. */
static Val row_term(BackwardQ *q, const Expr *derivative, int r, Val sum)
{
	Kernel *k = q->k;
	Builder *b = k->b;
	Axis factor = query_map(k, &q->at.head, q->at.row, derivative);
	Val product = val_fmul(b, sum, factor.at[r]);
	Val zero = val_f32(b, 0);
	return val_select(b, val_fcompare(b, IR_EQ, sum, zero), zero, product);
}

static Val tau_sum(BackwardQ *q, int v, int r)
{
	return scaled(q->k, q->sums.tau[v][r], q->math[v].mirrored ? q->math[v].scale : 1);
}

/* This lane's share of a parameter's gradient over the launch's views and the lane's rows below q_len. */
static Val lane_param_sum(BackwardQ *q, int p)
{
	Kernel *k = q->k;
	Builder *b = k->b;
	Val total = val_is_null(q->sums.param[p]) ? val_f32(b, 0) : q->sums.param[p];
	for (int v = k->launch->first_view; v < k->launch->first_view + k->launch->view_count; v++) {
		const ViewMath *m = &q->math[v];
		for (int r = 0; r < 2; r++) {
			if (!expr_is_zero(m->threshold_p[p]))
				total = val_fadd(b, total, row_term(q, m->threshold_p[p], r, tau_sum(q, v, r)));
			if (!expr_is_zero(m->combine_p[p]))
				total = val_fadd(b, total, row_term(q, m->combine_p[p], r, q->sums.combine[v][r]));
		}
	}
	return total;
}

/*
 * Partial sums lie as [pass][batch * heads][entry], an entry for so many rows as the smallest block of the role has. Every entry of
 * every pass is written: a larger block's sum is its first entry's, and where other launches have further passes, they are 0 of this
 * launch's blocks.
 */
static void store_partial(Kernel *k, int param, Val total)
{
	Builder *b = k->b;
	int rows = plan_partial_rows(k->plan), entries = k->launch->rows / rows;
	Place place = kernel_place(k, "heads", "q_len", k->launch->rows);
	Val count = kernel_i32(k, "ceil_div(q_len,%d)", rows), zero = val_f32(b, 0);
	Val own = val_mul_i32(b, place.block, entries);
	Val at = val_add(b, val_mul(b, place.batch_head, count), own);
	Val to = kernel_pointer(k, "buffer.partial_%s", k->spec->params[param].name);
	Val four = val_i64(b, 4);
	to = val_offset(b, to, val_mul(b, val_to_i64(b, at), four));
	for (int pass = k->launch->pass; pass <= k->launch->last_pass; pass++) {
		Val in_pass = val_offset(b, to, kernel_i64(k, "%d*batch*heads*ceil_div(q_len,%d)", 4 * pass, rows));
		val_store(b, in_pass, pass == k->launch->pass ? total : zero);
		for (int n = 1; n < entries; n++) {
			Val exists = val_compare(b, IR_LT, val_add_i32(b, own, n), count);
			for (If f = if_begin(b, exists, NULL, 0); if_next(&f);)
				val_store(b, val_offset_const(b, in_pass, 4 * n), zero);
		}
	}
}

static void store_partials(BackwardQ *q)
{
	Kernel *k = q->k;
	Builder *b = k->b;
	Val sums[SPEC_MAX_PARAMS];
	int params[SPEC_MAX_PARAMS], count = 0;
	for (int p = 0; p < k->spec->param_count; p++)
		if (plan_has_partials(k->plan, p)) {
			params[count] = p;
			Val lane = lane_param_sum(q, p);
			sums[count++] = lane_sum(k, lane, WARP);
		}
	if (count == 0)
		return;
	Val exchange = val_offset_const(b, k->shared, k->shared_bytes);
	k->shared_bytes += k->launch->warps * count * 4;
	Val first_lane = val_compare(b, IR_EQ, k->lane, val_i32(b, 0));
	Val own = val_offset(b, exchange, val_mul_i32(b, k->warp, count * 4));
	for (If f = if_begin(b, first_lane, NULL, 0); if_next(&f);)
		for (int i = 0; i < count; i++)
			val_store(b, val_offset_const(b, own, i * 4), sums[i]);
	kernel_barrier(k);
	Val first_thread = val_compare(b, IR_EQ, k->thread, val_i32(b, 0));
	for (If f = if_begin(b, first_thread, NULL, 0); if_next(&f);)
		for (int i = 0; i < count; i++) {
			Val total = val_load(b, val_offset_const(b, exchange, i * 4), IR_F32);
			for (int w = 1; w < k->launch->warps; w++) {
				Val at = val_offset_const(b, exchange, (w * count + i) * 4);
				total = val_fadd(b, total, val_load(b, at, IR_F32));
			}
			store_partial(k, params[i], total);
		}
}

static void load_view(BackwardQ *q, int v)
{
	Kernel *k = q->k;
	q->inv_q[v] = norm_terms(k, "inv_q", v, "q_len", q->at.place.batch_head, q->at.row);
	q->tau[v] = tau_terms(k, v, q->at.place.batch_head, q->at.row);
	q->coefficient[v] = query_map(k, &q->at.head, q->at.row, q->math[v].combine);
	q->dq[v] = tile_zero(k, k->spec->head_dim);
}

static Matrix query_rows(BackwardQ *q, int v)
{
	Place place = q->at.place;
	return matrix_of(q->k, view_name(q->k, "q", v), place.batch, place.head, "q_len", q->k->spec->head_dim);
}

static Matrix gradient_rows(Kernel *k, int v, Place place)
{
	return matrix_of(k, view_name(k, "dq", v), place.batch, place.head, "q_len", k->spec->head_dim);
}

static void store_view(BackwardQ *q, int v)
{
	Kernel *k = q->k;
	tile_scaled(k, q->dq[v], q->math[v].scale);
	Matrix to = gradient_rows(k, v, q->at.place);
	tile_store(k, to, first_row(k, q->at.place), q->dq[v]);
}

static Tile weight_gradients(BackwardQ *q, RingTile values)
{
	Kernel *k = q->k;
	Tile d_weights = tile_zero(k, k->launch->cols);
	mma_rows(k, d_weights, q->d_out, values.data);
	if (plan_splits_output_gradient(k->spec))
		mma_rows(k, d_weights, q->d_rest, values.data);
	return d_weights;
}

static void add_view(BackwardQ *q, int v, RingTile keys, Axis key, Tile d_weights, Visible *visible)
{
	Kernel *k = q->k;
	Val **changed = ARENA_ARRAY(k->b->arena, Val *, k->launch->cols / 2 + sizeof(RowSums) / sizeof(Val));
	Axis inv_k = column_terms(k, keys, 0);
	Tile scores = tile_zero(k, k->launch->cols);
	mma_rows(k, scores, q->q[v], keys.data);
	mma_wait(k);
	int changes = carry_sums(&q->sums, changed, carry_array(changed, 0, scores.e, tile_count(scores)));
	for (visible_begin(visible, changed, changes); visible_next(visible);)
		local_gradients(q, v, scores, d_weights, key, inv_k, visible);
	tile_scale(k, scores, inv_k);              /* g_ij k^_j = (g_ij / |k_j|) k_j */
	mma_tile(k, q->dq[v], scores, keys.data);
}

/* Every visible tile of keys, all views of the launch at once. */
static void visit_tiles(BackwardQ *q)
{
	Kernel *k = q->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	int first = launch->first_view, count = launch->view_count;
	Place place = q->at.place;
	Stream streams[RING_MAX_STREAMS];
	q->d_out = resident_matrix(k, output_gradient(k, place.batch, place.head), place.row0);
	if (plan_splits_output_gradient(k->spec))
		q->d_rest = resident_matrix(k, output_gradient_rest(k, place.batch, place.head), place.row0);
	streams[0] = value_stream(k, place.batch, q->at.kv_head);
	Val **carry = ARENA_ARRAY(b->arena, Val *, SPEC_MAX_VIEWS * SPEC_MAX_HEAD_DIM / 2 + sizeof(RowSums) / sizeof(Val));
	int carried = 0;
	for (int v = first; v < first + count; v++) {
		q->q[v] = resident_matrix(k, query_rows(q, v), place.row0);
		load_view(q, v);
		carried = carry_array(carry, carried, q->dq[v].e, tile_count(q->dq[v]));
		streams[1 + v - first] = key_stream(k, v, place.batch, q->at.kv_head);
	}
	carried = carry_sums(&q->sums, carry, carried);

	Ring ring = ring_new(k, streams, 1 + count, launch->cols, launch->slots, 0);
	Span span = key_tiles(k, place.row0, launch->rows, launch->cols);
	for (ring_walk(&ring, span.first, span.end, (Val){ NULL }, carry, carried); ring_round(&ring);) {
		Val key0 = val_mul_i32(b, ring.read_tile, launch->cols);
		Axis key = axis_index(k, ALONG_COLS, launch->cols, key0);
		Tile d_weights = weight_gradients(q, ring_next(&ring));
		Val has_hidden = tile_has_hidden(k, block_range(k, place.row0, launch->rows),
		                                 block_range(k, key0, launch->cols), true);
		Visible visible = visible_of(k, d_weights, q->at.row, key, has_hidden);
		for (int v = first; v < first + count; v++)
			add_view(q, v, ring_next(&ring), key, d_weights, &visible);
	}
	kernel_after_loop(k);
	q->at.place = kernel_place(k, "heads", "q_len", launch->rows);
	q->at.row = axis_index(k, ALONG_ROWS, launch->cols, first_row(k, q->at.place));
	for (int v = first; v < first + count; v++) {
		gradient_through_norm(k, q->dq[v], q->q[v], q->inv_q[v]);
		store_view(q, v);
	}
}

/* The keys that the screen marked, view by view. */
static void visit_marked(BackwardQ *q)
{
	Kernel *k = q->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	bool split = plan_splits_output_gradient(k->spec);
	Shared queries = shared_new(k, launch->rows, k->spec->head_dim);
	q->d_out = shared_new(k, launch->rows, k->spec->value_dim);
	if (split)
		q->d_rest = shared_new(k, launch->rows, k->spec->value_dim);
	Stream sample[2] = { value_stream(k, q->at.place.batch, q->at.kv_head), key_stream(k, 0, q->at.place.batch, q->at.kv_head) };
	Gather gather = gather_new(k, launch->cols, sample, 2);
	Val **carry = ARENA_ARRAY(b->arena, Val *, SPEC_MAX_HEAD_DIM / 2 + sizeof(RowSums) / sizeof(Val));
	GatherWalk walks[SPEC_MAX_VIEWS];
	for (int v = 0; v < k->spec->views; v++) {
		walks[v] = marked_keys(k, v, q->at.place);
		walks[v].list = v;
	}
	gather_ahead(&gather, walks, k->spec->views);
	for (int v = 0; v < k->spec->views; v++) {
		Place place = q->at.place;
		if (v > 0)
			walks[v] = marked_keys_again(k, v, place, &walks[v]);
		Resident residents[3] = { { queries, query_rows(q, v), place.row0 },
			{ q->d_out, output_gradient(k, place.batch, place.head), place.row0 } };
		if (split)
			residents[2] = (Resident){ q->d_rest, output_gradient_rest(k, place.batch, place.head), place.row0 };
		Stream streams[2] = { value_stream(k, place.batch, q->at.kv_head), key_stream(k, v, place.batch, q->at.kv_head) };
		walks[v].streams = streams;
		walks[v].stream_count = 2;
		walks[v].residents = residents;
		walks[v].resident_count = 2 + split;
		q->q[v] = queries;
		load_view(q, v);
		int carried = carry_array(carry, 0, q->dq[v].e, tile_count(q->dq[v]));
		carried = carry_sums(&q->sums, carry, carried);
		gather.found = val_i32(b, 0);
		for (gather_walk(&gather, &walks[v], carry, carried); gather_round(&gather);) {
			Tile d_weights = weight_gradients(q, gather_tile(&gather, 0));
			Range keys = gather_range(&gather);
			Val has_hidden = tile_has_hidden(k, block_range(k, place.row0, launch->rows), keys, true);
			Visible visible = visible_of(k, d_weights, q->at.row, gather.index, has_hidden);
			add_view(q, v, gather_tile(&gather, 1), gather.index, d_weights, &visible);
		}
		/* Found again, or what follows from it would be in registers all the while. */
		kernel_after_loop(k);
		q->at = cta_rows(k);
		gathered_through_norm(k, q->dq[v], queries, q->inv_q[v], &gather);
		store_view(q, v);
	}
}

static void compute(Kernel *k)
{
	const Launch *launch = k->launch;
	BackwardQ q = { .k = k, .at = cta_rows(k) };
	for (int v = launch->first_view; v < launch->first_view + launch->view_count; v++)
		q.math[v] = view_math(k->spec, v);
	start_sums(&q);
	if (launch->gathered)
		visit_marked(&q);
	else
		visit_tiles(&q);
	store_partials(&q);
}

static void store_zeros(Kernel *k, Place place)
{
	Builder *b = k->b;
	for (int v = k->launch->first_view; v < k->launch->first_view + k->launch->view_count; v++)
		zero_rows(k, gradient_rows(k, v, place), place.row0);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->thread, val_i32(b, 0)), NULL, 0); if_next(&f);)
		for (int p = 0; p < k->spec->param_count; p++)
			if (plan_has_partials(k->plan, p))
				store_partial(k, p, val_f32(b, 0));
}

bool build_backward_q(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	static const BlockWork work = { "heads", "q_len", compute, store_zeros };
	Kernel kernel = kernel_begin(b, module, spec, plan, launch);
	block_work(&kernel, &work);
	return kernel_end(&kernel);
}
