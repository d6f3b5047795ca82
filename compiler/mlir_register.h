/* What MLIR's C API leaves out: registering translations and conversion interfaces one by one. */
#ifndef TDAGEN_MLIR_REGISTER_H
#define TDAGEN_MLIR_REGISTER_H

#include <mlir-c/IR.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Adds to a registry the translations to LLVM IR and the conversion interfaces that lower.c's passes look up. */
void mlir_register_interfaces(MlirDialectRegistry registry);

#ifdef __cplusplus
}
#endif

#endif
