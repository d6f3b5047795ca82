/*
 * A kernel moves its tensors once, at the rate of memory, and computes, at the rate that its kind of product was seen to run
 * at; the two are added, as is a launch. Everything is in double: a shape may be so large that 64 bits overflow.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "launch.h"
#include "predict.h"
#include "reference.h"

const char *const predict_plan_names[PREDICT_PLANS] = { "dense", "sparse" };
const char *const predict_kernel_names[PREDICT_KERNELS] = {
	"terms", "q_terms", "k_terms", "screen", "forward", "norm_backward", "backward_q", "backward_kv", "reduce",
};

enum { TILE = 64 };                    /* rows of a block, and keys of a dense plan's tile */
enum { MULTIPROCESSORS = 132 };

/* ---- rates: one NVIDIA H100 80GB HBM3; dense 2026-11-22 (sm_80, f32) and 2026-11-24, sparse 2026-11-24 ---- */

static const double TERA = 1e9;        /* 10^12 a second, in a millisecond */
static const double BYTES_MS = 2.2e9;  /* of a kernel that moves each byte once */
static const double LAUNCH_MS = 0.005;
/* What was timed: batch * heads * length = 262144, causal. */
enum { LEAST_LENGTH = 4096, MOST_LENGTH = 16384, LEAST_BLOCKS = 8 * MULTIPROCESSORS };
static const double MOST_GATHERED = 0.05;      /* of the blocks of 64 rows and a key that they see */
static const double MOST_TILES = 0.6;          /* with a survivor: beyond, the screen's hits, marks without room and heavy blocks cost time */

typedef enum Arithmetic { HALF, TF32, IEEE } Arithmetic;
enum { ANY_TARGET = 0, WIDEST = 1 << 30 };

/* In each table the first row that holds counts; head_dim and views: up to these. */
static const struct { int capability, head_dim; Arithmetic arithmetic; int views; double forward, backward; } dense_rates[] = {
	/* target     head_dim arithmetic views  Tflop/s: forward backward */
	{ 90,         64,      HALF,      1,              591,    580 },
	{ 90,         64,      HALF,      WIDEST,         411,    400 },
	{ 90,         WIDEST,  HALF,      1,              958,    720 },
	{ 90,         WIDEST,  HALF,      WIDEST,         639,    475 },
	{ 80,         64,      HALF,      1,              324,    292 },
	{ 80,         64,      HALF,      WIDEST,         278,    219 },
	{ 80,         WIDEST,  HALF,      1,              340,    317 },
	{ 80,         WIDEST,  HALF,      WIDEST,         327,    207 },
	{ ANY_TARGET, 64,      TF32,      1,              169,    149 },
	{ ANY_TARGET, 64,      TF32,      WIDEST,         131,     80 },
	{ ANY_TARGET, WIDEST,  TF32,      1,              166,    101 },
	{ ANY_TARGET, WIDEST,  TF32,      WIDEST,         123,     78 },
	{ ANY_TARGET, 64,      IEEE,      1,              104,     84 },
	{ ANY_TARGET, 64,      IEEE,      WIDEST,          73,     60 },
	{ ANY_TARGET, WIDEST,  IEEE,      1,               98,     61 },
	{ ANY_TARGET, WIDEST,  IEEE,      WIDEST,          62,     49 },
};

/* That of sm_80 is what is left of the times of whole sparse plans. rows: of a CTA's work. keys: rounded up to so many. */
static const struct { int capability, head_dim, rows, keys; double ops; } screen_rates[] = {
	/* target head_dim rows keys  Top/s */
	{ 90,     64,      256, 512,  1350 },
	{ 90,     WIDEST,  256, 256,  1790 },
	{ 80,     WIDEST,  64,  128,   520 },
};

/* Products of gathered keys, or rows. That of tf32 is a guess: twice that of ieee, which multiplies three times. */
static const struct { Arithmetic arithmetic; int head_dim; double flops; bool timed; } gather_rates[] = {
	/*         head_dim Tflop/s timed */
	{ HALF,    64,      137,    true },
	{ HALF,    WIDEST,  137,    false },
	{ TF32,    WIDEST,   66,    false },
	{ IEEE,    64,       33,    true },
	{ IEEE,    WIDEST,   33,    false },
};

/* ---- a case ---- */

typedef struct Case {
	const Manifest *m;
	const tda_shape *shape;
	bool sparse;
	double gathered;               /* over the views; of a sparse plan */
	double tiles;
	double seen;                   /* blocks of 64 rows and a key that one of their rows sees */
	double element, q_rows, k_rows;        /* bytes; batch * heads * length */
	PlanTimes *times;
} Case;

static Arithmetic arithmetic_of(const Manifest *m)
{
	return m->dtype != TDA_F32 ? HALF : m->tf32 ? TF32 : IEEE;
}

/* Those that have rates of their own. */
static int target_of(const Manifest *m)
{
	return m->capability >= 90 ? 90 : 80;
}

static double round_up(double x, double to)
{
	return ceil(x / to) * to;
}

/* Pairs of all heads, for blocks of so many rows, keys rounded up to whole ones of so many. */
static double area(const Manifest *m, const tda_shape *shape, int rows, int keys)
{
	double pairs = 0;

	for (int64_t row = 0; row < shape->q_len; row += rows) {
		int64_t last = (row + rows < shape->q_len ? row + rows : shape->q_len) - 1, offset = shape->k_len - shape->q_len;
		KeySpan first_row = reference_visible_keys(m, row + offset, shape->k_len);
		KeySpan last_row = reference_visible_keys(m, last + offset, shape->k_len);
		int64_t first = first_row.first < first_row.end ? first_row.first : last_row.first;

		if (last_row.first < last_row.end)
			pairs += (double)rows * round_up((double)(last_row.end - first), keys);
	}
	return pairs * (double)shape->batch * (double)shape->heads;
}

/* Milliseconds, with every multiprocessor at work; or, where there are fewer blocks of so many rows than those, with a part. */
static double compute(const Case *c, double operations, double tera, int rows)
{
	double blocks = (double)c->shape->batch * (double)c->shape->heads * ceil((double)c->shape->q_len / rows);

	return operations / (tera * TERA) * fmax(1, MULTIPROCESSORS / blocks);
}

static double all_views(const Case *c)
{
	return (double)c->m->views * c->m->head_dim;
}

/* ---- kernels ---- */

static void add_kernel(const Case *c, PredictKernel kernel, double bytes, double compute_ms)
{
	c->times->kernel_ms[kernel] += LAUNCH_MS + bytes / BYTES_MS + compute_ms;
}

/* The kernels that multiply, of so many operations for an element of d of q and k, or of a value, in one product. */
static void add_three(const Case *c, const double moved[PREDICT_KERNELS], double flops, double d, double forward, double backward)
{
	double wide = c->m->value_dim;

	add_kernel(c, PREDICT_FORWARD, moved[PREDICT_FORWARD], compute(c, flops * (d + wide), forward, TILE));
	add_kernel(c, PREDICT_BACKWARD_Q, moved[PREDICT_BACKWARD_Q], compute(c, flops * (2 * d + wide), backward, TILE));
	add_kernel(c, PREDICT_BACKWARD_KV, moved[PREDICT_BACKWARD_KV], compute(c, flops * (2 * d + 2 * wide), backward, TILE));
}

static void add_sparse_products(const Case *c, double moved[PREDICT_KERNELS])
{
	double flops = 2 * TILE * c->gathered, d = c->m->head_dim;
	size_t n = 0;

	while (gather_rates[n].arithmetic != arithmetic_of(c->m) || d > gather_rates[n].head_dim)
		n++;
	add_three(c, moved, flops, d, gather_rates[n].flops, gather_rates[n].flops);
}

static void add_dense_products(const Case *c, double moved[PREDICT_KERNELS])
{
	double flops = 2 * area(c->m, c->shape, TILE, TILE), d = all_views(c);
	size_t n = 0;

	while ((dense_rates[n].capability != ANY_TARGET && dense_rates[n].capability != target_of(c->m)) ||
	       dense_rates[n].arithmetic != arithmetic_of(c->m) || c->m->head_dim > dense_rates[n].head_dim ||
	       c->m->views > dense_rates[n].views)
		n++;
	add_three(c, moved, flops, d, dense_rates[n].forward, dense_rates[n].backward);
}

/* A dense plan streams what a sparse one gathers. */
static void add_products(const Case *c)
{
	double inputs = c->element * (all_views(c) + c->m->value_dim), gradients = c->element * all_views(c), streamed = !c->sparse;
	double moved[PREDICT_KERNELS] = {
		[PREDICT_FORWARD] = c->q_rows * inputs + streamed * c->k_rows * inputs,
		[PREDICT_BACKWARD_Q] = c->q_rows * (inputs + gradients) + streamed * c->k_rows * inputs,
		[PREDICT_BACKWARD_KV] = c->k_rows * 2 * inputs + streamed * c->q_rows * inputs,
	};

	if (c->sparse)
		add_sparse_products(c, moved);
	else
		add_dense_products(c, moved);
}

/* int8 rows are padded to the depth of a product. */
static void add_screen(const Case *c, double image)
{
	size_t n = 0;

	while (screen_rates[n].capability != target_of(c->m) || c->m->head_dim > screen_rates[n].head_dim)
		n++;
	add_kernel(c, PREDICT_SCREEN, c->m->views * image * (c->q_rows + c->k_rows),
	           compute(c, 2 * image * c->m->views * area(c->m, c->shape, screen_rates[n].rows, screen_rates[n].keys),
	                   screen_rates[n].ops, screen_rates[n].rows));
}

static void add_terms(const Case *c, double image)
{
	bool read = c->sparse || c->m->l2_normalized;  /* thresholds alone need no elements */
	double row = read ? c->element * all_views(c) + c->m->views * image : 0;

	if (!c->sparse) {
		add_kernel(c, PREDICT_TERMS, (c->q_rows + c->k_rows) * row, 0);
		return;
	}
	add_kernel(c, PREDICT_Q_TERMS, c->q_rows * row, 0);
	add_kernel(c, PREDICT_K_TERMS, c->k_rows * row, 0);
}

/* Reads the gradient and o, kept in float32; writes the gradient before the norm, in two parts of a short dtype. */
static void add_norm_backward(const Case *c)
{
	double parts = c->m->dtype == TDA_F32 ? 1 : 2;

	if (c->m->rms_norm)
		add_kernel(c, PREDICT_NORM_BACKWARD, c->q_rows * c->m->value_dim * (c->element * (1 + parts) + 4), 0);
}

/* ---- what was not timed ---- */

static __attribute__((format(printf, 2, 3))) void beyond(const Case *c, const char *format, ...)
{
	char *text = c->times->beyond;
	size_t used = strlen(text);
	va_list args;

	if (used > 0)
		used += (size_t)snprintf(text + used, PREDICT_TEXT - used, ", ");
	va_start(args, format);
	if (used < PREDICT_TEXT)
		vsnprintf(text + used, PREDICT_TEXT - used, format, args);
	va_end(args);
}

static bool is_gather_timed(const Case *c)
{
	for (size_t n = 0; n < sizeof(gather_rates) / sizeof(gather_rates[0]); n++)
		if (gather_rates[n].timed && gather_rates[n].arithmetic == arithmetic_of(c->m) && c->m->head_dim == gather_rates[n].head_dim)
			return true;
	return false;
}

static void say_beyond(const Case *c)
{
	const Manifest *m = c->m;
	const tda_shape *s = c->shape;
	int64_t length = s->q_len > s->k_len ? s->q_len : s->k_len;
	double blocks = c->q_rows / TILE;

	if (c->sparse && target_of(m) != 90)
		beyond(c, "the screen of %s", m->target);
	if (m->dtype == TDA_F16)
		beyond(c, "f16");
	if (m->head_dim != 64 && m->head_dim != 128)
		beyond(c, "head_dim %d", m->head_dim);
	if (m->value_dim != m->head_dim)
		beyond(c, "value_dim %d", m->value_dim);
	if (m->views > 2 || (c->sparse && m->views != 2))
		beyond(c, "%d view%s", m->views, m->views == 1 ? "" : "s");
	if (c->sparse && !is_gather_timed(c))
		beyond(c, "gathering with this head_dim and precision");
	if (!m->zeros_proved)
		beyond(c, "weights other than exact zeros");
	if (!m->causal || m->window)
		beyond(c, "this mask");
	if (m->rms_norm)
		beyond(c, "an output norm");
	if (s->kv_heads != s->heads)
		beyond(c, "shared heads of k and v");
	if (s->q_len != s->k_len)
		beyond(c, "q_len other than k_len");
	if (length < LEAST_LENGTH || length > MOST_LENGTH)
		beyond(c, "length %lld", (long long)length);
	if (blocks < LEAST_BLOCKS)
		beyond(c, "%.0f blocks of 64 rows", ceil(blocks));
	if (c->gathered > MOST_GATHERED * m->views * c->seen)
		beyond(c, "%.2g%% of keys surviving", 100 * c->gathered / (m->views * c->seen));
	if (c->sparse && c->tiles > MOST_TILES)
		beyond(c, "survivors in %.0f%% of tiles", 100 * c->tiles);
}

/* ---- the whole ---- */

static void sum_up(PlanTimes *times)
{
	for (int n = 0; n < PREDICT_KERNELS; n++)
		times->ms[n <= PREDICT_FORWARD ? PHASE_FORWARD : PHASE_BACKWARD] += times->kernel_ms[n];
}

static void predict_plan(Case *c)
{
	double image = c->sparse ? round_up(c->m->head_dim, 32) : 0;

	c->times->known = true;
	if (c->q_rows == 0 || c->shape->k_len == 0)
		return;
	c->seen = area(c->m, c->shape, TILE, 1) / TILE;
	add_terms(c, image);
	if (c->sparse)
		add_screen(c, image);
	add_products(c);
	add_norm_backward(c);
	for (int p = 0; p < c->m->param_count; p++)
		add_kernel(c, PREDICT_REDUCE, 0, 0);
	sum_up(c->times);
	say_beyond(c);
}

PredictPlan predict_taken(const Manifest *m, const tda_shape *shape)
{
	int64_t vars[FORMULA_VARS] = { [SHAPE_MULTIPROCESSORS] = MULTIPROCESSORS }, grid;

	if (strcmp(m->plan, "auto") != 0)
		return strcmp(m->plan, "sparse") == 0 ? PREDICT_SPARSE : PREDICT_DENSE;
	if (validate_shape(shape, vars))
		return PREDICT_DENSE;
	for (int k = 0; k < m->kernel_count; k++)
		if (strncmp(m->kernels[k].entry, "tda_sparse_", 11) == 0 && !formula_eval(m->kernels[k].grid, vars, &grid) && grid > 0)
			return PREDICT_SPARSE;
	return PREDICT_DENSE;
}

void predict(const Manifest *m, const tda_shape *shape, const PredictCounts *counts, Prediction *prediction)
{
	double batch = (double)shape->batch;
	Case c = {
		.m = m, .shape = shape, .element = manifest_dtype_size(m), .q_rows = batch * (double)shape->heads * (double)shape->q_len,
		.k_rows = batch * (double)shape->kv_heads * (double)shape->k_len,
	};
	bool both = strcmp(m->plan, "auto") == 0;

	*prediction = (Prediction){ .taken = predict_taken(m, shape) };
	for (int v = 0; v < m->views && counts; v++)
		c.gathered += (double)counts->gathered[v];
	c.tiles = counts ? counts->tiles : 0;
	for (int plan = 0; plan < PREDICT_PLANS; plan++) {
		c.sparse = plan == PREDICT_SPARSE;
		c.times = &prediction->plan[plan];
		if ((both || prediction->taken == (PredictPlan)plan) && (!c.sparse || counts))
			predict_plan(&c);
	}
}
