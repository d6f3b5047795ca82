/*
 * Partial sums to the gradient of one learned parameter, in a fixed order, so that two runs agree bit for bit. One CTA
 * makes one entry of the gradient; entries of other layers than the launch's become 0.
 */
#include "kernels_parts.h"
#include "tile_parts.h"

/* Sums over the CTA's threads; the first warp gets the result. */
static Val cta_sum(Kernel *k, Val x)
{
	Builder *b = k->b;
	Val sums = val_offset_const(b, k->shared, k->shared_bytes), first_lane = val_compare(b, IR_EQ, k->lane, val_i32(b, 0));
	k->shared_bytes += WARP * 4;
	x = lane_sum(k, x, WARP);
	for (If f = if_begin(b, first_lane, NULL, 0); if_next(&f);)
		val_store(b, val_offset(b, sums, val_mul_i32(b, k->warp, 4)), x);
	kernel_barrier(k);
	return lane_sum(k, val_load(b, val_offset(b, sums, val_mul_i32(b, k->lane, 4)), IR_F32), WARP);
}

/* Partial sums of one entry, i32 indices into a buffer: number n of them is at `first` + n * `step`, or, where they come in runs, at
 * `first` + n / run * distance + n % run. */
typedef struct Partials {
	Val count, first;
	Val step;
	Val run, distance;                 /* null: no runs, and no step else */
} Partials;

static Val partial_index(Kernel *k, const Partials *partials, Val number)
{
	Builder *b = k->b;
	if (val_is_null(partials->run))
		return val_add(b, partials->first, val_mul(b, number, partials->step));
	Val before = val_mul(b, val_div(b, number, partials->run), partials->distance), within = val_rem(b, number, partials->run);
	return val_add(b, val_add(b, partials->first, before), within);
}

/* Each thread adds every so-many-th. */
static Val sum_partials(Kernel *k, Val buffer, const Partials *partials)
{
	Builder *b = k->b;
	int threads = k->launch->warps * WARP;
	Val left = val_sub(b, val_add_i32(b, partials->count, threads - 1), k->thread);
	Val rounds = val_div_i32(b, left, threads), sum = val_f32(b, 0);
	Val *carry[] = { &sum };
	for (Loop loop = loop_begin(b, val_i32(b, 0), rounds, 1, carry, 1); loop_next(&loop);) {
		Val number = val_add(b, k->thread, val_mul_i32(b, loop.index, threads));
		Val index = val_to_i64(b, partial_index(k, partials, number));
		Val at = val_offset(b, buffer, val_mul(b, index, val_i64(b, 4)));
		sum = val_fadd(b, sum, val_load(b, at, IR_F32));
	}
	return cta_sum(k, sum);
}

/* Sums that backward_q wrote as [pass][batch][head][block]: of one head, or of all. */
static Partials partials_of_rows(Kernel *k, Val head)
{
	Builder *b = k->b;
	const char *blocks = plan_row_blocks(k->plan, b->arena);
	int passes = k->plan->backward_q_passes;
	if (val_is_null(head))
		return (Partials){ .count = kernel_i32(k, "%d*batch*heads*%s", passes, blocks), .first = val_i32(b, 0), .step = val_i32(b, 1) };
	Partials partials = { .count = kernel_i32(k, "%d*batch*%s", passes, blocks) };
	partials.run = kernel_i32(k, "%s", blocks);
	partials.distance = kernel_i32(k, "heads*%s", blocks);
	partials.first = val_mul(b, head, partials.run);
	return partials;
}

bool build_reduce(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel kernel = kernel_begin(b, module, spec, plan, launch), *k = &kernel;
	const Param *param = &spec->params[launch->param];
	Val entry = k->cta;
	Val head = { NULL };
	Val counts = val_true(b);
	if (param->shape == PARAM_PER_HEAD) {
		head = entry;
	} else if (param->shape == PARAM_PER_LAYER) {
		counts = val_compare(b, IR_EQ, entry, kernel_i32(k, "layer"));
	} else if (param->shape == PARAM_PER_LAYER_HEAD) {
		Val heads = kernel_i32(k, "heads");
		head = val_rem(b, entry, heads);
		Val layer = val_div(b, entry, heads);
		counts = val_compare(b, IR_EQ, layer, kernel_i32(k, "layer"));
	}
	Val zero = val_f32(b, 0);
	Val total = zero;
	if (launch->param == spec->gain) {
		Val buffer = kernel_pointer(k, "buffer.partial_%s", param->name);
		Val count = kernel_i32(k, "batch*heads*ceil_div(q_len,%d)", PLAN_TERM_ROWS);
		Partials partials = { .count = count, .first = entry, .step = val_i32(b, spec->value_dim) };
		total = sum_partials(k, buffer, &partials);
	} else if (plan_has_partials(plan, launch->param)) {
		Val buffer = kernel_pointer(k, "buffer.partial_%s", param->name);
		Partials partials = partials_of_rows(k, head);
		total = val_select(b, counts, sum_partials(k, buffer, &partials), zero);
	}
	Val to = kernel_pointer(k, "dparam.%s", param->name);
	Val index = val_to_i64(b, entry);
	Val at = val_offset(b, to, val_mul(b, index, val_i64(b, 4)));
	Val first_thread = val_compare(b, IR_EQ, k->thread, val_i32(b, 0));
	for (If f = if_begin(b, first_thread, NULL, 0); if_next(&f);)
		val_store(b, at, total);
	return kernel_end(k);
}
