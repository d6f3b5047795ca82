/*
 * mbarriers: a phase ends when all its arrivals have come and every byte that was announced (expect_tx) has (complete_tx,
 * or a bulk copy). Their state is kept here; the 8 bytes in shared memory are only marked as taken.
 *
 * Ordering: an arrival gives the running phase what the warp knows; a wait that finds a phase complete takes what that
 * phase was given. A try_wait that finds its phase incomplete says so, and its warp sleeps until the phase ends: code
 * that does not loop goes on without having waited, and races.
 */
#include <stdio.h>
#include "exec.h"

static Mbarrier *find(Cta *cta, uint64_t address)
{
	for (uint32_t i = 0; i < cta->n_mbarriers; i++)
		if (cta->mbarriers[i].address == address && cta->mbarriers[i].live)
			return &cta->mbarriers[i];
	return NULL;
}

/* The offset of the mbarrier that address operand a names. False after a report. */
static bool offset_of(Warp *w, const Inst *in, int l, Slot slot, int a, uint32_t *offset)
{
	uint64_t address = shared_address(lane_address(w, in, a, slot, l));
	if (address % 8)
		return report_at(w, in, l, "misaligned mbarrier: shared offset %lld is no multiple of 8", (long long)address);
	*offset = (uint32_t)address;
	return shared_bounds(w, in, l, address, 8);
}

Mbarrier *mbarrier_at(Warp *w, const Inst *in, int lane, Slot slot, int a)
{
	uint32_t offset = 0;
	if (!offset_of(w, in, lane, slot, a, &offset))
		return NULL;
	Mbarrier *m = find(w->cta, offset);
	if (!m) {
		report_at(w, in, lane, "there is no mbarrier at shared offset %u: mbarrier.init must come before", offset);
		return NULL;
	}
	if (w->number != m->init_warp && m->init_stamp > w->clock.known[m->init_warp]) {
		report_at(w, in, lane, "the mbarrier at shared offset %u was initialised by warp %u, with no barrier since: this "
			"warp may not see it yet", offset, m->init_warp);
		return NULL;
	}
	return m;
}

void describe_mbarrier(const Mbarrier *m, char *buffer, size_t size)
{
	snprintf(buffer, size, "the mbarrier at offset %u, in phase %u, has %u of %u arrivals to come and %lld bytes expected "
		"that have not arrived", m->address, m->phase - m->first_phase, m->pending, m->expected, (long long)m->tx);
}

static uint32_t index_of(const Cta *cta, const Mbarrier *m) { return (uint32_t)(m - cta->mbarriers); }
uint32_t mbarrier_agent(const Cta *cta, const Mbarrier *m) { return MBARRIER_AGENT + index_of(cta, m); }

bool op_mbarrier_init(Warp *w, const Inst *in, uint32_t mask)
{
	Cta *cta = w->cta;
	const uint32_t *count = reg(w, in->op[1]);
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		uint32_t offset = 0, i = 0;
		if (!offset_of(w, in, l, in->op[0], 0, &offset))
			return false;
		if (count[l] == 0 || count[l] >= 1 << 20)
			return report_at(w, in, l, "an mbarrier of %u arrivals: it has 1 to 2^20 - 1", count[l]);
		if (find(cta, offset))
			return report_at(w, in, l, "there is an mbarrier at shared offset %u already: mbarrier.inval must come before",
				offset);
		if (!shared_write(w, in, l, offset, 8, ACCESS_PLAIN))
			return false;
		while (i < cta->n_mbarriers && cta->mbarriers[i].address != offset)
			i++;
		if (i == MAX_MBARRIERS)
			return report_at(w, in, l, "more than %d mbarriers in one CTA: the simulator has no room", MAX_MBARRIERS);
		Mbarrier *m = &cta->mbarriers[i];
		uint32_t phase = i < cta->n_mbarriers ? m->phase + 1 : 0;
		*m = (Mbarrier){ .address = offset, .live = true, .expected = count[l], .pending = count[l], .first_phase = phase,
			.phase = phase, .init_warp = w->number, .init_stamp = cta->time, .last = in };
		cta->n_mbarriers += i == cta->n_mbarriers;
		memset(cta->shared.in_flight + offset, MBARRIER_HERE, 8);
	}
	return true;
}

bool op_mbarrier_inval(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		Mbarrier *m = mbarrier_at(w, in, __builtin_ctz(rest), in->op[0], 0);
		if (!m)
			return false;
		m->live = false;
		shared_land(w, m->address, 8, w->cta->time);
	}
	return true;
}

/* ---- phases ---- */

/* cp.async copies whose arrival the phase counted are there now. */
static void land_copies(Cta *cta, const Mbarrier *m)
{
	for (uint32_t i = 0; i < cta->n_warps; i++) {
		Warp *w = &cta->warps[i];
		size_t kept = 0;
		for (size_t c = 0; c < w->n_copies; c++) {
			const AsyncCopy *copy = &w->copies[c];
			if (copy->mbarrier == 1 + index_of(cta, m)) {
				memcpy(cta->shared.bytes + copy->to, copy->data, copy->bytes);
				shared_land(w, copy->to, copy->bytes, copy->stamp);
			} else {
				w->copies[kept++] = *copy;
			}
		}
		w->n_copies = kept;
	}
}

static void end_phase_if_complete(Cta *cta, Mbarrier *m)
{
	if (m->pending || m->tx)
		return;
	land_copies(cta, m);
	m->completed = m->arriving;
	m->completed.known[mbarrier_agent(cta, m)] = m->phase + 1;
	m->arriving = (Clock){ 0 };
	m->phase++;
	m->pending = m->expected;
	for (uint32_t i = 0; i < cta->n_warps; i++) {
		Warp *w = &cta->warps[i];
		if (w->state == WARP_WAITING && w->waits_for == WAITS_FOR_MBARRIER && w->barrier == index_of(cta, m))
			w->state = WARP_READY;
	}
}

static bool arrive(Warp *w, const Inst *in, int l, Mbarrier *m, uint32_t count)
{
	if (count == 0 || count > m->pending)
		return report_at(w, in, l, "%u arrivals at the mbarrier at offset %u, which waits for %u more in this phase", count,
			m->address, m->pending);
	clock_publish(w, &m->arriving);
	m->pending -= count;
	end_phase_if_complete(w->cta, m);
	return true;
}

static bool add_tx(Warp *w, const Inst *in, int l, Mbarrier *m, int64_t bytes)
{
	m->tx += bytes;
	m->last = in;
	return (m->tx < 1 << 20 && m->tx > -(1 << 20))
		|| report_at(w, in, l, "the mbarrier at offset %u counts %lld bytes: its range is 2^20 - 1", m->address,
			(long long)m->tx);
}

bool mbarrier_complete_tx(Warp *w, const Inst *in, int lane, Mbarrier *m, int64_t bytes)
{
	if (!add_tx(w, in, lane, m, -bytes))
		return false;
	end_phase_if_complete(w->cta, m);
	return true;
}

/* What arrive returns: the barrier and the phase in which it came. */
static uint64_t token(const Cta *cta, const Mbarrier *m) { return (uint64_t)(index_of(cta, m) + 1) << 32 | m->phase; }

/* The second source, if it is there, is the count. */
bool op_mbarrier_arrive(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		Mbarrier *m = mbarrier_at(w, in, l, in->op[1], 0);
		if (!m)
			return false;
		lane_set(w, in->op[0], 8, l, token(w->cta, m));
		if (!arrive(w, in, l, m, in->n_src > 1 ? (uint32_t)lane_get(w, in->op[2], 4, l) : 1))
			return false;
	}
	return true;
}

bool op_mbarrier_arrive_expect_tx(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		Mbarrier *m = mbarrier_at(w, in, l, in->op[1], 0);
		if (!m || !add_tx(w, in, l, m, (int64_t)lane_get(w, in->op[2], 4, l)))
			return false;
		lane_set(w, in->op[0], 8, l, token(w->cta, m));
		if (!arrive(w, in, l, m, 1))
			return false;
	}
	return true;
}

/*
 * alt[0]: {.noinc,}. The arrival of a lane's cp.async copies so far; without .noinc it is one more than was expected. They
 * land when the phase ends, which is when others may wait for them.
 */
bool op_cp_async_mbarrier_arrive(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		Mbarrier *m = mbarrier_at(w, in, l, in->op[0], 0);
		if (!m)
			return false;
		for (size_t c = 0; c < w->n_copies; c++)
			if (w->copies[c].lane == l && !w->copies[c].mbarrier) {
				w->copies[c].mbarrier = (uint8_t)(1 + index_of(w->cta, m));
				w->copies[c].stamp = w->cta->time;
			}
		m->pending += in->alt[0] == 1;
		if (!arrive(w, in, l, m, 1))
			return false;
	}
	return true;
}

/* alt[0]: {expect,complete} */
bool op_mbarrier_tx(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		Mbarrier *m = mbarrier_at(w, in, l, in->op[0], 0);
		int64_t bytes = (int64_t)lane_get(w, in->op[1], 4, l);
		if (!m || (in->alt[0] == 0 ? !add_tx(w, in, l, m, bytes) : !mbarrier_complete_tx(w, in, l, m, bytes)))
			return false;
	}
	return true;
}

/* ---- waiting ---- */

static void sleep_until_end_of_phase(Warp *w, const Inst *in, const Mbarrier *m)
{
	w->state = WARP_WAITING;
	w->waits_for = WAITS_FOR_MBARRIER;
	w->barrier = index_of(w->cta, m);
	w->waiting_at = in;
}

/* Has the phase that lane l names completed? A parity names the running phase or the one before. */
static bool phase_over(Warp *w, const Inst *in, int l, const Mbarrier *m, bool parity, bool *over)
{
	if (parity) {
		*over = ((m->phase - m->first_phase) & 1) != (lane_get(w, in->op[2], 4, l) & 1);
		return true;
	}
	uint64_t state = lane_get(w, in->op[2], 8, l);
	if (state >> 32 != index_of(w->cta, m) + 1 || m->phase - (uint32_t)state > 1)
		return report_at(w, in, l, "the state 0x%llx is not of the running phase of the mbarrier at offset %u, nor of the "
			"one before", (unsigned long long)state, m->address);
	*over = m->phase != (uint32_t)state;
	return true;
}

/* alt[0]: {test,try} */
static bool wait_for(Warp *w, const Inst *in, uint32_t mask, bool parity)
{
	uint32_t result = 0;
	const Mbarrier *incomplete = NULL, *taken = NULL;
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		const Mbarrier *m = mbarrier_at(w, in, l, in->op[1], 0);
		bool over = false;
		if (!m || !phase_over(w, in, l, m, parity, &over))
			return false;
		if (!over) {
			incomplete = m;
			continue;
		}
		result |= 1u << l;
		if (m != taken)
			clock_join(&w->clock, &m->completed);
		taken = m;
	}
	set_pred(w, in->op[0], mask, result);
	if (incomplete && in->alt[0] == 1)
		sleep_until_end_of_phase(w, in, incomplete);
	w->yields = incomplete != NULL;
	return true;
}

bool op_mbarrier_wait(Warp *w, const Inst *in, uint32_t mask) { return wait_for(w, in, mask, false); }
bool op_mbarrier_wait_parity(Warp *w, const Inst *in, uint32_t mask) { return wait_for(w, in, mask, true); }

/* What the warp knows to have happened is now before its fence, for the async proxy too. */
bool op_fence_proxy(Warp *w, const Inst *in, uint32_t mask)
{
	(void)in;
	(void)mask;
	for (uint32_t u = 0; u < MAX_WARPS; u++)
		if (w->clock.known[u] > w->clock.visible[u])
			w->clock.visible[u] = w->clock.known[u];
	w->clock.visible[w->number] = w->cta->time++;
	return true;
}

bool mbarriers_done(Cta *cta)
{
	char text[160];
	for (uint32_t i = 0; i < cta->n_mbarriers; i++) {
		const Mbarrier *m = &cta->mbarriers[i];
		describe_mbarrier(m, text, sizeof text);
		if (m->live && m->tx)
			return report_at(&cta->warps[m->init_warp], m->last, -1, "the CTA has ended, but %s", text);
	}
	return true;
}
