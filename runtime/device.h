/* What the commands need of a device: a CUDA GPU or the simulator, behind one small table. */
#ifndef TDA_DEVICE_H
#define TDA_DEVICE_H

#include <stdbool.h>
#include "count_by.h"
#include "module.h"

typedef enum DeviceKind { DEVICE_DEFAULT, DEVICE_GPU, DEVICE_SIM } DeviceKind;

enum { DEVICE_MARKS = 192 };           /* points in time that a device can keep */

typedef struct Device Device;

typedef struct DeviceOps {
	/* Makes the kernel's PTX ready; called again for the same kernel it does nothing. */
	tda_status (*load)(Device *device, tda_kernel *kernel);
	tda_status (*alloc)(Device *device, size_t bytes, void **memory);
	void (*release)(Device *device, void *memory);
	tda_status (*copy_in)(Device *device, void *to, const void *from, size_t bytes);
	/* The simulator refuses to copy out bytes that nothing wrote. */
	tda_status (*copy_out)(Device *device, void *to, const void *from, size_t bytes);
	tda_status (*fill)(Device *device, void *at, int byte, size_t bytes);
	/* Makes contents undefined: a GPU's are set to `byte`, the simulator's count as unwritten. */
	tda_status (*poison)(Device *device, void *at, int byte, size_t bytes);
	/* Enqueues one kernel of the loaded PTX. */
	tda_status (*launch)(Device *device, const Manifest *manifest, int kernel, uint32_t grid, void **args);
	tda_status (*synchronize)(Device *device);
	/* Records a point in the device's time; ms between two of them, after a synchronize. Both NULL without a clock. */
	tda_status (*mark)(Device *device, int mark);
	tda_status (*elapsed)(Device *device, int from, int to, double *milliseconds);
	void (*close)(Device *device);
} DeviceOps;

struct Device {
	const DeviceOps *ops;
	char description[128];         /* "gpu (NVIDIA H100 80GB HBM3)" */
	int multiprocessors;           /* known once a kernel is loaded */
};

/* DEVICE_DEFAULT: the first GPU where there is one, else the simulator. Freed with device->ops->close. */
tda_status device_open(DeviceKind kind, Device **device);
tda_status cuda_device_open(Device **device);
tda_status sim_device_open(Device **device);

/* Validate the arguments as tda_forward, tda_backward and tda_count do, and launch. Do not wait. */
tda_status device_forward(Device *device, tda_kernel *kernel, const tda_forward_args *args);
tda_status device_backward(Device *device, tda_kernel *kernel, const tda_backward_args *args);
tda_status device_count(Device *device, tda_kernel *kernel, const tda_count_args *args);

#endif
