// A device for torch whose memory is a counted part of the machine's: every operation is the processor's own.
//
// It stands where a graphics card stands, so that what belongs to a card and not to its speed can be seen without one:
// which tensors lie where, what is moved when memory is short, and what becomes of a failed allocation. As on a card, an
// operation on tensors of both places is an error, numbers (tensors without dimensions) excepted.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/Resize.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/SDPBackend.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace {

constexpr auto CARD = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(CARD, 0);

std::atomic<int64_t> taken{0}, most{0}, limit{int64_t{1} << 40};

struct Block {
    void *memory;
    int64_t bytes;
};

void give_back(void *context) {
    auto *block = static_cast<Block *>(context);
    taken -= block->bytes;
    std::free(block->memory);
    delete block;
}

struct CountingAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t wanted) override {
        const auto bytes = static_cast<int64_t>((wanted + 511) / 512 * 512);
        if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, DEVICE};
        const int64_t now = taken += bytes;
        if (now > limit) {
            taken -= bytes;
            TORCH_CHECK_WITH(OutOfMemoryError, false, "software card: out of memory. Tried to allocate ", bytes,
                             " bytes; ", now - bytes, " of ", limit.load(), " are taken.");
        }
        for (int64_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        auto *block = new Block{std::malloc(bytes), bytes};
        return {block->memory, block, &give_back, DEVICE};
    }
    c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
    void copy_data(void *to, const void *from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

CountingAllocator allocator;
REGISTER_ALLOCATOR(CARD, &allocator);
C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<CARD>);

struct Hooks final : at::PrivateUse1HooksInterface {
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
    c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
    const at::Generator &getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
    void resizePrivateUse1Bytes(const c10::Storage &storage, size_t bytes) const override {
        auto fresh = allocator.allocate(bytes);
        if (storage.data() != nullptr) std::memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
        storage.set_data_ptr(std::move(fresh));
        storage.unsafeGetStorageImpl()->set_nbytes(bytes);
    }
};

// The same memory, as the processor sees it.
at::Tensor bare(const at::Tensor &tensor) {
    if (tensor.device().type() != CARD) return tensor;
    return at::from_blob(tensor.mutable_data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
    return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                     c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
    return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &allocator,
                                             c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor &from, const at::Tensor &to, bool) {
    auto target = bare(to);
    target.copy_(bare(from));
    return to;
}

at::Tensor copy_from_and_resize(const at::Tensor &from, const at::Tensor &to) {
    to.resize_(from.sizes());
    return copy_from(from, to, false);
}

at::Scalar one_number(const at::Tensor &tensor) { return bare(tensor).item(); }

void refuse_both_places(c10::ArrayRef<at::Tensor> tensors, const std::string &name) {
    for (const auto &tensor : tensors)
        TORCH_CHECK(!tensor.defined() || tensor.device().type() == CARD || tensor.dim() == 0,
                    "Expected all tensors to be on the same device, but found at least two devices, ", DEVICE,
                    " and cpu! (in ", name, ")");
}

// Places in the stack of an operation's arguments: each tensor of it is given to ``change`` and replaced by its answer.
template <typename Change> void for_tensors(c10::IValue &value, Change &&change) {
    if (value.isTensor()) {
        if (value.toTensor().defined()) value = change(value.toTensor());
    } else if (value.isTensorList()) {
        auto changed = c10::List<at::Tensor>();
        for (const at::Tensor &tensor : value.toTensorVector()) changed.push_back(tensor.defined() ? change(tensor) : tensor);
        value = std::move(changed);
    } else if (value.isOptionalTensorList()) {
        auto changed = c10::List<std::optional<at::Tensor>>();
        for (const std::optional<at::Tensor> &tensor : value.toOptionalTensorVector())
            changed.push_back(tensor && tensor->defined() ? std::optional(change(*tensor)) : tensor);
        value = std::move(changed);
    } else if (value.isDevice() && value.toDevice().type() == CARD) {
        value = c10::Device(at::kCPU);
    }
}

// The operation on the same memory by the processor; what it makes anew is taken to the card.
void by_the_processor(const c10::OperatorHandle &op, torch::jit::Stack *stack) {
    const auto &schema = op.schema();
    const auto &arguments = schema.arguments();
    const auto start = stack->size() - arguments.size();
    const bool fills_given = std::any_of(arguments.begin(), arguments.end(), [](const c10::Argument &argument) {
        return argument.kwarg_only() && argument.alias_info() && argument.alias_info()->isWrite();
    });
    if (fills_given) return at::native::cpu_fallback(op, stack);  // it may have to give that another size
    const auto &name = schema.name();
    const bool by_numbers = name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index", 0) == 0;
    const std::vector<c10::IValue> given(stack->begin() + static_cast<int64_t>(start), stack->end());
    for (auto place = start; place < stack->size(); ++place)
        for_tensors((*stack)[place], [&](const at::Tensor &tensor) {
            if (!by_numbers) refuse_both_places({tensor}, name);  // indices are taken from anywhere
            return bare(tensor);
        });
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    const auto &returns = schema.returns();
    const auto first = stack->size() - returns.size();
    for (size_t place = 0; place < returns.size(); ++place) {
        auto &value = (*stack)[first + place];
        const auto *changed = returns[place].alias_info();
        if (changed && changed->isWrite()) {
            for (size_t argument = 0; argument < arguments.size(); ++argument)
                if (arguments[argument].alias_info() && *arguments[argument].alias_info() == *changed) value = given[argument];
        } else {
            for_tensors(value, [](const at::Tensor &tensor) { return tensor.to(DEVICE); });
        }
    }
}

// Convolutions have a place of their own in torch for devices like this one.
at::Tensor convolution(const at::Tensor &input, const at::Tensor &weight, const std::optional<at::Tensor> &bias,
                       c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                       bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
    const bool biased = bias && bias->defined();
    refuse_both_places({input, weight, biased ? *bias : weight}, "aten::convolution");
    const auto bare_bias = biased ? std::optional<at::Tensor>(bare(*bias)) : std::nullopt;
    return at::convolution_symint(bare(input), bare(weight), bare_bias, stride, padding, dilation, transposed,
                                  output_padding, groups)
        .to(DEVICE);
}

// torch's own for devices that have none takes only tensors that lie in one piece.
std::tuple<at::Tensor, at::Tensor, at::Tensor> group_norm(const at::Tensor &input, const std::optional<at::Tensor> &weight,
                                                          const std::optional<at::Tensor> &bias, c10::SymInt n,
                                                          c10::SymInt channels, c10::SymInt inner, int64_t groups,
                                                          double eps) {
    const auto there = [&](const std::optional<at::Tensor> &tensor) { return tensor && tensor->defined(); };
    refuse_both_places({input, there(weight) ? *weight : input, there(bias) ? *bias : input}, "aten::native_group_norm");
    const auto whole = bare(input).contiguous(input.suggest_memory_format());
    auto [out, mean, rstd] = at::native_group_norm_symint(
        whole, there(weight) ? std::optional(bare(*weight)) : std::nullopt,
        there(bias) ? std::optional(bare(*bias)) : std::nullopt, n, channels, inner, groups, eps);
    return {out.to(DEVICE), mean.to(DEVICE), rstd.to(DEVICE)};
}

// Attention without a table of all pairs, as cards have it.
int64_t choose_attention(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value,
                         const std::optional<at::Tensor> &mask, double, bool, std::optional<double>, bool grouped) {
    const bool plain = query.dim() == 4 && !grouped && query.size(-1) == value.size(-1) && !query.requires_grad() &&
                       !(mask && mask->defined());
    return static_cast<int64_t>(plain ? at::SDPBackend::overrideable : at::SDPBackend::math);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor, at::Tensor, at::Tensor>
attention(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value, const std::optional<at::Tensor> &,
          double dropout, bool causal, bool, std::optional<double> scale) {
    refuse_both_places({query, key, value}, "aten::scaled_dot_product_attention");
    const auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(bare(query), bare(key), bare(value), dropout,
                                                                             causal, std::nullopt, scale);
    const at::Tensor none;
    return {out.to(DEVICE), sums.to(DEVICE), none, none, query.sym_size(2), key.sym_size(2), none, none, none};
}

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &choose_attention)
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_processor>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
    m.impl("empty.memory_format", empty);
    m.impl("empty_strided", empty_strided);
    m.impl("_copy_from", copy_from);
    m.impl("_copy_from_and_resize", copy_from_and_resize);
    m.impl("_local_scalar_dense", one_number);
    m.impl("convolution_overrideable", convolution);
    m.impl("native_group_norm", group_norm);
    m.impl("_scaled_dot_product_fused_attention_overrideable", attention);
    m.impl("as_strided", at::native::as_strided_tensorimpl);
    m.impl("view", at::native::view);
    m.impl("_reshape_alias", at::native::_reshape_alias);
    m.impl("unfold", at::native::unfold);
    m.impl("view_as_real", at::native::view_as_real);
    m.impl("view_as_complex", at::native::view_as_complex);
    m.impl("resize_", at::native::resize_);
    m.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
    m.impl("set_.source_Tensor", at::native::set_tensor_);
}

TORCH_LIBRARY(software_card, m) {
    m.def("taken() -> int", [] { return taken.load(); });
    m.def("most() -> int", [] { return most.load(); });
    m.def("limit() -> int", [] { return limit.load(); });
    m.def("set_limit(int bytes) -> ()", [](int64_t bytes) { limit = bytes; });
    m.def("forget_most() -> ()", [] { most = taken.load(); });
    // What was given back is kept for what is asked for next, as a card's own allocator does; the system's pages cost more.
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 2147483647);
    static Hooks hooks;
    at::RegisterPrivateUse1HooksInterface(&hooks);
}
