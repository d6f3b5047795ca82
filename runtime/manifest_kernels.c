/* What a manifest says of its kernels: launches with their grids and arguments, and the formulas of those. */
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "manifest_kernels.h"

static const char *const phase_words[] = {
	[PHASE_FORWARD] = "forward", [PHASE_BACKWARD] = "backward", [PHASE_COUNTING] = "count", NULL
};
/* Which workspaces the kernels of a phase may use. */
static const bool phase_uses[PHASE_KINDS][BUFFER_KIND_COUNT] = {
	[PHASE_FORWARD] = { [BUFFER_SAVED] = true, [BUFFER_FORWARD] = true },
	[PHASE_BACKWARD] = { [BUFFER_SAVED] = true, [BUFFER_BACKWARD] = true },
	[PHASE_COUNTING] = { [BUFFER_COUNTS] = true },
};

/* ---- formulas ---- */

/* BYTES may depend on the shape alone: workspaces are sized before there are tensors. */
static const bool shape_vars[FORMULA_VARS] = {
	[SHAPE_BATCH] = true, [SHAPE_HEADS] = true, [SHAPE_KV_HEADS] = true, [SHAPE_Q_LEN] = true, [SHAPE_K_LEN] = true,
	[SHAPE_LAYER] = true, [SHAPE_LAYERS] = true,
};

/* A grid may depend on the device as well. */
static void grid_vars(bool allowed[FORMULA_VARS])
{
	memcpy(allowed, shape_vars, sizeof(shape_vars));
	allowed[SHAPE_MULTIPROCESSORS] = true;
}

static tda_status read_formula(const Reader *r, Word word, const bool *allowed, Formula **formula)
{
	*formula = formula_parse(word.text, word.length);
	if (!*formula)
		return tda_fail_within(TDA_BAD_FILE, "line %d of the manifest: ", r->line);
	if (formula_first_not_allowed(*formula, allowed) >= 0)
		return manifest_bad_line(r, "the formula reads a variable that has no value there");
	return TDA_OK;
}

tda_status manifest_read_bytes(const Reader *r, Word word, Formula **formula)
{
	return read_formula(r, word, shape_vars, formula);
}

/* ---- kernels and their arguments ---- */

/* Which tensors a phase has: the forward q, k, v, o; the backward q, k, v, do and the gradients; counting q and k. */
static bool tensor_in_phase(const Manifest *m, int tensor, Phase phase)
{
	static const int first_of_views[] = { TENSOR_Q, TENSOR_K, TENSOR_DQ, TENSOR_DK };

	for (int g = 0; g < 4; g++)
		if (tensor >= first_of_views[g] && tensor < first_of_views[g] + TDA_MAX_VIEWS)
			return tensor - first_of_views[g] < m->views && (g < 2 || phase == PHASE_BACKWARD);
	if (phase == PHASE_COUNTING)
		return false;
	return tensor == TENSOR_V || (tensor == TENSOR_O) == (phase == PHASE_FORWARD);
}

tda_status manifest_read_kernel(Reader *r)
{
	ManifestKernel *kernel = &r->m->kernels[r->m->kernel_count];
	int phase = word_choice(r->word[0], phase_words), shared = 0;
	bool allowed[FORMULA_VARS];
	tda_status status;

	if (r->m->kernel_count == MANIFEST_MAX_KERNELS)
		return manifest_bad_line(r, "there are more kernels than libtda can take");
	if (phase < 0)
		return manifest_bad_line(r, "the phase is not known to this libtda");
	kernel->phase = (Phase)phase;
	kernel->leader = r->m->kernel_count++;
	r->kernel = kernel;
	kernel->args = calloc(MANIFEST_MAX_ARGS, sizeof(*kernel->args));
	if (!kernel->args)
		return tda_fail_memory();
	if ((status = word_copy_name(r, r->word[1], kernel->entry, sizeof(kernel->entry))) ||
	    (status = word_read_int(r, 2, 1, 1024, &kernel->block)) || (status = word_read_int(r, 3, 0, 1 << 20, &shared)))
		return status;
	kernel->shared = (uint32_t)shared;
	grid_vars(allowed);
	return read_formula(r, r->word[4], allowed, &kernel->grid);
}

static bool has_prefix(Word *word, const char *prefix)
{
	size_t length = strlen(prefix);

	if (word->length <= length || memcmp(word->text, prefix, length) != 0)
		return false;
	word->text += length;
	word->length -= length;
	return true;
}

static tda_status read_pointer(const Reader *r, Word word, Pointer *pointer)
{
	const Manifest *m = r->m;
	Phase phase = r->kernel->phase;

	if (has_prefix(&word, "param.")) {
		*pointer = (Pointer){ POINTER_PARAM, manifest_find_param(m, word.text, word.length) };
	} else if (has_prefix(&word, "dparam.")) {
		*pointer = (Pointer){ POINTER_DPARAM, manifest_find_param(m, word.text, word.length) };
		if (phase != PHASE_BACKWARD)
			return manifest_bad_line(r, "a kernel that is not of the backward has no gradients");
	} else if (has_prefix(&word, "buffer.")) {
		*pointer = (Pointer){ POINTER_BUFFER, -1 };
		for (int b = 0; b < m->buffer_count; b++)
			if (word_is(word, m->buffers[b].name))
				pointer->index = b;
		if (pointer->index >= 0 && !phase_uses[phase][m->buffers[pointer->index].kind])
			return manifest_bad_line(r, "the kernel uses scratch of the other phase");
	} else {
		*pointer = (Pointer){ POINTER_TENSOR, tensor_find(word.text, word.length) };
		if (pointer->index >= 0 && !tensor_in_phase(m, pointer->index, phase))
			return manifest_bad_line(r, "the kernel uses a tensor that its phase does not have");
	}
	return pointer->index < 0 ? manifest_bad_line(r, "no such tensor, parameter or buffer") : TDA_OK;
}

tda_status manifest_read_when(Reader *r)
{
	if (!r->kernel || r->kernel->conditional)
		return manifest_bad_line(r, "'when' has no kernel above it, or is there twice");
	r->kernel->conditional = true;
	return read_pointer(r, r->word[0], &r->kernel->when);
}

tda_status manifest_read_beside(Reader *r)
{
	ManifestKernel *kernel = r->kernel;

	if (!kernel || kernel == r->m->kernels || kernel[-1].phase != kernel->phase)
		return manifest_bad_line(r, "'beside' has no kernel above it, or none of its phase to be beside of");
	kernel->leader = kernel[-1].leader;
	return TDA_OK;
}

tda_status manifest_read_follows(Reader *r)
{
	ManifestKernel *kernel = r->kernel;

	if (!kernel || kernel == r->m->kernels || kernel[-1].phase != kernel->phase || kernel->leader < kernel - r->m->kernels)
		return manifest_bad_line(r, "'follows' has no kernel above it, none of its phase to follow, or one that is beside others");
	kernel->follows = true;
	return TDA_OK;
}

/* POINTER COLS, then entries and stride of rows, heads and batches, then BOX_COLS BOX_ROWS. */
static tda_status read_map(const Reader *r, const bool *allowed, ManifestArg *arg)
{
	enum { FIRST_OUTER = 3, FIRST_BOX = FIRST_OUTER + 2 * MAP_OUTER, MOST_BOX = 256 };
	tda_status status = read_pointer(r, r->word[1], &arg->pointer);
	ManifestMap *map = arg->map = calloc(1, sizeof(*map));

	if (status)
		return status;
	if (!map)
		return tda_fail_memory();
	if (++r->kernel->map_count > MANIFEST_MAX_MAPS)
		return manifest_bad_line(r, "the kernel has more tensor maps than libtda can take");
	if ((status = word_read_int(r, 2, 8, 256, &map->cols)) ||
	    (status = word_read_int(r, FIRST_BOX, 8, MOST_BOX, &map->box_cols)) ||
	    (status = word_read_int(r, FIRST_BOX + 1, 1, MOST_BOX, &map->box_rows)))
		return status;
	for (int d = 0; d < MAP_OUTER && !status; d++)
		if (!(status = read_formula(r, r->word[FIRST_OUTER + 2 * d], shape_vars, &map->extent[d])))
			status = read_formula(r, r->word[FIRST_OUTER + 2 * d + 1], allowed, &map->stride[d]);
	return status;
}

tda_status manifest_read_arg(Reader *r)
{
	enum { MAP_WORDS = 11 };
	static const char *const types[] = {
		[ARG_PTR] = "ptr", [ARG_I32] = "i32", [ARG_I64] = "i64", [ARG_MAP] = "map", NULL
	};
	int type = word_choice(r->word[0], types);
	bool allowed[FORMULA_VARS];
	ManifestArg *arg;

	if (!r->kernel)
		return manifest_bad_line(r, "'arg' has no kernel above it");
	if (r->kernel->arg_count == MANIFEST_MAX_ARGS)
		return manifest_bad_line(r, "the kernel has more arguments than libtda can take");
	if (type < 0)
		return manifest_bad_line(r, "the argument's type is not known to this libtda");
	if (r->words != (type == ARG_MAP ? MAP_WORDS : 2))
		return manifest_bad_line(r, "there are too few or too many words");
	arg = &r->kernel->args[r->kernel->arg_count++];
	arg->type = (ArgType)type;
	if (arg->type == ARG_PTR)
		return read_pointer(r, r->word[1], &arg->pointer);
	memcpy(allowed, shape_vars, sizeof(allowed));
	for (int t = 0; t < TENSOR_COUNT; t++)
		for (int s = 0; s < STRIDE_COUNT; s++)
			allowed[formula_stride_var(t, s)] = tensor_in_phase(r->m, t, r->kernel->phase);
	if (arg->type == ARG_MAP)
		return read_map(r, allowed, arg);
	return read_formula(r, r->word[1], allowed, &arg->formula);
}

static void free_map(ManifestMap *map)
{
	for (int d = 0; map && d < MAP_OUTER; d++) {
		free(map->extent[d]);
		free(map->stride[d]);
	}
	free(map);
}

void manifest_free_kernels(Manifest *m)
{
	for (int k = 0; k < m->kernel_count; k++) {
		for (int a = 0; a < m->kernels[k].arg_count; a++) {
			free(m->kernels[k].args[a].formula);
			free_map(m->kernels[k].args[a].map);
		}
		free(m->kernels[k].args);
		free(m->kernels[k].grid);
	}
}
