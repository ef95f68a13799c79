"""jaxseg is imported where Python lacks what only Linux has; here those things are taken away, no other system was tried."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = tuple("fcntl grp posix_ipc pwd resource spwd syslog termios tty pty crypt readline".split())
ATTRIBUTES = {  # what Windows lacks, which holds what macOS lacks
    "os": """O_CLOEXEC O_DIRECT O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC WNOHANG chown chroot fchdir fork forkpty getegid geteuid
        getgid getloadavg getpgid getuid getxattr killpg mkfifo nice pipe2 posix_fadvise posix_fallocate pread preadv pwrite
        register_at_fork sched_getaffinity sched_setaffinity sched_yield sendfile setpriority setsid statvfs sysconf uname
        waitid""".split(),
    "signal": """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pause pthread_kill
        pthread_sigmask setitimer sigpending sigtimedwait sigwait""".split(),
    "mmap": "MAP_PRIVATE MAP_SHARED PROT_READ PROT_WRITE MADV_DONTNEED MADV_WILLNEED MAP_ANONYMOUS".split(),
    "socket": ["AF_UNIX"],
    "time": ["tzset"],
}
PROGRAM = f"""
import importlib, os, pkgutil, sys
for name in ("jax", "flax.nnx", "optax", "orbax.checkpoint", "grain.python", "scipy.ndimage", "nibabel", "PIL.Image",
             "tensorboardX", "absl.flags", "ml_collections.config_flags", "tensorstore", "yaml", "rich.progress", "jax.export",
             "jax.experimental.pallas.triton", "scipy.spatial", "scipy.stats", "xml.dom.minidom", "tempfile", "subprocess"):
    importlib.import_module(name)  # of others: they look for themselves where they run
import jaxseg  # its names are looked up later
jaxseg_before = [name for name in sys.modules if name.startswith("jaxseg.")]
for name in {MODULES}:
    sys.modules[name] = None  # an ImportError
for module, names in {ATTRIBUTES}.items():
    for name in names:
        vars(sys.modules.get(module) or importlib.import_module(module)).pop(name, None)
for name in jaxseg_before + ["jaxseg"]:
    del sys.modules[name]
failed, count = [], 0
import jaxseg
for module in pkgutil.walk_packages(jaxseg.__path__, "jaxseg.", onerror=failed.append):
    if module.name.startswith("jaxseg.bench.ports"):  # networks for a comparison with PyTorch and MONAI, which they import
        continue
    try:
        importlib.import_module(module.name)
        count += 1
    except ImportError as error:  # torch, MONAI, onnx, ... of extras that are not installed
        failed += [module.name] if not error.name or error.name in {MODULES} or error.name.startswith("jaxseg") else []
    except Exception as error:
        failed.append(f"{{module.name}}: {{error!r}}")
print(count, *failed, sep="\\n")
"""


def test_every_module_is_imported_without_what_other_systems_lack():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    count, *failed = done.stdout.split("\n")[:-1] or ["0"]
    assert done.returncode == 0 and int(count) > 200 and not failed, (count, failed, done.stderr[-1500:])
