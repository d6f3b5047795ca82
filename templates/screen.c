/*
 * The screen: which pairs may survive. For int8 images q^ = sq qi, k^ = sk ki with errors eq and ek (2-norms), Cauchy-Schwarz gives
 *
 *     q.k <= sq sk (qi.ki) + eq |k| + (|q| + eq) ek
 *
 * so a pair can pass the row's threshold only where qi.ki is larger than one integer, made of the row's bound and the key tile's
 * (docs/screen.md). The largest product of each row settles most key tiles; only where one passes are single pairs looked at.
 *
 * An item of work: row blocks of one (view, batch, head), one for each four warps; int8 keys stream by. A warp that finds something
 * leaves masks of its keys and rows in shared memory; once in PLAN_WORD_MARKS key tiles the first of the four joins them and writes marks
 * (marks.h).
 */
#include "quantise.h"
#include "tile_parts.h"

/* What a warp leaves for a key tile: masks of the keys (64 bits) and of its own rows (16 bits), and padding. */
enum { SLOT_BYTES = 16, ROW_BOUND_BYTES = 16, PAIR_TILES = PLAN_BOUND_KEYS / PLAN_MARK };

typedef struct Screen {
	Kernel *k;
	Ring ring;
	Stream keys;
	Shared q;
	Val bounds;                        /* shared: those of the CTA's rows */
	Val row0, row_block;               /* i32: of the four warps */
	Val warp;                          /* i32: among the four */
	Span span;                         /* key tiles that the row block sees; none where it does not exist */
	Span tiles;                        /* of the ring: those that some row of the CTA sees */
	Val kv_index, index;               /* view * batch * (kv_heads, heads) + ..., the keys' and the rows' */
	Axis limit, slope, offset;         /* the bounds of this lane's rows */
	Val slots, found;                  /* shared: masks, [2][tiles of a word][4 warps]; found tiles, [2][4 warps] */
	Val hits;                          /* i32, carried: key tiles of the word at hand in which this warp found something */
	Val count;                         /* i32, carried in the first warp: marks so far */
} Screen;

/* The four warps' row block; the view counts as a further batch. */
static Place find_place(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Place place = kernel_place(k, "heads", "q_len", k->launch->rows);
	Val group = val_div_i32(b, k->warp, PLAN_GROUP_WARPS);
	s->warp = val_rem_i32(b, k->warp, PLAN_GROUP_WARPS);
	s->row0 = val_add(b, place.row0, val_mul_i32(b, group, PLAN_MARK));
	s->row_block = val_div_i32(b, s->row0, PLAN_MARK);
	s->index = place.batch_head;
	s->kv_index = batch_head(k, "kv_heads", place.batch, key_head(k, place.head));
	s->tiles = key_tiles(k, place.row0, k->launch->rows, k->launch->cols);
	s->span = key_tiles(k, s->row0, PLAN_MARK, PLAN_MARK);
	Val exists = val_compare(b, IR_LT, s->row0, kernel_i32(k, "q_len"));
	s->span.end = val_select(b, exists, s->span.end, val_i32(b, 0));
	return place;
}

static void new_slots(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int groups = k->launch->warps / PLAN_GROUP_WARPS;
	int slot_bytes = 2 * PLAN_WORD_MARKS * PLAN_GROUP_WARPS * SLOT_BYTES, found_bytes = 2 * PLAN_GROUP_WARPS * 4;
	Val group = val_div_i32(b, k->warp, PLAN_GROUP_WARPS);
	Val slots = val_mul_i32(b, group, slot_bytes);
	s->slots = val_offset(b, val_offset_const(b, k->shared, k->shared_bytes), slots);
	k->shared_bytes += groups * slot_bytes;
	Val found = val_mul_i32(b, group, found_bytes);
	s->found = val_offset(b, val_offset_const(b, k->shared, k->shared_bytes), found);
	k->shared_bytes += groups * found_bytes;
}

/* Bounds of the CTA's rows; beyond the last block of rows, which is no one's, they are the last block's. */
static void copy_row_bounds(Screen *s, Val row0)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val bounds = row_bounds(k, s->index);
	Val last = kernel_i32(k, "round_up(q_len,%d)-%d", PLAN_TERM_ROWS, PLAN_TERM_ROWS);
	for (int r = 0; r < k->launch->rows; r += PLAN_TERM_ROWS) {
		Val first = val_min(b, val_add_i32(b, row0, r), last);
		Val from = val_offset(b, bounds, val_mul(b, val_to_i64(b, first), val_i64(b, ROW_BOUND_BYTES)));
		shared_copy_terms(k, val_offset_const(b, s->bounds, r * ROW_BOUND_BYTES), from, PLAN_TERM_ROWS * ROW_BOUND_BYTES / 4);
	}
}

static void load_row_bounds(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	s->limit = axis_new(k, ALONG_ROWS, PLAN_MARK);
	s->slope = axis_new(k, ALONG_ROWS, PLAN_MARK);
	s->offset = axis_new(k, ALONG_ROWS, PLAN_MARK);
	Axis row = axis_index(k, ALONG_ROWS, PLAN_MARK, val_mul_i32(b, k->warp, PLAN_WARP_ROWS));
	for (int r = 0; r < row.count; r++) {
		Val at = val_offset(b, s->bounds, val_mul_i32(b, axis_at(row, r), ROW_BOUND_BYTES));
		Val pair = val_load(b, at, IR_V2F32);
		s->limit.at[r] = val_vector_get(b, pair, 0, IR_F32);
		s->slope.at[r] = val_vector_get(b, pair, 1, IR_F32);
		s->offset.at[r] = val_load(b, val_offset_const(b, at, 8), IR_F32);
	}
}

/* The bound of a pair of key tiles: 1/sk, the largest ek, and the largest |k|; it came with the keys. */
typedef struct TileBound { Val inverse, error, norm; } TileBound;

static TileBound read_tile_bound(Kernel *k, RingTile keys, int pair_number)
{
	Builder *b = k->b;
	Val at = val_offset_const(b, keys.terms[0], pair_number * TILE_BOUND_FLOATS * 4);
	Val pair = val_load(b, at, IR_V2F32);
	TileBound bound;
	bound.inverse = val_vector_get(b, pair, 0, IR_F32);
	bound.error = val_vector_get(b, pair, 1, IR_F32);
	bound.norm = k->spec->normalize == NORMALIZE_NONE ? val_load(b, val_offset_const(b, at, 8), IR_F32) : bound.error;
	return bound;
}

/* For each of the lane's rows, as float32: no product up to there can be a survivor's. */
static void thresholds(Screen *s, TileBound tile, Val at[2])
{
	Builder *b = s->k->b;
	for (int r = 0; r < 2; r++) {
		Val room = val_fma(b, val_fneg(b, s->slope.at[r]), tile.error, s->limit.at[r]);
		if (s->k->spec->normalize == NORMALIZE_NONE)
			room = val_fma(b, val_fneg(b, s->offset.at[r]), tile.norm, room);
		at[r] = val_fmul(b, room, tile.inverse);
	}
}

static Val is_above(Builder *b, Val product, Val threshold)
{
	return val_fcompare(b, IR_GT, val_i32_to_f32(b, product), threshold);
}

/* The largest product of each of the lane's rows; in threes, which is one instruction, and as a tree, so that few wait for others. */
static void largest_products(Kernel *k, Tile products, Val largest[2])
{
	for (int r = 0; r < 2; r++) {
		Val level[PLAN_MARK / 4] = { { NULL } };
		int count = 0;
		for (int e = 0; e < tile_count(products); e++)
			if (e % 4 / 2 == r)
				level[count++] = products.e[e];
		while (count > 1) {
			int next = 0;
			for (int i = 0; i < count; i += 3) {
				Val x = level[i];
				for (int n = 1; n < 3 && i + n < count; n++)
					x = val_max(k->b, x, level[i + n]);
				level[next++] = x;
			}
			count = next;
		}
		largest[r] = level[0];
	}
}

/* The products of one key tile, and for each of the lane's two rows: up to where no product can be a survivor's, and does any
 * pass? Hidden ones count there, too. */
typedef struct Part {
	Tile products;
	Val threshold[2], passes[2];
} Part;

/* Bit e: element e is above its row's threshold and visible. Most often one row of the warp passes, so rows are asked first. */
static Val passing(Screen *s, const Part *part, Axis row, Val key0)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val zero = val_i32(b, 0), bits = zero;
	Val *changed[] = { &bits };
	for (int r = 0; r < 2; r++)
		for (If f = if_begin(b, warp_any(k, part->passes[r]), changed, 1); if_next(&f);) {
			Val above = val_floor_i32(b, part->threshold[r]);
			for (int e = 2 * r; e < tile_count(part->products); e += e % 2 ? 3 : 1) {
				Val pass = val_compare(b, IR_GT, part->products.e[e], above);
				bits = val_or(b, bits, val_select(b, pass, val_i32(b, (int32_t)(1u << e)), zero));
			}
		}
	Axis key = axis_index(k, ALONG_COLS, PLAN_MARK, key0);
	Range keys = block_range(k, key0, PLAN_MARK);
	Val has_hidden = tile_has_hidden(k, block_range(k, s->row0, PLAN_MARK), keys, true);
	return val_and(b, bits, visible_bits(k, part->products, row, key, has_hidden, true));
}

static Val bit_if_any(Builder *b, Val bits, uint32_t mask, Val position)
{
	Val zero = val_i32(b, 0);
	Val some = val_compare(b, IR_NE, val_and(b, bits, val_i32(b, (int32_t)mask)), zero);
	return val_select(b, some, val_shl(b, val_i32(b, 1), position), zero);
}

/* Masks of what passes in this warp's rows; notes the tile in `hits` where anything does. */
static void leave_masks(Screen *s, const Part *part, Axis row, Val tile)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val bits = passing(s, part, row, val_mul_i32(b, tile, PLAN_MARK));
	Val low = warp_or(k, column_bits(k, bits));
	Val high = warp_or(k, column_bits(k, val_shr(b, bits, val_i32(b, 16))));
	Val upper = val_div_i32(b, k->lane, 4), lower = val_add_i32(b, upper, 8);
	Val rows = bit_if_any(b, bits, 0x33333333, upper);
	rows = warp_or(k, val_or(b, rows, bit_if_any(b, bits, 0xcccccccc, lower)));
	Val in_word = val_rem_i32(b, tile, PLAN_WORD_MARKS);
	Val buffer = val_rem_i32(b, val_div_i32(b, tile, PLAN_WORD_MARKS), 2);
	Val slot = val_add(b, val_mul_i32(b, buffer, PLAN_WORD_MARKS), in_word);
	slot = val_add(b, val_mul_i32(b, slot, PLAN_GROUP_WARPS), s->warp);
	Val at = val_offset(b, s->slots, val_mul_i32(b, slot, SLOT_BYTES));
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, val_i32(b, 0)), NULL, 0); if_next(&f);) {
		val_store(b, at, val_vector_pair(b, low, high, IR_V2I32));
		val_store(b, val_offset_const(b, at, 8), rows);
	}
	Val zero = val_i32(b, 0);
	Val some = val_compare(b, IR_NE, rows, zero);
	s->hits = val_or(b, s->hits, val_select(b, some, val_shl(b, val_i32(b, 1), in_word), zero));
}

/* The first warp's lane l joins what the four left for the word's key tile l. */
static void join_slots(Screen *s, Val buffer, Val *keys, Val *rows)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val slot = val_add(b, val_mul_i32(b, buffer, PLAN_WORD_MARKS), k->lane);
	Val from = val_offset(b, s->slots, val_mul_i32(b, slot, PLAN_GROUP_WARPS * SLOT_BYTES));
	Val found = val_offset(b, s->found, val_mul_i32(b, buffer, PLAN_GROUP_WARPS * 4));
	Val own = val_shl(b, val_i32(b, 1), k->lane), zero = val_i64(b, 0);
	*keys = *rows = zero;
	for (int w = 0; w < PLAN_GROUP_WARPS; w++) {
		Val bits = val_load(b, val_offset_const(b, found, 4 * w), IR_I32);
		Val marked = val_compare(b, IR_NE, val_and(b, bits, own), val_i32(b, 0));
		Val *changed[] = { keys, rows };
		for (If f = if_begin(b, marked, changed, 2); if_next(&f);) {
			Val mask = val_load(b, val_offset_const(b, from, w * SLOT_BYTES), IR_I64);
			Val mask_rows = val_load(b, val_offset_const(b, from, w * SLOT_BYTES + 8), IR_I32);
			Val wide = val_join_i32(b, mask_rows, val_i32(b, 0));
			*keys = val_or(b, *keys, mask);
			*rows = val_or(b, *rows, val_shl(b, wide, val_i64(b, w * PLAN_WARP_ROWS)));
		}
	}
}

/* The first warp's lane l has the masks of the word's key tile l, or none: writes marks and word. */
static void store_marks(Screen *s, Val word, Val keys, Val rows)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val first_lane = val_compare(b, IR_EQ, k->lane, val_i32(b, 0));
	Val marked = val_compare(b, IR_NE, keys, val_i64(b, 0));
	Val bits = warp_ballot(k, marked);
	Val below = val_add_i32(b, val_shl(b, val_i32(b, 1), k->lane), -1);
	Val number = val_add(b, s->count, val_popc(b, val_and(b, bits, below)));
	Marks marks = marks_of(k, s->index);
	Val kept = val_and(b, marked, val_compare(b, IR_LT, number, marks.room));
	if (k->plan->options.defect == DEFECT_DROP_MARK)
		keys = val_and(b, keys, val_add(b, keys, val_i64(b, -1)));
	for (If m = if_begin(b, kept, NULL, 0); if_next(&m);) {
		Val at = mark_at(k, &marks, s->row_block, number);
		val_store(b, at, keys);
		val_store(b, val_offset_const(b, at, 8), rows);
	}
	for (If m = if_begin(b, first_lane, NULL, 0); if_next(&m);) {
		Val at = marks_words_at(k, &marks, s->row_block);
		at = val_offset(b, at, val_mul_i32(b, word, WORD_BYTES));
		val_store(b, at, val_vector_pair(b, bits, s->count, IR_V2I32));
	}
	s->count = val_add(b, s->count, val_popc(b, bits));
}

/* The word at hand is complete: the first warp writes it and its marks. */
static void write_word(Screen *s, Val tile)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val word = val_div_i32(b, tile, PLAN_WORD_MARKS), buffer = val_rem_i32(b, word, 2);
	Val zero = val_i32(b, 0), first_lane = val_compare(b, IR_EQ, k->lane, zero);
	Val own = val_add(b, val_mul_i32(b, buffer, PLAN_GROUP_WARPS), s->warp);
	for (If f = if_begin(b, first_lane, NULL, 0); if_next(&f);)
		val_store(b, val_offset(b, s->found, val_mul_i32(b, own, 4)), s->hits);
	kernel_group_barrier(k);
	Val *changed[] = { &s->count };
	for (If f = if_begin(b, val_compare(b, IR_EQ, s->warp, zero), changed, 1); if_next(&f);) {
		Val keys, rows;
		join_slots(s, buffer, &keys, &rows);
		/* Where they go is derived anew, as it would take registers all the while. */
		Kernel outside = *k;
		Screen anew = *s;
		kernel_after_loop(k);
		find_place(&anew);
		store_marks(&anew, word, keys, rows);
		s->count = anew.count;
		kernel_as_before(k, &outside);
	}
	s->hits = zero;
}

/* A pair of key tiles from `first` on, whose images share a scale: most have nothing that passes, in either. */
static void screen_pair(Screen *s, Tile products, TileBound bound, Axis row, Val first)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Part part[PAIR_TILES];
	Val largest[PAIR_TILES][2], threshold[2], any = { NULL };
	thresholds(s, bound, threshold);
	for (int t = 0; t < PAIR_TILES; t++) {
		part[t].products = (Tile){ PLAN_MARK, products.e + t * PLAN_MARK / 2 };
		largest_products(k, part[t].products, largest[t]);
	}
	for (int r = 0; r < 2; r++) {
		Val of_both = val_max(b, largest[0][r], largest[1][r]);
		Val passes = is_above(b, of_both, threshold[r]);
		any = r == 0 ? passes : val_or(b, any, passes);
	}
	Val *changed[] = { &s->hits };
	for (If f = if_begin(b, warp_any(k, any), changed, 1); if_next(&f);)
		for (int t = 0; t < PAIR_TILES; t++) {
			for (int r = 0; r < 2; r++) {
				part[t].threshold[r] = threshold[r];
				part[t].passes[r] = is_above(b, largest[t][r], threshold[r]);
			}
			Val own = warp_any(k, val_or(b, part[t].passes[0], part[t].passes[1]));
			for (If p = if_begin(b, own, changed, 1); if_next(&p);)
				leave_masks(s, &part[t], row, val_add_i32(b, first, t));
		}
}

/* Does the row block see any of the key tiles [first, first + count)? */
static Val sees(Screen *s, Val first, int count)
{
	Builder *b = s->k->b;
	Val seen = val_compare(b, IR_LT, first, s->span.end);
	if (s->k->spec->window == 0)
		return seen;
	Val past = val_add_i32(b, first, count);
	return val_and(b, seen, val_compare(b, IR_GT, past, s->span.first));
}

/* The key tiles of one tile of the ring, from `first`. */
static void screen_round(Screen *s, Int8Rows rows, RingTile keys, Axis row, Val first)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int tiles = k->launch->cols / PLAN_MARK;
	Val *changed[] = { &s->hits, &s->count };
	for (int t = 0; t < tiles; t += PAIR_TILES) {
		Val tile = val_add_i32(b, first, t);
		for (If f = if_begin(b, sees(s, tile, PAIR_TILES), changed, 1); if_next(&f);) {
			TileBound bound = read_tile_bound(k, keys, t / PAIR_TILES);
			Tile products = mma_int8(k, rows, shared_rows(k, keys.data, t * PLAN_MARK, PLAN_BOUND_KEYS));
			screen_pair(s, products, bound, row, tile);
		}
	}
	Val last = val_add_i32(b, first, tiles - 1);
	Val word_ends = val_compare(b, IR_EQ, val_rem_i32(b, last, PLAN_WORD_MARKS), val_i32(b, PLAN_WORD_MARKS - 1));
	word_ends = val_or(b, word_ends, val_compare(b, IR_GE, last, val_add_i32(b, s->span.end, -1)));
	for (If f = if_begin(b, word_ends, changed, 2); if_next(&f);)
		write_word(s, first);
}

/* The item at hand: queries and their bounds to shared memory, and the keys that they see. */
static RingTiles begin_item(void *owner)
{
	Screen *s = owner;
	Kernel *k = s->k;
	Place place = find_place(s);
	shared_copy(k, s->q, int8_queries(k, s->index), place.row0);
	copy_row_bounds(s, place.row0);
	s->keys.matrix = int8_keys(k, s->kv_index);
	s->keys.terms[0] = tile_bounds(k, s->kv_index);
	return (RingTiles){ s->tiles.first, s->tiles.end };
}

static void screen_item(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Ring *ring = &s->ring;
	int tiles = k->launch->cols / PLAN_MARK;
	Int8Rows rows = int8_rows(k, s->q);
	load_row_bounds(s);
	if (rows.registers)
		ring_residents_done(ring);
	Axis row = axis_index(k, ALONG_ROWS, PLAN_MARK, val_add(b, s->row0, val_mul_i32(b, s->warp, PLAN_WARP_ROWS)));
	s->hits = s->count = val_i32(b, 0);
	/* Slots of masks are taken in turn, anew for each item: those of the one before have been read. */
	if (k->launch->persistent)
		kernel_group_barrier(k);
	Val *carry[] = { &s->hits, &s->count };
	for (ring_walk(ring, s->tiles.first, s->tiles.end, (Val){ NULL }, carry, 2); ring_round(ring);) {
		RingTile keys = ring_next(ring);
		Val first = val_mul_i32(b, ring->read_tile, tiles);
		/* Of tiles that only other row blocks of the CTA see there is nothing to do. */
		for (If f = if_begin(b, sees(s, first, tiles), carry, 2); if_next(&f);)
			screen_round(s, rows, keys, row, first);
	}
	if (!rows.registers)
		ring_residents_done(ring);
}

bool build_screen(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	Screen s = { .k = k };
	int row = plan_int8_bytes(spec) / dtype_size(spec->dtype);
	s.q = shared_new(k, launch->rows, row);
	s.keys = (Stream){ .matrix = { .cols = row }, .tile_bytes = plan->int8_tiles ? plan_int8_tile_bytes(spec) : 0,
		.term_count = 1, .terms_a_tile = launch->cols / PLAN_BOUND_KEYS * TILE_BOUND_FLOATS };
	s.ring = ring_new(k, &s.keys, 1, launch->cols, launch->slots, 0);
	k->shared_bytes = (k->shared_bytes + CHUNK - 1) / CHUNK * CHUNK;
	s.bounds = val_offset_const(b, k->shared, k->shared_bytes);
	k->shared_bytes += launch->rows * ROW_BOUND_BYTES;
	new_slots(&s);
	RingItems work = { .begin = begin_item, .owner = &s };
	if (launch->persistent) {
		work.counter = kernel_pointer(k, "buffer.screened");
		work.count = kernel_i32(k, "%d*batch*heads*ceil_div(q_len,%d)", spec->views, launch->rows);
	}
	for (ring_items(&s.ring, &work); ring_item(&s.ring);)
		screen_item(&s);
	return kernel_end(k);
}
