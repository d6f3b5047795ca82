#include <stdlib.h>
#include "../runtime/fixture.h"
#include "counts.h"

typedef struct Counts {
	int64_t indices, kv_indices, row_blocks, key_tiles;
	uint32_t *row_keys, *kept_keys;        /* [indices, row_blocks] */
	uint32_t *key_rows;                    /* [kv_indices, key_tiles] */
	int64_t *least, *most;                 /* [indices, row_blocks]: of what the screen may have marked */
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
		(p->shape.k_len + MARK_SIDE - 1) / MARK_SIDE, NULL, NULL, NULL, NULL, NULL };
	c->least = calloc((size_t)(c->indices * c->row_blocks) + 1, sizeof(*c->least));
	c->most = calloc((size_t)(c->indices * c->row_blocks) + 1, sizeof(*c->most));
	return c->least && c->most && fetch(p, "row_keys", c->indices * c->row_blocks, &c->row_keys) &&
	       fetch(p, "kept_keys", c->indices * c->row_blocks, &c->kept_keys) &&
	       fetch(p, "key_rows", c->kv_indices * c->key_tiles, &c->key_rows);
}

static int64_t grouped_marks;

/* Has the mark more keys than are kept one by one, if it was kept at all? */
static bool may_have_more(Mark mark)
{
	int keys = __builtin_popcountll(mark.keys);

	grouped_marks += keys > 5 && keys < MARK_SIDE;
	return keys > 5;
}

/* What the counts have to be, by the marks, which are the backward's; subtracted, so that nothing should be left. Those of the forward
 * count what the screen left: what is kept in groups, or not at all, may have had a single key; what was refined, all of them. */
static void subtract_marks(const Problem *p, const ScreenMarks *marks, Counts *c)
{
	bool refines = manifest_find_buffer(p->manifest, "refined_marks") >= 0;

	for (int64_t n = 0; n < c->indices; n++)
		for (int64_t r = 0; r < c->row_blocks; r++)
			for (int64_t t = 0; t < c->key_tiles; t++) {
				Mark mark = marks_get(marks, n, r, t);
				int64_t kv = n / (p->shape.heads / p->shape.kv_heads);
				uint32_t keys = (uint32_t)__builtin_popcountll(mark.keys);

				c->kept_keys[n * c->row_blocks + r] -= keys;
				c->key_rows[kv * c->key_tiles + t] -= (uint32_t)__builtin_popcountll(mark.rows);
				c->least[n * c->row_blocks + r] += may_have_more(mark) ? 1 : keys;
				if (refines && marks_has(marks, n, r, t))
					keys = MARK_SIDE;
				c->most[n * c->row_blocks + r] += keys;
			}
}

static int64_t count_left(const uint32_t *rest, int64_t entries)
{
	int64_t wrong = 0;

	for (int64_t n = 0; n < entries; n++)
		wrong += rest[n] != 0;
	return wrong;
}

static int64_t count_outside(const Counts *c)
{
	int64_t wrong = 0;

	for (int64_t n = 0; n < c->indices * c->row_blocks; n++)
		wrong += c->row_keys[n] < c->least[n] || c->row_keys[n] > c->most[n];
	return wrong;
}

int64_t test_grouped_marks(void)
{
	return grouped_marks;
}

void test_counts(const char *name, const Problem *p, const ScreenMarks *marks)
{
	Counts counts;
	int64_t wrong = 0;

	if (fetch_counts(p, &counts)) {
		int64_t rows = counts.indices * counts.row_blocks, keys = counts.kv_indices * counts.key_tiles;

		subtract_marks(p, marks, &counts);
		wrong += count_outside(&counts);
		wrong += count_left(counts.kept_keys, rows);
		wrong += count_left(counts.key_rows, keys);
		CHECK(wrong == 0, "'%s': %lld counts of keys and rows are not those of the marks", name, (long long)wrong);
	}
	free(counts.row_keys);
	free(counts.kept_keys);
	free(counts.key_rows);
	free(counts.least);
	free(counts.most);
}
