"""Layers: torch.nn's recurrent layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._cells import CELLS, chosen_direction, gru_cell, gru_choice, lstm_cell, lstm_choice, rnn_choice
from ._options import flag, integer, placement, real
from .recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ._arrays import Array
    from ._options import Seed
    from .activation import Activations

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]


class LSTM(Recurrent):
    """Long short-term memory, with torch.nn.LSTM's signature, parameters and results.

        >>> layer = recurra.LSTM(input_size=12, hidden_size=64, num_layers=2, bidirectional=True)
        >>> y, (h, c) = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape, c.shape
        ((100, 8, 128), (4, 8, 64), (4, 8, 64))

    With A = x @ weight_ih^T + bias_ih + h @ weight_hh^T + bias_hh, cut into blocks of H values in the order i, f, g, o:

        i  = sigmoid(A_i)               f  = sigmoid(A_f)               g = tanh(A_g)
        c' = f * c + i * g
        o  = sigmoid(A_o)
        h' = o * tanh(c')

    (Hochreiter, Schmidhuber 1997, Neural Computation 9(8); with the forget gate of Gers, Schmidhuber, Cummins 2000,
    Neural Computation 12(10).)

    Args, besides those of `Recurrent` (no cell, constants):
        proj_size: P > 0 makes h' = (o * tanh(c')) @ weight_hr^T with weight_hr [P, H] (Sak, Senior, Beaufays 2014,
            Interspeech).
        proj_bias: whether bias_hr [P] is added to that.
        peephole: gates see the cell: A_i + p_i * c, A_f + p_f * c, A_o + p_o * c', with weight_peep = [p_i; p_f; p_o]
            (Gers, Schraudolph, Schmidhuber 2002, JMLR 3).
        coupled: True or "i_from_f": i = 1 - f, blocks f, g, o, weight_peep = [p_f; p_o]. "f_from_i": f = 1 - i, blocks
            i, g, o, weight_peep = [p_i; p_o] (Greff et al. 2015, arXiv:1503.04069).
        cell_clip: bounds c' to +-cell_clip before o and h' see it; positive, default none.
        forget_bias: initial value of the forget gate's bias_ih, its bias_hh being 0 then; 1.0 is the usual advice
            (Jozefowicz, Zaremba, Sutskever 2015, ICML). With "f_from_i" the input gate's is minus that.
        layer_norm: A = gamma_x * N(x @ weight_ih^T) + gamma_h * N(h @ weight_hh^T) + bias_ih and h' = o *
            tanh(gamma_c * N(c') + beta_c), with N(a) = (a - mean(a)) / sqrt(variance(a) + 1e-5) over all 4H values of a
            row (of c', H); c' itself goes on to the next step (Ba, Kiros, Hinton 2016, arXiv:1607.06450, as their code
            and Haste do it). Further parameters: gamma_x, gamma_h [4H], gamma_c, beta_c [H]; no bias_hh. TensorFlow's
            LayerNormBasicLSTMCell is another function: it normalises each gate of the sum on its own, and carries the
            normalised c' on. In float32, rows a with numbers beyond some 1e19 become zeros, for their squares overflow.
            Not with peepholes, coupled gates or a projection.
        activation, recurrent_activation, output_activation: what stands for the tanh of g, the sigmoid of i, f and o,
            and the tanh of c' (default: `activation`); ONNX's g, f and h. Each the name of a function or a
            `recurra.Activation`, where all are listed; a tuple of two for the two directions.
        clip: bounds what goes into the activations of i, f, g and o to +-clip, peepholes included; positive, default
            none. ONNX's clip.
    """

    peephole: bool
    coupled: bool | str
    cell_clip: float | None
    layer_norm: bool
    activation: Activations
    recurrent_activation: Activations
    output_activation: Activations | None
    clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        proj_bias: bool = False,
        peephole: bool = False,
        coupled: bool | str = False,
        cell_clip: float | None = None,
        forget_bias: float | None = None,
        layer_norm: bool = False,
        activation: Activations = "tanh",
        recurrent_activation: Activations = "sigmoid",
        output_activation: Activations | None = None,
        clip: float | None = None,
        direction: str = "forward",
        initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        engine: str = "auto",
        allow_tf32: bool = False,
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        if forget_bias is not None:
            forget_bias, largest = (
                real("forget_bias", forget_bias),
                float(np.finfo(placement(device, dtype).parameter_dtype).max),
            )
            if abs(forget_bias) > largest:
                raise ValueError(f"forget_bias: expected at most {largest:.3g} either way, got {forget_bias}")
            if not flag("bias", bias):
                raise ValueError(f"forget_bias: expected None with bias=False, got {forget_bias}")
        cell = lstm_cell(coupled, peephole, integer("proj_size", proj_size, 0) > 0, layer_norm)
        own = (activation, recurrent_activation, output_activation)
        both = chosen_direction(bidirectional, direction) == "bidirectional"
        cell, constants = lstm_choice(cell, cell_clip, own, clip, both)
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        options: dict[str, Any] = {
            "direction": direction,
            "initial_state": initial_state,
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "dtype": dtype,
            "device": device,
            "engine": engine,
            "allow_tf32": allow_tf32,
            "seed": seed,
            "rng": rng,
        }
        super().__init__(cell, *shape, proj_bias=proj_bias, constants=constants, **options)
        self.__dict__.update(peephole=bool(peephole), coupled=coupled, cell_clip=cell_clip, layer_norm=bool(layer_norm))
        self.__dict__.update(activation=activation, recurrent_activation=recurrent_activation)
        self.__dict__.update(output_activation=output_activation, clip=clip)
        if forget_bias is not None:
            self.load_state_dict(self._with_forget_bias(forget_bias))

    def _with_forget_bias(self, value: float) -> dict[str, Array]:
        gates = CELLS[self.cell].gates
        # Without a forget block f = 1 - i = sigmoid(-A_i): the input gate's bias decides.
        gate, bias_ih = ("f", value) if "f" in gates else ("i", -value)
        start = gates.index(gate) * self.hidden_size
        parameters = self.state_dict()
        for name, array in parameters.items():
            if name.startswith(("bias_ih", "bias_hh")):
                array[start : start + self.hidden_size] = bias_ih if name.startswith("bias_ih") else 0
        return parameters


class GRU(Recurrent):
    """Gated recurrent unit, with torch.nn.GRU's signature, parameters and, by default, results.

        >>> layer = recurra.GRU(input_size=12, hidden_size=64)
        >>> y, h = layer(np.zeros((100, 12), "float32"))  # one sequence without a batch axis
        >>> y.shape, h.shape
        ((100, 64), (1, 64))

    With X = x @ weight_ih^T + bias_ih and R = h @ weight_hh^T + bias_hh, cut into blocks of H values, order r, z, n:

        r  = sigmoid(X_r + R_r)         z = sigmoid(X_z + R_z)
        n  = tanh(X_n + r * R_n)                                        reset="after"
        n  = tanh(X_n + (r * h) @ weight_hh_n^T + bias_hh_n)            reset="before"
        h' = z * h + (1 - z) * n                                        update="keep"
        h' = (1 - z) * h + z * n                                        update="write"

    (Cho et al. 2014, arXiv:1406.1078: "before" in its version 3, "after" in its version 1; "write" is the h' of Chung
    et al. 2014, arXiv:1412.3555. torch and cuDNN have after and keep; ONNX, by default, before and keep.)

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        reset: whether the reset gate acts "after" or "before" the recurrent product.
        update: whether z says how much of the old state to "keep" or how much of the candidate to "write".
        layer_norm: X = gamma_x * N(x @ weight_ih^T) + bias_ih and R = gamma_h * N(h @ weight_hh^T) + bias_hh, with
            N(a) = (a - mean(a)) / sqrt(variance(a) + 1e-5) over all 3H values of a row (Ba, Kiros, Hinton 2016,
            arXiv:1607.06450, as Haste does it; their own code normalises r and z together and n alone). In float32,
            rows a with numbers beyond some 1e19 become zeros, for their squares overflow. Further parameters: gamma_x,
            gamma_h [3H]. Not with reset="before" or update="write".
        activation, recurrent_activation: what stands for the tanh of n and the sigmoid of r and z; ONNX's g and f. Each
            the name of a function or a `recurra.Activation`, where all are listed; a tuple of two for the two
            directions. (RNNoise's older networks: activation="relu", reset="before".)
        clip: bounds what goes into the activations of r, z and n to +-clip; positive, default none. ONNX's clip.
    """

    reset: str
    update: str
    layer_norm: bool
    activation: Activations
    recurrent_activation: Activations
    clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset: str = "after",
        update: str = "keep",
        layer_norm: bool = False,
        activation: Activations = "tanh",
        recurrent_activation: Activations = "sigmoid",
        clip: float | None = None,
        direction: str = "forward",
        initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        engine: str = "auto",
        allow_tf32: bool = False,
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        options: dict[str, Any] = {
            "direction": direction,
            "initial_state": initial_state,
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "dtype": dtype,
            "device": device,
            "engine": engine,
            "allow_tf32": allow_tf32,
            "seed": seed,
            "rng": rng,
        }
        standard = gru_cell(reset, update, layer_norm)
        both = chosen_direction(bidirectional, direction) == "bidirectional"
        cell, constants = gru_choice(standard, activation, recurrent_activation, clip, both)
        super().__init__(cell, *shape, constants=constants, **options)
        self.__dict__.update(reset=reset, update=update, layer_norm=bool(layer_norm), clip=clip)
        self.__dict__.update(activation=activation, recurrent_activation=recurrent_activation)


class RNN(Recurrent):
    """Elman's recurrent network, with torch.nn.RNN's signature, parameters and results.

        >>> layer = recurra.RNN(input_size=12, hidden_size=64, nonlinearity="relu")
        >>> y, h = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

        h' = f(x @ weight_ih^T + bias_ih + h @ weight_hh^T + bias_hh)

    (Elman 1990, Cognitive Science 14(2).)

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        nonlinearity: f, the name of a function or a `recurra.Activation`, where all are listed; a tuple of two for the
            two directions.
        clip: bounds what goes into f to +-clip; positive, default none. ONNX's clip.
    """

    nonlinearity: Activations
    clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Activations = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        clip: float | None = None,
        direction: str = "forward",
        initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        engine: str = "auto",
        allow_tf32: bool = False,
        seed: Seed = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        shape = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        options: dict[str, Any] = {
            "direction": direction,
            "initial_state": initial_state,
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "dtype": dtype,
            "device": device,
            "engine": engine,
            "allow_tf32": allow_tf32,
            "seed": seed,
            "rng": rng,
        }
        both = chosen_direction(bidirectional, direction) == "bidirectional"
        cell, constants = rnn_choice(nonlinearity, clip, both)
        super().__init__(cell, *shape, constants=constants, **options)
        self.__dict__.update(nonlinearity=nonlinearity, clip=clip)
