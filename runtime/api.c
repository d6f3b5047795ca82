/* The functions of tda.h that ask and launch; opening and closing are in module.c. */
#include "error.h"
#include "module.h"

tda_status tda_get_info(const tda_kernel *kernel, tda_info *info)
{
	tda_status status = validate_pointers(kernel, info, "info");
	const Manifest *m;

	if (status)
		return status;
	if (info->size != sizeof(*info) || info->version != TDA_ABI_VERSION)
		return tda_fail(TDA_BAD_ARGUMENT, "info: size or version is not this libtda's: initialise it with TDA_INFO_INIT");
	m = kernel->manifest;
	*info = (tda_info){
		.size = sizeof(*info), .version = TDA_ABI_VERSION,
		.name = m->spec_name, .spec_hash = m->spec_hash, .compiler = m->compiler, .target = m->target, .plan = m->plan,
		.dtype = m->dtype, .tf32 = m->tf32, .head_dim = m->head_dim, .value_dim = m->value_dim, .views = m->views,
		.l2_normalized = m->l2_normalized, .causal = m->causal, .window = m->window, .rms_norm = m->rms_norm,
		.zeros_proved = m->zeros_proved, .forward_tolerance = m->tolerance[PHASE_FORWARD],
		.backward_tolerance = m->tolerance[PHASE_BACKWARD], .param_count = m->param_count,
	};
	for (int p = 0; p < m->param_count; p++)
		info->params[p] = (tda_param_info){
			.name = m->params[p].name, .shape = m->params[p].shape, .init = m->params[p].init,
			.min = m->params[p].min, .max = m->params[p].max,
		};
	return TDA_OK;
}

tda_status tda_get_sizes(const tda_kernel *kernel, const tda_shape *shape, tda_sizes *sizes)
{
	int64_t vars[FORMULA_VARS] = {0}, bytes[BUFFER_KIND_COUNT];
	tda_status status = validate_pointers(kernel, shape, "shape");

	if (status || (status = validate_pointers(kernel, sizes, "sizes")))
		return status;
	if (sizes->size != sizeof(*sizes) || sizes->version != TDA_ABI_VERSION)
		return tda_fail(TDA_BAD_ARGUMENT, "sizes: size or version is not this libtda's: initialise it with TDA_SIZES_INIT");
	if ((status = validate_shape(shape, vars)) || (status = launch_sizes(kernel->manifest, vars, bytes)))
		return status;
	sizes->saved = (size_t)bytes[BUFFER_SAVED];
	sizes->forward_scratch = (size_t)bytes[BUFFER_FORWARD];
	sizes->backward_scratch = (size_t)bytes[BUFFER_BACKWARD];
	return TDA_OK;
}

tda_status tda_forward(tda_kernel *kernel, const tda_forward_args *args, void *stream)
{
	tda_status status = validate_pointers(kernel, args, "args");
	Binding binding;

	if (status || (status = validate_forward(kernel, args, &binding)))
		return status;
	return module_launch(kernel, PHASE_FORWARD, &binding, stream);
}

tda_status tda_backward(tda_kernel *kernel, const tda_backward_args *args, void *stream)
{
	tda_status status = validate_pointers(kernel, args, "args");
	Binding binding;

	if (status || (status = validate_backward(kernel, args, &binding)))
		return status;
	return module_launch(kernel, PHASE_BACKWARD, &binding, stream);
}

tda_status tda_preload(tda_kernel *kernel)
{
	LoadedModule *loaded;
	const Cuda *cuda;
	tda_status status;

	if (!kernel)
		return tda_fail(TDA_BAD_ARGUMENT, "kernel: the pointer is null");
	if ((status = cuda_open(&cuda)))
		return status;
	return module_get(kernel, cuda, NULL, &loaded);
}
