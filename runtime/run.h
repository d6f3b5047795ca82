/*
 * The commands on a compiled kernel, as a command line: what `tdarun` does, and what `tdagen check` and `tdagen run`
 * do after they have compiled a spec in memory.
 */
#ifndef TDA_RUN_H
#define TDA_RUN_H

#include <stddef.h>
#include <stdio.h>

typedef enum RunMode {
	RUN_BY_FLAGS,                  /* --check, --stats, --time or --info choose; otherwise tensors are run */
	RUN_CHECK,
	RUN_TENSORS
} RunMode;

typedef struct RunInput {
	const char *program;           /* for usage messages: "tdarun kernel.ptx", "tdagen check SPEC" */
	const char *path;              /* of the PTX file; NULL: it is in memory */
	const char *ptx;               /* in memory */
	size_t length;
} RunInput;

/* argv holds the options alone. Results go to out, errors to err. Returns the exit status: 0, 1 for a failed check,
 * a bad file or a refused launch, 2 for bad usage, 3 for a defect. */
int run_main(const RunInput *input, RunMode mode, int argc, const char *const *argv, FILE *out, FILE *err);

/* What the options are, for --help. */
void run_print_options(FILE *out);

#endif
