/* Which value of a learned parameter lets as many pairs survive as are wanted, on given tensors. */
#ifndef TDA_CALIBRATE_H
#define TDA_CALIBRATE_H

#include <stdbool.h>
#include <stdio.h>
#include "count_by.h"

typedef enum CalibrateTarget {
	CALIBRATE_SURVIVORS,           /* pairs with s > tau, averaged over views and over rows that see a key */
	CALIBRATE_ZEROS,               /* the share of visible pairs that do not survive */
	/* the share of visible pairs whose key survives, in any view, for one of the 64 rows that the row's block gathers for */
	CALIBRATE_VISITED,
	CALIBRATE_TARGETS
} CalibrateTarget;

typedef enum CalibratePer { CALIBRATE_PER_HEAD, CALIBRATE_PER_LAYER, CALIBRATE_PER_GLOBAL } CalibratePer;

typedef struct CalibrateOptions {
	const char *in;                /* arrays (inputs.h) */
	const char *param;             /* NULL: the only one that the threshold reads */
	CalibrateTarget target;
	double wanted;                 /* survivors: above 0; shares: between 0 and 1 */
	CalibratePer per;
	int layer;
	Device *device;                /* that counts; NULL: the f64 reference does */
	tda_kernel *counter;           /* with a device: of the spec, made for counting pairs above the threshold */
} CalibrateOptions;

typedef struct Calibration {
	int param;                     /* index, as tda_get_info has it */
	int64_t heads;
	double *value;                 /* [heads], each a float32; freed by the caller, after a failure too (NULL is possible) */
	bool given;                    /* the parameter is among the arrays ... */
	bool given_alike;              /* ... with one value, that of `base` */
	double base;                   /* that value, or the initial one */
} Calibration;

/* "survivors=2", "zeros=0.99" or "visited=0.02". */
tda_status calibrate_parse_target(const char *text, CalibrateTarget *target, double *wanted);

/* Counts survivors, bisects, and prints a table by head to `out`; with `progress`, says
 * on standard error which heads are done when it takes longer than a second. TDA_BAD_ARGUMENT where a head cannot reach the
 * target within 2 % of its pairs; the table says why. */
tda_status calibrate_run(tda_kernel *kernel, const CalibrateOptions *options, bool progress, FILE *out,
                         Calibration *calibration);

#endif
