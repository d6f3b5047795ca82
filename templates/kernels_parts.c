#include "counts.h"
#include "kernels_parts.h"
#include "tile_parts.h"

const char *view_name(Kernel *k, const char *tensor, int view)
{
	return arena_printf(k->b->arena, "%s%d", tensor, view + 1);
}

Val key_head(Kernel *k, Val head)
{
	return val_div(k->b, head, kernel_i32(k, "heads/kv_heads"));
}

Val first_row(Kernel *k, Place place)
{
	Val in_block = val_mul_i32(k->b, k->warp, PLAN_WARP_ROWS);
	return val_add(k->b, place.row0, in_block);
}

Rows cta_rows(Kernel *k)
{
	Rows rows = { .place = kernel_place(k, "heads", "q_len", k->launch->rows) };
	rows.kv_head = key_head(k, rows.place.head);
	rows.head = head_scope(k, rows.place.head);
	rows.row = axis_index(k, ALONG_ROWS, k->launch->cols, first_row(k, rows.place));
	return rows;
}

Shared resident_matrix(Kernel *k, Matrix m, Val row0)
{
	Shared s = shared_new(k, k->launch->rows, m.cols);
	shared_copy(k, s, m, row0);
	return s;
}

Shared resident_rows(Kernel *k, const char *tensor, Val batch, Val head, const char *length, int cols, Val row0)
{
	return resident_matrix(k, matrix_of(k, tensor, batch, head, length, cols), row0);
}

Val batch_head(Kernel *k, const char *heads, Val batch, Val head)
{
	Val first = val_mul(k->b, batch, kernel_i32(k, "%s", heads));
	return val_add(k->b, first, head);
}

static Val marks_index(Kernel *k, int view, Val batch, Val head)
{
	return val_add(k->b, batch_head(k, "heads", batch, head), kernel_i32(k, "%d*batch*heads", view));
}

/* Where nothing is counted, nothing is marked, and no mark has to be read. */
static Val end_where_counted(Kernel *k, Span span, Val count_at)
{
	Val count = val_load(k->b, count_at, IR_I32);
	return val_select(k->b, val_compare(k->b, IR_EQ, count, val_i32(k->b, 0)), span.first, span.end);
}

GatherWalk marked_keys(Kernel *k, int view, Place place)
{
	Val block = val_div_i32(k->b, place.row0, PLAN_MARK);
	Span span = key_tiles(k, val_mul_i32(k->b, block, PLAN_MARK), PLAN_MARK, PLAN_MARK);
	Val index = count_index(k, view, "heads", place.batch_head);
	Val end = end_where_counted(k, span, row_keys_at(k, k->launch->backward, index, block));
	return (GatherWalk){ .index = marks_index(k, view, place.batch, place.head), .block = block, .first = span.first, .end = end };
}

GatherWalk marked_keys_again(Kernel *k, int view, Place place, const GatherWalk *before)
{
	GatherWalk walk = marked_keys(k, view, place);
	walk.list = before->list;
	walk.end = before->end;
	return walk;
}

/* 1 (i32) where a sum of 2^32 rows might count as 0. */
static Val may_wrap(Kernel *k)
{
	return kernel_i32(k, "min(1,heads/kv_heads*q_len/4294967296)");
}

GatherWalk marked_rows(Kernel *k, int view, Place place, Val head)
{
	Val block = val_div_i32(k->b, place.row0, PLAN_MARK);
	Span span = query_tiles(k, val_mul_i32(k->b, block, PLAN_MARK), PLAN_MARK, PLAN_MARK);
	Val index = count_index(k, view, "kv_heads", place.batch_head);
	Val end = end_where_counted(k, span, key_rows_at(k, index, block));
	Val wraps = val_compare(k->b, IR_NE, may_wrap(k), val_i32(k->b, 0));
	end = val_select(k->b, wraps, span.end, end);
	return (GatherWalk){ .index = marks_index(k, view, place.batch, head), .by_keys = true, .block = block,
		.first = span.first, .end = end };
}

static Val nothing_marked(Kernel *k, Place place)
{
	Builder *b = k->b;
	bool by_keys = k->launch->role == ROLE_BACKWARD_KV;
	Val block = val_div_i32(b, place.row0, PLAN_MARK), zero = val_i32(b, 0), any = zero;
	for (int v = 0; v < k->spec->views; v++) {
		Val index = count_index(k, v, by_keys ? "kv_heads" : "heads", place.batch_head);
		Val at = by_keys ? key_rows_at(k, index, block) : row_keys_at(k, k->launch->backward, index, block);
		any = val_or(b, any, val_load(b, at, IR_I32));
	}
	if (by_keys)
		any = val_or(b, any, may_wrap(k));
	return val_compare(b, IR_EQ, any, zero);
}

void block_work(Kernel *k, const BlockWork *work)
{
	if (!k->launch->gathered || !work->clear) {
		work->compute(k);
		return;
	}
	Place place = kernel_place(k, work->heads, work->length, k->launch->rows);
	for (Either e = either_begin(k->b, nothing_marked(k, place), NULL, 0); either_next(&e);)
		if (e.otherwise)
			work->compute(k);
		else
			work->clear(k, place);
}

static Axis no_axis(void)
{
	return (Axis){ .along = ALONG_ROWS };
}

/* Terms of a warp's rows. A CTA's tile may reach beyond the last block of terms: such a warp reads that block's last
 * rows. */
static Axis row_terms(Kernel *k, const char *buffer, const char *length, Val batch_head, Axis row)
{
	Val terms = terms_of(k, buffer, batch_head, length);
	if (k->launch->rows > PLAN_TERM_ROWS) {
		Val last = kernel_i32(k, "round_up(%s,%d)-%d", length, PLAN_TERM_ROWS, PLAN_WARP_ROWS / 2 + 1);
		Axis within = axis_new(k, ALONG_ROWS, 0);
		within.at[0] = val_min(k->b, row.at[0], last);
		row = within;
	}
	return axis_load_global(k, row, terms);
}

Axis norm_terms(Kernel *k, const char *name, int view, const char *length, Val batch_head, Axis row)
{
	if (k->spec->normalize == NORMALIZE_NONE)
		return no_axis();
	return row_terms(k, view_name(k, name, view), length, batch_head, row);
}

const char *tau_buffer(Kernel *k, int view)
{
	return view_name(k, "tau", k->plan->tau_views == 1 ? 0 : view);
}

Axis tau_terms(Kernel *k, int view, Val batch_head, Axis row)
{
	return row_terms(k, tau_buffer(k, view), "q_len", batch_head, row);
}

Stream key_stream(Kernel *k, int view, Val batch, Val kv_head)
{
	Stream s = { .matrix = matrix_of(k, view_name(k, "k", view), batch, kv_head, "k_len", k->spec->head_dim) };
	if (k->spec->normalize == NORMALIZE_L2) {
		Val index = batch_head(k, "kv_heads", batch, kv_head);
		s.terms[s.term_count++] = terms_of(k, view_name(k, "inv_k", view), index, "k_len");
	}
	return s;
}

Stream value_stream(Kernel *k, Val batch, Val kv_head)
{
	return (Stream){ .matrix = matrix_of(k, "v", batch, kv_head, "k_len", k->spec->value_dim) };
}

Axis column_terms(Kernel *k, RingTile tile, int index)
{
	if (val_is_null(tile.terms[index]))
		return no_axis();
	return axis_load_shared(k, tile.data.rows, tile.terms[index], IR_V2F32);
}

Matrix packed_rows(Kernel *k, const char *buffer, Val batch_head, int element_bytes)
{
	Builder *b = k->b;
	Val index = val_to_i64(b, batch_head);
	Val stride = kernel_i64(k, "%d*q_len", k->spec->value_dim * element_bytes);
	Val pointer = kernel_pointer(k, "buffer.%s", buffer);
	Matrix m = { .base = val_offset(b, pointer, val_mul(b, index, stride)), .cols = k->spec->value_dim };
	m.row_bytes = arena_printf(b->arena, "%d", k->spec->value_dim * element_bytes);
	m.rows = kernel_i32(k, "q_len");
	m.map = arena_printf(b->arena, "buffer.%s %d q_len %s heads %s*q_len batch %s*q_len*heads", buffer, m.cols, m.row_bytes,
	                     m.row_bytes, m.row_bytes);
	m.head = val_rem(b, batch_head, kernel_i32(k, "heads"));
	m.batch = val_div(b, batch_head, kernel_i32(k, "heads"));
	return m;
}

static Matrix normed_gradient(Kernel *k, const char *buffer, Val batch, Val head)
{
	Val index = batch_head(k, "heads", batch, head);
	return packed_rows(k, buffer, index, dtype_size(k->spec->dtype));
}

Matrix output_gradient(Kernel *k, Val batch, Val head)
{
	if (!k->spec->rms_norm)
		return matrix_of(k, "do", batch, head, "q_len", k->spec->value_dim);
	return normed_gradient(k, "do_raw", batch, head);
}

Matrix output_gradient_rest(Kernel *k, Val batch, Val head)
{
	return normed_gradient(k, "do_rest", batch, head);
}

Val load_gain(Kernel *k, Val column)
{
	Builder *b = k->b;
	const Param *gain = &k->spec->params[k->spec->gain];
	Val pointer = kernel_pointer(k, "param.%s", gain->name);
	Val value = val_f32(b, gain->init);
	Val *changed[] = { &value };
	Val zero = val_i32(b, 0);
	Val absent = val_is_null_pointer(b, pointer);
	Val given = val_select(b, absent, zero, val_i32(b, 1));
	for (If f = if_begin(b, val_compare(b, IR_NE, given, zero), changed, 1); if_next(&f);) {
		Val bytes = val_mul_i32(b, column, 4);
		Val at = val_offset(b, pointer, val_to_i64(b, bytes));
		value = val_load(b, at, IR_F32);
	}
	return value;
}

/* The elements of x at the places of a tile's elements. */
static Tile tile_read(Kernel *k, Shared x)
{
	Builder *b = k->b;
	int size = dtype_size(k->spec->dtype);
	Tile t = tile_new(k, x.cols);
	Val warp_row = val_mul_i32(b, k->warp, PLAN_WARP_ROWS);
	Val row = val_add(b, warp_row, val_div_i32(b, k->lane, 4));
	Val column = val_mul_i32(b, val_rem_i32(b, k->lane, 4), 2 * size);
	for (int e = 0; e < tile_count(t); e += 2) {
		Val own = val_offset(b, shared_address(k, x, row, e / 4), column);
		Val at = val_offset_const(b, own, (e % 4 / 2) * 8 * x.row_bytes);
		if (size == 2) {
			Val pair = val_load(b, at, IR_I32);
			unpack_pair(k, pair, &t.e[e], &t.e[e + 1]);
		} else {
			Val pair = val_load(b, at, IR_V2F32);
			t.e[e] = val_vector_get(b, pair, 0, IR_F32);
			t.e[e + 1] = val_vector_get(b, pair, 1, IR_F32);
		}
	}
	return t;
}

/* Wider rows are read again when they are needed again: they and their gradients would not fit in registers together. */
enum { REREAD_COLS = 128 };

void gradient_through_norm(Kernel *k, Tile g, Shared x, Axis inv)
{
	Builder *b = k->b;
	if (k->spec->normalize == NORMALIZE_NONE)
		return;
	Tile unit = tile_read(k, x);
	Val dot[2] = { val_f32(b, 0), val_f32(b, 0) };
	for (int e = 0; e < tile_count(g); e++) {
		unit.e[e] = val_fmul(b, unit.e[e], axis_get(inv, e));
		dot[e % 4 / 2] = val_fma(b, g.e[e], unit.e[e], dot[e % 4 / 2]);
	}
	row_sum_lanes(k, dot);
	if (x.cols > REREAD_COLS) {
		kernel_after_loop(k);              /* so that the addresses count as new */
		unit = tile_read(k, x);
		for (int e = 0; e < tile_count(g); e++)
			unit.e[e] = val_fmul(b, unit.e[e], axis_get(inv, e));
	}
	for (int e = 0; e < tile_count(g); e++) {
		Val along = val_fmul(b, dot[e % 4 / 2], unit.e[e]);
		Val across = val_fsub(b, g.e[e], along);
		g.e[e] = val_fmul(b, across, axis_get(inv, e));
	}
}

void gathered_through_norm(Kernel *k, Tile g, Shared x, Axis inv, const Gather *gather)
{
	Builder *b = k->b;
	Val **changed = ARENA_ARRAY(b->arena, Val *, tile_count(g));
	int count = carry_array(changed, 0, g.e, tile_count(g));
	Val some = val_compare(b, IR_GT, gather->found, val_i32(b, 0));
	Kernel outside = *k;
	for (If f = if_begin(b, some, changed, count); if_next(&f);) {
		gradient_through_norm(k, g, x, inv);
		kernel_as_before(k, &outside);
	}
}
