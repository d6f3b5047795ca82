/*
 * The plan: which kernels a spec becomes on a target, with which tiles, and what that costs. Plain data, decided before
 * anything is emitted; templates read it and decide nothing of the kind themselves.
 */
#ifndef TDAGEN_PLAN_H
#define TDAGEN_PLAN_H

#include <stdbool.h>
#include <stdio.h>
#include "arena.h"
#include "diag.h"
#include "spec.h"

typedef enum Target { TARGET_SM_80, TARGET_SM_90A, TARGET_COUNT } Target;
/* PLAN_COUNT   no attention at all: which pairs count, for calibrate, explore and tda_count */
typedef enum PlanKind { PLAN_AUTO, PLAN_DENSE, PLAN_SPARSE, PLAN_COUNT } PlanKind;

/* The pairs that a plan of PLAN_COUNT counts.
 * COUNT_WEIGHTS   those with a weight that is not 0; and sums over scores and weights
 * COUNT_ABOVE     those with a score above the threshold, whatever they weigh */
typedef enum Counted { COUNT_WEIGHTS, COUNT_ABOVE } Counted;

/* A deliberate defect, so that tests can show that the checks find it. */
typedef enum Defect { DEFECT_NONE, DEFECT_DROP_TILE, DEFECT_SHIFT_TAU, DEFECT_DROP_MARK } Defect;

typedef struct PlanOptions {
	Target target;
	PlanKind kind;
	Counted counted;
	Defect defect;
	int mark_capacity;                 /* 0: PLAN_MARK_CAPACITY; less, so that tests can exceed it */
	int heavy_keys;                    /* 0: PLAN_HEAVY_KEYS; less, so that small tests have heavy blocks */
	bool line_info;                    /* .loc lines in the PTX */
} PlanOptions;

/* What a launch computes, and so which template builds it. */
typedef enum Role {
	ROLE_TERMS,                        /* 1/|q|, tau, 1/|k| */
	ROLE_Q_TERMS,                      /* in a sparse plan: 1/|q|, tau, int8 rows and their bounds */
	ROLE_K_TERMS,                      /* 1/|k|; likewise */
	ROLE_SCREEN,                       /* which keys may survive for which rows */
	ROLE_PACK_MARKS,                   /* the screen's marks, closer together, for the backward */
	ROLE_FORWARD,
	ROLE_NORM_BACKWARD,                /* do through the output norm, partial sums of dgain */
	ROLE_BACKWARD_Q,                   /* dq, partial sums of the parameters' gradients */
	ROLE_BACKWARD_KV,                  /* dk and dv */
	ROLE_REDUCE,                       /* partial sums to one parameter's gradient */
	ROLE_COUNT_PAIRS,                  /* pairs by row, and by tile of rows and keys */
	ROLE_STATISTICS,                   /* sums over scores and weights */
	ROLE_COUNT                         /* of roles */
} Role;

enum {
	PLAN_MAX_LAUNCHES = 40, PLAN_MAX_ARGS = 128, PLAN_MAX_BUFFERS = 48,
	PLAN_TERM_ROWS = 64,               /* rows of a block of row terms */
	PLAN_WARP_ROWS = 16,
	PLAN_GROUP_WARPS = 4,              /* a warp group, which wgmma and setmaxnreg are instructions of */
	PLAN_PANEL_BYTES = 128,            /* a row of a panel of a swizzled matrix */
	PLAN_MARK = 64,                    /* rows, and keys, of a mark of the screen (templates/marks.h) */
	PLAN_WORD_MARKS = 32,              /* key tiles of a word of marks */
	PLAN_MAX_TEAMS = 2040,             /* of a launch whose teams tell how far they are (templates/progress.h) */
	PLAN_PROGRESS_WORDS = PLAN_MAX_TEAMS + 8,
	PLAN_BOUND_KEYS = 128,             /* keys whose int8 images share a scale, and one bound in the screen */
	PLAN_HELD_KEYS = 2,                /* of those, each thread of k_terms holds its part of so many in registers */
	PLAN_MARK_CAPACITY = 128,          /* marks kept for a row block; key tiles beyond are visited whole */
	PLAN_PACKED_MARKS = 62,            /* the same from forward to backward, on average over a head's row blocks */
	PLAN_GATHER_SPAN = 4,              /* blocks whose marks a thread of a kernel that gathers looks for at once (templates/tile_gather.c) */
	PLAN_PACK_BLOCKS = 16,             /* row blocks of a CTA of ROLE_PACK_MARKS, a warp for each */
	PLAN_HEAVY_PART = 3,               /* a block is heavy where gathering would visit one in so many of the keys it sees, or more, */
	PLAN_HEAVY_KEYS = 256,             /* and so many of each view for each 64 rows: few are gathered quickly */
	PLAN_POWERS = 4,                   /* of scores that ROLE_STATISTICS sums up, and */
	PLAN_TAILS = 6,                    /* how many bounds it counts the scores above of: what theory allows to 10^-1, 10^-2 ... of them */
	PLAN_SEARCH_BYTES = 384,           /* of shared memory, for a launch of heavy blocks to keep its place in (templates/blocks.c) */
	PLAN_HALF_REGISTERS = 128,
	PLAN_ALL_REGISTERS = 255,          /* a thread's, by the instruction set */
	PLAN_SM_REGISTERS = 65536          /* of all threads of a multiprocessor */
};

/*
 * How a tiled launch multiplies, and so how its matrices lie in shared memory and get there.
 * ENGINE_MMA_SYNC   every target and dtype: mma.sync, padded rows, copied with cp.async by the warps that compute
 * ENGINE_WGMMA      f16 and bf16 on sm_90a: wgmma, swizzled panels, boxes fetched through tensor maps by a warp group
 *                   of their own
 */
typedef enum Engine { ENGINE_MMA_SYNC, ENGINE_WGMMA } Engine;

/*
 * Which blocks of rows (of keys: ROLE_BACKWARD_KV) a launch computes. In a sparse plan, what is computed exactly has launches of two
 * kinds, and counts of the screen decide, on the device, which of them a block belongs to.
 * BLOCKS_ALL     all
 * BLOCKS_LIGHT   those of which few keys are marked: gathered
 * BLOCKS_HEAVY   the others: as in a dense plan
 */
typedef enum Blocks { BLOCKS_ALL, BLOCKS_LIGHT, BLOCKS_HEAVY } Blocks;

typedef enum ArgKind { ARG_PTR, ARG_I32, ARG_I64, ARG_MAP } ArgKind;
typedef struct LaunchArg {
	ArgKind kind;
	const char *source;                /* a pointer's name, a formula, or a tensor map's words (docs/manifest.md) */
} LaunchArg;

typedef struct Launch {
	Role role;
	const char *entry;                 /* the PTX entry */
	bool backward;                     /* phase; plans that count have one of their own */
	const char *when;                  /* skipped where this pointer is null; NULL: always launched */
	bool beside;                       /* neither reads nor writes what the launches before it write, back to the last that is not */
	                                   /* beside another: it may start as soon as they have */
	bool follows;                      /* waits by itself for the launch before it: it may start, too, but not begin; */
	bool begins_early;                 /* and does so later, as far as it needs only what that one needed (kernel_wait) */
	const char *grid;                  /* formula: number of CTAs */
	Engine engine;
	int warps;                         /* each owns 16 rows of the CTA's tile */
	int producer_warps;                /* more of them, which only fetch */
	int teams;                         /* of `warps` warps each, which take one block after the other and tell others how far they are */
	                                   /* (templates/progress.h); 0: the CTA has one block */
	const char *all_blocks;            /* formula: of all teams */
	const char *staying;               /* formula: percent of the CTAs whose teams take more than one */
	bool persistent;                   /* a CTA for each multiprocessor, which takes items of work while there are any (ring_items) */
	bool turns;                        /* warp groups take turns at starting products of rows: all do the same rounds */
	int rows;                          /* of the CTA's tile */
	int cols;                          /* of a streamed tile */
	int slots;                         /* of the ring of streamed tiles; of ENGINE_WGMMA, each holds a whole round of them */
	bool retain;                       /* backward_kv: the do tile stays in the ring until dv needs it */
	bool gathered;                     /* visits the pairs that the screen marked, one view after the other */
	Blocks blocks;
	int judged_rows;                   /* not BLOCKS_ALL: rows that are light or heavy together, the same for all launches of a role */
	int first_view, view_count;        /* whose dq or dk this launch computes */
	bool values;                       /* backward_kv: computes dv */
	int pass, last_pass;               /* backward_q: which part of the partial sums it writes; up to which it writes zeros */
	int param;                         /* reduce: which parameter */
	int shared_bytes;                  /* dynamic shared memory, set by the template and held to the plan's limit */
	int register_estimate;
	int register_limit;                /* what ptxas may use a thread */
	int producer_registers, consumer_registers;    /* what warp groups change that to, once they know their part; 0: nothing */
	LaunchArg args[PLAN_MAX_ARGS];     /* filled by the template as it asks for them */
	int arg_count;
} Launch;

/* From how many rows and keys on a file that holds both plans takes the sparse one. */
typedef struct Crossover {
	int q_len, k_len;
	int timed;                         /* the least number of keys at which both plans were timed; 0: neither was */
} Crossover;

typedef enum BufferKind { BUFFER_SAVED, BUFFER_FORWARD, BUFFER_BACKWARD, BUFFER_COUNTS } BufferKind;
typedef struct Buffer {
	const char *name;
	BufferKind kind;
	const char *bytes;                 /* formula */
} Buffer;

typedef struct Plan Plan;
struct Plan {
	const Spec *spec;
	PlanOptions options;
	bool sparse;
	bool counts;                       /* PLAN_COUNT */
	bool zeros_proved;                 /* the weight is exactly 0 wherever s <= tau */
	bool screens;                      /* and the score increases with s: a sparse plan is possible */
	const Expr *factor;                /* which factor proves it, or NULL */
	const Expr *obstacle;              /* what stands in the way, or NULL */
	bool int8_tiles;                   /* int8 keys lie as wgmma reads them (plan_int8_tile_bytes), not row by row */
	int tau_views;                     /* buffers of thresholds: 1 when no view differs, else views */
	int backward_q_passes;
	int shared_limit;                  /* bytes a CTA may use on the target */
	Buffer buffers[PLAN_MAX_BUFFERS];
	int buffer_count;
	Launch launches[PLAN_MAX_LAUNCHES];
	int launch_count;
	const Crossover *crossover;        /* NULL: the file's only plan, taken for every shape */
	Plan *next;                        /* the sparse plan of the same file; both have one buffer of a name */
};

/* PLAN_AUTO makes a dense plan, followed by a sparse one where the spec has it and some shape takes it. NULL after a
 * diagnostic. Allocated in the arena. */
Plan *plan_make(Arena *arena, Diag *diag, const Spec *spec, PlanOptions options);
/* A file's plans as text: --emit=plan. */
void plan_print(const Plan *plan, FILE *out);
/* For people: tiles, stages, shared memory, why these plans, whether exact zeros are proved and by which factor. */
void plan_explain(const Plan *plan, FILE *out);

/* NULL where no shape of the spec takes a sparse plan. */
const Crossover *plan_crossover(const Spec *spec, Target target);
/* Formula over the shape: 1 where the plan is taken, 0 where the other one is. NULL where it is the only one. */
const char *plan_taken(const Plan *plan, Arena *arena);

Target plan_target(const Plan *plan);
const char *target_name(Target target);            /* sm_80, sm_90a */
const char *target_features(Target target);        /* LLVM's feature string, "+ptx80" */
const char *role_name(Role role);
const char *role_purpose(Role role);               /* what it computes, in words */
const char *plan_kind_name(const Plan *plan);       /* dense, sparse, count */
const char *phase_name(const Plan *plan, const Launch *launch);        /* as the manifest has it */
const char *buffer_kind_name(BufferKind kind);
const char *counted_name(Counted counted);

/* PLAN_COUNT: rows of a block of what is counted by tiles. */
int plan_count_rows(const Plan *plan);
/* Floats, and integers, that ROLE_STATISTICS sums up for each 16 rows. */
int plan_moments(const Spec *spec);
int plan_tails(const Spec *spec);
/* Does the gradient of parameter `param` come through the launches of ROLE_BACKWARD_Q? */
bool plan_has_partials(const Plan *plan, int param);
/* Is the gradient of o before the norm kept as a rounded tensor and a rest? It is nearly orthogonal to o, and where few keys
 * survive do.v cancels almost entirely, so 8 or 11 bits of do are not enough. */
bool plan_splits_output_gradient(const Spec *spec);
/* Does the forward that gathers leave marks only what other kernels may find above the threshold, too? */
bool plan_refines_marks(const Spec *spec);
/* Rows of an entry of the partial sums that backward_q writes; and formula of the number of entries a head. */
int plan_partial_rows(const Plan *plan);
const char *plan_row_blocks(const Plan *plan, Arena *arena);
/* Bytes of a row of int8 in the screen's images of q and k: head_dim rounded up to the depth of a matrix instruction. */
int plan_int8_bytes(const Spec *spec);
/* Keys that a sparse plan prepares together, existing or not, and that the screen takes a round. */
int plan_int8_keys(const Spec *spec);
/* Bytes of so many keys as wgmma reads them: swizzled panels of 128 bytes a row, of which two keys of up to 64 bytes share one
 * (plan_int8_keys_a_row). templates/quantise.c has the order. */
int plan_int8_tile_bytes(const Spec *spec);
int plan_int8_keys_a_row(const Spec *spec);
/* Bytes of what the screen compares a row's products with: two float32, or, where nothing is normalised, three and padding. */
int plan_row_bound_bytes(const Spec *spec);
/* Bytes of an int8 key, with what is beside it in its layout. */
int plan_int8_key_bytes(const Plan *plan);
/* Threads that share a row of q or k while its int8 image is made, a power of two: each has two times 16 elements, most often. */
int plan_int8_lanes(int int8_bytes);
/* Rows of the forward that are heavy together, of a sparse plan. */
int plan_heavy_rows(const Plan *plan);
int plan_heavy_keys(const Plan *plan);
/* Marks kept for a row block at most; and from forward to backward, on average: the same share of them for each capacity. */
int plan_mark_capacity(const Plan *plan);
int plan_packed_marks(const Plan *plan);
/* Bytes of one row of a tile of `cols` elements of the spec's dtype in shared memory: rounded up to the depth of a matrix
 * instruction (32 bytes), then to an odd number of 16-byte chunks, so that eight rows lie in different banks. */
int plan_row_bytes(const Spec *spec, int cols);
/* The same of a swizzled matrix: whole panels, each PLAN_PANEL_BYTES wide. */
int plan_panel_row_bytes(const Spec *spec, int cols);
int plan_threads(const Launch *launch);
/* May another launch start before it ends? */
bool plan_is_followed(const Plan *plan, const Launch *launch);
/* The first launch of a role; NULL where there is none. */
const Launch *plan_launch(const Plan *plan, Role role);

#endif
