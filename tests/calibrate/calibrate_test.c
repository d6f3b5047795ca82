/*
 * tdagen calibrate on planted scores: two batch entries that are alike, four heads, of which two read one head of k; three
 * rows, a hundred keys. Rows of q are a multiple of e0, and key j is (j + 1) / 128 e0 for the first two heads and
 * (j + 1) / 64 e0 for the others:
 *
 *     head 0   e0     scores 1/128, 2/128, ..., 100/128: two survive a threshold from 98/128 to just below 99/128
 *     head 1   2 e0   twice that
 *     head 2   4 e0   scores 4/64, 8/64, ..., 400/64
 *     head 3   0      all scores are 0: all survive, or none
 *
 * and what it says about a written spec is what the reference counts with that spec. All of it by the reference, and by kernels on the
 * simulator: these scores, and thresholds between them, are float32 as they are.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "../../runtime/npy.h"
#include "../runtime/fixture.h"

enum { BATCH = 2, DIM = 8, ROWS = 3, KEYS = 100, HEADS = 4, KV_HEADS = 2 };

static char folder[] = "/tmp/tda_calibrate_XXXXXX";
static char said[1 << 16];

/* Runs a shell command, with TDAGEN, SPEC, ROOT and DIR in its environment; what it prints is in `said`. */
static int run(const char *command)
{
	FILE *pipe = popen(command, "r");
	size_t length = pipe ? fread(said, 1, sizeof(said) - 1, pipe) : 0;
	int status = pipe ? pclose(pipe) : -1;

	said[length] = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The command exits so, and prints this among other things. */
static void expect(const char *command, int status, const char *text)
{
	int got = run(command);

	CHECK(got == status && strstr(said, text), "%s\nstatus %d, not %d; or it lacks:\n%s\nin:\n%s", command, got, status,
	      text, said);
}

static void write_array(const char *name, int rank, const int64_t *shape, const float *values)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/in/%s.npy", folder, name);
	CHECK(npy_write(path, rank, shape, values) == TDA_OK, "%s", tda_error_message());
}

static void write_inputs(float poison)
{
	static float q[BATCH * HEADS * ROWS * DIM], k[BATCH * KV_HEADS * KEYS * DIM], v[BATCH * KV_HEADS * KEYS * DIM];
	static const float scale[HEADS] = { 1, 2, 4, 0 };
	const int64_t q_shape[] = { BATCH, HEADS, ROWS, DIM }, k_shape[] = { BATCH, KV_HEADS, KEYS, DIM };

	for (int n = 0; n < BATCH * HEADS * ROWS; n++)
		q[n * DIM] = scale[n / ROWS % HEADS];
	for (int n = 0; n < BATCH * KV_HEADS * KEYS; n++)
		k[n * DIM] = (float)(n % KEYS + 1) / (n / KEYS % KV_HEADS == 0 ? 128 : 64);
	q[((HEADS + 2) * ROWS + 1) * DIM + 3] = poison;        /* batch entry 1, head 2, row 1; no key has an e3, but for NaN */
	write_array("q1", 4, q_shape, q);
	write_array("k1", 4, k_shape, k);
	write_array("v", 4, k_shape, v);
}

/* The value in the table's row that begins with this head. */
static double value_of(const char *head)
{
	for (const char *line = said; line; line = strchr(line, '\n')) {
		char name[16];
		double value;

		line += *line == '\n';
		if (sscanf(line, "%15s %lf", name, &value) == 2 && strcmp(name, head) == 0)
			return value;
	}
	return NAN;
}

static void expect_value(const char *command, const char *head, double low, double below)
{
	CHECK(value_of(head) >= low && value_of(head) < below, "%s\nhead %s has %g, not from %g to below %g:\n%s", command, head,
	      value_of(head), low, below, said);
}

static void expect_by_head(const char *command)
{
	expect(command, 1, "error: 1 of 4 heads cannot reach the target\n");
	expect_value(command, "0", 98 / 128.0, 99 / 128.0);
	expect_value(command, "1", 196 / 128.0, 198 / 128.0);
	expect_value(command, "2", 98 / 16.0, 99 / 16.0);
}

/* One value each, of a parameter that has one for all heads; and one value for all. */
static void test_values(void)
{
	static const char by_head[] = "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=2 2>&1";
	static const char global[] = "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=2 --per global 2>&1";

	expect_by_head(by_head);
	expect(by_head, 1, "    3  no value of bar gives 2 survivors a row: it jumps from 100 to 0 at bar = ");
	/* Eight of a row's 400 pairs: those of head 2. */
	expect(global, 0, "    2           5.75           8.0000    92.0000%\n");
	expect_value(global, "all", 92 / 16.0, 93 / 16.0);
}

static void test_targets(void)
{
	static const char zeros[] = "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target zeros=0.98 2>&1";
	static const char rising[] =
		"$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param slack --target survivors=3 --set scale=2 2>&1";
	static const char near[] = "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=50.5 2>&1";
	/* rows of a head are alike, so that a block gathers the keys that survive for each of its rows */
	static const char visited[] = "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target visited=0.02 2>&1";

	expect_by_head(zeros);
	expect_by_head(visited);
	expect(zeros, 1, "    3  no value of bar gives 0.98 zeros: it jumps from 0 to 1 at bar = ");
	/* 50 or 51 is within 2 %, which is not hidden. */
	expect(near, 1, "      50.0000    50.0000%\n");
	/* 2 * (0.5 - slack) lets three survive; head 2 asks for a slack below -2. */
	expect(rising, 1, "head          slack  survivors a row       zeros\n");
	expect_value(rising, "0", 0.5 - 98 / 256.0, 0.5 - 97 / 256.0 + 1e-9);
	expect_value(rising, "1", 0.5 - 196 / 256.0, 0.5 - 194 / 256.0 + 1e-9);
	expect_value(rising, "2", 0.5 - 98 / 32.0, 0.5 - 97 / 32.0 + 1e-9);
}

static void test_errors(void)
{
	static const struct {
		const char *options;
		int status;
		const char *text;
	} cases[] = {
		{ "--target tiles=0.02", 2, "unknown target 'tiles=0.02': it can be survivors=N (a row), zeros=SHARE or visited=SHARE\n" },
		{ "--target visited=2", 2, "the target visited needs a number between 0 and 1, not '2'\n" },
		{ "--target visited=0.005 --param bar", 1,
		  "    3  no value of bar gives 0.005 visited: it jumps from 1 to 0 at bar = " },
		{ "--target visited=0.8 --param slack --set scale=-1", 1, 
		  "    2  no value of slack gives 0.8 visited: at least 0.92, at slack = 1 (tried from -8 to 1)\n" },
		{ "--target survivors", 2, "the target survivors needs a number above 0, not ''\n" },
		{ "--target survivors=nan", 2, "the target survivors needs a number above 0, not 'nan'\n" },
		{ "--target zeros=1", 2, "the target zeros needs a number between 0 and 1, not '1'\n" },
		{ "--target survivors=2 --per row", 2, "it can be head, layer, global\n" },
		{ "--target survivors=2 --layer x", 2, "--layer takes a number from 0, not 'x'\n" },
		{ "", 2, "calibrate needs the option '--target'\n" },
		{ "--target survivors=2", 1, "error: the threshold of planted reads several parameters: say which with --param: "
		                             "bar, slack; no spec is written\n" },
		{ "--target survivors=2 --param share", 1,
		  "error: the threshold of planted reads no parameter 'share': it reads bar, slack; no spec is written\n" },
		{ "--target survivors=2 --param beta", 1,
		  "error: the threshold of planted reads no parameter 'beta': it reads bar, slack; no spec is written\n" },
		{ "--target survivors=200 --param bar --per global", 1,
		  "    0  no value of bar gives 200 survivors a row: at most 100, at bar = " },
		/* slack ends at 1: the threshold, slack - 0.5, at 8/16 */
		{ "--target survivors=0.1 --param slack --set scale=-1", 1,
		  "    2  no value of slack gives 0.1 survivors a row: at least 92, at slack = 1 (tried from " },
		{ "--target survivors=200 --param bar --set root=true", 1,
		  "    0  no value of bar gives 200 survivors a row: at most 100, at bar = 0.25 (tried from " },
		{ "--target survivors=2 --param bar --set views=2", 1, "/in: the input 'q2' is missing" },
		{ "--target survivors=2 --param bar --plan sparse", 2, "calibrate has no option '--plan'\n" },
	};
	char command[512];

	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		snprintf(command, sizeof(command), "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in %s -o $DIR/none.lua 2>&1",
		         cases[n].options);
		expect(command, cases[n].status, cases[n].text);
	}
	expect("test ! -e $DIR/none.lua && echo none", 0, "none");
}

static void test_nan(void)
{
	write_inputs(NAN);
	expect("$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=2 2>&1", 1,
	       "/in: a score of batch entry 1, head 2, row 1 is NaN or infinite: q or k holds such a value or, with l2, a norm "
	       "is not in 2^-60 to 2^60\n");
	write_inputs(0);
}

/* The head of a model: what is written is checked as kernels, and counts as it was told to. */
static void test_written(void)
{
	static const char *const per[] = { "head", "layer", "global" };
	char command[512];

	for (int n = 0; n < 3; n++) {
		snprintf(command, sizeof(command), "cd $ROOT && $TDAGEN calibrate dsl/specs/tda.lua --device $DEVICE --in tests/data/heads_cut.npz "
		         "--target survivors=2 --per %s -o $DIR/%s.lua", per[n], per[n]);
		expect(command, 0, "    0     1.16977119           2.0000    98.4436%\n");
		snprintf(command, sizeof(command), "$TDAGEN check $DIR/%s.lua --in $ROOT/tests/data/heads_cut.npz --plan dense --device sim",
		         per[n]);
		expect(command, 0, " 1024 of 65792 pairs survive");
		CHECK(strstr(said, ", 0 failures: ok\n"), "%s:\n%s", command, said);
	}
}

/* What calibrate counts as visited is what explore, which counts on its own, finds with the written spec. */
static void test_visited(void)
{
	double share = NAN;

	expect("cd $ROOT && $TDAGEN calibrate dsl/specs/tda.lua --device $DEVICE --in tests/data/heads_cut.npz --target visited=0.2 -o $DIR/visited.lua",
	       0, "head           beta  survivors a row       zeros     visited\n");
	expect("cd $ROOT && $TDAGEN explore $DIR/visited.lua --device $DEVICE --in tests/data/heads_cut.npz --csv - 2>$DIR/tables | "
	       "awk -F, 'NR == 1 { for (n = 1; n <= NF; n++) if ($n == \"visited\") at = n } $3 == \"all\" { print \"visited\", $at }'",
	       0, "visited 0.");
	sscanf(said, "visited %lf", &share);
	CHECK(fabs(share - 0.2) <= 0.02 * 0.2, "%g of the visible pairs are visited", share);
}

/* Layers one after the other, each on the spec that came before it; --set is kept. */
static void test_layers(void)
{
	static const char first[] = "$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param slack --target survivors=50 --per layer "
		"--layer 1 --set scale=2 --set name=kept -o $DIR/one.lua";
	static const char second[] = "$TDAGEN calibrate $DIR/one.lua --device $DEVICE --in $DIR/in --param slack --target survivors=20 "
		"--per layer --layer 2 -o $DIR/two.lua";
	static const char run_layer[] = "$TDAGEN run $DIR/two.lua --in $DIR/in --out $DIR/out --device reference --layer ";
	static const int survivors[] = { 720, 1200, 480 };      /* layer 0: a threshold of 1; 0, 36, 84 and 0 survive */
	char command[512], text[64];

	expect(first, 0, "kept, batch 2, heads 4:2");
	expect(second, 0, "kept, batch 2, heads 4:2");
	for (int layer = 0; layer < 3; layer++) {
		snprintf(command, sizeof(command), "%s%d", run_layer, layer);
		snprintf(text, sizeof(text), "%d of 2400 pairs survive", survivors[layer]);
		expect(command, 0, text);
	}
}

/* So many heads that the table is no formula of a spec any more. Head h has two keys, of scores h + 1 and 2 h + 2. */
static void test_many_heads(void)
{
	enum { MANY = 220 };
	static float q[MANY * DIM], k[MANY * 2 * DIM], v[MANY * 2 * DIM];
	const int64_t q_shape[] = { MANY, 1, DIM }, k_shape[] = { MANY, 2, DIM };

	for (int h = 0; h < MANY; h++) {
		q[h * DIM] = (float)(h + 1);
		k[2 * h * DIM] = 1;
		k[(2 * h + 1) * DIM] = 2;
	}
	write_array("q1", 3, q_shape, q);
	write_array("k1", 3, k_shape, k);
	write_array("v", 3, k_shape, v);
	expect("$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=1 -o $DIR/none.lua 2>&1", 1,
	       "threshold has more than 1000 operations");
	CHECK(strstr(said, "the spec with the calibrated values is not written"), "%s", said);
	expect_value("many heads", "219", 220, 440);
	expect("test ! -e $DIR/none.lua && echo none", 0, "none");
}

/* Arrays that hold the parameter: the spec begins where they do. -o - leaves standard output to the spec. */
static void test_given(void)
{
	const int64_t one[] = { 1 }, by_layer[] = { 2, HEADS };
	const float bar = 0.25f, slack[2 * HEADS] = { [HEADS + 2] = 0.5f };

	write_array("bar", 1, one, &bar);
	expect("$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=20 --per global -o - 2>/dev/null "
	       ">$DIR/given.lua; $TDAGEN run $DIR/given.lua --in $DIR/in --out $DIR/out --device reference", 0, "480 of 2400 pairs survive");
	/* without them too */
	expect("rm $DIR/in/bar.npy; $TDAGEN run $DIR/given.lua --in $DIR/in --out $DIR/out --device reference", 0,
	       "480 of 2400 pairs survive");
	write_array("slack", 2, by_layer, slack);
	expect("$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param slack --target survivors=20 --per global -o $DIR/given.lua 2>&1", 0,
	       "/in gives slack several values; the spec begins at 0: leave them out to run it with the calibrated ones\n");
	expect("rm $DIR/in/slack.npy; $TDAGEN run $DIR/given.lua --in $DIR/in --out $DIR/out --device reference", 0,
	       "480 of 2400 pairs survive");
}

/* It says what counts. Several parameters are read by the threshold: the one that is not searched keeps its value of each head. */
static void test_device(const char *text)
{
	const int64_t by_layer[] = { 1, HEADS };
	const float slack[HEADS] = { 0.25f, 0.5f, 0, 0 };

	write_array("slack", 2, by_layer, slack);
	expect("$TDAGEN calibrate $SPEC --device $DEVICE --in $DIR/in --param bar --target survivors=2 --set scale=2 2>&1", 1, text);
	expect_value("slack of each head", "0", 0.25 + 98 / 256.0, 0.25 + 99 / 256.0);
	run("rm $DIR/in/slack.npy");
}

int main(int argc, char **argv)
{
	if (argc != 4 || !mkdtemp(folder))
		return 2;
	setenv("TDAGEN", argv[1], 1);
	setenv("SPEC", argv[2], 1);
	setenv("ROOT", argv[3], 1);
	setenv("DIR", folder, 1);
	run("mkdir $DIR/in");
	write_inputs(0);
	setenv("DEVICE", "sim", 1);
	test_device("device: sim (the PTX simulator on this CPU)\n");
	test_values();
	test_nan();
	test_visited();
	setenv("DEVICE", "reference", 1);
	test_device("device: reference (f64 on this CPU)\n");
	test_values();
	test_targets();
	test_errors();
	test_nan();
	test_written();
	test_visited();
	test_layers();
	test_given();
	test_many_heads();
	run("rm -r $DIR");
	return fixture_result();
}
