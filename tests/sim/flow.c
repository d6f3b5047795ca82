/* Control flow: lanes that part and meet again, loops of different lengths, votes and shuffles, several dimensions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

#define REGISTERS ".reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %x<8>, %a, %b;"
#define STORE "mul.wide.u32 %b, %t, 4; add.s64 %b, %out, %b; st.global.b32 [%b], %r0;\n"

enum { THREADS = 64 };

typedef uint32_t (*Expected)(uint32_t t);
typedef struct Case { const char *name, *body; Expected expected; } Case;

static uint32_t two_ways(uint32_t t) { return t % 2 ? t * 3 : t + 100; }

static uint32_t collatz(uint32_t t)
{
	uint32_t n = t + 1, steps = 0;
	for (; n != 1; steps++)
		n = n % 2 ? 3 * n + 1 : n / 2;
	return steps;
}

static uint32_t nested(uint32_t t)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < t % 7; i++)
		for (uint32_t j = 0; j <= i + t % 3; j++) {
			if (j == 4)
				break;
			if ((i + j) % 2)
				continue;
			sum += i * 10 + j;
		}
	return sum;
}

/* After the branches, all lanes are together again: a full-mask vote would be reported otherwise. */
static uint32_t counted(uint32_t t) { (void)t; return 11; }
static uint32_t neighbour(uint32_t t) { return t % 32 == 31 ? t : t + 1; }
static uint32_t upwards(uint32_t t) { return t % 32 >= 3 ? t - 3 : t + 1000; }
static uint32_t butterfly(uint32_t t) { (void)t; return 31 * 32 / 2 + t / 32 * 32 * 32; }
static uint32_t rotated(uint32_t t) { return t / 8 * 8 + 5; }
static uint32_t early(uint32_t t) { return t < 10 ? 1 : 2; }
static uint32_t scope(uint32_t t) { return t + 7; }
static uint32_t reduced(uint32_t t) { return t / 32 * 32 + 31; }
static uint32_t matched(uint32_t t) { return 0x11111111u << t % 4; }
static uint32_t predicated(uint32_t t) { return t > 20 && t != 40 ? 5 : 9; }

static const Case cases[] = {
	{ "two ways", "and.b32 %r1, %t, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra EVEN; mul.lo.u32 %r0, %t, 3; bra.uni DONE;\n"
		"EVEN: add.u32 %r0, %t, 100;\nDONE:" STORE, two_ways },
	{ "loops of different lengths", "add.u32 %r1, %t, 1; mov.u32 %r0, 0;\n"
		"LOOP: setp.eq.u32 %p1, %r1, 1; @%p1 bra DONE; add.u32 %r0, %r0, 1; and.b32 %r2, %r1, 1; setp.eq.u32 %p2, "
			"%r2, 0;\n"
		"@%p2 bra EVEN; mad.lo.u32 %r1, %r1, 3, 1; bra LOOP; EVEN: shr.u32 %r1, %r1, 1; bra LOOP;\nDONE:" STORE,
			collatz },
	{ "nested loops with break and continue",
		"mov.u32 %r0, 0; rem.u32 %r1, %t, 7; rem.u32 %r2, %t, 3; mov.u32 %r3, 0;\n"
		"OUTER: setp.ge.u32 %p1, %r3, %r1; @%p1 bra END; mov.u32 %r4, 0; add.u32 %r5, %r3, %r2;\n"
		"INNER: setp.gt.u32 %p2, %r4, %r5; @%p2 bra NEXT; setp.eq.u32 %p3, %r4, 4; @%p3 bra NEXT; add.u32 %r6, %r3, "
			"%r4;\n"
		"and.b32 %r6, %r6, 1; setp.eq.u32 %p4, %r6, 1; @%p4 bra CONTINUE; mad.lo.u32 %r0, %r3, 10, %r0;\n"
		"add.u32 %r0, %r0, %r4;\nCONTINUE: add.u32 %r4, %r4, 1; bra INNER;\n"
		"NEXT: add.u32 %r3, %r3, 1; vote.sync.any.pred %p5, %p1, 0xffffffff; bra OUTER;\nEND:" STORE, NULL },
	{ "the same without a vote in the loop", "mov.u32 %r0, 0; rem.u32 %r1, %t, 7; rem.u32 %r2, %t, 3; mov.u32 %r3, 0;\n"
		"OUTER: setp.ge.u32 %p1, %r3, %r1; @%p1 bra END; mov.u32 %r4, 0; add.u32 %r5, %r3, %r2;\n"
		"INNER: setp.gt.u32 %p2, %r4, %r5; @%p2 bra NEXT; setp.eq.u32 %p3, %r4, 4; @%p3 bra NEXT; add.u32 %r6, %r3, "
			"%r4;\n"
		"and.b32 %r6, %r6, 1; setp.eq.u32 %p4, %r6, 1; @%p4 bra CONTINUE; mad.lo.u32 %r0, %r3, 10, %r0;\n"
		"add.u32 %r0, %r0, %r4;\nCONTINUE: add.u32 %r4, %r4, 1; bra INNER;\n"
		"NEXT: add.u32 %r3, %r3, 1; bra OUTER;\nEND:" STORE, nested },
	{ "together after the branch", "and.b32 %r1, %t, 31; setp.gt.u32 %p1, %r1, 20; @%p1 bra A; mov.u32 %r2, 0; bra B;\n"
		"A: mov.u32 %r2, 1;\nB: setp.eq.u32 %p2, %r2, 1; vote.sync.ballot.b32 %r3, %p2, -1; popc.b32 %r0, "
			"%r3;" STORE, counted },
	{ "shfl.down", "shfl.sync.down.b32 %r0|%p1, %t, 1, 31, -1;" STORE, neighbour },
	{ "shfl.up with its predicate", "shfl.sync.up.b32 %r0|%p1, %t, 3, 0, -1; @!%p1 add.u32 %r0, %t, 1000;" STORE,
		upwards },
	{ "shfl.bfly", "mov.u32 %r0, %t; shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1; add.u32 %r0, %r0, %r1;\n"
		"shfl.sync.bfly.b32 %r1, %r0, 8, 31, -1; add.u32 %r0, %r0, %r1; shfl.sync.bfly.b32 %r1, %r0, 4, 31, -1;\n"
		"add.u32 %r0, %r0, %r1; shfl.sync.bfly.b32 %r1, %r0, 2, 31, -1; add.u32 %r0, %r0, %r1;\n"
		"shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; add.u32 %r0, %r0, %r1;" STORE, butterfly },
	{ "shfl.idx in segments of 8", "shfl.sync.idx.b32 %r0, %t, 5, 0x181f, -1;" STORE, rotated },
	{ "some lanes leave early", "setp.lt.u32 %p1, %t, 10; @!%p1 bra GO; mov.u32 %r0, 1;" STORE "ret; GO: mov.u32 "
		"%r0, 2;" STORE,
		early },
	{ "inner scopes", "mov.u32 %r0, %t; { .reg .b32 %r0; .reg .pred p; mov.u32 %r0, 5; setp.eq.u32 p, %r0, 5; @p bra "
		"X; trap; X: }\n"
		"{ .reg .b32 y; mov.u32 y, 7; setp.eq.u32 %p1, y, 7; @%p1 bra X; trap; X: add.u32 %r0, %r0, y; }" STORE,
			scope },
	{ "redux", "redux.sync.max.u32 %r0, %t, -1;" STORE, reduced },
	{ "match.any", "and.b32 %r1, %t, 3; match.any.sync.b32 %r0, %r1, -1;" STORE, matched },
	{ "predicates", "mov.u32 %r0, 9; setp.gt.u32 %p1, %t, 20; setp.ne.and.u32 %p2|%p3, %t, 40, %p1; @%p2 mov.u32 "
		"%r0, 5;" STORE,
		predicated },
	{ "constant predicates", "add.u32 %r0, %t, 7; mov.pred %p1, -1; mov.pred %p2, 0; @!%p1 mov.u32 %r0, 1;\n"
		"@%p2 mov.u32 %r0, 2;" STORE, scope },
};

static void run_case(const Case *c)
{
	uint32_t result[THREADS];
	Sim *sim = sim_new();
	void *out = sim_alloc(sim, sizeof result);
	char *text = kernel_text(REGISTERS, c->body);
	bool ok = run_text(sim, text, 1, THREADS, 0, out, out) && sim_copy_out(sim, result, out, sizeof result) == 0;
	if (!c->expected)
		check(!ok && strstr(sim_error(sim), "do not take part"), "%s: a vote of lanes that left is not reported",
			c->name);
	else
		check(ok, "%s: %s", c->name, sim_error(sim));
	uint32_t t = 0;
	while (ok && c->expected && t < THREADS && result[t] == c->expected(t))
		t++;
	if (ok && c->expected)
		check(t == THREADS, "%s: thread %u has %u, not %u", c->name, t, result[t % THREADS], c->expected(t));
	free(text);
	sim_free(sim);
}

/* Every thread of a 3-dimensional launch writes its own place. */
static void test_dimensions(void)
{
	static const char body[] =
		"mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y;\n"
		"mov.u32 %r9, %ntid.z; mad.lo.u32 %r6, %r3, %r5, %r2; mad.lo.u32 %r6, %r6, %r4, %r1;\n"
		"mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z; mov.u32 %r7, %nctaid.x; mov.u32 %r8, "
			"%nctaid.y;\n"
		"mad.lo.u32 %r0, %r3, %r8, %r2; mad.lo.u32 %r0, %r0, %r7, %r1; mul.lo.u32 %r4, %r4, %r5; mul.lo.u32 %r4, "
			"%r4, %r9;\n"
		"mad.lo.u32 %r0, %r0, %r4, %r6; mul.wide.u32 %b, %r0, 4; add.s64 %b, %out, %b; st.global.b32 [%b], %r0;";
	enum { TOTAL = 2 * 3 * 2 * 5 * 3 * 4 };
	uint32_t result[TOTAL];
	const uint32_t grid[3] = { 2, 3, 2 }, block[3] = { 5, 3, 4 };
	Sim *sim = sim_new();
	void *out = sim_alloc(sim, sizeof result);
	char *text = kernel_text(REGISTERS, body);
	SimModule *module = sim_load(sim, text, strlen(text));
	const void *params[] = { &out, &out };
	bool ok = module && sim_launch(sim, module, "k", grid, block, 0, params) == 0
		&& sim_copy_out(sim, result, out, sizeof result) == 0;
	for (uint32_t i = 0; ok && i < TOTAL; i++)
		ok = result[i] == i;
	check(ok, "three dimensions: %s", sim_error(sim));
	free(text);
	sim_free(sim);
}

int main(void)
{
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		run_case(&cases[i]);
	test_dimensions();
	return tests_done();
}
