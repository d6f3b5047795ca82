/* Prints what runtime/python/tda/_lib.py must repeat of tda.h: a line "NAME.FIELD OFFSET BYTES" for each field, "NAME BYTES"
 * for each struct, "NAME = VALUE" for each constant. */
#include <stdio.h>
#include "tda.h"

#define FIELD(type, field) \
	printf(#type "." #field " %zu %zu\n", offsetof(tda_##type, field), sizeof(((tda_##type *)NULL)->field));
#define STRUCT(type, FIELDS) \
	do { \
		FIELDS(FIELD, type) \
		printf(#type " %zu\n", sizeof(tda_##type)); \
	} while (0)
#define CONSTANT(name) printf(#name " = %d\n", TDA_##name);

#define PARAM_INFO(F, t) F(t, name) F(t, shape) F(t, init) F(t, min) F(t, max)
#define INFO(F, t) \
	F(t, size) F(t, version) F(t, name) F(t, spec_hash) F(t, compiler) F(t, target) F(t, plan) F(t, dtype) F(t, tf32) \
	F(t, head_dim) F(t, value_dim) F(t, views) F(t, l2_normalized) F(t, causal) F(t, window) F(t, rms_norm) \
	F(t, zeros_proved) F(t, forward_tolerance) F(t, backward_tolerance) F(t, param_count) F(t, params)
#define SHAPE(F, t) \
	F(t, size) F(t, version) F(t, batch) F(t, heads) F(t, kv_heads) F(t, q_len) F(t, k_len) F(t, layer) F(t, layers) \
	F(t, q_lens) F(t, k_lens) F(t, q_offsets) F(t, k_offsets)
#define SIZES(F, t) F(t, size) F(t, version) F(t, saved) F(t, forward_scratch) F(t, backward_scratch)
#define TENSOR(F, t) F(t, data) F(t, batch_stride) F(t, head_stride) F(t, row_stride)
#define WORKSPACES(F, t) F(t, saved) F(t, saved_bytes) F(t, scratch) F(t, scratch_bytes)
#define FORWARD_ARGS(F, t) \
	F(t, size) F(t, version) F(t, shape) F(t, q) F(t, k) F(t, v) F(t, o) F(t, params) WORKSPACES(F, t)
#define BACKWARD_ARGS(F, t) \
	F(t, size) F(t, version) F(t, shape) F(t, q) F(t, k) F(t, v) F(t, grad_o) F(t, dq) F(t, dk) F(t, dv) F(t, params) \
	F(t, dparams) WORKSPACES(F, t)
#define CONSTANTS(C) \
	C(ABI_VERSION) C(MAX_VIEWS) C(MAX_PARAMS) \
	C(OK) C(BAD_ARGUMENT) C(BAD_FILE) C(NO_DRIVER) C(NO_DEVICE) C(WRONG_DEVICE) C(OUT_OF_MEMORY) C(CUDA_ERROR) \
	C(UNSUPPORTED) C(INTERNAL) C(F32) C(F16) C(BF16) C(SCALAR) C(PER_HEAD) C(PER_LAYER) C(PER_LAYER_HEAD) C(PER_CHANNEL)

int main(void)
{
	STRUCT(param_info, PARAM_INFO);
	STRUCT(info, INFO);
	STRUCT(shape, SHAPE);
	STRUCT(sizes, SIZES);
	STRUCT(tensor, TENSOR);
	STRUCT(forward_args, FORWARD_ARGS);
	STRUCT(backward_args, BACKWARD_ARGS);
	CONSTANTS(CONSTANT)
	return 0;
}
