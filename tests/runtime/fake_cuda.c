/*
 * The functions of cuda_syms.def, built into a library named libcuda.so.1 that the tests put into LD_LIBRARY_PATH.
 * Handles are small numbers: context n is n + 1, module m is m + 1.
 */
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/cuda.h"
#include "fake_cuda.h"

#define EXPORT __attribute__((visibility("default")))

enum { INVALID_CONTEXT = 201, NOT_FOUND = 500 };

static FakeCuda state = { .capability = 80, .multiprocessors = 3, .context_id = { 11, 12, 13 }, .map_argument = -1 };
static _Thread_local int current = -1;
static _Thread_local CUtensorMap launched;

EXPORT FakeCuda *fake_cuda(void)
{
	return &state;
}

EXPORT const unsigned long long *fake_cuda_launched(void)
{
	return launched.opaque;
}

EXPORT void fake_cuda_set_current(int n)
{
	current = n;
}

static int forbidden(void)
{
	state.forbidden++;
	return 0;
}

EXPORT int cuInit(unsigned flags)
{
	return (int)flags;
}

EXPORT int cuDriverGetVersion(int *version)
{
	*version = 13000;
	return 0;
}

EXPORT int cuGetErrorName(int error, const char **name)
{
	*name = error == 218 ? "CUDA_ERROR_INVALID_PTX" : "CUDA_ERROR_OTHER";
	return 0;
}

EXPORT int cuGetErrorString(int error, const char **text)
{
	*text = error == 218 ? "a PTX JIT compilation failed" : "something else";
	return 0;
}

EXPORT int cuDeviceGetCount(int *count)
{
	*count = 1;
	return 0;
}

EXPORT int cuDeviceGet(int *device, int ordinal)
{
	*device = ordinal;
	return 0;
}

EXPORT int cuDeviceGetName(char *name, int size, int device)
{
	(void)device;
	for (int n = 0; n < size && n < 5; n++)
		name[n] = "Fake"[n];
	return 0;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device)
{
	switch (attribute) {
	case CUDA_ATTRIBUTE_MULTIPROCESSORS: *value = state.multiprocessors; break;
	case CUDA_ATTRIBUTE_CAPABILITY_MAJOR: *value = state.capability / 10; break;
	case CUDA_ATTRIBUTE_CAPABILITY_MINOR: *value = state.capability % 10; break;
	default: return NOT_FOUND;
	}
	return device;
}

EXPORT int cuDevicePrimaryCtxRetain(CUcontext *context, int device)
{
	*context = (CUcontext)(uintptr_t)(device + 1);
	return 0;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device)
{
	return device;
}

EXPORT int cuCtxGetCurrent(CUcontext *context)
{
	*context = (CUcontext)(uintptr_t)(current + 1);
	return 0;
}

EXPORT int cuCtxPushCurrent_v2(CUcontext context)
{
	current = (int)(uintptr_t)context - 1;
	return 0;
}

EXPORT int cuCtxPopCurrent_v2(CUcontext *context)
{
	*context = (CUcontext)(uintptr_t)(current + 1);
	current = -1;
	return 0;
}

EXPORT int cuCtxGetDevice(int *device)
{
	*device = 0;
	return current < 0 ? INVALID_CONTEXT : 0;
}

EXPORT int cuCtxSetCurrent(CUcontext context)
{
	current = (int)(uintptr_t)context - 1;
	return 0;
}

EXPORT int cuCtxSynchronize(void)
{
	return forbidden();
}

EXPORT int cuCtxGetId(CUcontext context, unsigned long long *id)
{
	*id = state.context_id[(uintptr_t)context - 1];
	return *id ? 0 : INVALID_CONTEXT;
}

EXPORT int cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, int *options, void **values)
{
	static const char log[] = "ptxas: line 7 is wrong";

	if (state.load_result) {
		for (unsigned o = 0; o < count; o++)
			for (size_t c = 0; options[o] == CUDA_JIT_ERROR_LOG && c < sizeof(log); c++)
				((char *)values[o])[c] = log[c];
		return state.load_result;
	}
	*module = (CUmodule)(uintptr_t)(1 + state.loads++);
	return ((const char *)image)[0] == '/' ? 0 : NOT_FOUND;
}

EXPORT int cuModuleUnload(CUmodule module)
{
	state.unloads += module != NULL;
	return 0;
}

EXPORT int cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
	*function = (CUfunction)module;
	return name[0] ? 0 : NOT_FOUND;
}

EXPORT int cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
	state.shared_bytes = attribute == CUDA_FUNCTION_MAX_DYNAMIC_SHARED && function ? value : -1;
	return 0;
}

EXPORT int cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **params,
                          void **extra)
{
	(void)shared;
	if (state.map_argument >= 0)
		memcpy(&launched, params[state.map_argument], sizeof(launched));       /* of other kernels no map, nor aligned as one */
	state.launches++;
	state.grid = grid_x * grid_y * grid_z;
	state.block = block_x * block_y * block_z;
	state.stream = stream;
	return function && !extra ? 0 : NOT_FOUND;
}

EXPORT int cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
	const CUlaunchAttribute *attribute = config->attributes;

	if (config->attribute_count != 1 || attribute->id != CUDA_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION ||
	    attribute->value.number != 1)
		return NOT_FOUND;
	state.early++;
	return cuLaunchKernel(function, config->grid[0], config->grid[1], config->grid[2], config->block[0], config->block[1],
	                      config->block[2], config->shared_bytes, config->stream, params, extra);
}

EXPORT int cuStreamIsCapturing(CUstream stream, int *status)
{
	(void)stream;
	*status = state.capturing;
	return 0;
}

/* These three are what the Python package uses besides. "Device" memory is the host's. */
EXPORT int cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream)
{
	(void)stream;
	*address = (CUdeviceptr)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
	state.blocks++;
	return *address && current >= 0 ? 0 : INVALID_CONTEXT;
}

EXPORT int cuMemFreeAsync(CUdeviceptr address, CUstream stream)
{
	(void)stream;
	free((void *)(uintptr_t)address);
	state.blocks--;
	return current >= 0 ? 0 : INVALID_CONTEXT;
}

EXPORT int cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
	(void)event, (void)flags;
	state.stream = stream;
	state.waits++;
	return 0;
}

EXPORT int cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
	*address = bytes;
	return forbidden();
}

EXPORT int cuMemFree_v2(CUdeviceptr address)
{
	(void)address;
	return forbidden();
}

EXPORT int cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
	(void)to, (void)from, (void)bytes;
	return forbidden();
}

EXPORT int cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
	(void)to, (void)from, (void)bytes;
	return forbidden();
}

EXPORT int cuMemsetD8_v2(CUdeviceptr to, unsigned char byte, size_t bytes)
{
	(void)to, (void)byte, (void)bytes;
	return forbidden();
}

EXPORT int cuEventCreate(CUevent *event, unsigned flags)
{
	(void)event, (void)flags;
	return forbidden();
}

EXPORT int cuEventRecord(CUevent event, CUstream stream)
{
	(void)event, (void)stream;
	return forbidden();
}

EXPORT int cuEventSynchronize(CUevent event)
{
	(void)event;
	return forbidden();
}

EXPORT int cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to)
{
	(void)milliseconds, (void)from, (void)to;
	return forbidden();
}

EXPORT int cuEventDestroy_v2(CUevent event)
{
	(void)event;
	return forbidden();
}

EXPORT int cuTensorMapEncodeTiled(CUtensorMap *map, int type, unsigned dims, void *address, const unsigned long long *extent,
                                  const unsigned long long *stride, const unsigned *box, const unsigned *element_stride,
                                  int interleave, int swizzle, int promotion, int fill)
{
	(void)promotion;
	if (state.map_result)
		return state.map_result;
	if ((uintptr_t)map % 64 || type != CUDA_MAP_BFLOAT16 || dims != 4 || !address || interleave || fill)
		return NOT_FOUND;
	map->opaque[0] = (uintptr_t)address;
	for (unsigned d = 0; d < dims; d++) {
		map->opaque[1 + d] = extent[d];
		if (element_stride[d] != 1 || (d < 3 && stride[d] % 16))
			return NOT_FOUND;
		state.map_extent[d] = extent[d];
		state.map_box[d] = box[d];
		if (d < 3)
			state.map_stride[d] = stride[d];
	}
	state.map_swizzle = swizzle;
	state.maps++;
	return 0;
}

EXPORT int cuTensorMapReplaceAddress(CUtensorMap *map, void *address)
{
	state.moved++;
	if (!map->opaque[0] || (uintptr_t)address % 16)
		return NOT_FOUND;
	map->opaque[0] = (uintptr_t)address;
	return 0;
}
