"""Kernels that begin as copies of a process in which torch and diffusers are imported: six seconds less for each.

Real Jupyter kernels otherwise, with their own process, connection and environment. Only on Linux: elsewhere a process
that has imported torch should not be copied."""
import multiprocessing
import os
import sys
import uuid
from multiprocessing import forkserver
from unittest.mock import patch

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

PRELOADED = ["ipykernel.kernelapp", "matplotlib.pyplot", "mediapy", "fastcore.test", "shotstream.notebook.viz",
             "shotstream.generate.pipeline", "shotstream.train.stages"]
INLINE = "module://matplotlib_inline.backend_inline"       # read when matplotlib is imported


def template():
    "The process that is copied; started once for all kernels of this one"
    copies = multiprocessing.get_context("forkserver")
    copies.set_forkserver_preload(PRELOADED)
    with patch.dict(os.environ, MPLBACKEND=INLINE, IN_TEST="1", OMP_NUM_THREADS="1"): forkserver.ensure_running()
    return copies


def serve(connection, folder, environment):
    "In the copy: be a kernel"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, "")
    from ipykernel.kernelapp import IPKernelApp
    IPKernelApp.launch_instance(argv=["-f", connection, f"--IPKernelApp.parent_handle={os.getppid()}"])


class AsPopen:
    "What a provisioner asks of a process"
    stdin = stdout = stderr = None

    def __init__(self, process): self.process, self.pid = process, process.pid
    def poll(self): return self.process.exitcode
    def wait(self): return self.process.join()
    def send_signal(self, number): self.process.exitcode is None and os.kill(self.pid, number)
    def kill(self): self.process.kill()
    def terminate(self): self.process.terminate()


class CopiedKernel(LocalProvisioner):
    async def launch_kernel(self, cmd, **kwargs):
        where = cmd[cmd.index("-f") + 1]
        process = template().Process(target=serve, args=(where, str(kwargs["cwd"]), dict(kwargs["env"])), daemon=True)
        process.start()
        self.process, self.pid, self.pgid = AsPopen(process), process.pid, None
        return self.connection_info


class CopyingManager(AsyncKernelManager):
    async def _async_pre_start_kernel(self, **kwargs):
        self.kernel_id = self.kernel_id or str(uuid.uuid4())
        self.provisioner = CopiedKernel(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kwargs)


KERNELS = CopyingManager if sys.platform == "linux" else AsyncKernelManager
