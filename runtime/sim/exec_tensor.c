/*
 * Tensor maps, filled by the host, and the bulk copies of boxes that use them. A box lies in shared memory row by row,
 * dimension 0 first, without gaps; with a swizzle of W bytes its rows are W bytes, and bits 4 and on of each address (1, 2,
 * 3 of them for W = 32, 64, 128) are xored with as many from bit 7 on, as wgmma does with what it reads. What a box holds
 * outside of the tensor is 0, and counts.
 */
#include "exec.h"

enum { SMALLEST_ALIGNMENT = 16, BOX_ALIGNMENT = 128, MAX_BOX = 256, MAP_MARK = 0x70616d74 /* "tmap" */ };

/* ---- the host's side ---- */

/* By CUtensorMapDataType; 0 where the simulator has no such copy. */
static uint32_t bytes_of_type(int type)
{
	static const uint8_t bytes[] = { 1, 2, 4, 4, 8, 8, 2, 4, 8, 2 };
	return type >= 0 && type < (int)(sizeof bytes) ? bytes[type] : 0;
}

static bool check_dimension(Sim *sim, uint32_t d, uint64_t size, uint64_t stride, uint32_t box)
{
	if (size == 0 || size > UINT64_C(1) << 32)
		return report_plain(sim, "tensor map: dimension %u has %llu elements; 1 to 2^32 are possible", d,
			(unsigned long long)size);
	if (box == 0 || box > MAX_BOX)
		return report_plain(sim, "tensor map: dimension %u of the box has %u elements; 1 to %d are possible", d, box,
			MAX_BOX);
	if (d > 0 && (stride % SMALLEST_ALIGNMENT || stride >= UINT64_C(1) << 40))
		return report_plain(sim, "tensor map: dimension %u has a stride of %llu bytes; it is a multiple of %d below 2^40", d,
			(unsigned long long)stride, SMALLEST_ALIGNMENT);
	return true;
}

int sim_tensor_map(Sim *sim, SimTensorMap *map, int type, uint32_t rank, const void *base, const uint64_t *sizes,
	const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides, int swizzle)
{
	uint32_t bytes = bytes_of_type(type);
	*map = (SimTensorMap){ .mark = MAP_MARK, .base = (uint64_t)(uintptr_t)base, .rank = (uint8_t)rank,
		.element = (uint8_t)bytes,
		.span = (uint8_t)(swizzle ? 16 << swizzle : 16) };
	sim->error[0] = 0;
	if (!bytes || rank < 1 || rank > SIM_TENSOR_RANK || swizzle < 0 || swizzle > 3)
		report_plain(sim, "tensor map: data type %d, rank %u, swizzle %d; the simulator knows types 0 to 9, ranks 1 to %d, "
			"swizzles 0 to 3", type, rank, swizzle, SIM_TENSOR_RANK);
	else if (map->base % SMALLEST_ALIGNMENT)
		report_plain(sim, "tensor map: the address 0x%llx is no multiple of %d", (unsigned long long)map->base,
			SMALLEST_ALIGNMENT);
	else if (box[0] * bytes % SMALLEST_ALIGNMENT || (swizzle && box[0] * bytes != map->span))
		report_plain(sim, "tensor map: a row of the box has %u bytes; it must be a multiple of %d, and all of the %u bytes "
			"of a swizzle",
			box[0] * bytes, SMALLEST_ALIGNMENT, map->span);
	for (uint32_t d = 0; d < rank && !sim->error[0]; d++) {
		map->sizes[d] = sizes[d];
		map->strides[d] = d ? strides[d - 1] : bytes;
		map->box[d] = box[d];
		if (element_strides[d] != 1)
			report_plain(sim, "tensor map: element strides other than 1 are not supported");
		else
			check_dimension(sim, d, sizes[d], map->strides[d], box[d]);
	}
	return sim->error[0] ? -1 : 0;
}

/* ---- the kernel's side ---- */

/* One lane's copy. */
typedef struct Box {
	SimTensorMap map;
	int64_t first[SIM_TENSOR_RANK];         /* coordinates of its first element */
	uint32_t shared;                        /* where it lies */
	uint32_t bytes, row_bytes;
} Box;

/* The map at address operand a, whose register comes first among operands; its coordinates follow. */
static bool read_box(Warp *w, const Inst *in, int l, int operand, int a, Box *box)
{
	uint64_t address = lane_address(w, in, a, in->op[operand], l);
	const Cta *cta = w->cta;
	bool in_params = (address & ~(WINDOW_BYTES - 1)) == PARAM_WINDOW;
	uint64_t offset = address - PARAM_WINDOW;
	if (in_params && (offset > cta->kernel->param_bytes || sizeof box->map > cta->kernel->param_bytes - offset))
		return report_at(w, in, l, "a tensor map outside of the parameters, at offset %llu", (unsigned long long)offset);
	if (!in_params && !global_read(w, in, l, address, sizeof box->map, ACCESS_PLAIN))
		return false;
	memcpy(&box->map, in_params ? cta->params + offset : (const uint8_t *)(uintptr_t)address, sizeof box->map);
	if (address % 64 || box->map.mark != MAP_MARK)
		return report_at(w, in, l, "there is no tensor map at 0x%llx: the host fills one with sim_tensor_map, at a multiple "
			"of 64",
			(unsigned long long)address);
	if (box->map.rank != in->n_vector)
		return report_at(w, in, l, "the tensor map has %u dimensions, the instruction %u", box->map.rank, in->n_vector);
	box->row_bytes = box->map.box[0] * box->map.element;
	box->bytes = box->row_bytes;
	for (uint32_t d = 0; d < box->map.rank; d++) {
		box->first[d] = (int32_t)lane_get(w, in->op[operand + 1 + (int)d], 4, l);
		box->bytes *= d ? box->map.box[d] : 1;
	}
	return true;
}

static bool read_place(Warp *w, const Inst *in, int l, Slot slot, int a, Box *box)
{
	uint64_t at = shared_address(lane_address(w, in, a, slot, l));
	if (at % BOX_ALIGNMENT)
		return report_at(w, in, l, "misaligned box: shared offset %llu is no multiple of %d", (unsigned long long)at,
			BOX_ALIGNMENT);
	box->shared = (uint32_t)at;
	return shared_bounds(w, in, l, at, box->bytes);
}

/* The part of row number row that the tensor has: bytes from to end of it, at *address. False: none of it. */
static bool row_range(const Box *box, uint32_t row, uint32_t *from, uint32_t *end, uint64_t *address)
{
	const SimTensorMap *m = &box->map;
	int64_t low = box->first[0] < 0 ? -box->first[0] : 0, high = (int64_t)m->sizes[0] - box->first[0];
	*address = m->base + (uint64_t)((box->first[0] + low) * m->element);
	for (uint32_t d = 1; d < m->rank; d++) {
		int64_t x = box->first[d] + row % m->box[d];
		row /= m->box[d];
		if (x < 0 || x >= (int64_t)m->sizes[d])
			return false;
		*address += (uint64_t)x * m->strides[d];
	}
	high = high < m->box[0] ? high : m->box[0];
	*from = (uint32_t)low * m->element;
	*end = high > low ? (uint32_t)high * m->element : 0;
	return high > low;
}

/* Between a row and its pieces of shared memory. */
static void move_row(SharedMemory *s, const Box *box, uint32_t row, uint8_t *bytes, bool into_shared)
{
	for (uint32_t i = 0; i < box->row_bytes; i += CHUNK_BYTES) {
		uint32_t at = box->shared + row * box->row_bytes + i;
		at ^= (at >> 7 & (box->map.span / 16u - 1)) << 4;
		if (into_shared)
			memcpy(s->bytes + at, bytes + i, CHUNK_BYTES);
		else
			memcpy(bytes + i, s->bytes + at, CHUNK_BYTES);
	}
}

static bool copy_rows(Warp *w, const Inst *in, int l, const Box *box, bool into_shared)
{
	SimCounts *counts = &w->cta->sim->counts;
	for (uint32_t row = 0; row < box->bytes / box->row_bytes; row++) {
		uint8_t bytes[MAX_BOX * 8] = { 0 };
		uint32_t from, end;
		uint64_t address;
		bool any = row_range(box, row, &from, &end, &address);
		if (!into_shared)
			move_row(&w->cta->shared, box, row, bytes, false);
		if (any && !(into_shared ? global_read : global_write)(w, in, l, address, end - from, ACCESS_PLAIN))
			return false;
		if (any && into_shared)
			memcpy(bytes + from, (const void *)(uintptr_t)address, end - from);
		else if (any)
			memcpy((void *)(uintptr_t)address, bytes + from, end - from);
		if (into_shared)
			move_row(&w->cta->shared, box, row, bytes, true);
		uint32_t n = any ? end - from : 0;
		*(into_shared ? &counts->global_load_bytes : &counts->global_store_bytes) += n;
		counts->global_transactions += (n + 31) / 32;
	}
	return true;
}

/* [shared], [map, {coordinates}], [mbarrier] */
bool op_tensor_load(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		Box box;
		Mbarrier *m = mbarrier_at(w, in, l, in->op[2 + in->n_vector], 2);
		if (!m || !read_box(w, in, l, 1, 1, &box) || !read_place(w, in, l, in->op[0], 0, &box)
		    || !shared_bulk_write(w, in, l, box.shared, box.bytes, mbarrier_agent(w->cta, m), m->phase + 1)
		    || !copy_rows(w, in, l, &box, true) || !mbarrier_complete_tx(w, in, l, m, box.bytes))
			return false;
	}
	return true;
}

/* [map, {coordinates}], [shared] */
bool op_tensor_store(Warp *w, const Inst *in, uint32_t mask)
{
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		int l = __builtin_ctz(rest);
		Box box;
		if (!read_box(w, in, l, 0, 0, &box) || !read_place(w, in, l, in->op[1 + in->n_vector], 1, &box)
		    || !bulk_begin_read(w, in, l, box.shared, box.bytes) || !copy_rows(w, in, l, &box, false))
			return false;
	}
	return true;
}
