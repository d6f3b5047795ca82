/* GPU 0 through libtda's driver functions; nothing of the CUDA toolkit. */
#include <stdio.h>
#include "cuda.h"
#include "hw.h"

static const Cuda *cuda;
static CUdevice device;

GpuState gpu_open(char *name, size_t name_size, bool *is_sm_90a)
{
	CUcontext context;
	int major = 0, minor = 0;
	tda_status status = cuda_open(&cuda);

	if (status)
		return status == TDA_NO_DRIVER || status == TDA_NO_DEVICE ? GPU_NONE : GPU_FAILED;
	if (cuda_check(cuda, cuda->cuDeviceGet(&device, 0), "cuDeviceGet")
	    || cuda_check(cuda, cuda->cuDeviceGetName(name, (int)name_size, device), "cuDeviceGetName")
	    || cuda_check(cuda, cuda->cuDeviceGetAttribute(&major, CUDA_ATTRIBUTE_CAPABILITY_MAJOR, device),
		"cuDeviceGetAttribute")
	    || cuda_check(cuda, cuda->cuDeviceGetAttribute(&minor, CUDA_ATTRIBUTE_CAPABILITY_MINOR, device),
		"cuDeviceGetAttribute")
	    || cuda_check(cuda, cuda->cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain"))
		return GPU_FAILED;
	if (cuda_check(cuda, cuda->cuCtxPushCurrent(context), "cuCtxPushCurrent")) {
		cuda->cuDevicePrimaryCtxRelease(device);
		return GPU_FAILED;
	}
	*is_sm_90a = major == 9 && minor == 0;
	return GPU_READY;
}

static bool encode(CUtensorMap *map, const HwBox *box, CUdeviceptr base)
{
	static const unsigned ones[MAP_RANK] = { 1, 1, 1 };

	return !box || box->rank == 0 || !cuda_check(cuda, cuda->cuTensorMapEncodeTiled(map, box->type, box->rank,
		(void *)(uintptr_t)base,
		box->sizes, box->strides, box->box, ones, 0, box->swizzle, 0, 0), "cuTensorMapEncodeTiled");
}

static bool load(CUmodule *module, const char *text, const char **error)
{
	static char message[4600];
	char log[4096] = "";
	int options[] = { CUDA_JIT_ERROR_LOG, CUDA_JIT_ERROR_LOG_BYTES };
	void *values[] = { log, (void *)sizeof log };

	if (!cuda_check(cuda, cuda->cuModuleLoadDataEx(module, text, 2, options, values), "loading the PTX"))
		return true;
	snprintf(message, sizeof message, "%s\n%s", tda_error_message(), log);
	*error = message;
	return false;
}

bool gpu_run(const char *text, const HwBox *box, const uint32_t *in, size_t in_bytes, uint32_t *out, size_t out_bytes,
	uint32_t ctas,
	uint32_t block, const char **error)
{
	CUmodule module = NULL;
	CUfunction function;
	CUdeviceptr from = 0, to = 0;
	CUtensorMap map = { 0 };
	void *params[] = { &from, &to, &map };

	if (!load(&module, text, error))
		return false;
	bool ok = !cuda_check(cuda, cuda->cuModuleGetFunction(&function, module, "k"), "cuModuleGetFunction")
		&& !cuda_check(cuda, cuda->cuMemAlloc(&from, in_bytes), "cuMemAlloc")
		&& !cuda_check(cuda, cuda->cuMemAlloc(&to, out_bytes), "cuMemAlloc")
		&& !cuda_check(cuda, cuda->cuMemcpyHtoD(from, in, in_bytes), "cuMemcpyHtoD") && encode(&map, box, from)
		&& !cuda_check(cuda, cuda->cuLaunchKernel(function, ctas, 1, 1, block, 1, 1, 0, NULL, params, NULL),
			"cuLaunchKernel")
		&& !cuda_check(cuda, cuda->cuCtxSynchronize(), "running the kernel")
		&& !cuda_check(cuda, cuda->cuMemcpyDtoH(out, to, out_bytes), "cuMemcpyDtoH");
	if (!ok)
		*error = tda_error_message();
	if (from)
		cuda->cuMemFree(from);
	if (to)
		cuda->cuMemFree(to);
	cuda->cuModuleUnload(module);
	return ok;
}

void gpu_close(void)
{
	CUcontext previous;

	cuda->cuCtxPopCurrent(&previous);
	cuda->cuDevicePrimaryCtxRelease(device);
}
