// stmatrix needs sm_90: the back end for sm_80 cannot select it.
module attributes {gpu.container_module} {
gpu.module @kernels {
  llvm.mlir.global external @shared() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>
  gpu.func @store(%x: i32) kernel {
    %smem = llvm.mlir.addressof @shared : !llvm.ptr<3>
    nvvm.stmatrix %smem, %x, %x {layout = #nvvm.mma_layout<row>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, eltType = #nvvm.ld_st_matrix_elt_type<b16>} : !llvm.ptr<3>, i32, i32
    gpu.return
  }
}}
