/* A whole kernel (ring of cp.async, ldmatrix, mma) against f64; the same kernel with defects; every mma shape;
 * counts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

enum { ROWS = 64, COLS = 32, K = 128 };

static float bf16_value(uint16_t bits) { uint32_t b = (uint32_t)bits << 16; float x; memcpy(&x, &b, 4); return x; }

static uint16_t random_bf16(void) { return (uint16_t)(0x3f00 | (random_bits() & 0x80ff)); }

typedef struct Run { Sim *sim; bool ok; double error; SimCounts counts; } Run;

static Run run_matmul(const char *text, uint32_t shared)
{
	static uint16_t a[ROWS][K], b[COLS][K];
	static float c[ROWS][COLS];
	Run r = { .sim = sim_new() };
	for (int i = 0; i < ROWS * K; i++)
		a[i / K][i % K] = random_bf16();
	for (int i = 0; i < COLS * K; i++)
		b[i / K][i % K] = random_bf16();
	void *da = sim_alloc(r.sim, sizeof a), *db = sim_alloc(r.sim, sizeof b), *dc = sim_alloc(r.sim, sizeof c);
	uint32_t k = K;
	const void *params[] = { &da, &db, &dc, &k };
	const uint32_t grid[3] = { 1, 1, 1 }, block[3] = { 128, 1, 1 };
	sim_copy_in(r.sim, da, a, sizeof a);
	sim_copy_in(r.sim, db, b, sizeof b);
	SimModule *module = sim_load(r.sim, text, strlen(text));
	r.ok = module && sim_launch(r.sim, module, "matmul", grid, block, shared, params) == 0
		&& sim_copy_out(r.sim, c, dc, sizeof c) == 0;
	r.counts = sim_counts(r.sim);
	for (int i = 0; r.ok && i < ROWS; i++)
		for (int j = 0; j < COLS; j++) {
			double want = 0, size = 0;
			for (int x = 0; x < K; x++) {
				double product = (double)bf16_value(a[i][x]) * bf16_value(b[j][x]);
				want += product;
				size += fabs(product);
			}
			r.error = fmax(r.error, fabs(c[i][j] - want) / size);
		}
	return r;
}

static void test_matmul(const char *text)
{
	Run r = run_matmul(text, 6144);
	check(r.ok && r.error < 1e-6, "matmul: relative error %g; %s", r.error, sim_error(r.sim));
	check(r.counts.mma == 4 * 4 * (K / 16), "%llu matrix instructions", (unsigned long long)r.counts.mma);
	check(r.counts.global_load_bytes == 2 * K * (ROWS + COLS), "%llu bytes loaded",
		(unsigned long long)r.counts.global_load_bytes);
	check(r.counts.global_store_bytes == 4 * ROWS * COLS, "%llu bytes stored",
		(unsigned long long)r.counts.global_store_bytes);
	/* Rows of 32 bytes: 8 of them fall on the same 16 bytes mod 128 in pairs, one extra cycle a matrix. */
	check(r.counts.shared_bank_conflicts == 4 * (K / 16) * 3 * 4, "%llu bank conflicts",
		(unsigned long long)r.counts.shared_bank_conflicts);
	sim_free(r.sim);
}

static void test_defect(const char *text, const char *old, const char *with, int skip, const char *report)
{
	char *copy = strdup(text);
	check(patch_text(copy, old, with, skip), "'%s' is not in the kernel", old);
	Run r = run_matmul(copy, 6144);
	check(!r.ok && strstr(sim_error(r.sim), report), "'%s' as '%s': \"%s\" is not in: %s", old, with, report,
		r.ok ? "no report" : sim_error(r.sim));
	sim_free(r.sim);
	free(copy);
}

/* ---- every shape, against the fragment layouts of the PTX manual ---- */

typedef struct Shape {
	const char *opcode;
	int k, bits, n_a, n_b;          /* registers */
	char type;                      /* h f16, b bf16, t tf32, s s8, u u8 */
} Shape;

static const Shape shapes[] = {
	{ "m16n8k16.row.col.f32.f16.f16.f32", 16, 16, 4, 2, 'h' },
		{ "m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, 4, 2, 'b' },
	{ "m16n8k8.row.col.f32.f16.f16.f32", 8, 16, 2, 1, 'h' }, { "m16n8k8.row.col.f32.bf16.bf16.f32", 8, 16, 2, 1, 'b' },
	{ "m16n8k8.row.col.f32.tf32.tf32.f32", 8, 32, 4, 2, 't' },
		{ "m16n8k4.row.col.f32.tf32.tf32.f32", 4, 32, 2, 1, 't' },
	{ "m16n8k32.row.col.s32.s8.s8.s32", 32, 8, 4, 2, 's' }, { "m16n8k32.row.col.s32.u8.u8.s32", 32, 8, 4, 2, 'u' },
	{ "m16n8k16.row.col.satfinite.s32.s8.s8.s32", 16, 8, 2, 1, 's' },
};

static void test_shape(const Shape *s)
{
	int a[16][32], b[32][8], c[16][8];
	uint32_t in[32][16] = { { 0 } }, out[32][4], per = 32 / (uint32_t)s->bits;
	for (int i = 0; i < 16 * 32; i++)
		a[i / 32][i % 32] = (int)(random_bits() % 31) - (s->type == 'u' ? 0 : 15);
	for (int i = 0; i < 32 * 8; i++)
		b[i / 8][i % 8] = (int)(random_bits() % 31) - (s->type == 'u' ? 0 : 15);
	for (int i = 0; i < 16 * 8; i++)
		c[i / 8][i % 8] = (int)(random_bits() % 2000) - 1000;
	for (int lane = 0; lane < 32; lane++) {
		int group = lane >> 2, in_group = lane & 3;
		for (int i = 0; i < s->n_a * (int)per; i++) {
			/* From the manual: row = group for registers 0 and 2, group + 8 for 1 and 3. */
			int r = i / (int)per, row = r % 2 ? group + 8 : group,
				col = in_group * (int)per + i % (int)per + (r >= 2 ? s->k / 2 : 0);
			in[lane][r] |= matrix_bits(a[row][col], s->type) << (unsigned)s->bits % 32 * (unsigned)(i % (int)per);
		}
		for (int i = 0; i < s->n_b * (int)per; i++) {
			int r = i / (int)per, row = in_group * (int)per + i % (int)per + (r ? s->k / 2 : 0);
			in[lane][4 + r] |= matrix_bits(b[row][group], s->type) << (unsigned)s->bits % 32 * (unsigned)(i % (int)per);
		}
		for (int i = 0; i < 4; i++) {
			float x = (float)c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
			int32_t n = (int32_t)x;
			memcpy(&in[lane][8 + i], s->bits == 8 ? (void *)&n : (void *)&x, 4);
		}
	}
	char body[1500];
	size_t at = (size_t)snprintf(body, sizeof body, "mul.wide.u32 %%a, %%t, 64; add.s64 %%a, %%in, %%a;\n");
	for (int i = 0; i < 12; i++)
		at += (size_t)snprintf(body + at, sizeof body - at, "ld.global.b32 %%r%d, [%%a+%d];\n", i, 4 * i);
	snprintf(body + at, sizeof body - at,
		"mma.sync.aligned.%s {%%r20,%%r21,%%r22,%%r23}, %s, %s, {%%r8,%%r9,%%r10,%%r11};\n"
		"mul.wide.u32 %%a, %%t, 16; add.s64 %%a, %%out, %%a; st.global.v4.b32 [%%a], {%%r20,%%r21,%%r22,%%r23};",
			s->opcode,
		s->n_a == 4 ? "{%r0,%r1,%r2,%r3}" : "{%r0,%r1}", s->n_b == 2 ? "{%r4,%r5}" : "{%r4}");
	Sim *sim = sim_new();
	void *from = sim_alloc(sim, sizeof in), *to = sim_alloc(sim, sizeof out);
	sim_copy_in(sim, from, in, sizeof in);
	char *text = kernel_text(".reg .b32 %r<32>; .reg .b64 %a;", body);
	bool ok = run_text(sim, text, 1, 32, 0, from, to) && sim_copy_out(sim, out, to, sizeof out) == 0;
	int bad = 0;
	for (int lane = 0; ok && lane < 32; lane++)
		for (int i = 0; i < 4; i++) {
			int row = i < 2 ? lane / 4 : lane / 4 + 8, col = lane % 4 * 2 + (i & 1), want = c[row][col];
			float got;
			memcpy(&got, &out[lane][i], 4);
			for (int x = 0; x < s->k; x++)
				want += a[row][x] * b[x][col];
			bad += s->bits == 8 ? (int32_t)out[lane][i] != want : got != (float)want;
		}
	check(ok && bad == 0, "%s: %d of 128 results are wrong; %s", s->opcode, bad, sim_error(sim));
	free(text);
	sim_free(sim);
}

int main(void)
{
	size_t length;
	char *text = read_text(SOURCE_DIR "/matmul.ptx", &length);
	if (!text) {
		printf("matmul.ptx can't be read\n");
		return 1;
	}
	test_matmul(text);
	test_defect(text, "wait_group 1", "wait_group 2", 0, "with a cp.async in flight");
	test_defect(text, "bar.sync 0;", "", 0, "read of shared memory that nothing wrote");
	test_defect(text, "bar.sync 0;", "", 1, "shared-memory race");
	test_defect(text, "[%r25+2560]", "[%r25+2564]", 0, "misaligned matrix row");
	test_defect(text, "[%r25+2560]", "[%r25+6660]", 0, "misaligned matrix row");
	test_defect(text, "[%r25+2560]", "[%r25+6144]", 0, "shared memory out of bounds");
	test_defect(text, "mov.f32 %f9, 0f00000000;", "", 0, "holds no value");
	test_defect(text, "setp.ge.u32 %p2, %r22, %r1", "setp.gt.u32 %p2, %r22, %r1", 0,
		"read of global memory out of bounds");
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		test_shape(&shapes[i]);
	free(text);
	return tests_done();
}
