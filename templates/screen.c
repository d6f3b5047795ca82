/*
 * The screen: which pairs may survive. For int8 images q^ = sq qi, k^ = sk ki with errors eq and ek (2-norms), Cauchy-Schwarz gives
 *
 *     q.k <= sq sk (qi.ki) + eq |k| + (|q| + eq) ek
 *
 * so a pair can pass the row's threshold only where qi.ki is larger than one integer, made of the row's bound and the key tile's
 * (docs/screen.md). The largest product of each row settles most key tiles; only where one passes are single pairs looked at.
 *
 * An item of work: row blocks of one (view, batch, head), one for each four warps; int8 keys stream by. A warp that finds something
 * leaves masks of its keys and rows in shared memory. When all are through with a tile of the ring, the warp that fetches joins what four
 * warps left, and writes marks and words (marks.h).
 */
#include "counts.h"
#include "progress.h"
#include "quantise.h"
#include "tile_parts.h"

enum {
	PAIR_TILES = PLAN_BOUND_KEYS / PLAN_MARK,
	/* What a warp leaves for a key tile: masks of the keys (64 bits) and of its own rows (16 bits), and padding. */
	MASK_BYTES = 16,
	/* Of four warps, from one round to the next: the bits of the word at hand, and how many marks there are so far. */
	STATE_BYTES = 8,
	/* Half of an H100's L2, which is in two parts. */
	CACHED_BYTES = 24 << 20,
	/* Heads of which the long items come first, at least, however few there are. */
	LAST_HEADS = 8,
	/* Of the rows of a tile that a lane has; padding keeps lanes of other rows in other banks. */
	TILE_ROWS = 2, THRESHOLD_BYTES = TILE_ROWS * 4, ROW_PADDING = 8,
};

typedef struct Screen {
	Kernel *k;
	Ring ring;
	Stream keys;
	Shared q;
	Val bounds;                        /* shared: those of the CTA's rows */
	Val row0;                          /* i32: of the four warps */
	Val warp;                          /* i32: among the four */
	Span span;                         /* key tiles that the row block sees; none where it does not exist */
	Span tiles;                        /* of the ring: those that some row of the CTA sees */
	Val kv_index, index;               /* view * batch * (kv_heads, heads) + ..., the keys' and the rows' */
	Val own_rows;                      /* shared: for each two rows of a warp, in turn: */
	Val rows;                          /* of this lane's two their bounds, then for each pair of the round their thresholds */
	Val masks;                         /* shared: [buffers of the ring][key tiles of a round][warps] */
	Val found;                         /* shared i32: a bit for each key tile of a round that has a mask, [buffers][warps] */
	Val states;                        /* shared: of each four warps */
	Val known;                         /* shared: progress_wait's */
} Screen;

/*
 * Of a persistent launch the item that comes so-and-so-many-th, numbered as CTAs are. Heads come in the order in which their terms are
 * made, all views of one together. Items of a head become shorter under a causal mask; of the last quarter of the heads, as many as the
 * L2 cache has room for the keys of, all that are as long follow each other, so that the last items of all are short.
 */
static Val item_at_turn(Kernel *k, Val turn)
{
	Builder *b = k->b;
	int views = k->spec->views;
	const char *last = arena_printf(b->arena, "min(batch*heads,max(%d,ceil_div(batch*heads,4)))", LAST_HEADS);
	const char *cached = arena_printf(b->arena, "max(1,min(%s,%d/(%d*(k_len+1))))", last, CACHED_BYTES,
	                                  views * plan_int8_key_bytes(k->plan));
	Val heads = kernel_i32(k, "batch*heads"), blocks = kernel_i32(k, "ceil_div(q_len,%d)", k->launch->rows);
	Val last_head = kernel_i32(k, "batch*heads-%s", last);
	Val last_turn = val_mul(b, last_head, val_mul_i32(b, blocks, views));
	Val is_last = val_compare(b, IR_GE, turn, last_turn), zero = val_i32(b, 0);
	Val most = val_select(b, is_last, kernel_i32(k, "%s", cached), val_i32(b, 1));
	Val turn_before = val_select(b, is_last, last_turn, zero), head_before = val_select(b, is_last, last_head, zero);
	Val together = val_mul(b, most, val_mul_i32(b, blocks, views)), after = val_sub(b, turn, turn_before);
	Val first_head = val_add(b, head_before, val_mul(b, val_div(b, after, together), most));
	Val within = val_rem(b, after, together);
	Val count = val_mul_i32(b, val_min(b, most, val_sub(b, heads, first_head)), views);
	Val one = val_rem(b, within, count), block = val_div(b, within, count);
	Val head = val_add(b, first_head, val_div_i32(b, one, views));
	Val view_head = val_add(b, val_mul(b, val_rem_i32(b, one, views), heads), head);
	return val_add(b, val_mul(b, view_head, blocks), block);
}

/* The view counts as a further batch. */
static Place find_place(Screen *s)
{
	Kernel *k = s->k;
	if (k->launch->persistent)
		k->cta = item_at_turn(k, k->cta);
	Place place = kernel_place(k, "heads", "q_len", k->launch->rows);
	s->index = place.batch_head;
	s->kv_index = batch_head(k, "kv_heads", place.batch, key_head(k, place.head));
	return place;
}

static int row_bytes(const Kernel *k)
{
	return TILE_ROWS * plan_row_bound_bytes(k->spec) + k->launch->cols / PLAN_BOUND_KEYS * THRESHOLD_BYTES + ROW_PADDING;
}

/* The four warps' row block, of those from row0 on, and the thread's rows. */
static void find_rows(Screen *s, Val row0)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val group = val_div_i32(b, k->warp, PLAN_GROUP_WARPS);
	s->warp = val_rem_i32(b, k->warp, PLAN_GROUP_WARPS);
	s->row0 = val_add(b, row0, val_mul_i32(b, group, PLAN_MARK));
	s->tiles = key_tiles(k, row0, k->launch->rows, k->launch->cols);
	s->span = key_tiles(k, s->row0, PLAN_MARK, PLAN_MARK);
	Val exists = val_compare(b, IR_LT, s->row0, kernel_i32(k, "q_len"));
	s->span.end = val_select(b, exists, s->span.end, val_i32(b, 0));
	s->rows = val_offset(b, s->own_rows, val_mul_i32(b, val_div_i32(b, k->thread, QUAD), row_bytes(k)));
}

static Val new_memory(Kernel *k, int bytes)
{
	Val at = val_offset_const(k->b, k->shared, k->shared_bytes);
	k->shared_bytes += (bytes + CHUNK - 1) / CHUNK * CHUNK;
	return at;
}

/* What was found is 0, and so are the states, and what is known. */
static void new_shared(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int warps = k->launch->warps, tiles = k->launch->cols / PLAN_MARK, buffers = ring_buffers(&s->ring);
	int found = buffers * warps, states = warps / PLAN_GROUP_WARPS * STATE_BYTES / 4, known = PROGRESS_KNOWN_BYTES / 4;
	s->bounds = new_memory(k, k->launch->rows * plan_row_bound_bytes(k->spec));
	s->own_rows = new_memory(k, warps * WARP / QUAD * row_bytes(k));
	s->masks = new_memory(k, buffers * tiles * warps * MASK_BYTES);
	s->found = new_memory(k, (found + states + known) * 4);
	s->states = val_offset_const(b, s->found, found * 4);
	s->known = val_offset_const(b, s->states, states * 4);
	for (If f = if_begin(b, val_compare(b, IR_LT, k->thread, val_i32(b, found + states + known)), NULL, 0); if_next(&f);)
		val_store(b, val_offset(b, s->found, val_mul_i32(b, k->thread, 4)), val_i32(b, 0));
}

/* Bounds of the CTA's rows; beyond the last block of rows, which is no one's, they are the last block's. */
static void copy_row_bounds(Screen *s, Val row0)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int bytes = plan_row_bound_bytes(k->spec);
	Val bounds = row_bounds(k, s->index);
	Val last = kernel_i32(k, "round_up(q_len,%d)-%d", PLAN_TERM_ROWS, PLAN_TERM_ROWS);
	for (int r = 0; r < k->launch->rows; r += PLAN_TERM_ROWS) {
		Val first = val_min(b, val_add_i32(b, row0, r), last);
		Val from = val_offset(b, bounds, val_mul(b, val_to_i64(b, first), val_i64(b, bytes)));
		shared_copy_terms(k, val_offset_const(b, s->bounds, r * bytes), from, PLAN_TERM_ROWS * bytes / 4);
	}
}

/* The CTA's bounds give way to the next item's. */
static void keep_row_bounds(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int bytes = plan_row_bound_bytes(k->spec);
	Axis row = axis_index(k, ALONG_ROWS, PLAN_MARK, val_mul_i32(b, k->warp, PLAN_WARP_ROWS));
	Val first = val_compare(b, IR_EQ, val_rem_i32(b, k->lane, QUAD), val_i32(b, 0));
	for (If f = if_begin(b, first, NULL, 0); if_next(&f);)
		for (int r = 0; r < TILE_ROWS; r++) {
			Val from = val_offset(b, s->bounds, val_mul_i32(b, axis_at(row, r), bytes));
			for (int half = 0; half < bytes; half += 8) {
				Val to = val_offset_const(b, s->rows, r * bytes + half);
				val_store(b, to, val_load(b, val_offset_const(b, from, half), IR_V2F32));
			}
		}
	warp_sync(k);
}

/* Of a row: what its scores may reach, less the bound's slope by the key tile's error, and by its largest |k|. */
typedef struct RowBound { Val limit, slope, offset; } RowBound;

static RowBound read_row_bound(Screen *s, int row)
{
	Builder *b = s->k->b;
	Val at = val_offset_const(b, s->rows, row * plan_row_bound_bytes(s->k->spec));
	Val pair = val_load(b, at, IR_V2F32);
	RowBound bound = { val_vector_get(b, pair, 0, IR_F32), val_vector_get(b, pair, 1, IR_F32), { NULL } };
	if (s->k->spec->normalize == NORMALIZE_NONE)
		bound.offset = val_load(b, val_offset_const(b, at, 8), IR_F32);
	return bound;
}

/* The bound of a pair of key tiles: 1/sk, the largest ek, and the largest |k|; it came with the keys. */
typedef struct TileBound { Val inverse, error, norm; } TileBound;

static TileBound read_tile_bound(Kernel *k, RingTile keys, Val pair_number)
{
	Builder *b = k->b;
	Val at = val_offset(b, keys.terms[0], val_mul_i32(b, pair_number, TILE_BOUND_FLOATS * 4));
	Val pair = val_load(b, at, IR_V2F32);
	TileBound bound;
	bound.inverse = val_vector_get(b, pair, 0, IR_F32);
	bound.error = val_vector_get(b, pair, 1, IR_F32);
	bound.norm = k->spec->normalize == NORMALIZE_NONE ? val_load(b, val_offset_const(b, at, 8), IR_F32) : bound.error;
	return bound;
}

/* Of a row, an integer: no product with a key of the tiles up to there can be a survivor's. What is beyond all integers becomes the
 * outermost one, which says the same, and NaN 0, which no bound is. */
static Val product_bound(Kernel *k, RowBound row, TileBound tile)
{
	Builder *b = k->b;
	Val room = val_fma(b, val_fneg(b, row.slope), tile.error, row.limit);
	if (k->spec->normalize == NORMALIZE_NONE)
		room = val_fma(b, val_fneg(b, row.offset), tile.norm, room);
	return val_floor_i32(b, val_fmul(b, room, tile.inverse));
}

/* The largest product of each of the lane's rows; in threes, which is one instruction, and as a tree, so that few wait for others. */
static void largest_products(Kernel *k, Tile products, Val largest[TILE_ROWS])
{
	for (int r = 0; r < TILE_ROWS; r++) {
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
	Val threshold[TILE_ROWS], passes[TILE_ROWS];
} Part;

/* Bit e: element e is above its row's threshold and visible. Most often one row of the warp passes, so rows are asked first. */
static Val passing(Screen *s, const Part *part, Axis row, Val key0)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val zero = val_i32(b, 0), bits = zero;
	Val *changed[] = { &bits };
	for (int r = 0; r < TILE_ROWS; r++)
		for (If f = if_begin(b, warp_any(k, part->passes[r]), changed, 1); if_next(&f);) {
			for (int e = 2 * r; e < tile_count(part->products); e += e % 2 ? 3 : 1) {
				Val pass = val_compare(b, IR_GT, part->products.e[e], part->threshold[r]);
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

static Val found_at(Screen *s, Val buffer, Val warp)
{
	Builder *b = s->k->b;
	Val number = val_add(b, val_mul_i32(b, buffer, s->k->launch->warps), warp);
	return val_offset(b, s->found, val_mul_i32(b, number, 4));
}

/* tile: of a round. */
static Val mask_at(Screen *s, Val buffer, Val tile, Val warp)
{
	Builder *b = s->k->b;
	Val number = val_add(b, val_mul_i32(b, buffer, s->k->launch->cols / PLAN_MARK), tile);
	number = val_add(b, val_mul_i32(b, number, s->k->launch->warps), warp);
	return val_offset(b, s->masks, val_mul_i32(b, number, MASK_BYTES));
}

/* Masks of what passes in this warp's rows; notes the tile in `found` where anything does. */
static void leave_masks(Screen *s, const Part *part, Axis row, Val tile)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val bits = passing(s, part, row, val_mul_i32(b, tile, PLAN_MARK)), zero = val_i32(b, 0);
	Val low = warp_or(k, column_bits(k, bits));
	Val high = warp_or(k, column_bits(k, val_shr(b, bits, val_i32(b, 16))));
	Val upper = val_div_i32(b, k->lane, 4), lower = val_add_i32(b, upper, 8);
	Val rows = bit_if_any(b, bits, 0x33333333, upper);
	rows = warp_or(k, val_or(b, rows, bit_if_any(b, bits, 0xcccccccc, lower)));
	Val buffer = ring_buffer(&s->ring), in_round = val_rem_i32(b, tile, k->launch->cols / PLAN_MARK);
	Val some = val_compare(b, IR_NE, rows, zero), leads = val_compare(b, IR_EQ, k->lane, zero);
	for (If f = if_begin(b, val_and(b, some, leads), NULL, 0); if_next(&f);) {
		Val at = mask_at(s, buffer, in_round, k->warp), own = val_shl(b, val_i32(b, 1), in_round);
		val_store(b, at, val_vector_pair(b, low, high, IR_V2I32));
		val_store(b, val_offset_const(b, at, 8), rows);
		Val found = found_at(s, buffer, k->warp), before = val_load(b, found, IR_I32);
		val_store(b, found, val_or(b, before, own));
	}
}

/* What four warps left for a key tile of the round, joined: keys and rows (i64), 0 where they found nothing. */
static void join_masks(Screen *s, Val buffer, Val tile, Val first_warp, Val *keys, Val *rows)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val found = found_at(s, buffer, first_warp), masks = mask_at(s, buffer, tile, first_warp);
	Val own = val_shl(b, val_i32(b, 1), tile), zero = val_i64(b, 0);
	*keys = *rows = zero;
	for (int w = 0; w < PLAN_GROUP_WARPS; w++) {
		Val bits = val_load(b, val_offset_const(b, found, 4 * w), IR_I32);
		Val marked = val_compare(b, IR_NE, val_and(b, bits, own), val_i32(b, 0));
		Val *changed[] = { keys, rows };
		for (If f = if_begin(b, marked, changed, 2); if_next(&f);) {
			Val mask = val_load(b, val_offset_const(b, masks, w * MASK_BYTES), IR_I64);
			Val mask_rows = val_load(b, val_offset_const(b, masks, w * MASK_BYTES + 8), IR_I32);
			Val wide = val_join_i32(b, mask_rows, val_i32(b, 0));
			*keys = val_or(b, *keys, mask);
			*rows = val_or(b, *rows, val_shl(b, wide, val_i64(b, w * PLAN_WARP_ROWS)));
		}
	}
}

/* A lane of the warp that writes marks, for a key tile of the round and four warps' row block. */
typedef struct Writer {
	Val index, row_block;
	Val tile, group;
	Val exists;                        /* i1: is there such a row block, and does the lane have one? */
	Val keys, rows;
	Val below, all;                    /* i32: how many tiles of the row block are marked, before this one and in all */
	Val marked;                        /* i32: and which */
} Writer;

static Writer find_writer(Screen *s, const RingDone *round)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int tiles = k->launch->cols / PLAN_MARK, groups = k->launch->warps / PLAN_GROUP_WARPS;
	Writer w = { .index = round->note[0] };
	w.tile = val_rem_i32(b, k->lane, tiles);
	w.group = val_min(b, val_div_i32(b, k->lane, tiles), val_i32(b, groups - 1));
	w.row_block = val_add(b, round->note[1], w.group);
	Val row0 = val_mul_i32(b, w.row_block, PLAN_MARK), has_rows = val_compare(b, IR_LT, row0, kernel_i32(k, "q_len"));
	w.exists = val_and(b, has_rows, val_compare(b, IR_LT, k->lane, val_i32(b, groups * tiles)));
	join_masks(s, round->buffer, w.tile, val_mul_i32(b, w.group, PLAN_GROUP_WARPS), &w.keys, &w.rows);
	Val bits = warp_ballot(k, val_and(b, w.exists, val_compare(b, IR_NE, w.keys, val_i64(b, 0))));
	Val mine = val_shr(b, bits, val_mul_i32(b, w.group, tiles));
	w.marked = val_and(b, mine, val_i32(b, (1 << tiles) - 1));
	Val before = val_add_i32(b, val_shl(b, val_i32(b, 1), w.tile), -1);
	w.below = val_popc(b, val_and(b, w.marked, before));
	w.all = val_popc(b, w.marked);
	return w;
}

static void write_mark(Screen *s, const Writer *w, const Marks *marks, Val number)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val keys = w->keys, own = val_shl(b, val_i32(b, 1), w->tile);
	if (k->plan->options.defect == DEFECT_DROP_MARK)
		keys = val_and(b, keys, val_add(b, keys, val_i64(b, -1)));
	Val is_marked = val_compare(b, IR_NE, val_and(b, w->marked, own), val_i32(b, 0));
	Val has_room = val_compare(b, IR_LT, number, marks->room);
	for (If f = if_begin(b, val_and(b, w->exists, is_marked), NULL, 0); if_next(&f);) {
		add_row_keys(k, w->index, w->row_block, val_select(b, has_room, count_bits(k, keys), val_i32(b, PLAN_MARK)));
		for (If r = if_begin(b, has_room, NULL, 0); if_next(&r);) {
			Val at = mark_at(k, marks, w->row_block, number), none = val_i64(b, 0);
			val_store(b, at, keys);
			val_store(b, val_offset_const(b, at, 8), w->rows);
			if (val_is_null(marks->refined))
				continue;
			Marks refined = refined_marks(marks);
			at = mark_at(k, &refined, w->row_block, number);
			val_store(b, at, none);
			val_store(b, val_offset_const(b, at, 8), none);
		}
	}
}

/* All are through with a round: its marks go to memory, and the word, if it is complete. The warp has few registers: nothing that
 * follows from the thread should be in them between rounds. */
static void write_marks(void *owner, const RingDone *round)
{
	Screen *s = owner;
	Kernel *k = s->k, outside = *k;
	Builder *b = k->b;
	kernel_read_thread(k);
	int tiles = k->launch->cols / PLAN_MARK;
	Val zero = val_i32(b, 0), first = val_mul_i32(b, round->tile, tiles);
	Val in_word = val_rem_i32(b, first, PLAN_WORD_MARKS), word = val_div_i32(b, first, PLAN_WORD_MARKS);
	Val ends = val_or(b, round->is_last, val_compare(b, IR_EQ, in_word, val_i32(b, PLAN_WORD_MARKS - tiles)));
	Writer w = find_writer(s, round);
	Val some = warp_any(k, val_compare(b, IR_NE, w.all, zero));
	for (If f = if_begin(b, val_or(b, some, ends), NULL, 0); if_next(&f);) {
		Val state_at = val_offset(b, s->states, val_mul_i32(b, w.group, STATE_BYTES));
		Val before = val_load(b, val_offset_const(b, state_at, 4), IR_I32);
		Marks marks = marks_of(k, w.index);
		write_mark(s, &w, &marks, val_add(b, before, w.below));
		Val state = val_load(b, state_at, IR_V2I32), bits = val_shl(b, w.marked, in_word);
		bits = val_or(b, val_vector_get(b, state, 0, IR_I32), bits);
		Val count = val_add(b, val_vector_get(b, state, 1, IR_I32), w.all);
		warp_sync(k);
		for (If l = if_begin(b, val_compare(b, IR_LT, k->lane, val_i32(b, k->launch->warps)), NULL, 0); if_next(&l);)
			val_store(b, found_at(s, round->buffer, k->lane), zero);
		for (If t = if_begin(b, val_and(b, w.exists, val_compare(b, IR_EQ, w.tile, zero)), NULL, 0); if_next(&t);) {
			for (If e = if_begin(b, ends, NULL, 0); if_next(&e);) {
				Val at = marks_words_at(k, &marks, w.row_block), number = val_sub(b, count, val_popc(b, bits));
				at = val_offset(b, at, val_mul_i32(b, word, WORD_BYTES));
				val_store(b, at, val_vector_pair(b, bits, number, IR_V2I32));
			}
			bits = val_select(b, ends, zero, bits);
			count = val_select(b, round->is_last, zero, count);
			val_store(b, state_at, val_vector_pair(b, bits, count, IR_V2I32));
		}
	}
	kernel_as_before(k, &outside);
}

/* A pair of key tiles from `first` on, whose images share a scale: most have nothing that passes, in either. */
static void screen_pair(Screen *s, Tile products, const Val threshold[TILE_ROWS], Axis row, Val first)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Part part[PAIR_TILES];
	Val largest[PAIR_TILES][TILE_ROWS], any = { NULL };
	for (int t = 0; t < PAIR_TILES; t++) {
		part[t].products = (Tile){ PLAN_MARK, products.e + t * PLAN_MARK / 2 };
		largest_products(k, part[t].products, largest[t]);
	}
	for (int r = 0; r < TILE_ROWS; r++) {
		Val passes = val_compare(b, IR_GT, val_max(b, largest[0][r], largest[1][r]), threshold[r]);
		any = r == 0 ? passes : val_or(b, any, passes);
	}
	for (If f = if_begin(b, warp_any(k, any), NULL, 0); if_next(&f);) {
		for (int t = 0; t < PAIR_TILES; t++) {
			for (int r = 0; r < TILE_ROWS; r++) {
				part[t].threshold[r] = threshold[r];
				part[t].passes[r] = val_compare(b, IR_GT, largest[t][r], threshold[r]);
			}
			Val some = warp_any(k, val_or(b, part[t].passes[0], part[t].passes[1]));
			for (If p = if_begin(b, some, NULL, 0); if_next(&p);)
				leave_masks(s, &part[t], row, val_add_i32(b, first, t));
		}
	}
}

/* Does the row block see any of the key tiles [first + skipped, first + skipped + count)? */
static Val sees(Screen *s, Val first, int skipped, int count)
{
	Builder *b = s->k->b;
	Val seen = val_compare(b, IR_GT, val_sub(b, s->span.end, first), val_i32(b, skipped));
	if (s->k->spec->window == 0)
		return seen;
	Val past = val_add_i32(b, first, skipped + count);
	return val_and(b, seen, val_compare(b, IR_GT, past, s->span.first));
}

static Val thresholds_at(Screen *s, Val pair)
{
	Builder *b = s->k->b;
	Val at = val_offset_const(b, s->rows, TILE_ROWS * plan_row_bound_bytes(s->k->spec));
	return val_offset(b, at, val_mul_i32(b, pair, THRESHOLD_BYTES));
}

/* Of all pairs of the round: of the four lanes that share two rows each finds those of one pair. */
static void find_thresholds(Screen *s, RingTile keys, int pairs)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Val pair = val_rem_i32(b, k->lane, QUAD);
	for (If f = if_begin(b, val_compare(b, IR_LT, pair, val_i32(b, pairs)), NULL, 0); if_next(&f);) {
		TileBound tile = read_tile_bound(k, keys, pair);
		Val upper = product_bound(k, read_row_bound(s, 0), tile), lower = product_bound(k, read_row_bound(s, 1), tile);
		Val both = val_vector_pair(b, upper, lower, IR_V2I32);
		val_store(b, thresholds_at(s, pair), both);
	}
	warp_sync(k);
}

/* The key tiles of one tile of the ring, from `first`: of the pairs of a round in full the first one's products are under way while
 * thresholds are found. */
static void screen_round(Screen *s, Int8Rows rows, RingTile keys, Axis row, Val first)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int tiles = k->launch->cols / PLAN_MARK;
	bool has_window = k->spec->window > 0;
	if (has_window)
		find_thresholds(s, keys, tiles / PAIR_TILES);
	for (int t = 0; t < tiles; t += PAIR_TILES) {
		Val threshold[TILE_ROWS];
		for (If f = if_begin(b, sees(s, first, t, PAIR_TILES), NULL, 0); if_next(&f);) {
			Tile products = mma_int8(k, rows, shared_rows(keys.data, t * PLAN_MARK, PLAN_BOUND_KEYS));
			if (t == 0 && !has_window)
				find_thresholds(s, keys, tiles / PAIR_TILES);
			shared_read_pair_anew(k, thresholds_at(s, val_i32(b, t / PAIR_TILES)), threshold);
			mma_int8_wait(k, products);
			screen_pair(s, products, threshold, row, val_add_i32(b, first, t));
		}
	}
}

/* The item's head and the heads before it: terms are made in that order. */
static void wait_for_terms(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	int keys = plan_int8_keys(k->spec);
	Val head = val_rem(b, s->index, kernel_i32(k, "batch*heads")), kv_head = val_rem(b, s->kv_index, kernel_i32(k, "batch*kv_heads"));
	Val q_blocks = val_mul(b, val_add_i32(b, head, 1), kernel_i32(k, "ceil_div(q_len,%d)", PLAN_TERM_ROWS));
	Val a_head = kernel_i32(k, "%d*ceil_div(k_len,%d)", keys / PLAN_BOUND_KEYS, keys);
	Val k_blocks = val_mul(b, val_add_i32(b, kv_head, 1), a_head);
	progress_wait(k, s->known, q_blocks, k_blocks);
}

/* The item at hand: queries and their bounds to shared memory, and the keys that they see. The thread is read anew, as what
 * follows from it alone would be kept in registers from one item to the next. */
static RingTiles begin_item(void *owner)
{
	Screen *s = owner;
	Kernel *k = s->k;
	kernel_read_thread(k);
	Place place = find_place(s);
	find_rows(s, place.row0);
	if (k->launch->persistent)
		wait_for_terms(s);
	shared_copy(k, s->q, int8_queries(k, s->index), place.row0);
	copy_row_bounds(s, place.row0);
	s->keys.matrix = int8_keys(k, s->kv_index);
	s->keys.terms[0] = tile_bounds(k, s->kv_index);
	return (RingTiles){ s->tiles.first, s->tiles.end, { s->index, val_div_i32(k->b, place.row0, PLAN_MARK) } };
}

static void enter_item(void *owner, const Val note[2])
{
	Screen *s = owner;
	kernel_read_thread(s->k);
	find_rows(s, val_mul_i32(s->k->b, note[1], PLAN_MARK));
}

static void screen_item(Screen *s)
{
	Kernel *k = s->k;
	Builder *b = k->b;
	Ring *ring = &s->ring;
	int tiles = k->launch->cols / PLAN_MARK;
	Int8Rows rows = int8_rows(k, s->q);
	keep_row_bounds(s);
	if (rows.registers)
		ring_residents_done(ring);
	Axis row = axis_index(k, ALONG_ROWS, PLAN_MARK, val_add(b, s->row0, val_mul_i32(b, s->warp, PLAN_WARP_ROWS)));
	for (ring_walk(ring, s->tiles.first, s->tiles.end, (Val){ NULL }, NULL, 0); ring_round(ring);) {
		RingTile keys = ring_next(ring);
		Val first = val_mul_i32(b, ring->read_tile, tiles);
		/* Of tiles that only other row blocks of the CTA see there is nothing to do. */
		for (If f = if_begin(b, sees(s, first, 0, tiles), NULL, 0); if_next(&f);)
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
	new_shared(&s);
	RingItems work = { .begin = begin_item, .enter = enter_item, .done = write_marks, .owner = &s };
	if (launch->persistent) {
		work.counter = kernel_pointer(k, "buffer.screened");
		work.count = kernel_i32(k, "%d*batch*heads*ceil_div(q_len,%d)", spec->views, launch->rows);
	}
	Kernel outside = *k;
	for (ring_items(&s.ring, &work); ring_item(&s.ring);)
		screen_item(&s);
	kernel_as_before(k, &outside);
	return kernel_end(k);
}
