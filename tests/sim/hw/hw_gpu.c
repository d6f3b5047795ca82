/* The few driver functions that are needed, from libcuda.so.1; nothing of the CUDA toolkit. */
#include <dlfcn.h>
#include <stdio.h>
#include "hw.h"

typedef uint64_t DevicePointer;
typedef void *Handle;

static struct {
	int (*cuInit)(unsigned);
	int (*cuDeviceGet)(int *, int);
	int (*cuDeviceGetName)(char *, int, int);
	int (*cuDevicePrimaryCtxRetain)(Handle *, int);
	int (*cuDevicePrimaryCtxRelease_v2)(int);
	int (*cuCtxSetCurrent)(Handle);
	int (*cuCtxSynchronize)(void);
	int (*cuModuleLoadDataEx)(Handle *, const void *, unsigned, int *, void **);
	int (*cuModuleUnload)(Handle);
	int (*cuModuleGetFunction)(Handle *, Handle, const char *);
	int (*cuMemAlloc_v2)(DevicePointer *, size_t);
	int (*cuMemFree_v2)(DevicePointer);
	int (*cuMemcpyHtoD_v2)(DevicePointer, const void *, size_t);
	int (*cuMemcpyDtoH_v2)(void *, DevicePointer, size_t);
	int (*cuLaunchKernel)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void **,
		void **);
	int (*cuGetErrorString)(int, const char **);
} cu;

static void *library;
static int device;
static char message[4600];

static bool failed(const char *what, int code, const char **error)
{
	const char *text = "unknown error";
	if (cu.cuGetErrorString)
		cu.cuGetErrorString(code, &text);
	snprintf(message, sizeof message, "%s: %s (%d)", what, text ? text : "unknown error", code);
	*error = message;
	return false;
}

bool gpu_open(char *name, size_t name_size, const char **error)
{
	const struct { const char *name; void *slot; } symbols[] = {
		{ "cuInit", &cu.cuInit }, { "cuDeviceGet", &cu.cuDeviceGet }, { "cuDeviceGetName", &cu.cuDeviceGetName },
		{ "cuDevicePrimaryCtxRetain", &cu.cuDevicePrimaryCtxRetain },
		{ "cuDevicePrimaryCtxRelease_v2", &cu.cuDevicePrimaryCtxRelease_v2 },
		{ "cuCtxSetCurrent", &cu.cuCtxSetCurrent }, { "cuCtxSynchronize", &cu.cuCtxSynchronize },
		{ "cuModuleLoadDataEx", &cu.cuModuleLoadDataEx }, { "cuModuleUnload", &cu.cuModuleUnload },
		{ "cuModuleGetFunction", &cu.cuModuleGetFunction }, { "cuMemAlloc_v2", &cu.cuMemAlloc_v2 },
		{ "cuMemFree_v2", &cu.cuMemFree_v2 }, { "cuMemcpyHtoD_v2", &cu.cuMemcpyHtoD_v2 },
		{ "cuMemcpyDtoH_v2", &cu.cuMemcpyDtoH_v2 }, { "cuLaunchKernel", &cu.cuLaunchKernel },
		{ "cuGetErrorString", &cu.cuGetErrorString },
	};
	Handle context;
	int code;
	library = dlopen("libcuda.so.1", RTLD_NOW);
	if (!library) {
		*error = "libcuda.so.1 is not there: no NVIDIA driver";
		return false;
	}
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		*(void **)symbols[i].slot = dlsym(library, symbols[i].name);
		if (!*(void **)symbols[i].slot) {
			snprintf(message, sizeof message, "libcuda.so.1 has no %s", symbols[i].name);
			*error = message;
			return false;
		}
	}
	if ((code = cu.cuInit(0)) || (code = cu.cuDeviceGet(&device, 0))
	    || (code = cu.cuDeviceGetName(name, (int)name_size, device))
	    || (code = cu.cuDevicePrimaryCtxRetain(&context, device)) || (code = cu.cuCtxSetCurrent(context)))
		return failed("opening GPU 0", code, error);
	return true;
}

static bool load(Handle *module, const char *text, const char **error)
{
	static char log[4096];
	int options[] = { 5, 6 };       /* CU_JIT_ERROR_LOG_BUFFER, its size in bytes */
	void *values[] = { log, (void *)sizeof log };
	log[0] = 0;
	int code = cu.cuModuleLoadDataEx(module, text, 2, options, values);
	if (!code)
		return true;
	failed("loading the PTX", code, error);
	snprintf(message, sizeof message, "loading the PTX: error %d\n%s", code, log);
	return false;
}

bool gpu_run(const char *text, const uint32_t *in, size_t in_bytes, uint32_t *out, size_t out_bytes, uint32_t ctas,
	const char **error)
{
	Handle module = NULL, function;
	DevicePointer from = 0, to = 0;
	void *params[] = { &from, &to };
	int code;
	if (!load(&module, text, error))
		return false;
	bool ok = !((code = cu.cuModuleGetFunction(&function, module, "k")) || (code = cu.cuMemAlloc_v2(&from, in_bytes))
		|| (code = cu.cuMemAlloc_v2(&to, out_bytes)) || (code = cu.cuMemcpyHtoD_v2(from, in, in_bytes))
		|| (code = cu.cuLaunchKernel(function, ctas, 1, 1, BLOCK, 1, 1, 0, NULL, params, NULL))
		|| (code = cu.cuCtxSynchronize()) || (code = cu.cuMemcpyDtoH_v2(out, to, out_bytes)));
	if (!ok)
		failed("running the kernel", code, error);
	if (from)
		cu.cuMemFree_v2(from);
	if (to)
		cu.cuMemFree_v2(to);
	cu.cuModuleUnload(module);
	return ok;
}

void gpu_close(void)
{
	cu.cuDevicePrimaryCtxRelease_v2(device);
	dlclose(library);
}
