/* Formulas: values, floor division, overflow, and texts that must be refused; then random texts, which must not
 * crash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/formula.h"
#include "fixture.h"

static int64_t vars[FORMULA_VARS];

static const struct { const char *text; int64_t value; } good[] = {
	{ "1", 1 }, { "1+2*3", 7 }, { "(1+2)*3", 9 }, { "10-3-2", 5 }, { "7/2", 3 }, { "(0-7)/2", -4 }, { "(0-7)%2", 1 },
	{ "7%(0-2)", -1 }, { "batch*heads", 6 }, { "ceil_div(q_len,64)", 2 }, { "round_up(q_len,64)", 128 },
	{ "ceil_div(0-q_len,64)", -1 }, { "ceil_div(0,64)", 0 }, { "min(q_len,k_len)", 100 }, { "max(q_len,k_len)", 200 },
	{ "min(max(1,2),3)+4", 6 }, { "q1.batch_stride", 1000 }, { "dk4.row_stride*2", 2004 }, { "layer", 0 },
	{ "min(batch*heads,multiprocessors)", 5 },
	{ "9223372036854775807", INT64_MAX }, { "ceil_div(0-9223372036854775807-1,3)", -3074457345618258602 },
	{ "(0-9223372036854775807-1)%(0-1)", 0 },
};

static const char *const refused[] = {
	"", "1+", "+1", "(1", "1)", "1 + 2", "foo", "q5.row_stride", "q1.stride", "q1", "min(1)", "min(1,2,3)", "minimum(1,2)",
	"9223372036854775808", "1**2", "batch.row_stride", "-1", "ceil_div", "0x10", "1.5",
	"((((((((((((((((((((((((((((((((((1",
};

static const char *const failing[] = {
	"1/0", "1%0", "ceil_div(1,0)", "round_up(1,batch-batch)", "9223372036854775807+1", "9223372036854775807*2",
	"0-9223372036854775807-2", "(0-9223372036854775807-1)/(0-1)", "round_up(9223372036854775807,64)",
};

static void test_values(void)
{
	for (size_t n = 0; n < sizeof(good) / sizeof(good[0]); n++) {
		Formula *f = formula_parse(good[n].text, strlen(good[n].text));
		int64_t value = 0;

		if (!CHECK(f != NULL, "%s: %s", good[n].text, tda_error_message()))
			continue;
		CHECK(formula_eval(f, vars, &value) == TDA_OK, "%s: %s", good[n].text, tda_error_message());
		CHECK(value == good[n].value, "%s is %lld", good[n].text, (long long)value);
		free(f);
	}
}

static void test_refusals(void)
{
	for (size_t n = 0; n < sizeof(refused) / sizeof(refused[0]); n++) {
		Formula *f = formula_parse(refused[n], strlen(refused[n]));
		CHECK(f == NULL, "'%s' was accepted", refused[n]);
		free(f);
	}
	for (size_t n = 0; n < sizeof(failing) / sizeof(failing[0]); n++) {
		Formula *f = formula_parse(failing[n], strlen(failing[n]));
		int64_t value;
		CHECK(f && formula_eval(f, vars, &value) != TDA_OK, "'%s' has a value", failing[n]);
		free(f);
	}
}

static void test_random_texts(void)
{
	static const char *const pieces[] = {
		"1", "99999999999", "+", "-", "*", "/", "%", "(", ")", ",", "min(", "max(", "ceil_div(", "round_up(", "batch",
		"q_len", "q1.row_stride", ".", " ", "0",
	};
	uint64_t seed = 1;
	int parsed = 0;

	for (int n = 0; n < 200000; n++) {
		char text[256] = "";
		int count = 1 + (int)(fixture_random(&seed) % 12);
		int64_t value;
		Formula *f;

		for (int p = 0; p < count; p++)
			strcat(text, pieces[fixture_random(&seed) % (sizeof(pieces) / sizeof(pieces[0]))]);
		f = formula_parse(text, strlen(text));
		if (f && formula_eval(f, vars, &value) == TDA_OK)
			parsed++;
		free(f);
	}
	CHECK(parsed > 1000, "only %d random texts were formulas", parsed);
}

int main(void)
{
	vars[SHAPE_BATCH] = 2;
	vars[SHAPE_HEADS] = 3;
	vars[SHAPE_MULTIPROCESSORS] = 5;
	vars[SHAPE_Q_LEN] = 100;
	vars[SHAPE_K_LEN] = 200;
	vars[formula_stride_var(TENSOR_Q, STRIDE_BATCH)] = 1000;
	vars[formula_stride_var(TENSOR_DK + 3, STRIDE_ROW)] = 1002;
	test_values();
	test_refusals();
	test_random_texts();
	return fixture_result();
}
