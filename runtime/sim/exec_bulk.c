/*
 * Bulk copies, the work of the async proxy. Into shared memory: the bytes are copied and counted by the mbarrier at once,
 * but belong to the mbarrier's agent, whose stamps are its phases: who has not waited for the phase and touches them is
 * reported. Out of shared memory: the bytes are copied at once, and held until the lane that issued the copy waits for its
 * group.
 */
#include "exec.h"

static bool check_alignment(Warp *w, const Inst *in, int l, uint64_t shared, uint64_t global, uint32_t bytes)
{
	return (shared % 16 == 0 && global % 16 == 0 && bytes % 16 == 0)
		|| report_at(w, in, l, "misaligned bulk copy: %u bytes, shared offset %llu, global address 0x%llx: all three are "
			"multiples of 16", bytes, (unsigned long long)shared, (unsigned long long)global);
}

static bool load_lane(Warp *w, const Inst *in, int l)
{
	uint64_t to = shared_address(lane_address(w, in, 0, in->op[0], l)), from = lane_address(w, in, 1, in->op[1], l);
	uint32_t bytes = (uint32_t)lane_get(w, in->op[2], 4, l);
	Mbarrier *m = mbarrier_at(w, in, l, in->op[3], 2);
	if (!m || !check_alignment(w, in, l, to, from, bytes) || !shared_bounds(w, in, l, to, bytes)
	    || (bytes && !global_read(w, in, l, from, bytes, ACCESS_PLAIN))
	    || !shared_bulk_write(w, in, l, (uint32_t)to, bytes, mbarrier_agent(w->cta, m), m->phase + 1))
		return false;
	memcpy(w->cta->shared.bytes + to, (const void *)(uintptr_t)from, bytes);
	w->cta->sim->counts.global_load_bytes += bytes;
	w->cta->sim->counts.global_transactions += (bytes + 31) / 32;
	return mbarrier_complete_tx(w, in, l, m, bytes);
}

bool op_bulk_load(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1)
		if (!load_lane(w, in, __builtin_ctz(rest)))
			return false;
	return true;
}

bool bulk_begin_read(Warp *w, const Inst *in, int l, uint32_t from, uint32_t bytes)
{
	AsyncRead read = { 0 };
	if (!shared_survey(w, in, l, from, bytes, &read) || !shared_check(w, in, l, &read))
		return false;
	if (!sim_grow(&w->bulk, &w->cap_bulk, w->n_bulk + 1, sizeof *w->bulk))
		return report_at(w, in, l, "out of memory");
	w->bulk[w->n_bulk++] = (BulkRead){ .address = from, .bytes = bytes, .group = w->bulk_group[l], .lane = (uint8_t)l,
		.in = in };
	shared_hold(&w->cta->shared, from, bytes, w->number);
	return true;
}

static bool store_lane(Warp *w, const Inst *in, int l)
{
	uint64_t to = lane_address(w, in, 0, in->op[0], l), from = shared_address(lane_address(w, in, 1, in->op[1], l));
	uint32_t bytes = (uint32_t)lane_get(w, in->op[2], 4, l);
	if (!check_alignment(w, in, l, from, to, bytes) || !shared_bounds(w, in, l, from, bytes)
	    || !bulk_begin_read(w, in, l, (uint32_t)from, bytes)
	    || (bytes && !global_write(w, in, l, to, bytes, ACCESS_PLAIN)))
		return false;
	memcpy((void *)(uintptr_t)to, w->cta->shared.bytes + from, bytes);
	w->cta->sim->counts.global_store_bytes += bytes;
	w->cta->sim->counts.global_transactions += (bytes + 31) / 32;
	return true;
}

bool op_bulk_store(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1)
		if (!store_lane(w, in, __builtin_ctz(rest)))
			return false;
	return true;
}

bool op_bulk_commit(Warp *w, const Inst *in, uint32_t mask)
{
	(void)in;
	for (int l = 0; l < LANES; l++)
		w->bulk_group[l] += mask >> l & 1;
	return true;
}

/* All groups but the newest n have been read. */
bool op_bulk_wait(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *n = reg(w, in->op[0]);
	size_t kept = 0;
	for (size_t i = 0; i < w->n_bulk; i++) {
		BulkRead *b = &w->bulk[i];
		if (mask >> b->lane & 1 && b->group + n[b->lane] < w->bulk_group[b->lane])
			shared_release(&w->cta->shared, b->address, b->bytes, w->number, w->cta->time);
		else
			w->bulk[kept++] = *b;
	}
	w->n_bulk = kept;
	return true;
}

bool bulk_done(Warp *w)
{
	return w->n_bulk == 0 || report_at(w, w->bulk[0].in, w->bulk[0].lane, "the CTA has ended while this bulk copy may still "
		"read its shared memory: cp.async.bulk.commit_group and wait_group must come before");
}
