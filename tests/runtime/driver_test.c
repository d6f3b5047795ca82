/*
 * What libtda asks of the CUDA driver, on a driver that only records: one load per context, none while a stream is
 * captured, contexts made anew at an old address, chips that are too old, PTX that the driver refuses, tensor maps made
 * once a shape and context, threads; and never an allocation, a copy or a wait.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/recent.h"
#include "fake_cuda.h"
#include "fixture.h"

static FakeCuda *fake;
static void (*set_current)(int n);
static const unsigned long long *(*launched)(void);
static Cuda *cuda;                     /* that libtda calls */

static void *at(uintptr_t address)
{
	return (void *)address;
}

/* more: further lines of the manifest. */
static tda_kernel *open_kernel_with(const char *more)
{
	char lines[4096], *text;
	tda_kernel *kernel;

	snprintf(lines, sizeof(lines), "%s%s%s", fixture_tda_lines, fixture_tda_kernels, more);
	text = fixture_seal(lines, fixture_body);
	CHECK(tda_open_memory(text, strlen(text), &kernel) == TDA_OK, "%s", tda_error_message());
	free(text);
	return kernel;
}

static tda_kernel *open_kernel(void)
{
	return open_kernel_with("");
}

static tda_forward_args good_arguments(void)
{
	tda_forward_args args = TDA_FORWARD_ARGS_INIT;
	const tda_tensor tensor = { NULL, 64 * 64, 64 * 64, 64 };

	args.shape.batch = args.shape.heads = args.shape.kv_heads = 1;
	args.shape.q_len = args.shape.k_len = 64;
	args.q[0] = args.q[1] = args.k[0] = args.k[1] = args.v = args.o = tensor;
	args.q[0].data = args.q[1].data = args.k[0].data = args.k[1].data = args.v.data = at(0x1000000);
	args.o.data = at(0x2000000);
	args.saved = at(0x3000000);
	args.saved_bytes = 1 << 20;
	return args;
}

static void test_contexts(void)
{
	tda_kernel *kernel = open_kernel();
	tda_forward_args args = good_arguments();

	set_current(-1);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_NO_DEVICE, "launched without a context");
	CHECK_MESSAGE("no CUDA context is current in this thread: call cuCtxSetCurrent, or cudaSetDevice and any call of the "
	              "CUDA runtime, first");
	set_current(0);
	CHECK(tda_forward(kernel, &args, at(0x77)) == TDA_OK, "%s", tda_error_message());
	CHECK(fake->loads == 1 && fake->launches == 2, "%d loads, %d launches", fake->loads, fake->launches);
	CHECK(fake->grid == 1 && fake->block == 128 && fake->stream == at(0x77), "the last launch");
	CHECK(fake->shared_bytes == 0, "shared memory of the last kernel of the file: %d", fake->shared_bytes);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->loads == 1, "loaded twice in one context");
	set_current(1);
	CHECK(tda_preload(kernel) == TDA_OK && fake->loads == 2, "not loaded in the second context");
	fake->capturing = 1;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->loads == 2, "a captured launch: %s", tda_error_message());
	set_current(2);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_BAD_ARGUMENT && fake->loads == 2, "loaded inside a capture");
	CHECK_MESSAGE("the kernels are not loaded in this context yet, and a stream that is captured can't load them: call "
	              "tda_preload before the capture");
	fake->capturing = 0;
	set_current(0);
	fake->context_id[0] = 99;      /* destroyed, and another one made at its address */
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->loads == 3, "used the module of a dead context");
	tda_close(kernel);
	CHECK(fake->unloads == 2, "%d modules unloaded: the dead context's must be left alone", fake->unloads);
	CHECK(fake->forbidden == 0, "%d calls that allocate, copy or wait", fake->forbidden);
}

static void test_refusals(void)
{
	tda_kernel *kernel = open_kernel();
	tda_forward_args args = good_arguments();
	int launches = fake->launches;

	set_current(0);
	fake->capability = 75;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_WRONG_DEVICE, "ran on an old chip");
	CHECK_MESSAGE("Fake has compute capability 7.5, but tda was compiled for sm_80 and later: compile the spec for this "
	              "GPU (tdagen --target)");
	fake->capability = 90;
	fake->load_result = 218;
	CHECK(tda_preload(kernel) == TDA_CUDA_ERROR, "loaded bad PTX");
	CHECK_MESSAGE("loading the PTX: CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed\nptxas: line 7 is wrong");
	fake->load_result = 0;
	CHECK(tda_preload(kernel) == TDA_OK, "%s", tda_error_message());
	args.v.data = NULL;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_BAD_ARGUMENT && fake->launches == launches, "a refused call launched");
	tda_close(kernel);
}

static void test_maps(void)
{
	tda_kernel *kernel = open_kernel();
	tda_forward_args args = good_arguments();
	int maps = fake->maps;

	set_current(0);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->maps == maps + 1, "%s", tda_error_message());
	CHECK(fake->map_extent[0] == 64 && fake->map_extent[1] == 64 && fake->map_extent[2] == 1 && fake->map_extent[3] == 1,
	      "extents");
	CHECK(fake->map_stride[0] == 128 && fake->map_box[0] == 64 && fake->map_box[1] == 128 && fake->map_box[3] == 1 &&
	      fake->map_swizzle == CUDA_MAP_SWIZZLE_128B, "stride, box, swizzle");
	args.shape.k_len = 0;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->maps == maps + 1, "a map of a tensor without entries");
	tda_close(kernel);
}

/* Of five launches one starts early where those without CTAs are left out, which they are at the fixture's lengths, and three else. */
static void expect_early(const char *kernels)
{
	tda_kernel *kernel = open_kernel_with(kernels);
	tda_forward_args args = good_arguments();
	int early = fake->early, launches = fake->launches;

	set_current(0);
	CHECK(tda_forward(kernel, &args, at(0x55)) == TDA_OK, "%s", tda_error_message());
	CHECK(fake->launches == launches + 5 && fake->early == early + 1, "%d launches, of them %d early, where some have no CTAs",
	      fake->launches - launches, fake->early - early);
	args.shape.q_len = args.shape.k_len = 65;
	CHECK(tda_forward(kernel, &args, at(0x55)) == TDA_OK, "%s", tda_error_message());
	CHECK(fake->early == early + 4 && fake->stream == at(0x55), "%d early of three", fake->early - early - 1);
	setenv("TDA_SERIAL", "1", 1);
	CHECK(tda_forward(kernel, &args, at(0x55)) == TDA_OK && fake->early == early + 4, "one by one: %d early", fake->early - early - 4);
	setenv("TDA_SERIAL", "0", 1);
	CHECK(tda_forward(kernel, &args, at(0x55)) == TDA_OK && fake->early == early + 7, "%d early again", fake->early - early - 4);
	unsetenv("TDA_SERIAL");
	tda_close(kernel);
}

/* Launches that are beside others start early, but not where those have no CTAs. */
static void test_beside(void)
{
	expect_early("//! kernel forward first 128 0 q_len-64\n"
	             "//! kernel forward second 128 0 1\n//! beside\n"
	             "//! kernel forward third 128 0 k_len/65\n//! beside\n"
	             "//! kernel forward fourth 64 0 7\n//! beside\n"
	             "//! kernel forward fifth 128 0 1\n");
}

/* One that follows starts early whichever launch of its phase is the last before it. What is beside it does not where it was left out: it
 * would not wait by itself. */
static void test_follows(void)
{
	expect_early("//! kernel forward first 128 0 1\n"
	             "//! kernel forward second 128 0 q_len-64\n//! follows\n"
	             "//! kernel forward third 128 0 1\n//! beside\n"
	             "//! kernel forward fourth 64 0 1\n//! follows\n");
}

enum { FORWARD_MAP = 5 };              /* that argument of the fixture's kernel forward is the map of k1 */

/* A call of a shape that has been before makes no map: it gives a copy of the one there is its own address. */
static void test_kept_maps(void)
{
	tda_kernel *kernel = open_kernel();
	tda_forward_args args = good_arguments();
	CUresult (*replace)(CUtensorMap *map, void *address) = cuda->cuTensorMapReplaceAddress;
	int maps = fake->maps, moved = fake->moved, launches;

	set_current(0);
	fake->map_argument = FORWARD_MAP;
	for (int n = 0; n < 4; n++) {
		args.k[0].data = at(n % 2 ? 0x1100000 : 0x1000000);
		CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && launched()[0] == (uintptr_t)args.k[0].data, "call %d: address", n);
		CHECK(launched()[1] == 64 && launched()[2] == 64, "call %d: entries", n);
	}
	CHECK(fake->maps == maps + 1 && fake->moved == moved + 2, "%d maps, %d moved", fake->maps - maps, fake->moved - moved);
	args.k[0].row_stride = 128;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->maps == maps + 2 && fake->map_stride[0] == 256, "other strides");
	cuda->cuTensorMapReplaceAddress = NULL;
	args.k[0].data = at(0x1200000);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->maps == maps + 3 && launched()[0] == 0x1200000,
	      "a driver that can't replace an address");
	cuda->cuTensorMapReplaceAddress = replace;
	set_current(1);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->maps == maps + 4, "another context's map was used");
	launches = fake->launches;
	args.shape.k_len = 32;
	fake->map_result = 1;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_CUDA_ERROR && fake->launches == launches, "launched without a map");
	CHECK_MESSAGE("argument 5 of kernel forward: cuTensorMapEncodeTiled: CUDA_ERROR_OTHER: something else");
	fake->map_result = 0;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && launched()[2] == 32, "after a map that was refused");
	args.shape.k_len = 0;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && tda_forward(kernel, &args, NULL) == TDA_OK && launched()[0] == 0,
	      "maps without entries");
	tda_close(kernel);
}

/* Ever new shapes: the launches are right, and old ones come back right. */
static void test_many_shapes(void)
{
	tda_kernel *kernel = open_kernel();
	tda_forward_args args = good_arguments();
	int maps = fake->maps;

	set_current(0);
	for (int n = 0; n < 3 * RECENT_SCHEDULES; n++) {
		args.shape.k_len = args.shape.q_len = n % RECENT_SCHEDULES < 8 ? 1 + n % 8 : 20 + n;
		CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && (int)launched()[2] == args.shape.k_len, "length %d: %s",
		      (int)args.shape.k_len, tda_error_message());
	}
	CHECK(fake->maps == maps + 8 + 3 * (RECENT_SCHEDULES - 8), "%d maps", fake->maps - maps);
	fake->map_argument = -1;
	tda_close(kernel);
}

/* Grids may depend on the device, which is asked once a context. */
static void test_multiprocessors(void)
{
	tda_kernel *kernel = open_kernel_with("//! kernel forward persistent 128 0 min(5*batch*heads,multiprocessors)\n");
	tda_forward_args args = good_arguments();

	set_current(0);
	fake->multiprocessors = 3;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->grid == 3, "%u CTAs, %s", fake->grid, tda_error_message());
	fake->multiprocessors = 4;
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->grid == 3, "%u CTAs: asked again", fake->grid);
	set_current(1);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->grid == 4, "%u CTAs in another context", fake->grid);
	fake->multiprocessors = 8;
	set_current(2);
	CHECK(tda_forward(kernel, &args, NULL) == TDA_OK && fake->grid == 5, "%u CTAs, of 5 that have work", fake->grid);
	CHECK(fake->forbidden == 0, "%d calls that allocate, copy or wait", fake->forbidden);
	tda_close(kernel);
}

enum { THREADS = 8, CALLS = 200 };

typedef struct Caller {
	tda_kernel *kernel;
	int context, failures;
} Caller;

static void *call_often(void *user)
{
	Caller *caller = user;
	tda_forward_args args = good_arguments();

	set_current(caller->context);
	for (int n = 0; n < CALLS; n++) {
		args.shape.k_len = 1 + (n + caller->context) % (RECENT_SCHEDULES + 2);
		args.k[0].data = at(0x1000000 + 0x10000 * (uintptr_t)(n % 5 + caller->context));
		caller->failures += tda_forward(caller->kernel, &args, NULL) != TDA_OK ||
		                    launched()[0] != (uintptr_t)args.k[0].data ||
		                    (int64_t)launched()[2] != args.shape.k_len;
		args.shape.heads = 0;
		caller->failures += tda_forward(caller->kernel, &args, NULL) != TDA_BAD_ARGUMENT ||
		                    strcmp(tda_error_message(), "shape.heads is 0: it must be in 1..2147483647") != 0;
		args.shape.heads = 1;
	}
	return NULL;
}

static void test_threads(void)
{
	Caller callers[THREADS];
	pthread_t threads[THREADS];
	int loads = fake->loads, launches = fake->launches;
	tda_kernel *kernel = open_kernel();

	fake->map_argument = FORWARD_MAP;
	for (int t = 0; t < THREADS; t++) {
		callers[t] = (Caller){ kernel, t % FAKE_CONTEXTS, 0 };
		pthread_create(&threads[t], NULL, call_often, &callers[t]);
	}
	for (int t = 0; t < THREADS; t++) {
		pthread_join(threads[t], NULL);
		CHECK(callers[t].failures == 0, "thread %d: %d failures", t, callers[t].failures);
	}
	CHECK(fake->loads == loads + FAKE_CONTEXTS, "%d loads in %d contexts", fake->loads - loads, FAKE_CONTEXTS);
	CHECK(fake->launches == launches + 2 * THREADS * CALLS, "%d launches", fake->launches - launches);
	tda_close(kernel);
}

int main(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	void *state = library ? dlsym(library, "fake_cuda") : NULL;
	void *setter = library ? dlsym(library, "fake_cuda_set_current") : NULL;
	void *reader = library ? dlsym(library, "fake_cuda_launched") : NULL;
	FakeCuda *(*get)(void);
	const Cuda *opened;

	if (!state || !setter || !reader || cuda_open(&opened)) {
		printf("the recording driver is not in LD_LIBRARY_PATH\n");
		return 2;
	}
	memcpy(&get, &state, sizeof(get));
	memcpy(&set_current, &setter, sizeof(set_current));
	memcpy(&launched, &reader, sizeof(launched));
	cuda = (Cuda *)opened;
	fake = get();
	test_contexts();
	test_refusals();
	test_maps();
	test_kept_maps();
	test_many_shapes();
	test_multiprocessors();
	test_beside();
	test_follows();
	test_threads();
	return fixture_result();
}
