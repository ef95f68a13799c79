"""A safe reader of PyTorch's pickles: it interprets only the few opcodes that weight files use, and cannot run code.

Python's own unpickler calls any function that a file names. This reader never imports or calls: the name of a global is looked
up in the short lists below, and the only "calls" are the cases of `_call`. Anything else is refused by name. The result
consists of dict, list, tuple, str, numbers and `Tensor` (a description, to which `torch_files` adds the values). Objects that
training scripts keep beside the weights (arguments, paths, times) are passed over: they become empty dictionaries. Arrays of
numpy are refused, not passed over: they could be weights.
"""

import io
import pickletools
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from jaxseg.types import DataError
from jaxseg.utils.guard import MAX_AXES, MAX_AXIS, shown

MAX_WORK = 1_000_000  # opcodes, plus the entries and characters that calls copy
MAX_NAME = 1000  # characters of a dictionary's key, a global or a storage's key
STORAGES = {  # torch.<name>Storage -> numpy or ml_dtypes dtype
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "Untyped": "uint8",
}
DTYPES = {  # torch.<name>
    "float32": "float32",
    "float64": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
    "uint8": "uint8",
    "bool": "bool",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "complex64": "complex64",
    "complex128": "complex128",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e5m2": "float8_e5m2",
}
CALLS = frozenset(
    {  # functions that a pickle may "call"; each is a case of _call
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.Size",
        "torch.device",
        "_codecs.encode",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
OBJECTS = frozenset(
    {  # objects of Python beside the weights, whose content is not read
        "argparse.Namespace",
        "types.SimpleNamespace",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "pathlib.PureWindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "datetime.datetime",
        "datetime.date",
        "datetime.timedelta",
        "copy_reg._reconstructor",
        "copyreg._reconstructor",
    }
)
COLLECTIONS = {  # others become lists or dictionaries
    **{f"{module}.{name}": list for module in ("__builtin__", "builtins") for name in ("set", "frozenset")},
    "collections.deque": list,
    "collections.defaultdict": dict,
    "collections.Counter": dict,
}
TYPES = frozenset(  # which these hold as arguments
    f"{module}.{name}" for module in ("__builtin__", "builtins") for name in ("object", "list", "dict", "int", "float", "str")
)
NUMBERS = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())  # numpy scalars that may occur beside tensors
_WORDS = frozenset(
    {f"torch.{n}Storage" for n in STORAGES}
    | {f"torch.storage.{n}Storage" for n in STORAGES}
    | {f"torch.{n}" for n in DTYPES}
    | {"torch.storage.TypedStorage"}
)
_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}


class Global(NamedTuple):
    """A global that a pickle names; it is never imported."""

    name: str


class TensorStorage(NamedTuple):
    """`numel` numbers that are stored under `key`; a view of them starts at `start`."""

    key: str
    dtype: str
    numel: int
    start: int = 0


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides are in numbers, not bytes."""

    storage: TensorStorage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def refuse(message: str) -> DataError:
    """The error for a weight file whose pickle would do more than describe tensors."""
    return DataError(
        f"refused: {message}; no code of the file was run. Save the weights alone: "
        "torch.save(model.state_dict(), path), or use safetensors",
        code="DATA_UNSAFE",
    )


def interpret(stream: io.BufferedIOBase, names: Collection[str] = ()) -> Any:
    """Read the pickle that starts at the stream's position, as dict, list, tuple, str, numbers and `Tensor`.

    Args:
      names: further globals that may occur without being called; each becomes a `Global` in the result.

    Raises:
      DataError: DATA_UNSAFE for a global or opcode that is not allowed (the message names it), DATA_FORMAT if the stream
        has no pickle.
    """
    machine = _Machine(frozenset(names))
    try:
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes in strings
            for opcode, arg, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return machine.stack.pop()
                machine.step(opcode.name, arg)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken pickle can fail in many ways; they are all the same to the user
        raise DataError(f"unreadable pickle: {type(error).__name__}: {str(error)[:120]}", code="DATA_FORMAT") from error
    raise DataError("the pickle ends before its STOP", code="DATA_TRUNCATED")


class _Machine:
    def __init__(self, names: frozenset[str]):
        self.names = names
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.work = 0

    def step(self, op: str, arg) -> None:
        """One opcode of the pickle's program."""
        stack = self.stack
        self._count(1)
        if op in _PUSHED:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op in ("PROTO", "FRAME"):
            pass
        elif op == "MARK":
            self.marks.append(len(stack))
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            self._marked()
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[arg] = stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif op == "GLOBAL":
            stack.append(_global(arg.replace(" ", ".", 1), self.names))
        elif op == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_global(f"{_expect(module, str, op)}.{_expect(name, str, op)}", self.names))
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(op[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif op == "TUPLE":
            stack.append(tuple(self._marked()))
        elif op in ("LIST", "FROZENSET"):
            stack.append(self._marked())
        elif op == "DICT":
            stack.append(_fill({}, self._marked()))
        elif op == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list, "APPEND").append(value)
        elif op in ("APPENDS", "ADDITEMS"):
            values = self._marked()
            _expect(stack[-1], list, op).extend(values)
        elif op == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _fill(_expect(stack[-1], dict, op), [key, value])
        elif op == "SETITEMS":
            values = self._marked()
            _fill(_expect(stack[-1], dict, op), values)
        elif op in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            if isinstance(args, tuple) and args and isinstance(args[0], str | list):
                self._count(len(args[0]))
            stack.append(_call(function, args))
        elif op == "BUILD":
            self._build(stack.pop(), stack[-1])
        elif op == "BINPERSID":
            stack.append(_storage(stack.pop()))
        else:
            raise refuse(f"the pickle uses the opcode {op}")

    def _count(self, steps: int) -> None:
        self.work += steps
        if self.work > MAX_WORK:
            raise refuse(f"the pickle takes more than {MAX_WORK:,} steps")

    def _marked(self) -> list:
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def _build(self, state, target) -> None:
        """Set an object's attributes. A TorchScript module becomes a dict; extra attributes of an OrderedDict are dropped."""
        if isinstance(target, _Module) and isinstance(state, dict):
            self._count(len(state))
            target.update(state)
        elif isinstance(target, _Dtype):
            if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|"):
                raise refuse(f"a numpy dtype with the state {shown(state)}")
            target["order"] = state[1]
        elif isinstance(target, _Object):
            pass
        elif not isinstance(target, dict):
            raise refuse(f"the pickle sets attributes of a {type(target).__name__}")


class _Module(dict):
    """Attributes of a TorchScript module."""


class _Object(dict):
    """An object whose content is not read."""


class _Dtype(dict):
    """A numpy dtype of numbers: "name" is one of NUMBERS, "order" its byte order."""


def _global(name: str, more: frozenset[str]) -> Global:
    known = name in CALLS or name in OBJECTS or name in COLLECTIONS or name in TYPES or name in _WORDS
    if known or name in more or name.startswith("__torch__."):
        return Global(name)
    raise refuse(f"the pickle names the global {shown(name, 120)}, which does not belong in a weight file")


def _call(function, args):
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise refuse(f"the pickle calls a {type(function).__name__}")
    name = function.name.rsplit(".", 1)[-1]
    if function.name.startswith("__torch__.") and not args:
        return _Module()
    if function.name in OBJECTS:
        return _Object()
    if function.name in COLLECTIONS:
        kind = COLLECTIONS[function.name]
        return kind(args[0]) if args and isinstance(args[0], kind) else kind()
    if function.name not in CALLS:
        raise refuse(f"the pickle calls {shown(function.name)} with {len(args)} arguments")
    if name == "OrderedDict":
        pairs = _expect(args[0], list, name) if args else []
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise refuse("an OrderedDict whose entries are not pairs")
        return _fill({}, [x for pair in pairs for x in pair])
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "restore_type_tag"):
        return args[0]
    if name in ("Size", "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"):
        return args[0]
    if name == "device":
        return ":".join(shown(a) if type(a) is int else _expect(a, str, name)[:MAX_NAME] for a in args[:2])
    if name == "encode":
        return _expect(args[0], str, name).encode("latin1")
    if name == "dtype":
        if not args or args[0] not in NUMBERS:
            raise refuse(f"a numpy dtype {shown(args[0] if args else None)}, which is not numeric")
        return _Dtype(name=args[0], order="|")
    if name == "scalar":
        return _scalar(*args[:2])
    storage, offset, shape, strides = args[:4]
    dtype = _expect(storage, TensorStorage, name).dtype
    if name == "_rebuild_tensor_v3":
        dtype = DTYPES[_expect(args[6], Global, name).name.removeprefix("torch.")]
    sizes = all(isinstance(n, tuple | list) and len(n) <= MAX_AXES for n in (shape, strides)) and (offset, *shape, *strides)
    if not sizes or len(shape) != len(strides) or not all(type(n) is int and 0 <= n <= MAX_AXIS for n in sizes):
        raise refuse(f"a tensor of offset {shown(offset)}, shape {shown(shape)}, strides {shown(strides)}")
    return Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _scalar(dtype, data) -> bool | int | float:
    """The number in a pickled numpy scalar."""
    kind = _expect(dtype, _Dtype, "numpy's scalar")
    found = np.dtype(f"{kind['order']}{kind['name']}")
    if not isinstance(data, bytes) or len(data) != found.itemsize:
        raise refuse(f"a numpy {kind['name']} of {shown(data)}")
    return np.frombuffer(data, found)[0].item()


def _storage(pid) -> TensorStorage:
    """The storage of a persistent id ('storage', type, key, device, numel[, view of it])."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or not isinstance(pid[1], Global):
        raise refuse(f"the pickle has the persistent id {shown(pid)}, which is not a storage")
    kind, key = pid[1].name.rsplit(".", 1)[-1].removesuffix("Storage"), pid[2]
    view = pid[5] if len(pid) == 6 else None
    start = 0 if view is None else _expect(view, tuple, "a view")[1]
    if type(key) is int:
        key = shown(key)
    if not isinstance(key, str) or len(key) > MAX_NAME:
        raise refuse(f"a storage with the key {shown(key)}")
    if kind not in STORAGES or not all(type(n) is int and 0 <= n <= MAX_AXIS for n in (pid[4], start)):
        raise refuse(f"a storage of type {shown(pid[1].name)}, size {shown(pid[4])}, start {shown(start)}")
    return TensorStorage(key, STORAGES[kind], pid[4], start)


def _fill(target: dict, flat: list) -> dict:
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        long = isinstance(key, str) and len(key) > MAX_NAME or isinstance(key, int) and key.bit_length() > 64
        if long or not isinstance(key, str | int | float | bool | None):
            raise refuse(f"a dictionary key that is {shown(key)}")
        target[key] = value
    return target


def _expect(value, kind: type, op: str):
    if not isinstance(value, kind):
        raise refuse(f"{op} of a {type(value).__name__}")
    return value
