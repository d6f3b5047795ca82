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
#include "tile_parts.h"

enum { TERM_TAU, TERM_INV_Q };             /* what travels with a tile of queries */

typedef struct BackwardKv {
	Kernel *k;
	Place place;
	Val group, first_head;             /* i32: query heads that read the keys, and their first */
	Axis key;
	ViewMath math[SPEC_MAX_VIEWS];
	Axis inv_k[SPEC_MAX_VIEWS];
	Shared keys[SPEC_MAX_VIEWS], values;
	Tile dk[SPEC_MAX_VIEWS], dv;
} BackwardKv;

/* Where k->cta stands. */
static void find_keys(BackwardKv *kv)
{
	Kernel *k = kv->k;
	kv->place = kernel_place(k, "kv_heads", "k_len", k->launch->rows);
	kv->group = kernel_i32(k, "heads/kv_heads");
	kv->first_head = val_mul(k->b, kv->place.head, kv->group);
	kv->key = axis_index(k, ALONG_ROWS, k->launch->cols, first_row(k, kv->place));
}

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
	const char *name = view_name(k, "q", v);
	Stream s = { .matrix = matrix_of(k, name, batch, head, "q_len", k->spec->head_dim) };
	s.group_stride = head_bytes(k, name);
	Val index = batch_head(k, "heads", batch, head);
	s.terms[TERM_TAU] = terms_of(k, tau_buffer(k, v), index, "q_len");
	s.term_count = 1;
	if (k->spec->normalize == NORMALIZE_L2) {
		s.terms[TERM_INV_Q] = terms_of(k, view_name(k, "inv_q", v), index, "q_len");
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

/* One view at a tile, from the product q . k: adds its weights to `weights` where dv is wanted, and leaves g, but for the
 * constant in dw/ds, where dk is. */
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

static Tile weight_gradients(BackwardKv *kv, RingTile d_out)
{
	Tile d_weights = tile_zero(kv->k, kv->k->launch->cols);
	mma_rows(kv->k, d_weights, kv->values, d_out.data);
	return d_weights;
}

static void add_view(BackwardKv *kv, const Scope *head, int v, RingTile queries, Axis row, Tile d_weights, Visible *visible,
                     Tile weights)
{
	Kernel *k = kv->k;
	Val **changed = ARENA_ARRAY(k->b->arena, Val *, k->launch->cols);
	Axis tau = column_terms(k, queries, TERM_TAU), inv_q = column_terms(k, queries, TERM_INV_Q);
	Tile scores = tile_zero(k, k->launch->cols);
	mma_rows(k, scores, kv->keys[v], queries.data);
	mma_wait(k);
	int changes = carry_array(changed, 0, scores.e, tile_count(scores));
	if (k->launch->values)
		changes = carry_array(changed, changes, weights.e, tile_count(weights));
	for (visible_begin(visible, changed, changes); visible_next(visible);)
		weigh(kv, head, v, scores, d_weights, row, tau, inv_q, visible, weights);
	if (wants_dk(k->launch, v)) {
		tile_scale(k, scores, inv_q);              /* g_ij q^_i = (g_ij / |q_i|) q_i */
		mma_tile(k, kv->dk[v], scores, queries.data);
	}
}

/* One tile of queries: the round of the ring. */
static void round_of_queries(BackwardKv *kv, Ring *ring, Val first_head)
{
	Kernel *k = kv->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	int since = 0;                     /* steps since do was at hand */
	Val head_index = val_add(b, first_head, ring->read_group);
	Scope head = head_scope(k, head_index);
	Val row0 = val_mul_i32(b, ring->read_tile, launch->cols);
	Axis row = axis_index(k, ALONG_COLS, launch->cols, row0);
	Val has_hidden = tile_has_hidden(k, block_range(k, row0, launch->cols), block_range(k, kv->place.row0, launch->rows),
	                                 true);
	Tile d_weights = tile_zero(k, launch->cols), weights = tile_zero(k, launch->cols);
	Visible visible = visible_of(k, weights, row, kv->key, has_hidden);
	if (launch->view_count > 0) {
		d_weights = weight_gradients(kv, ring_next(ring));
		if (plan_splits_output_gradient(k->spec)) {
			RingTile d_rest = ring_next(ring);
			mma_rows(k, d_weights, kv->values, d_rest.data);
			since++;
		}
	}
	for (int v = 0; v < k->spec->views; v++) {
		if (!wants_scores(launch, v))
			continue;
		since++;
		add_view(kv, &head, v, ring_next(ring), row, d_weights, &visible, weights);
	}
	if (launch->values) {
		RingTile d_out = launch->retain ? ring_back(ring, since) : ring_next(ring);
		mma_tile(k, kv->dv, weights, d_out.data);
	}
}

static Matrix key_rows(BackwardKv *kv, int v)
{
	return matrix_of(kv->k, view_name(kv->k, "k", v), kv->place.batch, kv->place.head, "k_len", kv->k->spec->head_dim);
}

static Matrix value_rows(BackwardKv *kv)
{
	return matrix_of(kv->k, "v", kv->place.batch, kv->place.head, "k_len", kv->k->spec->value_dim);
}

static void load_view(BackwardKv *kv, int v)
{
	Kernel *k = kv->k;
	kv->math[v] = view_math(k->spec, v);
	kv->inv_k[v] = norm_terms(k, "inv_k", v, "k_len", kv->place.batch_head, kv->key);
	if (wants_dk(k->launch, v))
		kv->dk[v] = tile_zero(k, k->spec->head_dim);
}

static Matrix key_gradients(Kernel *k, int v, Place place)
{
	return matrix_of(k, view_name(k, "dk", v), place.batch, place.head, "k_len", k->spec->head_dim);
}

static Matrix value_gradients(Kernel *k, Place place)
{
	return matrix_of(k, "dv", place.batch, place.head, "k_len", k->spec->value_dim);
}

static void store_dk(BackwardKv *kv, int v)
{
	Kernel *k = kv->k;
	tile_scaled(k, kv->dk[v], kv->math[v].scale);
	Matrix to = key_gradients(k, v, kv->place);
	tile_store(k, to, first_row(k, kv->place), kv->dk[v]);
}

/* Every visible tile of queries of every head, all views at once. */
static void visit_tiles(BackwardKv *kv)
{
	Kernel *k = kv->k;
	Val first_head = kv->first_head, group = kv->group;
	Builder *b = k->b;
	const Spec *spec = k->spec;
	const Launch *launch = k->launch;
	Place place = kv->place;
	Stream streams[RING_MAX_STREAMS];
	int count = 0;
	Val **carry = ARENA_ARRAY(b->arena, Val *, (SPEC_MAX_VIEWS + 1) * SPEC_MAX_HEAD_DIM / 2);
	int carried = 0;
	Stream d_out = output_gradient_stream(k, output_gradient(k, place.batch, first_head));
	if (launch->view_count > 0) {
		kv->values = resident_matrix(k, value_rows(kv), place.row0);
		streams[count++] = d_out;
		if (plan_splits_output_gradient(spec))
			streams[count++] = output_gradient_stream(k, output_gradient_rest(k, place.batch, first_head));
	}
	for (int v = 0; v < spec->views; v++) {
		if (!wants_scores(launch, v))
			continue;
		kv->keys[v] = resident_matrix(k, key_rows(kv, v), place.row0);
		load_view(kv, v);
		streams[count++] = query_stream(k, v, place.batch, first_head);
		if (wants_dk(launch, v))
			carried = carry_array(carry, carried, kv->dk[v].e, tile_count(kv->dk[v]));
	}
	if (launch->values) {
		carried = carry_array(carry, carried, kv->dv.e, tile_count(kv->dv));
		if (!launch->retain)
			streams[count++] = d_out;
	}

	Ring ring = ring_new(k, streams, count, launch->cols, launch->slots, launch->retain ? count - 1 : 0);
	Span span = query_tiles(k, place.row0, launch->rows, launch->cols);
	for (ring_walk(&ring, span.first, span.end, group, carry, carried); ring_round(&ring);)
		round_of_queries(kv, &ring, first_head);

	kernel_after_loop(k);
	kv->place = kernel_place(k, "kv_heads", "k_len", launch->rows);
	for (int v = launch->first_view; v < launch->first_view + launch->view_count; v++) {
		gradient_through_norm(k, kv->dk[v], kv->keys[v], kv->inv_k[v]);
		store_dk(kv, v);
	}
}

/* The queries of one head that the screen marked for these keys under view v, in rounds. */
static void visit_head(BackwardKv *kv, Gather *gather, int v, Val head_index, Val **carry, int carried)
{
	Kernel *k = kv->k;
	const Launch *launch = k->launch;
	bool split = launch->view_count > 0 && plan_splits_output_gradient(k->spec);
	Place place = kv->place;
	place.head = taken_again(k, place.head);           /* or addresses of keys would be in registers all the while */
	Scope head = head_scope(k, head_index);
	Stream streams[3] = { output_gradient_stream(k, output_gradient(k, place.batch, head_index)) };
	if (split)
		streams[1] = output_gradient_stream(k, output_gradient_rest(k, place.batch, head_index));
	streams[1 + split] = query_stream(k, v, place.batch, head_index);
	Resident residents[2] = { { kv->keys[v], key_rows(kv, v), place.row0 } };
	if (launch->view_count > 0)
		residents[1] = (Resident){ kv->values, value_rows(kv), place.row0 };
	GatherWalk walk = marked_rows(k, v, place, head_index);
	walk.list = v;
	walk.streams = streams;
	walk.stream_count = 2 + split;
	walk.residents = residents;
	walk.resident_count = launch->view_count > 0 ? 2 : 1;
	for (gather_walk(gather, &walk, carry, carried); gather_round(gather);) {
		Axis row = gather->index;
		RingTile d_out = gather_tile(gather, 0);
		Range keys = block_range(k, place.row0, launch->rows);
		Val has_hidden = tile_has_hidden(k, gather_range(gather), keys, true);
		Tile d_weights = tile_zero(k, launch->cols), weights = tile_zero(k, launch->cols);
		Visible visible = visible_of(k, weights, row, kv->key, has_hidden);
		if (launch->view_count > 0)
			d_weights = weight_gradients(kv, d_out);
		if (split) {
			RingTile d_rest = gather_tile(gather, 1);
			mma_rows(k, d_weights, kv->values, d_rest.data);
		}
		add_view(kv, &head, v, gather_tile(gather, 1 + split), row, d_weights, &visible, weights);
		if (launch->values)
			mma_tile(k, kv->dv, weights, d_out.data);
	}
}

/* The queries that the screen marked, view by view and head by head. */
static void visit_marked(BackwardKv *kv)
{
	Kernel *k = kv->k;
	Builder *b = k->b;
	const Launch *launch = k->launch;
	bool split = launch->view_count > 0 && plan_splits_output_gradient(k->spec);
	Shared keys = shared_new(k, launch->rows, k->spec->head_dim);
	if (launch->view_count > 0)
		kv->values = shared_new(k, launch->rows, k->spec->value_dim);
	Stream d_out = output_gradient_stream(k, output_gradient(k, kv->place.batch, kv->first_head));
	Stream sample[3] = { d_out, d_out };
	sample[1 + split] = query_stream(k, 0, kv->place.batch, kv->first_head);
	Gather gather = gather_new(k, launch->cols, sample, 2 + split);
	Val **carry = ARENA_ARRAY(b->arena, Val *, SPEC_MAX_HEAD_DIM + 1);
	GatherWalk ahead[SPEC_MAX_VIEWS];
	for (int v = 0; v < k->spec->views; v++) {
		ahead[v] = marked_rows(k, v, kv->place, kv->first_head);
		ahead[v].list = v;
	}
	gather_ahead(&gather, ahead, k->spec->views);
	for (int v = 0; v < k->spec->views; v++) {
		if (v > 0) {
			/* Found again, or what follows from it would be in registers all the while. */
			kernel_after_loop(k);
			find_keys(kv);
		}
		int carried = 0;
		gather.found = val_i32(b, 0);
		kv->keys[v] = keys;
		load_view(kv, v);
		if (wants_dk(launch, v))
			carried = carry_array(carry, carried, kv->dk[v].e, tile_count(kv->dk[v]));
		if (launch->values)
			carried = carry_array(carry, carried, kv->dv.e, tile_count(kv->dv));
		carry[carried] = &gather.found;
		for (Loop l = loop_begin(b, val_i32(b, 0), kv->group, 1, carry, carried + 1); loop_next(&l);) {
			Val head = val_add(b, kv->first_head, l.index);
			visit_head(kv, &gather, v, head, carry, carried);
			Val more = val_compare(b, IR_LT, val_add_i32(b, l.index, 1), kv->group);
			for (If f = if_begin(b, more, NULL, 0); if_next(&f);) {
				GatherWalk next = marked_rows(k, v, kv->place, val_add_i32(b, head, 1));
				next.list = v;
				gather_ahead(&gather, &next, 1);
			}
		}
		kernel_read_thread(k);
		if (wants_dk(launch, v)) {
			gathered_through_norm(k, kv->dk[v], keys, kv->inv_k[v], &gather);
			store_dk(kv, v);
		}
	}
}

static void compute(Kernel *k)
{
	BackwardKv kv = { .k = k };
	find_keys(&kv);
	if (k->launch->values)
		kv.dv = tile_zero(k, k->spec->value_dim);
	if (k->launch->gathered)
		visit_marked(&kv);
	else
		visit_tiles(&kv);
	if (k->launch->values) {
		Matrix to = value_gradients(k, kv.place);
		tile_store(k, to, first_row(k, kv.place), kv.dv);
	}
}

static void store_zeros(Kernel *k, Place place)
{
	for (int v = 0; v < k->spec->views; v++)
		if (wants_dk(k->launch, v))
			zero_rows(k, key_gradients(k, v, place), place.row0);
	if (k->launch->values)
		zero_rows(k, value_gradients(k, place), place.row0);
}

bool build_backward_kv(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	static const BlockWork work = { "kv_heads", "k_len", compute, store_zeros };
	Kernel kernel = kernel_begin(b, module, spec, plan, launch);
	block_work(&kernel, &work);
	return kernel_end(&kernel);
}
