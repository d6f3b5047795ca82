#include "pairs.h"

#include <math.h>
#include <string.h>

bool expr_is_zero(const Expr *e)
{
	return e->op == EXPR_CONST && e->value == 0;
}

static const Expr *of_view(const Spec *spec, const Expr *e, int view)
{
	const Expr *number = expr_const(spec->pool, view + 1, e->loc);
	return expr_substitute(spec->pool, e, VAR_VIEW, 0, number);
}

ViewMath view_math(const Spec *spec, int view)
{
	ExprPool *pool = spec->pool;
	ViewMath m;
	m.threshold = of_view(spec, spec->threshold, view);
	m.score = of_view(spec, spec->score, view);
	m.weight = of_view(spec, spec->weight, view);
	m.combine = of_view(spec, spec->combine[view], view);
	m.weight_s = expr_derivative(pool, m.weight, VAR_S, 0);
	m.weight_tau = expr_derivative(pool, m.weight, VAR_TAU, 0);
	m.mirrored = m.weight_tau->op == EXPR_NEG && m.weight_tau->arg[0] == m.weight_s;
	m.scale = 1;
	if (m.weight_s->op == EXPR_MUL && m.weight_s->arg[0]->op == EXPR_CONST) {
		m.scale = m.weight_s->arg[0]->value;
		m.weight_s = m.weight_s->arg[1];
	}
	m.score_s = expr_derivative(pool, m.score, VAR_S, 0);
	for (int p = 0; p < spec->param_count; p++) {
		m.threshold_p[p] = expr_derivative(pool, m.threshold, VAR_PARAM, p);
		m.score_p[p] = expr_derivative(pool, m.score, VAR_PARAM, p);
		m.weight_p[p] = expr_derivative(pool, m.weight, VAR_PARAM, p);
		m.combine_p[p] = expr_derivative(pool, m.combine, VAR_PARAM, p);
	}
	return m;
}

/* What any function of the spec reads. */
static void spec_reads(const Spec *spec, uint32_t *vars, uint32_t *params)
{
	*vars = spec->threshold->vars | spec->score->vars | spec->weight->vars;
	*params = spec->threshold->params | spec->score->params | spec->weight->params;
	for (int v = 0; v < spec->views; v++) {
		*vars |= spec->combine[v]->vars;
		*params |= spec->combine[v]->params;
	}
}

/* The entry [layer][head] of a parameter, or its initial value where the caller gave none. */
static Val load_param(Kernel *k, const Param *param, Val head)
{
	Builder *b = k->b;
	Val pointer = kernel_pointer(k, "param.%s", param->name);
	Val value = val_f32(b, param->init);
	Val absent = val_is_null_pointer(b, pointer);
	Val no = val_i32(b, 0);
	Val index = no;
	if (param->shape == PARAM_PER_HEAD)
		index = head;
	else if (param->shape == PARAM_PER_LAYER)
		index = kernel_i32(k, "layer");
	else if (param->shape == PARAM_PER_LAYER_HEAD)
		index = val_add(b, kernel_i32(k, "layer*heads"), head);
	Val *changed[] = { &value };
	Val given = val_compare(b, IR_EQ, val_select(b, absent, val_i32(b, 1), no), no);
	for (If f = if_begin(b, given, changed, 1); if_next(&f);) {
		Val bytes = val_mul_i32(b, index, 4);
		Val at = val_offset(b, pointer, val_to_i64(b, bytes));
		value = val_load(b, at, IR_F32);
	}
	return value;
}

Scope head_scope(Kernel *k, Val head)
{
	Builder *b = k->b;
	const Spec *spec = k->spec;
	Scope scope = scope_inside(NULL);
	uint32_t vars, params;
	spec_reads(spec, &vars, &params);
	if (vars & 1u << VAR_HEAD)
		scope.var[VAR_HEAD] = val_i32_to_f32(b, head);
	if (vars & 1u << VAR_LAYER)
		scope.var[VAR_LAYER] = val_i32_to_f32(b, kernel_i32(k, "layer"));
	if (vars & 1u << VAR_Q_LEN)
		scope.var[VAR_Q_LEN] = val_i32_to_f32(b, kernel_i32(k, "q_len"));
	if (vars & 1u << VAR_K_LEN)
		scope.var[VAR_K_LEN] = val_i32_to_f32(b, kernel_i32(k, "k_len"));
	for (int p = 0; p < spec->param_count; p++)
		if (params & 1u << p)
			scope.params[p] = load_param(k, &spec->params[p], head);
	return scope;
}

Val query_position(Kernel *k, Val row)
{
	return val_add(k->b, row, kernel_i32(k, "k_len-q_len"));
}

static Val position_f32(Kernel *k, Val row)
{
	Val position = query_position(k, row);
	return val_i32_to_f32(k->b, position);
}

Axis query_map(Kernel *k, const Scope *head, Axis query, const Expr *e)
{
	Axis result = query;
	result.at = ARENA_ARRAY(k->b->arena, Val, query.count);
	for (int n = 0; n < query.count; n++) {
		if (n > 0 && !(e->vars & 1u << VAR_I)) {
			result.at[n] = result.at[0];
			continue;
		}
		Scope scope = scope_inside(head);
		if (e->vars & 1u << VAR_I)
			scope.var[VAR_I] = position_f32(k, axis_at(query, n));
		result.at[n] = scalar_emit(k->b, e, &scope);
	}
	return result;
}

/* Masks. A window that no length can reach is none; below that, sums of positions and windows stay within i32. */

static bool has_window(const Spec *spec)
{
	return spec->window > 0 && spec->window < 1 << 30;
}

static Val ceil_div(Builder *b, Val x, int y)
{
	Val zero = val_i32(b, 0);
	Val up = val_add_i32(b, val_max(b, x, zero), y - 1);
	return val_div_i32(b, up, y);
}

Span key_tiles(Kernel *k, Val row0, int rows, int tile)
{
	Builder *b = k->b;
	Val zero = val_i32(b, 0);
	Val past = val_add_i32(b, row0, rows);
	past = val_min(b, past, kernel_i32(k, "q_len"));
	Val i_first = query_position(k, row0);
	Val i_past = query_position(k, past);
	Val lo = zero, hi = kernel_i32(k, "k_len");
	if (k->spec->causal)
		hi = val_min(b, hi, i_past);
	if (has_window(k->spec)) {
		int n = (int)k->spec->window;
		Val from = val_add_i32(b, i_first, 1 - n);
		Val to = val_add_i32(b, i_past, n - 1);
		lo = val_max(b, lo, from);
		hi = val_min(b, hi, to);
	}
	Span span;
	span.first = val_div_i32(b, lo, tile);
	span.end = ceil_div(b, hi, tile);
	if (k->plan->options.defect == DEFECT_DROP_TILE && k->launch->role == ROLE_FORWARD)
		span.end = val_add_i32(b, span.end, -1);
	return span;
}

Span query_tiles(Kernel *k, Val key0, int keys, int tile)
{
	Builder *b = k->b;
	Val shift = kernel_i32(k, "q_len-k_len");       /* row = i + shift */
	Val past = val_add_i32(b, key0, keys);
	past = val_min(b, past, kernel_i32(k, "k_len"));
	Val lo = val_i32(b, 0), hi = kernel_i32(k, "q_len");
	if (k->spec->causal) {
		Val from = val_add(b, key0, shift);
		lo = val_max(b, lo, from);
	}
	if (has_window(k->spec)) {
		int n = (int)k->spec->window;
		Val from = val_add(b, key0, shift);
		Val to = val_add(b, past, shift);
		lo = val_max(b, lo, val_add_i32(b, from, 1 - n));
		hi = val_min(b, hi, val_add_i32(b, to, n - 1));
	}
	Span span;
	span.first = val_div_i32(b, lo, tile);
	span.end = ceil_div(b, hi, tile);
	return span;
}

Range block_range(Kernel *k, Val first, int count)
{
	return (Range){ first, val_add_i32(k->b, first, count) };
}

Val tile_has_hidden(Kernel *k, Range rows, Range keys, bool bound_rows)
{
	Builder *b = k->b;
	Val hidden = val_compare(b, IR_GT, keys.past, kernel_i32(k, "k_len"));
	if (bound_rows)
		hidden = val_or(b, hidden, val_compare(b, IR_GT, rows.past, kernel_i32(k, "q_len")));
	Val i_first = query_position(k, rows.first);
	Val ahead = val_sub(b, keys.past, i_first);     /* largest j - i, plus 1 */
	if (k->spec->causal)
		hidden = val_or(b, hidden, val_compare(b, IR_GT, ahead, val_i32(b, 1)));
	if (has_window(k->spec)) {
		Val n = val_i32(b, (int)k->spec->window);
		Val i_past = query_position(k, rows.past);
		Val behind = val_sub(b, i_past, keys.first);    /* largest i - j, plus 1 */
		hidden = val_or(b, hidden, val_compare(b, IR_GT, ahead, n));
		hidden = val_or(b, hidden, val_compare(b, IR_GT, behind, n));
	}
	return hidden;
}

Val pair_visible(Kernel *k, Val row, Val key, bool bound_rows)
{
	Builder *b = k->b;
	Val visible = val_compare(b, IR_LT, key, kernel_i32(k, "k_len"));
	if (bound_rows)
		visible = val_and(b, visible, val_compare(b, IR_LT, row, kernel_i32(k, "q_len")));
	Val position = query_position(k, row);
	if (k->spec->causal)
		visible = val_and(b, visible, val_compare(b, IR_LE, key, position));
	if (has_window(k->spec)) {
		int n = (int)k->spec->window;
		Val behind = val_sub(b, position, key);
		visible = val_and(b, visible, val_compare(b, IR_LT, behind, val_i32(b, n)));
		visible = val_and(b, visible, val_compare(b, IR_GT, behind, val_i32(b, -n)));
	}
	return visible;
}

Val visible_bits(Kernel *k, Tile shape, Axis row, Axis key, Val has_hidden, bool bound_rows)
{
	Builder *b = k->b;
	Val bits = val_i32(b, -1);
	Val *changed[] = { &bits };
	for (If f = if_begin(b, has_hidden, changed, 1); if_next(&f);) {
		Val none = val_i32(b, 0);
		bits = none;
		for (int e = 0; e < tile_count(shape); e++) {
			Val visible = pair_visible(k, axis_get(row, e), axis_get(key, e), bound_rows);
			Val bit = val_select(b, visible, val_i32(b, (int32_t)(1u << e)), none);
			bits = val_or(b, bits, bit);
		}
	}
	return bits;
}

Visible visible_of(Kernel *k, Tile shape, Axis row, Axis key, Val has_hidden)
{
	Visible v = { .k = k, .row = row, .key = key, .has_hidden = has_hidden };
	if (!kernel_uses_groups(k))
		v.bits = visible_bits(k, shape, row, key, has_hidden, true);
	return v;
}

void visible_begin(Visible *v, Val **changed, int count)
{
	v->entered = false;
	if (kernel_uses_groups(v->k))
		v->branch = either_begin(v->k->b, v->has_hidden, changed, count);
}

bool visible_next(Visible *v)
{
	if (kernel_uses_groups(v->k))
		return either_next(&v->branch);
	v->entered = !v->entered;
	return v->entered;
}

Val visible_at(const Visible *v, int element)
{
	Kernel *k = v->k;
	Builder *b = k->b;
	if (!val_is_null(v->bits)) {
		Val bit = val_and(b, v->bits, val_i32(b, (int32_t)(1u << element)));
		return val_compare(b, IR_NE, bit, val_i32(b, 0));
	}
	if (v->branch.otherwise)
		return (Val){ NULL };
	return pair_visible(k, axis_get(v->row, element), axis_get(v->key, element), true);
}

Axis visible_axis(const Visible *v, Axis axis)
{
	Kernel *k = v->k;
	Builder *b = k->b;
	if (!kernel_uses_groups(k) || v->branch.otherwise || axis.count == 0)
		return axis;
	/* A length is not negative, but nobody told the compilers. */
	Val zero = val_sign_i32(b, kernel_i32(k, "q_len"));
	Axis other = axis_new(k, axis.along, 4 * axis.count);
	for (int n = 0; n < axis.count; n++) {
		if (n > 0 && val_same(axis.at[n], axis.at[0])) {
			other.at[n] = other.at[0];
			continue;
		}
		Val bits = val_bitcast(b, axis.at[n], IR_I32);
		other.at[n] = val_bitcast(b, val_add(b, bits, zero), IR_F32);
	}
	return other;
}

/* "ieee" has three products for one, but starts anew every 32 elements of depth, whose norms Cauchy-Schwarz holds together. */
double score_error(const Spec *spec)
{
	int d = spec->head_dim;
	double unit = 0x1p-23, sums = (2 * d + 16) * unit;
	if (spec->dtype != DTYPE_F32)
		return sums;
	if (spec->precision == PRECISION_TF32)
		return sums + 0x1.1p-10;
	return (4 * (d < 32 ? d : 32) + d / 16 + 24) * unit;
}

void scores_normalise(Kernel *k, Tile raw, Axis inv_q, Axis inv_k)
{
	if (k->spec->normalize == NORMALIZE_NONE)
		return;
	for (int e = 0; e < tile_count(raw); e++) {
		Val scale = val_fmul(k->b, axis_get(inv_q, e), axis_get(inv_k, e));
		raw.e[e] = val_fmul(k->b, raw.e[e], scale);
	}
}

void pair_evaluate(Kernel *k, const Scope *head, const ViewMath *math, Val score, Val tau, Val row, Val key, Pair *pair)
{
	uint32_t vars = math->score->vars | math->weight->vars;
	pair->before = scope_inside(head);
	if (vars & 1u << VAR_I)
		pair->before.var[VAR_I] = position_f32(k, row);
	if (vars & 1u << VAR_J)
		pair->before.var[VAR_J] = val_i32_to_f32(k->b, key);
	pair->after = pair->before;
	pair->before.var[VAR_S] = score;
	pair->s = scalar_emit(k->b, math->score, &pair->before);
	pair->after.var[VAR_S] = pair->s;
	pair->after.var[VAR_TAU] = tau;
	pair->weight = scalar_emit(k->b, math->weight, &pair->after);
}

Val pair_survives(Kernel *k, const Pair *pair, Val tau)
{
	if (!k->plan->zeros_proved)
		return (Val){ NULL };
	/* Compared by their difference, which most weights are made of anyway. */
	Val above = val_fsub(k->b, pair->s, tau);
	return val_funless(k->b, IR_LE, above, val_f32(k->b, 0));
}

/* Both scores may be off, and so may what is compared. */
Val pair_may_survive(Kernel *k, const Pair *pair, Val tau)
{
	double margin = 2 * score_error(k->spec) + 0x1p-22;
	Val above = val_fsub(k->b, pair->s, tau);
	return val_funless(k->b, IR_LE, above, val_f32(k->b, -margin));
}

Val pair_is_above(Kernel *k, const Pair *pair, Val tau)
{
	Val above = val_fsub(k->b, pair->s, tau);
	return val_fcompare(k->b, IR_GT, above, val_f32(k->b, 0));
}

Val times(Kernel *k, Val x, const Expr *e, const Scope *scope)
{
	if (e->op == EXPR_CONST && e->value == 1)
		return x;
	Val factor = scalar_emit(k->b, e, scope);
	return val_fmul(k->b, x, factor);
}

Val scaled(Kernel *k, Val x, double by)
{
	return by == 1 ? x : val_fmul(k->b, x, val_f32(k->b, by));
}

void tile_scaled(Kernel *k, Tile t, double by)
{
	for (int e = 0; e < tile_count(t); e++)
		t.e[e] = scaled(k, t.e[e], by);
}

Val both(Kernel *k, Val x, Val y)
{
	if (val_is_null(x) || val_is_null(y))
		return val_is_null(x) ? y : x;
	return val_and(k->b, x, y);
}

Val where(Kernel *k, Val condition, Val x)
{
	return val_is_null(condition) ? x : val_select(k->b, condition, x, val_f32(k->b, 0));
}
