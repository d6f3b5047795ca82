/*
 * Row terms: 1/|q_i| and tau_i of every query row, 1/|k_j| of every key, per view; one CTA per block of 64 rows. Terms are padded
 * to whole blocks, and every entry is written, so later kernels may read them without bounds. A dense plan has them in one launch; a
 * sparse one in two, with int8 images.
 */
#include "counts.h"
#include "kernels_parts.h"
#include "progress.h"
#include "quantise.h"
#include "tile_parts.h"

enum { TERM_WARPS = 4 };

typedef struct NormSum {
	Val squares, largest;
} NormSum;

static void add_square(Kernel *k, NormSum *sum, Val x)
{
	Val size = val_fabs(k->b, x);
	sum->squares = val_fma(k->b, x, x, sum->squares);
	sum->largest = val_fmax(k->b, sum->largest, size);
}

/* Adds the elements of one 16-byte chunk. */
static void add_chunk(Kernel *k, NormSum *sum, Val pointer)
{
	Builder *b = k->b;
	Val chunk = val_load(b, pointer, IR_V4I32);
	for (int i = 0; i < 4; i++) {
		Val bits = val_vector_get(b, chunk, i, IR_I32);
		if (dtype_size(k->spec->dtype) == 4) {
			add_square(k, sum, val_bitcast(b, bits, IR_F32));
		} else {
			Val low, high;
			unpack_pair(k, bits, &low, &high);
			add_square(k, sum, low);
			add_square(k, sum, high);
		}
	}
}

Val inverse_norm(Kernel *k, Val squares, Val largest)
{
	Builder *b = k->b;
	Val zero = val_f32(b, 0);
	Val root = val_fsqrt(b, squares);
	Val inverse = val_fdiv(b, val_f32(b, 1), root);
	Val large = val_fcompare(b, IR_GE, squares, val_f32(b, 0x1p-120));
	Val small = val_fcompare(b, IR_LE, squares, val_f32(b, 0x1p120));
	Val normal = val_and(b, large, small);
	inverse = val_select(b, normal, inverse, val_f32(b, __builtin_nan("")));
	Val empty = val_fcompare(b, IR_EQ, largest, zero);
	return val_select(b, empty, zero, inverse);
}

void store_term(Kernel *k, Val terms, Val row, Val x)
{
	Val bytes = val_mul_i32(k->b, row, 4);
	val_store(k->b, val_offset(k->b, terms, val_to_i64(k->b, bytes)), x);
}

Val row_threshold(Kernel *k, const Scope *head, int view, Val row)
{
	Builder *b = k->b;
	ViewMath m = view_math(k->spec, view);
	Scope scope = scope_inside(head);
	Val position = query_position(k, row);
	scope.var[VAR_I] = val_i32_to_f32(b, position);
	Val tau = scalar_emit(b, m.threshold, &scope);
	if (k->plan->options.defect == DEFECT_SHIFT_TAU)
		tau = val_fadd(b, tau, val_f32(b, 1e-3));
	return tau;
}

/* At least so many that one pass of the CTA stays within a block of rows. */
static int lanes_for(int chunks)
{
	int lanes = TERM_WARPS * WARP / PLAN_TERM_ROWS;
	while (lanes < chunks && lanes < WARP)
		lanes *= 2;
	return lanes;
}

/* `lanes` lanes share a row, each taking every lanes-th chunk of it. */
static void write_norms(Kernel *k, Matrix m, Val terms, Val row0)
{
	Builder *b = k->b;
	int size = dtype_size(k->spec->dtype), chunks = m.cols * size / CHUNK, lanes = lanes_for(chunks);
	int rows_at_once = TERM_WARPS * WARP / lanes;
	Val own_chunk = val_rem_i32(b, k->thread, lanes);
	Val own_row = val_div_i32(b, k->thread, lanes);
	Val from = val_i32(b, 0);
	Val to = val_i32(b, PLAN_TERM_ROWS);
	for (Loop loop = loop_begin(b, from, to, rows_at_once, NULL, 0); loop_next(&loop);) {
		Val in_block = val_add(b, loop.index, own_row);
		Val row = val_add(b, row0, in_block);
		NormSum sum = { val_f32(b, 0), val_f32(b, 0) };
		Val *changed[] = { &sum.squares, &sum.largest };
		Val row64 = val_to_i64(b, row);
		Val start = val_offset(b, m.base, val_mul(b, row64, matrix_stride(k, m, 1)));
		start = val_offset(b, start, val_mul_i32(b, own_chunk, CHUNK));
		Val exists = val_compare(b, IR_LT, row, m.rows);
		for (int c = 0; c < chunks; c += lanes) {
			Val inside = val_compare(b, IR_LT, own_chunk, val_i32(b, chunks - c));
			inside = val_and(b, inside, exists);
			for (If f = if_begin(b, inside, changed, 2); if_next(&f);)
				add_chunk(k, &sum, val_offset_const(b, start, c * CHUNK));
		}
		sum.squares = lane_sum(k, sum.squares, lanes);
		sum.largest = lane_max(k, sum.largest, lanes);
		Val inverse = inverse_norm(k, sum.squares, sum.largest);
		Val writes = val_compare(b, IR_EQ, own_chunk, val_i32(b, 0));
		for (If f = if_begin(b, writes, NULL, 0); if_next(&f);)
			store_term(k, terms, row, inverse);
	}
}

/* One thread a row. */
static void write_thresholds(Kernel *k, const Scope *head, Place place)
{
	Builder *b = k->b;
	Val own = val_compare(b, IR_LT, k->thread, val_i32(b, PLAN_TERM_ROWS));
	for (If f = if_begin(b, own, NULL, 0); if_next(&f);) {
		Val row = val_add(b, place.row0, k->thread);
		for (int v = 0; v < k->plan->tau_views; v++) {
			Val tau = row_threshold(k, head, v, row);
			store_term(k, terms_of(k, tau_buffer(k, v), place.batch_head, "q_len"), row, tau);
		}
	}
}

static void write_view_norms(Kernel *k, Place place, const char *tensor, const char *buffer, const char *length)
{
	for (int v = 0; k->spec->normalize == NORMALIZE_L2 && v < k->spec->views; v++) {
		Matrix m = matrix_of(k, view_name(k, tensor, v), place.batch, place.head, length, k->spec->head_dim);
		write_norms(k, m, terms_of(k, view_name(k, buffer, v), place.batch_head, length), place.row0);
	}
}

/* A later launch counts from 0. */
static void reset_counter(Kernel *k, const char *buffer)
{
	Builder *b = k->b;
	Val zero = val_i32(b, 0), pointer = kernel_pointer(k, "buffer.%s", buffer);
	Val first = val_compare(b, IR_EQ, val_or(b, k->cta, k->thread), zero);
	for (If f = if_begin(b, first, NULL, 0); if_next(&f);)
		val_store(b, pointer, zero);
}

static void write_query_terms(Kernel *k)
{
	Place place = kernel_place(k, "heads", "q_len", PLAN_TERM_ROWS);
	Scope head = head_scope(k, place.head);
	write_thresholds(k, &head, place);
	write_view_norms(k, place, "q", "inv_q", "q_len");
}

/* The first CTAs have blocks of rows, the others blocks of keys. */
bool build_terms(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	if (spec->normalize == NORMALIZE_NONE) {
		write_query_terms(k);
		return kernel_end(k);
	}
	Val all = k->cta, count = kernel_i32(k, "batch*heads*ceil_div(q_len,%d)", PLAN_TERM_ROWS);
	for (Either e = either_begin(b, val_compare(b, IR_LT, all, count), NULL, 0); either_next(&e);)
		if (e.otherwise) {
			k->cta = val_sub(b, all, count);
			write_view_norms(k, kernel_place(k, "kv_heads", "k_len", PLAN_TERM_ROWS), "k", "inv_k", "k_len");
			k->cta = all;
		} else {
			write_query_terms(k);
		}
	return kernel_end(k);
}

static void make_query_terms(Kernel *k)
{
	Place place = kernel_place(k, "heads", "q_len", k->launch->rows);
	Scope head = head_scope(k, place.head);
	clear_row_keys(k, place);
	quantise_queries(k, &head, place);
}

static void make_key_terms(Kernel *k)
{
	const char *length = arena_printf(k->b->arena, "round_up(k_len,%d)", plan_int8_keys(k->spec));
	Place place = kernel_place(k, "kv_heads", length, k->launch->rows);
	clear_key_rows(k, place);
	quantise_keys(k, place);
}

bool build_q_terms(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	if (plan_launch(plan, ROLE_SCREEN)->persistent)
		reset_counter(k, "screened");
	progress_blocks(k, make_query_terms);
	return kernel_end(k);
}

bool build_k_terms(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	progress_blocks(k, make_key_terms);
	return kernel_end(k);
}
