/* The screen's counts of what gathering would visit, against its marks. */
#ifndef COUNTS_H
#define COUNTS_H

#include "../../runtime/marks.h"

/* Marks of so many keys or rows that groups of them are kept, in all that test_counts looked at. */
int64_t test_grouped_marks(void);
/* name: of the case, for what is said where they differ. kept: MARKS_KEPT. */
void test_counts(const char *name, const Problem *problem, const ScreenMarks *kept);

#endif
