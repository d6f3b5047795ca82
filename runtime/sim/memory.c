/*
 * Global memory: what is allocated, which bytes hold a value, and which CTA of the running launch touched them. CTAs
 * run in no defined order, so within a launch a byte that one CTA writes may not be touched by another.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

enum { GUARD_BYTES = 256, KEEP_RELEASED_BYTES = 64 << 20 };

bool sim_grow(void *array_pointer, size_t *capacity, size_t need, size_t element)
{
	void *array;
	memcpy(&array, array_pointer, sizeof array);
	if (need <= *capacity)
		return true;
	size_t grown = *capacity * 2 > need ? *capacity * 2 : need + 8;
	if (grown > SIZE_MAX / element || !(array = realloc(array, grown * element)))
		return false;
	memset((char *)array + *capacity * element, 0, (grown - *capacity) * element);
	memcpy(array_pointer, &array, sizeof array);
	*capacity = grown;
	return true;
}

/* The first allocation whose base is above address; its predecessor may hold the address. */
static size_t upper_bound(const Sim *sim, uint64_t address)
{
	size_t low = 0, high = sim->n_allocations;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (sim->allocations[middle].base <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool holds(const Allocation *a, uint64_t address, uint64_t bytes)
{
	return address >= a->base && address - a->base <= a->size && bytes <= a->size - (address - a->base);
}

/* NULL when no one live allocation holds the whole range. */
static Allocation *find(Sim *sim, uint64_t address, uint64_t bytes)
{
	if (sim->last_hit < sim->n_allocations) {
		Allocation *a = &sim->allocations[sim->last_hit];
		if (holds(a, address, bytes) && !a->released)
			return a;
	}
	size_t i = upper_bound(sim, address);
	if (i == 0 || !holds(&sim->allocations[i - 1], address, bytes) || sim->allocations[i - 1].released)
		return NULL;
	sim->last_hit = i - 1;
	return &sim->allocations[i - 1];
}

static void free_shadows(Allocation *a)
{
	free(a->written);
	free(a->writer);
	free(a->reader);
	a->written = NULL;
	a->writer = a->reader = NULL;
}

/* Released memory stays reserved, so that a stale pointer into it is recognised, until there is too much of it. */
static void drop_released(Sim *sim)
{
	size_t kept = 0;
	for (size_t i = 0; i < sim->n_allocations; i++) {
		if (sim->allocations[i].released)
			free(sim->allocations[i].memory);
		else
			sim->allocations[kept++] = sim->allocations[i];
	}
	sim->n_allocations = kept;
	sim->released_bytes = 0;
}

void *memory_alloc(Sim *sim, size_t bytes)
{
	Allocation a = { .size = bytes };
	if (bytes > SIZE_MAX / 16 || !sim_grow(&sim->allocations, &sim->cap_allocations, sim->n_allocations + 1, sizeof a))
		return NULL;
	a.memory = malloc(bytes + 3 * GUARD_BYTES);
	a.written = calloc(bytes + 1, 1);
	a.writer = calloc(bytes + 1, sizeof *a.writer);
	a.reader = calloc(bytes + 1, sizeof *a.reader);
	if (!a.memory || !a.written || !a.writer || !a.reader) {
		free_shadows(&a);
		free(a.memory);
		return NULL;
	}
	a.base = ((uint64_t)(uintptr_t)a.memory + 2 * GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES;
	memset(a.memory, 0xCD, bytes + 3 * GUARD_BYTES);
	size_t i = upper_bound(sim, a.base);
	memmove(&sim->allocations[i + 1], &sim->allocations[i], (sim->n_allocations - i) * sizeof a);
	sim->allocations[i] = a;
	sim->n_allocations++;
	return (void *)(uintptr_t)a.base;
}

void *sim_alloc(Sim *sim, size_t bytes)
{
	void *memory = memory_alloc(sim, bytes);
	if (!memory)
		report_plain(sim, "sim_alloc: out of memory (%zu bytes)", bytes);
	return memory;
}

void sim_release(Sim *sim, void *memory)
{
	uint64_t address = (uint64_t)(uintptr_t)memory;
	size_t i = upper_bound(sim, address);
	if (!memory || i == 0 || sim->allocations[i - 1].base != address || sim->allocations[i - 1].released)
		return;
	Allocation *a = &sim->allocations[i - 1];
	free_shadows(a);
	a->released = true;
	sim->released_bytes += a->size + 3 * GUARD_BYTES;
	if (sim->released_bytes > KEEP_RELEASED_BYTES)
		drop_released(sim);
}

void memory_free_all(Sim *sim)
{
	for (size_t i = 0; i < sim->n_allocations; i++) {
		free_shadows(&sim->allocations[i]);
		free(sim->allocations[i].memory);
	}
	free(sim->allocations);
}

/* The allocation of a range that the host names; reports and gives NULL when there is none. */
static Allocation *host_range(Sim *sim, const char *function, const void *at, size_t bytes)
{
	char where[160];
	uint64_t address = (uint64_t)(uintptr_t)at;
	Allocation *a = find(sim, address, bytes);
	if (!a)
		report_plain(sim, "%s: %zu bytes at 0x%llx are not inside one allocation: %s", function, bytes,
			(unsigned long long)address, describe_address(sim, address, where, sizeof where));
	return a;
}

void sim_copy_in(Sim *sim, void *to, const void *from, size_t bytes)
{
	Allocation *a = host_range(sim, "sim_copy_in", to, bytes);
	if (a && bytes) {
		memcpy(to, from, bytes);
		memset(a->written + ((uint64_t)(uintptr_t)to - a->base), 1, bytes);
	}
}

void sim_fill(Sim *sim, void *to, int byte, size_t bytes)
{
	Allocation *a = host_range(sim, "sim_fill", to, bytes);
	if (a) {
		memset(to, byte, bytes);
		memset(a->written + ((uint64_t)(uintptr_t)to - a->base), 1, bytes);
	}
}

void sim_forget(Sim *sim, void *at, size_t bytes)
{
	Allocation *a = host_range(sim, "sim_forget", at, bytes);
	if (a)
		memset(a->written + ((uint64_t)(uintptr_t)at - a->base), 0, bytes);
}

int sim_copy_out(Sim *sim, void *to, const void *from, size_t bytes)
{
	Allocation *a = bytes ? host_range(sim, "sim_copy_out", from, bytes) : NULL;
	if (!a)
		return bytes ? -1 : 0;
	const uint8_t *written = a->written + ((uint64_t)(uintptr_t)from - a->base);
	const uint8_t *hole = memchr(written, 0, bytes);
	if (hole) {
		size_t first = (size_t)(hole - written), count = 0;
		for (size_t i = first; i < bytes; i++)
			count += !written[i];
		report_plain(sim, "sim_copy_out: byte %zu of the %zu at 0x%llx was never written (%zu such bytes)", first,
			bytes,
			(unsigned long long)(uintptr_t)from, count);
		return -1;
	}
	memcpy(to, from, bytes);
	return 0;
}

/* Tags of this launch's CTAs are new, so the shadows of earlier launches need no clearing. */
bool memory_begin_launch(Sim *sim, uint64_t n_ctas)
{
	if (n_ctas >= TAG_ATOMIC - 2)
		return report_plain(sim, "a grid of %llu CTAs is too large for the simulator", (unsigned long long)n_ctas);
	if (sim->next_tag == 0 || sim->next_tag + n_ctas + 1 >= TAG_ATOMIC) {
		for (size_t i = 0; i < sim->n_allocations; i++)
			if (!sim->allocations[i].released) {
				memset(sim->allocations[i].writer, 0, sim->allocations[i].size * sizeof(uint32_t));
				memset(sim->allocations[i].reader, 0, sim->allocations[i].size * sizeof(uint32_t));
			}
		sim->next_tag = 1;
	}
	sim->first_tag = sim->next_tag;
	sim->many_tag = sim->first_tag + (uint32_t)n_ctas;
	sim->next_tag = sim->many_tag + 1;
	return true;
}

/* ---- accesses by kernels ---- */

static bool report_outside(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes, const char *what)
{
	char where[160];
	Sim *sim = w->cta->sim;
	size_t i = upper_bound(sim, address);
	bool released = i > 0 && holds(&sim->allocations[i - 1], address, bytes) && sim->allocations[i - 1].released;
	return report_at(w, in, lane, "%s global memory %s: %u bytes at 0x%llx, %s", what,
		released ? "after its release" : "out of bounds", bytes, (unsigned long long)address,
		describe_address(sim, address, where, sizeof where));
}

static bool report_conflict(Warp *w, const Inst *in, int lane, uint64_t address, const char *what, uint32_t tag)
{
	const Cta *cta = w->cta;
	char other[80] = "another CTA", where[160];
	uint32_t index = tag - cta->sim->first_tag;
	if (tag != cta->sim->many_tag)
		snprintf(other, sizeof other, "CTA (%u,%u,%u)", index % cta->grid[0], index / cta->grid[0] % cta->grid[1],
			index / cta->grid[0] / cta->grid[1]);
	return report_at(w, in, lane, "conflict between CTAs: %s %s in the same launch: byte at 0x%llx, %s", what, other,
		(unsigned long long)address, describe_address(cta->sim, address, where, sizeof where));
}

static bool all_equal(const uint32_t *array, uint32_t n)
{
	return n == 1 || memcmp(array, array + 1, (n - 1) * sizeof *array) == 0;
}

bool global_read(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes, AccessKind kind)
{
	Sim *sim = w->cta->sim;
	Allocation *a = find(sim, address, bytes);
	if (!a)
		return report_outside(w, in, lane, address, bytes, "read of");
	uint64_t at = address - a->base;
	const uint8_t *hole = memchr(a->written + at, 0, bytes);
	if (hole) {
		char where[160];
		return report_at(w, in, lane, "read of global memory that nothing wrote: byte %u of %u at 0x%llx, %s",
			(unsigned)(hole - a->written - at), bytes, (unsigned long long)address,
			describe_address(sim, address, where, sizeof where));
	}
	uint32_t tag = w->cta->tag, first = sim->first_tag, *writer = a->writer + at, *reader = a->reader + at;
	bool same_writer = all_equal(writer, bytes);
	for (uint32_t i = 0; i < (same_writer ? 1 : bytes); i++) {
		uint32_t t = writer[i] & ~TAG_ATOMIC;
		if (t >= first && kind == ACCESS_CONSTANT)
			return report_at(w, in, lane, "ld.global.nc of bytes that this launch wrote: 0x%llx (the compiler took "
				"them "
				"for read-only)", (unsigned long long)address + i);
		if (t >= first && t != tag && !(kind == ACCESS_ORDERED && writer[i] & TAG_ATOMIC))
			return report_conflict(w, in, lane, address + i, "reads what was written by", t);
	}
	if (kind == ACCESS_ORDERED || (reader[0] == tag && all_equal(reader, bytes)))
		return true;
	for (uint32_t i = 0; i < bytes; i++)
		reader[i] = reader[i] < first || reader[i] == tag ? tag : sim->many_tag;
	return true;
}

bool global_write(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes, AccessKind kind)
{
	Sim *sim = w->cta->sim;
	Allocation *a = find(sim, address, bytes);
	if (!a)
		return report_outside(w, in, lane, address, bytes, "write to");
	uint64_t at = address - a->base;
	uint32_t tag = w->cta->tag, first = sim->first_tag, *writer = a->writer + at, *reader = a->reader + at;
	bool ordered = kind == ACCESS_ORDERED;
	uint32_t to_check = all_equal(writer, bytes) && all_equal(reader, bytes) ? 1 : bytes;
	for (uint32_t i = 0; i < to_check; i++) {
		uint32_t t = writer[i] & ~TAG_ATOMIC;
		if (t >= first && t != tag && !(ordered && writer[i] & TAG_ATOMIC))
			return report_conflict(w, in, lane, address + i, "writes what was written by", t);
		if (reader[i] >= first && reader[i] != tag)
			return report_conflict(w, in, lane, address + i, "writes what was read by", reader[i]);
	}
	for (uint32_t i = 0; i < bytes; i++)
		writer[i] = ordered ? tag | TAG_ATOMIC : tag;
	memset(a->written + at, 1, bytes);
	return true;
}

bool global_read_lanes(Warp *w, const Inst *in, int lane, int n, uint64_t address, uint32_t bytes, AccessKind kind)
{
	uint32_t all = (uint32_t)n * bytes;
	const Allocation *a = n > 1 ? find(w->cta->sim, address, all) : NULL;
	uint64_t at = a ? address - a->base : 0;
	if (a && !memchr(a->written + at, 0, all) && all_equal(a->writer + at, all))
		return global_read(w, in, lane, address, all, kind);
	for (int k = 0; k < n; k++)
		if (!global_read(w, in, lane + k, address + (uint32_t)k * bytes, bytes, kind))
			return false;
	return true;
}

bool global_write_lanes(Warp *w, const Inst *in, int lane, int n, uint64_t address, uint32_t bytes, AccessKind kind)
{
	uint32_t all = (uint32_t)n * bytes;
	const Allocation *a = n > 1 ? find(w->cta->sim, address, all) : NULL;
	uint64_t at = a ? address - a->base : 0;
	if (a && all_equal(a->writer + at, all) && all_equal(a->reader + at, all))
		return global_write(w, in, lane, address, all, kind);
	for (int k = 0; k < n; k++)
		if (!global_write(w, in, lane + k, address + (uint32_t)k * bytes, bytes, kind))
			return false;
	return true;
}
