#include "counts.h"
#include "tile_parts.h"

static Val count_at(Kernel *k, const char *buffer, const char *length, Val index, Val block)
{
	Builder *b = k->b;
	Val counts = kernel_pointer(k, "buffer.%s", buffer);
	Val bytes = kernel_i64(k, "4*ceil_div(%s,%d)", length, PLAN_MARK);
	Val head = val_offset(b, counts, val_mul(b, val_to_i64(b, index), bytes));
	Val four = val_i64(b, 4);
	return val_offset(b, head, val_mul(b, val_to_i64(b, block), four));
}

Val row_keys_at(Kernel *k, bool backward, Val index, Val row_block)
{
	return count_at(k, backward ? "kept_keys" : "row_keys", "q_len", index, row_block);
}

Val key_rows_at(Kernel *k, Val kv_index, Val key_tile)
{
	return count_at(k, "key_rows", "k_len", kv_index, key_tile);
}

Val count_index(Kernel *k, int view, const char *heads, Val batch_head)
{
	return val_add(k->b, batch_head, kernel_i32(k, "%d*batch*%s", view, heads));
}

void clear_row_keys(Kernel *k, Place place)
{
	Builder *b = k->b;
	Val zero = val_i32(b, 0);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->thread, zero), NULL, 0); if_next(&f);)
		for (int v = 0; v < k->spec->views; v++)
			val_store(b, row_keys_at(k, false, count_index(k, v, "heads", place.batch_head), place.block), zero);
}

/* Keys up to a whole group are prepared as well, and have no count. */
void clear_key_rows(Kernel *k, Place place)
{
	Builder *b = k->b;
	Val zero = val_i32(b, 0), first = val_compare(b, IR_EQ, k->thread, zero);
	for (int n = 0; n < k->launch->rows; n += PLAN_MARK) {
		Val key = val_add_i32(b, place.row0, n);
		Val exists = val_and(b, first, val_compare(b, IR_LT, key, kernel_i32(k, "k_len")));
		Val tile = val_div_i32(b, key, PLAN_MARK);
		for (If f = if_begin(b, exists, NULL, 0); if_next(&f);)
			for (int v = 0; v < k->spec->views; v++)
				val_store(b, key_rows_at(k, count_index(k, v, "kv_heads", place.batch_head), tile), zero);
	}
}

void add_row_keys(Kernel *k, Val index, Val row_block, Val keys)
{
	add_atomically(k, row_keys_at(k, false, index, row_block), keys);
}

void add_key_rows(Kernel *k, Val kv_index, Val key_tile, Val rows)
{
	add_atomically(k, key_rows_at(k, kv_index, key_tile), rows);
}
