/*
 * Blocks that are dense in candidates, computed by dense kernels of a sparse plan: outputs and gradients against the f64 reference,
 * the same bits twice, and each row by launches of one kind.
 *
 * heavy_test TDAGEN SPEC TARGET: compiles the spec for each case and runs it on the simulator.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/check.h"
#include "../../runtime/check_case.h"
#include "../../runtime/heavy.h"
#include "../../runtime/marks.h"
#include "../runtime/fixture.h"
#include "compiled.h"

typedef enum Heavy { NO_BLOCK, SOME_BLOCKS, EVERY_BLOCK } Heavy;

typedef struct Case {
	const char *options;
	int batch, heads, kv_heads, q_len, k_len;
	Heavy rows, keys;              /* which row blocks, and key tiles, are heavy */
} Case;

static const Case cases[] = {
	{ "--set dense=0", 1, 2, 2, 200, 200, NO_BLOCK, NO_BLOCK },
	{ "--set dense=2", 1, 2, 2, 230, 230, EVERY_BLOCK, EVERY_BLOCK },
	{ "--set dense=1", 2, 4, 4, 300, 300, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=2", 1, 4, 1, 200, 300, SOME_BLOCKS, SOME_BLOCKS },      /* half of the query heads of each key tile */
	{ "--set dense=1", 1, 8, 1, 130, 130, SOME_BLOCKS, NO_BLOCK },
	{ "--set dense=1 --set mask=full", 1, 2, 2, 65, 63, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=2 --set from=128 --set to=320", 1, 2, 2, 400, 400, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=2 --set to=100 --set mask=full", 1, 2, 1, 513, 200, SOME_BLOCKS, NO_BLOCK },
	{ "--set dense=1 --set mask=window", 1, 2, 2, 500, 500, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set mask=band --set views=1", 1, 2, 2, 130, 400, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set views=1", 3, 2, 2, 1, 129, SOME_BLOCKS, NO_BLOCK },
	{ "--set dense=1 --set views=2 --set view=2", 1, 2, 2, 200, 200, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set views=3", 1, 2, 2, 130, 130, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set views=4", 1, 2, 2, 130, 130, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set dtype=f16", 1, 2, 2, 130, 130, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set norm=1", 1, 2, 1, 200, 200, SOME_BLOCKS, EVERY_BLOCK },
	{ "--set dense=1 --set head_dim=8 --set value_dim=8", 1, 2, 2, 200, 200, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set head_dim=40 --set value_dim=96", 1, 2, 2, 200, 200, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set head_dim=128 --set value_dim=128", 1, 2, 2, 200, 200, SOME_BLOCKS, SOME_BLOCKS },
	{ "--set dense=1 --set head_dim=256 --set value_dim=256", 1, 2, 2, 200, 200, SOME_BLOCKS, SOME_BLOCKS },
	/* marks here and there among more blocks than a CTA has threads; and among more than it looks at together */
	{ "--set dense=0 --set mask=full --set head_dim=8 --set value_dim=8 --set bar=0.97", 1, 2, 2, 100, 8500, NO_BLOCK, NO_BLOCK },
	{ "--set dense=0 --set mask=full --set head_dim=8 --set value_dim=8 --set bar=0.97", 1, 2, 1, 8500, 100, NO_BLOCK, NO_BLOCK },
	{ "--set dense=0 --set views=1 --set head_dim=8 --set value_dim=8 --set bar=0.97", 1, 1, 1, 64, 66000, NO_BLOCK, SOME_BLOCKS },
	{ "--set dense=1 --mark-capacity 1", 1, 2, 2, 300, 300, SOME_BLOCKS, SOME_BLOCKS },
};

/* 40 blocks of 64 rows, 5 a head: of one CTA, more than it looks at together */
static const Case many_blocks = {
	"--set dense=4 --set views=1 --set head_dim=8 --set value_dim=8", 2, 4, 4, 300, 300, EVERY_BLOCK, EVERY_BLOCK
};

/* ---- which blocks are heavy ---- */

/* Launches of one kind alone, on a device that leaves the others out: which rows do they write? */
static const DeviceOps *whole;
static bool heavy_alone;
static uint32_t heavy_ctas;            /* 0: as many as the launch has */

static tda_status launch_some(Device *device, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	const char *entry = m->kernels[kernel].entry;
	bool heavy = strstr(entry, "tda_heavy_") == entry, light = !heavy && (strstr(entry, "tda_forward") == entry ||
	             strstr(entry, "tda_backward") == entry);

	/* sums over all blocks would find some missing */
	if ((heavy_alone ? light : heavy) || strstr(entry, "tda_reduce") == entry)
		return TDA_OK;
	return whole->launch(device, m, kernel, heavy && heavy_ctas ? heavy_ctas : grid, args);
}

static bool run_some(Problem *p, bool heavy)
{
	Device *device = p->device;
	DeviceOps some = *device->ops;
	tda_status status;

	whole = device->ops;
	some.launch = launch_some;
	heavy_alone = heavy;
	status = problem_poison(p, 0xff);
	device->ops = &some;
	if (!status)
		status = problem_launch(p, true, true);
	device->ops = whole;
	return CHECK(status == TDA_OK, "%s", tda_error_message());
}

/* written[row] gets `bit` where the whole row was written. */
static void note_written(const Problem *p, int tensor, unsigned char *written, int bit)
{
	const Operand *o = &p->tensor[tensor];
	size_t row_bytes = (size_t)o->dim * (o->dtype == TDA_F32 ? 4 : 2);
	unsigned char bytes[1024];
	int64_t row = 0;

	for (int64_t b = 0; b < o->count[0]; b++)
		for (int64_t h = 0; h < o->count[1]; h++)
			for (int64_t r = 0; r < o->count[2]; r++, row++) {
				const char *at = (const char *)o->device + operand_row(o, b, h, r);

				if (p->device->ops->copy_out(p->device, bytes, at, row_bytes) == TDA_OK)
					written[row] |= (unsigned char)bit;
			}
}

enum { BY_LIGHT = 1, BY_HEAVY = 2 };

/* Are the rows of o that the forward's dense kernels wrote those that --stats says they write? */
static void test_rule(const Case *c, const Problem *p, const unsigned char *written)
{
	int64_t rows = p->shape.q_len, blocks, wrong = 0;
	bool *heavy;

	if (!CHECK(heavy_fetch(p, &heavy, &blocks) == TDA_OK, "%s", tda_error_message()))
		return;
	for (int64_t n = 0; n < p->shape.batch * p->shape.heads * rows; n++)
		wrong += heavy[n / rows * blocks + n % rows / p->manifest->heavy.rows] != (written[n] == BY_HEAVY);
	CHECK(wrong == 0, "'%s': %lld rows are not written by the launch that the counts name", c->options, (long long)wrong);
	free(heavy);
}

/* Every row is written by launches of one kind, the same one for 64 rows; and all, some or none by those of heavy blocks. */
static void test_tensor(const Case *c, const Problem *p, int tensor, const unsigned char *written, Heavy expected)
{
	const Operand *o = &p->tensor[tensor];
	int64_t rows = operand_rows(o), wrong = 0, heavy = 0;

	for (int64_t n = 0; n < rows; n++) {
		int64_t in_head = n % o->count[2], first = n - in_head % MARK_SIDE;

		wrong += (written[n] != BY_LIGHT && written[n] != BY_HEAVY) || written[n] != written[first];
		heavy += written[n] == BY_HEAVY;
	}
	CHECK(wrong == 0, "'%s': %lld rows of %s are written by none, by both, or apart from the 64 that they belong to", c->options,
	      (long long)wrong, tensor_name(tensor));
	CHECK((heavy > 0) == (expected != NO_BLOCK) && (heavy == rows) == (expected == EVERY_BLOCK),
	      "'%s': %lld of %lld rows of %s are heavy", c->options, (long long)heavy, (long long)rows, tensor_name(tensor));
	if (tensor == TENSOR_O)
		test_rule(c, p, written);
}

static void test_tensors(const Case *c, Problem *p)
{
	int last_dq = TENSOR_DQ + p->manifest->views - 1;
	const struct { int tensor; Heavy expected; } outputs[] = {
		{ TENSOR_O, c->rows }, { TENSOR_DQ, c->rows }, { last_dq, c->rows }, { TENSOR_DK, c->keys }, { TENSOR_DV, c->keys },
	};
	enum { OUTPUTS = sizeof(outputs) / sizeof(outputs[0]) };
	unsigned char *written[OUTPUTS];
	bool ran = true;

	for (int n = 0; n < OUTPUTS; n++) {
		written[n] = calloc((size_t)operand_rows(&p->tensor[outputs[n].tensor]) + 1, 1);
		ran = CHECK(written[n] != NULL, "out of memory") && ran;
	}
	for (int kind = BY_LIGHT; kind <= BY_HEAVY && ran; kind++) {
		ran = run_some(p, kind == BY_HEAVY);
		for (int n = 0; n < OUTPUTS && ran; n++)
			note_written(p, outputs[n].tensor, written[n], kind);
	}
	for (int n = 0; n < OUTPUTS; n++) {
		if (ran)
			test_tensor(c, p, outputs[n].tensor, written[n], outputs[n].expected);
		free(written[n]);
	}
}

/* ---- cases ---- */

static bool make_problem(const Case *c, tda_kernel *kernel, Problem *p)
{
	tda_shape shape = TDA_SHAPE_INIT;

	shape.batch = c->batch;
	shape.heads = c->heads;
	shape.kv_heads = c->kv_heads;
	shape.q_len = c->q_len;
	shape.k_len = c->k_len;
	if (!CHECK(check_random_problem(&shape, kernel, 11, p) == TDA_OK, "%s", tda_error_message()))
		return false;
	check_random_grad(p, 12);
	return true;
}

/* Outputs against the reference, twice; returns what the check found wrong. */
static int check(Problem *p, Device *device, const char *name)
{
	size_t length;
	char *said;
	FILE *out = open_memstream(&said, &length);
	int failures = 0;
	tda_status status = check_problem(p, name, device, out, &failures);

	fclose(out);
	CHECK(status == TDA_OK, "'%s': %s", name, tda_error_message());
	if (failures)
		printf("%s\n", said);
	free(said);
	return failures;
}

static void test_case(const Case *c, tda_kernel *kernel, Device *device)
{
	Problem p;

	if (!make_problem(c, kernel, &p))
		return;
	CHECK(check(&p, device, c->options) == 0, "'%s' differs from the reference", c->options);
	/* an output norm's backward reads all of what the forward saved */
	if (!kernel->manifest->rms_norm)
		test_tensors(c, &p);
	problem_free(&p);
}

/* However many CTAs look for heavy blocks, they find each: all rows are of heavy ones. */
static void test_ctas(const Case *c, tda_kernel *kernel, Device *device)
{
	static const uint32_t ctas[] = { 1, 4, 5, 11, 64 };
	static const int tensors[] = { TENSOR_O, TENSOR_DK };
	Problem p;

	if (!make_problem(c, kernel, &p))
		return;
	CHECK(check(&p, device, c->options) == 0, "'%s' differs from the reference", c->options);
	for (size_t n = 0; n < sizeof(ctas) / sizeof(ctas[0]); n++) {
		heavy_ctas = ctas[n];
		if (!run_some(&p, true))
			break;
		for (size_t t = 0; t < sizeof(tensors) / sizeof(tensors[0]); t++) {
			int64_t rows = operand_rows(&p.tensor[tensors[t]]), left_out = 0;
			unsigned char *written = calloc((size_t)rows + 1, 1);

			if (written)
				note_written(&p, tensors[t], written, BY_HEAVY);
			for (int64_t row = 0; row < rows && written; row++)
				left_out += written[row] != BY_HEAVY;
			CHECK(left_out == 0, "'%s': %u CTAs leave out %lld rows of %s", c->options, ctas[n], (long long)left_out,
			      tensor_name(tensors[t]));
			free(written);
		}
	}
	heavy_ctas = 0;
	problem_free(&p);
}

static void with_kernel(char **argv, const char *options, const Case *c, Device *device,
                        void test(const Case *c, tda_kernel *kernel, Device *device))
{
	char all[256];
	tda_kernel *kernel;

	snprintf(all, sizeof(all), "--plan sparse --heavy-keys 1 --target %s %s %s", argv[3], options, c->options);
	kernel = compiled_once(argv[1], argv[2], all);
	if (kernel)
		test(c, kernel, device);
}

/* A dense kernel that leaves out its last tile is found, where every block is its. */
static void test_defect(const Case *c, tda_kernel *kernel, Device *device)
{
	Problem p;

	if (!make_problem(c, kernel, &p))
		return;
	CHECK(check(&p, device, "a planted defect, which is to be found") > 0, "nobody misses the tile that was left out");
	problem_free(&p);
}

int main(int argc, char **argv)
{
	Device *device;

	if (argc != 4 || device_open(DEVICE_SIM, &device))
		return 2;
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		with_kernel(argv, "", &cases[n], device, test_case);
		if (cases[n].rows == EVERY_BLOCK)
			with_kernel(argv, "--defect drop-tile", &cases[n], device, test_defect);
	}
	with_kernel(argv, "", &many_blocks, device, test_ctas);
	device->ops->close(device);
	compiled_close();
	return fixture_result();
}
