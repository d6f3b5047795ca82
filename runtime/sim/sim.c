/* The public functions that are about modules, launches and counts; those about memory are in memory.c. */
#include <stdlib.h>
#include <string.h>
#include "ptx_parse.h"

Sim *sim_new(void)
{
	return calloc(1, sizeof(Sim));
}

static void module_free(SimModule *m)
{
	for (uint32_t i = 0; i < m->n_kernels; i++) {
		free(m->kernels[i].name);
		free(m->kernels[i].params);
		free(m->kernels[i].code);
		free(m->kernels[i].constants);
		free(m->kernels[i].lists);
	}
	for (uint32_t i = 0; i < m->n_files; i++)
		free(m->files[i]);
	free(m->kernels);
	free(m->files);
	free(m->globals);
	free(m->text);
	free(m);
}

void sim_free(Sim *sim)
{
	if (!sim)
		return;
	while (sim->modules) {
		SimModule *next = sim->modules->next;
		module_free(sim->modules);
		sim->modules = next;
	}
	memory_free_all(sim);
	free(sim);
}

SimModule *sim_load(Sim *sim, const char *ptx, size_t length)
{
	SimModule *m = calloc(1, sizeof *m);
	char *text = malloc(length + 1);
	sim->error[0] = 0;
	if (!m || !text) {
		report_plain(sim, "sim_load: out of memory");
		free(m);
		free(text);
		return NULL;
	}
	memcpy(text, ptx, length);
	text[length] = 0;
	*m = (SimModule){ .sim = sim, .text = text, .length = length };
	if (!parse_module(m)) {
		for (uint32_t i = 0; i < m->n_globals; i++)
			sim_release(sim, m->globals[i]);
		module_free(m);
		return NULL;
	}
	m->next = sim->modules;
	sim->modules = m;
	return m;
}

static const Kernel *find_kernel(const SimModule *module, const char *entry)
{
	for (uint32_t i = 0; i < module->n_kernels; i++)
		if (strcmp(module->kernels[i].name, entry) == 0)
			return &module->kernels[i];
	return NULL;
}

static bool check_launch(Sim *sim, const Kernel *k, const uint32_t grid[3], const uint32_t block[3], uint32_t shared)
{
	uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
	const uint32_t *required = k->required_threads;
	if (block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads == 0 || threads > 1024)
		return report_plain(sim, "kernel '%s': a CTA of %ux%ux%u threads; it has 1 to 1024", k->name, block[0],
			block[1],
			block[2]);
	if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > INT32_MAX || grid[1] > 65535 || grid[2] > 65535)
		return report_plain(sim, "kernel '%s': a grid of %ux%ux%u CTAs; its limits are 2^31-1, 65535 and 65535",
			k->name,
			grid[0], grid[1], grid[2]);
	if (required[0] && memcmp(required, block, 3 * sizeof *block) != 0)
		return report_plain(sim, "kernel '%s': launched with %ux%ux%u threads, .reqntid wants %ux%ux%u", k->name,
			block[0],
			block[1], block[2], required[0], required[1], required[2]);
	if (k->max_threads && threads > k->max_threads)
		return report_plain(sim, "kernel '%s': launched with %u threads, .maxntid allows %u", k->name,
			(unsigned)threads,
			k->max_threads);
	if (shared > MAX_SHARED || k->static_shared + shared > MAX_SHARED)
		return report_plain(sim, "kernel '%s': %u bytes of static and %u of dynamic shared memory; a CTA has at most "
			"%d",
			k->name, k->static_shared, shared, MAX_SHARED);
	return true;
}

int sim_launch(Sim *sim, SimModule *module, const char *entry, const uint32_t grid[3], const uint32_t block[3],
               uint32_t dynamic_shared_bytes, const void *const *params)
{
	const Kernel *k = find_kernel(module, entry);
	sim->error[0] = 0;
	if (!k) {
		report_plain(sim, "the module has no kernel '%s'", entry);
		return -1;
	}
	for (uint32_t i = 0; i < k->n_params; i++)
		if (!params || !params[i]) {
			report_plain(sim, "kernel '%s': parameter %u of %u is missing", entry, i, k->n_params);
			return -1;
		}
	if (!check_launch(sim, k, grid, block, dynamic_shared_bytes))
		return -1;
	return run_kernel(sim, module, k, grid, block, dynamic_shared_bytes, params) ? 0 : -1;
}

const char *sim_error(const Sim *sim) { return sim->error; }
SimCounts sim_counts(const Sim *sim) { return sim->counts; }
void sim_reset_counts(Sim *sim) { sim->counts = (SimCounts){ 0 }; }
