/* GPU 0 through libtda's driver functions; nothing of the CUDA toolkit. */
#include <stdio.h>
#include "cuda.h"
#include "hw.h"

static const Cuda *cuda;
static CUdevice device;

GpuState gpu_open(char *name, size_t name_size)
{
	CUcontext context;
	tda_status status = cuda_open(&cuda);

	if (status)
		return status == TDA_NO_DRIVER || status == TDA_NO_DEVICE ? GPU_NONE : GPU_FAILED;
	if (cuda_check(cuda, cuda->cuDeviceGet(&device, 0), "cuDeviceGet")
	    || cuda_check(cuda, cuda->cuDeviceGetName(name, (int)name_size, device), "cuDeviceGetName")
	    || cuda_check(cuda, cuda->cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain"))
		return GPU_FAILED;
	if (cuda_check(cuda, cuda->cuCtxPushCurrent(context), "cuCtxPushCurrent")) {
		cuda->cuDevicePrimaryCtxRelease(device);
		return GPU_FAILED;
	}
	return GPU_READY;
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

bool gpu_run(const char *text, const uint32_t *in, size_t in_bytes, uint32_t *out, size_t out_bytes, uint32_t ctas,
	const char **error)
{
	CUmodule module = NULL;
	CUfunction function;
	CUdeviceptr from = 0, to = 0;
	void *params[] = { &from, &to };

	if (!load(&module, text, error))
		return false;
	bool ok = !cuda_check(cuda, cuda->cuModuleGetFunction(&function, module, "k"), "cuModuleGetFunction")
		&& !cuda_check(cuda, cuda->cuMemAlloc(&from, in_bytes), "cuMemAlloc")
		&& !cuda_check(cuda, cuda->cuMemAlloc(&to, out_bytes), "cuMemAlloc")
		&& !cuda_check(cuda, cuda->cuMemcpyHtoD(from, in, in_bytes), "cuMemcpyHtoD")
		&& !cuda_check(cuda, cuda->cuLaunchKernel(function, ctas, 1, 1, BLOCK, 1, 1, 0, NULL, params, NULL),
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
