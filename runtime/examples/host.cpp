/*
 * A host program in C++20: opens a PTX file of tdagen, and runs its forward and backward by the f64 reference on the CPU.
 *
 *     c++ -std=c++20 host.cpp -Iruntime -ltda -lm -ldl -lpthread -o host && ./host tda.ptx
 *
 * On a GPU the same arguments hold device pointers and workspaces (see host.c), and tda_forward and tda_backward take a
 * cudaStream_t besides.
 */
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>
#include "tda.h"

/* What libtda refuses becomes an exception with its words. */
static void must(tda_status status)
{
	if (status != TDA_OK)
		throw std::runtime_error(tda_error_message());
}

struct KernelCloser {
	void operator()(tda_kernel *kernel) const { tda_close(kernel); }
};
using Kernel = std::unique_ptr<tda_kernel, KernelCloser>;

static Kernel open(const char *path)
{
	tda_kernel *kernel;

	must(tda_open_file(path, &kernel));
	return Kernel(kernel);
}

/* [batch, heads, length, dim] of float32, packed. A vector's memory begins at a multiple of 16 bytes, as libtda wants it,
 * and stays where it is when the tensor is moved. */
struct Tensor {
	std::vector<float> values;
	tda_tensor arg;

	Tensor(const tda_shape &shape, int64_t heads, int64_t length, int64_t dim)
	    : values(static_cast<size_t>(shape.batch * heads * length * dim)),
	      arg{ values.data(), heads * length * dim, length * dim, dim } {}

	Tensor(Tensor &&) = default;

	/* The same numbers on every machine. */
	void fill(uint32_t seed)
	{
		for (float &value : values) {
			seed = seed * 1664525 + 1013904223;
			value = static_cast<float>(seed >> 8) / (1 << 23) - 1;
		}
	}

	double norm() const
	{
		double sum = 0;
		for (float value : values)
			sum += static_cast<double>(value) * value;
		return std::sqrt(sum);
	}
};

static void run(const char *path)
{
	Kernel kernel = open(path);
	tda_info info = TDA_INFO_INIT;
	tda_forward_args forward = TDA_FORWARD_ARGS_INIT;
	tda_backward_args backward = TDA_BACKWARD_ARGS_INIT;
	std::vector<Tensor> inputs, gradients;         /* q and k of each view, then v */

	must(tda_get_info(kernel.get(), &info));
	if (info.dtype != TDA_F32)
		throw std::runtime_error("this program wants a kernel of float32: tdagen --set dtype=f32");
	forward.shape.batch = 1;
	forward.shape.heads = 4;
	forward.shape.kv_heads = 2;
	forward.shape.q_len = forward.shape.k_len = 64;
	const tda_shape &shape = backward.shape = forward.shape;

	for (std::vector<Tensor> *tensors : { &inputs, &gradients }) {
		for (int view = 0; view < info.views; view++) {
			tensors->emplace_back(shape, shape.heads, shape.q_len, info.head_dim);
			tensors->emplace_back(shape, shape.kv_heads, shape.k_len, info.head_dim);
		}
		tensors->emplace_back(shape, shape.kv_heads, shape.k_len, info.value_dim);
	}
	for (size_t n = 0; n < inputs.size(); n++)
		inputs[n].fill(static_cast<uint32_t>(n));
	for (int view = 0; view < info.views; view++) {
		forward.q[view] = backward.q[view] = inputs[2 * view].arg;
		forward.k[view] = backward.k[view] = inputs[2 * view + 1].arg;
		backward.dq[view] = gradients[2 * view].arg;
		backward.dk[view] = gradients[2 * view + 1].arg;
	}
	forward.v = backward.v = inputs.back().arg;
	backward.dv = gradients.back().arg;

	Tensor o(shape, shape.heads, shape.q_len, info.value_dim), grad_o(shape, shape.heads, shape.q_len, info.value_dim);
	grad_o.fill(7);
	forward.o = o.arg;
	backward.grad_o = grad_o.arg;
	must(tda_reference_forward(kernel.get(), &forward));   /* parameters left null have their initial values */
	must(tda_reference_backward(kernel.get(), &backward));
	std::printf("%s: |o| %.4f, |dq1| %.4f, |dk1| %.4f, |dv| %.4f\n", info.name, o.norm(), gradients[0].norm(),
	            gradients[1].norm(), gradients.back().norm());
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		std::fprintf(stderr, "usage: host kernel.ptx\n");
		return 2;
	}
	try {
		run(argv[1]);
	} catch (const std::exception &error) {
		std::fprintf(stderr, "%s\n", error.what());
		return 1;
	}
	return 0;
}
