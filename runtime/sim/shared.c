/*
 * Shared memory and its races, by vector clocks. Cta.time counts arrivals at barriers; a warp's accesses are stamped
 * with it. Clock.known[u] is the latest stamp of agent u whose accesses happened before: those who arrive at a barrier
 * give it what they know, and take what all knew when they have waited for it. Two accesses of a byte by different
 * agents, one of them a write, race when the earlier one is not known to the later one. Lanes of a warp are in order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

bool shared_memory_new(SharedMemory *shared, uint32_t bytes, uint32_t n_warps)
{
	size_t n = bytes + 16;
	*shared = (SharedMemory){ .size = bytes, .n_warps = n_warps };
	shared->bytes = malloc(n);
	shared->write_stamp = malloc(n * sizeof(uint32_t));
	shared->read_stamp = malloc(n * (n_warps + (n_warps + 3) / 4) * sizeof(uint32_t));
	shared->readers = malloc(n * sizeof(uint64_t));
	shared->writer = malloc(n);
	shared->in_flight = malloc(n);
	shared->held = malloc((n / CHUNK_BYTES + 1) * sizeof(uint16_t));
	shared->holder = malloc(n / CHUNK_BYTES + 1);
	return shared->bytes && shared->write_stamp && shared->read_stamp && shared->readers && shared->writer
		&& shared->in_flight && shared->held && shared->holder;
}

void shared_free(SharedMemory *shared)
{
	free(shared->bytes);
	free(shared->write_stamp);
	free(shared->read_stamp);
	free(shared->readers);
	free(shared->writer);
	free(shared->in_flight);
	free(shared->held);
	free(shared->holder);
}

void shared_reset(SharedMemory *shared)
{
	memset(shared->bytes, 0xCD, shared->size);
	memset(shared->write_stamp, 0, shared->size * sizeof(uint32_t));
	memset(shared->readers, 0, shared->size * sizeof(uint64_t));
	memset(shared->writer, 0, shared->size);
	memset(shared->in_flight, 0, shared->size);
	memset(shared->held, 0, (shared->size / CHUNK_BYTES + 1) * sizeof(uint16_t));
	shared->n_held = 0;
}

static uint32_t *read_stamps(const SharedMemory *s, uint32_t agent)
{
	uint32_t plane = agent < GROUP_AGENT ? agent : s->n_warps + agent - GROUP_AGENT;
	return s->read_stamp + (size_t)plane * s->size;
}

bool shared_bounds(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes)
{
	const SharedMemory *s = &w->cta->shared;
	if (address <= s->size && bytes <= s->size - address)
		return true;
	return report_at(w, in, lane, "shared memory out of bounds: %u bytes at offset %lld, the CTA has %u (%u static "
		"and %u dynamic)", bytes, (long long)address, s->size, s->size - w->cta->dynamic_shared, w->cta->dynamic_shared);
}

void clock_join(Clock *clock, const Clock *with)
{
	for (int u = 0; u < MAX_AGENTS; u++)
		clock->known[u] = with->known[u] > clock->known[u] ? with->known[u] : clock->known[u];
	for (int u = 0; u < MAX_WARPS; u++)
		clock->visible[u] = with->visible[u] > clock->visible[u] ? with->visible[u] : clock->visible[u];
}

uint32_t clock_publish(Warp *w, Clock *clock)
{
	clock_join(clock, &w->clock);
	return clock->known[w->number] = w->cta->time++;
}

static const char *agent_name(const Cta *cta, uint32_t agent, char *buffer, size_t size)
{
	if (agent < GROUP_AGENT)
		snprintf(buffer, size, "warp %u", agent);
	else if (agent < MBARRIER_AGENT)
		snprintf(buffer, size, "wgmma of warps %u to %u", 4 * (agent - GROUP_AGENT), 4 * (agent - GROUP_AGENT) + 3);
	else
		snprintf(buffer, size, "a bulk copy of the mbarrier at offset %u", cta->mbarriers[agent - MBARRIER_AGENT].address);
	return buffer;
}

static bool race(Warp *w, const Inst *in, int lane, uint32_t address, const char *what, uint32_t other)
{
	char name[80];
	return report_at(w, in, lane, "shared-memory race: warp %u %s %s, with no %s: byte at offset %u", w->number, what,
		agent_name(w->cta, other, name, sizeof name),
		other < GROUP_AGENT ? "barrier between them" : "wait for it", address);
}

/* The async proxy and ordinary accesses (the generic proxy) see each other's writes only across a fence. */
static bool unfenced(Warp *w, const Inst *in, int lane, uint32_t address, const char *what, uint32_t writer)
{
	return report_at(w, in, lane, "the async proxy %s what warp %u wrote through the generic one (st, cp.async), with no "
		"fence.proxy.async between them: byte at offset %u; the writer must execute it before the barrier", what, writer,
		address);
}

static bool is_held(const SharedMemory *s, uint32_t address, uint32_t bytes)
{
	for (uint32_t c = address / CHUNK_BYTES; bytes && s->n_held && c <= (address + bytes - 1) / CHUNK_BYTES; c++)
		if (s->held[c])
			return true;
	return false;
}

static bool overwrites(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes)
{
	const SharedMemory *s = &w->cta->shared;
	uint32_t c = address / CHUNK_BYTES;
	char name[80];
	while (!s->held[c] && c < (address + bytes - 1) / CHUNK_BYTES)
		c++;
	return report_at(w, in, lane, "warp %u writes shared memory that is still being read by %s%s: bytes at offset %u; its "
		"wait_group must come before", w->number, s->holder[c] < GROUP_AGENT ? "a bulk copy of " : "",
		agent_name(w->cta, s->holder[c], name, sizeof name), c * CHUNK_BYTES);
}

static bool flying(Warp *w, const Inst *in, int lane, uint32_t address, const char *what)
{
	if (w->cta->shared.in_flight[address] == MBARRIER_HERE)
		return report_at(w, in, lane, "%s shared memory that holds an mbarrier: byte at offset %u; only mbarrier "
			"instructions may touch it before mbarrier.inval", what, address);
	return report_at(w, in, lane, "%s shared memory with a cp.async in flight (issued by warp %u): byte at offset %u; "
		"cp.async.wait_group and a barrier must come before", what, w->cta->shared.in_flight[address] - 1u, address);
}

static bool read_byte(Warp *w, const Inst *in, int lane, uint32_t i)
{
	SharedMemory *s = &w->cta->shared;
	uint32_t writer = s->writer[i] & ~WRITER_ATOMIC;
	if (s->in_flight[i])
		return flying(w, in, lane, i, "read of");
	if (!s->write_stamp[i])
		return report_at(w, in, lane, "read of shared memory that nothing wrote: byte at offset %u", i);
	if (writer != w->number && s->write_stamp[i] > w->clock.known[writer])
		return race(w, in, lane, i, "reads what was written by", writer);
	s->readers[i] |= UINT64_C(1) << w->number;
	read_stamps(s, w->number)[i] = w->cta->time;
	return true;
}

/* Are the n elements, of size bytes each, alike? */
static bool all_equal(const void *array, uint32_t n, size_t size)
{
	return n == 1 || memcmp(array, (const char *)array + size, (n - 1) * size) == 0;
}

/* Do the bytes share one history but for the stamps of their readers? They mostly do: then one check serves all. */
static bool alike(const SharedMemory *s, uint32_t i, uint32_t n)
{
	return all_equal(s->write_stamp + i, n, sizeof *s->write_stamp) && all_equal(s->readers + i, n, sizeof *s->readers)
		&& all_equal(s->writer + i, n, 1) && all_equal(s->in_flight + i, n, 1);
}

static void fill(uint32_t *array, uint32_t n, uint32_t value)
{
	for (uint32_t i = 0; i < n; i++)
		array[i] = value;
}

static void fill_masks(uint64_t *array, uint32_t n, uint64_t value)
{
	for (uint32_t i = 0; i < n; i++)
		array[i] = value;
}

/* Read before by this warp, at this time, and not written since: nothing new can be wrong. */
static bool read_already(const Warp *w, const SharedMemory *s, uint32_t address, uint32_t bytes)
{
	const uint32_t *stamp = read_stamps(s, w->number) + address;
	const uint64_t *readers = s->readers + address;
	return readers[0] >> w->number & 1 && stamp[0] == w->cta->time && all_equal(readers, bytes, sizeof *readers)
		&& all_equal(stamp, bytes, sizeof *stamp);
}

static bool read_alike(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes)
{
	SharedMemory *s = &w->cta->shared;
	uint32_t *stamp = read_stamps(s, w->number) + address;
	if (!read_byte(w, in, lane, address))
		return false;
	fill_masks(s->readers + address, bytes, s->readers[address]);
	fill(stamp, bytes, stamp[0]);
	return true;
}

bool shared_read(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes)
{
	SharedMemory *s = &w->cta->shared;
	if (read_already(w, s, address, bytes))
		return true;
	if (alike(s, address, bytes))
		return read_alike(w, in, lane, address, bytes);
	for (uint32_t i = address; i < address + bytes; i++)
		if (!read_byte(w, in, lane, i))
			return false;
	return true;
}

bool shared_read_lanes(Warp *w, const Inst *in, int lane, int n, uint32_t address, uint32_t bytes)
{
	SharedMemory *s = &w->cta->shared;
	if (n > 1 && read_already(w, s, address, (uint32_t)n * bytes))
		return true;
	if (n > 1 && alike(s, address, (uint32_t)n * bytes))
		return read_alike(w, in, lane, address, (uint32_t)n * bytes);
	for (int k = 0; k < n; k++)
		if (!shared_read(w, in, lane + k, address + (uint32_t)k * bytes, bytes))
			return false;
	return true;
}

/* Bytes that are alike, and were read by the same agents at the same times: one check serves all. */
static bool one_write_check(const Warp *w, const SharedMemory *s, uint32_t address, uint32_t bytes)
{
	bool same = alike(s, address, bytes);
	for (uint64_t rest = s->readers[address] & ~(UINT64_C(1) << w->number); same && rest; rest &= rest - 1)
		same = all_equal(read_stamps(s, (uint32_t)__builtin_ctzll(rest)) + address, bytes, sizeof(uint32_t));
	return same;
}

static bool write_byte(Warp *w, const Inst *in, int lane, uint32_t i, AccessKind kind)
{
	SharedMemory *s = &w->cta->shared;
	uint32_t writer = s->writer[i] & ~WRITER_ATOMIC;
	bool both_ordered = kind == ACCESS_ORDERED && s->writer[i] & WRITER_ATOMIC;
	if (s->in_flight[i])
		return flying(w, in, lane, i, kind == ACCESS_COPY ? "copy into" : "write to");
	if (writer != w->number && s->write_stamp[i] > w->clock.known[writer] && !both_ordered)
		return race(w, in, lane, i, "writes what was written by", writer);
	for (uint64_t rest = s->readers[i] & ~(UINT64_C(1) << w->number); rest; rest &= rest - 1) {
		uint32_t u = (uint32_t)__builtin_ctzll(rest);
		if (read_stamps(s, u)[i] > w->clock.known[u])
			return race(w, in, lane, i, "writes what was read by", u);
	}
	return true;
}

static void set_writer(SharedMemory *s, uint32_t address, uint32_t bytes, uint8_t writer, uint32_t stamp)
{
	fill(s->write_stamp + address, bytes, stamp);
	fill_masks(s->readers + address, bytes, 0);
	memset(s->writer + address, writer, bytes);
	memset(s->in_flight + address, 0, bytes);
}

void shared_land(Warp *w, uint32_t address, uint32_t bytes, uint32_t stamp)
{
	set_writer(&w->cta->shared, address, bytes, (uint8_t)w->number, stamp);
}

/* ACCESS_COPY marks the bytes as in flight. The first to_check bytes stand for all. */
static bool write_bytes(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, uint32_t to_check, AccessKind kind)
{
	SharedMemory *s = &w->cta->shared;
	uint8_t writer = (uint8_t)(w->number | (kind == ACCESS_ORDERED ? WRITER_ATOMIC : 0));
	for (uint32_t i = address; i < address + to_check; i++)
		if (!write_byte(w, in, lane, i, kind))
			return false;
	set_writer(s, address, bytes, writer, w->cta->time);
	if (kind == ACCESS_COPY)
		memset(s->in_flight + address, (int)w->number + 1, bytes);
	return true;
}

bool shared_write(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, AccessKind kind)
{
	const SharedMemory *s = &w->cta->shared;
	if (is_held(s, address, bytes))
		return overwrites(w, in, lane, address, bytes);
	return write_bytes(w, in, lane, address, bytes, one_write_check(w, s, address, bytes) ? 1 : bytes, kind);
}

bool shared_write_lanes(Warp *w, const Inst *in, int lane, int n, uint32_t address, uint32_t bytes, AccessKind kind)
{
	const SharedMemory *s = &w->cta->shared;
	uint32_t all = (uint32_t)n * bytes;
	if (n > 1 && !is_held(s, address, all) && one_write_check(w, s, address, all))
		return write_bytes(w, in, lane, address, all, 1, kind);
	for (int k = 0; k < n; k++)
		if (!shared_write(w, in, lane + k, address + (uint32_t)k * bytes, bytes, kind))
			return false;
	return true;
}

/* ---- the async proxy ---- */

static bool survey_byte(Warp *w, const Inst *in, int lane, uint32_t i, AsyncRead *read)
{
	const SharedMemory *s = &w->cta->shared;
	uint32_t writer = s->writer[i] & ~WRITER_ATOMIC;
	if (s->in_flight[i])
		return flying(w, in, lane, i, "read of");
	if (!s->write_stamp[i])
		return report_at(w, in, lane, "read of shared memory that nothing wrote: byte at offset %u", i);
	if (s->write_stamp[i] > read->latest[writer]) {
		read->latest[writer] = s->write_stamp[i];
		read->where[writer] = i;
	}
	return true;
}

bool shared_survey(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, AsyncRead *read)
{
	const SharedMemory *s = &w->cta->shared;
	for (uint32_t at = address; at < address + bytes; at += CHUNK_BYTES) {
		bool same = all_equal(s->write_stamp + at, CHUNK_BYTES, sizeof *s->write_stamp)
			&& all_equal(s->writer + at, CHUNK_BYTES, 1) && all_equal(s->in_flight + at, CHUNK_BYTES, 1);
		for (uint32_t i = at; i < at + (same ? 1 : CHUNK_BYTES); i++)
			if (!survey_byte(w, in, lane, i, read))
				return false;
	}
	return true;
}

bool shared_check(Warp *w, const Inst *in, int lane, const AsyncRead *read)
{
	for (uint32_t u = 0; u < MAX_AGENTS; u++) {
		if (u != w->number && read->latest[u] > w->clock.known[u])
			return race(w, in, lane, read->where[u], "reads what was written by", u);
		if (u < GROUP_AGENT && read->latest[u] > w->clock.visible[u])
			return unfenced(w, in, lane, read->where[u], "reads", u);
	}
	return true;
}

void shared_hold(SharedMemory *s, uint32_t address, uint32_t bytes, uint32_t agent)
{
	for (uint32_t c = address / CHUNK_BYTES; c < (address + bytes) / CHUNK_BYTES; c++) {
		s->held[c]++;
		s->holder[c] = (uint8_t)agent;
	}
	s->n_held += bytes / CHUNK_BYTES;
}

void shared_release(SharedMemory *s, uint32_t address, uint32_t bytes, uint32_t agent, uint32_t stamp)
{
	for (uint32_t c = address / CHUNK_BYTES; c < (address + bytes) / CHUNK_BYTES; c++)
		s->held[c]--;
	s->n_held -= bytes / CHUNK_BYTES;
	for (uint32_t i = address; i < address + bytes; i++)
		s->readers[i] |= UINT64_C(1) << agent;
	fill(read_stamps(s, agent) + address, bytes, stamp);
}

/* The copy's own writes need no fence after what the async proxy wrote; after ordinary ones they do. */
bool shared_bulk_write(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, uint32_t agent, uint32_t stamp)
{
	SharedMemory *s = &w->cta->shared;
	if (is_held(s, address, bytes))
		return overwrites(w, in, lane, address, bytes);
	for (uint32_t i = address; i < address + bytes;) {
		uint32_t writer = s->writer[i] & ~WRITER_ATOMIC;
		if (!write_byte(w, in, lane, i, ACCESS_COPY))
			return false;
		if (writer < GROUP_AGENT && s->write_stamp[i] > w->clock.visible[writer])
			return unfenced(w, in, lane, i, "overwrites", writer);
		i += i % CHUNK_BYTES == 0 && one_write_check(w, s, i, CHUNK_BYTES) ? CHUNK_BYTES : 1;
	}
	set_writer(s, address, bytes, (uint8_t)agent, stamp);
	return true;
}

/* Do the lanes want no two words of a bank? They mostly don't. */
static bool without_conflict(const uint32_t *address, uint32_t mask, uint32_t words)
{
	uint32_t wanted[32], banks = 0;
	for (uint32_t rest = mask; rest; rest &= rest - 1) {
		uint32_t first = address[__builtin_ctz(rest)] / 4;
		for (uint32_t word = first; word < first + words; word++) {
			uint32_t bank = word % 32;
			if (banks >> bank & 1 && wanted[bank] != word)
				return false;
			banks |= UINT32_C(1) << bank;
			wanted[bank] = word;
		}
	}
	return true;
}

static uint32_t count_ways(const uint32_t *address, uint32_t mask, uint32_t n_words)
{
	uint32_t words[32][LANES], count[32] = { 0 }, ways = 0;
	for (uint32_t rest = mask; rest; rest &= rest - 1)
		for (uint32_t k = 0; k < n_words; k++) {
			uint32_t word = address[__builtin_ctz(rest)] / 4 + k, bank = word % 32, i = 0;
			while (i < count[bank] && words[bank][i] != word)
				i++;
			if (i == count[bank] && i < LANES)
				words[bank][count[bank]++] = word;
			ways = count[bank] > ways ? count[bank] : ways;
		}
	return ways;
}

/* Accesses of 8 and 16 bytes are served in halves and quarters of a warp, each in as many cycles as its fullest bank
 * has different words. */
void count_bank_conflicts(Warp *w, const uint32_t *address, uint32_t mask, uint32_t bytes)
{
	uint32_t n_words = (bytes + 3) / 4, per_phase = bytes <= 4 ? LANES : LANES / n_words;
	for (uint32_t first = 0; first < LANES; first += per_phase) {
		uint32_t phase = mask & UINT32_MAX >> (LANES - per_phase) << first;
		if (!without_conflict(address, phase, n_words))
			w->cta->sim->counts.shared_bank_conflicts += count_ways(address, phase, n_words) - 1;
	}
}
