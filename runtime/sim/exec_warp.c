/* Instructions whose lanes see each other, and those that do nothing here. */
#include "exec.h"

/* Every lane in mask must be in its own member mask, and the members must be here or have exited. */
static bool check_members(Warp *w, const Inst *in, uint32_t mask, const uint32_t *members)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		uint32_t missing = members[l] & w->live & ~mask;
		if (!(members[l] >> l & 1))
			return report_at(w, in, l, "the lane is not in its own member mask 0x%08x", members[l]);
		if (missing)
			return report_at(w, in, l,
				"lanes 0x%08x of the member mask 0x%08x do not take part: they are in divergent code or "
				"under a predicate", missing, members[l]);
	}
	return true;
}

/* alt[0]: {.up,.down,.bfly,.idx}. c: clamp in bits 0-4, segment mask in bits 8-12. A value from a lane that is not
 * there is undefined: the destination then counts as never written, as it does after one that was never written
 * itself. */
bool op_shfl(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]), a[LANES], valid = 0, within = 0;
	const uint32_t *b = reg(w, in->op[3]), *c = reg(w, in->op[4]);
	for (int k = 3; k < 6; k++)
		if (mask & ~w->written[in->op[k]])
			return report_at(w, in, __builtin_ctz(mask & ~w->written[in->op[k]]),
				"source register %d holds no value: nothing "
				"wrote it", k - 1);
	if (!check_members(w, in, mask, reg(w, in->op[5])))
		return false;
	memcpy(a, reg(w, in->op[2]), sizeof a);
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		int offset = (int)(b[l] & 31), clamp = (int)(c[l] & 31), segment = (int)(c[l] >> 8 & 31), from;
		int last = (l & segment) | (clamp & ~segment);
		bool in_range;
		switch (in->alt[0]) {
		case 0: from = l - offset; in_range = from >= last; break;
		case 1: from = l + offset; in_range = from <= last; break;
		case 2: from = l ^ offset; in_range = from <= last; break;
		default: from = (l & segment) | (offset & ~segment); in_range = from <= last; break;
		}
		if (!in_range)
			from = l;
		d[l] = a[from];
		within |= (uint32_t)in_range << l;
		valid |= ((mask & w->written[in->op[2]]) >> from & 1) << l;
	}
	set_pred(w, in->op[1], mask, within);
	w->written[in->op[0]] = (w->written[in->op[0]] & ~mask) | valid;
	w->written[in->op[1]] |= mask;
	return true;
}

static uint32_t votes(Warp *w, const Inst *in)
{
	uint32_t p = *pred(w, in->op[1]);
	return in->alt[MAX_ALTERNATIVES - 1] ? ~p : p;
}

/* alt[0]: {.all,.any,.uni} */
bool op_vote(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *members = reg(w, in->op[2]);
	uint32_t p = votes(w, in), result = 0;
	if (!check_members(w, in, mask, members))
		return false;
	for (int l = 0; l < LANES; l++) {
		uint32_t of = members[l] & mask, yes = p & of;
		bool r = in->alt[0] == 0 ? yes == of : in->alt[0] == 1 ? yes != 0 : yes == of || yes == 0;
		result |= (uint32_t)r << l;
	}
	set_pred(w, in->op[0], mask, result);
	return true;
}

bool op_ballot(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *members = reg(w, in->op[2]);
	uint32_t *d = reg(w, in->op[0]), p = votes(w, in);
	if (!check_members(w, in, mask, members))
		return false;
	FOR_LANES(mask, d[l] = p & members[l] & mask);
	return true;
}

bool op_match_any(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *members = reg(w, in->op[2]);
	uint32_t result[LANES] = { 0 };
	if (!check_members(w, in, mask, members))
		return false;
	for (int l = 0; l < LANES; l++)
		for (int m = 0; m < LANES; m++)
			if (members[l] & mask & 1u << m && lane_get(w, in->op[1], in->src_bytes, l) == lane_get(w, in->op[1],
				in->src_bytes, m))
				result[l] |= 1u << m;
	uint32_t *d = reg(w, in->op[0]);
	FOR_LANES(mask, d[l] = result[l]);
	return true;
}

bool op_activemask(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t *d = reg(w, in->op[0]);
	FOR_LANES(mask, d[l] = mask);
	return true;
}

static uint32_t reduce(uint32_t x, uint32_t y, int op, bool is_signed)
{
	bool less = is_signed ? (int32_t)x < (int32_t)y : x < y;
	switch (op) {
	case 0: return x + y;
	case 1: return less ? x : y;
	case 2: return less ? y : x;
	case 3: return x & y;
	case 4: return x | y;
	default: return x ^ y;
	}
}

/* alt: {.add,.min,.max,.and,.or,.xor}, {.u32,.s32,.b32} */
bool op_redux(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *members = reg(w, in->op[2]), *a = reg(w, in->op[1]);
	uint32_t result[LANES] = { 0 };
	if (!check_members(w, in, mask, members))
		return false;
	for (int l = 0; l < LANES; l++) {
		bool first = true;
		for (uint32_t rest = members[l] & mask; rest && mask >> l & 1; rest &= rest - 1, first = false) {
			uint32_t x = a[__builtin_ctz(rest)];
			result[l] = first ? x : reduce(result[l], x, in->alt[0], in->alt[1] == 1);
		}
	}
	uint32_t *d = reg(w, in->op[0]);
	FOR_LANES(mask, d[l] = result[l]);
	return true;
}

bool op_warp_sync(Warp *w, const Inst *in, uint32_t mask) { return check_members(w, in, mask, reg(w, in->op[0])); }

/* Hardware is free in its choice among the members; here it is the lowest. */
bool op_elect(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *members = reg(w, in->op[2]);
	uint32_t *d = reg(w, in->op[0]), leader = (uint32_t)__builtin_ctz(mask);
	if (!check_members(w, in, mask, members))
		return false;
	FOR_LANES(mask, d[l] = leader);
	set_pred(w, in->op[1], mask, 1u << leader);
	return true;
}

/* alt[0]: {.inc,.dec}. Where .maxnreg says how many registers a thread has, .inc waits until others have given back enough.
 * */
bool op_set_registers(Warp *w, const Inst *in, uint32_t mask)
{
	Cta *cta = w->cta;
	uint32_t n = (uint32_t)lane_get(w, in->op[0], 4, __builtin_ctz(mask));
	if (n % 8 || n < 24 || n > 256)
		return report_at(w, in, -1, "setmaxnreg of %u registers: it takes a multiple of 8 from 24 to 256", n);
	if (!w->registers)
		return true;
	if (in->alt[0] ? n > w->registers : n < w->registers)
		return report_at(w, in, -1, "setmaxnreg%s to %u registers: the warp has %u", in->alt[0] ? ".dec" : ".inc", n,
			w->registers);
	if (n > w->registers + cta->free_registers) {
		w->state = WARP_WAITING;
		w->waits_for = WAITS_FOR_REGISTERS;
		w->waiting_at = in;
		w->pc--;
		return true;
	}
	cta->free_registers += w->registers - n;
	w->registers = n;
	for (uint32_t i = 0; i < cta->n_warps; i++)
		if (cta->warps[i].state == WARP_WAITING && cta->warps[i].waits_for == WAITS_FOR_REGISTERS)
			cta->warps[i].state = WARP_READY;
	return true;
}

bool op_trap(Warp *w, const Inst *in, uint32_t mask)
{
	return report_at(w, in, __builtin_ctz(mask), "trap: the kernel gave up by itself");
}

bool op_nothing(Warp *w, const Inst *in, uint32_t mask)
{
	(void)w;
	(void)in;
	(void)mask;
	return true;
}
