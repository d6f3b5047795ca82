/*
 * sim_hw [--sim | --record FILE | --compare FILE]
 *
 * Runs every case on GPU 0 and on the simulator with the same inputs and prints how far they are apart: bit-exact
 * results, the largest distance in units of the last place, and the largest difference relative to the case's
 * largest result.
 *   --sim          the simulator alone: do the cases run?
 *   --record FILE  also writes inputs and the GPU's results of one CTA a case, for --compare on machines without one
 *   --compare FILE the simulator against such a record
 * Exit status 0: all within the bounds of hw_cases.c; 1: not, or the GPU that is there failed; 2: no GPU, or wrong
 * usage.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hw.h"
#include "sim.h"
#include "tda.h"

typedef struct Distance { size_t words, exact, beyond; double ulps, relative; size_t worst; } Distance;

static double value_of(uint32_t bits, Kind kind)
{
	float x;
	if (kind == KIND_F16X2) {
		int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
		double y = exponent == 31 ? (mantissa ? NAN : INFINITY)
			: exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
		return bits & 0x8000 ? -y : y;
	}
	if (kind == KIND_BF16X2)
		bits <<= 16;
	memcpy(&x, &bits, sizeof x);
	return x;
}

/* Encodings in order of their values: neighbours differ by 1. */
static int64_t ordered(uint32_t bits, Kind kind)
{
	uint32_t sign = kind == KIND_F32 ? 0x80000000 : 0x8000, magnitude = bits & (sign - 1);
	return bits & sign ? -(int64_t)magnitude : (int64_t)magnitude;
}

static void compare_word(Distance *d, const HwCase *c, uint32_t got, uint32_t want, double largest, size_t index)
{
	int parts = c->kind == KIND_F16X2 || c->kind == KIND_BF16X2 ? 2 : 1;
	d->words++;
	d->exact += got == want;
	bool beyond = false;
	for (int part = 0; part < parts && got != want; part++) {
		uint32_t mask = parts == 2 ? 0xffff : UINT32_MAX, g = got >> 16 * part & mask, w = want >> 16 * part & mask;
		double x = value_of(g, c->kind), y = value_of(w, c->kind);
		if (g == w || (c->kind != KIND_BITS && x != x && y != y))
			continue;
		double ulps = c->kind == KIND_BITS || x != x || y != y ? INFINITY
			: fabs((double)(ordered(g, c->kind) - ordered(w, c->kind)));
		double relative = c->kind == KIND_BITS || x != x || y != y ? INFINITY : fabs(x - y) / largest;
		if (ulps > d->ulps)
			d->worst = index;
		d->ulps = fmax(d->ulps, ulps);
		d->relative = fmax(d->relative, relative);
		beyond |= ulps > c->ulps && !(relative <= c->relative);
	}
	d->beyond += beyond;
}

static Distance compare(const HwCase *c, const uint32_t *got, const uint32_t *want, size_t words)
{
	Distance d = { 0 };
	double largest = 1e-30;
	for (size_t i = 0; i < words; i++) {
		double x = fabs(value_of(want[i] & (c->kind == KIND_F32 ? UINT32_MAX : 0xffff), c->kind));
		if (c->kind != KIND_BITS && isfinite(x) && x > largest)
			largest = x;
	}
	for (size_t i = 0; i < words; i++)
		compare_word(&d, c, got[i], want[i], largest, i);
	return d;
}

static bool print_row(const HwCase *c, const Distance *d, const uint32_t *in, const uint32_t *got, const uint32_t *want)
{
	printf("%-32s %8zu %8zu %9.3g %9.2g  %s\n", c->name, d->words, d->exact, d->ulps, d->relative,
		d->beyond ? "BEYOND ITS BOUND" : "ok");
	if (d->beyond) {
		size_t thread = d->worst / (size_t)c->n_out, n_in = strlen(c->inputs);
		printf("    %zu words; worst: thread %zu word %zu: simulator %08" PRIx32 ", hardware %08" PRIx32 ", inputs",
			d->beyond,
			thread, d->worst % (size_t)c->n_out, got[d->worst], want[d->worst]);
		for (size_t i = 0; i < n_in; i++)
			printf(" %08" PRIx32, in[thread * n_in + i]);
		printf("\n");
	}
	return d->beyond == 0;
}

static bool encode(Sim *sim, SimTensorMap *map, const HwBox *box, void *base)
{
	const uint32_t ones[MAP_RANK] = { 1, 1, 1 };
	uint64_t sizes[MAP_RANK], strides[MAP_RANK - 1];
	for (unsigned d = 0; box && d < box->rank; d++)
		sizes[d] = box->sizes[d];
	for (unsigned d = 0; box && d + 1 < box->rank; d++)
		strides[d] = box->strides[d];
	return !box || box->rank == 0 || sim_tensor_map(sim, map, box->type, box->rank, base, sizes, strides, box->box, ones,
		box->swizzle) == 0;
}

static bool sim_run(const char *text, const HwBox *box, const uint32_t *in, size_t in_bytes, uint32_t *out, size_t out_bytes,
	uint32_t ctas, uint32_t threads, char *error, size_t error_size)
{
	Sim *sim = sim_new();
	void *from = sim ? sim_alloc(sim, in_bytes) : NULL, *to = sim ? sim_alloc(sim, out_bytes) : NULL;
	SimTensorMap map = { 0 };
	const void *params[] = { &from, &to, &map };
	const uint32_t grid[3] = { ctas, 1, 1 }, block[3] = { threads, 1, 1 };
	if (!from || !to) {
		snprintf(error, error_size, "out of memory");
		sim_free(sim);
		return false;
	}
	sim_copy_in(sim, from, in, in_bytes);
	SimModule *module = encode(sim, &map, box, from) ? sim_load(sim, text, strlen(text)) : NULL;
	bool ok = module && sim_launch(sim, module, "k", grid, block, 0, params) == 0
		&& sim_copy_out(sim, out, to, out_bytes) == 0;
	if (!ok)
		snprintf(error, error_size, "%s", sim_error(sim));
	sim_free(sim);
	return ok;
}

static void record_words(FILE *file, const uint32_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(file, "%" PRIx32 "%c", words[i], i % 16 == 15 || i + 1 == n ? '\n' : ' ');
}

static bool read_words(FILE *file, uint32_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (fscanf(file, "%" SCNx32, &words[i]) != 1)
			return false;
	return true;
}

enum Mode { MODE_GPU, MODE_SIM, MODE_COMPARE };

/* One case, c or hopper's; file is the record to write (MODE_GPU, may be NULL) or to read. */
static bool run_case(const HwCase *c, const HopperCase *hopper, enum Mode mode, FILE *file)
{
	uint32_t ctas = mode == MODE_COMPARE ? 1 : CTAS, block = hopper ? GROUP : BLOCK;
	const HwBox *box = hopper ? &hopper->box : NULL;
	size_t threads = (size_t)ctas * block, n_in = strlen(c->inputs), n_out = (size_t)c->n_out;
	uint32_t *in = calloc(threads * (n_in + 2 * n_out), sizeof *in), *got = in + threads * n_in,
		*want = got + threads * n_out;
	char *text = hopper ? hopper_text(hopper) : hw_text(c), error[4096], name[80] = "";
	const char *gpu_error = "";
	bool ok = in && text;
	for (size_t i = 0; ok && mode != MODE_COMPARE && i < threads * n_in; i++)
		in[i] = hw_input(c->inputs[i % n_in], (uint32_t)(i / n_in) % block);
	if (mode == MODE_COMPARE) {
		ok = ok && fscanf(file, " case %79[^\n]", name) == 1 && strcmp(name, c->name) == 0
			&& read_words(file, in, threads * n_in) && read_words(file, want, threads * n_out);
		if (!ok)
			printf("%-32s the record does not hold this case here: record it again\n", c->name);
	}
	if (ok && !sim_run(text, box, in, threads * n_in * 4, got, threads * n_out * 4, ctas, block, error, sizeof error)) {
		printf("%-32s simulator: %s\n", c->name, error);
		ok = false;
	}
	if (ok && mode == MODE_GPU && !gpu_run(text, box, in, threads * n_in * 4, want, threads * n_out * 4, ctas, block,
	    &gpu_error)) {
		printf("%-32s GPU: %s\n", c->name, gpu_error);
		ok = false;
	}
	if (ok && mode != MODE_SIM) {
		Distance d = compare(c, got, want, threads * n_out);
		ok = print_row(c, &d, in, got, want);
		if (mode == MODE_GPU && file) {
			fprintf(file, "case %s\n", c->name);
			record_words(file, in, block * n_in);
			record_words(file, want, block * n_out);
		}
	}
	free(text);
	free(in);
	return ok;
}

static bool at_end(FILE *file)
{
	int c = fgetc(file);
	while (c == '\n' || c == ' ')
		c = fgetc(file);
	if (c != EOF)
		ungetc(c, file);
	return c == EOF;
}

int main(int argc, char **argv)
{
	char gpu[256] = "";
	bool has_sm_90a = true;
	bool recording = argc == 3 && strcmp(argv[1], "--record") == 0, comparing = argc == 3
		&& strcmp(argv[1], "--compare") == 0;
	enum Mode mode = argc == 2 && strcmp(argv[1], "--sim") == 0 ? MODE_SIM : comparing ? MODE_COMPARE : MODE_GPU;
	if (argc > 1 && !recording && !comparing && mode != MODE_SIM) {
		printf("usage: sim_hw [--sim | --record FILE | --compare FILE]\n");
		return 2;
	}
	GpuState state = mode == MODE_GPU ? gpu_open(gpu, sizeof gpu, &has_sm_90a) : GPU_READY;
	if (state != GPU_READY) {
		printf("%s: %s\n", state == GPU_NONE ? "no GPU" : "the GPU failed", tda_error_message());
		return state == GPU_NONE ? 2 : 1;
	}
	FILE *file = recording || comparing ? fopen(argv[2], recording ? "w" : "r") : NULL;
	if ((recording || comparing) && !file) {
		printf("%s can't be opened\n", argv[2]);
		return 2;
	}
	if (mode != MODE_SIM)
		printf("%s\n%-32s %8s %8s %9s %9s\n", mode == MODE_GPU ? gpu : "recorded", "case", "words", "exact", "max ulp",
			"relative");
	size_t passed = 0, n = hw_n_cases;
	for (size_t i = 0; i < hw_n_cases; i++)
		passed += run_case(&hw_cases[i], NULL, mode, file);
	/* A record may end here, of another GPU, or at any case from here on that its GPU did not take. */
	size_t i = 0;
	for (; has_sm_90a && i < hopper_n_cases && !(mode == MODE_COMPARE && at_end(file)); i++, n++)
		passed += run_case(&hopper_cases[i].base, &hopper_cases[i], mode, file);
	if (i < hopper_n_cases)
		printf("%s and what follows: not run; they need a GPU of sm_90a, or a record of one\n", hopper_cases[i].base.name);
	if (file && fclose(file) != 0) {
		printf("%s can't be written\n", argv[2]);
		return 2;
	}
	if (mode == MODE_GPU)
		gpu_close();
	printf("%zu passed, %zu failed\n", passed, n - passed);
	return passed != n;
}
