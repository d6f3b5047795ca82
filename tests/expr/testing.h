/* Counting checks: each test program prints "N passed, N failed" and exits with test_end(). */
#ifndef TDAGEN_TESTS_TESTING_H
#define TDAGEN_TESTS_TESTING_H

#include <stdbool.h>
#include <stdio.h>

static int test_passed, test_failed;

/* Counts a check; prints what failed, up to a limit. */
#define CHECK(condition, ...) \
	do { \
		if (condition) { \
			test_passed++; \
		} else if (test_failed++ < 20) { \
			printf("%s:%d: failed: %s: ", __FILE__, __LINE__, #condition); \
			printf(__VA_ARGS__); \
			printf("\n"); \
		} \
	} while (0)

static inline int test_end(void)
{
	printf("%d passed, %d failed\n", test_passed, test_failed);
	return test_failed || !test_passed;
}

#endif
