/* A kernel file that has been opened: its text, its manifest, and where it is loaded. */
#ifndef TDA_MODULE_H
#define TDA_MODULE_H

#include "recent.h"

/* The PTX as loaded into one CUDA context. */
typedef struct LoadedModule {
	struct LoadedModule *next;
	CUcontext context;
	unsigned long long context_id; /* tells a new context at an old one's address; 0 where the driver has no ids */
	CUmodule module;
	int multiprocessors;           /* of its device */
	CUfunction function[MANIFEST_MAX_KERNELS];
	RecentSchedules recent[PHASE_KINDS];   /* under the kernel's lock */
} LoadedModule;

struct tda_kernel {
	unsigned long long id;         /* tells a new kernel at an old one's address; from 1 */
	char *text;                    /* with a final NUL, as the driver wants it */
	size_t length;
	Manifest *manifest;
	pthread_mutex_t lock;          /* of all that follows */
	LoadedModule *loaded;          /* entries are added at the front and stay until tda_close */
	RecentSizes sizes;
};

/* The module in the current context, loaded now if need be. stream: the one of the coming launch, to refuse loading
 * while it is captured. */
tda_status module_get(tda_kernel *kernel, const Cuda *cuda, CUstream stream, LoadedModule **loaded);

/* Neither is null; `name` is the argument's. In validate.c, as what follows. */
tda_status validate_pointers(const tda_kernel *kernel, const void *argument, const char *name);
/* Check every argument and fill the binding; nothing is launched when they fail. */
tda_status validate_forward(tda_kernel *kernel, const tda_forward_args *args, Binding *binding);
tda_status validate_backward(tda_kernel *kernel, const tda_backward_args *args, Binding *binding);
tda_status validate_count(tda_kernel *kernel, const tda_count_args *args, Binding *binding);

/* launch_sizes, remembered. */
tda_status module_sizes(tda_kernel *kernel, const int64_t *vars, int64_t sizes[BUFFER_KIND_COUNT]);

/* Launches all of a phase on a stream of the current context. */
tda_status module_launch(tda_kernel *kernel, Phase phase, Binding *binding, void *stream);
/* The same for one kernel of the manifest, as a LaunchFunction: user is a ModuleLaunch. */
typedef struct ModuleLaunch {
	const Cuda *cuda;
	const LoadedModule *loaded;
	CUstream stream;
	int last;                      /* the kernel launched before, with nothing else in between; -1: none */
	bool serial;                   /* TDA_SERIAL: each kernel waits for the one before it */
	Prepared *prepared;            /* whose maps are used; NULL: none */
} ModuleLaunch;
/* CUtensorMapDataType of the tensors' elements. */
int map_type(const Manifest *manifest);
tda_status module_launch_kernel(void *user, const Manifest *manifest, int kernel, uint32_t grid, void **args);

#endif
