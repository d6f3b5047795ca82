// The one C++ file: registration entry points of MLIR that have no C API. Registering everything instead, which the
// C API can do, would make the static binary three times as large and its start slow. Only light headers of MLIR are
// included: those of its dialects take a minute to compile.
#include "mlir_register.h"

#include <mlir/Conversion/ArithToLLVM/ArithToLLVM.h>
#include <mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h>
#include <mlir/Conversion/FuncToLLVM/ConvertFuncToLLVM.h>
#include <mlir/Conversion/IndexToLLVM/IndexToLLVM.h>
#include <mlir/Conversion/MathToLLVM/MathToLLVM.h>
#include <mlir/Conversion/MemRefToLLVM/MemRefToLLVM.h>
#include <mlir/Conversion/NVVMToLLVM/NVVMToLLVM.h>
#include <mlir/Conversion/UBToLLVM/UBToLLVM.h>
#include <mlir/Conversion/VectorToLLVM/ConvertVectorToLLVM.h>
#include <mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h>
#include <mlir/Target/LLVMIR/Dialect/GPU/GPUToLLVMIRTranslation.h>
#include <mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h>
#include <mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h>

void mlir_register_interfaces(MlirDialectRegistry handle)
{
	mlir::DialectRegistry &registry = *static_cast<mlir::DialectRegistry *>(handle.ptr);

	mlir::registerBuiltinDialectTranslation(registry);
	mlir::registerGPUDialectTranslation(registry);
	mlir::registerLLVMDialectTranslation(registry);
	mlir::registerNVVMDialectTranslation(registry);

	/* The passes load func, index and memref themselves, and then ask every loaded dialect for its interface. */
	mlir::arith::registerConvertArithToLLVMInterface(registry);
	mlir::cf::registerConvertControlFlowToLLVMInterface(registry);
	mlir::index::registerConvertIndexToLLVMInterface(registry);
	mlir::registerConvertFuncToLLVMInterface(registry);
	mlir::registerConvertMathToLLVMInterface(registry);
	mlir::registerConvertMemRefToLLVMInterface(registry);
	mlir::registerConvertNVVMToLLVMInterface(registry);
	mlir::ub::registerConvertUBToLLVMInterface(registry);
	mlir::vector::registerConvertVectorToLLVMInterface(registry);
}
