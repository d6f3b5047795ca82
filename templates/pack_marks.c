/*
 * Marks for the backward: those of a head (and view) one after the other, in the order of row blocks, then of key tiles, as they are
 * kept from the forward to the backward, where each byte counts. A mark's number is its place among those of its head that the
 * screen had room for; where there is no room for it here, the number alone says so. A word in which the screen had no room for all
 * marks is given numbers beyond any room. The head's first marks stay as they are, as many as room is left for.
 *
 * It comes after the forward. Where that gathered and refined marks, it is those, and one that was left no bits has a place all the
 * same. On the way it counts what gathering will visit (counts.h).
 *
 * One CTA: PLAN_PACK_BLOCKS row blocks of one (view, batch, head), a warp for each. How many marks come before is counted anew by
 * each CTA, from the last word of each row block.
 */
#include "blocks.h"
#include "counts.h"
#include "kernels_parts.h"
#include "tile_parts.h"

/* A number beyond any room, as 2^24 row blocks are the most, with room for 64 marks each. They have less than 2^31 before packing. */
enum { NO_ROOM = 1 << 30 };

typedef struct Packer {
	Kernel *k;
	Marks from, to;
	Val index, kv_index;               /* i32: of the view and head, for counts.h */
	Val refined;                       /* i1: did the forward refine the warp's marks? */
	Val row_blocks;                    /* i32 */
} Packer;

/* A row block's words that hold a visible key tile. */
static Span visible_words(Kernel *k, Val row_block)
{
	Builder *b = k->b;
	Span tiles = key_tiles(k, val_mul_i32(b, row_block, PLAN_MARK), PLAN_MARK, PLAN_MARK);
	Val up = val_add_i32(b, tiles.end, PLAN_WORD_MARKS - 1);
	Val some = val_compare(b, IR_LT, tiles.first, tiles.end);
	Span words;
	words.first = val_div_i32(b, tiles.first, PLAN_WORD_MARKS);
	words.end = val_select(b, some, val_div_i32(b, up, PLAN_WORD_MARKS), words.first);
	return words;
}

static Val word_at(Kernel *k, const Marks *marks, Val row_block, Val word)
{
	Builder *b = k->b;
	Val at = marks_words_at(k, marks, row_block);
	return val_offset(b, at, val_mul_i32(b, word, WORD_BYTES));
}

/* The number of the word's first mark, and the one after its last. */
static Span word_numbers(Builder *b, Val word)
{
	Span numbers;
	numbers.first = val_vector_get(b, word, 1, IR_I32);
	Val count = val_popc(b, val_vector_get(b, word, 0, IR_I32));
	numbers.end = val_add(b, numbers.first, count);
	return numbers;
}

/* Marks of a row block that the screen had room for. */
static Val kept_marks(Packer *p, Val row_block)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Span words = visible_words(k, row_block);
	Val kept = val_i32(b, 0);
	Val *changed[] = { &kept };
	Val some = val_compare(b, IR_LT, words.first, words.end);
	for (If f = if_begin(b, some, changed, 1); if_next(&f);) {
		Val last = word_at(k, &p->from, row_block, val_add_i32(b, words.end, -1));
		Span numbers = word_numbers(b, val_load(b, last, IR_V2I32));
		kept = val_min(b, numbers.end, p->from.room);
	}
	return kept;
}

/* Summed over the CTA's threads, in every thread. */
static Val cta_sum(Kernel *k, Val x)
{
	Builder *b = k->b;
	int warps = k->launch->warps;
	Val sum = warp_sum(k, x);
	Val sums = val_offset_const(b, k->shared, k->shared_bytes);
	k->shared_bytes += warps * 4;
	Val first_lane = val_compare(b, IR_EQ, k->lane, val_i32(b, 0));
	for (If f = if_begin(b, first_lane, NULL, 0); if_next(&f);)
		val_store(b, val_offset(b, sums, val_mul_i32(b, k->warp, 4)), sum);
	kernel_barrier(k);
	Val total = val_i32(b, 0);
	Val *changed[] = { &total };
	for (If f = if_begin(b, val_compare(b, IR_LT, k->lane, val_i32(b, warps)), changed, 1); if_next(&f);)
		total = val_load(b, val_offset(b, sums, val_mul_i32(b, k->lane, 4)), IR_I32);
	return warp_sum(k, total);
}

static Val row_block_exists(Packer *p, Val row_block)
{
	return val_compare(p->k->b, IR_LT, row_block, p->row_blocks);
}

/* The number of the first mark of this warp's row block, the CTA's first one being `first`; and of the head's marks in all. */
static Val marks_before(Packer *p, Val first, Val *all)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Val earlier = val_i32(b, 0), beside = earlier, zero = earlier;
	*all = zero;
	Val *sum[] = { &earlier, all };
	for (Loop l = loop_begin(b, k->thread, p->row_blocks, plan_threads(k->launch), sum, 2); loop_next(&l);) {
		Val kept = kept_marks(p, l.index);
		*all = val_add(b, *all, kept);
		earlier = val_add(b, earlier, val_select(b, val_compare(b, IR_LT, l.index, first), kept, zero));
	}
	Val *changed[] = { &beside };
	Val own = val_add(b, first, k->lane);
	Val counts = row_block_exists(p, own);
	counts = val_and(b, counts, val_compare(b, IR_LT, k->lane, k->warp));
	for (If f = if_begin(b, counts, changed, 1); if_next(&f);)
		beside = kept_marks(p, own);
	Val total = cta_sum(k, earlier);
	*all = cta_sum(k, *all);
	return val_add(b, total, warp_sum(k, beside));
}

/* As many marks as there is room to keep whole when all have a place. */
static void keep_whole(Packer *p, Val first, Val all)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Val zero = val_i32(b, 0);
	p->to.whole = val_max(b, val_sub(b, p->to.room, all), zero);
	for (If f = if_begin(b, val_compare(b, IR_EQ, val_or(b, first, k->thread), zero), NULL, 0); if_next(&f);)
		val_store(b, p->to.whole_at, p->to.whole);
}

/* A word in one lane, or of one in all: its bits and the number of its first mark; none in lanes beyond the last word. */
typedef struct Word { Val bits, first; } Word;

static Word load_word(Packer *p, Val row_block, Val number, Val end)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Val zero = val_i32(b, 0);
	Word word = { zero, zero };
	Val *changed[] = { &word.bits, &word.first };
	for (If f = if_begin(b, val_compare(b, IR_LT, number, end), changed, 2); if_next(&f);) {
		Val both = val_load(b, word_at(k, &p->from, row_block, number), IR_V2I32);
		word.bits = val_vector_get(b, both, 0, IR_I32);
		word.first = val_vector_get(b, both, 1, IR_I32);
	}
	return word;
}

/* Had the screen room for all of its marks? */
static Val word_fits(Packer *p, Word word)
{
	Builder *b = p->k->b;
	Val past = val_add(b, word.first, val_popc(b, word.bits));
	return val_compare(b, IR_LE, past, p->from.room);
}

static void store_word(Packer *p, Val row_block, Val number, Val end, Word word, Val start)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Val fits = word_fits(p, word);
	Val packed = val_add(b, start, word.first);
	packed = val_select(b, fits, packed, val_i32(b, NO_ROOM));
	for (If f = if_begin(b, val_compare(b, IR_LT, number, end), NULL, 0); if_next(&f);) {
		Val at = word_at(k, &p->to, row_block, number);
		val_store(b, at, val_vector_pair(b, word.bits, packed, IR_V2I32));
	}
}

/* What gathering visits for a mark in the backward; i32. */
typedef struct Visits { Val keys, rows; } Visits;

static Val store_half(Packer *p, Val to, Val mask)
{
	Kernel *k = p->k;
	Val half = packed_half(k, mask);
	val_store(k->b, to, half);
	return count_bits(k, unpacked_half(k, half));
}

/* A mark that each lane has one of, if it `exists`: its key tile, its word, and its number, which counts from the row block's first. */
typedef struct LaneMark {
	Val exists, tile;
	Word word;
	Val number;
} LaneMark;

/* Copies it, if there is room. Where there is none, or the screen had none, its key tile is visited whole. */
static Visits copy_mark(Packer *p, Val row_block, const LaneMark *mark, Val start)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Val zero = val_i32(b, 0), whole = val_i32(b, PLAN_MARK);
	Val all = val_select(b, mark->exists, whole, zero);
	Visits visits = { all, all };
	Val *changed[] = { &visits.keys, &visits.rows };
	Val kept = val_and(b, mark->exists, val_compare(b, IR_LT, mark->number, p->from.room));
	for (If f = if_begin(b, kept, changed, 2); if_next(&f);) {
		Marks from = p->from;
		if (!val_is_null(from.refined))
			from.marks = val_select(b, p->refined, from.refined, from.marks);
		Val key_mask = mark_mask(k, &from, row_block, mark->number, false);
		Val row_mask = mark_mask(k, &from, row_block, mark->number, true);
		Val packed = val_add(b, start, mark->number);
		for (If room = if_begin(b, val_compare(b, IR_LT, packed, p->to.room), changed, 2); if_next(&room);) {
			visits.keys = count_bits(k, key_mask);
			visits.rows = count_bits(k, row_mask);
			Val to = mark_at(k, &p->to, row_block, packed);
			Val whole = val_compare(b, IR_LT, packed, p->to.whole);
			for (Either e = either_begin(b, whole, changed, 2); either_next(&e);) {
				int half = e.otherwise ? PACKED_BYTES / 2 : MARK_BYTES / 2;
				Val rows_to = val_offset_const(b, to, half);
				if (e.otherwise) {
					visits.keys = store_half(p, to, key_mask);
					visits.rows = store_half(p, rows_to, row_mask);
				} else {
					val_store(b, to, key_mask);
					val_store(b, rows_to, row_mask);
				}
			}
		}
	}
	/* store_word gave the numbers of such a word away. */
	Val fits = word_fits(p, mark->word);
	visits.keys = val_select(b, fits, visits.keys, all);
	visits.rows = val_select(b, fits, visits.rows, all);
	return visits;
}

/* Mark n of 32 words, of which each lane has one; ends: each word's running sum of marks. first_word: the first lane's. */
static LaneMark find_mark(Packer *p, Word words, Val ends, Val first_word, Val n)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Val lane = val_i32(b, 0), zero = lane;
	for (int step = WARP / 2; step > 0; step /= 2) {
		Val end = lane_value(k, ends, val_add_i32(b, lane, step - 1));
		lane = val_add(b, lane, val_select(b, val_compare(b, IR_LE, end, n), val_i32(b, step), zero));
	}
	LaneMark mark;
	mark.word.bits = lane_value(k, words.bits, lane);
	mark.word.first = lane_value(k, words.first, lane);
	Val end = lane_value(k, ends, lane);
	Val within = val_sub(b, n, val_sub(b, end, val_popc(b, mark.word.bits)));
	mark.exists = val_compare(b, IR_LT, n, end);
	Val bit = nth_bit(k, val_join_i32(b, mark.word.bits, zero), within);
	mark.tile = val_add(b, val_mul_i32(b, val_add(b, first_word, lane), PLAN_WORD_MARKS), bit);
	mark.number = val_add(b, mark.word.first, within);
	return mark;
}

/* The warp's row block: 32 words at once, a lane each, then their marks, a lane each. */
static void copy_row_block(Packer *p, Val row_block, Val start)
{
	Kernel *k = p->k;
	Builder *b = k->b;
	Span words = visible_words(k, row_block);
	Val zero = val_i32(b, 0), keys = zero;
	Val *carry[] = { &keys };
	for (Loop l = loop_begin(b, words.first, words.end, WARP, carry, 1); loop_next(&l);) {
		Val own = val_add(b, l.index, k->lane);
		Word word = load_word(p, row_block, own, words.end);
		store_word(p, row_block, own, words.end, word, start);
		Val ends = warp_running_sum(k, val_popc(b, word.bits));
		Val count = lane_value(k, ends, val_i32(b, WARP - 1));
		for (Loop m = loop_begin(b, zero, count, WARP, carry, 1); loop_next(&m);) {
			LaneMark mark = find_mark(p, word, ends, l.index, val_add(b, m.index, k->lane));
			kernel_wait(k);        /* for the forward: what there are of marks is the screen's, what they are may not be */
			Visits visits = copy_mark(p, row_block, &mark, start);
			keys = val_add(b, keys, visits.keys);
			for (If f = if_begin(b, val_compare(b, IR_GT, visits.rows, zero), NULL, 0); if_next(&f);)
				add_key_rows(k, p->kv_index, mark.tile, visits.rows);
		}
	}
	Val sum = warp_sum(k, keys);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, zero), NULL, 0); if_next(&f);)
		val_store(b, row_keys_at(k, true, p->index, row_block), sum);
}

bool build_pack_marks(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	/* The view counts as a further batch. */
	Place place = kernel_place(k, "heads", "q_len", launch->rows);
	Packer p = { .k = k };
	p.from = screened_marks(k, place.batch_head);
	p.to = packed_marks(k, place.batch_head);
	p.index = place.batch_head;
	p.kv_index = batch_head(k, "kv_heads", place.batch, key_head(k, place.head));
	p.row_blocks = kernel_i32(k, "ceil_div(q_len,%d)", PLAN_MARK);
	Val first = val_div_i32(b, place.row0, PLAN_MARK);
	Val row_block = val_add(b, first, k->warp);
	Val all;
	Val start = marks_before(&p, first, &all);
	keep_whole(&p, first, all);
	for (If f = if_begin(b, row_block_exists(&p, row_block), NULL, 0); if_next(&f);) {
		if (!val_is_null(p.from.refined)) {
			Val heads = val_rem(b, place.batch_head, kernel_i32(k, "batch*heads"));
			p.refined = val_compare(b, IR_EQ, blocks_were_heavy(k, heads, row_block), val_false(b));
		}
		copy_row_block(&p, row_block, start);
	}
	kernel_wait(k);                    /* whoever had nothing to wait for: what comes next is to find the forward done, too */
	return kernel_end(k);
}
