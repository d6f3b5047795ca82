/*
 * The manifest reader: what a valid file says, a refusal for each rule, and mutated files: with a hash that no
 * longer matches (must be refused), and sealed again (may be refused, must never crash).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/manifest.h"
#include "fixture.h"

static char *whole_lines(void)
{
	char *lines = malloc(strlen(fixture_tda_lines) + strlen(fixture_tda_kernels) + 1);

	strcpy(lines, fixture_tda_lines);
	strcat(lines, fixture_tda_kernels);
	return lines;
}

static void test_valid(void)
{
	char *lines = whole_lines(), *text = fixture_seal(lines, fixture_body);
	Manifest *m;

	if (CHECK(manifest_parse(text, strlen(text), &m) == TDA_OK, "%s", tda_error_message())) {
		CHECK(m->views == 2 && m->head_dim == 64 && m->dtype == TDA_BF16 && m->causal && m->window == 0, "facts");
		CHECK(m->capability == 80 && !m->capability_exact && m->zeros_proved && m->l2_normalized, "facts");
		CHECK(m->param_count == 2 && m->params[1].max == 1 && m->params[0].shape == TDA_PER_HEAD, "parameters");
		CHECK(m->buffer_count == 3 && m->buffers[2].kind == BUFFER_BACKWARD, "buffers");
		CHECK(m->kernel_count == 5 && m->kernels[0].arg_count == 9 && m->kernels[4].conditional, "kernels");
		CHECK(m->kernels[1].map_count == 1 && m->kernels[1].args[5].map->box_rows == 128, "a tensor map");
		CHECK(m->kernels[1].shared == 50000 && m->kernels[1].block == 128, "a kernel");
		CHECK(strcmp(pointer_text(m, m->kernels[4].when), "dparam.beta") == 0, "when");
		CHECK(m->tolerance[PHASE_BACKWARD] == 0.01 && m->slack == 1e-6, "numbers");
		manifest_free(m);
	}
	free(text);
	free(lines);
}

/* Replaces the first `from` in the lines by `to`, seals, and expects this message. */
#define DAMAGED "; the file is damaged or was edited: compile the spec again"
static const struct { const char *from, *to, *message; } refusals[] = {
	{ "//! dtype bf16\n", "", "the manifest lacks its line 'dtype'; compile the spec again" },
	{ "//! combine 2 $lambda 0 1 clamp neg\n", "", "the manifest lacks its line 'combine 2'; compile the spec again" },
	{ "bf16", "f8", "line 6 of the manifest: the value is none of those that this libtda knows" DAMAGED },
	{ "head_dim 64", "head_dim 65", "line 8 of the manifest: the dimension is not a multiple of 8" DAMAGED },
	{ "head_dim 64", "head_dim  64", "line 8 of the manifest: words are not separated by single spaces" DAMAGED },
	{ "views 2", "views 5", "line 10 of the manifest: a number is malformed or out of range" DAMAGED },
	{ "causal", "striped", "line 12 of the manifest: this mask is not known to this libtda" DAMAGED },
	{ "views 2\n", "views 2\n//! views 2\n", "line 11 of the manifest: the keyword is there twice" DAMAGED },
	{ "param lambda", "param beta", "line 14 of the manifest: the parameter is there twice" DAMAGED },
	{ "threshold $beta", "threshold $gamma",
	  "line 15 of the manifest: the word '$gamma' of an expression is unknown or not allowed there" },
	{ "threshold $beta", "threshold s",
	  "line 15 of the manifest: the word 's' of an expression is unknown or not allowed there" },
	{ "weight s tau -", "weight s -",
	  "line 17 of the manifest: an expression is not balanced, or needs more than 64 values at a time" },
	{ "round_up(q_len,64)*8", "round_up(q_len,64*8", "line 23 of the manifest: a formula lacks a ')' at ''" },
	{ "round_up(q_len,64)*8", "q1.row_stride",
	  "line 23 of the manifest: the formula reads a variable that has no value there" DAMAGED },
	{ "round_up(q_len,64)*8", "multiprocessors",
	  "line 23 of the manifest: the formula reads a variable that has no value there" DAMAGED },
	{ "arg i32 heads\n", "arg i32 multiprocessors\n",
	  "line 32 of the manifest: the formula reads a variable that has no value there" DAMAGED },
	{ "arg ptr q1", "arg ptr q3",
	  "line 27 of the manifest: the kernel uses a tensor that its phase does not have" DAMAGED },
	{ "arg ptr q1", "arg ptr dq1",
	  "line 27 of the manifest: the kernel uses a tensor that its phase does not have" DAMAGED },
	{ "arg ptr q1", "arg ptr buffer.partial",
	  "line 27 of the manifest: the kernel uses scratch of the other phase" DAMAGED },
	{ "arg ptr q1", "arg ptr buffer.nothing", "line 27 of the manifest: no such tensor, parameter or buffer" DAMAGED },
	{ "arg ptr q1", "arg f32 q1", "line 27 of the manifest: the argument's type is not known to this libtda" DAMAGED },
	{ "arg map k1 64", "arg map k1 64 64", "line 42 of the manifest: there are too few or too many words" DAMAGED },
	{ "arg map k1 64", "arg map dk1 64",
	  "line 42 of the manifest: the kernel uses a tensor that its phase does not have" DAMAGED },
	{ " 64 128\n", " 64 257\n", "line 42 of the manifest: a number is malformed or out of range" DAMAGED },
	{ "k_len 2*k1.row_stride", "k1.row_stride 2*k1.row_stride",
	  "line 42 of the manifest: the formula reads a variable that has no value there" DAMAGED },
	{ "slack 1e-6\n", "slack 1e-6\n//! kept 65 32 62\n",
	  "line 23 of the manifest: a number is malformed or out of range" DAMAGED },
	{ "slack 1e-6\n", "slack 1e-6\n//! kept 64 32\n",
	  "line 23 of the manifest: there are too few or too many words" DAMAGED },
	{ "//! kernel forward row_terms", "//! beside\n//! kernel forward row_terms",
	  "line 26 of the manifest: 'beside' has no kernel above it, or none of its phase to be beside of" DAMAGED },
	{ "//! kernel forward row_terms", "//! follows\n//! kernel forward row_terms",
	  "line 26 of the manifest: 'follows' has no kernel above it, none of its phase to follow, or one that is beside others" DAMAGED },
	{ "slack 1e-6\n", "slack 1e-6\n//! heavy 4 256 96\n", "line 23 of the manifest: the rows are not a multiple of 64" DAMAGED },
	{ "slack 1e-6\n", "slack 1e-6\n//! heavy 0 256 64\n",
	  "line 23 of the manifest: a number is malformed or out of range" DAMAGED },
	{ "slack 1e-6\n", "slack 1e-6\n//! count weights 24\n", "line 23 of the manifest: the rows do not divide 64" DAMAGED },
	{ "slack 1e-6\n", "slack 1e-6\n//! count all 64\n",
	  "line 23 of the manifest: the value is none of those that this libtda knows" DAMAGED },
	{ "kernel forward row_terms", "kernel count row_terms", "line 30 of the manifest: the kernel uses scratch of the other phase" DAMAGED },
	{ "kernel forward forward", "kernel count forward",
	  "line 38 of the manifest: the kernel uses a tensor that its phase does not have" DAMAGED },
	{ "row_terms 128", "row_terms 2048", "line 26 of the manifest: a number is malformed or out of range" DAMAGED },
	{ "plan dense", "plan both", "line 5 of the manifest: the value is none of those that this libtda knows" DAMAGED },
	{ "sm_80", "gfx90", "line 3 of the manifest: the target is not sm_ and a number" DAMAGED },
};

static char *replaced(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);
	char *result = malloc(strlen(text) + strlen(to) + 1);

	memcpy(result, text, (size_t)(at - text));
	strcpy(result + (at - text), to);
	strcat(result, at + strlen(from));
	return result;
}

static void expect_refusal(const char *text, const char *message)
{
	Manifest *m;

	CHECK(manifest_parse(text, strlen(text), &m) == TDA_BAD_FILE && !m, "accepted; expected: %s", message);
	CHECK_MESSAGE(message);
}

static void test_refusals(void)
{
	char *lines = whole_lines(), *text = fixture_seal(lines, fixture_body), *edited;
	size_t length = strlen(text);

	for (size_t n = 0; n < sizeof(refusals) / sizeof(refusals[0]); n++) {
		char *bad_lines = replaced(lines, refusals[n].from, refusals[n].to);
		char *bad = fixture_seal(bad_lines, fixture_body);

		expect_refusal(bad, refusals[n].message);
		free(bad);
		free(bad_lines);
	}
	expect_refusal("", "this is not a PTX file of tdagen: it does not begin with '//! tdagen-manifest'");
	expect_refusal(".version 8.0\n", "this is not a PTX file of tdagen: it does not begin with '//! tdagen-manifest'");
	edited = replaced(text, "manifest 1.0", "manifest 2.0");
	expect_refusal(edited, "the manifest has version 2.0; this libtda reads 1.x: use the libtda of the tdagen that "
	               "wrote the file, or compile the spec again");
	free(edited);
	edited = replaced(text, "manifest 1.0", "manifest 1.7\n//! a keyword of the future");
	Manifest *m;
	CHECK(manifest_parse(edited, strlen(edited), &m) == TDA_OK, "a later minor version: %s", tda_error_message());
	manifest_free(m);
	free(edited);
	text[length - 2] ^= 1;
	expect_refusal(text, "the PTX does not match its manifest (SHA-256): the file is truncated or was edited; "
	               "compile the spec again");
	text[length - 2] = 0;
	expect_refusal(text, "the PTX does not match its manifest (SHA-256): the file is truncated or was edited; "
	               "compile the spec again");
	text[200] = 0;
	expect_refusal(text, "the manifest has no 'end' line: the file is truncated or was edited; compile the spec again");
	free(text);
	free(lines);
}

/* One to four changes: a byte, a line dropped, a line doubled, a word swapped with one from elsewhere. */
static char *mutate(const char *lines, uint64_t *seed)
{
	size_t length = strlen(lines);
	char *text = malloc(2 * length + 1);

	strcpy(text, lines);
	for (int changes = 1 + (int)(fixture_random(seed) % 4); changes > 0; changes--) {
		size_t at = fixture_random(seed) % length, other = fixture_random(seed) % length;
		size_t count = 1 + fixture_random(seed) % 30;

		if (at + count > length || other + count > length)
			continue;
		switch (fixture_random(seed) % 3) {
		case 0:
			text[at] = (char)(1 + fixture_random(seed) % 255);
			break;
		case 1:
			memmove(text + at, text + at + count, length + 1 - at - count);
			length -= count;
			break;
		case 2:
			memmove(text + at, text + other, count);
			break;
		}
		if (length < 100)
			break;
	}
	return text;
}

static void test_mutations(void)
{
	char *lines = whole_lines();
	uint64_t seed = 3;
	int accepted = 0;

	for (int n = 0; n < 20000; n++) {
		char *bad_lines = mutate(lines, &seed), *bad = fixture_seal(bad_lines, fixture_body);
		Manifest *m;

		if (manifest_parse(bad, strlen(bad), &m) == TDA_OK)
			accepted++;
		else
			CHECK(m == NULL && tda_error_message()[0], "a refusal without a message");
		manifest_free(m);
		free(bad);
		free(bad_lines);
	}
	CHECK(accepted < 15000, "%d mutated manifests were accepted", accepted);
	free(lines);
}

int main(void)
{
	test_valid();
	test_refusals();
	test_mutations();
	return fixture_result();
}
