/*
 * dk and dv. With A_ij = sum_v c_v w_v and g_ij as in backward_q:
 *
 *     dv_j = sum_i A_ij do_i
 *     dk^_v,j = sum_i g_ij q^_i          then through the L2 norm
 *
 * summed over the query heads that share the k/v head. One CTA: a block of keys of one (batch, k/v head), and what its
 * launch computes (dk of some views, dv, or both); do and queries stream by. Tiles here have keys along their rows.
 */
#include "kernels_parts.h"

enum { TERM_TAU, TERM_INV_Q };             /* what travels with a tile of queries */

typedef struct BackwardKv {
	Kernel *k;
	Place place;
	Axis key;
	ViewMath math[SPEC_MAX_VIEWS];
	Axis inv_k[SPEC_MAX_VIEWS];
	Shared keys[SPEC_MAX_VIEWS], values;
	Tile dk[SPEC_MAX_VIEWS], dv;
} BackwardKv;

static bool wants_dk(const Launch *launch, int v)
{
	return v >= launch->first_view && v < launch->first_view + launch->view_count;
}

/* dv needs the weights of all views. */
static bool wants_scores(const Launch *launch, int v)
{
	return launch->values || wants_dk(launch, v);
}

/* Bytes from one query head to the next. */
static Val head_bytes(Kernel *k, const char *tensor)
{
	return kernel_i64(k, "%d*%s.head_stride", dtype_size(k->spec->dtype), tensor);
}

static Stream query_stream(Kernel *k, int v, Val batch, Val head)
{
	Builder *b = k->b;
	const char *name = view_name(k, "q", v);
	Stream s = { .matrix = matrix_of(k, name, batch, head, "q_len", k->spec->head_dim) };
	s.group_stride = head_bytes(k, name);
	Val first = val_mul(b, batch, kernel_i32(k, "heads"));
	Val batch_head = val_add(b, first, head);
	s.terms[TERM_TAU] = terms_of(k, tau_buffer(k, v), batch_head, "q_len");
	s.term_count = 1;
	if (k->spec->normalize == NORMALIZE_L2) {
		s.terms[TERM_INV_Q] = terms_of(k, view_name(k, "inv_q", v), batch_head, "q_len");
		s.term_count = 2;
	}
	s.terms_group_stride = kernel_i64(k, "4*round_up(q_len,%d)", PLAN_TERM_ROWS);
	return s;
}

static Stream output_gradient_stream(Kernel *k, Matrix rows)
{
	Stream s = { .matrix = rows };
	if (k->spec->rms_norm)
		s.group_stride = kernel_i64(k, "%d*q_len", k->spec->value_dim * dtype_size(k->spec->dtype));
	else
		s.group_stride = head_bytes(k, "do");
	return s;
}

/* One view at a tile, from the product q . k: adds its weights to `weights` where dv is wanted, and leaves g where dk is. */
static void weigh(BackwardKv *kv, const Scope *head, int v, Tile scores, Tile d_weights, Axis row, Axis tau, Axis inv_q,
                  const Visible *visible, Tile weights)
{
	Kernel *k = kv->k;
	Builder *b = k->b;
	const ViewMath *m = &kv->math[v];
	Axis coefficient = visible_axis(visible, query_map(k, head, row, m->combine));
	scores_normalise(k, scores, inv_q, visible_axis(visible, kv->inv_k[v]));
	for (int e = 0; e < tile_count(scores); e++) {
		Pair pair;
		Val t = axis_get(tau, e);
		pair_evaluate(k, head, m, scores.e[e], t, axis_get(row, e), axis_get(kv->key, e), &pair);
		Val seen = visible_at(visible, e);
		if (k->launch->values) {
			Val term = val_fmul(b, pair.weight, axis_get(coefficient, e));
			weights.e[e] = val_fadd(b, weights.e[e], where(k, seen, term));
		}
		if (!wants_dk(k->launch, v))
			continue;
		Val counts = both(k, seen, pair_survives(k, &pair, t));
		Val upstream = val_fmul(b, d_weights.e[e], axis_get(coefficient, e));
		Val by_s = times(k, upstream, m->weight_s, &pair.after);
		Val g = times(k, by_s, m->score_s, &pair.before);
		scores.e[e] = where(k, counts, g);
	}
}

/* One tile of queries: the round of the ring. */
static void round_of_queries(BackwardKv *kv, Ring *ring, Val first_head)
{
	Kernel *k = kv->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	bool needs_d_weights = launch->view_count > 0;
	int since = 0;                     /* steps since do was at hand */
	Val head_index = val_add(b, first_head, ring->read_group);
	Scope head = head_scope(k, head_index);
	Val row0 = val_mul_i32(b, ring->read_tile, launch->cols);
	Axis row = axis_index(k, ALONG_COLS, launch->cols, row0);
	Val has_hidden = tile_has_hidden(k, row0, launch->cols, kv->place.row0, launch->rows, true);
	Tile d_weights = tile_zero(k, launch->cols), weights = tile_zero(k, launch->cols);
	Visible visible = visible_of(k, weights, row, kv->key, has_hidden);
	Val **changed = ARENA_ARRAY(b->arena, Val *, launch->cols);
	if (needs_d_weights) {
		RingTile d_out = ring_next(ring);
		mma_rows(k, d_weights, kv->values, d_out.data);
		if (plan_splits_output_gradient(k->spec)) {
			RingTile d_rest = ring_next(ring);
			mma_rows(k, d_weights, kv->values, d_rest.data);
			since++;
		}
	}
	for (int v = 0; v < k->spec->views; v++) {
		if (!wants_scores(launch, v))
			continue;
		RingTile queries = ring_next(ring);
		since++;
		Axis tau = column_terms(k, queries, TERM_TAU), inv_q = column_terms(k, queries, TERM_INV_Q);
		Tile scores = tile_zero(k, launch->cols);
		mma_rows(k, scores, kv->keys[v], queries.data);
		mma_wait(k);
		int changes = carry_array(changed, 0, scores.e, tile_count(scores));
		if (launch->values)
			changes = carry_array(changed, changes, weights.e, tile_count(weights));
		for (visible_begin(&visible, changed, changes); visible_next(&visible);)
			weigh(kv, &head, v, scores, d_weights, row, tau, inv_q, &visible, weights);
		if (wants_dk(launch, v)) {
			tile_scale(k, scores, inv_q);              /* g_ij q^_i = (g_ij / |q_i|) q_i */
			mma_tile(k, kv->dk[v], scores, queries.data);
		}
	}
	if (launch->values) {
		RingTile d_out = launch->retain ? ring_back(ring, since) : ring_next(ring);
		mma_tile(k, kv->dv, weights, d_out.data);
	}
}

bool build_backward_kv(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	BackwardKv kv = { .k = k, .place = kernel_place(k, "kv_heads", "k_len", launch->rows) };
	Place place = kv.place;
	Val group = kernel_i32(k, "heads/kv_heads");
	Val first_head = val_mul(b, place.head, group);
	kv.key = axis_index(k, ALONG_ROWS, launch->cols, first_row(k, place));

	Stream streams[RING_MAX_STREAMS];
	int count = 0;
	Val **carry = ARENA_ARRAY(b->arena, Val *, (SPEC_MAX_VIEWS + 1) * SPEC_MAX_HEAD_DIM / 2);
	int carried = 0;
	Stream d_out = output_gradient_stream(k, output_gradient(k, place.batch, first_head));
	if (launch->view_count > 0) {
		kv.values = resident_rows(k, "v", place.batch, place.head, "k_len", spec->value_dim, place.row0);
		streams[count++] = d_out;
		if (plan_splits_output_gradient(spec))
			streams[count++] = output_gradient_stream(k, output_gradient_rest(k, place.batch, first_head));
	}
	for (int v = 0; v < spec->views; v++) {
		if (!wants_scores(launch, v))
			continue;
		kv.math[v] = view_math(spec, v);
		kv.keys[v] = resident_rows(k, view_name(k, "k", v), place.batch, place.head, "k_len", spec->head_dim, place.row0);
		kv.inv_k[v] = norm_terms(k, "inv_k", v, "k_len", place.batch_head, kv.key);
		streams[count++] = query_stream(k, v, place.batch, first_head);
		if (wants_dk(launch, v)) {
			kv.dk[v] = tile_zero(k, spec->head_dim);
			carried = carry_array(carry, carried, kv.dk[v].e, tile_count(kv.dk[v]));
		}
	}
	if (launch->values) {
		kv.dv = tile_zero(k, spec->value_dim);
		carried = carry_array(carry, carried, kv.dv.e, tile_count(kv.dv));
		if (!launch->retain)
			streams[count++] = d_out;
	}

	Ring ring = ring_new(k, streams, count, launch->cols, launch->slots, launch->retain ? count - 1 : 0);
	Span span = query_tiles(k, place.row0, launch->rows, launch->cols);
	for (ring_walk(&ring, span.first, span.end, group, carry, carried); ring_round(&ring);)
		round_of_queries(&kv, &ring, first_head);

	kernel_after_loop(k);
	place = kernel_place(k, "kv_heads", "k_len", launch->rows);
	for (int v = launch->first_view; v < launch->first_view + launch->view_count; v++) {
		Matrix dk = matrix_of(k, view_name(k, "dk", v), place.batch, place.head, "k_len", spec->head_dim);
		store_through_norm(k, dk, first_row(k, place), kv.dk[v], kv.keys[v], kv.inv_k[v]);
	}
	if (launch->values) {
		Matrix dv = matrix_of(k, "dv", place.batch, place.head, "k_len", spec->value_dim);
		tile_store(k, dv, first_row(k, place), kv.dv);
	}
	return kernel_end(k);
}
