#include "device.h"
#include "error.h"

tda_status device_open(DeviceKind kind, Device **device)
{
	tda_status status;

	if (kind == DEVICE_SIM)
		return sim_device_open(device);
	status = cuda_device_open(device);
	if (kind == DEVICE_DEFAULT && (status == TDA_NO_DRIVER || status == TDA_NO_DEVICE))
		return sim_device_open(device);
	return status;
}

tda_status device_for_counting(CountBy by, Device **device)
{
	tda_status status;

	*device = NULL;
	if (by == COUNT_BY_REFERENCE)
		return TDA_OK;
	if (by == COUNT_BY_SIM)
		return sim_device_open(device);
	status = cuda_device_open(device);
	return by == COUNT_BY_DEFAULT && (status == TDA_NO_DRIVER || status == TDA_NO_DEVICE) ? TDA_OK : status;
}

void device_close(Device *device)
{
	if (device)
		device->ops->close(device);
}

const char *device_name(const Device *device)
{
	return device ? device->description : "reference (f64 on this CPU)";
}

static tda_status launch_on_device(void *user, const Manifest *manifest, int kernel, uint32_t grid, void **args)
{
	Device *device = user;

	return device->ops->launch(device, manifest, kernel, grid, args);
}

static tda_status run_phase(Device *device, tda_kernel *kernel, Phase phase, Binding *binding)
{
	tda_status status = device->ops->load(device, kernel);

	binding->vars[SHAPE_MULTIPROCESSORS] = device->multiprocessors;
	return status ? status : launch_phase(kernel->manifest, phase, binding, launch_on_device, device);
}

tda_status device_forward(Device *device, tda_kernel *kernel, const tda_forward_args *args)
{
	Binding binding;
	tda_status status = validate_forward(kernel, args, &binding);

	return status ? status : run_phase(device, kernel, PHASE_FORWARD, &binding);
}

tda_status device_backward(Device *device, tda_kernel *kernel, const tda_backward_args *args)
{
	Binding binding;
	tda_status status = validate_backward(kernel, args, &binding);

	return status ? status : run_phase(device, kernel, PHASE_BACKWARD, &binding);
}

tda_status device_count(Device *device, tda_kernel *kernel, const tda_count_args *args)
{
	Binding binding;
	tda_status status = validate_count(kernel, args, &binding);

	return status ? status : run_phase(device, kernel, PHASE_COUNTING, &binding);
}
