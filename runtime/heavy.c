#include <stdlib.h>
#include "error.h"
#include "heavy.h"
#include "marks.h"

/* The saved buffer `row_keys`: what each row block gathers; [views * batch * heads, row_blocks]. */
static tda_status fetch_counts(const Problem *p, int64_t count, uint32_t **counts)
{
	int64_t vars[FORMULA_VARS] = {0}, offset, bytes;
	int buffer = manifest_find_buffer(p->manifest, "row_keys");
	Device *device = p->device;
	tda_status status = validate_shape(&p->shape, vars);

	if (status)
		return status;
	if (buffer < 0 || p->manifest->buffers[buffer].kind != BUFFER_SAVED)
		return tda_fail(TDA_BAD_FILE, "the manifest has heavy blocks, but no saved buffer 'row_keys'; compile the spec again");
	if ((status = launch_buffer(p->manifest, vars, buffer, &offset, &bytes)))
		return status;
	if (bytes != count * (int64_t)sizeof(**counts))
		return tda_fail(TDA_BAD_FILE, "the buffer 'row_keys' has %lld bytes where counts take %lld; compile the spec again",
		                (long long)bytes, (long long)count * (long long)sizeof(**counts));
	*counts = calloc((size_t)count + 1, sizeof(**counts));
	if (!*counts)
		return tda_fail_memory();
	if ((status = device->ops->synchronize(device)))
		return status;
	return device->ops->copy_out(device, *counts, (const char *)p->workspace[BUFFER_SAVED] + offset, (size_t)bytes);
}

/* Key tiles that some row of a row block sees. */
static int64_t visible_tiles(const Problem *p, int64_t row_block)
{
	int64_t shift = p->shape.k_len - p->shape.q_len, row = row_block * MARK_SIDE, last = row + MARK_SIDE - 1, first, end;

	if (last >= p->shape.q_len)
		last = p->shape.q_len - 1;
	first = reference_visible_keys(p->manifest, row + shift, p->shape.k_len).first / MARK_SIDE;
	end = (reference_visible_keys(p->manifest, last + shift, p->shape.k_len).end + MARK_SIDE - 1) / MARK_SIDE;
	return end > first ? end - first : 0;
}

/* By the rule of the kernels: over all views, and all row blocks of the block. */
static bool is_heavy(const Problem *p, const uint32_t *counts, int64_t row_blocks, int64_t batch_head, int64_t block)
{
	const ManifestHeavy *rule = &p->manifest->heavy;
	int64_t together = rule->rows / MARK_SIDE, visited = 0, visible = 0, views = p->manifest->views;

	for (int64_t r = block * together; r < (block + 1) * together && r < row_blocks; r++) {
		visible += visible_tiles(p, r) * MARK_SIDE * views;
		for (int64_t v = 0; v < views; v++)
			visited += counts[(v * p->shape.batch * p->shape.heads + batch_head) * row_blocks + r];
	}
	return visited >= rule->keys * views * together && visited * rule->part >= visible;
}

tda_status heavy_fetch(const Problem *p, bool **heavy, int64_t *blocks)
{
	int64_t heads = p->shape.batch * p->shape.heads, row_blocks = (p->shape.q_len + MARK_SIDE - 1) / MARK_SIDE;
	int64_t rows = p->manifest->heavy.rows;
	uint32_t *counts = NULL;
	tda_status status;

	*heavy = NULL;
	*blocks = rows > 0 ? (p->shape.q_len + rows - 1) / rows : 0;
	if (*blocks == 0)
		return TDA_OK;
	status = fetch_counts(p, p->manifest->views * heads * row_blocks, &counts);
	if (!status && !(*heavy = calloc((size_t)(heads * *blocks) + 1, sizeof(**heavy))))
		status = tda_fail_memory();
	for (int64_t n = 0; n < heads * *blocks && !status; n++)
		(*heavy)[n] = is_heavy(p, counts, row_blocks, n / *blocks, n % *blocks);
	free(counts);
	return status;
}
