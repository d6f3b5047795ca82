/* wgmma in every type, layout of shared memory and source of A against a product in C; matrices of small whole numbers,
 * whose sums are exact. Layouts are written here as the PTX manual gives them, not as the simulator computes them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

enum { ROWS = 64, MAX_N = 256, STEPS = 2, MAX_K = 64, IMAGE = 64 * 1024, B_AT = 16 * 1024 };

typedef struct Layout {
	int span;               /* bytes of the swizzle; 16: none */
	bool mn_major;
	int leading, stride;    /* bytes */
	int block;              /* bytes from one span of K to the next; K-major, swizzled */
} Layout;

typedef struct Case {
	char type;              /* h f16, b bf16, t tf32, s s8, u u8 */
	int n;
	bool a_in_registers;
	Layout a, b;
	int sign_a, sign_b;
	bool accumulate;
} Case;

static int bits_of_type(char type) { return type == 't' ? 32 : type == 'h' || type == 'b' ? 16 : 8; }

/* The distances of an operand of rows rows, without gaps. */
static Layout fill_layout(Layout l, int rows)
{
	l.stride = 8 * l.span;
	l.block = rows * l.span;
	if (l.span == 16)
		l.leading = rows * 16;
	else
		l.leading = l.mn_major ? 2 * STEPS * l.stride : 16;
	return l;
}

/*
 * Byte offset of element (m, k), from the canonical layouts, T elements in 16 bytes and W = span / 16:
 *   K-major    ((8,m),(T,2)):((WT,S),(1,T)); without swizzle ((8,m),(T,2)):((T,S),(1,L))
 *   MN-major   ((T,W,m),(8,k)):((1,T,L),(WT,S)); without swizzle ((T,1,m),(8,k)):((1,T,S),(T,L))
 * then bits 4.. xored with bits 7.. . k runs on through the steps.
 */
static int offset_of(const Layout *l, int m, int k, int element)
{
	int t = 16 / element, w = l->span / 16, at;
	if (!l->mn_major && w == 1)
		at = m % 8 * 16 + m / 8 * l->stride + k / t * l->leading + k % t * element;
	else if (!l->mn_major)
		at = m % 8 * 16 * w + m / 8 * l->stride + k * element % l->span + k * element / l->span * l->block;
	else if (w == 1)
		at = m % t * element + m / t * l->stride + k % 8 * 16 + k / 8 * l->leading;
	else
		at = m % t * element + m / t % w * 16 + m / (t * w) * l->leading + k % 8 * 16 * w + k / 8 * l->stride;
	return at ^ (at >> 7 & (w - 1)) << 4;
}

/* Of the step-th instruction. */
static uint64_t descriptor(const Layout *l, int at, int step)
{
	static const int modes[] = { [1] = 0, [2] = 3, [4] = 2, [8] = 1 };
	int start = at + 2 * step * (l->span == 16 ? l->leading : l->stride);
	if (!l->mn_major && l->span != 16)
		start = at + step * 32 / l->span * l->block + step * 32 % l->span;
	return (uint64_t)(start >> 4 & 0x3fff) | (uint64_t)(l->leading >> 4) << 16 | (uint64_t)(l->stride >> 4) << 32
		| (uint64_t)modes[l->span / 16] << 62;
}

typedef struct Text { char text[65536]; size_t at; } Text;

static void add(Text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(Text *t, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	t->at += (size_t)vsnprintf(t->text + t->at, sizeof t->text - t->at, format, args);
	va_end(args);
}

static void add_wgmma(Text *t, const Case *c, int step, int element, bool accumulate)
{
	static const char *const shapes[] = { ['h'] = "k16.f32.f16.f16", ['b'] = "k16.f32.bf16.bf16", ['t'] = "k8.f32.tf32.tf32",
		['s'] = "k32.s32.s8.s8", ['u'] = "k32.s32.u8.u8" };
	add(t, "wgmma.mma_async.sync.aligned.m64n%d%s {", c->n, shapes[(int)c->type]);
	for (int r = 0; r < c->n / 2; r++)
		add(t, "%s%%r%d", r ? "," : "", r);
	if (c->a_in_registers)
		add(t, "}, {%%q%d,%%q%d,%%q%d,%%q%d}, ", 4 * step, 4 * step + 1, 4 * step + 2, 4 * step + 3);
	else
		add(t, "}, %llu, ", (unsigned long long)descriptor(&c->a, 0, step));
	add(t, "%llu, %d", (unsigned long long)descriptor(&c->b, B_AT, step), accumulate);
	if (element > 1)
		add(t, ", %d, %d", c->sign_a, c->sign_b);
	if (element == 2 && !c->a_in_registers)
		add(t, ", %d", c->a.mn_major);
	if (element == 2)
		add(t, ", %d", c->b.mn_major);
	add(t, ";\n");
}

/* Copies the image into shared memory, reads 8 registers of A a thread behind it, multiplies, writes D. */
static char *matmul_text(const Case *c, int element)
{
	static Text t;
	t.at = 0;
	add(&t, "mov.u32 %%d, dynamic; shl.b32 %%s, %%t, 4; add.u32 %%s, %%s, %%d; mul.wide.u32 %%x1, %%t, 16; add.u64 %%x1, "
		"%%x1, %%in;\n"
		"mov.u32 %%i, 0;\nCOPY: ld.global.v4.b32 {%%q0,%%q1,%%q2,%%q3}, [%%x1]; st.shared.v4.b32 [%%s], "
			"{%%q0,%%q1,%%q2,%%q3};\n"
		"add.u32 %%s, %%s, 2048; add.u64 %%x1, %%x1, 2048; add.u32 %%i, %%i, 2048; setp.lt.u32 %%p1, %%i, %d; @%%p1 bra "
			"COPY;\n"
		"fence.proxy.async.shared::cta; bar.sync 0; mul.wide.u32 %%x1, %%t, 32; add.u64 %%x1, %%x1, %%in;\n", IMAGE);
	add(&t, "ld.global.v4.b32 {%%q0,%%q1,%%q2,%%q3}, [%%x1+%d]; ld.global.v4.b32 {%%q4,%%q5,%%q6,%%q7}, [%%x1+%d];\n", IMAGE,
		IMAGE + 16);
	for (int r = 0; r < c->n / 2 && c->accumulate; r++)
		add(&t, "mov.b32 %%r%d, %u;\n", r, element == 1 ? 1000u : 0x447a0000);
	add(&t, "wgmma.fence.sync.aligned;\n");
	for (int step = 0; step < STEPS; step++)
		add_wgmma(&t, c, step, element, step > 0 || c->accumulate);
	add(&t, "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n"
		"mul.wide.u32 %%x1, %%t, %d; add.u64 %%x1, %%x1, %%out;\n", 2 * c->n);
	for (int r = 0; r < c->n / 2; r++)
		add(&t, "st.global.b32 [%%x1+%d], %%r%d;\n", 4 * r, r);
	return kernel_text(".reg .pred %p<2>; .reg .b32 %r<128>, %q<8>, %s, %d, %i; .reg .b64 %x<2>;", t.text);
}

static void fill_image(const Case *c, int element, int k, int a[ROWS][MAX_K], int b[MAX_N][MAX_K], uint8_t *image)
{
	for (int m = 0; m < MAX_N; m++)
		for (int j = 0; j < k; j++) {
			int x = (int)(random_bits() % 15) - (c->type == 'u' ? 0 : 7), y = (int)(random_bits() % 15) - (c->type == 'u'
				? 0 : 7);
			uint32_t x_bits = matrix_bits(x, c->type), y_bits = matrix_bits(y, c->type);
			if (m < ROWS) {
				a[m][j] = x;
				memcpy(image + offset_of(&c->a, m, j, element), &x_bits, (size_t)element);
			}
			if (m < c->n) {
				b[m][j] = y;
				memcpy(image + B_AT + offset_of(&c->b, m, j, element), &y_bits, (size_t)element);
			}
		}
	/* Registers of A: 32 bytes a thread, 16 of each step. */
	for (int thread = 0; thread < 128; thread++)
		for (int r = 0; r < 4 * STEPS; r++)
			for (int e = 0; e < 4 / element; e++) {
				int row = thread / 32 * 16 + thread % 32 / 4 + 8 * (r % 2);
				int column = r / 4 * 32 / element + 4 / element * (thread % 4 + 4 * (r % 4 / 2)) + e;
				uint32_t bits = matrix_bits(a[row][column], c->type);
				memcpy(image + IMAGE + 32 * thread + 4 * r + e * element, &bits, (size_t)element);
			}
}

static uint32_t result_bits(int sum, int element)
{
	float x = (float)sum;
	uint32_t bits;
	memcpy(&bits, &x, 4);
	return element == 1 ? (uint32_t)sum : bits;
}

static void test_product(Case c)
{
	static uint8_t image[IMAGE + 32 * 128];
	static uint32_t out[128][MAX_N / 2];
	static int a[ROWS][MAX_K], b[MAX_N][MAX_K];
	int element = bits_of_type(c.type) / 8, k = STEPS * 32 / element, bad = 0;
	c.a = fill_layout(c.a, ROWS), c.b = fill_layout(c.b, c.n);
	c.sign_a = c.sign_a ? c.sign_a : 1, c.sign_b = c.sign_b ? c.sign_b : 1;
	memset(image, 0, sizeof image);
	fill_image(&c, element, k, a, b, image);
	Sim *sim = sim_new();
	void *from = sim_alloc(sim, sizeof image), *to = sim_alloc(sim, sizeof out);
	sim_copy_in(sim, from, image, sizeof image);
	char *text = matmul_text(&c, element);
	bool ok = run_text(sim, text, 1, 128, IMAGE, from, to) && sim_copy_out(sim, out, to, 128 * (size_t)c.n * 2) == 0;
	for (int thread = 0; ok && thread < 128; thread++)
		for (int r = 0; r < c.n / 2; r++) {
			int row = thread / 32 * 16 + thread % 32 / 4 + 8 * (r / 2 % 2), column = r / 4 * 8 + thread % 4 * 2 + r % 2,
				sum = 0;
			for (int j = 0; j < k; j++)
				sum += a[row][j] * b[column][j];
			sum = sum * c.sign_a * c.sign_b + (c.accumulate ? 1000 : 0);
			bad += (&out[0][0])[thread * c.n / 2 + r] != result_bits(sum, element);
		}
	check(ok && bad == 0, "type %c, n %d, A %s%d %s, B %d %s: %d of %d results are wrong; %s", c.type, c.n,
		c.a_in_registers ? "registers " : "", c.a.span, c.a.mn_major ? "MN" : "K", c.b.span, c.b.mn_major ? "MN" : "K",
			bad, ROWS * c.n,
		sim_error(sim));
	free(text);
	sim_free(sim);
}

int main(void)
{
	static const char types[] = "hbtsu";
	static const int spans[] = { 16, 32, 64, 128 };
	for (size_t t = 0; t < sizeof types - 1; t++)
		for (int s = 0; s < 4; s++) {
			Layout x = { .span = spans[s] }, y = { .span = spans[(s + 1) % 4] };
			test_product((Case){ .type = types[t], .n = 64, .a = x, .b = y });
			test_product((Case){ .type = types[t], .n = 256, .a_in_registers = true, .a = x, .b = x, .accumulate = true });
			x.mn_major = true;
			if (types[t] == 'h' || types[t] == 'b') {
				test_product((Case){ .type = types[t], .n = 128, .a = x, .b = y, .accumulate = true });
				y.mn_major = true;
				test_product((Case){ .type = types[t], .n = 256, .a = x, .b = y, .sign_b = -1 });
				test_product((Case){ .type = types[t], .n = 64, .a_in_registers = true, .a = x, .b = x });
			}
		}
	const Layout plain = { .span = 16 }, swizzled = { .span = 128 };
	for (int n = 8; n <= MAX_N; n += 8)
		test_product((Case){ .type = 'b', .n = n, .a = plain, .b = swizzled, .sign_a = -1 });
	test_product((Case){ .type = 's', .n = 24, .a = swizzled, .b = swizzled, .accumulate = true });
	return tests_done();
}
