/* Small questions about a manifest that has been read. */
#include <stdio.h>
#include <string.h>
#include "manifest.h"

int manifest_find_param(const Manifest *m, const char *name, size_t length)
{
	for (int p = 0; p < m->param_count; p++)
		if (strlen(m->params[p].name) == length && memcmp(m->params[p].name, name, length) == 0)
			return p;
	return -1;
}

int manifest_find_buffer(const Manifest *m, const char *name)
{
	for (int b = 0; b < m->buffer_count; b++)
		if (strcmp(m->buffers[b].name, name) == 0)
			return b;
	return -1;
}

int manifest_dtype_size(const Manifest *m)
{
	return m->dtype == TDA_F32 ? 4 : 2;
}

const char *dtype_text(tda_dtype dtype)
{
	static const char *const names[] = { [TDA_F32] = "f32", [TDA_F16] = "f16", [TDA_BF16] = "bf16" };

	return names[dtype];
}

const char *param_shape_text(tda_param_shape shape)
{
	static const char *const names[] = {
		[TDA_SCALAR] = "scalar", [TDA_PER_HEAD] = "per_head", [TDA_PER_LAYER] = "per_layer",
		[TDA_PER_LAYER_HEAD] = "per_layer_head", [TDA_PER_CHANNEL] = "per_channel",
	};

	return names[shape];
}

const char *pointer_text(const Manifest *m, Pointer pointer)
{
	static _Thread_local char text[MANIFEST_NAME_BYTES + 16];

	switch (pointer.kind) {
	case POINTER_TENSOR:
		return tensor_name(pointer.index);
	case POINTER_PARAM:
		snprintf(text, sizeof(text), "param.%s", m->params[pointer.index].name);
		break;
	case POINTER_DPARAM:
		snprintf(text, sizeof(text), "dparam.%s", m->params[pointer.index].name);
		break;
	case POINTER_BUFFER:
		snprintf(text, sizeof(text), "buffer.%s", m->buffers[pointer.index].name);
		break;
	}
	return text;
}

int64_t manifest_param_length(const Manifest *m, int param, int64_t heads, int64_t layers)
{
	switch (m->params[param].shape) {
	case TDA_SCALAR: return 1;
	case TDA_PER_HEAD: return heads;
	case TDA_PER_LAYER: return layers;
	case TDA_PER_LAYER_HEAD: return layers * heads;
	case TDA_PER_CHANNEL: return m->value_dim;
	}
	return 0;
}

int64_t manifest_param_entry(const Manifest *m, int param, int64_t heads, int64_t layer, int64_t head)
{
	switch (m->params[param].shape) {
	case TDA_PER_HEAD: return head;
	case TDA_PER_LAYER: return layer;
	case TDA_PER_LAYER_HEAD: return layer * heads + head;
	case TDA_SCALAR:
	case TDA_PER_CHANNEL: break;
	}
	return 0;
}
