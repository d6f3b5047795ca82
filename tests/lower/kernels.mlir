// One kernel for each group of ops that templates emit; lower_test.c lowers it and looks for the instructions.
module attributes {gpu.container_module} {
gpu.module @kernels {
  llvm.mlir.global external @shared() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>

  gpu.func @scalar(%x: !llvm.ptr<1>, %n: i32, %stride: i64) kernel attributes {nvvm.reqntid = array<i32: 128, 1, 1>, nvvm.minctasm = 2 : i32} {
    %tid = gpu.thread_id x
    %bid = gpu.block_id x
    %t = arith.index_cast %tid : index to i64
    %b = arith.index_cast %bid : index to i64
    %off = arith.muli %b, %stride : i64
    %i = arith.addi %off, %t : i64
    %p = llvm.getelementptr %x[%i] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, f32
    %v = llvm.load %p : !llvm.ptr<1> -> f32
    %a = math.absf %v : f32
    %fl = math.floor %a : f32
    %sq = llvm.intr.sqrt(%fl) : (f32) -> f32
    %fm = math.fma %sq, %a, %v : f32
    %fm2 = llvm.intr.fma(%fm, %a, %v) : (f32, f32, f32) -> f32
    %ex = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f"(%fm2) : (f32) -> f32
    %c0 = arith.constant 0 : i32
    %c1 = arith.constant 1 : i32
    %z = arith.constant 0.0 : f32
    %r:4 = scf.for %k = %c0 to %n step %c1 iter_args(%u = %ex, %w = %z, %y = %z, %g = %a) -> (f32, f32, f32, f32) : i32 {
      %u1 = arith.maximumf %u, %w : f32
      %w1 = arith.addf %w, %v : f32
      %kf = arith.sitofp %k : i32 to f32
      %y1 = arith.mulf %kf, %y : f32
      %y2 = arith.addf %y1, %w1 : f32
      %g1 = arith.divf %g, %y2 : f32
      scf.yield %u1, %w1, %y2, %g1 : f32, f32, f32, f32
    }
    %sum = arith.addf %r#1, %r#2 : f32
    %sum2 = arith.addf %sum, %r#3 : f32
    %first = arith.cmpf ogt, %sum2, %r#0 : f32
    %s = scf.if %first -> (f32) {
      %d = arith.subf %sum2, %r#0 : f32
      scf.yield %d : f32
    } else {
      scf.yield %z : f32
    }
    llvm.store %s, %p : f32, !llvm.ptr<1>
    %addr = llvm.ptrtoint %x : !llvm.ptr<1> to i64
    %null = arith.constant 0 : i64
    %given = arith.cmpi ne, %addr, %null : i64
    scf.if %given {
      %at = arith.addi %addr, %stride : i64
      %q = llvm.inttoptr %at : i64 to !llvm.ptr<1>
      llvm.inline_asm has_side_effects asm_dialect = att "st.global.f32 [$0], $1;", "l,f" %q, %s : (!llvm.ptr<1>, f32) -> ()
    }
    gpu.return
  }

  gpu.func @matrix(%x: !llvm.ptr<1>, %o: !llvm.ptr<1>, %n: i32) kernel attributes {known_block_size = array<i32: 32, 1, 1>} {
    %smem = llvm.mlir.addressof @shared : !llvm.ptr<3>
    %tid = gpu.thread_id x
    %t = arith.index_cast %tid : index to i32
    %sixteen = arith.constant 16 : i32
    %byte = arith.muli %t, %sixteen : i32
    %slot = llvm.getelementptr %smem[%byte] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i8
    %src = llvm.getelementptr %x[%byte] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, i8
    nvvm.cp.async.shared.global %slot, %src, 16, cache = cg, %n : !llvm.ptr<3>, !llvm.ptr<1>, i32
    nvvm.cp.async.commit.group
    nvvm.cp.async.wait.group 0
    gpu.barrier
    %a = nvvm.ldmatrix %slot {num = 4 : i32, layout = #nvvm.mma_layout<row>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, eltType = #nvvm.ld_st_matrix_elt_type<b16>} : (!llvm.ptr<3>) -> !llvm.struct<(i32, i32, i32, i32)>
    %b = nvvm.ldmatrix %slot {num = 2 : i32, layout = #nvvm.mma_layout<col>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, eltType = #nvvm.ld_st_matrix_elt_type<b16>} : (!llvm.ptr<3>) -> !llvm.struct<(i32, i32)>
    %a0 = llvm.extractvalue %a[0] : !llvm.struct<(i32, i32, i32, i32)>
    %a1 = llvm.extractvalue %a[1] : !llvm.struct<(i32, i32, i32, i32)>
    %a2 = llvm.extractvalue %a[2] : !llvm.struct<(i32, i32, i32, i32)>
    %a3 = llvm.extractvalue %a[3] : !llvm.struct<(i32, i32, i32, i32)>
    %b0 = llvm.extractvalue %b[0] : !llvm.struct<(i32, i32)>
    %b1 = llvm.extractvalue %b[1] : !llvm.struct<(i32, i32)>
    %z = arith.constant 0.0 : f32
    %d = nvvm.mma.sync A[%a0, %a1, %a2, %a3] B[%b0, %b1] C[%z, %z, %z, %z] {layoutA = #nvvm.mma_layout<row>, layoutB = #nvvm.mma_layout<col>, multiplicandAPtxType = #nvvm.mma_type<bf16>, multiplicandBPtxType = #nvvm.mma_type<bf16>, shape = #nvvm.shape<m = 16, n = 8, k = 16>} : (i32, i32, f32) -> !llvm.struct<(f32, f32, f32, f32)>
    %d0 = llvm.extractvalue %d[0] : !llvm.struct<(f32, f32, f32, f32)>
    %d1 = llvm.extractvalue %d[1] : !llvm.struct<(f32, f32, f32, f32)>
    %e = nvvm.mma.sync A[%a0, %a1, %a2, %a3] B[%b0, %b1] C[%d0, %d1, %z, %z] {layoutA = #nvvm.mma_layout<row>, layoutB = #nvvm.mma_layout<col>, multiplicandAPtxType = #nvvm.mma_type<tf32>, multiplicandBPtxType = #nvvm.mma_type<tf32>, shape = #nvvm.shape<m = 16, n = 8, k = 8>} : (i32, i32, f32) -> !llvm.struct<(f32, f32, f32, f32)>
    %e0 = llvm.extractvalue %e[0] : !llvm.struct<(f32, f32, f32, f32)>
    %full = arith.constant -1 : i32
    %one = arith.constant 1 : i32
    %clamp = arith.constant 31 : i32
    %sh = nvvm.shfl.sync bfly %full, %e0, %one, %clamp : f32 -> f32
    %pos = arith.cmpf ogt, %sh, %z : f32
    %any = nvvm.vote.sync any %full, %pos -> i1
    %ballot = nvvm.vote.sync ballot %full, %pos -> i32
    %cv = nvvm.convert.f32x2.to.bf16x2 %sh, %e0 {rnd = #nvvm.fp_rnd_mode<rn>} : vector<2xbf16>
    %bits = llvm.bitcast %cv : vector<2xbf16> to i32
    %sel = arith.select %any, %bits, %ballot : i32
    %out = llvm.getelementptr %o[%t] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, i32
    llvm.store %sel, %out : i32, !llvm.ptr<1>
    gpu.return
  }
}}
