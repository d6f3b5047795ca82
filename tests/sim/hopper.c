/* The instructions of sm_90a: what they do, and each defect that must be reported. The same code without the defect
 * must pass. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

enum { IN_WORDS = 4096, OUT_WORDS = 4096 };

typedef uint32_t (*Expected)(uint32_t t);      /* word t of the output; word t of the input is input(t) */

typedef struct Case {
	const char *name, *body;
	uint32_t threads, shared;
	const char *report;     /* a part of it; NULL: nothing must be reported */
	Expected expected;
} Case;

static uint32_t input(uint32_t t) { return t * 2654435761u + 12345; }

static uint32_t thread(uint32_t t) { return t; }
static uint32_t other_half(uint32_t t) { return t % 32 + (t < 32 ? 32 : 0); }
static uint32_t one(uint32_t t) { (void)t; return 1; }
static uint32_t copied(uint32_t t) { return input(t); }
static uint32_t copied_other(uint32_t t) { return input(t ^ 32); }
static uint32_t last_copied(uint32_t t) { return input(t % 32 + 32 * 10); }
static uint32_t sixteen(uint32_t t) { (void)t; return 16; }
static uint32_t leader(uint32_t t) { return t % 32 == 0; }
static uint32_t turns(uint32_t t) { return 10 + t % 32; }

/* %a: &in[t], %b: &out[t] (words); %d: dynamic shared memory, %s: its word t; %o: the word of the other warp of two. */
#define REGISTERS ".reg .pred %p<8>; .reg .b32 %r<256>, %s, %d, %o, %lane; .reg .b64 %x<16>, %a, %b; .reg .f32 %f<160>;\n" \
	".shared .align 8 .b64 bars[4];\n"
#define ADDRESSES "mul.wide.u32 %a, %t, 4; add.s64 %b, %out, %a; add.s64 %a, %in, %a;\n" \
	"mov.u32 %d, dynamic; mov.u32 %r30, %tid.x; and.b32 %lane, %r30, 31; setp.eq.u32 %p7, %r30, 0;\n" \
	"shl.b32 %s, %r30, 2; xor.b32 %o, %s, 128; add.s32 %s, %s, %d; add.s32 %o, %o, %d; setp.lt.u32 %p6, %r30, 32;\n"
#define INIT(bar, count) "@%p7 mbarrier.init.shared::cta.b64 [" bar "], " count ";\n"
#define SYNC "@%p7 fence.mbarrier_init.release.cluster; bar.sync 0;\n"
#define WAIT(label, bar, parity) label ": mbarrier.try_wait.parity.shared.b64 %p5, [" bar "], " parity ";\n" \
	"@!%p5 bra " label ";\n"
#define ARRIVE(bar) "mbarrier.arrive.shared.b64 _, [" bar "];\n"
#define OUTPUT(value) "st.global.b32 [%b], " value ";\n"
/* Each of two warps writes its words, and reads the other's. */
#define EXCHANGE(between) INIT("bars", "64") SYNC "st.shared.b32 [%s], %t;\n" between "ld.shared.b32 %r1, [%o];\n" \
	OUTPUT("%r1")

/* A ring of one word: warp 0 writes ten numbers, warp 1 takes each. first: before the wait for an empty slot. */
#define RING(wait_empty, wait_full, release) INIT("bars", "32") INIT("bars+8", "32") SYNC \
	"mov.u32 %r1, 0; mov.u32 %r2, 1; mov.u32 %r3, 0; @!%p6 bra CONSUME;\n" \
	"PRODUCE:" wait_empty "add.u32 %r4, %lane, %r1; st.shared.b32 [%s], %r4; xor.b32 %r2, %r2, 1;\n" ARRIVE("bars") \
	"add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 11; @%p1 bra PRODUCE; bra END;\n" \
	"CONSUME:" wait_full "ld.shared.b32 %r4, [%o];\n" release "xor.b32 %r3, %r3, 1;\n" \
	"add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 11; @%p1 bra CONSUME;\nEND:\n" OUTPUT("%r4")
#define WAIT_EMPTY WAIT("E", "bars+8", "%r2")
#define WAIT_FULL WAIT("F", "bars", "%r3")
#define RELEASE ARRIVE("bars+8")

/* Thread 0 copies 256 bytes; all wait for them. */
#define BULK(bytes) "@%p7 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%d], [%in], " bytes \
	", [bars];\n"
#define EXPECT(bar, bytes) "@%p7 mbarrier.arrive.expect_tx.shared.b64 _, [" bar "], " bytes ";\n"
#define BULK_READ(expected, bytes, wait) INIT("bars", "1") SYNC EXPECT("bars", expected) BULK(bytes) wait \
	"ld.shared.b32 %r1, [%s];\n" OUTPUT("%r1")
#define WAIT_BULK WAIT("W", "bars", "0")
/* All write, thread 0 stores the 256 bytes, then all write again. */
#define BULK_WRITE(fence, wait) "ld.global.b32 %r1, [%a]; st.shared.b32 [%s], %r1;\n" fence "bar.sync 0;\n" \
	"@%p7 cp.async.bulk.global.shared::cta.bulk_group [%out], [%d], 256; @%p7 cp.async.bulk.commit_group;\n" wait \
	"bar.sync 0; st.shared.b32 [%s], 0;"
#define FENCE "fence.proxy.async.shared::cta;\n"
#define WAIT_STORE "@%p7 cp.async.bulk.wait_group.read 0;\n"
/* A ring of one slot of 128 bytes: lane 0 of warp 0 copies into it eleven times, warp 1 takes each and writes the last for
 * both. */
#define BULK_RING(wait_empty) INIT("bars", "1") INIT("bars+8", "1") SYNC \
	"mov.u32 %r1, 0; mov.u32 %r2, 1; mov.u32 %r3, 0; mov.b64 %x1, %in; @!%p6 bra CONSUME; @!%p7 bra END;\n" \
	"PRODUCE:" wait_empty "mbarrier.arrive.expect_tx.shared.b64 %x2, [bars], 128;\n" \
	"cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%d], [%x1], 128, [bars];\n" \
	"add.u64 %x1, %x1, 128; xor.b32 %r2, %r2, 1; add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 11; @%p1 bra PRODUCE; bra " \
		"END;\n" \
	"CONSUME:" WAIT_FULL "ld.shared.b32 %r4, [%o]; setp.eq.u32 %p2, %lane, 0; @%p2 mbarrier.arrive.shared.b64 _, " \
		"[bars+8];\n" \
	"xor.b32 %r3, %r3, 1; add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 11; @%p1 bra CONSUME;\n" OUTPUT("%r4") \
	"sub.u64 %b, %b, 128;\n" OUTPUT("%r4") "END: ret;"
/* Each thread copies its word; all read the other warp's. */
#define COPY_READ(arrivals, arrive, wait) INIT("bars", arrivals) SYNC "cp.async.ca.shared.global [%s], [%a], 4;\n" \
	arrive wait \
	"ld.shared.b32 %r1, [%o];\n" OUTPUT("%r1")

/* The first 128 threads fill A (64 x 16 bf16, no swizzle) and behind it B (16 x 8). The descriptors of both count on bars
 * alone before them. */
#define FILL "mov.u32 %r42, bars; setp.lt.u32 %p3, %r30, 128; setp.lt.u32 %p4, %r30, 16; mov.b32 %r41, 0x3f803f80;\n" \
	"shl.b32 %r40, %r30, 4; add.u32 %r40, %r40, %d;\n" \
	"@%p3 st.shared.v4.b32 [%r40], {%r41,%r41,%r41,%r41}; @%p4 st.shared.v4.b32 [%r40+2048], {%r41,%r41,%r41,%r41};\n" \
	"mov.b64 %x3, 0x800400002; mov.b64 %x4, 0x800080082;\n" \
	"mov.f32 %f0, 0.0; mov.f32 %f1, 0.0; mov.f32 %f2, 0.0; mov.f32 %f3, 0.0;\n"
#define SUMS "{%f0,%f1,%f2,%f3}"
#define BF16 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
#define MULTIPLY "wgmma.fence.sync.aligned; " BF16 SUMS ", %x3, %x4, 1, 1, 1, 0, 0;\n"
#define COMMIT "wgmma.commit_group.sync.aligned;\n"
#define WAIT_GROUP(n) "wgmma.wait_group.sync.aligned " n ";\n"
#define READY FILL FENCE "bar.sync 0;\n"
#define RESULT "cvt.rzi.u32.f32 %r1, %f0;\n" OUTPUT("%r1")

/* What cp.async brought goes out by a bulk store. */
#define COPY_STORE(fence) INIT("bars", "64") SYNC "cp.async.ca.shared.global [%s], [%a], 4;\n" \
	"cp.async.mbarrier.arrive.noinc.shared.b64 [bars];\n" WAIT_BULK fence \
	"@%p7 cp.async.bulk.global.shared::cta.bulk_group [%out], [%d], 256; @%p7 cp.async.bulk.commit_group;\n" WAIT_STORE

static const Case cases[] = {
	/* ---- barriers that reduce ---- */
	{ "bar.red, one lane", "setp.eq.u32 %p1, %r30, 40; bar.red.or.pred %p2, 1, 64, %p1; selp.u32 %r1, 1, 0, %p2;\n"
		OUTPUT("%r1"), 64, 0,
		NULL, one },
	{ "bar.red, none, after one", "setp.eq.u32 %p1, %r30, 9; bar.red.or.pred %p2, 1, 64, %p1; setp.eq.u32 %p1, %r30, 99;\n"
		"bar.red.or.pred %p2, 1, 64, %p1; selp.u32 %r1, 0, 1, %p2;\n" OUTPUT("%r1"), 64, 0, NULL, one },
	{ "bar.red, a predicate reversed", "setp.ne.u32 %p1, %r30, 40; bar.red.or.pred %p2, 1, 64, !%p1; selp.u32 %r1, 1, 0, "
		"%p2;\n"
		OUTPUT("%r1"), 64, 0, NULL, one },
	{ "bar.red, a warp that stays away", "@%p6 ret; setp.eq.u32 %p1, %r30, 40; bar.red.or.pred %p2, 1, 64, %p1;", 64, 0,
		"barrier 1 has 1 of 2 warps", NULL },

	/* ---- mbarriers ---- */
	{ "arrive and wait", EXCHANGE(ARRIVE("bars") WAIT("W", "bars", "0")), 64, 256, NULL, other_half },
	{ "wait for a state", EXCHANGE("mbarrier.arrive.release.cta.shared::cta.b64 %x1, [bars];\n"
		"W: mbarrier.try_wait.acquire.cta.shared::cta.b64 %p5, [bars], %x1, 1000; @!%p5 bra W;\n"), 64, 256, NULL,
			other_half },
	{ "test_wait", EXCHANGE(ARRIVE("bars") "W: mbarrier.test_wait.parity.shared.b64 %p5, [bars], 0; @!%p5 bra W;\n"), 64,
		256,
		NULL, other_half },
	{ "a generic address", EXCHANGE("mov.u64 %x2, bars; cvta.shared.u64 %x2, %x2; mbarrier.arrive.b64 _, [%x2];\n"
		WAIT("W", "bars", "0")), 64, 256, NULL, other_half },
	{ "counts", INIT("bars", "96") SYNC "st.shared.b32 [%s], %t; selp.u32 %r2, 1, 2, %p6;\n"
		"mbarrier.arrive.shared.b64 %x1, [bars], %r2;\n" WAIT("W", "bars", "0") "ld.shared.b32 %r1, [%o];\n" OUTPUT("%r1"),
		64, 256, NULL, other_half },
	{ "bytes by hand", INIT("bars", "1") SYNC "@%p7 mbarrier.arrive.expect_tx.shared.b64 _, [bars], 64;\n"
		"mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bars], 1;\n" WAIT("W", "bars", "0") OUTPUT("%t"), 64, 0, NULL,
		thread },
	{ "expect_tx alone", INIT("bars", "1") SYNC "@%p7 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bars], 64;\n"
		"@%p7 mbarrier.complete_tx.shared.b64 [bars], 64; @%p7 mbarrier.arrive.shared.b64 _, [bars];\n" WAIT("W", "bars",
			"0")
		OUTPUT("%t"), 64, 0, NULL, thread },
	{ "the phase before the first is over", INIT("bars", "1") SYNC WAIT("W", "bars", "1") OUTPUT("%t"), 64, 0, NULL,
		thread },
	{ "init again after inval", INIT("bars", "64") SYNC ARRIVE("bars") WAIT("W", "bars", "0") "bar.sync 0;\n"
		"@%p7 mbarrier.inval.shared.b64 [bars];\n" INIT("bars", "64") SYNC "st.shared.b32 [%s], %t;\n" ARRIVE("bars")
		WAIT("V", "bars", "0") "ld.shared.b32 %r1, [%o];\n" OUTPUT("%r1"), 64, 256, NULL, other_half },
	{ "a ring", RING(WAIT_EMPTY, WAIT_FULL, RELEASE), 64, 256, NULL, turns },
	{ "a slot overwritten before it was read", RING("", WAIT_FULL, RELEASE), 64, 256,
		"shared-memory race|deadlock: the mbarrier at offset 0, in phase 11", NULL },
	{ "a slot read before it was written", RING(WAIT_EMPTY, "", RELEASE), 64, 256, "shared-memory race|nothing wrote",
		NULL },
	{ "no release of the slot", RING(WAIT_EMPTY, WAIT_FULL, ""), 64, 256,
		"deadlock: the mbarrier at offset 8, in phase 0, has 32 of 32 arrivals to come and 0 bytes", NULL },
	{ "missing wait", EXCHANGE(ARRIVE("bars")), 64, 256, "shared-memory race|nothing wrote", NULL },
	{ "a wait that does not loop", EXCHANGE(ARRIVE("bars") "mbarrier.try_wait.parity.shared.b64 %p5, [bars], 0;\n"), 64, 256,
		"shared-memory race: warp 1 reads what was written by warp 0", NULL },
	{ "arrival before the store", INIT("bars", "32") SYNC "@!%p6 bra CONSUME;\n" ARRIVE("bars") "st.shared.b32 [%s], %t; "
		"ret;\n"
		"CONSUME:" WAIT("W", "bars", "0") "ld.shared.b32 %r1, [%o];", 64, 256, "shared-memory race|nothing wrote", NULL },
	{ "the wrong parity", EXCHANGE(ARRIVE("bars") WAIT("W", "bars", "1")), 64, 256, "shared-memory race|nothing wrote",
		NULL },
	{ "too few arrivals", INIT("bars", "65") SYNC ARRIVE("bars") WAIT("W", "bars", "0"), 64, 0,
		"has 1 of 65 arrivals to come and 0 bytes expected that have not arrived; each of warps 0 to 1 waits for "
		"the mbarrier at offset 0 (PTX line ", NULL },
	{ "too many arrivals", INIT("bars", "1") SYNC ARRIVE("bars") "mbarrier.arrive.shared.b64 _, [bars], 2;", 64, 0,
		"2 arrivals at the mbarrier at offset 0, which waits for 1 more", NULL },
	{ "bytes that never come", INIT("bars", "1") SYNC "@%p7 mbarrier.arrive.expect_tx.shared.b64 _, [bars], 64;\n"
		WAIT("W", "bars", "0"), 64, 0, "deadlock: the mbarrier at offset 0, in phase 0, has 0 of 1 arrivals to come and 64 "
			"bytes",
		NULL },
	{ "bytes that nobody waits for", INIT("bars", "1") SYNC "@%p7 mbarrier.arrive.expect_tx.shared.b64 _, [bars], 64;\n",
		64, 0,
		"the CTA has ended, but the mbarrier at offset 0", NULL },
	{ "no init", ARRIVE("bars"), 64, 0, "there is no mbarrier at shared offset 0", NULL },
	{ "init without a barrier", INIT("bars", "64") ARRIVE("bars"), 64, 0,
		"was initialised by warp 0, with no barrier since", NULL },
	{ "init twice", INIT("bars", "1") INIT("bars", "1"), 64, 0, "there is an mbarrier at shared offset 0 already", NULL },
	{ "a store into an mbarrier", INIT("bars", "1") SYNC "st.shared.b32 [bars+4], 0;", 64, 0,
		"write to shared memory that holds an mbarrier", NULL },
	{ "misaligned mbarrier", INIT("bars+4", "1"), 64, 0, "misaligned mbarrier", NULL },
	{ "the state of another mbarrier", INIT("bars", "64") INIT("bars+8", "64") SYNC "mbarrier.arrive.shared.b64 %x1, "
		"[bars];\n"
		"mbarrier.test_wait.shared.b64 %p5, [bars+8], %x1;", 64, 0, "is not of the running phase", NULL },

	/* ---- bulk copies ---- */
	{ "bulk load", BULK_READ("256", "256", WAIT_BULK), 64, 256, NULL, copied },
	{ "bulk load read before it arrived", BULK_READ("256", "256", ""), 32, 256,
		"warp 0 reads what was written by a bulk copy of the mbarrier at offset 0, with no wait for it", NULL },
	{ "fewer bytes than expected", BULK_READ("512", "256", WAIT_BULK), 64, 256,
		"deadlock: the mbarrier at offset 0, in phase 0, has 0 of 1 arrivals to come and 256 bytes expected", NULL },
	{ "more bytes than expected", BULK_READ("128", "256", WAIT_BULK), 64, 256, "and -128 bytes expected", NULL },
	{ "misaligned bulk load", BULK_READ("8", "8", WAIT_BULK), 64, 256, "misaligned bulk copy: 8 bytes", NULL },
	{ "bulk load past the end of shared memory", BULK_READ("512", "512", WAIT_BULK), 64, 256, "shared memory out of "
		"bounds", NULL },
	{ "bulk load past the end of global memory", BULK_READ("32768", "32768", WAIT_BULK), 64, 32768,
		"read of global memory out of bounds", NULL },
	{ "bulk load over what was stored", INIT("bars", "1") SYNC "st.shared.b32 [%s], 0; bar.sync 0;\n" EXPECT("bars", "256")
		BULK("256") WAIT_BULK, 64, 256, "the async proxy overwrites what warp 0 wrote through the generic one", NULL },
	{ "bulk load over what was stored, fenced", INIT("bars", "1") SYNC "st.shared.b32 [%s], 0;\n" FENCE "bar.sync 0;\n"
		EXPECT("bars", "256") BULK("256") WAIT_BULK "ld.shared.b32 %r1, [%o];\n" OUTPUT("%r1"), 64, 256, NULL,
			copied_other },
	{ "a ring of bulk loads", BULK_RING(WAIT_EMPTY), 64, 256, NULL, last_copied },
	{ "a bulk load into a slot that is being read", BULK_RING(""), 64, 256,
		"warp 0 writes what was written by a bulk copy of the mbarrier at offset 0, with no wait for it", NULL },
	{ "bulk store", BULK_WRITE(FENCE, WAIT_STORE), 64, 256, NULL, copied },
	{ "bulk store without a fence", BULK_WRITE("", WAIT_STORE), 64, 256,
		"the async proxy reads what warp 0 wrote through the generic one", NULL },
	{ "a store over what a bulk store reads", BULK_WRITE(FENCE, ""), 64, 256, "still being read by a bulk copy of warp 0",
		NULL },
	{ "a bulk store that nobody waits for", "st.shared.b32 [%s], 0;\n" FENCE "bar.sync 0;\n"
		"@%p7 cp.async.bulk.global.shared::cta.bulk_group [%out], [%d], 256;", 64, 256,
		"the CTA has ended while this bulk copy may still read", NULL },
	{ "cp.async.mbarrier.arrive.noinc", COPY_READ("64", "cp.async.mbarrier.arrive.noinc.shared.b64 [bars];\n", WAIT_BULK),
		64, 256,
		NULL, copied_other },
	{ "cp.async.mbarrier.arrive", COPY_READ("64", "cp.async.mbarrier.arrive.shared.b64 [bars];\n" ARRIVE("bars"),
		WAIT_BULK), 64,
		256, NULL, copied_other },
	{ "cp.async.mbarrier.arrive without a wait", COPY_READ("64", "cp.async.mbarrier.arrive.noinc.shared.b64 [bars];\n",
		""), 64,
		256, "with a cp.async in flight|nothing wrote", NULL },
	{ "an ordinary arrival after cp.async", COPY_READ("64", ARRIVE("bars"), WAIT_BULK), 64, 256, "with a cp.async in "
		"flight", NULL },

	{ "bulk store of what cp.async brought", COPY_STORE(FENCE), 64, 256, NULL, copied },
	{ "bulk store of what cp.async brought, without a fence", COPY_STORE(""), 64, 256,
		"the async proxy reads what warp 0 wrote through the generic one", NULL },

	/* ---- wgmma ---- */
	{ "wgmma", READY MULTIPLY COMMIT WAIT_GROUP("0") RESULT, 128, 4096, NULL, sixteen },
	{ "wgmma of two warpgroups", READY MULTIPLY MULTIPLY COMMIT WAIT_GROUP("0") "sub.f32 %f0, %f0, 0f41800000;\n"
		RESULT, 256, 8192, NULL, sixteen },
	{ "one group of two", READY MULTIPLY COMMIT "wgmma.fence.sync.aligned; " BF16 "{%f4,%f5,%f6,%f7}, %x3, %x4, 0, 1, 1, 0, "
		"0;\n" COMMIT
		WAIT_GROUP("1") RESULT WAIT_GROUP("0"), 128, 4096, NULL, sixteen },
	{ "reading the wrong group", READY MULTIPLY COMMIT BF16 "{%f4,%f5,%f6,%f7}, %x3, %x4, 0, 1, 1, 0, 0;\n"
		COMMIT WAIT_GROUP("1")
		"mov.f32 %f8, %f4;", 128, 4096, "read of a register that an unfinished wgmma accumulates into", NULL },
	{ "accumulator read before the wait", READY MULTIPLY COMMIT RESULT, 128, 4096,
		"read of a register that an unfinished wgmma accumulates into", NULL },
	{ "accumulator moved before the wait", READY MULTIPLY COMMIT "mov.b32 %f9, %f1;", 128, 4096,
		"read of a register that an unfinished wgmma accumulates into", NULL },
	{ "accumulator written before the wait", READY MULTIPLY COMMIT "mov.f32 %f2, 0.0;", 128, 4096,
		"write to a register that an unfinished wgmma accumulates into", NULL },
	{ "wait without a commit", READY MULTIPLY WAIT_GROUP("0") RESULT, 128, 4096,
		"read of a register that an unfinished wgmma accumulates into", NULL },
	{ "A's register written before the wait", READY "mov.b32 %r2, 0; mov.b32 %r3, 0; mov.b32 %r4, 0; mov.b32 %r5, 0;\n"
		BF16 SUMS
		", {%r2,%r3,%r4,%r5}, %x4, 1, 1, 1, 0;\n" "add.u32 %r6, %r4, 1; mov.b32 %r4, 1;", 128, 4096,
		"write to a register that an unfinished wgmma reads as its A", NULL },
	{ "accumulators of two shapes", READY MULTIPLY "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
		"{%f0,%f1,%f2,%f3,%f4,%f5,%f6,%f7},"
		" %x3, %x4, 0, 1, 1, 0, 0;", 128, 4096, "in use by an earlier wgmma of another shape", NULL },
	{ "accumulator that nothing wrote", READY BF16 "{%f0,%f1,%f2,%f9}, %x3, %x4, 1, 1, 1, 0, 0;", 128, 4096,
		"accumulator 3 holds no value", NULL },
	{ "wgmma of what was stored without a fence", FILL "bar.sync 0;\n" MULTIPLY, 128, 4096,
		"the async proxy reads what warp 0 wrote through the generic one", NULL },
	{ "wgmma of what was stored, fenced by the reader", FILL "bar.sync 0;\n" FENCE MULTIPLY COMMIT WAIT_GROUP("0") RESULT,
		128, 4096, NULL,
		sixteen },
	{ "wgmma of what was stored without a barrier", FILL FENCE MULTIPLY COMMIT WAIT_GROUP("0"), 128, 4096,
		"shared-memory race|nothing wrote", NULL },
	{ "wgmma of what nothing wrote", READY "add.u64 %x4, %x4, 16;\n" MULTIPLY, 128, 4096, "read of shared memory that "
		"nothing wrote", NULL },
	{ "wgmma past the end", READY "add.u64 %x4, %x4, 256;\n" MULTIPLY, 128, 4096, "shared memory out of bounds", NULL },
	{ "a store into what wgmma reads", READY MULTIPLY COMMIT "st.shared.b32 [%r40], 0;", 128, 4096,
		"writes shared memory that is still being read by wgmma of warps 0 to 3", NULL },
	{ "a store after the wait", READY MULTIPLY COMMIT WAIT_GROUP("0") RESULT "bar.sync 0; st.shared.b32 [%r40], 0;", 128,
		4096, NULL,
		sixteen },
	/* Looking at an mbarrier in vain gives the other warps time. */
	{ "a store by others after the wait, without a barrier", INIT("bars", "1") READY "mov.u32 %r2, 0; setp.ge.u32 %p3, "
		"%r30, 128; @%p3 bra STORE;\n" MULTIPLY COMMIT
		WAIT_GROUP("0") "ret; STORE: mbarrier.test_wait.parity.shared.b64 %p5, [bars], 0; add.u32 %r2, %r2, 1;\n"
		"setp.lt.u32 %p2, %r2, 20; @%p2 bra STORE; st.shared.b32 [%d], 0;", 160, 8192,
		"warp 4 writes what was read by wgmma of warps 0 to 3, with no wait for it", NULL },
	{ "a store by others after one thread's arrival", INIT("bars", "1") READY "setp.ge.u32 %p3, %r30, 128; @%p3 bra "
		"STORE;\n" MULTIPLY COMMIT
		WAIT_GROUP("0") RESULT "setp.eq.u32 %p2, %r30, 96; @%p2 mbarrier.arrive.shared.b64 _, [bars]; ret;\n"
		"STORE:" WAIT("W", "bars", "0") "mov.b32 %r9, 0; setp.eq.u32 %p2, %lane, 0; @%p2 st.shared.b32 [%d], %r9;\n"
			OUTPUT("16"), 160, 8192,
		NULL, sixteen },
	{ "a warp that does not come", READY "setp.ge.u32 %p3, %r30, 96; @%p3 ret;\n" MULTIPLY COMMIT WAIT_GROUP("0"), 128, 4096,
		"deadlock: the four warps of a warpgroup have not all issued a wgmma that is waited for; each of warps 0 to 2 waits "
			"for its warpgroup's wgmma", NULL },
	{ "half a warpgroup", READY MULTIPLY, 64, 4096, "wgmma needs all 128 threads of a warpgroup", NULL },
	{ "warps that differ", READY "setp.ge.u32 %p3, %r30, 96; @%p3 add.u64 %x3, %x3, 1;\n" MULTIPLY COMMIT WAIT_GROUP("0"),
		128, 4096,
		"the warps of a warpgroup issue different wgmma", NULL },
	{ "lanes that differ", READY "setp.eq.u32 %p3, %lane, 5; @%p3 add.u64 %x3, %x3, 1;\n" MULTIPLY, 128, 4096,
		"lanes of one warp give wgmma different descriptors", NULL },
	{ "a descriptor with stray bits", READY "or.b64 %x3, %x3, 0x4000;\n" MULTIPLY, 128, 4096, "has bits outside of its "
		"fields", NULL },
	{ "a base offset", READY "or.b64 %x3, %x3, 0x4002000000000000;\n" MULTIPLY, 128, 4096, "has a base offset", NULL },
	{ "a swizzle pattern that begins inside another", READY "or.b64 %x3, %x3, 0x4000000000000008;\n" MULTIPLY, 128, 4096,
		"begins at shared offset 160, inside a pattern of 1024 bytes", NULL },
	{ "wgmma that nobody waits for", READY MULTIPLY COMMIT, 128, 4096, "the CTA has ended with this wgmma unfinished",
		NULL },
	{ "too few accumulators", BF16 "{%f0,%f1}, %x3, %x4, 1, 1, 1, 0, 0;", 128, 0, "D of this shape has 4 registers, the "
		"list has 2", NULL },

	/* ---- the rest ---- */
	{ "elect.sync", "elect.sync %r1|%p1, -1; selp.u32 %r2, 1, 0, %p1;\n" OUTPUT("%r2"), 64, 0, NULL, leader },
	{ "setmaxnreg", "setmaxnreg.dec.sync.aligned.u32 24; setmaxnreg.inc.sync.aligned.u32 240;\n" OUTPUT("1"), 128, 0, NULL,
		one },
	{ "setmaxnreg of too many", "setmaxnreg.inc.sync.aligned.u32 264;", 128, 0, "a multiple of 8 from 24 to 256", NULL },
	{ "setmaxnreg in divergent code", "@%p7 setmaxnreg.inc.sync.aligned.u32 240;", 128, 0,
		"must be executed by all lanes of the warp", NULL },
	{ "fences, hints", "fence.proxy.async; fence.proxy.async.shared::cta; fence.proxy.async.global; griddepcontrol.wait;\n"
		"griddepcontrol.launch_dependents; nanosleep.u32 20; prefetch.global.L2 [%a];\n" OUTPUT("1"), 64, 0, NULL, one },
};

static void run_case(const Case *c)
{
	static uint32_t in[IN_WORDS], out[OUT_WORDS];
	Sim *sim = sim_new();
	void *from = sim_alloc(sim, sizeof in), *to = sim_alloc(sim, sizeof out);
	char body[16384];
	for (uint32_t t = 0; t < IN_WORDS; t++)
		in[t] = input(t);
	sim_copy_in(sim, from, in, sizeof in);
	snprintf(body, sizeof body, "%s%s", ADDRESSES, c->body);
	char *text = kernel_text(REGISTERS, body);
	bool ok = run_text(sim, text, 1, c->threads, c->shared, from, to);
	if (c->report)
		check(!ok && says(sim_error(sim), c->report), "%s: \"%s\" is not in: %s", c->name, c->report,
			ok ? "no report" : sim_error(sim));
	else
		check(ok, "%s: %s", c->name, sim_error(sim));
	if (ok && c->expected) {
		uint32_t t = 0;
		ok = sim_copy_out(sim, out, to, c->threads * 4) == 0;
		while (ok && t < c->threads && out[t] == c->expected(t))
			t++;
		check(ok && t == c->threads, "%s: thread %u has %u, not %u; %s", c->name, t, out[t % OUT_WORDS], c->expected(t),
			sim_error(sim));
	}
	free(text);
	sim_free(sim);
}

int main(void)
{
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		run_case(&cases[i]);
	return tests_done();
}
