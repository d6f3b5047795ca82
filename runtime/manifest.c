/*
 * Reads a manifest: a table of keywords, one handler each. Lines are read in two passes, so that a kernel or an
 * expression may name a buffer or a parameter of any other line. The text is hostile until its SHA-256 has been seen
 * to match, and even then a manifest is only believed as far as it has been checked.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../compiler/sha256.h"
#include "error.h"
#include "manifest_kernels.h"
#include "manifest_words.h"
#include "number.h"

enum { MAX_LINE_WORDS = 4200 };        /* an expression's limit and some */
/* Wider windows mean the same: no length reaches it, and sums with it stay small. */
static const int64_t widest_window = (int64_t)1 << 40;

static const char *const dtype_words[] = { [TDA_F32] = "f32", [TDA_F16] = "f16", [TDA_BF16] = "bf16", NULL };
static const char *const shape_words[] = {
	[TDA_SCALAR] = "scalar", [TDA_PER_HEAD] = "per_head", [TDA_PER_LAYER] = "per_layer",
	[TDA_PER_LAYER_HEAD] = "per_layer_head", [TDA_PER_CHANNEL] = "per_channel", NULL
};
static const char *const kind_words[] = {
	[BUFFER_SAVED] = "saved", [BUFFER_FORWARD] = "forward", [BUFFER_BACKWARD] = "backward", [BUFFER_COUNTS] = "counts", NULL
};
/* ---- the first pass: facts, parameters, buffers ---- */

static tda_status read_compiler(Reader *r)
{
	return word_copy_printable(r, r->word[0], r->m->compiler, sizeof(r->m->compiler));
}

static tda_status read_target(Reader *r)
{
	tda_status status = word_copy_name(r, r->word[0], r->m->target, sizeof(r->m->target));
	const char *digits = r->m->target + 3;
	size_t length = strlen(r->m->target);
	int64_t capability = 0;

	if (status)
		return status;
	r->m->capability_exact = r->m->target[length - 1] == 'a';
	if (length < 4 || memcmp(r->m->target, "sm_", 3) != 0 ||
	    !integer_parse(digits, length - 3 - (size_t)r->m->capability_exact, 50, 999, &capability))
		return manifest_bad_line(r, "the target is not sm_ and a number");
	r->m->capability = (int)capability;
	return TDA_OK;
}

static tda_status read_spec(Reader *r)
{
	tda_status status = word_copy_printable(r, r->word[0], r->m->spec_name, sizeof(r->m->spec_name));

	return status ? status : word_copy_printable(r, r->word[1], r->m->spec_hash, sizeof(r->m->spec_hash));
}

static tda_status read_plan(Reader *r)
{
	static const char *const plans[] = { "dense", "sparse", "auto", "count", NULL };
	int plan;
	tda_status status = word_read_choice(r, 0, plans, &plan);

	return status ? status : word_copy_name(r, r->word[0], r->m->plan, sizeof(r->m->plan));
}

static tda_status read_dtype(Reader *r)
{
	int dtype = 0;
	tda_status status = word_read_choice(r, 0, dtype_words, &dtype);

	r->m->dtype = (tda_dtype)dtype;
	return status;
}

static tda_status read_precision(Reader *r)
{
	static const char *const precisions[] = { "ieee", "tf32", NULL };
	int precision = 0;
	tda_status status = word_read_choice(r, 0, precisions, &precision);

	r->m->tf32 = precision == 1;
	return status;
}

static tda_status read_dim(Reader *r, int *dim)
{
	tda_status status = word_read_int(r, 0, 8, 256, dim);

	return status ? status : *dim % 8 ? manifest_bad_line(r, "the dimension is not a multiple of 8") : TDA_OK;
}

static tda_status read_head_dim(Reader *r)
{
	return read_dim(r, &r->m->head_dim);
}

static tda_status read_value_dim(Reader *r)
{
	return read_dim(r, &r->m->value_dim);
}

static tda_status read_views(Reader *r)
{
	return word_read_int(r, 0, 1, TDA_MAX_VIEWS, &r->m->views);
}

static tda_status read_normalize(Reader *r)
{
	static const char *const choices[] = { "none", "l2", NULL };
	int choice = 0;
	tda_status status = word_read_choice(r, 0, choices, &choice);

	r->m->l2_normalized = choice == 1;
	return status;
}

static tda_status read_mask(Reader *r)
{
	int64_t window;

	if (r->words == 1 && word_is(r->word[0], "causal")) {
		r->m->causal = true;
		return TDA_OK;
	}
	if (r->words == 2 && word_is(r->word[0], "window") &&
	    integer_parse(r->word[1].text, r->word[1].length, 1, INT64_MAX, &window)) {
		window = window < widest_window ? window : widest_window;
		if (r->m->window == 0 || window < r->m->window)
			r->m->window = window;
		return TDA_OK;
	}
	return manifest_bad_line(r, "this mask is not known to this libtda");
}

static tda_status read_param(Reader *r)
{
	ManifestParam *p = &r->m->params[r->m->param_count];
	int shape = word_choice(r->word[1], shape_words);
	tda_status status;

	if (r->m->param_count == TDA_MAX_PARAMS)
		return manifest_bad_line(r, "there are more parameters than libtda can take");
	status = word_copy_name(r, r->word[0], p->name, sizeof(p->name));
	if (status)
		return status;
	if (shape < 0)
		return manifest_bad_line(r, "the parameter's shape is not known to this libtda");
	p->shape = (tda_param_shape)shape;
	if (manifest_find_param(r->m, p->name, strlen(p->name)) >= 0)
		return manifest_bad_line(r, "the parameter is there twice");
	if (!number_parse(r->word[2].text, r->word[2].length, &p->init) || !isfinite(p->init) ||
	    !number_parse(r->word[3].text, r->word[3].length, &p->min) || isnan(p->min) ||
	    !number_parse(r->word[4].text, r->word[4].length, &p->max) || isnan(p->max))
		return manifest_bad_line(r, "a number is malformed");
	r->m->param_count++;
	return TDA_OK;
}

static tda_status read_zeros(Reader *r)
{
	static const char *const choices[] = { "none", "proved", NULL };
	int choice = 0;
	tda_status status = word_read_choice(r, 0, choices, &choice);

	r->m->zeros_proved = choice == 1;
	return status;
}

static tda_status read_tolerance(Reader *r)
{
	tda_status status = word_read_real(r, 0, 0, &r->m->tolerance[PHASE_FORWARD]);

	return status ? status : word_read_real(r, 1, 0, &r->m->tolerance[PHASE_BACKWARD]);
}

static tda_status read_slack(Reader *r)
{
	return word_read_real(r, 0, 0, &r->m->slack);
}

static tda_status read_kept(Reader *r)
{
	ManifestMarks *marks = &r->m->marks;
	tda_status status = word_read_int(r, 0, 1, 64, &marks->side);

	if (!status)
		status = word_read_int(r, 1, 1, 32, &marks->word);
	if (!status)
		status = word_read_int(r, 2, 1, 1 << 20, &marks->room);
	return status;
}

static tda_status read_heavy(Reader *r)
{
	tda_status status = word_read_int(r, 0, 1, 1 << 20, &r->m->heavy.part);

	if (!status)
		status = word_read_int(r, 1, 1, 1 << 20, &r->m->heavy.keys);
	if (!status)
		status = word_read_int(r, 2, 64, 1 << 20, &r->m->heavy.rows);
	return status ? status : r->m->heavy.rows % 64 ? manifest_bad_line(r, "the rows are not a multiple of 64") : TDA_OK;
}

static tda_status read_count(Reader *r)
{
	static const char *const choices[] = { "weights", "above", NULL };
	int choice = 0;
	tda_status status = word_read_choice(r, 0, choices, &choice);

	r->m->count.above = choice == 1;
	if (!status)
		status = word_read_int(r, 1, 16, 64, &r->m->count.rows);
	return status ? status : 64 % r->m->count.rows ? manifest_bad_line(r, "the rows do not divide 64") : TDA_OK;
}

static tda_status read_buffer(Reader *r)
{
	ManifestBuffer *buffer = &r->m->buffers[r->m->buffer_count];
	int kind = word_choice(r->word[1], kind_words);
	tda_status status;

	if (r->m->buffer_count == MANIFEST_MAX_BUFFERS)
		return manifest_bad_line(r, "there are more buffers than libtda can take");
	status = word_copy_name(r, r->word[0], buffer->name, sizeof(buffer->name));
	if (status)
		return status;
	for (int b = 0; b < r->m->buffer_count; b++)
		if (strcmp(r->m->buffers[b].name, buffer->name) == 0)
			return manifest_bad_line(r, "the buffer is there twice");
	if (kind < 0)
		return manifest_bad_line(r, "the buffer's kind is not known to this libtda");
	buffer->kind = (BufferKind)kind;
	r->m->buffer_count++;
	return manifest_read_bytes(r, r->word[2], &buffer->bytes);
}

/* ---- the second pass: what names parameters, buffers or views ---- */

static tda_status read_rms_norm(Reader *r)
{
	tda_status status = word_read_real(r, 0, 0, &r->m->rms_eps);

	if (status)
		return status;
	r->m->rms_norm = true;
	r->m->gain = -1;
	if (word_is(r->word[1], "-"))
		return TDA_OK;
	r->m->gain = manifest_find_param(r->m, r->word[1].text, r->word[1].length);
	if (r->m->gain < 0 || r->m->params[r->m->gain].shape != TDA_PER_CHANNEL)
		return manifest_bad_line(r, "the gain is not a per_channel parameter");
	return TDA_OK;
}

#define VAR_BIT(id) (1u << POSTFIX_VAR_##id)
enum {
	ROW_VARS = VAR_BIT(I) | VAR_BIT(VIEW) | VAR_BIT(HEAD) | VAR_BIT(LAYER) | VAR_BIT(Q_LEN) | VAR_BIT(K_LEN) |
	           VAR_BIT(PARAM),
	SCORE_VARS = ROW_VARS | VAR_BIT(S) | VAR_BIT(J),
	WEIGHT_VARS = SCORE_VARS | VAR_BIT(TAU)
};

static tda_status read_postfix(const Reader *r, Word words, uint32_t allowed, Postfix **postfix)
{
	const char *names[TDA_MAX_PARAMS];

	for (int p = 0; p < r->m->param_count; p++)
		names[p] = r->m->params[p].name;
	*postfix = postfix_parse(words.text, words.length, names, r->m->param_count, allowed);
	if (!*postfix)
		return tda_fail_within(TDA_BAD_FILE, "line %d of the manifest: ", r->line);
	for (int p = 0; p < r->m->param_count; p++)
		if (postfix_params(*postfix) >> p & 1 && r->m->params[p].shape == TDA_PER_CHANNEL)
			return manifest_bad_line(r, "the expression reads a per_channel parameter");
	return TDA_OK;
}

static tda_status read_threshold(Reader *r)
{
	return read_postfix(r, r->rest, ROW_VARS, &r->m->threshold);
}

static tda_status read_score(Reader *r)
{
	return read_postfix(r, r->rest, SCORE_VARS, &r->m->score);
}

static tda_status read_weight(Reader *r)
{
	return read_postfix(r, r->rest, WEIGHT_VARS, &r->m->weight);
}

static tda_status read_combine(Reader *r)
{
	int view = 0;
	tda_status status = word_read_int(r, 0, 1, r->m->views, &view);
	size_t skip = r->word[0].length + 1;

	if (status)
		return status;
	if (r->m->combine[view - 1])
		return manifest_bad_line(r, "the view has two coefficients");
	return read_postfix(r, (Word){ r->rest.text + skip, r->rest.length - skip }, ROW_VARS, &r->m->combine[view - 1]);
}

/* ---- lines ---- */

typedef struct Keyword {
	const char *name;
	int pass, min_words, max_words;
	enum { ONCE, OPTIONAL, REPEATED } count;
	tda_status (*read)(Reader *r);
} Keyword;

static const Keyword keywords[] = {
	{ "compiler",   1, 1, 1, ONCE,     read_compiler },
	{ "target",     1, 1, 1, ONCE,     read_target },
	{ "spec",       1, 2, 2, ONCE,     read_spec },
	{ "plan",       1, 1, 1, ONCE,     read_plan },
	{ "dtype",      1, 1, 1, ONCE,     read_dtype },
	{ "precision",  1, 1, 1, OPTIONAL, read_precision },
	{ "head_dim",   1, 1, 1, ONCE,     read_head_dim },
	{ "value_dim",  1, 1, 1, ONCE,     read_value_dim },
	{ "views",      1, 1, 1, ONCE,     read_views },
	{ "normalize",  1, 1, 1, ONCE,     read_normalize },
	{ "mask",       1, 1, 2, REPEATED, read_mask },
	{ "param",      1, 5, 5, REPEATED, read_param },
	{ "zeros",      1, 1, 1, ONCE,     read_zeros },
	{ "tolerance",  1, 2, 2, ONCE,     read_tolerance },
	{ "slack",      1, 1, 1, ONCE,     read_slack },
	{ "kept",       1, 3, 3, OPTIONAL, read_kept },
	{ "heavy",      1, 3, 3, OPTIONAL, read_heavy },
	{ "count",      1, 2, 2, OPTIONAL, read_count },
	{ "buffer",     1, 3, 3, REPEATED, read_buffer },
	{ "rms_norm",   2, 2, 2, OPTIONAL, read_rms_norm },
	{ "threshold",  2, 1, MAX_LINE_WORDS, ONCE, read_threshold },
	{ "score",      2, 1, MAX_LINE_WORDS, ONCE, read_score },
	{ "weight",     2, 1, MAX_LINE_WORDS, ONCE, read_weight },
	{ "combine",    2, 2, MAX_LINE_WORDS, REPEATED, read_combine },
	{ "kernel",     2, 5, 5, REPEATED, manifest_read_kernel },
	{ "when",       2, 1, 1, REPEATED, manifest_read_when },
	{ "beside",     2, 0, 0, REPEATED, manifest_read_beside },
	{ "follows",    2, 0, 0, REPEATED, manifest_read_follows },
	{ "arg",        2, 2, 11, REPEATED, manifest_read_arg },
};
enum { KEYWORD_COUNT = sizeof(keywords) / sizeof(keywords[0]) };

static const char line_prefix[] = "//! ";
enum { PREFIX_BYTES = sizeof(line_prefix) - 1 };

/* The next line's content after "//! ". False at the end of the text, or where a line has no prefix or newline. */
static bool next_line(const char **at, const char *end, Word *line)
{
	const char *newline = memchr(*at, '\n', (size_t)(end - *at));

	if (!newline || newline - *at < PREFIX_BYTES || memcmp(*at, line_prefix, PREFIX_BYTES) != 0)
		return false;
	*line = (Word){ *at + PREFIX_BYTES, (size_t)(newline - *at) - PREFIX_BYTES };
	*at = newline + 1;
	return true;
}

/* Splits a line into its keyword and the words after it. */
static tda_status split_line(Reader *r, Word line, Word *keyword)
{
	const char *at = line.text, *end = line.text + line.length;

	r->words = -1;
	r->rest = (Word){ end, 0 };
	while (at <= end) {
		const char *space = memchr(at, ' ', (size_t)(end - at));
		Word word = { at, (size_t)((space ? space : end) - at) };

		if (word.length == 0)
			return manifest_bad_line(r, "words are not separated by single spaces");
		if (r->words < 0)
			*keyword = word;
		else if (r->words < (int)(sizeof(r->word) / sizeof(r->word[0])))
			r->word[r->words] = word;
		if (r->words == 0)
			r->rest = (Word){ at, (size_t)(end - at) };
		r->words++;
		at += word.length + 1;
	}
	return TDA_OK;
}

static tda_status read_line(Reader *r, Word line, int pass)
{
	Word keyword = { NULL, 0 };
	tda_status status = split_line(r, line, &keyword);

	if (status)
		return status;
	for (int k = 0; k < KEYWORD_COUNT; k++) {
		if (!word_is(keyword, keywords[k].name))
			continue;
		if (keywords[k].pass != pass)
			return TDA_OK;
		if (r->words < keywords[k].min_words || r->words > keywords[k].max_words)
			return manifest_bad_line(r, "there are too few or too many words");
		if (keywords[k].count != REPEATED && r->seen >> k & 1)
			return manifest_bad_line(r, "the keyword is there twice");
		r->seen |= 1u << k;
		return keywords[k].read(r);
	}
	return TDA_OK;                 /* of a later minor version */
}

static tda_status read_lines(Reader *r, const char *text, const char *end, int pass)
{
	Word line;

	r->line = 1;
	while (next_line(&text, end, &line)) {
		tda_status status;

		r->line++;
		status = read_line(r, line, pass);
		if (status)
			return status;
	}
	return TDA_OK;
}

static tda_status check_complete(const Reader *r)
{
	for (int k = 0; k < KEYWORD_COUNT; k++)
		if (keywords[k].count == ONCE && !(r->seen >> k & 1))
			return tda_fail(TDA_BAD_FILE, "the manifest lacks its line '%s'; compile the spec again", keywords[k].name);
	for (int v = 0; v < r->m->views; v++)
		if (!r->m->combine[v])
			return tda_fail(TDA_BAD_FILE, "the manifest lacks its line 'combine %d'; compile the spec again", v + 1);
	return TDA_OK;
}

static tda_status check_version(Word line)
{
	const char keyword[] = "tdagen-manifest ";
	size_t skip = sizeof(keyword) - 1;
	const char *dot;
	int64_t major, minor;

	if (line.length < skip || memcmp(line.text, keyword, skip) != 0)
		return tda_fail(TDA_BAD_FILE, "this is not a PTX file of tdagen: it does not begin with '//! tdagen-manifest'");
	dot = memchr(line.text + skip, '.', line.length - skip);
	if (!dot || !integer_parse(line.text + skip, (size_t)(dot - line.text) - skip, 0, INT32_MAX, &major) ||
	    !integer_parse(dot + 1, (size_t)(line.text + line.length - dot - 1), 0, INT32_MAX, &minor))
		return tda_fail(TDA_BAD_FILE, "the manifest's version is malformed; compile the spec again");
	if (major != MANIFEST_MAJOR)
		return tda_fail(TDA_BAD_FILE, "the manifest has version %d.%d; this libtda reads %d.x: use the libtda of the tdagen "
		                "that wrote the file, or compile the spec again", (int)major, (int)minor, MANIFEST_MAJOR);
	return TDA_OK;
}

/* Finds the end line, checks the body's hash; *end is where the end line begins. */
static tda_status check_body(const char *text, size_t length, const char **end)
{
	const char *at = text, *stop = text + length;
	char hex[65];
	Word line;

	for (*end = at; next_line(&at, stop, &line); *end = at) {
		if (line.length < 4 || memcmp(line.text, "end ", 4) != 0)
			continue;
		sha256_hex(at, (size_t)(stop - at), hex);
		if (line.length != 4 + 64 || memcmp(line.text + 4, hex, 64) != 0)
			return tda_fail(TDA_BAD_FILE, "the PTX does not match its manifest (SHA-256): the file is truncated or was "
			                "edited; compile the spec again");
		return TDA_OK;
	}
	return tda_fail(TDA_BAD_FILE, "the manifest has no 'end' line: the file is truncated or was edited; "
	                "compile the spec again");
}

tda_status manifest_parse(const char *text, size_t length, Manifest **manifest)
{
	const char *at = text, *end = NULL;
	Reader r = { .line = 1 };
	Word line;
	tda_status status;

	*manifest = NULL;
	if (!next_line(&at, text + length, &line))
		line = (Word){ text, 0 };
	if ((status = check_version(line)) || (status = check_body(at, length - (size_t)(at - text), &end)))
		return status;
	r.m = calloc(1, sizeof(*r.m));
	if (!r.m)
		return tda_fail_memory();
	r.m->gain = -1;
	if ((status = read_lines(&r, at, end, 1)) || (status = read_lines(&r, at, end, 2)) || (status = check_complete(&r))) {
		manifest_free(r.m);
		return status;
	}
	*manifest = r.m;
	return TDA_OK;
}

void manifest_free(Manifest *m)
{
	if (!m)
		return;
	free(m->threshold);
	free(m->score);
	free(m->weight);
	for (int v = 0; v < TDA_MAX_VIEWS; v++)
		free(m->combine[v]);
	for (int b = 0; b < m->buffer_count; b++)
		free(m->buffers[b].bytes);
	manifest_free_kernels(m);
	free(m);
}
