"""recurra's layers as modules of torch, to train with. Needs torch 2.7 or newer, which nothing else in recurra imports.

    rnn = recurra.torch.GRU(40, 128, num_layers=2)      # where torch.nn.GRU(40, 128, num_layers=2) stood
    output, h_n = rnn(input)
    model = recurra.torch.convert(model)                # or all that a model has of them, in place
    torch.onnx.export(recurra.torch.revert(model), ...)

LSTM, GRU and RNN, and the single steps LSTMCell, GRUCell and RNNCell, are subclasses of their namesakes in torch.nn,
with the same constructors, attributes, parameters (names, shapes, order, initial values) and results, so that
state_dicts go both ways; and with recurra's options besides, by keyword. MultiplicativeLSTM, DifferentialRNN, SLSTM,
IndRNN, MinGRU, MinLSTM and SRU, which torch.nn has not, are subclasses of torch.nn.RNNBase, with the parameters of
their namesakes in `recurra`; torch.jit, torch.export and `revert` refuse them. All run where their parameters are: on
the CPU in float32 and float64, on an NVIDIA GPU (device="cuda", .to("cuda")) also in float16 and bfloat16. They take

    input   [T, B, I], with batch_first [B, T, I]; [T, I] for one sequence without a batch axis; or a PackedSequence
    hx      initial state, default zeros: h_0 [L*D, B, O], for LSTMs the tuple (h_0, c_0) with c_0 [L*D, B, H], where
            O is proj_size or else H; without a B axis if input has none; for others of several states their tuple
    lengths valid steps of each sequence, where input is padded: B integers in 0..T, in any order
    resets  by keyword, booleans [T, B], with batch_first [B, T], or [T]: where a new sequence begins in its row; with
            `reset_state` the state it begins with, as hx or without a B axis; default zeros
    mask    by keyword, likewise: False where a step is left out; its output is the last one, or with
            masked_output="zero" zero

and return (output, h_n), for LSTMs (output, (h_n, c_n)): output as input with D*O in place of I, states as hx. Wrong
dtypes and kinds of object raise TypeError, wrong shapes, values and devices ValueError: nothing is cast or moved,
except under autocast: on the CPU bfloat16 and float16 become float32, in which these layers run and return their
results; on a GPU inputs and states become autocast's dtype, as do results, but float64 layers stay as they are.

What differs from torch.nn:

- Outputs and first gradients have recurra's bits: see README. They agree with torch's to rounding.
- Second derivatives (create_graph=True), forward mode and torch.func go through PyTorch operations, many times slower.
  With grad_clip the first are those of the clipped gradients, and torch.func is refused.
- Parameters are used as they are at the moment of a call, however they were changed. One step of one row without
  gradients reads them where they lie. Other calls copy and pack them, once beside PyTorch's own copy, at the first call
  and when a fingerprint of their values has changed, which every call takes: 512 bits, which notice a change of one
  number always, and others but with a chance of about 2^-64. After a backward large packed weights are let go.
- Dropout, in training, runs the layers one after another. Its masks are those of torch.nn for the same seed.
- recurrent_dropout and zoneout, which torch.nn has not, are those of `recurra.Recurrent`, in training mode, with or
  without gradients. Their masks are made from a seed that each call (with dropout: each layer) takes from torch's
  generator for the CPU. All rates may be changed between calls.
- On a GPU, other than on the CPU: see below.
- torch.compile breaks its graph at a layer, as at torch.nn's own, and the layer runs as without it. With
  torch._dynamo.config.allow_rnn = True it is one opaque operation of the graph (with a PackedSequence, lengths, or
  resets and masks that are no tensors or on a GPU, a break still); with fullgraph=True torch then reports errors of a
  call in its own words.
- torch.jit.trace, torch.export and torch.onnx.export record torch.nn's layer in its place, or refuse by name where
  there is none; torch.jit.script and torch.ao.quantization want `revert`.
- Parameters, inputs and initial states may be written to between forward and backward: first gradients are those of the
  values that ran. (Not in checkpoints or graphs of torch.compile.)
- Inside torch.utils.checkpoint and under saved-tensor hooks only tensors are kept for backward, which then computes the
  layer once more.
- What a call goes back through while CPU autocast is on, as torch.func.grad does there, is torch's own and autocast.
- T may be 0: the output is empty then, and the final state the initial one. Subclasses of Tensor come out as tensors.
- Sizes and options are fixed when a module is made; rates of dropout and zoneout, engine and allow_tf32 may be changed.

On a GPU (what a module keeps there is compiled at its first call, see `recurra.cuda`)

- engine="exact" has the bits of the CPU's modules, in float32 and float64, gradients included; "cublas" has others, the
  same ones every time; "auto", the default, is the faster. allow_tf32=True lets the products of float32 layers round to
  TF32, which torch.backends.cudnn.allow_tf32 has no say in. Of others, "cublas-resident" among them for 16 bits,
  `recurra.LSTM` tells.
- 16-bit layers, and all under autocast, round weights and what they are multiplied with to 16 bits; sums, states within
  a call and gradients' sums are float32. So are, under autocast, the gradients of float32 parameters.
- Everything is put on torch's current stream and allocated by torch, and nothing waits for the GPU. So calls and
  backward passes, optimiser steps too, can be captured in a CUDA graph, after a first one like it; not with
  recurrent_dropout or zoneout in training mode, which raise RuntimeError: replays would leave out the same each time.
- Parameters are packed at every call, which reads and writes them once; no change of theirs is ever missed. A backward
  uses those of its forward.
- A PackedSequence is run as it is, without padding. `lengths` may be int32 or int64 on the same GPU: then nobody looks
  at them, values beyond 0..T count as 0 or T, padded steps take the time of others, and gradients of parameters are
  summed in another order.
- With resets or a mask the sequences between resets run as rows of their own, which the host makes up: it waits for
  flags that are on the GPU, and such calls cannot be captured in a CUDA graph. What recurrent_dropout and zoneout leave
  out is that of the whole rows.
- Masks of dropout are torch's there, not cuDNN's; those of recurrent_dropout and zoneout are the CPU's, for one seed.
- An operation of a graph of torch.compile takes a tensor of the CPU, so mode="reduce-overhead" captures none with it.
"""

from .cells import GRUCell, LSTMCell, RNNCell
from .convert import convert, revert
from .modules import GRU, LSTM, RNN
from .variants import SLSTM, SRU, DifferentialRNN, IndRNN, MinGRU, MinLSTM, MultiplicativeLSTM

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "SRU",
    "DifferentialRNN",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "MultiplicativeLSTM",
    "RNNCell",
    "convert",
    "revert",
]
