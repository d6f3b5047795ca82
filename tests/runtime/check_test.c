/*
 * The check itself, end to end on the simulator: a hand-written PTX of linear attention must pass, and each planted
 * defect must fail, in the way that its line says. Then the commands: --in and --out on the simulator and on the
 * reference agree.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../../runtime/check.h"
#include "../../runtime/file.h"
#include "../../runtime/module.h"
#include "../../runtime/npy.h"
#include "../../runtime/run.h"
#include "fixture.h"

/* linear.ptx without its first and its last line of the manifest, which fixture_seal writes. */
static char *lines, *body;

static void split(char *text)
{
	char *end = strstr(text, "//! end ");

	lines = strchr(text, '\n') + 1;
	body = strchr(end, '\n') + 1;
	*end = 0;
}

static char *replaced(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);
	char *result = malloc(strlen(text) + strlen(to) + 1);

	if (!at || !result) {
		printf("'%s' is not in the text\n", from);
		exit(1);
	}
	memcpy(result, text, (size_t)(at - text));
	strcpy(result + (at - text), to);
	strcat(result, at + strlen(from));
	return result;
}

/* Runs a check in memory; *table holds what it printed. */
static int run_check(const char *ptx, char **table)
{
	static const char *const argv[] = { "--quick", "--device", "sim" };
	RunInput input = { .program = "test", .ptx = ptx, .length = strlen(ptx) };
	size_t length;
	FILE *out = open_memstream(table, &length);
	int status = run_main(&input, RUN_CHECK, 3, argv, out, out);

	fclose(out);
	return status;
}

static void test_good(void)
{
	char *ptx = fixture_seal(lines, body), *table;
	int status = run_check(ptx, &table);

	CHECK(status == 0, "status %d:\n%s", status, table);
	CHECK(strstr(table, "12 cases on sim") && strstr(table, "0 failures: ok"), "table:\n%s", table);
	free(table);
	free(ptx);
}

static const struct { const char *name, *from, *to, *said; } defects[] = {
	{ "the last key is dropped", "setp.ge.s32 %p3, %r16, %r3;", "sub.s32 %r17, %r3, 1; setp.ge.s32 %p3, %r16, %r17;",
	  "above the bound" },
	{ "a product is 1e-4 off", "mul.rn.f32 %f24, %f0, %f16;",
	  "mul.rn.f32 %f24, %f0, %f16; mul.rn.f32 %f24, %f24, 0f3F8003D7;",
	  "above the bound" },
	{ "an element is left unwritten", "st.global.v4.f32 [%d4+16], {%f12, %f13, %f14, %f15};",
	  "st.global.v2.f32 [%d4+16], {%f12, %f13};", "unwritten" },
	{ "padding is written", "st.global.v4.f32 [%d4], {%f8, %f9, %f10, %f11};",
	  "st.global.v4.f32 [%d4], {%f8, %f9, %f10, %f11}; st.global.v2.f32 [%d4+32], {%f8, %f9};", "FAIL" },
	{ "a row beyond the end is read", "setp.ge.s32 %p3, %r16, %r3;", "setp.gt.s32 %p3, %r16, %r3;", "simulator reports" },
	{ "a NaN is swallowed", "add.s32 %r16, %r16, 1;",
	  "setp.nan.f32 %p4, %f24, %f24; @!%p4 bra keep; mov.f32 %f8, 0f00000000; keep: add.s32 %r16, %r16, 1;",
	  "finite, must be NaN" },
	{ "an opcode is unknown", "mov.u32 %r16, 0;", "frobnicate.u32 %r16, 0;", "frobnicate" },
};

static void test_defects(void)
{
	for (size_t n = 0; n < sizeof(defects) / sizeof(defects[0]); n++) {
		char *bad_body = replaced(body, defects[n].from, defects[n].to);
		char *ptx = fixture_seal(lines, bad_body), *table;
		int status = run_check(ptx, &table);

		CHECK(status != 0 && strstr(table, "FAIL"), "%s: status %d:\n%s", defects[n].name, status, table);
		CHECK(strstr(table, defects[n].said), "%s: '%s' is not said:\n%s", defects[n].name, defects[n].said, table);
		free(table);
		free(ptx);
		free(bad_body);
	}
}

/* ---- commands ---- */

static char folder[] = "/tmp/tda_check_XXXXXX";

static char *in_folder(const char *name)
{
	static char paths[4][256];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static int run_tensors(const char *ptx, const char *device, const char *in, const char *out, char **said)
{
	const char *argv[] = { "--in", in, "--out", out, "--backward", "--device", device };
	RunInput input = { .program = "test", .ptx = ptx, .length = strlen(ptx) };
	size_t length;
	FILE *stream = open_memstream(said, &length);
	int status = run_main(&input, RUN_TENSORS, 7, argv, stream, stream);

	fclose(stream);
	return status;
}

static void write_input(const char *name, int64_t heads, int64_t length, uint64_t *seed)
{
	const int64_t shape[] = { heads, length, 8 };
	float values[512];

	for (int n = 0; n < heads * length * 8; n++)
		values[n] = (float)fixture_normal(seed);
	CHECK(npy_write(in_folder(name), 3, shape, values) == TDA_OK, "%s", tda_error_message());
}

static bool read_output(const char *name, NpyArray *a)
{
	char *bytes;
	size_t length;
	bool ok = file_read(in_folder(name), &bytes, &length) == TDA_OK;

	if (ok) {
		ok = npy_parse(bytes, length, a) == TDA_OK;
		free(bytes);
	}
	return ok;
}

/* Returns the exit status of a check on the arrays in "in". */
static int check_inputs(const char *ptx, char **said)
{
	const char *argv[] = { "--in", in_folder("in"), "--device", "sim", "--seed", "5" };
	RunInput input = { .program = "test", .ptx = ptx, .length = strlen(ptx) };
	size_t length;
	FILE *stream = open_memstream(said, &length);
	int status = run_main(&input, RUN_CHECK, 6, argv, stream, stream);

	fclose(stream);
	return status;
}

static void test_check_inputs(const char *ptx)
{
	static const int64_t shape[] = { 4, 10, 8 };
	float values[320] = { 0, 0, NAN };
	char *bad_body = replaced(body, defects[1].from, defects[1].to), *bad = fixture_seal(lines, bad_body), *said;

	CHECK(check_inputs(ptx, &said) == 0 && !strstr(said, "at random") && strstr(said, "linear: 1 case on sim"),
	      "said: %s", said);
	free(said);
	CHECK(check_inputs(bad, &said) == 1 && strstr(said, "above the bound"), "%s: said: %s", defects[1].name, said);
	free(said);
	remove(in_folder("in/do.npy"));
	CHECK(check_inputs(ptx, &said) == 0 && strstr(said, "drawn at random, seed 5") && strstr(said, "0 failures: ok"),
	      "said: %s", said);
	free(said);
	CHECK(check_inputs(bad, &said) == 1, "without do: said: %s", said);
	free(said);
	CHECK(npy_write(in_folder("in/do.npy"), 3, shape, values) == TDA_OK, "%s", tda_error_message());
	CHECK(check_inputs(ptx, &said) == 1 && strstr(said, "'do' holds a value that is not finite"), "said: %s", said);
	free(said);
	free(bad);
	free(bad_body);
}

static void test_tensors(void)
{
	static const char *const outputs[] = { "o", "dq1", "dk1", "dv" };
	char *ptx = fixture_seal(lines, body), *said;
	uint64_t seed = 1;

	mkdir(in_folder("in"), 0777);
	write_input("in/q1.npy", 4, 10, &seed);
	write_input("in/k1.npy", 2, 12, &seed);
	write_input("in/v.npy", 2, 12, &seed);
	CHECK(run_tensors(ptx, "sim", in_folder("in"), in_folder("sim"), &said) == 1, "ran without do");
	CHECK(strstr(said, "the input 'do' is missing"), "said: %s", said);
	free(said);
	write_input("in/do.npy", 4, 10, &seed);
	CHECK(run_tensors(ptx, "sim", in_folder("in"), in_folder("sim"), &said) == 0, "said: %s", said);
	free(said);
	CHECK(run_tensors(ptx, "reference", in_folder("in"), in_folder("reference"), &said) == 0, "said: %s", said);
	free(said);
	for (int n = 0; n < 4; n++) {
		char name[64];
		NpyArray got = {0}, want = {0};
		double worst = 0;

		snprintf(name, sizeof(name), "sim/%s.npy", outputs[n]);
		CHECK(read_output(name, &got), "%s: %s", name, tda_error_message());
		snprintf(name, sizeof(name), "reference/%s.npy", outputs[n]);
		CHECK(read_output(name, &want), "%s: %s", name, tda_error_message());
		CHECK(got.rank == 4 && got.count > 0 && got.count == want.count, "%s has another shape", name);
		for (int64_t e = 0; e < got.count && e < want.count; e++)
			worst = fmax(worst, fabs(got.values[e] - want.values[e]));
		CHECK(worst < 1e-3, "%s differs by %g", name, worst);
		free(got.values);
		free(want.values);
	}
	test_check_inputs(ptx);
	write_input("in/q2.npy", 4, 10, &seed);
	CHECK(run_tensors(ptx, "reference", in_folder("in"), in_folder("reference"), &said) == 1,
	      "an unknown input was taken");
	CHECK(strstr(said, "'q2' is no input of the spec linear; its inputs are: q1, k1, v, do"), "said: %s", said);
	free(said);
	free(ptx);
}

static const struct { const char *args[4]; int count, status; const char *said; } usages[] = {
	{ { "--frob" }, 1, 2, "test: error: unknown option '--frob'\n" },
	{ { "--check", "--time" }, 2, 2, "test: error: --check, --stats, --time and --info exclude each other\n" },
	{ { "--check", "--device", "tpu" }, 3, 2, "test: error: --device is gpu, sim or reference, not 'tpu'\n" },
	{ { "--check", "--out", "x" }, 3, 2, "test: error: --out and --backward don't go with --check, --stats, --time or --info, "
	  "--in not with --info\n" },
	{ { "--info", "--in", "x" }, 3, 2, "test: error: --out and --backward don't go with --check, --stats, --time or --info, "
	  "--in not with --info\n" },
	{ { "--stats", "--device", "sim" }, 3, 1, "test: error: --stats needs a sparse plan: a dense one visits every visible pair; "
	  "compile the spec with --plan sparse\n" },
	{ { "--check", "--quick", "--in", "x" }, 4, 2, "test: error: --quick shortens the list of cases: it does not go "
	  "with --in\n" },
	{ { "--in", "x" }, 2, 2, "test: error: say what to do: --check, --stats, --time, --info, or --in and --out\n" },
	{ { "--check", "--seed" }, 2, 2, "test: error: --seed needs a value: N\n" },
	{ { "--check", "--seed", "-3" }, 3, 2, "test: error: --seed needs a number from 0 to 2147483647, not '-3'\n" },
	{ { "--time", "--device", "sim" }, 3, 1, "test: error: the simulator has no clock: --time needs --device gpu\n" },
	{ { "--in", "/nonexistent", "--out", "x" }, 4, 1,
	  "test: error: /nonexistent: can't be opened: No such file or directory\n" },
};

static void test_usage(void)
{
	char *ptx = fixture_seal(lines, body);

	for (size_t n = 0; n < sizeof(usages) / sizeof(usages[0]); n++) {
		RunInput input = { .program = "test", .ptx = ptx, .length = strlen(ptx) };
		char *said;
		size_t length;
		FILE *out = open_memstream(&said, &length);
		int status = run_main(&input, RUN_BY_FLAGS, usages[n].count, usages[n].args, out, out);

		fclose(out);
		CHECK(status == usages[n].status && strcmp(said, usages[n].said) == 0, "status %d: %s", status, said);
		free(said);
	}
	free(ptx);
}

static void remove_files(void)
{
	static const char *const names[] = {
		"in/q1.npy", "in/q2.npy", "in/k1.npy", "in/v.npy", "in/do.npy", "sim/o.npy", "sim/dq1.npy", "sim/dk1.npy",
		"sim/dv.npy", "reference/o.npy", "reference/dq1.npy", "reference/dk1.npy", "reference/dv.npy", "in", "sim",
		"reference", "",
	};

	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
		remove(in_folder(names[n]));
}

/* A device that has loaded a kernel looks at the next one, though it may lie where that one was. */
static void test_loading(void)
{
	char good[] = ".version 8.0\n.target sm_80\n.address_size 64\n", bad[] = "nonsense";
	tda_kernel kernel = { .id = 1, .text = good, .length = strlen(good) };
	Device *device;

	if (!CHECK(device_open(DEVICE_SIM, &device) == TDA_OK, "%s", tda_error_message()))
		return;
	CHECK(device->ops->load(device, &kernel) == TDA_OK, "%s", tda_error_message());
	kernel = (tda_kernel){ .id = 2, .text = bad, .length = strlen(bad) };
	CHECK(device->ops->load(device, &kernel) != TDA_OK, "the kernel before it was taken for it");
	device->ops->close(device);
}

int main(int argc, char **argv)
{
	char path[512], *text;
	size_t length;

	if (argc != 2 || !mkdtemp(folder))
		return 2;
	snprintf(path, sizeof(path), "%s/linear.ptx", argv[1]);
	if (!CHECK(file_read(path, &text, &length) == TDA_OK, "%s: %s", path, tda_error_message()))
		return fixture_result();
	split(text);
	test_good();
	test_defects();
	test_loading();
	test_tensors();
	test_usage();
	remove_files();
	free(text);
	return fixture_result();
}
