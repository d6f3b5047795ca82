/* Loads, stores, atomics and address arithmetic. */
#include "exec.h"

/* {.b8,.u8,.s8,.b16,.u16,.s16,.f16,.b32,.u32,.s32,.f32,.b64,.u64,.s64,.f64,.b128} */
static const struct { uint8_t bytes; bool is_signed; } memory_types[] = {
	{ 1, false }, { 1, false }, { 1, true }, { 2, false }, { 2, false }, { 2, true }, { 2, false }, { 4, false },
	{ 4, false }, { 4, true }, { 4, false }, { 8, false }, { 8, false }, { 8, true }, { 8, false }, { 16, false },
};

/* {,.global,.shared,.shared::cta,.local,.param,.param::entry,.const}; constants lie in global memory. */
static const Space spaces[] = { SPACE_GENERIC, SPACE_GLOBAL, SPACE_SHARED, SPACE_SHARED, SPACE_LOCAL, SPACE_PARAM,
	SPACE_PARAM, SPACE_GLOBAL };

typedef struct Access {
	uint64_t address[LANES];
	uint8_t *at[LANES];             /* where the bytes are, once checked */
	uint32_t bytes;                 /* a lane, all elements */
	uint32_t element;
	AccessKind kind;
	bool is_write;
} Access;

static void gather_addresses(Warp *w, const Inst *in, int source, Access *a)
{
	Slot slot = in->op[in->n_dst + source];
	uint64_t displacement = (uint64_t)in->displacement[0];
	if (in->address_bytes[0] == 8) {
		const uint64_t *base = reg(w, slot);
		for (int l = 0; l < LANES; l++)
			a->address[l] = base[l] + displacement;
	} else {
		const uint32_t *base = reg(w, slot);
		for (int l = 0; l < LANES; l++)
			a->address[l] = base[l] + displacement;
	}
}

/* The space of a generic address; the address becomes one of that space. */
static Space resolve(Space space, uint64_t *address)
{
	if (space != SPACE_GENERIC)
		return space;
	uint64_t window = *address & ~(WINDOW_BYTES - 1);
	Space found = window == SHARED_WINDOW ? SPACE_SHARED : window == LOCAL_WINDOW ? SPACE_LOCAL
		: window == PARAM_WINDOW ? SPACE_PARAM : SPACE_GLOBAL;
	if (found != SPACE_GLOBAL)
		*address -= window;
	return found;
}

static bool check_local(Warp *w, const Inst *in, int l, uint64_t address, const Access *a)
{
	uint32_t size = w->cta->kernel->local_bytes;
	if (address > size || a->bytes > size - address)
		return report_at(w, in, l, "local memory out of bounds: %u bytes at offset %lld, a thread has %u", a->bytes,
			(long long)address, size);
	uint8_t *written = w->local_written + (size_t)l * size + address;
	if (a->is_write)
		memset(written, 1, a->bytes);
	else if (memchr(written, 0, a->bytes))
		return report_at(w, in, l, "read of local memory that nothing wrote: %u bytes at offset %lld", a->bytes,
			(long long)address);
	return true;
}

/* Checks one lane's access and sets at[l]. */
static bool check_lane(Warp *w, const Inst *in, int l, Space space, Access *a)
{
	uint64_t address = a->address[l];
	Cta *cta = w->cta;
	if (address & (a->bytes - 1))
		return report_at(w, in, l, "misaligned access: %u bytes at 0x%llx, which is no multiple of %u", a->bytes,
			(unsigned long long)address, a->bytes);
	switch (space) {
	case SPACE_SHARED:
		if (!shared_bounds(w, in, l, address, a->bytes))
			return false;
		a->at[l] = cta->shared.bytes + address;
		return a->is_write ? shared_write(w, in, l, (uint32_t)address, a->bytes, a->kind)
			: shared_read(w, in, l, (uint32_t)address, a->bytes);
	case SPACE_LOCAL:
		if (!check_local(w, in, l, address, a))
			return false;
		a->at[l] = w->local + (size_t)l * cta->kernel->local_bytes + address;
		return true;
	case SPACE_PARAM:
		if (address > cta->kernel->param_bytes || a->bytes > cta->kernel->param_bytes - address || a->is_write)
			return report_at(w, in, l, "%u bytes at offset %lld of the parameters, which have %u and are read-only",
				a->bytes,
				(long long)address, cta->kernel->param_bytes);
		a->at[l] = cta->params + address;
		return true;
	default:
		a->at[l] = (uint8_t *)(uintptr_t)address;
		return a->is_write ? global_write(w, in, l, address, a->bytes, a->kind)
			: global_read(w, in, l, address, a->bytes, a->kind);
	}
}

/* Lanes from l on that follow each other in mask, and in memory. */
static int run_length(const Access *a, uint32_t mask, int l)
{
	int n = 1;
	while (l + n < LANES && mask >> (l + n) & 1 && a->address[l + n] == a->address[l] + (uint64_t)n * a->bytes)
		n++;
	return n;
}

/* The same as check_lane for each of the n lanes of a run, which mostly share one history. */
static bool check_run(Warp *w, const Inst *in, int l, int n, Space space, Access *a)
{
	uint64_t address = a->address[l], all = (uint64_t)n * a->bytes;
	const SharedMemory *shared = &w->cta->shared;
	bool in_shared = space == SPACE_SHARED && address <= shared->size && all <= shared->size - address;
	if (address & (a->bytes - 1) || !(in_shared || space == SPACE_GLOBAL)) {
		for (int k = l; k < l + n; k++)
			if (!check_lane(w, in, k, space, a))
				return false;
		return true;
	}
	uint8_t *at = in_shared ? shared->bytes + address : (uint8_t *)(uintptr_t)address;
	for (int k = 0; k < n; k++)
		a->at[l + k] = at + (uint32_t)k * a->bytes;
	if (in_shared)
		return a->is_write ? shared_write_lanes(w, in, l, n, (uint32_t)address, a->bytes, a->kind)
			: shared_read_lanes(w, in, l, n, (uint32_t)address, a->bytes);
	return a->is_write ? global_write_lanes(w, in, l, n, address, a->bytes, a->kind)
		: global_read_lanes(w, in, l, n, address, a->bytes, a->kind);
}

/* 32-byte sectors that the lanes touch. Lanes mostly go upwards; where not, earlier lanes are searched. */
static uint32_t count_sectors(const Access *a, uint32_t mask)
{
	uint64_t seen[LANES * 4], last = UINT64_MAX;
	uint32_t n = 0;
	for (int l = 0; l < LANES; l++) {
		if (!(mask >> l & 1))
			continue;
		for (uint64_t sector = a->address[l] / 32; sector <= (a->address[l] + a->bytes - 1) / 32; sector++) {
			uint32_t i = sector > last || n == 0 ? n : 0;
			while (i < n && seen[i] != sector)
				i++;
			if (i == n && n < LANES * 4)
				seen[n++] = sector;
			last = sector > last || last == UINT64_MAX ? sector : last;
		}
	}
	return n;
}

static void count_access(Warp *w, const Access *a, uint32_t shared, uint32_t global)
{
	SimCounts *counts = &w->cta->sim->counts;
	if (global) {
		uint64_t bytes = (uint64_t)__builtin_popcount(global) * a->bytes;
		counts->global_transactions += count_sectors(a, global);
		if (a->is_write)
			counts->global_store_bytes += bytes;
		else
			counts->global_load_bytes += bytes;
	}
	if (shared) {
		uint32_t address[LANES];
		for (int l = 0; l < LANES; l++)
			address[l] = (uint32_t)a->address[l];
		count_bank_conflicts(w, address, shared, a->bytes);
	}
}

/* Addresses, checks and counts for all lanes in mask. */
static bool prepare(Warp *w, const Inst *in, uint32_t mask, Space space, int source, Access *a)
{
	uint32_t shared = 0, global = 0;
	gather_addresses(w, in, source, a);
	for (uint32_t rest = mask; rest;) {
		int l = __builtin_ctz(rest), n = run_length(a, rest, l);
		uint32_t lanes = UINT32_MAX >> (LANES - n) << l;
		Space s = space;
		for (int k = l; k < l + n; k++)
			s = resolve(space, &a->address[k]);
		if (!check_run(w, in, l, n, s, a))
			return false;
		if (s == SPACE_SHARED)
			shared |= lanes;
		else if (s == SPACE_GLOBAL)
			global |= lanes;
		rest &= ~lanes;
	}
	count_access(w, a, shared, global);
	return true;
}

static uint64_t load_bytes(const uint8_t *from, uint32_t bytes, bool is_signed)
{
	uint64_t x = 0;
	memcpy(&x, from, bytes);
	return is_signed ? (uint64_t)((int64_t)(x << (64 - 8 * bytes)) >> (64 - 8 * bytes)) : x;
}

static bool load_from(Warp *w, const Inst *in, uint32_t mask, Space space, int type, AccessKind kind)
{
	Access a = { .element = memory_types[type].bytes, .kind = kind };
	a.bytes = a.element * in->n_vector;
	if (a.element > in->dst_bytes)
		return report_at(w, in, -1, "the destination has %u bytes, too few for the type", in->dst_bytes);
	if (!prepare(w, in, mask, space, 0, &a))
		return false;
	for (uint32_t e = 0; e < in->n_vector; e++) {
		uint32_t *words = reg(w, in->op[e]);
		for (int l = 0; l < LANES; l++) {
			if (!(mask >> l & 1))
				continue;
			const uint8_t *from = a.at[l] + e * a.element;
			if (in->dst_bytes == 4 && a.element == 4)
				memcpy(&words[l], from, 4);
			else if (a.element == 16)
				memcpy(&words[4 * l], from, 16);
			else
				lane_set(w, in->op[e], in->dst_bytes, l, load_bytes(from, a.element, memory_types[type].is_signed));
		}
	}
	return true;
}

bool op_load(Warp *w, const Inst *in, uint32_t mask)
{
	return load_from(w, in, mask, spaces[in->alt[0]], in->alt[1], in->flags & MOD_NC ? ACCESS_CONSTANT : ACCESS_PLAIN);
}

bool op_load_ordered(Warp *w, const Inst *in, uint32_t mask)
{
	return load_from(w, in, mask, spaces[in->alt[1]], in->alt[2], ACCESS_ORDERED);
}

static void store_lane(Warp *w, const Inst *in, const Access *a, int l, uint8_t *to)
{
	for (uint32_t e = 0; e < in->n_vector; e++) {
		Slot slot = in->op[in->n_dst + 1 + e];
		if (a->element == 16) {
			memcpy(to + 16 * e, (const uint8_t *)reg(w, slot) + 16 * l, 16);
		} else {
			uint64_t value = lane_get(w, slot, in->src_bytes, l);
			memcpy(to + e * a->element, &value, a->element);
		}
	}
}

/* Lanes of one store that write different values to one place leave it undefined which stays. Aligned accesses of one
 * size overlap only when they are equal, and then follow each other in most programs: ascending lanes are checked
 * fast. */
static bool check_overlap(Warp *w, const Inst *in, uint32_t mask, const Access *a)
{
	const uint8_t *last = NULL;
	bool ascending = true;
	for (uint32_t rest = mask; rest && ascending; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		ascending = !last || a->at[l] > last;
		last = a->at[l];
	}
	if (ascending)
		return true;
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		for (uint32_t later = rest & (rest - 1); later; later &= later - 1) {
			int m = __builtin_ctz(later);
			uint8_t x[64], y[64];
			if (a->at[l] != a->at[m])
				continue;
			store_lane(w, in, a, l, x);
			store_lane(w, in, a, m, y);
			if (memcmp(x, y, a->bytes) != 0)
				return report_at(w, in, l, "lanes %d and %d store different values to the same address, 0x%llx", l, m,
					(unsigned long long)a->address[l]);
		}
	}
	return true;
}

static bool store_to(Warp *w, const Inst *in, uint32_t mask, Space space, int type, AccessKind kind)
{
	Access a = { .element = memory_types[type].bytes, .kind = kind, .is_write = true };
	a.bytes = a.element * in->n_vector;
	if (a.element > in->src_bytes)
		return report_at(w, in, -1, "the source has %u bytes, too few for the type", in->src_bytes);
	if (!prepare(w, in, mask, space, 0, &a) || !check_overlap(w, in, mask, &a))
		return false;
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		store_lane(w, in, &a, l, a.at[l]);
	}
	return true;
}

bool op_store(Warp *w, const Inst *in, uint32_t mask)
{
	return store_to(w, in, mask, spaces[in->alt[0]], in->alt[1], ACCESS_PLAIN);
}

bool op_store_ordered(Warp *w, const Inst *in, uint32_t mask)
{
	return store_to(w, in, mask, spaces[in->alt[1]], in->alt[2], ACCESS_ORDERED);
}

/* ---- address spaces ---- */

/* {.global,.shared,.shared::cta,.local,.param,.const,.shared::cluster} */
static const uint64_t windows[] = { 0, SHARED_WINDOW, SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW, 0, SHARED_WINDOW };

bool op_cvta(Warp *w, const Inst *in, uint32_t mask)
{
	uint64_t *d = reg(w, in->op[0]);
	const uint64_t *a = reg(w, in->op[1]);
	FOR_LANES(mask, d[l] = a[l] + windows[in->alt[0]]);
	return true;
}

bool op_cvta_to(Warp *w, const Inst *in, uint32_t mask)
{
	uint64_t *d = reg(w, in->op[0]);
	const uint64_t *a = reg(w, in->op[1]);
	FOR_LANES(mask, d[l] = a[l] - windows[in->alt[0]]);
	return true;
}

bool op_isspacep(Warp *w, const Inst *in, uint32_t mask)
{
	const uint64_t *a = reg(w, in->op[1]);
	uint32_t result = 0;
	for (int l = 0; l < LANES; l++) {
		uint64_t window = a[l] & ~(WINDOW_BYTES - 1);
		bool special = window == SHARED_WINDOW || window == LOCAL_WINDOW || window == PARAM_WINDOW;
		result |= (uint32_t)(windows[in->alt[0]] ? window == windows[in->alt[0]] : !special) << l;
	}
	set_pred(w, in->op[0], mask, result);
	return true;
}

/* ---- atomics: lanes one after the other ---- */

/* op: {.add,.min,.max,.and,.or,.xor,.exch,.inc,.dec}; type: {.b,.u,.s,.f} */
static uint64_t combine(uint64_t old, uint64_t x, int op, int type, uint32_t bytes)
{
	bool wide = bytes == 8, less = wide ? old < x : (uint32_t)old < (uint32_t)x;
	if (type == 2)
		less = wide ? (int64_t)old < (int64_t)x : (int32_t)old < (int32_t)x;
	switch (op) {
	case 0:
		if (type != 3)
			return old + x;
		if (wide)
			return format_encode(format_decode(old, FORMAT_F64) + format_decode(x, FORMAT_F64), FORMAT_F64,
				ROUND_NEAREST);
		return bits_of(canonical(float_of((uint32_t)old) + float_of((uint32_t)x)));
	case 1: return less ? old : x;
	case 2: return less ? x : old;
	case 3: return old & x;
	case 4: return old | x;
	case 5: return old ^ x;
	case 6: return x;
	case 7: return (uint32_t)old >= (uint32_t)x ? 0 : old + 1;
	default: return (uint32_t)old == 0 || (uint32_t)old > (uint32_t)x ? x : old - 1;
	}
}

/* {,.global,.shared,.shared::cta} */
static const Space atomic_spaces[] = { SPACE_GENERIC, SPACE_GLOBAL, SPACE_SHARED, SPACE_SHARED };

/* compare < 0: no comparison, else the operand that holds it; d < 0: no result. */
static bool atomic(Warp *w, const Inst *in, uint32_t mask, int d, int compare)
{
	uint32_t bytes = in->src_bytes;
	Access a = { .element = bytes, .bytes = bytes, .kind = ACCESS_ORDERED };
	int op = in->alt[1], type = in->alt[2];
	if (!prepare(w, in, mask, atomic_spaces[in->alt[0]], 0, &a))
		return false;
	a.is_write = true;
	if (!prepare(w, in, mask, atomic_spaces[in->alt[0]], 0, &a))
		return false;
	for (int l = 0; l < LANES; l++) {
		if (!(mask >> l & 1))
			continue;
		uint64_t old = load_bytes(a.at[l], bytes, false), x = lane_get(w, in->op[in->n_dst + in->n_src - 1], bytes, l);
		uint64_t result = compare < 0 ? combine(old, x, op, type, bytes)
			: lane_get(w, in->op[compare], bytes, l) == old ? x : old;
		memcpy(a.at[l], &result, bytes);
		if (d >= 0)
			lane_set(w, in->op[d], bytes, l, old);
	}
	return true;
}

bool op_atom(Warp *w, const Inst *in, uint32_t mask) { return atomic(w, in, mask, 0, -1); }
bool op_atom_cas(Warp *w, const Inst *in, uint32_t mask) { return atomic(w, in, mask, 0, 2); }
bool op_red(Warp *w, const Inst *in, uint32_t mask) { return atomic(w, in, mask, -1, -1); }
