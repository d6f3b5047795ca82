/* Counting: where its arrays are, and its launch. */
#include "error.h"
#include "module.h"

static const int64_t term_rows = 64, mask_keys = 64, warp_rows = 16;

/* The offset of a buffer that must have so many bytes: the caller goes by what tda.h says of its shape. */
static tda_status find_array(const Manifest *m, const int64_t *vars, const char *name, int64_t bytes, size_t *at)
{
	int64_t offset = 0, size = 0;
	int index = manifest_find_buffer(m, name);
	tda_status status;

	if (index < 0 || m->buffers[index].kind != BUFFER_COUNTS)
		return tda_fail(TDA_BAD_FILE, "the manifest lacks the buffer '%s', which a file that counts has; compile the spec again", name);
	if ((status = launch_buffer(m, vars, index, &offset, &size)))
		return status;
	if (size != bytes)
		return tda_fail(TDA_BAD_FILE, "the buffer '%s' has %lld bytes, and should have %lld; compile the spec again", name,
		                (long long)size, (long long)bytes);
	*at = (size_t)offset;
	return TDA_OK;
}

static tda_status find_thresholds(const Manifest *m, const int64_t *vars, tda_count_sizes *sizes)
{
	int64_t rows = (vars[SHAPE_Q_LEN] + term_rows - 1) / term_rows * term_rows;
	bool shared = manifest_find_buffer(m, "tau2") < 0;
	tda_status status = TDA_OK;

	for (int v = 0; v < m->views && !status; v++) {
		const char name[] = { 't', 'a', 'u', (char)('1' + (shared ? 0 : v)), 0 };

		status = find_array(m, vars, name, 4 * vars[SHAPE_BATCH] * vars[SHAPE_HEADS] * rows, &sizes->tau[v]);
	}
	return status;
}

/* Products fit: launch_sizes has computed larger ones. */
static tda_status find_arrays(const Manifest *m, const int64_t *vars, tda_count_sizes *sizes)
{
	int64_t planes = vars[SHAPE_BATCH] * vars[SHAPE_HEADS], blocks = (vars[SHAPE_Q_LEN] + m->count.rows - 1) / m->count.rows;
	int64_t rows = blocks * m->count.rows, tiles = blocks * ((vars[SHAPE_K_LEN] + mask_keys - 1) / mask_keys);
	struct { const char *name; int64_t bytes; size_t *at; } arrays[] = {
		{ "survivors", 4 * m->views * planes * rows, &sizes->survivors },
		{ "consensus", 4 * planes * rows, &sizes->consensus },
		{ "masks", 8 * m->views * planes * tiles, &sizes->masks },
		{ "tiles", 4 * planes * tiles, &sizes->tiles },
		{ "row_weight", 4 * planes * rows, &sizes->row_weight },
		{ "row_sink", 4 * planes * rows, &sizes->row_sink },
		{ "moments", 4 * sizes->moment_count * planes * rows / warp_rows, &sizes->moments },
		{ "tails", 4 * sizes->tail_count * planes * rows / warp_rows, &sizes->tails },
	};
	int count = m->count.above ? 4 : 8;
	tda_status status = find_thresholds(m, vars, sizes);

	for (int n = 0; n < count && !status; n++)
		status = find_array(m, vars, arrays[n].name, arrays[n].bytes, arrays[n].at);
	return status;
}

tda_status tda_get_count_sizes(const tda_kernel *kernel, const tda_shape *shape, tda_count_sizes *sizes)
{
	enum { POWERS = 4, TAILS = 6 };
	int64_t vars[FORMULA_VARS] = {0}, bytes[BUFFER_KIND_COUNT];
	tda_status status = validate_pointers(kernel, shape, "shape");
	const Manifest *m;

	if (status || (status = validate_pointers(kernel, sizes, "sizes")))
		return status;
	if (sizes->size != sizeof(*sizes) || sizes->version != TDA_ABI_VERSION)
		return tda_fail(TDA_BAD_ARGUMENT, "sizes: size or version is not this libtda's: initialise it with TDA_COUNT_SIZES_INIT");
	m = kernel->manifest;
	if ((status = validate_counts(m)) || (status = validate_shape(shape, vars)) || (status = launch_sizes(m, vars, bytes)))
		return status;
	*sizes = (tda_count_sizes)TDA_COUNT_SIZES_INIT;
	sizes->bytes = (size_t)bytes[BUFFER_COUNTS];
	sizes->block_rows = m->count.rows;
	sizes->moment_count = m->count.above ? 0 : POWERS * m->views + m->views * (m->views - 1) / 2;
	sizes->tail_count = m->count.above ? 0 : TAILS * m->views;
	return find_arrays(m, vars, sizes);
}

tda_status tda_count(tda_kernel *kernel, const tda_count_args *args, void *stream)
{
	tda_status status = validate_pointers(kernel, args, "args");
	Binding binding;

	if (status || (status = validate_count(kernel, args, &binding)))
		return status;
	return module_launch(kernel, PHASE_COUNTING, &binding, stream);
}
