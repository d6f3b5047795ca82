/*
 * Int8 images of q and k, and the bounds that the screen compares with. docs/screen.md derives them and names the quantities.
 *
 * Where a row or a key is not finite, its bound is one that always visits. What is rounded here is rounded towards visiting.
 */
#include "quantise.h"

#include <math.h>
#include "progress.h"
#include "tile_parts.h"

enum {
	PIECE = 16,                        /* elements of a row that a thread has in a row: 16 bytes of int8 */
	MAX_ELEMENTS = 2 * PIECE,          /* of a row, a thread's */
	MAX_WORDS = MAX_ELEMENTS,          /* likewise, in memory */
	LEVELS = 127
};

/* Sums of squares and square roots in float32 are off by less than 300 * 2^-24; this covers it, and a few roundings more. */
static const double UP = 1.0001;
/* What squares below float32's range may hide of a norm. */
static const double HIDDEN = 0x1p-58;
/* By how much of a unit row its step and what the row's step was before, times 1/|x|, are apart at most, and twice that. */
static const double STEPS_APART = 0x1p-21;

/* How threads share out the rows of their block: `lanes` threads a row, each taking every lanes-th piece. */
typedef struct Share {
	int lanes, rows_at_once;
	int pieces;                        /* of a row, with the padding of the int8 row */
	Val piece, row;                    /* this thread's first piece; its row among those at once */
} Share;

/* bytes: of an int8 row, with its padding. */
static Share share_of(Kernel *k, int bytes)
{
	Share s = { .lanes = plan_int8_lanes(bytes), .pieces = bytes / PIECE };
	s.rows_at_once = k->launch->warps * WARP / s.lanes;
	s.piece = val_rem_i32(k->b, k->thread, s.lanes);
	s.row = val_div_i32(k->b, k->thread, s.lanes);
	return s;
}

/* Of a row, each thread's. */
static int share_pieces(const Share *s)
{
	return (s->pieces + s->lanes - 1) / s->lanes;
}

/* A thread's part of a row as it lies in memory; 0 beyond the row's and the matrix's end. */
typedef struct Words {
	int count;
	Val at[MAX_WORDS];                 /* i32 */
} Words;

static Words load_words(Kernel *k, const Share *s, Matrix m, Val row)
{
	enum { CHUNK_WORDS = CHUNK / 4 };
	Builder *b = k->b;
	Words words = { 0 };
	int chunks = PIECE * dtype_size(k->spec->dtype) / CHUNK, stored = k->spec->head_dim * chunks / PIECE;
	Val exists = val_compare(b, IR_LT, row, m.rows), zero = val_i32(b, 0);
	Val start = val_offset(b, m.base, val_mul(b, val_to_i64(b, row), matrix_stride(k, m, 1)));
	start = val_offset(b, start, val_mul_i32(b, s->piece, chunks * CHUNK));
	for (int n = 0; n < share_pieces(s) * chunks; n++, words.count += CHUNK_WORDS) {
		int c = n / chunks * s->lanes * chunks + n % chunks;
		Val *changed[CHUNK_WORDS];
		for (int i = 0; i < CHUNK_WORDS; i++) {
			words.at[words.count + i] = zero;
			changed[i] = &words.at[words.count + i];
		}
		Val inside = exists;
		if (c + (s->lanes - 1) * chunks >= stored) {
			Val own = val_add_i32(b, val_mul_i32(b, s->piece, chunks), c);
			inside = val_and(b, exists, val_compare(b, IR_LT, own, val_i32(b, stored)));
		}
		for (If f = if_begin(b, inside, changed, CHUNK_WORDS); if_next(&f);) {
			Val chunk = val_load(b, val_offset_const(b, start, c * CHUNK), IR_V4I32);
			for (int i = 0; i < CHUNK_WORDS; i++)
				*changed[i] = val_vector_get(b, chunk, i, IR_I32);
		}
	}
	return words;
}

/* Is the next view read while this one is rounded? Where registers have room for both. */
static bool reads_early(const Kernel *k)
{
	return dtype_size(k->spec->dtype) < 4;
}

/* Their elements, float32. Returns how many. */
static int unpack_words(Kernel *k, const Words *words, Val *x)
{
	int count = 0;
	for (int i = 0; i < words->count; i++) {
		if (k->spec->dtype == DTYPE_F32) {
			x[count++] = val_bitcast(k->b, words->at[i], IR_F32);
		} else {
			unpack_pair(k, words->at[i], &x[count], &x[count + 1]);
			count += 2;
		}
	}
	return count;
}

/* Of one row, in every thread that shares it. */
typedef struct RowFacts {
	Val inverse;                       /* what its elements are multiplied by: 1/|x|, or 1 */
	Val length;                        /* and divided by: |x|, or 1 */
	Val norm;                          /* at least the 2-norm of the row after that */
	Val largest;                       /* the largest element after that */
} RowFacts;

static RowFacts facts_of(Kernel *k, const Share *s, const Val *x, int count)
{
	Builder *b = k->b;
	enum { SUMS = 4 };                 /* so that few additions wait for others */
	Val sum[SUMS], most[SUMS], one = val_f32(b, 1);
	for (int i = 0; i < count; i++) {
		Val size = val_fabs(b, x[i]);
		int n = i % SUMS;
		sum[n] = i < SUMS ? val_fmul(b, x[i], x[i]) : val_fma(b, x[i], x[i], sum[n]);
		most[n] = i < SUMS ? size : val_fmax(b, most[n], size);
	}
	Val upper = val_fadd(b, sum[0], sum[1]), lower = val_fadd(b, sum[2], sum[3]);
	Val squares = lane_sum(k, val_fadd(b, upper, lower), s->lanes);
	upper = val_fmax(b, most[0], most[1]);
	lower = val_fmax(b, most[2], most[3]);
	Val largest = lane_max(k, val_fmax(b, upper, lower), s->lanes);
	RowFacts facts = { .inverse = one, .length = one, .largest = largest };
	Val norm = val_fsqrt(b, squares);
	if (k->spec->normalize == NORMALIZE_L2) {
		facts.length = norm;
		facts.inverse = inverse_norm(k, squares, largest);
		facts.largest = val_fmul(b, largest, facts.inverse);
		norm = val_fmul(b, norm, facts.inverse);
	}
	facts.norm = val_fma(b, norm, val_f32(b, UP), val_f32(b, HIDDEN));
	return facts;
}

/* The value of one step of int8, and its inverse; both 0 where the largest element is 0, not finite, or at the end of float32's
 * range: then all of the row counts as error. */
typedef struct Scale { Val step, inverse; } Scale;

static Scale scale_of(Kernel *k, Val largest)
{
	Builder *b = k->b;
	Val zero = val_f32(b, 0);
	Val large = val_fcompare(b, IR_GE, largest, val_f32(b, 0x1p-100));
	Val usable = val_and(b, large, val_fcompare(b, IR_LE, largest, val_f32(b, 0x1p100)));
	Val step = val_fmul(b, largest, val_f32(b, 1.0 / LEVELS));
	/* Which level an element gets may be off a little: how far it then is from the element is what counts as error. */
	Val inverse = val_fmul(b, val_finverse_near(b, largest), val_f32(b, LEVELS));
	return (Scale){ val_select(b, usable, step, zero), val_select(b, usable, inverse, zero) };
}

/*
 * Where 16 bytes of an int8 key lie. Row by row; or, for wgmma, in groups of plan_int8_keys: panels of 128 bytes a row, in
 * which chunk c of row r lies at place c ^ (r % 8). Keys of up to 64 bytes share a row with one of the group's other half:
 *
 *     head_dim 64: row r, places 0..3 ^ (r % 8): key r; places 4..7 ^ (r % 8): key 256 + r
 */
static Val chunk_address(Kernel *k, Matrix to, Val row, Val byte)
{
	Builder *b = k->b;
	if (!to.in_tiles)
		return val_offset(b, val_offset(b, to.base, val_mul(b, val_to_i64(b, row), matrix_stride(k, to, 1))), byte);
	int keys = plan_int8_keys(k->spec), shared = plan_int8_keys_a_row(k->spec), rows = keys / shared;
	Val in_group = val_rem_i32(b, row, keys);
	Val r = val_rem_i32(b, in_group, rows), half = val_div_i32(b, in_group, rows);
	Val panel = val_div_i32(b, byte, PLAN_PANEL_BYTES);
	Val first = val_mul_i32(b, half, PLAN_PANEL_BYTES / 2);
	Val in_row = val_add(b, val_rem_i32(b, byte, PLAN_PANEL_BYTES), first);
	Val turn = val_rem_i32(b, r, 8);
	Val place = val_xor(b, val_div_i32(b, in_row, CHUNK), turn);
	Val in_chunk = val_rem_i32(b, in_row, CHUNK);
	Val at = val_add(b, val_mul_i32(b, place, CHUNK), in_chunk);
	at = val_add(b, at, val_mul_i32(b, r, PLAN_PANEL_BYTES));
	at = val_add(b, at, val_mul_i32(b, panel, rows * PLAN_PANEL_BYTES));
	Val group = val_to_i64(b, val_div_i32(b, row, keys));
	Val start = val_offset(b, to.base, val_mul(b, group, val_i64(b, plan_int8_tile_bytes(k->spec))));
	return val_offset(b, start, at);
}

/* Writes this thread's part of an int8 row; returns the sum of the squares of what rounding left of the whole row, normalised. It is the
 * row as it was that is rounded, which takes a multiplication less for each element. */
static Val store_int8(Kernel *k, const Share *s, Matrix to, Val row, const Val *x, int count, RowFacts facts, Scale scale)
{
	enum { SUMS = 2 };
	Builder *b = k->b;
	/* Adding it rounds to an integer, which then stands in the low bits. */
	Val magic = val_f32(b, 0x1.8p23), inverse = val_fmul_alone(b, facts.inverse, scale.inverse);
	Val minus = val_fneg(b, val_fmul_alone(b, scale.step, facts.length)), error[SUMS], bytes[MAX_ELEMENTS];
	for (int i = 0; i < count; i++) {
		Val shifted = val_fma(b, x[i], inverse, magic);
		bytes[i] = val_bitcast(b, shifted, IR_I32);
		Val level = val_fsub_alone(b, shifted, magic);
		Val rest = val_fma(b, level, minus, x[i]);
		error[i % SUMS] = i < SUMS ? val_fmul(b, rest, rest) : val_fma(b, rest, rest, error[i % SUMS]);
	}
	for (int p = 0, at = 0; p < s->pieces; p += s->lanes, at += PIECE) {
		Val inside = val_compare(b, IR_LT, s->piece, val_i32(b, s->pieces - p)), words[PIECE / 4];
		for (If f = if_begin(b, inside, NULL, 0); if_next(&f);) {
			Val to_piece = chunk_address(k, to, row, val_mul_i32(b, val_add_i32(b, s->piece, p), PIECE));
			for (int i = 0; i < PIECE / 4; i++)
				words[i] = val_low_bytes(b, bytes + at + 4 * i);
			val_store(b, to_piece, val_vector_four(b, words));
		}
	}
	Val squares = lane_sum(k, val_fadd(b, error[0], error[1]), s->lanes);
	if (k->spec->normalize == NORMALIZE_NONE)
		return squares;
	squares = val_fmul(b, val_fadd(b, squares, val_f32(b, HIDDEN * HIDDEN)), facts.inverse);
	return val_fmul(b, squares, facts.inverse);
}

/* At least the 2-norm of an error. */
static Val error_norm(Kernel *k, Val squares)
{
	Builder *b = k->b;
	Val more = val_f32(b, k->spec->normalize == NORMALIZE_L2 ? STEPS_APART + HIDDEN : HIDDEN);
	return val_fma(b, val_fsqrt_near(b, squares), val_f32(b, UP), more);
}

/* Float32 values for each row of the CTA's block, in shared memory. */
static Val row_values(Kernel *k)
{
	return team_memory(k, 4 * k->launch->rows);
}

static Val row_value_at(Kernel *k, Val values, Val row)
{
	return val_offset(k->b, values, val_mul_i32(k->b, row, 4));
}

/* The largest x of all threads that share a block, NaN if any is. x is not negative, so its bits are in the same order; NaN's are above. */
static Val block_max(Kernel *k, Val x)
{
	Builder *b = k->b;
	Val bits = warp_max(k, val_bitcast(b, x, IR_I32));
	x = val_bitcast(b, bits, IR_F32);
	Val sums = team_memory(k, 4 * k->launch->warps);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, val_i32(b, 0)), NULL, 0); if_next(&f);)
		val_store(b, val_offset(b, sums, val_mul_i32(b, k->warp, 4)), x);
	kernel_barrier(k);
	for (int w = 0; w < k->launch->warps; w++) {
		Val other = val_load(b, val_offset_const(b, sums, 4 * w), IR_F32);
		x = w == 0 ? other : val_fmax(b, x, other);
	}
	return x;
}

/* A buffer's part number `index` (i32), of `bytes` for each `rows` of a length. */
static Matrix int8_part(Kernel *k, const char *buffer, Val index, const char *length, int rows, int bytes)
{
	Builder *b = k->b;
	int row = plan_int8_bytes(k->spec);
	Val pointer = kernel_pointer(k, "buffer.%s", buffer);
	Val stride = kernel_i64(k, "%d*ceil_div(%s,%d)", bytes, length, rows);
	Matrix m = { .base = val_offset(b, pointer, val_mul(b, val_to_i64(b, index), stride)) };
	m.row_bytes = arena_printf(b->arena, "%d", row);
	m.rows = kernel_i32(k, "round_up(%s,%d)", length, rows);
	/* As rows of the spec's dtype, which is what tensor maps and copies count in. */
	m.cols = row / dtype_size(k->spec->dtype);
	m.head = index;
	m.batch = val_i32(b, 0);
	return m;
}

Matrix int8_queries(Kernel *k, Val index)
{
	int row = plan_int8_bytes(k->spec);
	Matrix m = int8_part(k, "q8", index, "q_len", PLAN_TERM_ROWS, PLAN_TERM_ROWS * row);
	m.map = arena_printf(k->b->arena, "buffer.q8 %d round_up(q_len,%d) %d %d*batch*heads %d*round_up(q_len,%d) 1 0", m.cols,
	                     PLAN_TERM_ROWS, row, k->spec->views, row, PLAN_TERM_ROWS);
	return m;
}

Matrix int8_keys(Kernel *k, Val index)
{
	int keys = plan_int8_keys(k->spec);
	bool in_tiles = k->plan->int8_tiles;
	int bytes = in_tiles ? plan_int8_tile_bytes(k->spec) : keys * plan_int8_bytes(k->spec);
	Matrix m = int8_part(k, "k8", index, "k_len", keys, bytes);
	m.in_tiles = in_tiles;
	return m;
}

enum { TILE_BOUND_BYTES = TILE_BOUND_FLOATS * 4 };

static Val bounds_of(Kernel *k, const char *buffer, Val index, int bytes, const char *entries)
{
	Builder *b = k->b;
	Val pointer = kernel_pointer(k, "buffer.%s", buffer);
	Val stride = kernel_i64(k, "%d*%s", bytes, entries);
	return val_offset(b, pointer, val_mul(b, val_to_i64(b, index), stride));
}

Val row_bounds(Kernel *k, Val index)
{
	const char *entries = arena_printf(k->b->arena, "round_up(q_len,%d)", PLAN_TERM_ROWS);
	return bounds_of(k, "row_bound", index, plan_row_bound_bytes(k->spec), entries);
}

Val tile_bounds(Kernel *k, Val index)
{
	int keys = plan_int8_keys(k->spec);
	const char *entries = arena_printf(k->b->arena, "%d*ceil_div(k_len,%d)", keys / PLAN_BOUND_KEYS, keys);
	return bounds_of(k, "tile_bound", index, TILE_BOUND_BYTES, entries);
}

/* Two float32 in 8 bytes, or three in 16. */
static void store_bound(Kernel *k, Val bounds, int bytes, Val entry, Val x, Val y, Val z)
{
	Builder *b = k->b;
	Val at = val_offset(b, bounds, val_mul(b, val_to_i64(b, entry), val_i64(b, bytes)));
	val_store(b, at, val_vector_pair(b, x, y, IR_V2F32));
	if (bytes == 8)
		return;
	Val pair = val_vector_pair(b, z, z, IR_V2F32);
	val_store(b, val_offset_const(b, at, 8), pair);
}

/* Integers in the order of the floats whose bits they hold, and back: the same map. */
static Val ordered(Builder *b, Val bits)
{
	Val sign = val_sign_i32(b, bits);
	return val_xor(b, bits, val_and(b, sign, val_i32(b, INT32_MAX)));
}

static int32_t ordered_constant(float x)
{
	union { float f; int32_t i; } bits = { x };
	return bits.i < 0 ? bits.i ^ INT32_MAX : bits.i;
}

/*
 * The largest product x for which the kernels cannot find a score above tau, however they round: by bisection, as the score
 * rises with x. -inf where there is none, +inf where the score stays below tau for all x. The width of the bounds counts
 * twice: once for the score at x, once for scores below it where only the slope proves that they rise.
 */
static Val product_threshold(Kernel *k, const Scope *head, int view, Val row, Val tau)
{
	const Spec *spec = k->spec;
	ViewMath math = view_math(spec, view);
	if (math.score->op == EXPR_VAR)
		return tau;
	Builder *b = k->b;
	float most = spec->normalize == NORMALIZE_L2 ? 1.01f : 0x1p100f;
	int32_t low_end = ordered_constant(-most), high_end = ordered_constant(most);
	Val low = val_i32(b, low_end), high = val_i32(b, high_end), none = low, all = high;
	Val *carry[] = { &low, &high };
	Val first = val_i32(b, 0);
	for (Loop l = loop_begin(b, first, val_i32(b, 32), 1, carry, 2); loop_next(&l);) {
		Val half = val_shr(b, val_sub(b, high, low), val_i32(b, 1));
		Val middle = val_add(b, low, half);
		Scope scope = scope_inside(head);
		scope.var[VAR_I] = val_i32_to_f32(b, query_position(k, row));
		scope.var[VAR_S] = val_bitcast(b, ordered(b, middle), IR_F32);
		Bounds score = scalar_bounds(b, math.score, &scope);
		Val above = val_fadd(b, score.hi, val_fsub(b, score.hi, score.lo));
		Val below = val_fcompare(b, IR_LE, above, tau);
		low = val_select(b, below, middle, low);
		high = val_select(b, below, high, middle);
	}
	/* No product of unit rows is beyond `most`; others may be. */
	Val infinity = val_f32(b, INFINITY), beyond = spec->normalize == NORMALIZE_L2 ? infinity : val_f32(b, most);
	Val x = val_bitcast(b, ordered(b, low), IR_F32);
	x = val_select(b, val_compare(b, IR_EQ, high, all), beyond, x);
	Val below_all = val_fneg(b, infinity);
	return val_select(b, val_compare(b, IR_EQ, low, none), below_all, x);
}

/* A row that sees no key, or that does not exist. */
static Val row_sees_nothing(Kernel *k, Val row)
{
	Builder *b = k->b;
	Val none = val_compare(b, IR_GE, row, kernel_i32(k, "q_len"));
	if (k->spec->causal)
		none = val_or(b, none, val_compare(b, IR_LT, query_position(k, row), val_i32(b, 0)));
	return none;
}

/* One thread a row: the bound from what the row's loop left. */
static void store_row_bound(Kernel *k, Val bounds, Val row, Val tau, Val step, Val error, Val norm)
{
	Builder *b = k->b;
	double gamma = score_error(k->spec);
	Val one = val_f32(b, 1), up = val_f32(b, UP), most = val_f32(b, 1e38), infinity = val_f32(b, INFINITY);
	Val slope = val_fadd(b, norm, error);
	Val offset = val_fma(b, slope, val_f32(b, gamma), error);
	Val limit = val_fmin(b, tau, most);
	limit = val_fma(b, val_fabs(b, limit), val_f32(b, -1e-6), limit);
	if (k->spec->normalize == NORMALIZE_L2)
		limit = val_fma(b, offset, val_f32(b, -UP), limit);
	Val has_step = val_fcompare(b, IR_GT, step, val_f32(b, 0));
	Val inverse = val_select(b, has_step, val_fdiv(b, one, step), one);
	limit = val_fmin(b, val_fmul(b, limit, inverse), most);
	slope = val_fmul(b, val_fmul(b, slope, inverse), up);
	offset = val_fmul(b, val_fmul(b, offset, inverse), up);
	Val bounded = val_fcompare(b, IR_LT, limit, infinity);
	bounded = val_and(b, bounded, val_fcompare(b, IR_LT, slope, infinity));
	bounded = val_and(b, bounded, val_fcompare(b, IR_LT, offset, infinity));
	Val never = row_sees_nothing(k, row);
	limit = val_select(b, never, most, val_select(b, bounded, limit, val_fneg(b, infinity)));
	slope = val_select(b, never, one, val_select(b, bounded, slope, one));
	offset = val_select(b, never, one, val_select(b, bounded, offset, one));
	store_bound(k, bounds, plan_row_bound_bytes(k->spec), row, limit, slope, offset);
}

static Val view_index(Kernel *k, int view, const char *heads, Place place)
{
	return val_add(k->b, place.batch_head, kernel_i32(k, "%d*batch*%s", view, heads));
}

/* What a row's loop leaves of it for its bound, in shared memory. */
typedef struct RowParts {
	Val steps, errors, norms;
} RowParts;

static RowParts row_parts(Kernel *k)
{
	RowParts parts;
	parts.steps = row_values(k);
	parts.errors = row_values(k);
	parts.norms = row_values(k);
	return parts;
}

/* A view's row `in_block` of the block. */
static Words load_row(Kernel *k, const Share *share, Place place, int v, Val in_block)
{
	Matrix from = matrix_of(k, view_name(k, "q", v), place.batch, place.head, "q_len", k->spec->head_dim);
	return load_words(k, share, from, val_add(k->b, place.row0, in_block));
}

/* The int8 image of a view's row, its inverse norm, and what its bound needs. */
static void quantise_row(Kernel *k, const Share *share, Place place, int v, Val in_block, const Words *words, const RowParts *parts)
{
	Builder *b = k->b;
	Val row = val_add(b, place.row0, in_block), x[MAX_ELEMENTS];
	int count = unpack_words(k, words, x);
	RowFacts facts = facts_of(k, share, x, count);
	Scale scale = scale_of(k, facts.largest);
	Val squares = store_int8(k, share, int8_queries(k, view_index(k, v, "heads", place)), row, x, count, facts, scale);
	Val error = error_norm(k, squares);
	for (If f = if_begin(b, val_compare(b, IR_EQ, share->piece, val_i32(b, 0)), NULL, 0); if_next(&f);) {
		if (k->spec->normalize == NORMALIZE_L2)
			store_term(k, terms_of(k, view_name(k, "inv_q", v), place.batch_head, "q_len"), row, facts.inverse);
		val_store(b, row_value_at(k, parts->steps, in_block), scale.step);
		val_store(b, row_value_at(k, parts->errors, in_block), error);
		val_store(b, row_value_at(k, parts->norms, in_block), facts.norm);
	}
}

/* A row's threshold and bound, by one thread. */
static void bound_row(Kernel *k, const Scope *head, Place place, int v, Val in_block, const RowParts *parts)
{
	Builder *b = k->b;
	Val row = val_add(b, place.row0, in_block);
	Val tau = row_threshold(k, head, v, row);
	if (v < k->plan->tau_views)
		store_term(k, terms_of(k, tau_buffer(k, v), place.batch_head, "q_len"), row, tau);
	Val limit = product_threshold(k, head, v, row, tau);
	Val scale = val_load(b, row_value_at(k, parts->steps, in_block), IR_F32);
	Val error = val_load(b, row_value_at(k, parts->errors, in_block), IR_F32);
	Val norm = val_load(b, row_value_at(k, parts->norms, in_block), IR_F32);
	store_row_bound(k, row_bounds(k, view_index(k, v, "heads", place)), row, limit, scale, error, norm);
}

/* Rows of all views first, then their bounds, of different views by different threads: they meet but once. */
void quantise_queries(Kernel *k, const Scope *head, Place place)
{
	Builder *b = k->b;
	Share share = share_of(k, plan_int8_bytes(k->spec));
	RowParts parts[SPEC_MAX_VIEWS];
	int together = k->launch->warps * WARP / PLAN_TERM_ROWS;
	for (int v = 0; v < k->spec->views; v++)
		parts[v] = row_parts(k);
	Val zero = val_i32(b, 0), past = val_i32(b, PLAN_TERM_ROWS);
	bool early = reads_early(k);
	for (Loop l = loop_begin(b, zero, past, share.rows_at_once, NULL, 0); loop_next(&l);) {
		Val in_block = val_add(b, l.index, share.row);
		Words next = load_row(k, &share, place, 0, in_block);
		for (If f = if_begin(b, val_compare(b, IR_EQ, l.index, zero), NULL, 0); if_next(&f);)
			progress_tell(k);
		for (int v = 0; v < k->spec->views; v++) {
			Words words = early || v == 0 ? next : load_row(k, &share, place, v, in_block);
			if (early && v + 1 < k->spec->views)
				next = load_row(k, &share, place, v + 1, in_block);
			quantise_row(k, &share, place, v, in_block, &words, &parts[v]);
		}
	}
	kernel_barrier(k);
	Val part = val_div_i32(b, k->thread, PLAN_TERM_ROWS), in_block = val_rem_i32(b, k->thread, PLAN_TERM_ROWS);
	for (int v = 0; v < k->spec->views; v++)
		for (If f = if_begin(b, val_compare(b, IR_EQ, part, val_i32(b, v % together)), NULL, 0); if_next(&f);)
			bound_row(k, head, place, v, in_block, &parts[v]);
}

/* +inf for what is not finite, so that the screen's comparison visits. */
static Val or_infinite(Builder *b, Val x)
{
	Val infinity = val_f32(b, INFINITY);
	return val_select(b, val_fcompare(b, IR_LT, x, infinity), x, infinity);
}

/* The keys of which a thread holds its part, from their first reading on. */
typedef struct Held {
	Words words[PLAN_HELD_KEYS];
	Val row[PLAN_HELD_KEYS], inverse[PLAN_HELD_KEYS], length[PLAN_HELD_KEYS];
} Held;

static Held hold_keys(Kernel *k, const Share *s, Place place, int v)
{
	Matrix m = matrix_of(k, view_name(k, "k", v), place.batch, place.head, "k_len", k->spec->head_dim);
	Held held;
	for (int r = 0; r < PLAN_HELD_KEYS; r++) {
		held.row[r] = val_add(k->b, place.row0, val_add_i32(k->b, s->row, r * s->rows_at_once));
		held.words[r] = load_words(k, s, m, held.row[r]);
	}
	return held;
}

/* Writes int8 keys with one scale; returns the square of the largest error of this thread's. */
static Val store_keys(Kernel *k, const Share *s, const Held *held, Matrix to, Scale scale)
{
	Val squares = val_f32(k->b, 0), x[MAX_ELEMENTS];
	for (int r = 0; r < PLAN_HELD_KEYS; r++) {
		/* Unpacked again, as twice as many registers would be in use between. */
		Words words = held->words[r];
		for (int i = 0; i < words.count; i++)
			words.at[i] = taken_again(k, words.at[i]);
		int count = unpack_words(k, &words, x);
		RowFacts facts = { .inverse = held->inverse[r], .length = held->length[r] };
		Val rest = store_int8(k, s, to, held->row[r], x, count, facts, scale);
		squares = val_fmax(k->b, squares, rest);
	}
	return squares;
}

void quantise_keys(Kernel *k, Place place)
{
	Builder *b = k->b;
	Share share = share_of(k, plan_int8_key_bytes(k->plan));
	Val zero = val_f32(b, 0), one = val_f32(b, 1), first = val_i32(b, 0), x[MAX_ELEMENTS];
	bool normalised = k->spec->normalize == NORMALIZE_L2;
	bool early = reads_early(k);
	Val first_piece = val_compare(b, IR_EQ, share.piece, first);
	/* Keys up to a whole group are made as well, of zeros: without row terms. */
	Val terms_end = kernel_i32(k, "round_up(k_len,%d)", PLAN_TERM_ROWS);
	Held next = hold_keys(k, &share, place, 0);
	progress_tell(k);
	for (int v = 0; v < k->spec->views; v++) {
		Val index = view_index(k, v, "kv_heads", place);
		Held held = early || v == 0 ? next : hold_keys(k, &share, place, v);
		Val largest = zero, norm = one;
		for (int r = 0; r < PLAN_HELD_KEYS; r++) {
			int count = unpack_words(k, &held.words[r], x);
			RowFacts facts = facts_of(k, &share, x, count);
			held.inverse[r] = facts.inverse;
			held.length[r] = facts.length;
			largest = val_fmax(b, largest, facts.largest);
			if (!normalised)
				norm = r == 0 ? facts.norm : val_fmax(b, norm, facts.norm);
			Val own = val_and(b, first_piece, val_compare(b, IR_LT, held.row[r], terms_end));
			for (If f = if_begin(b, own, NULL, 0); normalised && if_next(&f);)
				store_term(k, terms_of(k, view_name(k, "inv_k", v), place.batch_head, "k_len"), held.row[r], facts.inverse);
		}
		Scale scale = scale_of(k, block_max(k, largest));
		/* Found again, or what follows from it would be in registers all the while. */
		kernel_read_thread(k);
		share = share_of(k, plan_int8_key_bytes(k->plan));
		if (early && v + 1 < k->spec->views)
			next = hold_keys(k, &share, place, v + 1);
		Val squares = block_max(k, store_keys(k, &share, &held, int8_keys(k, index), scale));
		Val error = error_norm(k, squares);
		if (!normalised)
			norm = or_infinite(b, block_max(k, norm));
		for (If f = if_begin(b, val_compare(b, IR_EQ, k->thread, first), NULL, 0); if_next(&f);) {
			Val has_step = val_fcompare(b, IR_GT, scale.step, zero);
			Val inverse = val_select(b, has_step, val_fdiv(b, one, scale.step), one);
			error = or_infinite(b, error);
			store_bound(k, tile_bounds(k, index), TILE_BOUND_BYTES, place.block, inverse, error, norm);
		}
	}
}
