/*
 * Partial sums to the gradient of one learned parameter, in a fixed order, so that two runs agree bit for bit. One CTA
 * makes one entry of the gradient; entries of other layers than the launch's become 0.
 */
#include "kernels_parts.h"
#include "tile_parts.h"

enum { REDUCE_WARPS = 4, REDUCE_THREADS = REDUCE_WARPS * WARP };

/* Sums over the CTA's threads; every thread gets the result. */
static Val cta_sum(Kernel *k, Val x)
{
	Builder *b = k->b;
	x = lane_sum(k, x, WARP);
	k->shared_bytes += REDUCE_WARPS * 4;
	Val own = val_offset(b, k->shared, val_mul_i32(b, k->warp, 4));
	Val first_lane = val_compare(b, IR_EQ, k->lane, val_i32(b, 0));
	for (If f = if_begin(b, first_lane, NULL, 0); if_next(&f);)
		val_store(b, own, x);
	kernel_barrier(k);
	Val total = val_load(b, k->shared, IR_F32);
	for (int w = 1; w < REDUCE_WARPS; w++) {
		Val at = val_offset_const(b, k->shared, w * 4);
		total = val_fadd(b, total, val_load(b, at, IR_F32));
	}
	return total;
}

/* Adds every `step`-th float32 from `first` up to `end` (i32 indices into a buffer), thread by thread. */
static Val strided_sum(Kernel *k, Val buffer, Val first, Val end, Val step, Val sum)
{
	Builder *b = k->b;
	Val own = val_mul(b, k->thread, step);
	Val begin = val_add(b, first, own);
	Val stride = val_mul_i32(b, step, REDUCE_THREADS);
	Val span = val_sub(b, end, begin);
	Val up = val_add(b, span, val_add_i32(b, stride, -1));
	Val rounds = val_div(b, val_max(b, up, val_i32(b, 0)), stride);
	Val *carry[] = { &sum };
	for (Loop loop = loop_begin(b, val_i32(b, 0), rounds, 1, carry, 1); loop_next(&loop);) {
		Val past = val_mul(b, loop.index, stride);
		Val index = val_to_i64(b, val_add(b, begin, past));
		Val at = val_offset(b, buffer, val_mul(b, index, val_i64(b, 4)));
		sum = val_fadd(b, sum, val_load(b, at, IR_F32));
	}
	return sum;
}

/* Sums that backward_q wrote as [pass][batch][head][block]: of one head, or of all. */
static Val sum_over_rows(Kernel *k, Val buffer, Val head)
{
	Builder *b = k->b;
	Val sum = val_f32(b, 0);
	Val blocks = kernel_i32(k, "%s", plan_row_blocks(k->plan, k->b->arena));
	Val one = val_i32(b, 1), zero = val_i32(b, 0);
	if (val_is_null(head)) {
		Val all = kernel_i32(k, "%d*batch*heads*%s", k->plan->backward_q_passes, plan_row_blocks(k->plan, b->arena));
		return strided_sum(k, buffer, zero, all, one, sum);
	}
	Val *carry[] = { &sum };
	Val heads = kernel_i32(k, "heads");
	Val batches = kernel_i32(k, "%d*batch", k->plan->backward_q_passes);
	for (Loop loop = loop_begin(b, zero, batches, 1, carry, 1); loop_next(&loop);) {
		Val skipped = val_mul(b, loop.index, heads);
		Val first = val_mul(b, val_add(b, skipped, head), blocks);
		Val end = val_add(b, first, blocks);
		sum = strided_sum(k, buffer, first, end, one, sum);
	}
	return sum;
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
		Val step = val_i32(b, spec->value_dim);
		Val end = kernel_i32(k, "%d*batch*heads*ceil_div(q_len,%d)", spec->value_dim, PLAN_NORM_ROWS);
		total = cta_sum(k, strided_sum(k, buffer, entry, end, step, zero));
	} else if (plan_has_partials(plan, launch->param)) {
		Val buffer = kernel_pointer(k, "buffer.partial_%s", param->name);
		total = cta_sum(k, sum_over_rows(k, buffer, head));
		total = val_select(b, counts, total, zero);
	}
	Val to = kernel_pointer(k, "dparam.%s", param->name);
	Val index = val_to_i64(b, entry);
	Val at = val_offset(b, to, val_mul(b, index, val_i64(b, 4)));
	Val first_thread = val_compare(b, IR_EQ, k->thread, val_i32(b, 0));
	for (If f = if_begin(b, first_thread, NULL, 0); if_next(&f);)
		val_store(b, at, total);
	return kernel_end(k);
}
