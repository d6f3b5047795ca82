#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "cuda.h"
#include "error.h"

static const char library_name[] = "libcuda.so.1";

/* The driver maps memory where the address sanitizer keeps a gap between its shadows, and otherwise makes no context:
 * "out of memory". ASan calls this as the program starts. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TDA_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TDA_ADDRESS_SANITIZER
#endif
#ifdef TDA_ADDRESS_SANITIZER
TDA_API const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "protect_shadow_gap=0";
}
#endif

static struct {
	Cuda functions;
	tda_status status;
	char message[512];             /* of status, said again to every thread that asks */
} driver;
static pthread_once_t driver_once = PTHREAD_ONCE_INIT;

static const struct {
	const char *symbol;
	size_t offset;                 /* of the pointer in Cuda */
	int optional;
} symbols[] = {
#define CUDA_SYM(name, symbol, parameters) { symbol, offsetof(Cuda, name), 0 },
#define CUDA_SYM_OPTIONAL(name, symbol, parameters) { symbol, offsetof(Cuda, name), 1 },
#include "cuda_syms.def"
#undef CUDA_SYM_OPTIONAL
#undef CUDA_SYM
};

static tda_status load_symbols(void *library)
{
	for (size_t s = 0; s < sizeof(symbols) / sizeof(symbols[0]); s++) {
		void *address = dlsym(library, symbols[s].symbol);

		if (!address && !symbols[s].optional)
			return tda_fail(TDA_NO_DRIVER, "the CUDA driver (%s) has no %s: it is too old; install NVIDIA driver 525 or later",
			                library_name, symbols[s].symbol);
		memcpy((char *)&driver.functions + symbols[s].offset, &address, sizeof(address));
	}
	return TDA_OK;
}

/* Graphs take launches that start early since CUDA 12.3. Older drivers get none of them: a call is to work in a capture as elsewhere. */
static void check_early_launches(void)
{
	enum { FIRST_VERSION = 12030 };
	int version = 0;

	if (driver.functions.cuDriverGetVersion(&version) || version < FIRST_VERSION)
		driver.functions.cuLaunchKernelEx = NULL;
}

static tda_status open_driver(void)
{
	void *library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);   /* stays open: contexts live as long as the process */
	CUresult result;
	int count = 0;
	tda_status status;

	if (!library)
		return tda_fail(TDA_NO_DRIVER, "there is no CUDA driver on this machine: %s was not found; install the NVIDIA "
		                "driver, or use the simulator (--device sim)", library_name);
	if ((status = load_symbols(library)))
		return status;
	check_early_launches();
	result = driver.functions.cuInit(0);
	if (cuda_check(&driver.functions, result, "cuInit"))
		return tda_fail_within(TDA_NO_DEVICE, "the CUDA driver finds no usable GPU: ");
	result = driver.functions.cuDeviceGetCount(&count);
	if (result || count == 0)
		return tda_fail(TDA_NO_DEVICE, "the CUDA driver finds no GPU");
	return TDA_OK;
}

static void open_driver_once(void)
{
	driver.status = open_driver();
	if (driver.status)
		snprintf(driver.message, sizeof(driver.message), "%s", tda_error_message());
}

tda_status cuda_open(const Cuda **cuda)
{
	pthread_once(&driver_once, open_driver_once);
	*cuda = &driver.functions;
	return driver.status ? tda_fail(driver.status, "%s", driver.message) : TDA_OK;
}

tda_status cuda_check(const Cuda *cuda, CUresult result, const char *what)
{
	const char *name = NULL, *text = NULL;

	if (result == 0)
		return TDA_OK;
	cuda->cuGetErrorName(result, &name);
	cuda->cuGetErrorString(result, &text);
	return tda_fail(TDA_CUDA_ERROR, "%s: %s: %s", what, name ? name : "an unknown error", text ? text : "no description");
}
