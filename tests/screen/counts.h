/* The screen's counts of what gathering would visit, against its marks. */
#ifndef COUNTS_H
#define COUNTS_H

#include "../../runtime/marks.h"

/* name: of the case, for what is said where they differ. */
void test_counts(const char *name, const Problem *problem, const ScreenMarks *marks);

#endif
