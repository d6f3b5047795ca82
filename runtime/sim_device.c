/* The simulator as a Device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device.h"
#include "error.h"
#include "sim/sim.h"

/* Few, so that CTAs of grids that depend on them have more than one piece of work each. */
enum { SIM_MULTIPROCESSORS = 4 };

typedef struct SimDevice {
	Device base;
	Sim *sim;
	unsigned long long kernel;     /* id of the one that is loaded; 0: none */
	SimModule *module;
} SimDevice;

static SimDevice *sim_of(Device *device)
{
	return (SimDevice *)device;
}

static tda_status sim_load_kernel(Device *device, tda_kernel *kernel)
{
	SimDevice *d = sim_of(device);

	if (d->kernel == kernel->id)
		return TDA_OK;
	d->module = sim_load(d->sim, kernel->text, kernel->length);
	d->kernel = d->module ? kernel->id : 0;
	return d->module ? TDA_OK : tda_fail(TDA_INTERNAL, "the simulator can't load the PTX: %s", sim_error(d->sim));
}

static tda_status sim_allocate(Device *device, size_t bytes, void **memory)
{
	*memory = sim_alloc(sim_of(device)->sim, bytes);
	return *memory ? TDA_OK : tda_fail_memory();
}

static void sim_release_memory(Device *device, void *memory)
{
	sim_release(sim_of(device)->sim, memory);
}

static tda_status sim_copy_to(Device *device, void *to, const void *from, size_t bytes)
{
	sim_copy_in(sim_of(device)->sim, to, from, bytes);
	return TDA_OK;
}

static tda_status sim_copy_from(Device *device, void *to, const void *from, size_t bytes)
{
	if (sim_copy_out(sim_of(device)->sim, to, from, bytes) == 0)
		return TDA_OK;
	return tda_fail(TDA_INTERNAL, "the kernels left a part of the output unwritten: %s", sim_error(sim_of(device)->sim));
}

static tda_status sim_fill_memory(Device *device, void *at, int byte, size_t bytes)
{
	sim_fill(sim_of(device)->sim, at, byte, bytes);
	return TDA_OK;
}

static tda_status sim_poison(Device *device, void *at, int byte, size_t bytes)
{
	(void)byte;
	sim_forget(sim_of(device)->sim, at, bytes);
	return TDA_OK;
}

static tda_status make_map(Sim *sim, const Manifest *m, const TensorMap *from, SimTensorMap *map)
{
	const uint32_t box[MAP_DIMS] = { from->box[0], from->box[1], 1, 1 }, every[MAP_DIMS] = { 1, 1, 1, 1 };

	memset(map, 0, sizeof(*map));
	for (int d = 0; d < MAP_DIMS; d++)
		if (from->extent[d] == 0)
			return TDA_OK;
	if (sim_tensor_map(sim, map, map_type(m), MAP_DIMS, (const void *)(uintptr_t)from->address, from->extent, from->stride, box,
	                   every, CUDA_MAP_SWIZZLE_128B) == 0)
		return TDA_OK;
	return tda_fail(TDA_INTERNAL, "%s", sim_error(sim));
}

static tda_status sim_launch_kernel(Device *device, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	const ManifestKernel *entry = &m->kernels[kernel];
	SimDevice *d = sim_of(device);
	SimTensorMap maps[MANIFEST_MAX_MAPS];
	const void *params[MANIFEST_MAX_ARGS];
	int map_count = 0;

	for (int a = 0; a < entry->arg_count; a++) {
		tda_status status;

		params[a] = args[a];
		if (entry->args[a].type != ARG_MAP)
			continue;
		if ((status = make_map(d->sim, m, args[a], &maps[map_count])))
			return tda_fail_within(status, "argument %d of kernel %s: ", a, entry->entry);
		params[a] = &maps[map_count++];
	}
	if (sim_launch(d->sim, d->module, entry->entry, (uint32_t[3]){ grid, 1, 1 },
	               (uint32_t[3]){ (uint32_t)entry->block, 1, 1 }, entry->shared, params) == 0)
		return TDA_OK;
	return tda_fail(TDA_INTERNAL, "the simulator reports of kernel %s: %s", entry->entry, sim_error(d->sim));
}

static tda_status sim_synchronize(Device *device)
{
	(void)device;
	return TDA_OK;
}

static void sim_close(Device *device)
{
	sim_free(sim_of(device)->sim);
	free(device);
}

static const DeviceOps sim_ops = {
	.load = sim_load_kernel, .alloc = sim_allocate, .release = sim_release_memory, .copy_in = sim_copy_to,
	.copy_out = sim_copy_from, .fill = sim_fill_memory, .poison = sim_poison, .launch = sim_launch_kernel,
	.synchronize = sim_synchronize, .close = sim_close,
};

tda_status sim_device_open(Device **device)
{
	SimDevice *d = calloc(1, sizeof(*d));

	*device = NULL;
	if (!d)
		return tda_fail_memory();
	d->base.ops = &sim_ops;
	d->base.multiprocessors = SIM_MULTIPROCESSORS;
	snprintf(d->base.description, sizeof(d->base.description), "sim (the PTX simulator on this CPU)");
	d->sim = sim_new();
	if (!d->sim) {
		free(d);
		return tda_fail_memory();
	}
	*device = &d->base;
	return TDA_OK;
}
