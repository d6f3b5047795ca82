/*
 * Dense and sparse plans of a spec give the same results on the same inputs, up to rounding, and zeros in the same rows.
 *
 * plans_test TDAGEN FOLDER SPEC...: names of specs in the folder. On the simulator.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/check_case.h"
#include "../runtime/fixture.h"
#include "compiled.h"

static const char *const case_names[] = { "63, padded", "65, common", "130, heads 4:2", "q 100, k 40" };

/* Runs forward and backward of a case; the outputs are then in the problem. */
static bool run_case(const CheckCase *c, tda_kernel *kernel, Device *device, Problem *p)
{
	return CHECK(check_case_problem(c, kernel, 3, p) == TDA_OK && problem_place(p, device) == TDA_OK &&
	             problem_poison(p, 0xff) == TDA_OK && problem_launch(p, true, true) == TDA_OK &&
	             problem_fetch(p, 0xff, true) == TDA_OK, "%s: %s", c->name, tda_error_message());
}

static bool is_zero(const double *row, int64_t dim)
{
	for (int64_t d = 0; d < dim; d++)
		if (row[d] != 0)
			return false;
	return true;
}

/* Rows where the two plans differ in whether all of it is 0; *error: the 2-norm of the difference, relative. */
static int64_t compare(const Operand *a, const Operand *b, double *error)
{
	int64_t rows = operand_rows(a), unlike = 0;
	double *x = calloc((size_t)(rows * a->dim) + 1, sizeof(*x)), *y = calloc((size_t)(rows * a->dim) + 1, sizeof(*y));
	double difference = 0, size = 0;

	operand_unpack(a, x);
	operand_unpack(b, y);
	for (int64_t n = 0; n < rows * a->dim; n++) {
		difference += (x[n] - y[n]) * (x[n] - y[n]);
		size += x[n] * x[n];
	}
	for (int64_t r = 0; r < rows; r++)
		unlike += is_zero(x + r * a->dim, a->dim) != is_zero(y + r * a->dim, a->dim);
	*error = size > 0 ? sqrt(difference / size) : sqrt(difference);
	free(x);
	free(y);
	return unlike;
}

static void compare_output(const char *spec, const char *name, const char *tensor, const Operand *a, const Operand *b,
                           double bound)
{
	double error;
	int64_t unlike = compare(a, b, &error);

	CHECK(error <= bound, "%s, %s: %s of the two plans differs by %.1e, above %.1e", spec, name, tensor, error, bound);
	CHECK(unlike == 0, "%s, %s: %s: %lld rows are 0 in one plan alone", spec, name, tensor, (long long)unlike);
}

static void compare_problems(const char *spec, const char *name, const Problem *dense, const Problem *sparse)
{
	const Manifest *m = dense->manifest;

	for (int t = 0; t < TENSOR_COUNT; t++)
		if (problem_has_tensor(dense, t) && dense->tensor[t].output)
			compare_output(spec, name, tensor_name(t), &dense->tensor[t], &sparse->tensor[t],
			               m->tolerance[t == TENSOR_O ? PHASE_FORWARD : PHASE_BACKWARD]);
	for (int p = 0; p < m->param_count; p++)
		compare_output(spec, name, m->params[p].name, &dense->dparam[p], &sparse->dparam[p], m->tolerance[PHASE_BACKWARD]);
}

static void test_spec(const char *tdagen, const char *folder, const char *spec, Device *device)
{
	char path[512];
	tda_kernel *dense, *sparse;
	size_t names = sizeof(case_names) / sizeof(case_names[0]), compared = 0;

	snprintf(path, sizeof(path), "%s/%s.lua", folder, spec);
	dense = compiled_kernel(tdagen, path, "--plan dense");
	sparse = compiled_kernel(tdagen, path, "--plan sparse");
	for (int c = 0; c < check_case_count && dense && sparse; c++)
		for (size_t n = 0; n < names; n++) {
			Problem a = {0}, b = {0};

			if (strcmp(check_cases[c].name, case_names[n]) != 0)
				continue;
			compared++;
			if (run_case(&check_cases[c], dense, device, &a) && run_case(&check_cases[c], sparse, device, &b))
				compare_problems(spec, case_names[n], &a, &b);
			if (a.kernel)
				problem_free(&a);
			if (b.kernel)
				problem_free(&b);
		}
	CHECK(!dense || !sparse || compared == names, "%s: %zu cases of %zu are there", spec, compared, names);
	tda_close(dense);
	tda_close(sparse);
}

int main(int argc, char **argv)
{
	Device *device;

	if (argc < 4 || device_open(DEVICE_SIM, &device))
		return 2;
	for (int a = 3; a < argc; a++)
		test_spec(argv[1], argv[2], argv[a], device);
	device->ops->close(device);
	return fixture_result();
}
