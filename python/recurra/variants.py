"""Layers that torch.nn has not: the multiplicative LSTM, the differential RNN, sLSTM, and element-wise recurrences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._cells import (
    differential_cell,
    indrnn_cell,
    min_gru_cell,
    min_lstm_cell,
    multiplicative_lstm_cell,
    slstm_cell,
    sru_cell,
)
from .recurrent import Recurrent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from ._options import Seed

__all__ = ["SLSTM", "SRU", "DifferentialRNN", "IndRNN", "MinGRU", "MinLSTM", "MultiplicativeLSTM"]


class MultiplicativeLSTM(Recurrent):
    """LSTM whose recurrent product is of a vector that the input chooses.

        >>> layer = recurra.MultiplicativeLSTM(input_size=12, hidden_size=64)
        >>> y, (h, c) = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape, c.shape
        ((100, 8, 64), (1, 8, 64), (1, 8, 64))

    With A = x @ weight_ih^T + m @ weight_hh^T + bias_ih, cut into blocks of H values in the order i, f, g, o:

        m  = (x @ weight_mx^T) * (h @ weight_mh^T)
        i  = sigmoid(A_i)               f  = sigmoid(A_f)               o  = sigmoid(A_o)
        c' = f * c + i * tanh(A_g)      h' = o * tanh(c')               form="standard"
        c' = f * c + i * A_g            h' = tanh(c' * o)               form="paper"

    (Krause, Lu, Murray, Renals 2016, arXiv:1609.07959. "standard" is what later weights were trained with.) Parameters:
    weight_ih [4H, I], weight_hh [4H, H], bias_ih [4H], weight_mx [H, I], weight_mh [H, H].

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        form: "standard" or "paper".
        bias_at: where block g of bias_ih is added: to A_g, the "candidate", or with form="paper" at the "output", as in
            the authors' code: h' = tanh(c' * o + bias_g), and A_g has none.
    """

    form: str
    bias_at: str

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
        form: str = "standard",
        bias_at: str = "candidate",
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
        super().__init__(multiplicative_lstm_cell(form, bias_at), *shape, **options)
        self.__dict__.update(form=form, bias_at=bias_at)


class DifferentialRNN(Recurrent):
    """LSTM whose gates see how the cell changes: its differences in time.

        >>> layer = recurra.DifferentialRNN(input_size=12, hidden_size=64, orders=(0, 1))
        >>> y, (h, d0, d1) = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape, d1.shape
        ((100, 8, 64), (1, 8, 64), (1, 8, 64))

    With A = x @ weight_ih^T + bias_ih + h @ weight_hh^T + bias_hh, cut into blocks of H values in the order i, f, g, o,
    d0 the cell, dn its n-th difference, and sums over the orders n:

        i   = sigmoid(A_i + sum qi_n * dn)      f = sigmoid(A_f + sum qf_n * dn)        g = tanh(A_g)
        d0' = f * d0 + i * g                    dn' = d(n-1)' - d(n-1)
        o   = sigmoid(A_o + sum qo_n * dn')     h' = o * tanh(d0')

    (Veeriah, Zhuang, Qi 2015, arXiv:1504.06678.) The state is h and all differences up to the highest order; those of
    a start from zeros are zero. Parameters: those of an LSTM, and weight_dos, for each of the N orders qi, qf, qo:
    [3*N*H]. With orders=(0,) it is an LSTM with peepholes.

    With diagonal=False, as in the paper, q * d is d @ q^T with matrices q: weight_dos [3*N*H, H]. Such a layer runs by
    the engine of graphs: on the CPU, and without streams, dropout, zoneout, grad_clip and `quantize`, which it refuses
    with a ValueError; `recurra.torch` has none.

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        orders: (0,), (1,), (2,), (0, 1), (0, 2), (1, 2) or (0, 1, 2).
        diagonal: whether qi, qf, qo are vectors, or else matrices.
    """

    orders: tuple[int, ...]
    diagonal: bool

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
        orders: tuple[int, ...] = (1,),
        diagonal: bool = True,
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
        super().__init__(differential_cell(orders, diagonal), *shape, **options)
        self.__dict__.update(orders=orders, diagonal=bool(diagonal))


class SLSTM(Recurrent):
    """LSTM with exponential gates and a normaliser, whose recurrent weights keep heads apart: the sLSTM of xLSTM.

        >>> layer = recurra.SLSTM(input_size=12, hidden_size=64, heads=4)
        >>> y, (h, c, n, m) = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape, m.shape
        ((100, 8, 64), (1, 8, 64), (1, 8, 64))

    With A = x @ weight_ih^T + bias_ih + h @ weight_hh^T + bias_hh, cut into blocks of H values in the order i, f, z, o:

        lf = log(sigmoid(A_f))                  forget="sigmoid"
        lf = A_f                                forget="exp"
        m' = max(lf + m, A_i), or A_i where n = 0
        i  = exp(A_i - m')                      f  = exp(lf + m - m')               o  = sigmoid(A_o)
        c' = f * c + i * tanh(A_z)              n' = f * n + i                      h' = o * c' / n'

    (Beck, Poeppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter, Hochreiter 2024, arXiv:2405.04517.)
    Parameters: weight_ih [4H, I], weight_hh [4H, H / heads], bias_ih [4H], bias_hh [4H]. Units 0 .. H / heads - 1 are
    the first head, and so on; a row of weight_hh meets the h of its own head. It is the cell alone: the convolution,
    normalisation and projections of the paper's blocks are layers around it. `TreeLSTM(kind="s_lstm")` is another
    thing, which has only the name.

    The state is (h, c, n, m). c and n are the cell and the normaliser times exp(-m), which keeps both in range; an
    output does not depend on how they are scaled. A state of zeros, the default, is one without a past. A given state
    is taken as it is: n is to be positive, which `InitialState` does not see to, and |h| stays below 1 if |c| <= n.
    Gradients are those of the equations, of all four states and through m; for a loss of outputs that of m is
    c * dc + n * dn of the same moment. Zoneout keeps old values of c, n and m, which are of another scale, each with a
    chance of its own; zoneout=(rate, 0, 0, 0) is for h alone.

    Args, besides those of `Recurrent` (no cell, proj_size, constants, initial_state):
        heads: a divisor of hidden_size.
        forget: "sigmoid" (the authors' code) or "exp".
    """

    forget: str

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
        heads: int = 1,
        forget: str = "sigmoid",
        direction: str = "forward",
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
            "heads": heads,
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "dtype": dtype,
            "device": device,
            "engine": engine,
            "allow_tf32": allow_tf32,
            "seed": seed,
            "rng": rng,
        }
        super().__init__(slstm_cell(forget), *shape, **options)
        self.__dict__.update(forget=forget)


class IndRNN(Recurrent):
    """Elman's network with independent units: each has a weight for its own old value, and sees no other's.

        >>> layer = recurra.IndRNN(input_size=12, hidden_size=64)
        >>> y, h = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

        h' = f(x @ weight_ih^T + bias_ih + weight_u * h)

    (Li, Li, Cook, Zhu, Gao 2018, arXiv:1803.04831.) Parameters: weight_ih [H, I], bias_ih [H], weight_u [H]. Layers are
    stacked so that units do meet. There is no recurrent product, so recurrent_dropout must be 0.

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        nonlinearity: f, "relu" or "tanh".
    """

    nonlinearity: str

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
        nonlinearity: str = "relu",
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
        super().__init__(indrnn_cell(nonlinearity), *shape, **options)
        self.__dict__.update(nonlinearity=nonlinearity)


class MinGRU(Recurrent):
    """GRU whose gate and candidate see the input only.

        >>> layer = recurra.MinGRU(input_size=12, hidden_size=64)
        >>> y, h = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

    With A = x @ weight_ih^T + bias_ih, cut into blocks of H values in the order z, n:

        z = sigmoid(A_z)                        h' = (1 - z) * h + z * G(A_n)

    (Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, arXiv:2410.01201.) Parameters: weight_ih [2H, I], bias_ih [2H].
    There is no recurrent product, so recurrent_dropout must be 0.

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        candidate: G, "linear" or "positive": a + 1/2 for a > 0, sigmoid(a) below, as in the paper's log-space form.
    """

    candidate: str

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
        candidate: str = "linear",
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
        super().__init__(min_gru_cell(candidate), *shape, **options)
        self.__dict__.update(candidate=candidate)


class MinLSTM(Recurrent):
    """LSTM whose gates and candidate see the input only, with gates that add up to 1.

        >>> layer = recurra.MinLSTM(input_size=12, hidden_size=64)
        >>> y, h = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape
        ((100, 8, 64), (1, 8, 64))

    With A = x @ weight_ih^T + bias_ih, cut into blocks of H values in the order f, i, n:

        f = sigmoid(A_f)        i = sigmoid(A_i)        p = f / (f + i)         h' = p * h + (1 - p) * G(A_n)

    (Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, arXiv:2410.01201.) Parameters: weight_ih [3H, I], bias_ih [3H].
    There is no recurrent product, so recurrent_dropout must be 0.

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        candidate: G, "linear" or "positive": a + 1/2 for a > 0, sigmoid(a) below, as in the paper's log-space form.
    """

    candidate: str

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
        candidate: str = "linear",
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
        super().__init__(min_lstm_cell(candidate), *shape, **options)
        self.__dict__.update(candidate=candidate)


class SRU(Recurrent):
    """Simple recurrent unit: gates see the input and the unit's own cell; the input also bypasses it on a highway.

        >>> layer = recurra.SRU(input_size=12, hidden_size=64)
        >>> y, (h, c) = layer(np.zeros((100, 8, 12), "float32"))
        >>> y.shape, h.shape, c.shape
        ((100, 8, 64), (1, 8, 64), (1, 8, 64))

    With A = x @ weight_ih^T, cut into blocks of H values in the order u, f, r, s:

        f  = sigmoid(A_f + v_f * c + b_f)       r  = sigmoid(A_r + v_r * c + b_r)
        c' = f * c + (1 - f) * A_u              h' = r * g(c') + (1 - r) * A_s

    (Lei, Zhang, Wang, Dai, Artzi 2018, arXiv:1709.02755.) Parameters: weight_ih [4H, I], bias_ih [2H] = [b_f; b_r],
    weight_v [2H] = [v_f; v_r]. The highway is projected whatever I is; the authors' x itself, where I = H, is a block
    s that is the identity. h is an output only: no step reads the one before. There is no recurrent product, so
    recurrent_dropout must be 0.

    Args, besides those of `Recurrent` (no cell, proj_size, constants):
        nonlinearity: g, "identity" or "tanh".
    """

    nonlinearity: str

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
        nonlinearity: str = "identity",
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
        super().__init__(sru_cell(nonlinearity), *shape, **options)
        self.__dict__.update(nonlinearity=nonlinearity)
