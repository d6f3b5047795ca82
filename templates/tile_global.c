/* Words (i32) in global memory that several CTAs use while they run. */
#include "tile_parts.h"

/* $0 is the address, $1 the value. */
static void access_word(Kernel *k, const char *text, Val at, Val value)
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I64, 1, &at);
	ir_asm(k->b, text, "l,r", IR_I32, 0, NULL, 2, (Val[]){ address, value });
}

void add_atomically(Kernel *k, Val at, Val value)
{
	access_word(k, "red.relaxed.gpu.global.add.u32 [$0], $1;", at, value);
}

void or_atomically(Kernel *k, Val at, Val bits)
{
	access_word(k, "red.relaxed.gpu.global.or.b32 [$0], $1;", at, bits);
}

void word_write(Kernel *k, Val at, Val value)
{
	access_word(k, "st.relaxed.gpu.global.u32 [$0], $1;", at, value);
}

void word_publish(Kernel *k, Val at, Val value)
{
	access_word(k, "st.release.gpu.global.u32 [$0], $1;", at, value);
}

Val word_read(Kernel *k, Val at)
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I64, 1, &at), value;
	ir_asm(k->b, "ld.relaxed.gpu.global.u32 $0, [$1];", "=r,l", IR_I32, 1, &value, 1, &address);
	return value;
}

void word_read_four(Kernel *k, Val at, Val values[4])
{
	Val address = ir_op(k->b, "llvm.ptrtoint", NULL, IR_I64, 1, &at);
	ir_asm(k->b, "ld.relaxed.gpu.global.v4.u32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,l", IR_I32, 4, values, 1, &address);
}

void global_fence(Kernel *k)
{
	ir_asm(k->b, "fence.acq_rel.gpu;", "", IR_I32, 0, NULL, 0, NULL);
}

void global_fence_copies(Kernel *k)
{
	ir_asm(k->b, "fence.proxy.async.global;", "", IR_I32, 0, NULL, 0, NULL);
}
