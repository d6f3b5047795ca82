/* Damaged PTX is refused or runs into a report; it never crashes, hangs or leaks (run under the sanitizers). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

enum { MUTANTS = 1500, K = 32, ROW = 256, LARGEST = 4096 /* bytes of a parameter */ };

/* True when the text loads; what loads is run too, whatever it now does. */
static bool try_text(const char *text, size_t length)
{
	Sim *sim = sim_new();
	SimModule *module = sim_load(sim, text, length);
	if (module) {
		void *a = sim_alloc(sim, 64 * K * 2), *b = sim_alloc(sim, 32 * K * 2), *c = sim_alloc(sim, 64 * 32 * 4);
		uint64_t k = K;
		const void *params[64] = { &a, &b, &c, &k };
		uint64_t zero[512] = { 0 };
		for (int i = 4; i < 64; i++)
			params[i] = zero;
		const uint32_t grid[3] = { 1, 1, 1 }, block[3] = { 128, 1, 1 };
		sim_fill(sim, a, 0, 64 * K * 2);
		sim_fill(sim, b, 0, 32 * K * 2);
		if (sim_launch(sim, module, "matmul", grid, block, 6144, params) != 0)
			check(sim_error(sim)[0] != 0, "a failed launch without a text");
	} else {
		check(sim_error(sim)[0] != 0, "a refused module without a text");
	}
	sim_free(sim);
	return module != NULL;
}

/* The same with pipeline.ptx. */
static bool try_pipeline(const char *text, size_t length)
{
	static union { SimTensorMap map; uint64_t number; uint8_t bytes[LARGEST]; } params[4];
	const void *pointers[64];
	const uint32_t grid[3] = { 1, 1, 1 }, block[3] = { 256, 1, 1 }, box[] = { 64, 64 }, ones[] = { 1, 1 };
	const uint64_t sizes[] = { ROW / 2, 64 }, strides[] = { ROW };
	Sim *sim = sim_new();
	SimModule *module = sim_load(sim, text, length);
	for (int i = 0; i < 64; i++)
		pointers[i] = &params[i % 4];
	for (int i = 0; i < 2 && module; i++) {
		void *rows = sim_alloc(sim, 64 * ROW);
		sim_fill(sim, rows, 0, 64 * ROW);
		check(sim_tensor_map(sim, &params[i].map, 9, 2, rows, sizes, strides, box, ones, 3) == 0, "%s", sim_error(sim));
	}
	params[2].number = module ? (uint64_t)(uintptr_t)sim_alloc(sim, 64 * 64 * 4) : 0;
	params[3].number = 2;
	if (!module || sim_launch(sim, module, "product_bf16", grid, block, 32768, pointers) != 0)
		check(sim_error(sim)[0] != 0, "a failure without a text");
	sim_free(sim);
	return module != NULL;
}

static void mutate(char *text, size_t length)
{
	static const char alphabet[] = "{}[]()<>,;:@!|+-.%$_\"/*0123456789abcdefx \n";
	int changes = 1 + (int)(random_bits() % 2);
	for (int i = 0; i < changes; i++) {
		size_t at = random_bits() % length, from = random_bits() % length, n = 1 + random_bits() % 20;
		switch (random_bits() % 4) {
		case 0: text[at] = alphabet[random_bits() % (sizeof alphabet - 1)]; break;
		case 1: text[at] = (char)random_bits(); break;
		case 2:
			if (at + n < length && from + n < length)
				memmove(text + at, text + from, n);
			break;
		default: memset(text + at, ' ', at + n < length ? n : 1); break;
		}
	}
}

static const char *const refused[] = {
	".version 8.0\n.entry k() { .reg .b32 %r<999999999>; }",
	".version 8.0\n.entry k() { .reg .b32 %r<400000>; .reg .b64 %x<400000>; }",
	".version 8.0\n.shared .b8 x[99999999999];",
	".version 8.0\n.global .b32 x[2] = { 1, 2, 3 };",
	".version 8.0\n.entry k() { .shared .b8 x[300000]; .reg .b32 %r1; mov.u32 %r1, x; }",
	".version 8.0\n.entry k() { X: X: ret; }",
	".version 8.0\n.entry k() { ret; } .entry k() { ret; }",
	".version 8.0\n.func f() { ret; }",
	".version 8.0\n.entry k(.param .b8 x[5000]) { ret; }",
	".version 8.0\n.entry k() { /* never closed",
	"{{{{",
};

static void test_mutants(const char *text, size_t length, bool (*try)(const char *text, size_t length))
{
	char *copy = malloc(length + 1);
	size_t loaded = 0;
	for (int i = 0; i < MUTANTS; i++) {
		memcpy(copy, text, length + 1);
		mutate(copy, length);
		loaded += try(copy, length);
	}
	printf("%zu of %d mutants loaded\n", loaded, MUTANTS);
	check(loaded > 0 && loaded < MUTANTS, "mutants are all alike");
	free(copy);
}

int main(void)
{
	size_t length, pipeline_length;
	char *text = read_text(SOURCE_DIR "/matmul.ptx", &length), *pipeline = read_text(SOURCE_DIR "/pipeline.ptx",
		&pipeline_length);
	if (!text || !pipeline) {
		printf("matmul.ptx or pipeline.ptx can't be read\n");
		return 1;
	}
	char *copy = malloc(length + 1);
	check(try_text(text, length), "the kernel itself does not load");
	/* A header alone is a module without kernels; of a kernel nothing may be missing but the last newline. */
	size_t header = (size_t)(strstr(text, ".visible") - text);
	for (size_t cut = 0; cut + 2 < length; cut += 37)
		if (cut > header)
			check(!try_text(text, cut), "the first %zu of %zu bytes load", cut, length);
		else
			try_text(text, cut);
	test_mutants(text, length, try_text);
	test_mutants(pipeline, pipeline_length, try_pipeline);
	for (int i = 0; i < 200; i++) {
		size_t n = random_bits() % 2000;
		for (size_t k = 0; k < n && k < length; k++)
			copy[k] = (char)random_bits();
		check(!try_text(copy, n < length ? n : length), "noise loads");
	}
	check(!try_text("", 0), "nothing loads");
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		check(!try_text(refused[i], strlen(refused[i])), "this loads: %s", refused[i]);
	free(copy);
	free(pipeline);
	free(text);
	return tests_done();
}
