#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "file.h"
#include "module.h"

/* ---- loading into contexts ---- */

static tda_status check_capability(const tda_kernel *kernel, const Cuda *cuda)
{
	const Manifest *m = kernel->manifest;
	int major = 0, minor = 0, capability;
	char name[96] = "?";
	CUdevice device;
	tda_status status;

	if ((status = cuda_check(cuda, cuda->cuCtxGetDevice(&device), "cuCtxGetDevice")) ||
	    (status = cuda_check(cuda, cuda->cuDeviceGetAttribute(&major, CUDA_ATTRIBUTE_CAPABILITY_MAJOR, device),
	                         "cuDeviceGetAttribute")) ||
	    (status = cuda_check(cuda, cuda->cuDeviceGetAttribute(&minor, CUDA_ATTRIBUTE_CAPABILITY_MINOR, device),
	                         "cuDeviceGetAttribute")))
		return status;
	capability = 10 * major + minor;
	if (capability == m->capability || (capability > m->capability && !m->capability_exact))
		return TDA_OK;
	cuda->cuDeviceGetName(name, sizeof(name), device);
	return tda_fail(TDA_WRONG_DEVICE, "%s has compute capability %d.%d, but %s was compiled for %s%s: compile the spec "
	                "for this GPU (tdagen --target)", name, major, minor, m->spec_name, m->target,
	                m->capability_exact ? ", which runs on that chip alone" : " and later");
}

/* Attributes don't change: asked once a context, so that a launch asks the driver nothing. */
static tda_status count_multiprocessors(const Cuda *cuda, int *count)
{
	CUdevice device;
	tda_status status = cuda_check(cuda, cuda->cuCtxGetDevice(&device), "cuCtxGetDevice");

	return status ? status : cuda_check(cuda, cuda->cuDeviceGetAttribute(count, CUDA_ATTRIBUTE_MULTIPROCESSORS, device),
	                                    "cuDeviceGetAttribute");
}

static tda_status load_module(const tda_kernel *kernel, const Cuda *cuda, LoadedModule *loaded)
{
	const Manifest *m = kernel->manifest;
	char log[1024] = "";
	int options[] = { CUDA_JIT_ERROR_LOG, CUDA_JIT_ERROR_LOG_BYTES };
	void *values[] = { log, (void *)(uintptr_t)sizeof(log) };
	CUresult result = cuda->cuModuleLoadDataEx(&loaded->module, kernel->text, 2, options, values);
	tda_status status = cuda_check(cuda, result, "loading the PTX");

	if (status) {
		char message[512];

		snprintf(message, sizeof(message), "%s", tda_error_message());
		return log[0] ? tda_fail(status, "%s\n%s", message, log) : status;
	}
	for (int k = 0; k < m->kernel_count && !status; k++) {
		const ManifestKernel *entry = &m->kernels[k];

		result = cuda->cuModuleGetFunction(&loaded->function[k], loaded->module, entry->entry);
		if ((status = cuda_check(cuda, result, entry->entry)))
			break;
		result = cuda->cuFuncSetAttribute(loaded->function[k], CUDA_FUNCTION_MAX_DYNAMIC_SHARED, (int)entry->shared);
		if ((status = cuda_check(cuda, result, "setting the shared memory")))
			tda_fail_within(status, "kernel %s, %u bytes of shared memory: ", entry->entry, (unsigned)entry->shared);
	}
	if (status)
		cuda->cuModuleUnload(loaded->module);
	return status;
}

static unsigned long long context_id(const Cuda *cuda, CUcontext context)
{
	unsigned long long id = 0;

	if (cuda->cuCtxGetId && cuda->cuCtxGetId(context, &id) != 0)
		return 0;
	return id;
}

static tda_status load_locked(tda_kernel *kernel, const Cuda *cuda, CUcontext context, CUstream stream,
                              LoadedModule **result)
{
	unsigned long long id = context_id(cuda, context);
	LoadedModule *loaded;
	int capturing = CUDA_CAPTURE_NONE;
	tda_status status;

	for (loaded = kernel->loaded; loaded; loaded = loaded->next)
		if (loaded->context == context && loaded->context_id == id) {
			*result = loaded;
			return TDA_OK;
		}
	if ((status = cuda_check(cuda, cuda->cuStreamIsCapturing(stream, &capturing), "cuStreamIsCapturing")))
		return status;
	if (capturing != CUDA_CAPTURE_NONE)
		return tda_fail(TDA_BAD_ARGUMENT, "the kernels are not loaded in this context yet, and a stream that is captured "
		                "can't load them: call tda_preload before the capture");
	if ((status = check_capability(kernel, cuda)))
		return status;
	loaded = calloc(1, sizeof(*loaded));
	if (!loaded)
		return tda_fail_memory();
	loaded->context = context;
	loaded->context_id = id;
	if ((status = count_multiprocessors(cuda, &loaded->multiprocessors)) || (status = load_module(kernel, cuda, loaded))) {
		free(loaded);
		return status;
	}
	loaded->next = kernel->loaded;
	kernel->loaded = loaded;
	*result = loaded;
	return TDA_OK;
}

tda_status module_get(tda_kernel *kernel, const Cuda *cuda, CUstream stream, LoadedModule **loaded)
{
	CUcontext context = NULL;
	tda_status status = cuda_check(cuda, cuda->cuCtxGetCurrent(&context), "cuCtxGetCurrent");

	if (status)
		return status;
	if (!context)
		return tda_fail(TDA_NO_DEVICE, "no CUDA context is current in this thread: call cuCtxSetCurrent, or cudaSetDevice "
		                "and any call of the CUDA runtime, first");
	pthread_mutex_lock(&kernel->lock);
	status = load_locked(kernel, cuda, context, stream, loaded);
	pthread_mutex_unlock(&kernel->lock);
	return status;
}

int map_type(const Manifest *m)
{
	static const int types[] = { [TDA_F32] = CUDA_MAP_FLOAT32, [TDA_F16] = CUDA_MAP_FLOAT16, [TDA_BF16] = CUDA_MAP_BFLOAT16 };

	return types[m->dtype];
}

/* Kernels read nothing of a tensor without entries: its map is left empty. */
static bool has_entries(const TensorMap *map)
{
	for (int d = 0; d < MAP_DIMS; d++)
		if (map->extent[d] == 0)
			return false;
	return true;
}

static tda_status encode_map(const Cuda *cuda, const Manifest *m, const TensorMap *from, CUtensorMap *map)
{
	const unsigned box[MAP_DIMS] = { from->box[0], from->box[1], 1, 1 }, every[MAP_DIMS] = { 1, 1, 1, 1 };
	unsigned long long extent[MAP_DIMS], stride[MAP_DIMS - 1];
	CUresult result;

	memset(map, 0, sizeof(*map));
	if (!has_entries(from))
		return TDA_OK;
	for (int d = 0; d < MAP_DIMS; d++)
		extent[d] = from->extent[d];
	for (int d = 0; d < MAP_DIMS - 1; d++)
		stride[d] = from->stride[d];
	if (!cuda->cuTensorMapEncodeTiled)
		return tda_fail(TDA_NO_DRIVER, "the CUDA driver has no cuTensorMapEncodeTiled: it is too old; install NVIDIA driver "
		                "525 or later");
	result = cuda->cuTensorMapEncodeTiled(map, map_type(m), MAP_DIMS,
	                                      (void *)(uintptr_t)from->address, extent, stride, box, every, 0,
	                                      CUDA_MAP_SWIZZLE_128B, CUDA_MAP_PROMOTE_256B, 0);
	return cuda_check(cuda, result, "cuTensorMapEncodeTiled");
}

/* A map that an earlier call made differs from this call's in its address alone. */
static tda_status get_map(const ModuleLaunch *launch, const Manifest *m, const TensorMap *from, CUtensorMap *map)
{
	const MadeMap *made = launch->prepared ? &launch->prepared->maps[from->number] : NULL;
	const Cuda *cuda = launch->cuda;

	if (!made || !made->made || (made->address != from->address && !cuda->cuTensorMapReplaceAddress))
		return encode_map(cuda, m, from, map);
	*map = made->map;
	if (made->address == from->address)
		return TDA_OK;
	return cuda_check(cuda, cuda->cuTensorMapReplaceAddress(map, (void *)(uintptr_t)from->address),
	                  "cuTensorMapReplaceAddress");
}

/* May the kernel start before the one that was launched last has ended? */
static bool starts_early(const ModuleLaunch *launch, const Manifest *m, int kernel)
{
	const ManifestKernel *entry = &m->kernels[kernel];

	return !launch->serial && launch->cuda->cuLaunchKernelEx && launch->last < kernel &&
	       (launch->last >= entry->leader || (entry->follows && launch->last >= 0));
}

static CUresult start(const ModuleLaunch *launch, const Manifest *m, int kernel, uint32_t grid, void **params)
{
	const ManifestKernel *entry = &m->kernels[kernel];
	CUfunction function = launch->loaded->function[kernel];
	CUlaunchAttribute early = { .id = CUDA_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION, .value = { .number = 1 } };
	const CUlaunchConfig config = { .grid = { grid, 1, 1 }, .block = { (unsigned)entry->block, 1, 1 },
		.shared_bytes = entry->shared, .stream = launch->stream, .attributes = &early, .attribute_count = 1 };

	if (starts_early(launch, m, kernel))
		return launch->cuda->cuLaunchKernelEx(&config, function, params, NULL);
	return launch->cuda->cuLaunchKernel(function, grid, 1, 1, (unsigned)entry->block, 1, 1, entry->shared, launch->stream,
	                                    params, NULL);
}

tda_status module_launch_kernel(void *user, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	ModuleLaunch *launch = user;
	const ManifestKernel *entry = &m->kernels[kernel];
	CUtensorMap maps[MANIFEST_MAX_MAPS];
	int map_count = 0;
	tda_status status;

	for (int a = 0; a < entry->arg_count && map_count < entry->map_count; a++) {
		if (entry->args[a].type != ARG_MAP)
			continue;
		if ((status = get_map(launch, m, args[a], &maps[map_count])))
			return tda_fail_within(status, "argument %d of kernel %s: ", a, entry->entry);
		args[a] = &maps[map_count++];
	}
	CUresult result = start(launch, m, kernel, grid, args);

	launch->last = kernel;
	return cuda_check(launch->cuda, result, entry->entry);
}

/* A LaunchFunction that launches nothing: the kernel's maps are made, and stay. */
static tda_status make_maps(void *user, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	const ModuleLaunch *launch = user;
	const ManifestKernel *entry = &m->kernels[kernel];

	(void)grid;
	for (int a = 0; a < entry->arg_count; a++) {
		const TensorMap *from = args[a];
		MadeMap *made;
		tda_status status;

		if (entry->args[a].type != ARG_MAP || !has_entries(from))
			continue;
		made = &launch->prepared->maps[from->number];
		if ((status = encode_map(launch->cuda, m, from, &made->map)))
			return tda_fail_within(status, "argument %d of kernel %s: ", a, entry->entry);
		made->address = from->address;
		made->made = true;
	}
	return TDA_OK;
}

/* Everything is computed, checked and made before the first kernel is launched. */
static tda_status prepare(const Manifest *m, const Binding *binding, ModuleLaunch *launch)
{
	Prepared *p = launch->prepared;
	tda_status status = schedule_fill(m, binding->vars, p->schedule);

	for (int n = 0; n < p->schedule->map_count; n++)
		p->maps[n].made = false;
	return status ? status : schedule_launch(m, p->schedule, binding, make_maps, launch);
}

tda_status module_sizes(tda_kernel *kernel, const int64_t *vars, int64_t sizes[BUFFER_KIND_COUNT])
{
	return recent_sizes(&kernel->sizes, &kernel->lock, kernel->manifest, vars, sizes);
}

tda_status module_launch(tda_kernel *kernel, Phase phase, Binding *binding, void *stream)
{
	const Manifest *m = kernel->manifest;
	const char *serial = getenv("TDA_SERIAL");
	ModuleLaunch launch = { .stream = stream, .last = -1, .serial = serial && strcmp(serial, "0") != 0 };
	LoadedModule *loaded;
	bool ready;
	tda_status status;

	if ((status = cuda_open(&launch.cuda)) || (status = module_get(kernel, launch.cuda, launch.stream, &loaded)))
		return status;
	launch.loaded = loaded;
	binding->vars[SHAPE_MULTIPROCESSORS] = loaded->multiprocessors;
	launch.prepared = recent_take(&loaded->recent[phase], &kernel->lock, m, phase, binding->vars);
	if (!launch.prepared)
		return TDA_OUT_OF_MEMORY;
	status = launch.prepared->ready ? TDA_OK : prepare(m, binding, &launch);
	ready = !status;
	if (ready)
		status = schedule_launch(m, launch.prepared->schedule, binding, module_launch_kernel, &launch);
	recent_give_back(launch.prepared, &kernel->lock, ready);
	return status;
}

/* ---- opening and closing ---- */

static tda_status open_text(char *text, size_t length, tda_kernel **result)
{
	static _Atomic unsigned long long opened;
	tda_kernel *kernel = calloc(1, sizeof(*kernel));
	tda_status status = TDA_OK;

	if (!kernel)
		status = tda_fail_memory();
	else
		status = manifest_parse(text, length, &kernel->manifest);
	if (status) {
		free(kernel);
		free(text);
		return status;
	}
	kernel->id = ++opened;
	kernel->text = text;
	kernel->length = length;
	pthread_mutex_init(&kernel->lock, NULL);
	*result = kernel;
	return TDA_OK;
}

tda_status tda_open_memory(const void *ptx, size_t length, tda_kernel **kernel)
{
	char *text;

	if (!kernel)
		return tda_fail(TDA_BAD_ARGUMENT, "kernel: the pointer is null");
	*kernel = NULL;
	if (!ptx)
		return tda_fail(TDA_BAD_ARGUMENT, "ptx: the pointer is null");
	text = length < SIZE_MAX ? malloc(length + 1) : NULL;
	if (!text)
		return tda_fail_memory();
	memcpy(text, ptx, length);
	text[length] = 0;
	return open_text(text, length, kernel);
}

tda_status tda_open_file(const char *path, tda_kernel **kernel)
{
	char *text;
	size_t length;
	tda_status status;

	if (!kernel)
		return tda_fail(TDA_BAD_ARGUMENT, "kernel: the pointer is null");
	*kernel = NULL;
	if (!path)
		return tda_fail(TDA_BAD_ARGUMENT, "path: the pointer is null");
	if ((status = file_read(path, &text, &length)) || (status = open_text(text, length, kernel)))
		return tda_fail_within(status, "%s: ", path);
	return TDA_OK;
}

/* A context that is gone has taken its modules along. */
static void unload(const Cuda *cuda, LoadedModule *loaded)
{
	CUcontext previous;
	bool same = context_id(cuda, loaded->context) == loaded->context_id;

	if (same && cuda->cuCtxPushCurrent(loaded->context) == 0) {
		cuda->cuModuleUnload(loaded->module);
		cuda->cuCtxPopCurrent(&previous);
	}
}

void tda_close(tda_kernel *kernel)
{
	if (!kernel)
		return;
	while (kernel->loaded) {
		LoadedModule *loaded = kernel->loaded;
		const Cuda *cuda;

		kernel->loaded = loaded->next;
		if (cuda_open(&cuda) == TDA_OK)
			unload(cuda, loaded);
		for (int phase = 0; phase < PHASE_KINDS; phase++)
			recent_free(&loaded->recent[phase]);
		free(loaded);
	}
	pthread_mutex_destroy(&kernel->lock);
	manifest_free(kernel->manifest);
	free(kernel->text);
	free(kernel);
}
