/* How long a call takes the host, and how much of it is libtda's own work: the rest is spent inside of the driver. */
#ifndef GPU_CALL_TIME_H
#define GPU_CALL_TIME_H

#include "api_case.h"

typedef struct CallTimes {
	double forward, backward;              /* microseconds, medians */
	double own_forward, own_backward;      /* of them outside of the driver, and the clocks that are read around its functions */
} CallTimes;

/* The kernel is loaded. The stream is empty before each call. */
tda_status call_times(const Case *c, CUstream stream, CallTimes *times);

#endif
