/* The command line, as plain data. */
#ifndef TDAGEN_OPTIONS_H
#define TDAGEN_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>
#include "../runtime/count_by.h"
#include "arena.h"
#include "pipeline.h"
#include "plan.h"
#include "spec.h"

typedef enum Command { COMMAND_COMPILE, COMMAND_CHECK, COMMAND_RUN, COMMAND_CALIBRATE, COMMAND_EXPLORE,
	COMMAND_DIFF, COMMAND_COUNT } Command;

enum { EMIT_NOTHING = -1, EMIT_ALL = STAGE_COUNT };

/* Options of explore whose value is a number. */
typedef enum NumberOption { NUMBER_SEED, NUMBER_BATCH, NUMBER_HEADS, NUMBER_KV_HEADS, NUMBER_Q_LEN, NUMBER_K_LEN, NUMBER_COUNT
} NumberOption;

typedef struct Options {
	Command command;
	const char *spec;                  /* the path given */
	PlanOptions plan;
	SpecOption *settings;              /* --set, in the order given; room for one per argument */
	int setting_count;
	bool timing;
	/* compile */
	const char *output;                /* "-": standard output */
	const char *header;
	const char *dump_dir;
	int emit;                          /* a StageId, EMIT_ALL or EMIT_NOTHING */
	bool explain;
	/* calibrate, and output */
	const char *in, *calibrate_target, *param, *layer;     /* as given, or NULL */
	int per;                           /* a CalibratePer */
	/* explore, beside layer and output */
	const char **inputs;               /* --in, one a layer */
	const char **sweeps;               /* --sweep, as given */
	int input_count, sweep_count;
	CountBy count_by;                  /* calibrate, too */
	const char *csv, *json, *report;   /* files, or NULL */
	bool softmax;
	int64_t number[NUMBER_COUNT];      /* -1: not given */
	/* diff, beside in and layer */
	const char *other;                 /* the second spec */
	SpecOption *first_settings, *second_settings;
	int first_setting_count, second_setting_count;
	/* check and run: handed to the runtime's own command line, in the order given */
	const char **runtime_args;
	int runtime_arg_count;
	/* instead of all that */
	bool help, version, licenses;
} Options;

/* Reads the command line. On a mistake prints it to standard error, with a suggestion, and returns false: exit with 2. */
bool options_parse(Arena *arena, int argc, char **argv, Options *options);
void options_print_help(FILE *out);

#endif
