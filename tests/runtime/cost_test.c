/*
 * How much a call of libtda does on the host, beside what the driver does: instructions of a forward and of a backward, counted
 * one by one on a driver that does nothing, which unlike their time are the same whatever else the machine does. The shape is a
 * small one of which calls have been before, as in a training step; the file has both plans, with tensor maps.
 *
 * cost_test TDAGEN SPEC
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../screen/compiled.h"
#include "fake_cuda.h"
#include "fixture.h"

enum { EXIT_SKIPPED = 77, HEADS = 16, LENGTH = 128, DIM = 64, TIMED = 1000 };
/* Half as much again as gcc 12's code for x86-64 takes. */
enum { MOST_FORWARD = 12000, MOST_BACKWARD = 20000 };

static tda_kernel *kernel;
static tda_forward_args forward = TDA_FORWARD_ARGS_INIT;
static tda_backward_args backward = TDA_BACKWARD_ARGS_INIT;
static void *queries[2];               /* of the first view, in turns: addresses differ from call to call */

/* ---- calls ---- */

/* Made-up device memory. */
static void *memory(size_t bytes)
{
	static uintptr_t next = 0x10000000;
	uintptr_t address = next;

	next += (bytes + 511) / 256 * 256;
	return (void *)address;
}

/* As models have them: [batch, length, heads, dim] in memory. */
static tda_tensor tensor(void)
{
	return (tda_tensor){ memory(HEADS * LENGTH * DIM * 2), HEADS * LENGTH * DIM, DIM, HEADS * DIM };
}

static void place_arguments(void)
{
	tda_sizes sizes = TDA_SIZES_INIT;

	forward.shape.batch = 1;
	forward.shape.heads = forward.shape.kv_heads = HEADS;
	forward.shape.q_len = forward.shape.k_len = LENGTH;
	backward.shape = forward.shape;
	CHECK(tda_get_sizes(kernel, &forward.shape, &sizes) == TDA_OK, "%s", tda_error_message());
	for (int v = 0; v < 2; v++) {
		backward.q[v] = forward.q[v] = tensor();
		backward.k[v] = forward.k[v] = tensor();
		backward.dq[v] = tensor();
		backward.dk[v] = tensor();
	}
	backward.v = forward.v = tensor();
	forward.o = tensor();
	backward.grad_o = tensor();
	backward.dv = tensor();
	queries[0] = forward.q[0].data;
	queries[1] = tensor().data;
	for (int p = 0; p < 2; p++) {
		backward.params[p] = forward.params[p] = memory(HEADS * sizeof(float));
		backward.dparams[p] = memory(HEADS * sizeof(float));
	}
	backward.saved = forward.saved = memory(sizes.saved);
	backward.saved_bytes = forward.saved_bytes = sizes.saved;
	forward.scratch = memory(forward.scratch_bytes = sizes.forward_scratch);
	backward.scratch = memory(backward.scratch_bytes = sizes.backward_scratch);
}

static void call_nothing(void)
{
}

static void call_forward(void)
{
	forward.q[0].data = queries[forward.q[0].data == queries[0]];
	if (tda_forward(kernel, &forward, NULL))
		_exit(1);
}

static void call_backward(void)
{
	backward.q[0].data = queries[backward.q[0].data == queries[0]];
	if (tda_backward(kernel, &backward, NULL))
		_exit(1);
}

/* ---- counting ---- */

/* In a process of its own, which stops before and after. */
static void run_stopped(void (*call)(void))
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		_exit(EXIT_SKIPPED);
	raise(SIGSTOP);
	call();
	raise(SIGSTOP);
	_exit(0);
}

/* Steps of a process from one stop to the next; -1 where it can't be traced, or its call fails. */
static long count_steps(void (*call)(void))
{
	pid_t process = fork();
	long steps = 0;
	int state;

	if (process == 0)
		run_stopped(call);
	if (process < 0 || waitpid(process, &state, 0) < 0 || !WIFSTOPPED(state))
		return -1;
	do {
		steps++;
		if (ptrace(PTRACE_SINGLESTEP, process, NULL, NULL) || waitpid(process, &state, 0) < 0)
			break;
	} while (WIFSTOPPED(state) && WSTOPSIG(state) == SIGTRAP);
	steps = WIFSTOPPED(state) && WSTOPSIG(state) == SIGSTOP ? steps : -1;
	kill(process, SIGKILL);
	waitpid(process, &state, 0);
	return steps;
}

static double microseconds(void (*call)(void))
{
	struct timespec start, end;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int n = 0; n < TIMED; n++)
		call();
	clock_gettime(CLOCK_MONOTONIC, &end);
	return ((double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) * 1e-3) / TIMED;
}

static void measure(const char *name, void (*call)(void), long nothing, long most)
{
	double us = microseconds(call);        /* and everything is loaded and known */
	long steps = count_steps(call);

	if (CHECK(steps > nothing, "a %s could not be counted", name))
		printf("%-9s %6ld instructions, at most %ld; %.2f us here\n", name, steps - nothing, most, us);
	CHECK(steps - nothing <= most, "a %s takes %ld instructions, more than %ld", name, steps - nothing, most);
}

/* The driver that does nothing takes this for a GPU of compute capability 9.0. */
static bool open_fake(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	void *state = library ? dlsym(library, "fake_cuda") : NULL, *setter = library ? dlsym(library, "fake_cuda_set_current") : NULL;
	FakeCuda *(*get)(void);
	void (*set_current)(int n);

	if (!state || !setter)
		return false;
	memcpy(&get, &state, sizeof(get));
	memcpy(&set_current, &setter, sizeof(set_current));
	get()->capability = 90;
	set_current(0);
	return true;
}

int main(int argc, char **argv)
{
	long nothing;

	if (argc != 3 || !open_fake()) {
		printf("usage: cost_test TDAGEN SPEC, with the recording driver in LD_LIBRARY_PATH\n");
		return 2;
	}
	nothing = count_steps(call_nothing);
	if (nothing < 0) {
		printf("skipped: processes can't be traced here\n");
		return EXIT_SKIPPED;
	}
	kernel = compiled_kernel(argv[1], argv[2], "--target sm_90a");
	if (kernel) {
		place_arguments();
		measure("forward", call_forward, nothing, MOST_FORWARD);
		measure("backward", call_backward, nothing, MOST_BACKWARD);
	}
	tda_close(kernel);
	return fixture_result();
}
