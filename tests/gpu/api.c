/*
 * What tda.h promises of calls on a real GPU: they may be captured, come from several threads, go to several contexts,
 * never wait, launch nothing when refused, and reach tensors beyond 32-bit offsets and more rows than a grid's y.
 *
 *     gpu_api KERNEL.ptx...
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "api_case.h"
#include "call_time.h"
#include "error.h"

enum { EXIT_NO_GPU = 77 };

/* One run of a check. Its kernel is loaded nowhere yet. */
typedef struct Check {
	tda_kernel *kernel;
	bool skipped;                  /* note says why */
	char note[160];                /* printed after the check's name */
} Check;

static tda_status new_case(Case *c, tda_kernel *kernel, int64_t batch, int64_t heads, int64_t length, uint32_t seed)
{
	tda_status status = case_plan(c, kernel, batch, heads, heads % 2 ? heads : heads / 2, length);

	return status ? status : case_place(c, seed);
}

static tda_status new_stream(CUstream *stream)
{
	return driver_check(driver.cuStreamCreate(stream, STREAM_NON_BLOCKING), "cuStreamCreate");
}

static void drop_stream(CUstream stream)
{
	if (stream)
		driver.cuStreamDestroy(stream);
}

/* ---- graphs ---- */

static tda_status capture(const Case *c, CUstream stream, CUgraph *graph)
{
	tda_status status = driver_check(driver.cuStreamBeginCapture(stream, CAPTURE_GLOBAL), "cuStreamBeginCapture");
	tda_status launched;

	if (status)
		return status;
	if ((launched = case_launch(c, stream))) {
		driver.cuStreamEndCapture(stream, graph);
		return launched;
	}
	return driver_check(driver.cuStreamEndCapture(stream, graph), "cuStreamEndCapture");
}

static tda_status launch_graph(const Case *c, CUgraphExec exec, CUstream stream, const unsigned char *eager)
{
	tda_status status = TDA_OK;

	for (int launch = 0; launch < 2 && !status; launch++)
		if (!(status = case_poison(c, stream)) &&
		    !(status = driver_check(driver.cuGraphLaunch(exec, stream), "cuGraphLaunch")))
			status = case_same(c, stream, eager, case_output_bytes(c), launch ? "second launch" : "first launch");
	return status;
}

static tda_status check_graph(Check *check)
{
	CUstream stream = NULL;
	CUgraph graph = NULL;
	CUgraphExec exec = NULL;
	unsigned char *eager = NULL;
	size_t nodes = 0;
	Case c = {0};
	tda_status status;

	if (!(status = new_case(&c, check->kernel, 2, 4, 300, 1)) && !(status = new_stream(&stream)) &&
	    !(status = tda_preload(check->kernel)) && !(status = case_poison(&c, stream)) &&
	    !(status = capture(&c, stream, &graph)) && !(status = case_untouched(&c, stream, "capturing")) &&
	    !(status = driver_check(driver.cuGraphGetNodes(graph, NULL, &nodes), "cuGraphGetNodes")) &&
	    !(status = driver_check(driver.cuGraphInstantiate(&exec, graph, 0), "cuGraphInstantiate")) &&
	    !(status = case_run(&c, stream, &eager)))
		status = launch_graph(&c, exec, stream, eager);
	snprintf(check->note, sizeof(check->note), "%zu nodes", nodes);
	if (exec)
		driver.cuGraphExecDestroy(exec);
	if (graph)
		driver.cuGraphDestroy(graph);
	free(eager);
	case_free(&c);
	drop_stream(stream);
	return status;
}

/* ---- threads ---- */

enum { THREADS = 2, ROUNDS = 40 };

typedef struct Caller {
	Case c;
	CUcontext context;
	CUstream stream;
	unsigned char *alone;
	tda_status status;
	char message[512];             /* tda_error_message is of the thread that failed */
} Caller;

static void *call_often(void *user)
{
	Caller *caller = user;
	tda_status status = driver_check(cuda->cuCtxPushCurrent(caller->context), "cuCtxPushCurrent");

	for (int round = 0; round < ROUNDS && !status; round++)
		if (!(status = case_poison(&caller->c, caller->stream)) && !(status = case_launch(&caller->c, caller->stream)))
			status = case_same(&caller->c, caller->stream, caller->alone, case_output_bytes(&caller->c), "two threads");
	caller->status = status;
	if (status)
		snprintf(caller->message, sizeof(caller->message), "%s", tda_error_message());
	return NULL;
}

static tda_status call_together(Caller callers[THREADS])
{
	pthread_t threads[THREADS];
	int started = 0;
	tda_status status;

	while (started < THREADS && pthread_create(&threads[started], NULL, call_often, &callers[started]) == 0)
		started++;
	status = started == THREADS ? TDA_OK : tda_fail(TDA_INTERNAL, "a thread can't be made");
	for (int t = 0; t < started; t++) {
		pthread_join(threads[t], NULL);
		if (callers[t].status)
			status = tda_fail(callers[t].status, "thread %d: %s", t, callers[t].message);
	}
	return status;
}

static tda_status check_threads(Check *check)
{
	Caller callers[THREADS] = {0};
	CUcontext context;
	tda_status status = driver_check(cuda->cuCtxGetCurrent(&context), "cuCtxGetCurrent");

	for (int t = 0; t < THREADS && !status; t++) {
		callers[t].context = context;
		if (!(status = new_stream(&callers[t].stream)) &&
		    !(status = new_case(&callers[t].c, check->kernel, 2, 4, 384 + 128 * t, 2 + (uint32_t)t)))
			status = case_run(&callers[t].c, callers[t].stream, &callers[t].alone);
	}
	if (!status)
		status = call_together(callers);
	snprintf(check->note, sizeof(check->note), "%d threads, %d rounds each", THREADS, ROUNDS);
	for (int t = 0; t < THREADS; t++) {
		case_free(&callers[t].c);
		free(callers[t].alone);
		drop_stream(callers[t].stream);
	}
	return status;
}

/* ---- contexts ---- */

/* The case of check_contexts in the current context; *bits is what it wrote. */
static tda_status run_here(tda_kernel *kernel, unsigned char **bits, size_t *bytes)
{
	CUstream stream = NULL;
	Case c = {0};
	tda_status status;

	if (!(status = new_case(&c, kernel, 1, 4, 200, 4)) && !(status = new_stream(&stream)))
		status = case_run(&c, stream, bits);
	*bytes = status ? 0 : case_output_bytes(&c);
	case_free(&c);
	drop_stream(stream);
	return status;
}

static tda_status same_here(tda_kernel *kernel, const unsigned char *want, const char *what)
{
	unsigned char *bits = NULL;
	size_t bytes;
	tda_status status = run_here(kernel, &bits, &bytes);

	if (!status && memcmp(bits, want, bytes) != 0)
		status = tda_fail(TDA_INTERNAL, "other bits than in the first context");
	free(bits);
	return status ? tda_fail_within(status, "%s: ", what) : TDA_OK;
}

/* Twice, so that a module of a dead context is not taken for a new context's. */
static tda_status in_made_contexts(tda_kernel *kernel, const unsigned char *want)
{
	tda_status status = TDA_OK;

	for (int n = 0; n < 2 && !status; n++) {
		CUcontext context;

		if ((status = driver_check(driver.cuCtxCreate(&context, 0, 0), "cuCtxCreate")))
			return status;
		status = same_here(kernel, want, n ? "a context made after another's end" : "a context of its own");
		driver.cuCtxDestroy(context);          /* it is no longer current, the one before is */
		if (!status)
			status = same_here(kernel, want, "the first context again");
	}
	return status;
}

static tda_status on_second_gpu(tda_kernel *kernel, const unsigned char *want)
{
	CUcontext context, previous;
	tda_status status;

	if ((status = driver_check(cuda->cuDevicePrimaryCtxRetain(&context, 1), "cuDevicePrimaryCtxRetain")))
		return status;
	if (!(status = driver_check(cuda->cuCtxPushCurrent(context), "cuCtxPushCurrent"))) {
		status = same_here(kernel, want, "the second GPU");
		cuda->cuCtxPopCurrent(&previous);
	}
	if (!status)
		status = same_here(kernel, want, "the first GPU again");
	cuda->cuDevicePrimaryCtxRelease(1);
	return status;
}

static tda_status check_contexts(Check *check)
{
	unsigned char *want = NULL;
	size_t bytes;
	int gpus = 1;
	tda_status status;

	if (!(status = driver_check(cuda->cuDeviceGetCount(&gpus), "cuDeviceGetCount")) &&
	    !(status = run_here(check->kernel, &want, &bytes)) &&
	    !(status = in_made_contexts(check->kernel, want)) && gpus > 1)
		status = on_second_gpu(check->kernel, want);
	snprintf(check->note, sizeof(check->note), "3 contexts on one GPU%s", gpus > 1 ? ", and a second GPU" : "");
	free(want);
	return status;
}

/* ---- time of a call ---- */

enum { AHEAD = 10 };                   /* launches of the large case that keep the stream busy */
static const double own_bound = 8;     /* microseconds of libtda's own in a call */

/* Milliseconds of work, then a small call behind it: were anything to wait, the stream would be idle afterwards. */
static tda_status check_still_busy(const Case *large, const Case *small, CUstream stream)
{
	CUresult state;
	tda_status status = TDA_OK;

	for (int n = 0; n < AHEAD && !status; n++)
		status = case_launch(large, stream);
	if (status || (status = case_launch(small, stream)))
		return status;
	state = driver.cuStreamQuery(stream);
	if (state == 0)
		return tda_fail(TDA_INTERNAL, "the stream was idle when the calls returned: one of them waited");
	return state == CUDA_NOT_READY ? TDA_OK : driver_check(state, "cuStreamQuery");
}

static tda_status check_own(double own, const char *call)
{
	if (own <= own_bound)
		return TDA_OK;
	return tda_fail(TDA_INTERNAL, "libtda's own part of a %s takes %.1f us, more than %g", call, own, own_bound);
}

static tda_status check_time(Check *check)
{
	Case small = {0}, large = {0};
	CUstream stream = NULL;
	CallTimes times = {0};
	tda_status status;

	if (!(status = new_case(&small, check->kernel, 1, 16, 128, 5)) && !(status = new_stream(&stream)) &&
	    !(status = new_case(&large, check->kernel, 2, 16, 2048, 6)) && !(status = tda_preload(check->kernel)) &&
	    !(status = call_times(&small, stream, &times)) && !(status = check_own(times.own_forward, "forward")) &&
	    !(status = check_own(times.own_backward, "backward")))
		status = check_still_busy(&large, &small, stream);
	snprintf(check->note, sizeof(check->note), "a call takes the host %.1f us forward, %.1f us backward; of it libtda's own: "
	         "%.1f, %.1f", times.forward, times.backward, times.own_forward, times.own_backward);
	if (stream)
		driver.cuStreamSynchronize(stream);
	case_free(&large);
	case_free(&small);
	drop_stream(stream);
	return status;
}

/* ---- refusals ---- */

static void null_q1(tda_forward_args *f, tda_backward_args *b)
{
	f->q[0].data = b->q[0].data = NULL;
}

static void odd_stride(tda_forward_args *f, tda_backward_args *b)
{
	f->k[0].row_stride += 1;
	b->k[0].row_stride += 1;
}

static void small_workspace(tda_forward_args *f, tda_backward_args *b)
{
	f->saved_bytes -= f->saved_bytes > 0;
	f->scratch_bytes -= f->scratch_bytes > 0;
	b->scratch_bytes -= b->scratch_bytes > 0;
}

static void misaligned(tda_forward_args *f, tda_backward_args *b)
{
	f->v.data = b->v.data = (char *)f->v.data + 8;
}

static void aliased(tda_forward_args *f, tda_backward_args *b)
{
	f->o.data = f->q[0].data;
	b->dv.data = b->v.data;
}

static void uneven_heads(tda_forward_args *f, tda_backward_args *b)
{
	f->shape.kv_heads = b->shape.kv_heads = 3;
}

static const struct Refusal {
	const char *what;
	void (*spoil)(tda_forward_args *f, tda_backward_args *b);
	const char *forward, *backward;        /* the message must hold these */
} refusals[] = {
	{ "a null pointer for q1", null_q1, "q1: ", "q1: " },
	{ "a stride that is no multiple of 16 bytes", odd_stride, "k1.row_stride", "k1.row_stride" },
	{ "too small a workspace", small_workspace, "_bytes is ", "scratch_bytes is " },
	{ "a misaligned pointer", misaligned, "v: the address", "v: the address" },
	{ "an output on top of an input", aliased, "o overlaps q1", "dv overlaps v" },
	{ "kv_heads that do not divide heads", uneven_heads, "shape.kv_heads", "shape.kv_heads" },
};

static tda_status check_refusal(tda_status got, const char *words, const char *call, const char *what)
{
	char message[512];

	if (got == TDA_OK)
		return tda_fail(TDA_INTERNAL, "%s with %s was accepted", call, what);
	snprintf(message, sizeof(message), "%s", tda_error_message());
	if (got == TDA_BAD_ARGUMENT && strstr(message, words))
		return TDA_OK;
	return tda_fail(TDA_INTERNAL, "%s with %s: %s: \"%s\" does not hold \"%s\"", call, what, tda_status_name(got), message,
	                words);
}

/* What spoil left as it was is not called: a kernel without workspaces can't be given too small a one. */
static tda_status refuse(const Case *c, const struct Refusal *r, CUstream stream)
{
	const tda_forward_args good_forward = case_forward_args(c);
	const tda_backward_args good_backward = case_backward_args(c);
	tda_forward_args forward;
	tda_backward_args backward;
	tda_status status = TDA_OK;

	memcpy(&forward, &good_forward, sizeof(forward));
	memcpy(&backward, &good_backward, sizeof(backward));
	r->spoil(&forward, &backward);
	if (memcmp(&forward, &good_forward, sizeof(forward)) != 0)
		status = check_refusal(tda_forward(c->kernel, &forward, stream), r->forward, "a forward", r->what);
	if (!status && memcmp(&backward, &good_backward, sizeof(backward)) != 0)
		status = check_refusal(tda_backward(c->kernel, &backward, stream), r->backward, "a backward", r->what);
	return status ? status : case_untouched(c, stream, r->what);
}

static tda_status check_refusals(Check *check)
{
	const size_t count = sizeof(refusals) / sizeof(refusals[0]);
	CUstream stream = NULL;
	unsigned char *bits = NULL;
	Case c = {0};
	tda_status status;

	if (!(status = new_case(&c, check->kernel, 1, 4, 100, 7)) && !(status = new_stream(&stream)) &&
	    !(status = tda_preload(check->kernel)))
		status = case_poison(&c, stream);
	for (size_t r = 0; r < count && !status; r++)
		status = refuse(&c, &refusals[r], stream);
	if (!status)
		status = case_run(&c, stream, &bits);          /* and the arguments were good but for that */
	snprintf(check->note, sizeof(check->note), "%zu rules, forward and backward", count);
	free(bits);
	case_free(&c);
	drop_stream(stream);
	return status;
}

/* ---- large tensors ---- */

/* Sets skipped where the GPU has not that much free, and some to spare. */
static tda_status has_memory(Check *check, size_t bytes)
{
	const size_t spare = (size_t)1 << 29;
	size_t available = 0, total;
	tda_status status = driver_check(driver.cuMemGetInfo(&available, &total), "cuMemGetInfo");

	check->skipped = !status && available < bytes + spare;
	if (check->skipped)
		snprintf(check->note, sizeof(check->note), "%zu MiB are needed, %zu MiB are free", (bytes + spare) >> 20,
		         available >> 20);
	return status;
}

static tda_status check_stride(Check *check, const Case *packed, int64_t stride, const unsigned char *want,
                               CUstream stream)
{
	char what[64];
	Case c;
	tda_status status = case_plan(&c, check->kernel, packed->shape.batch, packed->shape.heads, packed->shape.kv_heads,
	                              packed->shape.q_len);

	if (status || (status = has_memory(check, (size_t)(stride * case_element(&c)) + case_bytes(&c))) || check->skipped)
		return status;
	snprintf(what, sizeof(what), "batch_stride %lld", (long long)stride);
	if (!(status = case_place_wide(&c, packed, stride)) && !(status = case_poison(&c, stream)) &&
	    !(status = case_launch(&c, stream)))
		status = case_same(&c, stream, want, case_output_bytes(&c), what);
	case_free(&c);
	return status;
}

/* Offsets that need 32 and 33 bits as elements: one turns negative in an int32, the other wraps a uint32. */
static tda_status check_strides(Check *check)
{
	static const int64_t strides[] = { ((int64_t)1 << 31) + 65536, ((int64_t)1 << 32) + 65536 };
	CUstream stream = NULL;
	unsigned char *bits = NULL;
	Case packed = {0};
	tda_status status;

	if (!(status = new_case(&packed, check->kernel, 2, 2, 200, 8)) && !(status = new_stream(&stream)))
		status = case_run(&packed, stream, &bits);
	snprintf(check->note, sizeof(check->note), "%lld and %lld elements", (long long)strides[0], (long long)strides[1]);
	for (int s = 0; s < 2 && !status && !check->skipped; s++)
		status = check_stride(check, &packed, strides[s], bits, stream);
	free(bits);
	case_free(&packed);
	drop_stream(stream);
	return status;
}

enum { MANY_BATCHES = 8750, MANY_HEADS = 8, MANY_LENGTH = 16, PART = 1250 };   /* 70000 heads, in 7 parts of 10000 */

/* The same problem, PART batch entries at a time. Gradients of parameters are sums over the batch: not asked for. */
static tda_status launch_parts(const Case *whole, CUstream stream)
{
	tda_status status = TDA_OK;

	for (int64_t first = 0; first < whole->shape.batch && !status; first += PART) {
		Case part = *whole;

		part.shape.batch = PART;
		for (int t = 0; t < TENSOR_COUNT; t++)
			if (part.slice[t])
				part.tensor[t].data = (char *)whole->tensor[t].data + (size_t)first * whole->slice[t];
		memset(part.dparam, 0, sizeof(part.dparam));
		status = case_launch(&part, stream);
	}
	return status;
}

static tda_status check_heads(Check *check)
{
	CUstream stream = NULL;
	unsigned char *bits = NULL;
	Case c = {0};
	tda_status status = case_plan(&c, check->kernel, MANY_BATCHES, MANY_HEADS, MANY_HEADS, MANY_LENGTH);

	if (status || (status = has_memory(check, case_bytes(&c))) || check->skipped)
		return status;
	if (!(status = case_place(&c, 9)) && !(status = new_stream(&stream)) && !(status = case_run(&c, stream, &bits)) &&
	    !(status = case_poison(&c, stream)) && !(status = launch_parts(&c, stream)))
		status = case_same(&c, stream, bits, case_tensor_output_bytes(&c), "in parts");
	snprintf(check->note, sizeof(check->note), "%d heads, against parts of %d", MANY_BATCHES * MANY_HEADS,
	         PART * MANY_HEADS);
	free(bits);
	case_free(&c);
	drop_stream(stream);
	return status;
}

/* ---- all of them ---- */

static const struct {
	const char *name;
	tda_status (*run)(Check *check);
} checks[] = {
	{ "captured into a graph", check_graph },
	{ "two threads", check_threads },
	{ "several contexts", check_contexts },
	{ "no call waits", check_time },
	{ "refused calls launch nothing", check_refusals },
	{ "batch strides beyond 2^31", check_strides },
	{ "more than 65535 heads", check_heads },
};

enum Outcome { PASSED, FAILED, SKIPPED, OUTCOMES };

static enum Outcome run_check(const char *path, size_t n)
{
	static const char *const words[OUTCOMES] = { "ok", "FAIL", "skip" };
	Check check = {0};
	tda_status status = tda_open_file(path, &check.kernel);
	tda_info info = TDA_INFO_INIT;
	enum Outcome outcome;

	if (!status && !(status = tda_get_info(check.kernel, &info)))
		status = checks[n].run(&check);
	outcome = status ? FAILED : check.skipped ? SKIPPED : PASSED;
	printf("%-5s %-12s %-30s %s\n", words[outcome], info.name ? info.name : path, checks[n].name,
	       status ? tda_error_message() : check.note);
	fflush(stdout);
	tda_close(check.kernel);
	return outcome;
}

int main(int argc, char **argv)
{
	char name[96] = "";
	tda_status status = driver_open(name, sizeof(name));
	int count[OUTCOMES] = {0};

	if (status == TDA_NO_DRIVER || status == TDA_NO_DEVICE) {
		printf("no GPU: %s\n", tda_error_message());
		return EXIT_NO_GPU;
	}
	if (status) {
		printf("%s\n", tda_error_message());
		return 1;
	}
	if (argc < 2) {
		printf("usage: gpu_api KERNEL.ptx...\n");
		return 2;
	}
	printf("%s\n", name);
	for (int a = 1; a < argc; a++)
		for (size_t n = 0; n < sizeof(checks) / sizeof(checks[0]); n++)
			count[run_check(argv[a], n)]++;
	if (count[SKIPPED])
		printf("%d skipped\n", count[SKIPPED]);
	printf("%d passed, %d failed\n", count[PASSED], count[FAILED]);
	return count[FAILED] != 0;
}
