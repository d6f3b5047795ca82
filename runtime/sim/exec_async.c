/*
 * cp.async and the matrix loads and stores of shared memory.
 * A copy's source is read at once, its bytes arrive when the issuing lane waits for its group: until then they are
 * marked as in flight, and whoever touches them is reported.
 */
#include "exec.h"

/* One lane: size bytes arrive, of which the first source bytes are read and the rest are 0. */
static bool issue(Warp *w, const Inst *in, int l, uint32_t size, uint32_t source)
{
	uint64_t to = shared_address(lane_address(w, in, 0, in->op[0], l));
	uint64_t from = lane_address(w, in, 1, in->op[1], l);
	if (source > size)
		return report_at(w, in, l, "cp.async: the source size %u is larger than the copy's %u bytes", source, size);
	if (to % size || (source && from % size))
		return report_at(w, in, l, "misaligned cp.async: %u bytes from 0x%llx to shared offset %llu", size,
			(unsigned long long)from, (unsigned long long)to);
	if (!shared_bounds(w, in, l, to, size) || (source && !global_read(w, in, l, from, source, ACCESS_PLAIN))
	    || !shared_write(w, in, l, (uint32_t)to, size, ACCESS_COPY))
		return false;
	if (!sim_grow(&w->copies, &w->cap_copies, w->n_copies + 1, sizeof *w->copies))
		return report_at(w, in, l, "out of memory");
	AsyncCopy *copy = &w->copies[w->n_copies++];
	*copy = (AsyncCopy){ .to = (uint32_t)to, .group = w->group[l], .lane = (uint8_t)l, .bytes = (uint8_t)size };
	memcpy(copy->data, (const void *)(uintptr_t)from, source);
	w->cta->sim->counts.global_load_bytes += source;
	return true;
}

static bool check_size(Warp *w, const Inst *in, uint32_t size)
{
	if (size == 16 || (in->alt[0] == 0 && (size == 4 || size == 8)))
		return true;
	return report_at(w, in, -1, "cp.async of %u bytes: .ca copies 4, 8 or 16, .cg 16", size);
}

static void count_copy_sectors(Warp *w, const Inst *in, uint32_t mask)
{
	uint64_t last = UINT64_MAX;
	for (int l = 0; l < LANES; l++) {
		uint64_t sector = lane_address(w, in, 1, in->op[1], l) / 32;
		if (mask >> l & 1 && sector != last) {
			w->cta->sim->counts.global_transactions++;
			last = sector;
		}
	}
}

bool op_cp_async(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *sizes = reg(w, in->op[2]), *sources = reg(w, in->op[in->n_src > 3 ? 3 : 2]);
	uint32_t reading = 0;
	for (int l = 0; l < LANES; l++) {
		if (!(mask >> l & 1))
			continue;
		if (!check_size(w, in, sizes[l]) || !issue(w, in, l, sizes[l], sources[l]))
			return false;
		reading |= (uint32_t)(sources[l] != 0) << l;
	}
	count_copy_sectors(w, in, reading);
	return true;
}

/* The predicate says where the source is not read. */
bool op_cp_async_ignore(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *sizes = reg(w, in->op[2]);
	uint32_t ignore = *pred(w, in->op[3]);
	if (in->alt[MAX_ALTERNATIVES - 1])
		ignore = ~ignore;
	for (int l = 0; l < LANES; l++)
		if (mask >> l & 1 && (!check_size(w, in, sizes[l]) || !issue(w, in, l, sizes[l], ignore >> l & 1 ? 0
			: sizes[l])))
			return false;
	count_copy_sectors(w, in, mask & ~ignore);
	return true;
}

bool op_cp_async_commit(Warp *w, const Inst *in, uint32_t mask)
{
	(void)in;
	for (int l = 0; l < LANES; l++)
		w->group[l] += mask >> l & 1;
	return true;
}

/* Lands the copies of the lanes in mask whose group is before end[lane]. */
static bool land(Warp *w, uint32_t mask, const uint32_t *end)
{
	size_t kept = 0;
	for (size_t i = 0; i < w->n_copies; i++) {
		AsyncCopy copy = w->copies[i];
		if (!(mask >> copy.lane & 1) || copy.group >= end[copy.lane]) {
			w->copies[kept++] = copy;
			continue;
		}
		memcpy(w->cta->shared.bytes + copy.to, copy.data, copy.bytes);
		shared_land(w, copy.to, copy.bytes, w->cta->time);
	}
	w->n_copies = kept;
	return true;
}

/* All groups but the newest n have arrived. */
bool op_cp_async_wait(Warp *w, const Inst *in, uint32_t mask)
{
	const uint32_t *n = reg(w, in->op[0]);
	uint32_t end[LANES];
	for (int l = 0; l < LANES; l++)
		end[l] = w->group[l] > n[l] ? w->group[l] - n[l] : 0;
	return land(w, mask, end);
}

bool op_cp_async_wait_all(Warp *w, const Inst *in, uint32_t mask)
{
	(void)in;
	uint32_t end[LANES];
	for (int l = 0; l < LANES; l++)
		end[l] = w->group[l] + 1;
	return land(w, mask, end);
}

/* ---- 8x8 matrices of 16-bit elements ---- */

/* Where the rows of n matrices are: row r of matrix m at address[8 m + r], from lane 8 m + r. */
static bool matrix_rows(Warp *w, const Inst *in, uint32_t mask, int n, bool is_write, uint32_t *address)
{
	if (mask != UINT32_MAX)
		return report_at(w, in, -1, "a matrix instruction needs all 32 lanes, only 0x%08x are there", mask);
	for (int l = 0; l < 8 * n; l++) {
		uint64_t at = shared_address(lane_address(w, in, 0, in->op[in->n_dst], l));
		if (at % 16)
			return report_at(w, in, l, "misaligned matrix row: shared offset %llu is no multiple of 16",
				(unsigned long long)at);
		if (!shared_bounds(w, in, l, at, 16))
			return false;
		address[l] = (uint32_t)at;
		if (is_write ? !shared_write(w, in, l, address[l], 16, ACCESS_PLAIN) : !shared_read(w, in, l, address[l], 16))
			return false;
	}
	for (int m = 0; m < n; m++)
		count_bank_conflicts(w, address, 0xffu << 8 * m, 16);
	return true;
}

/* Lane l holds elements 2 (l % 4) and the next of row l / 4; of column l / 4 where transposed. */
bool op_ldmatrix(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t address[LANES];
	const uint8_t *bytes = w->cta->shared.bytes;
	if (!matrix_rows(w, in, mask, in->n_dst, false, address))
		return false;
	for (int m = 0; m < in->n_dst; m++) {
		uint32_t *d = reg(w, in->op[m]);
		for (int l = 0; l < LANES; l++) {
			if (in->flags & MOD_TRANS) {
				uint16_t low, high;
				memcpy(&low, bytes + address[8 * m + 2 * (l % 4)] + 2 * (l / 4), 2);
				memcpy(&high, bytes + address[8 * m + 2 * (l % 4) + 1] + 2 * (l / 4), 2);
				d[l] = (uint32_t)high << 16 | low;
			} else {
				memcpy(&d[l], bytes + address[8 * m + l / 4] + 4 * (l % 4), 4);
			}
		}
	}
	return true;
}

bool op_stmatrix(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t address[LANES];
	uint8_t *bytes = w->cta->shared.bytes;
	int n = in->n_src - 1;
	if (!matrix_rows(w, in, mask, n, true, address))
		return false;
	for (int m = 0; m < n; m++) {
		const uint32_t *s = reg(w, in->op[1 + m]);
		for (int l = 0; l < LANES; l++) {
			if (in->flags & MOD_TRANS) {
				memcpy(bytes + address[8 * m + 2 * (l % 4)] + 2 * (l / 4), &s[l], 2);
				uint16_t high = (uint16_t)(s[l] >> 16);
				memcpy(bytes + address[8 * m + 2 * (l % 4) + 1] + 2 * (l / 4), &high, 2);
			} else {
				memcpy(bytes + address[8 * m + l / 4] + 4 * (l % 4), &s[l], 4);
			}
		}
	}
	return true;
}
