/*
 * tdarun --stats on a case that can be counted by hand: rows and keys are 0 but for a few, the threshold is 0.5.
 *
 *     row 3   e0        key  10  e0           score 1: survives
 *                       key  20  0.4999 e0 + 0.0826 (e1 + ... + e7)
 *                                             just below, and half a step of int8 off everywhere: visited in vain
 *                       key 129  0.6 e0       survives
 *     row 66  e1        key 100  e1           survives
 *
 * 70 rows are blocks of 64 and 6; 130 keys are tiles of 64, 64 and 2. All 9100 pairs are visible. The first block gathers
 * keys 10, 20 and 129 for its 64 rows, from tiles 0 and 2; the second gathers key 100 for its 6, from tile 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "../../runtime/npy.h"
#include "../../runtime/run.h"
#include "../runtime/fixture.h"
#include "compiled.h"

static char folder[] = "/tmp/tda_stats_XXXXXX";

static const char *in_folder(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

enum { DIM = 8, ROWS = 70, KEYS = 130 };

static void write_inputs(float bar)
{
	static float q[ROWS * DIM], k[KEYS * DIM], v[KEYS * DIM];
	const int64_t q_shape[] = { 1, ROWS, DIM }, k_shape[] = { 1, KEYS, DIM }, one[] = { 1 };

	q[3 * DIM] = q[66 * DIM + 1] = 1;
	k[10 * DIM] = k[100 * DIM + 1] = 1;
	k[20 * DIM] = 0.4999f;
	for (int d = 1; d < DIM; d++)
		k[20 * DIM + d] = 0.0826f;
	k[129 * DIM] = 0.6f;
	CHECK(npy_write(in_folder("q1.npy"), 3, q_shape, q) == TDA_OK, "%s", tda_error_message());
	CHECK(npy_write(in_folder("k1.npy"), 3, k_shape, k) == TDA_OK, "%s", tda_error_message());
	CHECK(npy_write(in_folder("v.npy"), 3, k_shape, v) == TDA_OK, "%s", tda_error_message());
	CHECK(npy_write(in_folder("bar.npy"), 1, one, &bar) == TDA_OK, "%s", tda_error_message());
}

/* Runs --stats and expects this status, and these words somewhere. */
static void expect(const char *tdagen, const char *spec, const char *options, int expected, const char *words)
{
	const char *argv[] = { "--stats", "--device", "sim", "--in", folder };
	char *ptx = compiled_text(tdagen, spec, options), *said;
	RunInput input = { .program = "test", .ptx = ptx, .length = ptx ? strlen(ptx) : 0 };
	size_t length;
	FILE *out = open_memstream(&said, &length);
	int status = ptx ? run_main(&input, RUN_BY_FLAGS, 5, argv, out, out) : 3;

	fclose(out);
	CHECK(status == expected && strstr(said, words), "%s: status %d:\n%s", options, status, said);
	free(said);
	free(ptx);
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "q1.npy", "k1.npy", "v.npy", "bar.npy", "" };
	const char *options = "--plan sparse --heavy-keys 1 --set dtype=f32 --set normalize=none --set mask=full --set head_dim=8";
	const char *both_plans = strstr(options, "--set");
	char short_of_marks[256];

	if (argc != 3 || !mkdtemp(folder))
		return 2;
	write_inputs(0.5f);
	/* view, head, visible, survivors, visited, share, in vain, backward, tiles, whole rows, dense rows */
	expect(argv[1], argv[2], options, 0,
	       "  all   all           9100            3            198    2.176%           64          198        3          0          0\n");
	/* With room for one mark in a row block, the forward visits the second tile of the first whole, 2 keys for its 64 rows; the backward
	 * both, as they are of one word: 66 keys. */
	snprintf(short_of_marks, sizeof(short_of_marks), "%s --mark-capacity 1", options);
	expect(argv[1], argv[2], short_of_marks, 0,
	       "  all   all           9100            3            262    2.879%          128         4230        3         64          0\n");
	expect(argv[1], argv[2], both_plans, 1, "this shape takes the dense one, which visits every visible pair and keeps no marks");
	/* Below all scores: every pair is visited, all rows by dense kernels, which float32 has not. */
	write_inputs(-2);
	expect(argv[1], argv[2], options, 0,
	       "  all   all           9100         9100           9100  100.000%            0         9100        6          0          0\n");
	expect(argv[1], argv[2], "--plan sparse --heavy-keys 1 --set dtype=bf16 --set normalize=none --set mask=full --set head_dim=8", 0,
	       "  all   all           9100         9100           9100  100.000%            0         9100        6          0         70\n");
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
		remove(in_folder(names[n]));
	return fixture_result();
}
