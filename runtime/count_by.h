/* Where explore and calibrate count. */
#ifndef TDA_COUNT_BY_H
#define TDA_COUNT_BY_H

#include "tda.h"

typedef struct Device Device;

/* By default on the first GPU where there is one, else by the f64 reference. */
typedef enum CountBy { COUNT_BY_DEFAULT, COUNT_BY_GPU, COUNT_BY_SIM, COUNT_BY_REFERENCE } CountBy;

/* *device is NULL where the reference counts; else freed by device_close, after all kernels that it ran are closed. */
tda_status device_for_counting(CountBy by, Device **device);
void device_close(Device *device);     /* NULL is allowed */
/* "gpu (...)", or "reference (...)" of NULL. */
const char *device_name(const Device *device);

#endif
