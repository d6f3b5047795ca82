/* tdarun: runs, checks and times a PTX file of tdagen. Needs neither LLVM nor the CUDA toolkit. */
#include <string.h>
#include "run.h"

static void print_help(FILE *out)
{
	fprintf(out, "usage: tdarun kernel.ptx --check [--quick | --in X]\n"
	             "       tdarun kernel.ptx --in X --out DIR [--backward]\n"
	             "       tdarun kernel.ptx --time\n"
	             "       tdarun kernel.ptx --info\n\n");
	run_print_options(out);
}

int main(int argc, char **argv)
{
	RunInput input = { .program = "tdarun" };

	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		print_help(stdout);
		return 0;
	}
	if (argc < 2 || argv[1][0] == '-') {
		print_help(stderr);
		return 2;
	}
	input.path = argv[1];
	return run_main(&input, RUN_BY_FLAGS, argc - 2, (const char *const *)argv + 2, stdout, stderr);
}
