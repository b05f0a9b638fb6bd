// The functions of the CUDA driver, of NVRTC and of cuBLAS that are called here, under their own names and with the prototypes
// of their documentation (CUDA 12 and 13). Nothing is linked: library.h opens the libraries at first use.
#pragma once
#include <cstddef>
#include <cstdint>

namespace recurra {
namespace cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUkernel = struct CUkern_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphNode = struct CUgraphNode_st*;
using CUgraphExec = struct CUgraphExec_st*;

constexpr CUresult CUDA_SUCCESS = 0, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NO_DEVICE = 100;
constexpr int CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;
constexpr int CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
constexpr int CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9;
constexpr unsigned CU_STREAM_NON_BLOCKING = 1, CU_EVENT_DEFAULT = 0, CU_EVENT_DISABLE_TIMING = 2;
constexpr int CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1, CU_STREAM_CAPTURE_MODE_RELAXED = 2;
constexpr int CU_STREAM_CAPTURE_STATUS_NONE = 0, CU_STREAM_CAPTURE_STATUS_ACTIVE = 1;

struct CUDA_KERNEL_NODE_PARAMS {  // version 2
  CUfunction func;
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  void** kernelParams;
  void** extra;
  CUkernel kern;
  CUcontext ctx;
};

constexpr int CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4;
struct CUlaunchAttribute {
  int id, pad;
  union {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } clusterDim;
    int cooperative;
  } value;
};
struct CUlaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  CUstream hStream;
  CUlaunchAttribute* attrs;
  unsigned numAttrs;
};

// RECURRA_CALL(symbol that the library exports, name it is called by, arguments...). All return an integer, 0 for success.
#define RECURRA_DRIVER_CALLS(RECURRA_CALL)                                                                                  \
  RECURRA_CALL(cuInit, cuInit, unsigned flags)                                                                              \
  RECURRA_CALL(cuDriverGetVersion, cuDriverGetVersion, int* version)                                                        \
  RECURRA_CALL(cuGetErrorName, cuGetErrorName, CUresult error, const char** text)                                           \
  RECURRA_CALL(cuGetErrorString, cuGetErrorString, CUresult error, const char** text)                                       \
  RECURRA_CALL(cuDeviceGetCount, cuDeviceGetCount, int* count)                                                              \
  RECURRA_CALL(cuDeviceGet, cuDeviceGet, CUdevice* device, int ordinal)                                                     \
  RECURRA_CALL(cuDeviceGetName, cuDeviceGetName, char* name, int size, CUdevice device)                                     \
  RECURRA_CALL(cuDeviceGetAttribute, cuDeviceGetAttribute, int* value, int attribute, CUdevice device)                      \
  RECURRA_CALL(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, CUcontext* context, CUdevice device)                     \
  RECURRA_CALL(cuCtxPushCurrent_v2, cuCtxPushCurrent, CUcontext context)                                                    \
  RECURRA_CALL(cuCtxPopCurrent_v2, cuCtxPopCurrent, CUcontext* context)                                                     \
  RECURRA_CALL(cuMemAlloc_v2, cuMemAlloc, CUdeviceptr* pointer, size_t bytes)                                               \
  RECURRA_CALL(cuMemFree_v2, cuMemFree, CUdeviceptr pointer)                                                                \
  RECURRA_CALL(cuMemcpyHtoD_v2, cuMemcpyHtoD, CUdeviceptr to, const void* from, size_t bytes)                               \
  RECURRA_CALL(cuMemcpyDtoH_v2, cuMemcpyDtoH, void* to, CUdeviceptr from, size_t bytes)                                     \
  RECURRA_CALL(cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)    \
  RECURRA_CALL(cuMemsetD8Async, cuMemsetD8Async, CUdeviceptr pointer, unsigned char value, size_t bytes, CUstream stream)   \
  RECURRA_CALL(cuPointerGetAttribute, cuPointerGetAttribute, void* value, int attribute, CUdeviceptr pointer)               \
  RECURRA_CALL(cuModuleLoadData, cuModuleLoadData, CUmodule* module, const void* image)                                     \
  RECURRA_CALL(cuModuleGetFunction, cuModuleGetFunction, CUfunction* function, CUmodule module, const char* name)           \
  RECURRA_CALL(cuFuncGetAttribute, cuFuncGetAttribute, int* value, int attribute, CUfunction function)                      \
  RECURRA_CALL(cuFuncSetAttribute, cuFuncSetAttribute, CUfunction function, int attribute, int value)                       \
  RECURRA_CALL(cuLaunchKernel, cuLaunchKernel, CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,      \
               unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream,                \
               void** parameters, void** extra)                                                                             \
  RECURRA_CALL(cuLaunchKernelEx, cuLaunchKernelEx, const CUlaunchConfig* config, CUfunction function, void** parameters,    \
               void** extra)                                                                                                \
  RECURRA_CALL(cuOccupancyMaxActiveClusters, cuOccupancyMaxActiveClusters, int* clusters, CUfunction function,              \
               const CUlaunchConfig* config)                                                                                \
  RECURRA_CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor, int* blocks,       \
               CUfunction function, int threads, size_t shared_bytes)                                                       \
  RECURRA_CALL(cuStreamCreate, cuStreamCreate, CUstream* stream, unsigned flags)                                            \
  RECURRA_CALL(cuStreamDestroy_v2, cuStreamDestroy, CUstream stream)                                                        \
  RECURRA_CALL(cuStreamSynchronize, cuStreamSynchronize, CUstream stream)                                                   \
  RECURRA_CALL(cuStreamWaitEvent, cuStreamWaitEvent, CUstream stream, CUevent event, unsigned flags)                        \
  RECURRA_CALL(cuStreamBeginCapture_v2, cuStreamBeginCapture, CUstream stream, int mode)                                    \
  RECURRA_CALL(cuStreamEndCapture, cuStreamEndCapture, CUstream stream, CUgraph* graph)                                     \
  RECURRA_CALL(cuStreamIsCapturing, cuStreamIsCapturing, CUstream stream, int* status)                                      \
  RECURRA_CALL(cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, int* mode)                             \
  RECURRA_CALL(cuEventCreate, cuEventCreate, CUevent* event, unsigned flags)                                                \
  RECURRA_CALL(cuEventDestroy_v2, cuEventDestroy, CUevent event)                                                            \
  RECURRA_CALL(cuEventRecord, cuEventRecord, CUevent event, CUstream stream)                                                \
  RECURRA_CALL(cuEventSynchronize, cuEventSynchronize, CUevent event)                                                       \
  RECURRA_CALL(cuEventElapsedTime, cuEventElapsedTime, float* milliseconds, CUevent from, CUevent to)                       \
  RECURRA_CALL(cuGraphCreate, cuGraphCreate, CUgraph* graph, unsigned flags)                                                \
  RECURRA_CALL(cuGraphAddKernelNode_v2, cuGraphAddKernelNode, CUgraphNode* node, CUgraph graph,                             \
               const CUgraphNode* dependencies, size_t count, const CUDA_KERNEL_NODE_PARAMS* parameters)                    \
  RECURRA_CALL(cuGraphInstantiateWithFlags, cuGraphInstantiate, CUgraphExec* exec, CUgraph graph, unsigned long long flags) \
  RECURRA_CALL(cuGraphExecKernelNodeSetParams_v2, cuGraphExecKernelNodeSetParams, CUgraphExec exec, CUgraphNode node,       \
               const CUDA_KERNEL_NODE_PARAMS* parameters)                                                                   \
  RECURRA_CALL(cuGraphLaunch, cuGraphLaunch, CUgraphExec exec, CUstream stream)                                             \
  RECURRA_CALL(cuGraphExecDestroy, cuGraphExecDestroy, CUgraphExec exec)                                                    \
  RECURRA_CALL(cuGraphDestroy, cuGraphDestroy, CUgraph graph)

using nvrtcResult = int;
using nvrtcProgram = struct nvrtcProgram_st*;

#define RECURRA_NVRTC_CALLS(RECURRA_CALL)                                                                                      \
  RECURRA_CALL(nvrtcVersion, nvrtcVersion, int* major, int* minor)                                                             \
  RECURRA_CALL(nvrtcCreateProgram, nvrtcCreateProgram, nvrtcProgram* program, const char* source, const char* name, int count, \
               const char* const* headers, const char* const* header_names)                                                    \
  RECURRA_CALL(nvrtcCompileProgram, nvrtcCompileProgram, nvrtcProgram program, int count, const char* const* options)          \
  RECURRA_CALL(nvrtcGetProgramLogSize, nvrtcGetProgramLogSize, nvrtcProgram program, size_t* bytes)                            \
  RECURRA_CALL(nvrtcGetProgramLog, nvrtcGetProgramLog, nvrtcProgram program, char* log)                                        \
  RECURRA_CALL(nvrtcGetCUBINSize, nvrtcGetCUBINSize, nvrtcProgram program, size_t* bytes)                                      \
  RECURRA_CALL(nvrtcGetCUBIN, nvrtcGetCUBIN, nvrtcProgram program, char* cubin)                                                \
  RECURRA_CALL(nvrtcDestroyProgram, nvrtcDestroyProgram, nvrtcProgram* program)

using cublasStatus = int;
using cublasHandle = struct cublasContext*;
constexpr int CUBLAS_OP_N = 0, CUBLAS_OP_T = 1;
constexpr int CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14;
constexpr int CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_32F_FAST_TF32 = 77, CUBLAS_COMPUTE_64F = 70;
constexpr int CUBLAS_GEMM_DEFAULT = -1;
constexpr int CUBLAS_POINTER_MODE_HOST = 0;

#define RECURRA_CUBLAS_CALLS(RECURRA_CALL)                                                                                    \
  RECURRA_CALL(cublasCreate_v2, cublasCreate, cublasHandle* handle)                                                           \
  RECURRA_CALL(cublasGetVersion_v2, cublasGetVersion, cublasHandle handle, int* version)                                      \
  RECURRA_CALL(cublasSetStream_v2, cublasSetStream, cublasHandle handle, CUstream stream)                                     \
  RECURRA_CALL(cublasSetWorkspace_v2, cublasSetWorkspace, cublasHandle handle, void* workspace, size_t bytes)                 \
  RECURRA_CALL(cublasGemmStridedBatchedEx, cublasGemmStridedBatchedEx, cublasHandle handle, int op_a, int op_b, int m, int n, \
               int k, const void* alpha, const void* a, int type_a, int lda, long long stride_a, const void* b, int type_b,   \
               int ldb, long long stride_b, const void* beta, void* c, int type_c, int ldc, long long stride_c, int count,    \
               int compute, int algorithm)

}  // namespace cuda
}  // namespace recurra
