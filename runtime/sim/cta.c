/*
 * Warps, and the CTAs that they make up. CTAs run one after the other; a CTA's warps take turns, each until it waits
 * at a barrier, ends, or has used up its turn. A warp's lanes run together while they agree; a branch that splits
 * them runs one side until the branch's reconvergence point, then the other.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "exec.h"

#define TURN 65536                                      /* instructions a warp executes before the next one's turn */
#define WARP_BUDGET UINT64_C(200000000)                 /* instructions; a warp that needs more loops forever */

static bool check_sources(Warp *w, const Inst *in, uint32_t mask)
{
	for (int k = in->n_dst; k < in->n_dst + in->n_src; k++) {
		uint32_t missing = mask & ~w->written[in->op[k]];
		if (missing)
			return report_at(w, in, __builtin_ctz(missing), "source register %d holds no value: nothing wrote it",
				k - in->n_dst + 1);
	}
	return true;
}

/* After a change of pc or active: lanes that arrived, or are gone, give way to those that wait below. */
static void settle(Warp *w)
{
	while (w->active == 0 || w->pc == w->reconverge) {
		if (w->depth == 0)
			break;
		Frame f = w->stack[--w->depth];
		w->pc = f.pc;
		w->reconverge = f.reconverge;
		w->active = f.mask & w->live;
	}
	if (!w->live)
		w->state = WARP_DONE;
}

bool op_branch(Warp *w, const Inst *in, uint32_t mask)
{
	if (mask == w->active) {
		w->pc = in->target;
		return true;
	}
	/* Lanes that wait at the same place already need no frame of their own. */
	if (w->reconverge != in->reconverge)
		w->stack[w->depth++] = (Frame){ in->reconverge, w->reconverge, w->active };
	w->stack[w->depth++] = (Frame){ w->pc, in->reconverge, w->active & ~mask };
	w->active = mask;
	w->pc = in->target;
	w->reconverge = in->reconverge;
	return true;
}

bool op_leave(Warp *w, const Inst *in, uint32_t mask)
{
	(void)in;
	w->live &= ~mask;
	w->active &= ~mask;
	return true;
}

static bool step(Warp *w, const Inst *in)
{
	uint32_t mask = w->active & (*pred(w, in->guard) ^ in->guard_flip);
	if (w->active & ~w->written[in->guard])
		return report_at(w, in, __builtin_ctz(w->active & ~w->written[in->guard]),
			"the guard predicate holds no value: nothing wrote it");
	w->pc++;
	if (!mask)
		return true;
	if (in->traits & OP_WHOLE_WARP && mask != w->live)
		return report_at(w, in, -1, "the instruction must be executed by all lanes of the warp together, but only "
			"lanes 0x%08x of 0x%08x do: it is in divergent code or under a predicate", mask, w->live);
	if (w->n_wgmma && !wgmma_watch(w, in))
		return false;
	if (in->traits & OP_POISON)
		return in->run(w, in, mask);
	if (!check_sources(w, in, mask) || !in->run(w, in, mask))
		return false;
	for (int k = 0; k < in->n_dst; k++)
		w->written[in->op[k]] |= mask;
	return true;
}

static bool run_turn(Warp *w)
{
	const Kernel *k = w->cta->kernel;
	uint64_t end = w->executed + TURN;
	w->yields = false;
	for (; w->state == WARP_READY && w->executed < end && !w->yields; w->executed++) {
		if (w->pc >= k->n_code)
			op_leave(w, NULL, w->active);      /* a body that ends without ret */
		else if (!step(w, &k->code[w->pc]))
			return false;
		settle(w);
	}
	if (w->executed >= WARP_BUDGET)
		return report_at(w, &k->code[w->pc < k->n_code ? w->pc : k->n_code - 1], -1,
			"the warp has executed %llu instructions: an endless loop?", (unsigned long long)w->executed);
	return true;
}

/* ---- barriers ---- */

static void arrive(Warp *w, Barrier *b)
{
	clock_publish(w, &b->joined);
	b->arrived++;
}

static void release_when_full(Cta *cta, Barrier *b)
{
	if (b->arrived < b->expected)
		return;
	for (uint32_t i = 0; i < cta->n_warps; i++) {
		Warp *w = &cta->warps[i];
		if (!(b->waiting >> i & 1))
			continue;
		clock_join(&w->clock, &b->joined);
		w->state = WARP_READY;
		if (w->waiting_at->n_dst > 0)
			set_pred(w, w->waiting_at->op[0], w->live, b->any ? UINT32_MAX : 0);
	}
	*b = (Barrier){ 0 };
}

/* The barrier that the operands name, ready to arrive at. NULL after a report. */
static Barrier *open_barrier(Warp *w, const Inst *in, uint32_t mask)
{
	Cta *cta = w->cta;
	const Slot *source = in->op + in->n_dst;
	int lane = __builtin_ctz(mask);
	uint32_t number = (uint32_t)lane_get(w, source[0], 4, lane), expected = cta->n_warps;
	for (int l = 0; l < LANES; l++)
		if (mask >> l & 1 && lane_get(w, source[0], 4, l) != number) {
			report_at(w, in, l, "lanes of one warp name different barriers");
			return NULL;
		}
	if (number >= MAX_BARRIERS) {
		report_at(w, in, lane, "barrier %u: a CTA has barriers 0 to %d", number, MAX_BARRIERS - 1);
		return NULL;
	}
	if (in->n_src > 1) {
		uint32_t threads = (uint32_t)lane_get(w, source[1], 4, lane);
		expected = threads / LANES;
		if (threads == 0 || threads % LANES || expected > cta->n_warps) {
			report_at(w, in, lane, "a barrier of %u threads: it must be a multiple of %d up to the CTA's %u",
				threads, LANES,
				cta->n_warps * LANES);
			return NULL;
		}
	}
	Barrier *b = &cta->barriers[number];
	if (b->arrived && b->expected != expected) {
		report_at(w, in, lane, "barrier %u: this warp expects %u warps there, those that wait expect %u", number,
			expected,
			b->expected);
		return NULL;
	}
	b->expected = expected;
	return b;
}

bool op_bar_sync(Warp *w, const Inst *in, uint32_t mask)
{
	Barrier *b = open_barrier(w, in, mask);
	if (!b)
		return false;
	arrive(w, b);
	b->waiting |= 1u << w->number;
	w->state = WARP_WAITING;
	w->waiting_at = in;
	w->waits_for = WAITS_FOR_BARRIER;
	w->barrier = (uint32_t)(b - w->cta->barriers);
	release_when_full(w->cta, b);
	return true;
}

/* The result is known, and written, when the last warp arrives. */
bool op_bar_red(Warp *w, const Inst *in, uint32_t mask)
{
	Barrier *b = open_barrier(w, in, mask);
	if (!b)
		return false;
	uint32_t p = *pred(w, in->op[in->n_dst + 2]);
	b->any |= ((in->alt[MAX_ALTERNATIVES - 1] ? ~p : p) & mask) != 0;
	return op_bar_sync(w, in, mask);
}

bool op_bar_arrive(Warp *w, const Inst *in, uint32_t mask)
{
	Barrier *b = open_barrier(w, in, mask);
	if (!b)
		return false;
	arrive(w, b);
	release_when_full(w->cta, b);
	return true;
}

static void describe_wait(const Cta *cta, const Warp *w, char *buffer, size_t size)
{
	if (w->state == WARP_DONE)
		snprintf(buffer, size, "has exited");
	else if (w->waits_for == WAITS_FOR_BARRIER)
		snprintf(buffer, size, "waits at barrier %u (PTX line %u)", w->barrier, w->waiting_at->line);
	else if (w->waits_for == WAITS_FOR_REGISTERS)
		snprintf(buffer, size, "waits for registers (PTX line %u)", w->waiting_at->line);
	else if (w->waits_for == WAITS_FOR_WGMMA)
		snprintf(buffer, size, "waits for its warpgroup's wgmma (PTX line %u)", w->waiting_at->line);
	else
		snprintf(buffer, size, "waits for the mbarrier at offset %u (PTX line %u; %u arrivals and %lld bytes are missing)",
			cta->mbarriers[w->barrier].address, w->waiting_at->line, cta->mbarriers[w->barrier].pending,
			(long long)cta->mbarriers[w->barrier].tx);
}

/* Nobody can go on. */
static bool report_deadlock(Cta *cta)
{
	char text[1100] = "", what[160], where[MAX_WARPS][120];
	size_t used = 0;
	Warp *first = NULL;
	for (uint32_t i = cta->n_warps; i-- > 0;) {
		first = cta->warps[i].state == WARP_WAITING ? &cta->warps[i] : first;
		describe_wait(cta, &cta->warps[i], where[i], sizeof where[i]);
	}
	for (uint32_t i = 0, last; i < cta->n_warps && used + sizeof *where + 30 < sizeof text; i = last + 1) {
		for (last = i; last + 1 < cta->n_warps && strcmp(where[i], where[last + 1]) == 0;)
			last++;
		if (last > i)
			used += (size_t)snprintf(text + used, sizeof text - used, "; each of warps %u to %u %s", i, last, where[i]);
		else
			used += (size_t)snprintf(text + used, sizeof text - used, "; warp %u %s", i, where[i]);
	}
	const Barrier *b = &cta->barriers[first->barrier];
	if (first->waits_for == WAITS_FOR_MBARRIER)
		describe_mbarrier(&cta->mbarriers[first->barrier], what, sizeof what);
	else if (first->waits_for == WAITS_FOR_REGISTERS)
		snprintf(what, sizeof what, "setmaxnreg.inc finds %u registers of a thread given back, and the warp has %u",
			cta->free_registers, first->registers);
	else if (first->waits_for == WAITS_FOR_WGMMA)
		snprintf(what, sizeof what, "the four warps of a warpgroup have not all issued a wgmma that is waited for");
	else
		snprintf(what, sizeof what, "barrier %u has %u of %u warps", first->barrier, b->arrived, b->expected);
	return report_at(first, first->waiting_at, -1, "deadlock: %s%s", what, text);
}

/* Is what was started finished? */
static bool check_end(Cta *cta)
{
	for (uint32_t i = 0; i < cta->n_warps; i++)
		if (!bulk_done(&cta->warps[i]) || !wgmma_done(&cta->warps[i]))
			return false;
	return mbarriers_done(cta);
}

static bool run_cta(Cta *cta)
{
	for (;;) {
		bool progress = false, left = false;
		for (uint32_t i = 0; i < cta->n_warps; i++) {
			Warp *w = &cta->warps[i];
			if (w->state == WARP_READY) {
				progress = true;
				if (!run_turn(w))
					return false;
			}
			left |= w->state != WARP_DONE;
		}
		if (!left)
			return check_end(cta);
		if (!progress)
			return report_deadlock(cta);
	}
}

/* ---- launches ---- */

static void set_all(Warp *w, Slot slot, uint32_t value)
{
	uint32_t *r = reg(w, slot);
	for (int l = 0; l < LANES; l++)
		r[l] = value;
	w->written[slot] = UINT32_MAX;
}

/* What stays the same for all CTAs: constants, thread numbers, sizes. */
static void fill_registers(Warp *w)
{
	const Cta *cta = w->cta;
	const Kernel *k = cta->kernel;
	*pred(w, TRUE_SLOT) = UINT32_MAX;
	for (uint32_t i = 0; i < k->n_constants; i++) {
		const Constant *c = &k->constants[i];
		for (int l = 0; l < LANES; l++)
			lane_set(w, c->slot, 1u << c->reg_class, l, c->value);
		w->written[c->slot] = UINT32_MAX;
	}
	for (uint32_t l = 0; l < LANES; l++) {
		uint32_t thread = w->number * LANES + l, lane_bit = 1u << l;
		uint32_t values[][2] = {
			{ SPECIAL_TID_X, thread % cta->block[0] }, { SPECIAL_TID_Y, thread / cta->block[0] % cta->block[1] },
			{ SPECIAL_TID_Z, thread / cta->block[0] / cta->block[1] }, { SPECIAL_LANEID, l },
			{ SPECIAL_LANEMASK_EQ, lane_bit }, { SPECIAL_LANEMASK_LT, lane_bit - 1 },
			{ SPECIAL_LANEMASK_LE, lane_bit | (lane_bit - 1) }, { SPECIAL_LANEMASK_GE, ~(lane_bit - 1) },
			{ SPECIAL_LANEMASK_GT, ~(lane_bit | (lane_bit - 1)) },
		};
		for (size_t i = 0; i < sizeof values / sizeof *values; i++)
			((uint32_t *)reg(w, special_slot((int)values[i][0])))[l] = values[i][1];
	}
	for (int i = 0; i < 3; i++) {
		set_all(w, special_slot(SPECIAL_NTID_X + i), cta->block[i]);
		set_all(w, special_slot(SPECIAL_NCTAID_X + i), cta->grid[i]);
	}
	set_all(w, special_slot(SPECIAL_WARPID), w->number);
	set_all(w, special_slot(SPECIAL_NWARPID), cta->n_warps);
	set_all(w, special_slot(SPECIAL_DYNAMIC_SMEM), cta->dynamic_shared);
	set_all(w, special_slot(SPECIAL_TOTAL_SMEM), cta->shared.size);
	for (Slot slot = 0; slot < FIRST_FREE_SLOT; slot++)
		w->written[slot] = UINT32_MAX;
}

static void start_warp(Warp *w)
{
	const Cta *cta = w->cta;
	const Kernel *k = cta->kernel;
	uint32_t threads = cta->block[0] * cta->block[1] * cta->block[2], first = w->number * LANES;
	memset(w->written + FIRST_FREE_SLOT, 0, (k->n_registers - FIRST_FREE_SLOT) * sizeof *w->written);
	w->clock = (Clock){ 0 };
	memset(w->group, 0, sizeof w->group);
	memset(w->bulk_group, 0, sizeof w->bulk_group);
	if (k->local_bytes)
		memset(w->local_written, 0, (size_t)LANES * k->local_bytes);
	for (int i = 0; i < 3; i++)
		set_all(w, special_slot(SPECIAL_CTAID_X + i), cta->id[i]);
	w->live = w->active = threads - first >= LANES ? UINT32_MAX : (1u << (threads - first)) - 1;
	w->pc = w->depth = 0;
	w->reconverge = NO_RECONVERGENCE;
	w->state = WARP_READY;
	w->executed = 0;
	w->registers = (k->max_registers + 7) / 8 * 8;
	w->n_copies = w->n_bulk = w->n_wgmma = 0;
	w->n_issued = w->wgmma_group = 0;
	if (w->busy)
		memset(w->busy, 0, k->n_slots);
}

static bool new_warp(Cta *cta, Warp *w, uint32_t number)
{
	const Kernel *k = cta->kernel;
	size_t bytes = (size_t)k->n_slots * SLOT_BYTES;
	*w = (Warp){ .cta = cta, .number = number };
	w->file = aligned_alloc(SLOT_BYTES, bytes);
	w->written = calloc(k->n_slots, sizeof *w->written);
	if (k->local_bytes) {
		w->local = malloc((size_t)LANES * k->local_bytes);
		w->local_written = malloc((size_t)LANES * k->local_bytes);
	}
	if (k->uses_wgmma)
		w->busy = calloc(k->n_slots, 1);
	if (!w->file || !w->written || (k->uses_wgmma && !w->busy) || (k->local_bytes && (!w->local || !w->local_written)))
		return false;
	memset(w->file, 0, bytes);
	fill_registers(w);
	return true;
}

static void free_warp(Warp *w)
{
	free(w->file);
	free(w->written);
	free(w->copies);
	free(w->bulk);
	free(w->wgmma);
	free(w->busy);
	free(w->local);
	free(w->local_written);
}

static bool run_grid(Cta *cta)
{
	uint64_t n = (uint64_t)cta->grid[0] * cta->grid[1] * cta->grid[2];
	bool ok = memory_begin_launch(cta->sim, n);
	for (uint64_t i = 0; ok && i < n; i++) {
		cta->id[0] = (uint32_t)(i % cta->grid[0]);
		cta->id[1] = (uint32_t)(i / cta->grid[0] % cta->grid[1]);
		cta->id[2] = (uint32_t)(i / cta->grid[0] / cta->grid[1]);
		cta->tag = cta->sim->first_tag + (uint32_t)i;
		cta->time = 1;
		shared_reset(&cta->shared);
		memset(cta->barriers, 0, sizeof cta->barriers);
		cta->n_mbarriers = cta->free_registers = 0;
		wgmma_reset(cta);
		for (uint32_t k = 0; k < cta->n_warps; k++)
			start_warp(&cta->warps[k]);
		ok = run_cta(cta);
		for (uint32_t k = 0; k < cta->n_warps; k++)
			cta->sim->counts.warp_instructions += cta->warps[k].executed;
	}
	return ok;
}

bool run_kernel(Sim *sim, SimModule *module, const Kernel *kernel, const uint32_t grid[3], const uint32_t block[3],
	uint32_t dynamic_shared, const void *const *params)
{
	Cta cta = { .sim = sim, .module = module, .kernel = kernel, .dynamic_shared = dynamic_shared };
	memcpy(cta.grid, grid, sizeof cta.grid);
	memcpy(cta.block, block, sizeof cta.block);
	cta.n_warps = (block[0] * block[1] * block[2] + LANES - 1) / LANES;
	cta.params = calloc(kernel->param_bytes + 1, 1);
	cta.warps = calloc(cta.n_warps, sizeof *cta.warps);
	bool ready = shared_memory_new(&cta.shared, kernel->static_shared + dynamic_shared, cta.n_warps) && cta.params
		&& cta.warps;
	for (uint32_t i = 0; ready && i < kernel->n_params; i++)
		memcpy(cta.params + kernel->params[i].offset, params[i], kernel->params[i].bytes);
	for (uint32_t i = 0; ready && i < cta.n_warps; i++)
		ready = new_warp(&cta, &cta.warps[i], i);
	bool ok = ready ? run_grid(&cta) : report_plain(sim, "kernel '%s': out of memory", kernel->name);
	for (uint32_t i = 0; cta.warps && i < cta.n_warps; i++)
		free_warp(&cta.warps[i]);
	shared_free(&cta.shared);
	wgmma_free(&cta);
	free(cta.warps);
	free(cta.params);
	return ok;
}
