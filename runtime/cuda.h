/* The CUDA driver, opened with dlopen when first asked for: libtda links and runs where there is none. */
#ifndef TDA_CUDA_H
#define TDA_CUDA_H

#include <stddef.h>
#include "tda.h"

typedef int CUresult;                  /* 0 is success */
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef unsigned long long CUdeviceptr;

/* Values of the driver's enums that are used here. */
enum {
	CUDA_ATTRIBUTE_MULTIPROCESSORS = 16,
	CUDA_ATTRIBUTE_CAPABILITY_MAJOR = 75, CUDA_ATTRIBUTE_CAPABILITY_MINOR = 76,    /* of CUdevice_attribute */
	CUDA_FUNCTION_MAX_DYNAMIC_SHARED = 8,          /* of CUfunction_attribute */
	CUDA_JIT_ERROR_LOG = 5, CUDA_JIT_ERROR_LOG_BYTES = 6,  /* of CUjit_option */
	CUDA_CAPTURE_NONE = 0,                         /* of CUstreamCaptureStatus */
	CUDA_MAP_FLOAT16 = 6, CUDA_MAP_FLOAT32 = 7, CUDA_MAP_BFLOAT16 = 9,  /* of CUtensorMapDataType */
	CUDA_MAP_SWIZZLE_128B = 3,                     /* of CUtensorMapSwizzle */
	CUDA_MAP_PROMOTE_256B = 3,                     /* of CUtensorMapL2promotion */
	CUDA_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION = 6      /* of CUlaunchAttributeID */
};

typedef struct CUtensorMap {
	_Alignas(64) unsigned long long opaque[16];
} CUtensorMap;

typedef struct CUlaunchAttribute {
	unsigned id;
	char pad[4];
	union { char bytes[64]; int number; } value;
} CUlaunchAttribute;

typedef struct CUlaunchConfig {
	unsigned grid[3], block[3], shared_bytes;
	CUstream stream;
	CUlaunchAttribute *attributes;
	unsigned attribute_count;
} CUlaunchConfig;

typedef struct Cuda {
#define CUDA_SYM(name, symbol, parameters) CUresult (*name) parameters;
#define CUDA_SYM_OPTIONAL CUDA_SYM
#include "cuda_syms.def"
#undef CUDA_SYM_OPTIONAL
#undef CUDA_SYM
} Cuda;

/* The driver, initialised. The first call opens it; later ones give the same answer. */
tda_status cuda_open(const Cuda **cuda);
/* TDA_OK for 0; otherwise "WHAT: CUDA_ERROR_...: text". */
tda_status cuda_check(const Cuda *cuda, CUresult result, const char *what);

#endif
