#include <stdlib.h>
#include "../runtime/fixture.h"
#include "counts.h"

typedef struct Counts {
	int64_t indices, kv_indices, row_blocks, key_tiles;
	uint32_t *row_keys, *kept_keys;        /* [indices, row_blocks] */
	uint32_t *key_rows;                    /* [kv_indices, key_tiles] */
} Counts;

static bool fetch(const Problem *p, const char *name, int64_t entries, uint32_t **to)
{
	int64_t vars[FORMULA_VARS] = {0}, offset, bytes;
	int buffer = manifest_find_buffer(p->manifest, name);

	*to = calloc((size_t)entries + 1, sizeof(**to));
	return CHECK(*to && buffer >= 0 && validate_shape(&p->shape, vars) == TDA_OK &&
	             launch_buffer(p->manifest, vars, buffer, &offset, &bytes) == TDA_OK && bytes == 4 * entries &&
	             p->device->ops->copy_out(p->device, *to, (char *)p->workspace[BUFFER_SAVED] + offset, (size_t)bytes) == TDA_OK,
	             "%s: %s", name, tda_error_message());
}

static bool fetch_counts(const Problem *p, Counts *c)
{
	int64_t each = p->manifest->views * p->shape.batch;

	*c = (Counts){ each * p->shape.heads, each * p->shape.kv_heads, (p->shape.q_len + MARK_SIDE - 1) / MARK_SIDE,
		(p->shape.k_len + MARK_SIDE - 1) / MARK_SIDE, NULL, NULL, NULL };
	return fetch(p, "row_keys", c->indices * c->row_blocks, &c->row_keys) &&
	       fetch(p, "kept_keys", c->indices * c->row_blocks, &c->kept_keys) &&
	       fetch(p, "key_rows", c->kv_indices * c->key_tiles, &c->key_rows);
}

static int64_t grouped_marks;

/* Is it one of many keys that is kept in groups: neither whole nor without room? */
static bool is_grouped(const ScreenMarks *kept, int64_t index, int64_t row_block, int64_t tile, Mark mark)
{
	MarkWord word = kept->word[(index * kept->row_blocks + row_block) * kept->words + tile / MARK_WORD];
	uint32_t below = word.tiles & (((uint32_t)1 << tile % MARK_WORD) - 1);
	int64_t number = (int64_t)word.first + __builtin_popcount(below);

	return number >= kept->whole[index] && number < kept->room && __builtin_popcountll(mark.keys) > 5;
}

/* What the counts have to be, by the marks that the screen and the forward left; subtracted, so that nothing should be left. */
static void subtract_marks(const Problem *p, const ScreenMarks *screened, const ScreenMarks *kept, Counts *c)
{
	for (int64_t n = 0; n < c->indices; n++)
		for (int64_t r = 0; r < c->row_blocks; r++)
			for (int64_t t = 0; t < c->key_tiles; t++) {
				Mark before = marks_get(screened, n, r, t), mark = marks_get(kept, n, r, t);
				int64_t kv = n / (p->shape.heads / p->shape.kv_heads);

				c->row_keys[n * c->row_blocks + r] -= (uint32_t)__builtin_popcountll(before.keys);
				c->kept_keys[n * c->row_blocks + r] -= (uint32_t)__builtin_popcountll(mark.keys);
				c->key_rows[kv * c->key_tiles + t] -= (uint32_t)__builtin_popcountll(mark.rows);
				grouped_marks += is_grouped(kept, n, r, t, mark);
			}
}

static int64_t count_left(const uint32_t *rest, int64_t entries)
{
	int64_t wrong = 0;

	for (int64_t n = 0; n < entries; n++)
		wrong += rest[n] != 0;
	return wrong;
}

int64_t test_grouped_marks(void)
{
	return grouped_marks;
}

void test_counts(const char *name, const Problem *p, const ScreenMarks *kept)
{
	Counts counts;
	ScreenMarks screened;

	if (!CHECK(marks_fetch(p, MARKS_SCREENED, &screened) == TDA_OK, "'%s': %s", name, tda_error_message()))
		return;
	if (fetch_counts(p, &counts)) {
		int64_t rows = counts.indices * counts.row_blocks, keys = counts.kv_indices * counts.key_tiles, wrong;

		subtract_marks(p, &screened, kept, &counts);
		wrong = count_left(counts.row_keys, rows) + count_left(counts.kept_keys, rows) + count_left(counts.key_rows, keys);
		CHECK(wrong == 0, "'%s': %lld counts of keys and rows are not those of the marks", name, (long long)wrong);
	}
	free(counts.row_keys);
	free(counts.kept_keys);
	free(counts.key_rows);
	marks_free(&screened);
}
