/* The first GPU as a Device, in its primary context and on the default stream. */
#include <stdio.h>
#include <stdlib.h>
#include "device.h"
#include "error.h"

typedef struct CudaDevice {
	Device base;
	const Cuda *cuda;
	CUdevice ordinal;
	LoadedModule *loaded;
	int last;                      /* of ModuleLaunch */
	CUevent marks[DEVICE_MARKS];   /* made when first used */
} CudaDevice;

static CudaDevice *cuda_of(Device *device)
{
	return (CudaDevice *)device;
}

static CUdeviceptr address(const void *memory)
{
	return (CUdeviceptr)(uintptr_t)memory;
}

static tda_status cuda_load(Device *device, tda_kernel *kernel)
{
	tda_status status = module_get(kernel, cuda_of(device)->cuda, NULL, &cuda_of(device)->loaded);

	cuda_of(device)->last = -1;
	if (!status)
		device->multiprocessors = cuda_of(device)->loaded->multiprocessors;
	return status;
}

static tda_status cuda_alloc(Device *device, size_t bytes, void **memory)
{
	CUdeviceptr at = 0;
	tda_status status = cuda_check(cuda_of(device)->cuda, cuda_of(device)->cuda->cuMemAlloc(&at, bytes ? bytes : 1),
	                               "cuMemAlloc");

	*memory = (void *)(uintptr_t)at;
	return status;
}

static void cuda_release(Device *device, void *memory)
{
	cuda_of(device)->cuda->cuMemFree(address(memory));
}

static tda_status cuda_copy_in(Device *device, void *to, const void *from, size_t bytes)
{
	const Cuda *cuda = cuda_of(device)->cuda;

	return bytes ? cuda_check(cuda, cuda->cuMemcpyHtoD(address(to), from, bytes), "cuMemcpyHtoD") : TDA_OK;
}

static tda_status cuda_copy_out(Device *device, void *to, const void *from, size_t bytes)
{
	const Cuda *cuda = cuda_of(device)->cuda;

	return bytes ? cuda_check(cuda, cuda->cuMemcpyDtoH(to, address(from), bytes), "cuMemcpyDtoH") : TDA_OK;
}

static tda_status cuda_fill(Device *device, void *at, int byte, size_t bytes)
{
	const Cuda *cuda = cuda_of(device)->cuda;

	cuda_of(device)->last = -1;
	return bytes ? cuda_check(cuda, cuda->cuMemsetD8(address(at), (unsigned char)byte, bytes), "cuMemsetD8") : TDA_OK;
}

static tda_status cuda_launch(Device *device, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	ModuleLaunch launch = { .cuda = cuda_of(device)->cuda, .loaded = cuda_of(device)->loaded, .last = cuda_of(device)->last };
	tda_status status = module_launch_kernel(&launch, m, kernel, grid, args);

	cuda_of(device)->last = launch.last;
	return status;
}

static tda_status cuda_synchronize(Device *device)
{
	return cuda_check(cuda_of(device)->cuda, cuda_of(device)->cuda->cuCtxSynchronize(), "running the kernels");
}

static tda_status cuda_mark(Device *device, int mark)
{
	CudaDevice *d = cuda_of(device);
	tda_status status = TDA_OK;

	d->last = -1;
	if (!d->marks[mark])
		status = cuda_check(d->cuda, d->cuda->cuEventCreate(&d->marks[mark], 0), "cuEventCreate");
	return status ? status : cuda_check(d->cuda, d->cuda->cuEventRecord(d->marks[mark], NULL), "cuEventRecord");
}

static tda_status cuda_elapsed(Device *device, int from, int to, double *milliseconds)
{
	CudaDevice *d = cuda_of(device);
	float ms = 0;
	tda_status status = cuda_check(d->cuda, d->cuda->cuEventElapsedTime(&ms, d->marks[from], d->marks[to]),
	                               "cuEventElapsedTime");

	*milliseconds = ms;
	return status;
}

static void cuda_close(Device *device)
{
	CudaDevice *d = cuda_of(device);
	CUcontext previous;

	for (int n = 0; n < DEVICE_MARKS; n++)
		if (d->marks[n])
			d->cuda->cuEventDestroy(d->marks[n]);
	d->cuda->cuCtxPopCurrent(&previous);
	d->cuda->cuDevicePrimaryCtxRelease(d->ordinal);
	free(d);
}

static const DeviceOps cuda_ops = {
	.load = cuda_load, .alloc = cuda_alloc, .release = cuda_release, .copy_in = cuda_copy_in, .copy_out = cuda_copy_out,
	.fill = cuda_fill, .poison = cuda_fill, .launch = cuda_launch, .synchronize = cuda_synchronize, .mark = cuda_mark,
	.elapsed = cuda_elapsed, .close = cuda_close,
};

tda_status cuda_device_open(Device **device)
{
	CudaDevice *d = calloc(1, sizeof(*d));
	char name[96] = "?";
	CUcontext context;
	tda_status status;

	*device = NULL;
	if (!d)
		return tda_fail_memory();
	d->base.ops = &cuda_ops;
	if ((status = cuda_open(&d->cuda)) ||
	    (status = cuda_check(d->cuda, d->cuda->cuDeviceGet(&d->ordinal, 0), "cuDeviceGet")) ||
	    (status = cuda_check(d->cuda, d->cuda->cuDevicePrimaryCtxRetain(&context, d->ordinal), "using the GPU")))
		goto fail;
	if ((status = cuda_check(d->cuda, d->cuda->cuCtxPushCurrent(context), "cuCtxPushCurrent"))) {
		d->cuda->cuDevicePrimaryCtxRelease(d->ordinal);
		goto fail;
	}
	d->cuda->cuDeviceGetName(name, sizeof(name), d->ordinal);
	snprintf(d->base.description, sizeof(d->base.description), "gpu (%s)", name);
	*device = &d->base;
	return TDA_OK;
fail:
	free(d);
	return status;
}
