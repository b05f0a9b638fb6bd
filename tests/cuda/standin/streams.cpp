// Streams and events.
#include <algorithm>
#include <utility>

#include "standin.h"

namespace standin {
namespace {

thread_local int thread_mode = 0;  // CU_STREAM_CAPTURE_MODE_GLOBAL

const CUstream legacy_handle = reinterpret_cast<CUstream>(1), per_thread_handle = reinterpret_cast<CUstream>(2);

// The legacy stream waits for blocking streams, and they wait for it.
void see_blocking(Stream& legacy) {
  for (const auto& [handle, stream] : state().streams.all())
    if (stream->blocking && stream->ordinal == legacy.ordinal) join(legacy.clock, stream->clock);
  for (const auto& [key, stream] : state().per_thread)
    if (stream.ordinal == legacy.ordinal) join(legacy.clock, stream.clock);
}

CUresult check_event(const char* call, CUevent handle, Event*& event) {
  event = state().events.find(handle);
  return event ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, std::string(call) + ": no event");
}

// Work in the legacy stream would wait for a blocking stream that captures; in another one it would not be captured.
CUresult refuse_legacy_while_capturing() {
  bool refused = false;
  for (const auto& capture : state().captures) {
    const bool mine = capture->thread == std::this_thread::get_id();
    for (const Stream* stream : capture->streams)
      if (mine || stream->blocking) capture->valid = false, refused = true;
  }
  return refused ? fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream is used during a capture") : CUDA_SUCCESS;
}

}  // namespace

CUresult refuse_while_capturing(const char* call) {
  bool refused = false;
  for (const auto& capture : state().captures) {
    const bool mine = capture->thread == std::this_thread::get_id();
    if (mine ? std::max(capture->mode, thread_mode) < CU_STREAM_CAPTURE_MODE_RELAXED : capture->mode + thread_mode == 0)
      capture->valid = false, refused = true;
  }
  if (!refused) return CUDA_SUCCESS;
  return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, std::string(call) + " during a capture");
}

CUresult find_stream(CUstream handle, Stream*& stream) {
  if (handle == nullptr || handle == legacy_handle || handle == per_thread_handle) {
    int ordinal;
    if (const CUresult error = current_device(ordinal)) return error;
    const bool legacy = handle != per_thread_handle;
    stream = legacy ? &state().legacy[ordinal] : &state().per_thread[{std::this_thread::get_id(), ordinal}];
    stream->ordinal = ordinal, stream->legacy = legacy;
    return CUDA_SUCCESS;
  }
  stream = state().streams.find(handle);
  return stream ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "no stream, or a destroyed one");
}

CUresult find_stream_for_work(CUstream handle, Stream*& stream) {
  int ordinal;
  if (const CUresult error = current_device(ordinal)) return error;
  if (const CUresult error = find_stream(handle, stream)) return error;
  if (stream->ordinal != ordinal)
    return fail(CUDA_ERROR_INVALID_HANDLE, "work for a stream of another context than the current one");
  return stream->legacy ? refuse_legacy_while_capturing() : CUDA_SUCCESS;
}

void begin_work(Stream& stream) {
  join(stream.clock, state().host);
  if (stream.legacy)
    see_blocking(stream);
  else if (stream.blocking)
    join(stream.clock, state().legacy[stream.ordinal].clock);
}

CUresult submit(Stream& stream, Work work) {
  if (!stream.capture) {
    begin_work(stream);
    return perform(work, stream.clock, stream.chain);
  }
  if (!stream.capture->valid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, work.what);
  auto& nodes = stream.capture->graph->nodes;
  nodes.push_back(std::make_unique<Node>(Node{std::move(work), stream.last}));
  stream.last = {nodes.back().get()};
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuThreadExchangeStreamCaptureMode(int* mode) {
  const Lock lock;
  if (*mode < 0 || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return fail(CUDA_ERROR_INVALID_VALUE, "cuThreadExchangeStreamCaptureMode: mode");
  std::swap(*mode, thread_mode);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuStreamCreate(CUstream* stream, unsigned flags) {
  const Lock lock;
  auto made = std::make_unique<Stream>();
  if (const CUresult error = current_device(made->ordinal)) return error;
  if (flags > CU_STREAM_NON_BLOCKING) return fail(CUDA_ERROR_INVALID_VALUE, "cuStreamCreate: flags");
  made->blocking = !flags;
  *stream = state().streams.add(std::move(made));
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuStreamDestroy_v2(CUstream handle) {
  const Lock lock;
  const auto stream = state().streams.remove(handle);
  if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "cuStreamDestroy: no stream");
  if (!stream->capture) return CUDA_SUCCESS;
  const auto capture = stream->capture;
  capture->valid = false;
  capture->streams.erase(stream.get());
  if (capture->origin == stream.get()) {
    for (Stream* captured : capture->streams) captured->capture = nullptr, captured->last.clear();
    state().captures.erase(capture);
  }
  return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuStreamDestroy: the stream was capturing");
}

STANDIN_EXPORT int cuStreamSynchronize(CUstream handle) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_stream(handle, stream)) return error;
  if (const CUresult error = refuse_while_capturing("cuStreamSynchronize")) return error;
  if (stream->capture) {
    stream->capture->valid = false;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamSynchronize of a capturing stream");
  }
  if (stream->legacy) {
    if (const CUresult error = refuse_legacy_while_capturing()) return error;
    see_blocking(*stream);
  }
  join(state().host, stream->clock);
  ++state().synchronisations;
  return check_guards();
}

STANDIN_EXPORT int cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
  const Lock lock;
  Stream* stream;
  Event* event;
  if (const CUresult error = find_stream(handle, stream)) return error;
  if (const CUresult error = check_event("cuStreamWaitEvent", event_handle, event)) return error;
  if (flags) return fail(CUDA_ERROR_INVALID_VALUE, "cuStreamWaitEvent: flags");
  if (stream->legacy)
    if (const CUresult error = refuse_legacy_while_capturing()) return error;
  const auto captured = event->capture.lock();
  if (stream->capture && !stream->capture->valid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuStreamWaitEvent");
  if (stream->capture && captured != stream->capture) {
    stream->capture->valid = false;
    return captured ? fail(CUDA_ERROR_STREAM_CAPTURE_MERGE, "cuStreamWaitEvent: an event of another capture")
                    : fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "cuStreamWaitEvent: an event from outside the capture");
  }
  if (captured) {
    if (stream->legacy) return fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "cuStreamWaitEvent: the legacy stream");
    stream->capture = captured;
    captured->streams.insert(stream);
    for (Node* node : event->last) stream->last.push_back(node);
    return CUDA_SUCCESS;
  }
  begin_work(*stream);
  join(stream->clock, event->clock);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuEventCreate(CUevent* event, unsigned flags) {
  const Lock lock;
  auto made = std::make_unique<Event>();
  if (const CUresult error = current_device(made->ordinal)) return error;
  if (flags > 3) return fail(CUDA_ERROR_INVALID_VALUE, "cuEventCreate: flags");
  made->flags = flags;
  *event = state().events.add(std::move(made));
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuEventDestroy_v2(CUevent handle) {
  const Lock lock;
  return state().events.remove(handle) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "cuEventDestroy: no event");
}

STANDIN_EXPORT int cuEventRecord(CUevent handle, CUstream stream_handle) {
  const Lock lock;
  Stream* stream;
  Event* event;
  if (const CUresult error = find_stream(stream_handle, stream)) return error;
  if (const CUresult error = check_event("cuEventRecord", handle, event)) return error;
  if (event->ordinal != stream->ordinal)
    return fail(CUDA_ERROR_INVALID_HANDLE, "cuEventRecord: event and stream are of two contexts");
  if (stream->legacy)
    if (const CUresult error = refuse_legacy_while_capturing()) return error;
  if (stream->capture && !stream->capture->valid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuEventRecord");
  event->recorded = true;
  event->capture = stream->capture, event->last = stream->last;
  if (stream->capture) return CUDA_SUCCESS;
  begin_work(*stream);
  event->clock = stream->clock;
  event->time = std::chrono::steady_clock::now();
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuEventSynchronize(CUevent handle) {
  const Lock lock;
  Event* event;
  if (const CUresult error = check_event("cuEventSynchronize", handle, event)) return error;
  if (const auto capture = event->capture.lock()) {
    capture->valid = false;
    return fail(CUDA_ERROR_CAPTURED_EVENT, "cuEventSynchronize: a captured event");
  }
  if (const CUresult error = refuse_while_capturing("cuEventSynchronize")) return error;
  join(state().host, event->clock);
  ++state().synchronisations;
  return check_guards();
}

STANDIN_EXPORT int cuEventElapsedTime(float* milliseconds, CUevent from_handle, CUevent to_handle) {
  const Lock lock;
  Event *from, *to;
  if (const CUresult error = check_event("cuEventElapsedTime", from_handle, from)) return error;
  if (const CUresult error = check_event("cuEventElapsedTime", to_handle, to)) return error;
  if (!from->recorded || !to->recorded || (from->flags | to->flags) & CU_EVENT_DISABLE_TIMING)
    return fail(CUDA_ERROR_INVALID_HANDLE, "cuEventElapsedTime: events that are not recorded, or keep no time");
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return CUDA_SUCCESS;
}

}  // namespace standin
