/* Each defect that the simulator promises to find is planted, and its report must say the right thing and where. The
 * same kernels without the defect must pass. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

enum { IN_BYTES = 1024, OUT_BYTES = 4096 };

typedef struct Case {
	const char *name, *body;
	uint32_t ctas, threads, shared;
	const char *report;     /* a part of it; NULL: nothing must be reported */
} Case;

/* %a: &in[t], %b: &out[t] (words); %s: dynamic shared memory at word t. */
#define REGISTERS ".reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>, %s, %d; .reg .b64 %x<8>, %a, %b;" \
	".reg .f32 %f<8>;"
#define ADDRESSES "mul.wide.u32 %a, %t, 4; add.s64 %b, %out, %a; add.s64 %a, %in, %a;\n" \
	"mov.u32 %d, dynamic; mov.u32 %r30, %tid.x; shl.b32 %s, %r30, 2; add.s32 %s, %s, %d;\n"
#define COPY "cp.async.ca.shared.global [%s], [%a], 4;\n"

static const Case cases[] = {
	{ "copy", "ld.global.b32 %r1, [%a]; st.global.b32 [%b], %r1;", 2, 64, 0, NULL },
	{ "read past the end", "ld.global.b32 %r1, [%a+1024];", 1, 32, 0,
		"read of global memory out of bounds: 4 bytes at 0x" },
	{ "distance past the end", "ld.global.b32 %r1, [%a+1032];", 1, 32, 0,
		"8 bytes past the end of the allocation of 1024" },
	{ "read before the beginning", "ld.global.b32 %r1, [%a+-4];", 1, 32, 0, "4 bytes before the allocation of 1024" },
	{ "write past the end", "st.global.b32 [%b+4096], %t;", 1, 32, 0, "write to global memory out of bounds" },
	{ "one lane too far", "setp.eq.s32 %p1, %t, 17; selp.b32 %r1, 4096, 0, %p1; cvt.u64.u32 %x1, %r1; add.s64 %b, "
		"%b, %x1;\n"
		"st.global.b32 [%b], %t;", 1, 32, 0, "warp 0, lane 17" },
	{ "misaligned vector", "ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%in+8];", 1, 1, 0, "misaligned access: 16 bytes" },
	{ "shared past the end", "st.shared.b32 [%s+128], %t;", 1, 32, 128, "the CTA has 128 (0 static and 128 dynamic)" },
	{ "static and dynamic shared", ".shared .align 4 .b8 fixed[64]; mov.u32 %r1, fixed; st.shared.b32 [%r1+60], %t;\n"
		"st.shared.b32 [%s], %t; st.shared.b32 [%s+4], %t;", 1, 1, 4,
			"at offset 68, the CTA has 68 (64 static and 4 dynamic)" },
	{ "unwritten global", "ld.global.b32 %r1, [%b];", 1, 32, 0, "read of global memory that nothing wrote" },
	{ "unwritten shared", "ld.shared.b32 %r1, [%s];", 1, 32, 128, "read of shared memory that nothing wrote" },
	{ "unwritten register", "add.s32 %r1, %r2, 1;", 1, 32, 0, "source register 1 holds no value" },
	{ "register written under a predicate", "setp.lt.u32 %p1, %t, 8; @%p1 mov.u32 %r1, 5; add.s32 %r2, %r1, %r1;", 1,
		32, 0,
		"lane 8" },
	{ "unwritten guard", "@%p1 mov.u32 %r1, 5;", 1, 32, 0, "the guard predicate holds no value" },
	{ "unwritten but unused", "mov.u32 %r1, %r2; setp.lt.u32 %p1, %t, 99; selp.b32 %r3, %t, %r1, %p1;\n"
		"st.global.b32 [%b], %r3;", 1, 32, 0, NULL },
	{ "shared race", "xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d; st.shared.b32 [%s], %t;\n"
		"ld.shared.b32 %r2, [%r1];", 1, 64, 256, "shared-memory race: warp 1 reads what was written by warp 0|"
		"read of shared memory that nothing wrote" },
	{ "no race with a barrier", "xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d;\n"
		"st.shared.b32 [%s], %t; bar.sync 0; ld.shared.b32 %r2, [%r1]; bar.sync 0; st.shared.b32 [%s], %r2;", 1, 64,
			256, NULL },
	{ "write after read", "xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d; st.shared.b32 [%s], %t;\n"
		"bar.sync 0; setp.lt.u32 %p1, %r30, 32; @!%p1 ld.shared.b32 %r2, [%r1]; @%p1 st.shared.b32 [%s], 1;", 1, 64,
			256,
		"warp 0 writes what was read by warp 1" },
	{ "two warps write", "and.b32 %r1, %r30, 31; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d; st.shared.b32 [%r1], 7;",
		1, 64, 256,
		"warp 1 writes what was written by warp 0" },
	{ "the wrong barrier", "shr.u32 %r3, %r30, 6; add.s32 %r3, %r3, 1; xor.b32 %r1, %r30, 64; shl.b32 %r1, %r1, 2;\n"
		"add.s32 %r1, %r1, %d; st.shared.b32 [%s], %t; bar.sync %r3, 64; ld.shared.b32 %r2, [%r1];", 1, 128, 512,
		"shared-memory race|nothing wrote" },
	{ "a barrier of half the warps", "shr.u32 %r3, %r30, 6; add.s32 %r3, %r3, 1; xor.b32 %r1, %r30, 32; shl.b32 %r1, "
		"%r1, 2;\n"
		"add.s32 %r1, %r1, %d; st.shared.b32 [%s], %t; bar.sync %r3, 64; ld.shared.b32 %r2, [%r1];", 1, 128, 512,
			NULL },
	{ "after bar.arrive", "xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d; setp.lt.u32 %p1, %r30, "
		"32;\n"
		"@%p1 bra PRODUCE; bar.sync 1, 64; ld.shared.b32 %r2, [%r1]; ret;\n"
		"PRODUCE: bar.arrive 1, 64; st.shared.b32 [%s], 3;", 1, 64, 256, "shared-memory race|nothing wrote" },
	{ "before bar.arrive", "xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d; setp.lt.u32 %p1, %r30, "
		"32;\n"
		"@%p1 bra PRODUCE; bar.sync 1, 64; ld.shared.b32 %r2, [%r1]; ret;\n"
		"PRODUCE: st.shared.b32 [%s], 3; bar.arrive 1, 64;", 1, 64, 256, NULL },
	{ "lanes of a store disagree", "st.shared.b32 [%d], %t;", 1, 32, 4, "store different values to the same address" },
	{ "lanes of a store agree", "st.shared.b32 [%d], 1;", 1, 32, 4, NULL },
	{ "copy without waiting", COPY "ld.shared.b32 %r1, [%s];", 1, 32, 128,
		"read of shared memory with a cp.async in flight (issued by warp 0)" },
	{ "copy with waiting", COPY "cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %r1, [%s];\n"
		"st.global.b32 [%b], %r1;", 1, 32, 128, NULL },
	{ "copy, the wrong group", "cp.async.commit_group; " COPY "cp.async.commit_group; cp.async.wait_group 1;\n"
		"ld.shared.b32 %r1, [%s];", 1, 32, 128, "with a cp.async in flight" },
	{ "copy without a barrier", "xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2; add.s32 %r1, %r1, %d;\n" COPY
		"cp.async.wait_all; ld.shared.b32 %r2, [%r1];", 1, 64, 256, "shared-memory race|nothing wrote" },
	{ "copy over what is read", "st.shared.b32 [%s], 1; bar.sync 0; xor.b32 %r1, %r30, 32; shl.b32 %r1, %r1, 2;\n"
		"add.s32 %r1, %r1, %d; setp.lt.u32 %p1, %r30, 32; @!%p1 ld.shared.b32 %r2, [%r1]; @%p1 " COPY, 1, 64, 256,
		"warp 0 writes what was read by warp 1" },
	{ "copy from outside", "cp.async.ca.shared.global [%s], [%a+1024], 4;", 1, 32, 128,
		"read of global memory out of bounds" },
	{ "copy of nothing from outside", "mov.u32 %r1, 0; cp.async.ca.shared.global [%s], [%a+1024], 4, %r1;\n"
		"cp.async.wait_all; ld.shared.b32 %r2, [%s]; st.global.b32 [%b], %r2;", 1, 32, 128, NULL },
	{ "CTAs write the same", "st.global.b32 [%out], %cta;", 2, 1, 0,
		"conflict between CTAs: writes what was written by CTA (0,0,0)" },
	{ "CTAs read what others write", "xor.b32 %r1, %cta, 1; mul.wide.u32 %x1, %r1, 4; add.s64 %x1, %in, %x1;\n"
		"ld.global.b32 %r2, [%x1]; st.global.b32 [%a], 1;", 2, 1, 0,
			"writes what was read by|reads what was written by CTA" },
	{ "nc of what was written", "st.global.b32 [%b], 1; ld.global.nc.b32 %r1, [%b];", 1, 32, 0,
		"ld.global.nc of bytes that this launch wrote" },
	{ "atomics of all CTAs", "red.global.add.u32 [%in], 1;", 4, 64, 0, NULL },
	{ "ordered atomics of all CTAs", "red.relaxed.gpu.global.add.u32 [%in], 1;", 4, 64, 0, NULL },
	{ "atomic on unwritten global", "red.relaxed.gpu.global.add.u32 [%b], 1;", 1, 32, 0, "read of global memory that nothing wrote" },
	{ "a warp leaves", "setp.ge.u32 %p1, %r30, 32; @%p1 ret; bar.sync 0;", 1, 64, 0,
		"deadlock: barrier 0 has 1 of 2 warps; warp 0 waits at barrier 0 (PTX line 20); warp 1 has exited" },
	{ "different barriers", "shr.u32 %r1, %r30, 5; bar.sync %r1;", 1, 64, 0, "deadlock" },
	{ "barrier counts differ", "setp.ge.u32 %p1, %r30, 32; @%p1 bra X; bar.sync 0, 64; ret; X: bar.sync 0, 96;", 1,
		128, 0,
		"this warp expects 3 warps there, those that wait expect 2" },
	{ "diverged barrier", "setp.ge.u32 %p1, %r30, 16; @%p1 bra X; bar.sync 0; X: mov.u32 %r1, 0;", 1, 32, 0,
		"must be executed by all lanes of the warp together, but only lanes 0x0000ffff" },
	{ "diverged shuffle", "setp.ge.u32 %p1, %r30, 16; @%p1 bra X; shfl.sync.idx.b32 %r1, %t, 0, 31, -1; X: mov.u32 "
		"%r1, 0;", 1,
		32, 0, "lanes 0xffff0000 of the member mask 0xffffffff do not take part" },
	{ "shuffle after exits", "setp.ge.u32 %p1, %r30, 16; @%p1 ret; shfl.sync.idx.b32 %r1, %t, 0, 31, -1;\n"
		"st.global.b32 [%b], %r1;", 1, 32, 0, NULL },
	{ "shuffle from a lane that left", "setp.ge.u32 %p1, %r30, 16; @%p1 ret; shfl.sync.idx.b32 %r1, %t, 20, 31, -1;\n"
		"add.s32 %r1, %r1, 1;", 1, 32, 0, "source register 1 holds no value" },
	{ "endless loop", "L: bra L;", 1, 1, 0, "an endless loop?" },
	{ "trap", "trap;", 1, 1, 0, "trap" },
	{ "division by zero", "mov.u32 %r1, 0; div.u32 %r2, %t, %r1;", 1, 32, 0, "integer division by zero" },
	{ "local out of bounds", ".local .align 4 .b8 array[16]; mov.u64 %x1, array; st.local.b32 [%x1+16], %t;", 1, 32, 0,
		"local memory out of bounds" },
	{ "where", ".loc 1 42 7\nadd.s32 %r1, %r2, 1;", 1, 1, 0, "(kernel.lua:42): add.s32 %r1, %r2, 1;" },
};

static void run_case(const Case *c)
{
	Sim *sim = sim_new();
	void *in = sim_alloc(sim, IN_BYTES), *out = sim_alloc(sim, OUT_BYTES);
	char body[2048];
	sim_fill(sim, in, 1, IN_BYTES);
	snprintf(body, sizeof body, "%s%s%s", strstr(c->body, ".loc") ? ".file 1 \"kernel.lua\"\n" : "", ADDRESSES,
		c->body);
	char *text = kernel_text(REGISTERS, body);
	bool ok = run_text(sim, text, c->ctas, c->threads, c->shared, in, out);
	if (c->report)
		check(!ok && says(sim_error(sim), c->report), "%s: \"%s\" is not in: %s", c->name, c->report,
			ok ? "no report" : sim_error(sim));
	else
		check(ok, "%s: %s", c->name, sim_error(sim));
	if (!ok && c->report)
		check(strstr(sim_error(sim), "in kernel 'k', CTA (") && strstr(sim_error(sim), "at PTX line "),
			"%s: the report does not say where: %s", c->name, sim_error(sim));
	free(text);
	sim_free(sim);
}

static void test_host_side(void)
{
	Sim *sim = sim_new();
	char *text = kernel_text(REGISTERS, ADDRESSES "setp.lt.u32 %p1, %t, 31; @%p1 st.global.b32 [%b], %t;");
	uint32_t result[32];
	void *in = sim_alloc(sim, IN_BYTES), *out = sim_alloc(sim, 128);
	check(run_text(sim, text, 1, 32, 0, in, out), "%s", sim_error(sim));
	check(sim_copy_out(sim, result, out, 124) == 0, "%s", sim_error(sim));
	check(sim_copy_out(sim, result, out, 128) == -1 && strstr(sim_error(sim), "byte 124 of the 128"), "a hole: %s",
		sim_error(sim));
	check(sim_copy_out(sim, result, out, 132) == -1 && strstr(sim_error(sim), "not inside one allocation"),
		"too much: %s",
		sim_error(sim));
	sim_fill(sim, out, 0, 128);
	check(sim_copy_out(sim, result, out, 128) == 0, "%s", sim_error(sim));
	sim_forget(sim, out, 4);
	check(sim_copy_out(sim, result, out, 128) == -1, "forgotten bytes come out");
	sim_release(sim, out);
	check(!run_text(sim, text, 1, 32, 0, in, out) && strstr(sim_error(sim), "write to global memory after its release"),
		"use after release: %s", sim_error(sim));
	free(text);
	sim_free(sim);
}

/* A second launch may read and write what the first one did. */
static void test_two_launches(void)
{
	Sim *sim = sim_new();
	char *text = kernel_text(REGISTERS, "st.global.b32 [%out], 1;");
	void *out = sim_alloc(sim, 4);
	for (int i = 0; i < 3; i++)
		check(run_text(sim, text, 1, 1, 0, out, out), "launch %d: %s", i, sim_error(sim));
	free(text);
	sim_free(sim);
}

static void test_load_error(const char *body, const char *report)
{
	Sim *sim = sim_new();
	char *text = kernel_text(REGISTERS, body);
	check(!sim_load(sim, text, strlen(text)) && strstr(sim_error(sim), report) && strstr(sim_error(sim), "PTX line "),
		"\"%s\" is not in: %s", report, sim_error(sim));
	free(text);
	sim_free(sim);
}

int main(void)
{
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		run_case(&cases[i]);
	test_host_side();
	test_two_launches();
	test_load_error("tcgen05.wait::ld.sync.aligned;", "does not know the instruction 'tcgen05.wait::ld.sync.aligned'");
	test_load_error("add.rz.f32 %f1, %f2, %f3;", "does not know the instruction 'add.rz.f32'");
	test_load_error("add.cc.u32 %r1, %r2, %r3;", "does not know the instruction 'add.cc.u32'");
	test_load_error("add.s32 %r1, %x1, %r3;", "operand 2 should be 32-bit register");
	test_load_error("add.s32 %r1, %r2;", "operand 3 should be there");
	test_load_error("add.s32 %r1, %r2, %r3, %r4;", "operand 4 should be left out");
	test_load_error("ld.global.v4.b32 {%r1, %r2}, [%x1];", "the opcode moves 4 elements, the list has 2");
	test_load_error("bra NOWHERE;", "label 'NOWHERE' is not defined");
	test_load_error("mov.u32 %r1, nothing;", "'nothing' is not declared");
	test_load_error("mov.u32 %r99, 1;", "register '%r99' is not declared");
	test_load_error("call f;", "'f' is not declared");
	return tests_done();
}
