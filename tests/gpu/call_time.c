#include <stdlib.h>
#include <time.h>
#include "call_time.h"

enum { CALLS = 200 };

static double microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

/* ---- the driver, timed from within ---- */

/* What a call of libtda may ask of the driver once its kernels are loaded. */
#define TIMED_SYMS(SYM) \
	SYM(cuCtxGetCurrent, (CUcontext *context), (context)) \
	SYM(cuCtxGetId, (CUcontext context, unsigned long long *id), (context, id)) \
	SYM(cuTensorMapEncodeTiled, (CUtensorMap *map, int type, unsigned dims, void *address, const unsigned long long *extent, \
	                             const unsigned long long *stride, const unsigned *box, const unsigned *element_stride, \
	                             int interleave, int swizzle, int promotion, int fill), \
	    (map, type, dims, address, extent, stride, box, element_stride, interleave, swizzle, promotion, fill)) \
	SYM(cuTensorMapReplaceAddress, (CUtensorMap *map, void *address), (map, address)) \
	SYM(cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, \
	                     unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, \
	                     void **extra), \
	    (function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params, extra)) \
	SYM(cuLaunchKernelEx, (const CUlaunchConfig *config, CUfunction function, void **params, void **extra), \
	    (config, function, params, extra))

static Cuda real;                      /* the driver's functions */
static double inside;                  /* microseconds spent in them */

#define SYM(name, parameters, arguments) \
	static CUresult timed_##name parameters \
	{ \
		double start = microseconds(); \
		CUresult result = real.name arguments; \
		\
		inside += microseconds() - start; \
		return result; \
	}
TIMED_SYMS(SYM)
#undef SYM

/* libtda's table of the driver is filled when it is opened, and constant to all but this. */
static void time_driver(bool timed)
{
	Cuda *table = (Cuda *)cuda;

	if (timed)
		real = *table;
#define SYM(name, parameters, arguments) \
	if (real.name) \
		table->name = timed ? timed_##name : real.name;
	TIMED_SYMS(SYM)
#undef SYM
}

/* ---- medians ---- */

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double samples[CALLS])
{
	qsort(samples, CALLS, sizeof(double), compare_doubles);
	return samples[CALLS / 2];
}

/* Times without what is added to `inside` meanwhile. */
static tda_status time_calls(const Case *c, CUstream stream, double *forward_us, double *backward_us)
{
	double forward_samples[CALLS], backward_samples[CALLS];
	tda_forward_args forward = case_forward_args(c);
	tda_backward_args backward = case_backward_args(c);

	for (int n = 0; n < CALLS; n++) {
		double start = microseconds(), before = inside;
		tda_status status = tda_forward(c->kernel, &forward, stream);

		forward_samples[n] = microseconds() - start - (inside - before);
		start = microseconds(), before = inside;
		if (status || (status = tda_backward(c->kernel, &backward, stream)))
			return status;
		backward_samples[n] = microseconds() - start - (inside - before);
		if ((status = driver_check(driver.cuStreamSynchronize(stream), "cuStreamSynchronize")))
			return status;
	}
	*forward_us = median(forward_samples);
	*backward_us = median(backward_samples);
	return TDA_OK;
}

tda_status call_times(const Case *c, CUstream stream, CallTimes *times)
{
	tda_status status = time_calls(c, stream, &times->forward, &times->backward);

	if (status)
		return status;
	time_driver(true);
	status = time_calls(c, stream, &times->own_forward, &times->own_backward);
	time_driver(false);
	return status;
}
