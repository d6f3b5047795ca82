/*
 * What theory assumes and what tensors show. The bound on survivors, and that keys which survive in two views become rare,
 * rest on scores that are sub-Gaussian with variance 1 / head_dim, and independent between the views.
 */
#include <math.h>
#include <stdarg.h>
#include "explore_report.h"

static const double kurtosis_limit = 0.5, correlation_limit = 0.1, deviations = 3;

double explore_mean(const ExploreCounts *c, int view)
{
	return c->power[view][0] / (double)c->visible;
}

double explore_variance(const ExploreCounts *c, int view)
{
	double mean = explore_mean(c, view);

	return c->power[view][1] / (double)c->visible - mean * mean;
}

double explore_kurtosis(const ExploreCounts *c, int view)
{
	double n = (double)c->visible, m = explore_mean(c, view), variance = explore_variance(c, view);
	double fourth = c->power[view][3] / n - 4 * m * c->power[view][2] / n + 6 * m * m * c->power[view][1] / n - 3 * m * m * m * m;

	return variance > 1e-20 ? fourth / (variance * variance) - 3 : NAN;
}

double explore_correlation(const ExploreCounts *c, int view, int other)
{
	int v = view > other ? view : other, w = view > other ? other : view;
	double covariance = c->product[v][w] / (double)c->visible - explore_mean(c, v) * explore_mean(c, w);
	double variances = explore_variance(c, v) * explore_variance(c, w);

	return variances > 1e-20 ? covariance / sqrt(variances) : NAN;
}

static void judge(ExploreVerdict *v, Holds holds, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void judge(ExploreVerdict *v, Holds holds, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(v->text, sizeof(v->text), format, args);
	va_end(args);
	v->holds = holds;
}

/* The range of a figure over heads and views. */
typedef struct Range {
	double least, most, sum;
	int count, outside;            /* of the limit */
} Range;

static void widen(Range *r, double value, bool outside)
{
	if (isnan(value))
		return;
	r->least = r->count == 0 || value < r->least ? value : r->least;
	r->most = r->count == 0 || value > r->most ? value : r->most;
	r->sum += value;
	r->count++;
	r->outside += outside;
}

static void judge_kurtosis(const ExploreRun *run, ExploreVerdict *v)
{
	Range r = {0};

	for (int64_t h = 0; h < run->result.heads; h++)
		for (int view = 0; view < run->manifest->views; view++) {
			double kurtosis = explore_kurtosis(&run->result.head[h], view);

			widen(&r, kurtosis, kurtosis > kurtosis_limit);
		}
	if (r.count == 0)
		judge(v, HOLDS_UNKNOWN, "all scores of a head are alike");
	else
		judge(v, r.outside ? HOLDS_NO : HOLDS_YES, "the excess kurtosis of a head's scores is %.2f on average, from %.2f to %.2f; in "
		      "%d of %d heads and views it is above %.1f, where tails are heavier than a Gaussian's 0 (rule: in none)",
		      r.sum / r.count, r.least, r.most, r.outside, r.count, kurtosis_limit);
}

/* By how much the share of a head's scores above a tail passes the bound, at worst; 0 where it does not. */
static double worst_tail(const ExploreCounts *c, int view, int *worst)
{
	double most = 0;

	for (int t = 0; t < EXPLORE_TAILS; t++) {
		double expected = (double)c->visible * pow(10, -(t + 1)), above = (double)c->above[view][t];

		if (above > expected + deviations * sqrt(expected) + 1 && above / expected > most) {
			most = above / expected;
			*worst = t;
		}
	}
	return most;
}

static void judge_tails(const ExploreRun *run, ExploreVerdict *v)
{
	static const char rule[] = "rule: in none, by more than 3 standard deviations of a count";
	int outside = 0, count = 0, tail = 0, at = 0, view_at = 0;
	double most = 0;
	int64_t head_at = 0;

	if (!explore_bounded(run->manifest)) {
		judge(v, HOLDS_UNKNOWN, "the bound is for cosines, and the scores of this spec are others");
		return;
	}
	for (int64_t h = 0; h < run->result.heads; h++)
		for (int view = 0; view < run->manifest->views; view++) {
			double worst = worst_tail(&run->result.head[h], view, &at);

			count++;
			outside += worst > 0;
			if (worst <= most)
				continue;
			most = worst;
			tail = at;
			head_at = h;
			view_at = view;
		}
	if (outside == 0) {
		judge(v, HOLDS_YES, "in none of %d heads and views do more scores pass t than exp(-head_dim t^2 / 2) allows, for bounds "
		      "of 10%% to 0.0001%% (%s)", count, rule);
		return;
	}
	const ExploreCounts *c = &run->result.head[head_at];

	judge(v, HOLDS_NO, "in %d of %d heads and views more scores pass t than exp(-head_dim t^2 / 2) allows; at worst, in head %lld "
	      "and view %d, %.3g%% pass %.3f, where the bound is %.4g%% (%s)", outside, count, (long long)head_at, view_at + 1,
	      100 * (double)c->above[view_at][tail] / (double)c->visible, explore_tail(run->manifest, tail), pow(10, 1 - tail), rule);
}

static void judge_correlation(const ExploreRun *run, ExploreVerdict *v)
{
	Range r = {0};

	for (int64_t h = 0; h < run->result.heads; h++)
		for (int view = 1; view < run->manifest->views; view++)
			for (int other = 0; other < view; other++) {
				double correlation = explore_correlation(&run->result.head[h], view, other);

				widen(&r, correlation, fabs(correlation) > correlation_limit);
			}
	if (run->manifest->views < 2)
		judge(v, HOLDS_UNKNOWN, "the spec has one view");
	else if (r.count == 0)
		judge(v, HOLDS_UNKNOWN, "all scores of a head are alike");
	else
		judge(v, r.outside ? HOLDS_NO : HOLDS_YES, "the correlation of two views' scores of a pair is %.3f on average, from %.3f to "
		      "%.3f; in %d of %d it is further from 0 than %.1f (rule: in none)", r.sum / r.count, r.least, r.most, r.outside,
		      r.count, correlation_limit);
}

static void judge_consensus(const ExploreRun *run, ExploreVerdict *v)
{
	const ExploreCounts *all = &run->result.all;
	double limit = all->by_chance + deviations * sqrt(all->by_chance) + 1;
	int outside = 0;

	if (run->manifest->views < 2) {
		judge(v, HOLDS_UNKNOWN, "the spec has one view");
		return;
	}
	for (int64_t h = 0; h < run->result.heads; h++) {
		const ExploreCounts *c = &run->result.head[h];

		outside += (double)c->consensus > c->by_chance + deviations * sqrt(c->by_chance) + 1;
	}
	judge(v, (double)all->consensus > limit ? HOLDS_NO : HOLDS_YES, "%lld pairs survive in two views, where survivors spread "
	      "independently over their rows would give %.4g; in %d of %lld heads there are too many (rule: in all heads together "
	      "at most 3 standard deviations more, which is %.4g)", (long long)all->consensus, all->by_chance, outside,
	      (long long)run->result.heads, limit);
}

/* In the lengths that are long enough to speak of growth. */
static void judge_survivors(const ExploreRun *run, ExploreVerdict *v)
{
	const ExploreCounts *all = &run->result.all;
	int outside = 0, count = 0, worst = 0;
	double most = 0;

	if (!explore_bounded(run->manifest)) {
		judge(v, HOLDS_UNKNOWN, "the bound is for cosines, and the scores of this spec are others");
		return;
	}
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		const ExploreOctave *o = &all->octave[n];
		double share = o->bound > 0 ? (double)o->survivors / o->bound : 0;

		if (o->rows == 0)
			continue;
		count++;
		outside += share > 1;
		if (share > most) {
			most = share;
			worst = n;
		}
	}
	judge(v, outside ? HOLDS_NO : HOLDS_YES, "a row's survivors are more than scores of variance 1 / head_dim would leave in %d of %d "
	      "lengths; at most, where rows see %lld keys and more, %.3g times as many (rule: in none)", outside, count,
	      1LL << worst, most);
}

void explore_judge(const ExploreRun *run, ExploreVerdict verdicts[EXPLORE_VERDICTS])
{
	static const struct {
		const char *key, *title;
		void (*judge)(const ExploreRun *, ExploreVerdict *);
	} rules[EXPLORE_VERDICTS] = {
		{ "kurtosis", "no heavy tails", judge_kurtosis },
		{ "tails", "sub-Gaussian", judge_tails },
		{ "survivors", "O(1) survivors", judge_survivors },
		{ "correlation", "views uncorrelated", judge_correlation },
		{ "consensus", "consensus by chance", judge_consensus },
	};

	for (int n = 0; n < EXPLORE_VERDICTS; n++) {
		verdicts[n] = (ExploreVerdict){ .key = rules[n].key, .title = rules[n].title };
		rules[n].judge(run, &verdicts[n]);
	}
}
