"""Command lines as the program takes them: parsed, the config resolved and checked; what would compute ends there.

`take(words)` is for a process of its own: it replaces the modes and ends the process, with 0 where everything was understood.
"""

import contextlib
import os
import sys
from pathlib import Path


def take(words: list[str]) -> None:
    """Run a command line of this project up to the point where it has said all that it has to say about itself.

    Args:
      words: `jaxseg ...` or `python -m jaxseg.MODULE ...`, without redirections.
    """
    module = words[2] if words[:2] == ["python", "-m"] else "jaxseg"
    words = words[3:] if words[:2] == ["python", "-m"] else words[1:]
    sys.argv = [module, *words]
    if module == "jaxseg.bench":
        _bench(words)
    elif module == "jaxseg.convert":
        from jaxseg.weights import convert

        convert.parse(words)
    elif module == "jaxseg.data.acquire":
        from jaxseg.data import acquire

        acquire.organs = lambda output, archive: end()
        acquire.main(words)
    elif module in ("jaxseg", "jaxseg.main"):
        _program(module, words)
    else:
        sys.exit(f"python -m {module}: no test knows how to run it")
    end()


def end(*_, **__):
    """All of it was understood."""
    print("understood", flush=True)
    os._exit(0)


def _bench(words: list[str]) -> None:
    from jaxseg.bench import __main__ as bench

    bench.stages.main = lambda rest: end() if not [w for w in rest if not w.startswith("--minutes=")] else sys.exit(str(rest))
    if "--gpu" in words:
        bench.main(words)
    bench.parse(words)


def _program(module: str, words: list[str]) -> None:
    from jaxseg import calls, dispatch, main, modes
    from jaxseg.cli import doctor, zoo
    from jaxseg.experiments import costs
    from jaxseg.importing import command_line as importing
    from jaxseg.models import list_models
    from jaxseg.pretrained import command_line as pretrained
    from jaxseg.train.processes import connect, examine
    from jaxseg.utils.lookup import lookup
    from jaxseg.weights.pretrained import TABLE

    for mode, flags in calls.TAKEN.items():
        setattr(modes, mode, calls.takes(*flags)(_mode(mode)))
    connect.connect = lambda *_, **__: None  # nobody is there to join
    connect.leave = sys.exit
    doctor.examine = examine.examine = end
    zoo.table = lambda contains: end() if all(any(c in name for name in list_models()) for c in contains) else sys.exit(1)
    costs.table = lambda names, *_: [lookup("network", name, dict.fromkeys(list_models())) for name in names] and end()
    importing.nnunet.import_model = importing.monai.import_model = end
    importing.places.model_folder = lambda folder, configuration: contextlib.nullcontext(folder)
    pretrained._named = lambda chosen: lookup("pretrained network", chosen.pretrained, TABLE) and end()
    pretrained._task = end
    init = dispatch.TOOLS["init"]
    dispatch.TOOLS["init"] = lambda rest: init(rest) or end()
    try:
        main.run(sys.argv) if module == "jaxseg.main" else dispatch.run(sys.argv)
    except SystemExit as error:
        if error.code or "--help" not in words:
            raise


def _mode(name: str):
    def understood(call) -> None:
        from jaxseg import preflight
        from jaxseg.experiments import plan, space

        configs = [call.config]
        if name == "search":
            space.space_of(call.config)
        elif name == "compare":
            configs = [run.config for run in plan.distinct(plan.runs(call.config, Path("runs/x")))]
        elif name == "plan" and not (call.output and call.config.data.root):
            sys.exit("a plan needs data and a file to write")
        for config in configs:
            preflight.check(config)
        end()

    understood.__name__ = name
    return understood
