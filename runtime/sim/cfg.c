/*
 * Where diverged lanes meet again: the immediate post-dominator of each branch, computed on basic blocks by the
 * iterative algorithm of Cooper, Harvey and Kennedy over the reversed graph. The virtual exit is block n_blocks.
 */
#include <stdlib.h>
#include <string.h>
#include "model.h"

typedef struct Graph {
	const Kernel *kernel;
	uint32_t n;                     /* blocks without the exit */
	uint32_t *block_of;             /* instruction -> block */
	uint32_t *first, *last;         /* block -> its instructions */
	uint32_t (*next)[2];            /* successors; the same twice when there is one */
	uint32_t *order;                /* block -> its number in reverse post-order of the reversed graph; exit 0 */
	uint32_t *by_order;
	uint32_t *dominator;            /* by block; UINT32_MAX: the exit cannot be reached */
	uint32_t n_ordered;
	uint32_t *first_before, *before;        /* predecessors, packed by block */
} Graph;

static void find_blocks(Graph *g)
{
	const Kernel *k = g->kernel;
	bool starts = true;
	for (uint32_t i = 0; i < k->n_code; i++)
		g->block_of[i] = 0;
	for (uint32_t i = 0; i < k->n_code; i++)
		if (k->code[i].traits & OP_BRANCH && k->code[i].target < k->n_code)
			g->block_of[k->code[i].target] = 1;     /* begins a block */
	for (uint32_t i = 0; i < k->n_code; i++) {
		starts |= g->block_of[i] == 1;
		if (starts)
			g->first[g->n++] = i;
		g->block_of[i] = g->n - 1;
		g->last[g->n - 1] = i;
		starts = k->code[i].traits & (OP_BRANCH | OP_EXIT);
	}
}

static uint32_t block_at(const Graph *g, uint32_t inst)
{
	return inst < g->kernel->n_code ? g->block_of[inst] : g->n;
}

static void find_edges(Graph *g)
{
	for (uint32_t b = 0; b < g->n; b++) {
		const Inst *in = &g->kernel->code[g->last[b]];
		uint32_t through = block_at(g, g->last[b] + 1);
		bool always = in->guard == TRUE_SLOT && !in->guard_flip;
		uint32_t taken = in->traits & OP_EXIT ? g->n : in->traits & OP_BRANCH ? block_at(g, in->target) : through;
		g->next[b][0] = taken;
		g->next[b][1] = always ? taken : through;
	}
	for (uint32_t b = 0; b < g->n; b++)
		for (int e = 0; e < 2; e++)
			g->first_before[g->next[b][e] + 1]++;
	for (uint32_t b = 0; b <= g->n; b++)
		g->first_before[b + 1] += g->first_before[b];
	uint32_t *fill = g->order;      /* borrowed: set properly by number_blocks */
	memcpy(fill, g->first_before, (g->n + 1) * sizeof *fill);
	for (uint32_t b = 0; b < g->n; b++)
		for (int e = 0; e < 2; e++)
			g->before[fill[g->next[b][e]]++] = b;
}

/* Depth-first from the exit against the edges, without recursion; the stack is dominator's memory. */
static void number_blocks(Graph *g)
{
	uint32_t *stack = g->dominator, depth = 0, post = 0;
	uint32_t *cursor = g->by_order;
	memset(g->order, 0, (g->n + 1) * sizeof *g->order);
	memcpy(cursor, g->first_before, (g->n + 1) * sizeof *cursor);
	stack[depth++] = g->n;
	g->order[g->n] = 1;             /* seen */
	while (depth > 0) {
		uint32_t b = stack[depth - 1];
		if (cursor[b] < g->first_before[b + 1]) {
			uint32_t p = g->before[cursor[b]++];
			if (!g->order[p]) {
				g->order[p] = 1;
				stack[depth++] = p;
			}
		} else {
			g->order[b] = 2 + post++;
			depth--;
		}
	}
	g->n_ordered = post;
	for (uint32_t b = 0; b <= g->n; b++) {
		bool seen = g->order[b] != 0;
		g->order[b] = seen ? post - 1 - (g->order[b] - 2) : UINT32_MAX;
	}
	for (uint32_t b = 0; b <= g->n; b++)
		if (g->order[b] != UINT32_MAX)
			g->by_order[g->order[b]] = b;
}

static uint32_t common(const Graph *g, uint32_t a, uint32_t b)
{
	while (a != b) {
		while (g->order[a] > g->order[b])
			a = g->dominator[a];
		while (g->order[b] > g->order[a])
			b = g->dominator[b];
	}
	return a;
}

static void find_dominators(Graph *g)
{
	for (uint32_t b = 0; b <= g->n; b++)
		g->dominator[b] = UINT32_MAX;
	g->dominator[g->n] = g->n;
	for (bool changed = true; changed;) {
		changed = false;
		for (uint32_t i = 1; i < g->n_ordered; i++) {
			uint32_t b = g->by_order[i], best = UINT32_MAX;
			for (int e = 0; e < 2; e++) {
				uint32_t s = g->next[b][e];
				if (g->dominator[s] != UINT32_MAX)
					best = best == UINT32_MAX ? s : common(g, best, s);
			}
			if (g->dominator[b] != best) {
				g->dominator[b] = best;
				changed = true;
			}
		}
	}
}

bool find_reconvergence(Sim *sim, Kernel *kernel)
{
	size_t n = (size_t)kernel->n_code + 2;
	uint32_t *memory = calloc(12 * n, sizeof *memory);
	if (!memory)
		return report_plain(sim, "out of memory");
	Graph g = {
		.kernel = kernel, .block_of = memory, .first = memory + n, .last = memory + 2 * n,
		.next = (uint32_t (*)[2])(memory + 3 * n), .order = memory + 5 * n, .by_order = memory + 6 * n,
		.dominator = memory + 7 * n, .first_before = memory + 8 * n, .before = memory + 9 * n + 2,
	};
	find_blocks(&g);
	find_edges(&g);
	number_blocks(&g);
	find_dominators(&g);
	for (uint32_t b = 0; b < g.n; b++) {
		uint32_t d = g.dominator[b];
		kernel->code[g.last[b]].reconverge = d < g.n ? g.first[d] : kernel->n_code;
	}
	free(memory);
	return true;
}
