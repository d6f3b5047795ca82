/* Marks in memory: where they lie, and how they are packed. */
#include "marks.h"

Val count_bits(Kernel *k, Val mask)
{
	Val low = val_popc(k->b, val_low_i32(k->b, mask));
	return val_add(k->b, low, val_popc(k->b, val_high_i32(k->b, mask)));
}

Val nth_bit(Kernel *k, Val mask, Val n)
{
	Builder *b = k->b;
	Val word = val_low_i32(b, mask), high = val_high_i32(b, mask), place = val_i32(b, 0);
	for (int width = WARP; width > 0; width /= 2) {
		Val lower = width == WARP ? word : val_and(b, word, val_i32(b, (int32_t)((1u << width) - 1)));
		Val count = val_popc(b, lower);
		Val up = val_compare(b, IR_GE, n, count);
		Val upper = width == WARP ? high : val_shr(b, word, val_i32(b, width));
		word = val_select(b, up, upper, lower);
		n = val_sub(b, n, val_select(b, up, count, val_i32(b, 0)));
		place = val_add(b, place, val_select(b, up, val_i32(b, width), val_i32(b, 0)));
	}
	return place;
}

/* All but the room. a_head: a formula, how many marks there are of a head. */
static Marks find_marks(Kernel *k, Val index, const char *words, const char *marks, int mark_bytes, const char *a_head)
{
	Builder *b = k->b;
	Val index64 = val_to_i64(b, index);
	Val word_bytes = kernel_i64(k, "%d*ceil_div(q_len,%d)*ceil_div(k_len,%d)", WORD_BYTES, PLAN_MARK,
	                            PLAN_MARK * PLAN_WORD_MARKS);
	Val head_bytes = kernel_i64(k, "%d*%s", mark_bytes, a_head);
	Val all_words = kernel_pointer(k, "buffer.%s", words);
	Val all_marks = kernel_pointer(k, "buffer.%s", marks);
	Marks m = { .packed = false };
	m.words = val_offset(b, all_words, val_mul(b, index64, word_bytes));
	m.marks = val_offset(b, all_marks, val_mul(b, index64, head_bytes));
	m.words_a_row = kernel_i64(k, "%d*ceil_div(k_len,%d)", WORD_BYTES, PLAN_MARK * PLAN_WORD_MARKS);
	return m;
}

static const char *of_row_blocks(Kernel *k, const char *marks)
{
	return arena_printf(k->b->arena, "ceil_div(q_len,%d)*%s", PLAN_MARK, marks);
}

static const char *up_to_tiles(Kernel *k, int marks)
{
	return arena_printf(k->b->arena, "min(ceil_div(k_len,%d),%d)", PLAN_MARK, marks);
}

Marks screened_marks(Kernel *k, Val index)
{
	const char *capacity = up_to_tiles(k, plan_mark_capacity(k->plan));
	const char *a_head = of_row_blocks(k, capacity);
	Marks m = find_marks(k, index, "mark_words", "marks", MARK_BYTES, a_head);
	if (plan_refines_marks(k->spec))
		m.refined = find_marks(k, index, "mark_words", "refined_marks", MARK_BYTES, a_head).marks;
	m.room = kernel_i32(k, "%s", capacity);
	m.marks_a_row = kernel_i64(k, "%d*%s", MARK_BYTES, capacity);
	return m;
}

Marks packed_marks(Kernel *k, Val index)
{
	const char *room = of_row_blocks(k, up_to_tiles(k, plan_packed_marks(k->plan)));
	Marks m = find_marks(k, index, "packed_words", "packed_marks", PACKED_BYTES, room);
	m.room = kernel_i32(k, "%s", room);
	m.packed = true;
	Val all_whole = kernel_pointer(k, "buffer.whole_marks");
	m.whole_at = val_offset(k->b, all_whole, val_mul(k->b, val_to_i64(k->b, index), val_i64(k->b, 4)));
	return m;
}

Marks marks_of(Kernel *k, Val index)
{
	return k->launch->backward ? packed_marks(k, index) : screened_marks(k, index);
}

static Val row_block_at(Kernel *k, Val base, Val row_block, Val bytes)
{
	Builder *b = k->b;
	return val_offset(b, base, val_mul(b, val_to_i64(b, row_block), bytes));
}

Val marks_words_at(Kernel *k, const Marks *marks, Val row_block)
{
	return row_block_at(k, marks->words, row_block, marks->words_a_row);
}

Val mark_at(Kernel *k, const Marks *marks, Val row_block, Val number)
{
	Builder *b = k->b;
	Val first = marks->marks;
	if (!marks->packed)
		first = row_block_at(k, first, row_block, marks->marks_a_row);
	else
		number = val_add(b, number, val_min(b, number, marks->whole));         /* a whole one takes two places */
	Val skipped = val_to_i64(b, number);
	return val_offset(b, first, val_mul(b, skipped, val_i64(b, marks->packed ? PACKED_BYTES : MARK_BYTES)));
}
_Static_assert(MARK_BYTES == 2 * PACKED_BYTES, "places of a whole mark");

Marks refined_marks(const Marks *marks)
{
	Marks m = *marks;
	m.marks = m.refined;
	return m;
}

enum { PLACES = 5, PLACE_BITS = 6, PAIRS = 30 };
static const int32_t by_groups = INT32_MIN;            /* bit 31 */

/* The place of the lowest bit. */
static Val lowest_place(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val below = val_add(b, mask, val_i64(b, -1));
	Val others = val_xor(b, mask, val_i64(b, -1));
	return count_bits(k, val_and(b, below, others));
}

/* Five places; those that there are no bits for are the first again. */
static Val half_of_places(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val first = lowest_place(k, mask), half = first, zero = val_i64(b, 0);
	for (int n = 1; n < PLACES; n++) {
		mask = val_and(b, mask, val_add(b, mask, val_i64(b, -1)));
		Val none = val_compare(b, IR_EQ, mask, zero);
		Val place = val_select(b, none, first, lowest_place(k, mask));
		half = val_or(b, half, val_shl(b, place, val_i32(b, PLACE_BITS * n)));
	}
	return half;
}

/* Entry n keeps groups of 2^n bits that are as far apart. */
static const int64_t spread[] = {
	0x5555555555555555, 0x3333333333333333, 0x0f0f0f0f0f0f0f0f, 0x00ff00ff00ff00ff, 0x0000ffff0000ffff,
};
enum { SPREADS = sizeof spread / sizeof *spread };

/* A bit of the i32 for each pair of bits. */
static Val gather_pairs(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val x = val_and(b, val_or(b, mask, val_shr(b, mask, val_i64(b, 1))), val_i64(b, spread[0]));
	for (int n = 1; n < SPREADS; n++)
		x = val_and(b, val_or(b, x, val_shr(b, x, val_i64(b, 1 << (n - 1)))), val_i64(b, spread[n]));
	return val_low_i32(b, val_or(b, x, val_shr(b, x, val_i64(b, 1 << (SPREADS - 1)))));
}

/* The other way round. */
static Val spread_pairs(Kernel *k, Val pairs)
{
	Builder *b = k->b;
	Val x = val_join_i32(b, pairs, val_i32(b, 0));
	for (int n = SPREADS - 1; n >= 0; n--)
		x = val_and(b, val_or(b, x, val_shl(b, x, val_i64(b, 1 << n))), val_i64(b, spread[n]));
	return val_or(b, x, val_shl(b, x, val_i64(b, 1)));
}

static Val half_of_groups(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val pairs = gather_pairs(k, mask), zero = val_i32(b, 0);
	Val last = val_compare(b, IR_NE, val_shr(b, pairs, val_i32(b, PAIRS)), zero);
	Val lower = val_and(b, pairs, val_i32(b, (1 << PAIRS) - 1));
	Val group = val_select(b, last, val_i32(b, by_groups | 1 << PAIRS), val_i32(b, by_groups));
	return val_or(b, lower, group);
}

Val packed_half(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val half = val_i32(b, 0), count = count_bits(k, mask);
	Val *changed[] = { &half };
	Val few = val_compare(b, IR_LE, count, val_i32(b, PLACES));
	few = val_and(b, few, val_compare(b, IR_GT, count, half));     /* no places are no groups */
	for (Either e = either_begin(b, few, changed, 1); either_next(&e);)
		half = e.otherwise ? half_of_groups(k, mask) : half_of_places(k, mask);
	return half;
}

static Val mask_of_places(Kernel *k, Val half)
{
	Builder *b = k->b;
	Val mask = val_i64(b, 0), one = val_i64(b, 1);
	for (int n = 0; n < PLACES; n++) {
		Val place = val_and(b, val_shr(b, half, val_i32(b, PLACE_BITS * n)), val_i32(b, (1 << PLACE_BITS) - 1));
		mask = val_or(b, mask, val_shl(b, one, val_to_i64(b, place)));
	}
	return mask;
}

static Val mask_of_groups(Kernel *k, Val half)
{
	Builder *b = k->b;
	Val pairs = val_and(b, half, val_i32(b, INT32_MAX));
	Val twice = val_shl(b, val_and(b, pairs, val_i32(b, 1 << PAIRS)), val_i32(b, 1));      /* the last group has two pairs */
	return spread_pairs(k, val_or(b, pairs, twice));
}

Val unpacked_half(Kernel *k, Val half)
{
	Builder *b = k->b;
	Val mask = val_i64(b, 0);
	Val *changed[] = { &mask };
	Val grouped = val_compare(b, IR_LT, half, val_i32(b, 0));
	for (Either e = either_begin(b, grouped, changed, 1); either_next(&e);)
		mask = e.otherwise ? mask_of_places(k, half) : mask_of_groups(k, half);
	return mask;
}

Val mark_mask(Kernel *k, const Marks *marks, Val row_block, Val number, bool rows)
{
	Builder *b = k->b;
	Marks here = *marks;
	if (marks->packed && val_is_null(marks->whole))
		here.whole = val_load(b, marks->whole_at, IR_I32);
	Val at = mark_at(k, &here, row_block, number);
	Val whole_half = val_offset_const(b, at, rows ? MARK_BYTES / 2 : 0);
	if (!marks->packed)
		return val_load(b, whole_half, IR_I64);
	Val mask = val_i64(b, 0);
	Val *changed[] = { &mask };
	for (Either e = either_begin(b, val_compare(b, IR_LT, number, here.whole), changed, 1); either_next(&e);)
		if (e.otherwise)
			mask = unpacked_half(k, val_load(b, val_offset_const(b, at, rows ? PACKED_BYTES / 2 : 0), IR_I32));
		else
			mask = val_load(b, whole_half, IR_I64);
	return mask;
}
