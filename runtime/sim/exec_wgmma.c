/*
 * wgmma: D = A B + D, 64 x N results of a warpgroup (4 warps from a multiple of 4 on). Warp w of the group has rows 16 w to
 * 16 w + 15. An instruction's K is 32 bytes of a row: 16 elements of 16 bits, 8 of tf32, 32 of 8 bits.
 *
 * Registers, with g = lane / 4 and t = lane % 4: register r of D holds row g + 8 (r / 2 % 2), column
 * 8 (r / 4) + 2 t + r % 2. Register r of A holds row g + 8 (r % 2) and, with E elements in it, columns E (t + 4 (r / 2))
 * on, as in mma.sync.
 *
 * Shared memory. A descriptor holds, each in units of 16 bytes, the start (bits 0-13), "leading" L (16-29) and "stride" S
 * (32-45); bits 49-51 are the base offset, 62-63 the swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32. The operand is made
 * of pieces of 16 bytes. In a K-major operand a piece is half of the K of one row m (of A; a column of B); in an MN-major
 * one it is 8 neighbours of one k. With W the swizzle's bytes, a piece lies at start plus
 *
 *                     none                                   swizzled
 *   K-major           16 (m % 8) + S (m / 8) + L half        W (m % 8) + S (m / 8) + 16 half
 *   MN-major, m = 8b  16 (k % 8) + L (k / 8) + S b           W (k % 8) + S (k / 8) + L (16 b / W) + (16 b) % W
 *
 * and, swizzled, bits 4 and on of that address (1, 2 or 3 of them) are then xored with as many from bit 7 on. The patterns
 * repeat every 8 W bytes, and must begin at a multiple of that; a base offset, which would move them, is not supported.
 *
 *   K-major, 128 bytes, S 1024         row 0      1      2      7      8
 *   start 1024, half 0                  1024   1168   1312   2032   2048
 *   start 1024, half 1                  1040   1152   1328   2016   2064
 *   start 1056 (the next K), half 0     1056   1200   1280   2000   2080
 *
 *   MN-major, 64 bytes, S 512, L 1024    k 0      1      2      7      8
 *   start 1024, rows 0 to 7             1024   1088   1168   1520   1536
 *   start 1024, rows 8 to 15            1040   1104   1152   1504   1552
 *   start 1024, rows 32 to 39           2048   2112   2192   2544   2560
 *
 * Asynchrony. A warp computes its rows when it issues the instruction; nobody may see that: registers are busy until
 * wait_group, and the pieces are held until a warp of the group has waited. A wait_group lasts until all four warps have
 * issued what it waits for, so no warp of a group reads after another one's wait.
 *
 * Products are exact, an instruction's sum is taken in double and rounded once: see exec_mma.c.
 */
#include <stdlib.h>
#include "exec.h"

enum { GROUP_WARPS = 4, WARP_ROWS = 16, MAX_N = 256, MAX_K = 32, PIECES = 2 /* of a row */ };

typedef struct Matrix {
	uint32_t start, leading, stride;
	uint32_t span;          /* bytes of the swizzle; 16: none */
	bool mn_major;
} Matrix;

typedef enum Element { ELEMENT_F16, ELEMENT_BF16, ELEMENT_TF32, ELEMENT_S8, ELEMENT_U8 } Element;

typedef struct Operands {       /* of one instruction, the same in all lanes */
	bool a_in_registers, accumulate;
	Element a_type, b_type;
	int n, k;
	float sign;
	Matrix a, b;
	uint64_t a_bits, b_bits;
} Operands;

struct WgmmaOp {
	const Inst *in;
	Operands o;
	uint32_t issued;        /* by which warps of the group, as a mask */
	float *b;               /* [k][n]; NULL once all have issued it */
	AsyncRead read;         /* what B depends on */
};

static uint32_t bytes_of(Element e) { return e == ELEMENT_TF32 ? 4 : e < ELEMENT_TF32 ? 2 : 1; }

static bool is_integer(const Operands *o) { return o->a_type >= ELEMENT_S8; }

/* ---- descriptors ---- */

static bool read_descriptor(Warp *w, const Inst *in, uint64_t bits, bool mn_major, const char *name, Matrix *m)
{
	static const uint8_t spans[] = { 16, 128, 64, 32 };
	*m = (Matrix){ .start = (bits & 0x3fff) << 4, .leading = (bits >> 16 & 0x3fff) << 4,
		.stride = (bits >> 32 & 0x3fff) << 4,
		.span = spans[bits >> 62], .mn_major = mn_major };
	if (bits & UINT64_C(0x3ff1c000c000c000))
		return report_at(w, in, -1, "the descriptor of %s, 0x%016llx, has bits outside of its fields", name,
			(unsigned long long)bits);
	if (bits >> 49 & 7)
		return report_at(w, in, -1, "the descriptor of %s, 0x%016llx, has a base offset: the simulator knows 0 alone", name,
			(unsigned long long)bits);
	if (m->start & (8 * m->span - 1) & ~127u)
		return report_at(w, in, -1, "the descriptor of %s begins at shared offset %u, inside a pattern of %u bytes: "
			"patterns begin at multiples of that", name, m->start, 8 * m->span);
	return true;
}

/* Piece i of rows first to first + rows - 1. */
static uint32_t piece_address(const Matrix *m, int first, int rows, int i)
{
	uint32_t at;
	if (!m->mn_major) {
		uint32_t row = (uint32_t)(first + i / PIECES), half = (uint32_t)(i % PIECES);
		at = row % 8 * m->span + row / 8 * m->stride + half * (m->span == 16 ? m->leading : 16);
	} else {
		uint32_t k = (uint32_t)(i / (rows / 8)), block = (uint32_t)(first / 8 + i % (rows / 8)), per_span = m->span / 16;
		at = k % 8 * m->span + block % per_span * 16;
		at += m->span == 16 ? k / 8 * m->leading + block * m->stride : k / 8 * m->stride + block / per_span * m->leading;
	}
	at += m->start;
	return at ^ (at >> 7 & (m->span / 16 - 1)) << 4;
}

/* ---- elements ---- */

static float element_of(const uint8_t *from, Element type)
{
	uint32_t word;
	uint16_t half;
	switch (type) {
	case ELEMENT_F16: memcpy(&half, from, 2); return half_to_float(half);
	case ELEMENT_BF16: memcpy(&half, from, 2); return bf16_to_float(half);
	case ELEMENT_TF32: memcpy(&word, from, 4); return float_of(word & ~0x1fffu);
	case ELEMENT_S8: return (float)(int8_t)*from;
	default: return (float)*from;
	}
}

static void decode_piece(const uint8_t *from, Element type, float *to, int stride)
{
	uint32_t bytes = bytes_of(type);
	for (uint32_t e = 0; e < CHUNK_BYTES / bytes; e++)
		to[(size_t)e * stride] = element_of(from + e * bytes, type);
}

/* to[row * row_stride + k * k_stride] */
static void load_rows(const SharedMemory *s, const Matrix *m, Element type, int first, int rows, float *to, int row_stride,
	int k_stride)
{
	int per_piece = (int)(CHUNK_BYTES / bytes_of(type));
	for (int i = 0; i < PIECES * rows; i++) {
		const uint8_t *from = s->bytes + piece_address(m, first, rows, i);
		if (m->mn_major)
			decode_piece(from, type, to + i / (rows / 8) * k_stride + i % (rows / 8) * 8 * row_stride, row_stride);
		else
			decode_piece(from, type, to + i / PIECES * row_stride + i % PIECES * per_piece * k_stride, k_stride);
	}
}

/* Row by row, as load_rows does. */
static void load_registers(Warp *w, const Inst *in, Element type, float a[WARP_ROWS][MAX_K])
{
	uint32_t bytes = bytes_of(type);
	int per = (int)(4 / bytes);
	for (int r = 0; r < 4; r++) {
		const uint8_t *from = reg(w, in->op[r]);
		for (int l = 0; l < LANES; l++)
			for (int e = 0; e < per; e++)
				a[l / 4 + 8 * (r % 2)][per * (l % 4 + 4 * (r / 2)) + e] = element_of(from + 4 * l + (size_t)e * bytes, type);
	}
}

/* ---- products ---- */

WIDE static void multiply(float a[WARP_ROWS][MAX_K], const float *b, int n, int k, double *d)
{
	double rows[MAX_K][MAX_N];
	for (int j = 0; j < k; j++)
		for (int c = 0; c < n; c++)
			rows[j][c] = b[j * n + c];
	for (int m = 0; m < WARP_ROWS; m++) {
		double *sum = d + m * n;
		for (int c = 0; c < n; c++)
			sum[c] = 0;
		for (int j = 0; j < k; j += 4) {
			double x = a[m][j], y = a[m][j + 1], z = a[m][j + 2], u = a[m][j + 3];
			for (int c = 0; c < n; c++)
				sum[c] += (x * rows[j][c] + y * rows[j + 1][c]) + (z * rows[j + 2][c] + u * rows[j + 3][c]);
		}
	}
}

/* Whole numbers below 2^24 in all: float is exact. */
WIDE static void multiply_int(float a[WARP_ROWS][MAX_K], const float *b, int n, double *d)
{
	for (int m = 0; m < WARP_ROWS; m++) {
		float sum[MAX_N] = { 0 };
		for (int j = 0; j < MAX_K; j += 4) {
			float x = a[m][j], y = a[m][j + 1], z = a[m][j + 2], u = a[m][j + 3];
			for (int c = 0; c < n; c++)
				sum[c] += (x * b[j * n + c] + y * b[(j + 1) * n + c]) + (z * b[(j + 2) * n + c] + u * b[(j + 3) * n + c]);
		}
		for (int c = 0; c < n; c++)
			d[m * n + c] = sum[c];
	}
}

static const Slot *accumulators(const Warp *w, const Inst *in) { return w->cta->kernel->lists + in->list; }

WIDE static void add_floats(float *to, const double *sums)
{
	for (int l = 0; l < LANES; l++)
		to[l] = canonical((float)(to[l] + sums[l]));
}

static void add_integers(int32_t *to, const double *sums, bool saturates)
{
	for (int l = 0; l < LANES; l++) {
		int64_t x = (int64_t)to[l] + (int64_t)sums[l];
		if (saturates)
			x = x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : x;
		to[l] = (int32_t)(uint32_t)x;
	}
}

static void accumulate(Warp *w, const Inst *in, const Operands *o, const double *d)
{
	const Slot *slots = accumulators(w, in);
	for (int r = 0; r < in->n_list; r++) {
		const double *from = d + 8 * (r / 2 % 2) * o->n + 8 * (r / 4) + r % 2;
		double sums[LANES];
		for (int g = 0; g < 8; g++)
			for (int t = 0; t < 4; t++)
				sums[4 * g + t] = from[g * o->n + 2 * t];
		if (!o->accumulate)
			memset(reg(w, slots[r]), 0, LANES * 4);
		if (is_integer(o))
			add_integers(reg(w, slots[r]), sums, in->flags & MOD_SAT);
		else
			add_floats(reg(w, slots[r]), sums);
		w->written[slots[r]] = UINT32_MAX;
	}
}

/* ---- issue ---- */

static bool survey(Warp *w, const Inst *in, const Matrix *m, int first, int rows, AsyncRead *read)
{
	for (int i = 0; i < PIECES * rows; i++) {
		uint32_t at = piece_address(m, first, rows, i);
		if (!shared_bounds(w, in, -1, at, CHUNK_BYTES) || !shared_survey(w, in, -1, at, CHUNK_BYTES, read))
			return false;
	}
	return true;
}

static void hold(SharedMemory *s, const Matrix *m, int first, int rows, uint32_t agent)
{
	for (int i = 0; i < PIECES * rows; i++)
		shared_hold(s, piece_address(m, first, rows, i), CHUNK_BYTES, agent);
}

static void release(SharedMemory *s, const Matrix *m, int rows, uint32_t agent, uint32_t stamp)
{
	for (int i = 0; i < PIECES * rows; i++)
		shared_release(s, piece_address(m, 0, rows, i), CHUNK_BYTES, agent, stamp);
}

static bool uniform(Warp *w, const Inst *in, Slot slot, uint32_t bytes, uint64_t *value)
{
	*value = lane_get(w, slot, bytes, 0);
	for (int l = 1; l < LANES; l++)
		if (lane_get(w, slot, bytes, l) != *value)
			return report_at(w, in, l, "lanes of one warp give wgmma different descriptors or modes");
	return true;
}

/* The sources are A's descriptor or four registers, B's descriptor, the predicate, and immediates: the signs of A and B,
 * and whether A (only where it has a descriptor) and B are MN-major. */
static bool read_operands(Warp *w, const Inst *in, Operands *o)
{
	uint64_t modes[4] = { 0 };
	int at = o->a_in_registers ? 4 : 1, n_modes;
	uint32_t p = *pred(w, in->op[at + 1]) ^ (in->alt[MAX_ALTERNATIVES - 1] ? UINT32_MAX : 0);
	if (p != 0 && p != UINT32_MAX)
		return report_at(w, in, -1, "lanes of one warp give wgmma different predicates");
	o->accumulate = p != 0;
	if ((!o->a_in_registers && !uniform(w, in, in->op[0], 8, &o->a_bits)) || !uniform(w, in, in->op[at], 8, &o->b_bits))
		return false;
	n_modes = in->n_src - at - 2;
	for (int i = 0; i < n_modes; i++)
		if (!uniform(w, in, in->op[at + 2 + i], 4, &modes[i]))
			return false;
	for (int i = 0; i < 2 && i < n_modes; i++) {
		if (modes[i] != 1 && modes[i] != UINT32_MAX)
			return report_at(w, in, -1, "imm-scale of wgmma is 1 or -1");
		o->sign *= modes[i] == 1 ? 1 : -1;
	}
	bool b_mn_major = n_modes > 2 && modes[n_modes - 1] == 1;
	return (o->a_in_registers || read_descriptor(w, in, o->a_bits, n_modes > 3 && modes[2] == 1, "A", &o->a))
		&& read_descriptor(w, in, o->b_bits, b_mn_major, "B", &o->b);
}

static bool check_registers(Warp *w, const Inst *in, const Operands *o)
{
	const Slot *slots = accumulators(w, in);
	for (int r = 0; r < in->n_list; r++) {
		if (o->accumulate && w->written[slots[r]] != UINT32_MAX)
			return report_at(w, in, __builtin_ctz(~w->written[slots[r]]), "accumulator %d holds no value: nothing wrote "
				"it", r);
		if (w->busy[slots[r]] & BUSY_SOURCE || (w->busy[slots[r]] && w->busy_shape != in->n_list))
			return report_at(w, in, -1, "accumulator %d is in use by an earlier wgmma %s: wgmma.wait_group must come "
				"before", r,
				w->busy[slots[r]] & BUSY_SOURCE ? "as its A" : "of another shape");
	}
	return true;
}

/* The group's next instruction, the same for its warps; the first of them to come reads B. NULL after a report. */
static WgmmaOp *join_group(Warp *w, const Inst *in, const Operands *o)
{
	Warpgroup *g = &w->cta->groups[w->number / GROUP_WARPS];
	uint32_t index = w->n_issued - g->n_finished;
	if (index == g->n_ops) {
		float *b = malloc((size_t)o->n * (size_t)o->k * sizeof *b);
		if (!b || !sim_grow(&g->ops, &g->cap_ops, g->n_ops + 1, sizeof *g->ops)) {
			free(b);
			report_at(w, in, -1, "out of memory");
			return NULL;
		}
		WgmmaOp *op = &g->ops[g->n_ops++];
		*op = (WgmmaOp){ .in = in, .o = *o, .b = b };
		if (!survey(w, in, &o->b, 0, o->n, &op->read))
			return NULL;
		load_rows(&w->cta->shared, &o->b, o->b_type, 0, o->n, b, 1, o->n);
		hold(&w->cta->shared, &o->b, 0, o->n, GROUP_AGENT + w->number / GROUP_WARPS);
	}
	WgmmaOp *op = &g->ops[index];
	if (op->in == in && op->o.a_bits == o->a_bits && op->o.b_bits == o->b_bits && op->o.accumulate == o->accumulate)
		return op;
	report_at(w, in, -1, "the warps of a warpgroup issue different wgmma: here A 0x%llx, B 0x%llx, another warp in its "
		"place that of PTX "
		"line %u with A 0x%llx, B 0x%llx", (unsigned long long)o->a_bits, (unsigned long long)o->b_bits, op->in->line,
		(unsigned long long)op->o.a_bits, (unsigned long long)op->o.b_bits);
	return NULL;
}

static void wake_group(Warp *w)
{
	for (uint32_t i = w->number / GROUP_WARPS * GROUP_WARPS, end = i + GROUP_WARPS; i < end; i++) {
		Warp *other = &w->cta->warps[i];
		if (other->state == WARP_WAITING && other->waits_for == WAITS_FOR_WGMMA)
			other->state = WARP_READY;
	}
}

static bool remember(Warp *w, const Inst *in, bool a_in_registers)
{
	const Slot *slots = accumulators(w, in);
	if (!sim_grow(&w->wgmma, &w->cap_wgmma, w->n_wgmma + 1, sizeof *w->wgmma))
		return report_at(w, in, -1, "out of memory");
	w->wgmma[w->n_wgmma++] = (IssuedWgmma){ .in = in, .group = w->wgmma_group, .number = w->n_issued++ };
	for (int r = 0; r < in->n_list; r++)
		w->busy[slots[r]] |= BUSY_SUM;
	for (int r = 0; r < 4 && a_in_registers; r++)
		w->busy[in->op[r]] |= BUSY_SOURCE;
	w->busy_shape = in->n_list;
	return true;
}

/* alt[0]: N / 8 - 1 */
static bool wgmma(Warp *w, const Inst *in, uint32_t mask, Element a_type, Element b_type)
{
	Operands o = { .a_in_registers = in->src_bytes == 4, .a_type = a_type, .b_type = b_type, .n = 8 * (in->alt[0] + 1),
		.k = (int)(32 / bytes_of(b_type)), .sign = 1 };
	uint32_t in_group = w->number % GROUP_WARPS, agent = GROUP_AGENT + w->number / GROUP_WARPS;
	int first = (int)(WARP_ROWS * in_group);
	float a[WARP_ROWS][MAX_K];
	double d[WARP_ROWS * MAX_N];
	if (mask != UINT32_MAX || w->number - in_group + GROUP_WARPS > w->cta->n_warps)
		return report_at(w, in, -1, "wgmma needs all 128 threads of a warpgroup: the CTA has %u warps", w->cta->n_warps);
	if (!read_operands(w, in, &o) || !check_registers(w, in, &o))
		return false;
	WgmmaOp *op = join_group(w, in, &o);
	if (!op || !shared_check(w, in, -1, &op->read))
		return false;
	if (o.a_in_registers) {
		load_registers(w, in, a_type, a);
	} else {
		AsyncRead read = { 0 };
		if (!survey(w, in, &o.a, first, WARP_ROWS, &read) || !shared_check(w, in, -1, &read))
			return false;
		load_rows(&w->cta->shared, &o.a, a_type, first, WARP_ROWS, a[0], MAX_K, 1);
		hold(&w->cta->shared, &o.a, first, WARP_ROWS, agent);
	}
	for (int i = 0; i < WARP_ROWS && o.sign < 0; i++)
		for (int k = 0; k < o.k; k++)
			a[i][k] = -a[i][k];
	if (is_integer(&o))
		multiply_int(a, op->b, o.n, d);
	else
		multiply(a, op->b, o.n, o.k, d);
	accumulate(w, in, &o, d);
	op->issued |= 1u << in_group;
	if (op->issued == (1u << GROUP_WARPS) - 1) {
		free(op->b);
		op->b = NULL;
	}
	wake_group(w);
	w->cta->sim->counts.mma++;
	return remember(w, in, o.a_in_registers);
}

/* alt[1]: {.f16.f16,.bf16.bf16} */
bool op_wgmma_half(Warp *w, const Inst *in, uint32_t mask)
{
	Element type = in->alt[1] ? ELEMENT_BF16 : ELEMENT_F16;
	return wgmma(w, in, mask, type, type);
}
bool op_wgmma_tf32(Warp *w, const Inst *in, uint32_t mask) { return wgmma(w, in, mask, ELEMENT_TF32, ELEMENT_TF32); }

/* alt[1], alt[2]: {.s8,.u8} of A, of B */
bool op_wgmma_int8(Warp *w, const Inst *in, uint32_t mask)
{
	return wgmma(w, in, mask, ELEMENT_S8 + in->alt[1], ELEMENT_S8 + in->alt[2]);
}

/* ---- groups ---- */

bool op_wgmma_commit(Warp *w, const Inst *in, uint32_t mask)
{
	(void)in;
	(void)mask;
	w->wgmma_group++;
	return true;
}

/* The first n instructions of the group are done with shared memory. */
static void finish(Cta *cta, uint32_t group, uint32_t n)
{
	Warpgroup *g = &cta->groups[group];
	uint32_t count = n > g->n_finished ? n - g->n_finished : 0;
	for (uint32_t i = 0; i < count; i++) {
		const Operands *o = &g->ops[i].o;
		uint32_t stamp = g->n_finished + i + 1;
		release(&cta->shared, &o->b, o->n, GROUP_AGENT + group, stamp);
		if (!o->a_in_registers)
			release(&cta->shared, &o->a, GROUP_WARPS * WARP_ROWS, GROUP_AGENT + group, stamp);
	}
	g->n_ops -= count;
	memmove(g->ops, g->ops + count, g->n_ops * sizeof *g->ops);
	g->n_finished += count;
}

/* Which registers are busy is what the rest of the list says. */
static void drop_issued(Warp *w, size_t count)
{
	for (size_t i = 0; i < w->n_wgmma; i++) {
		const Inst *in = w->wgmma[i].in;
		bool keep = i >= count;
		for (int r = 0; r < in->n_list; r++)
			w->busy[accumulators(w, in)[r]] = keep ? BUSY_SUM : 0;
		for (int r = 0; r < 4 && in->src_bytes == 4; r++)
			w->busy[in->op[r]] = keep ? BUSY_SOURCE : 0;
	}
	w->n_wgmma -= count;
	memmove(w->wgmma, w->wgmma + count, w->n_wgmma * sizeof *w->wgmma);
}

/* All groups but the newest n are done; where another warp has not issued its part yet, the instruction is tried again
 * later. */
bool op_wgmma_wait(Warp *w, const Inst *in, uint32_t mask)
{
	uint32_t n = (uint32_t)lane_get(w, in->op[0], 4, __builtin_ctz(mask)), group = w->number / GROUP_WARPS;
	size_t count = 0;
	while (count < w->n_wgmma && w->wgmma[count].group + n < w->wgmma_group)
		count++;
	if (count == 0)
		return true;
	uint32_t done = w->wgmma[count - 1].number + 1;
	for (uint32_t i = 0; i < GROUP_WARPS; i++)
		if (w->cta->warps[group * GROUP_WARPS + i].n_issued < done) {
			w->state = WARP_WAITING;
			w->waits_for = WAITS_FOR_WGMMA;
			w->waiting_at = in;
			w->pc--;
			return true;
		}
	finish(w->cta, group, done);
	drop_issued(w, count);
	w->clock.known[GROUP_AGENT + group] = done;
	return true;
}

void wgmma_reset(Cta *cta)
{
	for (int i = 0; i < MAX_GROUPS; i++) {
		Warpgroup *g = &cta->groups[i];
		for (size_t k = 0; k < g->n_ops; k++)
			free(g->ops[k].b);
		g->n_ops = g->n_finished = 0;
	}
}

void wgmma_free(Cta *cta)
{
	wgmma_reset(cta);
	for (int i = 0; i < MAX_GROUPS; i++)
		free(cta->groups[i].ops);
}

bool wgmma_watch(Warp *w, const Inst *in)
{
	for (int k = 0; k < in->n_dst + in->n_src; k++) {
		uint8_t busy = w->busy[in->op[k]];
		if (busy & BUSY_SUM || (busy & BUSY_SOURCE && k < in->n_dst))
			return report_at(w, in, -1, "%s a register that an unfinished wgmma %s: wgmma.wait_group must come before",
				k < in->n_dst ? "write to" : "read of", busy & BUSY_SUM ? "accumulates into" : "reads as its A");
	}
	return true;
}

bool wgmma_done(Warp *w)
{
	return w->n_wgmma == 0 || report_at(w, w->wgmma[0].in, -1, "the CTA has ended with this wgmma unfinished: "
		"wgmma.commit_group and wait_group must come before");
}
