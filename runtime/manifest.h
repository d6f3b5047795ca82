/* The manifest that heads a PTX file (docs/manifest.md), read into plain data. */
#ifndef TDA_MANIFEST_H
#define TDA_MANIFEST_H

#include <stdbool.h>
#include "expr_eval.h"
#include "formula.h"
#include "tda.h"

enum { MANIFEST_MAJOR = 1 };
enum { MANIFEST_NAME_BYTES = 64, MANIFEST_MAX_BUFFERS = 96, MANIFEST_MAX_KERNELS = 96, MANIFEST_MAX_ARGS = 128,
       MANIFEST_MAX_MAPS = 16 };       /* of a kernel */

typedef enum Phase { PHASE_FORWARD, PHASE_BACKWARD, PHASE_COUNTING, PHASE_KINDS } Phase;
enum { TRAINING_PHASES = 2 };          /* forward and backward: they have times and tolerances, and are in other files than counting */

/* The workspaces: three of forward and backward, and that of counting. */
typedef enum BufferKind { BUFFER_SAVED, BUFFER_FORWARD, BUFFER_BACKWARD, BUFFER_COUNTS, BUFFER_KIND_COUNT } BufferKind;

typedef struct ManifestBuffer {
	char name[MANIFEST_NAME_BYTES];
	BufferKind kind;
	Formula *bytes;
} ManifestBuffer;

typedef enum PointerKind { POINTER_TENSOR, POINTER_PARAM, POINTER_DPARAM, POINTER_BUFFER } PointerKind;

typedef struct Pointer {
	PointerKind kind;
	int index;                     /* tensor, parameter or buffer */
} Pointer;

typedef enum ArgType { ARG_PTR, ARG_I32, ARG_I64, ARG_MAP } ArgType;

enum { MAP_ROWS, MAP_HEADS, MAP_BATCHES, MAP_OUTER };  /* dimensions of a tensor map beyond its columns */

/* A tensor of the spec's dtype that kernels read in boxes of rows x columns. */
typedef struct ManifestMap {
	int cols, box_cols, box_rows;
	Formula *extent[MAP_OUTER], *stride[MAP_OUTER];        /* entries; bytes from one to the next */
} ManifestMap;

typedef struct ManifestArg {
	ArgType type;
	Pointer pointer;               /* ARG_PTR, ARG_MAP */
	Formula *formula;              /* ARG_I32, ARG_I64 */
	ManifestMap *map;              /* ARG_MAP */
} ManifestArg;

typedef struct ManifestKernel {
	char entry[2 * MANIFEST_NAME_BYTES];
	Phase phase;
	int block;                     /* threads a CTA */
	uint32_t shared;               /* dynamic, bytes */
	Formula *grid;                 /* CTAs */
	bool conditional;
	Pointer when;                  /* conditional: skip where this pointer is null */
	int leader;                    /* the last kernel up to this one that is not beside those above it: itself, or it may start once */
	                               /* all CTAs of a launch between them have started */
	bool follows;                  /* it waits by itself for whatever was launched before it */
	ManifestArg *args;
	int arg_count, map_count;
} ManifestKernel;

typedef struct ManifestParam {
	char name[MANIFEST_NAME_BYTES];
	tda_param_shape shape;
	double init, min, max;
} ManifestParam;

/* How the marks of a sparse plan lie in its buffers (docs/screen.md). */
typedef struct ManifestMarks {
	int side;                      /* rows, and keys, of a mark; 0: the plan has none */
	int word;                      /* key tiles of a word */
	int room;                      /* marks that are saved of a row block, on average over those of a head */
} ManifestMarks;

/* Which row blocks of a sparse plan's forward dense kernels compute (docs/kernels.md). */
typedef struct ManifestHeavy {
	int part;                      /* where gathering would visit one in so many of the visible keys, or more, */
	int keys;                      /* and so many of each view for each 64 rows */
	int rows;                      /* that belong together, a multiple of marks.side; 0: the plan has no such kernels */
} ManifestHeavy;

/* Of a file that counts pairs (docs/manifest.md). */
typedef struct ManifestCount {
	bool above;                    /* pairs above the threshold, whatever they weigh; else those with a weight, and statistics */
	int rows;                      /* of a block that masks are of: 64, 32 or 16; 0: the file does not count */
} ManifestCount;

typedef struct Manifest {
	char compiler[MANIFEST_NAME_BYTES];
	char target[MANIFEST_NAME_BYTES];
	int capability;                /* 80 of sm_80, 90 of sm_90a */
	bool capability_exact;         /* sm_90a */
	char spec_name[MANIFEST_NAME_BYTES];
	char spec_hash[65];
	char plan[MANIFEST_NAME_BYTES];
	tda_dtype dtype;
	bool tf32;
	int head_dim, value_dim, views;
	bool l2_normalized;
	bool causal;
	int64_t window;                /* 0: none */
	bool zeros_proved;
	double tolerance[TRAINING_PHASES];
	double slack;
	bool rms_norm;
	double rms_eps;
	int gain;                      /* parameter, or -1 */
	ManifestParam params[TDA_MAX_PARAMS];
	int param_count;
	Postfix *threshold, *score, *weight;
	Postfix *combine[TDA_MAX_VIEWS];
	ManifestMarks marks;
	ManifestHeavy heavy;
	ManifestCount count;
	ManifestBuffer buffers[MANIFEST_MAX_BUFFERS];
	int buffer_count;
	ManifestKernel kernels[MANIFEST_MAX_KERNELS];
	int kernel_count;
} Manifest;

/* Reads and checks the manifest of a PTX text. On success *manifest is freed with manifest_free. Nothing in the text is
 * trusted: every count, size, name and formula is checked, and the body's SHA-256. */
tda_status manifest_parse(const char *text, size_t length, Manifest **manifest);
void manifest_free(Manifest *manifest);                /* NULL is allowed */

int manifest_find_buffer(const Manifest *manifest, const char *name);  /* -1: none */
int manifest_find_param(const Manifest *manifest, const char *name, size_t length);    /* -1: none */
int manifest_dtype_size(const Manifest *manifest);     /* bytes of an element */
const char *dtype_text(tda_dtype dtype);               /* f32, f16, bf16 */
const char *param_shape_text(tda_param_shape shape);
/* "q1", "param.beta", "buffer.rows": as the manifest writes it, in a buffer of this thread. */
const char *pointer_text(const Manifest *manifest, Pointer pointer);

/* Entries of a parameter's tensor in a launch with these heads and layers. */
int64_t manifest_param_length(const Manifest *manifest, int param, int64_t heads, int64_t layers);
/* Which of them a head of a launch of this layer reads; 0 for a per_channel one. */
int64_t manifest_param_entry(const Manifest *manifest, int param, int64_t heads, int64_t layer, int64_t head);

#endif
