// Convolutions by oneDNN for XLA: float32, channels last, the three directions of a convolution.
//
// A convolution is cut along the batch and its first spatial axis into pieces. Each piece is a convolution of its own, which
// oneDNN computes in one thread as a task of XLA's thread pool. The calling thread works too and never waits for a task that
// has not begun, so two convolutions at once share the pool's threads and no second pool (OpenMP's) competes with it. Scratch
// memory belongs to a thread. Plans are kept by shape; the lock around them is not held while anything is computed.
//
// x [B, *S, C], w [*k, C/groups, O], y [B, *S', O]; `geometry`: stride, dilation, low and high padding per axis, then groups.

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

extern "C" {  // of the OpenMP runtime that oneDNN was built with: declared here, so that its header need not be installed
int omp_get_max_threads(void);
void omp_set_num_threads(int);
}

namespace ffi = xla::ffi;
using dnnl::memory;
using Ints = std::vector<int64_t>;
using Floats = ffi::Buffer<ffi::F32>;
using Task = std::function<void(int64_t)>;

namespace {

enum Direction : int64_t { kForward, kInputGradient, kWeightGradient };

struct Problem {
  int64_t direction;
  Ints x, w, y, stride, dilation, low, high;
  int64_t groups;

  size_t rank() const { return w.size() - 2; }
  Ints Key() const {
    Ints key{direction, groups};
    for (const Ints* part : {&x, &w, &y, &stride, &dilation, &low, &high}) key.insert(key.end(), part->begin(), part->end());
    return key;
  }
};

// Of some images rows [first_in, first_in + rows_in) of x, padded by low and high, and [first_out, first_out + rows_out) of y.
struct Piece {
  int64_t image, images, first_in, rows_in, first_out, rows_out, low, high;
  bool valid() const { return rows_in > 0 && rows_out > 0 && low >= 0 && high >= 0; }
};

struct Primitive {
  dnnl::primitive run;
  memory::desc x, w, y, scratch;
  std::string name;
};

struct Plan {
  std::vector<Piece> pieces;
  std::vector<std::shared_ptr<const Primitive>> primitives;  // of each piece
  std::vector<memory::desc> layouts;  // of the weights, as the primitives want them
  std::vector<size_t> layout;         // of each piece
  memory::desc weights;               // as the caller has them
};

// oneDNN uses one thread within; the calling thread's setting comes back.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  int before_;
};

// Memory that lives as long as its thread, and grows.
class Scratch {
 public:
  float* Get(size_t bytes) {
    if (bytes > size_) {
      size_ = (bytes + 4095) / 4096 * 4096;
      data_.reset();
      data_.reset(std::aligned_alloc(4096, size_));
      if (!data_) size_ = 0, throw std::bad_alloc();
    }
    return static_cast<float*>(data_.get());
  }

 private:
  std::unique_ptr<void, void (*)(void*)> data_{nullptr, std::free};
  size_t size_ = 0;
};

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& Stream() {
  thread_local dnnl::stream stream(Engine());
  return stream;
}

int64_t CeilDiv(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

int64_t Product(const Ints& shape, size_t from) {
  int64_t n = 1;
  for (size_t a = from; a < shape.size(); ++a) n *= shape[a];
  return n;
}

// Runs task(0) ... task(n - 1) on the pool's threads and on this one.
void Parallel(ffi::ThreadPool& pool, int64_t n, const Task& task) {
  struct State {
    const Task* task;  // not touched once every task is taken
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::string error;
  };
  auto state = std::make_shared<State>();
  state->task = &task;
  const auto work = [state, n] {
    for (int64_t i; (i = state->next.fetch_add(1)) < n; state->done.fetch_add(1)) {
      try {
        OneThread one;
        (*state->task)(i);
      } catch (const std::exception& error) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->error = error.what();
      }
    }
  };
  for (int64_t i = std::min<int64_t>(pool.num_threads(), n) - 1; i > 0; --i) pool.Schedule(std::function<void()>(work));
  work();
  while (state->done.load() < n) std::this_thread::yield();
  if (!state->error.empty()) throw std::runtime_error(state->error);
}

memory::dims ChannelsFirst(const Ints& shape) {
  memory::dims dims{shape.front(), shape.back()};
  dims.insert(dims.end(), shape.begin() + 1, shape.end() - 1);
  return dims;
}

// The caller's weights [*k, C/groups, O], seen as oneDNN's [O, C, *k] or [groups, O/groups, C/groups, *k].
memory::desc CallersWeights(const Problem& p) {
  const size_t rank = p.rank();
  const int64_t in = p.w[rank], out = p.w[rank + 1];
  memory::dims dims{out, in}, strides{1, out}, steps(rank);
  if (p.groups > 1) dims = {p.groups, out / p.groups, in}, strides = {out / p.groups, 1, out};
  int64_t step = in * out;
  for (size_t a = rank; a-- > 0; step *= p.w[a]) steps[a] = step;
  dims.insert(dims.end(), p.w.begin(), p.w.begin() + rank);
  strides.insert(strides.end(), steps.begin(), steps.end());
  return memory::desc(dims, memory::data_type::f32, strides);
}

Primitive Make(const Problem& p) {
  const auto f32 = memory::data_type::f32;
  const auto layout = p.rank() == 2 ? memory::format_tag::nhwc : memory::format_tag::ndhwc;
  const memory::desc x(ChannelsFirst(p.x), f32, layout), y(ChannelsFirst(p.y), f32, layout);
  const memory::desc w(CallersWeights(p).get_dims(), f32, memory::format_tag::any);
  memory::dims dilation;
  for (int64_t d : p.dilation) dilation.push_back(d - 1);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  const dnnl::convolution_forward::primitive_desc f(Engine(), dnnl::prop_kind::forward_training, direct, x, w, y, p.stride,
                                                    dilation, p.low, p.high, attributes);
  if (p.direction == kForward)
    return {dnnl::convolution_forward(f), x, f.weights_desc(), y, f.scratchpad_desc(), f.impl_info_str()};
  if (p.direction == kInputGradient) {
    const dnnl::convolution_backward_data::primitive_desc b(Engine(), direct, x, w, y, p.stride, dilation, p.low, p.high, f,
                                                            attributes);
    return {dnnl::convolution_backward_data(b), x, b.weights_desc(), y, b.scratchpad_desc(), b.impl_info_str()};
  }
  const dnnl::convolution_backward_weights::primitive_desc b(Engine(), direct, x, w, y, p.stride, dilation, p.low, p.high, f,
                                                             attributes);
  return {dnnl::convolution_backward_weights(b), x, b.diff_weights_desc(), y, b.scratchpad_desc(), b.impl_info_str()};
}

// oneDNN wrote machine code for this shape; of depthwise convolutions (`groups` of one channel) its special code alone is fast.
bool Fast(const Primitive& primitive, const Problem& p) {
  const auto has = [&](const char* word) { return primitive.name.find(word) != std::string::npos; };
  if (has("gemm") || has("ref")) return false;
  return has("avx512") && (p.groups == 1 || p.w[p.rank()] > 1 || has("_dw"));
}

// About `wanted` pieces: of whole images where there are enough of them, else of each image along the first spatial axis.
std::vector<Piece> Cut(const Problem& p, int64_t wanted) {
  const int64_t in = p.x[1], out = p.y[1], stride = p.stride[0], low = p.low[0], reach = p.dilation[0] * (p.w[0] - 1);
  const int64_t batch = p.x[0], rows = p.direction == kInputGradient ? in : out;
  const int64_t across = std::min(batch, wanted), down = std::min(rows, wanted > batch ? CeilDiv(wanted, batch) : 1);
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < across * down; ++i) {
    const int64_t image = batch * (i / down) / across, images = batch * (i / down + 1) / across - image;
    const int64_t from = rows * (i % down) / down, to = rows * (i % down + 1) / down;
    Piece piece{image, images, from, to - from, from, to - from, 0, 0};
    if (p.direction == kInputGradient) {  // row i of x meets the rows o of y with 0 <= i + low - stride * o <= reach
      piece.first_out = std::max<int64_t>(0, CeilDiv(from + low - reach, stride));
      piece.rows_out = std::min(out, (to - 1 + low) / stride + 1) - piece.first_out;
      piece.low = low + from - piece.first_out * stride;
    } else {
      piece.first_in = std::max<int64_t>(0, from * stride - low);
      piece.rows_in = std::min(in, (to - 1) * stride - low + reach + 1) - piece.first_in;
      piece.low = std::max<int64_t>(0, low - from * stride);
    }
    const int64_t high = (piece.rows_out - 1) * stride + reach + 1 - piece.low - piece.rows_in;
    piece.high = high < 0 && -high < stride ? 0 : high;  // rows that the stride leaves out need no padding
    pieces.push_back(piece);
  }
  return pieces;
}

Plan MakePlan(const Problem& p, int64_t wanted) {
  OneThread one;
  Plan plan{Cut(p, wanted)};
  plan.weights = CallersWeights(p);
  std::map<Ints, std::shared_ptr<const Primitive>> made;
  for (const Piece& piece : plan.pieces) {
    if (!piece.valid()) return {};
    Problem part = p;
    part.x[0] = part.y[0] = piece.images;
    part.x[1] = piece.rows_in, part.y[1] = piece.rows_out, part.low[0] = piece.low, part.high[0] = piece.high;
    auto& primitive = made[part.Key()];
    if (!primitive) primitive = std::make_shared<const Primitive>(Make(part));
    if (!Fast(*primitive, p)) return {};
    plan.primitives.push_back(primitive);
    auto& layouts = plan.layouts;
    const size_t place = std::find(layouts.begin(), layouts.end(), primitive->w) - layouts.begin();
    if (place == layouts.size()) layouts.push_back(primitive->w);
    plan.layout.push_back(place);
  }
  return plan;
}

// The plan for this many threads; without pieces where oneDNN has no fast code. Kept: a program has so many shapes and no more.
std::shared_ptr<const Plan> Planned(const Problem& p, int64_t threads) {
  static std::shared_mutex mutex;
  static std::map<Ints, std::shared_ptr<const Plan>> plans;
  Ints key = p.Key();
  key.push_back(threads);
  {
    std::shared_lock<std::shared_mutex> lock(mutex);
    const auto found = plans.find(key);
    if (found != plans.end()) return found->second;
  }
  constexpr int64_t kRows = 8, kPieces = 4;  // a thread's pieces: several, of so many rows, lest one that is held up holds all up
  constexpr int64_t kPartsBytes = 64 << 20;  // of the pieces' own weight gradients, where there are more than two
  const int64_t rows = p.x[0] * (p.direction == kInputGradient ? p.x[1] : p.y[1]), weights = Product(p.w, 0) * sizeof(float);
  int64_t wanted = p.direction == kWeightGradient ? std::min(threads, std::max<int64_t>(2, kPartsBytes / weights))
                                                  : std::max(threads, std::min(kPieces * threads, rows / kRows));
  Plan plan;
  for (wanted = threads == 1 ? 1 : wanted; wanted > 0 && plan.pieces.empty(); --wanted) {
    try {
      plan = MakePlan(p, wanted);
    } catch (const dnnl::error&) {  // not one of oneDNN's convolutions
      plan = {};
    }
  }
  std::unique_lock<std::shared_mutex> lock(mutex);
  return plans.emplace(std::move(key), std::make_shared<const Plan>(std::move(plan))).first->second;
}

void Run(const Primitive& primitive, int64_t direction, float* x, float* w, float* y) {
  thread_local Scratch scratch;
  std::unordered_map<int, memory> arguments{
      {direction == kInputGradient ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, memory(primitive.x, Engine(), x)},
      {direction == kWeightGradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, memory(primitive.w, Engine(), w)},
      {direction == kForward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, memory(primitive.y, Engine(), y)}};
  const size_t bytes = primitive.scratch.get_size();
  if (bytes > 0) arguments[DNNL_ARG_SCRATCHPAD] = memory(primitive.scratch, Engine(), scratch.Get(bytes));
  primitive.run.execute(Stream(), arguments);
  Stream().wait();
}

void Reorder(const memory::desc& from, float* source, const memory::desc& to, float* target) {
  memory a(from, Engine(), source), b(to, Engine(), target);
  dnnl::reorder(a, b).execute(Stream(), a, b);
  Stream().wait();
}

// How many outputs a layout keeps together (16, 48 or 64): it can be cut between such blocks only.
int64_t Together(const memory::desc& layout) {
  const memory::dims sizes = layout.get_inner_blks(), axes = layout.get_inner_idxs();
  int64_t n = 1;
  for (size_t i = 0; i < sizes.size(); ++i)
    if (axes[i] == 0) n *= sizes[i];
  return n;
}

// Weights from one layout to another, in parallel over blocks of outputs where there are many.
void Reorder(ffi::ThreadPool& pool, const memory::desc& from, float* source, const memory::desc& to, float* target) {
  constexpr int64_t kBlock = 64, kLarge = 1 << 18;
  const memory::dims dims = from.get_dims();
  const int64_t together = std::lcm(Together(from), Together(to)), block = CeilDiv(kBlock, together) * together;
  const bool cut = int64_t(from.get_size()) >= kLarge && dims[0] >= 2 * block && dims[0] % block == 0;
  Parallel(pool, cut ? dims[0] / block : 1, [&](int64_t i) {
    if (!cut) return Reorder(from, source, to, target);
    memory::dims part = dims, offset(dims.size(), 0);
    part[0] = block, offset[0] = i * block;
    Reorder(from.submemory_desc(part, offset), source, to.submemory_desc(part, offset), target);
  });
}

// a += the arrays of `others`, in their order.
void Add(ffi::ThreadPool& pool, float* a, const std::vector<const float*>& others, int64_t size) {
  constexpr int64_t kRange = 1 << 14;
  if (others.empty()) return;
  Parallel(pool, CeilDiv(size, kRange), [&](int64_t r) {
    const int64_t end = std::min(size, (r + 1) * kRange);
    for (const float* other : others)
      for (int64_t j = r * kRange; j < end; ++j) a[j] += other[j];
  });
}

void Convolve(ffi::ThreadPool& pool, const Problem& p, float* x, float* w, float* y) {
  const auto plan = Planned(p, std::max<int64_t>(1, pool.num_threads()));
  const int64_t n = plan->pieces.size(), row_in = Product(p.x, 2), row_out = Product(p.y, 2);
  if (n == 0) throw std::invalid_argument("there is no fast code for this convolution here");
  size_t bytes = Product(p.w, 0) * sizeof(float);  // of one layout, padding to whole blocks included
  for (const memory::desc& layout : plan->layouts) bytes = std::max(bytes, (layout.get_size() + 4095) / 4096 * 4096);
  const int64_t size = bytes / sizeof(float);
  const auto run = [&](int64_t i, float* weights) {
    const Piece& piece = plan->pieces[i];
    Run(*plan->primitives[i], p.direction, x + (piece.image * p.x[1] + piece.first_in) * row_in, weights,
        y + (piece.image * p.y[1] + piece.first_out) * row_out);
  };
  thread_local Scratch turned;
  if (p.direction != kWeightGradient) {
    std::vector<float*> weights(plan->layouts.size(), w);
    float* own = turned.Get(weights.size() * bytes);
    for (size_t l = 0; l < weights.size(); ++l) {
      if (plan->layouts[l] == plan->weights) continue;
      Reorder(pool, plan->weights, w, plan->layouts[l], weights[l] = own + l * size);
    }
    return Parallel(pool, n, [&](int64_t i) { run(i, weights[plan->layout[i]]); });
  }
  float *parts = turned.Get((n + 1) * bytes), *sum = parts + n * size;
  Parallel(pool, n, [&](int64_t i) { run(i, parts + i * size); });
  for (size_t l = 0; l < plan->layouts.size(); ++l) {  // the sum of one layout's parts, then the sum of the layouts'
    std::vector<const float*> others;
    float* first = nullptr;
    for (int64_t i = 0; i < n; ++i) {
      if (plan->layout[i] != l) continue;
      first == nullptr ? void(first = parts + i * size) : others.push_back(parts + i * size);
    }
    Add(pool, first, others, plan->layouts[l].get_size() / sizeof(float));
    Reorder(pool, plan->layouts[l], first, plan->weights, l == 0 ? w : sum);
    if (l > 0) Add(pool, w, {sum}, Product(p.w, 0));
  }
}

Problem Unpack(int64_t direction, Ints x, Ints w, Ints y, const int64_t* geometry) {
  const size_t rank = w.size() - 2;
  const auto part = [&](size_t i) { return Ints(geometry + i * rank, geometry + (i + 1) * rank); };
  return {direction, std::move(x), std::move(w), std::move(y), part(0), part(1), part(2), part(3), geometry[4 * rank]};
}

ffi::Error Handle(ffi::ThreadPool pool, Floats a, Floats b, ffi::ResultBuffer<ffi::F32> c, int64_t direction,
                  ffi::Span<const int64_t> geometry) {
  const auto shape = [](const auto& buffer) { return Ints(buffer.dimensions().begin(), buffer.dimensions().end()); };
  const auto convolve = [&](const auto& x, const auto& w, const auto& y) {
    Convolve(pool, Unpack(direction, shape(x), shape(w), shape(y), geometry.begin()), x.typed_data(), w.typed_data(),
             y.typed_data());
  };
  if (geometry.size() != 4 * (a.dimensions().size() - 2) + 1)
    return ffi::Error::InvalidArgument("oneDNN: the geometry does not fit the arrays' rank");
  try {
    if (direction == kForward) convolve(a, b, *c);
    if (direction == kInputGradient) convolve(*c, b, a);
    if (direction == kWeightGradient) convolve(a, *c, b);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxseg_onednn_conv, Handle,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("direction").Attr<ffi::Span<const int64_t>>("geometry"));

// Into how many pieces a convolution would be cut for this many threads; 0 where oneDNN has no fast code for it.
extern "C" int64_t jaxseg_onednn_pieces(int64_t direction, int64_t rank, const int64_t* x, const int64_t* w, const int64_t* y,
                                        const int64_t* geometry, int64_t threads) {
  const auto shape = [rank](const int64_t* p) { return Ints(p, p + rank + 2); };
  try {
    return Planned(Unpack(direction, shape(x), shape(w), shape(y), geometry), threads)->pieces.size();
  } catch (const std::exception&) {
    return 0;
  }
}

// The library's version as major * 10000 + minor * 100 + patch; 0 where it is not the one of the headers.
extern "C" int64_t jaxseg_onednn_version(void) {
  const dnnl_version_t* v = dnnl_version();
  return v->major == DNNL_VERSION_MAJOR && v->minor == DNNL_VERSION_MINOR ? v->major * 10000 + v->minor * 100 + v->patch : 0;
}
