/*
 * What a spec does on given tensors, counted exactly: zeros, survivors by position, dead rows and heads, attention sinks, the units of
 * work that hold a survivor, norms, and what theory assumes of scores. By the f64 reference, or by kernels on a device.
 */
#ifndef TDA_EXPLORE_H
#define TDA_EXPLORE_H

#include <stdio.h>
#include "problem.h"

enum { EXPLORE_ROWS = 64 };            /* rows of a block of work */
enum { EXPLORE_UNITS = 3 };            /* shapes of a unit of work: a row block and this many keys */
extern const int explore_unit_keys[EXPLORE_UNITS];
enum { EXPLORE_OCTAVES = 32 };         /* of how many keys a row sees: 1, 2-3, 4-7, ... */
enum { EXPLORE_TAILS = 6 };            /* tail probabilities 10^-1 .. 10^-6 */
enum { EXPLORE_MAP = 64 };             /* cells of a map's side, at most */

/* Rows that see so many keys. */
typedef struct ExploreOctave {
	int64_t rows, dead;            /* dead: no survivor in any view */
	int64_t survivors;             /* over the views */
	double bound;                  /* sum over rows and views of the survivors that theory allows: explore_bound() */
	int64_t consensus;
	double by_chance;
} ExploreOctave;

/* Sums over rows of one head, or of several: explore_add. */
typedef struct ExploreCounts {
	int views;
	bool zeros_proved;             /* or every plan is dense */
	int64_t heads, dead_heads;     /* dead: no survivor at all */
	ExploreOctave octave[EXPLORE_OCTAVES];
	int64_t visible;               /* pairs of a row and a key that it sees */
	int64_t survivors[TDA_MAX_VIEWS];
	int64_t consensus;             /* pairs that survive in two views or more */
	double by_chance;              /* how many would, were survivors of a row independent between views */
	int64_t units[EXPLORE_UNITS], units_hit[EXPLORE_UNITS];        /* with a visible pair; with a survivor in any view */
	int64_t visited;               /* visible pairs of a row and a key that survives for a row of its block */
	int64_t gathered[TDA_MAX_VIEWS];       /* row blocks and a key that survives, in that view, for a row of it */
	/* |a(i, 0)| / sum over j of |a(i, j)|, a being the combined weights, summed over the rows where the divisor is not 0;
	 * and the same were all |a(i, j)| of a row alike */
	double sink, sink_uniform;
	int64_t sink_rows;
	double power[TDA_MAX_VIEWS][4];        /* sums of powers 1 to 4 of scores */
	double product[TDA_MAX_VIEWS][TDA_MAX_VIEWS];  /* sums of products of two views' scores of a pair, [v][w < v] */
	int64_t above[TDA_MAX_VIEWS][EXPLORE_TAILS];   /* scores above explore_tail() */
	int64_t rows;                  /* of q, those that see no key too */
	double o_square, dq_square, dk_square, dv_square;      /* squares of 2-norms */
	double softmax_error, softmax_square;  /* squares of norms: o less that of a dense softmax; that of the softmax */
	double softmax_cosine, softmax_sink;   /* sums over softmax_rows rows */
	int64_t softmax_rows;
} ExploreCounts;

typedef struct ExploreOptions {
	bool gradients;                /* do is there */
	bool softmax;                  /* compare with a dense softmax */
	Device *device;                /* that counts; NULL: the reference does */
	tda_kernel *counter;           /* with a device: of the problem's spec, made for counting */
	void (*progress)(void *user, double share);    /* from any thread, one at a time; may be NULL */
	void *user;
} ExploreOptions;

typedef struct Exploration {
	int64_t heads;
	ExploreCounts *head;           /* [heads], summed over the batch */
	ExploreCounts all;
	/* Survivors by cells of a head's plane of rows and keys, summed over views and batch; -1: no visible pair. */
	int64_t map_rows, map_cols, map_side;  /* map_side: rows, and keys, of a cell; a multiple of EXPLORE_ROWS */
	int64_t *map;                  /* [heads, map_rows, map_cols]; NULL: not kept */
	double *dparam[TDA_MAX_PARAMS];        /* with gradients */
	double count_ms;               /* of a device with a clock: what counting took; else NAN */
} Exploration;

/* TDA_BAD_ARGUMENT where a score is NaN or infinite. Freed by explore_free, after a failure too. A problem is not placed before or after;
 * with a device, its outputs hold what kernels wrote. */
tda_status explore_measure(Problem *problem, const ExploreOptions *options, Exploration *result);
void explore_free(Exploration *result);
void explore_add(ExploreCounts *to, const ExploreCounts *from);

/* The share of keys whose score passes t, at most, where scores are sub-Gaussian with variance 1 / head_dim:
 * exp(-head_dim t^2 / 2). */
double explore_bound(const Manifest *manifest, double t);
/* The t whose bound is 10^-(n + 1). */
double explore_tail(const Manifest *manifest, int n);
/* Do those bounds mean anything? Other scores than cosines may have any variance. */
bool explore_bounded(const Manifest *manifest);

/* explore_softmax.c: fills the softmax_ fields of `counts`, [batch * heads]. */
tda_status explore_softmax(const Problem *problem, const double *o, ExploreCounts *counts);

#endif
