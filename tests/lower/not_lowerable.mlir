// A cast that nothing resolves: the lowering to NVVM leaves it, and the translation to LLVM IR must say so.
module attributes {gpu.container_module} {
gpu.module @kernels {
  gpu.func @cast(%x: !llvm.ptr<1>, %v: i32) kernel {
    %odd = builtin.unrealized_conversion_cast %v : i32 to f32
    llvm.store %odd, %x : f32, !llvm.ptr<1>
    gpu.return
  }
}}
