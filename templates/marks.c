/* Marks in memory: where they lie, and those that are kept in 32 bits. */
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
static Marks find_marks(Kernel *k, Val index, const char *words, const char *marks, const char *a_head)
{
	Builder *b = k->b;
	Val index64 = val_to_i64(b, index);
	Val word_bytes = kernel_i64(k, "%d*ceil_div(q_len,%d)*ceil_div(k_len,%d)", WORD_BYTES, PLAN_MARK,
	                            PLAN_MARK * PLAN_WORD_MARKS);
	Val mark_bytes = kernel_i64(k, "%d*%s", MARK_BYTES, a_head);
	Val all_words = kernel_pointer(k, "buffer.%s", words);
	Val all_marks = kernel_pointer(k, "buffer.%s", marks);
	Marks m = { .packed = false };
	m.words = val_offset(b, all_words, val_mul(b, index64, word_bytes));
	m.marks = val_offset(b, all_marks, val_mul(b, index64, mark_bytes));
	m.words_a_row = kernel_i32(k, "ceil_div(k_len,%d)", PLAN_MARK * PLAN_WORD_MARKS);
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
	Marks m = find_marks(k, index, "mark_words", "marks", of_row_blocks(k, capacity));
	m.room = kernel_i32(k, "%s", capacity);
	return m;
}

Marks packed_marks(Kernel *k, Val index)
{
	const char *room = of_row_blocks(k, up_to_tiles(k, plan_packed_marks(k->plan)));
	Marks m = find_marks(k, index, "packed_words", "packed_marks", room);
	m.room = kernel_i32(k, "%s", room);
	m.packed = true;
	/* At least what is kept beyond the room: without a difference, which PyTorch's symbolic lengths could not prove to be positive. */
	int kept = plan_kept_marks(k->plan);
	const char *rough = of_row_blocks(k, up_to_tiles(k, kept - plan_packed_marks(k->plan)));
	Val bytes = kernel_i64(k, "%d*%s", ROUGH_BYTES, rough);
	Val all = kernel_pointer(k, "buffer.rough_marks");
	m.rough = val_offset(k->b, all, val_mul(k->b, val_to_i64(k->b, index), bytes));
	m.rough_room = kernel_i32(k, "%s", of_row_blocks(k, up_to_tiles(k, kept)));
	return m;
}

Marks marks_of(Kernel *k, Val index)
{
	return k->launch->backward ? packed_marks(k, index) : screened_marks(k, index);
}

/* Where a row block's entries begin, of which each has so many. */
static Val entry_at(Kernel *k, Val base, Val row_block, Val entries, int bytes)
{
	Builder *b = k->b;
	Val each = val_to_i64(b, entries);
	Val skipped = val_mul(b, val_to_i64(b, row_block), each);
	return val_offset(b, base, val_mul(b, skipped, val_i64(b, bytes)));
}

Val marks_words_at(Kernel *k, const Marks *marks, Val row_block)
{
	return entry_at(k, marks->words, row_block, marks->words_a_row, WORD_BYTES);
}

Val mark_at(Kernel *k, const Marks *marks, Val row_block, Val number)
{
	Builder *b = k->b;
	Val first = marks->marks;
	if (!marks->packed)
		first = entry_at(k, first, row_block, marks->room, MARK_BYTES);
	Val skipped = val_to_i64(b, number);
	return val_offset(b, first, val_mul(b, skipped, val_i64(b, MARK_BYTES)));
}

Val rough_at(Kernel *k, const Marks *marks, Val number)
{
	Val place = val_to_i64(k->b, val_sub(k->b, number, marks->room));
	return val_offset(k->b, marks->rough, val_mul(k->b, place, val_i64(k->b, ROUGH_BYTES)));
}

enum { ROUGH_GROUPS = 1 << 15, PLACE_BITS = 6 };
static const int64_t first_of_eight = 0x0101010101010101;

/* The place of the lowest bit. */
static Val lowest_place(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val below = val_add(b, mask, val_i64(b, -1));
	Val others = val_xor(b, mask, val_i64(b, -1));
	return count_bits(k, val_and(b, below, others));
}

Val rough_half(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val low = lowest_place(k, mask), places = val_i32(b, 0xff);
	Val rest = val_and(b, mask, val_add(b, mask, val_i64(b, -1)));
	Val one = val_compare(b, IR_EQ, rest, val_i64(b, 0));
	Val high = val_select(b, one, low, lowest_place(k, rest));
	Val half = val_or(b, low, val_shl(b, high, val_i32(b, PLACE_BITS)));
	Val *changed[] = { &half };
	Val count = count_bits(k, mask);
	for (If f = if_begin(b, val_compare(b, IR_GT, count, val_i32(b, 2)), changed, 1); if_next(&f);) {
		Val groups = mask;
		for (int distance = 4; distance > 0; distance /= 2)
			groups = val_or(b, groups, val_shr(b, groups, val_i64(b, distance)));
		groups = val_and(b, groups, val_i64(b, first_of_eight));
		/* The first bits of bytes, all in the highest byte of the product. */
		groups = val_mul(b, groups, val_i64(b, 0x0102040810204080));
		Val high_half = val_high_i32(b, groups);
		Val byte = val_and(b, val_shr(b, high_half, val_i32(b, 24)), places);
		half = val_or(b, byte, val_i32(b, ROUGH_GROUPS));
	}
	return half;
}

Val rough_mask(Kernel *k, Val half)
{
	Builder *b = k->b;
	Val one = val_i64(b, 1), places = val_i32(b, (1 << PLACE_BITS) - 1);
	Val low = val_and(b, half, places), high = val_and(b, val_shr(b, half, val_i32(b, PLACE_BITS)), places);
	Val first = val_shl(b, one, val_to_i64(b, low)), second = val_shl(b, one, val_to_i64(b, high));
	Val mask = val_or(b, first, second);
	Val *changed[] = { &mask };
	Val grouped = val_compare(b, IR_NE, val_and(b, half, val_i32(b, ROUGH_GROUPS)), val_i32(b, 0));
	for (If f = if_begin(b, grouped, changed, 1); if_next(&f);) {
		/* Bit n to bit 8n: seven by copies that don't overlap, and the last. */
		Val seven = val_to_i64(b, val_and(b, half, val_i32(b, 0x7f)));
		Val spread = val_mul(b, seven, val_i64(b, 0x0002040810204081));
		spread = val_and(b, spread, val_i64(b, first_of_eight));
		Val last = val_to_i64(b, val_and(b, half, val_i32(b, 0x80)));
		spread = val_or(b, spread, val_shl(b, last, val_i64(b, 56 - 7)));
		mask = val_mul(b, spread, val_i64(b, 0xff));
	}
	return mask;
}
