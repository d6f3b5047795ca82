/*
 * Where a file that holds both plans takes which: by numbers of rows and keys, which a launch knows without asking the GPU.
 *
 * How long a sparse plan takes depends on what survives, which isn't known beforehand. Forward and backward of both plans, in ms
 * on an H100 (causal, 16 heads, batch * q_len = 16384, q_len = k_len, two views):
 *
 *   head_dim 64, bf16, sm_90a        dense   sparse
 *     512 keys, 7 % of tiles         0.75    0.41
 *    1024                            1.06    0.44
 *    2048                            1.70    0.49
 *    4096, heads of trained models   2.98    0.57 to 0.69
 *    4096, all tiles                 3.32    2.83
 *   16384, heads of trained models  10.0     1.00
 *   16384, all tiles                11.7    22.4      marks without room
 *   others
 *    4096, sm_80, bf16, 64           4.7     0.77 to 0.91
 *   16384, sm_80, bf16, 64          17.2     1.55
 *   16384, sm_90a, bf16, 128        16.4     1.79     7 % of tiles
 *   16384, sm_90a, f32, 64          62.5     1.52     dense: of sm_80, whose kernels these are
 *
 * At 512 keys the sparse plan is well ahead; below, and for sm_80 below 4096 keys, neither was timed. Nor were few rows (decoding):
 * there the dense plan is taken, as the screen needs int8 images of all keys, made anew in each launch, and has few rows to save
 * anything for.
 */
#include "plan.h"

enum { ANY_VIEWS = 0 };

/* The first row that holds counts: dtypes of so many bytes, a head_dim up to this, these views. */
static const struct {
	Target target;
	int dtype_bytes, head_dim, views;
	Crossover crossover;
} crossovers[] = {
	/* target       bytes head_dim           views         q_len k_len  timed from */
	{ TARGET_SM_80,  2,    64,                2,         { 64,   512,   4096 } },
	{ TARGET_SM_80,  2,    SPEC_MAX_HEAD_DIM, ANY_VIEWS, { 64,   512,      0 } },
	{ TARGET_SM_80,  4,    SPEC_MAX_HEAD_DIM, ANY_VIEWS, { 64,   512,      0 } },
	{ TARGET_SM_90A, 2,    64,                2,         { 64,   512,    512 } },
	{ TARGET_SM_90A, 2,    128,               2,         { 64,   512,  16384 } },
	{ TARGET_SM_90A, 2,    SPEC_MAX_HEAD_DIM, ANY_VIEWS, { 64,   512,      0 } },
	{ TARGET_SM_90A, 4,    64,                2,         { 64,   512,  16384 } },
	{ TARGET_SM_90A, 4,    SPEC_MAX_HEAD_DIM, ANY_VIEWS, { 64,   512,      0 } },
};

static const Crossover *find_crossover(const Spec *spec, Target target)
{
	for (size_t i = 0; i < sizeof crossovers / sizeof *crossovers; i++)
		if (crossovers[i].target == target && crossovers[i].dtype_bytes == dtype_size(spec->dtype) &&
		    spec->head_dim <= crossovers[i].head_dim &&
		    (crossovers[i].views == ANY_VIEWS || crossovers[i].views == spec->views))
			return &crossovers[i].crossover;
	return NULL;
}

/* A row of a window sees no more keys than that, however many there are. */
const Crossover *plan_crossover(const Spec *spec, Target target)
{
	const Crossover *crossover = find_crossover(spec, target);
	bool narrow = crossover && spec->window > 0 && spec->window < crossover->k_len;
	return narrow ? NULL : crossover;
}

const char *plan_taken(const Plan *plan, Arena *arena)
{
	if (!plan->crossover)
		return NULL;
	return arena_printf(arena, plan->sparse ? "min(1,min(q_len/%d,k_len/%d))" : "(1-min(1,min(q_len/%d,k_len/%d)))",
	                    plan->crossover->q_len, plan->crossover->k_len);
}
